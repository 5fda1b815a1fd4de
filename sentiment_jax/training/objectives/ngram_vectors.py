"""What an experiment minimizes: classification, or its architecture's objective of pre-training.

Masked words are BERT's (Devlin et al., 2019, and whole words as in its later release), replaced
tokens ELECTRA's (Clark et al., 2020). An LSTM's vectors, of words and runs, tell what is in a text
by a vector of the text (the distributed bag of words of Le & Mikolov, 2014,
https://arxiv.org/abs/1405.4053; with runs, Li et al., 2016, https://arxiv.org/abs/1512.08183).
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
from jaxtyping import Array, Bool, Float, Int

from sentiment_jax.models.layers import product_precision
from sentiment_jax.runtime import devices
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives.masked_language_modeling import SPECIAL, draw_rows

DRAWN = 4096  # words, that stand for all in the perplexity of an LSTM's vectors


dot = functools.partial(jnp.einsum, precision=product_precision("float32"))


@dataclasses.dataclass(frozen=True)
class NgramVectors:
    """Find a vector for each text that tells its words and runs of words from drawn ones.

    Each is a yes or no (negative sampling, Mikolov et al., 2013), `negatives` drawn ones beside one
    of the text. Frequent ones are thinned out as there: of frequency f, sqrt(threshold / f) are
    kept, if that is less than 1. Drawn ones go by the 3/4 power of what is kept (there: of all).

    A text's vector is no parameter: it is found anew whenever the text is read, in a pass over its
    words with their vectors held. In a second pass both move, by plain gradient descent, a few of
    each text's words at a time: only rows of these and of the drawn ones change. So rare words move
    little, and an epoch takes no more time than its words, where a gradient for optax, as large as
    the table, would take most of it.
    """

    frequencies: bytes  # float32, of each token id in the text; 0 for those never predicted
    negatives: int = 5
    threshold: float = 1e-4
    at_once: int = 8  # words of each text
    drawn: int = 512  # at a time, for all texts; two for each of them that words move by, if more
    text_rate: float = 0.1  # of the descent of a text's vector
    most_at_once: int = 20  # times that a word is told before it moves less each time
    mesh: Mesh | None = None  # whose devices all take every step: the table's rows are everywhere

    @classmethod
    def of(cls, experiment: Experiment) -> "NgramVectors":
        """Make it for a pre-training, by its text."""
        tokenizer, ids = experiment.tokenizer, experiment.encoded["train"].token_ids.ravel()
        counts = np.bincount(ids, minlength=tokenizer.get_vocab_size())
        counts[[i for token in SPECIAL if (i := tokenizer.token_to_id(token)) is not None]] = 0
        frequencies = (counts / np.maximum(counts.sum(), 1)).astype(np.float32)
        return cls(frequencies.tobytes(), mesh=experiment.mesh)

    def kept_and_noise(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of each word's places that are left, and how often it is drawn."""
        frequency = np.frombuffer(self.frequencies, np.float32).astype(np.float64)
        kept = np.sqrt(self.threshold / np.maximum(frequency, self.threshold)) * (frequency > 0)
        noise = (kept * frequency) ** 0.75
        return kept, noise / np.maximum(np.sum(noise), 1e-30)  # a text may have unknown words alone

    def rate_factors(self, rows: int) -> np.ndarray:
        """Return how far each word moves, as a share of the learning rate, with so many texts.

        Moves add up: a word that half the texts have, as in a small vocabulary, would overshoot.
        """
        kept, noise = self.kept_and_noise()
        left = kept * np.frombuffer(self.frequencies, np.float32)
        told = left / np.maximum(np.sum(left), 1e-30) + self.negatives * noise
        return np.minimum(1, self.most_at_once / np.maximum(rows * self.at_once * told, 1e-9))

    def draw(self, key: Array, count: int) -> Int[Array, " drawn"]:
        """Draw words by their noise."""
        noise = self.kept_and_noise()[1]
        places = jax.random.uniform(key, (count,))
        words = jnp.searchsorted(jnp.asarray(np.cumsum(noise), jnp.float32), places, side="right")
        return jnp.minimum(words, len(noise) - 1)

    def thin(self, batch: dict[str, Array], key: Array) -> Bool[Array, "batch words"]:
        """Return which of a batch's words and runs are kept, as row number and key decide."""
        kept = jnp.asarray(self.kept_and_noise()[0], jnp.float32)[batch["token_ids"]]
        drawn = draw_rows(key, batch["labels"], kept.shape[1:])
        kept = (drawn < kept) & (batch["weights"] > 0).reshape(-1, *[1] * (kept.ndim - 1))
        return kept.reshape(len(kept), -1)

    def told(self, batch: dict[str, Array], key: Array) -> Bool[Array, "batch words"]:
        """Return which half of the words a held-out text's vector has to tell, not come from.

        What begins at one position is in one half; a run that is read may hold words that are told.
        """
        rows, length = batch["token_ids"].shape[:2]
        half = draw_rows(key, batch["labels"], (length,)) < 0.5
        return jnp.repeat(half, batch["token_ids"].size // (rows * length), axis=1)

    def loss(
        self,
        texts: Float[Array, "batch embedding"],
        words: Float[Array, "batch some embedding"],
        others: Float[Array, "drawn embedding"],
        present: Bool[Array, "batch some"],
    ) -> tuple[Float[Array, ""], Array]:
        """Return the nats of telling what is present, and `negatives` others each; those told."""
        of_words = dot("be,bce->bc", texts, words)
        told = jnp.sum(nn.softplus(-of_words) * present)
        weights = self.negatives / len(others) * jnp.sum(present, axis=1, keepdims=True)
        loss = told + jnp.sum(nn.softplus(dot("be,oe->bo", texts, others)) * weights)
        return loss, jnp.sum((of_words > 0) & present)

    def read(
        self,
        table: Float[Array, "vocabulary embedding"],
        texts: Float[Array, "batch embedding"],
        token_ids: Int[Array, "batch words"],
        kept: Bool[Array, "batch words"],
        key: Array,
        learning_rate: Array | None = None,
    ) -> tuple[Array, Array, dict[str, Array]]:
        """Move the texts' vectors by what is kept of their words and, at a rate, the words' too.

        Returns:
          The table, the vectors and, at a rate, sums over the words, as they are told before each
          move.
        """
        rows, places = kept.shape
        drawn = self.drawn if learning_rate is None else max(self.drawn, 2 * rows)
        each = -(-jnp.sum(kept, axis=1) // self.at_once)  # times that a row is looked at
        order = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, places)
        ids = jnp.zeros((rows, places + 1), jnp.int32)  # what is kept of a row comes first
        ids = ids.at[jnp.arange(rows)[:, None], order].set(jnp.where(kept, token_ids, 0))

        def look(number: Array, carry: tuple[Array, Array, dict[str, Array]]) -> Any:
            table, texts, sums = carry
            columns = number + each[:, None] * jnp.arange(self.at_once)
            some = jnp.take_along_axis(ids, jnp.minimum(columns, places), axis=1)
            some = jnp.where(number < each[:, None], some, 0)
            others = self.draw(jax.random.fold_in(key, number), drawn)
            differentiate = jax.value_and_grad(self.loss, (0, 1, 2), has_aux=True)
            told, (of_texts, of_words, of_others) = differentiate(
                texts, table[some], table[others], some > 0
            )
            if learning_rate is not None:
                factors = jnp.asarray(self.rate_factors(rows), jnp.float32)
                gradients = jnp.concatenate([of_words.reshape(-1, of_words.shape[2]), of_others])
                indices = jnp.concatenate([some.reshape(-1), others])
                updates = learning_rate * factors[indices, None] * gradients
                table = table.at[indices].add(-updates)
                found = dict(zip(("loss", "correct"), told, strict=True))
                found |= {"examples": jnp.sum(some > 0)}
                found |= {"gradients": jnp.sum(gradients**2), "updates": jnp.sum(updates**2)}
                sums = {name: sums[name] + found[name] for name in sums}
            return table, texts - self.text_rate * of_texts, sums

        names = ("loss", "correct", "examples", "gradients", "updates")
        sums = {} if learning_rate is None else {name: jnp.zeros(()) for name in names}
        return jax.lax.fori_loop(0, jnp.max(each), look, (table, texts, sums))

    def find_texts(
        self,
        table: Float[Array, "vocabulary embedding"],
        batch: dict[str, Array],
        kept: Bool[Array, "batch words"],
        key: Array,
    ) -> Float[Array, "batch embedding"]:
        """Return vectors of texts by what is kept of their words: from small ones, in one pass."""
        size = table.shape[1]
        small = (draw_rows(jax.random.key(0), batch["labels"], (size,)) - 0.5) / size
        token_ids = batch["token_ids"].reshape(kept.shape)
        return self.read(table, small, token_ids, kept, key)[1]

    def descend(
        self, params: Any, batch: dict[str, Array], key: Array, learning_rate: Array
    ) -> tuple[Any, dict[str, Array]]:
        """Return parameters after the words of a batch have moved, and sums over them.

        Texts' vectors come from the words that they tell: the loss is lower than on held-out ones.
        """
        if self.mesh is not None:
            batch = devices.replicate(batch, self.mesh)
        thinning, finding, learning = jax.random.split(key, 3)
        kept, table = self.thin(batch, thinning), params["embedding"]["embedding"]
        texts = self.find_texts(table, batch, kept, finding)
        token_ids = batch["token_ids"].reshape(kept.shape)
        table, _, sums = self.read(table, texts, token_ids, kept, learning, learning_rate)
        sums["examples"] = jnp.maximum(sums["examples"], 1)  # texts of unknown words have none
        norms = {  # as if all moves were at right angles
            "gradient_norm": jnp.sqrt(sums.pop("gradients")),
            "update_norm": jnp.sqrt(sums.pop("updates")),
        }
        return {"embedding": {"embedding": table}}, sums | norms

    def __call__(
        self,
        model: nn.Module,
        params: Any,
        batch: dict[str, Array],
        key: Array,
        deterministic: bool = False,
    ) -> dict[str, Array]:
        """Return the sums over one half of each text's words by a vector from the other half.

        Correct are those that are taken for the text's: none where scores say nothing. The nats are
        those of the softmax over all words, whose sum a large sample estimates.
        """
        thinning, halving, finding, sampling = jax.random.split(key, 4)
        kept, table = self.thin(batch, thinning), params["embedding"]["embedding"]
        told, token_ids = self.told(batch, halving), batch["token_ids"].reshape(kept.shape)
        texts = self.find_texts(table, batch, kept & ~told, finding)
        of_words = dot("be,bce->bc", texts, table[token_ids])
        of_others = dot("be,oe->bo", texts, table[self.draw(sampling, DRAWN)])
        weights = (kept & told).astype(jnp.float32)
        others = self.negatives * jnp.mean(nn.softplus(of_others), axis=1, keepdims=True)
        log_noise = jnp.asarray(np.log(self.kept_and_noise()[1] + 1e-30), jnp.float32)
        losses = sampled_losses(of_words, of_others) - log_noise[token_ids]
        total = jnp.maximum(jnp.sum(weights), 1e-6)
        return {
            "loss": jnp.sum((nn.softplus(-of_words) + others) * weights),
            "correct": jnp.sum((of_words > 0) * weights),
            "examples": total,
            "nats": jnp.sum(losses * weights),
            "predictions": total,
        }

    @staticmethod
    def mean_loss(sums: Mapping[str, float]) -> float:
        """Return the loss per word told: 6 log 2 where scores say nothing and negatives are 5."""
        return sums["loss"] / sums["examples"]


def sampled_losses(
    of_targets: Float[Array, "*rows targets"], of_others: Float[Array, "*rows others"]
) -> Float[Array, "*rows targets"]:
    """Return each target's cross-entropy, in nats, among all words, less the log of its noise.

    The scores are log-odds against the noise, by which the others were drawn (Jean et al., 2015,
    https://arxiv.org/abs/1412.2007); the target counts as one of them.
    """
    total = jax.nn.logsumexp(of_others, axis=-1, keepdims=True)
    return jnp.logaddexp(total, of_targets) - of_targets - math.log(of_others.shape[-1] + 1)
