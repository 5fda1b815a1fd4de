"""Several processes as one run: finding the others, and a parent that watches each process.

Where a process is lost, JAX's C++ client writes a page to the stderr of the others and aborts them:
Python cannot step in. So a process that is told of others starts the same command again as its
child. The child trains; the parent outlives it and says in one line what happened.
"""

import collections
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sentiment_jax.errors import InputError, RunError
from sentiment_jax.runtime import processes, terminal

JOIN_SECONDS = 300  # a cluster may start its processes minutes apart
ASKS_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RESUME = "the same commands go on from the last checkpoint"
STDERR = "SENTIMENT_JAX_STDERR"  # a child's variable: the descriptor of its parent's stderr


@dataclass(frozen=True)
class ProcessGroup:
    """Where a process stands in its run."""

    coordinator: str  # host:port of process 0, on which it listens
    index: int
    count: int
    local_devices: list[int] | None = None  # None: all that the process sees


def find_process_group(
    coordinator: str | None, index: int | None, total: int | None
) -> ProcessGroup | None:
    """Read --coordinator, --process_id and --process_count; None for a process on its own."""
    if coordinator is index is total is None:
        return None
    if coordinator == "auto" and index is total is None:
        group = _ask_cluster()
    elif coordinator and coordinator != "auto" and index is not None and total is not None:
        group = ProcessGroup(coordinator, index, total)
    else:
        raise InputError(
            "--coordinator=HOST:PORT, --process_id=I and --process_count=N go together; "
            "--coordinator=auto asks the cluster for the others: leave them out"
        )
    host, _, port = group.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator={group.coordinator}: write HOST:PORT, localhost:12355 say")
    if not 0 <= group.index < group.count:
        given = f"--process_id={group.index} with --process_count={group.count}"
        raise InputError(f"{given}: processes are numbered from 0 to {max(group.count - 1, 0)}")
    return group if group.count > 1 else None


def _ask_cluster() -> ProcessGroup:
    # As `jax.distributed.initialize` does, which would then listen on every network at once.
    get = os.environ.__getitem__
    try:
        if "OMPI_MCA_orte_hnp_uri" in os.environ:  # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
            pattern = r"^(\d+)\..*?tcp6?://(\[[^],]+|[^,:]+)"
            job, host = re.findall(pattern, get("OMPI_MCA_orte_hnp_uri"))[0]
            job, host = int(job) // 2**12, host + "]" * host.startswith("[")
            names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
        elif "SLURM_STEP_NODELIST" in os.environ:  # node003,node007 or node[003-007,009],other
            job = int(get("SLURM_JOB_ID"))
            host = "".join(re.findall(r"^([^[,]+)\[?([^],-]*)", get("SLURM_STEP_NODELIST"))[0])
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        else:
            instead = "use srun or mpirun, or give HOST:PORT, --process_id and --process_count"
            raise InputError(f"--coordinator=auto: no SLURM or Open MPI environment; {instead}")
        index, total, local = (int(get(name)) for name in names)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"--coordinator=auto: the environment is odd ({error!r})") from error
    port = os.environ.get("JAX_COORDINATOR_PORT") or 65536 - 2**12 + job % 2**12
    return ProcessGroup(f"{host}:{port}", index, total, [local])


def bind_address(group: ProcessGroup) -> str:
    """Return the one address that process 0 listens on: the coordinator's own, never all of them.

    An InputError says that no such host exists or, in process 0, that the address is in use.
    """
    asked = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    host, _, port = (asked or group.coordinator).rpartition(":")
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port)[0]
        if ipaddress.ip_address(address[0]).is_unspecified and not asked:
            every = f"--coordinator={group.coordinator} would listen to every network"
            raise InputError(f"{every}; name one address of process 0's machine")
        if group.index == 0:  # JAX 0.10 crashes where another program holds the address
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        problem = f"process 0 cannot listen on {host}:{port} ({error.strerror})"
        raise InputError(f"{problem}; name another port or host in --coordinator") from error
    return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"


