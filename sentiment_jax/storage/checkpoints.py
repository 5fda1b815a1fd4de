"""Checkpoints of one run: Orbax stores, a manifest of our own (sha256 of every file) vouches.

A flipped bit in an array file restores silently as another number, so a step counts only when every
file in it has the hash that MANIFEST.json, written last and atomically, says it has.
"""

import shutil
from pathlib import Path
from typing import Any

import jax

from sentiment_jax.errors import DiskFull, InputError
from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import file_sha256, read_json, write_json
from sentiment_jax.storage.metrics_log import validation_rank

MANIFEST = "MANIFEST.json"
UNFINISHED = "unfinished"  # the fault of a step that is being written
LATEST_KEPT = 2


def _hashes(step_directory: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(step_directory.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            hashes[str(path.relative_to(step_directory))] = file_sha256(path)
    return hashes


def _fault(step_directory: Path) -> str:
    """Says what is wrong with a finished checkpoint; empty when its manifest holds."""
    if not (step_directory / MANIFEST).exists():
        return "MANIFEST.json is missing"
    try:
        expected = read_json(step_directory / MANIFEST)["files"]
    except (InputError, KeyError):
        return "MANIFEST.json is unreadable"
    found = _hashes(step_directory)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    return f"{wrong[0]} is damaged or missing" if wrong else ""


def steps_in(directory: Path) -> list[int]:
    """The steps that have a directory of their own under `directory`, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


class Checkpoints:
    """The checkpoints/ folder of a run: the latest two and the best by validation."""

    def __init__(self, directory: Path, *, read_only: bool = False):
        """Verifies every step found; bad ones are set aside as N.corrupt (unless read_only).

        Args:
          directory: the run's checkpoints/ folder; created on the first save.
          read_only: report damage without touching anything.

        Attributes:
          faults: step -> what is wrong with it, for the steps found bad.
        """
        self.directory = directory.resolve()
        self.faults: dict[int, str] = {}
        self._manager: Any = None
        self._read_only = read_only
        found = steps_in(self.directory)
        for step in found:
            step_directory = self.directory / str(step)
            if step == found[-1] and not (step_directory / MANIFEST).exists():
                # Killed between Orbax's last file and the manifest: never promised to anyone.
                if read_only:
                    self.faults[step] = UNFINISHED
                else:
                    shutil.rmtree(step_directory)
            elif fault := _fault(step_directory):
                self.faults[step] = fault
                if not read_only:
                    target = self.directory / f"{step}.corrupt"
                    shutil.rmtree(target, ignore_errors=True)
                    step_directory.rename(target)
        self.steps = [step for step in steps_in(self.directory) if step not in self.faults]

    def describe_faults(self) -> str:
        """The bad steps and what is wrong with each, in words."""
        return "; ".join(f"step {step}: {why}" for step, why in self.faults.items())

    @property
    def manager(self) -> Any:
        """The Orbax CheckpointManager, opened when first needed."""
        if self._manager is None:
            import orbax.checkpoint as ocp
            from orbax.checkpoint.checkpoint_managers import preservation_policy

            best = preservation_policy.BestN(
                get_metric_fn=validation_rank, n=1, keep_checkpoints_without_metrics=False
            )
            latest = preservation_policy.LatestN(LATEST_KEPT)
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.AnyPreservationPolicy([latest, best]),
                    best_fn=validation_rank,
                    read_only=self._read_only,
                    cleanup_tmp_directories=not self._read_only,
                    enable_async_checkpointing=False,
                ),
            )
        return self._manager

    def save(
        self,
        step: int,
        params: Any,
        opt_state: Any,
        bookkeeping: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Writes one step completely, manifest last; older steps fall to the keeping rule.

        Args:
          step: optimiser steps taken.
          params: parameter tree.
          opt_state: optimiser state tree.
          bookkeeping: JSON-able statistics that a resumed run needs.
          metrics: validation accuracy and loss, where this step was validated.

        Raises:
          DiskFull: not enough free space; nothing older is touched.
        """
        import orbax.checkpoint as ocp

        self.directory.mkdir(parents=True, exist_ok=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves((params, opt_state)))
        free = shutil.disk_usage(self.directory).free
        if free < 1.1 * needed:
            raise DiskFull(
                f"disk full: {free:,} bytes free in {self.directory}, {needed:,} needed for the "
                f"checkpoint of step {step}; free some space and run the same command again"
            )
        if step in self.steps:  # the same step again, now validated
            self.manager.delete(step)
        self.manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                opt_state=ocp.args.StandardSave(opt_state),
                bookkeeping=ocp.args.JsonSave(bookkeeping),
            ),
            metrics=metrics,
        )
        self.manager.wait_until_finished()
        folder = self.directory / str(step)
        with processes.in_turn():  # Orbax writes from all processes and waits for all
            if processes.is_main():
                write_json(folder / MANIFEST, {"metrics": metrics, "files": _hashes(folder)})
        self.steps = steps_in(self.directory)

    def restore(self, step: int, **templates: Any) -> dict[str, Any]:
        """Reads items of one step.

        Args:
          step: one of `steps`.
          **templates: item name -> tree of arrays or jax.ShapeDtypeStruct with shardings
            ("params", "opt_state").

        Returns:
          Item name -> tree, and "bookkeeping".
        """
        import orbax.checkpoint as ocp

        folder = self.directory / str(step)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            items = {"bookkeeping": reader.restore(folder / "bookkeeping")}
        with ocp.StandardCheckpointer() as reader:
            for name, template in templates.items():
                items[name] = reader.restore(folder / name, template)
        return items

    def best_step(self) -> int | None:
        """The step with the best validation score, None where none was validated."""
        scored = []
        for step in self.steps:
            manifest = read_json(self.directory / str(step) / MANIFEST)
            if manifest["metrics"]:
                scored.append((validation_rank(manifest["metrics"]), step))
        return max(scored)[1] if scored else None

    def close(self) -> None:
        """Ends Orbax's threads."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None
