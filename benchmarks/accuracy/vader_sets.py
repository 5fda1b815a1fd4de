"""Real sentences with human ratings as CSV files: films, products, news and tweets.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.1
    python -m benchmarks.accuracy.vader_sets --archive=vaderSentiment-3.3.1.tar.gz --output=sets

The source archive holds the data of Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for
Sentiment Analysis of Social Media Text", ICWSM 2014 (MIT license): the mean valence of twenty
raters for each sentence, from -4 to 4. Below .5 either way a sentence is left out, or neutral.
"""

import argparse
import io
import tarfile
from pathlib import Path

import pandas as pd

SOURCES = {"films": "movieReviewSnippets", "products": "amazonReviewSnippets"}
SOURCES |= {"news": "nytEditorialSnippets", "tweets": "tweets"}
NEGATIVES = 123  # in a set of tweets of which 95 % are positive


def read_archive(archive: Path) -> dict[str, pd.DataFrame]:
    """Return each source's sentences with their class, neutral ones too."""
    with tarfile.open(archive) as outer:
        (inner,) = (name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        content = io.BytesIO(outer.extractfile(inner).read())
    sets = {}
    with tarfile.open(fileobj=content) as files:
        for name, source in SOURCES.items():
            path = f"hutto_ICWSM_2014/{source}_GroundTruth.txt"
            text = files.extractfile(path).read().decode("utf-8", errors="replace")
            rows = (line.split("\t", maxsplit=2) for line in text.split("\n") if line)
            found = [(row[2].strip(), classify(float(row[1]))) for row in rows]
            sets[name] = pd.DataFrame(found, columns=["text", "label"])
    return sets


def classify(valence: float) -> str:
    """Return the class of a mean valence."""
    if abs(valence) < 0.5:
        return "neutral"
    return "positive" if valence > 0 else "negative"


def main() -> None:
    """Write a CSV file, with the columns text and label, for each set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    found = read_archive(arguments.archive)
    sets = {name: rows[rows.label != "neutral"] for name, rows in found.items()}
    sets["tweets-3"] = found["tweets"]
    tweets = sets["tweets"]
    negative = tweets.label == "negative"
    rare = tweets[negative][:NEGATIVES].text
    sets["tweets-95-5"] = tweets[~negative | tweets.text.isin(rare)]
    sets["products-200"] = sets["products"][:200]
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        path = arguments.output / f"{name}.csv"
        rows.to_csv(path, index=False, lineterminator="\r\n")
        print(f"{path}: {len(rows):,} sentences")


if __name__ == "__main__":
    main()
