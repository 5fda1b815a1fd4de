"""The notebook of docs/: its cells in order, as a kernel would run them, and no outputs kept."""

import json
import sys

import pytest
from commands import ROOT, run_elsewhere

CELLS = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_tour_is_ten_cells_without_outputs():
    assert len(CELLS) == 10
    for cell in CELLS:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.slow
def test_the_cells_run_in_order(tmp_path):
    """One after the other in plain Python, without Jupyter; the last two tables are shown."""
    script = "\n\n".join([*CODE, "print(words.to_string(), new.join(own.predict(new)).to_csv())"])
    output = run_elsewhere([sys.executable, "-c", script], tmp_path, ROOT)
    rows = [line.split(",") for line in output.splitlines() if line[:2] in ("A-", "B-")]
    assert [(name, predicted) for name, _, predicted, *_ in rows] == [("A-17", "0"), ("B-02", "1")]
    assert "quiet" in output
