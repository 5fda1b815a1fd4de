"""Batches of few shapes: which reviews, padded to which length, a pure function of the seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from sentiment_jax.data.encoding import Encoded

Batch = dict[str, np.ndarray]
WINDOW = 50  # batches whose reviews are sorted by bucket together


class PlannedBatch(NamedTuple):
    """Which reviews a batch holds (at most batch_size) and the length they are padded to."""

    indices: Int64[np.ndarray, " rows"]
    length: int


def effective_buckets(buckets: Sequence[int], max_length: int) -> tuple[int, ...]:
    """Return the padded lengths below max_length, and max_length itself as the last one."""
    return (*sorted({bucket for bucket in buckets if 0 < bucket < max_length}), max_length)


def plan_epoch(
    lengths: Integer[np.ndarray, " reviews"],
    *,
    batch_size: int,
    buckets: Sequence[int],
    seed: int,
    epoch: int,
) -> list[PlannedBatch]:
    """Plan one shuffled epoch in which every review appears once.

    Reviews are shuffled, then sorted by bucket within windows of 50 batches. This avoids most of
    the padding, yet every epoch has different batches.

    Args:
      lengths: tokens per review.
      batch_size: reviews per batch; one batch may hold fewer.
      buckets: padded lengths, ascending; the last one holds the longest review.
      seed: of the run.
      epoch: the plan is a pure function of both.
    """
    rng = np.random.default_rng((seed, epoch))
    order, bucket = rng.permutation(len(lengths)), np.searchsorted(buckets, lengths)
    batches = []
    for first in range(0, len(order), WINDOW * batch_size):
        window = order[first : first + WINDOW * batch_size]
        window = window[np.argsort(bucket[window], kind="stable")]
        batches += _group(window, lengths, batch_size, buckets)
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_evaluation(
    lengths: Integer[np.ndarray, " reviews"], *, batch_size: int, buckets: Sequence[int]
) -> list[PlannedBatch]:
    """Plan one pass over all reviews, sorted by length; the last batch may hold fewer."""
    return _group(np.argsort(lengths, kind="stable"), lengths, batch_size, buckets)


def _group(
    order: Int64[np.ndarray, " rows"],
    lengths: Integer[np.ndarray, " reviews"],
    batch_size: int,
    buckets: Sequence[int],
) -> list[PlannedBatch]:
    batches = []
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        longest = lengths[rows].max()
        if longest > buckets[-1]:
            raise ValueError(f"a review of {longest} tokens fits no bucket of {buckets}")
        batches.append(PlannedBatch(rows, next(bucket for bucket in buckets if bucket >= longest)))
    return batches


def make_batch(encoded: Encoded, planned: PlannedBatch, batch_size: int) -> Batch:
    """Fill the arrays of one batch, always batch_size rows.

    Returns:
      token_ids int32 [batch, length], padded with 0 on the right; lengths int32 [batch]; labels
      int32 [batch]; weights float32 [batch]. Rows beyond the reviews have weight 0, length 1
      and token 0.
    """
    rows = len(planned.indices)
    batch = {
        "token_ids": np.zeros((batch_size, planned.length), np.int32),
        "lengths": np.ones(batch_size, np.int32),
        "labels": np.zeros(batch_size, np.int32),
        "weights": np.zeros(batch_size, np.float32),
    }
    batch["lengths"][:rows] = encoded.lengths[planned.indices]
    batch["labels"][:rows] = encoded.labels[planned.indices]
    batch["weights"][:rows] = 1
    for row, i in enumerate(planned.indices.tolist()):
        ids = encoded.token_ids[encoded.offsets[i] : encoded.offsets[i + 1]]
        batch["token_ids"][row, : len(ids)] = ids
    return batch
