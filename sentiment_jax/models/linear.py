"""A linear classifier of n-grams of words and characters.

A text is a bag of n-grams, whose weights are summed, as in fastText's supervised mode without a
hidden layer: Joulin et al. (2017), https://arxiv.org/abs/1607.01759.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sentiment_jax.config.schema import NgramConfig
from sentiment_jax.models import layers
from sentiment_jax.models.layers import Lengths, Logits, NgramTokens

CHARACTER_SCALE = 0.25  # a word has some 16 character n-grams: their sum is as large as one weight


def weigh(token_ids: Int[Array, "batch length ngrams"]) -> Float[Array, "batch length ngrams"]:
    """Return the factors of a word, its bigram and, scaled down, its character n-grams."""
    scales = jnp.where(jnp.arange(token_ids.shape[2]) < 2, 1.0, CHARACTER_SCALE)
    return scales * (token_ids > 0)


embed_positions = functools.partial(layers.embed_positions, weigh=weigh)


class NgramClassifier(nn.Module):
    """Weights of words and n-grams, one per class, summed. Padding never changes a logit."""

    config: NgramConfig
    classes: int = 2

    @nn.compact
    def __call__(self, tokens: NgramTokens, lengths: Lengths, *, deterministic: bool) -> Logits:
        """Return float32 logits."""
        zeros = nn.initializers.zeros
        rows = self.config.vocab_size + self.config.used_buckets(self.classes)
        weights = nn.Embed(rows, self.classes, embedding_init=zeros, name="embedding")
        summed = jnp.sum(embed_positions(weights, tokens), axis=1)
        bias = self.param("bias", zeros, (self.classes,))
        # Sums of random weights grow with the square root of the number of words.
        return summed / jnp.sqrt(lengths)[:, None] + bias
