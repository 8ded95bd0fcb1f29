"""Measure the errors of logitkit and of other libraries, in units in the last place.

    python benches/accuracy.py [--quick] [--only REGEX] [--write]

Every operation, float32 and float64, on families of rows that are each hard in their own way, and
on the rows that a search has found worst for logitkit. The truth is computed in extended precision
(``tests/python/reference.py``). Libraries that are not installed are named and left out.

``--write`` puts the tables and the picture into ``docs/``, which takes some minutes. Fails where
one of our errors is beyond what is promised.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import logitkit as lk
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

import reference as ref  # noqa: E402
import rows  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Function = Callable[["Batch"], Any]

DTYPES = (np.float32, np.float64)
LENGTHS = (2, 3, 5, 10, 64, 100, 1000, 4099)
ELEMENTS = 40_000
LONG = 1_000_000
SEARCHED = "found by search"
ORDER = ("logitkit", "SciPy", "NumPy", "torch", "JAX")


@dataclass
class Batch:
    """Rows with all that goes with them; the backward operations read what ours returned."""

    x: Array
    labels: Array
    t: Array
    g: Array

    def __post_init__(self) -> None:
        self.rows = np.arange(len(self.x))
        self.y = lk.softmax(self.x, 1)
        self.log_y = lk.log_softmax(self.x, 1)
        self.lse = lk.logsumexp(self.x, 1)

    def describe(self, row: int) -> str:
        """The row in words, or in full when it is short."""
        x, label = self.x[row], self.labels[row]
        if len(x) <= 6:
            return f"{x.tolist()}, label {label}"
        return f"{len(x)} classes from {x.min():.6g} to {x.max():.6g}, label {label}"


# --- what is measured ----------------------------------------------------------------------------


@dataclass
class Operation:
    """A result and its truth.

    Attributes
    ----------
    bounds : tuple of float
        The promised error in float32 and float64.
    truth : callable
        The true result, and what its error is measured against (None: the result itself).
    """

    name: str
    bounds: tuple[float, float]
    truth: Callable[[Batch], tuple[Array, Array | None]]


def split_gradient(batch: Batch, gradient: Any, label: bool) -> Array:
    """The label's entries of a gradient, or all others."""
    at = (batch.rows, batch.labels)
    if label:
        return np.asarray(gradient)[at]
    others = np.array(gradient)
    others[at] = 0
    return others


def lse_truth(b: Batch) -> tuple[Array, Array]:
    lse = ref.Rows(b.x).lse
    top = np.abs(b.x.max(axis=1)).astype(ref.WIDE)
    return lse, np.maximum(np.maximum(np.abs(lse), top), 1)


def soft_truth(b: Batch) -> tuple[Array, Array, Array]:
    return ref.cross_entropy_soft(b.x, b.t, 1)


def mse_truth(b: Batch) -> tuple[Array, None]:
    squares, _ = ref.mse(b.x, b.g)
    return squares.mean(axis=1), None


SMOOTHING = 0.1


def smoothed_truth(b: Batch) -> tuple[Array, Array, Array]:
    share = ref.WIDE(SMOOTHING) / b.x.shape[1]
    t = np.full(b.x.shape, share)
    t[b.rows, b.labels] += 1 - ref.WIDE(SMOOTHING)
    return ref.cross_entropy_soft(b.x, t, 1)


def weighted_truth(b: Batch) -> tuple[Array, Array]:
    lse = ref.logsumexp(b.x, 1, b.t)
    top = np.abs(np.where(b.t == 0, -np.inf, b.x).max(axis=1)).astype(ref.WIDE)
    return lse, np.maximum(np.maximum(np.abs(lse), top), 1)


def log_loss_truth(b: Batch) -> tuple[Array, None]:
    return -np.log(b.y[b.rows, b.labels].astype(ref.WIDE)), None


