"""16-bit operands of calls with options: the bits of float32 calls, and no array of their size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
from layouts import assert_same_bits
from logitkit import _logitkit_core as core
from test_half import half_types, halves, rounded, values

Array = npt.NDArray[Any]
Results = tuple[Any, ...]

pytestmark = pytest.mark.usefixtures("keep_settings")


@dataclass(frozen=True)
class Case:
    """Two operands of 16 bits, labels of which some are -100, and numbers per row."""

    x: Array
    other: Array
    labels: Array
    rows: Array
    axis: int

    def map(self, change: Callable[[Array], Array]) -> Case:
        return Case(change(self.x), change(self.other), self.labels, self.rows, self.axis)

    @property
    def classes(self) -> int:
        return self.x.shape[self.axis]


def make_case(
    shape: tuple[int, ...], axis: int, half: Any, rng: np.random.Generator, *, special: bool
) -> Case:
    x, other = (values(shape, half, rng, special) for _ in range(2))
    batch = shape[:axis] + shape[axis + 1 :]
    labels = np.where(rng.random(batch) < 0.1, -100, rng.integers(0, shape[axis], batch))
    return Case(x, other, labels, rng.uniform(0.3, 3, batch), axis)


def cases(
    shapes: list[tuple[tuple[int, ...], int]], half: Any, rng: np.random.Generator
) -> Iterator[tuple[str, Case]]:
    for shape, axis in shapes:
        for special in (False, True):
            what = f"{shape} axis {axis}{' special' if special else ''}"
            yield what, make_case(shape, axis, half, rng, special=special)


def token_logprobs(c: Case) -> Results:
    return lk.token_logprobs(c.x, c.labels, axis=c.axis)


def token_logprobs_cooled(c: Case) -> Results:
    return lk.token_logprobs(c.x, c.labels, axis=c.axis, temperature=0.3)


def token_logprobs_rows(c: Case) -> Results:
    return lk.token_logprobs(c.x, c.labels, axis=c.axis, temperature=c.rows)


def top_k_logprobs(c: Case) -> Results:
    return lk.top_k_logprobs(c.x, min(5, c.classes), axis=c.axis)


def top_k_logprobs_one(c: Case) -> Results:
    return lk.top_k_logprobs(c.x, 1, axis=c.axis, temperature=0.3)


def top_k_logprobs_half(c: Case) -> Results:
    return lk.top_k_logprobs(c.x, (c.classes + 1) // 2, axis=c.axis, temperature=c.rows)


def classification_error(c: Case) -> Results:
    return (lk.classification_error(c.x, c.labels, axis=c.axis, sample_weight=c.rows),)


def classification_error_sum(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows, "reduction": "sum"}
    return (lk.classification_error(c.x, c.labels, **options),)


def classification_error_rows(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows, "reduction": "none"}
    return (lk.classification_error(c.x, c.labels, **options),)


def softmax_backward(c: Case) -> Results:
    return (lk.softmax_backward(c.other, c.x, c.axis, temperature=0.3),)


def softmax_backward_rows(c: Case) -> Results:
    return (lk.softmax_backward(c.other, c.x, c.axis, temperature=c.rows),)


def log_softmax_backward(c: Case) -> Results:
    return (lk.log_softmax_backward(c.other, c.x, c.axis, temperature=0.3),)


def log_softmax_backward_rows(c: Case) -> Results:
    return (lk.log_softmax_backward(c.other, c.x, c.axis, temperature=c.rows),)


WIDE = {
    f.__name__: f
    for f in (
        token_logprobs,
        token_logprobs_cooled,
        token_logprobs_rows,
        top_k_logprobs,
        top_k_logprobs_one,
        top_k_logprobs_half,
        classification_error,
        classification_error_sum,
        classification_error_rows,
    )
}
"""Calls whose results are those of float32."""

ROUNDED = {
    f.__name__: f
    for f in (
        softmax_backward,
        softmax_backward_rows,
        log_softmax_backward,
        log_softmax_backward_rows,
    )
}
"""Calls whose results are float32 ones, rounded once."""

ALL = WIDE | ROUNDED
calls = pytest.mark.parametrize("name", ALL)


def expected(name: str, case: Case, half: Any) -> Results:
    results = ALL[name](case.map(lambda a: a.astype(np.float32)))
    return results if name in WIDE else tuple(rounded(one, half) for one in results)


def compare(name: str, got: Results, want: Results, what: str) -> None:
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_same_bits(a, b, f"{name}[{i}] {what}")


SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((41, 1), 1),
    ((131, 10), 1),
    ((200, 17), 1),
    ((19, 65), 1),
    ((7, 1000), 1),
    ((3, 9001), 1),
    ((300, 21), 0),
    ((21, 300), 0),
    ((3, 7, 5, 6), 1),
    ((2, 130, 70), 1),
    ((2, 1030, 67), 1),
    ((50,), 0),
    ((1,), 0),
]
LARGE: list[tuple[tuple[int, ...], int]] = [
    ((20011, 10), 1),
    ((301, 1000), 1),
    ((3, 128256), 1),
    ((1000, 301), 0),
]


@halves
@calls
def test_bits_of_float32(name: str, half: Any, rng: np.random.Generator) -> None:
    for what, case in cases(SHAPES, half, rng):
        compare(name, ALL[name](case), expected(name, case, half), what)


@halves
@calls
def test_threads(name: str, half: Any, rng: np.random.Generator) -> None:
    for what, case in cases(LARGE, half, rng):
        want = expected(name, case, half)
        for threads in (1, 3):
            lk.set_num_threads(threads)
            compare(name, ALL[name](case), want, f"{what}, {threads} threads")


@halves
@pytest.mark.parametrize("layout", layouts.ALL)
@calls
def test_layouts(name: str, layout: str, half: Any, rng: np.random.Generator) -> None:
    if layout == "byte_swapped" and np.dtype(half).kind == "V":
        pytest.skip("bfloat16 has one byte order")
    shapes: list[tuple[tuple[int, ...], int]] = [
        ((7, 40), 1), ((70, 9), 1), ((9, 70), 0), ((4, 19, 33), 1), ((66, 5, 3), 0), ((3, 1100), 1),
    ]  # fmt: skip
    for what, case in cases(shapes, half, rng):
        got = ALL[name](case.map(layouts.ALL[layout]))
        compare(name, got, expected(name, case, half), what)


@halves
@pytest.mark.parametrize("level", core.simd_levels())
@calls
def test_levels(name: str, level: str, half: Any, rng: np.random.Generator) -> None:
    for what, case in cases([SHAPES[i] for i in (1, 4, 6, 9)], half, rng):
        want = expected(name, case, half)
        core.set_simd_level(level)
        compare(name, ALL[name](case), want, f"{what} {level}")


@halves
def test_gradients_in_place_and_into_out(half: Any, rng: np.random.Generator) -> None:
    for shape, axis in [SHAPES[i] for i in (1, 4, 6, 9)] + [LARGE[1]]:
        case = make_case(shape, axis, half, rng, special=True)
        for f in (lk.softmax_backward, lk.log_softmax_backward):
            for temperature in (0.3, case.rows):
                want = f(case.other, case.x, axis, temperature=temperature)
                for layout in layouts.WRITABLE:
                    out = layouts.WRITABLE[layout](np.zeros_like(case.x))
                    assert f(case.other, case.x, axis, temperature=temperature, out=out) is out
                    assert_same_bits(out, want, f"{shape} {f.__name__} {layout}")
                for operand in (0, 1):
                    args = [case.other.copy(), case.x.copy()]
                    f(*args, axis, temperature=temperature, out=args[operand])
                    assert_same_bits(args[operand], want, f"{shape} {f.__name__} {operand}")


@halves
def test_labels_out_of_range(half: Any) -> None:
    x = np.zeros((3, 4), half)
    with pytest.raises(IndexError, match=r"labels\[1\] is 4: not in \[0, 4\)"):
        lk.token_logprobs(x, np.array([0, 4, 5]))
    with pytest.raises(IndexError, match=r"labels\[1\] is 4: not in \[0, 4\)"):
        lk.classification_error(x, np.array([0, 4, 5]), sample_weight=np.ones(3))


@halves
def test_the_compiled_functions_take_them(half: Any) -> None:
    x, axis = np.zeros((30, 4, 9), half), 1
    labels, rows = np.zeros((30, 9), np.int64), np.ones((30, 9))
    answers = {
        "token_logprobs": core.token_logprobs(x, labels, axis, rows, None),
        "top_k_logprobs": core.top_k_logprobs(x, 2, axis, rows),
        "classification_error": core.classification_error(x, labels, axis, rows, None, "mean"),
        "softmax_backward": core.backward(x, x, axis, False, rows, None),
        "log_softmax_backward": core.backward(x, x, axis, True, 0.5, x.copy()),
    }
    for name, answer in answers.items():
        assert answer is not NotImplemented, name


@halves
def test_mixed_types_are_declined(half: Any) -> None:
    x, wide = np.zeros((3, 4), half), np.zeros((3, 4), np.float32)
    other = np.zeros((3, 4), next((t for t in half_types() if t is not half), np.float64))
    for y in (wide, other):
        assert core.backward(y, x, 1, False, 0.5, None) is NotImplemented
        assert core.backward(x, x, 1, False, 0.5, y) is NotImplemented


def extra_memory(function: Callable[[], Any]) -> int:
    """Bytes of the arrays that were alive at once, beside those from before."""
    function()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@halves
def test_no_array_of_their_size(half: Any, rng: np.random.Generator) -> None:
    """Also where the other operands are for Python to convert."""
    x = values((64, 8192), half, rng, special=False)
    y = values((64, 8192), half, rng, special=False)
    labels = rng.integers(0, 8192, 64)
    weight, out = np.ones(64, np.float32), np.empty_like(x)
    functions: dict[str, Callable[[], Any]] = {
        "token_logprobs": lambda: lk.token_logprobs(x, labels),
        "token_logprobs, a list": lambda: lk.token_logprobs(x, labels.tolist(), temperature=2),
        "token_logprobs, columns": lambda: lk.token_logprobs(x.T, labels, axis=0),
        "top_k_logprobs": lambda: lk.top_k_logprobs(x, 5),
        "top_k_logprobs, float32": lambda: lk.top_k_logprobs(x, 5, temperature=weight),
        "classification_error": lambda: lk.classification_error(x, labels, sample_weight=weight),
        "softmax_backward": lambda: lk.softmax_backward(y, x, 1, temperature=0.5, out=out),
        "log_softmax_backward": lambda: lk.log_softmax_backward(
            y, x, 1, temperature=weight, out=out
        ),
        "softmax of pairs": lambda: lk.softmax(
            x.reshape(64, 2, 4096), (1, 2), out=out.reshape(64, 2, 4096)
        ),
    }
    for name, function in functions.items():
        assert extra_memory(function) < x.nbytes // 8, name
