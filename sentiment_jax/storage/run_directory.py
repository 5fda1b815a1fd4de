"""A run directory: its files, its lock, its environment, and whether a run may resume in it."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sentiment_jax.config import stored
from sentiment_jax.config.schema import HARMLESS, Config, split_names
from sentiment_jax.errors import InputError, InUse
from sentiment_jax.runtime import processes, terminal
from sentiment_jax.storage.checkpoints import owned, steps_in
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.format import read_numbered, write_numbered

DECIDE_BITS = ("python", "versions", "devices", "machine", "xla_flags")  # of env.json
NVIDIA = "nvidia-|jax-cuda"  # wheels of CUDA, cuDNN, and of XLA for them
SWEEP_FILE = "sweep.json"  # in the directory of a sweep
COMPARISON_FILE = "comparison.json"  # in that of a comparison
VECTORS = "vectors"  # a comparison's run of pre-training
OF_SWEEP = re.compile(  # and of a comparison; not trials
    r"sweep\.json|table\.csv|final(/[^/]*)?|comparison\.(json|csv|png)"
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")


class RunDirectory:
    """The files of the run in `path`; nothing is read or written before a method is called."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.removed = _deleted(self.config)  # while --fresh takes a run away, or since a kill
        self.env = path / "env.json"
        self.tokenizer = path / "tokenizer.json"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.failed = path / "failed.json"
        self.curves = path / "curves.png"
        self.lock = path / "lock"
        self.log = path / "log.txt"  # what a fold or a trial printed
        self.checkpoints = path / "checkpoints"
        self.folds = path / "folds"  # of a cross-validation, a run each
        self.tensorboard = path / "tensorboard"
        self.frequencies = path / "frequencies.npy"  # of words and n-grams, of their pre-training
        self.probabilities = path / "probabilities-val.npy"  # of a fold
        self.predictions = {"test": path / "predictions.csv", "val": path / "predictions-val.csv"}
        self.reviews = {"train": path / "reviews.csv", "test": path / "reviews-test.csv"}
        self.learned = {"labeled": path / "learned.npy"}  # hashes of texts: training/lineage.py
        self.learned["unlabeled"] = path / "learned-unlabeled.npy"
        self.files = [self.config, self.result, self.failed, self.env, self.tokenizer]
        self.files += [self.metrics, self.frequencies, self.probabilities, self.curves]
        self.files += [*self.predictions.values(), *self.learned.values()]
        self.folders = [self.checkpoints, self.folds, self.tensorboard]

    def removable(self) -> list[Path]:
        """Return what the run and its folds wrote, files also if absent; config.json is first."""
        own = [*self.files, *self.tensorboard.glob("events.out.tfevents.*")]
        own += owned(self.checkpoints)
        for fold in map(RunDirectory, sorted(self.folds.glob("[1-9]*"))):
            own_log = fold.log.exists()  # which a run that was moved there has not
            if fold.path.name.isdecimal() and (own_log or not fold.env.exists()):
                own += [*fold.removable(), fold.lock, fold.log]
        return own

    def remove(self) -> None:
        """Take away an earlier run, but not the texts that Python gave it, nor what is no run's.

        config.json becomes config.json.deleted: no run is here. All else gets such a name, then is
        deleted; that one goes when a config is written. After a kill, the next training goes on.
        InputError: something can't be renamed or emptied; the run is as it was.
        """
        if not processes.is_main():
            return
        own = self.removable()
        try:
            with contextlib.ExitStack() as undo:
                for path in filter(os.path.lexists, own):
                    for each in (*sorted(path.rglob("*"), reverse=True), path):  # contents first
                        if each.is_dir():
                            os.listdir(each)  # or an error: its contents would stay
                        shutil.rmtree(_deleted(each), ignore_errors=True)
                        undo.callback(each.rename(_deleted(each)).rename, each)
                undo.pop_all()
        except OSError as error:
            problem = f"{self.path} can't be started over: {error.filename}: {error.strerror}"
            raise InputError(f"{problem}; nothing was removed: choose another --workdir") from error
        for path in map(_deleted, (*own[1:], *self.reviews.values(), self.folds, self.tensorboard)):
            shutil.rmtree(path, ignore_errors=True)  # NFS keeps what a reader has open
            with contextlib.suppress(OSError):
                path.unlink()
        folds = [*self.folds.glob("[1-9]*/checkpoints"), *self.folds.glob("[1-9]*")]
        for folder in (*folds, *self.folders):
            with contextlib.suppress(OSError):  # a link, or not empty
                folder.rmdir()

    def set_aside(self, reviews: Path) -> None:
        """Keep the texts that Python gave the run while a new one's, which replaces it, begins."""
        if reviews.is_file():
            reviews.rename(_deleted(reviews))

    def put_back_reviews(self) -> None:
        """Put texts back that were set aside for a run that did not begin."""
        if self.removed.exists():
            return
        for path in self.reviews.values():
            with contextlib.suppress(FileNotFoundError):
                _deleted(path).replace(path)

    def check_kinds(self) -> None:
        """Raise InputError if anything but a file, or a folder, has the name of one."""
        files = filter(os.path.lexists, (*self.files, self.lock))
        odd = [path for path in files if path.is_symlink() or not path.is_file()]
        folders = filter(os.path.lexists, self.folders)
        odd += [path for path in folders if not path.is_dir()]
        if odd:
            raise InputError(f"{odd[0]} is not what a run writes there: move it away")

    def read_config(self) -> Config:
        """Read config.json; InputError if it is damaged or has another format."""
        config = stored.make_frozen(read_numbered(self.config))
        moved = {}  # with their run: texts that Python gave
        for name, own in zip(("data.path", "data.test_path"), self.reviews.values(), strict=True):
            path = Path(stored.flatten(config)[name])
            kept = _deleted(own) if _deleted(own).is_file() else own
            if path.name == own.name and kept.is_file():
                moved[name] = str(kept.absolute())
        return stored.replace_settings(config, moved)

    def read_classifier(self) -> Config:
        """Read the config of a run that classifies; InputError if it is a pre-training."""
        config = self.read_config()
        if config.pretrain.objective:
            remedy = f"fine-tune from it by --config.model.pretrained={self.path}"
            raise InputError(
                f"{self.path} is a pre-training run, which has no classifier: {remedy}"
            )
        return config

    def write_config(self, config: Config) -> None:
        """Write config.json: from now on a run is here."""
        write_numbered(self.config, stored.config_to_json(config))
        if processes.is_main():
            self.removed.unlink(missing_ok=True)

    def outcome(self) -> tuple[str, dict[str, Any]]:
        """Return "finished", "failed" or "open", and what the result or the failure holds."""
        for status, path in (("finished", self.result), ("failed", self.failed)):
            if path.exists() and not self.removed.exists():
                return status, read_json(path, "put it back, or delete it and run it again")
        return "open", {}

    def began_in_this_job(self) -> bool:
        """Return whether SLURM has requeued the job that began this run: --fresh counts once."""
        requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and self.config.exists()
        return requeued and read_json(self.env).get("slurm_job") == os.environ.get("SLURM_JOB_ID")

    def began(self) -> bool:
        """Return whether a checkpoint was ever completed here, even if damaged, or a fold begun.

        Before that, model.pretrained may still change, and with it the tokenizer.
        """
        left = (self.checkpoints.glob("*.corrupt"), self.folds.glob("[1-9]*/config.json"))
        return bool(steps_in(self.checkpoints)) or any(map(any, left))

    def check_found(self) -> None:
        """Raise InputError, with the steps found, unless a run with checkpoints is here."""
        path = self.path
        if not path.is_dir():
            raise InputError(f"no run directory at {path}: --workdir names a finished run's folder")
        self.check_kinds()
        steps = steps_in(self.checkpoints)
        if self.removed.exists():
            raise InputError(f"{path} has no checkpoint yet: a training starts over in it")
        if not self.config.is_file():
            found = steps or steps_in(path) or "none"
            runs = [above for above in path.parents[:2] if RunDirectory(above).config.is_file()]
            hint = f"; did you mean --workdir={runs[0]}?" if runs else ""
            why = f"config.json and checkpoints/ expected, steps found: {found}"
            raise InputError(f"{path} is no run directory ({why}){hint}")
        if not steps:
            if self.result.exists():
                raise InputError(f"{path} is finished and kept no checkpoint, as a fold does")
            raise InputError(f"{path} has no checkpoint yet: let its first epoch end")

    def check_config(self, config: Config) -> None:
        """Raise InputError if the run's config differs in what affects results."""
        if not self.config.exists():
            if self.began() or self.result.exists():
                problem = f"{self.path} holds a result or checkpoints but no config.json"
                raise InputError(f"{problem}: put that file back, or delete the folder")
            return
        ignored = (*HARMLESS, "data.teacher")  # teachers are compared by content
        if changes := stored.config_difference(self.read_config(), config, ignored):
            problem = f"{self.path} was started with another config ({'; '.join(changes)})"
            fresh = "" if _holds_many(self.path.parent) else ", or --fresh to start over"
            raise InputError(f"{problem}; choose another --workdir{fresh}")

    def check_data(self, statistics: dict[str, Any]) -> None:
        """Raise InputError unless the data are those that env.json records.

        Unlabeled texts are compared only if they were read: an evaluation needs none.
        """
        recorded = read_json(self.env)["data"]
        if recorded["data_hash"] != statistics["data_hash"]:
            raise InputError(
                f"the data changed since {self.path} began: hash {recorded['data_hash'][:12]} with "
                f"{recorded['counts']} then, {statistics['data_hash'][:12]} with "
                f"{statistics['counts']} now; point --config.data.path at the data of the run, or "
                "train on these with --fresh or in another --workdir"
            )
        hashes = {data.get("unlabeled_hash") for data in (recorded, statistics)} - {None}
        if len(hashes) > 1:
            raise InputError(
                f"the unlabeled texts changed since {self.path} began: point "
                "--config.pretrain.text at those of the run, or use --fresh or another --workdir"
            )


