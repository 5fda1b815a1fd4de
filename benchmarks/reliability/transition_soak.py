"""SIGKILL a command before the n-th change that it makes to the file system.

    python -m benchmarks.reliability.transition_soak --kills=200 \
        --output=results/reliability/faults/transition_soak.md

An audit hook of the interpreter counts files opened for writing, renamed, deleted, and folders made
and removed, in a forked child, so that every n hits. The commands are in KINDS. Then the same
command runs again, without --fresh. It must end bitwise equal to the uninterrupted one, or, before
--fresh has taken the old run away, find that run whole.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability import comparing, soaks
from configs import lstm
from sentiment_jax.config.recipes import override
from sentiment_jax.modes.sweep import sweep
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import startup

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
SMALL = {"cpu_devices": 1, "epochs": 2, "log_every": 2, "checkpoint_every": 3}
SMALL |= {"linear_baseline": False, "data.limit": 60, "data.test_limit": 30}
SMALL |= {"data.max_length": 24, "data.length_buckets": ()}
SMALL |= {"model.embedding_size": 8, "model.hidden_size": 6, "model.dense_size": 5}
AXES = {"procedure": "grid", "optimizer": ("adam", "sgd"), "batch_size": (16,)}
AXES |= {"learning_rate": (3e-3,), "seeds": (0,)}
OLD = override(lstm.get_config("sample"), SMALL)
OLD_FOLDS = override(OLD, {"data.folds": 2})
NEW, NEW_FOLDS = (override(config, {"seed": 5}) for config in (OLD, OLD_FOLDS))
# What runs, over which earlier run; a sweep has no config of its own here.
EARLIER = {"old": OLD, "old_folds": OLD_FOLDS}
KINDS = {
    "training": (NEW, ""),
    "cross-validation": (NEW_FOLDS, ""),
    "sweep": (None, ""),
    "--fresh over a run": (NEW, "old"),
    "--fresh over a run with linked checkpoints": (NEW, "old"),
    "--fresh over a cross-validation": (NEW, "old_folds"),
    "--fresh cross-validation over another": (NEW_FOLDS, "old_folds"),
}
counting: dict[str, Any] = {"on": False, "done": 0, "last": None, "cache": ""}


def count(event: str, arguments: Any) -> None:
    """Count a change to the file system, and die before the last one."""
    writes = event == "open" and set(str(arguments[1])) & set("wax+")
    if not counting["on"] or not (event in CHANGES or writes):
        return
    if str(arguments[0]).startswith(("/dev/", counting["cache"])):
        return
    counting["done"] += 1
    if counting["done"] == counting["last"]:
        os.kill(os.getpid(), signal.SIGKILL)


def fork(work: Callable[[], Any], log: Path, last: int | None = None) -> tuple[int, int]:
    """Do some work in a child, killed before its `last` change; return status and changes."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        counting.update(on=True, done=0, last=last)
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        counting["on"] = False
        os.write(writer, str(counting["done"]).encode())
        os._exit(status)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    done = os.read(reader, 20)
    os.close(reader)
    return os.waitstatus_to_exitcode(status), int(done or 0)


