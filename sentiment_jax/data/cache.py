"""Copies of arrays that take long to make, in a folder that may be deleted at any time."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sentiment_jax.config.schema import DataConfig


def cache_folder(data: DataConfig) -> Path:
    """Return data.cache, or sentiment_jax in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(data.cache or Path(user) / "sentiment_jax").expanduser()


def _file(data: DataConfig, key: bytes) -> Path:
    return cache_folder(data) / f"{hashlib.sha256(key).hexdigest()}.npz"


def read_copy(data: DataConfig, key: bytes) -> dict[str, Any] | None:
    """Return the arrays kept for all that a key says they depend on; None: absent or damaged."""
    try:
        # np.load leaves a damaged file open if it opens it itself; the zip checks CRCs.
        with open(_file(data, key), "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return dict(stored)
    except Exception:  # in one of many ways: it is only a copy
        return None


def keep_copy(data: DataConfig, key: bytes, **arrays: Any) -> None:
    """Keep arrays for a key; a folder that can't be written, or a full disk, does no harm."""
    file = _file(data, key)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            np.savez(Path(folder) / file.name, **arrays)
            os.replace(Path(folder) / file.name, file)
