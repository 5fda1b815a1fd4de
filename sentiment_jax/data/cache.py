"""Arrays that take long to compute, in the user's cache: files that may be deleted at any time."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def cache_folder() -> Path:
    """Return the folder sentiment_jax in XDG_CACHE_HOME or ~/.cache."""
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser() / "sentiment_jax"


def _path(key: bytes) -> Path:
    return cache_folder() / f"{hashlib.sha256(key).hexdigest()}.npz"


def read_cached(key: bytes) -> dict[str, np.ndarray] | None:
    """Return the arrays stored under a key, or None if the file is absent or damaged."""
    try:
        # np.load leaves a damaged file open if it opens it itself; the zip checks CRCs.
        with open(_path(key), "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return dict(stored)
    except Exception:  # Damage raises many kinds of errors; the arrays are computed again.
        return None


def write_cached(key: bytes, **arrays: Any) -> None:
    """Store arrays under a key that covers all they depend on; failing to write does no harm."""
    path = _path(key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            np.savez(Path(folder) / path.name, **arrays)
            os.replace(Path(folder) / path.name, path)
