"""A sweep and its trials, alone or in several processes; most tests replace the training."""

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
from signal import SIGKILL, SIGTERM

import numpy as np
import pytest
import runs
from commands import SAMPLE, start
from reviews import read_table, refuses
from sweeping import AXES, ONE_TRIAL, ROUNDS, table

from benchmarks.reliability.comparing import contents
from configs import lstm
from sentiment_jax.config.stored import replace_settings, run_name
from sentiment_jax.data import dataset
from sentiment_jax.errors import DiskFull, Diverged, InputError, Interrupted, RunError
from sentiment_jax.models.parameters import count_parameters
from sentiment_jax.modes import sweep
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory, lock_run
from sentiment_jax.sweeps.directories import Comparison, find_run
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve


@pytest.fixture
def config():
    return runs.make_small()


@pytest.fixture
def run(config, tmp_path, training, now):
    """Start a sweep in tmp_path / "sweep", or go on with it."""

    def run(axes=AXES, **options):
        sweep.sweep(config, tmp_path / "sweep", axes, **options)
        return table(tmp_path / "sweep")

    return run


def test_trials_share_reviews_and_compiled_programs(swept):
    assert swept.reads == 1, "the texts were read again"
    assert swept.compiled <= 2, "more than one train step for an optimizer"


def test_only_the_winner_is_scored_on_the_test_set(swept):
    places = [path.parent for path in swept.directory.rglob("config.json")]
    seeds = []
    for directory in places:
        final = directory.parent.name == "final"
        config = RunDirectory(directory).read_config()
        seeds += [config.seed] if final else []
        assert directory.name == run_name(config)
        tests = [r for r in read_metrics(directory / "metrics.jsonl") if r["split"] == "test"]
        assert len(tests) == final == (directory / "predictions.csv").exists()
        status, result = RunDirectory(directory).outcome()
        assert ("test" in result) == final
        assert status == "failed" or result["val"]["examples"] == 12
    assert len(places) == 4 + 2 and sorted(seeds) == [0, 1]


def test_the_winner_is_the_run_that_a_sweep_stands_for(swept, sweep_copy, tmp_path):
    assert find_run(tmp_path) == tmp_path
    assert find_run(swept.directory).parent == swept.directory / "final"
    for path in (sweep_copy / "final").glob("*/result.json"):  # of the first seed, then of all
        path.unlink()
        refuses("copy is a sweep without a winner yet", find_run, sweep_copy)


SETTINGS = {  # any is an axis, beside the three of every sweep; as text from the command line
    "optimizer": ("adam",),
    "epochs": ("2", "3"),  # although each trial stops after one
    "model.bidirectional": ("True", "false"),
}


@pytest.mark.parametrize(
    ("procedure", "axes", "trials", "best"),
    [
        ("grid", {}, 12, ""),
        ("rounds", {}, 5, ""),
        ("grid", SETTINGS, 16, ", epochs 2, model.bidirectional True"),
        ("rounds", SETTINGS, 5, ", epochs 2, model.bidirectional True"),
    ],
)
def test_finds_the_best_setting(
    config, tmp_path, training, now, monkeypatch, capsys, procedure, axes, trials, best
):
    """A line for each trial that ends, with the time left: every trial takes a minute."""
    monkeypatch.setattr(sweep.time, "monotonic", lambda: 60.0 * len(training.runs))
    axes = AXES | axes | {"procedure": procedure}
    total = plan_sweep(tmp_path, resolve(config), axes).count_trials()
    assert total == trials + 3
    sweep.sweep(config, tmp_path, axes)
    output = capsys.readouterr().out
    assert output.count(f"/{total}  ") == total
    assert len(set(training.directories)) == len(training.runs) == trials + 3
    assert [tested for _, tested in training.runs] == [False] * trials + [True] * 3
    retrained = training.directories[trials:]
    for seed, directory in enumerate(retrained):
        assert directory.parent == tmp_path / "final"
        assert directory.name.startswith(f"lstm-adam-16-0.001-seed{seed}-")
    for shown in (
        f"{total} trials, 0 of them had ended before",
        f", 1 s  ETA {total - 1:02}:00\n",
        f", 1 s  ETA 01:00\n{total:3}/{total}  final ",
        ", 1 s\nbest",
        f"best     adam, batch 16, learning rate 1e-3{best}\n",
        "accuracy 0.8600 ± 0.0100",
        f"winner   {retrained[2]}, its best seed by validation",
    ):
        assert shown in output
    rows = read_table(tmp_path / "table.csv")
    for name in SETTINGS.keys() & axes.keys():
        assert {row[name].lower() for row in rows} == {value.lower() for value in axes[name]}


