"""The numbers of metrics.jsonl as TensorBoard's event files, by tensorboardX: no TensorFlow."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.errors import InputError


def import_writer() -> Any:
    """Return tensorboardX's SummaryWriter; InputError if tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs tensorboardX: pip install tensorboardX") from None
    return SummaryWriter


@contextlib.contextmanager
def write_events(
    folder: Path, records: Sequence[dict[str, Any]]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write the folder anew with the records so far; yield a function that adds one.

    A resumed run has each step once, as in metrics.jsonl.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # purge_step: a TensorBoard that watches the folder forgets what it has read from that step on.
    with import_writer()(str(folder), purge_step=0) as writer:

        def write(record: dict[str, Any]) -> None:
            for name, value in record.items():
                if name not in ("step", "split") and value is not None:
                    writer.add_scalar(f"{record['split']}/{name}", value, record["step"])
            writer.flush()

        for record in records:
            write(record)
        yield write
