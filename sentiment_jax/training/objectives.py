"""What an experiment minimises: classification, or its architecture's objective of pre-training.

Masked words are BERT's (Devlin et al., 2019, and whole words as in its later release), replaced
tokens ELECTRA's (Clark et al., 2020). An LSTM's vectors, of words and runs of words (Li et al.,
2016, https://arxiv.org/abs/1512.08183), are learnt much as Chen (2017,
https://arxiv.org/abs/1707.02377) learns those of words: a vector of some of a text predicts the
rest, by a softmax over a sample of words (Jean et al., 2015, https://arxiv.org/abs/1412.2007).
Another objective is a class like `MaskedWords`, a function of model, batch and key, with an entry
in `PRETRAINING` and in config.OBJECTIVES. Its sums (see steps.Objective) include the `nats` of all
its `predictions` of tokens, for the perplexity.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8

from sentiment_jax.config import LossConfig
from sentiment_jax.errors import InputError
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.steps import Classification, Objective, cross_entropy, forward

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # never predicted
DETECTION_WEIGHT = 50.0  # of the discriminator's mean loss beside the generator's
NEVER, WORD, PIECE = range(3)  # kinds of tokens: a piece goes on with the word before it


def draw_rows(key: Array, numbers: Int[Array, " batch"], shape: tuple[int, ...]) -> Array:
    """Draw uniform numbers from [0, 1) for each row: a function of the key and the row's number.

    More columns, where a batch is padded to more tokens, begin with those that fewer have.
    """
    return jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), shape))(numbers)


def choose_words(
    kinds: UInt8[Array, "batch length"],
    lengths: Int[Array, " batch"],
    numbers: Int[Array, " batch"],
    key: Array,
    fraction: float,
) -> tuple[Int[Array, "batch chosen"], Bool[Array, "batch chosen"]]:
    """Choose whole words at random, as many as make up at most a fraction of each row's tokens.

    A row's words depend on the key and the row's number alone, not on its batch or padding.

    Returns:
      Positions, of all rows as many as the fraction of the longest row is, and which of them count.
    """
    length = kinds.shape[1]
    most = math.ceil(fraction * length)
    drawn = draw_rows(key, numbers, (length,))
    word = jnp.cumsum(kinds != PIECE, axis=1) - 1
    eligible = (kinds != NEVER) & (jnp.arange(length) < lengths[:, None])
    # One draw for all tokens of a word: in the order of the draws they are neighbours.
    draws = jnp.where(eligible, jnp.take_along_axis(drawn, word, axis=1), jnp.inf)
    order = jnp.argsort(draws, axis=1)
    draws = jnp.take_along_axis(draws, order, axis=1)
    budget = jnp.ceil(fraction * jnp.sum(eligible, axis=1)).astype(jnp.int32)
    first_left = jnp.take_along_axis(draws, jnp.minimum(budget, most)[:, None], axis=1)
    return order[:, :most], draws[:, :most] < first_left  # no part of a word that is cut there


def mean_nats(sums: Mapping[str, float]) -> float:
    """Return the nats per prediction of sums over any number of batches."""
    return sums["nats"] / sums["predictions"]


@dataclasses.dataclass(frozen=True)
class MaskedWords:
    """Predict the tokens of masked words: 80 % are hidden, 10 % replaced at random, 10 % kept."""

    kinds: bytes  # NEVER, WORD or PIECE of each token id
    mask: int  # the id of [MASK]
    fraction: float  # of the tokens to predict
    hidden: float = 0.8
    replaced: float = 0.1

    @classmethod
    def of(cls, experiment: Experiment) -> "MaskedWords":
        """Make it for a pre-training; InputError: its tokenizer has no [MASK]."""
        tokenizer, fraction = experiment.tokenizer, experiment.config.pretrain.mask_fraction
        mask = tokenizer.token_to_id("[MASK]")
        if mask is None:
            raise InputError(
                "the tokenizer has no [MASK]: take the one of a BERT, or none to learn it"
            )
        kinds = bytearray(tokenizer.get_vocab_size())
        for token, i in tokenizer.get_vocab().items():
            if token not in SPECIAL:
                kinds[i] = PIECE if token.startswith("##") else WORD
        return cls(bytes(kinds), mask, fraction)

    def mask_batch(
        self, batch: dict[str, Array], key: Array
    ) -> tuple[Int[Array, "batch length"], Int[Array, "batch picks"], Float[Array, "batch picks"]]:
        """Return a batch's tokens with words masked, the positions, and their weights, 1 or 0."""
        token_ids, numbers = batch["token_ids"], batch["labels"]
        kinds = jnp.asarray(np.frombuffer(self.kinds, np.uint8))[token_ids]
        where, how, what = jax.random.split(key, 3)
        chosen = choose_words(kinds, batch["lengths"], numbers, where, self.fraction)
        positions, weights = chosen[0], chosen[1] * batch["weights"][:, None]
        chance = draw_rows(how, numbers, positions.shape[1:])
        others = draw_rows(what, numbers, positions.shape[1:]) * len(self.kinds)
        targets = jnp.take_along_axis(token_ids, positions, axis=1)
        tokens = jnp.where(chance < self.hidden + self.replaced, others.astype(jnp.int32), targets)
        tokens = jnp.where(chance < self.hidden, self.mask, tokens)
        tokens = jnp.where(weights > 0, tokens, targets)
        return put_tokens(token_ids, positions, tokens), positions, weights

    def __call__(
        self,
        model: nn.Module,
        params: Any,
        batch: dict[str, Array],
        key: Array,
        deterministic: bool = False,
    ) -> dict[str, Array]:
        """Return the sums over the chosen tokens; masks need the key even where dropout doesn't."""
        masking, dropout = jax.random.split(key)
        token_ids, positions, weights = self.mask_batch(batch, masking)
        inputs = token_ids, batch["lengths"], positions
        logits = forward(model, params, *inputs, dropout=None if deterministic else dropout)
        sums = score_tokens(logits, batch["token_ids"], positions, weights)
        return {**sums, "nats": sums["loss"], "predictions": sums["examples"]}

    mean_loss = staticmethod(mean_nats)


