"""The stored form of a config: nested as in config.json, or flat, "group.field" -> value."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sentiment_jax.config.schema import (
    MODELS,
    Config,
    DataConfig,
    OptimizerConfig,
    PretrainConfig,
)
from sentiment_jax.errors import InputError


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return "group.field" -> value of a Config, a ConfigDict or nested dicts; lists as tuples."""
    values = vars(config) if dataclasses.is_dataclass(config) else config
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if hasattr(value, "items") or dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list | tuple) else value
    return flat


def make_frozen(values: Mapping[str, Any]) -> Config:
    """Return the Config of "group.field" -> value; a field that is absent has its default.

    InputError: an unknown architecture or setting.
    """
    kinds: dict[str, Any] = {
        "data": DataConfig,
        "model": MODELS.get(values.get("model.name", ""), MODELS["bert"]),
        "optimizer": OptimizerConfig,
        "pretrain": PretrainConfig,
    }
    groups: dict[str, dict[str, Any]] = {"": {}, **{name: {} for name in kinds}}
    for name, value in values.items():
        group, _, field = name.rpartition(".")
        groups.setdefault(group, {})[field] = value
    try:
        made = {name: kind(**groups.pop(name)) for name, kind in kinds.items()}
        config = Config(**groups.pop(""), **made)
    except TypeError as error:
        raise InputError(f"config: {error}") from error
    if groups:
        raise InputError(f"config: unknown group {', '.join(groups)}")
    return config


def replace_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy with other values for some settings, "group.field" -> value."""
    return make_frozen(flatten(config) | dict(changes))


def config_to_json(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts of JSON values."""
    nested: dict[str, Any] = {}
    for name, value in flatten(config).items():
        group, _, field = name.rpartition(".")
        place = nested.setdefault(group, {}) if group else nested
        place[field] = list(value) if isinstance(value, tuple) else value
    return nested


def config_from_json(values: Mapping[str, Any]) -> Config:
    """Return the config that `config_to_json` took apart."""
    return make_frozen(flatten(values))


def config_difference(old: Any, new: Any) -> list[str]:
    """Return the settings in which two configs differ, as "field: old -> new"."""
    before = flatten(old)
    after = flatten(new)
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


def run_name(config: Any) -> str:
    """Return a readable folder name for a run; its last eight digits differ with any setting."""
    text = json.dumps(config_to_json(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    optimizer = config.optimizer
    chosen = f"{optimizer.name}-{config.batch_size}-{optimizer.learning_rate:g}"
    return f"{config.model.name}-{chosen}-seed{config.seed}-{digest}"
