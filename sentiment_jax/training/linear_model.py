"""TF-IDF of n-grams and logistic regression, one against the rest if classes are many.

It is scikit-learn's pipeline, C by the log loss of a cross-validation on the training texts: the
recipe `linear`, and the linear baseline. Wang & Manning (2012), https://aclanthology.org/P12-2018,
on such models of short texts.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Float64
from tqdm import tqdm

from sentiment_jax.config.schema import FEW_CLASSES, Config
from sentiment_jax.data.kinds import LabelKind, Labels, Rows
from sentiment_jax.data.ngrams import KINDS
from sentiment_jax.data.texts import Split, Texts, stratified_sample
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.metrics import log_loss

Counts: TypeAlias = list[Any]  # of each kind of n-gram, a sparse matrix: texts x n-grams
Probabilities: TypeAlias = Float64[np.ndarray, "texts classes"]
C = (0.3, 1.0, 3.0, 10.0, 30.0)  # inverse strengths of the regularization to choose from
FOLDS = 3
FEW = 5_000  # texts that C is chosen on, at most: on IMDB the choice takes as long as the fit
ROUGH = 0.1  # liblinear's own tolerance for the dual problem; the choice of C is the same
SPECIAL = 2  # entries of a vocabulary that are no n-grams: [PAD] and [UNK]
SECONDS = 1e-7  # per n-gram of a text, class and model, the choice of C included
LONG = 30  # seconds that are announced
CONSTANT = 100.0  # the log-odds, but for the sign, of a class that all texts have, or none


class LinearModel(NamedTuple):
    """TF-IDF and logistic regression, as weights."""

    idf: Sequence[Float64[np.ndarray, " ngrams"]]  # of each kind; 0 of those of no text
    kernel: Float64[np.ndarray, "ngrams outputs"]  # of two classes, one output for both
    bias: Float64[np.ndarray, " outputs"]


def choose_c(
    strengths: Sequence[float] | Float[np.ndarray, " strengths"],
    folds: Iterable[Split],
    texts: Texts,
    predict: Callable[[Rows, Rows], Iterable[Float[np.ndarray, "held_out classes"]]],
) -> float:
    """Return the C of the lowest log loss in a cross-validation; 0 if there are no folds.

    `predict` yields the probabilities of a fold's held-out texts by a model of each C.
    """
    losses = np.zeros(len(strengths))
    for kept, held_out in folds:
        found = predict(kept, held_out)
        labels = texts.labels[held_out]
        losses += [log_loss(texts.kind, of, labels) * len(held_out) for of in found]
    return float(strengths[int(np.argmin(losses))]) if losses.any() else 0.0


def sample_rows(texts: Texts, kept: Rows) -> Rows:
    """Return those of the kept texts that C is chosen on."""
    chosen = stratified_sample(texts.take(kept), count=FEW, seed=0)
    return kept[np.isin(texts.hashes[kept], chosen.hashes)]


def choose(
    train: Texts,
    counts: Counts,
    kept: Rows,
    class_weight: str | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> float:
    """Return C by a cross-validation on some of the training texts; 0 if they are too few.

    The first rows of the counts are those of the training texts. `check_stop` is called between
    fits and may raise.
    """

    def predict_each(fitted: Rows, held_out: Rows) -> Iterable[Probabilities]:
        for c in C:
            check_stop()
            model = fit(counts, outputs, fitted, c, class_weight, tolerance=ROUGH)
            yield predict(model, counts, held_out, train.kind)

    outputs = outputs_of(train)
    return choose_c(C, _folds(train, kept) if counts else [], train, predict_each)


def outputs_of(texts: Texts) -> Labels:
    """Return what the outputs of a model learn: of two classes, one output for both."""
    return texts.labels[:, int(texts.kind.is_binary(len(texts.classes))) :]


def _folds(train: Texts, kept: Rows) -> list[Split]:
    """Return folds of some texts; of many classes one, to save time; none of too few texts."""
    if np.count_nonzero(train.labels[kept].sum(axis=0) >= FOLDS) < 2:
        return []
    rows = sample_rows(train, kept)
    number = 1 if len(train.classes) > FEW_CLASSES else FOLDS
    drawn = itertools.islice(train.kind.folds(train.labels[rows], FOLDS), number)
    return [(rows[fitted], rows[held_out]) for fitted, held_out in drawn]


def fit(
    counts: Counts,
    outputs: Labels,
    rows: Rows,
    c: float,
    class_weight: str | None = None,
    tolerance: float = 1e-4,
) -> LinearModel:
    """Fit a model on the texts of these rows, given `outputs_of` all texts."""
    from sklearn.linear_model import LogisticRegression

    frequencies = [block[rows].getnnz(axis=0) for block in counts]
    smooth = [np.log((len(rows) + 1) / (df + 1)) + 1 for df in frequencies]
    idf = [np.where(df, of, 0) for of, df in zip(smooth, frequencies, strict=True)]
    features = _weigh(counts, rows, idf)
    targets = outputs[rows]
    # The dual problem takes a tenth of the primal's time. Of many classes, a rough solution takes a
    # third of the time, and accuracies are as good.
    model = LogisticRegression(C=c, solver="liblinear", dual=True, random_state=0)
    model.set_params(tol=ROUGH if targets.shape[1] > FEW_CLASSES else tolerance, max_iter=1_000)
    model.set_params(class_weight=class_weight)
    kernel = np.zeros((features.shape[1], targets.shape[1]))
    bias = np.where(targets[0], CONSTANT, -CONSTANT)
    for i in np.flatnonzero((targets != targets[0]).any(axis=0)):
        model.fit(features, targets[:, i])
        kernel[:, i] = model.coef_[0]
        bias[i] = model.intercept_[0]
    return LinearModel(idf, kernel, bias)


def predict(model: LinearModel, counts: Counts, rows: Rows, kind: LabelKind) -> Probabilities:
    """Return the probabilities of the classes."""
    log_odds = _weigh(counts, rows, model.idf) @ model.kernel + model.bias
    if len(model.bias) == 1:
        log_odds = np.hstack([-log_odds, log_odds])
    from scipy.special import expit  # late: it takes a quarter of a second

    return kind.share(expit(log_odds))


def _weigh(counts: Counts, rows: Rows, idf: Sequence[np.ndarray]) -> Any:
    """Return texts' features, sparse: 1 + log(count), times idf, each kind of length 1."""
    from scipy.sparse import hstack

    blocks = []
    for block, factors in zip(counts, idf, strict=True):
        weighted = block[rows].astype(np.float64)
        weighted.data = (1 + np.log(weighted.data)) * factors[weighted.indices]
        lengths = np.sqrt(np.asarray(weighted.power(2).sum(axis=1)).ravel())
        weighted.data /= np.repeat(np.where(lengths, lengths, 1), np.diff(weighted.indptr))
        blocks.append(weighted)
    return hstack(blocks, "csr")


