"""The package from Python: what its functions give is what the command line gives."""

import csv
import functools
import json
import os
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas
import pytest
import runs
from commands import ROOT, SAMPLE, python, run
from reviews import refuses, write_csv

import sentiment_jax
from sentiment_jax import api
from sentiment_jax.config.recipes import override
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.errors import InputError
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.predict import Table, predict_table
from sentiment_jax.storage.files import read_json, write_atomically

TEXTS = ["a good film", "", "xqzzy xqzzy", "bad, dull and long"]


@pytest.fixture(scope="module")
def model(finished):
    return sentiment_jax.load(str(finished))


def test_the_package_offers_its_functions_by_name():
    shown = python("-c", "import sentiment_jax; print(*dir(sentiment_jax))").stdout
    assert {"get_config", "load", "pretrain", "train"} <= {*shown.split()}
    assert sentiment_jax.train is api.train
    assert sentiment_jax.pretrain is api.pretrain
    with pytest.raises(AttributeError, match="has no attribute 'fit'"):
        _ = sentiment_jax.fit


IN_PYTHON = """
import json, os, sys
import sentiment_jax
config = sentiment_jax.get_config("lstm:sample", json.loads(sys.argv[1]))
sentiment_jax.train(config, sys.argv[2])
print(os.environ.get("GLIBC_TUNABLES"), os.environ["XLA_FLAGS"])
"""


@pytest.mark.slow
def test_a_training_from_python_is_the_command_lines_bit_for_bit(tmp_path):
    """JAX starts with the same flags and devices; Python does not start again for malloc."""
    few = {**runs.ONE_SHAPE, "cpu_devices": 2, "epochs": 1}
    changes = {**runs.SMALL, **few}
    alone = {"cwd": tmp_path, "PYTHONPATH": ROOT, "GLIBC_TUNABLES": None}
    output = python("-c", IN_PYTHON, json.dumps(changes), "here", **alone).stdout
    tunables, *flags = output.splitlines()[-1].split()
    assert tunables == "None" and "--xla_cpu_prefer_vector_width=512" in flags
    run(SAMPLE, *runs.small_flags(**few), f"--workdir={tmp_path}/there")
    runs.assert_same_run(tmp_path / "here", tmp_path / "there")
    envs = [read_json(tmp_path / name / "env.json") for name in ("here", "there")]
    assert len(envs[0]["devices"]) == 2
    for name in ("devices", "xla_flags", "data"):
        assert envs[0][name] == envs[1][name]


def test_a_training_from_python_has_the_command_lines_settings(finished, tmp_path, monkeypatch):
    """As above, except that JAX has started."""
    started = Mock()
    monkeypatch.setattr(api.startup, "start", started)
    config = runs.make_small()
    assert sentiment_jax.train(config, str(tmp_path)) == read_json(tmp_path / "result.json")
    started.assert_called_once_with(config)
    runs.assert_same_run(finished, tmp_path)


def test_a_config_by_name_with_changes():
    nested = sentiment_jax.get_config("lstm:sample", epochs=2, data={"length_buckets": [8, 16]})
    recipe = ROOT / "configs" / "lstm.py"
    dotted = sentiment_jax.get_config(recipe, {"epochs": 2, "data.length_buckets": (8, 16)})
    assert (nested.epochs, nested.data.source) == (2, "sample")
    assert (dotted.epochs, dotted.data.source) == (2, "tfds")
    assert nested.data.length_buckets == dotted.data.length_buckets == (8, 16)
    ours = "no config file .*: ours are average, bert, electra, encoder, linear, lstm"
    refuses(ours, sentiment_jax.get_config, "nothing/like_it.py")
    for changes in ({"hiden_size": 8}, {"model": {"hiden_size": 8}}):
        with pytest.raises(InputError, match="hiden_size; did you mean model.hidden_size"):
            sentiment_jax.get_config("lstm", changes)
    refuses("epochs='many'", sentiment_jax.get_config, "lstm", epochs="many")
    refuses("epochs=None: a value is needed", sentiment_jax.get_config, "lstm", epochs=None)
    refuses("model.name='brt' is unknown", sentiment_jax.get_config, "lstm", {"model.name": "brt"})
    typed = sentiment_jax.get_config("lstm", {"epochs": np.int64(2), "data.path": Path("a.csv")})
    assert (typed.epochs, typed.data.path) == (2, "a.csv")


