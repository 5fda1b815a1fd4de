"""What a training run prints."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

from sentiment_jax.config.schema import FEW_CLASSES, Config, EncoderConfig
from sentiment_jax.data.kinds import LabelKind
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.models.outputs import output_of
from sentiment_jax.models.parameters import count_parameters
from sentiment_jax.runtime import processes, terminal
from sentiment_jax.runtime.terminal import print_line
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.experiment import Experiment, Validation
from sentiment_jax.training.metrics import mcc_by_chance, worst_classes
from sentiment_jax.training.progress import Progress, Sums, averages

FEW_STEPS = 5  # after which the time of an epoch is known
SLOW = 10  # minutes
AVERAGES = ("micro F1", "balanced accuracy", "macro F1", "MCC", "AUC")  # of `measure`, if there
SMALL = 30_000_000  # parameters: more than those of the recipe `encoder`


def warn_of_slow_epochs(experiment: Experiment, progress: Progress, parameters: int) -> None:
    """Warn if an epoch of a large encoder takes long on a CPU, by the steps taken so far."""
    _, _, rate = averages(progress.epoch)
    minutes = len(experiment.encoded["train"]) / rate / 60
    large = isinstance(experiment.config.model, EncoderConfig) and parameters > SMALL
    if large and minutes > SLOW and jax.default_backend() == "cpu":
        remedy = "use a GPU, or a smaller model: --config=encoder"
        terminal.warn_once(f"an epoch takes about {minutes:.0f} minutes on this CPU: {remedy}")


def warn_of_chance(config: Config, directory: RunDirectory, result: Mapping[str, Any]) -> None:
    """Warn if a split's predictions may be at chance, or their loss is ten times that of chance.

    For unequal classes an accuracy below the largest class's share may still be useful: what counts
    is that predictions correlate with labels (MCC) more than by chance.
    """
    for split, metrics in result["metrics"].items():
        scores = result[split]
        loss = scores["loss"]
        total = scores["examples"]
        classes = output_of(config.data).outcomes(len(metrics["classes"]))
        chance = mcc_by_chance(total)
        if metrics["mcc"] <= chance or loss > 10 * math.log(classes):
            terminal.warn_once(
                f"{directory.path} may be no better than guessing: {split} accuracy "
                f"{scores['accuracy']:.4f} on {total:,} texts (majority baseline: "
                f"{metrics['majority_baseline']:.4f}), MCC {metrics['mcc']:.4f} (by chance: "
                f"{chance:.4f}), loss {loss:.4g} (log {classes}: {math.log(classes):.4f})"
            )
            return


def describe_training(
    directory: RunDirectory,
    experiment: Experiment,
    epochs: int,
    progress: Progress,
    report: LoadReport | None,
) -> None:
    """Print data, model, weights, device and where the training stands."""
    model = experiment.config.model
    experiment.task.describe(experiment)
    size = experiment.tokenizer.get_vocab_size()
    parameters = count_parameters(experiment.model)
    print_line("model", f"{model.name}, {parameters:,} parameters, {size:,} token types")
    if report:
        print_line("weights", f"{len(report.loaded)} loaded from {report.files}")
        for kind, names in (("new", report.new), ("unused", report.unused)):
            print_line("", f"{len(names)} {kind}: {', '.join(names) or 'none'}")
        if size < model.vocab_size:
            terminal.warn_once(
                f"the tokenizer has {size:,} of the weights' {model.vocab_size:,} token types"
            )
    print_line("device", describe_devices())
    steps = epochs * experiment.steps_per_epoch
    standing = f"{steps:,} steps"
    if progress.step:
        standing = f"resuming at step {progress.step:,} of {steps:,}"
    print_line("run", f"{directory.path}, {epochs} epochs, {standing}")


def describe_devices() -> str:
    """Return how many devices of which kind a run uses."""
    together = f" in {processes.count()} processes" if processes.count() > 1 else ""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}{together}, jax {jax.__version__}"


def print_epoch(
    experiment: Experiment,
    epochs: int,
    progress: Progress,
    epoch: Sums,
    validation: Validation | None,
) -> None:
    """Print the sums of an epoch's steps, its validation, if any, and whether training stops."""
    config = experiment.config
    loss, accuracy, rate = averages(epoch)
    line = f"epoch {progress.epochs_done:>3}/{epochs}  train loss {loss:.4f} "
    line += f"accuracy {accuracy:.4f}"
    if validation:
        scores = validation.scores
        line += f"  validation loss {scores['loss']:.4f} accuracy {scores['accuracy']:.4f}"
        line += experiment.task.describe_scores(config, scores)
    line += f"  {rate:7.1f} examples/s"
    if validation and progress.is_best:
        line += "  best" if progress.epochs_since_best == 0 else "  as good as the best"
    tqdm.write(line)
    patience = config.early_stopping_patience
    if progress.has_stopped(patience):
        tqdm.write(f"stopped early: {patience} epochs without a better score")


def print_scores(
    split: str, scores: Mapping[str, Any], remark: str, *, more: str = "", unit: str = "texts"
) -> None:
    """Print one aligned line: accuracy, loss, what is `more`, the number of examples."""
    more = f" {more}" if more else ""
    measured = f"accuracy {scores['accuracy']:.4f}  loss {scores['loss']:.4f}{more}"
    print_line(split, f"{measured}  on {scores['examples']:,} {unit} ({remark})")


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
    print_line("", f"the model's accuracy minus this {lead:+.4f}, McNemar's p {p:.2g}{doubt}")
    if "folds" in result:
        own = f"the model {result['val']['accuracy']:.4f}"
        print_line("", f"cross-validated it has {baseline['val']['accuracy']:.4f}, {own}")


def print_metrics(kind: LabelKind, measured: dict[str, Any]) -> None:
    """Print `metrics.measure` if accuracy alone misleads.

    That is where classes differ by more than 60:40 or are many, or texts are multi-label. Of many
    classes, those of the lowest recall are printed.
    """
    classes = measured["classes"]
    examples = {name: metrics["examples"] for name, metrics in classes.items()}
    if kind.is_even([*examples.values()]) and len(classes) <= FEW_CLASSES:
        return
    low, high = measured["accuracy_interval"]
    shown = ((name, measured.get(name.lower().replace(" ", "_"))) for name in AVERAGES)
    always = f"always saying {kind.majority(examples)} gives {measured['majority_baseline']:.4f}"
    print_line("", f"accuracy is from {low:.4f} to {high:.4f} (95 %); {always}")
    known = (f"{name} {value:.4f}" for name, value in shown if value is not None)
    print_line("", ", ".join(known))
    names = worst_classes(classes)  # result.json has all
    for name in names[:FEW_CLASSES]:
        metrics = classes[name]
        recall = f"recall {metrics['recall']:.4f} of {metrics['examples']:,} texts"
        print_line("", f"{name}: precision {metrics['precision']:.4f}, {recall}")
    if others := [classes[name]["recall"] for name in names[FEW_CLASSES:]]:
        more = "1 more class" if len(others) == 1 else f"{len(others)} more classes"
        print_line("", f"and {more}, recall from {others[0]:.4f} to {max(others):.4f}")
