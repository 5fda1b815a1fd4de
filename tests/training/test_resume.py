"""Going on where a run stopped, bit for bit, and what is refused or reported on the way."""

import errno
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
import runs
from commands import SAMPLE, run, start

from sentiment_jax.config.recipes import override
from sentiment_jax.errors import DiskFull, InputError, Interrupted, RunError
from sentiment_jax.modes import evaluate
from sentiment_jax.modes.evaluate import evaluate_run
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import Checkpoints, steps_in
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import resume, scoring, trained_model
from sentiment_jax.training.experiment import read_corpus
from sentiment_jax.training.run import Progress
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import load_run

STEPS = 9  # three epochs of three batches


@pytest.fixture
def resumed(finished, small_config, tmp_path, monkeypatch):
    """Train with a function replaced, which ends the run; then again, to an uninterrupted run."""

    def call(owner, name, replacement, error, match, saved=None):
        workdir = tmp_path / "stopped"
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, replacement)
            with pytest.raises(error, match=match):
                train(small_config, workdir)
        assert not (workdir / "result.json").exists()
        if saved is not None:
            assert Checkpoints(workdir / "checkpoints", read_only=True).steps == saved
        train(small_config, workdir)
        runs.assert_same_run(finished, workdir)

    return call


@pytest.mark.parametrize("step", [1, 3, 5, STEPS])
def test_sigterm_saves_and_the_same_command_goes_on_exactly(resumed, step):
    terminate = runs.at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    resumed(Progress, "add", terminate, Interrupted, r"saved step \d; run the same command")


def test_a_signal_during_validation_loses_nothing(resumed):
    original = scoring.make_eval_step

    def signal_first(model):
        os.kill(os.getpid(), signal.SIGINT)
        return original(model)

    resumed(scoring, "make_eval_step", signal_first, Interrupted, "saved step 3")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(("step", "saved"), [(1, []), (4, [3])])
def test_an_exception_after_a_save_or_before_the_first(resumed, step, saved, error, monkeypatch):
    read = Checkpoints.bookkeeping  # earlier revisions of format 2 wrote more
    monkeypatch.setattr(Checkpoints, "bookkeeping", lambda *args: read(*args) | {"train_flops": 7})
    fail = runs.at_step(step, Mock(side_effect=error("now")))
    resumed(Progress, "add", fail, error, "now", saved)


def test_a_full_disk_costs_nothing_once_there_is_room(resumed, tmp_path):
    usage = shutil.disk_usage

    def full_at_the_second_save(path):
        used = usage(path)
        return used._replace(free=7) if list(tmp_path.glob("*/checkpoints/3")) else used

    message = r"disk full: 7 bytes free in .* \d[\d,]+ needed for .* step 6"
    resumed(shutil, "disk_usage", full_at_the_second_save, DiskFull, message, [3])


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGKILL], -signal.SIGKILL), ([signal.SIGTERM, signal.SIGINT], 143)],
    ids=["SIGKILL", "two signals"],
)
def test_killed_and_the_same_command_again(finished, small_config, tmp_path, signals, code):
    workdir = tmp_path / "killed"
    flags = runs.small_flags()
    with start(SAMPLE, *flags, f"--workdir={workdir}", stderr=subprocess.PIPE) as process:
        runs.wait_until(lambda: runs.lines_of(workdir) >= 4, process)
        for number in signals:
            process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == code
    assert "Traceback" not in errors and "saved step" not in errors
    assert not (workdir / "result.json").exists()
    train(small_config, workdir)
    runs.assert_same_run(finished, workdir)


def test_a_finished_run_is_reported_as_such_and_nothing_is_written(run_copy, small_config, capsys):
    before = runs.contents_without_lock(run_copy)
    assert train(small_config, run_copy) == read_json(run_copy / "result.json")
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert runs.contents_without_lock(run_copy) == before


