"""Labels as users write them, and the classes they stand for."""

import itertools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int32, Int64

from sentiment_jax.config.schema import CLASSES, MOST_CLASSES, DataConfig, split_names
from sentiment_jax.data.reviews import first_five, is_blank
from sentiment_jax.errors import InputError

SPELLINGS: list[tuple[str, ...]] = [  # of CLASSES
    ("0", "neg", "negative", "false"),
    ("1", "pos", "positive", "true"),
]
FEWEST = 5  # reviews of a class that the config does not name: a rarer label is a typo


def number_labels(
    labels: Sequence[str], rows: Sequence[str], data: DataConfig
) -> tuple[Int32[np.ndarray, " rows"], tuple[str, ...], bool]:
    """Return each label's class, -1 for a row to drop; the classes; whether the labels name them.

    The classes are the config's; or else negative and positive if all labels are spellings of
    these, named as in the file if it has one word for each; or else the labels found, numbers in
    numerical and words in alphabetical order. Of two classes, the second is the positive one. Case
    does not matter, nor the ".0" that pandas gives to stars.

    InputError: labels that are missing, or too rare to be classes, by the names of their `rows`.
    """
    spelled = {label: _spell(label) for label in {*labels}}
    keys = [spelled[label].casefold() for label in labels]
    if blank := [f"{row}: {key!r}" for row, key in zip(rows, keys, strict=True) if is_blank(key)]:
        raise InputError(f"{data.path}: no label ({first_five(blank)}): remove these rows")
    names = split_names(data.labels)
    if data.positive_labels:
        names = CLASSES
        groups = [split_names(data.negative_labels), split_names(data.positive_labels)]
    elif same_classes(names, CLASSES) or (not names and {*keys} <= {*itertools.chain(*SPELLINGS)}):
        groups = SPELLINGS
        words = tuple(sorted({*spelled.values()}, key=lambda word: word.casefold() in SPELLINGS[1]))
        own = same_classes(words, CLASSES) and {"0", "1"}.isdisjoint(words)
        names = names or (words if own else CLASSES)
    else:
        names = names or _find_names(keys, rows, [*spelled.values()], data)
        groups = [(name,) for name in names]
    class_of = {_spell(m).casefold(): i for i, group in enumerate(groups) for m in group}
    numbers = np.array([class_of.get(key, -1) for key in keys], np.int32)
    if dropped := [key for key in keys if key not in class_of]:
        counts = f"{len(dropped):,} of {len(keys):,} reviews, labeled {_counted(dropped)}"
        print(f"dropped  {counts}", file=sys.stderr)
    return numbers, names, {*names} <= {*spelled.values()}


def same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether classes are equal, or both are spellings of negative and positive."""
    if first == second or len(first) != 2 or len(second) != 2:
        return first == second
    triples = zip(first, second, SPELLINGS, strict=True)
    return all({one.casefold(), other.casefold()} <= {*of} for one, other, of in triples)


def _spell(label: str) -> str:
    label = unicodedata.normalize("NFC", label)  # as texts are
    return re.sub(r"^([-+]?\d+)\.0+$", r"\1", " ".join(label.split()))


def _counted(keys: Sequence[str]) -> str:
    return first_five([f"{key[:40]} ({count:,})" for key, count in Counter(keys).most_common()])


def _find_names(
    keys: Sequence[str], rows: Sequence[str], spelled: Sequence[str], data: DataConfig
) -> tuple[str, ...]:
    """Return one spelling of each label in the order of the classes; InputError if they are odd."""
    where = f"{data.path}, column {data.label_column!r}"
    counts = Counter(keys)
    if several := _find_several(counts):
        problem = "holds several labels, which is not supported (multi-label):"
        remedy = "keep one per review; if this is one class, name all by data.labels"
        raise InputError(f"{where}: {several!r} {problem} {remedy}")
    hint = ""
    if 2 * len(counts) > max(len(keys), 4 * FEWEST):  # most labels are unlike any other
        hint = ": are these texts? name the other column by --config.data.label_column"
        if all(re.fullmatch(r"[-+]?[\d.]+", key) for key in counts):
            hint = ": regression is not supported: make few classes of these numbers"
    if not 2 <= len(counts) <= MOST_CLASSES:
        listed = f"{len(counts)} different labels, {_counted(keys)}"
        raise InputError(f"{where}: {listed}; 2 to {MOST_CLASSES} are expected{hint}")
    if rare := [f"{r}: {k[:40]!r}" for r, k in zip(rows, keys, strict=True) if counts[k] < FEWEST]:
        known = ", ".join(itertools.chain(*SPELLINGS))
        advice = f": correct them ({known} need no more) or keep some, --config.data.labels=A,B"
        problem = f"{where}: labels of fewer than {FEWEST} reviews ({first_five(rare)})"
        raise InputError(f"{problem}{hint or advice}")
    found = {label.casefold(): label for label in sorted(spelled, reverse=True)}  # Good over good
    if odd := [label for label in found.values() if not label.isprintable()]:
        raise InputError(f"{where}: {odd[0]!r} cannot name a class: it can't be printed")
    try:
        return tuple(sorted(found.values(), key=float))
    except ValueError:
        return tuple(sorted(found.values(), key=str.casefold))


def _find_several(labels: Iterable[str]) -> str:
    """Return a label that consists of several, as in "a;b", or "".

    A class's name may hold a comma: the parts are labels only if each is a label by itself, or if
    most labels have parts and most parts occur in several labels.
    """
    parts = {x: {part.strip(" '\"[]") for part in re.split("[,;|]", x)} for x in labels}
    joined = {label: of for label, of in parts.items() if len(of) > 1}
    alone = {part for of in parts.values() if len(of) == 1 for part in of}
    uses = Counter([*alone, *itertools.chain(*joined.values())])
    shared = sum(count > 1 for count in uses.values())
    most = 2 * len(joined) > len(parts) and 2 * shared > len(uses)
    return next((x for x, of in joined.items() if most or of <= alone or x[0] == "["), "")


def decide(
    probabilities: Float[np.ndarray, "*any reviews classes"],
) -> Int64[np.ndarray, "*any reviews"]:
    """Return the predicted classes: the most probable one, the first of equally probable ones."""
    if probabilities.shape[-1] == 2:  # float32 may round the larger of two to 0.5, the other not
        return (probabilities[..., 1] > 0.5).astype(np.int64)
    return probabilities.argmax(axis=-1)
