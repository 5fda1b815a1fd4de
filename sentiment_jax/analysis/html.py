"""The templates of reports and explanations, and the format of each column of a table."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from sentiment_jax.runtime.terminal import visible
from sentiment_jax.sweeps.plan import format_rate

# The format of a numeric column, by its heading or the heading's last word. Others are text.
FORMATS = {
    **dict.fromkeys(("accuracy", "loss", "± sd", "p(predicted)", "p"), ".4f"),
    **dict.fromkeys(("low (95 %)", "high (95 %)", "majority baseline", "mcc", "auc"), ".4f"),
    **dict.fromkeys(("brier score", "precision", "recall", "f1", "share of texts"), ".4f"),
    **dict.fromkeys(("examples", "only the first correct", "only the second correct"), ",d"),
    **dict.fromkeys(("seed", "seeds", "epoch", "epochs", "batch size"), "d"),
    **dict.fromkeys(("training s", "epoch s"), ",.1f"),
    **{"learning rate": "rate", "p at least": "g", "parameters": ",d"},
    "count": ",.4g",  # a mean over the seeds
}
# Characters that Markdown would read as a tag, a link, code, or the end of a table cell.
MARKDOWN = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", **{c: f"\\{c}" for c in "\\`|[]"}}


def column_format(name: str) -> str:
    """Return the format of a column, empty for text."""
    return FORMATS.get(name) or FORMATS.get(name.split()[-1], "")


def cell(value: Any, name: str) -> str:
    """Return the value of a column as text, an en dash if it is None or NaN."""
    if value is None or value != value:
        return "–"
    if isinstance(value, str):
        return value
    if name == "p" and value < 0.0001:
        return "< 0.0001"
    style = column_format(name)
    return format_rate(value) if style == "rate" else format(value, style)


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    finalize=lambda value: type(value)(visible(value)) if isinstance(value, str) else value,
)
TEMPLATES.filters |= {"column_format": column_format, "cell": cell}
TEMPLATES.filters["markdown"] = lambda text: text.translate(str.maketrans(MARKDOWN))
TEMPLATES.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()


def render(template: str, **values: Any) -> str:
    """Return a template of this folder with its values filled in; HTML is escaped."""
    return TEMPLATES.get_template(template).render(values)
