"""Progress bars with an ETA."""

import sys
from typing import Any

from tqdm import tqdm

from sentiment_jax.runtime import processes


def progress_bar(total: int, description: str, *, initial: int = 0, unit: str = "step") -> tqdm:
    """Return a progress bar with ETA on stderr; a line every half minute if that is no terminal."""
    style: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.2}
    if not sys.stderr.isatty():
        style = {"delay": 30.0, "mininterval": 30.0, "maxinterval": 60.0, "ascii": True}
    shown = {"total": total, "initial": initial, "desc": description, "unit": unit}
    return tqdm(**shown, **style, leave=False, disable=not processes.is_main())
