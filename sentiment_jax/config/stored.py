"""TODO config.stored."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.schema import MODELS, schema

HARMLESS = tuple(name for name, rule in schema("bert").items() if rule.harmless)


def _nest(values: Mapping[str, Any]) -> ConfigDict:
    config = ConfigDict({name.split(".")[0]: {} for name in values if "." in name})
    config.update_from_flattened_dict(values)
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return "group.field" -> value, tuples for lists, so that JSON and ConfigDict compare."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list | tuple) else value
    return flat


def _later(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rule.default for name, rule in settings.items() if rule.later}


def config_to_json(config: ConfigDict) -> dict[str, Any]:
    """Return what is stored of a config: settings that came later only where they say something."""
    later = _later(schema(config.model.name))
    said = {n: v for n, v in flatten(config).items() if n not in later or v != later[n]}
    return _nest(said).to_dict()


def config_from_json(values: dict[str, Any]) -> ConfigDict:
    """Return the config of which JSON holds `config_to_json`; lists become the tuples they were."""
    flat = flatten(values)
    model = flat.get("model.name")
    return _nest(flat | (_later(schema(model)) if model in MODELS else {}) | flat)


def config_difference(old: Any, new: Any) -> list[str]:
    """Return the settings in which two configs differ, as "field: old -> new"."""
    before, after = flatten(old), flatten(new)
    pairs = {name: (before.get(name), after.get(name)) for name in sorted(before | after)}
    return [f"{name}: {was} -> {now}" for name, (was, now) in pairs.items() if was != now]


def run_name(config: ConfigDict) -> str:
    """Return a readable folder name for a run; its last eight digits differ with any setting."""
    text, optimizer = json.dumps(config_to_json(config), sort_keys=True), config.optimizer
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    chosen = f"{optimizer.name}-{config.batch_size}-{optimizer.learning_rate:g}"
    return f"{config.model.name}-{chosen}-seed{config.seed}-{digest}"
