"""Exported folders: read back bit for bit, opened by transformers, never half written."""

import dataclasses
import errno
import json
import os
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import commands
import golden
import jax
import numpy as np
import onnxruntime
import pretrained
import pytest
import readme
import runs
import safetensors
import transformers
from golden import FIXTURES
from safetensors.numpy import load_file
from tokenizers import BertWordPieceTokenizer, Tokenizer

from sentiment_jax.config.schema import AverageConfig, EncoderConfig, LinearConfig
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_ngrams, train_word_level, train_wordpiece
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import weights
from sentiment_jax.modes import export
from sentiment_jax.modes.export import Export, export_pretrained
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.training.trained_model import calibrate

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "Good", "film", "##s", "bad")


@pytest.fixture
def tokenizer():
    """A cased tokenizer with other lengths than the model's."""
    learned = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)}, lowercase=False)
    tokenizer = Tokenizer.from_str(learned.to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    return tokenizer


@pytest.fixture
def bert(tokenizer):
    model, params = golden.load("bert")
    return Export(model.config, params, tokenizer)


@pytest.mark.parametrize("name", golden.TORCH)
def test_an_exported_folder_is_read_back_bit_for_bit(tmp_path, tokenizer, name):
    """Its tensors are those that Hugging Face wrote, too."""
    model, params = golden.load(name)
    export_pretrained(tmp_path / "out", Export(model.config, params, tokenizer))
    again, loaded = golden.load(tmp_path / "out")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    ours, theirs = (folder / "model.safetensors" for folder in (tmp_path / "out", FIXTURES / name))
    jax.tree.map(np.testing.assert_array_equal, load_file(ours), load_file(theirs))
    with safetensors.safe_open(ours, "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("classes", [("negative", "positive"), ("bad", "so so", "good")])
@pytest.mark.parametrize("name", ["bert", "electra_projection"])
def test_transformers_reads_the_config(tmp_path, tokenizer, name, classes):
    """It takes the size of the head from id2label."""
    two, _ = golden.load(name, hidden_dropout=0.3, classifier_dropout=0.2)
    model = two.clone(classes=len(classes))
    params = golden.random(model)
    export_pretrained(tmp_path / "out", Export(model.config, params, tokenizer, classes=classes))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out").to_dict()
    changes = {
        "id2label": dict(enumerate(classes)),
        "label2id": {label: i for i, label in enumerate(classes)},
        "architectures": [f"{name.partition('_')[0].title()}ForSequenceClassification"],
        "hidden_dropout_prob": 0.3,
        "classifier_dropout": 0.2,
    }
    original = transformers.AutoConfig.from_pretrained(FIXTURES / name).to_dict()
    for field in original.keys() - {"_name_or_path", "transformers_version"}:
        assert config[field] == changes.get(field, original[field]), field
    loaded, report = weights.load_pretrained(tmp_path / "out", model.config, golden.random(model))
    assert report.new == report.unused == ()
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_transformers_opens_the_tokenizer_as_it_is(tmp_path, tokenizer, bert):
    export_pretrained(tmp_path / "out", bert)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert opened.model_max_length == 16
    assert (opened.pad_token_id, opened.cls_token_id, opened.sep_token_id) == (0, 2, 3)
    encoded = opened(["Good films good bad film", "bad"], padding=True)
    assert encoded["input_ids"] == [[2, 6, 7, 8, 5, 9, 7, 3], [2, 9, 3, 0, 0, 0, 0, 0]]
    assert len(opened("bad " * 50, truncation=True)["input_ids"]) == 16
    stored = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert stored.truncation is stored.padding is None
    assert tokenizer.truncation["max_length"] == 3  # of the one that was passed


def test_a_folder_with_other_files_is_refused(tmp_path, bert):
    (tmp_path / "flax_model.msgpack").write_bytes(b"other weights")
    for folder in (tmp_path, tmp_path / "flax_model.msgpack"):
        with pytest.raises(InputError, match="is no empty folder"):
            export_pretrained(folder, bert)
    assert [path.name for path in tmp_path.iterdir()] == ["flax_model.msgpack"]
    with pytest.raises(InputError, match="cannot write to .*msgpack/inside: "):
        export_pretrained(tmp_path / "flax_model.msgpack" / "inside", bert)
    (tmp_path / "empty").mkdir()
    export_pretrained(tmp_path / "empty", bert)
    assert (tmp_path / "empty/model.safetensors").exists()


def test_files_have_the_mode_of_the_umask(tmp_path, bert):
    """An export and a run directory, for colleagues to read or not."""
    before = os.umask(0o027)
    try:
        export_pretrained(tmp_path / "out", bert)
        train(runs.make_small(**runs.ONE_SHAPE, epochs=1), tmp_path / "run")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert oct(path.stat().st_mode & 0o777) == oct(0o750 if path.is_dir() else 0o640), path


@pytest.mark.parametrize("name", ["x" * 256, "link", ".", "mounted", "full"])
def test_a_folder_is_written_or_nothing_is_left(tmp_path, bert, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    if number := {"mounted": errno.EBUSY, "full": errno.ENOSPC}.get(name):
        error = OSError(number, os.strerror(number))
        monkeypatch.setattr(Path, "rename", Mock(side_effect=error))
    if name == "link":
        export_pretrained(Path(name), bert)
        assert (tmp_path / "empty" / "model.safetensors").exists()
        return
    full = name == "full"  # which main reports as a failed run, not as bad input
    message = "No space" if full else "cannot write to|no empty folder"
    with pytest.raises(OSError if full else InputError, match=message):
        export_pretrained(Path(name), bert)
    assert sorted(os.listdir(tmp_path)) == ["empty", "link"]


def test_the_model_card_has_the_scores_and_the_command_of_the_run(run_copy, tmp_path, bert):
    card = export.model_card(run_copy)
    result = read_json(run_copy / "result.json")
    env = read_json(run_copy / "env.json")
    row = "| {} | {accuracy:.4f} | {loss:.4f} | {examples} |"
    val = row.format("val", **result["val"])
    test = row.format("test", **result["test"])
    assert {"| train | 48 | 24 | 24 |", val, test} <= {*card.splitlines()}
    assert env["command"] in card and env["data"]["data_hash"][:12] in card
    assert "License of the base: none, it had random weights." in card
    assert card.startswith("---\nlibrary_name: transformers\n") and "\nbase_model:" not in card
    export_pretrained(tmp_path / "out", dataclasses.replace(bert, card=card))
    assert (tmp_path / "out" / "README.md").read_text() == card
    runs.change_json(run_copy / "config.json", select_by="last")
    assert f"of {result['epochs']}, the last; the test set" in export.model_card(run_copy)
    runs.change_json(run_copy / "result.json", val={})
    card = export.model_card(run_copy)
    assert "the last: no texts were held out to choose by" in card
    assert test in card and "| val | " not in card.split("## Scores")[1]
    content = read_json(run_copy / "result.json")  # of a comparison, which tests another run
    write_json(run_copy / "result.json", {k: v for k, v in content.items() if k != "test"})
    card = export.model_card(run_copy)
    assert "no test set was scored" in card and "| test |" not in card.split("## Scores")[1]
    (run_copy / "result.json").unlink()  # a training that goes on
    scores = export.model_card(run_copy).split("## Scores")[1]
    assert "its best checkpoint so far" in scores and "| test |" not in scores


def test_the_license_is_that_of_what_a_pretraining_started_from(run_copy, tmp_path):
    middle, first = (shutil.copytree(run_copy, tmp_path / name) for name in ("middle", "first"))
    bases = {run_copy: str(middle), middle: str(first), first: "google/electra-small"}
    for run, base in bases.items():
        runs.change_json(run / "config.json", "model", pretrained=base)
    card = export.model_card(run_copy)
    assert "License of the base: that of google/electra-small." in card
    assert "\nbase_model: google/electra-small\n" in card


# ONNX files


def make_encoder(sizes=pretrained.SIZES, **data):
    """An encoder of random weights, as a run has it."""
    tokenizer = train_wordpiece(["A good film of many words and a bad end."], vocabulary_size=50)
    return golden.make_run(EncoderConfig(**sizes), tokenizer, **data)


def test_a_run_is_written_as_onnx_files_that_open_as_the_card_says(finished, printed, tmp_path):
    """Probabilities of texts are those of tests/test_serve.py; here, what stands in the folder."""
    folder = tmp_path / "out"
    arguments = ("--mode=export", "--format=onnx", f"--workdir={finished}", f"--output={folder}")
    assert printed(*arguments).startswith(f"wrote {folder}: open it with onnxruntime, ")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    known = {"README.md", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert files == known | {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LstmForSequenceClassification"]
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    temperature = read_json(finished / "result.json")["temperature"]
    ours = {"temperature": temperature, "thresholds": [], "keep": [24, 0], "empty": [1]}
    assert config["sentiment_jax"] == ours
    card = (folder / "README.md").read_text()
    code = next(b for b in readme.blocks(folder / "README.md") if b.language == "python").text
    assert commands.python("-c", code, cwd=folder).stdout.strip() in ("negative", "positive")
    assert "library_name: transformers.js" in card and "`model_quantized.onnx`" not in card


def test_int8_has_nearly_the_logits_of_float32(finished, tmp_path):
    """Of an encoder, whose products and embeddings it holds in bytes."""
    folder = tmp_path / "out"
    wide = {"embedding_size": 64, "hidden_size": 64, "intermediate_size": 256}
    run = dataclasses.replace(make_encoder(pretrained.SIZES | wide), thresholds=[0.2, 0.8])
    export.export_onnx(run, finished, folder)
    settings = json.loads((folder / "config.json").read_text())["sentiment_jax"]
    assert settings["thresholds"] == calibrate(run, settings["temperature"]).thresholds
    assert settings["thresholds"] != run.thresholds
    sizes = [path.stat().st_size for path in sorted((folder / "onnx").iterdir())]
    assert sizes[1] < 0.5 * sizes[0]
    ids = np.random.default_rng(0).integers(5, 50, (20, 12))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    sessions = map(onnxruntime.InferenceSession, sorted((folder / "onnx").iterdir()))
    exact, rounded = (session.run(["logits"], feed)[0] for session in sessions)
    assert 0 < np.abs(exact - rounded).max() < 0.1 * np.ptp(exact)


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
def test_keep_truncates_as_training_does(truncation):
    run = make_encoder(max_length=9, truncation=truncation)
    first, last = export.onnx_settings(run)["sentiment_jax"]["keep"]
    text = "a good film of many words and a bad end indeed"
    ids = run.tokenizer.encode(text).ids
    assert first + last == 9 < len(ids)
    assert [*ids[:first], *ids[len(ids) - last :]] == run.encode(
        Texts.from_texts([text])
    ).tokens.tolist()


def test_thresholds_are_of_probabilities_at_the_temperature():
    run = make_encoder(labels="a,b,c", label_separator=";")
    settings = export.onnx_settings(calibrate(run, [2.0, 1.0, 0.5]))
    assert settings["problem_type"] == "multi_label_classification"
    assert settings["sentiment_jax"]["thresholds"] == [0.5, 0.5, 0.5]
    lower = dataclasses.replace(run, thresholds=[0.2, 0.2, 0.2])
    found = export.onnx_settings(calibrate(lower, [2.0, 1.0, 0.5]))["sentiment_jax"]["thresholds"]
    np.testing.assert_allclose(found, [1 / 3, 0.2, 1 / 17], rtol=1e-6)


def test_what_no_tokenizer_reads_is_not_exported(tmp_path, monkeypatch):
    run = golden.make_run(
        AverageConfig(embedding_size=4), train_word_level(["a b"] * 9, 9, 1, 2, 2)
    )
    with pytest.raises(InputError, match="a run of average: it reads n-grams, which are found in"):
        export.export_onnx(run, tmp_path, tmp_path / "out")
    run = golden.make_run(LinearConfig(), train_ngrams(["a good film"]))
    with pytest.raises(InputError, match="a run of linear: it reads n-grams"):
        export.export_onnx(run, tmp_path, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="--format=onnx needs onnx: pip install onnx onnxruntime"):
        export.export_onnx(make_encoder(), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
