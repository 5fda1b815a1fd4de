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
    order, bucket = rng.permutation(len(lengths)), _bucket(lengths, buckets)
    batches = []
    for first in range(0, len(order), WINDOW * batch_size):
        window = order[first : first + WINDOW * batch_size]
        window = window[np.argsort(bucket[window], kind="stable")]
        batches += _group(window, bucket, batch_size, buckets)
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_evaluation(
    lengths: Integer[np.ndarray, " reviews"], *, batch_size: int, buckets: Sequence[int]
) -> list[PlannedBatch]:
    """Plan one pass over all reviews, sorted by length; the last batch may hold fewer."""
    order = np.argsort(lengths, kind="stable")
    return _group(order, _bucket(lengths, buckets), batch_size, buckets)


def _bucket(
    lengths: Integer[np.ndarray, " reviews"], buckets: Sequence[int]
) -> Int64[np.ndarray, " reviews"]:
    if lengths.max(initial=0) > buckets[-1]:
        raise ValueError(f"a review of {lengths.max()} tokens fits no bucket of {buckets}")
    return np.searchsorted(buckets, lengths)


def _group(
    order: Int64[np.ndarray, " rows"],
    bucket: Int64[np.ndarray, " reviews"],
    batch_size: int,
    buckets: Sequence[int],
) -> list[PlannedBatch]:
    parts = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    return [PlannedBatch(part, int(buckets[bucket[part].max()])) for part in parts]


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
