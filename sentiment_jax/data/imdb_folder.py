"""The aclImdb layout, {train,test}/{neg,pos}/*.txt: a directory, or its .tar.gz, streamed.

Its train/unsup holds unlabeled text.
"""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sentiment_jax.data.reviews import Reviews, check_inside, decode, regular
from sentiment_jax.errors import InputError

FOLDERS = ("train/neg", "train/pos", "test/neg", "test/pos")
UNLABELED = ("train/unsup",)
# One folder around it at most; hidden files (macOS adds "._0_9.txt") are not reviews.
REVIEW = re.compile(r"(?:[^/]+/)?(((?:train|test)/(?:neg|pos|unsup))/[^./][^/]*\.txt)")


def read_folder(path: str) -> tuple[Reviews, Reviews]:
    """Return the training and the test split; ids are names such as "test/neg/12_3.txt".

    The path is aclImdb, the folder around it, or a .tar.gz of either, in any order.
    """
    texts = _read_texts(path, FOLDERS)
    train = {name: text for name, text in texts.items() if name.startswith("train/")}
    test = {name: text for name, text in texts.items() if name.startswith("test/")}
    return _label(train), _label(test)


def read_unlabeled(path: str) -> Reviews:
    """Return the reviews of train/unsup; the path is that of `read_folder`."""
    return _label(_read_texts(path, UNLABELED))


def _label(texts: dict[str, str]) -> Reviews:
    return Reviews.from_texts(texts.values(), [int("/pos/" in name) for name in texts], texts)


def _read_texts(path: str, folders: tuple[str, ...]) -> dict[str, str]:
    """Return the texts of some folders by name; InputError if one of them has none."""
    root = Path(path).expanduser()
    if not path or not root.exists():
        missing = f"data.path is {path!r}, which does not exist"
        raise InputError(f"{missing}: name an aclImdb folder or its .tar.gz")
    texts = {}
    for name, raw in _walk(root, folders) if root.is_dir() else stream_archive(root):
        if (match := REVIEW.fullmatch(name)) and match[2] in folders:
            texts[match[1]] = decode(raw, f"{path}: {match[1]}")
    for folder in folders:
        if not any(review.startswith(folder) for review in texts):
            raise InputError(f"{path} holds no {folder}/*.txt: it is not a full aclImdb")
    return texts


def _walk(path: Path, folders: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    try:
        for folder in folders:
            files = sorted((root / folder).glob("*.txt"))
            for entry in (root / folder, *filter(Path.is_symlink, files)):
                check_inside(entry, root)
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
                if name.is_absolute() or ".." in name.parts:
                    outside = f"{member.name!r}, a path outside the archive"
                    raise InputError(f"{path} holds {outside}: refused")
                if member.isreg():
                    yield str(name), archive.extractfile(member).read()  # type: ignore[union-attr]
                elif not member.isdir():
                    raise InputError(f"{path} holds {member.name!r}, a link or device: refused")
            while stream.read(1 << 20):  # The CRC comes at the very end.
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is no .tar.gz archive, or damaged ({error})") from None
