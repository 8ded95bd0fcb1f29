"""What NumPy computes instead of a kernel: sums of exponentials of longdouble and complex numbers.

With t_i = b_i exp(a_i), k the position of the largest |t_i| and 2^e the power of two above b_k,

    sum_i t_i = exp(a_k) 2^e S,    S = sum_i b_i 2^-e exp(a_i - a_k).

The shift is that of the largest |t_i|, not the largest a_i, whose weight may be tiny. Every summand
of S is formed as a mantissa and a power of two, so that neither a huge weight nor a huge
exponential overflows; where a_i = a_k it is b_i 2^-e itself, so that such terms cancel exactly.
S is held as the sum of two numbers: where one term dominates, the second one keeps what the others
add.

Rows lie along the last axis of 2-d arrays and are longdouble, complex128 or clongdouble.
Complex numbers are summed as their real and imaginary parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._types import Array

# ln 2 in two parts. The first one has 32 bits, so that its products with small integers are exact.
_LN2_HIGH = "0.69314718036912381649017333984375"
_LN2_LOW = "1.90821492927058781614426568075500134e-10"
# So many elements are computed at a time, that the temporaries stay in cache.
_BLOCK = 1 << 14


# --- The logarithm of a weighted sum of exponentials ----------------------------------------------


def log_of_sum(a: Array, b: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """The logarithm of sum b exp(a) and the sign of the sum, for each row, computed in `dtype`.

    Real numbers: the logarithm of the absolute value. Complex numbers: the principal logarithm, and
    the sign is sum / |sum|. An element whose weight is 0 does not count, whatever its `a`.
    """
    rows, length = a.shape
    log, sign = np.full(rows, -np.inf, dtype), np.zeros(rows, dtype)
    if length:
        function = _log_of_complex_sum if dtype.kind == "c" else _log_of_real_sum
        step = max(1, _BLOCK // length)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            log[part], sign[part] = function(a[part].astype(dtype), b[part].astype(dtype))
    return log, sign


def _log_of_real_sum(a: Array, b: Array) -> tuple[Array, Array]:
    logs = _logs(a, b)
    shift, power = _largest_term(a, b, logs)
    above = difference(np.where(b == 0, -np.inf, a), shift)
    high, low = exact_sum(scaled_exp((b,), *above, -power))
    sign = np.sign(high)
    log = shift[:, 0] + _log(np.abs(high), sign * low, power[:, 0])

    infinite = logs == np.inf
    plus, minus = ((infinite & (b > 0)).any(axis=-1), (infinite & (b < 0)).any(axis=-1))
    nan = np.isnan(logs).any(axis=-1) | (plus & minus)
    log[plus | minus] = np.inf
    sign[plus], sign[minus] = 1, -1
    log[nan] = sign[nan] = np.nan
    return log, sign


def _log_of_complex_sum(a: Array, b: Array) -> tuple[Array, Array]:
    shift, power = _largest_term(a, b, _logs(a, b))
    above = difference(np.where(b == 0, -np.inf, a.real), shift)
    nothing = (b == 0) | (a.real == -np.inf)
    weights = np.where(nothing, 0, b) * phase(np.where(nothing, 0, a.imag))
    x, y = (exact_sum(scaled_exp((part,), *above, -power)) for part in (weights.real, weights.imag))
    log = np.empty(len(a), a.dtype)
    log.real = shift[:, 0] + _log_abs(x, y, power[:, 0])
    log.imag = np.arctan2(y[0], x[0])
    # What infinities give is what they give in the formula itself, by the rules of C.
    special = ~np.isfinite(log) & ~np.isfinite(np.where(b == 0, 0, a) + b).all(axis=-1)
    log[special] = _log_by_formula(a[special], b[special])
    return log, np.where(log.real == -np.inf, 0, phase(log.imag))


def _logs(a: Array, b: Array) -> Array:
    """log|b exp(a)|."""
    return np.where(b == 0, -np.inf, a.real + np.log(np.abs(b)))


def _largest_term(a: Array, b: Array, logs: Array) -> tuple[Array, Array]:
    """For the largest term of each row: the real part of its `a`, and the exponent of its `b`."""
    top = np.argmax(logs, axis=-1, keepdims=True)  # the first NaN, if there is one
    shift = np.take_along_axis(a.real, top, axis=-1)
    shift[np.take_along_axis(logs, top, axis=-1) == -np.inf] = 0  # there is no term
    return shift, np.frexp(np.abs(np.take_along_axis(b, top, axis=-1)))[1]


def _log(high: Array, low: Array, power: Array) -> Array:
    """log((high + low) 2^power), for positive numbers; low is a rounding error of high."""
    limit = np.finfo(high.dtype).maxexp - 64
    inside = np.clip(power, -limit, limit)
    total, rest = np.ldexp(high, inside), np.ldexp(low, inside)
    log = np.where(
        (total > 0.5) & (total < 2), np.log1p((total - 1) + rest), np.log(total) + low / high
    )
    return np.where(high == 0, -np.inf, log + (power - inside) * _ln2(high))


def _log_abs(x: tuple[Array, Array], y: tuple[Array, Array], power: Array) -> Array:
    """log|(x + iy) 2^power|, for numbers in two parts."""
    size = np.hypot(x[0], y[0])
    rest = (x[0] * x[1] + y[0] * y[1]) / size
    log = _log(size, np.where(np.isfinite(rest), rest, 0), power)
    # Near 1 the rounding of the absolute value would count: |z|^2 - 1 is found without it.
    (u, u_rest), (v, v_rest) = ((np.ldexp(part, power) for part in z) for z in (x, y))
    large, small = np.maximum(abs(u), abs(v)), np.minimum(abs(u), abs(v))
    excess = (large - 1) * (large + 1) + small * small + 2 * (u * u_rest + v * v_rest)
    return np.where(abs(excess) < 0.5, np.log1p(excess) / 2, log)


def _log_by_formula(a: Array, b: Array) -> Array:
    exp = np.exp(a)
    product = np.where(b.imag == 0, _times_real(exp, b.real), b * exp)
    log: Array = np.log(np.where(b == 0, 0, product).sum(axis=-1))
    return log


def _times_real(z: Array, factor: Array) -> Array:
    product = np.empty_like(z)
    product.real, product.imag = z.real * factor, z.imag * factor
    return product


# --- In place of the compiled functions -----------------------------------------------------------
# They are called as those are, with one class axis, and return a new array: `out` is not filled.


def logsumexp_backward(grad: Array, a: Array, lse: Array, _axis: int, _out: object) -> Array:
    return scaled_exp((grad,), *difference(a, lse))


def logsumexp(x: Array, axis: int) -> Array:
    """The logarithm of the sum along an axis."""
    rows = _rows(x, axis)
    log, _ = log_of_sum(rows, np.ones_like(rows), rows.dtype)
    return log.reshape((*x.shape[:axis], *x.shape[axis + 1 :]))


def softmax(x: Array, axis: int, _out: object) -> Array:
    rows = _rows(x, axis)
    if rows.dtype.kind == "c":
        nothing = rows.real == -np.inf
        turn = phase(np.where(nothing, 0, rows.imag))
        size = scaled_exp((), *difference(rows.real, rows.real.max(axis=-1, keepdims=True)))
        exp = _times_real(turn, size)
        total = exact_sum(exp.real)[0] + 1j * exact_sum(exp.imag)[0]
    else:
        exp = scaled_exp((), *difference(rows, rows.max(axis=-1, keepdims=True)))
        total = exact_sum(exp)[0]
    return _from_rows(exp / total[:, np.newaxis], x.shape, axis)


def log_softmax(x: Array, axis: int, _out: object) -> Array:
    rows = _rows(x, axis)
    top = np.take_along_axis(rows, np.argmax(rows, axis=-1, keepdims=True), axis=-1)
    if rows.dtype.kind == "c":
        y = rows - top
        log, _ = log_of_sum(y, np.ones_like(y), y.dtype)
        y -= log[:, np.newaxis]
    else:
        above, low = difference(rows, top)
        log = _log(*exact_sum(scaled_exp((), above, low)), np.zeros(len(rows), np.int32))
        y = above + (low - log[:, np.newaxis])
        infinite = (top == np.inf)[:, 0]
        y[infinite] = np.where(rows[infinite] == np.inf, np.nan, -np.inf)
    return _from_rows(y, x.shape, axis)


def backward(grad: Array, y: Array, axis: int, log: bool, temperature: Any, _out: object) -> Array:
    result = (log_softmax_backward if log else softmax_backward)(grad, y, axis, None)
    return divided(result, temperature, axis)


def divided(x: Array, temperature: Any, axis: int) -> Array:
    """Return x / temperature, for one temperature or one for each row; None stands for 1."""
    if temperature is None:
        return x
    divisor = np.expand_dims(temperature, axis) if np.ndim(temperature) else temperature
    quotient = np.empty(x.shape, np.result_type(x.dtype, np.float64))
    if x.dtype.kind == "c":  # part by part: a quotient of complex numbers makes NaN of -inf
        quotient.real, quotient.imag = x.real / divisor, x.imag / divisor
    else:
        quotient[...] = x / divisor
    return quotient


def softmax_backward(grad: Array, y: Array, axis: int, _out: object) -> Array:
    g, p = _rows(grad, axis), _rows(y, axis)
    return _from_rows(p * (g - (g * p).sum(axis=-1, keepdims=True)), y.shape, axis)


def log_softmax_backward(grad: Array, y: Array, axis: int, _out: object) -> Array:
    g, log_p = _rows(grad, axis), _rows(y, axis)
    return _from_rows(g - np.exp(log_p) * g.sum(axis=-1, keepdims=True), y.shape, axis)


def _rows(x: Array, axis: int) -> Array:
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    return rows.astype(np.result_type(x.dtype, np.float64), copy=False)


def _from_rows(rows: Array, shape: tuple[int, ...], axis: int) -> Array:
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
    return np.moveaxis(rows.reshape(moved), -1, axis)


# --- Arithmetic -----------------------------------------------------------------------------------


def difference(x: Array, y: Array) -> tuple[Array, Array]:
    """Return x - y as two numbers: rounded, and the rounding error (0 beside infinities)."""
    high = x - y
    part = high - x
    low = (x - (high - part)) - (y + part)
    return high, np.where(np.isfinite(low), low, 0)


def scaled_exp(
    factors: Iterable[Array], exponent: Array, rest: Array, power: Array | int = 0
) -> Array:
    """exp(exponent + rest) 2^power times all factors: one may be huge, another tiny."""
    limit = 4 * np.finfo(exponent.dtype).maxexp
    turns = np.clip(np.rint(exponent / _ln2(exponent)), -limit, limit)
    kind = exponent.dtype.type
    mantissa = np.exp((exponent - turns * kind(_LN2_HIGH)) - turns * kind(_LN2_LOW) + rest)
    power = power + turns.astype(np.int32)
    for factor in factors:
        part, exponent_of_factor = np.frexp(factor)
        mantissa = mantissa * part
        power = power + exponent_of_factor
    product: Array = np.ldexp(mantissa, power)
    return product


def exact_sum(x: Array) -> tuple[Array, Array]:
    """The sum of each row as two numbers, rounded and the rest; for numbers from -1 to 1.

    Sums of multiples of one unit, large enough for the number of terms, are exact; what is left is
    added up apart.
    """
    large = np.ldexp(x.dtype.type(1), x.shape[-1].bit_length() + 1)
    multiple = (x + large) - large
    high, low = multiple.sum(axis=-1), (x - multiple).sum(axis=-1)
    total = high + low
    return total, (high - total) + low


def phase(angle: Array) -> Array:
    """exp(i angle)."""
    z = np.empty(angle.shape, np.result_type(angle.dtype, np.complex64))
    z.real, z.imag = np.cos(angle), np.sin(angle)
    return z


def _ln2(x: Array) -> Any:
    kind = x.dtype.type
    return kind(_LN2_HIGH) + kind(_LN2_LOW)
