"""What a training run prints."""

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

from sentiment_jax.config.schema import FEW_CLASSES, EncoderConfig
from sentiment_jax.runtime import devices, processes, terminal
from sentiment_jax.training import compilation
from sentiment_jax.training.compilation import mebibytes
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.metrics import mcc_by_chance, worst_classes
from sentiment_jax.training.run import TrainingRun, averages

FEW_STEPS = 5  # after which the time of an epoch is known
SLOW = 10  # minutes
AVERAGES = ("micro F1", "balanced accuracy", "macro F1", "MCC", "AUC")  # of `measure`, if there
SMALL = 30_000_000  # parameters: more than those of the recipe `encoder`


def warn_of_slow_epochs(run: TrainingRun) -> None:
    """Warn if an epoch of a large encoder takes long on a CPU, by the steps taken so far."""
    _, _, rate = averages(run.progress.epoch)
    minutes = len(run.experiment.encoded["train"]) / rate / 60
    large = isinstance(run.config.model, EncoderConfig) and run.parameters > SMALL
    if large and minutes > SLOW and jax.default_backend() == "cpu":
        remedy = "use a GPU, or a smaller model: --config=encoder"
        terminal.warn_once(f"an epoch takes about {minutes:.0f} minutes on this CPU: {remedy}")


def warn_of_chance(run: TrainingRun) -> None:
    """Warn if a split's predictions may be at chance, or their loss is ten times that of chance.

    For unequal classes an accuracy below the largest class's share may still be useful: what counts
    is that predictions correlate with labels (MCC) more than by chance.
    """
    for split, metrics in run.result["metrics"].items():
        scores = run.result[split]
        loss = scores["loss"]
        total = scores["examples"]
        classes = 2 if run.config.data.between_labels else len(metrics["classes"])
        chance = mcc_by_chance(total)
        if metrics["mcc"] <= chance or loss > 10 * math.log(classes):
            terminal.warn_once(
                f"{run.directory.path} may be no better than guessing: {split} accuracy "
                f"{scores['accuracy']:.4f} on {total:,} reviews (majority baseline: "
                f"{metrics['majority_baseline']:.4f}), MCC {metrics['mcc']:.4f} (by chance: "
                f"{chance:.4f}), loss {loss:.4g} (log {classes}: {math.log(classes):.4f})"
            )
            return


def describe_run(run: TrainingRun) -> None:
    """Print data, model, weights, device and where the run stands."""
    experiment = run.experiment
    model = run.config.model
    experiment.task.describe(experiment)
    size = experiment.tokenizer.get_vocab_size()
    print(f"{'model':8} {model.name}, {run.parameters:,} parameters, {size:,} token types")
    if report := run.load_report:
        print(f"{'weights':8} {len(report.loaded)} loaded from {report.files}")
        for kind, names in (("new", report.new), ("unused", report.unused)):
            print(f"{'':8} {len(names)} {kind}: {', '.join(names) or 'none'}")
        if size < model.vocab_size:
            terminal.warn_once(
                f"the tokenizer has {size:,} of the weights' {model.vocab_size:,} token types"
            )
    print(f"{'device':8} {describe_devices()}")
    step = run.progress.step
    standing = f"{run.total_steps:,} steps"
    if step:
        standing = f"resuming at step {step:,} of {run.total_steps:,}"
    print(f"{'run':8} {run.directory.path}, {run.epochs} epochs, {standing}", flush=True)


def describe_devices() -> str:
    """Return how many devices of which kind a run uses."""
    together = f" in {processes.count()} processes" if processes.count() > 1 else ""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}{together}, jax {jax.__version__}"


def print_steps(experiment: Experiment) -> None:
    """Compile every step that training and its evaluations may take; print what each needs."""
    limit = devices.memory_limit()
    print(f"{'device':8} {describe_devices()}{f', {mebibytes(limit)} each' if limit else ''}")
    line = "{:8} {:10} {:>16} {:>14} {:>11}".format
    print(line("step", "", "rows x tokens", "peak memory", "compiled in"))
    for mode in compilation.modes_of(experiment.config):
        for length in compilation.padded_lengths(experiment, mode):
            batch = compilation.batch_like(experiment, mode, length)
            rows, tokens = batch["token_ids"].shape[:2]
            start = time.perf_counter()
            peak = mebibytes(compilation.compile_step(experiment, mode, length))
            seconds = time.perf_counter() - start
            print(line("", mode, f"{rows} x {tokens}", peak, f"{seconds:.1f} s"), flush=True)


