"""BERT and ELECTRA with the heads of Hugging Face's sequence classifiers; every model by name."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from sentiment_jax.config.schema import MODELS, EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.models.dropout import Dropout
from sentiment_jax.models.encoder import Embeddings, Encoder
from sentiment_jax.models.layers import gelu, product_precision
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.models.pretrainers import PRETRAINERS


def _head(config: EncoderConfig, deterministic: bool) -> tuple[Callable[..., nn.Dense], Dropout]:
    """Return a constructor of float32 dense layers for a head, and its dropout."""
    init = nn.initializers.normal(config.initializer_range)
    rate = config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout
    dense = functools.partial(nn.Dense, kernel_init=init, precision=product_precision(config.dtype))
    return dense, Dropout(rate, deterministic)


class ElectraHead(nn.Module):
    """ELECTRA's classification head: dropout, dense, exact GELU, dropout, output projection."""

    config: EncoderConfig
    classes: int
    deterministic: bool

    @nn.compact
    def __call__(self, first: Float[Array, "batch hidden"]) -> Float[Array, "batch classes"]:
        """Return the logits for the hidden state of the first token."""
        dense, dropout = _head(self.config, self.deterministic)
        inner = dense(self.config.hidden_size, name="dense")(dropout(first))
        return dense(self.classes, name="out_proj")(dropout(gelu(inner)))


class EncoderClassifier(nn.Module):
    """An encoder under ELECTRA's head, or BERT's: pooler, dropout and a linear classifier."""

    config: EncoderConfig
    classes: int = 2

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        perturbation: Float[Array, "batch length embedding"] | None = None,
        *,
        deterministic: bool,
    ) -> Float[Array, "batch classes"]:
        """Return logits; only the first `lengths` tokens of a row count.

        A `perturbation` is added to the words' embeddings.
        """
        config = self.config
        embeddings = Embeddings(config, deterministic, name="embeddings")
        hidden = embeddings(token_ids, perturbation=perturbation)
        states = Encoder(config, deterministic, name="encoder")(hidden, lengths)
        first = states[:, 0].astype(jnp.float32)
        if config.model_type == "electra":
            return ElectraHead(config, self.classes, deterministic, name="classifier")(first)
        dense, dropout = _head(config, deterministic)
        pooled = nn.tanh(dense(config.hidden_size, name="pooler")(first))
        return dense(self.classes, name="classifier")(dropout(pooled))


def build_model(
    settings: Mapping[str, Any], *, vocab_size: int, classes: int = 2, pretraining: bool = False
) -> nn.Module:
    """Build the classifier that a config's `model` group describes, with a logit for each class.

    In `pretraining` it has the heads of that instead.
    None stands for a field's default. A `vocab_size` in `settings` is that of pretrained weights,
    the other one the tokenizer's: an InputError if it is larger.
    """
    name, elsewhere = settings["name"], ("name", "pretrained", "revision")
    chosen = {k: v for k, v in settings.items() if v is not None and k not in elsewhere}
    if name not in MODELS:
        raise InputError(f"model.name={name!r} is unknown; choose from {', '.join(MODELS)}")
    table = chosen.setdefault("vocab_size", vocab_size)
    if vocab_size > table:
        raise InputError(
            f"the tokenizer has {vocab_size} entries but the embedding table only {table}; "
            "use the tokenizer that the weights were trained with"
        )
    if name != "lstm":
        chosen.setdefault("embedding_size", chosen.get("hidden_size", EncoderConfig.hidden_size))
        chosen["model_type"] = name
    config = MODELS[name](**chosen)
    classifier = LstmClassifier if name == "lstm" else EncoderClassifier
    return PRETRAINERS[name](config) if pretraining else classifier(config, classes)
