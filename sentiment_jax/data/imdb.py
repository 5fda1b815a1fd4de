"""IMDB (Maas et al., 2011), from TFDS's files without TensorFlow, or from aclImdb."""

import contextlib
import gzip
import io
import os
import re
import sys
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sentiment_jax.data.texts import Texts, decode, read_files
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import regular

NAME = "imdb_reviews/plain_text/1.0.0"
URL = "http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
NETWORK_SECONDS = 5.0
OTHERWISE = (
    "set data.path to a prepared TFDS directory, an aclImdb folder or its .tar.gz; "
    "for reviews of your own, --config.data.path=reviews.csv"
)
FOLDERS = {  # of each split
    "train": ("train/neg", "train/pos"),
    "test": ("test/neg", "test/pos"),
    "unsupervised": ("train/unsup",),
}
# One folder around it at most; hidden files (macOS adds "._0_9.txt") are not reviews.
REVIEW = re.compile(r"(?:[^/]+/)?(((?:train|test)/(?:neg|pos|unsup))/[^./][^/]*\.txt)")


def read_tfds(path: str, splits: Sequence[str] = ("train", "test")) -> tuple[Texts, ...]:
    """Return some splits; the unlabeled texts of "unsupervised" have label 0.

    The path is a TFDS data directory, or the prepared version inside it; empty is $TFDS_DATA_DIR or
    ~/tensorflow_datasets. Absent reviews are downloaded and prepared there.
    """
    import tensorflow_datasets as tfds

    root, folder = _locate(path)
    try:
        if not is_prepared(path):
            prepare(root)
        builder = tfds.builder_from_directory(folder)
        return tuple(_read_split(builder, split) for split in splits)
    except InputError:
        raise
    except Exception as error:  # requests, TFDS, protobuf and array_record each raise their own.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"cannot read or prepare {folder} ({reason}): if it is damaged, or in a format that "
            f"only TensorFlow reads, set data.path to an empty folder; or {OTHERWISE}"
        ) from None


def is_prepared(path: str) -> bool:
    """Return whether `read_tfds` has nothing to download."""
    return (_locate(path)[1] / "dataset_info.json").exists()


def _locate(path: str) -> tuple[Path, Path]:
    root = Path(path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    return root, root if (root / "dataset_info.json").exists() else root / NAME


def _read_split(builder: Any, split: str) -> Texts:
    source = builder.as_data_source(split=split)
    records = source.__getitems__(range(len(source)))  # One call: 25,000 single reads take longer.
    texts = [record["text"].decode() for record in records]
    labels = [max(int(record["label"]), 0) for record in records]  # -1: there is none
    return Texts.from_texts(texts, labels, (f"{split}/{i}" for i in range(len(records))))


def prepare(root: Path) -> None:
    """Download aclImdb and write it as TFDS does, in array_record format, under `root`."""
    if root.is_file() or is_published(root):
        raise InputError(f"{root} is no TFDS directory: set data.source to folder (aclImdb) or csv")
    try:  # TFDS itself would retry for minutes
        request = urllib.request.Request(URL, method="HEAD")
        urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
    except OSError as error:  # also URLError and HTTPError
        why = getattr(error, "reason", "") or error
        problem = f"{root} has no imdb_reviews and {URL} fails ({why})"
        raise InputError(f"{problem}: {OTHERWISE}") from None
    import tensorflow_datasets as tfds

    original: Any = tfds.builder_cls("imdb_reviews")

    class Builder(original, skip_registration=True):  # type: ignore[call-arg]
        """TFDS's own, but its archive is read without TensorFlow."""

        name = original.name
        pkg_dir_path = original.pkg_dir_path
        url_infos = original.url_infos  # the published checksum

        def _split_generators(self, dl_manager: Any) -> Any:
            dl_manager.iter_archive = lambda path: (
                (name, io.BytesIO(raw)) for name, raw in stream_archive(Path(path))
            )
            return super()._split_generators(dl_manager)

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):  # TFDS says where it writes, in bold.
        Builder(data_dir=root, config="plain_text").download_and_prepare(file_format="array_record")


def is_published(path: Path) -> bool:
    """Return whether a path is one that `read_folder` takes."""
    folders = ("aclImdb", "train/pos")
    return path.name.endswith(".tar.gz") or any((path / name).is_dir() for name in folders)


def read_folder(path: str, splits: Sequence[str] = ("train", "test")) -> tuple[Texts, ...]:
    """Return some splits; ids are names like "test/neg/12_3.txt", unlabeled texts have label 0.

    The path is aclImdb, the folder around it, or a .tar.gz of either, in any order.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise InputError(f"data.path={path} does not exist: name an aclImdb folder or its .tar.gz")
    if (root / "aclImdb").is_dir():
        root /= "aclImdb"
    folders = [folder for split in splits for folder in FOLDERS[split]]
    texts: dict[str, str] = {}
    if root.is_dir():
        for folder in folders:
            texts |= read_files(root, f"{folder}/[!.]*.txt")
    else:
        for name, raw in stream_archive(root):
            if (match := REVIEW.fullmatch(name)) and match[2] in folders:
                texts[match[1]] = decode(raw, f"{path}: {match[1]}")
    for folder in folders:
        if not any(name.startswith(folder) for name in texts):
            raise InputError(f"{path} holds no {folder}/*.txt: it is not a full aclImdb")
    found = []
    for split in splits:
        names = [name for name in texts if name.startswith(FOLDERS[split])]
        labels = [int("/pos/" in name) for name in names]
        found.append(Texts.from_texts([texts[name] for name in names], labels, names))
    return tuple(found)


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
