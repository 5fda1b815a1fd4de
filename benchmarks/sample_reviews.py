"""Write the embedded sample, sentiment_jax/data/sample.csv: text, label, written (hand, grammar).

480 film reviews were written by hand and stay as they are. The others are made by the grammar of
this file, so that word order decides: about half of its sentences put a word of praise or blame
into a negation, a contrast, an expectation or somebody else's opinion, where it stands for the
opposite. These patterns serve both classes.

    python -m benchmarks.sample_reviews
"""

import csv
import random
import re

from sentiment_jax.data.dataset import SAMPLE

COUNT = 2_000  # of all reviews
WORDS = {
    "part": "script, ending, plot, villain, opening, cast, finale, hero, dialogue, score"
    ", love story, second half, title song, last act, lead actor, sound design",
    "kind": "film, movie, comedy, thriller, drama, documentary, sequel, western",
    "person": "brother, sister, neighbor, daughter, father, colleague, mother, cousin, friend",
    "degree": "really, truly, quite, so, very, rather, utterly, remarkably",
    "day": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "place": "Lisbon, Oslo, Cairo, Glasgow, Boston, Lima, Kyoto, Naples",
}
OPINIONS = {
    "pos": {
        "is": "good, great, excellent, moving, gripping, funny, charming, clever, superb, brilliant"
        ", beautiful, tender, original, thrilling, witty, honest, warm, elegant, unforgettable"
        ", wonderful, quiet, sharp, fresh, touching, lively, smart",
        "felt": "moved, thrilled, amused, charmed, gripped, delighted, touched",
        "do": "love, enjoy, like, admire",
        "did": "loved, enjoyed, liked, admired",
    },
    "neg": {
        "is": "bad, poor, terrible, dull, boring, predictable, clumsy, flat, lazy, tedious, shallow"
        ", silly, wooden, stale, messy, pointless, awful, dreary, bloated, cheap, forced, lifeless"
        ", tiresome, weak, annoying, loud",
        "felt": "bored, annoyed, disappointed, confused, irritated, appalled, tired",
        "do": "hate, loathe, dislike, mock",
        "did": "hated, loathed, disliked, mocked",
    },
}

# {is same} is an adjective of the review's class, {is other} one of the opposite class.
PLAIN = (
    "The {part} is {very}{is same}.",
    "The {part} is {is same} and {very}{is same}.",
    "A {is same}, {is same} {kind}.",
    "A {is same} {kind} with a {very}{is same} {part}.",
    "What a {is same} {kind}!",
    "I found the {part} {very}{is same}.",
    "{is same}, and {very}{is same}.",
    "I {did same} this {kind}.",
    "I {did same} the {part}, and I was {felt same} from start to finish.",
)
TURNED = (
    "Not {is other} at all.",
    "The {part} is not {very}{is other}.",
    "The {part} is never {very}{is other}.",
    "Nobody could call the {part} {is other}.",
    "The {part} is anything but {is other}.",
    "There is nothing {is other} about the {part}.",
    "This {kind} is far from {is other}.",
    "{is other} it is not.",
    "Who says that the {part} is {is other}? Not me.",
    "You can call this {kind} many things, but not {is other}.",
    "I have seen a {is other} {kind} or two. This is not one of them.",
    "I was never {felt other}.",
    "{felt other}? Not for a minute.",
    "I expected to be {felt other}, and was {felt same}.",
    "I wanted to {do other} it, but I could not.",
    "I expected to {do other} it, and I {did same} it.",
    "The critics {do other} it. I do not.",
    "My {person} {did other} it, I {did same} it.",
    "I expected a {is other} {kind} and got a {very}{is same} one.",
    "I was told that the {part} would be {very}{is other}, but it is {is same}.",
    "The trailer promised a {very}{is other} {kind}, and the {kind} is anything but.",
    "The book is {is other}, the {kind} is {very}{is same}.",
    "The first part was {very}{is other}, this one is {is same}.",
    "It starts as a {is other} {kind} and ends as a {very}{is same} one.",
    "A {very}{is other} first hour, then a {is same} and {is same} {kind}.",
    "The critics call it {is other}, and they are wrong.",
    "My {person} found it {very}{is other}, I did not.",
    "It could have been a {is other} {kind}, but it is not.",
    "The {part} is {very}{is other}, but I {did same} the {kind}.",
    "The {part} is {very}{is other}, but the {kind} is {is same}.",
    "Although the {part} is {is other}, the {kind} is {very}{is same}.",
    "The {kind} is {is same}, even if the {part} is {is other}.",
    "A {very}{is same} {kind} in spite of a {is other} {part}.",
)
FACTS = {
    "pos": (
        "I did not look at my watch once.",
        "I would see it again tomorrow.",
        "Nobody in our row left before the end.",
        "I forgot my popcorn.",
        "We talked about it all the way home.",
        "It is not a minute too long.",
        "I laughed, and not out of pity.",
        "It deserves every prize it won.",
    ),
    "neg": (
        "I looked at my watch more than once.",
        "I would not see it again.",
        "Half of our row left before the end.",
        "My popcorn had more taste.",
        "We talked about dinner all the way home.",
        "It is far too long.",
        "I laughed once, out of pity.",
        "It deserves none of the prizes it won.",
    ),
}
FILLERS = (
    "I saw it on {day} with my {person}.",
    "It is set in {place}.",
    "My {person} chose it.",
    "We had seats in the third row.",
    "It runs for two hours.",
    "The cinema was half empty.",
)


def make_review(rng: random.Random, label: str) -> str:
    """Return a review of one to four sentences."""
    words = {name: of.split(", ") for name, of in WORDS.items()}
    words |= {f"{name} same": of.split(", ") for name, of in OPINIONS[label].items()}
    opposite = OPINIONS["neg" if label == "pos" else "pos"]
    words |= {f"{name} other": of.split(", ") for name, of in opposite.items()}

    def fill(sentence: str) -> str:
        left = {name: rng.sample(of, len(of)) for name, of in words.items()}  # no word twice
        left["kind"] = [left["kind"].pop()] * 2
        left["very"] = rng.sample(["", "", "", f"{left['degree'].pop()} "], 4)
        text = re.sub("{([^}]*)}", lambda found: left[found[1]].pop(), sentence)
        return text[0].upper() + text[1:]

    groups = rng.choices((TURNED, PLAIN, FACTS[label]), (5, 3, 2), k=rng.choice((1, 1, 2, 2, 3)))
    sentences = list({rng.choice(group): None for group in groups})  # no sentence twice
    sentences += rng.sample(FILLERS, rng.choice((0, 0, 1)))
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
