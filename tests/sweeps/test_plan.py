"""The plan of a sweep: its stages, its choice, the configs' own sweeps."""

import pytest
from sweeping import AXES, BEST, accuracy

from configs import bert, electra, lstm
from sentiment_jax.storage.files import write_json
from sentiment_jax.sweeps.plan import best_finished, plan_sweep


def test_stages_vary_one_axis_from_the_winner_so_far(small_config, tmp_path):
    plan = plan_sweep(
        tmp_path,
        small_config,
        {**AXES, "procedure": "stages", "start": {"batch_size": 8, "learning_rate": 1e-2}},
    )
    stages = plan.stages()
    seen = {}
    for runs in stages:
        seen[runs[0].stage] = [run.setting for run in runs]
        for run in runs:
            run.directory.mkdir(parents=True, exist_ok=True)
            scores = {"loss": 0.5, "accuracy": accuracy(run.config)}
            write_json(run.directory / "result.json", {"val": scores})
    names = ("optimizer", "batch_size", "learning_rate")
    assert {stage: [tuple(s[n] for n in names) for s in s_] for stage, s_ in seen.items()} == {
        "optimizer": [("sgd", 8, 1e-2), ("adam", 8, 1e-2), ("adamw", 8, 1e-2)],
        "batch_size": [("adam", 8, 1e-2), ("adam", 16, 1e-2)],
        "learning_rate": [("adam", 16, 1e-2), ("adam", 16, 1e-3)],
        "final": [("adam", 16, 1e-3)] * 3,
    }
    assert plan.count_trials() == len(list(tmp_path.glob("lstm-*"))) + 3


def test_ties_are_broken_by_the_loss_then_by_the_order(small_config, tmp_path):
    plan = plan_sweep(
        tmp_path, small_config, {**AXES, "batch_size": (8,), "learning_rate": (1e-3,)}
    )
    (runs, *_) = plan.stages()

    def best_of(*scores):
        for run, score in zip(runs, scores, strict=True):
            run.directory.mkdir(exist_ok=True)
            (run.directory / "result.json").unlink(missing_ok=True)
            if score is not None:
                value = {"accuracy": score[0], "loss": score[1]}
                write_json(run.directory / "result.json", {"val": value})
            run.refresh()
        return best_finished(runs).setting["optimizer"]

    assert best_of((0.8, 0.3), (0.9, 0.5), (0.9, 0.4)) == "adamw"
    assert best_of((0.9, 0.4), (0.9, 0.4), (0.8, 0.1)) == "sgd"
    assert best_of((0.9, 0.4), None, (0.8, 0.1)) == "sgd"
    assert len(list(plan.stages())) == 1, "chosen while a run was open"


def test_optimizer_settings_come_with_their_optimizer(small_config, tmp_path):
    settings = {"adamw": {"weight_decay": 0.01}, "adam": {"weight_decay": 0.0}}
    axes = {**AXES, "optimizer_settings": settings}
    decays = {}
    for overrides in ({}, {"optimizer.weight_decay": 0.5}):
        small_config.optimizer.weight_decay = 0.5
        plan = plan_sweep(tmp_path, small_config, axes, overrides=overrides)
        decays[len(overrides)] = [
            plan.trial("grid", {**BEST, "optimizer": name}, 0).config.optimizer.weight_decay
            for name in ("sgd", "adam", "adamw")
        ]
    assert decays == {0: [0.5, 0.0, 0.01], 1: [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("module", "variant", "runs"),
    [
        *[(lstm, "", 24 + 3), (lstm, "sample", 24 + 3)],
        *[(bert, "", 7 + 3), (bert, "tiny", 7 + 3), (bert, "long", 7 + 3)],
        *[(electra, "", 7 + 3), (electra, "tiny", 7 + 3), (electra, "long", 7 + 3)],
    ],
)
def test_the_configs_have_the_studys_sweeps(tmp_path, module, variant, runs):
    config = module.get_config(variant)
    plan = plan_sweep(tmp_path, config, module.get_sweep(variant))
    assert plan.count_trials() == runs
    assert plan.axes["optimizer"] == ("sgd", "rmsprop", "adam", "adamw")
    if variant != "tiny" and variant != "sample":
        assert plan.axes["learning_rate"] == (1e-4, 5e-5, 3e-5)
        assert plan.axes["batch_size"] == ((256, 512) if module is lstm else (16, 32))
    adam, adamw = (
        plan.trial("grid", {**plan.start, "optimizer": name}, 0).config
        for name in ("adam", "adamw")
    )
    assert (adam.optimizer.weight_decay, adamw.optimizer.weight_decay) == (0.0, 0.01)
