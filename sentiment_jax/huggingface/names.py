"""Hugging Face's names for our modules and config fields, one entry per architecture."""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from sentiment_jax.config.schema import MODELS, settings_of
from sentiment_jax.errors import InputError

Values = dict[str, Any]  # of a config.json
# The suffix of the transformers class that opens an export, by objective, "" for a classifier.
TRANSFORMERS = {
    "": "ForSequenceClassification",
    "masked_language_modeling": "ForMaskedLM",
    "replaced_token_detection": "ForPreTraining",
}


@dataclasses.dataclass(frozen=True)
class Names:
    """An architecture's names in Hugging Face's folders."""

    root: str = ""  # before the names of the encoder's tensors
    classes: str = ""  # before ForSequenceClassification
    # Our modules -> theirs, without the root; * is the layer's index. Others keep their name.
    modules: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # likewise in config.json
    supported: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # its values, if fixed
    read: Callable[[Values], Values] = dict  # from other forms of config.json


BERT = Names(
    root="bert",
    classes="Bert",
    modules={
        "embeddings/layer_norm": "embeddings.LayerNorm",
        "embeddings/projection": "embeddings_project",
        "encoder/layer_*/attention/query": "encoder.layer.*.attention.self.query",
        "encoder/layer_*/attention/key": "encoder.layer.*.attention.self.key",
        "encoder/layer_*/attention/value": "encoder.layer.*.attention.self.value",
        "encoder/layer_*/attention/output": "encoder.layer.*.attention.output.dense",
        "encoder/layer_*/attention_norm": "encoder.layer.*.attention.output.LayerNorm",
        "encoder/layer_*/intermediate": "encoder.layer.*.intermediate.dense",
        "encoder/layer_*/output": "encoder.layer.*.output.dense",
        "encoder/layer_*/output_norm": "encoder.layer.*.output.LayerNorm",
        "pooler": "pooler.dense",
        "predictions": "cls.predictions",
        "predictions/dense": "cls.predictions.transform.dense",
        "predictions/layer_norm": "cls.predictions.transform.LayerNorm",
        "generator_predictions": "generator_lm_head",
        "generator_predictions/layer_norm": "generator_predictions.LayerNorm",
    },
    fields={
        "hidden_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    supported={"position_embedding_type": "absolute", "is_decoder": False},
)
ROBERTA = dataclasses.replace(
    BERT,
    root="roberta",
    classes="Roberta",
    modules={
        **BERT.modules,
        "predictions": "lm_head",
        "predictions/dense": "lm_head.dense",
        "predictions/layer_norm": "lm_head.layer_norm",
    },
    supported={**BERT.supported, "pad_token_id": 1},
)
DISTILBERT = Names(
    root="distilbert",
    classes="DistilBert",
    modules={
        "embeddings/layer_norm": "embeddings.LayerNorm",
        "encoder/layer_*/attention/query": "transformer.layer.*.attention.q_lin",
        "encoder/layer_*/attention/key": "transformer.layer.*.attention.k_lin",
        "encoder/layer_*/attention/value": "transformer.layer.*.attention.v_lin",
        "encoder/layer_*/attention/output": "transformer.layer.*.attention.out_lin",
        "encoder/layer_*/attention_norm": "transformer.layer.*.sa_layer_norm",
        "encoder/layer_*/intermediate": "transformer.layer.*.ffn.lin1",
        "encoder/layer_*/output": "transformer.layer.*.ffn.lin2",
        "encoder/layer_*/output_norm": "transformer.layer.*.output_layer_norm",
        "predictions": "vocab_projector",
        "predictions/dense": "vocab_transform",
        "predictions/layer_norm": "vocab_layer_norm",
    },
    fields={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_dropout": "dropout",
        "classifier_dropout": "seq_classif_dropout",
        "hidden_act": "activation",
    },
)


def _read_modernbert(values: Values) -> Values:
    """Return the values under the names that the model was published with."""
    # transformers 5 writes the kind of each layer, and the bases of the rotary embeddings by kind.
    kinds = ("full_attention", "sliding_attention")
    if (types := values.pop("layer_types", None)) is not None:
        full = [i for i, kind in enumerate(types) if kind == kinds[0]]
        every = full[1] if len(full) > 1 else len(types)
        wanted = [kinds[i % every > 0] for i in range(len(types))]
        if types != wanted or len(types) != values.get("num_hidden_layers"):
            raise InputError("layer_types: only layers 0, n, 2n, ... may be full_attention")
        values["global_attn_every_n_layers"] = every
    if (ropes := values.get("rope_parameters")) is not None:
        for kind, base in zip(kinds, ("global", "local"), strict=True):
            if (scaled := ropes[kind].get("rope_type", "default")) != "default":
                raise InputError(f"rope_type {scaled!r} is unknown, not 'default'")
            values[f"{base}_rope_theta"] = ropes[kind]["rope_theta"]
    return values


MODERNBERT = Names(
    root="model",
    classes="ModernBert",
    modules={
        "embeddings/word_embeddings": "embeddings.tok_embeddings",
        "embeddings/layer_norm": "embeddings.norm",
        "encoder/layer_*/attention_norm": "layers.*.attn_norm",
        "encoder/layer_*/qkv": "layers.*.attn.Wqkv",
        "encoder/layer_*/attention_output": "layers.*.attn.Wo",
        "encoder/layer_*/mlp_norm": "layers.*.mlp_norm",
        "encoder/layer_*/intermediate": "layers.*.mlp.Wi",
        "encoder/layer_*/output": "layers.*.mlp.Wo",
        "encoder/norm": "final_norm",
        "head_dense": "head.dense",
        "head_norm": "head.norm",
        "predictions": "decoder",
        "predictions/dense": "head.dense",
        "predictions/layer_norm": "head.norm",
    },
    fields={
        "hidden_dropout": "mlp_dropout",
        "hidden_act": "hidden_activation",
        "layer_norm_eps": "norm_eps",
    },
    supported={
        "classifier_activation": "gelu",
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "rope_scaling": None,
    },
    read=_read_modernbert,
)
NAMES = collections.defaultdict(  # without a Hugging Face form, tensors keep our names
    Names,
    {
        "bert": BERT,
        "electra": dataclasses.replace(BERT, root="electra", classes="Electra"),
        "distilbert": DISTILBERT,
        "roberta": ROBERTA,
        "xlm-roberta": dataclasses.replace(ROBERTA, classes="XLMRoberta"),
        "modernbert": MODERNBERT,
    },
)


def tensor_name(model: str, ours: str) -> str:
    """Return the name of a PyTorch tensor, without the root, for one of our flattened names."""
    module, _, leaf = ours.rpartition("/")
    index = "".join(re.findall(r"/layer_(\d+)", module))
    modules = NAMES[model].modules
    theirs = modules.get(re.sub(r"/layer_\d+", "/layer_*", module), module.replace("/", "."))
    return f"{theirs.replace('*', index)}.{'bias' if leaf == 'bias' else 'weight'}"


def config_fields(model: str) -> dict[str, str]:
    """Return config.json's name of each of our config fields that it holds."""
    config = MODELS[model]
    settings = settings_of(config)
    held = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in settings or settings[field.name].inherited
    ]
    return {name: name for name in held} | {"name": "model_type"} | dict(NAMES[model].fields)
