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
from absl import app, flags, logging

from benchmarks.speed import report
from benchmarks.speed.pytorch import OUTPUT, chosen_sides, compare
from benchmarks.speed.sides import random_job
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import describe_environment

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
JOBS = (  # what, model, rows, tokens, batch size, mode
    ("DistilBERT, training, 128 tokens", DISTILBERT, 32, 128, 16, "train"),
    ("DistilBERT, inference, 128 tokens", DISTILBERT, 64, 128, 16, "infer"),
    ("ModernBERT, training, 128 tokens", MODERNBERT, 16, 128, 8, "train"),
    ("ModernBERT, inference, 128 tokens", MODERNBERT, 32, 128, 16, "infer"),
    ("ModernBERT, inference, 2,048 tokens", MODERNBERT, 2, 2048, 1, "infer"),
)
ATTENTION = [
    (f"{name}, {length} tokens", MODERNBERT | {"local_attention": window}, 1, length, 1, "infer")
    for length in (512, 2048, 8192)
    for name, window in (("local", 128), ("full", 2 * 8192))
]


def main(_: list[str]) -> None:
    """Measure everything and write encoders.json, after each job: the last ones take minutes."""
    startup.use_wide_vectors()  # our side's processes inherit it
    logging.set_verbosity(logging.WARNING)
    output = Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"compare": [], "attention": [], "machine": describe_environment()}
    ours = [("jax", "float32"), ("jax", "bfloat16")]
    with tempfile.TemporaryDirectory() as folder:
        for part, jobs, sides in (
            ("compare", JOBS, chosen_sides()),
            ("attention", ATTENTION, ours),
        ):
            for what, model, rows, length, size, mode in jobs:
                given = {"model": model, "batch_size": size, "mode": mode}
                given["vocab_size"] = 30522 if model is DISTILBERT else 50368
                found[part] += compare(random_job(Path(folder), what, rows, length, **given), sides)
                write_json(output / "encoders.json", found)
    print(report.table(found["compare"]))
    for row in found["attention"]:
        print(f"{row['what']}, {row['dtype']}: {1 / row['examples_per_second']:.2f} s a text")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    flags.FLAGS.set_default("output", "results/speed/encoders")
    flags.FLAGS.set_default("rounds", 3)
    app.run(main)
