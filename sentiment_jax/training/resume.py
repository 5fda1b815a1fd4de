"""Where a run begins: its newest good checkpoint, or fresh parameters."""

from typing import Any

import jax

from sentiment_jax.errors import RunError
from sentiment_jax.runtime import devices, processes, terminal
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.compilation import abstract_state
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.loop import TrainingRun
from sentiment_jax.training.parameters import initial_params
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.steps import create_state


def start_run(
    experiment: Experiment, directory: RunDirectory, stop: Stop
) -> tuple[TrainingRun, Any]:
    """Restore the newest good checkpoint, or initialize; return the run and any LoadReport.

    RunError: every checkpoint is damaged, or the best one.
    """
    config, mesh, report = experiment.config, experiment.mesh, None
    with processes.main_process_first():
        checkpoints = Checkpoints(directory.checkpoints)
    if checkpoints.steps:
        shapes, step = abstract_state(experiment), checkpoints.steps[-1]
        items = checkpoints.restore(step, params=shapes.params, opt_state=shapes.opt_state)
        progress = Progress(**items.pop("bookkeeping"))
        _check_best(checkpoints, progress)
        counters = {"step": jax.numpy.int32(step), "key": jax.random.key(config.seed)}
        state = shapes.replace(**items, **devices.place(counters, mesh))
    else:
        if any(checkpoints.directory.glob("*.corrupt")):
            faults = checkpoints.describe_faults() or "found before"
            raise RunError(
                f"every checkpoint in {checkpoints.directory} is damaged ({faults}) and set aside "
                "as N.corrupt; put one back, or --fresh starts over"
            )
        params, report = initial_params(experiment)
        state = create_state(params, experiment.optimizer, config.seed)
        state, progress = devices.place(state, mesh), Progress()
    with processes.main_process_first():
        _report_faults(checkpoints)
    return TrainingRun(experiment, directory, checkpoints, progress, state, stop), report


def _report_faults(checkpoints: Checkpoints) -> None:
    folder, kept = checkpoints.directory, checkpoints.steps
    if checkpoints.ignored:
        names = ", ".join(checkpoints.ignored[:5])
        terminal.warn(f"no checkpoints, ignored in {folder}: {names}")
    if listed := checkpoints.describe_faults():
        lost = max(max(checkpoints.faults) - kept[-1], 0)
        terminal.warn(
            f"damaged checkpoints set aside as N.corrupt ({listed}); resuming at step "
            f"{kept[-1]}, {lost} steps are recomputed"
        )


def _check_best(checkpoints: Checkpoints, progress: Progress) -> None:
    """Refuse to resume from a checkpoint that counts on a best one that was set aside."""
    step = progress.best["step"] if progress.best else None
    names = (f"{step}", f"{step}.corrupt")
    found = [name for name in names if (checkpoints.directory / name).exists()]
    if found and step not in checkpoints.steps:
        raise RunError(
            f"the best checkpoint (step {step}) is damaged: {checkpoints.directory / found[-1]}; "
            "put its files back, or --fresh starts over"
        )
