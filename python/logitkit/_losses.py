"""Losses, alone and with their gradients: documented calls of the compiled module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from . import _logitkit_core as _core
from . import _normalize
from ._front import front

if TYPE_CHECKING:
    from ._types import Array, ArrayLike, DTypeLike, Floats, Scalar, ScalarOrFloats

__all__ = [
    "classification_error",
    "cross_entropy",
    "cross_entropy_value_and_grad",
    "mse_loss",
    "mse_loss_value_and_grad",
]

# The defaults by which a plain call is recognised.
_ZERO = 0.0
_ONE = 1.0


@overload
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = _ZERO,
    reduction: Literal["mean", "sum"] = "mean",
    temperature: ArrayLike = _ONE,
    z_loss: float = _ZERO,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Scalar: ...
@overload
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = _ZERO,
    reduction: str,
    temperature: ArrayLike = _ONE,
    z_loss: float = _ZERO,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats: ...
@front(_core.cross_entropy, "logits, labels, axis, ignore_index, reduction, out")
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = _ZERO,
    reduction: str = "mean",
    temperature: ArrayLike = _ONE,
    z_loss: float = _ZERO,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats:
    """Return the cross-entropy between labels and the softmax of `logits`.

    With ``lp = log_softmax(logits / temperature)``, class weights w, label smoothing e and C
    classes, a row's loss is ``(1-e) w_y (-lp_y) + e/C sum_c w_c (-lp_c)`` for an integer label y,
    and ``-sum_c w_c ((1-e) t_c + e/C) lp_c`` for probabilities t, [1]_ equation 4.108 and [2]_
    section 7; ``z_loss * logsumexp(logits / temperature)**2`` is added, [3]_ section 5. All of it
    is multiplied by the row's sample weight.

    Parameters
    ----------
    logits : array_like
        Real numbers, at least 1-d.
    labels : array_like
        Class numbers of the shape of `logits` without `axis`: integers, or floats that hold
        integers. Or probabilities of the shape of `logits`, one-hot or not, which are taken as
        given (never normalised) and converted to the dtype of the computation.
    axis : int
        The class axis.
    class_weight : array_like, optional
        One weight per class, shape (C,), converted to the dtype of the computation.
    sample_weight : array_like, optional
        One weight per row: broadcasts to the shape of `logits` without `axis`. A row of weight 0
        counts as if it were not there, whatever its logits.
    ignore_index : int, optional
        A row with this label counts as if it were not there, whatever its logits. None ignores
        no label. It has no effect on probabilities.
    label_smoothing : float
        From 0 to 1: the part of each target that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides the sum of the losses by the sum over the rows that count of
        ``class_weight[y] * sample_weight``; with probabilities, of ``sample_weight``. Without
        weights that is the number of rows that are not ignored.
    temperature : float or array_like
        From 1e-30 to 1e30; the logits are divided by it first. One for each row has the shape of
        `logits` without `axis`, or with it at length 1, or broadcasts to it.
    z_loss : float
        Factor, not negative, of the square of the logsumexp: keeps logits from drifting. The class
        weight does not multiply it, but a label that does not count has none.
    where : array_like of bool, optional
        Broadcasts to the shape of `logits`. A class where it is False does not exist in that row:
        its logit is not looked at, label smoothing does not reach it, a probability there is
        dropped, and a label there has the loss +inf. A row without any class counts as if it were
        not there.
    dtype : data-type, optional
        float16, bfloat16, float32 or float64: the dtype of the gradient, of the computation and of
        the loss; the latter two are float32 for the 16-bit types.
    out : ndarray, optional
        Takes the result: of its shape (0-d for mean and sum) and dtype.

    Returns
    -------
    scalar or ndarray
        A NumPy scalar, or for ``"none"`` an array of the shape of `logits` without `axis`.
        float64 for float64, integers and bool; float32 for float32 and the 16-bit types.

    Raises
    ------
    IndexError
        If a label is neither in ``[0, C)`` nor ignored; it names the first one.
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if the labels
        are bool, if `where` is not, if `dtype` is none of the four, if `axis` or `ignore_index` is
        no integer, or if `out` has another dtype than the result.
    ValueError
        If the shapes do not fit, if a float label is no integer, if `reduction` is unknown, if
        `label_smoothing`, `z_loss` or a temperature is out of range, or if `out` is read-only or
        has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    cross_entropy_value_and_grad : The gradient as well, in the same pass.

    Notes
    -----
    The largest error of a row's loss is 3 units in the last place in float32 and 4 in float64,
    also where the loss is close to 0. The mean of no rows is NaN, their sum 0. -inf at the label
    gives +inf; +inf away from the label +inf; +inf at the label NaN. A probability of 0 contributes
    0, whatever its logit. A label of class weight 0 contributes 0, unless there is smoothing. Where
    the weights sum to 0, the mean is NaN.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.4.
    .. [2] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR
       2016.
    .. [3] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24 (2023).

    Examples
    --------
    >>> import numpy as np
    >>> import logitkit as lk
    >>> logits = np.log([[0.1, 0.15, 0.05, 0.6, 0.1], [0.15, 0.2, 0.4, 0.1, 0.15]])
    >>> lk.cross_entropy(logits, [3, 3], reduction="none")  # -log(0.6), -log(0.1)
    array([0.51082562, 2.30258509])
    >>> print(lk.cross_entropy(logits, [3, -100]).round(8))
    0.51082562
    >>> weight = [1.0, 1.0, 1.0, 0.25, 1.0]
    >>> print(lk.cross_entropy(logits, [3, 2], class_weight=weight, label_smoothing=0.1).round(4))
    1.016
    """
    if (
        class_weight is None
        and sample_weight is None
        and label_smoothing is _ZERO
        and temperature is _ONE
        and z_loss is _ZERO
        and where is None
        and dtype is None
    ):
        result = _core.cross_entropy(logits, labels, axis, ignore_index, reduction, out)
        if result is NotImplemented:
            result = _normalize.cross_entropy(logits, labels, axis, ignore_index, reduction, out)
        return result
    options = (temperature, class_weight, sample_weight, label_smoothing, z_loss)
    result = NotImplemented
    if dtype is None:
        result = _core.cross_entropy_with(
            logits, labels, axis, ignore_index, reduction, options, where, out
        )
    if result is NotImplemented:
        result = _normalize.cross_entropy_with(
            logits, labels, axis, ignore_index, reduction, options, where, dtype, out
        )
    return result


@overload
def cross_entropy_value_and_grad(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = _ZERO,
    reduction: Literal["mean", "sum"] = "mean",
    temperature: ArrayLike = _ONE,
    z_loss: float = _ZERO,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[Scalar, Floats]: ...
@overload
def cross_entropy_value_and_grad(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = _ZERO,
    reduction: str,
    temperature: ArrayLike = _ONE,
    z_loss: float = _ZERO,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]: ...
@front(
    _core.cross_entropy_value_and_grad,
    "logits, labels, axis, ignore_index, reduction, None, grad_out",
)
def cross_entropy_value_and_grad(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = _ZERO,
    reduction: str = "mean",
    temperature: ArrayLike = _ONE,
    z_loss: float = _ZERO,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]:
    """Return the cross-entropy and its gradient with respect to `logits`, in one pass.

    With ``p = softmax(logits)`` a row's gradient is ``p - onehot(y)`` for an integer label y, and
    ``(sum_c t_c) p - t`` for probabilities t ([1]_ equation 4.109, where t sums to 1), divided
    by the number of counted rows for ``reduction="mean"``. With all options it is
    ``((sum_c u_c + 2 z_loss lse) p - u) * sample_weight / temperature``, divided by the sum of the
    weights, where ``u_c = w_c ((1-e) t_c + e/C)`` and lse is the logsumexp of
    ``logits / temperature``.

    Parameters
    ----------
    logits, labels, axis, class_weight, sample_weight, ignore_index, label_smoothing, reduction, \
