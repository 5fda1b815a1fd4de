"""Messages can't break a run: dead pipes, closed descriptors, ASCII streams, a full disk."""

import contextlib
import io
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor

import pytest
import runs
from commands import MAIN, ROOT, SAMPLE, command_line, start

from sentiment_jax import main
from sentiment_jax.runtime.terminal import OURS, UNSEEN
from sentiment_jax.storage.checkpoints import steps_in

TRAIN = [SAMPLE, *runs.small_flags(epochs=1)]


class Stream(io.TextIOWrapper):
    """A stream of a process: to a file, without a buffer for PYTHONUNBUFFERED, or a terminal."""

    def __init__(self, file, *, encoding="utf-8", buffered=True, terminal=False):
        raw = io.FileIO(file, "w")
        binary = io.BufferedWriter(raw) if buffered else raw
        super().__init__(binary, encoding, write_through=not buffered)
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def command(monkeypatch):
    """Run a command in this process as one of its own, whose exit closes these streams."""
    monkeypatch.chdir(ROOT)

    def call(*arguments, stdout=None, stderr=None):
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        with command_line(arguments):
            code = main.run()
        sys.stdout.close()  # what is still buffered is written
        sys.stderr.close()
        return code

    return call


@pytest.mark.parametrize("file", [None, "/dev/full"])
def test_a_training_outlives_its_readers(command, tmp_path, file):
    """A descriptor that is closed at the start is None."""
    streams = {name: file and Stream(file) for name in ("stdout", "stderr")}
    assert command(*TRAIN, f"--workdir={tmp_path}/run", **streams) == 0
    assert (tmp_path / "run" / "result.json").exists()


FULL = "error: disk full or failing: [Errno 28] No space left on device; make room, run "
FULL += "the same command again\n"


@pytest.mark.parametrize("buffered", [True, False])
def test_predictions_end_quietly_but_not_on_a_full_disk(command, finished, tmp_path, buffered):
    reader, writer = os.pipe()
    os.close(reader)
    for file, code, message in ((writer, 0, ""), ("/dev/full", 1, FULL)):
        streams = {"stdout": Stream(file, buffered=buffered), "stderr": Stream(tmp_path / "stderr")}
        predict = ["--mode=predict", f"--workdir={finished}", "--text=fine"]
        assert command(*predict, **streams) == code
        assert (tmp_path / "stderr").read_text() == message


@pytest.mark.slow
def test_the_redirections_of_a_shell(finished, tmp_path):
    """Descriptors that are closed from the start, a reader that leaves a large table early."""

    def shell(command, redirection):
        script = shlex.join([*MAIN, *command]) + redirection
        command = ["bash", "-o", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    shell([*TRAIN, f"--workdir={tmp_path}/run"], " >&- 2>&-")
    assert (tmp_path / "run" / "result.json").exists()
    (tmp_path / "many.txt").write_text("a fine film\n" * 5000)
    predict = ["--mode=predict", f"--workdir={finished}", f"--input={tmp_path}/many.txt"]
    assert shell(predict, " | head -1") == "row,predicted,p_positive,warning\n"


def test_a_stream_of_ascii_gets_replacements(command, finished, tmp_path):
    text = "--text=\u00e7a va \U0001f600 " + "long " * 40
    stdout = Stream(tmp_path / "shown", encoding="ascii")
    command("--mode=predict", f"--workdir={finished}", text, stdout=stdout)
    assert "?a va ?" in (tmp_path / "shown").read_text()


@pytest.mark.parametrize("explain", [[], ["--explain"]])
def test_texts_give_a_terminal_no_commands(command, run_copy, tmp_path, explain):
    text = "--text=good \x1b[2J\x1b]0;title\x07 \u202etxet\u2066 \x1b[8mhidden\r\x9b31m"
    stdout = Stream(tmp_path / "shown")
    command("--mode=predict", f"--workdir={run_copy}", text, *explain, stdout=stdout)
    pages = [*run_copy.glob("explanation.html")]
    assert len(pages) == len(explain)
    for path in (tmp_path / "shown", *pages):
        shown = path.read_text(encoding="utf-8")
        assert not re.search(UNSEEN, shown), shown
        for escape in (r"\x1b", r"\x07", r"\u202e", r"\u2066", r"\x9b"):
            assert escape in shown, escape


def test_a_training_names_each_stage(command, tmp_path):
    stderr = Stream(tmp_path / "shown", terminal=True)
    assert command(*TRAIN, f"--workdir={tmp_path}/run", stderr=stderr) == 0
    shown = (tmp_path / "shown").read_text()
    stages = ["starting", "reading texts", "making the vocabulary", "encoding"]
    stages += ["preparing the model", "epoch 1/1", "validation", "saving step 3"]
    stages += ["drawing the curves"]
    positions = [shown.find(stage) for stage in stages]
    assert -1 not in positions and positions == sorted(positions), positions


@pytest.mark.slow
def test_ctrl_c_that_ends_the_reader_as_well_saves(tmp_path):
    """As `2>&1 | tee log` does: Ctrl-C reaches tee too, and tee ends first."""
    workdir = tmp_path / "run"
    arguments = [*TRAIN, "--config.epochs=10000", f"--workdir={workdir}"]
    with start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as training:
        runs.wait_until((workdir / "checkpoints").exists, training)
        training.stdout.close()
        training.send_signal(signal.SIGINT)
        try:
            assert training.wait(60) == 143
        finally:
            training.kill()
    assert steps_in(workdir / "checkpoints")
    assert not list((workdir / "checkpoints").glob("*.partial"))


WAITING = """
import sys, time
from sentiment_jax.runtime import terminal
terminal.protect_output()
with terminal.progress_bar({total}, "reading texts"):
    time.sleep(3.5)
    terminal.warn("no such thing")
print("done")
"""


def read(command, pipe):
    """Return what a command prints on a terminal, or into a pipe."""
    ours, theirs = os.pipe() if pipe else pty.openpty()
    if not pipe:
        termios.tcsetwinsize(theirs, (24, 100))  # progress bars need a width
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=ROOT)
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # EIO: the other side of the terminal was closed
        while piece := os.read(ours, 1 << 16):
            printed += piece
    os.close(ours)
    assert process.wait() == 0, printed
    return printed.decode()


def test_a_terminal_shows_a_clock_whatever_a_program_waits_for_and_a_pipe_none():
    """Three programs that wait at the same time: without a total, with one, and on a pipe."""

    def wait(total, pipe):
        return read([sys.executable, "-c", WAITING.format(total=total)], pipe)

    with ThreadPoolExecutor() as threads:
        *terminals, piped = threads.map(wait, [None, 5, None], [False, False, True])
    for shown in terminals:
        clocks = re.findall(r"reading texts.*?(\d\d:\d\d)", shown)
        assert clocks[0] == "00:00" and {"00:01", "00:02"} <= {*clocks}, clocks
        assert re.search("\rwarning: no such thing\r\n", shown), "on a line of its own"
        assert shown.endswith("\rdone\r\n"), "the bar is gone"
        assert not re.search(f"(?!{OURS}|\r){UNSEEN}", shown)
    assert piped == "warning: no such thing\ndone\n"
