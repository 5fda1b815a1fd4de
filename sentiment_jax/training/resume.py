"""Where a run begins: its newest good checkpoint, or parameters that are random or pretrained."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.errors import RunError
from sentiment_jax.huggingface import hub, weights
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.models import layers
from sentiment_jax.models.parameters import abstract_params, initializer
from sentiment_jax.models.registry import ARCHITECTURES
from sentiment_jax.runtime import devices, processes, terminal
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import read_array, read_json
from sentiment_jax.storage.run_directory import RunDirectory, source_run
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.steps import TrainState, create_state
from sentiment_jax.training.trained_model import load_run


def open_checkpoints(directory: RunDirectory) -> Checkpoints:
    """Tidy up after a kill, and warn of damaged checkpoints; RunError if there are no others."""
    with processes.main_process_first():
        checkpoints = Checkpoints(directory.checkpoints)
    faults = "; ".join(f"step {step}: {why}" for step, why in checkpoints.faults.items())
    if not checkpoints.steps and any(checkpoints.directory.glob("*.corrupt")):
        raise RunError(
            f"every checkpoint in {checkpoints.directory} is damaged ({faults or 'found before'}) "
            f"and set aside as N.corrupt: delete {directory.path}, it is trained again"
        )
    if faults:
        newest = checkpoints.steps[-1]
        lost = max(max(checkpoints.faults) - newest, 0)
        terminal.warn(
            f"damaged checkpoints set aside as N.corrupt ({faults}); resuming at step {newest}, "
            f"{lost} steps are recomputed"
        )
    return checkpoints


def initial_params(experiment: Experiment) -> tuple[Any, LoadReport | None]:
    """Return parameters from seed and pretrained weights, and the report on loading those.

    The CPU draws them, so that every backend starts from the same bits and none compiles an
    orthogonal matrix, which takes a GPU up to a minute.
    """
    model = experiment.config.model
    seed = experiment.config.seed
    run = source_run(model.pretrained)
    if model.pretrained and not run:
        assert isinstance(model, EncoderConfig)  # an LSTM starts from a run: checks.resolve
        folder, _ = hub.find_pretrained(model.pretrained, model.revision)
        shapes = abstract_params(experiment.model)  # compared before anything is allocated
        read, report = weights.load_pretrained(folder, model, shapes, experiment.classes)
        with layers.on_cpu():
            fresh = initializer(experiment.model, report.new)(jax.random.key(seed))
        flat = traverse_util.flatten_dict(read, sep="/") | fresh
        return traverse_util.unflatten_dict(flat, sep="/"), report
    with layers.on_cpu():
        params = initializer(experiment.model)(jax.random.key(seed))
    if not run:
        return params, None
    source = load_run(run, classifies=False)
    order = weights.class_order(source.classes, experiment.classes)
    if any(
        getattr(source.config.model, name, "") != getattr(model, name, "")
        for name in ("pooling", "pooled_layers")
    ):
        order = None  # its classifier reads something else
    params, report = weights.load_tensors(
        weights.to_tensors(source.params, model.name),
        experiment.model.config,
        params,
        where=f"model.pretrained={run}",
        files=f"{run}, step {source.step}",
        order=order,
    )
    start = ARCHITECTURES[model.name].start
    if start and source.config.model.name != model.name:
        directory = RunDirectory(run)  # of a pre-training
        remedy = "put that file back, or pre-train again"
        frequencies = read_array(directory.frequencies, read_json(directory.env), remedy)
        train = experiment.encoded["train"]
        odds = experiment.kind.odds(train.labels)
        first = start(params, frequencies[:, None], train.token_ids, train.offsets, odds)
        params = jax.tree.map(jnp.asarray, first)
    return params, report


def abstract_state(experiment: Experiment) -> Any:
    """Return shapes, dtypes and shardings of the training state; nothing is allocated."""
    config = experiment.config
    create = functools.partial(create_state, optimizer=config.optimizer, seed=config.seed)
    state = jax.eval_shape(create, abstract_params(experiment.model))
    return devices.abstract(state, experiment.mesh)


def restore(
    experiment: Experiment, checkpoints: Checkpoints
) -> tuple[TrainState, Progress, list[dict[str, Any]]]:
    """Return the state and progress of the newest checkpoint, and its lines of metrics.jsonl.

    RunError: the best checkpoint is damaged.
    """
    step = checkpoints.steps[-1]
    shapes = abstract_state(experiment)
    params = checkpoints.read(step, "params", shapes.params)
    opt_state = checkpoints.read(step, "opt_state", shapes.opt_state)
    bookkeeping = checkpoints.bookkeeping(step)
    records = bookkeeping.pop("records")
    progress = Progress(**bookkeeping)
    best = progress.best["step"] if progress.best else None
    places = [checkpoints.directory / name for name in (f"{best}", f"{best}.corrupt")]
    found = [place for place in places if place.exists()]
    if found and best not in checkpoints.steps:  # it was set aside
        raise RunError(
            f"the best checkpoint (step {best}) is damaged: {found[-1]}; put its files back, or "
            f"delete {checkpoints.directory.parent}, it is trained again"
        )
    counters = {"step": jax.numpy.int32(step), "key": jax.random.key(experiment.config.seed)}
    counters = devices.place(counters, experiment.mesh)
    return shapes.replace(params=params, opt_state=opt_state, **counters), progress, records
