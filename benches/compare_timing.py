"""Interleaved timing: every contender in every round, so that a slow minute is slow for all."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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
        Seconds for all samples of one of the other libraries; logitkit and the loops that may
        be the fastest of their kind take part in every round.
    settle : float
        Seconds to wait at most for the threads of the contender before to fall asleep.
    """

    rounds: int
    least_rounds: int
    batch: float
    budget: float
    settle: float


FULL = Effort(rounds=15, least_rounds=3, batch=2e-3, budget=0.5, settle=0.1)
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
    step, quiet = 1e-3, 0
    end = time.perf_counter() + longest
    while quiet < 4 and time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(step)
        quiet = quiet + 1 if time.process_time() - busy < 0.1 * step else 0


def calibrate(run: Run, effort: Effort) -> float:
    """Seconds of a call, roughly; the first call of a contender is not to be this one."""
    settle(effort.settle)
    once = time_batch(run, 1)
    more = 3 if once < 5 * effort.batch else 1 if once < 50 * effort.batch else 0
    return min([once, *(time_batch(run, 1) for _ in range(more))])


def affordable(once: float, effort: Effort) -> int:
    """How many rounds a contender of this calibration takes part in."""
    rounds = int(effort.budget / max(once, effort.batch)) if effort.budget else effort.rounds
    return max(effort.least_rounds, min(effort.rounds, rounds))


def interleave(
    runs: Mapping[str, Run],
    once: Mapping[str, float],
    turns: Mapping[str, int],
    effort: Effort,
) -> dict[str, list[float]]:
    """Time all `runs` in shuffled rounds.

    Parameters
    ----------
    runs : mapping of str to callable
        The contenders.
    once : mapping of str to float
        The calibration of each.
    turns : mapping of str to int
        In how many of the rounds each takes part.
    effort : Effort
        How long to measure.

    Returns
    -------
    dict of str to list of float
        Seconds of a call, one entry for each round that the contender took part in.
    """
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
                run = runs[name]
                settle(effort.settle)
                if once[name] < 5 * effort.batch:
                    run()  # awake and in the cache again, as in a program that calls it often
                samples[name].append(time_batch(run, max(1, round(effort.batch / once[name]))))
    finally:
        if collecting:
            gc.enable()
    return samples


@contextlib.contextmanager
def busy_cpu() -> Iterator[None]:
    """Another process that computes on one of this process's CPUs meanwhile, without a pause."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        time.sleep(0.2)  # it has started by then
        yield
    finally:
        process.kill()
        process.wait()


def spread(samples: list[float]) -> float:
    """The middle eight tenths of the samples, relative to their median."""
    if len(samples) < 2:
        return 0.0
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return (tenths[-1] - tenths[0]) / statistics.median(samples)


def pooled_spread(rows: Iterable[Mapping[str, list[float]]]) -> float:
    """How much the loop varied that most rows have; of several, the fastest."""
    pooled: dict[str, list[float]] = {}
    for row in rows:
        for name, samples in row.items():
            pooled.setdefault(name, []).extend(samples)
    return spread(max(pooled.values(), key=lambda s: (len(s), -statistics.median(s))))
