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

from sentiment_jax import batches, checkpoint, data, devices, tokenizers, writer
from sentiment_jax import config as configs
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.models import classifiers
from sentiment_jax.sources import DataConfig


@dataclasses.dataclass(frozen=True)
class Task:
    """A config made concrete."""

    config: ConfigDict
    tokenizer: Any
    model: nn.Module
    encoded: dict[str, data.Encoded]
    words: dict[str, Any]  # of every whole review, split by split: int32 [reviews]
    facts: dict[str, Any]

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths, the last of them max_length."""
        settings = self.config.data
        return batches.effective_buckets(settings.length_buckets, settings.max_length)


def make_tokenizer(config: ConfigDict, corpus: data.Corpus) -> Any:
    """The pretrained weights' tokenizer, or a vocabulary trained on the training split."""
    if config.model.pretrained:
        from sentiment_jax import pretrained

        folder, _ = pretrained.find_pretrained(config.model.pretrained, config.model.revision)
        return tokenizers.load_pretrained_tokenizer(folder)
    texts = corpus.splits["train"].texts
    if config.model.name == "lstm":
        return tokenizers.train_word_level(
            texts,
            vocabulary_size=config.data.vocabulary_size,
            min_frequency=config.data.min_frequency,
        )
    return tokenizers.train_wordpiece(texts, vocabulary_size=config.data.vocabulary_size)


def prepare(config: ConfigDict, tokenizer: Any = None, only: str | None = None) -> Task:
    """Reads and encodes the reviews and builds the model.

    Args:
      config: resolved.
      tokenizer: a finished run's; None makes the config's.
      only: the one split to encode; the others are read for the data hash and dropped, so that
        `words` and the share truncated cover this one alone.
    """
    data_config = DataConfig(**config.data.to_dict())
    corpus = data.load_corpus(data_config)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, corpus)
    if only is not None:
        corpus = dataclasses.replace(corpus, splits={only: corpus.splits[only]})
    model = classifiers.build_model(config.model.to_dict(), vocab_size=tokenizer.get_vocab_size())
    encoded = data.encode_corpus(corpus, tokenizer, data_config)
    data.check_encoded(encoded, tokenizer.get_vocab_size())
    truncated = {
        name: round(split.truncated / max(len(split), 1), 4) for name, split in encoded.items()
    }
    words = {
        name: np.array([len(text.split()) for text in split.texts], np.int32)
        for name, split in corpus.splits.items()
    }
    return Task(config, tokenizer, model, encoded, words, {**corpus.facts, "truncated": truncated})


def tokenizer_sha256(workdir: Path) -> str:
    """The hash of the run's tokenizer.json."""
    return writer.file_sha256(workdir / "tokenizer.json")


def load_tokenizer(workdir: Path) -> Any:
    """The run's tokenizer.json.

    Raises:
      InputError: missing, damaged, or not the one that the run was trained with.
    """
    tokenizer = tokenizers.load_tokenizer(workdir / "tokenizer.json")
    recorded = writer.read_json(workdir / "env.json").get("tokenizer_sha256")
    if recorded not in (None, tokenizer_sha256(workdir)):  # None: a run from before it was kept
        raise InputError(
            f"{workdir / 'tokenizer.json'} is not the tokenizer that the run was trained with "
            f"(sha256 {recorded[:12]} in env.json); put that file back"
        )
    return tokenizer


def check_same_data(workdir: Path, facts: dict[str, Any]) -> None:
    """Compares the data with those that env.json records.

    Raises:
      InputError: another data hash.
    """
    recorded = writer.read_json(workdir / "env.json")["data"]
    if recorded["data_hash"] != facts["data_hash"]:
        raise InputError(
            f"the data changed since {workdir} began: hash {recorded['data_hash'][:12]} with "
            f"{recorded['counts']} then, {facts['data_hash'][:12]} with {facts['counts']} now; "
            "point --config.data.path at the data of the run, or start in another --workdir"
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


def initial_params(task: Task) -> tuple[Any, Any]:
    """Fresh parameters from the config's seed, pretrained weights put in where it names some.

    Returns:
      (params, LoadReport or None).
    """
    params = initializer(task.model)(jax.random.key(task.config.seed))
    if not task.config.model.pretrained:
        return params, None
    from sentiment_jax import pretrained

    settings = task.config.model
    folder, _ = pretrained.find_pretrained(settings.pretrained, settings.revision)
    return pretrained.load_pretrained(folder, task.model.config, params)


def count_parameters(params: Any) -> int:
    """Number of scalars in a parameter tree (arrays or shapes)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def restore_params(
    model: nn.Module, checkpoints: checkpoint.Checkpoints, step: int, mesh: Mesh
) -> Any:
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
    checkpoint.find_run(workdir)
    config = configs.read_run_config(workdir)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", read_only=True)
    step = checkpoints.best_step()
    if (workdir / "result.json").exists():
        step = writer.read_json(workdir / "result.json")["best_step"]
        damaged = step in checkpoints.faults
    else:  # any of them may be the best; what is being written at this moment is not damaged
        damaged = any(fault != checkpoint.UNFINISHED for fault in checkpoints.faults.values())
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
    tokenizer = load_tokenizer(workdir)
    model = classifiers.build_model(config.model.to_dict(), vocab_size=tokenizer.get_vocab_size())
    mesh = devices.data_mesh()
    params = restore_params(model, checkpoints, step, mesh)
    return TrainedModel(config, tokenizer, model, params, mesh, step)
