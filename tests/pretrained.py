"""Tiny random folders as the hub has them: an encoder of each kind, with its kind of tokenizer."""

import json

import golden
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from sentiment_jax.config.schema import ENCODERS, DataConfig
from sentiment_jax.data.dataset import READERS
from sentiment_jax.data.tokenization import train_wordpiece
from sentiment_jax.models.registry import build_model
from sentiment_jax.modes.export import Export, export_pretrained

SIZES = {
    "embedding_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "vocab_size": 400,
}
NAMES = ("distilbert", "roberta", "xlm-roberta", "modernbert")


def train_byte_level(texts, special):
    """A byte-level BPE as RoBERTa's and ModernBERT's; `special`: first, pad, last, unk, mask."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"],
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    first, _, last, *_ = ((token, tokenizer.token_to_id(token)) for token in special)
    if special[0] == "<s>":
        tokenizer.post_processor = processors.RobertaProcessing(last, first, add_prefix_space=False)
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[first, last]
        )
    return tokenizer


def train_unigram(texts, special):
    """A unigram model on whole words marked by "▁", as XLM-R's SentencePiece."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZES["vocab_size"] - 50,
        special_tokens=list(special),
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


OF_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
OF_BERT = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
TRAINERS = {
    "distilbert": lambda texts: train_wordpiece(texts, vocabulary_size=SIZES["vocab_size"]),
    "bert": lambda texts: TRAINERS["distilbert"](texts),
    "roberta": lambda texts: train_byte_level(texts, OF_ROBERTA),
    "xlm-roberta": lambda texts: train_unigram(texts, OF_ROBERTA),
    "modernbert": lambda texts: train_byte_level(texts, OF_BERT),
}


def write_folder(folder, name, texts, **changes):
    """Write a folder of random weights, as a masked language model; return it."""
    own = {"local_attention": 8} if name == "modernbert" else {}
    own = {"type_vocab_size": 1} if "roberta" in name else own
    config = ENCODERS[name](**{"name": name, **SIZES, **own, **changes})
    model = build_model(config, vocab_size=1, objective="masked_language_modeling")
    tokenizer = TRAINERS[name](texts)
    params = golden.random(model, scale=0.1)
    export_pretrained(folder, Export(config, params, tokenizer, "masked_language_modeling"))
    return folder


def make_folder(path, name="bert", **pooling):
    """Random weights whose states differ enough to learn from, pooled as sentence embeddings."""
    sample, _ = READERS["sample"](DataConfig("sample"))
    write_folder(path, name, sample.texts)
    words = ("word_embeddings", "tok_embeddings")
    golden.rewrite(
        path, lambda of: {n: v * 20 if any(w in n for w in words) else v for n, v in of.items()}
    )
    if pooling:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return path
