"""Losses beside the cross-entropy: each a function of the classifier, a batch and a key.

Adversarial and virtual adversarial training are Miyato et al.'s (2017) for texts,
https://arxiv.org/abs/1605.07725: the classifier should not change its mind where the embeddings of
a text move a little in the worst direction. Entropy minimization is Grandvalet & Bengio's (2005).
All but the first can learn from reviews without labels. The size of a step is the Euclidean length
over a whole text, so its meaning depends on the embeddings' scale, which training can inflate:
with `optimizer.frozen=embeddings` it cannot.

A step of training takes about twice as long with `adversarial`, three times with
`virtual_adversarial`; `entropy` costs nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from optax.losses import kl_divergence_with_log_targets

Embedded = Float[Array, "batch length embedding"]
# From parameters and a perturbation of the embeddings to logits; the same dropout each time.
Classify = Callable[[Any, Embedded], Float[Array, "batch classes"]]
PROBE = 0.1  # length of the random step at which the divergence's gradient is taken


def unit(direction: Embedded) -> Embedded:
    """Scale each row to length 1."""
    squares = jnp.sum(jnp.square(direction), axis=(1, 2), keepdims=True)
    return direction * jax.lax.rsqrt(squares + 1e-24)


def after_worst_step(
    losses: Callable[[Any, Embedded], Float[Array, " batch"]],
    params: Any,
    start: Embedded,
    size: float,
) -> Float[Array, " batch"]:
    """Return the losses after the step of `size` along their gradient at `start`.

    For that the parameters are given numbers: cuDNN's attention has no second derivative.
    """
    given = jax.lax.stop_gradient(params)
    worst = unit(jax.grad(lambda step: jnp.sum(losses(given, step)))(start))
    return losses(params, jax.lax.stop_gradient(size * worst))


def adversarial(
    classify: Classify,
    params: Any,
    score: Callable[[Float[Array, "batch classes"]], Float[Array, " batch"]],
    zeros: Embedded,
    size: float,
) -> Float[Array, " batch"]:
    """Return the cross-entropy after a step of `size` that raises it fastest, to first order.

    `score` makes that of logits.
    """

    def losses(params: Any, step: Embedded) -> Float[Array, " batch"]:
        return score(classify(params, step))

    return after_worst_step(losses, params, zeros, size)


def virtual_adversarial(
    classify: Classify,
    params: Any,
    logits: Float[Array, "batch classes"],
    zeros: Embedded,
    size: float,
    key: Array,
) -> Float[Array, " batch"]:
    """Return how far a step of `size` in the most sensitive direction moves the distribution.

    That direction is the divergence's largest curvature: one power iteration from a random one.
    `logits` are those without a step; they are taken as given.
    """
    given = jax.lax.stop_gradient(jax.nn.log_softmax(logits))

    def moved(params: Any, step: Embedded) -> Float[Array, " batch"]:
        return kl_divergence_with_log_targets(jax.nn.log_softmax(classify(params, step)), given)

    probe = PROBE * unit(jax.random.normal(key, zeros.shape))
    return after_worst_step(moved, params, probe, size)


def entropy(logits: Float[Array, "batch classes"]) -> Float[Array, " batch"]:
    """Return the entropy of each row's distribution, in nats."""
    own = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(own) * own, axis=-1)
