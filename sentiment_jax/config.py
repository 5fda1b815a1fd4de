"""Reading, checking and comparing configs. Nothing here changes a config; `resolve` copies."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.errors import InputError

CHOICES = {
    "data.source": ("tfds", "folder", "csv", "sample"),
    "data.truncation": ("head", "tail", "head_tail"),
    "model.name": ("bert", "electra", "lstm"),
    "model.dtype": ("float32", "bfloat16"),
    "model.attention": ("xla", "cudnn"),
    "model.pooling": ("last", "mean", "max", "mean_max"),
    "optimizer.name": ("sgd", "rmsprop", "adam", "adamw"),
    "optimizer.schedule": ("constant", "linear"),
}
# field -> (lowest, highest, whether the highest itself is allowed)
RANGES = {
    "epochs": (1, math.inf, False),
    "batch_size": (1, math.inf, False),
    "eval_batch_size": (1, math.inf, False),
    "early_stopping_patience": (0, math.inf, False),
    "log_every": (1, math.inf, False),
    "checkpoint_every": (1, math.inf, False),
    "cpu_devices": (1, math.inf, False),
    "data.max_length": (3, math.inf, False),
    "data.limit": (0, math.inf, False),
    "data.test_limit": (0, math.inf, False),
    "data.validation_fraction": (1e-6, 1, False),
    "data.test_fraction": (1e-6, 1, False),
    "data.vocabulary_size": (10, math.inf, False),
    "data.min_frequency": (1, math.inf, False),
    "model.embedding_size": (1, math.inf, False),
    "model.hidden_size": (1, math.inf, False),
    "model.dense_size": (1, math.inf, False),
    "model.num_hidden_layers": (1, math.inf, False),
    "model.num_attention_heads": (1, math.inf, False),
    "model.intermediate_size": (1, math.inf, False),
    "model.max_position_embeddings": (1, math.inf, False),
    "model.embedding_dropout": (0, 1, False),
    "model.output_dropout": (0, 1, False),
    "model.hidden_dropout": (0, 1, False),
    "model.attention_dropout": (0, 1, False),
    "model.classifier_dropout": (0, 1, False),
    "optimizer.learning_rate": (0, math.inf, False),
    "optimizer.warmup_fraction": (0, 1, True),
    "optimizer.weight_decay": (0, math.inf, False),
    "optimizer.clip_norm": (0, math.inf, False),
    "optimizer.layerwise_decay": (1e-6, 1, True),
    "optimizer.momentum": (0, 1, False),
    "optimizer.rms_decay": (0, 1, False),
    "optimizer.b1": (0, 1, False),
    "optimizer.b2": (0, 1, False),
    "optimizer.eps": (0, math.inf, False),
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns "group.field" -> value, tuples for lists, so that JSON and ConfigDict compare."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list | tuple) else value
    return flat


def validate(config: ConfigDict) -> None:
    """Checks every field that can be checked before data are read.

    Raises:
      InputError: all problems at once, in one line.
    """
    fields = flatten(config)
    problems = []
    for name, allowed in CHOICES.items():
        if name in fields and fields[name] not in allowed:
            problems.append(f"{name}={fields[name]!r} is unknown, choose {', '.join(allowed)}")
    for name, (lowest, highest, closed) in RANGES.items():
        value = fields.get(name)
        if value is None:
            continue
        if not (lowest <= value < highest or (closed and value == highest)):
            upper = f" and {'<=' if closed else '<'} {highest}" if highest < math.inf else ""
            problems.append(f"{name}={value} must be >= {lowest:g}{upper} and finite")
    buckets = fields["data.length_buckets"]
    if not all(isinstance(bucket, int) and bucket > 0 for bucket in buckets):
        problems.append(f"data.length_buckets={buckets} must be positive whole numbers")
    if fields["model.name"] == "lstm" and fields["optimizer.layerwise_decay"] != 1:
        problems.append("optimizer.layerwise_decay needs an encoder; leave it at 1.0 for lstm")
    positions = fields.get("model.max_position_embeddings")
    if positions and fields["data.max_length"] > positions:
        problems.append(
            f"data.max_length={fields['data.max_length']} exceeds the model's {positions} positions"
        )
    if fields["data.source"] in ("folder", "csv") and not fields["data.path"]:
        problems.append(f"data.source={fields['data.source']} needs --config.data.path")
    if problems:
        raise InputError(f"config: {'; '.join(problems)}")


def config_to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(config.to_dict()))


def config_from_json(values: dict[str, Any]) -> ConfigDict:
    """The inverse of to_json; lists become the tuples they were."""
    config = ConfigDict()
    for name, value in flatten(values).items():
        *groups, field = name.split(".")
        node = config
        for group in groups:
            if group not in node:
                node[group] = ConfigDict()
            node = node[group]
        node[field] = value
    return config


def config_difference(old: Any, new: Any) -> list[str]:
    """The fields in which two configs differ, as "field: old -> new"."""
    before, after = flatten(old), flatten(new)
    names = sorted(before.keys() | after.keys())
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def config_digest(config: ConfigDict) -> str:
    """Eight hexadecimal digits that name a resolved config."""
    text = json.dumps(config_to_json(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(config: ConfigDict) -> str:
    """A readable, unique folder name for a run."""
    optimizer = config.optimizer
    return (
        f"{config.model.name}-{optimizer.name}-{config.batch_size}-{optimizer.learning_rate:g}"
        f"-seed{config.seed}-{config_digest(config)}"
    )


# Fields that change no number of a run: where data lie (their hash is compared), and how often
# something is written.
HARMLESS = (
    "eval_batch_size",
    "log_every",
    "checkpoint_every",
    "data.path",
    "data.cache",
    "model.pretrained",
    "shard_params",
    "example_texts",
)
OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "linear")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One optimiser and its schedule; the defaults are optax's where a config says nothing."""

    name: str = "adam"
    learning_rate: float = 1e-4
    schedule: str = "constant"
    warmup_fraction: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    layerwise_decay: float = 1.0
    momentum: float = 0.0
    rms_decay: float = 0.9
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


