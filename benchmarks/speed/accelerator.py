"""Measure the models on a GPU in 25 minutes, of which no failure costs more than its own job.

    python -m benchmarks.speed.accelerator [--data_dir=PREPARED_TFDS] [--output=runs/accelerator]
    python -m benchmarks.speed.accelerator --toy --output=/tmp/rehearsal   # on a CPU, a rehearsal

Each job is a process of its own with limited time, the most important job first. Rows are written
as they are measured. A job that fails is recorded, and the next one runs. The same command again
runs what failed, was left out or had no time left; only `machine`, which is brief, runs each time.
The results are table.md and accelerator.json, and a job's output is in logs/.

Weights and token ids are random: time and memory do not depend on them. Steps are queued as in
training and scoring: a result is read after the next step has been dispatched. PyTorch's side needs
torch and transformers; `--torch_python` names another interpreter that has them.
"""

import argparse
import contextlib
import dataclasses
import faulthandler
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import rnn

from benchmarks.reliability import comparing, kill_soak
from benchmarks.speed import flops
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
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step

Row = dict[str, Any]  # "what" was measured, and numbers or a note
Options = argparse.Namespace

ENCODERS = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=1.0)  # the study's
LSTMS = OptimizerConfig(name="adam", weight_decay=0.0, clip_norm=0.0)
NO_DROPOUT = {"attention_dropout": 0.0}  # of attention weights, which cuDNN's kernel lacks
CUDNN = {"attention": "cudnn", **NO_DROPOUT}
KINDS: dict[str, dict[str, Any]] = {
    "xla": {"dtype": "bfloat16"},
    "xla-no-dropout": {"dtype": "bfloat16", **NO_DROPOUT},
    "cudnn": {"dtype": "bfloat16", **CUDNN},
    "tensorfloat32": {"dtype": "tensorfloat32", **NO_DROPOUT},
    "float32": {"dtype": "float32", **NO_DROPOUT},
}
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
SMALL |= {"num_hidden_layers": 2}
FORMS = {  # of the LSTM, as what lstm_scan looks up
    "one product a step, as on a CPU": {"on_gpu": lambda: False},
    "scan": {"on_gpu": lambda: True, "UNROLL": 1},
    "unrolled by 4": {"on_gpu": lambda: True, "UNROLL": 4},
    "unrolled by 10": {"on_gpu": lambda: True, "UNROLL": 10},
}


class LeftOut(Exception):
    """A job lacks something that can be installed or given; it says what."""


def encoder_shape(options: Options, length: int) -> tuple[int, int]:
    """Return rows and tokens of an encoder's batch."""
    return (4, length // 16) if options.toy else (32, length)


def encoder_config(options: Options, name: str, kind: str) -> Any:
    """Return an encoder's config, of its base size or a small one."""
    return model_config({"name": name, **KINDS[kind], **(SMALL if options.toy else {})})


def lstm_shape(options: Options) -> tuple[int, int]:
    """Return rows and words of an LSTM's batch."""
    return (8, 20) if options.toy else (256, 400)


def fresh_params(model: nn.Module) -> Any:
    """Return random parameters on the device."""
    with on_cpu():
        params = initializer(model)(jax.random.key(0))
    return jax.device_put(params, jax.devices()[0])  # else each inference would copy them


def measure(options: Options, program: Any, advance: Callable[[Any], Any], carry: Any) -> Row:
    """Return the seconds of a step, and the peak memory by the compiler and by the device.

    The device's peak is that of the process so far. `program` is what `advance` calls, compiled.
    """
    carry, result = jax.block_until_ready(advance(carry))
    start = time.perf_counter()
    for _ in range(options.rounds):
        carry, newer = advance(carry)
        jax.device_get(result)
        result = newer
    jax.block_until_ready((carry, result))
    seconds = (time.perf_counter() - start) / options.rounds
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "compiler_peak_bytes": peak_bytes(program),
        "device_peak_bytes": memory.get("peak_bytes_in_use"),
    }


