"""Write the embedded sample, sentiment_jax/data/sample.csv: text, label, written (hand, grammar).

480 film reviews were written by hand and stay as they are. The others are made by the grammar in
sample_reviews.toml, so that word order decides: about half of its sentences put a word of praise or
blame into a negation, a contrast, an expectation or somebody else's opinion, where it stands for
the opposite. These patterns serve both classes.

    python -m benchmarks.sample_reviews
"""

import csv
import random
import re
import tomllib
from pathlib import Path

from sentiment_jax.data.dataset import SAMPLE

COUNT = 2_000  # of all reviews
GRAMMAR = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def make_review(rng: random.Random, label: str) -> str:
    """Return a review of one to four sentences."""
    words = {name: of.split(", ") for name, of in GRAMMAR["words"].items()}
    words |= {f"{name} same": of.split(", ") for name, of in GRAMMAR["opinions"][label].items()}
    opposite = GRAMMAR["opinions"]["neg" if label == "pos" else "pos"]
    words |= {f"{name} other": of.split(", ") for name, of in opposite.items()}

    def fill(sentence: str) -> str:
        left = {name: rng.sample(of, len(of)) for name, of in words.items()}  # no word twice
        left["kind"] = [left["kind"].pop()] * 2
        left["very"] = rng.sample(["", "", "", f"{left['degree'].pop()} "], 4)
        text = re.sub("{([^}]*)}", lambda found: left[found[1]].pop(), sentence)
        return text[0].upper() + text[1:]

    kinds = (GRAMMAR["turned"], GRAMMAR["plain"], GRAMMAR["facts"][label])
    groups = rng.choices(kinds, (5, 3, 2), k=rng.choice((1, 1, 2, 2, 3)))
    sentences = list({rng.choice(group): None for group in groups})  # no sentence twice
    sentences += rng.sample(GRAMMAR["fillers"], rng.choice((0, 0, 1)))
    rng.shuffle(sentences)
    text = " ".join(map(fill, sentences))
    return re.sub(r"\b([Aa]) (?=[aeiou]|honest)", r"\1n ", text)


def main() -> None:
    """Keep the reviews by hand, write the others anew."""
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        rows = [(*row, "hand")[:3] for row in list(csv.reader(file))[1:]]
    rows = [row for row in rows if row[2] == "hand"]
    rng = random.Random(0)
    made: dict[str, str] = {}
    while len(rows) + len(made) < COUNT:
        label = ("neg", "pos")[len(made) % 2]
        made.setdefault(make_review(rng, label), label)
    rows += [(text, label, "grammar") for text, label in made.items()]
    with SAMPLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("text", "label", "written"), *rows])
    print(f"{SAMPLE}: {len(rows):,} reviews")


if __name__ == "__main__":
    main()
