"""The package from Python: `train`, `compare`, `pretrain`, `load`, and what a trained model does.

    config = sentiment_jax.get_config("lstm:sample", epochs=3)
    sentiment_jax.train(config, "runs/sample")
    sentiment_jax.load("runs/sample").predict(["A quiet, moving film."])

Each function does what a mode of the command line does, by the same code.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas
from jaxtyping import Float
from ml_collections import ConfigDict

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.analysis.integrated_gradients import Explanation
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.schema import schema, split_names
from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import validate
from sentiment_jax.data.dataset import infer_source
from sentiment_jax.data.labels import find_class, join_columns
from sentiment_jax.data.predictions import prediction_cells, prediction_columns
from sentiment_jax.data.table import find_column
from sentiment_jax.errors import InputError
from sentiment_jax.modes import evaluate, export, predict
from sentiment_jax.modes.pretrain import pretrain as pretrain_run
from sentiment_jax.modes.train import train as train_run
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import write_atomically
from sentiment_jax.storage.run_directory import RunDirectory, lock_run, prepare_workdir, tidied
from sentiment_jax.sweeps.directories import find_run
from sentiment_jax.training.fit import AfterEpoch
from sentiment_jax.training.lineage import warn_of_training_texts
from sentiment_jax.training.trained_model import cast_kernels, load_run

# A table with the columns that data.text_column and data.label_column name, or (texts, labels).
Labeled: TypeAlias = pandas.DataFrame | Mapping[str, Any] | tuple[Any, Any]


def get_config(
    recipe: str | Path, changes: Mapping[str, Any] | None = None, **settings: Any
) -> ConfigDict:
    """Return the config of "lstm", "lstm:sample", ... or of a file, with some settings changed.

    These are equal: `get_config("lstm", {"optimizer.name": "sgd"}, epochs=3)` and
    `get_config("lstm", epochs=3, optimizer={"name": "sgd"})`.
    """
    unchanged = read_recipe(str(recipe))
    config = override(unchanged, {**(changes or {}), **settings})
    values = flatten(config)
    problems = [rule.problem(n, values[n]) for n, rule in schema(unchanged.model.name).items()]
    if found := [*filter(None, problems)]:
        raise InputError(f"config: {'; '.join(found)}")
    return config


def train(
    config: ConfigDict | str | Path,
    workdir: str | Path,
    data: Labeled | None = None,
    *,
    test: Labeled | None = None,
    fresh: bool = False,
    after_epoch: Sequence[AfterEpoch] = (),
) -> dict[str, Any]:
    """Train, or resume, in `workdir`; score the test set once and return result.json.

    Args:
      config: a config of `get_config`, or its first argument.
      workdir: the run directory.
      data: texts to train on instead of the config's. They are written to `workdir` as a CSV
        file, which config.json names: the run is resumed, evaluated and reported from there.
      test: texts to test on; without them, data.test_fraction of `data` is held out.
      fresh: start over in a used `workdir`.
      after_epoch: functions that are called after each epoch, to log it elsewhere for example.

    Raises:
      InputError: bad config, data, weights or run directory.
      RunError: divergence, damaged checkpoints, full disk.
      Interrupted: a signal came; the state is saved, the same call resumes.
    """
    config = infer_source(config if isinstance(config, ConfigDict) else get_config(config))
    directory = RunDirectory(_path(workdir))
    if data is None and test is not None:
        raise InputError("test= goes with data=; a config has data.test_path")
    tables = {"train": data, "test": test}
    with tidied(directory.path), _keep_texts(config, directory, tables, fresh) as config:
        validate(config)  # by now it names the data
        startup.start(config)
        return train_run(config, directory.path, fresh=fresh, after_epoch=after_epoch)


def pretrain(
    config: ConfigDict | str | Path,
    workdir: str | Path,
    *,
    fresh: bool = False,
    after_epoch: Sequence[AfterEpoch] = (),
) -> dict[str, Any]:
    """Learn from unlabeled text, or resume, in `workdir`; return result.json.

    The text is the config's: its source's texts and unlabeled text, or pretrain.text. A training
    starts from it by `{"model.pretrained": workdir}`. Arguments and errors are as in `train`.
    """
    config = infer_source(config if isinstance(config, ConfigDict) else get_config(config))
    validate(config, pretraining=True)
    startup.start(config)
    return pretrain_run(config, _path(workdir), fresh=fresh, after_epoch=after_epoch)


def compare(
    workdir: str | Path,
    data: Labeled | str | Path,
    *,
    test: Labeled | None = None,
    changes: Mapping[str, Any] | None = None,
    choose_by: str = "",
) -> pandas.DataFrame:
    """Train the recipes for one's own texts on the same splits, and test the one to use.

    Args:
      workdir: will hold a run for each recipe; `load(workdir)` returns the chosen one.
      data: texts, or the path of a table.
      test: texts to test on; without them, data.test_fraction of `data` is held out.
      changes: "group.field" -> value, such as the encoder's {"model.pretrained": folder}.
      choose_by: the metric, as --choose_by names it.

    Returns the table that the command prints. Errors are those of `train`.
    """
    from sentiment_jax.modes.compare import compare as compare_recipes  # late: scikit-learn

    directory = RunDirectory(_path(workdir))
    changed = dict(changes or {})
    tables = {"train": data, "test": test}
    if isinstance(data, str | Path):
        changed["data.path"] = str(data)
        tables = {}
    config = infer_source(get_config("encoder", changed))
    with _keep_texts(config, directory, tables, fresh=False) as config:
        names = ("source", "path", "test_path", "separator", "quote", "header")
        changed |= {f"data.{name}": flatten(config)[f"data.{name}"] for name in names}
        startup.start(config)
        return compare_recipes(changed, directory.path, choose_by=choose_by)


def load(workdir: str | Path) -> "Model":
    """Return the best checkpoint of a run directory, or of the winner of a sweep's or comparison's.

    A process that is forked later can't use it and waits for ever: load there, or start processes
    by "spawn". InputError: no run, no validated checkpoint yet. RunError: a damaged checkpoint.
    """
    return Model(find_run(_path(workdir)))


class Model:
    """A trained model: `load` returns one.

    Attributes:
      workdir: its run directory.
      config: the config of its run.
      classes: the names of its classes; of two, the second is the positive one.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self._directory = RunDirectory(workdir)
        self._directory.check_found()
        startup.start(self._directory.read_config())
        self._trained = load_run(workdir)
        self._cast = cast_kernels(self._trained)  # predicts the same, one text in less time
        self.config = self._trained.config
        self.classes = self._trained.classes

    def __repr__(self) -> str:
        return f"Model({str(self.workdir)!r}): {self.config.model.name}, step {self._trained.step}"

    def predict(self, texts: Any, at_least: float = 0.0) -> pandas.DataFrame:
        """Return the predictions: a row per text, the columns as in --mode=predict.

        `texts` are one text, any sequence of them, or a table with the column data.text_column; a
        Series' or a table's index is kept. Bytes are read as UTF-8, numbers as text. The prediction
        for a missing or unreadable text carries a `warning`. A class whose probability is not
        `at_least` this one is left empty. InputError: a value is no text.
        """
        if not 0 <= at_least <= 1:
            raise InputError(f"at_least={at_least!r}: a probability, 0 to 1, is expected")
        texts, index = self._texts(texts)
        probabilities, warnings = predict.predict([self._cast], texts)
        names = prediction_columns(self.config)
        thresholds = self._trained.thresholds
        cells = prediction_cells(self.config, probabilities, thresholds, at_least)
        columns: dict[str, Any] = {"predicted": [label for label, *_ in cells]}
        for i, name in enumerate(names[1:], start=1):
            columns[name] = np.array([row[i] for row in cells], float)
        return pandas.DataFrame(columns | {"warning": warnings}, index=index)

    def predict_proba(self, texts: Any) -> Float[np.ndarray, "texts classes"]:
        """Return the probability of each class, `classes`, for each text."""
        probabilities, _ = predict.predict([self._cast], self._texts(texts)[0])
        return probabilities

    def explain(self, text: Any, label: Any = None) -> Explanation:
        """Return each word's attribution to a class or label: integrated gradients.

        `label` is its name, or what predictions show for it. Without one it is the second class,
        which of two is the positive one.
        """
        towards = 1 if label is None else find_class(_to_text(label, "the label"), self.classes)
        return integrated_gradients.explain(self._trained, _to_text(text, "the text"), towards)

    def evaluate(self, data: str | Labeled = "test") -> dict[str, Any]:
        """Return scores and metrics on a split of the run's data, "test" or "val", or on others.

        A split's predictions are written to the run directory, as by --mode=evaluate.
        """
        if isinstance(data, str):
            if data not in ("test", "val"):
                raise InputError(f"evaluate({data!r}): choose test or val, or give texts")
            scores, metrics = evaluate.score_run(self._trained, self._directory, data)
        else:
            names = self.config.data
            rows = [
                (row, text, join_columns(cells, row, names))
                for row, text, *cells in _to_rows(data, names)
            ]
            texts = evaluate.read_labeled(self.config, "the data", names.text_column, rows=rows)
            warn_of_training_texts(self.workdir, texts)
            scores, metrics = evaluate.score_labeled([self._trained], texts)
        return scores | metrics

    def export(self, folder: str | Path, format: str = "transformers") -> None:
        """Write a folder for transformers or sentence-transformers, or ONNX files ("onnx")."""
        if format not in export.FORMATS:
            raise InputError(f"export(format={format!r}): choose {' or '.join(export.FORMATS)}")
        export.FORMATS[format](self._trained, self.workdir, Path(folder).expanduser())

    def _texts(self, texts: Any) -> tuple[list[str], pandas.Index | None]:
        if isinstance(texts, str | bytes):
            texts = [texts]
        elif isinstance(texts, Mapping | pandas.DataFrame):
            texts = _column(texts, self.config.data.text_column)
        index = texts.index if isinstance(texts, pandas.Series) else None
        return _to_texts(texts, "the texts"), index


