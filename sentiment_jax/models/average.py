"""A linear classifier of the average of n-gram embeddings that were learned from unlabeled text.

The average is weighted by smooth inverse frequency (SIF): Arora et al. (2017), A Simple but
Tough-to-Beat Baseline for Sentence Embeddings, https://openreview.net/forum?id=SyK00v5xx.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from sentiment_jax.config.schema import AverageConfig
from sentiment_jax.models import layers
from sentiment_jax.models.layers import Lengths, Logits, NgramTokens

SMOOTHING = 1e-4  # the frequency at which the weight is a half


def weigh(
    table: Float32[np.ndarray, "vocabulary embedding"],
    frequencies: Float32[np.ndarray, "vocabulary 1"],
    token_ids: Int32[np.ndarray, "tokens *columns"],
    offsets: Int64[np.ndarray, " texts_and_one"],
) -> Float32[np.ndarray, "vocabulary embedding"]:
    """Return SIF-weighted embeddings, their average over the unlabeled text subtracted from each.

    They are scaled so that the classifier's features of some texts, those of an
    encoding.Encoded, have a mean square of 1. Ids that the text does not have, those of [PAD] and
    [UNK] among them, get zeros.
    """
    weights = SMOOTHING / (SMOOTHING + frequencies)
    total = np.maximum(np.sum(frequencies * weights), 1e-12)  # all words may be unknown
    mean = np.sum(frequencies * weights * table, axis=0) / total
    weighted = weights * (table - mean) * (frequencies > 0)
    rows = np.split(token_ids.reshape(len(token_ids), -1), offsets[1:-1])
    square = np.mean([np.mean(weighted[row].sum(axis=(0, 1)) ** 2) / len(row) for row in rows])
    return (weighted / np.sqrt(np.maximum(square, 1e-12))).astype(np.float32)


def start(
    params: Mapping[str, Any],
    frequencies: Float32[np.ndarray, "vocabulary 1"],
    token_ids: Int32[np.ndarray, "tokens *columns"],
    offsets: Int64[np.ndarray, " texts_and_one"],
    odds: Float64[np.ndarray, " classes"],
) -> dict[str, Any]:
    """Return a classifier's first parameters, given those with a pre-training's embeddings.

    The embeddings are those of `weigh`, the bias is the logarithm of the odds of the classes.
    """
    table = weigh(np.asarray(params["embedding"]["embedding"]), frequencies, token_ids, offsets)
    bias = np.log(odds).astype(np.float32)
    return {"embedding": {"embedding": table}, "classifier": {**params["classifier"], "bias": bias}}


class AverageClassifier(nn.Module):
    """Embedding, sum over a text by the root of its length, logits. Padding changes no logit."""

    config: AverageConfig
    classes: int = 2

    @nn.compact
    def __call__(self, tokens: NgramTokens, lengths: Lengths, *, deterministic: bool) -> Logits:
        """Return float32 logits."""
        config = self.config
        zeros = nn.initializers.zeros
        size = config.embedding_size
        embed = nn.Embed(config.vocab_size, size, embedding_init=zeros, name="embedding")
        valid = jnp.arange(tokens.shape[1]) < lengths[:, None]
        total = jnp.sum(layers.embed_positions(embed, tokens) * valid[:, :, None], axis=1)
        precision = layers.product_precision("float32")
        dense = nn.Dense(self.classes, kernel_init=zeros, precision=precision, name="classifier")
        features = total / jnp.sqrt(lengths)[:, None]
        self.sow(*layers.FEATURES, features)
        return dense(features)
