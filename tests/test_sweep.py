"""What a sweep does with its runs; their training is replaced where it does not matter."""

import errno
import itertools
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs import bert, electra, lstm
from sentiment_jax import config as configs
from sentiment_jax import study, sweep, writer
from sentiment_jax.errors import DiskFull, Diverged, InputError, InUse, RunError

ROOT = Path(__file__).parent.parent
AXES = {
    "procedure": "grid",
    "optimizer": ("sgd", "adam", "adamw"),
    "batch_size": (8, 16),
    "learning_rate": (1e-2, 1e-3),
    "seeds": (0, 1, 2),
}
BEST = {"optimizer": "adam", "batch_size": 16, "learning_rate": 1e-3}


def accuracy(config):
    """Separable, its maximum at BEST."""
    return (
        0.5
        + {"sgd": 0, "adam": 0.2, "adamw": 0.1}[config.optimizer.name]
        + {8: 0, 16: 0.1}[config.batch_size]
        + {1e-2: 0, 1e-3: 0.05, 1e-4: -0.1}[config.optimizer.learning_rate]
        + config.seed / 100
    )


class Training:
    """Stands in for train.train; remembers what it was asked for, fails where told to."""

    def __init__(self):
        self.runs, self.errors = [], {}

    def __call__(self, config, directory, *, score_test, prepare):
        with writer.lock(directory):
            prepare(config)
            number = len(self.runs)
            self.runs.append((directory, score_test))
            if number in self.errors:
                raise self.errors[number]
            scores = {"loss": 0.5, "accuracy": accuracy(config), "examples": 12}
            result = {"model": "lstm", "best_epoch": 1, "val": scores, "train_seconds": 1.0}
            result |= {"test": scores} if score_test else {}
            writer.write_json(directory / "result.json", result)
            return result


@pytest.fixture
def training(monkeypatch):
    training = Training()
    monkeypatch.setattr(sweep.train, "train", training)
    return training


@pytest.fixture
def now(monkeypatch):
    """Nobody comes to end the runs that others hold: waiting is a mistake."""

    def refuse(seconds):
        raise AssertionError("the sweep waits")

    monkeypatch.setattr(sweep.time, "sleep", refuse)


