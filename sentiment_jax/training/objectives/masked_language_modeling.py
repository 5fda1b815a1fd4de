"""Masked language modeling: BERT's objective, with whole-word masking.

Devlin et al. (2019), https://arxiv.org/abs/1810.04805; whole words as in BERT's later release.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from tokenizers import Tokenizer

from sentiment_jax.data.tokenization import continues_word, find_special, special_tokens
from sentiment_jax.errors import InputError
from sentiment_jax.models.layers import Lengths, TokenIds
from sentiment_jax.training.objectives.objective import Batch, cross_entropy, forward

Masked = Int[Array, "batch masked"]
Weights = Float[Array, "batch masked"]

# Kinds of tokens: special ones are never predicted, a piece continues the word before it.
NEVER, WORD, PIECE = range(3)


def draw_rows(key: Array, numbers: Int[Array, " batch"], shape: tuple[int, ...]) -> Array:
    """Draw uniform numbers from [0, 1) for each row: a function of the key and the row's number.

    Where a batch is padded to more tokens, the first columns stay the same.
    """
    return jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), shape))(numbers)


def choose_words(
    kinds: UInt8[Array, "batch length"],
    lengths: Lengths,
    numbers: Int[Array, " batch"],
    key: Array,
    fraction: float,
) -> tuple[Masked, Bool[Array, "batch masked"]]:
    """Choose whole words at random, at most a fraction of each row's tokens.

    A row's words depend on the key and the row's number alone, not on its batch or padding.

    Returns:
      Positions, the fraction of the longest row in number, and which of them count.
    """
    length = kinds.shape[1]
    most = math.ceil(fraction * length)
    drawn = draw_rows(key, numbers, (length,))
    word = jnp.cumsum(kinds != PIECE, axis=1) - 1
    eligible = (kinds != NEVER) & (jnp.arange(length) < lengths[:, None])
    # One draw for all tokens of a word: in the order of the draws they are neighbors.
    draws = jnp.where(eligible, jnp.take_along_axis(drawn, word, axis=1), jnp.inf)
    order = jnp.argsort(draws, axis=1)
    draws = jnp.take_along_axis(draws, order, axis=1)
    budget = jnp.ceil(fraction * jnp.sum(eligible, axis=1)).astype(jnp.int32)
    first_left = jnp.take_along_axis(draws, jnp.minimum(budget, most)[:, None], axis=1)
    return order[:, :most], draws[:, :most] < first_left  # no word is masked in part


def mean_nats(sums: Mapping[str, float]) -> float:
    """Return the nats per predicted token, given sums over any number of batches."""
    return sums["nats"] / sums["predictions"]


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModeling:
    """Predict masked tokens: 80 % become [MASK], 10 % a random token, 10 % stay."""

    kinds: bytes  # NEVER, WORD or PIECE of each token id
    mask: int  # the id of [MASK]
    fraction: float  # of the tokens to predict
    hidden: float = 0.8
    replaced: float = 0.1

    @classmethod
    def of(cls, tokenizer: Tokenizer, fraction: float) -> "MaskedLanguageModeling":
        """Make the objective of a pre-training; InputError: its tokenizer has no [MASK]."""
        mask = find_special(tokenizer, "mask")
        if mask is None:
            raise InputError(
                "the tokenizer has no [MASK]: take the one of a BERT, or none to learn it"
            )
        kinds = bytearray(tokenizer.get_vocab_size())
        special = special_tokens(tokenizer)
        for token, i in tokenizer.get_vocab().items():
            if token not in special:
                kinds[i] = PIECE if continues_word(tokenizer, token) else WORD
        return cls(bytes(kinds), mask, fraction)

    def mask_batch(self, batch: Batch, key: Array) -> tuple[TokenIds, Masked, Weights]:
        """Return a batch's tokens after masking, the masked positions, their weights: 1 or 0."""
        token_ids = batch["token_ids"]
        numbers = batch["numbers"]  # of the segments
        kinds = jnp.asarray(np.frombuffer(self.kinds, np.uint8))[token_ids]
        where, how, what = jax.random.split(key, 3)
        positions, chosen = choose_words(kinds, batch["lengths"], numbers, where, self.fraction)
        weights = chosen * batch["weights"][:, None]
        chance = draw_rows(how, numbers, positions.shape[1:])
        others = draw_rows(what, numbers, positions.shape[1:]) * len(self.kinds)
        targets = jnp.take_along_axis(token_ids, positions, axis=1)
        tokens = jnp.where(chance < self.hidden + self.replaced, others.astype(jnp.int32), targets)
        tokens = jnp.where(chance < self.hidden, self.mask, tokens)
        tokens = jnp.where(weights > 0, tokens, targets)
        return put_tokens(token_ids, positions, tokens), positions, weights

    def __call__(
        self, model: nn.Module, params: Any, batch: Batch, key: Array, deterministic: bool = False
    ) -> dict[str, Array]:
        """Return the sums over the masked tokens; masking needs the key even without dropout."""
        masking, dropout_key = jax.random.split(key)
        dropout = None if deterministic else dropout_key
        token_ids, positions, weights = self.mask_batch(batch, masking)
        logits = forward(model, params, token_ids, batch["lengths"], positions, dropout=dropout)
        sums = score_tokens(logits, batch["token_ids"], positions, weights)
        return {**sums, "nats": sums["loss"], "predictions": sums["examples"]}

    mean_loss = staticmethod(mean_nats)


def put_tokens(token_ids: TokenIds, positions: Masked, tokens: Masked) -> TokenIds:
    """Return rows with other tokens at some positions."""
    return token_ids.at[jnp.arange(len(token_ids))[:, None], positions].set(tokens)


def score_tokens(
    logits: Float[Array, "batch masked vocabulary"],
    token_ids: TokenIds,
    positions: Masked,
    weights: Weights,
) -> dict[str, Array]:
    """Return loss, correct and examples of predicting a row's tokens at some positions."""
    targets = jnp.take_along_axis(token_ids, positions, axis=1)
    # argmax takes longer than all of the loss, of which this is the log-sum-exp's largest term.
    best = jnp.max(logits, axis=-1, keepdims=True)
    correct = jnp.take_along_axis(logits, targets[:, :, None], axis=-1) == best
    return {
        "loss": jnp.sum(cross_entropy(logits, targets) * weights),
        "correct": jnp.sum(correct[:, :, 0] * weights),
        "examples": jnp.maximum(jnp.sum(weights), 1),  # a row may be one long word
    }
