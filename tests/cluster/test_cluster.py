"""Training, evaluation and sweeps on a real SLURM: docs/guide/cluster.md's scripts as they are.

Only their sizes are this cluster's: two nodes, one task on each.
"""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

import loopback
import pytest
import runs
from commands import ROOT, SAMPLE
from readme import blocks

from sentiment_jax.modes import sweep
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json

PAGE = ROOT / "docs" / "guide" / "cluster.md"
SCRIPTS = [block for block in blocks(PAGE) if block.text.startswith("#!")]
# 150 steps: the processes are caught at the ones that a test wants.
LONG = {**runs.LONGER, "batch_size": 2, "data.limit": 190, "checkpoint_every": 30}
PAIR = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
pytestmark = [pytest.mark.slow, pytest.mark.cluster]
if reason := loopback.missing():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        with loopback.Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
            yield cluster
    except loopback.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def submit(cluster):
    """Submit a script of the page and return its job."""
    scripts = {re.findall(r"# (\S+\.sbatch)", text)[0]: text for _, text in SCRIPTS}

    def submit(name, options, *arguments):
        path = cluster.folder / name
        path.write_text(scripts[name])
        options = (*options, f"--output={cluster.folder}/%j.log")
        return Job(cluster, cluster.call("sbatch", "--parsable", *options, path, *arguments))

    return submit


class Job:
    """A job of the cluster, and what it wrote."""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.number = number

    @property
    def log(self):
        return (self.cluster.folder / f"{self.number}.log").read_text()

    def ends(self, code=0, seconds=150):
        """Wait until the job has ended for good, with this exit code."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}

        def state():
            found = self.cluster.state(self.number)
            return found if found["JobState"] in ended else None

        last = self.cluster.wait_until(state, seconds)
        assert last["ExitCode"] == f"{code}:0", self.log
        return int(last["Restarts"])


def preempt(cluster):
    """Take the whole cluster for a moment."""
    first = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")
    job = cluster.call("sbatch", "--parsable", *first, "--wrap=true")
    cluster.wait_until(lambda: cluster.state(job)["JobState"] == "COMPLETED")


def pause(cluster, directory, reached):
    """Stop the main process of a run, in a directory or of it, where `reached(run)` holds.

    Return process and run. SLURM, or SIGCONT, lets it go on.
    """

    def stop():
        for run in filter(reached, [directory, *directory.glob("lstm-*")]):
            process = int((run / "lock").read_text().split()[1])
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
                time.sleep(0.1)
                if reached(run):
                    return process, run
                os.kill(process, signal.SIGCONT)  # it went on meanwhile
        return None

    return cluster.wait_until(stop, 150, pause=0.002)


def arguments(workdir, **changes):
    return (SAMPLE, f"--workdir={workdir}", *runs.small_flags(**LONG | changes))


@pytest.fixture(scope="module")
def undisturbed(submit, tmp_path_factory):
    """The run of two tasks on two nodes."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert submit("train.sbatch", PAIR, *arguments(workdir)).ends() == 0
    return workdir


def test_two_tasks_train_and_evaluate_as_one_process(cluster, undisturbed, tmp_path):
    train(runs.make_small(**LONG), tmp_path)
    runs.assert_rounding_apart(tmp_path, undisturbed, 2 * 76)
    assert len(read_json(undisturbed / "env.json")["devices"]) == 2
    evaluate = ("-m", "sentiment_jax.main", "--mode=evaluate", f"--workdir={undisturbed}")
    done = cluster.run("srun", *PAIR, "python", *evaluate, "--coordinator=auto")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores == read_json(undisturbed / "result.json")["test"]


def test_a_preempted_job_is_requeued_and_ends_with_the_same_bits(
    cluster, submit, undisturbed, tmp_path
):
    """Twice in a row, the second time while a checkpoint is being written; then time is up."""
    workdir = tmp_path / "run"
    job = submit("train.sbatch", PAIR, *arguments(workdir))
    pause(cluster, workdir, lambda run: runs.lines_of(run) > 15)
    preempt(cluster)
    pause(cluster, workdir, lambda run: list(run.glob("checkpoints/*.partial")))
    preempt(cluster)
    pause(cluster, workdir, lambda run: runs.lines_of(run) > 90)
    cluster.call("scancel", "--signal=CONT", job.number)
    cluster.call("scancel", "--signal=TERM", job.number)  # as --signal=TERM@120 does
    assert job.ends() == 3
    assert len(set(re.findall(r"saved step (\d+)", job.log))) == 3
    assert len(set(re.findall(r"resuming at step (\d+)", job.log))) == 3
    runs.assert_same_run(undisturbed, workdir)


AXES = {
    "procedure": "grid",
    "optimizer": ("adam", "sgd"),
    "batch_size": (2,),
    "learning_rate": (1e-2, 3e-3, 1e-3),
    "seeds": (0, 1),
}


def sweep_arguments(directory):
    axes = (f"--sweep_{name}={','.join(map(str, AXES[name]))}" for name in list(AXES)[1:])
    return *axes, *(flag for flag in arguments(directory, epochs=1) if "batch_size" not in flag)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The table of the sweep that one process completes."""
    directory = tmp_path_factory.mktemp("alone") / "sweep"
    sweep.sweep(runs.make_small(**LONG | {"epochs": 1}), directory, AXES)
    return (directory / "table.csv").read_text()


def test_an_array_loses_a_worker_and_is_preempted_and_gives_the_same_table(
    cluster, submit, alone, tmp_path
):
    """Eight runs. One of two workers is killed and submitted again."""
    directory = tmp_path / "a sweep"  # with a space
    array = submit("worker.sbatch", ("--array=1-2",), *sweep_arguments(directory))

    def in_the_middle(run):
        return runs.lines_of(run) > 5 and not (run / "result.json").exists()

    def number(process):
        variables = Path(f"/proc/{process}/environ").read_text()
        return re.findall(r"\0SLURM_ARRAY_TASK_ID=(\d+)", variables)[0]

    process, paused = pause(cluster, directory, in_the_middle)
    second, _ = pause(cluster, directory, lambda run: run != paused and in_the_middle(run))
    killed, other = number(process), number(second)
    os.kill(process, signal.SIGKILL)
    job = f"{array.number}_{killed}"
    cluster.wait_until(lambda: cluster.state(job)["JobState"] == "FAILED")
    again = submit("worker.sbatch", (f"--array={killed}",), *sweep_arguments(directory))
    job = f"{again.number}_{killed}"
    cluster.wait_until(lambda: cluster.state(job)["JobState"] == "RUNNING")
    preempt(cluster)
    assert Job(cluster, f"{array.number}_{other}").ends(seconds=200) == 1
    Job(cluster, job).ends()
    assert (directory / "table.csv").read_text() == alone
    for log in directory.rglob("log.txt"):
        assert log.read_text().count("epoch   1/1") == 1, log


def test_the_pages_question_about_locks_has_an_answer(cluster, tmp_path):
    """Two tasks ask for one lock: here, where locks are honored, one is refused."""
    (line,) = re.findall(r"<!-- locks -->\n```bash\n(srun .*)\n```", PAGE.read_text())
    command = line.replace("runs/probe", str(tmp_path / "probe")).split()
    assert cluster.run(*command).stderr.count("Exited with exit code 1") == 1