def test_another_config_is_refused_field_by_field_or_recorded(run_copy, small_config):
    other = override(small_config, {"batch_size": 8, "optimizer.learning_rate": 0.5})
    with pytest.raises(InputError, match=r"batch_size: 16 -> 8; optimizer.learning_rate: 0.003"):
        train(other, run_copy)
    train(override(small_config, {"epochs": 4}), run_copy, allow_changes=True)
    assert read_json(run_copy / "env.json")["resumed_with_changes"] == [["epochs: 3 -> 4"]]
    assert read_json(run_copy / "result.json")["epochs"] == 4


def test_another_environment_ends_the_promise_in_one_line(run_copy, small_config, capsys):
    directory = RunDirectory(run_copy)
    env = read_json(directory.env)
    write_json(directory.env, env | {"xla_flags": "--other", "python": "3.99"})
    directory.result.unlink()
    train(small_config, run_copy)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "guessing" not in line)
    assert line.startswith("warning: not bit-exact from here on: python was 3.99, is ")
    assert "xla_flags was --other, is " in line
    directory.result.unlink()
    train(small_config, run_copy)  # the same environment as the last time
    assert capsys.readouterr().err == ""
    starts = read_json(directory.env)["resumed"]
    assert [start["python"] for start in starts] == [env["python"]] * 2


def test_other_data_are_refused(run_copy, small_config):
    (run_copy / "result.json").unlink()
    env = read_json(run_copy / "env.json")
    env["data"]["data_hash"] = "0" * 64
    write_json(run_copy / "env.json", env)
    with pytest.raises(InputError, match="the data changed since .*hash 000000000000"):
        train(small_config, run_copy)
    with pytest.raises(InputError, match="the data changed"):
        evaluate_run(run_copy, "val")


def test_checkpoints_without_their_config_are_refused(run_copy, small_config):
    for name in ("result.json", "config.json"):
        (run_copy / name).unlink()
    with pytest.raises(InputError, match="checkpoints but no config.json: .*--fresh"):
        train(override(small_config, {"seed": 5}), run_copy)
    assert steps_in(run_copy / "checkpoints")


def lose_the_log(run):
    (run / "metrics.jsonl").unlink()


def change_the_log(run):
    log = run / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b"0.", b"1.").replace(b"train", b"tr\xffin"))


def damage(run, step=STEPS):
    (run / "checkpoints" / str(step) / "params" / "manifest.ocdbt").write_bytes(b"")


def lose_the_checkpoints(run):
    """Until the first, the directory may be given another model.pretrained, of other words."""
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    (run / "tokenizer.json").write_text("another's")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose_the_log, ""),
        (change_the_log, ""),
        (damage, "resuming at step 6, 3 steps are recomputed"),
        (lose_the_checkpoints, ""),
    ],
)
def test_what_was_lost_is_made_again(run_copy, finished, small_config, capsys, harm, said):
    (run_copy / "result.json").unlink()
    harm(run_copy)
    train(small_config, run_copy)
    assert said in capsys.readouterr().err
    runs.assert_same_run(finished, run_copy)


def test_fresh_removes_the_run_alone_once_what_replaces_it_is_read(run_copy, small_config):
    (run_copy / "notes.txt").write_text("mine")
    before = runs.contents_without_lock(run_copy)
    missing = override(small_config, {"data.source": "csv", "data.path": "reviws.csv"})
    with pytest.raises(InputError, match="cannot read the table reviws.csv"):
        train(missing, run_copy, fresh=True)
    with pytest.raises(InputError, match="batch_size=4096 is larger than"):
        train(override(small_config, {"batch_size": 4096}), run_copy, fresh=True)
    assert runs.contents_without_lock(run_copy) == before
    train(override(small_config, {"seed": 5}), run_copy, fresh=True)
    assert read_json(run_copy / "result.json")["seed"] == 5
    assert (run_copy / "notes.txt").read_text() == "mine"


