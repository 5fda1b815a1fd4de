"""ELECTRA-base fine-tuned on IMDB: the study's best setting (AdamW, batch 32, 3e-5, 5 epochs).

    python -m sentiment_jax.main --config=configs/electra.py --workdir=runs/electra \
        --config.data.path=PREPARED_TFDS --config.model.pretrained=FOLDER_OR_HUB_ID

Not run with its weights here (no network); full-size step times are in results/full_size.

Variants: `:tiny` (2 layers x 128, random weights, the embedded sample) runs anywhere in under a
minute; `:long` (512 tokens, head and tail, bfloat16, learning rate 1e-4 with layer-wise decay 0.8:
Clark et al., 2020) is the recipe expected to be best.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of `variant` ("", "tiny" or "long")."""
    config = common.base_config()
    config.model = common.encoder_model("electra", "google/electra-base-discriminator")
    config.optimizer.eps = 1e-6  # ELECTRA's own AdamW; optax has 1e-8
    if variant == "tiny":
        common.make_tiny(config)
    elif variant == "long":
        common.make_long(config)
        config.optimizer.learning_rate = 1e-4
        config.optimizer.layerwise_decay = 0.8
    elif variant:
        raise common.unknown_variant(variant, ("tiny", "long"))
    return config


def get_sweep(variant: str = "") -> dict[str, Any]:
    """Returns the axes and the procedure of `--mode=sweep`."""
    return common.encoder_sweep(variant)
