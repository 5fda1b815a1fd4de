"""What a run writes besides checkpoints: JSON files, metrics.jsonl, the lock, progress."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes

SEAL = "sha256"  # of a JSON file's other entries: a flipped digit would be read as a number


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader sees the old file or the new one, whole.

    Of several processes only the first one writes.
    """
    if not processes.is_main():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes strict JSON (no NaN), indented, atomically, its own sha256 as the last entry."""
    sealed = {**value, SEAL: _seal(value)}
    write_atomically(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON file of a run; one without a seal (of an older run) is taken as it is.

    Raises:
      InputError: missing, not JSON, or not what was written.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): half-written or not ours") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: half-written or not ours")
    seal = value.pop(SEAL, None)
    if seal not in (None, _seal(value)):
        raise InputError(
            f"{path} is not what was written (its sha256 differs): put that file back; if you "
            f"changed it on purpose, remove its entry {SEAL}"
        )
    return value


def _seal(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str | None, remedy: str) -> None:
    """Refuses a file that is not what was written; None (of an older run) accepts any.

    Raises:
      InputError: missing, or another hash; ends with the remedy.
    """
    try:
        if expected is not None and expected != file_sha256(path):
            raise InputError(f"{path} is not what was written (its sha256 differs): {remedy}")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: {remedy}") from error


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table atomically."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_atomically(path, text.getvalue())
