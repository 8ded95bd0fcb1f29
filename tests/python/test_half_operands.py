"""16-bit operands of calls with options: the bits of float32 calls, and no array of their size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
from layouts import assert_same_bits
from logitkit import _logitkit_core as core
from test_half import half_types, halves, rounded, values

Array = npt.NDArray[Any]
Results = tuple[Any, ...]

pytestmark = pytest.mark.usefixtures("keep_settings")


@dataclass(frozen=True)
class Case:
    """Two operands of 16 bits, labels of which some are -100, and numbers per row."""

    x: Array
    other: Array
    labels: Array
    rows: Array
    axis: int

    def map(self, change: Callable[[Array], Array]) -> Case:
        return Case(change(self.x), change(self.other), self.labels, self.rows, self.axis)

    @property
    def classes(self) -> int:
        return int(self.x.shape[self.axis])


def make_case(
    shape: tuple[int, ...], axis: int, half: Any, rng: np.random.Generator, *, special: bool
) -> Case:
    x, other = (values(shape, half, rng, special) for _ in range(2))
    batch = shape[:axis] + shape[axis + 1 :]
    labels = np.where(rng.random(batch) < 0.1, -100, rng.integers(0, shape[axis], batch))
    return Case(x, other, labels, rng.uniform(0.3, 3, batch), axis)


def cases(
    shapes: list[tuple[tuple[int, ...], int]], half: Any, rng: np.random.Generator
) -> Iterator[tuple[str, Case]]:
    for shape, axis in shapes:
        for special in (False, True):
            what = f"{shape} axis {axis}{' special' if special else ''}"
            yield what, make_case(shape, axis, half, rng, special=special)


def token_logprobs(c: Case) -> Results:
    return lk.token_logprobs(c.x, c.labels, axis=c.axis)


def token_logprobs_cooled(c: Case) -> Results:
    return lk.token_logprobs(c.x, c.labels, axis=c.axis, temperature=0.3)


def token_logprobs_rows(c: Case) -> Results:
    return lk.token_logprobs(c.x, c.labels, axis=c.axis, temperature=c.rows)


def top_k_logprobs(c: Case) -> Results:
    return lk.top_k_logprobs(c.x, min(5, c.classes), axis=c.axis)


def top_k_logprobs_one(c: Case) -> Results:
    return lk.top_k_logprobs(c.x, 1, axis=c.axis, temperature=0.3)


def top_k_logprobs_half(c: Case) -> Results:
    return lk.top_k_logprobs(c.x, (c.classes + 1) // 2, axis=c.axis, temperature=c.rows)


def classification_error(c: Case) -> Results:
    return (lk.classification_error(c.x, c.labels, axis=c.axis, sample_weight=c.rows),)


def classification_error_sum(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows, "reduction": "sum"}
    return (lk.classification_error(c.x, c.labels, **options),)


def classification_error_rows(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows, "reduction": "none"}
    return (lk.classification_error(c.x, c.labels, **options),)


def softmax_backward(c: Case) -> Results:
    return (lk.softmax_backward(c.other, c.x, c.axis, temperature=0.3),)


def softmax_backward_rows(c: Case) -> Results:
    return (lk.softmax_backward(c.other, c.x, c.axis, temperature=c.rows),)


def log_softmax_backward(c: Case) -> Results:
    return (lk.log_softmax_backward(c.other, c.x, c.axis, temperature=0.3),)


def log_softmax_backward_rows(c: Case) -> Results:
    return (lk.log_softmax_backward(c.other, c.x, c.axis, temperature=c.rows),)


def grad_hess(c: Case) -> Results:
    scores, labels = np.moveaxis(c.x, c.axis, -1), np.maximum(c.labels, 0)
    return lk.cross_entropy_grad_hess(scores, labels, sample_weight=c.rows, hess_floor=1e-16)


def grad_hess_fortran(c: Case) -> Results:
    scores, labels = np.moveaxis(c.x, c.axis, -1), np.maximum(c.labels, 0)
    return lk.cross_entropy_grad_hess(scores, labels, hessian="lightgbm", order="F")


def grad_hess_double(c: Case) -> Results:
    scores, labels = np.moveaxis(c.x, c.axis, -1), np.maximum(c.labels, 0)
    return lk.cross_entropy_grad_hess(scores, labels, dtype=np.float64)


def finite(c: Case) -> Array:
    """The second operand in float32, without what is not finite."""
    return np.nan_to_num(c.other.astype(np.float32), nan=0, posinf=2, neginf=-2)


def weights_of(c: Case) -> Array:
    """Weights of 16 bits or float32, as the operands have it, some of them 0."""
    return np.maximum(finite(c), 0).astype(c.x.dtype)


def single_weights(c: Case) -> Array:
    """Weights along the last axis, float32."""
    return np.linspace(0, 2, c.x.shape[-1], dtype=np.float32)


def mse_weighted_rows(c: Case) -> Results:
    return (lk.mse_loss(c.x, c.other, weight=weights_of(c), reduction="none"),)


def mse_weighted_mean(c: Case) -> Results:
    return (lk.mse_loss(c.x, c.other, weight=weights_of(c)),)


def mse_weighted_last_axis(c: Case) -> Results:
    return (lk.mse_loss(c.x, c.other, weight=single_weights(c), reduction="sum"),)


def binary_rows(c: Case) -> Results:
    return (lk.binary_cross_entropy_with_logits(c.x, weights_of(c), reduction="none"),)


def binary_mean(c: Case) -> Results:
    return (lk.binary_cross_entropy_with_logits(c.x, finite(c) > 0, weight=weights_of(c)),)


def binary_sum(c: Case) -> Results:
    targets = np.maximum(finite(c), 0)
    options: Any = {"pos_weight": single_weights(c), "reduction": "sum"}
    return (lk.binary_cross_entropy_with_logits(c.x, targets, **options),)


def log_loss(c: Case) -> Results:
    return (lk.log_loss(c.x, c.labels, axis=c.axis),)


def log_loss_rows(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows, "reduction": "none"}
    return (lk.log_loss(np.abs(c.x), c.labels, **options),)


def log_loss_soft(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows, "reduction": "sum"}
    return (lk.log_loss(np.abs(c.x), weights_of(c), **options),)


WIDE = {
    f.__name__: f
    for f in (
        token_logprobs,
        token_logprobs_cooled,
        token_logprobs_rows,
        top_k_logprobs,
        top_k_logprobs_one,
        top_k_logprobs_half,
        classification_error,
        classification_error_sum,
        classification_error_rows,
        grad_hess,
        grad_hess_fortran,
        grad_hess_double,
        mse_weighted_rows,
        mse_weighted_mean,
        mse_weighted_last_axis,
        binary_rows,
        binary_mean,
        binary_sum,
        log_loss,
        log_loss_rows,
        log_loss_soft,
    )
}
"""Calls whose results are those of float32."""


def cross_entropy_list(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows.astype(np.float32)}
    return lk.cross_entropy_value_and_grad(c.x, c.labels.tolist(), **options)


def cross_entropy_soft(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows.tolist(), "reduction": "none"}
    return lk.cross_entropy_value_and_grad(c.x, weights_of(c), **options)


def cross_entropy_wide_targets(c: Case) -> Results:
    targets = np.maximum(finite(c), 0).astype(np.float64)
    return lk.cross_entropy_value_and_grad(c.x, targets, axis=c.axis, label_smoothing=0.1)


def mse_gradient(c: Case) -> Results:
    options: Any = {"weight": weights_of(c), "grad_output": 0.7}
    return lk.mse_loss_value_and_grad(c.x, c.other, **options)


def mse_gradient_rows(c: Case) -> Results:
    incoming = finite(c)
    options: Any = {"weight": single_weights(c), "reduction": "none", "grad_output": incoming}
    return lk.mse_loss_value_and_grad(c.x, c.other, **options)


def mse_gradient_last_axis(c: Case) -> Results:
    weight = np.arange(c.x.shape[-1]).astype(np.int8).astype(c.x.dtype)
    return lk.mse_loss_value_and_grad(c.x, c.other, weight=weight, reduction="sum")


def mse_gradient_one_weight(c: Case) -> Results:
    return lk.mse_loss_value_and_grad(c.x, c.other, weight=c.x.dtype.type(0.75))


def mse_gradient_no_weight(c: Case) -> Results:
    return lk.mse_loss_value_and_grad(c.x, c.other, weight=0)


def binary_gradient(c: Case) -> Results:
    return lk.binary_cross_entropy_with_logits_value_and_grad(c.x, weights_of(c))


def binary_gradient_integers(c: Case) -> Results:
    options: Any = {"pos_weight": weights_of(c), "weight": weights_of(c), "reduction": "none"}
    targets = (finite(c) > 0).astype(np.int16)
    return lk.binary_cross_entropy_with_logits_value_and_grad(c.x, targets, **options)


def binary_gradient_rows(c: Case) -> Results:
    incoming = finite(c)
    options: Any = {"pos_weight": single_weights(c), "reduction": "none", "grad_output": incoming}
    return lk.binary_cross_entropy_with_logits_value_and_grad(c.x, incoming > 0, **options)


def log_loss_gradient(c: Case) -> Results:
    return lk.log_loss_value_and_grad(np.abs(c.x), c.labels, axis=c.axis, sample_weight=c.rows)


def log_loss_gradient_rows(c: Case) -> Results:
    options: Any = {"axis": c.axis, "reduction": "none", "grad_output": c.rows.astype(np.float32)}
    return lk.log_loss_value_and_grad(c.x, c.labels, **options)


def log_loss_gradient_soft(c: Case) -> Results:
    options: Any = {"axis": c.axis, "sample_weight": c.rows, "grad_output": -0.7}
    return lk.log_loss_value_and_grad(np.abs(c.x), weights_of(c), **options)


def log_loss_gradient_wide_targets(c: Case) -> Results:
    targets = np.maximum(finite(c), 0).astype(np.float64)
    return lk.log_loss_value_and_grad(np.abs(c.x), targets, axis=c.axis, reduction="none")


ROUNDED = {
    f.__name__: f
    for f in (
        softmax_backward,
        softmax_backward_rows,
        log_softmax_backward,
        log_softmax_backward_rows,
        cross_entropy_list,
        cross_entropy_soft,
        cross_entropy_wide_targets,
        mse_gradient,
        mse_gradient_rows,
        mse_gradient_last_axis,
        mse_gradient_one_weight,
        mse_gradient_no_weight,
        binary_gradient,
        binary_gradient_integers,
        binary_gradient_rows,
        log_loss_gradient,
        log_loss_gradient_rows,
        log_loss_gradient_soft,
        log_loss_gradient_wide_targets,
    )
}
"""Calls whose last result is a float32 one, rounded once."""

ALL = WIDE | ROUNDED
calls = pytest.mark.parametrize("name", ALL)


def expected(name: str, case: Case, half: Any) -> Results:
    *others, last = ALL[name](case.map(lambda a: a.astype(np.float32)))
    return (*others, last if name in WIDE else rounded(last, half))


def compare(name: str, got: Results, want: Results, what: str) -> None:
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_same_bits(a, b, f"{name}[{i}] {what}")


SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((41, 1), 1),
    ((131, 10), 1),
    ((200, 17), 1),
    ((19, 65), 1),
    ((7, 1000), 1),
    ((3, 9001), 1),
    ((300, 21), 0),
    ((21, 300), 0),
    ((3, 7, 5, 6), 1),
    ((2, 130, 70), 1),
    ((2, 1030, 67), 1),
    ((50,), 0),
    ((1,), 0),
]
LARGE: list[tuple[tuple[int, ...], int]] = [
    ((20011, 10), 1),
    ((301, 1000), 1),
    ((3, 128256), 1),
    ((1000, 301), 0),
]


@halves
@calls
def test_bits_of_float32(name: str, half: Any, rng: np.random.Generator) -> None:
    for what, case in cases(SHAPES, half, rng):
        compare(name, ALL[name](case), expected(name, case, half), what)


@halves
@calls
def test_threads(name: str, half: Any, rng: np.random.Generator) -> None:
    for what, case in cases(LARGE, half, rng):
        want = expected(name, case, half)
        for threads in (1, 3):
            lk.set_num_threads(threads)
            compare(name, ALL[name](case), want, f"{what}, {threads} threads")


@halves
@pytest.mark.parametrize("layout", layouts.ALL)
@calls
def test_layouts(name: str, layout: str, half: Any, rng: np.random.Generator) -> None:
    if layout == "byte_swapped" and np.dtype(half).kind == "V":
        pytest.skip("bfloat16 has one byte order")
    shapes: list[tuple[tuple[int, ...], int]] = [
        ((7, 40), 1), ((70, 9), 1), ((9, 70), 0), ((4, 19, 33), 1), ((66, 5, 3), 0), ((3, 1100), 1),
    ]  # fmt: skip
    for what, case in cases(shapes, half, rng):
        got = ALL[name](case.map(layouts.ALL[layout]))
        compare(name, got, expected(name, case, half), what)


@halves
@pytest.mark.parametrize("level", core.simd_levels())
@calls
def test_levels(name: str, level: str, half: Any, rng: np.random.Generator) -> None:
    for what, case in cases([SHAPES[i] for i in (1, 4, 6, 9)], half, rng):
        want = expected(name, case, half)
        core.set_simd_level(level)
        compare(name, ALL[name](case), want, f"{what} {level}")


@halves
def test_gradients_in_place_and_into_out(half: Any, rng: np.random.Generator) -> None:
    for shape, axis in [SHAPES[i] for i in (1, 4, 6, 9)] + [LARGE[1]]:
        case = make_case(shape, axis, half, rng, special=True)
        for f in (lk.softmax_backward, lk.log_softmax_backward):
            for temperature in (0.3, case.rows):
                want = f(case.other, case.x, axis, temperature=temperature)
                for layout in layouts.WRITABLE:
                    out = layouts.WRITABLE[layout](np.zeros_like(case.x))
                    assert f(case.other, case.x, axis, temperature=temperature, out=out) is out
                    assert_same_bits(out, want, f"{shape} {f.__name__} {layout}")
                for operand in (0, 1):
                    args = [case.other.copy(), case.x.copy()]
                    f(*args, axis, temperature=temperature, out=args[operand])
                    assert_same_bits(args[operand], want, f"{shape} {f.__name__} {operand}")


LOSS_GRADIENTS: dict[str, Callable[..., Any]] = {
    "mse_loss": lambda a, b, **options: lk.mse_loss_value_and_grad(a, b, weight=0.75, **options),
    "mse_loss, weights": lambda a, b, **options: lk.mse_loss_value_and_grad(
        a, b, weight=np.ones_like(a), **options
    ),
    "binary": lk.binary_cross_entropy_with_logits_value_and_grad,
    "binary, weights": lambda a, b, **options: lk.binary_cross_entropy_with_logits_value_and_grad(
        a, b, pos_weight=np.full_like(a, 2), weight=0.5, **options
    ),
    "log_loss": lambda a, b, **options: lk.log_loss_value_and_grad(a, b, **options),
}


@halves
@pytest.mark.parametrize("name", LOSS_GRADIENTS)
def test_gradients_of_losses_in_place(name: str, half: Any, rng: np.random.Generator) -> None:
    f = LOSS_GRADIENTS[name]
    for shape, axis in [SHAPES[i] for i in (1, 4, 6, 9)] + [LARGE[1]]:
        case = make_case(shape, axis, half, rng, special=True)
        a, b = case.x, finite(case).astype(half)
        for reduction in ("mean", "none"):
            loss, want = f(a, b, reduction=reduction)
            for layout in layouts.WRITABLE:
                out = layouts.WRITABLE[layout](np.zeros_like(a))
                again, grad = f(a, b, reduction=reduction, grad_out=out)
                assert grad is out
                assert_same_bits(again, loss, f"{shape} {layout}")
                assert_same_bits(out, want, f"{shape} {layout}")
            for operand in (0, 1):
                args = [a.copy(), b.copy()]
                again, _ = f(*args, reduction=reduction, grad_out=args[operand])
                assert_same_bits(again, loss, f"{shape} in place of {operand}")
                assert_same_bits(args[operand], want, f"{shape} in place of {operand}")


@halves
def test_losses_into_out(half: Any, rng: np.random.Generator) -> None:
    case = make_case((301, 100), 1, half, rng, special=True)
    a, b = case.x, finite(case).astype(half)
    for f in (
        lambda **options: lk.mse_loss(a, b, weight=weights_of(case), **options),
        lambda **options: lk.binary_cross_entropy_with_logits(a, b, **options),
    ):
        for reduction, shape in (("mean", ()), ("none", a.shape)):
            want = f(reduction=reduction)
            for layout in layouts.WRITABLE:
                out = layouts.WRITABLE[layout](np.zeros(shape, np.float32))
                assert f(reduction=reduction, out=out) is out
                assert_same_bits(out[()], want, f"{reduction} {layout}")
        with pytest.raises(TypeError, match="out has dtype"):
            f(reduction="none", out=np.empty_like(a))


@halves
def test_results_in_memory_of_operands(half: Any, rng: np.random.Generator) -> None:
    """Of another type, so that an element of the result is not that of the operand."""
    space = np.zeros((40, 30), np.float32)
    x = space.view(half)[:, ::2]
    x[...] = values(x.shape, half, rng, special=False)
    t = (rng.random(x.shape) < 0.5).astype(np.int16)
    loss = lk.binary_cross_entropy_with_logits(x, t, reduction="none")
    grad = lk.binary_cross_entropy_with_logits_value_and_grad(x, t)[1]
    pair = lk.cross_entropy_grad_hess(x, t[:, 0])
    targets = t.copy()
    lk.binary_cross_entropy_with_logits_value_and_grad(x, targets, grad_out=targets.view(half))
    assert_same_bits(targets.view(half), grad)
    original = x.copy()
    lk.binary_cross_entropy_with_logits(x, t, reduction="none", out=space)
    assert_same_bits(space, loss)
    x[...] = original
    hess = np.empty_like(space)
    lk.cross_entropy_grad_hess(x, t[:, 0], out=(space, hess))
    assert_same_bits(space, pair[0])
    assert_same_bits(hess, pair[1])


@halves
def test_gradients_past_the_caches(half: Any, rng: np.random.Generator) -> None:
    """Outputs of 32 MiB and more that are not new are streamed, wherever they begin."""
    n = 1 << 24
    row = values((1003,), half, rng, special=False)
    x, t = np.resize(row, n), np.resize(np.abs(row), n)
    want = lk.binary_cross_entropy_with_logits_value_and_grad(row, np.abs(row), reduction="sum")[1]
    losses = lk.binary_cross_entropy_with_logits(row, np.abs(row), reduction="none")
    space = np.zeros(n + 7, half)
    for start in (0, 3):
        out = space[start : start + n]
        lk.binary_cross_entropy_with_logits_value_and_grad(x, t, reduction="sum", grad_out=out)
        assert np.array_equal(out.view(np.uint16), np.resize(want, n).view(np.uint16))
    single = np.zeros(n, np.float32)
    lk.binary_cross_entropy_with_logits(x, t, reduction="none", out=single)
    assert np.array_equal(single, np.resize(losses, n))


@halves
def test_labels_out_of_range(half: Any) -> None:
    x = np.zeros((3, 4), half)
    with pytest.raises(IndexError, match=r"labels\[1\] is 4: not in \[0, 4\)"):
        lk.token_logprobs(x, np.array([0, 4, 5]))
    with pytest.raises(IndexError, match=r"labels\[1\] is 4: not in \[0, 4\)"):
        lk.classification_error(x, np.array([0, 4, 5]), sample_weight=np.ones(3))
    out = (np.full((3, 4), 7, np.float32), np.full((3, 4), 7, np.float32))
    with pytest.raises(IndexError, match=r"labels\[1\] is 4: not in \[0, 4\)"):
        lk.cross_entropy_grad_hess(x, np.array([0, 4, 5]), out=out)
    assert np.all(out[0] == 7)
    assert np.all(out[1] == 7)


@halves
def test_the_compiled_functions_take_them(half: Any) -> None:
    x, axis = np.zeros((30, 4, 9), half), 1
    labels, rows = np.zeros((30, 9), np.int64), np.ones((30, 9))
    labels_of_four, single = np.zeros((30, 4), np.int64), np.zeros(x.shape, np.float32)
    answers = {
        "token_logprobs": core.token_logprobs(x, labels, axis, rows, None),
        "top_k_logprobs": core.top_k_logprobs(x, 2, axis, rows),
        "classification_error": core.classification_error(x, labels, axis, rows, None, "mean"),
        "softmax_backward": core.backward(x, x, axis, False, rows, None),
        "log_softmax_backward": core.backward(x, x, axis, True, 0.5, x.copy()),
        "grad_hess": core.cross_entropy_grad_hess(
            x, labels_of_four, None, "exact", 1.0, 0.0, True, "K", None
        ),
        "mse_loss": core.mse_loss(x, x, x, "none", None),
        "mse_loss, one weight": core.mse_loss(x, x, x[0, 0, :1], "mean", np.zeros((), np.float32)),
        "mse_loss_value_and_grad": core.mse_loss_value_and_grad(
            x, x, single, "none", single, x.copy()
        ),
        "binary": core.binary_cross_entropy_with_logits(x, x, x, x, "mean", None),
        "binary, integers": core.binary_cross_entropy_with_logits(
            x, x > 0, single[0, 0], None, "none", single.copy()
        ),
        "log_loss": core.log_loss(x, labels, axis, rows.astype(np.float32), None, "none", None),
        "log_loss_value_and_grad": core.log_loss_value_and_grad(
            x, labels, axis, None, None, "mean", 2.0, x.copy()
        ),
        "log_loss, probabilities": core.log_loss_value_and_grad(
            x, x, 2, single[:, :, 0].copy(), None, "none", single[:, :, 0], x.copy()
        ),
        "binary, value and grad": core.binary_cross_entropy_with_logits_value_and_grad(
            x, single, None, None, "sum", 2.0, None
        ),
    }
    for name, answer in answers.items():
        assert answer is not NotImplemented, name


@halves
def test_mixed_types_are_declined(half: Any) -> None:
    x, wide = np.zeros((3, 4), half), np.zeros((3, 4), np.float32)
    other = np.zeros((3, 4), next((t for t in half_types() if t is not half), np.float64))
    for y in (wide, other):
        assert core.backward(y, x, 1, False, 0.5, None) is NotImplemented
        assert core.backward(x, x, 1, False, 0.5, y) is NotImplemented
        assert core.log_loss(x, y, 1, None, None, "mean", None) is NotImplemented
        args = (x, x, 1, None, None, "mean", None, y)
        assert core.log_loss_value_and_grad(*args) is NotImplemented
        assert core.mse_loss(x, y, x, "mean", None) is NotImplemented
        assert core.mse_loss(y, x, x, "mean", None) is NotImplemented
        args = (x, x, None, None, "mean", None, y)
        assert core.binary_cross_entropy_with_logits_value_and_grad(*args) is NotImplemented


def extra_memory(function: Callable[[], Any]) -> int:
    """Bytes of the arrays that were alive at once, beside those from before."""
    function()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@halves
def test_no_array_of_their_size(half: Any, rng: np.random.Generator) -> None:
    """Also where the other operands are for Python to convert."""
    x = values((64, 8192), half, rng, special=False)
    y = values((64, 8192), half, rng, special=False)
    labels = rng.integers(0, 8192, 64)
    weight, out = np.ones(64, np.float32), np.empty_like(x)
    pair = np.empty(x.shape, np.float32), np.empty(x.shape, np.float32)
    square = (64, 2, 4096)
    functions: dict[str, Callable[[], Any]] = {
        "token_logprobs": lambda: lk.token_logprobs(x, labels),
        "token_logprobs, a list": lambda: lk.token_logprobs(x, labels.tolist(), temperature=2),
        "token_logprobs, columns": lambda: lk.token_logprobs(x.T, labels, axis=0),
        "top_k_logprobs": lambda: lk.top_k_logprobs(x, 5),
        "top_k_logprobs, float32": lambda: lk.top_k_logprobs(x, 5, temperature=weight),
        "classification_error": lambda: lk.classification_error(x, labels, sample_weight=weight),
        "cross_entropy, a list": lambda: lk.cross_entropy(x, labels.tolist()),
        "cross_entropy, options": lambda: lk.cross_entropy_value_and_grad(
            x, labels, sample_weight=weight.tolist(), temperature=weight, grad_out=out
        ),
        "cross_entropy, probabilities": lambda: lk.cross_entropy_value_and_grad(
            x, y, sample_weight=weight.tolist(), grad_output=weight[0], grad_out=out
        ),
        "softmax_backward": lambda: lk.softmax_backward(y, x, 1, temperature=0.5, out=out),
        "log_softmax_backward": lambda: lk.log_softmax_backward(
            y, x, 1, temperature=weight, out=out
        ),
        "log_loss": lambda: lk.log_loss(x, labels.tolist()),
        "log_loss, columns": lambda: lk.log_loss_value_and_grad(
            x.T, labels, axis=0, sample_weight=weight.tolist(), grad_out=out.T
        ),
        "log_loss, probabilities": lambda: lk.log_loss_value_and_grad(
            x, y, sample_weight=weight.tolist(), grad_output=weight[0], grad_out=out
        ),
        "softmax, temperatures": lambda: lk.softmax(x, 1, temperature=weight, out=out),
        "logsumexp of pairs": lambda: lk.logsumexp(x.reshape(square), (1, 2)),
        "softmax of pairs": lambda: lk.softmax(x.reshape(square), (1, 2), out=out.reshape(square)),
        "grad_hess": lambda: lk.cross_entropy_grad_hess(x, labels.tolist(), out=pair),
        "mse_loss": lambda: lk.mse_loss(x, y, weight=y),
        "mse_loss, a list": lambda: lk.mse_loss_value_and_grad(
            x, y, weight=weight.tolist()[:1], grad_out=out
        ),
        "binary": lambda: lk.binary_cross_entropy_with_logits(x, y, pos_weight=y, weight=2),
        "binary, a list": lambda: lk.binary_cross_entropy_with_logits_value_and_grad(
            x, y, weight=[1.5], grad_out=out
        ),
    }
    for name, function in functions.items():
        assert extra_memory(function) < x.nbytes // 8, name
