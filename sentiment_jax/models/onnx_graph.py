"""The classifiers as ONNX graphs, from token ids and attention mask to logits, for any batch.

Each function here adds the nodes of one network, whose formulas are in the file beside this one;
tests compare the logits. The graphs are of the operators' set 20, and in float32.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sentiment_jax.config.schema import (
    AverageConfig,
    EncoderConfig,
    LstmConfig,
    ModelConfig,
    ModernBertConfig,
)
from sentiment_jax.errors import InputError

OPSET = 20  # the first with GELU
INPUTS = ("input_ids", "attention_mask")
FLOAT, INT32, BOOL = 1, 6, 9  # the numbers of types in ONNX
HEADS = {  # the first layer of an encoder's head, and its activation
    "bert": ("pooler", "Tanh"),
    "distilbert": ("pre_classifier", "Relu"),
    "electra": ("dense", "Gelu"),
    "roberta": ("dense", "Tanh"),
    "xlm-roberta": ("dense", "Tanh"),
    "modernbert": ("head_dense", "Gelu"),
}
LEAST = np.finfo(np.float32).min
Params = Mapping[str, Any]
# From a graph, a config, the parameters and the names of ids and mask to that of the logits.
Network = Callable[["Graph", Any, Params, str, str], str]


class Graph:
    """Nodes and constants of a graph: `graph.Add(x, 1.0)` adds a node and returns its output."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper  # late: only this export needs it

        self.make_node = helper.make_node
        self.to_tensor = numpy_helper.from_array
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __getattr__(self, operator: str) -> Callable[..., str]:
        """Return what adds a node of this operator; inputs that are no names become constants."""

        def add(*inputs: Any, **attributes: Any) -> str:
            names = [of if isinstance(of, str) else self.constant(of) for of in inputs]
            output = f"{operator}_{len(self.nodes)}"
            self.nodes.append(self.make_node(operator, names, [output], output, **attributes))
            return output

        return add

    def constant(self, value: Any) -> str:
        """Add a constant, in float32 or int64, and return its name."""
        array = np.asarray(value)
        array = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.to_tensor(array, name))
        return name


def make_graph(network: Network, config: ModelConfig, params: Params, classes: int) -> Any:
    """Return the ONNX model of a classifier; InputError: it is larger than such a file can be."""
    from onnx import TensorProto, helper  # late: only this export needs it

    if sum(of.nbytes for of in jax.tree.leaves(params)) >= 2**31:
        raise InputError("the parameters take 2 GB or more, which no single ONNX file can hold")
    graph = Graph()
    logits = network(graph, config, params, *INPUTS)
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    typed = helper.make_tensor_value_info
    made = helper.make_graph(
        graph.nodes,
        config.name,
        [typed(name, TensorProto.INT64, ["batch", "length"]) for name in INPUTS],
        [typed("logits", TensorProto.FLOAT, ["batch", classes])],
        graph.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=9)  # the first with the set
    # Shapes are known: onnxruntime's quantization need not advise to infer them first.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return model


def dense(graph: Graph, params: Params, inputs: str) -> str:
    """Add a dense layer."""
    product = graph.MatMul(inputs, params["kernel"])
    return graph.Add(product, params["bias"]) if "bias" in params else product


def layer_norm(graph: Graph, config: EncoderConfig, params: Params, inputs: str) -> str:
    """Add a layer normalization."""
    parameters = [params[name] for name in ("scale", "bias") if name in params]
    return graph.LayerNormalization(inputs, *parameters, epsilon=config.layer_norm_eps)


def embed(graph: Graph, config: EncoderConfig, params: Params, ids: str) -> str:
    """Add the embeddings, normalized and projected."""
    hidden = graph.Gather(params["word_embeddings"]["embedding"], ids)
    if config.position_embeddings:
        table = np.asarray(params["position_embeddings"]["embedding"])[config.first_position :]
        if config.type_vocab_size:  # all tokens are of type 0
            table = table + np.asarray(params["token_type_embeddings"]["embedding"])[0]
        hidden = graph.Add(hidden, graph.Slice(table, [0], graph.Shape(ids, start=1, end=2)))
    hidden = layer_norm(graph, config, params["layer_norm"], hidden)
    return dense(graph, params["projection"], hidden) if "projection" in params else hidden


def heads(graph: Graph, config: EncoderConfig, states: str) -> str:
    """Split states [batch, length, hidden] into [batch, heads, length, size]."""
    split = graph.Reshape(states, [0, 0, config.num_attention_heads, -1])
    return graph.Transpose(split, perm=[0, 2, 1, 3])


def attend(graph: Graph, config: EncoderConfig, query: str, key: str, value: str, mask: str) -> str:
    """Add attention of heads to the keys in `mask`; return states [batch, length, hidden]."""
    size = config.hidden_size // config.num_attention_heads
    scores = graph.MatMul(query, graph.Transpose(key, perm=[0, 1, 3, 2]))
    scores = graph.Where(mask, graph.Div(scores, math.sqrt(size)), LEAST)
    context = graph.MatMul(graph.Softmax(scores, axis=-1), value)
    return graph.Reshape(graph.Transpose(context, perm=[0, 2, 1, 3]), [0, 0, config.hidden_size])


