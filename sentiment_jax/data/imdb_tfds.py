"""imdb_reviews of TensorFlow Datasets (TFDS), read and prepared without TensorFlow."""

import contextlib
import io
import os
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentiment_jax.data.imdb_folder import stream_archive
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.errors import InputError

NAME = "imdb_reviews/plain_text/1.0.0"
URL = "http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SIZE = 84_125_825
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
NETWORK_SECONDS = 5.0
OTHERWISE = (
    "set data.path to a prepared TFDS directory, "
    "or data.source to folder and data.path to an aclImdb folder or its .tar.gz"
)


def read_tfds(path: str) -> tuple[Reviews, Reviews]:
    """Return the training and the test split, never the unsupervised one.

    Args:
      path: TFDS data directory, or the prepared version inside it; empty is $TFDS_DATA_DIR or
        ~/tensorflow_datasets. If it is absent, it is downloaded and prepared there.

    Raises:
      InputError: absent and no network, in a format that needs TensorFlow, or damaged.
    """
    import tensorflow_datasets as tfds

    root = Path(path or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = root if (root / "dataset_info.json").exists() else root / NAME
    if not (folder / "dataset_info.json").exists():
        if root.is_file() or any((root / name).is_dir() for name in ("aclImdb", "train/pos")):
            raise InputError(f"{root} is no TFDS directory: for aclImdb set data.source to folder")
        prepare(root)
    try:
        builder = tfds.builder_from_directory(folder)
        return _read_split(builder, "train"), _read_split(builder, "test")
    except NotImplementedError:
        raise InputError(
            f"{folder} is prepared in a format that only TensorFlow reads: "
            "set data.path to a folder that is empty or prepared in array_record format"
        ) from None
    except Exception as error:  # TFDS, protobuf and array_record each raise their own.
        raise InputError(
            f"{folder} is damaged ({_first_line(error)}): delete it and run again"
        ) from None


def _read_split(builder: Any, split: str) -> Reviews:
    source = builder.as_data_source(split=split)
    records = source.__getitems__(range(len(source)))  # One call: 25,000 single reads take longer.
    texts, labels = ([record[name] for record in records] for name in ("text", "label"))
    ids = (f"{split}/{i}" for i in range(len(records)))
    return Reviews.from_texts((text.decode() for text in texts), list(map(int, labels)), ids)


def prepare(root: Path) -> None:
    """Download aclImdb and write it as TFDS does, in array_record format, under `root`.

    Raises:
      InputError: no network (noticed within seconds), a wrong checksum, or no room to write.
    """
    problem = network_problem(URL, NETWORK_SECONDS)
    if problem:
        raise InputError(f"{root} has no imdb_reviews and {URL} fails ({problem}): {OTHERWISE}")
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # TFDS says where it writes, in bold.
            _builder_class()(data_dir=root, config="plain_text").download_and_prepare(
                file_format="array_record"
            )
    except InputError:
        raise
    except Exception as error:  # requests, TFDS and the file system each raise their own.
        raise InputError(
            f"preparing imdb_reviews in {root} failed ({_first_line(error)}): {OTHERWISE}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def network_problem(url: str, seconds: float) -> str:
    """Return why a URL cannot be fetched, or an empty string, within about `seconds`.

    TFDS itself retries for minutes.
    """
    problem = [f"no answer in {seconds:g} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                problem[0] = ""
        except OSError as error:  # URLError and HTTPError are OSErrors.
            problem[0] = str(getattr(error, "reason", "") or error)

    # A thread, since a name lookup ignores the time-out; a daemon, since it may outlive us.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return problem[0]


def _builder_class() -> type:
    """Return TFDS's own builder of imdb_reviews, reading the archive without TensorFlow."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.datasets.imdb_reviews import imdb_reviews_dataset_builder as original

    class Builder(original.Builder, skip_registration=True):  # type: ignore[call-arg]
        name = original.Builder.name
        pkg_dir_path = Path(original.__file__).parent
        url_infos = {URL: UrlInfo(SIZE, SHA256, Path(URL).name)}

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            archive = Path(dl_manager.download(URL))

            def examples(folder: str, **options: bool) -> Iterator:
                files = ((name, io.BytesIO(raw)) for name, raw in stream_archive(archive))
                return self._generate_examples(files, folder, **options)

            return {
                "train": examples("aclImdb/train"),
                "test": examples("aclImdb/test"),
                "unsupervised": examples("aclImdb/train", labeled=False),
            }

    return Builder
