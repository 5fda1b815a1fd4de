"""The tiny folders under fixtures/, as our models: what fixtures/make_*_golden.py wrote."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from sentiment_jax.config.schema import Config, DataConfig, OptimizerConfig
from sentiment_jax.huggingface import weights
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.models.registry import build_model
from sentiment_jax.training.trained_model import TrainedModel, make_classifier

FIXTURES = Path(__file__).parent / "fixtures"
TORCH = ("bert", "electra", "electra_projection", "distilbert", "roberta", "modernbert")
FLAX = ("flax_bert", "flax_electra")
# Neither schedule, nor decay, nor clipping.
plain_optimizer = functools.partial(
    OptimizerConfig, schedule="constant", warmup_fraction=0.0, weight_decay=0.0, clip_norm=0.0
)


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


def build_shallow(folder, **settings):
    """The same with one layer, for what does not depend on their number: it compiles faster."""
    config = dataclasses.replace(build(folder, **settings).config, num_hidden_layers=1)
    return build_model(config, vocab_size=config.vocab_size)


def modules(names):
    """The first part of each parameter's name."""
    return {name.partition("/")[0] for name in names}


def key(seed):
    """A random key whose generator compiles fast."""
    return jax.random.key(seed, impl="rbg")


def draw(shapes, scale, seed=0):
    """Normal values for such parameters, biases too: a forgotten one shows. Nothing compiles."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), shapes)


def random(model, scale=0.3, seed=0):
    """Normal parameters of a model."""
    return draw(abstract_params(model), scale, seed)


def make_run(model_config, tokenizer, **data):
    """A trained model of normal parameters."""
    config = Config(model=model_config, data=DataConfig(**data))
    classifier = make_classifier(config, tokenizer)
    return TrainedModel(**vars(classifier), params=random(classifier.model, 0.5, seed=1), step=0)


def fill(model, value=7.0):
    """Parameters that all have one value: a loader must replace them."""
    shapes = abstract_params(model)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value, leaf.dtype), shapes)


def load_report(folder, **settings):
    """The loaded parameters of a folder, and the report."""
    model = build(folder, **settings)
    return weights.load_pretrained(FIXTURES / folder, model.config, fill(model))


def load(folder, **settings):
    """The model of a folder and its loaded parameters, every one of them."""
    params, report = load_report(folder, **settings)
    assert report.new == report.unused == ()
    return build(folder, **settings), params


def assert_gradients_equal(ours, theirs):
    """Compare gradients, each to 1e-4 of its largest value."""
    ours, theirs = (traverse_util.flatten_dict(tree, sep="/") for tree in (ours, theirs))
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for parameter, gradient in theirs.items():
        # keys' biases cancel in the softmax: their gradient is rounding error alone
        scale = largest if parameter.endswith("key/bias") else np.abs(gradient).max()
        found = ours[parameter]
        np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-4 * scale, err_msg=parameter)


def copy(name, tmp_path):
    """A copy of a fixture to change."""
    return Path(shutil.copytree(FIXTURES / name, tmp_path / name))


def change_config(folder, **changes):
    """Write other values into a folder's config.json; return the folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def rewrite(folder, change):
    """Pass a folder's tensors, as a dict, through `change`."""
    path = folder / "model.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in change(load_file(path)).items()}, path)


def apply(model, params, batch, key=None, **options):
    """Apply the model to a batch; with dropout where there is a key for it."""
    return model.apply(
        {"params": params},
        batch["token_ids"],
        batch["lengths"],
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
        **options,
    )


logits = jax.jit(apply, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def differentiate(model, params, batch, key):
    """The loss, logits, and the output of every module, a tuple over its calls; the gradients."""

    def compute(params):
        logits, captured = apply(model, params, batch, key, capture_intermediates=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return losses.mean(), (logits, captured["intermediates"])

    return jax.value_and_grad(compute, has_aux=True)(params)


def dropout_masks(model, batch, key):
    """The module and the rate of every mask that is drawn, in order; a name is part of a seed."""
    drawn = []

    def note(draw, arguments, options, context):
        mask = draw(*arguments, **options)
        if context.method_name == "mask" and mask is not None:
            drawn.append(("/".join(context.module.path), context.module.rate))
        return mask

    with nn.intercept_methods(note):
        jax.eval_shape(functools.partial(apply, model), abstract_params(model), batch, key)
    return drawn
