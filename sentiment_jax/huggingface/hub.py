"""Find pretrained weights in a local folder or on the Hugging Face hub; each fault has its error.

`huggingface_hub` is imported late: it reads the variables set here when its constants are imported.
"""

import os
import re
from pathlib import Path

from sentiment_jax.data.tokenization import VOCABULARIES
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import installed
from sentiment_jax.huggingface.weights import WEIGHT_FILES, choose_weights

OTHER_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("merges.txt", *VOCABULARIES, "1_Pooling/config.json"),
)
_HELP = "name a folder with config.json, tokenizer and weights, a run's, or a hub id"

os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "6")  # seconds without an answer: it is unreachable
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "6")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # its connections have time-outs of their own


def find_pretrained(pretrained: str, revision: str) -> tuple[Path, str]:
    """Return the folder of a pretrained model and its commit hash ("" for a local folder).

    `pretrained` is a local folder, or a hub id to download into the hub's cache; `revision` is a
    commit hash, tag or branch on the hub, "" for its newest commit. The default weights are looked
    for in the cache, then in an installed package, then on the hub. Each fault has its InputError.
    """
    where = f"model.pretrained={pretrained}"
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        choose_weights([path.name for path in folder.iterdir()], where)
        return folder, ""
    if folder.exists():
        raise InputError(f"{where} is a file: {_HELP}")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", pretrained):
        raise InputError(f"{where}: no such folder: {_HELP}")
    ours = pretrained == installed.HUB_ID and revision in ("", installed.COMMIT)
    commit = installed.COMMIT if ours else revision
    pinned = re.fullmatch(r"[0-9a-f]{40}", commit)  # it never changes: the cache will do
    snapshot = _find_cached(pretrained, commit) if pinned else None
    if ours:
        snapshot = snapshot or installed.find_installed()
    snapshot = snapshot or _download(pretrained, revision)
    return snapshot, snapshot.name


def _download(hub_id: str, revision: str) -> Path:
    """List the revision's files and download the files that the cache lacks."""
    from huggingface_hub import HfApi, constants, errors, hf_hub_download

    where = f"model.pretrained={hub_id}"
    commit = revision or constants.DEFAULT_REVISION
    try:
        # Asked first, with a time-out: the library's downloads try a silent hub again for minutes.
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        files = HfApi().model_info(hub_id, revision=commit, timeout=timeout).siblings or ()
        names = [file.rfilename for file in files]
        weights = choose_weights(names, where)
        # the weights last: where the cache has them, it has the rest
        for name in [*(name for name in OTHER_FILES if name in names), weights]:
            path = Path(hf_hub_download(hub_id, name, revision=commit))
            commit = path.parents[name.count("/")].name  # a branch may move meanwhile
        return path.parent
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
    except Exception as error:  # "no answer" is an error of the library or of its HTTP client
        if (snapshot := _find_cached(hub_id, revision)) is not None:
            return snapshot
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:60]
        package = f"{installed.INSTALL}, or " if hub_id == installed.HUB_ID else ""
        raise InputError(
            f"{where}: no such folder, and the hub can't be reached ({reason}): {package}"
            f"set --config.model.pretrained=FOLDER, or HF_HOME (now {constants.HF_HUB_CACHE}); "
            "--config=linear needs none"
        ) from error


def _find_cached(hub_id: str, revision: str) -> Path | None:
    """Return the complete folder of a revision in the hub's cache, if there is one."""
    from huggingface_hub import try_to_load_from_cache

    for weights in WEIGHT_FILES:
        path = try_to_load_from_cache(hub_id, weights, revision=revision or None)
        if isinstance(path, str) and Path(path).with_name("config.json").exists():
            return Path(path).parent
    return None
