"""The table of targets: which cases are measured, and what each of them is to reach.

A target is a ratio of two times of one run: same threads, same arrays, same output policy. *The
limit* is measured in that run: for operations that only read, the slower of a read and a bare
exp-and-sum; for those that write as much as they read, the slower of a copy (the faster of
ordinary and streaming stores) and a bare exp-and-sum. Each bare loop is the fastest of logitkit's
own and what NumPy and torch reach.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from compare_cases import (
    FUNCTIONS,
    HAS_BFLOAT16,
    OPERATIONS,
    OPTIONS,
    Case,
    Layout,
    all_operations,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from compare_report import Row


@dataclass(frozen=True)
class Target:
    """A bound on one ratio.

    Attributes
    ----------
    bound : float
        The bound.
    at_most : bool
        Whether the ratio is to be at most the bound, or at least.
    unit : str
        What the ratio is one of, such as "the limit".
    measure : callable
        The ratio of a measured row, or None where there is nothing to compare with.
    loop : str, optional
        The bare loop that `measure` looks at, if it names one.
    """

    bound: float
    at_most: bool
    unit: str
    measure: Callable[[Row], float | None]
    loop: str | None = None

    @property
    def text(self) -> str:
        """Such as "<= 1.25 x the limit"."""
        return f"{'<=' if self.at_most else '>='} {self.bound:g} x {self.unit}"

    def met_by(self, value: float) -> bool:
        """Whether this ratio keeps to the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True)
class Goal:
    """Targets of which one group is to be met, all of it.

    Attributes
    ----------
    groups : tuple of tuple of Target
        The alternatives.
    """

    groups: tuple[tuple[Target, ...], ...]

    def targets(self) -> Iterator[Target]:
        """Every target of every group."""
        for group in self.groups:
            yield from group

    @property
    def text(self) -> str:
        """Such as ">= 3 x the best peer and >= 15 x torch, or <= 1.5 x the limit"."""
        return ", or ".join(" and ".join(target.text for target in group) for group in self.groups)


@dataclass(frozen=True)
class Outcome:
    """What became of one goal.

    Attributes
    ----------
    section, label : str
        Where it stands in the table.
    threads : int
        With how many threads.
    target : str
        What was wanted.
    measured : tuple of tuple of float
        The ratios, grouped as the targets are; None where there is nothing to compare with.
    met : bool, optional
        Whether it was reached; None if nothing could be measured.
    unit : str
        Of the measured values.
    """

    section: str
    label: str
    threads: int
    target: str
    measured: tuple[tuple[float | None, ...], ...]
    met: bool | None
    unit: str = ""


def single(target: Target) -> Goal:
    return Goal(((target,),))


def limit(bound: float) -> Target:
    """At most so many times the limit."""
    return Target(bound, True, "the limit", lambda row: row.ours / row.limit)


def loop(bound: float, name: str, unit: str) -> Target:
    """At most so many times the loop of this name."""
    return Target(bound, True, unit, lambda row: row.ours / row.loops[name], name)


def peer(bound: float, name: str) -> Target:
    """At least so many times as fast as the library of this name."""
    return Target(
        bound, False, name, lambda row: row.peers[name] / row.ours if name in row.peers else None
    )


def best_peer(bound: float) -> Target:
    """At least so many times as fast as every other library."""
    return Target(
        bound,
        False,
        "the best peer",
        lambda row: min(row.peers.values()) / row.ours if row.peers else None,
    )


def share_of(bound: float, name: str) -> Target:
    """At most so many times the library of this name."""
    return Target(
        bound, True, name, lambda row: row.ours / row.peers[name] if name in row.peers else None
    )


def rival(bound: float, name: str, unit: str) -> Target:
    """At most so many times logitkit's own other call of this name."""
    return Target(
        bound, True, unit, lambda row: row.ours / row.rivals[name] if name in row.rivals else None
    )


def speedup(bound: float) -> Target:
    """At least so many times as fast as one thread."""
    return Target(
        bound, False, "one thread's speed", lambda row: row.rivals["one thread"] / row.ours
    )


def option(bound: float) -> Target:
    """At most so many times the plain call, when what its own bytes cost to read is taken off."""
    return Target(
        bound,
        True,
        "the plain call, beyond the option's own bytes",
        lambda row: (row.ours - row.case.brings * row.limits["read"][0]) / row.rivals["plain"],
    )


EXP_AND_SUM = "exp-and-sum (core)"
NUMPY_COPY = "fresh copy (NumPy)"
NP_EXP = "np.exp (NumPy)"

