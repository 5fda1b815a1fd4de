"""Compare the newer encoders with PyTorch's, and local attention with full attention.

    pip install -r requirements-bench.txt
    python -m benchmarks.speed.encoders --output=results/speed/encoders

As benchmarks/speed/pytorch.py: a process per side, warmed up, in turns, `--rounds` times. Weights
and tokens are random, all rows have the full length. `--torch_python` names PyTorch's interpreter.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.speed.pytorch import compare
from sentiment_jax.runtime import startup
from sentiment_jax.storage.run_directory import describe_environment

FLAGS = flags.FLAGS
VOCABULARIES = {"distilbert": 30522, "modernbert": 50368}
DISTILBERT = {
    "name": "distilbert",
    "embedding_size": 768,
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
MODERNBERT = DISTILBERT | {
    "name": "modernbert",
    "num_hidden_layers": 22,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
}
LENGTHS = (512, 2048, 8192)
OURS = [("jax", "float32"), ("jax", "bfloat16")]


def make_job(folder: Path, what: str, rows: int, length: int, **job: Any) -> dict[str, Any]:
    """Return a job of benchmarks/speed/pytorch.py on rows of random tokens."""
    path = folder / f"{rows}x{length}.npz"
    rng = np.random.default_rng(0)
    np.savez(
        path,
        token_ids=rng.integers(1000, 30000, rows * length).astype(np.int32),
        offsets=np.arange(rows + 1) * length,
        labels=rng.integers(0, 2, rows).astype(np.int32),
    )
    vocab_size = VOCABULARIES[job["model"]["name"]]
    shapes = {"buckets": [length], "vocab_size": vocab_size, "cpu_devices": 1}
    return {"what": what, "data": str(path), "optimizer": "adamw", **shapes, **job}


def main(_: list[str]) -> None:
    """Measure everything and write encoders.json and table.md."""
    startup.use_wide_vectors()  # our side's processes inherit it
    logging.set_verbosity(logging.WARNING)
    output = Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"compare": [], "attention": [], "machine": describe_environment()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, model, rows, length, size, mode in (
            ("DistilBERT, training, 128 tokens", DISTILBERT, 32, 128, 16, "train"),
            ("DistilBERT, inference, 128 tokens", DISTILBERT, 64, 128, 16, "infer"),
            ("ModernBERT, training, 128 tokens", MODERNBERT, 16, 128, 8, "train"),
            ("ModernBERT, inference, 128 tokens", MODERNBERT, 32, 128, 16, "infer"),
            ("ModernBERT, inference, 2,048 tokens", MODERNBERT, 2, 2048, 1, "infer"),
        ):
            job = make_job(folder, what, rows, length, model=model, batch_size=size, mode=mode)
            found["compare"] += compare(job)
            write(found, output)
        for length in LENGTHS:
            for attention, window in (("local", 128), ("full", 2 * LENGTHS[-1])):
                model = MODERNBERT | {"local_attention": window}
                settings = {"model": model, "batch_size": 1, "mode": "infer"}
                job = make_job(folder, f"{attention}, {length} tokens", 1, length, **settings)
                for measured in compare(job, sides=OURS):
                    found["attention"].append({**measured, "length": length, "layers": attention})
                    write(found, output)
    print(tables(found))


def write(found: dict[str, Any], output: Path) -> None:
    """Write encoders.json and table.md: a job takes minutes, the last ones many."""
    (output / "encoders.json").write_text(json.dumps(found, indent=1) + "\n")
    (output / "table.md").write_text(tables(found))


def tables(found: dict[str, Any]) -> str:
    """Return both tables as Markdown."""
    sides = [(side, dtype) for side in ("jax", "torch") for dtype in ("float32", "bfloat16")]
    head = "ours float32 | ours bfloat16 | PyTorch float32 | PyTorch bfloat16 | best to best"
    lines = [f"| job (texts/s, median) | {head} |", "|---|" + "---|" * 5]
    for what in dict.fromkeys(entry["what"] for entry in found["compare"]):
        rates = [
            entry["examples_per_second"]
            for side in sides
            for entry in found["compare"]
            if (entry["what"], entry["side"], entry["dtype"]) == (what, *side)
        ]
        ratio = max(rates[:2]) / max(rates[2:])
        cells = [*(f"{rate:.2f}" for rate in rates), f"**{ratio:.2f}**"]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += [
        "",
        "| seconds a text | local float32 | full float32 | local bfloat16 | full bfloat16 |",
    ]
    lines.append("|---|" + "---|" * 4)
    for length in LENGTHS:
        cells = [
            f"{1 / entry['examples_per_second']:.2f}"
            for dtype in ("float32", "bfloat16")
            for layers in ("local", "full")
            for entry in found["attention"]
            if (entry["length"], entry["dtype"], entry["layers"]) == (length, dtype, layers)
        ]
        lines.append(f"| {length:,} tokens | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    flags.FLAGS.set_default("output", "results/speed/encoders")
    flags.FLAGS.set_default("rounds", 3)
    app.run(main)
