"""ELECTRA (Clark et al., 2020): its classifier, and its discriminator with a generator beside it.

Its heads follow Hugging Face's ElectraForSequenceClassification, ElectraForPreTraining and, for
the generator, ElectraForMaskedLM.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.models import layers
from sentiment_jax.models.bert import BertClassifier, TokenLogits, TokenPredictionHead
from sentiment_jax.models.encoder import Embeddings, Encoder, classification_layers
from sentiment_jax.models.layers import Lengths, Logits, Pooled, Positions, States, TokenIds


class DenseHead(nn.Module):
    """The classification head of ELECTRA: dropout, dense, activation, dropout, projection."""

    config: EncoderConfig
    classes: int
    deterministic: bool
    activation: Callable[[Array], Array]

    @nn.compact
    def __call__(self, pooled: Pooled) -> Logits:
        """Return the logits for the pooled states."""
        dense, dropout = classification_layers(self.config, self.deterministic)
        inner = dense(self.config.hidden_size, name="dense")(dropout(pooled))
        return dense(self.classes, name="out_proj")(dropout(self.activation(inner)))


class ElectraClassifier(BertClassifier):
    """BERT's encoder under ELECTRA's classification head, by default with exact GELU."""

    activation: Callable[[Array], Array] = layers.gelu

    def head(self, pooled: Pooled, deterministic: bool) -> Logits:
        """Return the logits for the pooled states."""
        activation = self.activation
        head = DenseHead(self.config, self.classes, deterministic, activation, name="classifier")
        return head(pooled)


def generator_config(config: EncoderConfig) -> EncoderConfig:
    """Return the sizes of a discriminator's generator: as deep, a quarter as wide."""
    return dataclasses.replace(
        config,
        hidden_size=config.hidden_size // 4,
        intermediate_size=config.intermediate_size // 4,
        num_attention_heads=max(config.num_attention_heads // 4, 1),
    )


class Generator(nn.Module):
    """A masked language model on the embeddings of its discriminator."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        embedded: Float[Array, "batch length width"],
        lengths: Lengths,
        positions: Positions,
        embeddings: nn.Module,
    ) -> TokenLogits:
        """Return float32 logits over the vocabulary."""
        config = self.config
        if config.embedding_size != config.hidden_size:
            embedded = layers.Dense(config, config.hidden_size, name="projection")(embedded)
        encoder = Encoder(config, self.deterministic, first_only=False, name="encoder")
        head = TokenPredictionHead(config, name="generator_predictions")
        return head(encoder(embedded, lengths, positions), embeddings)


def extract_generator(
    config: EncoderConfig, params: Mapping[str, Any]
) -> tuple[EncoderConfig, dict[str, Any]]:
    """Return the generator's config and parameters, with the embeddings that it shares."""
    own = dict(params["generator"])
    embeddings = {name: x for name, x in params["embeddings"].items() if name != "projection"}
    if "projection" in own:
        embeddings["projection"] = own.pop("projection")
    return generator_config(config), {**own, "embeddings": embeddings}


class DiscriminatorHead(nn.Module):
    """ELECTRA's discriminator head: dense, GELU, one logit per token."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, states: States) -> Float[Array, "batch length"]:
        """Return the float32 log-odds that each token was replaced."""
        size = self.config.hidden_size
        inner = layers.Dense(self.config, size, layers.gelu, name="dense")(states)
        exact = dataclasses.replace(self.config, dtype="float32", attention="xla")
        return layers.Dense(exact, 1, name="dense_prediction")(inner)[:, :, 0]


class ReplacedTokenDetectionModel(nn.Module):
    """A discriminator that detects which tokens a smaller encoder, its generator, has replaced."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        token_ids: TokenIds,
        lengths: Lengths,
        positions: Positions = None,
        corrupt: Callable[[Array], Array] | None = None,
        *,
        deterministic: bool,
    ) -> tuple[TokenLogits, Float[Array, "batch length"], TokenIds]:
        """Return the generator's logits, the discriminator's, and the discriminator's tokens.

        `corrupt` makes these tokens from the generator's logits; by default they are `token_ids`.
        """
        config = self.config
        embeddings = Embeddings(config, deterministic, name="embeddings")
        generator = Generator(generator_config(config), deterministic, name="generator")
        embedded = embeddings(token_ids, project=False)
        predicted = generator(embedded, lengths, positions, embeddings)
        corrupted = token_ids if corrupt is None else corrupt(predicted)
        encoder = Encoder(config, deterministic, first_only=False, name="encoder")
        states = encoder(embeddings(corrupted), lengths)
        detector = DiscriminatorHead(config, name="discriminator_predictions")
        return predicted, detector(states), corrupted
