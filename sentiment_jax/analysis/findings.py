"""The results of runs in sentences: the first thing in a report."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from sentiment_jax.analysis.html import cell
from sentiment_jax.analysis.records import Group, ranking_of
from sentiment_jax.data.texts import list_classes
from sentiment_jax.sweeps.plan import Trial, in_words
from sentiment_jax.training.metrics import mcc_by_chance


def title(parts: Mapping[str, Sequence[Group]]) -> str:
    """Return the models and their data: LSTM, BERT on IMDB."""
    models = [group.model for groups in parts.values() for group in groups]
    return f"{', '.join(dict.fromkeys(models))} on {', '.join(parts)}"


def data_in_words(groups: Sequence[Group]) -> str:
    """Return the number of runs, the number of texts in each split, and the classes."""
    runs = sum(len(group.trials) for group in groups)
    finished = next(trial for group in groups for trial in group.finished)
    roles = {"train": "training", "val": "validation", "test": "the test"}
    splits = finished.env["data"]["reviews"].items()
    texts = [f"{n:,} for {roles[split]}" for split, n in splits if n]
    classes = list_classes(finished.files.read_config().classes)
    counted = "1 run" if runs == 1 else f"{runs} runs"
    return f"{counted}; texts: {', '.join(texts)}; classes: {classes}."


def at_chance(trial: Trial) -> bool:
    """Return whether the validation MCC of a finished trial is one that guessing can reach."""
    mcc = trial.content["metrics"]["val"]["mcc"]
    return mcc <= mcc_by_chance(trial.content["val"]["examples"])


def lead(groups: Sequence[Group], tables: Mapping[str, pandas.DataFrame]) -> list[str]:
    """Return the best model by validation and its score, how others compare, and what failed."""
    sentences = []
    tested = [group for group in groups if group.tested]
    if tested:
        best = tested[0]  # groups are ranked
        scores = {**tables["models"].iloc[0], **tables["metrics"].iloc[0]}
        sentences = [
            _best_model(best, scores, groups),
            *_first_seed(best.name, best.tested[0].content),
            *_other_models(best.name, tables),
        ]
    return sentences + [sentence for group in groups for sentence in _settings(group)]


def ranked_by(groups: Sequence[Group]) -> str:
    """Return the name of the metric by which groups are ranked."""
    return ranking_of(groups).by[0].replace("_", " ")


def _best_model(group: Group, scores: Mapping[str, Any], groups: Sequence[Group]) -> str:
    first = group.tested[0]
    tested = [group for group in groups if group.tested]
    examples = first.content["test"]["examples"]
    model = f"{group.model} with {in_words(first.setting)}"
    if len(tested) > 1:
        value = group.validation[ranking_of(groups).by[0]]
        validated = f"validation ({ranked_by(groups)} {value:.4f})"
        model = f"{group.name}, {model}, is the best of {len(tested)} models by {validated}"
    if scores["seeds"] > 1:  # as in the tables: one mean has one measure of uncertainty
        seeds = f"mean and standard deviation of {scores['seeds']} seeds"
        uncertainty = f"± {scores['± sd']:.4f} ({seeds}"
    else:
        uncertainty = f"(95 % interval {scores['low (95 %)']:.4f} to {scores['high (95 %)']:.4f}"
    sentence = (
        f"{model}: test accuracy {scores['accuracy']:.4f} {uncertainty} on {examples:,} texts; "
        f"guessing: {scores['majority baseline']:.4f})."
    )
    if scores["mcc"] <= (chance := mcc_by_chance(examples)):
        sentence += f" That is at chance: MCC {scores['mcc']:.4f} (by chance: {chance:.4f})."
    return sentence


def _first_seed(name: str, result: Mapping[str, Any]) -> list[str]:
    """Return the scores of its folds and of a linear model, if it has any."""
    sentences = []
    if folds := [fold["accuracy"] for fold in result.get("folds", ())]:
        validated = result["val"]
        sentences.append(
            f"Cross-validation of the first seed of {name} in {len(folds)} folds: accuracy "
            f"{validated['accuracy']:.4f} ± {statistics.stdev(folds):.4f} (standard deviation "
            f"over the folds) on {validated['examples']:,} texts."
        )
    if linear := result.get("linear_baseline"):
        sentences.append(
            f"A linear baseline (TF-IDF of {linear['ngrams']}, logistic "
            f"regression) has test accuracy {linear['test']['accuracy']:.4f}, the first seed of "
            f"{name} {result['test']['accuracy']:.4f} "
            f"(McNemar's p {cell(linear['mcnemar_p'], 'p')})."
        )
    return sentences


def _other_models(best: str, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
    equal = "Not shown to differ from it on the test set"
    behind = "Worse on the test set"
    ahead = "Better on the test set, though not by validation"
    models: dict[str, list[str]] = {ahead: [], equal: [], behind: []}
    accuracies = {row["name"]: row["accuracy"] for row in tables["metrics"].to_dict("records")}
    for row in tables["mcnemar"].to_dict("records") if "mcnemar" in tables else ():
        if row["first"] == best:  # which stands before all others
            p = cell(row["p"], "p")
            sign = "" if p.startswith("<") else "= "
            other = row["second"]
            lost = row["only the first correct"] < row["only the second correct"]
            relation = equal if row["p"] >= 0.05 else ahead if lost else behind
            models[relation].append(f"{other} ({accuracies[other]:.4f}, p {sign}{p})")
    return [f"{relation}: {'; '.join(words)}." for relation, words in models.items() if words]


def _settings(group: Group) -> list[str]:
    """Return which setting of a sweep is best, how many stayed at chance, and how many failed."""
    trials = [trial for trial in group.trials if trial not in group.finals]
    best = group.best
    if best is None or len(trials) < 2:
        return []
    score = best.content["val"]
    finished = [trial for trial in trials if trial.status == "finished"]
    failed = sum(trial.status == "failed" for trial in trials)
    return [
        f"Of the {len(trials)} settings of {group.name}, {in_words(best.setting)} is the best on "
        f"validation ({score['accuracy']:.4f} on {score['examples']:,} texts); "
        f"{sum(map(at_chance, finished))} stayed at chance, {failed} failed."
    ]
