"""Several processes as one run: joining, waiting for each other, and saying who was lost.

Process 0 writes what a run writes; the others compute with it and keep still. JAX is imported only
where there are several: a run of one process pays nothing for what stands here.
"""

import contextlib
import ctypes
import dataclasses
import functools
import ipaddress
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from sentiment_jax.errors import InputError, RunError

JOIN_SECONDS = 300  # a cluster may start its processes minutes apart
LEAVE_SECONDS = 3  # for the others to fail alike, before this one is missed

_index, _count, _lost_after = 0, 1, 0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands in its run."""

    coordinator: str  # host:port of process 0, on which it listens
    index: int
    count: int
    local_devices: list[int] | None = None  # None: all that the process sees


def is_first() -> bool:
    """Whether this process writes logs and files; True where it is alone."""
    return _index == 0


def count() -> int:
    """The number of processes of the run."""
    return _count


def find_place(coordinator: str | None, index: int | None, total: int | None) -> Place | None:
    """Reads --coordinator, --process_id and --process_count; None for a process on its own.

    Raises:
      InputError: they do not fit together, or there is no cluster to ask.
    """
    if coordinator == "auto":
        if index is not None or total is not None:
            raise InputError(
                "--coordinator=auto takes --process_id and --process_count from the cluster: "
                "leave them out"
            )
        return _ask_cluster()
    if coordinator is None and index is None and total is None:
        return None
    if coordinator is None or index is None or total is None:
        raise InputError(
            "--coordinator=HOST:PORT, --process_id=I and --process_count=N go together; "
            "--coordinator=auto asks the cluster for all three"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator={coordinator}: write HOST:PORT, localhost:12355 say")
    if not 0 <= index < total:
        raise InputError(
            f"--process_id={index} with --process_count={total}: processes are numbered from 0 to "
            f"{max(total - 1, 0)}"
        )
    return Place(coordinator, index, total) if total > 1 else None


def _ask_cluster() -> Place | None:
    # What jax.distributed.initialize does; asked first, to know the address to bind to.
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, JOIN_SECONDS
        )
    except Exception as error:  # whatever a half-set environment leads to
        raise InputError(
            f"--coordinator=auto: the cluster's environment is odd ({error})"
        ) from error
    coordinator, total, index, local = found
    if coordinator is None or total is None or index is None:
        raise InputError(
            "--coordinator=auto: no SLURM or Open MPI environment here; start this with srun or "
            "mpirun, or give --coordinator=HOST:PORT --process_id=I --process_count=N"
        )
    return Place(coordinator, index, total, list(local) if local else None) if total > 1 else None


def bind_address(coordinator: str) -> str:
    """The one address that process 0 listens on: the coordinator's own, never all of them.

    Raises:
      InputError: no such host, or an address that stands for all.
    """
    host, _, port = coordinator.rpartition(":")
    try:
        address = ipaddress.ip_address(socket.getaddrinfo(host.strip("[]"), None)[0][4][0])
    except OSError as error:
        raise InputError(f"--coordinator={coordinator}: unknown host ({error.strerror})") from error
    if address.is_unspecified:
        raise InputError(
            f"--coordinator={coordinator} would listen to every network; name one address of "
            "process 0's machine"
        )
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _check_free(listen: str) -> None:
    """Binds to an address for a moment: JAX 0.10 crashes where another program holds it."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise InputError(
                f"process 0 cannot listen on {listen} ({error.strerror}); name another port in "
                "--coordinator"
            ) from error


