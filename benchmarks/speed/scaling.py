"""Measure step time against the number of devices, one process for each number, and plot it.

    python -m benchmarks.speed.scaling --output=results/speed/scaling
    python -m benchmarks.speed.scaling --output=results/speed/scaling --model=bert --batch_size=16

On the CPU the devices are virtual and share the machine's cores. A flat line means that splitting
a batch costs nothing, a rising one shows the cost. Only real devices can show a gain. The losses
of the last steps are compared: they must be equal up to rounding for every number of devices.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

OUTPUT = flags.DEFINE_string("output", "results/speed/scaling", "Folder of NAME.csv and NAME.png.")
MODEL = flags.DEFINE_enum("model", "lstm", ("lstm", "bert", "electra"), "Which model.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Texts per step, on all devices together.")
LENGTH = flags.DEFINE_integer("length", 128, "Tokens per review.")
STEPS = flags.DEFINE_integer("steps", 10, "Timed steps after the first, which compiles.")
COUNTS = flags.DEFINE_multi_integer("devices", [1, 2, 4], "Device counts to try.")
WORKER = flags.DEFINE_bool("worker", False, "Internal: measure with this process's devices.")


def measure() -> dict[str, object]:
    """Time training steps on all devices of this process."""
    import jax
    import numpy as np

    from benchmarks.speed.synthetic import VOCABULARY, make_batch, model_config
    from sentiment_jax.config.schema import OptimizerConfig
    from sentiment_jax.models.parameters import initializer
    from sentiment_jax.models.registry import build_model
    from sentiment_jax.runtime import devices, startup
    from sentiment_jax.training.objectives.classification import Classification
    from sentiment_jax.training.steps import create_state, make_train_step

    startup.use_wide_vectors()
    mesh = devices.data_mesh()
    batch = make_batch(0, BATCH_SIZE.value, LENGTH.value)
    model = build_model(model_config({"name": MODEL.value}), vocab_size=VOCABULARY)
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=0.0)
    step = make_train_step(model, optimizer, Classification())
    params = initializer(model)(jax.random.key(0))
    state = devices.place(create_state(params, optimizer, seed=0), mesh)
    del params
    seconds = []
    for _ in range(STEPS.value + 1):
        start = time.perf_counter()
        state, metrics = step(state, devices.put_batch(batch, mesh), np.float32(3e-5))
        loss = float(metrics["loss"]) / BATCH_SIZE.value
        seconds.append(time.perf_counter() - start)
    return {
        "devices": jax.device_count(),
        "step_seconds": round(statistics.median(seconds[1:]), 4),
        "fastest": round(min(seconds[1:]), 4),
        "slowest": round(max(seconds[1:]), 4),
        "loss": loss,
    }


def start_worker(count: int) -> dict[str, float]:
    """Measure in a process that has `count` devices: virtual CPU devices, or the first GPUs."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count))),
    }
    arguments = [*sys.argv[1:], "--worker"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.scaling", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row = json.loads(done.stdout.splitlines()[-1])
    if row["devices"] != count:
        raise SystemExit(f"asked for {count} devices, the process had {row['devices']}")
    return row


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Plot the medians, with bars from the fastest to the slowest step."""
    from sentiment_jax.analysis import figures

    with figures.panels(path, 6, 4) as ((axes,),):
        counts = [row["devices"] for row in rows]
        median = [row["step_seconds"] for row in rows]
        below = [row["step_seconds"] - row["fastest"] for row in rows]
        above = [row["slowest"] - row["step_seconds"] for row in rows]
        axes.errorbar(counts, median, yerr=[below, above], marker="o", capsize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS.value, [str(count) for count in COUNTS.value])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"devices (virtual on a CPU: they share {os.cpu_count()} cores)")
        axes.set_ylabel("seconds per step")
        axes.set_title(f"{MODEL.value}, batch {BATCH_SIZE.value} x {LENGTH.value} tokens in all")
        axes.grid(alpha=0.3)


def main(_):
    """Measure each number of devices in a process; write the table and the plot."""
    if WORKER.value:
        print(json.dumps(measure()))
        return
    rows = []
    for count in COUNTS.value:
        rows.append(start_worker(count))
        print(rows[-1], flush=True)
    losses = [row["loss"] for row in rows]
    if max(losses) - min(losses) > 1e-4 * max(losses):
        raise SystemExit(f"losses differ between the device counts: {losses}")
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{MODEL.value}.csv").open("w", newline="") as file:
        output = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        output.writeheader()
        output.writerows(rows)
    plot(rows, folder / f"{MODEL.value}.png")


if __name__ == "__main__":
    app.run(main)
