"""SIGTERM and SIGINT as a request to stop that is answered soon, whatever the process is doing."""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils
import numpy as np

_AGREE_EVERY = 10  # plain steps; a stop is late by at most so many on several hosts, and the exchange costs a tenth


class StopRequested(Exception):
    """Raised out of `Interruption.run` when a stop was asked for before the work was done."""


class Interruption:
    """Catches the signals while it is entered. A second signal ends the process at once.

    Python runs a signal's handler only between two bytecodes of the main thread, and a compilation or a long computation is
    one bytecode. So long work goes through `run`, which does it in another thread while the main one waits and listens.

    Attributes:
      requested: whether a signal has come.
      abandoned: whether work is still going on in a thread that nobody waits for; the process must then end by os._exit.
    """

    def __init__(self):
        self.requested = False
        self.abandoned = False

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number, frame):
        self.requested = True
        # The signal may have come while the main thread was inside a print, which cannot be entered twice.
        with contextlib.suppress(OSError):
            os.write(2, f"{signal.Signals(number).name}: saving and stopping\n".encode())
        for caught in self._previous:
            signal.signal(caught, signal.SIG_DFL)

    def run(self, work, *args):
        """work(*args), or StopRequested as soon as a stop is requested.

        One of several processes must not leave work that the others share; there a stop waits for `agreed`.
        """
        if jax.process_count() > 1:
            return work(*args)
        if self.requested:
            raise StopRequested
        outcome = {}

        def target():
            try:
                outcome["value"] = work(*args)
            except BaseException as error:  # handed to the caller's thread, whatever it is
                outcome["error"] = error

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
            if self.requested and thread.is_alive():
                self.abandoned = True
                raise StopRequested
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]

    def each(self, iterator):
        """Yields what the iterator yields, each item made by `run`."""
        end = object()
        while (item := self.run(next, iterator, end)) is not end:
            yield item
            self._leave_together()

    def between(self, iterator):
        """Yields what the iterator yields. On several processes it raises StopRequested as soon as any was asked to stop.

        All of them must be at the same iterator. So is long work of several processes interrupted, as that of one is in `run`.
        """
        for item in iterator:
            yield item
            self._leave_together()

    def agreed(self, step, pause):
        """Whether all processes should stop after this step: at once with one process, else when any was asked to.

        Args:
          step: number of the step.
          pause: whether more than a plain step is due now; every process must say the same.
        """
        if jax.process_count() == 1:
            return self.requested
        return self._any_requested() if pause or step % _AGREE_EVERY == 0 else False

    def _leave_together(self):
        if jax.process_count() > 1 and self._any_requested():
            raise StopRequested

    def _any_requested(self):
        return bool(multihost_utils.process_allgather(np.array(self.requested)).any())