def test_an_axis_of_the_model_or_the_encoding_affects_the_trials(run, training):
    run({**ONE_TRIAL, "model.hidden_size": (5, 6), "data.max_length": (12, 24)})
    assert len(training.experiments) == 4 + 3
    sizes = {}
    for made in training.experiments:
        setting = made.config.model.hidden_size, made.config.data.max_length
        assert np.diff(made.encoded["train"].offsets).max() == setting[1]
        sizes[setting] = count_parameters(made.model)
    assert sizes[5, 12] == sizes[5, 24] < sizes[6, 12] == sizes[6, 24]


def test_a_winner_of_several_splits_stands_beside_the_linear_baseline(run, training, capsys):
    axes = ONE_TRIAL | {"seeds": (0, 1), "split_seeds": ("3", "4")}
    run(axes)
    out = capsys.readouterr().out
    assert "accuracy 0.8550 ± 0.0058 (mean and standard deviation over seeds 0, 1 and spl" in out
    assert f"\n{'':8} the linear baseline 0.3500 ± 0.0707\n" in out
    assert "  final         adam, batch 16, learning rate 1e-3, split seed 3, seed 0: " in out
    configs = [experiment.config for experiment in training.experiments]
    seeds = [(config.data.split_seed, config.seed) for config in configs]
    assert seeds == [(0, 0), (3, 0), (3, 1), (4, 0), (4, 1)]
    assert "--mode=report" not in out  # which needs one split
    run(axes)
    assert "5 trials, 5 of them had ended before" in capsys.readouterr().out
    refuses("another sweep .*split_seeds", run, axes | {"split_seeds": (3,)})


