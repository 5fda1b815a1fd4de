"""Plans: pure functions of (seed, epoch), few shapes, every review exactly once."""

import numpy as np
import pytest
from reviews import random_encoded

from sentiment_jax.data.batches import effective_buckets, make_batch, plan_epoch, plan_evaluation

BUCKETS = (8, 16, 32, 40)


def make_encoded(count):
    return random_encoded(count, longest=40, vocabulary=100)


def plan_rows(lengths, seed, epoch, buckets=BUCKETS):
    plan = plan_epoch(lengths, batch_size=8, buckets=buckets, seed=seed, epoch=epoch)
    return [(p.indices.tolist(), p.length) for p in plan]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("reviews", [1, 64, 1000])
def test_every_review_comes_once_in_the_smallest_bucket(batch_size, reviews):
    encoded = make_encoded(reviews)
    lengths = encoded.lengths
    options = {"batch_size": batch_size, "buckets": BUCKETS}
    plans = [plan_epoch(lengths, seed=1, epoch=epoch, **options) for epoch in range(3)]
    for plan in (*plans, plan_evaluation(lengths, **options)):
        assert len(plan) == -(-reviews // batch_size)
        assert sorted(np.concatenate([p.indices for p in plan])) == list(range(reviews))
        assert sum(len(p.indices) < batch_size for p in plan) == (reviews % batch_size > 0)
        weight = sum(make_batch(encoded, p, batch_size)["weights"].sum() for p in plan)
        assert weight == reviews
        for planned in plan:
            longest = lengths[planned.indices].max()
            assert planned.length == min(bucket for bucket in BUCKETS if bucket >= longest)


def test_evaluation_is_sorted_by_length_and_buckets_include_their_edge():
    plan = plan_evaluation(np.array([40, 8, 9]), batch_size=1, buckets=BUCKETS)
    assert [(p.indices.tolist(), p.length) for p in plan] == [([1], 8), ([2], 16), ([0], 40)]
    with pytest.raises(IndexError):
        plan_evaluation(np.array([41]), batch_size=1, buckets=BUCKETS)


def test_epoch_is_a_pure_function_of_seed_and_epoch():
    lengths = make_encoded(500).lengths
    plans = {key: plan_rows(lengths, *key) for key in [(0, 0), (0, 1), (1, 0)]}
    np.random.default_rng().random(3)  # no global state
    assert plan_rows(lengths, 0, 1) == plans[0, 1]
    compositions = [{frozenset(indices) for indices, _ in plan} for plan in plans.values()]
    for i in range(3):
        for j in range(i):
            assert len(compositions[i] & compositions[j]) < 5  # mixed anew, not only reordered


def test_epoch_order_does_not_follow_the_length():
    lengths = make_encoded(5000).lengths
    padded = np.array([length for _, length in plan_rows(lengths, 0, 0)])
    assert abs(np.corrcoef(np.arange(len(padded)), padded)[0, 1]) < 0.3
    assert lengths.sum() / sum(8 * padded) > 0.75  # and yet little is padding


def test_reviews_of_one_bucket_are_mixed_whatever_their_lengths():
    first, second = (plan_rows(np.arange(1, 65), 0, epoch, buckets=(64,)) for epoch in (0, 1))
    assert not {frozenset(rows) for rows, _ in first} & {frozenset(rows) for rows, _ in second}


def test_batch_holds_the_reviews_and_pads_the_rest():
    encoded = make_encoded(10)
    (planned,) = plan_evaluation(encoded.lengths, batch_size=16, buckets=BUCKETS)
    batch = make_batch(encoded, planned, 16)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "token_ids": ((16, planned.length), np.int32),
        "lengths": ((16,), np.int32),
        "labels": ((16,), np.int32),
        "weights": ((16,), np.float32),
    }
    for row, i in enumerate(planned.indices):
        ids = encoded.token_ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
        assert batch["token_ids"][row].tolist() == ids + [0] * (planned.length - len(ids))
        assert batch["lengths"][row] == len(ids)
        assert batch["labels"][row] == encoded.labels[i]
    assert batch["weights"].tolist() == [1] * 10 + [0] * 6
    assert (batch["lengths"][10:] == 1).all() and (batch["token_ids"][10:] == 0).all()


@pytest.mark.parametrize(
    ("buckets", "max_length", "expected"),
    [
        ((64, 128, 512), 128, (64, 128)),
        ((128, 64, 64, 512), 400, (64, 128, 400)),
        ((64,), 32, (32,)),
        ((), 32, (32,)),
    ],
)
def test_buckets_end_at_max_length(buckets, max_length, expected):
    assert effective_buckets(buckets, max_length) == expected
