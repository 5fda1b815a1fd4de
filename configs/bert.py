"""BERT fine-tuned on IMDB: the study's best setting (AdamW, batch 16, 3e-5, 5 epochs, 128 tokens).

    python -m sentiment_jax.main --config=configs/bert.py --workdir=runs/bert \
        --config.data.path=PREPARED_TFDS --config.model.pretrained=FOLDER_OR_HUB_ID

Measured with all-MiniLM-L6-v2, because BERT-base's weights were not available: .9099 at 128 tokens
(settings in results/accuracy/minilm-128), .9317 with `:long` and .9305 with `:long` after
`:pretrain`. That last model, distilled from itself and an LSTM (data.teacher), has .9381 (settings
in results/accuracy/minilm-512). BERT-base takes 8.6 s per step on 2 CPU cores
(results/speed/full_size): use a GPU.

Variant `:pretrain` continues with masked language modeling on the 50,000 unlabeled reviews and the
training reviews, before fine-tuning (settings of Sun et al., 2019, How to Fine-Tune BERT):

    python -m sentiment_jax.main --mode=pretrain --config=configs/bert.py:pretrain \
        --workdir=runs/bert-reviews --config.data.path=PREPARED_TFDS
    python -m sentiment_jax.main --config=configs/bert.py:long --workdir=runs/bert-long \
        --config.data.path=PREPARED_TFDS --config.model.pretrained=runs/bert-reviews

Variants: `:tiny` (2 layers x 128, random weights, the embedded sample) runs anywhere in under a
minute; `:long` (512 tokens, head and tail) is the recipe expected to be best.
"""

from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.recipes import make_config
from sentiment_jax.runtime import startup

DTYPE = startup.fastest_dtype("bert")
ATTENTION = "cudnn" if DTYPE == "bfloat16" else "xla"  # cuDNN's: bfloat16 only, no dropout
RECIPE = {
    "epochs": 5,
    "batch_size": 16,
    "data.max_length": 128,
    "data.length_buckets": (64, 128),
    "model.pretrained": "google/bert_uncased_L-12_H-768_A-12",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 3e-5,
    "optimizer.schedule": "linear",
    "optimizer.warmup_fraction": 0.1,
    "optimizer.weight_decay": 0.01,
    "optimizer.clip_norm": 1.0,
    "optimizer.eps": 1e-6,  # BERT's own AdamW
}
VARIANTS = {
    "tiny": {
        "epochs": 8,
        "data.source": "sample",
        "data.max_length": 96,
        "data.length_buckets": (32, 64),
        "data.vocabulary_size": 2000,
        "model.pretrained": "",
        "model.num_hidden_layers": 2,
        "model.hidden_size": 128,
        "model.embedding_size": 128,
        "model.num_attention_heads": 2,
        "model.intermediate_size": 512,
        "model.max_position_embeddings": 128,
        "optimizer.learning_rate": 1e-3,
    },
    "long": {
        "epochs": 3,
        "batch_size": 32,
        "eval_batch_size": 32,  # on a CPU, batches of 128 take longer (results/accuracy/peers)
        "data.max_length": 512,
        "data.truncation": "head_tail",
        "data.length_buckets": (128, 192, 256, 320, 384, 448),
        "model.dtype": DTYPE,
        "model.attention": ATTENTION,
        "model.attention_dropout": 0.0,  # a rate of .1 was no better (results/speed/gpu)
    },
    "pretrain": {
        "epochs": 3,
        "batch_size": 32,
        "eval_batch_size": 32,  # the logits of a larger batch take gigabytes
        "data.max_length": 256,
        "data.length_buckets": (96, 128, 160, 192, 224),
        "model.dtype": DTYPE,
        "optimizer.learning_rate": 5e-5,
    },
}
SWEEP = {
    "procedure": "rounds",  # the study's: best optimizer, then batch size, then learning rate
    "start": {"batch_size": 32, "learning_rate": 3e-5},
    "optimizer": ("sgd", "rmsprop", "adam", "adamw"),
    "optimizer_settings": {  # the study's AdamW decays weights, its other optimizers do not
        "sgd": {"weight_decay": 0.0},
        "rmsprop": {"weight_decay": 0.0},
        "adam": {"weight_decay": 0.0},
        "adamw": {"weight_decay": 0.01},
    },
    "batch_size": (16, 32),
    "learning_rate": (1e-4, 5e-5, 3e-5),
    "seeds": (0, 1, 2),  # for the winner's test scores; choices are made with config.seed
}
TINY_SWEEP = {
    "start": {"batch_size": 16, "learning_rate": 1e-3},
    "learning_rate": (3e-3, 1e-3, 3e-4),
}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of `variant` ("", "tiny", "long" or "pretrain")."""
    return make_config("bert", RECIPE, VARIANTS, variant)


def get_sweep(variant: str = "") -> dict[str, Any]:
    """Return the axes and the procedure of `--mode=sweep`."""
    return SWEEP | (TINY_SWEEP if variant == "tiny" else {})
