"""The tables of the published study, its numbers (configs/study.csv) beside those of our runs."""

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
    """Return where the study's numbers come from, and what is wrong with them."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ")]


def _theirs(table: str, model: str) -> pandas.DataFrame:
    frame = pandas.read_csv(_FILE, comment="#")
    return frame[(frame["table"] == table) & (frame["model"] == model)]


def epochs(model: str, axis: str) -> dict[str, list[dict[str, Any]]]:
    """Return the study's validation by epoch as lines of a metrics.jsonl: setting -> lines."""
    known = _theirs(axis, model).dropna().assign(split="val", examples=1)
    columns = ["epoch", "loss", "accuracy", "split", "examples"]
    by_setting = known.groupby("setting", sort=False)[columns]
    return {str(setting): lines.to_dict("records") for setting, lines in by_setting}


def tables(groups: Sequence[Group]) -> dict[str, pandas.DataFrame]:
    """Return the study's tables for several sweeps, or for one on the study's data: name -> table.

    They hold the best validation accuracy by the value of each axis, with a column per sweep, and
    the test scores, with a row per model. The study's own numbers follow those of the same model.
    """
    imdb = findings.on_imdb(groups[0].trials[0])
    sweeps = [group for group in groups if group.sweep and group.stages]
    if not sweeps or (len(sweeps) == 1 and not imdb):
        return {}
    models = dict.fromkeys(group.model for group in groups)
    found = {}
    for axis in FIELDS:
        columns = {}
        for model in models:
            for group in (group for group in sweeps if group.model == model):
                trials = group.along(axis)
                scores = {value: trial.row["val_accuracy"] for value, trial in trials.items()}
                columns[f"{group.name}: accuracy"] = pandas.Series(scores, dtype=object)
            theirs = _theirs(axis, model).groupby("setting", sort=False)["accuracy"].max()
            if imdb and len(theirs):
                columns[f"{model.upper()}, theirs: accuracy"] = theirs
        values = dict.fromkeys(itertools.chain(*(column.index for column in columns.values())))
        frame = pandas.DataFrame(columns, index=[*values], dtype=object)
        if axis != "optimizer":  # batch 16, batch 32
            frame = frame.rename(lambda words: words.split()[-1])
            frame = frame.sort_index(key=lambda index: index.astype(float))
        found[f"study-{axis}"] = frame.rename_axis(axis.replace("_", " ")).reset_index()
    rows = []
    for model in models:
        for group in (group for group in groups if group.model == model and group.tested):
            means = [group.mean_test(metric) for metric in ("loss", "accuracy")]
            rows.append([group.name, in_words(group.tested[0].setting), *means])
        if imdb:
            theirs = _theirs("test", model)[["setting", "loss", "accuracy"]]
            rows += [[f"{model.upper()}, theirs", *row] for row in theirs.values.tolist()]
    heads = ["model", "setting", "test loss", "test accuracy"]
    return {**found, "study-test": pandas.DataFrame(rows, columns=heads, dtype=object)}
