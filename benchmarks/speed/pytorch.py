"""Compare the package's speed with PyTorch's: same reviews, interleaved, medians and ratios.

    pip install -r requirements-bench.txt
    python -m benchmarks.speed.pytorch --data_dir=DATA_DIR --output=results/speed/pytorch

Each side is a process of its own that compiles (or warms up) first. Then the sides take turns,
`--rounds` times: two passes over the reviews each, the second timed. Weights are random. Lengths
are those of real reviews (WordPiece and words, truncated at `max_length`). `--torch_python` names
another interpreter for PyTorch's side, if one Python does not have both. More sides take turns with
these two: `--other_python` names an interpreter with another JAX, `--before` a checkout of another
revision, `--compiled` adds PyTorch's model by torch.compile.
"""

import json
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

from benchmarks.speed import flops
from benchmarks.speed.synthetic import model_config
from configs import bert, lstm
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import startup
from sentiment_jax.storage.run_directory import describe_environment
from sentiment_jax.training.checks import resolve
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
SCALE = flags.DEFINE_float("scale", 1.0, "Share of the reviews to use, for a quick look.")

MINILM = {  # all-MiniLM-L6-v2's sizes
    "name": "bert",
    "embedding_size": 384,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
LSTM = {"name": "lstm", "embedding_size": 100, "hidden_size": 64, "dense_size": 128}
DTYPES = ("float32", "bfloat16")


class Side:
    """The process of one side, warmed up."""

    def __init__(self, side: str, job: dict[str, Any]):
        """Start the process and wait until its first pass has ended."""
        torch = side in ("torch", "compiled")
        python = TORCH_PYTHON.value if torch else sys.executable
        python = OTHER_PYTHON.value if side == "other" else python
        module = f"benchmarks.speed.side_{'torch' if torch else 'jax'}"
        if side == "before" and Path(BEFORE.value, "benchmarks/speed_jax.py").exists():
            module = "benchmarks.speed_jax"  # its name before benchmarks/ had folders
        # main.py sets the same for itself; both sides gain from it.
        environment = {**os.environ, "GLIBC_TUNABLES": startup.TUNABLES}
        self.process = subprocess.Popen(
            [python, "-m", module],
            cwd=BEFORE.value if side == "before" else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.first_seconds = self.ask(json.dumps({**job, "compiled": side == "compiled"}))["first"]

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended before it answered")
        return json.loads(answer)

    def end(self) -> int:
        """End the process and return its peak memory in bytes."""
        peak = self.ask("end")["peak_bytes"]
        self.process.wait()
        return peak


def chosen_sides() -> list[tuple[str, str]]:
    """Return the sides of the main table, each with both number types."""
    more = {"other": OTHER_PYTHON.value, "before": BEFORE.value, "compiled": COMPILED.value}
    sides = ["jax", "torch", *(side for side, wanted in more.items() if wanted)]
    return [(side, dtype) for side in sides for dtype in DTYPES]


def compare(job: dict[str, Any], sides: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Measure one job on every side, in turns."""
    processes = {side: Side(side[0], {**job, "dtype": side[1]}) for side in sides}
    rates: dict[Any, list[float]] = {side: [] for side in sides}
    for _ in tqdm(range(ROUNDS.value), f"{job['what']:32}", mininterval=1):
        for side, process in processes.items():
            rates[side].append(process.ask("run")["rate"])
    return [
        {
            "what": job["what"],
            "side": side[0],
            "dtype": side[1],
            "examples_per_second": statistics.median(rates[side]),
            "lowest": min(rates[side]),
            "highest": max(rates[side]),
            "first_pass_seconds": process.first_seconds,
            "peak_bytes": process.end(),
        }
        for side, process in processes.items()
    ]


def first_step(cache: Path, workdir: Path) -> float:
    """Return the seconds from the start of the sample LSTM's command to its first record."""
    command = ["-m", "sentiment_jax.main", "--config=configs/lstm.py:sample"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command, "--config.log_every=1", f"--workdir={workdir}"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = workdir / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError("the sample run ended before its first step")
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    return seconds


def first_steps(folder: Path) -> dict[str, Any]:
    """Return the seconds to the first step with an empty and with a full compilation cache."""
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for round_ in tqdm(range(ROUNDS.value), f"{'first step':32}", mininterval=1):
        for name in times:
            times[name].append(first_step(folder / f"cache{round_}", folder / f"{name}{round_}"))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


class Texts:
    """Encoded reviews of one model, to draw samples from."""

    def __init__(self, config: ConfigDict, folder: Path):
        """Read and encode the reviews."""
        config.data.source = SOURCE.value
        config.data.path = DATA_DIR.value
        self.experiment = CLASSIFICATION.prepare(resolve(config))
        self.folder = folder

    def job(self, what: str, split: str, count: int, width: int = 0, **job: Any) -> dict[str, Any]:
        """Return a job on `count` random reviews; `width` gives each exactly that length."""
        encoded = self.experiment.encoded[split]
        count = max(job["batch_size"], round(count * SCALE.value))
        rng = np.random.default_rng(0)
        rows = rng.choice(len(encoded), count, replace=count > len(encoded))
        ids = [
            np.resize(encoded.token_ids[begin:end], width)
            if width
            else encoded.token_ids[begin:end]
            for begin, end in zip(encoded.offsets[rows], encoded.offsets[rows + 1], strict=True)
        ]
        path = self.folder / f"{len(list(self.folder.iterdir()))}.npz"
        np.savez(
            path,
            token_ids=np.concatenate(ids),
            offsets=np.cumsum([0, *map(len, ids)]),
            labels=encoded.labels[rows].argmax(axis=1),
        )
        return {
            "what": what,
            "data": str(path),
            "vocab_size": self.experiment.tokenizer.get_vocab_size(),
            "buckets": [width] if width else list(self.experiment.buckets),
            "cpu_devices": self.experiment.config.cpu_devices,
            **job,
        }


def comparisons(encoder: Texts, recurrent: Texts, long: Texts) -> list[dict[str, Any]]:
    """Return the jobs of the main table."""
    bert_job = {"model": MINILM, "optimizer": "adamw"}
    lstm_job = {"model": LSTM, "optimizer": "adam"}
    return [
        encoder.job("encoder, training", "train", 128, batch_size=32, mode="train", **bert_job),
        encoder.job("encoder, inference", "test", 512, batch_size=16, mode="infer", **bert_job),
        recurrent.job("LSTM, training", "train", 2048, batch_size=256, mode="train", **lstm_job),
        recurrent.job("LSTM, inference", "test", 4096, batch_size=512, mode="infer", **lstm_job),
        long.job("encoder 512, training", "train", 8, 512, batch_size=8, mode="train", **bert_job),
    ]


def growth(encoder: Texts, long: Texts, recurrent: Texts) -> dict[str, list[dict[str, Any]]]:
    """Return jobs that differ in a single quantity, by the quantity's name."""
    bert_job = {"model": MINILM, "optimizer": "adamw", "mode": "train"}
    lstm_job = {"model": LSTM, "optimizer": "adam", "mode": "train"}
    model = build_model(model_config(MINILM), vocab_size=long.experiment.tokenizer.get_vocab_size())
    return {
        "length": [
            {
                **long.job(str(n), "train", 16, n, batch_size=8, **bert_job),
                "at": n,
                "flops": flops.training_flops(model, Classification(), (1, n)),
            }
            for n in (64, 128, 256, 512)
        ],
        "batch": [
            {**encoder.job(str(n), "train", 64, 128, batch_size=n, **bert_job), "at": n}
            for n in (4, 8, 16, 32, 64)
        ],
        "data": [
            {**recurrent.job(str(n), "train", n, batch_size=256, **lstm_job), "at": n}
            for n in (1024, 2048, 4096, 8192)
        ],
    }


def main(_: list[str]) -> None:
    """Measure everything and write table.md, speed.json and speed.png."""
    startup.use_wide_vectors()  # our side's processes inherit it
    logging.set_verbosity(logging.WARNING)
    from benchmarks.speed import report

    start = time.perf_counter()
    wanted = set(ONLY.value)
    short = bert.get_config()
    words = lstm.get_config()
    far = bert.get_config()
    for config, length in ((short, 128), (far, 512)):
        config.model.pretrained = ""
        config.data.max_length = length
        config.data.length_buckets = tuple(range(32, length, 32))
    words.data.max_length = 256
    words.data.length_buckets = (64, 128, 160, 192, 224)
    with tempfile.TemporaryDirectory() as folder:
        encoder, recurrent, long = (Texts(c, Path(folder)) for c in (short, words, far))
        found: dict[str, Any] = {"compare": [], "environment": describe_environment()}
        if "start" in wanted:
            with tempfile.TemporaryDirectory() as runs:
                found["start"] = first_steps(Path(runs))
        if "compare" in wanted:
            for job in comparisons(encoder, recurrent, long):
                found["compare"] += compare(job, chosen_sides())
        for name, jobs in growth(encoder, long, recurrent).items():
            if name in wanted:
                dtype = "float32" if name == "data" else "bfloat16"
                sides = [("jax", dtype), ("torch", dtype)]
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
