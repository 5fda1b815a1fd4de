"""Which objective a config names: one case for each of pre-training, else classification.

A second one for an architecture takes a file here, with a `mean_loss` like its neighbors', a case
below, its name in OBJECTIVES of config/schema.py, and in models/registry.py its network, in the
entry of the architecture, and the suffix of its export, in TRANSFORMERS. A head other than
`predictions` also takes a prefix in that entry's `heads`, and MODULES of huggingface/weights.py.
"""

from jax.sharding import Mesh
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.training.objectives.classification import Classification, balanced_weights
from sentiment_jax.training.objectives.masked_language_modeling import MaskedLanguageModeling
from sentiment_jax.training.objectives.ngram_vectors import NgramVectors
from sentiment_jax.training.objectives.objective import Objective
from sentiment_jax.training.objectives.replaced_token_detection import ReplacedTokenDetection


def make_objective(config: Config, tokenizer: Tokenizer, encoded: Encoded, mesh: Mesh) -> Objective:
    """Return what a training on `encoded` minimizes.

    InputError: a pre-training's tokenizer has no [MASK].
    """
    match config.pretrain.objective:
        case "masked_language_modeling":
            return MaskedLanguageModeling.of(tokenizer, config.pretrain.mask_fraction)
        case "replaced_token_detection":
            return ReplacedTokenDetection.of(tokenizer, config.pretrain.mask_fraction)
        case "ngram_vectors":
            return NgramVectors.of(tokenizer, encoded.token_ids, mesh)
    if config.class_weights == "balanced":
        return Classification(balanced_weights(encoded.labels, len(config.classes)))
    return Classification()
