"""The package from Python: `train`, `pretrain`, `load`, and what a trained model does.

    config = sentiment_jax.get_config("lstm:sample", epochs=3)
    sentiment_jax.train(config, "runs/sample")
    sentiment_jax.load("runs/sample").predict(["A quiet, moving film."])

Each function does what a mode of the command line does, by the same code.
"""

import contextlib
import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas
from jaxtyping import Float
from ml_collections import ConfigDict

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.analysis.integrated_gradients import Explanation
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.schema import Config
from sentiment_jax.config.validation import validate
from sentiment_jax.errors import InputError
from sentiment_jax.modes import evaluate, export, predict
from sentiment_jax.modes.pretrain import pretrain as pretrain_run
from sentiment_jax.modes.train import train as train_run
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import write_atomically
from sentiment_jax.storage.run_directory import (
    RunDirectory,
    lock_run,
    prediction_cells,
    prediction_columns,
    prepare_workdir,
)
from sentiment_jax.sweeps.plan import find_run
from sentiment_jax.training.checks import check_apart
from sentiment_jax.training.trained_model import load_run

# A table with the columns that data.text_column and data.label_column name, or (texts, labels).
Labeled: TypeAlias = pandas.DataFrame | Mapping[str, Any] | tuple[Iterable[Any], Iterable[Any]]


def get_config(
    recipe: str | Path, changes: Mapping[str, Any] | None = None, **settings: Any
) -> ConfigDict:
    """Return the config of "lstm", "lstm:sample", ... or of a file, with some settings changed.

    These are equal: `get_config("lstm", {"optimizer.name": "sgd"}, epochs=3)` and
    `get_config("lstm", epochs=3, optimizer={"name": "sgd"})`.
    """
    return override(read_recipe(str(recipe)), {**(changes or {}), **settings})


def train(
    config: ConfigDict | str | Path,
    workdir: str | Path,
    data: Labeled | None = None,
    *,
    test: Labeled | None = None,
    fresh: bool = False,
    allow_changes: bool = False,
) -> dict[str, Any]:
    """Train, or resume, in `workdir`; score the test set once and return result.json.

    Args:
      config: what `get_config` returns, or takes.
      workdir: the run directory.
      data: reviews to train on instead of the config's. They are written to `workdir` as a CSV
        file, which config.json names: the run is resumed, evaluated and reported from there.
      test: reviews to test on; without them, data.test_fraction of `data` is held out.
      fresh: start over in a used `workdir`.
      allow_changes: resume although the config differs.

    Raises:
      InputError: bad config, data, weights or run directory.
      RunError: divergence, damaged checkpoints, full disk.
      Interrupted: a signal came; the state is saved, the same call resumes.
    """
    config = config if isinstance(config, ConfigDict) else get_config(config)
    validate(config)
    directory = RunDirectory(Path(workdir).expanduser())
    check_apart(config, directory)
    if data is None and test is not None:
        raise InputError("test= goes with data=; a config has data.test_path")
    with _put_back(directory):
        if data is not None:
            given = {"train": data} | ({} if test is None else {"test": test})
            config = _keep_reviews(config, directory, given, fresh)
        startup.start(config)
        return train_run(config, directory.path, fresh=fresh, allow_changes=allow_changes)


def pretrain(
    config: ConfigDict | str | Path,
    workdir: str | Path,
    *,
    fresh: bool = False,
    allow_changes: bool = False,
) -> dict[str, Any]:
    """Learn from unlabeled text, or resume, in `workdir`; return result.json.

    The text is the config's: its source's reviews and unlabeled text, or pretrain.text. A training
    starts from it by `{"model.pretrained": workdir}`. Arguments and errors are those of `train`.
    """
    config = config if isinstance(config, ConfigDict) else get_config(config)
    validate(config, pretraining=True)
    startup.start(config)
    directory = Path(workdir).expanduser()
    return pretrain_run(config, directory, fresh=fresh, allow_changes=allow_changes)


def load(workdir: str | Path) -> "Model":
    """Return the best checkpoint of a run directory, or of the winner of a sweep's directory.

    Raises:
      InputError: no run, or no validated checkpoint yet.
      RunError: the checkpoint is damaged.
    """
    return Model(find_run(Path(workdir).expanduser()))


