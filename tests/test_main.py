"""The command line as a person meets it: one line on stderr and the right exit code."""

import errno
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from unittest.mock import ANY, Mock

import pytest
import runs
from absl import flags
from commands import SAMPLE, python

import sentiment_jax
from configs import lstm
from sentiment_jax import main
from sentiment_jax.config.stored import flatten
from sentiment_jax.data import dataset
from sentiment_jax.modes import export
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory, lock_run
from sentiment_jax.sweeps.directories import find_run

LSTM = "--config=lstm:sample"
SWEEP = f"--mode=sweep {LSTM} --workdir=x"
PREDICT = "--mode=predict --workdir=x"
EVALUATE = f"--mode=evaluate {LSTM} --workdir=x"
STARTS = [SAMPLE, "--config.cpu_devices=1"]  # in a process where JAX has its devices
BEYOND_SENSE = [
    *("seed=-1", "seed=4294967296", "data.split_seed=-1", "data.split_seed=4294967296"),
    *(f"{name}={10**11}" for name in ("data.max_length", "batch_size", "model.hidden_size")),
    *(f"{name}={10**400}" for name in ("epochs", "data.limit")),
    *("cpu_devices=1000000", "data.min_frequency=1e3"),
    *("optimizer.learning_rate=1e39", "optimizer.eps=0", "optimizer.eps=nan"),
    *("data.length_buckets=(64,1.5)", "data.length_buckets=True", "epochs=", "epochs=inf"),
    *("optimizer.clip_norm=fast", "data.group_duplicates=maybe", "model.name=bert"),
]
NO_DATA = "needs --config.data.path=reviews.csv, a table with columns text and label \\("


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{LSTM} stray", "stray argument 'stray'"),
        (f"{LSTM} train", "stray argument 'train'.*did you mean --mode=train\\?"),
        (f"{LSTM} --config.epochs=ten", "--config.epochs=ten: a whole number is expected"),
        (f"{LSTM} --config.batch_size=1e2", "=1e2: a whole number is expected"),
        (f"{LSTM} --config.optimizer.eps=small", "=small: a number is expected"),
        (f"{LSTM} --config.linear_baseline=on", "=on: True or False is expected"),
        (f"{PREDICT} --text=A quiet", "'quiet'; options are written --name=value, with spaces"),
        (f"{PREDICT} --text=x --input=y", "both were given, give one of --text"),
        (PREDICT, "--mode=predict: neither was given, give one of --text"),
        (f"{PREDICT} --text=x --text_column=y", "names a column of --input=FILE"),
        ("--mode=evaluate --workdir=a --label_column=y", "--label_column names a column of --inp"),
        ("--mode=compare --workdir=a --text_column=y", "predict: write --config.data.text_column"),
        (f"{PREDICT} README.md", "did you mean --input=README.md"),
        (f"{PREDICT} --input=x --explain --output=y.csv", "y.csv: --explain writes"),
        ("--config=configs/lstm.py:huge", "unknown variant 'huge'.*sample"),
        ("--config=configs", "no config file 'configs'"),
        ("--config=", "no config file ''"),
        ("--config.epochs=3", "no flag --config.epochs without --config: add --config=lstm"),
        (f"{LSTM} --xyzzy=1", "no flag --xyzzy: see --config=FILE --help"),  # like no other
        *((f"--config={recipe}", NO_DATA) for recipe in ("linear", "encoder")),
        ("", "--mode=train needs --config, lstm:sample or configs/lstm.py"),
        (f"{LSTM} --mode=dance", "dance.*train.*evaluate.*predict"),
        (f"{LSTM} --config.model.name=gpt", "gpt.*bert, electra, distilbert"),
        (f"{LSTM} --config.data.source=web", "web.*tfds, folder, csv, sample"),
        ("--mode=evaluate --workdir=", "--mode=evaluate needs --workdir"),
        ("--mode=export --workdir=x", "--mode=export needs --output"),
        ("--mode=sweep --workdir=x", "--mode=sweep needs --config"),
        (f"{LSTM} --stop_after=1h50m", "--stop_after=1h50m"),
        # A run keeps its config: a setting that was ignored.
        (f"{EVALUATE} --config.epochs=3", "its config.* may change eval_batch_size, data.path"),
        (f"{EVALUATE} --config.eval_batch_size=8 --config.seed=3", "--config.seed: a run keeps"),
        (f"{PREDICT} {LSTM} --text=x --config.data.path=x", "may change no setting"),
        (f"--mode=report {LSTM} --workdir=x --output=y --config.data.path=x", "change no setting"),
        # The nearest name.
        (f"{LSTM} --config.learning_rate=1", "mean --config.optimizer.learning_rate\\?$"),
        (f"{LSTM} --config.hiden_size=8", "mean --config.model.hidden_size\\?$"),
        ("--config=lstm:sampel", "mean sample\\?$"),
        ("--config=lstn:sample", "mean lstm\\?$"),
        ("--config=nowhere/bret.py", "mean bert\\?$"),
        (f"{SWEEP} --sweep_model.hiden_size=8", "mean --sweep_model.hidden_size\\?$"),
        (f"{SWEEP} --sweep_hidden_size=8", "mean --sweep_model.hidden_size\\?$"),
        (f"{SWEEP} --sweep_optimiser=sgd", "mean --sweep_optimizer\\?$"),
        (f"{LSTM} --config.optimzer.name=adam", "mean --config.optimizer.name\\?$"),
        (f"{LSTM} --sweep_data.teacher=x", "mean --config.data.teacher\\?$"),
        (f"{LSTM} --config.optimizer.seed=1", "mean --config.seed\\?$"),
        (f"{LSTM} --config.batchsize 8", "mean --config.batch_size\\?$"),
        (f"{LSTM} --noconfig.data.group_duplicate", "mean --config.data.group_duplicates\\?$"),
        (f"{LSTM} --learning_rate=1", "mean --config.optimizer.learning_rate\\?$"),
        (f"{LSTM} --wrokdir=x", "mean --workdir\\?$"),
        (f"{LSTM} --lr=1", "mean --config.optimizer.learning_rate\\?$"),
        # A flag of another mode.
        (f"{LSTM} --text=good", "--text is a flag of .*=train$"),
        (f"{LSTM} --sweep_optimizer=adam", "--sweep_optimizer is a flag of .*=train$"),
        (f"{LSTM} --sweep_model.hidden_size=8", "--sweep_model.hidden_size is a flag of .*=train$"),
        ("--mode=evaluate --workdir=x --fresh", "--fresh is a flag of .*=evaluate$"),
        (f"{PREDICT} --text=good --split=val", "--split is a flag of .*=predict$"),
        (f"{PREDICT} --text=x --coordinator=host:1", "--coordinator is a flag of .*=predict$"),
        ("--mode=export --workdir=x --output=y --explain", "--explain is a flag of .*=export$"),
        (f"{SWEEP} --nofresh", "--fresh is a flag of .*=sweep$"),
        ("--mode=report --workdir=x --output=y --input=z", "--input is a flag of .*=report$"),
        # Values beyond sense.
        *[(f"{LSTM} --config.{value}", f"[ .]{value.split('=')[0]}") for value in BEYOND_SENSE],
    ],
)
def test_a_bad_command_line_is_one_line(refused, monkeypatch, line, message):
    monkeypatch.setattr(startup, "start", lambda *_: pytest.fail("it starts"))
    assert re.search(message, refused(*shlex.split(line)))


