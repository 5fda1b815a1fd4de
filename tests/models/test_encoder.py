"""The encoder against PyTorch's numbers; masking, dropout and precision."""

import collections
import re
import statistics

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import weights
from sentiment_jax.models import encoder, layers
from sentiment_jax.training.parameters import initializer

NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}


@pytest.mark.parametrize("name", golden.TORCH)
def test_hidden_states_equal_pytorch(name):
    model, params = golden.load(name)
    expected = golden.read(name)
    assert expected["hidden_states"].shape == (4, 4, 12, 24)
    *states, last = golden.hidden_states(model, params, expected)
    valid = np.arange(12) < expected["lengths"][:, None]  # RoBERTa gives padding another position
    for ours, theirs in zip(states, expected["hidden_states"][:3], strict=True):
        scale = max(1, theirs[valid].std())  # ModernBERT's are not normalized
        np.testing.assert_allclose(ours[valid], theirs[valid], rtol=0, atol=1e-5 * scale)
    first = expected["hidden_states"][3][:, :1]
    np.testing.assert_allclose(last[:, :1], first, rtol=0, atol=1e-5, strict=True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bert", NO_DROPOUT),
        ("bert", {**NO_DROPOUT, "remat": True}),
        ("electra_projection", NO_DROPOUT),  # without the projection, ELECTRA's encoder is BERT's
        ("distilbert", NO_DROPOUT),
        ("roberta", NO_DROPOUT),
        ("modernbert", NO_DROPOUT),
        ("modernbert", {**NO_DROPOUT, "remat": True}),
    ],
    ids=[
        "bert",
        "bert-remat",
        "electra",
        "distilbert",
        "roberta",
        "modernbert",
        "modernbert-remat",
    ],
)
def test_loss_and_gradients_equal_pytorch(name, settings):
    model, params = golden.load(name, **settings)
    expected = golden.read(name)

    def loss_function(params):
        logits = golden.logits(model, params, expected, golden.key(0))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, expected["labels"])
        return losses.mean()

    loss, gradients = jax.jit(jax.value_and_grad(loss_function))(params)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    # gradients are stored under the parameters' names: the loader maps them
    folder = golden.FIXTURES / name / "gradients"
    theirs, _ = weights.load_pretrained(folder, model.config, params)
    golden.assert_gradients_equal(gradients, theirs)


@pytest.mark.parametrize("settings", [{}, NO_DROPOUT], ids=["evaluation", "training"])
def test_padding_changes_nothing(settings):
    model, params = golden.load("bert", **settings)
    batch = golden.read("bert")

    def logits(token_ids):
        key = golden.key(0) if settings else None
        return golden.logits(model, params, batch | {"token_ids": token_ids}, key)

    expected = logits(batch["token_ids"])
    padded = jnp.pad(batch["token_ids"], ((0, 0), (0, 4)))
    np.testing.assert_allclose(logits(padded), expected, rtol=0, atol=2e-6)
    garbage = jnp.where(jnp.arange(16) < batch["lengths"][:, None], padded, 7)
    np.testing.assert_allclose(logits(garbage), expected, rtol=0, atol=2e-6)
    # and a token within the length does count
    assert np.abs(logits(garbage.at[:, 0].set(7)) - expected).max(axis=1).min() > 1e-3


def test_rows_longer_than_the_position_table_are_refused():
    model, params = golden.load("bert")
    batch = {"token_ids": jnp.ones((1, 17), jnp.int32), "lengths": jnp.ones(1, jnp.int32)}
    with pytest.raises(ValueError, match="17 tokens exceed the 16 positions"):
        golden.logits(model, params, batch)


def test_dropout_masks_differ_between_layers_and_keys():
    model, params = golden.load("bert", **{**NO_DROPOUT, "hidden_dropout": 0.5})
    batch = golden.read("bert")
    first, other = (golden.logits(model, params, batch, golden.key(seed)) for seed in (0, 1))
    assert np.abs(first - other).max() > 1e-3
    layers = golden.intermediates(model, params, batch, golden.key(0))["encoder"]
    masks = [o == 0 for i in range(3) for o in layers[f"layer_{i}"]["Dropout_0"]["__call__"]]
    assert len(masks) == 6  # after attention and after the feed-forward network
    assert all(0.4 < mask.mean() < 0.6 for mask in masks)
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 6


def test_attention_dropout_drops_attention_weights():
    model, params = golden.load("bert", **NO_DROPOUT | {"attention_dropout": 0.5})
    batch = golden.read("bert")
    sampled = [golden.logits(model, params, batch, golden.key(seed)) for seed in range(4)]
    assert (np.std(sampled, axis=0) > 1e-3).all()  # in every row, the one of length 1 too
    np.testing.assert_allclose(golden.logits(model, params, batch), batch["logits"], atol=1e-5)