class Model:
    """A trained model: `load` returns one."""

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self._directory = RunDirectory(workdir)
        self._directory.check_found()
        startup.start(self._directory.read_config())
        self._trained = load_run(workdir)

    def __repr__(self) -> str:
        return f"Model({str(self.workdir)!r}): {self.config.model.name}, step {self._trained.step}"

    @property
    def config(self) -> Config:
        """The config of its run."""
        return self._trained.config

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes: of two, the second is the positive one."""
        return self._trained.classes

    def predict(self, texts: str | Iterable[Any] | pandas.DataFrame) -> pandas.DataFrame:
        """Return the predictions: a row per text, its columns those of --mode=predict.

        `texts` are strings, or a table with the column data.text_column; a Series' or a table's
        index is kept. The prediction for a missing or unreadable text carries a `warning`.
        """
        column = self._texts(texts)
        probabilities, warnings = predict.predict([self._trained], column.tolist())
        names = prediction_columns(self.classes)
        cells = prediction_cells(self.config.cells, probabilities)
        table = pandas.DataFrame(cells, columns=names, index=column.index)
        return table.astype(dict.fromkeys(names[1:], float)).assign(warning=warnings)

    def predict_proba(
        self, texts: str | Iterable[Any] | pandas.DataFrame
    ) -> Float[np.ndarray, "texts classes"]:
        """Return the probability of each class, `classes`, for each text."""
        probabilities, _ = predict.predict([self._trained], self._texts(texts).tolist())
        return probabilities

    def explain(self, text: str) -> Explanation:
        """Return each word's attribution to the predicted class: integrated gradients."""
        return integrated_gradients.explain(self._trained, text)

    def evaluate(self, data: str | Labeled = "test") -> dict[str, Any]:
        """Return scores and metrics on a split of the run's data, "test" or "val", or on others.

        A split's predictions are written to the run directory, as by --mode=evaluate.
        """
        if isinstance(data, str):
            if data not in ("test", "val"):
                raise InputError(f"evaluate({data!r}): choose test or val, or give reviews")
            scores, metrics = evaluate.score_run(self._trained, self._directory, data)
            return scores | metrics
        settings = self.config.data
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.csv"
            write_atomically(path, _to_csv(data, settings.text_column, settings.label_column))
            try:
                reviews = evaluate.read_labeled(self.config, str(path), settings.text_column)
            except InputError as error:
                raise InputError(str(error).replace(str(path), "the data")) from None
        scores, metrics = evaluate.score_labeled([self._trained], reviews)
        return scores | metrics

    def export(self, folder: str | Path) -> None:
        """Write an encoder as a folder that Hugging Face's transformers open."""
        export.export_run(self._trained, self.workdir, Path(folder).expanduser())

    def _texts(
        self, texts: str | Iterable[Any] | Mapping[str, Any] | pandas.DataFrame
    ) -> pandas.Series:
        if isinstance(texts, Mapping | pandas.DataFrame):
            name = self.config.data.text_column
            texts = pandas.DataFrame(texts)
            _check_columns(texts, [name])
            texts = texts[name]
        elif isinstance(texts, str):
            texts = [texts]
        column = texts if isinstance(texts, pandas.Series) else pandas.Series(list(texts))
        return column.astype(object).where(column.notna(), "").map(str)


def _check_columns(table: pandas.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in table.columns:
            found = ", ".join(map(repr, table.columns))
            raise InputError(
                f"the data have no column {name!r}: their columns are {found}; rename it, or set "
                "data.text_column and data.label_column"
            )


def _to_csv(data: Labeled, text_column: str, label_column: str) -> str:
    """Return reviews as the CSV file that our reader takes."""
    columns = [text_column, label_column]
    try:
        if isinstance(data, tuple):
            data = dict(zip(columns, map(list, data), strict=True))
        table = pandas.DataFrame(data).convert_dtypes()  # what pandas keeps as 1.0 is 1 again
        _check_columns(table, columns)
        text = table[columns].to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
        text.encode()
    except (TypeError, ValueError) as error:  # a lone surrogate, which is no text, among them
        raise InputError(f"data must be a table, or (texts, labels): {error}") from error
    return text


@contextlib.contextmanager
def _put_back(directory: RunDirectory) -> Iterator[None]:
    """Put a run's reviews back where what follows fails and leaves that run as it was."""
    env = directory.env
    files = (env, *directory.reviews.values())
    before = {path: path.read_bytes() for path in files if path.is_file()}
    try:
        yield
    except BaseException:
        if env.is_file() and before.pop(env, None) == env.read_bytes():
            for path, content in before.items():
                write_atomically(path, content.decode())
        raise


def _keep_reviews(
    config: ConfigDict, directory: RunDirectory, given: Mapping[str, Labeled], fresh: bool
) -> ConfigDict:
    """Write reviews to the run directory; return the config that reads them there."""
    files = {split: directory.reviews[split] for split in given}
    prepare_workdir(directory.path)
    with lock_run(directory.path):
        for split, path in files.items():
            text = _to_csv(given[split], config.data.text_column, config.data.label_column)
            if path.exists() and not fresh and path.read_bytes() != text.encode():
                raise InputError(f"{path} holds other reviews: choose another workdir, or fresh")
            write_atomically(path, text)
    paths = {split: str(path.absolute()) for split, path in files.items()}
    changes = {"source": "csv", "path": paths["train"], "test_path": paths.get("test", "")}
    return override(config, {"data": changes})
