"""Finding weights: folders, a hub of our own on 127.0.0.1, and no hub at all (row 21)."""

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

from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub, weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "someone/tiny"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does for one model of one commit, tagged main and v1."""

    folder = golden.FIXTURES / "bert"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.requests.append(self.path)
        name = self.path.rpartition("/")[2]
        files = [path.name for path in self.folder.iterdir() if path.is_file()]
        if self.path.startswith(f"/api/models/{MODEL}"):
            siblings = [{"rfilename": file} for file in [*files, "pytorch_model.bin"]]
            known = name in ("main", "v1", COMMIT)
            info = json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings}).encode()
            self.answer(200, info) if known else self.refuse(404, "RevisionNotFound")
        elif self.path.startswith(f"/{MODEL}/resolve/") and name in files:
            headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}
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
    """An empty cache, and a hub whose port is closed."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        set_endpoint(monkeypatch, unused.getsockname()[1])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def server(cache, monkeypatch):
    """The hub."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
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


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ([], "/nowhere/at all", "no such folder"),
        ([], "./missing", "no such folder"),
        ([], "empty", "has neither flax_model.msgpack nor .*: it holds nothing at all$"),
        (["empty/config.json"], "empty/config.json", "is a file"),
        (
            ["empty/notes.txt"],
            "empty",
            "has neither flax_model.msgpack nor .*: it holds notes.txt$",
        ),
        (["empty/pytorch_model.bin"], "empty", "has only pytorch_model.bin.* convert it .*python"),
    ],
)
def test_each_unusable_folder_has_its_error(tmp_path, monkeypatch, files, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for file in files:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(InputError, match=f"model.pretrained={re.escape(name)}:? {message}"):
        hub.find_pretrained(name, "")


def test_the_commit_is_found_downloaded_and_needs_no_network_again(server, cache, monkeypatch):
    folder, commit = hub.find_pretrained(MODEL, "")
    assert commit == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    for path in folder.iterdir():
        assert path.read_bytes() == (Hub.folder / path.name).read_bytes()
    assert not [request for request in server.requests if "pytorch_model" in request]
    assert weights.read_encoder_config(folder).hidden_size == 24

    asked = len(server.requests)
    assert hub.find_pretrained(MODEL, COMMIT) == (folder, COMMIT)
    assert len(server.requests) == asked
    # a branch or tag may have moved: the hub is asked while it answers, the cache used when not
    assert hub.find_pretrained(MODEL, "v1") == (folder, COMMIT)
    assert len(server.requests) > asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.find_pretrained(MODEL, "") == (folder, COMMIT)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="the hub can't be reached"):
        hub.find_pretrained(MODEL, COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub.find_pretrained(MODEL, COMMIT) == (folder, COMMIT)
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("hub_id", "revision", "message"),
    [
        ("someone/tinny", "", "neither a local folder nor a public model on the hub: check the sp"),
        ("bert-tinny", "", "neither a local folder nor a public model on the hub: check the sp"),
        ("someone/gated", "", "ask for access on the hub"),
        ("someone/busy", "", "the hub can't be reached .*503"),
        (MODEL, "v2", "model.revision=v2: someone/tiny has no such revision"),
    ],
)
def test_each_refusal_of_the_hub_is_reported_at_once(server, hub_id, revision, message):
    begin = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        hub.find_pretrained(hub_id, revision)
    assert time.monotonic() - begin < 5
    assert "\n" not in str(caught.value)


def test_a_hub_model_with_pickled_weights_only_is_refused(server, monkeypatch, tmp_path):
    monkeypatch.setattr(Hub, "folder", tmp_path)
    with pytest.raises(InputError, match=f"{MODEL} has only pytorch_model.bin"):
        hub.find_pretrained(MODEL, "")
    assert not [request for request in server.requests if "resolve" in request]


@pytest.mark.parametrize("offline", [False, True])
def test_no_network_names_the_ways_out(cache, monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    begin = time.monotonic()
    with pytest.raises(InputError, match="the hub can't be reached") as caught:
        hub.find_pretrained("google/electra-base-discriminator", "")
    assert time.monotonic() - begin < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in ("set it to a local folder, or HF_HOME", str(cache)):
        assert part in message
    assert len(message) < 240 + len(str(cache))


SILENT = f"""
import time
from sentiment_jax.huggingface import hub
from huggingface_hub import HfApi, errors, hf_hub_download  # not to time their import
begin = time.monotonic()
try:
    hub.find_pretrained({MODEL!r}, "")
except hub.InputError as error:
    print(time.monotonic() - begin, error)
"""


def test_a_silent_hub_is_given_up_within_fifteen_seconds():
    """In a process of its own, where the time-outs are those of the package."""
    names = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_OFFLINE")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**dict.fromkeys(names), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
        output = python("-c", SILENT, **environment).stdout
    seconds, _, message = output.partition(" ")
    assert 5 < float(seconds) < 15
    assert "the hub can't be reached (ReadTimeout" in message
