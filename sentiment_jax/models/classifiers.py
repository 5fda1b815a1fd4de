"""BERT and ELECTRA with the heads of Hugging Face's sequence classifiers; every model by name."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from sentiment_jax.config import EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.models.dropout import Dropout
from sentiment_jax.models.encoder import Embeddings, Encoder
from sentiment_jax.models.layers import gelu

NUM_LABELS = 2


def _encode(
    config: EncoderConfig,
    token_ids: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    deterministic: bool,
) -> Float[Array, "batch hidden"]:
    """Return the last hidden state of [CLS], the first token, in float32 for the heads."""
    hidden = Embeddings(config, deterministic, name="embeddings")(token_ids)
    first = Encoder(config, deterministic, name="encoder")(hidden, lengths)
    return first.astype(jnp.float32)


def _head(config: EncoderConfig, deterministic: bool) -> tuple[Callable[..., nn.Dense], Dropout]:
    """Return a constructor of float32 dense layers for a head, and its dropout."""
    dense = functools.partial(
        nn.Dense, kernel_init=nn.initializers.normal(config.initializer_range)
    )
    rate = config.classifier_dropout
    rate = config.hidden_dropout if rate is None else rate
    return dense, Dropout(rate, deterministic=deterministic)


class BertClassifier(nn.Module):
    """BERT with its pooler, dropout and a linear classifier."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch 2"]:
        """Return logits; only the first `lengths` tokens of a row count."""
        dense, dropout = _head(self.config, deterministic)
        first = _encode(self.config, token_ids, lengths, deterministic)
        pooled = nn.tanh(dense(self.config.hidden_size, name="pooler")(first))
        return dense(NUM_LABELS, name="classifier")(dropout(pooled))


class ElectraHead(nn.Module):
    """ELECTRA's classification head: dropout, dense, exact GELU, dropout, output projection."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(self, first: Float[Array, "batch hidden"]) -> Float[Array, "batch 2"]:
        """Return the logits for the hidden state of the first token."""
        dense, dropout = _head(self.config, self.deterministic)
        inner = dense(self.config.hidden_size, name="dense")(dropout(first))
        inner = dropout(gelu(inner))
        return dense(NUM_LABELS, name="out_proj")(inner)


class ElectraClassifier(nn.Module):
    """ELECTRA's discriminator with Hugging Face's classification head."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        *,
        deterministic: bool,
    ) -> Float[Array, "batch 2"]:
        """Return logits; only the first `lengths` tokens of a row count."""
        first = _encode(self.config, token_ids, lengths, deterministic)
        return ElectraHead(self.config, deterministic, name="classifier")(first)


def build_model(settings: Mapping[str, Any], *, vocab_size: int) -> nn.Module:
    """Build the classifier that a config's `model` group describes.

    Args:
      settings: config.model; None stands for a field's default. A `vocab_size` in it is that of
        pretrained weights.
      vocab_size: number of entries of the tokenizer.

    Raises:
      InputError: unknown name, impossible sizes, or a tokenizer larger than the embedding table.
    """
    name = settings["name"]
    fields = {
        field: value
        for field, value in settings.items()
        if value is not None and field not in ("name", "pretrained", "revision")
    }
    table = fields.setdefault("vocab_size", vocab_size)
    if vocab_size > table:
        raise InputError(
            f"the tokenizer has {vocab_size} entries but the embedding table only {table}; "
            "use the tokenizer that the weights were trained with"
        )
    if name == "lstm":
        from sentiment_jax.config import LstmConfig
        from sentiment_jax.models.lstm import LstmClassifier

        return LstmClassifier(LstmConfig(**fields))
    if name in ("bert", "electra"):
        if "hidden_size" in fields:
            fields.setdefault("embedding_size", fields["hidden_size"])
        config = EncoderConfig(**{**fields, "model_type": name})
        return BertClassifier(config) if name == "bert" else ElectraClassifier(config)
    raise InputError(f"model.name={name!r} is unknown; choose from bert, electra, lstm")
