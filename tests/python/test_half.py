"""float16 and bfloat16: the compiled path against the float32 one, rounded once, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import operations
import pytest
from layouts import assert_same_bits
from logitkit import _logitkit_core as core
from operations import Batch, make_batch

Array = npt.NDArray[Any]

pytestmark = pytest.mark.usefixtures("keep_settings")


def half_types() -> list[Any]:
    try:
        import ml_dtypes
    except ImportError:
        return [np.float16]
    return [np.float16, ml_dtypes.bfloat16]


halves = pytest.mark.parametrize("half", half_types(), ids=lambda t: np.dtype(t).name)

SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((41, 1), 1),
    ((41, 3), 1),
    ((131, 10), 1),
    ((200, 17), 1),
    ((19, 65), 1),
    ((7, 1000), 1),
    ((3, 4099), 1),
    ((5, 37), 0),
    ((21, 300), 0),
    ((300, 21), 0),
    ((3, 7, 5, 6), 1),
    ((2, 21, 9, 11), 1),
    ((2, 130, 70), 1),
    ((1100, 71), 0),
    ((2, 1030, 67), 1),
    ((1500, 3), 0),
    ((50,), 0),
    ((1,), 0),
    # Around the lengths of rows whose maximum is found while they are converted.
    ((21, 255), 1),
    ((22, 256), 1),
    ((9, 267), 1),
    ((7, 1024), 1),
    ((7, 1025), 1),
]
LARGE: list[tuple[tuple[int, ...], int]] = [
    ((30011, 10), 1),
    ((301, 1000), 1),
    ((3, 131071), 1),
    ((1, 400_009), 1),
    ((3, 17, 7001), 1),
    ((1000, 301), 0),
]
"""Enough work for threads, and rows longer than any block."""

KEPT = {"softmax", "log_softmax", "logsumexp", "softmax_whole", "logsumexp_whole"}
KEPT |= {"softmax_backward", "log_softmax_backward", "logsumexp_backward"}
KEPT |= {"softmax_tempered", "log_softmax_tempered", "softmax_backward_tempered"}
KEPT |= {"softmax_where", "logsumexp_where", "logsumexp_weighted"}
"""Operations whose first result has the dtype of the operands; the others' is a loss."""

WIDE = {"token_logprobs", "top_k_logprobs", "top_half_logprobs", "cross_entropy_grad_hess"}
WIDE |= {"log_softmax_half", "cross_entropy_half"}
"""Operations none of whose results has the dtype of the operands."""


def rounded(x: Any, half: Any) -> Array:
    """Return float32 numbers rounded by NumPy, each NaN as the positive quiet one."""
    with np.errstate(all="ignore"):
        y = np.asarray(x).astype(half)
    return np.where(np.isnan(y), np.array(np.nan, half), y).astype(half)


