"""Normalisations along an axis and their gradients: documented calls of the compiled module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from . import _logitkit_core as _core
from . import _normalize, _weighted
from ._front import front

if TYPE_CHECKING:
    from ._types import Array, ArrayLike, Axis, DTypeLike, Floats, ScalarOrFloats

__all__ = [
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "logsumexp_backward",
    "softmax",
    "softmax_backward",
]

# The default temperature, which a plain call is recognised by.
_ONE = 1.0


@overload
def softmax(
    x: ArrayLike,
    axis: Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = _ONE,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_lse: Literal[False] = False,
) -> Floats: ...
@overload
def softmax(
    x: ArrayLike,
    axis: Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = _ONE,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_lse: Literal[True],
) -> tuple[Floats, ScalarOrFloats]: ...
@front(_core.softmax, "x, axis, out")
def softmax(
    x: ArrayLike,
    axis: Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = _ONE,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_lse: bool = False,
) -> Any:
    """Return the softmax of `x`: numbers from 0 to 1 that sum to 1 along an axis.

    ``softmax(x)_i = exp(x_i) / sum_j exp(x_j)``, [1]_ equation 6.29.

    Parameters
    ----------
    x : array_like
        Numbers of any shape, real or complex.
    axis : int or tuple of ints, optional
        The axis that is normalised, or several as if they were one. All of them by default.
    where : array_like of bool, optional
        What takes part, broadcast to `x`. The rest counts as -inf: its result is 0, also in a row
        in which nothing takes part.
    temperature : float or array_like
        From 1e-30 to 1e30; `x` is divided by it first. One for each row has the shape of `x`
        without the class axes, or with them at length 1, or broadcasts to it.
    dtype : data-type, optional
        The floating-point or complex dtype of the result and of the computation, which is float32
        for the 16-bit types.
    out : ndarray, optional
        Takes the result: of the shape of `x` and the dtype of the result. ``out=x`` works in place.
    return_lse : bool
        Whether to return the logsumexp of ``x / temperature`` as well, from the same pass.

    Returns
    -------
    ndarray
        Of the shape of `x`. Floating-point and complex dtypes are kept, integers and bool give
        float64. A NumPy scalar when `x` is 0-d.
    lse : scalar or ndarray
        Only with ``return_lse=True``: of the shape of `x` without the class axes; float32 for the
        16-bit types.

    Raises
    ------
    TypeError
        If `x` is masked, sparse or no array of numbers, if `axis` is no integer, if `where` is not
        of bool, if `dtype` is neither floating-point nor complex, or real with complex numbers, or
        if `out` has another dtype than the result.
    ValueError
        If an axis is named twice, if a temperature is not positive and finite, if `where` or
        `temperature` does not broadcast, or if `out` is read-only or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    log_softmax, logsumexp, softmax_backward

    Notes
    -----
    The largest error is 3 units in the last place in float32 and 4 in float64, however far apart
    the elements are; 16-bit types are computed in float32 and rounded once. A NaN or +inf makes
    its whole row NaN, and so does a row of -inf only. longdouble and complex numbers are computed
    by NumPy.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning*, MIT Press 2016, section 6.2.2.3.

    Examples
    --------
    >>> import numpy as np
    >>> import logitkit as lk
    >>> lk.softmax([1.0, 2.0, 3.0])
    array([0.09003057, 0.24472847, 0.66524096])

    Sharper, and without the last one:

    >>> lk.softmax([1.0, 2.0, 3.0], temperature=0.5, where=[True, True, False])
    array([0.11920292, 0.88079708, 0.        ])

    Each row of a batch, in place:

    >>> x = np.array([[0.0, 0.0], [1000.0, 1001.0]], dtype=np.float32)
    >>> lk.softmax(x, axis=1, out=x) is x
    True
    >>> x.round(4)
    array([[0.5   , 0.5   ],
           [0.2689, 0.7311]], dtype=float32)
    """
    result: Any
    if where is None and temperature is _ONE and dtype is None and return_lse is False:
        result = _core.softmax(x, axis, out)
        if result is NotImplemented:
            result = _normalize.softmax(x, axis, out)
        return result
    result = NotImplemented
    if dtype is None:
        result = _core.normalize(x, axis, False, temperature, return_lse, out, where)
    if result is NotImplemented:
        result = _normalize.normalize_with(
            x, axis, where, temperature, dtype, out, return_lse, log=False
        )
    return result


@overload
def log_softmax(
    x: ArrayLike,
    axis: Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = _ONE,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_lse: Literal[False] = False,
) -> Floats: ...
@overload
def log_softmax(
    x: ArrayLike,
    axis: Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = _ONE,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_lse: Literal[True],
) -> tuple[Floats, ScalarOrFloats]: ...
@front(_core.log_softmax, "x, axis, out")
def log_softmax(
    x: ArrayLike,
    axis: Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = _ONE,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
    return_lse: bool = False,
) -> Any:
    """Return the logarithm of the softmax of `x`: log-probabilities along an axis.

    ``log_softmax(x)_i = x_i - log(sum_j exp(x_j))``, [1]_ equation 6.30.

    Parameters
    ----------
    x : array_like
        Numbers of any shape, real or complex.
    axis : int or tuple of ints, optional
        The axis that is normalised, or several as if they were one. All of them by default.
    where : array_like of bool, optional
        What takes part, broadcast to `x`. The rest counts as -inf: its result is -inf, also in a
        row in which nothing takes part.
    temperature : float or array_like
        From 1e-30 to 1e30; `x` is divided by it first. One for each row has the shape of `x`
        without the class axes, or with them at length 1, or broadcasts to it.
    dtype : data-type, optional
        The floating-point or complex dtype of the result and of the computation, which is float32
        for the 16-bit types.
    out : ndarray, optional
        Takes the result: of the shape of `x` and the dtype of the result. ``out=x`` works in place.
    return_lse : bool
        Whether to return the logsumexp of ``x / temperature`` as well, from the same pass.

    Returns
    -------
    ndarray
        Of the shape of `x`. Floating-point and complex dtypes are kept, integers and bool give
        float64. A NumPy scalar when `x` is 0-d.
    lse : scalar or ndarray
        Only with ``return_lse=True``: of the shape of `x` without the class axes; float32 for the
        16-bit types.

    Raises
    ------
    TypeError
        If `x` is masked, sparse or no array of numbers, if `axis` is no integer, if `where` is not
        of bool, if `dtype` is neither floating-point nor complex, or real with complex numbers, or
        if `out` has another dtype than the result.
    ValueError
        If an axis is named twice, if a temperature is not positive and finite, if `where` or
        `temperature` does not broadcast, or if `out` is read-only or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    softmax, logsumexp, log_softmax_backward

    Notes
    -----
    The largest error is 3 units in the last place in float32 and 4 in float64, also where one
    element dominates its row and the result is close to 0; 16-bit types are computed in float32
    and rounded once. A NaN makes its whole row NaN, and so does a row of -inf only; beside one
    +inf, which becomes NaN, all others become -inf. longdouble and complex numbers are computed by
    NumPy.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning*, MIT Press 2016, section 6.2.2.3.

    Examples
    --------
    >>> import logitkit as lk
    >>> lk.log_softmax([1.0, 2.0, 3.0])
    array([-2.40760596, -1.40760596, -0.40760596])

    The responsibilities of two components and the evidence, as in a mixture model's E-step:

    >>> y, evidence = lk.log_softmax([[-1.0, -2.0]], axis=1, return_lse=True)
    >>> print(y.round(4), evidence.round(4))
    [[-0.3133 -1.3133]] [-0.6867]

    A confident row keeps its digits:

    >>> print(f"{lk.log_softmax([40.0, 0.0])[0]:.6e}")
    -4.248354e-18
    """
    result: Any
    if where is None and temperature is _ONE and dtype is None and return_lse is False:
        result = _core.log_softmax(x, axis, out)
        if result is NotImplemented:
            result = _normalize.log_softmax(x, axis, out)
        return result
    result = NotImplemented
    if dtype is None:
        result = _core.normalize(x, axis, True, temperature, return_lse, out, where)
    if result is NotImplemented:
        result = _normalize.normalize_with(
            x, axis, where, temperature, dtype, out, return_lse, log=True
        )
    return result


@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    *,
    return_sign: Literal[True],
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> tuple[ScalarOrFloats, ScalarOrFloats]: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: Axis,
    b: ArrayLike | None,
    keepdims: bool,
    return_sign: Literal[True],
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> tuple[ScalarOrFloats, ScalarOrFloats]: ...
@front(_core.logsumexp, "a, axis, keepdims, out")
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Any:
    """Return the logarithm of a sum of exponentials, without overflow.

    ``logsumexp(a, b=b) = log(sum_j b_j exp(a_j))``, see [1]_.

    Parameters
    ----------
    a : array_like
        Numbers of any shape, real or complex.
    axis : int or tuple of ints, optional
        The axis or axes that are summed. All of them by default.
    b : array_like, optional
        Weights of any sign; `a` and `b` broadcast against each other. An exact 0 drops its
        element, also when that is infinite or NaN.
    keepdims : bool
        Whether the summed axes stay in the result, with length 1.
    return_sign : bool
        Whether to return the logarithm of the absolute value of the sum together with the sign of
        the sum. Without it a negative sum of real numbers gives NaN.
    where : array_like of bool, optional
        Elements that are False here count as if they were not there. Broadcasts to the shape of
        `a` (of `a` and `b` together).
    dtype : dtype, optional
        The floating-point or complex dtype of the result and of the computation.
    out : ndarray, optional
        Takes the result: of its shape and dtype.

    Returns
    -------
    scalar or ndarray
        The shape of `a`, broadcast with `b`, without the summed axes. Floating-point and complex
        dtypes are kept (those of `a` and `b` promoted as NumPy does; a number of Python's own
        adapts to the other one), integers and bool give float64. The logarithm of a complex sum has
        an imaginary part in (-pi, pi]; with `return_sign` the result is real.
    sign : scalar or ndarray
        Only with ``return_sign=True``: 1.0, 0.0, -1.0 or NaN; of a complex sum its phase,
        ``sum / abs(sum)``.

    Raises
    ------
    TypeError
        If `a` or `b` is masked, sparse or no array of numbers, if `where` is not bool, if `dtype`
        is neither floating-point nor complex, or real with complex operands, if `axis` is no
        integer, or if `out` has another dtype than the result.
    ValueError
        If an axis is named twice, if `a` and `b` do not broadcast, if `where` does not broadcast
        to them, or if `out` is read-only or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    softmax, log_softmax, logsumexp_backward

    Notes
    -----
    The largest error is 1.5 units in the last place in float32 and 2 in float64, units of the
    largest of ``abs(result)``, ``max(abs(a))`` and 1; with weights of both signs, times
    ``sum(abs(b) exp(a)) / abs(sum(b exp(a)))``. float16 and bfloat16 are rounded from the result
    in float32. longdouble and complex numbers are computed by NumPy, in float64 at least and with
    its bits, which may differ between processors. The sum of nothing is 0: its logarithm is -inf,
    its sign 0.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA Journal of Numerical Analysis 41 (2021), 2311-2330.

    Examples
    --------
    >>> import numpy as np
    >>> import logitkit as lk
    >>> a = np.array([[0.0, 0.0], [1000.0, 1000.0]])
    >>> lk.logsumexp(a, axis=1)
    array([6.93147181e-01, 1.00069315e+03])
    >>> lk.logsumexp(a, axis=1, where=[[True, False], [False, False]])
    array([  0., -inf])

    Signed weights:

    >>> value, sign = lk.logsumexp([0.0, 1.0], b=[1.0, -1.0], return_sign=True)
    >>> print(value.round(4), sign)
    0.5413 -1.0
    """
    return _weighted.logsumexp(a, axis, b, keepdims, return_sign, where, dtype, out)


@front(_core.softmax_backward, "grad, y, axis, out")
def softmax_backward(
    grad: ArrayLike,
    y: ArrayLike,
    axis: Axis = None,
    *,
    temperature: ArrayLike = _ONE,
    out: Array | None = None,
) -> Floats:
    """Return the gradient of a loss with respect to x, from that with respect to softmax(x).

    ``dx_i = y_i (g_i - sum_j g_j y_j)``, from the Jacobian ``dy_i/dx_j = y_i (delta_ij - y_j)``,
    [1]_ equation 4.106.

    Parameters
    ----------
    grad : array_like
        The gradient with respect to `y`, of the shape of `y`.
    y : array_like
        The softmax itself, as `softmax` returned it.
    axis : int or tuple of ints, optional
        As it was given to `softmax`.
    temperature : float or array_like
        As it was given to `softmax`; the gradient is divided by it.
    out : ndarray, optional
        Takes the result: of the shape of `y` and the dtype of the result. It may be `grad` or `y`.

    Returns
    -------
    ndarray
        Of the shape of `y`, of NumPy's promotion of the two dtypes (integers count as float64).

    Raises
    ------
    TypeError
        If an operand is masked, sparse, complex or no array of numbers, if `axis` is no integer,
        or if `out` has another dtype than the result.
    ValueError
        If the shapes of `grad` and `y` differ, if an axis is named twice, if a temperature is not
        positive and finite or does not broadcast, or if `out` is read-only or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    The largest error is 3 units in the last place in float32 and 4 in float64, units of
    ``abs(y_i) (abs(g_i) + sum_j abs(g_j y_j))``.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import logitkit as lk
    >>> y = lk.softmax([1.0, 2.0, 3.0])
    >>> lk.softmax_backward([0.0, 0.0, 1.0], y).round(4)
    array([-0.0599, -0.1628,  0.2227])
    """
    result: Floats
    if temperature is not _ONE:
        result = _core.backward(grad, y, axis, False, temperature, out)
        if result is NotImplemented:
            result = _normalize.backward_with(grad, y, axis, temperature, out, log=False)
        return result
    result = _core.softmax_backward(grad, y, axis, out)
    if result is NotImplemented:
        result = _normalize.softmax_backward(grad, y, axis, out)
    return result


@front(_core.log_softmax_backward, "grad, y, axis, out")
def log_softmax_backward(
    grad: ArrayLike,
    y: ArrayLike,
    axis: Axis = None,
    *,
    temperature: ArrayLike = _ONE,
    out: Array | None = None,
) -> Floats:
    """Return the gradient of a loss with respect to x, from that with respect to log_softmax(x).

    ``dx_i = g_i - exp(y_i) sum_j g_j``, from the Jacobian ``dy_i/dx_j = delta_ij - softmax(x)_j``:
    the gradient of log-sum-exp is the softmax, [1]_.

    Parameters
    ----------
    grad : array_like
        The gradient with respect to `y`, of the shape of `y`.
    y : array_like
        The log-softmax itself, as `log_softmax` returned it.
    axis : int or tuple of ints, optional
        As it was given to `log_softmax`.
    temperature : float or array_like
        As it was given to `log_softmax`; the gradient is divided by it.
    out : ndarray, optional
        Takes the result: of the shape of `y` and the dtype of the result. It may be `grad` or `y`.

    Returns
    -------
    ndarray
        Of the shape of `y`, of NumPy's promotion of the two dtypes (integers count as float64).

    Raises
    ------
    TypeError
        If an operand is masked, sparse, complex or no array of numbers, if `axis` is no integer,
        or if `out` has another dtype than the result.
    ValueError
        If the shapes of `grad` and `y` differ, if an axis is named twice, if a temperature is not
        positive and finite or does not broadcast, or if `out` is read-only or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    The largest error is 3 units in the last place in float32 and 4 in float64, units of the
    larger one of ``abs(g_i)`` and ``exp(y_i) abs(sum_j g_j)``. Where `y` is -inf the result is
    ``g_i``: after `log_softmax` with `where`, `grad` has to be 0 where that is False.

    References
    ----------
    .. [1] S. Boyd, L. Vandenberghe, *Convex Optimization*, Cambridge University Press 2004,
       section 3.1.5.

    Examples
    --------
    >>> import logitkit as lk
    >>> y = lk.log_softmax([1.0, 2.0, 3.0])
    >>> lk.log_softmax_backward([0.0, 0.0, 1.0], y).round(4)
    array([-0.09  , -0.2447,  0.3348])
    """
    result: Floats
    if temperature is not _ONE:
        result = _core.backward(grad, y, axis, True, temperature, out)
        if result is NotImplemented:
            result = _normalize.backward_with(grad, y, axis, temperature, out, log=True)
        return result
    result = _core.log_softmax_backward(grad, y, axis, out)
    if result is NotImplemented:
        result = _normalize.log_softmax_backward(grad, y, axis, out)
    return result


@front(_core.logsumexp_backward, "grad, a, lse, axis, keepdims, out")
def logsumexp_backward(
    grad: ArrayLike,
    a: ArrayLike,
    lse: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    *,
    where: ArrayLike | None = None,
    out: Array | None = None,
) -> Floats:
    """Return the gradient of a loss with respect to a, from that with respect to logsumexp(a).

    ``da_i = g b_i exp(a_i - lse)``: the gradient of log-sum-exp is the softmax, [1]_.

    Parameters
    ----------
    grad : array_like
        The gradient with respect to `lse`, of the shape of `lse`.
    a : array_like
        As it was given to `logsumexp`.
    lse : array_like
        What `logsumexp` returned. Where the sum was negative (``return_sign=True``), multiply
        `grad` by the sign.
    axis : int or tuple of ints, optional
        As it was given to `logsumexp`.
    b : array_like, optional
        As it was given to `logsumexp`; it has to broadcast to the shape of `a`.
    keepdims : bool
        As it was given to `logsumexp`: whether the axes are still there in `grad` and `lse`.
    where : array_like of bool, optional
        As it was given to `logsumexp`; it has to broadcast to the shape of `a`.
    out : ndarray, optional
        Takes the result: of the shape of `a` and the dtype of the result. ``out=a`` works in place.

    Returns
    -------
    ndarray
        Of the shape of `a`, of NumPy's promotion of the dtypes (integers count as float64, and a
        number of Python's own adapts). Exactly
        0 where `b` is, and where `where` is False.

    Raises
    ------
    TypeError
        If an operand is masked, sparse, complex or no array of numbers, if `where` is not bool,
        if `axis` is no integer, or if `out` has another dtype than the result.
    ValueError
        If `grad` or `lse` has another shape than the result of `logsumexp`, if `b` or `where`
        does not broadcast to `a`, if an axis is named twice, or if `out` is read-only or has
        another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    The largest error is 3 units in the last place in float32 and 4 in float64, besides what the
    rounding of `lse` brings in. longdouble is computed by NumPy, with its bits, which may differ
    between processors.

    References
    ----------
    .. [1] S. Boyd, L. Vandenberghe, *Convex Optimization*, Cambridge University Press 2004,
       section 3.1.5.

    Examples
    --------
    >>> import logitkit as lk
    >>> a = [1.0, 2.0, 3.0]
    >>> lk.logsumexp_backward(1.0, a, lk.logsumexp(a)).round(4)
    array([0.09  , 0.2447, 0.6652])
    """
    result: Floats = _weighted.logsumexp_backward(grad, a, lse, axis, b, keepdims, where, out)
    return result
