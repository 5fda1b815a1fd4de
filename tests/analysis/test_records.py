"""Reading run directories back, and refusing those that are unfinished, damaged or mixed."""

import shutil

import pytest
import runs
from reviews import read_table, refusal

from sentiment_jax.analysis.records import collect
from sentiment_jax.modes import report


def refused(*directories, output=None):
    return refusal("", report.report, directories, output or directories[0] / "report")


def test_nothing_finished(sweep_copy, run_copy, tmp_path):
    for path in [*sweep_copy.rglob("result.json"), run_copy / "result.json"]:
        path.unlink()
    message = refused(sweep_copy, run_copy)
    assert message.startswith(f"nothing is finished in {sweep_copy}, {run_copy}: 2 runs failed")
    (tmp_path / "empty").mkdir()
    assert "empty holds no sweep.json and no run's config.json" in refused(tmp_path / "empty")
    assert "no directory" in refused(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", '{"model": "ls', "result.json is not JSON"),
        ("sweep.json", '{"procedure": ', "is not JSON"),
        ("metrics.jsonl", "0\n", "is not what was written"),
        ("predictions.csv", "0\n", "is not what was written"),
        ("predictions.csv", None, "cannot read"),
        ("env.json", None, "cannot read"),
    ],
)
def test_a_damaged_file_is_named(run_copy, name, content, message):
    if content is None:
        (run_copy / name).unlink()
    else:
        (run_copy / name).write_text(content)
    text = refused(run_copy)
    assert message in text and str(run_copy) in text


def test_a_sweep_of_changed_data_is_refused(sweep_copy):
    runs.change_json(min(sweep_copy.glob("*/result.json")), data_hash="f" * 64)
    assert refused(sweep_copy).endswith("changed between its runs")


def test_a_sweep_without_its_json_does_not_pass_for_its_trials(sweep_copy):
    """Of them, a report would have neither rounds nor the winner's test scores."""
    (sweep_copy / "sweep.json").unlink()
    problem = f"{sweep_copy} is a sweep without sweep.json"
    assert refused(sweep_copy) == f"{problem}: run its command again"


def test_runs_of_other_weights_are_other_models(finished, tmp_path):
    for name, weights in (("a", "1"), ("b", "2"), ("c", "2")):
        shutil.copytree(finished, tmp_path / name)
        runs.change_json(tmp_path / name / "env.json", sources=[weights])
    assert sorted(len(group.trials) for group in collect([tmp_path])) == [1, 2]


def test_a_run_without_validation_is_refused(run_copy):
    runs.change_json(run_copy / "result.json", val={})
    assert f"{run_copy} held out no texts" in refused(run_copy)


def test_an_unwritable_output(finished, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to --output" in refused(finished, output=tmp_path / "file" / "report")


@pytest.mark.parametrize(
    ("select_by", "ranked"),
    [("accuracy", ["accurate", "calibrated"]), ("loss", ["calibrated", "accurate"])],
)
def test_runs_are_ranked_as_they_choose_their_epochs(select_by, ranked, finished, tmp_path):
    """So that a report of several runs and the sweep of them have one winner."""
    paths = [shutil.copytree(finished, tmp_path / name) for name in ("accurate", "calibrated")]
    for path, accuracy, loss in zip(paths, (0.9, 0.8), (0.9, 0.3), strict=True):
        settings = {
            "select_by": select_by,
            "min_steps": round(10 * loss),
        }  # they are no seeds of one
        runs.change_json(path / "config.json", **settings)
        runs.change_json(path / "result.json", "val", accuracy=accuracy, loss=loss)
    report.report(paths, tmp_path / "report")
    assert [row["name"] for row in read_table(tmp_path / "report/models.csv")] == ranked
    page = (tmp_path / "report/report.html").read_text()
    assert f"Ranked by validation {select_by}. " in page and f"validation ({select_by} 0." in page
