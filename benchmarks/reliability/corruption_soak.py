"""Truncate, delete or flip a bit of random files of runs, sweeps and cross-validations.

    python -m benchmarks.reliability.corruption_soak \
        --output=results/reliability/faults/corruption_soak.md

After each fault a command that a user would run next runs in this process. The fault must be
detected (one line, no traceback) or harmless: output and files exactly as without it. Otherwise the
exit code is 1.
"""

import argparse
import collections
import contextlib
import io
import os
import random
import shutil
import sys
import traceback
from pathlib import Path

from absl import flags

from benchmarks.reliability import comparing, kill_soak, soaks
from sentiment_jax import main
from sentiment_jax.storage.checkpoints import MANIFEST

UNREAD = ("lock", "log.txt", "curves.png")  # no command reads them
COMPLETE = {"run": "checkpoints/*/MANIFEST.json", "sweep": "*/checkpoints/*/MANIFEST.json"}
FAULTS = ("truncated", "deleted", "bit flipped")
TEXTS = ("--text=a wonderful film, funny and moving", "--text=a dull and predictable mess")
SMALL = [*kill_soak.SMALL, "--config.data.limit=120", "--config.checkpoint_every=3"]
TRAINING = [*SMALL, "--config.epochs=4"]
SWEEP = [*kill_soak.SWEEP, "--config.data.limit=120"]
FOLDS = [*SMALL, "--config.epochs=2", "--config.data.folds=3"]
# The commands that a user runs next with each directory.
PREDICT = {"predict": ["--mode=predict", *TEXTS]}
EVALUATE, REPORT = ({mode: [f"--mode={mode}"]} for mode in ("evaluate", "report"))
COMMANDS = {
    "run": {"train": TRAINING, **EVALUATE, **PREDICT, **REPORT},
    "half a run": {"train": TRAINING, **PREDICT},
    "sweep": {"sweep": SWEEP, **REPORT},
    "half a sweep": {"sweep": SWEEP},
    "cross-validation": {"train": FOLDS, **EVALUATE, **REPORT},
    "half a cross-validation": {"train": FOLDS},
}


def call(workdir: Path, arguments: list[str]) -> tuple[int, str, str]:
    """Run a command line in this process; return exit code, stdout and stderr."""
    for name in list(flags.FLAGS):
        if name.startswith("config."):  # the last call's config defined them
            delattr(flags.FLAGS, name)
        else:
            flags.FLAGS[name].unparse()
    flags.FLAGS.unparse_flags()
    sys.argv = ["main", f"--workdir={workdir}", *arguments]
    if "--mode=report" in arguments:
        sys.argv.append(f"--output={workdir.parent / 'report'}")
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main.main()
        except BaseException:
            traceback.print_exc()
            code = -1
    return code, output.getvalue(), errors.getvalue()


def make(root: Path) -> None:
    """Make the directories to damage: finished ones and interrupted ones."""
    whole = (("run", TRAINING, 0), ("sweep", SWEEP, 2), ("cross-validation", FOLDS, 2))
    for name, arguments, files in whole:
        code, _, errors = call(root / name, arguments)
        assert code == 0, errors
        half = root / f"half a {name}"
        process = kill_soak.start(arguments, half)
        assert kill_soak.wait_for(
            process,
            lambda half=half, files=files, name=name: (
                len([*half.glob("*/result.json"), *half.glob("folds/*/result.json")]) >= files
                and (name == "cross-validation" or len([*half.glob(COMPLETE[name])]) >= 3)
            ),
        )
        process.kill()
        process.communicate()
        assert not list(half.glob("result.json")) and not list(half.glob("final/*/result.json"))


def kinds_of(directory: Path) -> dict[str, list[Path]]:
    """Return file kind -> relative paths below a directory, without files that nothing reads."""
    kinds = collections.defaultdict(list)
    for path in sorted(directory.rglob("*")):
        name = path.name
        if name.startswith(".") or name in UNREAD or not path.is_file():
            continue
        path = path.relative_to(directory)
        kind = "checkpoint" if "checkpoints" in path.parts and name != MANIFEST else name
        kinds[f"{kind} of a fold" if "folds" in path.parts else kind].append(path)
    return kinds


