"""Several labels per text, from a table to the report: every mode, and what each of them says."""

import contextlib
import csv
import io
import json
import re

import numpy as np
import pandas
import pytest
import runs
import scipy.special
from pretrained import make_folder
from reviews import read_table, refuses, write_csv

from benchmarks.product_reviews import make_aspects
from configs import linear
from sentiment_jax import api
from sentiment_jax.analysis.integrated_gradients import explain
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.config.stored import flatten, make_frozen
from sentiment_jax.config.validation import validate
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.kinds import MultiLabel
from sentiment_jax.data.labels import apply_temperature, find_class
from sentiment_jax.data.table import read_labeled, read_texts
from sentiment_jax.data.texts import Texts, fold_splits, stratified_sample, stratified_split
from sentiment_jax.modes import compare as mode
from sentiment_jax.modes import report, sweep
from sentiment_jax.modes.evaluate import evaluate_file, evaluate_split
from sentiment_jax.modes.explain import explain_texts
from sentiment_jax.modes.export import export_run
from sentiment_jax.modes.predict import TextSource, predict, print_predictions
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.tasks.multi_label import fit
from sentiment_jax.training.trained_model import load_ensemble, load_run

NAMES = ("price", "quality", "shipping")
WORDS = {
    "price": "cheap dear bargain",
    "quality": "solid flimsy neat",
    "shipping": "late lost fast",
}
SMALL = {
    "cpu_devices": 1,
    "linear_baseline": False,
    "data.max_length": 16,
    "data.length_buckets": (),
    "data.validation_fraction": 0.2,
    "data.label_separator": ";",
}


def rows(count=200, seed=0):
    """Texts of random words and a word or two of each of their labels, if any; labels joined."""
    rng = np.random.default_rng(seed)
    fill = [f"word{i}" for i in range(40)]
    found = []
    for _ in range(count):
        labels = [name for name, share in zip(NAMES, (0.25, 0.5, 0.35)) if rng.random() < share]  # noqa: B905
        words = [*rng.choice(fill, 5), *(rng.choice(WORDS[name].split()) for name in labels)]
        found.append((" ".join(rng.permutation(words)), ";".join(labels)))
    return found


def make_config(path, **changes):
    changes = {"data.path": str(path), **SMALL, **changes}
    return override(linear.get_config(), changes)


def make_lstm(path, **changes):
    """A recipe that takes steps."""
    settings = {name: value for name, value in SMALL.items() if name.startswith("data.")}
    settings |= {"data.source": "csv", "data.path": path, "data.limit": 0, "data.test_limit": 0}
    return runs.make_small(**settings | changes)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("data") / "a.csv", rows())


@pytest.fixture(scope="module")
def printed(table, tmp_path_factory):
    """The directory of a run with a linear baseline, and what it printed; not to be changed."""
    workdir = tmp_path_factory.mktemp("several") / "run"
    streams = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        train(make_config(table, linear_baseline=True), workdir)
    return workdir, *(stream.getvalue() for stream in streams)


@pytest.fixture(scope="module")
def run(printed):
    return printed[0]


@pytest.fixture(scope="module")
def trained(run):
    return load_run(run)


@pytest.fixture(scope="module")
def pair(run, table, tmp_path_factory):
    """Two runs that differ in the weights of the classes."""
    other = tmp_path_factory.mktemp("other") / "run"
    train(make_config(table, class_weights="balanced"), other)
    return [run, other]


