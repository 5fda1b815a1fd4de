"""Random batches, configs and a timer where no reviews are needed; defines no flags."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from sentiment_jax.config.schema import MODELS, EncoderConfig, ModelConfig
from sentiment_jax.data.texts import of_numbers

VOCABULARY = 30522  # BERT's


def model_config(settings: Mapping[str, Any]) -> ModelConfig:
    """Return a model group with some settings, its name among them; None stands for a default."""
    values = {name: value for name, value in settings.items() if value is not None}
    kind = MODELS[values["name"]]
    if issubclass(kind, EncoderConfig) and "hidden_size" in values:
        values.setdefault("embedding_size", values["hidden_size"])
    return kind(**values)


def make_batch(seed: int, *shape: int) -> dict[str, np.ndarray]:
    """Return a batch of random full-length reviews, `shape` rows by tokens."""
    rng = np.random.default_rng(seed)
    return {
        "token_ids": rng.integers(1000, VOCABULARY, shape).astype(np.int32),
        "lengths": np.full(shape[0], shape[1], np.int32),
        "labels": of_numbers(rng.integers(0, 2, shape[0]), 2),
        "numbers": np.arange(shape[0], dtype=np.int32),
        "weights": np.ones(shape[0], np.float32),
    }


def abstract_batch(rows: int, length: int, sharding: Any = None) -> dict[str, Any]:
    """Return the shapes and dtypes of such a batch, its rows placed by `sharding`."""
    kinds = {
        "token_ids": ((rows, length), np.int32),
        "lengths": ((rows,), np.int32),
        "labels": ((rows, 2), bool),
        "numbers": ((rows,), np.int32),
        "weights": ((rows,), np.float32),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in kinds.items()
    }


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Return the result and the seconds until it is computed."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - start
