"""Runs in tests/fixtures/format_N, made by a revision of format N that env.json names."""

import json
import shutil
from pathlib import Path

import pytest

from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.train import train
from sentiment_jax.storage.format import FORMAT
from sentiment_jax.storage.run_directory import RunDirectory

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(params=range(2, FORMAT + 1))
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
