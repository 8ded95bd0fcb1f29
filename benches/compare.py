"""Compare logitkit with other libraries, with the machine's own limits, and with its targets.

    python benches/compare.py [--quick] [--section REGEX] [--only REGEX] [--check] [--threads N] ...

Every library that is installed takes part; the others are named. All contenders of a row run in
turn, in shuffled rounds of one process, on the same arrays and the same CPUs, and every result
is compared with ours. A `fresh` row returns a new array, an `out` row fills one of the caller;
libraries that cannot do the latter are left out there.

Without options everything is measured on all CPUs, and what is in cache a second time on one,
by a process of its own: libraries read their number of threads when they are imported. The
targets are in compare_targets.py; `--section` picks parts of them by their names there, such as
the options, float16 and bfloat16, and the functions beyond the normalisations:

    python benches/compare.py --section 'options|16 bit|functions'
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # NumPy and what builds on it read the thread settings when first imported
    from collections.abc import Callable, Sequence

    from compare_cases import Case, Data
    from compare_functions import Logitkit
    from compare_limits import Limits
    from compare_peers import Peer, Run
    from compare_report import Report, Row
    from compare_targets import Outcome
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
DTYPES = ("float32", "float64", "float16", "bfloat16")
TOLERANCES = {
    "float32": (1e-4, 1e-5),
    "float64": (1e-9, 1e-11),
    # Others round a log-probability to 16 bits before they take its exponential, and the
    # gradients of many rows are subnormal in float16.
    "float16": (2e-2, 1e-2),
    "bfloat16": (1e-1, 1e-2),
}
"""How far a number may be from ours: relative, and as a share of the largest one."""
HOPELESS = 20
"""A library that takes this many times as long as ours is timed in the fewest rounds."""
MOST_ATTEMPTS = 3
"""How often a layout is measured at most, while its copy is unsteady."""


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
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no large layouts")
    parser.add_argument(
        "--section",
        metavar="REGEX",
        type=regex,
        help="sections of the table of targets whose name (such as limits) it is found in",
    )
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
    parser.add_argument("--dtype", choices=DTYPES, help="default: all")
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="one run with N threads; default: one with all CPUs, and its parts for one thread",
    )
    parser.add_argument(
        "--patience",
        metavar="MINUTES",
        type=float,
        default=5.0,
        help="time for measuring again where the machine was unsteady (default: 5)",
    )
    parser.add_argument("--json", metavar="PATH", type=Path, help="default: in benches/results/")
    parser.add_argument("--pictures", metavar="FOLDER", type=Path, help="default: benches/results/")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
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


def fix_threads(wanted: int | None) -> tuple[int, str]:
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
    os.environ["JAX_ENABLE_X64"] = "1"
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

    relative, absolute = TOLERANCES[np.dtype(dtype).name]
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


def contenders(
    case: Case,
    data: Data,
    ours: Logitkit,
    peers: Sequence[Peer],
    complain: Callable[[str], None],
) -> dict[str, Run]:
    """Build the libraries' calls for one row and compare their results with ours."""
    run = ours.run(case, data)
    if run is None:
        raise UsageError(f"logitkit has no {case.operation.name}")
    if "one thread" in case.rivals:
        run = ours.on_threads(ours.threads, run)
    expected = sample(ours, run())
    runs = {ours.name: run}
    for peer in peers:
        if case.peers is not None and peer.name not in case.peers:
            continue
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
        runs[peer.title(case)] = run
    return runs


def measure(
    case: Case,
    data: Data,
    ours: Logitkit,
    peers: Sequence[Peer],
    limits: Limits,
    effort: Effort,
    complain: Callable[[str], None],
) -> Row:
    """Time all contenders of one row."""
    from contextlib import nullcontext
    from statistics import median

    from compare_limits import fastest, kind_of, limit_of, slow_loops
    from compare_report import Row
    from compare_timing import affordable, busy_cpu, calibrate, interleave

    libraries = contenders(case, data, ours, peers, complain)
    rivals, loops = ours.rivals(case, data), limits.runs(case, data)
    for run in (*rivals.values(), *loops.values()):
        run()
    runs = {**libraries, **rivals, **loops}
    with busy_cpu() if case.busy else nullcontext():
        once = {name: calibrate(run, effort) for name, run in runs.items()}
        for name in slow_loops({name: once[name] for name in loops}, case):
            del runs[name], loops[name]
        turns = dict.fromkeys(runs, effort.rounds)
        for name in libraries.keys() - {ours.name}:
            hopeless = once[name] > HOPELESS * once[ours.name]
            turns[name] = effort.least_rounds if hopeless else affordable(once[name], effort)
        samples = interleave(runs, once, turns, effort)
    medians = {name: median(times) for name, times in samples.items()}
    kinds = fastest({name: medians[name] for name in loops})
    limit, limit_name = limit_of(case, {kind: time for kind, (time, _) in kinds.items()})
    return Row(
        case=case,
        ours=medians[ours.name],
        rivals={name: medians[name] for name in rivals},
        peers={name: medians[name] for name in libraries if name != ours.name},
        loops={name: medians[name] for name in loops},
        limits=kinds,
        limit=limit,
        limit_name=limit_name,
        least={name: min(times) for name, times in samples.items()},
        copies={name: samples[name] for name in loops if kind_of(name) == "copy"},
    )


