"""BERT fine-tuned on IMDB: the study's best setting (AdamW, batch 16, 3e-5, 5 epochs, 128 tokens).

    python -m sentiment_jax.main --config=configs/bert.py --workdir=runs/bert \
        --config.data.path=PREPARED_TFDS --config.model.pretrained=FOLDER_OR_HUB_ID

Measured with all-MiniLM-L6-v2, for lack of BERT-base's weights: .9099, see results/minilm-128.
BERT-base takes 8.6 s a step on 2 CPU cores (results/full_size): a GPU is meant.

Variants: `:tiny` (2 layers x 128, random weights, the embedded sample) runs anywhere in under a
minute; `:long` (512 tokens, head and tail, bfloat16) is the recipe expected to be best.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of `variant` ("", "tiny" or "long")."""
    config = common.base_config()
    config.batch_size = 16
    config.model = common.encoder_model("bert", "google/bert_uncased_L-12_H-768_A-12")
    config.optimizer.eps = 1e-6  # BERT's own AdamW; optax has 1e-8
    if variant == "tiny":
        common.make_tiny(config)
    elif variant == "long":
        common.make_long(config)
    elif variant:
        raise common.unknown_variant(variant, ("tiny", "long"))
    return config


def get_sweep(variant: str = "") -> dict[str, Any]:
    """Returns the axes and the procedure of `--mode=sweep`."""
    return common.encoder_sweep(variant)