def draw_reviews(count=300, seed=0):
    """Texts of four labels of unequal shares, a tenth of the texts twice."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, 4)) < (0.5, 0.3, 0.1, 0.04)
    texts = [f"text {i if i % 10 else max(i - 1, 0)}" for i in range(count)]
    return Texts.from_texts(texts, labels, classes=("a", "b", "c", "d"), kind=MultiLabel())


@pytest.mark.parametrize("seed", range(3))
def test_splits_hold_each_label_in_proportion_and_equal_texts_on_one_side(seed):
    reviews = draw_reviews(seed=seed)
    kept, held = stratified_split(reviews, 0.2, seed=seed)
    assert sorted([*kept, *held]) == list(range(300))
    assert not {*reviews.hashes[kept]} & {*reviews.hashes[held]}
    totals = reviews.labels.sum(axis=0)
    assert np.abs(reviews.labels[held].sum(axis=0) - 0.2 * totals).max() <= 2
    assert abs(len(held) - 60) <= 1
    assert (reviews.labels[held].sum(axis=0) > 0).all()
    backwards = reviews.take(np.arange(300)[::-1])
    again = stratified_split(backwards, 0.2, seed=seed)[1]
    assert {*backwards.hashes[again]} == {*reviews.hashes[held]}
    folds = [rows for _, rows in fold_splits(reviews, 5, seed=seed)]
    assert sorted(np.concatenate(folds)) == list(range(300))
    for fold in folds:
        others = np.setdiff1d(np.arange(300), fold)
        assert not {*reviews.hashes[fold]} & {*reviews.hashes[others]}
        assert np.abs(reviews.labels[fold].sum(axis=0) - totals / 5).max() <= 2
        assert abs(len(fold) - 60) <= 1
    sample = {n: stratified_sample(reviews, count=n, seed=0) for n in (60, 120)}
    assert {*sample[60].hashes} <= {*sample[120].hashes} and len(sample[60].ids) == 60
    assert np.abs(sample[120].labels.sum(axis=0) - 0.4 * reviews.labels.sum(axis=0)).max() <= 6


def test_a_label_of_one_text_cannot_be_split():
    labels = np.array([[True, False], [True, True], [True, False]])
    reviews = Texts.from_texts("abc", labels, classes=("x", "rare"), kind=MultiLabel())
    refuses("1 rare texts cannot be split", stratified_split, reviews, 0.5, seed=0)
    refuses("class 'rare' needs two different texts", fold_splits, reviews, 2, seed=0)


def as_columns(cells):
    header = ("text", *NAMES)
    return [(text, *(int(name in label) for name in NAMES)) for text, label in cells], header


def test_both_forms_of_a_table_and_lists_of_python_and_json_are_the_same(tmp_path):
    cells = rows(60)
    joined = load_dataset(
        DataConfig("csv", write_csv(tmp_path / "a.csv", cells), label_separator=";")
    )
    spaced = [(text, f" {label.replace(';', ' ; ').upper()};;") for text, label in cells]
    lists = [(text, str(label.split(";") if label else [])) for text, label in cells]
    tables = {
        "columns": (*as_columns(cells), {"label_columns": ",".join(NAMES)}),
        "spaced": (spaced, ("text", "label"), {"label_separator": ";", "labels": ",".join(NAMES)}),
        "lists": (lists, ("text", "label"), {"label_separator": ","}),
    }
    for name, (found, header, settings) in tables.items():
        path = write_csv(tmp_path / f"{name}.csv", found, header)
        dataset = load_dataset(DataConfig("csv", path, **settings))
        assert dataset.statistics["data_hash"] == joined.statistics["data_hash"], name
    lines = [json.dumps({"text": t, "label": x.split(";") if x else []}) for t, x in cells]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    dataset = load_dataset(DataConfig("csv", str(tmp_path / "a.jsonl"), label_separator=","))
    assert dataset.statistics["data_hash"] == joined.statistics["data_hash"]
    train = dataset.splits["train"]
    assert train.classes == NAMES
    assert joined.statistics["reviews"]["train"] == len(train)
    assert joined.statistics["counts"]["train"] == dict(
        zip(NAMES, train.labels.sum(axis=0).tolist(), strict=True)
    )


GOOD = [(f"text {i} of {i % 7}", ["a;b", "a", "b;c", "", "c"][i % 5]) for i in range(60)]
COLUMNS = [(f"text {i}", i % 2, i // 2 % 2) for i in range(60)]
AB = ("text", "a", "b")
LISTS = [(text, str(label.split(";"))) for text, label in GOOD]
OF_TWO = {"data.label_columns": "a,b"}
SEMICOLON = {"data.label_separator": ";"}
# What is given, its header, settings, and what the one line says; "" where it is taken as meant.
SLIPS = [
    (GOOD, None, {}, "no label .row 5: '', .*: remove these rows, or set data.label_separator"),
    (
        [(t, x.replace("b;c", "b")) for t, x in GOOD if x],
        None,
        {},
        "'a;b' holds several labels: set --config.data.label_se",
    ),
    (LISTS, None, SEMICOLON, ""),  # a list is a list, whatever the separator
    (LISTS, None, {"data.label_separator": ","}, ""),
    ([(t, x.upper() if i % 2 else x) for i, (t, x) in enumerate(GOOD)], None, SEMICOLON, ""),
    ([(t, f" {x.replace(';', ' ; ')} ;") for t, x in GOOD], None, SEMICOLON, ""),
    ([(t, f"{x};{x}") for t, x in GOOD], None, SEMICOLON, ""),
    ([(t, x.replace(";", " and ")) for t, x in GOOD], None, {"data.label_separator": " and "}, ""),
    ([*GOOD, ("one", "a;tpyo")], None, SEMICOLON, "labels of fewer than 5 texts .row 62: 'tpyo'"),
    ([(t, "a" if x else "") for t, x in GOOD], None, SEMICOLON, "1 different labels, a .48.; 2 to"),
    ([(t, "") for t, _ in GOOD], None, SEMICOLON, "0 different labels"),
    ([(t, t) for t, _ in GOOD], None, SEMICOLON, "are these texts. name the other column"),
    (GOOD, None, SEMICOLON | OF_TWO, "label_columns and label_separator are two forms of a table"),
    (GOOD, None, OF_TWO, "needs one column 'a': its columns are 'text', 'label'"),
    (COLUMNS, ("text", "nan", "b"), {"data.label_columns": "nan,b"}, "label 'nan' can't be told"),
    (COLUMNS, ("text", "1.0", "1"), {"data.label_columns": "1.0,1"}, "label '1' can't be told"),
    (COLUMNS, ("text", "a", "A"), {"data.label_columns": "a,A"}, "label 'A' can't be told from"),
    (COLUMNS, ("text", "a", "b;c"), {"data.label_columns": "a,b;c"}, ""),
    (COLUMNS, AB, {}, "needs one column 'label': .*or data.label_columns"),
    (COLUMNS, AB, OF_TWO, ""),
    ([(t, a == 1, b == 1) for t, a, b in COLUMNS], AB, OF_TWO, ""),
    ([(t, float(a), float(b)) for t, a, b in COLUMNS], AB, OF_TWO, ""),
    (
        [(t, a or "", b) for t, a, b in COLUMNS],
        AB,
        OF_TWO,
        "row 2, column 'a': '' is neither 0 nor",
    ),
    ([(t, a, 2 * b) for t, a, b in COLUMNS], AB, OF_TWO, "row 4, column 'b': '2' is neither 0 nor"),
    (COLUMNS, AB, {"data.label_columns": "a"}, "data.label_columns names 1: 2 to 1,000 expected"),
    (COLUMNS, AB, {"data.label_columns": "text,a"}, "column 'text': 'text 0' is neither 0 nor 1"),
    (COLUMNS, AB, {"data.label_columns": "a,c"}, "needs one column 'c'"),
    ([(t, a, 0) for t, a, _ in COLUMNS], AB, OF_TWO, "0 b texts cannot be split"),
    (
        GOOD,
        None,
        SEMICOLON | {"select_by": "auc"},
        "select_by=auc: several labels take loss, macro_f1 or last",
    ),
    (GOOD, None, SEMICOLON | {"data.source": "sample"}, "data.source=sample has labels of its own"),
    (
        GOOD,
        None,
        SEMICOLON | {"data.positive_labels": "a", "data.negative_labels": "b"},
        "data.positive_labels makes two classes: not where a text has labels",
    ),
    (
        [(t, f"l{i % 500};l{500 + i % 501}") for i, (t, _) in enumerate(GOOD * 60)],
        None,
        SEMICOLON,
        "1001 different labels",
    ),
]


@pytest.mark.parametrize("slip", range(len(SLIPS)))
def test_slips(slip, tmp_path):
    cells, header, settings, line = SLIPS[slip]
    path = write_csv(tmp_path / "a.csv", cells, header or ("text", "label"))
    config = override(linear.get_config(), {"data.path": path, **settings})

    def read():
        validate(config)
        return read_texts(make_frozen(flatten(config)).data)

    if line:
        message = refuses(line, read)
        assert len(message.replace(str(tmp_path), "")) < 400
    else:
        pool, test = read()
        given = [*zip(*(of[1:] for of in cells), strict=True)]
        named = [*header[1:]] if header else ["a", "b", "c"]
        assert [c.lower() for c in pool.classes] == named
        count = sum(of.labels[:, 0].sum() for of in (pool, test))
        assert count == (30 if header else 24) and len(pool) + len(test) == len(given[0])


def test_labels_of_a_scored_table(tmp_path, capsys):
    """As for classes: others are dropped if each label of the run occurs, else refused as typos."""
    data = {"label_separator": ";", "labels": "a,b,c"}
    path = write_csv(tmp_path / "a.csv", [("one", "a;B"), ("two", "c;d"), ("three", "")])
    found = read_labeled(DataConfig("csv", path, **data))
    assert found.codes.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert "1 labels are not among a, b, c: d (1)" in capsys.readouterr().err
    path = write_csv(tmp_path / "b.csv", [("one", "a"), ("two", "bee")])
    refuses("1 labels are not among a, b, c: bee", read_labeled, DataConfig("csv", path, **data))


def test_a_run_says_what_it_learned(printed):
    run, shown, errors = printed
    assert errors == ""
    assert "labels   price, quality, shipping; several per text, or none" in shown
    assert re.search(r"train +128 texts, price: \d+, quality: \d+, shipping: \d+", shown)
    result = read_json(run / "result.json")
    assert f"macro F1 {result['val']['macro_f1']:.4f}" in shown
    measured = result["metrics"]["test"]
    assert f"micro F1 {measured['micro_f1']:.4f}, macro F1 {measured['macro_f1']:.4f}" in shown
    assert re.search(r"price: precision .\.\d{4}, recall .\.\d{4} of \d+ texts", shown)
    assert re.search(r"linear +accuracy .\.\d{4}  loss .\.\d{4}  macro F1 ", shown)
    assert result["test"]["accuracy"] > 0.5 and measured["macro_f1"] > 0.7
    assert len(result["thresholds"]) == len(result["temperature"]) == 3
    texts = {text for text, _ in rows()}
    examples = [line for line in shown.splitlines() if line.split("  ")[-1].strip() in texts]
    assert len(examples) == 4, shown


def test_the_table_of_predictions_and_evaluate_are_the_runs(run, trained, capsys):
    result = read_json(run / "result.json")
    header, *found = csv.reader((run / "predictions.csv").read_text().splitlines())
    assert header == ["id", "label", "predicted", *(f"p_{name}" for name in NAMES)]
    right = 0
    for _, label, predicted, *p in found:
        above = zip(NAMES, p, trained.thresholds, strict=True)
        assert predicted == ";".join(name for name, value, least in above if float(value) > least)
        right += label == predicted
    assert right / len(found) == result["test"]["accuracy"]
    for split in ("test", "val"):
        scores = evaluate_split([run], split)
        assert {name: scores[name] for name in result[split]} == result[split]
    assert "micro F1" in capsys.readouterr().out
    alone, _ = predict([trained], ["cheap", "solid", "word1"])
    lines = trained.kind.describe(NAMES, alone, trained.thresholds)
    assert lines[0].startswith(f"price {100 * alone[0, 0]:.1f} %") and lines[2].strip() == "none"


def test_validation_chooses_thresholds_and_the_epoch_of_the_best_macro_f1(table, tmp_path):
    result = train(make_lstm(table, epochs=4, select_by="macro_f1"), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    val = [line for line in map(json.loads, lines) if line["split"] == "val"]
    assert result["val"]["macro_f1"] == max(line["macro_f1"] for line in val)


def test_a_killed_run_ends_as_one_that_was_not(table, run, tmp_path):
    config = make_config(table, linear_baseline=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "add", runs.at_step(1, lambda: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    runs.assert_same_run(run, tmp_path / "run")


def test_an_ensemble_averages_probabilities_and_thresholds(pair, table, tmp_path, capsys):
    models = load_ensemble(pair)
    texts = [text for text, _ in rows(30, seed=9)]
    together, _ = predict(models, texts)
    alone = [predict([model], texts)[0] for model in models]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-7)
    thresholds = np.mean([model.thresholds for model in models], axis=0)
    output = tmp_path / "out.csv"
    path = write_csv(tmp_path / "in.csv", rows(30, seed=9))
    scores = evaluate_file(pair, TextSource(file=path), output)
    found = read_table(output)
    for row, p in zip(found, together, strict=True):
        names = [name for name, above in zip(NAMES, p > thresholds, strict=True) if above]
        assert row["predicted"] == ";".join(names)
    exact = np.mean([row["label"] == row["predicted"] for row in found])
    assert scores["accuracy"] == pytest.approx(exact)
    assert evaluate_split(pair, "test")["examples"] == 40
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] > 0.6


def test_calibration_is_of_each_label_and_changes_no_prediction(run, trained):
    calibrated = load_run(run, calibrated=True)
    texts = [text for text, _ in rows(30, seed=9)]
    (plain, _), (softened, _) = predict([trained], texts), predict([calibrated], texts)
    np.testing.assert_allclose(softened, apply_temperature(plain, calibrated.temperature))
    assert not np.allclose(softened, plain, atol=1e-3)
    before, after = plain > trained.thresholds, softened > calibrated.thresholds
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("label", NAMES)
def test_words_are_explained_towards_a_label(trained, label, tmp_path, capsys):
    text = "cheap solid word1 late"
    i = NAMES.index(label)
    explanation = explain(trained, text, i)
    (p,), _ = predict([trained], [text])
    assert explanation.log_odds == pytest.approx(scipy.special.logit(float(p[i])), abs=1e-3)
    assert explanation.complete
    strongest = max(explanation.words, key=lambda word: word.attribution)
    assert text[strongest.start : strongest.end] in WORDS[label].split()
    explain_texts(trained, ["1"], [text], tmp_path / "a.html", label=label.upper())
    shown = capsys.readouterr().out
    assert f"to {label}: {text[strongest.start : strongest.end]}" in shown
    assert f"blue words pushed to {label}" in (tmp_path / "a.html").read_text()
    refuses("label 'prize' is none of this run", find_class, "prize", NAMES)


def test_folds_and_their_report(tmp_path):
    """Of texts some of which have the labels that they should not have, and lack the others."""
    cells = rows()
    wrong = [(text, ";".join({*NAMES} - {*label.split(";")})) for text, label in cells[:10]]
    table = write_csv(tmp_path / "a.csv", [*wrong, *cells[10:]])
    config = make_config(table, **{"data.folds": 3, "linear_baseline": True})
    result = train(config, tmp_path / "run")
    assert result["val"]["examples"] == 160 and len(result["folds"]) == 3
    assert len(result["thresholds"]) == 3
    found = read_table(tmp_path / "run" / "predictions-val.csv")
    exact = np.mean([row["label"] == row["predicted"] for row in found])
    assert result["val"]["accuracy"] == pytest.approx(exact)
    assert result["linear_baseline"]["val"]["examples"] == 160
    report.report([tmp_path / "run"], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Look at these labels again" in page
    labels = {row["label"] for row in read_table(tmp_path / "report" / "run-labels.csv")}
    assert labels and all({*label.split(";")} <= {*NAMES, ""} for label in labels)


def test_the_report_leaves_out_what_makes_no_sense(pair, tmp_path):
    report.report(pair, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert "calibration.png" in names and "confusion.png" not in names
    classes = read_table(tmp_path / "report" / "classes.csv")
    assert [row["class"] for row in classes] == list(NAMES) * 2 or len(classes) == 3
    assert float(classes[0]["average precision"]) > 0.5
    page = (tmp_path / "report" / "report.html").read_text()
    assert "40 for the test" in page and "Confusion" not in page
    metrics = read_table(tmp_path / "report" / "metrics.csv")
    expected = [read_json(run / "result.json")["metrics"]["test"]["micro_f1"] for run in pair]
    assert np.mean([float(row["micro f1"]) for row in metrics]) == pytest.approx(np.mean(expected))


def test_a_sweep(table, tmp_path):
    sweep.sweep(make_config(table), tmp_path / "sweep", linear.get_sweep())
    for path in (tmp_path / "sweep").glob("**/result.json"):
        assert "macro_f1" in read_json(path)["val"]


def test_a_student_learns_from_probabilities_of_each_label(pair, table, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = tmp_path / "more.txt"
    text.write_text("\n".join(text for text, _ in rows(60, seed=5)))
    teachers = {"data.teacher": ",".join(map(str, pair)), "pretrain.text": str(text)}
    quick = {
        "epochs": 15,
        "optimizer.learning_rate": 2e-2,
        "class_weights": "balanced",
        "data.min_frequency": 1,
    }
    result = train(make_lstm(table, **teachers, **quick), tmp_path / "a")
    assert result["metrics"]["test"]["macro_f1"] > 0.7


def test_an_lstm(table, tmp_path):
    result = train(make_lstm(table, epochs=1), tmp_path / "run")
    assert len(result["thresholds"]) == 3 and "macro_f1" in result["val"]


def test_without_validation_the_thresholds_are_a_half(table, tmp_path):
    changes = {"data.validation_fraction": 0.0}
    result = train(make_config(table, **changes), tmp_path / "run")
    assert "thresholds" not in result and load_run(tmp_path / "run").thresholds == [0.5] * 3


def test_of_many_labels_the_worst_are_shown_and_no_text_is_called_useless(tmp_path, capsys):
    names = [f"label{i:02}" for i in range(12)]
    cells = [
        (
            f"text {i} {names[i % 12] if i % 12 < 3 else 'x'}",
            f"{names[i % 12]};{names[i // 12 % 12]}",
        )
        for i in range(288)
    ]
    cells += [("twice", "label00"), ("twice", "label01;label02")]
    train(make_config(write_csv(tmp_path / "a.csv", cells)), run := tmp_path / "run")
    shown, errors = capsys.readouterr()
    assert "1 texts occur more than once, with different sets of labels" in errors
    assert "nothing can be learned" not in errors
    classes = read_json(run / "result.json")["metrics"]["test"]["classes"]
    recall = sorted(of["recall"] for of in classes.values())
    printed = re.findall(r"(label..): precision .*, recall (0\.\d+|1\.0+) of", shown)
    assert [float(of) for _, of in printed] == pytest.approx(recall[:10], abs=1e-4)
    assert recall[0] < recall[11] and [name for name, _ in printed] != names[:10]
    assert "and 2 more classes, recall from" in shown


def test_the_linear_baseline_is_one_model_per_label():
    reviews = Texts.from_texts(
        [text for text, _ in rows(150)],
        np.array([[name in label for name in NAMES] for _, label in rows(150)]),
        classes=NAMES,
        kind=MultiLabel(),
    )
    splits = {n: reviews.take(np.arange(i, 150, 3)) for i, n in enumerate(("train", "val", "test"))}
    found = linear_baseline(splits, fit)
    assert found["test"]["macro_f1"] > 0.8 and len(found["correct"]["test"]) == 50


def test_python_takes_lists_and_a_table_of_0_and_1(table, run, tmp_path):
    cells = rows()
    lists = [label.split(";") if label else [] for _, label in cells]
    texts = [text for text, _ in cells]
    config = override(linear.get_config(), SMALL)
    first = api.train(config, tmp_path / "lists", (texts, lists))
    matrix = pandas.DataFrame([[name in of for name in NAMES] for of in lists], columns=NAMES)
    settings = {"data.label_separator": "", "data.label_columns": ",".join(NAMES)}
    second = api.train(override(config, settings), tmp_path / "frame", (texts, matrix.astype(int)))
    assert first["test"] == second["test"] and first["data_hash"] == second["data_hash"]
    model = api.load(tmp_path / "frame")
    found = model.predict(["cheap solid", "word1"])
    assert list(found.columns) == ["predicted", *(f"p_{name}" for name in NAMES), "warning"]
    assert model.evaluate(matrix.astype(int).assign(text=texts))["examples"] == 200
    assert api.load(tmp_path / "lists").evaluate((texts, lists))["examples"] == 200
    assert model.explain("cheap solid", label="price").complete
    plain = override(config, {"data.label_separator": ""})
    refuses("set data.label_separator", api.train, plain, tmp_path / "x", (texts, lists))
    refuses(
        "as many of price", api.train, override(config, settings), tmp_path / "y", (texts, lists)
    )


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("encoder", "bert"),
        *(pytest.param("encoder", n, marks=pytest.mark.slow) for n in ("distilbert", "roberta")),
        ("encoder", "modernbert"),
        ("encoder:probe", "distilbert"),
    ],
)
def test_an_encoder_is_trained_probed_and_exported(recipe, name, table, tmp_path):
    folder = make_folder(tmp_path / "hub", name)
    shared = {name: value for name, value in SMALL.items() if name.startswith(("data.", "cpu"))}
    small = shared | {"data.path": table, "linear_baseline": False, "min_steps": 0}
    small |= {"model.pretrained": str(folder), "model.dtype": "float32", "model.attention": "xla"}
    train(override(read_recipe(recipe), small | {"epochs": 1}), tmp_path / "run")
    trained = load_run(tmp_path / "run")
    if recipe == "encoder:probe":
        p, _ = predict([trained], ["cheap solid late"])
        assert p.shape == (1, 3) and trained.params["classifier"]["kernel"].shape[1] == 3
        return
    export_run(trained, tmp_path / "run", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "several labels per text, or none: price, quality, shipping" in card
    for name, threshold in zip(NAMES, trained.thresholds, strict=True):
        assert f"| {name} | {threshold:.4f} |" in card


def test_a_comparison_chooses_and_tests(table, tmp_path, monkeypatch):
    monkeypatch.setattr(mode, "FEW", 1)
    folder = make_folder(tmp_path / "hub")
    changes = {name: value for name, value in SMALL.items() if name.startswith(("data.", "cpu"))}
    changes |= {"data.path": table, "model.pretrained": str(folder)}
    found = mode.compare(changes, tmp_path / "compared").set_index("model")
    assert list(found.index) == ["linear", "encoder:probe", "encoder"]
    assert found.accuracy["linear"] > 0.6  # exact matches, of words that tell the labels
    run = tmp_path / "compared" / read_json(tmp_path / "compared" / "comparison.json")["chosen"]
    assert read_json(run / "result.json")["test"]["macro_f1"] > 0.6


def test_the_synthetic_reviews_have_opinions_on_several_aspects_or_none():
    made = make_aspects(300)
    labels = [label for _, label, _ in made]
    assert {*";".join(labels).split(";")} == {"", *NAMES} and len(
        {text for text, *_ in made}
    ) == 300
    assert 0.1 < labels.count("") / 300 < 0.35


def test_print_predictions_aligns_texts(trained, capsys):
    print_predictions([trained], ["cheap solid late", "word1"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.index("cheap solid late") == second.index("word1")
    assert second.startswith("none ")


def test_many_rare_labels_that_occur_together_are_split():
    """A rare label may be on one side alone: its texts were placed for the sake of rarer ones."""
    rng = np.random.default_rng(0)
    labels = rng.random((400, 30)) < 0.03
    names = tuple(f"label {i}" for i in range(30))
    reviews = Texts.from_texts(map(str, range(400)), labels, classes=names, kind=MultiLabel())
    for seed in range(5):
        _, held = stratified_split(reviews, 0.1, seed=seed)
        share = labels[held].sum(axis=0) - 0.1 * labels.sum(axis=0)
        assert abs(len(held) - 40) <= 2 and np.abs(share).max() < 2.5
