"""Runs in tests/fixtures/format_N, made by a command that env.json has; other formats."""

import json
import re
import shutil
from pathlib import Path

import pytest
from reviews import refuses

from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.format import FORMAT
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.directories import find_run
from sentiment_jax.sweeps.plan import read_sweep

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(params=range(3, FORMAT + 1))
def run(request, tmp_path, monkeypatch):
    shutil.copytree(FIXTURES / f"format_{request.param}", tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")  # its reviews are read again
    assert json.loads(Path("run/config.json").read_text())["format"] == request.param
    return RunDirectory(Path("run"))


def test_a_run_of_each_format_is_evaluated(run):
    scores = evaluate_split([run.path], "test")
    assert scores == pytest.approx(run.outcome()[1]["test"], rel=1e-5)


def test_a_run_of_each_format_is_resumed(run, capsys):
    """Killed after its last checkpoint: parameters, optimizer and bookkeeping are restored."""
    result = run.outcome()[1]
    config = run.read_config()
    run.result.unlink()
    again = train(config, run.path)
    for name in ("best_step", "val", "epochs"):
        assert again[name] == result[name]
    assert again["test"] == pytest.approx(result["test"], rel=1e-5)
    assert f"step {result['best_step']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        *((old, "train again, or check out 028a7c8") for old in (1, 2, None, "x", [3])),
        (FORMAT + 1, "a newer sentiment_jax made it"),
    ],
)
def test_another_format_is_refused_in_one_line(tmp_path, number, remedy):
    readers = {"config.json": RunDirectory(tmp_path).read_config}
    readers["sweep.json"] = lambda: read_sweep(tmp_path)
    readers["comparison.json"] = lambda: find_run(tmp_path)
    for name, read in readers.items():
        write_json(tmp_path / name, {"format": number})
        problem = re.escape(f"{tmp_path} has format {number!r}, not {FORMAT}: {remedy}")
        assert "\n" not in refuses(problem, read)
