"""A side of onnx.py: a process that classifies texts by one program.

Its job names the program, the run and the folder of its exports, and a text to warm up with. Then
each request is a JSON list of texts; with `null` before them, they come one by one. The answer has
the predicted classes, the seconds of each call, and the process's peak memory. It imports what its
program needs, and nothing of the others.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.speed.serve import peak_bytes

Predict = Callable[[list[str]], list[str]]
ROWS = 32  # of a batch, for the programs that make none themselves


def ours(run: Path, _: Path) -> Predict:
    """Return what predicts by this package."""
    from sentiment_jax import load

    model = load(run)
    return lambda texts: list(model.predict(texts)["predicted"])


def onnxruntime(exported: Path, file: str) -> Predict:
    """Return what predicts by onnxruntime, as examples/serve.py does."""
    os.environ |= {"MODEL": str(exported / "onnx"), "FILE": file}
    sys.path.insert(0, "examples")
    import serve

    return lambda texts: [of["classes"][0] for of in in_batches(serve.classify, texts)]


def in_batches(classify: Callable[[list[str]], list], texts: list[str]) -> list:
    """Classify texts of like length together; return the results in the texts' order."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    found: list = [None] * len(texts)
    for first in range(0, len(texts), ROWS):
        rows = order[first : first + ROWS]
        for row, of in zip(rows, classify([texts[row] for row in rows]), strict=True):
            found[row] = of
    return found


def torch(_: Path, exported: Path) -> Predict:
    """Return what predicts by transformers and PyTorch, with the mean of the states pooled here."""
    import safetensors.torch
    import torch
    import transformers

    folder = exported / "transformers"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    layer = safetensors.torch.load_file(folder / "2_Dense" / "model.safetensors")
    classes = classes_of(exported)
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    options["max_length"] = tokenizer.model_max_length

    def classify(texts: list[str]) -> list[str]:
        inputs = tokenizer(texts, **options)
        with torch.inference_mode():
            states = encoder(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            pooled = (states * mask).sum(1) / mask.sum(1)
            logits = pooled @ layer["linear.weight"].T + layer["linear.bias"]
        return [classes[i] for i in logits.argmax(1)]

    return lambda texts: in_batches(classify, texts)


def sentence_transformers(_: Path, exported: Path) -> Predict:
    """Return what predicts by sentence-transformers, which encodes a text to its logits."""
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(str(exported / "transformers"), device="cpu")
    classes = classes_of(exported)
    return lambda texts: [classes[i] for i in model.encode(texts).argmax(1)]


def sklearn(_: Path, exported: Path) -> Predict:
    """Return what predicts by a linear model of scikit-learn, which learns first."""
    import pandas

    from benchmarks.accuracy.peers_torch import fit_bigrams

    table = pandas.read_csv(exported / "train.csv", dtype=str, keep_default_na=False)
    model = fit_bigrams(table)
    return lambda texts: list(model.predict(texts))


def classes_of(exported: Path) -> list[str]:
    """Return the classes' names."""
    config = json.loads((exported / "onnx" / "config.json").read_text("utf-8"))
    return list(config["id2label"].values())


PROGRAMS: dict[str, Callable[[Path, Path], Predict]] = {
    "ours": ours,
    "float32": lambda _, exported: onnxruntime(exported, "model.onnx"),
    "int8": lambda _, exported: onnxruntime(exported, "model_quantized.onnx"),
    "torch": torch,
    "sentence_transformers": sentence_transformers,
    "sklearn": sklearn,
}


def main() -> None:
    """Load the program's model, then answer each line."""
    start = time.perf_counter()
    job = json.loads(sys.stdin.readline())
    predict = PROGRAMS[job["side"]](Path(job["run"]), Path(job["exported"]))
    predict([job["text"]])
    print(json.dumps({"first": time.perf_counter() - start}), flush=True)
    for line in sys.stdin:
        first, *rest = json.loads(line)
        calls = [[text] for text in rest] if first is None else [[first, *rest]]
        predicted = []
        seconds = []
        for call in calls:
            start = time.perf_counter()
            predicted += predict(call)
            seconds.append(time.perf_counter() - start)
        answer = {"predicted": predicted, "seconds": seconds, "bytes": peak_bytes()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
