"""`--mode=compare`: trains the recipes for one's own texts on the same splits, tests one of them.

That is the best on validation, unless one that is cheaper to use is level with it. Each
recipe is a run in the directory: after a kill, it goes on as any run does.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from sentiment_jax.analysis import figures
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.schema import ENCODERS, Config, DataConfig, EncoderConfig
from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import validate
from sentiment_jax.data.dataset import Dataset, infer_source, load_dataset
from sentiment_jax.data.labels import find_class
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.unlabeled import NOTHING, read_text
from sentiment_jax.errors import InputError, TooLittleText
from sentiment_jax.modes.pretrain import pretrain
from sentiment_jax.modes.train import complete
from sentiment_jax.runtime import terminal
from sentiment_jax.runtime.terminal import print_line
from sentiment_jax.storage.files import read_json, write_csv
from sentiment_jax.storage.run_directory import VECTORS, RunDirectory, prepare_workdir, tidied
from sentiment_jax.sweeps.directories import Comparison, open_own
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training import checks, console, lineage
from sentiment_jax.training.advice import LONG, describe_truncation
from sentiment_jax.training.checks import Start
from sentiment_jax.training.metrics import is_correct, mcnemar, score_resampled, wilson_interval
from sentiment_jax.training.run import open_run, prepare
from sentiment_jax.training.scoring import score_texts
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.tasks.multi_label import task_of
from sentiment_jax.training.trained_model import load_run

RECIPES = ("linear", "encoder:probe", "encoder")  # the cheapest to use first
LINEAR, PROBE, ENCODER = RECIPES
AVERAGE = "average"  # compared where there is unlabeled text to learn its embeddings from
PRETRAIN = "lstm:pretrain"  # learns them
CHEAPER = (LINEAR, AVERAGE)  # to use; a probe costs as much as a fine-tuned encoder
WEIGHTS = ("model.pretrained", "model.revision")  # of the encoders
TEXT = "pretrain.text"  # unlabeled
FRACTION = "data.validation_fraction"
SHARED = ("data.", "seed", "cpu_devices", "class_weights", TEXT, *WEIGHTS)  # may be changed
FEW = 100  # validation texts: fewer choose by chance, and folds take their place
FOLDS = 5
TIMED = 256  # texts, to measure how fast a model predicts
METRICS = ("accuracy", "macro_f1", "log_loss")  # to choose by, and:
RECALL = "recall:"  # of a class, at a precision
POINT = 0.01  # what a cheaper model may be behind, in the metric and in accuracy
SAMPLES = 200  # of the validation texts, for the standard error of a difference
CHARACTERS = 4.5  # of an English token
MISSED = 3  # classes that a model never finds, to name


def compare(
    changes: Mapping[str, Any],
    directory: Path,
    *,
    choose_by: str = "",
    stop_after: float | None = None,
) -> pandas.DataFrame:
    """Complete a comparison; print, draw and return its table, a row per model.

    `changes` are of the data, the seed, the encoder's weights and unlabeled text. The directory
    will hold comparison.json, .csv and .png, and a run for each recipe. `choose_by` is a metric of
    metrics.score_resampled; "" stands for accuracy, or for macro F1 if a class is rare or texts are
    multi-label. After `stop_after` seconds, the current run is saved and the comparison stops. The
    columns are the validation accuracy with its 95 % interval, macro F1, the metric if it is
    another one, McNemar's p against the recipe `linear`, the seconds of training and of compiling,
    texts per second from text to probability, and the size of the parameters. Errors are those of
    a training.
    """
    recipes, data, dataset = _read(changes, directory)
    by = _metric(choose_by, data, dataset.splits["train"])
    text = read_text(changes[TEXT], data) if changes.get(TEXT) else NOTHING
    comparison = _begin(directory, dataset, text, by)
    scored = dataset.splits["train" if data.folds else "val"]
    how = f"{data.folds} folds" if data.folds else "validation"
    listed = ", ".join(name for name in recipes if name != PRETRAIN)
    print_line("compare", f"{listed} by {how} on {len(scored):,} texts, in {directory}")
    if "data.max_length" not in changes:
        recipes |= _lengthen(recipes, dataset.splits["train"])
    rows = []
    found: dict[str, Score] = {}
    with Stop(stop_after) as stop:
        for name, recipe in recipes.items():
            if name == PRETRAIN:
                _pretrain(recipe, directory / VECTORS, len(text), stop)
                continue
            trial = _train(name, recipe, _place(directory, name), dataset, stop)
            if trial is None:
                continue
            found[name] = _read_score(trial, scored, by)
            rows.append(_row(name, found, by) | _costs(trial, dataset))
        chosen = choose({name: of.samples for name, of in found.items()})
        place = _place(directory, chosen)
        dataclasses.replace(comparison, chosen=place.name).write()
        ended = RunDirectory(place).result
        if "test" not in read_json(ended):
            _train(chosen, recipes[chosen], place, dataset, stop, tested=True)
    table = pandas.DataFrame(rows)
    _write(table, scored, chosen, how, directory)
    _print(table, chosen, found, read_json(ended), scored, by, directory)
    return table


def _metric(choose_by: str, data: DataConfig, train: Texts) -> str:
    """Return the metric to choose by; InputError if there is none of this name."""
    if not choose_by:
        misleads = dataclasses.replace(data, rare=train.rare).accuracy_misleads
        return "macro_f1" if misleads else "accuracy"
    name, _, precision = choose_by.removeprefix(RECALL).rpartition("@")
    if choose_by.startswith(RECALL) and name and precision:
        find_class(name, train.classes)
        with contextlib.suppress(ValueError):
            if 0 < float(precision) <= 1:
                return choose_by
    elif choose_by in METRICS:
        return choose_by
    expected = f"{', '.join(METRICS)} or {RECALL}CLASS@PRECISION, such as {RECALL}spam@.9"
    raise InputError(f"--choose_by={choose_by} is unknown, choose {expected}")


def _read(
    changes: Mapping[str, Any], directory: Path
) -> tuple[dict[str, ConfigDict], DataConfig, Dataset]:
    """Return the recipes in their order, the data that they share, and the texts.

    Too few validation texts to choose by give way to folds.
    """
    more = (PRETRAIN, AVERAGE) if changes.get(TEXT) else ()
    names = (RECIPES[0], *more, *RECIPES[1:])
    recipes = {name: _recipe(name, changes, directory / VECTORS) for name in names}
    prepare_workdir(directory)
    data = checks.resolve(recipes[RECIPES[0]]).data
    if not data.validates:
        raise InputError("data.validation_fraction=0 leaves a comparison no texts to choose by")
    with terminal.progress_bar(None, "reading texts"), tidied(directory):
        dataset = load_dataset(data)
    if len(dataset.splits["val"]) < FEW and not (data.folds or data.validation_path):
        return _read({**changes, "data.folds": FOLDS}, directory)
    return recipes, data, dataset


def _recipe(name: str, changes: Mapping[str, Any], vectors: Path) -> ConfigDict:
    """Return a recipe with those of the changes that it has; InputError for others.

    `vectors` is the run that learns the embeddings of `average`.
    """
    for setting in changes:
        if not setting.startswith(SHARED):
            may = f"it may change data.*, {', '.join(SHARED[1:])}"
            raise InputError(f"--config.{setting}: --mode=compare keeps its recipes; {may}")
    recipe = read_recipe(name)
    others = {TEXT}
    if name == PRETRAIN:
        others = {"data.folds", "class_weights"}  # it has none
        if not changes.get(FRACTION):
            others.add(FRACTION)  # it holds out text in any case
    if recipe.model.name not in ENCODERS:
        others |= {*WEIGHTS}
    changes = {setting: changes[setting] for setting in changes.keys() - others}
    if name == AVERAGE:  # which has folds by itself
        theirs = flatten(read_recipe(RECIPES[0]))
        held_out = {n: theirs[n] for n in ("data.folds", FRACTION)}
        changes = held_out | changes | {"model.pretrained": str(vectors)}
    recipe = infer_source(override(recipe, changes))
    validate(recipe, pretraining=name == PRETRAIN)
    return recipe


def _begin(directory: Path, dataset: Dataset, text: Texts, by: str) -> Comparison:
    """Write comparison.json, or check that the one there is of the same texts and unlabeled text.

    InputError: it is not, or a model is chosen by another metric already, to be tested.
    """
    text_hash = text.texts_hash if len(text) else ""
    begun = Comparison(directory, dataset.statistics["data_hash"], by, text_hash)
    known = open_own(directory, Comparison)
    if known is None:
        begun.write()
        return begun
    if (known.data_hash, known.text_hash) != (begun.data_hash, begun.text_hash):
        raise InputError(f"{directory} compares models on other texts: choose another --workdir")
    if known.chosen and known.choose_by != by:
        problem = f"{directory} has chosen a model by {known.choose_by}, and tests no other"
        raise InputError(f"{problem}: choose another --workdir")
    return begun


def _place(directory: Path, name: str) -> Path:
    """Return the directory of a recipe's run."""
    return directory / name.replace(":", "-")


