"""Every step that can run on a GPU lowers for CUDA where there is none.

Lowering is all that JAX does before XLA compiles. It refuses shapes and types that cuDNN's
attention does not take, and its text shows every product and library call.
"""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo  # asks the installed cuDNN for its version

from benchmarks import synthetic
from benchmarks.flops import training_flops
from sentiment_jax.analysis.integrated_gradients import Path, _slopes
from sentiment_jax.config.schema import DTYPES, OptimizerConfig
from sentiment_jax.models import layers
from sentiment_jax.models.registry import ARCHITECTURES, build_model
from sentiment_jax.training.objectives import ngram_vectors
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.masked_language_modeling import WORD, MaskedLanguageModeling
from sentiment_jax.training.objectives.replaced_token_detection import ReplacedTokenDetection
from sentiment_jax.training.parameters import abstract_params
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step

pytestmark = pytest.mark.slow  # half a minute in all; every commit runs it, on one Python

LAYERS = 2
ENCODER = {
    "hidden_size": 32,
    "embedding_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
}
KINDS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "cudnn": {"dtype": "bfloat16", "attention": "cudnn", "attention_dropout": 0.0},
}
# cuDNN's calls in a training step, forward and backward: the last layer has one query and takes the
# other path. Rematerialized, the forward pass runs twice.
CALLS = {False: (LAYERS - 1, LAYERS - 1), True: (2 * LAYERS - 2, LAYERS - 1)}
ROWS = 8
VOCABULARY = 61
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch):
    """Trace what a GPU would get, with a cuDNN new enough."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def build(name, objective="", **settings):
    """A small model; its vocabulary's size is that of no other test, whose traces are cached."""
    sizes = {"lstm": {"embedding_size": 12, "hidden_size": 8}, "ngrams": {"buckets": 50}}
    config = synthetic.model_config({"name": name, **sizes.get(name, ENCODER), **settings})
    return build_model(config, vocab_size=VOCABULARY, objective=objective)


def batch(length):
    return synthetic.abstract_batch(ROWS, length)


def lower(step, *arguments):
    return step.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def lower_training(model, length=8, parts=1, objective=None):
    """The text of a training step."""
    optimizer = OptimizerConfig(name="adamw")
    state = jax.eval_shape(lambda p: create_state(p, optimizer, 0), abstract_params(model))
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    if isinstance(objective, ngram_vectors.NgramVectors):
        step = ngram_vectors.make_train_step(objective)
    else:
        step = make_train_step(model, optimizer, objective or Classification(), parts)
    return lower(step, state, batch(length), rate)


def calls(text):
    """How often cuDNN's attention is called: forward, backward."""
    targets = collections.Counter(re.findall(r"@__cudnn\$fmhaSoftmax(\w*)", text))
    assert targets.keys() <= {"", "Backward"}
    return targets[""], targets["Backward"]


def dots(text):
    """The lines of all products."""
    return "\n".join(line for line in text.splitlines() if "stablehlo.dot_general" in line)


def products(text):
    """Of every product the types of its two operands, with their ranks, e.g. "f32[2]"."""
    for line in dots(text).splitlines():
        left, right, _ = re.findall(r"tensor<((?:\d+x)*)(\w+)>", line.rpartition(" : ")[2])
        yield " ".join(f"{dtype}[{shape.count('x')}]" for shape, dtype in (left, right))


def check_products(text, dtype):
    """A bfloat16 step has float32 products in the heads alone: of rows, not of tokens.

    A float32 product is one on a GPU too, unless TensorFloat-32 was asked for.
    """
    wide = [line for line in dots(text).splitlines() if "xf32>, " in line]
    exact = ["precision = [HIGHEST, HIGHEST]" in line for line in wide]
    assert exact == [dtype != "tensorfloat32"] * len(wide)
    found = collections.Counter(products(text))
    assert found
    wide = [pair for pair in found if "f32" in pair]
    if dtype == "bfloat16":
        assert wide == ["f32[2] f32[2]"] and found[wide[0]] <= 6  # two dense layers, each with
    else:  # two gradients
        assert wide == list(found)


@every_kind
@pytest.mark.parametrize(
    ("name", "remat"),
    [
        ("bert", False),
        ("bert", True),
        ("electra", False),
        ("distilbert", False),
        ("roberta", False),
    ],
)
def test_an_encoders_training_step_lowers(name, kind, remat):
    text = lower_training(build(name, **KINDS[kind], remat=remat))
    assert calls(text) == (CALLS[remat] if kind == "cudnn" else (0, 0))
    check_products(text, KINDS[kind]["dtype"])


