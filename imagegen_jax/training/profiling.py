"""A profile of some steps of a training, by JAX's own profiler."""

import contextlib
import re
import sys

import jax

from imagegen_jax import errors

FOLDER = "profile"  # in that of the run


def steps_of(word):
    """(first, last) of 'STEP:STEPS', so many steps from one on; None of None. Raises errors.UserError."""
    if word is None:
        return None
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", word)
    if not match:
        raise errors.UserError(f"--profile={word}: write the first step and how many, such as 100:5")
    first, count = map(int, match.groups())
    return first, first + count - 1


@contextlib.contextmanager
def profiled(step_fn, done, steps, folder):
    """The same steps, of which some are recorded: to folder/FOLDER, which TensorBoard, XProf and Perfetto read.

    A profile begins when all earlier steps are over, and ends when its own are. Of several steps a call all are recorded.

    Args:
      step_fn: (state, batch, rng) -> (state, metrics), where a batch of several steps is (batches, their number).
      done: number of steps before the first.
      steps: (first, last) to record; None for none.
      folder: of the run.

    Yields:
      A function like step_fn.
    """
    if steps is None:
        yield step_fn
        return
    number, recording = done, False

    def recorded(state, batch, rng):
        nonlocal number, recording
        first = number + 1
        number += int(jax.device_get(batch[1])) if isinstance(batch, tuple) else 1
        if not recording and first <= steps[1] and number >= steps[0]:
            jax.block_until_ready(state)
            jax.profiler.start_trace(folder / FOLDER, create_perfetto_trace=True)
            recording = True
        if not recording:
            return step_fn(state, batch, rng)
        with jax.profiler.StepTraceAnnotation("train", step_num=first):
            made = jax.block_until_ready(step_fn(state, batch, rng))
        if number >= steps[1]:
            recording = False
            _stop(folder)
        return made

    try:
        yield recorded
    finally:
        if recording:
            _stop(folder)


def _stop(folder):
    jax.profiler.stop_trace()
    if jax.process_index() == 0:
        print(f"profile: {folder / FOLDER}", file=sys.stderr)
