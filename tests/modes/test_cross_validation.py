"""data.folds: each text is scored by a model that has not seen it, then one is trained on all."""

import contextlib
import io
import itertools
import operator
import shutil
import statistics
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import runs
from reviews import read_table, refuses, write_csv
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sweeping import ONE_TRIAL

from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.config.recipes import override
from sentiment_jax.config.validation import validate
from sentiment_jax.data.dataset import READERS, SAMPLE, load_dataset
from sentiment_jax.data.kinds import ONE_CLASS
from sentiment_jax.data.texts import of_numbers
from sentiment_jax.errors import InputError, Interrupted
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.report import report
from sentiment_jax.modes.sweep import sweep
from sentiment_jax.modes.train import dry_run, train
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.linear_model import C
from sentiment_jax.training.metrics import fit_temperature, log_loss, measure
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import load_run

FOLDS = {
    **runs.ONE_SHAPE,
    "seed": 2,  # epochs 3, 2 and 1 are the best of their folds
    "epochs": 3,
    "checkpoint_every": 100,
    "linear_baseline": True,
    "data.vocabulary_size": 20,
    "data.folds": 3,
    "optimizer.learning_rate": 0.01,
    "optimizer.schedule": "linear",
}


@pytest.fixture(scope="module")
def config():
    return runs.make_small(**FOLDS)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A finished cross-validation, what it printed and read; not to be changed."""
    workdir = tmp_path_factory.mktemp("folds") / "run"
    read = Mock(wraps=READERS["sample"])
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(READERS, "sample", read)
        result = train(config, workdir)
    return SimpleNamespace(
        directory=workdir,
        folds=[workdir / "folds" / f"{number}" for number in (1, 2, 3)],
        result=result,
        printed=printed.getvalue(),
        reads=read.call_count,
    )


def test_each_review_is_scored_by_the_model_of_its_fold(run):
    result = run.result
    folds = [read_json(fold / "result.json") for fold in run.folds]
    assert [fold["val"]["examples"] for fold in folds] == [20, 20, 20]
    assert result["folds"] == [fold["val"] | {"best_epoch": fold["best_epoch"]} for fold in folds]
    last = sum(line["seconds"] for line in read_metrics(run.directory / "metrics.jsonl"))
    seconds = sum(fold["train_seconds"] for fold in folds)
    assert seconds < result["train_seconds"] < seconds + last
    assert not any("test" in fold for fold in folds)
    of_folds = itertools.chain(*(read_table(fold / "predictions-val.csv") for fold in run.folds))
    by_id = operator.itemgetter("id")
    pooled = read_table(run.directory / "predictions-val.csv")
    assert sorted(pooled, key=by_id) == sorted(of_folds, key=by_id)
    trial = Trial("run", run.directory, RunDirectory(run.directory).read_config())
    found = read_predictions([trial], "val")
    assert result["val"]["examples"] == len({*found.ids}) == 60
    assert result["val"]["accuracy"] == pytest.approx(found.correct[0].mean())
    measured = measure(found.kind, found.labels, found.probabilities[0], found.classes)
    assert measured["classes"] == result["metrics"]["val"]["classes"]
    temperature = fit_temperature(found.probabilities[0], found.labels)
    assert result["temperature"] == pytest.approx(temperature, rel=1e-3) != 1


def test_loss_and_temperature_are_those_of_probabilities_before_rounding(config, tmp_path):
    """A table has six digits, in which those of over-confident models are 0."""
    changes = {"epochs": 1, "linear_baseline": False, "optimizer.learning_rate": 8.0}
    result = train(override(config, changes), tmp_path)
    found = []
    labels = []
    for fold in sorted((tmp_path / "folds").iterdir()):
        found.append(np.load(fold / "probabilities-val.npy"))
        labels += [int(row["label"]) for row in read_table(fold / "predictions-val.csv")]
    probabilities = np.concatenate(found)
    assert (probabilities < 5e-7).any()
    labels = of_numbers(np.array(labels), 2)
    loss = log_loss(ONE_CLASS, probabilities, labels)
    assert result["metrics"]["val"]["log_loss"] == result["val"]["loss"] == pytest.approx(loss)
    temperature = fit_temperature(probabilities, labels)
    assert result["temperature"] == pytest.approx(temperature, rel=1e-3) != 1


def test_the_last_model_is_trained_on_all_for_the_median_of_the_best_epochs(run, config, tmp_path):
    """As a run without folds or validation begins: its schedule is over the config's epochs."""
    epochs = sorted(fold["best_epoch"] for fold in run.result["folds"])
    assert run.result["best_epoch"] == run.result["epochs"] == epochs[1] < config.epochs
    assert read_json(run.directory / "env.json")["data"]["counts"]["val"] == {"neg": 0, "pos": 0}
    longer = override(config, {"data.folds": 0, "data.validation_fraction": 0.0})
    train(longer, tmp_path, tested=False)
    taken, expected = (
        [line | {"seconds": 0} for line in read_metrics(directory / "metrics.jsonl")]
        for directory in (run.directory, tmp_path)
    )
    assert [line["split"] for line in taken[-2:]] == ["train", "test"]
    assert taken[:-1] == expected[: len(taken) - 1]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "question",  # in the first fold, in the second, in the training on all
    [pytest.param(2, marks=SLOW), 18, pytest.param(38, marks=SLOW)],
)
def test_wherever_it_is_stopped_it_goes_on_to_the_same_run(run, config, tmp_path, question):
    """A finished fold is not trained again, and keeps no checkpoints."""
    with pytest.raises(Interrupted):
        train(config, tmp_path, stop=runs.stop_at(question))
    assert not (tmp_path / "result.json").exists()
    folds = [tmp_path / fold.relative_to(run.directory) for fold in run.folds]
    finished = [(fold / "result.json").exists() for fold in folds]
    assert sum(finished) == question // 12  # 9 steps and 3 validations in each
    begun = [1 + (number == sum(finished)) for number in range(3)]
    train(config, tmp_path)
    logs = [(fold / "log.txt").read_text() for fold in folds]
    assert [log.count("model ") for log in logs] == begun  # what is finished is not begun again
    assert not any("--" in log for log in logs)  # which flags are for the whole
    runs.assert_same_run(run.directory, tmp_path)
    for name in ("predictions.csv", "predictions-val.csv"):
        assert (tmp_path / name).read_bytes() == (run.directory / name).read_bytes()
    assert not list((tmp_path / "folds").rglob("checkpoints"))


