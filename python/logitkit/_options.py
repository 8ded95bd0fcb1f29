"""What do the options of a call mean? Temperatures, weights, masks and dtypes, checked.

A number per row becomes a float64 array of the batch shape with the class axes kept, at length 1;
one number for all rows becomes a float; an option that changes nothing becomes None.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._operands import real_array

if TYPE_CHECKING:
    from ._types import Array

# Temperatures whose reciprocals keep all digits in every dtype.
_LOWEST, _HIGHEST = 1e-30, 1e30


def checked_temperature(
    temperature: object, shape: tuple[int, ...], axes: tuple[int, ...]
) -> Array | float | None:
    """From 1e-30 to 1e30, for a batch whose logits have this shape."""
    array = real_array(temperature, "temperature")
    if not ((array >= _LOWEST) & (array <= _HIGHEST)).all():
        raise ValueError(
            f"temperature must be positive and finite, from {_LOWEST:g} to {_HIGHEST:g}, "
            f"got {temperature!r}"
        )
    rows = per_row(array, "temperature", shape, axes)
    return None if isinstance(rows, float) and rows == 1 else rows


def per_row(
    array: Array, name: str, shape: tuple[int, ...], axes: tuple[int, ...]
) -> Array | float:
    """Numbers that broadcast to the batch shape, with the class axes kept or dropped."""
    if array.ndim == 0:
        return float(array)
    kept = tuple(1 if i in axes else length for i, length in enumerate(shape))
    batch = tuple(length for i, length in enumerate(shape) if i not in axes)
    keeps = array.ndim == len(shape) and all(array.shape[i] == 1 for i in axes)
    try:
        rows = np.broadcast_to(array, kept if keeps else batch)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}, which broadcasts neither to {batch}, the shape of "
            f"the batch, nor to {kept}"
        ) from None
    return np.array(rows, np.float64, order="C").reshape(kept)


def checked_class_weight(class_weight: object, classes: int, dtype: np.dtype[Any]) -> Array | None:
    """One weight per class, in the dtype of the computation."""
    if class_weight is None:
        return None
    array = real_array(class_weight, "class_weight")
    if array.shape != (classes,):
        raise ValueError(
            f"class_weight has shape {array.shape}, expected {(classes,)}: one weight per class"
        )
    return np.array(array, dtype, order="C")


def checked_sample_weight(sample_weight: object, shape: tuple[int, ...], axis: int) -> Array | None:
    """One weight per row."""
    if sample_weight is None:
        return None
    array = real_array(sample_weight, "sample_weight")
    batch = shape[:axis] + shape[axis + 1 :]
    try:
        rows = np.broadcast_to(array, batch)
    except ValueError:
        raise ValueError(
            f"sample_weight has shape {array.shape}, which does not broadcast to {batch}, the "
            "shape of the batch"
        ) from None
    return np.array(rows, np.float64, order="C").reshape(*shape[:axis], 1, *shape[axis + 1 :])


def checked_number(value: Any, name: str, highest: float) -> float:
    """A number from 0 to `highest`."""
    array = real_array(value, name)
    if array.ndim != 0:
        raise ValueError(f"{name} must be one number, got an array of shape {array.shape}")
    number = float(array)
    if not (0 <= number <= highest and math.isfinite(number)):
        allowed = "finite and not negative" if highest == math.inf else f"in [0, {highest:g}]"
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return number
