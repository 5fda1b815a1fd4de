"""The recipes on the same splits: which is chosen, what is tested, what a kill leaves."""

import csv
import shutil
import time
from pathlib import Path

import golden
import matplotlib.image
import numpy as np
import pandas
import pytest
import runs
from pretrained import make_folder
from reviews import refuses
from sweeping import ONE_TRIAL

import sentiment_jax
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.texts import Texts, of_numbers
from sentiment_jax.errors import Interrupted, InUse
from sentiment_jax.modes import compare as mode
from sentiment_jax.modes.compare import RECIPES, choose, compare, describe_missed
from sentiment_jax.modes.report import report
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.directories import find_run
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.metrics import wilson_interval
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.trained_model import TrainedModel, load_run

COLUMNS = ["model", "accuracy", "low", "high", "macro_f1", "p", "train_seconds"]
COLUMNS += ["compile_seconds", "texts_per_second", "megabytes"]
PLACES = ("linear", "encoder-probe", "encoder")
SMALL = {"data.source": "sample", "data.limit": 60, "data.test_limit": 30, "data.max_length": 24}
SMALL |= {"data.length_buckets": (), "data.validation_fraction": 0.3, "cpu_devices": 1}


@pytest.fixture(scope="module", autouse=True)
def _validation():
    """Few texts are enough to choose by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mode, "FEW", 1)
        yield


def scored(*right):
    """Samples of the accuracy, if these of ten texts are classified correctly."""
    reviews = Texts.from_texts(map(str, range(10)), [0] * 10)
    predicted = of_numbers(1 - np.isin(np.arange(10), right), 2)
    return mode._score(reviews, predicted, "accuracy").samples


def test_the_cheapest_within_a_standard_error_of_the_best_is_chosen(monkeypatch):
    best = scored(*range(9))
    one_less = scored(*range(7), 9)
    assert choose({"linear": one_less, "encoder": best}) == "encoder"  # ten points behind
    monkeypatch.setattr(mode, "POINT", 1.0)
    for cheap, chosen in (
        (scored(*range(8)), "encoder"),  # .1 behind, the standard error is .09
        (scored(*range(7), 9), "linear"),  # .1 behind, the standard error is .17
        (scored(*range(5)), "encoder"),
        (best, "linear"),
        (scored(*range(10)), "linear"),  # it is the best
    ):
        found = choose({"linear": cheap, "encoder:probe": scored(9), "encoder": best})
        assert found == chosen, (best - cheap)[:, 0]


def test_a_probe_is_chosen_only_if_it_is_the_best_for_it_is_not_cheaper_to_use():
    probe = scored(*range(7), 9)
    best = scored(*range(9))
    linear = scored(0)
    assert choose({"linear": linear, "encoder:probe": probe, "encoder": best}) == "encoder"
    assert choose({"linear": linear, "encoder:probe": best, "encoder": probe}) == "encoder:probe"


def test_of_models_level_in_the_metric_the_more_accurate_one_is_the_best():
    """The macro F1 of few texts of a rare class: one found more, and others wrong."""
    noise = np.random.default_rng(0).normal(0, 0.03, (2, 200))

    def model(macro_f1, accuracy, noise=noise):
        scores = np.array([[macro_f1], [accuracy]])
        return np.hstack([scores, scores + noise])

    other = np.random.default_rng(1).normal(0, 0.03, (2, 200))
    found = {"linear": model(0.71, 0.84), "encoder": model(0.70, 0.856, other)}
    assert choose(found) == "encoder"
    assert choose(found | {"encoder": model(0.60, 0.9, other)}) == "linear"


def test_predictions_are_scored_by_the_metric_and_by_the_accuracy():
    reviews = Texts.from_texts(map(str, range(10)), [0] * 8 + [1] * 2)
    found = mode._score(reviews, of_numbers(np.zeros(10, int), 2), "macro_f1")
    assert found.samples[:, 0] == pytest.approx([(16 / 18 + 0) / 2, 0.8])
    assert found.macro_f1 == found.samples[0, 0]
    even = mode._score(reviews, found.predicted, "log_loss", np.full((10, 2), 0.5))
    assert mode._row("linear", {"linear": even}, "log_loss")["log_loss"] == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("counts", "by"), [((5, 5), "accuracy"), ((4, 12), "accuracy"), ((4, 13), "macro_f1")]
)
def test_a_class_of_less_than_half_of_an_even_share_is_rare(counts, by):
    labels = np.repeat([0, 1], counts).tolist()
    reviews = Texts.from_texts(map(str, labels), labels)
    data = DataConfig()
    assert mode._metric("", data, reviews) == by
    assert mode._metric("log_loss", data, reviews) == "log_loss"
    assert mode._metric("recall:positive@.9", data, reviews) == "recall:positive@.9"
    for wrong in ("f1", "recall:positive", "recall:positive@2", "recall:@.9"):
        refuses("unknown, choose accuracy", mode._metric, wrong, data, reviews)
    refuses("'odd' is none of this run", mode._metric, "recall:odd@.9", data, reviews)


def test_the_classes_that_the_chosen_model_never_finds_are_named():
    labels = np.repeat([0, 1, 2], (3, 5, 9)).tolist()
    reviews = Texts.from_texts(map(str, labels), labels, classes=("hate", "odd", "none"))
    often = mode._score(reviews, of_numbers(np.full(17, 2), 3), "macro_f1")
    two = of_numbers(np.where(np.arange(17) < 2, 0, 2), 3)
    found = mode._score(reviews, two, "macro_f1")
    sentences = describe_missed("encoder", {"linear": found, "encoder": often}, reviews)
    assert sentences == [
        "encoder finds none of the 3 texts of class 'hate'; linear finds 2",
        "encoder finds none of the 5 texts of class 'odd'",
    ]


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("weights") / "bert")
    return SMALL | {"model.pretrained": str(folder)}


@pytest.fixture(scope="module")
def compared(changes, tmp_path_factory):
    """A comparison, its table, and what it printed."""
    directory = tmp_path_factory.mktemp("compared") / "mine"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *line, **_: printed.append(" ".join(map(str, line))))
        with runs.saving_figures(runs.PAINT):
            table = compare(changes, directory)
    return directory, table, "\n".join(printed)


def test_the_table_is_that_of_the_runs_and_the_baseline(compared):
    directory, table, printed = compared
    assert list(table.model) == [*RECIPES]
    results = [read_json(directory / place / "result.json") for place in PLACES]
    scores = [result["val"]["accuracy"] for result in results]
    config = load_run(directory / "encoder").config
    splits = load_dataset(config.data).splits
    assert list(table.accuracy) == pytest.approx(scores)
    intervals = [wilson_interval(of, len(splits["val"])) for of in scores]
    assert np.allclose(table[["low", "high"]], intervals)
    baseline = linear_baseline(splits, CLASSIFICATION.fit)
    assert scores[0] == pytest.approx(baseline["val"]["accuracy"])
    assert {len(splits["val"])} == {result["val"]["examples"] for result in results}
    assert len({result["data_hash"] for result in results}) == 1
    assert table.p.isna().tolist() == [True, False, False]
    assert table.train_seconds.tolist() == [result["train_seconds"] for result in results]
    assert list(table.compile_seconds) == [result["compile_seconds"] for result in results]
    assert (table.texts_per_second > 0).all() and (table.megabytes > 0).all()
    with (directory / "comparison.csv").open() as file:
        assert next(csv.reader(file)) == list(table) == COLUMNS
    image = matplotlib.image.imread(directory / "comparison.png")
    assert image[:, :, :3].std() > 0.05
    for row in table.itertuples():
        assert f"{row.accuracy:.4f} {row.low:.4f} to {row.high:.4f}" in printed
    cut = read_json(directory / "encoder" / "env.json")["data"]["truncated"]["train"]
    assert cut > 0.5
    assert f"advice   {cut:.0%} of the training texts are cut to 24 tokens" in printed


def test_the_chosen_one_alone_is_tested_and_stands_for_the_directory(compared):
    directory, table, printed = compared
    tested = [p for p in PLACES if "test" in read_json(directory / p / "result.json")]
    assert tested == [read_json(directory / "comparison.json")["chosen"]]
    assert find_run(directory) == directory / tested[0]
    result = read_json(directory / tested[0] / "result.json")
    assert f"test     accuracy {result['test']['accuracy']:.4f}" in printed
    assert ("linear_baseline" in result) == (tested[0] != "linear")
    assert sentiment_jax.load(directory).workdir == directory / tested[0]
    untested = [p for p in PLACES if p not in tested]
    assert not any((directory / p / "predictions.csv").exists() for p in untested)


def test_the_same_command_trains_nothing_again(compared, changes, tmp_path, monkeypatch):
    directory, table, _ = compared
    shutil.copytree(directory, again := tmp_path / "again")
    monkeypatch.setattr("sentiment_jax.training.fit._train_epoch", None)
    monkeypatch.setattr("sentiment_jax.training.probe.fit_classifier", None)
    found = compare(changes, again)
    kept = [name for name in COLUMNS if name not in ("train_seconds", "texts_per_second")]
    pandas.testing.assert_frame_equal(found[kept], table[kept])
    refuses("compares models on other texts", compare, changes | {"data.limit": 50}, again)
    refuses("data.max_length: ", compare, changes | {"data.max_length": 16}, again)
    refuses(
        "chosen a model by accuracy, and tests no other: choose",
        compare,
        changes,
        again,
        choose_by="log_loss",
    )
    refuses("holds a comparison: choose", sentiment_jax.train, "lstm:sample", again)
    first = directory / "linear"
    refuses("belongs to the run, sweep or export in", compare, changes, first / "mine")
    refuses("holds a run: choose another --workdir", compare, changes, first)
    plan_sweep(tmp_path, RunDirectory(directory / "encoder").read_config(), ONE_TRIAL).write()
    refuses("holds a sweep: choose another --workdir", compare, changes, tmp_path)


def test_linear_is_chosen_where_it_is_level_and_predicts(changes, tmp_path, capsys):
    """Of texts whose words tell the class, as for a network of random weights."""
    words = {0: ["dull", "weak"], 1: ["great", "superb"]}
    rng = np.random.default_rng(0)
    rows = [(f"{rng.choice(words[i % 2])} film number{i}", i % 2) for i in range(80)]
    table = pandas.DataFrame(rows, columns=["text", "label"])
    quick = {"model.pretrained": changes["model.pretrained"], "cpu_devices": 1}
    found = sentiment_jax.compare(tmp_path / "mine", table, changes=quick)
    assert found.accuracy[0] == found.accuracy.max() == 1
    assert read_json(tmp_path / "mine" / "comparison.json")["chosen"] == "linear"
    assert "chosen   linear, " in capsys.readouterr().out
    model = sentiment_jax.load(tmp_path / "mine")
    assert list(model.predict(["a great day", "so weak"]).predicted) == [1, 0]
    assert read_json(model.workdir / "result.json")["test"]["accuracy"] == 1


@pytest.mark.parametrize(
    "place", [*PLACES[:2], pytest.param(PLACES[2], marks=pytest.mark.slow), "the test"]
)
def test_a_stopped_comparison_goes_on(place, compared, changes, tmp_path, monkeypatch):
    directory, table, _ = compared
    work = tmp_path / "work"
    shutil.copytree(directory, work)
    chosen = read_json(work / "comparison.json")["chosen"]
    (work / "comparison.csv").unlink()
    left = [*PLACES, "the test"][[*PLACES, "the test"].index(place) :]
    for name in left:
        shutil.rmtree(work / name, ignore_errors=True)
    complete = mode.complete

    def stop(run, experiment, *, tested):
        if run.directory.path.name == place or (tested and place == "the test"):
            raise Interrupted("saved")
        return complete(run, experiment, tested=tested)

    if place == "the test":  # of a run that is finished, but for the test
        shutil.rmtree(work / chosen)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(mode, "complete", stop)
        compare(changes, work)
    compare(changes, work)
    for name in PLACES:
        runs.assert_same_run(directory / name, work / name)
    assert read_json(work / "comparison.json")["chosen"] == chosen


@pytest.mark.parametrize("folds", [0, 2])
def test_a_begun_comparison_takes_no_other_weights(folds, tmp_path, monkeypatch):
    """Overwritten in their folder, after the probe has learned from the former."""
    folder = make_folder(tmp_path / "bert")
    changes = SMALL | {"model.pretrained": str(folder), "data.folds": folds}
    with monkeypatch.context() as patch:
        patch.setattr(mode, "RECIPES", RECIPES[:2])
        compare(changes, tmp_path / "mine")
    former = (folder / "model.safetensors").read_bytes()
    golden.rewrite(folder, lambda of: {name: value * 1.01 for name, value in of.items()})
    message = f"encoder-probe learned from other parameters than those in {folder}"
    refuses(message, compare, changes, tmp_path / "mine")
    assert not RunDirectory(tmp_path / "mine" / "encoder").env.exists()
    (folder / "model.safetensors").write_bytes(former)
    assert list(compare(changes, tmp_path / "mine").model) == [*RECIPES]


def test_ids_of_another_order_of_rows_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    splits = load_dataset(DataConfig("sample", limit=60)).splits
    data = pandas.DataFrame({"text": splits["train"].texts, "label": splits["train"].codes})
    quick = {"cpu_devices": 1, "data.max_length": 24}
    said = f"ids in {tmp_path}/mine/linear number texts in the order of an earlier call"
    for rows, changed in ((data, False), (data, False), (data[::-1], True)):
        rows.to_csv(tmp_path / "my.csv", index=False)
        sentiment_jax.compare(tmp_path / "mine", tmp_path / "my.csv", changes=quick)
        assert (said in capsys.readouterr().err) == changed


def test_without_weights_the_encoders_are_left_out(changes, tmp_path, capsys):
    table = compare(changes | {"model.pretrained": str(tmp_path / "none")}, tmp_path / "mine")
    assert list(table.model) == ["linear"]
    printed = capsys.readouterr().out
    for name in RECIPES[1:]:
        assert f"left out {name}: model.pretrained={tmp_path}/none: no such folder" in printed
    assert "encoder:probe and encoder, left out above, are usually better" in printed


def test_an_encoder_reads_more_of_long_texts_and_no_more_than_it_can(changes, tmp_path, capsys):
    """Those of 128 positions, and a probe that would read 256 tokens."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    words = [
        rng.choice(["dull", "great"], 130, p=[1 - of / 2 - 0.2, of / 2 + 0.2]) for of in labels
    ]
    table = pandas.DataFrame({"text": [" ".join(of) for of in words], "label": labels})
    quick = {"model.pretrained": changes["model.pretrained"], "cpu_devices": 1}
    sentiment_jax.compare(tmp_path / "mine", table, changes=quick)
    assert (
        "encoder reads up to 512 tokens of a text, not 128, since most" in capsys.readouterr().out
    )
    read = [RunDirectory(tmp_path / "mine" / of).read_config().data.max_length for of in PLACES]
    positions = RunDirectory(tmp_path / "mine" / "encoder").read_config().model
    assert read[1:] == [min(256, most := positions.max_position_embeddings), min(512, most)]


