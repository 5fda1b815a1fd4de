"""Reports say what the run directories say, and a browser shows them."""

import csv
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from html import unescape
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from runs import ONE_SHAPE, small_flags

from sentiment_jax import report
from sentiment_jax.data import corpus
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics

ROOT = Path(__file__).parent.parent
ONLY_REPORTS = {"pandas", "sklearn", "scipy.stats", "jinja2"}  # JAX itself loads some of scipy
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def reported(swept, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    report.report([swept.directory], output)
    return output


# What it says


def test_the_models_table(swept, reported):
    tests = [
        read_json(path)["test"]["accuracy"]
        for path in (swept.directory / "final").glob("*/result.json")
    ]
    (row,) = read_table(reported / "models.csv")
    assert row["study"] == "small"
    assert float(row["test accuracy"]) == pytest.approx(statistics.mean(tests))
    assert float(row["± sd"]) == pytest.approx(statistics.stdev(tests))
    assert row["seeds"] == "2"
    text = (reported / "report.md").read_text()
    assert f"| {statistics.mean(tests):.4f} |" in text
    assert f"{int(row['parameters']):,}" in text
    machine = read_json(next(swept.directory.glob("*/env.json")))["machine"]
    assert row["hardware"] == machine


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
    assert (reported / "report.md").read_text().count("1e+30 failed: diverged at step 1") == 1


def test_the_optimizers_epoch_by_epoch(swept, reported):
    rows = read_table(reported / "small-optimizer-epochs.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    (best,) = read_table(reported / "best.csv")
    rate = float(best["learning rate"])
    for name in ("sgd", "adam"):
        (run,) = swept.directory.glob(f"lstm-{name}-16-{rate:g}-*")
        for row, line in zip(
            rows,
            [r for r in read_metrics(run / "metrics.jsonl") if r["split"] == "val"],
            strict=True,
        ):
            assert float(row[f"{name} loss"]) == line["loss"]
            assert float(row[f"{name} accuracy"]) == line["accuracy"]


def test_all_pictures_are_there_and_show_something(reported):
    names = {path.name for path in reported.glob("*.png")}
    assert names == {
        *("small-optimizer.png", "small-batch_size.png", "small-learning_rate.png"),
        *("small-grid.png", "seeds.png", "confusion.png", "calibration.png", "length.png"),
    }
    for path in reported.glob("*.png"):
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20
        assert f"]({path.name})" in (reported / "report.md").read_text()


def test_the_page_holds_everything(reported):
    html = (reported / "report.html").read_text()
    pictures = re.findall(r'src="([^"]+)"', html)
    assert len(pictures) == 8
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not re.search(r"<script|<link|https?://|@import|url\(", html)
    assert html.count("<pre>") == 6 + 1, "a command for every run, and the sweep's"
    for title in ("The models side by side", "The hardest mistakes", "Every run"):
        assert title in html


def test_no_review_is_quoted_unasked(swept, reported, tmp_path):
    with corpus.SAMPLE.open(newline="") as file:
        reviews = [row["text"] for row in csv.DictReader(file)]
    report.report([swept.directory], tmp_path, with_text=True)
    counts = {}
    for folder in (reported, tmp_path):
        words = " ".join(
            path.read_text() for path in folder.iterdir() if path.suffix in (".md", ".csv")
        )
        counts[folder] = sum(review[:40] in words for review in reviews)
        html = (folder / "report.html").read_text()
        assert (sum(f">{review}</td>" in html for review in reviews) > 0) == (folder == tmp_path)
    assert counts[reported] == 0
    assert counts[tmp_path] > 0


def test_a_quoted_text_is_shown_not_run(swept, tmp_path, monkeypatch):
    """Row 58: no tag in the page, no formula in a table, no character that turns a line around."""
    text, read = '=1+1 <script>alert("x")</script> | `a` \u202e\x1b[2J', report.read_texts
    monkeypatch.setattr(report, "read_texts", lambda trial: dict.fromkeys(read(trial), text))
    report.report([swept.directory], tmp_path, with_text=True)
    pages = {kind: (tmp_path / f"report.{kind}").read_text() for kind in ("md", "html")}
    rows = read_table(tmp_path / "small-mistakes.csv")
    assert rows and {row["text"] for row in rows} == {
        r"""'=1+1 <script>alert("x")</script> | `a` \u202e\x1b[2J"""
    }
    for page in pages.values():
        assert "=1+1 &lt;script&gt;alert" in page and "<script" not in page
        assert "\u202e" not in page and "\x1b" not in page
    assert r"&lt;/script&gt; \| \`a\` " in pages["md"]


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


def test_runs_that_differ_in_the_seed_are_one_study(finished, run_copy, tmp_path):
    config = read_json(run_copy / "config.json")
    write_json(run_copy / "config.json", {**config, "seed": 5})
    seeds = [
        shutil.copytree(path, tmp_path / f"lstm-seed{i}")
        for i, path in enumerate((finished, run_copy))
    ]
    report.report(seeds, tmp_path / "report")
    (row,) = read_table(tmp_path / "report" / "models.csv")
    assert (row["study"], row["seeds"]) == ("lstm", "2")
    assert float(row["± sd"]) == 0
    config["optimizer"]["learning_rate"] = 1.0
    write_json(run_copy / "config.json", config)
    report.report([finished, run_copy], tmp_path / "report")
    assert len(read_table(tmp_path / "report" / "models.csv")) == 2


def test_sweeps_and_runs_side_by_side(swept, finished, tmp_path):
    folder = tmp_path / "all"
    shutil.copytree(swept.directory, folder / "sweep")
    shutil.copytree(finished, folder / "run")
    report.report([folder], tmp_path / "report")
    rows = read_table(tmp_path / "report" / "models.csv")
    assert [row["study"] for row in rows] == ["sweep", "run"]


def test_the_other_modes_import_no_table_library():
    modes = ("main", "train", "evaluate", "predict", "sweep")  # export writes a card
    imported = ", ".join(f"sentiment_jax.{mode}" for mode in modes)
    code = f"import sys, {imported}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "sentiment_jax.analysis.figures" in output.split()
    assert not ONLY_REPORTS & set(output.split())


# In a browser


def browse(browser, path, folder, *arguments):
    return subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-background-networking", f"--user-data-dir={folder}", *arguments),
            path.as_uri(),
        ],
        capture_output=True,
        timeout=100,
        check=True,
    ).stdout.decode()


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="needs a browser")
def test_a_browser_shows_the_page(reported, tmp_path):
    browser = next(path for path in map(shutil.which, BROWSERS) if path)
    probe = tmp_path / "probe.html"
    script = """<script>addEventListener("load", () => { document.title = [
      document.images.length, [...document.images].every(i => i.naturalWidth > 200),
      document.querySelectorAll("table").length, document.body.scrollWidth <= innerWidth,
    ].join(" ") })</script></body>"""
    probe.write_text((reported / "report.html").read_text().replace("</body>", script))
    dom = browse(browser, probe, tmp_path / "user", "--window-size=1200,900", "--dump-dom")
    (title,) = re.findall("<title>(.*)</title>", dom)
    assert re.fullmatch(r"8 true \d+ true", title), title
    assert int(title.split()[2]) == (reported / "report.md").read_text().count("\n| ---") >= 6
    picture = tmp_path / "shot.png"
    arguments = ("--window-size=1200,2000", f"--screenshot={picture}")
    browse(browser, reported / "report.html", tmp_path / "user", *arguments)
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (2000, 1200)
    assert 0.01 < (pixels[..., :3].min(axis=-1) < 0.5).mean() < 0.5, "blank, or black"


