"""`--mode=report`: the study's tables, plots and one page, from run directories alone."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from sentiment_jax.analysis import figures
from sentiment_jax.analysis.html import (
    Block,
    Command,
    Fold,
    Heading,
    Picture,
    Table,
    Text,
    render,
)
from sentiment_jax.analysis.predictions import (
    Predictions,
    accuracy_by_length,
    calibration_bins,
    confusion,
    hardest_mistakes,
    read_predictions,
)
from sentiment_jax.analysis.records import Group, collect, hardware, read_texts
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import write_atomically, write_csv
from sentiment_jax.sweeps.plan import Trial

TITLE = "Sentiment of movie reviews: the study's results"
MISTAKES = 15
AXES = {"optimizer": "Optimizer", "batch_size": "Batch size", "learning_rate": "Learning rate"}
SETTING = ["optimizer", "batch size", "learning rate"]


def report(directories: Sequence[Path], output: Path, with_text: bool = False) -> None:
    """Write report.md, report.html, one CSV file per table and one PNG per plot.

    Args:
      directories: sweeps, runs, or folders of them.
      output: the folder to write; created where it is missing.
      with_text: show the text of the hardest mistakes; reads the data once more.

    Raises:
      InputError: nothing finished, half-written files, different data, or an unwritable folder.
    """
    groups = collect(directories)
    tested = {group.name: group.tested for group in groups if group.tested}
    predictions = {
        name: read_predictions([t.directory for t in trials], _scores(trials, "test"))
        for name, trials in tested.items()
    }
    texts = read_texts(groups) if with_text else {}
    try:
        output.mkdir(parents=True, exist_ok=True)
        blocks = [
            *(_models(tested, output) if tested else []),
            *_best_settings(groups),
            *(block for group in groups if group.stages for block in _choice(group, output)),
            *(_error_analysis(predictions, texts, output) if predictions else []),
            *_all_trials(groups),
        ]
        for block in blocks:
            if isinstance(block, Table):
                rows = block.frame.itertuples(index=False, name=None)
                write_csv(output / f"{block.text}.csv", list(block.frame.columns), rows)
        for name in ("report.md", "report.html"):
            write_atomically(output / name, render(f"{name}.j2", title=TITLE, blocks=blocks))
    except OSError as error:
        raise InputError(f"cannot write to --output={output}: {error.strerror}") from error
    for name, trials in tested.items():
        accuracies = _scores(trials, "test")
        sd = "" if len(trials) < 2 else f" ± {statistics.stdev(accuracies):.4f}"
        mean = statistics.mean(accuracies)
        print(f"{name}: test accuracy {mean:.4f}{sd}, {len(trials)} seeds")
    print(f"wrote {output}/report.html, report.md, tables (.csv) and plots (.png)")


def _scores(trials: Sequence[Trial], split: str, name: str = "accuracy") -> list[float]:
    return [trial.content[split][name] for trial in trials]


def _table(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Make a table whose values stay what they are: no missing one turns integers into floats."""
    return Table(name, pandas.DataFrame(list(rows), columns=list(columns), dtype=object))


def _models(tested: Mapping[str, Sequence[Trial]], output: Path) -> list[Block]:
    """Set the models side by side, means over the seeds."""
    rows = []
    for name, trials in tested.items():
        results = [trial.content for trial in trials]
        accuracies, mean = _scores(trials, "test"), statistics.mean
        reviews = sum(result["test"]["examples"] for result in results)
        rows.append(
            [
                *(name, results[0]["model"], len(trials), mean(accuracies)),
                statistics.stdev(accuracies) if len(trials) > 1 else None,
                mean(_scores(trials, "test", "loss")),
                mean(_scores(trials, "val")),
                results[0]["parameters"],
                mean([result["train_seconds"] for result in results]),
                reviews / sum(result["test_seconds"] for result in results),
                hardware(trials[0]),
            ]
        )
    columns = ["study", "model", "seeds", "test accuracy", "± sd", "test loss"]
    columns += ["validation accuracy", "parameters", "training s", "evaluation examples/s"]
    path = output / "seeds.png"
    figures.seeds({n: (_scores(t, "val"), _scores(t, "test")) for n, t in tested.items()}, path)
    return [
        Heading("The models side by side"),
        Text(
            "Means over the seeds, sample standard deviation. Every choice was made on the "
            "validation split; the test set was scored once per seed. Training time is without "
            "compilation, evaluation speed with it."
        ),
        _table("models", [*columns, "hardware"], rows),
        Picture("Accuracy of every seed, validation hollow, test filled", path),
    ]


