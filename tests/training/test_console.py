"""Warnings of a training that means nothing (row 51), each with its figure; advice; examples."""

import re

import jax
import pytest
from reviews import write_csv

from sentiment_jax.config.schema import EXAMPLE_TEXTS
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import terminal
from sentiment_jax.training import console
from sentiment_jax.training.progress import Progress


@pytest.fixture
def warnings(small_config, tmp_path, capsys):
    """Train on rows of a CSV file and return what stderr says."""

    def call(rows, **changes):
        path = write_csv(tmp_path / "mine.csv", rows)
        small_config.update_from_flattened_dict(
            {"epochs": 1, "data.source": "csv", "data.path": path, "data.limit": 0}
            | {"data.length_buckets": (), "data.vocabulary_size": 16}  # the programs of one test
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
    said = "may be no better than guessing: val accuracy 0."
    assert line.startswith(f"warning: {tmp_path}/$x^$ {said}")
    assert "e+" in line and line.endswith("(log 2: 0.6931)")


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


@pytest.mark.slow
def test_a_sound_training_says_nothing(warnings):
    many = "".join(f"word{i} " for i in range(60))
    sound = [(f"{text} {many}", label) for text, label in rows(80)]
    changes = {"epochs": 8, "optimizer__learning_rate": 1e-2, "data__vocabulary_size": 100}
    assert not warnings(sound, **changes)


def test_scores_that_a_guesser_may_have(warnings, tmp_path):
    """Forty rows: whatever the few of the validation say, it is no score."""
    found = warnings(rows(40), optimizer__learning_rate=0.0)
    (line,) = [line for line in found if "guessing" in line]
    assert "may be no better than guessing: val accuracy" in line
    assert "on 6 reviews (the largest class: 0.5000), MCC" in line and "(by luck: 0.6716)" in line


def test_few_reviews_for_the_last_state(warnings):
    found = warnings(rows(80), model__pooling="last")
    few = re.compile("warning: [45][0-9] training reviews are few for this recipe: .*lstm.py:small")
    assert any(map(few.match, found)), found


def advice(losses, best_epoch, capsys):
    """What is said after epochs with these validation losses."""
    progress = Progress(epochs_done=len(losses), best={"epoch": best_epoch})
    progress.records = [{"split": "val", "loss": loss} for loss in losses]
    console.print_advice(progress, 3e-3)
    return capsys.readouterr().out


def test_one_line_of_advice_where_it_is_due(capsys):
    assert advice([0.6, 0.5, 0.4], 3, capsys) == (
        "advice   the last epoch was the best: more may be better still (--config.epochs=6)\n"
    )
    rising = advice([0.4, 0.5, None, 0.6], 2, capsys)
    assert rising.startswith("advice   validation loss rose from the first epoch on")
    assert "--config.optimizer.learning_rate=0.001" in rising and rising.count("\n") == 1
    assert advice([0.4, 0.5, 0.6], 3, capsys).count("\n") == 1, "one line where two are due"
    assert advice([0.6, 0.5, 0.6], 2, capsys) == ""


def test_examples_are_ones_own_reviews_unless_the_config_names_texts(
    small_config, tmp_path, capsys
):
    reviews = rows(80)
    small_config.data.source, small_config.data.limit = "csv", 0
    small_config.data.path = write_csv(tmp_path / "mine.csv", reviews)
    small_config.epochs = 1
    for named in ((), ("a text of my own",)):
        small_config.example_texts = named or EXAMPLE_TEXTS
        train(small_config, tmp_path / f"run{len(named)}")
        output = capsys.readouterr().out
        shown = [text for text, _ in reviews if f"  {text.strip()}\n" in output]
        assert len(shown) == (0 if named else 4)
        assert ("a text of my own" in output) == bool(named)
        assert "film" not in output