@pytest.mark.parametrize(
    "name",
    [
        "probabilities-val.npy",
        *(pytest.param(f"{name}.json", marks=SLOW) for name in ("config", "env", "tokenizer")),
        pytest.param("result.json", marks=SLOW),
    ],
)
def test_what_is_advised_about_a_damaged_file_of_a_fold_is_a_remedy(run, config, tmp_path, name):
    with pytest.raises(Interrupted):
        train(config, tmp_path, stop=runs.stop_at(28))  # in the third fold
    damaged = tmp_path / "folds" / "2" / name
    damaged.write_bytes(damaged.read_bytes()[:-9])
    message = refuses(str(damaged), train, config, tmp_path)
    if name == "result.json":
        assert message.endswith("put it back, or delete it and run it again")
        damaged.unlink()
    else:
        assert message.endswith(f": delete {damaged.parent}, it is trained again")
        shutil.rmtree(damaged.parent)
    train(config, tmp_path)
    runs.assert_same_run(run.directory, tmp_path)


def test_a_fold_that_has_the_name_of_another_is_refused(config, tmp_path):
    with pytest.raises(Interrupted):
        train(config, tmp_path, stop=runs.stop_at(28))  # in the third fold
    first, second, aside = (tmp_path / "folds" / name for name in ("1", "2", "aside"))
    for source, target in ((first, aside), (second, first), (aside, second)):
        source.rename(target)
    refuses(f"{first} learned from other texts: delete {first}, it is", train, config, tmp_path)


def test_all_folds_learn_from_the_source_that_the_first_one_had(finished, tmp_path):
    """Whether it is replaced between two commands or between two folds."""
    config = runs.make_small(**FOLDS | {"epochs": 1, "data.folds": 2, "linear_baseline": False})
    source = shutil.copytree(finished, tmp_path / "source")
    config = override(config, {"model.pretrained": str(source)})
    train(runs.make_small(seed=5, epochs=1), tmp_path / "other")

    def swap():
        source.rename(tmp_path / "former")
        (tmp_path / "other").rename(source)
        (tmp_path / "former").rename(tmp_path / "other")

    expected = tmp_path / "whole"
    train(config, expected)
    workdir = tmp_path / "run"
    stop = Stop()
    asked = itertools.count(1)
    stop.asked = lambda: swap() if next(asked) == 2 else False  # in the first fold
    differs = "learned from other parameters than those in .*source"
    refuses(f"run/folds/2 {differs}", train, config, workdir, stop=stop)
    before = runs.contents_without_lock(workdir)
    refuses(f"run {differs}", train, config, workdir)
    assert runs.contents_without_lock(workdir) == before
    shutil.move(tmp_path / "other", tmp_path / "elsewhere")
    shutil.rmtree(source)
    refuses("model.pretrained=.*source", train, config, workdir)
    train(override(config, {"model.pretrained": str(tmp_path / "elsewhere")}), workdir)
    shutil.copy(expected / "config.json", workdir)  # which names the place
    runs.assert_same_run(expected, workdir)


