"""What runs have found, in sentences: the first thing that a report says."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas

from sentiment_jax.analysis import predictions
from sentiment_jax.analysis.html import cell
from sentiment_jax.analysis.predictions import Predictions
from sentiment_jax.analysis.records import Group, in_words
from sentiment_jax.config.schema import class_names
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.metrics import wilson_interval

MOST = 4  # settings or models that a sentence names


def of_imdb(trial: Trial) -> bool:
    """Whether a trial read the reviews of the study."""
    data = trial.config.data
    return data.source == "tfds" or (data.source == "folder" and "aclimdb" in data.path.lower())


def title(groups: Sequence[Group]) -> str:
    """Return the models and their data: LSTM and BERT on IMDB."""
    trials = [group.trials[0] for group in groups]
    models = dict.fromkeys(trial.config.model.name.upper() for trial in trials)
    data = trials[0].config.data
    name = "the embedded sample" if data.source == "sample" else Path(data.path).name
    *others, last = models
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"{listed} on {'IMDB' if of_imdb(trials[0]) else name or 'reviews'}"


def data_in_words(groups: Sequence[Group]) -> str:
    """Return the number of runs, of reviews in each split, and the classes."""
    trials = [trial for group in groups for trial in group.trials]
    finished = next(trial for trial in trials if trial.status == "finished")
    counts, text = _counts(finished), f"{len(trials)} run{'s' * (len(trials) > 1)}"
    roles = {"train": "train on", "val": "choose by", "test": "test with"}
    sizes = [f"{sum(counts[s].values()):,} to {role}" for s, role in roles.items() if s in counts]
    if sizes:
        text += f"; reviews: {', '.join(sizes)}"
    return f"{text}; classes: {', '.join(class_names(finished.files.read_config()))}."


def _counts(trial: Trial) -> Mapping[str, Mapping[str, int]]:
    """Return the reviews of each class by split; none where an old run has not kept them."""
    return trial.env.get("data", {}).get("counts", {})


def at_chance(trial: Trial) -> bool:
    """Whether a finished trial's validation may be a guesser's, who always says one class."""
    score, counts = trial.content["val"], _counts(trial).get("val", {}).values()
    guess = max(counts) / sum(counts) if counts else 1 / len(class_names(trial.config))
    return wilson_interval(score["accuracy"], score["examples"])[0] <= guess


def _summed_up(some: Sequence[Trial], trials: Sequence[Trial]) -> str:
    """Name some of the trials; what all with one value have in common is said once."""
    left, words = {trial.directory: in_words(trial.setting) for trial in some}, []
    for axis in trials[0].setting:
        for value in dict.fromkeys(trial.setting[axis] for trial in trials):
            alike = [trial.directory for trial in trials if trial.setting[axis] == value]
            if 1 < len(alike) < len(trials) and left.keys() >= {*alike}:
                words.append(f"all {len(alike)} with {in_words({axis: value})}")
                left = {path: text for path, text in left.items() if path not in alike}
    words += left.values()
    more = [f"{len(words) - MOST} more"] if len(words) > MOST else []
    return f"{len(some)} ({'; '.join([*words[:MOST], *more])})"


def lead(groups: Sequence[Group], tables: Mapping[str, pandas.DataFrame]) -> list[str]:
    """Return what was found: who won, how sure that is, what equals it, what learned nothing."""
    tested = {group.name: group for group in groups if group.tested}
    sentences = []
    if tested:
        metrics = tables["metrics"].set_index("study")
        name = str(metrics["accuracy"].astype(float).idxmax())
        row, trials = metrics.loc[name], tested[name].tested
        low, guess, several = row["low (95 %)"], row["majority baseline"], len(trials) > 1
        model = f"{trials[0].config.model.name.upper()} with {in_words(trials[0].setting)}"
        if len(tested) > 1:
            model = f"{name}, {model}, scores highest of {len(tested)} models"
        mean = f", mean of {len(trials)} seeds" if several else ""
        sentences += [
            f"{model}: test accuracy {row['accuracy']:.4f} (95 % interval {low:.4f} to "
            f"{row['high (95 %)']:.4f} on {trials[0].content['test']['examples']:,} reviews{mean}; "
            f"guessing: {guess:.4f})."
        ]
        sentences += ["That is at chance: the interval reaches guessing."] * bool(low <= guess)
        sentences += _other_models(name, tables)
    for group in groups:
        sentences += _settings(group, named=len(groups) > 1)
    return sentences


def _other_models(best: str, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
    equal: list[str] = []
    behind: list[str] = []
    accuracies = tables["metrics"].set_index("study")["accuracy"]
    for row in tables["mcnemar"].to_dict("records") if "mcnemar" in tables else ():
        if best in (names := [row["first"], row["second"]]):
            (other,) = (name for name in names if name != best)
            p = cell(row["p"], "p")
            said_p = p if p.startswith("<") else f"= {p}"
            words = f"{other} ({accuracies[other]:.4f}, p {said_p})"
            (equal if row["p"] >= 0.05 else behind).append(words)
    said = (("Not shown to differ from it", equal), ("Behind it", behind))
    return [f"{what}: {'; '.join(words)}." for what, words in said if words]


def _settings(group: Group, named: bool) -> list[str]:
    """Say of a sweep which setting is the best, which may be as good, which stayed at chance.

    If it is `named`, one of several, each line says whose it is.
    """
    unique = {t.directory: t for trials in group.stages.values() for t in trials}
    trials, best = [*unique.values()], group.best
    if best is None or len(trials) < 2:
        return []
    finished = [trial for trial in trials if trial.status == "finished"]
    score, guessing = best.content["val"], [trial for trial in finished if at_chance(trial)]
    others = [trial for trial in finished if trial not in (best, *guessing)]
    equal = [t for t in others if not predictions.differ_significantly(t.content["val"], score)]
    failed = [trial for trial in trials if trial.status == "failed"]
    said = {
        "not shown to differ from it (z-test, p ≥ .05)": equal,
        "stayed at chance (hatched in the figure)": guessing,
        "failed": failed,
    }
    lines = [f"{what}: {_summed_up(of, trials)}." for what, of in said.items() if of]
    return [
        f"Of the {len(trials)} settings of {group.name}, {in_words(best.setting)} is the best on "
        f"validation ({score['accuracy']:.4f} on {score['examples']:,} reviews).",
        *(f"{group.name}: {line}" if named else line[0].upper() + line[1:] for line in lines),
    ]


def sureness(name: str, read: Predictions, calibrated: Predictions | None) -> str:
    """Say whether, and in which verdicts, a model is over-confident; then at its temperature."""
    *sides, (_, p, right) = predictions.confidence(read)
    means = [f"{side} {mean:.3f}, right {of:.3f}" for side, mean, of in sides]
    kind = "over-confident" if p > right else "under-confident"
    judged = f"{name} is {kind}" if abs(p - right) >= 0.01 else f"{name} is as sure as it is right"
    text = f"{judged}: its verdicts have probability {p:.3f} in the mean, {right:.3f} are right"
    if len(sides) <= MOST:
        text += f" ({'; '.join(means)})"
    if calibrated is not None:
        softer = predictions.confidence(calibrated)[-1][1]
        text += "; a temperature (one number that divides the logits, fitted on validation) "
        text += f"makes that probability {softer:.3f}"
    return f"{text}."
