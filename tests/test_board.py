"""benchmarks/accuracy/board.py: entries are scored, timed and killed, and drawn."""

import os
import sys
from unittest.mock import Mock

import matplotlib.image
import pretrained
import pytest
from reviews import read_table, write_csv

from benchmarks.accuracy import board
from benchmarks.product_reviews import make_rows

WRITE = """
echo >> "$FOLDER/../begun"; sleep .2
sed '1s/.*/predicted/; 1!s/.*{}//' "$FOLDER/test.csv" > "$FOLDER/predicted.csv"
"""
ENTRIES = {
    "right": WRITE.format(","),  # the labels, which no real entry may read
    "negative": WRITE.format("/neg").replace("neg//", "neg/"),
    "killed": 'sleep 100; touch "$FOLDER/alive"',
    "failed": "echo No module named setfit >&2; exit 1",
}


@pytest.fixture
def enter(tmp_path, monkeypatch, capsys, painted):
    """Run the board with these entries on a small table; return what it prints."""
    rows = [row[:2] for row in make_rows(60)]
    table = write_csv(tmp_path / "reviews.csv", rows)
    folder = pretrained.write_folder(
        tmp_path / "weights", "bert", [text for text, _ in rows], max_position_embeddings=128
    )
    monkeypatch.setattr(board, "ENTRIES", tmp_path / "entries")
    board.ENTRIES.mkdir()
    for name, script in ENTRIES.items():
        (board.ENTRIES / f"{name}.sh").write_text(script)
    monkeypatch.setattr(os, "sched_setaffinity", Mock())
    given = [f"--data=own={table},again={table}", f"--weights={folder}", "--budget=.1,12"]
    given += [f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'board.csv'}"]
    monkeypatch.setattr(sys, "argv", ["board", *given])

    def enter():
        board.main()
        return capsys.readouterr().out.splitlines()

    return enter


@pytest.mark.slow  # 26 s, which an entry that hangs takes
def test_entries_are_scored_and_killed_and_a_stopped_table_is_completed(enter, tmp_path):
    printed = enter()
    table = read_table(tmp_path / "board.csv")
    assert len(table) == 8
    own = {row["entry"]: row for row in table if row["data"] == "own"}
    assert float(own["right"]["accuracy"]) == 1 and own["right"]["test"] == "12"
    assert 0 < float(own["negative"]["accuracy"]) < 1
    assert 0.2 <= float(own["right"]["seconds"]) < 12
    assert own["killed"]["accuracy"] == own["failed"]["seconds"] == ""
    assert "own-failed-0: no predictions within 12 s: No module named setfit" in printed
    assert printed[-2:] == ["again, 0.1 s:", "again, 12 s: right 1.0000"]
    height, width, _ = matplotlib.image.imread(tmp_path / "board.png").shape
    assert height > width, "a panel for each table"

    lines = (tmp_path / "board.csv").read_text().splitlines(keepends=True)
    (tmp_path / "board.csv").write_text("".join(lines[:-1]))  # without again, right
    assert enter()[-1] == "again, 12 s: right 1.0000"
    begun = (tmp_path / "runs" / "begun").read_text().splitlines()
    assert len(begun) == 5, "what is in the table is not run again"
    assert not [*(tmp_path / "runs").glob("*/alive")]
