"""How far long work has come, on stderr: a bar on a terminal; elsewhere, as in a log file, a plain line now and then."""

import sys
import time

import jax
import tqdm

_EVERY = 10.0  # seconds between two plain lines, at least


class Progress:
    """A count with a known end. Use it as a context manager, or close it. Only the first process shows anything."""

    def __init__(self, total, unit, what="", done=0, shown=True, clock=time.monotonic):
        """Begins.

        Args:
          total: how many units there are.
          unit: what is counted, in the singular.
          what: what is done with them.
          done: how many were done before.
          shown: whether it is worth showing.
          clock: () -> seconds.
        """
        self._total, self._unit, self._what = total, unit, what
        self._first = self._done = done
        self._clock = clock
        self._begin = self._last = clock()
        self._shown = shown and jax.process_index() == 0
        self._bar = None
        if self._shown and sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True)

    def update(self, count=1):
        """So many more are done."""
        self.count(count)
        self.show()

    def count(self, count=1):
        """So many more are done, which waits for the next `show` where there is no bar."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)

    def show(self, numbers=""):
        """Shows how far the work is, with numbers such as 'loss 0.1, 12 images/s'; as a plain line if one is due."""
        if self._bar is not None:
            self._bar.set_postfix_str(numbers, refresh=False)
        elif self._shown and (self._clock() - self._last >= _EVERY or self._done == self._total):
            self._last = self._clock()
            print(self._line(numbers), file=sys.stderr, flush=True)

    def over(self, batches):
        """Yields what an iterator of batches yields, and counts their rows as done."""
        for batch in batches:
            self.update(len(batch))
            yield batch

    def close(self):
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _line(self, numbers):
        seconds, new = self._last - self._begin, self._done - self._first
        parts = [f"{self._done} of {self._total} {self._unit}s", numbers]
        if self._done == self._total:
            parts.append(f"in {_duration(seconds)}")
        elif new:
            parts.append(f"{_duration(seconds / new * (self._total - self._done))} left")
        return (f"{self._what}: " if self._what else "") + ", ".join(filter(None, parts))


def each(items, total, unit, what, shown=True):
    """Yields the items behind a Progress; arguments as its own."""
    with Progress(total, unit, what, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()


def tell(line):
    """A line of the first process on stderr, which leaves a bar whole."""
    if jax.process_index() == 0:
        tqdm.tqdm.write(line, file=sys.stderr)


def _duration(seconds):
    """'1:02:03', or '2:03' within the first hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
