"""What a sweep prints of its trials, and when the rest will be done."""

from sweeping import AXES, ONE_TRIAL

from sentiment_jax.storage.files import write_json
from sentiment_jax.sweeps import console
from sentiment_jax.sweeps.console import SweepProgress
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve


def test_a_line_for_each_trial_that_ends(small_config, tmp_path, monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    axes = {**ONE_TRIAL, "learning_rate": AXES["learning_rate"], "seeds": (0,)}
    sweep = plan_sweep(tmp_path, resolve(small_config), axes)
    progress = SweepProgress(sweep, 100)
    assert "3 trials of at most 3 epochs, 21 steps or fewer each" in capsys.readouterr().out
    (trials, *_) = sweep.stages()
    for number, trial in enumerate(trials, start=1):
        trial.directory.mkdir(parents=True)
        scores = {"loss": 0.5, "accuracy": 0.75}
        write_json(trial.files.result, {"best_epoch": 1, "val": scores, "train_seconds": 40.0})
        now[0] += 60
        progress.update(trials)
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"  {number}/3  grid ")
        assert line.endswith(f", 40 s  ETA 0{3 - number}:00")
