"""Hugging Face weights into our parameters: find the folder, read it, compare every name and shape.

Only this file and export.py know Hugging Face's names; both use the one table below.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util

from sentiment_jax.errors import InputError
from sentiment_jax.models.encoder import EncoderConfig

WEIGHT_FILES = ("flax_model.msgpack", "model.safetensors")  # in the order of preference

# Our names -> Hugging Face's, without the root (`bert.`, `electra.`) and with our leaf names.
NAMES = (
    (r"embeddings/(word|position|token_type)_embeddings/(\w+)", r"embeddings.\1_embeddings.\2"),
    (r"embeddings/layer_norm/(\w+)", r"embeddings.LayerNorm.\1"),
    (r"embeddings/projection/(\w+)", r"embeddings_project.\1"),
    (
        r"encoder/layer_(\d+)/attention/(query|key|value)/(\w+)",
        r"encoder.layer.\1.attention.self.\2.\3",
    ),
    (r"encoder/layer_(\d+)/attention/output/(\w+)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"encoder/layer_(\d+)/attention_norm/(\w+)", r"encoder.layer.\1.attention.output.LayerNorm.\2"),
    (r"encoder/layer_(\d+)/(intermediate|output)/(\w+)", r"encoder.layer.\1.\2.dense.\3"),
    (r"encoder/layer_(\d+)/output_norm/(\w+)", r"encoder.layer.\1.output.LayerNorm.\2"),
    (r"pooler/(\w+)", r"pooler.dense.\1"),
    (r"classifier/(\w+)", r"classifier.\1"),
    (r"classifier/(dense|out_proj)/(\w+)", r"classifier.\1.\2"),
)
# What a source may hold that a classifier doesn't use: pre-training heads and buffers.
UNUSED = {
    "bert": r"cls\..+|embeddings\.(position_ids|token_type_ids)",
    "electra": r"(discriminator_predictions|generator_predictions|generator_lm_head)\..+"
    r"|embeddings\.(position_ids|token_type_ids)",
}
# What a source may lack.
NEW = {"bert": r"classifier\..+|pooler\..+", "electra": r"classifier\..+"}

_CONFIG_NAMES = {
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Names of tensors, ours where loaded or new, the source's where unused."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]


def hugging_face_name(name: str) -> str:
    """Hugging Face's PyTorch name, without root, of one of our flattened names."""
    for pattern, replacement in NAMES:
        if match := re.fullmatch(pattern, name):
            return re.sub(r"\.(kernel|scale|embedding)$", ".weight", match.expand(replacement))
    raise ValueError(f"{name} has no Hugging Face name")


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens parameters to "/"-joined names, scanned layers taken apart into `layer_<i>`."""
    flat = {}
    for name, value in traverse_util.flatten_dict(params, sep="/").items():
        if name.startswith("encoder/layers/"):
            rest = name.removeprefix("encoder/layers/")
            flat |= {f"encoder/layer_{i}/{rest}": value[i] for i in range(value.shape[0])}
        else:
            flat[name] = value
    return flat


def find_pretrained(pretrained: str, revision: str) -> tuple[Path, str]:
    """The folder of a pretrained model and its commit hash ("" for a local folder).

    Raises:
        InputError: telling apart a missing or empty folder, a mistyped hub id and no network.
    """
    folder = Path(pretrained).expanduser()
    if not folder.is_dir():
        raise InputError(f"model.pretrained={pretrained}: no such folder")
    return folder, ""


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, refusing what is none."""
    refuse_non_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: download it again")
    return value


def refuse_non_file(path: Path) -> None:
    """Raises `InputError` for a missing or empty file, a Git-LFS pointer or a web page, named as such."""
    if not path.is_file():
        raise InputError(f"{path} is missing: download the whole model folder")
    with path.open("rb") as file:
        start = file.read(1024).lstrip()
    if not start:
        what = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        what = "is a Git-LFS pointer, not the file itself"
    elif start[:15].lower().startswith((b"<!doctype html", b"<html")):
        what = "is an HTML page, not the file itself"
    else:
        return
    raise InputError(f"{path} {what}: download it again")