class Patience:
    """The seconds that are left for measuring again."""

    def __init__(self, minutes: float) -> None:
        self.left = 60 * minutes

    def measure_group(self, once: Callable[[], list[Row]]) -> list[Row]:
        """The rows of one layout, measured again while its copy is unsteady; the steadiest."""
        from compare_report import UNSTEADY
        from compare_timing import pooled_spread

        best: list[Row] = []
        for attempt in range(1, MOST_ATTEMPTS + 1):
            start = time.perf_counter()
            rows = once()
            took = time.perf_counter() - start
            self.left -= took if attempt > 1 else 0
            varied = pooled_spread([row.copies for row in rows])
            for row in rows:
                row.copy_spread = varied
            if not best or varied < best[0].copy_spread:
                best = rows
            for row in best:
                row.attempts = attempt
            if best[0].copy_spread <= UNSTEADY or rows[0].case.busy or took > self.left:
                break
        return best


def chosen(options: argparse.Namespace, section: str, label: str, dtype: str = "") -> bool:
    """Whether the options ask for it."""
    return (
        (options.section is None or bool(options.section.search(section)))
        and (options.only is None or bool(options.only.search(label)))
        and (options.dtype is None or dtype in ("", options.dtype))
    )


def wanted_cases(options: argparse.Namespace, threads: int) -> list[Case]:
    """The rows of a run with so many threads."""
    from compare_targets import check_table, is_quick, table

    cases = check_table(threads) if options.check else table(threads)
    if options.quick:
        cases = [case for case in cases if is_quick(case)]
    return [case for case in cases if chosen(options, case.section, case.label, case.layout.dtype)]


def wanted_probes(
    options: argparse.Namespace, threads: int, effort: Effort
) -> list[Callable[[], Outcome]]:
    """What a run with so many threads measures in other processes."""
    from compare_process import probes

    return [
        probe
        for section, label, probe in probes(threads, effort.rounds, options.check)
        if chosen(options, section, label) and not options.part
    ]


def nothing_found(options: argparse.Namespace) -> UsageError:
    """What to say if no row is left."""
    from compare_targets import SECTIONS, check_table

    if options.only is None:
        return UsageError(f"--section: found in none of {', '.join(SECTIONS)}")
    examples = ", ".join(case.label for case in check_table(1)[:3])
    return UsageError(f"--only {options.only.pattern}: found in no row such as {examples}")


def start_report(
    options: argparse.Namespace, threads: int, how: str, effort: str, busy_at_start: str | None
) -> tuple[Report, Logitkit, list[Peer], Limits]:
    """Import the libraries and say which ones there are."""
    import platform
    from datetime import datetime, timezone

    from compare_cases import HAS_BFLOAT16
    from compare_functions import Logitkit, installed_peers
    from compare_limits import Limits
    from compare_report import Report, heading

    try:
        ours = Logitkit(threads)
    except ImportError as error:
        raise UsageError(f"logitkit cannot be imported: {error}") from error
    peers, missing = installed_peers(threads)
    torch = next((peer.torch for peer in peers if peer.name == "torch"), None)  # type: ignore[attr-defined]
    limits = Limits(ours.core, torch)
    report = Report(
        about={
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "cpu": cpu_name(),
            "system": platform.platform(),
            "busy_at_start": busy_at_start,
            "threads": threads,
            "thread_control": how,
            "dtype": options.dtype or ", ".join(DTYPES),
            "simd_level": ours.lk.simd_level(),
            "effort": effort,
            "versions": {
                "Python": platform.python_version(),
                **{peer.name: peer.version for peer in (ours, *peers)},
            },
            "missing_peers": missing,
            "has_bfloat16": HAS_BFLOAT16,
            "missing_loops": limits.missing,
        },
        peers=[peer.name for peer in peers],
    )
    print(heading(report), flush=True)
    return report, ours, peers, limits


