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
    soak: Callable[[argparse.Namespace, Path], tuple[str, list[str]]],
    flags: dict[str, int | str],
) -> int:
    """Run a soak, print its log in Markdown and write it to `output`; return the exit code.

    The soak is given the flags, which have these defaults, and an empty folder. It returns its
    failure, "" if none, and the log's lines. The folder of a failed soak is kept.
    """
    script = sys.modules["__main__"]
    parser = argparse.ArgumentParser(description=script.__doc__.splitlines()[0])
    for name, default in flags.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
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
        Path(given.output).parent.mkdir(parents=True, exist_ok=True)
        Path(given.output).write_text(log)
    if not failure:
        shutil.rmtree(folder, ignore_errors=True)
    return int(bool(failure))


def table(names: list[str], numbers: list[str], rows: Iterable[tuple]) -> list[str]:
    """Return the lines of a table in Markdown, columns of names first."""
    lines = [f"| {' | '.join([*names, *numbers])} |"]
    lines.append(f"|{' --- |' * len(names)}{' ---: |' * len(numbers)}")
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]