SOURCES = ("tfds", "folder", "csv", "sample")


@dataclass(frozen=True)
class DataConfig:
    """What to read, how to split it and how to turn it into token ids (config.data).

    Attributes:
        source: tfds, folder, csv or sample.
        path: the TFDS data directory, the aclImdb folder or archive, or the CSV file.
        max_length: most tokens of a review, [CLS] and [SEP] included.
        truncation: which part of a longer review is kept: head, tail or head_tail.
        validation_fraction: share of the training reviews held out, class by class.
        limit: how many reviews of the training pool to keep, classes in proportion; 0 keeps all.
        test_limit: the same for the test set.
        split_seed: seed of the splits and limits, apart from the run's own seed.
        group_duplicates: keep identical texts on one side of a split.
        text_column: CSV column of the texts.
        label_column: CSV column of the labels.
        test_path: CSV file of the test set; empty holds out a share of `path`.
        test_fraction: that share.
        vocabulary_size: most entries of a vocabulary learned from the training split.
        min_frequency: rarer words are unknown.
        length_buckets: lengths that batches are padded to; max_length is always one of them.
        cache: folder of the token id cache; empty is sentiment_jax in the user's cache folder.
    """

    source: str = "tfds"
    path: str = ""
    max_length: int = 400
    truncation: str = "head"
    validation_fraction: float = 0.2
    limit: int = 0
    test_limit: int = 0
    split_seed: int = 0
    group_duplicates: bool = True
    text_column: str = "text"
    label_column: str = "label"
    test_path: str = ""
    test_fraction: float = 0.2
    vocabulary_size: int = 30_000
    min_frequency: int = 5
    length_buckets: tuple[int, ...] = (64, 128, 192, 256, 320, 384, 448, 512)
    cache: str = ""


TRUNCATIONS = ("head", "tail", "head_tail")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """An encoder's sizes and rates, Hugging Face's config.json in our names; defaults: BERT-base.

    An `embedding_size` other than `hidden_size` adds a projection (ELECTRA-small). None as
    `classifier_dropout` means `hidden_dropout`. `dtype` is what is computed in: parameters,
    softmax, layer-norm statistics and logits are float32 always.
    """

    model_type: str = "bert"
    vocab_size: int = 30522
    embedding_size: int = 768
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    initializer_range: float = 0.02
    dtype: str = "float32"
    attention: str = "xla"
    remat: bool = False
    scan_layers: bool = False

    def __post_init__(self):
        """Refuses what can't be built, with `InputError`."""
        choices = {
            "model_type": ("bert", "electra"),
            "hidden_act": ("gelu",),
            "dtype": ("float32", "bfloat16"),
            "attention": ("xla", "cudnn"),
        }
        for field, allowed in choices.items():
            if (value := getattr(self, field)) not in allowed:
                raise InputError(
                    f"model.{field}={value!r} is unknown; choose from {', '.join(allowed)}"
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise InputError(f"model.{field.name}={value} must be at least 1")
            if field.name.endswith("dropout") and value is not None and not 0 <= value < 1:
                raise InputError(f"model.{field.name}={value} must be in [0, 1)")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"model.hidden_size={self.hidden_size} is not divisible by "
                f"model.num_attention_heads={self.num_attention_heads}"
            )
        if self.attention == "cudnn" and (self.dtype != "bfloat16" or self.attention_dropout > 0):
            raise InputError(
                "model.attention=cudnn needs model.dtype=bfloat16 and model.attention_dropout=0.0, "
                f"got {self.dtype} and {self.attention_dropout}"
            )


POOLINGS = ("last", "mean", "max", "mean_max")


@dataclasses.dataclass(frozen=True)
class LstmConfig:
    """Sizes and rates of an LstmClassifier; vocab_size comes from the tokenizer."""

    vocab_size: int
    embedding_size: int = 100
    hidden_size: int = 64
    dense_size: int = 128
    bidirectional: bool = False
    pooling: str = "last"
    embedding_dropout: float = 0.0
    output_dropout: float = 0.3
    dtype: str = "float32"
