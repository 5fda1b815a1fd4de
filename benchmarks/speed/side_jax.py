"""The package's side of benchmarks/speed/pytorch.py: its own steps and batches."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.speed.serve import serve
from benchmarks.speed.synthetic import model_config
from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.data import batches
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.texts import of_numbers
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import devices, startup
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step


def passes(job: dict[str, Any]) -> Iterator[Callable[[], int]]:
    """Yield functions that make one pass over the reviews and return their number."""
    startup.use_cpu_devices(job["cpu_devices"])
    with np.load(job["data"], allow_pickle=False) as arrays:
        stored = dict(arrays)
    labels = of_numbers(stored.pop("labels"), 2)
    encoded = Encoded(labels=labels, truncated=0, **stored)
    size = job["batch_size"]
    config = model_config({**job["model"], "dtype": job["dtype"]})
    model = build_model(config, vocab_size=job["vocab_size"])
    shapes = {"batch_size": size, "buckets": tuple(job["buckets"])}
    ids = np.ones((1, 8), np.int32)
    lengths = np.ones(1, np.int32)
    init = jax.jit(lambda key: model.init(key, ids, lengths, deterministic=True)["params"])
    mesh = devices.data_mesh()
    params = devices.place(init(jax.random.key(0)), mesh)
    if job["mode"] == "infer":
        eval_step = make_eval_step(model)

        def infer() -> int:
            plan = batches.plan_evaluation(encoded.lengths, **shapes)
            made = (devices.put_batch(batches.make_batch(encoded, p, size), mesh) for p in plan)
            jax.device_get([eval_step(params, batch) for batch in made])
            return len(encoded)

        yield from itertools.repeat(infer)
    optimizer = OptimizerConfig(name=job["optimizer"], weight_decay=0.0, clip_norm=1.0)
    train_step = make_train_step(model, optimizer, Classification())
    state = devices.place(create_state(params, optimizer, 0), mesh)
    for epoch in itertools.count():

        def train(epoch: int = epoch) -> int:
            nonlocal state
            metrics = []
            for planned in batches.plan_epoch(encoded.lengths, **shapes, seed=0, epoch=epoch):
                batch = devices.put_batch(batches.make_batch(encoded, planned, size), mesh)
                state, sums = train_step(state, batch, np.float32(1e-4))
                metrics.append(sums)
            jax.device_get(metrics)
            return len(encoded)

        yield train


if __name__ == "__main__":
    startup.use_compilation_cache()
    serve(passes)
