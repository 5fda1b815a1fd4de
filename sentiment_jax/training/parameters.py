"""TODO training.parameters."""

from typing import Any

import jax

from sentiment_jax.huggingface import hub, weights
from sentiment_jax.models import layers
from sentiment_jax.models.parameters import initializer
from sentiment_jax.training.lineage import source_run
from sentiment_jax.training.trained_model import Classifier, load_run


def initial_params(experiment: Classifier) -> tuple[Any, Any]:
    """Return parameters from seed and pretrained weights, and the LoadReport (or None) of those.

    The CPU draws them, so that every backend starts from the same bits and none compiles an
    orthogonal matrix, which takes a GPU up to a minute.
    """
    with layers.on_cpu():
        params = initializer(experiment.model)(jax.random.key(experiment.config.seed))
    choice = experiment.config.model
    if not choice.pretrained:
        return params, None
    if run := source_run(choice.pretrained):
        found = load_run(run, classifies=False)
        tensors = weights.to_tensors(found.params, choice.name)
        where, files = f"model.pretrained={run}", f"{run}, step {found.step}"
        return weights.load_tensors(tensors, experiment.model.config, params, where, files)
    folder, _ = hub.find_pretrained(choice.pretrained, choice.revision)
    return weights.load_pretrained(folder, experiment.model.config, params)
