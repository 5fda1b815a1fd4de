"""Optimizers as optax chains: clip, adaptive scaling, weight decay, layer-wise multipliers.

The learning rate is the last factor and is applied by the train step (`make_schedule` gives it on
the host), so that runs differing in it alone share one compiled program. AdamW: Loshchilov &
Hutter (2019), https://arxiv.org/abs/1711.05101.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.models.registry import ARCHITECTURES


def make_schedule(config: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate of each step, counted from 0, of a run of `total_steps`.

    Linear warm-up from 0, then constant, or linear down to 0 at `total_steps`.
    """
    warmup_steps = round(config.warmup_fraction * total_steps)

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return config.learning_rate * step / warmup_steps
        remaining = max((total_steps - step) / max(total_steps - warmup_steps, 1), 0.0)
        return config.learning_rate * {"constant": 1.0, "linear": remaining}[config.schedule]

    return schedule


def decay_mask(params: Any) -> Any:
    """Return True for the leaves that weight decay acts on: no biases, no LayerNorm parameters."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )


def label_embeddings(params: Any) -> Any:
    """Return "embeddings" for an encoder's or an LSTM's, and "others" for the other leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "embeddings" if path[0].key.startswith("embedding") else "others", params
    )


def frozen_leaves(config: OptimizerConfig, params: Any) -> Any:
    """Return True for the leaves that a step leaves as they are."""
    return jax.tree.map(lambda label: label == config.frozen, label_embeddings(params))


def make_optimizer(config: OptimizerConfig, model_type: str = "") -> optax.GradientTransformation:
    """Build the chain whose updates are to be scaled by minus the learning rate.

    Weight decay is decoupled for adamw and plain L2 (added to the gradient) for the others. The
    architecture `model_type` has the layer-wise multipliers; the state does not depend on them.
    """
    identity = optax.identity()
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    scale = {
        "sgd": optax.trace(decay=config.momentum) if config.momentum else identity,
        "rmsprop": optax.scale_by_rms(decay=config.rms_decay, eps=config.eps),
        "adam": adam,
        "adamw": adam,
    }[config.name]
    decay, decoupled = identity, config.name == "adamw"
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)

    def scale_layers(updates: Any, params: Any) -> Any:
        architecture = ARCHITECTURES[model_type]
        multipliers = architecture.layerwise_multipliers(params, config.layerwise_decay)
        return jax.tree.map(lambda update, factor: update * factor, updates, multipliers)

    whole = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else identity,
        identity if decoupled else decay,
        scale,
        decay if decoupled else identity,
        identity if config.layerwise_decay == 1 else optax.stateless(scale_layers),
    )
    if config.frozen == "none":
        return whole
    parts = {"embeddings": optax.set_to_zero(), "others": whole}
    return optax.partition(parts, label_embeddings)
