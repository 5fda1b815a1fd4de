"""The format of a run directory: its number, and the upgrades from one number to the next.

config.json and sweep.json carry the number. A revision that changes what they hold raises FORMAT by
one and adds an upgrade to UPGRADES. Nothing else in the package knows earlier forms of these files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sentiment_jax.errors import InputError

FORMAT = 2
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # n -> from n to n + 1


def upgrade(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's content in today's format, without the number; InputError if it can't be."""
    upgraded = dict(content)
    number = upgraded.pop("format", None)
    if isinstance(number, int) and number > FORMAT:
        raise InputError(f"{path.parent} has format {number}: it was made by a later revision")
    if number != FORMAT and number not in UPGRADES:
        remedy = "train again, or check out 30f9d98"
        raise InputError(f"{path.parent} was made before format 2: {remedy}")
    for before in range(number, FORMAT):
        upgraded = UPGRADES[before](upgraded)
    config = upgraded.get("config", upgraded)  # of a sweep's trials, or of a run
    config.get("data", {}).pop("fold", None)  # which every run of 0215bc7 has
    return upgraded
