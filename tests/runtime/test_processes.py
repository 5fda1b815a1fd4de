"""Several processes as one run: real ones on this machine, and how they find each other."""

import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen
from unittest.mock import Mock

import jax
import pytest
import runs
from commands import MAIN, ROOT, SAMPLE, free_ports
from reviews import refuses

from sentiment_jax.errors import Interrupted
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import launch, processes
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.training import signals
from sentiment_jax.training.trained_model import load_run

SEVERAL_SHAPES = {**runs.LONGER, "data.length_buckets": (12,)}
EPOCH = runs.STEPS // runs.LONGER["epochs"]
GROUP = launch.ProcessGroup("host:1234", 0, 4)
CLUSTER = re.compile("SLURM|PMI|KUBERNETES|JAX_")


def start(*arguments):
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return Popen(command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE, text=True)


def start_pair(workdir, *arguments, **changes):
    """Two processes of one training run."""
    command = [*MAIN[1:], SAMPLE, *runs.small_flags(**SEVERAL_SHAPES | changes)]
    command += [f"--workdir={workdir}", f"--coordinator=localhost:{free_ports(1)[0]}"]
    command += ["--process_count=2", *arguments]
    return [start(*command, f"--process_id={index}") for index in (0, 1)]


def ends(pair, codes):
    """What each wrote to stderr, progress and so small a run's warning left out, at its end."""
    errors = []
    expected = re.compile("epoch|no better than guessing")
    try:
        for process, code in zip(pair, codes, strict=True):
            _, text = process.communicate(timeout=250)
            assert process.returncode == code, text
            lines = filter(str.strip, text.splitlines())
            errors.append([line for line in lines if not expected.search(line)])
    finally:
        for process in pair:
            process.kill()
    return errors


@pytest.mark.slow  # 11 s for two processes
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (3, 1)])
def test_a_signal_to_one_stops_all_at_once_and_a_lost_process_is_named_in_one_line(count, victim):
    (port,) = free_ports(1)
    began = time.monotonic()
    peers = [start("tests/peer.py", port, i, count, victim) for i in range(count)]
    errors = ends(peers, [1] * count)  # waits for whoever holds their stderr: for orphans, too
    assert time.monotonic() - began < 120  # all 2,000 questions would take longer yet
    for i, (*before, last) in enumerate(errors):
        if i == victim:
            assert f"process {victim} of the run was ended" in last and "(Killed)" in last
            assert before[1:] == ["stops at 21"]  # after what its own signal says
        else:
            assert before == ["stops at 21"]
            assert last.startswith(f"error: lost process {victim} of the run")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_the_child_ends_with_its_parent_even_while_it_waits_for_the_others(number, code):
    (port,) = free_ports(1)
    peer = start("tests/peer.py", port, 0, 2)  # no other comes

    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        runs.wait_until(listens, peer)
        peer.send_signal(number)
        _, text = peer.communicate(timeout=20)  # the end of stderr, which a child would hold open
    finally:
        peer.kill()
    assert (peer.returncode, text) == (code, "")


REPORT = (
    "E1126 06:40:48.519404 1 coordination_service.cc:1549] tasks (stopped sending heartbeats):\n1\n"
    "F1126 06:40:48.519857 1 client.h:80] Terminating process because the JAX distributed service\n"
)
FATAL = "F1126 xla.cc] failed"
KEPT = "E1126 coordination.cc] kept"
CRASHED = "error: process 0 of the run was ended from outside or crashed (Aborted)"


@pytest.mark.parametrize(
    ("script", "code", "lines"),
    [
        ("sys.exit(2)", 2, []),
        ("sys.exit('error: its last line')", 1, ["error: its last line"]),
        ("write('I1126 xla.cc] seen'); sys.exit(143)", 143, ["I1126 xla.cc] seen"]),
        ("write('E1126 coordination.cc] hidden\\nhidden\\nW1126 x] seen')", 0, ["W1126 x] seen"]),
        ("os.kill(os.getpid(), 15)", 143, []),
        (f"write({REPORT!r}); os.abort()", 1, ["error: lost process 1 of the run (it ended, or "]),
        (f"write({REPORT!r}); sys.exit(0)", 0, []),
        (f"write({KEPT!r}); write({FATAL!r}); os.abort()", 1, [FATAL, KEPT, CRASHED]),
    ],
)
def test_what_the_parent_prints(child, capfd, script, code, lines):
    assert child(script) == code
    written = capfd.readouterr().err.splitlines()
    assert [line[: len(start)] for line, start in zip(written, lines, strict=True)] == lines


