"""Write a CSV that has every IMDB training review twice: the pool behind the study's .9463.

The study's printed accuracies are multiples of 1/34,728 and 1/10,240: more reviews than the
training set has. Splitting this pool without `data.group_duplicates` puts most validation and test
reviews into the training split as well (leakage). The file holds IMDB's texts: do not commit it.

    python -m benchmarks.study.doubled_pool --data_dir=DATA_DIR --output=doubled.csv
"""

import csv
import html
from pathlib import Path

from absl import app, flags, logging

from sentiment_jax.data.imdb import read_tfds

DATA_DIR = flags.DEFINE_string("data_dir", "", "The prepared TFDS folder; empty: its default.")
OUTPUT = flags.DEFINE_string("output", None, "The CSV file to write.", required=True)


def main(_: list[str]) -> None:
    """Read the training reviews and write each twice."""
    logging.set_verbosity(logging.WARNING)
    reviews, _ = read_tfds(DATA_DIR.value)
    texts = (html.escape(text, quote=False) for text in reviews.texts)  # reading unescapes
    rows = list(zip(texts, reviews.codes.tolist(), strict=True))
    with Path(OUTPUT.value).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows + rows)
    print(f"{OUTPUT.value}: {2 * len(rows):,} rows, each of {len(rows):,} reviews twice")


if __name__ == "__main__":
    app.run(main)
