"""The machine's own limits: what moving the bytes, or the bare exponentials, cost at least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from compare_cases import Case, Data, flat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compare_peers import Run
    from numpy.typing import NDArray

BLOCK = 16384
"""Elements that NumPy's exp-and-sum keeps in the cache between its two steps."""

CORE_LOOPS = ("_limit_read", "_limit_copy", "_limit_stream", "_limit_expsum")

SLOW_LOOP = 1.5
"""A loop this many times slower than the fastest of its kind is left out of the rounds, if two
faster ones are there."""


def block_expsum(x: Any, scratch: Any) -> float:
    """The sum of exp(x), block by block with NumPy."""
    total = 0.0
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        e = scratch[: block.size]
        np.exp(block, out=e)
        total += float(e.sum())
    return total


def written(case: Case) -> str | None:
    """The kind of loop that writes what `case` writes, if that is a full array."""
    if case.operation.result != "full":
        return None
    return "fresh copy" if case.policy == "fresh" else "copy"


def wanted_loops(case: Case) -> set[str]:
    """The loops whose own time a goal of `case` is stated in, named ``kind (source)``."""
    return {target.loop for goal in case.goals for target in goal.targets() if target.loop}


def wanted_kinds(case: Case) -> set[str]:
    """The kinds of loop that `case` is compared with, and the copy that tells a steady run."""
    kinds = {"copy", written(case) or "read"} | {kind_of(name) for name in wanted_loops(case)}
    if case.operation.reads != case.operation.writes or case.option:
        kinds.add("read")
    if case.operation.exponential and not case.layout.is_half:
        kinds.add("exp-and-sum")
    return kinds