def _best_settings(groups: Sequence[Group]) -> list[Block]:
    """List the settings that were chosen."""
    columns = ["study", *SETTING, "best epoch", "validation loss", "validation accuracy", "epoch s"]
    rows = [
        [group.name, *best.setting.values(), *_best_epoch(best)]
        for group in groups
        if (best := group.best) is not None
    ]
    return [Heading("The best settings by validation"), _table("best", columns, rows)]


def _best_epoch(trial: Trial) -> list[Any]:
    """Return best epoch, validation loss and accuracy, seconds per epoch of a finished trial."""
    if trial.status != "finished":
        return [None] * 4
    result = trial.content
    seconds = result["train_seconds"] / result["epochs"]
    return [result["best_epoch"], result["val"]["loss"], result["val"]["accuracy"], seconds]


def _choice(group: Group, output: Path) -> list[Block]:
    """Show how a sweep came to its setting: axis by axis, curves, and the grid's heat maps."""
    sweep, trials = group.sweep, group.trials
    assert sweep is not None
    seconds, compiling = (
        sum(trial.content.get(f"{what}_seconds", 0) for trial in trials)
        for what in ("train", "compile")
    )
    remark = f"{len(trials)} runs, {seconds:,.0f} s of training and {compiling:,.0f} s of "
    remark += "compilation"
    if left := sum(trial.status == "open" for trial in trials):
        remark += f"; {left} are not done yet"
    how = "every combination" if sweep.procedure == "grid" else "one axis after the other"
    blocks: list[Block] = [
        Heading(f"{group.name}: the choice"),
        Text(f"Procedure: {sweep.procedure}, {how}. {remark}."),
        Command(sweep.command),
    ]
    for axis in AXES:
        if line := group.along(axis):
            blocks += _axis(group.name, axis, line, output)
    accuracies: dict[str, dict[tuple[float, int], float]] = {n: {} for n in sweep.axes["optimizer"]}
    for trial in (trial for stage in group.stages.values() for trial in stage):
        optimizer, batch_size, rate = trial.setting.values()
        if trial.status != "open":
            value = trial.content.get("val", {}).get("accuracy", float("nan"))
            accuracies[optimizer][rate, batch_size] = value
    path = output / f"{group.name}-grid.png"
    figures.heat_maps(accuracies, sweep.axes["learning_rate"], sweep.axes["batch_size"], path)
    return [*blocks, Picture(f"{group.name}: best validation accuracy of every setting", path)]


def _axis(study: str, axis: str, line: Mapping[Any, Trial], output: Path) -> list[Block]:
    """Compare the trials that differ in one axis alone."""

    def word(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:g}"

    name, path = AXES[axis], output / f"{study}-{axis}.png"
    fixed = next(iter(line.values())).setting
    others = ", ".join(
        f"{word(value)}" if other == "optimizer" else f"{AXES[other].lower()} {word(value)}"
        for other, value in fixed.items()
        if other != axis
    )
    trials = {word(value): trial for value, trial in line.items()}
    if axis == "optimizer":
        table = _epochs(f"{study}-{axis}-epochs", trials)
    else:
        columns = [name.lower(), "best epoch", "validation loss", "validation accuracy", "epoch s"]
        rows = [[value, *_best_epoch(trial)] for value, trial in trials.items()]
        table = _table(f"{study}-{axis}", columns, rows)
    figures.stage_curves({value: trial.metrics for value, trial in trials.items()}, path)
    failures = [
        Text(f"{value} failed: {trial.content['reason']}")
        for value, trial in trials.items()
        if trial.status == "failed"
    ]
    title = f"{name}, at {others}: validation loss and accuracy"
    what = f"{study}: training (red) and validation (blue) by {name.lower()}"
    return [Heading(title, 3), table, *failures, Picture(what, path)]


