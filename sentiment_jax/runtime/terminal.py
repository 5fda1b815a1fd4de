"""What a person sees: progress bars with an ETA, and output that can't break a run."""

import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from sentiment_jax.runtime import processes

# Control characters (ESC begins a terminal's commands), characters that turn the direction of text,
# and halves of characters, which no file can hold.
UNSEEN = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
OURS = r"\A(\r|\x1b\[A)"  # how progress bars begin


def visible(text: str, but: str = r"\Z") -> str:
    """Escape characters that a terminal or page obeys, except where `but` matches."""
    return re.sub(f"(?!{but}){UNSEEN}", lambda found: ascii(found[0])[1:-1], text)


class Unbreakable:
    """A text stream whose reader may go away: unwritable text is dropped, nothing is raised."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.strict = False  # True for a command's result: all but the reader's end is raised

    def write(self, text: str) -> int:
        """Write text; messages at once, results when the buffer is full."""
        self._try(self._stream.write, visible(text, but=OURS))
        if not self.strict:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._try(self._stream.flush)

    def _try(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except (OSError, ValueError) as error:
            null = os.open(os.devnull, os.O_WRONLY)  # takes the buffered text as well
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if self.strict and not isinstance(error, BrokenPipeError):
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_output() -> None:
    """Make stdout and stderr survive a dead pipe, a closed descriptor, a full disk and ASCII."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        stream.reconfigure(errors="replace")
        setattr(sys, name, Unbreakable(stream))


def print_line(name: str, text: str) -> None:
    """Print a line of a run: a name, or none, in a column of its own, then the text."""
    print(f"{name:8} {text}", flush=True)


def warn(text: str) -> None:
    """Write one line to stderr, from the main process alone; progress bars make room for it."""
    from tqdm import tqdm

    if processes.is_main():
        tqdm.write(f"warning: {text}", file=sys.stderr)


warn_once = functools.cache(warn)  # for messages that a sweep's trials would repeat


def progress_bar(
    total: int | None, description: str, *, initial: int = 0, unit: str = "step"
) -> Any:
    """Return a progress bar with ETA on stderr; a line every half minute if that is no terminal.

    A terminal sees its clock go on whatever the program waits for: a compilation, a slow step. With
    a total of None, for work that can't be counted, there is that clock alone.
    """
    from tqdm import tqdm

    seen = sys.stderr.isatty()
    style: dict[str, Any] = {"delay": 30.0, "mininterval": 30.0, "maxinterval": 60.0, "ascii": True}
    if seen:
        style = {"dynamic_ncols": True, "mininterval": 0.2}
    if total is None:
        style["bar_format"] = "{desc} {elapsed}"
    style["disable"] = not processes.is_main() or (total is None and not seen)
    bar = tqdm(total=total, initial=initial, desc=description, unit=unit, leave=False, **style)
    if seen:
        threading.Thread(target=_keep_moving, args=(bar,), daemon=True).start()
    return bar


def _keep_moving(bar: Any) -> None:
    while not bar.disable:  # which close() sets
        time.sleep(1)
        with bar.get_lock():
            if not bar.disable:
                bar.refresh(nolock=True)
