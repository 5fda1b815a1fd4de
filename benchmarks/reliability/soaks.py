"""What the soaks share: their command line and their log."""

import argparse
import datetime
import importlib.metadata
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sentiment_jax.storage.run_directory import describe_environment


def run(
    title: str,
    count: tuple[str, int],
    soak: Callable[[argparse.Namespace, Path], tuple[str, list[str]]],
    **flags: str,
) -> int:
    """Run a soak, print and write its log in Markdown; return the exit code.

    `count` is the flag that says how long the soak is, and its default, as in `flags`. The soak is
    given the flags and an empty folder, and returns its failure, "" if none, and the log's lines.
    The folder of a failed soak is kept.
    """
    script = sys.modules["__main__"]
    parser = argparse.ArgumentParser(description=script.__doc__.splitlines()[0])
    for name, default in dict([count], seed=0, **flags).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--output", type=Path, help="file of the log; default: stdout only")
    given = parser.parse_args()
    clock = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak_"))
    failure, lines = soak(given, folder)
    command = [f"--{name}={value}" for name, value in vars(given).items() if name != "output"]
    place = f"{describe_environment()['machine']}; Python {platform.python_version()}"
    place += f", jax {importlib.metadata.version('jax')}, {time.monotonic() - clock:.0f} s."
    head = f"`{' '.join(['python -m', script.__spec__.name, *command])}`, {datetime.date.today()}"
    log = "\n".join([f"# {title}", "", f"{head}, {place}", "", *lines]) + "\n"
    print(log)
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(log)
    if not failure:
        shutil.rmtree(folder, ignore_errors=True)
    return int(bool(failure))


def table(names: list[str], numbers: list[str], rows: Iterable[tuple]) -> list[str]:
    """Return the lines of a table in Markdown, columns of names first."""
    lines = [f"| {' | '.join([*names, *numbers])} |"]
    lines.append(f"|{' --- |' * len(names)}{' ---: |' * len(numbers)}")
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]
