"""A run directory that this process holds: how the run in it starts, and what begins it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from sentiment_jax.config.schema import Config
from sentiment_jax.data.dataset import Dataset
from sentiment_jax.data.tokenization import load_run_tokenizer
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.runtime import processes, terminal
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.checkpoints import steps_in
from sentiment_jax.storage.files import checksums, read_json, write_array, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.checks import Start, check_finished_data, check_start
from sentiment_jax.training.experiment import Experiment, Task
from sentiment_jax.training.lineage import check_same_sources
from sentiment_jax.training.resume import initial_params
from sentiment_jax.training.signals import Stop


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory that this process holds, and how the run in it starts."""

    task: Task
    config: Config  # resolved; its classes are named once the data are read
    directory: RunDirectory
    start: Start
    sources: Sequence[str] | None  # sha256 of what it learns from; None: it needs nothing any more
    stop: Stop
    cleanup: contextlib.ExitStack  # closes files, however the run ends

    @property
    def finished(self) -> dict[str, Any] | None:
        """The content of result.json if there is nothing left to do."""
        return self.directory.outcome()[1] if self.start is Start.FINISHED else None


@contextlib.contextmanager
def open_run(
    recipe: ConfigDict | Config,
    workdir: Path,
    task: Task,
    *,
    fresh: bool = False,
    stop: Stop | None = None,
    stop_after: float | None = None,
    nested: bool = False,
    sources: Sequence[str] | None = None,
) -> Iterator[Run]:
    """Hold a run directory, and decide how the run in it starts.

    Args:
      recipe: a validated config; a Config is resolved already.
      workdir: the run directory.
      task: learning from labels, or pre-training.
      fresh: replace what an earlier run left in the directory.
      stop: what asks the run to end, if it shares that with others.
      stop_after: seconds until the run saves and ends.
      nested: of a fold, a trial or a recipe of a comparison: what it prints goes to log.txt.
      sources: of a fold: `Run.sources` of its cross-validation.

    InputError: bad config or directory, or another run is in it. InUse: another process holds it.
    """
    run_directory.prepare_workdir(workdir, nested=nested)
    directory = RunDirectory(workdir)
    with run_directory.lock_run(workdir), contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(Stop(stop_after))
        with processes.main_process_first():
            start, config, found = check_start(recipe, directory, task, fresh, sources)
            if start is Start.FINISHED and not nested:
                check_finished_data(config, directory)
                print(f"{workdir} is finished; nothing to do (--fresh starts over)")
        if nested:
            log = stack.enter_context(directory.log.open("a", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(log))
        yield Run(task, config, directory, start, found, stop, stack)


def prepare(run: Run, dataset: Dataset | None = None) -> Experiment:
    """Read and encode the data of a run, or a dataset, and build the network."""
    with processes.main_process_first():
        return run.task.prepare(run.config, tokenizer_of(run), dataset)


def tokenizer_of(run: Run) -> Any:
    """Return the tokenizer of a run that resumes; None of one that begins."""
    return load_run_tokenizer(run.directory) if run.start is Start.RESUMED else None


def first_params(run: Run, experiment: Experiment) -> tuple[Any, LoadReport | None]:
    """Return the first parameters, None if a checkpoint has them, and what they are from."""
    if run.start is Start.RESUMED and steps_in(run.directory.checkpoints):
        return None, None
    with terminal.progress_bar(None, "preparing the model"):
        params, report = initial_params(experiment)
    if run.sources is not None:  # they may have been replaced since the folds began
        check_same_sources(run.config, run.directory, list(run.sources))
    return jax.device_get(params), report


def begin(run: Run, experiment: Experiment) -> tuple[Any, LoadReport | None]:
    """Record the run: from now on it is in its directory. Return its `first_params`.

    An earlier run is removed only now, when nothing can fail on reading any more.
    """
    first = first_params(run, experiment)
    directory = run.directory
    statistics = experiment.statistics
    with processes.main_process_first():
        if run.sources is not None:  # all of them are read
            check_same_sources(run.config, directory, list(run.sources))
        if run.start is Start.BEGUN_ANEW:
            directory.remove()
            run.stop.remedy = "run the same command without --fresh to continue"
        now = run_directory.describe_environment()
        env = now | {"data": statistics}
        if directory.config.exists():
            env = _record_resumption(directory, now, statistics)
        if run.start is not Start.RESUMED and processes.is_main():
            experiment.tokenizer.save(str(directory.tokenizer))
            env |= checksums(directory.tokenizer) | {"sources": run.sources}
            for kind, hashes in experiment.learned.items():
                env |= write_array(directory.learned[kind], hashes)
        for path, array in run.task.arrays(directory, experiment).items():
            env |= write_array(path, array)
        write_json(directory.env, env)
        directory.write_config(experiment.config)
    return first


def _record_resumption(
    directory: RunDirectory, now: dict[str, Any], statistics: dict[str, Any]
) -> dict[str, Any]:
    """Return env.json with one more start, and warn of what makes the run no longer bit-exact."""
    directory.check_data(statistics)
    env = read_json(directory.env)
    before = env.get("resumed", [env])[-1]
    if differing := [
        f"{name} was {before[name]}, is {now[name]}"
        for name in run_directory.DECIDE_BITS
        if before[name] != now[name]
    ]:
        terminal.warn(f"not bit-exact from here on: {'; '.join(differing)}")
    if env["data"].get("pseudo_labels_hash") != statistics.get("pseudo_labels_hash"):
        terminal.warn("not bit-exact from here on: the teachers' predictions have changed")
        env["data"]["pseudo_labels_hash"] = statistics.get("pseudo_labels_hash")
    env["resumed"] = [*env.get("resumed", []), now]
    return env
