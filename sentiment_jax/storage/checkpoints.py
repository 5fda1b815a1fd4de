"""The checkpoints of one run: Orbax writes, a manifest (sha256 of every file) makes them count.

At every instant the folder holds a complete newest checkpoint and a complete best one. A checkpoint
is complete if it has a MANIFEST.json; the manifest is the last file written, and a folder gets or
loses its name in one rename:

    N.partial            Orbax writes params and opt_state here; bookkeeping is JSON beside them
        |  MANIFEST.json written: complete, whatever happens now
        |  N, if it exists, becomes N.deleted (the same step again, now validated)
        v
        N                the latest two and the best by validation stay
        |  superseded: renamed, after its successor is complete
        v
    N.deleted            removed, file by file

After a kill, whoever opens the folder to write names a complete N.partial N if that is missing, and
removes every other N.partial and N.deleted. A reader lists the complete checkpoints, and starts
again if it fails and any entry was renamed meanwhile (`entries`). Flipped bits in Orbax's array
files restore silently as other numbers, hence the manifest. A checkpoint whose bytes differ from
its manifest is damaged: it is set aside as N.corrupt.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sentiment_jax.errors import DiskFull, InputError
from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import file_sha256, read_json, write_atomically, write_json

MANIFEST = "MANIFEST.json"
BOOKKEEPING = "bookkeeping/metadata"  # JSON
LATEST_KEPT = 2
STEP = re.compile(r"(0|[1-9][0-9]*)(\.partial)?")
OWN = re.compile(r"[0-9]+(\.(partial|corrupt|deleted|orbax-checkpoint-tmp))*")


def _folders(directory: Path) -> dict[int, Path]:
    """Return step -> folder of the complete checkpoints, ascending."""
    found: dict[int, Path] = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        match = STEP.fullmatch(path.name)
        if match and not path.is_symlink() and (path / MANIFEST).is_file():
            found.setdefault(int(match[1]), path)  # N comes before N.partial
    return dict(sorted(found.items()))


def steps_in(directory: Path) -> list[int]:
    """Return the steps of the complete checkpoints in a folder, ascending."""
    return list(_folders(directory))


def owned(directory: Path) -> list[Path]:
    """Return the entries that a run wrote: its checkpoints, and what becomes or was one."""
    named = [path for path in sorted(directory.glob("[0-9]*")) if OWN.fullmatch(path.name)]
    return [path for path in named if path.suffix or any(path.glob("params*"))]


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


def entries(*directories: Path) -> set[tuple[str, int]]:
    """Return names and inodes of the entries of folders; a rename or deletion changes them."""
    found = (entry for path in directories if path.is_dir() for entry in os.scandir(path))
    return {(entry.name, entry.inode()) for entry in found}


def tree_sha256(tree: Any) -> str:
    """Return the sha256 of the names, shapes, types and values of a tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}\n".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints/ folder of a run.

    Attributes:
      steps: of the complete checkpoints, ascending.
      faults: step -> what is wrong with it, for the damaged ones.
      ignored: names of entries that are no checkpoints.
    """

    def __init__(self, directory: Path, *, read_only: bool = False):
        """List what is there; unless `read_only`, tidy up after a kill and verify everything."""
        self.directory = directory.resolve()
        self.faults: dict[int, str] = {}
        self.ignored: list[str] = []
        if not read_only and self.directory.is_dir():
            for step, folder in _folders(self.directory).items():
                if folder.name != str(step):
                    folder.rename(folder.with_name(str(step)))
            for path in sorted(self.directory.iterdir()):
                if re.match(r"[0-9]+\.(partial|.*deleted|orbax-checkpoint-tmp)", path.name):
                    shutil.rmtree(path, ignore_errors=True)
                elif path.suffix != ".corrupt" and path not in _folders(self.directory).values():
                    self.ignored.append(path.name)
            for step in steps_in(self.directory):
                if fault := self.fault(step):
                    self.faults[step] = fault
                    _move(self.directory / str(step), f"{step}.corrupt")
        self.steps = steps_in(self.directory)

    def fault(self, step: int) -> str:
        """Return what is wrong with a checkpoint, or "" if its bytes are as written."""
        try:
            folder = _folders(self.directory)[step]
            expected = read_json(folder / MANIFEST)["files"]
            found = _hashes(folder)
        except PermissionError:
            raise  # another user's may be whole
        except (InputError, KeyError, OSError):
            return f"{MANIFEST} is missing or unreadable"
        damaged = [name for name, checksum in expected.items() if found.get(name) != checksum]
        return f"{damaged[0]} is damaged or missing" if damaged else ""

    def save(
        self, step: int, params: Any, opt_state: Any, bookkeeping: dict[str, Any], best: int | None
    ) -> None:
        """Write a checkpoint, then delete the ones it supersedes, except `best`; DiskFull: none."""
        partial = self.directory / f"{step}.partial"
        folder = self.directory / str(step)
        self.directory.mkdir(parents=True, exist_ok=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves((params, opt_state)))
        free = shutil.disk_usage(self.directory).free
        if free < 1.1 * needed:
            raise DiskFull(
                f"disk full: {free:,} bytes free in {self.directory}, {needed:,} needed for the "
                f"checkpoint of step {step}; free some space and run the same command again"
            )
        _orbax().save_checkpointables(
            partial, {"params": params, "opt_state": opt_state}, overwrite=True
        )
        with processes.main_process_first():  # Orbax writes from all processes and waits for all
            if processes.is_main():
                (partial / BOOKKEEPING).parent.mkdir()
                write_atomically(partial / BOOKKEEPING, json.dumps(bookkeeping))
                write_json(partial / MANIFEST, {"files": _hashes(partial)})
                if folder.exists():
                    _move(folder, f"{step}.deleted" if step in self.steps else f"{step}.corrupt")
                partial.rename(folder)
                for old in steps_in(self.directory)[:-LATEST_KEPT]:
                    if old != best:
                        _move(self.directory / str(old), f"{old}.deleted")
                for deleted in self.directory.glob("*.deleted"):
                    shutil.rmtree(deleted, ignore_errors=True)
        self.steps = steps_in(self.directory)

    def bookkeeping(self, step: int) -> dict[str, Any]:
        """Read one checkpoint's bookkeeping."""
        return json.loads((_folders(self.directory)[step] / BOOKKEEPING).read_bytes())

    def read(self, step: int, name: str, template: Any = None) -> Any:
        """Read params or opt_state of one checkpoint.

        `template` is a tree of jax.ShapeDtypeStruct with shardings. Without one, numpy arrays are
        read, and other processes are not waited for.
        """
        ocp = _orbax()
        context = ocp.Context()
        if template is None:
            context.multiprocessing.primary_host = jax.process_index()
            context.multiprocessing.active_processes = {jax.process_index()}
        item = {"path": _folders(self.directory)[step], "checkpointable_name": name}
        with context:
            if template is None:
                stored = ocp.metadata(**item).metadata
                template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
            return ocp.load(**item, abstract_state=template)


def _orbax() -> Any:
    """Return the interface V1 of Orbax, which is its top level from 1.0 on."""
    try:
        from orbax.checkpoint import v1
    except ImportError:
        import orbax.checkpoint as v1
    return v1


def _move(folder: Path, name: str) -> None:
    """Give a folder another name, in place of whatever had it."""
    shutil.rmtree(folder.with_name(name), ignore_errors=True)
    folder.rename(folder.with_name(name))
