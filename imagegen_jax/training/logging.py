"""The numbers of a run: metrics.jsonl, TensorBoard events and a progress bar."""

import json
import pathlib
import sys

import jax
import numpy as np
import tqdm

from imagegen_jax import files

# tensorboardX imports PyTorch wherever there is one, for tensors that nobody gives it here: seconds of every start.
_hidden = sys.modules.setdefault("torch", None) is None
import tensorboardX  # noqa: E402

if _hidden:
    del sys.modules["torch"]


class MetricWriter:
    """Writes metrics.jsonl (one object a line) and the same scalars, and image grids, for TensorBoard.

    Only the first process writes; on the others every method does nothing.
    """

    def __init__(self, workdir, first_step):
        """Opens the files of a run that continues after `first_step`; what was logged beyond it is dropped, to come again."""
        self._active = jax.process_index() == 0
        if not self._active:
            return
        path = pathlib.Path(workdir) / "metrics.jsonl"
        _keep_until(path, first_step)
        self._lines = path.open("a")
        self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=first_step + 1 if first_step else None)

    def write(self, step, scalars):
        """One line: {'step': step, **scalars}; TensorBoard gets the numbers among them."""
        if not self._active:
            return
        self._lines.write(json.dumps({"step": step} | scalars) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            if not isinstance(value, str):
                self._events.add_scalar(name, value, step)
        self._events.flush()

    def image(self, step, name, image):
        """An (h, w, c) uint8 picture for TensorBoard."""
        if self._active:
            self._events.add_image(name, np.asarray(image), step, dataformats="HWC")
            self._events.flush()

    def close(self):
        """Closes the files."""
        if self._active:
            self._lines.close()
            self._events.close()


def _keep_until(path, step):
    """Drops the lines of later steps, and a line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:
            pass
    with files.draft(path) as draft:
        draft.write_text("".join(kept))


class Progress:
    """A bar on stderr: steps, ETA, images a second and the loss."""

    def __init__(self, first_step, total_steps):
        self._bar = tqdm.tqdm(
            initial=first_step,
            total=total_steps,
            unit="step",
            dynamic_ncols=True,
            disable=jax.process_index() != 0,
        )

    def step(self):
        """One more step is done."""
        self._bar.update()

    def show(self, **numbers):
        """Sets the numbers behind the bar."""
        self._bar.set_postfix(numbers, refresh=False)

    def close(self):
        """Leaves the bar as it is."""
        self._bar.close()
