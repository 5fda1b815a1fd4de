"""The linear baseline: what scikit-learn, by training/linear_model.py, gets on the same texts."""

import contextlib
import functools
import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from sentiment_jax.data.kinds import Labels
from sentiment_jax.data.ngrams import KINDS, count_ngrams
from sentiment_jax.data.texts import Split, Texts
from sentiment_jax.errors import InputError
from sentiment_jax.runtime.startup import find_cache
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.training import linear_model
from sentiment_jax.training.linear_model import Probabilities
from sentiment_jax.training.metrics import is_correct, measure, score_probabilities

WORDS = 10  # of each class that the result names
REVISION = 9  # of the computation: another one is not read from the cache


def linear_baseline(
    splits: Mapping[str, Texts],
    choose_thresholds: Callable[[Labels, Probabilities], Mapping[str, Any]],
    cv: Sequence[Split] = (),
) -> dict[str, Any]:
    """Return the baseline's C, seconds, and its scores and predictions on the held-out splits.

    {"C", "ngrams" (of what), "words": {class: [those of the largest weights]}, "seconds", split:
    {"loss", "accuracy", "examples"}, "correct": {split: [whether each text's prediction is]}}; {}
    if the training texts have not two classes of three texts, or no words. The model of the test
    set, whose words they are, is fitted on the validation texts as well, which chose nothing but
    thresholds: `choose_thresholds` is the task's `fit`. `cv` are the folds of a cross-validation,
    which is then the validation: the indices of the training texts to fit on (words and C, too)
    and to validate on. The user's cache keeps the result for the next run on the same texts.
    """
    splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}
    content: list[Any] = [
        (name, of.texts_hash, of.codes.tolist(), of.classes) for name, of in splits.items()
    ]
    content += [("fold", held_out.tolist()) for _, held_out in cv]
    revision = (REVISION, importlib.metadata.version("scikit-learn"))
    digest = hashlib.sha256(repr((revision, content)).encode()).hexdigest()
    folder = find_cache()
    cached = folder and folder / "linear" / f"{digest}.json"
    if cached and cached.exists():
        with contextlib.suppress(InputError):  # damaged
            return read_json(cached)
    found = _fit(splits, choose_thresholds, cv)
    if cached:
        with contextlib.suppress(OSError):  # a full disk
            cached.parent.mkdir(exist_ok=True)
            write_json(cached, found)
    return found


def _fit(
    splits: Mapping[str, Texts],
    choose_thresholds: Callable[[Labels, Probabilities], Mapping[str, Any]],
    cv: Sequence[Split],
) -> dict[str, Any]:
    start = time.perf_counter()
    train = splits["train"]
    kinds = count_ngrams([text for split in splits.values() for text in split.texts])
    counts = [of for _, of in kinds]
    outputs = np.concatenate([linear_model.outputs_of(split) for split in splits.values()])
    fit = functools.partial(linear_model.fit, counts, outputs)
    predict = functools.partial(linear_model.predict, counts=counts, kind=train.kind)
    remedy = ": --config.linear_baseline=False leaves it out"
    linear_model.announce(counts, len(train.classes), models=2 + len(cv), remedy=remedy)
    ends = np.cumsum([len(split) for split in splits.values()])
    rows = dict(zip(splits, np.split(np.arange(len(outputs)), ends[:-1]), strict=True))
    if not (best := linear_model.choose(train, counts, rows["train"])):
        return {}
    found = {}
    words: dict[str, list[str]] = {}
    known = rows["train"]
    for name in ("val", "test"):
        if splits.get(name):
            model = fit(known, best)
            found[name] = predict(model, rows=rows[name])
            words = _strongest(model.kernel, kinds[0][0], train.classes)
            known = np.concatenate([known, rows[name]])
    if cv:
        found["val"] = np.zeros((len(train), len(train.classes)))
        splits = {**splits, "val": train}
    for kept, held_out in cv:
        if not (chosen := linear_model.choose(train, counts, kept)):
            return {}  # each fold has a model, or there is no baseline
        found["val"][held_out] = predict(fit(kept, chosen), rows=held_out)
    seconds = round(time.perf_counter() - start, 3)
    ngrams = "words, bigrams and characters" if len(counts) > 1 else "words and bigrams"
    result = {"C": best, "ngrams": ngrams, "words": words, "seconds": seconds}
    thresholds = train.kind.thresholds(len(train.classes))
    if "val" in found:
        fitted = choose_thresholds(splits["val"].labels, found["val"])
        thresholds = fitted.get("thresholds", [])
    return result | _score(found, splits, thresholds)


def _score(
    found: Mapping[str, Probabilities], splits: Mapping[str, Texts], thresholds: Sequence[float]
) -> dict[str, Any]:
    """Return the scores of each split, and which predictions are correct."""
    scores: dict[str, Any] = {}
    correct = {}
    for name, probabilities in found.items():
        texts = splits[name]
        measured = measure(texts.kind, texts.labels, probabilities, texts.classes, thresholds)
        scores[name] = score_probabilities(texts.kind, texts.labels, probabilities, thresholds)
        scores[name]["macro_f1"] = measured["macro_f1"]
        predicted = texts.kind.decide(probabilities, thresholds)
        correct[name] = is_correct(texts.labels, predicted).tolist()
    return scores | {"correct": correct}


def _strongest(
    kernel: Float64[np.ndarray, "ngrams outputs"], names: Sequence[str], classes: Sequence[str]
) -> dict[str, list[str]]:
    """Return each class's words and bigrams of the largest weights; they are the first features."""
    if names[0].startswith(KINDS[1]):
        return {}
    weights = kernel[: len(names)].T
    if len(weights) == 1:  # of two classes
        weights = np.concatenate([-weights, weights])
    order = np.argsort(-weights, axis=1)[:, :WORDS]
    return {
        label: [names[i] for i in best if of[i] > 0]
        for label, of, best in zip(classes, weights, order, strict=True)
    }
