"""`--mode=pretrain`: a run like any, resumed bit-exactly, and what fine-tuning takes from it."""

import functools
import math
import re
import shutil

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import safetensors

from configs import bert, electra, lstm
from sentiment_jax import api
from sentiment_jax.analysis import records
from sentiment_jax.config.recipes import override
from sentiment_jax.config.validation import NO_LABELS
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.huggingface import weights
from sentiment_jax.modes import export, sweep
from sentiment_jax.modes.pretrain import OWN_STEPS, prepare_pretraining, pretrain
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import checks, experiment, parameters, scoring, trained_model
from sentiment_jax.training.progress import Progress

PLAIN = {"optimizer.name": "sgd", "optimizer.clip_norm": 0.0}  # of an LSTM's vectors
SMALL = {
    "epochs": 2,
    "log_every": 2,
    "checkpoint_every": 3,
    "data.limit": 60,
    "data.max_length": 24,
    "data.length_buckets": (),
    "data.vocabulary_size": 300,
    "model.hidden_size": 16,
    "model.embedding_size": 16,
    "model.intermediate_size": 16,
    "model.num_hidden_layers": 1,
}


def make_config(recipe, **changes):
    config = recipe.get_config("tiny")
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The directory of an uninterrupted pre-training of a BERT; not to be changed."""
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(make_config(bert), workdir)
    return workdir


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The same of an ELECTRA."""
    workdir = tmp_path_factory.mktemp("detector") / "run"
    pretrain(make_config(electra, epochs=1, **{"model.embedding_size": 8}), workdir)
    return workdir


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """The same of an LSTM's word vectors."""
    workdir = tmp_path_factory.mktemp("vectors") / "run"
    result = api.pretrain(make_lstm(**PLAIN), str(workdir))
    assert result == read_json(workdir / "result.json")
    return workdir


def make_lstm(**changes):
    config = lstm.get_config("sample")
    small = {name: value for name, value in SMALL.items() if not name.startswith("model.")}
    sizes = {"model.segment_length": 8, "model.embedding_size": 16, "model.hidden_size": 8}
    learning = {"model.word_dropout": 0.1, "optimizer.learning_rate": 0.03}
    runs = {"data.ngrams": 2, "data.ngram_frequency": 3}
    config.update_from_flattened_dict(small | sizes | learning | runs | changes)
    return config


def test_a_pretraining_is_a_run_like_any(pretrained):
    names = {path.name for path in pretrained.iterdir()}
    assert names >= {"config.json", "env.json", "tokenizer.json", "metrics.jsonl", "checkpoints"}
    assert names >= {"result.json", "curves.png"}
    result, env = (read_json(pretrained / f"{name}.json") for name in ("result", "env"))
    assert "test" not in result
    assert env["data"]["counts"]["train"] == {"labeled": 60, "unlabeled": 0}
    assert env["data"]["shared"] == {"train_val": 0, "train_test": 0, "val_test": 0}
    validations = [r for r in read_metrics(pretrained / "metrics.jsonl") if r["split"] == "val"]
    assert [record["epoch"] for record in validations] == [1, 2]
    for record in validations:
        assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
    vocabulary = trained_model.load_run(pretrained, classifies=False).model.config.vocab_size
    assert vocabulary > validations[0]["perplexity"] > validations[1]["perplexity"]
    assert result["val"] == {name: validations[1][name] for name in result["val"]}
    assert result["val"].keys() >= {"perplexity", "loss", "accuracy", "examples"}


@pytest.mark.parametrize(
    ("run", "make"),
    [
        ("pretrained", None),
        pytest.param("vectors", functools.partial(make_lstm, **PLAIN), marks=pytest.mark.slow),
    ],
)
def test_killed_and_the_same_command_again(run, make, request, tmp_path, monkeypatch):
    pretrained, make = request.getfixturevalue(run), make or functools.partial(make_config, bert)
    add = Progress.add

    def add_and_die(progress, *arguments):
        add(progress, *arguments)
        if progress.step == 5:
            raise MemoryError  # nothing is saved any more

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Progress, "add", add_and_die)
        pretrain(make(), tmp_path / "run")
    pretrain(make(), tmp_path / "run")
    runs.assert_same_run(pretrained, tmp_path / "run")