def contents(directory):
    """Every file below a directory, bytes and time of change."""
    return {
        path.relative_to(directory): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def table(directory):
    return (directory / "table.csv").read_text()


# The real thing, once


def test_only_the_winner_meets_the_test_set(swept):
    # Two of the four runs diverge in their first epoch; two seeds of the winner follow.
    scored = [split for split in swept.scored if split != "predict"]
    assert scored == 3 * ["validation"] * 2 + (3 * ["validation"] + ["test"]) * 2


def test_runs_share_what_was_read_and_compiled(swept):
    assert swept.prepared == 1, "the reviews were read again"
    assert swept.compiled <= 2, "more than one train step for an optimizer"


def test_the_files_of_a_sweep(swept):
    runs = [path for path in swept.directory.iterdir() if path.is_dir() and path.name != "final"]
    assert len(runs) == 4
    for run in [*runs, *(swept.directory / "final").iterdir()]:
        assert run.name == configs.run_name(configs.read_run_config(run))
        final = run.parent.name == "final"
        tests = [r for r in writer.read_metrics(run / "metrics.jsonl") if r["split"] == "test"]
        assert len(tests) == final
        assert (run / "predictions.csv").exists() == (run / "lengths.csv").exists() == final
        if (run / "result.json").exists():
            result = writer.read_json(run / "result.json")
            assert ("test" in result) == final
            assert result["val"]["examples"] == 12
    seeds = [configs.read_run_config(run).seed for run in (swept.directory / "final").iterdir()]
    assert sorted(seeds) == [0, 1]


def test_divergence_is_listed_at_its_step(swept):
    failures = {
        path.parent.name: writer.read_json(path) for path in swept.directory.glob("*/failed.json")
    }
    assert sorted(name.rpartition("-")[0] for name in failures) == [
        "lstm-adam-16-1e+30-seed0",
        "lstm-sgd-16-1e+30-seed0",
    ]
    for failure in failures.values():
        assert failure["step"] == 1
        assert "diverged at step 1" in failure["reason"]
        assert "1e+30" in failure["reason"]
    assert table(swept.directory).count("failed at step 1") == 2


# Choosing


@pytest.mark.parametrize("procedure", ["grid", "stages"])
def test_finds_the_best_setting(small_config, tmp_path, training, now, capsys, procedure):
    axes = {**AXES, "procedure": procedure}
    sweep.sweep(small_config, tmp_path, axes)
    output = capsys.readouterr().out
    chosen = [directory for directory, score_test in training.runs if not score_test]
    assert len(chosen) == len(set(chosen)) == (12 if procedure == "grid" else 5)
    tested = [directory for directory, score_test in training.runs if score_test]
    assert [d.parent for d in tested] == [tmp_path / "final"] * 3
    assert training.runs[-3:] == [(d, True) for d in tested], "tested before all were chosen from"
    for seed, directory in enumerate(tested):
        assert directory.name.startswith(f"lstm-adam-16-0.001-seed{seed}-")
    total = len(training.runs)
    assert f"{total} runs of at most 3 epochs" in output
    assert f"{total}/{total}" in output
    assert "ETA" in output
    assert "best     adam, batch 16, learning rate 0.001\n" in output
    assert "accuracy 0.8600 ± 0.0100" in output


def test_stages_vary_one_axis_from_the_winner_so_far(small_config, tmp_path):
    plan = study.make_plan(
        small_config,
        {**AXES, "procedure": "stages", "start": {"batch_size": 8, "learning_rate": 1e-2}},
    )
    stages = study.stages(plan, tmp_path)
    seen = {}
    for runs in stages:
        seen[runs[0].stage] = [run.setting for run in runs]
        for run in runs:
            run.directory.mkdir(parents=True, exist_ok=True)
            scores = {"loss": 0.5, "accuracy": accuracy(run.config)}
            writer.write_json(run.directory / "result.json", {"val": scores})
    names = ("optimizer", "batch_size", "learning_rate")
    assert {stage: [tuple(s[n] for n in names) for s in s_] for stage, s_ in seen.items()} == {
        "optimizer": [("sgd", 8, 1e-2), ("adam", 8, 1e-2), ("adamw", 8, 1e-2)],
        "batch_size": [("adam", 8, 1e-2), ("adam", 16, 1e-2)],
        "learning_rate": [("adam", 16, 1e-2), ("adam", 16, 1e-3)],
        "final": [("adam", 16, 1e-3)] * 3,
    }
    assert plan.count_runs() == len(list(tmp_path.glob("lstm-*"))) + 3


def test_ties_are_broken_by_the_loss_then_by_the_order(small_config, tmp_path):
    plan = study.make_plan(small_config, {**AXES, "batch_size": (8,), "learning_rate": (1e-3,)})
    (runs, *_) = study.stages(plan, tmp_path)

    def winner(*scores):
        for run, score in zip(runs, scores, strict=True):
            run.directory.mkdir(exist_ok=True)
            (run.directory / "result.json").unlink(missing_ok=True)
            if score is not None:
                value = {"accuracy": score[0], "loss": score[1]}
                writer.write_json(run.directory / "result.json", {"val": value})
        best = study.winner(runs)
        return best and best.setting["optimizer"]

    assert winner((0.8, 0.3), (0.9, 0.5), (0.9, 0.4)) == "adamw"
    assert winner((0.9, 0.4), (0.9, 0.4), (0.8, 0.1)) == "sgd"
    assert winner((0.9, 0.4), None, (0.8, 0.1)) is None, "chosen while a run was open"


def test_optimizer_settings_come_with_their_optimizer(small_config):
    settings = {"adamw": {"weight_decay": 0.01}, "adam": {"weight_decay": 0.0}}
    axes = {**AXES, "optimizer_settings": settings}
    decays = {}
    for overridden in ((), ("optimizer.weight_decay",)):
        small_config.optimizer.weight_decay = 0.5
        plan = study.make_plan(small_config, axes, overridden)
        decays[overridden] = [
            plan.run_config({**BEST, "optimizer": name}, 0).optimizer.weight_decay
            for name in ("sgd", "adam", "adamw")
        ]
    assert decays == {(): [0.5, 0.0, 0.01], ("optimizer.weight_decay",): [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("module", "variant", "runs"),
    [
        *[(lstm, "", 24 + 3), (lstm, "sample", 24 + 3)],
        *[(bert, "", 7 + 3), (bert, "tiny", 7 + 3), (bert, "long", 7 + 3)],
        *[(electra, "", 7 + 3), (electra, "tiny", 7 + 3), (electra, "long", 7 + 3)],
    ],
)
def test_the_configs_have_the_studys_sweeps(module, variant, runs):
    config = module.get_config(variant)
    plan = study.make_plan(config, module.get_sweep(variant))
    assert plan.count_runs() == runs
    assert plan.axes["optimizer"] == ("sgd", "rmsprop", "adam", "adamw")
    if variant != "tiny" and variant != "sample":
        assert plan.axes["learning_rate"] == (1e-4, 5e-5, 3e-5)
        assert plan.axes["batch_size"] == ((256, 512) if module is lstm else (16, 32))
    adamw = plan.run_config({**plan.start, "optimizer": "adamw"}, 0)
    adam = plan.run_config({**plan.start, "optimizer": "adam"}, 0)
    assert (adam.optimizer.weight_decay, adamw.optimizer.weight_decay) == (0.0, 0.01)


# State on disk


def test_a_killed_sweep_goes_on_where_it_was(small_config, tmp_path, training, now):
    sweep.sweep(small_config, tmp_path / "whole", AXES)
    training.errors = {len(training.runs) + 4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(small_config, tmp_path / "killed", AXES)
    before = contents(tmp_path / "killed")
    finished = {path.parent for path in before if path.name == "result.json"}
    assert len(finished) == 4
    sweep.sweep(small_config, tmp_path / "killed", AXES)
    after = contents(tmp_path / "killed")
    kept = [path for path in before if path.parent in finished]
    assert len(kept) >= 4
    assert all(before[path] == after[path] for path in kept)
    assert table(tmp_path / "killed") == table(tmp_path / "whole")


def test_a_finished_sweep_trains_nothing_again(small_config, tmp_path, training, now, capsys):
    sweep.sweep(small_config, tmp_path, AXES)
    count, before = len(training.runs), table(tmp_path)
    sweep.sweep(small_config, tmp_path, AXES)
    assert len(training.runs) == count
    assert table(tmp_path) == before
    assert "15 of 15 runs had ended before" in capsys.readouterr().out


def test_failures_are_listed_and_do_not_stop_the_rest(
    small_config, tmp_path, training, now, capsys
):
    training.errors = {0: Diverged("diverged at step 7: no", 7), 3: ValueError("odd\nshape")}
    sweep.sweep(small_config, tmp_path, AXES)
    captured = capsys.readouterr()
    failures = [writer.read_json(path) for path in sorted(tmp_path.glob("*/failed.json"))]
    assert sorted(f["reason"] for f in failures) == [
        "ValueError: odd shape",
        "diverged at step 7: no",
    ]
    assert {f["step"] for f in failures} == {7, 0}
    assert captured.out.count("FAILED: ") == 2
    assert "Traceback" in captured.err, "a programming error leaves its trace"
    assert len(training.runs) == 15
    sweep.sweep(small_config, tmp_path, AXES)
    assert len(training.runs) == 15, "failed runs were tried again unasked"
    training.errors = {}
    sweep.sweep(small_config, tmp_path, AXES, retry_failed=True)
    assert len(training.runs) == 17
    assert not list(tmp_path.glob("*/failed.json"))


def test_nothing_to_choose_from(small_config, tmp_path, training, now):
    training.errors = {number: Diverged("diverged", 1) for number in range(12)}
    with pytest.raises(RunError, match=r"0 of the 12 runs of the grid stage finished.*retry_fail"):
        sweep.sweep(small_config, tmp_path, AXES)
    assert len(training.runs) == 12
    assert len(table(tmp_path).splitlines()) == 13


@pytest.mark.parametrize("error", [DiskFull("disk full"), OSError(errno.ENOSPC, "no space")])
def test_a_full_disk_is_no_fault_of_the_run(small_config, tmp_path, training, now, error):
    training.errors = {1: error}
    with pytest.raises(DiskFull):
        sweep.sweep(small_config, tmp_path, AXES)
    assert not list(tmp_path.glob("*/failed.json"))
    training.errors = {}
    sweep.sweep(small_config, tmp_path, AXES)
    assert len(list(tmp_path.glob("*/result.json"))) == 12


def test_another_plan_or_other_data_are_refused(small_config, tmp_path, training, now):
    path = tmp_path / "reviews.csv"
    shutil.copy(ROOT / "sentiment_jax" / "sample.csv", path)
    small_config.data.source, small_config.data.path = "csv", str(path)
    directory = tmp_path / "sweep"
    sweep.sweep(small_config, directory, AXES)
    before = contents(directory)
    with pytest.raises(InputError, match=r"another sweep \(axes.batch_size: \(8, 16\) -> \(8,\)"):
        sweep.sweep(small_config, directory, {**AXES, "batch_size": (8,)})
    small_config.epochs = 9
    with pytest.raises(InputError, match=r"another sweep \(config.epochs: 3 -> 9\)"):
        sweep.sweep(small_config, directory, AXES)
    small_config.epochs = 3
    small_config.log_every = 99  # changes no number
    sweep.sweep(small_config, directory, AXES)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="the data changed since the sweep"):
        sweep.sweep(small_config, directory, AXES)
    after = contents(directory)
    assert all(after[name] == before[name] for name in before if name.name != "table.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": ("adam", "adamx")}, "optimizer.name='adamx' is unknown, choose sgd"),
        ({"batch_size": ("16", "x")}, "--sweep_batch_size=16,x: int values expected"),
        ({"batch_size": (0,)}, "batch_size=0 must be >= 1"),
        ({"batch_size": (9999,)}, r"batch_size=9999 is larger than the \d+ training reviews"),
        ({"learning_rate": ()}, "--sweep_learning_rate is empty"),
        ({"learning_rate": ("nan",)}, "optimizer.learning_rate=nan"),
        ({"seeds": (-1,)}, "--sweep_seeds: -1 is negative"),
        ({"procedure": "random"}, "procedure='random' is unknown, choose grid, stages"),
        ({"momentum": (1,)}, r"get_sweep\(\) has batch_size, .*momentum"),
    ],
)
def test_bad_axes(small_config, tmp_path, training, changes, message):
    with pytest.raises(InputError, match=message):
        sweep.sweep(small_config, tmp_path, {**AXES, **changes})
    assert not training.runs
    assert not (tmp_path / "sweep.json").exists()


