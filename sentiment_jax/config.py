"""Reading, checking and comparing configs. Nothing here changes a config; `resolve` copies."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax import writer
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


def resolve(config: ConfigDict) -> ConfigDict:
    """Fills in what pretrained weights decide (sizes, revision); a copy.

    The result rebuilds the model without the weights' folder.
    """
    resolved = ConfigDict(config.to_dict())
    if config.model.name != "lstm":
        from sentiment_jax import pretrained

        folder = None
        if config.model.pretrained:
            folder, revision = pretrained.find_pretrained(
                config.model.pretrained, config.model.revision
            )
            resolved.model.revision = revision
        resolved.model = ConfigDict(pretrained.resolve_encoder(resolved.model.to_dict(), folder))
    return resolved


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(config.to_dict()))


def read_run_config(workdir: Path) -> ConfigDict:
    """Reads a run's config.json back."""
    return from_json(writer.read_json(workdir / "config.json"))


def from_json(values: dict[str, Any]) -> ConfigDict:
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


def difference(old: Any, new: Any) -> list[str]:
    """The fields in which two configs differ, as "field: old -> new"."""
    before, after = flatten(old), flatten(new)
    names = sorted(before.keys() | after.keys())
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def digest(config: ConfigDict) -> str:
    """Eight hexadecimal digits that name a resolved config."""
    text = json.dumps(to_json(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(config: ConfigDict) -> str:
    """A readable, unique folder name for a run."""
    optimizer = config.optimizer
    return (
        f"{config.model.name}-{optimizer.name}-{config.batch_size}-{optimizer.learning_rate:g}"
        f"-seed{config.seed}-{digest(config)}"
    )
