"""Labels as users write them, and the classes they stand for."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from sentiment_jax.config.schema import CLASSES, MOST_CLASSES, DataConfig, split_names
from sentiment_jax.data.kinds import join_labels, split_labels
from sentiment_jax.data.texts import first_five, is_blank, list_classes, of_numbers
from sentiment_jax.errors import InputError

SPELLINGS: list[tuple[str, ...]] = [  # of CLASSES
    ("0", "neg", "negative", "false"),
    ("1", "pos", "positive", "true"),
]
CLASS_OF = {word: i for i, words in enumerate(SPELLINGS) for word in words}
WORDS = {word: i for word, i in CLASS_OF.items() if not word.isdecimal()}
FEWEST = 5  # texts of a class that the config does not name: a rarer label is a typo
LEAST = np.finfo(np.float32).tiny  # a probability that was rounded to 0
NUMBER = re.compile(r"[-+]?\d*\.?\d+")


def number_labels(
    labels: Sequence[str], rows: Sequence[str], data: DataConfig, *, scored: bool = False
) -> tuple[Bool[np.ndarray, "rows classes"], tuple[str, ...], bool]:
    """Return each row's classes, none if it is to drop; all classes; whether the labels name them.

    The classes are the config's; or else negative and positive if all labels are spellings of
    these, named as in the file if it has one word for each; or else the labels found, numbers in
    numerical and words in alphabetical order. Of two classes, the second is the positive one. Case
    does not matter, nor the ".0" that pandas gives to stars.

    InputError: labels that are missing, or too rare to be classes, by the names of their `rows`, or
    in a table that is `scored` by a run, of which only a part are its classes.
    """
    if data.multi_label:
        return *_number_several(labels, rows, data, scored), True
    spelled = {label: _spell(label) for label in {*labels}}
    keys = [spelled[label].lower() for label in labels]
    if blank := [f"{row}: {key!r}" for row, key in zip(rows, keys, strict=True) if is_blank(key)]:
        remedy = "remove these rows, or set data.label_separator if a text may have several or none"
        raise InputError(f"{data.path}: no label ({first_five(blank)}): {remedy}")
    names = split_names(data.labels)
    _check_told_apart(names, data)
    groups: Sequence[tuple[str, ...]] = SPELLINGS
    if data.positive_labels:
        names = CLASSES
        groups = [split_names(data.negative_labels), split_names(data.positive_labels)]
    elif same_classes(names, CLASSES) or (not names and {*keys} <= CLASS_OF.keys()):
        words = tuple(sorted({*spelled.values()}, key=lambda word: word.lower() in SPELLINGS[1]))
        own = same_classes(words, CLASSES) and {"0", "1"}.isdisjoint(words)
        names = names or (words if own else CLASSES)
    else:
        names = names or _find_names([spelled[label] for label in labels], rows, data)
        groups = [(name,) for name in names]
    class_of = {_key(m): i for i, group in enumerate(groups) for m in group}
    if scored and data.positive_labels:  # by a run of stars: names of its classes, but not both
        class_of = max(class_of, WORDS, key=lambda of: len(of.keys() & {*keys}))
    if scored:  # a run's 1.5 may be 1,5 in a table
        dotted = {key: key.replace(",", ".") for key in {*keys} - class_of.keys()}
        keys = [of if (of := dotted.get(key, key)) in class_of else key for key in keys]
    numbers = np.array([class_of.get(key, -1) for key in keys], np.int32)
    named = {*names} <= {*spelled.values()}
    if scored or (groups is SPELLINGS and not named):
        _check_fit(keys, class_of, names, data)
    if dropped := [key for key in keys if key not in class_of]:
        counts = f"{len(dropped):,} of {len(keys):,} texts in {data.path}"
        print(f"dropped  {counts}, labeled {_counted(dropped)}", file=sys.stderr)
    return of_numbers(numbers, len(names)), names, named


def _number_several(
    labels: Sequence[str], rows: Sequence[str], data: DataConfig, scored: bool
) -> tuple[Bool[np.ndarray, "rows classes"], tuple[str, ...]]:
    """Return which labels each row has, and all labels: the config's, or those found."""
    parts = [(i, x) for i, of in enumerate(labels) for x in split_labels(of, data.between_labels)]
    spelled = [(i, of) for i, part in parts if not is_blank(of := _spell(part))]
    keys = [label.lower() for _, label in spelled]
    names = split_names(data.labels) or split_names(data.label_columns)
    if not names:
        names = _find_names([of for _, of in spelled], [rows[i] for i, _ in spelled], data)
    class_of = {_key(name): i for i, name in enumerate(names)}
    _check_told_apart(names, data)
    if others := [key for key in keys if key not in class_of]:
        counts = f"{data.path}: {len(others):,} labels are not among {first_five(names)}"
        if scored and not {*class_of} <= {*keys}:  # they may be spelled otherwise
            raise InputError(f"{counts}: {_counted(others)}; spell each as the run's labels")
        print(f"dropped  {counts}: {_counted(others)}", file=sys.stderr)
    found = np.zeros((len(labels), len(names)), bool)
    for (row, _), key in zip(spelled, keys, strict=True):
        if key in class_of:
            found[row, class_of[key]] = True
    return found, names


