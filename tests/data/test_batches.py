"""Plans: pure functions of (seed, epoch), few shapes, every review exactly once."""

import numpy as np
import pytest
from reviews import random_encoded

from sentiment_jax.data.batches import effective_buckets, make_batch, plan_epoch, plan_evaluation

BUCKETS = (8, 16, 32, 40)


def make_encoded(count):
    return random_encoded(count, longest=40, vocabulary=100)


def plans(lengths, batch_size):
    yield plan_evaluation(lengths, batch_size=batch_size, buckets=BUCKETS)
    for epoch in range(3):
        yield plan_epoch(lengths, batch_size=batch_size, buckets=BUCKETS, seed=1, epoch=epoch)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("reviews", [1, 64, 1000])
def test_every_review_comes_once_with_weight_1(batch_size, reviews):
    encoded = make_encoded(reviews)
    for plan in plans(encoded.lengths, batch_size):
        assert len(plan) == -(-reviews // batch_size)
        assert sorted(np.concatenate([p.indices for p in plan])) == list(range(reviews))
        assert sum(len(p.indices) < batch_size for p in plan) == (reviews % batch_size > 0)
        weight = sum(make_batch(encoded, p, batch_size)["weights"].sum() for p in plan)
        assert weight == reviews


def test_padded_length_is_the_smallest_bucket_that_holds_the_longest_row():
    lengths = make_encoded(1000).lengths
    for plan in plans(lengths, 7):
        for planned in plan:
            longest = lengths[planned.indices].max()
            assert planned.length == min(bucket for bucket in BUCKETS if bucket >= longest)
        assert {planned.length for planned in plan} == set(BUCKETS)


def test_lengths_on_the_edge_of_a_bucket():
    lengths = np.array([8, 9, 40])
    plan = plan_evaluation(lengths, batch_size=1, buckets=BUCKETS)
    assert [(p.indices.tolist(), p.length) for p in plan] == [([0], 8), ([1], 16), ([2], 40)]
    with pytest.raises(ValueError, match="fits no bucket"):
        plan_evaluation(np.array([41]), batch_size=1, buckets=BUCKETS)


def rows(plan):
    return [(p.indices.tolist(), p.length) for p in plan]


def test_epoch_is_a_pure_function_of_seed_and_epoch():
    lengths = make_encoded(500).lengths
    plan = {
        key: rows(plan_epoch(lengths, batch_size=7, buckets=BUCKETS, seed=key[0], epoch=key[1]))
        for key in [(0, 0), (0, 1), (1, 0)]
    }
    np.random.default_rng().random(3)  # no global state
    again = plan_epoch(lengths, batch_size=7, buckets=BUCKETS, seed=0, epoch=1)
    assert rows(again) == plan[0, 1]
    compositions = [{frozenset(indices) for indices, _ in p} for p in plan.values()]
    for i in range(3):
        for j in range(i):
            assert len(compositions[i] & compositions[j]) < 5  # mixed anew, not only reordered


def test_epoch_order_does_not_follow_the_length():
    lengths = make_encoded(5000).lengths
    plan = plan_epoch(lengths, batch_size=32, buckets=BUCKETS, seed=0, epoch=0)
    padded = np.array([p.length for p in plan])
    assert abs(np.corrcoef(np.arange(len(plan)), padded)[0, 1]) < 0.3
    assert lengths.sum() / sum(32 * p.length for p in plan) > 0.75  # and yet wastes little


def test_reviews_of_one_bucket_are_mixed_whatever_their_lengths():
    lengths = np.arange(1, 65)
    plans = [
        plan_epoch(lengths, batch_size=8, buckets=(64,), seed=0, epoch=epoch) for epoch in (0, 1)
    ]
    first, second = ({frozenset(p.indices.tolist()) for p in plan} for plan in plans)
    assert not first & second


def test_evaluation_is_sorted_by_length():
    lengths = make_encoded(100).lengths
    order = np.concatenate(
        [p.indices for p in plan_evaluation(lengths, batch_size=7, buckets=BUCKETS)]
    )
    assert (np.diff(lengths[order]) >= 0).all()


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


def test_buckets_end_at_max_length():
    assert effective_buckets((64, 128, 512), 128) == (64, 128)
    assert effective_buckets((128, 64, 64, 512), 400) == (64, 128, 400)
    assert effective_buckets((64,), 32) == (32,)
    assert effective_buckets((), 32) == (32,)