@dataclasses.dataclass(frozen=True)
class ReplacedTokens(MaskedWords):
    """Tell which tokens are not the text's, but drawn by a generator that predicts masked words."""

    hidden: float = 0.85
    replaced: float = 0.0

    def __call__(
        self,
        model: nn.Module,
        params: Any,
        batch: dict[str, Array],
        key: Array,
        deterministic: bool = False,
    ) -> dict[str, Array]:
        """Return the sums over all tokens; nats and predictions are the generator's."""
        masking, drawing, dropout = jax.random.split(key, 3)
        token_ids, lengths = batch["token_ids"], batch["lengths"]
        masked, positions, weights = self.mask_batch(batch, masking)

        def corrupt(logits: Float[Array, "batch chosen vocabulary"]) -> Array:
            noise = draw_rows(drawing, batch["labels"], logits.shape[1:])
            gumbel = -jnp.log(-jnp.log(noise))
            drawn = jnp.argmax(jax.lax.stop_gradient(logits) + gumbel, axis=-1)
            kept = jnp.take_along_axis(token_ids, positions, axis=1)
            return put_tokens(token_ids, positions, jnp.where(weights > 0, drawn, kept))

        inputs = masked, lengths, positions, corrupt
        outputs = forward(model, params, *inputs, dropout=None if deterministic else dropout)
        predicted, detected, read = outputs
        of_text = (jnp.arange(token_ids.shape[1]) < lengths[:, None]) * batch["weights"][:, None]
        sums = score_tokens(predicted, token_ids, positions, weights)
        found = score_detection(detected, read != token_ids, of_text)
        ratio = found["examples"] / sums["examples"]
        return {
            **found,
            "loss": ratio * sums["loss"] + DETECTION_WEIGHT * found["loss"],
            "detection": found["loss"],
            "nats": sums["loss"],
            "predictions": sums["examples"],
        }

    @staticmethod
    def mean_loss(sums: Mapping[str, float]) -> float:
        """Return the generator's loss per prediction, and 50 times that of detection per token."""
        detection = DETECTION_WEIGHT * sums["detection"] / sums["examples"]
        return mean_nats(sums) + detection


