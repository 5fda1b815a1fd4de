"""What an experiment is made of: whose words are in the vocabulary, where unlabeled texts stand."""

import numpy as np
import pytest

from configs import bert, lstm
from sentiment_jax.config.recipes import override
from sentiment_jax.config.stored import flatten, make_frozen
from sentiment_jax.data.corpus import Corpus
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.training import experiment
from sentiment_jax.training.checks import resolve


@pytest.mark.parametrize("recipe", [lstm.get_config("sample"), bert.get_config("tiny")])
def test_a_vocabulary_is_learned_from_the_training_reviews_alone(recipe):
    """Words of held-out reviews would be leakage."""
    recipe.data.ngrams = 2 if recipe.model.name == "lstm" else 1
    splits = {of: Reviews.from_texts([f"{of} film"] * 10) for of in ("train", "val", "test")}
    vocabulary = experiment.make_tokenizer(resolve(recipe), Corpus(splits, {})).get_vocab()
    assert "train" in vocabulary
    assert ("train film" in vocabulary) == (recipe.data.ngrams == 2)
    assert not [entry for entry in vocabulary if entry.startswith(("val", "test"))]


def test_unlabeled_texts_follow_the_training_reviews(small_config, tmp_path, monkeypatch):
    """Each with tokens of its own and the label -1, which a teacher replaces."""
    for check in ("warn_of_leakage", "_check_teacher_classes"):
        monkeypatch.setattr(experiment, check, lambda *_: None)  # they read the teacher's run
    text = tmp_path / "more.txt"
    text.write_text("so so\na good film\n" + "good " * 99)
    changes = {"data.teacher": "runs/a", "pretrain.text": str(text), "data.limit": 0}
    prepared = experiment.prepare_experiment(make_frozen(flatten(override(small_config, changes))))
    labeled = prepared.reviews["train"]
    unlabeled = prepared.unlabeled
    assert len(unlabeled) == 3
    labels = [*labeled.labels.tolist(), -1, -1, -1]
    texts = labeled.texts + unlabeled.texts
    both = Reviews.from_texts(texts, labels, labeled.ids + unlabeled.ids)
    for name, expected in vars(prepared.encode(both)).items():
        np.testing.assert_array_equal(getattr(prepared.encoded["train"], name), expected, name)
