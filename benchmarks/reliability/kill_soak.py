"""SIGKILL trainings, sweeps, comparisons at random moments; after each, run the command again.

    python -m benchmarks.reliability.kill_soak --kills=100 \
        --output=results/reliability/faults/kill_soak.md

The result must be bitwise equal to that of the uninterrupted command; the first difference ends the
soak with exit code 1. A third of the kills come at a uniformly random moment of the remaining time.
The others come within 100 ms of the appearance of a certain file: the stages of a checkpoint
(begun, complete, named, predecessor deleted), the end of a validation or a run, a sweep's files.
"""

import argparse
import collections
import math
import os
import random
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability import comparing, soaks
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.sweeps.directories import Comparison, open_directory

DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
FLAGS = {name: flags.split() for name, flags in DATA["flags"].items()}
SMALL, BERT = FLAGS["small"], FLAGS["bert"]
TRAINING, SWEEP, FOLDS = (
    [*SMALL, *FLAGS[name]] for name in ("training", "sweep", "cross-validation")
)
MOMENTS = DATA["moments"]
KINDS = {  # what is started, and the file below its directory that a targeted kill waits for
    "training": (TRAINING, MOMENTS["training"]),
    "bert": (BERT, MOMENTS["training"]),
    "sweep": (SWEEP, MOMENTS["sweep"]),
    "cross-validation": (FOLDS, MOMENTS["cross-validation"]),
    "comparison": (FLAGS["comparison"], MOMENTS["comparison"]),
}
KILLS_EACH = 6  # of one training run or sweep, which then runs to its end


def start(arguments: list[str], workdir: Path) -> subprocess.Popen:
    """Start or resume the command."""
    arguments = [argument.format(weights=workdir.with_name("weights")) for argument in arguments]
    command = [sys.executable, "-m", "sentiment_jax.main", f"--workdir={workdir}", *arguments]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**os.environ, "TQDM_DISABLE": "1"}, **piped)


def wait_for(
    process: subprocess.Popen, holds: Callable[[], bool], seconds: float = math.inf
) -> bool:
    """Wait for a condition; return False if the process or the time ended first."""
    end = time.monotonic() + seconds
    while not holds():
        if process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.0003)
    return True


def has_begun(workdir: Path, before: int) -> bool:
    """Return whether the start-up (imports, data) is over: env.json is newer than `before`."""
    files = [*workdir.glob("env.json"), *workdir.glob("**/lock")]
    return any(path.stat().st_mtime_ns > before for path in files)


def kill_somewhere(
    process: subprocess.Popen, workdir: Path, moments: dict[str, str], left: float, rng
) -> tuple[str, float]:
    """Kill the process, which has about `left` seconds left after its start-up.

    Returns:
      What was aimed at (empty if the process had ended before) and the seconds that it ran.
    """
    begun = time.time_ns()
    aim = rng.choice(["start-up", *["any moment"] * 6, *["a file"] * 13])
    # Files that exist for a millisecond are often missed: three aims in four are at the others.
    brief = rng.random() < 0.25
    moment = rng.choice([name for name, path in moments.items() if ("/." in f"/{path}") == brief])
    before = set(workdir.glob(moments[moment]))

    def appeared() -> bool:
        return bool(set(workdir.glob(moments[moment])) - before)

    clock = time.monotonic()
    if aim == "start-up":
        time.sleep(rng.uniform(0, 4))
    elif aim == "any moment":
        if wait_for(process, lambda: has_begun(workdir, begun)):
            clock = time.monotonic()
            time.sleep(rng.uniform(0, left))
    else:
        found = wait_for(process, lambda: has_begun(workdir, begun) or appeared())
        clock = time.monotonic()
        found = found and wait_for(process, appeared, left if brief else math.inf)
        aim = moment if found else f"{moment} (missed)"
        time.sleep(rng.choice([0, rng.uniform(0, 0.01), rng.uniform(0, 0.1)]) if found else 0)
    had = 0 if aim == "start-up" else time.monotonic() - clock
    ended = process.poll() is not None
    process.kill()
    return "" if ended else aim, had


def where_it_landed(workdir: Path, pid: int) -> str:
    """Return the phase that a killed training run was in, inferred from its files."""
    for phase, path in DATA["phases"].items():
        if any(workdir.glob(path.format(pid=pid))):
            return phase
    records = read_metrics(workdir / "metrics.jsonl")
    if not (workdir / "config.json").exists() or not records:
        return "before the first step"
    if (workdir / "curves.png").exists() or (workdir / "predictions.csv").exists():
        return "at the run's end"
    if records[-1]["split"] == "val":
        return "after a validation"
    train = read_json(workdir / "env.json")["data"]["reviews"]["train"]
    epoch = math.ceil(train / read_json(workdir / "config.json")["batch_size"])
    return "between two steps" if records[-1]["step"] % epoch else "in a validation"


