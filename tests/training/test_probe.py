"""A probe is scikit-learn's logistic regression on frozen states, and a run like any other."""

import dataclasses
import functools
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from pretrained import SIZES, TRAINERS, make_folder
from reviews import refuses
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

from configs import encoder
from sentiment_jax import api
from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import ENCODERS, Config, EncoderConfig, ModernBertConfig
from sentiment_jax.config.validation import validate
from sentiment_jax.data.kinds import MultiLabel
from sentiment_jax.data.texts import Texts
from sentiment_jax.errors import InputError, Interrupted
from sentiment_jax.huggingface import weights
from sentiment_jax.models.registry import build_model
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.export import Export, export_pretrained, export_run
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.training import probe
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.resume import initial_params
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.trained_model import load_run

SMALL = {"data.source": "sample", "data.max_length": 24, "data.length_buckets": (12,)}
SMALL |= {
    "data.split_seed": 1,
    "data.limit": 60,
    "data.test_limit": 30,
    "linear_baseline": False,
    "cpu_devices": 1,
}
SMALL |= {"model.dtype": "float32", "model.attention": "xla"}
STRONG = [1e5]  # inverse strengths of the regularization that random states of .01 need


def make_probe(folder, **changes):
    return override(
        encoder.get_config("probe"), SMALL | {"model.pretrained": str(folder)} | changes
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("weights") / "bert")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("probe") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "C", STRONG)
        return workdir, train(make_probe(folder), workdir)


def states_of(folder, config, encoded):
    """The mean of the highest layers' states by the masked language model, at one length."""
    model = build_model(config, vocab_size=1, objective="masked_language_modeling")
    params, _ = weights.load_pretrained(folder, config, golden.fill(model))
    params = jax.tree.map(jnp.asarray, params)

    @functools.partial(jax.jit, static_argnums=0)
    def apply(model, ids, length):
        options = {"deterministic": True, "capture_intermediates": True}
        _, found = model.apply({"params": params}, ids, length, **options)
        found = found["intermediates"]["encoder"]
        numbers = range(config.num_hidden_layers)[-config.pooled_layers :]
        mean = sum(found[f"layer_{i}"]["__call__"][0][0] for i in numbers) / len(numbers)
        if config.name != "modernbert":
            return mean
        apart = mean - mean.mean(axis=-1, keepdims=True)
        variance = jnp.mean(apart**2, axis=-1, keepdims=True)
        scale = params["encoder"]["norm"]["scale"]
        return apart / jnp.sqrt(variance + config.layer_norm_eps) * scale

    for ids in np.split(encoded.token_ids, encoded.offsets[1:-1]):
        padded = jnp.asarray(np.pad(ids, (0, 24 - len(ids)))[None])
        yield np.asarray(apply(model, padded, jnp.array([len(ids)], jnp.int32)))[: len(ids)]


@pytest.mark.parametrize(
    ("name", "pooling", "layers", "class_weights"),
    [
        ("bert", "mean", 4, "none"),  # there are fewer
        pytest.param("bert", "first", 2, "none", marks=pytest.mark.slow),
        ("electra", "first", 1, "balanced"),
        ("modernbert", "mean", 2, "none"),
    ],
)
def test_probabilities_are_those_of_logistic_regression_on_the_states(
    name, pooling, layers, class_weights, tmp_path, monkeypatch
):
    strong = STRONG if pooling == "mean" else [5e5]  # first tokens differ less
    monkeypatch.setattr(probe, "C", strong)
    path = make_folder(tmp_path / "weights", name if name != "electra" else "bert")
    pools = {"model.pooling": pooling, "model.pooled_layers": layers}
    config = make_probe(path, **pools, class_weights=class_weights)
    train(config, tmp_path / "run")
    experiment = CLASSIFICATION.prepare(resolve(config))
    features = {}
    for split, encoded in experiment.encoded.items():
        found = states_of(path, experiment.config.model, encoded)
        pool = {"mean": lambda of: of.mean(axis=0), "first": lambda of: of[0]}[pooling]
        features[split] = np.array([pool(states) for states in found])
    weight = None if class_weights == "none" else class_weights
    model = LogisticRegression(C=strong[0], class_weight=weight, max_iter=1_000, tol=1e-6)
    model.fit(features["train"].astype(np.float64), experiment.texts["train"].codes)
    expected = model.predict_proba(features["test"])
    assert expected[:, 1].std() > 0.03, "the states say nothing"
    found = api.load(tmp_path / "run").predict(list(experiment.texts["test"].texts))
    np.testing.assert_allclose(found["p_positive"], expected[:, 1], rtol=0, atol=2e-3)


