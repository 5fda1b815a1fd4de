"""The kinds of labels: one class per text, or multi-label, several or none of them.

Labels and predictions of both kinds have one form, a row per text with a truth value per class.
What else differs is here, and in the losses of models/outputs and the tasks of training/tasks:
everybody else calls the kind and does not ask which one it is.
"""

import ast
import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.errors import InputError

Labels: TypeAlias = Bool[np.ndarray, "texts classes"]
Predicted: TypeAlias = Bool[np.ndarray, "*any texts classes"]
Probabilities: TypeAlias = Float[np.ndarray, "*any texts classes"]
Decisions: TypeAlias = Float[np.ndarray, "texts decisions"]  # a probability each
Counts: TypeAlias = Float64[np.ndarray, " classes"]
Mask: TypeAlias = Bool[np.ndarray, " texts"]
Column: TypeAlias = Float[np.ndarray, " texts"]  # a probability each
Rows: TypeAlias = Int64[np.ndarray, "_"]

QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""  # a string in a list that NumPy writes


@dataclass(frozen=True)
class OneClass:
    """Each text has one class. Two classes are a binary classification: the second is positive."""

    multi_label: ClassVar[bool] = False  # for data/ and the tasks alone
    noun: ClassVar[str] = "classes"
    explained_noun: ClassVar[str] = "the predicted class"  # where none is named
    problem_type: ClassVar[str | None] = None  # in Hugging Face's config.json

    def decide(self, probabilities: Probabilities, thresholds: Sequence[float] = ()) -> Predicted:
        """Return the predictions: the most probable class, the first of equally probable ones.

        With thresholds, it is the one with the largest ratio of its probability to its threshold.
        """
        numbers = self._choose(probabilities, thresholds)
        return numbers[..., None] == np.arange(probabilities.shape[-1])

    def _choose(
        self, probabilities: Probabilities, thresholds: Sequence[float]
    ) -> Int64[np.ndarray, "*any texts"]:
        if len(thresholds):
            return (probabilities / np.array(thresholds)).argmax(axis=-1)
        if probabilities.shape[-1] == 2:  # float32 may round the larger to 0.5, the other not
            return (probabilities[..., 1] > 0.5).astype(np.int64)
        return probabilities.argmax(axis=-1)

    def thresholds(self, classes: int) -> list[float]:
        """Return the thresholds if validation chose none."""
        return []

    def is_binary(self, classes: int) -> bool:
        """Whether the probability of one class says all."""
        return classes == 2

    def codes(self, labels: Labels) -> Int32[np.ndarray, " texts"]:
        """Return each text's class number, by which texts are hashed and stratified."""
        return labels.argmax(axis=1).astype(np.int32)

    def cells(self, names: Sequence[int | str], labels: Labels) -> list[int | str]:
        """Return the name of each text's class, as tables have it."""
        return [names[i] for i in labels.argmax(axis=1).tolist()]

    def read_cells(self, names: Sequence[int | str], cells: Sequence[str]) -> Labels:
        """Return the labels that stand in cells of predictions.csv."""
        numbers = {str(name): i for i, name in enumerate(names)}
        return np.eye(len(names), dtype=bool)[[numbers[cell] for cell in cells]]

    def describe(
        self, names: Sequence[str], probabilities: Probabilities, thresholds: Sequence[float] = ()
    ) -> list[str]:
        """Return each text's predicted class and its probability, aligned."""
        width = max(map(len, names))
        pairs = zip(self._choose(probabilities, thresholds).tolist(), probabilities, strict=True)
        return [f"{names[i]:{width}} {100 * row[i]:5.1f} %" for i, row in pairs]

    def warn(self, probabilities: Probabilities, thresholds: Sequence[float]) -> str:
        """Return a warning if a predicted class is not the most probable one, else ""."""
        if (self._choose(probabilities, thresholds) == self._choose(probabilities, ())).all():
            return ""
        return (
            "rare classes have lower thresholds: one may be predicted that is not the most probable"
        )

    def explained(
        self, probabilities: Probabilities, thresholds: Sequence[float], named: int | None
    ) -> tuple[list[int], list[int]]:
        """Return the class that is explained of each text, and the one that is shown.

        Explained is the `named` class, or else the predicted one, which is shown.
        """
        predicted = self._choose(probabilities, thresholds).tolist()
        return predicted if named is None else [named] * len(predicted), predicted

    def p_of_labels(self, probabilities: Probabilities, labels: Labels) -> Decisions:
        """Return the probability of each text's class; of the first of texts without labels."""
        return np.take_along_axis(probabilities, labels.argmax(axis=1)[:, None], axis=1)

    def p_of_predicted(self, probabilities: Probabilities, thresholds: Sequence[float]) -> Column:
        """Return the probability of each text's predicted class."""
        return self.p_of_labels(probabilities, self.decide(probabilities, thresholds))[:, 0]

    def more_scores(self, labels: Labels, predicted: Labels) -> dict[str, float]:
        """Return what result.json has beside loss and accuracy."""
        return {}

    def class_metrics(self, labels: Labels, probabilities: Probabilities) -> dict[str, np.ndarray]:
        """Return metrics of each class, beside precision, recall and F1."""
        return {}

    def averages(
        self, right: Counts, counts: Counts, predictions: Counts, texts: int
    ) -> dict[str, Any]:
        """Return averages over classes, and the MCC.

        Given is how often each class is right, is the label, is predicted.
        """
        both = counts + predictions
        recall = (right / np.maximum(counts, 1))[counts > 0]
        variances = (texts**2 - counts @ counts) * (texts**2 - predictions @ predictions)
        covariance = right.sum() * texts - counts @ predictions
        return {
            "balanced_accuracy": recall.mean(),
            "macro_f1": (2 * right / np.maximum(both, 1))[self.counted(both)].mean(),
            "mcc": _correlation(covariance, variances),
        }

    def counted(self, both: Float64[np.ndarray, "*any"]) -> Bool[np.ndarray, "*any"]:
        """Return the classes that macro F1 counts: those that are a label or predicted."""
        return both > 0

    def brier_terms(self, classes: int) -> int:
        """Return by what the sum of squared errors is divided: of two classes, they are equal."""
        return 2 if classes == 2 else 1

    def is_even(self, counts: Sequence[int]) -> bool:
        """Whether the classes differ by at most 60:40, so that accuracy does not mislead."""
        return min(counts) >= max(counts) * 40 / 60

    def majority(self, examples: Mapping[str, int]) -> str:
        """Return what the majority baseline predicts, for a message."""
        return repr(max(examples, key=examples.__getitem__))

    def confusion(self, labels: Labels, predicted: Labels) -> Int64[np.ndarray, "classes classes"]:
        """Return how often a class is predicted as another one, [label, predicted]."""
        from sklearn.metrics import confusion_matrix  # late: it takes a second

        numbers = (of.argmax(axis=1) for of in (labels, predicted))
        return confusion_matrix(*numbers, labels=range(labels.shape[1]))

    def events(
        self, probabilities: Probabilities, labels: Labels, predicted: Predicted
    ) -> tuple[Float[np.ndarray, "*events"], Bool[np.ndarray, "*events"]]:
        """Return the probabilities whose calibration is measured, and what came true.

        Of two classes, they are the positive one's, else the predicted one's: Guo et al. (2017).
        """
        if labels.shape[1] == 2:
            return probabilities[..., 1], np.broadcast_to(labels[:, 1], probabilities.shape[:-1])
        return probabilities.max(axis=-1), (predicted & labels).any(axis=-1)

    def axes(self, names: Sequence[str]) -> tuple[str, str]:
        """Return what the axes of a plot of the calibration show."""
        if len(names) == 2:
            return f"p({names[1]}) of the model", f"share of {names[1]} texts"
        return "probability of the predicted class", "share of correct predictions"

    def odds(self, labels: Labels) -> Float64[np.ndarray, " classes"]:
        """Return the shares of the classes, as if each had one text more."""
        counts = labels.sum(axis=0)
        return (counts + 1) / np.sum(counts + 1)

    def problems(self, labels: Labels) -> list[tuple[Int64[np.ndarray, " texts"], int]]:
        """Return what a model of one class per text learns: class numbers, and how many classes."""
        return [(labels.argmax(axis=1), labels.shape[1])]

    def join(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the weights of a last layer, of those that the `problems` have."""
        return outputs[0]

    def share(self, sigmoids: Probabilities) -> Probabilities:
        """Return the probabilities of one model per class against the rest: shares of their sum."""
        return sigmoids / sigmoids.sum(axis=1, keepdims=True)

    def folds(self, labels: Labels, count: int) -> Iterator[tuple[Rows, Rows]]:
        """Yield the rows of each fold to fit on and to hold out; rarer classes are left out."""
        from sklearn.model_selection import StratifiedKFold  # late: it takes a second

        numbers = labels.argmax(axis=1)
        rows = np.flatnonzero(labels.sum(axis=0)[numbers] >= count)
        for fitted, held_out in StratifiedKFold(count).split(rows, numbers[rows]):
            yield rows[fitted], rows[held_out]


@dataclass(frozen=True)
class MultiLabel:
    """A text may have several labels, or none: a decision per label. Else as in `OneClass`."""

    separator: str = field(default=";", compare=False)  # between the labels in a cell

    multi_label: ClassVar[bool] = True
    noun: ClassVar[str] = "labels"
    explained_noun: ClassVar[str] = "the most probable label"
    problem_type: ClassVar[str | None] = "multi_label_classification"

    def decide(self, probabilities: Probabilities, thresholds: Sequence[float]) -> Predicted:
        """Return the predictions: the labels above their thresholds."""
        return probabilities > np.array(thresholds)

    def thresholds(self, classes: int) -> list[float]:
        """Return the thresholds if validation chose none: .5 of each label."""
        return [0.5] * classes

    def is_binary(self, classes: int) -> bool:
        """Whether the probability of one label says all."""
        return False

    def codes(self, labels: Labels) -> Int32[np.ndarray, "texts classes"]:
        """Return a 0 or 1 per label."""
        return labels.astype(np.int32)

    def cells(self, names: Sequence[int | str], labels: Labels) -> list[int | str]:
        """Return the names of each text's labels, joined."""
        rows = map(np.flatnonzero, labels)
        return [join_labels([str(names[i]) for i in row.tolist()], self.separator) for row in rows]

    def read_cells(self, names: Sequence[int | str], cells: Sequence[str]) -> Labels:
        """Return the labels that stand in cells of predictions.csv."""
        found = [split_labels(cell, self.separator) for cell in cells]
        return np.array([[str(name) in row for name in names] for row in found], bool)

    def describe(
        self, names: Sequence[str], probabilities: Probabilities, thresholds: Sequence[float]
    ) -> list[str]:
        """Return each text's predicted labels and their probabilities, aligned."""
        rows = zip(self.decide(probabilities, thresholds), probabilities, strict=True)
        found = [
            ", ".join(f"{names[i]} {100 * p[i]:.1f} %" for i in np.flatnonzero(of).tolist())
            for of, p in rows
        ]
        width = max(len(of or "none") for of in found)
        return [f"{of or 'none':{width}}" for of in found]

    def warn(self, probabilities: Probabilities, thresholds: Sequence[float]) -> str:
        """Return no warning: each label is decided by itself."""
        return ""

    def explained(
        self, probabilities: Probabilities, thresholds: Sequence[float], named: int | None
    ) -> tuple[list[int], list[int]]:
        """Return the named label of each text, or else the most probable one, for both."""
        most = probabilities.argmax(axis=1).tolist()
        explained = most if named is None else [named] * len(most)
        return explained, explained

    def p_of_labels(self, probabilities: Probabilities, labels: Labels) -> Decisions:
        """Return the probability of each label being as it is."""
        return np.where(labels, probabilities, 1 - probabilities)

    def p_of_predicted(self, probabilities: Probabilities, thresholds: Sequence[float]) -> Column:
        """Raise an InputError: without labels, a prediction is empty as well."""
        raise InputError("--at_least is for one class per text: each label has a threshold instead")

    def more_scores(self, labels: Labels, predicted: Labels) -> dict[str, float]:
        """Return the macro F1: accuracy is the share of exact matches."""
        both = np.maximum(labels.sum(axis=0) + predicted.sum(axis=0), 1)
        return {"macro_f1": float((2 * (labels & predicted).sum(axis=0) / both).mean())}

    def class_metrics(self, labels: Labels, probabilities: Probabilities) -> dict[str, np.ndarray]:
        """Return the average precision of each label."""
        each = map(average_precision, labels.T, probabilities.T)
        return {"average_precision": np.array([*each], object)}

    def averages(
        self, right: Counts, counts: Counts, predictions: Counts, texts: int
    ) -> dict[str, Any]:
        """Return averages over labels; the MCC is a mean, too."""
        both = counts + predictions
        variances = counts * (texts - counts) * predictions * (texts - predictions)
        return {
            "micro_f1": 2 * right.sum() / max(both.sum(), 1),
            "macro_f1": (2 * right / np.maximum(both, 1)).mean(),
            "mcc": _correlation(texts * right - counts * predictions, variances),
        }

    def counted(self, both: Float64[np.ndarray, "*any"]) -> Bool[np.ndarray, "*any"]:
        """Return that macro F1 counts all labels."""
        return np.ones_like(both, bool)

    def brier_terms(self, classes: int) -> int:
        """Return the number of labels: the Brier score is a mean over them."""
        return classes

    def is_even(self, counts: Sequence[int]) -> bool:
        """Return False: exact matches alone always mislead."""
        return False

    def majority(self, examples: Mapping[str, int]) -> str:
        """Return what the majority baseline predicts, for a message."""
        return "the most frequent labels"

    def confusion(self, labels: Labels, predicted: Labels) -> Int64[np.ndarray, "classes classes"]:
        """Return zeros: a label is not confused with another one."""
        return np.zeros((labels.shape[1],) * 2, np.int64)

    def events(
        self, probabilities: Probabilities, labels: Labels, predicted: Predicted
    ) -> tuple[Float[np.ndarray, "*events"], Bool[np.ndarray, "*events"]]:
        """Return all probabilities, and which labels the texts have."""
        return probabilities, np.broadcast_to(labels, probabilities.shape)

    def axes(self, names: Sequence[str]) -> tuple[str, str]:
        """Return what the axes of a plot of the calibration show."""
        return "probability of a label", "share of texts with it"

    def odds(self, labels: Labels) -> Float64[np.ndarray, " classes"]:
        """Return the odds of each label, as if one text more had it, and one more did not."""
        return (labels.sum(axis=0) + 1) / ((~labels).sum(axis=0) + 1)

    def problems(self, labels: Labels) -> list[tuple[Int64[np.ndarray, " texts"], int]]:
        """Return a problem of two classes for each label: whether a text has it."""
        return [(of.astype(np.int64), 2) for of in labels.T]

    def join(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the differences of two outputs: the logit of each label."""
        return np.stack([np.diff(of)[..., 0] for of in outputs], axis=-1)

    def share(self, sigmoids: Probabilities) -> Probabilities:
        """Return the probabilities as they are."""
        return sigmoids

    def folds(self, labels: Labels, count: int) -> Iterator[tuple[Rows, Rows]]:
        """Yield the rows of each fold to fit on and to hold out."""
        from sklearn.model_selection import KFold  # late: it takes a second

        yield from KFold(count, shuffle=True, random_state=0).split(labels)


LabelKind: TypeAlias = OneClass | MultiLabel
ONE_CLASS = OneClass()


def kind_of(data: DataConfig) -> LabelKind:
    """Return the kind of the labels of a config."""
    return MultiLabel(data.between_labels) if data.multi_label else ONE_CLASS


def join_labels(labels: Sequence[str], separator: str) -> str:
    """Return the cell of a text's labels: joined, or as JSON if `split_labels` found others."""
    joined = separator.join(labels)
    same = split_labels(joined, separator) == [*labels] or not labels
    return joined if same else json.dumps(labels, ensure_ascii=False)


def split_labels(cell: str, separator: str) -> list[str]:
    """Return the labels in a cell: a list, as JSON, NumPy or Python writes it, or joined labels."""
    cell = cell.strip()
    if cell[:1] + cell[-1:] != "[]":
        return cell.split(separator)
    if re.fullmatch(rf"\[(?:{QUOTED}\s*)+\]", cell):  # Python would join them to one string
        cell = f"[{','.join(re.findall(QUOTED, cell))}]"
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = [of for of in parse(cell) if of is not None]
            return [of if isinstance(of, str) else json.dumps(of) for of in found]
    return cell.split(separator)


def average_precision(positive: Mask, p_positive: Column) -> float | None:
    """Return the mean precision at the p of each positive text; None without any."""
    _, above, hits = rank_positive(positive, p_positive)
    return float(np.mean(hits / above)) if len(hits) else None


def rank_positive(positive: Mask, p_positive: Column) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each p of a positive text, falling; how many texts and positive ones reach it."""
    found = np.sort(p_positive[positive])[::-1]
    above, hits = (len(of) - np.searchsorted(np.sort(of), found) for of in (p_positive, found))
    return found, above, hits


def _correlation(covariance: Any, variances: Any) -> Any:
    """Return the mean of Matthews' correlation coefficients; where it would be 0/0, it is 0."""
    return np.mean(covariance / np.sqrt(np.where(variances > 0, variances, np.inf)))
