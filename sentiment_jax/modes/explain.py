"""`--mode=predict --explain`: the words behind each prediction, in the terminal and on a page."""

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.analysis.html import render
from sentiment_jax.analysis.integrated_gradients import Explanation, Word, explain
from sentiment_jax.data.labels import find_class
from sentiment_jax.modes.predict import TextSource, predict, print_warning_count
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import write_atomically
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.trained_model import TrainedModel, load_run

STEPS = 5  # colors of each sign: words of half a step and less have none, or pages grow long


def split_text(explanation: Explanation, full: float) -> list[tuple[str, Word | None, float]]:
    """Return the text in order as (characters, their word, its attribution as a part of `full`).

    Characters that the model did not read have no word, and are shortened.
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
    """Return the text, with the parts that the model did not read in brackets."""
    shown = ""
    for characters, word, _ in split_text(explanation, full=1.0):
        unread = word is None and characters.strip()
        shown += f" [not read: {characters.strip()}] " if unread else characters
    return shown.strip()


def strongest_words(explanation: Explanation, sign: int) -> str:
    """Return the five words of the largest total attribution of one sign, punctuation quoted."""
    sums: defaultdict[str, float] = defaultdict(float)
    for word in explanation.words:
        name = explanation.text[word.start : word.end].lower()
        if not any(map(str.isalnum, name)):
            name = f"“{name}”"
        sums[name] += sign * word.attribution
    ranked = sorted(sums, key=lambda name: -sums[name])[:5]
    listed = [f"{name} {sign * sums[name]:+.2f}" for name in ranked if sums[name] >= 0.005]
    return ", ".join(listed) or "nothing"


def explain_run(workdir: Path, source: TextSource, page: Path | None, label: str = "") -> None:
    """Explain a run's predictions; the page is by default written to the run directory."""
    path = page or workdir / "explanation.html"
    source.check_output(path, [".html"])
    trained = load_run(workdir)
    table = source.read(trained.config.data)
    about = f"{workdir}: {trained.config.model.title}"
    _, outcome = RunDirectory(workdir).outcome()
    for split, word in (("val", "validation"), ("test", "test")):
        if scores := outcome.get(split):
            about += f", {word} accuracy {scores['accuracy']:.4f}"
    texts = [text for (text,) in table.texts]
    explain_texts(trained, [f"text {row}" for row in table.rows], texts, path, about, label)


def explain_texts(
    trained: TrainedModel,
    names: Sequence[str],
    texts: Sequence[str],
    path: Path,
    about: str = "",
    label: str = "",
) -> None:
    """Print each text with prediction and strongest words; write all as a page, headed `about`.

    Explained is the class or `label` that is named, or else what the kind of labels says.
    """
    classes = trained.classes
    named = find_class(label, classes) if label else None
    probabilities, warnings = predict([trained], texts)
    print_warning_count(warnings)
    thresholds = trained.thresholds
    ends = ("away from it", f"to {trained.kind.explained_noun}")
    if trained.kind.is_binary(len(classes)):
        named = 1 if named is None else named  # the colors mean the same in every text
        ends = (f"to {classes[1 - named]}", f"to {classes[named]}")
    elif named is not None:
        ends = ("away from it", f"to {classes[named]}")
    towards, headed = trained.kind.explained(probabilities, thresholds, named)
    predicted = trained.kind.describe(classes, probabilities, thresholds)
    blocks: list[dict[str, Any]] = []
    columns = (names, texts, probabilities, towards, headed, predicted, warnings)
    for name, text, p, i, most, prediction, warning in zip(*columns, strict=True):
        with terminal.progress_bar(None, f"explaining {len(blocks) + 1} of {len(texts)}"):
            explanation = explain(trained, text, i)
        odds = f"{explanation.log_odds:+.3f}: {explanation.empty_log_odds:+.3f} without words, "
        odds += f"{explanation.log_odds - explanation.empty_log_odds:+.3f} from the words"
        lines = [f"to {classes[i]}: {strongest_words(explanation, 1)}"]
        lines.append(f"{ends[0]}: {strongest_words(explanation, -1)}")
        if not explanation.complete:
            lines.append(f"warning: the attributions sum to {explanation.gap:+.3f} more than that")
        noun = "class " if prediction[0].isdecimal() else ""
        found = f"{name}: {noun}{' '.join(prediction.split())}"
        headline = ", ".join(filter(None, [found, warning]))
        block = {"explanation": explanation, "lines": lines, "odds": odds, "label": classes[most]}
        start = textwrap.shorten(explanation.text[:200], 30, placeholder=" …")
        block |= {"headline": headline, "start": start}
        blocks.append(block | {"share": 100 * float(p[most])})
        shown = [headline, to_terminal(explanation), f"log-odds {odds}", *lines]
        print("\n  ".join(filter(None, shown)), flush=True)
    legend = f"blue words pushed {ends[1]}, red ones {ends[0]}; gray was not read"
    write_atomically(path, to_page(blocks, legend=legend, ends=ends, about=about))
    print(f"attributions in nats; the same as a page: {path}")


def to_page(
    blocks: Sequence[Mapping[str, Any]], *, legend: str, ends: tuple[str, str], about: str = ""
) -> str:
    """Return a page of explained texts on one scale of colors, whose ends are named by `ends`."""
    words = [word for block in blocks for word in block["explanation"].words]
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
