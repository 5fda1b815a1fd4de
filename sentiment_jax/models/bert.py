"""BERT (Devlin et al., 2019): its classifier, and its masked language model.

Its heads follow Hugging Face's BertForSequenceClassification and BertForMaskedLM.
"""

from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.models import layers
from sentiment_jax.models.encoder import Embeddings, Encoder, classification_layers, mean_state
from sentiment_jax.models.layers import (
    FEATURES,
    Extent,
    Lengths,
    Logits,
    Packing,
    Pooled,
    Positions,
    States,
    TokenIds,
)

TokenLogits = Float[Array, "batch chosen vocabulary"]


class BertClassifier(nn.Module):
    """An encoder under BERT's head: pooler, dropout and a linear classifier.

    Unless `config.pooling` is head, dropout and the classifier alone read the first token's state
    or the mean of the tokens' states, in the mean of the highest `config.pooled_layers` layers.
    """

    config: EncoderConfig
    classes: int = 2
    activation: Callable[[Array], Array] = nn.tanh  # of the head's first dense layer
    first_dense: str = "pooler"  # its name
    encoder: ClassVar[type[Encoder]] = Encoder

    @nn.compact
    def __call__(
        self, tokens: Shaped[Array, "rows length *vectors"], extent: Extent, *, deterministic: bool
    ) -> Logits:
        """Return the logits of texts, one in each row or several."""
        places = extent.positions if isinstance(extent, Packing) else None
        embeddings = Embeddings(self.config, deterministic, name="embeddings")
        how = self.config.pooling
        averaged = 1 if how == "head" else self.config.pooled_layers
        encoder = self.encoder(self.config, deterministic, how != "mean", averaged, name="encoder")
        states = encoder(embeddings(tokens, places=places), extent)
        if how == "head":
            return self.head(self.pool(states, extent), deterministic)
        dense, dropout = classification_layers(self.config, deterministic)
        first = states[:, 0].astype(jnp.float32)
        features = dropout(mean_state(states, extent) if how == "mean" else first)
        self.sow(*FEATURES, features)
        return dense(self.classes, name="classifier")(features)

    def pool(self, states: States, extent: Extent) -> Pooled:
        """Return the first token's state."""
        return states[:, 0].astype(jnp.float32)

    def head(self, pooled: Pooled, deterministic: bool) -> Logits:
        """Return the logits for the pooled states."""
        dense, dropout = classification_layers(self.config, deterministic)
        inner = self.activation(dense(self.config.hidden_size, name=self.first_dense)(pooled))
        return dense(self.classes, name="classifier")(dropout(inner))


class TokenPredictionHead(nn.Module):
    """Dense, GELU, layer norm, and the product with the table of word embeddings (tied)."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, states: Float[Array, "batch chosen hidden"], embeddings: nn.Module
    ) -> TokenLogits:
        """Return float32 logits over the vocabulary, whose table is in `embeddings`."""
        config = self.config
        dtype = layers.compute_dtype(config.dtype)
        states = layers.Dense(config, config.embedding_size, layers.gelu, name="dense")(states)
        states = layers.layer_norm(config, "layer_norm")(states)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        table = embeddings.variables["params"]["word_embeddings"]["embedding"]
        precision = layers.product_precision(config.dtype, dtype)
        return layers.einsum("bce,ve->bcv", states, table.astype(dtype), precision) + bias


class MaskedLanguageModel(nn.Module):
    """An encoder that predicts tokens."""

    config: EncoderConfig
    encoder: type[Encoder] = Encoder

    @nn.compact
    def __call__(
        self,
        token_ids: TokenIds,
        lengths: Lengths,
        positions: Positions = None,
        *,
        deterministic: bool,
    ) -> TokenLogits:
        """Return float32 logits over the vocabulary."""
        embeddings = Embeddings(self.config, deterministic, name="embeddings")
        encoder = self.encoder(self.config, deterministic, first_only=False, name="encoder")
        states = encoder(embeddings(token_ids), lengths, positions)
        return TokenPredictionHead(self.config, name="predictions")(states, embeddings)
