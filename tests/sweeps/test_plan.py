"""The plan of a sweep: its rounds, its choice, its winner, the configs' own sweeps."""

import pytest
import runs
from sweeping import AXES, ROUNDS, accuracy

from configs import bert, electra, lstm
from sentiment_jax.config.recipes import override
from sentiment_jax.storage.files import write_json
from sentiment_jax.sweeps.plan import best_finished, plan_sweep
from sentiment_jax.training.checks import resolve

DECAYS = {name: {"weight_decay": 0.0} for name in ("sgd", "rmsprop", "adam")}
DECAYS["adamw"] = {"weight_decay": 0.01}


def finish(trial, **scores):
    trial.directory.mkdir(parents=True, exist_ok=True)
    write_json(trial.files.result, {"val": scores})


def test_rounds_vary_one_axis_of_the_best_setting_so_far(tmp_path):
    plan = plan_sweep(tmp_path, resolve(runs.make_small()), ROUNDS)
    seen = {}
    for trials in plan.rounds():
        seen[trials[0].round] = [tuple(trial.setting.values()) for trial in trials]
        for trial in trials:
            finish(trial, loss=0.5, accuracy=accuracy(trial.config))
    assert seen == {
        "optimizer": [("sgd", 8, 1e-2), ("adam", 8, 1e-2), ("adamw", 8, 1e-2)],
        "batch_size": [("adam", 8, 1e-2), ("adam", 16, 1e-2)],
        "learning_rate": [("adam", 16, 1e-2), ("adam", 16, 1e-3)],
        "final": [("adam", 16, 1e-3)] * 3,
    }
    assert plan.count_trials() == len(list(tmp_path.glob("lstm-*"))) + 3


@pytest.mark.parametrize(
    ("select_by", "scores", "best"),
    [
        ("accuracy", [(0.8, 0.3), (0.9, 0.5), (0.9, 0.4)], "adamw"),
        ("accuracy", [(0.9, 0.4), (0.9, 0.4), (0.8, 0.1)], "sgd"),
        ("accuracy", [(0.9, 0.4), None, (0.8, 0.1)], "sgd"),
        ("loss", [(0.9, 0.5), (0.8, 0.4), (0.7, 0.4)], "adam"),
    ],
)
def test_ties_are_broken_by_the_other_score_then_by_the_order(tmp_path, select_by, scores, best):
    axes = {**AXES, "batch_size": (8,), "learning_rate": (1e-3,)}
    plan = plan_sweep(tmp_path, resolve(runs.make_small(select_by=select_by)), axes)
    (trials, *_) = plan.rounds()
    for trial, score in zip(trials, scores, strict=True):
        if score is not None:
            finish(trial, accuracy=score[0], loss=score[1])
    assert best_finished([trial.refresh() for trial in trials]).setting["optimizer"] == best
    assert len(list(plan.rounds())) == (1 if None in scores else 2), "chosen with an open trial"


@pytest.mark.parametrize(
    ("overridden", "decays"), [([], [0.5, 0.0, 0.01]), (["optimizer.weight_decay"], [0.5] * 3)]
)
def test_optimizer_settings_come_with_their_optimizer(tmp_path, overridden, decays):
    """Unless the command line sets them."""
    axes = AXES | {"optimizer_settings": {"adam": DECAYS["adam"], "adamw": DECAYS["adamw"]}}
    config = resolve(runs.make_small(**{"optimizer.weight_decay": 0.5}))
    plan = plan_sweep(tmp_path, config, axes, overridden)
    for name, decay in zip(("sgd", "adam", "adamw"), decays, strict=True):
        trial = plan.trial("grid", {**plan.start, "optimizer": name}, {})
        assert trial.config.optimizer.weight_decay == decay


STUDY = [(lstm, ""), (lstm, "sample")]
STUDY += [(module, variant) for module in (bert, electra) for variant in ("", "tiny", "long")]


@pytest.mark.parametrize(("module", "variant"), STUDY)
def test_the_configs_have_the_studys_sweeps(tmp_path, module, variant):
    config = override(module.get_config(variant), {"model.pretrained": ""})
    plan = plan_sweep(tmp_path, resolve(config), module.get_sweep(variant))
    assert plan.count_trials() == (24 if module is lstm else 7) + 3
    assert plan.axes["optimizer"] == ("sgd", "rmsprop", "adam", "adamw")
    if variant not in ("tiny", "sample"):
        assert plan.axes["learning_rate"] == (1e-4, 5e-5, 3e-5)
        assert plan.axes["batch_size"] == ((256, 512) if module is lstm else (16, 32))
    assert plan.optimizer_settings == DECAYS
