"""Count the kernel launches, FLOPs and bytes of a compiled GPU program in its HLO text."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sentiment_jax.training.compilation import peak_bytes

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
SIZES |= {"s64": 8, "u64": 8}
# NVIDIA's figures for an H100 SXM without sparsity, FLOP/s; exact float32 has no tensor cores.
RATES = {"bf16": 989e12, "tf32": 494.5e12, "f32": 66.9e12}
BANDWIDTH = 3.35e12  # bytes/s
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
# No kernels: names for places in memory, and the ends of asynchronous operations.
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier"}


def arrays(shape: str) -> list[tuple[str, list[int]]]:
    """Return the (dtype, sizes) of each array of an instruction's result."""
    return [(kind, [int(n) for n in sizes.split(",") if n]) for kind, sizes in ARRAY.findall(shape)]


def size(shape: str) -> int:
    """Return the size in bytes."""
    return sum(SIZES.get(kind, 0) * math.prod(sizes) for kind, sizes in arrays(shape))


@dataclasses.dataclass
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    op: str
    line: str
    around: "Computation"
    module: dict[str, "Computation"]

    @property
    def operands(self) -> list["Instruction"]:
        """Return the operands, up to the closing bracket."""
        rest = self.line[INSTRUCTION.match(self.line).end() :]
        return [self.around[name] for name in _operands(rest) if name in self.around]

    def called(self, attribute: str) -> "Computation":
        """Return the computation that an attribute names; empty if there is none."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.line)
        return self.module.get(found[1], {}) if found else {}

    @property
    def target(self) -> str:
        """Return the library function of a custom call."""
        found = re.search(r'custom_call_target="([^"]+)"', self.line)
        return found[1] if found else ""


Computation = dict[str, Instruction]


def parse(text: str) -> Computation:
    """Return the entry of a module."""
    module: dict[str, Computation] = {}
    entry: Computation = {}
    current: Computation = {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header and not line.startswith(" "):
            current = module[header[2]] = {}
            entry = current if header[1] else entry
        elif match := INSTRUCTION.match(line.strip()):
            current[match[1]] = Instruction(*match.groups(), line.strip(), current, module)
    return entry


def _operands(rest: str) -> list[str]:
    """Return the operands' names, up to the closing bracket."""
    parts = [""]
    depth = 1
    for character in rest:
        depth += (character in "([{") - (character in ")]}")
        if not depth:
            break
        if depth == 1 and character == ",":
            parts.append("")
        else:
            parts[-1] += character
    return [part.split()[-1].lstrip("%") for part in parts if part.strip()]


@dataclasses.dataclass
class Kernel:
    """An instruction that runs on the device, and how often a step launches it."""

    instruction: Instruction
    launches: int
    flops: Counter[str]  # by kind of product
    moved: int  # bytes read and written by one launch

    @property
    def seconds(self) -> float:
        """Lower bound of one launch's time: its products or its bytes, whichever is slower."""
        compute = sum(flops / RATES[kind] for kind, flops in self.flops.items())
        return max(compute, self.moved / BANDWIDTH)


def kernels(text: str) -> list[Kernel]:
    """Return all kernels of a compiled module."""
    return [Kernel(of, launches, _flops(of), _moved(of)) for of, launches in _walk(parse(text), 1)]


def _walk(computation: Computation, times: int) -> Iterator[tuple[Instruction, int]]:
    for instruction in computation.values():
        if instruction.op in FREE or instruction.op.endswith(("-done", "-update")):
            continue
        if instruction.op == "while":
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', instruction.line)
            repeats = times * (int(trips[1]) if trips else 1)
            for part in ("body", "condition"):
                yield from _walk(instruction.called(part), repeats)
        elif instruction.op == "call":
            yield from _walk(instruction.called("to_apply"), times)
        else:
            yield instruction, times


def _inside(instruction: Instruction) -> Iterator[Instruction]:
    """Yield the instruction, or those that it fuses, at any depth."""
    fused = instruction.called("calls")
    for inner in fused.values():
        yield from _inside(inner)
    if not fused:
        yield instruction


