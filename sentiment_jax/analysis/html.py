"""A report's blocks and the templates that set them, as Markdown or as one self-contained page."""

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

# The format of a column of numbers by its heading, or by the heading's last word; the others are
# text.
FORMATS = {
    **dict.fromkeys(("accuracy", "loss", "± sd", "p(positive)"), ".4f"),
    **dict.fromkeys(("seed", "seeds", "epoch", "epochs", "batch size"), "d"),
    **dict.fromkeys(("words", "tokens read"), "d"),
    **{"learning rate": "g", "parameters": ",d", "evaluation examples/s": ",.0f"},
    **dict.fromkeys(("training s", "epoch s"), ",.1f"),
}
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A piece of a report; the templates know it by its kind."""

    text: str

    @property
    def kind(self) -> str:
        """The class in lower case."""
        return type(self).__name__.lower()


@dataclasses.dataclass(frozen=True)
class Heading(Block):
    """A heading; level 2 or 3."""

    level: int = 2


class Text(Block):
    """A paragraph."""


class Command(Block):
    """A command line, to be copied."""


@dataclasses.dataclass(frozen=True)
class Picture(Block):
    """What a PNG shows, and the PNG."""

    path: Path

    def base64(self) -> str:
        """Return the file's content as a data URL holds it."""
        return base64.b64encode(self.path.read_bytes()).decode()


@dataclasses.dataclass(frozen=True)
class Table(Block):
    """The name of a CSV file, and the pandas frame that it holds unrounded."""

    frame: Any

    def formats(self) -> list[str]:
        """Return each column's format; empty for text."""
        names = self.frame.columns
        return [FORMATS.get(name) or FORMATS.get(name.split()[-1], "") for name in names]

    def cells(self) -> list[list[str]]:
        """Return the rows as text, an en dash where there is no value."""
        return [
            [
                "–" if value is None else value if isinstance(value, str) else format(value, spec)
                for value, spec in zip(row, self.formats(), strict=True)
            ]
            for row in self.frame.itertuples(index=False, name=None)
        ]


@dataclasses.dataclass(frozen=True)
class Fold(Block):
    """A title, and the blocks that a reader of the page may open; the Markdown omits them."""

    blocks: Sequence[Block]


def render(template: str, **values: Any) -> str:
    """Return a template of this folder with its values set; HTML is escaped."""
    return TEMPLATES.get_template(template).render(values)