def values(shape: tuple[int, ...], half: Any, rng: np.random.Generator, special: bool) -> Array:
    x = rng.normal(0, 6, shape)
    if special:
        flat = x.reshape(-1)
        for value in (np.inf, -np.inf, np.nan, -0.0, 6e-8, 1e-39, 65504.0, 1e38):
            flat[rng.integers(0, flat.size, max(1, flat.size // 400))] = value
    with np.errstate(all="ignore"):
        return x.astype(half)


def batches(
    shapes: list[tuple[tuple[int, ...], int]], half: Any, rng: np.random.Generator
) -> Iterator[tuple[str, Batch]]:
    for shape, axis in shapes:
        for special in (False, True):
            with np.errstate(all="ignore"):
                batch = make_batch(values(shape, half, rng, special), axis, rng)
            yield f"{shape} axis {axis}{' special' if special else ''}", batch


def widened(batch: Batch) -> Batch:
    return batch.map(lambda a: a.astype(np.float32))


def expected(name: str, wide: Batch, half: Any) -> tuple[Any, ...]:
    """The float32 results, rounded where the results of 16-bit operands are."""
    if name.startswith("logsumexp_backward"):
        # The saved result is an operand, and as such rounded.
        grad = wide.other.take(0, axis=wide.axis)
        lse = rounded(lk.logsumexp(wide.x, wide.axis), half).astype(np.float32)
        b = operations.weights(wide) if name.endswith("weighted") else None
        return (rounded(lk.logsumexp_backward(grad, wide.x, lse, wide.axis, b), half),)
    if name in WIDE:
        return operations.ALL[name](wide)
    first, *grads = operations.ALL[name](wide)
    if name == "softmax_tempered":
        return (rounded(first, half), *grads)  # logsumexp is float32
    return (rounded(first, half) if name in KEPT else first, *(rounded(g, half) for g in grads))


def compare(name: str, got: tuple[Any, ...], want: tuple[Any, ...], what: str) -> None:
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_same_bits(a, b, f"{name}[{i}] {what}")


@halves
@pytest.mark.parametrize("name", operations.ALL)
def test_is_the_rounded_float32_result(name: str, half: Any, rng: np.random.Generator) -> None:
    for what, batch in batches(SHAPES, half, rng):
        compare(name, operations.ALL[name](batch), expected(name, widened(batch), half), what)


def hard_rows(n: int, half: Any, rng: np.random.Generator) -> dict[str, Array]:
    """Rows of `n` numbers: each takes another way through the sums, or has another maximum."""
    usual = rng.normal(0, 6, n)
    negative = -np.abs(usual) - 1
    quiet, sign = (np.array([value], half).view(np.uint16)[0] for value in (np.nan, -0.0))
    place = int(rng.integers(n))

    def with_values(x: Array, **at: float) -> Array:
        x = x.copy()
        for name, value in at.items():
            x[{"first": 0, "place": place, "last": n - 1}[name]] = value
        return x

    rows = {
        "usual": usual,
        "negative": negative,
        "zeros": np.zeros(n),
        "zeros of both signs": np.where(usual < 0, -0.0, 0.0),
        "negative zeros": np.full(n, -0.0),
        "zero above": with_values(negative, place=-0.0),
        "equal": np.full(n, -3.0),
        "one above": with_values(usual, place=60.0),
        "one far above": with_values(usual, place=20_000.0),
        "far from zero": usual + 20_000.0,
        "far below zero": usual - 20_000.0,
        "one beyond a sum": with_values(usual, place=6e4, last=-6e4),
        "rising": np.linspace(-60.0, 60.0, n),
        "rising at the end": with_values(usual - 50.0, last=300.0),
        "infinity": with_values(usual, place=np.inf),
        "infinities": with_values(usual, first=np.inf, last=np.inf),
        "all infinite": np.full(n, np.inf),
        "minus infinity": with_values(usual, place=-np.inf),
        "nothing": np.full(n, -np.inf),
        "one left": with_values(np.full(n, -np.inf), place=-2.0),
        "subnormal": usual * 1e-6,
        "infinities of both signs": with_values(usual, first=-np.inf, last=np.inf),
    }
    with np.errstate(all="ignore"):
        made = {name: row.astype(half) for name, row in rows.items()}
    others = {"usual": usual, "negative": negative, "nothing": np.full(n, -np.inf)}
    for name, numbers in others.items():
        for where in sorted({0, place, n - 1}):
            for what, bits in (("NaN", quiet), ("negative NaN", quiet | sign)):
                row = numbers.astype(half)
                row.view(np.uint16)[where] = bits
                made[f"{what} at {where} of {name}"] = row
    made["NaN throughout"] = np.full(n, quiet, np.uint16).view(half)
    made["negative NaN throughout"] = np.full(n, quiet | sign, np.uint16).view(half)
    return made


@halves
@pytest.mark.parametrize("level", core.simd_levels())
@pytest.mark.parametrize("n", [255, 256, 271, 1000, 1023, 1024, 1025, 2048, 3333])
def test_rows_read_as_they_lie(n: int, level: str, half: Any, rng: np.random.Generator) -> None:
    """In any order, alone, and with whatever lies between them."""
    rows = hard_rows(n, half, rng)
    names = list(rng.permutation(list(rows)))
    x = np.stack([rows[name] for name in names])
    wide = x.astype(np.float32)
    labels = rng.integers(0, n, len(x))
    labels[::9] = -100
    core.set_simd_level(level)
    spread = np.full((len(x), 2 * n + 3), np.nan, half)[:, 1 : n + 1]
    spread[...] = x
    backwards = np.ascontiguousarray(x[::-1])[::-1]

    def assert_equal(got: Any, want: Any, what: str) -> None:
        for i, name in enumerate(names):
            assert_same_bits(np.asarray(got)[i], np.asarray(want)[i], f"{what}: {name}")

    lse = rounded(lk.logsumexp(wide, 1), half)
    softmax = rounded(lk.softmax(wide, 1), half)
    losses, grad = lk.cross_entropy_value_and_grad(wide, labels, reduction="none")
    for a in (x, spread, backwards):
        assert_equal(lk.logsumexp(a, 1), lse, "logsumexp")
        assert_equal(lk.softmax(a, 1), softmax, "softmax")
        assert_equal(lk.cross_entropy(a, labels, reduction="none"), losses, "cross_entropy")
        got = lk.cross_entropy_value_and_grad(a, labels, reduction="none")
        assert_equal(got[0], losses, "value")
        assert_equal(got[1], rounded(grad, half), "gradient")
        both = lk.softmax(a, 1, return_lse=True), lk.softmax(wide, 1, return_lse=True)
        assert_equal(both[0][0], softmax, "softmax with logsumexp")
        assert_equal(both[0][1], both[1][1], "logsumexp with softmax")
    for i in range(0, len(x), 5):
        assert_same_bits(lk.logsumexp(x[i]), lse[i], f"alone: {names[i]}")
        assert_same_bits(lk.softmax(x[i]), softmax[i], f"alone: {names[i]}")


@halves
@pytest.mark.parametrize("n", [262_143, 262_144, 262_145])
def test_rows_of_a_megabyte(n: int, half: Any, rng: np.random.Generator) -> None:
    """From there on the results have the place of the one row that may have to be converted."""
    x = values((3, n), half, rng, special=False)
    x[1] += np.array(20_000, half)
    x[2, n // 2] = 60_000
    wide = x.astype(np.float32)
    labels = np.array([5, 0, n // 2])
    loss, grad = lk.cross_entropy_value_and_grad(wide, labels, reduction="none")
    want = rounded(lk.softmax(wide, 1), half)
    assert_same_bits(lk.logsumexp(x, 1), rounded(lk.logsumexp(wide, 1), half))
    assert_same_bits(lk.softmax(x, 1), want)
    got = lk.cross_entropy_value_and_grad(x, labels, reduction="none")
    assert_same_bits(got[0], loss)
    assert_same_bits(got[1], rounded(grad, half))
    lk.softmax(x, 1, out=x)
    assert_same_bits(x, want)


@halves
def test_neighbours_in_an_inner_extent(half: Any, rng: np.random.Generator) -> None:
    """Rows of neighbours whose order in memory is not that of the batch."""
    outer, inner = (0, 2, 1), (2, 0, 1)
    for shape, order in (((3, 300, 70), outer), ((3, 1100, 5), outer), ((70, 260, 3), inner)):
        x = values(shape, half, rng, special=True)
        x = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
        assert x.strides[1] == x.itemsize
        wide = x.astype(np.float32)
        assert_same_bits(lk.logsumexp(x, 1), rounded(lk.logsumexp(wide, 1), half), str(shape))
        assert_same_bits(lk.softmax(x, 1), rounded(lk.softmax(wide, 1), half), str(shape))


@halves
@pytest.mark.parametrize("name", operations.ALL)
def test_large_batches_and_threads(name: str, half: Any, rng: np.random.Generator) -> None:
    for what, batch in batches(LARGE, half, rng):
        want = expected(name, widened(batch), half)
        for threads in (1, 3):
            lk.set_num_threads(threads)
            compare(name, operations.ALL[name](batch), want, f"{what}, {threads} threads")


@halves
@pytest.mark.parametrize("layout", layouts.ALL)
@pytest.mark.parametrize("name", operations.ROW_BY_ROW)
def test_layouts(name: str, layout: str, half: Any, rng: np.random.Generator) -> None:
    """Any strides; unaligned and byte-swapped arrays are converted by NumPy."""
    if layout == "byte_swapped" and np.dtype(half).kind == "V":
        pytest.skip("bfloat16 has one byte order")
    shapes: list[tuple[tuple[int, ...], int]] = [
        ((7, 40), 1), ((70, 9), 1), ((9, 70), 0), ((4, 19, 33), 1), ((66, 5, 3), 0),
        ((1030, 40), 0), ((5, 1100), 1),
    ]  # fmt: skip
    for what, batch in batches(shapes, half, rng):
        want = operations.ROW_BY_ROW[name](batch)
        got = operations.ROW_BY_ROW[name](batch.map(layouts.ALL[layout]))
        compare(name, got, want, what)


@halves
@pytest.mark.parametrize("level", core.simd_levels())
@pytest.mark.parametrize("name", operations.ALL)
def test_levels(name: str, level: str, half: Any, rng: np.random.Generator) -> None:
    some = [SHAPES[i] for i in (1, 2, 5, 7, 12, 14)]
    for what, batch in batches(some, half, rng):
        core.set_simd_level(core.simd_levels()[-1])
        want = operations.ALL[name](batch)
        core.set_simd_level(level)
        compare(name, operations.ALL[name](batch), want, f"{what} {level}")


@halves
@pytest.mark.parametrize("level", core.simd_levels())
def test_every_number_is_converted(level: str, half: Any) -> None:
    """All 65536 bit patterns go in exactly and come out again.

    The loss of an element is its square, and half of its gradient the element itself.
    """
    core.set_simd_level(level)
    every = np.arange(1 << 16, dtype=np.uint16).view(half)
    exact = every.astype(np.float32)
    with np.errstate(all="ignore"):
        squares = exact.astype(np.float64) ** 2
        want = np.where(np.isnan(exact), np.float32(np.nan), squares.astype(np.float32))
    got = lk.mse_loss(every, np.zeros_like(every), reduction="none")
    assert_same_bits(got, want.astype(np.float32), "in")
    # 2 (p - 0) / 2 is every number again.
    _, grad = lk.mse_loss_value_and_grad(
        every, np.zeros_like(every), reduction="sum", grad_output=0.5
    )
    assert_same_bits(grad, rounded(exact, half), "out")


@halves
@pytest.mark.parametrize("level", core.simd_levels())
def test_rounding_is_to_nearest_even(level: str, half: Any) -> None:
    """Factors that lead halfway between neighbours, and next to that, over the whole range."""
    core.set_simd_level(level)
    numbers = np.arange(1 << 15, dtype=np.uint16).view(half)
    numbers = numbers[np.isfinite(numbers.astype(np.float32))]
    p = np.concatenate([numbers, -numbers])
    zero = np.zeros_like(p)
    for factor in (1.5, 0.75, 1 + 2**-8, 1 + 2**-11, 1 - 2**-9, 1 - 2**-12, 2.0**-9, 1 / 3, 3.0):
        g = np.full(p.shape, np.float32(factor / 2), np.float32)
        _, got = lk.mse_loss_value_and_grad(p, zero, reduction="none", grad_output=g)
        with np.errstate(all="ignore"):
            want = rounded(p.astype(np.float32) * np.float32(factor), half)
        assert_same_bits(got, want, f"times {factor}")


@halves
def test_subnormal_numbers_are_kept(half: Any) -> None:
    tiny = np.finfo(np.float16).smallest_subnormal if half is np.float16 else 2.0**-133
    x = np.zeros(40, half)
    x[7] = tiny
    x[9] = -tiny
    _, grad = lk.mse_loss_value_and_grad(x, np.zeros_like(x), reduction="sum", grad_output=0.5)
    assert grad[7] == x[7] != 0
    assert grad[9] == x[9] != 0
    # A probability below the normal range, by float32 and by the type itself.
    row = np.array([0, -14] if half is np.float16 else [0, -90], half)
    got = lk.softmax(row)
    assert_same_bits(got, rounded(lk.softmax(row.astype(np.float32)), half))
    assert 0 < got[1] < np.float32(6.2e-5)


@halves
def test_overflow_is_infinite(half: Any) -> None:
    x = np.array([1e4, -1e4] if half is np.float16 else [3e38, -3e38], half)
    _, grad = lk.mse_loss_value_and_grad(x, -x, reduction="sum", grad_output=8.0)
    assert np.array_equal(grad, [np.inf, -np.inf])


@halves
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_in_place_and_out(name: str, half: Any, rng: np.random.Generator) -> None:
    f: Callable[..., Any] = getattr(lk, name)
    for shape, axis in [*SHAPES, *LARGE[:2]]:
        x = values(shape, half, rng, special=True)
        want = f(x, axis)
        for layout in layouts.WRITABLE:
            out = layouts.WRITABLE[layout](np.zeros_like(x))
            assert f(x, axis, out=out) is out
            assert_same_bits(out, want, f"{shape} {layout}")
        again = x.copy()
        f(again, axis, out=again)
        assert_same_bits(again, want, f"{shape} in place")


@halves
def test_gradients_in_place(half: Any, rng: np.random.Generator) -> None:
    for what, b in batches([SHAPES[i] for i in (2, 5, 7, 12)] + [LARGE[1]], half, rng):
        for f in (lk.softmax_backward, lk.log_softmax_backward):
            want = f(b.other, b.x, b.axis)
            for operand in (0, 1):
                args = [b.other.copy(), b.x.copy()]
                f(*args, b.axis, out=args[operand])
                assert_same_bits(args[operand], want, f"{what} {f.__name__} {operand}")
        for labels in (b.labels, b.t):
            loss, want = lk.cross_entropy_value_and_grad(b.x, labels, axis=b.axis)
            x = b.x.copy()
            got, grad = lk.cross_entropy_value_and_grad(x, labels, axis=b.axis, grad_out=x)
            assert grad is x
            assert_same_bits(got, loss, what)
            assert_same_bits(x, want, what)
        loss, want = lk.mse_loss_value_and_grad(b.x, b.other)
        other = b.other.copy()
        assert_same_bits(lk.mse_loss_value_and_grad(b.x, other, grad_out=other)[0], loss, what)
        assert_same_bits(other, want, what)


@halves
def test_results_go_past_the_caches(half: Any, rng: np.random.Generator) -> None:
    """Outputs of 32 MiB and more that are not new are streamed, wherever they begin."""
    x = np.tile(values((1, 1003), half, rng, special=False), (17_000, 1))
    want = lk.softmax(x[:1], 1)
    space = np.zeros(x.size + 7, half)
    for start in (0, 3):
        out = space[start : start + x.size].reshape(x.shape)
        lk.softmax(x, 1, out=out)
        assert np.array_equal(out.view(np.uint16), np.tile(want, (17_000, 1)).view(np.uint16))


@halves
def test_incoming_gradients(half: Any, rng: np.random.Generator) -> None:
    for what, b in batches([SHAPES[i] for i in (2, 5, 11)], half, rng):
        wide = widened(b)
        g = rng.normal(0, 1, b.labels.shape).astype(np.float32)
        for labels, wide_labels in ((b.labels, b.labels), (b.t, wide.t)):
            for reduction, factor in (("none", g), ("mean", 3.0), ("sum", 0.25)):
                options: Any = {"axis": b.axis, "reduction": reduction, "grad_output": factor}
                got = lk.cross_entropy_value_and_grad(b.x, labels, **options)
                want = lk.cross_entropy_value_and_grad(wide.x, wide_labels, **options)
                assert_same_bits(got[0], want[0], what)
                assert_same_bits(got[1], rounded(want[1], half), what)


@halves
def test_ignored_labels_and_wrong_ones(half: Any, rng: np.random.Generator) -> None:
    x = values((90, 11), half, rng, special=False)
    labels = rng.integers(0, 11, 90)
    labels[::7] = -100
    wide = x.astype(np.float32)
    got, want = (lk.cross_entropy_value_and_grad(a, labels) for a in (x, wide))
    assert_same_bits(got[0], want[0])
    assert_same_bits(got[1], rounded(want[1], half))
    assert lk.classification_error(x, labels) == lk.classification_error(wide, labels)
    labels[3] = 11
    grad = np.full_like(x, 7)
    with pytest.raises(IndexError, match=r"labels\[3\] is 11: not in \[0, 11\)"):
        lk.cross_entropy_value_and_grad(x, labels, grad_out=grad)
    assert np.all(grad == 7)


@halves
def test_plain_arrays_are_not_converted_by_numpy(half: Any, rng: np.random.Generator) -> None:
    """The compiled functions take them as they are, with or without an output."""
    x, y = (values((30, 4, 9), half, rng, special=False) for _ in range(2))
    labels, axis = np.zeros((30, 9), np.int64), 1
    lse = lk.logsumexp(x, axis)
    f = np.zeros((), np.float32)
    answers = {
        "softmax": core.softmax(x, axis, None),
        "softmax in place": core.softmax(x.copy(), axis, y.copy()),
        "log_softmax": core.log_softmax(x, axis, None),
        "logsumexp": core.logsumexp(x, axis, False, lse.copy()),
        "logsumexp, whole": core.logsumexp(x, None, False, None),
        "softmax_backward": core.softmax_backward(y, x, axis, None),
        "log_softmax_backward": core.log_softmax_backward(y, x, axis, None),
        "logsumexp_backward": core.logsumexp_backward(lse, x, lse, axis, False, None),
        "cross_entropy": core.cross_entropy(x, labels, axis, None, "mean", f),
        "cross_entropy, rows": core.cross_entropy(x, labels, axis, None, "none", None),
        "probabilities": core.cross_entropy_value_and_grad(x, y, axis, None, "sum", 2.0, x.copy()),
        "classification_error": core.classification_error(x, labels, axis, None, None, "none"),
        "mse_loss": core.mse_loss(x, y, None, "none", None),
        "mse_loss, mean": core.mse_loss(x, y, None, "mean", f),
        "mse_loss_value_and_grad": core.mse_loss_value_and_grad(x, y, None, "none", None, None),
    }
    for name, answer in answers.items():
        assert answer is not NotImplemented, name
    assert type(answers["logsumexp, whole"]) is type(x[0, 0, 0])


@halves
def test_mixed_types_are_declined(half: Any) -> None:
    """Operands of two types, or an output of another one, are for NumPy to convert or refuse."""
    x, wide = np.zeros((3, 4), half), np.zeros((3, 4), np.float32)
    other = np.zeros((3, 4), next((t for t in half_types() if t is not half), np.float64))
    for y in (wide, other):
        assert core.softmax_backward(y, x, 1, None) is NotImplemented
        assert core.softmax(x, 1, y) is NotImplemented
        assert core.mse_loss(x, y, None, "mean", None) is NotImplemented
        assert core.cross_entropy(x, y, 1, None, "mean", None) is NotImplemented


def test_ml_dtypes_is_never_imported(run_python: Callable[..., Any]) -> None:
    run_python(
        """
import sys
import numpy as np
import logitkit as lk
lk.softmax(np.zeros((3, 4), np.float16), 1)
assert "ml_dtypes" not in sys.modules
"""
    )
