"""Step time against the number of devices, one process each, and a plot of it.

    python -m benchmarks.scaling --output=results/scaling
    python -m benchmarks.scaling --output=results/scaling --model=bert --batch_size=16

On the CPU the devices are virtual and share the machine's cores: a flat line says that splitting
the work costs nothing, a rising one what it costs. Only real devices can show a gain. The losses
of the last steps are compared: they must be equal to rounding, whatever the count.
"""

import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

OUTPUT = flags.DEFINE_string("output", "results/scaling", "Folder of NAME.csv and NAME.png.")
MODEL = flags.DEFINE_enum("model", "lstm", ("lstm", "bert", "electra"), "Which model.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Reviews per step, on all devices together.")
LENGTH = flags.DEFINE_integer("length", 128, "Tokens per review.")
STEPS = flags.DEFINE_integer("steps", 10, "Timed steps after the first, which compiles.")
COUNTS = flags.DEFINE_multi_integer("devices", [1, 2, 4], "Device counts to try.")
SPLIT = flags.DEFINE_bool("split", False, "Inner use: shard_params.")
WORKER = flags.DEFINE_bool("worker", False, "Inner use: measure with the devices that are here.")
COLUMNS = ("devices", "shard_params", "step_seconds", "fastest", "slowest", "loss")


def measure(split: bool) -> dict[str, object]:
    """Time training steps on all devices of this process."""
    import jax
    import numpy as np

    from benchmarks.synthetic import VOCABULARY, make_batch
    from sentiment_jax.config.schema import OptimizerConfig
    from sentiment_jax.models.parameters import initializer
    from sentiment_jax.models.registry import build_model
    from sentiment_jax.runtime import devices, startup
    from sentiment_jax.training.steps import create_state, make_train_step

    startup.use_wide_vectors()
    mesh, shape = devices.data_mesh(), (BATCH_SIZE.value, LENGTH.value)
    batch = make_batch(0, *shape)
    model = build_model({"name": MODEL.value, "dtype": "float32"}, vocab_size=VOCABULARY)
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=0.0)
    step = make_train_step(model, optimizer, mesh if split else None)
    params = initializer(model)(jax.random.key(0))
    state = devices.place(create_state(params, optimizer, seed=0), mesh, split)
    del params
    seconds = []
    for _ in range(STEPS.value + 1):
        start = time.perf_counter()
        state, metrics = step(state, devices.put_batch(batch, mesh), np.float32(3e-5))
        loss = float(metrics["loss"]) / shape[0]
        seconds.append(time.perf_counter() - start)
    return {
        "devices": jax.device_count(),
        "shard_params": split,
        "step_seconds": round(statistics.median(seconds[1:]), 4),
        "fastest": round(min(seconds[1:]), 4),
        "slowest": round(max(seconds[1:]), 4),
        "loss": loss,
    }


def start_worker(count: int, split: bool) -> dict[str, str]:
    """Measure in a process that has `count` devices: virtual CPU ones, or the first GPUs."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count))),
    }
    arguments = [*sys.argv[1:], "--worker", f"--split={split}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row = next(csv.DictReader(done.stdout.splitlines()[-2:]))
    if row["devices"] != str(count):
        raise SystemExit(f"asked for {count} devices, the process had {row['devices']}")
    return row


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """Draw the medians, bars from the fastest to the slowest step."""
    from sentiment_jax.analysis import figures

    with figures.panels(path, 6, 4) as ((axes,),):
        for split, label in (("False", "parameters copied"), ("True", "parameters split")):
            chosen = [row for row in rows if row["shard_params"] == split]
            median = [float(row["step_seconds"]) for row in chosen]
            below = [m - float(row["fastest"]) for m, row in zip(median, chosen, strict=True)]
            above = [float(row["slowest"]) - m for m, row in zip(median, chosen, strict=True)]
            counts = [int(row["devices"]) for row in chosen]
            axes.errorbar(counts, median, yerr=[below, above], marker="o", capsize=3, label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS.value, [str(count) for count in COUNTS.value])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"devices (virtual on a CPU: they share {os.cpu_count()} cores)")
        axes.set_ylabel("seconds per step")
        axes.set_title(f"{MODEL.value}, batch {BATCH_SIZE.value} x {LENGTH.value} tokens in all")
        axes.grid(alpha=0.3)
        axes.legend()


def main(_):
    """Measure one process per row, write the table and the plot."""
    if WORKER.value:
        output = csv.DictWriter(sys.stdout, COLUMNS)
        output.writeheader()
        output.writerow(measure(SPLIT.value))
        return
    rows = []
    for split in (False, True):
        for count in COUNTS.value:
            rows.append(start_worker(count, split))
            print(rows[-1], flush=True)
    losses = [float(row["loss"]) for row in rows]
    if max(losses) - min(losses) > 1e-4 * max(losses):
        raise SystemExit(f"losses differ between the device counts: {losses}")
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{MODEL.value}.csv").open("w", newline="") as file:
        output = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        output.writeheader()
        output.writerows(rows)
    plot(rows, folder / f"{MODEL.value}.png")


if __name__ == "__main__":
    app.run(main)
