"""`--mode=report`: findings, tables, plots and one page, made from run directories alone."""

import hashlib
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from sentiment_jax.analysis import figures, findings, predictions
from sentiment_jax.analysis.html import cell, render
from sentiment_jax.analysis.predictions import Predictions
from sentiment_jax.analysis.records import Group, by_data, collect, hardware
from sentiment_jax.config.schema import FEW_CLASSES
from sentiment_jax.config.stored import flatten
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import write_atomically, write_csv
from sentiment_jax.storage.run_directory import check_place
from sentiment_jax.sweeps import plan
from sentiment_jax.sweeps.plan import Trial, in_words
from sentiment_jax.training.metrics import coverage, mcnemar, worst_classes

MISTAKES = 15
AT_LEAST = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
BEST = ["best_epoch", "validation_loss", "validation_accuracy", "epoch_s"]
SCORES = ["val_loss", "val_accuracy", "test_loss", "test_accuracy", "training_s", "status", "run"]
SHARED = ("runs", "models", "metrics", "classes", "confused", "words", "mcnemar")  # of all groups


def report(directories: Sequence[Path], output: Path, with_text: bool = False) -> None:
    """Write report.html, one CSV file per table and one PNG per plot.

    `directories` are sweeps, runs, or folders of them. The page shows the texts of the hardest
    mistakes if the data, which are read again, are a table; with `with_text`, of any data. Models
    are ranked by validation. Runs of different data are reported in parts.

    InputError: nothing finished, damaged files, or an unwritable folder.
    """
    check_place(output)
    parts = by_data(collect(directories))
    contents: list[dict[str, Any]] = []
    try:
        for data, groups in parts.items():
            prefix = f"{data}-" if len(parts) > 1 else ""  # of the files that groups share
            contents.append({"name": data} | _report_data(groups, output, prefix, with_text))
        values = {"title": findings.title(parts), "parts": contents, "hardware": hardware}
        page = render("report.html.j2", **values, sections=[], turned=_turn, worst=_worst)
        write_atomically(output / "report.html", page)
    except OSError as error:
        raise InputError(f"cannot write to --output={output}: {error.strerror}") from error
    for content in contents:
        if len(parts) > 1:
            print(f"{content['name']}: {content['data']}")
        for row in content["tables"].get("models", _table([])).to_dict("records"):
            several = row["seeds"] > 1
            seeds = f" ± {row['± sd']:.4f}, {row['seeds']} seeds" if several else ", 1 seed"
            print(f"{row['name']}: test accuracy {row['test accuracy']:.4f}{seeds}")
    print(f"wrote {output}/report.html, tables (.csv) and plots (.png)")


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> pandas.DataFrame:
    """Tabulate rows, with spaces for underscores in the headings; by default all their entries."""
    # Values keep their types: a missing one does not turn integers into floats.
    frame = pandas.DataFrame(rows, columns=list(dict.fromkeys(columns)) or None, dtype=object)
    return frame.rename(columns=lambda name: name.replace("_", " "))


def _report_data(
    groups: Sequence[Group], output: Path, prefix: str, with_text: bool
) -> dict[str, Any]:
    """Write the tables and figures of the groups of one data set; return what a page shows."""
    tested = [group for group in groups if group.tested]
    models = {group.name: predictions.read_predictions(group.tested) for group in tested}
    axes = itertools.chain(*(group.trials[0].axes for group in groups))
    columns = ["name", "round", *axes, "seed", "best_epoch", "epochs", *SCORES]
    rows = [_row(group, trial) for group in groups for trial in group.trials]
    tables = {"runs": _table(rows, columns)}
    for group in groups:
        for axis, trials in group.choices.items():
            rows = [_row(group, trial) for trial in trials.values()]
            tables[f"{group.name}-{axis}"] = _table(rows, [axis, *BEST])
    if tested:
        tables |= _metrics(models)
        tables["models"] = _table([_over_seeds(group) for group in tested])
        tables |= _strongest_words(tested)
    for group in tested:
        if rows := _coverage(group.tested[0]):
            tables[f"{group.name}-coverage"] = _table(rows)
    tables |= _mistakes(tested, models, with_text)
    output.mkdir(parents=True, exist_ok=True)
    drawn = [path for group in groups for path in _draw_choice(group, output)]
    if tested:
        drawn += _draw_test(models, output, prefix)
        drawn += _draw_accuracies(tested, tables, output / f"{prefix}accuracies.png")
    for name, frame in tables.items():
        start = prefix if name in SHARED else ""
        write_csv(output / f"{start}{name}.csv", list(frame), frame.values.tolist())
    return {
        "groups": groups,
        "tables": tables,
        "drawn": {path.stem: path for path in drawn},
        "prefix": prefix,
        "data": findings.data_in_words(groups),
        "lead": findings.lead(groups, tables),
        "ranked_by": findings.ranked_by(groups),
    }


