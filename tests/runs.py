"""When two run directories hold the same run."""

import jax
import numpy as np

from sentiment_jax import checkpoint, writer


def final_state(workdir):
    """Parameters and optimiser state of the last checkpoint, as numpy."""
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", read_only=True)
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        folder = checkpoints.directory / str(checkpoints.steps[-1])
        return [
            jax.tree.map(np.asarray, reader.restore(folder / n)) for n in ("params", "opt_state")
        ]


def metrics(workdir):
    """metrics.jsonl without what a clock decides."""
    records = writer.read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_same_run(first, second):
    jax.tree.map(np.testing.assert_array_equal, final_state(first), final_state(second))
    assert metrics(first) == metrics(second)
    measured = ("train_seconds", "compile_seconds", "test_seconds", "train_flops_per_second")
    results = [writer.read_json(run / "result.json") for run in (first, second)]
    for result in results:
        for name in (*measured, "metrics_sha256"):
            del result[name]
    assert results[0] == results[1]
    assert (first / "predictions.csv").read_text() == (second / "predictions.csv").read_text()
