"""Batches of few shapes: which reviews, padded to which length, a pure function of the seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from sentiment_jax.data.encoding import Encoded

Batch = dict[str, np.ndarray]
Lengths = Integer[np.ndarray, " reviews"]  # tokens of each review
Rows = Int64[np.ndarray, " rows"]
WINDOW = 50  # batches whose reviews are sorted by bucket together


class PlannedBatch(NamedTuple):
    """Which reviews a batch holds (at most batch_size) and the length they are padded to."""

    indices: Rows
    length: int


Plan = list[PlannedBatch]


def effective_buckets(buckets: Sequence[int], max_length: int) -> tuple[int, ...]:
    """Return the padded lengths below max_length, and max_length itself as the last one."""
    return (*sorted({bucket for bucket in buckets if 0 < bucket < max_length}), max_length)


def plan_epoch(
    lengths: Lengths, *, batch_size: int, buckets: Sequence[int], seed: int, epoch: int
) -> Plan:
    """Plan one shuffled epoch in which every review appears once, a function of seed and epoch.

    Reviews are shuffled, then sorted by bucket within windows of 50 batches. This avoids most of
    the padding, yet every epoch has different batches. Buckets ascend; the last fits the longest.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    windows = np.arange(len(order)) // (WINDOW * batch_size)
    order = order[np.lexsort((np.searchsorted(buckets, lengths[order]), windows))]
    batches = _group(order, lengths, batch_size, buckets)
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_evaluation(lengths: Lengths, *, batch_size: int, buckets: Sequence[int]) -> Plan:
    """Plan one pass over all reviews, sorted by length; the last batch may hold fewer."""
    return _group(np.argsort(lengths, kind="stable"), lengths, batch_size, buckets)


def _group(order: Rows, lengths: Lengths, batch_size: int, buckets: Sequence[int]) -> Plan:
    groups = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    places = [np.searchsorted(buckets, lengths[rows].max()) for rows in groups]
    return [PlannedBatch(rows, buckets[i]) for rows, i in zip(groups, places, strict=True)]


def make_batch(encoded: Encoded, planned: PlannedBatch, batch_size: int) -> Batch:
    """Fill one batch: int32 token_ids [batch, length], lengths and labels, float32 weights [batch].

    With n-gram ids, token_ids are [batch, length, longest n-gram]. If reviews have targets, so has
    the batch, float32 [batch, classes]. Padding is token 0 on the right. Rows without a review have
    weight 0, length 1 and token 0.
    """
    rows = len(planned.indices)
    token_ids = np.zeros((batch_size, planned.length, *encoded.token_ids.shape[1:]), np.int32)
    for row, i in enumerate(planned.indices.tolist()):
        ids = encoded.token_ids[encoded.offsets[i] : encoded.offsets[i + 1]]
        token_ids[row, : len(ids)] = ids
    batch = {
        "token_ids": token_ids,
        "lengths": np.ones(batch_size, np.int32),
        "labels": np.zeros((batch_size, *encoded.labels.shape[1:]), np.int32),
        "weights": (np.arange(batch_size) < rows).astype(np.float32),
    }
    batch["lengths"][:rows] = encoded.lengths[planned.indices]
    batch["labels"][:rows] = encoded.labels[planned.indices]
    if encoded.targets is not None:
        batch["targets"] = np.zeros((batch_size, encoded.targets.shape[1]), np.float32)
        batch["targets"][:rows] = encoded.targets[planned.indices]
    return batch