def connect(place: Place, lost_after: int) -> None:
    """Joins the other processes; before anything touches a device.

    Args:
      place: of this process.
      lost_after: seconds without a sign of life after which a process counts as lost.

    Raises:
      InputError: an address that cannot be listened on.
      RunError: the others did not come.
    """
    global _index, _count, _lost_after
    import jax

    listen = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or bind_address(place.coordinator)
    if place.index == 0:
        _check_free(listen)
    jax.config.update("jax_enable_preemption_service", False)  # signals are resume.Stop's
    _watch(place, lost_after)
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            place.local_devices,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=lost_after,
            shutdown_timeout_seconds=lost_after,
            coordinator_bind_address=listen,
        )
    except Exception as error:  # XLA's own types, by version
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"cannot join the processes at {place.coordinator}, is the port free? ({reason})"
        ) from error
    _index, _count, _lost_after = place.index, place.count, lost_after
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def barrier() -> None:
    """Waits until all processes are here."""
    if _count > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("sentiment_jax")


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Lets process 0 go through a block alone; the others follow, and see what it wrote."""
    if not is_first():
        barrier()
    yield
    if is_first():
        barrier()


def any_of(flag: bool) -> Any:
    """Whether the flag is set in any process, as an array: nobody waits until it is read."""
    import numpy as np

    from sentiment_jax import devices

    mesh, reduce = _any_over_devices()
    return reduce(devices.put_batch({"flag": np.full(mesh.size, flag)}, mesh)["flag"])


@functools.cache
def _any_over_devices() -> tuple[Any, Any]:
    """The mesh, and the jitted function; made once, they are asked for at every step."""
    import jax
    import jax.numpy as jnp

    from sentiment_jax import devices

    mesh = devices.data_mesh()
    return mesh, jax.jit(jnp.any, out_shardings=devices.replicated(mesh))


def leave(code: int) -> int:
    """Ends this process of several with an exit code, giving the others a moment to end too."""
    if _count > 1:
        import jax

        sys.stdout.flush()
        sys.stderr.flush()
        timer = threading.Timer(LEAVE_SECONDS, os._exit, (code,))
        timer.start()
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        os._exit(code)
    return code


def explain(error: Exception) -> None:
    """Where a collective broke, waits for the coordinator to say who was lost: that ends this."""
    if _count > 1 and re.search(r"gloo|nccl|collective|coordination|barrier", str(error), re.I):
        time.sleep(_lost_after + 2 * LEAVE_SECONDS)


def _watch(place: Place, lost_after: int) -> None:
    """Makes one line and exit code 1 of the end that JAX's client puts to a process.

    When a process is lost, C++ code of the others writes a page to stderr and calls abort(), with
    no way for Python to step in. So stderr becomes a pipe that a thread passes on, all but that
    page, and abort() finds a signal handler that sleeps until the thread has ended the process.
    """
    libc = ctypes.CDLL(None)
    # A handler is called with the signal's number: sleep(6).
    libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
    sys.stderr.flush()
    stderr = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)
    sys.stderr = open(stderr, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115

    def read() -> None:
        page, fatal = "", False
        while True:
            if fatal and not select.select([source], [], [], 0.3)[0]:
                bar = "\n" if os.isatty(stderr) else ""  # the progress bar's line is not ended
                message = describe_loss(page, lost_after)
                if _count == 1:
                    message = (
                        f"not all {place.count} processes came to {place.coordinator} in "
                        f"{JOIN_SECONDS} s"
                    )
                os.write(stderr, f"{bar}error: {message}\n".encode())
                os._exit(1)
            chunk = os.read(source, 1 << 16)
            if not chunk:
                return
            known = b"coordination_service" in chunk or b"distributed service" in chunk
            if known or fatal or _count == 1:
                page += chunk.decode(errors="replace")
                fatal = "Terminating process" in page
            else:
                os.write(stderr, chunk)

    threading.Thread(target=read, daemon=True).start()


def describe_loss(page: str, lost_after: int) -> str:
    """One line for what JAX's client writes before it ends a process."""
    numbers = re.search(r"stopped sending heartbeats\):\s*((?:\S*\d\s*)+)", page)
    if numbers:
        lost = sorted({int(n) for n in re.findall(r"(\d+)\s", numbers[1])})
        who = f"process{'es' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
    elif "leader task" in page:
        who = "process 0"
    else:
        who = "another process"
    return (
        f"lost {who} of the run (it ended, or gave no sign of life for {lost_after} s): see what "
        "it says; the same commands go on from the last checkpoint"
    )
