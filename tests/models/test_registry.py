"""Networks by name: parameter counts, what a config may say."""

import dataclasses
import hashlib

import pytest
from flax import traverse_util

from benchmarks.speed.synthetic import model_config
from sentiment_jax.config.schema import MODELS, OBJECTIVES, EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface.names import TRANSFORMERS
from sentiment_jax.models import registry
from sentiment_jax.models.parameters import abstract_params, count_parameters
from sentiment_jax.models.registry import build_model

ELECTRA_SMALL = {"name": "electra", "embedding_size": 128, "hidden_size": 256}
ELECTRA_SMALL |= {"num_attention_heads": 4, "intermediate_size": 1024}
OF_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1}
MODERNBERT = {"name": "modernbert", "vocab_size": 50368, "intermediate_size": 1152}


@pytest.mark.parametrize(
    ("settings", "depth", "count"),
    [
        ({"name": "bert"}, 12, 109_483_778),
        ({"name": "electra"}, 12, 109_483_778),
        (ELECTRA_SMALL, 12, 13_549_314),
        ({"name": "distilbert"}, 6, 66_955_010),
        ({"name": "roberta", "vocab_size": 50265, **OF_ROBERTA}, 12, 124_647_170),
        ({"name": "xlm-roberta", "vocab_size": 250002, **OF_ROBERTA}, 12, 278_045_186),
        (MODERNBERT, 22, 149_606_402),
    ],
)
def test_parameter_counts_are_the_published_models(settings, depth, count):
    """Layers are alike: one layer and two say what more of them have."""

    def size(layers):
        config = model_config(settings | {"num_hidden_layers": layers})
        return count_parameters(build_model(config, vocab_size=30522))

    assert size(1) + (depth - 1) * (size(2) - size(1)) == count


NAMES = {  # the first digits of the sha256 of all names
    "bert": "3e9f5ea5",
    "electra": "e42bae12",
    "distilbert": "f9cf5998",
    "roberta": "e42bae12",
    "xlm-roberta": "e42bae12",
    "modernbert": "e0c6686d",
    "lstm": "3dc8a218",
    "linear": "613af636",
    "average": "cdb1c1ea",
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_keep_their_names(name):
    """Renamed, those of a run directory written before could not be read."""
    tree = abstract_params(build_model(model_config({"name": name}), vocab_size=30))
    names = "\n".join(sorted(traverse_util.flatten_dict(tree, sep="/")))
    assert hashlib.sha256(names.encode()).hexdigest()[:8] == NAMES[name]


def test_the_registry_has_the_names_and_objectives_of_the_schema():
    """A network takes the vocabulary from the tokenizer, all else but the source from a config."""
    assert registry.ARCHITECTURES.keys() == MODELS.keys()
    for name, architecture in registry.ARCHITECTURES.items():
        config = model_config({"name": name, "pretrained": "somewhere"})
        model = build_model(config, vocab_size=50)
        assert model.config == dataclasses.replace(config, vocab_size=50, pretrained="")
        assert model == architecture.classifier(model.config)
        assert tuple(architecture.pretraining) == OBJECTIVES[name]
        for objective, network in architecture.pretraining.items():
            model = build_model(config, vocab_size=50, objective=objective)
            assert model == network(model.config)
            assert objective in TRANSFORMERS or name == "lstm"


def test_a_tokenizer_larger_than_the_embeddings_is_refused():
    config = EncoderConfig(vocab_size=61)
    assert build_model(config, vocab_size=60).config.vocab_size == 61
    with pytest.raises(InputError, match="tokenizer has 62 entries .* only 61"):
        build_model(config, vocab_size=62)