def with_flops(row: Row, model: nn.Module, cost: int) -> Row:
    """Add the model FLOPs of the row's step, given those of a training step."""
    trains = row["what"].endswith("training")
    return {**row, "flops": cost if trains else cost // 3, "dtype": model.config.dtype}


def both_steps(
    options: Options, what: str, model: nn.Module, params: Any, shape: tuple[int, int], cost: int
) -> Iterator[Row]:
    """Measure an evaluation step, then a training step, whose peak memory is the higher one."""
    batch = jax.device_put(make_batch(0, *shape))
    evaluate = make_eval_step(model, Classification()).lower(params, batch).compile()
    row = measure(options, evaluate, lambda params: (params, evaluate(params, batch)), params)
    row["examples_per_second"] = shape[0] / row["seconds"]
    yield with_flops({"what": f"{what}, evaluation", **row}, model, cost)
    optimizer = LSTMS if model.config.name == "lstm" else ENCODERS
    state = create_state(params, optimizer, seed=0)
    rate = np.float32(3e-5)
    train = make_train_step(model, optimizer, Classification()).lower(state, batch, rate).compile()
    row = measure(options, train, lambda state: train(state, batch, rate), state)
    row["examples_per_second"] = shape[0] / row["seconds"]
    yield with_flops({"what": f"{what}, training", **row}, model, cost)


# A function for each kind of job: it yields rows as they are measured.


def machine(options: Options) -> Iterator[Row]:
    """Describe the machine and measure its rate of products; refuse to go on where that is futile.

    RuntimeError: there is no GPU, or the folder has the results of another machine.
    """
    if jax.default_backend() == "cpu" and not options.toy:
        raise RuntimeError("JAX finds no GPU here; --toy rehearses on a CPU")
    environment = describe_environment()
    device = "toy sizes" if options.toy else environment["devices"][0]
    collected = options.output / "accelerator.json"
    if collected.exists() and (other := read_json(collected)["device"]) != device:
        raise RuntimeError(f"{options.output} has results of {other}, and this is {device}")
    rates = {name: flops.matmul_rate(name) for name in ("bfloat16", "tensorfloat32", "float32")}
    note = ", ".join(f"{rate / 1e12:,.3g} in {name}" for name, rate in rates.items())
    yield {
        "what": "large products",
        "note": f"TFLOP/s: {note}",
        "rates": rates,
        "device": device,
        "environment": environment,
    }


def kill(options: Options, arguments: list[str]) -> Iterator[Row]:
    """Kill a training run after its first checkpoint, resume it and compare it with a whole one."""
    jax.config.update("jax_platforms", "cpu")  # of this process: the runs need the GPU
    if options.toy:
        arguments = [*arguments, "--config.epochs=2"]
    whole = options.output / "runs" / f"{options.job}-whole"
    resumed = options.output / "runs" / f"{options.job}-resumed"
    for workdir in (whole, resumed):
        shutil.rmtree(workdir, ignore_errors=True)
    to_its_end(arguments, whole)
    kill_after_a_checkpoint(arguments, resumed)
    step = read_metrics(resumed / "metrics.jsonl")[-1]["step"]
    to_its_end(arguments, resumed)
    last = read_metrics(resumed / "metrics.jsonl")[-1]["step"]
    difference = comparing.difference(whole, resumed)
    what = f"killed at step {step} of {last} and resumed"
    yield {"what": what, "note": f"DIFFERENT: {difference}" if difference else "bit-exact"}


def kill_after_a_checkpoint(arguments: list[str], workdir: Path) -> None:
    """Start a training run and kill it.

    RuntimeError: it ended before.
    """
    process = kill_soak.start(arguments, workdir)
    kill_soak.wait_for(process, lambda: any(workdir.glob("checkpoints/*[0-9]")))
    process.kill()
    output, _ = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{workdir.name} ended before it was killed: {output[-300:]}")


def to_its_end(arguments: list[str], workdir: Path) -> None:
    """Run or resume a training run.

    RuntimeError: it failed; the message ends with its output.
    """
    process = kill_soak.start(arguments, workdir)
    output, _ = process.communicate()
    print(output)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode} of {workdir.name}: {output[-300:]}")


def encoder(options: Options, name: str, length: int, kind: str) -> Iterator[Row]:
    """Measure both steps of an encoder."""
    shape = encoder_shape(options, length)
    model = build_model(encoder_config(options, name, kind), vocab_size=VOCABULARY)
    what = f"{name.upper()} {shape[1]} tokens, batch {shape[0]}, {kind}"
    cost = flops.training_flops(model, Classification(), shape)
    return both_steps(options, what, model, fresh_params(model), shape, cost)


