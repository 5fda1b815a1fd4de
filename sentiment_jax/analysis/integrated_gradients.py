"""Attribute a prediction to its words by integrated gradients, for `--mode=predict --explain`.

Sundararajan et al. (2017), https://arxiv.org/abs/1703.01365: the gradient of a class's log-odds
with respect to the word embeddings, integrated from a baseline to the text. In the baseline, zero
vectors replace the words; positions, [CLS] and [SEP] stay. An encoder may be sure of a class there:
its baseline is the first of a line of embeddings where it is not. Completeness: the attributions
sum to the difference in log-odds between the text and the baseline. A linear model's are exact, by
its weights.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.data.encoding import truncate
from sentiment_jax.data.ngrams import locate_ngrams
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import framing, special_tokens, unknown_id
from sentiment_jax.models import linear
from sentiment_jax.models.outputs import SOFTMAX, Softmax
from sentiment_jax.models.registry import ARCHITECTURES
from sentiment_jax.training.trained_model import TrainedModel

WORD_EMBEDDINGS = ("embedding", "word_embeddings")  # their names in models/
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)  # Gauss-Legendre quadrature on [-1, 1]
GRID = np.linspace(0, 1, len(NODES), dtype=np.float32)
SURE = 1.0  # nats of log-odds; a baseline that is nearer to neutral stays where it is
INTERVALS = (4, 8, 16, 32, 64, 128, 256)  # of the path, until the attributions are complete


class Word(NamedTuple):
    """A word that the model read, its position in the text and its attribution in nats."""

    start: int
    end: int
    attribution: float
    known: bool


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The attributions of one prediction; positive log-odds (in nats) support the class."""

    text: str
    words: tuple[Word, ...]
    log_odds: float
    empty_log_odds: float  # of the baseline
    gap: float  # the sum of the attributions minus the difference in log-odds

    @property
    def complete(self) -> bool:
        """Whether the attributions sum to the difference in log-odds within 1 %."""
        return abs(self.gap) <= _tolerance(self.log_odds - self.empty_log_odds)


class Path(NamedTuple):
    """The straight line from the baseline's embeddings to a padded text's."""

    start: Float[Array, "1 length embedding"]
    end: Float[Array, "1 length embedding"]
    lengths: Int[Array | np.ndarray, " 1"]  # tokens without padding


def _tolerance(difference: float) -> float:
    """Return the allowed error of an integral: 1 %, or the float32 error of a small difference."""
    return max(0.01 * abs(difference), 1e-4)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _slopes(
    model: nn.Module,
    params: Any,
    path: Path,
    nodes: Float[Array, " rows"],
    towards: Int[Array, ""],
    output: Softmax = SOFTMAX,
) -> tuple[Float[Array, "rows length"], Float[Array, " rows"]]:
    """Return each token's slope of the log-odds at the nodes of a path, and the log-odds there."""
    points = path.start + nodes[:, None, None] * (path.end - path.start)
    lengths = jnp.broadcast_to(path.lengths, len(points))

    def sum_of_log_odds(points: Array) -> tuple[Array, Array]:
        logits: Any = model.apply({"params": params}, points, lengths, deterministic=True)
        log_odds = output.log_odds(logits, towards)
        return jnp.sum(log_odds), log_odds

    gradients, log_odds = jax.grad(sum_of_log_odds, has_aux=True)(points)
    return jnp.sum(gradients * (path.end - path.start), axis=2), log_odds


def attribute(
    model: nn.Module,
    params: Any,
    token_ids: Sequence[int] | Int32[np.ndarray, "tokens *lengths"],
    length: int,
    fixed: Sequence[int] = (),
    towards: int = 1,
    fillers: Sequence[int] = (),
    output: Softmax = SOFTMAX,
) -> tuple[Float32[np.ndarray, " tokens"], float, float]:
    """Return a text's attributions, and the log-odds of class `towards` of text and baseline.

    The model must compute in float32; it reads the text padded to `length`. The embeddings at the
    `fixed` positions, such as [CLS], stay in the baseline: their attribution is 0. If there are
    `fillers` and the model is SURE of the baseline, it moves from zero vectors towards the average
    embedding, or else a filler's, until the class is as probable as each other one, if it ever is.
    """
    count = len(token_ids)
    ids = np.zeros((1, length, *np.shape(token_ids)[1:]), np.int32)
    ids[0, :count] = token_ids
    flat = traverse_util.flatten_dict(params)
    (table,) = (np.asarray(leaf) for name, leaf in flat.items() if name[-2:][0] in WORD_EMBEDDINGS)
    embed_positions = ARCHITECTURES[model.config.name].embed_positions
    end = embed_positions(jnp.asarray(table).__getitem__, jnp.asarray(ids))
    kept = np.zeros((length, 1), np.float32)
    kept[list(fixed)] = 1
    path = Path(end * kept, end, np.array([count], np.int32))

    def slopes(path: Path, nodes: Any) -> tuple[np.ndarray, np.ndarray]:
        of_tokens, log_odds = _slopes(model, params, path, nodes, towards, output)
        return np.asarray(of_tokens), np.asarray(log_odds)

    # Where the class is as probable as each other one, or the label as not having it.
    level = -np.log(output.outcomes(model.classes) - 1)
    if fillers and abs(slopes(path, GRID)[1][0] - level) > SURE:
        fills = [(1 - kept) * of for of in (table.mean(axis=0), *(table[i] for i in fillers))]
        path = _from_neutral(path, fills, lambda path: slopes(path, GRID)[1] > level)
    _, values = slopes(path, GRID)
    log_odds = float(values[-1])
    empty_log_odds = float(values[0])
    for intervals in INTERVALS:
        sums = np.zeros(length)
        for interval in range(intervals):
            nodes = (interval + (NODES + 1) / 2) / intervals
            at_nodes, _ = slopes(path, np.float32(nodes))
            sums += WEIGHTS / (2 * intervals) @ at_nodes
        gap = sums[:count].sum() - (log_odds - empty_log_odds)
        if abs(gap) <= _tolerance(log_odds - empty_log_odds):
            break
    return sums[:count].astype(np.float32), log_odds, empty_log_odds


