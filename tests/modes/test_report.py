"""Reports say what the run directories say, and a browser shows them."""

import json
import os
import re
import shutil
import statistics
import subprocess
from html import escape, unescape
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas
import pytest
import runs
import written_runs
from commands import BROWSER, HEADLESS
from reviews import read_table, refuses, write_csv

from benchmarks.study import sweeps
from sentiment_jax.analysis.integrated_gradients import Explanation, Word
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.analysis.records import collect
from sentiment_jax.data import dataset
from sentiment_jax.errors import InputError
from sentiment_jax.modes import report
from sentiment_jax.modes.explain import to_page
from sentiment_jax.modes.export import model_card
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import file_sha256
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial

GOLDEN = Path(__file__).parents[1] / "fixtures" / "report"


@pytest.fixture(scope="module")
def reported(swept, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    with runs.saving_figures(runs.PAINT):
        report.report([swept.directory], output)
    return output


@pytest.fixture
def write_page(tmp_path):
    """Report runs to tmp_path / "page", and return its report.html."""

    def write(*directories, **options):
        report.report(directories, tmp_path / "page", **options)
        return (tmp_path / "page" / "report.html").read_text()

    return write


def test_the_golden_page(write_page, tmp_path, capsys):
    """Everything that a report and a model card say of the runs of written_runs.

    GOLDEN=new pytest tests/modes/test_report.py -k golden  writes the files anew.
    """
    written_runs.write_all(tmp_path / "runs")
    page = write_page(tmp_path / "runs")
    assert not re.search(r"<script|<link|https?://|@import|url\(", page)
    made = {
        "report.html": re.sub('(?s)<style>.*</style>|(?<=base64,)[^"]*', "", page),
        "model_card.md": model_card(tmp_path / "runs" / "films"),
        "printed.txt": "".join(capsys.readouterr()).replace(str(tmp_path), ""),
    }
    for name, text in made.items():
        if os.environ.get("GOLDEN") == "new":
            (GOLDEN / name).write_text(text)
        assert text == (GOLDEN / name).read_text()
    rows = {row["name"]: row for row in read_table(tmp_path / "page" / "sample-models.csv")}
    accuracies = [1 - wrong / written_runs.TESTED for wrong in (9, 8)]
    assert float(rows["grid"]["test accuracy"]) == pytest.approx(statistics.mean(accuracies))
    assert float(rows["grid"]["± sd"]) == pytest.approx(statistics.stdev(accuracies))
    similar, better = {*range(2, 10)}, {40}  # the mistakes of these runs
    pairs = read_table(tmp_path / "page" / "sample-mcnemar.csv")
    (pair,) = (p for p in pairs if p["first"] == "better" and "similar" in p["second"])
    assert int(pair["only the first correct"]) == len(similar - better)
    assert int(pair["only the second correct"]) == len(better - similar)
    assert float(pair["p"]) == pytest.approx(2 * (1 + 9) / 2**9)  # binomial, two-sided


def test_every_figure_of_a_page_is_drawn_and_inside_it(reported):
    names = {path.name for path in reported.glob("*.png")}
    assert len(names) == 8
    for name in names:
        pixels = matplotlib.image.imread(reported / name)
        assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels[..., 0])) > 20
    html = (reported / "report.html").read_text()
    assert re.findall('src="(.{22})', html) == ["data:image/png;base64,"] * 8


def test_texts_are_shown_on_request_and_not_run(swept, reported, write_page, tmp_path, monkeypatch):
    """No tag in the page, no formula in a table, no character that turns a line around."""
    odd = '=1+1 <script>alert("x")</script> | `a` \u202e\x1b[2J'
    find = report.find_texts
    monkeypatch.setattr(
        report, "find_texts", lambda *of: {i: f"{odd} {text}" for i, text in find(*of).items()}
    )
    page = write_page(swept.directory, with_text=True)
    shown = [row["text"] for row in read_table(tmp_path / "page" / "small-mistakes.csv")]
    start = r"""'=1+1 <script>alert("x")</script> | `a` \u202e\u001b[2J """
    reviews = {row["text"] for row in read_table(dataset.SAMPLE)}
    assert shown and {text.removeprefix(start) for text in shown} <= reviews
    assert "=1+1 &lt;script&gt;alert" in page and "<script" not in page
    assert "\u202e" not in page and "\x1b" not in page
    unasked = "".join(p.read_text() for p in reported.iterdir() if p.suffix != ".png")
    assert not any(review[:40] in unasked for review in reviews)


