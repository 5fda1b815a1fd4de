"""TODO training.checks."""

from pathlib import Path

from ml_collections import ConfigDict

from sentiment_jax.config.schema import schema
from sentiment_jax.config.stored import flatten
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub, weights
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import PLAN_FILE, find_run
from sentiment_jax.training.lineage import (
    _check_teacher,
    _read_source,
    check_sources,
    source_run,
    teachers,
)
from sentiment_jax.training.trained_model import check_objective, make_classifier


def resolve(config: ConfigDict) -> ConfigDict:
    """Return a copy that rebuilds the model without the folder of the pretrained weights."""
    resolved = ConfigDict(config.to_dict())
    for teacher in teachers(config):
        _check_teacher(teacher)
    model, folder, sizes = resolved.model, None, None
    if run := source_run(model.pretrained):
        folder, source = run, _read_source(run, config)
        if model.name != "lstm":
            tokenizer = RunDirectory(run).load_tokenizer()
            sizes = make_classifier(source, tokenizer).model.config
    elif model.pretrained and model.name == "lstm":
        raise InputError(f"model.pretrained={model.pretrained} is no run: an LSTM starts from one")
    elif model.pretrained:
        folder, model.revision = hub.find_pretrained(model.pretrained, model.revision)
    if model.name != "lstm":
        resolved.model = ConfigDict(weights.resolve_encoder(model.to_dict(), folder, sizes))
    return resolved


def check_apart(config: ConfigDict, workdir: Path) -> None:
    """Raise InputError if a run would be written over what it learns from, or into a sweep."""
    read = teachers(config)
    if config.model.pretrained:
        read.append(find_run(Path(config.model.pretrained).expanduser()))
    if workdir.resolve() in [path.resolve() for path in read]:
        raise InputError(f"the config learns from {workdir}, its own --workdir: choose another one")
    if (workdir / PLAN_FILE).is_file() and not RunDirectory(workdir).config.exists():
        raise InputError(f"{workdir} holds a sweep: choose another --workdir for a run")


def check_start(config: ConfigDict) -> None:
    """Raise InputError for what a run that begins would do in vain, or fail at minutes later.

    RunError: the run that it starts from, or a teacher, is damaged.
    """
    check_settings(config)
    check_sources(config)


def check_settings(config: ConfigDict) -> None:
    """Raise InputError for settings that don't go together, or with the run it starts from."""
    values, rules = flatten(config), schema(config.model.name)
    if run := source_run(config.model.pretrained):
        source = RunDirectory(run).read_config()
        check_objective(run, source)
        was = flatten(source)
        for name in ("model.embedding_size", "data.ngrams") if config.model.name == "lstm" else ():
            if was[name] != values[name]:
                which = f"{name}={was[name]}, the config {values[name]}"
                raise InputError(f"model.pretrained={run} has {which}")
    if values["optimizer.frozen"] != "none" and not values["model.pretrained"]:
        raise InputError("optimizer.frozen keeps random embeddings: set model.pretrained")
    if not config.pretrain.objective:
        unread = ["pretrain.mask_fraction"]
        if not config.data.unlabeled:
            unread += ["pretrain.text", "pretrain.unlabeled"]
        for name in unread:
            if values[name] != rules[name].default:
                raise InputError(f"{name} is for --mode=pretrain: leave it out")
