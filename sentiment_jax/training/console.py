"""What a training run prints."""

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sentiment_jax.config.schema import CLASSES, Config
from sentiment_jax.data.ngrams import unigrams
from sentiment_jax.data.tokenization import unknown_id
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.runtime import devices, processes, terminal
from sentiment_jax.training import compilation
from sentiment_jax.training.compilation import mebibytes
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.metrics import mcc_by_chance
from sentiment_jax.training.run import Progress, TrainingRun, averages


def _warn_of_data(experiment: Experiment) -> None:
    """Warn of what would make the scores worthless, with the figures."""
    statistics = experiment.statistics
    if contradictory := statistics["contradictory"]:
        what = "both labels" if len(experiment.classes) == 2 else "several labels"
        terminal.warn_once(f"{contradictory:,} texts have {what}: nothing can be learned from them")
    for split in ("val", "test"):
        shared = statistics["shared"][f"train_{split}"]
        total = len(experiment.encoded[split])
        if 0 < total < 100 * shared:  # IMDB's test set: 0.4 %; a fold scores no test reviews
            terminal.warn_once(
                f"{shared:,} of {total:,} {split} reviews are in train too: their score misleads"
            )
    size = len(unigrams(experiment.tokenizer))
    unknown = unknown_id(experiment.tokenizer)
    share = np.mean(experiment.encoded["train"].tokens == unknown)
    if share > 0.5:
        terminal.warn_once(f"{share:.0%} of the training tokens are unknown")
    if size < 50:
        terminal.warn_once(f"the vocabulary has only {size:,} words")


def warn_of_chance(run: TrainingRun, scores: dict[str, Any], measured: dict[str, Any]) -> None:
    """Warn if a split's predictions may be at chance, or their loss is ten times that of chance.

    For unequal classes an accuracy below the largest class's share may still be useful: what counts
    is that predictions correlate with labels (MCC) more than by chance.
    """
    for split, metrics in measured.items():
        accuracy = scores[split]["accuracy"]
        loss = scores[split]["loss"]
        total = scores[split]["examples"]
        classes = len(metrics["classes"])
        chance = mcc_by_chance(total)
        if metrics["mcc"] <= chance or loss > 10 * math.log(classes):
            terminal.warn_once(
                f"{run.directory.path} may be no better than guessing: {split} accuracy "
                f"{accuracy:.4f} on {total:,} reviews (the largest class: "
                f"{metrics['majority_baseline']:.4f}), MCC {metrics['mcc']:.4f} (by chance: "
                f"{chance:.4f}), loss {loss:.4g} (log {classes}: {math.log(classes):.4f})"
            )
            return


def describe_run(run: TrainingRun, load_report: LoadReport | None) -> None:
    """Print data, model, weights, device and where the run stands."""
    experiment = run.experiment
    config = experiment.config
    if config.pretrain.objective:
        _describe_text(experiment)
    else:
        _describe_reviews(experiment)
    size = experiment.tokenizer.get_vocab_size()
    print(f"{'model':8} {config.model.name}, {run.parameters:,} parameters, {size:,} token types")
    if load_report is not None:
        print(f"{'weights':8} {len(load_report.loaded)} loaded from {load_report.files}")
        for kind, names in (("new", load_report.new), ("unused", load_report.unused)):
            print(f"{'':8} {len(names)} {kind}: {', '.join(names) or 'none'}")
        if size < config.model.vocab_size:
            terminal.warn_once(
                f"the tokenizer has {size:,} of the weights' {config.model.vocab_size:,} token "
                "types"
            )
    print(f"{'device':8} {describe_devices()}")
    step = run.progress.step
    standing = f"{run.total_steps:,} steps"
    if step:
        standing = f"resuming at step {step:,} of {run.total_steps:,}"
    print(f"{'run':8} {run.directory.path}, {run.epochs} epochs, {standing}", flush=True)
    if not config.pretrain.objective:
        _warn_of_data(experiment)


def _describe_text(experiment: Experiment) -> None:
    """Print what a pre-training learns from, and what it is validated on."""
    statistics = experiment.statistics
    length = experiment.config.data.max_length
    for name, encoded in experiment.encoded.items():
        kinds = statistics["counts"][name]
        print(
            f"{'data' if name == 'train' else '':8} {name:5} {sum(kinds.values()):>6,} reviews, "
            f"{kinds['unlabeled']:,} unlabeled: {len(encoded):,} segments of at most {length} "
            f"tokens, {len(encoded.token_ids):,} in all"
        )
    print(f"{'':8} source {statistics['source']}, hash {statistics['data_hash'][:12]}")


def _describe_reviews(experiment: Experiment) -> None:
    """Print classes, splits and where the reviews are from."""
    data = experiment.config.data
    statistics = experiment.statistics
    classes = experiment.classes
    if classes != CLASSES:
        numbered = ", ".join(f"{name} ({number})" for number, name in enumerate(classes))
        if len(classes) == 2:
            numbered += f"; {classes[1]} is positive"
        print(f"{'labels':8} {numbered}")
    for name, by_class in statistics["counts"].items():
        counts = list(by_class.values())
        if len(classes) == 2:
            described = f"{counts[1]:>6,} {classes[1]}"
        elif len(classes) <= 5:
            described = ", ".join(f"{label}: {count:,}" for label, count in by_class.items())
        else:
            described = f"{len(classes)} classes of {min(counts):,} to {max(counts):,}"
        print(
            f"{'data' if name == 'train' else '':8} {name:5} {sum(counts):>6,} reviews, "
            f"{described}, {statistics['truncated'][name]:6.2%} truncated to "
            f"{data.max_length} tokens ({data.truncation})"
        )
    if data.teacher:
        print(f"{'':14} {statistics['unlabeled']:>6,} unlabeled, labeled by {data.teacher}")
    print(f"{'':8} source {statistics['source']}, hash {statistics['data_hash'][:12]}")
    copies = ", ".join(f"{n} in {split}" for split, n in statistics["duplicates"].items())
    shared = statistics["shared"]["train_test"]
    print(f"{'':8} duplicates: {copies}; test reviews also in train: {shared}")


