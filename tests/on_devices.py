"""A process of its own with four virtual devices: `on_devices.py FOLDER RUN`.

Trains on four of them, into FOLDER/four; reads RUN's parameters on four.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"  # conftest adds our own

import conftest  # noqa: F401
import golden
import jax
import numpy as np
import runs
from jax.sharding import Mesh

from benchmarks.speed import synthetic
from sentiment_jax.config.schema import LstmConfig, OptimizerConfig
from sentiment_jax.models.layers import keep_mask
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import devices
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.resume import initial_params
from sentiment_jax.training.steps import create_state, make_train_step
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.trained_model import load_run


def on(count):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    devices.data_mesh = lambda: mesh
    return mesh


def leaves(run):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_run(run).params)]


def mask(count):
    """A dropout mask as a training step draws it, for rows split over the devices."""
    mesh = on(count)
    rows = devices.put_batch({"rows": np.ones((8, 40), np.float32)}, mesh)["rows"]
    assert rows.addressable_shards[0].data.shape == (8 // count, 40)
    key = devices.place(jax.random.key(0), mesh)

    @jax.jit
    def drop(key, rows):
        return rows * keep_mask(jax.random.fold_in(key, 3), 0.3, rows.shape)

    return np.asarray(drop(key, rows))


def take_step(count, parts):
    """The parameters after a step without dropout, the last of its eight rows padded."""
    mesh = on(count)
    optimizer = OptimizerConfig(name="sgd")
    sizes = {"vocab_size": 40, "embedding_size": 8, "hidden_size": 8, "dense_size": 8}
    model = LstmClassifier(LstmConfig(**sizes, output_dropout=0.0))
    rows = synthetic.make_batch(0, 8, 6)
    weights = np.arange(8) < 7
    batch = rows | {"token_ids": rows["token_ids"] % 40, "weights": weights.astype(np.float32)}
    state = devices.place(create_state(golden.random(model), optimizer, 0), mesh)
    step = make_train_step(model, optimizer, Classification(), parts)
    state, _ = step(state, devices.put_batch(batch, mesh), np.float32(0.1))
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)])


def probabilities(run, eval_batch_size):
    """Probabilities of more texts than a small batch holds."""
    trained = load_run(run)
    config = dataclasses.replace(trained.config, eval_batch_size=eval_batch_size)
    trained = dataclasses.replace(trained, config=config)
    return predict([trained], [f"a film of {n} good scenes" for n in range(40)])[0]


def initial_devices(run):
    """Where fresh parameters are, while another device than the first is the default."""
    with jax.default_device(jax.devices()[1]):
        assert jax.numpy.zeros(1).device.id == 1
        params, _ = initial_params(CLASSIFICATION.prepare(load_run(run).config))
    return sorted({leaf.device.id for leaf in jax.tree.leaves(params)})


def main(folder, run):
    assert jax.device_count() == 4
    (folder / "initial.json").write_text(json.dumps(initial_devices(run)))
    np.savez(folder / "masks.npz", *[mask(count) for count in (1, 2, 4)])
    np.savez(folder / "read.npz", *leaves(run))
    steps = [take_step(1, parts=1), take_step(2, parts=4), take_step(4, parts=2)]
    np.savez(folder / "parts.npz", *steps)
    np.savez(folder / "probabilities.npz", probabilities(run, 8), probabilities(run, 6))
    on(4)
    train(runs.make_small(**runs.LONGER), folder / "four")
    np.savez(folder / "four" / "params.npz", *leaves(folder / "four"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
