"""The study's tables, filled by ours: its own numbers come with the configs, marked as theirs."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import pandas

from sentiment_jax.analysis import findings
from sentiment_jax.analysis.records import Group, in_words
from sentiment_jax.config.recipes import CONFIG_FOLDERS
from sentiment_jax.sweeps.plan import FIELDS

_FILE = next(path for folder in CONFIG_FOLDERS if (path := folder / "study.csv").exists())


def remarks() -> list[str]:
    """Return where the study's numbers come from, and what is wrong about them."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ")]


@functools.cache
def _numbers() -> pandas.DataFrame:
    return pandas.read_csv(_FILE, comment="#")


def _theirs(table: str, model: str) -> pandas.DataFrame:
    frame = _numbers()
    return frame[(frame["table"] == table) & (frame["model"] == model)]


def epochs(model: str, axis: str) -> dict[str, list[dict[str, Any]]]:
    """Return the study's validation by epoch as lines of a metrics.jsonl: setting -> lines."""
    known = _theirs(axis, model).dropna()[["setting", "epoch", "loss", "accuracy"]]
    lines = known.assign(split="val", examples=1).to_dict("records")
    return {
        setting: list(of) for setting, of in itertools.groupby(lines, lambda line: line["setting"])
    }


def tables(groups: Sequence[Group]) -> dict[str, pandas.DataFrame]:
    """Return the study's tables of several sweeps, or of one on the study's data: name -> table.

    A column each is a model's best validation accuracy by the value on an axis; in the last, a row
    each is a model's test score. The study's own stand beside ours of the same model.
    """
    sweeps = [group for group in groups if group.sweep and group.stages]
    same = findings.of_imdb(groups[0].trials[0])
    if not sweeps or (len(sweeps) == 1 and not same):
        return {}
    ours: dict[str, list[Group]] = {}
    for group in groups:
        ours.setdefault(group.trials[0].config.model.name, []).append(group)
    found = {}
    for axis in FIELDS:
        columns = {}
        for model, alike in ours.items():
            for group in (group for group in alike if group in sweeps):
                trials = group.along(axis)
                scores = {value: trial.row["val_accuracy"] for value, trial in trials.items()}
                columns[f"{group.name}: accuracy"] = pandas.Series(scores, dtype=object)
            of = _theirs(axis, model).groupby("setting", sort=False)["accuracy"].max()
            if same and len(of):
                columns[f"{model.upper()}, theirs: accuracy"] = of
        order = dict.fromkeys(itertools.chain(*(column.index for column in columns.values())))
        frame = pandas.DataFrame(columns, index=[*order], dtype=object)
        if axis != "optimizer":  # batch 16, batch 32
            frame = frame.rename(lambda words: words.split()[-1]).sort_index(key=_as_numbers)
        found[f"study-{axis}"] = frame.rename_axis(axis.replace("_", " ")).reset_index()
    rows = []
    for model, alike in ours.items():
        for group in (group for group in alike if group.tested):
            setting, means = group.tested[0].setting, map(group.mean_test, ("loss", "accuracy"))
            rows.append([group.name, in_words(setting), *means])
        if same:
            theirs = _theirs("test", model)[["setting", "loss", "accuracy"]].values.tolist()
            rows += [[f"{model.upper()}, theirs", *row] for row in theirs]
    heads = ["model", "setting", "test loss", "test accuracy"]
    return {**found, "study-test": pandas.DataFrame(rows, columns=heads, dtype=object)}


def _as_numbers(index: pandas.Index) -> pandas.Index:
    return index.astype(float)
