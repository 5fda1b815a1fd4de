"""What the README promises, by its own commands, on the embedded sample and on a user's CSV."""

import csv
import json

import pytest
from commands import run


@pytest.mark.slow
def test_the_sample_run_of_the_readme(tmp_path):
    done = run("--config=configs/lstm.py:sample", f"--workdir={tmp_path}/sample")
    assert done.stderr == ""  # no bar where there is no terminal, no warning of any library
    result = json.loads((tmp_path / "sample" / "result.json").read_text())
    env = json.loads((tmp_path / "sample" / "env.json").read_text())
    assert len(env["devices"]) == 2  # the config's cpu_devices
    lines = [line for line in done.stdout.splitlines() if " accuracy " in line[:20]]
    assert lines[0].startswith(f"val      accuracy {result['val']['accuracy']:.4f}")
    assert lines[1].startswith(f"test     accuracy {result['test']['accuracy']:.4f}")
    assert result["test"]["accuracy"] > 0.58  # learnt something: 96 reviews, chance is 0.5 +- 0.05
    assert sum(line.startswith(("positive", "negative")) for line in done.stdout.splitlines()) == 4


@pytest.mark.slow
def test_a_csv_of_ones_own(tmp_path):
    reviews = [("a wonderful film number", "positive"), ("an awful film number", "negative")]
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["stars", "review", "verdict"])
        for number in range(60):
            text, label = reviews[number % 2]
            rows.writerow([3, f"{text} {number}, \u00e7a va", label])
    workdir = f"--workdir={tmp_path}/run"
    run(
        "--config=configs/lstm.py:sample",
        workdir,
        "--config.data.source=csv",
        f"--config.data.path={tmp_path}/mine.csv",
        "--config.data.text_column=review",
        "--config.data.label_column=verdict",
        "--config.optimizer.name=rmsprop",
        "--config.optimizer.learning_rate=5e-3",
        "--config.batch_size=8",
        "--config.epochs=4",
        "--config.cpu_devices=1",
        "--config.data.length_buckets=()",
        "--config.data.max_length=16",
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"] == {**result["test"], "examples": 12, "accuracy": 1.0}
    scored = run("--mode=evaluate", workdir).stdout.splitlines()
    assert json.loads(scored[-1]) == result["test"]
    (tmp_path / "new.csv").write_text("review\nan awful film\na wonderful film\n\n")
    answers = run("--mode=predict", workdir, f"--input={tmp_path}/new.csv").stdout.splitlines()
    table = list(csv.DictReader(answers))
    assert [row["predicted"] for row in table[:2]] == ["0", "1"]
