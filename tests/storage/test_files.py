import contextlib
import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.table import read_table
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import read_json, write_csv, write_json, write_table
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory, lock_run, prepare_workdir


def test_json_is_strict_and_atomic(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_half_written_json_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"a": ')
    with pytest.raises(InputError, match="result.json is not JSON"):
        read_json(tmp_path / "result.json")
    (tmp_path / "result.json").write_text("[1]")
    with pytest.raises(InputError, match="result.json is not a JSON object"):
        read_json(tmp_path / "result.json")
    with pytest.raises(InputError, match="cannot read .*nothing.json"):
        read_json(tmp_path / "nothing.json")


def test_json_that_is_not_what_was_written_is_refused(tmp_path):
    path = tmp_path / "result.json"
    value = {"accuracy": 0.75, "words": ["caf\xe9", 1, None], "group": {"rate": 1e-4}}
    write_json(path, value)
    raw = path.read_bytes()
    noticed = 0
    for place in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert {k: v for k, v in read_json(path).items() if k in value} == value
        except InputError:
            noticed += 1
    assert noticed > 0.8 * len(raw) * 8  # the rest: white space, or the name of the seal itself
    path.write_text('{"accuracy": 0.75}')  # of a run from before there was a seal
    assert read_json(path) == {"accuracy": 0.75}


def test_a_resumed_log_has_every_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = []
    log = MetricsLog(path, records)
    log.write(step=2, split="train", loss=0.5)
    log.write(step=4, split="train", loss=0.5)
    log.write(step=4, split="val", loss=float("nan"))
    saved = json.loads(json.dumps(records, allow_nan=False))  # as a checkpoint does
    log.write(step=6, split="train", loss=0.5)
    with path.open("a") as file:
        file.write('{"step": 8, "spl')  # killed here
    log.close()
    log = MetricsLog(path, saved)
    log.write(step=6, split="train", loss=0.4)
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [
        (2, "train"),
        (4, "train"),
        (4, "val"),
        (6, "train"),
    ]
    assert lines[2]["loss"] is None
    assert lines[3]["loss"] == 0.4


def test_a_log_that_another_process_took_over_gets_no_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with contextlib.closing(MetricsLog(path, [])) as first:
        first.write(step=2, loss=0.5)
        assert path.read_text() == '{"step": 2, "loss": 0.5}\n'
        with contextlib.closing(MetricsLog(path, [])) as second:
            second.write(step=2, loss=0.25)
            first.write(step=4, loss=0.5)  # it had looked at the lock before the second came
        assert path.read_text() == '{"step": 2, "loss": 0.25}\n'


def test_predictions_follow_the_contract(tmp_path):
    directory = RunDirectory(tmp_path)
    write_json(directory.env, {})
    for split, suffix in (("test", ""), ("val", "-val")):  # a split has its own files
        directory.write_predictions(
            split,
            Encoded(
                ids=('a,"b"', "c"),
                labels=np.array([1, 0], np.int32),
                token_ids=np.zeros(7, np.int32),
                offsets=np.array([0, 5, 7], np.int64),
                truncated=1,
            ),
            np.array([7, 2], np.int32),
            np.array([[0.25, 0.75], [0.75, 0.25]], np.float32),
            max_length=5,
        )
        predictions, lengths = (
            list(csv.reader((tmp_path / f"{name}{suffix}.csv").read_text().splitlines()))
            for name in ("predictions", "lengths")
        )
        assert predictions == [
            ["id", "label", "predicted", "p_positive"],
            ['a,"b"', "1", "1", "0.750000"],
            ["c", "0", "0", "0.250000"],
        ]
        assert lengths == [
            ["id", "words", "tokens", "truncated"],
            ['a,"b"', "7", "5", "1"],
            ["c", "2", "2", "0"],
        ]
    assert len(read_json(directory.env)) == 4


def test_a_spreadsheet_runs_no_text(tmp_path):
    """Row 58: cells that start as formulas get a quote, control characters become visible."""
    cells = ["=1+1", "+1+1", "-1+1", "@a", "\t=1", "\r=1", "a=1", "\u202e\x1b", -1, 0.5, None]
    numbers = ["-1", "+1.50", "-.5e-3", "-1."]  # a number is no formula: data stay what they were
    write_csv(tmp_path / "a.csv", ["=cell"], [[cell] for cell in [*cells, *numbers]])
    with (tmp_path / "a.csv").open(newline="") as file:
        header, *read = [row[0] if row else "" for row in csv.reader(file)]
    assert header == "'=cell"
    assert read[:6] == ["'=1+1", "'+1+1", "'-1+1", "'@a", "'\t=1", "'\\r=1"]
    assert read[6:] == ["a=1", "\\u202e\\x1b", "-1", "0.5", "", *numbers]


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl"])
def test_a_table_that_is_written_is_read_back(tmp_path, name):
    values = ["a", 7, -2.5, True, None, {"b": [1, "é"]}, "x,\ty\nz", '"', "\ud800"]
    header = [f"column {i}" for i in range(len(values))]
    write_table(tmp_path / name, header, [values, values[::-1]])
    table = read_table((tmp_path / name).read_bytes(), name, header[:1], whole=True)
    assert table.columns == header
    if name == "a.jsonl":
        assert table.cells == [values, values[::-1]]
    else:
        cells = ["a", "7", "-2.5", "true", "", '{"b": [1, "\\u00e9"]}', *values[6:8], "\\ud800"]
        assert table.cells == [cells, cells[::-1]]


HOLD = """
import sys, time
from pathlib import Path
from sentiment_jax.storage.run_directory import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        named = f"in use by pid {holder.pid} on .* since "
        with pytest.raises(InputError, match=named), lock_run(tmp_path):
            pass
        holder.kill()
    with lock_run(tmp_path):
        assert (tmp_path / "lock").read_text().startswith("pid ")


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"cannot write to --workdir={workdir}"):
            prepare_workdir(workdir)
    for name in ("[a]", "a*", "a?", "a\\b", "a\udcff"):
        with pytest.raises(InputError, match="can't stand in a path here; rename it"):
            prepare_workdir(tmp_path / name)
    prepare_workdir(tmp_path / "a, $x^$ {b}")