def _check_told_apart(names: Sequence[str], data: DataConfig) -> None:
    """Raise InputError if a name could be another's, or a gap's."""
    keys = [_key(name) for name in names]
    for i, name in enumerate(names):
        if is_blank(keys[i]) or keys[i] in keys[:i]:
            twin = "a label is not nan, and differs in more than case or .0"
            raise InputError(f"{data.path}: label {name!r} can't be told from others: {twin}")


def join_columns(cells: Sequence[str], row: str, data: DataConfig) -> str:
    """Return a row's label, or of columns of 0 and 1 the names of those that are 1, joined."""
    if not (names := split_names(data.label_columns)):
        return cells[0]
    found = [CLASS_OF.get(_key(cell)) for cell in cells]
    for name, cell, value in zip(names, cells, found, strict=True):
        if value is None:
            problem = f"{data.path}, {row}, column {name!r}: {cell[:40]!r} is neither 0 nor 1"
            raise InputError(f"{problem}: data.label_columns names a column per label")
    having = [name for name, value in zip(names, found, strict=True) if value]
    return join_labels(having, data.between_labels)


def _check_fit(
    keys: Sequence[str], class_of: Mapping[str, int], names: Sequence[str], data: DataConfig
) -> None:
    """Raise InputError if a label may be a class in another spelling; warn of absent classes.

    None may if each class has labels and the others are words such as "neutral", or between the
    classes' own numbers, as 3 stars are between 1, 2 and 4, 5, but 2 is not beside 0 and 1.
    """
    found = {class_of.get(key) for key in keys}
    absent = [name for i, name in enumerate(names) if i not in found]
    others = {*keys} - class_of.keys()
    own = [float(key) for key in class_of if NUMBER.fullmatch(key) and class_of != CLASS_OF]
    between = all(own and min(own) < float(x) < max(own) for x in others if NUMBER.fullmatch(x))
    shown = keys if len({*keys}) <= 5 else [key for key in keys if key in others] or keys
    labels = f"{data.path}, column {data.label_column!r}: the labels {_counted(shown)}"
    if others and (absent or others & WORDS.keys() or not between):
        known = ["/".join(key for key in class_of if class_of[key] == i) for i in range(len(names))]
        problem = f"{labels} do not fit the classes {first_five(known)}"
        raise InputError(f"{problem}: spell each as its class, and remove rows of other labels")
    if absent:
        print(f"warning: {labels}: none is of class {first_five(absent)}", file=sys.stderr)