class Soak:
    """A folder of finished runs to begin from and to compare with."""

    def __init__(self, root: Path, seed: int):
        self.root = root
        self.log = root / "log.txt"
        self.random = random.Random(seed)
        self.hit: collections.defaultdict[str, list[int]] = collections.defaultdict(list)
        self.changes: dict[str, int] = {}
        for name, config in EARLIER.items():
            self.must(self.command(config, root / name))
        for name, (config, before) in KINDS.items():
            workdir = self.prepare(name, root / name.replace("/", ""))
            self.changes[name] = self.must(self.command(config, workdir, fresh=bool(before)))

    def command(self, config: Any, workdir: Path, fresh: bool = False) -> Callable[[], Any]:
        """Return what trains, or sweeps if there is no config, in a child."""

        def work() -> None:
            startup.start(config or OLD)
            if config is None:
                sweep(OLD, workdir, AXES)
            else:
                train(config, workdir, fresh=fresh)

        return work

    def must(self, work: Callable[[], Any]) -> int:
        """Do some work undisturbed; return the number of its changes."""
        status, changes = fork(work, self.log)
        assert not status, self.log.read_text()[-2000:]
        return changes

    def prepare(self, name: str, workdir: Path) -> Path:
        """Put the earlier run, if any, where the new one goes."""
        if before := KINDS[name][1]:
            shutil.copytree(self.root / before, workdir)
        if "linked" in name:
            linked = workdir.with_name(f"{workdir.name}.linked")
            (workdir / "checkpoints").rename(linked)
            (workdir / "checkpoints").symlink_to(linked)
        return workdir

    def kill(self, number: int) -> str:
        """Kill one command two to four times and run it again; say what was wrong, if anything."""
        name = self.random.choice([*KINDS])
        config, before = KINDS[name]
        workdir = self.prepare(name, self.root / str(number))
        fresh = bool(before)
        for _ in range(self.random.choice((2, 3, 4))):
            early = fresh and self.random.random() < 0.7  # the old run's removal
            last = self.random.randint(1, 100 if early else self.changes[name])
            status, _ = fork(self.command(config, workdir, fresh=fresh), self.log, last)
            if status == -signal.SIGKILL:
                self.hit[name].append(last)
            elif status:
                return f"{name}, {last}: {self.log.read_text()[-2000:]}"
            fresh = fresh and self.random.random() < 0.5
        status, _ = fork(self.command(config, workdir), self.log)
        if status and before and "another config" in self.log.read_text():
            if wrong := self.compare(self.root / before, workdir):
                return f"{name}: the old run is there, but not whole: {wrong}"
            status, _ = fork(self.command(config, workdir, fresh=True), self.log)
        if status:
            return f"{name}: {self.log.read_text()[-2000:]}"
        if wrong := self.compare(self.root / name.replace("/", ""), workdir):
            return f"{name}: differs from the uninterrupted one: {wrong}"
        places = (workdir, workdir.with_name(f"{workdir.name}.linked"))  # checkpoints/ is a link
        left = [path for place in places for path in place.rglob("*")]
        if odd := [path for path in left if path.suffix in (".deleted", ".corrupt")]:
            return f"{name}: left {odd[0]}"
        for path in places:
            shutil.rmtree(path, ignore_errors=True)
        return ""

    def compare(self, expected: Path, found: Path) -> str:
        """Return the first difference, found in a child: JAX must not start in this process."""
        answer = self.root / "difference.txt"

        def work() -> None:
            startup.start(OLD)
            answer.write_text(comparing.difference_of_all(expected, found))

        answer.unlink(missing_ok=True)
        self.must(work)
        return answer.read_text()


def soak(given: argparse.Namespace, root: Path) -> tuple[str, list[str]]:
    """Kill commands of all kinds in turn; return the failure and the lines of the log."""
    startup.use_wide_vectors()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XDG_CACHE_HOME"] = counting["cache"] = str(root / "cache")
    sys.addaudithook(count)
    kills = Soak(root, given.seed)
    wrong = ""
    commands = 0
    while not wrong and sum(map(len, kills.hit.values())) < given.kills:
        wrong = kills.kill(commands)
        commands += 1
        print(f"{sum(map(len, kills.hit.values()))}/{given.kills}", end="\r", flush=True)
    rows = [
        (name, kills.changes[name], len(hit), len({*hit}))
        for name, hit in sorted(kills.hit.items())
    ]
    lines = [
        f"**Result of {commands} commands: {'FAILED: ' + wrong if wrong else 'all equal.'}**",
        "",
        *soaks.table(["command"], ["its changes", "kills", "before different changes"], rows),
    ]
    return wrong, lines


if __name__ == "__main__":
    flags = {"kills": 200, "seed": 0, "output": ""}
    sys.exit(soaks.run("Kills before a change to the file system", soak, flags))
