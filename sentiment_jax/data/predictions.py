"""predictions.csv: its columns, and how it is written."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Integer

from sentiment_jax.config.schema import Config
from sentiment_jax.data.labels import decide
from sentiment_jax.data.texts import Texts
from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import checksums, read_json, write_csv, write_json
from sentiment_jax.storage.run_directory import RunDirectory


def prediction_columns(config: Config) -> list[str]:
    """Return the headings of `prediction_cells`."""
    if len(config.classes) == 2 and not config.data.between_labels:
        return ["predicted", "p_positive"]
    return ["predicted", *(f"p_{name}" for name in config.classes)]


def label_cells(
    names: Sequence[int | str], labels: Integer[np.ndarray, "texts *labels"], separator: str
) -> list[int | str]:
    """Return the name of each text's class, or of its labels, joined."""
    if labels.ndim == 1:
        return [names[label] for label in labels.tolist()]
    return [separator.join(str(names[i]) for i in np.flatnonzero(row).tolist()) for row in labels]


def prediction_cells(
    config: Config,
    probabilities: Float[np.ndarray, "texts classes"],
    thresholds: Sequence[float] = (),
) -> list[list[int | str]]:
    """Return predicted class and probabilities of each text: of two classes, the second's."""
    shown = probabilities[:, 1 - len(prediction_columns(config)) :].tolist()
    predicted = decide(probabilities, thresholds, several=bool(config.data.between_labels))
    labels = label_cells(config.cells, predicted, config.data.between_labels)
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
    labels = label_cells(config.cells, texts.labels, config.data.between_labels)
    rows = zip(texts.ids, labels, prediction_cells(config, probabilities, thresholds), strict=True)
    header = ["id", "label", *prediction_columns(config)]
    write_csv(path, header, ([name, label, *cells] for name, label, cells in rows))
    if processes.is_main():
        known = checksums(path) | {f"{path.stem}_order": texts.texts_hash}
        write_json(directory.env, read_json(directory.env) | known)
