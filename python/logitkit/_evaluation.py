"""Evaluation of classifiers and language models: documented calls of the compiled module."""

from __future__ import annotations

import operator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _logitkit_core as _core
from ._front import front
from ._operands import (
    checked_ignore_index,
    class_axis,
    class_labels,
    plain,
    real_array,
    result_dtype,
    silent,
    work_dtype,
)
from ._options import checked_temperature

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._types import Array, ArrayLike, Floats, Indices, ScalarOrBools, ScalarOrFloats

__all__ = ["token_logprobs", "top_k_logprobs"]


@front(_core.token_logprobs, "logits, labels, axis, temperature, ignore_index")
def token_logprobs(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    temperature: ArrayLike = 1.0,
    ignore_index: int | None = -100,
) -> tuple[ScalarOrFloats, ScalarOrBools]:
    """Return the log-probability of each label, and whether it is the most probable class.

    With ``lp = log_softmax(logits / temperature)`` the log-probability of a row is ``lp_y`` for its
    label y: minus its cross-entropy, [1]_ equation 4.108. The label is the most probable class
    where ``argmax_c logits_c == y``, the greedy match of a language model's evaluation. Both come
    from one pass over the logits, without an array of their size.

    Parameters
    ----------
    logits : array_like
        Real numbers, at least 1-d.
    labels : array_like
        Class numbers of the shape of `logits` without `axis`: integers, or floats that hold
        integers.
    axis : int
        The class axis.
    temperature : float or array_like
        From 1e-30 to 1e30; the logits are divided by it first. One for each row has the shape of
        `logits` without `axis`, or with it at length 1, or broadcasts to it.
    ignore_index : int, optional
        A row with this label has the log-probability 0 and is no match, whatever its logits. None
        ignores no label.

    Returns
    -------
    logprob : scalar or ndarray
        The log-probabilities, of the shape of `labels`. float64 for float64, integers and bool;
        float32 for float32 and the 16-bit types.
    is_argmax : bool or ndarray
        Of the shape of `labels`: whether the label is at the first maximum of its row.

    Raises
    ------
    IndexError
        If a label is neither in ``[0, C)`` nor ignored; it names the first one.
    TypeError
        If an operand is masked, sparse, complex, longdouble or no array of numbers, if the labels
        are bool, or if `axis` or `ignore_index` is no integer.
    ValueError
        If the shapes do not fit, if a float label is no integer, or if a temperature is not
        positive and finite.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    top_k_logprobs : The most probable classes.
    cross_entropy : The mean of minus the log-probabilities, whose exponential is the perplexity.

    Notes
    -----
    The largest error of a log-probability is 3 units in the last place in float32 and 4 in
    float64, also where it is close to 0. -inf at the label gives -inf; +inf away from the label
    -inf; +inf at the label, a NaN anywhere, or a row of -inf only NaN.

    Of several equal largest logits the first one is the argmax, as in `numpy.argmax`. A row with a
    NaN has none.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006, section 4.3.4.

    Examples
    --------
    >>> import numpy as np
    >>> import logitkit as lk
    >>> logits = np.log([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    >>> logprob, is_argmax = lk.token_logprobs(logits, [1, 2, -100])
    >>> print(logprob.round(4))
    [-0.5108 -1.3863  0.    ]
    >>> print(is_argmax)
    [ True False False]
    >>> counted = 2
    >>> print(np.exp(-logprob.sum() / counted).round(4), is_argmax.sum() / counted)
    2.582 0.5
    """
    result: tuple[Any, Any] = _core.token_logprobs(logits, labels, axis, temperature, ignore_index)
    if result is NotImplemented:
        result = _token_logprobs(logits, labels, axis, temperature, ignore_index)
    return result


@front(_core.top_k_logprobs, "logits, k, axis, temperature")
def top_k_logprobs(
    logits: ArrayLike, k: int, *, axis: int = -1, temperature: ArrayLike = 1.0
) -> tuple[Floats, Indices]:
    """Return the largest log-probabilities of each row and their classes, best first.

    The first k entries of ``lp = log_softmax(logits / temperature)`` in descending order, [1]_
    section 4.3.4, found without sorting a row and without an array of the size of the logits.

    Parameters
    ----------
    logits : array_like
        Real numbers, at least 1-d.
    k : int
        How many, at least 1 and at most the number of classes.
    axis : int
        The class axis.
    temperature : float or array_like
        From 1e-30 to 1e30; the logits are divided by it first. One for each row has the shape of
        `logits` without `axis`, or with it at length 1, or broadcasts to it.

    Returns
    -------
    values : ndarray
        The log-probabilities, of the shape of `logits` with k in the place of the classes.
        float64 for float64, integers and bool; float32 for float32 and the 16-bit types.
    indices : ndarray
        The classes, of the same shape. int64.

    Raises
    ------
    TypeError
        If `logits` is masked, sparse, complex, longdouble or no array of numbers, or if `k` or
        `axis` is no integer.
    ValueError
        If `k` is not in ``[1, C]``, or if a temperature is not positive and finite or does not
        broadcast.
    numpy.exceptions.AxisError
        If `axis` is out of range.

    See Also
    --------
    token_logprobs : The log-probabilities of given classes.

    Notes
    -----
    The logits give the order: it is that of ``numpy.argsort(-logits, kind="stable")``. Different
    logits whose log-probabilities round to the same number keep their order, and of equal logits
    the lowest class comes first.

    The largest error of a value is 3 units in the last place in float32 and 4 in float64, also
    where one class dominates; values have the bits that `token_logprobs` gives for the class. The
    values of a row with a NaN, or of -inf only, are NaN; a +inf gives NaN, and -inf for all numbers
    beside it. A NaN is ordered before all numbers, as by `numpy.argmax` and ``torch.topk``, so that
    the first index is always `numpy.argmax`'s.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006.

    Examples
    --------
    >>> import numpy as np
    >>> import logitkit as lk
    >>> values, indices = lk.top_k_logprobs(np.log([0.1, 0.2, 0.4, 0.1, 0.2]), 3)
    >>> print(np.exp(values).round(4))
    [0.4 0.2 0.2]
    >>> print(indices)
    [2 1 4]
    """
    result: tuple[Any, Any] = _core.top_k_logprobs(logits, k, axis, temperature)
    if result is NotImplemented:
        result = _top_k_logprobs(logits, k, axis, temperature)
    return result