@pytest.mark.parametrize("run", ["pretrained", pytest.param("vectors", marks=pytest.mark.slow)])
def test_the_perplexity_depends_on_neither_batches_nor_padding(run, request):
    pretrained = request.getfixturevalue(run)
    trained = trained_model.load_run(pretrained, classifies=False)
    found = []
    for changes in {}, {"eval_batch_size": 6, "data.length_buckets": (16,)}:
        prepared = prepare_pretraining(override(trained.config, changes), trained.tokenizer)
        held = prepared.encoded["val"]
        found.append(scoring.score_text(prepared, trained.params, held, "val").summary())
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    result = read_json(pretrained / "result.json")["val"]
    assert found[0] == result


def test_fine_tuning_starts_from_its_best_checkpoint(pretrained, tmp_path, capsys):
    sizes = ("hidden_size", "embedding_size", "intermediate_size", "num_hidden_layers")
    open_sizes = {f"model.{name}": None for name in sizes} | {"data.limit": 60}
    config = make_config(bert, **open_sizes, **{"model.pretrained": str(pretrained)})
    resolved = checks.resolve(config)
    assert resolved.model.hidden_size == 16
    prepared = experiment.prepare_experiment(resolved)
    own = (pretrained / "tokenizer.json").read_text()
    assert prepared.tokenizer.to_str(pretty=True) == own
    params, report = parameters.initial_params(prepared)
    assert {name.partition("/")[0] for name in report.new} == {"classifier", "pooler"}
    assert {name.rpartition(".")[0] for name in report.unused} >= {"cls.predictions"}
    best = trained_model.load_run(pretrained, classifies=False)
    assert report.files == f"{pretrained}, step {best.step}"
    for part in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, params[part], best.params[part])
    assert "held out" not in capsys.readouterr().err
    config.data.split_seed = 1
    experiment.prepare_experiment(checks.resolve(config))
    assert re.search(r"learned from \d+ of the \d+ reviews", capsys.readouterr().err)
    with pytest.raises(InputError, match="is a run of bert, the config says model.name=electra"):
        checks.resolve(make_config(electra, **{"model.pretrained": str(pretrained)}))


def test_an_lstm_reads_the_vectors_as_they_are(vectors, tmp_path, monkeypatch):
    """Its embedding is the pre-training's, and stays it where it is frozen; all else is new."""
    result = read_json(vectors / "result.json")
    validations = [r for r in read_metrics(vectors / "metrics.jsonl") if r["split"] == "val"]
    assert result["val"]["loss"] == min(record["loss"] for record in validations)
    runs = [word for word in RunDirectory(vectors).load_tokenizer().get_vocab() if " " in word]
    assert runs
    starts = {"model.pretrained": str(vectors), "optimizer.frozen": "embeddings", "epochs": 1}
    config = make_lstm(**starts)
    train(config, tmp_path / "run")
    frozen, source = (
        trained_model.load_run(run, classifies=False) for run in (tmp_path / "run", vectors)
    )
    np.testing.assert_array_equal(
        frozen.params["embedding"]["embedding"], source.params["embedding"]["embedding"]
    )
    prepared = experiment.prepare_experiment(checks.resolve(config))
    _, report = parameters.initial_params(prepared)
    assert {name.partition("/")[0] for name in report.new} == {"forward", "dense", "classifier"}
    assert not report.unused
    assert prepared.encoded["test"].token_ids.shape[1] == 2
    for setting, was in {"model.embedding_size": 16, "data.ngrams": 2}.items():
        with pytest.raises(InputError, match=f"has {setting}={was}, the config 1$"):
            train(override(config, {setting: 1}), tmp_path / "nothing")
    (tmp_path / "run" / "result.json").unlink()
    assert train(override(config, {"model.pretrained": ""}), tmp_path / "run")["epochs"] == 1
    others = {"optimizer.frozen": "embeddings", "optimizer.name": "adam", "shard_params": True}
    others |= {"model.dtype": "bfloat16", "gradient_accumulation": 2, "optimizer.momentum": 0.1}
    others |= {"optimizer.weight_decay": 0.1, "optimizer.layerwise_decay": 0.5}
    assert OWN_STEPS.keys() == others.keys() | {"optimizer.clip_norm"}
    for field, value in others.items():
        with pytest.raises(InputError, match=f"plain steps: .* set {field}={OWN_STEPS[field]}$"):
            pretrain(make_lstm(**PLAIN | {field: value}), tmp_path / "nothing")
    unread = {"class_weights": "balanced", "data.unlabeled": True, "data.teacher": str(vectors)}
    unread |= {f"loss.{name}": 0.1 for name in ("adversarial", "virtual_adversarial", "entropy")}
    assert {*NO_LABELS} == {*unread}
    for field, value in (unread | {"pretrain.mask_fraction": 0.3}).items():
        with pytest.raises(InputError, match=f"pretrain has no use for {field}: leave it out"):
            pretrain(make_lstm(**PLAIN | {field: value}), tmp_path / "nothing")
    earlier = source.config.copy_and_resolve_references()
    earlier.pretrain.objective = "words_elsewhere"
    monkeypatch.setattr(RunDirectory, "read_config", lambda directory: earlier)
    with pytest.raises(InputError, match="run learned words_elsewhere, which later revisions"):
        trained_model.load_run(vectors, classifies=False)
    monkeypatch.undo()
    config.model.pretrained = str(tmp_path)
    with pytest.raises(InputError, match="is no run: an LSTM starts from one"):
        checks.resolve(config)


