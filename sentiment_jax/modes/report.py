"""`--mode=report`: findings, tables, plots and one page, made from run directories alone."""

import functools
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
from sentiment_jax.analysis.records import Group, by_data, collect, hardware, in_words, read_texts
from sentiment_jax.config.stored import flatten
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import write_atomically, write_csv
from sentiment_jax.storage.selection import Ranking
from sentiment_jax.sweeps import plan
from sentiment_jax.sweeps.plan import FIELDS, Trial
from sentiment_jax.training.metrics import mcnemar

MISTAKES = 15
BEST = ["best epoch", "validation loss", "validation accuracy", "epoch s"]
SCORES = ["val loss", "val accuracy", "test loss", "test accuracy", "training s", "status", "run"]
SHARED = ("runs", "models", "metrics", "classes", "mcnemar")  # tables of several groups
PAIRS = ["only the first correct", "only the second correct", "p"]
# Values keep their types: a missing one does not turn integers into floats.
_table = functools.partial(pandas.DataFrame, dtype=object)


def report(directories: Sequence[Path], output: Path, with_text: bool = False) -> None:
    """Write report.md, report.html, one CSV file per table and one PNG per plot.

    `directories` are sweeps, runs, or folders of them. With `with_text`, the page shows the text of
    the hardest mistakes, for which the data are read again.

    Models are ranked by validation accuracy. Runs of different data are reported in parts.

    InputError: nothing finished, damaged files, or an unwritable folder.
    """
    parts = by_data(collect(directories))
    contents: list[dict[str, Any]] = []
    try:
        for data, groups in parts.items():
            prefix = f"{data}-" if len(parts) > 1 else ""  # of what several groups share
            contents.append({"name": data} | _report_data(groups, output, prefix, with_text))
        title = findings.title(parts)
        for name in ("report.md", "report.html"):
            values = {"title": title, "parts": contents, "sections": []}
            text = render(f"{name}.j2", **values, hardware=hardware, turned=_turn)
            write_atomically(output / name, text)
    except OSError as error:
        raise InputError(f"cannot write to --output={output}: {error.strerror}") from error
    for content in contents:
        if len(parts) > 1:
            print(f"{content['name']}: {content['data']}")
        for row in content["tables"].get("models", _table([])).to_dict("records"):
            sd = "" if row["± sd"] is None else f" ± {row['± sd']:.4f}"
            score = f"test accuracy {row['test accuracy']:.4f}{sd}, {row['seeds']} seeds"
            print(f"{row['name']}: {score}")
    print(f"wrote {output}/report.html, report.md, tables (.csv) and plots (.png)")


def _report_data(
    groups: Sequence[Group], output: Path, prefix: str, with_text: bool
) -> dict[str, Any]:
    """Write the tables and figures of the groups of one data set; return what a page shows."""
    tested = [group for group in groups if group.tested]
    models = {group.name: predictions.read_predictions(group.tested) for group in tested}
    calibrated = {}
    for group in tested:
        temperatures = [trial.content["temperature"] for trial in group.tested]
        calibrated[group.name] = predictions.calibrate(models[group.name], temperatures)
    tables = _sweep_tables(groups)
    if tested:
        tables |= _metrics(models)
        tables["models"] = _table([_over_seeds(group) for group in tested])
    for group in tested:
        mistakes = predictions.hardest_mistakes(models[group.name], MISTAKES)
        if with_text:  # in the first column: a phone shows the left of a table
            mistakes.insert(0, "text", mistakes["id"].map(read_texts(group.tested[0])))
        tables[f"{group.name}-mistakes"] = mistakes
    output.mkdir(parents=True, exist_ok=True)
    drawn = {name: output / f"{name}.png" for g in groups for name in _draw_choice(g, output)}
    if tested:
        drawn |= _draw_test(models, calibrated, output, prefix)
    for name, frame in tables.items():
        start = prefix if name in SHARED else ""
        write_csv(output / f"{start}{name}.csv", list(frame), frame.values.tolist())
    return {
        "groups": groups,
        "tables": tables,
        "drawn": drawn,
        "data": findings.data_in_words(groups),
        "lead": findings.lead(groups, tables),
    }


def _sweep_tables(groups: Sequence[Group]) -> dict[str, pandas.DataFrame]:
    """Return all trials, and those along each axis of a sweep: name -> table."""
    axes = dict.fromkeys([*FIELDS, *itertools.chain(*(group.axes for group in groups))])
    setting = [axis.replace("_", " ") for axis in axes]
    columns = ["name", "stage", *setting, "seed", "best epoch", "epochs", *SCORES]
    rows = [_row(group, trial) for group in groups for trial in group.trials]
    tables = {"runs": _table(rows, columns=list(dict.fromkeys(columns)))}
    for group in groups:
        for axis in group.axes:
            rows = [_row(group, trial) for trial in group.along(axis).values()]
            if len(rows) > 1:
                heads = [axis.replace("_", " "), *BEST]
                tables[f"{group.name}-{axis}"] = _table(rows, columns=heads)
    return tables


def _row(group: Group, trial: Trial) -> dict[str, Any]:
    """Return everything that a table may show about a trial."""
    known = flatten(trial.config) | trial.row  # another sweep's axis is a setting of this one
    row = {name.replace("_", " "): value for name, value in known.items()}
    row["name"] = group.name
    for metric in ("loss", "accuracy"):
        row[f"validation {metric}"] = known[f"val_{metric}"]
    seconds = known["train_seconds"]
    row["training s"] = seconds
    row["epoch s"] = None if seconds is None else seconds / trial.content["epochs"]
    if reason := known["reason"]:
        where = "" if "at step" in reason else f" at step {known['step']}"
        row["status"] = f"failed{where}: {reason}"
    return row


