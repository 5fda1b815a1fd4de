"""Fields that every config shares; the model files override what differs."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base_config() -> ConfigDict:
    """Returns the common fields, each with its meaning."""
    config = ConfigDict()
    config.seed = 0  # initial weights, dropout and the order of the batches
    config.epochs = 5
    config.batch_size = 32
    config.eval_batch_size = 128
    config.early_stopping_patience = 0  # epochs without a better validation score; 0: never stop
    config.log_every = 50  # steps between two training lines of metrics.jsonl
    config.checkpoint_every = 500  # steps between two checkpoints, beside one at every epoch's end
    config.cpu_devices = 1  # devices to split a CPU into, as far as they divide both batch sizes
    config.shard_params = False  # split parameters and optimiser state over the devices (FSDP)

    config.data = ConfigDict()
    config.data.source = "tfds"  # tfds | folder | csv | sample
    config.data.path = ""  # tfds: data_dir; folder: aclImdb or its .tar.gz; csv: the file
    config.data.max_length = 128  # tokens, [CLS] and [SEP] included
    config.data.truncation = "head"  # head | tail | head_tail
    config.data.validation_fraction = 0.2
    config.data.limit = 0  # training and validation reviews to keep; 0: all
    config.data.test_limit = 0  # test reviews to keep; 0: all
    config.data.split_seed = 0  # not `seed`: runs of all seeds share one validation set
    config.data.group_duplicates = True  # equal texts on one side of the split; False leaks
    config.data.text_column = "text"  # csv
    config.data.label_column = "label"  # csv
    config.data.test_path = ""  # csv: the test file; empty: test_fraction is held out
    config.data.test_fraction = 0.2
    config.data.vocabulary_size = 30000  # of a vocabulary trained here
    config.data.min_frequency = 5  # rarer words are unknown (word-level vocabularies)
    config.data.length_buckets = (64, 128)  # padded lengths; max_length is added as the last
    config.data.cache = ""  # folder of encoded reviews; empty: the user's cache folder

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # sgd | rmsprop | adam | adamw
    config.optimizer.learning_rate = 3e-5
    config.optimizer.schedule = "linear"  # constant | linear, after the warm-up
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.01  # not on biases and LayerNorm; L2 unless adamw
    config.optimizer.clip_norm = 1.0  # of the global gradient norm; 0: off
    config.optimizer.layerwise_decay = 1.0  # learning-rate factor per layer below the head
    config.optimizer.momentum = 0.0  # sgd
    config.optimizer.rms_decay = 0.9  # rmsprop
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8

    config.example_texts = (
        "One of the finest films I have seen in years: moving, funny and beautifully acted.",
        "A dull, predictable mess. I want my two hours back.",
        "The effects are great, but the story never comes alive and the jokes fall flat.",
        "I expected to hate it, and walked out smiling.",
    )
    return config


def base_sweep() -> dict[str, Any]:
    """Returns the study's axes, which every model shares; `--sweep_AXIS=value,...` replaces one."""
    return {
        "optimizer": ("sgd", "rmsprop", "adam", "adamw"),
        # Decay is what the study's AdamW has and its other optimisers have not.
        "optimizer_settings": {
            "sgd": {"weight_decay": 0.0},
            "rmsprop": {"weight_decay": 0.0},
            "adam": {"weight_decay": 0.0},
            "adamw": {"weight_decay": 0.01},
        },
        "learning_rate": (1e-4, 5e-5, 3e-5),
        "seeds": (0, 1, 2),  # of the winner's test scores; all choices are made with config.seed
    }


def encoder_sweep(variant: str) -> dict[str, Any]:
    """Returns the study's stages: best optimiser, then batch size, then learning rate."""
    sweep = base_sweep()
    sweep["procedure"] = "stages"
    sweep["batch_size"] = (16, 32)
    sweep["start"] = {"batch_size": 32, "learning_rate": 3e-5}
    if variant == "tiny":
        sweep["learning_rate"] = (3e-3, 1e-3, 3e-4)
        sweep["start"] = {"batch_size": 16, "learning_rate": 1e-3}
    return sweep


def encoder_model(name: str, pretrained: str) -> ConfigDict:
    """Returns the model fields of BERT and ELECTRA; sizes come from the weights' config.json."""
    model = ConfigDict()
    model.name = name
    model.pretrained = pretrained  # hub id, local folder, or empty: random weights
    model.revision = ""  # hub commit; empty: the newest, recorded in the run's config.json
    model.dtype = "float32"  # of the computation: float32 | bfloat16; parameters stay float32
    model.attention = "xla"  # xla | cudnn (bfloat16, no attention dropout)
    model.remat = False  # recompute activations in the backward pass: less memory, more time
    model.scan_layers = False  # one compiled layer: faster compilation
    for size in (
        "vocab_size",
        "embedding_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    ):
        model[size] = placeholder(int)  # None: as the pretrained weights, or BERT-base's
    for rate in ("hidden_dropout", "attention_dropout", "classifier_dropout"):
        model[rate] = placeholder(float)
    return model


def unknown_variant(variant: str, known: tuple[str, ...]) -> ValueError:
    """The error for a variant that a config does not have."""
    return ValueError(f"unknown variant {variant!r}: one of {', '.join(known)}")


def make_tiny(config: ConfigDict) -> None:
    """Turns an encoder's config into its `:tiny` variant: random weights, the embedded sample."""
    config.epochs = 8
    config.batch_size = 16
    config.data.source = "sample"
    config.data.max_length = 96
    config.data.length_buckets = (32, 64)
    config.data.vocabulary_size = 2000
    config.model.pretrained = ""
    config.model.num_hidden_layers = 2
    config.model.hidden_size = 128
    config.model.embedding_size = 128
    config.model.num_attention_heads = 2
    config.model.intermediate_size = 512
    config.model.max_position_embeddings = 128
    config.optimizer.learning_rate = 1e-3


def make_long(config: ConfigDict) -> None:
    """Turns an encoder's config into its `:long` variant: 512 tokens, head and tail, bfloat16."""
    config.batch_size = 32
    config.epochs = 3
    config.data.max_length = 512
    config.data.truncation = "head_tail"
    config.data.length_buckets = (128, 192, 256, 320, 384, 448)
    config.model.dtype = "bfloat16"