def test_predictions_are_those_of_the_command_line(model, capsys):
    predict_table([model._trained], Table.from_texts(TEXTS))
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    table = model.predict(TEXTS)
    assert list(table) == list(rows[0])[1:]
    assert [str(p) for p in table.predicted] == [row["predicted"] for row in rows]
    assert [f"{p:.6f}" for p in table.p_positive] == [row["p_positive"] for row in rows]
    assert list(table.warning) == [row["warning"] for row in rows]
    shares = model.predict_proba(TEXTS)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(shares[:, 1], table.p_positive, atol=1e-6)
    assert model.classes == ("negative", "positive")


def test_texts_in_every_shape(model):
    expected = model.predict(["a good film", "bad"]).p_positive.tolist()
    table = pandas.DataFrame({"stars": [5, 1], "text": ["a good film", "bad"]}, index=["x", "y"])
    lists = {"text": table.text.tolist()}
    for texts in (iter(table.text), table.text, table, table.text.to_numpy(), lists):
        assert model.predict(texts).p_positive.tolist() == expected
    assert list(model.predict(table).index) == list(model.predict(table.text).index) == ["x", "y"]
    assert model.predict("a good film").p_positive.tolist() == pytest.approx(expected[:1])
    missing = model.predict([None, float("nan"), pandas.NA, "", 7])
    assert missing.warning.tolist() == [*["no text"] * 4, "100 % unknown words"]
    assert model.predict([]).empty
    refuses("need one column 'text': their columns are 'stars'", model.predict, table[["stars"]])


TWO = pandas.DataFrame([["a", "b"]], columns=["text", "text"])


@pytest.mark.parametrize(
    ("texts", "same"),
    [
        (b"a good film", ["a good film"]),
        ([b"caf\xc3\xa9", "e\u0301"], ["caf\u00e9", "\u00e9"]),
        (np.array([b"good", b"bad"]), ["good", "bad"]),
        ({"text": [b"good", None]}, ["good", ""]),
        (pandas.Series(["good", "bad"], dtype="category"), ["good", "bad"]),
        ([7, 7.0, np.float32(7), 2.5, np.int8(7), True], ["7", "7", "7", "2.5", "7", "True"]),
        (["\ud800 good", "a\0b"], ["? good", "a\0b"]),
        (TWO, "need one column 'text': their columns are 'text', 'text'"),
        ({"text": "abc"}, "the data: each column is a list: of one text, "),
        ({"text": ["a", "b"], "label": [1]}, "the data must be a table"),
        ([b"\xff"], "number 0: a text, or one in UTF-8, is expected, not this bytes"),
        ([["a", "b"], ["c"]], "number 0: a text, or one in UTF-8, is expected, not this list"),
        (np.array([["a", "b"]]), "number 0: .* not this ndarray"),
        ([pandas.Timestamp("2020-01-01")], "not this Timestamp"),
        (["a", {"b": 1}], "number 1: .* not this dict"),
        (None, "a list or a column is expected, not NoneType"),
        ({"a", "b"}, "a list or a column is expected, not set"),
        (np.array("a"), "a list or a column is expected, not ndarray"),
    ],
)
def test_values_that_no_csv_file_holds(model, texts, same):
    listed = texts["text"] if isinstance(texts, dict) else texts
    listed = [listed] if isinstance(listed, bytes) else listed
    if isinstance(same, str):
        refuses(same, model.predict, texts)
        with pytest.raises(InputError, match=re.sub("'text'.*", "", same)):
            model.evaluate(texts if isinstance(texts, dict) or texts is TWO else (texts, [1, 0]))
        return
    assert (model.predict_proba(texts) == model.predict_proba(same)).all()
    assert model.predict(texts).equals(model.predict(same))
    assert model.explain([*listed][0]).text == same[0]
    labels = [0, 1, 1, 1, 1, 1][: len(same)]
    assert model.evaluate((listed, labels)) == model.evaluate((same, labels))


def test_scores_are_those_of_the_run(model, finished):
    result = read_json(finished / "result.json")
    for split, scores in (("test", model.evaluate()), ("val", model.evaluate("val"))):
        assert scores == result[split] | result["metrics"][split]
    test = load_dataset(model.config.data).splits["test"]
    labels = np.array(["neg", "pos"])[test.codes]
    for data in ((test.texts, labels), {"text": test.texts, "label": test.codes}):
        scores = model.evaluate(data)
        assert scores["loss"] == pytest.approx(result["test"]["loss"], abs=1e-6)
        assert scores["accuracy"] == result["test"]["accuracy"]
        assert scores["classes"] == result["metrics"]["test"]["classes"]
    one_class = model.evaluate((["a", "b"], ["pos", "pos"]))
    assert one_class["classes"]["negative"]["examples"] == 0
    with pytest.raises(InputError, match="^the data, column 'label': .* do not fit the classes"):
        model.evaluate((["a", "b"] * 5, ["good", "bad"] * 5))
    refuses("choose test or val", model.evaluate, "train")