def _train(
    name: str, recipe: ConfigDict, place: Path, dataset: Dataset, stop: Stop, tested: bool = False
) -> Trial | None:
    """Take a run to its end and return it; None, and say why, if there are no weights for it."""
    run = RunDirectory(place)
    finished = run.read_config() if run.result.exists() else None
    if recipe.model.pretrained:
        try:
            recipe = override(recipe, {"data.max_length": _readable(recipe, finished)})
        except InputError as error:
            if finished:
                raise
            print(f"left out {name}: {error}")
            return None
    fewest = len(dataset.splits["train"]) // 2
    recipe = override(recipe, {"batch_size": max(1, min(recipe.batch_size, fewest))})
    start = time.monotonic()
    with open_run(recipe, place, task_of(recipe), nested=True, stop=stop) as opened:
        if opened.sources and name == ENCODER:
            lineage.check_same_sources(opened.config, RunDirectory(_place(place.parent, PROBE)))
        result = opened.finished
        if tested:  # it goes on: what is left is the test
            opened = dataclasses.replace(opened, start=Start.RESUMED)
        if tested or result is None:
            result = complete(opened, prepare(opened, dataset), tested=tested)
    if not tested:
        scores = result["val"]
        more = f" macro F1 {scores['macro_f1']:.4f}" if "macro_f1" in scores else ""
        seconds = time.monotonic() - start
        print(f"{name:14} accuracy {scores['accuracy']:.4f}{more}, {seconds:,.0f} s", flush=True)
    return Trial("run", place, run.read_config()).refresh()


