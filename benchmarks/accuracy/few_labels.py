"""Few labels and much unlabeled text: methods beside each other, over draws of the labels.

    python -m benchmarks.accuracy.few_labels --output=results/accuracy/few_labels/runs.csv \
        --runs=runs/few_labels --vectors=runs/vectors --settings=data.path=DATA_DIR

`tfidf` and `lsa` are scikit-learn's, fitted on all texts but the test's: logistic regression on
TF-IDF, or on its 100 first components. `probe` and `encoder` are the recipes encoder:probe and
encoder with the weights in --encoder, trained on all labels. `student` distills the encoder from
`average` on the texts in --texts, an ensemble with `average`. `lstm` trains two LSTMs on the
embeddings, an ensemble with `average`. `students` has these three as teachers, and two students in
an ensemble with `average`: the encoder at 256 tokens and an LSTM with all unlabeled text.

Every run is a process of its own; a draw of labels is a `data.split_seed`. Rows are appended as a
method ends; what is in --runs or in the table is not trained again: other texts, vectors or weights
need another folder. CPU seconds of a row are those of all runs that its method has trained so far;
those of `tfidf` and `lsa` are without the features.
"""

import ast
import contextlib
import functools
import itertools
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import app, flags
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from benchmarks.accuracy import rows
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.config.stored import make_frozen
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.kinds import ONE_CLASS, Labels
from sentiment_jax.data.texts import Texts, stratified_sample
from sentiment_jax.data.unlabeled import load_text
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.linear_model import C
from sentiment_jax.training.metrics import is_correct, log_loss

RUNS = flags.DEFINE_string("runs", None, "folder of the runs", required=True)
VECTORS = flags.DEFINE_string("vectors", "", "run of --config=lstm:pretrain, for average")
SETTINGS = flags.DEFINE_list("settings", [], "NAME=VALUE,... of every run")
LABELS = flags.DEFINE_list("labels", ["20", "100", "500", "2500"], "numbers of labels")
DRAWS = flags.DEFINE_list("draws", ["0", "1", "2", "3", "4"], "split seeds")
METHODS = flags.DEFINE_list("methods", ["linear", "average"], "of those in the docstring")
ENCODER = flags.DEFINE_string("encoder", "", "folder of weights of a BERT")
TEXTS = flags.DEFINE_string("texts", "", "unlabeled texts for the student, one per line")
OUTPUT = flags.DEFINE_string("output", None, "CSV file, a row per run", required=True)

COLUMNS = ("method", "labels", "draw", "val_accuracy", "accuracy", "loss", "best_epoch")
COLUMNS += ("linear_accuracy", "test", "cpu_s")
SHORT = ("data.max_length=128", "data.length_buckets=(64,96)")
LONG = ("data.max_length=256", "data.length_buckets=(96,128,160,192,224)")
ALL_LABELS = ("data.validation_fraction=0", "linear_baseline=False")
LSTM = (*ALL_LABELS, "min_steps=400", "optimizer.learning_rate=4e-3")
LSTM_STUDENT = (*ALL_LABELS, "epochs=2", "optimizer.learning_rate=2e-3")
STUDENT = (*ALL_LABELS, "epochs=1", "optimizer.learning_rate=1e-4")


