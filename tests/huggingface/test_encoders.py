"""Each encoder in a run's life: trained, killed, resumed, scored, explained, exported."""

import json
import random
import re
from unittest.mock import Mock

import golden
import jax
import numpy as np
import pretrained
import pytest
import runs
import transformers
from reviews import encode_lists, refuses
from tokenizers.processors import TemplateProcessing

from configs import bert
from sentiment_jax import api
from sentiment_jax.analysis.integrated_gradients import explain
from sentiment_jax.config.recipes import override
from sentiment_jax.data.dataset import SAMPLE
from sentiment_jax.data.encoding import encode
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import continues_word, framing, load_pretrained_tokenizer
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub, weights
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.export import export_workdir
from sentiment_jax.modes.predict import predict, unknown_shares
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.objectives.masked_language_modeling import MaskedLanguageModeling
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.trained_model import load_run

SMALL = {name: value for name, value in runs.SMALL.items() if "model" not in name} | {
    "epochs": 2,
    "batch_size": 16,
    "eval_batch_size": 16,
    "data.source": "sample",
    "data.max_length": 24,
    "data.length_buckets": (),
    "optimizer.learning_rate": 1e-3,
}
TEXTS = SAMPLE.read_text(encoding="utf-8").splitlines()[:300]
NAMES = pretrained.NAMES
EXAMPLE = "An unbelievably good film.  Don't miss it, 😀 naïve café!"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each encoder; not to be changed."""
    parent = tmp_path_factory.mktemp("hub")
    return {name: pretrained.write_folder(parent / name, name, TEXTS) for name in NAMES}


def make_config(folder, **changes):
    """A recipe of BERT that names the folder: config.json says what it is."""
    settings = {"model.pretrained": str(folder), **changes}
    return override(bert.get_config(), SMALL | settings)


def by_default(*chosen):
    """Each encoder; by default those that are `chosen`."""
    others = (pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in chosen)
    return pytest.mark.parametrize("name", [*chosen, *others])


@by_default("modernbert")
def test_a_run_of_each_encoder(name, folders, tmp_path, monkeypatch, capsys):
    config = make_config(folders[name])
    whole = tmp_path / "whole"
    result = train(config, whole)
    assert result["model"] == name == read_json(whole / "config.json")["model"]["name"]
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Progress, "add", runs.at_step(4, Mock(side_effect=MemoryError)))
        train(config, tmp_path / "killed")
    train(config, tmp_path / "killed")
    runs.assert_same_run(whole, tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(hub, "find_pretrained", Mock(side_effect=AssertionError))
        assert train(config, whole) == result  # it is finished: the folder may be gone

    scores = evaluate_split([whole], "test")
    assert {key: scores[key] for key in result["test"]} == result["test"]
    trained = load_run(whole)
    capsys.readouterr()
    _, warnings = predict([trained], ["Good", EXAMPLE, "Очень хороший фильм", ""])
    assert [*warnings[:2], warnings[3]] == ["", "", "no text"]  # Cyrillic may be unknown
    explanation = explain(trained, EXAMPLE)
    assert explanation.complete
    words = [explanation.text[word.start : word.end] for word in explanation.words]
    assert [word.lower() for word in words[:3]] == ["an", "unbelievably", "good"]

    export_workdir(whole, tmp_path / "out")
    model = trained.model
    again, report = weights.load_pretrained(tmp_path / "out", model.config, golden.random(model))
    assert report.new == report.unused == ()
    jax.tree.map(np.testing.assert_array_equal, again, trained.params)
    opened = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (opened.model_type, opened.num_labels) == (name, 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = explanation.text  # without the second space
    ids, _ = encode_lists(trained.tokenizer, [text], max_length=24)
    assert [tokenizer(text, truncation=True, max_length=24)["input_ids"]] == ids


@by_default()
def test_a_pretraining_goes_on_and_is_fine_tuned(name, folders, tmp_path):
    """Also by the recipe of ELECTRA: the objective is the one that the folder's encoder has."""
    config = make_config(folders[name], epochs=1)
    config.model.name = "electra"
    result = api.pretrain(config, str(tmp_path / "text"))
    stored = read_json(tmp_path / "text/config.json")
    assert stored["pretrain"]["objective"] == "masked_language_modeling"
    assert result["val"]["perplexity"] < 2 * pretrained.SIZES["vocab_size"]
    tuned = train(make_config(tmp_path / "text", epochs=1), tmp_path / "run")
    assert tuned["model"] == name


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_roberta_needs_its_tokenizer(name):
    """PyTorch's takes its positions from ids other than 1, which is [UNK] in a learned one."""
    config = make_config(folder="")
    config.model.name = name
    refuses(f"model.name={name} starts from pretrained weights: set", resolve, config)


