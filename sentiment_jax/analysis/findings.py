"""The results of runs in sentences: the first thing in a report."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas

from sentiment_jax.analysis.html import cell
from sentiment_jax.analysis.records import Group, in_words
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.metrics import mcc_by_chance, wilson_interval


def title(parts: Mapping[str, Sequence[Group]]) -> str:
    """Return the models and their data: LSTM, BERT on IMDB."""
    groups = [*itertools.chain(*parts.values())]
    models = ", ".join(dict.fromkeys(group.model.upper() for group in groups))
    data = groups[0].trials[0].config.data
    known = {"tfds": "IMDB", "sample": "the embedded sample"}
    one = known.get(data.source) or Path(data.path).name or "reviews"
    return f"{models} on {', '.join(parts) if len(parts) > 1 else one}"


def data_in_words(groups: Sequence[Group]) -> str:
    """Return the number of runs, the number of reviews in each split, and the classes."""
    trials = [trial for group in groups for trial in group.trials]
    finished = next(trial for trial in trials if trial.status == "finished")
    roles = {"train": "train on", "val": "choose by", "test": "test with"}
    splits = finished.env["data"]["counts"].items()
    reviews = [f"{n:,} to {roles[split]}" for split, of in splits if (n := sum(of.values()))]
    runs = "1 run" if len(trials) == 1 else f"{len(trials)} runs"
    classes = ", ".join(finished.files.read_config().classes)
    return f"{runs}; reviews: {', '.join(reviews)}; classes: {classes}."


def at_chance(trial: Trial) -> bool:
    """Whether a finished trial's predictions correlate with the labels no more than by chance."""
    mcc = trial.content["metrics"]["val"]["mcc"]
    return mcc <= mcc_by_chance(trial.content["val"]["examples"])


def lead(groups: Sequence[Group], tables: Mapping[str, pandas.DataFrame]) -> list[str]:
    """Return the best model by validation and its score, how others compare, and what failed."""
    tested = {group.name: group for group in groups if group.tested}
    sentences = []
    if tested:
        best = next(iter(tested))  # groups are ranked
        metrics = tables["metrics"].set_index("name").loc[best]
        sentences.append(_best_model(tested[best], metrics, len(tested)))
        sentences += _cross_validation(best, tested[best])
        sentences += _linear_baseline(best, tested[best])
        sentences += _other_models(best, tables)
    for group in groups:
        sentences += _settings(group)
    return sentences


def _best_model(group: Group, row: pandas.Series, models: int) -> str:
    trials = group.tested
    model = f"{group.model.upper()} with {in_words(trials[0].setting)}"
    if models > 1:
        validated = f"{group.validation['accuracy']:.4f}"
        model = f"{group.name}, {model}, is the best of {models} models by validation ({validated})"
    examples = trials[0].content["test"]["examples"]
    low, high = wilson_interval(row["accuracy"], examples)
    if len(trials) > 1:  # one measure of uncertainty for one mean: that of the tables
        sd = statistics.stdev(trial.content["test"]["accuracy"] for trial in trials)
        score = f"± {sd:.4f} (mean and standard deviation of {len(trials)} seeds"
    else:
        score = f"(95 % interval {low:.4f} to {high:.4f}"
    baseline = row["majority baseline"]
    score = f"test accuracy {row['accuracy']:.4f} {score} on {examples:,} reviews"
    sentence = f"{model}: {score}; guessing: {baseline:.4f})."
    if row["mcc"] <= (chance := mcc_by_chance(examples)):
        sentence += f" That is at chance: MCC {row['mcc']:.4f} (by chance: {chance:.4f})."
    return sentence


def _cross_validation(name: str, group: Group) -> list[str]:
    """Give the mean and the standard deviation of the first seed's folds, if it has any."""
    result = group.tested[0].content
    accuracies = [fold["accuracy"] for fold in result.get("folds", ())]
    if not accuracies:
        return []
    return [
        f"Cross-validation of {name}'s first seed in {len(accuracies)} folds: accuracy "
        f"{result['val']['accuracy']:.4f} ± {statistics.stdev(accuracies):.4f} (standard deviation "
        f"over the folds) on {result['val']['examples']:,} reviews."
    ]


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
    equal = "Not shown to differ from it on the test set"
    behind = "Behind it"
    ahead = "Better on the test set, though not by validation"
    models: dict[str, list[str]] = {"Equal runs": [], ahead: [], equal: [], behind: []}
    accuracies = tables["metrics"].set_index("name")["accuracy"]
    for row in tables["metrics"].to_dict("records"):
        if remark := row.get("remark"):
            models["Equal runs"].append(f"{row['name']} ({remark})")
    for row in tables["mcnemar"].to_dict("records") if "mcnemar" in tables else ():
        if row["first"] == best:  # which stands before all others
            p = cell(row["p"], "p")
            other = row["second"]
            words = f"{other} ({accuracies[other]:.4f}, p {p if p.startswith('<') else f'= {p}'})"
            lost = row["only the first correct"] < row["only the second correct"]
            models[equal if row["p"] >= 0.05 else ahead if lost else behind].append(words)
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
