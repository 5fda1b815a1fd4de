"""Messages can't break a run: dead pipes, closed descriptors, ASCII streams, a full disk."""

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import runs
from commands import ROOT, SAMPLE, command_line, start

from benchmarks.silence import watch
from sentiment_jax import main
from sentiment_jax.runtime.terminal import OURS, UNSEEN
from sentiment_jax.storage.checkpoints import steps_in

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
TRAIN = [SAMPLE, *runs.small_flags(epochs=1)]


class Screen(io.TextIOWrapper):
    """A file that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def command(monkeypatch):
    """Run a command as a program does, but in this process, with other streams."""
    monkeypatch.chdir(ROOT)

    def call(*arguments, stdout=None, stderr=None):
        with open(os.devnull, "w") as null, command_line(monkeypatch, arguments):
            monkeypatch.setattr(sys, "stdout", stdout or null)
            monkeypatch.setattr(sys, "stderr", stderr or null)
            return main.run()

    return call


WRITING = """
import sys
from sentiment_jax import main
from sentiment_jax.runtime import terminal

def dispatch():
    sys.stdout.strict = "strict" in sys.argv
    terminal.warn("no such thing")
    print("a row\\n" * 5000)

main.parse = lambda arguments: None
main.dispatch = dispatch
sys.exit(main.run())
"""
WARNING = "warning: no such thing\n"
FULL = "error: disk full or failing: [Errno 28] No space left on device; make room, run "
FULL += "the same command again\n"


@pytest.mark.parametrize(
    ("redirection", "code", "shown"),
    [
        (" >&- 2>&-", 0, ""),
        (" > /dev/full 2>&1", 0, ""),
        (" > /dev/full", 0, WARNING),
        (" strict | head -1", 0, WARNING),
        (" strict > /dev/full", 1, WARNING + FULL),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])  # what is buffered is written, too, at the exit
def test_a_dead_reader_ends_no_program_and_a_full_disk_one_with_a_result(
    redirection, code, shown, unbuffered
):
    """Nor is there a traceback, or an exception ignored at the exit."""
    command = shlex.join([sys.executable, "-c", WRITING]) + redirection
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert (done.returncode, done.stderr) == (code, shown)


def test_a_training_outlives_streams_that_take_nothing(command, tmp_path):
    with open("/dev/full", "w") as stdout, open("/dev/full", "w") as stderr:
        done = command(*TRAIN, f"--workdir={tmp_path}/run", stdout=stdout, stderr=stderr)
    assert done == 0 and (tmp_path / "run" / "result.json").exists()


def test_predictions_end_quietly_with_their_reader_but_not_on_a_full_disk(
    command, finished, tmp_path
):
    predict = ["--mode=predict", f"--workdir={finished}", "--text=fine"]
    reader, writer = os.pipe()
    os.close(reader)
    for stdout, code, message in ((writer, 0, ""), ("/dev/full", 1, FULL)):
        with open(stdout, "w") as stdout, open(tmp_path / "stderr", "w") as stderr:
            assert command(*predict, stdout=stdout, stderr=stderr) == code
        assert (tmp_path / "stderr").read_text() == message


def test_a_stream_of_ascii_gets_replacements(command, finished, tmp_path):
    text = "--text=\u00e7a va \U0001f600 " + "long " * 40
    with open(tmp_path / "shown", "w", encoding="ascii") as stdout:
        command("--mode=predict", f"--workdir={finished}", text, stdout=stdout)
    assert "?a va ?" in (tmp_path / "shown").read_text()


@pytest.mark.parametrize("explain", [[], ["--explain"]])
def test_texts_give_a_terminal_no_commands(command, run_copy, tmp_path, explain):
    """Row 58: ESC sequences, and characters that turn the direction of what follows."""
    text = "--text=good \x1b[2J\x1b]0;title\x07 \u202etxet\u2066 \x1b[8mhidden\r\x9b31m"
    with open(tmp_path / "shown", "w", encoding="utf-8") as stdout:
        command("--mode=predict", f"--workdir={run_copy}", text, *explain, stdout=stdout)
    pages = [*run_copy.glob("explanation.html")]
    assert len(pages) == len(explain)
    for path in (tmp_path / "shown", *pages):
        shown = path.read_text(encoding="utf-8")
        assert not re.search(UNSEEN, shown), shown
        for escape in (r"\x1b", r"\x07", r"\u202e", r"\u2066", r"\x9b"):
            assert escape in shown, escape


def test_a_training_names_each_stage(command, tmp_path):
    with Screen(open(tmp_path / "shown", "wb")) as stderr:
        assert command(*TRAIN, f"--workdir={tmp_path}/run", stderr=stderr) == 0
    shown = (tmp_path / "shown").read_text()
    stages = ["starting", "reading reviews", "making the vocabulary", "encoding"]
    stages += ["preparing the model", "epoch 1/1", "validation", "saving step 3"]
    stages += ["drawing the curves"]
    positions = [shown.find(stage) for stage in stages]
    assert -1 not in positions and positions == sorted(positions), positions


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
with terminal.progress_bar({total}, "reading reviews"):
    time.sleep(3.5)
    terminal.warn("no such thing")
print("done")
"""


def test_a_terminal_shows_a_clock_whatever_a_program_waits_for_and_a_pipe_none():
    """Three programs that wait at the same time: without a total, with one, and on a pipe."""

    def wait(total, pipe):
        command = [sys.executable, "-c", WAITING.format(total=total)]
        return "".join(text for _, text in watch(command, cwd=ROOT, pipe=pipe))

    with ThreadPoolExecutor() as threads:
        *terminals, piped = threads.map(wait, [None, 5, None], [False, False, True])
    for shown in terminals:
        clocks = re.findall(r"reading reviews.*?(\d\d:\d\d)", shown)
        assert clocks[0] == "00:00" and {"00:01", "00:02"} <= {*clocks}, clocks
        assert re.search("\rwarning: no such thing\r\n", shown), "on a line of its own"
        assert shown.endswith("\rdone\r\n"), "the bar is gone"
        assert not re.search(f"(?!{OURS}|\r){UNSEEN}", shown)
    assert piped == "warning: no such thing\ndone\n"