def hessian_truth(b: Batch) -> tuple[Array, None]:
    """Return p (1 - p), where 1 - p of the largest is the sum of the others."""
    true, first = ref.Rows(b.x), (b.rows, b.x.argmax(axis=1))
    rest = 1 - true.softmax
    rest[first] = -true.gradient(first[1])[first]
    return true.softmax * rest, None


OPERATIONS = (
    Operation("softmax", (3, 4), lambda b: (ref.Rows(b.x).softmax, None)),
    Operation("log_softmax", (3, 4), lambda b: (ref.Rows(b.x).log_softmax, None)),
    Operation("logsumexp", (1.5, 2), lse_truth),
    Operation("cross_entropy", (3, 4), lambda b: (ref.Rows(b.x).loss(b.labels), None)),
    Operation(
        "gradient, label",
        (3, 4),
        lambda b: (split_gradient(b, ref.Rows(b.x).gradient(b.labels), True), None),
    ),
    Operation(
        "gradient, others",
        (3, 4),
        lambda b: (split_gradient(b, ref.Rows(b.x).gradient(b.labels), False), None),
    ),
    Operation("cross_entropy, soft", (3, 4), lambda b: (soft_truth(b)[0], None)),
    Operation("gradient, soft", (3, 4), lambda b: soft_truth(b)[1:]),
    Operation("cross_entropy, smoothed", (3, 4), lambda b: (smoothed_truth(b)[0], None)),
    Operation("gradient, smoothed", (3, 4), lambda b: smoothed_truth(b)[1:]),
    Operation("logsumexp, weights", (1.5, 2), weighted_truth),
    Operation(
        "binary cross-entropy", (3, 4), lambda b: (ref.binary_cross_entropy(b.x, b.t)[0], None)
    ),
    Operation("gradient, binary", (3, 4), lambda b: ref.binary_cross_entropy(b.x, b.t)[1:]),
    Operation("log_loss", (3, 4), log_loss_truth),
    Operation("Hessian", (3, 4), hessian_truth),
    Operation("softmax_backward", (3, 4), lambda b: ref.softmax_backward(b.g, b.y, 1)),
    Operation("log_softmax_backward", (3, 4), lambda b: ref.log_softmax_backward(b.g, b.log_y, 1)),
    Operation(
        "logsumexp_backward",
        (3, 4),
        lambda b: (ref.logsumexp_backward(b.g[:, 0], b.x, b.lse, 1), None),
    ),
    Operation("mse_loss", (3, 4), mse_truth),
)


# --- the libraries -------------------------------------------------------------------------------


def ours() -> dict[str, Function]:
    def gradient(b: Batch, labels: Array) -> Any:
        return lk.cross_entropy_value_and_grad(b.x, labels, reduction="none")[1]

    def smoothed(b: Batch) -> Any:
        options: Any = {"label_smoothing": SMOOTHING, "reduction": "none"}
        return lk.cross_entropy_value_and_grad(b.x, b.labels, **options)

    def binary(b: Batch) -> Any:
        return lk.binary_cross_entropy_with_logits_value_and_grad(b.x, b.t, reduction="none")

    def mse(b: Batch) -> Any:
        return np.array([lk.mse_loss(x, g) for x, g in zip(b.x, b.g, strict=True)], b.x.dtype)

    return {
        "softmax": lambda b: b.y,
        "log_softmax": lambda b: b.log_y,
        "logsumexp": lambda b: b.lse,
        "cross_entropy": lambda b: lk.cross_entropy(b.x, b.labels, reduction="none"),
        "gradient, label": lambda b: split_gradient(b, gradient(b, b.labels), True),
        "gradient, others": lambda b: split_gradient(b, gradient(b, b.labels), False),
        "cross_entropy, soft": lambda b: lk.cross_entropy(b.x, b.t, reduction="none"),
        "gradient, soft": lambda b: gradient(b, b.t),
        "cross_entropy, smoothed": lambda b: smoothed(b)[0],
        "gradient, smoothed": lambda b: smoothed(b)[1],
        "logsumexp, weights": lambda b: lk.logsumexp(b.x, 1, b.t),
        "binary cross-entropy": lambda b: binary(b)[0],
        "gradient, binary": lambda b: binary(b)[1],
        "log_loss": lambda b: lk.log_loss(b.y, b.labels, reduction="none"),
        "Hessian": lambda b: lk.cross_entropy_grad_hess(b.x, b.labels, dtype=b.x.dtype)[1],
        "softmax_backward": lambda b: lk.softmax_backward(b.g, b.y, 1),
        "log_softmax_backward": lambda b: lk.log_softmax_backward(b.g, b.log_y, 1),
        "logsumexp_backward": lambda b: lk.logsumexp_backward(b.g[:, 0], b.x, b.lse, 1),
        "mse_loss": mse,
    }


