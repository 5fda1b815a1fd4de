"""Reports say what the run directories say, and a browser shows them."""

import dataclasses
import json
import math
import os
import re
import shutil
import statistics
import subprocess
from html import escape, unescape
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import runs
from reviews import read_table

from benchmarks import study
from sentiment_jax.analysis import predictions
from sentiment_jax.analysis.integrated_gradients import Explanation, Word
from sentiment_jax.analysis.records import collect
from sentiment_jax.data import corpus
from sentiment_jax.errors import InputError
from sentiment_jax.modes import report
from sentiment_jax.modes.explain import to_page
from sentiment_jax.modes.export import model_card
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def reported(swept, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    report.report([swept.directory], output)
    return output


@pytest.fixture
def write_page(unpainted, tmp_path):
    """Report runs to tmp_path / "page", and return its report.md."""

    def write(*directories, **options):
        report.report(directories, tmp_path / "page", **options)
        return (tmp_path / "page" / "report.md").read_text()

    return write


def test_the_models_table(swept, reported):
    results = [read_json(path) for path in (swept.directory / "final").glob("*/result.json")]
    tests = [result["test"]["accuracy"] for result in results]
    (row,) = read_table(reported / "models.csv")
    assert (row["name"], row["seeds"]) == ("small", "2")
    assert float(row["test accuracy"]) == pytest.approx(statistics.mean(tests))
    assert float(row["± sd"]) == pytest.approx(statistics.stdev(tests))
    assert row["hardware"] == read_json(next(swept.directory.glob("*/env.json")))["machine"]
    text = (reported / "report.md").read_text()
    assert f"| {statistics.mean(tests):.4f} |" in text and f"{int(row['parameters']):,}" in text


def test_the_linear_baseline_is_quoted(run_copy, write_page):
    scores = {"accuracy": 0.71234, "loss": 0.5, "examples": 30}
    entry = {"C": 1.0, "seconds": 0.1, "val": scores, "test": scores, "mcnemar_p": 0.25}
    runs.change_json(run_copy / "result.json", linear_baseline=entry)
    own = f"{read_json(run_copy / 'result.json')['test']['accuracy']:.4f}"
    sentence = f"regression) has 0.7123, run's first seed {own} (McNemar's p 0.2500)."
    assert sentence in write_page(run_copy)
    assert "test accuracy 0.7123 (McNemar's p of the difference: 0.25)" in model_card(run_copy)


def test_every_run_is_listed_with_its_fate(swept, reported):
    rows = read_table(reported / "runs.csv")
    assert [row["stage"] for row in rows] == ["grid"] * 4 + ["final"] * 2
    for row in rows:
        folder = swept.directory / ("final" if row["stage"] == "final" else "") / row["run"]
        status, content = RunDirectory(folder).outcome()
        assert row["status"].startswith(f"{status}: diverged at step 1: loss"[: len(row["status"])])
        for split in ("val", "test"):
            assert row[f"{split} accuracy"] == str(content.get(split, {}).get("accuracy", ""))
    assert sum(row["status"].startswith("failed: ") for row in rows) == 2
    failed = "learning rate 1e30 failed: diverged at step 1"
    assert (reported / "report.md").read_text().count(failed) == 1


def test_the_page_holds_everything(reported):
    names = {path.name for path in reported.glob("*.png")}
    axes = ("optimizer", "learning_rate")  # there was one batch size
    of_sweep = {f"small-{n}.png" for n in (*axes, *(f"{a}-runs" for a in axes), "grid", "seeds")}
    assert names == of_sweep | {"confusion.png", "calibration.png"}
    text = (reported / "report.md").read_text()
    for name in names:
        pixels = matplotlib.image.imread(reported / name)
        assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels[..., 0])) > 20
        assert f"]({name})" in text
    html = (reported / "report.html").read_text()
    assert re.findall('src="(.{22})', html) == ["data:image/png;base64,"] * 8
    assert not re.search(r"<script|<link|https?://|@import|url\(", html)
    assert html.count("<pre>") == 1, "the sweep's command"
    contents = re.findall(r'<a href="#(.*?)">(.*?)</a>', html)
    titles = ["small: the choice", "The model", "The test set", "The hardest mistakes", "Every run"]
    assert [title for _, title in contents] == titles
    assert re.findall(r'<h2 id="(.*?)">(.*?)</h2>', html) == contents