def keys_of(graph: Graph, mask: str) -> str:
    """Return the attention mask as truth values [batch, 1, 1, length]."""
    return graph.Unsqueeze(graph.Cast(mask, to=BOOL), [1, 2])


def first_states(graph: Graph, states: str) -> str:
    """Return the states of the first tokens, [batch, 1, hidden]."""
    return graph.Slice(states, [0], [1], [1])


def classify(
    graph: Graph, config: EncoderConfig, params: Params, states: Sequence[str], mask: str
) -> str:
    """Add the mean of the highest layers' states, pooling, the head if any, the last layer."""
    highest = graph.Mean(*states[-1 if config.pooling == "head" else -config.pooled_layers :])
    if isinstance(config, ModernBertConfig):
        highest = layer_norm(graph, config, params["encoder"]["norm"], highest)
    how = config.pooling
    if isinstance(config, ModernBertConfig) and how == "head":
        how = config.classifier_pooling
    if how == "mean":
        valid = graph.Unsqueeze(graph.Cast(mask, to=FLOAT), [2])
        total = graph.ReduceSum(graph.Mul(highest, valid), [1], keepdims=0)
        pooled = graph.Div(total, graph.ReduceSum(valid, [1], keepdims=0))
    else:
        pooled = graph.Squeeze(first_states(graph, highest), [1])
    last = params["classifier"]
    if config.pooling == "head":
        parts = {**params, **last}  # ELECTRA's and RoBERTa's classifier has both layers
        first, activation = HEADS[config.name]
        pooled = getattr(graph, activation)(dense(graph, parts[first], pooled))
        if "head_norm" in params:
            pooled = layer_norm(graph, config, params["head_norm"], pooled)
        last = parts.get("out_proj", last)
    return dense(graph, last, pooled)


def encoder(graph: Graph, config: EncoderConfig, params: Params, ids: str, mask: str) -> str:
    """Add a post-layer-norm encoder."""
    norm = functools.partial(layer_norm, graph, config)
    project = functools.partial(dense, graph)
    hidden = embed(graph, config, params["embeddings"], ids)
    keys = keys_of(graph, mask)
    states = []
    for i in range(config.num_hidden_layers):
        layer = params["encoder"][f"layer_{i}"]
        parts = layer["attention"]
        last = i == config.num_hidden_layers - 1
        queries = first_states(graph, hidden) if last and config.pooling != "mean" else hidden
        query, key, value = (
            heads(graph, config, project(parts[name], of))
            for name, of in (("query", queries), ("key", hidden), ("value", hidden))
        )
        context = attend(graph, config, query, key, value, keys)
        attended = graph.Add(queries, project(parts["output"], context))
        attended = norm(layer["attention_norm"], attended)
        inner = graph.Gelu(project(layer["intermediate"], attended))
        hidden = graph.Add(attended, project(layer["output"], inner))
        hidden = norm(layer["output_norm"], hidden)
        states.append(hidden if config.pooling == "mean" else first_states(graph, hidden))
    return classify(graph, config, params, states, mask)


