"""Measure BERT-base and ELECTRA-base at full size: seconds per step, peak memory, determinism.

Weights and token ids are random: time and memory do not depend on them. A process measures one
model, because the peak memory is that of the process:

    python -m benchmarks.speed.full_size --model=bert
"""

import json
import resource
import statistics

import jax
import numpy as np
from absl import app, flags

from benchmarks.speed.synthetic import VOCABULARY, make_batch, model_config, timed
from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.models.parameters import count_parameters, initializer
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import startup
from sentiment_jax.storage.run_directory import describe_environment
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step

MODEL = flags.DEFINE_enum("model", "bert", ("bert", "electra"), "Which model.")
STEPS = flags.DEFINE_integer("steps", 5, "Timed steps after the first, which compiles.")
SHAPE = (16, 128)  # texts per step, tokens of each


def main(_):
    """Measure and print one JSON object."""
    startup.use_wide_vectors()
    model = build_model(model_config({"name": MODEL.value}), vocab_size=VOCABULARY)
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=1.0, eps=1e-6)
    step = make_train_step(model, optimizer, Classification())
    rate = np.float32(3e-5)

    def two_steps():
        params = initializer(model)(jax.random.key(0))
        state = create_state(params, optimizer, seed=0)
        del params
        (state, _), first = timed(step, state, make_batch(0, *SHAPE), rate)
        (state, metrics), _ = timed(step, state, make_batch(1, *SHAPE), rate)
        sums = [float(np.asarray(p, np.float64).sum()) for p in jax.tree.leaves(state.params)]
        return state, first, [*sums, float(metrics["loss"])]

    state, compile_seconds, expected = two_steps()
    seconds = []
    for number in range(STEPS.value):
        (state, _), spent = timed(step, state, make_batch(number, *SHAPE), rate)
        seconds.append(spent)
    evaluate = make_eval_step(model)
    batch = make_batch(0, *SHAPE)
    scoring = [timed(evaluate, state.params, batch)[1] for _ in range(1 + STEPS.value)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    del state
    environment = describe_environment()
    result = {
        "name": MODEL.value,
        "parameters": count_parameters(model),
        "batch_size": SHAPE[0],
        "length": SHAPE[1],
        "first_step_seconds": round(compile_seconds, 2),
        "step_seconds": round(statistics.median(seconds), 3),
        "train_examples_per_second": round(SHAPE[0] / statistics.median(seconds), 2),
        "evaluate_examples_per_second": round(SHAPE[0] / statistics.median(scoring[1:]), 2),
        "peak_memory_gib": round(peak, 2),
        "two_steps_bitwise_equal": two_steps()[-1] == expected,
        "machine": environment["machine"],
        "devices": environment["devices"],
        "jax": jax.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