def test_the_first_sentences_say_what_was_found(swept, reported):
    """The winner, its standard deviation, and how many settings failed."""
    *_, best = read_table(reported / "runs.csv")
    (row,) = read_table(reported / "metrics.csv")
    (model,) = read_table(reported / "models.csv")
    assert not any("95 %" in name for name in row), "two intervals of one mean"
    won = f"{best['optimizer']}, batch 16, learning rate 3e-3"
    score = (
        f"{float(row['accuracy']):.4f} ± {float(model['± sd']):.4f} (mean and standard deviation"
    )
    tried = [read_json(path)["metrics"]["val"] for path in swept.directory.glob("*/result.json")]
    chance = sum(measured["mcc"] <= 1.645 / math.sqrt(12) for measured in tried)
    page = (reported / "report.md").read_text()
    assert page.startswith("# LSTM on the embedded sample\n\n6 runs; reviews: 48 to train on, ")
    for sentence in (
        " 12 to choose by, 30 to test with; classes: negative, positive.\n\n",
        f"\n- LSTM with {won}: test accuracy {score} of 2 seeds on 30 reviews; guessing: 0.5000).",
        f"\n- Of the 4 settings of small, {won} is the best on validation (",
        f" on 12 reviews); {chance} stayed at chance, 2 failed.\n",
    ):
        assert page.count(sentence) == 1, sentence


def test_texts_are_shown_on_request_and_not_run(swept, reported, write_page, tmp_path, monkeypatch):
    """Row 58: no tag in the page, no formula in a table, no character that turns a line around."""
    odd = '=1+1 <script>alert("x")</script> | `a` \u202e\x1b[2J'
    read = report.read_texts
    monkeypatch.setattr(
        report, "read_texts", lambda trial: {i: f"{odd} {text}" for i, text in read(trial).items()}
    )
    page = write_page(swept.directory, with_text=True)
    shown = [row["text"] for row in read_table(tmp_path / "page" / "small-mistakes.csv")]
    start = r"""'=1+1 <script>alert("x")</script> | `a` \u202e\x1b[2J """
    reviews = {row["text"] for row in read_table(corpus.SAMPLE)}
    assert shown and {text.removeprefix(start) for text in shown} <= reviews
    assert r"&lt;/script&gt; \| \`a\` " in page
    for text in (page, (tmp_path / "page" / "report.html").read_text()):
        assert "=1+1 &lt;script&gt;alert" in text and "<script" not in text
        assert "\u202e" not in text and "\x1b" not in text
    unasked = "".join(p.read_text() for p in reported.iterdir() if p.suffix != ".png")
    assert not any(review[:40] in unasked for review in reviews)


def test_texts_of_changed_data_are_not_shown(run_copy, write_page):
    runs.change_json(run_copy / "result.json", data_hash="f" * 64)
    with pytest.raises(InputError, match="--with_text: the data changed since .*run was made"):
        write_page(run_copy, with_text=True)


def test_the_same_runs_give_the_same_text(swept, reported, write_page, tmp_path):
    """And the same pictures: see those of test_predictions.py."""
    write_page(swept.directory)
    names = [path.name for path in reported.iterdir() if path.suffix in (".csv", ".md")]
    assert len(names) == 8
    for name in names:
        assert (reported / name).read_bytes() == (tmp_path / "page" / name).read_bytes(), name


