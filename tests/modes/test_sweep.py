"""What a sweep does with its trials; their training is replaced where it does not matter."""

import errno
import os
import shutil
from unittest.mock import Mock

import pytest
from reviews import read_table
from sweeping import AXES, ONE_TRIAL, table

from benchmarks.comparing import contents
from sentiment_jax.config.stored import replace_settings, run_name
from sentiment_jax.data.corpus import SAMPLE
from sentiment_jax.errors import Diverged, InputError, RunError
from sentiment_jax.modes import report, sweep
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import find_run, plan_sweep, read_sweep
from sentiment_jax.training.checks import resolve

# A real sweep: two of its four trials diverge in their first epoch; the winner has two seeds


def test_trials_share_reviews_and_compiled_programs(swept):
    assert swept.prepared == 1, "the reviews were read again"
    assert swept.compiled <= 2, "more than one train step for an optimizer"


def test_only_the_winner_is_scored_on_the_test_set(swept):
    trials = [path for path in swept.directory.iterdir() if path.is_dir() and path.name != "final"]
    retrained = [*(swept.directory / "final").iterdir()]
    assert len(trials) == 4
    for directory in [*trials, *retrained]:
        final = directory in retrained
        assert directory.name == run_name(RunDirectory(directory).read_config())
        tests = [r for r in read_metrics(directory / "metrics.jsonl") if r["split"] == "test"]
        assert len(tests) == final
        assert (directory / "predictions.csv").exists() == final
        if (directory / "result.json").exists():
            result = read_json(directory / "result.json")
            assert ("test" in result) == final
            assert result["val"]["examples"] == 12
    assert sorted(RunDirectory(run).read_config().seed for run in retrained) == [0, 1]


def test_the_winner_is_the_run_that_a_sweep_stands_for(swept, sweep_copy, tmp_path):
    assert find_run(tmp_path) == tmp_path
    assert find_run(swept.directory).parent == swept.directory / "final"
    for path in (sweep_copy / "final").glob("*/result.json"):
        path.unlink()
    plan = sweep_copy / "sweep.json"  # as earlier revisions of format 2 wrote it
    write_json(plan, read_json(plan) | {"config_file": "lstm:sample", "overrides": {"epochs": 3}})
    with pytest.raises(InputError, match="copy is a sweep without a winner yet"):
        find_run(sweep_copy)


# Choosing


SETTINGS = {  # any is an axis, beside the three of every sweep; as text from the command line
    "optimizer": ("adam",),
    "model.hidden_size": ("4", "6"),
    "model.bidirectional": ("True", "false"),
}


@pytest.mark.parametrize(
    ("procedure", "axes", "trials", "best"),
    [
        ("grid", {}, 12, ""),
        ("stages", {}, 5, ""),
        ("grid", SETTINGS, 16, ", model.hidden_size 4, model.bidirectional True"),
        ("stages", SETTINGS, 5, ", model.hidden_size 4, model.bidirectional True"),
    ],
)
def test_finds_the_best_setting(
    small_config, tmp_path, training, now, monkeypatch, capsys, procedure, axes, trials, best
):
    """A line for each trial that ends, with the time left: every trial takes a minute."""
    monkeypatch.setattr(sweep.time, "monotonic", lambda: 60.0 * len(training.runs))
    axes = AXES | axes | {"procedure": procedure}
    total = plan_sweep(tmp_path, resolve(small_config), axes).count_trials()
    assert total == trials + 3
    sweep.sweep(small_config, tmp_path, axes)
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
        f"best     adam, batch 16, learning rate 0.001{best}\n",
        "accuracy 0.8600 ± 0.0100",
        f"winner   {retrained[2]}, its best seed by validation",
    ):
        assert shown in output
    rows = read_table(tmp_path / "table.csv")
    for name in SETTINGS.keys() & axes.keys():
        assert {row[name].lower() for row in rows} == {value.lower() for value in axes[name]}


