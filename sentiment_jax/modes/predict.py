"""Verdicts on new texts: `--text`, a table or a text per line; one row out for every row in."""

import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.labels import decide, prediction_cells, prediction_columns
from sentiment_jax.data.legibility import foreign_scripts, unknown_shares
from sentiment_jax.data.reviews import Reviews, is_blank, regular
from sentiment_jax.data.table import FORMATS, JSON_LINES, Table, read_table
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import safe_cell, write_table
from sentiment_jax.training import scoring
from sentiment_jax.training.calibration import apply_temperature
from sentiment_jax.training.trained_model import TrainedModel

BLANK = "no text"


def predict(
    trained: TrainedModel, texts: Sequence[str]
) -> tuple[Float[np.ndarray, "texts classes"], list[str]]:
    """Return the probabilities of each raw text's classes, normalized and cut as in training.

    The second list warns of verdicts that mean little: on no text, on letters of another script, or
    on more unknown words than known ones in what the model reads of it.
    """
    judged = (_predict(run, texts) for run in (trained, *trained.others))
    probabilities, warnings = zip(*judged, strict=True)
    of_texts = zip(*warnings, strict=True)
    return np.mean(probabilities, axis=0), [next(filter(None, found), "") for found in of_texts]


def _predict(
    run: TrainedModel, texts: Sequence[str]
) -> tuple[Float[np.ndarray, "texts classes"], list[str]]:
    if not texts:
        return np.zeros((0, len(run.classes)), np.float32), []
    few, reviews = 8 * jax.device_count(), Reviews.from_texts(texts)
    encoded = run.encode(reviews)
    size = few if len(texts) <= few else None
    scores = scoring.score_reviews(run, run.params, encoded, "predict", batch_size=size)
    probabilities = apply_temperature(scores.probabilities, run.temperature)
    return probabilities, _warn(run.tokenizer, reviews.texts, encoded)


def _warn(tokenizer: Any, texts: Sequence[str], encoded: Encoded) -> list[str]:
    """Return what makes each text's verdict worthless, or ""."""
    shares, scripts = unknown_shares(tokenizer, encoded), foreign_scripts(tokenizer, texts)
    reasons = zip(texts, scripts, shares.tolist(), strict=True)
    return [
        BLANK * is_blank(text)
        or f"{script} script" * bool(script)
        or f"{100 * share:.0f} % unknown words" * (share > 0.5)
        for text, script, share in reasons
    ]


def count_warnings(warnings: Sequence[str]) -> None:
    """Say on stderr how many verdicts mean little."""
    if count := sum(map(bool, warnings)):
        what = "no text, mostly unknown words or another script: their verdicts mean little"
        terminal.warn(f"{count} of {len(warnings)} texts have {what}")


def verdicts(trained: TrainedModel, probabilities: Float[np.ndarray, "texts classes"]) -> list[str]:
    """Return each verdict in words, aligned: the class and its probability."""
    names, wide = trained.classes, max(map(len, trained.classes))
    found = zip(decide(probabilities).tolist(), probabilities, strict=True)
    return [f"{names[i]:{wide}} {100 * p[i]:5.1f} %" for i, p in found]


def print_predictions(trained: TrainedModel, texts: Sequence[str]) -> None:
    """Print one aligned line per text: verdict, text and warning."""
    probabilities, warnings = predict(trained, texts)
    said = verdicts(trained, probabilities)
    for text, verdict, warning in zip(texts, said, warnings, strict=True):
        shown = " ".join(text.split())
        shown = shown[:80] + "…" * (len(shown) > 80)
        if warning:
            shown = warning if warning == BLANK else f"{shown} ({warning})"
        print(f"{verdict}  {shown}")


def read_input(source: str, text_column: str, **options: Any) -> Table:
    """Read the texts of a table, or of a file or "-" (stdin) of one per line.

    `options` are those of `read_table`.
    """
    stdin = source == "-"
    name = "standard input" if stdin else source
    try:
        raw = sys.stdin.buffer.read() if stdin else regular(Path(source), pipe=True).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read --input={source}: {error.strerror}") from error
    return read_table(raw, name, [text_column], **{"otherwise": "", **options})


def check_output(output: Path, source: str | None) -> None:
    """Raise InputError for a name or place that the input's verdicts could not be written to."""
    if output.suffix.lower() not in FORMATS:
        raise InputError(f"--output={output}: end its name in .csv, .tsv or .jsonl")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
        if output.exists():
            if not output.is_file():
                raise InputError(f"--output={output} is no file: choose another name")
            if source not in (None, "-") and Path(source).exists() and output.samefile(source):
                raise InputError(f"--output={output} is the input: choose another name")
    except OSError as error:
        raise InputError(f"cannot write --output={output}: {error.strerror}") from error


def predict_table(trained: TrainedModel, table: Table, output: Path | None = None) -> None:
    """Write row, verdict, probabilities and warning to stdout, or after the rows' cells to a file.

    The file is CSV, TSV or JSON lines by its name.
    """
    columns = ["row", *prediction_columns(trained.classes), "warning"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    number: type = str
    if output is None:
        writer.writerow(columns)
    elif taken := [name for name in columns if name in table.columns]:
        raise InputError(f"the input has a column {taken[0]!r} already: rename it there")
    elif FORMATS[output.suffix.lower()] == JSON_LINES:
        number = float
    probabilities, warnings = predict(trained, [text for (text,) in table.texts])
    found = zip(table.rows, prediction_cells(trained.classes, probabilities), warnings, strict=True)
    verdicts = [[row, name, *map(number, p), warning] for row, (name, *p), warning in found]
    if output is None:
        writer.writerows(map(safe_cell, verdict) for verdict in verdicts)
    else:
        rows = ([*cells, *verdict] for cells, verdict in zip(table.cells, verdicts, strict=True))
        write_table(output, [*table.columns, *columns], rows)
        print(f"wrote {output}: {len(verdicts):,} verdicts")
    count_warnings(warnings)