def test_an_open_sweep_beside_a_run(sweep_copy, finished, write_page, tmp_path, capsys):
    shutil.rmtree(sweep_copy / "final")
    (open_run,) = sweep_copy.glob("lstm-sgd-16-0.003-*")
    shutil.rmtree(open_run)
    text = write_page(sweep_copy, finished)
    assert capsys.readouterr().err == "warning: 1 of 5 runs are not done yet\n"
    assert "5 runs" in text and "1 are not done yet" in text
    assert "side by side" not in text
    rows = read_table(tmp_path / "page" / "runs.csv")
    assert [row["stage"] for row in rows if row["status"] == "open"] == ["grid"]
    assert re.findall("^## (.*)", text, re.M)[:2] == ["The model", "copy: the choice"]
    assert [*(tmp_path / "page").glob("finished*-seeds.png")], "a run has its learning curves"


def test_runs_that_differ_in_the_seed_are_one_row(finished, run_copy, write_page, tmp_path):
    runs.change_json(run_copy / "config.json", seed=5)
    seeds = [tmp_path / "lstm-seed0", run_copy.rename(tmp_path / "lstm-seed1")]
    shutil.copytree(finished, seeds[0])
    write_page(*seeds)
    (row,) = read_table(tmp_path / "page" / "models.csv")
    assert (row["name"], row["seeds"], float(row["± sd"])) == ("lstm", "2", 0)


def test_predictions_of_other_orders_are_not_compared(
    finished, run_copy, write_page, tmp_path, capsys
):
    """The same rows in another order are the same data: row 5 is another review."""
    runs.change_json(run_copy / "env.json", predictions_order="x")
    with pytest.raises(InputError, match="scored the test set in different orders"):
        write_page(finished, run_copy)
    runs.change_json(run_copy / "config.json", epochs=9)  # another model
    write_page(finished, run_copy)
    assert "have the test set in other orders: not compared" in capsys.readouterr().err
    assert not (tmp_path / "page" / "mcnemar.csv").exists()


def change_run(path, validation, epochs=9):
    """Give a run another validation accuracy, and a config of its own."""
    runs.change_json(path / "result.json", "val", accuracy=validation)
    runs.change_json(path / "config.json", epochs=epochs)


@pytest.mark.parametrize(
    ("correct", "place"),
    [
        (30, "Better on the test set, though not by validation: run (1.0000, p "),
        (16, "Not shown to differ from it on the test set: run (0.5333, p = "),
        (0, "Behind it: run (0.0000, p "),
    ],
)
def test_models_are_ranked_by_validation_and_compared_by_the_test_set(
    finished, run_copy, write_page, tmp_path, monkeypatch, correct, place
):
    """The first of 30 reviews are classified correctly by a model that is worse by validation."""
    change_run(run_copy, 0.01)
    read = predictions.read_predictions
    right = np.arange(30) < correct

    def read_other(trials):
        model = read(trials)
        if trials[0].directory != run_copy:
            return model
        classes = np.where(right, model.labels, 1 - model.labels)
        return dataclasses.replace(model, probabilities=np.eye(2, dtype=np.float32)[classes][None])

    monkeypatch.setattr(predictions, "read_predictions", read_other)
    page = write_page(run_copy, finished)
    assert [row["name"] for row in read_table(tmp_path / "page" / "models.csv")][1] == "run"
    own = read_json(finished / "result.json")
    lead = f"the best of 2 models by validation ({own['val']['accuracy']:.4f}): "
    assert lead + f"test accuracy {own['test']['accuracy']:.4f} (95 %" in page
    assert f"- {place}" in page and "## The models side by side" in page
    assert "Ranked by validation accuracy. One seed: " in page and "low (95 %)" in page
    assert "over the seeds" not in page and "per seed" not in page
    wrong = [row["label"] != row["predicted"] for row in read_table(finished / "predictions.csv")]
    (pair,) = read_table(tmp_path / "page" / "mcnemar.csv")
    assert int(pair["only the first correct"]) == sum(~right & ~np.array(wrong))
    assert int(pair["only the second correct"]) == sum(right & wrong)