def test_names_of_files_that_a_table_escapes(config, tmp_path):
    for number, row in enumerate(read_table(SAMPLE)[:80]):
        split = ("train", "test")[number % 4 == 0]
        folder = tmp_path / "aclImdb" / split / row["label"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}\u202e_5.txt").write_text(row["text"])
    changes = {"data.source": "folder", "data.path": str(tmp_path / "aclImdb"), "epochs": 1}
    result = train(override(config, changes | {"linear_baseline": False}), tmp_path / "run")
    rows = read_table(tmp_path / "run" / "predictions-val.csv")
    assert len({row["id"] for row in rows}) == result["val"]["examples"] == 60
    assert "\\u202e_5.txt" in rows[0]["id"]


def test_only_fresh_may_change_it_and_removes_the_folds_of_the_run_before(run, config, tmp_path):
    workdir = shutil.copytree(run.directory, tmp_path / "run")
    two = override(config, {"data.folds": 2})
    none = override(config, {"data.folds": 0})
    for changed in (two, none):
        refuses("another config .*; choose another --workdir", train, changed, workdir)
    assert (workdir / "config.json").read_bytes() == (run.directory / "config.json").read_bytes()
    with pytest.raises(Interrupted):
        train(two, workdir, fresh=True, stop=runs.stop_at(1))
    assert [path.name for path in (workdir / "folds").iterdir()] == ["1"]
    assert not (workdir / "folds" / "1" / "result.json").exists()
    with pytest.raises(Interrupted):
        train(none, workdir, fresh=True, stop=runs.stop_at(1))
    assert not (workdir / "folds").exists()


def test_what_the_other_modes_do_with_it(run, tmp_path):
    result = run.result
    assert evaluate_split([run.directory], "test") == result["test"]
    held_out = "holds out no texts .* result.json there has the scores of a cross-validation"
    refuses(held_out, evaluate_split, [run.directory], "val")
    refuses("is finished and kept no checkpoint, as a fold does", load_run, run.folds[0])
    calibrated = evaluate_split([run.directory], "test", calibrated=True)
    assert load_run(run.directory, calibrated=True).temperature == result["temperature"]
    assert calibrated["loss"] != result["test"]["loss"]
    report([run.directory], tmp_path / "report")
    deviation = statistics.stdev(fold["accuracy"] for fold in result["folds"])
    sentence = f"in 3 folds: accuracy {result['val']['accuracy']:.4f} ± {deviation:.4f}"
    assert sentence in (tmp_path / "report" / "report.html").read_text()
    scored = {row["id"]: row for row in read_table(run.directory / "predictions-val.csv")}
    p_label = {
        i: abs(float(row["p_positive"]) - (row["label"] == "0")) for i, row in scored.items()
    }
    doubtful = [
        row["id"] for row in read_table(tmp_path / "report" / f"{run.directory.name}-labels.csv")
    ]
    assert [p_label[i] for i in doubtful] == sorted(p_label.values())[: len(doubtful)]
    assert "Look at these labels again" in (tmp_path / "report" / "report.html").read_text()


def test_the_data_are_read_once_and_the_lines_that_it_prints(run, config, capsys):
    assert run.reads == 1  # a file that changes meanwhile mixes no splits
    for number, fold in enumerate(run.result["folds"], start=1):
        line = f"fold {number}/3 accuracy {fold['accuracy']:.4f}  loss {fold['loss']:.4f}  on "
        line += f"{fold['examples']} texts (epoch {fold['best_epoch']})"
        assert line in run.printed
    deviation = statistics.stdev(fold["accuracy"] for fold in run.result["folds"])
    epochs = run.result["epochs"]
    assert f"(3 folds ± {deviation:.4f}; then {epochs} epochs on all)" in run.printed
    assert f"epoch   1/{epochs}" in run.printed
    assert train(config, run.directory) == run.result
    assert "fold " not in capsys.readouterr().out  # a finished run prints none again


