"""`--mode=report`: the study's tables, plots and one page, from run directories alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sentiment_jax.analysis import figures
from sentiment_jax.analysis.html import (
    Block,
    Command,
    Fold,
    Heading,
    Picture,
    Table,
    Text,
    to_html,
    to_markdown,
)
from sentiment_jax.analysis.predictions import (
    Predictions,
    confusion,
    hardest_mistakes,
    read_predictions,
)
from sentiment_jax.analysis.records import Group, Record, collect, read_texts
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import write_atomically, write_csv

TITLE = "Sentiment of movie reviews: the study's results"
MISTAKES = 15
AXIS_NAMES = {
    "optimizer": "Optimizer",
    "batch_size": "Batch size",
    "learning_rate": "Learning rate",
}


def report(directories: Sequence[Path], output: Path, with_text: bool = False) -> None:
    """Writes report.md, report.html, a CSV file a table and a PNG a plot.

    Args:
      directories: sweeps, runs, or folders of them.
      output: the folder to write; created where it is missing.
      with_text: show the text of the hardest mistakes; reads the data once more.

    Raises:
      InputError: nothing finished, half-written files, different data, or an unwritable folder.
    """
    groups = collect(directories)
    predictions = {
        group.name: read_predictions(
            [record.run.directory for record in group.tested],
            [record.content["test"]["accuracy"] for record in group.tested],
        )
        for group in groups
        if group.tested
    }
    texts = read_texts(groups) if with_text else {}
    try:
        output.mkdir(parents=True, exist_ok=True)
        blocks = [
            *_comparison(groups, output),
            *(block for group in groups if group.stages for block in _choice(group, output)),
            *_diagnosis(predictions, texts, output),
            *_all_runs(groups),
        ]
        for block in blocks:
            if isinstance(block, Table):
                write_csv(output / f"{block.name}.csv", list(block.columns), block.rows)
        write_atomically(output / "report.md", to_markdown(TITLE, blocks))
        write_atomically(output / "report.html", to_html(TITLE, blocks))
    except OSError as error:
        raise InputError(f"cannot write to --output={output}: {error.strerror}") from error
    for group in groups:
        if group.tested:
            mean, spread = _mean_and_sd([r.content["test"]["accuracy"] for r in group.tested])
            sd = "" if spread is None else f" ± {spread:.4f}"
            print(f"{group.name}: test accuracy {mean:.4f}{sd}, {len(group.tested)} seeds")
    print(f"wrote {output}/report.html, report.md, tables (.csv) and plots (.png)")


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def _setting(record: Record) -> list[Any]:
    return list(record.run.setting.values())


def _comparison(groups: Sequence[Group], output: Path) -> list[Block]:
    """The models side by side, and the settings that were chosen."""
    models, chosen = [], []
    for group in groups:
        best, tested = group.best, [record.content for record in group.tested]
        if best is not None:
            row = [group.name, *_setting(best), best.content["best_epoch"]]
            row += [best.content["val"]["loss"], best.content["val"]["accuracy"]]
            row.append(best.content["train_seconds"] / best.content["epochs"])
            chosen.append(row)
        if tested:
            record = group.tested[0]
            validation, _ = _mean_and_sd([result["val"]["accuracy"] for result in tested])
            accuracy, spread = _mean_and_sd([result["test"]["accuracy"] for result in tested])
            loss, _ = _mean_and_sd([result["test"]["loss"] for result in tested])
            seconds, _ = _mean_and_sd([result["train_seconds"] for result in tested])
            rate = sum(result["test"]["examples"] for result in tested) / sum(
                result["test_seconds"] for result in tested
            )
            row = [group.name, record.content["model"], len(tested), accuracy, spread, loss]
            row += [validation, record.content["parameters"], seconds, rate, record.hardware]
            models.append(row)
    blocks: list[Block] = []
    if models:
        columns = {"study": "", "model": "", "seeds": "d", "test accuracy": ".4f", "± sd": ".4f"}
        columns |= {"test loss": ".4f", "validation accuracy": ".4f", "parameters": ",d"}
        columns |= {"training s": ",.0f", "evaluation examples/s": ",.0f", "hardware": ""}
        path = output / "seeds.png"
        figures.seeds(
            {
                group.name: (
                    [record.content["val"]["accuracy"] for record in group.tested],
                    [record.content["test"]["accuracy"] for record in group.tested],
                )
                for group in groups
                if group.tested
            },
            path,
        )
        blocks += [
            Heading("The models side by side"),
            Text(
                "Means over the seeds, sample standard deviation. Every choice was made on the "
                "validation split; the test set was scored once a seed. Training time is without "
                "compilation, evaluation speed with it."
            ),
            Table("models", columns, models),
            Picture(path, "Accuracy of every seed, validation hollow, test filled"),
        ]
    columns = {"study": "", "optimizer": "", "batch size": "d", "learning rate": "g"}
    columns |= {"best epoch": "d", "validation loss": ".4f", "validation accuracy": ".4f"}
    columns |= {"epoch s": ",.1f"}
    blocks += [Heading("The best settings by validation"), Table("best", columns, chosen)]
    return blocks


def _choice(group: Group, output: Path) -> list[Block]:
    """How a sweep came to its setting: axis by axis, curves, and the grid's heat maps."""
    plan = group.plan
    assert plan is not None
    made, left = len(group.records), sum(record.status == "open" for record in group.records)
    seconds, compiling = (
        sum(record.content.get(f"{what}_seconds", 0) for record in group.records)
        for what in ("train", "compile")
    )
    remark = f"{made} runs, {seconds:,.0f} s of training and {compiling:,.0f} s of compilation"
    remark += f"; {left} are not done yet" if left else ""
    how = "every combination" if plan.procedure == "grid" else "one axis after the other"
    blocks: list[Block] = [
        Heading(f"{group.name}: the choice"),
        Text(f"Procedure: {plan.procedure}, {how}. {remark}."),
        Command(plan.command),
    ]
    for axis, name in AXIS_NAMES.items():
        line = group.along(axis)
        if not line:
            continue
        fixed = next(iter(line.values())).run.setting
        others = ", ".join(
            f"{AXIS_NAMES[other].lower()} {value:g}" if other != "optimizer" else value
            for other, value in fixed.items()
            if other != axis
        )
        title = f"{name}, at {others}: validation loss and accuracy"
        records = {f"{value:g}" if axis != "optimizer" else value: r for value, r in line.items()}
        path = output / f"{group.name}-{axis}.png"
        figures.stage_curves({value: record.metrics for value, record in records.items()}, path)
        blocks += [
            Heading(title, 3),
            _epochs(f"{group.name}-{axis}-epochs", records)
            if axis == "optimizer"
            else _values(f"{group.name}-{axis}", name.lower(), records),
            *_failures(records),
            Picture(path, f"{group.name}: training (red) and validation (blue) by {name.lower()}"),
        ]
    path = output / f"{group.name}-grid.png"
    accuracies: dict[str, dict[tuple[float, int], float]] = {n: {} for n in plan.axes["optimizer"]}
    for record in (record for stage in group.stages.values() for record in stage):
        optimizer, batch_size, rate = _setting(record)
        if record.status != "open":
            value = record.content.get("val", {}).get("accuracy", float("nan"))
            accuracies[optimizer][rate, batch_size] = value
    figures.heat_maps(accuracies, plan.axes["learning_rate"], plan.axes["batch_size"], path)
    return [*blocks, Picture(path, f"{group.name}: best validation accuracy of every setting")]


