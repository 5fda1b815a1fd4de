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
    """Start JAX and return its devices, with one line for its log; InputError if there is none."""
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]
    log = logging.handlers.BufferingHandler(100)
    logging.root.addHandler(log)  # without a handler, a traceback goes to stderr
    found = []
    reasons: list[object] = []
    try:
        with terminal.progress_bar(None, "starting JAX"):
            found = jax.devices()
    except (AssertionError, RuntimeError) as error:  # an assertion without a word, if none is found
        reasons.append(error)
    logging.root.removeHandler(log)
    reasons += [r.exc_info[1] if r.exc_info else r.getMessage() for r in log.buffer]
    reason = " ".join(" ".join(map(str, reasons)).split())
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


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding of parameters and optimizer state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(params: Any, mesh: Mesh) -> Any:
    """Copy parameters to every device, unless the first of them is there.

    To ask a hundred of them takes milliseconds, a third of classifying one text.
    """
    first = jax.tree.leaves(params)[0]
    if getattr(first, "sharding", None) == replicated(mesh):
        return params
    return jax.device_put(params, replicated(mesh))


def place(tree: Any, mesh: Mesh) -> Any:
    """Copy a state that every process holds whole to every device."""

    def put(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # refused on several processes
            numbers = jax.device_put(jax.random.key_data(leaf), replicated(mesh))
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, replicated(mesh))

    return jax.tree.map(put, tree)


def abstract(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Return shapes, dtypes and shardings of a tree: the target of a restore."""
    struct = functools.partial(jax.ShapeDtypeStruct, sharding=replicated(mesh))
    return jax.tree.map(lambda leaf: struct(leaf.shape, leaf.dtype), tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Send a batch, which every process holds whole, to the devices, its rows split over them."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    if processes.count() == 1:
        return jax.device_put(batch, rows)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, rows, array.__getitem__), batch
    )


def fetch(array: jax.Array) -> np.ndarray:
    """Return the whole array, even if other processes hold a part of it."""
    if processes.count() > 1:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def check_batch_size(name: str, batch_size: int, parts: int = 1) -> None:
    """Raise an InputError with the nearest sizes that work, if devices cannot share each part."""
    unit = len(find_devices()) * parts
    below = batch_size - batch_size % unit
    if below == batch_size:
        return
    shared = f"{unit // parts} devices"
    if processes.count() > 1:
        shared += f" of {processes.count()} processes"
    if parts > 1:
        shared += f" in gradient_accumulation={parts} parts"
    nearest = f"{below} or {below + unit}" if below else str(unit)
    raise InputError(f"{name}={batch_size} does not divide among {shared}; use {nearest}")


def memory_limit() -> int | None:
    """Return the bytes that each device may take; None if it does not say, as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


_any = jax.jit(jnp.any)  # of a whole array gives a copy on every device


def any_of(flag: bool) -> Any:
    """Return whether the flag is set in any process, as an array: only reading it waits."""
    mesh = data_mesh()
    return _any(put_batch({"flag": np.full(mesh.size, flag)}, mesh)["flag"])
