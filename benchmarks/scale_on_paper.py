"""What 8 and 32 H100s would gain over one, from compiled programs: arithmetic, not a measurement.

    python -m benchmarks.scale_on_paper --output=results/cluster

Needs what benchmarks.compiled_for_gpu needs; two minutes of CPU for each of ten programs. A step
takes its roofline. Bytes are those that a ring sends from each GPU; they travel after the step at
worst, and behind it at best.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from benchmarks.compiled_for_gpu import compile_case
from sentiment_jax.storage.files import write_json
from sentiment_jax.training.objectives.classification import CLASSIFICATION

PER_GPU = 32  # reviews
LINKS = {8: 450e9, 32: 50e9}  # bytes/s from each GPU: NVLink inside a node; 400 Gb/s between nodes


def compile_step(length: int, count: int, split: bool) -> dict[str, Any]:
    """Compile BERT-base's training step in bfloat16 on `count` GPUs and describe it."""
    model = {"name": "bert", "dtype": "bfloat16"}
    what = f"{length} tokens, {count} GPUs"
    row = compile_case((what, model, length, PER_GPU * count, CLASSIFICATION, count), split)
    return row | {"length": length, "gpus": count, "split": split}


def sent(row: dict[str, Any]) -> float:
    """Return the bytes that a GPU sends in one step."""
    found = re.findall(r"\d+ ([\w-]+) ([\d.]+) GB", row["collectives"])
    listed = {name: 1e9 * float(size) for name, size in found}
    count = row["gpus"]
    # Of a gather and a scatter, the whole and a GPU's own part are listed.
    one_way = sum(listed.get(name, 0) for name in ("all-gather", "reduce-scatter")) / (
        1 + 1 / count
    )
    one_way += listed.get("all-to-all", 0)
    return (2 * listed.get("all-reduce", 0) + one_way) * (count - 1) / count


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| tokens | GPUs | parameters | peak GiB per GPU | GB sent per GPU and step | step ms | "
        "exchange ms | efficiency, exchange after the step | behind it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    alone = {row["length"]: row["roofline_ms"] for row in rows if row["gpus"] == 1}
    for row in rows:
        count, step, least = row["gpus"], row["roofline_ms"], alone[row["length"]]
        start = f"| {row['length']} | {count} |"
        if count == 1:
            lines.append(f"{start} | {row['peak_gibibytes']:.1f} | | {step:.1f} | | | |")
            continue
        exchange = 1e3 * sent(row) / LINKS[count]
        lines.append(
            f"{start} {'split' if row['split'] else 'copied'} | {row['peak_gibibytes']:.1f} | "
            f"{sent(row) / 1e9:.2f} | {step:.1f} | {exchange:.1f} | "
            f"{least / (step + exchange):.0%} | {least / max(step, exchange):.0%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile the steps; write scale.json and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/cluster"))
    options = parser.parse_args()
    kinds = ((1, False), (8, False), (8, True), (32, False), (32, True))
    rows = [compile_step(length, *kind) for length in (128, 512) for kind in kinds]
    write_json(options.output / "scale.json", {"rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
