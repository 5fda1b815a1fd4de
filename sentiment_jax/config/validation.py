"""Which configs are refused before data are read; one error lists all problems."""

from collections.abc import Iterator, Mapping
from typing import Any

from sentiment_jax.config.schema import (
    ENCODERS,
    MODELS,
    MOST_CLASSES,
    OBJECTIVES,
    schema,
    split_names,
)
from sentiment_jax.config.stored import flatten
from sentiment_jax.errors import InputError

NGRAM_VECTORS = {  # they are learned by plain stochastic gradient descent of their own
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.0,
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_norm": 0.0,
    "optimizer.layerwise_decay": 1.0,
    "optimizer.frozen": "none",
    "gradient_accumulation": 1,
    "model.dtype": "float32",
}


def validate(config: Any, *, pretraining: bool = False) -> None:
    """Raise one InputError with all the problems of a ConfigDict or Config."""
    values = flatten(config)
    model = values.get("model.name")
    if model not in MODELS:
        raise InputError(f"config: model.name={model!r} is unknown, choose {', '.join(MODELS)}")
    settings = schema(model)
    own = {f"model.{field}" for field in MODELS[model].__dataclass_fields__}  # the weights' too
    odd = [name for name in values if name not in settings and name not in own]
    odd += sorted(settings.keys() - values.keys())
    if odd:
        remedy = f"use --config=configs/{model}.py"
        raise InputError(f"config: model.name={model} and {', '.join(odd[:3])}: {remedy}")
    if pretraining and not OBJECTIVES[model]:
        raise InputError(f"config: --mode=pretrain: {model} learns nothing from unlabeled text")
    problems = [rule.problem(name, values[name]) for name, rule in settings.items()]
    problems += _data_problems(values)
    problems += _pretraining_problems(values) if pretraining else _training_problems(values)
    mode = "pretrain" if pretraining else "train"
    unread = [name for name, rule in settings.items() if rule.only not in ("", mode)]
    odd = [name for name in unread if values[name] != settings[name].default]
    problems += [f"{name} does nothing in --mode={mode}: leave it out" for name in odd]
    if found := [*filter(None, problems)]:
        raise InputError(f"config: {'; '.join(found)}")


def _data_problems(values: Mapping[str, Any]) -> Iterator[str]:
    model = values["model.name"]
    buckets = values["data.length_buckets"]
    if not all(type(bucket) is int and bucket > 0 for bucket in buckets):
        yield f"data.length_buckets={buckets} must be positive whole numbers"
    length = values["data.max_length"]
    positions = values.get("model.max_position_embeddings")
    if positions is not None:
        positions -= getattr(MODELS[model], "first_position", 0)
        if length > positions:
            yield f"data.max_length={length} exceeds the model's {positions} positions"
    ngrams = values["data.ngrams"]
    if ngrams > 1 and model not in ("lstm", "average"):
        yield f"data.ngrams={ngrams} wants model.name=lstm or average, not {model}"
    if values["data.folds"] == 1:
        yield "data.folds=1 leaves nothing to train on: 0, or 2 and more"
    if values["data.validation_path"] and values["data.folds"]:
        yield "data.folds validates on the training texts: no data.validation_path"
    marks = [
        values["data.separator"].replace("tab", "\t"),
        values["data.quote"].replace("none", ""),
    ]
    if len(max(marks, key=len)) > 1 or (marks[0] and marks[0] in f"{marks[1]}\r\n"):
        given = f"data.separator={values['data.separator']!r}, data.quote={values['data.quote']!r}"
        yield f"{given}: each is one character (tab, none), and not the other"
    source = values["data.source"]
    if source in ("folder", "csv") and not values["data.path"]:
        columns = f"{values['data.text_column']} and {values['data.label_column']}"
        example = f"reviews.csv, a table with columns {columns} (data.source=tfds: IMDB)"
        yield f"data.source={source} needs --config.data.path={example}"
    if not values["pretrain.unlabeled"]:
        named = [name for name in ("pretrain.text", "data.teacher") if values[name]]
        yield from (f"pretrain.unlabeled=False leaves {name} out: set only one" for name in named)
    yield from _label_problems(values)


