"""The command line in this process; Python and the command line in processes of their own."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

from absl.testing import flagsaver

ROOT = Path(__file__).parent.parent
MAIN = [sys.executable, "-m", "sentiment_jax.main"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SAMPLE = "--config=configs/lstm.py:sample"
# No test reaches the network, even where there is one: this proxy refuses at once.
ENVIRONMENT = os.environ | dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")


@contextlib.contextmanager
def command_line(arguments):
    """Meanwhile `arguments` are this process's, and its flags and variables may change."""
    # config_flags reads overrides in sys.argv
    argv = mock.patch.object(sys, "argv", ["main", *arguments])
    with argv, mock.patch.dict(os.environ), flagsaver.flagsaver():
        yield


def free_ports(count):
    """Ports that nothing listens on, all different."""
    with contextlib.ExitStack() as opened:
        probes = [opened.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def start(*arguments, **options):
    """Begin a command; its output is nobody's unless `options` say otherwise."""
    settings = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True}
    settings |= {"cwd": ROOT, "env": ENVIRONMENT}
    return subprocess.Popen([*MAIN, *map(str, arguments)], **settings | options)


def python(*arguments, cwd=ROOT, code=0, seconds=280, **environment):
    """Run Python to its end, which must have this exit code; a variable that is None is unset."""
    variables = {**ENVIRONMENT, **environment}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={name: str(value) for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == code, done.stderr
    return done


def run(*arguments, code=0):
    """Run a command to its end, which must have this exit code."""
    return python(*MAIN[1:], *arguments, code=code)