def test_a_child_writes_to_the_terminal_itself(child, capfd):
    """So that its progress bar stays one."""
    reader, terminal = os.openpty()
    captured = os.dup(2)
    os.dup2(terminal, 2)
    try:
        assert child("launch.follow_parent(); print(sys.stderr.isatty())") == 0
    finally:
        os.dup2(captured, 2)
        for descriptor in (reader, terminal, captured):
            os.close(descriptor)
    assert capfd.readouterr().out == "True\n"


@pytest.fixture
def child(monkeypatch):
    """Run a script as the child of this process and return the exit code to end with."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    prelude = (
        "import os, signal, sys\nfrom sentiment_jax.runtime import launch\n"
        "def write(text): os.write(2, text.encode() + b'\\n')\n"
    )

    def run(script):
        monkeypatch.setattr(sys, "orig_argv", ["python", "-c", prelude + script])
        return launch.run_child(GROUP, lost_after=9)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow  # 15 s
def test_two_processes_train_as_one_does(tmp_path):
    alone = tmp_path / "alone"
    train(runs.make_small(**SEVERAL_SHAPES), alone)
    pair = start_pair(tmp_path / "pair")
    assert ends(pair, [0, 0]) == [[], []]
    runs.assert_rounding_apart(alone, tmp_path / "pair", runs.STEPS)
    names = {path.name for path in alone.iterdir()}
    assert {path.name for path in (tmp_path / "pair").iterdir()} == names
    assert len(read_json(tmp_path / "pair" / "env.json")["devices"]) == 2


@pytest.mark.slow
def test_sigkill_to_one_ends_the_other(tmp_path):
    workdir = tmp_path / "pair"
    pair = start_pair(workdir, "--lost_after=5", epochs=2000)
    runs.wait_until(lambda: runs.lines_of(workdir) >= EPOCH + 2, *pair)  # the first is saved then
    pair[1].kill()
    killed = time.monotonic()
    survivor, _ = ends(pair, [1, -signal.SIGKILL])
    assert time.monotonic() - killed < 30
    assert len(survivor) == 1 and "lost process 1" in survivor[0]
    assert load_run(workdir).step


@pytest.mark.slow
def test_sigterm_to_one_stops_both_at_the_same_step(tmp_path):
    workdir = tmp_path / "pair"
    pair = start_pair(workdir, epochs=2000, checkpoint_every=100000)
    # The first epoch is saved then; its validation is a line, too.
    runs.wait_until(lambda: runs.lines_of(workdir) >= EPOCH + 2, *pair)
    # As SLURM does: to every process of a step, the child too.
    children = Path(f"/proc/{pair[1].pid}/task/{pair[1].pid}/children").read_text().split()
    for number in (pair[1].pid, *map(int, children)):
        os.kill(number, signal.SIGTERM)
    assert len(children) == 1
    first, second = ends(pair, [143, 143])
    (step,) = re.findall(r"saved step (\d+); run the same command", " ".join(first))
    assert f"saved step {step};" in second[-1]
    assert "stopping after this step" in second[0]
    saved = Checkpoints(workdir / "checkpoints", read_only=True)
    assert (saved.steps[-1], saved.faults) == (int(step), {})
    # One process goes on where two stopped; each step is logged once.
    config = runs.make_small(**SEVERAL_SHAPES | {"epochs": 2000})
    with pytest.raises(Interrupted):
        train(config, workdir, stop=runs.stop_at(EPOCH))
    records = read_metrics(workdir / "metrics.jsonl")
    steps = [record["step"] for record in records if record["split"] == "train"]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > int(step)


def test_flags_that_do_not_fit(only_cluster):
    only_cluster({})
    for arguments, message in (
        (("localhost:1234", None, 2), "go together"),
        ((None, 0, None), "go together"),
        ((None, 0, 2), "go together"),
        (("localhost", 0, 2), "write HOST:PORT"),
        (("localhost:port", 0, 2), "write HOST:PORT"),
        ((":1234", 0, 2), "write HOST:PORT"),
        (("localhost:70000", 0, 2), "write HOST:PORT"),
        (("localhost:1234", 2, 2), "numbered from 0 to 1"),
        (("localhost:1234", -1, 2), "numbered from 0 to 1"),
        (("auto", 0, 2), "leave them out"),
        (("auto", None, None), "incomplete .*SLURM_STEP_NODELIST.* start with srun"),
    ):
        refuses(message, launch.find_process_group, *arguments)


@pytest.fixture
def only_cluster(monkeypatch):
    """Set the environment of one cluster, whatever this machine is a part of."""

    def enter(variables):
        for name in filter(CLUSTER.match, [*os.environ]):
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return enter


SLURM = {"SLURM_JOB_ID": "4096", "SLURM_STEP_NODELIST": "node[003-007]"}
SLURM |= {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
AUTO = ("auto", None, None)


def test_who_belongs_to_a_run(only_cluster):
    for arguments, variables, group in (
        ((None, None, None), SLURM, None),
        (("localhost:1234", 0, 1), {}, None),
        (("host:1234", 1, 2), SLURM, ("host:1234", 1, 2)),
        (AUTO, SLURM, ("node003:61440", 5, 8, [1])),
        (AUTO, SLURM | {"SLURM_STEP_NODELIST": "node003"}, ("node003:61440", 5, 8, [1])),
        (AUTO, SLURM | {"SLURM_STEP_NODELIST": "node3,other"}, ("node3:61440", 5, 8, [1])),
        (AUTO, SLURM | {"SLURM_STEP_NODELIST": "a[12,15-17],b[1-2]"}, ("a12:61440", 5, 8, [1])),
        (AUTO, SLURM | {"SLURM_STEP_NODELIST": "gpu-a[007]"}, ("gpu-a007:61440", 5, 8, [1])),
        (AUTO, SLURM | {"JAX_COORDINATOR_PORT": "77"}, ("node003:77", 5, 8, [1])),
        (AUTO, SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    ):
        only_cluster(variables)
        expected = launch.ProcessGroup(*group) if group else None
        assert launch.find_process_group(*arguments) == expected


@pytest.fixture
def initialize(monkeypatch, only_cluster):
    """Stands in for what joins the processes."""
    only_cluster({})
    initialize = Mock()
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "initialize", lambda *arguments: None)
    return initialize


def test_process_0_listens_on_one_address_only(initialize, monkeypatch):
    def address(coordinator):
        launch.connect(launch.ProcessGroup(coordinator, 1, 2, [3]), lost_after=9)
        assert initialize.call_args.args == (coordinator, 2, 1, [3])
        assert initialize.call_args.kwargs["heartbeat_timeout_seconds"] == 9
        return initialize.call_args.kwargs["coordinator_bind_address"]

    assert address("localhost:1234") in ("127.0.0.1:1234", "[::1]:1234")
    assert address("10.1.2.3:99") == "10.1.2.3:99"
    assert address("[fd00::1]:99") == "[fd00::1]:99"
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "0.0.0.0:98")  # the user asks for it
    assert address("10.1.2.3:99") == "0.0.0.0:98"


def test_an_address_that_process_0_cannot_listen_on_is_one_line(initialize):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = f"127.0.0.1:{other.getsockname()[1]}"
        for coordinator, message in (
            (used, f"process 0 cannot listen on {used} .*another port"),
            ("no.such.host.invalid:99", "cannot listen on no.such.host.invalid:99 .*another port"),
            ("0.0.0.0:99", "every network"),
            ("[::]:99", "every network"),
        ):
            refuses(message, launch.connect, launch.ProcessGroup(coordinator, 0, 2), lost_after=9)
    initialize.assert_not_called()


LEADER = "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was"
SILENT = "(stopped sending heartbeats):\n{}\nThe tasks have crashed. Check the 3 logs"


def test_who_was_lost():
    for report, who in (
        (LEADER, "lost process 0 of"),
        (SILENT.format("1"), "lost process 1 of"),
        (SILENT.format("3\n12"), "lost process 3, process 12 of"),
        (SILENT.format("/job:jax_worker/replica:0/task:2"), "lost process 2 of"),
        ("RPC: /xla.coordination/RegisterTask", "not all 4 processes came to host:1234 in 300 s"),
        ("something else", "lost another process of"),
    ):
        assert launch.describe_loss(report, GROUP, 9).startswith(who)


def test_a_signal_from_both_the_cluster_and_the_parent_counts_once(monkeypatch):
    exits = []
    now = [100.0]
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(signals.os, "_exit", exits.append)
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with signals.Stop() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert stop.requested and exits == []
        now[0] += 2  # seconds: someone means it
        signal.raise_signal(signal.SIGTERM)
        assert exits == [143]
