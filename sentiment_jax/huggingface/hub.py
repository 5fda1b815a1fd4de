"""Where pretrained weights come from: a local folder or the Hugging Face hub, faults told apart."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentiment_jax.errors import InputError

WEIGHT_FILES = ("flax_model.msgpack", "model.safetensors")  # in the order of preference
OTHER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
TIMEOUT = 6.0  # seconds without a byte until the hub counts as unreachable
_HELP = "name a folder with config.json, tokenizer and weights, or a hub id"


def find_pretrained(pretrained: str, revision: str) -> tuple[Path, str]:
    """Return the folder of a pretrained model and its commit hash ("" for a local folder).

    Args:
        pretrained: a local folder, or a hub id that is downloaded into the hub's cache.
        revision: commit hash, tag or branch on the hub; "" for its newest commit. A local folder
            has none.

    Raises:
        InputError: telling apart a missing or empty folder, a mistyped hub id and no network.
    """
    where = f"model.pretrained={pretrained}"
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
        if not names:
            raise InputError(f"{where} is an empty folder: {_HELP}")
        choose_weights(names, where)
        return folder, ""
    if folder.exists():
        raise InputError(f"{where} is a file: {_HELP}")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", pretrained):
        raise InputError(f"{where}: no such folder: {_HELP}")
    # a commit never changes: what the cache holds of it needs no network
    is_commit = re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    snapshot = (_cached(pretrained, revision) if is_commit else None) or _download(
        pretrained, revision or None
    )
    return snapshot, snapshot.name


def _download(hub_id: str, revision: str | None) -> Path:
    """Ask the hub for the commit and get the files that the cache lacks."""
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # its connections have time-outs of their own
    from huggingface_hub import HfApi, constants, errors, hf_hub_download

    from sentiment_jax.huggingface.http_client import give_up_after

    where = f"model.pretrained={hub_id}"
    give_up_after(TIMEOUT)
    try:
        commit = HfApi().resolve_revision(hub_id, revision=revision)
        files = HfApi().model_info(hub_id, revision=commit).siblings or ()
        names = [file.rfilename for file in files]
        weights = choose_weights(names, where)
        # the weights last: where the cache has them, it has the rest
        for name in [*(name for name in OTHER_FILES if name in names), weights]:
            path = hf_hub_download(hub_id, name, revision=commit)
        return Path(path).parent
    except InputError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(f"{where}: ask for access on the hub, then log in") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{where}: neither a local folder nor a public model on the hub: check the spelling"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"model.revision={revision}: the hub's {hub_id} has none such") from error
    except Exception as error:  # the hub's library has its own errors for "no answer"
        if (snapshot := _cached(hub_id, revision)) is not None:
            return snapshot
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"{where}: no such folder, and the hub can't be reached ({reason}); set "
            "model.pretrained to a local folder with the files, or the environment variable "
            f"HF_HOME to where they were cached (now searched: {constants.HF_HUB_CACHE})"
        ) from error


def _cached(hub_id: str, revision: str | None) -> Path | None:
    """Return the complete folder of a revision in the hub's cache, if there is one."""
    from huggingface_hub import try_to_load_from_cache

    for weights in WEIGHT_FILES:
        path = try_to_load_from_cache(hub_id, weights, revision=revision)
        if isinstance(path, str) and Path(path).with_name("config.json").exists():
            return Path(path).parent
    return None


def choose_weights(names: Iterable[str], where: str) -> str:
    """Return which of the named weight files to read; pickled ones can run code and are refused.

    Raises:
        InputError: where none is safe to read, naming `where`.
    """
    names = sorted(names)
    for name in WEIGHT_FILES:
        if name in names:
            return name
    if "pytorch_model.bin" in names:
        raise InputError(
            f"{where} has only pytorch_model.bin, which can run code when read; convert it where "
            'PyTorch is installed: python -c "from transformers import AutoModel; '
            "AutoModel.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER')\""
        )
    found = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise InputError(f"{where} has neither {' nor '.join(WEIGHT_FILES)}, only {found}")


def refuse_non_file(path: Path) -> None:
    """Raise `InputError` for a missing or empty file, a Git-LFS pointer or a web page, named so."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise `InputError` for anything else."""
    refuse_non_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: download it again")
    return value
