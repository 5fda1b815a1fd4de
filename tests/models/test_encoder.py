"""The encoder against PyTorch's numbers; masking, dropout and precision."""

import collections
import dataclasses
import functools
import re
import statistics

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import weights
from sentiment_jax.models import encoder, layers
from sentiment_jax.models.parameters import initializer
from sentiment_jax.models.registry import build_model

NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}


@functools.cache
def compute(name, **settings):
    """What a step computes without dropout: loss, logits, every module's output, gradients."""
    model, params = golden.load(name, **NO_DROPOUT, **settings)
    found, gradients = golden.differentiate(model, params, golden.read(name), golden.key(0))
    loss, (logits, outputs) = found
    return loss, logits, outputs, gradients


@pytest.mark.parametrize("name", golden.TORCH)
def test_hidden_states_and_logits_equal_pytorch(name):
    expected = golden.read(name)
    assert expected["hidden_states"].shape == (4, 4, 12, 24)
    _, logits, outputs, _ = compute(name)
    stack = outputs["encoder"]
    modules = [outputs["embeddings"], *(stack[f"layer_{i}"] for i in range(3))]
    modules[-1] = stack.get("norm", modules[-1])  # ModernBERT's last state is normalized
    *states, last = (module["__call__"][0] for module in modules)
    valid = np.arange(12) < expected["lengths"][:, None]  # RoBERTa gives padding another position
    for ours, theirs in zip(states, expected["hidden_states"][:3], strict=True):
        scale = max(1, theirs[valid].std())  # ModernBERT's are not normalized
        np.testing.assert_allclose(ours[valid], theirs[valid], rtol=0, atol=1e-5 * scale)
    first = expected["hidden_states"][3][:, :1]
    np.testing.assert_allclose(last[:, :1], first, rtol=0, atol=1e-5, strict=True)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-5, strict=True)


@pytest.mark.parametrize("name", golden.FLAX)
def test_logits_equal_those_of_hugging_faces_flax(name):
    """In evaluation, where rates of dropout do nothing."""
    model, params = golden.load(name)
    expected = golden.read(name)
    logits = golden.logits(model, params, expected)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((n, {}) for n in golden.TORCH), *((n, {"remat": True}) for n in ("bert", "modernbert"))],
)
def test_loss_and_gradients_equal_pytorch(name, settings):
    loss, _, _, gradients = compute(name, **settings)
    np.testing.assert_allclose(loss, golden.read(name)["loss"], rtol=1e-5)
    # gradients are stored under the parameters' names: the loader maps them
    folder = golden.FIXTURES / name / "gradients"
    model = golden.build(name)
    theirs, report = weights.load_pretrained(folder, model.config, golden.fill(model))
    assert report.new == ()
    golden.assert_gradients_equal(gradients, theirs)


def test_padding_changes_nothing():
    """In evaluation, where rates of dropout do nothing, as in a step without dropout."""
    model, params = golden.load("bert")
    batch = golden.read("bert")
    expected = compute("bert")[1]
    padded = jnp.pad(batch["token_ids"], ((0, 0), (0, 4)))
    garbage = jnp.where(jnp.arange(16) < batch["lengths"][:, None], padded, 7)
    for token_ids in (padded, garbage):
        logits = golden.logits(model, params, batch | {"token_ids": token_ids})
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6)


def test_rows_longer_than_the_position_table_are_refused():
    model, params = golden.load("bert")
    batch = {"token_ids": jnp.ones((1, 17), jnp.int32), "lengths": jnp.ones(1, jnp.int32)}
    with pytest.raises(ValueError, match="17 tokens exceed the 16 positions"):
        golden.logits(model, params, batch)


# What drops with the rates of attention weights, of states and of the head: in a layer, in a head.
WEIGHTS = 0.2
STATES = 0.1
HEAD = 0.3
BERT_LAYER = [("/attention/Dropout_0", WEIGHTS), ("/Dropout_0", STATES), ("/Dropout_0", STATES)]
DENSE_HEAD = [("classifier/Dropout_0", HEAD)] * 2
SITES = {
    "bert": (BERT_LAYER, [("Dropout_0", HEAD)]),
    "electra": (BERT_LAYER, DENSE_HEAD),
    "distilbert": (BERT_LAYER[:2], [("Dropout_0", HEAD)]),
    "roberta": (BERT_LAYER, DENSE_HEAD),
    "modernbert": (
        [("/Dropout_0", WEIGHTS), ("/Dropout_1", WEIGHTS), ("/Dropout_2", STATES)],
        [("Dropout_0", HEAD)],
    ),
}


