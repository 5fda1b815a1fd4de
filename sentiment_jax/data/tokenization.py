"""Tokenizers: word-level and WordPiece vocabularies, learned here or read from a folder."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.implementations import BertWordPieceTokenizer

from sentiment_jax.config import TRUNCATIONS
from sentiment_jax.errors import InputError

# "didn't" is one word, "..." one mark.
WORDS = Regex(r"\w+(?:['’]\w+)*|[^\w\s]+")
PROBE = "This is a good movie, and that was a bad film."
SPECIAL = {"[UNK]", "[CLS]", "[SEP]"}
CHUNK = 2048  # Encodings carry far more than ids: this many at a time bound the memory.


def train_word_level(
    texts: Sequence[str], *, vocabulary_size: int, min_frequency: int
) -> Tokenizer:
    """Learn a lower-case vocabulary of words and punctuation marks; [PAD] is 0, [UNK] is 1.

    Args:
        texts: of the training split only.
        vocabulary_size: most entries, [PAD] and [UNK] included; the most frequent words win.
        min_frequency: words seen fewer times are unknown.
    """
    tokenizer = Tokenizer(models.WordLevel(vocab={}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(WORDS, behavior="removed", invert=True)
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        special_tokens=["[PAD]", "[UNK]"],
        show_progress=False,
    )
    _allow_threads()
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_wordpiece(texts: Sequence[str], *, vocabulary_size: int) -> Tokenizer:
    """Learn an uncased WordPiece vocabulary with BERT's normaliser and special tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = Tokenizer(models.WordPiece(vocab={}, unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The library numbers "##x" pieces in the order of a hash map and breaks ties by number, so that
    # each training gives another vocabulary; naming them first gives the same one every time.
    characters = learner.normalizer.normalize_str("".join(sorted(set().union(*texts))))
    pieces = [f"##{character}" for character in sorted(set(characters) - {" "})]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=special + pieces, show_progress=False
    )
    _allow_threads()
    learner.train_from_iterator(texts, trainer)
    return BertWordPieceTokenizer(learner.get_vocab())._tokenizer


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a tokenizer.json; lengths are left to `encode`, whatever the file says of them.

    Raises:
        InputError: missing or damaged.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: it should hold the tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises nothing more precise.
        raise InputError(f"{path} is no tokenizer ({error}): download it again") from None
    # all-MiniLM-L6-v2's own file truncates at 128 tokens and pads.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_pretrained_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder: its tokenizer.json or else its vocab.txt.

    Raises:
        InputError: none there, damaged, or one that knows no English word.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder / "tokenizer.json")
    elif (folder / "vocab.txt").exists():
        tokenizer = _from_vocabulary(folder)
    else:
        raise InputError(f"{folder} holds neither tokenizer.json nor vocab.txt")
    known = set(tokenizer.encode(PROBE, add_special_tokens=False).tokens) - {"[UNK]"}
    if not known or not tokenizer.get_vocab().keys() >= SPECIAL:
        why = "has no [CLS], [SEP] or [UNK]" if known else "maps every word to [UNK]"
        raise InputError(f"the tokenizer in {folder} {why}: download it again")
    return tokenizer


def _from_vocabulary(folder: Path) -> Tokenizer:
    # google/bert_uncased_* have no tokenizer_config.json: the defaults of BERT are theirs.
    settings, file = {}, folder / "tokenizer_config.json"
    try:
        if file.exists():
            settings = json.loads(file.read_text("utf-8"))
        file = folder / "vocab.txt"
        tokens = file.read_text("utf-8").split("\n")
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}): download it again") from None
    vocabulary = {token.rstrip("\r"): i for i, token in enumerate(tokens) if token.strip()}
    if missing := SPECIAL - vocabulary.keys():
        raise InputError(f"{file} has no {', '.join(sorted(missing))}: download it again")
    wordpiece = BertWordPieceTokenizer(
        vocabulary,
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    return wordpiece._tokenizer


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int, truncation: str
) -> tuple[list[list[int]], int]:
    """Turn texts into token ids, [CLS] and [SEP] around them when the vocabulary has both.

    Args:
        tokenizer: without truncation or padding of its own.
        texts: normalised.
        max_length: most tokens, special ones included.
        truncation: the part of a longer text that is kept: head, tail, or head_tail, its first
            128/510 and its last 382/510 (Sun et al. 2019, How to Fine-Tune BERT).

    Returns:
        At least one id per text ([UNK] where there is none), and how many texts were cut.

    Raises:
        InputError: unknown truncation, or max_length leaves no room for a word.
    """
    if truncation not in TRUNCATIONS:
        raise InputError(
            f"data.truncation is {truncation!r}: choose one of {', '.join(TRUNCATIONS)}"
        )
    before: list[int] = []
    after: list[int] = []
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    if start is not None and end is not None:
        before, after = [start], [end]
    room = max_length - len(before) - len(after)
    if room < 1:
        raise InputError(f"data.max_length is {max_length}: it leaves no room for a word")
    empty = [] if before else [tokenizer.token_to_id("[UNK]") or 0]
    _allow_threads()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a review is text, not a separator.
    sequences, truncated = [], 0
    for first in range(0, len(texts), CHUNK):
        chunk = list(texts[first : first + CHUNK])
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            truncated += len(encoding.ids) > room
            sequences.append(before + truncate(encoding.ids or empty, room, truncation) + after)
    return sequences, truncated


def truncate(tokens: list[Any], room: int, truncation: str) -> list[Any]:
    """Return those of a text's tokens (or of what goes with each) that are kept; see `encode`."""
    if len(tokens) <= room:
        return tokens
    head = {"head": room, "tail": 0, "head_tail": round(room * 128 / 510)}[truncation]
    return tokens[:head] + tokens[len(tokens) - (room - head) :]


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Return a sha256 that changes with anything that may change the ids."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _allow_threads() -> None:
    # Unset, the library warns on stderr when the process forks after it used threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