@dataclasses.dataclass(frozen=True)
class ParagraphVectors:
    """Predict, from a random half of a text's words and runs of words, the other half.

    Frequent ones are thinned out as in word2vec (Mikolov et al., 2013): one of frequency f counts
    sqrt(threshold / f), if that is less than 1. The model's scores are log-odds against how often a
    word is a target, so that the sum in the softmax is an expectation, of which a sample of words,
    the same for all texts, is an unbiased estimate. The loss has a target stand out among a few
    words, not among all: rare ones would be learnt by heart. The perplexity is among all.
    """

    frequencies: bytes  # float32, of each token id in the text; 0 for those never predicted
    sample: int = 4096
    negatives: int = 5  # words that a target stands out among
    threshold: float = 1e-4

    @classmethod
    def of(cls, experiment: Experiment) -> "ParagraphVectors":
        """Make it for a pre-training, by its text."""
        tokenizer, ids = experiment.tokenizer, experiment.encoded["train"].token_ids.ravel()
        counts = np.bincount(ids, minlength=tokenizer.get_vocab_size())
        counts[[i for token in SPECIAL if (i := tokenizer.token_to_id(token)) is not None]] = 0
        return cls((counts / np.maximum(counts.sum(), 1)).astype(np.float32).tobytes())

    def counts_and_shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how much each word counts as a target, and its share of all targets."""
        frequency = np.frombuffer(self.frequencies, np.float32).astype(np.float64)
        counts = np.sqrt(self.threshold / np.maximum(frequency, self.threshold)) * (frequency > 0)
        return counts, counts * frequency / np.sum(counts * frequency)

    def halve(
        self, batch: dict[str, Array], key: Array
    ) -> tuple[Float[Array, "batch length runs"], Float[Array, "batch length runs"]]:
        """Return how much each word and run counts where it is read, and where it is predicted.

        What begins at one position is in one half; a run that is read may hold words that are
        predicted (halves of whole blocks, without that, gave worse vectors). The halves depend on
        the key and the row's number, not on its batch or padding.
        """
        rows, length = batch["token_ids"].shape[:2]
        counts = jnp.asarray(self.counts_and_shares()[0], jnp.float32)[batch["token_ids"]]
        counts = counts.reshape(rows, length, -1) * batch["weights"][:, None, None]
        half = (draw_rows(key, batch["labels"], (length,)) < 0.5)[:, :, None]
        return counts * half, counts * ~half

    def __call__(
        self,
        model: nn.Module,
        params: Any,
        batch: dict[str, Array],
        key: Array,
        deterministic: bool = False,
    ) -> dict[str, Array]:
        """Return the sums over the targets; right is a target that no word of the sample beats."""
        halving, sampling = jax.random.split(key)
        read, weights = self.halve(batch, halving)
        shares = self.counts_and_shares()[1]
        uniform = jax.random.uniform(sampling, (self.sample,))
        others = jnp.searchsorted(jnp.asarray(np.cumsum(shares), jnp.float32), uniform)
        others = jnp.minimum(others, len(shares) - 1)
        inputs = batch["token_ids"], batch["lengths"], read, others
        of_targets, of_others = forward(model, params, *inputs)
        of_targets, weights = (a.reshape(len(of_others), -1) for a in (of_targets, weights))
        log_shares = jnp.asarray(np.log(shares + 1e-30), jnp.float32)
        log_shares = log_shares[batch["token_ids"]].reshape(weights.shape)
        loss = jnp.sum(sampled_losses(of_targets, of_others, self.negatives) * weights)
        losses = sampled_losses(of_targets, of_others, self.sample)
        losses -= log_shares + math.log(self.sample + 1)
        nats = jnp.sum(jnp.where(weights > 0, losses, 0) * weights)
        total = jnp.maximum(jnp.sum(weights), 1e-6)  # texts of unknown words have no targets
        # The target may be in the sample, where another order of summing rounds its score.
        best = jnp.max(of_others, axis=-1, keepdims=True)
        correct = jnp.sum((of_targets > best - 1e-4) * weights)
        return {
            **{"loss": loss, "correct": correct, "examples": total},
            **{"nats": nats, "predictions": total},
        }

    @staticmethod
    def mean_loss(sums: Mapping[str, float]) -> float:
        """Return the loss per target: log 6 where scores say nothing and negatives are 5."""
        return sums["loss"] / sums["examples"]


def sampled_losses(
    of_targets: Float[Array, "*rows targets"],
    of_others: Float[Array, "*rows others"],
    count: int,
) -> Float[Array, "*rows targets"]:
    """Return each target's cross-entropy among itself and `count` words, in nats.

    Those are what a sample of any size, drawn by the words' shares, is in the mean.
    """
    total = jax.nn.logsumexp(of_others, axis=-1, keepdims=True)
    total += math.log(count / of_others.shape[-1])
    return jnp.logaddexp(total, of_targets) - of_targets


def put_tokens(
    token_ids: Int[Array, "batch length"],
    positions: Int[Array, "batch chosen"],
    tokens: Int[Array, "batch chosen"],
) -> Int[Array, "batch length"]:
    """Return rows with other tokens at some positions."""
    return token_ids.at[jnp.arange(len(token_ids))[:, None], positions].set(tokens)


def score_tokens(
    logits: Float[Array, "batch chosen vocabulary"],
    token_ids: Int[Array, "batch length"],
    positions: Int[Array, "batch chosen"],
    weights: Float[Array, "batch chosen"],
) -> dict[str, Array]:
    """Return loss, correct and examples of predicting a row's tokens at some positions."""
    targets = jnp.take_along_axis(token_ids, positions, axis=1)
    correct = jnp.argmax(logits, axis=-1) == targets
    return {
        "loss": jnp.sum(cross_entropy(logits, targets) * weights),
        "correct": jnp.sum(correct * weights),
        "examples": jnp.maximum(jnp.sum(weights), 1),  # rows of one long word choose none
    }


