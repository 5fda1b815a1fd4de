"""Tokenizers: learned here (word-level, WordPiece), a run's, or those of pretrained weights."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from sentiment_jax.data.ngrams import MIN_FREQUENCY, count_ngrams, frequent_ngrams
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum, read_json
from sentiment_jax.storage.run_directory import RunDirectory

# Unset, the library warns on stderr when the process forks after it used threads.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
CHUNK = 8_000_000  # characters tokenized at once: encodings take 80 bytes each
VOCABULARIES = ("vocab.txt", "vocab.json")  # without a tokenizer.json
WORDS = Regex(r"\w+(?:['’]\w+)*|[^\w\s]+")  # "didn't" is one word, "..." one mark


def train_word_level(
    texts: Sequence[str],
    vocabulary_size: int,
    min_frequency: int,
    ngrams: int = 1,
    ngram_frequency: int = MIN_FREQUENCY,
) -> Tokenizer:
    """Learn a lower-case vocabulary of words and punctuation marks; [PAD] is 0, [UNK] is 1.

    The most frequent words win; words seen fewer than `min_frequency` times are unknown. They are
    followed by the n-grams of 2 to `ngrams` words seen at least `ngram_frequency` times.
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
    tokenizer.train_from_iterator(texts, trainer)
    if ngrams > 1:
        vocabulary = tokenizer.get_vocab()
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        rows = [np.array(ids, np.int32) for ids in tokenize(tokenizer, texts)]
        token_ids = np.concatenate(rows)
        offsets = np.cumsum([0, *map(len, rows)])
        found = frequent_ngrams(token_ids, offsets, words, ngrams, min_frequency=ngram_frequency)
        vocabulary |= {ngram: i for i, ngram in enumerate(found, start=len(words))}
        tokenizer.model = models.WordLevel(vocab=vocabulary, unk_token="[UNK]")
    return tokenizer


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], advance: Callable[[int], Any] = lambda count: None
) -> Iterator[list[int]]:
    """Yield the ids of each text, no special tokens; `advance` gets the number of texts read."""
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text, not a separator.
    rows = CHUNK // max([4000, *map(len, texts)])
    for first in range(0, len(texts), rows):
        chunk = list(texts[first : first + rows])
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            yield encoding.ids
        advance(len(chunk))


def train_ngrams(texts: Sequence[str]) -> Tokenizer:
    """Learn a linear model's vocabulary, which `ngrams.read_ngrams` reads a text by.

    InputError: the texts have no n-gram.
    """
    if not (found := count_ngrams(texts)):
        raise InputError("the training texts have no words: there is nothing to learn from")
    entries = ["[PAD]", "[UNK]", *itertools.chain.from_iterable(names for names, _ in found)]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    return Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))


def train_wordpiece(texts: Sequence[str], *, vocabulary_size: int) -> Tokenizer:
    """Learn an uncased WordPiece vocabulary with BERT's normalizer and special tokens."""
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
    learner.train_from_iterator(texts, trainer)
    # a copy, since the library's class keeps its Tokenizer private
    return Tokenizer.from_str(tokenizers.BertWordPieceTokenizer(learner.get_vocab()).to_str())


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises nothing more precise.
        raise InputError(f"{path} is no tokenizer ({error}): download it again") from None
    return _whole(tokenizer)


def load_run_tokenizer(directory: RunDirectory) -> Tokenizer:
    """Read a run's tokenizer; InputError if it is not the one that the run was trained with."""
    remedy = "it is not the tokenizer that the run was trained with; put that file back"
    check_checksum(directory.tokenizer, read_json(directory.env), remedy)
    return load_tokenizer(directory.tokenizer)


def _whole(tokenizer: Tokenizer) -> Tokenizer:
    """Leave truncation and padding to `encoding`; add [CLS] and [SEP] if nothing is added."""
    tokenizer.no_truncation()  # all-MiniLM-L6-v2's own file truncates at 128 tokens and pads
    tokenizer.no_padding()
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    if tokenizer.post_processor is None and None not in dict(ids).values():
        template = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
        tokenizer.post_processor = template
    return tokenizer