def _epochs(name: str, records: dict[str, Record]) -> Table:
    """Validation loss and accuracy epoch by epoch, two columns a run."""
    columns = {"epoch": "d"}
    rows: dict[int, list[float | None]] = {}
    for value in records:
        columns |= {f"{value} loss": ".4f", f"{value} accuracy": ".4f"}
    for place, record in enumerate(records.values()):
        for line in record.metrics:
            if line["split"] == "val":
                unknown: list[float | None] = [None] * (2 * len(records))
                row = rows.setdefault(line["epoch"], unknown)
                row[2 * place : 2 * place + 2] = line["loss"], line["accuracy"]
    return Table(name, columns, [[epoch, *rows[epoch]] for epoch in sorted(rows)])


def _values(name: str, axis: str, records: dict[str, Record]) -> Table:
    """The best epoch of every value of an axis."""
    columns = {axis: "", "best epoch": "d", "validation loss": ".4f", "validation accuracy": ".4f"}
    columns["epoch s"] = ",.1f"
    rows = []
    for value, record in records.items():
        result = record.content if record.status == "finished" else {}
        validation = result.get("val", {})
        seconds = result["train_seconds"] / result["epochs"] if result else None
        rows.append(
            [
                *(value, result.get("best_epoch")),
                *(validation.get("loss"), validation.get("accuracy"), seconds),
            ]
        )
    return Table(name, columns, rows)


