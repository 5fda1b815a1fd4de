"""Scoring: a jitted step gives every text its loss and probability; the host sums them.

Padded rows are never summed and every text counts once: accuracy does not depend on batch size.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array, Float32

from sentiment_jax.data import batches
from sentiment_jax.data.batches import Rows
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.models.outputs import SOFTMAX, Softmax
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training.metrics import score_probabilities
from sentiment_jax.training.objectives.objective import Batch, classify
from sentiment_jax.training.trained_model import Classifier


@dataclasses.dataclass(frozen=True)
class TextScores:
    """Loss (mean, nats) and accuracy of one split, and each text's probabilities in its order."""

    scores: dict[str, Any]  # as in result.json
    seconds: float
    probabilities: Float32[np.ndarray, "texts classes"]


def score_texts(
    classifier: Classifier,
    params: Any,
    encoded: Encoded,
    description: str,
    *,
    batch_size: int | None = None,
    stop: Callable[[], None] = lambda: None,
) -> TextScores:
    """Score each text once; the seconds include compilation.

    A batch has the config's `eval_batch_size`, or all texts if these are fewer. Another
    `batch_size` affects speed only; it is rounded up to a multiple of the number of devices. `stop`
    is called between batches and may raise to end the scoring; `description` labels the progress
    bar.
    """
    start = time.perf_counter()
    losses = np.full(len(encoded), np.nan)
    probabilities = np.full((len(encoded), len(classifier.classes)), np.nan, np.float32)
    examples = 0
    step = make_eval_step(classifier.model, classifier.output)
    for rows, outputs in apply(step, classifier, params, encoded, description, stop, batch_size):
        losses[rows] = devices.fetch(outputs[0])[: len(rows)]
        probabilities[rows] = devices.fetch(outputs[1])[: len(rows)]
        examples += len(rows)
    assert examples == len(encoded), f"{examples} of {len(encoded)} texts scored"
    scores = score_probabilities(
        classifier.kind, encoded.labels, probabilities, classifier.thresholds
    )
    return TextScores(
        scores | {"loss": float(np.mean(losses))},
        seconds=time.perf_counter() - start,
        probabilities=probabilities,
    )


def apply(
    step: Callable[[Any, Batch], Any],
    classifier: Classifier,
    params: Any,
    encoded: Encoded,
    description: str,
    stop: Callable[[], None],
    batch_size: int | None = None,
) -> Iterator[tuple[Rows, Any]]:
    """Yield the rows of each batch of a pass over encoded texts, and the step's outputs."""
    size = batch_size or min(classifier.config.eval_batch_size, len(encoded))
    size = -(-size // classifier.mesh.size) * classifier.mesh.size
    params = jax.device_put(params, devices.replicated(classifier.mesh))

    def dispatch() -> Iterator[tuple[Rows, Any]]:
        for planned in plan_pass(classifier, encoded, size):
            stop()
            batch = batches.make_batch(encoded, planned, size)
            yield planned.indices, step(params, devices.put_batch(batch, classifier.mesh))

    with_end: Iterator[Any] = itertools.chain(dispatch(), [None])
    with progress_bar(len(encoded), description, unit="text") as bar:
        # A batch's outputs, which are then waited for, come once the next batch is dispatched.
        for (rows, outputs), _ in itertools.pairwise(with_end):
            yield rows, outputs
            bar.update(len(rows))


def plan_pass(classifier: Classifier, encoded: Encoded, batch_size: int) -> batches.Plan:
    """Plan a pass over encoded texts."""
    return batches.plan_evaluation(
        encoded.lengths, batch_size=batch_size, buckets=classifier.buckets, packed=classifier.packs
    )


@functools.lru_cache(maxsize=8)
def make_eval_step(model: nn.Module, output: Softmax = SOFTMAX) -> Wrapped:
    """Return the jitted (params, batch) -> losses [batch], probabilities [batch, classes]."""

    def eval_step(params: Any, batch: Batch) -> tuple[Array, Array]:
        logits = classify(model, params, batch, None)
        losses, _ = output.score(logits, batch)
        return losses, output.probabilities(logits)

    return jax.jit(eval_step)
