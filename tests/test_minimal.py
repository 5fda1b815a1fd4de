"""examples/minimal.py: its steps are those of the recipe `encoder`, and it learns a table."""

import importlib.util
import json

import golden
import jax.numpy as jnp
import numpy as np
import pretrained
import pytest
from commands import ROOT
from reviews import write_csv

from benchmarks.product_reviews import make_rows
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.encoding import encode
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import load_pretrained_tokenizer
from sentiment_jax.huggingface.weights import load_pretrained
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.models.registry import build_model
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.optimizers import make_schedule
from sentiment_jax.training.steps import create_state, make_train_step

STEPS = 10
RATE = 1e-2  # at the recipe's, random weights hardly move


@pytest.fixture(scope="module")
def minimal():
    source = ROOT / "examples" / "minimal.py"
    spec = importlib.util.spec_from_file_location("minimal", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights of a sentence encoder that can learn: their layer normalizations are plain."""
    path = tmp_path_factory.mktemp("weights")
    texts = [text for text, *_ in make_rows(300)]
    pretrained.write_folder(path, "bert", texts, max_position_embeddings=128)
    golden.rewrite(
        path, lambda of: {n: v * 0 + 1 if "Norm.weight" in n else v for n, v in of.items()}
    )
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of short and of long texts."""
    rows = [(text, label) for text, label, *_ in make_rows(STEPS // 2 * 32 - 5)]
    rows[::9] = [(" ".join([text] * 8), label) for text, label in rows[::9]]
    return write_csv(tmp_path_factory.mktemp("table") / "reviews.csv", rows)


def test_it_imports_nothing_of_the_package():
    source = (ROOT / "examples" / "minimal.py").read_text()
    assert "import" in source and "sentiment_jax" not in source
    assert len(source.splitlines()) <= 350


def test_its_first_steps_are_the_packages(minimal, folder, table, monkeypatch):
    """In float32, from the same weights, on the same batches, each twice; one is not full."""
    settings = {"model.pretrained": str(folder), "model.dtype": "float32"}
    settings |= {"model.attention": "xla", "data.path": table}
    recipe = override(read_recipe("encoder"), settings)
    assert recipe.optimizer.learning_rate == minimal.LEARNING_RATE
    assert (recipe.epochs, recipe.min_steps) == (minimal.EPOCHS, minimal.MIN_STEPS)
    assert (recipe.batch_size, recipe.data.max_length) == (minimal.BATCH_SIZE, minimal.MAX_LENGTH)
    config = resolve(override(recipe, {"optimizer.learning_rate": RATE}))
    monkeypatch.setattr(minimal, "LEARNING_RATE", RATE)

    texts, labels, classes = minimal.read_table(table)
    ids = minimal.encode(minimal.read_tokenizer(folder), texts)
    network = minimal.BertClassifier(minimal.read_config(folder), len(classes))
    params = minimal.load_params(folder, network, seed=0)
    trained, frozen = minimal.split_params(params)
    optimizer = minimal.make_optimizer(STEPS)
    opt_state = optimizer.init(trained)

    tokenizer = load_pretrained_tokenizer(folder)
    encoded = encode(tokenizer, Texts.from_texts(texts), 128, config.data.truncation)
    model = build_model(config.model, vocab_size=tokenizer.get_vocab_size(), classes=len(classes))
    loaded, report = load_pretrained(folder, model.config, abstract_params(model))
    assert report.new == ("classifier/bias", "classifier/kernel")
    loaded = {**loaded, "classifier": {k: jnp.array(v) for k, v in params["classifier"].items()}}
    state = create_state(loaded, config.optimizer, seed=0)
    objective = Classification(contrastive=config.contrastive)
    train_step = make_train_step(model, config.optimizer, objective)
    learning_rate = make_schedule(config.optimizer, STEPS)

    losses = []
    expected = []
    plan = minimal.split_rows(np.arange(len(texts))) * 2
    for step, rows in enumerate(plan):
        batch = minimal.make_batch(ids, labels, rows)
        trained, opt_state, loss = minimal.train_step(
            network, optimizer, trained, frozen, opt_state, batch
        )
        planned = PlannedBatch(rows, batch["ids"].shape[1])
        one_hot = np.eye(len(classes), dtype=bool)[batch["labels"]]
        same = make_batch(encoded, planned, 32) | {"labels": one_hot}
        np.testing.assert_array_equal(same["token_ids"], batch["ids"])
        state, metrics = train_step(state, same, np.float32(learning_rate(step)))
        assert metrics["examples"] == len(rows)
        losses.append(loss / len(rows))
        expected.append(metrics["loss"] / len(rows))
    assert len(losses) == STEPS
    moved = np.subtract(expected[STEPS // 2 :], expected[: STEPS // 2])
    assert np.abs(moved).max() > 1e-2, "else steps that do nothing have these losses, too"
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)


def test_it_learns_a_table(minimal, folder, tmp_path, monkeypatch, capsys):
    rows = [("The lid is good.", "pos"), ("It leaks and the color is poor.", "neg")] * 75
    monkeypatch.setattr(minimal, "LEARNING_RATE", RATE)
    accuracy = minimal.main(write_csv(tmp_path / "reviews.csv", rows), str(folder))
    assert accuracy > 0.9
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21  # eighty steps of four batches
    assert lines[-1] == f"test: accuracy {accuracy:.4f} on 30 texts"
