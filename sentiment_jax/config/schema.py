"""The schema: each setting once, with its type, default, allowed values and meaning.

A recipe in `configs/`, its validation, the list that `--config=FILE --help` prints and the
comparison of two configs all derive from these dataclasses. What a user edits is a ConfigDict
(recipes.py); inside the package a config is a frozen `Config`, which `resolve` makes of it.
"""

import csv
import dataclasses
import functools
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, ClassVar

from sentiment_jax.errors import InputError, did_you_mean

TRUNCATIONS = ("head", "tail", "head_tail")
POOLINGS = ("last", "mean", "max", "mean_max")  # of an LSTM
ENCODER_POOLINGS = ("head", "first", "mean", "folder")  # the last: first or mean, as a folder says
DTYPES = ("float32", "bfloat16", "tensorfloat32")  # the last: float32 with fast products
CLASSES = ("negative", "positive")  # where the labels say no more
MOST_CLASSES = 1_000
FEW_CLASSES = 10  # of more, the worst are shown, and what is fitted per class is bounded
MLM = ("masked_language_modeling",)
OBJECTIVES = {  # of pre-training, by architecture; the first is the default
    "bert": MLM,
    "electra": ("replaced_token_detection",),
    **dict.fromkeys(("distilbert", "roberta", "xlm-roberta", "modernbert"), MLM),
    "lstm": ("ngram_vectors",),
    "linear": (),
    "average": (),
}
OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw", "lbfgs", "liblinear")
SELECTED_BY = ("accuracy", "loss", "balanced_accuracy", "macro_f1", "auc", "last")
PROCEDURES = ("grid", "rounds")  # of a sweep
OF_VOCABULARY = ("data.vocabulary_size", "data.min_frequency", "data.ngrams")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the schema says of a setting besides its type."""

    default: Any  # its value where a recipe says nothing
    meaning: str  # empty: pretrained weights decide it, no recipe sets it
    choices: tuple[str, ...] = ()  # the allowed values; empty where a range decides
    at_least: float | int | None = None
    below: float | int = math.inf
    at_most: float | int = math.inf
    inherited: bool = False  # in a recipe, None stands for the pretrained weights' value
    harmless: bool = False  # does not affect results: a run may resume with another value
    only: str = ""  # the one mode, train or pretrain, that reads it

    @property
    def allowed(self) -> str:
        """Return the allowed values in words, empty if any will do."""
        if self.at_least is None:
            return " | ".join(self.choices)
        upper = f" and < {self.below}" if self.below < math.inf else ""
        upper = f" and <= {self.at_most:g}" if self.at_most < math.inf else upper
        return f">= {self.at_least:g}{upper}"

    def problem(self, name: str, value: Any) -> str:
        """Return what is wrong with a value, in words; empty if nothing is."""
        if self.choices and value not in self.choices:
            near = did_you_mean(str(value), self.choices)
            return f"{name}={value!r} is unknown, choose {', '.join(self.choices)}{near}"
        if isinstance(value, str) and "\0" in value:
            return f"{name}={value!r} holds a NUL"
        if value is None and not self.inherited:
            return f"{name}=None: a value is needed"
        if value is None or self.at_least is None:
            return ""
        if self.at_least <= value < self.below and value <= self.at_most and math.isfinite(value):
            return ""
        return f"{name}={value} must be {self.allowed} and finite"


def setting(default: Any, meaning: str, **rules: Any) -> Any:
    """Declare a field of a group; `rules` are the other fields of Setting."""
    rule = Setting(default, meaning, **rules)
    return dataclasses.field(default=default, metadata={"setting": rule})


def settings_of(group: type, prefix: str = "") -> dict[str, Setting]:
    """Return the settings of one dataclass: prefix + field -> Setting."""
    rules = {f.name: rule for f in dataclasses.fields(group) for rule in f.metadata.values()}
    return {prefix + name: rule for name, rule in rules.items() if rule.meaning}


# Upper bounds are beyond any honest use: what exceeds them is a slip that would fill the memory.
_count = functools.partial(setting, at_least=1, at_most=10**9)
_size = functools.partial(_count, at_most=2**15)
_entries = functools.partial(_count, at_most=10**6)
_seed = functools.partial(setting, at_least=0, below=2**32)
_from_zero = functools.partial(setting, at_least=0, at_most=10**9)
_share = functools.partial(setting, at_least=0, below=1)
_fixed = functools.partial(setting, meaning="")  # what pretrained weights decide


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to read, how to split it and how to turn it into token ids."""

    source: str = setting("tfds", "kind of data", choices=("tfds", "folder", "csv", "sample"))
    path: str = setting("", "table, folder of CLASS/*.txt, tfds data_dir or aclImdb", harmless=True)
    max_length: int = _size(128, "most tokens per text, [CLS] and [SEP] included", at_least=3)
    truncation: str = setting("head", "part of a longer text to keep", choices=TRUNCATIONS)
    validation_fraction: float = _share(0.2, "share of each class held out; 0: none")
    folds: int = _from_zero(0, "folds, before training on all; 0: hold out", only="train")
    limit: int = _from_zero(0, "labeled texts outside the test split to keep; 0: all")
    test_limit: int = _from_zero(0, "test texts to keep; 0: all")
    split_seed: int = _seed(0, "seed of splits and limits, apart from the run's seed")
    group_duplicates: bool = setting(True, "keep equal texts on one side of a split; False leaks")
    text_column: str = setting("text", "csv: the column of the texts")
    label_column: str = setting("label", "csv: the column of the labels")
    label_columns: str = setting("", "csv: A,B,... of 0 and 1, a label each: several per text")
    label_separator: str = setting("", "csv: ; say, between the labels of a text: several or none")
    # Harmless: the data's hash changes with them. A run's --input is read by the same four.
    encoding: str = setting("", "csv: cp1252 (Latin-1) say, if it is not UTF-8", harmless=True)
    separator: str = setting("", "csv: ; say, or tab, between cells; empty: found", harmless=True)
    quote: str = setting("", "csv: ' say, or none, around a cell; empty: found", harmless=True)
    header: bool = setting(True, "csv: False: the columns are 1, 2, ... by number", harmless=True)
    labels: str = setting("", "the classes, A,B,...; empty: those found", harmless=True)
    positive_labels: str = setting("", "csv: 4,5 say; the other class: below")
    negative_labels: str = setting("", "csv: 1,2 say; what is in neither is dropped")
    test_path: str = setting("", "csv: the test file; empty: test_fraction is held out")
    test_fraction: float = _share(0.2, "csv: share held out for the test", at_least=1e-6)
    validation_path: str = setting("", "csv: the validation file; empty: validation_fraction")
    teacher: str = setting("", "RUN or RUN,RUN,...: label text for distillation", only="train")
    vocabulary_size: int = _entries(30_000, "most entries to learn, n-grams apart", at_least=10)
    min_frequency: int = _count(5, "rarer words are unknown (word-level vocabularies)")
    ngrams: int = _count(1, "longest n-gram with an embedding of its own", at_most=3)
    length_buckets: tuple[int, ...] = setting((64, 128), "padded lengths, besides max_length")
    packing: bool = setting(False, "encoders on one device: rows that hold several short texts")
    # Harmless: the data decide it.
    rare: bool = setting(False, "a class has less than half of an even share", harmless=True)

    @property
    def between_labels(self) -> str:
        """What stands between the labels of a text; empty if each text has one label."""
        return self.label_separator or (";" if self.label_columns else "")

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels, or none."""
        return bool(self.between_labels)

    @property
    def accuracy_misleads(self) -> bool:
        """Whether macro F1 ranks models instead: labels are several per text, or a class rare."""
        return self.multi_label or self.rare

    @property
    def held_out(self) -> float:
        """The share of texts that no training sees: none where each fold is held out in turn."""
        return 0.0 if self.folds else self.validation_fraction

    @property
    def validates(self) -> bool:
        """Whether any texts are scored that a model has not seen, to choose by."""
        return bool(self.validation_fraction or self.folds or self.validation_path)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What every architecture has: its name, the weights that it starts from, its number type.

    Parameters, softmax, layer-norm statistics and logits are float32 whatever `dtype` is.
    """

    name: str = setting("bert", "architecture", choices=tuple(OBJECTIVES))
    pretrained: str = setting("", "hub id, folder of weights, or run; empty: random", harmless=True)
    dtype: str = setting("float32", "type of the computation; parameters: float32", choices=DTYPES)
    vocab_size: int = 0  # entries of the embedding table; 0: as many as the tokenizer has

    @property
    def title(self) -> str:
        """The architecture, after the weights or run that it starts from, if any."""
        name = self.name.upper()
        return f"{PurePath(self.pretrained).name} ({name})" if self.pretrained else name


