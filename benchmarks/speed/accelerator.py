"""Measure the models on a GPU; no failure costs more than its own job.

    python -m benchmarks.speed.accelerator [--output=runs/accelerator]
    python -m benchmarks.speed.accelerator --toy --output=/tmp/rehearsal   # on a CPU, a rehearsal

Each job is a process of its own with limited time, the most important job first. jobs/ has its
rows, written as they are measured, logs/ its output, table.csv all rows. The same command again
runs what has no result yet, and `machine`.

Weights and token ids are random: time and memory do not depend on them. Steps are queued as in
training: a result is read after the next step has been dispatched. PyTorch's side needs torch and
transformers; `--torch_python` names another interpreter that has them.
"""

import argparse
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from absl import logging
from jax.experimental import rnn

from benchmarks.reliability import comparing, kill_soak
from benchmarks.speed import flops
from benchmarks.speed.serve import Side, random_job
from benchmarks.speed.synthetic import VOCABULARY, make_batch, model_config
from sentiment_jax.config.schema import LstmConfig, OptimizerConfig
from sentiment_jax.models import lstm, lstm_scan
from sentiment_jax.models.layers import on_cpu, on_gpu
from sentiment_jax.models.parameters import initializer
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import startup
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import describe_environment
from sentiment_jax.training.compilation import peak_bytes
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.objective import forward
from sentiment_jax.training.steps import create_state, make_train_step

Row = dict[str, Any]  # "what" was measured, and numbers or a note
Options = argparse.Namespace

SECONDS_PER_JOB = 180
ENCODERS = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=1.0)  # the study's
LSTMS = OptimizerConfig(name="adam", weight_decay=0.0, clip_norm=0.0)
KINDS: dict[str, dict[str, Any]] = {  # without dropout of attention weights, which cuDNN lacks
    "xla-no-dropout": {"dtype": "bfloat16", "attention_dropout": 0.0},
    "cudnn": {"dtype": "bfloat16", "attention_dropout": 0.0, "attention": "cudnn"},
    "tensorfloat32": {"dtype": "tensorfloat32", "attention_dropout": 0.0},
    "float32": {"dtype": "float32", "attention_dropout": 0.0},
}
SMALL = dict(hidden_size=64, num_attention_heads=4, intermediate_size=256, num_hidden_layers=2)
FORMS = {  # of the LSTM, as what lstm_scan looks up
    "plain": {"on_gpu": lambda: False},  # one product a step, as on a CPU
    "scan": {"on_gpu": lambda: True, "UNROLL": 1},
    "unroll-4": {"on_gpu": lambda: True, "UNROLL": 4},
    "unroll-10": {"on_gpu": lambda: True, "UNROLL": 10},
}


def shape_of(options: Options, rows: int, length: int) -> tuple[int, int]:
    """Return rows and tokens of a batch, or fewer to rehearse."""
    return (rows // 8, length // 16) if options.toy else (rows, length)


def encoder_model(options: Options, name: str, kind: str) -> nn.Module:
    """Return an encoder of its base size, or a small one to rehearse."""
    config = model_config({"name": name, **KINDS[kind], **(SMALL if options.toy else {})})
    return build_model(config, vocab_size=VOCABULARY)


def fresh_params(model: nn.Module) -> Any:
    """Return random parameters on the device."""
    with on_cpu():
        params = initializer(model)(jax.random.key(0))
    return jax.device_put(params, jax.devices()[0])  # else each inference would copy them


def measure(options: Options, step: Any, state: Any, *arguments: Any, examples: int) -> Row:
    """Return the seconds of a step, and the peak memory by the compiler and by the device.

    The device's peak is that of the process so far.
    """
    compiled = step.lower(state, *arguments).compile()
    state, result = jax.block_until_ready(compiled(state, *arguments))
    start = time.perf_counter()
    for _ in range(options.rounds):
        state, newer = compiled(state, *arguments)
        jax.device_get(result)
        result = newer
    jax.block_until_ready((state, result))
    seconds = (time.perf_counter() - start) / options.rounds
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "examples_per_second": examples / seconds,
        "compiler_peak_bytes": peak_bytes(compiled),
        "device_peak_bytes": memory.get("peak_bytes_in_use"),
    }


def training(
    options: Options, what: str, model: nn.Module, params: Any, shape: tuple[int, int]
) -> Row:
    """Measure a training step."""
    optimizer = LSTMS if model.config.name == "lstm" else ENCODERS
    state = create_state(params, optimizer, seed=0)
    step = make_train_step(model, optimizer, Classification())
    batch = jax.device_put(make_batch(0, *shape))
    row = measure(options, step, state, batch, np.float32(3e-5), examples=shape[0])
    cost = flops.training_flops(model, Classification(), shape)
    return {"what": f"{what}, training", **row, "flops": cost, "dtype": model.config.dtype}