def _over_seeds(group: Group) -> dict[str, Any]:
    """Return one model's row: means over the seeds, sample standard deviation."""
    results = [trial.content for trial in group.tested]
    accuracies = [result["test"]["accuracy"] for result in results]
    return {
        "name": group.name,
        "model": results[0]["model"],
        "seeds": len(results),
        "test accuracy": group.mean_test("accuracy"),
        "± sd": statistics.stdev(accuracies) if len(results) > 1 else None,
        "test loss": group.mean_test("loss"),
        "validation accuracy": group.validation["accuracy"],
        "parameters": results[0]["parameters"],
        "training s": statistics.mean(result["train_seconds"] for result in results),
        "hardware": hardware(group.tested[0]),
    }


def _metrics(models: Mapping[str, Predictions]) -> dict[str, pandas.DataFrame]:
    """Tabulate the metrics of all predictions, of each class, and McNemar's tests of all pairs."""
    metrics = []
    classes = []
    pairs = []
    for name, model in models.items():
        measured = predictions.mean_metrics(model)
        for label, scores in measured.pop("classes").items():
            examples = round(scores["examples"])
            classes.append({"name": name, "class": label, **scores, "examples": examples})
        if len(model.probabilities) > 1:  # this mean has a ± sd, and needs no second interval
            del measured["low (95 %)"], measured["high (95 %)"]
        metrics.append({"name": name, **measured})
    remarks: dict[str, str] = {}
    for (first, one), (second, other) in itertools.combinations(models.items(), 2):
        if one.order != other.order:
            terminal.warn(f"{first} and {second} have the test set in other orders: not compared")
            continue
        if np.array_equal(one.predicted[0], other.predicted[0]):
            seeds = len(one.probabilities) + len(other.probabilities)
            whose = "first seed: " if seeds > 2 else ""
            remarks.setdefault(second, f"{whose}same predictions as {first}")
            continue
        correct = [model.predicted[0] == model.labels for model in (one, other)]
        found = zip(PAIRS, mcnemar(correct[0], correct[1]), strict=True)
        pairs.append({"first": first, "second": second, **dict(found)})
    for row in metrics if remarks else ():
        row["remark"] = remarks.get(row["name"])
    tables = {"metrics": metrics, "classes": classes, "mcnemar": pairs}
    return {
        name: _table(rows).rename(columns=lambda c: c.replace("_", " ")).replace({np.nan: None})
        for name, rows in tables.items()
        if rows
    }


def _turn(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return a table of few rows and many columns as text, each column a row."""
    texts = [[name, *(cell(value, name) for value in frame[name])] for name in frame]
    return pandas.DataFrame(texts[1:], columns=texts[0])


def _draw_choice(group: Group, output: Path) -> list[str]:
    """Draw how a sweep chose its setting, and its seeds; return the figures' names."""
    names = []
    for axis in group.axes:
        trials = group.along(axis)
        if len(trials) < 2:  # nothing to choose from
            continue
        runs = {words: trial.metrics for words, trial in trials.items()}
        first = next(iter(trials.values()))
        title = f"all at {in_words({a: v for a, v in first.setting.items() if a != axis})}"
        winner = plan.best_finished(list(trials.values()))
        chosen = in_words({axis: winner.setting[axis]}) if winner else ""
        name = f"{group.name}-{axis}"
        by = Ranking.of(first.config)
        if any(line["split"] == "val" for records in runs.values() for line in records):
            names.append(name)
            figures.overlay(runs, chosen, output / f"{name}.png", title, by)
        names.append(f"{name}-runs")
        figures.curves(runs, output / f"{names[-1]}.png", title, by)
    if group.tested:
        names.append(f"{group.name}-seeds")
        runs = {f"seed {trial.config.seed}": trial.metrics for trial in group.tested}
        first = group.tested[0]
        title = in_words(first.setting)
        figures.curves(runs, output / f"{names[-1]}.png", title, Ranking.of(first.config))
    if group.stages:
        names.append(f"{group.name}-grid")
        _draw_grid(group, output / f"{names[-1]}.png")
    return names


def _draw_grid(group: Group, path: Path) -> None:
    """Draw the validation accuracy of every setting: batch sizes in columns, the rest in rows."""
    cells = {}
    winner = None
    for trial in itertools.chain(*group.stages.values()):
        others = [in_words({a: v}) for a, v in trial.setting.items() if a != "batch_size"]
        place = " ".join(words.split()[-1] for words in others), f"batch {trial.config.batch_size}"
        text = "not run" if trial.status == "open" else trial.status
        accuracy = np.nan
        if trial.status == "finished":
            accuracy = trial.content["val"]["accuracy"]
            text = f"{accuracy:.4f}"
            if findings.at_chance(trial):
                text += "\nat chance"
        cells[place] = text, accuracy
        if group.best is not None and trial.directory == group.best.directory:
            winner = place
    figures.heat_map(cells, winner, path)


def _draw_test(
    models: Mapping[str, Predictions],
    calibrated: Mapping[str, Predictions],
    output: Path,
    prefix: str,
) -> dict[str, Path]:
    """Draw the results on the test set; return the figures by name."""
    drawn = {name: output / f"{prefix}{name}.png" for name in ("confusion", "calibration")}
    classes = next(iter(models.values())).classes
    confusions = {name: predictions.confusion(model) for name, model in models.items()}
    figures.confusions(confusions, classes, drawn["confusion"])
    if len(classes) == 2:
        labels = f"p({classes[1]}) of the model", f"share of {classes[1]} reviews"
    else:
        labels = "probability of the predicted class", "share of correct predictions"
    curves = {
        name: [predictions.calibration(model), predictions.calibration(calibrated[name])]
        for name, model in models.items()
    }
    figures.calibration(curves, labels, drawn["calibration"])
    return drawn
