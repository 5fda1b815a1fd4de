"""ONNX graphs: onnxruntime's logits are the networks', for every architecture and pooling."""

import golden
import numpy as np
import onnx
import onnxruntime
import pretrained
import pytest

from sentiment_jax.config.schema import ENCODERS, AverageConfig, DataConfig, LstmConfig
from sentiment_jax.data.dataset import READERS
from sentiment_jax.data.encoding import encode
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.models.onnx_graph import make_graph
from sentiment_jax.models.registry import ARCHITECTURES, build_model

ODD = [
    "",
    "a",
    "nan",
    "🎬🍿👎🏽",
    "Cafe\u0301 re\u0301sume\u0301",
    "<br />",
    "&amp; [SEP]",
    "\ufeff",
    "ÄÖÜ ß",
]
SAMPLE = READERS["sample"](DataConfig("sample"))[0].texts
TEXTS = [*ODD, *(" ".join([text] * 9) for text in SAMPLE[:10]), *SAMPLE][:200]
LENGTH = 40  # most texts of the sample are shorter, repeated ones longer
SIZES = {"embedding_size": 8, "hidden_size": 6, "dense_size": 5}
POOLINGS = ("last", "mean", "max", "mean_max")


def of_encoder(name, **changes):
    own = {"local_attention": 8} if name == "modernbert" else {}
    own = {"type_vocab_size": 1} if "roberta" in name else own
    sizes = pretrained.SIZES | {"max_position_embeddings": 50, "num_hidden_layers": 2}
    return ENCODERS[name](**{"name": name, **sizes, **own, **changes})


LAYERS = {"bert": ((1, 2), (1, 2)), "modernbert": ((2,), (1,))}  # pooled as first and as mean
CONFIGS = {f"{name}-head": of_encoder(name) for name in ENCODERS if name != "xlm-roberta"}
CONFIGS |= {
    f"{name}-{pooling}-{count}": of_encoder(name, pooling=pooling, pooled_layers=count)
    for name in ENCODERS
    for pooling, counts in zip(("first", "mean"), LAYERS.get(name, ((), (1,))), strict=True)
    for count in counts
}
CONFIGS["electra-projection"] = of_encoder("electra", embedding_size=12)
CONFIGS["modernbert-head-mean"] = of_encoder("modernbert", classifier_pooling="mean")
LSTMS = [(pooling, True, 7) for pooling in POOLINGS] + [("last", True, 0), ("mean_max", False, 0)]
CONFIGS |= {
    f"lstm-{pooling}-{both}-{segment}": LstmConfig(
        **SIZES, pooling=pooling, bidirectional=both, segment_length=segment
    )
    for pooling, both, segment in LSTMS
}
CONFIGS["average"] = AverageConfig(embedding_size=8)


@pytest.fixture(scope="module")
def encoded():
    """The ids of 200 texts, by whether a tokenizer adds [CLS] and [SEP]; some are empty."""
    learned = (pretrained.TRAINERS["bert"](SAMPLE), train_word_level(SAMPLE, 300, 1))
    texts = Texts.from_texts(TEXTS)
    found = [encode(tokenizer, texts, LENGTH, "head") for tokenizer in learned]
    assert all(of.truncated >= 10 and of.lengths.min() < 4 for of in found)
    return found


def run(session, rows):
    """The logits of padded rows, and of each row alone, without padding."""
    length = max(map(len, rows))
    ids = np.array([[*row, *[0] * (length - len(row))] for row in rows])
    mask = np.arange(length) < np.array([[len(row)] for row in rows])
    feed = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    return session.run(["logits"], feed)[0], ids.astype(np.int32)


@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_has_our_logits(name, encoded):
    """Of batches and of each text alone: batch and length are dynamic, padding has no effect."""
    config = CONFIGS[name]
    model = build_model(config, vocab_size=400, classes=3)
    params = golden.random(model)
    graph = make_graph(ARCHITECTURES[config.name].graph, model.config, params, 3)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    texts = encoded[config.name in ("lstm", "average")]
    rows = [of.tolist() for of in np.split(texts.token_ids, texts.offsets[1:-1])]
    found, ids = run(session, rows)
    batch = {"token_ids": ids, "lengths": texts.lengths.astype(np.int32)}
    ours = golden.logits(model, params, batch)
    assert np.ptp(ours, axis=0).min() > 1e-3  # texts differ
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-5)
    alone = np.concatenate([run(session, [row])[0] for row in rows[:20]])
    np.testing.assert_allclose(alone, ours[:20], rtol=0, atol=1e-5)
