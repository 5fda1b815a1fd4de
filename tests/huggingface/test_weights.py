"""Loading Hugging Face folders: every spelling is read, what does not fit is named."""

import dataclasses
import json
import math
import re
from pathlib import Path
from unittest.mock import Mock

import golden
import jax
import numpy as np
import pytest
import runs
from flax import serialization, traverse_util
from reviews import refuses

from configs import bert
from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import weights
from sentiment_jax.modes.train import train
from sentiment_jax.training import compilation, fit


@pytest.mark.parametrize("name", golden.TORCH)
def test_other_spellings_are_read(folder, name):
    """TensorFlow's of layer norms, and an encoder's without the name of what it is in."""
    expected, report = golden.load_report(golden.FIXTURES / name)
    changed = folder(name)

    def spell(tensor):
        tensor = tensor.replace("LayerNorm.weight", "LayerNorm.gamma")
        tensor = tensor.replace("LayerNorm.bias", "LayerNorm.beta")
        return re.sub(r"^(bert|electra|distilbert|roberta|model)\.", "", tensor)

    golden.rewrite(changed, lambda tensors: {spell(k): v for k, v in tensors.items()})
    params, changed_report = golden.load_report(changed)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert changed_report == report


OLDER = ["cls.seq_relationship.weight", "cls.predictions.decoder.weight"]
OLDER += ["bert.embeddings.position_ids"]


@pytest.mark.parametrize(
    ("name", "more", "unused", "new"),
    [
        ("bert_masked", OLDER, r"cls\..+|.+\.position_ids", {"pooler", "classifier"}),
        ("electra_replaced", [], r"discriminator_predictions\..+", {"classifier"}),
        ("distilbert_masked", [], r"vocab_\w+\..+", {"pre_classifier", "classifier"}),
        ("roberta_masked", [], r"lm_head\..+", {"classifier"}),
        ("modernbert_masked", [], r"decoder\..+", {"classifier"}),  # the rest of its head is shared
    ],
)
def test_heads_of_pretraining_are_unused_the_classifiers_is_new(folder, name, more, unused, new):
    changed = folder(name)
    golden.rewrite(changed, lambda tensors: tensors | dict.fromkeys(more, np.ones(3, np.float32)))
    params, report = golden.load_report(changed)
    assert report.unused and all(re.fullmatch(unused, tensor) for tensor in report.unused)
    assert {*more} <= {*report.unused}
    assert golden.modules(report.new) == new
    assert all((leaf == 7.0).all() for head in new for leaf in jax.tree.leaves(params[head]))
    everything = traverse_util.flatten_dict(params, sep="/")
    assert sorted(report.new + report.loaded) == sorted(everything)


def test_flax_pretraining_heads_are_unused_too_and_shapes_compared(folder):
    path = folder("flax_electra") / "flax_model.msgpack"
    tree = serialization.msgpack_restore(path.read_bytes())
    del tree["classifier"]
    tree["discriminator_predictions"] = {"dense": {"kernel": np.ones((2, 2), np.float32)}}
    path.write_bytes(serialization.msgpack_serialize(tree))
    _, report = golden.load_report(path.parent)
    assert report.unused == ("discriminator_predictions/dense/kernel",)
    assert golden.modules(report.new) == {"classifier"}
    tree["electra"]["embeddings"]["word_embeddings"]["embedding"] = np.ones((60, 24), np.float32)
    path.write_bytes(serialization.msgpack_serialize(tree))
    refuses(r"misshapen: electra/\S+ \(60, 24\) for \(61, 10\)$", golden.load_report, path.parent)


def test_flax_weights_are_preferred_and_named_a_tokenizer_too(
    folder, tmp_path, capsys, monkeypatch
):
    source = folder("flax_bert")
    (source / "model.safetensors").write_bytes(b"not looked at")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "a", "good", "movie"]
    (source / "vocab.txt").write_text("\n".join(words) + "\n")
    small = {name: value for name, value in runs.SMALL.items() if "model" not in name}
    start = {"data.source": "sample", "data.max_length": 12, "model.pretrained": str(source)}
    config = override(bert.get_config(), small | runs.ONE_SHAPE | start)
    monkeypatch.setattr(compilation, "check_memory", Mock(return_value=0.0))
    monkeypatch.setattr(fit, "_train_epoch", Mock(side_effect=MemoryError))  # all is said
    with pytest.raises(MemoryError):
        train(config, tmp_path / "run")
    said = capsys.readouterr()
    assert re.search(r"\d+ loaded from flax_model.msgpack, not from model.safetensors\n", said.out)
    assert "warning: the tokenizer has 9 of the weights' 61 token types\n" in said.err


