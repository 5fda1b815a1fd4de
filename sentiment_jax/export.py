"""Export parameters as a Hugging Face folder that PyTorch's sequence classifiers open."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file

from sentiment_jax.analysis.html import render
from sentiment_jax.config import CLASSES, EncoderConfig, class_names
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface.weights import CONFIG_NAMES, hugging_face_name, unstack_layers
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.experiment import TrainedModel

LICENCES = {"google/bert_": "apache-2.0", "google/electra-": "apache-2.0"}  # of hub ids


def export_run(run: TrainedModel, workdir: Path, folder: Path) -> None:
    """Write a run's model as a Hugging Face folder; InputError for one without such a form."""
    if run.config.model.name == "lstm":
        raise InputError(f"{workdir} holds an lstm: only bert and electra have a Hugging Face form")
    parts = run.model.config, run.params, run.tokenizer, run.classes
    export_pretrained(folder, *parts, model_card(workdir))


def export_pretrained(
    folder: Path,
    config: EncoderConfig,
    params: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer,
    classes: Sequence[str] = CLASSES,
    card: str = "",
) -> None:
    """Write model.safetensors, config.json, tokenizer files and, as README.md, a model card.

    The folder appears complete or not at all. `load_pretrained` reads it back bit for bit. A folder
    that holds anything is refused: weights in it could be taken for ours.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is no empty folder: choose another one to export to")
    tensors = {}
    for ours, value in unstack_layers(params).items():
        theirs = hugging_face_name(ours)
        root = "" if theirs.startswith("classifier.") else f"{config.model_type}."
        tensor = np.asarray(value, np.float32)
        tensor = tensor.T if ours.endswith("/kernel") else tensor
        # safetensors writes memory as it lies: a transposed view would come out wrong
        tensors[root + theirs] = np.ascontiguousarray(tensor)
    settings = {
        "architectures": [f"{config.model_type.capitalize()}ForSequenceClassification"],
        **{theirs: getattr(config, ours) for ours, theirs in CONFIG_NAMES.items()},
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
        "torch_dtype": "float32",
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        _write_json(partial / "config.json", settings)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
        _export_tokenizer(partial, config.max_position_embeddings, tokenizer)
        # safetensors makes a file for the user alone; this one has the mode of the others
        shutil.copymode(partial / "config.json", partial / "model.safetensors")
        partial.rename(folder)


def model_card(workdir: Path) -> str:
    """Return what a reader of an exported run should know: data, scores, command, licence."""
    directory = RunDirectory(workdir)
    config, env = directory.read_config(), read_json(directory.env)
    return render(
        "model_card.md.j2",
        name=workdir.resolve().name,
        classes=class_names(config),
        model=config.model,
        base=config.model.pretrained,
        licence=find_licence(config.model.pretrained),
        data=config.data,
        statistics=env["data"],
        result=directory.outcome()[1],
        command=env["command"],
    )


def find_licence(pretrained: str) -> str:
    """Return the licence that pretrained weights come with; empty where nothing says."""
    card = Path(pretrained).expanduser() / "README.md"
    if pretrained and card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"\A---\n(?:.*\n)*?license: *([\w.-]+) *\n", text)
        return found[1] if found else ""
    return next((of for name, of in LICENCES.items() if pretrained.startswith(name)), "")


def _export_tokenizer(folder: Path, max_length: int, tokenizer: tokenizers.Tokenizer) -> None:
    """Write a tokenizer that adds [CLS] and [SEP] and neither pads nor truncates unasked."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    names = "pad", "unk", "cls", "sep", "mask"
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    ids = {token: tokenizer.token_to_id(token) for token in special.values()}
    if tokenizer.post_processor is None and None not in (ids["[CLS]"], ids["[SEP]"]):
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        # takes tokenizer.json as it is; BertTokenizer would build a lower-casing one of its own
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        **{name: token for name, token in special.items() if ids[token] is not None},
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
