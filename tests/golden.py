"""The tiny folders under fixtures/, as our models: what fixtures/make_*_golden.py wrote."""

import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from sentiment_jax.huggingface import weights
from sentiment_jax.models.registry import build_model
from sentiment_jax.training.parameters import abstract_params

FIXTURES = Path(__file__).parent / "fixtures"
TORCH = ("bert", "electra", "electra_projection", "distilbert", "roberta", "modernbert")
FLAX = ("flax_bert", "flax_electra")


def read(name):
    """The input and output that a fixture records."""
    with np.load(FIXTURES / name / "golden.npz") as arrays:
        return {key: jnp.asarray(value) for key, value in arrays.items()}


def build(folder, **settings):
    """The model of a folder with other settings."""
    folder = FIXTURES / folder
    name = json.loads((folder / "config.json").read_bytes())["model_type"]
    config = weights.resolve_encoder({"name": name, **settings}, folder)
    return build_model(config, vocab_size=config.vocab_size)


def key(seed):
    """A random key whose generator compiles fast."""
    return jax.random.key(seed, impl="rbg")


def random(model, scale=0.3, seed=0):
    """Normal parameters, biases too: a forgotten one shows. Nothing is compiled for them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(model),
    )


def fill(model, value):
    """Parameters that all have one value: a loader must replace them."""
    shapes = abstract_params(model)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), shapes)


def load_report(folder, **settings):
    """The loaded parameters of a folder, and the report."""
    model = build(folder, **settings)
    return weights.load_pretrained(FIXTURES / folder, model.config, fill(model, 7.0))


def load(folder, **settings):
    """The model of a folder and its loaded parameters, every one of them."""
    model = build(folder, **settings)
    params, report = load_report(folder, **settings)
    assert report.new == report.unused == ()
    return model, params


def assert_gradients_equal(ours, theirs):
    """Compare gradients, each to 1e-4 of its largest value."""
    ours, theirs = (traverse_util.flatten_dict(tree, sep="/") for tree in (ours, theirs))
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for parameter, gradient in theirs.items():
        # keys' biases cancel in the softmax: their gradient is rounding error alone
        scale = largest if parameter.endswith("key/bias") else np.abs(gradient).max()
        np.testing.assert_allclose(
            ours[parameter], gradient, rtol=0, atol=1e-4 * scale, err_msg=parameter
        )


def copy(name, tmp_path):
    """A copy of a fixture to change."""
    return Path(shutil.copytree(FIXTURES / name, tmp_path / name))


def rewrite(folder, change):
    """Pass a folder's tensors, as a dict, through `change`."""
    path = folder / "model.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in change(load_file(path)).items()}, path)


@functools.partial(jax.jit, static_argnums=0, static_argnames="capture")
def _apply(model, params, token_ids, lengths, key, capture=False):
    return model.apply(
        {"params": params},
        token_ids,
        lengths,
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
        capture_intermediates=capture,
    )


def logits(model, params, batch, key=None):
    """The model's logits; with dropout where there is a key for it."""
    return _apply(model, params, batch["token_ids"], batch["lengths"], key)


def intermediates(model, params, batch, key=None):
    """The output of every module by name, each a tuple over its calls."""
    ids, lengths = batch["token_ids"], batch["lengths"]
    return _apply(model, params, ids, lengths, key, capture=True)[1]["intermediates"]


def hidden_states(model, params, batch):
    """The embeddings' and every layer's output; the last layer's, normalized in ModernBERT."""
    captured = intermediates(model, params, batch)
    modules = [captured["embeddings"]]
    for i in range(model.config.num_hidden_layers):
        modules.append(captured["encoder"][f"layer_{i}"])
    modules[-1] = captured["encoder"].get("norm", modules[-1])  # Hugging Face's last state too
    return [module["__call__"][0] for module in modules]
