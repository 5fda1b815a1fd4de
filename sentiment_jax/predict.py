"""Verdicts on new texts: `--text`, or a csv, tsv, txt or stdin; one row out for every row in."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from sentiment_jax.data.csv_file import find_delimiter, read_csv
from sentiment_jax.data.encoding import encode, unknown_shares
from sentiment_jax.data.labels import decide, verdict_cells, verdict_columns
from sentiment_jax.data.reviews import Reviews, decode, is_blank, lines, regular
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import safe_cell
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import TrainedModel

BLANK = "no text"


def predict(
    trained: TrainedModel, texts: Sequence[str]
) -> tuple[Float32[np.ndarray, "texts classes"], list[str]]:
    """Return the probabilities of each raw text's classes, normalised and cut as in training.

    The second list warns of verdicts that mean little: on no text, or on more unknown words than
    known ones in what the model reads of it.
    """
    if not texts:
        return np.zeros((0, len(trained.classes)), np.float32), []
    data, few = trained.config.data, 8 * jax.device_count()
    reviews = Reviews.from_texts(texts)
    encoded = encode(trained.tokenizer, reviews, data.max_length, data.truncation)
    size = few if len(texts) <= few else None
    scores = scoring.score_reviews(trained, trained.params, encoded, "predict", batch_size=size)
    shares = unknown_shares(trained.tokenizer, encoded).tolist()
    return scores.probabilities, [
        BLANK if is_blank(text) else f"{100 * share:.0f} % unknown words" * (share > 0.5)
        for text, share in zip(reviews.texts, shares, strict=True)
    ]


def count_warnings(warnings: Sequence[str]) -> None:
    """Say on stderr how many verdicts mean little."""
    if count := sum(map(bool, warnings)):
        what = "texts have no text or mostly unknown words: their verdicts mean little"
        terminal.warn(f"{count} of {len(warnings)} {what}")


def verdicts(
    trained: TrainedModel, probabilities: Float32[np.ndarray, "texts classes"]
) -> list[str]:
    """Return each verdict in words, aligned: the class and its probability."""
    names, wide = trained.classes, max(map(len, trained.classes))
    found = zip(decide(probabilities).tolist(), probabilities, strict=True)
    return [f"{names[i]:{wide}} {100 * p[i]:5.1f} %" for i, p in found]


def print_verdicts(trained: TrainedModel, texts: Sequence[str]) -> None:
    """Print one aligned line per text: verdict, text and warning."""
    probabilities, warnings = predict(trained, texts)
    said = verdicts(trained, probabilities)
    for text, verdict, warning in zip(texts, said, warnings, strict=True):
        shown = " ".join(text.split())
        shown = shown[:80] + "…" * (len(shown) > 80)
        if warning:
            shown = warning if warning == BLANK else f"{shown} ({warning})"
        print(f"{verdict}  {shown}")


def read_input(source: str, text_column: str) -> tuple[list[str], list[str]]:
    """Return the row numbers and texts of a table, or of a file or "-" (stdin) of one per line.

    A table is named .csv or .tsv, or its first line names the text column among its cells.
    """
    stdin = source == "-"
    name = "standard input" if stdin else source
    try:
        raw = sys.stdin.buffer.read() if stdin else regular(Path(source), pipe=True).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read --input={source}: {error.strerror}") from error
    if find_delimiter(raw, name, [text_column]):
        rows, cells = read_csv(raw, name, [text_column])
        return list(map(str, rows)), [text for (text,) in cells]
    texts = [line.rstrip("\r\n") for line in lines(decode(raw, name))]
    return [str(row + 1) for row in range(len(texts))], texts


def predict_input(trained: TrainedModel, source: str) -> None:
    """Write row, verdict, probabilities and warning to stdout for every row of the input."""
    rows, texts = read_input(source, trained.config.data.text_column)
    output = csv.writer(sys.stdout, lineterminator="\n")
    output.writerow(["row", *verdict_columns(trained.classes), "warning"])
    probabilities, warnings = predict(trained, texts)
    cells = verdict_cells(trained.classes, probabilities)
    for row, verdict, warning in zip(rows, cells, warnings, strict=True):
        output.writerow([row, *map(safe_cell, verdict), warning])
    count_warnings(warnings)
