"""Times and memory of functions."""

import ctypes
import pathlib
import re
import time

import numpy as np


def _once(function):
    # TensorFlow on a CPU and PyTorch return when they are done; JAX is made to.
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def by_turns(cells, seconds, rounds=15, least=5):
    """Times functions without arguments against each other.

    Every round calls each of them, in an order shuffled anew, so that whatever else the
    machine does falls on all alike. Each takes about so many `seconds`, where the `least`
    number of calls does not take longer.

    Args:
      cells: pairs of a record, a `dict`, and a function.

    Returns:
      The records, with `first`, what the first call took; `median` and `cpu`, the medians
      of rounds of the seconds of a call and of its CPU seconds; and the number of `calls`.
    """
    first, calls, times = [], [], [[] for _ in cells]
    for _, function in cells:
        first.append(_once(function)[0])
        estimate = _once(function)[0]
        if estimate < 0.1 * seconds:        # Perhaps still warming up.
            estimate = min(estimate, _once(function)[0])
        calls.append(int(np.clip(seconds / estimate, least, 1000 * rounds)))
    rng = np.random.default_rng(0)
    for i in range(rounds):
        for j in rng.permutation(len(cells)):
            # Slow functions are called in some of the rounds, evenly spread.
            share = (i + 1) * calls[j] // rounds - i * calls[j] // rounds
            if share > 1:
                cells[j][1]()               # Its data and threads come back to the caches.
            if share:
                times[j].append(np.median([_once(cells[j][1]) for _ in range(share)], axis=0))
    medians = [np.median(each, axis=0) for each in times]
    return [dict(record, first=start, median=wall, cpu=cpu, calls=count)
            for (record, _), start, (wall, cpu), count in zip(cells, first, medians, calls)]


def memory(field='VmHWM'):
    """Bytes, from Linux's account of this process: the most, or `'VmRSS'`, those of now."""
    status = pathlib.Path('/proc/self/status').read_text(encoding='ascii')
    return 1024 * int(re.search(rf'{field}:\s+(\d+)', status)[1])


def growth(function):
    """Bytes by which a call raises this process's peak over what it held before."""
    # What earlier calls have freed must not serve this one unseen.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
    before = memory()
    function()
    return memory() - before
