"""How does what the compiled module declines reach it all the same? The slow path of everything.

The compiled module takes exact ndarrays, native float16, bfloat16, float32 or float64, with at
least one dimension, one class axis and strides that fold into (outer, class, inner). Here lists,
other dtypes, 0-d and empty arrays, several class axes and all other strides are brought into that
form (16-bit ones beside other dtypes as float32), or refused with a precise exception. Nothing is
written to `out` or `grad_out` before every argument was checked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _logitkit_core as _core
from . import _wide
from ._operands import (
    checked_dtype,
    checked_ignore_index,
    checked_mask,
    checked_out,
    checked_reduction,
    class_axes,
    class_axis,
    class_labels,
    is_weak,
    is_wide,
    number_array,
    operand_dtype,
    plain,
    real_array,
    result_dtype,
    silent,
    wide_real_array,
    work_dtype,
)
from ._options import (
    checked_class_weight,
    checked_number,
    checked_sample_weight,
    checked_temperature,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ._types import Array, Reduction


# --- Functions along an axis --------------------------------------------------------------------


def softmax(x: object, axis: object, out: object) -> Any:
    return _along(_core.softmax, {"x": x}, axis, out, convert=number_array, wide=_wide.softmax)


def log_softmax(x: object, axis: object, out: object) -> Any:
    wide = _wide.log_softmax
    return _along(_core.log_softmax, {"x": x}, axis, out, convert=number_array, wide=wide)


def softmax_backward(grad: object, y: object, axis: object, out: object) -> Any:
    return _along(
        _core.softmax_backward,
        {"grad": grad, "y": y},
        axis,
        out,
        convert=wide_real_array,
        wide=_wide.softmax_backward,
    )


def log_softmax_backward(grad: object, y: object, axis: object, out: object) -> Any:
    return _along(
        _core.log_softmax_backward,
        {"grad": grad, "y": y},
        axis,
        out,
        convert=wide_real_array,
        wide=_wide.log_softmax_backward,
    )


def logsumexp(a: object, axis: object, keepdims: object, out: object) -> Any:
    return _along(
        lambda a, axis, out: _core.logsumexp(a, axis, True, out),
        {"a": a},
        axis,
        out,
        reduced=("out",),
        keepdims=bool(keepdims),
    )


def logsumexp_backward(
    grad: object, a: object, lse: object, axis: object, keepdims: object, out: object
) -> Any:
    return _along(
        lambda grad, a, lse, axis, out: _core.logsumexp_backward(grad, a, lse, axis, True, out),
        {"grad": grad, "a": a, "lse": lse},
        axis,
        out,
        convert=wide_real_array,
        wide=_wide.logsumexp_backward,
        reduced=("grad", "lse"),
        keepdims=bool(keepdims),
    )


def _normalize_wide(
    x: Array,
    axis: int,
    log: bool,
    temperature: Array | float | None,
    lse: bool,
    _out: object,
    mask: Array | None,
) -> Any:
    """What the compiled module's `normalize` does, for dtypes that it does not take."""
    x = _wide.divided(x, temperature, axis)
    if mask is not None:
        x = np.where(mask, x, x.dtype.type(-np.inf))
    y = (_wide.log_softmax if log else _wide.softmax)(x, axis, None)
    if mask is not None:
        np.copyto(y, -np.inf if log else 0, where=~mask)
    return (y, _wide.logsumexp(x, axis)) if lse else y


