"""`--mode=evaluate`: scores a split or a table by a run's best checkpoint, or by an ensemble."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.config.schema import Config, join_names
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data import table
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.data.texts import Texts
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.modes import predict
from sentiment_jax.modes.predict import TextSource, output_columns, predict_table
from sentiment_jax.runtime import devices, terminal
from sentiment_jax.storage.checkpoints import tree_sha256
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory, lock_run
from sentiment_jax.training import scoring
from sentiment_jax.training.console import print_metrics, print_scores
from sentiment_jax.training.experiment import read_dataset
from sentiment_jax.training.lineage import warn_of_training_texts
from sentiment_jax.training.metrics import measure, score_probabilities
from sentiment_jax.training.trained_model import TrainedModel, best_sha256, load_ensemble

Scored = tuple[dict[str, Any], dict[str, Any]]  # loss, accuracy and examples; metrics


def evaluate_split(
    workdirs: Sequence[Path],
    split: str,
    changes: Mapping[str, Any] | None = None,
    *,
    calibrated: bool = False,
) -> dict[str, Any]:
    """Print and return the scores of a run, or of an ensemble of runs, on a split of their data.

    `changes` are settings, "group.field" -> value, that affect no score: where the data are now. If
    `calibrated`, probabilities are at the temperature of their run. The predictions of a run alone,
    not calibrated, are written to it.

    InputError: the data are not the runs', or they were made with different data.
    """
    models = [
        dataclasses.replace(trained, config=replace_settings(trained.config, changes or {}))
        for trained in load_ensemble(workdirs, calibrated=calibrated)
    ]
    directories = [RunDirectory(workdir) for workdir in workdirs]
    if len(models) == 1 and not calibrated:
        return _print(split, score_run(models[0], directories[0], split), models)
    hashes = [read_json(directory.env)["data"]["data_hash"] for directory in directories]
    for workdir, other in zip(workdirs, hashes, strict=True):
        if other != hashes[0]:
            raise InputError(
                f"{workdirs[0]} and {workdir} were made with different data (hash "
                f"{hashes[0][:12]} and {other[:12]}): they have no {split} split in common"
            )
    texts = _read_split(models, directories, split)
    return _print(split, score_labeled(models, texts), models, calibrated)


def score_run(trained: TrainedModel, directory: RunDirectory, split: str) -> Scored:
    """Return the scores and metrics of a run on a split, and write its predictions if possible."""
    texts = _read_split([trained], [directory], split)
    with terminal.progress_bar(len(texts), "encoding", unit="text") as bar:
        encoded = trained.encode(texts, bar.update)
    found = scoring.score_texts(trained, trained.params, encoded, split)
    try:
        with lock_run(directory.path):
            if best_sha256(directory.path) != tree_sha256(trained.params):
                raise InputError(f"{directory.path} has been replaced by another run")
            write_predictions(
                directory, split, texts, found.probabilities, trained.config, trained.thresholds
            )
    except (InputError, RunError, OSError) as error:  # a training holds it; it can't be written
        terminal.warn(f"predictions not written: {error}")
    scored = (texts.labels, found.probabilities, trained.classes, trained.thresholds)
    return found.scores, measure(trained.kind, *scored)


def evaluate_file(
    workdirs: Sequence[Path],
    source: TextSource,
    output: Path | None,
    label_column: str | None = None,
    *,
    calibrated: bool = False,
) -> dict[str, Any]:
    """Print and return the scores of a run, or of an ensemble of runs, on a labeled table.

    The predictions, beside the cells of the table, are written to `output`, if any. The columns are
    the run's unless others are named.
    """
    if output is not None:
        source.check_output(output)
    models = load_ensemble(workdirs, calibrated=calibrated)
    data = models[0].config.data
    column = source.column or data.text_column
    texts = read_labeled(models[0].config, str(source.file), column, label_column)
    for workdir in workdirs:
        warn_of_training_texts(workdir, texts)
    if output is not None:
        unscored = source.read(data)
        output_columns(unscored, models[0].config, output)
    scores = _print("input", score_labeled(models, texts), models, calibrated)
    if output is not None:
        predict_table(models, unscored, output)
    return scores


def read_labeled(
    config: Config, path: str, text_column: str, label_column: str | None = None, rows: Any = ()
) -> Texts:
    """Read a table of texts, or these rows, with the classes of a run."""
    data = config.data
    labels = data.labels if data.positive_labels else join_names(config.classes)
    columns: Any = {"text_column": text_column, "label_column": label_column or data.label_column}
    return table.read_labeled(dataclasses.replace(data, path=path, labels=labels, **columns), rows)


def score_labeled(models: Sequence[TrainedModel], texts: Texts) -> Scored:
    """Return scores and metrics of the averaged probabilities on any texts, blank ones, too."""
    probabilities, warnings = predict.predict(models, texts)
    predict.print_warning_count(warnings)
    thresholds = predict.mean_thresholds(models)
    kind = models[0].kind
    measured = measure(kind, texts.labels, probabilities, models[0].classes, thresholds)
    return score_probabilities(kind, texts.labels, probabilities, thresholds), measured


def _print(
    name: str, scored: Scored, models: Sequence[TrainedModel], calibrated: bool = False
) -> dict[str, Any]:
    """Print scores for a person, then, on the last line, for a script; return them."""
    scores, metrics = scored
    remark = f"ensemble of {len(models)} runs" if len(models) > 1 else f"step {models[0].step}"
    print_scores(name, scores, f"{remark}, calibrated" if calibrated else remark)
    print_metrics(models[0].kind, metrics)
    print(json.dumps(scores))
    return scores


def _read_split(
    models: Sequence[TrainedModel], directories: Sequence[RunDirectory], split: str
) -> Texts:
    """Read a split again; InputError if it is empty or the data are not the data of each run."""
    dataset = read_dataset(models[0].config)  # equal runs may hold it in another order
    for directory, trained in zip(directories, models, strict=True):
        devices.check_batch_size("eval_batch_size", trained.config.eval_batch_size)
        directory.check_data(dataset.statistics)
    texts = dataset.splits[split]
    if not len(texts):
        directory = directories[0]
        raise InputError(
            f"{directory.path} holds out no texts (data.validation_fraction=0, or data.folds: "
            f"{directory.result.name} there has the scores of a cross-validation)"
        )
    return texts