def test_folds_compare_on_all_training_reviews(changes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mode, "RECIPES", RECIPES[:2])
    table = compare(changes | {"data.folds": 2}, tmp_path / "mine")
    assert "by 2 folds on 60 texts" in capsys.readouterr().out
    assert list(table.model) == ["linear", "encoder:probe"]


@pytest.mark.parametrize(("few", "how"), [(19, "5 folds on 60"), (18, "validation on 18")])
def test_few_validation_reviews_give_way_to_folds(few, how, changes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    monkeypatch.setattr(mode, "FEW", few)
    compare(changes, tmp_path / "mine")
    assert f"by {how} texts" in capsys.readouterr().out


def test_of_the_rarest_class_is_said_how_many_test_texts_are_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    counts = {"dull": 60, "great": 60, "odd": 15}
    labels = np.repeat([*counts], [*counts.values()])
    rows = [(f"a {label} film, {label} number {i}", label) for i, label in enumerate(labels)]
    table = pandas.DataFrame(rows, columns=["text", "label"])
    sentiment_jax.compare(tmp_path / "mine", table, changes={"cpu_devices": 1})
    found = "100% of 3 test texts are found, 100% of those that are predicted as it are right"
    assert f"rarest   class 'odd': {found}" in capsys.readouterr().out


def test_from_python_and_what_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    splits = load_dataset(DataConfig("sample", limit=60)).splits
    data = pandas.DataFrame({"text": splits["train"].texts, "label": splits["train"].codes})
    quick = {"cpu_devices": 1, "data.max_length": 24}
    table = sentiment_jax.compare(tmp_path / "mine", data, changes=quick)
    assert list(table.model) == ["linear"]
    data.to_csv(tmp_path / "my.csv")
    again = sentiment_jax.compare(tmp_path / "file", tmp_path / "my.csv", changes=quick)
    assert list(again.accuracy) == list(table.accuracy)
    assert sentiment_jax.load(tmp_path / "mine").predict(["good"]).shape == (1, 3)
    for wrong, message in (
        ({"epochs": 3}, "--config.epochs: --mode=compare keeps its recipes"),
        ({"data.validation_fraction": 0.0}, "leaves a comparison no texts to choose by"),
    ):
        refuses(message, compare, SMALL | wrong, tmp_path / "wrong")


def test_the_speed_is_that_from_text_to_probability(tmp_path, monkeypatch):
    encode = TrainedModel.encode

    def slowly(*arguments):
        time.sleep(0.5)
        return encode(*arguments)

    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    monkeypatch.setattr(TrainedModel, "encode", slowly)
    assert compare(SMALL, tmp_path / "mine").texts_per_second[0] < 60 / 0.5


def test_other_settings_are_refused_with_advice_that_this_mode_takes(tmp_path, monkeypatch):
    """It has no --fresh."""
    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    compare(SMALL, tmp_path / "mine")
    message = refuses("mine/linear was started", compare, SMALL | {"seed": 1}, tmp_path / "mine")
    assert message.endswith("; choose another --workdir")
    rows = load_dataset(DataConfig("sample", limit=60)).splits["train"]
    tables = [
        pandas.DataFrame({"text": rows.texts, "label": [names[i] for i in rows.codes]})
        for names in (("bad", "good"), ("lousy", "nice"))
    ]
    for number, table in enumerate(tables):
        table.to_csv(tmp_path / f"{number}.csv")
    changes = {"data.path": str(tmp_path / "0.csv"), "cpu_devices": 1}
    compare(changes, tmp_path / "named")
    changes["data.path"] = str(tmp_path / "1.csv")
    refuses("compares models on other texts", compare, changes, tmp_path / "named")


def test_a_model_that_was_tested_before_is_named(tmp_path, monkeypatch, capsys):
    """More models are compared, and another one is chosen: the test set has scored two."""
    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    compare(SMALL, tmp_path / "mine")
    assert "also scored" not in capsys.readouterr().err
    ended = tmp_path / "mine" / "linear" / "result.json"  # as if it was killed before this
    write_json(ended, {name: of for name, of in read_json(ended).items() if name != "test"})
    monkeypatch.setattr(mode, "RECIPES", ("linear", "linear:again"))
    read = mode.read_recipe
    monkeypatch.setattr(mode, "read_recipe", lambda name: read(name.removesuffix(":again")))
    monkeypatch.setattr(mode, "choose", lambda _: "linear:again")
    compare(SMALL, tmp_path / "mine")
    warning = "the test set has also scored linear"
    assert warning in capsys.readouterr().err


def test_no_test_text_is_scored_before_the_choice(tmp_path, monkeypatch):
    """Nor is a score of the linear baseline left in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mode, "RECIPES", ("linear",))

    def kill(_):
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(mode, "choose", kill)
        compare(SMALL, tmp_path / "mine")
    assert not [*(tmp_path / "cache").rglob("linear/*.json")]
    assert "test" not in read_json(tmp_path / "mine" / "linear" / "result.json")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(mode, "complete", lambda *_, **__: kill(0))  # the run's test
        compare(SMALL, tmp_path / "mine", choose_by="log_loss")  # not too late for another metric
    refuses("chosen a model by log_loss", compare, SMALL, tmp_path / "mine", choose_by="macro_f1")
    compare(SMALL, tmp_path / "mine", choose_by="log_loss")
    assert "test" in read_json(tmp_path / "mine" / "linear" / "result.json")


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Unlabeled text, one per line, that is learned from quickly."""
    quick = {"epochs": 1, "min_steps": 0}
    monkeypatch.setattr(mode, "RECIPES", ("linear",))
    monkeypatch.setattr(
        mode, "read_recipe", lambda of: override(read_recipe(of), quick if "lstm" in of else {})
    )
    texts = load_dataset(DataConfig("sample")).splits["train"].texts
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(text.split()) for text in texts))
    return {"pretrain.text": str(tmp_path / "texts.txt")}