def test_config_values_are_read(folder):
    rates = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0.25}
    changed = golden.change_config(folder("electra_projection"), **rates)
    config = weights.read_encoder_config(changed)
    assert (config.hidden_dropout, config.attention_dropout) == (0.0, 0.25)
    assert (config.embedding_size, config.hidden_size, config.layer_norm_eps) == (10, 24, 1e-5)
    oldest = '{"hidden_size": 24, "num_attention_heads": 3}'  # without a type
    (changed / "config.json").write_text(oldest)
    config = weights.read_encoder_config(changed)
    assert (config.name, config.embedding_size) == ("bert", 24)


def test_settings_are_filled_from_the_folder_and_may_change_rates():
    given = {"name": "electra", "pretrained": "somewhere", "revision": "", "dtype": "bfloat16"}
    settings = {**given, "hidden_size": None, "hidden_dropout": 0.3, "vocab_size": 61}
    sizes = {"vocab_size": 61, "embedding_size": 10, "hidden_size": 24, "intermediate_size": 40}
    sizes |= {"num_hidden_layers": 3, "num_attention_heads": 3, "max_position_embeddings": 16}
    rates = {"hidden_dropout": 0.3, "attention_dropout": 0.1, "classifier_dropout": 0.3}
    resolved = weights.resolve_encoder(settings, golden.FIXTURES / "electra_projection")
    assert resolved == EncoderConfig(**given | sizes | rates, layer_norm_eps=1e-5)
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
    (tmp_path / "config.json").write_text(json.dumps(stated | {"num_attention_heads": 12}))
    resolved = weights.resolve_encoder({"name": "bert", "hidden_dropout": 0.3}, tmp_path)
    assert resolved.classifier_dropout == 0.1


QUERY = "bert.encoder.layer.1.attention.self.query.weight"
OUTPUT = "bert.encoder.layer.0.output.dense.weight"
ONE = np.ones(1, np.float32)
MISFITS = {  # tensors that are added or changed, None to remove one; what is said of them
    "missing": ({QUERY: None}, r"missing: encoder\.layer\.1\.attention\.self\.query\.weight$"),
    "half a head": ({"classifier.bias": None}, r"missing: classifier\.bias$"),
    "half a pooler": ({"bert.pooler.dense.weight": None}, r"missing: pooler\.dense\.weight$"),
    "extra": ({"bert.encoder.layer.3.output.dense.bias": ONE}, r"unexplained: bert.enc.*3"),
    "another root": (
        lambda tensors: {name.replace("bert.", "roberta."): v for name, v in tensors.items()},
        r"missing: .* and \d+ more; unexplained: .*roberta\.emb",
    ),
    "another head": ({"qa_outputs.weight": ONE}, r"unexplained: qa_outputs\.weight$"),
    "twice": ({"pooler.dense.weight": ONE}, r"unexplained: .*pooler\.dense\.weight$"),
    "misshapen": ({OUTPUT: np.transpose}, rf"misshapen: {OUTPUT} \(24, 40\) for \(40, 24\)$"),
    "three classes": ({"classifier.bias": np.ones(3, np.float32)}, r"\(3,\) for \(2,\)$"),
    "not a number": (
        {QUERY: lambda value: np.where(value == value[3, 4], np.nan, value)},
        rf"not finite floats: {QUERY}$",
    ),
    "integers": ({QUERY: lambda value: value.astype(np.int32)}, "not finite floats: "),
}


@pytest.mark.parametrize("fault", MISFITS)
def test_tensors_that_do_not_fit_are_listed(folder, fault):
    changes, message = MISFITS[fault]
    changed = folder("bert")

    def change(tensors):
        if callable(changes):
            return changes(tensors)
        new = {k: v(tensors[k]) if callable(v) else v for k, v in changes.items()}
        return {k: v for k, v in (tensors | new).items() if v is not None}

    golden.rewrite(changed, change)
    refuses(r"^\S+model.safetensors does not fit .*" + message, golden.load_report, changed)


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
    [("bert", "model.safetensors"), ("flax_bert", "flax_model.msgpack"), ("bert", "config.json")],
)
def test_damaged_files_are_named_as_what_they_are(folder, name, file, fault):
    model = golden.build(name)
    path = folder(name) / file
    path.write_bytes(path.read_bytes()[:fault] if isinstance(fault, int) else fault)
    said = f"{file} {NON_FILES[fault]}: download it again$"
    with pytest.raises(InputError, match=said) as caught:
        weights.read_encoder_config(path.parent)
        weights.load_pretrained(path.parent, model.config, golden.fill(model))
    assert "\n" not in str(caught.value)