def test_a_killed_sweep_goes_on_and_a_finished_one_trains_nothing(run, tmp_path, training, capsys):
    whole = run()
    (tmp_path / "sweep").rename(tmp_path / "whole")
    training.errors = {15 + 4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run()
    before = contents(tmp_path / "sweep")
    finished = {path.parent for path in before if path.name == "result.json"}
    assert len(finished) == 4
    for ended in (4, 15):
        assert run() == whole
        assert f"15 trials, {ended} of them had ended before" in capsys.readouterr().out
        assert len(training.runs) == 2 * 15 + 1
        after = contents(tmp_path / "sweep")
        assert all(before[path] == after[path] for path in before if path.parent in finished)


def test_a_sweep_and_a_run_do_not_share_a_directory(run, config, tmp_path):
    run(ONE_TRIAL)
    refuses("sweep holds a sweep: choose", train, config, tmp_path / "sweep")
    (tmp_path / "sweep" / "config.json").write_text("{}")
    (tmp_path / "sweep" / "sweep.json").unlink()
    refuses("sweep holds a run: choose another --workdir", run, ONE_TRIAL)
    Comparison(tmp_path / "sweep", "its hash", "accuracy").write()
    refuses("sweep holds a comparison: choose another --workdir", run, ONE_TRIAL)


def test_a_sweep_whose_time_is_over_ends_between_two_trials(run, training):
    with pytest.raises(Interrupted, match="between two trials; run the same command to continue"):
        run(stop_after=0.0)
    assert not training.runs


def test_another_plan_or_other_data_are_refused(run, config, tmp_path):
    path = tmp_path / "reviews.csv"
    shutil.copy(dataset.SAMPLE, path)
    config.data.source = "csv"
    config.data.path = str(path)
    run()
    before = contents(tmp_path / "sweep")
    with pytest.raises(InputError, match=r"another sweep \(axes.batch_size: \(8, 16\) -> \(8,\)"):
        run({**AXES, "batch_size": (8,)})
    config.epochs = 9
    refuses(r"another sweep \(config.epochs: 3 -> 9\)", run)
    config.epochs = 3
    config.log_every = 99  # does not affect results
    run()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    refuses("the data changed since the sweep", run)
    after = contents(tmp_path / "sweep")
    assert all(after[name] == before[name] for name in before if name.name != "table.csv")


def test_failed_trials_are_listed_and_the_others_trained(run, tmp_path, training, capsys):
    training.errors = {0: Diverged("diverged at step 7: no", 7), 3: ValueError("odd\nshape")}
    assert run().count("failed at step 7,") == 1
    captured = capsys.readouterr()
    paths = [*tmp_path.glob("sweep/*/failed.json")]
    failures = {read_json(path)["reason"]: read_json(path)["step"] for path in paths}
    assert failures == {"ValueError: odd shape": 0, "diverged at step 7: no": 7}
    assert captured.out.count("FAILED: ") == captured.out.count("\nfailed   lstm-") == 2
    assert "Traceback" in captured.err, "a programming error leaves its trace"
    assert len(training.runs) == 15
    min(tmp_path.glob("sweep/*/result.json")).unlink()
    run()
    assert len(training.runs) == 16, "failed trials were tried again unasked"
    assert capsys.readouterr().out.count("\nfailed   lstm-") == 2
    training.errors = {}
    for path in paths:
        path.unlink()
    run()
    assert len(training.runs) == 18


def test_nothing_to_choose_from(run, tmp_path, training):
    training.errors = {number: Diverged("diverged", 1) for number in range(12)}
    with pytest.raises(RunError, match=r"0 of the 12 trials of the grid round.*delete failed.json"):
        run()
    assert len(training.runs) == 12
    assert len(table(tmp_path / "sweep").splitlines()) == 13


def test_a_full_disk_or_lost_checkpoints_are_no_failed_trial(run, tmp_path, training):
    """The setting is not to blame, whether or not Orbax passes the disk's error number on."""
    full = os.strerror(errno.EDQUOT)
    errors = [OSError(errno.EDQUOT, full), ValueError(f"writing: {full}"), DiskFull(f"disk {full}")]
    errors.append(RunError("every checkpoint is damaged"))
    training.errors = dict(enumerate(errors))
    for error in errors:
        with pytest.raises(type(error), match=str(error).rpartition("] ")[2]):
            run(ONE_TRIAL)
    assert not [*tmp_path.rglob("failed.json")]
    run(ONE_TRIAL)
    assert len([*tmp_path.glob("sweep/*/result.json")]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": ("adam", "adamx")}, "optimizer.name='adamx' is unknown, choose sgd"),
        ({"batch_size": ("16", "x")}, "--sweep_batch_size=16,x: one or more int values expected"),
        ({"class_weights": ("none", "balanced")}, "class_weights is no axis with select_by=acc"),
        ({"batch_size": (9999,)}, r"batch_size=9999 is larger than the \d+ training texts"),
        ({"learning_rate": ()}, "--sweep_learning_rate=: one or more float values"),
        ({"seeds": (-1,)}, "config: seed=-1 must be >= 0"),
        ({"procedure": "random"}, "procedure='random' is unknown, choose grid, rounds"),
        ({"momentum": (1,)}, r"momentum is no axis .* did you mean optimizer.momentum\?"),
        ({"model.bidirectional": ("True", "no")}, "=True,no: one or more bool values"),
        ({"model.attention_dropout": (0.1,)}, "attention_dropout is no axis for a sweep of lstm"),
        ({"data.limit": (10, 20)}, "data.limit is no axis"),
        ({"data.length_buckets": (8,)}, "data.length_buckets is no axis"),
        ({"seed": (1, 2)}, "seed is no axis for a sweep of lstm; did you mean seeds"),
        # Each goes with the first value of the other, so all combinations are checked.
        ({"batch_size": (16, 4), "gradient_accumulation": (1, 8)}, "batch_size=4 does not divide"),
        ({"optimizer.frozen": ("none", "embeddings")}, "frozen keeps random embeddings"),
        ({"optimizer.eps": (1e-8,)}, "optimizer.eps is an axis .* use --sweep_optimizer.eps"),
    ],
)
def test_bad_axes(config, tmp_path, training, changes, message):
    with pytest.raises(InputError, match=message):
        overridden = ["optimizer.eps", "epochs"]
        sweep.sweep(config, tmp_path / "sweep", {**AXES, **changes}, overridden=overridden)
    assert not training.runs
    assert not (tmp_path / "sweep").exists()


