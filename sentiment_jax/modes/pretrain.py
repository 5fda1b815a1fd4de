"""`--mode=pretrain`: learns from reviews without labels; a run like any, to fine-tune from.

It trains as `train` does, with the objective of its architecture (training/objectives.py), on the
text that data/unlabeled.py gathers. `--config.model.pretrained=RUN` starts from its best checkpoint
by the loss on held-out reviews.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import OBJECTIVES, DataConfig
from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import validate
from sentiment_jax.data.corpus import Corpus
from sentiment_jax.data.encoding import WHOLE, check_encoded, encode_corpus, segment
from sentiment_jax.data.unlabeled import load_text
from sentiment_jax.errors import InputError
from sentiment_jax.modes.train import dry_run as compile_steps
from sentiment_jax.modes.train import train
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training.experiment import Experiment, make_tokenizer
from sentiment_jax.training.trained_model import make_classifier

OWN_STEPS = {  # what an LSTM's vectors are learned with, and no other value
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.0,
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_norm": 0.0,
    "optimizer.layerwise_decay": 1.0,
    "optimizer.frozen": "none",
    "gradient_accumulation": 1,
    "shard_params": False,
    "model.dtype": "float32",
}


def pretrain(config: ConfigDict, workdir: Path, **options: Any) -> dict[str, Any]:
    """Pre-train, or resume where `workdir` stands; return result.json.

    `options` and errors are those of `train`.
    """
    options |= {"prepare": prepare_pretraining, "score_test": False}
    result = train(_with_objective(config), workdir, **options)
    print(f"{'next':8} fine-tune from it: --mode=train --config.model.pretrained={workdir}")
    return result


def dry_run(config: ConfigDict) -> None:
    """Compile the steps of a pre-training and print what they need."""
    compile_steps(_with_objective(config), prepare_pretraining)


def _with_objective(config: ConfigDict) -> ConfigDict:
    name = config.model.name
    validate(config, pretraining=True)
    if name == "lstm":
        set_to = flatten(config)
        wanted = [f"{key}={value}" for key, value in OWN_STEPS.items() if set_to.get(key) != value]
        if wanted:
            raise InputError(
                "--mode=pretrain of an lstm takes plain steps: use --config=lstm:pretrain, or set "
                f"{', '.join(wanted)}"
            )
    return override(config, {"pretrain.objective": OBJECTIVES[name]})


def prepare_pretraining(config: ConfigDict, tokenizer: Any = None) -> Experiment:
    """Gather and encode the text, in segments, and build the model of a resolved config.

    The tokenizer is a run's, or None to make the config's.
    """
    data = DataConfig(**config.data.to_dict())
    with progress_bar(None, "reading reviews"):
        corpus = load_text(data, config.pretrain.text, config.pretrain.unlabeled)
    if tokenizer is None:
        with progress_bar(None, "making the vocabulary"):
            tokenizer = make_tokenizer(config, corpus)
    classifier = make_classifier(config, tokenizer)
    read = {name: corpus.splits[name] for name in ("train", "val")}
    whole = dataclasses.replace(data, max_length=WHOLE, truncation="head")
    with progress_bar(sum(map(len, read.values())), "encoding", unit="review") as bar:
        encoded = encode_corpus(Corpus(read, {}), tokenizer, whole, bar.update)
        check_encoded(encoded, tokenizer.get_vocab_size())
        encoded = {name: segment(tokenizer, of, data.max_length) for name, of in encoded.items()}
    return Experiment(
        **vars(classifier), encoded=encoded, words={}, statistics=corpus.statistics, examples=()
    )
