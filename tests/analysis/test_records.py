"""Reading run directories back, and refusing those that are unfinished, half-written or mixed."""

import dataclasses
import shlex

import pytest

from configs import bert
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.config.recipes import override
from sentiment_jax.config.stored import flatten
from sentiment_jax.errors import InputError
from sentiment_jax.modes import report
from sentiment_jax.storage.files import checksums, read_json, write_json
from sentiment_jax.storage.format import FORMAT
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial, plan_sweep, read_sweep
from sentiment_jax.training.checks import resolve


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
        ("result.json", '{"model": "lstm"}', "result.json has no sha256"),
        ("env.json", None, "cannot read"),
        ("predictions.csv", None, "cannot read"),
        ("predictions.csv", "id,label,predicted,p_positive\nrow 1,1,", "half-written"),
        ("predictions.csv", "id,label,predicted,p_positive\nrow 1,1,1,0.9\n", "--mode=evaluate"),
        ("lengths.csv", "id,words,tokens,truncated\nrow 1,9,9,0\n", "differ in their ids"),
    ],
)
def test_half_written_files(run_copy, name, content, message):
    path = run_copy / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    text = refused(run_copy)
    assert message in text
    assert str(run_copy) in text


@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions.csv", "lengths.csv"])
def test_a_changed_digit_is_noticed(run_copy, name):
    path = run_copy / name
    raw = bytearray(path.read_bytes())
    raw[max(i for i, byte in enumerate(raw) if chr(byte).isdigit())] ^= 1
    path.write_bytes(raw)
    assert f"{path} is not what was written" in refused(run_copy)


def test_a_half_written_plan(sweep_copy):
    write_json(sweep_copy / "sweep.json", {"format": FORMAT, "procedure": "grid"})
    assert "not a sweep's plan" in refused(sweep_copy)
    (sweep_copy / "sweep.json").write_text('{"procedure": ')
    assert "is not JSON" in refused(sweep_copy)


def test_a_sweep_without_its_plan(sweep_copy):
    (sweep_copy / "sweep.json").unlink()
    assert "is a sweep without its sweep.json: run the sweep's command" in refused(sweep_copy)


def test_predictions_of_the_other_split_are_noticed(run_copy):
    rows = (run_copy / "predictions.csv").read_text().splitlines()
    (run_copy / "predictions.csv").write_text("\n".join(rows[:13]) + "\n")
    assert "of another split" in refused(run_copy)


def test_a_verdict_that_another_device_rounds_away_is_no_damage(run_copy):
    trial = Trial("run", run_copy, RunDirectory(run_copy).read_config()).refresh()
    path = run_copy / "predictions.csv"
    head, *rows = (line.split(",") for line in path.read_text().splitlines())
    right = [i for i, (_, label, predicted, _) in enumerate(rows) if label == predicted]
    for turned in (2, 3):
        for i in right[:turned]:
            rows[i][2] = str(1 - int(rows[i][1]))
        path.write_text("".join(",".join(row) + "\n" for row in (head, *rows)))
        write_json(run_copy / "env.json", read_json(run_copy / "env.json") | checksums(path))
        if turned == 2:
            assert len(read_predictions([dataclasses.replace(trial)]).ids) == len(rows)
    assert "is not this run's test set" in refused(run_copy)


def test_different_data_do_not_stand_side_by_side(finished, run_copy):
    result = read_json(run_copy / "result.json")
    write_json(run_copy / "result.json", {**result, "data_hash": "f" * 64})
    message = refused(finished, run_copy)
    assert message.startswith("runs of different data cannot stand side by side")
    assert "ffffffffffff" in message and result["data_hash"][:12] in message


def test_an_unwritable_output(finished, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to --output" in refused(finished, output=tmp_path / "file" / "report")


def test_the_command_of_one_trial(swept):
    sweep = dataclasses.replace(
        read_sweep(swept.directory),
        config_file="configs/lstm.py:sample",
        overrides={"data.path": "my data", "data.length_buckets": (), "seed": 7},
    )
    trials = [trial for stage in sweep.stages() for trial in stage]
    (trial,) = [t for t in trials if t.stage == "final" and t.config.seed == 1]
    begins = ["python", "-m", "sentiment_jax.main", "--config=configs/lstm.py:sample"]
    overrides = ["--config.data.path=my data", "--config.data.length_buckets=()"]
    assert shlex.split(sweep.trial_command(trial)) == [
        *(*begins, *overrides, "--config.seed=1"),
        f"--workdir=runs/{trial.directory.name}",
    ]
    (trial,) = [
        t for t in trials if t.setting["optimizer"] == "sgd" and t.setting["learning_rate"] > 1
    ]
    assert set(shlex.split(sweep.trial_command(trial))[6:-1]) == {
        *("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e+30"),
        "--config.seed=0",
    }


def test_a_trials_command_resolves_to_its_config(tmp_path):
    overrides = {"model.pretrained": "", "model.num_attention_heads": 4}
    axes = {"model.hidden_size": (768, 128), "model.hidden_dropout": (0.1, 0.3)}
    resolved = resolve(override(bert.get_config(), overrides))
    plan = plan_sweep(tmp_path, resolved, bert.SWEEP | axes, "configs/bert.py", overrides)
    for change in {}, {"model.hidden_size": 128}, {"model.hidden_dropout": 0.3}:
        trial = plan.trial("", plan.start | change, seed=0)
        given = shlex.split(plan.trial_command(trial))[4:-1]
        asked = dict(flag.removeprefix("--config.").split("=") for flag in given)
        wanted = flatten(trial.config)
        typed = {name: type(wanted[name])(value) for name, value in asked.items()}
        assert flatten(resolve(override(bert.get_config(), typed))) == wanted, change


def test_a_sweep_from_before_config_file_was_kept(sweep_copy, tmp_path, monkeypatch):
    for name in ("_draw_choice", "_draw_test"):  # they take seconds
        monkeypatch.setattr(report, name, lambda *arguments: [])
    plan = read_json(sweep_copy / "sweep.json")
    for name in ("config_file", "overrides"):
        del plan[name]
    write_json(sweep_copy / "sweep.json", {**plan, "command": "python the-sweeps-own"})
    report.report([sweep_copy], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<pre>python the-sweeps-own</pre>") == 1 + 6
