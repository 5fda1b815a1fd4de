"""What a run writes besides checkpoints: JSON files, metrics.jsonl, the lock, progress."""

import contextlib
import csv
import datetime
import errno
import fcntl
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64
from tqdm import tqdm

from sentiment_jax import processes
from sentiment_jax.errors import InputError, InUse

SEAL = "sha256"  # of a JSON file's other entries: a flipped digit would be read as a number


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader sees the old file or the new one, whole.

    Of several processes only the first one writes.
    """
    if not processes.is_first():
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
def lock(workdir: Path) -> Iterator[None]:
    """Holds the run directory for this process; the kernel frees a dead process's lock.

    Raises:
      InUse: another process holds it (its pid, host and start are named).
    """
    if not processes.is_first():
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


def environment() -> dict[str, Any]:
    """Versions, devices, machine, git revision and command line, for env.json."""
    import jax

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


class MetricsLog:
    """metrics.jsonl: one JSON object a line; every (step, split) once."""

    def __init__(self, path: Path, records: list[dict[str, Any]]):
        """Writes the file anew.

        Args:
          path: the file.
          records: its lines so far, as the checkpoint knows them; `write` adds to them.
        """
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
        self._path, self._records = path, records

    def write(self, **record: Any) -> None:
        """Appends one line: step, epoch, split, loss, accuracy, examples, seconds, learning_rate.

        A number that is not finite becomes null: the file is strict JSON.
        """
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        if not processes.is_first():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._records.append(finite)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics.jsonl; a line cut short by a kill is passed over."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


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


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table atomically."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_atomically(path, text.getvalue())


def progress(total: int, description: str, *, initial: int = 0, unit: str = "step") -> tqdm:
    """A progress bar with ETA on stderr; where that is no terminal, a line every half minute."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        dynamic_ncols=terminal,
        leave=False,
        delay=0.0 if terminal else 30.0,
        mininterval=0.2 if terminal else 30.0,
        maxinterval=10.0 if terminal else 60.0,
        file=sys.stderr,
        ascii=None if terminal else True,
        disable=not processes.is_first(),
    )
