"""A fixed corpus, and the digest of what every operation makes of it.

The corpus comes from the raw stream of a bit generator by additions and scalings alone, so that
it is the same on every system; its own digest stands in the file as well. ``python digests.py``
compares with the committed digests and needs nothing but NumPy and logitkit; ``python digests.py
--write`` replaces them, which is a change of the results that users see.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import operations
from operations import Batch

Array = npt.NDArray[Any]
Operation = Callable[[Batch], tuple[Any, ...]]

FILE = Path(__file__).parent.parent / "digests.txt"
DTYPES = ("float32", "float64")
LENGTHS = (1, 2, 3, 5, 7, 8, 10, 16, 17, 21, 32, 33, 63, 64, 65, 100, 257, 1000, 1025, 4100)
SHAPES: tuple[tuple[int, ...], ...] = (
    (2, 21, 5, 13),
    (3, 10, 70),
    (1, 130, 9),
    (700, 3),
    (5, 7, 1),
)
"""With the class axis at 1."""


class Stream:
    """Numbers that depend on the seed alone."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, n: int, shape: tuple[int, ...]) -> Array:
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (np.asarray(raw, np.uint64) % np.uint64(n)).astype(np.int64).reshape(shape)

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """From 0 to 1, exact in float64."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return ((np.asarray(raw, np.uint64) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def bell(self, shape: tuple[int, ...]) -> Array:
        """From -1.5 to 1.5, about normal."""
        return self.uniform(shape) + self.uniform(shape) + self.uniform(shape) - 1.5


def logits(stream: Stream, n: int, c: int, dtype: Any) -> Array:
    """Return `n` rows of `c` classes, the kind changing from row to row."""
    info = np.finfo(dtype)
    x = 2.0 * stream.bell((n, c))
    place = stream.below(c, (n,))
    size = stream.uniform((n,))
    for i in range(n):
        row, at = x[i], place[i]
        kind = i % 16
        if kind == 1:
            row *= 0.0625
        elif kind == 2:
            row *= 16.0
        elif kind == 3:
            row *= 512.0
        elif kind == 4:
            row[at] = 5.0 + 20.0 * size[i]
        elif kind == 5:
            row[at] = 25.0 + 700.0 * size[i]
        elif kind == 6:
            row[:] = np.floor(row)
        elif kind == 7:
            row += 30_000.0
        elif kind == 8:
            row += 1e6 if i % 32 == 8 else -1e30
        elif kind == 9:
            row[: c // 2] = -1e9
        elif kind == 10:
            row[at:] = float(info.min)
        elif kind == 11:
            row[at] = -np.inf
        elif kind == 12:
            row *= float(info.smallest_subnormal) * 1e3
        elif kind == 13:
            row -= 100.0 * np.arange(c)
        elif kind == 14:
            row[at] = (np.nan, np.inf, -0.0, 80.0)[i // 16 % 4]
        elif kind == 15 and i % 48 == 15:
            row[:] = -np.inf
    return x.astype(dtype)


def batch(stream: Stream, n: int, c: int, dtype: Any) -> Batch:
    """Return `n` rows of `c` classes with all that goes with them."""
    x = logits(stream, n, c, dtype)
    other = stream.bell((n, c)).astype(dtype)
    t = np.maximum(stream.uniform((n, c)) - 0.25, 0).astype(dtype)
    return Batch(x, other, t, stream.below(c, (n,)), -1)


@cache
def corpus(dtype: str) -> tuple[Batch, ...]:
    """Rows of every length, on their own and along the second axis of larger arrays."""
    batches = []
    for seed, c in enumerate(LENGTHS):
        stream = Stream(seed)
        batches.append(batch(stream, 150 if c <= 64 else 35, c, dtype))
        # Rows of one kind alone: what is special about a row must not hide the ordinary way.
        plain = batch(stream, 150 if c <= 64 else 5, c, dtype)
        x = (4.0 * stream.bell(plain.x.shape)).astype(dtype)
        batches.append(Batch(x, plain.other, plain.t, plain.labels, -1))
    for seed, shape in enumerate(SHAPES):
        n, c = int(np.prod(shape)) // shape[1], shape[1]
        flat = batch(Stream(100 + seed), n, c, dtype)
        other = (shape[0], *shape[2:])

        def along(a: Array, c: int = c, other: tuple[int, ...] = other) -> Array:
            return np.ascontiguousarray(np.moveaxis(a.reshape(*other, c), -1, 1))

        axis = 1 - len(shape)
        batches.append(
            Batch(along(flat.x), along(flat.other), along(flat.t), flat.labels.reshape(other), axis)
        )
    return tuple(batches)


def digest(results: Iterator[Any]) -> str:
    """Return 16 digits for the bits of all results."""
    state = hashlib.blake2b(digest_size=8)
    for result in results:
        a = np.asarray(result)
        state.update(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes())
    return state.hexdigest()


def of_inputs(dtype: str) -> str:
    """Return the digest of the corpus."""
    return digest(a for b in corpus(dtype) for a in (b.x, b.other, b.t, b.labels))


def of(f: Operation, dtype: str) -> str:
    """Return the digest of what `f` makes of the corpus."""
    return digest(r for b in corpus(dtype) for r in f(b))


def committed() -> dict[tuple[str, str], str]:
    """Return the digests in the file, by operation and dtype."""
    lines = (line.split() for line in FILE.read_text("ascii").splitlines())
    return {(name, dtype): value for name, dtype, value in lines}


def computed() -> dict[tuple[str, str], str]:
    """Return the digests of this machine."""
    table = {("inputs", dtype): of_inputs(dtype) for dtype in DTYPES}
    for name, f in operations.ALL.items():
        table |= {(name, dtype): of(f, dtype) for dtype in DTYPES}
    return table


def main() -> int:
    """Compare, or write."""
    new = computed()
    if sys.argv[1:] == ["--write"]:
        FILE.write_text("".join(f"{n} {d} {v}\n" for (n, d), v in new.items()), "ascii")
    old = committed()
    wrong = [f"{' '.join(key)}" for key in old | new if old.get(key) != new.get(key)]
    print(f"level {lk.simd_level()}: {len(new) - len(wrong)} of {len(new)} digests agree")
    print(*(f"differs: {key}" for key in wrong), sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