def _holds_many(directory: Path) -> bool:
    """Whether a directory is that of a sweep or a comparison."""
    return any((directory / name).is_file() for name in (SWEEP_FILE, COMPARISON_FILE))


def _deleted(path: Path) -> Path:
    return path.with_name(f"{path.name}.deleted")  # what --fresh takes away


def check_place(path: Path, flag: str = "--output") -> None:
    """Raise InputError for a path that a run, sweep or export writes, or where none may begin."""
    try:
        begins = flag == "--workdir" and not RunDirectory(path).config.exists()
        places = {path.resolve(), Path(os.path.abspath(path))}  # a link is followed, or replaced
        for above, inside in [(p, place.relative_to(p)) for place in places for p in place.parents]:
            run = RunDirectory(above)
            own = [*run.files, *run.folders, *run.reviews.values(), run.lock, run.log]
            name = inside.parts[0].lower().removesuffix(".deleted")
            is_own = name in [entry.name for entry in own]
            of_sweep = OF_SWEEP.fullmatch(inside.as_posix())
            if (
                ((begins or is_own) and (run.env.is_file() or run.removed.is_file()))
                or (of_sweep and _holds_many(above))
                or (inside.suffix == ".json" and (above / "model.safetensors").is_file())
            ):
                problem = f"{flag}={path} belongs to the run, sweep or export in {above}"
                raise InputError(f"{problem}: choose another place")
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a long name, a NUL
        raise InputError(f"{flag}={str(path)!a} can't be written: {error}") from error


