"""Read the config and weights of a Hugging Face folder, comparing every name and shape.

Only this folder, export.py and the models' registry know Hugging Face's names.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util
from safetensors.numpy import load_file

from sentiment_jax.config.schema import ENCODERS, MOST_CLASSES, EncoderConfig, ModelConfig
from sentiment_jax.data.labels import same_classes
from sentiment_jax.data.texts import first_five
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface.names import NAMES, config_fields, tensor_name
from sentiment_jax.models.registry import ARCHITECTURES

WEIGHT_FILES = ("flax_model.msgpack", "model.safetensors")  # in the order of preference
# Tensors beside heads that may be unused: buffers, BERT's second head, copies of embeddings.
UNUSED = (
    r"embeddings\.(position_ids|token_type_ids)|cls\.seq_relationship\..+|"
    r"(cls\.predictions|lm_head)\.decoder\..+|(vocab_projector|decoder)\.weight"
)
TIED = r"((cls\.predictions|lm_head)\.)?decoder\.weight|vocab_projector\.weight"
OUTPUT_LAYER = r"classifier\.(out_proj\.)?(weight|bias)"
Tensors = Mapping[str, Any]
Order = Sequence[int] | None  # each class's number in the source; None: it has other classes
# Settings that may differ from the folder's config.json.
FREE_FIELDS = ("hidden_dropout", "attention_dropout", "classifier_dropout", "initializer_range")


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The files read, and sorted names of tensors: ours, or the source's if unused."""

    files: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]


def choose_weights(names: Iterable[str], where: str) -> str:
    """Return which of the named weight files to read; pickled ones can run code and are refused."""
    names = sorted(names)
    for name in WEIGHT_FILES:
        if name in names:
            return name
    if "pytorch_model.bin" in names:
        raise InputError(
            f"{where} has only pytorch_model.bin, which can run code when read; convert it where "
            "PyTorch is installed, by the class that `architectures` in its config.json names, "
            'its tokenizer too: python -c "import transformers as t; '
            "[kind.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER') "
            'for kind in (t.CLASS, t.AutoTokenizer)]"'
        )
    found = first_five(names) or "nothing at all"
    raise InputError(f"{where} has neither {' nor '.join(WEIGHT_FILES)}: it holds {found}")


def _read(path: Path) -> dict[str, Any]:
    """Return a config's values, or all tensors by their stored names, Flax's joined with "/"."""
    if not path.is_file():
        raise InputError(f"{path} is missing: download the whole model folder")
    with path.open("rb") as file:
        start = file.read(1024).lstrip().lower()
    if not start:
        raise InputError(f"{path} is empty: download it again")
    # Downloads often leave a Git-LFS pointer or a web page in a file's place.
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git-LFS pointer, not the file itself: download it again")
    if start.startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{path} is an HTML page, not the file itself: download it again")
    try:
        if path.suffix == ".json":
            return {**json.loads(path.read_bytes())}
        if path.suffix == ".msgpack":
            tree = serialization.msgpack_restore(path.read_bytes())
            leaves = traverse_util.flatten_dict(tree, sep="/")
            return {name: np.asarray(leaf) for name, leaf in leaves.items()}
        return load_file(path)
    except Exception as error:  # each format has its own errors
        raise InputError(f"{path} is truncated or damaged ({error}): download it again") from error


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Read a folder's config.json; refuse other models, and values that we don't compute."""
    path = folder / "config.json"
    values = _read(path)
    read_classes(folder)
    name = values.setdefault("model_type", "bert")  # the oldest BERT folders name no type
    if name not in [*ENCODERS]:  # it may be a list, which can't be hashed
        raise InputError(f"{path} is of model_type {name!r}, not one of {', '.join(ENCODERS)}")
    try:
        values = NAMES[name].read(values)
        for field, supported in NAMES[name].supported.items():
            if values.get(field, supported) != supported:
                raise InputError(f"{field} {values[field]!r} is unknown, not {supported!r}")
        kind = ENCODERS[name]
        known: dict[str, Any] = {}
        for ours, theirs in config_fields(name).items():
            default = getattr(kind, ours)
            if theirs in values and (values[theirs], default) != (None, None):
                value = values[theirs]
                like = float if default is None else type(default)
                fits = type(value) in (like, int if like is float else like)  # True is no int
                # json reads NaN and Infinity.
                if not fits or (like is not str and not abs(value) < 2**31):
                    raise InputError(f"{theirs} can't be {value!r}: download it again")
                known[ours] = like(value)
            elif ours == "num_attention_heads":  # the one size that no tensor's shape tells
                raise InputError(f"{theirs} is missing: download it again")
        return kind(**{"embedding_size": known.get("hidden_size", 768), **known})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:  # of a text for a group, say
        raise InputError(f"{path} is damaged ({error}): download it again") from error


def read_classes(folder: Path) -> list[str]:
    """Return the names of a head's classes by number: LABEL_0, ... if config.json has none."""
    path = folder / "config.json"
    values = _read(path)
    count = values.get("num_labels", 2)  # transformers writes neither if two
    if "id2label" not in values and type(count) is int and count > 0:
        return [f"LABEL_{i}" for i in range(min(count, MOST_CLASSES + 1))]  # too many for ours
    named = values.get("id2label")
    if isinstance(named, dict) and values.get("num_labels", len(named)) == len(named) > 0:
        names = [named.get(str(i)) for i in range(len(named))]
        if {*map(type, names)} <= {str, int}:
            return [*map(str, names)]
    raise InputError(f"{path}: id2label or num_labels is damaged: download it again")


