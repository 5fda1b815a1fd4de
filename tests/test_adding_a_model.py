"""docs/internals/adding_a_model.md: its example, registered as it says, from training to report."""

import sys
from types import ModuleType

import golden
import jax
import numpy as np
import pytest
import runs
from commands import ROOT
from readme import blocks

from sentiment_jax import api
from sentiment_jax.config import schema
from sentiment_jax.config.recipes import call_recipe, override, read_recipe
from sentiment_jax.models import registry
from sentiment_jax.modes.report import report
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.trained_model import load_run

SETTINGS, NETWORK, ENTRY, RECIPE = (
    block.text
    for block in blocks(ROOT / "docs/internals/adding_a_model.md")
    if block.language == "python"
)
SMALL = {name: value for name, value in runs.SMALL.items() if "_size" not in name}
TEXT = "A dull film, but the music is great."


@pytest.fixture(scope="module", autouse=True)
def bag():
    """The network's module; every file has what the page adds to it."""
    module = ModuleType("sentiment_jax.models.bag")
    settings = {**vars(schema)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(schema.OBJECTIVES, "bag", ())
        exec(SETTINGS, settings)
        patch.setattr(schema, "BagConfig", settings["BagConfig"], raising=False)
        patch.setitem(schema.MODELS, "bag", schema.BagConfig)
        patch.setitem(sys.modules, module.__name__, module)
        exec(NETWORK, vars(module))
        entry = eval(f"{{{ENTRY}}}", {**vars(registry), **vars(module)})
        patch.setitem(registry.ARCHITECTURES, "bag", entry["bag"])
        yield module


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "bag.py"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture(scope="module")
def first(recipe, tmp_path_factory):
    """A finished run of the recipe on a few texts."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    train(override(read_recipe(recipe), SMALL), workdir)
    return workdir


def test_it_is_trained_and_its_config_is_read_back(first, recipe):
    assert read_json(first / "result.json")["model"] == "bag"
    assert isinstance(load_run(first).model.config, schema.BagConfig)


def test_its_sweep_is_planned(recipe, tmp_path):
    axes = call_recipe(recipe, "get_sweep")
    plan = plan_sweep(tmp_path, resolve(read_recipe(recipe)), axes)
    assert plan.count_trials() == 2 * 2 + 3  # two batch sizes, two rates; three seeds of the winner


def test_a_run_starts_from_it(first, recipe, tmp_path):
    """At a rate of 0, the parameters stay those of the run that it starts from."""
    start = {"model.pretrained": str(first), "optimizer.learning_rate": 0.0, "epochs": 1}
    train(override(read_recipe(recipe), SMALL | start), tmp_path)
    parameters = (load_run(run).params for run in (first, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, *parameters)


def test_its_predictions_are_explained_and_it_is_reported(first, tmp_path):
    model = api.load(first)
    (probabilities,) = model.predict_proba([TEXT])
    explanation = model.explain(TEXT)
    assert explanation.complete
    assert abs(explanation.log_odds - np.diff(np.log(probabilities)).item()) < 1e-4
    assert [TEXT[word.start : word.end] for word in explanation.words][:2] == ["A", "dull"]
    report([first], tmp_path)
    assert "<title>bag" in (tmp_path / "report.html").read_text().lower()


def test_padding_does_not_change_a_logit(bag):
    model = bag.BagClassifier(schema.BagConfig(vocab_size=9, embedding_size=4), classes=3)
    batch = {"token_ids": np.array([[5, 7, 0, 0], [5, 7, 8, 8]]), "lengths": np.array([2, 2])}
    logits = golden.logits(model, golden.random(model), batch)
    assert logits.shape == (2, 3) and (logits[0] == logits[1]).all()
