"""What a sweep does with its runs; their training is replaced where it does not matter."""

import csv
import errno
import shutil
from pathlib import Path

import pytest
from sweeping import AXES, contents, table

from sentiment_jax.config.stored import run_name
from sentiment_jax.errors import DiskFull, Diverged, InputError, RunError
from sentiment_jax.modes import report, sweep
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import find_run, plan_sweep, read_sweep

ROOT = Path(__file__).parents[2]


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
        assert run.name == run_name(RunDirectory(run).read_config())
        final = run.parent.name == "final"
        tests = [r for r in read_metrics(run / "metrics.jsonl") if r["split"] == "test"]
        assert len(tests) == final
        assert (run / "predictions.csv").exists() == (run / "lengths.csv").exists() == final
        if (run / "result.json").exists():
            result = read_json(run / "result.json")
            assert ("test" in result) == final
            assert result["val"]["examples"] == 12
    seeds = [RunDirectory(run).read_config().seed for run in (swept.directory / "final").iterdir()]
    assert sorted(seeds) == [0, 1]


def test_divergence_is_listed_at_its_step(swept):
    failures = {path.parent.name: read_json(path) for path in swept.directory.glob("*/failed.json")}
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
    assert f"winner   {tested[2]}, its best seed by validation" in output


@pytest.mark.parametrize("procedure", ["grid", "stages"])
def test_any_setting_is_an_axis(small_config, tmp_path, training, now, capsys, procedure):
    """Beside the three of every sweep; values come from the command line as text."""
    more = {"model.hidden_size": ("4", "6"), "model.bidirectional": ("True", "false")}
    axes = {**AXES, "optimizer": ("adam",), "procedure": procedure, **more}
    plan = plan_sweep(tmp_path, small_config, axes)
    sweep.sweep(small_config, tmp_path, axes)
    output = capsys.readouterr().out
    assert len(training.runs) == plan.count_trials() == (16 if procedure == "grid" else 5) + 3
    assert len({directory for directory, _ in training.runs}) == len(training.runs)
    winner = (
        "best     adam, batch 16, learning rate 0.001, model.hidden_size 4, model.bidirectional "
    )
    assert winner + "True\n" in output
    rows = list(csv.DictReader(table(tmp_path).splitlines()))
    assert {row["model.hidden_size"] for row in rows} == {"4", "6"}
    assert {row["model.bidirectional"] for row in rows} == {"True", "False"}


@pytest.mark.slow
def test_an_axis_of_the_model_or_the_encoding_trains_another_one(small_config, tmp_path):
    """The reviews are read again, or another network is built, where an axis asks for it."""
    axes = {**AXES, "optimizer": ("adam",), "batch_size": (16,), "learning_rate": (3e-3,)}
    axes |= {"seeds": (0,), "model.hidden_size": (5, 6), "data.max_length": (12, 24)}
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
    best = (tmp_path / "page" / "best.csv").read_text().splitlines()
    assert "model.hidden size,data.max length" in best[0]


def test_the_winner_is_named(swept, sweep_copy, tmp_path):
    """The best seed by validation of the last stage; without one, it is said."""
    assert find_run(tmp_path) == tmp_path
    winner = find_run(swept.directory)
    assert winner.parent == swept.directory / "final"
    for path in (sweep_copy / "final").glob("*/result.json"):
        path.unlink()
    with pytest.raises(InputError, match="copy is a sweep without a winner yet"):
        find_run(sweep_copy)


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


def test_a_sweep_and_a_run_do_not_share_a_directory(small_config, tmp_path, plain, training, now):
    with pytest.raises(InputError, match=f"{plain} holds a run: choose another --workdir"):
        sweep.sweep(small_config, plain, AXES)
    sweep.sweep(small_config, tmp_path / "sweep", AXES)
    with pytest.raises(InputError, match="sweep holds a sweep: choose another --workdir"):
        train(small_config, tmp_path / "sweep")


