"""SIGTERM and SIGINT as a request to stop that is answered soon, whatever the process is doing."""

import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils
import numpy as np

_AGREE_EVERY = 10  # steps; a stop is late by at most so many on several hosts, and the exchange costs a tenth


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
        print(f"{signal.Signals(number).name}: saving and stopping", file=sys.stderr, flush=True)
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

    def agreed(self, step):
        """Whether all processes should stop after this step: at once with one process, else when any was asked to."""
        if jax.process_count() == 1:
            return self.requested
        if step % _AGREE_EVERY:
            return False
        return bool(multihost_utils.process_allgather(np.array(self.requested)).any())
