"""`--mode=evaluate`: scores a split with a run's best checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import file_sha256, read_json, write_json
from sentiment_jax.storage.run_directory import check_same_data, write_lengths, write_predictions
from sentiment_jax.training import scoring
from sentiment_jax.training.console import print_scores
from sentiment_jax.training.experiment import Experiment, load_run, prepare_experiment


def score_split(
    experiment: Experiment,
    workdir: Path,
    params: Any,
    split: str,
    mesh: Mesh,
    stop: Callable[[], None] | None = None,
) -> scoring.Scores:
    """Scores one split; writes predictions.csv and lengths.csv."""
    encoded = experiment.encoded[split]
    scores = scoring.score_reviews(
        experiment.model,
        params,
        encoded,
        batch_size=experiment.config.eval_batch_size,
        buckets=experiment.buckets,
        mesh=mesh,
        description=split,
        stop=stop,
    )
    write_predictions(workdir / "predictions.csv", encoded.ids, encoded.labels, scores.p_positive)
    write_lengths(
        workdir / "lengths.csv",
        encoded.ids,
        experiment.words[split],
        encoded.lengths,
        experiment.config.data.max_length,
    )
    if processes.is_main():
        env = read_json(workdir / "env.json")
        for name in ("predictions", "lengths"):
            env[f"{name}_sha256"] = file_sha256(workdir / f"{name}.csv")
        write_json(workdir / "env.json", env)
    return scores


def evaluate_run(workdir: Path, split: str) -> dict[str, Any]:
    """`--mode=evaluate`: scores a split with a run's best checkpoint, from its directory alone.

    Raises:
      InputError: no run directory, or the data are not those of the run.
    """
    trained = load_run(workdir)
    experiment = prepare_experiment(trained.config, trained.tokenizer, only=split)
    check_same_data(workdir, experiment.statistics)
    scores = score_split(experiment, workdir, trained.params, split, trained.mesh).summary()
    print_scores(split, scores, f"step {trained.step}")
    print(json.dumps(scores))
    return scores
