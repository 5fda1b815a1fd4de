"""`--mode=predict --explain`: the words behind each prediction, in the terminal and on a page."""

import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    """Return the largest absolute attribution of any word."""
    words = itertools.chain(*(explanation.words for explanation in explanations))
    return max((abs(word.attribution) for word in words), default=0.0) or 1.0


def split_text(explanation: Explanation, full: float) -> list[tuple[str, Word | None, float]]:
    """Return the text in order as (characters, their word, its strength from -1 to 1).

    A strength of 1 is an attribution of `full`. Characters that the model did not read have no
    word, and are shortened.
    """
    text = explanation.text
    position = 0
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
    for characters, word, strength in split_text(explanation, strongest([explanation])):
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
    """Return the words with the largest attributions of one sign; a repeated word counts once.

    Punctuation is quoted.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for word in explanation.words:
        name = explanation.text[word.start : word.end].lower()
        if not any(map(str.isalnum, name)):
            name = f"“{name}”"
        sums[name] += word.attribution
    ranked = sorted(sums, key=lambda name: -sign * sums[name])[:count]
    listed = [f"{name} {sums[name]:+.2f}" for name in ranked if sign * sums[name] >= 0.005]
    return ", ".join(listed) or "nothing"


def explain_run(workdir: Path, source: TextSource, page: Path | None) -> None:
    """Explain a run's predictions; the page is by default written to the run directory."""
    trained = load_run(workdir)
    table = source.read(trained.config.data.text_column)
    texts = [text for (text,) in table.texts]
    explain_texts(trained, [*map(str, table.rows)], texts, page or workdir / "explanation.html")


def explain_texts(
    trained: TrainedModel, names: Sequence[str], texts: Sequence[str], path: Path
) -> None:
    """Print each raw text with its prediction and colored words; write all as one HTML page."""
    classes = trained.classes
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    color |= bool(os.environ.get("FORCE_COLOR"))
    probabilities, warnings = predict([trained], texts)
    print_warning_count(warnings)
    if len(classes) == 2:  # always towards the second: the colors mean the same in every text
        towards = [1] * len(texts)
        to = f"to {classes[1]}"
        away = f"to {classes[0]}"
    else:
        towards = decide(probabilities).tolist()
        to = "to the predicted class"
        away = "away from it"
    blocks = []
    predicted = format_predictions(classes, probabilities)
    rows = zip(names, texts, probabilities, towards, predicted, warnings, strict=True)
    for name, text, p, i, prediction, warning in rows:
        explanation = explain(trained, text, i)
        headline = f"{name}: {' '.join(prediction.split())}"
        if warning:
            headline += f", {warning}"
        log_odds = explanation.log_odds
        empty = explanation.empty_log_odds
        odds = (
            f"{log_odds:+.3f}: {empty:+.3f} without words, {log_odds - empty:+.3f} from the words"
        )
        lines = [
            f"to {classes[i]}: {strongest_words(explanation, 1)}",
            f"{away}: {strongest_words(explanation, -1)}",
        ]
        if not explanation.complete:
            lines.append(f"warning: the attributions sum to {explanation.gap:+.3f} more than that")
        block = {"explanation": explanation, "headline": headline, "lines": lines, "odds": odds}
        blocks.append(block | {"share": 100 * float(p[i]), "label": classes[i]})
        shown = to_terminal(explanation, color=color)
        print("\n  ".join(filter(None, [headline, shown, f"log-odds {odds}", *lines])), flush=True)
    legend = f"blue words pushed {to}, red ones {away}; gray was not read"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_page(blocks, legend=legend, ends=(away, to)))
    except OSError as error:
        raise InputError(f"cannot write --output={path}: {error.strerror}") from error
    print(f"{legend if color else 'attributions in nats'}; the same as a page: {path}")


def to_page(blocks: Sequence[Mapping[str, Any]], *, legend: str, ends: tuple[str, str]) -> str:
    """Return a page of explained texts, on one scale of colors.

    `blocks` hold an explanation each, and what the page says about it; `ends` name the ends of the
    scale.
    """
    return render(
        "explanation.html.j2",
        title="Words behind the predictions",
        explanations=blocks,
        full=strongest([block["explanation"] for block in blocks]),
        split_text=split_text,
        legend=legend,
        ends=ends,
    )
