"""Write synthetic product reviews: text, label, domain; four domains, English or French.

They resemble a user's own data, with a known upper bound of accuracy. Every review has a number of
stars, which sets the probability that a statement is positive. Statements contradict each other,
negate, exaggerate and mention expectations ("I feared the lid would be flimsy, but it is solid").
Names and numbers are noise, and some labels are wrong. A seed gives the same file everywhere.

    python -m benchmarks.product_reviews --output=reviews.csv                      # neg, pos
    python -m benchmarks.product_reviews --output=reviews.csv --labels=three       # and neutral
    python -m benchmarks.product_reviews --output=reviews.csv --labels=stars       # 1 to 5
    python -m benchmarks.product_reviews --output=reviews.csv --rows=1000 --positive=0.95
    python -m benchmarks.product_reviews --output=reviews.csv --rows=40 --language=french
    python -m benchmarks.product_reviews --output=reviews.csv --labels=aspects     # several or none

With `--labels=aspects`, the label has the aspects that a review has an opinion on, as in
"quality;price". Other sentences mention them without one ("I paid 40 for it").
"""

import argparse
import bisect
import csv
import dataclasses
import itertools
import random
from pathlib import Path

PRAISE = {1: 0.05, 2: 0.2, 3: 0.5, 4: 0.8, 5: 0.95}  # share of positive statements, by stars
NOISE = 0.06  # share of labels that are drawn at random, by the classes' shares
NAMES = {"two": ("neg", "pos"), "three": ("negative", "neutral", "positive"), "stars": "12345"}
STARS = {  # the stars of each label
    "two": ((1, 2), (4, 5)),
    "three": ((1, 2), (3,), (4, 5)),
    "stars": ((1,), (2,), (3,), (4,), (5,)),
}


@dataclasses.dataclass(frozen=True)
class Language:
    """Words and sentences; {a} is an aspect; negative statements swap {good} and {bad}."""

    aspects: dict[str, str]  # of each domain's product
    good: str
    bad: str
    facts: dict[str, tuple[str, str]]  # of each domain: positive, negative
    degrees: tuple[str, ...]  # before an adjective; 1 and 5 stars use the first half
    opinions: tuple[str, ...]
    fillers: tuple[str, ...]
    people: str
    months: str
    colors: str
    closing: tuple[str, str]


ENGLISH = Language(
    aspects={
        "kettle": "lid handle switch spout base cord filter finish",
        "headphones": "sound bass headband cable microphone case fit mute-button",
        "backpack": "zip strap frame pocket lining buckle hip-belt rain-cover",
        "drill": "chuck battery grip trigger motor charger clutch bit-holder",
    },
    good="solid handy reliable sturdy clever smooth comfortable superb neat precise durable",
    bad="flimsy clumsy erratic wobbly pointless rough awkward shoddy messy vague brittle",
    facts={
        "kettle": (
            "it boils in two minutes;it pours without a drip;it whispers where my old one roared",
            "it takes for ever to boil;it leaks on the worktop;it tastes of plastic after weeks",
        ),
        "headphones": (
            "they last days on one charge;they pair in a second;they shut out the whole train",
            "they last an hour on one charge;they drop every call;they hurt after ten minutes",
        ),
        "backpack": (
            "it carries like half its weight;it kept all dry for a week;it swallows a tent",
            "it carries like twice its weight;it let the rain in on day one;it tore with a tent",
        ),
        "drill": (
            "it goes through oak like butter;it holds its charge for a month;it never gets hot",
            "it gives up at the first oak;it loses its charge in a week;it gets hot and smells",
        ),
    },
    degrees=("really", "extremely", "so", "fairly", "rather", "a bit"),
    opinions=(
        *("the {a} is {good}", "the {a} is {good}", "the {a} is {good} and {good}"),
        *("the {a} is not {bad}", "the {a} is never {bad}", "nobody could call the {a} {bad}"),
        *("I feared the {a} would be {bad}, but it is {good}", "my {p} finds the {a} {good}"),
        *("the {a} is anything but {bad}", "where others have a {bad} {a}, this one is {good}"),
    ),
    fillers=(
        *("I bought it in {m} for my {p}", "it came in a {c} box", "mine is the {c} one"),
        *("the model is {x}", "my {p} ordered number {x}", "I paid {n} for it"),
    ),
    people="brother sister neighbour daughter father colleague landlord cousin",
    months="January March April June August October November",
    colors="red gray blue green black orange",
    closing=("would buy it again", "it went back to the shop"),
)
FRENCH = Language(
    aspects={
        "bouilloire": "couvercle manche bouton bec socle cordon filtre voyant",
        "casque": "son grave bandeau micro câble boîtier maintien volume",
        "sac": "zip rabat cadre fond revêtement clip ceinturon dos",
        "perceuse": "mandrin moteur chargeur embrayage support accu levier carter",
    },
    good="solide pratique fiable stable agréable superbe confortable durable remarquable utile",
    bad="fragile pénible instable bancal désagréable médiocre lourd bruyant minable inutile",
    facts={
        "bouilloire": (
            "elle chauffe en deux minutes;elle verse sans une goutte à côté;elle se fait oublier",
            "elle met une éternité à chauffer;elle fuit sur la table;elle sent le plastique",
        ),
        "casque": (
            "il tient des jours sur une charge;il se connecte vite;il isole de tout le train",
            "il tient une heure sur une charge;il coupe chaque appel;il fait mal en dix minutes",
        ),
        "sac": (
            "il se porte comme une plume;il a gardé tout au sec;il avale une tente sans effort",
            "il pèse une tonne;il a pris l'eau dès le premier jour;il s'est déchiré avec une tente",
        ),
        "perceuse": (
            "elle traverse le chêne sans peine;elle garde sa charge un mois;elle reste froide",
            "elle cale au premier chêne;elle perd sa charge en un jour;elle sent le brûlé",
        ),
    },
    degrees=("vraiment", "extrêmement", "si", "assez", "plutôt", "un peu"),
    opinions=(
        *("le {a} est {good}", "le {a} est {good}", "le {a} est {good} et {good}"),
        *("le {a} n'est pas {bad}", "le {a} n'est jamais {bad}", "personne ne dirait {bad} le {a}"),
        *("je craignais un {a} {bad}, mais il est {good}", "mon {p} trouve le {a} {good}"),
        *("le {a} est tout sauf {bad}", "ailleurs le {a} est {bad}, ici il est {good}"),
    ),
    fillers=(
        *("acheté en {m} pour mon {p}", "livré dans un carton {c}", "le mien est {c}"),
        *("le modèle est {x}", "mon {p} a commandé le numéro {x}", "je l'ai payé {n}"),
    ),
    people="frère voisin neveu père collègue cousin locataire copain",
    months="janvier mars avril juin août octobre novembre",
    colors="rouge gris bleu vert noir orange",
    closing=("à racheter sans hésiter", "retour au magasin"),
)
LANGUAGES = {"english": ENGLISH, "french": FRENCH}
ASPECTS = {  # beside quality, which is what a Language has: opinions, then mentions without one
    "shipping": (
        "it was here {f} days before they promised;the parcel came {f} days late;the box was torn"
        " open;the courier left it with my {p} without a word;packed so well that nothing moved;"
        "nobody answered when it got lost on the way;it came the very next morning",
        "it came in a {c} box;I ordered it in {m};my {p} picked it up;they ship from abroad",
    ),
    "price": (
        "you get more than you pay for;{n} is far too much for this;the {c} one costs half;"
        "a bargain at {n};I would not pay {n} again;worth every penny;my {p} found it cheaper",
        "I paid {n} for it;a gift of {n} or so;my {p} paid for it;the {c} one costs the same",
    ),
}


