"""Where pretrained weights come from: a local folder or the Hugging Face hub, faults told apart."""

import json
import os
import re
import subprocess
import sys
import time
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
TIMEOUT = 5.0  # seconds until the hub counts as unreachable
STALL = 8.0  # seconds without a new byte until a download counts as broken off
_HELP = "name a folder with config.json, tokenizer and weights, or a hub id"


def find_pretrained(pretrained: str, revision: str) -> tuple[Path, str]:
    """The folder of a pretrained model and its commit hash ("" for a local folder).

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
    """Asks the hub for the commit and gets the files that the cache lacks."""
    from huggingface_hub import HfApi, constants, errors

    where = f"model.pretrained={hub_id}"
    try:
        info = HfApi().model_info(hub_id, revision=revision, timeout=TIMEOUT)
        weights = choose_weights([file.rfilename for file in info.siblings or ()], where)
        # not of info.sha: so the cache learns the branch's name too
        return _fetch(hub_id, revision, [weights, *OTHER_FILES])
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
    except Exception as error:  # the hub's HTTP library has its own errors for "no answer"
        if (snapshot := _cached(hub_id, revision)) is not None:
            return snapshot
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"{where}: no such folder, and the hub can't be reached ({reason}); set "
            "model.pretrained to a local folder with the files, or the environment variable "
            f"HF_HOME to where they were cached (now searched: {constants.HF_HUB_CACHE})"
        ) from error


def _fetch(hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    """Downloads in a process of its own, which is ended when nothing arrives any more.

    The hub's library tries again and again for up to a minute, in threads that nobody can stop.

    Raises:
        OSError: the download failed or broke off; the next one goes on where it was.
    """
    from huggingface_hub import constants

    options: dict[str, Any] = {"repo_id": hub_id, "revision": revision, "allow_patterns": patterns}
    options |= {"etag_timeout": TIMEOUT, "endpoint": constants.ENDPOINT}
    options |= {"cache_dir": str(constants.HF_HUB_CACHE)}
    with subprocess.Popen(
        [sys.executable, "-m", "sentiment_jax.huggingface.hub", json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_XET": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()  # Python has started: from here on, silence is the hub's
            size, since = -1, time.monotonic()
            while process.poll() is None:
                files = Path(constants.HF_HUB_CACHE).glob(f"*{hub_id.rpartition('/')[2]}/blobs/*")
                if size != (size := sum(_size(file) for file in files)):
                    since = time.monotonic()
                if time.monotonic() - since > STALL:
                    raise TimeoutError(f"the download broke off, no byte for {STALL:g} s")
                time.sleep(0.1)
        finally:
            process.kill()
        answer = process.stdout.read().strip()
        if process.returncode:
            raise OSError(answer or f"the download ended with exit code {process.returncode}")
        return Path(answer)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # renamed meanwhile: it is complete
        return 0


def _cached(hub_id: str, revision: str | None) -> Path | None:
    """The complete folder of a revision in the hub's cache, if there is one."""
    from huggingface_hub import errors, snapshot_download

    for weights in WEIGHT_FILES:
        try:
            snapshot = Path(
                snapshot_download(
                    hub_id,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=[weights, *OTHER_FILES],
                )
            )
        except errors.LocalEntryNotFoundError:
            continue
        if (snapshot / weights).exists() and (snapshot / "config.json").exists():
            return snapshot
    return None


def choose_weights(names: Iterable[str], where: str) -> str:
    """The weight file to read of the files named; pickled ones run code when read and are refused.

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
    """Raises `InputError` for a missing or empty file, a Git-LFS pointer, a web page, by name."""
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
    """Reads a JSON object, refusing what is none with `InputError`."""
    refuse_non_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: download it again")
    return value


def _snapshot(options: str) -> int:
    """The other side of `_fetch`: prints the folder, or what went wrong."""
    from huggingface_hub import snapshot_download

    print(flush=True)
    try:
        print(snapshot_download(**json.loads(options)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_snapshot(sys.argv[1]))
