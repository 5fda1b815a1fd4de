"""Scoring: a jitted step gives every review its loss and probability; the host sums them.

Padded rows are never summed and every review counts once: accuracy does not depend on batch size.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32

from sentiment_jax.data import batches
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.labels import decide
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training.experiment import Classifier
from sentiment_jax.training.steps import make_eval_step


class OneBehind:
    """Hands each result to `receive`, which may wait for it, once the next one is dispatched."""

    def __init__(self, receive: Callable[..., None]):
        self._receive = receive
        self._pending: list[tuple[Any, ...]] = []

    def push(self, *result: Any) -> None:
        """Hand the previous result over and keep this one."""
        self.flush()
        self._pending.append(result)

    def flush(self) -> None:
        """Hand over what is kept."""
        while self._pending:
            self._receive(*self._pending.pop())


@dataclasses.dataclass(frozen=True)
class Scores:
    """Loss (mean, nats) and accuracy of one split; each review's probabilities in its order."""

    loss: float
    accuracy: float
    examples: int
    seconds: float
    probabilities: Float32[np.ndarray, "reviews classes"]

    def summary(self) -> dict[str, Any]:
        """Return the part that goes into result.json."""
        return {"loss": self.loss, "accuracy": self.accuracy, "examples": self.examples}


def score_reviews(
    classifier: Classifier,
    params: Any,
    encoded: Encoded,
    description: str,
    *,
    batch_size: int | None = None,
    stop: Callable[[], None] | None = None,
) -> Scores:
    """Score each review once; the seconds include compilation.

    Another `batch_size` than the config's changes speed only. `stop` is called between batches and
    may raise to end the scoring; `description` labels the progress bar.
    """
    start, eval_step = time.perf_counter(), make_eval_step(classifier.model)
    mesh, size = classifier.mesh, batch_size or classifier.config.eval_batch_size
    params = jax.device_put(params, devices.replicated(mesh))  # gathers those that are split
    losses = np.full(len(encoded), np.nan)
    probabilities = np.full((len(encoded), len(classifier.classes)), np.nan, np.float32)
    bar = progress_bar(len(encoded), description, unit="review")

    def receive(planned: batches.PlannedBatch, outputs: tuple[Array, Array]) -> None:
        rows = len(planned.indices)
        losses[planned.indices] = devices.fetch(outputs[0])[:rows]
        probabilities[planned.indices] = devices.fetch(outputs[1])[:rows]
        bar.update(rows)

    behind, examples = OneBehind(receive), 0
    plan = batches.plan_evaluation(encoded.lengths, batch_size=size, buckets=classifier.buckets)
    with bar:
        for planned in plan:
            if stop is not None:
                stop()
            batch = devices.put_batch(batches.make_batch(encoded, planned, size), mesh)
            behind.push(planned, eval_step(params, batch))
            examples += len(planned.indices)
        behind.flush()
    assert examples == len(encoded), f"{examples} of {len(encoded)} reviews scored"
    accuracy = int(np.sum(decide(probabilities) == encoded.labels)) / examples
    seconds = time.perf_counter() - start
    return Scores(float(np.mean(losses)), accuracy, examples, seconds, probabilities)
