"""The runs that a run descends from: its source of parameters, its teachers, and theirs.

Held-out texts that one of them was trained on make scores meaningless: `warn_of_leakage`.
"""

import contextlib
import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from ml_collections import ConfigDict

from sentiment_jax.config.schema import Config
from sentiment_jax.data.dataset import Dataset
from sentiment_jax.data.imdb import is_prepared
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.unlabeled import training_dataset, unlabeled_texts
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub
from sentiment_jax.huggingface.weights import choose_weights
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import file_sha256, read_json
from sentiment_jax.storage.run_directory import RunDirectory, find_teachers, source_run
from sentiment_jax.training.trained_model import best_sha256


def parents(config: ConfigDict | Config) -> list[Path]:
    """Return the runs that a config learns from: the one that it starts from, and its teachers."""
    start = source_run(config.model.pretrained)
    return ([start] if start else []) + find_teachers(config.data.teacher)


def named_sources(config: ConfigDict | Config) -> tuple[str, str]:
    """Return the names of the sources that a config learns from."""
    return config.model.pretrained, config.data.teacher


def source_hashes(config: Config) -> list[str]:
    """Return the sha256 of a config's sources: parameters of runs, a file of weights."""
    hashes = [best_sha256(run) for run in parents(config)]
    if (name := config.model.pretrained) and not source_run(name):
        folder, _ = hub.find_pretrained(name, getattr(config.model, "revision", ""))
        hashes.append(file_sha256(folder / choose_weights(os.listdir(folder), name)))
    return hashes


def check_same_sources(
    config: Config, directory: RunDirectory, began_with: list[str] | None = None
) -> list[str]:
    """Return a config's `source_hashes`; InputError unless a run began with, or recorded, them."""
    found = source_hashes(config)  # wherever the sources are now
    if began_with is None:
        began_with = read_json(directory.env)["sources"]
    if began_with != found:
        names = " or ".join(filter(None, named_sources(config)))
        raise InputError(
            f"{directory.path} learned from other parameters than those in {names} (their sha256 "
            "differs): name the former, wherever they are now, or start over with --fresh"
        )
    return found


def ancestors(config: Config) -> list[Path]:
    """Return the runs that a config learns from, the runs that these learned from, ..."""
    found = [*dict.fromkeys(parents(config))]
    for run in found:  # which grows meanwhile
        if RunDirectory(run).config.is_file():
            learned_from = dict.fromkeys(parents(RunDirectory(run).read_config()))
            found += [other for other in learned_from if other not in found]
    return found


def warn_of_leakage(config: Config, dataset: Dataset) -> None:
    """Warn if a run that a config descends from was trained on texts that are held out here.

    Held-out texts that the training split repeats don't count: the statistics count them.
    Nor does text that was learned without labels count in a fold of a cross-validation.
    """
    splits = {name: dataset.splits[name].hashes for name in ("val", "test")}
    for run in ancestors(config):
        directory = RunDirectory(run)
        names = ["val", "test"]
        with contextlib.suppress(InputError):  # which is told of below
            if not config.data.held_out and directory.read_config().pretrain.objective:
                names = ["test"]
        held_out = np.concatenate([splits[name] for name in names])
        held_out = np.setdiff1d(held_out, dataset.splits["train"].hashes)
        if not len(held_out):
            continue
        try:
            trained_on = _read_training_text(run, config, dataset.statistics["data_hash"])
            check_same_sources(directory.read_config(), directory)
        except InputError as error:
            terminal.warn_once(
                f"{run} may have been trained on texts that are held out here: {error}"
            )
            continue
        texts = f"the {len(held_out):,} texts that are held out here"
        _warn_of_shared(run, trained_on, held_out, texts)


def warn_of_training_texts(run: Path, texts: Texts) -> None:
    """Warn if a run was trained on some of these texts, unless its data are gone or changed."""
    with contextlib.suppress(InputError):
        trained_on = _read_training_text(run, RunDirectory(run).read_config())
        _warn_of_shared(run, trained_on, texts.hashes, f"these {len(texts):,} texts")


def _warn_of_shared(run: Path, trained_on: np.ndarray, scored: np.ndarray, texts: str) -> None:
    if shared := np.isin(scored, trained_on).sum():
        leakage = f"{run} was trained on {shared:,} of {texts} (leakage)"
        terminal.warn_once(f"{leakage}: their scores mislead")


def _read_training_text(
    run: Path, config: Config, data_hash: str = ""
) -> Shaped[np.ndarray, " texts"]:
    """Return the hashes of the texts that a run was trained on, by reading them again.

    None are returned if the run held out the texts of a given `data_hash`. InputError: its data
    are gone or have changed.
    """
    directory = RunDirectory(run)
    source = directory.read_config()
    recorded = read_json(directory.env)["data"]
    if data_hash in (recorded["data_hash"], recorded.get("labeled_hash")):
        return np.array([], "S64")
    data = source.data
    if data.source == config.data.source == "tfds":  # the same texts wherever they are
        data = dataclasses.replace(data, path=config.data.path)
    if data.source == "tfds" and not is_prepared(data.path):
        raise InputError("IMDB, which it was trained on, is not here to compare")
    with terminal.progress_bar(None, f"reading the training text of {run.name}"):
        dataset = training_dataset(dataclasses.replace(source, data=data))
        trained_on = dataset.splits["train"].hashes
        if data.teacher:
            unlabeled = unlabeled_texts(data, source.pretrain.text)
            trained_on = np.concatenate([trained_on, unlabeled.hashes])
            if recorded["unlabeled_hash"] != unlabeled.texts_hash:
                raise InputError("its unlabeled text has changed since")
    if dataset.statistics["data_hash"] != recorded["data_hash"]:
        raise InputError("its own texts have changed since")
    return trained_on