def test_a_config_file_that_raises_is_named_with_its_line(refused, tmp_path):
    """Its own mistake must not look like ours: no traceback of the package."""
    for content, message in {
        "def get_config(:": "line 1: SyntaxError: invalid syntax",
        "import os\nimport nothing_like_it\n": "line 2: ModuleNotFoundError: No module named",
        "def get_config():\n    return {}['x']\n": "line 2: KeyError: 'x'",
        "x = 1\n": "has no get_config(variant)",
        "def get_config():\n    pass\n": "get_config() must return what make_config() makes",
    }.items():
        (tmp_path / "mine.py").write_text(content)
        line = refused(f"--config={tmp_path}/mine.py")
        assert line.startswith(f"error: {tmp_path}/mine.py") and message in line
        assert "Traceback" not in line


def test_help_is_for_people(printed):
    """Every flag once, under the modes that read it, after the examples."""
    shown = printed("--help")
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    titles = [line for line in lines if line and not line.startswith(" ")][1:]
    assert titles[:3] == ["modes", "examples", "every mode"]
    assert {mode for title in titles[3:] for mode in title.split(", ")} == {*main.NEEDED}
    listed = [line.split()[0] for line in lines if line.startswith("  --")]
    axes = {f"--sweep_{field}" for field in main.OTHER_AXES}
    ours = {f"--{flag.name}" for flag in flags.FLAGS.get_key_flags_for_module(main)}
    assert sorted(listed) == sorted(ours - axes | {"--sweep_SETTING"})
    assert not re.search("None|absl|isort|import", shown)


