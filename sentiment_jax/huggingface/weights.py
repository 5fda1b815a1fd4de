"""Read the config and weights of a Hugging Face folder, comparing every name and shape.

Only this file and export.py know Hugging Face's names; both use the one table below.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util

from sentiment_jax.config import EncoderConfig
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface.hub import choose_weights, read_json, refuse_non_file

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
    (
        r"encoder/layer_(\d+)/attention_norm/(\w+)",
        r"encoder.layer.\1.attention.output.LayerNorm.\2",
    ),
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
# What a source may lack, as a whole.
HEADS = {"bert": ("classifier", "pooler"), "electra": ("classifier",)}
# Fields of EncoderConfig that config.json doesn't know, and those that may differ from it.
OUR_FIELDS = ("model_type", "dtype", "attention", "remat", "scan_layers")
FREE_FIELDS = ("hidden_dropout", "attention_dropout", "classifier_dropout", "initializer_range")
# config.json's names of our fields, where they differ
CONFIG_NAMES = {
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Sorted names of tensors, ours where loaded or new, the source's where unused."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]


def hugging_face_name(name: str) -> str:
    """Return Hugging Face's PyTorch name, without root, for one of our flattened names."""
    for pattern, replacement in NAMES:
        if match := re.fullmatch(pattern, name):
            return re.sub(r"\.(kernel|scale|embedding)$", ".weight", match.expand(replacement))
    raise ValueError(f"{name} has no Hugging Face name")


def unstack_layers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten parameters to "/"-joined names and split scanned layers into `layer_<i>`."""
    flat: dict[str, Any] = {}
    for name, value in traverse_util.flatten_dict(params, sep="/").items():
        if name.startswith("encoder/layers/"):
            rest = name.removeprefix("encoder/layers/")
            flat |= {f"encoder/layer_{i}/{rest}": value[i] for i in range(value.shape[0])}
        else:
            flat[name] = value
    return flat


def stack_layers(flat: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Invert `unstack_layers`, into the tree structure of `params`."""

    def stacked(name: str, like: Any) -> Any:
        if not name.startswith("encoder/layers/"):
            return jnp.asarray(flat[name])
        rest = name.removeprefix("encoder/layers/")
        return jnp.stack([flat[f"encoder/layer_{i}/{rest}"] for i in range(like.shape[0])])

    names = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict(
        {name: stacked(name, like) for name, like in names.items()}, sep="/"
    )


