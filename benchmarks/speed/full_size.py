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
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Texts per step.")
LENGTH = flags.DEFINE_integer("length", 128, "Tokens per review.")
STEPS = flags.DEFINE_integer("steps", 5, "Timed steps after the first, which compiles.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ("float32", "bfloat16"), "Dtype of the computation.")
REMAT = flags.DEFINE_bool("remat", False, "Recompute activations in the backward pass.")


def checksum(params) -> list[float]:
    """Return the sums of a tree's leaves, in float64 on the host: equal trees have equal sums."""
    return [float(np.sum(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves(params)]


def main(_):
    """Measure and print one JSON object."""
    startup.use_wide_vectors()
    settings = {"name": MODEL.value, "dtype": DTYPE.value, "remat": REMAT.value}
    model = build_model(model_config(settings), vocab_size=VOCABULARY)
    optimizer = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=1.0, eps=1e-6)
    shape = (BATCH_SIZE.value, LENGTH.value)
    step = make_train_step(model, optimizer, Classification())
    rate = np.float32(3e-5)

    def two_steps():
        params = initializer(model)(jax.random.key(0))
        state = create_state(params, optimizer, seed=0)
        del params
        (state, _), first = timed(step, state, make_batch(0, *shape), rate)
        (state, metrics), second = timed(step, state, make_batch(1, *shape), rate)
        return state, first, second, float(metrics["loss"])

    state, compile_seconds, _, loss = two_steps()
    expected = checksum(state.params)
    parameters = count_parameters(model)
    seconds = []
    for number in range(STEPS.value):
        (state, _), spent = timed(step, state, make_batch(number, *shape), rate)
        seconds.append(spent)
    evaluate = make_eval_step(model, Classification())
    timed(evaluate, state.params, make_batch(0, *shape))
    scoring = [timed(evaluate, state.params, make_batch(0, *shape))[1] for _ in range(STEPS.value)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    del state
    again, _, _, loss_again = two_steps()
    environment = describe_environment()
    result = {
        **settings,
        "parameters": parameters,
        "batch_size": BATCH_SIZE.value,
        "length": LENGTH.value,
        "first_step_seconds": round(compile_seconds, 2),
        "step_seconds": round(statistics.median(seconds), 3),
        "train_examples_per_second": round(BATCH_SIZE.value / statistics.median(seconds), 2),
        "evaluate_examples_per_second": round(BATCH_SIZE.value / statistics.median(scoring), 2),
        "peak_memory_gib": round(peak, 2),
        "two_steps_bitwise_equal": checksum(again.params) == expected and loss == loss_again,
        "machine": environment["machine"],
        "devices": environment["devices"],
        "jax": jax.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
