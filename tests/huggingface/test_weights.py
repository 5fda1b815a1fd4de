"""Loading Hugging Face folders: every spelling read, the same numbers as PyTorch."""

import dataclasses
import json
import re
from pathlib import Path

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import serialization, traverse_util
from safetensors.numpy import load_file

from configs import bert
from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.huggingface import weights
from sentiment_jax.modes.train import train


def assert_trees_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", golden.TORCH + golden.FLAX)
def test_every_parameter_is_loaded_in_float32(name):
    params, report = golden.load_report(golden.FIXTURES / name)
    assert set(report.loaded) == set(traverse_util.flatten_dict(params, sep="/"))
    assert report.new == report.unused == ()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert not any((leaf == 7.0).any() for leaf in jax.tree.leaves(params))


def gamma_beta(tensors):
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }


def without_root(tensors):
    return {name.removeprefix("bert.").removeprefix("electra."): v for name, v in tensors.items()}


@pytest.mark.parametrize("change", [gamma_beta, without_root], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", golden.TORCH)
def test_other_spellings_are_read(folder, name, change):
    expected, report = golden.load_report(golden.FIXTURES / name)
    changed = folder(name)
    before = set(load_file(changed / "model.safetensors"))
    golden.rewrite(changed, change)
    assert set(load_file(changed / "model.safetensors")) != before
    params, changed_report = golden.load_report(changed)
    assert_trees_equal(params, expected)
    assert changed_report == report


HEADS_OF_PRETRAINING = {
    "bert": (
        "cls.predictions.bias",
        "cls.predictions.transform.LayerNorm.gamma",
        "cls.predictions.decoder.weight",
        "cls.seq_relationship.weight",
        "bert.embeddings.position_ids",
    ),
    "electra": (
        "discriminator_predictions.dense.weight",
        "discriminator_predictions.dense_prediction.bias",
        "electra.embeddings.position_ids",
    ),
}


@pytest.mark.parametrize("with_pooler", [True, False])
@pytest.mark.parametrize("name", ["bert", "electra"])
def test_pretraining_heads_are_unused_and_the_classifier_is_new(folder, name, with_pooler):
    changed = folder(name)

    def change(tensors):
        kept = {k: v for k, v in tensors.items() if not k.startswith("classifier")}
        if not with_pooler:
            kept = {k: v for k, v in kept.items() if "pooler" not in k}
        return kept | {k: np.ones(3, np.float32) for k in HEADS_OF_PRETRAINING[name]}

    golden.rewrite(changed, change)
    params, report = golden.load_report(changed)
    assert set(report.unused) == set(HEADS_OF_PRETRAINING[name])
    new = {part for part in ("classifier", "pooler") if part in params}
    if with_pooler:
        new -= {"pooler"}
    assert {name.partition("/")[0] for name in report.new} == new
    for head in new:
        assert all((leaf == 7.0).all() for leaf in jax.tree.leaves(params[head]))
    assert set(report.new).isdisjoint(report.loaded)
    everything = set(traverse_util.flatten_dict(params, sep="/"))
    assert set(report.new) | set(report.loaded) == everything


def test_flax_pretraining_heads_are_unused_too(folder):
    changed = folder("flax_electra")
    path = changed / "flax_model.msgpack"
    tree = serialization.msgpack_restore(path.read_bytes())
    del tree["classifier"]
    tree["discriminator_predictions"] = {"dense": {"kernel": np.ones((2, 2), np.float32)}}
    path.write_bytes(serialization.msgpack_serialize(tree))
    _, report = golden.load_report(changed)
    assert report.unused == ("discriminator_predictions/dense/kernel",)
    assert {name.partition("/")[0] for name in report.new} == {"classifier"}


def test_flax_weights_are_preferred(folder):
    both = folder("flax_bert")
    expected, report = golden.load_report(both)
    assert report.files == "flax_model.msgpack"
    (both / "model.safetensors").write_bytes(b"not looked at")
    params, report = golden.load_report(both)
    assert_trees_equal(params, expected)
    assert report.files == "flax_model.msgpack, not from model.safetensors"  # row 47: reported


@pytest.mark.slow
def test_a_training_names_its_weights_and_a_smaller_tokenizer(folder, tmp_path, capsys):
    """Row 47: which of two files was read, and that a table has rows that no token uses."""
    source = folder("flax_bert")
    (source / "model.safetensors").write_bytes(b"not looked at")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "this", "is", "a", "good", "movie"]
    (source / "vocab.txt").write_text("\n".join(words) + "\n")
    small = {name: value for name, value in runs.SMALL.items() if "model" not in name}
    limits = {"data.max_length": 12, "data.source": "sample", "model.pretrained": str(source)}
    config = bert.get_config()
    config.update_from_flattened_dict(small | runs.ONE_SHAPE | limits | {"epochs": 1})
    train(config, tmp_path / "run")
    said = capsys.readouterr()
    assert re.search(r"\d+ loaded from flax_model.msgpack, not from model.safetensors\n", said.out)
    assert "warning: the tokenizer has 9 of the weights' 61 token types\n" in said.err


