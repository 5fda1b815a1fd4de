"""`--mode=compare`: trains the recipes for one's own texts on the same splits, tests one of them.

That is the best on validation, unless one that is cheaper to use is level with it. Each
recipe is a run in the directory: after a kill, it goes on as any run does.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool
from ml_collections import ConfigDict

from sentiment_jax.analysis import figures
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.schema import ENCODERS, DataConfig
from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import validate
from sentiment_jax.data.corpus import Corpus, infer_source, load_corpus
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.unlabeled import NOTHING, read_text
from sentiment_jax.errors import InputError, TooLittleText
from sentiment_jax.modes.pretrain import pretrain
from sentiment_jax.modes.train import RUN, TRIAL, fit_baseline
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import read_json, write_csv, write_json
from sentiment_jax.storage.run_directory import (
    COMPARISON_FILE,
    VECTORS,
    RunDirectory,
    prepare_workdir,
)
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training import checks, console
from sentiment_jax.training.advice import describe_truncation
from sentiment_jax.training.cross_validation import draw_folds
from sentiment_jax.training.metrics import is_correct, mcnemar, wilson_interval
from sentiment_jax.training.scoring import score_reviews
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.stages import run_stages
from sentiment_jax.training.tasks.several_labels import task_of
from sentiment_jax.training.trained_model import load_run

RECIPES = ("ngrams", "encoder:probe", "encoder")  # the cheapest to use first
AVERAGE = "average"  # compared where there is unlabeled text to learn its embeddings from
PRETRAIN = "lstm:pretrain"  # learns them
# To use, that is: once trained, a probe and a fine-tuned encoder cost the same.
CHEAPER = ("ngrams", AVERAGE)
LINEAR = "linear"
WEIGHTS = ("model.pretrained", "model.revision")  # of the encoders
TEXT = "pretrain.text"  # unlabeled
FRACTION = "data.validation_fraction"
# What may be changed.
SHARED = ("data.", "seed", "cpu_devices", TEXT, *WEIGHTS)
FEW = 100  # validation reviews: fewer choose by chance, and folds take their place
FOLDS = 5
TIMED = 256  # texts, to measure how fast a model predicts


def compare(
    changes: Mapping[str, Any], directory: Path, *, stop_after: float | None = None
) -> pandas.DataFrame:
    """Complete a comparison; print, draw and return its table, a row per model.

    `changes` are of the data, the seed, the encoder's weights and unlabeled text. The directory
    will hold comparison.json, .csv and .png, and a run for each recipe. After `stop_after` seconds,
    the current run is saved and the comparison stops. The columns are the validation accuracy with
    its 95 % interval, the p-value of McNemar's test against the linear baseline, the seconds of
    training, texts per second and the size of the parameters. Errors are those of a training.
    """
    recipes, data, corpus = _read(changes, directory)
    text = read_text(changes[TEXT], data) if changes.get(TEXT) else NOTHING
    _begin(directory, corpus, text)
    scored = corpus.splits["train" if data.folds else "val"]
    how = f"{data.folds} folds" if data.folds else "validation"
    listed = ", ".join(name for name in recipes if name != PRETRAIN)
    print(f"{'compare':8} {listed} by {how} on {len(scored):,} reviews, in {directory}")
    baseline = fit_baseline(corpus.splits, draw_folds(data, corpus.splits))
    rows = []
    correct = {}
    if baseline:
        correct[LINEAR] = is_correct(scored.labels, np.array(baseline["predicted"]["val"]))
        rows.append(_row(LINEAR, correct) | {"train_seconds": baseline["seconds"]})
    with Stop(stop_after) as stop:
        for name, recipe in recipes.items():
            if name == PRETRAIN:
                _pretrain(recipe, directory / VECTORS, len(text), stop)
                continue
            place = _place(directory, name)
            if not _train(name, recipe, place, TRIAL, corpus, stop):
                continue
            trial = Trial("run", place, RunDirectory(place).read_config()).refresh()
            correct[name] = read_predictions([trial], "val").correct[0]
            rows.append(_row(name, correct) | _costs(trial, corpus))
        chosen = choose(correct)
        place = _place(directory, chosen)
        needed = {"test", "linear_baseline"} if baseline else {"test"}
        ended = RunDirectory(place).result
        if not needed <= read_json(ended).keys():
            ended.unlink()  # it goes on: what is left is the test
            _train(chosen, recipes[chosen], place, RUN, corpus, stop)
    table = pandas.DataFrame(rows)
    _write(table, scored, chosen, how, directory)
    content = read_json(directory / COMPARISON_FILE) | {"chosen": place.name}
    write_json(directory / COMPARISON_FILE, content)
    _print(table, chosen, correct, read_json(ended), directory)
    return table


def _read(
    changes: Mapping[str, Any], directory: Path
) -> tuple[dict[str, ConfigDict], DataConfig, Corpus]:
    """Return the recipes in their order, the data that they share, and the reviews.

    Too few validation reviews to choose by give way to folds.
    """
    more = (PRETRAIN, AVERAGE) if changes.get(TEXT) else ()
    names = (RECIPES[0], *more, *RECIPES[1:])
    recipes = {name: _recipe(name, changes, directory / VECTORS) for name in names}
    prepare_workdir(directory)
    data = checks.resolve(recipes[RECIPES[0]]).data
    if not data.validates:
        raise InputError("data.validation_fraction=0 leaves a comparison no reviews to choose by")
    with terminal.progress_bar(None, "reading reviews"):
        corpus = load_corpus(data)
    if len(corpus.splits["val"]) < FEW and not (data.folds or data.validation_path):
        return _read({**changes, "data.folds": FOLDS}, directory)
    return recipes, data, corpus


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
        others = {"data.folds"}  # it has none
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


def _begin(directory: Path, corpus: Corpus, text: Reviews) -> None:
    """Write comparison.json, or check that the one there is of the same reviews and text."""
    if RunDirectory(directory).config.exists():
        raise InputError(f"{directory} holds a run: choose another --workdir for a comparison")
    path = directory / COMPARISON_FILE
    begun = {"data_hash": corpus.statistics["data_hash"]}
    if len(text):
        begun["text_hash"] = text.texts_hash
    begun["chosen"] = ""
    if not path.exists():
        write_json(path, begun)
    elif read_json(path) | {"chosen": ""} != begun:
        raise InputError(f"{directory} compares models on other reviews: choose another --workdir")


def _place(directory: Path, name: str) -> Path:
    """Return the directory of a recipe's run."""
    return directory / name.replace(":", "-")


