"""What an accelerator makes of the models: BERT-base's share of its matmul rate, LSTMs by `vmap`.

    python -m benchmarks.accelerator --output=results/accelerator

Needs a GPU to say anything: on a CPU it takes smaller shapes, to show that it runs, and names the
lines that it leaves out. Random weights and token ids: time and memory do not depend on them.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from benchmarks.synthetic import VOCABULARY, make_batch, timed
from sentiment_jax.config import OptimizerConfig
from sentiment_jax.models.classifiers import build_model
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import describe_environment
from sentiment_jax.training import flops
from sentiment_jax.training.experiment import initializer
from sentiment_jax.training.steps import create_state, make_train_step

OUTPUT = flags.DEFINE_string("output", "results/accelerator", "Folder of table.md and JSON.")
ROUNDS = flags.DEFINE_integer("rounds", 10, "Timed steps after the first, which compiles.")


def median_seconds(step: Callable[..., Any], state: Any, *arguments: Any) -> float:
    """Of steps that each start from the state before."""
    seconds = []
    for _ in range(1 + ROUNDS.value):
        (state, _), spent = timed(step, state, *arguments)
        seconds.append(spent)
    return statistics.median(seconds[1:])


def encoder(length: int, batch_size: int, attention: str, small: bool) -> dict[str, Any]:
    """BERT-base (or a small one) in bfloat16: examples/s and the share of the matmul rate."""
    settings: dict[str, Any] = {"name": "bert", "dtype": "bfloat16", "attention": attention}
    if attention == "cudnn":
        settings["attention_dropout"] = 0.0
    if small:
        settings |= {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
    model = build_model(settings, vocab_size=VOCABULARY)
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=1.0)
    params = initializer(model)(jax.random.key(0))
    state = create_state(params, optimizer, seed=0)
    batch = jax.device_put(make_batch(0, batch_size, length))
    seconds = median_seconds(make_train_step(model, optimizer), state, batch, np.float32(3e-5))
    cost = flops.training_flops(model, batch_size, length)
    memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "what": f"BERT, {length} tokens, batch {batch_size}, {attention} attention",
        "seconds": seconds,
        "examples_per_second": batch_size / seconds,
        "share_of_matmul_rate": cost / seconds / flops.matmul_rate("bfloat16"),
        "peak_bytes_so_far": memory,
    }


def together(count: int, length: int, batch_size: int) -> dict[str, Any]:
    """`count` LSTMs that differ in seed and learning rate, one program for all of them."""
    model = build_model({"name": "lstm"}, vocab_size=VOCABULARY)
    optimizer = OptimizerConfig(name="adam", weight_decay=0.0, clip_norm=0.0)
    keys = jax.random.split(jax.random.key(0), count)
    params = jax.vmap(initializer(model))(keys)
    state = jax.vmap(lambda params: create_state(params, optimizer, seed=0))(params)
    step = jax.jit(jax.vmap(make_train_step(model, optimizer), in_axes=(0, None, 0)))
    rates = np.geomspace(1e-4, 1e-3, count).astype(np.float32)
    seconds = median_seconds(step, state, jax.device_put(make_batch(0, batch_size, length)), rates)
    return {
        "what": f"{count} LSTMs by vmap, {length} words, batch {batch_size}",
        "seconds": seconds,
        "examples_per_second": count * batch_size / seconds,
    }


def main(_: list[str]) -> None:
    """Measure, print and write table.md and accelerator.json."""
    startup.use_wide_vectors()
    logging.set_verbosity(logging.WARNING)
    small = jax.default_backend() == "cpu"
    shapes = ((16, 8), (32, 4)) if small else ((128, 64), (512, 16))
    jobs: list[Callable[[], dict[str, Any]]] = [
        lambda shape=shape, attention=attention: encoder(*shape, attention, small)
        for shape in shapes
        for attention in (("xla",) if small else ("xla", "cudnn"))
    ]
    words, batch_size = (16, 8) if small else (256, 256)
    jobs += [lambda count=count: together(count, words, batch_size) for count in (1, 2, 4, 8)]
    rows = [job() for job in tqdm(jobs, mininterval=1)]
    lines = ["| job | ms a step | examples/s | of the matmul rate |", "|---|---|---|---|"]
    for row in rows:
        share = row.get("share_of_matmul_rate")
        lines.append(
            f"| {row['what']} | {1e3 * row['seconds']:.1f} | {row['examples_per_second']:,.0f} | "
            f"{'' if share is None else f'{share:.1%}'} |"
        )
    if small:
        lines += [
            "",
            "No GPU: shapes and BERT's width are small, and these numbers show only that it runs. "
            "Needs a GPU: BERT-base at 128 and 512 tokens, cuDNN's attention, LSTMs at 256 x 256.",
        ]
    table = "\n".join(lines) + "\n"
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(table, encoding="utf-8")
    write_json(folder / "accelerator.json", {"rows": rows, "environment": describe_environment()})
    print(table)


if __name__ == "__main__":
    app.run(main)