def test_the_linear_baseline_is_cross_validated_on_the_same_folds(run):
    """Words and C, too, are those of the texts to train on."""
    baseline = run.result["linear_baseline"]
    reviews = load_dataset(load_run(run.directory).config.data).splits["train"]
    loss = 0.0
    for fold in run.folds:
        names = [row["id"] for row in read_table(fold / "predictions-val.csv")]
        held_out = np.isin(reviews.ids, names)
        model = make_pipeline(
            make_union(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
            ),
            LogisticRegression(solver="liblinear", dual=True, random_state=0, max_iter=1_000),
        )
        grid = {"logisticregression__C": C}
        search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=3)
        search.fit(np.array(reviews.texts)[~held_out], reviews.codes[~held_out])
        found = search.predict_proba(np.array(reviews.texts)[held_out])
        loss += held_out.sum() * log_loss(ONE_CLASS, found, reviews.labels[held_out])
    assert baseline["val"]["loss"] == pytest.approx(loss / 60)
    assert (baseline["val"]["examples"], baseline["test"]["examples"]) == (60, 30)
    own = run.result["val"]["accuracy"]
    validated = f"cross-validated it has {baseline['val']['accuracy']:.4f}, the model {own:.4f}"
    assert f"\n         {validated}\n" in run.printed


def test_folds_that_cannot_be(config, tmp_path):
    refuses(
        "data.folds=1 leaves nothing to train on", validate, override(config, {"data.folds": 1})
    )
    many = override(config, {"data.folds": 61})
    refuses("61 different texts, there are 60", dry_run, many)
    refuses("61 different texts, there are 60", train, many, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    refuses("data.folds does nothing in --mode=pretrain", validate, config, pretraining=True)


def test_a_fold_too_small_for_a_batch_is_found_before_the_first_is_trained(config, tmp_path):
    """Duplicates stay together: 30 of these 50 texts are in one fold."""
    rows = [("the same film", "pos")] * 30
    rows += [(f"film {i}", ("pos", "neg")[i % 2]) for i in range(20)]
    table = write_csv(tmp_path / "a.csv", rows)
    settings = {"data.source": "csv", "data.path": table, "data.limit": 0, "batch_size": 32}
    with pytest.raises(InputError, match="batch_size=32 is larger than the .* training texts"):
        train(override(config, settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="batch_size=32 is larger than"):  # before a trial
        sweep(override(config, settings), tmp_path / "sweep", ONE_TRIAL | {"batch_size": (4, 32)})
    assert not [*tmp_path.glob("sweep/*/config.json")]


def test_a_sweep_chooses_by_cross_validation(config, tmp_path):
    """Folds of 21, 21 and 20 texts: the mean is over texts."""
    changes = {"epochs": 1, "linear_baseline": False, "data.limit": 62}
    axes = ONE_TRIAL | {"learning_rate": (1e-9, 0.01), "seeds": (0,)}
    sweep(override(config, changes), tmp_path, axes)
    trials = {path.parent: read_json(path) for path in tmp_path.glob("*/result.json")}
    assert len(trials) == 2
    for result in trials.values():
        sizes = [fold["examples"] for fold in result["folds"]]
        assert sorted(sizes) == [20, 21, 21]
        for name in ("loss", "accuracy"):
            mean = np.average([fold[name] for fold in result["folds"]], weights=sizes)
            assert result["val"][name] == pytest.approx(mean)
    scores = {trial: (r["val"]["accuracy"], -r["val"]["loss"]) for trial, r in trials.items()}
    (final,) = (tmp_path / "final").glob("*/folds/3/result.json")
    chosen = [final.parents[2], max(scores, key=scores.__getitem__)]
    first, second = (RunDirectory(path).read_config().optimizer.learning_rate for path in chosen)
    assert first == second


def test_a_fold_has_the_epochs_of_the_training_on_all_texts(tmp_path):
    """Eight steps are two epochs of four batches, and would be four of a fold's two."""
    changes = {"epochs": 1, "min_steps": 8, "batch_size": 16, "data.folds": 2}
    train(runs.make_small(**runs.ONE_SHAPE, **changes), tmp_path)
    assert [read_json(p)["epochs"] for p in tmp_path.glob("folds/*/result.json")] == [2, 2]
