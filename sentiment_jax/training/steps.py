"""One optimizer step, jitted once: pure, its state donated, the step folded into the key."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float

from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.models.layers import compute_dtype
from sentiment_jax.runtime import devices
from sentiment_jax.training.objectives.classification import CLASSIFICATION
from sentiment_jax.training.objectives.objective import Objective
from sentiment_jax.training.optimizers import frozen_leaves, make_optimizer


class TrainState(flax.struct.PyTreeNode):
    """What a step changes, and the run's dropout key, which it only folds."""

    step: Any  # int32 scalar: steps taken
    params: Any
    opt_state: Any
    key: Any


def create_state(params: Any, optimizer: OptimizerConfig, seed: int) -> TrainState:
    """Return the state before the first step."""
    opt_state = make_optimizer(optimizer).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.random.key(seed))


def make_train_step(
    model: nn.Module,
    optimizer: OptimizerConfig,
    shard_over: Mesh | AbstractMesh | None = None,
    parts: int = 1,
    objective: Objective = CLASSIFICATION,
) -> Callable[..., Any]:
    """Return the jitted (state, batch, learning_rate) -> (state, metrics).

    Metrics: the objective's sums over the batch's valid rows and the norms of gradient and update.
    Runs that differ in seed, learning rate or schedule get the same function. With
    `shard_over`, parameters and optimizer state stay split over its devices (devices.sharding).
    The `parts` of a batch are computed one after another (gradient accumulation).
    """
    same = dataclasses.replace(optimizer, learning_rate=0.0, schedule="linear", warmup_fraction=0.0)
    return _make_train_step(model, same, shard_over, parts, objective)


def _round_kernels(model: nn.Module, params: Any) -> Any:
    """Round what an encoder's layers would round: in bfloat16, half the bytes to gather."""

    def round_kernel(path: Any, param: Array) -> Array:
        kernel = path[0] == "encoder" and path[-1] == "kernel"
        return param.astype(compute_dtype(model.config.dtype)) if kernel else param

    return traverse_util.path_aware_map(round_kernel, params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gather(mesh: Mesh | AbstractMesh, params: Any) -> Any:
    """Return split parameters whole on every device; sum and scatter their gradients in one.

    JAX's own rule would sum each gradient whole on every device, as the parameters are.
    """
    split = devices.constrain(params, mesh, True)  # else XLA gathers before it rounds
    return devices.constrain(split, mesh, False)


def _scatter(mesh: Mesh | AbstractMesh, _: None, gradients: Any) -> tuple[Any]:
    def sum_table(path: Any, gradient: Array) -> Array:
        # Else XLA sends every token's gradient to the device that has its part: an all-to-all.
        table = "word_embeddings" in path
        return devices.constrain(gradient, mesh, False) if table else gradient

    gradients = traverse_util.path_aware_map(sum_table, gradients)
    return (devices.constrain(gradients, mesh, True),)


gather.defvjp(lambda mesh, params: (gather(mesh, params), None), _scatter)


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


@functools.lru_cache(maxsize=8)
def _make_train_step(
    model: nn.Module,
    optimizer: OptimizerConfig,
    shard_over: Mesh | AbstractMesh | None,
    parts: int,
    objective: Objective,
) -> Callable[..., Any]:
    transformation = make_optimizer(optimizer, model.config.model_type)
    descend = getattr(objective, "descend", None)

    def sums(params: Any, batch: dict[str, Array], key: Array) -> tuple[Any, dict[str, Array]]:
        # The sum is divided afterwards: the number of examples is a sum over the devices, which
        # would wait for each other before the backward pass, and over the parts.
        def total_loss(params: Any) -> tuple[Array, dict[str, Array]]:
            # A frozen table's gradient would take longer than the rest of a step.
            frozen = frozen_leaves(optimizer, params)
            params = jax.tree.map(
                lambda leaf, stays: jax.lax.stop_gradient(leaf) if stays else leaf, params, frozen
            )
            if shard_over is not None:
                params = gather(shard_over, _round_kernels(model, params))
            found = objective(model, params, batch, key)
            return found["loss"], found

        (_, found), gradients = jax.value_and_grad(total_loss, has_aux=True)(params)
        return gradients, found

    def train_step(
        state: TrainState, batch: dict[str, Array], learning_rate: Float[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        if descend is not None:
            params, metrics = descend(state.params, batch, key, learning_rate)
            return state.replace(step=state.step + 1, params=params), metrics
        compute = functools.partial(sums, state.params)
        if parts == 1:
            gradients, metrics = compute(batch, key)
        else:
            gradients, metrics = _sum_over_parts(compute, parts, batch, key)
        gradients = jax.tree.map(lambda gradient: gradient / metrics["examples"], gradients)
        updates, opt_state = transformation.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda update: -learning_rate * update, updates)
        metrics = {
            **metrics,
            "gradient_norm": optax.tree.norm(gradients),
            "update_norm": optax.tree.norm(updates),
        }
        params = jax.tree.map(
            lambda stays, leaf, new: leaf if stays else new,
            frozen_leaves(optimizer, state.params),
            state.params,
            optax.apply_updates(state.params, updates),
        )
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        if shard_over is not None:
            state = devices.constrain(state, shard_over, True)
        return state, metrics

    return jax.jit(train_step, donate_argnums=0)
