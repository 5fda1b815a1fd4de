"""A job array, submitted to and looked up in commands that stand in for SLURM's."""

import pytest

from sentiment_jax.errors import InputError, Interrupted, RunError
from sentiment_jax.sweeps import slurm


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Let a command print to stdout or stderr and end with a code: `answers("squeue", "7")`."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def answers(command, output="", errors="", code=0):
        path = tmp_path / "bin" / command
        lines = (f"echo '{output}'" if output else "", f"echo '{errors}' >&2" if errors else "")
        path.write_text("\n".join(("#!/bin/sh", *lines, f"exit {code}\n")))
        path.chmod(0o755)

    return answers


def submit(directory, options="--partition=low --gres=gpu:1"):
    return slurm.Array(directory, 8, options, ["python", "-m", "sentiment_jax.main", "a b"])


def test_an_array_is_submitted_once(answers, tmp_path, capsys):
    answers("sbatch", "12;cluster")
    assert submit(tmp_path).number == "12"
    script = tmp_path / "worker.sbatch"
    options = f"--parsable --array=1-8 --partition=low --gres=gpu:1 {script}"
    assert capsys.readouterr().out == f"array    12: sbatch {options}\n"
    assert "\nsrun python -m sentiment_jax.main 'a b'\n" in script.read_text()
    answers("sbatch", "13")
    answers("squeue", "12_[3-8] low sweep root PD 0:00 1 (Priority)")
    assert submit(tmp_path).number == "12"
    answers("squeue", errors="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    assert submit(tmp_path).number == "12"
    for ended in ({}, {"errors": "slurm_load_jobs error: Invalid job id specified", "code": 1}):
        answers("squeue", **ended)
        (tmp_path / "array.txt").write_text("12\n")
        assert submit(tmp_path).number == "13"


def test_an_array_that_ended_early_or_is_left_alone(answers, tmp_path, monkeypatch):
    answers("sbatch", "12")
    answers("squeue")
    array = submit(tmp_path)
    array.check(False)  # asked a moment ago
    with pytest.raises(Interrupted, match="squeue --jobs=12; to end it: scancel 12"):
        array.check(True)
    monkeypatch.setattr(slurm, "QUERY_SECONDS", -1.0)
    with pytest.raises(RunError, match="array 12 has ended before the sweep: see .*worker-"):
        array.check(False)


def test_what_slurm_refuses_is_one_line(answers, tmp_path):
    with pytest.raises(InputError, match="no sbatch on this machine"):
        submit(tmp_path)
    answers("sbatch", errors="sbatch: error: invalid partition specified: low", code=1)
    with pytest.raises(InputError, match=r"sbatch --parsable .*: invalid partition specified: low"):
        submit(tmp_path)
    assert not (tmp_path / "array.txt").exists()
