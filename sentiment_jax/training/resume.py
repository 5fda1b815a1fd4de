"""Going on where a run stopped: bookkeeping, signals, and what must not have changed."""

import sys

import jax
from jax.sharding import Mesh

from sentiment_jax.errors import RunError
from sentiment_jax.runtime import devices
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.steps import TrainState


def check_best(checkpoints: Checkpoints) -> None:
    """Refuses to go on from a checkpoint that counts on a best one that was set aside.

    Of several processes all must call it together: Orbax waits for all when it reads.

    Raises:
      RunError: the best checkpoint is lost.
    """
    if not checkpoints.steps:
        return
    best = checkpoints.restore(checkpoints.steps[-1])["bookkeeping"]["best"]
    step = best["step"] if best else None
    if step not in checkpoints.steps and (checkpoints.directory / f"{step}.corrupt").exists():
        raise RunError(
            f"the best checkpoint in {checkpoints.directory} (step {step}) is damaged, and "
            "none from before it is left to go on from; --fresh starts over"
        )


def report_faults(checkpoints: Checkpoints) -> None:
    """Warns of checkpoints set aside.

    Raises:
      RunError: every checkpoint is bad.
    """
    if not checkpoints.faults:
        return
    listed = checkpoints.describe_faults()
    if not checkpoints.steps:
        raise RunError(
            f"every checkpoint in {checkpoints.directory} is bad ({listed}); --fresh starts over"
        )
    lost = max(checkpoints.faults) - checkpoints.steps[-1]
    print(
        f"warning: damaged checkpoints set aside as N.corrupt ({listed}); going on from step "
        f"{checkpoints.steps[-1]}, {max(lost, 0)} steps are computed again",
        file=sys.stderr,
    )


def restore(
    checkpoints: Checkpoints, shapes: TrainState, seed: int, mesh: Mesh, shard: bool
) -> tuple[TrainState, Progress]:
    """Rebuilds state and bookkeeping from the newest checkpoint, on the devices."""
    step = checkpoints.steps[-1]
    items = checkpoints.restore(
        step,
        params=devices.abstract(shapes.params, mesh, shard),
        opt_state=devices.abstract(shapes.opt_state, mesh, shard),
    )
    state = TrainState(
        step=devices.place(jax.numpy.int32(step), mesh),
        params=items["params"],
        opt_state=items["opt_state"],
        key=devices.place(jax.random.key(seed), mesh),
    )
    return state, Progress(**items["bookkeeping"])
