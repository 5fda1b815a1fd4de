"""Several processes as one run: finding the others, and a parent that watches each process.

If a process is lost, JAX's C++ client writes a long trace to the stderr of the others and aborts
them; Python cannot intervene. So each process starts the same command again as its child. The child
trains; the parent outlives it and reports in one line what happened.
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
from dataclasses import dataclass

from sentiment_jax.errors import InputError, RunError
from sentiment_jax.runtime import processes, terminal

JOIN_SECONDS = 300  # a cluster may start its processes minutes apart
ASKS_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RESUME = "the same commands go on from the last checkpoint"
STDERR = "SENTIMENT_JAX_STDERR"  # a child's variable: the descriptor of its parent's stderr


@dataclass(frozen=True)
class ProcessGroup:
    """A process's number among the processes of its run, and where they meet."""

    coordinator: str  # host:port of process 0, on which it listens
    index: int
    count: int
    local_devices: list[int] | None = None  # None: all that the process sees


def find_process_group(
    coordinator: str | None, index: int | None, count: int | None
) -> ProcessGroup | None:
    """Read --coordinator, --process_id and --process_count; None if there is one process."""
    if coordinator is index is count is None:
        return None
    if coordinator == "auto" and index is count is None:
        group = _ask_slurm()
    elif coordinator and coordinator != "auto" and index is not None and count is not None:
        group = ProcessGroup(coordinator, index, count)
    else:
        problem = "--coordinator=HOST:PORT, --process_id=I and --process_count=N go together"
        raise InputError(f"{problem}; auto asks SLURM for the others: leave them out")
    host, _, port = group.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator={group.coordinator}: write HOST:PORT, localhost:12355 say")
    if not 0 <= group.index < group.count:
        problem = f"--process_id={group.index}: the processes are numbered"
        raise InputError(f"{problem} from 0 to {group.count - 1}, by --process_count")
    return group if group.count > 1 else None


def _ask_slurm() -> ProcessGroup:
    # As `jax.distributed.initialize` does, which would then listen on every network at once.
    try:
        nodes = os.environ["SLURM_STEP_NODELIST"]  # node003,node007 or node[003-007,009],other
        host = "".join(re.findall(r"^([^[,]+)\[?([^],-]*)", nodes)[0])
        port = 2**16 - 2**12 + int(os.environ["SLURM_JOB_ID"]) % 2**12
        index = int(os.environ["SLURM_PROCID"])
        count = int(os.environ["SLURM_NTASKS"])
        local = int(os.environ["SLURM_LOCALID"])
    except (KeyError, ValueError, IndexError) as error:
        problem = f"--coordinator=auto: srun's environment is incomplete ({error!r})"
        remedy = "start with srun, or give HOST:PORT, --process_id and --process_count"
        raise InputError(f"{problem}; {remedy}") from error
    coordinator = f"{host}:{os.environ.get('JAX_COORDINATOR_PORT') or port}"
    return ProcessGroup(coordinator, index, count, local_devices=[local])


def bind_address(group: ProcessGroup) -> str:
    """Return the coordinator's own address, to listen on; InputError if process 0 cannot."""
    asked = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or group.coordinator
    host, _, port = asked.rpartition(":")
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port)[0]
        if asked == group.coordinator and ipaddress.ip_address(address[0]).is_unspecified:
            raise InputError(f"--coordinator={asked} would listen to every network; name one host")
        if group.index == 0:  # JAX 0.10 crashes if another program holds the address
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
        reason = str(error).strip().splitlines()[0]
        problem = f"cannot join the processes at {group.coordinator}, is the port free?"
        raise RunError(f"{problem} ({reason})") from error
    processes.initialize(group.index, group.count, lost_after)
    if not processes.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def run_child(group: ProcessGroup, lost_after: int) -> int:
    """Run this command again as a child that trains, and return the exit code to end with.

    The child's Python writes to this process's stdout and stderr itself, so that a progress bar
    sees a terminal. What C++ writes to descriptor 2 comes here and is passed on, except JAX's
    reports on processes. Signals are forwarded; one that ends the child gives 128 plus its number.
    A child that was aborted or killed gives 1, and one line on stderr.
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
        for number in ASKS_TO_END:  # the child still ignores signals that were ignored before
            signal.signal(number, lambda number, frame: child.send_signal(number))
        for line in child.stderr or ():
            if re.match(r"[IWEF]\d{4} ", line):  # a record's first line; JAX's run over several
                is_report = "coordination" in line or "distributed service" in line
            if is_report:
                reports.append(line)
            else:
                sys.stderr.write(line)
    code = child.returncode
    report = "".join(reports)
    if code >= 0:
        return code
    if "Terminating process" in report:
        message = describe_loss(report, group, lost_after)
    elif -code in ASKS_TO_END:
        return 128 - code
    else:
        sys.stderr.write(report)
        ended = f"was ended from outside or crashed ({signal.strsignal(-code)})"
        message = f"process {group.index} of the run {ended}; {RESUME}"
    if os.isatty(2):
        sys.stderr.write("\n")  # the line of the progress bar has not ended
    print(f"error: {message}", file=sys.stderr)
    return 1


def follow_parent() -> bool:
    """Return whether `run_child` started this process; if so, end it when the parent is gone."""
    if STDERR not in os.environ:
        return False

    def wait() -> None:
        os.read(0, 1)  # a pipe that nobody writes to, and only the parent holds open
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    stderr = int(os.environ.pop(STDERR))
    sys.stderr = terminal.Unbreakable(open(stderr, "w", buffering=1, errors="backslashreplace"))  # noqa: SIM115
    return True


def describe_loss(report: str, group: ProcessGroup, lost_after: int) -> str:
    """Return one line for the report of JAX's client before it aborts a process."""
    if "RegisterTask" in report:
        return f"not all {group.count} processes came to {group.coordinator} in {JOIN_SECONDS} s"
    lost = {"0"} if "leader task" in report else set()
    if silent := re.search(r"stopped sending heartbeats\):\n((?:\S*\d\n)+)", report):
        lost = {*re.findall(r"(\d+)\n", silent[1])}
    who = ", ".join(f"process {number}" for number in sorted(lost, key=int)) or "another process"
    return (
        f"lost {who} of the run (it ended, or was silent for {lost_after} s): see its own "
        f"messages; {RESUME}"
    )