def _label_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Say what contradicts itself in the names and the form of labels."""
    labels = {*split_names(values["data.labels"])}
    positive = {*split_names(values["data.positive_labels"])}
    negative = {*split_names(values["data.negative_labels"])}
    if labels and (positive or negative) or bool(positive) != bool(negative):
        yield "data.positive_labels and negative_labels go together, without data.labels"
    if both := positive & negative:
        yield f"label {min(both)!r} cannot be both positive and negative"
    if labels and not 2 <= len(labels) <= MOST_CLASSES:
        yield f"data.labels names {len(labels)}: 2 to {MOST_CLASSES:,} expected"
    several = split_names(values["data.label_columns"])
    separator = values["data.label_separator"]
    if (labels or positive or separator or several) and values["data.source"] != "csv":
        yield f"data.source={values['data.source']} has labels of its own"
    if several and not 2 <= len({*several}) <= MOST_CLASSES:
        yield f"data.label_columns names {len({*several})}: 2 to {MOST_CLASSES:,} expected"
    if several and separator:
        yield "data.label_columns and label_separator are two forms of a table: set one"
    if (several or separator) and positive:
        yield "data.positive_labels makes two classes: not where a text has labels"
    if (several or separator) and values["select_by"] in ("balanced_accuracy", "auc"):
        yield f"select_by={values['select_by']}: several labels take loss, macro_f1 or last"


def _training_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Say what contradicts itself, or would do nothing, in a training on labels."""
    teacher = values["data.teacher"]
    if teacher and not all(split_names(teacher)):
        yield f"data.teacher={teacher!r} names no run: RUN or RUN,RUN,..."
    if teacher and values["data.folds"]:
        yield "data.folds takes no data.teacher: set data.folds=0"
    model = values["model.name"]
    if model in ("linear", "average") and values["model.dtype"] != "float32":
        yield f"model.dtype={values['model.dtype']}: {model} computes in float32"
    if model == "average" and not values["model.pretrained"]:
        yield "model.name=average: set model.pretrained to a run of lstm:pretrain"
    if values.get("model.pooling") == "head" and values["model.pooled_layers"] > 1:
        yield "model.pooled_layers: model.pooling=head reads the last layer alone"
    pooled = "an encoder with model.pooling=first, mean or folder"
    pools = model in ENCODERS and values["model.pooling"] != "head"
    if values["contrastive"] and not pools:
        yield f"contrastive={values['contrastive']} needs {pooled}: set 0"
    if values["contrastive"] and values["gradient_accumulation"] > 1:
        yield "contrastive compares all texts of a batch: set gradient_accumulation=1"
    if values["probe_first"] and (not pools or not values["model.pretrained"]):
        yield f"probe_first fits the last layer of {pooled}, and pretrained weights: set False"
    optimizer = values["optimizer.name"]
    if teacher and optimizer in ("lbfgs", "liblinear"):
        yield f"optimizer.name={optimizer} fits classes, not a teacher's probabilities"
    if (model == "linear") != (optimizer == "liblinear"):
        yield f"model.name={model} and optimizer.name={optimizer}: linear and liblinear go together"
    elif model == "linear" and values["model.pretrained"]:
        yield "model.pretrained: linear starts from no weights, leave it out"
    if optimizer == "lbfgs":
        if values["probe_first"]:
            yield "optimizer.name=lbfgs fits the last layer in any case: set probe_first=False"
        if values["contrastive"]:
            yield "optimizer.name=lbfgs takes no steps: set contrastive=0"
        if model != "average" and not pools:
            yield f"optimizer.name=lbfgs fits the last layer of average, or {pooled}"
        elif not values["model.pretrained"]:
            yield "optimizer.name=lbfgs keeps random layers: set model.pretrained"
    if values["select_by"] == "last" and values["early_stopping_patience"]:
        yield "early_stopping_patience waits for a better epoch: not with select_by=last"
    if not teacher and (values["pretrain.text"] or not values["pretrain.unlabeled"]):
        yield "pretrain.text and pretrain.unlabeled do nothing without data.teacher"


def _pretraining_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Say what would do nothing in a pre-training, or does not fit its objective."""
    model = values["model.name"]
    objective = values["pretrain.objective"] or OBJECTIVES[model][0]
    if objective not in OBJECTIVES[model]:
        yield f"pretrain.objective={objective}: {model} learns {' or '.join(OBJECTIVES[model])}"
    if not values["data.validation_fraction"]:
        yield "data.validation_fraction=0 leaves --mode=pretrain no text to test on"
    if objective == "ngram_vectors":
        if values["pretrain.mask_fraction"] != schema(model)["pretrain.mask_fraction"].default:
            yield "pretrain.mask_fraction does nothing: no tokens are masked"
        if plain := [f"{name}={v}" for name, v in NGRAM_VECTORS.items() if values[name] != v]:
            remedy = f"use --config=lstm:pretrain, or set {', '.join(plain)}"
            yield f"--mode=pretrain of an lstm takes plain steps: {remedy}"
