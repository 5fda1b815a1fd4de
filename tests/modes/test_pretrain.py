"""`--mode=pretrain`: a run like any, resumed bit-exactly, and what fine-tuning takes from it."""

import functools
import math
import re
import shlex
import shutil
from unittest.mock import Mock

import golden
import jax
import numpy as np
import pytest
import runs
import safetensors
from pretrained import write_folder
from reviews import refuses, write_csv
from sweeping import ONE_TRIAL

from configs import average, bert, electra, lstm
from sentiment_jax import api
from sentiment_jax.analysis import records
from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data.dataset import READERS
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.huggingface import weights
from sentiment_jax.models.average import weigh
from sentiment_jax.modes import export, sweep
from sentiment_jax.modes.pretrain import pretrain
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import Checkpoints, steps_in
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import resume
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.experiment import read_dataset
from sentiment_jax.training.lineage import short_hashes
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.tasks.pretraining import PRETRAINING
from sentiment_jax.training.trained_model import load_run

SMALL = {
    "epochs": 2,
    "log_every": 2,
    "checkpoint_every": 10,  # epochs have 14 steps, or 7
    "data.limit": 60,
    "data.max_length": 24,
    "data.length_buckets": (),
    "data.vocabulary_size": 300,
    "model.embedding_size": 16,
}
ENCODER = SMALL | dict.fromkeys(("model.hidden_size", "model.intermediate_size"), 16)
ENCODER |= {"model.num_hidden_layers": 1}
LSTM = SMALL | {
    "data.ngrams": 2,
    "model.segment_length": 8,
    "model.hidden_size": 8,
    "model.word_dropout": 0.1,
    "optimizer.learning_rate": 0.03,
}


def make_config(name, **changes):
    if name == "lstm":
        return override(lstm.get_config("sample"), LSTM | changes)
    return override({"bert": bert, "electra": electra}[name].get_config("tiny"), ENCODER | changes)