def run(method: str, labels: str, draw: str) -> list[dict[str, object]]:
    """Train the models of a method; return a row of the table for each, and for each ensemble."""
    table = []
    spent = []  # CPU seconds
    vectors = f"model.pretrained={VECTORS.value}"
    encoder = f"model.pretrained={ENCODER.value}"

    def train(name: str, recipe: str, *settings: str, seed: int = 0) -> Path:
        workdir = Path(RUNS.value) / f"{name}-{labels}-{draw}-{seed}".replace(" ", "-")
        seconds = Path(f"{workdir}.cpu_s")
        drawn = (f"data.limit={labels}", f"data.split_seed={draw}", f"seed={seed}")
        given = ("data.source=tfds", *SETTINGS.value, *settings, *drawn)
        fresh = [] if seconds.is_file() else ["--fresh"]  # main refuses other settings
        before = _cpu_seconds()
        rows.run_main([f"--config={recipe}", f"--workdir={workdir}", *fresh], given)
        if fresh:
            seconds.write_text(f"{_cpu_seconds() - before:.1f}\n")
        spent.append(float(seconds.read_text()))
        add_row(name, scores(workdir))
        return workdir

    def add_row(name: str, found: dict[str, object]) -> None:
        row = {"method": name, "labels": labels, "draw": draw, "cpu_s": round(sum(spent), 1)}
        table.append(dict.fromkeys(COLUMNS, "") | row | found)

    if method in ("tfidf", "lsa"):
        add_row(method, logistic_regression(method, int(labels), int(draw)))
    elif method == "linear":
        train("linear", "linear", "linear_baseline=True")
    elif method == "probe":
        train("probe", "encoder:probe", encoder, *ALL_LABELS)
    elif method == "encoder":
        batch = min(read_recipe("encoder").batch_size, int(labels) // 2)  # as in a comparison
        train("encoder", "encoder", encoder, f"batch_size={batch}", *ALL_LABELS)
    else:
        average = train("average", "average", vectors)
        teachers = [average]
        if method in ("lstm", "students"):
            for seed in (0, 1):
                teachers.append(train("lstm", "lstm:semi", vectors, *LSTM, seed=seed))
            add_row("average + lstm", scores(*teachers))
        taught = f"data.teacher={','.join(map(str, teachers))}"
        distilled = (encoder, *SHORT, *STUDENT, f"pretrain.text={TEXTS.value}", taught)
        if method == "student":
            student = train("student", "bert:long", *distilled)
            add_row("average + student", scores(average, student))
        if method == "students":
            lstm = train("lstm student", "lstm:semi", vectors, *LSTM_STUDENT, taught)
            student = train("encoder student", "bert:long", *distilled, *LONG)
            add_row("average + students", scores(average, lstm, student))
    return table


def scores(first: Path, *others: Path) -> dict[str, object]:
    """Return what the table says of a run, or of the averaged probabilities of several."""
    if not others:
        result = read_json(first / "result.json")
        linear = result.get("linear_baseline")
        return {
            "val_accuracy": round(result["val"]["accuracy"], 4) if result["val"] else "",
            **{of: round(result["test"][of], 4) for of in ("accuracy", "loss")},
            "best_epoch": result["best_epoch"],
            "linear_accuracy": round(linear["test"]["accuracy"], 4) if linear else "",
            "test": result["test"]["examples"],
        }
    trials = [Trial("run", run, RunDirectory(run).read_config()) for run in (first, *others)]
    found = read_predictions([trial.refresh() for trial in trials])
    return test_scores(found.probabilities.mean(axis=0), found.labels)


def test_scores(probabilities: np.ndarray, labels: Labels) -> dict[str, object]:
    """Return accuracy and loss of probabilities [reviews, classes]."""
    return {
        "accuracy": round(float(is_correct(labels, ONE_CLASS.decide(probabilities)).mean()), 4),
        "loss": round(log_loss(ONE_CLASS, probabilities, labels), 4),
        "test": len(labels),
    }


def logistic_regression(method: str, labels: int, draw: int) -> dict[str, object]:
    """Score scikit-learn's logistic regression on TF-IDF or LSA."""
    given = _values(SETTINGS.value)
    held_out = draw if "data.source" in given else 0  # IMDB's test reviews are the same in each
    whole = {"data.split_seed": held_out, "data.folds": 0, "data.validation_fraction": 0.0}
    reviews, features = fit_features(method, tuple((given | whole).items()))
    drawn = stratified_sample(reviews["train"], count=labels, seed=draw)
    index = {name: i for i, name in enumerate(reviews["train"].ids)}
    model = LogisticRegression(solver="liblinear")
    search = GridSearchCV(model, {"C": C}, scoring="neg_log_loss", cv=3)
    before = time.process_time()
    search.fit(features["train"][[index[name] for name in drawn.ids]], drawn.codes)
    found = test_scores(search.predict_proba(features["test"]), reviews["test"].labels)
    return found | {"cpu_s": round(time.process_time() - before, 1)}


@functools.cache
def fit_features(
    method: str, settings: tuple[tuple[str, object], ...]
) -> tuple[dict[str, Texts], dict[str, Any]]:
    """Return the reviews of each split, and their features, fitted on all texts but the test's."""
    config = make_frozen(override(read_recipe("average"), dict(settings)))
    text = load_text(config.data, config.pretrain.text, tested=False).splits["train"]
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=5, sublinear_tf=True))
    if method == "lsa":
        model = make_pipeline(model, TruncatedSVD(100, random_state=0), Normalizer())
    model.fit(text.texts)
    reviews = load_dataset(config.data).splits
    features = {name: model.transform(reviews[name].texts) for name in ("train", "test")}
    return reviews, features


def _values(settings: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = dict(setting.split("=", 1) for setting in settings)
    for name, value in found.items():
        with contextlib.suppress(ValueError, SyntaxError):  # a text
            found[name] = ast.literal_eval(value)
    return found


def _cpu_seconds() -> float:
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # user and system


def main(_: Sequence[str]) -> None:
    """Train what is not in the table yet, then print and draw means over the draws."""
    output = Path(OUTPUT.value)
    done = {(row["method"], row["labels"], row["draw"]) for row in rows.read(output, COLUMNS)}
    for draw, labels, method in itertools.product(DRAWS.value, LABELS.value, METHODS.value):
        if not done & {(name, labels, draw) for name in (method, f"average + {method}")}:
            found = run(method, labels, draw)
            new = [row for row in found if (row["method"], labels, draw) not in done]
            for row in new:
                rows.append(output, row)
            done |= {(str(row["method"]), labels, draw) for row in new}
    table = pd.read_csv(output)
    groups = table.groupby(["method", "labels"])[["accuracy", "linear_accuracy", "cpu_s"]]
    print(groups.agg(["mean", "std"]).round(4).to_string())
    plot(table, output.with_suffix(".png"))


def plot(table: pd.DataFrame, path: Path) -> None:
    """Draw accuracy against the number of labels, if there are several: mean, each draw a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    average = table[table["method"] == "average"]
    baseline = average.assign(accuracy=average["linear_accuracy"], method="linear baseline")
    for label, group in [*table.groupby("method", sort=False), ("linear baseline", baseline)]:
        means = group.groupby("labels")["accuracy"].mean().dropna()
        if len(means) > 1:
            (line,) = axes.plot(means, label=label)
            axes.plot(group["labels"], group["accuracy"], ".", color=line.get_color(), alpha=0.5)
    axes.set(xscale="log", xlabel="labels", ylabel="test accuracy", ylim=(0.48, 0.95))
    counts = sorted({*table["labels"]})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    app.run(main)