def make_review(
    rng: random.Random, language: str, stars: int, named: dict[str, bool] | None = None
) -> tuple[str, str]:
    """Return a text of 4 to 11 sentences, and its domain.

    `named` says for each aspect whether the review has an opinion on it.
    """
    words = LANGUAGES[language]
    domain = rng.choice(list(words.aspects))
    aspects = rng.sample(words.aspects[domain].split(), 4)
    degrees = words.degrees[:3] if stars in (1, 5) else words.degrees

    def statement(praises: bool) -> str:
        if rng.random() < 0.25:
            return rng.choice(words.facts[domain][not praises].split(";"))
        kinds = {"{good}": words.good, "{bad}": words.bad}
        if not praises:
            kinds = {"{good}": words.bad, "{bad}": words.good}
        text = rng.choice(words.opinions)
        for kind, adjectives in kinds.items():
            while kind in text:
                degree = f"{rng.choice(degrees)} " if rng.random() < 0.3 else ""
                text = text.replace(kind, degree + rng.choice(adjectives.split()), 1)
        return text

    def fill(text: str) -> str:
        return text.format(
            a=rng.choice(aspects).replace("-", " "),
            p=rng.choice(words.people.split()),
            m=rng.choice(words.months.split()),
            c=rng.choice(words.colors.split()),
            x=f"{rng.choice('ABKMTVX')}{rng.choice('AEIOU')}{rng.randrange(10, 1000)}",
            n=rng.randrange(12, 240),
            f=rng.randrange(2, 15) if "{f}" in text else 0,
        )

    praises = [rng.random() < PRAISE[stars] for _ in range(rng.randint(3, 7))]
    parts = [statement(each) for each in praises]
    parts += rng.sample(words.fillers, rng.randint(1, 3))
    if named is not None:
        parts = parts[: rng.randint(1, 2)] if named["quality"] else []
        parts += rng.sample(words.fillers, rng.randint(1, 2))
        for aspect, (opinions, mentions) in ASPECTS.items():
            if named[aspect]:
                parts.append(rng.choice(opinions.split(";")))
            elif rng.random() < 0.5:
                parts.append(rng.choice(mentions.split(";")))
    rng.shuffle(parts)
    if named is None and rng.random() < 0.15:
        parts.append(words.closing[rng.random() >= PRAISE[stars]])
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
