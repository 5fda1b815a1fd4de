"""The pre-training networks against PyTorch: logits, losses and gradients of their objectives."""

import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.huggingface import weights
from sentiment_jax.models.electra import extract_generator
from sentiment_jax.models.registry import ARCHITECTURES, build_model
from sentiment_jax.training.objectives import masked_language_modeling as mlm
from sentiment_jax.training.objectives import replaced_token_detection as rtd


def load(folder, like="."):
    """The pre-training model of a folder, and its parameters or, from `like`, their gradients."""
    model_type = json.loads((folder / "config.json").read_bytes())["model_type"]
    resolved = weights.resolve_encoder({"name": model_type}, folder)
    objective = next(iter(ARCHITECTURES[model_type].pretraining))
    model = build_model(resolved, vocab_size=61, objective=objective)
    empty = golden.fill(model)
    params, report = weights.load_pretrained(folder / like, model.config, empty)
    new = {name.partition("/")[0] for name in report.new}
    if model_type != "electra":
        assert not new
        return model, params
    assert new == {"generator"}
    source = folder / "generator" / like
    own, report = weights.load_pretrained(source, *extract_generator(model.config, empty))
    assert report.new == ()
    shared = own.pop("embeddings")
    own["projection"] = shared.pop("projection")
    for name, leaf in shared.items():
        jax.tree.map(np.testing.assert_array_equal, leaf, params["embeddings"][name])
    return model, {**params, "generator": own}


def with_padding(batch):
    """The recorded batch and a row that does not count: a copy of the first, of other tokens."""
    rows = {name: values for name, values in batch.items() if values.ndim}
    rows = {name: jnp.concatenate([values, values[:1]]) for name, values in rows.items()}
    rows["token_ids"] = rows["text"].at[4].add(1)
    return batch | rows | {"numbers": jnp.arange(5), "weights": jnp.array([1.0, 1, 1, 1, 0])}


def mask_as_recorded(self, batch, key):
    """The masked tokens of the golden file instead of random ones."""
    counts = jnp.broadcast_to(batch["weights"][:, None], batch["positions"].shape)
    return batch["masked"], batch["positions"], counts


@pytest.mark.parametrize(
    "name",
    ["bert_masked", "distilbert_masked", "roberta_masked", "modernbert_masked", "electra_replaced"],
)
def test_logits_losses_and_gradients_equal_pytorch(name, monkeypatch):
    folder = golden.FIXTURES / name
    recorded = golden.read(name)
    batch = with_padding(recorded)
    model, params = load(folder)
    detects = "detection_loss" in recorded
    kind = rtd.ReplacedTokenDetection if detects else mlm.MaskedLanguageModeling
    wanted = jnp.take_along_axis(batch["replaced"], batch["positions"], axis=1)
    # Noise that makes every other token a thousand times less likely than the recorded one.
    noise = jnp.where(jax.nn.one_hot(wanted, 61) > 0, 1 - 1e-7, 1e-30)
    monkeypatch.setattr(rtd, "draw_rows", lambda key, numbers, shape: noise)
    monkeypatch.setattr(kind, "mask_batch", mask_as_recorded)
    objective = kind(b"", 0, 0.15)
    inputs = [batch["masked"], batch["lengths"], batch["positions"]]
    if detects:
        inputs.append(lambda _: batch["replaced"])

    @jax.jit
    def compute(params):
        def mean(params):
            sums = objective(model, params, batch, golden.key(0), deterministic=True)
            return sums["loss"] / sums["examples"], sums

        outputs = model.apply({"params": params}, *inputs, deterministic=True)
        return *jax.value_and_grad(mean, has_aux=True)(params), outputs

    (loss, sums), gradients, logits = compute(params)
    sums = {name: float(value) for name, value in sums.items()}
    detection = 50 * recorded.get("detection_loss", 0)
    assert sums["nats"] / sums["predictions"] == pytest.approx(float(recorded["loss"]), rel=1e-5)
    assert float(loss) == pytest.approx(float(recorded["loss"] + detection), rel=1e-5)
    assert objective.mean_loss(sums) == pytest.approx(float(loss), rel=1e-6)
    if detects:
        logits, detected, _ = logits
        valid = np.arange(12) < recorded["lengths"][:, None]
        expected = recorded["detection_logits"][valid]
        np.testing.assert_allclose(detected[:4][valid], expected, rtol=0, atol=1e-4)
    theirs = jnp.take_along_axis(recorded["logits"], recorded["positions"][:, :, None], axis=1)
    np.testing.assert_allclose(logits[:4], theirs, rtol=0, atol=1e-5)
    golden.assert_gradients_equal(gradients, load(folder, "gradients")[1])
