"""Tables as programs and people write them: which are read right, which are refused.

python -m benchmarks.accuracy.odd_files --output=odd

Each file has 60 generated texts of three classes. Where a message names flags, the file is read
again with them. The detectors of csv, pandas and clevercsv, if installed, read the same files.
"""

import argparse
import contextlib
import csv
import importlib
import io
import re
import shlex
from pathlib import Path

import pandas

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.table import read_texts
from sentiment_jax.data.texts import normalize_text
from sentiment_jax.errors import InputError

TEXTS = {
    "en": "It's number {}, really; a \"{}\" film, don't wait\tor miss it",
    "de": "Größe {}: für 1,5 Stunden „{}“; wie geht's, Ihr Leute?",
    "fr": "L'écran n° {} est « {} », c'est sûr ; à voir, d'après moi",
    "plain": "number {} is {} in 1,5 hours, it's so, it is",
    "bare": "number {} is {} in 1,5 hours",
    "breaks": 'It\'s number {}, really:\na "{}" film\n\nof the year',
    "quotes": '"Number" {} is "{}", it\'s',
    "open": '"Number {} is {}, so they say',
    "semicolons": "number {}; it is {}; it's so; it is",
}
CODES = {"semicolon": ";", "tab": "\t", "bar": "|", r"\n": "\n", r"\r": "\r", r"\t": "\t"}
FILES = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")


Rows = list[tuple[str, ...]]


def write(path: Path, words: list[str]) -> tuple[Rows, Rows, dict[str, str]]:
    """Write a file; return all its rows, the texts and labels to read from it, its settings."""
    given = dict(word.partition("=")[::2] for word in words)
    options = {name: re.sub(r"\\[rnt]", lambda of: CODES[of[0]], of) for name, of in given.items()}
    labels = given.get("labels", "good|fair|bad").split("|")
    texts = [TEXTS[words[0]].format(i, ("good", "fair", "bad")[i % 3]) for i in range(60)]
    more = ["", ", and so on", "; so it is", "; not, though; not", ", a, b, c, d"]
    if words[0] != "bare":  # which has as many commas as semicolons
        texts = [
            text[:1] + text[1:].replace(" ", f"{more[i % 5]} ", 1) for i, text in enumerate(texts)
        ]
    rows: Rows = [(str(i), text, labels[i % 3]) for i, text in enumerate(texts)]
    frame = pandas.DataFrame(rows, columns=["id", "text", "label"])
    if path.suffix == ".parquet":
        (frame.set_index("text") if "index" in path.name else frame).to_parquet(path)
    elif path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix in (".json", ".jsonl"):
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    else:
        separator = next((CODES[word] for word in words if word in CODES), ",")
        if header := options.get("header", "id,text,label"):
            rows.insert(0, tuple(re.split("[,;\t]", header)))
        text = "".join(f"{separator.join(row)}\n" for row in rows)
        if quote := options.get("quote", '"'):
            style = csv.QUOTE_ALL if "all" in words else csv.QUOTE_MINIMAL
            escape: dict = {"doublequote": False, "escapechar": "\\"} if "escape" in words else {}
            form = {"quotechar": quote, "quoting": style, "delimiter": separator, **escape}
            csv.writer(file := io.StringIO(), lineterminator="\n", **form).writerows(rows)
            text = file.getvalue()
        text = options.get("first", "") + text + options.get("last", "")
        raw = text.replace("\n", options.get("end", "\n"))
        path.write_bytes(raw.encode(options.get("codec", "utf-8")))
    if "several" in words:
        wanted = [tuple(label.split(",")) for label in labels]
    else:
        wanted = [(label.replace(",", ".").replace(".0", ""),) for label in labels]
    found = [(normalize_text(text), *wanted[i % 3]) for i, text in enumerate(texts)]
    return rows, found, {"label_separator": ","} if "set" in words else {}


def read(path: Path, wanted: Rows, settings: dict[str, str], flags: str = "") -> str:
    """Return what came of reading a file, with the flags of its messages."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            typed: dict = settings | ({"header": False} if "header" in settings else {})
            splits = read_texts(DataConfig("csv", str(path), **typed))
    except InputError as error:
        named = re.findall(r"--config\.data\.(\w+)=('[^']*'|\"[^\"]*\"|,|[^\s,:)]+)", str(error))
        new = settings | {name: "".join(shlex.split(value)) for name, value in reversed(named)}
        refused = (
            f"refused: {str(error).replace(str(path), 'the file').replace('|', chr(92) + '|')}"
        )
        if new == settings or {"NAME", "A,B"} & {*new.values()}:
            return refused
        again = read(path, wanted, new, f"{flags} {' '.join('='.join(pair) for pair in named)}")
        return refused if again.startswith("refused") else again
    found = [
        (text, *(name for name, has in zip(of.classes, members, strict=True) if has))
        for of in splits
        for text, members in zip(of.texts, of.labels, strict=True)
    ]
    right = sorted(found) == sorted(wanted)
    return ("right" if right else "WRONG") + (f", after{flags}" if flags else "")


def detect(path: Path, rows: Rows, codec: str) -> str:
    """Return whether csv.Sniffer, clevercsv and pandas find the cells of a file's text."""
    text = path.read_bytes().decode(codec)
    found = []
    for name in ("csv", "clevercsv", "pandas"):
        try:
            if name == "pandas":
                form = {"sep": None, "engine": "python", "dtype": str, "na_filter": False}
                frame = pandas.read_csv(io.StringIO(text), header=None, **form)
                cells = [tuple(row) for row in frame.itertuples(index=False)]
            else:
                module = importlib.import_module(name)
                dialect = module.Sniffer().sniff(text)
                cells = [tuple(row) for row in module.reader(text.splitlines(True), dialect)]
            found.append("right" if cells == rows else "wrong")
        except Exception as error:  # each has its own
            found.append(type(error).__name__)
    return " | ".join(found)


def main() -> None:
    """Write the files, and print a row of a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    print("| file | the package | csv.Sniffer | clevercsv | pandas |\n|---|---|---|---|---|")
    for line in FILES.splitlines():
        name, _, more = line.rpartition(": ")
        words = more.split(" ")
        rows, wanted, settings = write(output / name, words)
        codec = next((w.partition("=")[2] for w in words if w.startswith("codec=")), "utf-8")
        text = (output / name).suffix in (".csv", ".tsv", ".txt")
        detected = detect(output / name, rows, codec) if text else " | | "
        print(f"| {name} | {read(output / name, wanted, settings)} | {detected} |", flush=True)


if __name__ == "__main__":
    main()