def refuse(*_, **__):
    raise InUse("by another process")


def test_unlabeled_text_adds_the_average_of_embeddings_learned_from_it(
    text, tmp_path, monkeypatch, capsys
):
    directory = tmp_path / "mine"
    table = compare(SMALL | text, directory)
    assert list(table.model) == ["linear", "average"]
    vectors = RunDirectory(directory / "vectors")
    assert RunDirectory(directory / "average").read_config().model.pretrained == str(vectors.path)
    assert read_json(vectors.env)["data"]["counts"]["train"]["unlabeled"] > 500
    own = read_json(directory / "average" / "result.json")
    learned = read_json(vectors.result)
    assert table.train_seconds[1] == own["train_seconds"] + learned["train_seconds"]
    report([directory], tmp_path / "report")
    assert "average" in (tmp_path / "report" / "report.html").read_text()
    shutil.copytree(directory, killed := tmp_path / "killed")
    shutil.rmtree(killed / "average")
    (killed / "vectors" / "result.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("sentiment_jax.training.fit._train_epoch", None)
        assert list(compare(SMALL | text, directory).accuracy) == list(table.accuracy)
    assert list(compare(SMALL | text, killed).accuracy) == list(table.accuracy)
    Path(text["pretrain.text"]).write_text("Another text.\nAnd one more.\n")
    refuses("compares models on other texts", compare, SMALL | text, directory)
    refuses("compares models on other texts", compare, SMALL, directory)
    assert list(compare(SMALL | text, tmp_path / "little text").model) == ["linear"]
    printed, warned = capsys.readouterr()
    assert "left out average: model.pretrained=" in printed
    monkeypatch.setattr(mode, "pretrain", refuse)
    with pytest.raises(InUse):  # no reason to leave anything out
        compare(SMALL | text, tmp_path / "in use")
    assert "left out lstm:pretrain: 50 known tokens are needed, the val text has" in warned
    refuses("cannot read pretrain.text=gone", compare, {"pretrain.text": "gone"} | SMALL, directory)


def test_unlabeled_text_and_folds_on_the_command_line(text, tmp_path, printed):
    given = SMALL | text | {"data.folds": 2}
    flags = [f"--config.{name}={value}" for name, value in given.items()]
    shown = printed("--mode=compare", f"--workdir={tmp_path / 'mine'}", *flags)
    assert "compare  linear, average by 2 folds on 60 texts" in shown