PRETRAININGS = {
    "bert": make_config("bert"),
    "electra": make_config("electra", epochs=1, **{"model.embedding_size": 8}),
    "lstm": make_config("lstm", **{"optimizer.name": "sgd", "optimizer.clip_norm": 0.0}),
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A function to the directory of an uninterrupted pre-training; not to be changed."""

    @functools.cache
    def pretrained(name):
        workdir = tmp_path_factory.mktemp(name) / "run"
        assert api.pretrain(PRETRAININGS[name], str(workdir)) == read_json(workdir / "result.json")
        return workdir

    return pretrained


@pytest.fixture(scope="module")
def load(pretrained):
    """A function to the model of a pre-training."""
    return lambda name: load_run(pretrained(name), classifies=False)


def assert_same_parameters(first, second, parts):
    for part in parts:
        jax.tree.map(np.testing.assert_array_equal, first[part], second[part])


def test_a_pretraining_is_a_run_like_any(pretrained, load):
    workdir = pretrained("bert")
    names = {path.name for path in workdir.iterdir()}
    assert names >= {"config.json", "env.json", "tokenizer.json", "curves.png", "checkpoints"}
    result = read_json(workdir / "result.json")
    statistics = read_json(workdir / "env.json")["data"]
    assert "test" not in result
    assert statistics["counts"]["train"] == {"labeled": 60, "unlabeled": 0}
    assert statistics["shared"] == {"train_val": 0, "train_test": 0, "val_test": 0}
    validations = [r for r in read_metrics(workdir / "metrics.jsonl") if r["split"] == "val"]
    assert [record["epoch"] for record in validations] == [1, 2]
    for record in validations:
        assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
    vocabulary = load("bert").model.config.vocab_size
    assert vocabulary > validations[0]["perplexity"] > validations[1]["perplexity"]
    assert result["val"] == {name: validations[1][name] for name in result["val"]}
    assert result["val"].keys() >= {"perplexity", "loss", "accuracy", "examples"}
    refuses("is a pre-training run, .*--config.model.pretrained=", load_run, workdir)
    refuses("is a pre-training run, which has no classifier", records.collect, [workdir])


@pytest.mark.parametrize("name", ["bert", pytest.param("lstm", marks=pytest.mark.slow)])
def test_killed_and_the_same_command_again(name, pretrained, tmp_path, monkeypatch):
    die = runs.at_step(12, Mock(side_effect=MemoryError))  # nothing is saved any more
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Progress, "add", die)
        pretrain(PRETRAININGS[name], tmp_path)
    assert steps_in(tmp_path / "checkpoints")[-1] == 10
    pretrain(PRETRAININGS[name], tmp_path)
    runs.assert_same_run(pretrained(name), tmp_path)


@pytest.mark.parametrize("name", ["bert", "lstm"])
def test_the_perplexity_depends_on_neither_batches_nor_padding(name, pretrained, load):
    trained = load(name)
    others = {"eval_batch_size": 4, "data.length_buckets": (16,)}  # the last batch has empty rows
    prepared = PRETRAINING.prepare(replace_settings(trained.config, others), trained.tokenizer)
    held_out = prepared.encoded["val"]
    assert len(held_out) % 4
    found = PRETRAINING.validate(prepared, trained.params, lambda: None).scores
    assert found == pytest.approx(read_json(pretrained(name) / "result.json")["val"], rel=1e-5)


def test_fine_tuning_starts_from_its_best_checkpoint(pretrained, load, capsys):
    source = pretrained("bert")
    inherited = {name: None for name in ENCODER if name.startswith("model.")}
    config = make_config("bert", **inherited, **{"model.pretrained": str(source)})
    resolved = resolve(config)
    assert resolved.model.hidden_size == 16
    prepared = CLASSIFICATION.prepare(resolved)
    assert prepared.tokenizer.to_str(pretty=True) == (source / "tokenizer.json").read_text()
    params, report = resume.initial_params(prepared)
    assert golden.modules(report.new) == {"classifier", "pooler"}
    assert {name.rpartition(".")[0] for name in report.unused} >= {"cls.predictions"}
    best = load("bert")
    assert report.files == f"{source}, step {best.step}"
    assert_same_parameters(params, best.params, ("embeddings", "encoder"))
    assert "held out" not in capsys.readouterr().err
    CLASSIFICATION.prepare(resolve(override(config, {"data.split_seed": 1})))
    assert re.search(r"was trained on \d+ of the \d+ texts", capsys.readouterr().err)
    of_electra = make_config("electra", **inherited, **{"model.pretrained": str(source)})
    assert resolve(of_electra).model == resolved.model  # the source says what it is


def test_an_lstm_starts_from_ngram_vectors_which_stay_if_frozen(pretrained, load, tmp_path):
    source = pretrained("lstm")
    result = read_json(source / "result.json")
    validations = [r for r in read_metrics(source / "metrics.jsonl") if r["split"] == "val"]
    assert result["val"]["loss"] == min(record["loss"] for record in validations)
    assert any(" " in token for token in load("lstm").tokenizer.get_vocab())  # an n-gram
    changes = {"epochs": 1, "checkpoint_every": 100, "optimizer.frozen": "embeddings"}
    config = make_config("lstm", **changes, **{"model.pretrained": str(source)})
    train(config, tmp_path / "run")
    assert_same_parameters(load_run(tmp_path / "run").params, load("lstm").params, ("embedding",))
    prepared = CLASSIFICATION.prepare(resolve(config))
    _, report = resume.initial_params(prepared)
    assert golden.modules(report.new) == {"forward", "dense", "classifier"}
    assert not report.unused
    assert prepared.encoded["test"].token_ids.shape[1] == 2
    for setting, value in {"model.embedding_size": 16, "data.ngrams": 2}.items():
        with pytest.raises(InputError, match=f"has {setting}={value}, the config 1$"):
            train(override(config, {setting: 1}), tmp_path / "nothing")
    with pytest.raises(InputError, match="is no run: lstm starts from one"):
        resolve(override(config, {"model.pretrained": str(tmp_path)}))


def test_a_classifier_of_their_average_starts_at_class_shares(pretrained, load, tmp_path, capsys):
    source = pretrained("lstm")
    changes = {"data.source": "sample", "data.max_length": 24, "data.folds": 2, "epochs": 1}
    changes |= {"model.embedding_size": 16, "data.ngrams": 2}
    changes |= {"min_steps": 200, "linear_baseline": False, "model.pretrained": str(source)}
    changes |= {"data.limit": 384, "data.test_limit": 96}
    config = override(average.get_config(), changes)
    prepared = CLASSIFICATION.prepare(resolve(config))
    start = resume.initial_params(prepared)[0]
    table = np.asarray(load("lstm").params["embedding"]["embedding"])
    frequencies = np.load(source / "frequencies.npy")[:, None]
    learned = PRETRAINING.prepare(load("lstm").config)
    counts = np.bincount(learned.encoded["train"].token_ids.ravel())[2:]
    np.testing.assert_allclose(frequencies[2 : len(counts) + 2, 0], counts / counts.sum(), 1e-5)
    encoded = prepared.encoded["train"]
    expected = weigh(table, frequencies, encoded.token_ids, encoded.offsets)
    np.testing.assert_array_equal(start["embedding"]["embedding"], expected)
    shares = (encoded.labels.sum(axis=0) + 1) / (len(encoded) + 2)
    np.testing.assert_allclose(np.exp(start["classifier"]["bias"]), shares, rtol=1e-6)
    assert not np.any(start["classifier"]["kernel"])
    capsys.readouterr()
    result = train(config, tmp_path / "run")
    assert [fold["examples"] for fold in result["folds"]] == [192, 192]
    fold = RunDirectory(tmp_path / "run" / "folds" / "1")
    assert read_json(fold.result)["epochs"] == 3  # of 96 steps if trained on all: 200 at least
    assert len({*read_json(fold.env)["data"]["counts"]["test"].values()} - {0}) == 1
    learned_from = read_dataset(load("lstm").config).splits["train"]
    assert {*prepared.texts["train"].ids} & {*learned_from.ids}
    assert "held out here (leakage)" not in capsys.readouterr().err  # learned without labels
    learned = RunDirectory(tmp_path / "run").learned
    for kind, texts in (("labeled", prepared.texts["train"]), ("unlabeled", learned_from)):
        assert np.load(learned[kind]).tolist() == sorted({*short_hashes(texts).tolist()})
    trained = load_run(tmp_path / "run").params
    np.testing.assert_array_equal(trained["embedding"]["embedding"], expected)
    assert np.all(trained["classifier"]["kernel"])


def test_a_source_is_checked_before_any_review_is_read(pretrained, tmp_path, monkeypatch, capsys):
    source = shutil.copytree(pretrained("lstm"), tmp_path / "source")
    config = make_config("lstm", **{"model.pretrained": str(source)})
    best = read_json(source / "result.json")["best_step"]
    manifest = source / "checkpoints" / str(best) / "MANIFEST.json"
    monkeypatch.setitem(READERS, "sample", Mock(side_effect=AssertionError("texts are read")))
    begin = functools.partial(train, config)
    search = functools.partial(sweep.sweep, config, tmp_path / "sweep")
    manifest.rename(source / "kept")
    damaged = f"the checkpoint of step {best} in .* is damaged"
    with pytest.raises(RunError, match=damaged):
        begin(tmp_path / "run")
    with pytest.raises(RunError, match=damaged):
        search(ONE_TRIAL)
    (source / "kept").rename(manifest)
    narrower = ONE_TRIAL | {"model.embedding_size": (16, 8)}
    refuses(r"has model.embedding_size=16, the config 8$", search, narrower)
    assert not capsys.readouterr().err
    for fresh in (False, True):
        refuses(f"the config learns from {source}, its own --workdir", begin, source, fresh=fresh)
    (source / "result.json").unlink()  # nothing was removed
    refuses(r"has model.embedding_size=16", search, narrower)
    unfinished = f"warning: {source} is not finished: its best epoch so far counts\n"
    assert capsys.readouterr().err == unfinished
    monkeypatch.setattr(Checkpoints, "bookkeeping", lambda checkpoints, step: {"best": None})
    earlier = shutil.copytree(pretrained("lstm"), tmp_path / "earlier")
    for workdir, fresh in ((tmp_path / "run", False), (earlier, True)):
        refuses("source has no validated checkpoint yet .*first epoc", begin, workdir, fresh=fresh)
    assert (earlier / "result.json").exists()  # what could not be replaced is left


@pytest.mark.parametrize("name", ["bert", "lstm"])
def test_text_of_too_few_known_words_is_refused_before_training(name, tmp_path):
    """A mask or the subsampling may leave none of them to score."""
    text = tmp_path / "own.txt"
    text.write_text("good film\nbad film\n")
    config = override(PRETRAININGS[name], {"pretrain.text": str(text)})
    refuses(r"50 known tokens are needed, the val text has \d: add", pretrain, config, tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    "name",
    ["bert", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lstm", "electra", "roberta"))],
)
def test_the_command_printed_at_the_end_runs(name, tmp_path, printed, capsys):
    """On the same texts, whatever the sizes, columns and names; with few labels, too."""
    pool, _ = READERS["sample"](DataConfig())
    rows = [(f"l{label}", text[:160]) for label, text in zip(pool.codes, pool.texts, strict=True)]
    table = write_csv(tmp_path / "a, b.csv", rows, header=("y", "x"))
    changes = {"data.source": "csv", "data.path": table, "data.limit": 30, "epochs": 1}
    changes |= {"data.labels": "l1,l0", "data.text_column": "x", "data.label_column": "y"}
    if name == "roberta":
        folder = write_folder(tmp_path / name, name, [text for _, text in rows])
        changes |= {"model.pretrained": str(folder), "data.max_length": 24, "batch_size": 8}
        config = override(bert.get_config(), changes)
    else:
        config = override(PRETRAININGS[name], changes)
    pretrain(config, tmp_path / "my run")
    _, *command = capsys.readouterr().out.splitlines()[-2:]
    program, *arguments = shlex.split(*command)[2:]
    assert program == "sentiment_jax.main"
    assert re.search(r"^test .* \(trained", printed(*arguments), re.MULTILINE)
    counts = read_json(tmp_path / "my run-tuned" / "env.json")["data"]["counts"]
    assert counts["train"] == {"l1": 12, "l0": 12}


def names_in(folder):
    """The names of a folder's tensors, of all layers as one."""
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        return {re.sub(r"layer\.\d", "layer", name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", ["bert", pytest.param("electra", marks=pytest.mark.slow)])
def test_an_export_has_the_tensors_that_pytorch_has(name, pretrained, load, tmp_path):
    fixture = {"bert": "bert_masked", "electra": "electra_replaced"}[name]
    opener = {"bert": "AutoModelForMaskedLM", "electra": "AutoModelForPreTraining"}[name]
    trained = load(name)
    exported = export.export_run(trained, pretrained(name), tmp_path)
    assert exported == f"transformers' {opener}"
    assert names_in(tmp_path) == names_in(golden.FIXTURES / fixture)
    model = trained.model
    again, report = weights.load_pretrained(tmp_path, model.config, golden.fill(model))
    assert golden.modules(report.new) <= {"generator"}
    assert report.unused == ()
    assert_same_parameters(again, trained.params, again.keys() - {"generator"})
    assert "| val | " in (tmp_path / "README.md").read_text()
    if name == "electra":
        expected = names_in(golden.FIXTURES / fixture / "generator")
        assert names_in(tmp_path / "generator") == expected


def test_electra_trains_a_generator_a_quarter_as_wide(pretrained, load):
    source = pretrained("electra")
    scores = read_json(source / "result.json")["val"]
    assert scores["loss"] > math.log(scores["perplexity"]) > 0
    params = load("electra").params
    assert params["generator"]["projection"]["kernel"].shape == (8, 4)
    config = make_config("electra", **{"model.pretrained": str(source), "model.embedding_size": 8})
    loaded, report = resume.initial_params(CLASSIFICATION.prepare(resolve(config)))
    assert golden.modules(report.new) == {"classifier"}
    assert_same_parameters(loaded, params, ("embeddings", "encoder"))
