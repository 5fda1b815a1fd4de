"""Reading run directories back, and refusing those that are unfinished, damaged or mixed."""

import pytest

from sentiment_jax.errors import InputError
from sentiment_jax.modes import report
from sentiment_jax.storage.files import read_json, write_json


def refused(*directories, output=None, **options):
    with pytest.raises(InputError) as error:
        report.report(list(directories), output or directories[0] / "report", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_finished(sweep_copy, run_copy, tmp_path):
    for path in [*sweep_copy.rglob("result.json"), run_copy / "result.json"]:
        path.unlink()
    message = refused(sweep_copy, run_copy)
    assert message.startswith(f"nothing is finished in {sweep_copy}, {run_copy}: 2 runs failed")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(empty) == f"{empty} holds no sweep.json and no run's config.json"
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
    path = run_copy / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    text = refused(run_copy)
    assert message in text and str(run_copy) in text


def test_a_sweep_of_changed_data_is_refused(sweep_copy):
    (path, *_) = sorted(sweep_copy.glob("*/result.json"))
    write_json(path, {**read_json(path), "data_hash": "f" * 64})
    assert refused(sweep_copy).endswith("changed between its runs")


def test_an_unwritable_output(finished, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to --output" in refused(finished, output=tmp_path / "file" / "report")
