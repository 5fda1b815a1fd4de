"""Reading a run directory while a training writes it."""

import gc
import os
import re
import time

import pytest
import runs
from commands import SAMPLE, start

from sentiment_jax.errors import InputError
from sentiment_jax.modes.predict import predict
from sentiment_jax.storage import checkpoints
from sentiment_jax.training.trained_model import load_run


def test_a_checkpoint_that_gets_its_name_while_it_is_read_is_read_again(run_copy, monkeypatch):
    """The steps are the same before and after, and yet a file that was read is gone."""
    (run_copy / "result.json").unlink()
    step = load_run(run_copy).step
    newest = run_copy / "checkpoints" / str(step)
    partial = newest.rename(f"{newest}.partial")
    read = checkpoints.read_json

    def late(path):
        if partial.exists():  # the training's rename comes between listing and reading
            partial.rename(newest)
        return read(path)

    monkeypatch.setattr(checkpoints, "read_json", late)
    assert load_run(run_copy).step == step
    assert newest.exists()


def is_readable(workdir):
    """Whether a checkpoint is there; until then, the error says that none is."""
    try:
        return load_run(workdir).step > 0
    except InputError as error:
        assert re.search("no run directory|no (validated )?checkpoint yet", str(error)), error
        return False


# Orbax leaves a coroutine behind when a file that it reads is gone: a reading that is repeated.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_predictions_beside_a_training_that_rotates_its_checkpoints(tmp_path):
    seconds = float(os.environ.get("READER_SECONDS", "2"))
    workdir = tmp_path / "run"
    fields = runs.small_flags(epochs=100_000, checkpoint_every=2, select_by="loss")
    steps = []
    with start(SAMPLE, *fields, f"--workdir={workdir}") as training:
        try:
            runs.wait_until(lambda: is_readable(workdir), training)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                trained = load_run(workdir)
                steps.append(trained.step)
                assert 0 < predict([trained], ["A quiet, moving film."])[0][0, 1] < 1
            assert training.poll() is None, "the training ended: nothing was rotated"
        finally:
            training.kill()
    assert len(set(steps)) > 1, "always the same checkpoint: nothing was rotated"
    gc.collect()  # or a later test would hear of it
    print(f"{len(steps)} readings of {len(set(steps))} checkpoints")
