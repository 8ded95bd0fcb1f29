"""Slow references for every operation, and distances in units in the last place.

Two references that share no formula:

* ``mp_*`` take one row and evaluate the textbook definition with mpmath. Nothing is shifted or
  rearranged; instead the precision is high enough that no digit of ``exp`` is ever lost.
* the others take arrays and work in ``np.longdouble``: the maximum is subtracted without a rounding
  error, and the largest term stays out of the sum. They are fast enough for millions of elements.

Neither one touches the code under test. ``test_reference.py`` holds them against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Axis = int | tuple[int, ...] | None

WIDE = np.longdouble
EXTENDED = np.finfo(np.longdouble).nmant >= 63
"""Whether ``np.longdouble`` is wide enough to judge float64 results."""

BITS = 2048
"""Working precision of the mpmath rows: ``exp(-1000)`` beside 1 still has 600 good bits."""


# --- units in the last place --------------------------------------------------------------------


def ulp(value: Any, dtype: npt.DTypeLike) -> Array:
    """Return the distance of neighbouring numbers of ``dtype`` around ``value``.

    Subnormal values, and 0, have the distance of the smallest subnormal; values beyond the largest
    finite number that of the last binade.
    """
    info = np.finfo(np.dtype(dtype).type)
    digits = info.nmant + 1
    value = np.asarray(value, dtype=WIDE)
    exponent = np.where(value == 0, info.minexp, np.frexp(value)[1])
    exponent = np.clip(exponent, info.minexp + 1, info.maxexp)
    return np.ldexp(WIDE(1), exponent - digits)


def ulp_error(actual: Any, truth: Any, scale: Any = None) -> Array:
    """Return ``|actual - truth|`` in ulp of ``scale`` (of ``truth`` when not given).

    The ulp is that of the dtype of ``actual``. NaN equals NaN, and an infinity equals a truth that
    rounds to it; any other meeting with a NaN or an infinity is an infinite error.
    """
    actual = np.asarray(actual)
    info = np.finfo(actual.dtype.type)
    truth = np.asarray(truth, dtype=WIDE)
    with np.errstate(all="ignore"):
        got = actual.astype(WIDE)
        unit = ulp(truth if scale is None else scale, actual.dtype)
        error = np.abs(got - truth) / unit
        largest = WIDE(info.max)
        overflow = np.abs(truth) >= largest + ulp(largest, actual.dtype) / 2
        same_infinity = np.isinf(got) & overflow & (np.signbit(got) == np.signbit(truth))
        error = np.where(np.isfinite(error), error, np.inf)
        error = np.where(np.isinf(got) | np.isinf(truth), np.inf, error)
        error = np.where(same_infinity, 0, error)
        return np.where(np.isnan(got) & np.isnan(truth), 0, error)


def assert_close(actual: Any, truth: Any, bound: float, scale: Any = None, what: str = "") -> None:
    """Fail when an entry of ``actual`` is more than ``bound`` ulp of ``scale`` off ``truth``."""
    actual = np.asarray(actual)
    assert actual.shape == np.shape(truth), f"{what}: shape {actual.shape}, not {np.shape(truth)}"
    if actual.size == 0:
        return
    error = ulp_error(actual, truth, scale)
    worst = np.unravel_index(np.argmax(error), error.shape)
    assert error[worst] <= bound, (
        f"{what}: {float(error[worst]):.3g} ulp at {tuple(int(i) for i in worst)}, "
        f"allowed {bound}: got {actual[worst]!r}, truth {np.asarray(truth)[worst]!r}"
    )


# --- rows, arrays and back ----------------------------------------------------------------------


def as_rows(x: Any, axis: Axis) -> Array:
    """Return the lines of ``x`` along ``axis`` as a 2-d array, in C order of the other axes."""
    x = np.asarray(x)
    if axis is None:
        return x.reshape(1, -1)
    axes = (axis,) if isinstance(axis, int) else axis
    moved = np.moveaxis(x, axes, range(-len(axes), 0))
    batch = moved.shape[: x.ndim - len(axes)]
    count = int(np.prod(moved.shape[x.ndim - len(axes) :]))
    return moved.reshape(int(np.prod(batch)), count)


def from_rows(rows: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """Return the array of ``shape`` whose lines along ``axis`` are ``rows``."""
    if axis is None:
        return rows.reshape(shape)
    axes = (axis,) if isinstance(axis, int) else axis
    moved = np.moveaxis(np.empty(shape, dtype=np.int8), axes, range(-len(axes), 0))
    return np.moveaxis(rows.reshape(moved.shape), range(-len(axes), 0), axes)


def batch_shape(shape: tuple[int, ...], axis: Axis, keepdims: bool = False) -> tuple[int, ...]:
    """Return ``shape`` without ``axis``, or with length 1 there."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    taken = {a % len(shape) for a in axes}
    if keepdims:
        return tuple(1 if i in taken else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in taken)


