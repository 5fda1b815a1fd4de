"""Estimate from compiled programs what 8 and 32 H100s gain over one: not a measurement.

    python -m benchmarks.speed.scale_on_paper --output=results/reliability/cluster

Needs the packages of compiled_for_gpu.py, and two minutes of CPU for each program. A step
takes its roofline time. Bytes are those that a ring sends from each GPU. At worst they are sent
after the step, at best during the step.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from benchmarks.speed.compiled_for_gpu import Case, compile_case
from sentiment_jax.storage.files import write_json
from sentiment_jax.training.objectives.classification import Classification

PER_GPU = 32  # reviews
LINKS = {8: 450e9, 32: 50e9}  # bytes/s from each GPU: NVLink inside a node; 400 Gb/s between nodes


def compile_step(length: int, count: int) -> dict[str, Any]:
    """Compile BERT-base's training step in bfloat16 on `count` GPUs and describe it."""
    model = {"name": "bert", "dtype": "bfloat16"}
    what = f"{length} tokens, {count} GPUs"
    row = compile_case(Case(what, model, length, PER_GPU * count, Classification(), count))
    return row | {"length": length, "gpus": count}


def sent(row: dict[str, Any]) -> float:
    """Return the bytes that a GPU sends in one step."""
    found = re.findall(r"\d+ ([\w-]+) ([\d.]+) GB", row["collectives"])
    listed = {name: 1e9 * float(size) for name, size in found}
    count = row["gpus"]
    return 2 * listed.get("all-reduce", 0) * (count - 1) / count


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| tokens | GPUs | peak GiB per GPU | GB sent per GPU and step | step ms | exchange ms | "
        "efficiency, exchange after the step | efficiency, exchange hidden |",
        "|---|---|---|---|---|---|---|---|",
    ]
    alone = {row["length"]: row["roofline_ms"] for row in rows if row["gpus"] == 1}
    for row in rows:
        count = row["gpus"]
        step = row["roofline_ms"]
        least = alone[row["length"]]
        start = f"| {row['length']} | {count} | {row['peak_gibibytes']:.1f}"
        if count == 1:
            lines.append(f"{start} | | {step:.1f} | | | |")
            continue
        exchange = 1e3 * sent(row) / LINKS[count]
        lines.append(
            f"{start} | {sent(row) / 1e9:.2f} | {step:.1f} | {exchange:.1f} | "
            f"{least / (step + exchange):.0%} | {least / max(step, exchange):.0%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile the steps; write scale.json and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/reliability/cluster"))
    options = parser.parse_args()
    rows = [compile_step(length, count) for length in (128, 512) for count in (1, 8, 32)]
    write_json(options.output / "scale.json", {"rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
