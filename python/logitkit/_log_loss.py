"""Cross-entropy of given probabilities, alone and with its gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _logitkit_core as _core
from ._front import front
from ._normalize import _Loss, _value, _value_and_grad, loss_dtype, reduced_shape
from ._operands import (
    checked_ignore_index,
    checked_reduction,
    class_axis,
    class_labels,
    operand_dtype,
    plain,
    real_array,
    silent,
    work_dtype,
)

if TYPE_CHECKING:
    from ._types import Array, ArrayLike, DTypeLike, Floats, Scalar, ScalarOrFloats

__all__ = ["log_loss", "log_loss_value_and_grad"]


@overload
def log_loss(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: Literal["mean", "sum"] = "mean",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Scalar: ...
@overload
def log_loss(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: str,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats: ...
@front(_core.log_loss, "probs, labels, axis, sample_weight, ignore_index, reduction, out")
def log_loss(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats:
    """Return the cross-entropy between labels and given probabilities.

    A row's loss is ``-log p_y`` for an integer label y, and ``-sum_c t_c log p_c`` for
    probabilities t, [1]_ equation 4.108; with `sample_weight` times the row's weight.

    Parameters
    ----------
    probs : array_like
        Probabilities p, at least 1-d. They are taken as given: neither clipped nor normalised.
    labels : array_like
        Class numbers of the shape of `probs` without `axis`: integers, or floats that hold
        integers. Or probabilities of the shape of `probs`, which are converted to the dtype of
        the computation.
    axis : int
        The class axis.
    sample_weight : array_like, optional
        Broadcasts to the shape of `probs` without `axis`. A row of weight 0 contributes exactly 0,
        whatever it holds.
    ignore_index : int, optional
        A row with this label counts as if it were not there. None ignores no label. It has no
        effect on probabilities.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides the sum of the losses by the sum of the sample weights, without them by
        the number of rows, ignored rows left out.
    dtype : data-type, optional
        The dtype to compute in: float64, or float32 for all others that are allowed (float16,
        bfloat16).
    out : ndarray, optional
        Takes the result: of its shape (0-d for mean and sum) and dtype.

    Returns
    -------
    scalar or ndarray
        A NumPy scalar, or for ``"none"`` an array of the shape of `probs` without `axis`.
        Without `dtype` float64 for float64, integers and bool; float32 for float32 and the 16-bit
        types.

    Raises
    ------
    IndexError
        If a label is neither in ``[0, C)`` nor ignored; it names the first one.
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if the labels
        are bool, if `axis` is no integer, if `dtype` is not one of those, or if `out` has another
        dtype than the result.
    ValueError
        If the shapes do not fit, if a float label is no integer, if `reduction` is unknown, or
        if `out` is read-only or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    log_loss_value_and_grad : The gradient as well, in the same call.
    cross_entropy : The same from logits, where no probability is lost to rounding.

    Notes
    -----
    With integer labels only the labels' probabilities are read. A probability of 0 at the label is
    +inf, a negative one NaN; ``0 log 0`` is 0. The largest error of a row's loss is 3 units in the
    last place in float32 and 4 in float64 (with probability labels, of the sum of the terms'
    magnitudes). The mean of no rows, or with weights that sum to 0, is NaN; the sum is 0.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import logitkit as lk
    >>> probs = [[0.1, 0.9], [0.8, 0.2], [0.0, 1.0]]
    >>> lk.log_loss(probs, [1, 0, 0], reduction="none")
    array([0.10536052, 0.22314355,        inf])
    >>> print(lk.log_loss(probs, [1, 0, 1], sample_weight=[1.0, 3.0, 0.0]).round(4))
    0.1937
    """
    result: Any = NotImplemented
    if dtype is None:
        result = _core.log_loss(probs, labels, axis, sample_weight, ignore_index, reduction, out)
    if result is NotImplemented:
        call = _Call(probs, labels, axis, sample_weight, ignore_index, reduction, dtype)
        result = _value(call.value, call.loss, out)
    return result


@overload
def log_loss_value_and_grad(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: Literal["mean", "sum"] = "mean",
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[Scalar, Floats]: ...
@overload
def log_loss_value_and_grad(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: str,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]: ...
@front(
    _core.log_loss_value_and_grad,
    "probs, labels, axis, sample_weight, ignore_index, reduction, None, grad_out",
)
def log_loss_value_and_grad(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]:
    """Return the cross-entropy of probabilities and its gradient with respect to them.

    A row's gradient is ``-w / p_y`` at the label y and 0 elsewhere, and ``-w t_c / p_c`` for
    probabilities t, with the row's sample weight w; for ``reduction="mean"`` divided by what the
    mean divides by. (The derivative of [1]_ equation 4.108.)

    Parameters
    ----------
    probs, labels, axis, sample_weight, ignore_index, reduction
        As for `log_loss`, which also says what the loss is.
    grad_output : float or array_like, optional
        Multiplies the gradient: the gradient with respect to the loss of what is computed from
        it. A scalar, or for ``reduction="none"`` also an array that broadcasts to the loss.
    grad_out : ndarray, optional
        Takes the gradient: of the shape of `probs` and the dtype of the gradient.
        ``grad_out=probs`` overwrites the probabilities.

    Returns
    -------
    loss : scalar or ndarray
        The bits of what `log_loss` returns.
    grad : ndarray
        Of the shape and dtype of `probs` (float64 for integers and bool). Exactly 0 in rows that
        are ignored or have weight 0, where a label's probability is 0 even if p is, and everywhere
        for the mean with weights that sum to 0.

    Raises
    ------
    IndexError
        If a label is neither in ``[0, C)`` nor ignored; it names the first one.
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if the labels
        are bool, if `axis` is no integer, or if `grad_out` has another dtype than the gradient.
    ValueError
        If the shapes do not fit, if a float label is no integer, if `reduction` is unknown, or
        if `grad_out` is read-only or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    The largest error of the gradient is 3 units in the last place in float32 and 4 in float64.
    Where a label's probability is 0 the gradient is -inf. Errors leave `grad_out` as it was.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import logitkit as lk
    >>> loss, grad = lk.log_loss_value_and_grad([[0.1, 0.9], [0.8, 0.2]], [1, 0], reduction="sum")
    >>> print(loss.round(4))
    0.3285
    >>> print(grad.round(4))
    [[ 0.     -1.1111]
     [-1.25    0.    ]]
    """
    result: tuple[Any, Any] = _core.log_loss_value_and_grad(
        probs, labels, axis, sample_weight, ignore_index, reduction, grad_output, grad_out
    )
    if result is NotImplemented:
        call = _Call(probs, labels, axis, sample_weight, ignore_index, reduction)
        result = _value_and_grad(call.value_and_grad, call.loss, grad_output, grad_out)
    return result


class _Call:
    """A log loss, checked, and how the compiled module is called for it."""

    loss: _Loss
    axis: int
    options: tuple[Array | None, int | None, str]
    classes: bool  # the labels are class numbers

    @silent
    def __init__(
        self,
        probs_: object,
        labels_: object,
        axis_: object,
        sample_weight_: object,
        ignore_index_: object,
        reduction_: object,
        dtype_: object = None,
    ) -> None:
        probs, labels = real_array(probs_, "probs"), real_array(labels_, "labels")
        axis = class_axis(axis_, probs.ndim)
        ignore_index = checked_ignore_index(ignore_index_)
        reduction = checked_reduction(reduction_)
        dtype = loss_dtype(dtype_, probs)
        work = operand_dtype(dtype, probs)
        batch = reduced_shape(probs.shape, (axis,), keepdims=False)
        weight = _row_weights(sample_weight_, batch, work_dtype(dtype))
        if labels.dtype.kind == "b":
            raise TypeError("labels have dtype bool: expected integers, or probabilities as floats")
        self.classes = labels.shape == batch
        if self.classes:
            labels = class_labels(labels, probs.shape[axis], ignore_index)
        elif labels.shape == probs.shape:
            work = operand_dtype(dtype, probs, labels)
            labels = plain(labels, work)
        else:
            raise ValueError(
                f"labels have shape {labels.shape}, expected {batch} or {probs.shape}: "
                f"probs have shape {probs.shape}, axis is {axis_}"
            )
        operands = (plain(probs, work), labels)
        if probs.ndim == 1:  # one row: a batch of one
            operands = (operands[0][np.newaxis], labels[np.newaxis])
            weight = None if weight is None else weight.reshape(1)
            axis = 1
        weightless = weight is not None and weight.sum() == 0
        self.axis = axis
        self.options = (weight, ignore_index, reduction)
        self.loss = _Loss(
            operands=operands,
            shape=batch if reduction == "none" else (),
            dtype=work_dtype(dtype),
            grad_shape=probs.shape,
            grad_dtype=dtype,
            reduction=reduction,
            counted=0 if self.classes or weightless else math.prod(batch),
        )

    def value(self, probs: Array, labels: Array, out: Array | None) -> Any:
        if self.classes:
            return _core.log_loss(probs, labels, self.axis, *self.options, out)
        return _core.log_loss(self._rows(probs), self._rows(labels), -1, *self.options, out)

    def value_and_grad(self, probs: Array, labels: Array, factor: object, out: Array | None) -> Any:
        if self.classes:
            return _core.log_loss_value_and_grad(
                probs, labels, self.axis, *self.options, factor, out
            )
        rows = None if out is None else np.moveaxis(out, self.axis, -1)
        result: Any = _core.log_loss_value_and_grad(
            self._rows(probs), self._rows(labels), -1, *self.options, factor, rows
        )
        if result is NotImplemented:
            return result
        value, grad = result
        return value, out if grad is rows else np.moveaxis(grad, -1, self.axis)

    def _rows(self, array: Array) -> Array:
        """The array in C order with the class axis last: rows that follow one another."""
        return np.ascontiguousarray(np.moveaxis(array, self.axis, -1))


def _row_weights(weight_: object, batch: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """`sample_weight` as one number or one for each row, in C order."""
    if weight_ is None:
        return None
    weight = real_array(weight_, "sample_weight")
    try:
        np.broadcast_to(weight, batch)
    except ValueError:
        raise ValueError(
            f"sample_weight has shape {weight.shape}, which does not broadcast to the shape "
            f"{batch} of the rows"
        ) from None
    weight = plain(weight, dtype)
    return (
        weight.reshape(1)
        if weight.size == 1
        else np.ascontiguousarray(np.broadcast_to(weight, batch))
    )
