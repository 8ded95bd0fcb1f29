"""Binary cross-entropy of logits, alone and with its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _logitkit_core as _core
from ._front import front
from ._normalize import _Loss, _value, _value_and_grad, loss_dtype, weights
from ._operands import (
    checked_reduction,
    operand_dtype,
    plain,
    real_array,
    silent,
    work_dtype,
)

if TYPE_CHECKING:
    from ._types import Array, ArrayLike, DTypeLike, Floats, Scalar, ScalarOrFloats

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_value_and_grad",
]


@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Scalar: ...
@overload
def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats: ...
@front(
    _core.binary_cross_entropy_with_logits, "logits, targets, pos_weight, weight, reduction, out"
)
def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats:
    """Return the binary cross-entropy between targets and the sigmoid of `logits`.

    With logits x, targets t, weights w and weights P of positive targets, an element's loss is
    ``w (P t log(1 + exp(-x)) + (1 - t) log(1 + exp(x)))``, [1]_ equation 4.90 for w = P = 1.

    Parameters
    ----------
    logits : array_like
        Real numbers of any shape.
    targets : array_like
        Of the shape of `logits`, with which they never broadcast: 0 and 1 of any dtype, bool
        included, or probabilities, which are taken as given. Converted to the dtype of the
        computation.
    pos_weight : array_like, optional
        Multiplies the loss of the positive part of each target. Broadcasts to `logits`: a number,
        or one for each class along the last axis.
    weight : array_like, optional
        Multiplies the loss. Broadcasts to `logits`. An element of weight 0 contributes exactly 0,
        even when it is NaN or infinite.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides the sum of the losses by the number of elements, whatever their weights.
    dtype : data-type, optional
        The dtype to compute in: float64, or float32 for all others that are allowed (float16,
        bfloat16).
    out : ndarray, optional
        Takes the result: of its shape (0-d for mean and sum) and dtype.

    Returns
    -------
    scalar or ndarray
        A NumPy scalar, or for ``"none"`` an array of the shape of `logits`. Without `dtype`
        float64 for float64, integers and bool; float32 for float32 and the 16-bit types.

    Raises
    ------
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if `dtype`
        is not one of those, or if `out` has another dtype than the result.
    ValueError
        If the shapes differ, if weights do not broadcast to them, if `reduction` is unknown, or
        if `out` is read-only or has another shape.

    See Also
    --------
    binary_cross_entropy_with_logits_value_and_grad : The gradient as well, in the same pass.
    cross_entropy : The same for more than two classes that exclude each other.

    Notes
    -----
    Computed as ``w ((P t + 1 - t) log1p(exp(-|x|)) + B |x|)`` with ``B = P t`` for negative x and
    ``1 - t`` for others, in which nothing cancels. The largest error of a loss is 3 units in the
    last place in float32 and 4 in float64, for targets from 0 to 1 and weights from 1e-60 to 1e60.
    An infinite logit gives 0 where the target agrees with it, and +inf elsewhere; NaN gives NaN.
    The mean of no elements is NaN, their sum 0.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.2.

    Examples
    --------
    >>> import logitkit as lk
    >>> lk.binary_cross_entropy_with_logits([0.0, -40.0, 40.0], [1, 0, 0], reduction="none")
    array([6.93147181e-01, 4.24835426e-18, 4.00000000e+01])
    >>> print(
    ...     lk.binary_cross_entropy_with_logits(
    ...         [[0.0, 2.0]], [[1, 0]], pos_weight=[3.0, 1.0]
    ...     ).round(4)
    ... )
    2.1032
    """
    result: Any = NotImplemented
    if dtype is None:
        result = _core.binary_cross_entropy_with_logits(
            logits, targets, pos_weight, weight, reduction, out
        )
    if result is NotImplemented:
        loss, options = _binary(logits, targets, pos_weight, weight, reduction, dtype)
        result = _value(
            lambda x, t, out: _core.binary_cross_entropy_with_logits(x, t, *options, out), loss, out
        )
    return result


@overload
def binary_cross_entropy_with_logits_value_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[Scalar, Floats]: ...
@overload
def binary_cross_entropy_with_logits_value_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]: ...
@front(
    _core.binary_cross_entropy_with_logits_value_and_grad,
    "logits, targets, pos_weight, weight, reduction, None, grad_out",
)
def binary_cross_entropy_with_logits_value_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]:
    """Return the binary cross-entropy and its gradient with respect to `logits`.

    The gradient is ``w ((1 - t) sigmoid(x) - P t sigmoid(-x))``, ``sigmoid(x) - t`` for w = P = 1
    ([1]_ equation 4.91), divided by the number of elements for ``reduction="mean"``.

    Parameters
    ----------
    logits, targets, pos_weight, weight, reduction
        As for `binary_cross_entropy_with_logits`, which also says what the loss is.
    grad_output : float or array_like, optional
        Multiplies the gradient: the gradient with respect to the loss of what is computed from
        it. A scalar, or for ``reduction="none"`` also an array that broadcasts to the loss.
    grad_out : ndarray, optional
        Takes the gradient: of the shape of `logits` and the dtype of the gradient.
        ``grad_out=logits`` overwrites the logits.

    Returns
    -------
    loss : scalar or ndarray
        The bits of what `binary_cross_entropy_with_logits` returns.
    grad : ndarray
        Of the shape and dtype of `logits` (float64 for integers and bool). Exactly 0 where the
        weight is 0.

    Raises
    ------
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, or if
        `grad_out` has another dtype than the gradient.
    ValueError
        If the shapes differ, if weights do not broadcast to them, if `reduction` is unknown, or
        if `grad_out` is read-only or has another shape.

    Notes
    -----
    With targets 0 and 1 nothing is subtracted: ``sigmoid(x) - 1`` is ``-sigmoid(-x)``, which keeps
    its digits where a prediction is confident. The largest error is then 3 units in the last place
    in float32 and 4 in float64; with other targets, units of the larger one of the two terms.
    Infinite logits have a finite gradient. Errors leave `grad_out` as it was.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.2.

    Examples
    --------
    >>> import logitkit as lk
    >>> loss, grad = lk.binary_cross_entropy_with_logits_value_and_grad(
    ...     [0.0, -40.0, 40.0], [1, 0, 0], reduction="sum"
    ... )
    >>> print(loss.round(4))
    40.6931
    >>> grad
    array([-5.00000000e-01,  4.24835426e-18,  1.00000000e+00])
    """
    result: tuple[Any, Any] = _core.binary_cross_entropy_with_logits_value_and_grad(
        logits, targets, pos_weight, weight, reduction, grad_output, grad_out
    )
    if result is NotImplemented:
        loss, options = _binary(logits, targets, pos_weight, weight, reduction)
        result = _value_and_grad(
            lambda x, t, factor, out: _core.binary_cross_entropy_with_logits_value_and_grad(
                x, t, *options, factor, out
            ),
            loss,
            grad_output,
            grad_out,
        )
    return result


@silent
def _binary(
    logits_: object,
    targets_: object,
    pos_weight_: object,
    weight_: object,
    reduction_: object,
    dtype_: object = None,
) -> tuple[_Loss, tuple[Array | None, Array | None, str]]:
    """The loss, and the compiled module's options."""
    logits, targets = real_array(logits_, "logits"), real_array(targets_, "targets")
    reduction = checked_reduction(reduction_)
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits have shape {logits.shape}, but targets have shape {targets.shape}"
        )
    dtype = loss_dtype(dtype_, logits)
    work = operand_dtype(dtype, logits)
    # The compiled module converts integers and bool itself, piece by piece.
    integers = targets.dtype.kind in "biu"
    t = plain(
        targets, targets.dtype.newbyteorder("=") if integers else operand_dtype(work, targets)
    )
    x, t = np.atleast_1d(plain(logits, work)), np.atleast_1d(t)
    loss = _Loss(
        operands=(x, t),
        shape=logits.shape if reduction == "none" else (),
        dtype=work_dtype(dtype),
        grad_shape=logits.shape,
        grad_dtype=dtype,
        reduction=reduction,
    )
    pos_weight = weights(pos_weight_, "pos_weight", x, "logits", logits.shape)
    weight = weights(weight_, "weight", x, "logits", logits.shape)
    return loss, (pos_weight, weight, reduction)