def scipy_functions() -> dict[str, Function]:
    special = import_module("scipy.special")
    return {
        "softmax": lambda b: special.softmax(b.x, 1),
        "log_softmax": lambda b: special.log_softmax(b.x, 1),
        "logsumexp": lambda b: special.logsumexp(b.x, 1),
        "logsumexp, weights": lambda b: special.logsumexp(b.x, 1, b.t),
    }


def numpy_functions() -> dict[str, Function]:
    """What people write by hand, with the usual shift by the maximum."""

    def shifted(b: Batch) -> Any:
        return b.x - b.x.max(1, keepdims=True)

    def softmax(b: Batch) -> Any:
        e = np.exp(shifted(b))
        return e / e.sum(1, keepdims=True)

    def log_softmax(b: Batch) -> Any:
        z = shifted(b)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    def logsumexp(b: Batch) -> Any:
        return b.x.max(1) + np.log(np.exp(shifted(b)).sum(1))

    def gradient(b: Batch) -> Any:
        dx = softmax(b)
        dx[b.rows, b.labels] -= 1
        return dx

    def soft_loss(b: Batch) -> Any:
        return -np.where(b.t == 0, 0, b.t * log_softmax(b)).sum(1)

    def smoothed(b: Batch) -> Any:
        log_p = log_softmax(b)
        return -((1 - SMOOTHING) * log_p[b.rows, b.labels] + SMOOTHING * log_p.mean(1))

    def smoothed_gradient(b: Batch) -> Any:
        dx = softmax(b) - b.x.dtype.type(SMOOTHING / b.x.shape[1])
        dx[b.rows, b.labels] -= b.x.dtype.type(1 - SMOOTHING)
        return dx

    def binary(b: Batch) -> Any:
        return np.maximum(b.x, 0) - b.x * b.t + np.log1p(np.exp(-np.abs(b.x)))

    def hessian(b: Batch) -> Any:
        p = softmax(b)
        return p * (1 - p)

    return {
        "softmax": softmax,
        "log_softmax": log_softmax,
        "logsumexp": logsumexp,
        "cross_entropy": lambda b: -log_softmax(b)[b.rows, b.labels],
        "gradient, label": lambda b: split_gradient(b, gradient(b), True),
        "gradient, others": lambda b: split_gradient(b, gradient(b), False),
        "cross_entropy, soft": soft_loss,
        "gradient, soft": lambda b: b.t.sum(1, keepdims=True) * softmax(b) - b.t,
        "cross_entropy, smoothed": smoothed,
        "gradient, smoothed": smoothed_gradient,
        "logsumexp, weights": lambda b: b.x.max(1) + np.log((b.t * np.exp(shifted(b))).sum(1)),
        "binary cross-entropy": binary,
        "gradient, binary": lambda b: 1 / (1 + np.exp(-b.x)) - b.t,
        "log_loss": lambda b: -np.log(b.y[b.rows, b.labels]),
        "Hessian": hessian,
        "softmax_backward": lambda b: b.y * (b.g - (b.g * b.y).sum(1, keepdims=True)),
        "log_softmax_backward": lambda b: b.g - np.exp(b.log_y) * b.g.sum(1, keepdims=True),
        "logsumexp_backward": lambda b: b.g[:, :1] * np.exp(b.x - b.lse[:, None]),
        "mse_loss": lambda b: ((b.x - b.g) ** 2).mean(1),
    }


