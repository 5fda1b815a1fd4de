"""`--mode=predict`: classifies texts; one row out for every row in."""

import csv
import dataclasses
import os
import socket
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from sentiment_jax.config.schema import Config, DataConfig
from sentiment_jax.data.encoding import unknown_shares
from sentiment_jax.data.labels import apply_temperature, average_thresholds
from sentiment_jax.data.predictions import prediction_cells, prediction_columns, read_predictions
from sentiment_jax.data.table import FORMATS, JSON_LINES, Table, read_table, write_table
from sentiment_jax.data.texts import Texts, is_blank
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import regular, write_cell
from sentiment_jax.storage.run_directory import RunDirectory, check_place
from sentiment_jax.training import scoring
from sentiment_jax.training.metrics import coverage
from sentiment_jax.training.trained_model import TrainedModel, load_ensemble

BLANK = "no text"
# The probabilities of each text, and a warning or "" for each.
Predictions = tuple[Float[np.ndarray, "texts classes"], list[str]]


@dataclasses.dataclass(frozen=True)
class TextSource:
    """What to classify: texts, or else the rows of a file."""

    texts: Sequence[str] = ()
    file: str | None = None  # a table, or a text per line; "-" is standard input
    column: str | None = None  # of a table; by default the run's own text column

    def check_output(self, output: Path, endings: Collection[str] = FORMATS) -> None:
        """Raise InputError if an output can't be written, or is the input or a run's own file."""
        check_place(output)
        if output.suffix.lower() not in endings:
            raise InputError(f"--output={output}: end its name in .csv, .tsv or .jsonl")
        if self.file is not None and output.resolve() == Path(self.file).resolve():
            raise InputError(f"--output={output} is the input: choose another name")
        try:
            if output.exists() and not (output.is_file() and os.access(output, os.W_OK)):
                raise InputError(f"--output={output} can't be replaced: choose another name")
            output.parent.mkdir(parents=True, exist_ok=True)
            name = f".{output.name}.{socket.gethostname()}."  # of what `replacing` writes
            tempfile.NamedTemporaryFile(prefix=name, dir=output.parent).close()
        except OSError as error:
            problem = f"cannot write --output={output}: {error.strerror}"
            raise InputError(f"{problem}: name another by --output") from error

    def read(self, data: DataConfig) -> Table:
        """Read the texts, and the other cells of a table; column and form are a run's."""
        if self.file is None:
            return Table.from_texts(self.texts)
        name = "standard input" if self.file == "-" else self.file
        try:
            if self.file != "-":
                raw = regular(Path(self.file), pipe=True).read_bytes()
            elif sys.stdin is None:
                raise InputError("cannot read --input=-: standard input is closed")
            else:
                raw = sys.stdin.buffer.read()
        except OSError as error:
            raise InputError(f"cannot read --input={self.file}: {error.strerror}") from error
        if self.column is not None:
            return read_table(raw, name, [self.column], data, flags="--")
        return read_table(raw, name, [data.text_column], data, otherwise="", flags="--")


def predict_runs(
    workdirs: Sequence[Path],
    source: TextSource,
    output: Path | None,
    *,
    calibrated: bool = False,
    at_least: float = 0.0,
) -> None:
    """Classify texts with a run or an ensemble of runs; print or write the predictions.

    A class whose probability is not `at_least` this one is left empty.
    """
    if output is not None:
        source.check_output(output)
    models = load_ensemble(workdirs, calibrated=calibrated)
    table = source.read(models[0].config.data)
    if source.file is None and output is None:
        print_predictions(models, source.texts, at_least)
    else:
        predict_table(models, table, output, at_least)
    if at_least:
        for workdir, model in zip(workdirs, models, strict=True):
            print_coverage(model, workdir, at_least)


def print_coverage(model: TrainedModel, workdir: Path, at_least: float) -> None:
    """Print to stderr which share of the validation texts is classified, with which accuracy."""
    path = RunDirectory(workdir).predictions["val"]
    if not path.exists():
        terminal.warn(f"{workdir} has no predictions of validation texts: its accuracy is unknown")
        return
    _, labels, probabilities = read_predictions(path, model.config)
    probabilities = apply_temperature(probabilities, model.temperature)
    sure, right = coverage(model.kind, labels, probabilities, model.thresholds, at_least)
    accuracy = "" if right is None else f", with accuracy {right:.4f}"
    share = f"{100 * sure:.1f} % of its {len(labels):,} validation texts"
    terminal.warn(f"{workdir}: {share} have p of {at_least:g} or more{accuracy}")


def mean_thresholds(models: Sequence[TrainedModel]) -> list[float]:
    """Return the thresholds, averaged over the models; none if no model has any."""
    each = [model.thresholds for model in models]
    return average_thresholds(each, len(models[0].classes))


