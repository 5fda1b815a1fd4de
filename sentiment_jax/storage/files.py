"""Files that a reader sees whole: atomic writes, sealed JSON, and checksums of all other files.

A JSON file ends with the sha256 of its own other entries. It also carries those of the files beside
it that were written before it, as "<stem>_sha256". So a flipped bit is noticed in every file.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.data.reviews import regular
from sentiment_jax.data.table import FORMATS, JSON_LINES, to_text
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes
from sentiment_jax.runtime.terminal import visible

SEAL = "sha256"
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.I)  # no formula


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file that then replaces `path`; what killed processes of this host left goes."""
    start = f".{path.name}.{socket.gethostname()}."
    for other in path.parent.iterdir() if Path("/proc/self").exists() else ():
        process = other.name.removeprefix(start)
        if process != other.name and not Path("/proc", process).exists():
            other.unlink(missing_ok=True)
    temporary = path.with_name(f"{start}{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in one rename; of several processes only the main one writes."""
    if not processes.is_main():
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN), indented, atomically, its own sha256 as the last entry."""
    sealed = {**value, SEAL: _seal(value)}
    write_atomically(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str = "put that file back") -> dict[str, Any]:
    """Read a file that `write_json` wrote; InputError if anything in it has changed since."""
    try:
        value = json.loads(regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}), half-written say: {remedy}") from error
    if not isinstance(value, dict) or SEAL not in value:
        raise InputError(f"{path} has no {SEAL}, another program wrote it: {remedy}")
    if value.pop(SEAL) != _seal(value):
        raise InputError(f"{path} is not what was written (its {SEAL} differs): {remedy}")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(*paths: Path) -> dict[str, str]:
    """Return the entries that a JSON file carries for files beside it."""
    return {f"{path.stem}_sha256": file_sha256(path) for path in paths}


def check_checksum(path: Path, register: Mapping[str, Any], remedy: str) -> None:
    """Raise InputError, with the remedy, unless a file is what a JSON file's content says."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: {remedy}") from error
    if found != register.get(f"{path.stem}_sha256"):
        raise InputError(f"{path} is not what was written (its sha256 differs): {remedy}")


def safe_cell(value: Any) -> Any:
    """Return a table's cell: NaN as None, and no text that a spreadsheet would run."""
    if not isinstance(value, str):
        return None if value != value else value
    text = visible(value.replace("\r\n", "\n"))
    if value.startswith(("=", "+", "-", "@", "\t", "\r")) and not NUMBER.fullmatch(value):
        return f"'{text}"
    return text


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ","
) -> None:
    """Write a table atomically, its cells made safe."""
    text = io.StringIO(newline="")
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    table.writerow(map(safe_cell, header))
    table.writerows(map(safe_cell, row) for row in rows)
    write_atomically(path, text.getvalue())


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write values as JSON lines, CSV or TSV, by the path's name: what `read_table` reads."""
    kind = FORMATS[path.suffix.lower()]
    if kind == JSON_LINES:
        objects = (dict(zip(header, row, strict=True)) for row in rows)
        write_atomically(path, "".join(f"{json.dumps(value)}\n" for value in objects))
    else:
        write_csv(path, header, ([*map(to_text, row)] for row in rows), kind)
