"""`--mode=report`: what was found, in a sentence, tables, plots and one page, from runs alone."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
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


def report(directories: Sequence[Path], output: Path, with_text: bool = False) -> None:
    """Write report.md, report.html, one CSV file per table and one PNG per plot.

    `directories` are sweeps, runs, or folders of them. With `with_text`, the page shows the text of
    the hardest mistakes; the data are read once more for it.

    Raises:
      InputError: nothing finished, half-written files, different data, or an unwritable folder.
    """
    groups = collect(directories)
    tested = [group for group in groups if group.tested]
    judged = {group.name: predictions.read_predictions(group.tested) for group in tested}
    texts = read_texts(tested[0].tested[0]) if with_text and tested else {}
    tables = _sweep_tables(groups)
    for name, read in judged.items():
        known = predictions.same_reviews(read, judged[tested[0].name])
        tables[f"{name}-mistakes"] = _mistakes(read, texts if known else {})
    if judged:
        tables |= _metrics(judged)
    tables |= (compared := study.tables(groups))
    models = [_over_seeds(group) for group in tested]
    if models:
        tables["models"] = _table(models, models[0])
    calibrated = {group.name: _calibrate(group, judged[group.name]) for group in tested}
    content = {
        **{"groups": groups, "tables": tables, "hardware": hardware},
        "title": findings.title(groups),
        "data": findings.data_in_words(groups),
        "lead": findings.lead(groups, tables),
        "compared": [*compared],
        "remarks": study.remarks() if findings.of_imdb(groups[0].trials[0]) else [],
        "sureness": [findings.sureness(name, judged[name], of) for name, of in calibrated.items()],
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        drawn = [path for group in groups for path in _draw_choice(group, output)]
        if tested:
            drawn += _draw_test(tested, judged, calibrated, output)
        for name, frame in tables.items():
            write_csv(output / f"{name}.csv", list(frame), frame.values.tolist())
        for name in ("report.md", "report.html"):
            text = render(f"{name}.j2", **content, drawn={p.stem: p for p in drawn}, sections=[])
            write_atomically(output / name, text)
    except OSError as error:
        raise InputError(f"cannot write to --output={output}: {error.strerror}") from error
    for row in models:
        sd = "" if row["± sd"] is None else f" ± {row['± sd']:.4f}"
        print(f"{row['study']}: test accuracy {row['test accuracy']:.4f}{sd}, {row['seeds']} seeds")
    print(f"wrote {output}/report.html, report.md, tables (.csv) and plots (.png)")


def _table(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> pandas.DataFrame:
    """Make a table whose values stay what they are: no missing one turns integers into floats."""
    return pandas.DataFrame(list(rows), columns=list(columns), dtype=object)


def _sweep_tables(groups: Sequence[Group]) -> dict[str, pandas.DataFrame]:
    """Return all trials, the best ones, and those along each axis of a sweep: name -> table."""
    axes = dict.fromkeys([*FIELDS, *itertools.chain(*(group.axes for group in groups))])
    setting = [axis.replace("_", " ") for axis in axes]
    columns = dict.fromkeys(["study", "stage", *setting, "seed", "best epoch", "epochs", *SCORES])
    best = [_row(group, group.best) for group in groups if group.best is not None]
    tables = {
        "runs": _table((_row(g, trial) for g in groups for trial in g.trials), columns),
        "best": _table(best, ["study", *setting, *BEST]),
    }
    for group, axis in ((g, axis) for g in groups for axis in g.axes):
        if trials := group.along(axis):
            name, rows = f"{group.name}-{axis}", [_row(group, t) for t in trials.values()]
            if axis == "optimizer":
                tables[f"{name}-epochs"] = _epochs(trials)
            else:
                tables[name] = _table(rows, [axis.replace("_", " "), *BEST])
    return tables


def _row(group: Group, trial: Trial) -> dict[str, Any]:
    """Return all that a table may say of a trial."""
    known = flatten(trial.config) | trial.row  # another sweep's axis is a setting of this one
    row = {"study": group.name, **{name.replace("_", " "): known[name] for name in known}}
    row |= {f"validation {name}": known[f"val_{name}"] for name in ("loss", "accuracy")}
    seconds = row["training s"] = known["train_seconds"]
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
    results, mean = [trial.content for trial in group.tested], statistics.mean
    tests = [result["test"] for result in results]
    accuracies = [test["accuracy"] for test in tests]
    seconds = sum(result["test_seconds"] for result in results)
    return {
        "study": group.name,
        "model": results[0]["model"],
        "seeds": len(results),
        "test accuracy": group.mean_test("accuracy"),
        "± sd": statistics.stdev(accuracies) if len(results) > 1 else None,
        "test loss": group.mean_test("loss"),
        "validation accuracy": mean(result["val"]["accuracy"] for result in results),
        "parameters": results[0]["parameters"],
        "training s": mean(result["train_seconds"] for result in results),
        "evaluation examples/s": sum(test["examples"] for test in tests) / seconds,
        "hardware": hardware(group.tested[0]),
    }


def _mistakes(read: Predictions, texts: Mapping[str, str]) -> pandas.DataFrame:
    means, classes, seeds = read.probabilities.mean(axis=0), read.classes, len(read.verdicts)
    judged = decide(means)
    shown = ["p(positive)"] if len(classes) == 2 else ["verdict", "p(verdict)"]
    wrong = ["seeds wrong"] * (seeds > 1)
    columns = ["id", "label", *shown, *wrong, "words", "tokens read", "truncated"]
    if texts:  # a phone shows a table's left
        columns = ["text", *columns[1:], "id"]
    rows = [
        {
            "id": read.ids[i],
            "label": classes[read.labels[i]],
            "p(positive)": means[i, 1],
            "verdict": classes[judged[i]],
            "p(verdict)": means[i, judged[i]],
            "seeds wrong": f"{round((1 - read.right[i]) * seeds)} of {seeds}",
            "words": read.words[i],
            "tokens read": read.tokens[i],
            "truncated": "yes" if read.truncated[i] else "no",
            "text": texts.get(read.ids[i]),
        }
        for i in predictions.hardest_mistakes(read, MISTAKES)
    ]
    return _table(rows, columns)


def _metrics(judged: Mapping[str, Predictions]) -> dict[str, pandas.DataFrame]:
    """Tabulate all figures of the verdicts, each class's, and McNemar's test of any two models."""
    models, classes, pairs = [], [], []
    for name, read in judged.items():
        measured = predictions.mean_metrics(read)
        low, high = measured.pop("accuracy_interval")
        for label, of in measured.pop("classes").items():
            classes.append({"study": name, "class": label, **of, "examples": round(of["examples"])})
        interval = {"low (95 %)": low, "high (95 %)": high}
        models.append({"study": name, "accuracy": measured.pop("accuracy"), **interval, **measured})
    for (first, one), (second, other) in itertools.combinations(judged.items(), 2):
        if not predictions.same_reviews(one, other):
            terminal.warn(f"{first} and {second} have other ids for the same reviews: not compared")
            continue
        # The files' order is the readers'.
        right = [(r.verdicts[0] == r.labels)[np.argsort(r.ids)] for r in (one, other)]
        only_first, only_second, p = predictions.mcnemar(*right)
        row = {"first": first, "second": second, "only the first right": only_first}
        pairs.append({**row, "only the second right": only_second, "p": p})
    tables = {"metrics": models, "classes": classes, "mcnemar": pairs}
    return {
        name: _table(rows, rows[0]).rename(columns=lambda column: column.replace("_", " "))
        for name, rows in tables.items()
        if rows
    }


def _draw_choice(group: Group, output: Path) -> list[Path]:
    """Draw how a sweep came to its setting and its seeds' curves; return the files."""
    paths, best = [], group.best
    for axis in group.axes if group.stages else ():
        if len(trials := group.along(axis)) > 1:  # of one value, there is no choice
            runs = {words: trial.metrics for words, trial in trials.items()}
            first = next(iter(trials.values()))
            alike = in_words({name: v for name, v in first.setting.items() if name != axis})
            paths += [output / f"{group.name}-{axis}{end}.png" for end in ("", "-runs")]
            winner = plan.best_finished([*trials.values()])
            chosen = in_words({axis: winner.setting[axis]}) if winner else ""
            theirs = study.epochs(first.config.model.name, axis) if findings.of_imdb(first) else {}
            figures.overlay(runs, chosen, paths[-2], f"all at {alike}", theirs)
            figures.curves(runs, paths[-1], f"all at {alike}")
    if tested := [trial for trial in group.tested if trial.metrics]:
        paths.append(output / f"{group.name}-seeds.png")
        runs = {f"seed {trial.config.seed}": trial.metrics for trial in tested}
        figures.curves(runs, paths[-1], in_words(tested[0].setting))
    if group.sweep is None or not group.stages:
        return paths
    accuracies: dict[tuple, float | None] = {}  # the best over further axes
    chance: dict[tuple, bool] = {}
    for trial in itertools.chain(*group.stages.values()):
        if trial.status != "open":
            here = tuple(trial.setting[axis] for axis in FIELDS)
            found = {accuracies.get(here), trial.row["val_accuracy"]} - {None}
            accuracies[here] = max(found, default=None)
            if trial.status == "finished":
                chance[here] = chance.get(here, True) and findings.at_chance(trial)
    axes = {axis: group.sweep.axes[axis] for axis in FIELDS}
    rates = [format_rate(rate) for rate in axes["learning_rate"]]
    outlined = None if best is None else tuple(best.setting[axis] for axis in FIELDS)
    guessed = [here for here, at_chance in chance.items() if at_chance]
    paths.append(output / f"{group.name}-grid.png")
    figures.heat_maps(accuracies, axes, rates, outlined, guessed, paths[-1])
    return paths


