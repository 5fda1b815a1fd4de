import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from commands import ROOT, python

from benchmarks.speed import accelerator
from benchmarks.speed.accelerator import JOBS, Job, LeftOut
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import read_json

ENCODERS = [name for name in JOBS if name.startswith(("bert", "electra"))]
# A job's process without the imports of a real one.
FAKE = """
import os, pathlib, subprocess, sys
from sentiment_jax.storage.files import write_json
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2].removeprefix("--job=")
row = {"seconds": 0.1, "examples_per_second": 40, "flops": 10**9, "dtype": "bfloat16"}
if name == "machine":
    row = {"rates": {"bfloat16": 1e11}, "device": "fake", "environment": {}}
found = {"rows": [{"what": f"{name}, training", **row}]}
write_json(folder / "jobs" / f"{name}.json", found)
print(name, file=open(folder / "started", "a"))
if not (folder / "mended").exists():
    if name == "raises": raise ValueError("no luck")
    if name == "memory": sys.exit(137)
    if name == "killed": os.kill(os.getpid(), 9)
    if name == "hangs":
        child = subprocess.Popen(["sleep", "100"])
        (folder / "child").write_text(str(child.pid))
        child.wait()
write_json(folder / "jobs" / f"{name}.json", {**found, "seconds": 1.0})
"""
FAILURES = {"raises": "exit code 1", "memory": "exit code 137", "killed": "SIGKILL"}
FAILURES |= {"hangs": "took longer than 12 s"}


def test_failures_are_recorded_and_only_they_run_again(tmp_path, monkeypatch):
    assert sum(job.seconds for job in JOBS.values()) <= 25 * 60
    names = ("machine", "works", *FAILURES, "last")
    jobs = {name: Job(iter, 1) for name in names} | {"long": Job(iter, 1e6)}
    run = [sys.executable, "-c", FAKE, str(tmp_path)]
    monkeypatch.setattr(accelerator, "JOBS", jobs)
    monkeypatch.setattr(accelerator, "command", lambda name: [*run, f"--job={name}"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = [f"--output={tmp_path}", "--seconds_per_job=12"]

    assert accelerator.main(arguments) == 0
    found = read_json(tmp_path / "accelerator.json")["jobs"]
    assert {n: job["error"] for n, job in found.items() if "error" in job} == FAILURES
    assert all(found[name]["rows"] for name in names) and "seconds" in found["last"]
    child = Path("/proc", (tmp_path / "child").read_text(), "cmdline")  # of the job that hung
    assert not (child.exists() and child.read_bytes())
    table = (tmp_path / "table.md").read_text()
    assert "| killed | **failed: SIGKILL** |" in table and "| long | **not run** |" in table
    assert "| works | works, training | 100.00 | 40 | 10.0% |" in table

    (tmp_path / "mended").touch()
    assert accelerator.main(arguments) == 0
    assert (tmp_path / "started").read_text().split() == [*names, "machine", *FAILURES]
    assert "failed" not in (tmp_path / "table.md").read_text()


def test_a_process_keeps_its_rows_if_the_job_fails(tmp_path, monkeypatch):
    def rows(_):
        yield {"what": "first"}
        raise LeftOut("no data") if lacks else MemoryError("8 GB\nneeded")

    monkeypatch.setattr(startup, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(accelerator, "JOBS", {"job": Job(rows, 1)})
    for lacks, outcome in ((False, "failed: MemoryError: 8 GB"), (True, "left out: no data")):
        assert accelerator.main([f"--output={tmp_path}", "--job=job"]) == int(not lacks)
        assert accelerator.outcome("job", Namespace(output=tmp_path)) == outcome
        assert read_json(tmp_path / "jobs" / "job.json")["rows"] == [{"what": "first"}]


@pytest.mark.slow
def test_every_job_of_an_encoder_comes_to_its_end_at_toy_sizes(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # else a job's would stay
    for name in ENCODERS:
        assert accelerator.main([f"--output={tmp_path}", "--toy", f"--job={name}"]) == 0, name
        assert len(read_json(tmp_path / "jobs" / f"{name}.json")["rows"]) == 2


@pytest.mark.slow
def test_every_other_job_comes_to_its_end_at_toy_sizes(tmp_path):
    others = [name for name in JOBS if name not in ENCODERS]
    module = ("-m", "benchmarks.speed.accelerator", "--toy", f"--output={tmp_path}")
    python(*module, f"--only={'|'.join(others)}")
    found = read_json(tmp_path / "accelerator.json")["jobs"]
    ended = {name for name, job in found.items() if job.keys() & {"seconds", "left_out"}}
    assert ended == {*others}, (tmp_path / "table.md").read_text()
    assert [found[f"kill-{of}"]["rows"][0]["note"] for of in ("lstm", "bert")] == ["bit-exact"] * 2
    assert all("; 0 of 8" in row["note"] for row in found["lstm-cudnn"]["rows"])
