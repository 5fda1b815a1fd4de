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

from sentiment_jax.data.imdb_folder import read_folder, read_unlabeled
from sentiment_jax.errors import InputError

FILES = {
    f"{split}/{label}/{i}_{stars}.txt": f"{split} {label} {i} é".encode()
    for split in ("train", "test")
    for label, stars in (("neg", 1), ("pos", 9))
    for i in range(3)
}
OTHERS = {"train/unsup/0_0.txt": b"\xff never read", "README": b"x", "train/neg/._0_1.txt": b"\xff"}


def add(archive, name, content=b"text", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def write_archive(path, names, prefix="aclImdb/"):
    with tarfile.open(path, "w:gz") as archive:
        add(archive, prefix or "./", b"", type=tarfile.DIRTYPE)
        for name in names:
            add(archive, prefix + name, {**FILES, **OTHERS}[name])
    return str(path)


def write_folder(path):
    for name, content in {**FILES, **OTHERS}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def by_id(path):
    splits = []
    for reviews in read_folder(path):
        assert len(set(reviews.ids)) == len(reviews)
        rows = zip(reviews.ids, reviews.texts, reviews.labels.tolist(), strict=True)
        splits.append({name: (text, label) for name, text, label in rows})
    return splits


def expected():
    return [
        {
            name: (content.decode(), int("/pos/" in name))
            for name, content in FILES.items()
            if name.startswith(split)
        }
        for split in ("train", "test")
    ]


def test_folder_or_the_folder_around_it(tmp_path):
    write_folder(tmp_path / "aclImdb")
    assert by_id(str(tmp_path)) == by_id(str(tmp_path / "aclImdb")) == expected()


@pytest.mark.parametrize("prefix", ["aclImdb/", "./aclImdb/", "./", ""])
def test_archive_in_any_order(tmp_path, prefix):
    names = [*sorted(FILES, reverse=True), *OTHERS]
    assert by_id(write_archive(tmp_path / "a.tar.gz", names, prefix)) == expected()


DANGEROUS = [
    ("/etc/train/pos/1_9.txt", {}),
    ("aclImdb/../../train/pos/1_9.txt", {}),
    ("../evil.txt", {}),
    ("aclImdb/train/pos/7_9.txt", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
    ("aclImdb/train/pos/7_9.txt", {"type": tarfile.LNKTYPE, "linkname": "train/pos/0_9.txt"}),
    ("aclImdb/train/pos/7_9.txt", {"type": tarfile.FIFOTYPE}),
    ("aclImdb/train/pos/7_9.txt", {"type": tarfile.CHRTYPE}),
]


@pytest.mark.parametrize(("name", "fields"), DANGEROUS)
def test_dangerous_members_are_refused(tmp_path, name, fields):
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for safe, content in FILES.items():
            add(archive, f"aclImdb/{safe}", content)
        add(archive, name, b"" if fields else b"text", **fields)
    with pytest.raises(InputError, match="refused") as caught:
        read_folder(str(path))
    assert name in str(caught.value) and str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["evil.tar.gz"]  # nothing was unpacked


def test_archives_cut_short_or_of_another_kind(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_archive(path, FILES)
    whole = path.read_bytes()
    truncated = [whole[:length] for length in range(0, len(whole), 7)]
    words = random.Random(0).choices([f"word{i}" for i in range(999)], k=50_000)
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "aclImdb/train/pos/0_9.txt", " ".join(words).encode())
    holed = path.read_bytes()
    holed = holed[:50_000] + b"\xff" * 100 + holed[50_100:]  # noticed while a review is read
    for raw in (b"<html>404</html>" * 99, gzip.compress(b"x" * 9999), holed, *truncated):
        path.write_bytes(raw)
        with pytest.raises(InputError) as caught:
            read_folder(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_flipped_bit_never_changes_a_review(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_archive(path, FILES)
    whole = path.read_bytes()
    errors = 0
    for position in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert by_id(str(path)) == expected()  # a bit without meaning, as in the header's time
        except InputError:
            errors += 1
    assert errors > len(whole) / 3 * 0.9


def test_bytes_that_are_not_utf8_name_the_file(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train/pos/1_9.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"train/pos/1_9\.txt, line 1: byte 0xe9 is not UTF-8"):
        read_folder(str(tmp_path))


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


INTRUDERS = {
    "a FIFO": (os.mkfifo, "FIFO, socket or device"),
    "a socket": (make_socket, "FIFO, socket or device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a link out of"),
    "a folder": (os.mkdir, "directory"),
    "a link out": (
        lambda path: path.symlink_to(path.parents[3] / "secret.txt"),
        "is a link out of",
    ),
    "a link to nothing": (lambda path: path.symlink_to("9_9.txt"), "No such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
}


@pytest.mark.parametrize("kind", INTRUDERS)
def test_what_is_no_review_is_refused_by_name(tmp_path, monkeypatch, kind):
    """Row 57: a FIFO was waited for, a link led out of the folder."""
    write_folder(tmp_path / "aclImdb")
    (tmp_path / "secret.txt").write_text("a password")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("aclImdb/train/pos/7_9.txt").absolute()
    make, what = INTRUDERS[kind]
    make(path.relative_to(tmp_path) if kind == "a socket" else path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{what}"):
        read_folder(str(tmp_path))


def test_a_folder_of_reviews_that_lies_elsewhere_is_refused(tmp_path):
    """Row 57, a folder instead of a file."""
    write_folder(tmp_path / "aclImdb")
    (tmp_path / "aclImdb/test").rename(tmp_path / "test")
    (tmp_path / "aclImdb/test").symlink_to(tmp_path / "test")
    with pytest.raises(InputError, match="aclImdb/test/neg is a link out of"):
        read_folder(str(tmp_path / "aclImdb"))


def test_links_to_the_data_and_inside_of_it_are_followed(tmp_path):
    write_folder(tmp_path / "disk/aclImdb")
    review = tmp_path / "disk/aclImdb/train/pos/2_9.txt"
    review.rename(tmp_path / "disk/aclImdb/train/kept.txt")
    review.symlink_to("../kept.txt")
    (tmp_path / "data").symlink_to("disk")
    (tmp_path / "reviews").symlink_to("disk/aclImdb")
    (tmp_path / "around").mkdir()
    (tmp_path / "around/aclImdb").symlink_to(tmp_path / "disk/aclImdb")
    for name in ("disk", "data", "reviews", "around"):
        assert by_id(str(tmp_path / name)) == expected()


def test_an_archive_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.tar.gz")
    with pytest.raises(InputError, match="a.tar.gz is no .tar.gz archive.*FIFO"):
        read_folder(str(tmp_path / "a.tar.gz"))


def test_missing_classes_and_paths(tmp_path):
    no_pos = [name for name in FILES if "test/pos" not in name]
    with pytest.raises(InputError, match="no test/pos"):
        read_folder(write_archive(tmp_path / "a.tar.gz", no_pos))
    with pytest.raises(InputError, match="does not exist"):
        read_folder(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="does not exist"):
        read_folder("")


@pytest.mark.parametrize("archived", [False, True])
def test_unlabeled_reviews_are_read_by_themselves(tmp_path, archived):
    path = write_folder(tmp_path / "aclImdb")
    (tmp_path / "aclImdb" / "train" / "unsup" / "0_0.txt").write_bytes("none <br /> é".encode())
    (tmp_path / "aclImdb" / "test" / "pos" / "0_9.txt").write_bytes(b"\xff never read")
    if archived:
        with tarfile.open(tmp_path / "own.tar.gz", "w:gz") as archive:
            archive.add(path, "aclImdb")
        path = str(tmp_path / "own.tar.gz")
    found = read_unlabeled(path)
    assert (found.ids, found.texts) == (("train/unsup/0_0.txt",), ("none é",))
    with pytest.raises(InputError, match=r"holds no train/unsup/\*.txt"):
        shutil.rmtree(tmp_path / "aclImdb" / "train" / "unsup")
        read_unlabeled(str(tmp_path / "aclImdb"))
