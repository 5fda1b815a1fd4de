"""A linear classifier of TF-IDF weighted n-grams: scikit-learn's pipeline, as a network.

training/linear_model.py fits its weights. Each kind of n-gram, of words or of characters, is a
vector of its own, of length 1.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sentiment_jax.config.schema import LinearConfig
from sentiment_jax.models.layers import Lengths, Logits

KINDS = 2  # of n-grams


def split_columns(
    tokens: Int[Array, "batch length *columns"],
) -> tuple[Int[Array, "batch length"], Int[Array, "batch length"]]:
    """Return the ids and the counts of n-grams; ids alone are of n-grams that occur once."""
    if tokens.ndim == 3:
        return tokens[..., 0], tokens[..., 1]
    return tokens, jnp.ones_like(tokens)


def weigh(
    idf: Float[Array, "vocabulary kinds"], tokens: Int[Array, "batch length *columns"]
) -> Float[Array, "batch length"]:
    """Return the TF-IDF of each n-gram of a text, given its id and its count; of padding, 0.

    The term frequency is sublinear: 1 + log(count). An n-gram has the inverse document frequency 0
    in the column of the other kind.
    """
    ids, counts = split_columns(tokens)
    weights = (1 + jnp.log(jnp.maximum(counts, 1)))[..., None] * idf[ids]
    squares = jnp.sum(weights**2, axis=1, keepdims=True)
    return jnp.sum(weights / jnp.sqrt(jnp.where(squares > 0, squares, 1)), axis=-1)


class LinearClassifier(nn.Module):
    """A weight per n-gram and class, times the n-gram's TF-IDF, summed."""

    config: LinearConfig
    classes: int = 2
    activation: Callable[[Array], Array] = jax.nn.log_sigmoid

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch length *columns"], lengths: Lengths, *, deterministic: bool
    ) -> Logits:
        """Return float32 logits.

        Of more than two classes, each is a model against the rest, with a sigmoid: the softmax of
        their logarithms are its shares of the sum. In multi-label classification, the activation is
        the identity.
        """
        zeros = nn.initializers.zeros
        rows = self.config.vocab_size
        idf = self.param("idf", zeros, (rows, KINDS))
        kernel = self.param("kernel", zeros, (rows, self.classes))
        bias = self.param("bias", zeros, (self.classes,))
        ids, _ = split_columns(tokens)
        exact = jax.lax.Precision.HIGHEST
        # A text at a time: the weights of all their n-grams and classes would not fit the memory.
        scores = bias + jax.lax.map(
            lambda text: jnp.matmul(text[0], kernel[text[1]], precision=exact),
            (weigh(idf, tokens), ids),
        )
        return scores if self.classes == 2 else self.activation(scores)
