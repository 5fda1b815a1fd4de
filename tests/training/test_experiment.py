"""What an experiment is made of: whose words are in the vocabulary."""

import pytest

from configs import bert, lstm
from sentiment_jax.data.dataset import Dataset
from sentiment_jax.data.texts import Texts
from sentiment_jax.training import experiment
from sentiment_jax.training.checks import resolve


@pytest.mark.parametrize("recipe", [lstm.get_config("sample"), bert.get_config("tiny")])
def test_a_vocabulary_is_learned_from_the_training_reviews_alone(recipe):
    """Words of held-out texts would be leakage."""
    recipe.data.ngrams = 2 if recipe.model.name == "lstm" else 1
    splits = {of: Texts.from_texts([f"{of} film"] * 10) for of in ("train", "val", "test")}
    vocabulary = experiment.make_tokenizer(resolve(recipe), Dataset(splits, {})).get_vocab()
    assert "train" in vocabulary
    assert ("train film" in vocabulary) == (recipe.data.ngrams == 2)
    assert not [entry for entry in vocabulary if entry.startswith(("val", "test"))]
