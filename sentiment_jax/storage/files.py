"""Files that a reader sees whole: atomic writes, sealed JSON, and checksums of all other files.

A JSON file ends with the sha256 of its own other entries. It also carries the sha256 of files
beside it, written earlier, as "<stem>_sha256". So a flipped bit is noticed in every file.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes
from sentiment_jax.runtime.terminal import UNSEEN

SEAL = "sha256"
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.I)  # no formula
FORMULA = re.compile(r"'*[=+@\t-]")  # or what `write_cell` has made of one
CODE = "u([0-9a-f]{4})"  # of a character in a cell, behind a backslash


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file that then replaces `path`; remove those that killed processes here left."""
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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one rename; of several processes only the main one writes."""
    if not processes.is_main():
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write strict JSON (no NaN), indented, atomically, its own sha256 as the last entry."""
    sealed = {**value, SEAL: _seal(value)}
    write_atomically(path, json.dumps(sealed, indent=2, allow_nan=False) + "\n")


def write_array(path: Path, array: np.ndarray) -> dict[str, str]:
    """Write a .npy file atomically, in the main process; return its entry of a JSON file."""
    np.save(buffer := io.BytesIO(), array)
    write_atomically(path, buffer.getvalue())
    return checksums(path) if processes.is_main() else {}


def read_array(path: Path, register: Mapping[str, Any], remedy: str) -> np.ndarray:
    """Read a file that `write_array` wrote; InputError unless a JSON file's content has its sum."""
    check_checksum(path, register, remedy)
    return np.load(path, allow_pickle=False)


def regular(path: Path, *, pipe: bool = False) -> Path:
    """Return a path to read to its end; OSError for a socket, a device or (if no `pipe`) a FIFO."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO if pipe else None):
        raise OSError(errno.EINVAL, "it is a FIFO, socket or device, not a file", str(path))
    return path


def read_json(path: Path, remedy: str = "put that file back") -> dict[str, Any]:
    """Read a file that `write_json` wrote; InputError if anything in it has changed since."""
    try:
        value = json.loads(regular(path).read_text(encoding="utf-8"))
    except PermissionError:
        raise  # the file may be whole: no remedy that replaces it
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: {remedy}") from error
    except (ValueError, RecursionError) as error:
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
    """Raise InputError, with the remedy, unless a file has the sha256 that its register holds."""
    try:
        found = file_sha256(path)
    except PermissionError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: {remedy}") from error
    if found != register.get(f"{path.stem}_sha256"):
        raise InputError(f"{path} is not what was written (its sha256 differs): {remedy}")


def write_cell(value: Any) -> Any:
    """Return a table's cell: NaN as None, and no text that a spreadsheet or terminal would run.

    A character that can't be seen stands as its code, as does a backslash before such a code.
    """
    if not isinstance(value, str):
        return None if value != value else value
    hidden = f"(?!\r\n){UNSEEN}|\\\\(?={CODE})"
    seen = re.sub(hidden, lambda found: f"\\u{ord(found[0]):04x}", value)
    return f"'{seen}" if FORMULA.match(seen) and not NUMBER.fullmatch(seen) else seen


def read_cell(cell: str) -> str:
    """Return the text of which `write_cell` made a cell."""
    seen = cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell
    return re.sub(rf"\\{CODE}", lambda found: chr(int(found[1], 16)), seen)


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ","
) -> None:
    """Write a table atomically, its cells made safe."""
    text = io.StringIO(newline="")
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    table.writerow(map(write_cell, header))
    table.writerows(map(write_cell, row) for row in rows)
    write_atomically(path, text.getvalue())