def test_one_value_of_class_weights_compares_nothing(config, tmp_path):
    found = plan_sweep(tmp_path, resolve(config), {**AXES, "class_weights": ("balanced",)})
    assert {sample.class_weights for sample in found.samples()} == {"balanced"}


def test_a_vocabulary_that_comes_with_the_weights_is_no_axis(config, tmp_path):
    """Every trial would have the same vocabulary, and one would be called the best."""
    learns = replace_settings(resolve(config), {"model.pretrained": "runs/vectors"})
    for axis in ("data.vocabulary_size", "data.min_frequency", "data.ngrams"):
        with pytest.raises(InputError, match=f"{axis} is no axis here: model.pretrained brings"):
            plan_sweep(tmp_path, learns, {**AXES, axis: (1, 2)})


@pytest.mark.parametrize("axes", [AXES, ROUNDS], ids=["grid", "rounds"])
@pytest.mark.parametrize("dies", [False, True])
def test_a_trial_in_use_is_awaited_or_taken_over(
    config, tmp_path, training, monkeypatch, axes, dies
):
    (trials, *_) = plan_sweep(tmp_path, resolve(config), axes).rounds()
    directory = trials[1].directory
    directory.mkdir()
    other = contextlib.ExitStack()
    other.enter_context(lock_run(directory))
    waits = itertools.count(1)

    def other_process(seconds):
        if next(waits) == 3:
            scores = {"loss": 0.1, "accuracy": 0.99, "examples": 12}
            result = {"val": scores, "best_epoch": 1, "train_seconds": 1.0}
            if not dies:
                write_json(directory / "result.json", result)
            other.close()

    monkeypatch.setattr(sweep.time, "sleep", other_process)
    sweep.sweep(config, tmp_path, axes)
    assert next(waits) == 4, "did not wait between two looks"
    assert len(training.runs) == (14 if axes == AXES else 7) + dies
    if dies:
        assert training.directories[11 if axes == AXES else 2] == directory
    else:  # the other process's trial is the winner
        assert directory not in training.directories
        best = directory.name.partition("-seed")[0]
        assert training.directories[-1].name.startswith(f"{best}-seed2")


# In processes of their own

CHANGES = {"epochs": 8, "checkpoint_every": 100, **runs.ONE_SHAPE}  # a signal comes in time
OWN_AXES = {"optimizer": ("adam",), "batch_size": (16,), "learning_rate": (1e-2, 3e-3)}
OWN_AXES |= {"seeds": (0, 1)}


def begin(directory, *arguments, **options):
    flags = [*runs.small_flags(**CHANGES), f"--workdir={directory}", *arguments]
    flags += [f"--sweep_{name}={','.join(map(str, values))}" for name, values in OWN_AXES.items()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return start(SAMPLE, "--mode=sweep", *flags, **pipes, **options)


def finish(process, code=0):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output + errors


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    axes = lstm.get_sweep("sample") | OWN_AXES
    sweep.sweep(runs.make_small(**CHANGES), directory, axes)
    return table(directory)


@pytest.mark.slow  # 20 s each
@pytest.mark.parametrize("number", [SIGKILL, 0, SIGTERM])
def test_two_processes_share_a_sweep_and_a_signal_to_one_loses_nothing(
    uninterrupted, tmp_path, number
):
    first, second = pair = begin(tmp_path), begin(tmp_path)
    runs.wait_until(lambda: list(tmp_path.glob("*/result.json")), *pair)
    first.send_signal(number)
    output = finish(first, code=143 if number == SIGTERM else -number)
    assert number != SIGTERM or "run the same command to continue" in output
    assert "4/4" in finish(second)
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert len(logs) == 4
    begun = [log.count("epoch   1/8") for log in logs]
    assert set(begun) == {1} or (number == SIGKILL and sorted(begun) == [1, 1, 1, 2])
    for metrics in tmp_path.glob("final/*/metrics.jsonl"):
        assert [line["split"] for line in read_metrics(metrics)].count("test") == 1
    assert table(tmp_path) == uninterrupted
