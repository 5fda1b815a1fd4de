"""`--mode=predict`: classifies texts; one row out for every row in."""

import csv
import dataclasses
import errno
import functools
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Float64
from tokenizers import Tokenizer, decoders

from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.labels import decide
from sentiment_jax.data.ngrams import unigrams
from sentiment_jax.data.predictions import prediction_cells, prediction_columns
from sentiment_jax.data.reviews import Reviews, is_blank
from sentiment_jax.data.table import FORMATS, JSON_LINES, Table, read_table, write_table
from sentiment_jax.data.tokenization import continues_word, framing, unknown_id
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import regular, safe_cell
from sentiment_jax.training import scoring
from sentiment_jax.training.metrics import apply_temperature
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

    def read(self, text_column: str = "text") -> Table:
        """Read the texts, and the other cells of a table."""
        if self.file is None:
            return Table.from_texts(self.texts)
        name = "standard input" if self.file == "-" else self.file
        try:
            if self.file == "-":
                if sys.stdin is None:
                    raise OSError(errno.EBADF, "standard input is closed")
                raw = sys.stdin.buffer.read()
            else:
                raw = regular(Path(self.file), pipe=True).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read --input={self.file}: {error.strerror}") from error
        if self.column is not None:
            return read_table(raw, name, [self.column])
        return read_table(raw, name, [text_column], otherwise="")


def predict_runs(
    workdirs: Sequence[Path], source: TextSource, output: Path | None, *, calibrated: bool = False
) -> None:
    """Classify texts with a run or an ensemble of runs; print or write the predictions."""
    if output is not None:
        check_output(output, source.file)
    models = load_ensemble(workdirs, calibrated=calibrated)
    table = source.read(models[0].config.data.text_column)
    if source.file is None and output is None:
        print_predictions(models, source.texts)
    else:
        predict_table(models, table, output)


def predict(models: Sequence[TrainedModel], texts: Sequence[str]) -> Predictions:
    """Return each text's probabilities, averaged over the models, and a warning or "".

    A warning says why a prediction is unreliable: the text is blank, in another script, or consists
    mostly of unknown words in the part that a model reads.
    """
    predictions = [_predict(model, texts) for model in models]
    probabilities = [of_model for of_model, _ in predictions]
    by_text = zip(*(warnings for _, warnings in predictions), strict=True)
    return np.mean(probabilities, axis=0), [next(filter(None, found), "") for found in by_text]


def _predict(model: TrainedModel, texts: Sequence[str]) -> Predictions:
    if not texts:
        return np.zeros((0, len(model.classes)), np.float32), []
    reviews = Reviews.from_texts(texts)
    encoded = model.encode(reviews)
    few = 8 * jax.device_count()
    batch_size = few if len(texts) <= few else model.config.eval_batch_size  # compiled once each
    scores = scoring.score_reviews(model, model.params, encoded, "predict", batch_size=batch_size)
    probabilities = apply_temperature(scores.probabilities, model.temperature)
    return probabilities, _find_warnings(model.tokenizer, reviews.texts, encoded)


def _find_warnings(tokenizer: Tokenizer, texts: Sequence[str], encoded: Encoded) -> list[str]:
    """Return what makes each text's prediction unreliable, or ""."""
    warnings = []
    scripts = foreign_scripts(tokenizer, texts)
    unknown = unknown_shares(tokenizer, encoded).tolist()
    for text, script, share in zip(texts, scripts, unknown, strict=True):
        warning = f"{100 * share:.0f} % unknown words" if share > 0.5 else ""
        if script:
            warning = f"{script} script"
        warnings.append(BLANK if is_blank(text) else warning)
    return warnings


def unknown_shares(tokenizer: Tokenizer, encoded: Encoded) -> Float64[np.ndarray, " reviews"]:
    """Return the share of [UNK] among the encoded words of each review; 1 if it has no words."""
    starts = encoded.offsets[:-1]
    is_word = ~np.isin(encoded.tokens, _not_words(tokenizer))
    is_unknown = encoded.tokens == unknown_id(tokenizer)
    words = np.add.reduceat(is_word, starts, dtype=np.int64)
    unknown = np.add.reduceat(is_unknown, starts, dtype=np.int64)
    blank = encoded.lengths == sum(map(len, framing(tokenizer)))
    # a unigram model may have several unknown pieces in a word
    return np.where(blank, 1, np.minimum(unknown / np.maximum(words, 1), 1))


