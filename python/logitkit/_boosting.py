"""What gradient boosting asks of a loss: the gradient and the diagonal Hessian of every row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np

from . import _logitkit_core as _core
from ._front import front
from ._operands import (
    checked_out,
    class_axis,
    class_labels,
    plain,
    real_array,
    result_dtype,
    silent,
    work_dtype,
)

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ._types import Array, ArrayLike, Floats

__all__ = ["cross_entropy_grad_hess"]

_Hessian: TypeAlias = Literal["exact", "upper", "lightgbm", "residual"]
_Order: TypeAlias = Literal["K", "C", "F"]
_Choice = TypeVar("_Choice", bound=str)

_HESSIANS: tuple[_Hessian, ...] = ("exact", "upper", "lightgbm", "residual")
_ORDERS: tuple[_Order, ...] = ("K", "C", "F")


@front(
    _core.cross_entropy_grad_hess,
    "scores, labels, sample_weight, hessian, hess_scale, hess_floor, True, order, out",
)
def cross_entropy_grad_hess(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    hessian: _Hessian = "exact",
    hess_scale: float = 1.0,
    hess_floor: float = 0.0,
    dtype: DTypeLike = np.float32,
    order: _Order = "K",
    out: tuple[Array, Array] | None = None,
) -> tuple[Floats, Floats]:
    """Return the gradient and diagonal Hessian of each row's cross-entropy, for boosting.

    With ``p = softmax(scores)`` and a row's label y and weight w, the gradient with respect to
    the scores is ``w (p_c - [c = y])`` and the diagonal of the Hessian
    ``max(w hess_scale f_c, hess_floor)``, with f in the form that `hessian` names. Rows are not
    averaged: boosting sums them in its leaves.

    Parameters
    ----------
    scores : array_like
        Raw scores (margins), real numbers, at least 1-d; the last axis is that of the K classes. In
        Fortran order, in which LightGBM holds them, as fast as in C order.
    labels : array_like
        Class numbers of the shape of `scores` without the last axis: integers, or floats that hold
        integers, as boosting libraries store them.
    sample_weight : array_like, optional
        Real numbers that broadcast to the shape of `labels`. A row of weight 0 has gradient 0, and
        Hessian 0 before the floor, whatever its scores.
    hessian : {"exact", "upper", "lightgbm", "residual"}
        - ``"exact"``: ``p_c (1 - p_c)``, the diagonal of the Hessian, [1]_ equation 4.110.
        - ``"upper"``: ``2 p_c (1 - p_c)``, of a diagonal matrix above the whole Hessian: the form
          of XGBoost's ``multi:softmax`` and ``multi:softprob``.
        - ``"lightgbm"``: ``K / (K - 1) p_c (1 - p_c)``, that of LightGBM's ``multiclass``; 0 for
          K = 1.
        - ``"residual"``: ``|p_c - [c = y]|``.
    hess_scale : float
        Multiplies the Hessian.
    hess_floor : float
        The smallest entry of the Hessian: for instance the 1e-16 of XGBoost.
    dtype : {numpy.float32, numpy.float64}
        Of both results. The boosting libraries take float32.
    order : {"K", "C", "F"}
        How new results lie in memory: as `scores`, in C or in Fortran order.
    out : tuple of two ndarrays, optional
        Take gradient and Hessian: of the shape of `scores` and of `dtype`. One of them may be
        `scores`, which is then overwritten.

    Returns
    -------
    grad, hess : ndarray
        Of the shape of `scores` and of `dtype`.

    Raises
    ------
    IndexError
        If a label is not in ``[0, K)``; it names the first one.
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if the labels
        are bool, if `hess_scale` or `hess_floor` is no number, if `dtype` is neither float32 nor
        float64, or if `out` is no pair of arrays of that dtype.
    ValueError
        If the shapes do not fit, if a float label is no integer, if `hessian` or `order` is
        unknown, if `hess_scale` is not finite or `hess_floor` NaN, or if an array of `out` is
        read-only, of another shape, or shares memory with the other one.
    numpy.exceptions.AxisError
        If `scores` is 0-d.

    See Also
    --------
    cross_entropy_value_and_grad : The loss and its gradient, reduced over the rows.

    Notes
    -----
    The largest error of both results is 3 units in the last place in float32 and 4 in float64, also
    where p is close to 1: ``1 - p`` comes from the sum of the other classes. Scores of float64 are
    computed in float64 whatever `dtype` is, and float32 scores for float64 results. A row of scores
    with NaN, with +inf, or of -inf alone is NaN in both results. Errors leave `out` as it was.

    `XGBoost <https://xgboost.readthedocs.io>`_ and `LightGBM <https://lightgbm.readthedocs.io>`_
    take such a function as their objective; examples/xgboost_objective.py and
    examples/lightgbm_objective.py are complete.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.4.
    .. [2] J. H. Friedman, *Greedy function approximation: a gradient boosting machine*, Annals of
       Statistics 29 (2001), section 4.6, for the factor ``K / (K - 1)``.

    Examples
    --------
    >>> import numpy as np
    >>> import logitkit as lk
    >>> scores = np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], dtype=np.float32))
    >>> grad, hess = lk.cross_entropy_grad_hess(scores, [0, 2])
    >>> print(grad.round(4))
    [[-0.5   0.25  0.25]
     [ 0.8   0.1  -0.9 ]]
    >>> print(hess.round(4))
    [[0.25   0.1875 0.1875]
     [0.16   0.09   0.09  ]]
    """
    # Other names of these types are looked up later.
    single = True if dtype is np.float32 else False if dtype is np.float64 else None
    result: Any = _core.cross_entropy_grad_hess(
        scores, labels, sample_weight, hessian, hess_scale, hess_floor, single, order, out
    )
    if result is NotImplemented:
        result = _grad_hess(
            scores, labels, sample_weight, hessian, hess_scale, hess_floor, dtype, order, out
        )
    grad, hess = result
    return grad, hess


@silent
def _grad_hess(
    scores_: object,
    labels_: object,
    sample_weight: object,
    hessian: object,
    hess_scale: object,
    hess_floor: object,
    dtype_: object,
    order_: object,
    out: Any,
) -> tuple[Any, Any]:
    """Bring what the compiled module declines into the form that it takes, or refuse it."""
    scores, labels = real_array(scores_, "scores"), real_array(labels_, "labels")
    class_axis(-1, scores.ndim)
    form, order = _one_of("hessian", hessian, _HESSIANS), _one_of("order", order_, _ORDERS)
    scale, floor = _number("hess_scale", hess_scale), _number("hess_floor", hess_floor)
    if not np.isfinite(scale):
        raise ValueError(f"hess_scale must be finite, got {scale}")
    if np.isnan(floor):
        raise ValueError("hess_floor must be a number to compare with, got nan")
    dtype = _result_dtype(dtype_)
    batch = scores.shape[:-1]
    if labels.dtype.kind == "b":
        raise TypeError("labels have dtype bool: expected integers")
    if labels.shape != batch:
        raise ValueError(
            f"labels have shape {labels.shape}, expected {batch}: scores have shape {scores.shape}"
        )
    weight = _weights(sample_weight, batch)
    grad, hess = _results(out, scores, dtype, order)
    labels = class_labels(labels, scores.shape[-1], None)
    if scores.size > 0:
        x = plain(scores, dtype if dtype.itemsize == 8 else result_dtype(scores))
        options = (form, scale, floor, dtype == np.float32, order)
        computed = _core.cross_entropy_grad_hess(x, labels, weight, *options, (grad, hess))
        if computed is NotImplemented:
            # Rows in one axis, and results of their own: what it takes whatever the rest.
            x, labels = np.ascontiguousarray(x).reshape(-1, x.shape[-1]), labels.reshape(-1)
            weight = None if weight is None else weight.reshape(-1)
            computed = _core.cross_entropy_grad_hess(x, labels, weight, *options, None)
            for result, values in zip((grad, hess), computed, strict=True):
                result[...] = values.reshape(result.shape)
    return (grad, hess) if out is None else out


def _one_of(name: str, value: object, allowed: tuple[_Choice, ...]) -> _Choice:
    for one in allowed:
        if isinstance(value, str) and value == one:
            return one
    options = ", ".join(map(repr, allowed))
    raise ValueError(f"{name} must be one of {options}; got {value!r}")


def _number(name: str, value: object) -> float:
    number = real_array(value, name)
    if number.ndim > 0:
        raise TypeError(f"{name} must be a number, got an array of shape {number.shape}")
    return float(number)


def _result_dtype(dtype: Any) -> np.dtype[Any]:
    if dtype is not None:
        for allowed in (np.dtype(np.float32), np.dtype(np.float64)):
            if np.dtype(dtype) == allowed:
                return allowed
    raise TypeError(f"dtype must be float32 or float64, got {dtype}")


def _weights(sample_weight: object, batch: tuple[int, ...]) -> Array | None:
    """One weight for each row, float32 or float64, in C order."""
    if sample_weight is None:
        return None
    weight = real_array(sample_weight, "sample_weight")
    try:
        rows = np.broadcast_to(weight, batch)
    except ValueError:
        raise ValueError(
            f"sample_weight has shape {weight.shape}, which does not broadcast to the labels' "
            f"shape {batch}"
        ) from None
    return np.array(rows, dtype=work_dtype(result_dtype(weight)), order="C")


def _results(out: Any, scores: Array, dtype: np.dtype[Any], order: _Order) -> tuple[Array, Array]:
    """The caller's two arrays, checked, or new ones."""
    if out is None:
        return (
            np.empty_like(scores, dtype=dtype, order=order),
            np.empty_like(scores, dtype=dtype, order=order),
        )
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"out must be a tuple of two arrays (grad, hess), got {type(out).__name__}")
    grad = checked_out(out[0], "out[0]", scores.shape, dtype)
    hess = checked_out(out[1], "out[1]", scores.shape, dtype)
    if np.shares_memory(grad, hess):
        raise ValueError("out[0] and out[1] share memory")
    return grad, hess
