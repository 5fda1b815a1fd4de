"""A fit in place of steps: of a linear model, or of the last layer alone, a probe.

A probe is logistic regression on the features that the last layer reads; all below is frozen.
Linear probes: Alain & Bengio (2016), https://arxiv.org/abs/1610.01644. The weights of
scikit-learn's model become the network's last layer, so that the run is like any other. A training
of all layers may start from such a layer: Kumar et al. (2022), https://arxiv.org/abs/2202.10054.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array, Float, Float32, Float64, Int64

from sentiment_jax.config.schema import FEW_CLASSES, Config
from sentiment_jax.data.kinds import ONE_CLASS, LabelKind, Labels
from sentiment_jax.data.texts import Split, Texts, fold_splits, of_numbers
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.runtime import devices, terminal
from sentiment_jax.training import linear_model, scoring
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.linear_model import Rows
from sentiment_jax.training.metrics import score_probabilities
from sentiment_jax.training.objectives.objective import Batch, classify_with_features

C = np.logspace(-3.5, 1.5, 11)  # inverse strengths of the regularization to choose from
FOLDS = 5
ABSENT = -30.0  # the logit of a class that no training text has

Params: TypeAlias = Any
Numbers: TypeAlias = Int64[np.ndarray, " texts"]  # of the classes
CheckStop: TypeAlias = Callable[[], None]


def fit_classifier(
    experiment: Experiment, params: Params, check_stop: CheckStop
) -> tuple[Params, dict[str, float]]:
    """Fit the last layer or a linear model on the training texts; return it and its sums there.

    C is chosen by the log loss of a cross-validation.
    """
    if experiment.config.optimizer.name == "liblinear":
        with terminal.progress_bar(None, "fitting the linear model"):
            fitted, probabilities = linear_model.fit_network(experiment, check_stop)
    else:
        fitted, probabilities = _fit_last_layer(experiment, jax.device_get(params), check_stop)
    labels = experiment.encoded["train"].labels
    scores = score_probabilities(experiment.kind, labels, probabilities, experiment.thresholds)
    count = float(len(labels))
    sums = {"loss": scores["loss"] * count, "correct": scores["accuracy"] * count}
    return fitted, sums | {"examples": count}


def _fit_last_layer(
    experiment: Experiment, params: Params, check_stop: CheckStop
) -> tuple[Params, Float[np.ndarray, "texts classes"]]:
    """Return the parameters and the probabilities of the training texts."""
    config = experiment.config
    features = compute_features(experiment, params, check_stop)
    choose = functools.partial(_choose, experiment.texts["train"], features, config)
    with terminal.progress_bar(None, "fitting the last layer"):
        weights = linear_model.balanced(config)
        labels = experiment.encoded["train"].labels
        layer = _fit(features, labels, experiment.kind, choose, weights, tol=1e-6)
    logits = features @ layer["kernel"] + layer["bias"]
    probabilities = experiment.output.probabilities(jnp.asarray(logits))
    return {**params, "classifier": layer}, np.asarray(probabilities)


def is_wanted(experiment: Experiment, report: LoadReport | None) -> bool:
    """Whether a training starts from a fitted last layer: its config asks, and its data need it.

    A random layer learns slowly of many classes, of a rare class, or of multi-label texts. Of few
    classes of like size it is as good a start (results/accuracy/tables), without a pass over the
    texts.
    """
    config = experiment.config
    slow = config.data.accuracy_misleads or len(experiment.classes) > FEW_CLASSES
    random = report is None or "classifier/kernel" in report.new
    return slow and random and config.probe_first


def fitted_params(experiment: Experiment, params: Params, check_stop: CheckStop) -> Params:
    """Return the parameters with a last layer to start from, fitted on the training texts."""
    params = jax.device_get(params)
    features = compute_features(experiment, params, check_stop)
    with terminal.progress_bar(None, "fitting the last layer"):
        c = experiment.task.probe_weight * len(experiment.classes) / len(features)
        weights = linear_model.balanced(experiment.config)
        labels = experiment.encoded["train"].labels
        layer = _fit(features, labels, experiment.kind, lambda *_: c, weights)
    return {**params, "classifier": layer}


def compute_features(
    experiment: Experiment, params: Params, check_stop: CheckStop
) -> Float32[np.ndarray, "texts features"]:
    """Return what the last layer reads of each training text."""
    width = len(params["classifier"]["kernel"])
    encoded = experiment.encoded["train"]
    features = np.full((len(encoded), width), np.nan, np.float32)
    step = _make_feature_step(experiment.model)
    for rows, found in scoring.apply(step, experiment, params, encoded, "features", check_stop):
        features[rows] = devices.fetch(found)[: len(rows)]
    return features


@functools.lru_cache(maxsize=8)
def _make_feature_step(model: nn.Module) -> Wrapped:
    def feature_step(params: Any, batch: Batch) -> Array:
        return classify_with_features(model, params, batch, None)[1]

    return jax.jit(feature_step)


def _fit(
    features: Float32[np.ndarray, "texts features"],
    labels: Labels,
    kind: LabelKind,
    choose: Callable[[Numbers, int], float],
    weights: str | None = None,
    tol: float = 1e-4,
) -> dict[str, np.ndarray]:
    """Return kernel and bias of the last layer; in multi-label texts, each label's is its own fit.

    `choose` returns C by the classes of the texts, and how many classes there are.
    """
    layers = [
        fit_problem(features, numbers, classes, choose(numbers, classes), weights, tol)
        for numbers, classes in kind.problems(labels)
    ]
    return {name: kind.join([of[name] for of in layers]) for name in layers[0]}


def fit_problem(
    features: Float32[np.ndarray, "texts features"],
    labels: Numbers,
    classes: int,
    c: float,
    weights: str | None = None,
    tol: float = 1e-4,
) -> dict[str, np.ndarray]:
    """Return kernel and bias of a layer that tells classes apart."""
    from sklearn.linear_model import LogisticRegression  # late: it takes a second

    mean = features.mean(axis=0, dtype=np.float64)
    kernel = np.zeros((features.shape[1], classes), np.float32)
    bias = np.full(classes, ABSENT, np.float32)
    if len(found := np.unique(labels)) == 1:
        bias[found] = 0
        return {"kernel": kernel, "bias": bias}
    model = LogisticRegression(C=c, max_iter=10_000, tol=tol, class_weight=weights)
    model.fit(features - mean, labels)  # the same optimum, in a quarter of the time
    vectors = model.coef_
    biases = model.intercept_ - vectors @ mean
    if len(model.classes_) == 2:  # one logit, the difference of the two
        vectors = np.vstack([-vectors, vectors]) / 2
        biases = np.concatenate([-biases, biases]) / 2
    kernel[:, model.classes_] = vectors.T
    bias[model.classes_] = biases
    return {"kernel": kernel, "bias": bias}


def _choose(
    texts: Texts,
    features: Float32[np.ndarray, "texts features"],
    config: Config,
    labels: Numbers,
    classes: int,
) -> float:
    """Return C by a cross-validation with equal texts in one fold; 1 if the texts are too few."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) == 1:  # `fit_problem` fits nothing
        return 1.0

    many = len(texts.classes) > FEW_CLASSES
    texts = dataclasses.replace(
        texts,
        labels=of_numbers(labels, classes),
        classes=tuple(map(str, range(classes))),
        kind=ONE_CLASS,
    )
    weights = linear_model.balanced(config)
    centered = features - features.mean(axis=0, dtype=np.float64)

    def predict(kept: Rows, held_out: Rows) -> Iterator[Float64[np.ndarray, "held_out classes"]]:
        # Each C starts from the solution for the one before.
        model = LogisticRegression(max_iter=1_000, warm_start=True, class_weight=weights)
        for c in C:
            model.set_params(C=c).fit(centered[kept], labels[kept])
            found = np.zeros((len(held_out), classes))
            found[:, model.classes_] = model.predict_proba(centered[held_out])
            yield found

    rows = linear_model.sample_rows(texts, np.arange(len(texts)))
    folds = _folds(texts.take(rows), config.data.split_seed)
    drawn = [(rows[kept], rows[held_out]) for kept, held_out in folds]
    drawn = drawn[:1] if many else drawn  # many classes would take minutes
    return linear_model.choose_c(C, drawn, texts, predict) or 1.0


def _folds(texts: Texts, seed: int) -> list[Split]:
    """Return folds that hold all classes on both sides; none if the texts are too few."""
    for count in range(FOLDS, 1, -1):
        try:
            folds = fold_splits(texts, count, seed=seed)
        except InputError:
            continue
        classes = texts.labels.any(axis=0)
        parts = [texts.labels[rows].any(axis=0) for fold in folds for rows in fold]
        if (np.array(parts) == classes).all():
            return folds
    return []