def describe_devices() -> str:
    """Return how many devices of which kind a run uses."""
    together = ""
    if processes.count() > 1:
        together = f" in {processes.count()} processes"
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}{together}, jax {jax.__version__}"


def print_steps(experiment: Experiment) -> None:
    """Compile every step that training and its evaluations may take; print what each needs."""
    limit = devices.memory_limit()
    print(f"{'device':8} {describe_devices()}{f', {mebibytes(limit)} each' if limit else ''}")
    line = "{:8} {:10} {:>16} {:>14} {:>11}".format
    print(line("step", "", "reviews x tokens", "peak memory", "compiled in"))
    for mode in ("training", "evaluation"):
        rows = compilation.rows_of(experiment.config, mode)
        for length in compilation.padded_lengths(experiment, mode):
            start = time.perf_counter()
            peak = mebibytes(compilation.compile_step(experiment, mode, length))
            seconds = time.perf_counter() - start
            print(line("", mode, f"{rows} x {length}", peak, f"{seconds:.1f} s"), flush=True)


def print_epoch(progress: Progress, config: Config, scores: Mapping[str, Any], epochs: int) -> None:
    """Print the scores of an epoch, of its validation if there was one, and whether it stops."""
    loss, accuracy, rate = averages(progress.last_epoch)
    line = f"epoch {progress.epochs_done:>3}/{epochs}  train loss {loss:.4f} "
    line += f"accuracy {accuracy:.4f}"
    if scores:
        line += f"  validation loss {scores['loss']:.4f} accuracy {scores['accuracy']:.4f}"
    if "perplexity" in scores:
        line += f" perplexity {scores['perplexity']:.2f}"
    elif scores and config.select_by not in ("loss", "accuracy"):
        metric = scores[config.select_by]  # None: the AUC if a class is absent
        shown = "undefined" if metric is None else f"{metric:.4f}"
        line += f" {config.select_by.replace('_', ' ')} {shown}"
    line += f"  {rate:7.1f} examples/s"
    if scores and progress.is_best:
        line += "  best" if progress.epochs_since_best == 0 else "  as good as the best"
    tqdm.write(line)
    if progress.stopped_early:
        tqdm.write(f"stopped early: {config.early_stopping_patience} epochs without a better score")


def print_scores(split: str, scores: dict[str, Any], remark: str) -> None:
    """Print one aligned line: accuracy, loss, number of reviews, or of a pre-training's tokens."""
    perplexity = scores.get("perplexity")
    more = f"perplexity {perplexity:.2f}  " if perplexity else ""
    print(
        f"{split:8} accuracy {scores['accuracy']:.4f}  loss {scores['loss']:.4f}  {more}on "
        f"{scores['examples']:,} {'tokens' if perplexity else 'reviews'} ({remark})"
    )


def print_linear_baseline(result: dict[str, Any]) -> None:
    """Print what the linear baseline of result.json gets on the test set, and the difference."""
    if not (baseline := result.get("linear_baseline")):
        return
    scores = baseline["test"]
    lead = result["test"]["accuracy"] - scores["accuracy"]
    p = baseline["mcnemar_p"]
    print(
        f"{'linear':8} accuracy {scores['accuracy']:.4f}  loss {scores['loss']:.4f}  on "
        f"{scores['examples']:,} reviews (TF-IDF of words and bigrams, logistic regression, "
        f"C {baseline['C']:g}, {baseline['seconds']:.1f} s)\n"
        f"{'':8} the model's accuracy minus this {lead:+.4f}, McNemar's p {p:.2g}"
        f"{'' if p < 0.05 else ': not shown to differ'}"
    )
    if "folds" in result:
        print(
            f"{'':8} cross-validated it has {baseline['val']['accuracy']:.4f}, the model "
            f"{result['val']['accuracy']:.4f}"
        )


def print_metrics(measured: dict[str, Any]) -> None:
    """Print `metrics.measure` if classes differ by more than 60:40: accuracy alone misleads."""
    examples = {name: metrics["examples"] for name, metrics in measured["classes"].items()}
    largest = max(examples, key=examples.__getitem__)
    if min(examples.values()) >= examples[largest] * 40 / 60:
        return
    low, high = measured["accuracy_interval"]
    auc = "" if measured["auc"] is None else f", AUC {measured['auc']:.4f}"
    print(
        f"{'':8} accuracy is from {low:.4f} to {high:.4f} (95 %); always saying {largest!r} gives "
        f"{measured['majority_baseline']:.4f}\n"
        f"{'':8} balanced accuracy {measured['balanced_accuracy']:.4f}, macro F1 "
        f"{measured['macro_f1']:.4f}, MCC {measured['mcc']:.4f}{auc}"
    )
    for name, metrics in list(measured["classes"].items())[:10]:  # result.json has all
        print(
            f"{'':8} {name}: precision {metrics['precision']:.4f}, recall {metrics['recall']:.4f} "
            f"of {metrics['examples']:,} reviews"
        )
