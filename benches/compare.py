"""Compare logitkit with other libraries and with the machine's own limits.

    python benches/compare.py [--quick] [--only REGEX] [--check] [--threads N] ...

Every library that is installed takes part; the others are named. All contenders of a row run in
turn, in shuffled rounds of one process, on the same arrays and the same CPUs, and every result
is compared with ours. A `fresh` row returns a new array, an `out` row fills one of the caller;
libraries that cannot do the latter are left out there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # NumPy and what builds on it read the thread settings when first imported
    from collections.abc import Callable, Sequence

    from compare_cases import Case, Data
    from compare_limits import Limits
    from compare_peers import Peer
    from compare_report import Report, Row
    from compare_timing import Effort
    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",  # the size of JAX's pool
)


class UsageError(Exception):
    """The user asked for what cannot be done; the message says why."""


def regex(text: str) -> re.Pattern[str]:
    """Compile what the user typed, or say what is wrong with it."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no largest shape")
    parser.add_argument(
        "--only",
        metavar="REGEX",
        type=regex,
        help="rows whose label (such as softmax/out/16384x1000) it is found in",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="run everything once at tiny sizes; fail if a library's numbers are not ours",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", metavar="N", type=int, help="default: all CPUs")
    parser.add_argument("--json", metavar="PATH", type=Path, help="default: in benches/results/")
    parser.add_argument("--plot", metavar="PATH", type=Path, help="default: in benches/results/")
    return parser.parse_args(arguments)


def available_cpus() -> list[int]:
    """The CPUs this process may use, the first of each physical core before their siblings."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    cpus = sorted(os.sched_getaffinity(0))
    seen: set[str] = set()
    first: list[int] = []
    siblings: list[int] = []
    for cpu in cpus:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = path.read_text(encoding="ascii") if path.exists() else str(cpu)
        (siblings if core in seen else first).append(cpu)
        seen.add(core)
    return first + siblings


def fix_threads(wanted: int | None, float64: bool) -> tuple[int, str]:
    """Give every library the same number of threads; to be called before any is imported.

    Returns
    -------
    threads : int
        The number.
    how : str
        What was done, for the reader of the results.
    """
    cpus = available_cpus()
    threads = len(cpus) if wanted is None else wanted
    if not 1 <= threads <= len(cpus):
        raise UsageError(f"--threads {threads}: this process may use 1 to {len(cpus)} CPUs")
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_X64"] = str(int(float64))
    how = "environment variables and each library's own setting"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus[:threads])
        return threads, f"process bound to {threads} CPU(s), {how}"
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return threads, how


def cpu_name() -> str:
    """The processor as the operating system calls it."""
    import platform

    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def busy() -> str | None:
    """A warning if other programs were running during the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < 0.5:
        return None
    return f"load average {load:.1f} at the start; thread teams stall when a CPU is shared"


def available_memory() -> int | None:
    """Bytes that can be had without swapping, where the system tells."""
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def sample(peer: Peer, result: Any) -> list[NDArray[Any]]:
    """About 65536 evenly spaced numbers of each returned value, as float64."""
    import numpy as np

    parts = result if isinstance(result, (tuple, list)) else (result,)
    flat = (peer.to_numpy(part).reshape(-1) for part in parts)
    return [part[:: part.size // 65536 | 1].astype(np.float64) for part in flat]


def disagreement(ours: list[NDArray[Any]], theirs: list[NDArray[Any]], dtype: Any) -> str | None:
    """None if the numbers agree up to what rounding explains, else where they do not."""
    import numpy as np

    relative, absolute = (1e-4, 1e-5) if np.dtype(dtype) == np.float32 else (1e-9, 1e-11)
    if len(ours) != len(theirs):
        return f"{len(theirs)} results where ours has {len(ours)}"
    for mine, other in zip(ours, theirs, strict=True):
        if mine.shape != other.shape:
            return f"{other.size} numbers where ours has {mine.size}"
        wrong = ~(np.abs(mine - other) <= relative * np.abs(mine) + absolute * np.abs(mine).max())
        if wrong.any():
            first = int(wrong.argmax())
            return f"{wrong.sum()} of {wrong.size} differ, first {other[first]} for {mine[first]}"
    return None


def measure(
    case: Case,
    data: Data,
    ours: Peer,
    peers: Sequence[Peer],
    limits: Limits,
    effort: Effort,
    copies: list[float],
    complain: Callable[[str], None],
) -> Row:
    """Build the contenders of one row, compare their results with ours and time them all."""
    from statistics import median

    from compare_limits import fastest, limit_of
    from compare_report import Row
    from compare_timing import interleave

    run = ours.run(case, data)
    if run is None:
        raise UsageError(f"logitkit has no {case.operation.name}")
    expected = sample(ours, run())
    runs = {ours.name: run}
    for peer in peers:
        try:
            run = peer.run(case, data)
            if run is None:
                continue
            differs = disagreement(expected, sample(peer, run()), data.dtype)
        except Exception as error:  # a peer that cannot do one case must not end the run
            complain(f"{peer.name} failed at {case.label}: {type(error).__name__}: {error}")
            continue
        if differs:
            complain(f"{peer.name} disagrees at {case.label}: {differs}")
        runs[peer.name] = run
    loops = limits.runs(case, data)
    for loop in loops.values():
        loop()
    samples = interleave({**runs, **loops}, effort)
    medians = {name: median(times) for name, times in samples.items()}
    loop_medians = {name: medians.pop(name) for name in loops}
    copies.extend(samples[min((n for n in loops if n.startswith("copy")), key=loop_medians.get)])  # type: ignore[arg-type]
    kinds = fastest(loop_medians)
    limit, limit_name = limit_of(
        case.operation, case.policy, {kind: time for kind, (time, _) in kinds.items()}
    )
    return Row(
        case=case,
        ours=medians.pop(ours.name),
        peers=medians,
        loops=loop_medians,
        limits=kinds,
        limit=limit,
        limit_name=limit_name,
        least={name: min(times) for name, times in samples.items()},
    )


def compare(options: argparse.Namespace) -> Report:
    """Run the whole comparison, printing each shape's table as soon as it is done."""
    threads, how = fix_threads(options.threads, options.dtype == "float64")

    import platform
    from datetime import datetime, timezone
    from math import prod

    import numpy as np
    from compare_cases import CHECK_SHAPES, QUICK_SHAPES, SHAPES, Data, all_cases
    from compare_limits import Limits
    from compare_peers import Logitkit, installed_peers
    from compare_report import Report, heading, shape_name, shape_table
    from compare_timing import CHECK, FULL, QUICK, spread

    try:
        ours = Logitkit(threads)
        from logitkit import _logitkit_core as core
    except ImportError as error:
        raise UsageError(f"logitkit cannot be imported: {error}") from error
    mode, shapes, effort = ("full", SHAPES, FULL)
    if options.check:
        mode, shapes, effort = ("check", CHECK_SHAPES, CHECK)
    elif options.quick:
        mode, shapes, effort = ("quick", QUICK_SHAPES, QUICK)
    wanted = all_cases(shapes)
    if options.only:
        wanted = [case for case in wanted if options.only.search(case.label)]
    if not wanted:
        examples = ", ".join(case.label for case in all_cases(shapes)[:3])
        raise UsageError(f"--only {options.only.pattern}: found in no row such as {examples}")

    dtype = np.dtype(options.dtype)
    peers, missing = installed_peers(threads)
    torch = next((peer.torch for peer in peers if peer.name == "torch"), None)  # type: ignore[attr-defined]
    limits = Limits(core, torch)
    report = Report(
        about={
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "cpu": cpu_name(),
            "system": platform.platform(),
            "busy_at_start": busy(),
            "threads": threads,
            "thread_control": how,
            "dtype": dtype.name,
            "simd_level": ours.lk.simd_level(),
            "effort": mode,
            "versions": {
                "Python": platform.python_version(),
                **{peer.name: peer.version for peer in (ours, *peers)},
            },
            "missing_peers": missing,
            "missing_loops": limits.missing,
        },
        peers=[peer.name for peer in peers],
    )
    print(heading(report), flush=True)

    def complain(text: str) -> None:
        report.notes.append(text)
        print(f"NOTE: {text}", flush=True)

    for shape in dict.fromkeys(case.shape for case in wanted):
        print(flush=True)
        memory, needed = available_memory(), 10 * prod(shape) * dtype.itemsize
        if memory is not None and needed > memory:
            complain(
                f"{shape_name(shape)} left out: with the temporaries of the peers it may need "
                f"{needed / 2**30:.1f} GiB, and {memory / 2**30:.1f} GiB are free"
            )
            continue
        data = Data(shape, dtype)
        copies: list[float] = []
        for case in (case for case in wanted if case.shape == shape):
            report.rows.append(measure(case, data, ours, peers, limits, effort, copies, complain))
        del data
        if not options.check:
            report.copy_spread[shape] = spread(copies)
        rows = [row for row in report.rows if row.case.shape == shape]
        print(shape_table(shape, rows, report), flush=True)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        report = compare(options)
    except UsageError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2

    from compare_report import draw, write_json

    part = "-part" if options.quick or options.only else ""
    stem = f"compare-{options.dtype}-{report.about['threads']}threads{part}"
    to_json = options.json or (None if options.check else RESULTS / f"{stem}.json")
    to_plot = options.plot or (None if options.check else RESULTS / f"{stem}.png")
    print()
    if to_json:
        write_json(report, to_json)
        print(f"wrote {to_json}")
    if to_plot and report.rows:
        try:
            draw(report, to_plot)
            print(f"wrote {to_plot}")
        except ImportError as error:
            print(f"no picture: {error}")
    if options.check:
        print(f"check: {len(report.rows)} rows, {len(report.notes)} problem(s)")
        return 1 if report.notes else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
