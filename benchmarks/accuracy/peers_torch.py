"""The peers of peers.py: a table in, predictions of its test file out, in one process.

    python benchmarks/accuracy/peers_torch.py METHOD FOLDER WEIGHTS SEED

FOLDER holds train.csv, val.csv and test.csv; predicted.csv is written into it. `trainer` is
transformers' Trainer with the rate, batch size and epochs of configs/encoder.py, whose best epoch
by validation accuracy is tested, in bfloat16 where the CPU has instructions for it; `trainer-3` has
three epochs. It learns several labels of a text where some are joined by ";". `setfit` is SetFit
(Tunstall et al., 2022) with its defaults, but for 20 sampled pairs of each kind per text. `sklearn`
is TF-IDF of words, bigrams and character n-grams with logistic regression, its C by cross-
validation, on train and val together; `sklearn-10` is its words and bigrams with C = 10, which
nothing chose.
Imports neither the package nor JAX.
"""

import functools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Splits = dict[str, pd.DataFrame]


def trainer(splits: Splits, folder: Path, weights: str, seed: int, epochs: int = 2) -> np.ndarray:
    """Fine-tune by transformers' Trainer."""
    import torch
    import transformers
    from datasets import Dataset

    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights)
    named = splits["train"].label.str.split(";")
    classes = sorted(set(named.explode()) - {""})
    several = named.str.len().max() > 1

    def encode(frame: pd.DataFrame) -> Dataset:
        encoded = tokenizer(frame.text.tolist(), truncation=True, max_length=128)
        if several:
            held = frame.label.str.split(";")
            labels = [[float(name in of) for name in classes] for of in held]
        else:
            labels = [classes.index(label) for label in frame.label]
        return Dataset.from_dict({**encoded, "labels": labels})

    def decide(logits: np.ndarray) -> np.ndarray:
        return logits > 0 if several else logits.argmax(-1)

    def score(found: transformers.EvalPrediction) -> dict[str, float]:
        right = decide(found.predictions) == found.label_ids
        return {"accuracy": float(np.mean(right.reshape(len(right), -1).all(axis=1)))}

    sets = {name: encode(frame) for name, frame in splits.items()}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        weights,
        num_labels=len(classes),
        problem_type="multi_label_classification" if several else None,
    )
    steps = math.ceil(len(sets["train"]) / 32)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        num_train_epochs=max(epochs, math.ceil(80 / steps)),
        learning_rate=1e-4,
        weight_decay=0.01,
        warmup_steps=0.1,
        bf16=torch.cuda.is_available() or "bf16" in Path("/proc/cpuinfo").read_text(),
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        save_total_limit=1,
        report_to=[],
        seed=seed,
    )
    run = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=sets["train"],
        eval_dataset=sets["val"],
        processing_class=tokenizer,
        compute_metrics=score,
    )
    run.train()
    decided = decide(run.predict(sets["test"]).predictions)
    if several:
        return np.array([";".join(np.array(classes)[of]) for of in decided])
    return np.array(classes)[decided]


def setfit(splits: Splits, folder: Path, weights: str, seed: int) -> np.ndarray:
    """Fine-tune the encoder on contrastive pairs, then fit a logistic regression."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    both = pd.concat([splits["train"], splits["val"]])  # nothing is chosen on val
    classes = sorted(both.label.unique())
    rows = {"text": both.text.tolist(), "label": [classes.index(label) for label in both.label]}
    model = SetFitModel.from_pretrained(weights)
    arguments = TrainingArguments(
        output_dir=str(folder / "setfit"), batch_size=16, num_epochs=1, num_iterations=20, seed=seed
    )
    run = Trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(rows))
    run.train()
    return np.array(classes)[np.asarray(model.predict(splits["test"].text.tolist()))]


def sklearn(splits: Splits, folder: Path, weights: str, seed: int) -> np.ndarray:
    """Fit the linear model that five lines of scikit-learn give."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline, make_union

    both = pd.concat([splits["train"], splits["val"]])
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    logistic = LogisticRegressionCV(
        Cs=[1, 3, 10, 30, 100],
        solver="liblinear" if both.label.nunique() == 2 else "lbfgs",
        scoring="neg_log_loss",
        random_state=seed,
    )
    model = make_pipeline(make_union(words, characters), logistic)
    return model.fit(both.text, both.label).predict(splits["test"].text)


def sklearn_10(splits: Splits, folder: Path, weights: str, seed: int) -> np.ndarray:
    """Fit what most people try first."""
    both = pd.concat([splits["train"], splits["val"]])
    return fit_bigrams(both).predict(splits["test"].text)


def fit_bigrams(table: pd.DataFrame) -> Any:
    """Return a pipeline of words, bigrams and logistic regression with C = 10, fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1_000))
    return model.fit(table.text, table.label)


def main(method: str, folder: str, weights: str, seed: str) -> None:
    """Train by one method; write the classes that it predicts for the test texts."""
    splits = {
        name: pd.read_csv(Path(folder, f"{name}.csv"), dtype=str, keep_default_na=False)
        for name in ("train", "val", "test")
    }
    methods = {"trainer": trainer, "setfit": setfit, "sklearn": sklearn}
    methods |= {"sklearn-10": sklearn_10, "trainer-3": functools.partial(trainer, epochs=3)}
    predicted = methods[method](splits, Path(folder), weights, int(seed))
    pd.DataFrame({"predicted": predicted}).to_csv(Path(folder) / "predicted.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
