"""The linear baseline: scikit-learn on the same reviews.

TF-IDF of words, bigrams and character n-grams (2 to 5, within words), logistic regression (one
against the rest if classes are many), C by the log loss of a cross-validation on the training
reviews. Wang & Manning (2012), https://aclanthology.org/P12-2018, on such models of short texts.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

from sentiment_jax.config.schema import FEW_CLASSES
from sentiment_jax.data.labels import decide
from sentiment_jax.data.reviews import Reviews, Split, stratified_sample
from sentiment_jax.errors import InputError
from sentiment_jax.runtime.startup import find_cache
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.training.metrics import log_loss, measure, score_probabilities
from sentiment_jax.training.tasks import classification, several_labels

Counts: TypeAlias = Any  # a sparse matrix of scipy: texts x n-grams
C = (0.3, 1.0, 3.0, 10.0, 30.0)  # inverse strengths of the regularization to choose from
FOLDS = 3
FEW = 5_000  # reviews that C is chosen on, at most: on IMDB the choice takes as long as the fit
CHARACTERS = 10_000_000  # of all texts, at most, to count n-grams of them: IMDB's take minutes
WORDS = 10  # of each class that the result names
SECONDS = 1e-7  # per n-gram of a text, class and model, the choice of C included
LONG = 30  # seconds that are announced
REVISION = 8  # of the computation: another one is not read from the cache


def linear_baseline(splits: Mapping[str, Reviews], cv: Sequence[Split] = ()) -> dict[str, Any]:
    """Return the baseline's C, seconds, and its scores and predictions on the held-out splits.

    {"C", "ngrams" (of what), "words": {class: [those of the largest weights]}, "seconds", split:
    {"loss", "accuracy", "examples"}, "predicted": {split: [class of each review]}}; {} if the
    training reviews have not two classes of three reviews, or no words. The model of the test set,
    whose words they are, is fitted on the validation reviews as well, which chose nothing. `cv` are
    the folds of a cross-validation, which is then the validation: the indices of the training
    reviews to fit on (words and C, too) and to validate on. The user's
    cache keeps the result for the next run on the same reviews.
    """
    splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}
    content: list[Any] = [
        (name, of.texts_hash, of.labels.tolist(), len(of.classes)) for name, of in splits.items()
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


def _fit(splits: Mapping[str, Reviews], cv: Sequence[Split]) -> dict[str, Any]:
    start = time.perf_counter()
    train = splits["train"]
    counts, names = _count([text for split in splits.values() for text in split.texts])
    labels = np.concatenate([split.labels for split in splits.values()])
    _announce(counts, len(train.classes), models=2 + len(cv))
    ends = np.cumsum([len(split) for split in splits.values()])
    rows = dict(zip(splits, np.split(np.arange(len(labels)), ends[:-1]), strict=True))
    if not (best := _choose(train, counts, rows["train"])):
        return {}
    found = {}
    words: dict[str, list[str]] = {}
    known = rows["train"]
    for name in ("val", "test"):
        if splits.get(name):
            (found[name],), model, columns = _predict(counts, labels, known, rows[name], [best])
            if len(names):
                words = _strongest(model, names[columns], train.classes)
            known = np.concatenate([known, rows[name]])
    if cv:
        found["val"] = np.zeros((len(train), len(train.classes)))
        labels = train.labels
        splits = {**splits, "val": train}
    for kept, held_out in cv:
        if not (chosen := _choose(train, counts, kept)):
            return {}  # each fold has a model, or there is no baseline
        (found["val"][held_out],), *_ = _predict(counts, labels, kept, held_out, [chosen])
    several = train.labels.ndim == 2
    thresholds = [0.5] * len(train.classes) if several else []
    if "val" in found:  # as a run's
        fit = several_labels.fit if several else classification.fit
        thresholds = fit(splits["val"].labels, found["val"]).get("thresholds", [])
    scores = {}
    for name, of in found.items():
        labels = splits[name].labels
        measured = measure(labels, of, train.classes, thresholds)
        scores[name] = score_probabilities(labels, of, thresholds)
        scores[name]["macro_f1"] = measured["macro_f1"]
    seconds = round(time.perf_counter() - start, 3)
    decided = functools.partial(decide, thresholds=thresholds, several=several)
    predicted = {name: decided(of).tolist() for name, of in found.items()}
    ngrams = "words, bigrams and characters" if len(counts) > 1 else "words and bigrams"
    result = {"C": best, "ngrams": ngrams, "words": words, "seconds": seconds}
    return {**result, **scores, "predicted": predicted}


def _announce(counts: Sequence[Counts], classes: int, models: int) -> None:
    """Say what so many models of many classes take, if it is long."""
    seconds = SECONDS * models * classes * sum(of.nnz for of in counts)
    if classes > FEW_CLASSES and seconds > LONG:
        gigabytes = 8e-9 * classes * sum(of.shape[1] for of in counts)
        tqdm.write(
            f"{'linear':8} about {seconds:.0f} s and {gigabytes:.1f} GB for {classes} classes: "
            "--config.linear_baseline=False leaves it out"
        )


def _strongest(model: Any, names: np.ndarray, classes: Sequence[str]) -> dict[str, list[str]]:
    """Return each class's words and bigrams of the largest weights; they are the first features."""
    unknown = np.zeros((1, len(names)))  # of a label that all texts have, or none
    found = [getattr(one, "coef_", unknown)[:, : len(names)] for one in model.estimators_]
    weights = np.concatenate(found)
    if len(weights) == 1:  # of two classes
        weights = np.concatenate([-weights, weights])
    words = {}
    for number, of in zip(model.classes_, weights, strict=True):
        order = np.argsort(-of)[:WORDS]
        words[classes[number]] = names[order[of[order] > 0]].tolist()
    return words


