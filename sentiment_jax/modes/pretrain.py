"""`--mode=pretrain`: learns from unlabeled text; a run like any other, to fine-tune from.

It trains as `train` does, with an objective of its architecture, on the text that data/unlabeled.py
gathers. `--config.model.pretrained=RUN` starts from the best checkpoint by held-out loss.
"""

from pathlib import Path
from typing import Any, Unpack

from ml_collections import ConfigDict

from sentiment_jax.modes import train
from sentiment_jax.training.run import TrainingRun
from sentiment_jax.training.stages import Options, run_stages
from sentiment_jax.training.tasks.pretraining import PRETRAINING


def print_next(run: TrainingRun) -> None:
    """Print how to fine-tune from the run."""
    of_ngrams = run.config.model.name == "lstm"
    command = "--config=lstm:semi (few labels: average)" if of_ngrams else "--mode=train"
    source = f"--config.model.pretrained={run.directory.path}"
    print(f"{'next':8} fine-tune from it: {command} {source}")


def pretrain(recipe: ConfigDict, workdir: Path, **options: Unpack[Options]) -> dict[str, Any]:
    """Pre-train, or resume where `workdir` stands; return result.json.

    Arguments and errors are those of `train`.
    """
    return run_stages(recipe, workdir, (*train.TRIAL, print_next), task=PRETRAINING, **options)