def resolve_encoder(
    settings: Mapping[str, Any], folder: Path | None, config: EncoderConfig | None = None
) -> EncoderConfig:
    """Fill encoder fields that are None or absent from the folder's config.json or the defaults.

    The folder of a run gives its `config`. A size that differs from the folder's is an InputError.
    The head's dropout rate follows `hidden_dropout` unless it is given here, set in the folder's
    config.json, or differs from the run's hidden rate.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if given.get("pooling") == "folder":
        given["pooling"] = _read_pooling(folder, config)
    found: dict[str, Any] = {"embedding_size": given.get("hidden_size", 768)}
    if folder is not None:
        found = dataclasses.asdict(config or read_encoder_config(folder))
        given["name"] = found["name"]
        if config and config.classifier_dropout == config.hidden_dropout:
            found["classifier_dropout"] = None  # it followed in that run, and does here
        differing = [
            f"{name} is {found[name]} there and {given[name]} in the config"
            for name in config_fields(given["name"])
            if name not in FREE_FIELDS and given.get(name, found[name]) != found[name]
        ]
        if differing:
            path = folder / "config.json"
            raise InputError(f"{path} differs from config.model: {'; '.join(differing)}")
    resolved = ENCODERS[given["name"]](**found | given)
    if resolved.classifier_dropout is None:
        return dataclasses.replace(resolved, classifier_dropout=resolved.hidden_dropout)
    return resolved


def _read_pooling(folder: Path | None, config: EncoderConfig | None) -> str:
    """Return how a folder's sentence embeddings, or a run's classifier, pool the states."""
    if config and config.pooling != "head":
        return config.pooling
    path = folder / "1_Pooling" / "config.json" if folder else None
    values = _read(path) if path and path.is_file() else {}
    return "first" if values.get("pooling_mode_cls_token") is True else "mean"


def load_pretrained(
    folder: Path, config: EncoderConfig, params: Tensors, classes: Sequence[str] = ()
) -> tuple[dict[str, Any], LoadReport]:
    """Replace freshly initialized parameters by a Hugging Face folder's, strictly.

    A head that the source lacks, or has for other `classes`, keeps its fresh parameters. All are
    float32, shaped as `params`, which may be shapes alone. An InputError lists tensors that are
    missing, misshapen, not finite floats or unexplained.
    """
    names = [path.name for path in folder.iterdir()]
    path = folder / choose_weights(names, str(folder))
    files = ", not from ".join(name for name in WEIGHT_FILES if name in names)
    order: Order = class_order(read_classes(folder), classes) if classes else range(0)
    if config.pooling != "head":  # the folder's classifier reads something else
        order = None
    return load_tensors(_read(path), config, params, where=str(path), files=files, order=order)


def class_order(theirs: Sequence[str], ours: Sequence[str]) -> Order:
    """Return each class's number in the source; None if the source has other classes.

    LABEL_0, LABEL_1, ... name the classes of a model whose config.json does not.
    """
    if len(theirs) != len(ours):
        return None
    if same_classes(theirs, ours) or all(re.fullmatch(r"LABEL_\d+", name) for name in theirs):
        return range(len(ours))
    found = [name.casefold() for name in theirs]
    wanted = [name.casefold() for name in ours]
    return [found.index(name) for name in wanted] if sorted(found) == sorted(wanted) else None


def to_tensors(params: Tensors, name: str) -> dict[str, np.ndarray]:
    """Return parameters under the names and in the layout that PyTorch's models have."""
    tensors = {}
    for ours, value in traverse_util.flatten_dict(params, sep="/").items():
        theirs = tensor_name(name, ours)
        is_head = theirs.startswith(ARCHITECTURES[name].heads)
        root = "" if is_head and not theirs.startswith("pooler.") else f"{NAMES[name].root}."
        tensor = np.asarray(value, np.float32)
        if ours.endswith("/kernel"):
            tensor = tensor.T
        # safetensors writes memory as it lies: a transposed view would come out wrong
        tensors[root + theirs] = np.ascontiguousarray(tensor)
    return tensors