def _lengthen(recipes: Mapping[str, ConfigDict], train: Texts) -> dict[str, ConfigDict]:
    """Return the recipe `encoder` with LONG texts, if most are longer than it reads."""
    tokens = np.median([*map(len, train.texts)]) / CHARACTERS
    recipe = recipes.get(ENCODER)
    if recipe is None or tokens <= recipe.data.max_length:
        return {}
    times = min(tokens, LONG) / recipe.data.max_length
    print(
        f"encoder reads up to {LONG} tokens of a text, not {recipe.data.max_length}, since most "
        f"texts have more: it takes {times:.1f} times as long"
    )
    return {ENCODER: override(recipe, {"data.max_length": LONG})}


def _readable(recipe: ConfigDict, finished: Config | None) -> int:
    """Return how many tokens a recipe and its weights read; InputError: there are no weights."""
    model = checks.resolve(override(recipe, {"data.max_length": 3}), finished).model
    if not isinstance(model, EncoderConfig):
        return recipe.data.max_length
    return min(recipe.data.max_length, model.max_position_embeddings - model.first_position)


def _pretrain(recipe: ConfigDict, place: Path, texts: int, stop: Stop) -> None:
    """Learn embeddings of n-grams from all text, unless that is done; say why if it can't be."""
    recipe = override(recipe, {"batch_size": min(recipe.batch_size, max(1, texts // 2))})
    start = time.monotonic()
    try:
        pretrain(recipe, place, nested=True, stop=stop)
    except TooLittleText as error:
        terminal.warn(f"left out {PRETRAIN}: {error}")
        return
    seconds = time.monotonic() - start
    print(f"{PRETRAIN:14} {seconds:,.0f} s, the embeddings of {AVERAGE}", flush=True)


@dataclasses.dataclass(frozen=True)
class Score:
    """What a model predicts for the validation texts, and how good that is."""

    correct: Bool[np.ndarray, " texts"]
    predicted: Bool[np.ndarray, "texts classes"]
    macro_f1: float
    # The metric to choose by and the accuracy, on the texts and on resamples (Efron, 1979).
    samples: Float[np.ndarray, "metrics samples"]


def _read_score(trial: Trial, scored: Texts, by: str) -> Score:
    """Score what a run predicted for the validation texts; InputError: it has scored others."""
    own = read_predictions([trial], "val")
    if own.order != scored.texts_hash:
        raise InputError(f"{trial.directory} scored other texts: choose another --workdir")
    if own.ids != scored.ids:
        terminal.warn(f"ids in {trial.directory} number texts in the order of an earlier call")
    return _score(scored, own.predicted[0], by, own.probabilities[0])


def _score(
    scored: Texts,
    predicted: Bool[np.ndarray, "texts classes"],
    by: str,
    probabilities: Float[np.ndarray, "texts classes"] | None = None,
) -> Score:
    """Score predictions of the validation texts."""
    each = np.full(len(scored), 1 / len(scored))
    drawn = np.random.default_rng(0).multinomial(len(scored), each, size=SAMPLES)
    counts = np.concatenate([np.ones((1, len(scored))), drawn])
    resampled = functools.partial(
        score_resampled,
        kind=scored.kind,
        labels=scored.labels,
        predicted=predicted,
        probabilities=probabilities,
        names=scored.classes,
    )
    return Score(
        correct=is_correct(scored.labels, predicted),
        predicted=predicted,
        macro_f1=float(resampled("macro_f1", counts=counts[:1])[0]),
        samples=np.array([resampled(of, counts=counts) for of in (by, "accuracy")]),
    )


def _row(name: str, found: Mapping[str, Score], by: str) -> dict[str, Any]:
    """Return a model's row of the table."""
    own = found[name]
    accuracy = float(own.correct.mean())
    low, high = wilson_interval(accuracy, len(own.correct))
    row = {"model": name, "accuracy": accuracy, "low": low, "high": high, "macro_f1": own.macro_f1}
    if by not in row:
        row[by] = abs(float(own.samples[0, 0]))
    row["p"] = np.nan if name == LINEAR else mcnemar(own.correct, found[LINEAR].correct)[2]
    return row


def _costs(trial: Trial, dataset: Dataset) -> dict[str, float]:
    """Return what training took and what predicting takes."""
    trained = load_run(trial.directory)
    texts = dataset.splits["train"].take(np.arange(min(TIMED, len(dataset.splits["train"]))))
    for _ in range(2):  # the first time compiles
        start = time.perf_counter()
        score_texts(trained, trained.params, trained.encode(texts), "measuring the speed")
        seconds = time.perf_counter() - start
    train_seconds = trial.content["train_seconds"]
    if trial.config.model.name == AVERAGE:
        learned = read_json(RunDirectory(trial.directory.parent / VECTORS).result)
        train_seconds += learned["train_seconds"]
    return {
        "train_seconds": train_seconds,
        "compile_seconds": trial.content["compile_seconds"],
        "texts_per_second": len(texts) / seconds,
        "megabytes": trial.content["parameters"] * 4 / 1e6,
    }


def choose(samples: Mapping[str, Float[np.ndarray, "metrics samples"]]) -> str:
    """Return the best model, or one of the CHEAPER that is level with it.

    The best has the highest metric, or of those at most a standard error behind the highest sum of
    metric and accuracy: of a rare class's few texts, the metric alone is mostly chance. A cheaper
    one is level if in both it is at most a standard error behind, and at most POINT. The standard
    error is that of the difference on the same texts, by their resamples (Breiman et al., 1984,
    have the rule).
    """
    best = _find_best(samples)
    cheaper = [name for name in CHEAPER if name in samples]
    level = (name for name in cheaper if _is_level(samples[name], samples[best]))
    return next(level, best)


def _find_best(samples: Mapping[str, Float[np.ndarray, "metrics samples"]]) -> str:
    highest = max(samples.values(), key=lambda of: of[0, 0])
    behind = {name: highest[0] - of[0] for name, of in samples.items()}
    near = [name for name, of in behind.items() if of[0] <= of[1:].std()]
    return max(near, key=lambda name: samples[name][:, 0].sum())


def _is_level(
    first: Float[np.ndarray, "metrics samples"], best: Float[np.ndarray, "metrics samples"]
) -> bool:
    behind = best - first
    most = np.minimum(behind[:, 1:].std(axis=1), POINT)
    return bool(np.all(behind[:, 0] <= most + 1e-9))  # of rounding


def _write(table: pandas.DataFrame, scored: Texts, chosen: str, how: str, directory: Path) -> None:
    """Write comparison.csv, and draw it."""
    write_csv(directory / "comparison.csv", list(table), table.astype(object).values.tolist())
    figures.accuracies(
        dict(zip(table.model, table.accuracy, strict=True)),
        len(scored),
        float(np.bincount(scored.strata).max() / len(scored)),
        directory / "comparison.png",
        label=f"accuracy by {how}, 95 % interval\ndashed: the majority baseline",
        chosen=chosen,
    )


def _print(
    table: pandas.DataFrame,
    chosen: str,
    found: Mapping[str, Score],
    result: Mapping[str, Any],
    scored: Texts,
    by: str,
    directory: Path,
) -> None:
    """Print the table, the choice with its reason, the test's scores, and what to do next."""
    _print_table(table, by)
    advice = [of for of in result["advice"] if not of.startswith("the linear baseline")]  # a row
    for sentence in (*describe_missed(chosen, found, scored), *advice):
        print_line("advice", sentence)
    print_line("chosen", f"{chosen}, {_reason(chosen, found, scored, by)}")
    measured = result["metrics"]["test"]
    even = by == "accuracy" and not scored.rare
    more = "" if even else f" macro F1 {measured['macro_f1']:.4f}"
    if scored.rare:
        rarest, of = min(measured["classes"].items(), key=lambda item: item[1]["examples"])
        shares = f"{of['recall']:.0%} of {of['examples']:,} test texts are found"
        shares += f", {of['precision']:.0%} of those that are predicted as it are right"
        print_line("rarest", f"class {rarest!r}: {shares}")
    console.print_scores("test", result["test"], chosen, more=more)
    tested = (n for n in found if RunDirectory(_place(directory, n)).predictions["test"].exists())
    if others := [name for name in tested if name != chosen]:  # a killed one, too
        terminal.warn(f"the test set has also scored {' and '.join(others)}")
    console.print_metrics(scored.kind, measured)
    console.print_linear_baseline(dict(result))
    if left := [name for name in RECIPES if name not in found]:
        print_line("advice", f"{' and '.join(left)}, left out above, are usually better")
    else:
        encoder = RunDirectory(_place(directory, RECIPES[-1]))
        truncated = read_json(encoder.env)["data"]["truncated"]["train"]
        sentence = describe_truncation(encoder.read_config(), truncated)
        if sentence and sentence not in result["advice"]:
            print_line("advice", sentence)
    modes = f"other modes take --workdir={directory} for {chosen}: --mode=predict, report"
    print_line("winner", modes)
    print_line("files", f"{directory}/comparison.csv, comparison.png")


def _print_table(table: pandas.DataFrame, by: str) -> None:
    extra = [name for name in table.columns if name == by not in ("accuracy", "macro_f1")]
    line = "{:14} {:>8} {:>16} {:>8} {:>11} {:>11} {:>11} {:>8} {:>6}".format
    names = ("model", "accuracy", "95 % interval", "macro F1", "p, linear", "training s")
    print(line(*names, "compiling s", "texts/s", "MB"), *extra)
    costs = {"p": ".2g", "train_seconds": ",.1f", "compile_seconds": ",.1f"}
    costs |= {"texts_per_second": ",.0f", "megabytes": ",.1f"}
    for row in table.to_dict("records"):
        cells = [(row[name], digits) for name, digits in costs.items()]
        shown = ["" if pandas.isna(value) else format(value, digits) for value, digits in cells]
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        scores = (f"{row['accuracy']:.4f}", interval, f"{row['macro_f1']:.4f}")
        print(line(row["model"], *scores, *shown), *(f"{row[name]:.4f}" for name in extra))


def _reason(chosen: str, found: Mapping[str, Score], scored: Texts, by: str) -> str:
    """Return why a model is chosen."""
    best = _find_best({name: of.samples for name, of in found.items()})
    highest = max(found, key=lambda name: found[name].samples[0, 0])
    metric = by.replace("_", " ").replace("macro f1", "macro F1")
    reason = f"the best recipe by {metric}"
    if best != highest:
        reason = f"level with {highest} in {metric}, and more accurate"
    if chosen != best:
        reason = f"cheaper to use, and level with {best} in {metric}"
    if by == "macro_f1" and scored.rare:
        reason += " (a class is rare: macro F1 counts all alike)"
    return reason


def describe_missed(chosen: str, found: Mapping[str, Score], scored: Texts) -> list[str]:
    """Return which classes the chosen model never finds, and who finds most of them."""
    labels = scored.labels
    hits = {name: (of.predicted & labels).sum(axis=0) for name, of in found.items()}
    sentences = []
    for i in np.flatnonzero((hits[chosen] == 0) & labels.any(axis=0)):
        best = max(hits, key=lambda name: hits[name][i])
        total = f"of the {labels[:, i].sum():,} texts of class {scored.classes[i]!r}"
        other = f"; {best} finds {hits[best][i]:,}" if hits[best][i] else ""
        sentences.append(f"{chosen} finds none {total}{other}")
    if len(sentences) > MISSED:
        sentences[MISSED:] = [f"{chosen} finds none of {len(sentences) - MISSED} more classes"]
    return sentences
