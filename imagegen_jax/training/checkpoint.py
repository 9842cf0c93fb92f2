"""Checkpoints of a run: Orbax, asynchronous and atomic. One step holds the state and the data position together."""

import contextlib
import dataclasses
import errno
import importlib.metadata
import inspect
import os
import re
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.algorithms import base
from imagegen_jax.training import preservation

# Entries of TrainState.extra: the name now, and the names that older checkpoints have instead.
_RENAMED = {
    "autoencoder_stats": ("batch_stats",),
    "vae_stats": ("batch_stats",),
    "first_stage": ("vqvae", "teacher"),
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
      rollbacks: how often the training went back to a checkpoint (config.on_nonfinite). Each time it goes on with streams of
        batches and noise of its own.
      due: whether hooks of this step had yet to run when it was saved.
      extra: whether it was saved only because the training was stopped there.
      interval: the sums of the metrics since their last line, as loop.train continues them; {} right behind a line.
    """

    step: int
    seconds: float
    records: int
    fingerprint: str
    schedules: tuple[tuple[int, int], ...] = ()
    rollbacks: int = 0
    due: bool = False
    extra: bool = False
    interval: dict[str, Any] = dataclasses.field(default_factory=dict)


def available_steps(folder):
    """Steps with a folder in the checkpoint folder, ascending, readable or not."""
    folder = files.to_path(folder)
    found = [entry for entry in folder.iterdir() if entry.name.isdigit()] if folder.is_dir() else []
    if files.is_remote(folder):  # where nothing is renamed at the end, a file says that a checkpoint is whole
        found = filter(ocp.utils.is_checkpoint_finalized, found)
    return sorted(int(entry.name) for entry in found)


def _with_averages(restored, state, names):
    """The restored state, in which averages that a checkpoint lacks begin as what they are of, placed as in `state`."""
    if not names:
        return restored
    # Copies, since both are donated to the next step.
    averages = {
        name: jax.tree.map(lambda x, as_: jax.device_put(x, as_.sharding, may_alias=False), restored.extra[name], average)
        for name, average in state.extra["ema"].items()
        if name in names
    }
    return restored.replace(extra=restored.extra | {"ema": restored.extra.get("ema", {}) | averages})


def _with_names(extra, names):
    """TrainState.extra with {present name: other name}, which may stand in the averages' parts of it too."""
    if not isinstance(extra, dict):
        return extra
    return {names.get(name, name): _with_names(value, names) for name, value in extra.items()}


def _first_line(error):
    return str(error).strip().split("\n")[0][:160]


def _array_handlers():
    # By default each of n devices writes an nth of every replicated array; the loop then waits for thousands of small slices.
    handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    return ocp.type_handlers.create_type_handler_registry((jax.Array, handler))


def left_out(tree):
    """In place of arrays that `restore` should not read. They come back as something that is no array."""
    return jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)


