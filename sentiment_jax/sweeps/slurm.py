"""A sweep's workers as one SLURM job array: every job runs the sweep's own command."""

import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from sentiment_jax.errors import InputError, Interrupted, RunError
from sentiment_jax.storage.files import write_atomically

SCRIPT = r"""#!/bin/bash
# worker.sbatch: one worker of a sweep; any number of them may run at a time.
#SBATCH --job-name=sweep --ntasks=1 --requeue --open-mode=append
#SBATCH --output="{logs}/worker-%a.log"
srun {command}
code=$?
# 143: saved, and there is more to do. SLURM requeues a preempted job by itself.
job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
if [ $code = 143 ] && scontrol show job $job | grep -q PreemptTime=None; then
  scontrol requeue $job
fi
exit $code
"""
QUERY_SECONDS = 30.0  # between two calls of squeue


class Array:
    """The job array that works on a sweep, submitted now or by an earlier command."""

    def __init__(self, directory: Path, jobs: int, options: str, command: Sequence[str]):
        """Write worker.sbatch and submit it with sbatch's `options`, unless an array still runs."""
        self._directory = directory
        self._last_query = time.monotonic()
        record = directory / "array.txt"
        self.number = record.read_text(encoding="utf-8").strip() if record.exists() else ""
        if self.number and self._runs():
            print(f"array    {self.number} was submitted before and goes on", flush=True)
            return
        logs = str(directory.absolute()).replace("%", "%%")
        script = directory / "worker.sbatch"
        write_atomically(script, SCRIPT.format(logs=logs, command=shlex.join(command)))
        arguments = ["--parsable", f"--array=1-{jobs}", *shlex.split(options), str(script)]
        code, output, errors = _call("sbatch", *arguments)
        if code:
            raise InputError(f"sbatch {shlex.join(arguments)} failed: {errors}")
        self.number = output.strip().partition(";")[0]
        write_atomically(record, self.number + "\n")
        print(f"array    {self.number}: sbatch {shlex.join(arguments)}", flush=True)

    def _runs(self) -> bool:
        """Return whether a job of the array waits or runs; True if SLURM does not answer."""
        code, output, errors = _call("squeue", "--noheader", f"--jobs={self.number}")
        return bool(output.strip()) if code == 0 else "Invalid job id" not in errors

    def check(self, stopping: bool) -> None:
        """Raise Interrupted if `stopping`, although the jobs go on; RunError if they have ended."""
        number = self.number
        if stopping:
            raise Interrupted(
                f"array {number} goes on, the same command follows it again; to see it: "
                f"squeue --jobs={number}; to end it: scancel {number}"
            )
        if time.monotonic() - self._last_query > QUERY_SECONDS:
            self._last_query = time.monotonic()
            if not self._runs():
                raise RunError(
                    f"array {number} has ended before the sweep: see {self._directory}/worker-*.log"
                    "; the same command submits another"
                )


def _call(*command: str) -> tuple[int, str, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise InputError(f"--launcher=slurm: no {command[0]} on this machine") from error
    return done.returncode, done.stdout, done.stderr