def test_an_lstm_is_not_exported(model, tmp_path):
    refuses("only bert and electra", model.export, str(tmp_path / "folder"))


def test_training_on_a_table(monkeypatch, tmp_path):
    """It enters as a CSV file in the run's folder: the run can be scored and resumed from there."""
    texts = ['=1+1, "quoted"', "two\r\nlines", "caf\u00e9", "x" * 200_000, " spaces "]
    texts += [f"a {('bad', 'good')[i % 2]} pan, number {i}" for i in range(55)]
    own = pandas.DataFrame({"review": texts, "stars": 3, "opinion": 1.0}, index=range(100, 160))
    own.loc[::2, "opinion"] = 0.0
    columns = {"text_column": "Review", "label_column": "opinion"}  # in any case
    # The same program, whatever the words.
    sizes = {"vocabulary_size": 10, "limit": 0, "test_limit": 0, "length_buckets": ()}
    own_data = {"source": "csv"}  # as in the recipes for it: the call names the reviews
    config = runs.make_small(data=columns | sizes | own_data, epochs=1)
    workdir = tmp_path / "run"
    train = functools.partial(sentiment_jax.train, config, workdir)
    result = train(own)
    assert config.data.path == "", "the caller's config changed"
    stored = read_json(workdir / "config.json")["data"]
    assert (stored["source"], stored["path"]) == ("csv", str(workdir / "reviews.csv"))
    assert read_json(workdir / "env.json")["data"]["source"] == "csv"
    model = sentiment_jax.load(workdir)
    assert model.evaluate()["loss"] == result["test"]["loss"]
    assert sum(map(len, load_dataset(model.config.data).splits.values())) == 60
    assert model.evaluate(own)["examples"] == 60
    assert train(own) == result
    refuses("reviews.csv holds other texts", train, own.head(50))
    learns = override(config, {"model.pretrained": str(workdir)})
    with pytest.raises(InputError, match="learns from .*, its own --workdir"):
        sentiment_jax.train(learns, workdir, own.head(50), fresh=True)
    larger = override(config, {"batch_size": 4096})
    refuses("is larger than the", sentiment_jax.train, larger, workdir, own.head(50), fresh=True)
    assert train(own) == result  # all is still there
    assert sentiment_jax.load(workdir).evaluate()["loss"] == result["test"]["loss"]
    killed = [tmp_path / f"killed-{i}" for i in range(4)]  # as a kill leaves it, at four places
    places = iter(killed)

    def write(path, text):
        shutil.copytree(workdir, next(places))
        write_atomically(path, text)
        shutil.copytree(workdir, next(places))

    monkeypatch.setattr(api, "write_atomically", write)
    again = train(own.head(50), test=own, fresh=True)
    monkeypatch.undo()
    assert not list(workdir.rglob("*.deleted"))
    for left in killed:
        assert sentiment_jax.load(left).evaluate()["loss"] == result["test"]["loss"]
        assert sentiment_jax.train(config, left, own) == result
        assert not list(left.rglob("*.deleted"))
    assert again["test"]["examples"] == 60
    moved = shutil.copytree(workdir, tmp_path / "new")  # its reviews lie in it
    shutil.copy(
        workdir / "reviews-test.csv", workdir / "reviews.csv"
    )  # what comes to the old place
    assert read_json(moved / "config.json")["data"]["test_path"].endswith("reviews-test.csv")
    assert sentiment_jax.load(moved).evaluate()["loss"] == again["test"]["loss"]
    assert evaluate_split([moved], "val", {"data.path": f"{moved}/reviews.csv"}) == again["val"]
    assert sentiment_jax.train(config, moved, own.head(50), test=own) == again


def test_a_test_file_of_the_config_is_used_beside_a_table(tmp_path):
    rows = [(f"a {('bad', 'good')[i % 2]} pan, number {i}", str(i % 2)) for i in range(60)]
    config = runs.make_small(epochs=1, data={"source": "csv", "limit": 0, "test_limit": 0})
    config.data.test_path = write_csv(tmp_path / "test.csv", rows[:22])
    table = pandas.DataFrame(rows[22:], columns=["text", "label"])
    result = sentiment_jax.train(config, tmp_path / "run", table)
    assert result["test"]["examples"] == 22
    stored = read_json(tmp_path / "run" / "config.json")["data"]
    assert stored["test_path"] == config.data.test_path


