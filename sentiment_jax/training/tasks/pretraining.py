"""Pre-training: learns from unlabeled text, by one of an architecture's objectives.

A second objective for an architecture takes

1. a file in objectives/, with a `mean_loss` like its neighbors', and a case in `make_objective`;
2. its name in OBJECTIVES of config/schema.py;
3. in models/registry.py its network, in the entry of the architecture;
4. in huggingface/names.py the suffix of its export, in TRANSFORMERS;
5. for a head other than `predictions`, a prefix in the architecture's `heads`, and its names in
   huggingface/names.py.
"""

import functools
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config
from sentiment_jax.data.dataset import Dataset
from sentiment_jax.data.encoding import WHOLE, Encoded, encode
from sentiment_jax.data.tokenization import framing, special_tokens
from sentiment_jax.errors import InputError, TooLittleText
from sentiment_jax.runtime.terminal import print_line, progress_bar
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.storage.selection import BY_LOSS
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import (
    Experiment,
    Task,
    Validation,
    make_tokenizer,
    read_dataset,
)
from sentiment_jax.training.lineage import learned_text
from sentiment_jax.training.objectives import ngram_vectors
from sentiment_jax.training.objectives.masked_language_modeling import (
    MaskedLanguageModeling,
    mean_nats,
)
from sentiment_jax.training.objectives.ngram_vectors import NgramVectors
from sentiment_jax.training.objectives.objective import Batch, Objective
from sentiment_jax.training.objectives.replaced_token_detection import ReplacedTokenDetection
from sentiment_jax.training.tasks import classification
from sentiment_jax.training.trained_model import make_classifier

FEWEST = 50  # known tokens of a split: of fewer, a mask or the subsampling may leave none


def prepare(
    config: Config, tokenizer: Tokenizer | None = None, dataset: Dataset | None = None
) -> Experiment:
    """Gather the text and encode it in segments."""
    dataset = dataset or read_dataset(config)
    tokenizer = tokenizer or make_tokenizer(config, dataset)
    classifier = make_classifier(config, tokenizer)
    splits = {name: dataset.splits[name] for name in ("train", "val")}
    segments = {}
    with progress_bar(sum(map(len, splits.values())), "encoding", unit="text") as bar:
        for name, split in splits.items():
            encoded = encode(tokenizer, split, WHOLE, "head", bar.update)
            segments[name] = segment(tokenizer, encoded, config.data.max_length)
            special = np.isin(segments[name].tokens, [*special_tokens(tokenizer).values()])
            if (known := np.sum(~special)) < FEWEST:
                problem = f"{FEWEST} known tokens are needed, the {name} text has {known}"
                raise TooLittleText(f"{problem}: add text, or lower data.min_frequency")
    return Experiment(
        **vars(classifier),
        task=PRETRAINING,
        learned=learned_text(config, unlabeled=splits["train"]),
        encoded=segments,
        statistics=dataset.statistics,
    )


def make_objective(experiment: Experiment) -> Objective:
    """Return the config's objective; InputError: its tokenizer has no [MASK]."""
    config = experiment.config.pretrain
    tokenizer = experiment.tokenizer
    match config.objective:
        case "masked_language_modeling":
            return MaskedLanguageModeling.of(tokenizer, config.mask_fraction)
        case "replaced_token_detection":
            return ReplacedTokenDetection.of(tokenizer, config.mask_fraction)
        case "ngram_vectors":
            token_ids = experiment.encoded["train"].token_ids
            return NgramVectors.of(tokenizer, token_ids, experiment.mesh)
    raise InputError(f"pretrain.objective={config.objective} has no case here")


def make_train_step(experiment: Experiment) -> Wrapped:
    """Return a step of the optimizer, or the objective's own."""
    if isinstance(experiment.objective, NgramVectors):
        return ngram_vectors.make_train_step(experiment.objective)
    return classification.make_train_step(experiment)


@functools.lru_cache(maxsize=8)
def make_sums_step(model: nn.Module, objective: Objective, seed: int) -> Wrapped:
    """Return the jitted (params, batch) -> an objective's sums, the same each time."""

    def sums_step(params: Any, batch: Batch) -> dict[str, Array]:
        return objective(model, params, batch, jax.random.key(seed), deterministic=True)

    return jax.jit(sums_step)


def validate(experiment: Experiment, params: Any, stop: Callable[[], None]) -> Validation:
    """Score each held-out segment once, its masks always the same.

    The perplexity is that of tokens; loss and accuracy are per example of the objective.
    """
    start = time.perf_counter()
    encoded = experiment.encoded["val"]
    objective: Any = experiment.objective
    totals: dict[str, float] = defaultdict(float)
    step = make_sums_step(experiment.model, objective, experiment.config.seed)
    for _, sums in scoring.apply(step, experiment, params, encoded, "validation", stop):
        for name, value in jax.device_get(sums).items():
            totals[name] += float(value)
    examples = totals["examples"]
    scores = {
        "loss": objective.mean_loss(totals),
        "accuracy": totals["correct"] / examples,
        "examples": max(round(examples), 1),
        "perplexity": math.exp(min(mean_nats(totals), 700)),
    }
    return Validation(scores, time.perf_counter() - start, {})


def describe(experiment: Experiment) -> None:
    """Print how much text there is, and where it is from."""
    statistics = experiment.statistics
    length = experiment.config.data.max_length
    for name, encoded in experiment.encoded.items():
        kinds = statistics["counts"][name]
        print_line(
            "data" if name == "train" else "",
            f"{name:5} {sum(kinds.values()):>6,} texts, {kinds['unlabeled']:,} unlabeled: "
            f"{len(encoded):,} segments of at most {length} tokens, {len(encoded.token_ids):,} in "
            "all",
        )
    print_line("", f"source {statistics['source']}, hash {statistics['data_hash'][:12]}")


def arrays(directory: RunDirectory, experiment: Experiment) -> dict[Path, np.ndarray]:
    """Return the frequencies of words and n-grams, by which models/average.py weighs them."""
    objective = experiment.objective
    if isinstance(objective, NgramVectors):
        return {directory.frequencies: np.frombuffer(objective.frequencies, np.float32)}
    return {}


PRETRAINING = Task(
    pretrains=True,
    unit="tokens",
    prepare=prepare,
    make_objective=make_objective,
    make_train_step=make_train_step,
    make_eval_step=lambda of: make_sums_step(of.model, of.objective, of.config.seed),
    validate=validate,
    make_ranking=lambda config: BY_LOSS,
    describe=describe,
    describe_scores=lambda config, scores: f" perplexity {scores['perplexity']:.2f}",
    arrays=arrays,
)


def segment(tokenizer: Tokenizer, encoded: Encoded, max_length: int) -> Encoded:
    """Split whole texts into numbered segments of nearly equal length."""
    before, after = framing(tokenizer)
    room = max_length - len(before) - len(after)
    rows = []
    for start, end in itertools.pairwise(encoded.offsets):
        body = encoded.token_ids[start + len(before) : end - len(after)]
        for part in np.array_split(body, max(-(-len(body) // room), 1)):
            rows.append(np.concatenate([before, part, after]) if before else part)
    return Encoded(
        labels=np.zeros((len(rows), 0), bool),
        token_ids=np.concatenate(rows).astype(np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        truncated=0,
        numbers=np.arange(len(rows), dtype=np.int32),
    )
