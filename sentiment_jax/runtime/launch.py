"""Joining several processes as one run."""

import ctypes
import dataclasses
import ipaddress
import os
import re
import select
import signal
import socket
import sys
import threading

from sentiment_jax.errors import InputError, RunError
from sentiment_jax.runtime import processes

JOIN_SECONDS = 300  # a cluster may start its processes minutes apart


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """Where a process stands in its run."""

    coordinator: str  # host:port of process 0, on which it listens
    index: int
    count: int
    local_devices: list[int] | None = None  # None: all that the process sees


def find_process_group(
    coordinator: str | None, index: int | None, total: int | None
) -> ProcessGroup | None:
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
    return ProcessGroup(coordinator, index, total) if total > 1 else None


def _ask_cluster() -> ProcessGroup | None:
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
    return (
        ProcessGroup(coordinator, index, total, list(local) if local else None)
        if total > 1
        else None
    )


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


def connect(group: ProcessGroup, lost_after: int) -> None:
    """Joins the other processes; before anything touches a device.

    Args:
      group: of this process.
      lost_after: seconds without a sign of life after which a process counts as lost.

    Raises:
      InputError: an address that cannot be listened on.
      RunError: the others did not come.
    """
    import jax

    listen = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or bind_address(group.coordinator)
    if group.index == 0:
        _check_free(listen)
    jax.config.update("jax_enable_preemption_service", False)  # signals are training.signals.Stop's
    _watch(group, lost_after)
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.count,
            group.index,
            group.local_devices,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=lost_after,
            shutdown_timeout_seconds=lost_after,
            coordinator_bind_address=listen,
        )
    except Exception as error:  # XLA's own types, by version
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"cannot join the processes at {group.coordinator}, is the port free? ({reason})"
        ) from error
    processes.join(group.index, group.count, lost_after)
    if not processes.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _watch(group: ProcessGroup, lost_after: int) -> None:
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
                if processes.count() == 1:
                    message = (
                        f"not all {group.count} processes came to {group.coordinator} in "
                        f"{JOIN_SECONDS} s"
                    )
                os.write(stderr, f"{bar}error: {message}\n".encode())
                os._exit(1)
            chunk = os.read(source, 1 << 16)
            if not chunk:
                return
            known = b"coordination_service" in chunk or b"distributed service" in chunk
            if known or fatal or processes.count() == 1:
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