def _from_neutral(
    path: Path,
    fills: Sequence[Float[np.ndarray, "length embedding"]],
    is_above: Callable[[Path], Bool[np.ndarray, " rows"]],
) -> Path:
    """Return a path from where `is_above` changes, on the way to one of the fills, if it does."""
    for fill in fills:
        line = Path(path.start, path.start + fill, path.lengths)
        for _ in range(4):  # each finds the part of the line where that is so
            above = is_above(line)
            if not (first := int(np.argmax(above != above[0]))):
                break  # nowhere
            low, high = (line.start + at * (line.end - line.start) for at in GRID[first - 1 :][:2])
            line = Path(low, high, path.lengths)
        else:
            return Path(line.end, path.end, path.lengths)
    return path


def explain(trained: TrainedModel, text: str, towards: int = 1) -> Explanation:
    """Attribute the log-odds of a class to the words of one raw text, in float32."""
    if trained.counts_ngrams:
        return _explain_ngrams(trained, text, towards)
    config = trained.model.config
    kernel = {"attention": "xla"} if isinstance(config, EncoderConfig) else {}
    model = trained.model.clone(config=dataclasses.replace(config, dtype="float32", **kernel))
    texts = Texts.from_texts([text])
    encoded = trained.encode(texts)
    (text,) = texts.texts
    ids = encoded.tokens.tolist()
    length = next(size for size in trained.buckets if size >= len(ids))
    before, after = framing(trained.tokenizer)
    fixed = (*range(len(before)), *range(len(ids) - len(after), len(ids)))
    fillers = [*special_tokens(trained.tokenizer).values()] if kernel else []
    attributions, log_odds, empty_log_odds = attribute(
        model, trained.params, encoded.token_ids, length, fixed, towards, fillers, trained.output
    )
    encoding = trained.tokenizer.encode(text, add_special_tokens=False)
    data = trained.config.data
    tokens = list(zip(encoding.word_ids, encoding.offsets, strict=True))
    tokens = truncate(tokens, data.max_length - len(before) - len(after), data.truncation)
    unknown = unknown_id(trained.tokenizer)
    # A blank text has no tokens, but one id.
    body = zip(tokens, ids[len(before) :], attributions[len(before) :], strict=False)
    words = []
    for _, group in itertools.groupby(body, key=lambda token: token[0][0]):
        pieces, piece_ids, pushes = zip(*group, strict=True)
        end = pieces[-1][1][1]
        start = end - len(text[pieces[0][1][0] : end].lstrip())  # byte-level: a space comes first
        words.append(Word(start, end, float(sum(pushes)), unknown not in piece_ids))
    gap = float(attributions.sum()) - (log_odds - empty_log_odds)
    return Explanation(text, tuple(words), log_odds, empty_log_odds, gap)


def _explain_ngrams(trained: TrainedModel, text: str, towards: int) -> Explanation:
    """Attribute the log-odds of a class against the rest to the words between spaces.

    They are linear in the n-grams: the part of each is shared evenly by the places where it occurs,
    and by the words that it covers there. Without words there is the bias.
    """
    texts = Texts.from_texts([text])
    (text,) = texts.texts
    tokens = trained.encode(texts).token_ids
    kernel = np.asarray(trained.params["kernel"][tokens[:, 0]], np.float64)
    bias = np.asarray(trained.params["bias"], np.float64)
    if trained.kind.is_binary(len(bias)):  # one's log-odds are half of it
        kernel = kernel - kernel[:, ::-1]
        bias = bias - bias[::-1]
    weights = np.asarray(linear.weigh(trained.params["idf"], jnp.asarray(tokens[None])))[0]
    parts = weights * kernel[:, towards]
    shares = dict(zip(tokens[:, 0].tolist(), parts / tokens[:, 1], strict=True))
    places = list(re.finditer(r"\S+", text))
    sums = np.zeros(len(places))
    known = np.zeros(len(places), bool)
    for ngram, covered in locate_ngrams(trained.tokenizer, text):
        np.add.at(sums, covered, shares[ngram] / len(covered))
        known[covered] = True
    words = [
        Word(place.start(), place.end(), float(attribution), bool(is_known))
        for place, attribution, is_known in zip(places, sums, known, strict=True)
    ]
    empty = float(bias[towards])
    log_odds = empty + float(parts.sum())
    return Explanation(text, tuple(words), log_odds, empty, float(sums.sum()) - (log_odds - empty))