def test_what_a_training_starts_from_is_checked_before_any_review_is_read(
    vectors, tmp_path, monkeypatch
):
    source, step = tmp_path / "source", str(read_json(vectors / "result.json")["best_step"])
    shutil.copytree(vectors, source)
    config = make_lstm(**{"model.pretrained": str(source)})

    def prepare(*_):
        pytest.fail("reviews are read")

    begin = functools.partial(train, config, tmp_path / "run", prepare=prepare)
    (source / "checkpoints" / step / "MANIFEST.json").rename(source / "kept")
    with pytest.raises(RunError, match=f"the checkpoint of step {step} in .* is damaged"):
        begin()
    plan = {"optimizer": ("adam",), "batch_size": (8,), "learning_rate": (1e-3,), "seeds": (0,)}
    plan |= {"procedure": "grid"}
    monkeypatch.setattr(sweep, "prepare_experiment", prepare)
    with pytest.raises(RunError, match=f"the checkpoint of step {step} in .* is damaged"):
        sweep.sweep(config, tmp_path / "sweep", plan)
    (source / "kept").rename(source / "checkpoints" / step / "MANIFEST.json")
    with pytest.raises(InputError, match=r"has model.embedding_size=16, the config 8$"):
        sweep.sweep(config, tmp_path / "sweep", plan | {"model.embedding_size": (16, 8)})
    for fresh in (False, True):
        with pytest.raises(InputError, match=f"the config learns from {source}, its own --workdir"):
            train(config, source, fresh=fresh, prepare=prepare)
    (source / "result.json").unlink()  # nothing was removed
    monkeypatch.setattr(Checkpoints, "bookkeeping", lambda checkpoints, step: {"best": None})
    with pytest.raises(InputError, match="source has no validated checkpoint yet .*first epoch"):
        begin()
    earlier = shutil.copytree(vectors, tmp_path / "earlier")
    with pytest.raises(InputError, match="source has no validated checkpoint yet"):
        train(config, earlier, fresh=True, prepare=prepare)
    assert (earlier / "result.json").exists()  # what could not be replaced is left


@pytest.mark.slow
def test_reviews_without_labels_join_the_training(vectors, tmp_path, capsys):
    text = tmp_path / "more.txt"
    text.write_text("\n".join(f"A film that I saw on day {i}." for i in range(30)))
    joined = {"data.unlabeled": True, "pretrain.text": str(text), "epochs": 1}
    starts = {"model.pretrained": str(vectors), "loss.virtual_adversarial": 1.0}
    config = make_lstm(**joined, **starts)
    prepared = experiment.prepare_experiment(checks.resolve(config))
    labels = prepared.encoded["train"].labels
    more = len(labels) - 48  # the limit holds for labeled and unlabeled reviews together
    assert 0 < more == (labels[48:] == -1).sum() < 30
    train(config, tmp_path / "run")
    assert f"{more} reviews without labels" in capsys.readouterr().out
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum(r["examples"] for r in records if r["split"] == "train") == 48
    assert records[-1]["examples"] == 96