def _train(
    name: str,
    recipe: ConfigDict,
    place: Path,
    stages: Sequence[Any],
    corpus: Corpus,
    stop: Stop,
) -> bool:
    """Take a run to its end; return False, and say why, if there are no weights for it."""
    if recipe.model.pretrained and not RunDirectory(place).result.exists():
        try:
            checks.resolve(recipe)
        except InputError as error:
            print(f"left out {name}: {error}")
            return False
    fewest = len(corpus.splits["train"]) // 2
    recipe = override(recipe, {"batch_size": max(1, min(recipe.batch_size, fewest))})
    prepare = functools.partial(task_of(recipe).prepare, corpus=corpus)
    start = time.monotonic()
    result = run_stages(recipe, place, stages, nested=True, prepare=prepare, stop=stop)
    if stages is TRIAL:
        accuracy = result["val"]["accuracy"]
        print(f"{name:14} accuracy {accuracy:.4f}, {time.monotonic() - start:,.0f} s", flush=True)
    return True


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


def _row(name: str, correct: Mapping[str, Bool[np.ndarray, " reviews"]]) -> dict[str, Any]:
    """Return a model's row of the table, given which reviews each model classifies correctly."""
    accuracy = float(correct[name].mean())
    low, high = wilson_interval(accuracy, len(correct[name]))
    compared = name != LINEAR and LINEAR in correct
    p = mcnemar(correct[name], correct[LINEAR])[2] if compared else np.nan
    return {"model": name, "accuracy": accuracy, "low": low, "high": high, "p": p}


