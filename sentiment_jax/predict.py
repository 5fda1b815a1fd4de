"""Verdicts on new texts: `--text`, or a csv, txt or stdin; one row out for every row in."""

import codecs
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from sentiment_jax.data import batches, sources, tokenization
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.reviews import is_blank, normalize_text
from sentiment_jax.errors import InputError
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import TrainedModel

BLANK = "no text"


def predict(trained: TrainedModel, texts: Sequence[str]) -> Float32[np.ndarray, " texts"]:
    """The probability that each text is positive.

    Args:
      trained: a run's best model.
      texts: raw; normalised and truncated as in training.
    """
    if not texts:
        return np.zeros(0, np.float32)
    settings = trained.config.data
    sequences, truncated = tokenization.encode(
        trained.tokenizer,
        [normalize_text(text) for text in texts],
        max_length=settings.max_length,
        truncation=settings.truncation,
    )
    encoded = Encoded(
        ids=tuple(str(row) for row in range(len(texts))),
        labels=np.zeros(len(texts), np.int32),
        token_ids=np.concatenate([np.asarray(ids, np.int32) for ids in sequences]),
        offsets=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        truncated=truncated,
    )
    few = 8 * jax.device_count()
    scores = scoring.score_reviews(
        trained.model,
        trained.params,
        encoded,
        batch_size=few if len(texts) <= few else trained.config.eval_batch_size,
        buckets=batches.effective_buckets(settings.length_buckets, settings.max_length),
        mesh=trained.mesh,
        description="predict",
    )
    return scores.p_positive


def verdict(p_positive: float) -> str:
    """The word for a probability."""
    return "positive" if p_positive > 0.5 else "negative"


def print_verdicts(trained: TrainedModel, texts: Sequence[str]) -> None:
    """Prints one aligned line per text: p(positive), verdict, text."""
    for text, p in zip(texts, predict(trained, texts).tolist(), strict=True):
        shown = BLANK if is_blank(text) else f"{text[:80]}{'…' if len(text) > 80 else ''}"
        print(f"{verdict(p):8} {p:.4f}  {shown}")


def read_input(source: str, text_column: str) -> tuple[list[str], list[str]]:
    """Reads the texts to judge.

    Args:
      source: a .csv (column `text_column`, or the only one), any other file or "-" (stdin): one
        text a line.
      text_column: name of the csv's text column.

    Returns:
      (row names, texts), every row of the input.

    Raises:
      InputError: missing file, not UTF-8, no such column; file and row are named.
    """
    name = "standard input" if source == "-" else source
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read --input={source}: {error.strerror}") from error
    if source.endswith(".csv"):
        rows, cells = sources.read_csv(raw, name, [text_column])
        return [str(row) for row in rows], [cell[0] for cell in cells]
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        lines = _lines(raw.decode())
    except UnicodeDecodeError as error:
        row = len(_lines(raw[: error.start].decode() + "?"))
        raise InputError(f"{name}, line {row}: not UTF-8; save it as UTF-8") from error
    return [str(row) for row in range(1, len(lines) + 1)], lines


def _lines(text: str) -> list[str]:
    """The lines as an editor counts them; str.splitlines also ends one at a form feed or U+2028."""
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def predict_input(trained: TrainedModel, source: str) -> None:
    """Writes row,predicted,p_positive,warning to stdout for every row of the input."""
    rows, texts = read_input(source, trained.config.data.text_column)
    output = csv.writer(sys.stdout, lineterminator="\n")
    output.writerow(["row", "predicted", "p_positive", "warning"])
    for row, text, p in zip(rows, texts, predict(trained, texts).tolist(), strict=True):
        output.writerow([row, int(p > 0.5), f"{p:.6f}", BLANK if is_blank(text) else ""])
