import csv
import errno
import os
import socket
import subprocess
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from reviews import random_encoded

from sentiment_jax.config.schema import Config, DataConfig
from sentiment_jax.data.table import read_table
from sentiment_jax.errors import InputError
from sentiment_jax.storage import files, format, run_directory
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.format import FORMAT
from sentiment_jax.storage.run_directory import RunDirectory, prediction_cells, prediction_columns
from sentiment_jax.training.trained_model import load_run


def test_json_is_strict_and_atomic(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_a_temporary_file_is_removed_at_once_or_by_the_next_command(tmp_path, monkeypatch):
    """Row 64: a write that fails leaves none, and the next one removes a killed process's."""
    path = tmp_path / "result.json"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", Mock(side_effect=OSError(errno.EFBIG, "too large")))
        with pytest.raises(OSError, match="too large"):
            write_json(path, {})
    assert not [*tmp_path.iterdir()]
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = f"{path.name}.{socket.gethostname()}"
    others = [f".{mine}.{os.getppid()}", f"{mine}.{ended.pid}", f".other.{mine}.{ended.pid}"]
    others += [f".{path.name}.elsewhere.{ended.pid}"]
    for name in (f".{mine}.{ended.pid}", *others):
        (tmp_path / name).write_text("half")
    write_json(path, {"a": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "result.json"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', "result.json is not JSON"),
        ("[1]", "result.json has no sha256"),
        ('{"a": 1}', "result.json has no sha256"),
        ('{"a": 1, "sha256": null}', "result.json is not what was written"),
        (None, "cannot read .*result.json"),
    ],
)
def test_json_that_is_damaged_or_missing_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "result.json")


def test_a_flipped_bit_in_json_is_noticed(tmp_path):
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
            assert value.items() <= read_json(path).items()
        except InputError:
            noticed += 1
    assert noticed > 0.8 * len(raw) * 8  # the rest is white space


def test_a_file_that_differs_from_its_checksum_or_has_none_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("{}")
    register = files.checksums(path)
    files.check_checksum(path, register, "restore it")
    for wrong in ({}, {"metrics_sha256": "0"}):
        with pytest.raises(InputError, match="metrics.jsonl is not what was written .*restore it"):
            files.check_checksum(path, wrong, "restore it")
    path.unlink()
    with pytest.raises(InputError, match="cannot read .*metrics.jsonl: .*restore it"):
        files.check_checksum(path, register, "restore it")


def test_a_run_of_another_format_is_refused(finished, tmp_path):
    config = read_json(finished / "config.json")
    assert config.pop("format") == FORMAT
    for stored, message in (
        ({}, "made before format 2: train again, or check out 30f9d98"),
        ({"format": 1}, "made before format 2"),
        ({"format": FORMAT + 1}, f"has format {FORMAT + 1}: it was made by a later revision"),
    ):
        write_json(tmp_path / "config.json", stored | config)
        with pytest.raises(InputError, match=f"{tmp_path} .*{message}"):
            RunDirectory(tmp_path).read_config()


def test_an_earlier_format_is_upgraded_step_by_step(tmp_path, monkeypatch):
    upgrades = {n: lambda content, n=n: {**content, f"as of {n + 1}": n} for n in (2, 3)}
    monkeypatch.setattr(format, "FORMAT", 4)
    monkeypatch.setattr(format, "UPGRADES", upgrades)
    found = format.upgrade(tmp_path / "config.json", {"format": 2, "seed": 1})
    assert [*found.items()] == [("seed", 1), ("as of 3", 2), ("as of 4", 3)]


def test_predictions_follow_the_contract(tmp_path):
    directory = RunDirectory(tmp_path)
    write_json(directory.env, {"predictions-val_sha256": "of another split's own file"})
    changes = {"ids": ('a,"b"', "c"), "labels": np.int32([1, 0])}
    encoded = random_encoded(2, longest=9, vocabulary=9, **changes)
    probabilities = np.float32([[0.25, 0.75], [0.75, 0.25]])
    directory.write_predictions("test", encoded, probabilities, "of the texts", Config())
    predictions = 'id,label,predicted,p_positive\n"a,""b""",1,1,0.750000\nc,0,0,0.250000\n'
    assert (tmp_path / "predictions.csv").read_text() == predictions
    assert read_json(directory.env)["predictions_order"] == "of the texts"


