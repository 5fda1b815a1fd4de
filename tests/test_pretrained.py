"""Loading Hugging Face folders: every spelling read, every fault refused (rows 17 to 22)."""

import json
import os
import shutil
from pathlib import Path

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from safetensors.numpy import load_file, save_file

from sentiment_jax import pretrained
from sentiment_jax.errors import InputError
from sentiment_jax.models import classifiers


@pytest.fixture
def folder(tmp_path):
    """A copy of a fixture to damage: `folder("bert")`."""

    def copy(name):
        shutil.copytree(golden.FIXTURES / name, tmp_path / name)
        return tmp_path / name

    return copy


def rewrite(folder, change):
    """Passes a folder's tensors, as a dict, through `change`."""
    path = folder / "model.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in change(load_file(path)).items()}, path)


def load(folder, **settings):
    model = golden.build(folder, **settings)
    return pretrained.load_pretrained(folder, model.config, golden.fill(model, 7.0))


def assert_trees_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", golden.TORCH + golden.FLAX)
def test_every_parameter_is_loaded_in_float32(name):
    params, report = load(golden.FIXTURES / name)
    assert set(report.loaded) == set(traverse_util.flatten_dict(params, sep="/"))
    assert report.new == report.unused == ()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert not any((leaf == 7.0).any() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", ["bert", "flax_electra"])
def test_scanned_layers_are_the_same_stacked(name):
    loop, _ = load(golden.FIXTURES / name)
    scanned, report = load(golden.FIXTURES / name, scan_layers=True)
    assert report.new == report.unused == ()
    assert scanned["encoder"]["layers"]["output"]["kernel"].shape == (3, 40, 24)
    unstacked = pretrained.unstack_layers(scanned)
    assert_trees_equal(traverse_util.unflatten_dict(unstacked, sep="/"), loop)


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
    expected, report = load(golden.FIXTURES / name)
    changed = folder(name)
    before = set(load_file(changed / "model.safetensors"))
    rewrite(changed, change)
    assert set(load_file(changed / "model.safetensors")) != before
    params, changed_report = load(changed)
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

    rewrite(changed, change)
    params, report = load(changed)
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
    _, report = load(changed)
    assert report.unused == ("discriminator_predictions/dense/kernel",)
    assert {name.partition("/")[0] for name in report.new} == {"classifier"}


def test_flax_weights_are_preferred(folder):
    both = folder("flax_bert")
    expected, _ = load(both)
    (both / "model.safetensors").write_bytes(b"not looked at")
    assert_trees_equal(load(both)[0], expected)


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def replaced(name, value):
    return lambda tensors: tensors | {name: value(tensors[name]) if callable(value) else value}


ONE = np.ones(1, np.float32)
MISFITS = {
    "missing": (without(QUERY), r"missing: encoder\.layer\.1\.attention\.self\.query\.weight$"),
    "half a head": (without("classifier.bias"), r"missing: classifier\.bias$"),
    "half a pooler": (without("bert.pooler.dense.weight"), r"missing: pooler\.dense\.weight$"),
    "extra": (replaced("bert.encoder.layer.3.output.dense.bias", ONE), r"unexplained: bert.enc.*3"),
    "another root": (
        lambda tensors: {
            f"roberta.{without_root({k: 0}).popitem()[0]}": v for k, v in tensors.items()
        },
        r"missing: .* and \d+ more; unexplained: roberta",
    ),
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
    rewrite(changed, change)
    with pytest.raises(InputError, match=r"^\S+model.safetensors does not fit .*" + message):
        load(changed)


def test_a_flax_tensor_of_another_shape_is_refused(folder):
    changed = folder("flax_bert")
    path = changed / "flax_model.msgpack"
    tree = serialization.msgpack_restore(path.read_bytes())
    tree["bert"]["embeddings"]["word_embeddings"]["embedding"] = np.ones((60, 24), np.float32)
    path.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(InputError, match=r"misshapen: bert/emb\S+ \(60, 24\) for \(61, 24\)$"):
        load(changed)


NON_FILES = {
    "empty": (lambda content: b"", "is empty: download it again"),
    "Git-LFS": (
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
        "is a Git-LFS pointer, not the file itself: download it again",
    ),
    "page": (
        lambda content: b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>",
        "is an HTML page, not the file itself: download it again",
    ),
    "truncated": (
        lambda content: content[:-100],
        "(truncated or damaged|JSON).*: download it again",
    ),
    "header": (lambda content: content[:20], "(truncated or damaged|JSON).*: download it again"),
}


@pytest.mark.parametrize("fault", NON_FILES)
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bert", "model.safetensors"),
        ("flax_bert", "flax_model.msgpack"),
        ("bert", "config.json"),
    ],
)
def test_damaged_files_are_named_as_what_they_are(folder, name, file, fault):
    damage, message = NON_FILES[fault]
    model = golden.build(name)
    path = folder(name) / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{file} .*{message}$") as caught:
        pretrained.read_encoder_config(path.parent, "bert")
        pretrained.load_pretrained(path.parent, model.config, golden.fill(model, 7.0))
    assert "\n" not in str(caught.value)


