"""Measure the models on an accelerator: share of its matmul rate, and LSTMs batched by `vmap`.

    python -m benchmarks.accelerator --output=results/accelerator

It needs a GPU. On a CPU it uses smaller shapes, which only shows that it runs, and lists the rows
that it leaves out. Weights and token ids are random: time and memory do not depend on them. Steps
are queued as in training and scoring: a result is read after the next step has been dispatched. A
row has dropout of attention weights, which cuDNN's kernel lacks, only if its name includes it.
Kernels are deterministic, as in training; XLA_FLAGS=--xla_gpu_deterministic_ops=false and another
folder show what that costs.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks import flops
from benchmarks.synthetic import VOCABULARY, make_batch, model_config
from sentiment_jax.config.schema import LstmConfig, OptimizerConfig
from sentiment_jax.models.layers import on_cpu
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import describe_environment
from sentiment_jax.training.compilation import peak_bytes
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.parameters import initializer
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step

OUTPUT = flags.DEFINE_string("output", "results/accelerator", "Folder of table.md and JSON.")
ROUNDS = flags.DEFINE_integer("rounds", 20, "Timed steps after the first.")

SMALL = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
SMALL |= {"num_hidden_layers": 2}
ENCODERS = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=1.0)  # the study's
LSTMS = OptimizerConfig(name="adam", weight_decay=0.0, clip_norm=0.0)
NO_DROPOUT = {"attention_dropout": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "bfloat16, attention dropout": {"dtype": "bfloat16"},
    "bfloat16": {"dtype": "bfloat16", **NO_DROPOUT},
    "bfloat16, cudnn": {"dtype": "bfloat16", "attention": "cudnn", **NO_DROPOUT},
    "float32": {"dtype": "float32", **NO_DROPOUT},
    "tensorfloat32": {"dtype": "tensorfloat32", **NO_DROPOUT},
}


def measure(compiled: Any, advance: Callable[[Any], tuple[Any, Any]], carry: Any) -> dict[str, Any]:
    """Return seconds per step, and the compiler's estimate of the program's peak memory."""
    carry, result = jax.block_until_ready(advance(carry))
    start = time.perf_counter()
    for _ in range(ROUNDS.value):
        carry, newer = advance(carry)
        jax.device_get(result)
        result = newer
    jax.block_until_ready((carry, result))
    seconds = (time.perf_counter() - start) / ROUNDS.value
    return {"seconds": seconds, "peak_bytes": peak_bytes(compiled)}


def job(settings: dict[str, Any], length: int, batch_size: int, trains: bool) -> dict[str, Any]:
    """Return one model's examples/s and its share of the matmul rate."""
    model = build_model(model_config(settings), vocab_size=VOCABULARY)
    with on_cpu():
        params = initializer(model)(jax.random.key(0))
    params = jax.device_put(params, jax.devices()[0])  # else each inference would copy them
    batch = jax.device_put(make_batch(0, batch_size, length))
    cost = flops.training_flops(model, Classification(), (batch_size, length))
    if trains:
        optimizer = LSTMS if settings["name"] == "lstm" else ENCODERS
        state = create_state(params, optimizer, seed=0)
        rate = np.float32(3e-5)
        step = make_train_step(model, optimizer, Classification())
        compiled = step.lower(state, batch, rate).compile()
        row = measure(compiled, lambda state: compiled(state, batch, rate), state)
    else:
        cost //= 3
        compiled = make_eval_step(model).lower(params, batch).compile()
        row = measure(compiled, lambda params: (params, compiled(params, batch)), params)
    rate = cost / row["seconds"]
    return row | {
        "examples_per_second": batch_size / row["seconds"],
        "share_of_matmul_rate": rate / flops.matmul_rate(settings.get("dtype", "float32")),
    }


def together(count: int, length: int, batch_size: int) -> dict[str, Any]:
    """Measure `count` LSTMs that differ in seed and learning rate, in one program."""
    model = build_model(LstmConfig(), vocab_size=VOCABULARY)
    keys = jax.random.split(jax.random.key(0), count)
    with on_cpu():
        params = jax.vmap(initializer(model))(keys)
    state = jax.vmap(lambda params: create_state(params, LSTMS, seed=0))(params)
    step = jax.vmap(make_train_step(model, LSTMS, Classification()), in_axes=(0, None, 0))
    rates = np.geomspace(1e-4, 1e-3, count).astype(np.float32)
    batch = jax.device_put(make_batch(0, batch_size, length))
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch, rates).compile()
    row = measure(compiled, lambda state: compiled(state, batch, rates), state)
    return row | {"examples_per_second": count * batch_size / row["seconds"]}


def jobs(small: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the rows of the table by name; on a CPU a few small ones."""
    listed: dict[str, Callable[[], dict[str, Any]]] = {}
    shapes = ((16, 8), (32, 4)) if small else ((128, 16), (128, 32), (512, 16), (512, 32))
    for length, batch_size in shapes:
        for kind, settings in KINDS.items():
            model = {"name": "bert", **settings, **(SMALL if small else {})}
            for mode, trains in (("training", True), ("inference", False)):
                if not (small and "cudnn" in kind):
                    listed[f"BERT {length} tokens, batch {batch_size}, {kind}, {mode}"] = (
                        functools.partial(job, model, length, batch_size, trains)
                    )
    words, sizes = (16, (8,)) if small else (400, (256, 512))
    for size in sizes:
        for mode, trains in (("training", True), ("inference", False)):
            listed[f"LSTM {words} words, batch {size}, {mode}"] = functools.partial(
                job, {"name": "lstm"}, words, size, trains
            )
    for count in (2, 4, 8):
        listed[f"{count} LSTMs by vmap, {words} words, batch {sizes[0]}, training"] = (
            functools.partial(together, count, words, sizes[0])
        )
    return listed


def main(_: list[str]) -> None:
    """Measure each job; print its row and update table.md and accelerator.json."""
    startup.use_wide_vectors()
    startup.use_deterministic_kernels()
    logging.set_verbosity(logging.WARNING)
    small = jax.default_backend() == "cpu"
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    heads = "job", "ms a step", "examples/s", "of the matmul rate", "peak GiB"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for what, run in jobs(small).items():
        try:
            row = run()
            share = row.get("share_of_matmul_rate")
            cells = [
                f"{1e3 * row['seconds']:.2f}",
                f"{row['examples_per_second']:,.0f}",
                "" if share is None else f"{share:.1%}",
                f"{row['peak_bytes'] / 2**30:.2f}",
            ]
        except Exception as error:  # the other jobs still run
            row = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            cells = [row["error"], "", "", ""]
        rows.append({"what": what, **row})
        lines.append(f"| {what} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        environment = describe_environment()
        write_json(folder / "accelerator.json", {"rows": rows, "environment": environment})
        (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if small:
        print(
            "No GPU: shapes and BERT's width are small, so these numbers only show that it runs. "
            "Only on a GPU: BERT-base at 128 and 512 tokens, cuDNN's attention, LSTMs at 400 words."
        )


if __name__ == "__main__":
    app.run(main)
