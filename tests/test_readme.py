"""README.md and docs/: commands are accepted, and those that can run here run as they stand.

They run in the pages' order, in one folder that has every file that a page names: each finds what
those before it left there. They take seconds because the recipes are small ones (SMALL).
"""

import itertools
import json
import re
import shlex
import sys
import tarfile
from pathlib import Path

import jax
import pretrained
import pytest
from commands import command_line, python
from ml_collections import config_flags
from readme import PAGES, ROOT, blocks, shown
from reviews import write_csv

from benchmarks.product_reviews import make_rows
from sentiment_jax import main
from sentiment_jax.config import recipes
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import validate
from sentiment_jax.modes import compare, sweep
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import read_json
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve

RESULTS = ROOT / "results"
OURS = r"(?:\S*python -m sentiment_jax\.main|sentiment-jax|sbatch .*?\w+\.sbatch) (-[^>|\n]*)"


def commands(block):
    """Return the commands of a block, without comments; scripts are left out."""
    if block.language != "bash" or block.text.startswith("#!"):
        return []
    text = re.sub(r"(?m)(^| )# .*", "", re.sub(r"\\\n *", "", block.text))
    return [command for line in re.split(r"\n|&&", text) if (command := line.strip())]


def all_commands(page):
    """Return the commands of a page's blocks and sentences."""
    inline = re.findall(r"`((?:sbatch|srun|python -m) [^`]*)`", page.read_text())
    return [*(line for block in blocks(page) for line in commands(block)), *inline]


COMMANDS = {page: all_commands(page) for page in (*PAGES, *sorted(RESULTS.glob("*/*/README.md")))}
COMMANDS["--help"] = [line for line in main.HELP.splitlines() if line.startswith("    python")]


# Every command is accepted


def test_commands_are_found_and_most_run():
    ours = [command for page in PAGES for command in COMMANDS[page] if re.search(OURS, command)]
    assert len(ours) > 50
    assert sum(not re.search("|".join(NOT_RUN), command) for command in ours) > 44


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
    for given in re.findall(OURS, "\n".join(COMMANDS[page])):
        with command_line(shlex.split(given.replace("--help", ""))):
            main.parse(list(sys.argv))
            main.check_flags(main.MODE.value)
            if main.MODE.value == "compare":
                changes = config_flags.get_override_values(main.flags.FLAGS["config"])
                for name in (*compare.RECIPES, compare.PRETRAIN, compare.AVERAGE):
                    compare._recipe(name, changes, Path())
            elif main.CONFIG.value is not None:
                validate(main.CONFIG.value, pretraining=main.MODE.value == "pretrain")
            if main.MODE.value == "sweep":
                main.dispatch()


def test_the_flags_of_a_benchmark_exist():
    every = "\n".join(itertools.chain(*COMMANDS.values()))
    for name, given in re.findall(r"-m benchmarks\.([\w.]+) (.*)", every):
        source = (ROOT / "benchmarks" / f"{name.replace('.', '/')}.py").read_text()
        for flag in re.findall(r"--(\w+)", given):
            assert re.search(rf'"(--)?{flag}"', source), (name, flag)


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


# What can run here runs. A recipe has at most this of each setting:
SMALL = {
    "epochs": 2,
    "min_steps": 0,
    "batch_size": 16,
    "data.folds": 2,
    "data.max_length": 24,
    "data.length_buckets": (),
    "model.embedding_size": 8,
    "model.hidden_size": 6,
    "model.dense_size": 5,
    "model.segment_length": 8,
}
ARCHIVE = {"data.source": "folder", "data.path": "aclImdb_v1.tar.gz"}  # in place of a download
# Flags that follow a command that has these words, because its own sizes take minutes:
ADDED = {
    "product_reviews": "--rows=60",
    "--config.min_steps": "--config.min_steps=0",
    "--mode=sweep": "--config.epochs=1",
    "benchmarks.speed.pytorch": "--source=sample --only=start --rounds=1",
}
# What does not run here, and why, or where it does.
NOT_RUN = {
    r"^git clone|^cd |-m venv|\bpip |pytest|^source ": ".ci/run does, word for word",
    r"few-student": "its teacher, at toy size, is refused; tests/training/test_distillation.py",
    r"--coordinator=\d": "tests/runtime/test_processes.py trains in two processes",
    r"^srun ": "tests/cluster trains on a SLURM with --coordinator=auto",
    r"uvicorn|^curl ": "tests/test_serve.py",
    r"^npm |http\.server": "tests/test_classify.py",
    r"benchmarks\.speed\.accelerator": "needs a GPU; its jobs run in tests/test_accelerator.py",
}


