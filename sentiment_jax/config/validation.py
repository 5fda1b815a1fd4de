"""TODO config.validation."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.schema import (
    MODELS,
    MOST_CLASSES,
    OBJECTIVES,
    Setting,
    _problems,
    schema,
    split_names,
)
from sentiment_jax.config.stored import flatten
from sentiment_jax.errors import InputError

NO_LABELS = (  # settings that no pre-training has a use for
    *("class_weights", "data.unlabeled", "data.teacher"),
    *("loss.adversarial", "loss.virtual_adversarial", "loss.entropy"),
)


def validate(config: ConfigDict, *, pretraining: bool = False) -> None:
    """Raise one InputError with all the problems that can be seen before data are read.

    A config that has an objective of pre-training is one for it, whatever `pretraining` says.
    """
    values = flatten(config)
    model = values.get("model.name")
    if model not in MODELS:
        raise InputError(f"config: model.name={model!r} is unknown, choose {', '.join(MODELS)}")
    settings = schema(model)
    missing = {n for n, rule in settings.items() if not rule.internal} - values.keys()
    if odd := [*(name for name in values if name not in settings), *sorted(missing)]:
        remedy = f"use --config=configs/{model}.py"
        raise InputError(f"config: model.name={model} and {', '.join(odd[:3])}: {remedy}")
    problems = _problems(values, settings)
    buckets = values["data.length_buckets"]
    if not all(type(bucket) is int and bucket > 0 for bucket in buckets):
        problems.append(f"data.length_buckets={buckets} must be positive whole numbers")
    length, positions = values["data.max_length"], values.get("model.max_position_embeddings")
    if positions and length > positions:
        problems.append(f"data.max_length={length} exceeds the model's {positions} positions")
    problems += _label_problems(values)
    if values["data.ngrams"] > 1 and model != "lstm":
        problems.append(f"data.ngrams={values['data.ngrams']} wants model.name=lstm, not {model}")
    if pretraining or values["pretrain.objective"]:
        problems += _pretraining_problems(values, settings)
    else:
        problems += _training_problems(values)
    more = "pretrain.text" if values["pretrain.text"] else "data.unlabeled"
    if values[more] and not values["pretrain.unlabeled"]:
        problems.append(f"pretrain.unlabeled=False leaves {more} out: set only one")
    if values["data.source"] in ("folder", "csv") and not values["data.path"]:
        problems.append(f"data.source={values['data.source']} needs --config.data.path")
    if problems:
        raise InputError(f"config: {'; '.join(problems)}")


def _training_problems(values: Mapping[str, Any]) -> list[str]:
    """Say what contradicts itself in a training with labels."""
    problems, learn = [], ("data.teacher", "loss.virtual_adversarial", "loss.entropy")
    if values["data.unlabeled"] and not any(values[name] for name in learn):
        problems.append(f"data.unlabeled=True needs {', '.join(learn[:-1])} or {learn[-1]}")
    if values["data.teacher"] and not values["data.unlabeled"]:
        problems.append("data.teacher judges reviews without labels: set data.unlabeled=True")
    if values["data.teacher"] and not all(split_names(values["data.teacher"])):
        problems.append(f"data.teacher={values['data.teacher']!r} names no run: RUN or RUN,RUN,...")
    if mixes_rows(values) and values["gradient_accumulation"] > 1:
        problems.append(
            "data.unlabeled=True without data.teacher takes means over whole batches: set "
            "gradient_accumulation=1"
        )
    return problems


def mixes_rows(values: Mapping[str, Any]) -> bool:
    """Whether a flat config's loss has one mean of labeled rows and another of all."""
    return values["data.unlabeled"] and not values["data.teacher"]


def _pretraining_problems(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> list[str]:
    """Say what would do nothing in a pre-training, or ask for another one than it is."""
    model, objective = values["model.name"], values["pretrain.objective"]
    problems, unread = [], [*NO_LABELS, *["pretrain.mask_fraction"] * (model == "lstm")]
    if objective not in ("", OBJECTIVES[model]):
        problems.append(f"pretrain.objective={objective}: {model} learns {OBJECTIVES[model]}")
    if not values["data.validation_fraction"]:
        problems.append("data.validation_fraction=0 leaves --mode=pretrain no text to test on")
    unread = [name for name in unread if values.get(name) != settings[name].default]
    return problems + [f"--mode=pretrain has no use for {name}: leave it out" for name in unread]


def _label_problems(values: Mapping[str, Any]) -> list[str]:
    fields = ("data.labels", "data.positive_labels", "data.negative_labels")
    labels, positive, negative = ({*split_names(values[field])} for field in fields)
    problems = []
    if labels and (positive or negative) or bool(positive) != bool(negative):
        problems.append(
            "data.positive_labels and data.negative_labels go together, without data.labels"
        )
    if both := positive & negative:
        problems.append(f"label {min(both)!r} cannot be both positive and negative")
    if labels and not 2 <= len(labels) <= MOST_CLASSES:
        problems.append(f"data.labels={values['data.labels']!r}: 2 to {MOST_CLASSES} expected")
    if (labels or positive) and values["data.source"] != "csv":
        problems.append(f"data.source={values['data.source']} has labels of its own")
    return problems