def test_an_argument_in_the_place_of_another_is_refused():
    table = pandas.DataFrame({"text": ["a"], "label": ["b"]})
    refuses("workdir: a path is expected, not DataFrame", api._path, table)  # of each function
    refuses("workdir: a path is expected, not ''", api._path, "")  # the current folder
    choices = "class_weights='balance' is unknown, choose none, balanced; did you mean balanced"
    refuses(choices, sentiment_jax.get_config, "linear", class_weights="balance")
    refuses("epochs=0 must be >= 1", sentiment_jax.get_config, "linear", epochs=0)
    refuses("holds a NUL", sentiment_jax.get_config, "linear", {"data.path": "a\0.csv"})


def test_a_class_is_explained_by_any_of_its_names(model):
    assert model.predict("a good day").predicted[0] in (0, 1)
    positive = model.explain("a good day").log_odds
    for label, sign in ((0, -1), ("0", -1), (np.int64(0), -1), ("neg", -1), (1, 1), ("pos", 1)):
        assert model.explain("a good day", label).log_odds == sign * positive
    refuses("label '2' is none of this run", model.explain, "a good day", 2)


def test_at_least_is_a_probability(model):
    for wrong in (2.0, -0.1, float("nan")):
        refuses(f"at_least={wrong}: a probability, 0 to 1", model.predict, "a good day", wrong)


def test_a_column_may_be_the_index(model):
    texts = ["good film", "a bad day"]
    table = pandas.DataFrame({"label": [1, 0]}, index=pandas.Index(texts, name="text"))
    assert model.predict(table).reset_index(drop=True).equals(model.predict(texts))
    assert list(model.predict(table).index) == texts
    table = pandas.DataFrame({"text": texts}, index=pandas.Index(["x", "y"], name="text"))
    assert model.predict(table).reset_index(drop=True).equals(model.predict(texts))  # the column


def test_reviews_that_another_process_has_just_written_stay(tmp_path, monkeypatch):
    """Both were called on a new directory; this one gets the lock after the other is done."""
    path = tmp_path / "run" / "reviews.csv"

    def lock_after_the_other(directory, lock=api.lock_run):
        path.write_text("theirs")
        return lock(directory)

    monkeypatch.setattr(api, "lock_run", lock_after_the_other)
    refuses("holds other texts", sentiment_jax.train, runs.make_small(), tmp_path / "run", MANY)
    assert path.read_text() == "theirs"


MANY = ([f"film {i}" for i in range(60)], [0, 1] * 30)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"data": {"text": ["a"]}}, "need one column 'label': their columns are 'text'"),
        ({"data": (["a", "b"], [1])}, "data must be texts and as many of label"),
        ({"data": (["good", "bad\0"], [1, 0])}, "number 1: no CSV file can hold the NUL in it"),
        ({"data": (pandas.DataFrame({"a": ["good"]}), [1])}, "a column is expected, not DataFrame"),
        ({"data": (["good", "bad"], [1, 7])}, "'7'"),
        ({"data": MANY, "test": (["good"] * 8, [2] * 8)}, "'2' is in .*test.csv alone"),
        ({"test": (["good"], [1])}, "test= goes with data="),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, tables, message):
    refuses(message, sentiment_jax.train, runs.make_small(), tmp_path / "run", **tables)
    left = os.listdir(tmp_path / "run") if (tmp_path / "run").exists() else []
    assert left in ([], ["lock"])  # the table may be corrected


DISTURBED = """
import sys
import sentiment_jax
from sentiment_jax.storage.checkpoints import Checkpoints

read = Checkpoints.read

def disturb(checkpoints, step, *names):
    Checkpoints.read = read
    arrays = checkpoints.directory / str(step) / "params"
    moved = ("d", "ocdbt.process_0")
    elsewhere = checkpoints.directory / "elsewhere"
    elsewhere.mkdir()
    for name in moved:
        (arrays / name).rename(elsewhere / name)
    try:
        return read(checkpoints, step, *names)
    finally:
        for name in moved:
            (elsewhere / name).rename(arrays / name)

Checkpoints.read = disturb
print(sentiment_jax.load(sys.argv[1]))
"""


def test_a_read_that_a_training_disturbs_is_repeated_without_a_word(run_copy):
    """Orbax's threads, which outlive the first read, reported that their event loop is closed."""
    done = python("-c", DISTURBED, run_copy)
    assert done.stdout.startswith("Model(") and (run_copy / "checkpoints/elsewhere").exists()
    assert done.stderr == ""
