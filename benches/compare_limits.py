"""The machine's own limits: what moving the bytes, or the bare exponentials, cost at least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from compare_cases import CALL_SHAPE, Case, Data, Operation

if TYPE_CHECKING:
    from compare_peers import Run

BLOCK = 16384
"""Elements that NumPy's exp-and-sum keeps in the cache between its two steps."""

CORE_LOOPS = ("_limit_read", "_limit_copy", "_limit_stream", "_limit_expsum")


def block_expsum(x: Any, scratch: Any) -> float:
    """The sum of exp(x), block by block with NumPy."""
    total = 0.0
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        e = scratch[: block.size]
        np.exp(block, out=e)
        total += float(e.sum())
    return total


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
        runs = {**self._read(data), **self._copy(data)}
        if case.operation.exponential:
            runs |= self._expsum(data)
        if case.operation.result == "full" and case.policy == "fresh":
            runs |= self._fresh_copy(data)
        if case.shape == CALL_SHAPE:
            x, out = data.x, data.out
            fresh = case.policy == "fresh"
            runs["np.exp (NumPy)"] = (lambda: np.exp(x)) if fresh else (lambda: np.exp(x, out=out))
        return runs

    def _read(self, d: Data) -> dict[str, Run]:
        x = d.x.reshape(-1)
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
        x, out = d.x.reshape(-1), d.out.reshape(-1)
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
        x = d.x.reshape(-1)
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
        x, scratch = d.x.reshape(-1), np.empty(BLOCK, d.dtype)
        runs: dict[str, Run] = {"exp-and-sum (NumPy)": lambda: block_expsum(x, scratch)}
        if loop := self.core["_limit_expsum"]:
            runs["exp-and-sum (core)"] = lambda: loop(x)
        if self.torch is not None:
            tensor, out = self.torch.from_numpy(x), self.torch.from_numpy(d.out.reshape(-1))
            runs["exp-and-sum (torch)"] = lambda: self.torch.exp(tensor, out=out).sum()
        return runs


def fastest(seconds: dict[str, float]) -> dict[str, tuple[float, str]]:
    """Each kind of limit with the time and the source of its fastest loop."""
    best: dict[str, tuple[float, str]] = {}
    for name, time in seconds.items():
        kind, source = name.rstrip(")").split(" (")
        if kind not in best or time < best[kind][0]:
            best[kind] = (time, source)
    return best


def limit_of(operation: Operation, policy: str, kinds: dict[str, float]) -> tuple[float, str]:
    """The time below which `operation` cannot come, and what sets it.

    Memory: the arrays read and the one written, as a read each or, with the written one, a copy
    of the same output policy. The exponential may overlap with the memory, so the larger counts.
    """
    read = kinds["read"]
    if operation.result != "full":
        memory, name = operation.reads * read, "read"
    else:
        if policy == "fresh":
            name = "fresh copy"
        else:
            name = min(("copy", "streaming copy"), key=lambda k: kinds.get(k, float("inf")))
        memory = kinds[name] + (operation.reads - 1) * read
    if operation.reads == 2:
        name = f"{name} + read" if operation.result == "full" else "2 reads"
    if operation.exponential and kinds["exp-and-sum"] > memory:
        return kinds["exp-and-sum"], "exp-and-sum"
    return memory, name