@pytest.fixture
def shrink(monkeypatch):
    """Make every recipe small, for commands and for Python; `lstm:sample` gets these settings."""
    call_recipe = recipes.call_recipe

    def shrink(sample):
        def call(recipe, function):
            found = call_recipe(recipe, function)
            if function == "get_sweep":
                return found
            values = flatten(found)
            changes = {name: value for name, value in SMALL.items() if values.get(name)}
            changes |= ARCHIVE if found.data.source == "tfds" else {}
            return override(found, sample if recipe == "lstm:sample" else changes)

        monkeypatch.setattr(recipes, "call_recipe", call)

    return shrink


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run, with the files that a reader has, under the names of the pages."""
    jax.devices()  # later tests need one device, whatever the recipes' cpu_devices
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(ROOT / "configs")
    rows = make_rows(60)  # those of reviews.csv
    texts = [text for text, *_ in rows]
    unlabeled = [(text, "unsup") for text, *_ in make_rows(60, seed=1)]
    for i, (text, label, *_) in enumerate([*rows, *unlabeled]):
        split = "test" if i % 5 == 0 and label != "unsup" else "train"
        path = folder / "aclImdb" / split / label / f"{i}_0.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with tarfile.open(folder / "aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(folder / "aclImdb", "aclImdb")
    (folder / "DATA_DIR").symlink_to("aclImdb")
    sizes = {"num_hidden_layers": 1, "max_position_embeddings": 128}
    pretrained.write_folder(folder / "FOLDER", "bert", texts, **sizes)
    for name in ("google/bert_uncased_L-12_H-768_A-12", "sentence-transformers/all-MiniLM-L6-v2"):
        (folder / name).parent.mkdir()
        (folder / name).symlink_to(folder / "FOLDER")
    write_csv(folder / "reviews.csv", rows, header=("text", "label", "domain"))
    for name, written in {"own.csv": rows, "labeled.csv": rows[:9]}.items():
        write_csv(folder / name, written, header=("review", "rating", "domain"))
    (folder / "texts.txt").write_text("\n".join(texts))
    (folder / "new.csv").write_text("review,page\nThe lid leaks.,7\nThe lid is superb.,8\n")
    return folder


@pytest.fixture
def execute(folder, shrink, monkeypatch, capsys):
    """Run a block of a page in the folder, and return what it prints."""
    shrink({"epochs": 5, "data.length_buckets": ()})  # one shape to compile

    def call(command):
        command, _, target = command.partition(" > ")
        words = " ".join([command, *(flags for word, flags in ADDED.items() if word in command)])
        _, _, module, *given = shlex.split(words)
        if module != main.__name__:  # its flags may have names of main's
            return python("-m", module, *given, cwd=folder, PYTHONPATH=ROOT).stdout
        capsys.readouterr()
        with command_line(given):
            code = main.main()
        output = "".join(capsys.readouterr())
        assert code == 0, output
        if target:
            (folder / target).write_text(output)
        return output

    def execute(block):
        monkeypatch.chdir(folder)
        if block.language == "python":
            exec(block.text, {})
            return "".join(capsys.readouterr())
        left_out = re.compile("|".join(NOT_RUN)).search
        return "".join(map(call, itertools.filterfalse(left_out, commands(block))))

    return execute


def forms(text):
    """Return an output's lines without what differs between machines: figures, classes, names."""
    text = re.sub(r"(?m)^( *(away )?to \w+:).*", r"\1", text)  # the strongest words
    text = re.sub(r"[-+]?\d[\d,.:]*(e-\d+)?", "N", re.sub(r"-\w{8}\b", "-HASH", text))
    text = re.sub(r"\b(positive|negative)\b", "CLASS", text.replace("  best\n", "\n"))
    return {re.sub("N( N)+", "N", " ".join(line.split())) for line in text.splitlines()}


OTHERS = ("cluster", "adding_a_model")  # which have tests of their own
# What other tests train as well, and no block of another page goes on with.
LATER = ("speed", "unlabeled_text", "few_labels")


def tier(page, block):
    later = page.stem in LATER or re.search(r"runs/(fast|rates|own\b)", block.text)
    return pytest.mark.slow if later else ()


RUN = [
    pytest.param(page, block, marks=tier(page, block), id=page.stem)
    for page in PAGES
    for block in blocks(page)
    if block.language in ("bash", "python") and page.stem not in OTHERS
]


@pytest.mark.parametrize(("page", "block"), RUN)
def test_its_commands_run(page, block, execute):
    output = forms(execute(block))
    if block in (expected := dict(shown(page))):
        assert forms(expected[block].text) - {"..."} <= output


def test_the_sample_was_learned_and_the_table_held_out(folder):
    """The runs of the README's first commands."""
    result = read_json(folder / "runs/sample/result.json")
    assert result["test"]["accuracy"] > 0.58  # 400 reviews, chance is 0.5 +- 0.025
    chosen = read_json(folder / "runs/mine/comparison.json")["chosen"]
    assert read_json(folder / "runs/mine" / chosen / "result.json")["test"]["examples"] == 12


NOTEBOOK = json.loads((ROOT / "docs" / "guide" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    assert len(NOTEBOOK) == 10
    assert all(cell["outputs"] for cell in NOTEBOOK if cell["cell_type"] == "code")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in NOTEBOOK:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "dull" in names["words"]["word"].tolist()
    assert names["own"].predict(names["new"]).predicted.isin(["neg", "pos"]).all()
    assert names["scores"].test.accuracy > 0.85
