"""Messages can't break a run: dead pipes, closed descriptors, ASCII streams, a full disk."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
import runs
from commands import MAIN, ROOT, SAMPLE, start

from benchmarks.silence import watch
from sentiment_jax.runtime.terminal import OURS, UNSEEN
from sentiment_jax.storage.checkpoints import steps_in

TRAIN = [SAMPLE, *runs.small_flags(epochs=1)]


def shell(command, redirection="", code=0, **environment):
    """Run a command in a shell to its end, which must have this exit code."""
    script = shlex.join([*MAIN, *command]) + redirection
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [" >&- 2>&-", " > /dev/full 2>&1"])
def test_a_training_outlives_its_readers(tmp_path, redirection):
    done = shell([*TRAIN, f"--workdir={tmp_path}/run"], redirection)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (tmp_path / "run" / "result.json").exists()


def test_a_stream_of_ascii_gets_replacements(run_copy):
    text = "--text=\u00e7a va \U0001f600 " + "long " * 40
    command = ["--mode=predict", f"--workdir={run_copy}", text]
    assert "?a va ?" in shell(command, PYTHONIOENCODING="ascii").stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])  # what is buffered is written, too, at the exit
def test_predictions_end_quietly_with_their_reader_but_not_on_a_full_disk(
    run_copy, tmp_path, unbuffered
):
    (tmp_path / "many.txt").write_text("a fine film\n" * 5000)
    command = ["--mode=predict", f"--workdir={run_copy}", f"--input={tmp_path}/many.txt"]
    done = shell(command, " | head -1", PYTHONUNBUFFERED=unbuffered)
    assert done.stderr == ""
    assert done.stdout == "row,predicted,p_positive,warning\n"
    done = shell(command, " > /dev/full", code=1, PYTHONUNBUFFERED=unbuffered)
    assert done.stderr.startswith("error: disk full") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_texts_give_a_terminal_no_commands(run_copy, tmp_path):
    """Row 58: ESC sequences, and characters that turn the direction of what follows."""
    text = "--text=good \x1b[2J\x1b]0;title\x07 \u202etxet\u2066 \x1b[8mhidden\r\x9b31m"
    for options in ([], ["--explain", f"--output={tmp_path}/page.html"]):
        command = ["--mode=predict", f"--workdir={run_copy}", text, *options]
        shown = shell(command).stdout
        assert not re.search(UNSEEN, shown), shown
        for escape in (r"\x1b", r"\x07", r"\u202e", r"\u2066", r"\x9b"):
            assert escape in shown, escape
    page = (tmp_path / "page.html").read_text()
    assert not re.search(UNSEEN, page) and r"\u202e" in page


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


@pytest.mark.parametrize("total", [None, 5])
def test_a_terminal_shows_a_clock_whatever_a_program_waits_for(total):
    pieces = watch([sys.executable, "-c", WAITING.format(total=total)], cwd=ROOT)
    shown = "".join(text for _, text in pieces)
    clocks = re.findall(r"reading reviews.*?(\d\d:\d\d)", shown)
    assert clocks[0] == "00:00" and {"00:01", "00:02"} <= {*clocks}, clocks
    assert re.search("\rwarning: no such thing\r\n", shown), "on a line of its own"
    assert shown.endswith("\rdone\r\n"), "the bar is gone"
    assert not re.search(f"(?!{OURS}|\r){UNSEEN}", shown)


def test_a_pipe_stays_quiet():
    pieces = watch([sys.executable, "-c", WAITING.format(total=None)], cwd=ROOT, pipe=True)
    assert "".join(text for _, text in pieces) == "warning: no such thing\ndone\n"


@pytest.mark.slow
def test_a_training_names_each_stage(tmp_path):
    """On a cold cache; the first of them before anything slow is loaded."""
    command = [*MAIN, *TRAIN, f"--workdir={tmp_path}/run"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    shown = "".join(text for _, text in watch(command, cwd=ROOT, env=environment))
    stages = ["starting", "reading reviews", "making the vocabulary", "encoding"]
    stages += ["preparing the model", "epoch 1/1", "validation", "saving step 3"]
    stages += ["drawing the curves"]
    positions = [shown.find(stage) for stage in stages]
    assert -1 not in positions and positions == sorted(positions), positions
