"""A side of onnx.py: a process that answers texts from standard input by one program.

python benchmarks/speed/side_onnx.py SIDE RUN EXPORTED

It imports what its side needs, and nothing of the others. Each line of standard input is a JSON
list of texts; with `null` before them, they come one by one. The answer has the predicted classes,
the seconds of each call, and the process's peak memory.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Predict = Callable[[list[str]], list[str]]
ROWS = 32  # of a batch, for the sides that make none themselves


def ours(run: Path, _: Path) -> Predict:
    """Return what predicts by this package."""
    from sentiment_jax import load

    model = load(run)
    return lambda texts: list(model.predict(texts)["predicted"])


def serve(_: Path, exported: Path) -> Predict:
    """Return what predicts by onnxruntime, as examples/serve.py does; FILE names the file."""
    os.environ["MODEL"] = str(exported / "onnx")
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
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
    length = tokenizer.model_max_length

    def classify(texts: list[str]) -> list[str]:
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
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
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    table = pandas.read_csv(exported / "train.csv", dtype=str, keep_default_na=False)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
    model.fit(table["text"], table["label"])
    return lambda texts: list(model.predict(texts))


def classes_of(exported: Path) -> list[str]:
    """Return the classes' names."""
    config = json.loads((exported / "onnx" / "config.json").read_text("utf-8"))
    return list(config["id2label"].values())


def main() -> None:
    """Load the side's model, then answer each line."""
    side, *paths = sys.argv[1:]
    predict = globals()[side](*map(Path, paths))
    for line in sys.stdin:
        texts = json.loads(line)
        calls = [[text] for text in texts[1:]] if texts[0] is None else [texts]
        predicted, seconds = [], []
        for call in calls:
            start = time.perf_counter()
            predicted += predict(call)
            seconds.append(time.perf_counter() - start)
        with open("/proc/self/status", encoding="utf-8") as status:
            (kilobytes,) = (of.split()[1] for of in status if of.startswith("VmHWM"))
        answer = {"predicted": predicted, "seconds": seconds, "bytes": int(kilobytes) * 1024}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
