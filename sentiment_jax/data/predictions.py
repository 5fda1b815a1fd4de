"""predictions.csv: its columns, and how it is written and read."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from sentiment_jax.config.schema import Config
from sentiment_jax.data.kinds import Labels, Probabilities, kind_of
from sentiment_jax.data.texts import Texts
from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import checksums, read_cell, read_json, write_csv, write_json
from sentiment_jax.storage.run_directory import RunDirectory


def prediction_columns(config: Config) -> list[str]:
    """Return the headings of `prediction_cells`."""
    if kind_of(config.data).is_binary(len(config.classes)):
        return ["predicted", "p_positive"]
    return ["predicted", *(f"p_{name}" for name in config.classes)]


def prediction_cells(
    config: Config,
    probabilities: Float[np.ndarray, "texts classes"],
    thresholds: Sequence[float] = (),
    at_least: float = 0.0,
) -> list[list[int | str]]:
    """Return predicted class and probabilities of each text: of two classes, the second's.

    The class is left empty if its probability is not `at_least` this one.
    """
    shown = probabilities[:, 1 - len(prediction_columns(config)) :].tolist()
    kind = kind_of(config.data)
    labels = kind.cells(config.cells, kind.decide(probabilities, thresholds))
    if at_least:
        sure = kind.p_of_predicted(probabilities, thresholds) >= at_least
        labels = [of if answers else "" for of, answers in zip(labels, sure, strict=True)]
    return [[of, *(f"{p:.6f}" for p in row)] for of, row in zip(labels, shown, strict=True)]


def write_predictions(
    directory: RunDirectory,
    split: str,
    texts: Texts,
    probabilities: Float32[np.ndarray, "texts classes"],
    config: Config,
    thresholds: Sequence[float] = (),
) -> None:
    """Write a split's predictions, a row per text; to env.json, hashes of file and texts."""
    path = directory.predictions[split]
    labels = kind_of(config.data).cells(config.cells, texts.labels)
    rows = zip(texts.ids, labels, prediction_cells(config, probabilities, thresholds), strict=True)
    header = ["id", "label", *prediction_columns(config)]
    write_csv(path, header, ([name, label, *cells] for name, label, cells in rows))
    if processes.is_main():
        known = checksums(path) | {f"{path.stem}_order": texts.texts_hash}
        write_json(directory.env, read_json(directory.env) | known)


def read_predictions(path: Path, config: Config) -> tuple[tuple[str, ...], Labels, Probabilities]:
    """Return the ids, labels and probabilities in a file that `write_predictions` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    ids, labels, _, *shown = zip(*rows, strict=True)
    given = np.array(shown, float).T.astype(np.float32)
    probabilities = np.concatenate([1 - given, given], axis=1) if len(shown) == 1 else given
    named = [read_cell(label) for label in labels]
    known = kind_of(config.data).read_cells(config.cells, named)
    return tuple(map(read_cell, ids)), known, probabilities
