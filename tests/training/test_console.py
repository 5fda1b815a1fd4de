"""Warnings of a training that runs and means nothing: row 51, each with its figure."""

import jax
import pytest
from reviews import write_csv

from sentiment_jax.runtime import terminal
from sentiment_jax.train import train
from sentiment_jax.training import console


@pytest.fixture
def warnings(small_config, tmp_path, capsys):
    """Train on rows of a CSV file and return what stderr says."""

    def call(rows, **changes):
        path = write_csv(tmp_path / "mine.csv", rows)
        small_config.update_from_flattened_dict(
            {"epochs": 1, "data.source": "csv", "data.path": path, "data.limit": 0}
            | {name.replace("__", "."): value for name, value in changes.items()}
        )
        train(small_config, tmp_path / "$x^$")
        return capsys.readouterr().err.splitlines()

    return call


def rows(count, words="seen told left came turned went made held kept gave lost found meant"):
    """Different texts of many words, classes in turn."""
    pairs = [(a, b) for a in words.split() for b in words.split()]
    verdicts = ("awful", "neg"), ("lovely", "pos")
    chosen = [(pairs[i], verdicts[i % 2]) for i in range(count)]
    return [(f"{word} {a} {b} " * 2, label) for (a, b), (word, label) in chosen]


def test_texts_with_both_labels(warnings):
    both = [(f"it {text}", label) for text, _ in rows(30) for label in ("neg", "pos")]
    found = warnings(rows(80) + both)
    assert any("warning: 30 texts have both labels" in line for line in found), found


def test_a_test_file_that_was_trained_on(warnings, tmp_path):
    found = warnings(rows(80), data__test_path=str(tmp_path / "mine.csv"), data__test_limit=0)
    assert any("warning: 64 of 80 test reviews are in train too" in line for line in found), found


def test_a_vocabulary_of_two_words(warnings):
    (line, *_) = warnings(rows(80), data__min_frequency=1000)
    assert line == "warning: 100% of the training tokens are unknown, the vocabulary has 2 words"


def test_a_best_model_that_is_none(warnings, tmp_path):
    found = warnings(rows(80), optimizer__learning_rate=1e10)
    (line,) = [line for line in found if "guessing" in line]
    assert line.startswith(f"warning: {tmp_path}/$x^$ is no better than guessing: validation")
    assert "accuracy 0." in line and "e+" in line and line.endswith("(log 2: 0.6931)")


@pytest.mark.parametrize(
    ("backend", "flags", "said"),
    [
        ("gpu", "", 1),
        ("gpu", "--xla_gpu_deterministic_ops=true", 0),
        ("cpu", "", 0),
    ],
)
def test_a_gpu_that_is_not_deterministic(monkeypatch, capsys, backend, flags, said):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setenv("XLA_FLAGS", flags)
    terminal.warn_once.cache_clear()
    console.warn_of_bits()
    line = "warning: not deterministic: a killed run will not resume bit-exactly\n"
    assert capsys.readouterr().err == line * said


def test_a_sound_training_says_nothing(warnings):
    many = "".join(f"word{i} " for i in range(60))
    sound = [(f"{text} {many}", label) for text, label in rows(80)]
    changes = {"epochs": 8, "optimizer__learning_rate": 1e-2}
    assert not warnings(sound, **changes)
