"""The numbers of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import pathlib
import sys

import jax
import numpy as np

from imagegen_jax import files

# tensorboardX imports PyTorch wherever there is one, for tensors that nobody gives it here: seconds of every start.
_hidden = sys.modules.setdefault("torch", None) is None
import tensorboardX  # noqa: E402

if _hidden:
    del sys.modules["torch"]


METRICS = "metrics.jsonl"


def rows(workdir):
    """Yields the dict of each line of a run's metrics.jsonl, if there is one; a line that a kill cut short is left out."""
    path = pathlib.Path(workdir) / METRICS
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


class MetricWriter:
    """Writes metrics.jsonl (one object a line) and the same scalars, and image grids, for TensorBoard.

    Only the first process writes; on the others every method does nothing.
    """

    def __init__(self, workdir, first_step):
        """Opens the files of a run that continues after `first_step`; what was logged beyond it is dropped, to come again."""
        self._active = jax.process_index() == 0
        if not self._active:
            return
        _keep_until(workdir, first_step)
        self._lines = (pathlib.Path(workdir) / METRICS).open("a")
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


def _keep_until(workdir, step):
    """Drops the lines of later steps, and a line that a kill cut short."""
    path = pathlib.Path(workdir) / METRICS
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in rows(workdir) if row["step"] <= step]
        with files.draft(path) as draft:
            draft.write_text("".join(kept))