def source_run(pretrained: str) -> Path | None:
    """Return the run that model.pretrained names; None for a hub id or a folder of weights."""
    path = Path(pretrained).expanduser()
    return path if pretrained and RunDirectory(path).env.is_file() else None


def find_teachers(teacher: str) -> list[Path]:
    """Return the runs that data.teacher names."""
    return [Path(name).expanduser() for name in split_names(teacher)]


def prepare_workdir(path: Path, *, nested: bool = False) -> None:
    """Create the directory of a run or sweep, or a `nested` one; InputError if it can't be used."""
    # Orbax takes the first five for a pattern; a byte that is not UTF-8 is a lone surrogate.
    if odd := re.search(r"[][*?\\\ud800-\udfff]", str(path.absolute())):
        raise InputError(f"--workdir={str(path)!a}: {odd[0]!a} can't stand in a path; rename it")
    if not nested:  # as a fold or a trial is
        check_place(path, "--workdir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        RunDirectory(path).check_kinds()
    except OSError as error:
        problem = f"cannot write to --workdir={path}: {error.strerror}"
        raise InputError(f"{problem}; name a folder that you own") from error


@contextlib.contextmanager
def tidied(path: Path) -> Iterator[None]:
    """Remove a directory that holds nothing but a lock that is free, if what follows fails."""
    try:
        yield
    except BaseException:
        lock = RunDirectory(path).lock
        with contextlib.suppress(OSError, InUse):
            if processes.is_main() and {*path.iterdir()} <= {lock}:
                with _take_lock(path):
                    if {*path.iterdir()} == {lock}:
                        lock.unlink()
                        path.rmdir()
        raise


@contextlib.contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Hold a directory for this process, or raise InUse; a dead process's lock is free."""
    if not processes.is_main():
        yield
        return
    with tidied(path), _take_lock(path) as file:
        file.truncate(0)  # opened to append: what follows goes to its new end
        since = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        yield


def _take_lock(path: Path) -> TextIO:
    """Return the open lock of a directory, which this process holds; InUse: another one does."""
    lock = RunDirectory(path).lock
    while True:
        with contextlib.suppress(FileExistsError):  # it was, and is removed
            path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            file = stack.enter_context(lock.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read().strip() or "another process"
                problem = f"{path} is in use by {owner}"
                raise InUse(f"{problem}; wait or choose another --workdir") from error
            except OSError as error:  # Lustre or NFS, mounted without locks
                problem = f"{path} can't be locked ({error.strerror})"
                terminal.warn_once(f"{problem}: let no other process use it")
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                stack.pop_all()
                return file
        # `tidied` of another process removed it after it was opened here: once more


def command_line() -> str:
    """Return the command that started this process, for a person to repeat."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def describe_environment() -> dict[str, Any]:
    """Return versions, devices, machine, git revision and command line, for env.json."""
    import jax

    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    revision = ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([*git, "--abbrev=12"], capture_output=True, text=True, timeout=10)
        revision = done.stdout.strip()
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        if named := re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()):
            processor = named[1].strip()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    if jax.default_backend() == "gpu":  # CUDA's compiler and cuDNN's kernels decide bits too
        found = {d.name: d.version for d in importlib.metadata.distributions()}
        versions |= {name: found[name] for name in sorted(found) if re.match(NVIDIA, name)}
    return {
        "python": platform.python_version(),
        "versions": versions,
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "machine": f"{processor}, {os.cpu_count()} cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git_revision": revision or "unknown",
        "command": command_line(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
