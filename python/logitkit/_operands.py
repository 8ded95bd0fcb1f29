"""What may be passed in? Conversion to plain arrays, and the exception for everything else."""

from __future__ import annotations

import functools
import operator
import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._types import Array, Reduction

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "none")


def silent(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Keep NumPy from warning or raising in `function`, whatever np.errstate says."""

    @functools.wraps(function)
    def wrapper(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return wrapper


def real_array(value: object, name: str) -> Array:
    """`value` as an ndarray of real numbers that a kernel takes, in whatever layout and order."""
    return _checked(_array(value, name), name, lambda dtype: not is_wide(dtype))


def wide_real_array(value: object, name: str) -> Array:
    """The same, but longdouble is real as well."""
    return _checked(_array(value, name), name, lambda dtype: dtype.kind != "c")


def number_array(value: object, name: str) -> Array:
    """The same, but longdouble and complex numbers are numbers as well."""
    return _checked(_array(value, name), name, lambda _: True)


def _array(value: Any, name: str) -> Array:
    """`value` over its own memory, if it has any that NumPy can read, else a new array."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, which would lose its mask: pass {name}.filled(value), "
            "with the value that masked entries shall count as"
        )
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and array is not value and hasattr(value, "__dlpack__"):
            array = np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as error:
        if str(getattr(value, "dtype", "")) == "torch.bfloat16" and not value.requires_grad:
            return _bfloat16_tensor(value, name)
        raise TypeError(f"{name} cannot be read as a NumPy array: {error}") from error
    if array.dtype.kind == "O" and hasattr(value, "toarray"):
        raise TypeError(f"{name} is a sparse {type(value).__name__}: pass {name}.toarray()")
    return array


def _bfloat16_tensor(tensor: Any, name: str) -> Array:
    """A tensor of torch's bfloat16, which torch does not convert to that of ml_dtypes."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError(
            f"{name} is bfloat16, a dtype that NumPy has with the package ml_dtypes: "
            f"install that, or pass {name}.float()"
        ) from None
    return np.asarray(tensor.view(sys.modules["torch"].int16)).view(bfloat16)


def _checked(array: Array, name: str, allowed: Callable[[np.dtype[Any]], bool]) -> Array:
    if is_number(array.dtype) and allowed(array.dtype):
        return array
    options = ", ".join(
        str(np.dtype(kind))
        for kind in (np.float16, np.float32, np.float64, np.longdouble, np.complex64, np.complex128)
        if allowed(np.dtype(kind))
    )
    raise TypeError(
        f"{name} has dtype {array.dtype}: expected bfloat16, {options}, integers or bool; "
        "convert it, for instance with np.asarray(..., dtype=np.float64)"
    )


def is_number(dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return dtype.itemsize > 1  # not float8
    return dtype.kind in "biuc" or (dtype.kind == "V" and dtype.name == "bfloat16")


def is_wide(dtype: np.dtype[Any]) -> bool:
    """Whether no kernel computes numbers of this dtype: complex, or wider than float64."""
    return dtype.kind == "c" or (dtype.kind == "f" and dtype.itemsize > 8)


def checked_dtype(dtype: Any, *arrays: Array) -> np.dtype[Any]:
    """The dtype of a result: `dtype` when the caller names one, else the arrays' promotion."""
    natural = result_dtype(*arrays)
    if dtype is None:
        return natural
    wanted = np.dtype(dtype)
    if not is_number(wanted) or wanted.kind in "biu":
        raise TypeError(f"dtype must be a floating-point or complex dtype, got {wanted}")
    if natural.kind == "c" and wanted.kind != "c":
        raise TypeError(f"dtype {wanted} has no imaginary part, but the operands are {natural}")
    return _float_dtype(wanted)


def checked_mask(where: object, shape: tuple[int, ...]) -> Array | None:
    """`where` as an array of bool that broadcasts to `shape`; None when there is none."""
    if where is None:
        return None
    mask = _array(where, "where")
    if mask.dtype.kind != "b":
        raise TypeError(f"where has dtype {mask.dtype}: expected bool")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"where has shape {mask.shape}, which does not broadcast to the shape {shape}"
        ) from None


def is_weak(value: object) -> bool:
    """Whether the value is a real number of Python itself: it has no say in a result's dtype."""
    return isinstance(value, (int, float)) and not isinstance(value, np.generic)


def result_dtype(*arrays: Array) -> np.dtype[Any]:
    """NumPy's promotion of the arrays' dtypes, with integers and bool counted as float64."""
    return np.result_type(*(_float_dtype(array.dtype) for array in arrays))


