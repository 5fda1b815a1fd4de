"""What is imported, and what that loads; the installed package runs without the checkout."""

import ast
import itertools
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from commands import ENVIRONMENT, ROOT, python
from readme import blocks
from reviews import write_csv

import sentiment_jax
from benchmarks.product_reviews import make_rows

# Of other libraries, the package imports from the top level, or from these documented modules.
MODULES = """
absl.logging flax.linen flax.struct jax.experimental jax.numpy jax.sharding jax.stages jax.typing
matplotlib.figure matplotlib.patches ml_collections.config_dict numpy.lib.stride_tricks
onnxruntime.quantization orbax.checkpoint safetensors.numpy scipy.sparse scipy.special
sklearn.feature_extraction.text sklearn.linear_model sklearn.metrics sklearn.model_selection
"""
PRIVATE = {"jax._src.cudnn.fused_attention_stablehlo"}  # in a test, which can do without it
MODES = ", ".join(f"sentiment_jax.modes.{m}" for m in ("train", "evaluate", "predict", "sweep"))


def imports(source):
    """Yield each module that is imported from, of other libraries, with the imported name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [(node.module, f"{node.module}.{alias.name}") for alias in node.names]
        else:
            continue
        ours = {"sentiment_jax", "__future__", *sys.stdlib_module_names}
        yield from (pair for pair in found if pair[0].partition(".")[0] not in ours)


def private_names(source):
    """Yield what is imported, or taken from any object but self, under a name with a "_"."""
    yield from (name for _, name in imports(source) if re.search(r"\b_", name))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls", "super()") and ast.unparse(node) != "os._exit":
                yield ast.unparse(node)


def sources(*folders):
    paths = itertools.chain(*((ROOT / folder).rglob("*.py") for folder in folders))
    return [path.read_text(encoding="utf-8") for path in paths]


def test_the_package_uses_public_names_of_documented_modules():
    package = "\n".join(sources("sentiment_jax", "configs"))
    modules = {module for module, _ in imports(package) if "." in module}
    assert modules == {*MODULES.split()}
    assert [*private_names(package)] == []


def test_names_that_may_be_gone_with_the_next_release_are_listed():
    names = {
        name for _, name in imports("\n".join(sources("benchmarks", "sentiment_jax", "tests")))
    }
    assert {name for name in names if re.search(r"\b_", name)} == PRIVATE
    experimental = {name for name in names if ".experimental." in name}
    page = (ROOT / "docs" / "reference" / "versions.md").read_text(encoding="utf-8")
    assert experimental == {*re.findall(r"`([\w.]+\.experimental\.\w+)`", page)}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from jax._src import xla_bridge", "jax._src.xla_bridge"),
        ("import jax._src.core as core", "jax._src.core"),
        ("from optax import _base as base", "optax._base"),
        ("import jax\njax._src.core.Tracer", "jax._src"),
        ("self._manager._close(1)", "self._manager._close"),
    ],
)
def test_a_private_name_is_found(source, name):
    assert [*private_names(source)] == [name]


def test_an_import_loads_no_slow_library_that_it_does_not_need(tmp_path):
    for imported, not_loaded in {
        "sentiment_jax": "absl jax ml_collections numpy pandas sentiment_jax.api",
        "sentiment_jax.main": "jax numpy pandas tokenizers",  # until the flags are read
        MODES: "pandas sklearn scipy.stats jinja2",  # JAX itself loads some of scipy
    }.items():
        code = f"import sys, {imported}; print(*sys.modules)"
        loaded = python("-c", code, cwd=tmp_path, PYTHONPATH=ROOT).stdout.split()
        assert {*imported.split(", ")} <= {*loaded}
        assert not {*not_loaded.split()} & {*loaded}


def test_the_wheel_is_told_of_every_file():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"sentiment_jax.configs": ROOT / "configs"}
    folders |= {
        ".".join(path.parent.relative_to(ROOT).parts): path.parent
        for path in (ROOT / "sentiment_jax").rglob("*.py")
    }
    assert {*settings["packages"]} == {*folders}
    for name, folder in folders.items():
        data = settings["package-data"].get(name, [])
        for path in filter(Path.is_file, folder.iterdir()):
            assert path.suffix == ".py" or any(map(path.match, data)), path


@pytest.mark.parametrize(("script", "array"), [("run", "same"), ("newest", "tests")])
def test_ci_names_tests_that_are_there(script, array):
    """A job that lists failures and fails nothing would not tell that a file was renamed."""
    text = (ROOT / ".ci" / script).read_text()
    defined = re.search(rf"(?ms)^ *{array}=\(.*?\)$", text)[0]
    shell = ["bash", "-c", f'{defined}; printf "%s\\n" "${{{array}[@]}}"']
    named = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(named.split()) > 9
    assert [path for path in named.split() if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_the_package_is_complete_and_runs_from_an_empty_folder(tmp_path):
    """A wheel, built from the sdist as `python -m build` does; what it requires is here already."""
    source = tmp_path / "source"
    dist = tmp_path / "dist"
    environment = tmp_path / "environment"
    empty = tmp_path / "empty"
    ignored = shutil.ignore_patterns("__pycache__", ".*", "results", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    empty.mkdir()
    build = f"import setuptools.build_meta as b; print(b.build_sdist({str(dist)!r}))"
    name = python("-c", build, cwd=source).stdout.split()[-1]
    assert name == f"sentiment_jax-{sentiment_jax.__version__}.tar.gz"
    python("-m", "venv", "--without-pip", environment)
    (site,) = environment.glob("lib/*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    inside = environment / "bin" / "python"
    pip = ("-m", "pip", f"--python={inside}", "--disable-pip-version-check", "install", "-q")
    python(*pip, "--no-deps", "--no-build-isolation", dist / name, cwd=empty)
    for folder in ("sentiment_jax", "configs"):
        installed = site / "sentiment_jax" / folder.removeprefix("sentiment_jax")
        for path in (source / folder).rglob("*"):
            if path.is_file():
                assert (installed / path.relative_to(source / folder)).is_file(), path
    folders = {path.name for path in site.iterdir() if path.is_dir()}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"sentiment_jax"}

    def run(program, *arguments):
        command = [environment / "bin" / program, *arguments]
        return subprocess.run(
            command, cwd=empty, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    assert run("sentiment-jax", "--version") == f"sentiment-jax {sentiment_jax.__version__}\n"
    assert "--config=lstm:sample" in run("sentiment-jax", "--help")
    (lines,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    assert "p_positive" in run("python", "-c", lines)  # trains the sample's LSTM
    predict = ("--mode=predict", "--workdir=runs/sample", "--text=a good film")
    assert "a good film" in run("sentiment-jax", *predict)
    report = ("--mode=report", "--workdir=runs/sample", "--output=page")
    assert "wrote page/report.html" in run("sentiment-jax", *report)
    write_csv(empty / "reviews.csv", make_rows(60), header=("text", "label", "domain"))
    train = ("--config=linear", "--workdir=linear", "--config.data.path=reviews.csv")
    assert "test     accuracy" in run("sentiment-jax", *train)
    compare = ("--mode=compare", "--workdir=compared", "--config.data.path=reviews.csv")
    assert "chosen   linear" in run("sentiment-jax", *compare)  # no weights are installed there
