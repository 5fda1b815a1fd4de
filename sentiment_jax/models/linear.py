"""A linear classifier of n-grams of words and characters.

A text is a bag of n-grams, whose weights are summed, as in fastText's supervised mode without a
hidden layer: Joulin et al. (2017), https://arxiv.org/abs/1607.01759.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sentiment_jax.config.schema import NgramConfig
from sentiment_jax.models.layers import Lengths

CHARACTER_SCALE = 0.25  # a word has some 16 character n-grams: their sum is as large as one weight


def embed_positions(
    embed: Callable[[Array], Array], token_ids: Int[Array, "batch length *ngrams"]
) -> Float[Array, "batch length classes"]:
    """Return each position's weights: the word's, its bigram's and its character n-grams', scaled.

    A third axis of ids holds them in this order, 0 for none; without it there are words only.
    """
    vectors = embed(token_ids)
    if token_ids.ndim == 2:
        return vectors
    scales = jnp.where(jnp.arange(token_ids.shape[2]) < 2, 1.0, CHARACTER_SCALE)
    return jnp.sum(vectors * (scales * (token_ids > 0))[..., None], axis=2)


class NgramClassifier(nn.Module):
    """Weights of words and n-grams, one per class, summed. Padding never changes a logit.

    The sum is divided by the square root of the number of words, with which that of random weights
    would grow.
    """

    config: NgramConfig
    classes: int = 2

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length *ngrams"],
        lengths: Lengths,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch classes"]:
        """Return float32 logits; token ids are those of `embed_positions`."""
        zeros = nn.initializers.zeros
        rows = self.config.vocab_size + self.config.buckets
        weights = nn.Embed(rows, self.classes, embedding_init=zeros, name="embedding")
        summed = jnp.sum(embed_positions(weights, token_ids), axis=1)
        bias = self.param("bias", zeros, (self.classes,))
        return summed / jnp.sqrt(lengths)[:, None] + bias