def _float_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind in "biu":
        return np.dtype(np.float64)
    if dtype.kind == "V":  # bfloat16
        return dtype
    if dtype.kind == "f" and dtype.itemsize <= 8:  # also where longdouble is float64
        return np.dtype(f"f{dtype.itemsize}")
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the absolute values of numbers of `dtype`."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def work_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that results of `dtype` are computed in: float32 for the 16-bit types."""
    return dtype if dtype.itemsize > 2 else np.dtype(np.float32)


def operand_dtype(dtype: np.dtype[Any], *arrays: Array) -> np.dtype[Any]:
    """The dtype in which `arrays` go to the compiled module for a result of `dtype`.

    It takes 16-bit operands as they are where all are of one type, and rounds to that type only.
    """
    same = all(result_dtype(array) == dtype for array in arrays)
    return dtype if same else work_dtype(dtype)


def plain(array: Array, dtype: np.dtype[Any]) -> Array:
    """`array` itself when it is aligned and of this native dtype, else a copy in K-order."""
    return array if array.dtype == dtype and array.flags.aligned else array.astype(dtype)


def class_axes(axis: object, ndim: int) -> tuple[int, ...]:
    """The axes of an `axis` argument, non-negative and ascending; None stands for all of them."""
    ndim = max(ndim, 1)  # a 0-d array is a row of one element
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(_class_axis(one, ndim) for one in (axis if isinstance(axis, tuple) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ValueError(f"duplicate value in axis: {axis}")
    return tuple(sorted(axes))


def class_axis(axis: object, ndim: int) -> int:
    """The one class axis of a loss, non-negative."""
    if axis is None or isinstance(axis, tuple):
        raise TypeError(f"axis must be one integer, got {_shown(axis)}")
    return _class_axis(axis, ndim)


def _class_axis(axis: Any, ndim: int) -> int:
    try:
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {_shown(axis)}") from None
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(index, ndim)
    return index % ndim


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r}"


def checked_out(out: object, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`out` as an ndarray over the same memory, after every check that it can take the result."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a NumPy array, got {type(out).__name__}")
    if out.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} has dtype {out.dtype}, but the result has dtype {dtype}")
    if out.shape != shape:
        raise ValueError(f"{name} has shape {out.shape}, but the result has shape {shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only")
    if _overlaps_itself(out):
        raise ValueError(f"{name} has elements that share memory: strides {out.strides}")
    return np.asarray(out)


def _overlaps_itself(array: Array) -> bool:
    """Whether a step along one axis may land inside the span of the axes with shorter steps."""
    span = array.itemsize
    for stride, length in sorted(
        (abs(stride), length) for stride, length in zip(array.strides, array.shape, strict=True)
    ):
        if length > 1 and stride < span:
            return array.size > 0
        span += stride * (length - 1)
    return False


def checked_reduction(reduction: object) -> Reduction:
    for allowed in REDUCTIONS:
        if isinstance(reduction, str) and reduction == allowed:
            return allowed
    options = ", ".join(map(repr, REDUCTIONS))
    raise ValueError(f"reduction must be one of {options}; got {reduction!r}")


def checked_ignore_index(ignore_index: Any) -> int | None:
    if ignore_index is None:
        return None
    try:
        index = operator.index(ignore_index)
    except TypeError:
        raise TypeError(
            f"ignore_index must be an integer or None, got {_shown(ignore_index)}"
        ) from None
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"ignore_index must fit into 64 bits, got {index}")
    return index


def class_labels(labels: Array, classes: int, ignore_index: int | None) -> Array:
    """Labels of the batch shape as native integers; floats are accepted when they are integral.

    The compiled module checks the range of integers. Here it is checked for floats, which may be
    too large for an integer, and where there are no classes, hence nothing to compute.
    """
    dtype = labels.dtype.newbyteorder("=")
    if dtype.kind not in "iu":
        labels, dtype = labels.astype(np.float64), np.dtype(np.int64)
        index = _first(~np.isfinite(labels) | (labels != np.trunc(labels)))
        if index is not None:
            raise ValueError(f"{_entry(labels, index)}: not an integer")
    if labels.dtype.kind == "f" or classes == 0:
        index = _first(((labels < 0) | (labels >= classes)) & (labels != ignore_index))
        if index is not None:
            ignored = "" if ignore_index is None else f" and not ignore_index ({ignore_index})"
            raise IndexError(f"{_entry(labels, index)}: not in [0, {classes}){ignored}")
    return plain(labels, dtype)


def _first(mask: Array) -> tuple[int, ...] | None:
    """The position of the first True, in C order."""
    return tuple(map(int, np.argwhere(mask)[0])) if mask.any() else None


def _entry(labels: Array, index: tuple[int, ...]) -> str:
    position = f"[{', '.join(map(str, index))}]" if index else ""
    return f"labels{position} is {labels[index]}"
