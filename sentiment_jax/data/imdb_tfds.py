"""imdb_reviews of TensorFlow Datasets (TFDS), read and prepared without TensorFlow."""

import contextlib
import io
import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.data.imdb_folder import stream_archive
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.errors import InputError

NAME = "imdb_reviews/plain_text/1.0.0"
URL = "http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
NETWORK_SECONDS = 5.0
OTHERWISE = (
    "set data.path to a prepared TFDS directory, "
    "or data.source to folder and data.path to an aclImdb folder or its .tar.gz"
)


def read_tfds(path: str, splits: Sequence[str] = ("train", "test")) -> tuple[Reviews, ...]:
    """Return some splits; the labels of "unsupervised", which is unlabeled text, are 0.

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


def _read_split(builder: Any, split: str) -> Reviews:
    source = builder.as_data_source(split=split)
    records = source.__getitems__(range(len(source)))  # One call: 25,000 single reads take longer.
    texts = [record["text"].decode() for record in records]
    labels = [max(int(record["label"]), 0) for record in records]  # -1: there is none
    return Reviews.from_texts(texts, labels, (f"{split}/{i}" for i in range(len(records))))


def prepare(root: Path) -> None:
    """Download aclImdb and write it as TFDS does, in array_record format, under `root`."""
    if root.is_file() or any((root / name).is_dir() for name in ("aclImdb", "train/pos")):
        raise InputError(f"{root} is no TFDS directory: for aclImdb set data.source to folder")
    if problem := _network_problem():
        raise InputError(f"{root} has no imdb_reviews and {URL} fails ({problem}): {OTHERWISE}")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.imdb_reviews import imdb_reviews_dataset_builder as original

    class Builder(original.Builder, skip_registration=True):  # type: ignore[call-arg]
        """TFDS's own, but its archive is read without TensorFlow."""

        name = original.Builder.name
        pkg_dir_path = Path(original.__file__).parent
        url_infos = original.Builder.url_infos  # the published checksum

        def _split_generators(self, dl_manager: Any) -> Any:
            dl_manager.iter_archive = lambda path: (
                (name, io.BytesIO(raw)) for name, raw in stream_archive(Path(path))
            )
            return super()._split_generators(dl_manager)

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):  # TFDS says where it writes, in bold.
        builder = Builder(data_dir=root, config="plain_text")
        builder.download_and_prepare(file_format="array_record")


def _network_problem() -> str:
    """Return why URL cannot be fetched, or "", in seconds: TFDS itself retries for minutes."""
    try:
        request = urllib.request.Request(URL, method="HEAD")
        urllib.request.urlopen(request, timeout=NETWORK_SECONDS).close()
        return ""
    except OSError as error:  # URLError and HTTPError are OSErrors.
        return str(getattr(error, "reason", "") or error)
