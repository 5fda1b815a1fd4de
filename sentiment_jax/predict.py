"""Verdicts on new texts: `--text`, or a csv, txt or stdin; one row out for every row in."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from sentiment_jax.data.csv_file import read_csv
from sentiment_jax.data.encoding import encode
from sentiment_jax.data.reviews import Reviews, decode, is_blank, normalize_text
from sentiment_jax.errors import InputError
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import TrainedModel

BLANK = "no text"


def predict(trained: TrainedModel, texts: Sequence[str]) -> Float32[np.ndarray, " texts"]:
    """Return the probability that each raw text is positive, normalised and cut as in training."""
    if not texts:
        return np.zeros(0, np.float32)
    data, few = trained.config.data, 8 * jax.device_count()
    reviews = Reviews.from_texts(texts)
    encoded = encode(trained.tokenizer, reviews, data.max_length, data.truncation)
    size = few if len(texts) <= few else None
    scores = scoring.score_reviews(trained, trained.params, encoded, "predict", batch_size=size)
    return scores.p_positive


def verdict(p_positive: float) -> str:
    """Return the word for a probability."""
    return "positive" if p_positive > 0.5 else "negative"


def _warning(text: str) -> str:
    return BLANK if is_blank(normalize_text(text)) else ""


def print_verdicts(trained: TrainedModel, texts: Sequence[str]) -> None:
    """Print one aligned line per text: p(positive), verdict, text."""
    for text, p in zip(texts, predict(trained, texts).tolist(), strict=True):
        shown = text[:80] + "…" * (len(text) > 80)
        print(f"{verdict(p):8} {p:.4f}  {_warning(text) or shown}")


def read_input(source: str, text_column: str) -> tuple[list[str], list[str]]:
    """Return the row numbers and texts of a .csv, or of a file or "-" (stdin) of one per line."""
    name = "standard input" if source == "-" else source
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read --input={source}: {error.strerror}") from error
    if source.endswith(".csv"):
        rows, cells = read_csv(raw, name, [text_column])
        return list(map(str, rows)), [text for (text,) in cells]
    texts = _lines(decode(raw, name, lambda before: f"line {len(_lines(before + '?'))}"))
    return [str(row + 1) for row in range(len(texts))], texts


def _lines(text: str) -> list[str]:
    # As an editor counts them: str.splitlines also ends a line at a form feed or U+2028.
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def predict_input(trained: TrainedModel, source: str) -> None:
    """Write row,predicted,p_positive,warning to stdout for every row of the input."""
    rows, texts = read_input(source, trained.config.data.text_column)
    output = csv.writer(sys.stdout, lineterminator="\n")
    output.writerow(["row", "predicted", "p_positive", "warning"])
    for row, text, p in zip(rows, texts, predict(trained, texts).tolist(), strict=True):
        output.writerow([row, int(p > 0.5), f"{p:.6f}", _warning(text)])
