"""IMDB: aclImdb as a folder or archive, TFDS from a local server; nothing dangerous is read."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import random
import re
import shutil
import socket
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data import imdb
from sentiment_jax.data.corpus import READERS
from sentiment_jax.data.reviews import normalize_text
from sentiment_jax.errors import InputError

FILES = {
    f"{split}/{label}/{i}_{stars}.txt": f"{split} {label} {i} é".encode()
    for split in ("train", "test")
    for label, stars in (("neg", 1), ("pos", 9))
    for i in range(3)
}
OTHERS = {"train/unsup/0_0.txt": b"\xff never read", "README": b"x", "train/neg/._0_1.txt": b"\xff"}
EXPECTED = [
    {
        name: (content.decode(), int("/pos/" in name))
        for name, content in FILES.items()
        if name.startswith(split)
    }
    for split in ("train", "test")
]


def add(archive, name, content=b"text", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def write_archive(path, names=FILES, prefix="aclImdb/"):
    with tarfile.open(path, "w:gz") as archive:
        add(archive, prefix or "./", b"", type=tarfile.DIRTYPE)
        for name in names:
            add(archive, prefix + name, {**FILES, **OTHERS}[name])
    return str(path)


@pytest.fixture
def around(tmp_path):
    """The folder around aclImdb."""
    for name, content in {**FILES, **OTHERS}.items():
        path = tmp_path / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def by_id(path):
    splits = []
    for reviews in imdb.read_folder(str(path)):
        assert len(set(reviews.ids)) == len(reviews)
        rows = zip(reviews.ids, reviews.texts, reviews.labels.tolist(), strict=True)
        splits.append({name: (text, label) for name, text, label in rows})
    return splits


def error_of(path, splits=("train", "test")):
    with pytest.raises(InputError) as caught:
        imdb.read_folder(str(path), splits)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_folder_or_the_folder_around_it(around):
    assert by_id(around) == by_id(around / "aclImdb") == EXPECTED


@pytest.mark.parametrize("prefix", ["aclImdb/", "./aclImdb/", "./", ""])
def test_archive_in_any_order(tmp_path, prefix):
    names = [*sorted(FILES, reverse=True), *OTHERS]
    assert by_id(write_archive(tmp_path / "a.tar.gz", names, prefix)) == EXPECTED


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("/etc/train/pos/1_9.txt", {}),
        ("aclImdb/../../train/pos/1_9.txt", {}),
        ("../evil.txt", {}),
        ("aclImdb/train/pos/7_9.txt", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("aclImdb/train/pos/7_9.txt", {"type": tarfile.LNKTYPE, "linkname": "train/pos/0_9.txt"}),
        ("aclImdb/train/pos/7_9.txt", {"type": tarfile.FIFOTYPE}),
        ("aclImdb/train/pos/7_9.txt", {"type": tarfile.CHRTYPE}),
    ],
)
def test_dangerous_members_are_refused(tmp_path, name, fields):
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for safe, content in FILES.items():
            add(archive, f"aclImdb/{safe}", content)
        add(archive, name, b"" if fields else b"text", **fields)
    message = error_of(path)
    assert name in message and "refused" in message
    assert [file.name for file in tmp_path.iterdir()] == ["evil.tar.gz"]  # nothing was unpacked


def test_archives_cut_short_or_of_another_kind(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_archive(path)
    whole = path.read_bytes()
    truncated = [whole[:length] for length in range(0, len(whole), 7)]
    words = random.Random(0).choices([f"word{i}" for i in range(999)], k=50_000)
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "aclImdb/train/pos/0_9.txt", " ".join(words).encode())
    holed = path.read_bytes()
    holed = holed[:50_000] + b"\xff" * 100 + holed[50_100:]  # noticed while a review is read
    for raw in (b"<html>404</html>" * 99, gzip.compress(b"x" * 9999), holed, *truncated):
        path.write_bytes(raw)
        error_of(path)


def test_a_flipped_bit_never_changes_a_review(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_archive(path)
    whole = path.read_bytes()
    errors = 0
    for position in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert by_id(path) == EXPECTED  # a bit without meaning, as in the header's time
        except InputError:
            errors += 1
    assert errors > len(whole) / 3 * 0.9


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # an absolute path may be too long


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "FIFO, socket or device"),
        (make_socket, "FIFO, socket or device"),
        (os.mkdir, "directory"),
        (lambda path: path.symlink_to("/dev/zero"), "is a link out of"),
        (lambda path: path.symlink_to(path.parents[3] / "secret.txt"), "is a link out of"),
        (lambda path: path.symlink_to("9_9.txt"), "No such file"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: path.write_bytes(b"caf\xe9"), "line 1: byte 0xe9 is not UTF-8"),
    ],
)
def test_what_is_not_a_review_is_refused_by_name(around, monkeypatch, make, what):
    """Row 57: a FIFO was waited for, a link led out of the folder."""
    (around / "secret.txt").write_text("a password")
    monkeypatch.chdir(around)
    make(Path("aclImdb/train/pos/7_9.txt").absolute())
    assert re.search(rf"train/pos/7_9\.txt\W.*{what}", error_of(around))


def test_a_folder_of_reviews_that_lies_elsewhere_is_refused(around):
    """Row 57, a folder instead of a file."""
    (around / "aclImdb/test").rename(around / "test")
    (around / "aclImdb/test").symlink_to(around / "test")
    assert "aclImdb/test/neg is a link out of" in error_of(around / "aclImdb")


def test_links_to_the_data_and_inside_of_it_are_followed(around):
    review = around / "aclImdb/train/pos/2_9.txt"
    review.rename(around / "aclImdb/train/kept.txt")
    review.symlink_to("../kept.txt")
    (around / "reviews").symlink_to("aclImdb")
    (around / "other").mkdir()
    (around / "other/aclImdb").symlink_to(around / "aclImdb")
    for path in (around, around / "reviews", around / "other"):
        assert by_id(path) == EXPECTED


def test_missing_classes_and_paths(tmp_path):
    no_pos = [name for name in FILES if "test/pos" not in name]
    assert "no test/pos" in error_of(write_archive(tmp_path / "a.tar.gz", no_pos))
    assert "does not exist" in error_of(tmp_path / "nowhere")
    assert "does not exist" in error_of("")
    os.mkfifo(tmp_path / "b.tar.gz")
    assert re.search("is no .tar.gz archive.*FIFO", error_of(tmp_path / "b.tar.gz"))


@pytest.mark.parametrize("archived", [False, True])
def test_unlabeled_reviews_are_read_by_themselves(around, archived):
    path = around / "aclImdb"
    (path / "train/unsup/0_0.txt").write_bytes("none <br /> é".encode())
    (path / "test/pos/0_9.txt").write_bytes(b"\xff never read")
    if archived:
        with tarfile.open(around / "own.tar.gz", "w:gz") as archive:
            archive.add(path, "aclImdb")
    source = str(around / "own.tar.gz" if archived else path)
    (found,) = imdb.read_folder(source, ["unsupervised"])
    assert (found.ids, found.texts) == (("train/unsup/0_0.txt",), ("none é",))
    shutil.rmtree(path / "train" / "unsup")
    assert "holds no train/unsup/*.txt" in error_of(path, ["unsupervised"])


# As TensorFlow Datasets prepares it

NOISE = random.Random(0).randbytes(4_000).hex()  # so that a flipped bit hits a review
ARCHIVED = {
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
        for name, content in ARCHIVED.items():
            add(tar, name, content)
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
                for name, content in ARCHIVED.items()
                if f"/{split}/" in name and "unsup" not in name
            }
    assert "tensorflow" not in sys.modules


def test_unlabeled_reviews_are_read_by_name(prepared):
    (found,) = imdb.read_tfds(str(prepared), ["unsupervised"])
    names = [name for name in ARCHIVED if "unsup" in name]
    assert sorted(found.texts) == sorted(normalize_text(ARCHIVED[name].decode()) for name in names)
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
