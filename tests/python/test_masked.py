"""The compiled functions with a mask: only the elements that it leaves count, and are looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
import reference as ref
from layouts import assert_same_bits
from logitkit import _logitkit_core as core

Array = npt.NDArray[Any]

pytestmark = pytest.mark.usefixtures("keep_settings")


def dtypes() -> list[Any]:
    some: list[Any] = [np.float32, np.float64, np.float16]
    try:
        import ml_dtypes
    except ImportError:
        return some
    return [*some, ml_dtypes.bfloat16]


each_dtype = pytest.mark.parametrize("dtype", dtypes(), ids=lambda t: np.dtype(t).name)

SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((41, 1), 1),
    ((131, 3), 1),
    ((131, 10), 1),
    ((19, 65), 1),
    ((7, 1000), 1),
    ((3, 4099), 1),
    ((37, 5), 0),
    ((21, 300), 0),
    ((1100, 71), 0),
    ((2, 21, 9, 11), 1),
    ((3, 7, 5, 6), 1),
    ((50,), 0),
    ((301, 1000), 1),
    ((17, 9001), 0),
    ((9, 300), 1),
]


def softmax(x: Array, axis: int, mask: Array, out: Array | None = None) -> Any:
    return lk.softmax(x, axis, where=mask, out=out)


def log_softmax(x: Array, axis: int, mask: Array, out: Array | None = None) -> Any:
    return lk.log_softmax(x, axis, where=mask, out=out)


def logsumexp(x: Array, axis: int, mask: Array, out: Array | None = None) -> Any:
    return core.logsumexp_masked(x, axis, False, out, mask)


ELEMENTWISE: dict[str, tuple[Callable[..., Any], Any]] = {
    "softmax": (softmax, 0.0),
    "log_softmax": (log_softmax, -np.inf),
}
"""The functions, and their results under the mask."""


def masks(shape: tuple[int, ...], axis: int, rng: np.random.Generator) -> dict[str, Array]:
    """Masks of every way to lie in memory, with rows that they leave nothing of."""
    batch = rng.random([1 if i == axis % len(shape) else n for i, n in enumerate(shape)]) < 0.7
    scattered = (rng.random(shape) < 0.6) & batch
    classes = rng.random(shape[axis]) < 0.5
    line = classes.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    return {
        "scattered": scattered,
        "in Fortran order": np.asfortranarray(scattered),
        "backward": np.ascontiguousarray(scattered[..., ::-1])[..., ::-1],
        "one for all rows": np.broadcast_to(line, shape),
        "whole rows": np.broadcast_to(batch, shape),
        "nothing": np.broadcast_to(np.zeros((), bool), shape),
        "everything": np.ones(shape, bool),
        "true as other bytes": (scattered * np.uint8(128)).view(bool),
    }


def values(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Array:
    with np.errstate(all="ignore"):
        return rng.normal(0, 5, shape).astype(dtype)


@each_dtype
@pytest.mark.parametrize("threads", [1, 3])
def test_is_the_plain_result_with_minus_infinity(
    dtype: Any, threads: int, rng: np.random.Generator
) -> None:
    """The same bits, but for rows of which nothing is left."""
    lk.set_num_threads(threads)
    for shape, axis in SHAPES:
        x = values(shape, dtype, rng)
        for what, mask in masks(shape, axis, rng).items():
            true = np.asarray(mask) != 0
            cut = np.where(true, x, np.array(-np.inf, dtype))
            for name, (f, fill) in ELEMENTWISE.items():
                got = f(x, axis, mask)
                want = np.where(true, getattr(lk, name)(cut, axis), np.array(fill, dtype))
                if got is NotImplemented:  # strides that do not fold
                    got = f(x, axis, np.ascontiguousarray(mask))
                assert_same_bits(got, want, f"{name} {shape} axis {axis} {what}")
            got = logsumexp(x, axis, mask)
            if got is NotImplemented:
                got = logsumexp(x, axis, np.ascontiguousarray(mask))
            assert_same_bits(got, lk.logsumexp(cut, axis), f"{shape} axis {axis} {what}")


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 3.0), (np.float64, 4.0)])
def test_is_the_result_of_what_is_left(dtype: Any, bound: float, rng: np.random.Generator) -> None:
    x = rng.normal(0, 8, (60, 83)).astype(dtype)
    mask = rng.random(x.shape) < rng.random((60, 1))
    mask[:, 5] = True
    y, z, lse = softmax(x, 1, mask), log_softmax(x, 1, mask), logsumexp(x, 1, mask)
    for i in range(60):
        left = x[i][mask[i]]
        ref.assert_close(y[i][mask[i]], ref.softmax(left), bound)
        ref.assert_close(z[i][mask[i]], ref.log_softmax(left), bound)
        truth = ref.logsumexp(left)
        scale = max(abs(float(truth)), float(np.abs(left).max()), 1)
        ref.assert_close(lse[i], truth, 2, scale)
    assert np.all(y[~mask] == 0)
    assert np.all(z[~mask] == -np.inf)


@each_dtype
def test_elements_under_the_mask_are_not_looked_at(dtype: Any, rng: np.random.Generator) -> None:
    for shape, axis in SHAPES:
        x = values(shape, dtype, rng)
        mask = rng.random(shape) < 0.5
        other = x.copy()
        for value in (np.nan, np.inf, -np.inf):
            other[~mask & (rng.random(shape) < 0.3)] = value
        for f in (softmax, log_softmax, logsumexp):
            assert_same_bits(f(other, axis, mask), f(x, axis, mask), f"{f.__name__} {shape}")


@each_dtype
def test_special_elements_that_count(dtype: Any) -> None:
    """They make the row special as they do without a mask; what is masked keeps its value."""
    nan, inf = np.nan, np.inf
    x = np.array([[1, nan, 2], [inf, 0, 1], [-inf, -inf, 3], [1, 2, 3]], dtype)
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    want = [[nan, nan, 0], [nan, nan, 0], [nan, nan, 0], [0, 0, 0]]
    assert_same_bits(softmax(x, 1, mask), np.array(want, dtype))
    want = [[nan, nan, -inf], [nan, -inf, -inf], [nan, nan, -inf], [-inf, -inf, -inf]]
    assert_same_bits(log_softmax(x, 1, mask), np.array(want, dtype))
    assert_same_bits(logsumexp(x, 1, mask), np.array([nan, inf, -inf, -inf], dtype))


@each_dtype
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_layouts_and_in_place(name: str, dtype: Any, rng: np.random.Generator) -> None:
    f, _ = ELEMENTWISE[name]
    for shape, axis in SHAPES:
        x = values(shape, dtype, rng)
        mask = masks(shape, axis, rng)["scattered"]
        want = f(x, axis, mask)
        for layout in ("fortran", "stepped", "reversed_axes", "sliced"):
            view = layouts.ALL[layout](x)
            out = np.zeros_like(x)
            if f(view, axis, mask, out) is out:
                assert_same_bits(out, want, f"{shape} {layout}")
            else:
                assert len(shape) > 2
        assert f(x, axis, mask, x) is x
        assert_same_bits(x, want, f"{shape} in place")


@each_dtype
def test_logsumexp_of_a_row_is_a_scalar(dtype: Any) -> None:
    x = np.zeros(8, dtype)
    got = core.logsumexp_masked(x, None, False, None, np.arange(8) < 4)
    assert type(got) is type(x[0])
    assert got == np.array(np.log(4), dtype)
    out = np.zeros(1, dtype)
    assert core.logsumexp_masked(x, 0, True, out, np.arange(8) < 2) is out
    assert out[0] == np.array(np.log(2), dtype)


@each_dtype
def test_what_is_not_plain_is_declined(dtype: Any) -> None:
    """By the compiled functions, for the Python ones to make plain or to refuse."""
    x = np.zeros((4, 8), dtype)
    space = np.zeros((4, 8), bool)
    overlapping = x.view(np.uint8)[:, :8].view(bool)

    def normalize(x: Array, mask: Any, out: Array | None = None) -> Any:
        return core.normalize(x, 1, False, None, False, out, mask)

    def logsumexp(x: Array, mask: Any) -> Any:
        return core.logsumexp_masked(x, 1, False, None, mask)

    for f in (normalize, logsumexp):
        for mask in (True, [True] * 8, space.view(np.uint8), space[:, :7], space[0]):
            assert f(x, mask) is NotImplemented
        assert f(x.astype(int), space) is NotImplemented
    assert normalize(x, overlapping, x) is NotImplemented
    assert normalize(x, space, np.zeros((4, 7), dtype)) is NotImplemented