@pytest.mark.slow
def test_an_axis_of_the_model_or_the_encoding_affects_the_trials(small_config, tmp_path):
    """Reviews are encoded again, and another network is built, where an axis asks for it."""
    axes = {**ONE_TRIAL, "learning_rate": (3e-3,), "seeds": (0,)}
    axes |= {"model.hidden_size": (5, 6), "data.max_length": (12, 24)}
    small_config.epochs = 1
    sweep.sweep(small_config, tmp_path / "sweep", axes)
    trials = [trial for stage in read_sweep(tmp_path / "sweep").stages() for trial in stage]
    made = {}
    for trial in trials[:4]:
        truncated = read_json(trial.files.env)["data"]["truncated"]["train"]
        made[tuple(trial.setting.values())[3:]] = trial.content["parameters"], truncated
    assert made[5, 12][0] == made[5, 24][0] < made[6, 12][0] == made[6, 24][0]
    assert made[5, 24][1] == made[6, 24][1] < made[5, 12][1] == made[6, 12][1]
    report.report([tmp_path / "sweep"], tmp_path / "page")
    page = (tmp_path / "page" / "report.md").read_text()
    assert "### Data.max length\n" in page and "### Model.hidden size\n" in page
    columns = (tmp_path / "page" / "runs.csv").read_text().splitlines()[0]
    assert "model.hidden size,data.max length" in columns


def test_epochs_as_an_axis_are_those_asked_for(small_config, tmp_path, training, now):
    axes = ONE_TRIAL | {"learning_rate": (1e-2, 1e-3), "epochs": (2, 3)}
    sweep.sweep(small_config, tmp_path, axes)
    for trials in read_sweep(tmp_path).stages():
        for trial in trials:
            write_json(trial.files.result, trial.content | {"epochs": 1})  # stopped early
    sweep.sweep(small_config, tmp_path, axes)
    rows = read_table(tmp_path / "table.csv")
    assert [row["epochs"] for row in rows[:4]] == ["2", "3", "2", "3"]


# State on disk


def test_a_killed_sweep_continues_and_a_finished_one_trains_nothing(
    small_config, tmp_path, training, now, capsys
):
    """Row 33."""
    sweep.sweep(small_config, tmp_path / "whole", AXES)
    training.errors = {len(training.runs) + 4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(small_config, tmp_path / "killed", AXES)
    before = contents(tmp_path / "killed")
    finished = {path.parent for path in before if path.name == "result.json"}
    assert len(finished) == 4
    for ended in (4, 15):
        sweep.sweep(small_config, tmp_path / "killed", AXES)
        assert f"15 trials, {ended} of them had ended before" in capsys.readouterr().out
        assert len(training.runs) == 2 * 15 + 1
        after = contents(tmp_path / "killed")
        assert all(before[path] == after[path] for path in before if path.parent in finished)
        assert table(tmp_path / "killed") == table(tmp_path / "whole")


def test_a_sweep_and_a_run_do_not_share_a_directory(
    small_config, tmp_path, run_copy, training, now
):
    with pytest.raises(InputError, match=f"{run_copy} holds a run: choose another --workdir"):
        sweep.sweep(small_config, run_copy, AXES)
    sweep.sweep(small_config, tmp_path / "sweep", AXES)
    with pytest.raises(InputError, match="sweep holds a sweep: choose another --workdir"):
        train(small_config, tmp_path / "sweep")


def test_another_plan_or_other_data_are_refused(small_config, tmp_path, training, now):
    path = tmp_path / "reviews.csv"
    shutil.copy(SAMPLE, path)
    small_config.data.source = "csv"
    small_config.data.path = str(path)
    directory = tmp_path / "sweep"
    sweep.sweep(small_config, directory, AXES)
    before = contents(directory)
    with pytest.raises(InputError, match=r"another sweep \(axes.batch_size: \(8, 16\) -> \(8,\)"):
        sweep.sweep(small_config, directory, {**AXES, "batch_size": (8,)})
    small_config.epochs = 9
    with pytest.raises(InputError, match=r"another sweep \(config.epochs: 3 -> 9\)"):
        sweep.sweep(small_config, directory, AXES)
    small_config.epochs = 3
    small_config.log_every = 99  # does not affect results
    sweep.sweep(small_config, directory, AXES)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match="the data changed since the sweep"):
        sweep.sweep(small_config, directory, AXES)
    after = contents(directory)
    assert all(after[name] == before[name] for name in before if name.name != "table.csv")


# Failures


def test_failed_trials_are_listed_and_the_others_trained(
    small_config, tmp_path, training, now, capsys
):
    """Row 33."""
    training.errors = {0: Diverged("diverged at step 7: no", 7), 3: ValueError("odd\nshape")}
    sweep.sweep(small_config, tmp_path, AXES)
    captured = capsys.readouterr()
    failures = [read_json(path) for path in tmp_path.glob("*/failed.json")]
    reasons = {failure["reason"]: failure["step"] for failure in failures}
    assert reasons == {"ValueError: odd shape": 0, "diverged at step 7: no": 7}
    assert captured.out.count("FAILED: ") == captured.out.count("\nfailed   lstm-") == 2
    assert table(tmp_path).count("failed at step 7,") == 1
    assert "Traceback" in captured.err, "a programming error leaves its trace"
    assert len(training.runs) == 15
    sweep.sweep(small_config, tmp_path, AXES)
    assert len(training.runs) == 15, "failed trials were tried again unasked"
    assert capsys.readouterr().out.count("\nfailed   lstm-") == 2
    training.errors = {}
    for path in tmp_path.glob("*/failed.json"):
        path.unlink()
    sweep.sweep(small_config, tmp_path, AXES)
    assert len(training.runs) == 17