READING = ("logsumexp", "cross_entropy")
WRITING = ("softmax", "log_softmax", "cross_entropy_value_and_grad")
TRAFFIC = ("softmax_backward", "log_softmax_backward", "mse_loss_value_and_grad")
MAIN = ("softmax", "logsumexp", "cross_entropy_value_and_grad")
NO_TARGET = ("mse_loss", "classification_error")
COMPILED_PEERS = ("JAX", "ONNX Runtime", "scikit-learn", "torch")
FRESH_PEERS = ("torch", "JAX", "ONNX Runtime", "NumPy", "SciPy")

LARGEST_IN_QUICK = 30_000_000
"""Elements of the largest layout of a quick run."""
MOST_ROWS_IN_QUICK = 100_000
"""Rows of the largest layout of a quick run."""
GROWTH_PEERS = 30_000_000
"""Elements of the largest layout at which other libraries are drawn in the curves."""


def limits() -> Iterator[Case]:
    """From memory: against the machine."""
    section = "limits"
    read, copy = (single(limit(1.15)),), (single(limit(1.25)),)
    for dtype in ("float32", "float64"):
        for shape in ((16384, 1000), (512, 50257), (1024, 128256)):
            layout = Layout(shape, dtype)
            peers = None if dtype == "float32" and layout.size <= LARGEST_IN_QUICK else ()
            for name in READING:
                yield Case(OPERATIONS[name], "fresh", layout, section, read, peers)
            for name in WRITING + TRAFFIC:
                yield Case(OPERATIONS[name], "out", layout, section, copy, peers)
            if shape == (16384, 1000):
                for name in NO_TARGET:
                    yield Case(OPERATIONS[name], "fresh", layout, section, (), peers)


def in_cache(threads: int) -> Iterator[Case]:
    """In cache: against other libraries and, on one thread, the bare exponential."""
    section = "cache"
    bare = single(loop(1.7, EXP_AND_SUM, "the bare exp-and-sum"))
    for dtype in ("float32", "float64"):
        faster: tuple[Goal, ...]
        if dtype == "float32":
            faster = (single(peer(3, "torch")), single(best_peer(2)))
        else:
            faster = (single(best_peer(2.5)),)
        for shape in ((256, 1000), (4096, 100)):
            for name in READING + WRITING + TRAFFIC:
                operation = OPERATIONS[name]
                for policy in ("fresh", "out") if operation.result == "full" else ("fresh",):
                    same_memory = policy == "out" or operation.result != "full"
                    goals = (*faster, bare) if threads == 1 and same_memory else faster
                    yield Case(operation, policy, Layout(shape, dtype), section, goals)


def short_rows() -> Iterator[Case]:
    """Short rows: against the best of the others, or the machine."""
    section = "short rows"
    for dtype in ("float32", "float64"):
        for rows in (65536, 1048576):
            some = dtype == "float64" and rows == 1048576  # a minute each
            for classes in (2, 10, 32) if some else (2, 3, 5, 10, 16, 21, 32, 64):
                layout = Layout((rows, classes), dtype)
                shown = rows == 65536 and classes == 10 and dtype == "float32"
                faster = [best_peer(3 if dtype == "float32" else 2.5)]
                if dtype == "float32" and classes <= 10:
                    faster.append(peer(15, "torch"))
                goals = (Goal((tuple(faster), (limit(1.5),))),)
                for name in MAIN:
                    operation = OPERATIONS[name]
                    with_out = rows == 65536 and operation.result == "full" and dtype == "float32"
                    for policy in ("fresh", "out") if with_out else ("fresh",):
                        peers = None if shown else COMPILED_PEERS
                        yield Case(operation, policy, layout, section, goals, peers)


def other_axes() -> Iterator[Case]:
    """Classes that are not contiguous: against torch, and our own contiguous call."""
    goals = (
        single(peer(4, "torch")),
        single(rival(1.5, "contiguous", "our own call on contiguous rows")),
    )
    layouts = (
        Layout((8, 21, 256, 256), axis=1),
        Layout((1000, 16384), axis=0),
        Layout((100000, 10), "float64", axis=1, order="F"),
    )
    calls = (
        ("softmax", "fresh"),
        ("softmax", "out"),
        ("log_softmax", "out"),
        ("logsumexp", "fresh"),
        ("cross_entropy_value_and_grad", "fresh"),
        ("cross_entropy_value_and_grad", "out"),
    )
    for layout in layouts:
        for name, policy in calls:
            yield Case(OPERATIONS[name], policy, layout, "axes", goals, rivals=("contiguous",))


