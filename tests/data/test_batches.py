"""Plans: pure functions of (seed, epoch), few shapes, every text exactly once."""

import functools
import math

import numpy as np
import pytest
from reviews import random_encoded

from sentiment_jax.data.batches import effective_buckets, make_batch, plan_epoch, plan_evaluation

BUCKETS = (8, 16, 32, 40)
make_encoded = functools.partial(random_encoded, longest=40, vocabulary=100)


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
    plans.append(plan_evaluation(lengths, **options))
    assert (np.diff(lengths[np.concatenate([p.indices for p in plans[-1]])]) >= 0).all()  # sorted
    for plan in plans:
        assert len(plan) == -(-reviews // batch_size)
        assert sorted(np.concatenate([p.indices for p in plan])) == list(range(reviews))
        assert sum(len(p.indices) < batch_size for p in plan) == (reviews % batch_size > 0)
        for planned in plan:
            longest = lengths[planned.indices].max()
            assert planned.length == min(bucket for bucket in BUCKETS if bucket >= longest)


def test_epochs_are_functions_of_seed_and_epoch_that_mix_each_bucket_anew():
    """Not only other orders of the same batches, nor batches of one length."""
    lengths = np.arange(1, 65)
    keys = [(0, 0), (0, 1), (1, 0)]
    plans = [plan_rows(lengths, *key, buckets=(32, 64)) for key in keys]
    assert plan_rows(lengths, *keys[1], buckets=(32, 64)) == plans[1]
    assert len({frozenset(rows) for plan in plans for rows, _ in plan}) == 3 * 8


def test_epoch_order_does_not_follow_the_length():
    lengths = make_encoded(5000).lengths
    padded = np.array([length for _, length in plan_rows(lengths, 0, 0)])
    assert abs(np.corrcoef(np.arange(len(padded)), padded)[0, 1]) < 0.3
    assert lengths.sum() / sum(8 * padded) > 0.75  # and yet little is padding


def test_batch_holds_the_reviews_and_pads_the_rest():
    targets = np.random.default_rng(0).random((10, 2), np.float32)
    encoded = make_encoded(10, targets=targets)
    (planned,) = plan_evaluation(encoded.lengths, batch_size=16, buckets=BUCKETS)
    rows = planned.indices
    expected = {
        "token_ids": np.zeros((16, planned.length), np.int32),
        "lengths": np.int32([*encoded.lengths[rows], *[1] * 6]),
        "labels": np.concatenate([encoded.labels[rows], np.zeros((6, 2), bool)]),
        "weights": np.float32([1] * 10 + [0] * 6),
        "targets": np.concatenate([targets[rows], np.zeros((6, 2), np.float32)]),
    }
    for row, i in enumerate(rows):
        ids = encoded.token_ids[encoded.offsets[i] : encoded.offsets[i + 1]]
        expected["token_ids"][row, : len(ids)] = ids
    batch = make_batch(encoded, planned, 16)
    assert batch.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(batch[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("reviews", [1, 64, 1000])
def test_packed_batches_have_every_review_once_and_about_as_many_tokens(batch_size, reviews):
    lengths = make_encoded(reviews).lengths
    options = {"batch_size": batch_size, "buckets": BUCKETS, "packed": True}
    plans = [plan_epoch(lengths, seed=1, epoch=epoch, **options) for epoch in range(2)]
    for plan in (*plans, plan_evaluation(lengths, **options)):
        assert len(plan) == -(-reviews // batch_size)
        assert sorted(np.concatenate([p.indices for p in plan])) == list(range(reviews))
        sizes = [len(p.indices) for p in plan]
        assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
        tokens = [lengths[p.indices].sum() for p in plan]
        assert max(tokens) - min(tokens) <= 40  # a review's, at most
        assert {p.length for p in plan} == {40}
    batches = [{frozenset(p.indices.tolist()) for p in plan} for plan in plans]
    if reviews == 1000 and batch_size > 1:
        assert len(batches[0] & batches[1]) < len(plans[0]) / 20  # mixed anew


@pytest.mark.parametrize("longest", [20, 40, 100])
@pytest.mark.parametrize("batch_size", [8, 32])
def test_packed_batches_of_a_pass_have_the_same_shape(batch_size, longest):
    """Hardly any of it is padding; the rows of an evaluation come in steps."""
    encoded = random_encoded(999, longest=longest, vocabulary=100, seed=2)
    options = {"batch_size": batch_size, "buckets": (128,), "packed": True}
    size = 64 if encoded.lengths.max() <= 64 else 128
    least = math.ceil(encoded.lengths.sum() / 999 * batch_size / size)
    for plan in (
        plan_epoch(encoded.lengths, seed=0, epoch=0, **options),
        plan_evaluation(encoded.lengths, **options),
    ):
        made = [make_batch(encoded, planned, batch_size) for planned in plan]
        ((rows, length),) = {batch["token_ids"].shape for batch in made}
        assert rows <= batch_size and length == size
    assert rows % 4 == 0 and rows < max(1.6 * least, 5)
    assert plan_epoch(encoded.lengths, seed=0, epoch=0, **options)[0].rows <= 1.35 * least + 1


def test_packed_rows_hold_each_review_once_beside_others():
    encoded = make_encoded(30)
    options = {"batch_size": 30, "buckets": (160,), "seed": 0, "epoch": 0, "packed": True}
    (planned,) = plan_epoch(encoded.lengths, **options)
    batch = make_batch(encoded, planned, 32)
    size = planned.length
    assert size == 64  # which holds the longest
    assert len(batch["token_ids"]) < encoded.lengths.sum() / size + 2  # hardly any padding
    segments, positions, token_ids = (
        batch[name].ravel() for name in ("segments", "positions", "token_ids")
    )
    for number, i in enumerate(planned.indices):
        (places,) = np.nonzero(segments == number + 1)
        ids = encoded.token_ids[encoded.offsets[i] : encoded.offsets[i + 1]]
        np.testing.assert_array_equal(token_ids[places], ids)
        np.testing.assert_array_equal(positions[places], np.arange(len(ids)))
        assert places[0] == batch["starts"][number]
        assert places[0] // size == places[-1] // size  # in one row
    assert not token_ids[segments == 0].any()
    padded = make_batch(encoded, planned._replace(rows=0), 32)
    for name in ("lengths", "labels", "weights"):
        np.testing.assert_array_equal(batch[name], padded[name])


def test_packed_rows_are_no_longer_than_a_long_review_needs():
    for longest, bucket, expected in ((64, 160, 64), (65, 160, 128), (129, 160, 160), (9, 40, 40)):
        options = {"batch_size": 2, "buckets": (bucket,), "packed": True, "seed": 0, "epoch": 0}
        (planned,) = plan_epoch(np.array([5, longest]), **options)
        assert planned.length == expected


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_an_evaluation_has_long_reviews_apart_and_fewer_of_them_in_a_batch(batch_size):
    lengths = np.array([5, 200, 128, 30, 150, 129])
    plan = plan_evaluation(lengths, batch_size=batch_size, buckets=(64, 256), packed=True)
    assert sorted(i for planned in plan for i in planned.indices) == list(range(6))
    for planned in plan:
        long = lengths[planned.indices] > 128
        assert planned.length == (256 if long.any() else 128) and long.all() == long.any()
        most = max(1, batch_size // 4) if long.any() else batch_size
        assert max(len(long), planned.rows) <= most


def test_buckets_end_at_max_length():
    assert effective_buckets((64, 128, 512), 128) == (64, 128)
    assert effective_buckets((128, 64, 64, 512), 400) == (64, 128, 400)
    assert effective_buckets((64,), 32) == effective_buckets((), 32) == (32,)
    with pytest.raises(IndexError):
        plan_evaluation(np.array([33]), batch_size=1, buckets=(32,))
