"""Interleaved timing: every contender in every round, so that a slow minute is slow for all."""

from __future__ import annotations

import gc
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compare_peers import Run


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    rounds : int
        Samples of each contender; the median is reported.
    least_rounds : int
        Samples of a contender that would use up its budget earlier.
    batch : float
        Seconds that a sample lasts at least; short calls are repeated and averaged.
    budget : float
        Seconds for all samples of one contender.
    settle : float
        Seconds to wait at most for the threads of the contender before to fall asleep.
    """

    rounds: int
    least_rounds: int
    batch: float
    budget: float
    settle: float


FULL = Effort(rounds=15, least_rounds=3, batch=2e-3, budget=1.0, settle=0.1)
QUICK = Effort(rounds=5, least_rounds=2, batch=1e-3, budget=0.25, settle=0.1)
CHECK = Effort(rounds=1, least_rounds=1, batch=0.0, budget=0.0, settle=0.0)


def time_batch(run: Run, repeats: int) -> float:
    """Seconds for one of `repeats` calls in a row; each result is dropped before the next call."""
    calls = range(repeats)
    start = time.perf_counter()
    for _ in calls:
        run()
    return (time.perf_counter() - start) / repeats


def settle(longest: float) -> None:
    """Wait until the process has been quiet for a while: some libraries spin, with pauses."""
    step, quiet = 2e-3, 0
    end = time.perf_counter() + longest
    while quiet < 5 and time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(step)
        quiet = quiet + 1 if time.process_time() - busy < 0.1 * step else 0


def interleave(runs: Mapping[str, Run], effort: Effort) -> dict[str, list[float]]:
    """Time all `runs` in shuffled rounds; every one of them must have been called once before.

    Returns
    -------
    dict of str to list of float
        Seconds of a call, one entry for each round that the contender took part in.
    """
    repeats, turns, short = {}, {}, {}
    for name, run in runs.items():
        once = time_batch(run, 1)
        short[name] = once < 5 * effort.batch
        if short[name]:
            once = min(once, *(time_batch(run, 1) for _ in range(3)))
        repeats[name] = max(1, round(effort.batch / once))
        affordable = int(effort.budget / (once * repeats[name]))
        turns[name] = max(effort.least_rounds, min(effort.rounds, affordable))
    order = list(runs)
    shuffle = random.Random(0).shuffle
    samples: dict[str, list[float]] = {name: [] for name in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for step in range(effort.rounds):
            shuffle(order)
            for name in order:
                if (step + 1) * turns[name] // effort.rounds == step * turns[name] // effort.rounds:
                    continue
                settle(effort.settle)
                if short[name]:
                    runs[
                        name
                    ]()  # awake and in the cache again, as in a program that calls it often
                samples[name].append(time_batch(runs[name], repeats[name]))
    finally:
        if collecting:
            gc.enable()
    return samples


def spread(samples: list[float]) -> float:
    """The middle eight tenths of the samples, relative to their median."""
    if len(samples) < 2:
        return 0.0
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return (tenths[-1] - tenths[0]) / statistics.median(samples)