def test_a_pretraining_judges_nothing(pretrained, tmp_path):
    with pytest.raises(InputError, match="is a pre-training, .*--config.model.pretrained="):
        trained_model.load_run(pretrained)
    with pytest.raises(InputError, match="is a pre-training run, not a classifier"):
        records.collect([pretrained])
    config = RunDirectory(pretrained).read_config()
    with pytest.raises(InputError, match="is what --mode=pretrain sets"):
        experiment.prepare_experiment(config)


def names_in(folder):
    """The names of a folder's tensors, of all layers as one."""
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        return {re.sub(r"layer\.\d", "layer", name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.slow
def test_an_export_has_the_tensors_that_pytorch_has(pretrained, detector, tmp_path):
    opened = {"bert_masked": "AutoModelForMaskedLM", "electra_replaced": "AutoModelForPreTraining"}
    for run, (name, opener) in zip((pretrained, detector), opened.items(), strict=True):
        trained = trained_model.load_run(run, classifies=False)
        assert export.export_run(trained, run, tmp_path / name) == opener
        assert names_in(tmp_path / name) == names_in(golden.FIXTURES / name)
        model, fresh = trained.model, golden.fill(trained.model, 7.0)
        again, report = weights.load_pretrained(tmp_path / name, model.config, fresh)
        assert {name.partition("/")[0] for name in report.new} <= {"generator"}
        assert report.unused == ()
        for part in again.keys() - {"generator"}:
            jax.tree.map(np.testing.assert_array_equal, again[part], trained.params[part])
        assert "| val | " in (tmp_path / name / "README.md").read_text()
    generator = "electra_replaced/generator"
    assert names_in(tmp_path / generator) == names_in(golden.FIXTURES / generator)


def test_electra_trains_a_generator_a_quarter_as_wide(detector):
    result = read_json(detector / "result.json")
    assert result["val"]["loss"] > math.log(result["val"]["perplexity"]) > 0
    trained = trained_model.load_run(detector, classifies=False)
    assert trained.params["generator"]["projection"]["kernel"].shape == (8, 4)
    config = make_config(electra, **{"model.pretrained": str(detector), "model.embedding_size": 8})
    prepared = experiment.prepare_experiment(checks.resolve(config))
    loaded, report = parameters.initial_params(prepared)
    assert {name.partition("/")[0] for name in report.new} == {"classifier"}
    for part in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, loaded[part], trained.params[part])


def torch_logits(folder, batch):
    """What the class named in a folder's config.json computes from it."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    opener = getattr(transformers, config.architectures[0])
    theirs, report = opener.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    mask = np.arange(24) < np.asarray(batch["lengths"])[:, None]
    with torch.no_grad():
        return theirs.eval()(
            input_ids=torch.tensor(np.asarray(batch["token_ids"])).long(),
            attention_mask=torch.tensor(mask).long(),
        ).logits.numpy()


@pytest.mark.parametrize("run", ["pretrained", "detector"])
def test_live_pytorch_computes_the_same_from_the_export(run, request, tmp_path):
    pytest.importorskip("torch", reason="the golden files hold what PyTorch computed")
    workdir, folder = request.getfixturevalue(run), tmp_path / "out"
    trained = trained_model.load_run(workdir, classifies=False)
    export.export_run(trained, workdir, folder)
    rng = np.random.default_rng(0)
    batch = {
        "token_ids": jnp.asarray(
            rng.integers(5, trained.model.config.vocab_size, (4, 24)), "int32"
        ),
        "lengths": jnp.array([24, 3, 11, 20]),
    }
    expected, ours = (
        [torch_logits(folder, batch)],
        golden.logits(trained.model, trained.params, batch),
    )
    if run == "detector":
        expected, ours = [torch_logits(folder / "generator", batch), *expected], ours[:2]
    valid = np.arange(24) < np.asarray(batch["lengths"])[:, None]
    for logits, theirs in zip(ours if run == "detector" else [ours], expected, strict=True):
        np.testing.assert_allclose(logits[valid], theirs[valid], rtol=0, atol=1e-4)
