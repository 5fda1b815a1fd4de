"""TODO training.objectives.registry."""

import numpy as np
from jaxtyping import Int32

from sentiment_jax.config.schema import LossConfig
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.masked_language_modeling import MaskedLanguageModeling
from sentiment_jax.training.objectives.ngram_vectors import NgramVectors
from sentiment_jax.training.objectives.objective import Objective
from sentiment_jax.training.objectives.replaced_token_detection import ReplacedTokenDetection

PRETRAINING: dict[str, type[MaskedLanguageModeling] | type[NgramVectors]] = {
    "masked_language_modeling": MaskedLanguageModeling,
    "replaced_token_detection": ReplacedTokenDetection,
    "ngram_vectors": NgramVectors,
}


def make_objective(experiment: Experiment) -> Objective:
    """Return what a config minimizes.

    InputError: a pre-training's tokenizer has no [MASK].
    """
    config = experiment.config
    if config.pretrain.objective:
        return PRETRAINING[config.pretrain.objective].of(experiment)
    labels, classes = experiment.encoded["train"].labels, len(experiment.classes)
    balanced = config.class_weights == "balanced"
    weights = balanced_weights(labels[labels >= 0], classes) if balanced else ()
    return Classification(weights, LossConfig(**config.loss.to_dict()))


def balanced_weights(labels: Int32[np.ndarray, " reviews"], classes: int) -> tuple[float, ...]:
    """Return a weight for each class that makes up for its size; over the reviews, their mean is 1.

    As scikit-learn's "balanced", which wants every class to occur.
    """
    counts = np.bincount(labels, minlength=classes)
    return tuple((len(labels) / (classes * np.maximum(counts, 1))).tolist())
