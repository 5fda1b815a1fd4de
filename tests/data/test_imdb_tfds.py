"""imdb_reviews prepared from a small archive on a local server, and every way that it may fail."""

import functools
import hashlib
import http.server
import io
import random
import re
import shutil
import socket
import sys
import tarfile
import threading
import time

import pytest

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data import imdb
from sentiment_jax.data.corpus import READERS
from sentiment_jax.data.reviews import normalize_text
from sentiment_jax.errors import InputError

NOISE = random.Random(0).randbytes(4_000).hex()  # so that a flipped bit hits a review
FILES = {
    f"aclImdb/{split}/{label}/{i}_0.txt": f" {split} {label} {i} é<br />{NOISE}".encode()
    for split in ("test", "train")
    for label in ("neg", "pos", "unsup")
    for i in range(5)
    if (split, label) != ("test", "unsup")
}


@pytest.fixture(autouse=True)
def _local_network_only(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(imdb, "URL", "http://127.0.0.1:9/aclImdb_v1.tar.gz")  # refuses


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared TFDS directory, made through the real download and checksum code."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.datasets.imdb_reviews import imdb_reviews_dataset_builder as builder

    folder = tmp_path_factory.mktemp("server")
    archive = folder / "aclImdb_v1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    handler = functools.partial(QuietHandler, directory=str(folder))
    root = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        with server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            patch.setenv("NO_PROXY", "127.0.0.1")
            url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
            patch.setattr(imdb, "URL", url)
            patch.setattr(builder, "_DOWNLOAD_URL", url)
            (published,) = builder.Builder.url_infos.values()
            patch.setattr(builder.Builder, "url_infos", {url: published})
            with pytest.raises(InputError, match="checksum"):  # those of the real archive
                imdb.read_tfds(str(root / "other"))
            raw = archive.read_bytes()
            ours = UrlInfo(len(raw), hashlib.sha256(raw).hexdigest(), archive.name)
            patch.setattr(builder.Builder, "url_infos", {url: ours})
            imdb.prepare(root)
            server.shutdown()
    return root


def test_tfds_knows_the_archive_and_its_published_checksum(monkeypatch):
    monkeypatch.undo()  # the real URL
    from tensorflow_datasets.datasets.imdb_reviews import imdb_reviews_dataset_builder as builder

    ((url, info),) = builder.Builder.url_infos.items()
    assert (url, info.size) == (imdb.URL, 84_125_825)
    assert info.checksum == "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"


def test_prepared_reviews(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    for path in ("", str(prepared), str(prepared / imdb.NAME)):
        pool, test = READERS["tfds"](DataConfig("tfds", path))
        for split, reviews in (("train", pool), ("test", test)):
            assert reviews.ids == tuple(f"{split}/{i}" for i in range(10))
            found = dict(zip(reviews.texts, reviews.labels.tolist(), strict=True))
            assert found == {  # both classes, and no unsupervised review
                normalize_text(content.decode()): int("/pos/" in name)
                for name, content in FILES.items()
                if f"/{split}/" in name and "unsup" not in name
            }
    assert "tensorflow" not in sys.modules


def test_unlabeled_reviews_are_read_by_name(prepared):
    (found,) = imdb.read_tfds(str(prepared), ["unsupervised"])
    names = [name for name in FILES if "unsup" in name]
    assert sorted(found.texts) == sorted(normalize_text(FILES[name].decode()) for name in names)
    assert not found.labels.any()


def failure(path) -> str:
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        imdb.read_tfds(str(path))
    assert time.perf_counter() - start < 5
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_no_network_says_what_to_do_and_writes_nothing(tmp_path):
    message = failure(tmp_path / "absent")
    assert "refused" in message and imdb.URL in message
    assert "set data.path" in message and "folder" in message
    assert list(tmp_path.iterdir()) == []


def test_network_that_never_answers_is_given_up(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz"
        monkeypatch.setattr(imdb, "URL", address)
        monkeypatch.setattr(imdb, "NETWORK_SECONDS", 0.3)
        assert re.search("timed out|no answer in 0.3 s", failure(tmp_path))


def test_aclimdb_folder_given_as_tfds(tmp_path):
    (tmp_path / "aclImdb").mkdir()
    assert "data.source to folder" in failure(tmp_path)
    (tmp_path / "aclImdb_v1.tar.gz").write_bytes(b"")
    assert "data.source to folder" in failure(tmp_path / "aclImdb_v1.tar.gz")


DAMAGES = {
    "truncated": lambda raw: raw[: len(raw) // 2],
    "flipped": lambda raw: raw[:3_000] + bytes([raw[3_000] ^ 1]) + raw[3_001:],
    "empty": lambda raw: b"",
}


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared folder, to be damaged."""
    return shutil.copytree(prepared / imdb.NAME, tmp_path / imdb.NAME)


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
def test_damaged_shards(copied, tmp_path, damage):
    shard = copied / "imdb_reviews-train.array_record-00000-of-00001"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(DAMAGES[damage](shard.read_bytes()))
    assert "if it is damaged" in failure(tmp_path)


@pytest.mark.parametrize(
    "change", [lambda info: info[:99], lambda info: info.replace("array_record", "tfrecord")]
)
def test_damaged_info_or_another_format(copied, tmp_path, change):
    info = copied / "dataset_info.json"
    info.write_text(change(info.read_text()))
    assert "only TensorFlow reads" in failure(tmp_path)