def test_a_bit_flip_in_the_layout_never_loads_silently(folder):
    path = folder("bert") / "model.safetensors"
    content = bytearray(path.read_bytes())
    name = content.index(b"LayerNorm.bias")
    content[name] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="missing: .*LayerNorm.bias; unexplained: .*MayerNorm"):
        load(path.parent)


def test_config_values_are_read(folder):
    path = folder("electra_projection") / "config.json"
    values = json.loads(path.read_text())
    values |= {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0.25}
    path.write_text(json.dumps(values))
    config = pretrained.read_encoder_config(path.parent, "electra")
    assert config.hidden_dropout == 0.0
    assert config.attention_dropout == 0.25
    assert config.layer_norm_eps == 1e-5
    assert (config.embedding_size, config.hidden_size) == (10, 24)
    del values["embedding_size"], values["model_type"]
    path.write_text(json.dumps(values))
    assert pretrained.read_encoder_config(path.parent, "bert").embedding_size == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "electra"}, "is of model_type 'electra', the config says .*'bert'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' is unknown"),
        ({"hidden_act": "gelu_new"}, "config.json: model.hidden_act='gelu_new' is unknown"),
        ({"hidden_size": "24"}, "hidden_size can't be '24'"),
        ({"num_attention_heads": 5}, "config.json: model.hidden_size=24 is not divisible"),
    ],
)
def test_configs_of_other_models_are_refused(folder, change, message):
    path = folder("bert") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        pretrained.read_encoder_config(path.parent, "bert")


def test_settings_are_filled_from_the_folder_and_may_change_rates():
    settings = {
        "name": "electra",
        "pretrained": "somewhere",
        "revision": "",
        "dtype": "bfloat16",
        "hidden_size": None,
        "hidden_dropout": 0.3,
        "vocab_size": 61,
    }
    resolved = pretrained.resolve_encoder(settings, golden.FIXTURES / "electra_projection")
    assert resolved == {
        "name": "electra",
        "pretrained": "somewhere",
        "revision": "",
        "vocab_size": 61,
        "embedding_size": 10,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "hidden_dropout": 0.3,
        "attention_dropout": 0.1,
        "classifier_dropout": 0.3,
        "initializer_range": 0.02,
        "dtype": "bfloat16",
        "attention": "xla",
        "remat": False,
        "scan_layers": False,
    }
    # what is recorded in a run rebuilds the model by itself
    model = classifiers.build_model(resolved, vocab_size=61)
    assert pretrained.resolve_encoder(resolved, None) == resolved
    assert model == classifiers.build_model(json.loads(json.dumps(resolved)), vocab_size=61)


