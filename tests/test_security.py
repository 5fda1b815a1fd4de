"""What must never be called, and what must be bounded; refused archives: test_imdb.py,
pickled weights: test_hub.py."""

import ast
import re

from commands import ROOT

FOLDERS = ("sentiment_jax", "configs", "benchmarks")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"),
    *("yaml.unsafe_load", "torch.load", "np.fromfile", "subprocess.getoutput"),
}
METHODS = {"extract", "extractall", "unpack_archive", "read_pickle", "to_pickle"}


def forbidden(source):
    """Yield every forbidden import or call of some source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = getattr(node, "module", None)
            names = [alias.name for alias in node.names]
            modules = [origin, *(f"{origin}.{name}" for name in names)] if origin else names
            if any(m.partition(".")[0] in MODULES or m in CALLS for m in modules):
                yield ast.unparse(node)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            loads = name in ("np.load", "numpy.load", "jnp.load")
            pickled = loads and options.get("allow_pickle") != "False"
            risky = {options.get(option, "False") for option in ("shell", "trust_remote_code")}
            if name in CALLS or name.rpartition(".")[2] in METHODS or pickled or risky != {"False"}:
                yield ast.unparse(node)


def test_nothing_forbidden_is_called():
    names = {path.name for path in SOURCES}
    assert names >= {"main.py", "dataset.py", "hub.py", "encoder.py", "lstm.py", "kill_soak.py"}
    found = {path: list(forbidden(path.read_text())) for path in SOURCES}
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_the_search_finds_what_it_should():
    bad = [
        *("import pickle", "from joblib import load", "import dill as d", "eval('1')", "exec(x)"),
        *("os.system('ls')", "from os import system", "torch.load(path)", "yaml.load(text)"),
        *("np.load(path)", "np.load(path, allow_pickle=True)", "numpy.load(p, allow_pickle=a)"),
        *("archive.extractall()", "tar.extract(m)", "run(c, shell=True)", "run(c, shell=s)"),
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ]
    good = ["np.load(path, allow_pickle=False)", "model.eval_step()", "run(c, shell=False)"]
    good += ["re.compile(x)", "text = 'eval(1)'", "jax.eval_shape(f)"]
    assert [text for text in bad + good if list(forbidden(text))] == bad


def test_every_requirement_has_both_bounds_or_is_pinned_by_its_hash():
    paths = sorted(ROOT.glob("requirements*.txt"))
    assert len(paths) == 7
    bounds = re.findall(r"(?m)^jax(?:\[cuda\d+\])?>(.*)", "\n".join(p.read_text() for p in paths))
    assert len(bounds) == 3 and len({*bounds}) == 1
    for path in paths:
        lines = re.findall(r"^[^#\s][^#\n]*[^#\s]", path.read_text(), re.M)
        assert lines
        for line in lines:
            if line.startswith("-r "):
                assert (ROOT / line.removeprefix("-r ")).is_file()
            else:
                bounded = r"[\w-]+(\[[\w-]+\])?>=[\d.]+,(!=[\d.]+,)*<[\d.]+"
                pinned = r"[\w-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}"  # data, not code that runs
                weights = path.name == "requirements-weights.txt"
                assert re.fullmatch(pinned if weights else bounded, line), line