def _failures(records: dict[str, Record]) -> list[Block]:
    return [
        Text(f"{value} failed: {record.content['reason']}")
        for value, record in records.items()
        if record.status == "failed"
    ]


def _diagnosis(
    predictions: dict[str, Predictions], texts: dict[str, str], output: Path
) -> list[Block]:
    """What the test set's predictions tell."""
    if not predictions:
        return []
    paths = {name: output / f"{name}.png" for name in ("confusion", "calibration", "length")}
    figures.confusions({name: confusion(p) for name, p in predictions.items()}, paths["confusion"])
    figures.calibration(
        {
            name: (p.p_positive.ravel(), np.tile(p.labels, len(p.p_positive)))
            for name, p in predictions.items()
        },
        paths["calibration"],
    )
    figures.accuracy_by_length(
        {name: (p.words, p.truncated, p.right) for name, p in predictions.items()},
        paths["length"],
    )
    blocks: list[Block] = [
        Heading("The test set"),
        Picture(paths["confusion"], "Confusion matrices, mean over the seeds"),
        Picture(paths["calibration"], "Calibration, all seeds together"),
        Picture(paths["length"], "Accuracy by review length, truncated reviews apart"),
        Heading("The hardest mistakes"),
        Text(
            "Judged wrongly with the greatest confidence; p(positive) is the mean over the seeds."
        ),
    ]
    columns = {"id": "", "label": "", "p(positive)": ".4f", "seeds wrong": "", "words": "d"}
    columns |= {"tokens read": "d", "truncated": ""} | ({"text": ""} if texts else {})
    for name, p in predictions.items():
        rows = []
        for i in hardest_mistakes(p, MISTAKES):
            seeds, wrong = len(p.p_positive), round((1 - p.right[i]) * len(p.p_positive))
            row = [p.ids[i], ("negative", "positive")[p.labels[i]], p.p_positive[:, i].mean()]
            row += [f"{wrong} of {seeds}", p.words[i], p.tokens[i]]
            row.append("yes" if p.truncated[i] else "no")
            rows.append(row + ([texts[p.ids[i]]] if texts else []))
        blocks += [Heading(name, 3), Table(f"{name}-mistakes", columns, rows)]
    return blocks


def _all_runs(groups: Sequence[Group]) -> list[Block]:
    """Every run: scores, time, hardware, and the command that makes it."""
    columns = {"study": "", "stage": "", "optimizer": "", "batch size": "d", "learning rate": "g"}
    columns |= {"seed": "d", "best epoch": "d", "epochs": "d"}
    columns |= {f"{split} {n}": ".4f" for split in ("val", "test") for n in ("loss", "accuracy")}
    columns |= {"training s": ",.1f", "status": "", "run": ""}
    rows: list[list[Any]] = []
    commands: list[Block] = []
    for group in groups:
        for record in group.records:
            run, content = record.run, record.content
            status = record.status
            if status == "failed":
                where = "" if "at step" in content["reason"] else f" at step {content['step']}"
                status = f"failed{where}: {content['reason']}"
            row = [group.name, run.stage, *_setting(record), run.config.seed]
            row += [content.get("best_epoch"), content.get("epochs")]
            for split in ("val", "test"):
                scores = content.get(split, {})
                row += [scores.get("loss"), scores.get("accuracy")]
            rows.append([*row, content.get("train_seconds"), status, run.directory.name])
            if record.status != "open":
                took = f"{content.get('train_seconds', 0):,.1f} s of training"
                versions = record.env.get("versions", {})
                what = f"jax {versions.get('jax')}, revision {record.env.get('git_revision')}"
                where = f"{run.directory.name}: {record.hardware}"
                commands += [Text(f"{where}, {took}, {what}"), Command(record.command)]
    return [
        Heading("Every run"),
        Table("runs", columns, rows),
        Fold("Every run's command, hardware and time", commands),
    ]
