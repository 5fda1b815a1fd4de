"""Run directories that are written without training: what a report says of them is known."""

import dataclasses

import numpy as np

from configs import lstm
from sentiment_jax.config.recipes import override
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.data.texts import Texts
from sentiment_jax.storage.files import checksums, write_json
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.metrics import log_loss

TESTED = 42  # reviews in the test set
ENV = {"machine": "2 cores", "devices": ["gpu: H100"] * 2 + ["cpu: x"]}
ENV |= {"versions": {"jax": "0.10.2"}, "git_revision": "0123456789ab", "sources": []}
ENV |= {"command": "python -m sentiment_jax.main --seed=0"}
AXES = {"optimizer": ("sgd", "adam"), "batch_size": (8, 16), "learning_rate": (0.01, 0.001)}
AXES |= {"seeds": (0, 1)}


def write_run(directory, config, outcome, *, wrong=None, statistics=None, **result):
    """Write a run of one epoch: its validation accuracy, or why it failed at step 3.

    It is scored on the test set if `wrong`, the indices of its mistakes, is given. `result` holds
    more entries of result.json.
    """
    files = RunDirectory(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {"train": 48, "val": 12, "test": TESTED}
    counts = {n: dict.fromkeys(config.classes, sizes[n] // len(config.classes)) for n in sizes}
    statistics = statistics or {"data_hash": config.data.source, "counts": counts, "reviews": sizes}
    files.write_config(config)
    write_json(files.env, ENV | {"data": statistics})
    failed = isinstance(outcome, str)
    scores = {"loss": 0.5, "accuracy": 0.5 if failed else outcome, "examples": 12}
    if wrong is not None:
        result["test"] = _write_predictions(files, config, wrong)
        if "folds" in result:
            _write_predictions(files, config, wrong[::-1], "val")
    line = {"step": 3, "epoch": 1, **scores}
    MetricsLog(files.metrics, [{**line, "split": split} for split in ("train", "val")])
    sums = checksums(files.metrics)
    if failed:
        write_json(files.failed, {"reason": outcome, "step": 3, **sums})
        return {}
    result = {"val": scores, "metrics": {"val": {"mcc": 2 * outcome - 1}}, **result, **sums}
    result |= {"model": config.model.name, "best_epoch": 1, "epochs": 2, "parameters": 2413}
    result |= {"train_seconds": 1.0, "compile_seconds": 0.5, "temperature": 1.5}
    result["data_hash"] = statistics["data_hash"]
    write_json(files.result, result)
    return result


def _write_predictions(files, config, wrong, split="test"):
    rows = np.arange(TESTED)
    labels = rows % len(config.classes)
    reviews = Texts.from_texts(map(str, rows), labels.tolist(), classes=config.classes)
    p_label = np.linspace(0.61, 0.99, TESTED)
    p_label[list(wrong)] = np.linspace(0.02, 0.32, len(wrong))
    probabilities = np.zeros((TESTED, len(config.classes)), np.float32)
    probabilities[rows, labels] = p_label
    probabilities[rows, (labels + 1) % len(config.classes)] = 1 - p_label
    write_predictions(files, split, reviews, probabilities, config)
    loss = log_loss(reviews.kind, probabilities, reviews.labels)
    return {"loss": loss, "accuracy": 1 - len(wrong) / TESTED, "examples": TESTED}


def write_sweep(directory, config, axes, outcomes):
    """Write a sweep with these outcomes of each round's trials; None leaves a trial as it is."""
    directory.mkdir(parents=True)
    plan = plan_sweep(directory, config, AXES | axes)
    dataclasses.replace(plan, data_hash="sample", command="python -m x --mode=sweep").write()
    for trials, round in zip(plan.rounds(), outcomes, strict=False):
        for place, (trial, outcome) in enumerate(zip(trials, round, strict=True)):
            wrong = range(place, 9) if trial.round == "final" else None
            if outcome is not None:
                write_run(trial.directory, trial.config, outcome, wrong=wrong)


def write_all(folder):
    """Write two data sets: a sweep among runs better, equal and worse; a cross-validation."""
    small = {"model.embedding_size": 8, "model.hidden_size": 6, "cpu_devices": 1}

    def make(**changes):
        return resolve(override(lstm.get_config("sample"), small | changes))

    axes = {"procedure": "grid", "batch_size": (16,), "data.max_length": (12, 24)}
    diverged = "diverged at step 3: loss nan"
    grid = [[0.5, 0.55, 0.6, diverged, 0.7, 0.75, 0.8, 0.85], [0.9, 0.9]]
    write_sweep(folder / "grid", make(), axes, grid)
    rounds = [[0.7, 0.75], [None, None]]  # the winner so far is part of the second round
    write_sweep(folder / "rounds", make(epochs=9), {"procedure": "rounds"}, rounds)
    for seed in (0, 1):
        write_run(folder / f"lstm-seed{seed}", make(seed=seed), 0.8, wrong=range(20 + seed))
    write_run(folder / "better", make(epochs=11), 0.7, wrong=[40])
    write_run(folder / 'say "similar" <b> & |', make(epochs=12), 0.6, wrong=range(2, 10))
    write_run(folder / "equal", make(epochs=13), 0.5, wrong=range(9))
    write_run(folder / "broken", make(epochs=14), "ValueError: odd")
    films = {"data.source": "csv", "data.path": "films.csv", "data.labels": "bad,mixed,good"}
    films |= {"data.folds": 3, "data.validation_fraction": 0.0}
    scores = {"loss": 0.5, "examples": 16}
    folds = [{**scores, "accuracy": accuracy, "best_epoch": 1} for accuracy in (0.6, 0.7, 0.8)]
    linear = {"C": 1.0, "seconds": 0.1, "test": {"accuracy": 0.71234}, "mcnemar_p": 0.25}
    linear["ngrams"] = "words and bigrams"
    linear["words"] = {"bad": ["dull", "not <b>good"], "mixed": [], "good": ["superb"]}
    val = {"loss": 0.5, "accuracy": 0.7, "examples": 48}
    more = {"folds": folds, "linear_baseline": linear, "val": val}
    write_run(folder / "films", make(**films), 0.7, wrong=range(0, 21, 3), **more)
