"""A run directory: its files, its lock, its origin, and whether a run may go on in it."""

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import importlib.metadata
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32, Int64
from ml_collections import ConfigDict

from sentiment_jax.config import HARMLESS, config_difference, config_from_json
from sentiment_jax.data import tokenization
from sentiment_jax.errors import InputError, InUse
from sentiment_jax.runtime import processes
from sentiment_jax.storage.checkpoints import steps_in
from sentiment_jax.storage.files import file_sha256, read_json, write_csv


def read_run_config(workdir: Path) -> ConfigDict:
    """Reads a run's config.json back."""
    return config_from_json(read_json(workdir / "config.json"))


RUN_FILES = (
    "config.json",
    "env.json",
    "tokenizer.json",
    "metrics.jsonl",
    "result.json",
    "curves.png",
    "predictions.csv",
    "lengths.csv",
    "failed.json",
)


def remove_run(workdir: Path) -> None:
    """Deletes the files of an earlier run, and nothing else."""
    if not processes.is_main():
        return
    for name in RUN_FILES:
        (workdir / name).unlink(missing_ok=True)
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)


def check_config(workdir: Path, config: ConfigDict, allow_changes: bool) -> list[str]:
    """Compares the run's config with the one asked for.

    Returns:
      The differences that matter; only non-empty when they are allowed.

    Raises:
      InputError: they differ, and that was not allowed.
    """
    if not (workdir / "config.json").exists():
        if steps_in(workdir / "checkpoints"):
            raise InputError(
                f"{workdir} holds checkpoints but no config.json: put that file back, or start "
                "over with --fresh"
            )
        return []
    recorded = read_run_config(workdir)
    changes = [
        change
        for change in config_difference(recorded, config)
        if change.split(":")[0] not in HARMLESS
    ]
    if changes and not allow_changes:
        raise InputError(
            f"{workdir} was started with another config ({'; '.join(changes)}); choose another "
            "--workdir, --fresh to start over, or --allow_changes to go on all the same"
        )
    return changes


def tokenizer_sha256(workdir: Path) -> str:
    """The hash of the run's tokenizer.json."""
    return file_sha256(workdir / "tokenizer.json")


def load_run_tokenizer(workdir: Path) -> Any:
    """The run's tokenizer.json.

    Raises:
      InputError: missing, damaged, or not the one that the run was trained with.
    """
    tokenizer = tokenization.load_tokenizer(workdir / "tokenizer.json")
    recorded = read_json(workdir / "env.json").get("tokenizer_sha256")
    if recorded not in (None, tokenizer_sha256(workdir)):  # None: a run from before it was kept
        raise InputError(
            f"{workdir / 'tokenizer.json'} is not the tokenizer that the run was trained with "
            f"(sha256 {recorded[:12]} in env.json); put that file back"
        )
    return tokenizer


def check_same_data(workdir: Path, statistics: dict[str, Any]) -> None:
    """Compares the data with those that env.json records.

    Raises:
      InputError: another data hash.
    """
    recorded = read_json(workdir / "env.json")["data"]
    if recorded["data_hash"] != statistics["data_hash"]:
        raise InputError(
            f"the data changed since {workdir} began: hash {recorded['data_hash'][:12]} with "
            f"{recorded['counts']} then, {statistics['data_hash'][:12]} with "
            f"{statistics['counts']} now; point "
            "--config.data.path at the data of the run, or start in another --workdir"
        )


def find_run(workdir: Path) -> None:
    """Checks that `workdir` is a run directory with checkpoints.

    Raises:
      InputError: missing, empty or one level too deep; names the path and the steps found.
    """
    if not workdir.is_dir():
        raise InputError(f"no run directory at {workdir}: --workdir names a finished run's folder")
    found = steps_in(workdir / "checkpoints")
    if not (workdir / "config.json").is_file() or not found:
        hint = ""
        for parent in (workdir.parent, workdir.parent.parent):
            if (parent / "config.json").is_file():
                hint = f"; did you mean --workdir={parent}?"
                break
        raise InputError(
            f"{workdir} is no run directory (config.json and checkpoints/ expected, steps found: "
            f"{found or steps_in(workdir) or 'none'}){hint}"
        )


def prepare_workdir(workdir: Path) -> None:
    """Creates the run directory and proves that it can be written.

    Raises:
      InputError: it is a file, or cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe.{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to --workdir={workdir}: {error.strerror}; name a folder that you own"
        ) from error


@contextlib.contextmanager
def lock_run(workdir: Path) -> Iterator[None]:
    """Holds the run directory for this process; the kernel frees a dead process's lock.

    Raises:
      InUse: another process holds it (its pid, host and start are named).
    """
    if not processes.is_main():
        yield
        return
    with (workdir / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InUse(
                f"{workdir} is in use by {holder}; wait for it, or choose another --workdir"
            ) from error
        file.seek(0)
        file.truncate()
        since = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        yield


def command_line() -> str:
    """The command that started this process, for a person to repeat."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def describe_environment() -> dict[str, Any]:
    """Versions, devices, machine, git revision and command line, for env.json."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "devices": [f"{device.platform}: {device.device_kind}" for device in devices],
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git_revision": revision,
        "command": command_line(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_predictions(
    path: Path,
    ids: Sequence[str],
    labels: Int32[np.ndarray, " reviews"],
    p_positive: Float32[np.ndarray, " reviews"],
) -> None:
    """Writes id,label,predicted,p_positive, one row a review, atomically."""
    write_csv(
        path,
        ["id", "label", "predicted", "p_positive"],
        (
            [row_id, label, int(p > 0.5), f"{p:.6f}"]
            for row_id, label, p in zip(ids, labels, p_positive, strict=True)
        ),
    )


def write_lengths(
    path: Path,
    ids: Sequence[str],
    words: Int32[np.ndarray, " reviews"],
    tokens: Int64[np.ndarray, " reviews"],
    max_length: int,
) -> None:
    """Writes id,words,tokens,truncated: the whole review's words, the tokens the model read.

    A review counts as truncated where it fills `max_length` (it may just be that long).
    """
    write_csv(
        path,
        ["id", "words", "tokens", "truncated"],
        (
            [row_id, w, t, int(t >= max_length)]
            for row_id, w, t in zip(ids, words, tokens, strict=True)
        ),
    )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run stands: open, finished (result.json) or failed (failed.json: reason, step)."""

    status: str
    content: dict[str, Any]


def read_outcome(directory: Path) -> Outcome:
    """Looks into one run directory."""
    for status, name in (("finished", "result.json"), ("failed", "failed.json")):
        if (directory / name).exists():
            return Outcome(status, read_json(directory / name))
    return Outcome("open", {})
