"""Measure how long a command prints nothing, on a terminal or in a pipe.

Everything after `--` is the command. Its output goes to --log, each piece with its time.

    python -m benchmarks.reliability.silence [--pipe] -- python -m sentiment_jax.main ...
"""

import argparse
import os
import pty
import select
import subprocess
import termios
import time
from pathlib import Path


def watch(command: list[str], *, pipe: bool = False, **options) -> list[tuple[float, str]]:
    """Run a command; return the time and text of each piece of its output.

    Times are seconds since the start. The last piece is empty and has the time of the end.
    """
    if pipe:
        ours, theirs = os.pipe()
    else:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))  # progress bars need a width
    pieces = []
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    while True:
        select.select([ours], [], [])
        try:
            raw = os.read(ours, 1 << 16)
        except OSError:  # EIO: the other side of the terminal was closed
            raw = b""
        pieces.append((time.monotonic() - start, raw.decode(errors="replace")))
        if not raw:
            break
    os.close(ours)
    if process.wait() not in (0, 143):
        raise SystemExit(f"{command} failed: {pieces[-2:]}")
    return pieces


def gaps(pieces: list[tuple[float, str]]) -> list[tuple[float, float, str]]:
    """Return the silences, longest first: seconds, start, and the output before."""
    times = [0.0, *(when for when, _ in pieces)]
    texts = ["(nothing yet)", *(text for _, text in pieces)]
    silences = zip(times, times[1:], texts, strict=False)
    return sorted(((end - begin, begin, text) for begin, end, text in silences), reverse=True)


def main() -> None:
    """Watch the command; print the time of its first output and its longest silences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pipe", action="store_true", help="a pipe instead of a terminal")
    parser.add_argument("--log", type=Path, help="file for the command's output and its times")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    pieces = watch(given.command, pipe=given.pipe)
    if given.log:
        given.log.write_text("".join(f"{when:8.2f} {text!r}\n" for when, text in pieces))
    print(f"first output after {pieces[0][0]:.1f} s, end after {pieces[-1][0]:.1f} s")
    for seconds, begin, text in gaps(pieces)[:5]:
        shown = " ".join(text.split())[-70:]
        print(f"{seconds:6.1f} s of silence from {begin:.1f} s on, after: {shown}")


if __name__ == "__main__":
    main()
