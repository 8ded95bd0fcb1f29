"""What is compared: operations, the layouts of their arrays, and the arrays themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

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
    writes : int
        How many arrays of the full size it returns, if any.
    has_out : bool
        Whether a result that is an array can go to one of the caller.
    """

    name: str
    reads: int
    result: str
    exponential: bool
    writes: int = 1
    has_out: bool = True

    @property
    def policies(self) -> tuple[str, ...]:
        """`out` is a row of its own wherever the result is an array and may be the caller's."""
        return ("fresh", "out") if self.result != "scalar" and self.has_out else ("fresh",)


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


FUNCTIONS = {
    operation.name: operation
    for operation in (
        Operation("binary_cross_entropy_with_logits", reads=2, result="scalar", exponential=True),
        Operation(
            "binary_cross_entropy_with_logits_value_and_grad",
            reads=2,
            result="full",
            exponential=True,
        ),
        Operation("log_loss", reads=1, result="scalar", exponential=False),
        Operation("cross_entropy_grad_hess", reads=1, result="full", exponential=True, writes=2),
        Operation("token_logprobs", reads=1, result="rows", exponential=True, has_out=False),
        Operation("top_k_logprobs", reads=1, result="rows", exponential=True, has_out=False),
    )
}
"""Operations that are measured at the shapes of their own users only."""

TEMPERATURE = 0.7
LABEL_SMOOTHING = 0.1
Z_LOSS = 1e-4
TOP_K = 10
HESS_FLOOR = 1e-16
"""The least entry of the Hessian in XGBoost's own objective."""


@dataclass(frozen=True)
class Option:
    """What an operation is asked for beyond its plain call.

    Attributes
    ----------
    name : str
        Its name in the labels: that of the keyword, where there is one.
    operations : tuple of str
        The operations that are measured with it.
    brings : {"nothing", "rows", "mask", "full", "twice"}
        The size of the array that it adds to the traffic: one number a row, one byte or one
        number an element, or that read twice.
    arguments : callable
        The keyword arguments of logitkit for it.
    """

    name: str
    operations: tuple[str, ...]
    brings: str
    arguments: Callable[[Data], dict[str, Any]]

    def share(self, layout: Layout) -> float:
        """The bytes that it brings, in arrays of the size of the logits."""
        shares = {
            "nothing": 0.0,
            "rows": 1 / layout.classes,
            "mask": layout.size / layout.nbytes,
            "full": 1.0,
            "twice": 2.0,
        }
        return shares[self.brings]


_CROSS_ENTROPY = ("cross_entropy", "cross_entropy_value_and_grad")

OPTIONS = (
    Option("class_weight", _CROSS_ENTROPY, "nothing", lambda d: {"class_weight": d.class_weight}),
    Option(
        "sample_weight",
        (*_CROSS_ENTROPY, "classification_error"),
        "rows",
        lambda d: {"sample_weight": d.sample_weight},
    ),
    Option(
        "label_smoothing",
        _CROSS_ENTROPY,
        "nothing",
        lambda _: {"label_smoothing": LABEL_SMOOTHING},
    ),
    Option("z_loss", _CROSS_ENTROPY, "nothing", lambda _: {"z_loss": Z_LOSS}),
    Option(
        "temperature",
        (*_CROSS_ENTROPY, "softmax"),
        "nothing",
        lambda _: {"temperature": TEMPERATURE},
    ),
    Option("probabilities", _CROSS_ENTROPY, "full", lambda d: {"labels": d.shares}),
    Option("return_lse", ("softmax",), "rows", lambda _: {"return_lse": True}),
    Option(
        "where",
        (*_CROSS_ENTROPY, "softmax", "logsumexp"),
        "mask",
        lambda d: {"where": d.mask},
    ),
    Option("b", ("logsumexp",), "full", lambda d: {"b": d.weights}),
    Option("weight", ("mse_loss",), "full", lambda d: {"weight": d.weights}),
    # The weights' sum divides the gradient: they are read before the first entry, and again.
    Option("weight", ("mse_loss_value_and_grad",), "twice", lambda d: {"weight": d.weights}),
)


