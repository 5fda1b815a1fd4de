"""A service for what --mode=export --format=onnx wrote; it needs neither JAX nor PyTorch.

pip install fastapi uvicorn onnxruntime tokenizers numpy
MODEL=FOLDER FILE=model_quantized.onnx uvicorn --app-dir examples serve:app
curl localhost:8000 -d '{"texts": ["The lid leaks.", "It just works."]}'

FILE is model.onnx by default. Each text gets its classes and the probability of every class.
"""

import html
import json
import os
import re
import unicodedata
from pathlib import Path

import fastapi
import numpy as np
import onnxruntime
import tokenizers

FOLDER = Path(os.environ["MODEL"])
TEXTS, CHARACTERS, BYTES = 64, 20_000, 2_000_000  # the most of a request, a text, a body
CONFIG = json.loads((FOLDER / "config.json").read_text("utf-8"))
CLASSES = list(CONFIG["id2label"].values())
TEMPERATURE, THRESHOLDS, (FIRST, LAST), EMPTY = CONFIG["sentiment_jax"].values()
session = onnxruntime.InferenceSession(FOLDER / "onnx" / os.environ.get("FILE", "model.onnx"))
tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
app = fastapi.FastAPI()


def classify(texts: list[str]) -> list[dict]:
    """Return the classes of each text, and their calibrated probabilities."""
    rows = []
    for text in texts:  # as in training: normalized, tokenized, truncated
        text = re.sub(r"(?i)<br\s*/?>", " ", html.unescape(text.strip())).replace("\ufeff", "")
        text = " ".join(unicodedata.normalize("NFC", text).split())
        ids = tokenizer.encode(text).ids or EMPTY
        rows.append(ids if len(ids) <= FIRST + LAST else ids[:FIRST] + ids[len(ids) - LAST :])
    mask = np.arange(max(map(len, rows))) < np.array([[len(row)] for row in rows])
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(rows)
    feed = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    scaled = session.run(["logits"], feed)[0] / np.array(TEMPERATURE)
    p = (1 + np.tanh(scaled / 2)) / 2  # the sigmoid
    chosen = p > np.array(THRESHOLDS or 0.5)
    if CONFIG.get("problem_type") != "multi_label_classification":
        p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        chosen = np.eye(len(CLASSES), dtype=bool)[(p / np.array(THRESHOLDS or 1)).argmax(axis=1)]
    named = [[CLASSES[i] for i in np.flatnonzero(row)] for row in chosen]
    each = (dict(zip(CLASSES, row, strict=True)) for row in p.round(6).tolist())
    return [{"classes": of, "p": row} for of, row in zip(named, each, strict=True)]


@app.post("/")
async def post(request: fastapi.Request) -> list[dict]:
    """Check a body, {"texts": [...]}, and classify its texts; refuse another in a sentence."""
    body = b""
    async for chunk in request.stream():
        body = (body + chunk)[: BYTES + 1]  # read to its end: the client then reads the answer
    if len(body) > BYTES:
        raise fastapi.HTTPException(413, f"The body has more than {BYTES:,} bytes.")
    try:
        texts = json.loads(body)["texts"]
        "".join(texts).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        detail = 'The body must be JSON in UTF-8, like {"texts": ["A text."]}.'
        raise fastapi.HTTPException(400, detail) from None
    if not isinstance(texts, list) or not 0 < len(texts) <= TEXTS:
        raise fastapi.HTTPException(422, f"Send a list of 1 to {TEXTS} texts.")
    if max(map(len, texts)) > CHARACTERS:
        raise fastapi.HTTPException(422, f"A text has more than {CHARACTERS:,} characters.")
    return await fastapi.concurrency.run_in_threadpool(classify, texts)
