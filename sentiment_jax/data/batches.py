"""Batches of few shapes: which texts, padded to which length, a pure function of the seed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from sentiment_jax.data.encoding import Encoded

Batch = dict[str, np.ndarray]
Lengths = Integer[np.ndarray, " texts"]  # tokens of each text
Rows = Int64[np.ndarray, " rows"]
ROW_LENGTHS = (64, 128)  # tokens of a row that holds several texts, unless one of them has more
WINDOW = 50  # batches whose texts are sorted by bucket together


class PlannedBatch(NamedTuple):
    """Which texts a batch holds (at most batch_size) and the length they are padded to."""

    indices: Rows
    length: int
    rows: int = 0  # that hold several texts each; 0: a row for each


Plan = list[PlannedBatch]


def effective_buckets(buckets: Sequence[int], max_length: int) -> tuple[int, ...]:
    """Return the padded lengths below max_length, and max_length itself as the last one."""
    return (*sorted({bucket for bucket in buckets if 0 < bucket < max_length}), max_length)


def plan_epoch(
    lengths: Lengths,
    *,
    batch_size: int,
    buckets: Sequence[int],
    seed: int,
    epoch: int,
    packed: bool = False,
) -> Plan:
    """Plan one shuffled epoch in which every text appears once, a function of seed and epoch.

    Texts are shuffled, then sorted by bucket within windows of 50 batches. This avoids most of
    the padding, yet every epoch has different batches. Buckets ascend; the last fits the longest.
    If `packed`, batches have nearly equally many tokens instead, and all have as many rows.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    if packed:
        batches = _balance(order, lengths, batch_size, buckets)
    else:
        windows = np.arange(len(order)) // (WINDOW * batch_size)
        order = order[np.lexsort((np.searchsorted(buckets, lengths[order]), windows))]
        batches = _group(order, lengths, batch_size, buckets)
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_evaluation(
    lengths: Lengths, *, batch_size: int, buckets: Sequence[int], packed: bool = False
) -> Plan:
    """Plan one pass over all texts, sorted by length or `packed`; batches may hold fewer.

    Packed batches have rows in steps of 4 or of a sixteenth of the batch size, so that most splits
    have the same shape. Texts that need longer rows are apart, a quarter as many in a batch:
    attention takes the square of a row, in time and in memory.
    """
    if packed:
        fits = lengths <= ROW_LENGTHS[-1]
        step = max(4, batch_size // 16)
        parts = [(np.flatnonzero(fits), batch_size), (np.flatnonzero(~fits), batch_size // 4 or 1)]
        plans = [_balance(rows, lengths, size, buckets, step) for rows, size in parts if len(rows)]
        return [planned for plan in plans for planned in plan]
    return _group(np.argsort(lengths, kind="stable"), lengths, batch_size, buckets)


def _balance(
    order: Rows, lengths: Lengths, batch_size: int, buckets: Sequence[int], multiple: int = 1
) -> Plan:
    """Deal texts to batches, the longest first, each round beginning where tokens are fewest.

    All have the rows that the fullest one needs, rounded up to a multiple.
    """
    sizes = (*[size for size in ROW_LENGTHS if size < buckets[-1]], buckets[-1])
    length = sizes[np.searchsorted(sizes, lengths[order].max())]
    batches = math.ceil(len(order) / batch_size)
    order = order[np.argsort(-lengths[order], kind="stable")]
    tokens = np.zeros(batches, np.int64)
    places = np.zeros(len(order), np.int64)
    for first in range(0, len(order), batches):
        dealt = order[first : first + batches]
        emptiest = np.argsort(tokens, kind="stable")[: len(dealt)]
        places[first : first + batches] = emptiest
        tokens[emptiest] += lengths[dealt]
    ends = np.cumsum(np.bincount(places, minlength=batches))[:-1]
    groups = np.split(order[np.argsort(places, kind="stable")], ends)
    rows = max(_first_fit(lengths[group], length)[1] for group in groups)
    rows = min(math.ceil(rows / multiple) * multiple, batch_size)
    return [PlannedBatch(group, length, rows) for group in groups]


def _group(order: Rows, lengths: Lengths, batch_size: int, buckets: Sequence[int]) -> Plan:
    groups = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    places = [np.searchsorted(buckets, lengths[rows].max()) for rows in groups]
    return [PlannedBatch(rows, buckets[i]) for rows, i in zip(groups, places, strict=True)]


def _first_fit(lengths: Lengths, size: int) -> tuple[list[int], int]:
    """Put texts into rows of `size` tokens, the longest first, each into the first with room.

    Return where each text begins in the flattened rows, and the number of rows.
    """
    starts = [0] * len(lengths)
    filled: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        fits = (row for row, used in enumerate(filled) if used + length <= size)
        row = next(fits, len(filled))
        if row == len(filled):
            filled.append(0)
        starts[i] = row * size + filled[row]
        filled[row] += length
    return starts, len(filled)


def _spread(values: np.ndarray, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return int32 rows of this shape: values at their places in the flattened rows, zeros."""
    flat = np.zeros((math.prod(shape), *values.shape[1:]), np.int32)
    flat[places] = values
    return flat.reshape(*shape, *values.shape[1:])


def _pad(values: np.ndarray, rows: int) -> np.ndarray:
    """Return values with zeros for the missing rows."""
    padded = np.zeros((rows, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def make_batch(encoded: Encoded, planned: PlannedBatch, batch_size: int) -> Batch:
    """Fill one batch: int32 token_ids [batch, length] and lengths, float32 weights [batch].

    With n-gram ids, token_ids are [batch, length, longest n-gram]. Labels are [batch, classes]; if
    texts have targets, so has the batch, float32. Segments of a pre-training have int32 numbers
    [batch]. Padding is token 0 on the right. Rows without a text have weight 0, length 1, token 0.

    If the plan has `rows`, these hold several texts each, one after another. Then the batch also
    has int32 `segments` [rows, length], the number in the batch of the text that each token
    belongs to, from 1, and 0 for padding; `positions` [rows, length], of tokens within their
    text; and `starts` [batch], of texts in the flattened rows.
    """
    rows = len(planned.indices)
    lengths = encoded.lengths[planned.indices]
    shape = (planned.rows or batch_size, planned.length)
    starts = np.arange(rows) * planned.length
    if planned.rows:
        starts = np.array(_first_fit(lengths, planned.length)[0])
    positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(starts, lengths) + positions  # in the flattened rows
    tokens = np.repeat(encoded.offsets[planned.indices], lengths) + positions
    batch = {
        "token_ids": _spread(encoded.token_ids[tokens], places, shape),
        "lengths": np.ones(batch_size, np.int32),
        "labels": _pad(encoded.labels[planned.indices], batch_size),
        "weights": (np.arange(batch_size) < rows).astype(np.float32),
    }
    batch["lengths"][:rows] = lengths
    if planned.rows:
        batch["starts"] = _spread(starts, np.arange(rows), (batch_size,))
        batch["segments"] = _spread(np.repeat(np.arange(1, rows + 1), lengths), places, shape)
        batch["positions"] = _spread(positions, places, shape)
    for name, values in (("targets", encoded.targets), ("numbers", encoded.numbers)):
        if values is not None:
            batch[name] = _pad(values[planned.indices], batch_size)
    return batch
