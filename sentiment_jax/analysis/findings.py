"""The results of runs in sentences: the first thing in a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas

from sentiment_jax.analysis.html import cell
from sentiment_jax.analysis.records import Group, in_words
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.metrics import wilson_interval


def title(groups: Sequence[Group]) -> str:
    """Return the models and their data: LSTM, BERT on IMDB."""
    models = ", ".join(dict.fromkeys(group.model.upper() for group in groups))
    data = groups[0].trials[0].config.data
    known = {"tfds": "IMDB", "sample": "the embedded sample"}
    return f"{models} on {known.get(data.source) or Path(data.path).name or 'reviews'}"


def data_in_words(groups: Sequence[Group]) -> str:
    """Return the number of runs, the number of reviews in each split, and the classes."""
    trials = [trial for group in groups for trial in group.trials]
    finished = next(trial for trial in trials if trial.status == "finished")
    roles = {"train": "train on", "val": "choose by", "test": "test with"}
    splits = finished.env["data"]["counts"].items()
    reviews = [f"{sum(classes.values()):,} to {roles[split]}" for split, classes in splits]
    runs = "1 run" if len(trials) == 1 else f"{len(trials)} runs"
    classes = ", ".join(finished.files.read_config().classes)
    return f"{runs}; reviews: {', '.join(reviews)}; classes: {classes}."


def at_chance(trial: Trial) -> bool:
    """Whether a finished trial's validation score may be that of the most frequent class."""
    score = trial.content["val"]
    frequencies = trial.env["data"]["counts"]["val"].values()
    low, _ = wilson_interval(score["accuracy"], score["examples"])
    return low <= max(frequencies) / sum(frequencies)


def lead(groups: Sequence[Group], tables: Mapping[str, pandas.DataFrame]) -> list[str]:
    """Return the best model and its interval, what does not differ from it, and what failed."""
    tested = {group.name: group for group in groups if group.tested}
    sentences = []
    if tested:
        metrics = tables["metrics"].set_index("name")
        best = str(metrics["accuracy"].astype(float).idxmax())
        sentences.append(_best_model(tested[best], metrics.loc[best], len(tested)))
        sentences += _linear_baseline(best, tested[best])
        sentences += _other_models(best, tables)
    for group in groups:
        sentences += _settings(group)
    return sentences


def _best_model(group: Group, row: pandas.Series, models: int) -> str:
    trials = group.tested
    model = f"{group.model.upper()} with {in_words(trials[0].setting)}"
    if models > 1:
        model = f"{group.name}, {model}, scores highest of {models} models"
    on = f"{trials[0].content['test']['examples']:,} reviews"
    if len(trials) > 1:
        on += f", mean of {len(trials)} seeds"
    low = row["low (95 %)"]
    baseline = row["majority baseline"]
    sentence = (
        f"{model}: test accuracy {row['accuracy']:.4f} (95 % interval {low:.4f} to "
        f"{row['high (95 %)']:.4f} on {on}; guessing: {baseline:.4f})."
    )
    if low <= baseline:
        sentence += " That is at chance: the interval includes guessing."
    return sentence


def _linear_baseline(name: str, group: Group) -> list[str]:
    """Compare the first seed with a linear model, if one was fitted."""
    result = group.tested[0].content
    if not (found := result.get("linear_baseline")):
        return []
    first = result["test"]["accuracy"]
    p = cell(found["mcnemar_p"], "p")
    return [
        "A linear baseline (TF-IDF of words and bigrams, logistic regression) has "
        f"{found['test']['accuracy']:.4f}, {name}'s first seed {first:.4f} (McNemar's p {p})."
    ]


def _other_models(best: str, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
    equal = "Not shown to differ from it"
    behind = "Behind it"
    models: dict[str, list[str]] = {equal: [], behind: []}
    accuracies = tables["metrics"].set_index("name")["accuracy"]
    for row in tables["mcnemar"].to_dict("records") if "mcnemar" in tables else ():
        names = {row["first"], row["second"]}
        if best in names:
            (other,) = names - {best}
            p = cell(row["p"], "p")
            words = f"{other} ({accuracies[other]:.4f}, p {p if p.startswith('<') else f'= {p}'})"
            models[equal if row["p"] >= 0.05 else behind].append(words)
    return [f"{what}: {'; '.join(words)}." for what, words in models.items() if words]


def _settings(group: Group) -> list[str]:
    """Say which setting of a sweep is best, how many stayed at chance, and how many failed."""
    trials = [trial for trial in group.trials if trial not in group.finals]
    best = group.best
    if best is None or len(trials) < 2:
        return []
    score = best.content["val"]
    finished = [trial for trial in trials if trial.status == "finished"]
    failed = sum(trial.status == "failed" for trial in trials)
    return [
        f"Of the {len(trials)} settings of {group.name}, {in_words(best.setting)} is the best on "
        f"validation ({score['accuracy']:.4f} on {score['examples']:,} reviews); "
        f"{sum(map(at_chance, finished))} stayed at chance, {failed} failed."
    ]