def predict(models: Sequence[TrainedModel], texts: Sequence[str] | Texts) -> Predictions:
    """Return each text's probabilities, averaged over the models, and a warning or "".

    A warning says why a prediction is unreliable: no text, or mostly words that a model lacks.
    Strings are normalized, `Texts` are already: a second time would make `&` of `&amp;amp;`.
    """
    if not texts:
        return np.zeros((0, len(models[0].classes)), np.float32), []
    normal = texts if isinstance(texts, Texts) else Texts.from_texts(texts)
    warnings = [BLANK if is_blank(text) else "" for text in normal.texts]
    probabilities = []
    few = scoring.FEW * jax.device_count()
    for model in models:
        with terminal.progress_bar(len(texts), "encoding", unit="text") as bar:
            encoded = model.encode(normal, bar.update)
        size = few if len(texts) <= few else model.config.eval_batch_size
        size = 1 if len(texts) == 1 else size  # each size is compiled once
        scores = scoring.score_texts(model, model.params, encoded, "predict", batch_size=size)
        probabilities.append(apply_temperature(scores.probabilities, model.temperature))
        unknown = unknown_shares(model.tokenizer, encoded)
        pairs = zip(warnings, unknown, strict=True)
        warnings = [warning or describe_unknown(share) for warning, share in pairs]
    return np.mean(probabilities, axis=0), warnings


def describe_unknown(share: float) -> str:
    """Return a warning if most of a text's words are unknown, else ""."""
    return f"{100 * share:.0f} % unknown words" if share > 0.5 else ""


def print_warning_count(warnings: Sequence[str]) -> None:
    """Print to stderr how many predictions are unreliable."""
    if count := sum(map(bool, warnings)):
        texts = f"{count} of {len(warnings)} texts have no text or mostly unknown words"
        terminal.warn(f"{texts}: unreliable predictions")


def print_predictions(
    models: Sequence[TrainedModel], texts: Sequence[str], at_least: float = 0.0
) -> None:
    """Print one aligned line per text: prediction, text and warning."""
    probabilities, warnings = predict(models, texts)
    first = models[0]
    thresholds = mean_thresholds(models)
    lines = first.kind.describe(first.classes, probabilities, thresholds)
    if at_least:
        sure = first.kind.p_of_predicted(probabilities, thresholds) >= at_least
        names = [" " * len(name) for name in first.classes]
        empty = first.kind.describe(names, probabilities, thresholds)
        lines = [line if of else none for line, none, of in zip(lines, empty, sure, strict=True)]
    print_texts(texts, lines, warnings)
    if warning := first.kind.warn(probabilities, thresholds):
        terminal.warn(warning)


def print_texts(texts: Sequence[str], predictions: Sequence[str], warnings: Sequence[str]) -> None:
    """Print a line per text: what a kind's `describe` returns for it, its beginning, a warning."""
    for text, prediction, warning in zip(texts, predictions, warnings, strict=True):
        shown = " ".join(text.split())
        shown = f"{shown[:80]}…" if len(shown) > 80 else shown
        if warning:
            shown = warning if warning == BLANK else f"{shown} ({warning})"
        print(f"{prediction}  {shown}")


def output_columns(table: Table, config: Config, output: Path | None) -> list[str]:
    """Return the columns of predictions; InputError: the output would lack one of the input."""
    columns = ["row", *prediction_columns(config), "warning"]
    if output is not None:
        own = table.columns
        once = FORMATS[output.suffix.lower()] == JSON_LINES  # a name, in an object
        if taken := [name for name in own if name in columns or (once and own.count(name) > 1)]:
            raise InputError(f"--output would have two columns {taken[0]!r}: rename the input's")
    return columns


def predict_table(
    models: Sequence[TrainedModel], table: Table, output: Path | None = None, at_least: float = 0.0
) -> None:
    """Print row, prediction, probabilities and warning as CSV, or write them beside the input."""
    config = models[0].config
    columns = output_columns(table, config, output)
    probabilities, warnings = predict(models, [text for (text,) in table.texts])
    cells = prediction_cells(config, probabilities, mean_thresholds(models), at_least)
    found = zip(table.rows, cells, warnings, strict=True)
    predictions: list[list] = [[row, *prediction, warning] for row, prediction, warning in found]
    if output is None:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(write_cell, prediction) for prediction in predictions)
    else:
        if FORMATS[output.suffix.lower()] == JSON_LINES:
            for prediction in predictions:
                prediction[2:-1] = map(float, prediction[2:-1])
        rows = ([*own, *new] for own, new in zip(table.cells, predictions, strict=True))
        write_table(output, [*table.columns, *columns], rows)
        print(f"wrote {output}: {len(predictions):,} predictions")
    print_warning_count(warnings)
