"""RoBERTa (Liu et al., 2019) and XLM-R (Conneau et al., 2020): BERT's layers under another head.

The head is that of Hugging Face's RobertaForSequenceClassification.
"""

from flax import linen as nn
from jaxtyping import Array, Float

from sentiment_jax.models.bert import BertClassifier
from sentiment_jax.models.electra import DenseHead


class RobertaClassifier(BertClassifier):
    """An encoder under RoBERTa's head: ELECTRA's with tanh."""

    def head(
        self, first: Float[Array, "batch hidden"], deterministic: bool
    ) -> Float[Array, "batch classes"]:
        """Return the logits for the first token's last state."""
        head = DenseHead(self.config, self.classes, deterministic, nn.tanh, name="classifier")
        return head(first)
