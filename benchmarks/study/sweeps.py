"""The published study's numbers (published.csv) beside those of sweeps, as the tables of a report.

    python -m benchmarks.study.sweeps --workdir=runs/lstm --workdir=runs/bert --output=DIR

study-AXIS.csv has the best validation accuracy by the value of an axis, with a column per sweep,
study-test.csv the test scores, with a row per model. The study's numbers follow those of the same
model; the first lines of published.csv say where they come from, and what is wrong with them.
"""

import argparse
import statistics
from pathlib import Path

import pandas as pd

from sentiment_jax.analysis.records import Group, collect
from sentiment_jax.sweeps.plan import FIELDS, in_words

STUDY = Path(__file__).with_name("published.csv")
SCORES = ("loss", "accuracy")


def tables(groups: list[Group]) -> dict[str, pd.DataFrame]:
    """Return study-AXIS and study-test of sweeps and runs: name -> table."""
    study = pd.read_csv(STUDY, comment="#")
    columns = {axis: {} for axis in FIELDS}
    tested = []
    names = [group.trials[0].config.model.name for group in groups]
    for model in dict.fromkeys(names):
        theirs = study[study["model"] == model]
        for group in (of for of, name in zip(groups, names, strict=True) if name == model):
            for axis in FIELDS:
                trials = group.along(axis).items()
                scores = {value: trial.row["val_accuracy"] for value, trial in trials}
                columns[axis][f"{group.name}: accuracy"] = pd.Series(scores, dtype=object)
            if group.tested:
                means = [statistics.mean(group.test_scores(metric)) for metric in SCORES]
                tested.append([group.name, in_words(group.tested[0].setting), *means])
        for axis in FIELDS:
            scores = theirs[theirs["table"] == axis].groupby("setting", sort=False)["accuracy"]
            columns[axis][f"{model.upper()}, theirs: accuracy"] = scores.max()
        for row in theirs[theirs["table"] == "test"].to_dict("records"):
            tested.append([f"{model.upper()}, theirs", *map(row.get, ("setting", *SCORES))])
    found = {}
    for axis, by_name in columns.items():
        values = dict.fromkeys(value for column in by_name.values() for value in column.index)
        frame = pd.DataFrame(by_name, index=[*values], dtype=object).dropna(axis=1, how="all")
        if axis != "optimizer":  # batch 16, batch 32
            frame = frame.rename(lambda words: words.split()[-1])
            frame = frame.sort_index(key=lambda index: index.astype(float))
        found[f"study-{axis}"] = frame.rename_axis(axis.replace("_", " ")).reset_index()
    heads = ["model", "setting", *(f"test {metric}" for metric in SCORES)]
    return {**found, "study-test": pd.DataFrame(tested, columns=heads)}


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, action="append", required=True, help="a sweep")
    parser.add_argument("--output", type=Path, required=True, help="the folder of the tables")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name, frame in tables(collect(given.workdir)).items():
        frame.to_csv(given.output / f"{name}.csv", index=False)
        print(f"{name}\n{frame.to_string(index=False)}\n")


if __name__ == "__main__":
    main()
