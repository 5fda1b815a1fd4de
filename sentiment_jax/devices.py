"""Where arrays live: one mesh with a data axis; batches split along it, parameters copied."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sentiment_jax.errors import InputError


def data_mesh() -> Mesh:
    """All devices in one row, its axis named "data"."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters and optimiser state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Sends a batch to the devices, its rows split along the data axis."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Shapes, dtypes and replicated sharding of a tree: the target of a restore."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def check_batch_size(name: str, batch_size: int) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Raises:
      InputError: with the nearest sizes that work.
    """
    count = jax.device_count()
    if batch_size % count:
        below, above = batch_size // count * count, (batch_size // count + 1) * count
        nearest = f"{below} or {above}" if below else str(above)
        raise InputError(
            f"{name}={batch_size} does not divide among {count} devices; use {nearest}"
        )


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says where already."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "sentiment_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
