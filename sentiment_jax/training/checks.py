"""How a run starts, and what is refused before it takes its first step, in this order.

1. The settings by themselves (config/validation.py), at the door, before JAX is imported.
2. The run directory: writable, no characters that Orbax takes for a pattern, not in use.
3. `resolve`: the teachers and the run or weights to start from.
4. `check_start`: the devices, what is in the run directory, the sources' checkpoints.
5. Once the texts are read: whether they fill a batch and the memory (modes/train.py), and their
   hash (run.py).
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.schema import ENCODERS, OBJECTIVES, Config, EncoderConfig
from sentiment_jax.config.stored import flatten, make_frozen, replace_settings
from sentiment_jax.config.validation import validate
from sentiment_jax.data.imdb import is_prepared
from sentiment_jax.data.unlabeled import unlabeled_texts
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub, weights
from sentiment_jax.runtime import devices, startup, terminal
from sentiment_jax.storage.run_directory import RunDirectory, find_teachers, source_run
from sentiment_jax.sweeps.directories import open_own
from sentiment_jax.training import lineage
from sentiment_jax.training.experiment import Task, read_dataset

POOLED = 4  # layers
ENOUGH = 30  # validation texts, to say that a teacher is at chance


class Start(enum.Enum):
    """How a run starts, decided once."""

    FINISHED = "its result is there"
    RESUMED = "a checkpoint was completed, even if it was damaged since, or a fold was begun"
    BEGUN = "nothing was learned yet: model.pretrained may still change"
    BEGUN_ANEW = "an earlier run is replaced, or was to be replaced when a kill came"


def check_start(
    recipe: ConfigDict | Config,
    directory: RunDirectory,
    task: Task,
    fresh: bool,
    sources: Sequence[str] | None,
) -> tuple[Start, Config, Sequence[str] | None]:
    """Return how a run starts, its config, and the sha256 of its sources (None: it needs none).

    `sources` are those of a fold's cross-validation, which has checked them.
    """
    workdir = directory.path
    anew = directory.removed.exists() or (fresh and not directory.began_in_this_job())
    finished = not anew and directory.outcome()[0] == "finished"
    began = directory.read_config() if directory.config.exists() and not anew else None
    config = recipe
    if not isinstance(config, Config):
        config = resolve(config, began if finished else None, pretrains=task.pretrains)
    if began:
        config = keep_dtype(config, began)
    check_batch_sizes(config)
    if workdir.resolve() in [run.resolve() for run in lineage.parents(config)]:
        raise InputError(f"the config learns from {workdir}, its own --workdir: choose another one")
    open_own(workdir, RunDirectory)
    if not anew:
        directory.check_config(config)
    if anew:
        start = Start.BEGUN_ANEW
    elif finished:
        start = Start.FINISHED
    else:
        start = Start.RESUMED if directory.began() else Start.BEGUN
    if sources is None and start in (Start.BEGUN, Start.BEGUN_ANEW):
        sources = check_sources(config)
    elif began and sources is None:
        same = lineage.named_sources(config) == lineage.named_sources(began)
        if not (same and directory.result.exists()):  # a finished run needs none
            sources = lineage.check_same_sources(config, directory)
    return start, config, sources


def check_finished_data(config: Config, directory: RunDirectory) -> None:
    """Raise InputError unless a finished run learned from the data that a config names.

    They are read again and compared by hash, except for IMDB alone, which is the same everywhere.
    Data that can't be read, being gone for example, count as the run's if they have its names.
    """
    began = directory.read_config()
    data = config.data
    if data.teacher and config.model.pretrained and not config.pretrain.text:
        config = dataclasses.replace(config, pretrain=began.pretrain)  # the text of its source
    imdb = data.source == "tfds"
    same_text = config.pretrain.text == began.pretrain.text
    if imdb and same_text and not (config.pretrain.text and is_prepared(data.path)):
        return
    try:
        dataset = read_dataset(config)
        if data.teacher:
            text = unlabeled_texts(data, config.pretrain.text)
            dataset.statistics["unlabeled_hash"] = text.texts_hash
    except InputError:
        if not same_text or data.path != began.data.path and not imdb:
            raise
    else:
        directory.check_data(dataset.statistics)


def resolve(recipe: ConfigDict, known: Config | None = None, *, pretrains: bool = False) -> Config:
    """Return the frozen config of a recipe, complete without the folder of pretrained weights.

    The sources of a finished run may be gone: then its stored config, `known`, answers.
    """
    values = flatten(recipe)
    sources = lineage.named_sources(known) if known else ("", "")
    if known and any(sources) and sources == lineage.named_sources(recipe):
        names = {recipe.model.name, known.model.name}  # weights say which encoder they are
        if len(names) == 1 or (names <= {*ENCODERS} and known.model.pretrained):
            decided = ("model.name", "model.revision")  # by the weights, as what is None
            own = {n: v for n, v in values.items() if v is not None and n not in decided}
            if own.get("model.pooling") == "folder" and flatten(known)["model.pooling"] != "head":
                del own["model.pooling"]
            return replace_settings(known, own | _follow(flatten(known) | own, pretrains))
    for teacher in find_teachers(values["data.teacher"]):
        _check_teacher(teacher)
    values |= _find_source(values)
    values |= _follow(values, pretrains)
    validate(values, pretraining=pretrains)
    return make_frozen(values)


def _follow(values: Mapping[str, Any], pretrains: bool) -> dict[str, Any]:
    """Return the settings that follow from others.

    A pre-training's objective is the architecture's first, unless one is named. An encoder averages
    four layers for multi-label texts (results/accuracy/tables), if its recipe leaves that to the
    labels; of ModernBERT, no such mean can be exported.
    """
    found: dict[str, Any] = {}
    if pretrains:
        default = OBJECTIVES[values["model.name"]][0]
        found["pretrain.objective"] = values["pretrain.objective"] or default
    if values.get("model.pooled_layers") == 0:
        multi_label = values["data.label_separator"] or values["data.label_columns"]
        able = values["model.pooling"] != "head" and values["model.name"] != "modernbert"
        found["model.pooled_layers"] = POOLED if multi_label and able else 1
    return found


def _find_source(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the run or the weights to start from decide."""
    name = values["model.name"]
    pretrained = values["model.pretrained"]
    found: dict[str, Any] = {}
    sizes = None
    folder = source_run(pretrained)
    if folder:
        sizes = _read_source(folder, name)
        if values["data.teacher"] and not values["pretrain.text"]:
            found["pretrain.text"] = RunDirectory(folder).read_config().pretrain.text
    elif pretrained and name not in ENCODERS:
        raise InputError(f"model.pretrained={pretrained} is no run: {name} starts from one")
    elif pretrained:
        folder, found["model.revision"] = hub.find_pretrained(pretrained, values["model.revision"])
    elif name in ENCODERS and ENCODERS[name].first_position:
        # a learned [UNK] has the id by which PyTorch's RoBERTa knows padding, and has no position
        raise InputError(f"model.name={name} starts from pretrained weights: set model.pretrained")
    if name in ENCODERS:
        given = {key.removeprefix("model."): v for key, v in values.items() if "model." in key}
        if revision := found.get("model.revision"):
            given["revision"] = revision
        found |= flatten(weights.resolve_encoder(given, folder, sizes), "model.")
    return found