def compare(options: argparse.Namespace, busy_at_start: str | None) -> Report:
    """Run the comparison of one number of threads, printing each layout's table when done."""
    threads, how = fix_threads(options.threads)

    from dataclasses import replace

    from compare_cases import Data
    from compare_report import group_table
    from compare_targets import cliffs, outcomes
    from compare_timing import CHECK, FULL, QUICK

    mode, effort = ("full", FULL)
    if options.check or options.quick:
        mode, effort = ("check", CHECK) if options.check else ("quick", QUICK)
    cases = wanted_cases(options, threads)
    probes = wanted_probes(options, threads, effort)
    if not cases and not probes:
        raise nothing_found(options)
    report, ours, peers, limits = start_report(options, threads, how, mode, busy_at_start)

    def complain(text: str) -> None:
        if text not in report.notes:
            report.notes.append(text)
            print(f"NOTE: {text}", flush=True)

    if threads == 1:  # no library has a team that could still be spinning
        effort = replace(effort, settle=0.0)
    groups: dict[Any, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    patience = Patience(options.patience if mode == "full" else 0)
    for group in groups.values():
        print(flush=True)
        layout = group[0].layout
        if short := memory_missing(group):
            complain(f"{layout.title} left out: {short}")
            continue
        data = Data(layout)
        rows = patience.measure_group(
            lambda group=group, data=data: [  # type: ignore[misc]
                measure(case, data, ours, peers, limits, effort, complain) for case in group
            ]
        )
        del data
        report.rows += rows
        print(group_table(rows, report), flush=True)
    report.outcomes += [outcome for row in report.rows for outcome in outcomes(row, threads)]
    report.outcomes += cliffs(report.rows, threads)
    report.outcomes += [probe() for probe in probes]
    return report


def memory_missing(group: Sequence[Case]) -> str | None:
    """Why the machine cannot hold the arrays of this layout and the temporaries on them."""
    memory = available_memory()
    arrays = 10 if any(case.peers is None or case.peers for case in group) else 6
    needed = arrays * group[0].layout.nbytes
    if memory is None or needed <= memory:
        return None
    return f"it may need {needed / 2**30:.1f} GiB, and {memory / 2**30:.1f} GiB are free"


def one_thread_part(options: argparse.Namespace) -> dict[str, Any] | None:
    """The results of the sections that a whole run measures on one thread too."""
    from compare_targets import ONE_THREAD_SECTIONS

    if options.threads is not None or len(available_cpus()) == 1:
        return None
    cases = wanted_cases(options, 1)
    if not any(case.section in ONE_THREAD_SECTIONS for case in cases):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.json"
        command = [sys.executable, __file__, "--part", "--threads", "1", "--json", str(path)]
        command += ["--section", f"^({'|'.join(ONE_THREAD_SECTIONS)})$"]
        command += ["--patience", str(options.patience / 5)]
        command += ["--only", options.only.pattern] if options.only else []
        command += ["--dtype", options.dtype] if options.dtype else []
        command += [f"--{name}" for name in ("quick", "check") if getattr(options, name)]
        subprocess.run(command, check=False)
        if not path.exists():
            raise UsageError("the run on one thread ended before its results")
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    print(flush=True)
    return content


def leave(content: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the summary of the targets, write the results and draw the pictures."""
    from compare_report import summary, targets_of, write_json

    if not options.part:
        print("\n" + summary(targets_of(content)) + "\n")
    narrowed = options.quick or options.only or options.section or options.dtype or options.threads
    stem = "compare-part" if narrowed else "compare"
    if to_json := options.json or (None if options.check else RESULTS / f"{stem}.json"):
        write_json(content, to_json)
        print("" if options.part else f"wrote {to_json}")
    to_pictures = options.pictures or (None if options.check or options.part else RESULTS)
    if to_pictures is None:
        return
    suffix = stem.removeprefix("compare")
    try:
        from compare_pictures import draw_bars, draw_growth

        for draw, name in ((draw_growth, "size"), (draw_bars, "peers")):
            path = to_pictures / f"{name}{suffix}.png"
            if draw(content, path):
                print(f"wrote {path}")
    except ImportError as error:
        print(f"no picture: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    start, busy_at_start = time.perf_counter(), busy()
    try:
        part = one_thread_part(options)
        report = compare(options, busy_at_start)
    except UsageError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2

    from compare_report import joined, report_content

    content = joined([report_content(report), *([part] if part else [])])
    content["minutes"] = round((time.perf_counter() - start) / 60, 1)
    leave(content, options)
    if options.check:
        rows, notes = len(content["rows"]), len(content["notes"])
        print("" if options.part else f"check: {rows} rows, {notes} problem(s)")
        return 1 if notes else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