def test_equal_predictions_are_marked_and_not_compared(finished, run_copy, write_page, tmp_path):
    change_run(run_copy, 0.1)
    page = write_page(finished, run_copy)
    first, second = read_table(tmp_path / "page" / "metrics.csv")
    assert (first["remark"], second["remark"]) == ("", f"same predictions as {first['name']}")
    assert f"- Equal runs: run (same predictions as {first['name']})." in page
    assert "McNemar's exact" not in page and not (tmp_path / "page" / "mcnemar.csv").exists()


def test_each_data_set_has_its_part(finished, run_copy, write_page, tmp_path, capsys):
    films = {"source": "csv", "path": "somewhere/films.csv"}
    runs.change_json(run_copy / "config.json", "data", **films)
    runs.change_json(run_copy / "result.json", data_hash="f" * 64)
    page = write_page(finished, run_copy)
    assert "\nfilms: 1 run; reviews: 48 to train on" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "page").glob("*-models.csv")}
    assert names == {"sample-models.csv", "films-models.csv"}
    assert page.startswith("# LSTM on sample, films\n\n## sample\n\n1 run; ")
    assert page.count(": test accuracy ") == 2 and "McNemar" not in page
    html = (tmp_path / "page" / "report.html").read_text()
    contents = re.findall(r'<a href="#part\d+">(.*?)</a>', html)
    parts = ("the model", "the test set", "the hardest mistakes", "every run")
    assert contents == [f"{data}: {part}" for data in ("sample", "films") for part in parts]


def test_the_studys_numbers_stand_beside_ours(swept, reported):
    """The tables of benchmarks.study."""
    tables = study.tables(collect([swept.directory]))
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
style="min-width: 1500px">column</table></div><h2 style="overflow: hidden; white-space: nowrap;
width: 3em">title that is cut</h2><p style="border: 1px solid; width: 3em">frames-and-more</p>
<img src="data:image/png;base64,"><script>wrong()</script>"""


def make_explanation_page():
    words = [Word(0, 4, -2.0, True), Word(5, 10, 0.1, False), Word(10, 11, 2.0, True)]
    explanation = Explanation("Dull Zyxxy! " + "x" * 300, tuple(words), 1.0, 0.0, 0.0)
    block = {"headline": "a", "share": 3.5, "label": "positive", "lines": ["b"], "odds": "c"}
    block |= {"explanation": explanation, "entry": "1: positive", "start": "Dull Zyxxy!"}
    return to_page([block] * 3, legend="legend", ends=("to negative", "to positive"))


@pytest.mark.skipif(
    not any(map(shutil.which, BROWSERS)), reason="needs a browser, chromium for one"
)
def test_a_browser_shows_the_pages(swept, reported, finished, write_page, tmp_path):
    """A phone's width, dark, and a desk's, light, in one browser; a page with faults has them."""
    name = "own-amazonReviewSnippets_GroundTruth, learning rate"
    long = [shutil.copytree(finished, tmp_path / f"{name} {i}e-3") for i in range(3)]
    for number, path in enumerate(long[1:]):
        change_run(path, 0.5, epochs=9 + number)
    write_page(*long, swept.directory)
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
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1700,9000"
    flags += " --disable-background-networking --enable-logging=stderr --dump-dom"
    places = [f"--user-data-dir={tmp_path}/user", f"--screenshot={picture}", harness.as_uri()]
    command = [browser, *flags.split(), *places]
    done = subprocess.run(command, capture_output=True, timeout=100, check=True, text=True)
    (found,) = re.findall('<pre id="findings">(.*?)</pre>', done.stdout)
    faults = [fault.partition(": ") for fault in json.loads(unescape(found))]
    assert [(where, fault) for where, _, fault in faults if not where.startswith("bad")] == []
    bad = {fault for where, _, fault in faults if where == "bad 390 dark"}
    seen = {"hidden column", "cut title that is cut", "over a frame frames-and-more"}
    assert bad == {"scrolls sideways", "broken image", "contrast 2.8 of pale", *seen}
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert errors and all("wrong is not defined" in line for line in errors)
    pixels = matplotlib.image.imread(picture)
    assert 0.01 < (pixels[..., :3].min(axis=-1) < 0.5).mean() < 0.9, "blank, or black"