def _calibrate(group: Group, read: Predictions) -> Predictions | None:
    """Return the predictions at the seeds' temperatures; runs of earlier revisions have none."""
    kept = [trial.content.get("temperature", 0.0) for trial in group.tested]
    return predictions.calibrate(read, kept) if all(kept) else None


def _draw_test(
    tested: Sequence[Group],
    judged: Mapping[str, Predictions],
    calibrated: Mapping[str, Predictions | None],
    output: Path,
) -> list[Path]:
    """Draw what the test set says of the models; return the files."""
    paths = [output / f"{name}.png" for name in ("confusion", "calibration")]
    scores: dict[str, Any] = {group.name: {} for group in tested}
    for group, (split, name) in itertools.product(tested, SPLITS.items()):
        accuracies = [trial.row[f"{split}_accuracy"] for trial in group.tested]
        scores[group.name][name] = accuracies, *predictions.mean_interval(accuracies)
    numbers = {group.name: [trial.config.seed for trial in group.tested] for group in tested}
    if sum(map(len, numbers.values())) > 1:
        paths.append(output / "seeds.png")
        figures.seeds(scores, numbers, paths[-1])
    confusions = {name: predictions.confusion(read) for name, read in judged.items()}
    classes = next(iter(judged.values())).classes
    figures.confusions(confusions, classes, paths[0])
    what = f"p({classes[1]}) that the model gave", f"share of {classes[1]} reviews"
    if len(classes) > 2:
        what = "probability that the model gave to its verdict", "share of right verdicts"
    curves = {
        name: [
            (label, *predictions.calibration(of))
            for label, of in (("", read), ("at its temperature", calibrated[name]))
            if of is not None
        ]
        for name, read in judged.items()
    }
    figures.calibration(curves, what, paths[1])
    edges, points = predictions.accuracy_by_length(judged)
    if len(edges) > 2:  # one bin says nothing about length
        paths.append(output / "length.png")
        figures.accuracy_by_length(list(judged), edges, points, paths[-1])
    return paths
