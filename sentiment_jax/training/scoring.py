"""Scoring: a jitted step gives every review its loss and probability, the host sums them.

Padded rows of the last batch are never summed, and every review is counted exactly once: accuracy
does not depend on the batch size.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32

from sentiment_jax.data import batches
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training.steps import make_eval_step


@dataclasses.dataclass(frozen=True)
class Scores:
    """Loss (mean, nats) and accuracy of one split, and p(positive) of every review in its order."""

    loss: float
    accuracy: float
    examples: int
    seconds: float
    p_positive: Float32[np.ndarray, " reviews"]

    def summary(self) -> dict[str, Any]:
        """The part that goes into result.json."""
        return {"loss": self.loss, "accuracy": self.accuracy, "examples": self.examples}


def score_reviews(
    model: nn.Module,
    params: Any,
    encoded: Encoded,
    *,
    batch_size: int,
    buckets: tuple[int, ...],
    mesh: Mesh,
    description: str,
    stop: Callable[[], None] | None = None,
) -> Scores:
    """Scores one split, every review once.

    Args:
      model: called as model.apply(variables, token_ids, lengths) -> logits.
      params: its parameters, on the devices.
      encoded: the split.
      batch_size: rows per batch; changes speed only.
      buckets: the padded lengths.
      mesh: the devices that share a batch.
      description: label of the progress bar.
      stop: called between batches; may raise to end the scoring.

    Returns:
      The Scores, their seconds including compilation.
    """
    start = time.perf_counter()
    eval_step = make_eval_step(model)
    params = jax.device_put(params, devices.replicated(mesh))  # where they are split
    losses = np.full(len(encoded), np.nan, np.float64)
    p_positive = np.full(len(encoded), np.nan, np.float32)

    def collect(planned: batches.PlannedBatch, outputs: tuple[Array, Array]) -> None:
        rows = len(planned.indices)
        losses[planned.indices] = devices.fetch(outputs[0])[:rows]
        p_positive[planned.indices] = devices.fetch(outputs[1])[:rows]

    examples, pending = 0, None
    plan = batches.plan_evaluation(encoded.lengths, batch_size=batch_size, buckets=buckets)
    with progress_bar(len(encoded), description, unit="review") as bar:
        for planned in plan:
            if stop is not None:
                stop()
            batch = devices.put_batch(batches.make_batch(encoded, planned, batch_size), mesh)
            outputs = eval_step(params, batch)
            # The previous batch is fetched while this one runs: the device never waits.
            if pending is not None:
                collect(*pending)
                bar.update(len(pending[0].indices))
            pending = (planned, outputs)
            examples += len(planned.indices)
        if pending is not None:
            collect(*pending)
    assert examples == len(encoded), f"{examples} of {len(encoded)} reviews scored"
    correct = int(np.sum((p_positive > 0.5) == (encoded.labels == 1)))
    return Scores(
        loss=float(np.mean(losses)),
        accuracy=correct / examples,
        examples=examples,
        seconds=time.perf_counter() - start,
        p_positive=p_positive,
    )
