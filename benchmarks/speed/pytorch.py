"""Compare the package's speed with PyTorch's: same reviews, interleaved, medians and ratios.

    pip install -r requirements-bench.txt
    python -m benchmarks.speed.pytorch --data_dir=DATA_DIR --output=results/speed/pytorch

Each side is a process of its own that compiles (or warms up) first. Then the sides take turns,
`--rounds` times: two passes over the reviews each, the second timed. Weights are random. Lengths
are those of real reviews (WordPiece and words, truncated at `max_length`). `--torch_python` names
another interpreter for PyTorch's side, if one Python does not have both. More sides take turns with
these two: `--other_python` names an interpreter with another JAX, `--before` a checkout of another
revision, `--compiled` adds PyTorch's model by torch.compile.

`--only=encoders` compares DistilBERT and ModernBERT, `--only=attention` local attention with full
attention, on random tokens; all rows have the full length.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict
from tqdm import tqdm

from benchmarks.speed import flops, report
from benchmarks.speed.serve import Side, random_job, write_job
from benchmarks.speed.synthetic import model_config
from configs import bert, lstm
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import startup
from sentiment_jax.storage.run_directory import describe_environment
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.tasks.classification import CLASSIFICATION

DATA_DIR = flags.DEFINE_string("data_dir", "", "The prepared TFDS folder; empty: its default.")
SOURCE = flags.DEFINE_string("source", "tfds", "Texts: tfds, or the embedded sample.")
OUTPUT = flags.DEFINE_string("output", "results/speed/pytorch", "Folder of table, JSON and plot.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed passes of each side.")
TORCH_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "PyTorch's interpreter.")
PARTS = ["start", "compare", "length", "batch", "data"]
ONLY = flags.DEFINE_list("only", PARTS, "Measure only these parts.")
OTHER_PYTHON = flags.DEFINE_string("other_python", "", "A Python with another JAX; empty: none.")
BEFORE = flags.DEFINE_string("before", "", "A checkout of another revision; empty: none.")
COMPILED = flags.DEFINE_bool("compiled", False, "Measure PyTorch's models by torch.compile, too.")

MINILM = {"name": "bert", "embedding_size": 384, "hidden_size": 384, "num_hidden_layers": 6}
MINILM |= {"num_attention_heads": 12, "intermediate_size": 1536}  # all-MiniLM-L6-v2's sizes
LSTM = {"name": "lstm", "embedding_size": 100, "hidden_size": 64, "dense_size": 128}
DISTILBERT = {"name": "distilbert", "embedding_size": 768, "hidden_size": 768}
DISTILBERT |= {"num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072}
DISTILBERT |= {"max_position_embeddings": 512}
MODERNBERT = DISTILBERT | {"name": "modernbert", "num_hidden_layers": 22}
MODERNBERT |= {"intermediate_size": 1152, "max_position_embeddings": 8192}
ENCODERS = (  # what, model, rows, tokens, batch size, mode
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


def start(side: str, job: dict[str, Any]) -> Side:
    """Start a side: jax, other, before, torch or compiled."""
    if side in ("torch", "compiled"):
        return Side("speed.side_torch", TORCH_PYTHON.value, job | {"compiled": side == "compiled"})
    python = OTHER_PYTHON.value if side == "other" else sys.executable
    if side != "before":
        return Side("speed.side_jax", python, job)
    old = Path(BEFORE.value, "benchmarks/speed_jax.py").exists()  # before there were folders
    return Side("speed_jax" if old else "speed.side_jax", python, job, cwd=BEFORE.value)


def chosen_sides() -> list[tuple[str, str]]:
    """Return the sides of the main table, each with both number types."""
    more = {"other": OTHER_PYTHON.value, "before": BEFORE.value, "compiled": COMPILED.value}
    sides = ["jax", "torch", *(side for side, wanted in more.items() if wanted)]
    return [(side, dtype) for side in sides for dtype in ("float32", "bfloat16")]


def compare(job: dict[str, Any], sides: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Measure one job on every side, in turns."""
    processes = {side: start(side[0], {**job, "dtype": side[1]}) for side in sides}
    rates: dict[Any, list[float]] = {side: [] for side in sides}
    for _ in tqdm(range(ROUNDS.value), f"{job['what']:32}", mininterval=1):
        for side, process in processes.items():
            rates[side].append(process.ask("run")["rate"])
    found = []
    for (name, dtype), process in processes.items():
        row = {"what": job["what"], "side": name, "dtype": dtype}
        of = rates[name, dtype]
        row["examples_per_second"] = statistics.median(of)
        row |= {"lowest": min(of), "highest": max(of), "peak_bytes": process.end()}
        found.append(row | {"first_pass_seconds": process.first_seconds})
    return found


