"""Networks by name: logits of PyTorch and Flax, parameter counts, what a config may say."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.synthetic import model_config
from sentiment_jax.config.schema import MODELS, OBJECTIVES, EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.models import registry
from sentiment_jax.models.encoder import classification_layers
from sentiment_jax.models.registry import build_model
from sentiment_jax.training.parameters import abstract_params

ELECTRA_SMALL = {
    "name": "electra",
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
OF_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1}
MODERNBERT = {
    "name": "modernbert",
    "vocab_size": 50368,
    "num_hidden_layers": 22,
    "intermediate_size": 1152,
}


@pytest.mark.parametrize("name", golden.TORCH + golden.FLAX)
def test_logits_equal_hugging_faces(name):
    model, params = golden.load(name)
    expected = golden.read(name)
    logits = golden.logits(model, params, expected)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"name": "bert"}, 109_483_778),
        ({"name": "electra"}, 109_483_778),
        (ELECTRA_SMALL, 13_549_314),
        ({"name": "distilbert", "num_hidden_layers": 6}, 66_955_010),
        ({"name": "roberta", "vocab_size": 50265, **OF_ROBERTA}, 124_647_170),
        ({"name": "xlm-roberta", "vocab_size": 250002, **OF_ROBERTA}, 278_045_186),
        (MODERNBERT, 149_606_402),
    ],
)
def test_parameter_counts_are_the_published_models(settings, count):
    model = build_model(model_config(settings), vocab_size=30522)
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model))) == count


@pytest.mark.parametrize("name", ["bert", "electra"])
def test_the_heads_dropout_is_classifier_dropout(name):
    rates = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    batch = golden.read(name)
    active, params = golden.load(name, **rates, classifier_dropout=0.5)
    first, other = (golden.logits(active, params, batch, golden.key(seed)) for seed in (0, 1))
    assert np.abs(first - other).max() > 1e-3
    off, _ = golden.load(name, **rates, classifier_dropout=0.0)
    logits = golden.logits(off, params, batch, golden.key(0))
    np.testing.assert_allclose(logits, batch["logits"], rtol=0, atol=1e-5)
    inherited = EncoderConfig(hidden_dropout=0.25, classifier_dropout=None)
    assert classification_layers(inherited, deterministic=False)[1].rate == 0.25


def test_a_network_takes_the_vocabulary_from_the_tokenizer_and_defaults_from_the_schema():
    none = dict.fromkeys(("num_hidden_layers", "classifier_dropout", "embedding_size"))
    config = model_config({"name": "bert", "pretrained": "somewhere", **none, "hidden_size": 24})
    model = build_model(config, vocab_size=50)
    assert model.config == EncoderConfig(vocab_size=50, hidden_size=24, embedding_size=24)


def test_the_registry_has_the_names_and_objectives_of_the_schema():
    assert registry.ARCHITECTURES.keys() == MODELS.keys()
    for name, architecture in registry.ARCHITECTURES.items():
        config = model_config({"name": name})
        model = build_model(config, vocab_size=50)
        assert model.config == dataclasses.replace(config, vocab_size=50)
        assert isinstance(model, architecture.classifier)
        assert tuple(architecture.pretraining) == OBJECTIVES[name]
        for objective, network in architecture.pretraining.items():
            model = build_model(config, vocab_size=50, objective=objective)
            assert isinstance(model, network)
            assert architecture.transformers.keys() >= {"", objective} or name == "lstm"


def test_a_tokenizer_larger_than_the_embeddings_is_refused():
    config = EncoderConfig(vocab_size=61)
    assert build_model(config, vocab_size=60).config.vocab_size == 61
    with pytest.raises(InputError, match="tokenizer has 62 entries .* only 61"):
        build_model(config, vocab_size=62)


def test_parameters_have_the_names_of_earlier_checkpoints():
    params = golden.fill(golden.build("electra_projection"), 0.0)
    layer = params["encoder"]["layer_0"]
    assert {*layer} == {"attention", "attention_norm", "intermediate", "output", "output_norm"}
    assert {*layer["attention"]} == {"query", "key", "value", "output"}
    words = {f"{kind}_embeddings" for kind in ("word", "position", "token_type")}
    assert {*params["embeddings"]} == words | {"layer_norm", "projection"}
    assert {*params["classifier"]} == {"dense", "out_proj"}