def test_several_classes_have_an_output_each_and_one_without_reviews_is_improbable():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], 20)
    features = rng.normal(size=(60, 5)).astype(np.float32) + np.eye(5, dtype=np.float32)[labels]
    texts = [f"text {i}" for i in range(60)]
    reviews = Texts.from_texts(texts, labels.tolist(), classes=("a", "b", "c", "d"))
    c = probe._choose(reviews, features, Config(), labels, 4)
    layer = probe.fit_problem(features, labels, 4, c)
    logits = features @ layer["kernel"] + layer["bias"]
    found = np.asarray(jax.nn.softmax(logits))
    assert (logits.argmax(axis=1) == labels).mean() > 0.5 and (found[:, 2] < 1e-9).all()


def test_c_is_chosen_by_log_loss_with_equal_texts_in_one_fold():
    """Copies in another fold would say that learning by heart pays."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(40, 30)), 2, axis=0).astype(np.float32)
    labels = np.repeat(rng.integers(0, 2, 40), 2)  # at random
    texts = [f"text {i}" for i in range(40) for _ in range(2)]
    reviews = Texts.from_texts(texts, labels.tolist())
    c = probe._choose(reviews, features, Config(), labels, 2)
    layer = probe.fit_problem(features, labels, 2, c)
    assert np.abs(layer["kernel"]).max() < 0.05
    assert probe._folds(reviews.take(np.arange(2)), 0) == []  # two of one text: C is 1
    rare = Texts.from_texts(texts[::2], [0] * 38 + [1] * 2)
    assert len(probe._folds(rare, 0)) == 2  # one of its two texts on each side


def test_c_is_chosen_by_models_with_the_class_weights():
    rng = np.random.default_rng(3)
    labels = np.repeat([1, 0], [15, 105])
    features = (rng.normal(size=(120, 8)) + 0.7 * labels[:, None]).astype(np.float32)
    reviews = Texts.from_texts([f"text {i}" for i in range(120)], labels.tolist())
    plain = probe._choose(reviews, features, Config(class_weights="none"), labels, 2)
    balanced = probe._choose(reviews, features, Config(class_weights="balanced"), labels, 2)
    assert plain < balanced  # for these numbers


def test_it_is_a_run_like_any_other(trained, folder, tmp_path, capsys):
    workdir, result = trained
    assert (result["best_step"], result["epochs"]) == (1, 1)
    assert read_json(workdir / "config.json")["model"]["pooling"] == "mean"  # no 1_Pooling
    lines = read_metrics(workdir / "metrics.jsonl")
    assert [(line["split"], line["step"]) for line in lines] == [
        ("train", 1),
        ("val", 1),
        ("test", 1),
    ]
    assert lines[0]["accuracy"] > 0.6 and lines[0]["learning_rate"] == 0
    assert "optimizer steps are few" not in capsys.readouterr().out
    evaluate_split([workdir], "test", {})
    assert f"accuracy {result['test']['accuracy']:.4f}" in capsys.readouterr().out
    explained = api.load(workdir).explain("A quiet, moving film.")
    assert explained
    train(make_probe(folder), workdir)
    assert "is finished; nothing to do" in capsys.readouterr().out


def test_it_is_exported_for_sentence_transformers(trained, tmp_path):
    """transformers has no class whose last layer reads a mean of states."""
    run = load_run(trained[0])
    assert export_run(run, trained[0], tmp_path / "out").startswith("sentence-transformers'")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    layer = load_file(tmp_path / "out" / "2_Dense" / "model.safetensors")
    learned = run.params["classifier"]
    np.testing.assert_array_equal(layer["linear.weight"].T, learned["kernel"], strict=True)
    np.testing.assert_array_equal(layer["linear.bias"], learned["bias"], strict=True)
    modules = json.loads((tmp_path / "out" / "modules.json").read_bytes())
    folders = [(module["path"], module["type"].rpartition(".")[2]) for module in modules]
    averaged = ("0_Layers", "WeightedLayerPooling")
    pooled = [("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    assert folders == [("", "Transformer"), averaged, *pooled]
    settings = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert settings["architectures"] == ["BertModel"] and settings["output_hidden_states"]
    layers = json.loads((tmp_path / "out" / "0_Layers" / "config.json").read_bytes())
    count = layers["num_hidden_layers"]
    assert (count, layers["layer_start"]) == (settings["num_hidden_layers"], 1)  # the first layer
    ones = load_file(tmp_path / "out" / "0_Layers" / "model.safetensors")["layer_weights"]
    np.testing.assert_array_equal(ones, np.ones(count, np.float32), strict=True)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in files}) == 1, "some are for the user alone"
    changes = SMALL | {"model.pretrained": str(tmp_path / "out"), "model.pooling": "folder"}
    experiment = CLASSIFICATION.prepare(resolve(override(encoder.get_config(), changes)))
    assert experiment.config.model.pooling == "mean"
    params, report = initial_params(experiment)
    assert report.unused == () and report.new == ("classifier/bias", "classifier/kernel")
    for part in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, params[part], run.params[part])


def test_a_mean_of_modernberts_layers_is_not_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "C", STRONG)
    train(make_probe(make_folder(tmp_path / "weights", "modernbert")), tmp_path / "run")
    run = load_run(tmp_path / "run")
    refuses(
        "train with --config.model.pooled_layers=1",
        export_run,
        run,
        tmp_path / "run",
        tmp_path / "o",
    )


def test_fine_tuning_starts_from_its_last_layer_if_that_reads_the_same(trained):
    workdir, _ = trained
    learned = load_run(workdir).params["classifier"]["kernel"]
    for pooling, layers, same in (
        ("mean", 4, True),
        ("folder", 4, True),
        ("mean", 1, False),
        ("head", 1, False),
    ):
        changes = SMALL | {"model.pretrained": str(workdir), "model.pooling": pooling}
        changes |= {"model.pooled_layers": layers, "contrastive": 0.0, "probe_first": False}
        experiment = CLASSIFICATION.prepare(resolve(override(encoder.get_config(), changes)))
        params, report = initial_params(experiment)
        assert np.array_equal(params["classifier"]["kernel"], learned) == same
        assert ("classifier/kernel" in report.new) != same


def test_a_finished_run_does_not_go_on_with_another_pooling(folder, tmp_path):
    quick = SMALL | {"model.pretrained": str(folder), "epochs": 1, "min_steps": 0}
    head = {"model.pooling": "head", "contrastive": 0.0, "probe_first": False}
    train(override(encoder.get_config(), quick | head), tmp_path / "run")
    now = override(encoder.get_config(), quick)
    message = refuses("another config", train, now, tmp_path / "run")
    assert "model.pooling: head -> folder" in message


def test_an_export_averages_the_layers_that_the_probe_reads(tmp_path):
    config = EncoderConfig(**SIZES | {"name": "bert", "num_hidden_layers": 3, "pooling": "mean"})
    config = dataclasses.replace(config, pooled_layers=2)
    model = build_model(config, vocab_size=1)
    tokenizer = TRAINERS["bert"](["a dull film", "a moving film"])
    export_pretrained(tmp_path / "out", Export(config, golden.random(model), tokenizer))
    layers = json.loads((tmp_path / "out" / "0_Layers" / "config.json").read_bytes())
    assert layers["layer_start"] == 2  # the first is 1, 0 the embeddings
    ones = load_file(tmp_path / "out" / "0_Layers" / "model.safetensors")["layer_weights"]
    assert ones.shape == (2,)


def test_a_kill_before_the_checkpoint_begins_again(folder, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "C", STRONG)

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", runs.at_step(1, kill))
        with pytest.raises(Killed):
            train(make_probe(folder), tmp_path / "run")
    train(make_probe(folder), tmp_path / "run")
    runs.assert_same_run(trained[0], tmp_path / "run")


@pytest.fixture(scope="module")
def started(folder, tmp_path_factory):
    """A fine-tuning that starts from a fitted last layer, and that layer."""
    workdir = tmp_path_factory.mktemp("started") / "run"
    layers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "_fit", lambda *of: layers.append(FIT(*of)) or layers[-1])
        patch.setattr(probe, "FEW_CLASSES", 1)
        train(make_started(folder), workdir)
    return workdir, layers


FIT = probe._fit


def make_started(folder, **changes):
    quick = {"model.pretrained": str(folder), "epochs": 1, "min_steps": 0, "checkpoint_every": 1}
    return override(encoder.get_config(), SMALL | quick | changes)


def test_fine_tuning_starts_from_the_probe_of_a_small_c(started, folder):
    workdir, layers = started
    experiment = CLASSIFICATION.prepare(resolve(make_started(folder)))
    states = states_of(folder, experiment.config.model, experiment.encoded["train"])
    features = np.array([of.mean(axis=0) for of in states], np.float64)
    model = LogisticRegression(C=2 * CLASSIFICATION.probe_weight / len(features)).fit(
        features, experiment.texts["train"].codes
    )
    (layer,) = layers  # one fit
    np.testing.assert_allclose(np.diff(layer["kernel"])[:, 0], model.coef_[0], atol=1e-3)
    np.testing.assert_allclose(np.diff(layer["bias"]), model.intercept_, atol=5e-3)
    learned = load_run(workdir).params["classifier"]["kernel"]
    rate = encoder.RECIPE["optimizer.learning_rate"]
    assert 0 < np.abs(learned - layer["kernel"]).max() < 3 * rate  # two steps from it


@pytest.mark.parametrize("during", ["features", "step"])
def test_a_fine_tuning_that_is_stopped_fits_the_same_layer_again(
    during, started, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(probe, "FEW_CLASSES", 1)
    question = {"features": 1, "step": 2}[during]
    with pytest.raises(Interrupted, match=f"saved step {0 if during == 'features' else 1}"):
        train(make_started(folder), tmp_path / "run", stop=runs.stop_at(question))
    train(make_started(folder), tmp_path / "run")
    runs.assert_same_run(started[0], tmp_path / "run")


HEAD = {"model.pooling": "head", "contrastive": 0.0, "probe_first": False}


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, 1),
        ({"data.label_separator": ";"}, 4),
        (HEAD | {"data.label_separator": ";"}, 1),
        ({"data.label_separator": ";", "model.pooled_layers": 2}, 2),
    ],
)
def test_multi_label_texts_are_read_from_four_layers(folder, changes, layers):
    quick = SMALL | {"model.pretrained": str(folder), "data.source": "csv", "data.path": "a.csv"}
    config = override(encoder.get_config(), quick | changes)
    assert resolve(config).model.pooled_layers == layers


def test_each_label_starts_from_a_fit_of_its_own():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 5)).astype(np.float32)
    labels = np.stack([features[:, 0] > 0, features[:, 1] > 1, np.zeros(80, bool)], axis=1)
    layer = probe._fit(features, labels, MultiLabel(), lambda *_: 1.0)
    for i in range(2):
        model = LogisticRegression(C=1.0).fit(features.astype(np.float64), labels[:, i])
        np.testing.assert_allclose(layer["kernel"][:, i], model.coef_[0], atol=5e-3)
    assert layer["bias"][2] < -20 and not layer["kernel"][:, 2].any()  # a label of no text


def test_a_label_of_every_text_is_a_constant():
    rng = np.random.default_rng(0)
    labels = np.stack([rng.random(60) > 0.5, np.ones(60, bool)], axis=1)
    texts = Texts.from_texts(map(str, range(60)), labels, classes=("a", "b"), kind=MultiLabel())
    features = rng.normal(size=(60, 4)).astype(np.float32)
    choose = functools.partial(probe._choose, texts, features, Config())
    layer = probe._fit(features, labels, MultiLabel(), choose)
    assert (features @ layer["kernel"] + layer["bias"])[:, 1].min() > 20


def test_folds_have_probes_and_all_reviews_the_last(folder, tmp_path):
    result = train(make_probe(folder, **{"data.folds": 3}), tmp_path / "run")
    assert [fold["best_epoch"] for fold in result["folds"]] == [1, 1, 1]
    assert result["val"]["examples"] == 60
    env = read_json(tmp_path / "run" / "env.json")
    assert sum(env["data"]["counts"]["train"].values()) == 60


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
    ],
)
def test_pooling_is_the_folders(values, expected, tmp_path):
    path = make_folder(tmp_path / "weights", **values)
    assert resolve(make_probe(path)).model.pooling == expected
    (path / "1_Pooling/config.json").write_text("{")
    refuses("1_Pooling/config.json is truncated", resolve, make_probe(path))


def test_random_weights_pool_by_no_folder(tmp_path, monkeypatch):
    path = make_folder(tmp_path / "weights", pooling_mode_cls_token=True)
    monkeypatch.chdir(path)
    settings = {"name": "bert", "pooling": "folder"}
    assert weights.resolve_encoder(settings, folder=None).pooling == "mean"


def test_a_folders_own_classifier_reads_something_else(tmp_path):
    path = make_folder(tmp_path / "weights")
    classifier = {"classifier.weight": np.ones((2, 16), np.float32)}
    golden.rewrite(path, lambda of: of | classifier | {"classifier.bias": np.ones(2, np.float32)})
    experiment = CLASSIFICATION.prepare(resolve(make_probe(path)))
    params, report = initial_params(experiment)
    assert "classifier.weight" in report.unused and "classifier/kernel" in report.new
    assert not (np.asarray(params["classifier"]["kernel"]) == 1).any()


def test_modernberts_own_pooling_is_that_of_its_head():
    config = ModernBertConfig(classifier_pooling="cls", pooling="mean", vocab_size=40)
    assert config.pooling == "mean" and "pooling" in ENCODERS["modernbert"].__dataclass_fields__


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.pooling": "head"}, "fits the last layer of average, or an encoder with"),
        ({"model.pretrained": ""}, "keeps random layers: set model.pretrained"),
        ({"model.pooling": "head", "model.pooled_layers": 2}, "head reads the last layer alone"),
        ({"contrastive": 1.0}, "takes no steps: set contrastive=0"),
        ({"probe_first": True}, "fits the last layer in any case: set probe_first=False"),
        ({"contrastive": 1.0, "gradient_accumulation": 2}, "all texts of a batch: set gradient_"),
        ({"data.teacher": "runs/a"}, "fits classes, not a teacher's probabilities"),
    ],
)
def test_what_a_probe_cannot_do_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        validate(make_probe("folder", **changes))
