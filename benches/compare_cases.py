"""What is compared: operations, the layouts of their arrays, and the arrays themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from compare_targets import Goal
    from numpy.typing import NDArray

Shape = tuple[int, ...]


def shape_name(shape: Shape) -> str:
    """The shape as Python writes it, without spaces."""
    return f"({','.join(map(str, shape))})"


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


OPERATIONS = {
    operation.name: operation
    for operation in (
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
}


@dataclass(frozen=True)
class Layout:
    """How the logits lie in memory.

    Attributes
    ----------
    shape : tuple of int
        Their shape.
    dtype : {"float32", "float64"}
        Their type.
    axis : int
        The class axis.
    order : {"C", "F"}
        Whether the last or the first axis is contiguous.
    """

    shape: Shape
    dtype: str = "float32"
    axis: int = 1
    order: str = "C"

    @property
    def size(self) -> int:
        """How many elements there are."""
        return prod(self.shape)

    @property
    def classes(self) -> int:
        """How many elements a row of the operation has."""
        return self.shape[self.axis]

    @property
    def nbytes(self) -> int:
        """The size of one array in bytes."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def title(self) -> str:
        """What a reader needs to know of it."""
        order = ", Fortran order" if self.order == "F" else ""
        return f"{shape_name(self.shape)} {self.dtype}, class axis {self.axis}{order}"

    def contiguous(self) -> Layout:
        """As many elements and classes, the class axis last and contiguous."""
        batch = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        return Layout((*batch, self.classes), self.dtype, len(batch))

    def tiny(self) -> Layout:
        """A few rows, for a check of what runs on this layout."""
        classes = self.classes if self.classes <= 64 else 101
        shape = [min(n, 7) for n in self.shape]
        shape[self.axis] = classes
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True)
class Case:
    """One row of a table: an operation, an output policy, a layout, and what is wanted of it.

    Attributes
    ----------
    operation : Operation
        What is computed.
    policy : {"fresh", "out"}
        Whether the result is a new array or goes to one that is there already.
    layout : Layout
        On what.
    section : str
        The part of the table of targets that it belongs to.
    goals : tuple of Goal
        What that part asks for.
    peers : tuple of str, optional
        The libraries that compete; all of them by default.
    fresh_peers : bool
        Whether libraries that return new arrays only compete with those in an `out` row.
    rivals : tuple of str
        Other ways of calling logitkit that are timed beside it: "contiguous", the same on
        `Layout.contiguous`, and "one thread".
    busy : bool
        Whether another process keeps a CPU busy meanwhile.
    """

    operation: Operation
    policy: str
    layout: Layout
    section: str = "everything"
    goals: tuple[Goal, ...] = ()
    peers: tuple[str, ...] | None = None
    fresh_peers: bool = False
    rivals: tuple[str, ...] = ()
    busy: bool = False

    @property
    def label(self) -> str:
        """What ``--only`` is matched against, such as ``softmax/out/16384x1000``."""
        layout = self.layout
        parts = [self.operation.name, self.policy, "x".join(map(str, layout.shape))]
        parts += [layout.dtype] if layout.dtype != "float32" else []
        parts += [f"axis{layout.axis}"] if layout.axis != 1 else []
        parts += ["fortran"] if layout.order == "F" else []
        parts += ["busy"] if self.busy else []
        return "/".join(parts)

    @property
    def group(self) -> tuple[str, Layout, bool]:
        """What the cases that are measured and shown together share."""
        return self.section, self.layout, self.busy

    def tiny(self) -> Case:
        """The same for a check: a few rows, with every library."""
        return replace(self, layout=self.layout.tiny(), peers=None)


CHECK_SHAPES: tuple[Shape, ...] = ((1, 10), (37, 10), (3, 1021), (2, 7, 4, 5))


def all_operations(dtype: str) -> list[Case]:
    """Every operation and policy at some tiny shapes."""
    return [
        Case(operation, policy, Layout(shape, dtype))
        for shape in CHECK_SHAPES
        for operation in OPERATIONS.values()
        for policy in operation.policies
    ]


def aligned_empty(shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array that starts on a cache line, so that every library can use it without a copy."""
    line = 64
    size = prod(shape) * dtype.itemsize
    raw = np.empty(size + line, np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + size].view(dtype).reshape(shape)


def flat(array: NDArray[Any]) -> NDArray[Any]:
    """The elements in the order of the memory, as a view."""
    view: NDArray[Any] = array.reshape(-1, order="A")
    return view


class Data:
    """The arrays of one layout, made when first asked for and shared by all contenders.

    Attributes
    ----------
    x : ndarray
        Logits, normal with standard deviation 3; also the prediction of the squared error.
    labels : ndarray of int64
        One random class a row.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.dtype = np.dtype(layout.dtype)
        self.axis = layout.axis
        self.classes = layout.classes
        self.batch_shape = layout.shape[: self.axis] + layout.shape[self.axis + 1 :]
        self.rows = prod(self.batch_shape)
        self._random = np.random.default_rng(20240229)
        self.x = self._normal(3)
        self.labels = self._random.integers(0, self.classes, self.batch_shape)
        self._normalised = ""

    def _empty(self) -> NDArray[Any]:
        shape = self.layout.shape
        if self.layout.order == "F":
            return np.transpose(aligned_empty(shape[::-1], self.dtype))
        return aligned_empty(shape, self.dtype)

    def _normal(self, deviation: float) -> NDArray[Any]:
        array = self._empty()
        self._random.standard_normal(out=flat(array), dtype=self.dtype)
        array *= deviation
        return array

    @cached_property
    def contiguous(self) -> Data:
        """Arrays of the same size whose rows are contiguous."""
        return Data(self.layout.contiguous())

    @cached_property
    def g(self) -> NDArray[Any]:
        """The gradient that arrives from above; also the target of the squared error."""
        return self._normal(1)

    @cached_property
    def out(self) -> NDArray[Any]:
        """The full-size output of the `out` rows, its pages already touched."""
        array = self._empty()
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
        return self._empty()

    def normalised(self, logarithm: bool) -> NDArray[Any]:
        """Softmax of x, or its logarithm, from NumPy; the two share one buffer."""
        kind = "log" if logarithm else "plain"
        if self._normalised != kind:
            x, y = (np.moveaxis(array, self.axis, -1) for array in (self.x, self._y))
            for k in range(0, len(y), 64):  # no temporary of the full size
                part = y[k : k + 64]
                np.subtract(x[k : k + 64], x[k : k + 64].max(axis=-1, keepdims=True), out=part)
                if logarithm:
                    part -= np.log(np.exp(part).sum(axis=-1, keepdims=True))
                else:
                    np.exp(part, out=part)
                    part /= part.sum(axis=-1, keepdims=True)
            self._normalised = kind
        return self._y
