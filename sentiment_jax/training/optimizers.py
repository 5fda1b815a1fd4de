"""Optimisers as optax chains: clip, adaptive scaling, weight decay, layer-wise multipliers.

The learning rate is the last factor and is applied by the train step (`schedule` gives it on the
host), so that runs differing in it alone share one compiled program. AdamW: Loshchilov & Hutter
(2019), https://arxiv.org/abs/1711.05101.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from sentiment_jax.config import OPTIMIZERS, SCHEDULES, OptimizerConfig


def make_schedule(config: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """Linear warm-up from 0, then constant, or linear down to 0 at `total_steps`.

    Args:
      config: peak learning rate, kind of schedule, share of the steps spent warming up.
      total_steps: steps of the whole run.

    Returns:
      A function from the step (counted from 0) to the learning rate of that step.

    Raises:
      ValueError: unknown schedule.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {config.schedule!r}: one of {', '.join(SCHEDULES)}")
    warmup_steps = round(config.warmup_fraction * total_steps)

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return config.learning_rate * step / warmup_steps
        if config.schedule == "constant":
            return config.learning_rate
        remaining = (total_steps - step) / max(total_steps - warmup_steps, 1)
        return config.learning_rate * max(remaining, 0.0)

    return schedule


def decay_mask(params: Any) -> Any:
    """True for the leaves that weight decay acts on: all but biases and LayerNorm parameters."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        return str(path[-1].key) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(
    config: OptimizerConfig, multipliers: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
    """Builds the chain whose updates are to be scaled by minus the learning rate.

    Weight decay is decoupled for adamw and plain L2 (added to the gradient) for the others.

    Args:
      config: which optimiser, and its numbers.
      multipliers: parameters -> learning-rate multipliers of the same structure
        (layer-wise decay), or None.

    Raises:
      ValueError: unknown optimiser.
    """
    if config.name in ("adam", "adamw"):
        scale = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    elif config.name == "rmsprop":
        scale = optax.scale_by_rms(decay=config.rms_decay, eps=config.eps)
    elif config.name == "sgd":
        scale = optax.trace(decay=config.momentum) if config.momentum else optax.identity()
    else:
        raise ValueError(f"unknown optimizer {config.name!r}: one of {', '.join(OPTIMIZERS)}")
    decoupled = config.name == "adamw"
    decay = optax.identity()
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.identity() if decoupled else decay,
        scale,
        decay if decoupled else optax.identity(),
        optax.identity() if multipliers is None else _scale_by_tree(multipliers),
    )


def _scale_by_tree(multipliers: Callable[[Any], Any]) -> optax.GradientTransformation:
    def update(updates: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda u, m: u * m, updates, multipliers(params))

    return optax.stateless(update)
