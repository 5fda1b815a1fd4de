import importlib.util
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from commands import ROOT, python

from benchmarks.speed import accelerator
from benchmarks.speed.accelerator import JOBS
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import read_json

# A job's process without the imports of a real one.
FAKE = """
import os, pathlib, subprocess, sys
from sentiment_jax.storage.files import write_json
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2].removeprefix("--job=")
row = {"seconds": 0.1, "examples_per_second": 40, "flops": 10**9, "dtype": "bfloat16"}
if name == "machine":
    row = {"rates": {"bfloat16": 1e11}}
write_json(folder / "jobs" / f"{name}.json", {"rows": [{"what": f"{name}, training", **row}]})
print(name, file=open(folder / "started", "a"))
if not (folder / "mended").exists():
    if name == "raises": raise ValueError("no luck")
    if name == "memory": sys.exit(137)
    if name == "killed": os.kill(os.getpid(), 9)
    if name == "hangs":
        child = subprocess.Popen(["sleep", "100"])
        (folder / "child").write_text(str(child.pid))
        child.wait()
"""
FAILURES = {"raises": "exit code 1: ValueError: no luck", "memory": "exit code 137"}
FAILURES |= {"killed": "SIGKILL", "hangs": "took longer than 12 s"}


@pytest.mark.slow  # 15 s
def test_failures_are_recorded_and_only_they_run_again(tmp_path, monkeypatch):
    names = ("machine", "works", *FAILURES, "last")
    run = [sys.executable, "-c", FAKE, str(tmp_path)]
    monkeypatch.setattr(accelerator, "JOBS", dict.fromkeys(names, iter))
    monkeypatch.setattr(accelerator, "SECONDS_PER_JOB", 12)
    monkeypatch.setattr(accelerator, "command", lambda name: [*run, f"--job={name}"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = [f"--output={tmp_path}"]

    assert accelerator.main(arguments) == 0
    found = {name: read_json(tmp_path / "jobs" / f"{name}.json") for name in names}
    assert {name: job["error"] for name, job in found.items() if "error" in job} == FAILURES
    assert all(found[name]["rows"] for name in names) and "seconds" in found["last"]
    child = Path("/proc", (tmp_path / "child").read_text(), "cmdline")  # of the job that hung
    assert not (child.exists() and child.read_bytes())
    table = pd.read_csv(tmp_path / "table.csv")
    notes = table.dropna(subset="note").set_index("job")["note"]
    assert notes.to_dict() == {name: f"failed: {error}" for name, error in FAILURES.items()}
    assert table.set_index("what").at["works, training", "mfu"] == pytest.approx(0.1)

    (tmp_path / "mended").touch()
    assert accelerator.main(arguments) == 0
    assert (tmp_path / "started").read_text().split() == [*names, "machine", *FAILURES]
    assert "failed" not in (tmp_path / "table.csv").read_text()


def test_a_process_keeps_its_rows_if_the_job_fails(tmp_path, monkeypatch):
    def rows(_):
        yield {"what": "first"}
        raise MemoryError("8 GB needed")

    monkeypatch.setattr(startup, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(accelerator, "JOBS", {"job": rows})
    with pytest.raises(MemoryError):
        accelerator.main([f"--output={tmp_path}", "--job=job"])
    assert read_json(tmp_path / "jobs" / "job.json") == {"rows": [{"what": "first"}]}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a process for each of the jobs
def test_every_job_comes_to_its_end_at_toy_sizes(tmp_path):
    python("-m", "benchmarks.speed.accelerator", "--toy", f"--output={tmp_path}", seconds=1180)
    found = {name: read_json(tmp_path / "jobs" / f"{name}.json") for name in JOBS}
    if not importlib.util.find_spec("torch"):
        assert "ended before it answered" in found.pop("torch-512")["error"]
    assert all("seconds" in job for job in found.values()), (tmp_path / "table.csv").read_text()
    assert [found[f"kill-{of}"]["rows"][0]["note"] for of in ("lstm", "bert")] == ["bit-exact"] * 2
    assert "; 0 of 32" in found["lstm-cudnn"]["rows"][0]["note"]
