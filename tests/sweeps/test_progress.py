"""What a sweep prints of its trials: seconds by the clock, and when the rest will be done."""

import datetime
import os

import pytest
from sweeping import BEST, ONE_TRIAL

from sentiment_jax.storage.files import write_json
from sentiment_jax.sweeps import console
from sentiment_jax.sweeps.console import SweepProgress
from sentiment_jax.sweeps.plan import plan_sweep

AXES = {**ONE_TRIAL, "learning_rate": (1e-2, 1e-3, 1e-4), "seeds": (0,)}


def end(trial, *, seconds, compiling=0.0, start=5000.0):
    """Let a trial have ended after so many seconds."""
    trial.directory.mkdir(parents=True)
    scores = {"loss": 0.5, "accuracy": 0.75, "examples": 12}
    result = {"best_epoch": 1, "val": scores, "train_seconds": 1.0, "compile_seconds": compiling}
    write_json(trial.files.result, result)
    os.utime(trial.files.result, (start + seconds, start + seconds))
    started = datetime.datetime.fromtimestamp(start).astimezone().isoformat(timespec="seconds")
    write_json(trial.files.env, {"started": started})


def test_lines_give_wall_time_and_the_eta_counts_compilation_once(
    small_config, tmp_path, monkeypatch, capsys
):
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    sweep = plan_sweep(tmp_path, small_config, AXES)
    progress = SweepProgress(sweep, 100)
    (trials, *_) = sweep.stages()
    capsys.readouterr()
    end(trials[0], seconds=40, compiling=30.0)
    now[0] += 40
    progress.update(trials)
    line = capsys.readouterr().out
    assert ", 40 s  ETA 00:30" in line, line  # three more trials of 10 seconds
    end(trials[1], seconds=12, compiling=0.0)
    now[0] += 12
    progress.update(trials)
    line = capsys.readouterr().out
    assert ", 12 s  ETA 00:22" in line, line


@pytest.mark.parametrize("resumed", [True, False])
def test_a_resumed_trial_counts_from_its_last_start(small_config, tmp_path, resumed):
    trial = plan_sweep(tmp_path, small_config, AXES).trial("grid", BEST, 0)
    end(trial, seconds=900)
    if resumed:
        later = datetime.datetime.fromtimestamp(5880).astimezone().isoformat()
        starts = {"started": "2020-01-01T00:00:00+00:00", "resumed": [{"started": later}]}
        write_json(trial.files.env, starts)
    assert console.wall_seconds(trial.refresh()) == (20 if resumed else 900)