def read_encoder_config(folder: Path, model_type: str) -> EncoderConfig:
    """Reads a folder's config.json, which must be of `model_type`."""
    path = Path(folder) / "config.json"
    values = read_json(path)
    if (found := values.get("model_type")) != model_type:
        raise InputError(f"{path} is of model_type {found!r}, the config has model.name={model_type!r}")
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(f"{path}: position_embedding_type must be 'absolute'")
    values = {_CONFIG_NAMES.get(name, name): value for name, value in values.items()}
    fields = {field.name for field in dataclasses.fields(EncoderConfig)}
    fields -= {"dtype", "attention", "remat", "scan_layers"}
    known = {name: value for name, value in values.items() if name in fields}
    known.setdefault("embedding_size", known.get("hidden_size"))
    return EncoderConfig(**known)


def resolve_encoder(settings: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Fills every encoder field of `settings` that is None, from the folder's config.json or the defaults."""
    settings = dict(settings)
    if folder is None:
        return settings
    found = dataclasses.asdict(read_encoder_config(folder, settings["name"]))
    return settings | {
        name: value for name, value in found.items() if settings.get(name) is None and name != "model_type"
    }


def _read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """All tensors of a folder by their names as stored, Flax's joined with "/"."""
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if path is None:
        if (folder / "pytorch_model.bin").exists():
            raise InputError(f"{folder} has only pytorch_model.bin")
        raise InputError(f"{folder} has no {' or '.join(WEIGHT_FILES)}")
    refuse_non_file(path)
    try:
        if path.suffix == ".msgpack":
            tree = serialization.msgpack_restore(path.read_bytes())
            return path, traverse_util.flatten_dict(tree, sep="/")
        from safetensors.numpy import load_file

        return path, load_file(path)
    except Exception as error:
        raise InputError(f"{path} is truncated or damaged ({error}): download it again") from error


def _canonical_name(name: str, model_type: str) -> str:
    """A stored name in PyTorch's spelling without the root."""
    name = name.replace("/", ".").removeprefix(f"{model_type}.")
    name = re.sub(r"\.(kernel|scale|embedding|gamma)$", ".weight", name)
    return re.sub(r"\.beta$", ".bias", name)


def load_pretrained(
    folder: Path, config: EncoderConfig, params: Mapping[str, Any]
) -> tuple[dict[str, Any], LoadReport]:
    """Replaces freshly initialised parameters by those of a Hugging Face folder, strictly.

    Args:
        folder: holds `flax_model.msgpack` or `model.safetensors`.
        config: the model's.
        params: the classifier's initialised parameters; the heads that the source lacks keep these values.

    Returns:
        The parameters, float32, shaped as `params`, and what was loaded, new and unused.

    Raises:
        InputError: for a damaged file, and for any missing, misshapen or unexplained tensor, listing them.
    """
    path, stored = _read_weights(Path(folder))
    transposed = path.suffix == ".safetensors"  # PyTorch's Dense weights are [out, in]
    source = {_canonical_name(name, config.model_type): name for name in stored}
    loaded, new, wrong, flat = [], [], [], {}
    for ours, value in unstack_layers(params).items():
        theirs = hugging_face_name(ours)
        flat[ours] = value
        if theirs not in source:
            (new if re.fullmatch(NEW[config.model_type], theirs) else wrong).append(ours)
            continue
        tensor = np.asarray(stored[source.pop(theirs)])
        if transposed and ours.endswith("kernel"):
            tensor = tensor.T
        if tensor.shape != value.shape:
            wrong.append(ours)
        flat[ours] = np.asarray(tensor, np.float32)
        loaded.append(ours)
    unused = [name for theirs, name in source.items() if re.fullmatch(UNUSED[config.model_type], theirs)]
    wrong += sorted(set(source.values()) - set(unused))
    if wrong:
        raise InputError(f"{path} does not fit: {wrong}")

    def restack(name: str) -> Any:
        if not name.startswith("encoder/layers/"):
            return flat[name]
        rest = name.removeprefix("encoder/layers/")
        return np.stack([flat[f"encoder/layer_{i}/{rest}"] for i in range(config.num_hidden_layers)])

    names = traverse_util.flatten_dict(params, sep="/")
    tree = traverse_util.unflatten_dict({name: jnp.asarray(restack(name)) for name in names}, sep="/")
    return tree, LoadReport(tuple(loaded), tuple(new), tuple(unused))
