"""Hugging Face folders that must not load: each fault is named (rows 17, 19 and 20)."""

import json
import math

import golden
import numpy as np
import pytest
from flax import serialization

from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import weights


def without_root(tensors):
    return {name.removeprefix("bert.").removeprefix("electra."): v for name, v in tensors.items()}


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
    golden.rewrite(changed, change)
    with pytest.raises(InputError, match=r"^\S+model.safetensors does not fit .*" + message):
        golden.load_report(changed)


def test_a_flax_tensor_of_another_shape_is_refused(folder):
    changed = folder("flax_bert")
    path = changed / "flax_model.msgpack"
    tree = serialization.msgpack_restore(path.read_bytes())
    tree["bert"]["embeddings"]["word_embeddings"]["embedding"] = np.ones((60, 24), np.float32)
    path.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(InputError, match=r"misshapen: bert/emb\S+ \(60, 24\) for \(61, 24\)$"):
        golden.load_report(changed)


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
        weights.read_encoder_config(path.parent, "bert")
        weights.load_pretrained(path.parent, model.config, golden.fill(model, 7.0))
    assert "\n" not in str(caught.value)


def test_a_bit_flip_in_the_layout_never_loads_silently(folder):
    path = folder("bert") / "model.safetensors"
    content = bytearray(path.read_bytes())
    name = content.index(b"LayerNorm.bias")
    content[name] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="missing: .*LayerNorm.bias; unexplained: .*MayerNorm"):
        golden.load_report(path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "electra"}, "is of model_type 'electra', the config says .*'bert'"),
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
        weights.read_encoder_config(path.parent, "bert")


def test_settings_that_contradict_the_folder_are_compared_in_one_line():
    settings = {"name": "bert", "hidden_size": 768, "num_hidden_layers": 12}
    message = (
        "bert/config.json differs from config.model: hidden_size is 24 there and 768 in the "
        "config; num_hidden_layers is 3 there and 12 in the config$"
    )
    with pytest.raises(InputError, match=message):
        weights.resolve_encoder(settings, golden.FIXTURES / "bert")
    with pytest.raises(InputError, match="is of model_type 'bert'"):
        weights.resolve_encoder({"name": "electra"}, golden.FIXTURES / "bert")