def _path(workdir: Any) -> Path:
    if not isinstance(workdir, str | os.PathLike) or not os.fspath(workdir):
        found = repr(workdir) if isinstance(workdir, str) else type(workdir).__name__
        raise InputError(f"workdir: a path is expected, not {found}")
    return Path(workdir).expanduser()


def _to_text(value: Any, where: str) -> str:
    """Return a value as the text of a cell; InputError: it is none.

    Bytes, which tensorflow_datasets yields, are UTF-8; of 1 pandas makes 1.0 beside a gap.
    """
    if isinstance(value, np.bool_ | np.number):
        value = value.item()
    if pandas.api.types.is_scalar(value) and pandas.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return str(value) if isinstance(value, str | int | float) else bytes.decode(value)
    except (TypeError, UnicodeDecodeError):
        wanted = f"{where}: a text, or one in UTF-8, is expected, not this {type(value).__name__}"
        several = "; for several labels, set data.label_separator"
        raise InputError(wanted + (several if isinstance(value, list) else "")) from None


def _to_texts(values: Any, name: str, separator: str = "") -> list[str]:
    """Return a sequence of values, or of lists, as texts; InputError: it is no such one."""
    others = str | bytes | Mapping | Set | pandas.DataFrame  # a set has no order
    if isinstance(values, others) or not np.iterable(values):
        raise InputError(f"{name}: a list or a column is expected, not {type(values).__name__}")
    found = []
    for number, value in enumerate(values):
        where = f"{name}, number {number}"
        if separator and not pandas.api.types.is_scalar(value):
            found.append(json.dumps(_to_texts(value, where), ensure_ascii=False))
        else:
            found.append(_to_text(value, where))
    return found


