"""PyTorch's side of benchmarks/speed/accelerator.py; imports neither the package nor JAX.

Reads a job as JSON on stdin and prints a row as JSON for each step: BERT in bfloat16 by autocast,
fused AdamW, scaled-dot-product attention; first eager, then by torch.compile.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.speed.side_torch import Encoder, train_step


def measure(step: Callable[[], Any], rounds: int, device: str) -> dict[str, Any]:
    """Return the seconds of a step, and the peak memory of the device, where that is known."""
    cuda = device == "cuda"
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):  # the first ones compile, choose kernels and allocate
        step()
    synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        step()
    synchronize()
    seconds = (time.perf_counter() - start) / rounds
    return {
        "seconds": seconds,
        "device_peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }


def main() -> None:
    """Measure evaluation and training, eager and compiled."""
    job = json.load(sys.stdin)
    device = job["device"]
    rows, length = job["shape"]
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(1000, job["vocab_size"], (rows, length))).to(device)
    lengths = torch.full((rows,), length, device=device)
    labels = torch.from_numpy(rng.integers(0, 2, rows)).to(device)
    plain = Encoder(job["vocab_size"], "bert", **job["sizes"]).to(device)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=3e-5, weight_decay=0.01, fused=True)
    autocast = torch.autocast(device, dtype=torch.bfloat16)
    for kind, model in (("eager", plain), ("compiled", torch.compile(plain))):

        def evaluate(model: Any = model) -> None:
            with torch.inference_mode(), autocast:
                torch.softmax(model(ids, lengths).float(), -1)

        def train(model: Any = model) -> None:
            train_step(model, optimizer, autocast, ids, lengths, labels)

        for mode, step in (("evaluation", evaluate), ("training", train)):
            plain.train(mode == "training")
            row = measure(step, job["rounds"], device)
            what = f"PyTorch's BERT {length} tokens, batch {rows}, {kind}, {mode}"
            rate = rows / row["seconds"]
            print(json.dumps({"what": what, "examples_per_second": rate, **row}), flush=True)


if __name__ == "__main__":
    main()
