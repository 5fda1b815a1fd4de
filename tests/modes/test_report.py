"""Reports say what the run directories say, and a browser shows them."""

import dataclasses
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
import pytest
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
from sentiment_jax.storage.files import read_json, write_json

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def reported(swept, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    report.report([swept.directory], output)
    return output


@pytest.fixture(scope="module")
def several(swept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    shutil.copytree(swept.directory, folder / "sweep")
    (other,) = (swept.directory / "final").glob("*-seed1-*")
    shutil.copytree(other, folder / "run")
    report.report([folder], folder / "report")
    return folder / "report"


# What it says


def test_the_models_table(swept, reported):
    tests = [
        read_json(path)["test"]["accuracy"]
        for path in (swept.directory / "final").glob("*/result.json")
    ]
    (row,) = read_table(reported / "models.csv")
    assert (row["name"], row["seeds"]) == ("small", "2")
    assert float(row["test accuracy"]) == pytest.approx(statistics.mean(tests))
    assert float(row["± sd"]) == pytest.approx(statistics.stdev(tests))
    text = (reported / "report.md").read_text()
    assert f"| {statistics.mean(tests):.4f} |" in text and f"{int(row['parameters']):,}" in text
    assert row["hardware"] == read_json(next(swept.directory.glob("*/env.json")))["machine"]


def test_the_linear_baseline_is_quoted(run_copy, tmp_path):
    result = read_json(run_copy / "result.json")
    scores = {"accuracy": 0.71234, "loss": 0.5, "examples": 30}
    entry = {"C": 1.0, "seconds": 0.1, "val": scores, "test": scores, "mcnemar_p": 0.25}
    write_json(run_copy / "result.json", result | {"linear_baseline": entry})
    report.report([run_copy], tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    own = f"{result['test']['accuracy']:.4f}"
    assert f"regression) has 0.7123, run's first seed {own} (McNemar's p 0.2500)." in page
    assert "test accuracy 0.7123 (McNemar's p of the difference: 0.25)" in model_card(run_copy)


def test_every_run_is_listed_with_its_fate(swept, reported):
    rows = read_table(reported / "runs.csv")
    assert [row["stage"] for row in rows] == ["grid"] * 4 + ["final"] * 2
    for row in rows:
        folder = swept.directory / ("final" if row["stage"] == "final" else "") / row["run"]
        if "failed" in row["status"]:
            assert row["status"].startswith("failed: diverged at step 1: loss")
            assert row["val accuracy"] == ""
            continue
        result = read_json(folder / "result.json")
        assert float(row["val accuracy"]) == result["val"]["accuracy"]
        assert (row["test accuracy"] == "") == (row["stage"] == "grid")
    assert sum("failed" in row["status"] for row in rows) == 2
    failed = "learning rate 1e30 failed: diverged at step 1"
    assert (reported / "report.md").read_text().count(failed) == 1


def test_the_page_holds_everything(reported):
    names = {path.name for path in reported.glob("*.png")}
    assert names == {
        *("small-optimizer.png", "small-learning_rate.png"),  # there was one batch size
        *("small-optimizer-runs.png", "small-learning_rate-runs.png"),
        *("small-grid.png", "small-seeds.png", "confusion.png", "calibration.png"),
    }
    for name in names:
        pixels = matplotlib.image.imread(reported / name)
        assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels[..., 0])) > 20
        assert f"]({name})" in (reported / "report.md").read_text()
    html = (reported / "report.html").read_text()
    pictures = re.findall(r'src="([^"]+)"', html)
    assert len(pictures) == len(names)
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not re.search(r"<script|<link|https?://|@import|url\(", html)
    assert html.count("<pre>") == 1, "the sweep's command"
    contents = re.findall(r'<a href="#(.*?)">(.*?)</a>', html)
    assert [*dict(contents).values()] == [
        *("small: the choice", "The model", "The test set", "The hardest mistakes", "Every run")
    ]
    for name, title in contents:
        assert f'<h2 id="{name}">{title}</h2>' in html


def test_the_first_sentences_say_what_was_found(reported):
    """The winner, its interval, and how many settings failed."""
    *_, best = read_table(reported / "runs.csv")
    (row,) = read_table(reported / "metrics.csv")
    (model,) = read_table(reported / "models.csv")
    accuracy, sd = f"{float(row['accuracy']):.4f}", f"{float(model['± sd']):.4f}"
    assert not any("95 %" in name for name in row), "two intervals of one mean"
    won = f"{best['optimizer']}, batch 16, learning rate 3e-3"
    page = (reported / "report.md").read_text()
    title, data, first, *others = re.sub("\n+", "\n", page).split("\n")
    assert title == "# LSTM on the embedded sample"
    assert data.startswith("6 runs; reviews: 48 to train on, 12 to choose by, 30 to test with; ")
    assert data.endswith("classes: negative, positive.")
    assert first.startswith(f"- LSTM with {won}: test accuracy {accuracy} ± {sd} (mean and")
    assert "standard deviation of 2 seeds on 30 reviews; guessing: 0.5000)." in first
    (choice,) = (line for line in others if line.startswith("- Of the 4 settings of small, "))
    assert f"small, {won} is the best on validation" in choice
    assert choice.endswith(" stayed at chance, 2 failed.")


def test_texts_are_shown_on_request_and_not_run(swept, reported, tmp_path, monkeypatch):
    """Row 58: no tag in the page, no formula in a table, no character that turns a line around."""
    odd = '=1+1 <script>alert("x")</script> | `a` \u202e\x1b[2J'
    read = report.read_texts
    monkeypatch.setattr(
        report, "read_texts", lambda trial: {i: f"{odd} {text}" for i, text in read(trial).items()}
    )
    report.report([swept.directory], tmp_path, with_text=True)
    shown = [row["text"] for row in read_table(tmp_path / "small-mistakes.csv")]
    start = r"""'=1+1 <script>alert("x")</script> | `a` \u202e\x1b[2J """
    reviews = {row["text"] for row in read_table(corpus.SAMPLE)}
    assert shown and {text.removeprefix(start) for text in shown} <= reviews
    pages = {kind: (tmp_path / f"report.{kind}").read_text() for kind in ("md", "html")}
    for page in pages.values():
        assert "=1+1 &lt;script&gt;alert" in page and "<script" not in page
        assert "\u202e" not in page and "\x1b" not in page
    assert r"&lt;/script&gt; \| \`a\` " in pages["md"]
    unasked = "".join(p.read_text() for p in reported.iterdir() if p.suffix != ".png")
    assert not any(review[:40] in unasked for review in reviews)


def test_the_same_runs_give_the_same_bytes(swept, reported, tmp_path):
    report.report([swept.directory], tmp_path)
    for path in reported.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_an_open_sweep_is_reported_as_such(sweep_copy, tmp_path, capsys):
    shutil.rmtree(sweep_copy / "final")
    (open_run,) = sweep_copy.glob("lstm-sgd-16-0.003-*")
    shutil.rmtree(open_run)
    report.report([sweep_copy], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert capsys.readouterr().err == "warning: 1 of 4 runs are not done yet\n"
    assert "4 runs" in text and "1 are not done yet" in text
    assert "side by side" not in text
    assert read_table(tmp_path / "report" / "runs.csv")[0]["status"] == "open"


def test_runs_that_differ_in_the_seed_are_one_row(finished, run_copy, tmp_path):
    config = read_json(run_copy / "config.json")
    write_json(run_copy / "config.json", {**config, "seed": 5})
    seeds = [
        shutil.copytree(path, tmp_path / f"lstm-seed{i}")
        for i, path in enumerate((finished, run_copy))
    ]
    report.report(seeds, tmp_path / "report")
    (row,) = read_table(tmp_path / "report" / "models.csv")
    assert (row["name"], row["seeds"], float(row["± sd"])) == ("lstm", "2", 0)


def test_one_seed_is_no_mean(finished, tmp_path):
    report.report([finished], tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "(95 % interval " in page and "low (95 %)" in page
    assert "One seed: " in page and "over the seeds" not in page and "per seed" not in page


def test_predictions_of_other_orders_are_not_compared(finished, run_copy, tmp_path, capsys):
    """The same rows in another order are the same data: row 5 is another review."""
    write_json(run_copy / "env.json", read_json(run_copy / "env.json") | {"predictions_order": "x"})
    with pytest.raises(InputError, match="scored the test set in different orders"):
        report.report([finished, run_copy], tmp_path / "page")
    config = read_json(run_copy / "config.json")
    write_json(run_copy / "config.json", config | {"log_every": 3, "epochs": 9})  # another model
    report.report([finished, run_copy], tmp_path / "page")
    assert "have the test set in other orders: not compared" in capsys.readouterr().err
    assert not (tmp_path / "page" / "mcnemar.csv").exists()


def change_run(path, validation, epochs=9):
    """Give a run another validation accuracy, and a config of its own."""
    result = read_json(path / "result.json")
    scores = {"val": {**result["val"], "accuracy": validation}}
    write_json(path / "result.json", result | scores)
    write_json(path / "config.json", read_json(path / "config.json") | {"epochs": epochs})


def copy_run(path, to):
    shutil.copytree(path, to)
    return to


def test_models_are_ranked_by_validation(finished, run_copy, tmp_path, monkeypatch):
    """Also where another is far better on the test set."""
    change_run(run_copy, 0.01)
    read = predictions.read_predictions

    def read_all_correct(trials):
        model = read(trials)
        changes = {"probabilities": np.eye(2, dtype=np.float32)[model.labels][None]}
        return dataclasses.replace(model, **changes if trials[0].directory == run_copy else {})

    monkeypatch.setattr(predictions, "read_predictions", read_all_correct)
    report.report([run_copy, finished], tmp_path / "page")
    assert [row["name"] for row in read_table(tmp_path / "page/models.csv")][1] == "run"
    page = (tmp_path / "page" / "report.md").read_text()
    own = read_json(finished / "result.json")
    lead = f"the best of 2 models by validation ({own['val']['accuracy']:.4f}): "
    assert lead + f"test accuracy {own['test']['accuracy']:.4f} (95 %" in page
    assert "- Better on the test set, though not by validation: run (1.0000, p " in page
    assert "Ranked by validation accuracy. One seed" in page


def test_equal_predictions_are_marked_and_not_compared(finished, run_copy, tmp_path):
    change_run(run_copy, 0.1)
    report.report([finished, run_copy], tmp_path / "page")
    first, second = read_table(tmp_path / "page" / "metrics.csv")
    assert (first["remark"], second["remark"]) == ("", f"same predictions as {first['name']}")
    page = (tmp_path / "page" / "report.md").read_text()
    assert f"- Equal runs: run (same predictions as {first['name']})." in page
    assert "McNemar's exact" not in page and not (tmp_path / "page" / "mcnemar.csv").exists()


def test_each_data_set_has_its_part(finished, run_copy, tmp_path, capsys):
    config = read_json(run_copy / "config.json")
    data = config["data"] | {"source": "csv", "path": "somewhere/films.csv"}
    write_json(run_copy / "config.json", config | {"data": data})
    result = read_json(run_copy / "result.json")
    write_json(run_copy / "result.json", result | {"data_hash": "f" * 64})
    report.report([finished, run_copy], tmp_path / "page")
    assert "\nfilms: 1 run; reviews: 48 to train on" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "page").glob("*-models.csv")}
    assert names == {"sample-models.csv", "films-models.csv"}
    page = (tmp_path / "page" / "report.md").read_text()
    assert page.startswith("# LSTM on sample, films\n\n## sample\n\n1 run; ")
    assert page.count(": test accuracy ") == 2 and "McNemar" not in page
    html = (tmp_path / "page" / "report.html").read_text()
    contents = re.findall(r'<a href="#part\d+">(.*?)</a>', html)
    parts = ("the model", "the test set", "the hardest mistakes", "every run")
    assert contents == [f"{data}: {part}" for data in ("sample", "films") for part in parts]


def test_sweeps_and_runs_side_by_side(several):
    rows = read_table(several / "models.csv")
    assert {row["name"] for row in rows} == {"sweep", "run"}
    page = (several / "report.md").read_text()
    assert re.search(r"^- (sweep|run), LSTM with .* is the best of 2 models by val", page, re.M)
    equal = r"^- Not shown to differ from it on the test set: (sweep|run) \(0\.\d{4}, p = "
    assert re.search(equal, page, re.M)
    (tested,) = (several.parent / "sweep/final").glob("*-seed0-*")
    right = [
        {
            row["id"]
            for row in read_table(path / "predictions.csv")
            if row["label"] == row["predicted"]
        }
        for path in (tested, several.parent / "run")
    ]
    (pair,) = read_table(several / "mcnemar.csv")
    assert right[0] - right[1] and right[1] - right[0] and "McNemar" in page
    assert int(pair["only the first correct"]) == len(right[0] - right[1])
    assert int(pair["only the second correct"]) == len(right[1] - right[0])
    contents = re.findall(r'<a href="#part\d">(.*?)</a>', (several / "report.html").read_text())
    assert contents[:2] == ["The models side by side", "sweep: the choice"]
    assert (several / "run-seeds.png").exists(), "a single run has its learning curves"


def test_the_studys_numbers_stand_beside_ours(swept, reported):
    """The tables of benchmarks.study."""
    tables = study.tables(collect([swept.directory]))
    rows = tables["study-optimizer"].set_index("optimizer")
    theirs = rows["LSTM, theirs: accuracy"].dropna()
    assert theirs.to_dict() == {"adam": 0.9511, "adamw": 0.9297}
    for row in read_table(reported / "small-optimizer.csv"):
        assert rows["small: accuracy"][row["optimizer"]] == float(row["validation accuracy"])
    tested = tables["study-test"]
    assert tested["model"].tolist() == ["small", "LSTM, theirs"]
    assert tested["test accuracy"].iloc[-1] == 0.9463


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
def test_a_browser_shows_the_pages(reported, several, finished, run_copy, tmp_path):
    """A desk's and a phone's width, light and dark, in one browser; a page with faults has them."""
    long = [
        copy_run(path, tmp_path / f"own-amazonReviewSnippets_GroundTruth, learning rate {i}e-3")
        for i, path in enumerate([finished, run_copy, run_copy])
    ]
    for number, path in enumerate(long[1:]):
        change_run(path, 0.5, epochs=9 + number)
    report.report(long, tmp_path / "long")
    pages = {
        "long": (tmp_path / "long" / "report.html").read_text(),
        "report": (reported / "report.html").read_text(),
        "several": (several / "report.html").read_text(),
        "explanation": make_explanation_page(),
        "bad": BAD,
    }
    frames = "\n".join(
        f'<iframe title="{name} {width} {scheme}" width="{width}" height="800" srcdoc="'
        f'{escape(page)}" style="color-scheme: {scheme}; border: 0; vertical-align: top"></iframe>'
        for name, page in pages.items()
        for width in (390, 1280)
        for scheme in ("light", "dark")
    )
    harness = tmp_path / "harness.html"
    findings = f'<pre id="findings"></pre><script>{CHECK}</script>'
    harness.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}{findings}</body>")
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))  # CI keeps them
    picture = folder / "pages.png"
    done = subprocess.run(
        [
            *(next(filter(None, map(shutil.which, BROWSERS))), "--headless", "--no-sandbox"),
            *("--disable-gpu", "--hide-scrollbars", "--disable-background-networking"),
            *(f"--user-data-dir={tmp_path / 'user'}", "--enable-logging=stderr", "--dump-dom"),
            *("--window-size=3400,9000", f"--screenshot={picture}", harness.as_uri()),
        ],
        capture_output=True,
        timeout=100,
        check=True,
        text=True,
    )
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
