"""Optimizers as optax chains: clip, adaptive scaling, weight decay, layer-wise multipliers.

The learning rate is the last factor and is applied by the train step (`make_schedule` gives it on
the host), so that runs differing in it alone share one compiled program. AdamW: Loshchilov &
Hutter (2019), https://arxiv.org/abs/1711.05101.
"""

from collections.abc import Callable, Mapping
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


def split_frozen(
    params: Mapping[str, Any], config: OptimizerConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split parameters into the trained ones and the ones that `optimizer.frozen` keeps.

    The latter have no gradient, which for a large table would take longer than the rest of a step.
    """
    frozen = {}
    if config.frozen == "embeddings":
        frozen = {name: leaves for name, leaves in params.items() if name.startswith("embedding")}
    return {name: leaves for name, leaves in params.items() if name not in frozen}, frozen


def make_optimizer(config: OptimizerConfig, architecture: str = "") -> optax.GradientTransformation:
    """Build the chain whose updates are to be scaled by minus the learning rate.

    Weight decay is decoupled for adamw and plain L2 (added to the gradient) for the others. The
    `architecture` has the layer-wise multipliers; the state does not depend on them. Another
    optimizer also needs its name in OptimizerConfig (config/schema.py).
    """
    identity = optax.identity()
    scale = {
        "sgd": optax.trace(decay=config.momentum) if config.momentum else identity,
        "rmsprop": optax.scale_by_rms(decay=config.rms_decay, eps=config.eps),
        "adam": optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        "adamw": optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        "lbfgs": identity,  # which takes no steps: training/probe.py
        "liblinear": identity,
    }[config.name]
    decay = identity
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    decoupled = config.name == "adamw"

    def scale_layers(updates: Any, params: Any) -> Any:
        scale = ARCHITECTURES[architecture].layerwise_multipliers
        multipliers = scale(params, config.layerwise_decay)
        return jax.tree.map(lambda update, factor: update * factor, updates, multipliers)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else identity,
        identity if decoupled else decay,
        scale,
        decay if decoupled else identity,
        identity if config.layerwise_decay == 1 else optax.stateless(scale_layers),
    )