# A function for each kind of job: it yields rows as they are measured.


def machine(options: Options) -> Iterator[Row]:
    """Describe the machine and measure its rate of products.

    RuntimeError: there is no GPU.
    """
    if jax.default_backend() == "cpu" and not options.toy:
        raise RuntimeError("JAX finds no GPU here; --toy rehearses on a CPU")
    rates = {name: flops.matmul_rate(name) for name in ("bfloat16", "tensorfloat32", "float32")}
    note = ", ".join(f"{rate / 1e12:,.3g} in {name}" for name, rate in rates.items())
    row = {"what": "large products", "note": f"TFLOP/s: {note}", "rates": rates}
    yield row | {"environment": describe_environment()}


def kill(options: Options, name: str, arguments: list[str]) -> Iterator[Row]:
    """Kill a training run after its first checkpoint, resume it and compare it with a whole one.

    RuntimeError: it ended before it was killed.
    """
    jax.config.update("jax_platforms", "cpu")  # of this process: the runs need the GPU
    if options.toy:
        arguments = [*arguments, "--config.epochs=2"]
    whole, resumed = (options.output / "runs" / f"{name}-{of}" for of in ("whole", "resumed"))
    for workdir in (whole, resumed):
        shutil.rmtree(workdir, ignore_errors=True)
    to_its_end(arguments, whole)
    process = kill_soak.start(arguments, resumed)
    kill_soak.wait_for(process, lambda: any(resumed.glob("checkpoints/*[0-9]")))
    process.kill()
    output, _ = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{resumed.name} ended before it was killed: {output[-300:]}")
    step = read_metrics(resumed / "metrics.jsonl")[-1]["step"]
    to_its_end(arguments, resumed)
    last = read_metrics(resumed / "metrics.jsonl")[-1]["step"]
    difference = comparing.difference(whole, resumed)
    what = f"killed at step {step} of {last} and resumed"
    yield {"what": what, "note": f"DIFFERENT: {difference}" if difference else "bit-exact"}


def to_its_end(arguments: list[str], workdir: Path) -> None:
    """Run or resume a training run."""
    process = kill_soak.start(arguments, workdir)
    output, _ = process.communicate()
    print(output)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode} of {workdir.name}: {output[-300:]}")


def encoder(options: Options, name: str) -> Iterator[Row]:
    """Measure the training step of an encoder, "bert-512-cudnn"."""
    architecture, length, kind = name.split("-", 2)
    shape = shape_of(options, 32, int(length))
    model = encoder_model(options, architecture, kind)
    what = f"{architecture.upper()} {shape[1]} tokens, batch {shape[0]}, {kind}"
    yield training(options, what, model, fresh_params(model), shape)


def logits(options: Options) -> Iterator[Row]:
    """Compare BERT's logits in each dtype with those in float32, on the device."""
    shape = shape_of(options, 32, 512)
    batch = jax.device_put(make_batch(0, *shape))
    models = {kind: encoder_model(options, "bert", kind) for kind in KINDS}
    params = fresh_params(models["float32"])
    found = {kind: logits_of(model, params, batch) for kind, model in models.items()}
    for kind in found:
        note = distance(found[kind], found["float32"], "float32's")
        yield {"what": f"BERT {shape[1]} tokens, {kind}", "note": note}


def logits_of(model: nn.Module, params: Any, batch: dict[str, jax.Array]) -> np.ndarray:
    """Return the logits of a batch, by a new compilation."""
    call = jax.jit(functools.partial(forward, model))
    return np.asarray(call(params, batch["token_ids"], batch["lengths"]))


def distance(found: np.ndarray, expected: np.ndarray, whose: str) -> str:
    """Say how far logits are from others."""
    differ = int(np.sum(found.argmax(axis=-1) != expected.argmax(axis=-1)))
    return (
        f"logits at most {np.abs(found - expected).max():.1e} from {whose} (standard deviation "
        f"{expected.std():.1e}); {differ} of {len(found)} predictions differ"
    )


