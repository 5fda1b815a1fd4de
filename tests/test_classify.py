"""examples/classify.html: in a real browser, transformers.js gives the probabilities of predict."""

import dataclasses
import http.server
import json
import shutil
import subprocess
import threading

import numpy as np
import pytest
from commands import BROWSER, HEADLESS, ROOT
from modes.test_export import make_encoder
from runs import change_json

from sentiment_jax.modes.export import export_onnx
from sentiment_jax.modes.predict import predict
from sentiment_jax.training.trained_model import calibrate

TEXTS = [
    "",
    "A dull film.",
    "<br />Caf\u00e9 &amp; 🎬 &lt;br&gt; e\u0301",
    "good film " * 40,
    "nan",
]
HARNESS = """<!DOCTYPE html><iframe src="/examples/classify.html?model=NAME&dtype=fp32"></iframe>
<script type="module">
  const page = () => document.querySelector("iframe").contentDocument;
  const status = () => page().querySelector("[role=status]")?.textContent ?? "";
  const wait = () => new Promise((on) => setTimeout(on, 50));
  const until = async (holds) => { while (!holds()) await wait(); };
  await until(() => status() === "Ready." || status().startsWith("It failed"));
  const found = [];
  for (const text of status() === "Ready." ? TEXTS : []) {
    page().getElementById("text").value = text;
    page().querySelector("table").replaceChildren();
    page().querySelector("button").click();
    await until(() => page().querySelector("tr"));
    const rows = [...page().querySelectorAll("tr")].map(({ cells }) => [...cells]);
    const texts = rows.map((cells) => cells.map((cell) => cell.textContent));
    found.push([status(), Object.fromEntries(texts)]);
  }
  await fetch("/", { method: "POST", body: JSON.stringify(found.length ? found : status()) });
</script>"""


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, and keeps what is posted."""

    def __init__(self, folder):
        posted = self.posted = threading.Event()

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *rest):
                super().__init__(*rest, directory=folder)

            def do_POST(self):  # noqa: N802
                self.server.found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()
                posted.set()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)


def ask(folder, name):
    """What the page shows of each text with a model, its classes and P; or its failure."""
    (folder / "harness.html").write_text(
        HARNESS.replace("TEXTS", json.dumps(TEXTS)).replace("NAME", name)
    )
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/harness.html"
        command = [BROWSER, *HEADLESS, f"--user-data-dir={folder / 'user'}", address]
        shown = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            assert server.posted.wait(100), "nothing was posted"
        finally:
            shown.kill()
            shown.wait()
            server.shutdown()
    return server.found


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs a browser, as chromium")
@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm")
def test_a_browser_gives_the_probabilities_and_classes_of_predict(finished, tmp_path):
    install = ["npm", "install", "--ignore-scripts", "--prefix", tmp_path]
    install.append("@huggingface/transformers")
    try:
        subprocess.run(install, capture_output=True, check=True, timeout=100)
    except subprocess.SubprocessError:
        pytest.skip("transformers.js could not be installed")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("gone", "//gone", "/\\gone"):  # of this server, whatever the address says
        failure = f"It failed: there is no {name.strip('/').replace(chr(92), '%5C')}/config.json"
        assert ask(tmp_path, name.replace(chr(92), "%5C")).startswith(failure)
    workdir = shutil.copytree(finished, tmp_path / "run")
    one = make_encoder(max_length=9, truncation="head_tail")
    several = make_encoder(max_length=9, labels="a,b,c", label_separator=";")
    both = {
        "one": (dataclasses.replace(one, thresholds=[0.2, 0.8]), 2.0),
        "several": (dataclasses.replace(several, thresholds=[0.2, 0.5, 0.5]), [2.0, 1.0, 0.5]),
    }
    folder = tmp_path / "exports" / "our model"
    for run, temperature in both.values():
        change_json(workdir / "result.json", temperature=temperature)
        shutil.rmtree(folder, ignore_errors=True)  # no browser keeps the model before it
        export_onnx(run, workdir, folder)
        run = calibrate(run, temperature)
        ours, _ = predict([run], TEXTS)
        found = ask(tmp_path, "exports/our%20model")
        p = [[float(of[label]) for label in run.classes] for _, of in found]
        np.testing.assert_allclose(p, ours, atol=3e-6)
        chosen = run.kind.decide(ours, run.thresholds) > 0
        names = [", ".join(np.array(run.classes)[of]) or "none" for of in chosen]
        assert [classes for classes, _ in found] == names