def _check_teacher(teacher: Path) -> None:
    """Raise InputError unless a run is finished and classifies texts."""
    directory = RunDirectory(teacher)
    if not directory.config.is_file():
        raise InputError(f"data.teacher={teacher} is no run directory: name a finished run's")
    status, result = directory.outcome()
    if status != "finished":
        raise InputError(f"data.teacher={teacher} is not finished: let its training end")
    directory.read_classifier()
    measured = result["metrics"].get("val")
    if measured and measured["mcc"] <= 0 and result["val"]["examples"] >= ENOUGH:
        raise InputError(
            f"data.teacher={teacher} is no better than guessing on its own validation texts "
            f"(accuracy {result['val']['accuracy']:.4f}): label more, or choose another teacher"
        )


def _read_source(run: Path, name: str) -> EncoderConfig | None:
    """Return the encoder of a source run, None for an LSTM; InputError: the config's is none."""
    directory = RunDirectory(run)
    directory.check_found()
    source = directory.read_config().model
    same = source.name == name or (source.name, name) == ("lstm", "average")
    if not same and not {source.name, name} <= {*ENCODERS}:
        raise InputError(
            f"model.pretrained={run} is a run of {source.name}, the config says model.name={name}"
        )
    return source if isinstance(source, EncoderConfig) else None


def keep_dtype(config: Config, began: Config) -> Config:
    """Return a config with the dtype of the run that it resumes, if its recipe chose another here.

    Recipes choose by the machine (startup.fastest_dtype), and a run may go on elsewhere.
    """
    here = startup.fastest_dtype(config.model.name)
    if config.model.name != began.model.name or config.model.dtype != here:
        return config
    same = {"model.dtype": began.model.dtype}
    if here != began.model.dtype and isinstance(began.model, EncoderConfig):
        same["model.attention"] = began.model.attention
    return replace_settings(config, same)


def check_batch_sizes(config: Any) -> None:
    """Raise InputError unless batches divide among the devices."""
    devices.check_batch_size("batch_size", config.batch_size, config.gradient_accumulation)
    devices.check_batch_size("eval_batch_size", config.eval_batch_size)


def check_sources(config: Config) -> list[str]:
    """Return the sources' sha256; InputError or RunError unless they fit and are intact."""
    check_source_settings(config)
    return lineage.source_hashes(config)


def check_source_settings(config: Config) -> None:
    """Raise InputError for settings that do not fit the run that a new run starts from."""
    if config.optimizer.frozen != "none" and not config.model.pretrained:
        raise InputError("optimizer.frozen keeps random embeddings: set model.pretrained")
    source = source_run(config.model.pretrained)
    if source is None:
        return
    if not RunDirectory(source).result.exists():
        terminal.warn_once(f"{source} is not finished: its best epoch so far counts")
    if isinstance(config.model, EncoderConfig):
        return
    values = flatten(config)
    there = flatten(RunDirectory(source).read_config())
    for name in ("model.embedding_size", "data.ngrams"):
        if there[name] != values[name]:
            raise InputError(
                f"model.pretrained={source} has {name}={there[name]}, the config {values[name]}"
            )
