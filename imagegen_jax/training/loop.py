"""The training loop. It knows states, batches and metrics, and nothing of losses, networks or families."""

from collections.abc import Callable
import dataclasses
import time

import jax
from jax import numpy as jnp
import numpy as np

from imagegen_jax import placement
from imagegen_jax.data import domains
from imagegen_jax.training import compiler
from imagegen_jax.training import interruption
from imagegen_jax.training import nonfinite
from imagegen_jax.training import power_ema
from imagegen_jax.training import sharding

_HOOKS_RAN = "hook_seconds"  # the metric that every step has at which hooks ran to their end


@dataclasses.dataclass(frozen=True)
class Hook:
    """Something done now and then with the state, such as drawing a grid or measuring on held-out images.

    Attributes:
      every: steps between two runs; 0 for never. It also runs after the last step.
      run: (step, state, writer) -> metrics, a dict of floats. It may raise interruption.StopRequested.
      names: () -> those of the metrics that it may measure.
    """

    every: int
    run: Callable
    names: Callable = tuple


def compile_step(*what, **how):
    """The jax.stages.Compiled of `lower_step`: (state, batch, rng, arrays) -> (state, metrics)."""
    return lower_step(*what, **how).compile()


def lower_step(algorithm, augment, mesh, state, batch, rng, arrays, on_nonfinite="stop", steps_per_call=1):
    """Traces the train step ahead of time, with the state donated.

    Several steps a call take what sharding.put_batches makes of their batches and how many of them there are, (batches, n),
    and have metrics with an entry for each, of which the first n count.

    Args:
      algorithm: the Algorithm.
      augment: (rng, batch) -> batch, on the device.
      mesh: the devices.
      state: pytree of ShapeDtypeStruct with shardings.
      batch: likewise, one batch as the host delivers it.
      rng: two keys, of the streams 'train' and 'augment'.
      arrays: on the devices, whose rows belong to a batch (domains.gathered), or their shapes.
      on_nonfinite: of the config.
      steps_per_call: likewise.

    Returns:
      A jax.stages.Lowered.
    """

    def on_whole(state, batch, rng):
        state = state.replace(params=placement.whole(state.params), extra=placement.whole(state.extra))
        after, metrics = algorithm.train_step(state, batch, rng)
        return after.replace(extra=placement.whole(after.extra)), metrics

    train_step = nonfinite.guarded(power_ema.following(on_whole), on_nonfinite)

    def step(state, batch, rng, arrays):
        train_rng, augment_rng = (jax.random.fold_in(key, state.step) for key in rng)
        return train_step(state, augment(augment_rng, domains.gathered(batch, arrays)), train_rng)

    several = steps_per_call > 1
    if several:
        batch = sharding.stacked_shapes(batch, steps_per_call), jax.ShapeDtypeStruct((), jnp.int32)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(
        _repeated(step, steps_per_call) if several else step,
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
        compiler_options=compiler.options(),
    )
    with jax.set_mesh(mesh):
        return jitted.lower(state, batch, rng, arrays)


def _repeated(step, at_most):
    """The same for several steps a call; see lower_step."""
    step = jax.jit(step)  # so that it is traced once

    def steps(state, batches, rng, arrays):
        batches, n = batches

        def one(i, done):
            state, told = done
            state, metrics = step(state, jax.tree.map(lambda rows: rows[i], batches), rng, arrays)
            return state, jax.tree.map(lambda entries, value: entries.at[i].set(value), told, metrics)

        _, metrics = jax.eval_shape(step, state, jax.tree.map(lambda rows: rows[0], batches), rng, arrays)
        return jax.lax.fori_loop(0, n, one, (state, jax.tree.map(lambda value: jnp.zeros(at_most, value.dtype), metrics)))

    return steps