def backward_with(
    grad: object, y: object, axis: object, temperature_: object, out: object, *, log: bool
) -> Any:
    """The gradients of softmax and log_softmax with a temperature."""
    shape = wide_real_array(y, "y").shape
    axes = class_axes(axis, len(shape))
    temperature = checked_temperature(temperature_, shape or (1,), axes)

    def by(backward: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(temperature, np.ndarray):
            return lambda grad, y, rows, axis, out: backward(
                grad, y, axis, log, _row_numbers(rows, axis), out
            )
        return lambda grad, y, axis, out: backward(grad, y, axis, log, temperature, out)

    values = {"grad": grad, "y": y}
    if isinstance(temperature, np.ndarray):
        small = reduced_shape(shape, axes, keepdims=False)
        values["temperature"] = temperature.reshape(small)
    return _along(
        by(_core.backward),
        values,
        axis,
        out,
        convert=wide_real_array,
        wide=by(_wide.backward),
        reduced=("temperature",),
    )


def _row_numbers(rows: Array, axis: int) -> Array | float:
    """Numbers per row without the class axis, as the compiled module takes them."""
    rows = rows.squeeze(axis)
    return np.ascontiguousarray(rows) if rows.ndim else float(rows)


@silent
def _along(
    core: Callable[..., Any],
    values: dict[str, object],
    axis: object,
    out: object,
    *,
    convert: Callable[[object, str], Array] = real_array,
    wide: Callable[..., Any] | None = None,
    reduced: Collection[str] = (),
    keepdims: bool = False,
) -> Any:
    """core(*operands, axis, out) for any operands; those named in `reduced` lack the class axes.

    `core` sees every array with all axes: those that it lacks for the caller have length 1. `wide`
    takes its place for wide dtypes, if `convert` lets them in.
    """
    arrays = {name: convert(value, name) for name, value in values.items()}
    # (Temperatures are float64 and have no say in the dtype, nor have Python's own numbers.)
    typed = [array for name, array in arrays.items() if name != "temperature"]
    strong = [one for one, value in zip(typed, values.values(), strict=False) if not is_weak(value)]
    dtype = result_dtype(*(strong or typed))
    lead_name = next(name for name in arrays if name not in reduced)
    shape = arrays[lead_name].shape
    axes = class_axes(axis, len(shape))
    small = reduced_shape(shape, axes, keepdims)
    for name, array in arrays.items():
        wanted = small if name in reduced else shape
        if array.shape != wanted:
            raise ValueError(
                f"{name} has shape {array.shape}, expected {wanted}: "
                f"{lead_name} has shape {shape}, axis is {axis}"
            )
    result_shape = small if "out" in reduced else shape

    # From here on every array has all axes, at least one.
    full = shape or (1,)
    kept = reduced_shape(full, axes, keepdims=True)
    work = operand_dtype(dtype, *(strong or typed))
    operands = [
        plain(array, array.dtype if name == "temperature" else work).reshape(
            kept if name in reduced else full
        )
        for name, array in arrays.items()
    ]
    lead = operands[list(arrays).index(lead_name)]
    target_shape = kept if "out" in reduced else full
    if out is None:
        target = np.empty_like(lead, dtype=dtype, shape=target_shape)
    else:
        target = checked_out(out, "out", result_shape, dtype).reshape(target_shape)
    if lead.size == 0:
        target.fill(-np.inf)  # the logarithm of an empty sum; all other results are empty
    else:
        function = wide if wide is not None and is_wide(dtype) else core
        _fill_along(function, operands, lead, axes, target)
    return scalar_or_array(target.reshape(result_shape)) if out is None else out


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    if keepdims:
        return tuple(1 if i in axes else length for i, length in enumerate(shape))
    return tuple(length for i, length in enumerate(shape) if i not in axes)


def _fill_along(
    core: Callable[..., Any],
    operands: Sequence[Array],
    lead: Array,
    axes: tuple[int, ...],
    target: Array,
) -> None:
    """Fill `target` through views that have one class axis and the memory order of `lead`.

    Rows are independent of each other, so the other axes may stand in any order; several class axes
    become one, in C order.
    """
    order, index = _arrangement(lead, axes)
    views = [_arranged(operand, order, index, axes) for operand in operands]
    view = _arranged(target, order, index, axes)
    result = _call(lambda *args: core(*args[:-1], index, args[-1]), views, view)
    if result is not view or not np.may_share_memory(view, target):  # reshape may have copied
        target = target.transpose(order)
        target[...] = result.reshape(target.shape)


def _arrangement(lead: Array, axes: tuple[int, ...]) -> tuple[list[int], int]:
    """The order of the axes in memory, and the class axis among them."""
    order = sorted(range(lead.ndim), key=lambda i: -abs(lead.strides[i]))
    if len(axes) != 1:
        order = [i for i in order if i not in axes] + list(axes)
    return order, order.index(axes[0]) if axes else lead.ndim


def _arranged(array: Array, order: list[int], index: int, axes: tuple[int, ...]) -> Array:
    array = array.transpose(order)
    return array if len(axes) == 1 else array.reshape(*array.shape[:index], -1)


@silent
def normalize_with(
    x_: object,
    axis: object,
    where_: object,
    temperature_: object,
    dtype_: object,
    out: object,
    return_lse: object,
    *,
    log: bool,
) -> Any:
    """Softmax or log_softmax with options; with the logsumexp if that is wanted."""
    x = number_array(x_, "x")
    dtype = checked_dtype(dtype_, x)
    axes = class_axes(axis, x.ndim)
    full = x.shape or (1,)
    temperature = checked_temperature(temperature_, full, axes)
    where = checked_mask(where_, x.shape)
    small = reduced_shape(full, axes, keepdims=False) if x.ndim else ()
    kept = reduced_shape(full, axes, keepdims=True)
    target = _target(out, "out", x, x.shape, dtype)

    lead = plain(x, operand_dtype(dtype, x)).reshape(full)
    lse = np.empty(kept, work_dtype(dtype))
    if x.size == 0:
        lse.fill(-np.inf)
    else:
        order, index = _arrangement(lead, axes)
        view = _arranged(lead, order, index, axes)
        if isinstance(temperature, np.ndarray):
            temperature = _row_numbers(_arranged(temperature, order, index, axes), index)
        core = _normalize_wide if is_wide(dtype) else _core.normalize
        mask = None if where is None else _arranged(where.reshape(full), order, index, axes)
        y = _call(
            lambda view, mask, out: core(
                view, index, log, temperature, bool(return_lse), out, mask
            ),
            [view, mask],
            _arranged(target.reshape(full), order, index, axes),
        )
        if return_lse:
            y, lse_view = y
            lse.transpose(order)[...] = np.reshape(lse_view, lse.transpose(order).shape)
        rows = target.reshape(full).transpose(order)
        if not np.may_share_memory(y, rows):
            rows[...] = y.reshape(rows.shape)
    result = scalar_or_array(target) if out is None else out
    return (result, scalar_or_array(lse.reshape(small))) if return_lse else result


# --- Losses -------------------------------------------------------------------------------------


class _Loss(NamedTuple):
    """A loss and its operands, checked, in the form that the compiled module takes."""

    operands: tuple[Any, ...]  # at least 1-d; the first one is what the gradient is for
    shape: tuple[int, ...]  # of the loss, as the caller sees it
    dtype: np.dtype[Any]
    grad_shape: tuple[int, ...]
    grad_dtype: np.dtype[Any]
    reduction: Reduction
    counted: int = 0  # rows in the mean, where the operands are empty: their losses are 0


def cross_entropy(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    out: object,
) -> Any:
    loss, options = _classification("logits", logits, labels, axis, ignore_index, reduction)
    return _value(lambda x, t, out: _core.cross_entropy(x, t, *options, out), loss, out)


def cross_entropy_value_and_grad(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    grad_output: object,
    grad_out: object,
) -> tuple[Any, Any]:
    loss, options = _classification("logits", logits, labels, axis, ignore_index, reduction)
    return _value_and_grad(
        lambda x, t, factor, out: _core.cross_entropy_value_and_grad(x, t, *options, factor, out),
        loss,
        grad_output,
        grad_out,
    )


def cross_entropy_with(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    options: tuple[object, ...],
    where: object,
    dtype: object,
    out: object,
) -> Any:
    loss, arguments = _with_options(
        logits, labels, axis, ignore_index, reduction, options, where, dtype
    )
    return _value(
        lambda x, t, mask, out: _core.cross_entropy_with(x, t, *arguments, mask, out), loss, out
    )


def cross_entropy_with_value_and_grad(
    logits: object,
    labels: object,
    axis: object,
    ignore_index: object,
    reduction: object,
    options: tuple[object, ...],
    where: object,
    dtype: object,
    grad_output: object,
    grad_out: object,
) -> tuple[Any, Any]:
    loss, arguments = _with_options(
        logits, labels, axis, ignore_index, reduction, options, where, dtype
    )
    return _value_and_grad(
        lambda x, t, mask, factor, out: _core.cross_entropy_with_value_and_grad(
            x, t, *arguments, mask, factor, out
        ),
        loss,
        grad_output,
        grad_out,
    )


@silent
def _with_options(
    logits_: object,
    labels_: object,
    axis_: object,
    ignore_index_: object,
    reduction_: object,
    options_: tuple[object, ...],
    where: object,
    dtype: object,
) -> tuple[_Loss, tuple[int, int | None, Reduction, tuple[Any, ...]]]:
    """The loss with its mask as the third operand, and the compiled module's other arguments."""
    temperature, class_weight, sample_weight, label_smoothing, z_loss = options_
    loss, (core_axis, ignore_index, reduction) = _classification(
        "logits", logits_, labels_, axis_, ignore_index_, reduction_, dtype
    )
    shape = loss.grad_shape
    axis = class_axis(axis_, len(shape))
    rows = [
        checked_temperature(temperature, shape, (axis,)),
        checked_sample_weight(sample_weight, shape, axis),
    ]
    if len(shape) > 1:
        rows = [one.squeeze(axis) if isinstance(one, np.ndarray) else one for one in rows]
    options = (
        rows[0],
        checked_class_weight(class_weight, shape[axis], loss.dtype),
        rows[1],
        checked_number(label_smoothing, "label_smoothing", 1.0),
        checked_number(z_loss, "z_loss", math.inf),
    )
    if loss.counted and isinstance(rows[1], np.ndarray) and rows[1].sum() == 0:
        loss = loss._replace(counted=0)
    mask = checked_mask(where, shape)
    if mask is not None:
        mask = mask[np.newaxis] if len(shape) == 1 else mask
        loss = loss._replace(counted=0)  # empty rows have nothing that is not masked
    loss = loss._replace(operands=(*loss.operands, mask))
    return loss, (core_axis, ignore_index, reduction, options)


def classification_error(
    scores: object,
    labels: object,
    axis: object,
    sample_weight: object,
    ignore_index: object,
    reduction: object,
) -> Any:
    loss, (axis, *options) = _classification(
        "scores", scores, labels, axis, ignore_index, reduction
    )
    loss = loss._replace(dtype=np.dtype(np.float64))
    weight = None if sample_weight is None else _row_weights(sample_weight, loss)
    return _value(
        lambda x, t, _: _core.classification_error(x, t, axis, weight, *options), loss, None
    )


@silent
def _row_weights(sample_weight: object, loss: _Loss) -> Array:
    """Return a weight for every label of `loss`, float64 in C order."""
    weight = real_array(sample_weight, "sample_weight")
    labels: Array = loss.operands[1]
    batch = labels.shape if len(loss.grad_shape) > 1 else ()
    try:
        weight = np.broadcast_to(plain(weight, np.dtype(np.float64)), batch)
    except ValueError:
        raise ValueError(
            f"sample_weight has shape {weight.shape}, which does not broadcast to the batch's "
            f"shape {batch}"
        ) from None
    return np.ascontiguousarray(weight).reshape(labels.shape)


def mse_loss(
    pred: object, target: object, weight_: object, reduction: object, dtype: object, out: object
) -> Any:
    loss = _regression(pred, target, reduction, dtype)
    weight = weights(weight_, "weight", loss.operands[0], "pred", loss.grad_shape)
    return _value(lambda p, t, out: _core.mse_loss(p, t, weight, loss.reduction, out), loss, out)


def mse_loss_value_and_grad(
    pred: object,
    target: object,
    weight_: object,
    reduction: object,
    grad_output: object,
    grad_out: object,
) -> tuple[Any, Any]:
    loss = _regression(pred, target, reduction)
    weight = weights(weight_, "weight", loss.operands[0], "pred", loss.grad_shape)
    return _value_and_grad(
        lambda p, t, factor, out: _core.mse_loss_value_and_grad(
            p, t, weight, loss.reduction, factor, out
        ),
        loss,
        grad_output,
        grad_out,
    )


@silent
def loss_dtype(dtype: Any, *operands: Array) -> np.dtype[Any]:
    """The dtype that a caller names for a loss, or the promotion of the operands' dtypes."""
    if dtype is None:
        return result_dtype(*operands)
    wanted: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    if (wanted.kind == "f" and wanted.itemsize <= 8) or wanted.name == "bfloat16":
        return wanted
    raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, got {wanted}")


@silent
def weights(
    weight_: object, name: str, lead: Array, lead_name: str, shape: tuple[int, ...]
) -> Array | None:
    """Weights that broadcast to an operand, in C order and its dtype, or float32 if that is 16-bit.

    One number, or one for each place along the last axis, stay what they are: the compiled module
    repeats them. `lead` is the operand in at least one dimension, `shape` the one that it came in.
    """
    if weight_ is None:
        return None
    weight = real_array(weight_, name)
    try:
        np.broadcast_to(weight, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {weight.shape}, which does not broadcast to the shape {shape} "
            f"of {lead_name}"
        ) from None
    weight = plain(weight, operand_dtype(lead.dtype, weight))
    if weight.size == 1:
        return weight.reshape(1)
    if weight.size == weight.shape[-1] == shape[-1]:
        return np.ascontiguousarray(weight.reshape(shape[-1]))
    return np.ascontiguousarray(np.broadcast_to(weight, shape))


@silent
def _classification(
    name: str,
    logits_: object,
    labels_: object,
    axis_: object,
    ignore_index_: object,
    reduction_: object,
    dtype_: object = None,
) -> tuple[_Loss, tuple[int, int | None, Reduction]]:
    """The loss of logits (or scores, as `name` says), and the compiled module's options."""
    logits, labels = real_array(logits_, name), real_array(labels_, "labels")
    axis = class_axis(axis_, logits.ndim)
    ignore_index = checked_ignore_index(ignore_index_)
    reduction = checked_reduction(reduction_)
    dtype = loss_dtype(dtype_, logits)
    work = operand_dtype(dtype, logits)
    batch = reduced_shape(logits.shape, (axis,), keepdims=False)
    if labels.dtype.kind == "b":
        wanted = "integers, or probabilities as floats" if name == "logits" else "integers"
        raise TypeError(f"labels have dtype bool: expected {wanted}")
    indices = labels.shape == batch
    if indices:
        labels = class_labels(labels, logits.shape[axis], ignore_index)
    elif labels.shape == logits.shape and name == "logits":
        work = operand_dtype(dtype, logits, labels)
        labels = plain(labels, work)
    else:
        raise ValueError(
            f"labels have shape {labels.shape}, expected {batch}: "
            f"{name} have shape {logits.shape}, axis is {axis_}"
        )
    loss = _Loss(
        operands=(plain(logits, work), labels),
        shape=batch if reduction == "none" else (),
        dtype=work_dtype(dtype),
        grad_shape=logits.shape,
        grad_dtype=dtype,
        reduction=reduction,
        counted=0 if indices else math.prod(batch),
    )
    if logits.ndim == 1:  # one row, and a label without an axis: a batch of one
        loss = loss._replace(operands=(loss.operands[0][np.newaxis], labels[np.newaxis]))
        axis = 1
    return loss, (axis, ignore_index, reduction)


@silent
def _regression(pred_: object, target_: object, reduction_: object, dtype_: object = None) -> _Loss:
    pred, target = real_array(pred_, "pred"), real_array(target_, "target")
    reduction = checked_reduction(reduction_)
    if pred.shape != target.shape:
        raise ValueError(f"pred has shape {pred.shape}, but target has shape {target.shape}")
    dtype = loss_dtype(dtype_, pred, target)
    work = operand_dtype(dtype, pred, target)
    return _Loss(
        operands=(np.atleast_1d(plain(pred, work)), np.atleast_1d(plain(target, work))),
        shape=pred.shape if reduction == "none" else (),
        dtype=work_dtype(dtype),
        grad_shape=pred.shape,
        grad_dtype=dtype,
        reduction=reduction,
    )


@silent
def _value(core: Callable[..., Any], loss: _Loss, out: object) -> Any:
    """core(*operands, out), delivered as the caller wants it."""
    target = _target(out, "out", loss.operands[0], loss.shape, loss.dtype)
    view = target.reshape(loss.shape or (1,)) if loss.reduction == "none" else target
    if loss.operands[0].size == 0:
        view.fill(_empty_value(loss))
    else:
        result = _call(core, loss.operands, view)
        if result is not view:
            view[...] = result
    return scalar_or_array(target) if out is None else out


@silent
def _value_and_grad(
    core: Callable[..., Any], loss: _Loss, grad_output: object, grad_out: object
) -> tuple[Any, Any]:
    """core(*operands, grad_output, grad_out), delivered as the caller wants it."""
    lead = loss.operands[0]
    factor = _checked_grad_output(grad_output, loss)
    grad = _target(grad_out, "grad_out", lead, loss.grad_shape, loss.grad_dtype)
    if lead.size == 0:
        value = np.full(loss.shape, _empty_value(loss), loss.dtype)
    else:
        view = grad.reshape(lead.shape)
        value, result = _call(core, (*loss.operands, factor), view)
        if result is not view:
            view[...] = result
    value = scalar_or_array(np.asarray(value, loss.dtype).reshape(loss.shape))
    return value, scalar_or_array(grad) if grad_out is None else grad_out


def _target(
    out: object, name: str, lead: Array, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """The caller's array, checked; without one a new array, in the memory order of `lead`."""
    if out is None:
        return np.empty_like(lead, dtype=dtype, shape=shape)
    return checked_out(out, name, shape, dtype)


def _empty_value(loss: _Loss) -> float:
    return np.nan if loss.reduction == "mean" and loss.counted == 0 else 0.0


def _checked_grad_output(grad_output: object, loss: _Loss) -> Array | float | None:
    """None, a factor, or a factor for every row."""
    if grad_output is None:
        return None
    factor = real_array(grad_output, "grad_output")
    if factor.ndim == 0:
        return float(factor)
    try:
        factor = np.broadcast_to(factor, loss.shape)
    except ValueError:
        raise ValueError(
            f"grad_output has shape {factor.shape}, which does not broadcast to the loss's "
            f"shape {loss.shape} (reduction={loss.reduction!r})"
        ) from None
    return np.array(factor, loss.dtype, order="C")  # aligned, whatever it was


# --- The call -----------------------------------------------------------------------------------


def _call(core: Callable[..., Any], operands: Sequence[Any], out: Array) -> Any:
    """core(*operands, out), with operands in C order and a result of its own as far as need be."""
    result = core(*operands, out)
    if result is NotImplemented:
        operands = [
            np.ascontiguousarray(one) if isinstance(one, np.ndarray) else one for one in operands
        ]
        result = core(*operands, out)
    if result is NotImplemented:
        result = core(*operands, None)
    if result is NotImplemented:
        raise AssertionError("the compiled module declined plain arrays in C order")
    return result


def scalar_or_array(array: Array) -> Any:
    """A NumPy scalar for a 0-d array, as NumPy's own reductions return it."""
    return array if array.ndim else array[()]