def test_nothing_to_choose_from(small_config, tmp_path, training, now):
    training.errors = {number: Diverged("diverged", 1) for number in range(12)}
    with pytest.raises(RunError, match=r"0 of the 12 trials of the grid stage.*delete failed.json"):
        sweep.sweep(small_config, tmp_path, AXES)
    assert len(training.runs) == 12
    assert len(table(tmp_path).splitlines()) == 13


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_a_full_disk_is_not_a_failed_trial(small_config, tmp_path, monkeypatch, code):
    """Row 63: whatever the disk says, and whether or not Orbax passes the number on."""
    axes = ONE_TRIAL | {"learning_rate": (3e-3,), "seeds": (0,)}
    for error in OSError(code, os.strerror(code)), ValueError(f"writing: {os.strerror(code)}"):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", Mock(side_effect=error))
            with pytest.raises(type(error), match=os.strerror(code)):
                sweep.sweep(small_config, tmp_path, axes)
    assert not list(tmp_path.glob("*/failed.json"))
    sweep.sweep(small_config, tmp_path, axes)
    assert len(list(tmp_path.glob("*/result.json"))) == 1


# What is refused before the first training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": ("adam", "adamx")}, "optimizer.name='adamx' is unknown, choose sgd"),
        ({"batch_size": ("16", "x")}, "--sweep_batch_size=16,x: one or more int values expected"),
        ({"batch_size": (0,)}, "batch_size=0 must be >= 1"),
        ({"batch_size": (9999,)}, r"batch_size=9999 is larger than the \d+ training reviews"),
        ({"learning_rate": ()}, "--sweep_learning_rate=: one or more float values"),
        ({"learning_rate": ("nan",)}, "optimizer.learning_rate=nan"),
        ({"seeds": (-1,)}, "config: seed=-1 must be >= 0"),
        ({"procedure": "random"}, "procedure='random' is unknown, choose grid, stages"),
        ({"momentum": (1,)}, r"momentum is no axis .* did you mean optimizer.momentum\?"),
        ({"model.hidden_sizes": (8,)}, r"no axis .* lstm; did you mean model.hidden_size\?"),
        ({"model.bidirectional": ("True", "no")}, "=True,no: one or more bool values"),
        ({"model.attention_dropout": (0.1,)}, "attention_dropout is no axis for a sweep of lstm"),
        ({"data.limit": (10, 20)}, "data.limit is no axis"),
        ({"data.length_buckets": (8,)}, "data.length_buckets is no axis"),
        ({"seed": (1, 2)}, "seed is no axis for a sweep of lstm; did you mean seeds"),
        ({"gradient_accumulation": (1, 3)}, "gradient_accumulation=3"),
        # Row 73: each goes with the first value of the other.
        ({"batch_size": (16, 4), "gradient_accumulation": (1, 8)}, "batch_size=4 does not divide"),
        ({"optimizer.frozen": ("none", "embeddings")}, "frozen keeps random embeddings"),
    ],
)
def test_bad_axes(small_config, tmp_path, training, changes, message):
    with pytest.raises(InputError, match=message):
        sweep.sweep(small_config, tmp_path, {**AXES, **changes})
    assert not training.runs
    assert not (tmp_path / "sweep.json").exists()


def test_a_vocabulary_that_comes_with_the_weights_is_no_axis(small_config, tmp_path):
    """Every trial would read the same words, and one of them be called the best."""
    config = replace_settings(resolve(small_config), {"model.pretrained": "runs/vectors"})
    for axis in ("data.vocabulary_size", "data.min_frequency", "data.ngrams"):
        with pytest.raises(InputError, match=f"{axis} is no axis here: model.pretrained brings"):
            plan_sweep(tmp_path, config, {**AXES, axis: (1, 2)})


def test_a_setting_that_is_an_axis_can_not_be_overridden(small_config, tmp_path):
    with pytest.raises(InputError, match="config.batch_size is an axis .* use --sweep_batch_size"):
        sweep.sweep(small_config, tmp_path, AXES, overridden=["batch_size", "epochs"])
