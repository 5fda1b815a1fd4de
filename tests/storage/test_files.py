import csv
import errno
import os
import socket
import subprocess
from unittest.mock import Mock

import pytest
from reviews import refuses

from sentiment_jax.errors import InputError
from sentiment_jax.storage import files
from sentiment_jax.storage.files import read_json, write_json


def test_json_is_strict_and_atomic(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_a_temporary_file_is_removed_at_once_or_by_the_next_command(tmp_path, monkeypatch):
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
        ("[" * 100_000, "result.json is not JSON"),
        ("[1]", "result.json has no sha256"),
        ('{"a": 1}', "result.json has no sha256"),
        ('{"a": 1, "sha256": null}', "result.json is not what was written"),
        (None, "cannot read .*result.json"),
    ],
)
def test_json_that_is_damaged_or_missing_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    refuses(message, read_json, tmp_path / "result.json")


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


def test_a_spreadsheet_runs_no_text(tmp_path):
    formulas = ["=1+1", "+1+1", "-1+1", "@a", "\t=1"]
    others = ["a=1", "-1", "+1.50", "-.5e-3", "-1."]  # a number is no formula: it stays
    cells = [*formulas, "\r=1", *others, "\u202e\x1b", -1, 0.5, None]
    files.write_csv(tmp_path / "a.csv", ["=cell"], [[cell] for cell in cells])
    with (tmp_path / "a.csv").open(newline="") as file:
        header, *read = [row[0] if row else "" for row in csv.reader(file)]
    assert header == "'=cell"
    quoted = [f"'{cell}" for cell in formulas]
    assert read == [*quoted, "\\u000d=1", *others, "\\u202e\\u001b", "-1", "0.5", ""]
