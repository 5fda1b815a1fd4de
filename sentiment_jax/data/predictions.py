"""predictions.csv: its columns, and how it is written."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from sentiment_jax.config.schema import Config
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.labels import decide
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import checksums, read_json, write_csv, write_json
from sentiment_jax.storage.run_directory import RunDirectory


def prediction_columns(classes: Sequence[str]) -> list[str]:
    """Return the headings of `prediction_cells`."""
    return ["predicted", *(["p_positive"] if len(classes) == 2 else [f"p_{c}" for c in classes])]


def prediction_cells(
    names: Sequence[int | str], probabilities: Float[np.ndarray, "reviews classes"]
) -> list[list[int | str]]:
    """Return predicted class and probabilities of each review: of two classes, the second's."""
    first = 1 if len(names) == 2 else 0
    predicted = zip(decide(probabilities).tolist(), probabilities.tolist(), strict=True)
    return [[names[i], *(f"{p:.6f}" for p in row[first:])] for i, row in predicted]


def write_predictions(
    directory: RunDirectory,
    split: str,
    reviews: Encoded | Reviews,
    probabilities: Float32[np.ndarray, "reviews classes"],
    order: str,
    config: Config,
) -> None:
    """Write the predictions of a split, one row per review, and their checksum to env.json.

    `order` is a hash of the texts in their order: files of equal orders have the same reviews.
    """
    path = directory.predictions[split]
    names = config.cells
    rows = zip(reviews.ids, reviews.labels, prediction_cells(names, probabilities), strict=True)
    header = ["id", "label", *prediction_columns(config.classes)]
    write_csv(path, header, ([name, names[label], *cells] for name, label, cells in rows))
    if processes.is_main():
        known = checksums(path) | {f"{path.stem}_order": order}
        write_json(directory.env, read_json(directory.env) | known)
