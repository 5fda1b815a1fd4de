"""Loading Hugging Face folders: every spelling is read, what does not fit is named."""

import dataclasses
import json
import math
import re
from pathlib import Path

import golden
import jax
import numpy as np
import pytest
import runs
from flax import serialization, traverse_util
from safetensors.numpy import load_file

from configs import bert
from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import weights
from sentiment_jax.modes.train import train


def assert_trees_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


SPELLINGS = {
    r"LayerNorm\.weight": "LayerNorm.gamma",
    r"LayerNorm\.bias": "LayerNorm.beta",
    r"^(bert|electra|distilbert|roberta|model)\.": "",
}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        (name, pattern)
        for name in golden.TORCH
        for pattern in SPELLINGS
        if name != "modernbert" or "LayerNorm" not in pattern  # it never had another spelling
    ],
)
def test_other_spellings_are_read(folder, name, pattern):
    expected, report = golden.load_report(golden.FIXTURES / name)
    changed = folder(name)
    before = load_file(changed / "model.safetensors")
    after = {re.sub(pattern, SPELLINGS[pattern], key): value for key, value in before.items()}
    assert after.keys() != before.keys()
    golden.rewrite(changed, lambda _: after)
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


def test_flax_pretraining_heads_are_unused_too_and_shapes_compared(folder):
    path = folder("flax_electra") / "flax_model.msgpack"
    tree = serialization.msgpack_restore(path.read_bytes())
    del tree["classifier"]
    tree["discriminator_predictions"] = {"dense": {"kernel": np.ones((2, 2), np.float32)}}
    path.write_bytes(serialization.msgpack_serialize(tree))
    _, report = golden.load_report(path.parent)
    assert report.unused == ("discriminator_predictions/dense/kernel",)
    assert {name.partition("/")[0] for name in report.new} == {"classifier"}
    tree["electra"]["embeddings"]["word_embeddings"]["embedding"] = np.ones((60, 24), np.float32)
    path.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(InputError, match=r"misshapen: electra/\S+ \(60, 24\) for \(61, 10\)$"):
        golden.load_report(path.parent)


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
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "a", "good", "movie"]
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
    config = weights.read_encoder_config(path.parent)
    assert config.hidden_dropout == 0.0
    assert config.attention_dropout == 0.25
    assert config.layer_norm_eps == 1e-5
    assert (config.embedding_size, config.hidden_size) == (10, 24)
    del values["embedding_size"], values["model_type"]
    path.write_text(json.dumps(values))
    assert weights.read_encoder_config(path.parent).embedding_size == 24


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
    without = weights.resolve_encoder({"name": "bert", "hidden_size": 24, "dtype": None}, None)
    sizes = (without.vocab_size, without.embedding_size, without.intermediate_size)
    assert sizes == (0, 24, 3072)


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


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def replaced(name, value):
    return lambda tensors: tensors | {name: value(tensors[name]) if callable(value) else value}


def with_another_root(tensors):
    return {name.replace("bert.", "roberta."): value for name, value in tensors.items()}


ONE = np.ones(1, np.float32)
MISFITS = {
    "missing": (without(QUERY), r"missing: encoder\.layer\.1\.attention\.self\.query\.weight$"),
    "half a head": (without("classifier.bias"), r"missing: classifier\.bias$"),
    "half a pooler": (without("bert.pooler.dense.weight"), r"missing: pooler\.dense\.weight$"),
    "extra": (replaced("bert.encoder.layer.3.output.dense.bias", ONE), r"unexplained: bert.enc.*3"),
    "another root": (with_another_root, r"missing: .* and \d+ more; unexplained: .*roberta"),
    "another head": (replaced("qa_outputs.weight", ONE), r"unexplained: qa_outputs\.weight$"),
    "twice": (replaced("pooler.dense.weight", ONE), r"unexplained: .*pooler\.dense\.weight$"),
    "misshapen": (
        replaced("bert.encoder.layer.0.output.dense.weight", lambda value: value.T),
        r"misshapen: bert\.encoder\.layer\.0\.output\.dense\.weight \(24, 40\) for \(40, 24\)$",
    ),
    "three classes": (replaced("classifier.bias", np.ones(3, np.float32)), r"\(3,\) for \(2,\)$"),
    "not a number": (
        replaced(QUERY, lambda value: np.where(value == value[3, 4], np.nan, value)),
        r"not finite floats: bert\.encoder\.layer\.1\.attention\.self\.query\.weight$",
    ),
    "integers": (replaced(QUERY, lambda value: value.astype(np.int32)), "not finite floats: "),
}


@pytest.mark.parametrize("fault", MISFITS)
def test_tensors_that_do_not_fit_are_listed(folder, fault):
    change, message = MISFITS[fault]
    changed = folder("bert")
    golden.rewrite(changed, change)
    with pytest.raises(InputError, match=r"^\S+model.safetensors does not fit .*" + message):
        golden.load_report(changed)


NON_FILES = {  # what stands in the file's place, or where the file is cut off
    b"": "is empty",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "is a Git-LFS pointer, not .*",
    b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>": "is an HTML page, not .*",
    -100: "is truncated or damaged .*",
    20: "is truncated or damaged .*",
}


@pytest.mark.parametrize("fault", NON_FILES, ids=NON_FILES.values())
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bert", "model.safetensors"),
        ("flax_bert", "flax_model.msgpack"),
        ("bert", "config.json"),
    ],
)
def test_damaged_files_are_named_as_what_they_are(folder, name, file, fault):
    model = golden.build(name)
    path = folder(name) / file
    path.write_bytes(path.read_bytes()[:fault] if isinstance(fault, int) else fault)
    said = f"{file} {NON_FILES[fault]}: download it again$"
    with pytest.raises(InputError, match=said) as caught:
        weights.read_encoder_config(path.parent)
        weights.load_pretrained(path.parent, model.config, golden.fill(model, 7.0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "is of model_type 'gpt2', not one of bert, electra, distilb"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' is unknown"),
        ({"hidden_act": "gelu_new"}, "config.json: hidden_act='gelu_new' is unknown"),
        ({"hidden_size": "24"}, "hidden_size can't be '24'"),
        ({"initializer_range": math.nan}, "initializer_range can't be nan"),  # row 47
        ({"hidden_dropout_prob": math.inf}, "hidden_dropout_prob can't be inf"),
        ({"num_attention_heads": 5}, "config.json: model.hidden_size=24 is not divisible"),
    ],
)
def test_configs_of_other_models_are_refused(folder, change, message):
    path = folder("bert") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        weights.read_encoder_config(path.parent)


def test_settings_that_contradict_the_folder_are_compared_in_one_line():
    settings = {"name": "bert", "hidden_size": 768, "num_hidden_layers": 12}
    message = (
        "bert/config.json differs from config.model: hidden_size is 24 there and 768 in the "
        "config; num_hidden_layers is 3 there and 12 in the config$"
    )
    with pytest.raises(InputError, match=message):
        weights.resolve_encoder(settings, golden.FIXTURES / "bert")


def test_the_folder_says_what_it_is():
    for name in golden.TORCH:
        resolved = weights.resolve_encoder({"name": "electra"}, golden.FIXTURES / name)
        assert resolved.name == name.partition("_")[0]
        assert resolved == golden.build(name).config