@pytest.mark.slow
def test_the_command_of_a_run_makes_that_run_again(tmp_path):
    def run(*command):
        options = {"capture_output": True, "text": True, "timeout": 200}
        return subprocess.run(command, cwd=ROOT, check=True, **options)

    def main(*arguments):
        run(sys.executable, "-m", "sentiment_jax.main", *arguments)

    sweep, output = tmp_path / "sweep", tmp_path / "report"
    main(
        *("--config=configs/lstm.py:sample", "--mode=sweep", f"--workdir={sweep}"),
        *("--sweep_optimizer=adamw", "--sweep_batch_size=8", "--sweep_learning_rate=2e-3"),
        *("--sweep_seeds=3", *small_flags(epochs=2, **ONE_SHAPE)),
    )
    main("--mode=report", f"--workdir={sweep}", f"--output={output}")
    page = (output / "report.html").read_text()
    command = unescape(re.findall("<pre>(.*)</pre>", page)[-1])
    assert "--mode" not in command and "--config.seed=3" in command
    *arguments, workdir = shlex.split(command)[3:]
    # A training loads scikit-learn (and it, pandas) for its scores, but nothing to write pages.
    code = "import sys; from sentiment_jax.main import main; main(); print(*sys.modules)"
    again = tmp_path / "again"
    modules = run(sys.executable, "-c", code, *arguments, f"--workdir={again}").stdout.split()
    assert "optax" in modules
    assert "jinja2" not in modules
    name = workdir.rpartition("/")[2]
    first = read_json(sweep / "final" / name / "result.json")
    second = read_json(again / "result.json")
    assert first["test"] == second["test"] and first["val"] == second["val"]