def test_fresh_empties_what_a_link_leads_to(run_copy, small_config, tmp_path):
    """Row 59: no step of the old run is left to restore, and the link stays."""
    scratch = (run_copy / "checkpoints").rename(tmp_path / "scratch")
    (run_copy / "checkpoints").symlink_to(scratch)
    (scratch / "notes").write_text("mine")
    with pytest.raises(Interrupted, match="saved step 2; run the same command without --fresh"):
        train(override(small_config, {"seed": 5}), run_copy, fresh=True, stop=runs.stop_at(2))
    assert steps_in(scratch) == [2] and (scratch / "notes").exists()
    assert sorted(path.name for path in scratch.iterdir()) == ["2", "notes"]
    assert (run_copy / "checkpoints").is_symlink()


@pytest.mark.parametrize("inside", [False, True])
def test_what_cannot_be_deleted_stops_fresh_before_anything_is(
    run_copy, small_config, monkeypatch, inside
):
    """Row 59: an immutable or mounted checkpoint, or a folder in one."""
    before = runs.contents_without_lock(run_copy)
    rename = Path.rename
    access = os.access

    def refuse(path, target):
        if path.name == "9":
            raise OSError(errno.EPERM, "Operation not permitted", str(path))
        return rename(path, target)

    if inside:
        monkeypatch.setattr(os, "access", lambda p, *how: p.name != "params" and access(p, *how))
    else:
        monkeypatch.setattr(Path, "rename", refuse)
    place = "6/params: it can't be emptied" if inside else "9: Operation not permitted"
    with pytest.raises(InputError, match=f"can't be started over: .*checkpoints/{place}; nothing"):
        train(override(small_config, {"seed": 5}), run_copy, fresh=True)
    assert runs.contents_without_lock(run_copy) == before


def test_fresh_makes_the_new_parameters_before_the_old_run_goes(
    run_copy, small_config, monkeypatch
):
    """What does not fit into memory, or is killed for it, replaces nothing."""
    before = runs.contents_without_lock(run_copy)
    monkeypatch.setattr(resume, "create_state", Mock(side_effect=MemoryError()))
    with pytest.raises(MemoryError):
        train(override(small_config, {"seed": 5}), run_copy, fresh=True)
    assert runs.contents_without_lock(run_copy) == before


