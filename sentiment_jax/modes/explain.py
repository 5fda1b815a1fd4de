"""`--mode=predict --explain`: words colored in the terminal and in an HTML page."""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.analysis.html import render
from sentiment_jax.analysis.integrated_gradients import Explanation, Word, explain
from sentiment_jax.data.labels import decide
from sentiment_jax.errors import InputError
from sentiment_jax.modes.predict import (
    TextSource,
    format_predictions,
    predict,
    print_warning_count,
)
from sentiment_jax.storage.files import write_atomically
from sentiment_jax.training.trained_model import TrainedModel, load_run

STRENGTHS = (0.15, 0.4, 0.75)  # of the strongest word: the steps of the terminal's colors
TERMINAL = {1: (18, 20, 27), -1: (52, 88, 160)}  # backgrounds of the 256-color palette


def strongest(explanations: Sequence[Explanation]) -> float:
    """Return the strongest push of any word."""
    words = itertools.chain(*(explanation.words for explanation in explanations))
    return max((abs(word.attribution) for word in words), default=0.0) or 1.0


def split_text(
    explanation: Explanation, full: float | None = None
) -> list[tuple[str, Word | None, float]]:
    """Return the text in order: (characters, their word, its strength from -1 to 1).

    A strength of 1 is a push of `full`, by default that of the text's strongest word. What the
    model did not read has no word, and is shortened.
    """
    full = full or strongest([explanation])
    text, position = explanation.text, 0
    pieces: list[tuple[str, Word | None, float]] = []
    for word in explanation.words:
        pieces.append((_shorten(text[position : word.start]), None, 0.0))
        pieces.append((text[word.start : word.end], word, word.attribution / full))
        position = max(position, word.end)
    return [*pieces, (_shorten(text[position:]), None, 0.0)]


def _shorten(characters: str) -> str:
    return characters if len(characters) <= 100 else f"{characters[:48]} … {characters[-48:]}"


def to_terminal(explanation: Explanation, *, color: bool) -> str:
    """Return the text in colors; what the model did not read is dim (or in brackets)."""
    shown = ""
    for characters, word, strength in split_text(explanation):
        level = sum(abs(strength) >= step for step in STRENGTHS)
        if word is None and characters.strip():
            unread = f" [not read: {characters.strip()}] "
            shown += f"\x1b[2m{characters}\x1b[0m" if color else unread
        elif color and level:
            background = TERMINAL[1 if strength > 0 else -1][level - 1]
            shown += f"\x1b[38;5;231;48;5;{background}m{characters}\x1b[0m"
        else:
            shown += characters
    return shown.strip()


def strongest_words(explanation: Explanation, sign: int, count: int = 5) -> str:
    """Return the words that pushed hardest to one side; a repeated word counts as one.

    Punctuation stands in quotes.
    """
    sums: dict[str, float] = {}
    for word in explanation.words:
        name = explanation.text[word.start : word.end].lower()
        name = name if any(map(str.isalnum, name)) else f"“{name}”"
        sums[name] = sums.get(name, 0.0) + word.attribution
    pushed = sorted(sums, key=lambda name: -sign * sums[name])[:count]
    return ", ".join(f"{name} {sums[name]:+.2f}" for name in pushed if sign * sums[name] >= 0.005)


def explain_run(workdir: Path, source: TextSource, page: Path | None) -> None:
    """Explain a run's predictions; the page is by default written to the run directory."""
    trained = load_run(workdir)
    table = source.read(trained.config.data.text_column)
    texts = [text for (text,) in table.texts]
    explain_texts(trained, [*map(str, table.rows)], texts, page or workdir / "explanation.html")


def explain_texts(
    trained: TrainedModel, names: Sequence[str], texts: Sequence[str], path: Path
) -> None:
    """Print every raw text with its verdict and colored words, and write them as one HTML page."""
    forced, refused = os.environ.get("FORCE_COLOR"), os.environ.get("NO_COLOR")
    color = bool(forced) or (sys.stdout.isatty() and not refused)
    explanations, classes = [], trained.classes
    probabilities, warnings = predict([trained], texts)
    print_warning_count(warnings)
    # Of two classes, always towards the second: the colors mean the same in every text.
    towards = decide(probabilities).tolist() if len(classes) > 2 else [1] * len(texts)
    said = format_predictions(classes, probabilities)
    away = f"to {classes[0]}" if len(classes) == 2 else "away from it"
    to = classes[1] if len(classes) == 2 else "the verdict"
    legend = f"blue words pushed to {to}, red ones {away}; gray was not read"
    rows = zip(names, texts, probabilities, towards, said, warnings, strict=True)
    for name, text, p, i, verdict, warning in rows:
        explanation = explain(trained, text, i)
        headline = f"{name}: {' '.join(verdict.split())}{warning and f', {warning}'}"
        whole, empty = explanation.log_odds, explanation.empty_log_odds
        odds = f"{whole:+.3f}: {empty:+.3f} without words, {whole - empty:+.3f} from the words"
        lines = [
            f"to {classes[i]}: {strongest_words(explanation, 1) or 'nothing'}",
            f"{away}: {strongest_words(explanation, -1) or 'nothing'}",
        ]
        if not explanation.complete:
            lines.append(f"warning: the attributions sum to {explanation.gap:+.3f} more than that")
        share = 100 * float(p[i])
        block = {"headline": headline, "share": share, "label": classes[i]}
        block |= {"lines": lines, "odds": odds}
        explanations.append((explanation, block))
        shown = to_terminal(explanation, color=color)
        print("\n  ".join(filter(None, [headline, shown, f"log-odds {odds}", *lines])), flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_page(explanations, legend, (away, f"to {to}")))
    except OSError as error:
        raise InputError(f"cannot write --output={path}: {error.strerror}") from error
    print(f"{legend if color else 'attributions in nats'}; the same as a page: {path}")


def to_page(
    explanations: Sequence[tuple[Explanation, dict[str, Any]]], legend: str, ends: tuple[str, str]
) -> str:
    """Return a page of explained texts, with what is to be said of each, in one scale of colors.

    `ends` name the scale's left and right.
    """
    full = strongest([explanation for explanation, _ in explanations])
    blocks = [{**said, "pieces": split_text(of, full)} for of, said in explanations]
    values = {"legend": legend, "explanations": blocks, "full": full, "ends": ends}
    return render("explanation.html.j2", title="Which words pushed the verdict", **values)