def connect(group: ProcessGroup, lost_after: int) -> None:
    """Join the other processes, before anything touches a device, or raise a RunError."""
    import jax

    listen = bind_address(group)
    jax.config.update("jax_enable_preemption_service", False)  # signals are training.signals.Stop's
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
        reason = f"is the port free? ({str(error).strip().splitlines()[0]})"
        raise RunError(f"cannot join the processes at {group.coordinator}, {reason}") from error
    processes.join(group.index, group.count, lost_after)
    if idle := describe_idle_gpus(group):
        terminal.warn(idle)
    if not processes.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def describe_idle_gpus(group: ProcessGroup) -> str:
    """Return one line if processes that take one GPU each leave some of their machine idle."""
    visible = len(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    # SLURM has a number for each node, 4(x2),3 say: the first is that of process 0's.
    names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE")
    here = re.match(r"\d+", next(filter(None, map(os.environ.get, names)), ""))
    if group.local_devices is None or here is None or int(here[0]) >= visible:
        return ""
    return (
        f"{here[0]} of the {visible} GPUs of a machine are used, one per process: start {visible} "
        "processes on each (srun --ntasks-per-node, mpirun --map-by=node)"
    )


def run_child(group: ProcessGroup, lost_after: int) -> int:
    """Run this command again as a child that trains, and return the exit code to end with.

    The child's Python writes to this process's stdout and stderr itself, so a progress bar sees a
    terminal. C++ writes to descriptor 2, which leads here: all but JAX's reports on processes is
    passed on. Signals are forwarded; one that ends the child gives 128 plus its number. An aborted
    or killed child gives 1, and one line on stderr.
    """
    stderr = os.dup(2)
    reports: collections.deque[str] = collections.deque(maxlen=100)
    is_report = False
    with subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, STDERR: str(stderr)},
        pass_fds=(stderr,),
        stdin=subprocess.PIPE,  # closed by the kernel when this process ends in any way
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,  # a terminal's Ctrl-C comes to the child once, from here
    ) as child:
        os.close(stderr)
        for number in ASKS_TO_END:  # what was ignored before is ignored by the child
            signal.signal(number, lambda number, frame: child.send_signal(number))
        for line in child.stderr or ():
            if re.match(r"[IWEF]\d{4} ", line):  # a record's first line; JAX's run over several
                is_report = "coordination" in line or "distributed service" in line
            if is_report:
                reports.append(line)
            else:
                sys.stderr.write(line)
    code, report = child.returncode, "".join(reports)
    if code >= 0:
        return code
    if "Terminating process" in report:
        message = describe_loss(report, group, lost_after)
    elif -code in ASKS_TO_END:
        return 128 - code
    else:
        reason = f"was ended from outside or crashed ({signal.strsignal(-code)}); {RESUME}"
        message = f"process {group.index} of the run {reason}"
        sys.stderr.write(report)
    bar = "\n" if os.isatty(2) else ""  # the progress bar's line is not ended
    print(f"{bar}error: {message}", file=sys.stderr)
    return 1


def when_parent_ends(end: Callable[[], None]) -> None:
    """Call `end` once the parent is gone, whose pipe is this process's stdin."""

    def wait() -> None:
        os.read(0, 1)  # nobody writes to it, and only the parent holds it open
        end()

    threading.Thread(target=wait, daemon=True).start()


def follow_parent() -> bool:
    """Return whether `run_child` started this process; if so, end it when the parent is gone."""
    if STDERR not in os.environ:
        return False
    when_parent_ends(lambda: os._exit(1))
    stderr = int(os.environ.pop(STDERR))
    sys.stderr = terminal.Unbreakable(open(stderr, "w", buffering=1, errors="backslashreplace"))  # noqa: SIM115
    return True


def describe_loss(report: str, group: ProcessGroup, lost_after: int) -> str:
    """Return one line for what JAX's client writes before it aborts a process."""
    if "RegisterTask" in report:
        return f"not all {group.count} processes came to {group.coordinator} in {JOIN_SECONDS} s"
    silent = re.search(r"stopped sending heartbeats\):\n((?:\S*\d\n)+)", report)
    numbers = silent[1] if silent else "0\n" * ("leader task" in report)
    lost = sorted({int(number) for number in re.findall(r"(\d+)\n", numbers)})
    many = f"process{'es' * (len(lost) > 1)} {', '.join(map(str, lost))}"
    who = f"{many if lost else 'another process'} of the run"
    silence = f"it ended, or gave no sign of life for {lost_after} s"
    return f"lost {who} ({silence}): see what it says; {RESUME}"
