"""Attributions: complete, exact where the model is linear, and on the right words."""

import dataclasses
import functools
import re

import flax.linen as nn
import golden
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.analysis.integrated_gradients import Explanation, Word, attribute
from sentiment_jax.config.schema import LstmConfig
from sentiment_jax.data import tokenization
from sentiment_jax.data.texts import Texts, normalize_text
from sentiment_jax.errors import InputError
from sentiment_jax.models.electra import ElectraClassifier
from sentiment_jax.models.layers import embed_positions
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.modes import explain
from sentiment_jax.modes.predict import TextSource
from sentiment_jax.storage.files import read_json

TOKENS = [2, 17, 9, 30, 17, 5, 21, 8, 3]
LSTM = LstmConfig(vocab_size=40, hidden_size=8, bidirectional=True, pooling="mean_max")
ONE_LAYER = {"num_hidden_layers": 1, "max_position_embeddings": 64}
TINY = dataclasses.replace(golden.build("bert").config, **ONE_LAYER)
MODELS = {
    "lstm": LstmClassifier(LSTM),
    "electra": ElectraClassifier(dataclasses.replace(TINY, name="electra", embedding_size=8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_attributions_sum_to_the_difference_of_the_logits(name):
    model = MODELS[name]
    params = golden.random(model, 1.0)  # saturates gates: a hard integral, far from a linear one
    attributions, whole, empty = attribute(model, params, TOKENS, 16)
    difference = whole - empty
    assert abs(difference) > 0.05, "no difference, nothing shown"
    assert abs(attributions.sum() - difference) <= 0.01 * abs(difference)
    short, *_ = attribute(model, params, TOKENS, len(TOKENS))
    np.testing.assert_allclose(attributions, short, atol=1e-4)
    # The endpoints are the model's own, its logits and those of zero vectors, by another program:
    # at about 5, float32's rounding is relative.
    batch = {"token_ids": np.int32([[*TOKENS, *[0] * 7]]), "lengths": np.array([len(TOKENS)])}
    table = params.get("embeddings", params)
    for found in (whole, empty):
        logits = golden.logits(model, params, batch)[0]
        np.testing.assert_allclose(found, logits[1] - logits[0], rtol=1e-5, atol=1e-5)
        for name in {*table} & {*integrated_gradients.WORD_EMBEDDINGS}:
            table[name]["embedding"] = jnp.zeros_like(table[name]["embedding"])


class Linear(nn.Module):
    """Log-odds are a weighted sum of the embeddings: attributions are known."""

    config: LstmConfig = LSTM
    bias: float = 0.0
    classes: int = 2

    @nn.compact
    def __call__(self, token_ids, lengths, *, deterministic):
        embed = nn.Embed(40, 4, name="embedding")
        embedded = embed_positions(embed, token_ids)
        valid = (jnp.arange(token_ids.shape[1]) < lengths[:, None])[:, :, None]
        score = jnp.sum(embedded * valid * jnp.arange(1, 5), axis=(1, 2)) + self.bias
        return jnp.stack([-score, score], axis=1)


@pytest.mark.parametrize("fixed", [(), (0, len(TOKENS) - 1)])
def test_a_linear_models_attributions_are_its_terms(fixed):
    """Those of the positions that the baseline keeps are 0."""
    table = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    params = {"embedding": {"embedding": table}}
    found, whole, empty = attribute(Linear(), params, TOKENS, 12, fixed)
    expected = 2 * table[TOKENS] @ np.arange(1, 5)
    np.testing.assert_allclose(whole, expected.sum(), atol=1e-5)
    np.testing.assert_allclose(empty, expected[list(fixed)].sum(), atol=1e-5)
    expected[list(fixed)] = 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("bias", [-3.0, 3.0])
def test_with_fillers_the_baseline_is_neutral(bias):
    """If the model is sure of a class without words, how it got from there explains nothing."""
    table = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    read = functools.partial(
        integrated_gradients.attribute,
        Linear(bias=bias),
        {"embedding": {"embedding": table}},
        TOKENS,
        12,
    )
    plain, whole, sure = read()
    assert sure == pytest.approx(2 * bias)
    found, same, neutral = read(fillers=[1, 2, 3])
    assert abs(neutral) < 0.1 and same == whole
    np.testing.assert_allclose(found.sum(), whole - neutral, atol=1e-4)
    moved = plain - found  # by the same blend in each place
    np.testing.assert_allclose(
        moved, np.full(len(TOKENS), (neutral - sure) / len(TOKENS)), rtol=1e-4
    )


def test_a_baseline_of_which_the_model_is_not_sure_stays():
    """The search takes as long as the attributions."""
    table = np.ones((40, 4), np.float32)
    params = {"embedding": {"embedding": table}}
    read = functools.partial(integrated_gradients.attribute, Linear(bias=0.4), params, TOKENS, 12)
    (plain, *odds), (found, *same) = read(), read(fillers=[1, 2, 3])
    assert odds == same and (plain == found).all()


TEXT = "Unbelievably dull & overlong - <b>never</b> again!<br />The end."
TRAINING = ["Unbelievably dull and overlong never again the end good bad &"] * 5


@pytest.mark.parametrize(
    ("max_length", "truncation"), [(8, "head"), (8, "tail"), (8, "head_tail"), (64, "head")]
)
@pytest.mark.parametrize("kind", ["lstm", "ngrams", "bert"])
def test_the_words_are_those_that_were_read(kind, truncation, max_length):
    if kind == "bert":
        tokenizer = tokenization.train_wordpiece(TRAINING, vocabulary_size=45)
        config = dataclasses.replace(TINY, vocab_size=0)
    else:
        longest = 3 if kind == "ngrams" else 1
        tokenizer = tokenization.train_word_level(TRAINING, 40, 1, longest, 5)
        config = dataclasses.replace(LSTM, vocab_size=0)
        assert any(" " in word for word in tokenizer.get_vocab()) == (kind == "ngrams")
    trained = golden.make_run(config, tokenizer, max_length=max_length, truncation=truncation)
    explanation = integrated_gradients.explain(trained, TEXT)
    assert explanation.complete and explanation.log_odds != explanation.empty_log_odds
    assert explanation.text == normalize_text(TEXT)
    words = [explanation.text[w.start : w.end] for w in explanation.words]
    known = [w.lower() for w, word in zip(words, explanation.words, strict=True) if word.known]
    places = [(w.start, w.end) for w in explanation.words]
    assert places == sorted(places)
    # The positions in the text must agree with the token ids.
    encoded = trained.encode(Texts.from_texts([TEXT]))
    assert encoded.truncated == (max_length == 8)
    pieces = [tokenizer.id_to_token(i) for i in encoded.tokens]
    if kind == "bert":
        joined = "".join(p.removeprefix("##") for p in pieces[1:-1] if p != "[UNK]")
        assert joined in "".join(known) or encoded.truncated
        assert len(words) < len(pieces) - 2, "no word of several pieces: nothing shown"
    else:
        assert len(words) == len(pieces)
        assert known == [p for p in pieces if p != "[UNK]"]
    if not encoded.truncated:
        assert "".join(words) == re.sub(r"\s", "", explanation.text) and "dull" in known


def test_a_run_on_cudnns_attention_is_explained_as_any():
    """In float32, which cuDNN's attention is refused with: on a machine that has it or not."""
    tokenizer = tokenization.train_wordpiece(TRAINING, vocabulary_size=45)
    plain = dataclasses.replace(TINY, vocab_size=0, attention_dropout=0.0)
    fast = dataclasses.replace(plain, dtype="bfloat16", attention="cudnn")
    runs = [golden.make_run(config, tokenizer, max_length=64) for config in (plain, fast)]
    explanations = [integrated_gradients.explain(run, TEXT) for run in runs]
    assert explanations[0] == explanations[1] and explanations[0].words


def make_explanation(text="so <dull> but fun", **places):
    words = tuple(Word(text.index(w), text.index(w) + len(w), v, True) for w, v in places.items())
    return Explanation(text, words, 1.0, 0.5, 0.0)


def page_of(*explanations):
    block = {"headline": "a", "share": 73.0, "label": "positive", "lines": ["b"], "odds": "c"}
    blocks = [{**block, "start": "so", "explanation": explanation} for explanation in explanations]
    return explain.to_page(blocks, legend="d", ends=("e", "f"))


def test_colors_follow_sign_and_strength():
    explanation = make_explanation(so=0.01, dull=-1.0, but=0.3, fun=0.8)
    assert explain.to_terminal(explanation) == "so [not read: <] dull [not read: >] but fun"
    page = page_of(explanation, make_explanation(dull=-2.0))
    assert "<small> &lt;</small>" in page and "<dull>" not in page
    # All texts of a page have one scale.
    assert "<i class=s5>dull</i>" in page and "<b class=s2>fun</b>" in page
    assert "<b>but</b>" in page, "the first step has no class"
    assert "so<small>" in page, "a word of less than half a step has no color"
    assert '.words b.s2:hover::after { content: "about +0.80"; }' in page
    assert "<div></div><span>-2.00 e</span><span>+2.00 f</span>" in page
    assert "<p class=bar style=--share:73.0%>73.0 % positive\n" in page


def test_words_are_summed_quoted_and_marked():
    words = (Word(0, 3, 0.5, False), Word(3, 4, 0.4, True), Word(5, 8, 0.3, False))
    explanation = Explanation("Zyx, zyx it", (*words, Word(9, 11, -0.2, True)), 1.0, 0.0, 0.0)
    assert explain.strongest_words(explanation, 1) == "zyx +0.80, “,” +0.40"
    assert explain.strongest_words(explanation, -1) == "it -0.20"
    assert explain.strongest_words(make_explanation(fun=0.7), -1) == "nothing"
    page = page_of(explanation)
    assert "<u><b class=s5>Zyx</b></u>" in page


def test_what_was_not_read_is_marked_and_shortened():
    explanation = make_explanation("fun " + "x" * 500 + " end", fun=1.0)
    shown = explain.to_terminal(explanation)
    assert "[not read: x" in shown and " … " in shown and len(shown) < 200
    assert "<small> x" in page_of(explanation)


def test_explains_a_finished_run(model, finished, tmp_path, capsys, monkeypatch):
    texts = ["A dull, <em>awful</em> film, and I loved it.", "", "nan", "word " * 300]
    path = tmp_path / "page.html"
    explain.explain_texts(model, ["a", "b", "c", "d"], texts, path)
    output = capsys.readouterr().out
    assert [line[0] for line in output.splitlines() if re.match(r"[a-d]: ", line)] == list("abcd")
    assert output.count("no text") == 2
    assert "[not read: " in output and "warning" not in output
    page = path.read_text()
    assert page.count("<h2 id=") == 4
    headline = r"a: (negative|positive) +\d+\.\d %"
    assert re.search(rf'<li><a href="#1">{headline}</a> A dull, &lt;em&gt;awful', page)
    assert "<em>" not in page
    assert not re.search(r"""src=|href="[^#]|https?://|<script""", page), "something lies elsewhere"
    path = tmp_path / "deeper" / "page.html"
    explain.explain_run(finished, TextSource(["a &#8220;dull&#8221; film", "good"]), path)
    page = path.read_text()
    assert '">text 1: ' in page and "</a> a “dull” film" in page
    test = read_json(finished / "result.json")["test"]["accuracy"]
    named = rf"<p>{finished}: LSTM, validation accuracy .*, test accuracy {test:.4f}</p>"
    assert re.search(named, path.read_text())
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(explain, "load_run", lambda _: pytest.fail("it is refused first"))
    with pytest.raises(InputError, match="cannot write --output"):
        explain.explain_run(finished, TextSource(texts[:1]), tmp_path / "file" / "page.html")


def test_a_headline_says_that_a_number_is_a_class(model, tmp_path, capsys):
    data = dataclasses.replace(model.config.data, labels="1,2")
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))
    explain.explain_texts(model, ["text 1"], ["good"], tmp_path / "page.html")
    headline = r"text 1: class [12] +\d+\.\d %"
    assert re.match(headline, capsys.readouterr().out)
    assert re.search(f'<h2 id="1">{headline}', (tmp_path / "page.html").read_text())


def test_two_hundred_explanations_are_a_small_page():
    text = "word " * 120
    explanations = []
    for values in np.random.default_rng(0).laplace(scale=0.1, size=(200, 120)):
        words = [Word(5 * i, 5 * i + 4, value, True) for i, value in enumerate(values)]
        explanations.append(Explanation(text, tuple(words), 1.0, 0.0, 0.0))
    assert len(page_of(*explanations)) < 2 * 200 * len(text)


@pytest.mark.parametrize(
    ("config", "fast"),
    [(LstmConfig(hidden_size=6), {}), (TINY, {"attention_dropout": 0.0, "attention": "cudnn"})],
)
def test_a_bfloat16_model_is_explained_in_float32(config, fast):
    """Without cuDNN's attention, which needs bfloat16 and a GPU."""
    tokenizer = tokenization.train_wordpiece(TRAINING, vocabulary_size=45)
    config = dataclasses.replace(config, vocab_size=0)
    configs = [config, dataclasses.replace(config, dtype="bfloat16", **fast)]
    runs = (golden.make_run(config, tokenizer) for config in configs)
    exact, explanation = (integrated_gradients.explain(run, TEXT) for run in runs)
    assert explanation == exact
    assert explanation.complete
    assert abs(explanation.log_odds - explanation.empty_log_odds) > 0.05