def logits(options: Options) -> Iterator[Row]:
    """Compare BERT's logits in each dtype with those in float32, on the device."""
    shape = encoder_shape(options, 512)
    batch = jax.device_put(make_batch(0, *shape))
    inputs = (batch["token_ids"], batch["lengths"])
    exact = np.zeros(0)
    params = None
    for kind in ("float32", "tensorfloat32", "xla-no-dropout", "cudnn"):
        model = build_model(encoder_config(options, "bert", kind), vocab_size=VOCABULARY)
        if params is None:
            params = fresh_params(model)
        found = np.asarray(jax.jit(functools.partial(forward, model))(params, *inputs))
        if kind == "float32":
            exact = found
        note = distance(found, exact, "float32's")
        yield {"what": f"BERT {shape[1]} tokens, {kind}", "note": note}


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
    shape = lstm_shape(options)
    model = build_model(LstmConfig(), vocab_size=VOCABULARY)
    params = fresh_params(model)
    batch = jax.device_put(make_batch(0, *shape))

    def apply() -> np.ndarray:
        call = functools.partial(forward, model)
        return np.asarray(jax.jit(call)(params, batch["token_ids"], batch["lengths"]))

    expected = apply()
    cost = flops.training_flops(model, Classification(), shape)
    if form == "cuDNN":
        patch = mock.patch.object(lstm, "ScannedLstm", CudnnLstm)
        form = "cuDNN" if on_gpu() else "cuDNN's reference: cuDNN needs CUDA"
    else:
        patch = mock.patch.multiple(lstm_scan, **FORMS[form])
    with patch:
        note = distance(apply(), expected, "the package's")
        what = f"LSTM {shape[1]} words, batch {shape[0]}, {form}"
        for row in both_steps(options, what, model, params, shape, cost):
            yield {**row, "note": note}


def together(options: Options, count: int) -> Iterator[Row]:
    """Train `count` LSTMs that differ in seed and learning rate, in one program."""
    shape = lstm_shape(options)
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
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch, rates).compile()
    row = measure(options, compiled, lambda state: compiled(state, batch, rates), state)
    rate = count * shape[0] / row["seconds"]
    what = f"LSTM {shape[1]} words, batch {shape[0]}, {count} settings by vmap, training"
    yield {"what": what, "examples_per_second": rate, **row}


def imdb(options: Options) -> Iterator[Row]:
    """Train the study's LSTM end to end; at toy sizes, the embedded sample's for an epoch.

    LeftOut: no data set is given.
    """
    if options.toy:
        arguments = [*kill_soak.SMALL, "--config.epochs=1"]
    elif options.data_dir:
        arguments = ["--config=configs/lstm.py", f"--config.data.path={options.data_dir}"]
    else:
        raise LeftOut("no --data_dir")
    workdir = options.output / "runs" / "imdb"
    to_its_end(arguments, workdir)
    result = read_json(workdir / "result.json")
    test = result["test"]
    note = f"test accuracy {test['accuracy']:.4f} on {test['examples']:,} reviews, best epoch "
    note += f"{result['best_epoch']}, {result['train_seconds']:.0f} s of training"
    data = "the embedded sample" if options.toy else "IMDB"
    yield {"what": f"LSTM on {data}, end to end", "note": note, "result": result}


