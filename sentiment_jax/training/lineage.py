"""TODO training.lineage."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from ml_collections import ConfigDict

from sentiment_jax.config.schema import DataConfig, split_names
from sentiment_jax.data.corpus import Corpus, load_corpus
from sentiment_jax.data.imdb_tfds import is_prepared
from sentiment_jax.data.unlabeled import load_text, texts_hash, unlabeled_reviews
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import find_run
from sentiment_jax.training.trained_model import _beside_training, _find_best


def source_run(pretrained: str) -> Path | None:
    """Return the run that model.pretrained names, itself or as a sweep's winner, if it does."""
    if not pretrained:
        return None
    path = find_run(Path(pretrained).expanduser())
    return path if RunDirectory(path).env.is_file() else None


def teachers(config: ConfigDict) -> list[Path]:
    """Return the runs that data.teacher names, each itself or as a sweep's winner."""
    return [find_run(Path(name).expanduser()) for name in split_names(config.data.teacher)]


def _check_teacher(teacher: Path) -> None:
    """Raise InputError unless a run is finished and judges reviews."""
    directory = RunDirectory(teacher)
    if not directory.config.is_file():
        raise InputError(f"data.teacher={teacher} is no run directory: name a finished run's")
    if directory.outcome()[0] != "finished":
        raise InputError(f"data.teacher={teacher} is not finished: let its training end")
    if directory.read_config().pretrain.objective:
        raise InputError(f"data.teacher={teacher} is a pre-training, which judges no review")


def ancestors(config: ConfigDict, taught: bool = False) -> Iterator[Path]:
    """Yield the run that a config starts from, the run that this started from, ...

    If `taught`, also the teachers of each of them.
    """
    pending: list[ConfigDict] = [config]
    seen: set[Path] = set()
    while pending:
        config = pending.pop(0)
        start = source_run(config.model.pretrained)
        runs = [start] if start else []
        for run in (*runs, *(teachers(config) if taught else ())):
            if run not in seen:
                seen.add(run)
                yield run
                if RunDirectory(run).config.is_file():
                    pending.append(RunDirectory(run).read_config())


def _read_source(run: Path, config: ConfigDict) -> ConfigDict:
    """Read the config of the run that a config starts from; InputError: it is another model."""
    directory = RunDirectory(run)
    directory.check_found()
    source = directory.read_config()
    if source.model.name != config.model.name:
        kinds = f"{source.model.name}, the config says model.name={config.model.name}"
        raise InputError(f"model.pretrained={run} is a run of {kinds}")
    return source


def check_sources(config: ConfigDict) -> None:
    """Raise InputError, or RunError, unless the runs that a config learns from can be read."""
    start = source_run(config.model.pretrained)
    for run in (*([start] if start else []), *teachers(config)):
        _beside_training(RunDirectory(run), _find_best)


def read_corpus(config: ConfigDict) -> Corpus:
    """Read a config's reviews."""
    with progress_bar(None, "reading reviews"):
        return load_corpus(DataConfig(**config.data.to_dict()))


def warn_of_leakage(config: ConfigDict, corpus: Corpus) -> None:
    """Warn if a run that a config learns from, or one before it, learned from held-out reviews.

    Held-out reviews that are in the training split too are no news: the statistics count those.
    """
    held = np.concatenate([corpus.splits[name].hashes for name in ("val", "test")])
    held = np.setdiff1d(held, corpus.splits["train"].hashes)
    for run in ancestors(config, taught=True):
        try:
            learned = _read_learned(run, config, corpus.statistics["data_hash"])
        except InputError as error:
            terminal.warn_once(f"{run} may know reviews that are held out here: {error}")
            continue
        if known := np.isin(held, learned).sum():
            terminal.warn_once(
                f"{run} learned from {known:,} of the {len(held):,} reviews that are held out "
                "here: their scores mislead"
            )


def _read_learned(run: Path, config: ConfigDict, data_hash: str) -> Shaped[np.ndarray, " texts"]:
    """Return the hashes of what a run has learned from.

    They are read again; none are returned if the run held out the reviews of this `data_hash`.
    InputError: its data are gone or have changed.
    """
    directory = RunDirectory(run)
    source, recorded = directory.read_config(), read_json(directory.env)["data"]
    if data_hash in (recorded["data_hash"], recorded.get("labeled_hash")):
        return np.array([], "S64")
    data = DataConfig(**source.data.to_dict())
    if data.source == config.data.source == "tfds":  # the same reviews wherever they are
        data = dataclasses.replace(data, path=config.data.path)
    if data.source == "tfds" and not is_prepared(data.path):
        raise InputError("IMDB, which it learned from, is not here to compare")
    with progress_bar(None, f"reading what {run.name} has learned from"):
        if source.pretrain.objective:
            corpus = load_text(data, source.pretrain.text, source.pretrain.unlabeled)
        else:
            corpus = load_corpus(data)
        learned = corpus.splits["train"].hashes
        if data.unlabeled and not source.pretrain.objective:
            more = unlabeled_reviews(data, source.pretrain.text)
            learned = np.concatenate([learned, more.hashes])
            if recorded.get("unlabeled_hash") not in (None, texts_hash(more)):
                raise InputError("its reviews without labels have changed since")
    if corpus.statistics["data_hash"] != recorded["data_hash"]:
        raise InputError("its own reviews have changed since")
    return learned