def test_a_text_must_fit_the_positions_that_padding_leaves(folder):
    """RoBERTa's first two are of padding: a table of two rows has none for a text."""
    changed = golden.change_config(folder("roberta"), max_position_embeddings=2)
    refuses("data.max_length=24 exceeds the model's 0 positions", resolve, make_config(changed))


PARTS = ["good", "Film", "don't", "it's", "x", "1999", "café", "naïve", "Привет", "你好", "ﬁ", "_"]
PARTS += ["\n", "\n\n", "  ", "\t", "...", "?!", "😀", "👍🏽", "e\u0301", "\u200b", "<b>", "&amp;"]


def draw_text(rng):
    """Words, spaces at odd places, other scripts, emoji, line ends, nothing."""
    spaces = ["", " ", " ", "  "]
    return "".join(rng.choice(spaces) + rng.choice(PARTS) for _ in range(rng.randrange(12)))


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_texts_have_the_ids_of_transformers(name, folders):
    rng = random.Random(0)
    texts = ["", " ", "\n", " leading", *(draw_text(rng) for _ in range(996))]
    theirs = transformers.AutoTokenizer.from_pretrained(folders[name])
    tokenizer = load_pretrained_tokenizer(folders[name])
    ours = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert ours == theirs(texts)["input_ids"]
    assert transformers.AutoConfig.from_pretrained(folders[name]).model_type == name
    assert weights.read_encoder_config(folders[name]).name == name
    before, after = framing(tokenizer)
    assert all(ids[:1] == before and ids[-1:] == after for ids in ours)


def test_a_folder_without_tokenizer_json_has_the_one_that_transformers_makes(folders, tmp_path):
    original = load_pretrained_tokenizer(folders["roberta"])
    original.model.save(str(tmp_path))  # vocab.json and merges.txt
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    made = load_pretrained_tokenizer(tmp_path)
    assert made.encode(EXAMPLE).ids == original.encode(EXAMPLE).ids
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer's files are damaged .*: download it again"):
        load_pretrained_tokenizer(tmp_path)


@pytest.mark.parametrize("template", ["[CLS] $A", "[CLS] [CLS] $A [SEP]", "$A"])
def test_a_text_stands_between_two_tokens(template, folders, tmp_path):
    tokenizer = load_pretrained_tokenizer(folders["modernbert"])
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    refuses(r"puts no text between \[CLS\] and \[SEP\]$", load_pretrained_tokenizer, tmp_path)