def phase(directory: Path, pid: int) -> str:
    """Return the phase that a killed training run, sweep or comparison was in."""
    if (directory / "comparison.json").exists():
        begun = [path.parent for path in directory.glob("*/lock")]
        open_runs = [run for run in begun if not (run / "result.json").exists()]
        names = [f"{run.name}: {phase(run, pid)}" for run in open_runs]
        return names[0] if names else "no recipe is trained"
    folds = [path.parent for path in directory.glob("folds/*/lock")]
    if unfinished := [fold for fold in folds if not (fold / "result.json").exists()]:
        return f"fold: {where_it_landed(unfinished[0], pid)}"
    if folds and not (directory / "predictions-val.csv").exists():
        return "between two folds"
    if not (directory / "sweep.json").exists():
        return where_it_landed(directory, pid) if directory.exists() else "before the first file"
    runs = [path.parent for path in directory.glob("**/lock")]
    ended = [run for run in runs if any((run / f).exists() for f in ("result.json", "failed.json"))]
    if not set(runs) - set(ended):
        return "sweep: between two runs"
    return f"sweep: {where_it_landed((set(runs) - set(ended)).pop(), pid)}"


def finished_runs(directory: Path) -> dict[Path, tuple[bytes, int]]:
    """Return the files of the finished runs of a sweep or comparison, without their locks."""
    runs = [path.parent for path in directory.glob("**/result.json")]
    return {
        path: file
        for run in runs
        for path, file in comparing.contents(run).items()
        if path.name not in ("lock", "log.txt")
        and not {"folds", "checkpoints"} <= {*path.parts}  # which a fold keeps only for a while
    }


def measure(name: str, workdir: Path) -> float:
    """Run a command undisturbed; return its seconds after the start-up."""
    for _ in range(2):  # the second finds compiled programs, like all later ones
        shutil.rmtree(workdir, ignore_errors=True)
        begun = time.time_ns()
        process = start(KINDS[name][0], workdir)
        wait_for(process, lambda begun=begun: has_begun(workdir, begun))
        clock = time.monotonic()
        output, _ = process.communicate()
        assert process.returncode == 0, output
    return time.monotonic() - clock


def attack(
    name: str, workdir: Path, seconds: float, kills: int, rng: random.Random
) -> tuple[list[tuple[str, str]], str]:
    """Kill a command, start it again and so on; return (aim, phase) of each kill, and a failure."""
    arguments, moments = KINDS[name]
    landed: list[tuple[str, str]] = []
    left = seconds
    kept: dict = {}
    aim = "first"
    while aim:
        process = start(arguments, workdir)
        aim = ""
        if len(landed) < kills:
            aim, had = kill_somewhere(process, workdir, moments, left, rng)
        output, _ = process.communicate()
        now = finished_runs(workdir)
        changed = [path for path, file in kept.items() if now.get(path) != file]
        compared = open_directory(workdir)
        if isinstance(compared, Comparison) and compared.chosen:  # which is opened for its test
            changed = [path for path in changed if path.parent != compared.best_run()]
        if changed:
            return landed, f"a finished run's {changed[0]} was touched"
        kept = now
        if aim:
            left = max(left - had, seconds / 4)
            landed.append((aim, phase(workdir, process.pid)))
    if process.returncode:
        return landed, f"exit code {process.returncode}: {output}"
    if left_over := list(workdir.rglob("*.corrupt")):
        return landed, f"{left_over[0]} was set aside"
    wrong = comparing.difference_of_all(workdir.with_name(name), workdir)
    return landed, wrong and f"{workdir} differs from the uninterrupted {name}: {wrong}"


def soak(given: argparse.Namespace, root: Path) -> tuple[str, list[str]]:
    """Attack commands of all kinds in turn; return the failure and the lines of the log."""
    rng = random.Random(given.seed)
    kinds = given.kinds.split(",")
    if "comparison" in kinds:
        start(BERT, root / "weights").communicate()
    durations = {name: measure(name, root / name) for name in kinds}
    landed: list[tuple[str, str]] = []
    ended = 0
    wrong = ""
    while len(landed) < given.kills and not wrong:
        name = kinds[ended % len(kinds)]
        workdir = root / f"{name}-{ended}"
        count = min(KILLS_EACH, given.kills - len(landed))
        found, wrong = attack(name, workdir, durations[name], count, rng)
        landed += found
        ended += not wrong
        print(f"{len(landed):>4}/{given.kills}  {name}: {found} {wrong}", flush=True)
        if not wrong:
            shutil.rmtree(workdir)
    lines = [
        f"{len(landed)} SIGKILLs of {ended} commands ({given.kinds}) on the embedded sample, "
        "each followed by the same command. Compared with the uninterrupted ones: parameters and "
        "optimizer state of all checkpoints bitwise, every line of metrics.jsonl once and equal, "
        "result.json, predictions.csv, the table of a sweep or comparison, all folds; files of "
        "finished runs untouched; no checkpoint set aside.",
        *("", f"**Result: {'FAILED: ' + wrong if wrong else 'all equal.'}**"),
    ]
    for title, column in (("where the kill landed", 1), ("what it was aimed at", 0)):
        counts = collections.Counter(kill[column] for kill in landed)
        lines += ["", *soaks.table([title], ["kills"], counts.most_common())]
    return wrong, lines


if __name__ == "__main__":
    flags = {"kills": 100, "seed": 0, "kinds": ",".join(KINDS), "output": ""}
    sys.exit(soaks.run("Kill soak", soak, flags))
