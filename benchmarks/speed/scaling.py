"""Measure the LSTM's step time against the number of devices, and plot it.

    python -m benchmarks.speed.scaling --output=results/speed/scaling

On the CPU the devices are virtual and share the machine's cores. A flat line means that splitting
a batch costs nothing, a rising one shows the cost. Only real devices can show a gain. The losses
of the last steps are compared: they must be equal up to rounding for every number of devices.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

COUNTS = (1, 2, 4)
SHAPE = (256, 128)  # reviews per step, on all devices together, and words of each
STEPS = 10  # timed, after the first, which compiles


def measure() -> dict[str, float]:
    """Time training steps on all devices of this process."""
    import jax
    import numpy as np

    from benchmarks.speed.synthetic import VOCABULARY, make_batch, timed
    from sentiment_jax.config.schema import LstmConfig, OptimizerConfig
    from sentiment_jax.models.parameters import initializer
    from sentiment_jax.models.registry import build_model
    from sentiment_jax.runtime import devices, startup
    from sentiment_jax.training.objectives.classification import Classification
    from sentiment_jax.training.steps import create_state, make_train_step

    startup.use_wide_vectors()
    mesh = devices.data_mesh()
    batch = make_batch(0, *SHAPE)
    model = build_model(LstmConfig(), vocab_size=VOCABULARY)
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=0.0)
    step = make_train_step(model, optimizer, Classification())
    params = initializer(model)(jax.random.key(0))
    state = devices.place(create_state(params, optimizer, seed=0), mesh)
    seconds = []
    for _ in range(STEPS + 1):
        (state, metrics), spent = timed(
            lambda state: step(state, devices.put_batch(batch, mesh), np.float32(3e-5)), state
        )
        seconds.append(round(spent, 4))
    middle = round(float(np.median(seconds[1:])), 4)
    spread = {"fastest": min(seconds[1:]), "slowest": max(seconds[1:])}
    loss = float(metrics["loss"]) / SHAPE[0]
    return {"devices": jax.device_count(), "step_seconds": middle, **spread, "loss": loss}


def start_worker(count: int) -> dict[str, float]:
    """Measure in a process that has `count` devices: virtual CPU devices, or the first GPUs."""
    flag = f"--xla_force_host_platform_device_count={count}"
    visible = ",".join(map(str, range(count)))
    command = [sys.executable, "-m", "benchmarks.speed.scaling", "--worker"]
    environment = {**os.environ, "XLA_FLAGS": flag, "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(done.stdout.splitlines()[-1])
    if row["devices"] != count:
        raise SystemExit(f"asked for {count} devices, the process had {row['devices']}")
    return row


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Plot the medians, with bars from the fastest to the slowest step."""
    from sentiment_jax.analysis import figures

    middle = rows["step_seconds"]
    with figures.panels(path, 6, 4) as ((axes,),):
        bars = [middle - rows["fastest"], rows["slowest"] - middle]
        axes.errorbar(rows["devices"], middle, yerr=bars, marker="o", capsize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS, map(str, COUNTS))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"devices (virtual on a CPU: they share {os.cpu_count()} cores)")
        axes.set_ylabel("seconds per step")
        axes.set_title("lstm, batch {} x {} tokens in all".format(*SHAPE))
        axes.grid(alpha=0.3)


def main() -> None:
    """Measure each number of devices in a process; write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/speed/scaling"))
    parser.add_argument("--worker", action="store_true", help="measure this process's devices")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure()))
        return
    rows = pd.DataFrame(map(start_worker, COUNTS))
    print(rows)
    if rows["loss"].max() - rows["loss"].min() > 1e-4 * rows["loss"].max():
        raise SystemExit("the losses differ between the device counts")
    options.output.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.output / "lstm.csv", index=False)
    plot(rows, options.output / "lstm.png")


if __name__ == "__main__":
    main()
