"""Going on where a run stopped, bit for bit, and what is refused or reported on the way."""

import errno
import os
import shutil
import signal
from pathlib import Path
from subprocess import PIPE
from unittest.mock import Mock

import pytest
import runs
from commands import SAMPLE, start
from reviews import refuses, write_csv
from written_runs import write_run

import sentiment_jax
from sentiment_jax.config.recipes import override
from sentiment_jax.data import imdb
from sentiment_jax.errors import InputError, Interrupted, RunError
from sentiment_jax.modes import evaluate
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.pretrain import pretrain
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import Checkpoints, steps_in
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import resume, scoring, trained_model
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.experiment import read_dataset
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import load_run

STEPS = 9  # three epochs of three batches


def send(number):
    """What sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def interrupt_validation(*given, make=scoring.make_eval_step):
    os.kill(os.getpid(), signal.SIGINT)
    return make(*given)


def during(step, act):
    return Progress, "add", runs.at_step(step, act)


@pytest.mark.parametrize(
    ("replaced", "error", "match", "saved"),
    [
        (during(1, send(signal.SIGTERM)), Interrupted, "saved step 2; run the same command", [2]),
        (during(4, send(signal.SIGTERM)), Interrupted, "saved step 5;", [3, 5]),
        (during(STEPS, send(signal.SIGTERM)), Interrupted, "saved step 9;", [6, 9]),
        (during(1, Mock(side_effect=RuntimeError("now"))), RuntimeError, "now", []),
        (during(4, Mock(side_effect=KeyboardInterrupt("now"))), KeyboardInterrupt, "now", [3]),
        ((scoring, "make_eval_step", interrupt_validation), Interrupted, "saved step 3", [3]),
    ],
    ids=["first step", "in an epoch", "last step", "before a save", "after a save", "validation"],
)
def test_a_run_goes_on_exactly(finished, tmp_path, monkeypatch, replaced, error, match, saved):
    with monkeypatch.context() as patch, pytest.raises(error, match=match):
        patch.setattr(*replaced)
        train(runs.make_small(), tmp_path)
    assert not (tmp_path / "result.json").exists()
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps == saved
    train(runs.make_small(), tmp_path)
    runs.assert_same_run(finished, tmp_path)


def test_killed_and_the_same_command_again(finished, tmp_path):
    """A second signal exits at once, which leaves what SIGKILL would."""
    workdir = tmp_path / "killed"
    with start(SAMPLE, *runs.small_flags(), f"--workdir={workdir}", stderr=PIPE) as process:
        runs.wait_until(lambda: runs.lines_of(workdir) >= 4, process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert process.returncode == 143
    assert "Traceback" not in errors and "saved step" not in errors
    assert not (workdir / "result.json").exists()
    train(runs.make_small(), workdir)
    runs.assert_same_run(finished, workdir)


def test_a_finished_run_is_reported_as_such_and_nothing_is_written(run_copy, capsys):
    before = runs.contents_without_lock(run_copy)
    assert train(runs.make_small(), run_copy) == read_json(run_copy / "result.json")
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert runs.contents_without_lock(run_copy) == before


def write_reviews(path, word):
    rows = [
        (f"{word} film {i}, {('bad', 'good')[i % 2]}", ("bad", "good")[i % 2]) for i in range(60)
    ]
    return write_csv(path, rows)


def write_folder(path, word):
    for i in range(60):
        file = path / ("train", "test")[i < 20] / ("neg", "pos")[i % 2] / f"{i}_1.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{word} film {i}, {('bad', 'good')[i % 2]}")
    return str(path)


def write_lines(path, word):
    path.write_text("\n".join(f"{word} film, number {i}" for i in range(60)))
    return str(path)


QUICK = {**runs.ONE_SHAPE, "epochs": 1, "data.limit": 0, "data.test_limit": 0}


@pytest.mark.parametrize(
    ("write", "setting", "more"),
    [
        (write_reviews, "data.path", {"data.source": "csv"}),
        (write_reviews, "data.test_path", {"data.source": "csv"}),
        (write_folder, "data.path", {"data.source": "folder"}),
        pytest.param(
            *(write_lines, "pretrain.text", {"data.teacher": "finished"}), marks=pytest.mark.slow
        ),
        (write_lines, "pretrain.text", {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0}),
    ],
    ids=["table", "test table", "folder", "text of teachers", "text"],
)
def test_finished_is_said_of_the_same_data_alone(finished, tmp_path, capsys, write, setting, more):
    """Else the old model would pass for one of the new data."""
    if setting == "data.test_path":
        more = more | {"data.path": write_reviews(tmp_path / "train", "first")}
    if "data.teacher" in more:
        more = more | {"data.teacher": str(finished)}
    learn = pretrain if "optimizer.name" in more else train
    run = tmp_path / "run"

    def call(path, **options):
        return learn(runs.make_small(**QUICK, **more, **{setting: str(path)}), run, **options)

    first = tmp_path / "first"
    result = call(write(first, "first"))
    before = runs.contents_without_lock(run)
    write(tmp_path / "second", "second")
    write(tmp_path / "elsewhere", "first")
    if setting != "data.test_path":  # whose name is part of the config
        assert call(tmp_path / "elsewhere") == result
        assert "is finished; nothing to do" in capsys.readouterr().out
    for other in ("second", "absent"):
        message = "changed since .*--fresh.*another --workdir" if other == "second" else "absent"
        if setting == "data.test_path":
            message = "another config .*another --workdir"
        refuses(message, call, tmp_path / other)
    if setting == "data.path" and write is write_reviews:
        table = ([f"another {i}" for i in range(60)], ["good", "bad"] * 30)
        refuses("changed since", sentiment_jax.train, runs.make_small(**QUICK), run, table)
    first.rename(tmp_path / "away")
    assert call(first) == result  # gone, but it is the same question
    write(first, "second")
    refuses("changed since", call, first)
    assert runs.contents_without_lock(run) == before
    assert capsys.readouterr().out.count("is finished; nothing to do") == 1


def test_imdb_is_the_same_everywhere(tmp_path, capsys, monkeypatch):
    """It is neither read again nor downloaded, unless another text is asked for."""
    monkeypatch.setattr(imdb, "prepare", Mock(side_effect=InputError("offline")))
    plain = {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0}
    config = runs.make_small(**plain, **{"data.source": "tfds", "data.path": str(tmp_path)})
    write_run(tmp_path / "run", resolve(config, pretrains=True), 0.5)
    for path in (tmp_path, tmp_path / "elsewhere"):
        pretrain(override(config, {"data.path": str(path)}), tmp_path / "run")
        assert "is finished; nothing to do" in capsys.readouterr().out
    other = override(config, {"pretrain.text": write_lines(tmp_path / "text", "other")})
    refuses("offline", pretrain, other, tmp_path / "run")


def test_another_config_is_refused_field_by_field(run_copy):
    other = runs.make_small(**{"batch_size": 8, "optimizer.learning_rate": 0.5})
    message = refuses("batch_size: 16 -> 8; optimizer.learning_rate: 0.003", train, other, run_copy)
    assert message.endswith("; choose another --workdir, or --fresh to start over")


def test_another_environment_ends_the_promise_in_one_line(run_copy, capsys):
    directory = RunDirectory(run_copy)
    env = read_json(directory.env)
    names = ("python", "versions", "devices", "machine", "xla_flags")
    runs.change_json(directory.env, **dict.fromkeys(names, "another"))
    directory.result.unlink()
    train(runs.make_small(), run_copy)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "guessing" not in line)
    assert line.startswith("warning: not bit-exact from here on: ")
    for name in names:
        assert f"{name} was another, is " in line
    directory.result.unlink()
    train(runs.make_small(), run_copy)  # the same environment as the last time
    assert capsys.readouterr().err == ""
    starts = read_json(directory.env)["resumed"]
    assert [start["python"] for start in starts] == [env["python"]] * 2


def change_the_log(run):
    log = run / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b"0.", b"1.").replace(b"train", b"tr\xffin"))


def damage(run, step=STEPS):
    (run / "checkpoints" / str(step) / "params" / "manifest.ocdbt").write_bytes(b"")


def lose_all_saved(run):
    """Until the first, the directory may be given another model.pretrained, of other words."""
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    (run / "tokenizer.json").write_text("another's")


def lose(name):
    return lambda run: (run / name).unlink()


def change_the_predictions(run):
    path = run / "predictions-val.csv"
    path.write_text(path.read_text().replace("0.5", "0.4"))


LOST = [lose("predictions-val.csv"), change_the_predictions, lose("metrics.jsonl"), change_the_log]


@pytest.mark.parametrize("harm", [*LOST, damage, lose_all_saved])
def test_what_was_lost_is_made_again(run_copy, finished, capsys, harm):
    (run_copy / "result.json").unlink()
    harm(run_copy)
    train(runs.make_small(), run_copy)
    said = "resuming at step 6, 3 steps are recomputed" in capsys.readouterr().err
    assert said == (harm is damage)
    runs.assert_same_run(finished, run_copy)


def change_the_data(run):
    runs.change_json(run / "env.json", "data", data_hash="0" * 64)


def change_the_tokenizer(run):
    path = run / "tokenizer.json"
    path.write_text(path.read_text().replace('"film"', '"another"'))


def damage_every_checkpoint(run):
    for step in steps_in(run / "checkpoints"):
        damage(run, step)


@pytest.mark.parametrize(
    ("harm", "message", "readers"),
    [
        (change_the_data, "the data changed since .*hash 0000", "the data changed"),
        (change_the_tokenizer, "tokenizer.json is not what was written .* trained", "is not what"),
        (
            lose("config.json"),
            "checkpoints but no config.json: .* delete the folder$",
            "is no run directory",
        ),
        (
            damage_every_checkpoint,
            "every checkpoint in .* is damaged .*(step 9|found before).*: delete .*, it is trained",
            "checkpoint of step 9 in .* is damaged",
        ),
    ],
)
def test_what_does_not_belong_to_a_run_is_refused_and_kept(run_copy, harm, message, readers):
    (run_copy / "result.json").unlink()
    kept = len([*run_copy.glob("checkpoints/*")])
    harm(run_copy)
    with pytest.raises((InputError, RunError), match=readers):
        evaluate_split([run_copy], "val")
    for _ in range(2):  # the second time as well: never from scratch
        with pytest.raises((InputError, RunError), match=message):
            train(runs.make_small(), run_copy)
    assert len([*run_copy.glob("checkpoints/*")]) == kept > 1


def test_the_best_checkpoint_lost_is_an_error_at_once(tmp_path):
    """Later ones count on it, and would only find out when training has ended."""
    with pytest.raises(Interrupted, match="saved step 7;"):
        train(runs.make_small(), tmp_path, stop=runs.stop_at(9))
    damage(tmp_path, 6)
    for _ in range(2):  # also when it has been set aside before
        with pytest.raises(
            RunError, match=r"best checkpoint \(step 6\) is damaged.*or delete .*, it is"
        ):
            train(runs.make_small(), tmp_path)
    assert (tmp_path / "checkpoints" / "6.corrupt").is_dir()


def test_fresh_removes_the_run_alone_and_empties_what_a_link_leads_to(run_copy, tmp_path):
    scratch = (run_copy / "checkpoints").rename(tmp_path / "scratch")
    (run_copy / "checkpoints").symlink_to(scratch)
    for folder in (run_copy, scratch):
        (folder / "notes").write_text("mine")
    with pytest.raises(Interrupted, match="saved step 2; run the same command without --fresh"):
        train(runs.make_small(seed=5), run_copy, fresh=True, stop=runs.stop_at(2))
    assert RunDirectory(run_copy).read_config().seed == 5
    assert not (run_copy / "result.json").exists()
    assert (run_copy / "notes").read_text() == "mine"
    assert sorted(path.name for path in scratch.iterdir()) == ["2", "notes"]
    assert (run_copy / "checkpoints").is_symlink()


def test_fresh_leaves_what_no_run_wrote(finished, run_copy):
    """Folders of others, and runs, wherever they are among a run's own."""
    fold = shutil.copytree(finished, run_copy / "folds" / "1")
    (fold / "log.txt").write_text("its own")
    foreign = [shutil.copytree(finished, run_copy / "folds" / name) for name in ("mine", "7")]
    for name in ("folds/notes", "folds/1", "folds/2024-05", "checkpoints/2024", "tensorboard"):
        (run_copy / name).mkdir(parents=True, exist_ok=True)
        foreign.append(run_copy / name / "config.json.mine")
        foreign[-1].write_text(name)
    (run_copy / "tensorboard" / "events.out.tfevents.1.host").write_text("its own")
    (run_copy / "folds.deleted").mkdir()
    kept = {p: p.read_bytes() for of in foreign for p in (of, *of.rglob("*")) if p.is_file()}
    train(runs.make_small(seed=5), run_copy, fresh=True)
    assert {path: path.read_bytes() for path in kept} == kept
    assert [p.name for p in (*fold.iterdir(), *(run_copy / "tensorboard").iterdir())] == [
        "config.json.mine"
    ] * 2
    assert not list(run_copy.rglob("*.deleted"))
    directories = [path for path in foreign if path.is_dir()]
    for path in directories:
        runs.assert_same_run(finished, path)


