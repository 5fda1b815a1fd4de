"""Warnings of a training that means nothing (row 51), each with its figure; examples."""

import itertools
import re

import pytest
from reviews import write_csv

from sentiment_jax.modes.train import train


def rows(count):
    """Different texts of many words, classes in turn."""
    words = "seen sold left came turned went made held kept gave"
    pairs = list(itertools.product(words.split(), repeat=2))
    classes = ("awful", "neg"), ("lovely", "pos")
    chosen = [(pairs[i], classes[i % 2]) for i in range(count)]
    return [(f"{word} {a} {b} " * 2, label) for (a, b), (word, label) in chosen]


@pytest.fixture
def run(small_config, tmp_path, capsys):
    """Train on rows of a CSV file; return what is printed on stdout and the lines of stderr."""

    def call(rows, changes):
        path = write_csv(tmp_path / "mine.csv", rows)
        small_config.update_from_flattened_dict(
            {"epochs": 1, "data.source": "csv", "data.path": path, "data.limit": 0}
            | {"data.length_buckets": (), "data.vocabulary_size": 16}  # the programs of one test
            | changes
        )
        train(small_config, tmp_path / "$x^$")
        output, errors = capsys.readouterr()
        return output, errors.splitlines()

    return call


CONTRADICTORY = [(f"it {text}", label) for text, _ in rows(30) for label in ("neg", "pos")]
GUESSING = r".*/\$x\^\$ may be no better than guessing: val accuracy 0\..*"


@pytest.mark.parametrize(
    ("reviews", "changes", "warning"),
    [
        (rows(80) + CONTRADICTORY, {}, "30 texts have both labels: nothing can be learned .*"),
        (
            rows(80),
            {"data.min_frequency": 1000},
            "100% of the training tokens are unknown",
        ),
        (rows(80), {"optimizer.learning_rate": 1e10}, rf"{GUESSING}e\+.*\(log 2: 0.6931\)"),
        (  # whatever the scores of so few reviews are
            rows(40),
            {"optimizer.learning_rate": 0.0},
            rf"{GUESSING} on 6 reviews \(the largest class: 0.5000\), .*\(by chance: 0.6716\).*",
        ),
    ],
    ids=["contradictory", "unknown words", "loss", "accuracy"],
)
def test_what_makes_a_score_worthless_is_warned_of(run, reviews, changes, warning):
    _, errors = run(reviews, changes)
    assert any(re.fullmatch(f"warning: {warning}", line) for line in errors), errors


def test_test_reviews_that_were_trained_on_are_warned_of(run, tmp_path):
    changes = {"data.test_path": str(tmp_path / "mine.csv"), "data.test_limit": 0}
    _, errors = run(rows(80), changes)
    expected = "warning: 64 of 80 test reviews are in train too: their score misleads"
    assert expected in errors


@pytest.mark.slow
def test_a_sound_training_prints_no_warning(run):
    many = "".join(f"word{i} " for i in range(60))
    sound = [(f"{text} {many}", label) for text, label in rows(80)]
    changes = {"epochs": 8, "optimizer.learning_rate": 1e-2, "data.vocabulary_size": 100}
    output, errors = run(sound, changes)
    assert not errors
    shown = [text for text, _ in rows(80) if f"  {text.strip()} " in output]
    assert len(shown) == 4 and "film" not in output  # examples are the user's own reviews