@dataclasses.dataclass(frozen=True)
class LstmConfig(ModelConfig):
    """An LSTM classifier; the defaults are the study's network."""

    name: str = setting("lstm", "architecture", choices=tuple(OBJECTIVES))
    embedding_size: int = _size(100, "width of the word embeddings")
    hidden_size: int = _size(64, "units per direction")
    dense_size: int = _size(128, "units of the ReLU layer before the logits")
    bidirectional: bool = setting(False, "read backwards as well")
    pooling: str = setting("last", "states that reach the classifier", choices=POOLINGS)
    embedding_dropout: float = _share(0.0, "dropout rate after the embeddings")
    segment_length: int = _from_zero(0, "words per segment, pooled over a text; 0: all")
    word_dropout: float = _share(0.0, "share of words unknown in training")
    output_dropout: float = _share(0.3, "dropout rate after pooling")


@dataclasses.dataclass(frozen=True)
class LinearConfig(ModelConfig):
    """A linear classifier of n-grams of words and characters."""

    name: str = setting("linear", "architecture", choices=tuple(OBJECTIVES))


@dataclasses.dataclass(frozen=True)
class AverageConfig(ModelConfig):
    """A linear classifier of the average of pretrained n-gram embeddings."""

    name: str = setting("average", "architecture", choices=tuple(OBJECTIVES))
    embedding_size: int = _size(100, "width of the word embeddings")


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """An encoder's sizes and rates, Hugging Face's config.json in our names; defaults: BERT-base.

    An `embedding_size` other than `hidden_size` adds a projection (ELECTRA-small).
    """

    revision: str = setting("", "commit on the hub; empty: the newest, which config.json records")
    embedding_size: int = _size(768, "width of the embeddings", inherited=True)
    hidden_size: int = _size(768, "width of the layers", inherited=True)
    num_hidden_layers: int = _count(12, "transformer layers", at_most=256, inherited=True)
    num_attention_heads: int = _size(12, "attention heads", inherited=True)
    intermediate_size: int = _size(3072, "width of the feed-forward networks", inherited=True)
    max_position_embeddings: int = _size(512, "longest input in tokens", inherited=True)
    hidden_dropout: float = _share(0.1, "dropout rate of the layers", inherited=True)
    attention_dropout: float = _share(0.1, "dropout rate of attention weights", inherited=True)
    classifier_dropout: float | None = _share(None, "None: as hidden_dropout", inherited=True)
    attention: str = setting("xla", "kernel; cudnn: bfloat16 on a GPU", choices=("xla", "cudnn"))
    remat: bool = setting(False, "rematerialize activations: less memory, more time")
    pooling: str = setting("head", "what the last layer reads", choices=ENCODER_POOLINGS)
    pooled_layers: int = _from_zero(1, "highest layers to average; 0: by the labels", at_most=256)
    # The weights' own, which no recipe sets:
    type_vocab_size: int = _fixed(2, at_least=0)
    layer_norm_eps: float = _fixed(1e-12, at_least=1e-30, below=1)
    hidden_act: str = _fixed("gelu", choices=("gelu",))
    initializer_range: float = _fixed(0.02, at_least=0, below=1)
    # The architecture's own:
    biases: ClassVar[bool] = True  # of the layers and of their normalizations
    attention_output_dropout: ClassVar[bool] = True
    position_embeddings: ClassVar[bool] = True
    first_position: ClassVar[int] = 0  # the number of the first token's

    def __post_init__(self) -> None:
        rules = [(f.name, rule) for f in dataclasses.fields(self) for rule in f.metadata.values()]
        found = [rule.problem(f"model.{name}", getattr(self, name)) for name, rule in rules]
        problems = [*filter(None, found)]
        if not problems and self.hidden_size % self.num_attention_heads:
            heads = f"model.num_attention_heads={self.num_attention_heads}"
            problems.append(f"model.hidden_size={self.hidden_size} is not divisible by {heads}")
        if self.attention == "cudnn" and (self.dtype != "bfloat16" or self.attention_dropout > 0):
            problems.append(
                "model.attention=cudnn needs model.dtype=bfloat16 and model.attention_dropout=0.0, "
                f"got {self.dtype} and {self.attention_dropout}"
            )
        if problems:
            raise InputError("; ".join(problems))


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """DistilBERT: BERT without token types."""

    type_vocab_size: int = _fixed(0, at_least=0)
    attention_output_dropout: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class RobertaConfig(EncoderConfig):
    """RoBERTa and XLM-R: BERT with the first positions left to padding."""

    first_position: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True)
