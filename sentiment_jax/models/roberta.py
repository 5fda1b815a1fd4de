"""RoBERTa (Liu et al., 2019) and XLM-R (Conneau et al., 2020), with Hugging Face's head."""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array

from sentiment_jax.models.electra import ElectraClassifier


class RobertaClassifier(ElectraClassifier):
    """An encoder under RoBERTa's head: ELECTRA's with tanh."""

    activation: Callable[[Array], Array] = nn.tanh