def test_help_names_the_program_that_is_installed(printed, monkeypatch):
    main_name = "python -m sentiment_jax.main"
    assert main_name in printed("--help")
    monkeypatch.setattr(main.os.path, "basename", lambda _: main.COMMAND)
    shown = printed("--help")
    assert main_name not in shown and "\n  sentiment-jax --mode=MODE" in shown


def test_help_of_a_config_lists_its_settings(printed):
    title, *lines = printed("--help", "--config=lstm:sample", "--config.epochs=3").splitlines()
    assert title == "Settings of lstm:sample: flag, value, meaning (what is allowed)"
    groups = [line for line in lines if line[:1].isalpha()]
    assert groups == ["run", "data", "model", "optimizer", "pretrain"]
    settings = dict(line.split(maxsplit=1) for line in lines if "--config." in line)
    assert len(settings) == len(flatten(lstm.get_config()))
    assert re.match(r"3 +passes over the .* \(>= 1 and <= ", settings["--config.epochs"])
    names = r"adam +lbfgs: .* \(sgd \| rmsprop \| adam \| adamw \| lbfgs \| liblinear\)"
    assert re.fullmatch(names, settings["--config.optimizer.name"])


def test_the_version(printed):
    assert printed("--version") == f"sentiment-jax {sentiment_jax.__version__}\n"


def test_evaluate_may_change_where_the_data_are_now(printed, refused, finished, tmp_path):
    """The recipe only names the settings: the run's own source reads the file that has moved."""
    table = tmp_path / "reviews.csv"
    shutil.copy(dataset.SAMPLE, table)
    settings = {"epochs": 1, "data.source": "csv", "data.path": table, "data.test_limit": 12}
    train = [SAMPLE, *runs.small_flags(**settings), f"--workdir={tmp_path}/run"]
    printed(*train)
    table.rename(tmp_path / "there.csv")
    run = ["--mode=evaluate", f"--workdir={tmp_path}/run", SAMPLE]
    assert "cannot read the table" in refused(*run)
    moved = [f"--config.data.path={tmp_path}/there.csv", "--config.eval_batch_size=64"]
    scores = json.loads(printed(*run, "--split=val", *moved).splitlines()[-1])
    assert scores == read_json(tmp_path / "run" / "result.json")["val"]
    assert "eval_batch_size=0 must be" in refused(*run, "--config.eval_batch_size=0")


def test_a_sweeps_directory_stands_for_its_winner(monkeypatch, printed, swept, tmp_path):
    winner = RunDirectory(find_run(swept.directory))
    workdir = f"--workdir={swept.directory}"
    scores = json.loads(printed("--mode=evaluate", workdir).splitlines()[-1])
    assert scores == read_json(winner.result)["test"]
    predict = ["--mode=predict", "--text=a good film"]
    assert printed(*predict, workdir) == printed(*predict, f"--workdir={winner.path}")
    assert f"page: {winner.path}/explanation.html" in printed(*predict, workdir, "--explain")
    (winner.path / "explanation.html").unlink()
    exported = Mock()
    monkeypatch.setitem(export.FORMATS, "transformers", exported)
    printed("--mode=export", workdir, f"--output={tmp_path}/folder")
    exported.assert_called_once_with(ANY, winner.path, tmp_path / "folder")
    printed("--mode=report", workdir, f"--output={tmp_path}/page")
    assert "the choice" in (tmp_path / "page" / "report.html").read_text()


