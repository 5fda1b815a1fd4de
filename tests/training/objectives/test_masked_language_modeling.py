"""Which tokens are masked, and by what; the two models' losses: models/test_pretraining.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.training.objectives.masked_language_modeling import (
    NEVER,
    PIECE,
    WORD,
    MaskedLanguageModeling,
)
from sentiment_jax.training.objectives.replaced_token_detection import ReplacedTokenDetection

SIZE, MASK, ROWS, LENGTH = 500, 4, 400, 64
KINDS = np.full(SIZE, WORD, np.uint8)
KINDS[:5] = NEVER
KINDS[300:] = PIECE
OBJECTIVE = MaskedLanguageModeling(KINDS.tobytes(), MASK, 0.15)


def make_batch(rows=ROWS, length=LENGTH):
    """[CLS], words of one or more tokens, [SEP]; the first row starts in the middle of a word."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 300, (rows, length)).astype(np.int32)
    pieces = rng.random((rows, length)) < 0.15
    tokens[pieces] = rng.integers(300, SIZE, pieces.sum())
    lengths = rng.integers(length // 2, length + 1, rows).astype(np.int32)
    at = np.arange(length)
    tokens[:, 0] = 2
    tokens[0, 1] = 400
    tokens[at == lengths[:, None] - 1] = 3
    tokens[at >= lengths[:, None]] = 0
    numbers = np.arange(rows, dtype=np.int32)
    weights = np.ones(rows, np.float32)
    return {"token_ids": tokens, "lengths": lengths, "numbers": numbers, "weights": weights}


mask = jax.jit(lambda batch, seed: OBJECTIVE.mask_batch(batch, jax.random.key(seed)))


@pytest.fixture(scope="module")
def masked():
    """A batch, its tokens after masking, and which positions were masked."""
    batch = make_batch()
    tokens, positions, weights = map(np.asarray, mask(batch, 0))
    assert positions.shape == (ROWS, 10)  # 15 % of 64 tokens, in every row
    chosen = np.zeros((ROWS, LENGTH), bool)
    chosen[np.nonzero(weights)[0], positions[weights > 0]] = True
    assert chosen.sum() == weights.sum()  # no position twice
    return batch, tokens, chosen


def test_fifteen_percent_are_predicted_in_whole_words_and_no_special_token(masked):
    batch, _, chosen = masked
    eligible = KINDS[batch["token_ids"]] != NEVER
    assert not chosen[~eligible].any()
    assert (chosen.sum(axis=1) <= np.ceil(0.15 * eligible.sum(axis=1))).all()
    assert 0.14 < chosen.sum() / eligible.sum() < 0.16
    for row, in_row in zip(batch["token_ids"], chosen, strict=True):
        words = np.cumsum(KINDS[row] != PIECE)  # the word that each token belongs to
        of_chosen_words = np.isin(words, words[in_row]) & (KINDS[row] != NEVER)
        np.testing.assert_array_equal(of_chosen_words, in_row)
    # wherever a token stands, it is as likely to be chosen
    rates = chosen[:, 1:11].mean(axis=0)
    assert (np.abs(rates - rates.mean()) < 4 * np.sqrt(0.15 * 0.85 / ROWS)).all()


def test_eighty_percent_become_mask_ten_a_random_token_ten_stay(masked):
    batch, tokens, chosen = masked
    now = tokens[chosen]
    then = batch["token_ids"][chosen]
    few = 4 * np.sqrt(0.1 * 0.9 / len(now))
    assert abs((now == MASK).mean() - 0.8) < 1.4 * few
    assert abs((now == then).mean() - 0.1) < few
    others = now[(now != MASK) & (now != then)]
    assert abs(len(others) / len(now) - 0.1) < few
    assert len(np.unique(others)) > 0.6 * len(others) > 50  # from the whole vocabulary
    np.testing.assert_array_equal(tokens[~chosen], batch["token_ids"][~chosen])


def test_masks_depend_on_the_key_and_the_rows_number_alone(masked):
    batch, tokens, chosen = masked
    few = {name: value[5:9] for name, value in batch.items()}
    longer = {**few, "token_ids": np.pad(few["token_ids"], ((0, 0), (0, 16)))}
    again, _, weights = mask(longer, 0)
    np.testing.assert_array_equal(again[:, :LENGTH], tokens[5:9])
    assert weights.sum() == chosen[5:9].sum()
    other, _, _ = mask(longer, 1)
    assert (np.asarray(other)[:, :LENGTH] != tokens[5:9]).any(axis=1).all()


def test_rows_that_only_fill_a_batch_and_single_long_words_choose_none():
    batch = make_batch(4, LENGTH + 16)
    batch["weights"] = np.array([0, 1, 1, 0], np.float32)
    batch["token_ids"][1:3, 1:] = 400  # pieces of one word
    tokens, _, weights = mask(batch, 0)
    assert np.sum(weights) == 0
    np.testing.assert_array_equal(tokens, batch["token_ids"])


class EqualLogits(nn.Module):
    """A network without parameters: sums depend on the batch alone."""

    def __call__(self, token_ids, lengths, positions, corrupt=None, *, deterministic):
        logits = jnp.zeros((*positions.shape, SIZE))
        return (logits, jnp.ones(token_ids.shape), corrupt(logits)) if corrupt else logits


@pytest.mark.parametrize("kind", [MaskedLanguageModeling, ReplacedTokenDetection])
def test_rows_that_only_fill_a_batch_count_in_no_sum(kind):
    whole = {**make_batch(4), "weights": np.float32([1, 1, 0, 0])}
    alone = {name: value[:2] for name, value in whole.items()}
    score = jax.jit(kind(KINDS.tobytes(), MASK, 0.15), static_argnums=0)
    found, expected = (
        {name: float(value) for name, value in sums.items()}
        for sums in (score(EqualLogits(), {}, batch, jax.random.key(0)) for batch in (whole, alone))
    )
    assert found == pytest.approx(expected, rel=1e-5)
