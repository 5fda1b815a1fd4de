"""Compile the study's steps for an H100, without one; count launches, bytes, memory and FLOPs.

    python -m benchmarks.speed.compiled_for_gpu --output=results/speed/gpu [--only=REGEX]

Needs the CUDA wheels (`requirements.txt`), but neither driver nor device; up to a minute of CPU for
each case. Rows of other versions of jax are kept. No kernel is run, and none is tuned, which XLA
does on the device. The MFU ceiling is the model's FLOPs divided by the time of the kernels (hlo.py)
and by the rate of products in its dtype.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # keeps the CUDA plug-in from asking for a driver

import argparse
import dataclasses
import importlib.metadata
import itertools
import re
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.speed import flops, hlo
from benchmarks.speed.synthetic import VOCABULARY, abstract_batch, model_config
from sentiment_jax.config.schema import OBJECTIVES, OptimizerConfig
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import devices
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.masked_language_modeling import WORD, MaskedLanguageModeling
from sentiment_jax.training.objectives.objective import Objective
from sentiment_jax.training.objectives.replaced_token_detection import ReplacedTokenDetection
from sentiment_jax.training.scoring import make_eval_step
from sentiment_jax.training.steps import create_state, make_train_step

H100 = Path(__file__).with_name("h100.txtpb").read_text()
# Untuned, XLA uses Triton for every product and fuses what follows into it. A device may choose
# cuBLAS, which fuses less: this counts the bytes of cuBLAS.
OPTIONS = {"xla_gpu_enable_triton_gemm": False}
ADAM = OptimizerConfig(name="adam", weight_decay=0.0, clip_norm=0.0)
ADAMW = OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=1.0)
PACKAGES = ("jax", "jaxlib", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12", "nvidia-cudnn-cu12")
ANY_WORD = bytes([WORD]) * VOCABULARY, 103, 0.15  # which tokens to choose doesn't change a program
PRETRAINING = {
    "bert": MaskedLanguageModeling(*ANY_WORD),
    "electra": ReplacedTokenDetection(*ANY_WORD),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A step to compile."""

    what: str
    model: dict[str, Any]
    length: int
    batch_size: int
    objective: Objective | None = None  # None: an evaluation


def cases() -> list[Case]:
    """Return the study's steps and those of `:pretrain`."""
    training = Classification()

    def both(what: str, model: dict[str, Any], length: int, batch_size: int) -> list[Case]:
        return [
            Case(f"{what}, training", model, length, batch_size, training),
            Case(f"{what}, evaluation", model, length, batch_size),
        ]

    listed: list[Case] = []
    for name in ("bert", "electra"):
        kinds = {"xla": {"name": name, "dtype": "bfloat16"}}
        kinds["cudnn"] = {**kinds["xla"], "attention": "cudnn", "attention_dropout": 0.0}
        for length, size, attention in itertools.product((128, 512), (16, 32), kinds):
            what = f"{name} {length} tokens, batch {size}, {attention}"
            listed += both(what, kinds[attention], length, size)
        for attention, model in kinds.items():
            what = f"{name} 256 tokens, batch 32, {attention}, pre-training"
            listed.append(Case(what, model, 256, 32, PRETRAINING[name]))
    what = "bert 128 tokens, batch 32, float32, training"
    listed.append(Case(what, {"name": "bert"}, 128, 32, training))
    for size in (256, 512):
        listed += both(f"lstm 400 words, batch {size}", {"name": "lstm"}, 400, size)
    return listed


def compile_case(case: Case) -> dict[str, Any]:
    """Compile one step; return a row of the table."""
    topology = topologies.get_topology_desc("h100", "cuda", target_config=H100, topology="1x1x1")
    mesh = Mesh(np.array(topology.devices), ("data",))
    objective = case.objective
    config = model_config(case.model)
    pretraining = ""
    if objective in PRETRAINING.values():
        pretraining = OBJECTIVES[config.name][0]
    model = build_model(config, vocab_size=VOCABULARY, objective=pretraining)
    shape = (case.batch_size, case.length)
    cost = flops.training_flops(model, objective or Classification(), shape)
    if objective is None:
        cost //= 3
    batch = abstract_batch(case.batch_size, case.length, NamedSharding(mesh, PartitionSpec("data")))
    params = abstract_params(model)
    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        if objective:
            optimizer = ADAM if config.name == "lstm" else ADAMW
            state = jax.eval_shape(lambda p: create_state(p, optimizer, 0), params)
            state = devices.abstract(state, mesh)
            rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=devices.replicated(mesh))
            step = make_train_step(model, optimizer, objective)
            traced = step.trace(state, batch, rate)
        else:
            step = make_eval_step(model)
            traced = step.trace(devices.abstract(params, mesh), batch)
        start = time.perf_counter()
        compiled = traced.lower(lowering_platforms=("cuda",)).compile(compiler_options=OPTIONS)
    seconds = time.perf_counter() - start
    best = hlo.RATES["bf16" if config.dtype == "bfloat16" else "f32"]
    row = hlo.describe(case.what, compiled, cost / best)
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return row | {"compile_seconds": round(seconds, 1), "compiler": versions}


def key(row: dict[str, Any]) -> tuple[str, str]:
    """Return the step and the compiler's version."""
    return row["what"], row["compiler"]["jax"]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    forms = {
        **{"kernels": ",", "launches": ",", "TFLOP": ".2f", "GB moved": ".1f", "peak GiB": ".2f"},
        **dict.fromkeys(("compute ms", "memory ms", "roofline ms"), ".1f"),
        "ceiling of MFU": ".0%",
    }
    names = ["kernels", "launches", "teraflops", "gigabytes", "peak_gibibytes"]
    names += ["compute_ms", "memory_ms", "roofline_ms", "mfu_ceiling"]
    lines = [f"| step | jax | {' | '.join(forms)} |", "|---|---|" + "---:|" * len(forms)]
    for row in rows:
        whole = {**row, "teraflops": sum(row["teraflops"].values())}
        cells = [
            format(whole[name], form) for name, form in zip(names, forms.values(), strict=True)
        ]
        lines.append(f"| {' | '.join([*key(row), *cells])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile the cases; after each, update this compiler's row in compiled.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/speed/gpu"))
    parser.add_argument("--only", default="", help="a regular expression of cases")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "compiled.json"
    rows = read_json(path)["rows"] if path.exists() else []
    order = {case.what: number for number, case in enumerate(cases())}
    for case in cases():
        if re.search(options.only, case.what):
            row = compile_case(case)
            print(row, flush=True)
            rows = [old for old in rows if key(old) != key(row)] + [row]
            rows.sort(key=lambda old: (order.get(old["what"], len(order)), key(old)))
            write_json(path, {"rows": rows})
            (options.output / "table.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