def load_pretrained_tokenizer(folder: Path) -> Tokenizer:
    """Read tokenizer.json from a Hugging Face folder, or have transformers make a tokenizer."""
    if (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder / "tokenizer.json")
    elif any((folder / name).exists() for name in VOCABULARIES):
        tokenizer = _whole(_make_tokenizer(folder))
    else:
        raise InputError(f"{folder} holds neither tokenizer.json nor {' nor '.join(VOCABULARIES)}")
    try:
        before, after = framing(tokenizer)
        tokenizer.encode("\ue000")  # a character of nobody's, for which [UNK] must exist
        largest = max([*tokenizer.get_vocab().values(), *before, *after])
        if largest >= (size := tokenizer.get_vocab_size()):
            raise ValueError(f"its ids go up to {largest}, its vocabulary has {size} entries")
        if getattr(tokenizer.model, "dropout", None):
            raise ValueError("its dropout gives a text other tokens each time")
    except Exception as error:  # the library's, too, or no token was found
        problem = f"{folder}: the tokenizer can't be used ({error})"
        raise InputError(f"{problem}: download it again, or another one") from None
    if (len(before), len(after)) != (1, 1):
        raise InputError(f"{folder}: the tokenizer puts no text between [CLS] and [SEP]")
    return tokenizer


def _make_tokenizer(folder: Path) -> Tokenizer:
    """Have transformers make a tokenizer of files from before tokenizer.json."""
    import transformers  # late: it takes seconds

    of_bert = (folder / "vocab.txt").exists()
    try:
        if of_bert:
            entries = (folder / "vocab.txt").read_text("utf-8").rstrip("\n").split("\n")
            if len({*entries}) < len(entries) or not all(map(str.strip, entries)):
                raise ValueError("a line is blank or repeats another one")
        # google/bert_uncased_* name no model_type, which AutoTokenizer needs
        kind = transformers.BertTokenizer if of_bert else transformers.AutoTokenizer
        tokenizer = kind.from_pretrained(str(folder)).backend_tokenizer
        if of_bert and tokenizer.get_vocab_size() > len(entries):
            raise ValueError("it lacks special tokens, such as [CLS] or [MASK]")
        return tokenizer
    except Exception as error:  # each kind has its own errors
        problem = f"{folder}: the tokenizer's files are damaged ({error})"
        raise InputError(f"{problem}: download it again") from None


@functools.lru_cache(maxsize=8)
def framing(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that stand before and after the tokens of a text: [CLS] and [SEP], or none."""
    encoding = tokenizer.encode("a")
    added = encoding.special_tokens_mask
    first = added.index(0)
    last = len(added) - added[::-1].index(0)
    return encoding.ids[:first], encoding.ids[last:]


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the special tokens, such as [MASK] or <mask>, by their names."""
    added = tokenizer.get_added_tokens_decoder().items()
    return {token.content: i for i, token in added if token.special}


def find_special(tokenizer: Tokenizer, kind: str) -> int | None:
    """Return the id of [KIND] or <kind>: "mask", "unk" or "pad"; None if there is none."""
    found = special_tokens(tokenizer)
    ids = (i for token, i in found.items() if token.strip("[<>]").lower() == kind)
    return next(ids, None)


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of unknown words; None if the tokenizer knows every text."""
    token = getattr(tokenizer.model, "unk_token", None)
    return find_special(tokenizer, "unk") if token is None else tokenizer.token_to_id(token)


def continues_word(tokenizer: Tokenizer, token: str) -> bool:
    """Return whether a token continues the word before it, by the marks of the tokenizer's kind."""
    if isinstance(tokenizer.model, (models.BPE, models.Unigram)):
        return not token.startswith(("Ġ", "Ċ", "▁"))  # bytes' space and line end; SentencePiece's
    return token.startswith("##")
