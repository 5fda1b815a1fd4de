"""The command line in a process of its own, started in one way."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAIN = [sys.executable, "-m", "sentiment_jax.main"]
SAMPLE = "--config=configs/lstm.py:sample"
# No test reaches the network, even where there is one: this proxy refuses at once.
ENVIRONMENT = {
    **os.environ,
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


def start(*arguments, **options):
    """Begin a command; its output is nobody's unless `options` say otherwise."""
    settings = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True}
    settings |= {"cwd": ROOT, "env": ENVIRONMENT}
    return subprocess.Popen([*MAIN, *map(str, arguments)], **settings | options)


def run(*arguments, code=0):
    """Run a command to its end, which must have this exit code."""
    with start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=280)
    assert process.returncode == code, errors
    return subprocess.CompletedProcess(process.args, code, output, errors)


def run_elsewhere(command, folder, packages):
    """Run a program in a folder, with Python's packages from another one; return what it prints."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**ENVIRONMENT, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
