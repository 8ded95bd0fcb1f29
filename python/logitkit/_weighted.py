"""Logsumexp and its gradient with `b`, `where`, `return_sign` and `dtype`.

Kernels do the work; a masked element counts as -inf, or as one of weight 0. Sums in longdouble or
of complex numbers are `_wide.log_of_sum`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _logitkit_core as _core
from . import _normalize, _wide
from ._normalize import reduced_shape, scalar_or_array
from ._operands import (
    checked_dtype,
    checked_mask,
    checked_out,
    class_axes,
    is_weak,
    is_wide,
    number_array,
    operand_dtype,
    plain,
    real_dtype,
    result_dtype,
    silent,
    wide_real_array,
    work_dtype,
)

if TYPE_CHECKING:
    from ._types import Array


@silent
def logsumexp(
    a_: object,
    axis: object,
    b_: object,
    keepdims: object,
    return_sign: object,
    where_: object,
    dtype_: object,
    out: object,
) -> Any:
    a = number_array(a_, "a")
    if b_ is where_ is dtype_ is None and not return_sign and not is_wide(a.dtype):
        return _normalize.logsumexp(a, axis, keepdims, out)
    b = None if b_ is None else number_array(b_, "b")
    dtype = checked_dtype(dtype_, *_typed((a_, a), (b_, b)))
    terms = a.shape if b is None else np.broadcast(a, b).shape
    axes = class_axes(axis, len(terms))
    mask = checked_mask(where_, terms)
    shape = reduced_shape(terms, axes, bool(keepdims))
    log_dtype = real_dtype(dtype) if return_sign else dtype
    target = None if out is None else checked_out(out, "out", shape, log_dtype)

    sign = None
    if is_wide(dtype):
        log, sign = _wide_sums(a, b, mask, terms, axes, dtype)
        log, sign = log.reshape(shape), sign.reshape(shape)
        if return_sign:
            log = log.real
        elif dtype.kind != "c":
            log = np.where(sign < 0, np.nan, log)
    elif b is not None:
        work = _kernel_dtype(dtype, (a_, a), (b_, b))
        log, sign = _weighted_sums(a, b, mask, terms, axes, work, bool(return_sign))
        log, sign = log.reshape(shape), None if sign is None else sign.reshape(shape)
    else:
        log = NotImplemented
        if mask is not None and a.dtype == dtype:
            log = _core.logsumexp_masked(a, axis, bool(keepdims), None, mask)
        if log is NotImplemented:
            log = _normalize.logsumexp(_masked(a, mask, dtype), axis, keepdims, None)
        log = np.asarray(log)
        if return_sign:
            sign = np.where(np.isnan(log), np.nan, log > -np.inf)
    if target is None:
        result = scalar_or_array(log.astype(log_dtype))
    else:
        target[...] = log
        result = out
    return (
        result if sign is None or not return_sign else (result, scalar_or_array(sign.astype(dtype)))
    )


def _typed(*operands: tuple[object, Array | None]) -> list[Array]:
    """The arrays, made of what stands before them, that have a say in the result's dtype."""
    arrays = [
        # (That of a complex number of Python's is that it is complex.)
        (value, array.astype(np.complex64) if type(value) is complex else array)
        for value, array in operands
        if array is not None
    ]
    return [array for value, array in arrays if not is_weak(value)] or [one for _, one in arrays]


def _masked(a: Array, mask: Array | None, dtype: np.dtype[Any]) -> Array:
    """`a` for a result of `dtype`: itself where it can be, -inf where it is masked."""
    if mask is not None:
        return np.where(mask, plain(a, work_dtype(dtype)), work_dtype(dtype).type(-np.inf))
    return a if dtype == result_dtype(a) else plain(a, work_dtype(dtype))


def _kernel_dtype(dtype: np.dtype[Any], *operands: tuple[object, Array]) -> np.dtype[Any]:
    """The dtype in which operands, beside what they were made of, go to a kernel for real results.

    Numbers of Python's own have no say in `dtype`, but are not rounded to it.
    """
    arrays = [array for _, array in operands]
    if operand_dtype(dtype, *arrays).itemsize == 2:
        return dtype
    single = all(
        array.dtype.itemsize <= 4 and array.dtype.kind in "fV"
        if not is_weak(value)
        else float(np.float32(array)) == array
        for value, array in operands
    )
    return np.dtype(np.float32 if single and dtype.itemsize <= 4 else np.float64)


def _weighted_sums(
    a: Array,
    b: Array,
    mask: Array | None,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    work: np.dtype[Any],
    return_sign: bool,
) -> tuple[Array, Array | None]:
    """The logarithm of sum b exp(a), and its sign if wanted, for each row: of any shape.

    With the sign, the logarithm is that of the absolute value, otherwise NaN where the sum is
    negative.
    """
    full = shape or (1,)
    if 0 in full:
        rows = math.prod(length for axis, length in enumerate(full) if axis not in axes)
        return np.full(rows, -np.inf), np.zeros(rows)
    a, b = (
        x if x.shape == full else np.broadcast_to(x, full) for x in (plain(a, work), plain(b, work))
    )
    if mask is not None:
        mask = mask.reshape(full)
    answer: Any = NotImplemented
    if len(axes) == 1:
        answer = _core.logsumexp_weighted(a, b, axes[0], return_sign, mask)
    if answer is NotImplemented:
        a, b = _rows(a, full, axes), _rows(b, full, axes)
        mask = None if mask is None else _rows(mask, full, axes)
        answer = _core.logsumexp_weighted(a, b, 1, return_sign, mask)
    return answer if return_sign else (answer, None)


