"""The linear baseline: scikit-learn on the same reviews.

TF-IDF of words and bigrams, logistic regression (one against the rest if classes are many), C by
the log loss of a cross-validation on the training reviews.
"""

import contextlib
import hashlib
import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from sentiment_jax.data.labels import decide
from sentiment_jax.data.reviews import Reviews, stratified_sample
from sentiment_jax.errors import InputError
from sentiment_jax.runtime.startup import find_cache
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.training.lineage import texts_hash
from sentiment_jax.training.metrics import score_probabilities

C = (1.0, 3.0, 10.0, 30.0, 100.0)  # inverse strengths of the regularization to choose from
FOLDS = 3
FEW = 5_000  # reviews that C is chosen on, at most: on IMDB the choice takes as long as the fit
REVISION = 2  # of the computation: another one is not read from the cache


def linear_baseline(
    splits: Mapping[str, Reviews], cv: Sequence[tuple[np.ndarray, np.ndarray]] = ()
) -> dict[str, Any]:
    """Return the baseline's C, seconds, and its scores and predictions on the held-out splits.

    {"C", "seconds", split: {"loss", "accuracy", "examples"}, "predicted": {split: [class of each
    review]}}; {} if the training reviews have no words, or not two classes of three reviews. `cv`
    are the folds of a cross-validation, which is then the validation: the indices of the training
    reviews to fit on (words and C, too) and to validate on. The user's cache keeps the result for
    the next run on the same reviews.
    """
    splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}
    content: list[Any] = [
        (name, texts_hash(of), of.labels.tolist(), len(of.classes)) for name, of in splits.items()
    ]
    content += [("fold", held_out.tolist()) for _, held_out in cv]
    revision = (REVISION, importlib.metadata.version("scikit-learn"))
    digest = hashlib.sha256(repr((revision, content)).encode()).hexdigest()
    folder = find_cache()
    cached = folder and folder / "linear" / f"{digest}.json"
    if cached and cached.exists():
        with contextlib.suppress(InputError):  # damaged
            return read_json(cached)
    found = _fit(splits, cv)
    if cached:
        with contextlib.suppress(OSError):  # a full disk
            cached.parent.mkdir(exist_ok=True)
            write_json(cached, found)
    return found


def _fit(
    splits: Mapping[str, Reviews], cv: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    start = time.perf_counter()
    train = splits["train"]
    held_out = {name: splits[name] for name in ("val", "test") if splits.get(name)}
    best, found = _predict(train, held_out)
    if cv:
        held_out = {"val": train, **held_out}
        found["val"] = np.zeros((len(train), len(train.classes)))
    for kept, rows in cv:
        chosen, of_fold = _predict(train.take(kept), {"val": train.take(rows)})
        best = chosen and best  # each fold has a model, or there is no baseline
        found["val"][rows] = of_fold["val"]
    scores = {name: score_probabilities(of.labels, found[name]) for name, of in held_out.items()}
    seconds = round(time.perf_counter() - start, 3)
    predicted = {name: decide(found[name]).tolist() for name in held_out}
    return {"C": best, "seconds": seconds, **scores, "predicted": predicted} if best else {}


def _predict(
    train: Reviews, held_out: Mapping[str, Reviews]
) -> tuple[float, dict[str, Float64[np.ndarray, "reviews classes"]]]:
    """Return C and the probabilities of each split by a model of the training reviews; 0: none."""
    # Late: they take a second.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.multiclass import OneVsRestClassifier

    classes = len(train.classes)
    found = {name: np.zeros((len(split), classes)) for name, split in held_out.items()}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    words = any(map(vectorizer.build_analyzer(), train.texts))
    if not words or np.count_nonzero(np.bincount(train.labels) >= FOLDS) < 2:
        return 0.0, found
    features = vectorizer.fit_transform(train.texts)
    # liblinear takes a tenth of lbfgs's time on sparse features.
    model = OneVsRestClassifier(LogisticRegression(solver="liblinear"))
    few = np.isin(train.hashes, stratified_sample(train, count=FEW, seed=0).hashes)
    few &= np.bincount(train.labels[few], minlength=classes)[train.labels] >= FOLDS
    search = GridSearchCV(model, {"estimator__C": C}, scoring="neg_log_loss", cv=FOLDS, refit=False)
    search.fit(features[few], train.labels[few])
    model.set_params(**search.best_params_).fit(features, train.labels)
    for name, split in held_out.items():
        found[name][:, model.classes_] = model.predict_proba(vectorizer.transform(split.texts))
    return search.best_params_["estimator__C"], found
