"""TensorBoard's event files have each step of metrics.jsonl once, also after resuming."""

import struct
import sys

import pytest
import runs
from tensorboardX.proto.event_pb2 import Event

from sentiment_jax.errors import InputError, Interrupted
from sentiment_jax.modes.train import train
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore:.*google._upb:DeprecationWarning")


def scalars(folder):
    """(tag, step, value) of every scalar, in the order written."""
    found = []
    for path in sorted(folder.glob("events*")):
        raw = path.read_bytes()
        while raw:  # length, its checksum, an event, its checksum
            (length,) = struct.unpack_from("<Q", raw)
            event = Event.FromString(raw[12 : 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            raw = raw[16 + length :]
    return found


def test_events_are_those_of_the_metrics_also_after_resuming(tmp_path):
    config = runs.make_small(**runs.ONE_SHAPE, epochs=2)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(config, run, tensorboard=True, stop=runs.stop_at(5))
    before = scalars(run / "tensorboard")
    (run / "tensorboard" / "notes").write_text("mine")
    train(config, run, tensorboard=True)
    found = scalars(run / "tensorboard")
    assert 0 < len(before) < len(found)
    assert found == [
        (f"{record['split']}/{name}", record["step"], pytest.approx(value, rel=1e-6))
        for record in read_metrics(run / "metrics.jsonl")
        for name, value in record.items()
        if name not in ("step", "split")
    ]
    RunDirectory(run).remove()
    assert [path.name for path in (run / "tensorboard").iterdir()] == ["notes"]


def test_without_tensorboardx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="--tensorboard needs tensorboardX: pip install"):
        train(runs.make_small(), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