class ModernBertConfig(EncoderConfig):
    """ModernBERT: every `global_attn_every_n_layers`-th layer attends to all tokens."""

    type_vocab_size: int = _fixed(0, at_least=0)
    layer_norm_eps: float = _fixed(1e-5, at_least=1e-30, below=1)
    global_attn_every_n_layers: int = _fixed(3, at_least=1)
    local_attention: int = _fixed(128, at_least=2)  # tokens in the window of the other layers
    global_rope_theta: float = _fixed(160_000.0, at_least=1)
    local_rope_theta: float = _fixed(10_000.0, at_least=1)
    classifier_pooling: str = _fixed("cls", choices=("cls", "mean"))
    position_embeddings: ClassVar[bool] = False
    biases: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer and its learning-rate schedule."""

    name: str = setting("adamw", "lbfgs: the last layer; liblinear: linear", choices=OPTIMIZERS)
    learning_rate: float = _from_zero(3e-5, "peak learning rate", at_most=1e30)
    schedule: str = setting("linear", "course after the warm-up", choices=("constant", "linear"))
    warmup_fraction: float = _from_zero(0.1, "share of steps to warm up", at_most=1)
    weight_decay: float = _from_zero(0.01, "not of biases and LayerNorm; L2 unless adamw")
    clip_norm: float = _from_zero(1.0, "largest global gradient norm; 0: no limit")
    layerwise_decay: float = setting(1.0, "rate factor per layer", at_least=1e-6, at_most=1)
    frozen: str = setting("none", "left as it is", choices=("none", "embeddings"))
    momentum: float = _share(0.0, "sgd: momentum")
    rms_decay: float = _share(0.9, "rmsprop: decay of the mean square")
    b1: float = _share(0.9, "adam, adamw: decay of the first moment")
    b2: float = _share(0.999, "adam, adamw: decay of the second moment")
    eps: float = _from_zero(1e-8, "added to the denominator", at_least=1e-30)

    @property
    def takes_steps(self) -> bool:
        """Whether the training takes gradient steps; otherwise it is training/probe.py's fit."""
        return self.name not in ("lbfgs", "liblinear")


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Learning from unlabeled text: `--mode=pretrain`, and `data.teacher` in training."""

    objective: str = setting(
        "",
        "of --mode=pretrain; empty: the architecture's first",
        only="pretrain",
        choices=("", *dict.fromkeys(itertools.chain.from_iterable(OBJECTIVES.values()))),
    )
    text: str = setting("", "file or folder of text; empty: the source's unlabeled", harmless=True)
    unlabeled: bool = setting(True, "False: learn from the training texts alone")
    mask_fraction: float = _share(
        0.15, "share of tokens to predict", at_least=1e-6, at_most=0.5, only="pretrain"
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    seed: int = _seed(0, "seed of weights, dropout and batch order")
    epochs: int = _count(5, "passes over the training texts", at_most=100_000)
    min_steps: int = _from_zero(0, "fewest optimizer steps: more epochs where texts are few")
    batch_size: int = _size(32, "texts per optimizer step, on all devices together")
    eval_batch_size: int = _size(128, "texts per batch of evaluation", harmless=True)
    gradient_accumulation: int = _count(1, "parts of a batch, computed in turn: less memory")
    select_by: str = setting("accuracy", "picks the epoch", choices=SELECTED_BY, only="train")
    early_stopping_patience: int = _from_zero(0, "epochs without a better score; 0: never stop")
    probe_first: bool = setting(False, "many or rare classes: fit last layer first", only="train")
    log_every: int = _count(50, "steps between training lines of metrics.jsonl", harmless=True)
    checkpoint_every: int = _count(500, "steps between checkpoints within an epoch", harmless=True)
    cpu_devices: int = _count(1, "parts of a CPU, as far as both batch sizes divide", at_most=1024)
    class_weights: str = setting("none", "of the loss", choices=("none", "balanced"), only="train")
    contrastive: float = _from_zero(0.0, "weight of a contrastive loss in training", only="train")
    linear_baseline: bool = setting(True, "compare with scikit-learn at the end", harmless=True)
    data: DataConfig = DataConfig()
    model: ModelConfig = EncoderConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    pretrain: PretrainConfig = PretrainConfig()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their numbers."""
        return split_names(self.data.labels) or CLASSES

    @property
    def accuracy(self) -> str:
        """The metric that `select_by=accuracy` stands for."""
        if self.data.accuracy_misleads:
            return "macro_f1"
        return "balanced_accuracy" if self.class_weights == "balanced" else "accuracy"

    @property
    def cells(self) -> list[int | str]:
        """What stands for the classes in tables: their names, or 0 and 1 if the data name none."""
        names = split_names(self.data.labels) or ("0", "1")
        return [int(name) if re.fullmatch(r"0|-?[1-9]\d*", name) else name for name in names]


