"""The registry: one entry per architecture, with everything that depends on its name."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from sentiment_jax.config.schema import EncoderConfig, ModelConfig
from sentiment_jax.errors import InputError
from sentiment_jax.models import (
    average,
    bert,
    electra,
    encoder,
    layers,
    linear,
    lstm,
    modernbert,
    onnx_graph,
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture's networks, and the facts about it that other folders need."""

    classifier: Callable[..., nn.Module]  # from its config and the number of classes
    # Of multi-label texts, if it is another one.
    multi_label: Callable[..., nn.Module] | None = None
    # Prefixes, in Hugging Face's names, of tensors that pretrained weights may lack or have unused.
    heads: tuple[str, ...] = ()
    # By objective, the default first.
    pretraining: Mapping[str, Callable[..., nn.Module]] = dataclasses.field(default_factory=dict)
    packs: bool = False  # whether the classifier takes rows that hold several texts
    # Learned without pretrained weights; or "wordpiece", or "ngrams": a text is a bag of these.
    vocabulary: str = "word_level"
    # From parameters and optimizer.layerwise_decay to factors of the learning rate.
    layerwise_multipliers: Callable[[Mapping[str, Any], float], Any] = lambda params, decay: (
        jax.tree.map(lambda _: 1.0, params)
    )
    # From an embedding table and ids to each position's vector, which explanations attribute to.
    embed_positions: Callable[..., Any] = layers.embed_positions
    # From a pre-training's embeddings and word frequencies and the training texts to the first
    # parameters of a classifier; None: the embeddings are taken as they are.
    start: Callable[..., dict[str, Any]] | None = None
    # From config and parameters to the config and parameters of the generator beside it.
    extract_generator: Callable[..., tuple[EncoderConfig, dict[str, Any]]] | None = None
    graph: onnx_graph.Network | None = None  # of --mode=export --format=onnx


_encoder = functools.partial(
    Architecture,
    pretraining={"masked_language_modeling": bert.MaskedLanguageModel},
    packs=True,
    vocabulary="wordpiece",
    layerwise_multipliers=encoder.layerwise_multipliers,
    graph=onnx_graph.encoder,
)
# RoBERTa (Liu et al., 2019) and XLM-R (Conneau et al., 2020): ELECTRA's head with tanh.
ROBERTA = _encoder(
    functools.partial(electra.ElectraClassifier, activation=nn.tanh),
    heads=("classifier.", "pooler.", "lm_head."),
)
ARCHITECTURES = {
    "bert": _encoder(bert.BertClassifier, heads=("classifier.", "pooler.", "cls.")),
    "electra": _encoder(
        electra.ElectraClassifier,
        # the last is the generator inside the pre-training run that trained it, or its head
        heads=("classifier.", "discriminator_predictions.", "generator"),
        pretraining={"replaced_token_detection": electra.ReplacedTokenDetectionModel},
        extract_generator=electra.extract_generator,
    ),
    "distilbert": _encoder(  # Sanh et al. (2019): BERT's head with ReLU
        functools.partial(bert.BertClassifier, activation=nn.relu, first_dense="pre_classifier"),
        heads=("classifier.", "pre_classifier.", "vocab_"),
    ),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "modernbert": _encoder(
        modernbert.ModernBertClassifier,
        heads=("classifier.", "head.", "decoder."),
        packs=False,  # its local attention counts tokens from the start of a row
        pretraining={
            "masked_language_modeling": functools.partial(
                bert.MaskedLanguageModel, encoder=modernbert.ModernBertEncoder
            )
        },
        graph=onnx_graph.modernbert,
    ),
    "lstm": Architecture(
        lstm.LstmClassifier,
        heads=("classifier.", "dense.", "forward.", "backward."),
        pretraining={"ngram_vectors": lstm.NgramEmbeddings},
        layerwise_multipliers=lstm.layerwise_multipliers,
        graph=onnx_graph.lstm,
    ),
    "linear": Architecture(
        linear.LinearClassifier,
        multi_label=functools.partial(linear.LinearClassifier, activation=jax.nn.identity),
        vocabulary="ngrams",
    ),
    "average": Architecture(
        average.AverageClassifier,
        heads=("classifier.",),
        start=average.start,
        graph=onnx_graph.average,
    ),
}


def build_model(
    config: ModelConfig,
    *,
    vocab_size: int,
    classes: int = 2,
    objective: str = "",
    multi_label: bool = False,
) -> nn.Module:
    """Build the classifier of a config, or the network of a pre-training objective.

    InputError: the tokenizer's `vocab_size` exceeds that of pretrained weights.
    """
    rows = config.vocab_size or vocab_size
    if vocab_size > rows:
        raise InputError(
            f"the tokenizer has {vocab_size} entries but the embedding table only {rows}; "
            "use the tokenizer that the weights were trained with"
        )
    # Networks that differ in their weights' origin alone are equal: their steps compile once.
    config = dataclasses.replace(config, vocab_size=rows, pretrained="")
    architecture = ARCHITECTURES[config.name]
    if objective:
        return architecture.pretraining[objective](config)
    classifier = multi_label and architecture.multi_label or architecture.classifier
    return classifier(config, classes)
