"""Progress bars with an ETA."""

import sys

from tqdm import tqdm

from sentiment_jax.runtime import processes


def progress_bar(total: int, description: str, *, initial: int = 0, unit: str = "step") -> tqdm:
    """Return a progress bar with ETA on stderr; a line every half minute if that is no terminal."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        dynamic_ncols=terminal,
        leave=False,
        delay=0.0 if terminal else 30.0,
        mininterval=0.2 if terminal else 30.0,
        maxinterval=10.0 if terminal else 60.0,
        file=sys.stderr,
        ascii=None if terminal else True,
        disable=not processes.is_main(),
    )
