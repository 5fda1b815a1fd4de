"""Reading a run directory while a training writes it."""

import gc
import os
import re
import time

import pytest
import runs
from commands import SAMPLE, start

from sentiment_jax.errors import InputError, RunError
from sentiment_jax.modes.predict import predict
from sentiment_jax.storage import checkpoints
from sentiment_jax.training.trained_model import load_run


def test_a_checkpoint_that_gets_its_name_while_it_is_read_is_read_again(plain, monkeypatch):
    """Row 39: the same steps before and after, and yet what was read is gone."""
    (plain / "result.json").unlink()
    newest = max((plain / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    step = load_run(plain).step
    partial = newest.with_name(f"{newest.name}.partial")
    newest.rename(partial)
    read = checkpoints.read_json
    asked = []

    def late(path):
        asked.append(path)
        if partial.exists():  # the training's rename comes between listing and reading
            partial.rename(newest)
        return read(path)

    monkeypatch.setattr(checkpoints, "read_json", late)
    assert load_run(plain).step == step
    assert asked[0].parent == partial and asked[1].parent == newest


def test_a_damaged_checkpoint_is_read_once(plain, monkeypatch):
    for manifest in plain.glob("checkpoints/*/MANIFEST.json"):
        manifest.write_text("{}")
    asked = []
    read = checkpoints.read_json
    monkeypatch.setattr(checkpoints, "read_json", lambda path: asked.append(path) or read(path))
    with pytest.raises(RunError, match="is damaged"):
        load_run(plain)
    assert len(asked) == 1


# Orbax leaves a coroutine behind when a file that it reads is gone: a reading that is repeated.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_predictions_beside_a_training_that_rotates_its_checkpoints(tmp_path):
    seconds = float(os.environ.get("READER_SECONDS", "4"))
    workdir = tmp_path / "run"
    fields = runs.small_flags(epochs=100_000, checkpoint_every=2)
    with start(SAMPLE, *fields, f"--workdir={workdir}") as training:
        try:
            while not (workdir / "config.json").exists():
                assert training.poll() is None
                time.sleep(0.05)
            steps = []
            early = 0
            end = time.monotonic() + 60
            while time.monotonic() < end:
                try:
                    trained = load_run(workdir)
                except InputError as error:
                    assert not steps, error
                    assert re.search("no (validated )?checkpoint yet", str(error)), error
                    early += 1
                    time.sleep(0.01)
                    continue
                if not steps:
                    end = time.monotonic() + seconds
                steps.append(trained.step)
                assert 0 < predict([trained], ["A quiet, moving film."])[0][0, 1] < 1
            assert training.poll() is None, "the training ended: nothing was rotated"
        finally:
            training.kill()
    assert len(set(steps)) > 1, "always the same checkpoint: nothing was rotated"
    gc.collect()  # or a later test would hear of it
    print(f"{len(steps)} readings of {len(set(steps))} checkpoints, {early} before the first one")