class Checkpointer:
    """Saves to and restores from one folder, `<folder>/<step>/`."""

    def __init__(self, folder, policy=None, read_only=False):
        """Opens the folder.

        Args:
          folder: path, made at the first save.
          policy: the preservation.Policy, by default to keep the latest; it learns which of the steps there are extra.
          read_only: restore only; nothing in the folder is created or cleaned up.
        """
        folder = files.to_path(folder)
        self._folder = folder if files.is_remote(folder) else folder.absolute()
        self._policy = policy or preservation.Policy()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
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
        if not read_only:
            self._policy.extra.update(step for step in available_steps(self._folder) if self._is_extra(step))

    def save(self, state, position):
        """Writes a checkpoint in the background; `state` may be donated to the next step at once.

        Args:
          state: the TrainState.
          position: the Position that belongs to it.

        Raises:
          errors.UserError: the disk is full or the folder cannot be written. Earlier checkpoints stay as they were.
        """
        versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")}
        if position.extra:
            self._policy.extra.add(position.step)
        self._guarded(
            self._manager.save,
            position.step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                position=ocp.args.JsonSave(dataclasses.asdict(position)),
                versions=ocp.args.JsonSave(versions),
            ),
        )

    def measured(self, step, metrics):
        """Takes note of held-out metrics, for the choice of the best; its checkpoint may have been saved before."""
        metric = self._policy.metric
        if metric in metrics:
            self._policy.scores[step] = metrics[metric]
        elif metric and metrics and jax.process_index() == 0:
            print(f"note: {metric} could not be measured at step {step}", file=sys.stderr)

    def wait(self):
        """Returns when the last save is on disk, and what need not stay is gone. Raises as `save` does."""
        self._guarded(self._manager.wait_until_finished)
        steps = sorted(self._manager.all_steps())
        for step in set(steps) - self._policy.kept(steps):  # what was measured last may have made another the best
            self._guarded(self._manager.delete, step)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        """Finishes what is being written, also on the way out of an error."""
        try:
            self._guarded(self._manager.wait_until_finished)
        finally:
            self._manager.close()

    def restore(self, step, state, remedy="choose with --checkpoint=STEP"):
        """Reads one checkpoint.

        Args:
          step: which one, or None for the latest.
          state: pytree of jax.ShapeDtypeStruct with shardings, as the arrays should come, and of what `left_out` makes.
          remedy: what the error advises where others can be read.

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
        with _abandoned_reads_are_silent():
            try:
                return self._read(wanted, state)
            except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged folder
                readable = [other for other in steps if other != wanted and self._is_readable(other, state)]
                advice = f"{', '.join(map(str, readable))} can be; {remedy}" if readable else "nor can any other"
                raise errors.UserError(
                    f"checkpoint {self._folder / str(wanted)} cannot be read ({_first_line(error)}): {advice}"
                ) from error

    def _read(self, step, state):
        gained, renamed = self._changed(step, state)
        asked = state.without_averages(gained) if gained else state
        asked = asked.replace(extra=_with_names(asked.extra, renamed)) if renamed else asked
        placed = ocp.args.PyTreeRestore(asked, restore_args=ocp.checkpoint_utils.construct_restore_args(asked))
        restored = self._manager.restore(step, args=ocp.args.Composite(state=placed, position=ocp.args.JsonRestore()))
        found = restored["state"]
        if renamed:
            found = found.replace(extra=_with_names(found.extra, {old: new for new, old in renamed.items()}))
        return _with_averages(found, state, gained), _position(restored["position"])

    def _changed(self, step, state):
        """(entries of TrainState.extra whose averages the checkpoint is too old to have, {name: that which it has instead})."""
        if not isinstance(state, base.TrainState) or not state.extra:
            return [], {}
        saved = self._manager.item_metadata(step)["state"].tree["extra"]
        renamed = {new: old for new in state.extra.keys() - saved for old in _RENAMED.get(new, ()) if old in saved}
        gained = [name for name in state.extra.get("ema", {}) if renamed.get(name, name) not in saved.get("ema", {})]
        return gained, renamed

    def _is_readable(self, step, state):
        try:
            self._read(step, state)
        except Exception:  # as in restore
            return False
        return True

    def _is_extra(self, step):
        try:
            saved = self._manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))
            return _position(saved["position"]).extra
        except Exception:  # as in restore
            return False

    def _guarded(self, call, *args, **kwargs):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            # tensorstore reports what the system refused as a ValueError; the clients of object storages have their own kinds.
            if not isinstance(error, OSError | ValueError) and not files.is_remote(self._folder):
                raise
            steps = available_steps(self._folder)
            last = f"the last good checkpoint is step {steps[-1]}" if steps else "there is none yet"
            cause, is_full = _cause(error)
            remedy = "free the disk and start again; " if is_full else ""
            raise errors.UserError(f"cannot write a checkpoint to {self._folder} ({cause}): {remedy}{last}") from error


def _position(saved):
    """A Position of its JSON, which knows no tuples, and of which earlier versions had less."""
    return Position(**saved | {"schedules": tuple(map(tuple, saved.get("schedules", ())))})


def _cause(error):
    """(what the system refused, whether for want of space) of an exception."""
    named = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else named and int(named[1])
    return os.strerror(number) if number else _first_line(error), number in _FULL


@contextlib.contextmanager
def _abandoned_reads_are_silent():
    """When one read fails, Orbax leaves the others, and Python tells of each, once as a coroutine and once of its closed loop.

    All else goes its way: stderr is the whole process's, and other threads may have something to say.
    """
    previous = sys.unraisablehook

    def hook(unraisable):
        if not inspect.iscoroutine(unraisable.object) and "loop is closed" not in str(unraisable.exc_value):
            previous(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = previous  # not after a failure: tensorstore's threads tell of it until the process ends
