"""The two ends of a run: what it says first, and the test score, files and verdicts last."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sentiment_jax import checkpoint, evaluate, flops, plots, predict, processes, writer
from sentiment_jax import task as tasks
from sentiment_jax.errors import RunError
from sentiment_jax.resume import Bookkeeping, Stop


def describe(
    task: tasks.Task, workdir: Path, load_report: Any, step: int, steps_per_epoch: int
) -> None:
    """Prints data, model, weights, device and where the run stands."""
    facts, config = task.facts, task.config
    for name, counts in facts["counts"].items():
        total = counts["neg"] + counts["pos"]
        print(
            f"{'data' if name == 'train' else '':8} {name:5} {total:>6,} reviews, "
            f"{counts['pos']:>6,} positive, {facts['truncated'][name]:6.2%} truncated to "
            f"{config.data.max_length} tokens ({config.data.truncation})"
        )
    print(f"{'':8} source {facts['source']}, hash {facts['data_hash'][:12]}")
    copies = ", ".join(f"{count} in {split}" for split, count in facts["extra_copies"].items())
    shared = facts["shared"]["train_test"]
    print(f"{'':8} extra copies: {copies}; test reviews also in train: {shared}")
    parameters = tasks.count_parameters(tasks.abstract_params(task.model))
    print(
        f"{'model':8} {config.model.name}, {parameters:,} parameters, "
        f"{task.tokenizer.get_vocab_size():,} token types"
    )
    if load_report is not None:
        for kind in ("loaded", "new", "unused"):
            names = getattr(load_report, kind)
            listed = "" if kind == "loaded" else ": " + (", ".join(names) or "none")
            print(f"{'weights' if kind == 'loaded' else '':8} {len(names)} {kind}{listed}")
    device = jax.devices()[0]
    together = f" in {processes.count()} processes" if processes.count() > 1 else ""
    print(
        f"{'device':8} {jax.device_count()} x {device.device_kind}{together}, jax {jax.__version__}"
    )
    total = config.epochs * steps_per_epoch
    standing = f"resuming at step {step:,} of {total:,}" if step else f"{total:,} steps"
    print(f"{'run':8} {workdir}, {config.epochs} epochs, {standing}", flush=True)


def score(
    task: tasks.Task,
    workdir: Path,
    params: Any,
    split: str,
    mesh: Mesh,
    stop: Callable[[], None] | None = None,
) -> evaluate.Scores:
    """Scores one split; writes predictions.csv and lengths.csv."""
    encoded = task.encoded[split]
    scores = evaluate.evaluate(
        task.model,
        params,
        encoded,
        batch_size=task.config.eval_batch_size,
        buckets=task.buckets,
        mesh=mesh,
        description=split,
        stop=stop,
    )
    writer.write_predictions(
        workdir / "predictions.csv", encoded.ids, encoded.labels, scores.p_positive
    )
    writer.write_lengths(
        workdir / "lengths.csv",
        encoded.ids,
        task.words[split],
        encoded.lengths,
        task.config.data.max_length,
    )
    if processes.is_first():
        env = writer.read_json(workdir / "env.json")
        for name in ("predictions", "lengths"):
            env[f"{name}_sha256"] = writer.file_sha256(workdir / f"{name}.csv")
        writer.write_json(workdir / "env.json", env)
    return scores


def finish(
    task: tasks.Task,
    workdir: Path,
    checkpoints: checkpoint.Checkpoints,
    book: Bookkeeping,
    mesh: Mesh,
    stop: Stop,
    score_test: bool = True,
) -> dict[str, Any]:
    """Scores the test set once with the best checkpoint; writes and prints the result."""
    if book.best is None or checkpoints.best_step() != book.best["step"]:
        raise RunError(
            f"the best checkpoint (step {book.best and book.best['step']}) is not in "
            f"{checkpoints.directory}; --fresh trains again"
        )
    best = book.best
    tested: dict[str, Any] = {}
    if score_test:
        params = tasks.restore_params(task.model, checkpoints, best["step"], mesh)
        test = score(task, workdir, params, "test", mesh, lambda: stop.check(book.step))
        tested = {"test": test.summary(), "test_seconds": round(test.seconds, 3)}
        log = writer.MetricsLog(workdir / "metrics.jsonl", list(book.records))
        log.write(
            step=best["step"],
            epoch=best["epoch"],
            split="test",
            **test.summary(),
            seconds=tested["test_seconds"],
            learning_rate=0.0,
        )
    result = {
        "model": task.config.model.name,
        "best_step": best["step"],
        "best_epoch": best["epoch"],
        "val": {name: best[name] for name in ("loss", "accuracy", "examples")},
        **tested,
        "train_seconds": round(book.train_seconds, 3),
        "compile_seconds": round(book.compile_seconds, 3),
        "train_flops_per_second": round(book.train_flops / book.train_seconds),
        "epochs": book.epochs_done,
        "stopped_early": book.stopped_early,
        "parameters": tasks.count_parameters(tasks.abstract_params(task.model)),
        "seed": task.config.seed,
        "data_hash": task.facts["data_hash"],
        "metrics_sha256": writer.file_sha256(workdir / "metrics.jsonl"),
    }
    if processes.is_first():
        plots.curves(writer.read_metrics(workdir / "metrics.jsonl"), workdir / "curves.png")
    writer.write_json(workdir / "result.json", result)
    print_scores("val", result["val"], f"epoch {best['epoch']}, the best")
    _print_speed(task.config, result["train_flops_per_second"])
    if not score_test:
        return result
    print_scores("test", result["test"], f"trained {book.train_seconds:,.0f} s")
    trained = tasks.TrainedModel(
        task.config, task.tokenizer, task.model, params, mesh, best["step"]
    )
    predict.print_verdicts(trained, task.config.example_texts)
    print(f"{'files':8} {workdir}/result.json, curves.png, predictions.csv")
    return result


def _print_speed(config: ConfigDict, rate: int) -> None:
    """One line: model FLOP/s in training, and their share of what the devices multiply."""
    peak = flops.matmul_rate(config.model.dtype) * jax.device_count()
    print(
        f"{'speed':8} {rate / 1e9:,.0f} GFLOP/s in training, {rate / peak:.0%} of the "
        f"{peak / 1e9:,.0f} of a large {config.model.dtype} product"
    )


def print_scores(split: str, scores: dict[str, Any], remark: str) -> None:
    """One aligned line: accuracy, loss, number of reviews."""
    print(
        f"{split:8} accuracy {scores['accuracy']:.4f}  loss {scores['loss']:.4f}  on "
        f"{scores['examples']:,} reviews ({remark})"
    )


def evaluate_run(workdir: Path, split: str) -> dict[str, Any]:
    """`--mode=evaluate`: scores a split with a run's best checkpoint, from its directory alone.

    Raises:
      InputError: no run directory, or the data are not those of the run.
    """
    trained = tasks.load_run(workdir)
    task = tasks.prepare(trained.config, trained.tokenizer, only=split)
    tasks.check_same_data(workdir, task.facts)
    scores = score(task, workdir, trained.params, split, trained.mesh).summary()
    print_scores(split, scores, f"step {trained.step}")
    print(json.dumps(scores))
    return scores
