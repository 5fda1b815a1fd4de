"""The training run: resume, epochs, validation, checkpoints, and the one test score at the end."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sentiment_jax.analysis import figures
from sentiment_jax.config import OptimizerConfig, config_to_json, validate
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.evaluate import score_split
from sentiment_jax.predict import print_verdicts
from sentiment_jax.runtime import devices, processes
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import file_sha256, read_json, write_json
from sentiment_jax.storage.metrics_log import MetricsLog, read_metrics
from sentiment_jax.storage.run_directory import (
    check_config,
    check_same_data,
    describe_environment,
    load_run_tokenizer,
    lock_run,
    prepare_workdir,
    remove_run,
    tokenizer_sha256,
)
from sentiment_jax.training import flops
from sentiment_jax.training.console import describe_experiment, print_scores, print_speed
from sentiment_jax.training.experiment import (
    Experiment,
    TrainedModel,
    abstract_params,
    count_parameters,
    initial_params,
    prepare_experiment,
    resolve,
    restore_params,
)
from sentiment_jax.training.loop import TrainingRun, train_epoch, validate_epoch
from sentiment_jax.training.optimizers import make_schedule
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.resume import check_best, report_faults, restore
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.steps import TrainState, create_state, make_train_step


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    fresh: bool = False,
    allow_changes: bool = False,
    score_test: bool = True,
    prepare: Callable[..., Experiment] = prepare_experiment,
) -> dict[str, Any]:
    """Trains, or goes on where the run directory stands, and scores the test set once.

    Args:
      config: one of configs/, with its overrides.
      workdir: the run directory.
      fresh: start over, removing what an earlier run left there.
      allow_changes: resume although the config differs (recorded in env.json).
      score_test: False leaves the test set alone (runs that a sweep chooses from).
      prepare: makes the experiment; a sweep's keeps the encoded reviews between runs.

    Returns:
      The content of result.json.

    Raises:
      InputError: bad config, data, weights or run directory.
      RunError: divergence, damaged checkpoints, full disk.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    validate(config)
    prepare_workdir(workdir)
    with lock_run(workdir), Stop() as stop:
        for name in ("batch_size", "eval_batch_size"):
            devices.check_batch_size(name, config[name])
        with processes.in_turn():
            resolved = resolve(config)
            validate(resolved)
            if fresh:
                remove_run(workdir)
            changes = check_config(workdir, resolved, allow_changes)
            if changes:  # the old result is not this config's
                (workdir / "result.json").unlink(missing_ok=True)
            if (workdir / "result.json").exists():
                print(f"{workdir} is finished; nothing to do (--fresh starts over)")
                return read_json(workdir / "result.json")
            experiment = _prepare(resolved, workdir, changes, prepare)
        run, state = _start(experiment, workdir, stop)
        try:
            while run.progress.epochs_done < resolved.epochs and not run.progress.stopped_early:
                state = train_epoch(run, state)
                validate_epoch(run, state)
            del state
            return finish(
                experiment, workdir, run.checkpoints, run.progress, run.mesh, stop, score_test
            )
        finally:
            run.checkpoints.close()


def _prepare(
    config: ConfigDict, workdir: Path, changes: list[str], prepare: Callable[..., Experiment]
) -> Experiment:
    """Builds the experiment and, for a new run, writes tokenizer.json, env.json and config.json."""
    resuming = (workdir / "config.json").exists()
    experiment = prepare(config, load_run_tokenizer(workdir) if resuming else None)
    size = len(experiment.encoded["train"])
    if config.batch_size > size:
        raise InputError(
            f"batch_size={config.batch_size} is larger than the {size} training reviews; "
            f"use at most {size}"
        )
    if resuming:
        check_same_data(workdir, experiment.statistics)
        env = read_json(workdir / "env.json")
        if changes:
            env["resumed_with_changes"] = [*env.get("resumed_with_changes", []), changes]
    else:
        experiment.tokenizer.save(str(workdir / "tokenizer.json"))
        env = {
            **describe_environment(),
            "data": experiment.statistics,
            "tokenizer_sha256": tokenizer_sha256(workdir),
        }
    write_json(workdir / "env.json", env)
    write_json(workdir / "config.json", config_to_json(config))
    return experiment


