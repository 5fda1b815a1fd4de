"""Measure steps on random tokens: BERT-base and ELECTRA-base at full size, the LSTM by devices.

    python -m benchmarks.speed.steps --model=bert --steps=3     # or electra; prints JSON
    python -m benchmarks.speed.steps --model=lstm --output=results/speed/scaling

Weights and token ids are random: time and memory do not depend on them. Each measurement is a
process of its own, because the peak memory is that of the process. The LSTM's step time is measured
for several numbers of devices. On the CPU these are virtual and share the machine's cores: a flat
line means that splitting a batch costs nothing, a rising one shows the cost. Only real devices can
show a gain. The losses must be equal up to rounding for every number of devices.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from benchmarks.speed.synthetic import VOCABULARY, make_batch, model_config, timed
from sentiment_jax.analysis import figures
from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.models.parameters import count_parameters, initializer
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import devices, startup
from sentiment_jax.storage.run_directory import describe_environment
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step

SHAPES = {"bert": (16, 128), "electra": (16, 128), "lstm": (256, 128)}  # texts a step, tokens
DEVICES = (1, 2, 4)


def measure(name: str, steps: int) -> dict[str, Any]:
    """Time training and evaluation steps on all devices of this process."""
    startup.use_wide_vectors()
    mesh = devices.data_mesh()
    rows, length = SHAPES[name]
    model = build_model(model_config({"name": name}), vocab_size=VOCABULARY)
    clip_norm = 0.0 if name == "lstm" else 1.0
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=clip_norm, eps=1e-6)
    step = make_train_step(model, optimizer, Classification())
    batches = [make_batch(number, rows, length) for number in range(max(2, steps))]

    def train(state: Any, batch: dict[str, np.ndarray]) -> Any:
        return step(state, devices.put_batch(batch, mesh), np.float32(3e-5))

    def two_steps() -> tuple[Any, float, list[float]]:
        params = initializer(model)(jax.random.key(0))
        state = devices.place(create_state(params, optimizer, seed=0), mesh)
        del params
        (state, _), first = timed(train, state, batches[0])
        (state, metrics), _ = timed(train, state, batches[1])
        sums = [float(np.asarray(p, np.float64).sum()) for p in jax.tree.leaves(state.params)]
        return state, first, [float(metrics["loss"]) / rows, *sums]

    state, first, expected = two_steps()
    seconds = []
    for batch in batches[:steps]:
        (state, _), spent = timed(train, state, batch)
        seconds.append(spent)
    evaluate = make_eval_step(model)
    batch = devices.put_batch(batches[0], mesh)
    scoring = [timed(evaluate, state.params, batch)[1] for _ in range(1 + steps)][1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    del state
    return {
        "name": name,
        "devices": jax.device_count(),
        "parameters": count_parameters(model),
        "batch_size": rows,
        "length": length,
        "first_step_seconds": round(first, 2),
        "step_seconds": round(statistics.median(seconds), 4),
        "fastest": round(min(seconds), 4),
        "slowest": round(max(seconds), 4),
        "train_examples_per_second": round(rows / statistics.median(seconds), 2),
        "evaluate_examples_per_second": round(rows / statistics.median(scoring), 2),
        "peak_memory_gib": round(peak, 2),
        "loss": expected[0],
        "two_steps_bitwise_equal": two_steps()[-1] == expected,
        "machine": describe_environment()["machine"],
        "jax": jax.__version__,
    }


def start_worker(arguments: list[str], count: int) -> dict[str, Any]:
    """Measure in a process that has `count` devices: virtual CPU devices, or the first GPUs."""
    flag = f"--xla_force_host_platform_device_count={count}"
    visible = ",".join(map(str, range(count)))
    command = [sys.executable, "-m", "benchmarks.speed.steps", *arguments]
    environment = {**os.environ, "XLA_FLAGS": flag, "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Plot the medians, with bars from the fastest to the slowest step."""
    middle = rows["step_seconds"]
    with figures.panels(path, 6, 4) as ((axes,),):
        bars = [middle - rows["fastest"], rows["slowest"] - middle]
        axes.errorbar(rows["devices"], middle, yerr=bars, marker="o", capsize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(DEVICES, map(str, DEVICES))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"devices (virtual on a CPU: they share {os.cpu_count()} cores)")
        axes.set_ylabel("seconds per step")
        axes.set_title("lstm, batch {} x {} tokens in all".format(*SHAPES["lstm"]))
        axes.grid(alpha=0.3)


def main() -> None:
    """Measure in this process, or for each number of devices in another one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after two others")
    parser.add_argument("--output", type=Path, help="measure by devices: folder of table and plot")
    options = parser.parse_args()
    if not options.output:
        print(json.dumps(measure(options.model, options.steps), indent=2))
        return
    arguments = [f"--model={options.model}", f"--steps={options.steps}"]
    found = pd.DataFrame(start_worker(arguments, count) for count in DEVICES)
    rows = found[["devices", "step_seconds", "fastest", "slowest", "loss"]]
    print(rows)
    if rows["loss"].max() - rows["loss"].min() > 1e-4 * rows["loss"].max():
        raise SystemExit("the losses differ between the device counts")
    options.output.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.output / "lstm.csv", index=False)
    plot(rows, options.output / "lstm.png")


if __name__ == "__main__":
    main()