def fresh_results() -> Iterator[Case]:
    """New arrays: against NumPy's copy of the input."""
    section = "fresh"
    copied = single(loop(1.2, NUMPY_COPY, "x.copy()"))
    layouts = (Layout((16384, 1000)), Layout((512, 50257)), Layout((128000, 1000)))
    for layout in layouts:
        peers = None if layout.size <= LARGEST_IN_QUICK else ()
        for name in WRITING:
            goals: tuple[Goal, ...] = (copied,)
            if name == "cross_entropy_value_and_grad" and layout.shape == (16384, 1000):
                goals += (single(peer(10, "torch")), single(peer(4, "JAX")))
            yield Case(OPERATIONS[name], "fresh", layout, section, goals, peers)


def small_calls() -> Iterator[Case]:
    """The cost of a call."""
    goals = (single(loop(2, NP_EXP, "np.exp")), single(share_of(0.6, "torch")))
    for shape in ((1, 10), (64, 10)):
        for name in (*READING, "softmax"):
            yield Case(OPERATIONS[name], "fresh", Layout(shape), "calls", goals)
        gradient = OPERATIONS["cross_entropy_value_and_grad"]
        yield Case(gradient, "fresh", Layout(shape), "calls")


def growth() -> Iterator[Case]:
    """Rows of 1000, ever more of them: against the limit's own curve."""
    goals = (single(limit(1.3)),)
    for rows in (
        10,
        20,
        50,
        100,
        200,
        500,
        1000,
        2000,
        5000,
        10**4,
        2 * 10**4,
        5 * 10**4,
        10**5,
        250_000,
    ):
        layout = Layout((rows, 1000))
        peers = FRESH_PEERS if layout.size <= GROWTH_PEERS else ()
        for name in MAIN:
            operation = OPERATIONS[name]
            policy = "out" if operation.result == "full" else "fresh"
            yield Case(operation, policy, layout, "growth", goals, peers, fresh_peers=True)


def thread_counts(threads: int) -> Iterator[Case]:
    """All threads against one, on a quiet machine and beside a process that keeps a CPU busy."""
    if threads == 1:
        return
    section = "threads"
    not_slower = single(rival(1.1, "one thread", "one thread"))
    company = (single(rival(1.5, "one thread", "one thread beside a busy process")),)
    for shape in (
        *((rows, 10) for rows in (1000, 10_000, 65_536)),
        *((rows, 1000) for rows in (10, 20, 50, 100, 200, 500, 1000, 2000, 10_000)),
    ):
        for name in MAIN:
            operation = OPERATIONS[name]
            policy = "out" if operation.result == "full" else "fresh"
            case = Case(
                operation, policy, Layout(shape), section, (not_slower,), (), rivals=("one thread",)
            )
            in_cache = shape in ((1000, 1000), (2000, 1000))
            if in_cache and threads == 2:
                case = replace(case, goals=(not_slower, single(speedup(1.8))))
            yield case
            if in_cache or shape == (10_000, 1000):
                yield replace(case, goals=company, busy=True)


def options() -> Iterator[Case]:
    """Options: against our own plain call and, where it has them, torch."""
    in_torch = ("class_weight", "label_smoothing", "probabilities", "weight")
    cheap = single(option(1.25))
    for shape in ((16384, 1000), (65536, 10)):
        for one in OPTIONS:
            faster = (single(peer(3, "torch")),) if one.name in in_torch else ()
            for operation in (OPERATIONS[name] for name in one.operations):
                for policy in operation.policies if operation.result == "full" else ("fresh",):
                    fresh = policy == "fresh"
                    # Memory that is new costs the plain call as much: it would hide the option.
                    against_plain = (cheap,) if not fresh or operation.result != "full" else ()
                    goals = (*against_plain, *(faster if fresh else ()))
                    case = Case(operation, policy, Layout(shape), "options", goals)
                    yield replace(case, rivals=("plain",), option=one)


def half() -> Iterator[Case]:
    """float16 and bfloat16: against torch, and our own float32."""
    faster, shorter = single(peer(5, "torch")), single(rival(1, "float32", "our own float32"))
    for dtype in ("float16", "bfloat16") if HAS_BFLOAT16 else ("float16",):
        for shape in ((16384, 1000), (65536, 10)):
            for name in ("softmax", "log_softmax", "cross_entropy", "cross_entropy_value_and_grad"):
                operation = OPERATIONS[name]
                with_shorter = dtype == "bfloat16" and name.startswith("cross_entropy")
                for policy in operation.policies:
                    in_torch = policy == "fresh" or name in ("softmax", "log_softmax")
                    goals = (
                        *((faster,) if in_torch else ()),
                        *((shorter,) if with_shorter else ()),
                    )
                    layout = Layout(shape, dtype)
                    yield Case(operation, policy, layout, "16 bit", goals, rivals=("float32",))