def modernbert(graph: Graph, config: ModernBertConfig, params: Params, ids: str, mask: str) -> str:
    """Add ModernBERT; its local attention is a mask here."""
    norm = functools.partial(layer_norm, graph, config)
    size = config.hidden_size // config.num_attention_heads
    length = graph.Squeeze(graph.Shape(ids, start=1, end=2))
    positions = graph.Cast(graph.Range(0, length, 1), to=FLOAT)
    places = graph.Unsqueeze(positions, [1])
    distances = graph.Abs(graph.Sub(places, positions))
    keys = keys_of(graph, mask)
    near = graph.And(keys, graph.LessOrEqual(distances, float(config.local_attention // 2)))

    def angles(theta: float) -> tuple[str, str]:
        turned = graph.Mul(places, 1 / theta ** (np.arange(0, size, 2, dtype=np.float32) / size))
        return graph.Cos(turned), graph.Sin(turned)

    def rotate(states: str, cos: str, sin: str) -> str:
        first = graph.Slice(states, [0], [size // 2], [3])
        second = graph.Slice(states, [size // 2], [size], [3])
        left = graph.Sub(graph.Mul(first, cos), graph.Mul(second, sin))
        right = graph.Add(graph.Mul(second, cos), graph.Mul(first, sin))
        return graph.Concat(left, right, axis=-1)

    globally = (angles(config.global_rope_theta), keys)
    locally = (angles(config.local_rope_theta), near)
    hidden = embed(graph, config, params["embeddings"], ids)
    states = []
    for i in range(config.num_hidden_layers):
        layer = params["encoder"][f"layer_{i}"]
        turns, seen = locally if i % config.global_attn_every_n_layers else globally
        normed = norm(layer["attention_norm"], hidden) if i else hidden
        kernels = np.split(np.asarray(layer["qkv"]["kernel"]), 3, axis=1)
        query, key, value = (heads(graph, config, graph.MatMul(normed, of)) for of in kernels)
        query = rotate(query, *turns)
        context = attend(graph, config, query, rotate(key, *turns), value, seen)
        hidden = graph.Add(hidden, dense(graph, layer["attention_output"], context))
        normed = norm(layer["mlp_norm"], hidden)
        kernels = np.split(np.asarray(layer["intermediate"]["kernel"]), 2, axis=1)
        activated, gate = (graph.MatMul(normed, of) for of in kernels)
        gated = graph.Mul(graph.Gelu(activated), gate)
        hidden = graph.Add(hidden, dense(graph, layer["output"], gated))
        states.append(hidden)
    return classify(graph, config, params, states, mask)


def lengths_of(graph: Graph, mask: str) -> str:
    """Return the number of tokens of each text, at least one."""
    return graph.Max(graph.ReduceSum(mask, [1], keepdims=0), 1)


def lstm(graph: Graph, config: LstmConfig, params: Params, ids: str, mask: str) -> str:
    """Add an LSTM; ONNX has the gates in the order i, o, f, g."""
    directions = ("forward", "backward") if config.bidirectional else ("forward",)
    cells = [params[direction]["cell"] for direction in directions]
    size = config.hidden_size

    def join(side: str, leaf: str) -> Any:
        each = [[np.asarray(cell[side + of][leaf]).T for of in "iofg"] for cell in cells]
        return np.stack([np.concatenate(of) for of in each])

    lengths = lengths_of(graph, mask)
    # Rows are cut into segments, padded; a segment of padding alone is read, and never pooled.
    length = graph.Shape(ids, start=1, end=2)
    segment = graph.Reshape(config.segment_length or length, [1])
    padding = graph.Mod(graph.Neg(length), segment)
    padded = graph.Pad(ids, graph.Concat([0, 0, 0], padding, axis=0))
    segments = graph.Reshape(padded, graph.Concat([-1], segment, axis=0))
    embedded = graph.Gather(
        params["embedding"]["embedding"], graph.Transpose(segments, perm=[1, 0])
    )
    last = graph.Squeeze(graph.Add(length, padding))
    starts = graph.Range(0, last, graph.Squeeze(segment))
    left = graph.Sub(graph.Unsqueeze(lengths, [1]), starts)
    within = graph.Reshape(graph.Min(graph.Max(left, 1), segment), [-1])
    biases = join("h", "bias")
    states = graph.LSTM(
        embedded,
        join("i", "kernel"),
        join("h", "kernel"),
        np.concatenate([np.zeros_like(biases), biases], axis=1),
        graph.Cast(within, to=INT32),
        direction="bidirectional" if config.bidirectional else "forward",
        hidden_size=size,
    )
    states = graph.Reshape(
        graph.Transpose(states, perm=[2, 0, 1, 3]),
        graph.Concat(graph.Shape(ids, start=0, end=1), [-1, size * len(cells)], axis=0),
    )
    pooled = pool_words(graph, config, states, lengths, segment)
    hidden = graph.Relu(dense(graph, params["dense"], pooled))
    return dense(graph, params["classifier"], hidden)


def pool_words(graph: Graph, config: LstmConfig, states: str, lengths: str, segment: str) -> str:
    """Pool the states of each text's words, [batch, length, hidden of each direction]."""
    size = config.hidden_size
    positions = graph.Range(0, graph.Squeeze(graph.Shape(states, start=1, end=2)), 1)
    valid = graph.Less(positions, graph.Unsqueeze(lengths, [1]))
    valid = graph.Unsqueeze(valid, [2])
    final = graph.Sub(lengths, 1)
    ends = [final]
    if config.bidirectional:  # backwards, the last word read is the first of the last segment
        ends.append(graph.Mul(graph.Div(final, segment), segment))
    pooled = []
    for i, end in enumerate(ends):
        of = graph.Slice(states, [size * i], [size * (i + 1)], [2])
        if config.pooling == "last":
            pooled.append(graph.GatherND(of, graph.Unsqueeze(end, [1]), batch_dims=1))
        if "mean" in config.pooling:
            total = graph.ReduceSum(graph.Where(valid, of, 0.0), [1], keepdims=0)
            count = graph.Unsqueeze(graph.Cast(lengths, to=FLOAT), [1])
            pooled.append(graph.Div(total, count))
        if "max" in config.pooling:
            pooled.append(graph.ReduceMax(graph.Where(valid, of, LEAST), [1], keepdims=0))
    return graph.Concat(*pooled, axis=1)


def average(graph: Graph, config: AverageConfig, params: Params, ids: str, mask: str) -> str:
    """Add the sum of the words' vectors by the root of their number, and the last layer."""
    vectors = graph.Gather(params["embedding"]["embedding"], ids)
    valid = graph.Unsqueeze(graph.Cast(mask, to=FLOAT), [2])
    total = graph.ReduceSum(graph.Mul(vectors, valid), [1], keepdims=0)
    root = graph.Sqrt(graph.Cast(lengths_of(graph, mask), to=FLOAT))
    return dense(graph, params["classifier"], graph.Div(total, graph.Unsqueeze(root, [1])))