YARN = {"full_attention": {"rope_type": "yarn"}}
OTHER_TYPE = "not one of bert, electra, distilbert, roberta, xlm-roberta, modernbert"
REFUSED = [
    ("bert", {"model_type": "gpt2"}, "is of model_type 'gpt2', " + OTHER_TYPE),
    ("bert", {"model_type": None}, OTHER_TYPE),
    ("bert", {"model_type": ["bert"]}, OTHER_TYPE),
    ("bert", {"position_embedding_type": "relative_key"}, "'relative_key' is unknown, not 'abs"),
    ("bert", {"hidden_act": "gelu_new"}, "hidden_act='gelu_new' is unknown"),
    ("bert", {"hidden_size": "24"}, "hidden_size can't be '24'"),
    ("bert", {"initializer_range": math.nan}, "initializer_range can't be nan"),
    ("bert", {"hidden_dropout_prob": math.inf}, "hidden_dropout_prob can't be inf"),
    ("bert", {"num_attention_heads": 5}, "model.hidden_size=24 is not divisible"),
    ("bert", {"num_attention_heads": None}, "num_attention_heads can't be None"),
    ("bert", {"vocab_size": 10**12}, "vocab_size can't be 1000000000000"),
    ("roberta", {"pad_token_id": 0}, "pad_token_id 0 is unknown, not 1"),
    ("roberta", {"is_decoder": True}, "is_decoder True is unknown, not False"),
    ("distilbert", {"activation": "relu"}, "hidden_act='relu' is unknown"),
    ("modernbert", {"attention_bias": True}, "attention_bias True is unknown, not False"),
    ("modernbert", {"hidden_activation": "silu"}, "hidden_act='silu' is unknown"),
    ("modernbert", {"layer_types": ["sliding_attention"] * 3}, "layer_types: only layers 0, n, 2n"),
    ("modernbert", {"layer_types": 3}, "is damaged .*: download it again"),
    ("modernbert", {"rope_parameters": YARN}, "rope_type 'yarn'"),
    ("modernbert", {"rope_parameters": "x"}, "is damaged .*: download it again"),
    ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling='max' is unknown"),
    ("modernbert", {"local_attention": -1}, "local_attention=-1 must be >= 2"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_configs_that_we_do_not_compute_are_refused(folder, name, change, message):
    changed = golden.change_config(folder(name), **change)
    refuses(rf"config\.json.*{message}", weights.read_encoder_config, changed)


def test_modernberts_two_forms_of_config_are_one(folder):
    """The one that it was published with, and transformers 5's."""
    changed = folder("modernbert")
    older = {"global_attn_every_n_layers": 2, "global_rope_theta": 8e4, "local_rope_theta": 5e3}
    thetas = {"full_attention": {"rope_theta": 8e4}, "sliding_attention": {"rope_theta": 5e3}}
    newer = {"layer_types": [*thetas, "full_attention"], "rope_parameters": thetas}
    read = weights.read_encoder_config(golden.change_config(changed, **newer))
    assert {name: getattr(read, name) for name in older} == older
    golden.change_config(changed, **dict.fromkeys(newer), **older)
    assert weights.read_encoder_config(changed) == read


def test_settings_that_contradict_the_folder_are_compared_in_one_line():
    settings = {"name": "bert", "hidden_size": 768, "num_hidden_layers": 12}
    message = (
        "bert/config.json differs from config.model: hidden_size is 24 there and 768 in the "
        "config; num_hidden_layers is 3 there and 12 in the config$"
    )
    refuses(message, weights.resolve_encoder, settings, golden.FIXTURES / "bert")


def test_the_folder_says_what_it_is():
    for name in golden.TORCH:
        resolved = weights.resolve_encoder({"name": "electra"}, golden.FIXTURES / name)
        assert resolved.name == name.partition("_")[0]
        assert resolved == golden.build(name).config
