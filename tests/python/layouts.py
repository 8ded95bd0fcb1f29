"""The same array in other places of memory, and the comparison of bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _copy_into(x: Array, view: Array) -> Array:
    view[...] = x
    return view


def c_order(x: Array) -> Array:
    return np.array(x, order="C")


def fortran(x: Array) -> Array:
    return np.array(x, order="F")


def reversed_axes(x: Array) -> Array:
    """Negative strides along every axis."""
    return _copy_into(x, np.empty_like(x, order="C")[(..., *[slice(None, None, -1)] * x.ndim)])


def stepped(x: Array) -> Array:
    """Every second element along the last axis, every third along the others."""
    steps = [3] * (x.ndim - 1) + [2] * min(x.ndim, 1)
    space = np.zeros([n * s for n, s in zip(x.shape, steps, strict=True)], dtype=x.dtype)
    return _copy_into(x, space[(..., *(slice(None, None, s) for s in steps))])


def backward_steps(x: Array) -> Array:
    """Every third element along the last axis, from the end."""
    if x.ndim == 0:
        return c_order(x)
    space = np.zeros((*x.shape[:-1], 3 * x.shape[-1]), dtype=x.dtype)
    return _copy_into(x, space[..., ::-3])


def sliced(x: Array) -> Array:
    """The middle of a larger array, so that rows do not touch and start anywhere."""
    space = np.zeros([n + 3 for n in x.shape], dtype=x.dtype)
    return _copy_into(x, space[(..., *(slice(1, n + 1) for n in x.shape))])


def first_axis_last(x: Array) -> Array:
    """The first axis is the one that is contiguous in memory, the others in their order."""
    if x.ndim < 2:
        return c_order(x)
    return np.moveaxis(np.array(np.moveaxis(x, 0, -1), order="C"), -1, 0)


def swapped_axes(x: Array) -> Array:
    """The last two axes change places in memory."""
    if x.ndim < 2:
        return c_order(x)
    return np.array(x.swapaxes(-1, -2), order="C").swapaxes(-1, -2)


def shifted(x: Array) -> Array:
    """Contiguous, one element after a boundary of 64 bytes."""
    space = np.zeros(x.nbytes + 128, dtype=np.uint8)
    start = -space.ctypes.data % 64 + x.itemsize
    return _copy_into(x, space[start : start + x.nbytes].view(x.dtype).reshape(x.shape))


def unaligned(x: Array) -> Array:
    """Contiguous, at an odd address."""
    space = np.zeros(x.nbytes + 64, dtype=np.uint8)
    start = -space.ctypes.data % 64 + 1
    return _copy_into(x, space[start : start + x.nbytes].view(x.dtype).reshape(x.shape))


def byte_swapped(x: Array) -> Array:
    return x.astype(x.dtype.newbyteorder("S"))


def read_only(x: Array) -> Array:
    x = c_order(x)
    x.flags.writeable = False
    return x


WRITABLE: dict[str, Callable[[Array], Array]] = {
    f.__name__: f
    for f in (
        c_order,
        fortran,
        reversed_axes,
        stepped,
        backward_steps,
        sliced,
        first_axis_last,
        swapped_axes,
        shifted,
        unaligned,
    )
}
"""Layouts of the native dtype that results may be written into."""

ALL = WRITABLE | {"byte_swapped": byte_swapped, "read_only": read_only}
"""Every layout that arguments may come in."""


def bits(x: Any) -> tuple[tuple[int, ...], str, bytes]:
    """Return shape, dtype and bytes of an array or a scalar."""
    x = np.asarray(x)
    return x.shape, x.dtype.str, x.tobytes()


def assert_same_bits(got: Any, want: Any, what: str = "") -> None:
    """Fail unless both have the same shape, dtype and bytes."""
    got, want = np.asarray(got), np.asarray(want)
    if bits(got) == bits(want):
        return
    assert got.shape == want.shape, f"{what}: shape {got.shape}, not {want.shape}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, not {want.dtype}"
    integer = f"u{got.itemsize}"
    a, b = got.reshape(-1).view(integer), want.reshape(-1).view(integer)
    different = np.flatnonzero(a != b)
    where = tuple(int(i) for i in np.unravel_index(different[0], got.shape))
    first, second = got.reshape(-1)[different[0]], want.reshape(-1)[different[0]]
    raise AssertionError(
        f"{what}: {len(different)} of {got.size} entries differ, first at {where}: "
        f"{first!r} ({a[different[0]]:#x}) and {second!r} ({b[different[0]]:#x})"
    )
