"""Every operation gives the committed digests, whatever the level, the threads and the memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import digests
import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import operations
import pytest
from logitkit import _logitkit_core as core
from operations import Batch

Array = npt.NDArray[Any]

pytestmark = pytest.mark.usefixtures("keep_settings")

each_dtype = pytest.mark.parametrize("dtype", digests.DTYPES)
each_operation = pytest.mark.parametrize("name", operations.ALL)
each_row_by_row = pytest.mark.parametrize("name", operations.ROW_BY_ROW)


@pytest.fixture(scope="module")
def committed() -> dict[tuple[str, str], str]:
    return digests.committed()


def test_the_file_has_every_operation(committed: dict[tuple[str, str], str]) -> None:
    names = ["inputs", *operations.ALL]
    assert list(committed) == [(name, dtype) for name in names for dtype in digests.DTYPES]
    assert len(set(committed.values())) == len(committed)


@each_dtype
def test_the_corpus_is_the_committed_one(dtype: str, committed: dict[tuple[str, str], str]) -> None:
    assert digests.of_inputs(dtype) == committed["inputs", dtype]


@each_dtype
@each_operation
def test_levels(name: str, dtype: str, committed: dict[tuple[str, str], str]) -> None:
    for level in core.simd_levels():
        core.set_simd_level(level)
        assert digests.of(operations.ALL[name], dtype) == committed[name, dtype], level


@each_dtype
@each_operation
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_threads(name: str, dtype: str, count: int, committed: dict[tuple[str, str], str]) -> None:
    with lk.threads(count):
        assert digests.of(operations.ALL[name], dtype) == committed[name, dtype]


def in_pieces(f: digests.Operation) -> digests.Operation:
    """Return `f` of pieces of odd sizes, put together again."""

    def cut(b: Batch) -> tuple[Any, ...]:
        n = len(b.x)
        cuts = sorted({0, min(1, n), min(18, n), min(35, n), n * 2 // 3, n})
        parts = [f(b.take(slice(i, j), slice(i, j))) for i, j in pairwise(cuts)]
        return tuple(np.concatenate(results) for results in zip(*parts, strict=True))

    return cut


def shifted(distance: int) -> Callable[[Array], Array]:
    """Return a copier to memory that starts `distance` bytes behind a cache line."""

    def copy(a: Array) -> Array:
        space = np.empty(a.nbytes + 128, np.uint8)
        start = -space.ctypes.data % 64 + distance
        view = space[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        view[...] = a
        return view

    return copy


@each_dtype
@each_row_by_row
def test_pieces(name: str, dtype: str, committed: dict[tuple[str, str], str]) -> None:
    assert digests.of(in_pieces(operations.ALL[name]), dtype) == committed[name, dtype]


@each_dtype
@each_operation
@pytest.mark.parametrize(
    "place",
    [shifted(8), shifted(24), shifted(1), layouts.fortran, layouts.sliced, layouts.reversed_axes],
    ids=["8 bytes", "24 bytes", "unaligned", "fortran", "sliced", "reversed"],
)
def test_places(
    name: str,
    dtype: str,
    place: Callable[[Array], Array],
    committed: dict[tuple[str, str], str],
) -> None:
    f = operations.ALL[name]
    assert digests.of(lambda b: f(b.map(place)), dtype) == committed[name, dtype]


def softmax(b: Batch) -> tuple[Any, ...]:
    x = b.x.copy()
    return (lk.softmax(x, b.axis, out=x),)


def log_softmax(b: Batch) -> tuple[Any, ...]:
    x = b.x.copy()
    return (lk.log_softmax(x, b.axis, out=x),)


def softmax_backward(b: Batch) -> tuple[Any, ...]:
    grad = b.other.copy()
    return (lk.softmax_backward(grad, b.x, b.axis, out=grad),)


def log_softmax_backward(b: Batch) -> tuple[Any, ...]:
    grad = b.other.copy()
    return (lk.log_softmax_backward(grad, b.x, b.axis, out=grad),)


def cross_entropy_value_and_grad(b: Batch) -> tuple[Any, ...]:
    x = b.x.copy()
    return lk.cross_entropy_value_and_grad(x, b.labels, axis=b.axis, reduction="none", grad_out=x)


def cross_entropy_soft(b: Batch) -> tuple[Any, ...]:
    x = b.x.copy()
    return lk.cross_entropy_value_and_grad(x, b.t, axis=b.axis, reduction="none", grad_out=x)


def mse_loss_value_and_grad(b: Batch) -> tuple[Any, ...]:
    x = b.x.copy()
    return lk.mse_loss_value_and_grad(x, b.other, reduction="none", grad_out=x)


IN_PLACE = (
    softmax,
    log_softmax,
    softmax_backward,
    log_softmax_backward,
    cross_entropy_value_and_grad,
    cross_entropy_soft,
    mse_loss_value_and_grad,
)


@each_dtype
@pytest.mark.parametrize("f", IN_PLACE)
def test_in_place(f: digests.Operation, dtype: str, committed: dict[tuple[str, str], str]) -> None:
    assert digests.of(f, dtype) == committed[f.__name__, dtype]
