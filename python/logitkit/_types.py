"""The types in the public signatures; only type checkers import them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Array",
    "ArrayLike",
    "Axis",
    "DTypeLike",
    "Floats",
    "Reduction",
    "Scalar",
    "ScalarOrFloats",
]

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.floating[Any]]
Scalar: TypeAlias = np.floating[Any]
# A scalar where no axis is left, else an array. Any, as in NumPy's own stubs: neither needs a cast.
ScalarOrFloats: TypeAlias = Any
Axis: TypeAlias = int | tuple[int, ...] | None
Reduction: TypeAlias = Literal["mean", "sum", "none"]
