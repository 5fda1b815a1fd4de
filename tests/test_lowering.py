"""Every step that can run on a GPU lowers for CUDA where there is none.

Lowering is all that JAX does before XLA compiles. It refuses shapes and types that cuDNN's
attention does not take, and its text shows every product and library call.
"""

import collections
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import synthetic
from benchmarks.speed.flops import training_flops
from sentiment_jax.analysis.integrated_gradients import Path, _slopes
from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.models import layers
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.models.registry import ARCHITECTURES, build_model
from sentiment_jax.training.objectives import ngram_vectors
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.masked_language_modeling import WORD, MaskedLanguageModeling
from sentiment_jax.training.objectives.replaced_token_detection import ReplacedTokenDetection
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step

try:  # nothing public replaces the question for the version of cuDNN
    from jax._src.cudnn import fused_attention_stablehlo as cudnn
except ImportError:
    cudnn = None

LAYERS = 2
ENCODER = {
    "hidden_size": 32,
    "embedding_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 26,
}
SIZES = {"lstm": {"embedding_size": 12, "hidden_size": 8}}
ENCODERS = {
    **{name: {"name": name} for name in ("bert", "electra", "distilbert", "roberta")},
    "rematerialized": {"name": "bert", "remat": True},
    "modernbert": {"name": "modernbert", "local_attention": 8},  # its second layer's
}
KINDS = {
    "float32": {"dtype": "float32"},
    "tensorfloat32": {"dtype": "tensorfloat32"},
    "bfloat16": {"dtype": "bfloat16"},
    "cudnn": {"dtype": "bfloat16", "attention": "cudnn", "attention_dropout": 0.0},
}
MAIN_KINDS = ("float32", "bfloat16", "cudnn")
ROWS = 8
LENGTH = 24  # three windows of ModernBERT's, which are cut into blocks
VOCABULARY = 61


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch):
    """Trace what a GPU would get, with a cuDNN new enough."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    if hasattr(cudnn, "check_cudnn_version"):
        monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)


def pairs(first, second, default):
    """All pairs as a test's parameters; those that are not `default` are slow."""
    return [
        pytest.param(*pair, marks=() if pair in default else pytest.mark.slow)
        for pair in itertools.product(first, second)
    ]


def build(name, objective="", **settings):
    """A small model; its vocabulary's size is that of no other test, whose traces are cached."""
    config = synthetic.model_config({"name": name, **SIZES.get(name, ENCODER), **settings})
    return build_model(config, vocab_size=VOCABULARY, objective=objective)


def build_encoder(encoder, kind, objective=""):
    if kind == "cudnn" and not hasattr(cudnn, "check_cudnn_version"):
        pytest.skip("this JAX asks for cuDNN's version elsewhere: its attention was not lowered")
    return build(**ENCODERS[encoder], **KINDS[kind], objective=objective)


def lower(step, *arguments):
    return step.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@functools.cache
def lower_training(model, objective=None, length=LENGTH, parts=1):
    optimizer = OptimizerConfig(name="adamw")
    state = jax.eval_shape(lambda p: create_state(p, optimizer, 0), abstract_params(model))
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    if isinstance(objective, ngram_vectors.NgramVectors):
        step = ngram_vectors.make_train_step(objective)
    else:
        step = make_train_step(model, optimizer, objective or Classification(), parts)
    return lower(step, state, synthetic.abstract_batch(ROWS, length), rate)


def lower_evaluation(model):
    batch = synthetic.abstract_batch(ROWS, LENGTH)
    return lower(make_eval_step(model), abstract_params(model), batch)


def calls(text):
    """How often cuDNN's attention is called: forward, backward."""
    targets = collections.Counter(re.findall(r"@__cudnn\$fmhaSoftmax(\w*)", text))
    assert targets.keys() <= {"", "Backward"}
    return targets[""], targets["Backward"]


def dots(text):
    """The lines of all products."""
    return [line for line in text.splitlines() if "stablehlo.dot_general" in line]


def products(text):
    """How often products have operands of two types and ranks, e.g. "f32[2] f32[2]"."""
    found = collections.Counter()
    for line in dots(text):
        left, right, _ = re.findall(r"tensor<((?:\d+x)*)(\w+)>", line.rpartition(" : ")[2])
        found[" ".join(f"{dtype}[{shape.count('x')}]" for shape, dtype in (left, right))] += 1
    return found


def check_products(text, dtype):
    """A bfloat16 step has float32 products in the heads alone: of rows, not of tokens.

    A float32 product is one on a GPU too, unless TensorFloat-32 was asked for.
    """
    wide = [line for line in dots(text) if "xf32>, " in line]
    exact = ["precision = [HIGHEST, HIGHEST]" in line for line in wide]
    assert exact == [dtype != "tensorfloat32"] * len(wide)
    found = products(text)
    assert found
    wide = [pair for pair in found if "f32" in pair]
    if dtype == "bfloat16":
        assert wide == ["f32[2] f32[2]"] and found[wide[0]] <= 6  # two dense layers, each with
    else:  # two gradients
        assert wide == list(found)