def torch_functions() -> dict[str, Function]:
    torch = import_module("torch")
    f = import_module("torch.nn.functional")

    def tensor(a: Array) -> Any:
        return torch.from_numpy(a)

    def loss(
        b: Batch, target: Array, grad: bool, function: Any = f.cross_entropy, **options: Any
    ) -> Any:
        x = tensor(b.x).requires_grad_(grad)
        value = function(x, tensor(target), reduction="none", **options)
        if not grad:
            return value.numpy()
        value.sum().backward()
        return x.grad.numpy()

    def mse(b: Batch) -> Any:
        pairs = zip(tensor(b.x), tensor(b.g), strict=True)
        return np.array([f.mse_loss(x, g).item() for x, g in pairs], b.x.dtype)

    def backward(name: str) -> Function:
        function = getattr(torch.ops.aten, name)
        return lambda b: function(
            tensor(b.g), tensor(b.y if name[1] == "s" else b.log_y), 1, tensor(b.x).dtype
        ).numpy()

    return {
        "softmax": lambda b: torch.softmax(tensor(b.x), 1).numpy(),
        "log_softmax": lambda b: torch.log_softmax(tensor(b.x), 1).numpy(),
        "logsumexp": lambda b: torch.logsumexp(tensor(b.x), 1).numpy(),
        "cross_entropy": lambda b: loss(b, b.labels, False),
        "gradient, label": lambda b: split_gradient(b, loss(b, b.labels, True), True),
        "gradient, others": lambda b: split_gradient(b, loss(b, b.labels, True), False),
        "cross_entropy, soft": lambda b: loss(b, b.t, False),
        "gradient, soft": lambda b: loss(b, b.t, True),
        "cross_entropy, smoothed": lambda b: loss(b, b.labels, False, label_smoothing=SMOOTHING),
        "gradient, smoothed": lambda b: loss(b, b.labels, True, label_smoothing=SMOOTHING),
        "binary cross-entropy": lambda b: loss(b, b.t, False, f.binary_cross_entropy_with_logits),
        "gradient, binary": lambda b: loss(b, b.t, True, f.binary_cross_entropy_with_logits),
        "softmax_backward": backward("_softmax_backward_data"),
        "log_softmax_backward": backward("_log_softmax_backward_data"),
        "mse_loss": mse,
    }


def jax_functions() -> dict[str, Function]:
    jax = import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    nn, jnp = jax.nn, jax.numpy

    def loss(x: Any, labels: Any) -> Any:
        return -jnp.take_along_axis(nn.log_softmax(x, 1), labels[:, None], 1)[:, 0]

    def gradient(b: Batch) -> Any:
        return np.asarray(jax.grad(lambda x: loss(x, b.labels).sum())(b.x))

    def soft(x: Any, t: Any) -> Any:
        return -jnp.where(t == 0, 0, t * nn.log_softmax(x, 1)).sum(1)

    return {
        "logsumexp, weights": lambda b: np.asarray(nn.logsumexp(b.x, 1, b.t)),
        "softmax": lambda b: np.asarray(nn.softmax(b.x, 1)),
        "log_softmax": lambda b: np.asarray(nn.log_softmax(b.x, 1)),
        "logsumexp": lambda b: np.asarray(nn.logsumexp(b.x, 1)),
        "cross_entropy": lambda b: np.asarray(loss(b.x, b.labels)),
        "gradient, label": lambda b: split_gradient(b, gradient(b), True),
        "gradient, others": lambda b: split_gradient(b, gradient(b), False),
        "cross_entropy, soft": lambda b: np.asarray(soft(b.x, b.t)),
        "gradient, soft": lambda b: np.asarray(jax.grad(lambda x: soft(x, b.t).sum())(b.x)),
        "mse_loss": lambda b: np.asarray(((jnp.asarray(b.x) - b.g) ** 2).mean(1)),
    }


