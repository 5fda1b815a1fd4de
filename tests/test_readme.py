"""README.md and docs/: commands are accepted, those that can run here run, figures are traced.

The commands run in the pages' order, in one folder: each finds what those before it left there. All
but a few run in this process, made small by SUBSTITUTES.
"""

import itertools
import json
import re
import shlex
import statistics
import sys
import tarfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
import runs
from commands import command_line, python
from readme import PAGES, ROOT, blocks, shown
from reviews import read_table, write_csv

from benchmarks import cost
from benchmarks.product_reviews import make_rows
from sentiment_jax import main
from sentiment_jax.config import recipes
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import validate
from sentiment_jax.modes import sweep
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import read_json
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

RESULTS = ROOT / "results"
OURS = r"(?:\S*python -m sentiment_jax\.main|sentiment-jax|sbatch .*?\w+\.sbatch) (?=-)"


def commands(block):
    """Return the commands of a block, a line each, without comments; scripts are left out."""
    if block.language != "bash" or block.text.startswith("#!"):
        return []
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    return [line for line in (re.sub(r"(^|\s)# .*", "", line).strip() for line in lines) if line]


def all_commands(page):
    """Return the commands of a page's blocks and sentences."""
    inline = re.findall(r"`((?:sbatch|srun|python -m) [^`]*)`", page.read_text())
    return [*(line for block in blocks(page) for line in commands(block)), *inline]


COMMANDS = {page: all_commands(page) for page in (*PAGES, *sorted(RESULTS.glob("*/README.md")))}
COMMANDS["--help"] = [line for line in main.HELP.splitlines() if line.startswith("    python")]


# Every command is accepted


def test_commands_are_found():
    ours = [command for page in PAGES for command in COMMANDS[page] if re.search(OURS, command)]
    assert len(ours) > 40


@pytest.mark.parametrize("page", COMMANDS, ids=str)
def test_its_flags_and_settings_exist(page, monkeypatch):
    """The arguments that a line of the shell passes to main are accepted, a sweep's plan too."""

    def plan(config, workdir, axes, *, overridden, **_):
        given = {axis: flag.value for axis, flag in main.SWEEP.items() if flag.value is not None}
        assert axes == axes | given, "a flag replaces the recipe's values"
        config = resolve(override(config, {"model.pretrained": ""}))  # offline
        plan_sweep(workdir, config, axes, overridden)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "sweep", plan)
    monkeypatch.setattr(startup, "start", lambda *arguments: None)
    for command in filter(re.compile(OURS).search, COMMANDS[page]):
        given = re.split(r"\s[>|]|&&", re.split(OURS, command, maxsplit=1)[1])[0]
        with command_line(monkeypatch, shlex.split(given.replace("--help", ""))):
            main.parse(list(sys.argv))
            main.check_flags(main.MODE.value)
            if main.CONFIG.value is not None:
                validate(main.CONFIG.value, pretraining=main.MODE.value == "pretrain")
            if main.MODE.value == "sweep":
                main.dispatch()


def test_the_flags_of_a_benchmark_exist():
    for command in itertools.chain(*COMMANDS.values()):
        if "-m benchmarks." in command:
            name, *flags = shlex.split(command.partition("-m benchmarks.")[2])
            source = (ROOT / "benchmarks" / f"{name}.py").read_text()
            for flag in flags:
                assert re.search(rf'"(--)?{flag[2:].partition("=")[0]}"', source), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_flags_in_its_sentences_exist(page):
    recipes = [path.stem for path in (ROOT / "configs").glob("[!_]*.py")]
    settings = set().union(*(flatten(read_recipe(name)) for name in recipes))
    others = {"help", "version", "config", "array", "gres", "time", "signal"}
    for span in re.findall(r"`([^`\n]+)`", re.sub("```.*?```", "", page.read_text(), flags=re.S)):
        if span.startswith(("srun", "squeue", "sacct", "scancel", "sbatch", "#SBATCH")):
            continue
        for name in re.findall(r"(?<!\S)--([a-z_.]+)(?![a-z-])", span):
            setting = name.removeprefix("config.").removeprefix("sweep_")
            assert name in main.flags.FLAGS or setting in settings or name in others, name


# What can run here runs


def as_flags(settings):
    return " ".join(f"--config.{name}={value}" for name, value in settings.items())