def _epochs(name: str, trials: Mapping[str, Trial]) -> Table:
    """Tabulate validation loss and accuracy epoch by epoch, two columns per trial."""
    rows: dict[int, dict[str, Any]] = {}
    for value, trial in trials.items():
        for line in trial.metrics:
            if line["split"] == "val":
                row = rows.setdefault(line["epoch"], {"epoch": line["epoch"]})
                row |= {f"{value} {metric}": line[metric] for metric in ("loss", "accuracy")}
    columns = [f"{value} {metric}" for value in trials for metric in ("loss", "accuracy")]
    columns = ["epoch", *columns]
    return _table(name, columns, [[rows[epoch].get(c) for c in columns] for epoch in sorted(rows)])


def _error_analysis(
    predictions: Mapping[str, Predictions], texts: Mapping[str, str], output: Path
) -> list[Block]:
    """Show what the test set's predictions tell."""
    paths = {name: output / f"{name}.png" for name in ("confusion", "calibration", "length")}
    figures.confusions({name: confusion(p) for name, p in predictions.items()}, paths["confusion"])
    bins = {
        name: calibration_bins(p.p_positive.ravel(), np.tile(p.labels, len(p.p_positive)))
        for name, p in predictions.items()
    }
    figures.calibration(bins, paths["calibration"])
    figures.accuracy_by_length(list(predictions), *accuracy_by_length(predictions), paths["length"])
    blocks: list[Block] = [
        Heading("The test set"),
        Picture("Confusion matrices, mean over the seeds", paths["confusion"]),
        Picture("Calibration, all seeds together", paths["calibration"]),
        Picture("Accuracy by review length, truncated reviews apart", paths["length"]),
        Heading("The hardest mistakes"),
        Text(
            "Judged wrongly with the greatest confidence; p(positive) is the mean over the seeds."
        ),
    ]
    columns = ["id", "label", "p(positive)", "seeds wrong", "words", "tokens read", "truncated"]
    for name, p in predictions.items():
        rows = []
        for i in hardest_mistakes(p, MISTAKES):
            seeds, wrong = len(p.p_positive), round((1 - p.right[i]) * len(p.p_positive))
            row = [p.ids[i], figures.CLASSES[p.labels[i]], p.p_positive[:, i].mean()]
            row += [f"{wrong} of {seeds}", p.words[i], p.tokens[i]]
            row += ["yes" if p.truncated[i] else "no", *([texts[p.ids[i]]] if texts else [])]
            rows.append(row)
        table = _table(f"{name}-mistakes", [*columns, *(["text"] if texts else [])], rows)
        blocks += [Heading(name, 3), table]
    return blocks


def _all_trials(groups: Sequence[Group]) -> list[Block]:
    """List every trial: scores, time, hardware, and the command that makes it."""
    columns = ["study", "stage", *SETTING, "seed", "best epoch", "epochs"]
    columns += [f"{split} {name}" for split in ("val", "test") for name in ("loss", "accuracy")]
    rows: list[list[Any]] = []
    commands: list[Block] = []
    for group, trial in ((g, t) for g in groups for t in g.trials):
        content, status, name = trial.content, trial.status, trial.directory.name
        if status == "failed":
            where = "" if "at step" in content["reason"] else f" at step {content['step']}"
            status = f"failed{where}: {content['reason']}"
        row = [group.name, trial.stage, *trial.setting.values(), trial.config.seed]
        row += [content.get("best_epoch"), content.get("epochs"), *trial.scores.values()]
        rows.append([*row, content.get("train_seconds"), status, name])
        if trial.status != "open":
            took = f"{content.get('train_seconds', 0):,.1f} s of training"
            jax = trial.env.get("versions", {}).get("jax")
            what = f"jax {jax}, revision {trial.env.get('git_revision')}"
            commands += [Text(f"{name}: {hardware(trial)}, {took}, {what}")]
            commands += [Command(group.command(trial))]
    return [
        Heading("Every run"),
        _table("runs", [*columns, "training s", "status", "run"], rows),
        Fold("Every run's command, hardware and time", commands),
    ]
