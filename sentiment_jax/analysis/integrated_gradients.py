"""`--mode=predict --explain`: which words pushed the verdict, by integrated gradients.

Sundararajan et al. (2017), https://arxiv.org/abs/1703.01365, on the word embeddings: the gradient
of a class's log-odds, integrated from a text whose words mean nothing (zero vectors;
positions, [CLS] and [SEP] stay) to the text. Completeness: a text's attributions sum to the
difference of its log-odds to those of the empty text.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Float32, Int, Int32

from sentiment_jax.data import batches
from sentiment_jax.data.encoding import truncate
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.models.layers import embed_positions
from sentiment_jax.models.registry import build_model
from sentiment_jax.training.trained_model import TrainedModel

WORD_EMBEDDINGS = ("embedding", "word_embeddings")  # their names in models/
# Gauss-Legendre on [0, 1], exact for polynomials; with an interval's end, eight.
NODES, WEIGHTS = (np.polynomial.legendre.leggauss(7) + np.array([[1], [0]])) / 2
FIRST_PARTS, MOST_PARTS = 4, 256


class Word(NamedTuple):
    """A word that the model read: its place in the text and its push towards the class (nats)."""

    start: int
    end: int
    attribution: float
    known: bool


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One verdict taken apart; log-odds in nats, positive ones speak for the class."""

    text: str
    words: tuple[Word, ...]
    log_odds: float
    empty_log_odds: float
    gap: float  # attributions minus the difference of the log-odds: the error of the integral

    @property
    def complete(self) -> bool:
        """Whether the attributions sum to the difference of the log-odds within 1 %."""
        return abs(self.gap) <= _allowed_gap(self.log_odds - self.empty_log_odds)


def _allowed_gap(difference: float) -> float:
    """Return the error that an integral may have: 1 %, or what float32 leaves of a small one."""
    return max(0.01 * abs(difference), 1e-4)


