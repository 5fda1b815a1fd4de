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

import pytest
from reviews import refusal, refuses

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data import imdb
from sentiment_jax.data.dataset import READERS
from sentiment_jax.data.texts import normalize_text
from sentiment_jax.errors import InputError

LABELED = [f"{split}/{label}" for split in ("train", "test") for label in ("neg", "pos")]
FILES = {  # neither order of their making is that of their names
    f"{folder}/{i}_5.txt": f"{folder} {i} é".encode() for folder in LABELED for i in (1, 2, 0)
}
OTHERS = {"train/unsup/0_0.txt": b"\xff never read", "README": b"x", "train/neg/._0_1.txt": b"\xff"}


def expect(files, *folders):
    """The id, text and label of each review in some folders."""
    return {
        name: (normalize_text(text.decode()), int("/pos/" in name))
        for name, text in files.items()
        if name.startswith(folders)
    }


EXPECTED = [expect(FILES, "train"), expect(FILES, "test")]


def write(folder, contents=FILES | OTHERS):
    for name, content in contents.items():
        path = folder / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "aclImdb"


def pack(path, members, prefix="aclImdb/"):
    """Write an archive of name -> content, or the type and target of what is no file."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(prefix + name)
            if isinstance(content, tuple):
                member.type = content[0]
                member.linkname = content[1]
                content = b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def by_id(splits):
    """The text and label of each review by its id, in their order."""
    rows = [zip(of.texts, of.codes.tolist(), strict=True) for of in splits]
    return [dict(zip(of.ids, found, strict=True)) for of, found in zip(splits, rows, strict=True)]


def read(path, *splits):
    return by_id(imdb.read_folder(str(path), splits or ("train", "test")))


def error_of(path, *splits):
    return refusal(path, read, path, *splits)


def test_folder_or_the_folder_around_it_in_the_order_of_names(tmp_path):
    folder = write(tmp_path)
    for path in (folder, tmp_path):
        assert read(path) == EXPECTED
        assert [[*names] for names in read(path)] == [sorted(names) for names in EXPECTED]


@pytest.mark.parametrize("prefix", ["aclImdb/", "./aclImdb/", "./", ""])
def test_archive_in_any_order(tmp_path, prefix):
    members = {"": (tarfile.DIRTYPE, "")} if prefix else {}
    members |= dict(sorted(FILES.items(), reverse=True)) | OTHERS
    assert read(pack(tmp_path / "a.tar.gz", members, prefix)) == EXPECTED


def test_dangerous_members_are_refused(tmp_path):
    for name, content in (
        ("/etc/train/pos/1_9.txt", b"text"),
        ("aclImdb/../../train/pos/1_9.txt", b"text"),
        ("../evil.txt", b"text"),
        ("aclImdb/train/pos/7_9.txt", (tarfile.SYMTYPE, "/etc/passwd")),
        ("aclImdb/train/pos/7_9.txt", (tarfile.LNKTYPE, "train/pos/0_9.txt")),
        ("aclImdb/train/pos/7_9.txt", (tarfile.CHRTYPE, "")),
    ):
        path = pack(tmp_path / "evil.tar.gz", FILES | {name: content}, prefix="")
        message = error_of(path)
        assert name in message and "refused" in message
        assert [file.name for file in tmp_path.iterdir()] == ["evil.tar.gz"]  # nothing was unpacked


def test_a_damaged_archive_is_refused_or_gives_the_same_reviews(tmp_path):
    path = tmp_path / "a.tar.gz"
    words = random.Random(0).choices([f"word{i}" for i in range(999)], k=50_000)
    long = pack(path, {"train/pos/0_9.txt": " ".join(words).encode()}).read_bytes()
    holed = long[:50_000] + b"\xff" * 100 + long[50_100:]  # noticed while a review is read
    whole = pack(path, FILES).read_bytes()
    cut = [whole[:length] for length in range(0, len(whole), 7)]
    for raw in (b"<html>404</html>" * 99, gzip.compress(b"x" * 9999), holed, *cut):
        path.write_bytes(raw)
        error_of(path)
    harmless = 0
    positions = range(0, len(whole), 3)
    for position in positions:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert read(path) == EXPECTED  # a bit without meaning, as in the header's time
            harmless += 1
        except InputError:
            continue
    assert harmless < 0.1 * len(positions)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "FIFO, socket or device"),
        (os.mkdir, "directory"),
        (lambda path: path.symlink_to("/dev/zero"), "is a link out of"),
        (lambda path: path.symlink_to(path.parents[3] / "secret.txt"), "is a link out of"),
        (lambda path: path.symlink_to("9_9.txt"), "No such file"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: path.write_bytes(b"caf\xe9"), "line 1: byte 0xe9 is not UTF-8"),
    ],
)
def test_what_is_not_a_review_is_refused_by_name(tmp_path, make, what):
    """A FIFO would be waited for, a link may lead to a secret outside of the folder."""
    (tmp_path / "secret.txt").write_text("a password")
    make(write(tmp_path) / "train/pos/7_9.txt")
    assert re.search(rf"train/pos/7_9\.txt\W.*{what}", error_of(tmp_path))


def test_links_to_the_data_and_inside_of_it_are_followed_but_not_out_of_it(tmp_path):
    folder = write(tmp_path)
    review = folder / "train/pos/2_5.txt"
    review.rename(folder / "train/kept.txt")
    review.symlink_to("../kept.txt")
    (tmp_path / "reviews").symlink_to("aclImdb")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/aclImdb").symlink_to(folder)
    for path in (tmp_path, tmp_path / "reviews", tmp_path / "other"):
        assert read(path) == EXPECTED
    (folder / "test").rename(tmp_path / "test")
    (folder / "test").symlink_to(tmp_path / "test")
    assert "aclImdb/test/neg is a link out of" in error_of(folder)


def test_missing_classes_and_paths(tmp_path):
    path = pack(tmp_path / "a.tar.gz", {name: b"" for name in FILES if "test/pos" not in name})
    assert "no test/pos" in error_of(path)
    assert "no train/unsup" in error_of(path, "unsupervised")
    assert "does not exist" in error_of(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "b.tar.gz")
    assert re.search("is no .tar.gz archive.*FIFO", error_of(tmp_path / "b.tar.gz"))


def test_unlabeled_reviews_are_read_by_themselves(tmp_path):
    files = {"train/unsup/0_0.txt": "none <br /> é".encode(), "test/pos/0_9.txt": b"\xff not read"}
    for path in (write(tmp_path, files), pack(tmp_path / "a.tar.gz", files)):
        assert read(path, "unsupervised") == [{"train/unsup/0_0.txt": ("none é", 0)}]


# As TensorFlow Datasets prepares it

NOISE = random.Random(0).randbytes(4_000).hex()  # so that a flipped bit hits a review
ARCHIVED = {
    f"{folder}/{i}_0.txt": f" {folder} {i} é<br />{NOISE}".encode()
    for folder in (*LABELED, "train/unsup")
    for i in range(5)
}


@pytest.fixture(autouse=True)
def _local_network_only(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(imdb, "URL", "http://127.0.0.1:9/aclImdb_v1.tar.gz")  # refuses


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared TFDS directory, made through the real download and checksum code."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls("imdb_reviews")
    archive = pack(tmp_path_factory.mktemp("server") / "aclImdb_v1.tar.gz", ARCHIVED)
    root = tmp_path_factory.mktemp("tfds")
    kind = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with (
        pytest.MonkeyPatch.context() as patch,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("NO_PROXY", "127.0.0.1")
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        patch.setattr(imdb, "URL", url)
        patch.setattr(sys.modules[builder.__module__], "_DOWNLOAD_URL", url)
        (published,) = builder.url_infos.values()
        patch.setattr(builder, "url_infos", {url: published})
        refuses("checksum", imdb.read_tfds, str(root / "other"))  # those of the real archive
        raw = archive.read_bytes()
        ours = type(published)(len(raw), hashlib.sha256(raw).hexdigest(), archive.name)
        patch.setattr(builder, "url_infos", {url: ours})
        imdb.prepare(root)
        server.shutdown()
    return root


def test_tfds_knows_the_archive_and_its_published_checksum(monkeypatch):
    monkeypatch.undo()  # the real URL
    import tensorflow_datasets as tfds

    ((url, info),) = tfds.builder_cls("imdb_reviews").url_infos.items()
    assert (url, info.size) == (imdb.URL, 84_125_825)
    assert info.checksum == "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"


def test_prepared_reviews_of_each_split(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    expected = {
        "train": expect(ARCHIVED, "train/neg", "train/pos"),
        "test": expect(ARCHIVED, "test"),
        "unsupervised": expect(ARCHIVED, "train/unsup"),
    }
    for path in ("", str(prepared), str(prepared / imdb.NAME)):
        splits = READERS["tfds"](DataConfig("tfds", path))
        splits += imdb.read_tfds(path, ["unsupervised"])
        for split, found in zip(expected, by_id(splits), strict=True):
            assert [*found] == [f"{split}/{i}" for i in range(len(expected[split]))]
            assert sorted(found.values()) == sorted(expected[split].values())
    assert "tensorflow" not in sys.modules


def tfds_error_of(path):
    start = time.perf_counter()
    message = refusal(path, imdb.read_tfds, str(path))
    assert time.perf_counter() - start < 5
    return message


def test_without_a_network_it_says_what_to_do_and_writes_nothing(tmp_path, monkeypatch):
    message = tfds_error_of(tmp_path / "absent")
    assert "refused" in message and imdb.URL in message
    assert "set data.path" in message and "folder" in message
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(imdb, "URL", f"http://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
        monkeypatch.setattr(imdb, "NETWORK_SECONDS", 0.3)
        assert re.search("timed out|no answer in 0.3 s", tfds_error_of(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_aclimdb_given_as_tfds(tmp_path):
    for path in (write(tmp_path).parent, pack(tmp_path / "a.tar.gz", {})):
        assert "data.source to folder" in tfds_error_of(path)


SHARD = "imdb_reviews-train.array_record-00000-of-00001"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (SHARD, lambda raw: raw[: len(raw) // 2]),
        (SHARD, lambda raw: raw[:3_000] + bytes([raw[3_000] ^ 1]) + raw[3_001:]),
        (SHARD, lambda raw: b""),
        (SHARD, None),
        ("dataset_info.json", lambda raw: raw[:99]),
        ("dataset_info.json", lambda raw: raw.replace(b"array_record", b"tfrecord")),
    ],
)
def test_damaged_files_or_another_format(prepared, tmp_path, name, damage):
    file = shutil.copytree(prepared / imdb.NAME, tmp_path / imdb.NAME) / name
    raw = file.read_bytes()
    file.unlink()
    if damage:
        file.write_bytes(damage(raw))
    assert "if it is damaged, or in a format that only TensorFlow reads" in tfds_error_of(tmp_path)
