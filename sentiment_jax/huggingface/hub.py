"""Find pretrained weights in a local folder or on the Hugging Face hub, telling faults apart."""

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub

from sentiment_jax.errors import InputError
from sentiment_jax.huggingface.weights import WEIGHT_FILES, choose_weights

OTHER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
TIMEOUT = 6.0  # seconds without a byte until the hub counts as unreachable
_HELP = "name a folder with config.json, tokenizer and weights, a run's, or a hub id"


def find_pretrained(pretrained: str, revision: str) -> tuple[Path, str]:
    """Return the folder of a pretrained model and its commit hash ("" for a local folder).

    `pretrained` is a local folder, or a hub id to download into the hub's cache; `revision` is a
    commit hash, tag or branch on the hub, "" for its newest commit. Each fault has its InputError.
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
    is_commit = re.fullmatch(r"[0-9a-f]{40}", revision)
    snapshot = _cached(pretrained, revision) if is_commit else None
    snapshot = snapshot or _download(pretrained, revision)
    return snapshot, snapshot.name


def _download(hub_id: str, revision: str) -> Path:
    """Ask the hub for the commit and get the files that the cache lacks."""
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # its connections have time-outs of their own
    from huggingface_hub import HfApi, constants, errors

    where = f"model.pretrained={hub_id}"
    hooks = huggingface_hub.get_session().event_hooks  # they implement HF_HUB_OFFLINE
    huggingface_hub.set_client_factory(
        lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=TIMEOUT)
    )
    try:
        commit = HfApi().resolve_revision(hub_id, revision=revision or None)
        files = HfApi().model_info(hub_id, revision=commit).siblings or ()
        names = [file.rfilename for file in files]
        weights = choose_weights(names, where)
        # the weights last: where the cache has them, it has the rest
        for name in [*(name for name in OTHER_FILES if name in names), weights]:
            path = huggingface_hub.hf_hub_download(hub_id, name, revision=commit)
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
        raise InputError(f"model.revision={revision}: {hub_id} has no such revision") from error
    except Exception as error:  # the hub's library has its own errors for "no answer"
        if (snapshot := _cached(hub_id, revision)) is not None:
            return snapshot
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"{where}: no such folder, and the hub can't be reached ({reason}); set "
            "model.pretrained to a local folder with the files, or the environment variable "
            f"HF_HOME to where they were cached (now searched: {constants.HF_HUB_CACHE})"
        ) from error


def _cached(hub_id: str, revision: str) -> Path | None:
    """Return the complete folder of a revision in the hub's cache, if there is one."""
    for weights in WEIGHT_FILES:
        path = huggingface_hub.try_to_load_from_cache(hub_id, weights, revision=revision or None)
        if isinstance(path, str) and Path(path).with_name("config.json").exists():
            return Path(path).parent
    return None


class _Client(httpx2.Client):
    """A client that gives up once the hub has been silent for TIMEOUT, over all retries.

    While bytes arrive, however slowly, the hub's library may retry and resume what broke off.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.heard = time.monotonic()

    @contextlib.contextmanager
    def silence_is_final(self) -> Iterator[None]:
        """Raise `OSError`, which the hub's library never retries, once the silence is too long."""
        try:
            yield
        except httpx2.TransportError as error:
            if time.monotonic() - self.heard < TIMEOUT:
                raise
            reason = f"no byte for {TIMEOUT:g} s, {type(error).__name__}: {error}"
            raise TimeoutError(reason) from error

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request under the client's time-out, whatever the request's own is."""
        request.extensions = {**request.extensions, "timeout": self.timeout.as_dict()}
        with self.silence_is_final():
            response = super().send(request, **options)
        if response.status_code == 429 or response.status_code >= 500:
            raise OSError(f"the hub answers with status {response.status_code}")
        self.heard = time.monotonic()
        response.stream = _Body(self, response.stream)
        return response


@dataclasses.dataclass
class _Body(httpx2.SyncByteStream):
    """The body of a response, each of whose chunks proves that the hub is alive."""

    client: _Client
    stream: Any

    def __iter__(self) -> Iterator[bytes]:
        with self.client.silence_is_final():
            for chunk in self.stream:
                self.client.heard = time.monotonic()
                yield chunk

    def close(self) -> None:
        self.stream.close()
