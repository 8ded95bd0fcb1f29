"""Which operations are compared, at which shapes, on which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

AXIS = 1
"""The class axis of every shape below."""

Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = (
    (1, 10),
    (65536, 10),
    (256, 1000),
    (16384, 1000),
    (512, 50257),
    (1024, 128256),
    (8, 21, 256, 256),
)
QUICK_SHAPES: tuple[Shape, ...] = SHAPES[:5] + SHAPES[6:]
CHECK_SHAPES: tuple[Shape, ...] = ((1, 10), (37, 10), (3, 1021), (2, 7, 4, 5))
CALL_SHAPE = (1, 10)
"""The shape that measures the cost of a call, with `np.exp` of the same array as the yardstick."""


@dataclass(frozen=True)
class Operation:
    """One compared operation, and what it cannot do without.

    Attributes
    ----------
    name : str
        Name of the function in logitkit.
    reads : int
        How many arrays of the full size it reads.
    result : {"full", "rows", "scalar"}
        The size of what it returns: a full array (beside which a loss may stand), one number
        a row, or one number.
    exponential : bool
        Whether it needs the exponential of every element.
    """

    name: str
    reads: int
    result: str
    exponential: bool

    @property
    def policies(self) -> tuple[str, ...]:
        """`out` is a row of its own wherever the result is an array."""
        return ("fresh",) if self.result == "scalar" else ("fresh", "out")


OPERATIONS = (
    Operation("logsumexp", reads=1, result="rows", exponential=True),
    Operation("softmax", reads=1, result="full", exponential=True),
    Operation("log_softmax", reads=1, result="full", exponential=True),
    Operation("cross_entropy", reads=1, result="scalar", exponential=True),
    Operation("cross_entropy_value_and_grad", reads=1, result="full", exponential=True),
    Operation("softmax_backward", reads=2, result="full", exponential=False),
    Operation("log_softmax_backward", reads=2, result="full", exponential=True),
    Operation("mse_loss", reads=2, result="scalar", exponential=False),
    Operation("mse_loss_value_and_grad", reads=2, result="full", exponential=False),
    Operation("classification_error", reads=1, result="scalar", exponential=False),
)


@dataclass(frozen=True)
class Case:
    """One row of the table: an operation, an output policy and a shape."""

    operation: Operation
    policy: str
    shape: Shape

    @property
    def label(self) -> str:
        """What ``--only`` is matched against, such as ``softmax/out/16384x1000``."""
        return f"{self.operation.name}/{self.policy}/{'x'.join(map(str, self.shape))}"


def all_cases(shapes: tuple[Shape, ...]) -> list[Case]:
    """Every operation and policy at every shape, one shape after the other."""
    return [
        Case(operation, policy, shape)
        for shape in shapes
        for operation in OPERATIONS
        for policy in operation.policies
    ]


def aligned_empty(shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array that starts on a cache line, so that every library can use it without a copy."""
    line = 64
    size = prod(shape) * dtype.itemsize
    raw = np.empty(size + line, np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + size].view(dtype).reshape(shape)


class Data:
    """The arrays of one shape, made when first asked for and shared by all contenders.

    Attributes
    ----------
    x : ndarray
        Logits, normal with standard deviation 3; also the prediction of the squared error.
    labels : ndarray of int64
        One random class a row.
    """

    def __init__(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.batch_shape = shape[:AXIS] + shape[AXIS + 1 :]
        self.classes = shape[AXIS]
        self.rows = prod(self.batch_shape)
        self._random = np.random.default_rng(20240229)
        self.x = self._normal(3)
        self.labels = self._random.integers(0, self.classes, self.batch_shape)
        self._normalised = ""

    def _normal(self, deviation: float) -> NDArray[Any]:
        array = aligned_empty(self.shape, self.dtype)
        self._random.standard_normal(out=array, dtype=self.dtype)
        array *= deviation
        return array

    @cached_property
    def g(self) -> NDArray[Any]:
        """The gradient that arrives from above; also the target of the squared error."""
        return self._normal(1)

    @cached_property
    def out(self) -> NDArray[Any]:
        """The full-size output of the `out` rows, its pages already touched."""
        array = aligned_empty(self.shape, self.dtype)
        array.fill(0)
        return array

    @cached_property
    def out_rows(self) -> NDArray[Any]:
        """The output of the `out` rows that hold one number a row."""
        array = aligned_empty(self.batch_shape, self.dtype)
        array.fill(0)
        return array

    @cached_property
    def _y(self) -> NDArray[Any]:
        return aligned_empty(self.shape, self.dtype)

    def normalised(self, logarithm: bool) -> NDArray[Any]:
        """Softmax of x, or its logarithm, from NumPy; the two share one buffer."""
        kind = "log" if logarithm else "plain"
        if self._normalised != kind:
            y = self._y
            np.subtract(self.x, self.x.max(axis=AXIS, keepdims=True), out=y)
            if logarithm:
                total = np.zeros_like(y, shape=(*y.shape[:AXIS], 1, *y.shape[AXIS + 1 :]))
                for k in range(0, len(y), 64):
                    total[k : k + 64] = np.exp(y[k : k + 64]).sum(axis=AXIS, keepdims=True)
                y -= np.log(total)
            else:
                np.exp(y, out=y)
                y /= y.sum(axis=AXIS, keepdims=True)
            self._normalised = kind
        return self._y