def _column(data: Any, name: str) -> pandas.Series:
    """Return a column of a table; InputError: there is none of that name, or several."""
    if isinstance(data, Mapping) and any(map(pandas.api.types.is_scalar, data.values())):
        raise InputError("the data: each column is a list: of one text, [text]")
    try:
        table = pandas.DataFrame(data, dtype=None if isinstance(data, pandas.DataFrame) else object)
    except (TypeError, ValueError) as error:
        raise InputError(f"the data must be a table, or (texts, labels): {error}") from error
    if name in table.index.names and name not in table.columns:
        return table.index.get_level_values(name).to_series(table.index)
    if (column := find_column(list(table.columns), name)) is None:
        found = ", ".join(map(repr, table.columns))
        raise InputError(
            f"the data need one column {name!r}: their columns are {found}; rename "
            "yours, or set data.text_column and data.label_column"
        )
    return table[column]


def _to_rows(data: Labeled, names: Any) -> list[tuple[str, ...]]:
    """Return name, text and label of each text, or its cells in data.label_columns."""
    columns = _columns(names)
    parts = data if isinstance(data, tuple) else tuple(_column(data, name) for name in columns)
    if len(columns) > 2 and isinstance(parts[1], np.ndarray | pandas.DataFrame):  # of 0 and 1
        table = pandas.DataFrame(parts[1])
        named = {*columns[1:]} <= {*table.columns}
        parts = (parts[0], *(table[c] for c in (columns[1:] if named else table.columns)))
    separator = names.label_separator
    cells: list[list[str]] = []
    if len(parts) == len(columns):
        marks = ["", *(separator for _ in columns[1:])]
        cells = [*map(_to_texts, parts, columns, marks)]
    if len({*map(len, cells)}) != 1 or not cells[0]:
        wanted = ", ".join(columns[1:])
        raise InputError(f"the data must be texts and as many of {wanted}: {[*map(len, cells)]}")
    return [(f"number {i}", *text) for i, text in enumerate(zip(*cells, strict=True))]


