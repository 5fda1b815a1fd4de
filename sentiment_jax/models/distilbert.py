"""DistilBERT (Sanh et al., 2019), with the head of Hugging Face's classifier."""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array

from sentiment_jax.models.bert import BertClassifier


class DistilBertClassifier(BertClassifier):
    """An encoder under DistilBERT's head: BERT's with ReLU."""

    activation: Callable[[Array], Array] = nn.relu
    first_dense = "pre_classifier"