def announce(counts: Counts, classes: int, models: int, remedy: str = "") -> None:
    """Say what so many models of many classes take, if it is long."""
    seconds = SECONDS * models * classes * sum(of.nnz for of in counts)
    if classes > FEW_CLASSES and seconds > LONG:
        gigabytes = 8e-9 * classes * sum(of.shape[1] for of in counts)
        size = f"about {seconds:.0f} s and {gigabytes:.1f} GB for {classes} classes{remedy}"
        tqdm.write(f"{'linear':8} {size}", file=sys.stderr)


def fit_network(
    experiment: Experiment, check_stop: Callable[[], None]
) -> tuple[dict[str, Float32[np.ndarray, "..."]], Probabilities]:
    """Return parameters of models/linear.py, and the probabilities of the training texts."""
    from scipy.sparse import csr_matrix

    train = experiment.texts["train"]
    rows = np.arange(len(train))
    encoded = experiment.encoded["train"]
    vocabulary = experiment.tokenizer.get_vocab()
    ids, numbers = encoded.token_ids.T
    matrix = csr_matrix((numbers, ids, encoded.offsets), (len(train), len(vocabulary)))
    ends = SPECIAL, sum(not entry.startswith(KINDS[1]) for entry in vocabulary)
    counts = [matrix[:, ends[0] : ends[1]], matrix[:, ends[1] :]]
    class_weight = balanced(experiment.config)
    announce(counts, len(train.classes), models=2)
    c = choose(train, counts, rows, class_weight, check_stop) or 1.0
    check_stop()
    model = fit(counts, outputs_of(train), rows, c, class_weight)
    kernel, bias = model.kernel, model.bias
    if len(bias) == 1:
        kernel, bias = (np.concatenate([-of, of], axis=-1) / 2 for of in (kernel, bias))
    kinds = np.repeat(np.eye(len(KINDS)), [*map(len, model.idf)], axis=0)
    of_ngrams = {"idf": np.concatenate(model.idf)[:, None] * kinds, "kernel": kernel}
    rest = ((SPECIAL, 0), (0, 0))
    params = {name: np.pad(of.astype(np.float32), rest) for name, of in of_ngrams.items()}
    params["bias"] = bias.astype(np.float32)
    return params, predict(model, counts, rows, train.kind)


def balanced(config: Config) -> str | None:
    """Return scikit-learn's name of the class weights of a config."""
    return "balanced" if config.class_weights == "balanced" else None
