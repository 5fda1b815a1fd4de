"""The models of pre-training against PyTorch: logits, losses and gradients of their objectives."""

import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.huggingface import weights
from sentiment_jax.models import classifiers
from sentiment_jax.models.pretrainers import MaskedLanguageModel, generator_config
from sentiment_jax.training import objectives


def load(folder, like="."):
    """The pre-training model of a folder, and its parameters, or their gradients, or the like."""
    model_type = json.loads((folder / "config.json").read_bytes())["model_type"]
    resolved = weights.resolve_encoder({"name": model_type}, folder)
    model = classifiers.build_model(resolved, vocab_size=61, pretraining=True)
    source = folder / like
    params, report = weights.load_pretrained(source, model.config, golden.fill(model, 7.0))
    new = {name.partition("/")[0] for name in report.new}
    if model_type == "bert":
        assert not new
        return model, params
    assert new == {"generator"}
    generator = MaskedLanguageModel(generator_config(model.config))
    own, report = weights.load_pretrained(
        folder / "generator" / like, generator.config, golden.fill(generator, 7.0)
    )
    assert report.new == ()
    shared = own.pop("embeddings")
    own["projection"] = shared.pop("projection")
    jax.tree.map(
        np.testing.assert_array_equal,
        shared,
        {k: v for k, v in params["embeddings"].items() if k != "projection"},
    )
    return model, {**params, "generator": own}


class Recorded:
    """Chooses and replaces what the golden file says instead of at random."""

    def mask_batch(self, batch, key):
        return batch["masked"], batch["positions"], jnp.ones(batch["positions"].shape)


class MaskedLanguageModeling(Recorded, objectives.MaskedLanguageModeling):
    pass


class ReplacedTokenDetection(Recorded, objectives.ReplacedTokenDetection):
    pass


def read(name):
    """A golden file as a batch."""
    arrays = golden.read(name)
    rows = {"labels": jnp.arange(4), "weights": jnp.ones(4)}
    return {**arrays, **rows, "token_ids": arrays["text"]}


@pytest.mark.parametrize("name", ["bert_masked", "electra_replaced"])
def test_logits_losses_and_gradients_equal_pytorch(name, monkeypatch):
    batch, folder = read(name), golden.FIXTURES / name
    model, params = load(folder)
    wanted = jnp.take_along_axis(batch["replaced"], batch["positions"], axis=1)
    # Noise that makes every other token a thousand times less likely than the recorded one.
    noise = jnp.where(jax.nn.one_hot(wanted, 61) > 0, 1 - 1e-7, 1e-30)
    monkeypatch.setattr(objectives, "draw_rows", lambda key, numbers, shape: noise)
    kind = MaskedLanguageModeling if model.config.model_type == "bert" else ReplacedTokenDetection
    objective = kind(b"", 0, 0.15)

    def compute(params):
        def mean(params):
            sums = objective(model, params, batch, golden.key(0), deterministic=True)
            return sums["loss"] / sums["examples"], sums

        where = batch["masked"], batch["lengths"], batch["positions"]
        outputs = model.apply({"params": params}, *where, *corrupt, deterministic=True)
        return jax.value_and_grad(mean, has_aux=True)(params), outputs

    corrupt = [lambda _: batch["replaced"]] if kind is ReplacedTokenDetection else []
    ((loss, sums), gradients), logits = jax.jit(compute)(params)
    sums = {name: float(value) for name, value in sums.items()}
    detection = 50 * batch.get("detection_loss", 0)
    assert sums["nats"] / sums["predictions"] == pytest.approx(float(batch["loss"]), rel=1e-5)
    assert float(loss) == pytest.approx(float(batch["loss"] + detection), rel=1e-5)
    assert objective.mean_loss(sums) == pytest.approx(float(loss), rel=1e-6)
    if kind is ReplacedTokenDetection:
        logits, detected, _ = logits
        valid = jnp.arange(12) < batch["lengths"][:, None]
        expected = jnp.where(valid, batch["detection_logits"], 0)
        np.testing.assert_allclose(jnp.where(valid, detected, 0), expected, rtol=0, atol=1e-4)
    theirs = jnp.take_along_axis(batch["logits"], batch["positions"][:, :, None], axis=1)
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=1e-4)
    golden.assert_gradients_equal(gradients, load(folder, "gradients")[1])
