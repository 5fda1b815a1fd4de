"""The models of pre-training: BERT and ELECTRA with their heads, and an LSTM's word vectors.

The heads are Hugging Face's, to the last tensor: BertForMaskedLM (Devlin et al., 2019), and
ElectraForPreTraining beside the ElectraForMaskedLM that is its generator (Clark et al., 2020).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int

from sentiment_jax.config.schema import EncoderConfig, LstmConfig
from sentiment_jax.models.encoder import Embeddings, Encoder
from sentiment_jax.models.layers import (
    Dense,
    compute_dtype,
    einsum,
    gelu,
    layer_norm,
    product_precision,
)

Positions = Int[Array, "batch chosen"] | None  # of the tokens to predict; None: all


class TokenPredictionHead(nn.Module):
    """Dense, GELU, layer norm, and the product with the table of word embeddings (tied)."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, states: Float[Array, "batch chosen hidden"], table: Float[Array, "vocabulary width"]
    ) -> Float[Array, "batch chosen vocabulary"]:
        """Return float32 logits over the vocabulary."""
        config, dtype = self.config, compute_dtype(self.config.dtype)
        states = Dense(config, config.embedding_size, gelu, name="dense")(states)
        states = layer_norm(config, "layer_norm")(states)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        operands = states.astype(dtype), table.astype(dtype)
        return einsum("bce,ve->bcv", *operands, product_precision(config.dtype, dtype)) + bias


def _predict_tokens(
    config: EncoderConfig,
    deterministic: bool,
    hidden: Float[Array, "batch length hidden"],
    lengths: Int[Array, " batch"],
    positions: Positions,
    embeddings: nn.Module,
) -> Float[Array, "batch chosen vocabulary"]:
    """Run an encoder and a head, made in the module that calls, on embedded tokens."""
    encoder = Encoder(config, deterministic, first_only=False, name="encoder")
    table = embeddings.variables["params"]["word_embeddings"]["embedding"]
    name = "generator_predictions" if config.model_type == "electra" else "predictions"
    return TokenPredictionHead(config, name=name)(encoder(hidden, lengths, positions), table)


class MaskedLanguageModel(nn.Module):
    """An encoder that predicts tokens: a BERT, or an ELECTRA generator by itself."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        positions: Positions = None,
        *,
        deterministic: bool,
    ) -> Float[Array, "batch chosen vocabulary"]:
        """Return float32 logits over the vocabulary."""
        embeddings = Embeddings(self.config, deterministic, name="embeddings")
        hidden = embeddings(token_ids)
        return _predict_tokens(self.config, deterministic, hidden, lengths, positions, embeddings)


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
        lengths: Int[Array, " batch"],
        positions: Positions,
        embeddings: nn.Module,
    ) -> Float[Array, "batch chosen vocabulary"]:
        """Return float32 logits over the vocabulary."""
        config = self.config
        if config.embedding_size != config.hidden_size:
            embedded = Dense(config, config.hidden_size, name="projection")(embedded)
        return _predict_tokens(config, self.deterministic, embedded, lengths, positions, embeddings)


def generator_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Extract the generator's parameters as those of a `MaskedLanguageModel`."""
    own = dict(params["generator"])
    shared = {name: leaf for name, leaf in params["embeddings"].items() if name != "projection"}
    projection = {"projection": own.pop("projection")} if "projection" in own else {}
    return {**own, "embeddings": {**shared, **projection}}


class DiscriminatorHead(nn.Module):
    """ELECTRA's discriminator head: dense, GELU, one logit per token."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, states: Float[Array, "batch length hidden"]) -> Float[Array, "batch length"]:
        """Return float32 logits of each token's being replaced."""
        inner = Dense(self.config, self.config.hidden_size, gelu, name="dense")(states)
        exact = dataclasses.replace(self.config, dtype="float32", attention="xla")
        return Dense(exact, 1, name="dense_prediction")(inner)[:, :, 0]


class ReplacedTokenDetectionModel(nn.Module):
    """An encoder that tells which tokens a smaller one, the generator, has replaced."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        positions: Positions = None,
        corrupt: Callable[[Array], Array] | None = None,
        *,
        deterministic: bool,
    ) -> tuple[
        Float[Array, "batch chosen vocabulary"],
        Float[Array, "batch length"],
        Int[Array, "batch length"],
    ]:
        """Return the generator's logits, the discriminator's, and the tokens that the latter read.

        Those are what `corrupt` makes of the former; without it, `token_ids`.
        """
        config = self.config
        embeddings = Embeddings(config, deterministic, name="embeddings")
        generator = Generator(generator_config(config), deterministic, name="generator")
        embedded = embeddings(token_ids, project=False)
        predicted = generator(embedded, lengths, positions, embeddings)
        read = token_ids if corrupt is None else corrupt(predicted)
        encoder = Encoder(config, deterministic, first_only=False, name="encoder")
        states = encoder(embeddings(read), lengths)
        detector = DiscriminatorHead(config, name="discriminator_predictions")
        return predicted, detector(states), read


class NgramEmbeddings(nn.Module):
    """The embedding that an LSTM reads, to be learned by itself: a vector for each word and run."""

    config: LstmConfig

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length *lengths"],
        lengths: Int[Array, " batch"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch length *lengths embedding"]:
        """Return the vectors of words and runs, at first all zero."""
        sizes = self.config.vocab_size, self.config.embedding_size
        return nn.Embed(*sizes, embedding_init=nn.initializers.zeros, name="embedding")(token_ids)


PRETRAINERS = {
    "bert": MaskedLanguageModel,
    "electra": ReplacedTokenDetectionModel,
    "lstm": NgramEmbeddings,
}