def test_texts_that_are_escaped_twice_are_shown(write_page, tmp_path, capsys):
    reviews = [(f"{row['text']} &amp;amp;", row["label"]) for row in read_table(dataset.SAMPLE)]
    source = {"data.source": "csv", "data.path": str(write_csv(tmp_path / "own.csv", reviews))}
    train(runs.make_small(**runs.ONE_SHAPE, **source, epochs=1), tmp_path / "run")
    capsys.readouterr()
    write_page(tmp_path / "run")
    rows = read_table(tmp_path / "page" / "run-mistakes.csv")
    assert rows and all(row["text"].endswith(" &amp;") for row in rows)
    assert "no texts are shown" not in capsys.readouterr().err


def test_texts_of_a_table_are_shown_if_it_is_there(run_copy, write_page, tmp_path, capsys):
    table = shutil.copy(dataset.SAMPLE, tmp_path / "own.csv")
    runs.change_json(run_copy / "config.json", "data", source="csv", path=str(table))
    write_page(run_copy)
    rows = read_table(tmp_path / "page" / "run-mistakes.csv")
    reviews = read_table(dataset.SAMPLE)
    for row in rows:
        assert row["text"] == reviews[int(row["id"].removeprefix("row ")) - 2]["text"]
    assert rows and capsys.readouterr().err == ""
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *sorted(lines)]))
    write_page(run_copy)
    assert "text" not in read_table(tmp_path / "page" / "run-mistakes.csv")[0]
    assert "no texts are shown: the rows of the data moved since" in capsys.readouterr().err
    with pytest.raises(InputError, match="^the rows of the data moved since"):
        write_page(run_copy, with_text=True)
    table.unlink()
    write_page(run_copy)
    assert "text" not in read_table(tmp_path / "page" / "run-mistakes.csv")[0]
    shown = capsys.readouterr().err
    assert shown.startswith("warning: no texts are shown: cannot read the table")


def test_texts_of_changed_data_are_not_shown(run_copy, write_page):
    runs.change_json(run_copy / "result.json", data_hash="f" * 64)
    with pytest.raises(InputError, match="^the data changed since .*run was made"):
        write_page(run_copy, with_text=True)


def test_runs_whose_classes_are_spelled_otherwise_are_of_the_same_data(finished, run_copy):
    """After neg and pos were 0 and 1 in the table: each run's predictions have its own."""
    path = run_copy / "predictions.csv"
    table = pandas.read_csv(path, dtype=str).replace({"0": "lousy", "1": "nice"})
    table.to_csv(path, index=False)
    runs.change_json(run_copy / "env.json", predictions_sha256=file_sha256(path))
    runs.change_json(run_copy / "config.json", "data", labels="lousy,nice")
    runs.change_json(run_copy / "config.json", seed=5)
    trials = [
        Trial("run", path, RunDirectory(path).read_config()).refresh()
        for path in (finished, run_copy)
    ]
    found = read_predictions(trials)
    assert np.array_equal(found.predicted[0], found.predicted[1])


def test_predictions_in_other_orders_are_refused(finished, run_copy, write_page, tmp_path, capsys):
    """The same rows in another order are the same data: row 5 is another text."""
    runs.change_json(run_copy / "env.json", predictions_order="x")
    refuses("scored the test set in different orders", write_page, finished, run_copy)
    runs.change_json(run_copy / "config.json", epochs=9)  # another model
    write_page(finished, run_copy)
    assert "have the test set in other orders: not compared" in capsys.readouterr().err
    assert not (tmp_path / "page" / "mcnemar.csv").exists()