# --- What the compiled module declines ----------------------------------------------------------


@silent
def _token_logprobs(
    logits_: object, labels_: object, axis_: object, temperature_: object, ignore_index_: object
) -> tuple[Any, Any]:
    logits, labels = real_array(logits_, "logits"), real_array(labels_, "labels")
    axis = class_axis(axis_, logits.ndim)
    ignore_index = checked_ignore_index(ignore_index_)
    dtype = result_dtype(logits)
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    if labels.dtype.kind == "b":
        raise TypeError("labels have dtype bool: expected integers")
    if labels.shape != batch:
        raise ValueError(
            f"labels have shape {labels.shape}, expected {batch}: "
            f"logits have shape {logits.shape}, axis is {axis_}"
        )
    labels = class_labels(labels, logits.shape[axis], ignore_index)
    temperature = checked_temperature(temperature_, logits.shape, (axis,))
    if logits.size == 0:  # there are no rows, or no classes and nothing but ignored labels
        return np.zeros(batch, work_dtype(dtype))[()], np.zeros(batch, np.bool_)[()]
    logits = plain(logits, dtype)
    order = _memory_order(logits)
    rows = [i - (i > axis) for i in order if i != axis]
    operands = logits.transpose(order), labels.transpose(rows)
    with suppress(IndexError):
        index = order.index(axis)
        heat = _rows(temperature, order, index)
        results = _call(_core.token_logprobs, *operands, index, heat, ignore_index)
        return results if logits.ndim == 1 else _put_back(results, rows)
    # Of several wrong labels the first one in C order is named.
    heat = _rows(temperature, list(range(logits.ndim)), axis)
    return _call(_core.token_logprobs, logits.copy(), labels, axis, heat, ignore_index)


@silent
def _top_k_logprobs(
    logits_: object, k_: Any, axis_: object, temperature_: object
) -> tuple[Any, Any]:
    logits = real_array(logits_, "logits")
    axis = class_axis(axis_, logits.ndim)
    try:
        k = operator.index(k_)
    except TypeError:
        raise TypeError(f"k must be an integer, got {type(k_).__name__} {k_!r}") from None
    classes = logits.shape[axis]
    if not 1 <= k <= classes:
        raise ValueError(f"k must be in [1, {classes}], from one to all classes; got {k}")
    temperature = checked_temperature(temperature_, logits.shape, (axis,))
    dtype = result_dtype(logits)
    if logits.size == 0:  # there are no rows
        shape = (*logits.shape[:axis], k, *logits.shape[axis + 1 :])
        return np.empty(shape, work_dtype(dtype)), np.empty(shape, np.int64)
    logits = plain(logits, dtype)
    order = _memory_order(logits)
    index = order.index(axis)
    heat = _rows(temperature, order, index)
    results = _call(_core.top_k_logprobs, logits.transpose(order), k, index, heat)
    return _put_back(results, order)


def _rows(temperature: Array | float | None, order: list[int], axis: int) -> Array | float | None:
    """Numbers per row with the axes in this order and without the class axis."""
    if not isinstance(temperature, np.ndarray):
        return temperature
    rows = temperature.transpose(order).squeeze(axis)
    return rows.copy() if rows.ndim else float(rows)


def _memory_order(array: Array) -> list[int]:
    """Return the axes from the largest step in memory to the smallest.

    Rows are independent of each other, so their axes may stand in any order: in this one they fold
    into one where they can.
    """
    return sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))


def _put_back(results: tuple[Array, Array], order: list[int]) -> tuple[Array, Array]:
    """Return the results with their axes as they were before they were put in this order."""
    back = np.argsort(order)
    return results[0].transpose(back), results[1].transpose(back)


def _call(core: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """core(*arguments), with arrays in C order if need be."""
    result: tuple[Any, Any] = core(*arguments)
    if result is NotImplemented:
        # (Not ascontiguousarray, which would give a single label an axis.)
        result = core(*(one.copy() if isinstance(one, np.ndarray) else one for one in arguments))
    if result is NotImplemented:
        raise AssertionError("the compiled module declined plain arrays in C order")
    return result