@functools.partial(jax.jit, static_argnums=0)
def _integrate(
    model: nn.Module,
    params: Any,
    start: Float[Array, "1 length embedding"],
    end: Float[Array, "1 length embedding"],
    lengths: Int[Array, " 1"],
    nodes: Float[Array, " rows"],
    weights: Float[Array, " rows"],
    towards: Int[Array, ""],
) -> tuple[Float[Array, " length"], Float[Array, " rows"]]:
    """Return the weighted sum of the gradients at the nodes of the path, and the log-odds there."""
    points = start + nodes[:, None, None] * (end - start)
    rows, length, size = points.shape
    ids = jnp.arange(rows * length).reshape(rows, length)  # of a table of all points' vectors

    def weighted_sum(points: Array) -> tuple[Array, Array]:
        def substitute(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            embeds = isinstance(module, nn.Embed) and module.name in WORD_EMBEDDINGS
            if embeds and context.method_name == "__call__":
                return points.reshape(-1, size)[args[0]]
            return next_function(*args, **kwargs)

        with nn.intercept_methods(substitute):
            repeated = jnp.broadcast_to(lengths, rows)
            logits: Any = model.apply({"params": params}, ids, repeated, deterministic=True)
        others = jnp.where(jnp.arange(logits.shape[1]) == towards, -jnp.inf, logits)
        values = logits[:, towards] - jax.nn.logsumexp(others, axis=1)
        return jnp.sum(values * weights), values

    gradients, values = jax.grad(weighted_sum, has_aux=True)(points)
    return jnp.sum(gradients * (end - start), axis=(0, 2)), values


def attribute(
    model: nn.Module,
    params: Any,
    token_ids: Sequence[int] | Int32[np.ndarray, "tokens *lengths"],
    length: int,
    fixed: Sequence[int] = (),
    towards: int = 1,
) -> tuple[Float32[np.ndarray, " tokens"], float, float]:
    """Return attributions, log-odds (of class `towards`) of one text and of the empty one.

    The model must compute in float32; it reads the text padded to `length`. The embeddings at the
    `fixed` positions, such as [CLS], stay: their attribution is 0. The path is cut where it is
    least complete until the whole is: a kink (ReLU, maximum, saturated gate) costs points around it
    alone.
    """
    count = len(token_ids)
    ids = np.zeros((1, length, *np.shape(token_ids)[1:]), np.int32)
    ids[0, :count] = token_ids
    flat = traverse_util.flatten_dict(params)
    (table,) = (flat[path] for path in flat if path[-2] in WORD_EMBEDDINGS)
    end = embed_positions(jnp.asarray(table).__getitem__, jnp.asarray(ids))
    kept = np.zeros((length, 1), np.float32)
    kept[list(fixed)] = 1
    lengths = np.array([count], np.int32)
    integrate = functools.partial(_integrate, model, params, end * kept, end, lengths)
    nowhere = np.zeros(len(NODES) + 1, np.float32)
    log_odds = {0.0: float(integrate(nowhere, nowhere, towards)[1][0])}  # along the path
    # Part of the path -> (its gap, its part of the integral).
    parts: dict[tuple[float, float], tuple[float, np.ndarray]] = {}

    def add(low: float, high: float) -> None:
        nodes = np.append(low + (high - low) * NODES, high)
        weights = np.append((high - low) * WEIGHTS, 0)
        sums, values = integrate(np.float32(nodes), np.float32(weights), towards)
        log_odds[high] = float(values[-1])
        sums = np.asarray(sums, np.float64)[:count]
        parts[low, high] = abs(float(sums.sum()) - (log_odds[high] - log_odds[low])), sums

    for part in range(FIRST_PARTS):
        add(part / FIRST_PARTS, (part + 1) / FIRST_PARTS)
    whole, empty = log_odds[1.0], log_odds[0.0]
    allowed = _allowed_gap(whole - empty)
    while len(parts) < MOST_PARTS and sum(gap for gap, _ in parts.values()) > allowed:
        low, high = worst = max(parts, key=lambda part: parts[part][0])
        del parts[worst]
        add(low, (low + high) / 2)
        add((low + high) / 2, high)
    return np.asarray(sum(sums for _, sums in parts.values()), np.float32), whole, empty


def explain(trained: TrainedModel, text: str, towards: int = 1) -> Explanation:
    """Attribute a class's log-odds to the words of one raw text, in float32 whatever the dtype."""
    settings = trained.config.model.to_dict() | {"dtype": "float32"}
    if "attention" in settings:
        settings["attention"] = "xla"
    tokenizer, data = trained.tokenizer, trained.config.data
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "classes": len(trained.classes)}
    model = build_model(settings, **sizes)
    reviews = Reviews.from_texts([text])
    encoded = trained.encode(reviews)
    (text,), ids = reviews.texts, encoded.tokens.tolist()
    framed = None not in (tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]"))
    buckets = batches.effective_buckets(data.length_buckets, data.max_length)
    (planned,) = batches.plan_evaluation(encoded.lengths, batch_size=1, buckets=buckets)
    fixed = (0, len(ids) - 1) if framed else ()
    where = planned.length, fixed, towards
    attributions, whole, empty = attribute(model, trained.params, encoded.token_ids, *where)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    tokens = list(zip(encoding.word_ids, encoding.offsets, strict=True))
    tokens = truncate(tokens, data.max_length - 2 * framed, data.truncation)
    unknown = tokenizer.token_to_id("[UNK]")
    body = zip(tokens, ids[framed:], attributions[framed:], strict=False)  # a blank text has none
    words = []
    for _, group in itertools.groupby(body, key=lambda token: token[0][0]):
        places, token_ids, pushes = zip(*group, strict=True)
        start, end = places[0][1][0], places[-1][1][1]
        words.append(Word(start, end, float(sum(pushes)), unknown not in token_ids))
    gap = float(attributions.sum()) - (whole - empty)
    return Explanation(text, tuple(words), whole, empty, gap)