# A pattern in a command, what the test puts there, and why.
ARCHIVE = "--config.data.source=folder --config.data.path=aclImdb_v1.tar.gz"
BERT = {  # one layer; the run of tests/modes/test_train.py, whose programs it shares
    **dict.fromkeys(("data.max_length", "model.hidden_size", "model.embedding_size"), 16),
    **{"model.intermediate_size": 16, "model.num_hidden_layers": 1},
    **{"data.limit": 40, "data.test_limit": 12, "data.length_buckets": "()"},
    **{"optimizer.layerwise_decay": 0.5, "epochs": 1},
}
LONG = BERT | {  # random weights
    **{"data.source": "sample", "model.pretrained": "", "data.vocabulary_size": 300},
    **{"model.num_attention_heads": 2, "model.max_position_embeddings": 16},
}
SHORT = {"data.max_length": 16, "data.length_buckets": "()", "min_steps": 0}
LSTM = runs.SMALL | {  # the vocabulary size of conftest's `finished`: the same programs
    **{"epochs": 1, "batch_size": 16, "data.limit": 0, "data.test_limit": 0},
    **{"data.vocabulary_size": 198, "data.min_frequency": 1, "model.pooling": "mean_max"},
}
SEMI = LSTM | {"data.source": "sample", "data.limit": 60, "model.segment_length": 8}
SEMI["min_steps"] = 0
AVERAGE = {"data.max_length": 24, "data.length_buckets": (), "data.folds": 2, "epochs": 1}
AVERAGE["model.embedding_size"] = LSTM["model.embedding_size"]
PRETRAIN = {name: LSTM[name] for name in ("epochs", "batch_size", "model.embedding_size")}
PRETRAIN["min_steps"] = 0
UNLABELED = "--config.pretrain.text=new.csv --config.data.text_column=review --config.data.limit=0"
SUBSTITUTES = [
    (r".*&& ", ""),  # the installation
    (r"^\S*python ", ""),  # this process
    (r"product_reviews", "product_reviews --rows=60"),  # 2,000 take half a minute to train on
    (r"--config=bert(:pretrain)? ", "--config=bert:tiny --config.data.source=sample "),  # offline
    (r"--config=bert:long (?=.*bert-reviews)", "--config=bert:tiny --config.data.source=sample "),
    (r"--config=bert:long ", f"--config=bert:long {as_flags(LONG)} "),
    (r"--config=lstm (?!.*(--help|data.path))", rf"--config=lstm {ARCHIVE} "),  # no network
    (r"--config.data.path=DATA_DIR", ARCHIVE),  # 60 reviews instead of 50,000
    (r"(.*few-encoder.*)--config.model.pretrained=FOLDER(.*)", rf"\1\2 {as_flags(SHORT)}"),
    (r"--config.model.pretrained=FOLDER", "--config.model.pretrained=bert-imdb"),  # the export
    (r"--config=bert:tiny .*", rf"\g<0> {as_flags(BERT)}"),  # seconds, not hours
    (r"--config=lstm(:small)? (?!.*--help).*", rf"\g<0> {as_flags(LSTM)}"),
    (r"--config=ngrams .*", r"\g<0> --config.epochs=2"),
    (r"--config=lstm:(pretrain|semi) (?!.*own.csv).*", rf"\g<0> {as_flags(SEMI)}"),
    (r"--config=lstm:(pretrain|semi) (?=.*own.csv).*", rf"\g<0> {as_flags(PRETRAIN)}"),
    (r"--config=average .*", rf"\g<0> {as_flags(AVERAGE)}"),
    (r"--config.data.teacher=.*", rf"\g<0> {UNLABELED}"),
    (
        r"--mode=sweep(.*),1e-3",
        r"--mode=sweep\1 --sweep_seeds=0,1 --config.epochs=1 --config.data.limit=99",
    ),
    (r"(benchmarks.speed) .*", r"\1 --source=sample --only=start --rounds=1 --output=speed"),
]
# What does not run here, and why, or where it does.
NOT_RUN = {
    r"^python3 .*pytest": ".ci/run runs the set-up of the tests, word for word",
    r"^source ": ".ci/run does, with the first set-up and what follows it",
    r"^pip ": "PyTorch, which no test needs; benchmarks.speed starts beside it below",
    r"few-student": "its teacher, at toy size, is refused; tests/training/test_distillation.py",
    r"--coordinator=\d": "tests/runtime/test_processes.py trains in two processes",
    r"^srun ": "tests/cluster trains on a SLURM with --coordinator=auto",
    r"benchmarks\.accelerator": "needs a GPU; tests/test_accelerator.py runs its jobs at toy sizes",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run, with the files that a reader has."""
    jax.devices()  # later tests need one device, whatever the recipes' cpu_devices
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(ROOT / "configs")
    texts = make_rows(60)  # those of reviews.csv
    for i, (text, label, _) in enumerate(texts):
        path = folder / "aclImdb" / ("test" if i % 5 == 0 else "train") / label / f"{i}_0.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with tarfile.open(folder / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(folder / "aclImdb", "aclImdb")
    for name, rows in {"own.csv": texts, "labeled.csv": texts[:9]}.items():
        write_csv(folder / name, rows, header=("review", "rating", "domain"))
    (folder / "texts.txt").write_text("\n".join(text for text, *_ in texts))
    (folder / "new.csv").write_text("review,page\nThe lid leaks.,7\nThe lid is superb.,8\n")
    return folder


@pytest.fixture
def change_sample(monkeypatch):
    """Change settings of `lstm:sample`, for commands and for Python, and of slow recipes there."""
    call_recipe = recipes.call_recipe

    def change(settings):
        def call(recipe, function):
            found = call_recipe(recipe, function)
            small = {"lstm:sample": settings, "lstm:pretrain": PRETRAIN, "average": AVERAGE}
            changes = small.get(recipe, {}) if function == "get_config" else {}
            return override(found, changes) if changes else found

        monkeypatch.setattr(recipes, "call_recipe", call)

    return change


@pytest.fixture
def execute(folder, change_sample, monkeypatch, capsys):
    """Run a block of a page in the folder, and return what it prints."""
    change_sample({"epochs": 5, "data.length_buckets": ()})  # one shape to compile

    def call(command):
        for pattern, text in SUBSTITUTES:
            command = re.sub(pattern, text, command)
        command, _, target = command.partition(" > ")
        _, module, *given = shlex.split(command)
        if module == "benchmarks.speed":  # its flags have names of main's
            return python("-m", module, *given, cwd=folder, PYTHONPATH=ROOT).stdout
        capsys.readouterr()
        with command_line(monkeypatch, given):
            done = main.main() if module == main.__name__ else import_module(module).main()
        output = "".join(capsys.readouterr())
        assert not done, output
        if target:
            (folder / target).write_text(output)
        return output

    def execute(block):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [*sys.path])
        if block.language == "python":
            exec(block.text, {})
            return "".join(capsys.readouterr())
        skipped = "|".join(NOT_RUN)
        return "".join(call(line) for line in commands(block) if not re.search(skipped, line))

    return execute


def forms(text):
    """Return an output's lines without what differs between machines: figures, classes, names."""
    text = re.sub(r"(?m)^( *(away )?to \w+:).*", r"\1", text)  # the strongest words
    text = re.sub(r"[-+]?\d[\d,.:]*(e-\d+)?", "N", re.sub(r"-\w{8}\b", "-HASH", text))
    text = re.sub(r"\b(positive|negative)\b", "CLASS", text.replace("  best\n", "\n"))
    return {re.sub("N( N)+", "N", " ".join(line.split())) for line in text.splitlines()}


# What other tests train as well, and no block of another page goes on with.
LATER = ("speed", "unlabeled_text")
RUN = [
    pytest.param(page, block, marks=[pytest.mark.slow] if page.stem in LATER else [], id=page.stem)
    for page in PAGES
    for block in blocks(page)
    if block.language in ("bash", "python") and page.stem != "cluster"
]


@pytest.mark.parametrize(("page", "block"), RUN)
def test_its_commands_run(page, block, execute):
    output = execute(block)
    for other, text in shown(page):
        if other == block:
            assert forms(text.text) - {"..."} <= forms(output)


def test_the_sample_was_learned_and_the_table_held_out(folder):
    """The runs of the README's first commands."""
    result = read_json(folder / "runs/sample/result.json")
    assert result["test"]["accuracy"] > 0.58  # 96 reviews, chance is 0.5 +- 0.05
    assert read_json(folder / "runs/mine/result.json")["test"]["examples"] == 12
    prediction, *_ = read_table(folder / "predictions.csv")
    assert [*prediction] == ["row", "predicted", "p_positive", "warning"]


NOTEBOOK = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
SMALL = runs.SMALL | runs.ONE_SHAPE | {"checkpoint_every": 100}


@pytest.mark.parametrize("settings", [SMALL, pytest.param({}, marks=pytest.mark.slow)])
def test_the_notebook_runs_from_top_to_bottom(change_sample, tmp_path, monkeypatch, settings):
    """Its cells one after the other, without Jupyter, and no outputs kept in it."""
    assert len(NOTEBOOK) == 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    change_sample(settings)
    names = {}
    for cell in NOTEBOOK:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "quiet" in names["words"]["word"].tolist()
    predicted = names["own"].predict(names["new"]).predicted.tolist()
    assert settings or predicted == [0, 1]


def test_the_model_to_add_ignores_padding():
    """Padding does not change the logits of the class in docs/adding_a_model.md."""
    names = {}
    (block,) = (b for b in blocks(ROOT / "docs/adding_a_model.md") if b.language == "python")
    exec(block.text, names)
    model = names["BagClassifier"](SimpleNamespace(vocab_size=9, embedding_size=4), classes=3)
    params = {
        "embedding": {"embedding": np.arange(36.0).reshape(9, 4)},
        "classifier": {"kernel": np.eye(4, 3), "bias": np.ones(3)},
    }
    ids = np.array([[5, 7, 0, 0], [5, 7, 8, 8]])
    logits = jax.jit(lambda: model.apply({"params": params}, ids, np.array([2, 2])))()
    assert logits.shape == (2, 3) and (logits[0] == logits[1]).all()


# Every figure is traced

TOUR = (RESULTS / "tour" / "session.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("block", "text"), shown(ROOT / "README.md"))
def test_what_it_shows_was_printed(block, text):
    """results/tour/session.txt is what `python tests/readme.py` recorded."""
    prompts = {f"$ {line}".rstrip() for line in block.text.splitlines()}
    assert prompts | {*text.text.splitlines()} - {"..."} <= {*map(str.rstrip, TOUR.splitlines())}


def numbers(text):
    """Return the numbers of a text as they are written, but for commas; none inside of names."""
    text = re.sub(r"\]\([^)]*\)", "]", text)
    number = r"(?<![\w./-])(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d+|(?<=\d))(?:e-\d+)?(?![\w/])"
    return [found.replace(",", "") for found in re.findall(number, text)]


# Figures that are not measurements, and where they come from.
NOT_MEASURED = {
    "3.12": "the first Python that jax 0.12 is for",
    "3.11": "the Python that pyproject.toml asks for",
    "480": "the reviews of sentiment_jax/data/sample.csv",
    "96.2": "results/tour/session.txt, for the picture's sentence",
    "308": "results/tour/session.txt, the training reviews of its model",
    "143": "an exit code",
    "22.7": "million parameters, results/minilm-128",
    "84": "MB, the archive's size in the checksums of tensorflow-datasets",
    "100": "the most classes, config/schema.py",
    "120": "seconds of SLURM's warning, in the scripts of docs/cluster.md",
    "512": "tokens, configs/bert.py:long",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_figure_stands_in_the_results_it_links_to(page):
    """A row of a table, or a paragraph, links the page of results/ that has its figures.

    For a row without a link, the paragraph before the table counts. Small whole numbers are checked
    in rows alone. Figures that are not measurements are in NOT_MEASURED.
    """
    text = re.sub("(?ms)^```.*?^```$", "", page.read_text())
    before = []
    for part in re.split(r"\n\n|\n(?=\||- )", text):
        linked = re.findall(r"\(((?:\.\./)?results/(?:[\w-]+/)?README\.md)\)", part)
        linked, before = (linked or before, before) if part.startswith("|") else (linked, linked)
        known = set().union(*(numbers((page.parent / path).read_text()) for path in linked))
        row = part.startswith("|") and linked
        for number in numbers(re.sub("`[^`]*`", " ", part)):
            claim = row or re.search(r"[.]|\d{3}", number)
            places = len(number.partition(".")[2])  # rounding is fine, to one decimal or more
            rounded = {format(float(n), f".{places}f").lstrip("0") for n in known if places}
            assert not claim or number in known | rounded | NOT_MEASURED.keys(), (number, part)


SCORES = dict.fromkeys(("test accuracy", "val accuracy"), ".4f")
SIZES = {"step_seconds": ".3f", "peak_memory_gib": ".2f", "parameters": "d"}


@pytest.mark.parametrize(
    ("file", "rows", "columns"),
    [
        ("lstm/runs.csv", "seeds", {"test accuracy": ".4f"}),
        ("minilm-stages/runs.csv", "seeds", {"test accuracy": ".4f"}),
        ("electra-tiny/runs.csv", "seeds", {"test accuracy": ".3f"}),
        ("minilm-128/runs.csv", "first", SCORES | {"training s": ".0f"}),
        ("minilm-512/runs.csv", "first", SCORES | {"training s": ".0f"}),
        ("leak/runs.csv", "first", SCORES),
        ("full_size/bert.json", None, SIZES),
        ("full_size/electra.json", None, SIZES),
        ("speed/speed.json", "compare", {"examples_per_second": ".1f"}),
        ("nb_svm/result.json", "trained", {"test.accuracy": ".4f", "training.cpu_seconds": ".1f"}),
    ],
)
def test_a_page_has_the_figures_of_the_file_beside_it(file, rows, columns):
    """Of a table's first row, of a list in JSON, or mean and deviation of its three test scores."""
    path = RESULTS / file
    written = {n.lstrip("0") for n in numbers((path.parent / "README.md").read_text())}
    if path.suffix == ".json":
        table = pd.json_normalize(json.loads(path.read_text()), rows)
    else:
        table = pd.read_csv(path)
    for name, form in columns.items():
        values = table[name][:1] if rows == "first" else table[name].dropna()
        if rows == "seeds":
            assert len(values) == 3
            values = [statistics.mean(values), statistics.stdev(values)]
        for value in values:
            assert format(value, form).lstrip("0") in written, (name, value)


def test_every_score_is_in_a_table():
    for page, heading, tables, count in (
        ("README.md", "## The study's numbers", ROOT.glob("benchmarks/study.csv"), 6),
        ("study/README.md", "## Result", RESULTS.glob("study/*.csv"), 41),  # three sweeps
    ):
        known = {format(float(n), ".4f") for table in tables for n in numbers(table.read_text())}
        text = (RESULTS / page).read_text().partition(heading)[2]
        scores = re.findall(r"(?<!\d)\.\d{4}\b", text)
        assert len(scores) >= count and {f"0{score}" for score in scores} <= known


def test_the_page_of_costs_has_its_table():
    table = cost.table(cost.read_costs(RESULTS))
    assert table.count("\n") > 6 and table in (RESULTS / "cost" / "README.md").read_text()


def test_each_folder_of_results_has_four_headings_and_a_row_in_the_index():
    index = (RESULTS / "README.md").read_text()
    for folder in filter(Path.is_dir, RESULTS.iterdir()):
        heads = re.findall("(?m)^## (.*)$", (folder / "README.md").read_text())
        assert heads == ["What", "Result", "Command", "Machine"], folder
        assert f"]({folder.name}/README.md) |" in index


# Links


@pytest.mark.parametrize("page", [*PAGES, *sorted(RESULTS.rglob("*.md"))], ids=str)
def test_its_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        assert other.exists(), target
        if anchor:
            heads = re.findall(r"(?m)^#+ (.*)$", other.read_text())
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_functions_it_names_are_in_the_files_it_names(page):
    for file, names in re.findall(r"`([\w/]+\.py)`:\s((?:`\w+`(?:, )?)+)", page.read_text()):
        code = (ROOT / "sentiment_jax" / file).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"(?m)(def|class) {name}\b|^{name}\b", code), (file, name)


def test_the_messages_of_the_troubleshooting_page_are_in_the_code():
    """Whatever stands for … in them."""
    code = "\n".join(path.read_text() for path in (ROOT / "sentiment_jax").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    code = re.sub(r"\{[^{}]*\}", "…", code)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"(?m)^\| `([^`]*…[^`]*)` \|", page)
    assert len(messages) >= 8
    for message in messages:
        for part in filter(None, map(str.strip, message.split("…"))):
            assert part in code, part