def functions() -> Iterator[Case]:
    """What else there is, at the shapes of its users: against the others, or the machine."""
    section = "functions"
    read, copy, faster = single(limit(1.15)), single(limit(1.25)), single(best_peer(2))
    binary = FUNCTIONS["binary_cross_entropy_with_logits"]
    gradient = FUNCTIONS["binary_cross_entropy_with_logits_value_and_grad"]
    for shape in ((16384, 1000), (256, 1000)):
        from_memory = shape == (16384, 1000)
        layout = Layout(shape)
        yield Case(binary, "fresh", layout, section, (faster, read) if from_memory else (faster,))
        yield Case(gradient, "fresh", layout, section, (faster,))
        yield Case(gradient, "out", layout, section, (copy,) if from_memory else ())
    goals = (Goal(((best_peer(3),), (limit(1.5),))),)
    short = Layout((65536, 10))
    yield Case(FUNCTIONS["log_loss"], "fresh", short, section, goals)
    for layout in (short, replace(short, order="F")):  # as XGBoost and as LightGBM hold them
        for policy in ("fresh", "out"):
            yield Case(FUNCTIONS["cross_entropy_grad_hess"], policy, layout, section, goals)
    vocabulary = Layout((64, 128256))
    yield Case(FUNCTIONS["token_logprobs"], "fresh", vocabulary, section, (faster, read))
    yield Case(FUNCTIONS["top_k_logprobs"], "fresh", vocabulary, section, (faster,))


SECTIONS = {
    "limits": "from memory, against the machine's limit",
    "cache": "in cache",
    "short rows": "short rows",
    "axes": "class axes that are not contiguous",
    "fresh": "results in new memory",
    "calls": "small calls",
    "growth": "growth with the number of rows",
    "threads": "all threads against one",
    "options": "options, beside the plain call",
    "16 bit": "float16 and bfloat16, beside float32",
    "functions": "losses and functions beyond the normalisations",
    "memory": "memory beyond the operands",
    "import": "time of the import",
}
"""The name and the title of every section; the last two are measured in processes of their own."""

ONE_THREAD_SECTIONS = ("cache",)
"""What a whole run measures a second time, on one thread."""


def table(threads: int) -> list[Case]:
    """Every case of the table, for this number of threads."""
    return [
        *small_calls(),
        *in_cache(threads),
        *short_rows(),
        *limits(),
        *fresh_results(),
        *other_axes(),
        *thread_counts(threads),
        *growth(),
        *options(),
        *half(),
        *functions(),
    ]


def is_quick(case: Case) -> bool:
    """Whether a quick run measures it."""
    layout = case.layout
    return layout.size <= LARGEST_IN_QUICK and layout.shape[0] <= MOST_ROWS_IN_QUICK


def check_table(threads: int) -> list[Case]:
    """A few rows of every case, and every operation that is in none of them."""
    cases = {(case.section, case.label): case for case in map(Case.tiny, table(threads))}
    labels = {case.label for case in cases.values()}
    rest = [case for dtype in ("float32", "float64") for case in all_operations(dtype)]
    return [*cases.values(), *(case for case in rest if case.label not in labels)]


def outcomes(row: Row, threads: int) -> list[Outcome]:
    """What became of every goal of a measured row."""
    return [outcome(row, goal, threads) for goal in row.case.goals]


def outcome(row: Row, goal: Goal, threads: int) -> Outcome:
    """What became of one goal."""
    measured = tuple(tuple(target.measure(row) for target in group) for group in goal.groups)
    met = [all_met(group, values) for group, values in zip(goal.groups, measured, strict=True)]
    known = [verdict for verdict in met if verdict is not None]
    return Outcome(
        section=row.case.section,
        label=row.case.label,
        threads=threads,
        target=goal.text,
        measured=measured,
        met=any(known) if known else None,
    )


def all_met(group: Iterable[Target], values: Iterable[float | None]) -> bool | None:
    """Whether all that could be measured are met; None if none could."""
    verdicts = [
        target.met_by(value)
        for target, value in zip(group, values, strict=True)
        if value is not None
    ]
    return all(verdicts) if verdicts else None


CLIFF = 1.3
"""How much ours / limit may grow from one size to the next."""


def cliffs(rows: Iterable[Row], threads: int) -> list[Outcome]:
    """The largest step between neighbouring sizes of each curve of the section on growth."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if row.case.section == "growth":
            curves.setdefault(row.case.operation.name, []).append(row)
    found = []
    for name, curve in curves.items():
        ratios = [row.ours / row.limit for row in sorted(curve, key=lambda r: r.case.layout.size)]
        if len(ratios) < 2:
            continue
        step = max(after / before for before, after in pairwise(ratios))
        target = f"<= {CLIFF:g} x the step before, in ours / limit"
        found.append(Outcome("growth", f"{name}/steps", threads, target, ((step,),), step <= CLIFF))
    return found