class CudnnLstm(lstm_scan.ScannedLstm):
    """The package's LSTM by cuDNN, on the same parameters; without CUDA by cuDNN's reference."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Return the hidden state after every position."""
        length, rows, features = inputs.shape
        hidden = self.features
        kernel, bias = lstm_scan._join(self.variables["params"]["cell"], self.dtype)
        kernels = [kernel[:features].T.ravel(), kernel[features:].T.ravel()]
        weights = jnp.concatenate([*kernels, jnp.zeros_like(bias), bias])
        zeros = jnp.zeros((1, rows, hidden))
        lengths = jnp.full(rows, length, jnp.int32)
        texts = inputs.swapaxes(0, 1)
        sizes = {"input_size": features, "hidden_size": hidden, "num_layers": 1}
        sizes |= {"dropout": 0.0, "bidirectional": False}
        if on_gpu():
            given = {"seq_lengths": lengths, "precision": self.precision, **sizes}
            states, _, _ = rnn.lstm(texts, zeros, zeros, weights, **given)
        else:
            w_ih, w_hh, b_ih, b_hh = rnn.unpack_lstm_weights(weights, features, hidden, 1, False)
            given = {"W_ih": w_ih, "W_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, **sizes}
            states, _, _ = rnn.lstm_ref(texts, zeros, zeros, seq_lengths=lengths, **given)
        return states.swapaxes(0, 1)


def recurrent(options: Options, form: str) -> Iterator[Row]:
    """Measure the study's LSTM in one of FORMS or by cuDNN; compare its logits with the package's.

    In a process of its own: JAX traces a model once for each shape.
    """
    shape = shape_of(options, 256, 400)
    model = build_model(LstmConfig(), vocab_size=VOCABULARY)
    params = fresh_params(model)
    batch = jax.device_put(make_batch(0, *shape))
    expected = logits_of(model, params, batch)
    patch: Any = mock.patch.object(lstm, "ScannedLstm", CudnnLstm)
    if form in FORMS:
        patch = mock.patch.multiple(lstm_scan, **FORMS[form])
    elif not on_gpu():
        form = "cuDNN's reference: cuDNN needs CUDA"
    with patch:
        note = distance(logits_of(model, params, batch), expected, "the package's")
        what = f"LSTM {shape[1]} words, batch {shape[0]}, {form}"
        yield {**training(options, what, model, params, shape), "note": note}


def together(options: Options, count: int) -> Iterator[Row]:
    """Train `count` LSTMs that differ in seed and learning rate, in one program."""
    shape = shape_of(options, 256, 400)
    model = build_model(LstmConfig(), vocab_size=VOCABULARY)
    keys = jax.random.split(jax.random.key(0), count)
    with on_cpu():
        each = [jax.device_get(initializer(model)(key)) for key in keys]  # by vmap, CPUs have hung
        params = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    state = jax.vmap(lambda params: create_state(params, LSTMS, seed=0))(params)
    state = jax.device_put(state, jax.devices()[0])
    step = jax.vmap(make_train_step(model, LSTMS, Classification()), in_axes=(0, None, 0))
    rates = np.geomspace(1e-4, 1e-3, count).astype(np.float32)
    batch = jax.device_put(make_batch(0, *shape))
    examples = count * shape[0]
    row = measure(options, jax.jit(step, donate_argnums=0), state, batch, rates, examples=examples)
    what = f"LSTM {shape[1]} words, batch {shape[0]}, {count} settings by vmap, training"
    yield {"what": what, **row}


def pytorch(options: Options) -> Iterator[Row]:
    """Measure a training step of PyTorch's BERT at our shape, by torch.compile."""
    jax.config.update("jax_platforms", "cpu")  # of this process: PyTorch needs the GPU
    rows, length = shape_of(options, 32, 512)
    model = encoder_model(options, "bert", "cudnn")
    sizes = {name: getattr(model.config, name) for name in ["name", *SMALL, "embedding_size"]}
    sizes["attention_probs_dropout_prob"] = 0.0
    job = {"model": sizes, "batch_size": rows, "mode": "train", "dtype": "bfloat16"}
    job |= {"compiled": True, "device": "cpu" if options.toy else "cuda", "vocab_size": VOCABULARY}
    with tempfile.TemporaryDirectory() as folder:
        given = random_job(Path(folder), "", options.rounds * rows, length, **job)
        side = Side("speed.side_torch", options.torch_python, given)
        rate = side.ask("run")["rate"]
        side.end()
    row = {"what": f"PyTorch's BERT {length} tokens, batch {rows}, compiled, training"}
    row |= {"seconds": rows / rate, "examples_per_second": rate, "dtype": "bfloat16"}
    yield row | {"flops": flops.training_flops(model, Classification(), (rows, length))}


LONG = [f"--config.model.{name}={value}" for name, value in KINDS["cudnn"].items()]
JOBS: dict[str, Callable[[Options], Iterator[Row]]] = {  # the most important ones first
    "machine": machine,
    "kill-lstm": functools.partial(kill, name="lstm", arguments=kill_soak.TRAINING),
    "kill-bert": functools.partial(kill, name="bert", arguments=[*kill_soak.BERT, *LONG]),
    "bert-512-cudnn": functools.partial(encoder, name="bert-512-cudnn"),
    "bert-512-xla-no-dropout": functools.partial(encoder, name="bert-512-xla-no-dropout"),
    "logits": logits,
    "lstm-unroll-10": functools.partial(recurrent, form="unroll-10"),
    "lstm-scan": functools.partial(recurrent, form="scan"),
    "bert-512-cudnn-nondeterministic": functools.partial(encoder, name="bert-512-cudnn"),
    "bert-128-cudnn": functools.partial(encoder, name="bert-128-cudnn"),
    "lstm-vmap-8": functools.partial(together, count=8),
    "lstm-vmap-24": functools.partial(together, count=24),
    "lstm-cudnn": functools.partial(recurrent, form="cudnn"),
    "torch-512": pytorch,
    "bert-128-float32": functools.partial(encoder, name="bert-128-float32"),
    "bert-128-tensorfloat32": functools.partial(encoder, name="bert-128-tensorfloat32"),
    "lstm-unroll-4": functools.partial(recurrent, form="unroll-4"),
    "lstm-plain": functools.partial(recurrent, form="plain"),
    "electra-512-cudnn": functools.partial(encoder, name="electra-512-cudnn"),
    "electra-128-cudnn": functools.partial(encoder, name="electra-128-cudnn"),
}


def run_job(name: str, options: Options) -> None:
    """Run a job in this process; write its rows as they come."""
    if name.endswith("-nondeterministic"):
        kept = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{kept} --xla_gpu_deterministic_ops=false".strip()
    startup.use_wide_vectors()
    startup.use_deterministic_kernels()
    startup.use_compilation_cache()  # a second attempt finds what the first has compiled
    logging.set_verbosity(logging.WARNING)
    rows = []
    for row in JOBS[name](options):
        rows.append(row)
        write_json(options.output / "jobs" / f"{name}.json", {"rows": rows})


# The process that starts them


def command(name: str) -> list[str]:
    """Return the command of a job's process: this process's with the job's name."""
    return [sys.executable, *sys.orig_argv[1:], f"--job={name}"]


def start_job(name: str, options: Options) -> Row:
    """Run a job in a process of its own, of which nothing is left.

    Returns:
      its rows, with its seconds, or with its error if it did not come to its end.
    """
    path = options.output / "jobs" / f"{name}.json"
    path.unlink(missing_ok=True)
    log = options.output / "logs" / f"{name}.txt"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            command(name), stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            code = process.wait(SECONDS_PER_JOB)
            problem = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            error = ": ".join([problem, *log.read_text().splitlines()[-1:]]) if code else ""
        except subprocess.TimeoutExpired:
            error = f"took longer than {SECONDS_PER_JOB} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found = read_json(path) if path.exists() else {"rows": []}
    found |= {"error": error} if error else {"seconds": round(time.perf_counter() - start)}
    write_json(path, found)
    return found


def table(results: dict[str, Row]) -> pd.DataFrame:
    """Return the rows of all jobs, and the errors; MFU is of the rate of large products."""
    columns = ["job", "what", "seconds", "examples_per_second", "mfu", "device_peak_bytes"]
    columns += ["compiler_peak_bytes", "note", "flops", "dtype"]
    found = [{"job": name, **row} for name, result in results.items() for row in result["rows"]]
    failed = {name: of["error"] for name, of in results.items() if "error" in of}
    found += [{"job": name, "note": f"failed: {error}"} for name, error in failed.items()]
    rows = pd.DataFrame(found).reindex(columns=columns)
    rates = results["machine"]["rows"][0]["rates"]
    rows["mfu"] = rows["flops"] / rows["seconds"] / rows["dtype"].map(rates)
    return rows[columns[:-2]]


def main(arguments: list[str] | None = None) -> int:
    """Run the jobs that have no result yet, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs/accelerator"), help="folder of the results")
    add("--torch_python", default=sys.executable, help="PyTorch's interpreter")
    add("--rounds", type=int, default=20, help="timed steps after the first")
    add("--toy", action="store_true", help="small shapes, to rehearse on a CPU")
    add("--job", choices=JOBS, help="run this job in this process")
    options = parser.parse_args(arguments)
    options.output = options.output.resolve()
    for folder in ("jobs", "logs", "runs"):
        (options.output / folder).mkdir(parents=True, exist_ok=True)
    if options.job:
        run_job(options.job, options)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the job's process ends too
    results = {path.stem: read_json(path) for path in options.output.glob("jobs/*.json")}
    for name in JOBS:
        if name == "machine" or "seconds" not in results.get(name, {}):
            results[name] = start_job(name, options)
            print(name, results[name].get("error", "done"), flush=True)
            if "error" in results["machine"]:
                return 1
            ran = {job: results[job] for job in JOBS if job in results}
            table(ran).to_csv(options.output / "table.csv", index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
