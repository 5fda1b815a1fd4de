"""aclImdb as a folder or archive: the same reviews, and nothing dangerous or damaged is read."""

import gzip
import io
import os
import random
import re
import shutil
import socket
import tarfile
from pathlib import Path

import pytest

from sentiment_jax.data.imdb import read_folder
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
    for reviews in read_folder(str(path)):
        assert len(set(reviews.ids)) == len(reviews)
        rows = zip(reviews.ids, reviews.texts, reviews.labels.tolist(), strict=True)
        splits.append({name: (text, label) for name, text, label in rows})
    return splits


def error_of(path, splits=("train", "test")):
    with pytest.raises(InputError) as caught:
        read_folder(str(path), splits)
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
    (found,) = read_folder(source, ["unsupervised"])
    assert (found.ids, found.texts) == (("train/unsup/0_0.txt",), ("none é",))
    shutil.rmtree(path / "train" / "unsup")
    assert "holds no train/unsup/*.txt" in error_of(path, ["unsupervised"])