@every_kind
def test_modernberts_training_step_lowers(kind):
    """Its global layer by cuDNN, the local ones in blocks: 24 tokens are three windows."""
    model = build("modernbert", local_attention=8, max_position_embeddings=24, **KINDS[kind])
    text = lower_training(model, length=24)
    assert calls(text) == ((1, 1) if kind == "cudnn" else (0, 0))
    check_products(text, KINDS[kind]["dtype"])


@every_kind
@pytest.mark.parametrize(
    ("name", "objective"), [("bert", MaskedLanguageModeling), ("electra", ReplacedTokenDetection)]
)
def test_a_pretraining_step_lowers(name, objective, kind):
    chooses = objective(bytes([WORD]) * VOCABULARY, mask=4, fraction=0.15)
    model = build(name, next(iter(ARCHITECTURES[name].pretraining)), **KINDS[kind])
    text = lower_training(model, objective=chooses)
    layers = {"bert": LAYERS, "electra": 2 * LAYERS}[name] if kind == "cudnn" else 0
    assert calls(text) == (layers, layers)  # two words are masked; an odd number takes another path


def test_a_pretraining_step_of_an_lstm_lowers():
    """Its own step: exact products, rows of the table changed in place."""
    frequencies = np.full(VOCABULARY, 1 / VOCABULARY, np.float32)
    objective = ngram_vectors.NgramVectors(frequencies.tobytes())
    text = lower_training(build("lstm", "ngram_vectors"), objective=objective)
    assert "stablehlo.scatter" in text and "stablehlo.while" in text
    wide = dots(text).splitlines()
    assert wide and all("precision = [HIGHEST, HIGHEST]" in line for line in wide)


def test_tensorfloat32_is_the_default_of_a_gpu():
    check_products(lower_training(build("bert", dtype="tensorfloat32")), "tensorfloat32")


def test_bfloat16_products_but_the_scores_are_written_in_bfloat16():
    text = lower_training(build("bert", **KINDS["bfloat16"]))
    results = collections.Counter(re.findall(r"xbf16>\) -> tensor<[\dx]*x(\w+)>", dots(text)))
    # a layer has six dense layers and two products of attention, each with two gradients
    assert results == {"bf16": LAYERS * 8 * 3 - LAYERS, "f32": LAYERS}


@every_kind
@pytest.mark.parametrize("name", ["bert", "electra"])
def test_an_encoders_evaluation_lowers(name, kind):
    model = build(name, **KINDS[kind])
    text = lower(make_eval_step(model), abstract_params(model), batch(8))
    assert calls(text) == (CALLS[False][0] if kind == "cudnn" else 0, 0)
    check_products(text, KINDS[kind]["dtype"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_lstms_steps_lower(dtype, bidirectional):
    model = build("lstm", dtype=dtype, bidirectional=bidirectional)
    for length in (8, 25):
        check_products(lower_training(model, length), dtype)
    text = lower(make_eval_step(model), abstract_params(model), batch(8))
    check_products(text, dtype)


@pytest.mark.parametrize("name", ["bert", "electra", "modernbert", "lstm", "ngrams"])
def test_attributions_lower(name):
    model = build(name)
    size = {"lstm": 12, "ngrams": 2}.get(name, 32)
    word, nodes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, size), (ROWS,)))
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    towards = jax.ShapeDtypeStruct((), jnp.int32)
    path = Path(word, word, lengths)
    text = lower(_slopes, model, abstract_params(model), path, nodes, towards)
    if name == "ngrams":  # weights are looked up and summed
        assert not dots(text)
    else:
        check_products(text, "float32")


@pytest.mark.parametrize(
    ("name", "kind"), [("bert", "cudnn"), ("bert", "bfloat16"), ("lstm", "float32")]
)
def test_a_batch_in_parts_lowers(name, kind):
    """One loop around the same products; cuDNN's calls are inside it once."""
    model = build(name, **KINDS[kind])
    whole, parts = (lower_training(model, parts=parts) for parts in (1, 2))
    assert parts.count("stablehlo.while") == whole.count("stablehlo.while") + 1
    assert calls(parts) == calls(whole) == (CALLS[False] if kind == "cudnn" else (0, 0))
    assert collections.Counter(products(parts)) == collections.Counter(products(whole))


def test_programs_for_the_cpu_take_its_forms_beside_a_gpu():
    """Parameters are initialized there: cuDNN's calls would not lower."""
    assert layers.on_gpu()
    with layers.on_cpu():
        assert not layers.on_gpu()
    with jax.default_device("cpu"):
        assert not layers.on_gpu()


@pytest.mark.parametrize("kind", ["bfloat16", "cudnn"])
def test_a_gpus_step_counts_as_many_flops_as_a_cpus(kind):
    """cuDNN's calls hide their products from the count."""
    expected = training_flops(build("bert"), Classification(), (ROWS, 8))
    assert training_flops(build("bert", **KINDS[kind]), Classification(), (ROWS, 8)) == expected