def print_epoch(run: TrainingRun) -> None:
    """Print the scores of an epoch, of its validation if there was one, and whether it stops."""
    progress = run.progress
    loss, accuracy, rate = averages(progress.last_epoch)
    line = f"epoch {progress.epochs_done:>3}/{run.epochs}  train loss {loss:.4f} "
    line += f"accuracy {accuracy:.4f}"
    if run.validation:
        scores = run.validation.scores
        line += f"  validation loss {scores['loss']:.4f} accuracy {scores['accuracy']:.4f}"
        line += run.experiment.task.describe_scores(run.config, scores)
    line += f"  {rate:7.1f} examples/s"
    if run.validation and progress.is_best:
        line += "  best" if progress.epochs_since_best == 0 else "  as good as the best"
    tqdm.write(line)
    if progress.stopped_early:
        patience = run.config.early_stopping_patience
        tqdm.write(f"stopped early: {patience} epochs without a better score")


def print_scores(
    split: str, scores: Mapping[str, Any], remark: str, *, more: str = "", unit: str = "reviews"
) -> None:
    """Print one aligned line: accuracy, loss, what is `more`, the number of examples."""
    more = f" {more}" if more else ""
    print(
        f"{split:8} accuracy {scores['accuracy']:.4f}  loss {scores['loss']:.4f}{more}  on "
        f"{scores['examples']:,} {unit} ({remark})"
    )


def print_linear_baseline(result: dict[str, Any]) -> None:
    """Print what the linear baseline of result.json gets on the test set, and the difference."""
    if not (baseline := result.get("linear_baseline")):
        return
    scores = baseline["test"]
    lead = result["test"]["accuracy"] - scores["accuracy"]
    p = baseline["mcnemar_p"]
    more = f" macro F1 {scores['macro_f1']:.4f}" if "macro_f1" in result["val"] else ""
    model = f"TF-IDF of {baseline['ngrams']}, logistic regression, C {baseline['C']:g}"
    print_scores("linear", scores, f"{model}, {baseline['seconds']:.1f} s", more=more)
    doubt = "" if p < 0.05 else ": not shown to differ"
    print(f"{'':8} the model's accuracy minus this {lead:+.4f}, McNemar's p {p:.2g}{doubt}")
    if "folds" in result:
        print(
            f"{'':8} cross-validated it has {baseline['val']['accuracy']:.4f}, the model "
            f"{result['val']['accuracy']:.4f}"
        )


def print_metrics(measured: dict[str, Any]) -> None:
    """Print `metrics.measure` if accuracy alone misleads.

    That is where classes differ by more than 60:40 or are many, or a text may have several labels.
    Of many classes, those of the lowest recall are printed.
    """
    several = "micro_f1" in measured
    classes = measured["classes"]
    examples = {name: metrics["examples"] for name, metrics in classes.items()}
    largest = max(examples, key=examples.__getitem__)
    equal = min(examples.values()) >= examples[largest] * 40 / 60
    if equal and not several and len(classes) <= FEW_CLASSES:
        return
    low, high = measured["accuracy_interval"]
    always = "the most frequent labels" if several else repr(largest)
    shown = ((name, measured.get(name.lower().replace(" ", "_"))) for name in AVERAGES)
    print(
        f"{'':8} accuracy is from {low:.4f} to {high:.4f} (95 %); always saying {always} gives "
        f"{measured['majority_baseline']:.4f}\n{'':8} "
        + ", ".join(f"{name} {value:.4f}" for name, value in shown if value is not None)
    )
    names = worst_classes(classes)  # result.json has all
    for name in names[:FEW_CLASSES]:
        metrics = classes[name]
        print(
            f"{'':8} {name}: precision {metrics['precision']:.4f}, recall {metrics['recall']:.4f} "
            f"of {metrics['examples']:,} reviews"
        )
    if others := [classes[name]["recall"] for name in names[FEW_CLASSES:]]:
        more = "1 more class" if len(others) == 1 else f"{len(others)} more classes"
        print(f"{'':8} and {more}, recall from {others[0]:.4f} to {max(others):.4f}")
