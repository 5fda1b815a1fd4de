"""The training run: resume, epochs, validation, checkpoints, and the one test score at the end."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from sentiment_jax import (
    batches,
    checkpoint,
    devices,
    evaluate,
    finish,
    flops,
    processes,
    resume,
    writer,
)
from sentiment_jax import config as configs
from sentiment_jax import task as tasks
from sentiment_jax.errors import Diverged, InputError, Interrupted
from sentiment_jax.optimizers import OptimizerConfig, make_schedule
from sentiment_jax.resume import Bookkeeping, Stop
from sentiment_jax.train_step import TrainState, create_state, make_train_step


@dataclasses.dataclass
class Run:
    """Everything an epoch touches."""

    task: tasks.Task
    workdir: Path
    mesh: Any
    checkpoints: checkpoint.Checkpoints
    log: writer.MetricsLog
    stop: Stop
    book: Bookkeeping
    steps_per_epoch: int
    schedule: Callable[[int], float]
    step_function: Callable[..., Any]
    step_flops: dict[int, int]  # by padded length
    compiled: set[int] = dataclasses.field(default_factory=set)  # padded lengths seen

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Writes the checkpoint of the step that the bookkeeping stands at."""
        self.checkpoints.save(
            self.book.step, state.params, state.opt_state, self.book.to_json(), metrics
        )


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    fresh: bool = False,
    allow_changes: bool = False,
    score_test: bool = True,
    prepare: Callable[..., tasks.Task] = tasks.prepare,
) -> dict[str, Any]:
    """Trains, or goes on where the run directory stands, and scores the test set once.

    Args:
      config: one of configs/, with its overrides.
      workdir: the run directory.
      fresh: start over, removing what an earlier run left there.
      allow_changes: resume although the config differs (recorded in env.json).
      score_test: False leaves the test set alone (runs that a sweep chooses from).
      prepare: makes the task; a sweep's keeps the encoded reviews between runs.

    Returns:
      The content of result.json.

    Raises:
      InputError: bad config, data, weights or run directory.
      RunError: divergence, damaged checkpoints, full disk.
      Interrupted: SIGTERM or Ctrl-C; the state is saved.
    """
    configs.validate(config)
    writer.prepare_workdir(workdir)
    with writer.lock(workdir), Stop() as stop:
        for name in ("batch_size", "eval_batch_size"):
            devices.check_batch_size(name, config[name])
        with processes.in_turn():
            resolved = configs.resolve(config)
            configs.validate(resolved)
            if fresh:
                resume.remove_run(workdir)
            changes = resume.check_config(workdir, resolved, allow_changes)
            if changes:  # the old result is not this config's
                (workdir / "result.json").unlink(missing_ok=True)
            if (workdir / "result.json").exists():
                print(f"{workdir} is finished; nothing to do (--fresh starts over)")
                return writer.read_json(workdir / "result.json")
            task = _prepare(resolved, workdir, changes, prepare)
        run, state = _start(task, workdir, stop)
        try:
            while run.book.epochs_done < resolved.epochs and not run.book.stopped_early:
                state = _train_epoch(run, state)
                _validate_epoch(run, state)
            del state
            return finish.finish(
                task, workdir, run.checkpoints, run.book, run.mesh, stop, score_test
            )
        finally:
            run.checkpoints.close()


def _prepare(
    config: ConfigDict, workdir: Path, changes: list[str], prepare: Callable[..., tasks.Task]
) -> tasks.Task:
    """Builds the task and, for a new run, writes tokenizer.json, env.json and config.json."""
    resuming = (workdir / "config.json").exists()
    task = prepare(config, tasks.load_tokenizer(workdir) if resuming else None)
    size = len(task.encoded["train"])
    if config.batch_size > size:
        raise InputError(
            f"batch_size={config.batch_size} is larger than the {size} training reviews; "
            f"use at most {size}"
        )
    if resuming:
        tasks.check_same_data(workdir, task.facts)
        env = writer.read_json(workdir / "env.json")
        if changes:
            env["resumed_with_changes"] = [*env.get("resumed_with_changes", []), changes]
    else:
        task.tokenizer.save(str(workdir / "tokenizer.json"))
        env = {
            **writer.environment(),
            "data": task.facts,
            "tokenizer_sha256": tasks.tokenizer_sha256(workdir),
        }
    writer.write_json(workdir / "env.json", env)
    writer.write_json(workdir / "config.json", configs.to_json(config))
    return task


def _start(task: tasks.Task, workdir: Path, stop: Stop) -> tuple[Run, TrainState]:
    """Restores the newest good checkpoint, or initialises, and describes the run."""
    config = task.config
    mesh = devices.data_mesh()
    optimizer = OptimizerConfig(**config.optimizer.to_dict())
    steps_per_epoch = math.ceil(len(task.encoded["train"]) / config.batch_size)
    with processes.in_turn():
        checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    resume.check_best(checkpoints)
    with processes.in_turn():
        resume.report_faults(checkpoints)
    if checkpoints.steps:
        shapes = jax.eval_shape(
            lambda params: create_state(params, optimizer, config.seed),
            tasks.abstract_params(task.model),
        )
        state, book = resume.restore(checkpoints, shapes, config.seed, mesh, config.shard_params)
        report = None
    else:
        params, report = tasks.initial_params(task)
        book = Bookkeeping()
        state = create_state(params, optimizer, config.seed)
        state = devices.place(state, mesh, config.shard_params)
    run = Run(
        task=task,
        workdir=workdir,
        mesh=mesh,
        checkpoints=checkpoints,
        log=writer.MetricsLog(workdir / "metrics.jsonl", book.records),
        stop=stop,
        book=book,
        steps_per_epoch=steps_per_epoch,
        schedule=make_schedule(optimizer, config.epochs * steps_per_epoch),
        step_function=make_train_step(task.model, optimizer, mesh if config.shard_params else None),
        step_flops={
            n: flops.training_flops(task.model, config.batch_size, n) for n in task.buckets
        },
    )
    finish.describe(task, workdir, report, book.step, steps_per_epoch)
    return run, state