ENCODERS: dict[str, type[EncoderConfig]] = {  # by Hugging Face's model_type
    "bert": EncoderConfig,
    "electra": EncoderConfig,
    "distilbert": DistilBertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": RobertaConfig,
    "modernbert": ModernBertConfig,
}
MODELS: dict[str, type[ModelConfig]] = {
    **ENCODERS,
    "lstm": LstmConfig,
    "linear": LinearConfig,
    "average": AverageConfig,
}


def groups_of(model: str) -> dict[str, Any]:
    """Return the dataclass of each group in one architecture's configs."""
    return {
        "data": DataConfig,
        "model": MODELS[model],
        "optimizer": OptimizerConfig,
        "pretrain": PretrainConfig,
    }


def schema(model: str) -> dict[str, Setting]:
    """Return the settings of one architecture's configs: "group.field" -> Setting."""
    settings = settings_of(Config)
    for name, group in groups_of(model).items():
        settings |= settings_of(group, f"{name}.")
    return settings


HARMLESS = tuple(name for name, rule in schema("bert").items() if rule.harmless)


def sweep_fields() -> list[str]:
    """Return the settings that a sweep may vary: they affect results, but not which texts."""
    encoding = ("data.max_length", "data.truncation", *OF_VOCABULARY)
    fixed = ("seed", "cpu_devices", "select_by", "model.name", "model.revision")
    settings = {name: rule for of in MODELS for name, rule in schema(of).items()}
    return [
        name
        for name, rule in settings.items()
        if not (rule.harmless or name in fixed or isinstance(rule.default, tuple))
        and (name in encoding or not name.startswith(("data.", "pretrain.")))
    ]


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in A,B,...; one that holds a comma stands in double quotes."""
    return tuple(name.strip() for name in next(csv.reader([text]), []))


def join_names(names: Sequence[str]) -> str:
    """Return what split_names takes apart."""
    csv.writer(text := io.StringIO(), lineterminator="").writerow(names)
    return text.getvalue()
