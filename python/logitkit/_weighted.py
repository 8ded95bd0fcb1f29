"""What does logsumexp do with weights `b` or with `return_sign`? A plain NumPy path, in float64.

With t_i = b_i exp(a_i), k the position of the largest |t_i|, and a shift m = a_k + log|b_k|:

    log|sum_i t_i| = m + log|T_k + R|,    T_i = t_i exp(-m),    R = sum_{i != k} T_i

The shift is the largest a + log|b|, not the largest a, whose weight may be tiny. T_k is +-1 but for
the rounding of m, so the logarithm is the log1p of the small number |T_k| - 1 + sign(t_k) R.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _normalize
from ._normalize import reduced_shape, scalar_or_array
from ._operands import checked_out, class_axes, real_array, result_dtype, silent

if TYPE_CHECKING:
    from ._types import Array


@silent
def logsumexp(
    a_: object, axis: object, b_: object, keepdims: object, return_sign: object, out: object
) -> Any:
    if b_ is None:  # positive terms only
        result = _normalize.logsumexp(a_, axis, keepdims, out)
        value = np.asarray(result)
        sign = np.where(np.isnan(value), np.nan, value > -np.inf).astype(value.dtype)
        return result, scalar_or_array(sign)
    a, b = real_array(a_, "a"), real_array(b_, "b")
    dtype = result_dtype(a, b)
    terms = np.broadcast(a, b)
    axes = class_axes(axis, terms.ndim)
    shape = reduced_shape(terms.shape, axes, bool(keepdims))
    target = np.empty(shape, dtype) if out is None else checked_out(out, "out", shape, dtype)
    value, sign = _log_of_sum(*(_rows(np.broadcast_to(x, terms.shape), axes) for x in (a, b)))
    if not return_sign:
        value = np.where(sign < 0, np.nan, value)
    target[...] = value.reshape(shape)
    result = scalar_or_array(target) if out is None else out
    return (result, scalar_or_array(sign.reshape(shape).astype(dtype))) if return_sign else result


@silent
def logsumexp_backward(
    grad_: object, a_: object, lse_: object, axis: object, b_: object, keepdims: object, out: object
) -> Any:
    grad, a = real_array(grad_, "grad"), real_array(a_, "a")
    lse, b = real_array(lse_, "lse"), real_array(b_, "b")
    dtype = result_dtype(grad, a, lse, b)
    axes = class_axes(axis, a.ndim)
    small = reduced_shape(a.shape, axes, bool(keepdims))
    for name, array in (("grad", grad), ("lse", lse)):
        if array.shape != small:
            raise ValueError(
                f"{name} has shape {array.shape}, expected {small}: "
                f"a has shape {a.shape}, axis is {axis}"
            )
    if np.broadcast(a, b).shape != a.shape:
        raise ValueError(f"b has shape {b.shape}, which does not broadcast to a's shape {a.shape}")
    target = (
        np.empty_like(a, dtype=dtype) if out is None else checked_out(out, "out", a.shape, dtype)
    )
    kept = reduced_shape(a.shape, axes, keepdims=True)
    grad, lse, a, b = (x.astype(np.float64) for x in (grad.reshape(kept), lse.reshape(kept), a, b))
    result = grad * _scaled_terms(a, b, lse)
    target[...] = np.where(np.isnan(result), np.nan, result)
    return scalar_or_array(target) if out is None else out


def _rows(x: Array, axes: tuple[int, ...]) -> Array:
    """float64, the class axes merged into one, the last."""
    x = np.moveaxis(np.atleast_1d(x.astype(np.float64)), axes, tuple(range(-len(axes), 0)))
    batch = x.shape[: x.ndim - len(axes)]
    return x.reshape(*batch, math.prod(x.shape[len(batch) :]))


def _log_of_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """log|sum b exp(a)| along the last axis, and the sign of the sum."""
    if a.shape[-1] == 0:
        return np.full(a.shape[:-1], -np.inf), np.zeros(a.shape[:-1])
    logs = np.where(b == 0, -np.inf, a + np.log(np.abs(b)))
    top = np.argmax(logs, axis=-1, keepdims=True)  # the first NaN, if there is one
    shift = np.take_along_axis(logs, top, axis=-1)
    shift[shift == -np.inf] = 0
    terms = np.where(logs == np.inf, np.copysign(np.inf, b), _scaled_terms(a, b, shift))
    top_term = np.take_along_axis(terms, top, axis=-1)
    np.put_along_axis(terms, top, 0.0, axis=-1)
    sign = np.sign(top_term)
    excess = np.abs(top_term) - 1 + sign * terms.sum(axis=-1, keepdims=True)
    # 1 + excess is exact where it may cancel, log1p is accurate everywhere else.
    logarithm = np.where(excess < -0.5, np.log(np.abs(1 + excess)), np.log1p(excess))
    value, sign = shift + logarithm, sign * np.sign(1 + excess)
    value, sign = (np.where(np.isnan(value), np.nan, x)[..., 0] for x in (value, sign))
    return value, sign


def _scaled_terms(a: Array, b: Array, shift: Array) -> Array:
    """Return b exp(a - shift), so that a huge b may meet a tiny exponential; 0 where b is 0."""
    half = np.exp((a - shift) / 2)
    return np.where(b == 0, 0.0, b * half * half)
