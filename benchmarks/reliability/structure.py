"""Count the package's lines by folder, and its import layers, edges and cycles.

    python -m benchmarks.reliability.structure [--path=OTHER_CHECKOUT]

A unit is a top-level file or folder of the package. Its layer is one above the highest unit that it
imports. Lines are those of the Python files, blank lines and docstrings included.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

import grimp

CORE = ("data/", "models/", "training/steps.py", "training/fit.py")


def main() -> None:
    """Print the units, the totals and the cycles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path.cwd())
    root = parser.parse_args().path.resolve()
    os.chdir(root)
    sys.path.insert(0, str(root))
    package = root / "sentiment_jax"
    lines = {
        path.relative_to(package).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in package.rglob("*.py")
    }
    graph = grimp.build_graph("sentiment_jax", cache_dir=None)
    imports: dict[str, set[str]] = {}
    for module in graph.modules - {"sentiment_jax"}:
        unit = module.split(".")[1]
        found = graph.find_modules_directly_imported_by(module) - {"sentiment_jax"}
        imports.setdefault(unit, set()).update({name.split(".")[1] for name in found} - {unit})
    cycles: set[tuple[str, ...]] = set()

    @functools.cache
    def layer(unit: str, path: tuple[str, ...] = ()) -> int:
        if unit in path:
            cycles.add(path[path.index(unit) :])
            return 0
        return 1 + max((layer(below, (*path, unit)) for below in imports[unit]), default=0)

    for unit in sorted(imports, key=lambda unit: (-layer(unit), unit)):
        own = sum(n for name, n in lines.items() if name.startswith((f"{unit}/", f"{unit}.py")))
        print(f"layer {layer(unit):>2}  {unit:12} {own:>5} lines")
    core = sum(n for name, n in lines.items() if name.startswith(CORE))
    print(f"{sum(lines.values()):,} lines; the core ({', '.join(CORE)}) {core:,}")
    edges = sum(map(len, imports.values()))
    print(
        f"{len(imports)} units in {max(map(layer, imports))} layers, {edges} import edges", end=""
    )
    print(f", {len(cycles)} cycles {sorted(cycles) or ''}")


if __name__ == "__main__":
    main()