def _flops(instruction: Instruction) -> Counter[str]:
    """Return FLOPs, two for a multiply-add, by dtype of the product: bf16, tf32 or f32."""
    found: Counter[str] = Counter()
    for inner in _inside(instruction):
        if "$fmha" in inner.target:
            # Two products forward; five backward, which recomputes the scores.
            query, key = (arrays(operand.shape)[0][1] for operand in inner.operands[:2])
            batch, queries, heads, width = query
            products = 5 if "Backward" in inner.target else 2
            found["bf16"] += products * 2 * batch * heads * queries * key[1] * width
        if inner.op != "dot" and not re.search("gemm|matmul", inner.target):
            continue
        kind, left = arrays(inner.operands[0].shape)[0]
        contracted = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)', inner.line)[1]
        axes = contracted.replace('"', "").split(",")
        depth = math.prod(left[int(axis)] for axis in axes if axis)
        exact = re.search(r"operand_precision[^a-zA-Z]*(?:\{|\[)\W*highest", inner.line, re.I)
        kind = kind if kind != "f32" or exact else "tf32"
        found[kind] += 2 * math.prod(arrays(inner.shape)[0][1]) * depth
    return found


def _moved(instruction: Instruction) -> int:
    """Return the bytes that a kernel moves: slices with their own size, in-place updates once."""
    fused = instruction.called("calls")
    while fused and len(inner := [i for i in fused.values() if i.op not in FREE]) == 1:
        if inner[0].op != "fusion":  # else: a wrapper of one fusion
            break
        fused = inner[0].called("calls")
    if fused:
        read = sum(_read(i) for i in fused.values() if i.op == "parameter")
        root = next(i for i in fused.values() if i.line.startswith("ROOT"))
        return read + _written(root)
    if instruction.op == "dynamic-slice":
        return 2 * size(instruction.shape)
    if instruction.op == "dynamic-update-slice":
        return 2 * size(instruction.operands[1].shape)
    return sum(size(operand.shape) for operand in instruction.operands) + _result(instruction)


def _read(parameter: Instruction) -> int:
    """Return the bytes that a fusion reads of a parameter."""
    names = {parameter.name}
    total = 0
    for user in parameter.around.values():  # in the order of their definition
        operands = [operand.name for operand in user.operands]
        if not names.intersection(operands):
            continue
        first = operands[0] in names
        if user.op == "bitcast":
            names.add(user.name)
        elif first and user.op in ("dynamic-slice", "slice", "gather"):
            total += size(user.shape)
        elif not first or user.op != "dynamic-update-slice":
            return size(parameter.shape)
    return min(total, size(parameter.shape))


def _written(root: Instruction) -> int:
    """Return the bytes that a fusion writes."""
    if root.op == "tuple":
        return sum(map(_written, root.operands))
    if root.op == "bitcast":
        return _written(root.operands[0])
    if root.op == "dynamic-update-slice":
        return size(root.operands[1].shape)
    return _result(root)


def _result(instruction: Instruction) -> int:
    """Return the size of a result without cuBLAS's workspace, its last array.

    XLA reserves up to 32 MB for every product. The program does not say what is written there.
    """
    if instruction.target.startswith("__cublas"):
        return size(re.sub(r", s8\[\d+\]\S*\)$", "", instruction.shape))
    return size(instruction.shape)


def describe(what: str, compiled: Any, least_seconds: float) -> dict[str, Any]:
    """Summarize a compiled step; `least_seconds` is the time of its FLOPs at the best rate."""
    found = kernels(compiled.as_text())
    products: Counter[str] = Counter()
    for kernel in found:
        products.update({kind: of * kernel.launches for kind, of in kernel.flops.items()})
    moved = sum(kernel.moved * kernel.launches for kernel in found)
    roofline = sum(kernel.seconds * kernel.launches for kernel in found)
    return {
        "what": what,
        "kernels": len(found),
        "launches": sum(kernel.launches for kernel in found),
        "teraflops": {kind: round(count / 1e12, 3) for kind, count in products.items()},
        "gigabytes": round(moved / 1e9, 2),
        "peak_gibibytes": round(peak_bytes(compiled) / 2**30, 2),
        "compute_ms": round(1e3 * sum(n / RATES[kind] for kind, n in products.items()), 2),
        "memory_ms": round(1e3 * moved / BANDWIDTH, 2),
        "roofline_ms": round(1e3 * roofline, 2),
        "mfu_ceiling": round(least_seconds / roofline, 3),
    }