HAS_BFLOAT16 = find_spec("ml_dtypes") is not None
"""Whether there is a package that gives NumPy this type."""


def number_type(name: str) -> np.dtype[Any]:
    """The dtype of this name; that of bfloat16 comes from ``ml_dtypes``."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


@dataclass(frozen=True)
class Layout:
    """How the logits lie in memory.

    Attributes
    ----------
    shape : tuple of int
        Their shape.
    dtype : {"float32", "float64", "float16", "bfloat16"}
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
        return self.size * (2 if self.is_half else np.dtype(self.dtype).itemsize)

    @property
    def is_half(self) -> bool:
        """Whether an element has 16 bits."""
        return self.dtype in ("float16", "bfloat16")

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
        `Layout.contiguous`, "one thread", "float32", the same on numbers of 32 bits, and "plain",
        without the option.
    busy : bool
        Whether another process keeps a CPU busy meanwhile.
    option : Option, optional
        What is asked for beyond the plain call.
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
    option: Option | None = None

    @property
    def title(self) -> str:
        """The operation, and what is asked of it."""
        return f"{self.operation.name}, {self.option.name}" if self.option else self.operation.name

    @property
    def brings(self) -> float:
        """The bytes that its option brings, in arrays of the size of the logits."""
        return self.option.share(self.layout) if self.option else 0.0

    @property
    def label(self) -> str:
        """What ``--only`` is matched against, such as ``softmax/out/16384x1000``."""
        layout = self.layout
        parts = [self.operation.name, self.policy, "x".join(map(str, layout.shape))]
        parts += [layout.dtype] if layout.dtype != "float32" else []
        parts += [f"axis{layout.axis}"] if layout.axis != 1 else []
        parts += ["fortran"] if layout.order == "F" else []
        parts += [self.option.name] if self.option else []
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
        self.dtype = number_type(layout.dtype)
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
        if self.layout.is_half:
            drawn = self._random.standard_normal(array.size, dtype=np.float32)
            drawn *= deviation
            flat(array)[:] = drawn
        else:
            self._random.standard_normal(out=flat(array), dtype=self.dtype)
            array *= deviation
        return array

    def _around_one(self, array: NDArray[Any]) -> NDArray[Any]:
        """Fill it with random numbers between 0.5 and 1.5."""
        self._random.random(out=flat(array), dtype=self.dtype)
        array += 0.5
        return array

    @cached_property
    def contiguous(self) -> Data:
        """Arrays of the same size whose rows are contiguous."""
        return Data(self.layout.contiguous())

    @cached_property
    def single(self) -> Data:
        """The same shape in float32."""
        return Data(replace(self.layout, dtype="float32"))

    @cached_property
    def weights(self) -> NDArray[Any]:
        """A positive weight for each element."""
        return self._around_one(self._empty())

    @cached_property
    def shares(self) -> NDArray[Any]:
        """Probabilities, all of about the same size; also the labels that are probabilities."""
        shares = self._around_one(self._empty())
        shares /= shares.sum(axis=self.axis, keepdims=True)
        return shares

    @cached_property
    def marks(self) -> NDArray[Any]:
        """Zeros and ones in equal parts: the targets of the binary cross-entropy."""
        marks = self._around_one(self._empty())
        np.greater(marks, 1, out=marks)
        return marks

    @cached_property
    def mask(self) -> NDArray[Any]:
        """True for nine elements of ten, and for the label of every row."""
        mask = self._random.random(self.layout.shape, dtype=np.float32) < 0.9
        np.put_along_axis(mask, np.expand_dims(self.labels, self.axis), True, self.axis)
        return mask

    @cached_property
    def sample_weight(self) -> NDArray[Any]:
        """A positive weight for each row."""
        return self._around_one(aligned_empty(self.batch_shape, self.dtype))

    @cached_property
    def class_weight(self) -> NDArray[Any]:
        """A positive weight for each class."""
        return self._around_one(aligned_empty((self.classes,), self.dtype))

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
    def second_out(self) -> NDArray[Any]:
        """The same again, for the operations that return two."""
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
