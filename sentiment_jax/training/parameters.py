"""The parameters that a training starts from: random, or pretrained."""

from typing import Any

import jax

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.huggingface import hub, weights
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.models import layers
from sentiment_jax.models.registry import initializer
from sentiment_jax.training.lineage import source_run
from sentiment_jax.training.trained_model import Classifier, load_run


def initial_params(classifier: Classifier) -> tuple[Any, LoadReport | None]:
    """Return parameters from seed and pretrained weights, and the report on loading those.

    The CPU draws them, so that every backend starts from the same bits and none compiles an
    orthogonal matrix, which takes a GPU up to a minute.
    """
    with layers.on_cpu():
        params = initializer(classifier.model)(jax.random.key(classifier.config.seed))
    model = classifier.config.model
    if not model.pretrained:
        return params, None
    if run := source_run(model.pretrained):
        source = load_run(run, classifies=False)
        tensors = weights.to_tensors(source.params, model.name)
        return weights.load_tensors(
            tensors,
            classifier.model.config,
            params,
            where=f"model.pretrained={run}",
            files=f"{run}, step {source.step}",
        )
    assert isinstance(model, EncoderConfig)  # an LSTM starts from a run: checks.resolve
    folder, _ = hub.find_pretrained(model.pretrained, model.revision)
    return weights.load_pretrained(folder, classifier.model.config, params)
