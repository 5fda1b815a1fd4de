"""Recipes: the ConfigDict that a config file makes, and what overrides change in it."""

import copy
import itertools
import os
import runpy
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from sentiment_jax.config.schema import groups_of, schema
from sentiment_jax.config.stored import flatten
from sentiment_jax.errors import InputError, did_you_mean

PACKAGE = Path(__file__).parents[1]
CONFIG_FOLDERS = PACKAGE / "configs", PACKAGE.parent / "configs"  # installed, or in a checkout


def make_config(
    model: str, recipe: Mapping[str, Any], variants: Mapping[str, Any], variant: str = ""
) -> ConfigDict:
    """Build a config from the schema's defaults, a recipe, and what one of its variants changes.

    Those are "group.field" -> value. Variant "" is the recipe; an unknown one is an InputError.
    """
    if variant and variant not in variants:
        near = did_you_mean(variant, variants)
        raise InputError(f"unknown variant {variant!r}: one of {', '.join(variants)}{near}")
    config = ConfigDict({group: {} for group in groups_of(model)})
    for name, rule in schema(model).items():
        inherited = placeholder(float if "dropout" in name else int)
        default = inherited if rule.inherited else rule.default
        config.update_from_flattened_dict({name: default})
    config.model.name = model
    config.lock()
    config.update_from_flattened_dict({**recipe, **variants.get(variant, {})})
    return config


def call_recipe(recipe: str, function: str) -> Any:
    """Call a function of a config file: of ours by NAME or NAME:VARIANT, else FILE or FILE:VARIANT.

    An InputError names the nearest file, or the line that raised.
    """
    name, _, variant = recipe.partition(":")
    ours = {path.stem: path for folder in CONFIG_FOLDERS for path in folder.glob("[!_]*.py")}
    file = ours.get(name, Path(name).expanduser())
    if not file.is_file():
        known = [*(path.stem for path in file.parent.glob("*.py")), *ours]
        near = did_you_mean(file.stem, known) or f": ours are {', '.join(sorted(ours))}"
        raise InputError(f"no config file {name!r}{near}")
    if file.suffix != ".py":
        raise InputError(f"{file} is no recipe: a table is named by --config.data.path={file}")
    try:
        content = runpy.run_path(str(file))
        if function not in content:
            raise InputError(f"{file} has no {function}(variant): configs/lstm.py shows one")
        return content[function](*filter(None, [variant]))
    except InputError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        line = lines[-1] if lines else getattr(error, "lineno", 1)
        raise InputError(f"{file}, line {line}: {type(error).__name__}: {error}") from error


def read_recipe(recipe: str) -> ConfigDict:
    """Return the config that a config file makes; see `call_recipe`."""
    config = call_recipe(recipe, "get_config")
    if not isinstance(config, ConfigDict):
        raise InputError(f"{recipe}: get_config() must return what make_config() makes")
    return config


def check_names(config: ConfigDict, names: Iterable[str], shown: str = "{}") -> None:
    """Raise InputError for a name that is no setting of a config, with the nearest that is one."""
    known = flatten(config)
    for name in names:
        if name not in known:
            near = did_you_mean(name, known, shown) or ": see --help"
            raise InputError(f"no setting {shown.replace('{}', name)}{near}")


def override(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Return a copy with other values for some settings, nested or as "group.field" -> value."""
    changed = copy.deepcopy(config)
    values = flatten(changes)
    check_names(changed, values)
    for name, value in values.items():
        value = value.item() if hasattr(value, "dtype") else value  # NumPy's
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            changed.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}={value!r}: {error}") from error
    return changed


def describe_settings(config: ConfigDict) -> str:
    """Return a config's settings, group by group: flag, value, meaning, allowed values."""
    settings = schema(config.model.name)
    values = flatten(config)
    wide = max(map(len, values))
    lines = []
    for group, names in itertools.groupby(settings, key=lambda name: name.rpartition(".")[0]):
        lines.append(f"\n{group}" if group else "run")
        for name in names:
            rule = settings[name]
            value = "" if values[name] is None else str(values[name])
            shown = "..." if len(value) >= 40 else value
            allowed = f" ({rule.allowed})" if rule.allowed else ""
            lines.append(f"  --config.{name:{wide}}  {shown:24}  {rule.meaning}{allowed}")
    return "\n".join(lines)
