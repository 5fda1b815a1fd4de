"""One optimizer step, jitted once: pure, its state donated, its number folded into the key."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.stages import Wrapped
from jaxtyping import Array, Float

from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.training.objectives.objective import Objective
from sentiment_jax.training.optimizers import make_optimizer, split_frozen


class TrainState(flax.struct.PyTreeNode):
    """What a step changes, and the run's dropout key, which it only folds."""

    step: Any  # int32 scalar: steps taken
    params: Any
    opt_state: Any
    key: Any


def create_state(params: Any, optimizer: OptimizerConfig, seed: int) -> TrainState:
    """Return the state before the first step."""
    trained, _ = split_frozen(params, optimizer)
    opt_state = make_optimizer(optimizer).init(trained)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.random.key(seed))


def make_train_step(
    model: nn.Module, optimizer: OptimizerConfig, objective: Objective, parts: int = 1
) -> Wrapped:
    """Return the jitted (state, batch, learning_rate) -> (state, metrics).

    Metrics: the objective's sums over the batch's valid rows and the norms of the gradient and of
    the parameters that are trained. Runs that differ in seed, learning rate or schedule get the
    same function. The `parts` of a batch are computed one after another (gradient accumulation).
    """
    same = dataclasses.replace(optimizer, learning_rate=0.0, schedule="linear", warmup_fraction=0.0)
    return _make_train_step(model, same, objective, parts)


@functools.lru_cache(maxsize=8)
def _make_train_step(
    model: nn.Module, optimizer: OptimizerConfig, objective: Objective, parts: int
) -> Wrapped:
    transformation = make_optimizer(optimizer, model.config.name)

    def train_step(
        state: TrainState, batch: dict[str, Array], learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        trained, frozen = split_frozen(state.params, optimizer)

        def compute(batch: dict[str, Array], key: Array) -> tuple[Any, dict[str, Array]]:
            # The sum is divided afterwards: the number of examples is a sum over the devices, which
            # would wait for each other before the backward pass, and over the parts.
            def total_loss(trained: Any) -> tuple[Array, dict[str, Array]]:
                sums = objective(model, {**trained, **frozen}, batch, key)
                return sums["loss"] + sums.get("contrastive", 0.0), sums

            (_, sums), gradients = jax.value_and_grad(total_loss, has_aux=True)(trained)
            return gradients, sums

        key = jax.random.fold_in(state.key, state.step)
        if parts == 1:
            gradients, metrics = compute(batch, key)
        else:
            gradients, metrics = _sum_over_parts(compute, parts, batch, key)
        gradients = jax.tree.map(lambda gradient: gradient / metrics["examples"], gradients)
        updates, opt_state = transformation.update(gradients, state.opt_state, trained)
        updates = jax.tree.map(lambda update: -learning_rate * update, updates)
        trained = optax.apply_updates(trained, updates)
        metrics = {
            **metrics,
            "gradient_norm": optax.tree.norm(gradients),
            "parameter_norm": optax.tree.norm(trained),  # an update's would take 9 % of a step
        }
        params = {**trained, **frozen}
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def _sum_over_parts(
    compute: Callable[..., Any], parts: int, batch: dict[str, Array], key: Array
) -> Any:
    """Sum what `compute(part, its own key)` returns over the parts of a batch, one at a time.

    A part has every `parts`-th row, so that each device takes its own rows in each part.
    """
    apart = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), batch)

    def compute_part(number: Array) -> Any:
        part = jax.tree.map(lambda array: array[number], apart)
        return compute(part, jax.random.fold_in(key, number))

    shapes = jax.eval_shape(compute_part, 0)
    return jax.lax.fori_loop(
        0,
        parts,
        lambda number, sums: jax.tree.map(jnp.add, sums, compute_part(number)),
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
    )
