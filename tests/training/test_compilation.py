"""Memory by the compiler's account: printed by a dry run, compared with a device's before a run."""

import collections
import dataclasses
import re

import jax
import numpy as np
import pytest
import runs
from commands import SAMPLE, run

from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data import batches
from sentiment_jax.errors import RunError
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import devices
from sentiment_jax.training import compilation
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.experiment import prepare_experiment
from sentiment_jax.training.parameters import initial_params
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state

# Wide enough for tenths of a MiB to show; of a length that no other test has.
WIDE = runs.ONE_SHAPE | {"model.embedding_size": 200, "data.max_length": 23}


@pytest.fixture
def config(small_config):
    small_config.update_from_flattened_dict(WIDE)
    return small_config


@pytest.fixture
def experiment(config):
    return prepare_experiment(resolve(config))


def needs(experiment, mode, **changes):
    return compilation.compile_step(experiment, mode, 23, **changes).peak_bytes


def check(experiment, **changes):
    config = replace_settings(experiment.config, changes)
    compilation.check_memory(dataclasses.replace(experiment, config=config))


@pytest.fixture
def has(monkeypatch):
    """Let each device report so much memory."""
    return lambda limit: monkeypatch.setattr(devices, "memory_limit", lambda: limit)


def test_the_dry_run_of_the_command_line_prints_the_compilers_account(experiment, tmp_path):
    """Compared with steps whose arguments are those of a run."""
    config = experiment.config
    state = create_state(initial_params(experiment)[0], config.optimizer, 0)
    state = devices.place(state, experiment.mesh)
    expected = {}
    for mode, rows in ("training", config.batch_size), ("evaluation", config.eval_batch_size):
        split = experiment.encoded["train"]
        plan = batches.plan_evaluation(split.lengths, batch_size=rows, buckets=(23,))
        batch = devices.put_batch(batches.make_batch(split, plan[0], rows), experiment.mesh)
        if mode == "training":
            step = compilation.make_train_step(experiment)
            lowered = step.lower(state, batch, np.float32(0.1))
        else:
            lowered = make_eval_step(experiment.model).lower(state.params, batch)
        expected[mode] = compilation.peak_bytes(lowered.compile()) / 2**20
    flags = runs.small_flags(**WIDE)
    done = run(SAMPLE, "--dry_run", f"--workdir={tmp_path}/run", *flags)
    assert done.stderr == "" and not (tmp_path / "run").exists()
    device, _, *lines = done.stdout.splitlines()
    assert device.startswith("device   1 x cpu")
    pattern = r" {9}(\w+) +(\d+) x 23 +([\d.]+) MiB +[\d.]+ +[\d.]+ s"
    printed = {m[1]: float(m[3]) for m in (re.fullmatch(pattern, line) for line in lines)}
    assert printed == pytest.approx(expected, rel=0.1)


def test_a_step_that_was_measured_is_not_compiled_again(config, has, tmp_path):
    compiled = collections.Counter()

    def listen(event, seconds, fun_name="", **_):
        if event.endswith("backend_compile_duration"):
            compiled.update(name for name in ("train_step", "eval_step") if name in fun_name)

    has(2**40)
    config.update_from_flattened_dict({"data.max_length": 22, "epochs": 1})
    jax.monitoring.register_event_duration_secs_listener(listen)
    result = train(config, tmp_path / "run", score_test=False)  # examples have shapes of their own
    jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == {"train_step": 1, "eval_step": 1}
    assert result["compile_seconds"] > 0


@pytest.mark.slow
def test_what_fits_is_named_if_a_training_does_not(config, experiment, has, tmp_path):
    """Nothing is recorded, so that the same command goes on with what fits."""
    whole, half, quarter = (needs(experiment, "training", parts=parts) for parts in (1, 2, 4))
    assert quarter < half < whole
    has((half + quarter) // 2)
    config.eval_batch_size = 1
    advice = "use --config.gradient_accumulation=4 or --config.batch_size=4 "
    with pytest.raises(RunError, match=f"training of 16 reviews x 23 tokens needs .*{advice}"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    check(experiment, eval_batch_size=1, batch_size=4)
    check(experiment, eval_batch_size=1, gradient_accumulation=4)


def test_what_fits_is_named_if_an_evaluation_does_not(experiment, has):
    """The optimizer's state stays on the device beside it."""
    moments = 2 * 4 * sum(leaf.size for leaf in jax.tree.leaves(initial_params(experiment)[0]))
    has(needs(experiment, "evaluation", rows=1024) + moments + 1000)
    message = "evaluation of 4096 reviews x 23 tokens .*use --config.eval_batch_size=1024 "
    with pytest.raises(RunError, match=message):
        check(experiment, eval_batch_size=4096)
    has(1000)
    with pytest.raises(RunError, match="one review at a time needs more too: lower data.max_len"):
        check(experiment)


def test_a_cpu_does_not_report_its_memory(experiment, monkeypatch):
    monkeypatch.setattr(compilation, "compile_step", None)
    assert devices.memory_limit() is None
    assert compilation.check_memory(experiment) == 0.0
