"""Scoring: a jitted step gives every review its loss and probability; the host sums them.

Padded rows are never summed and every review counts once: accuracy does not depend on batch size.
"""

import dataclasses
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array, Float32

from sentiment_jax.data import batches
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.labels import decide
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives.masked_language_modeling import mean_nats
from sentiment_jax.training.objectives.objective import Objective, cross_entropy, forward
from sentiment_jax.training.trained_model import Classifier


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


@dataclasses.dataclass(frozen=True)
class TextScores:
    """A pre-training's loss and accuracy per example, and its perplexity, on held-out text."""

    loss: float
    accuracy: float
    examples: int
    perplexity: float
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return the part that goes into result.json."""
        return {name: value for name, value in vars(self).items() if name != "seconds"}


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

    Another `batch_size` than the config's affects speed only; it is rounded up to a multiple of
    the number of devices. `stop` is called between batches and may raise to end the scoring;
    `description` labels the progress bar.
    """
    start = time.perf_counter()
    eval_step = make_eval_step(classifier.model)
    devices_count = classifier.mesh.size
    size = batch_size or classifier.config.eval_batch_size
    size = -(-size // devices_count) * devices_count
    losses = np.full(len(encoded), np.nan)
    probabilities = np.full((len(encoded), len(classifier.classes)), np.nan, np.float32)

    def receive(planned: batches.PlannedBatch, outputs: tuple[Array, Array]) -> None:
        rows = len(planned.indices)
        batch_losses, batch_probabilities = outputs
        losses[planned.indices] = devices.fetch(batch_losses)[:rows]
        probabilities[planned.indices] = devices.fetch(batch_probabilities)[:rows]

    step = functools.partial(eval_step, jax.device_put(params, devices.replicated(classifier.mesh)))
    passes = EvaluationPass(classifier, encoded, description, size, stop)
    examples = passes.run(step, receive)
    assert examples == len(encoded), f"{examples} of {len(encoded)} reviews scored"
    return Scores(
        loss=float(np.mean(losses)),
        accuracy=int(np.sum(decide(probabilities) == encoded.labels)) / examples,
        examples=examples,
        seconds=time.perf_counter() - start,
        probabilities=probabilities,
    )


def score_text(
    experiment: Experiment,
    params: Any,
    encoded: Encoded,
    description: str,
    *,
    stop: Callable[[], None] | None = None,
) -> TextScores:
    """Score each segment once by the objective of a pre-training, its masks always the same."""
    start = time.perf_counter()
    objective: Any = experiment.objective
    sums_step = make_sums_step(experiment.model, objective, experiment.config.seed)
    totals: dict[str, float] = defaultdict(float)

    def receive(_: batches.PlannedBatch, sums: dict[str, Array]) -> None:
        for name, value in jax.device_get(sums).items():
            totals[name] += float(value)

    step = functools.partial(sums_step, jax.device_put(params, devices.replicated(experiment.mesh)))
    size = experiment.config.eval_batch_size
    EvaluationPass(experiment, encoded, description, size, stop).run(step, receive)
    examples = totals["examples"]
    return TextScores(
        loss=objective.mean_loss(totals),
        accuracy=totals["correct"] / examples,
        examples=round(examples),
        perplexity=math.exp(min(mean_nats(totals), 700)),
        seconds=time.perf_counter() - start,
    )


@dataclasses.dataclass(frozen=True)
class EvaluationPass:
    """One pass over encoded reviews in batches of few shapes."""

    classifier: Classifier
    encoded: Encoded
    description: str
    batch_size: int
    stop: Callable[[], None] | None

    def run(
        self,
        step: Callable[[dict[str, Array]], Any],
        receive: Callable[[batches.PlannedBatch, Any], None],
    ) -> int:
        """Hand the outputs of each batch to `receive`; return the number of reviews."""
        bar = progress_bar(len(self.encoded), self.description, unit="review")
        rows = 0

        def advance(planned: batches.PlannedBatch, outputs: Any) -> None:
            receive(planned, outputs)
            bar.update(len(planned.indices))

        behind = OneBehind(advance)
        plan = batches.plan_evaluation(
            self.encoded.lengths, batch_size=self.batch_size, buckets=self.classifier.buckets
        )
        with bar:
            for planned in plan:
                if self.stop is not None:
                    self.stop()
                batch = batches.make_batch(self.encoded, planned, self.batch_size)
                behind.push(planned, step(devices.put_batch(batch, self.classifier.mesh)))
                rows += len(planned.indices)
            behind.flush()
        return rows


@functools.lru_cache(maxsize=8)
def make_sums_step(model: nn.Module, objective: Objective, seed: int) -> Wrapped:
    """Return the jitted (params, batch) -> an objective's sums, the same each time."""

    def sums_step(params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        return objective(model, params, batch, jax.random.key(seed), deterministic=True)

    return jax.jit(sums_step)


@functools.lru_cache(maxsize=8)
def make_eval_step(model: nn.Module) -> Wrapped:
    """Return the jitted (params, batch) -> losses [batch], probabilities [batch, classes]."""

    def eval_step(params: Any, batch: dict[str, Array]) -> tuple[Array, Array]:
        logits = forward(model, params, batch["token_ids"], batch["lengths"])
        return cross_entropy(logits, batch["labels"]), jax.nn.softmax(logits)

    return jax.jit(eval_step)
