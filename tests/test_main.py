"""The command line as a person meets it: one line on stderr and the right exit code."""

import errno
import os
import sys
import time

import pytest
from absl.testing import flagsaver
from commands import ROOT, SAMPLE, run

from sentiment_jax import main
from sentiment_jax.runtime import startup
from sentiment_jax.storage.run_directory import lock_run

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def one_line(code, stderr):
    """The message of a command that was refused."""
    (line,) = stderr.strip().splitlines()
    assert code == 2 and line.startswith("error: "), stderr
    return line


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must fail, in this process, and return its one line."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")  # main would set it for the later tests

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["main", *arguments])  # config_flags reads overrides there
        with flagsaver.flagsaver():
            code = main.main()
        return one_line(code, capsys.readouterr().err)

    return call


STARTS = [SAMPLE, "--config.cpu_devices=1"]  # in a process where JAX has its devices


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([SAMPLE, "--config.optimzer.name=adam"], ["optimzer", "optimizer"]),
        ([SAMPLE, "--config.optimizer.nam=adam"], ["nam", "name"]),
        ([SAMPLE, "--workdri=x"], ["Unknown command line flag 'workdri'", "mean: workdir"]),
        ([SAMPLE, "stray"], ["stray argument 'stray'"]),
        ([SAMPLE, "--config.epochs=many"], ["many"]),
        ([SAMPLE, "--config.batch_size=1e2"], ["1e2"]),
        (["--config=configs/lstm.py:huge"], ["unknown variant 'huge'", "sample"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py"]),
        ([], ["--mode=train needs --config, configs/lstm.py"]),
        ([SAMPLE, "--mode=dance"], ["dance", "train", "evaluate", "predict"]),
        ([SAMPLE, "--config.optimizer.name=adagrad"], ["adagrad", "sgd, rmsprop, adam, adamw"]),
        ([SAMPLE, "--config.model.name=gpt"], ["gpt", "bert, electra, lstm"]),
        ([SAMPLE, "--config.data.source=web"], ["web", "tfds, folder, csv, sample"]),
        ([SAMPLE, "--config.batch_size=0", "--config.epochs=0"], ["batch_size=0", "epochs=0"]),
        (["--mode=evaluate"], ["--mode=evaluate needs --workdir"]),
        (["--mode=export", "--workdir=x"], ["--mode=export needs --output"]),
        (["--mode=sweep", "--workdir=x"], ["--mode=sweep needs --config"]),
        (["--mode=evaluate", "--workdir=/nowhere/run"], ["/nowhere/run"]),
        (["--mode=predict", "--workdir=x"], ["--text", "--input"]),
    ],
)
def test_bad_command_lines(refused, arguments, parts):
    line = refused(*arguments)
    for part in parts:
        assert part in line


def test_help_is_quick():
    start = time.perf_counter()
    done = run("--help")
    assert "--workdir" in done.stdout
    done = run("--help", SAMPLE, "--config.epochs=3")
    (line,) = [line for line in done.stdout.splitlines() if "--config.epochs" in line]
    assert " 3 " in line and line.endswith("passes over the training reviews (>= 1)")
    assert time.perf_counter() - start < 20  # 2.5 s on an idle machine


def test_an_unwritable_workdir_fails_before_data(refused, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(*STARTS, f"--workdir={tmp_path}/file", "--config.data.path=/nowhere")
    assert f"cannot write to --workdir={tmp_path}/file" in line


def test_two_runs_in_one_workdir(refused, tmp_path):
    with lock_run(tmp_path):
        line = refused(*STARTS, f"--workdir={tmp_path}")
    assert f"in use by pid {os.getpid()} on " in line


def test_a_batch_larger_than_the_data(refused, tmp_path):
    line = refused(*STARTS, f"--workdir={tmp_path}/run", "--config.batch_size=4000")
    assert "batch_size=4000 is larger than the 308 training reviews" in line


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("text,label\ngood film,pos\nbad film,maybe\n", ["maybe", "row", "3"]),
        ("review,label\ngood film,pos\n", ["text", "review"]),
        ("text,label\ngood film,pos\nfine film,pos\n", ["negative"]),
    ],
)
def test_a_bad_csv(refused, tmp_path, content, parts):
    (tmp_path / "mine.csv").write_text(content)
    line = refused(
        *STARTS,
        f"--workdir={tmp_path}/run",
        "--config.data.source=csv",
        f"--config.data.path={tmp_path}/mine.csv",
    )
    for part in parts:
        assert part in line


def test_no_prepared_data_and_no_network(tmp_path):
    start = time.perf_counter()
    done = run(
        "--config=configs/lstm.py",
        f"--workdir={tmp_path}/run",
        f"--config.data.path={tmp_path}/tensorflow_datasets",
        code=2,
    )
    assert "data.path" in one_line(done.returncode, done.stderr)
    assert time.perf_counter() - start < 60  # seconds; TFDS alone retries for minutes


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/metrics.jsonl"),
        ValueError("RESOURCE_EXHAUSTED: Error writing:\n No space left on device"),
    ],
)
def test_a_disk_that_fills_up_in_the_middle_of_a_write(monkeypatch, capsys, error):
    errors = [error, OSError(errno.EIO, "broken")]
    monkeypatch.setattr(main, "parse", lambda arguments: None)
    monkeypatch.setattr(main, "dispatch", lambda: raise_(errors.pop(0)))
    assert main.main(["main"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: disk full: ") and line.count("\n") == 1
    with pytest.raises(OSError, match="broken"):  # not mistaken for one
        main.main(["main"])


def test_starts_again_with_malloc_tuned_once(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "environ", {})
    startup.tune_malloc()
    assert started == [(sys.executable, sys.orig_argv)]
    assert os.environ["GLIBC_TUNABLES"] == (
        "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=134217728:"
        "glibc.malloc.trim_threshold=8589934592:glibc.malloc.arena_max=1"
    )
    startup.tune_malloc()
    assert len(started) == 1
