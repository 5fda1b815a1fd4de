"""N-gram vectors: the embeddings of words and n-grams for an LSTM, learned by PV-DBOW.

The distributed bag of words of paragraph vectors (Le & Mikolov, 2014, arXiv:1405.4053), which
predicts n-grams too (Li et al., 2016, arXiv:1512.08183), with negative sampling and subsampling of
frequent words (Mikolov et al., 2013, arXiv:1310.4546).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from sentiment_jax.data.tokenization import special_tokens
from sentiment_jax.models.layers import product_precision
from sentiment_jax.runtime import devices
from sentiment_jax.training.objectives.masked_language_modeling import draw_rows
from sentiment_jax.training.objectives.objective import Batch

Table = Float[Array, "vocabulary embedding"]
Texts = Float[Array, "batch embedding"]  # paragraph vectors
Chosen = Bool[Array, "batch words"]

NOISE_SAMPLES = 4096  # that estimate the softmax over the vocabulary, for the perplexity
STEP_SUMS = ("loss", "correct", "examples", "gradients", "updates")

dot = functools.partial(jnp.einsum, precision=product_precision("float32"))


@dataclasses.dataclass(frozen=True)
class NgramVectors:
    """Learn a paragraph vector of each text that predicts the text's words and n-grams.

    A word or n-gram of frequency f is kept with probability min(1, sqrt(threshold / f)). Negative
    samples are drawn from the noise distribution: the 3/4 power of what is kept (Mikolov et al.: of
    all).

    A paragraph vector is no parameter: it is inferred whenever the text is read, in a pass over its
    words with their embeddings fixed. In a second pass both are updated by plain stochastic
    gradient descent, a few words of each text at a time. Only rows of the table for these words and
    for the negative samples change: a gradient for optax, as large as the table, would take most of
    an epoch's time.
    """

    frequencies: bytes  # float32, of each token id in the text; 0 for those never predicted
    negatives: int = 5
    threshold: float = 1e-4
    at_once: int = 8  # words of each text
    noise_samples: int = 512  # shared by all texts; at least two per text when embeddings move
    text_rate: float = 0.1  # learning rate of paragraph vectors
    most_at_once: int = 20  # occurrences of a word in an update, before its rate shrinks
    mesh: Mesh | None = None  # all its devices take every step: each holds the whole table

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, token_ids: Int[np.ndarray, "tokens *ngrams"], mesh: Mesh
    ) -> "NgramVectors":
        """Make the objective of a pre-training on a text."""
        counts = np.bincount(token_ids.ravel(), minlength=tokenizer.get_vocab_size())
        counts[[*special_tokens(tokenizer).values()]] = 0
        frequencies = (counts / np.maximum(counts.sum(), 1)).astype(np.float32)
        return cls(frequencies.tobytes(), mesh=mesh)

    def kept_and_noise(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each word's probability of being kept, and the noise distribution."""
        frequency = np.frombuffer(self.frequencies, np.float32).astype(np.float64)
        kept = np.sqrt(self.threshold / np.maximum(frequency, self.threshold)) * (frequency > 0)
        noise = (kept * frequency) ** 0.75
        return kept, noise / np.maximum(np.sum(noise), 1e-30)  # all words may be unknown

    def rate_factors(self, rows: int) -> np.ndarray:
        """Return each word's share of the learning rate in a batch of so many texts.

        Updates of a word add up: one that half the texts contain would overshoot.
        """
        kept, noise = self.kept_and_noise()
        left = kept * np.frombuffer(self.frequencies, np.float32)
        share = left / np.maximum(np.sum(left), 1e-30) + self.negatives * noise
        return np.minimum(1, self.most_at_once / np.maximum(rows * self.at_once * share, 1e-9))

    def sample_noise(self, key: Array, count: int) -> Int[Array, " samples"]:
        """Draw words from the noise distribution."""
        _, noise = self.kept_and_noise()
        places = jax.random.uniform(key, (count,))
        words = jnp.searchsorted(jnp.asarray(np.cumsum(noise), jnp.float32), places, side="right")
        return jnp.minimum(words, len(noise) - 1)

    def subsample(self, batch: Batch, key: Array) -> Chosen:
        """Return which of a batch's words and n-grams are kept, by row number and key."""
        probabilities, _ = self.kept_and_noise()
        kept = jnp.asarray(probabilities, jnp.float32)[batch["token_ids"]]
        drawn = draw_rows(key, batch["numbers"], kept.shape[1:])
        valid = (batch["weights"] > 0).reshape(-1, *[1] * (kept.ndim - 1))
        return ((drawn < kept) & valid).reshape(len(kept), -1)

    def held_out_half(self, batch: Batch, key: Array) -> Chosen:
        """Return which half of the words the paragraph vector of a held-out text has to predict.

        It is inferred from the other half. All that begins at one position is in one half.
        """
        rows, length = batch["token_ids"].shape[:2]
        half = draw_rows(key, batch["numbers"], (length,)) < 0.5
        return jnp.repeat(half, batch["token_ids"].size // (rows * length), axis=1)

    def loss(
        self,
        texts: Texts,
        words: Float[Array, "batch some embedding"],
        noise: Float[Array, "samples embedding"],
        present: Bool[Array, "batch some"],
    ) -> tuple[Float[Array, ""], Array]:
        """Return the negative-sampling loss in nats, and how many words score above 0.

        The noise samples are weighted as `negatives` for each word that is present.
        """
        scores = dot("be,bce->bc", texts, words)
        positive = jnp.sum(nn.softplus(-scores) * present)
        weights = self.negatives / len(noise) * jnp.sum(present, axis=1, keepdims=True)
        loss = positive + jnp.sum(nn.softplus(dot("be,oe->bo", texts, noise)) * weights)
        return loss, jnp.sum((scores > 0) & present)

    def descend(
        self,
        table: Table,
        texts: Texts,
        token_ids: Int[Array, "batch words"],
        kept: Chosen,
        key: Array,
        learning_rate: Array | None = None,
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Update paragraph vectors by the kept words and, given a rate, the words' embeddings.

        Return the table, the paragraph vectors and, given a rate, sums over the words, each taken
        before its update.
        """
        rows, places = kept.shape
        samples = self.noise_samples
        sums = {}
        if learning_rate is not None:
            samples = max(samples, 2 * rows)
            sums = {name: jnp.zeros(()) for name in STEP_SUMS}
        each = -(-jnp.sum(kept, axis=1) // self.at_once)  # updates of a row
        ids = _kept_first(token_ids, kept)

        def update(number: Array, carry: tuple[Array, Array, dict[str, Array]]) -> Any:
            table, texts, sums = carry
            columns = number + each[:, None] * jnp.arange(self.at_once)
            some = jnp.take_along_axis(ids, jnp.minimum(columns, places), axis=1)
            some = jnp.where(number < each[:, None], some, 0)
            noise = self.sample_noise(jax.random.fold_in(key, number), samples)
            differentiate = jax.value_and_grad(self.loss, (0, 1, 2), has_aux=True)
            (loss, correct), (of_texts, of_words, of_noise) = differentiate(
                texts, table[some], table[noise], some > 0
            )
            if learning_rate is not None:
                factors = jnp.asarray(self.rate_factors(rows), jnp.float32)
                gradients = jnp.concatenate([of_words.reshape(-1, of_words.shape[2]), of_noise])
                indices = jnp.concatenate([some.reshape(-1), noise])
                updates = learning_rate * factors[indices, None] * gradients
                table = table.at[indices].add(-updates)
                found = {
                    "loss": loss,
                    "correct": correct,
                    "examples": jnp.sum(some > 0),
                    "gradients": jnp.sum(gradients**2),
                    "updates": jnp.sum(updates**2),
                }
                sums = {name: sums[name] + found[name] for name in sums}
            return table, texts - self.text_rate * of_texts, sums

        return jax.lax.fori_loop(0, jnp.max(each), update, (table, texts, sums))

    def infer_texts(self, table: Table, batch: Batch, kept: Chosen, key: Array) -> Texts:
        """Infer paragraph vectors from the kept words: from small random ones, in one pass."""
        size = table.shape[1]
        small = (draw_rows(jax.random.key(0), batch["numbers"], (size,)) - 0.5) / size
        token_ids = batch["token_ids"].reshape(kept.shape)
        _, texts, _ = self.descend(table, small, token_ids, kept, key)
        return texts

    def train_step(
        self, state: Any, batch: Batch, learning_rate: Float[Array, ""]
    ) -> tuple[Any, dict[str, Array]]:
        """Return the steps.TrainState after the words of a batch were updated, and sums over them.

        Paragraph vectors are inferred from the words that they predict: the loss is lower than on
        held-out text.
        """
        key = jax.random.fold_in(state.key, state.step)
        if self.mesh is not None:
            batch = jax.lax.with_sharding_constraint(batch, devices.replicated(self.mesh))
        thinning, inferring, learning = jax.random.split(key, 3)
        table = state.params["embedding"]["embedding"]
        kept = self.subsample(batch, thinning)
        texts = self.infer_texts(table, batch, kept, inferring)
        token_ids = batch["token_ids"].reshape(kept.shape)
        table, _, sums = self.descend(table, texts, token_ids, kept, learning, learning_rate)
        sums["examples"] = jnp.maximum(sums["examples"], 1)  # all words may be unknown
        norms = {  # as if all updates were orthogonal
            "gradient_norm": jnp.sqrt(sums.pop("gradients")),
            "update_norm": jnp.sqrt(sums.pop("updates")),
        }
        params = {"embedding": {"embedding": table}}
        return state.replace(step=state.step + 1, params=params), sums | norms

    def __call__(
        self, model: nn.Module, params: Any, batch: Batch, key: Array, deterministic: bool = False
    ) -> dict[str, Array]:
        """Return the sums over one half of each text's words, predicted from the other half.

        Correct are those whose score is above 0: none where scores are all 0. The nats are those of
        the softmax over the vocabulary, whose sum a large sample estimates.
        """
        thinning, halving, inferring, sampling = jax.random.split(key, 4)
        table = params["embedding"]["embedding"]
        kept = self.subsample(batch, thinning)
        predicted = self.held_out_half(batch, halving)
        token_ids = batch["token_ids"].reshape(kept.shape)
        texts = self.infer_texts(table, batch, kept & ~predicted, inferring)
        scores = dot("be,bce->bc", texts, table[token_ids])
        noise_scores = dot("be,oe->bo", texts, table[self.sample_noise(sampling, NOISE_SAMPLES)])
        weights = (kept & predicted).astype(jnp.float32)
        noise_loss = self.negatives * jnp.mean(nn.softplus(noise_scores), axis=1, keepdims=True)
        _, noise = self.kept_and_noise()
        log_noise = jnp.asarray(np.log(noise + 1e-30), jnp.float32)
        losses = sampled_losses(scores, noise_scores) - log_noise[token_ids]
        total = jnp.maximum(jnp.sum(weights), 1e-6)
        return {
            "loss": jnp.sum((nn.softplus(-scores) + noise_loss) * weights),
            "correct": jnp.sum((scores > 0) * weights),
            "examples": total,
            "nats": jnp.sum(losses * weights),
            "predictions": total,
        }

    @staticmethod
    def mean_loss(sums: Mapping[str, float]) -> float:
        """Return the loss per predicted word: 6 log 2 where all scores are 0, with 5 negatives."""
        return sums["loss"] / sums["examples"]


@functools.lru_cache(maxsize=8)
def make_train_step(objective: NgramVectors) -> Wrapped:
    """Return the jitted train_step: the parallel of steps.make_train_step."""
    return jax.jit(objective.train_step, donate_argnums=0)


def sampled_losses(
    targets: Float[Array, "*rows targets"], noise: Float[Array, "*rows samples"]
) -> Float[Array, "*rows targets"]:
    """Return each target's cross-entropy in nats over the vocabulary, less the log of its noise.

    Both are scores: log-odds against the noise distribution (Jean et al., 2015,
    https://arxiv.org/abs/1412.2007). The target counts as one of the samples.
    """
    total = jax.nn.logsumexp(noise, axis=-1, keepdims=True)
    return jnp.logaddexp(total, targets) - targets - math.log(noise.shape[-1] + 1)


def _kept_first(
    token_ids: Int[Array, "batch words"], kept: Chosen
) -> Int[Array, "batch words_and_one"]:
    """Return rows that begin with their kept words; zeros follow."""
    rows, places = kept.shape
    order = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, places)
    ids = jnp.zeros((rows, places + 1), jnp.int32)
    return ids.at[jnp.arange(rows)[:, None], order].set(jnp.where(kept, token_ids, 0))
