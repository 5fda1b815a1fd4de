"""The aclImdb layout: a directory, or its .tar.gz, which is streamed."""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from sentiment_jax.data.reviews import Reviews, check_inside, decode, regular
from sentiment_jax.errors import InputError

FOLDERS = {  # of each split
    "train": ("train/neg", "train/pos"),
    "test": ("test/neg", "test/pos"),
    "unsupervised": ("train/unsup",),
}
# One folder around it at most; hidden files (macOS adds "._0_9.txt") are not reviews.
REVIEW = re.compile(r"(?:[^/]+/)?(((?:train|test)/(?:neg|pos|unsup))/[^./][^/]*\.txt)")


def read_folder(path: str, splits: Sequence[str] = ("train", "test")) -> tuple[Reviews, ...]:
    """Return some splits; ids are names such as "test/neg/12_3.txt", labels of "unsupervised" 0.

    The path is aclImdb, the folder around it, or a .tar.gz of either, in any order.
    """
    root = Path(path).expanduser()
    if not path or not root.exists():
        missing = f"data.path is {path!r}, which does not exist"
        raise InputError(f"{missing}: name an aclImdb folder or its .tar.gz")
    folders = [folder for split in splits for folder in FOLDERS[split]]
    texts = {}
    for name, raw in _walk(root, folders) if root.is_dir() else stream_archive(root):
        if (match := REVIEW.fullmatch(name)) and match[2] in folders:
            texts[match[1]] = decode(raw, f"{path}: {match[1]}")
    for folder in folders:
        if not any(name.startswith(folder) for name in texts):
            raise InputError(f"{path} holds no {folder}/*.txt: it is not a full aclImdb")
    found = []
    for split in splits:
        names = [name for name in texts if name.startswith(FOLDERS[split])]
        labels = [int("/pos/" in name) for name in names]
        found.append(Reviews.from_texts([texts[name] for name in names], labels, names))
    return tuple(found)


def _walk(path: Path, folders: Sequence[str]) -> Iterator[tuple[str, bytes]]:
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
                    raise InputError(f"{path} holds {member.name!r}, a path out of it: refused")
                if member.isreg():
                    yield str(name), archive.extractfile(member).read()  # type: ignore[union-attr]
                elif not member.isdir():
                    raise InputError(f"{path} holds {member.name!r}, a link or device: refused")
            while stream.read(1 << 20):  # The CRC comes at the very end.
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is no .tar.gz archive, or damaged ({error})") from None