# --- rows in longdouble -------------------------------------------------------------------------


def _difference(a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``a - b`` rounded and its rounding error: together they are exact."""
    high = a - b
    part = high - a
    low = (a - (high - part)) - (b + part)
    return high, np.where(np.isfinite(low), low, 0)


def _sum_except(terms: Array, index: Array) -> Array:
    """Return the sum of each row without the entry at ``index``."""
    others = terms.copy()
    np.put_along_axis(others, index[:, None], 0, axis=1)
    return np.sum(others, axis=1)


class Rows:
    """A 2-d array of logits, in longdouble, with everything that follows from it.

    Attributes
    ----------
    lse, softmax, log_softmax
        The three normalisations of each row, special values included.
    """

    def __init__(self, x: Array) -> None:
        with np.errstate(all="ignore"):
            self.x = np.asarray(x, dtype=WIDE)
            top = np.argmax(self.x, axis=1)
            maximum = np.max(self.x, axis=1)
            high, low = _difference(self.x, maximum[:, None])
            self._terms = np.exp(high) * (1 + low)
            rest = _sum_except(self._terms, top)
            self._total = 1 + rest
            log_total = np.log1p(rest)

            nan = np.isnan(self.x).any(axis=1)
            infinite = (self.x == np.inf).any(axis=1) & ~nan
            nothing = (self.x == -np.inf).all(axis=1)
            self.undefined = nan | infinite | nothing

            lse = maximum + log_total
            self.lse = np.select([nan, infinite, nothing], [np.nan, np.inf, -np.inf], lse)
            self.softmax = self._terms / self._total[:, None]
            self.softmax[self.undefined] = np.nan
            self.log_softmax = high + (low - log_total[:, None])
            beside = np.where(self.x == np.inf, np.nan, -np.inf)
            self.log_softmax[infinite] = beside[infinite]
            self.log_softmax[nan | nothing] = np.nan

    def loss(self, labels: Array) -> Array:
        """Return minus the log-probability of each row's label."""
        return -np.take_along_axis(self.log_softmax, labels[:, None], axis=1)[:, 0]

    def gradient(self, labels: Array) -> Array:
        """Return ``softmax - onehot``, the label's entry as minus the sum of the others."""
        with np.errstate(all="ignore"):
            gradient = self.softmax.copy()
            label = -_sum_except(self._terms, labels) / self._total
            np.put_along_axis(gradient, labels[:, None], label[:, None], axis=1)
        gradient[self.undefined] = np.nan
        return gradient


# --- arrays in longdouble -----------------------------------------------------------------------


def softmax(x: Any, axis: Axis = None) -> Array:
    """Return ``exp(x) / sum(exp(x))``."""
    return from_rows(Rows(as_rows(x, axis)).softmax, np.shape(x), axis)


def log_softmax(x: Any, axis: Axis = None) -> Array:
    """Return ``x - log(sum(exp(x)))``."""
    return from_rows(Rows(as_rows(x, axis)).log_softmax, np.shape(x), axis)


def logsumexp(a: Any, axis: Axis = None, b: Any = None, keepdims: bool = False) -> Array:
    """Return ``log(sum(b * exp(a)))``; NaN where the sum is negative."""
    shape = batch_shape(np.shape(a), axis, keepdims)
    rows = as_rows(a, axis)
    if b is None:
        return Rows(rows).lse.reshape(shape)
    with np.errstate(all="ignore"):
        weight = as_rows(np.broadcast_to(b, np.shape(a)), axis).astype(WIDE)
        exponent = rows.astype(WIDE) + np.log(np.abs(weight))
        shift = np.max(exponent, axis=1, keepdims=True)
        shift[~np.isfinite(shift)] = 0
        total = np.sum(np.sign(weight) * np.exp(exponent - shift), axis=1)
        return (shift[:, 0] + np.log(total)).reshape(shape)


def logsumexp_backward(grad: Any, a: Any, lse: Any, axis: Axis = None, b: Any = None) -> Array:
    """Return ``grad * b * exp(a - lse)`` with the ``lse`` that was saved."""
    shape = batch_shape(np.shape(a), axis, keepdims=True)
    with np.errstate(all="ignore"):
        x = np.asarray(a, dtype=WIDE)
        high, low = _difference(x, np.asarray(lse, dtype=WIDE).reshape(shape))
        result = np.asarray(grad, dtype=WIDE).reshape(shape) * (np.exp(high) * (1 + low))
        return result if b is None else result * np.asarray(b, dtype=WIDE)


def softmax_backward(grad: Any, y: Any, axis: Axis = None) -> tuple[Array, Array]:
    """Return ``y * (grad - sum(grad * y))`` and the scale of its rounding errors."""
    g, p = as_rows(grad, axis).astype(WIDE), as_rows(y, axis).astype(WIDE)
    inner = np.sum(g * p, axis=1, keepdims=True)
    scale = np.abs(p) * (np.abs(g) + np.sum(np.abs(g * p), axis=1, keepdims=True))
    result = p * (g - inner)
    return from_rows(result, np.shape(y), axis), from_rows(scale, np.shape(y), axis)


def log_softmax_backward(grad: Any, y: Any, axis: Axis = None) -> tuple[Array, Array]:
    """Return ``grad - exp(y) * sum(grad)`` and the larger of the two terms."""
    g, log_p = as_rows(grad, axis).astype(WIDE), as_rows(y, axis).astype(WIDE)
    product = np.exp(log_p) * np.sum(g, axis=1, keepdims=True)
    scale = np.maximum(np.abs(g), np.abs(product))
    return from_rows(g - product, np.shape(y), axis), from_rows(scale, np.shape(y), axis)


def cross_entropy(
    logits: Any, labels: Any, axis: int = -1, ignore_index: int | None = None
) -> tuple[Array, Array]:
    """Return the loss of each row and its gradient, for integer labels; ignored rows are 0."""
    rows = Rows(as_rows(logits, axis))
    flat = np.asarray(labels).reshape(-1)
    ignored = np.zeros(flat.shape, dtype=bool) if ignore_index is None else flat == ignore_index
    safe = np.where(ignored, 0, flat).astype(np.intp)
    loss, gradient = rows.loss(safe), rows.gradient(safe)
    loss[ignored] = 0
    gradient[ignored] = 0
    shape = np.shape(logits)
    return loss.reshape(batch_shape(shape, axis)), from_rows(gradient, shape, axis)


def cross_entropy_soft(logits: Any, t: Any, axis: int = -1) -> tuple[Array, Array, Array]:
    """Return loss and gradient for probability labels, and the larger term of the gradient."""
    rows, target = Rows(as_rows(logits, axis)), as_rows(t, axis).astype(WIDE)
    with np.errstate(all="ignore"):
        terms = np.where(target == 0, 0, target * rows.log_softmax)
        loss = -np.sum(terms, axis=1)
        product = np.sum(target, axis=1, keepdims=True) * rows.softmax
        scale = np.maximum(np.abs(product), np.abs(target))
        gradient = product - target
    shape = np.shape(logits)
    return (
        loss.reshape(batch_shape(shape, axis)),
        from_rows(gradient, shape, axis),
        from_rows(scale, shape, axis),
    )


def mse(pred: Any, target: Any) -> tuple[Array, Array]:
    """Return the squared difference of each element and its derivative."""
    difference = np.asarray(pred, dtype=WIDE) - np.asarray(target, dtype=WIDE)
    return difference * difference, 2 * difference


def binary_cross_entropy(
    x: Any, t: Any, pos_weight: Any = 1.0, weight: Any = 1.0
) -> tuple[Array, Array, Array]:
    """Return losses, gradient and the gradient's larger term, elementwise."""
    with np.errstate(all="ignore"):
        x, t, p, w = (np.asarray(a).astype(WIDE) for a in (x, t, pos_weight, weight))
        e = np.exp(-np.abs(x))
        positive, rest = p * t, 1 - t
        linear = np.where(x < 0, positive, rest)
        linear = np.where(linear == 0, 0, linear * np.abs(x))
        loss = w * ((positive + rest) * np.log1p(e) + linear)
        large, small = 1 / (1 + e), e / (1 + e)
        up = positive * np.where(x < 0, large, small)
        down = rest * np.where(x < 0, small, large)
        return loss, w * (down - up), np.abs(w) * np.maximum(np.abs(up), np.abs(down))


def classification_error(scores: Any, labels: Any, axis: int = -1) -> Array:
    """Return 1 where the first maximum is not the label, or where the row has a NaN."""
    rows, flat = as_rows(scores, axis), np.asarray(labels).reshape(-1)
    wrong = np.isnan(rows).any(axis=1) | (np.argmax(rows, axis=1) != flat)
    return wrong.astype(WIDE).reshape(batch_shape(np.shape(scores), axis))


# --- single rows in mpmath ----------------------------------------------------------------------


def mp_exp(row: Sequence[Any] | Array) -> list[mpmath.mpf]:
    """Return ``exp`` of every entry, to the working precision."""
    return [mpmath.exp(mpmath.mpf(float(v))) for v in row]


def mp_row(row: Sequence[Any] | Array) -> dict[str, Any]:
    """Return ``lse``, ``softmax`` and ``log_softmax`` of a row of finite numbers."""
    with mpmath.workprec(BITS):
        terms = mp_exp(row)
        total = mpmath.fsum(terms)
        lse = mpmath.log(total)
        return {
            "lse": lse,
            "softmax": [e / total for e in terms],
            "log_softmax": [mpmath.mpf(float(v)) - lse for v in row],
        }


def mp_cross_entropy(row: Sequence[Any] | Array, label: int) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    """Return loss and gradient of a row with a hard label."""
    truth = mp_row(row)
    with mpmath.workprec(BITS):
        gradient = [p - (1 if c == label else 0) for c, p in enumerate(truth["softmax"])]
        return -truth["log_softmax"][label], gradient


def mp_cross_entropy_soft(
    row: Sequence[Any] | Array, t: Sequence[Any] | Array
) -> tuple[mpmath.mpf, list[mpmath.mpf]]:
    """Return loss and gradient of a row with probability labels."""
    truth = mp_row(row)
    with mpmath.workprec(BITS):
        target = [mpmath.mpf(float(v)) for v in t]
        loss = -mpmath.fsum(v * lp for v, lp in zip(target, truth["log_softmax"], strict=True))
        total = mpmath.fsum(target)
        return loss, [total * p - v for p, v in zip(truth["softmax"], target, strict=True)]


def mp_logsumexp(row: Sequence[Any] | Array, b: Sequence[Any] | Array) -> mpmath.mpf:
    """Return ``log(sum(b * exp(row)))``."""
    with mpmath.workprec(BITS):
        weights = [mpmath.mpf(float(w)) for w in b]
        return mpmath.log(mpmath.fdot(weights, mp_exp(row)))


def mp_logsumexp_backward(grad: Any, row: Sequence[Any] | Array, lse: Any) -> list[mpmath.mpf]:
    """Return ``grad * exp(row - lse)`` for the saved ``lse``."""
    with mpmath.workprec(BITS):
        saved = mpmath.mpf(float(lse))
        return [mpmath.mpf(float(grad)) * mpmath.exp(mpmath.mpf(float(v)) - saved) for v in row]


def mp_softmax_backward(grad: Sequence[Any] | Array, y: Sequence[Any] | Array) -> list[mpmath.mpf]:
    """Return ``y * (grad - sum(grad * y))``."""
    with mpmath.workprec(BITS):
        g, p = [mpmath.mpf(float(v)) for v in grad], [mpmath.mpf(float(v)) for v in y]
        inner = mpmath.fdot(g, p)
        return [v * (u - inner) for u, v in zip(g, p, strict=True)]


def mp_log_softmax_backward(
    grad: Sequence[Any] | Array, y: Sequence[Any] | Array
) -> list[mpmath.mpf]:
    """Return ``grad - exp(y) * sum(grad)``."""
    with mpmath.workprec(BITS):
        g = [mpmath.mpf(float(v)) for v in grad]
        total = mpmath.fsum(g)
        return [u - e * total for u, e in zip(g, mp_exp(y), strict=True)]


def mp_mse(pred: Sequence[Any] | Array, target: Sequence[Any] | Array) -> mpmath.mpf:
    """Return the mean of the squared differences."""
    with mpmath.workprec(BITS):
        pairs = list(zip(pred, target, strict=True))
        squares = [(mpmath.mpf(float(p)) - mpmath.mpf(float(t))) ** 2 for p, t in pairs]
        return mpmath.fsum(squares) / len(squares)


def mp_ulp_error(actual: Any, truth: Any, scale: Any = None) -> float:
    """Return the largest error of a scalar or a row in ulp, for finite truths, all in mpmath."""
    values = np.atleast_1d(np.asarray(actual))
    truths = truth if isinstance(truth, list) else [truth]
    scales = truths if scale is None else scale if isinstance(scale, list) else [scale]
    scales = scales * len(truths) if len(scales) == 1 else scales
    assert len(values) == len(truths) == len(scales)
    info = np.finfo(values.dtype.type)
    worst = 0.0
    with mpmath.workprec(BITS):
        for value, want, size in zip(values, truths, scales, strict=True):
            if not np.isfinite(value):
                return np.inf
            exponent = mpmath.frexp(size)[1] if size else info.minexp
            exponent = min(max(int(exponent), int(info.minexp) + 1), int(info.maxexp))
            unit = mpmath.ldexp(mpmath.mpf(1), exponent - int(info.nmant) - 1)
            worst = max(worst, float(abs(mpmath.mpf(float(value)) - want) / unit))
    return worst