MOVE = Path.rename
FULL = Mock(side_effect=MemoryError("all is used"))


def immutable(*parts):
    """A Path.rename that the kernel refuses for one file."""

    def rename(path, target):
        if path.parts[-len(parts) :] == parts:
            raise OSError(errno.EPERM, "Operation not permitted", str(path))
        return MOVE(path, target)

    return Path, "rename", rename


@pytest.mark.parametrize(
    ("changes", "patch", "message"),
    [
        ({"data.source": "csv", "data.path": "a.csv"}, (), "No such file .* by --config.data.path"),
        ({"batch_size": 4096}, (), "batch_size=4096 is larger than"),
        ({}, (resume, "initializer", FULL), "all is used"),
        ({}, immutable("9"), "over: .*/9: Operation not permitted; nothing"),
        ({}, immutable("6", "params"), "over: .*/6/params: Operation not permitted; nothing"),
        ({}, immutable("6", "params", "_METADATA"), "over: .*_METADATA: Operation not perm"),
        ({}, immutable("2", "curves.png"), "over: .*/2/curves.png: Operation not permitted"),
        ({}, immutable("2", "log.txt"), "over: .*/2/log.txt: Operation not permitted"),
    ],
    ids=["data", "batch size", "memory", "folder", "mounted", "deep", "fold", "log"],
)
def test_what_stops_fresh_leaves_the_old_run_whole(run_copy, monkeypatch, changes, patch, message):
    """Nothing is removed before what replaces it is read and in memory."""
    for fold in ("1", "2"):
        shutil.copytree(run_copy / "checkpoints", run_copy / "folds" / fold / "checkpoints")
        for name in ("config.json", "env.json", "curves.png"):
            shutil.copy(run_copy / name, run_copy / "folds" / fold / name)
        (run_copy / "folds" / fold / "log.txt").write_text("1/3")
    before = runs.contents_without_lock(run_copy)
    if patch:
        owner, name, value = patch
        monkeypatch.setattr(owner, name, value)
    with pytest.raises((InputError, MemoryError), match=message):
        train(runs.make_small(seed=5, **changes), run_copy, fresh=True)
    assert runs.contents_without_lock(run_copy) == before


