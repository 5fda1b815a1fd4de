"""PyTorch's side of pytorch.py, by best practice; imports neither the package nor JAX.

Hugging Face's encoders with scaled-dot-product attention, torch.nn.LSTM; batches of similar lengths
padded to their longest row; fused AdamW or Adam; float32, or bfloat16 by autocast.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.speed.serve import serve

WINDOW = 50  # batches sorted by length together, as in the package


class Lstm(torch.nn.Module):
    """The study's LSTM."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int, dense_size: int):
        """Build the layers."""
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, embedding_size)
        self.lstm = torch.nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.dropout = torch.nn.Dropout(0.3)
        self.dense = torch.nn.Linear(hidden_size, dense_size)
        self.classifier = torch.nn.Linear(dense_size, 2)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits from the state after the last valid word."""
        states, _ = self.lstm(self.embedding(ids))
        last = states[torch.arange(len(ids)), lengths - 1]
        return self.classifier(torch.relu(self.dense(self.dropout(last))))


class Encoder(torch.nn.Module):
    """Hugging Face's classifier of an encoder with the same interface."""

    def __init__(self, vocab_size: int, name: str, **sizes: int):
        """Build the model with random weights."""
        super().__init__()
        from transformers import AutoConfig, AutoModelForSequenceClassification

        sizes.pop("embedding_size")
        if name == "distilbert":
            sizes["hidden_dim"] = sizes.pop("intermediate_size")
        config = AutoConfig.for_model(name, vocab_size=vocab_size, **sizes)
        make = AutoModelForSequenceClassification.from_config
        self.encoder = make(config, attn_implementation="sdpa")

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits; keys beyond a row's length are masked."""
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return self.encoder(input_ids=ids, attention_mask=mask.long()).logits


def make_batches(job: dict[str, Any], order: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield batches of neighbors in `order`, each padded to its longest row."""
    with np.load(job["data"], allow_pickle=False) as file:
        labels, token_ids, offsets = file["labels"], file["token_ids"], file["offsets"]
    lengths = np.diff(offsets)
    size = job["batch_size"]
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        width = int(lengths[rows].max())
        ids = np.zeros((len(rows), width), np.int64)
        for at, row in enumerate(rows):
            ids[at, : lengths[row]] = token_ids[offsets[row] : offsets[row + 1]]
        arrays = (ids, lengths[rows], labels[rows].astype(np.int64))
        yield tuple(torch.from_numpy(array).to(job["device"]) for array in arrays)


def passes(job: dict[str, Any]) -> Iterator[Callable[[], int]]:
    """Yield functions that make one pass over the reviews and return their number."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    job.setdefault("device", "cpu")
    sizes = dict(job["model"])
    name = sizes.pop("name")
    if name == "lstm":
        model: torch.nn.Module = Lstm(job["vocab_size"], **sizes)
    else:
        model = Encoder(job["vocab_size"], name, **sizes).to(job["device"])
    if job["compiled"]:
        model = torch.compile(model)
    with np.load(job["data"], allow_pickle=False) as file:
        lengths = np.diff(file["offsets"])
    autocast = torch.autocast(job["device"], torch.bfloat16, job["dtype"] == "bfloat16")
    if job["mode"] == "infer":
        model.eval()

        def infer() -> int:
            with torch.inference_mode(), autocast:
                for ids, widths, _ in make_batches(job, np.argsort(lengths, kind="stable")):
                    torch.softmax(model(ids, widths).float(), -1)
            return len(lengths)

        yield from itertools.repeat(infer)
    kind = torch.optim.Adam if job["optimizer"] == "adam" else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=1e-4, fused=True)
    rng = np.random.default_rng(0)
    model.train()

    def train() -> int:
        order = rng.permutation(len(lengths))
        span = WINDOW * job["batch_size"]
        windows = np.split(order, range(span, len(order), span))
        order = np.concatenate([of[np.argsort(lengths[of], kind="stable")] for of in windows])
        for ids, widths, labels in make_batches(job, order):
            with autocast:
                loss = torch.nn.functional.cross_entropy(model(ids, widths).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        next(model.parameters()).sum().item()  # waits for a GPU
        return len(lengths)

    yield from itertools.repeat(train)


if __name__ == "__main__":
    serve(passes)