def test_fresh_counts_once_for_a_job_that_slurm_requeues(
    finished, run_copy, small_config, monkeypatch
):
    """Row 61."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    reached = []
    for count in range(3):
        with pytest.raises(Interrupted, match="saved step"):
            train(small_config, run_copy, fresh=True, stop=runs.stop_at(2))
        reached.append(steps_in(run_copy / "checkpoints")[-1])
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(count + 1))
    assert reached == sorted({*reached})
    train(small_config, run_copy, fresh=True)
    runs.assert_same_run(finished, run_copy)


def test_a_reader_of_a_run_that_is_started_over_gets_the_new_one(
    run_copy, small_config, monkeypatch, capsys
):
    """Row 62: never the parameters of one with the config of the other."""
    new = override(small_config, {"seed": 5, "data.max_length": 12, "epochs": 1})
    make = trained_model.make_classifier
    replaced = []

    def replace_first(*arguments):
        made = make(*arguments)
        if not replaced:
            replaced.append(True)
            train(new, run_copy, fresh=True)
        return made

    old = load_run(run_copy)
    corpus = read_corpus(old.config)
    monkeypatch.setattr(trained_model, "make_classifier", replace_first)
    assert load_run(run_copy).config.seed == 5
    before = runs.contents_without_lock(run_copy)
    monkeypatch.setattr(evaluate, "read_corpus", lambda config: corpus)
    assert evaluate.score_run(old, RunDirectory(run_copy), "val")[0]["examples"] == 12
    assert runs.contents_without_lock(run_copy) == before
    assert "not written: " in capsys.readouterr().err


def test_a_run_goes_on_from_the_same_sources_wherever_they_are(
    finished, run_copy, small_config, tmp_path
):
    """Row 65: parameters are compared, not paths. Row 66: a finished run needs none."""
    learned = lambda run: override(small_config, {"model.pretrained": str(run)})  # noqa: E731
    train(override(small_config, {"seed": 5, "epochs": 1}), tmp_path / "other")
    train(small_config, tmp_path / "again")  # the same bits, not the same files
    with pytest.raises(Interrupted):
        train(learned(run_copy), tmp_path / "student", stop=runs.stop_at(2))
    shutil.rmtree(run_copy)
    for source in finished, tmp_path / "again":
        with pytest.raises(InputError, match="learned from other parameters than those in .*other"):
            train(learned(tmp_path / "other"), tmp_path / "student")
        with pytest.raises(Interrupted, match="saved step"):
            train(learned(source), tmp_path / "student", stop=runs.stop_at(2))
    env = read_json(tmp_path / "student" / "env.json")
    assert len(env["sources"]) == 1
    write_json(tmp_path / "student" / "env.json", {k: v for k, v in env.items() if k != "sources"})
    result = train(learned(source), tmp_path / "student")  # as an earlier revision left it
    write_json(tmp_path / "student" / "env.json", env)
    shutil.rmtree(source)
    assert train(learned(source), tmp_path / "student") == result
    with pytest.raises(InputError, match="learned from other parameters"):
        train(learned(tmp_path / "other"), tmp_path / "student")


def test_every_checkpoint_bad_is_an_error(run_copy, small_config):
    best = read_json(run_copy / "result.json")["best_step"]
    for step in steps_in(run_copy / "checkpoints"):
        damage(run_copy, step)
    with pytest.raises(RunError, match=f"checkpoint of step {best} in .* is damaged"):
        load_run(run_copy)
    (run_copy / "result.json").unlink()
    with pytest.raises(RunError, match="checkpoint of step 9 in .* is damaged"):
        load_run(run_copy)
    for found in ("step 9", "found before"):  # the second time as well: never from scratch
        with pytest.raises(RunError, match=f"every checkpoint in .* is damaged .*{found}.*--fresh"):
            train(small_config, run_copy)


def test_the_best_checkpoint_lost_is_an_error_at_once(small_config, tmp_path):
    """Later ones count on it, and would only find out when training has ended."""
    with pytest.raises(Interrupted, match="saved step 7;"):
        train(small_config, tmp_path, stop=runs.stop_at(9))
    damage(tmp_path, 6)
    for _ in range(2):  # also when it has been set aside before
        with pytest.raises(RunError, match=r"best checkpoint \(step 6\) is damaged.*--fresh"):
            train(small_config, tmp_path)
    assert (tmp_path / "checkpoints" / "6.corrupt").is_dir()


def test_another_tokenizer_of_the_same_size_is_refused(run_copy, small_config):
    path = run_copy / "tokenizer.json"
    path.write_text(path.read_text().replace('"film"', '"another"'))
    (run_copy / "result.json").unlink()
    message = r"tokenizer.json is not what was written .* trained with"
    with pytest.raises(InputError, match=message):
        load_run(run_copy)
    with pytest.raises(InputError, match=message):
        train(small_config, run_copy)


def test_a_signal_whose_time_is_up_is_not_the_second(small_config, tmp_path):
    with Stop(after=0.0) as stop:
        os.kill(os.getpid(), signal.SIGTERM)  # the second would exit before the save
        with pytest.raises(Interrupted, match="saved step 1;"):
            train(small_config, tmp_path / "run", stop=stop)
    assert not Stop(after=100.0).requested and not Stop().requested


def test_the_command_line_sets_the_time(tmp_path):
    done = run(SAMPLE, f"--workdir={tmp_path}", "--config.epochs=5000", "--stop_after=5", code=143)
    assert re.search(r"saved step \d+; run the same command to continue\n$", done.stderr)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])  # the latter: under nohup
def test_sighup_becomes_a_request_unless_nohup_ignores_it(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested == (handler == signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
