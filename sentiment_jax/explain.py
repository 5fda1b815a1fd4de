"""How an explained verdict looks: words coloured in the terminal and in an HTML page."""

import html
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.analysis.html import document, paragraph
from sentiment_jax.data.reviews import is_blank
from sentiment_jax.errors import InputError
from sentiment_jax.predict import BLANK, predict, verdict
from sentiment_jax.storage.files import write_atomically
from sentiment_jax.training.experiment import TrainedModel

STRENGTHS = (0.15, 0.4, 0.75)  # of the strongest word: the steps of the terminal's colours
TERMINAL = {1: (18, 20, 27), -1: (52, 88, 160)}  # backgrounds of the 256-colour palette


def _pieces(
    explanation: integrated_gradients.Explanation,
) -> list[tuple[str, integrated_gradients.Word | None, float]]:
    """The text in order: (characters, the word they are or None, strength from -1 to 1)."""
    strongest = max((abs(word.attribution) for word in explanation.words), default=0) or 1
    pieces: list[tuple[str, integrated_gradients.Word | None, float]] = []
    place = 0
    for word in explanation.words:
        if word.start > place:
            pieces.append((explanation.text[place : word.start], None, 0.0))
        characters = explanation.text[word.start : word.end]
        pieces.append((characters, word, word.attribution / strongest))
        place = max(place, word.end)
    return [*pieces, (explanation.text[place:], None, 0.0)]


def _unread(characters: str) -> str:
    """What the model did not read, shortened."""
    return characters if len(characters) <= 100 else f"{characters[:48]} … {characters[-48:]}"


def to_terminal(explanation: integrated_gradients.Explanation, *, colour: bool) -> str:
    """The text, coloured word by word; what the model did not read is dim (or in brackets)."""
    parts = []
    for characters, word, strength in _pieces(explanation):
        if word is None:
            if not characters.strip():
                parts.append(characters)
            elif colour:
                parts.append(f"\x1b[2m{_unread(characters)}\x1b[0m")
            else:
                parts.append(f" [not read: {_unread(characters).strip()}] ")
            continue
        level = sum(abs(strength) >= step for step in STRENGTHS)
        if colour and level:
            background = TERMINAL[1 if strength > 0 else -1][level - 1]
            parts.append(f"\x1b[38;5;231;48;5;{background}m{characters}\x1b[0m")
        else:
            parts.append(characters)
    return "".join(parts).strip()


def to_html(explanation: integrated_gradients.Explanation) -> str:
    """The text, coloured word by word, each word's attribution shown on pointing at it."""
    parts = []
    for characters, word, strength in _pieces(explanation):
        escaped = html.escape(_unread(characters) if word is None else characters)
        if word is None:
            parts.append(f'<span class="unread">{escaped}</span>' if escaped.strip() else escaped)
            continue
        rgb = "9,105,218" if strength > 0 else "207,34,46"
        title = f"{word.attribution:+.3f}{'' if word.known else ', unknown word'}"
        parts.append(
            f'<span title="{title}" style="background:rgba({rgb},{0.75 * abs(strength):.2f})">'
            f"{escaped}</span>"
        )
    return f'<div class="words">{"".join(parts)}</div>\n'


def strongest_words(
    explanation: integrated_gradients.Explanation, sign: int, count: int = 5
) -> str:
    """The words that pushed hardest to one side; a word that comes again counts as one."""
    sums: dict[str, float] = {}
    for word in explanation.words:
        name = explanation.text[word.start : word.end].lower()
        sums[name] = sums.get(name, 0.0) + word.attribution
    pushed = sorted(sums, key=lambda name: -sign * sums[name])[:count]
    return ", ".join(f"{name} {sums[name]:+.2f}" for name in pushed if sign * sums[name] >= 0.005)


def explain_texts(
    trained: TrainedModel, names: Sequence[str], texts: Sequence[str], path: Path
) -> None:
    """Prints every text with its verdict and coloured words, and writes them as one HTML page.

    Args:
      trained: a run's best model.
      names: of the texts, row numbers for example.
      texts: raw.
      path: the HTML file.

    Raises:
      InputError: the file cannot be written.
    """
    colour = bool(os.environ.get("FORCE_COLOR")) or (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    )
    legend = "blue words pushed to positive, red ones to negative; grey was not read"
    body = [paragraph(f"Integrated gradients of the log-odds: {legend}.", "remark")]
    verdicts = predict(trained, texts)
    for name, text, p in zip(names, texts, verdicts, strict=True):
        explanation = integrated_gradients.explain(trained, text)
        blank = f", {BLANK}" if is_blank(explanation.text) else ""
        headline = f"{verdict(float(p))} {p:.4f}{blank}"
        lines = [
            f"log-odds {explanation.log_odds:+.3f}: {explanation.empty_log_odds:+.3f} without "
            f"words, {explanation.log_odds - explanation.empty_log_odds:+.3f} from the words"
        ]
        for side, sign in (("positive", 1), ("negative", -1)):
            lines.append(f"to {side}: {strongest_words(explanation, sign) or 'nothing'}")
        if not explanation.complete:
            lines.append(f"warning: the attributions sum to {explanation.gap:+.3f} more than that")
        body.append(f"<h2>{html.escape(f'{name}: {headline}')}</h2>\n{to_html(explanation)}")
        body += [paragraph(line, "remark") for line in lines]
        shown = to_terminal(explanation, colour=colour)
        print("\n  ".join(filter(None, [f"{name}: {headline}", shown, *lines])), flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, document("Which words pushed the verdict", "".join(body)))
    except OSError as error:
        raise InputError(f"cannot write --output={path}: {error.strerror}") from error
    print(f"{legend if colour else 'attributions in nats'}; the same as a page: {path}")
