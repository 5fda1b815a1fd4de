"""The recipe `linear` has scikit-learn's probabilities, and is a run like any other."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from reviews import refuses, write_csv
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union

from configs import linear
from sentiment_jax.analysis.integrated_gradients import explain
from sentiment_jax.config.recipes import override
from sentiment_jax.data import ngrams
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.encoding import encode_ngrams, unknown_shares
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_ngrams
from sentiment_jax.models.linear import weigh
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.export import export_run
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.sweep import sweep
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.training import linear_model
from sentiment_jax.training.trained_model import load_run

WORDS = ["good", "bad", "film", "day", "very", "not", "a", "so", "plain", "didn't", "Naïve", "--"]
TEXTS = ["a good, good film word1", "word0 word3: not bad", "", "unheard-of ungood", "é ẞ word2!"]
KINDS = [2, 4, 12, "multi-label"]  # classes


def draw_rows(kind):
    """Texts of random words, and a word or two of the class, or of each label."""
    rng = np.random.default_rng(0)
    classes = 3 if kind == "multi-label" else kind
    rows = []
    for i in range(max(160, 20 * classes)):
        members = np.arange(classes) == i % classes
        if kind == "multi-label":
            members = rng.random(classes) < 0.4
        own = [f"word{k}" for k in np.flatnonzero(members)] * rng.integers(0, 3)
        label = ";".join(f"l{k:02}" for k in np.flatnonzero(members))
        rows.append((" ".join([*rng.choice(WORDS, 6), *own, f"word{rng.integers(20)}"]), label))
    return rows


def make_config(path, **changes):
    return override(linear.get_config(), {"data.path": str(path), "cpu_devices": 1, **changes})


def make_run(folder, kind, **changes):
    """A run on such texts: its directory, result, C, and scikit-learn's model of the same texts."""
    if kind == "multi-label":
        changes |= {"data.label_separator": ";"}
    config = make_config(write_csv(folder / "a.csv", draw_rows(kind)), **changes)
    chosen = []
    with pytest.MonkeyPatch.context() as patch:
        choose = linear_model.choose
        patch.setattr(linear_model, "choose", lambda *of: chosen.append(choose(*of)) or chosen[-1])
        result = train(config, folder / "run")
    trained = load_run(folder / "run")
    splits = load_dataset(trained.config.data).splits
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    within = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    one = LogisticRegression(
        C=chosen[-1],
        solver="liblinear",
        dual=True,
        random_state=0,
        tol=linear_model.ROUGH if kind == 12 else 1e-4,
        class_weight={"none": None}.get(config.class_weights, config.class_weights),
    )
    model = make_pipeline(make_union(words, within), OneVsRestClassifier(one))
    model.fit(splits["train"].texts, splits["train"].codes)
    return SimpleNamespace(
        kind=kind,
        workdir=folder / "run",
        result=result,
        trained=trained,
        splits=splits,
        config=config,
        model=model,
    )


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("four"), 4)


@pytest.fixture(scope="module", params=KINDS)
def run(request, four, tmp_path_factory):
    if request.param == 4:
        return four
    return make_run(tmp_path_factory.mktemp("linear"), request.param)