def test_words_are_joined_whatever_the_decoder(folders, tmp_path):
    """mmBERT's, like Gemma's, is a sequence: only the model says how words are marked."""
    stored = json.loads((folders["xlm-roberta"] / "tokenizer.json").read_text())
    stored["decoder"] = {"type": "Sequence", "decoders": [{"type": "Fuse"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    tokenizer = load_pretrained_tokenizer(tmp_path)
    encoding = tokenizer.encode("unbelievably good", add_special_tokens=False)
    words = [not continues_word(tokenizer, token) for token in encoding.tokens]
    assert sum(words) == 2 < len(words)


def test_a_word_with_several_unknown_pieces_is_one_unknown_word(folders):
    tokenizer = load_pretrained_tokenizer(folders["xlm-roberta"])
    encoded = encode(tokenizer, Texts.from_texts(["good film", "film😀film😀film"]), 24, "head")
    assert unknown_shares(tokenizer, encoded).tolist() == [0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_whole_words_are_masked(name, folders):
    tokenizer = load_pretrained_tokenizer(folders[name])
    objective = MaskedLanguageModeling.of(tokenizer, 0.3)
    encoding = tokenizer.encode("unbelievably good acting throughout this movie")
    kinds = [objective.kinds[i] for i in encoding.ids]
    assert kinds[0] == kinds[-1] == 0  # never
    starts = [i for i, kind in enumerate(kinds) if kind == 1]
    spans = zip(starts, [*starts[1:], -1], strict=True)
    texts = [tokenizer.decode(encoding.ids[start:end]) for start, end in spans]
    found = [re.sub(r"\s|##", "", text) for text in texts]
    expected = ["unbelievably", "good", "acting", "throughout", "this", "movie"]
    byte_level = name in ("roberta", "modernbert")  # which mark a space: a first word has none
    assert found == (expected[1:] if byte_level else expected)
    assert objective.mask == tokenizer.token_to_id("<mask>" if "roberta" in name else "[MASK]")


THREE = ("negative", "neutral", "positive")
UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("theirs", "ours", "order"),
    [
        (THREE, THREE, [0, 1, 2]),
        (("Positive", "Negative", "Neutral"), THREE, [1, 2, 0]),
        (UNNAMED, THREE, [0, 1, 2]),
        (("anger", "joy", "fear"), THREE, None),
        (("negative", "positive"), THREE, None),
        (None, THREE, None),  # without names there are two
        (None, ("bad", "good"), [0, 1]),
        ((0, 1), ("bad", "good"), None),
    ],
)
def test_a_head_for_the_same_classes_is_kept_in_our_order(theirs, ours, order, folder):
    """By the numbers of the names, whatever the order in which the file has them."""
    outputs = np.random.default_rng(0).normal(size=(len(theirs or "12"), 24)).astype(np.float32)
    biases = np.arange(len(outputs), dtype=np.float32)
    head = {"classifier.out_proj.weight": outputs, "classifier.out_proj.bias": biases}
    changed = folder("roberta")
    if theirs:
        named = {str(i): theirs[i] for i in reversed(range(len(theirs)))}
        golden.change_config(changed, id2label=named)
    golden.rewrite(changed, lambda tensors: tensors | head)
    model = golden.build("roberta").clone(classes=len(ours))
    fresh = golden.fill(model)
    params, report = weights.load_pretrained(changed, model.config, fresh, ours)
    out = params["classifier"]["out_proj"]
    if order is None:
        assert {name.partition("/")[0] for name in report.new} == {"classifier"}
        assert set(report.unused) >= set(head)
        assert (out["kernel"] == 7.0).all()
    else:
        assert report.new == report.unused == ()
        np.testing.assert_array_equal(out["kernel"], outputs[order].T)
        np.testing.assert_array_equal(out["bias"], biases[order])


TWO = {"0": "negative", "1": "positive"}


@pytest.mark.parametrize(
    "values",
    [
        *({"id2label": names} for names in (["negative", "positive"], "negative", {}, None)),
        *({"id2label": names} for names in ({"a": "b", "b": "c"}, {"0": "a", "2": "b"})),
        *({"id2label": {"0": "negative", "1": name}} for name in (None, True, ["positive"])),
        *({"num_labels": count} for count in ("two", [2], None, True, 0, -1, 2.5)),
        {"id2label": TWO, "num_labels": 3},
        {"id2label": TWO, "num_labels": None},
    ],
)
def test_damaged_names_of_classes_are_refused(values, folder):
    """Before any text is read; no number or order of classes is guessed."""
    changed = golden.change_config(folder("roberta"), **values)
    refuses("id2label or num_labels is damaged: download", resolve, make_config(changed))


def test_a_head_of_any_number_of_classes_costs_nothing(folder):
    changed = golden.change_config(folder("roberta"), num_labels=10**10)
    model = golden.build("roberta")
    _, report = weights.load_pretrained(changed, model.config, golden.fill(model), ("bad", "good"))
    assert golden.modules(report.new) == {"classifier"}


def test_untied_word_embeddings_are_refused_where_tokens_are_predicted(folder):
    changed = folder("roberta_masked")
    config = golden.build(changed).config
    model = golden.build_model(config, vocab_size=61, objective="masked_language_modeling")
    untied = {"lm_head.decoder.weight": np.ones((61, 24), np.float32)}
    golden.rewrite(changed, lambda tensors: tensors | untied)
    with pytest.raises(InputError, match="untied: lm_head.decoder.weight"):
        weights.load_pretrained(changed, config, golden.fill(model))
    golden.load_report(changed)  # as a classifier
