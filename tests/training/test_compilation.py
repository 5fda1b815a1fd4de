"""Memory by the compiler's account: printed by a dry run, compared with a device's before a run."""

import collections
import dataclasses
import re

import jax
import numpy as np
import pytest
import runs

from sentiment_jax.config.recipes import override
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data.batches import PlannedBatch
from sentiment_jax.errors import RunError
from sentiment_jax.modes.train import dry_run, train
from sentiment_jax.runtime import devices
from sentiment_jax.training import compilation, scoring
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.resume import initial_params
from sentiment_jax.training.tasks.classification import CLASSIFICATION

# Wide enough for tenths of a MiB to show; of a length that no other test has.
WIDE = runs.ONE_SHAPE | {"model.embedding_size": 200, "data.max_length": 23}


@pytest.fixture(scope="module")
def config():
    return runs.make_small(**WIDE)


@pytest.fixture(scope="module")
def experiment(config):
    return CLASSIFICATION.prepare(resolve(config))


def needs(experiment, mode):
    return compilation.compile_step(experiment, mode, 23)


@pytest.fixture
def has(monkeypatch):
    """Let each device report so much memory."""
    return lambda limit: monkeypatch.setattr(devices, "memory_limit", lambda: limit)


def test_the_dry_run_prints_the_compilers_account(config, experiment, capsys):
    dry_run(config)
    shown, errors = capsys.readouterr()
    device, _, *lines = shown.splitlines()
    assert errors == "" and device.startswith("device   1 x cpu")
    pattern = r" {9}(\w+) +(\d+) x 23 +([\d.]+) MiB +[\d.]+ s"
    printed = {m[1]: (int(m[2]), float(m[3])) for m in (re.fullmatch(pattern, x) for x in lines)}
    assert printed == {
        "training": (16, pytest.approx(needs(experiment, "training") / 2**20, rel=0.1)),
        "evaluation": (512, pytest.approx(needs(experiment, "evaluation") / 2**20, rel=0.1)),
    }


def test_a_step_that_was_measured_is_not_compiled_again(config, has, tmp_path):
    compiled = collections.Counter()

    def listen(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            compiled.update(name for name in ("train_step", "eval_step") if name in fun_name)

    has(2**40)
    changes = {"data.max_length": 22, "epochs": 1, "model.embedding_size": 8, "eval_batch_size": 12}
    config = override(config, changes)  # validation has 12 reviews
    jax.monitoring.register_event_duration_secs_listener(listen)
    result = train(config, tmp_path / "run", tested=False)  # examples have shapes of their own
    jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == {"train_step": 1, "eval_step": 1}
    assert result["compile_seconds"] > 0


def test_a_training_that_does_not_fit_is_refused_at_once(config, experiment, has, run_copy):
    """The run that --fresh would replace is still there."""
    before = runs.contents_without_lock(run_copy)
    has(needs(experiment, "training") - 1)
    message = "training of 16 rows x 23 tokens needs .* MiB; a device has .*: lower batch_size"
    with pytest.raises(RunError, match=message):
        train(config, run_copy, fresh=True)
    assert runs.contents_without_lock(run_copy) == before


def test_an_evaluation_needs_its_memory_beside_the_optimizers_state(experiment, has):
    config = replace_settings(experiment.config, {"eval_batch_size": 4096})
    experiment = dataclasses.replace(experiment, config=config)
    moments = 2 * 4 * sum(leaf.size for leaf in jax.tree.leaves(initial_params(experiment)[0]))
    needed = needs(experiment, "evaluation") + moments
    has(needed + 1000)
    compilation.check_memory(experiment)
    has(needed - 1000)
    message = "evaluation of 4096 rows x 23 tokens .*: lower eval_batch_size"
    with pytest.raises(RunError, match=message):
        compilation.check_memory(experiment)


def test_the_largest_packed_batch_is_that_of_the_most_attention(experiment, monkeypatch):
    first = np.array([0])
    plan = [PlannedBatch(first, 128, 40), PlannedBatch(first, 512, 8)]  # 5,120 and 4,096 tokens
    monkeypatch.setattr(scoring, "plan_pass", lambda *_: plan)
    monkeypatch.setattr(type(experiment), "packs", True)
    batch = compilation.batch_like(experiment, "evaluation", 512)
    assert batch["token_ids"].shape == (8, 512)
