"""Timing calls: one by itself, or two by turns."""

import time

import numpy as np

WARM_UP = 3  # calls that are not counted: the first ones allocate
_TURN = 5  # timed calls before it is the other's turn


def timings(call, repeats, warm_up):
    """Seconds of each of `repeats` calls, after `warm_up` that are not counted."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds


def spread(seconds):
    """Median and quartiles in milliseconds."""
    quartiles = 1e3 * np.percentile(seconds, (25, 50, 75))
    return dict(zip(("quartile1", "median", "quartile3"), quartiles.tolist()))


def alternate(ours, theirs, repeats):
    """Times two calls by turns, so that whatever else the machine does hits both.

    Returns:
      {'ours': spread, 'theirs': spread, 'ratio': median theirs / median ours}.
    """
    seconds = {ours: [], theirs: []}
    for call in seconds:
        timings(call, 0, WARM_UP)
    while len(seconds[theirs]) < repeats:
        for call, taken in seconds.items():
            # The first call of a turn finds the caches cold and the other's threads still spinning.
            taken += timings(call, min(_TURN, repeats - len(taken)), 1)
    return dict(
        ours=spread(seconds[ours]),
        theirs=spread(seconds[theirs]),
        ratio=float(np.median(seconds[theirs]) / np.median(seconds[ours])),
    )