def damage(path: Path, fault: str, rng: random.Random) -> str:
    """Damage a file; return a description of the damage."""
    raw = bytearray(path.read_bytes())
    if fault == "deleted" or not raw:
        path.unlink()
        return "deleted"
    if fault == "truncated":
        length = rng.randrange(len(raw))
        path.write_bytes(raw[:length])
        return f"truncated to {length} of {len(raw)} bytes"
    place = rng.randrange(len(raw) * 8)
    raw[place // 8] ^= 1 << place % 8
    path.write_bytes(raw)
    return f"bit {place % 8} of byte {place // 8} flipped"


def what_differs(root: Path, base: str, command: str, work: Path, outputs: tuple[str, str]) -> str:
    """Describe how a command's effect differs from that without a fault; empty if it does not."""
    if command == "report":
        folders = (root / f"report of {base}", root / "report")
        expected, found = ({p.name: p.read_bytes() for p in of.glob("*")} for of in folders)
        return ", ".join(n for n in expected if expected[n] != found.get(n))
    if command in ("evaluate", "predict"):
        return "" if outputs[0] == outputs[1] else f"printed {outputs[1]!r}, not {outputs[0]!r}"
    whole = base.removeprefix("half a ")
    if command == "train" and base == whole and "is finished; nothing to do" in outputs[1]:
        return ""

    def is_from_before(run: Path) -> bool:
        """Whether a fold or trial had ended before the fault."""
        pair = [directory / run / "result.json" for directory in (root / base, work)]
        return all(p.exists() for p in pair) and len({p.stat().st_mtime_ns for p in pair}) == 1

    return comparing.difference_of_all(root / whole, work, is_from_before)


def classify(command: str, code: int, errors: str, difference: str) -> str:
    """Return `detected`, `harmless` or a description of the failure."""
    lines = [line for line in errors.splitlines() if line.startswith(("error: ", "warning: "))]
    lines = [line for line in lines if "no better than guessing" not in line]
    if code == -1 or "Traceback" in errors:
        return f"traceback: {errors}"
    if code:
        return "detected" if code in (1, 2) and len(lines) == 1 else f"exit {code}: {errors!r}"
    if difference and not (lines and command == "report"):  # a report warns and goes on
        return f"silently wrong: {difference} (stderr: {errors!r})"
    return "detected" if lines else "harmless"


def expect(root: Path) -> dict[tuple[str, str], str]:
    """Return what each command that changes nothing prints; keep what a report writes."""
    expected = {}
    for base, commands in COMMANDS.items():
        for name in commands.keys() & {"evaluate", "predict", "report"}:
            work = shutil.copytree(root / base, root / "work")
            code, expected[base, name], errors = call(work, commands[name])
            assert code == 0 and not errors, errors
            shutil.rmtree(work)
            if name == "report":
                (root / "report").rename(root / f"report of {base}")
    return expected


def soak(given: argparse.Namespace, root: Path) -> tuple[str, list[str]]:
    """Damage files of all kinds in turn; return the failures and the lines of the log."""
    rng = random.Random(given.seed)
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    make(root)
    expected = expect(root)
    targets = [(base, kind) for base in COMMANDS for kind in kinds_of(root / base)]
    outcomes = []  # (kind, fault, outcome)
    used: collections.Counter[str] = collections.Counter()
    failures = []
    for number in range(given.faults):
        base, kind = targets[number % len(targets)]
        fault = FAULTS[number // len(targets) % 3]
        command = rng.choice(list(COMMANDS[base]))
        work = shutil.copytree(root / base, root / "work")
        file = rng.choice(kinds_of(work)[kind])
        done = damage(work / file, fault, rng)
        code, output, errors = call(work, COMMANDS[base][command])
        pair = (expected.get((base, command), ""), output)
        try:
            difference = "" if code else what_differs(root, base, command, work, pair)
        except Exception as error:
            difference = f"{type(error).__name__}: {error}"
        outcome = classify(command, code, errors, difference)
        what = f"{base}/{file} {done}, then {command}: {outcome}"
        print(f"{number + 1:>4}/{given.faults}  {what}", flush=True)
        if outcome not in ("detected", "harmless"):
            failures.append(what)
            outcome = "FAILED"
        outcomes.append((kind, fault, outcome))
        used[command] += 1
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(root / "report", ignore_errors=True)
    result = f"{len(failures)} FAILED" if failures else "every fault was detected or harmless"
    counts = collections.Counter(outcomes)
    rows = [
        (*row, *(counts[*row, outcome] for outcome in ("detected", "harmless", "FAILED")))
        for row in sorted({row[:2] for row in outcomes})
    ]
    lines = [
        f"{len(outcomes)} random faults in the files of runs, sweeps and cross-validations "
        "(finished and interrupted), each followed by one command. Detected: a one-line error or "
        "warning. Harmless: output and files exactly as without the fault.",
        *("", f"**Result: {result}.**", ""),
        *soaks.table(["file", "fault"], ["detected", "harmless", "failed"], rows),
        *("", "Commands: " + ", ".join(f"{name} {n}" for name, n in used.most_common()) + "."),
        *(f"\nFAILED: {failure}" for failure in failures),
    ]
    return "; ".join(failures), lines


if __name__ == "__main__":
    sys.exit(soaks.run("Corruption soak", soak, {"faults": 200, "seed": 0, "output": ""}))
