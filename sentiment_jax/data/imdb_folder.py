"""The aclImdb layout, {train,test}/{neg,pos}/*.txt: a directory, or its .tar.gz, streamed.

Its train/unsup holds reviews without labels.
"""

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sentiment_jax.data.reviews import Reviews, decode, regular
from sentiment_jax.errors import InputError

FOLDERS = ("train/neg", "train/pos", "test/neg", "test/pos")
UNLABELED = ("train/unsup",)
# One folder around it at most; hidden files (macOS adds "._0_9.txt") are no reviews.
REVIEW = re.compile(r"(?:[^/]+/)?(((?:train|test)/(?:neg|pos|unsup))/[^./][^/]*\.txt)")


def read_folder(path: str) -> tuple[Reviews, Reviews]:
    """Return the training and the test split; ids are names such as "test/neg/12_3.txt".

    The path is aclImdb, the folder around it, or a .tar.gz of either, in any order.
    """
    texts = _read_texts(path, FOLDERS)
    splits = ([review for review in texts if review.startswith(s)] for s in ("train", "test"))
    pool, test = (
        Reviews.from_texts([texts[n] for n in names], [int("/pos/" in n) for n in names], names)
        for names in splits
    )
    return pool, test


def read_unlabeled(path: str) -> Reviews:
    """Return the reviews of train/unsup; the path is that of `read_folder`."""
    texts = _read_texts(path, UNLABELED)
    return Reviews.from_texts(texts.values(), ids=texts)


def _read_texts(path: str, folders: tuple[str, ...]) -> dict[str, str]:
    """Return the texts of some folders by name; InputError if one of them has none."""
    root = Path(path).expanduser()
    if not path or not root.exists():
        missing = f"data.path is {path!r}, which does not exist"
        raise InputError(f"{missing}: name an aclImdb folder or its .tar.gz")
    texts: dict[str, str] = {}
    for name, raw in _walk(root, folders) if root.is_dir() else stream_archive(root):
        if (match := REVIEW.fullmatch(name)) and match[2] in folders:
            review = match[1]
            if review in texts:
                raise InputError(f"{path} holds {review} twice")
            texts[review] = decode(raw, f"{path}: {review}")
    for folder in folders:
        if not any(review.startswith(folder) for review in texts):
            raise InputError(f"{path} holds no {folder}/*.txt: it is not a full aclImdb")
    return texts


def _walk(path: Path, folders: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    try:
        for folder in folders:
            files = sorted((root / folder).glob("*.txt"))
            for path in (root / folder, *filter(Path.is_symlink, files)):
                if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
                    raise InputError(f"{path} is a link out of {root}: put a copy in its place")
            for file in files:
                yield file.relative_to(root).as_posix(), regular(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None


def stream_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each regular file; links and paths that lead out are refused."""
    try:
        # Not tarfile's own "r|gz": it ignores the CRC and lets flipped bits through as text.
        with gzip.open(regular(path)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                outside = name.is_absolute() or ".." in name.parts
                if outside or not (member.isreg() or member.isdir()):
                    what = "a path outside the archive" if outside else "a link or device"
                    raise InputError(f"{path} holds {member.name!r}, {what}: refused")
                if member.isreg():
                    yield str(name), archive.extractfile(member).read()  # type: ignore[union-attr]
            while stream.read(1 << 20):  # The CRC comes at the very end.
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is no .tar.gz archive, or damaged ({error})") from None