def test_settings_without_a_folder_get_the_defaults():
    settings = {"name": "bert", "hidden_size": 24, "num_attention_heads": 3, "vocab_size": None}
    resolved = pretrained.resolve_encoder(settings, None)
    assert resolved["vocab_size"] is None
    assert resolved["embedding_size"] == 24
    assert resolved["intermediate_size"] == 3072
    assert classifiers.build_model(resolved, vocab_size=9).config.vocab_size == 9


def test_settings_that_contradict_the_folder_are_compared_in_one_line():
    settings = {"name": "bert", "hidden_size": 768, "num_hidden_layers": 12}
    message = (
        "bert/config.json differs from config.model: hidden_size is 24 there and 768 in the "
        "config; num_hidden_layers is 3 there and 12 in the config$"
    )
    with pytest.raises(InputError, match=message):
        pretrained.resolve_encoder(settings, golden.FIXTURES / "bert")
    with pytest.raises(InputError, match="is of model_type 'bert'"):
        pretrained.resolve_encoder({"name": "electra"}, golden.FIXTURES / "bert")


LIVE = {
    "vocab_size": 83,
    "hidden_size": 40,
    "num_hidden_layers": 5,
    "num_attention_heads": 5,
    "intermediate_size": 96,
    "max_position_embeddings": 24,
    "initializer_range": 0.2,
}


def torch_output(model, batch):
    import torch

    mask = np.arange(batch["token_ids"].shape[1]) < np.asarray(batch["lengths"])[:, None]
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(np.asarray(batch["token_ids"])).long(),
            attention_mask=torch.tensor(mask).long(),
            output_hidden_states=True,
        )


@pytest.mark.parametrize("name", ["bert", "electra"])
def test_live_pytorch_computes_the_same(tmp_path, name):
    pytest.importorskip("torch", reason="the golden files hold what PyTorch computed")
    import torch
    import transformers

    torch.manual_seed(0)
    if name == "bert":
        theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**LIVE))
    else:
        config = transformers.ElectraConfig(**LIVE, embedding_size=12)
        theirs = transformers.ElectraForSequenceClassification(config)
    theirs.eval().save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    batch = {
        "token_ids": jnp.asarray(rng.integers(0, 83, (5, 24)), jnp.int32),
        "lengths": jnp.asarray([24, 1, 2, 23, 11], jnp.int32),
    }
    expected = torch_output(theirs, batch)
    model, params = golden.load(tmp_path)
    logits = golden.logits(model, params, batch)
    np.testing.assert_allclose(logits, expected.logits, rtol=0, atol=1e-5)
    hidden = golden.hidden_states(model, params, batch)
    for ours, states in zip(hidden, expected.hidden_states, strict=True):
        np.testing.assert_allclose(ours, states, rtol=0, atol=1e-5)


@pytest.mark.skipif(
    "SENTIMENT_JAX_MINILM" not in os.environ,
    reason="SENTIMENT_JAX_MINILM names the folder of all-MiniLM-L6-v2 where it is at hand",
)
def test_real_weights_compute_what_pytorch_computes():
    pytest.importorskip("torch")
    import transformers

    folder = Path(os.environ["SENTIMENT_JAX_MINILM"])
    model = golden.build(folder)
    params, report = pretrained.load_pretrained(folder, model.config, golden.fill(model, 7.0))
    assert len(report.loaded) == 103
    assert report.new == ("classifier/bias", "classifier/kernel")
    assert report.unused == ("embeddings.position_ids",)
    rng = np.random.default_rng(0)
    batch = {
        "token_ids": jnp.asarray(rng.integers(0, 30522, (4, 128)), jnp.int32),
        "lengths": jnp.asarray([128, 1, 77, 40], jnp.int32),
    }
    expected = torch_output(transformers.AutoModel.from_pretrained(folder).eval(), batch)
    hidden = golden.hidden_states(model, params, batch)
    differences = [
        float(np.abs(ours - states.numpy()).max())
        for ours, states in zip(hidden, expected.hidden_states, strict=True)
    ]
    print("max |difference| of the hidden states:", differences)
    assert max(differences) <= 1e-4