def test_messages_say_what_is_wrong_and_what_to_do(refused, finished, tmp_path, monkeypatch):
    assert "/nowhere/run" in refused("--mode=evaluate", "--workdir=/nowhere/run")
    line = refused("--mode=predict", f"--workdir={finished},", "--text=x")
    assert "names nothing before or after a comma" in line
    monkeypatch.setattr(sys, "stdin", None)  # <&-
    line = refused("--mode=predict", f"--workdir={finished}", "--input=-")
    assert "cannot read --input=-: standard input is closed" in line
    for name in ("run\udcff", "a,b", "c"):
        (tmp_path / name).mkdir()
    line = refused("--mode=report", f"--workdir={tmp_path}/run\udcff", "--output=x")
    assert "run\\udcff" in line and "rename it" in line
    line = refused("--mode=report", f"--workdir={tmp_path}/a,b,{tmp_path}/c", "--output=x")
    assert f"no directory {tmp_path}/a:" in line and "one whose name holds a comma" in line


def test_an_ensemble_and_its_temperatures(printed, refused, finished, run_copy, tmp_path):
    workdirs = f"--workdir={finished},{run_copy}"
    predict = ["--mode=predict", "--text=good", "--text=bad"]
    one = printed(*predict, f"--workdir={finished}")
    assert printed(*predict, workdirs) == one  # the average of two equal runs
    assert printed(*predict, workdirs, "--calibrated") != one
    evaluate = ["--mode=evaluate", workdirs, "--split=val"]
    shown = [printed(*evaluate, *more).splitlines()[-1] for more in ([], ["--calibrated"])]
    plain = json.loads(shown[0])
    calibrated = json.loads(shown[1])
    assert calibrated["accuracy"] == plain["accuracy"] and calibrated["loss"] < plain["loss"]
    for more in ([workdirs], [f"--workdir={finished}", "--calibrated"]):
        assert "--explain takes one run as it is" in refused(*predict, "--explain", *more)
    line = refused(*predict, f"--workdir={finished},{tmp_path}/no")
    assert f"no run directory at {tmp_path}/no" in line
    line = refused(*predict, f"--workdir={finished},~/no-run")  # which no shell expands there
    assert f"no run directory at {Path.home()}/no-run" in line
    comma = shutil.copytree(finished, tmp_path / "a,b")
    assert printed(*predict, f"--workdir={comma}") == one


@pytest.mark.parametrize("names", [["a,b"], ["$x^$", "_b", "n" * 250]])
def test_a_report_of_runs_whatever_their_names(printed, finished, tmp_path, names):
    """A comma, what matplotlib takes for mathematics, a long name."""
    for name in names:
        shutil.copytree(finished, tmp_path / name)
    workdir = ",".join(f"{tmp_path}/{name}" for name in names)
    printed("--mode=report", f"--workdir={workdir}", f"--output={tmp_path}/report")
    assert (tmp_path / "report" / "confusion.png").exists()


def test_a_training_checks_its_directory_before_the_data(refused, tmp_path):
    """A second run in it, or no place to write, must show before minutes of reading."""
    (tmp_path / "file").write_text("")
    line = refused(*STARTS, f"--workdir={tmp_path}/file", "--config.data.path=/nowhere")
    assert "cannot write to --workdir=" in line
    with lock_run(tmp_path):
        line = refused(*STARTS, f"--workdir={tmp_path}", "--config.epochs=1")
    assert "in use by pid " in line


@pytest.mark.parametrize(
    "mode",
    [
        "train --config=linear",
        "train --config=lstm:small",
        "pretrain --config=lstm:pretrain",
        "compare",
        "sweep --config=linear",
        "sweep --config=lstm:small --workers=2",
    ],
)
def test_what_fails_before_it_begins_leaves_no_directory(printed, tmp_path, monkeypatch, mode):
    """Neither the run's nor the one around it, and no lock."""
    monkeypatch.setattr(startup, "start", lambda *_: None)  # JAX has its devices
    (tmp_path / "a.csv").write_text("text,label\ngood,1\n")
    file = "pretrain.text" if "pretrain" in mode else "data.path"
    given = [f"--config.{file}={tmp_path}/a.csv", f"--workdir={tmp_path}/run"]
    *_, line = printed(*f"--mode={mode}".split(), *given, code=2).splitlines()
    assert line.startswith("error: ")
    assert os.listdir(tmp_path) == ["a.csv"]