def _count(texts: Sequence[str]) -> tuple[list[Counts], np.ndarray]:
    """Return how often each n-gram of words and of characters is in each text, and the former."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizers = [CountVectorizer(ngram_range=(1, 2))]
    if sum(map(len, texts)) <= CHARACTERS:
        vectorizers.append(CountVectorizer(analyzer="char_wb", ngram_range=(2, 5)))
    used = [of for of in vectorizers if any(map(of.build_analyzer(), texts))]
    counts = [of.fit_transform(texts) for of in used]
    names = used[0].get_feature_names_out() if used[:1] == vectorizers[:1] else []
    return counts, np.array(names, dtype=object)


def _choose(train: Reviews, counts: Sequence[Counts], kept: np.ndarray) -> float:
    """Return C by a cross-validation on some of the training reviews; 0: there is no model."""
    from sklearn.model_selection import KFold, StratifiedKFold

    members = train.members
    if not counts or np.count_nonzero(members[kept].sum(axis=0) >= FOLDS) < 2:
        return 0.0
    few = np.isin(train.hashes, stratified_sample(train.take(kept), count=FEW, seed=0).hashes)
    rows = kept[few[kept]]
    labels = train.labels
    folds: Any = KFold(FOLDS, shuffle=True, random_state=0)
    if labels.ndim == 1:
        folds = StratifiedKFold(FOLDS)
        rows = rows[members[rows].sum(axis=0)[labels[rows]] >= FOLDS]
    losses = np.zeros(len(C))
    number = 1 if len(train.classes) > FEW_CLASSES else FOLDS  # of many classes, to save time
    for fitted, held in itertools.islice(folds.split(rows, labels[rows]), number):
        found, *_ = _predict(counts, labels, rows[fitted], rows[held], C, tolerance=0.1)
        losses += [log_loss(of, labels[rows[held]]) * len(held) for of in found]
    return C[np.argmin(losses)]


def _predict(
    counts: Sequence[Counts],
    labels: np.ndarray,
    kept: np.ndarray,
    held_out: np.ndarray,
    strengths: Sequence[float],
    tolerance: float = 1e-4,
) -> tuple[list[Float64[np.ndarray, "held_out classes"]], Any, np.ndarray]:
    """Return the probabilities of held-out texts by a model of others for each C.

    Words that only the former have are unknown. Also the last of these models, and which columns of
    the first counts its first features are.
    """
    # Late: they take a second.
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    blocks = []
    columns = []
    for block in counts:
        own = block[kept]
        known = np.flatnonzero(own.getnnz(axis=0))
        columns.append(known)
        if len(known):
            weights = TfidfTransformer(sublinear_tf=True).fit(own[:, known])
            blocks.append([weights.transform(of[:, known]) for of in (own, block[held_out])])
    outputs = labels.shape[1] if labels.ndim == 2 else max(labels) + 1
    if outputs > FEW_CLASSES:
        tolerance = 0.1  # takes a third of the time, and accuracies are as good
    features = hstack([own for own, _ in blocks], "csr")
    others = hstack([other for _, other in blocks], "csr")
    probabilities = []
    for c in strengths:
        # The dual problem takes a tenth of the primal's time. liblinear's own tolerance for it is
        # .1, with which the choice of C is the same.
        kind = LogisticRegression(
            C=c, solver="liblinear", dual=True, tol=tolerance, max_iter=1_000, random_state=0
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Label .* is present in")  # all of these texts
            model = OneVsRestClassifier(kind).fit(features, labels[kept])
        probabilities.append(np.zeros((len(held_out), outputs)))
        probabilities[-1][:, model.classes_] = model.predict_proba(others)
    return probabilities, model, columns[0]