def first_step(folder: Path, name: str) -> float:
    """Return the seconds from the start of the sample LSTM's command to its first record."""
    command = [sys.executable, "-m", "sentiment_jax.main", "--config=configs/lstm.py:sample"]
    command += ["--config.log_every=1", f"--workdir={folder / name}"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    log = folder / name / "metrics.jsonl"
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, **quiet)
    while not (log.exists() and log.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError("the sample run ended before its first step")
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    return seconds


def first_steps() -> dict[str, float]:
    """Return the seconds to the first step with an empty and with a full compilation cache."""
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in tqdm(range(ROUNDS.value), f"{'first step':32}", mininterval=1):
        with tempfile.TemporaryDirectory() as folder:
            for name in times:
                times[name].append(first_step(Path(folder), name))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def prepare(config: ConfigDict, length: int, buckets: tuple[int, ...]) -> Experiment:
    """Read and encode the reviews for a model."""
    config.model.pretrained = ""
    config.data.update({"source": SOURCE.value, "path": DATA_DIR.value})
    config.data.update({"max_length": length, "length_buckets": buckets})
    return CLASSIFICATION.prepare(resolve(config))


def make_job(
    experiment: Experiment, folder: Path, what: str, split: str, count: int, width: int, **job: Any
) -> dict[str, Any]:
    """Return a job on `count` random reviews, each of exactly `width` tokens unless that is 0."""
    encoded = experiment.encoded[split]
    rows = np.random.default_rng(0).choice(len(encoded), count, replace=count > len(encoded))
    ids = np.split(encoded.token_ids, encoded.offsets[1:-1])
    job["vocab_size"] = experiment.tokenizer.get_vocab_size()
    job["buckets"] = [width] if width else list(experiment.buckets)
    job["cpu_devices"] = experiment.config.cpu_devices
    resized = [np.resize(ids[row], width or len(ids[row])) for row in rows]
    return write_job(folder, what, resized, encoded.labels[rows].argmax(axis=1), **job)


def all_jobs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the jobs of the main table, and those that differ in a single quantity, `at`."""
    encoder = prepare(bert.get_config(), 128, tuple(range(32, 128, 32)))
    long = prepare(bert.get_config(), 512, tuple(range(32, 512, 32)))
    words = prepare(lstm.get_config(), 256, (64, 128, 160, 192, 224))
    model = build_model(model_config(MINILM), vocab_size=long.tokenizer.get_vocab_size())

    def job(
        experiment: Experiment,
        what: str,
        count: int,
        size: int,
        width: int = 0,
        mode: str = "train",
    ) -> dict[str, Any]:
        kind = {"model": LSTM, "optimizer": "adam"} if experiment is words else {}
        kind = kind or {"model": MINILM, "optimizer": "adamw"}
        split = "train" if mode == "train" else "test"
        kind |= {"batch_size": size, "mode": mode}
        return make_job(experiment, folder, what, split, count, width, **kind)

    return {
        "compare": [
            job(encoder, "encoder, training", 128, 32),
            job(encoder, "encoder, inference", 512, 16, mode="infer"),
            job(words, "LSTM, training", 2048, 256),
            job(words, "LSTM, inference", 4096, 512, mode="infer"),
            job(long, "encoder 512, training", 8, 8, 512),
        ],
        "length": [
            job(long, str(n), 16, 8, n)
            | {"at": n, "flops": flops.training_flops(model, Classification(), (1, n))}
            for n in (64, 128, 256, 512)
        ],
        "batch": [job(encoder, str(n), 64, n, 128) | {"at": n} for n in (4, 8, 16, 32, 64)],
        "data": [job(words, str(n), n, 256) | {"at": n} for n in (1024, 2048, 4096, 8192)],
    }


def random_jobs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the jobs of the newer encoders, and of local and full attention, on random tokens."""

    def job(what: str, model: dict[str, Any], rows: int, length: int, size: int, mode: str) -> Any:
        given = {"model": model, "batch_size": size, "mode": mode}
        given["vocab_size"] = 30522 if model is DISTILBERT else 50368
        return random_job(folder, what, rows, length, **given)

    return {"encoders": [job(*of) for of in ENCODERS], "attention": [job(*of) for of in ATTENTION]}


def main(_: list[str]) -> None:
    """Measure everything and write table.md, speed.json and speed.png."""
    startup.use_wide_vectors()  # our side's processes inherit it
    logging.set_verbosity(logging.WARNING)
    start = time.perf_counter()
    found: dict[str, Any] = {"compare": [], "environment": describe_environment()}
    if "start" in ONLY.value:
        found["start"] = first_steps()
    with tempfile.TemporaryDirectory() as folder:
        jobs_of = random_jobs(Path(folder))
        if {*ONLY.value} - {"start", *jobs_of}:
            jobs_of |= all_jobs(Path(folder))
        for name, jobs in jobs_of.items():
            dtype = "float32" if name == "data" else "bfloat16"
            sides = (
                chosen_sides()
                if name in ("compare", "encoders")
                else [("jax", dtype), ("torch", dtype)]
            )
            if name == "attention":
                sides = [("jax", "float32"), ("jax", "bfloat16")]
            if name in ONLY.value:
                found[name] = [
                    {**row, **{key: job[key] for key in ("at", "flops") if key in job}}
                    for job in jobs
                    for row in compare(job, sides)
                ]
    for dtype in ("float32", "bfloat16"):
        found[f"matmul_{dtype}"] = flops.matmul_rate(dtype)
    found["seconds"] = time.perf_counter() - start
    found["jax"] = jax.__version__
    report.write(found, Path(OUTPUT.value))


if __name__ == "__main__":
    app.run(main)