DISK = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        *[(OSError(code, os.strerror(code), "runs/a"), "disk full or failing") for code in DISK],
        *[(ValueError(f"INTERNAL:\n {os.strerror(c)}"), "disk full or failing") for c in DISK],
        (MemoryError(), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nat"), "out of memory"),
    ],
)
def test_no_room_left_is_one_line(monkeypatch, capsys, error, message):
    """Full disks, and sizes that are allowed and still too much for this machine."""
    monkeypatch.setattr(main, "parse", lambda arguments: None)
    monkeypatch.setattr(main, "dispatch", Mock(side_effect=[error, OSError(errno.ENXIO, "broken")]))
    assert main.main(["main"]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {message}: ") and line.count("\n") == 1
    with pytest.raises(OSError, match="broken"):  # not mistaken for one
        main.main(["main"])


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40 << 10,) * 2)
from sentiment_jax import main
sys.exit(main.run())
"""


@pytest.mark.slow
def test_a_checkpoint_beyond_the_limit_of_files_is_one_line(tmp_path):
    """Orbax's threads log each write that fails, and those that end when its event loop has."""
    train = [SAMPLE, *runs.small_flags(**{"model.hidden_size": 64}), f"--workdir={tmp_path}/run"]
    no_git = {"PATH": ""}  # which the limit would end while it locks the checkout
    (line,) = python("-c", LIMITED, *train, code=1, **no_git).stderr.splitlines()
    assert line.startswith("error: disk full or failing: ") and "File too large" in line


def test_starts_again_with_malloc_tuned_once():
    code = "import os; print(v := os.environ.get('GLIBC_TUNABLES'), flush=True);"
    code += "from sentiment_jax.runtime import startup; startup.tune_malloc()"
    tuned = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=134217728:"
    tuned += "glibc.malloc.trim_threshold=8589934592:glibc.malloc.arena_max=1"
    assert python("-c", code, GLIBC_TUNABLES=None).stdout.split() == ["None", tuned]


@pytest.mark.parametrize(
    ("mode", "config"),
    [
        ("train", LSTM),
        ("pretrain", "--config=lstm:pretrain"),
        ("compare", "--config.data.path=reviews.csv"),
        ("sweep", LSTM),
    ],
)
def test_every_mode_that_trains_is_told_when_to_stop(mode, config, printed, monkeypatch, tmp_path):
    told = Mock()
    monkeypatch.setattr(f"sentiment_jax.modes.{mode}.{mode}", told)
    settings = [config, "--config.cpu_devices=1", f"--workdir={tmp_path}"]
    printed(f"--mode={mode}", *settings, "--stop_after=7")
    assert told.call_args.kwargs["stop_after"] == 7


def test_a_path_that_is_gone_or_another_users_is_one_line(monkeypatch, capsys, tmp_path):
    """As of a run that is moved while it trains, or a folder in the place of a sweep's table."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()

    def replace():
        (tmp_path / "file").replace(tmp_path / "folder")

    def deny():
        raise PermissionError(errno.EACCES, "Permission denied", "run/lock")

    for call, line in (
        ((tmp_path / "moved" / "metrics.jsonl").open, "metrics.jsonl: it was moved or deleted"),
        (replace, f"Is a directory: {tmp_path}/folder: move that directory away"),
        ((tmp_path / "file" / "x").open, "file/x: move that file away"),
        (deny, "Permission denied: run/lock: ask its owner for the right to read and write it"),
    ):
        monkeypatch.setattr(main, "parse", lambda arguments: None)
        monkeypatch.setattr(main, "dispatch", call)
        assert main.main() == 1
        (shown,) = capsys.readouterr().err.splitlines()
        assert shown.startswith("error: ") and line in shown
