"""Checkpoints of a run: Orbax, asynchronous and atomic. One step holds the state and the data position together."""

import contextlib
import dataclasses
import importlib.metadata
import io
import pathlib
import time

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from imagegen_jax import errors


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run has come; with the config's seed it determines every batch to come.

    Attributes:
      step: steps done.
      seconds: wall time spent on them.
      records: training images in the source.
      fingerprint: of the source, so that other data under the same name is noticed.
      schedules: the learning-rate schedules of the run, ((first step, end), ...), each in force until the next one begins;
        () in checkpoints from before there was this field.
    """

    step: int
    seconds: float
    records: int
    fingerprint: str
    schedules: tuple[tuple[int, int], ...] = ()


def available_steps(folder):
    """Steps with a folder in the checkpoint folder, ascending, readable or not."""
    folder = pathlib.Path(folder)
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) if folder.is_dir() else []


def _first_line(error):
    return str(error).strip().split("\n")[0][:160]


def _array_handlers():
    # By default each of n devices writes an nth of every replicated array; the loop then waits for thousands of small slices.
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    return ocp.type_handlers.create_type_handler_registry((jax.Array, handler))


class Checkpointer:
    """Saves to and restores from one folder, `<folder>/<step>/`."""

    def __init__(self, folder, keep=1, best_metric="", read_only=False):
        """Opens the folder.

        Args:
          folder: path, made at the first save.
          keep: how many of the latest checkpoints stay.
          best_metric: the one with the lowest of this metric stays too; '' for none.
          read_only: restore only; nothing in the folder is created or cleaned up.
        """
        self._folder = pathlib.Path(folder).absolute()
        preserve = [policies.LatestN(keep)]
        if best_metric:
            # BestN sorts ascending and keeps the last n, so the lowest must be the greatest.
            preserve.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best_metric],
                    reverse=True,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._best_metric = best_metric
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(preserve),
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(type_handler_registry=_array_handlers()),
                "position": ocp.JsonCheckpointHandler(),
                "versions": ocp.JsonCheckpointHandler(),
            },
        )

    def save(self, state, position, metrics=None):
        """Writes a checkpoint in the background; `state` may be donated to the next step at once.

        Args:
          state: the TrainState.
          position: the Position that belongs to it.
          metrics: the run's latest held-out metrics, if they are of this step.

        Raises:
          errors.UserError: the disk is full or the folder cannot be written. Earlier checkpoints stay as they were.
        """
        versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}
        self._guarded(
            self._manager.save,
            position.step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                position=ocp.args.JsonSave(dataclasses.asdict(position)),
                versions=ocp.args.JsonSave(versions),
            ),
            metrics=metrics if metrics and self._best_metric in metrics else None,
        )

    def wait(self):
        """Returns when the last save is on disk. Raises as `save` does."""
        self._guarded(self._manager.wait_until_finished)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        """Finishes what is being written, also on the way out of an error."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def restore(self, step, state):
        """Reads one checkpoint.

        Args:
          step: which one, or None for the latest.
          state: pytree of jax.ShapeDtypeStruct with shardings, as the arrays should come.

        Returns:
          (state, Position)

        Raises:
          errors.UserError: it is missing or cannot be read; the message names the steps that can.
        """
        steps = available_steps(self._folder)
        if not steps:
            raise errors.UserError(f"no checkpoint in {self._folder}: train the run first")
        wanted = steps[-1] if step is None else step
        if wanted not in steps:
            raise errors.UserError(f"no checkpoint of step {wanted} in {self._folder}: there are {', '.join(map(str, steps))}")
        # When one read fails, tensorstore prints a traceback for each of the others that are still under way.
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                return self._read(wanted, state)
            except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged folder
                cause = error
                readable = [other for other in steps if other != wanted and self._is_readable(other, state)]
        advice = f"{', '.join(map(str, readable))} can be; choose with --checkpoint=STEP" if readable else "nor can any other"
        raise errors.UserError(
            f"checkpoint {self._folder / str(wanted)} cannot be read ({_first_line(cause)}): {advice}"
        ) from cause

    def discard_after(self, step):
        """Moves later checkpoints to `<folder>.superseded-<time>/`, so that training can pass there again."""
        later = [other for other in available_steps(self._folder) if other > step]
        if later and jax.process_index() == 0:
            aside = self._folder.with_name(f"{self._folder.name}.superseded-{time.strftime('%Y%m%d-%H%M%S')}")
            aside.mkdir()
            for other in later:
                (self._folder / str(other)).rename(aside / str(other))
        self._manager.reload()

    def _read(self, step, state):
        placed = ocp.args.PyTreeRestore(state, restore_args=ocp.checkpoint_utils.construct_restore_args(state))
        restored = self._manager.restore(step, args=ocp.args.Composite(state=placed, position=ocp.args.JsonRestore()))
        return restored["state"], Position(**restored["position"])

    def _is_readable(self, step, state):
        try:
            self._read(step, state)
        except Exception:  # as in restore
            return False
        return True

    def _guarded(self, call, *args, **kwargs):
        try:
            return call(*args, **kwargs)
        except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
            steps = available_steps(self._folder)
            last = f"the last good checkpoint is step {steps[-1]}" if steps else "there is none yet"
            raise errors.UserError(
                f"cannot write a checkpoint to {self._folder} ({_first_line(error)}): free the disk and start again; {last}"
            ) from error
