"""`--mode=report`: findings, tables, plots and one page, made from run directories alone."""

import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from sentiment_jax.analysis import figures, findings, predictions, study
from sentiment_jax.analysis.html import format_rate, render
from sentiment_jax.analysis.predictions import Predictions
from sentiment_jax.analysis.records import Group, collect, hardware, in_words, read_texts
from sentiment_jax.config.stored import flatten
from sentiment_jax.data.labels import decide
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import write_atomically, write_csv
from sentiment_jax.sweeps import plan
from sentiment_jax.sweeps.plan import FIELDS, Trial

MISTAKES = 15
SPLITS = {"val": "validation", "test": "test"}
BEST = ["best epoch", "validation loss", "validation accuracy", "epoch s"]
SCORES = ["val loss", "val accuracy", "test loss", "test accuracy", "training s", "status", "run"]
# Values keep their types: a missing one does not turn integers into floats.
_table = functools.partial(pandas.DataFrame, dtype=object)


def report(directories: Sequence[Path], output: Path, with_text: bool = False) -> None:
    """Write report.md, report.html, one CSV file per table and one PNG per plot.

    `directories` are sweeps, runs, or folders of them. With `with_text`, the page shows the text of
    the hardest mistakes, for which the data are read again.

    InputError: nothing finished, damaged files, different data, or an unwritable folder.
    """
    groups = collect(directories)
    tested = [group for group in groups if group.tested]
    models = {group.name: predictions.read_predictions(group.tested) for group in tested}
    calibrated = {}
    for group in tested:
        temperatures = [trial.content["temperature"] for trial in group.tested]
        calibrated[group.name] = predictions.calibrate(models[group.name], temperatures)
    texts = read_texts(tested[0].tested[0]) if with_text and tested else {}
    compared = study.tables(groups)
    tables = _sweep_tables(groups) | compared
    if tested:
        tables["models"] = _table([_over_seeds(group) for group in tested])
        tables |= _metrics(models)
    for name, model in models.items():
        known = predictions.same_reviews(model, models[tested[0].name])
        tables[f"{name}-mistakes"] = _mistakes(model, texts if known else {})
    content = {
        "groups": groups,
        "tables": tables,
        "hardware": hardware,
        "title": findings.title(groups),
        "data": findings.data_in_words(groups),
        "lead": findings.lead(groups, tables),
        "compared": list(compared),
        "remarks": study.remarks() if findings.on_imdb(groups[0].trials[0]) else [],
        "confidence": [findings.confidence(n, models[n], calibrated[n]) for n in models],
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        drawn = [path for group in groups for path in _draw_choice(group, output)]
        if tested:
            drawn += _draw_test(tested, models, calibrated, output)
        for name, frame in tables.items():
            write_csv(output / f"{name}.csv", list(frame), frame.values.tolist())
        for name in ("report.md", "report.html"):
            text = render(f"{name}.j2", **content, drawn={p.stem: p for p in drawn}, sections=[])
            write_atomically(output / name, text)
    except OSError as error:
        raise InputError(f"cannot write to --output={output}: {error.strerror}") from error
    for row in tables["models"].to_dict("records") if tested else ():
        sd = "" if row["± sd"] is None else f" ± {row['± sd']:.4f}"
        print(f"{row['name']}: test accuracy {row['test accuracy']:.4f}{sd}, {row['seeds']} seeds")
    print(f"wrote {output}/report.html, report.md, tables (.csv) and plots (.png)")


def _sweep_tables(groups: Sequence[Group]) -> dict[str, pandas.DataFrame]:
    """Return all trials, the best ones, and those along each axis of a sweep: name -> table."""
    axes = dict.fromkeys([*FIELDS, *itertools.chain(*(group.axes for group in groups))])
    setting = [axis.replace("_", " ") for axis in axes]
    columns = ["name", "stage", *setting, "seed", "best epoch", "epochs", *SCORES]
    columns = list(dict.fromkeys(columns))
    best = [_row(group, group.best) for group in groups if group.best is not None]
    tables = {
        "runs": _table([_row(g, trial) for g in groups for trial in g.trials], columns=columns),
        "best": _table(best, columns=["name", *setting, *BEST]),
    }
    for group, axis in ((g, axis) for g in groups for axis in g.axes):
        trials = group.along(axis)
        if trials and axis == "optimizer":
            tables[f"{group.name}-optimizer-epochs"] = _epochs(trials)
        elif trials:
            rows = [_row(group, trial) for trial in trials.values()]
            tables[f"{group.name}-{axis}"] = _table(rows, columns=[axis.replace("_", " "), *BEST])
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


def _epochs(trials: Mapping[str, Trial]) -> pandas.DataFrame:
    """Tabulate validation loss and accuracy epoch by epoch, two columns per trial."""
    columns = {
        f"{value} {metric}": {
            line["epoch"]: line[metric] for line in trial.metrics if line["split"] == "val"
        }
        for value, trial in trials.items()
        for metric in ("loss", "accuracy")
    }
    frame = pandas.DataFrame(columns, dtype=object).sort_index()
    return frame.rename_axis("epoch").reset_index()


def _over_seeds(group: Group) -> dict[str, Any]:
    """Return one model's row: means over the seeds, sample standard deviation."""
    results = [trial.content for trial in group.tested]
    accuracies = [result["test"]["accuracy"] for result in results]
    scored = sum(result["test"]["examples"] for result in results)
    return {
        "name": group.name,
        "model": results[0]["model"],
        "seeds": len(results),
        "test accuracy": group.mean_test("accuracy"),
        "± sd": statistics.stdev(accuracies) if len(results) > 1 else None,
        "test loss": group.mean_test("loss"),
        "validation accuracy": statistics.mean(result["val"]["accuracy"] for result in results),
        "parameters": results[0]["parameters"],
        "training s": statistics.mean(result["train_seconds"] for result in results),
        "evaluation examples/s": scored / sum(result["test_seconds"] for result in results),
        "hardware": hardware(group.tested[0]),
    }


def _mistakes(model: Predictions, texts: Mapping[str, str]) -> pandas.DataFrame:
    means = model.probabilities.mean(axis=0)
    predicted = decide(means)
    seeds = len(model.predicted)
    scores = ["p(positive)"] if len(model.classes) == 2 else ["predicted", "p(predicted)"]
    if seeds > 1:
        scores.append("seeds wrong")
    columns = ["id", "label", *scores, "words", "tokens read", "truncated"]
    if texts:  # a phone shows the left of a table
        columns = ["text", *columns[1:], "id"]
    rows = [
        {
            "id": model.ids[i],
            "label": model.classes[model.labels[i]],
            "p(positive)": means[i, 1],
            "predicted": model.classes[predicted[i]],
            "p(predicted)": means[i, predicted[i]],
            "seeds wrong": f"{round((1 - model.correct[i]) * seeds)} of {seeds}",
            "words": model.words[i],
            "tokens read": model.tokens[i],
            "truncated": "yes" if model.truncated[i] else "no",
            "text": texts.get(model.ids[i]),
        }
        for i in predictions.hardest_mistakes(model, MISTAKES)
    ]
    return _table(rows, columns=columns)


def _metrics(models: Mapping[str, Predictions]) -> dict[str, pandas.DataFrame]:
    """Tabulate the metrics of all predictions, of each class, and McNemar's tests of all pairs."""
    metrics = []
    classes = []
    pairs = []
    for name, model in models.items():
        measured = predictions.mean_metrics(model)
        accuracy = measured.pop("accuracy")
        low, high = measured.pop("accuracy_interval")
        for label, scores in measured.pop("classes").items():
            examples = round(scores["examples"])
            classes.append({"name": name, "class": label, **scores, "examples": examples})
        interval = {"low (95 %)": low, "high (95 %)": high}
        metrics.append({"name": name, "accuracy": accuracy, **interval, **measured})
    for (first, one), (second, other) in itertools.combinations(models.items(), 2):
        if not predictions.same_reviews(one, other):
            terminal.warn(f"{first} and {second} have other ids for the same reviews: not compared")
            continue
        # Equal reviews may be in another order.
        correct = [(m.predicted[0] == m.labels)[np.argsort(m.ids)] for m in (one, other)]
        only_first, only_second, p = predictions.mcnemar(*correct)
        row = {"first": first, "second": second, "only the first correct": only_first}
        pairs.append({**row, "only the second correct": only_second, "p": p})
    tables = {"metrics": metrics, "classes": classes, "mcnemar": pairs}
    return {
        name: _table(rows).rename(columns=lambda column: column.replace("_", " "))
        for name, rows in tables.items()
        if rows
    }


def _draw_choice(group: Group, output: Path) -> list[Path]:
    """Draw how a sweep chose its setting, and the curves of its seeds; return the files."""
    paths = []
    for axis in group.axes if group.stages else ():
        trials = group.along(axis)
        if len(trials) < 2:  # nothing to choose from
            continue
        runs = {words: trial.metrics for words, trial in trials.items()}
        first = next(iter(trials.values()))
        title = f"all at {in_words({a: v for a, v in first.setting.items() if a != axis})}"
        winner = plan.best_finished(list(trials.values()))
        chosen = in_words({axis: winner.setting[axis]}) if winner else ""
        theirs = study.epochs(group.model, axis) if findings.on_imdb(first) else {}
        overlay = output / f"{group.name}-{axis}.png"
        curves = output / f"{group.name}-{axis}-runs.png"
        figures.overlay(runs, chosen, overlay, title, theirs)
        figures.curves(runs, curves, title)
        paths += [overlay, curves]
    if group.tested:
        path = output / f"{group.name}-seeds.png"
        runs = {f"seed {trial.config.seed}": trial.metrics for trial in group.tested}
        figures.curves(runs, path, in_words(group.tested[0].setting))
        paths.append(path)
    if group.sweep is not None and group.stages:
        path = output / f"{group.name}-grid.png"
        _draw_grid(group, group.sweep.axes, path)
        paths.append(path)
    return paths


def _draw_grid(group: Group, values: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Draw the validation accuracy of every setting, the best over axes beyond the three."""

    def cell(trial: Trial) -> tuple[Any, ...]:
        return tuple(trial.setting[axis] for axis in FIELDS)

    accuracies: dict[tuple[Any, ...], float | None] = {}
    learned = set()
    finished = set()
    for trial in itertools.chain(*group.stages.values()):
        here = cell(trial)
        if trial.status == "failed":
            accuracies.setdefault(here, None)
        elif trial.status == "finished":
            finished.add(here)
            accuracies[here] = max(accuracies.get(here) or 0.0, trial.content["val"]["accuracy"])
            if not findings.at_chance(trial):
                learned.add(here)
    figures.heat_maps(
        accuracies,
        {axis: values[axis] for axis in FIELDS},
        names=[format_rate(rate) for rate in values["learning_rate"]],
        winner=None if group.best is None else cell(group.best),
        chance=finished - learned,
        path=path,
    )


def _draw_test(
    tested: Sequence[Group],
    models: Mapping[str, Predictions],
    calibrated: Mapping[str, Predictions],
    output: Path,
) -> list[Path]:
    """Draw the results on the test set; return the files."""
    paths = [output / f"{name}.png" for name in ("confusion", "calibration")]
    scores = {
        group.name: {
            name: [trial.content[split]["accuracy"] for trial in group.tested]
            for split, name in SPLITS.items()
        }
        for group in tested
    }
    numbers = {group.name: [trial.config.seed for trial in group.tested] for group in tested}
    if sum(map(len, numbers.values())) > 1:
        paths.append(output / "seeds.png")
        figures.seeds(scores, numbers, paths[-1])
    classes = models[tested[0].name].classes
    confusions = {name: predictions.confusion(model) for name, model in models.items()}
    figures.confusions(confusions, classes, paths[0])
    if len(classes) == 2:
        labels = f"p({classes[1]}) of the model", f"share of {classes[1]} reviews"
    else:
        labels = "probability of the predicted class", "share of correct predictions"
    curves = {
        name: [
            ("", *predictions.calibration(model)),
            ("at its temperature", *predictions.calibration(calibrated[name])),
        ]
        for name, model in models.items()
    }
    figures.calibration(curves, labels, paths[1])
    edges, points = predictions.accuracy_by_length(models)
    if len(edges) > 2:  # one bin shows nothing about length
        paths.append(output / "length.png")
        figures.accuracy_by_length(list(models), edges, points, paths[-1])
    return paths
