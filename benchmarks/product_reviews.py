"""Write synthetic product reviews: text, label, domain; four domains, English or French.

They resemble a user's own data, with a known upper bound of accuracy. Every review has a number of
stars, which sets the probability that a statement is positive. Statements contradict each other,
negate, exaggerate and mention expectations ("I feared the lid would be flimsy, but it is solid").
Names and numbers are noise, and some labels are wrong. A seed gives the same file everywhere.

    python -m benchmarks.product_reviews --output=reviews.csv                      # neg, pos
    python -m benchmarks.product_reviews --output=reviews.csv --labels=stars       # 1 to 5
    python -m benchmarks.product_reviews --output=reviews.csv --rows=40 --language=french
    python -m benchmarks.product_reviews --output=reviews.csv --labels=aspects     # several or none

With `--labels=aspects`, the label has the aspects that a review has an opinion on, as in
"quality;price". Other sentences mention them without one ("I paid 40 for it").
"""

import argparse
import bisect
import csv
import itertools
import random
import tomllib
from pathlib import Path

PRAISE = {1: 0.05, 2: 0.2, 3: 0.5, 4: 0.8, 5: 0.95}  # share of positive statements, by stars
NOISE = 0.06  # share of labels that are drawn at random, by the classes' shares
NAMES = {"two": ("neg", "pos"), "three": ("negative", "neutral", "positive"), "stars": "12345"}
STARS = {"two": ((1, 2), (4, 5)), "three": ((1, 2), (3,), (4, 5))}  # of each label
STARS["stars"] = ((1,), (2,), (3,), (4,), (5,))
WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def make_review(
    rng: random.Random, language: str, stars: int, named: dict[str, bool] | None = None
) -> tuple[str, str]:
    """Return a text of 4 to 11 sentences, and its domain.

    `named` says for each aspect whether the review has an opinion on it.
    """
    words = WORDS[language]
    domain = rng.choice(list(words["aspects"]))
    aspects = rng.sample(words["aspects"][domain].split(), 4)
    degrees = words["degrees"][:3] if stars in (1, 5) else words["degrees"]

    def statement(praises: bool) -> str:
        if rng.random() < 0.25:
            return rng.choice(words["facts"][domain][not praises].split(";"))
        kinds = {"{good}": words["good"], "{bad}": words["bad"]}
        if not praises:
            kinds = {"{good}": words["bad"], "{bad}": words["good"]}
        text = rng.choice(words["opinions"])
        for kind, adjectives in kinds.items():
            while kind in text:
                degree = f"{rng.choice(degrees)} " if rng.random() < 0.3 else ""
                text = text.replace(kind, degree + rng.choice(adjectives.split()), 1)
        return text

    def fill(text: str) -> str:
        return text.format(
            a=rng.choice(aspects).replace("-", " "),
            p=rng.choice(words["people"].split()),
            m=rng.choice(words["months"].split()),
            c=rng.choice(words["colors"].split()),
            x=f"{rng.choice('ABKMTVX')}{rng.choice('AEIOU')}{rng.randrange(10, 1000)}",
            n=rng.randrange(12, 240),
            f=rng.randrange(2, 15) if "{f}" in text else 0,
        )

    praises = [rng.random() < PRAISE[stars] for _ in range(rng.randint(3, 7))]
    parts = [statement(each) for each in praises]
    parts += rng.sample(words["fillers"], rng.randint(1, 3))
    if named is not None:
        parts = parts[: rng.randint(1, 2)] if named["quality"] else []
        parts += rng.sample(words["fillers"], rng.randint(1, 2))
        for aspect, (opinions, mentions) in WORDS["aspects"].items():
            if named[aspect]:
                parts.append(rng.choice(opinions))
            elif rng.random() < 0.5:
                parts.append(rng.choice(mentions))
    rng.shuffle(parts)
    if named is None and rng.random() < 0.15:
        parts.append(words["closing"][rng.random() >= PRAISE[stars]])
    sentences = (fill(part) for part in parts)
    return " ".join(f"{s[0].upper()}{s[1:]}{rng.choice('...!')}" for s in sentences), domain


def make_rows(
    count: int, labels: str = "two", *, positive: float = 0.5, language: str = "english", seed=0
) -> list[tuple[str, str, str]]:
    """Return (text, label, domain) of `count` distinct reviews, classes in their shares."""
    rng = random.Random(seed)
    rows = {}
    classes = range(len(NAMES[labels]))
    shares = [1 - positive, positive] if labels == "two" else [1 / len(classes)] * len(classes)
    borders = list(itertools.accumulate(shares))[:-1]
    while len(rows) < count:
        label = bisect.bisect(borders, (len(rows) + 0.5) / count)
        text, domain = make_review(rng, language, rng.choice(STARS[labels][label]))
        if rng.random() < NOISE:
            (label,) = rng.choices(classes, shares)
        rows.setdefault(text, (text, NAMES[labels][label], domain))
    made = list(rows.values())
    rng.shuffle(made)
    return made


def make_aspects(count: int, *, seed: int = 0) -> list[tuple[str, str, str]]:
    """Return (text, labels joined by ";", domain) of `count` distinct English reviews."""
    rng = random.Random(seed)
    rows = {}
    while len(rows) < count:
        named = {
            aspect: rng.random() < share
            for aspect, share in (("quality", 0.6), ("shipping", 0.35), ("price", 0.2))
        }
        text, domain = make_review(rng, "english", rng.choice((1, 2, 4, 5)), named)
        labels = [aspect for aspect, has in named.items() if has != (rng.random() < NOISE / 2)]
        rows.setdefault(text, (text, ";".join(labels), domain))
    return list(rows.values())


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--labels", choices=(*NAMES, "aspects"), default="two")
    parser.add_argument(
        "--positive", type=float, default=0.5, help="share of pos, with --labels=two"
    )
    parser.add_argument("--language", choices=("english", "french"), default="english")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    output = given.pop("output")
    count = given.pop("rows")
    if given["labels"] == "aspects":
        rows = make_aspects(count, seed=given["seed"])
    else:
        rows = make_rows(count, **given)
    with output.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label", "domain"), *rows])
    print(f"{output}: {len(rows):,} reviews")


if __name__ == "__main__":
    main()