def test_a_field_of_an_axis_on_the_command_line_is_refused(small_config, tmp_path):
    with pytest.raises(InputError, match="config.batch_size is an axis .* use --sweep_batch_size"):
        sweep.sweep(small_config, tmp_path, AXES, overridden={"batch_size": 7, "epochs": 3})


# Several processes


def test_runs_in_use_are_passed_over_and_waited_for(small_config, tmp_path, training, monkeypatch):
    plan = study.make_plan(configs.resolve(small_config), AXES)
    (runs, *_) = study.stages(plan, tmp_path)
    held = runs[1]
    held.directory.mkdir()
    lock = writer.lock(held.directory)
    lock.__enter__()
    waits = itertools.count()

    def other_process(seconds):
        if next(waits) == 2:
            scores = {"loss": 0.1, "accuracy": 0.99, "examples": 12}
            result = {"val": scores, "best_epoch": 1, "train_seconds": 1.0}
            writer.write_json(held.directory / "result.json", result)
            lock.__exit__(None, None, None)

    monkeypatch.setattr(sweep.time, "sleep", other_process)
    sweep.sweep(small_config, tmp_path, AXES)
    directories = [directory for directory, _ in training.runs]
    assert held.directory not in directories
    assert len(directories) == 11 + 3
    # What the other process found counts: sgd, batch 8, 1e-3.
    assert directories[-1].name.startswith("lstm-sgd-8-0.001-seed2")