def test_config_values_are_read(folder):
    path = folder("electra_projection") / "config.json"
    values = json.loads(path.read_text())
    values |= {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0.25}
    path.write_text(json.dumps(values))
    config = weights.read_encoder_config(path.parent, "electra")
    assert config.hidden_dropout == 0.0
    assert config.attention_dropout == 0.25
    assert config.layer_norm_eps == 1e-5
    assert (config.embedding_size, config.hidden_size) == (10, 24)
    del values["embedding_size"], values["model_type"]
    path.write_text(json.dumps(values))
    assert weights.read_encoder_config(path.parent, "bert").embedding_size == 24


def test_settings_are_filled_from_the_folder_and_may_change_rates():
    given = {"name": "electra", "pretrained": "somewhere", "revision": "", "dtype": "bfloat16"}
    settings = {**given, "hidden_size": None, "hidden_dropout": 0.3, "vocab_size": 61}
    resolved = weights.resolve_encoder(settings, golden.FIXTURES / "electra_projection")
    of_folder = {
        "vocab_size": 61,
        "embedding_size": 10,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
        "layer_norm_eps": 1e-5,
    }
    rates = {"hidden_dropout": 0.3, "attention_dropout": 0.1, "classifier_dropout": 0.3}
    assert resolved == EncoderConfig(**given | of_folder | rates)
    # what a run records is complete without the folder
    assert weights.resolve_encoder(dataclasses.asdict(resolved), None) == resolved


def test_the_heads_dropout_follows_the_configs_not_the_source_runs(tmp_path):
    def head(there, **given):
        source = EncoderConfig(hidden_dropout=0.0, classifier_dropout=there)
        resolved = weights.resolve_encoder({"name": "bert", **given}, Path("run"), source)
        return resolved.classifier_dropout

    assert head(0.0, hidden_dropout=0.1) == 0.1  # the source's followed its own hidden_dropout
    assert head(0.0) == 0.0
    assert head(0.4, hidden_dropout=0.1) == 0.4  # chosen there
    assert head(0.0, hidden_dropout=0.1, classifier_dropout=0.3) == 0.3
    stated = {"hidden_dropout_prob": 0.1, "classifier_dropout": 0.1}  # by a folder, is no default
    (tmp_path / "config.json").write_text(json.dumps(stated))
    resolved = weights.resolve_encoder({"name": "bert", "hidden_dropout": 0.3}, tmp_path)
    assert resolved.classifier_dropout == 0.1


def test_settings_without_a_folder_get_the_defaults():
    settings = {"name": "bert", "hidden_size": 24, "num_attention_heads": 3, "dtype": None}
    resolved = weights.resolve_encoder(settings, None)
    assert resolved.vocab_size == 0
    assert resolved.embedding_size == 24
    assert resolved.intermediate_size == 3072