def libraries() -> tuple[dict[str, dict[str, Function]], list[str]]:
    """The functions of every library that is installed, and the names of the others."""
    builders = (ours, scipy_functions, numpy_functions, torch_functions, jax_functions)
    present, missing = {}, []
    for name, functions in zip(ORDER, builders, strict=True):
        if name == "logitkit" or find_spec(name.lower()):
            present[name] = functions()
        else:
            missing.append(name)
    return present, missing


# --- the corpus ----------------------------------------------------------------------------------


def make_batch(x: Array, rng: np.random.Generator) -> Batch:
    """Labels at, near and far from the maximum; probabilities of which some are 0."""
    n, c = x.shape
    labels = rng.integers(0, c, n)
    usual = x[np.arange(n), labels] > -1e8
    labels = np.where(usual & (rng.random(n) < 0.5), labels, x.argmax(1))
    t = np.maximum(rng.uniform(-0.3, 1, x.shape), 0).astype(x.dtype)
    t[x < -1e8] = 0
    t[:, 0] = np.where(t.sum(1) == 0, 1, t[:, 0])
    t /= t.sum(1, keepdims=True)
    return Batch(x, labels, t, rng.normal(0, 1, x.shape).astype(x.dtype))


def searched(dtype: Any) -> Iterator[Batch]:
    """The rows that a search has found."""
    kind = {np.float32: "f32", np.float64: "f64"}[dtype]
    for line in (ROOT / "tests" / "worst.txt").read_text("ascii").splitlines():
        _, of, _, label, _, x, g, t = line.split()
        if of == kind:
            x, g, t = (np.array([a.split(",")]).astype(dtype) for a in (x, g, t))
            yield Batch(x, np.array([int(label)]), t, g)