def test_a_dead_processs_run_is_taken_over(small_config, tmp_path, training, monkeypatch):
    plan = study.make_plan(configs.resolve(small_config), AXES)
    (runs, *_) = study.stages(plan, tmp_path)
    runs[1].directory.mkdir()
    lock = writer.lock(runs[1].directory)
    lock.__enter__()
    monkeypatch.setattr(sweep.time, "sleep", lambda _: lock.__exit__(None, None, None))
    sweep.sweep(small_config, tmp_path, AXES)
    assert [directory for directory, _ in training.runs[11:12]] == [runs[1].directory]
    assert len(training.runs) == 15


def test_shares_take_every_nth_and_the_last_tests(small_config, tmp_path, training, now, capsys):
    sweep.sweep(small_config, tmp_path, AXES, only="1/2")
    first = [directory for directory, _ in training.runs]
    assert len(first) == 6
    assert "6 runs are open" in capsys.readouterr().out
    sweep.sweep(small_config, tmp_path, AXES, only="2/2")
    assert len(training.runs) == 15
    assert len({directory for directory, _ in training.runs}) == 15
    assert [score for _, score in training.runs] == [False] * 12 + [True] * 3


@pytest.mark.parametrize("share", ["0/2", "3/2", "x", "1", "1/0", "-1/2"])
def test_bad_shares(small_config, tmp_path, share):
    with pytest.raises(InputError, match="--only"):
        sweep.sweep(small_config, tmp_path, AXES, only=share)


