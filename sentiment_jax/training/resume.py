"""Where a run begins: its newest good checkpoint, or parameters that are random or pretrained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.huggingface import hub, weights
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.models import layers
from sentiment_jax.models.registry import ARCHITECTURES
from sentiment_jax.runtime import devices, processes, terminal
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.compilation import abstract_state
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.lineage import source_run
from sentiment_jax.training.parameters import initializer
from sentiment_jax.training.run import Progress, TrainingRun
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.steps import TrainState, create_state
from sentiment_jax.training.trained_model import load_run


def start_run(
    experiment: Experiment, directory: RunDirectory, stop: Stop, initial: Any = None
) -> tuple[TrainingRun, LoadReport | None]:
    """Restore the newest good checkpoint, or begin; return the run and any LoadReport.

    `initial` is the `initial_state`, if it has been made.
    RunError: every checkpoint is damaged, or the best one.
    """
    report = None
    with processes.main_process_first():
        checkpoints = Checkpoints(directory.checkpoints)
    if checkpoints.steps:
        state, progress = _restore(experiment, checkpoints)
    else:
        if any(checkpoints.directory.glob("*.corrupt")):
            faults = checkpoints.describe_faults() or "found before"
            raise RunError(
                f"every checkpoint in {checkpoints.directory} is damaged ({faults}) and set aside "
                "as N.corrupt; put one back, or --fresh starts over"
            )
        state, report = initial or initial_state(experiment)
        progress = Progress()
    with processes.main_process_first():
        _report_faults(checkpoints)
    return TrainingRun(experiment, directory, checkpoints, progress, state, stop), report


def initial_state(experiment: Experiment) -> tuple[TrainState, LoadReport | None]:
    """Return a new run's state on the devices, and the report on loading pretrained weights."""
    params, report = initial_params(experiment)
    state = create_state(params, experiment.config.optimizer, experiment.config.seed)
    return devices.place(state, experiment.mesh), report


def initial_params(experiment: Experiment) -> tuple[Any, LoadReport | None]:
    """Return parameters from seed and pretrained weights, and the report on loading those.

    The CPU draws them, so that every backend starts from the same bits and none compiles an
    orthogonal matrix, which takes a GPU up to a minute.
    """
    with layers.on_cpu():
        params = initializer(experiment.model)(jax.random.key(experiment.config.seed))
    model = experiment.config.model
    if not model.pretrained:
        return params, None
    if run := source_run(model.pretrained):
        source = load_run(run, classifies=False)
        learned = dict(source.params)
        frequencies = learned.pop("embedding_frequencies", None)  # of an LSTM's pre-training
        params, report = weights.load_tensors(
            weights.to_tensors(learned, model.name),
            experiment.model.config,
            params,
            where=f"model.pretrained={run}",
            files=f"{run}, step {source.step}",
            order=weights.class_order(source.classes, experiment.classes),
        )
        start = ARCHITECTURES[model.name].start
        if start and source.config.model.name != model.name:
            if frequencies is None:
                raise InputError(f"model.pretrained={run} has no word frequencies: pre-train again")
            shares = np.asarray(frequencies["embedding"])
            train = experiment.encoded["train"]
            first = start(params, shares, train.token_ids, train.offsets, train.labels)
            params = jax.tree.map(jnp.asarray, first)
        return params, report
    assert isinstance(model, EncoderConfig)  # an LSTM starts from a run: checks.resolve
    folder, _ = hub.find_pretrained(model.pretrained, model.revision)
    return weights.load_pretrained(folder, experiment.model.config, params, experiment.classes)


def _restore(experiment: Experiment, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """Restore the newest checkpoint; RunError: the best one is damaged."""
    step = checkpoints.steps[-1]
    shapes = abstract_state(experiment)
    items = checkpoints.restore(step, params=shapes.params, opt_state=shapes.opt_state)
    bookkeeping = items.pop("bookkeeping")
    known = Progress.__dataclass_fields__  # earlier revisions wrote more
    progress = Progress(**{name: v for name, v in bookkeeping.items() if name in known})
    _check_best(checkpoints, progress)
    counters = {"step": jax.numpy.int32(step), "key": jax.random.key(experiment.config.seed)}
    return shapes.replace(**items, **devices.place(counters, experiment.mesh)), progress


def _report_faults(checkpoints: Checkpoints) -> None:
    if checkpoints.ignored:
        names = ", ".join(checkpoints.ignored[:5])
        terminal.warn(f"no checkpoints, ignored in {checkpoints.directory}: {names}")
    if listed := checkpoints.describe_faults():
        newest = checkpoints.steps[-1]
        lost = max(max(checkpoints.faults) - newest, 0)
        terminal.warn(
            f"damaged checkpoints set aside as N.corrupt ({listed}); resuming at step {newest}, "
            f"{lost} steps are recomputed"
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