def corpus(dtype: Any, quick: bool) -> Iterator[tuple[str, Batch]]:
    """Every family at every length, the longest only once."""
    for name, family in rows.FAMILIES.items():
        rng = np.random.default_rng(sum(name.encode()))
        for c in LENGTHS[:4:3] if quick else LENGTHS:
            n = (ELEMENTS // 20 if quick else ELEMENTS) // c
            yield name, make_batch(family(rng, n, c, dtype), rng)
        if not quick:
            yield name, make_batch(family(rng, 1, LONG, dtype), rng)
    for batch in searched(dtype):
        yield SEARCHED, batch


# --- the measurement -----------------------------------------------------------------------------


@dataclass
class Cell:
    """The errors of one library in one operation on one family."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    worst: str = ""

    def add(self, error: Array, batch: Batch) -> None:
        """Take in the errors of a batch."""
        self.total += float(error[np.isfinite(error)].sum())
        self.count += error.size
        at = np.unravel_index(np.argmax(error), error.shape)
        if error[at] > self.largest:
            self.largest, self.worst = float(error[at]), batch.describe(int(at[0]))

    def merge(self, other: Cell) -> Cell:
        """Both together."""
        high = max(self, other, key=lambda cell: cell.largest)
        return Cell(high.largest, self.total + other.total, self.count + other.count, high.worst)


Key = tuple[str, str, str, str]
"""dtype, operation, family, library"""


def measure(
    only: re.Pattern[str], quick: bool, present: dict[str, dict[str, Function]]
) -> dict[Key, Cell]:
    """Every cell of the tables."""
    cells: dict[Key, Cell] = {}
    with np.errstate(all="ignore"):
        for dtype in DTYPES:
            kind = np.dtype(dtype).name
            for family, batch in corpus(dtype, quick):
                for operation in OPERATIONS:
                    if not only.search(f"{operation.name}/{kind}/{family}"):
                        continue
                    truth, scale = operation.truth(batch)
                    for name, functions in present.items():
                        if operation.name in functions:
                            result = np.asarray(functions[operation.name](batch))
                            assert result.dtype == dtype, f"{name} {operation.name}: {result.dtype}"
                            error = ref.ulp_error(result, truth, scale)
                            key = (kind, operation.name, family, name)
                            cells.setdefault(key, Cell()).add(error, batch)
    return cells


def largest_over(cells: dict[Key, Cell], kind: str, operation: str, name: str) -> Cell | None:
    """A library's cell over all families."""
    found = [cells[key] for key in cells if (key[0], key[1], key[3]) == (kind, operation, name)]
    whole = Cell()
    for cell in found:
        whole = whole.merge(cell)
    return whole if found else None


def number(error: float | None) -> str:
    """Two digits after the point while there is use for them."""
    if error is None:
        return "-"
    if not np.isfinite(error):
        return "inf"
    if error >= 1e4:
        digits, exponent = f"{error:.1e}".split("e")
        return f"{digits}e{int(exponent)}"
    return f"{error:.0f}" if error >= 100 else f"{error:.2f}"


def failures(cells: dict[Key, Cell]) -> list[str]:
    """What is beyond the promise."""
    bounds = {operation.name: operation.bounds for operation in OPERATIONS}
    return [
        f"{operation}, {kind}, {family}: {cell.largest:.3f} ulp at {cell.worst}"
        for (kind, operation, family, name), cell in cells.items()
        if name == "logitkit" and cell.largest > bounds[operation][kind == "float64"]
    ]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns in line."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    )


def summary(cells: dict[Key, Cell], kind: str, names: Sequence[str]) -> str:
    """The largest error over all families."""
    lines = []
    for operation in OPERATIONS:
        ours = largest_over(cells, kind, operation.name, "logitkit")
        if ours is None:
            continue
        others = [largest_over(cells, kind, operation.name, name) for name in names[1:]]
        bound = f"{operation.bounds[kind == 'float64']:g}"
        mean = f"{ours.total / ours.count:.3f}"
        lines.append(
            [operation.name, bound, number(ours.largest), mean]
            + [number(cell and cell.largest) for cell in others]
        )
    return table([kind, "bound", "logitkit", "mean", *names[1:]], lines)


def details(cells: dict[Key, Cell], kind: str, operation: str, names: Sequence[str]) -> str:
    """One operation, family by family."""
    lines = []
    for family in [*rows.FAMILIES, SEARCHED]:
        found = [cells.get((kind, operation, family, name)) for name in names]
        if found[0] is None:
            continue
        mean = f"{found[0].total / found[0].count:.3f}"
        errors = [number(cell and cell.largest) for cell in found]
        lines.append([family.replace("_", " "), errors[0], mean, *errors[1:], found[0].worst])
    return table([kind, "logitkit", "mean", *names[1:], "worst for logitkit"], lines)


# --- the picture ---------------------------------------------------------------------------------


def curves(present: dict[str, dict[str, Function]]) -> dict[str, Any]:
    """Largest float32 error against the spread of the rows, and against the lead of one class."""
    rng = np.random.default_rng(0)
    spreads, margins = np.geomspace(0.1, 100, 25), np.linspace(0, 100, 41)
    by_spread = [make_batch(rng.normal(0, s, (200, 1000)).astype(np.float32), rng) for s in spreads]
    confident = []
    for margin in margins:
        x = rng.normal(0, 1, (2000, 10)).astype(np.float32)
        x[:, 0] = x.max(1) + margin
        labels = np.zeros(len(x), np.int64)
        confident.append(Batch(x, labels, np.eye(10, dtype=np.float32)[labels], x))
    spread = ("standard deviation of the logits", spreads, by_spread)
    lead = ("lead of the label's class", margins, confident)
    panels = {}
    by_name = {operation.name: operation for operation in OPERATIONS}
    for title, name, (label, places, batches) in (
        ("softmax of 1000 classes", "softmax", spread),
        ("loss of a confident row", "cross_entropy", lead),
        ("its gradient at the label", "gradient, label", lead),
    ):
        lines: dict[str, list[float]] = {}
        for batch in batches:
            truth, scale = by_name[name].truth(batch)
            for library, functions in present.items():
                if name in functions:
                    error = ref.ulp_error(functions[name](batch), truth, scale)
                    lines.setdefault(library, []).append(float(error.max()))
        panels[title] = (label, places, lines)
    return panels


def draw(panels: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(12, 4), layout="constrained")
    for ax, (title, (label, places, lines)) in zip(axes, panels.items(), strict=True):
        for name, errors in lines.items():
            # SciPy's and NumPy's curves coincide: one is dashed.
            width, style = {"logitkit": (2.5, "-"), "SciPy": (2.5, ":")}.get(name, (1.2, "-"))
            color = f"C{ORDER.index(name)}"
            ax.plot(places, errors, label=name, color=color, linewidth=width, linestyle=style)
        ax.set(title=title, xlabel=label, yscale="log", ylim=(0.3, None))
        ax.set_xscale("log" if places[0] > 0 else "linear")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("largest error in units in the last place")
    axes[0].legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})