@np.errstate(over="ignore")  # of float64
def load_tensors(
    stored: Tensors, config: ModelConfig, params: Tensors, where: str, files: str, order: Order
) -> tuple[dict[str, Any], LoadReport]:
    """Load `stored` tensors, under PyTorch's names or Flax's, as `load_pretrained` does."""
    source: dict[str, str] = {}  # PyTorch's spelling without the root -> the stored name
    for name in stored:
        theirs = name.replace("/", ".").removeprefix(f"{NAMES[config.name].root}.")
        theirs = re.sub(r"\.(kernel|scale|embedding|gamma)$", ".weight", theirs)
        source.setdefault(re.sub(r"\.beta$", ".bias", theirs), name)
    filled = traverse_util.flatten_dict(params, sep="/")
    ours = {tensor_name(config.name, name): name for name in filled}
    heads = ARCHITECTURES[config.name].heads
    other = ("classifier.",) if order is None else ()  # the head with one output per class
    lacking = other + tuple(h for h in heads if not any(name.startswith(h) for name in source))
    idle = other + tuple(h for h in heads if not any(name.startswith(h) for name in ours))
    missing = [name for name in ours if name not in source and not name.startswith(lacking)]
    faults: dict[str, list[str]] = {"missing": missing, "misshapen": [], "not finite floats": []}
    loaded = {n: source.pop(n) for n in ours if n in source and not n.startswith(other)}
    for theirs, name in loaded.items():
        tensor = stored[name]
        shape = filled[ours[theirs]].shape
        floats = jnp.issubdtype(tensor.dtype, jnp.floating)
        if ours[theirs].endswith("/kernel") and not name.endswith("/kernel"):
            tensor = tensor.T  # PyTorch's Dense weights are [out, in]
        if order and tensor.shape == shape and re.fullmatch(OUTPUT_LAYER, theirs):
            tensor = tensor[..., list(order)]
        if tensor.shape != shape:
            faults["misshapen"].append(f"{name} {tensor.shape} for {shape}")
        elif not (floats and np.isfinite(np.float32(tensor)).all()):
            faults["not finite floats"].append(name)
        else:
            filled[ours[theirs]] = np.array(tensor, np.float32, order="C")
    if "predictions/bias" in filled:
        table = filled["embeddings/word_embeddings/embedding"]
        copies = [name for name in source if re.fullmatch(TIED, name)]
        faults["untied"] = [n for n in copies if not np.array_equal(stored[source[n]], table)]
    known = [name for name in source if name.startswith(idle) or re.fullmatch(UNUSED, name)]
    unused = tuple(sorted(source[name] for name in known))
    faults["unexplained"] = [n for n in stored if n not in {*loaded.values(), *unused}]
    if any(faults.values()):
        lists = "; ".join(f"{what}: {first_five(names)}" for what, names in faults.items() if names)
        raise InputError(f"{where} does not fit the model, use the folder it belongs to: {lists}")
    report = LoadReport(
        files=files,
        loaded=tuple(sorted(ours[name] for name in loaded)),
        new=tuple(sorted(name for theirs, name in ours.items() if theirs.startswith(lacking))),
        unused=unused,
    )
    return traverse_util.unflatten_dict(filled, sep="/"), report
