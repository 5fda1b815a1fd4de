"""A small pretrained encoder, fine-tuned on hundreds to thousands of short texts, such as your own.

    python -m sentiment_jax.main --config=configs/encoder.py --workdir=runs/mine \
        --config.data.path=reviews.csv --config.model.pretrained=FOLDER_OR_HUB_ID

The weights are all-MiniLM-L6-v2 (22.7 M parameters, 91 MB from the package of
requirements-weights.txt or from the hub), or those of any other encoder that is supported. For long
texts, such as IMDB's, see configs/bert.py:long.

Measured with these weights: .8995 +- .0017 (3 seeds) on 597 product sentences after training on
2,149, in 48 s on 2 CPU cores, 39 s with compiled steps in the cache (TF-IDF and logistic
regression: .7956).

`:probe` leaves the encoder as it is and fits the last layer by logistic regression: .8141 on the
same sentences. See results/accuracy/own_reviews.
"""

from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.recipes import make_config
from sentiment_jax.runtime import startup

DTYPE = startup.fastest_dtype("bert")
RECIPE = {
    "epochs": 2,
    "min_steps": 80,  # of 100 reviews, two epochs are too few steps
    "batch_size": 32,
    "contrastive": 1.0,  # worth most where reviews are few
    "probe_first": True,  # if classes are many or one is rare, a random layer learns slowly
    "select_by": "last",  # when the rate has fallen to 0; of few reviews, scores mislead
    "data.source": "csv",  # of one's own: data.path names it
    "data.validation_fraction": 0.1,
    "data.max_length": 128,
    "data.truncation": "head_tail",
    "data.length_buckets": (32, 64, 128),  # of rows with one review: several devices, ModernBERT
    "data.packing": True,
    "model.pretrained": "sentence-transformers/all-MiniLM-L6-v2",
    "model.pooling": "folder",
    "model.pooled_layers": 0,  # four of several labels per text, else the highest alone
    "model.dtype": DTYPE,
    "model.attention": "cudnn" if DTYPE == "bfloat16" else "xla",
    "model.hidden_dropout": 0.0,  # in two epochs of fine-tuning, no worse than .1
    "model.attention_dropout": 0.0,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-4,
    "optimizer.eps": 1e-6,
    "optimizer.frozen": "embeddings",  # half of the parameters: less time, level in validation
}
VARIANTS = {
    "probe": {
        "epochs": 1,
        "min_steps": 0,
        "contrastive": 0.0,
        "probe_first": False,
        "data.max_length": 256,  # no step has to read it
        "model.pooled_layers": 4,  # the highest say more about a text's topic than its sentiment
        "optimizer.name": "lbfgs",
        "optimizer.learning_rate": 0.0,
    },
}
SWEEP = {
    "procedure": "grid",
    "optimizer": ("adamw",),
    "batch_size": (16, 32),
    "learning_rate": (2e-4, 1e-4, 5e-5),
    "seeds": (0, 1, 2),
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant."""
    return make_config("bert", RECIPE, VARIANTS, variant)


def get_sweep(variant: str = "") -> dict[str, Any]:
    """Return the axes and the procedure of `--mode=sweep`."""
    return SWEEP