def score_detection(
    logits: Float[Array, "batch length"],
    replaced: Bool[Array, "batch length"],
    weights: Float[Array, "batch length"],
) -> dict[str, Array]:
    """Return loss, correct and examples of telling which tokens were replaced."""
    losses = optax.sigmoid_binary_cross_entropy(logits, replaced.astype(jnp.float32))
    return {
        "loss": jnp.sum(losses * weights),
        "correct": jnp.sum(((logits > 0) == replaced) * weights),
        "examples": jnp.sum(weights),
    }


PRETRAINING: dict[str, type[MaskedWords] | type[ParagraphVectors]] = {
    "masked_words": MaskedWords,
    "replaced_tokens": ReplacedTokens,
    "paragraph_vectors": ParagraphVectors,
}


def make_objective(experiment: Experiment) -> Objective:
    """Return what a config minimises.

    InputError: a pre-training's tokenizer has no [MASK].
    """
    config = experiment.config
    if config.pretrain.objective:
        return PRETRAINING[config.pretrain.objective].of(experiment)
    labels, classes = experiment.encoded["train"].labels, len(experiment.classes)
    balanced = config.class_weights == "balanced"
    weights = balanced_weights(labels[labels >= 0], classes) if balanced else ()
    return Classification(weights, LossConfig(**config.loss.to_dict()))


def balanced_weights(labels: Int32[np.ndarray, " reviews"], classes: int) -> tuple[float, ...]:
    """Return a weight for each class that makes up for its size; over the reviews, their mean is 1.

    As scikit-learn's "balanced", which wants every class to occur.
    """
    counts = np.bincount(labels, minlength=classes)
    return tuple((len(labels) / (classes * np.maximum(counts, 1))).tolist())
