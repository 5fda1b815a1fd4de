"""All that the package knows about an architecture by its name: one entry each."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from sentiment_jax.config.schema import MODELS, EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.models import encoder, lstm
from sentiment_jax.models.bert import BertClassifier, MaskedLanguageModel
from sentiment_jax.models.electra import (
    ElectraClassifier,
    ReplacedTokenDetectionModel,
    extract_generator,
)
from sentiment_jax.models.lstm import LstmClassifier, NgramEmbeddings


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture: its networks, and what other folders need to know about it."""

    classifier: Callable[..., nn.Module]  # from its config and the number of classes
    pretraining: Mapping[str, Callable[..., nn.Module]]  # by objective, the default first
    vocabulary: str  # learned without pretrained weights: "word_level" or "wordpiece"
    layerwise_multipliers: Callable[[Mapping[str, Any], float], Any]  # from params and decay
    # Prefixes, in Hugging Face's names, of tensors that pretrained weights may lack or have unused.
    heads: tuple[str, ...]
    # The suffix of the transformers class that opens an export, by objective, "" for a classifier.
    transformers: Mapping[str, str]
    # From config and parameters to those of the generator that was trained beside it.
    extract_generator: Callable[..., tuple[EncoderConfig, dict[str, Any]]] | None = None


ARCHITECTURES = {
    "bert": Architecture(
        classifier=BertClassifier,
        pretraining={"masked_language_modeling": MaskedLanguageModel},
        vocabulary="wordpiece",
        layerwise_multipliers=encoder.layerwise_multipliers,
        heads=("classifier.", "pooler.", "cls."),
        transformers={
            "": "ForSequenceClassification",
            "masked_language_modeling": "ForMaskedLM",
        },
    ),
    "electra": Architecture(
        classifier=ElectraClassifier,
        pretraining={"replaced_token_detection": ReplacedTokenDetectionModel},
        vocabulary="wordpiece",
        layerwise_multipliers=encoder.layerwise_multipliers,
        # the last is the generator inside the pre-training run that trained it, or its head
        heads=("classifier.", "discriminator_predictions.", "generator"),
        transformers={
            "": "ForSequenceClassification",
            "replaced_token_detection": "ForPreTraining",
            "masked_language_modeling": "ForMaskedLM",  # of the generator
        },
        extract_generator=extract_generator,
    ),
    "lstm": Architecture(
        classifier=LstmClassifier,
        pretraining={"ngram_vectors": NgramEmbeddings},
        vocabulary="word_level",
        layerwise_multipliers=lstm.layerwise_multipliers,
        heads=("classifier.", "dense.", "forward.", "backward."),
        transformers={},
    ),
}


def build_model(
    settings: Mapping[str, Any], *, vocab_size: int, classes: int = 2, objective: str = ""
) -> nn.Module:
    """Build the network that a config's `model` group describes.

    Args:
      settings: the group; None stands for a field's default.
      vocab_size: the number of the tokenizer's entries. A `vocab_size` in `settings` is that of
        pretrained weights.
      classes: the number of logits.
      objective: that of pre-training, whose heads replace the classifier; "" to classify.

    Raises:
      InputError: the name is unknown, or the tokenizer has more entries than pretrained weights.
    """
    name = settings["name"]
    if name not in ARCHITECTURES:
        raise InputError(f"model.name={name!r} is unknown; choose from {', '.join(ARCHITECTURES)}")
    elsewhere = ("name", "pretrained", "revision")
    chosen = {k: v for k, v in settings.items() if v is not None and k not in elsewhere}
    table = chosen.setdefault("vocab_size", vocab_size)
    if vocab_size > table:
        raise InputError(
            f"the tokenizer has {vocab_size} entries but the embedding table only {table}; "
            "use the tokenizer that the weights were trained with"
        )
    if MODELS[name] is EncoderConfig:
        chosen["model_type"] = name
        chosen.setdefault("embedding_size", chosen.get("hidden_size", EncoderConfig.hidden_size))
    config = MODELS[name](**chosen)
    if objective:
        return ARCHITECTURES[name].pretraining[objective](config)
    return ARCHITECTURES[name].classifier(config, classes)