STEPS = [("distilbert", "float32"), ("electra", "float32"), ("bert", "bfloat16")]
STEPS += [("roberta", "cudnn"), ("rematerialized", "cudnn"), ("modernbert", "cudnn")]


@pytest.mark.parametrize(
    ("encoder", "kind"), [*pairs(ENCODERS, MAIN_KINDS, STEPS), ("bert", "tensorfloat32")]
)
def test_an_encoders_steps_lower(encoder, kind):
    """cuDNN is called by all layers but the last, which has one query, or ModernBERT's second."""
    model = build_encoder(encoder, kind)
    training = lower_training(model)
    evaluation = lower_evaluation(model)
    layers = LAYERS - 1 if kind == "cudnn" else 0
    forward = 2 * layers if encoder == "rematerialized" else layers
    assert (calls(training), calls(evaluation)) == ((forward, layers), (layers, 0))
    for text in (training, evaluation):
        check_products(text, KINDS[kind]["dtype"])


def test_bfloat16_products_but_the_scores_are_written_in_bfloat16():
    text = "\n".join(dots(lower_training(build_encoder("bert", "bfloat16"))))
    results = collections.Counter(re.findall(r"xbf16>\) -> tensor<[\dx]*x(\w+)>", text))
    # a layer has six dense layers and two products of attention, each with two gradients
    assert results == {"bf16": LAYERS * 8 * 3 - LAYERS, "f32": LAYERS}


OBJECTIVES = {"bert": MaskedLanguageModeling, "electra": ReplacedTokenDetection}


@pytest.mark.parametrize(("name", "kind"), pairs(OBJECTIVES, MAIN_KINDS, [("electra", "cudnn")]))
def test_a_pretraining_step_lowers(name, kind):
    objective = OBJECTIVES[name](bytes([WORD]) * VOCABULARY, mask=4, fraction=0.15)
    model = build_encoder(name, kind, next(iter(ARCHITECTURES[name].pretraining)))
    layers = {"bert": LAYERS, "electra": 2 * LAYERS}[name] if kind == "cudnn" else 0
    # four words are masked; an odd number takes another path
    assert calls(lower_training(model, objective)) == (layers, layers)


def test_a_pretraining_step_of_an_lstm_lowers():
    """Its own step: exact products, rows of the table changed in place."""
    frequencies = np.full(VOCABULARY, 1 / VOCABULARY, np.float32)
    objective = ngram_vectors.NgramVectors(frequencies.tobytes())
    text = lower_training(build("lstm", "ngram_vectors"), objective)
    assert "stablehlo.scatter" in text and "stablehlo.while" in text
    check_products(text, "float32")


@pytest.mark.parametrize(
    ("dtype", "bidirectional"), [("float32", False), ("bfloat16", True), ("tensorfloat32", True)]
)
def test_an_lstms_steps_lower(dtype, bidirectional):
    model = build("lstm", dtype=dtype, bidirectional=bidirectional)
    for length in (8, 25):  # a part of an unrolled loop's body, and two and a half
        check_products(lower_training(model, length=length), dtype)
    check_products(lower_evaluation(model), dtype)


@pytest.mark.parametrize("name", ["bert", "modernbert", "lstm"])
def test_attributions_lower(name):
    model = build(name)
    size = {"lstm": 12}.get(name, 32)
    word, nodes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, size), (ROWS,)))
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    towards = jax.ShapeDtypeStruct((), jnp.int32)
    text = lower(_slopes, model, abstract_params(model), Path(word, word, lengths), nodes, towards)
    check_products(text, "float32")


@pytest.mark.parametrize(("encoder", "kind"), [("rematerialized", "cudnn"), ("bert", "bfloat16")])
def test_a_batch_in_parts_lowers(encoder, kind):
    """One loop around the same products; cuDNN's calls are inside it once."""
    model = build_encoder(encoder, kind)
    whole, parts = (lower_training(model, parts=parts) for parts in (1, 2))
    assert parts.count("stablehlo.while") == whole.count("stablehlo.while") + 1
    assert calls(parts) == calls(whole)
    assert products(parts) == products(whole)


def test_programs_for_the_cpu_take_its_forms_beside_a_gpu():
    """Parameters are initialized there: cuDNN's calls would not lower."""
    assert layers.on_gpu()
    with layers.on_cpu():
        assert not layers.on_gpu()
    with jax.default_device("cpu"):
        assert not layers.on_gpu()


def test_a_gpus_step_counts_as_many_flops_as_a_cpus():
    """cuDNN's calls hide their products from the count."""
    models = (build_encoder("bert", kind) for kind in ("float32", "cudnn"))
    assert len({training_flops(model, Classification(), (ROWS, 8)) for model in models}) == 1