def _columns(names: Any) -> list[str]:
    return [names.text_column, *(split_names(names.label_columns) or [names.label_column])]


def _to_csv(data: Labeled, names: Any) -> str:
    """Return texts as the CSV file that our reader takes."""
    writer = csv.writer(text := io.StringIO(), lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(_columns(names))
    for name, *cells in _to_rows(data, names):
        if "\0" in "".join(cells):
            raise InputError(f"the data, {name}: no CSV file can hold the NUL in it: remove it")
        writer.writerow(cells)
    return text.getvalue().encode("utf-8", "replace").decode()  # as `normalize_text` does


@contextlib.contextmanager
def _keep_texts(
    config: ConfigDict, directory: RunDirectory, tables: Mapping[str, Labeled | None], fresh: bool
) -> Iterator[ConfigDict]:
    """Write texts to the run directory; yield the config that reads them there.

    If what follows fails before a run begins, which writes env.json, the files are as before.
    """
    given = {split: table for split, table in tables.items() if table is not None}
    if not given:
        yield config
        return
    new = {directory.reviews[split]: _to_csv(data, config.data) for split, data in given.items()}
    prepare_workdir(directory.path)
    env = _read(directory.env)
    written = []
    try:
        with lock_run(directory.path):
            directory.put_back_reviews()
            for path, text in new.items():
                if (before := _read(path)) == text.encode():
                    continue
                if before is not None and not fresh:
                    remedy = "choose another workdir, or fresh"
                    raise InputError(f"{path} holds other texts: {remedy}")
                directory.set_aside(path)
                written.append(path)
                write_atomically(path, text)
        paths = {split: str(directory.reviews[split].absolute()) for split in given}
        form = {"separator": "", "quote": "", "header": True}  # of the file written above
        tested = paths.get("test", config.data.test_path)
        changes = {"source": "csv", "path": paths["train"], "test_path": tested}
        yield override(config, {"data": changes | form})
    except BaseException:
        if _read(directory.env) == env:
            for path in written:
                path.unlink(missing_ok=True)
            directory.put_back_reviews()
        raise


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
