"""examples/serve.py: a real server answers as --mode=predict does, and refuses what it must."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from commands import ENVIRONMENT, ROOT, free_ports

from sentiment_jax import api
from sentiment_jax.modes.predict import predict
from sentiment_jax.training.trained_model import load_run

TEXTS = ["", "A dull film.", "<br />Caf\u00e9 &amp; 🎬", "[PAD] great", "great music " * 40, "nan"]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The file of what the server says."""
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def serve(finished, tmp_path_factory, log):
    """The address of a server with the small run's model; it must be alive at the end."""
    folder = tmp_path_factory.mktemp("served") / "onnx"
    api.load(finished).export(folder, "onnx")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "serve:app"]
    variables = ENVIRONMENT | {"MODEL": str(folder), "NO_PROXY": "127.0.0.1"}
    command += ["--port", str(port), "--log-level", "error"]
    with log.open("wb") as said:
        server = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=said)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/docs")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
        assert server.poll() is None
    finally:
        server.terminate()
        server.wait(20)


def post(address, body):
    """The status and the JSON of the answer to a body."""
    try:
        with urllib.request.urlopen(address, body) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_without_a_folder_it_says_what_to_set():
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "serve:app"]
    ended = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert ended.stderr == "set MODEL to the folder of an export to ONNX\n"


def test_its_classes_and_probabilities_are_those_of_predict(serve, finished):
    model = load_run(finished, calibrated=True)
    status, found = post(serve, json.dumps({"texts": TEXTS}).encode())
    assert status == 200
    ours, _ = predict([model], TEXTS)
    np.testing.assert_allclose([[*of["p"].values()] for of in found], ours, atol=2e-6)
    chosen = [[model.classes[i]] for i in ours.argmax(axis=1)]
    assert [of["classes"] for of in found] == chosen
    assert [*found[0]["p"]] == [*model.classes]


BAD = [
    *(b"", b"{", b"[]", b"null", b"3", b'"texts"', b"\xff\xfe", b"texts=a", b"[" * 100_000),
    *(b'{"texts": 3}', b'{"texts": [3]}', b'{"texts": [null]}', b'{"texts": "A text."}'),
    *(b'{"texts": []}', b'{"texts": {}}', b'{"texts": {"a": 1}}', b'{"text": ["a"]}'),
    *(b'{"texts": [["a"]]}', b'{"texts": ["\\ud800"]}', b'{"texts": ["a", "\\udfff b"]}'),
    *(b'{"texts": NaN}', b'{"texts": [1e999]}', b'{"texts": ["a"]', b'{"texts": ["\xff"]}'),
    json.dumps({"texts": ["a"] * 65}).encode(),
    json.dumps({"texts": ["a" * 20_001]}).encode(),
]
BAD += [bytes([i]) * (i + 1) for i in range(128, 128 + 97 - len(BAD))]
BAD += [b" " * 10_000_000, json.dumps({"texts": ["a" * 10_000_000]}).encode(), b"{" * 10_000_000]


def test_an_upload_that_is_broken_off_leaves_no_word_in_the_log(serve, log):
    host, port = urllib.parse.urlsplit(serve).netloc.split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"texts')
    assert post(serve, b'{"texts": ["A dull film."]}')[0] == 200
    assert log.read_text() == ""


def test_a_hundred_bad_requests_get_a_sentence_each_and_it_goes_on(serve):
    assert len(BAD) == 100
    for body in BAD:
        status, answer = post(serve, body)
        assert 400 <= status < 500, body[:50]
        assert answer["detail"][0].isupper() and answer["detail"].endswith("."), answer
    assert post(serve, b'{"texts": ["A dull film."]}')[0] == 200