temperature, z_loss, where, dtype
        As for `cross_entropy`, which also says what the loss is.
    grad_output : float or array_like, optional
        Multiplies the gradient: the gradient with respect to the loss of what is computed from
        it. A scalar, or for ``reduction="none"`` also an array that broadcasts to the loss.
    grad_out : ndarray, optional
        Takes the gradient: of the shape of `logits` and the dtype of the gradient.
        ``grad_out=logits`` overwrites the logits.

    Returns
    -------
    loss : scalar or ndarray
        The bits of what `cross_entropy` returns.
    grad : ndarray
        Of the shape of `logits` and of `dtype`, or else that of `logits` (float64 for integers and
        bool). Exactly 0 in ignored rows and where `where` is False.

    Raises
    ------
    IndexError
        If a label is neither in ``[0, C)`` nor ignored; it names the first one.
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if the labels
        are bool, if `where` is not, if `dtype` is none of the four, if `axis` or `ignore_index` is
        no integer, or if `grad_out` has another dtype than the gradient.
    ValueError
        If the shapes do not fit, if a float label is no integer, if `reduction` is unknown, if
        `label_smoothing`, `z_loss` or a temperature is out of range, or if `grad_out` is read-only
        or has another shape.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    The largest error of the gradient is 3 units in the last place in float32 and 4 in float64,
    also at the label of a confident row; with probabilities, smoothing or z-loss, units of the
    larger one of the two terms that are subtracted. Errors leave `grad_out` as it was.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import numpy as np
    >>> import logitkit as lk
    >>> logits = np.log([[0.1, 0.15, 0.05, 0.6, 0.1], [0.15, 0.2, 0.4, 0.1, 0.15]])
    >>> loss, grad = lk.cross_entropy_value_and_grad(logits, [3, 3], reduction="sum")
    >>> print(loss.round(4))
    2.8134
    >>> print(grad.round(4))
    [[ 0.1   0.15  0.05 -0.4   0.1 ]
     [ 0.15  0.2   0.4  -0.9   0.15]]
    """
    result: tuple[Any, Any]
    if (
        class_weight is None
        and sample_weight is None
        and label_smoothing is _ZERO
        and temperature is _ONE
        and z_loss is _ZERO
        and where is None
        and dtype is None
    ):
        result = _core.cross_entropy_value_and_grad(
            logits, labels, axis, ignore_index, reduction, grad_output, grad_out
        )
        if result is NotImplemented:
            result = _normalize.cross_entropy_value_and_grad(
                logits, labels, axis, ignore_index, reduction, grad_output, grad_out
            )
        return result
    options = (temperature, class_weight, sample_weight, label_smoothing, z_loss)
    if dtype is None:
        result = _core.cross_entropy_with_value_and_grad(
            logits, labels, axis, ignore_index, reduction, options, where, grad_output, grad_out
        )
        if result is not NotImplemented:
            return result
    return _normalize.cross_entropy_with_value_and_grad(
        logits, labels, axis, ignore_index, reduction, options, where, dtype, grad_output, grad_out
    )


@overload
def mse_loss(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> Scalar: ...
@overload
def mse_loss(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: str,
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats: ...
@front(_core.mse_loss, "pred, target, None, reduction, out")
def mse_loss(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    dtype: DTypeLike | None = None,
    out: Array | None = None,
) -> ScalarOrFloats:
    """Return the squared error of predictions, by default its mean over all elements.

    ``w_i (pred_i - target_i)**2``, [1]_ section 5.1.4 (where the weights w are 1).

    Parameters
    ----------
    pred, target : array_like
        Real numbers, both of the same shape: they never broadcast.
    weight : array_like, optional
        Broadcasts to `pred`, and is converted to the dtype of the computation. An element of weight
        0 contributes exactly 0, even when it is NaN or infinite.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides the sum by the number of elements, or by the sum of their weights.
    dtype : data-type, optional
        The dtype to compute in: float64, or float32 for all others that are allowed (float16,
        bfloat16).
    out : ndarray, optional
        Takes the result: of its shape (0-d for mean and sum) and dtype.

    Returns
    -------
    scalar or ndarray
        A NumPy scalar, or for ``"none"`` an array of the shape of `pred`. Without `dtype` float32
        if both are float32 or 16-bit, float64 if one is float64, integer or bool.

    Raises
    ------
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if `dtype`
        is not one of those, or if `out` has another dtype than the result.
    ValueError
        If the shapes differ, if `weight` does not broadcast to them, if `reduction` is unknown, or
        if `out` is read-only or has another shape.

    See Also
    --------
    mse_loss_value_and_grad : The gradient as well, in the same pass.

    Notes
    -----
    The largest error is 3 units in the last place in float32 and 4 in float64, also for the mean
    over 1e8 elements. Squares and sums are held in more than float32, so that a mean that float32
    can hold does not overflow on the way. The mean of no elements is NaN, their sum 0; the mean
    with weights that sum to 0 is NaN.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning*, MIT Press 2016.

    Examples
    --------
    >>> import logitkit as lk
    >>> print(lk.mse_loss([1.0, 2.0, 4.0], [1.0, 1.0, 2.0], reduction="sum"))
    5.0
    >>> lk.mse_loss([1.0, 2.0, 4.0], [1.0, 1.0, 2.0], reduction="none")
    array([0., 1., 4.])
    >>> print(lk.mse_loss([1.0, 2.0, 4.0], [1.0, 1.0, 2.0], weight=[0.0, 3.0, 1.0]))
    1.75
    """
    result: Any = NotImplemented
    if dtype is None:
        result = _core.mse_loss(pred, target, weight, reduction, out)
    if result is NotImplemented:
        result = _normalize.mse_loss(pred, target, weight, reduction, dtype, out)
    return result


@overload
def mse_loss_value_and_grad(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[Scalar, Floats]: ...
@overload
def mse_loss_value_and_grad(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: str,
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]: ...
@front(_core.mse_loss_value_and_grad, "pred, target, None, reduction, None, grad_out")
def mse_loss_value_and_grad(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
    grad_out: Array | None = None,
) -> tuple[ScalarOrFloats, Floats]:
    """Return the squared error and its gradient with respect to `pred`, in one pass.

    The gradient is ``2 w_i (pred_i - target_i)`` with weights w, for ``reduction="mean"`` divided
    by their sum (the number of elements without them), [1]_ section 5.1.4.

    Parameters
    ----------
    pred, target, weight, reduction
        As for `mse_loss`, which also says what the loss is.
    grad_output : float or array_like, optional
        Multiplies the gradient: the gradient with respect to the loss of what is computed from
        it. A scalar, or for ``reduction="none"`` also an array that broadcasts to the loss.
    grad_out : ndarray, optional
        Takes the gradient: of the shape of `pred` and the dtype of the gradient.
        ``grad_out=pred`` overwrites the predictions.

    Returns
    -------
    loss : scalar or ndarray
        The bits of what `mse_loss` returns.
    grad : ndarray
        Of the shape of `pred`, of NumPy's promotion of the two dtypes (integers and bool count as
        float64). Exactly 0 where the weight is 0, and everywhere for the mean with weights that
        sum to 0.

    Raises
    ------
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, or if
        `grad_out` has another dtype than the gradient.
    ValueError
        If the shapes differ, if `weight` does not broadcast to them, if `reduction` is unknown, or
        if `grad_out` is read-only or has another shape.

    Notes
    -----
    The largest error of both results is 3 units in the last place in float32 and 4 in float64.
    Errors leave `grad_out` as it was.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, *Deep Learning*, MIT Press 2016.

    Examples
    --------
    >>> import logitkit as lk
    >>> loss, grad = lk.mse_loss_value_and_grad([1.0, 2.0, 4.0, 0.0], [1.0, 1.0, 2.0, 0.0])
    >>> print(loss)
    1.25
    >>> grad
    array([0. , 0.5, 1. , 0. ])
    """
    result: tuple[Any, Any] = _core.mse_loss_value_and_grad(
        pred, target, weight, reduction, grad_output, grad_out
    )
    if result is NotImplemented:
        result = _normalize.mse_loss_value_and_grad(
            pred, target, weight, reduction, grad_output, grad_out
        )
    return result


@overload
def classification_error(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: Literal["mean", "sum"] = "mean",
) -> Scalar: ...
@overload
def classification_error(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: str,
) -> ScalarOrFloats: ...
@front(_core.classification_error, "scores, labels, axis, None, ignore_index, reduction")
def classification_error(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
) -> ScalarOrFloats:
    """Return how often the largest score is not the label's: the zero-one loss.

    A row counts 0 if ``argmax_c scores_c == y`` and otherwise 1, or its weight, [1]_ section 2.4.

    Parameters
    ----------
    scores : array_like
        Real numbers, at least 1-d: logits, probabilities, or anything that grows with them.
    labels : array_like
        Class numbers of the shape of `scores` without `axis`: integers, or floats that hold
        integers.
    axis : int
        The class axis.
    sample_weight : array_like, optional
        A weight for each row; it broadcasts to the shape of `labels`.
    ignore_index : int, optional
        A row with this label is not counted. None ignores no label.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides the number of errors by the number of rows that are not ignored; with
        weights ``sum(w * error) / sum(w)`` over those rows.

    Returns
    -------
    scalar or ndarray
        float64: the rate of errors, their number, or for ``"none"`` 0.0 and 1.0 (or the weight) for
        each row.

    Raises
    ------
    IndexError
        If a label is neither in ``[0, C)`` nor ignored; it names the first one.
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if the labels
        are bool, or if `axis` is no integer.
    ValueError
        If the shapes do not fit, `sample_weight` does not broadcast, a float label is no integer,
        or `reduction` is unknown.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    Notes
    -----
    Of several equal largest scores the first one wins, as in `numpy.argmax`. A row with a NaN is
    an error. The mean of no rows is NaN, their sum 0. A row of weight 0 contributes exactly 0; the
    mean over weights that sum to 0 is NaN. Weights are converted to float64; where none is
    negative, the largest error of a weighted result is 2 units in the last place.

    References
    ----------
    .. [1] T. Hastie, R. Tibshirani, J. Friedman, *The Elements of Statistical Learning*, 2nd
       edition, Springer 2009.

    Examples
    --------
    >>> import logitkit as lk
    >>> scores = [[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.3, 0.7]]
    >>> print(lk.classification_error(scores, [1, 1, 0, 1]))
    0.25
    >>> print(lk.classification_error(scores, [1, 1, 0, 1], sample_weight=[1, 3, 1, 1]))
    0.5
    """
    result = _core.classification_error(
        scores, labels, axis, sample_weight, ignore_index, reduction
    )
    if result is NotImplemented:
        result = _normalize.classification_error(
            scores, labels, axis, sample_weight, ignore_index, reduction
        )
    return result