@pytest.mark.parametrize("name", SITES)
def test_each_encoder_drops_where_hugging_faces_does(name):
    """In training alone. Flax folds a module's name into its key: renamed, old runs differ."""
    rates = {"attention_dropout": WEIGHTS, "hidden_dropout": STATES, "classifier_dropout": HEAD}
    model = golden.build(name, **rates)
    batch = golden.read(name)
    in_layer, in_head = SITES[name]
    expected = [("embeddings/Dropout_0", STATES)]
    for i in range(3):
        expected += [(f"encoder/layer_{i}{module}", rate) for module, rate in in_layer]
    assert golden.dropout_masks(model, batch, golden.key(0)) == expected + in_head
    assert golden.dropout_masks(model, batch, None) == []


def test_the_heads_dropout_is_that_of_the_layers_by_default():
    config = EncoderConfig(hidden_dropout=0.25, classifier_dropout=None)
    assert encoder.classification_layers(config, deterministic=False)[1].rate == 0.25


def test_dropout_masks_differ_between_layers_and_keys():
    model, params = golden.load("bert", **NO_DROPOUT | {"hidden_dropout": 0.5})
    batch = golden.read("bert")
    (_, (first, outputs)), _ = golden.differentiate(model, params, batch, golden.key(0))
    (_, (other, _)), _ = golden.differentiate(model, params, batch, golden.key(1))
    assert np.abs(first - other).max() > 1e-3
    modules = [outputs["embeddings"], *(outputs["encoder"][f"layer_{i}"] for i in range(3))]
    masks = [o == 0 for module in modules for o in module["Dropout_0"]["__call__"]]
    assert len(masks) == 7  # two in a layer: after attention and after the feed-forward network
    assert all(0.4 < mask.mean() < 0.6 for mask in masks)
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 7


def test_attention_dropout_drops_attention_weights():
    model, params = golden.load("bert", **NO_DROPOUT | {"attention_dropout": 0.5})
    batch = golden.read("bert")
    sampled = [golden.logits(model, params, batch, golden.key(seed)) for seed in range(4)]
    assert (np.std(sampled, axis=0) > 1e-3).all()  # in every row, the one of length 1 too


TYPE = r"tensor<[\dx]*x(\w+)>"
DOT = rf"stablehlo.dot_general.*: \({TYPE}, {TYPE}\) -> {TYPE}"


def test_bfloat16_is_near_float32_accumulates_in_it_and_leaves_float32_outside():
    model, params = golden.load("bert", dtype="bfloat16", **NO_DROPOUT)
    batch = golden.read("bert")
    arguments = (model, params, batch, golden.key(0))
    counts = collections.Counter(re.findall(DOT, golden.differentiate.lower(*arguments).as_text()))
    # a layer has 6 dense layers and 2 products of attention; each product has 2 gradients
    assert counts.pop(("bf16", "bf16", "f32")) == 3 * 8 * 3
    assert counts == {("f32", "f32", "f32"): 2 * 3}  # pooler and classifier
    (_, (logits, outputs)), gradients = golden.differentiate(*arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    difference = np.abs(logits - batch["logits"]).max()
    assert 1e-5 < difference < 0.05 * np.abs(batch["logits"]).max()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert outputs["encoder"]["layer_0"]["__call__"][0].dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpus_layer_is_the_plain_one_and_stores_the_scores_alone(dtype, monkeypatch):
    """What it rematerializes has the plain form's values and masks, to rounding."""
    rng = np.random.default_rng(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    rates = {"hidden_dropout": 0.0, "attention_dropout": 0.5}
    config = EncoderConfig(dtype=dtype, **sizes, **rates)
    layer = encoder.Layer(config, deterministic=False)
    lengths = jnp.asarray([9, 1])
    hidden = jnp.asarray(rng.normal(size=(2, 9, 32)), dtype)
    key = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = golden.draw(jax.eval_shape(layer.init, key, hidden, lengths), scale=0.2)

    def run():
        @jax.jit
        def differentiate(*operands):
            outputs, pullback = jax.vjp(
                lambda *operands: layer.apply(*operands, lengths, rngs=key), *operands
            )
            return pullback, (outputs, pullback(hidden))

        pullback, values = differentiate(variables, hidden)
        leaves = (leaf for leaf in jax.tree.leaves(pullback) if leaf.shape == (2, 4, 9, 9))
        return collections.Counter(str(leaf.dtype) for leaf in leaves), values

    stored, plain = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    stored_on_gpu, ours = run()
    # Scores and mask, and the dropped weights, which the product with the values needs.
    assert stored_on_gpu == collections.Counter(["float32", "bool", dtype])
    assert stored_on_gpu.total() < stored.total()
    tolerance = 1e-6 if dtype == "float32" else 2**-6
    for x, y in zip(*map(jax.tree.leaves, (ours, plain)), strict=True):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1, np.abs(y).max()))


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 4e-7), ("bfloat16", 2**-8)])
def test_gelu_is_x_times_the_normal_distribution(dtype, rounding):
    x = jnp.linspace(-6, 6, 241).astype(dtype)
    program = jax.jit(jax.vmap(jax.value_and_grad(layers.gelu)))
    assert "bitcast" not in str(jax.make_jaxpr(program)(x))  # jax 0.12's derivative of erf has one
    actual, slopes = program(x)
    assert actual.dtype == x.dtype
    normal = statistics.NormalDist()
    values = x.astype(float).tolist()
    exact = [v * normal.cdf(v) for v in values]
    np.testing.assert_allclose(actual.astype(float), exact, rtol=rounding, atol=1e-6)
    exact = [normal.cdf(v) + v * normal.pdf(v) for v in values]
    np.testing.assert_allclose(slopes.astype(float), exact, rtol=rounding, atol=1e-6)


