"""README.md, docs/ and results/: figures are traced, links and names lead somewhere."""

import json
import re
import statistics
from pathlib import Path

import pandas as pd
import pytest
from readme import PAGES, ROOT, shown

import sentiment_jax
from benchmarks.speed import cost

RESULTS = ROOT / "results"
TOUR = (RESULTS / "accuracy" / "tour" / "session.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("block", "text"), shown(ROOT / "README.md"))
def test_what_it_shows_was_printed(block, text):
    """results/accuracy/tour/session.txt is what `python tests/readme.py` recorded."""
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
    "2027": "the end of Python 3.11, python.org",
    "525": "CUDA 12's driver, JAX's installation page",
    "580": "CUDA 13's driver, NVIDIA's release notes",
    "99.9": "results/accuracy/tour/session.txt, for the picture's sentence",
    "143": "an exit code",
    "22.7": "million parameters, results/accuracy/minilm-128",
    "84": "MB, the archive's size in the checksums of tensorflow-datasets",
    "100": "an example's data.limit, and percent of a GPU",
    "1000": "the most classes, config/schema.py",
    "120": "seconds of SLURM's warning, in the scripts of docs/guide/cluster.md",
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
        linked = re.findall(r"\(((?:\.\./)*results/(?:[\w-]+/)*README\.md)\)", part)
        linked, before = (linked or before, before) if part.startswith("|") else (linked, linked)
        known = set().union(*(numbers((page.parent / path).read_text()) for path in linked))
        row = part.startswith("|") and linked
        for number in numbers(re.sub("`[^`]*`", " ", part)):
            claim = row or re.search(r"[.]|\d{3}", number)
            places = len(number.partition(".")[2])  # rounding is fine, to one decimal or more
            rounded = {format(float(n), f".{places}f").lstrip("0") for n in known if places}
            assert not claim or number in known | rounded | NOT_MEASURED.keys(), (number, part)


SCORES = dict.fromkeys(("test accuracy", "val accuracy"), ".4f")
NB_SVM = {"test.accuracy": ".4f", "training.cpu_seconds": ".1f"}
SIZES = {"step_seconds": ".3f", "peak_memory_gib": ".2f", "parameters": "d"}


@pytest.mark.parametrize(
    ("file", "rows", "columns"),
    [
        ("study/lstm/runs.csv", "seeds", {"test accuracy": ".4f"}),
        ("study/minilm-stages/runs.csv", "seeds", {"test accuracy": ".4f"}),
        ("study/electra-tiny/runs.csv", "seeds", {"test accuracy": ".3f"}),
        ("accuracy/minilm-128/runs.csv", "first", SCORES | {"training s": ".0f"}),
        ("accuracy/minilm-512/runs.csv", "first", SCORES | {"training s": ".0f"}),
        ("study/leak/runs.csv", "first", SCORES),
        ("speed/full_size/bert.json", None, SIZES),
        ("speed/full_size/electra.json", None, SIZES),
        ("speed/pytorch/speed.json", "compare", {"examples_per_second": ".1f"}),
        ("accuracy/nb_svm/result.json", "trained", NB_SVM),
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
    published = ROOT.glob("benchmarks/study/published.csv")
    three_sweeps = RESULTS.glob("study/sweeps/*.csv")
    for page, heading, tables, count in (
        ("README.md", "## The study's numbers", published, 6),
        ("study/sweeps/README.md", "## Result", three_sweeps, 41),
    ):
        known = {format(float(n), ".4f") for table in tables for n in numbers(table.read_text())}
        text = (RESULTS / page).read_text().partition(heading)[2]
        scores = re.findall(r"(?<!\d)\.\d{4}\b", text)
        assert len(scores) >= count and {f"0{score}" for score in scores} <= known


def test_the_page_of_costs_has_its_table():
    table = cost.table(cost.read_costs(RESULTS))
    assert table.count("\n") > 6 and table in (RESULTS / "speed" / "cost" / "README.md").read_text()


def test_each_folder_of_results_has_four_headings_and_a_row_in_the_index():
    index = (RESULTS / "README.md").read_text()
    for folder in filter(Path.is_dir, RESULTS.glob("*/*")):
        heads = re.findall("(?m)^## (.*)$", (folder / "README.md").read_text())
        assert heads == ["What", "Result", "Command", "Machine"], folder
        assert f"]({folder.relative_to(RESULTS)}/README.md) |" in index


def test_the_newest_version_is_the_package_s():
    version = re.escape(sentiment_jax.__version__)
    assert re.search(f"(?m)^version: {version}$", (ROOT / "CITATION.cff").read_text())
    newest, *_ = re.findall("(?m)^## ([^, \n]*)", (ROOT / "CHANGELOG.md").read_text())
    assert newest == sentiment_jax.__version__


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
    code = "\n".join(path.read_text() for path in (ROOT / "sentiment_jax").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    code = re.sub(r"\{[^{}]*\}", "…", code)
    page = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text()
    messages = re.findall(r"(?m)^\| `([^`]*…[^`]*)` \|", page)
    assert len(messages) >= 8
    for message in messages:
        for part in filter(None, map(str.strip, message.split("…"))):
            assert part in code, part