def _train_epoch(run: Run, state: TrainState) -> TrainState:
    """Takes the steps that are left of the current epoch."""
    config, book = run.task.config, run.book
    epoch, encoded = book.epochs_done, run.task.encoded["train"]
    plan = batches.plan_epoch(
        encoded.lengths,
        batch_size=config.batch_size,
        buckets=run.task.buckets,
        seed=config.seed,
        epoch=epoch,
    )
    assert len(plan) == run.steps_per_epoch
    pending: tuple[dict[str, jax.Array], int] | None = None  # metrics and cost of a step
    clock = time.perf_counter()
    first = book.step - epoch * run.steps_per_epoch
    bar = writer.progress(
        config.epochs * run.steps_per_epoch, f"epoch {epoch + 1}/{config.epochs}", initial=book.step
    )

    def drain() -> None:
        # Waits for the step before the one just dispatched: the device is never idle meanwhile.
        nonlocal pending, clock
        if pending is None:
            return
        metrics, cost = pending
        sums = {name: float(value) for name, value in jax.device_get(metrics).items()}
        pending = None
        now = time.perf_counter()
        book.add(sums, now - clock, cost)
        clock = now
        _check_finite(run, sums)
        bar.update(1)
        bar.set_postfix_str(book.rates(), refresh=False)

    with bar:
        for planned in plan[first:]:
            batch = devices.put_batch(
                batches.make_batch(encoded, planned, config.batch_size), run.mesh
            )
            before = time.perf_counter()
            rate = np.float32(run.schedule(book.dispatched))
            state, metrics = run.step_function(state, batch, rate)
            if planned.length not in run.compiled:
                # Tracing and compiling happen in this call; the step itself runs behind it.
                run.compiled.add(planned.length)
                spent = time.perf_counter() - before
                book.compile_seconds += spent
                clock += spent
            drain()
            pending = metrics, run.step_flops[planned.length]
            book.dispatched += 1
            last = book.dispatched == (epoch + 1) * run.steps_per_epoch
            logging = last or book.dispatched % config.log_every == 0
            saving = not last and book.dispatched % config.checkpoint_every == 0
            stopping = run.stop.asked()
            if logging or saving or stopping:
                drain()
            if logging:
                run.log.write(**book.window_record(run.schedule(book.step - 1), epoch))
            if saving or stopping:
                run.save(state)
                clock = time.perf_counter()
            if stopping:
                run.stop.interrupt(book.step)
    return state


def _check_finite(run: Run, sums: dict[str, float]) -> None:
    if not all(math.isfinite(value) for value in sums.values()):
        step, kept = run.book.step, run.checkpoints.steps[-1:] or "none"
        raise Diverged(
            f"diverged at step {step}: loss {sums['loss'] / sums['examples']:.4g}, learning rate "
            f"{run.schedule(step - 1):.3g}, gradient norm {sums['gradient_norm']:.4g}; lower "
            f"optimizer.learning_rate (last good checkpoint: {kept})",
            step,
        )


def _validate_epoch(run: Run, state: TrainState) -> None:
    """Scores the validation split, updates best and patience, saves."""
    config, book = run.task.config, run.book
    try:
        scores = evaluate.evaluate(
            run.task.model,
            state.params,
            run.task.encoded["val"],
            batch_size=config.eval_batch_size,
            buckets=run.task.buckets,
            mesh=run.mesh,
            description="validation",
            stop=lambda: run.stop.check(book.step),
        )
    except Interrupted:
        run.save(state)
        raise
    epoch = book.epochs_done
    book.end_epoch(scores, config.early_stopping_patience)
    record = {"step": book.step, "epoch": epoch + 1, "split": "val", **scores.summary()}
    rate = run.schedule(book.step - 1)
    run.log.write(**record, seconds=round(scores.seconds, 3), learning_rate=rate)
    finite = math.isfinite(scores.loss)
    run.save(state, {"accuracy": scores.accuracy, "loss": scores.loss} if finite else None)
    mark = "  best" if book.best and book.best["epoch"] == epoch + 1 else ""
    tqdm.write(
        f"epoch {epoch + 1:>3}/{config.epochs}  train loss {book.epoch_loss:.4f} accuracy "
        f"{book.epoch_accuracy:.4f}  validation loss {scores.loss:.4f} accuracy "
        f"{scores.accuracy:.4f}  {book.epoch_rate:7.1f} examples/s{mark}"
    )
    if book.stopped_early:
        tqdm.write(f"stopped early: {config.early_stopping_patience} epochs without a better score")
