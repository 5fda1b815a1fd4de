"""NB-SVM, the linear baseline that a network should beat (Wang & Manning 2012).

A review is the set of its n-grams, each weighted by its log-count ratio: how much more often it
occurs in positive than in negative reviews. Unlike in the paper, the weights of a review are scaled
to unit length, so that long reviews do not get more confident predictions. A linear classifier of
scikit-learn sums them. Words and punctuation marks are those of the LSTM's tokenizer. Settings are
chosen on validation, for each classifier. The choices are then trained twice, on the training split
and on all labeled reviews, and scored once on the test set.

    python -m benchmarks.accuracy.nb_svm --data_dir=DATA_DIR --output=results/accuracy/nb_svm
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from jaxtyping import Float64, Int32, Int64
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.encoding import WHOLE, Encoded, encode
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.storage.files import write_json

MOST_WORDS = 2**21  # three token ids fit into 63 bits
# The first of equally good choices is taken.
ORDERS = (1, 2, 3)
COSTS = {"SVM": (0.3, 1.0, 3.0, 10.0), "logistic regression": (10.0, 30.0, 100.0, 300.0)}
MIXTURES = (1.0, 0.5, 0.25)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The longest n-grams, the classifier, its C, and beta of the paper's interpolation."""

    order: int
    classifier: str
    cost: float
    mixture: float = 1.0  # 1: the classifier's own weights

    def __str__(self) -> str:
        words = f"1- to {self.order}-grams, {self.classifier}"
        return f"{words}, C={self.cost:g}, beta={self.mixture:g}"


def find_ngrams(
    encoded: Encoded, words: int, order: int
) -> tuple[Int64[np.ndarray, " ngrams"], Int64[np.ndarray, " ngrams"]]:
    """Return every n-gram of 1 to `order` words as a number, and the index of its review.

    Token ids, none of them 0, are the digits of that number in base `words`.
    """
    ids = encoded.token_ids
    review = np.repeat(np.arange(len(encoded)), encoded.lengths)
    number = np.zeros(len(ids), np.int64)
    numbers = []
    rows = []
    for n in range(order):
        starts = len(ids) - n
        number = number[:starts] * words + ids[n:]
        inside = review[:starts] == review[n:]
        numbers.append(number[inside])
        rows.append(review[:starts][inside])
    return np.concatenate(numbers), np.concatenate(rows)


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
        encoded = encode(self.tokenizer, reviews, WHOLE, "head")
        return find_ngrams(encoded, self.tokenizer.get_vocab_size(), self.order)

    def _matrix(self, rows: np.ndarray, columns: np.ndarray, count: int) -> sparse.csr_matrix:
        """Return a matrix that is 1 if a review has an n-gram, however often."""
        shape = count, len(self.ngrams)
        matrix = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape)
        matrix.data[:] = 1
        return matrix

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


def try_all(
    train: Texts, val: Texts, orders: Sequence[int], costs: Mapping[str, Sequence[float]]
) -> Iterator[tuple[Choice, dict[str, Any]]]:
    """Yield each choice with its scores on validation."""
    for order in orders:
        features = Features(train, order)
        rows = features.of(val)
        for classifier, cost in ((name, cost) for name in costs for cost in costs[name]):
            trained = fit(features, train.codes, Choice(order, classifier, cost))
            for mixture in MIXTURES:
                choice = Choice(order, classifier, cost, mixture)
                yield choice, score(trained, rows, val.codes, choice)


class Clock:
    """CPU seconds of all threads, and wall time, since the clock was made."""

    def __init__(self) -> None:
        self.start = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        """Return both."""
        cpu, wall = self.start
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        return {f"{name}_seconds": round(spent, 1) for name, spent in seconds.items()}


def train_and_test(choice: Choice, train: Texts, others: dict[str, Texts]) -> dict[str, Any]:
    """Train a choice; return its scores on other reviews and both times."""
    clock = Clock()
    features = Features(train, choice.order)
    trained = fit(features, train.codes, choice)
    result: dict[str, Any] = {"choice": dataclasses.asdict(choice), "reviews": len(train)}
    result |= {"ngrams": len(features.ngrams), "training": clock.read()}
    clock = Clock()
    for name, reviews in others.items():
        result[name] = score(trained, features.of(reviews), reviews.codes, choice)
    return {**result, "scoring": clock.read()}


def main() -> None:
    """Choose settings, train and test; print the scores and write result.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="", help="the prepared TFDS folder")
    parser.add_argument("--output", type=Path, required=True, help="the folder of result.json")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    dataset = load_dataset(DataConfig(source="tfds", path=given.data_dir))
    train, val, test = (dataset.splits[name] for name in ("train", "val", "test"))
    clock = Clock()
    tried = []
    for choice, scores in try_all(train, val, ORDERS, COSTS):
        tried.append((choice, scores))
        print(f"{choice}: {scores['accuracy']:.4f} on {len(val):,}", flush=True)
    choosing = clock.read()
    every = Texts.from_texts([*train.texts, *val.texts], [*train.codes, *val.codes])
    results = []
    for name in COSTS:
        own = [entry for entry in tried if entry[0].classifier == name]
        best = max(own, key=lambda entry: entry[1]["accuracy"])[0]
        results.append(train_and_test(best, train, {"val": val, "test": test}))
        results.append(train_and_test(best, every, {"test": test}))
    for result in results:
        scores = result["test"]
        seconds = result["training"]["cpu_seconds"]
        trained = f"trained on {result['reviews']:,} in {seconds} CPU seconds"
        tested = f"test {scores['accuracy']:.4f} on {scores['examples']:,}"
        print(f"{Choice(**result['choice'])}, {trained}: {tested}")
    from sentiment_jax.storage.run_directory import describe_environment  # it starts JAX

    environment = describe_environment()
    content = {
        "choosing": choosing,
        "trained": results,
        "grid": [{**dataclasses.asdict(choice), **scores} for choice, scores in tried],
        "data": dataset.statistics,
        **{name: environment[name] for name in ("python", "machine", "git_revision")},
        "scikit_learn": sklearn.__version__,
    }
    write_json(given.output / "result.json", content)


if __name__ == "__main__":
    main()