def test_fresh_counts_once_for_a_job_that_slurm_requeues(finished, run_copy, monkeypatch):
    """If each start discarded the saved step, the job would never end."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    reached = []
    for count in range(2):
        with pytest.raises(Interrupted, match="saved step"):
            train(runs.make_small(), run_copy, fresh=True, stop=runs.stop_at(2))
        reached.append(steps_in(run_copy / "checkpoints")[-1])
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(count + 1))
    assert reached == sorted({*reached})
    train(runs.make_small(), run_copy, fresh=True)
    runs.assert_same_run(finished, run_copy)


def test_fresh_counts_for_a_requeued_job_that_finds_the_run_of_another(run_copy, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train(runs.make_small(**runs.ONE_SHAPE, seed=5, epochs=1), run_copy, fresh=True)
    assert read_json(run_copy / "config.json")["seed"] == 5


def test_a_reader_of_a_run_that_is_started_over_gets_the_new_one(run_copy, monkeypatch, capsys):
    """Never the parameters of one with the config of the other."""
    new = runs.make_small(**{"seed": 5, "data.max_length": 12, "epochs": 1})
    make = trained_model.make_classifier

    def replace_first(*arguments):
        monkeypatch.setattr(trained_model, "make_classifier", make)
        made = make(*arguments)
        train(new, run_copy, fresh=True)
        return made

    old = load_run(run_copy)
    dataset = read_dataset(old.config)
    monkeypatch.setattr(trained_model, "make_classifier", replace_first)
    assert load_run(run_copy).config.seed == 5
    before = runs.contents_without_lock(run_copy)
    monkeypatch.setattr(evaluate, "read_dataset", lambda config: dataset)
    assert evaluate.score_run(old, RunDirectory(run_copy), "val")[0]["examples"] == 12
    assert runs.contents_without_lock(run_copy) == before
    assert "not written: " in capsys.readouterr().err


def test_a_run_goes_on_from_the_same_sources_wherever_they_are(finished, run_copy, tmp_path):
    """Parameters are compared, not paths; a finished run needs no source."""
    learned = lambda run: runs.make_small(**{"model.pretrained": str(run)})  # noqa: E731
    train(runs.make_small(seed=5, epochs=1), tmp_path / "other")
    train(runs.make_small(), tmp_path / "again")  # the same bits, not the same files
    with pytest.raises(Interrupted):
        train(learned(run_copy), tmp_path / "student", stop=runs.stop_at(2))
    shutil.rmtree(run_copy)
    with pytest.raises(InputError, match="learned from other parameters than those in .*other"):
        train(learned(tmp_path / "other"), tmp_path / "student")
    for source in finished, tmp_path / "again":
        with pytest.raises(Interrupted, match="saved step"):
            train(learned(source), tmp_path / "student", stop=runs.stop_at(2))
    env = read_json(tmp_path / "student" / "env.json")
    assert len(env["sources"]) == 1
    result = train(learned(source), tmp_path / "student")
    shutil.rmtree(source)
    assert train(learned(source), tmp_path / "student") == result
    with pytest.raises(InputError, match="learned from other parameters"):
        train(learned(tmp_path / "other"), tmp_path / "student")


def test_a_signal_whose_time_is_up_is_not_the_second():
    with Stop(after=0.0) as stop:
        os.kill(os.getpid(), signal.SIGTERM)  # the second would exit before the save
    assert stop.signalled
    assert not Stop(after=100.0).requested and not Stop().requested


def test_the_command_line_sets_the_time(tmp_path, printed):
    flags = [SAMPLE, *runs.small_flags(), f"--workdir={tmp_path}", "--stop_after=0"]
    assert printed(*flags, code=143) == "saved step 1; run the same command to continue\n"


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])  # the latter: under nohup
def test_sighup_becomes_a_request_unless_nohup_ignores_it(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested == (handler == signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
