"""Compare the newer encoders with PyTorch's, and local attention with full attention.

    pip install -r requirements-bench.txt
    python -m benchmarks.speed.encoders --output=results/speed/encoders

As benchmarks/speed/pytorch.py: a process per side, warmed up, in turns, `--rounds` times. Weights
and tokens are random, all rows have the full length. `--torch_python` names PyTorch's interpreter.
"""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.speed import report
from benchmarks.speed.pytorch import chosen_sides, compare
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import write_json
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
            found["compare"] += compare(job, chosen_sides())
            write(found, output)
        for length in LENGTHS:
            for attention, window in (("local", 128), ("full", 2 * LENGTHS[-1])):
                model = MODERNBERT | {"local_attention": window}
                settings = {"model": model, "batch_size": 1, "mode": "infer"}
                job = make_job(folder, f"{attention}, {length} tokens", 1, length, **settings)
                found["attention"] += compare(job, sides=OURS)
                write(found, output)


def write(found: dict[str, Any], output: Path) -> None:
    """Write encoders.json and table.md: a job takes minutes, the last ones many."""
    write_json(output / "encoders.json", found)
    lines = ["| ModernBERT | dtype | seconds a text |", "|---|---|---:|"]
    for row in found["attention"]:
        lines.append(f"| {row['what']} | {row['dtype']} | {1 / row['examples_per_second']:.2f} |")
    text = report.table(found["compare"]) + "\n" + "\n".join(lines) + "\n"
    (output / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    flags.FLAGS.set_default("output", "results/speed/encoders")
    flags.FLAGS.set_default("rounds", 3)
    app.run(main)