def numbers(array: NDArray[Any]) -> NDArray[Any]:
    """The elements in the order of the memory; those of 16 bits by twos, as if of 32."""
    elements = flat(array)
    if elements.itemsize > 2:
        return elements
    view: NDArray[Any] = elements[: elements.size // 2 * 2].view(np.float32)
    return view


def kind_of(name: str) -> str:
    """The kind of the loop ``kind (source)``; a streaming copy is a copy."""
    return name.split(" (")[0].removeprefix("streaming ")


class Limits:
    """Loops that do nothing but one of the things that an operation cannot avoid.

    Each kind of limit has a loop of logitkit's core, one of NumPy and, when it is installed, one
    of torch; the fastest of them stands for the machine.

    Attributes
    ----------
    missing : list of str
        Loops that the installed core does not have.
    """

    def __init__(self, core: Any, torch: Any) -> None:
        self.torch = torch
        self.core = {name: getattr(core, name, None) for name in CORE_LOOPS}
        self.missing = [name for name, loop in self.core.items() if loop is None]

    def runs(self, case: Case, data: Data) -> dict[str, Run]:
        """The loops that bear on `case`, named ``kind (source)``."""
        build = {
            "read": self._read,
            "copy": self._copy,
            "fresh copy": self._fresh_copy,
            "exp-and-sum": self._expsum,
            "np.exp": self._np_exp,
        }
        runs: dict[str, Run] = {}
        for kind in sorted(wanted_kinds(case)):
            runs |= build[kind](data)
        return runs

    def _read(self, d: Data) -> dict[str, Run]:
        x = numbers(d.x)
        runs: dict[str, Run] = {
            "read (NumPy)": lambda: x.sum(),
            "read (BLAS)": lambda: np.dot(x, x),
        }
        if loop := self.core["_limit_read"]:
            runs["read (core)"] = lambda: loop(x)
        if self.torch is not None:
            tensor = self.torch.from_numpy(x)
            runs["read (torch)"] = lambda: tensor.sum()
        return runs

    def _copy(self, d: Data) -> dict[str, Run]:
        x, out = numbers(d.x), numbers(d.out)
        runs: dict[str, Run] = {"copy (NumPy)": lambda: np.copyto(out, x)}
        if loop := self.core["_limit_copy"]:
            runs["copy (core)"] = lambda: loop(x, out)
        if stream := self.core["_limit_stream"]:
            runs["streaming copy (core)"] = lambda: stream(x, out)
        if self.torch is not None:
            source, target = self.torch.from_numpy(x), self.torch.from_numpy(out)
            runs["copy (torch)"] = lambda: target.copy_(source)
        return runs

    def _fresh_copy(self, d: Data) -> dict[str, Run]:
        x = numbers(d.x)
        runs: dict[str, Run] = {"fresh copy (NumPy)": lambda: x.copy()}
        if loop := self.core["_limit_copy"]:
            runs["fresh copy (core)"] = lambda: loop(x, np.empty_like(x))
        if stream := self.core["_limit_stream"]:
            runs["fresh copy (core, streaming)"] = lambda: stream(x, np.empty_like(x))
        if self.torch is not None:
            tensor = self.torch.from_numpy(x)
            runs["fresh copy (torch)"] = lambda: tensor.clone()
        return runs

    def _expsum(self, d: Data) -> dict[str, Run]:
        x, scratch = flat(d.x), np.empty(BLOCK, d.dtype)
        runs: dict[str, Run] = {"exp-and-sum (NumPy)": lambda: block_expsum(x, scratch)}
        if loop := self.core["_limit_expsum"]:
            runs["exp-and-sum (core)"] = lambda: loop(x)
        if self.torch is not None:
            tensor, out = self.torch.from_numpy(x), self.torch.from_numpy(flat(d.out))
            runs["exp-and-sum (torch)"] = lambda: self.torch.exp(tensor, out=out).sum()
        return runs

    def _np_exp(self, d: Data) -> dict[str, Run]:
        x = d.x
        return {"np.exp (NumPy)": lambda: np.exp(x)}


def slow_loops(seconds: Mapping[str, float], case: Case) -> set[str]:
    """The loops that cannot become the fastest of their kind and that no goal names."""
    kinds: dict[str, list[float]] = {}
    for name, time in sorted(seconds.items(), key=lambda item: item[1]):
        kinds.setdefault(kind_of(name), []).append(time)
    # Two of each kind stay, in case the team of threads of the first one stalls later.
    bounds = {kind: max(SLOW_LOOP * times[0], times[:2][-1]) for kind, times in kinds.items()}
    slow = {name for name, time in seconds.items() if time > bounds[kind_of(name)]}
    return slow - wanted_loops(case)


def fastest(seconds: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    """Each kind of limit with the time and the name of its fastest loop."""
    best: dict[str, tuple[float, str]] = {}
    for name, time in seconds.items():
        kind = kind_of(name)
        if kind not in best or time < best[kind][0]:
            best[kind] = (time, name)
    return best


def limit_of(case: Case, kinds: Mapping[str, float]) -> tuple[float, str]:
    """The time below which `case` cannot come, and what sets it.

    Memory: the arrays read and those written, as a read each or, with a written one, a copy of the
    same output policy, and as a share of a read what an option brings. The exponential may overlap
    with the memory, so the larger counts; it has no loop of 16 bits, where memory counts alone.
    """
    operation, write = case.operation, written(case)
    copies = operation.writes if write else 0
    reads = operation.reads - copies
    memory = (copies * kinds[write] if write else 0.0) + (reads * kinds["read"] if reads else 0.0)
    moves = [f"{copies} copies" if copies > 1 else write] if write else []
    moves += [f"{reads} reads" if reads > 1 else "read"] if reads > 0 else []
    name = " + ".join(moves) + (" - read" if reads < 0 else "")
    if case.brings:
        memory += case.brings * kinds["read"]
        name += " + option"
    if operation.exponential and kinds.get("exp-and-sum", 0.0) > memory:
        return kinds["exp-and-sum"], "exp-and-sum"
    return memory, name