def read_encoder_config(folder: Path, model_type: str) -> EncoderConfig:
    """Read a folder's config.json.

    Raises:
        InputError: for another model type or values that the encoder doesn't know.
    """
    path = Path(folder) / "config.json"
    values = read_json(path)
    # the oldest BERT folders name no type
    if (found := values.get("model_type", model_type)) != model_type:
        raise InputError(
            f"{path} is of model_type {found!r}, the config says model.name={model_type!r}"
        )
    if (kind := values.get("position_embedding_type", "absolute")) != "absolute":
        raise InputError(
            f"{path}: position_embedding_type {kind!r} is unknown, only 'absolute' is built"
        )
    values = {CONFIG_NAMES.get(name, name): value for name, value in values.items()}
    known: dict[str, Any] = {"model_type": model_type}
    for field in dataclasses.fields(EncoderConfig):
        if field.name in OUR_FIELDS or values.get(field.name) is None:
            continue
        value = values[field.name]
        kind = float if field.default is None else type(field.default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            raise InputError(f"{path}: {field.name} can't be {value!r}: download it again")
        known[field.name] = value
    if "hidden_size" in known:
        known.setdefault("embedding_size", known["hidden_size"])
    try:
        return EncoderConfig(**known)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def resolve_encoder(settings: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Fill encoder fields that are None or absent from the folder's config.json or the defaults.

    Dropout rates and how to compute may differ from the folder's, sizes may not. Without a folder
    `vocab_size` stays open: it will be the tokenizer's.

    Raises:
        InputError: where a size is set and differs from the folder's, comparing them.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if folder is None:
        found = dataclasses.asdict(EncoderConfig(embedding_size=given.get("hidden_size", 768)))
        found["vocab_size"] = None
    else:
        found = dataclasses.asdict(read_encoder_config(folder, settings["name"]))
        differing = [
            f"{name} is {value} there and {given[name]} in the config"
            for name, value in found.items()
            if name not in (*OUR_FIELDS, *FREE_FIELDS) and given.get(name, value) != value
        ]
        if differing:
            raise InputError(
                f"{Path(folder) / 'config.json'} differs from config.model: {'; '.join(differing)}"
            )
    resolved = {**settings, **found, **given}
    if resolved["classifier_dropout"] is None:
        resolved["classifier_dropout"] = resolved["hidden_dropout"]
    del resolved["model_type"]  # settings["name"] says it
    return resolved


def _read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Read all tensors of a folder by their stored names, Flax's joined with "/"."""
    path = folder / choose_weights([path.name for path in folder.iterdir()], str(folder))
    refuse_non_file(path)
    try:
        if path.suffix == ".msgpack":
            tree = serialization.msgpack_restore(path.read_bytes())
            return path, traverse_util.flatten_dict(tree, sep="/")
        from safetensors.numpy import load_file

        return path, load_file(path)
    except Exception as error:  # each format has its own errors
        raise InputError(f"{path} is truncated or damaged ({error}): download it again") from error


def _canonical_name(name: str, model_type: str) -> str:
    """Return a stored name in PyTorch's spelling without the root."""
    name = name.replace("/", ".").removeprefix(f"{model_type}.")
    name = re.sub(r"\.(kernel|scale|embedding|gamma)$", ".weight", name)
    return re.sub(r"\.beta$", ".bias", name)


def load_pretrained(
    folder: Path, config: EncoderConfig, params: Mapping[str, Any]
) -> tuple[dict[str, Any], LoadReport]:
    """Replace freshly initialised parameters by those of a Hugging Face folder, strictly.

    Args:
        folder: holds `flax_model.msgpack` or `model.safetensors`.
        config: the model's.
        params: the classifier's, freshly initialised; a head that the source lacks keeps these.

    Returns:
        The parameters, float32, shaped as `params`, and what was loaded, new and unused.

    Raises:
        InputError: for a damaged file, or any missing, misshapen or unexplained tensor: the lists.
    """
    path, stored = _read_weights(Path(folder))
    transposed = path.suffix == ".safetensors"  # PyTorch's Dense weights are [out, in]
    source: dict[str, str] = {}
    unexplained: list[str] = []
    for name in stored:
        if source.setdefault(_canonical_name(name, config.model_type), name) != name:
            unexplained.append(name)
    lacking = {
        head
        for head in HEADS[config.model_type]
        if not any(name.startswith(f"{head}.") for name in source)
    }
    flat = unstack_layers(params)
    faults: dict[str, list[str]] = {"missing": [], "misshapen": [], "not finite floats": []}
    loaded: list[str] = []
    new: list[str] = []
    for ours, value in flat.items():
        theirs = hugging_face_name(ours)
        if theirs not in source:
            is_new = theirs.partition(".")[0] in lacking
            (new if is_new else faults["missing"]).append(ours if is_new else theirs)
            continue
        name = source.pop(theirs)
        tensor = np.asarray(stored[name])
        if transposed and ours.endswith("/kernel"):
            tensor = tensor.T
        if tensor.shape != value.shape:
            faults["misshapen"].append(f"{name} {tensor.shape} for {value.shape}")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating) or not np.isfinite(tensor).all():
            faults["not finite floats"].append(name)
        else:
            flat[ours] = np.asarray(tensor, np.float32)
            loaded.append(ours)
    unused = [
        name for theirs, name in source.items() if re.fullmatch(UNUSED[config.model_type], theirs)
    ]
    faults["unexplained"] = unexplained + [n for n in source.values() if n not in unused]
    if any(faults.values()):
        lists = "; ".join(f"{what}: {_shorten(names)}" for what, names in faults.items() if names)
        raise InputError(
            f"{path} does not fit the model, use the folder that it belongs to: {lists}"
        )
    return stack_layers(flat, params), LoadReport(
        *(tuple(sorted(names)) for names in (loaded, new, unused))
    )


def _shorten(names: list[str]) -> str:
    """Join the first ten names and count the rest."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
