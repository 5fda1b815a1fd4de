"""Suggestions of a finished training, from its own figures on validation.

Each threshold separates real runs that need the advice from runs that do not:
tests/training/test_advice.py.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config, EncoderConfig
from sentiment_jax.data.tokenization import tokenize, unknown_id

FEW_STEPS = 100  # of the optimizer
FEW_TEXTS = 50  # held out for validation
LONG = 512  # tokens that bert:long reads
MULTILINGUAL = "intfloat/multilingual-e5-small"
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]+")


def advise(
    config: Config,
    result: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    *,
    truncated: float,
    unknown: float,
) -> list[str]:
    """Return sentences, the most important first.

    Args:
      config: the run's.
      result: the content of result.json.
      records: the lines of metrics.jsonl.
      truncated: the share of the training texts that are cut.
      unknown: the share of [UNK] among the tokens of the validation texts.
    """
    validations = [line for line in records if line["split"] == "val" and line["loss"] is not None]
    last = [line for line in records if line["split"] == "train"][-1]
    rules = (
        _baseline(config, result),
        describe_truncation(config, truncated),
        _few_steps(config, result, last),
        _rising_loss(result, validations),
        _imbalance(config, result["metrics"]["val"]),
        _overconfidence(result),
        _unknown_words(config, unknown),
    )
    return [sentence for sentence in rules if sentence]


def _baseline(config: Config, result: Mapping[str, Any]) -> str:
    scores = result.get("linear_baseline", {}).get("val")
    if not scores:
        return ""
    majority = result["metrics"]["val"]["majority_baseline"]
    name = config.accuracy if config.accuracy in scores else "accuracy"
    own = result["val"][name]
    if own > scores[name] or own == 1 or scores[name] < majority + 0.01 and name == "accuracy":
        return ""
    remedy = "--config=encoder, a small pretrained encoder (long texts: --config=bert:long)"
    if config.optimizer.name == "lbfgs":
        remedy = "--config=encoder, which trains all layers"
    elif isinstance(config.model, EncoderConfig) and config.model.pretrained:
        remedy = "other weights, --config.model.pretrained=FOLDER"
    elif result["val"]["examples"] < FEW_TEXTS and not config.data.folds:
        remedy += ", with --config.data.folds=5 to validate on all labeled texts"
    shown = "macro F1 " if name == "macro_f1" else ""
    return (
        f"the linear baseline is no worse on validation ({shown}{scores[name]:.4f}, this "
        f"model {own:.4f}): try {remedy}"
    )


def describe_truncation(config: Config, truncated: float) -> str:
    """Return what an encoder that cuts most texts should try; empty if this is none."""
    length = config.data.max_length
    if truncated < 0.5 or length >= LONG or not isinstance(config.model, EncoderConfig):
        return ""
    return (
        f"{truncated:.0%} of the training texts are cut to {length} tokens: --config=bert:long "
        f"reads {LONG}, and takes longer"
    )


def describe_vocabulary(config: Config, tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """Return what to try if a vocabulary of one language does not fit the texts; empty if it does.

    A Chinese or Japanese character counts as a word.
    """
    named = isinstance(config.model, EncoderConfig) and config.model.pretrained
    if not named or tokenizer.get_vocab_size() > 100_000:
        return ""
    parts = [text[:1000] for text in texts[:1000]]
    ids = [token for of_text in tokenize(tokenizer, parts) for token in of_text]
    pieces = len(ids) / max(sum(len(WORD.findall(part)) for part in parts), 1)
    unknown = sum(token == unknown_id(tokenizer) for token in ids) / max(len(ids), 1)
    # With all-MiniLM-L6-v2, English tweets as found take 1.34 and .01, French texts 1.51.
    if pieces < 1.45 and unknown < 0.2:
        return ""
    return (
        f"the training texts have {pieces:.1f} tokens a word, {unknown:.0%} of them unknown: these "
        "weights may not know their language (all-MiniLM-L6-v2 knows English); "
        f"--config.model.pretrained={MULTILINGUAL} knows a hundred"
    )


def _few_steps(config: Config, result: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    few = config.optimizer.takes_steps and last["step"] < FEW_STEPS and last["accuracy"] <= 0.95
    if not few or config.model.name == "average" or "folds" in result:  # which end on purpose
        return ""
    more = f"epochs ({config.epochs})"
    if result["stopped_early"]:
        more = f"early_stopping_patience ({config.early_stopping_patience})"
    smaller = f"lower batch_size ({config.batch_size})"
    return f"{last['step']} optimizer steps are few: {smaller} or raise {more}"


def _rising_loss(result: Mapping[str, Any], validations: Sequence[Mapping[str, Any]]) -> str:
    lowest = min(validations, key=lambda line: line["loss"], default=result["val"])
    chosen = result["val"]["loss"]
    if chosen <= 1.2 * lowest["loss"]:
        return ""
    return (
        f"the validation loss rose from {lowest['loss']:.4f} (epoch {lowest['epoch']}) to "
        f"{chosen:.4f} (epoch {result['best_epoch']}, the one chosen): select_by=loss keeps "
        "the former, more dropout or a lower learning rate may do better than both"
    )


def _imbalance(config: Config, measured: Mapping[str, Any]) -> str:
    rarest, scores = min(measured["classes"].items(), key=lambda item: item[1]["examples"])
    if not config.data.rare or scores["recall"] > 0.5 or config.class_weights == "balanced":
        return ""
    return (
        f"of the {scores['examples']:,} validation texts of class {rarest!r}, "
        f"{scores['recall']:.0%} are found: class_weights=balanced finds more; compare macro F1, "
        "not accuracy"
    )


def _overconfidence(result: Mapping[str, Any]) -> str:
    temperature = float(np.mean(result.get("temperature", 1.0)))  # several labels have several
    if temperature < 1.5:
        return ""
    return (
        f"the probabilities are over-confident: --calibrated divides their logits by "
        f"{temperature:.2f}, which fits validation best"
    )


def _unknown_words(config: Config, unknown: float) -> str:
    if unknown < 0.1 or config.model.name == "linear":  # whose character n-grams are known
        return ""
    remedy = f"lower data.min_frequency ({config.data.min_frequency})"
    if config.model.name in ("average", "lstm") and config.model.pretrained:
        remedy = "more unlabeled text would help"
    elif config.data.min_frequency == 1 or config.model.name != "lstm":
        remedy = "more texts, or the tokenizer of another encoder, would help"
    return f"{unknown:.0%} of the words in validation are unknown: {remedy}"
