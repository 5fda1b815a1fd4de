"""`--mode=predict --explain`: the words behind each prediction, in the terminal and on a page."""

import itertools
import textwrap
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
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.trained_model import TrainedModel, load_run

STEPS = 5  # colors of each sign: words of half a step and less have none, or pages grow long


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


def to_terminal(explanation: Explanation) -> str:
    """Return the text, in brackets what the model did not read."""
    shown = ""
    for characters, word, _ in split_text(explanation, full=1.0):
        unread = word is None and characters.strip()
        shown += f" [not read: {characters.strip()}] " if unread else characters
    return shown.strip()


def strongest_words(explanation: Explanation, sign: int) -> str:
    """Return the five words with the largest attributions of one sign, punctuation in quotes.

    A repeated word counts once.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    for word in explanation.words:
        name = explanation.text[word.start : word.end].lower()
        if not any(map(str.isalnum, name)):
            name = f"“{name}”"
        sums[name] += sign * word.attribution
    ranked = sorted(sums, key=lambda name: -sums[name])[:5]
    listed = [f"{name} {sign * sums[name]:+.2f}" for name in ranked if sums[name] >= 0.005]
    return ", ".join(listed) or "nothing"


def explain_run(workdir: Path, source: TextSource, page: Path | None) -> None:
    """Explain a run's predictions; the page is by default written to the run directory."""
    trained = load_run(workdir)
    table = source.read(trained.config.data.text_column)
    texts = [text for (text,) in table.texts]
    path = page or workdir / "explanation.html"
    explain_texts(trained, [*map(str, table.rows)], texts, path, describe_run(workdir))


def describe_run(workdir: Path) -> str:
    """Return a run's directory, model and accuracies, as far as they are known."""
    _, outcome = RunDirectory(workdir).outcome()
    facts = [f"{workdir}: {RunDirectory(workdir).read_config().model.name.upper()}"]
    for split, word in {"val": "validation", "test": "test"}.items():
        if scores := outcome.get(split):
            facts.append(f"{word} accuracy {scores['accuracy']:.4f}")
    return ", ".join(facts)


def explain_texts(
    trained: TrainedModel, names: Sequence[str], texts: Sequence[str], path: Path, about: str = ""
) -> None:
    """Print each raw text with its prediction and strongest words; write all as one HTML page.

    `about` names the run there.
    """
    classes = trained.classes
    probabilities, warnings = predict([trained], texts)
    print_warning_count(warnings)
    decided = decide(probabilities).tolist()
    if len(classes) == 2:  # always towards the second: the colors mean the same in every text
        towards = [1] * len(texts)
        to = f"to {classes[1]}"
        away = f"to {classes[0]}"
    else:
        towards = decided
        to = "to the predicted class"
        away = "away from it"
    blocks = []
    predicted = format_predictions(classes, probabilities)
    rows = zip(names, texts, probabilities, towards, predicted, warnings, strict=True)
    for (name, text, p, i, prediction, warning), best in zip(rows, decided, strict=True):
        explanation = explain(trained, text, i)
        headline = f"{name}: {' '.join(prediction.split())}"
        if warning:
            headline += f", {warning}"
        log_odds = explanation.log_odds
        empty = explanation.empty_log_odds
        gained = log_odds - empty
        odds = f"{log_odds:+.3f}: {empty:+.3f} without words, {gained:+.3f} from the words"
        lines = [
            f"to {classes[i]}: {strongest_words(explanation, 1)}",
            f"{away}: {strongest_words(explanation, -1)}",
        ]
        if not explanation.complete:
            lines.append(f"warning: the attributions sum to {explanation.gap:+.3f} more than that")
        block = {"explanation": explanation, "headline": headline, "lines": lines, "odds": odds}
        block |= {
            "entry": f"{name}: {classes[best]}",
            "start": textwrap.shorten(text[:200], 30, placeholder=" …"),
        }
        blocks.append(block | {"share": 100 * float(p[i]), "label": classes[i]})
        shown = [headline, to_terminal(explanation), f"log-odds {odds}", *lines]
        print("\n  ".join(filter(None, shown)), flush=True)
    legend = f"blue words pushed {to}, red ones {away}; gray was not read"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_page(blocks, legend=legend, ends=(away, to), about=about))
    except OSError as error:
        raise InputError(f"cannot write --output={path}: {error.strerror}") from error
    print(f"attributions in nats; the same as a page: {path}")


def to_page(
    blocks: Sequence[Mapping[str, Any]], *, legend: str, ends: tuple[str, str], about: str = ""
) -> str:
    """Return a page of explained texts, on one scale of colors.

    `blocks` hold an explanation each, and what the page says about it; `ends` name the ends of the
    scale.
    """
    words = itertools.chain(*(block["explanation"].words for block in blocks))
    return render(
        "explanation.html.j2",
        title="Words behind the predictions",
        explanations=blocks,
        full=max((abs(word.attribution) for word in words), default=0.0) or 1.0,
        split_text=split_text,
        legend=legend,
        ends=ends,
        about=about,
        steps=STEPS,
    )
