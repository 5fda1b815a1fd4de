"""Run directories of an earlier revision (c9406f5, jax 0.12) still open; fixtures/ holds two."""

import tarfile

import golden
import numpy as np
import pytest

from sentiment_jax.modes import report
from sentiment_jax.modes.evaluate import evaluate_run
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.trained_model import load_run

# What c9406f5 said of the two texts.
P_POSITIVE = {"lstm": [0.5041, 0.5030], "bert": [0.4985, 0.4985]}


@pytest.fixture
def old(tmp_path):
    with tarfile.open(golden.FIXTURES / "runs_c9406f5.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("model", P_POSITIVE)
def test_an_old_run_is_evaluated_and_predicted_with(old, model):
    result = read_json(RunDirectory(old / model).result)
    for split in ("val", "test"):
        scores = evaluate_run(old / model, split)
        assert scores["loss"] == pytest.approx(result[split]["loss"], abs=1e-6)
        assert (scores["accuracy"], scores["examples"]) == (
            result[split]["accuracy"],
            result[split]["examples"],
        )
    verdicts = predict([load_run(old / model)], ["A quiet, moving film.", "Dull."])[0][:, 1]
    np.testing.assert_allclose(verdicts, P_POSITIVE[model], atol=6e-5)


def test_old_runs_are_reported(old, tmp_path):
    report.report([old / "lstm", old / "bert"], tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert "lstm" in page and "bert" in page and "3,114" in page


def test_an_old_run_that_was_stopped_resumes(old, capsys):
    directory = RunDirectory(old / "lstm")
    before = read_json(directory.result)
    directory.result.unlink()
    config = directory.read_config()
    result = train(config, directory.path)
    assert "12 of 12" in capsys.readouterr().out
    assert result["val"] == before["val"]
    assert result["test"]["loss"] == pytest.approx(before["test"]["loss"], abs=1e-6)
