"""A linear classifier of n-grams, which learns from hundreds to thousands of texts in seconds.

    python -m sentiment_jax.main --config=linear --workdir=runs/mine \
        --config.data.path=reviews.csv

It is scikit-learn's TF-IDF of words, bigrams and character n-grams, and its logistic regression,
whose C the training texts choose: the linear baseline beside other runs, as a run. It reads a text
as a whole (data.max_length does nothing), and takes no steps.

Variant `:sample` trains on the embedded sample.
"""

from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.recipes import make_config

RECIPE = {
    "epochs": 1,
    "eval_batch_size": 64,
    "linear_baseline": False,  # `linear` is this baseline
    "data.source": "csv",  # of one's own: data.path names it
    "data.validation_fraction": 0.1,
    "data.max_length": 2**15,
    "optimizer.name": "liblinear",
    "optimizer.learning_rate": 0.0,
}
VARIANTS = {"sample": {"data.source": "sample"}}
SWEEP = {
    "procedure": "grid",
    "optimizer": ("liblinear",),
    "batch_size": (32,),
    "learning_rate": (0.0,),
    "seeds": (0,),  # which does not affect results
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of `variant`: "" or a key of `VARIANTS`."""
    return make_config("linear", RECIPE, VARIANTS, variant)


def get_sweep(variant: str = "") -> dict[str, Any]:
    """Return the axes and the procedure of `--mode=sweep`."""
    return SWEEP