def _costs(trial: Trial, corpus: Corpus) -> dict[str, float]:
    """Return what training took and what predicting takes."""
    trained = load_run(trial.directory)
    reviews = corpus.splits["train"].take(np.arange(min(TIMED, len(corpus.splits["train"]))))
    encoded = trained.encode(reviews)
    for _ in range(2):  # the first time compiles
        seconds = score_reviews(trained, trained.params, encoded, "measuring the speed").seconds
    train_seconds = trial.content["train_seconds"]
    if trial.config.model.name == AVERAGE:
        learned = read_json(RunDirectory(trial.directory.parent / VECTORS).result)
        train_seconds += learned["train_seconds"]
    return {
        "train_seconds": train_seconds,
        "texts_per_second": len(reviews) / seconds,
        "megabytes": trial.content["parameters"] * 4 / 1e6,
    }


def choose(correct: Mapping[str, Bool[np.ndarray, " reviews"]]) -> str:
    """Return the best model, or one of the CHEAPER that is at most a standard error behind it.

    The standard error is that of the mean difference, review by review (Breiman et al., 1984, have
    the rule).
    """
    best = _find_best(correct)
    cheaper = [name for name in CHEAPER if name in correct]
    level = (name for name in cheaper if _is_level(correct[name], correct[best]))
    return next(level, best)


def _find_best(correct: Mapping[str, Bool[np.ndarray, " reviews"]]) -> str:
    """Return the most accurate recipe; the linear baseline is none."""
    return max((name for name in correct if name != LINEAR), key=lambda name: correct[name].mean())


def _is_level(first: Bool[np.ndarray, " reviews"], best: Bool[np.ndarray, " reviews"]) -> bool:
    behind = best.astype(float) - first
    return bool(behind.mean() <= behind.std() / np.sqrt(len(behind)))


def _write(
    table: pandas.DataFrame, scored: Reviews, chosen: str, how: str, directory: Path
) -> None:
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
    correct: Mapping[str, Bool[np.ndarray, " reviews"]],
    result: Mapping[str, Any],
    directory: Path,
) -> None:
    line = "{:14} {:>8} {:>16} {:>11} {:>11} {:>8} {:>6}".format
    print(line("model", "accuracy", "95 % interval", "p, linear", "training s", "texts/s", "MB"))
    for row in table.to_dict("records"):
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        rest = [(row[name], digits) for name, digits in (("p", ".2g"), ("train_seconds", ",.1f"))]
        rest += [(row["texts_per_second"], ",.0f"), (row["megabytes"], ",.1f")]
        cells = ["" if pandas.isna(value) else format(value, digits) for value, digits in rest]
        print(line(row["model"], f"{row['accuracy']:.4f}", interval, *cells))
    best = _find_best(correct)
    reason = f"cheaper to use, and not a standard error behind {best}"
    print(f"{'chosen':8} {chosen}, {'the best' if chosen == best else reason}")
    if LINEAR in correct and _is_level(correct[LINEAR], correct[best]):
        print(f"{'':8} the linear baseline is not behind it either: scikit-learn may be enough")
    console.print_scores("test", result["test"], chosen)
    console.print_metrics(result["metrics"]["test"])
    console.print_linear_baseline(dict(result))
    if left := [name for name in RECIPES if name not in correct]:
        listed = " and ".join(left)
        print(f"{'advice':8} {listed} are usually better: --config.model.pretrained=FOLDER")
    else:
        encoder = RunDirectory(_place(directory, RECIPES[-1]))
        truncated = read_json(encoder.env)["data"]["truncated"]["train"]
        if sentence := describe_truncation(encoder.read_config(), truncated):
            print(f"{'advice':8} {sentence}")
    print(
        f"{'winner':8} other modes take --workdir={directory} for {chosen}: --mode=predict, report"
    )
    print(f"{'files':8} {directory}/comparison.csv, comparison.png")
