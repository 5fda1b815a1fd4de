"""From a resolved config to what every mode needs: encoded reviews, tokenizer, model."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sentiment_jax.config import DataConfig
from sentiment_jax.data import batches, tokenization
from sentiment_jax.data.corpus import Corpus, load_corpus
from sentiment_jax.data.encoding import Encoded, check_encoded, encode_corpus
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.models import classifiers
from sentiment_jax.runtime import devices
from sentiment_jax.storage.checkpoints import UNFINISHED, Checkpoints
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import find_run, load_run_tokenizer, read_run_config


def resolve(config: ConfigDict) -> ConfigDict:
    """Fills in what pretrained weights decide (sizes, revision); a copy.

    The result rebuilds the model without the weights' folder.
    """
    resolved = ConfigDict(config.to_dict())
    if config.model.name != "lstm":
        from sentiment_jax.huggingface import hub, weights

        folder = None
        if config.model.pretrained:
            folder, revision = hub.find_pretrained(config.model.pretrained, config.model.revision)
            resolved.model.revision = revision
        resolved.model = ConfigDict(weights.resolve_encoder(resolved.model.to_dict(), folder))
    return resolved


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config made concrete."""

    config: ConfigDict
    tokenizer: Any
    model: nn.Module
    encoded: dict[str, Encoded]
    words: dict[str, Any]  # of every whole review, split by split: int32 [reviews]
    statistics: dict[str, Any]

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths, the last of them max_length."""
        settings = self.config.data
        return batches.effective_buckets(settings.length_buckets, settings.max_length)


def make_tokenizer(config: ConfigDict, corpus: Corpus) -> Any:
    """The pretrained weights' tokenizer, or a vocabulary trained on the training split."""
    if config.model.pretrained:
        from sentiment_jax.huggingface import hub

        folder, _ = hub.find_pretrained(config.model.pretrained, config.model.revision)
        return tokenization.load_pretrained_tokenizer(folder)
    texts = corpus.splits["train"].texts
    if config.model.name == "lstm":
        return tokenization.train_word_level(
            texts,
            vocabulary_size=config.data.vocabulary_size,
            min_frequency=config.data.min_frequency,
        )
    return tokenization.train_wordpiece(texts, vocabulary_size=config.data.vocabulary_size)


def prepare_experiment(
    config: ConfigDict, tokenizer: Any = None, only: str | None = None
) -> Experiment:
    """Reads and encodes the reviews and builds the model.

    Args:
      config: resolved.
      tokenizer: a finished run's; None makes the config's.
      only: the one split to encode; the others are read for the data hash and dropped, so that
        `words` and the share truncated cover this one alone.
    """
    data_config = DataConfig(**config.data.to_dict())
    corpus = load_corpus(data_config)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, corpus)
    if only is not None:
        corpus = dataclasses.replace(corpus, splits={only: corpus.splits[only]})
    model = classifiers.build_model(config.model.to_dict(), vocab_size=tokenizer.get_vocab_size())
    encoded = encode_corpus(corpus, tokenizer, data_config)
    check_encoded(encoded, tokenizer.get_vocab_size())
    truncated = {
        name: round(split.truncated / max(len(split), 1), 4) for name, split in encoded.items()
    }
    words = {
        name: np.array([len(text.split()) for text in split.texts], np.int32)
        for name, split in corpus.splits.items()
    }
    return Experiment(
        config, tokenizer, model, encoded, words, {**corpus.statistics, "truncated": truncated}
    )


@functools.lru_cache(maxsize=8)
def initializer(model: nn.Module) -> Callable[[jax.Array], Any]:
    """Returns the jitted function from a key to the model's fresh parameters."""

    def init(key: jax.Array) -> Any:
        ids, lengths = jnp.zeros((1, 8), jnp.int32), jnp.ones((1,), jnp.int32)
        return model.init(key, ids, lengths, deterministic=True)["params"]

    # It runs once: LLVM's -O1 gives the same bits and compiles a third faster.
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 1})


def abstract_params(model: nn.Module) -> Any:
    """The shapes and dtypes of a model's parameters, nothing allocated."""
    return jax.eval_shape(initializer(model), jax.random.key(0))


def initial_params(experiment: Experiment) -> tuple[Any, Any]:
    """Fresh parameters from the config's seed, pretrained weights put in where it names some.

    Returns:
      (params, LoadReport or None).
    """
    params = initializer(experiment.model)(jax.random.key(experiment.config.seed))
    if not experiment.config.model.pretrained:
        return params, None
    from sentiment_jax.huggingface import hub, weights

    settings = experiment.config.model
    folder, _ = hub.find_pretrained(settings.pretrained, settings.revision)
    return weights.load_pretrained(folder, experiment.model.config, params)


def count_parameters(params: Any) -> int:
    """Number of scalars in a parameter tree (arrays or shapes)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def restore_params(model: nn.Module, checkpoints: Checkpoints, step: int, mesh: Mesh) -> Any:
    """The parameters of one checkpoint, on the devices."""
    shapes = devices.abstract(abstract_params(model), mesh)
    return checkpoints.restore(step, params=shapes)["params"]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """The best checkpoint of a run directory, and what predicting with it takes."""

    config: ConfigDict
    tokenizer: Any
    model: nn.Module
    params: Any
    mesh: Mesh
    step: int


def load_run(workdir: Path) -> TrainedModel:
    """Reads a run directory, nothing else: no data, no pretrained weights.

    Raises:
      InputError: not a run directory, or nothing validated in it yet.
      RunError: the best checkpoint is damaged.
    """
    find_run(workdir)
    config = read_run_config(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    step = checkpoints.best_step()
    if (workdir / "result.json").exists():
        step = read_json(workdir / "result.json")["best_step"]
        damaged = step in checkpoints.faults
    else:  # any of them may be the best; what is being written at this moment is not damaged
        damaged = any(fault != UNFINISHED for fault in checkpoints.faults.values())
    if damaged or (step is None and checkpoints.faults):
        raise RunError(
            f"damaged checkpoints in {workdir} ({checkpoints.describe_faults()}); "
            "train again with --fresh"
        )
    if step is None or step not in checkpoints.steps:
        found = checkpoints.steps or "none"
        raise InputError(
            f"{workdir} has no validated checkpoint yet (steps found: {found}); "
            "let its first epoch end"
        )
    tokenizer = load_run_tokenizer(workdir)
    model = classifiers.build_model(config.model.to_dict(), vocab_size=tokenizer.get_vocab_size())
    mesh = devices.data_mesh()
    params = restore_params(model, checkpoints, step, mesh)
    return TrainedModel(config, tokenizer, model, params, mesh, step)