def _start(experiment: Experiment, workdir: Path, stop: Stop) -> tuple[TrainingRun, TrainState]:
    """Restores the newest good checkpoint, or initialises, and describes the run."""
    config = experiment.config
    mesh = devices.data_mesh()
    optimizer = OptimizerConfig(**config.optimizer.to_dict())
    steps_per_epoch = math.ceil(len(experiment.encoded["train"]) / config.batch_size)
    with processes.in_turn():
        checkpoints = Checkpoints(workdir / "checkpoints")
    check_best(checkpoints)
    with processes.in_turn():
        report_faults(checkpoints)
    if checkpoints.steps:
        shapes = jax.eval_shape(
            lambda params: create_state(params, optimizer, config.seed),
            abstract_params(experiment.model),
        )
        state, progress = restore(checkpoints, shapes, config.seed, mesh, config.shard_params)
        report = None
    else:
        params, report = initial_params(experiment)
        progress = Progress()
        state = create_state(params, optimizer, config.seed)
        state = devices.place(state, mesh, config.shard_params)
    run = TrainingRun(
        experiment=experiment,
        workdir=workdir,
        mesh=mesh,
        checkpoints=checkpoints,
        log=MetricsLog(workdir / "metrics.jsonl", progress.records),
        stop=stop,
        progress=progress,
        steps_per_epoch=steps_per_epoch,
        schedule=make_schedule(optimizer, config.epochs * steps_per_epoch),
        step_function=make_train_step(
            experiment.model, optimizer, mesh if config.shard_params else None
        ),
        step_flops={
            n: flops.training_flops(experiment.model, config.batch_size, n)
            for n in experiment.buckets
        },
    )
    describe_experiment(experiment, workdir, report, progress.step, steps_per_epoch)
    return run, state


def finish(
    experiment: Experiment,
    workdir: Path,
    checkpoints: Checkpoints,
    progress: Progress,
    mesh: Mesh,
    stop: Stop,
    score_test: bool = True,
) -> dict[str, Any]:
    """Scores the test set once with the best checkpoint; writes and prints the result."""
    if progress.best is None or checkpoints.best_step() != progress.best["step"]:
        raise RunError(
            f"the best checkpoint (step {progress.best and progress.best['step']}) is not in "
            f"{checkpoints.directory}; --fresh trains again"
        )
    best = progress.best
    tested: dict[str, Any] = {}
    if score_test:
        params = restore_params(experiment.model, checkpoints, best["step"], mesh)
        test = score_split(
            experiment, workdir, params, "test", mesh, lambda: stop.check(progress.step)
        )
        tested = {"test": test.summary(), "test_seconds": round(test.seconds, 3)}
        log = MetricsLog(workdir / "metrics.jsonl", list(progress.records))
        log.write(
            step=best["step"],
            epoch=best["epoch"],
            split="test",
            **test.summary(),
            seconds=tested["test_seconds"],
            learning_rate=0.0,
        )
    result = {
        "model": experiment.config.model.name,
        "best_step": best["step"],
        "best_epoch": best["epoch"],
        "val": {name: best[name] for name in ("loss", "accuracy", "examples")},
        **tested,
        "train_seconds": round(progress.train_seconds, 3),
        "compile_seconds": round(progress.compile_seconds, 3),
        "train_flops_per_second": round(progress.train_flops / progress.train_seconds),
        "epochs": progress.epochs_done,
        "stopped_early": progress.stopped_early,
        "parameters": count_parameters(abstract_params(experiment.model)),
        "seed": experiment.config.seed,
        "data_hash": experiment.statistics["data_hash"],
        "metrics_sha256": file_sha256(workdir / "metrics.jsonl"),
    }
    if processes.is_main():
        figures.curves(read_metrics(workdir / "metrics.jsonl"), workdir / "curves.png")
    write_json(workdir / "result.json", result)
    print_scores("val", result["val"], f"epoch {best['epoch']}, the best")
    print_speed(experiment.config, result["train_flops_per_second"])
    if not score_test:
        return result
    print_scores("test", result["test"], f"trained {progress.train_seconds:,.0f} s")
    trained = TrainedModel(
        experiment.config, experiment.tokenizer, experiment.model, params, mesh, best["step"]
    )
    print_verdicts(trained, experiment.config.example_texts)
    print(f"{'files':8} {workdir}/result.json, curves.png, predictions.csv")
    return result
