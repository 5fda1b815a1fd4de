"""PyTorch itself, where it is installed: it computes what ours do, and its folders are read.

The golden files hold what one release computed; these tests see what the installed one does.
"""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from sentiment_jax.config.schema import OBJECTIVES
from sentiment_jax.data.tokenization import train_wordpiece
from sentiment_jax.models.registry import build_model
from sentiment_jax.modes.export import Export, export_pretrained

torch = pytest.importorskip("torch", reason="the golden files hold what PyTorch computed")


def draw_batch(config):
    """Random tokens of several lengths, whose padding is random too: it must not matter."""
    length = config.max_position_embeddings - config.first_position
    shape = (5, length)
    token_ids = np.random.default_rng(0).integers(config.first_position, config.vocab_size, shape)
    lengths = jnp.array([length, 1, 2, length - 1, length // 2], jnp.int32)
    return {"token_ids": jnp.asarray(token_ids, jnp.int32), "lengths": lengths}


def valid(batch):
    return np.arange(batch["token_ids"].shape[1]) < np.asarray(batch["lengths"])[:, None]


def open_folder(folder):
    """The model that config.json names; it must find all its weights, and no others."""
    (name,) = transformers.AutoConfig.from_pretrained(folder).architectures
    opener = getattr(transformers, name)
    model, report = opener.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    return model


@pytest.mark.parametrize("name", golden.TORCH)
@pytest.mark.parametrize("pretraining", [False, True])
def test_pytorch_computes_the_same_from_an_export(tmp_path, name, pretraining):
    config = golden.build(name).config
    objective = OBJECTIVES[config.name][0] if pretraining else ""
    model = build_model(config, vocab_size=config.vocab_size, objective=objective)
    params = golden.random(model)
    tokenizer = train_wordpiece(["a good film"], vocabulary_size=config.vocab_size)
    export_pretrained(tmp_path / "out", Export(config, params, tokenizer, objective))
    batch = draw_batch(config)
    outputs = golden.logits(model, params, batch)
    folders = [tmp_path / "out"]
    if objective == "replaced_token_detection":
        folders.insert(0, tmp_path / "out" / "generator")
    else:
        outputs = [outputs]
    for ours, folder in zip(outputs[: len(folders)], folders, strict=True):  # then its tokens
        with torch.no_grad():
            theirs = open_folder(folder).eval()(
                input_ids=torch.tensor(np.asarray(batch["token_ids"])).long(),
                attention_mask=torch.tensor(valid(batch)).long(),
            )
        counts = valid(batch) if pretraining else slice(None)  # a padded token's logits do not
        np.testing.assert_allclose(ours[counts], theirs.logits[counts], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", golden.TORCH)
def test_a_folder_that_pytorch_writes_is_read(tmp_path, name):
    """Under the names that the installed release gives to config's values and tensors."""
    open_folder(golden.FIXTURES / name).save_pretrained(tmp_path)
    model, params = golden.load(tmp_path)
    expected_model, expected = golden.load(name)
    assert model == expected_model
    jax.tree.map(np.testing.assert_array_equal, params, expected)
