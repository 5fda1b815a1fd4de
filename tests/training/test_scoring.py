import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from reviews import random_encoded
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from sentiment_jax.config.schema import Config, DataConfig, LstmConfig
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.runtime import devices
from sentiment_jax.training.scoring import score_texts
from sentiment_jax.training.trained_model import Classifier

MODEL = LstmClassifier(LstmConfig(vocab_size=30, embedding_size=8, hidden_size=8, dense_size=8))
PARAMS = golden.random(MODEL)
CONFIG = Config(data=DataConfig(length_buckets=(3,), max_length=5))
CLASSIFIER = Classifier(CONFIG, Tokenizer(WordLevel()), model=MODEL, mesh=devices.data_mesh())
ENCODED = random_encoded(65, longest=5, vocabulary=30)


def test_equals_a_plain_loop():
    """Loss and p(positive) of every text, one at a time, unpadded."""
    forward = jax.jit(functools.partial(MODEL.apply, deterministic=True))
    losses = []
    p_positive = []
    for i in range(len(ENCODED)):
        ids = ENCODED.token_ids[ENCODED.offsets[i] : ENCODED.offsets[i + 1]]
        logits = forward({"params": PARAMS}, jnp.asarray(ids[None]), jnp.array([len(ids)]))
        p = scipy.special.softmax(np.asarray(logits[0], np.float64))
        losses.append(-np.log(p[ENCODED.labels[i]].item()))
        p_positive.append(p[1])
    positive = np.array(p_positive) > 0.5
    assert 0.1 < positive.mean() < 0.9
    for batch_size in (13, 64):  # 13: no batch is partial
        found = score_texts(CLASSIFIER, PARAMS, ENCODED, "test", batch_size=batch_size)
        assert found.scores["examples"] == 65
        assert found.scores["accuracy"] == np.mean(positive == ENCODED.labels[:, 1])
        np.testing.assert_allclose(found.probabilities[:, 1], p_positive, atol=1e-6)
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)
        assert found.scores["loss"] == pytest.approx(np.mean(losses), abs=1e-6)