TYPE = r"tensor<[\dx]*x(\w+)>"
DOT = rf"stablehlo.dot_general.*: \({TYPE}, {TYPE}\) -> {TYPE}"


def test_bfloat16_products_accumulate_in_float32_forward_and_backward():
    model, params = golden.load("bert", dtype="bfloat16")
    batch = golden.read("bert")

    def total(params):
        return golden.logits(model, params, batch, golden.key(0)).sum()

    counts = collections.Counter(re.findall(DOT, jax.jit(jax.grad(total)).lower(params).as_text()))
    # a layer has 6 dense layers and 2 products of attention, each with 2 gradients
    assert counts.pop(("bf16", "bf16", "f32")) == 3 * 8 * 3
    # pooler and classifier, whose own value no gradient needs
    assert counts == {("f32", "f32", "f32"): 5}


def test_bfloat16_is_near_float32_and_leaves_float32_outside():
    model, params = golden.load("bert", dtype="bfloat16", **NO_DROPOUT)
    batch = golden.read("bert")

    @jax.jit
    def value_and_gradients(params):
        def total(params):
            logits = golden.logits(model, params, batch, golden.key(0))
            return logits.sum(), logits

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, logits), gradients = value_and_gradients(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    difference = np.abs(logits - batch["logits"]).max()
    assert 1e-5 < difference < 0.05 * np.abs(batch["logits"]).max()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    layer = golden.intermediates(model, params, batch)["encoder"]["layer_0"]
    assert layer["__call__"][0].dtype == jnp.bfloat16


def test_dense_layers_of_a_gpu_round_their_product_before_the_bias(monkeypatch):
    """Which differs from a CPU's by one rounding to bfloat16; gradients do not differ."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(2, 4, 64)), jnp.bfloat16)
    kernel, bias = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((64, 9), 9))
    dense = layers.Dense(EncoderConfig(dtype="bfloat16"), 9)

    def run():
        variables = {"params": {"kernel": kernel, "bias": bias}}
        outputs, pullback = jax.vjp(lambda v: dense.apply(v, inputs), variables)
        return outputs, pullback(inputs[..., :9])

    plain, expected = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    outputs, gradients = run()
    assert outputs.dtype == plain.dtype == jnp.bfloat16
    assert (outputs != plain).any()
    outputs, plain = (np.asarray(array, np.float32) for array in (outputs, plain))
    product = np.abs(plain - bias)  # three roundings: of a product, of an output, of the other
    assert (np.abs(outputs - plain) <= 1.01 * 2**-8 * (product + 2 * np.abs(plain))).all()
    jax.tree.map(np.testing.assert_array_equal, gradients, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpus_layer_is_the_plain_one_and_stores_the_scores_alone(dtype, monkeypatch):
    """What it rematerializes has the plain form's values and masks, to rounding."""
    rng = np.random.default_rng(0)
    config = EncoderConfig(
        dtype=dtype,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout=0.0,
        attention_dropout=0.5,
    )
    layer = encoder.Layer(config, deterministic=False)
    lengths = jnp.asarray([9, 1])
    hidden = jnp.asarray(rng.normal(size=(2, 9, 32)), dtype)
    key = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = layer.init(key, hidden, lengths)

    def run():
        outputs, pullback = jax.vjp(
            lambda *operands: layer.apply(*operands, lengths, rngs=key), variables, hidden
        )
        leaves = (leaf for leaf in jax.tree.leaves(pullback) if leaf.shape == (2, 4, 9, 9))
        stored = collections.Counter(str(leaf.dtype) for leaf in leaves)
        return stored, (outputs, pullback(hidden))

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


@pytest.mark.parametrize("spec", ["bli,io->blo", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd"])
def test_einsum_and_its_gradients_equal_jax(spec):
    sizes = dict(zip("bliohqkd", (2, 3, 5, 7, 4, 6, 8, 9), strict=True))
    rng = np.random.default_rng(0)

    def random(indices):
        return jnp.asarray(rng.normal(size=[sizes[i] for i in indices]), jnp.float32)

    a, b, out = spec.replace("->", ",").split(",")
    left, right, cotangent = random(a), random(b), random(out)
    ours, pullback = jax.vjp(lambda x, y: layers.einsum(spec, x, y), left, right)
    theirs, expected = jax.vjp(lambda x, y: jnp.einsum(spec, x, y), left, right)
    for x, y in zip((ours, *pullback(cotangent)), (theirs, *expected(cotangent)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 4e-7), ("bfloat16", 2**-8)])
def test_gelu_is_x_times_the_normal_distribution(dtype, rounding):
    x = jnp.linspace(-6, 6, 241).astype(dtype)
    normal = statistics.NormalDist()
    values = x.astype(float).tolist()
    exact = [v * normal.cdf(v) for v in values]
    actual = layers.gelu(x)
    assert actual.dtype == x.dtype
    np.testing.assert_allclose(actual.astype(float), exact, rtol=rounding, atol=1e-6)
    slopes = jax.vmap(jax.grad(lambda v: layers.gelu(v).astype(jnp.float32)))(x)
    exact = [normal.cdf(v) + v * normal.pdf(v) for v in values]
    np.testing.assert_allclose(slopes.astype(float), exact, rtol=rounding, atol=1e-6)


def test_initial_weights_are_hugging_faces():
    model = golden.build("electra_projection")
    params = initializer(model)(golden.key(0))
    assert model.config.initializer_range == 0.02
    for name, value in traverse_util.flatten_dict(params, sep="/").items():
        leaf = name.rpartition("/")[2]
        assert value.dtype == jnp.float32
        if leaf in ("bias", "scale"):
            np.testing.assert_array_equal(value, float(leaf == "scale"), err_msg=name)
        elif value.size > 400:
            assert 0.017 < value.std() < 0.023, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "cudnn"}, "cudnn needs model.dtype=bfloat16 and .*float32"),
        ({"attention": "cudnn", "dtype": "bfloat16"}, "attention_dropout=0.0, .* 0.1"),
        ({"attention": "flash"}, "model.attention='flash' is unknown, choose xla, cudnn"),
        ({"dtype": "float16"}, "choose float32, bfloat16"),
        ({"hidden_act": "relu"}, "only 'gelu'"),
        ({"hidden_size": 10}, "not divisible by model.num_attention_heads=12"),
        ({"num_hidden_layers": 0}, "model.num_hidden_layers=0 must be >= 1"),
        ({"hidden_dropout": 1.0}, "model.hidden_dropout=1.0 must be >= 0 and < 1"),
        ({"classifier_dropout": float("nan")}, "model.classifier_dropout=nan"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        EncoderConfig(**fields)


@pytest.mark.parametrize(
    ("queries", "length", "width", "fits"),
    [(16, 16, 8, True), (1, 16, 8, False), (15, 15, 8, False), (16, 16, 6, False)],
    ids=["even", "one query", "odd", "narrow heads"],
)
def test_cudnns_attention_is_the_plain_one(queries, length, width, fits, monkeypatch):
    """JAX's own stands in for cuDNN's; what that refuses, such as one query, goes the other way."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(4, length, 4 * width)), jnp.bfloat16)
    lengths = jnp.asarray([length, 1, 5, 8], jnp.int32)
    config = {"dtype": "bfloat16", "hidden_size": 4 * width, "num_attention_heads": 4}

    def outputs_and_gradients(attention):
        settings = EncoderConfig(**config, attention=attention, attention_dropout=0.0)
        module = encoder.SelfAttention(settings, deterministic=True)
        operands = hidden[:, :queries], hidden, lengths
        shapes = jax.eval_shape(module.init, jax.random.key(0), *operands)
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 4), shapes)

        @jax.jit
        def run(params):
            outputs, pullback = jax.vjp(lambda p: module.apply(p, *operands), params)
            return outputs, pullback(jnp.ones_like(outputs) * hidden[:, :queries])[0]

        outputs, gradients = run(params)
        del gradients["params"]["key"]["bias"]  # rounding error alone: it cancels in the softmax
        return jax.tree.leaves((outputs, gradients))

    given = []
    attend = jax.nn.dot_product_attention

    def by_jax(*arguments, implementation, **options):
        given.append(implementation)
        return attend(*arguments, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_jax)
    plain = outputs_and_gradients("cudnn")  # a CPU has no cuDNN
    assert given == []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for ours, theirs in zip(outputs_and_gradients("cudnn"), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.02 * np.abs(theirs).max())
    assert set(given) == ({"cudnn"} if fits else set())


def test_layerwise_multipliers_are_exact():
    _, params = golden.load("electra_projection")
    multipliers = encoder.layerwise_multipliers(params, 0.5)
    assert jax.tree.structure(multipliers) == jax.tree.structure(params)
    layers = {i: set(jax.tree.leaves(multipliers["encoder"][f"layer_{i}"])) for i in range(3)}
    assert layers == {0: {0.125}, 1: {0.25}, 2: {0.5}}
    assert set(jax.tree.leaves(multipliers["embeddings"])) == {0.0625}
    assert set(jax.tree.leaves(multipliers["classifier"])) == {1.0}