def train(
    state,
    position,
    *,
    step_fn,
    rng,
    batches,
    mesh,
    batch_size,
    steps_per_call,
    total_steps,
    log_every,
    checkpoint_every,
    hooks,
    checkpointer,
    writer,
    progress,
    stop: interruption.Interruption,
):
    """Runs the steps position.step + 1, ..., total_steps.

    Args:
      state: the TrainState after position.step steps; it is donated.
      position: the checkpoint.Position of `state`. If hooks are due there, they run first, as they would have without the stop.
      step_fn: (state, batch, rng) -> (state, metrics), of compile_step with its arrays.
      rng: as compile_step's, on the mesh.
      batches: iterator over this process's share of each batch, from position.step on.
      mesh: the devices.
      batch_size: images a step, over all processes.
      steps_per_call: of step_fn. A call ends at the multiples of that and wherever anything is due, so that which steps are
        taken together depends on their numbers alone.
      total_steps: number of the last step.
      log_every: steps between two lines of metrics.
      checkpoint_every: steps between two checkpoints; 0 for the last step only.
      hooks: Hooks, run in this order behind the checkpoint of the same step, so that what goes wrong in one loses nothing.
      checkpointer: a checkpoint.Checkpointer.
      writer: a logging.MetricWriter.
      progress: the progress.Progress of the steps.
      stop: ends the training after the running call, with a checkpoint, when it is requested.

    Returns:
      (state, position) after the last step, or earlier if `stop` was requested.

    Raises:
      nonfinite.NotFiniteError: a metric is not finite.
      errors.UserError: too many steps were left out, the data cannot be read, or a checkpoint cannot be written.
    """
    interval = _Interval(writer, progress, position.interval)
    started = time.monotonic() - position.seconds
    if position.due:
        due = _due(hooks, position.step, total_steps)
        if due and not _run(due, position.step, state, writer, checkpointer):
            return state, position
        position = dataclasses.replace(position, due=False)
    cadences = [every for every in (steps_per_call, log_every, checkpoint_every, *(hook.every for hook in hooks)) if every]

    def ahead(step):
        """How many steps the call after `step` takes, and their batches."""
        n = max(0, min(total_steps - step, *(every - step % every for every in cadences)))  # 0: it is trained further
        return n, _next(batches, n, steps_per_call, mesh, interval) if n else None

    interval.restart_clock()
    step = position.step
    n, batch = ahead(step)
    before = None
    while n:
        with jax.transfer_guard("disallow"):
            state, metrics = step_fn(state, batch, rng)
            step, last = step + n, (step + 1, n, metrics)
            # While the device works on this call, the host fetches the next batch and looks at the metrics of the last call.
            n, batch = ahead(step)
            if before is not None:
                interval.add(*before)
            before = last

        due = _due(hooks, step, total_steps)
        regular = step == total_steps or bool(checkpoint_every and step % checkpoint_every == 0)
        pause = bool(due or regular or step % log_every == 0)
        stopping = stop.agreed(step, pause)
        if not (pause or stopping):
            continue

        interval.add(*before)  # whatever is about to be saved or drawn is known to be finite
        before = None
        seconds = time.monotonic() - started
        if pause:  # at any other step a line would be one that an uninterrupted run has not
            interval.write(step, seconds, batch_size)
        position = dataclasses.replace(
            position, step=step, seconds=seconds, due=bool(due), extra=not regular, interval=interval.sums()
        )
        if regular or stopping:
            writer.flush()  # so that no checkpoint is without its metrics
            checkpointer.save(state, position)
        if due and not stopping:
            ran = False
            try:
                ran = _run(due, step, state, writer, checkpointer)
            finally:
                if not (ran or regular):
                    checkpointer.save(state, position)
            position = dataclasses.replace(position, due=not ran)
            stopping = not ran
        if stopping:
            break
        interval.restart_clock()
    checkpointer.wait()
    return state, position


def still_due(position, rows):
    """A restored checkpoint.Position, whose hooks are due unless the run's metrics say that they ran after it was saved."""
    ran = any(row["step"] == position.step and _HOOKS_RAN in row for row in rows)
    return dataclasses.replace(position, due=position.due and not ran)


