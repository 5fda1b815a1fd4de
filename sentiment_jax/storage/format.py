"""The format of a directory: the number in config.json, sweep.json and comparison.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import read_json, write_json

FORMAT = 3


def write_numbered(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sealed file with the format's number."""
    write_json(path, {"format": FORMAT, **content})


def read_numbered(path: Path) -> dict[str, Any]:
    """Return what `write_numbered` wrote; InputError if it is damaged or has another format."""
    content = read_json(path)
    number = content.pop("format", None)
    if number == FORMAT:
        return content
    problem = f"{path.parent} has format {number!r}, not {FORMAT}"
    if isinstance(number, int) and number > FORMAT:
        raise InputError(f"{problem}: a newer sentiment_jax made it")
    raise InputError(f"{problem}: train again, or check out 028a7c8, which reads format 2 or less")
