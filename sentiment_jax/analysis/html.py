"""A report's blocks, as Markdown and as HTML in one file: nothing in it lies elsewhere."""

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
  max-width: 70rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d0d7de; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0 1rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d8dee4; text-align: right;
  white-space: nowrap; vertical-align: top; }
th { background: #f6f8fa; white-space: normal; vertical-align: bottom; }
.name { text-align: left; }
.long { text-align: left; white-space: normal; min-width: 22rem; }
figure { margin: .6rem 0 1.4rem; }
figcaption { color: #57606a; }
img { max-width: 100%; height: auto; }
pre { background: #f6f8fa; padding: .5rem .7rem; margin: .3rem 0 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: 13px; }
summary { cursor: pointer; font-weight: 600; margin: .6rem 0; }
.remark { color: #57606a; }
.words { font-size: 1.05rem; line-height: 2; border: 1px solid #d0d7de; padding: .6rem .9rem; }
.words span { padding: .12rem .1rem; border-radius: .2rem; }
.unread { color: #8c959f; }
"""
LONG = 60  # characters; a longer cell is set as running text


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading; level 2 or 3."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line, to be copied."""

    text: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    path: Path
    description: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of values; `columns` maps a heading to the format of what stands under it.

    `name` is that of its CSV file, which holds the values unrounded.
    """

    name: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Any]]

    def cells(self) -> list[list[str]]:
        """The rows as text, an en dash where there is nothing."""
        return [
            [
                "–" if value is None else format(value, spec)
                for value, spec in zip(row, self.columns.values(), strict=True)
            ]
            for row in self.rows
        ]


@dataclasses.dataclass(frozen=True)
class Fold:
    """Blocks that a reader of the page may open; the Markdown is without."""

    title: str
    blocks: Sequence[Any]


Block = Heading | Text | Command | Picture | Table | Fold


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The report as Markdown, its pictures beside it."""
    return f"# {title}\n\n" + "".join(_markdown(block) for block in blocks)


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}\n\n"
        case Text(text):
            return f"{text}\n\n"
        case Command(text):
            return f"```bash\n{text}\n```\n\n"
        case Picture(path, description):
            return f"![{description}]({path.name})\n\n*{description}.*\n\n"
        case Fold():
            return ""
        case Table():
            rule = ["---:" if spec else "---" for spec in block.columns.values()]
            lines = [list(block.columns), rule, *block.cells()]
            escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
            return "".join(f"| {' | '.join(line)} |\n" for line in escaped) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The report as one page, its pictures inside."""
    return document(title, "".join(_html(block) for block in blocks))


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>\n"
        case Text(text):
            return paragraph(text)
        case Command(text):
            return f"<pre>{html.escape(text)}</pre>\n"
        case Picture(path, description):
            data = base64.b64encode(path.read_bytes()).decode()
            what = html.escape(description)
            image = f'<img alt="{what}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{what}</figcaption></figure>\n"
        case Fold(title, blocks):
            inner = "".join(_html(block) for block in blocks)
            return f"<details><summary>{html.escape(title)}</summary>\n{inner}</details>\n"
        case Table():
            kinds = ["number" if spec else "name" for spec in block.columns.values()]
            head = "".join(map(_cell, block.columns, kinds, ["th"] * len(kinds)))
            rows = "".join(f"<tr>{''.join(map(_cell, row, kinds))}</tr>\n" for row in block.cells())
            return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n'


def _cell(text: str, kind: str, tag: str = "td") -> str:
    kind = "long" if len(text) > LONG else kind
    return f'<{tag} class="{kind}">{html.escape(text)}</{tag}>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text in HTML."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{html.escape(text)}</p>\n"


def document(title: str, body: str) -> str:
    """A whole page around HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}</body>\n</html>\n"
    )
