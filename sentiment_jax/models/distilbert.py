"""DistilBERT (Sanh et al., 2019): BERT's layers under a head of its own.

The head is that of Hugging Face's DistilBertForSequenceClassification.
"""

from flax import linen as nn
from jaxtyping import Array, Float

from sentiment_jax.models.bert import BertClassifier
from sentiment_jax.models.encoder import classification_layers


class DistilBertClassifier(BertClassifier):
    """An encoder under DistilBERT's head: dense, ReLU, dropout and a linear classifier."""

    def head(
        self, first: Float[Array, "batch hidden"], deterministic: bool
    ) -> Float[Array, "batch classes"]:
        """Return the logits for the first token's last state."""
        dense, dropout = classification_layers(self.config, deterministic)
        inner = nn.relu(dense(self.config.hidden_size, name="pre_classifier")(first))
        return dense(self.classes, name="classifier")(dropout(inner))