def same_classes(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether classes are equal, or both are spellings of negative and positive."""
    spelled = [CLASS_OF.get(name.lower()) for name in (*first, *second)]
    return first == second or (len(first) == 2 and spelled == [0, 1, 0, 1])


def find_class(label: str, classes: Sequence[str]) -> int:
    """Return the number of a class or label by its name, or a spelling of negative or positive."""
    key, spelled = _key(label), [_key(name) for name in classes]
    if key in CLASS_OF and same_classes(tuple(classes), CLASSES):
        return CLASS_OF[key]
    if key not in spelled:
        raise InputError(f"label {label!r} is none of this run: choose {list_classes(classes)}")
    return spelled.index(key)


def _spell(label: str) -> str:
    label = unicodedata.normalize("NFC", label)  # as texts are
    return re.sub(r"^([-+]?\d+)\.0+$", r"\1", " ".join(label.split()))


def _key(label: str) -> str:
    return _spell(label).lower()  # by which two spellings are one label


def _counted(keys: Sequence[str]) -> str:
    return first_five([f"{key[:40]} ({count:,})" for key, count in Counter(keys).most_common()])


def _find_names(spelled: Sequence[str], rows: Sequence[str], data: DataConfig) -> tuple[str, ...]:
    """Return one spelling of each label in the order of the classes; InputError if they are odd."""
    where = f"{data.path}, column {data.label_column!r}"
    keys = [label.lower() for label in spelled]
    counts = Counter(keys)
    joined, mark = _find_joined(counts)
    if joined and not data.between_labels:
        remedy = f"set --config.data.label_separator='{mark}', or name all classes by data.labels"
        raise InputError(f"{where}: {joined!r} holds several labels: {remedy}")
    hint = ""
    if 2 * len(counts) > max(len(keys), 4 * FEWEST):  # most labels are unlike any other
        hint = ": are these texts? name the other column by --config.data.label_column"
        if all(re.fullmatch(r"[-+]?[\d.]+", key) for key in counts):
            hint = ": regression is not supported: make few classes of these numbers"
    if not 2 <= len(counts) <= MOST_CLASSES:
        listed = f"{len(counts)} different labels, {_counted(keys)}"
        raise InputError(f"{where}: {listed}; 2 to {MOST_CLASSES:,} are expected{hint}")
    if rare := [f"{r}: {k[:40]!r}" for r, k in zip(rows, keys, strict=True) if counts[k] < FEWEST]:
        known = "" if data.between_labels else f" ({', '.join(CLASS_OF)} need no more)"
        advice = f": correct them{known} or keep some, --config.data.labels=A,B"
        problem = f"{where}: labels of fewer than {FEWEST} texts ({first_five(rare)})"
        raise InputError(f"{problem}{hint or advice}")
    by_rank = sorted({*spelled}, reverse=True)  # of good and Good, the last is kept: Good
    found = {label.lower(): label for label in by_rank}
    if odd := [label for label in found.values() if not label.isprintable()]:
        raise InputError(f"{where}: {odd[0]!r} cannot name a class: it can't be printed")
    try:
        names = tuple(sorted(found.values(), key=float))
    except ValueError:
        return tuple(sorted(found.values(), key=str.lower))
    if not data.between_labels:
        _hint_at_rating(names, where)
    return names


def _hint_at_rating(names: Sequence[str], where: str) -> None:
    """Print how numbers up to 5 or 10 become two classes, without a quarter in the middle."""
    lowest, *_, highest = map(float, names)
    middle = (highest + 1) / 2
    margin = (highest - 1) / 8
    positive = ",".join(name for name in names if float(name) > middle + margin)
    negative = ",".join(name for name in names if float(name) < middle - margin)
    least = {5.0: 0.5, 10.0: 0.0}.get(highest // 1, highest)
    if len(names) > 2 and least <= lowest and negative and positive:
        flags = f"--config.data.positive_labels={positive} --config.data.negative_labels={negative}"
        rating = f"{where}: {list_classes(names)} look like a rating"
        print(f"hint     {rating}: {flags} makes it two classes", file=sys.stderr)


def _find_joined(labels: Collection[str]) -> tuple[str, str]:
    """Return a list, or a label whose parts are labels, and the mark between them; or twice ""."""
    for mark in ",;|":
        parts = {of: [part.strip() for part in split_labels(of, mark)] for of in labels}
        alone = {of[0] for of in parts.values() if len(of) == 1}
        for label, of in parts.items():
            if len(of) > 1 and (alone.issuperset(of) or re.match(r"\[\s*['\"].*]$", label)):
                return label, mark
    return "", ""


def average_thresholds(each: Sequence[Sequence[float]], classes: int) -> list[float]:
    """Return the average of the thresholds of several models, empty if there are none."""
    if not any(map(len, each)):
        return []
    return np.mean([of or [1 / classes] * classes for of in each], axis=0).tolist()


def apply_temperature(
    probabilities: Float[np.ndarray, "*any texts classes"], temperature: Any
) -> Float[np.ndarray, "*any texts classes"]:
    """Return softmax(log p / temperature), which is that of the logits divided by it.

    In float64, so that the order of two nearly equal probabilities is kept. In multi-label
    classification, each label has a temperature.
    """
    if np.ndim(temperature):
        each = map(apply_temperature, apart(probabilities), temperature)
        return np.stack([p[..., 1] for p in each], axis=-1)
    if temperature == 1:
        return probabilities
    scaled = np.log(np.maximum(probabilities, LEAST, dtype=np.float64)) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def apart(probabilities: Float[np.ndarray, "*any texts classes"]) -> list[np.ndarray]:
    """Return for each label the probabilities of not having it and of having it."""
    return [np.stack([1 - p, p], axis=-1) for p in np.moveaxis(probabilities, -1, 0)]
