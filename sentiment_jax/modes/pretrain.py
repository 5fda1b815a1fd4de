"""`--mode=pretrain`: learns from unlabeled text; a run like any other, to fine-tune from.

It trains as `train` does, with an objective of its architecture, on the text that data/unlabeled.py
gathers. `--config.model.pretrained=RUN` starts from the best checkpoint by held-out loss.
"""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tokenizers import Tokenizer

from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import OBJECTIVES, Config
from sentiment_jax.data.encoding import WHOLE, Encoded, encode
from sentiment_jax.data.tokenization import framing
from sentiment_jax.data.unlabeled import load_text
from sentiment_jax.modes.train import dry_run as compile_steps
from sentiment_jax.modes.train import train
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training.experiment import Experiment, make_tokenizer
from sentiment_jax.training.trained_model import make_classifier


def pretrain(recipe: ConfigDict, workdir: Path, **options: Any) -> dict[str, Any]:
    """Pre-train, or resume where `workdir` stands; return result.json.

    `options` and errors are those of `train`.
    """
    recipe = _with_objective(recipe)
    result = train(recipe, workdir, prepare=prepare_pretraining, score_test=False, **options)
    of_ngrams = recipe.pretrain.objective == "ngram_vectors"
    command = "--config=lstm:semi (few labels: average)" if of_ngrams else "--mode=train"
    print(f"{'next':8} fine-tune from it: {command} --config.model.pretrained={workdir}")
    return result


def dry_run(recipe: ConfigDict) -> None:
    """Compile the steps of a pre-training and print what they need."""
    compile_steps(_with_objective(recipe), prepare_pretraining)


def _with_objective(recipe: ConfigDict) -> ConfigDict:
    objective = recipe.pretrain.objective or OBJECTIVES[recipe.model.name][0]
    return override(recipe, {"pretrain.objective": objective})


def prepare_pretraining(config: Config, tokenizer: Tokenizer | None = None) -> Experiment:
    """Gather and encode the text, in segments, and build the network of a resolved config.

    The tokenizer is a run's, or None to make the config's.
    """
    data = config.data
    with progress_bar(None, "reading reviews"):
        corpus = load_text(data, config.pretrain.text, config.pretrain.unlabeled)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, corpus)
    classifier = make_classifier(config, tokenizer)
    splits = {name: corpus.splits[name] for name in ("train", "val")}
    segments = {}
    with progress_bar(sum(map(len, splits.values())), "encoding", unit="review") as bar:
        for name, split in splits.items():
            encoded = encode(tokenizer, split, WHOLE, "head", bar.update)
            segments[name] = segment(tokenizer, encoded, data.max_length)
    return Experiment(
        **vars(classifier), reviews={}, encoded=segments, statistics=corpus.statistics
    )


def segment(tokenizer: Tokenizer, encoded: Encoded, max_length: int) -> Encoded:
    """Split whole reviews into segments of nearly equal length; labels number the segments."""
    before, after = framing(tokenizer)
    room = max_length - len(before) - len(after)
    ids = []
    rows = []
    for name, start, end in zip(encoded.ids, encoded.offsets, encoded.offsets[1:], strict=False):
        body = encoded.token_ids[start + len(before) : end - len(after)]
        for part in np.array_split(body, max(-(-len(body) // room), 1)):
            ids.append(name)
            rows.append(np.concatenate([before, part, after]) if before else part)
    return Encoded(
        ids=tuple(ids),
        labels=np.arange(len(rows), dtype=np.int32),
        token_ids=np.concatenate(rows).astype(np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        truncated=0,
    )
