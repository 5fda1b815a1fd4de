"""The splits of a table as files, for programs that are compared on the same rows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas

from sentiment_jax.config.recipes import override, read_recipe
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.texts import Texts
from sentiment_jax.training.checks import resolve


def write(settings: Mapping[str, str], folder: Path, weights: str) -> dict[str, int]:
    """Write train.csv, val.csv and test.csv as `encoder` splits the table; return their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: int(value) if value.isdigit() else value for name, value in settings.items()}
    recipe = override(read_recipe("encoder"), values | {"model.pretrained": weights})
    dataset = load_dataset(resolve(recipe).data)
    for name, split in dataset.splits.items():
        tabulate(split).to_csv(folder / f"{name}.csv", index=False)
    return {name: len(split) for name, split in dataset.splits.items()}


def tabulate(split: Texts) -> pandas.DataFrame:
    """Return the texts and labels of a split; several labels of a text are joined by ";"."""
    names = np.array(split.classes)
    labels = [";".join(names[row]) for row in split.labels]
    return pandas.DataFrame({"text": split.texts, "label": labels})
