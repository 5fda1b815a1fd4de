"""The runs that a run descends from: its source of parameters, its teachers, and theirs.

Held-out texts that one of them was trained on make scores meaningless: `warn_of_leakage`. So each
run records the hashes of its training texts and of theirs, and none of them is needed any more.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt64
from ml_collections import ConfigDict

from sentiment_jax.config.schema import Config
from sentiment_jax.data.dataset import Dataset
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.unlabeled import KINDS, NOTHING
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub
from sentiment_jax.huggingface.weights import choose_weights
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import file_sha256, read_array, read_json
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
            "differs): name the former, wherever they are now, or choose another --workdir"
        )
    return found


def short_hashes(texts: Texts) -> UInt64[np.ndarray, " texts"]:
    """Return the first 64 bits of each text's sha256."""
    digits = texts.hashes.astype("S16").tobytes().decode()
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)


def learned_text(
    config: Config, labeled: Texts = NOTHING, unlabeled: Texts = NOTHING
) -> dict[str, UInt64[np.ndarray, " _"]]:
    """Return the short hashes of what a run and those that it descends from learn from, by kind."""
    found = [_read_learned(run) for run in parents(config)]
    found.append({"labeled": short_hashes(labeled), "unlabeled": short_hashes(unlabeled)})
    return {kind: np.unique(np.concatenate([of[kind] for of in found])) for kind in KINDS}


def _read_learned(run: Path) -> dict[str, UInt64[np.ndarray, " _"]]:
    """Return what `learned_text` returned when a run began; nothing if it recorded none."""
    directory = RunDirectory(run)
    env = read_json(directory.env)
    found = dict.fromkeys(KINDS, np.array([], np.uint64))
    for kind, path in directory.learned.items():
        if f"{path.stem}_sha256" in env:
            found[kind] = read_array(path, env, "put that file back, or train that run again")
    return found


def warn_of_leakage(config: Config, dataset: Dataset) -> None:
    """Warn if a run that a config learns from descends from texts that are held out here.

    Held-out texts that the training split repeats don't count: the statistics count them.
    Nor does text that was learned without labels count in a fold of a cross-validation.
    """
    hashes = {name: short_hashes(texts) for name, texts in dataset.splits.items()}
    test = np.setdiff1d(hashes["test"], hashes["train"])
    held_out = np.union1d(test, np.setdiff1d(hashes["val"], hashes["train"]))
    counted = held_out if config.data.held_out else test
    for run in dict.fromkeys(parents(config)):
        learned = _read_learned(run)
        labeled = np.intersect1d(held_out, learned["labeled"])
        shared = np.union1d(labeled, np.intersect1d(counted, learned["unlabeled"]))
        _warn_of_shared(run, len(shared), f"the {len(held_out):,} texts that are held out here")


def warn_of_training_texts(run: Path, texts: Texts) -> None:
    """Warn if a run, or one that it descends from, was trained on some of these texts."""
    learned = np.concatenate([*_read_learned(run).values()])
    shared = int(np.isin(short_hashes(texts), learned).sum())
    _warn_of_shared(run, shared, f"these {len(texts):,} texts")


def _warn_of_shared(run: Path, shared: int, texts: str) -> None:
    if shared:
        leakage = f"{run} was trained on {shared:,} of {texts} (leakage)"
        terminal.warn_once(f"{leakage}: their scores mislead")
