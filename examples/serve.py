"""A service for what --mode=export --format=onnx wrote; it needs neither JAX nor PyTorch.

pip install fastapi uvicorn onnxruntime tokenizers numpy
MODEL=FOLDER FILE=model_quantized.onnx uvicorn --app-dir examples serve:app
curl localhost:8000 -d '{"texts": ["The lid leaks.", "It just works."]}'
"""

import html
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

import fastapi
import numpy as np
import onnxruntime
import tokenizers
from starlette.requests import ClientDisconnect

FOLDER = Path(os.environ.get("MODEL") or sys.exit("set MODEL to the folder of an export to ONNX"))
FILE = os.environ.get("FILE", "model.onnx")
TEXTS, CHARACTERS, BYTES = 64, 20_000, 2_000_000  # the most of a request, a text, a body
CONFIG = json.loads((FOLDER / "config.json").read_text("utf-8"))
CLASSES = np.array([*CONFIG["id2label"].values()])
TEMPERATURE, THRESHOLDS, (FIRST, LAST), EMPTY = CONFIG["sentiment_jax"].values()
session = onnxruntime.InferenceSession(FOLDER / "onnx" / FILE)
tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
app = fastapi.FastAPI()


def classify(texts: list[str]) -> list[dict]:
    """Return the classes of each text, and the calibrated probability of every class."""
    rows = []
    for text in texts:  # as in training: normalized, tokenized, truncated
        text = re.sub(r"(?i)<br\s*/?>", " ", html.unescape(text.strip())).replace("\ufeff", "")
        ids = tokenizer.encode(" ".join(unicodedata.normalize("NFC", text).split())).ids or EMPTY
        rows.append(ids if len(ids) <= FIRST + LAST else ids[:FIRST] + ids[len(ids) - LAST :])
    mask = np.arange(max(map(len, rows))) < np.array([[len(row)] for row in rows])
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(rows)
    feed = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    scaled = session.run(["logits"], feed)[0] / np.array(TEMPERATURE)
    p = np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))
    chosen = np.eye(len(CLASSES))[(p / np.array(THRESHOLDS or 1)).argmax(axis=1)] > 0
    if CONFIG.get("problem_type") == "multi_label_classification":
        p = np.exp(-np.logaddexp(0, -scaled))
        chosen = p > np.array(THRESHOLDS or 0.5)
    named = (dict(zip(CLASSES.tolist(), row, strict=True)) for row in p.round(6).tolist())
    pairs = zip(chosen, named, strict=True)
    return [{"classes": CLASSES[of].tolist(), "p": row} for of, row in pairs]


@app.post("/")
async def post(request: fastapi.Request) -> list[dict]:
    """Classify the texts of a body, {"texts": [...]}; refuse another in a sentence."""
    body = b""
    try:
        async for chunk in request.stream():
            body = (body + chunk)[: BYTES + 1]  # read to its end: the client then reads the answer
        texts = json.loads(body)["texts"]
        "".join(texts).encode()  # a lone surrogate is none of UTF-8
        fits = len(texts) <= TEXTS and max(map(len, texts)) <= CHARACTERS and len(body) <= BYTES
        if not (isinstance(texts, list) and fits):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError, ClientDisconnect):
        sizes = f"1 to {TEXTS} texts of at most {CHARACTERS:,} characters, {BYTES:,} bytes in all."
        raise fastapi.HTTPException(422, f'Send JSON, {{"texts": ["A text."]}}: {sizes}') from None
    return await fastapi.concurrency.run_in_threadpool(classify, texts)