@functools.lru_cache(maxsize=4)
def _not_words(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of [CLS], [SEP] and of pieces that continue a word."""
    before, after = framing(tokenizer)
    entries = tokenizer.get_vocab().items()
    return [*before, *after, *(i for entry, i in entries if continues_word(tokenizer, entry))]


@functools.cache
def _script(character: str) -> str:
    """Return a letter's script, the first word of its name, or "" for any other character."""
    return unicodedata.name(character, "unnamed").split()[0] if character.isalpha() else ""


def _count_scripts(text: str) -> Counter[str]:
    return Counter(filter(None, map(_script, text)))


@functools.lru_cache(maxsize=4)
def _own_scripts(tokenizer: Tokenizer) -> set[str]:
    """Return the scripts that make up 1 in 200 letters of a vocabulary's words."""
    words = [word for word in unigrams(tokenizer) if not word.startswith("[")]
    if isinstance(tokenizer.decoder, decoders.ByteLevel):  # it spells bytes by other letters
        vocabulary = tokenizer.get_vocab()
        words = tokenizer.decode_batch([[vocabulary[word]] for word in words])
    letters = _count_scripts("".join(words))
    return {script for script, count in letters.items() if count > letters.total() / 200}


def foreign_scripts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the main script of each text whose letters are mostly foreign to the vocabulary.

    It is "" for the other texts. BERT's English vocabulary has the letters of many scripts, but no
    words in them: such a text becomes single letters, none of them unknown. A script is foreign if
    it makes up less than 1 in 200 letters of the vocabulary: 1 in 120 of BERT's are not Latin, 1 in
    350 Chinese, 1 in 1,700 Cyrillic. Of a text, only the first thousand characters are examined.
    """
    own = _own_scripts(tokenizer)
    found = []
    for text in texts:
        letters = _count_scripts(text[:1000])
        foreign = Counter({name: count for name, count in letters.items() if name not in own})
        mostly = 2 * foreign.total() > letters.total()
        name = foreign.most_common(1)[0][0] if mostly else ""
        found.append(name if name == "CJK" else name.title())
    return found


def print_warning_count(warnings: Sequence[str]) -> None:
    """Print to stderr how many predictions are unreliable."""
    if count := sum(map(bool, warnings)):
        reasons = "no text, mostly unknown words or another script: unreliable predictions"
        terminal.warn(f"{count} of {len(warnings)} texts have {reasons}")


def format_predictions(
    classes: Sequence[str], probabilities: Float[np.ndarray, "texts classes"]
) -> list[str]:
    """Return the predicted class and its probability for each text, aligned."""
    width = max(map(len, classes))
    predicted = zip(decide(probabilities).tolist(), probabilities, strict=True)
    return [f"{classes[i]:{width}} {100 * row[i]:5.1f} %" for i, row in predicted]


def print_predictions(models: Sequence[TrainedModel], texts: Sequence[str]) -> None:
    """Print one aligned line per text: prediction, text and warning."""
    probabilities, warnings = predict(models, texts)
    predictions = format_predictions(models[0].classes, probabilities)
    for text, prediction, warning in zip(texts, predictions, warnings, strict=True):
        shown = " ".join(text.split())
        if len(shown) > 80:
            shown = f"{shown[:80]}…"
        if warning:
            shown = warning if warning == BLANK else f"{shown} ({warning})"
        print(f"{prediction}  {shown}")


def check_output(output: Path, source: str | None) -> None:
    """Raise InputError if the output could not be written, or would replace the input."""
    if output.suffix.lower() not in FORMATS:
        raise InputError(f"--output={output}: end its name in .csv, .tsv or .jsonl")
    if source is not None and output.resolve() == Path(source).resolve():
        raise InputError(f"--output={output} is the input: choose another name")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise InputError(f"cannot write --output={output}: {error.strerror}") from error


def predict_table(models: Sequence[TrainedModel], table: Table, output: Path | None = None) -> None:
    """Print row number, prediction, probabilities and warning as CSV, or write them to a file.

    There they follow the cells of the input; the file's name says its format.
    """
    classes = models[0].classes
    columns = ["row", *prediction_columns(classes), "warning"]
    if output is not None and (taken := [name for name in columns if name in table.columns]):
        raise InputError(f"the input has a column {taken[0]!r} already: rename it there")
    probabilities, warnings = predict(models, [text for (text,) in table.texts])
    found = zip(
        table.rows, prediction_cells(models[0].config.cells, probabilities), warnings, strict=True
    )
    predictions: list[list] = [[row, *prediction, warning] for row, prediction, warning in found]
    if output is None:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(safe_cell, prediction) for prediction in predictions)
    else:
        if FORMATS[output.suffix.lower()] == JSON_LINES:
            for prediction in predictions:
                prediction[2:-1] = map(float, prediction[2:-1])
        pairs = zip(table.cells, predictions, strict=True)
        rows = ([*cells, *prediction] for cells, prediction in pairs)
        write_table(output, [*table.columns, *columns], rows)
        print(f"wrote {output}: {len(predictions):,} predictions")
    print_warning_count(warnings)
