"""The numbers of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import pathlib
import shutil
import sys
import tempfile
import time

import jax
import numpy as np

from imagegen_jax import files

# tensorboardX imports PyTorch wherever there is one, for tensors that nobody gives it here: seconds of every start.
_hidden = sys.modules.setdefault("torch", None) is None
import tensorboardX  # noqa: E402

if _hidden:
    del sys.modules["torch"]


METRICS = "metrics.jsonl"
_UPLOAD_EVERY = 30.0  # seconds


def rows(workdir):
    """Yields the dict of each line of a run's metrics.jsonl, if there is one; a line that a kill cut short is left out."""
    path = files.to_path(workdir) / METRICS
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


class MetricWriter:
    """Writes metrics.jsonl (one object a line) and the same scalars, and image grids, for TensorBoard.

    Only the first process writes; on the others every method does nothing. An object storage takes whole files only: for one
    they are written on this machine, and uploaded twice a minute, by `flush` and at the end.
    """

    def __init__(self, workdir, first_step):
        """Opens the files of a run that continues after `first_step`; what was logged beyond it is dropped, to come again."""
        self._active = jax.process_index() == 0
        if not self._active:
            return
        _keep_until(workdir, first_step)
        folder = self._workdir = files.to_path(workdir)
        self._spool = None
        if files.is_remote(folder):
            folder = self._spool = pathlib.Path(tempfile.mkdtemp(prefix="imagegen_jax_"))
            (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows(workdir)))
            self._uploaded, self._last = {}, time.monotonic()
        self._lines = (folder / METRICS).open("a")
        self._events = tensorboardX.SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

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
        if self._spool and time.monotonic() - self._last >= _UPLOAD_EVERY:
            self.flush()

    def image(self, step, name, image):
        """An (h, w, c) uint8 picture for TensorBoard."""
        if self._active:
            self._events.add_image(name, np.asarray(image), step, dataformats="HWC")
            self._events.flush()

    def flush(self):
        """Returns when all that was written is in the run's folder. Raises errors.UserError."""
        if not (self._active and self._spool):
            return
        for path in sorted(self._spool.iterdir()):
            size = path.stat().st_size
            if self._uploaded.get(path.name) != size:
                files.upload(path, self._workdir / path.name, f"cannot write to the workdir {self._workdir}")
                self._uploaded[path.name] = size
        self._last = time.monotonic()

    def close(self):
        """Closes the files."""
        if self._active:
            self._lines.close()
            self._events.close()
            self.flush()
            if self._spool:
                shutil.rmtree(self._spool)


def _keep_until(workdir, step):
    """Drops the lines of later steps, and a line that a kill cut short."""
    path = files.to_path(workdir) / METRICS
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in rows(workdir) if row["step"] <= step]
        with files.atomic_write(path) as temporary:
            temporary.write_text("".join(kept))