def pytorch(options: Options, length: int) -> Iterator[Row]:
    """Measure both steps of PyTorch's BERT at our shape, eager and compiled.

    LeftOut: torch or transformers is not installed.
    """
    jax.config.update("jax_platforms", "cpu")  # of this process: PyTorch needs the GPU
    look = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
    needed = ("torch", "transformers")
    if subprocess.run([options.torch_python, "-c", look, *needed]).returncode:
        raise LeftOut(f"{options.torch_python} does not have {' and '.join(needed)}")
    shape = encoder_shape(options, length)
    config = encoder_config(options, "bert", "cudnn")
    sizes = {name: getattr(config, name) for name in [*SMALL, "embedding_size"]}
    sizes["attention_probs_dropout_prob"] = config.attention_dropout
    job = {"shape": shape, "vocab_size": VOCABULARY, "sizes": sizes, "rounds": options.rounds}
    process = subprocess.Popen(
        [options.torch_python, "-m", "benchmarks.speed.accelerator_torch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    json.dump({**job, "device": "cpu" if options.toy else "cuda"}, process.stdin)
    process.stdin.close()
    model = build_model(config, vocab_size=VOCABULARY)
    cost = flops.training_flops(model, Classification(), shape)
    for line in process.stdout:
        yield with_flops(json.loads(line), model, cost)
    if process.wait():
        raise RuntimeError(f"PyTorch's process ended with exit code {process.returncode}")


@dataclasses.dataclass(frozen=True)
class Job:
    """A function of the options that yields rows, and the seconds that it may take on an H100."""

    rows: Callable[[Options], Iterator[Row]]
    seconds: float
    deterministic: bool = True  # XLA's kernels


def encoder_job(name: str, length: int, kind: str, deterministic: bool = True) -> dict[str, Job]:
    """Return the job of an encoder by its name."""
    rows = functools.partial(encoder, name=name, length=length, kind=kind)
    suffix = "" if deterministic else "-nondeterministic"
    return {f"{name}-{length}-{kind}{suffix}": Job(rows, 45, deterministic)}


def recurrent_job(name: str, form: str) -> dict[str, Job]:
    """Return the job of a form of the LSTM by its name."""
    return {f"lstm-{name}": Job(functools.partial(recurrent, form=form), 20)}


LONG = [f"--config.model.{name}={value}" for name, value in KINDS["cudnn"].items()]
JOBS: dict[str, Job] = {  # the most important ones first; about 24 minutes
    "machine": Job(machine, 20),
    "kill-lstm": Job(functools.partial(kill, arguments=kill_soak.TRAINING), 45),
    "kill-bert": Job(functools.partial(kill, arguments=[*kill_soak.BERT, *LONG]), 45),
    **encoder_job("bert", 512, "cudnn"),
    **encoder_job("bert", 512, "xla-no-dropout"),
    **encoder_job("bert", 512, "xla"),
    "logits": Job(logits, 45),
    **recurrent_job("unroll-10", "unrolled by 10"),
    **recurrent_job("scan", "scan"),
    **encoder_job("bert", 512, "cudnn", deterministic=False),
    **encoder_job("bert", 128, "cudnn"),
    **encoder_job("bert", 128, "xla"),
    **{f"lstm-vmap-{n}": Job(functools.partial(together, count=n), 25) for n in (8, 24)},
    **recurrent_job("cudnn", "cuDNN"),
    "imdb": Job(imdb, 75),
    "torch-512": Job(functools.partial(pytorch, length=512), 90),
    **encoder_job("bert", 128, "float32"),
    **encoder_job("bert", 128, "tensorfloat32"),
    **recurrent_job("unroll-4", "unrolled by 4"),
    **recurrent_job("plain", "one product a step, as on a CPU"),
    "torch-128": Job(functools.partial(pytorch, length=128), 90),
    **encoder_job("bert", 512, "xla", deterministic=False),
    **encoder_job("bert", 128, "cudnn", deterministic=False),
    **encoder_job("bert", 128, "xla", deterministic=False),
    **{
        name: job
        for deterministic in (True, False)
        for length in (512, 128)
        for kind in ("cudnn", "xla")
        for name, job in encoder_job("electra", length, kind, deterministic).items()
    },
}


# A job's process


def run_job(name: str, options: Options) -> int:
    """Run a job in this process; write its rows as they come, then its seconds or its error."""
    job = JOBS[name]
    if not job.deterministic:
        kept = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{kept} --xla_gpu_deterministic_ops=false".strip()
    startup.use_wide_vectors()
    startup.use_deterministic_kernels()
    startup.use_compilation_cache()  # a second attempt finds what the first has compiled
    logging.set_verbosity(logging.WARNING)
    faulthandler.dump_traceback_later(0.9 * options.seconds_per_job)  # to the log: where it hangs
    start = time.perf_counter()
    found: dict[str, Any] = {"rows": [], "xla_flags": os.environ.get("XLA_FLAGS", "")}
    try:
        for row in job.rows(options):
            found["rows"].append(row)
            write_json(result_file(name, options), found)
        found["seconds"] = time.perf_counter() - start
    except LeftOut as reason:
        found["left_out"] = str(reason)
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    faulthandler.cancel_dump_traceback_later()
    write_json(result_file(name, options), found)
    return int("error" in found)


# The process that starts them


def result_file(name: str, options: Options) -> Path:
    """Return the file that a job's process writes."""
    return options.output / "jobs" / f"{name}.json"


def read_result(name: str, options: Options) -> dict[str, Any]:
    """Return what is known of a job: it has `seconds` if, and only if, it came to its end."""
    path = result_file(name, options)
    return read_json(path) if path.exists() else {"rows": []}


def command(name: str) -> list[str]:
    """Return the command of a job's process: this process's with the job's name."""
    return [sys.executable, *sys.orig_argv[1:], f"--job={name}"]


def start_job(name: str, options: Options, seconds: float) -> None:
    """Run a job in a process of its own; then nothing of it is left, and its outcome is known."""
    result_file(name, options).unlink(missing_ok=True)
    problem = ""
    with (options.output / "logs" / f"{name}.txt").open("w") as log:
        process = subprocess.Popen(
            command(name), stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            code = process.wait(seconds)
            problem = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            problem = f"took longer than {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found = read_result(name, options)
    if not found.keys() & {"seconds", "left_out", "error"}:
        write_json(result_file(name, options), {**found, "error": problem})


def outcome(name: str, options: Options) -> str:
    """Say in a few words how far a job is."""
    found = read_result(name, options)
    if "error" in found:
        return f"failed: {found['error']}"
    if "left_out" in found:
        return f"left out: {found['left_out']}"
    return f"{found['seconds']:.0f} s" if "seconds" in found else "not run"


def table(results: dict[str, dict[str, Any]], outcomes: dict[str, str]) -> str:
    """Return the rows of all jobs in Markdown, and what became of jobs that have no end."""
    rates = results["machine"]["rows"][0]["rates"]
    heads = ["job", "what", "ms a step", "examples/s", "MFU"]
    heads += ["peak GiB, device", "peak GiB, compiler", "note"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * 5 + "---|"]
    for name, result in results.items():
        for row in result["rows"]:
            kernels = "" if JOBS[name].deterministic else ", nondeterministic"
            cells = [name, row["what"] + kernels]
            cells.append(f"{1e3 * row['seconds']:,.2f}" if "seconds" in row else "")
            cells.append(f"{row['examples_per_second']:,.0f}" if "seconds" in row else "")
            done = row.get("flops")  # MFU: of the rate of large products in the row's dtype
            cells.append(f"{done / row['seconds'] / rates[row['dtype']]:.1%}" if done else "")
            for peak in ("device_peak_bytes", "compiler_peak_bytes"):
                cells.append("" if row.get(peak) is None else f"{row[peak] / 2**30:.2f}")
            lines.append(f"| {' | '.join([*cells, row.get('note', '')])} |")
        if "seconds" not in result:
            text = outcomes[name].replace("|", "\\|")
            lines.append(f"| {name} | **{text}** | | | | | | |")
    return "\n".join(lines) + "\n"


def collect(options: Options) -> None:
    """Write accelerator.json and table.md from what the jobs have written."""
    results = {name: read_result(name, options) for name in JOBS}
    first = results["machine"]["rows"][0]
    found = {"device": first["device"], "environment": first["environment"], "jobs": results}
    write_json(options.output / "accelerator.json", found)
    text = table(results, {name: outcome(name, options) for name in JOBS})
    (options.output / "table.md").write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the jobs that have no result yet, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs/accelerator"), help="folder of the results")
    add("--minutes", type=float, default=25, help="what no longer fits is not started")
    add("--seconds_per_job", type=float, default=180, help="a job that takes longer is killed")
    add("--only", default="", help="a regular expression of jobs")
    add("--data_dir", default="", help="a prepared TFDS folder of imdb_reviews")
    add("--torch_python", default=sys.executable, help="PyTorch's interpreter")
    add("--rounds", type=int, default=20, help="timed steps after the first")
    add("--toy", action="store_true", help="small shapes, to rehearse on a CPU")
    add("--job", choices=JOBS, help="run this job in this process")
    options = parser.parse_args(arguments)
    options.output = options.output.resolve()
    for folder in ("jobs", "logs", "runs"):
        (options.output / folder).mkdir(parents=True, exist_ok=True)
    if options.job:
        return run_job(options.job, options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the job's process ends too
    end = time.monotonic() + 60 * options.minutes
    for name, job in JOBS.items():
        chosen = re.search(options.only, name) and "seconds" not in read_result(name, options)
        left = end - time.monotonic()
        if name != "machine" and not (chosen and job.seconds <= left):
            continue
        start_job(name, options, min(left, options.seconds_per_job))
        print(f"{name}: {outcome(name, options)}; {left / 60:.1f} min were left", flush=True)
        if name == "machine" and "seconds" not in read_result(name, options):
            return 1
        collect(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
