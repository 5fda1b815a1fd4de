"""The stored form of a config: nested as in config.json, or flat, "group.field" -> value."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sentiment_jax.config.schema import MODELS, Config, groups_of
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
    """Return the Config of nested or flat settings, the rest by default; InputError if unknown."""
    nested = config_to_json(values)
    name = flatten(values).get("model.name")
    groups = groups_of(name if name in MODELS else "bert")  # which refuses the name
    try:
        made = {group: kind(**nested.pop(group, {})) for group, kind in groups.items()}
        return Config(**nested, **made)
    except TypeError as error:
        raise InputError(f"config: {error}") from error


def replace_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy with other values for some settings, "group.field" -> value."""
    return make_frozen(flatten(config) | dict(changes))


def config_to_json(config: Any) -> dict[str, Any]:
    """Return a config, also one that is flat, as nested dicts."""
    nested: dict[str, Any] = {}
    for name, value in flatten(config).items():
        group, _, field = name.rpartition(".")
        place = nested.setdefault(group, {}) if group else nested
        place[field] = value
    return nested


def config_difference(old: Any, new: Any, ignored: Iterable[str] = ()) -> list[str]:
    """Return the settings in which two configs differ, save some, as "field: old -> new"."""
    before = flatten(old)
    after = flatten(new)
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted((before | after).keys() - {*ignored})
        if before.get(name) != after.get(name)
    ]


def run_name(config: Any) -> str:
    """Return a readable folder name for a run; its last eight digits differ with any setting."""
    text = json.dumps(config_to_json(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    optimizer = config.optimizer
    chosen = f"{optimizer.name}-{config.batch_size}-{optimizer.learning_rate:g}"
    return f"{config.model.name}-{chosen}-seed{config.seed}-{digest}"