def test_cells_of_classes_with_other_names():
    """Names stand in the cells, numbers as numbers; with more than two, each has a column."""
    two = np.float32([[0.25, 0.75], [0.5, 0.5]])
    assert prediction_columns(("bad", "good")) == ["predicted", "p_positive"]
    assert prediction_cells(("bad", "good"), two) == [["good", "0.750000"], ["bad", "0.500000"]]
    stars = ("-1", "0", "01")
    three = np.float32([[0.25, 0.25, 0.5], [0.5, 0.5, 0]])
    cells = Config(data=DataConfig(labels="-1,0,01")).cells
    assert prediction_columns(stars) == ["predicted", "p_-1", "p_0", "p_01"]
    assert prediction_cells(cells, three) == [
        ["01", "0.250000", "0.250000", "0.500000"],
        [-1, "0.500000", "0.500000", "0.000000"],
    ]


def test_a_spreadsheet_runs_no_text(tmp_path):
    """Row 58: cells that start as formulas get a quote, control characters become visible."""
    formulas = ["=1+1", "+1+1", "-1+1", "@a", "\t=1"]
    others = ["a=1", "-1", "+1.50", "-.5e-3", "-1."]  # a number is no formula: it stays
    cells = [*formulas, "\r=1", *others, "\u202e\x1b", -1, 0.5, None]
    files.write_csv(tmp_path / "a.csv", ["=cell"], [[cell] for cell in cells])
    with (tmp_path / "a.csv").open(newline="") as file:
        header, *read = [row[0] if row else "" for row in csv.reader(file)]
    assert header == "'=cell"
    quoted = [f"'{cell}" for cell in formulas]
    assert read == [*quoted, "'\\r=1", *others, "\\u202e\\x1b", "-1", "0.5", ""]


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl"])
def test_a_table_that_is_written_is_read_back(tmp_path, name):
    values = ["a", 7, -2.5, True, None, {"b": [1, "é"]}, "x,\ty\nz", '"', "\ud800"]
    header = [f"column {i}" for i in range(len(values))]
    files.write_table(tmp_path / name, header, [values, values[::-1]])
    table = read_table((tmp_path / name).read_bytes(), name, header[:1])
    assert table.columns == header
    if name == "a.jsonl":
        assert table.cells == [values, values[::-1]]
    else:
        cells = ["a", "7", "-2.5", "true", "", '{"b": [1, "\\u00e9"]}', *values[6:8], "\\ud800"]
        assert table.cells == [cells, cells[::-1]]


FILES = ["lock", "config.json", "env.json", "metrics.jsonl", "curves.png", "predictions.csv"]
MAKERS = [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("target")]
ODD = [(name, make) for name in FILES for make in MAKERS]


@pytest.mark.parametrize(("name", "make"), [*ODD, ("checkpoints", Path.touch)])
def test_what_is_no_file_is_refused_at_once_and_never_written_through(tmp_path, name, make):
    """Row 75."""
    (tmp_path / "target").write_text("mine")
    make(tmp_path / name)
    for use in run_directory.prepare_workdir, load_run:
        with pytest.raises(InputError, match=f"{name} is not what a run writes there: move it"):
            use(tmp_path)
    assert (tmp_path / "target").read_text() == "mine"


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"cannot write to --workdir={workdir}"):
            run_directory.prepare_workdir(workdir)
    for name in ("[a]", "a*", "a?", "a\\b", "a\udcff"):
        with pytest.raises(InputError, match="can't stand in a path; rename it"):
            run_directory.prepare_workdir(tmp_path / name)
    run_directory.prepare_workdir(tmp_path / "a, $x^$ {b}")