def test_the_studys_numbers_stand_beside_ours(swept, reported):
    tables = sweeps.tables(collect([swept.directory]))
    rows = tables["study-optimizer"].set_index("optimizer")
    assert rows["LSTM, theirs: accuracy"].dropna().to_dict() == {"adam": 0.9511, "adamw": 0.9297}
    for row in read_table(reported / "small-optimizer.csv"):
        assert rows["small: accuracy"][row["optimizer"]] == float(row["validation accuracy"])
    assert tables["study-test"]["model"].tolist() == ["small", "LSTM, theirs"]
    assert tables["study-test"]["test accuracy"].iloc[-1] == 0.9463


# In a browser


CHECK = (Path(__file__).parents[1] / "check_pages.js").read_text()
BAD = """<!DOCTYPE html><body style="background: #fff"><p style="color: #999">pale</p>
<div style="width: 1500px">wide</div><div style="overflow-x: auto"><table><tr><td
style="min-width: 1500px">column</table></div><table><tr><td style="overflow-wrap: anywhere;
display: block; width: 2em">positive</table><h2 style="overflow: hidden; white-space: nowrap;
width: 3em">title that is cut</h2><p style="border: 1px solid; width: 3em">framesandmore</p>
<img src="data:image/png;base64,"><script>wrong()</script>"""


def make_explanation_page():
    words = [Word(0, 4, -2.0, True), Word(5, 10, 0.1, False), Word(10, 11, 2.0, True)]
    explanation = Explanation("Dull Zyxxy! " + "x" * 300, tuple(words), 1.0, 0.0, 0.0)
    block = {"headline": "a", "share": 3.5, "label": "positive", "lines": ["b"], "odds": "c"}
    block |= {"explanation": explanation, "start": "Dull Zyxxy!"}
    return to_page([block] * 3, legend="legend", ends=("to negative", "to positive"))


@pytest.mark.slow  # 10 s
@pytest.mark.skipif(not BROWSER, reason="needs a browser, as chromium")
def test_a_browser_shows_the_pages(swept, reported, finished, write_page, tmp_path):
    """A phone's width, dark, and a desk's, light, in one browser; a page with faults has them."""
    name = "own-amazonReviewSnippets_GroundTruth, learning rate"
    long = [shutil.copytree(finished, tmp_path / f"{name} {i}e-3") for i in range(3)]
    for number, path in enumerate(long[1:]):
        runs.change_json(path / "config.json", epochs=9 + number)
    write_page(*long, swept.directory, with_text=True)
    pages = {
        "long": (tmp_path / "page" / "report.html").read_text(),
        "report": (reported / "report.html").read_text(),
        "explanation": make_explanation_page(),
        "bad": BAD,
    }
    frames = "\n".join(
        f'<iframe title="{name} {width} {scheme}" width="{width}" height="800" srcdoc="'
        f'{escape(page)}" style="color-scheme: {scheme}; border: 0; vertical-align: top"></iframe>'
        for name, page in pages.items()
        for width, scheme in ((390, "dark"), (1280, "light"))
    )
    findings = f'<pre id="findings"></pre><script>{CHECK}</script>'
    harness = tmp_path / "harness.html"
    harness.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}{findings}</body>")
    picture = Path(os.environ.get("SCREENSHOTS", tmp_path)) / "pages.png"  # CI keeps them
    flags = "--hide-scrollbars --window-size=1700,9000 --enable-logging=stderr --dump-dom"
    places = [f"--user-data-dir={tmp_path}/user", f"--screenshot={picture}", harness.as_uri()]
    command = [BROWSER, *HEADLESS, *flags.split(), *places]
    done = subprocess.run(command, capture_output=True, timeout=100, check=True, text=True)
    (found,) = re.findall('<pre id="findings">(.*?)</pre>', done.stdout)
    faults = [fault.partition(": ") for fault in json.loads(unescape(found))]
    assert [(where, fault) for where, _, fault in faults if not where.startswith("bad")] == []
    bad = {fault for where, _, fault in faults if where == "bad 390 dark"}
    seen = {"hidden column", "cut title that is cut", "over a frame framesandmore"}
    assert bad == {
        "scrolls sideways",
        "broken image",
        "contrast 2.8 of pale",
        "broken word positive",
        *seen,
    }
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert errors and all("wrong is not defined" in line for line in errors)
    pixels = matplotlib.image.imread(picture)
    assert 0.01 < (pixels[..., :3].min(axis=-1) < 0.5).mean() < 0.9, "blank, or black"
