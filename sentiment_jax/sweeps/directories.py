"""What a directory holds: a run, a sweep or a comparison, and which of its runs is meant."""

import dataclasses
from pathlib import Path
from typing import TypeVar

from sentiment_jax.errors import InputError
from sentiment_jax.storage.format import read_numbered, write_numbered
from sentiment_jax.storage.run_directory import COMPARISON_FILE, SWEEP_FILE, RunDirectory
from sentiment_jax.sweeps.plan import Sweep, read_sweep

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison as comparison.json describes it."""

    directory: Path  # holds comparison.json and a run of each recipe
    data_hash: str
    choose_by: str  # the metric
    text_hash: str = ""  # of unlabeled text, if any
    # The folder of the chosen recipe's run, before it is tested: after a kill in the test, no other
    # metric can choose a second model.
    chosen: str = ""

    def write(self) -> None:
        """Write comparison.json."""
        fields = {**vars(self)}
        write_numbered(fields.pop("directory") / COMPARISON_FILE, fields)

    def best_run(self) -> Path:
        """Return the chosen recipe's run; InputError: none is chosen yet."""
        if not self.chosen:
            problem = f"{self.directory} is a comparison without a choice yet"
            raise InputError(f"{problem}: let its command end")
        return self.directory / self.chosen


NOUNS = {RunDirectory: "run", Sweep: "sweep", Comparison: "comparison"}


def open_directory(path: Path) -> RunDirectory | Sweep | Comparison | None:
    """Return what a directory holds, if it is one of these."""
    if (path / COMPARISON_FILE).is_file():
        return Comparison(path, **read_numbered(path / COMPARISON_FILE))
    if (path / SWEEP_FILE).is_file():
        return read_sweep(path)
    run = RunDirectory(path)
    return run if run.config.is_file() else None


def open_own(path: Path, kind: type[Kind]) -> Kind | None:
    """Return what of a kind a directory holds, if anything; InputError: it is of another kind."""
    found = open_directory(path)
    if found is None or isinstance(found, kind):
        return found
    raise InputError(f"{path} holds a {NOUNS[type(found)]}: choose another --workdir")


def find_run(directory: Path) -> Path:
    """Return the winner of a sweep or the choice of a comparison; or else the directory itself.

    InputError: there is no winner or choice yet.
    """
    found = open_directory(directory)
    return found.best_run() if isinstance(found, Sweep | Comparison) else directory