def _mistakes(
    tested: Sequence[Group], models: Mapping[str, Predictions], with_text: bool
) -> dict[str, pandas.DataFrame]:
    """Tabulate the hardest mistakes of each group: on the test texts and, of folds, the others."""
    found: dict[str, pandas.DataFrame] = {}
    texts: dict[Any, dict[str, str]] = {}  # by the ids and the order of the texts
    for group in tested:
        wrong = {"mistakes": models[group.name]}
        if "folds" in group.tested[0].content:
            wrong["labels"] = predictions.read_predictions(group.tested, "val")
        known = tuple((of.order, of.ids) for of in wrong.values())
        if known not in texts:
            texts[known] = find_texts(group.tested[0], with_text, [*wrong.values()])
        for name, predicted in wrong.items():
            frame = predictions.hardest_mistakes(predicted, MISTAKES)
            if texts[known]:  # in the first column: a phone shows the left of a table
                frame.insert(0, "text", frame["id"].map(texts[known]))
            found[f"{group.name}-{name}"] = frame
    return found


def _coverage(trial: Trial) -> list[dict[str, Any]]:
    """Return which validation texts a run is sure of, and how often it is right then."""
    if trial.config.data.multi_label or not trial.files.predictions["val"].exists():
        return []
    model = predictions.read_predictions([trial], "val")
    scored = model.kind, model.labels, model.probabilities[0], model.thresholds[0]
    names = ("p_at_least", "share_of_texts", "accuracy")
    return [dict(zip(names, (p, *coverage(*scored, p)), strict=True)) for p in AT_LEAST]


def _strongest_words(tested: Sequence[Group]) -> dict[str, pandas.DataFrame]:
    """Return the table of the first linear baseline's strongest words, if there is one."""
    for group in tested:
        if words := group.tested[0].content.get("linear_baseline", {}).get("words"):
            rows = [{"class": name, "words": ", ".join(of)} for name, of in words.items()]
            return {"words": _table(rows)}
    return {}


def find_texts(trial: Trial, asked_for: bool, shown: Sequence[Predictions]) -> dict[str, str]:
    """Return id -> text to show: of a table if it is still there, or of any data if asked for.

    None is shown, or InputError if asked for, where the ids of what is `shown` name others.
    """
    if not (asked_for or trial.config.data.source == "csv"):
        return {}
    try:
        dataset = load_dataset(trial.config.data)
        if dataset.statistics["data_hash"] != trial.content["data_hash"]:
            raise InputError(f"the data changed since {trial.directory} was made")
        splits = dataset.splits.values()
        texts = {i: text for of in splits for i, text in zip(of.ids, of.texts, strict=True)}
        known = {i: one for of in splits for i, one in zip(of.ids, of.hashes.tolist(), strict=True)}
        for of in shown:
            if hashlib.sha256(b"".join(known.get(i, b"") for i in of.ids)).hexdigest() != of.order:
                raise InputError(f"the rows of the data moved since {trial.directory} was made")
    except InputError as error:
        if asked_for:
            raise
        terminal.warn(f"no texts are shown: {error}")
        return {}
    return texts


def _row(group: Group, trial: Trial) -> dict[str, Any]:
    """Return everything that a table may show of a trial."""
    row = flatten(trial.config) | trial.row  # another sweep's axis is a setting of this one
    row["name"] = group.name
    for metric in ("loss", "accuracy"):
        row[f"validation_{metric}"] = row[f"val_{metric}"]
    seconds = row["training_s"] = row["train_seconds"]
    row["epoch_s"] = None if seconds is None else seconds / trial.content["epochs"]
    if reason := row["reason"]:
        where = "" if "at step" in reason else f" at step {row['step']}"
        row["status"] = f"failed{where}: {reason}"
    return row


def _over_seeds(group: Group) -> dict[str, Any]:
    """Return one model's row: means over the seeds, sample standard deviation."""
    results = [trial.content for trial in group.tested]
    accuracies = group.test_scores("accuracy")
    return {
        "name": group.name,
        "model": group.model,
        "seeds": len(results),
        "test_accuracy": statistics.mean(accuracies),
        "± sd": statistics.stdev(accuracies) if len(results) > 1 else None,
        "test_loss": statistics.mean(group.test_scores("loss")),
        "validation_accuracy": group.validation["accuracy"],
        "parameters": results[0]["parameters"],
        "training_s": statistics.mean(result["train_seconds"] for result in results),
        "hardware": hardware(group.tested[0]),
    }