def _wide_sums(
    a: Array,
    b: Array | None,
    mask: Array | None,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    dtype: np.dtype[Any],
) -> tuple[Array, Array]:
    """log_of_sum of operands that broadcast to `shape`, along `axes`, with 1-d results."""
    weights = np.ones((), dtype) if b is None else b
    if mask is not None:
        weights = np.where(mask, weights, weights.dtype.type(0))
    work = np.result_type(dtype, np.float64)
    return _wide.log_of_sum(_rows(a, shape, axes), _rows(weights, shape, axes), work)


def _rows(x: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """2-d: the class axes merged into the last axis, all others into the first."""
    full = shape or (1,)
    x = np.moveaxis(np.broadcast_to(x, full), axes, tuple(range(-len(axes), 0)))
    batch = x.ndim - len(axes)
    return x.reshape(math.prod(x.shape[:batch]), math.prod(x.shape[batch:]))


@silent
def logsumexp_backward(
    grad_: object,
    a_: object,
    lse_: object,
    axis: object,
    b_: object,
    keepdims: object,
    where_: object,
    out: object,
) -> Any:
    a = wide_real_array(a_, "a")
    mask = checked_mask(where_, a.shape)
    hidden = None if mask is None else ~mask
    if b_ is None:
        result = np.asarray(_normalize.logsumexp_backward(grad_, a, lse_, axis, keepdims, out))
    else:
        result = _weighted_backward(grad_, a, lse_, axis, b_, keepdims, out)
    if hidden is not None:
        np.copyto(result, result.dtype.type(0), where=hidden)
    return scalar_or_array(result) if out is None else out


def _weighted_backward(
    grad_: object, a: Array, lse_: object, axis: object, b_: object, keepdims: object, out: object
) -> Array:
    b = wide_real_array(b_, "b")
    if np.broadcast(a, b).shape != a.shape:
        raise ValueError(f"b has shape {b.shape}, which does not broadcast to a's shape {a.shape}")
    grad, lse = wide_real_array(grad_, "grad"), wide_real_array(lse_, "lse")
    dtype = result_dtype(*_typed((grad_, grad), (a, a), (lse_, lse), (b_, b)))
    axes = class_axes(axis, a.ndim)
    shape = reduced_shape(a.shape, axes, bool(keepdims))
    for name, array in (("grad", grad), ("lse", lse)):
        if array.shape != shape:
            raise ValueError(
                f"{name} has shape {array.shape}, expected {shape}: "
                f"a has shape {a.shape}, axis is {axis}"
            )
    target = (
        np.empty_like(a, dtype=dtype, subok=False)
        if out is None
        else checked_out(out, "out", a.shape, dtype)
    )
    if is_wide(dtype):
        kept = reduced_shape(a.shape, axes, keepdims=True)
        grad, lse = grad.reshape(kept).astype(dtype), lse.reshape(kept).astype(dtype)
        b = b.astype(dtype)
        exponent, rest = _wide.difference(a.astype(dtype), lse)
        result = _wide.scaled_exp((grad, b), exponent, rest)
        target[...] = np.where(b == 0, 0, np.where(np.isnan(result), np.nan, result))
    elif a.size:
        work = _kernel_dtype(dtype, (grad_, grad), (a, a), (lse_, lse), (b_, b))
        grad, a, lse, b = (plain(x, work) for x in (grad, a, lse, b))
        _fill_with_gradient(target, grad, a, lse, b, axes)
    return target


def _fill_with_gradient(
    target: Array, grad: Array, a: Array, lse: Array, b: Array, axes: tuple[int, ...]
) -> None:
    """Put grad b exp(a - lse), of nonempty operands of one dtype, into `target`."""
    full = a.shape or (1,)
    a, b, out = a.reshape(full), np.broadcast_to(b, full), target.reshape(full)
    result = NotImplemented
    if len(axes) == 1:
        kept = reduced_shape(full, axes, keepdims=True)
        result = _core.logsumexp_backward_weighted(
            grad.reshape(kept),
            a,
            lse.reshape(kept),
            axes[0],
            b,
            True,
            out if out.dtype == a.dtype else None,
        )
        if result is out:
            return
    if result is NotImplemented:
        rows, weights = _rows(a, full, axes), _rows(b, full, axes)
        moved = _core.logsumexp_backward_weighted(
            grad.reshape(-1), rows, lse.reshape(-1), 1, weights, False, None
        )
        last = range(-len(axes), 0)
        result = moved.reshape(np.moveaxis(a, axes, last).shape)
        result = np.moveaxis(result, last, axes)
    out[...] = result
