"""`--mode=pretrain`: learns from unlabeled text; a run like any other, to fine-tune from.

It trains as `train` does, with an objective of its architecture, on the text that data/unlabeled.py
gathers. `--config.model.pretrained=RUN` starts from the best checkpoint by held-out loss.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.recipes import read_recipe
from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.config.stored import flatten
from sentiment_jax.modes.train import complete
from sentiment_jax.runtime.terminal import print_line
from sentiment_jax.storage.metrics_log import check_tensorboard
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.fit import AfterEpoch
from sentiment_jax.training.run import Run, open_run, prepare
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.tasks.pretraining import PRETRAINING

RECIPES = {"lstm": "lstm:semi", "electra": "electra:long"}  # to fine-tune by; else bert:long
OF_RECIPES = (
    *("data.max_length", "data.truncation", "data.length_buckets"),
    *("data.vocabulary_size", "data.min_frequency"),
)


def print_next(run: Run, experiment: Experiment) -> None:
    """Print the command that fine-tunes from the run, on the labeled texts of its config."""
    config = experiment.config
    model = config.model
    recipe = RECIPES.get(model.name, "bert:long")
    theirs = flatten(read_recipe(recipe))
    ours = flatten(config) | {"model.pretrained": run.directory.path}
    named = [n for n in ours if n.startswith("data.") and n not in OF_RECIPES]
    settings = {name: ours[name] for name in [*named, "model.pretrained", "model.embedding_size"]}
    if isinstance(model, EncoderConfig):
        longest = model.max_position_embeddings - model.first_position
        settings["data.max_length"] = min(longest, theirs["data.max_length"])
        del settings["model.embedding_size"]  # which the source decides
    labeled = experiment.statistics["counts"]["train"]["labeled"]  # before a limit
    few = min(labeled, config.data.limit or labeled) // 4
    settings["batch_size"] = min(few or 1, theirs["batch_size"])
    changes = [f"--config.{n}={value}" for n, value in settings.items() if value != theirs[n]]
    command = [f"--config={recipe}", f"--workdir={run.directory.path}-tuned", *changes]
    print_line("next", f"fine-tune from it:\npython -m sentiment_jax.main {shlex.join(command)}")


def pretrain(
    recipe: ConfigDict,
    workdir: Path,
    *,
    fresh: bool = False,
    stop: Stop | None = None,
    stop_after: float | None = None,
    nested: bool = False,
    tensorboard: bool = False,
    after_epoch: Sequence[AfterEpoch] = (),
) -> dict[str, Any]:
    """Pre-train, or resume where `workdir` stands; return result.json.

    Arguments are those of `open_run` and `fit`, errors those of `train`.
    """
    if tensorboard:
        check_tensorboard()
    with open_run(
        recipe, workdir, PRETRAINING, fresh=fresh, stop=stop, stop_after=stop_after, nested=nested
    ) as run:
        if (result := run.finished) is not None:
            return result
        experiment = prepare(run)
        result = complete(
            run, experiment, tested=False, tensorboard=tensorboard, after_epoch=after_epoch
        )
        print_next(run, experiment)
        return result
