"""Where arrays live: one mesh with a data axis; batches split along it, parameters copied."""

import functools
import logging.handlers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes, startup, terminal


@functools.cache
def find_devices() -> list[Any]:
    """Start JAX and return its devices, saying in one line what JAX has to say about a GPU.

    InputError: JAX_PLATFORMS asks for a device that is not there, or a GPU that is there fails.
    """
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    reports = logging.handlers.BufferingHandler(100)
    logging.root.addHandler(reports)  # without a handler, a traceback goes to stderr
    found, reason = [], ""
    try:
        with terminal.progress_bar(None, "starting JAX"):
            found = jax.devices()
    except (AssertionError, RuntimeError) as error:  # an assertion without a word, if none is found
        reason = str(error)
    logging.root.removeHandler(reports)
    said = [r.exc_info[1] if r.exc_info else r.getMessage() for r in reports.buffer]
    reason = " ".join(" ".join(map(str, [reason, *said])).split())
    if not found:
        raise InputError(f"JAX_PLATFORMS={asked or ''} finds no device: {reason or 'no driver'}")
    if found[0].platform == "cpu" and startup.has_cuda():
        reason = f"CUDA is installed, but no GPU was found ({reason}): running on the CPU"
    if reason and asked != "cpu":
        terminal.warn_once(reason)
    return found


def data_mesh() -> Mesh:
    """Return all devices in one row, its axis named "data"."""
    return Mesh(np.array(find_devices()), ("data",))


_any = jax.jit(jnp.any)  # of a whole array gives a copy on every device


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of parameters and optimizer state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def axis_to_split(shape: tuple[int, ...], parts: int) -> int | None:
    """Return the longest axis that divides into equal parts; None where no axis does."""
    fitting = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    return max(fitting, key=lambda axis: shape[axis], default=None)


def sharding(leaf: Any, mesh: Mesh | AbstractMesh, shard: bool) -> NamedSharding:
    """Return where an array lives: split if `shard` and an axis divides evenly, else copied."""
    axis = axis_to_split(leaf.shape, mesh.size) if shard else None
    return NamedSharding(mesh, PartitionSpec(*([] if axis is None else [None] * axis + ["data"])))


def place(tree: Any, mesh: Mesh, shard: bool = False) -> Any:
    """Send a state that every process holds whole to the devices."""

    def put(leaf: jax.Array) -> jax.Array:
        where = sharding(leaf, mesh, shard)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # refused on several processes
            numbers = jax.device_put(jax.random.key_data(leaf), where)
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, where)

    return jax.tree.map(put, tree)


def constrain(tree: Any, mesh: Mesh | AbstractMesh, shard: bool) -> Any:
    """Keep the arrays of a tree where `sharding` says, inside a jitted function."""
    wanted = jax.tree.map(lambda leaf: sharding(leaf, mesh, shard), tree)
    return jax.lax.with_sharding_constraint(tree, wanted)


def abstract(tree: Any, mesh: Mesh | AbstractMesh, shard: bool = False) -> Any:
    """Return shapes, dtypes and shardings of a tree: the target of a restore."""

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        where = sharding(leaf, mesh, shard)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(describe, tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Send a batch, which every process holds whole, to the devices, its rows split over them."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    if processes.count() == 1:
        return jax.device_put(batch, rows)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, rows, array.__getitem__), batch
    )


def fetch(array: jax.Array) -> np.ndarray:
    """Return the whole array, also where other processes hold a part of it."""
    several = processes.count() > 1
    return np.asarray(multihost_utils.process_allgather(array, tiled=True) if several else array)


def check_batch_size(name: str, batch_size: int, parts: int = 1) -> None:
    """Raise an InputError with the nearest sizes that work, if devices cannot share each part."""
    count = len(find_devices())
    if batch_size % (each := count * parts):
        below = batch_size - batch_size % each
        nearest = f"{below} or {below + each}" if below else str(each)
        many = f"{count} devices" + f" of {processes.count()} processes" * (processes.count() > 1)
        many += f" in gradient_accumulation={parts} parts" * (parts > 1)
        raise InputError(f"{name}={batch_size} does not divide among {many}; use {nearest}")


def memory_limit() -> int | None:
    """Return the bytes that each device may take; None where it does not say, as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def any_of(flag: bool) -> Any:
    """Return whether the flag is set in any process, as an array: reading it is what waits."""
    mesh = data_mesh()
    return _any(put_batch({"flag": np.full(mesh.size, flag)}, mesh)["flag"])
