"""NB-SVM, the linear baseline that a network should beat (Wang & Manning 2012).

A review is the set of its n-grams, each weighted by its log-count ratio: how much more often it
occurs in positive than in negative reviews. Unlike in the paper, the weights of a review have unit
length. A linear classifier of scikit-learn sums them. The settings chosen on validation are then
trained twice, on the training split and on all labeled reviews, and scored once on the test.

    python -m benchmarks.accuracy.nb_svm --data_dir=DATA_DIR --output=results/accuracy/nb_svm
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
from jaxtyping import Float64, Int32
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.encoding import WHOLE, encode
from sentiment_jax.data.ngrams import ngram_keys
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import describe_environment

MOST_WORDS = 2**21  # three token ids fit into 63 bits
# The first of equally good choices is taken.
ORDERS = (1, 2, 3)
COSTS = {"SVM": (0.3, 1.0, 3.0, 10.0), "logistic regression": (10.0, 30.0, 100.0, 300.0)}
MIXTURES = (1.0, 0.5, 0.25)


class Choice(NamedTuple):
    """The longest n-grams, the classifier, its C, and beta of the paper's interpolation."""

    order: int
    classifier: str
    cost: float
    mixture: float = 1.0  # 1: the classifier's own weights


def log_count_ratios(
    present: sparse.csr_matrix, labels: Int32[np.ndarray, " reviews"]
) -> Float64[np.ndarray, " ngrams"]:
    """Return log((p / |p|) / (q / |q|)) of each n-gram.

    p and q are 1 + the numbers of positive and of negative reviews that have it; |p| is p's sum.
    """
    q, p = (1 + np.asarray(present[labels == label].sum(axis=0)).ravel() for label in (0, 1))
    return np.log(p / p.sum()) - np.log(q / q.sum())


class Features:
    """The n-grams of training reviews, with their log-count ratios."""

    def __init__(self, reviews: Texts, order: int):
        self.order = order
        self.tokenizer = train_word_level(reviews.texts, MOST_WORDS, min_frequency=1)
        numbers, rows = self._find(reviews)
        self.ngrams, columns = np.unique(numbers, return_inverse=True)
        present = self._matrix(rows, columns, len(reviews))
        self.ratios = log_count_ratios(present, reviews.codes)
        self.of_training = self._scale(present)

    def of(self, reviews: Texts) -> sparse.csr_matrix:
        """Return a row for each review: the ratios of its n-grams, without unknown ones."""
        numbers, rows = self._find(reviews)
        found, inverse = np.unique(numbers, return_inverse=True)
        places = np.minimum(np.searchsorted(self.ngrams, found), len(self.ngrams) - 1)
        columns = places[inverse]
        known = (self.ngrams[places] == found)[inverse]
        return self._scale(self._matrix(rows[known], columns[known], len(reviews)))

    def _find(self, reviews: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Return every n-gram as a number, and the index of its review."""
        encoded = encode(self.tokenizer, reviews, WHOLE, "head")
        base = self.tokenizer.get_vocab_size()
        orders = range(1, self.order + 1)
        keys = [ngram_keys(encoded.token_ids, encoded.offsets, n, base) for n in orders]
        numbers = np.array(keys)
        rows = np.broadcast_to(np.repeat(np.arange(len(reviews)), encoded.lengths), numbers.shape)
        return numbers[numbers >= 0], rows[numbers >= 0]

    def _matrix(self, rows: np.ndarray, columns: np.ndarray, count: int) -> sparse.csr_matrix:
        """Return a matrix that is 1 if a review has an n-gram, however often."""
        found = (np.ones(len(rows)), (rows, columns))
        return sparse.csr_matrix(found, (count, len(self.ngrams))).sign()

    def _scale(self, present: sparse.csr_matrix) -> sparse.csr_matrix:
        present.data = self.ratios[present.indices]
        return normalize(present, copy=False)


def fit(features: Features, labels: np.ndarray, choice: Choice) -> Any:
    """Return scikit-learn's classifier, trained on the features' reviews."""
    classifier = LinearSVC(C=choice.cost, random_state=0)
    if choice.classifier != "SVM":
        classifier = LogisticRegression(C=choice.cost, solver="liblinear")
    return classifier.fit(features.of_training, labels)


def score(
    classifier: Any, rows: sparse.csr_matrix, labels: np.ndarray, choice: Choice
) -> dict[str, Any]:
    """Return accuracy, number of reviews and, if the classifier has probabilities, the loss."""
    weights = classifier.coef_[0]
    mixed = (1 - choice.mixture) * np.abs(weights).mean() + choice.mixture * weights
    logits = rows @ mixed + classifier.intercept_[0]
    accuracy = float(np.mean((logits > 0) == labels))
    scores = {"accuracy": round(accuracy, 6), "examples": len(labels)}
    if hasattr(classifier, "predict_proba"):
        against = np.where(labels == 1, -logits, logits)
        scores["loss"] = round(float(np.logaddexp(0, against).mean()), 6)
    return scores


def clock() -> Callable[[], dict[str, float]]:
    """Return a function: CPU seconds of all threads, and wall time, since this call."""
    clocks = {"cpu_seconds": time.process_time, "wall_seconds": time.perf_counter}
    start = {name: now() for name, now in clocks.items()}
    return lambda: {name: round(now() - start[name], 1) for name, now in clocks.items()}


def train_and_test(choice: Choice, train: Texts, others: dict[str, Texts]) -> dict[str, Any]:
    """Train a choice; return its scores on other reviews and both times."""
    seconds = clock()
    features = Features(train, choice.order)
    trained = fit(features, train.codes, choice)
    result: dict[str, Any] = {"choice": choice._asdict(), "reviews": len(train)}
    result |= {"ngrams": len(features.ngrams), "training": seconds()}
    seconds = clock()
    for name, reviews in others.items():
        result[name] = score(trained, features.of(reviews), reviews.codes, choice)
    return {**result, "scoring": seconds()}


def main() -> None:
    """Choose settings, train and test; print the scores and write result.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="", help="the prepared TFDS folder")
    parser.add_argument("--output", type=Path, required=True, help="the folder of result.json")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset(DataConfig(source="tfds", path=given.data_dir))
    train, val, test = (dataset.splits[name] for name in ("train", "val", "test"))
    seconds = clock()
    tried = []
    for order in ORDERS:
        features = Features(train, order)
        rows = features.of(val)
        for classifier, cost in ((name, cost) for name in COSTS for cost in COSTS[name]):
            trained = fit(features, train.codes, Choice(order, classifier, cost))
            for mixture in MIXTURES:
                choice = Choice(order, classifier, cost, mixture)
                tried.append((choice, score(trained, rows, val.codes, choice)))
                print(*tried[-1], flush=True)
    choosing = seconds()
    every = Texts.from_texts([*train.texts, *val.texts], [*train.codes, *val.codes])
    results = []
    for name in COSTS:
        own = [(scores["accuracy"], choice) for choice, scores in tried if choice[1] == name]
        best = max(own, key=lambda entry: entry[0])[1]
        results.append(train_and_test(best, train, {"val": val, "test": test}))
        results.append(train_and_test(best, every, {"test": test}))
    print(*results, sep="\n")
    environment = describe_environment()
    content = {
        "choosing": choosing,
        "trained": results,
        "grid": [{**choice._asdict(), **scores} for choice, scores in tried],
        "data": dataset.statistics,
        **{name: environment[name] for name in ("python", "machine", "git_revision")},
        "scikit_learn": sklearn.__version__,
    }
    write_json(given.output / "result.json", content)


if __name__ == "__main__":
    main()