# --- the page ------------------------------------------------------------------------------------

PAGE = """\
# Accuracy

Written by `python benches/accuracy.py --write`; the numbers are errors in units in the last place
(ulp) of the true result, computed in extended precision. Where a result is the difference of two
numbers, the unit is that of the larger one, and of `logsumexp` that of the largest of the result,
the maximum and 1. *bound* is what is promised for every row, *logitkit* the largest error seen and
*mean* its mean; the columns of the other libraries are their largest errors on the same rows. A
number around 1e7 (float32) or 1e16 (float64) is a result of 0 that should not be 0; *inf* stands
for an infinity or NaN in place of a number.

{about}

![Largest error against the spread of the row](images/accuracy.png)

## All rows together

{summaries}

## Row by row

Families of rows: {families}.
Each has {lengths} and {long} classes. The rows of the last line, *found by search*, are the worst
that a hill climb has found for logitkit (`tests/worst.txt`); a search that runs for longer finds a
little more.

{details}
"""


def families() -> str:
    """Names with what their functions say of them."""
    texts = []
    for name, family in rows.FAMILIES.items():
        text = (family.__doc__ or "").split("\n")[0].rstrip(".")
        what = f" ({text[0].lower()}{text[1:]})" if text else ""
        texts.append(f"*{name.replace('_', ' ')}*{what}")
    return ", ".join(texts)


def page(cells: dict[Key, Cell], names: Sequence[str]) -> str:
    versions = ", ".join(
        f"{name} {metadata.version(name.lower())}" for name in names if name != "logitkit"
    )
    kinds = [np.dtype(dtype).name for dtype in DTYPES]
    parts = []
    for operation in OPERATIONS:
        tables = [details(cells, kind, operation.name, names) for kind in kinds]
        parts.append(f"### {operation.name}\n\n" + "\n\n".join(tables))
    return PAGE.format(
        about=f"Measured with {versions}, Python {platform.python_version()}.",
        summaries="\n\n".join(summary(cells, kind, names) for kind in kinds),
        families=families(),
        lengths=", ".join(map(str, LENGTHS)),
        long=f"{LONG:,}".replace(",", " "),
        details="\n\n".join(parts),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 when something is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows, few lengths")
    parser.add_argument("--only", metavar="REGEX", default="", help="in operation/dtype/family")
    parser.add_argument("--write", action="store_true", help="put tables and picture into docs/")
    options = parser.parse_args(arguments)
    if options.write and (options.quick or options.only):
        parser.error("--write needs all rows")
    if not ref.EXTENDED:
        print("longdouble is no wider than float64 here: no reference for float64")
        return 1
    present, missing = libraries()
    names = list(present)
    print(f"logitkit at level {lk.simd_level()}")
    if missing:
        print("not installed:", ", ".join(missing))
    cells = measure(re.compile(options.only), options.quick, present)
    for dtype in DTYPES:
        print("\n" + summary(cells, np.dtype(dtype).name, names))
    wrong = failures(cells)
    print(*wrong, sep="\n")
    if options.write:
        (ROOT / "docs" / "accuracy.md").write_text(page(cells, names), "utf-8")
        draw(curves(present), ROOT / "docs" / "images" / "accuracy.png")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