def _due(hooks, step, total_steps):
    return [hook for hook in hooks if hook.every and (step % hook.every == 0 or step == total_steps)]


def _run(due, step, state, writer, checkpointer):
    """Runs the hooks that are due, writes what they measure, and returns whether they ran to the end."""
    begin = time.monotonic()
    measured = {}
    try:
        for hook in due:
            measured |= hook.run(step, state, writer)
    except interruption.StopRequested:
        return False
    checkpointer.measured(step, measured)
    writer.write(step, measured | {_HOOKS_RAN: time.monotonic() - begin})
    return True


def _next(batches, n, at_most, mesh, interval):
    """The next n batches as a step_fn of so many steps a call at most takes them."""
    begin = time.monotonic()
    rows = [next(batches) for _ in range(n)]
    interval.waited += time.monotonic() - begin
    if at_most == 1:
        return sharding.put_batch(mesh, rows[0])
    return sharding.put_batches(mesh, rows, at_most)


class _Interval:
    """The steps since the last line of metrics: their mean metrics, their speed, and the share of time spent on data."""

    def __init__(self, writer, progress, sums):
        """Continues the `sums` of an interval that a stop cut in two."""
        self._writer = writer
        self._progress = progress
        self._steps = sums.get("steps", 0)
        self._sums = dict(sums.get("metrics", {}))
        self._skipped, self._in_a_row = sums.get("skipped", 0), sums.get("in_a_row", 0)
        self.restart_clock()

    def sums(self):
        """What another start needs to continue this interval, as JSON; {} right behind a line."""
        left_out = {"skipped": self._skipped, "in_a_row": self._in_a_row} if self._in_a_row or self._skipped else {}
        return ({"steps": self._steps, "metrics": self._sums} if self._steps else {}) | left_out

    def restart_clock(self):
        """From now on time goes to the steps to come."""
        self._timed = 0
        self._begin = time.monotonic()
        self.waited = 0.0

    def add(self, first, n, metrics):
        """Takes up the metrics of n steps that are done or will soon be. Raises what nonfinite.check and check_skipped do."""
        entries = {name: np.atleast_1d(values) for name, values in jax.device_get(metrics).items()}
        for i in range(n):
            self._add(first + i, {name: float(values[i]) for name, values in entries.items()})

    def _add(self, step, metrics):
        self._timed += 1
        self._progress.count()
        if metrics.pop(nonfinite.SKIPPED, 0):
            self._skipped, self._in_a_row = self._skipped + 1, self._in_a_row + 1
            nonfinite.check_skipped(step, self._in_a_row)
            return
        nonfinite.check(step, metrics)
        self._in_a_row = 0
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in metrics.items()}
        self._steps += 1

    def write(self, step, seconds, batch_size):
        """One line for the steps so far."""
        elapsed = time.monotonic() - self._begin
        means = {name: total / self._steps for name, total in self._sums.items()}
        if self._skipped:
            means["skipped_steps"] = self._skipped
        rate = self._timed * batch_size / elapsed
        self._progress.show(f"loss {means.get('loss', float('nan')):.4g}, {rate:.0f} images/s")
        speed = {
            "images_per_second": rate,
            "data_wait_fraction": self.waited / elapsed,
            "seconds": seconds,
            "images_seen": step * batch_size,
        }
        self._writer.write(step, means | speed)
        self._steps, self._sums, self._skipped = 0, {}, 0


def initialise(algorithm, rng, shardings):
    """The first state, each array made where it belongs, so that none is ever whole on one device under FSDP.

    Power-function averages that `shardings` has begin as zeros.
    """

    def init(rng):
        return power_ema.begun(algorithm.init(rng), power_ema.widths(shardings))

    return jax.jit(init, out_shardings=shardings, compiler_options=compiler.quick_options())(rng)