def check_probabilities(run):
    texts = [*run.splits["test"].texts, *TEXTS]
    found, _ = predict([run.trained], texts)
    expected = run.model.predict_proba(Texts.from_texts(texts).texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.05, "the words say nothing"


def test_probabilities_are_those_of_scikit_learn(run):
    check_probabilities(run)


@pytest.mark.parametrize("kind", [2, 4, "multi-label"])
def test_balanced_class_weights_are_scikit_learns(kind, tmp_path):
    check_probabilities(make_run(tmp_path, kind, class_weights="balanced"))


def test_it_is_a_run_like_any_other(run, tmp_path):
    result = run.result
    assert (result["best_step"], result["epochs"]) == (1, 1) and "temperature" in result
    lines = [(line["split"], line["step"]) for line in read_metrics(run.workdir / "metrics.jsonl")]
    assert lines == [("train", 1), ("val", 1), ("test", 1)]
    assert "linear_baseline" not in result, "it would be compared with itself"
    assert evaluate_split([run.workdir], "test")["loss"] == result["test"]["loss"]
    assert evaluate_split([run.workdir, run.workdir], "test")["examples"] == len(run.splits["test"])
    assert load_run(run.workdir, calibrated=True).temperature != 1
    refuses("have a Hugging Face form", export_run, run.trained, run.workdir, tmp_path / "out")
    classes = len(run.trained.classes)
    size = run.trained.tokenizer.get_vocab_size()
    assert result["parameters"] == size * (2 + classes) + classes


@pytest.mark.parametrize("text", [*TEXTS, "not not good, didn't\tword1?", "a"])
def test_explanations_are_exact(run, text):
    (text,) = Texts.from_texts([text]).texts
    log_odds = np.atleast_1d(run.model.decision_function([text])[0])
    biases = np.array([of.intercept_[0] for of in run.model[-1].estimators_])
    if run.kind == 2:
        log_odds, biases = (np.concatenate([-of, of]) for of in (log_odds, biases))
    for towards in range(len(run.trained.classes)):
        explanation = explain(run.trained, text, towards)
        assert explanation.log_odds == pytest.approx(log_odds[towards], abs=1e-4)
        assert explanation.empty_log_odds == pytest.approx(biases[towards], abs=1e-4)
        total = sum(word.attribution for word in explanation.words)
        assert total == pytest.approx((log_odds - biases)[towards], abs=1e-4)
        assert explanation.complete
    assert [text[word.start : word.end] for word in explanation.words] == text.split()


def test_a_word_has_the_weights_of_its_ngrams_and_half_of_its_bigrams(tmp_path):
    rows = [(f"{word} film {i}", word[0]) for word in ("good", "bad") for i in range(20)]
    train(make_config(write_csv(tmp_path / "a.csv", rows)), tmp_path / "run")
    trained = load_run(tmp_path / "run")
    tokens = jnp.asarray(trained.encode(Texts.from_texts(["good film"])).token_ids)
    weights = np.diff(np.asarray(trained.params["kernel"]))[:, 0][tokens[:, 0]]
    parts = np.asarray(weigh(trained.params["idf"], tokens[None])[0]) * weights
    entries = map(trained.tokenizer.id_to_token, tokens[:, 0].tolist())
    of_ngrams = dict(zip(entries, parts.tolist(), strict=True))
    for word, name in zip(explain(trained, "good film").words, ("good", "film"), strict=True):
        marked = f" {name} "
        own = [marked[i : i + n] for n in range(2, 6) for i in range(len(marked) - n + 1)]
        part = of_ngrams[name] + sum(of_ngrams[f"##{ngram}"] for ngram in own)
        assert word.attribution == pytest.approx(part + of_ngrams["good film"] / 2, abs=1e-5)
        assert word.known


def test_folds_are_those_of_the_baseline_and_so_are_the_scores(tmp_path):
    changes = {"data.folds": 3, "linear_baseline": True}
    result = make_run(tmp_path, 4, **changes).result
    baseline = result["linear_baseline"]
    for split in ("val", "test"):
        for name in ("accuracy", "loss"):
            assert result[split][name] == pytest.approx(baseline[split][name], abs=1e-6)
    assert len(result["folds"]) == 3 and baseline["val"]["examples"] == result["val"]["examples"]


@pytest.mark.parametrize(
    "before", ["fit.Training.log_steps", "fit._validate_epoch", "results.measure"]
)
def test_a_killed_run_ends_as_one_that_was_not(before, four, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(f"sentiment_jax.training.{before}", lambda *_: 1 / 0)
        train(four.config, tmp_path / "run")
    if before == "results.measure":  # it is fitted and tested
        monkeypatch.setattr(linear_model, "fit", None)
    train(four.config, tmp_path / "run")
    runs.assert_same_run(four.workdir, tmp_path / "run")


def test_a_text_is_read_as_a_whole(four):
    long = " ".join(f"word{i % 20} film{i}" for i in range(3000))
    encoded = four.trained.encode(Texts.from_texts([long, TEXTS[0]]))
    counts = encoded.token_ids[: encoded.offsets[1], 1]
    assert encoded.truncated == 0 and counts.sum() > 3000
    found, _ = predict([four.trained], [long])
    np.testing.assert_allclose(found, four.model.predict_proba([long]), rtol=0, atol=1e-5)


def test_a_text_without_a_known_n_gram_of_any_kind_is_unknown(four, monkeypatch):
    encoded = four.trained.encode(Texts.from_texts(["day", "good xyzzy", "日本 ж", ""]))
    shares = unknown_shares(four.trained.tokenizer, encoded)
    np.testing.assert_allclose(shares, [0, 0, 1, 1])
    monkeypatch.setattr(ngrams, "CHARACTERS", 10)
    words = train_ngrams(TEXTS)
    encoded = encode_ngrams(words, Texts.from_texts(["good", "good xyzzy xyzzy", "xyzzy qwerty"]))
    np.testing.assert_allclose(unknown_shares(words, encoded), [0, 0.5, 1])


def test_many_characters_leave_words_alone_and_no_words_are_refused(monkeypatch):
    monkeypatch.setattr(ngrams, "CHARACTERS", 10)
    assert train_ngrams(["good film", "bad"]).get_vocab().keys() == {
        "[PAD]",
        "[UNK]",
        "bad",
        "film",
        "good",
        "good film",
    }
    refuses("have no words", train_ngrams, ["! ! ! ! ! !"])


def test_a_sweep_chooses_the_class_weights(four, tmp_path):
    axes = linear.get_sweep() | {"class_weights": ("none", "balanced"), "seeds": (0,)}
    config = override(four.config, {"select_by": "macro_f1"})
    sweep(config, tmp_path / "sweep", axes)
    found = [read_json(path) for path in (tmp_path / "sweep").glob("**/result.json")]
    assert len(found) == 3 and sum("test" in of for of in found) == 1