def _metrics(models: Mapping[str, Predictions]) -> dict[str, pandas.DataFrame]:
    """Tabulate the metrics of all predictions, of each class, and McNemar's tests of all pairs."""
    metrics = []
    classes = []
    confused: list[dict[str, Any]] = []  # of classes that are too many for a matrix
    pairs = []
    for name, model in models.items():
        measured = predictions.mean_metrics(model)
        for label, scores in measured.pop("classes").items():
            classes.append({"name": name, "class": label, **scores})
        if len(model.classes) > FEW_CLASSES:
            confused += [{"name": name, **pair} for pair in predictions.confused_pairs(model)]
        metrics.append({"name": name, **measured})
    for (first, one), (second, other) in itertools.combinations(models.items(), 2):
        if one.order != other.order:
            terminal.warn(f"{first} and {second} have the test set in other orders: not compared")
        else:
            tested = mcnemar(one.correct[0], other.correct[0])
            names = ("first", "second", "only the first correct", "only the second correct", "p")
            pairs.append(dict(zip(names, (first, second, *tested), strict=True)))
    tables = {"metrics": metrics, "classes": classes, "confused": confused, "mcnemar": pairs}
    return {name: _table(rows) for name, rows in tables.items() if rows}


def _worst(frame: pandas.DataFrame, classes: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of the classes of which the first model of a table of classes finds least."""
    rows = classes[classes["name"] == classes["name"].iloc[0]].to_dict("records")
    shown = worst_classes({row["class"]: row for row in rows})[:FEW_CLASSES]
    return frame[frame["class"].isin(shown)]


def _turn(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return a table of few rows and many columns as text, each column with a value a row."""
    known = frame.dropna(axis="columns", how="all")
    texts = [[name, *(cell(value, name) for value in known[name])] for name in known]
    return pandas.DataFrame(texts[1:], columns=texts[0])


def _draw_choice(group: Group, output: Path) -> list[Path]:
    """Draw how a sweep chose its setting, and its seeds; return the figures."""
    drawn = []

    def path(name: str) -> Path:
        drawn.append(output / f"{group.name}-{name}.png")
        return drawn[-1]

    by = group.trials[0].ranking
    for axis, trials in group.choices.items():
        runs = {words: trial.metrics for words, trial in trials.items()}
        first = next(iter(trials.values()))
        title = f"all at {in_words({a: v for a, v in first.setting.items() if a != axis})}"
        winner = plan.best_finished(list(trials.values()))
        chosen = in_words({axis: winner.setting[axis]}) if winner else ""
        if any(line["split"] == "val" for records in runs.values() for line in records):
            figures.overlay(runs, chosen, path(axis), title, by)
        figures.curves(runs, path(f"{axis}-runs"), title, by)
    if group.tested:
        runs = {f"seed {trial.config.seed}": trial.metrics for trial in group.tested}
        figures.curves(runs, path("seeds"), in_words(group.tested[0].setting), by)
    if group.rounds:
        _draw_grid(group, path("grid"))
    return drawn


def _draw_grid(group: Group, path: Path) -> None:
    """Draw the validation accuracy of every setting: batch sizes in columns, the rest in rows."""

    def place(trial: Trial) -> tuple[str, str]:
        others = {axis: value for axis, value in trial.setting.items() if axis != "batch_size"}
        row = " ".join(plan.format_value(axis, value) for axis, value in others.items())
        return row, f"batch {trial.config.batch_size}"

    cells = {}
    for trial in itertools.chain(*group.rounds.values()):
        text = "not run" if trial.status == "open" else trial.status
        accuracy = np.nan
        if trial.status == "finished":
            accuracy = trial.content["val"]["accuracy"]
            text = f"{accuracy:.4f}" + ("\nat chance" if findings.at_chance(trial) else "")
        cells[place(trial)] = text, accuracy
    figures.heat_map(cells, place(group.best) if group.best else None, path)


def _draw_accuracies(
    tested: Sequence[Group], tables: Mapping[str, pandas.DataFrame], path: Path
) -> list[Path]:
    """Draw the accuracies of the models, and of the linear baseline if there is one."""
    accuracies = dict(zip(tables["models"]["name"], tables["models"]["test accuracy"], strict=True))
    result = tested[0].tested[0].content
    if baseline := result.get("linear_baseline"):
        accuracies["linear baseline"] = baseline["test"]["accuracy"]
    if len(accuracies) == 1:
        return []
    guessing = tables["metrics"]["majority baseline"].iloc[0]
    figures.accuracies(accuracies, result["test"]["examples"], guessing, path)
    return [path]


def _draw_test(models: Mapping[str, Predictions], output: Path, prefix: str) -> list[Path]:
    """Draw the results on the test set; return the figures."""
    drawn = [output / f"{prefix}calibration.png"]
    first = next(iter(models.values()))
    few = len(first.classes) <= FEW_CLASSES
    confusions = {name: predictions.confusion(model) for name, model in models.items() if few}
    if any(counts.any() for counts in confusions.values()):
        drawn.append(output / f"{prefix}confusion.png")
        figures.confusions(confusions, first.classes, drawn[1])
    curves = {
        name: [predictions.calibration(made) for made in (model, predictions.calibrate(model))]
        for name, model in models.items()
    }
    figures.calibration(curves, first.kind.axes(first.classes), drawn[0])
    return drawn