def test_initial_weights_are_hugging_faces():
    config = golden.build("electra_projection").config
    assert config.initializer_range == 0.02
    shallow = build_model(dataclasses.replace(config, num_hidden_layers=1), vocab_size=61)
    params = initializer(shallow)(golden.key(0))
    for name, value in traverse_util.flatten_dict(params, sep="/").items():
        leaf = name.rpartition("/")[2]
        assert value.dtype == jnp.float32
        if leaf in ("bias", "scale"):
            np.testing.assert_array_equal(value, float(leaf == "scale"), err_msg=name)
        elif value.size > 400:
            assert 0.017 < np.std(value) < 0.023, name


def test_impossible_configs_are_refused():
    for fields, message in (
        ({"attention": "cudnn"}, "cudnn needs model.dtype=bfloat16 and .*float32"),
        ({"attention": "cudnn", "dtype": "bfloat16"}, "attention_dropout=0.0, .* 0.1"),
        ({"attention": "flash"}, "model.attention='flash' is unknown, choose xla, cudnn"),
        ({"dtype": "float16"}, "choose float32, bfloat16"),
        ({"hidden_act": "relu"}, "'relu' is unknown, choose gelu"),
        ({"hidden_size": 10}, "not divisible by model.num_attention_heads=12"),
        ({"num_hidden_layers": 0}, "model.num_hidden_layers=0 must be >= 1"),
        ({"hidden_dropout": 1.0}, "model.hidden_dropout=1.0 must be >= 0 and < 1"),
        ({"classifier_dropout": float("nan")}, "model.classifier_dropout=nan"),
    ):
        with pytest.raises(InputError, match=message):
            EncoderConfig(**fields)


@pytest.fixture
def kernels(monkeypatch):
    """Those that attention asks JAX for, on what seems a GPU; JAX's own stands in for each."""
    asked = []
    attend = jax.nn.dot_product_attention

    def attend_by_jax(*arguments, implementation, **options):
        asked.append(implementation)
        return attend(*arguments, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend_by_jax)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return asked


def self_attention(attention="cudnn", queries=16, length=16, width=8):
    """A module of four heads, its operands and the shapes of its parameters."""
    sizes = {"hidden_size": 4 * width, "num_attention_heads": 4, "attention_dropout": 0.0}
    config = EncoderConfig(dtype="bfloat16", attention=attention, **sizes)
    module = encoder.SelfAttention(config, deterministic=True)
    hidden = np.random.default_rng(0).normal(size=(4, length, 4 * width))
    hidden = jnp.asarray(hidden, jnp.bfloat16)
    operands = (hidden[:, :queries], hidden, jnp.asarray([length, 1, 5, 8]))
    return module, operands, jax.eval_shape(module.init, jax.random.key(0), *operands)


def test_cudnns_attention_is_the_plain_one(kernels):
    def differentiate(attention):
        module, operands, shapes = self_attention(attention)

        @jax.jit
        def run(params):
            outputs, pullback = jax.vjp(lambda p: module.apply(p, *operands), params)
            return outputs, pullback(operands[0])[0]

        outputs, gradients = run(golden.draw(shapes, scale=0.25))
        del gradients["params"]["key"]["bias"]  # rounding error alone: it cancels in the softmax
        return jax.tree.leaves((outputs, gradients))

    plain = differentiate("xla")
    assert kernels == []
    for ours, theirs in zip(differentiate("cudnn"), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * np.abs(theirs).max())
    assert set(kernels) == {"cudnn"}


@pytest.mark.parametrize(
    ("backend", "sizes", "asked"),
    [
        ("gpu", {}, ["cudnn"]),
        ("cpu", {}, []),
        ("gpu", {"queries": 1}, []),
        ("gpu", {"queries": 15, "length": 15}, []),
        ("gpu", {"length": 17}, []),
        ("gpu", {"width": 6}, []),
        ("gpu", {"width": 136}, []),
    ],
)
def test_cudnn_is_not_asked_for_what_it_refuses(backend, sizes, asked, kernels, monkeypatch):
    """Such as the last layer's one query: that goes the other way."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    self_attention(**sizes)
    assert kernels == asked