def test_what_is_refused_at_the_beginning_is_not_later(
    small_config, tmp_path, training, now, monkeypatch
):
    axes = AXES | {"optimizer.frozen": ("none", "embeddings")}
    with pytest.raises(InputError, match="frozen keeps random embeddings"):
        sweep.sweep(small_config, tmp_path, axes)
    assert not training.runs
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "check_settings", lambda config: None)  # an earlier revision
        sweep.sweep(small_config, tmp_path, axes)
    count = len(training.runs)
    sweep.sweep(small_config, tmp_path, axes)
    assert len(training.runs) == count == 27


def test_epochs_as_an_axis_are_those_asked_for(small_config, tmp_path, training, now):
    axes = AXES | {"optimizer": ("adam",), "batch_size": (16,), "epochs": (2, 3)}
    sweep.sweep(small_config, tmp_path, axes)
    trials = [trial for stage in read_sweep(tmp_path).stages() for trial in stage]
    for trial in trials:
        write_json(trial.files.result, trial.content | {"epochs": 1})  # stopped early
    sweep.sweep(small_config, tmp_path, axes)
    rows = [*csv.DictReader(table(tmp_path).splitlines())]
    assert [row["epochs"] for row in rows[:4]] == ["2", "3", "2", "3"]


def test_failures_are_listed_and_do_not_stop_the_rest(
    small_config, tmp_path, training, now, capsys
):
    training.errors = {0: Diverged("diverged at step 7: no", 7), 3: ValueError("odd\nshape")}
    sweep.sweep(small_config, tmp_path, AXES)
    captured = capsys.readouterr()
    failures = [read_json(path) for path in sorted(tmp_path.glob("*/failed.json"))]
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
    shutil.copy(ROOT / "sentiment_jax" / "data" / "sample.csv", path)
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
        ({"batch_size": ("16", "x")}, "--sweep_batch_size=16,x: one or more int values expected"),
        ({"batch_size": (0,)}, "batch_size=0 must be >= 1"),
        ({"batch_size": (9999,)}, r"batch_size=9999 is larger than the \d+ training reviews"),
        ({"learning_rate": ()}, "--sweep_learning_rate=: one or more float values"),
        ({"learning_rate": ("nan",)}, "optimizer.learning_rate=nan"),
        ({"seeds": (-1,)}, "config: seed=-1 must be >= 0"),
        ({"procedure": "random"}, "procedure='random' is unknown, choose grid, stages"),
        ({"momentum": (1,)}, r"momentum is no axis .* did you mean optimizer.momentum\?"),
        ({"model.hidden_sizes": (8,)}, r"no axis .* lstm; did you mean model.hidden_size\?"),
        ({"model.hidden_size": ("8", "x")}, "--sweep_model.hidden_size=8,x: one or more int"),
        ({"model.hidden_size": (0,)}, "model.hidden_size=0 must be >= 1"),
        ({"model.bidirectional": ("True", "no")}, "=True,no: one or more bool values"),
        ({"model.attention_dropout": (0.1,)}, "attention_dropout is no axis for a sweep of lstm"),
        ({"data.limit": (10, 20)}, "data.limit is no axis"),
        ({"data.length_buckets": (8,)}, "data.length_buckets is no axis"),
        ({"seed": (1, 2)}, "seed is no axis for a sweep of lstm; did you mean seeds"),
    ],
)
def test_bad_axes(small_config, tmp_path, training, changes, message):
    with pytest.raises(InputError, match=message):
        sweep.sweep(small_config, tmp_path, {**AXES, **changes})
    assert not training.runs
    assert not (tmp_path / "sweep.json").exists()


def test_a_vocabulary_that_comes_with_the_weights_is_no_axis(small_config, tmp_path):
    """Every trial would read the same words, and one of them be called the best."""
    small_config.model.pretrained = "runs/vectors"
    for axis in ("data.vocabulary_size", "data.min_frequency", "data.ngrams"):
        with pytest.raises(InputError, match=f"{axis} is no axis here: model.pretrained brings"):
            plan_sweep(tmp_path, small_config, {**AXES, axis: (1, 2)})


def test_a_field_of_an_axis_on_the_command_line_is_refused(small_config, tmp_path):
    with pytest.raises(InputError, match="config.batch_size is an axis .* use --sweep_batch_size"):
        sweep.sweep(small_config, tmp_path, AXES, overrides={"batch_size": 7, "epochs": 3})
