"""Finding weights: folders, a hub of our own on 127.0.0.1, and no hub at all."""

import functools
import http.server
import json
import re
import shutil
import socket
import threading
import time

import golden
import pytest
from commands import python
from huggingface_hub import constants
from reviews import refusal, refuses

from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub

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
    assert message.endswith("; --config=ngrams needs none")
    assert len(message) < 250 + len(str(cache))


def test_a_hub_that_is_silent_for_six_seconds_is_given_up():
    """The library's own time-outs are longer; it reads ours when it is imported."""
    names = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
    shown = ", ".join(names)
    script = "import sentiment_jax.huggingface.hub\n"
    script += f"from huggingface_hub.constants import {shown}\nprint({shown})"
    assert python("-c", script, **dict.fromkeys(names)).stdout == "6 6\n"