def test_a_held_run_directory_says_so(tmp_path):
    with writer.lock(tmp_path), pytest.raises(InUse), writer.lock(tmp_path):
        pass


# The command


def start(directory, *arguments, **options):
    small = (
        *("--config=configs/lstm.py:sample", "--mode=sweep"),
        *("--config.data.limit=60", "--config.data.test_limit=30", "--config.data.max_length=24"),
        *("--config.epochs=2", "--config.checkpoint_every=2", "--config.model.hidden_size=6"),
        *("--sweep_optimizer=adam,sgd", "--sweep_batch_size=8,16", "--sweep_learning_rate=1e-2"),
        "--sweep_seeds=0,1",
    )
    return subprocess.Popen(
        [*(sys.executable, "-m", "sentiment_jax.main", f"--workdir={directory}"), *small]
        + list(arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, code=0):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output + errors


def test_the_command_line_reaches_the_sweep(tmp_path):
    message = finish(start(tmp_path, "--sweep_learning_rate=1e-2,fast"), code=2)
    assert message == "error: --sweep_learning_rate=1e-2,fast: float values expected\n"
    message = finish(start(tmp_path, "--config.batch_size=3"), code=2)
    assert message.startswith("error: --config.batch_size is an axis of the sweep")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    output = finish(start(directory))
    assert "6/6" in output
    return directory


@pytest.mark.slow
def test_sigkill_in_the_middle(uninterrupted, tmp_path):
    process = start(tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*/result.json"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = contents(tmp_path)
    finished = {path.parts[0] for path in before if path.name == "result.json"}
    assert len(finished) < 4, "killed too late to show anything"
    finish(start(tmp_path))
    after = contents(tmp_path)
    kept = [path for path in before if path.parts[0] in finished]
    assert len(kept) > 10 * len(finished)
    assert all(before[path] == after[path] for path in kept)
    assert table(tmp_path) == table(uninterrupted)


@pytest.mark.slow
def test_two_workers_give_the_same_table(uninterrupted, tmp_path):
    output = finish(start(tmp_path, "--workers=2"))
    assert table(tmp_path) == table(uninterrupted)
    log = (tmp_path / "worker-2.log").read_text()
    assert "6 runs of at most 2 epochs" in log
    # Each run was trained once, by one of the two.
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert len(logs) == 6
    assert [text.count("epoch   1/2") for text in logs] == [1] * 6
    assert "6/6" in output + log


@pytest.mark.slow
def test_sigterm_saves_and_ends_the_workers_too(uninterrupted, tmp_path):
    process = start(tmp_path, "--workers=2", start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/result.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert "run the same command to continue" in finish(process, code=143)
    running = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert str(tmp_path) not in running, "a worker outlived the sweep"
    finish(start(tmp_path))
    assert table(tmp_path) == table(uninterrupted)


@pytest.mark.slow
def test_electra_and_bert_in_stages(tmp_path):
    for module, name in ((electra, "electra"), (bert, "bert")):
        config = module.get_config("tiny")
        config.epochs = 1
        config.data.limit, config.data.test_limit, config.data.max_length = 60, 30, 24
        config.model.hidden_size = config.model.embedding_size = 16
        config.model.intermediate_size = 16
        axes = {**module.get_sweep("tiny"), "optimizer": ("adam", "adamw"), "seeds": (0, 1)}
        sweep.sweep(config, tmp_path / name, axes)
        results = [writer.read_json(p) for p in (tmp_path / name / "final").glob("*/result.json")]
        assert len(results) == 2
        assert all(np.isfinite(result["test"]["loss"]) for result in results)
