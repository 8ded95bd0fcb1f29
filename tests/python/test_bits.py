"""The same input gives the same bits: at every level, for any threads, batch, place and layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import operations
import pytest
import rows
from layouts import assert_same_bits
from logitkit import _logitkit_core as core
from operations import Batch, make_batch

Array = npt.NDArray[Any]

pytestmark = pytest.mark.usefixtures("keep_settings")

DTYPES = [np.float32, np.float64]
SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((41, 1), 1),
    ((41, 3), 1),
    ((41, 10), 1),
    ((19, 17), 1),
    ((19, 64), 1),
    ((19, 65), 1),
    ((7, 1000), 1),
    ((3, 4099), 1),
    ((5, 37), 0),
    ((300, 21), 0),
    ((1100, 61), 0),
    ((3, 7, 5, 6), 1),
    ((2, 21, 9, 11), 1),
    ((2, 130, 70), 1),
    ((4, 9, 2), 1),
    ((4, 9, 1), 1),
    ((50,), 0),
]
LARGE: list[tuple[tuple[int, ...], int]] = [
    ((30011, 10), 1),
    ((301, 1000), 1),
    ((3, 131071), 1),
    ((1, 400_009), 1),
    ((3, 17, 7001), 1),
    ((1000, 301), 0),
]
"""Enough work to be shared between threads."""


def special(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Array:
    """Return logits with a few special values and rows in them."""
    x = rng.normal(0, 10, shape).astype(dtype)
    flat = x.reshape(-1)
    info = np.finfo(dtype)
    values = [np.inf, -np.inf, np.nan, -np.nan, -0.0, info.smallest_subnormal, info.min, info.max]
    count = max(1, flat.size // 300)
    for value in values:
        flat[rng.integers(0, flat.size, count)] = value
    return x


def batches(
    shapes: list[tuple[tuple[int, ...], int]], dtype: Any, rng: np.random.Generator
) -> Iterator[tuple[str, Batch]]:
    """Yield batches of every shape, ordinary and special."""
    for shape, axis in shapes:
        x = rng.normal(0, 10, shape).astype(dtype)
        yield f"{shape} axis {axis}", make_batch(x, axis, rng)
        yield f"{shape} axis {axis} special", make_batch(special(shape, dtype, rng), axis, rng)


def compare(name: str, got: tuple[Any, ...], want: tuple[Any, ...], what: str) -> None:
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_same_bits(a, b, f"{name}[{i}] {what}")


# --- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", operations.ALL)
def test_levels(name: str, dtype: Any, rng: np.random.Generator) -> None:
    f = operations.ALL[name]
    first, *others = core.simd_levels()
    for what, batch in batches(SHAPES, dtype, rng):
        core.set_simd_level(first)
        want = f(batch)
        for level in others:
            core.set_simd_level(level)
            compare(name, f(batch), want, f"{what}: {level} and {first}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", rows.FAMILIES)
def test_levels_on_every_family(family: str, dtype: Any, rng: np.random.Generator) -> None:
    first, *others = core.simd_levels()
    for n, c in [(35, c) for c in (1, 2, 3, 5, 8, 10, 16, 17, 31, 33, 50, 64, 70)] + [
        (5, c) for c in (129, 1000, 4099)
    ]:
        x = rows.FAMILIES[family](rng, n, c, dtype)
        for axis, a in ((1, x), (0, np.ascontiguousarray(x.T))):
            batch = make_batch(a, axis, rng)
            for name in (
                "softmax",
                "log_softmax",
                "logsumexp",
                "cross_entropy_value_and_grad",
                "cross_entropy_soft",
            ):
                f = operations.ALL[name]
                core.set_simd_level(first)
                want = f(batch)
                for level in others:
                    core.set_simd_level(level)
                    what = f"{family} {a.shape} axis {axis}: {level} and {first}"
                    compare(name, f(batch), want, what)


@pytest.mark.parametrize(
    "classes",
    [16, 17, 24, 32, 33, 41, 48, 64, 80, 95, 100, 129, 255, 256, 257, 511, 512, 1000, 1024],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_on_rows_that_differ(dtype: Any, classes: int, rng: np.random.Generator) -> None:
    """Rows of very different maxima, some of them ignored: none is taken for another's."""
    n = 141  # more than two groups of rows
    x = rng.normal(0, 1, (n, classes)) + rng.uniform(-60, 60, (n, 1))
    x[np.arange(n), rng.integers(0, classes, n)] += rng.uniform(0, 60, n)
    x[rng.integers(0, n, 7), rng.integers(0, classes, 7)] = [
        np.nan,
        np.inf,
        -np.inf,
        0,
        90,
        -90,
        700,
    ]
    logits = x.astype(dtype)
    labels = rng.integers(0, classes, n)
    labels[rng.random(n) < 0.3] = -100
    temperature = rng.uniform(0.5, 2, (n, 1)).astype(dtype)
    results = {}
    for level in core.simd_levels():
        core.set_simd_level(level)
        results[level] = (
            lk.logsumexp(logits, axis=1),
            lk.softmax(logits, axis=1),
            lk.softmax(logits, axis=1, temperature=temperature),
            *lk.cross_entropy_value_and_grad(logits, labels, reduction="none"),
            *lk.cross_entropy_value_and_grad(
                logits, labels, reduction="none", temperature=temperature
            ),
        )
    for level, result in results.items():
        compare("rows that differ", result, results["portable"], f"at {level}")


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", operations.ALL)
def test_threads(name: str, dtype: Any, rng: np.random.Generator) -> None:
    f = operations.ALL[name]
    for shape, axis in LARGE:
        batch = make_batch(rng.normal(0, 10, shape).astype(dtype), axis, rng)
        with lk.threads(1):
            want = f(batch)
        for count in (2, 3, 8):
            with lk.threads(count):
                compare(name, f(batch), want, f"{shape} axis {axis}: {count} threads and 1")


# --- the batch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", operations.ROW_BY_ROW)
def test_rows_alone(name: str, dtype: Any, rng: np.random.Generator) -> None:
    """A row has the same bits alone, at another place, and in a batch cut anywhere."""
    f = operations.ROW_BY_ROW[name]
    for shape, axis in SHAPES:
        if axis != 1 or len(shape) != 2:
            continue
        batch = make_batch(special(shape, dtype, rng), axis, rng)
        whole = f(batch)
        n = shape[0]
        cuts = [slice(i, i + 1) for i in range(n)]
        cuts += [slice(1, None), slice(0, n // 2 + 1), slice(n // 3, n - 1), slice(None, None, -1)]
        for cut in cuts:
            compare(name, f(batch.take(cut, cut)), tuple(r[cut] for r in whole), f"{shape} {cut}")
        for i in range(n):
            single = tuple(np.asarray(r)[()] for r in f(batch.take(i, i)))
            compare(name, single, tuple(r[i] for r in whole), f"{shape} row {i} alone")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", operations.ROW_BY_ROW)
def test_columns_alone(name: str, dtype: Any, rng: np.random.Generator) -> None:
    """The same when the class axis is not the last one."""
    f = operations.ROW_BY_ROW[name]
    for shape in [(3, 7, 83), (2, 70, 130), (1, 300, 21), (2, 1100, 75)]:
        batch = make_batch(special(shape, dtype, rng), 1, rng)
        whole = f(batch)

        def part(result: Any, cut: Any, full: tuple[int, ...] = shape) -> Any:
            return result[cut] if np.ndim(result) == len(full) else result[cut[0], cut[2]]

        for inner in (slice(0, 1), slice(5, 6), slice(1, 3), slice(3, 20), slice(None, None, -1)):
            for outer in (slice(0, 1), slice(shape[0] - 1, None), slice(None)):
                cut = (outer, slice(None), inner)
                got = f(batch.take(cut, (outer, inner)))
                want = tuple(part(r, cut) for r in whole)
                compare(name, got, want, f"{shape} cut {outer}, {inner}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", operations.ROW_BY_ROW)
def test_batch_shape_does_not_matter(name: str, dtype: Any, rng: np.random.Generator) -> None:
    f = operations.ROW_BY_ROW[name]
    for c in (3, 10, 33, 100):
        flat = make_batch(special((24, c), dtype, rng), 1, rng)
        want = f(flat)
        for outer in ((2, 12), (4, 3, 2), (1, 24, 1)):
            shaped = Batch(
                flat.x.reshape(*outer, c),
                flat.other.reshape(*outer, c),
                flat.t.reshape(*outer, c),
                flat.labels.reshape(outer),
                -1,
            )
            got = tuple(r.reshape(w.shape) for r, w in zip(f(shaped), want, strict=True))
            compare(name, got, want, f"{outer} rows of {c}")


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [name for name in layouts.ALL if name != "c_order"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    for what, batch in batches(SHAPES, dtype, rng):
        moved = batch.map(change)
        for name, f in operations.ALL.items():
            compare(name, f(moved), f(batch), f"{what} {layout}")


@pytest.mark.parametrize("layout", [name for name in layouts.ALL if name != "c_order"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    for shape, axis in (((30011, 10), 1), ((3, 17, 7001), 1), ((301, 1000), 1)):
        batch = make_batch(rng.normal(0, 10, shape).astype(dtype), axis, rng)
        moved = batch.map(change)
        for name in ("softmax", "logsumexp", "cross_entropy_mean", "mse_mean", "cross_entropy_sum"):
            f = operations.ALL[name]
            compare(name, f(moved), f(batch), f"{shape} axis {axis} {layout}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast(dtype: Any, rng: np.random.Generator) -> None:
    """Stride 0 along the batch, along the classes, and along both."""
    for shape in ((6, 1, 1), (1, 9, 1), (1, 1, 7), (6, 9, 1), (1, 9, 7), (1, 1, 1)):
        x = rng.normal(0, 10, shape).astype(dtype)
        for axis in (0, 1, 2):
            view = make_batch(np.broadcast_to(x, (6, 9, 7)), axis, rng)
            full = view.map(layouts.c_order)
            for name, f in operations.ALL.items():
                compare(name, f(view), f(full), f"{shape} broadcast, axis {axis}")


@pytest.mark.parametrize("layout", layouts.WRITABLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_and_in_place(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.WRITABLE[layout]
    for what, b in batches(SHAPES, dtype, rng):
        what = f"{what} {layout}"
        for name, f in (("softmax", lk.softmax), ("log_softmax", lk.log_softmax)):
            want = f(b.x, b.axis)
            out = change(np.full_like(b.x, 7))
            assert f(b.x, b.axis, out=out) is out
            assert_same_bits(out, want, f"{name} out {what}")
            out = change(b.x)
            assert f(out, b.axis, out=out) is out
            assert_same_bits(out, want, f"{name} in place {what}")

        lse = lk.logsumexp(b.x, b.axis)
        out = change(np.full(np.shape(lse), 7, dtype=dtype))
        assert lk.logsumexp(b.x, b.axis, out=out) is out
        assert_same_bits(out, lse, f"logsumexp out {what}")

        for name, g in (
            ("softmax_backward", lk.softmax_backward),
            ("log_softmax_backward", lk.log_softmax_backward),
        ):
            want = g(b.other, b.x, b.axis)
            for fresh in (np.full_like(b.x, 7), None, b.x):
                first, second = change(b.other), change(b.x)
                out = change(fresh) if fresh is not None else first
                second = out if fresh is b.x else second
                assert g(first, second, b.axis, out=out) is out
                assert_same_bits(out, want, f"{name} out {what}")

        grad = b.other.take(0, axis=b.axis)
        want = lk.logsumexp_backward(grad, b.x, lse, b.axis)
        out = change(b.x)
        assert lk.logsumexp_backward(grad, out, lse, b.axis, out=out) is out
        assert_same_bits(out, want, f"logsumexp_backward in place {what}")

        for labels in (b.labels, b.t):
            for reduction in ("mean", "none"):
                options: dict[str, Any] = {"axis": b.axis, "reduction": reduction}
                loss, grad = lk.cross_entropy_value_and_grad(b.x, labels, **options)
                assert_same_bits(lk.cross_entropy(b.x, labels, **options), loss, "loss alone")
                out = change(np.full(np.shape(loss), 7, dtype=dtype))
                assert lk.cross_entropy(b.x, labels, out=out, **options) is out
                assert_same_bits(out, loss, f"cross_entropy out {what}")
                out = change(np.full_like(b.x, 7))
                got = lk.cross_entropy_value_and_grad(b.x, labels, grad_out=out, **options)
                assert got[1] is out
                compare("grad_out", got, (loss, grad), what)
                out = change(b.x)
                got = lk.cross_entropy_value_and_grad(out, labels, grad_out=out, **options)
                assert got[1] is out
                compare("grad_out=logits", got, (loss, grad), what)

        for reduction in ("mean", "none"):
            loss, grad = lk.mse_loss_value_and_grad(b.x, b.other, reduction=reduction)
            assert_same_bits(lk.mse_loss(b.x, b.other, reduction=reduction), loss, "loss alone")
            out = change(np.full(np.shape(loss), 7, dtype=dtype))
            assert lk.mse_loss(b.x, b.other, reduction=reduction, out=out) is out
            assert_same_bits(out, loss, f"mse_loss out {what}")
            out = change(b.x)
            got = lk.mse_loss_value_and_grad(out, b.other, reduction=reduction, grad_out=out)
            assert got[1] is out
            compare("mse grad_out=pred", got, (loss, grad), what)
            out = change(b.other)
            got = lk.mse_loss_value_and_grad(b.x, out, reduction=reduction, grad_out=out)
            compare("mse grad_out=target", got, (loss, grad), what)


@pytest.mark.parametrize("classes", [37, 1003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_go_past_the_caches(dtype: Any, classes: int, rng: np.random.Generator) -> None:
    """Outputs of 32 MiB and more that are not new are streamed, wherever they begin."""
    few = 37
    x = rng.normal(0, 5, (few, classes)).astype(dtype)
    mask = rng.random(x.shape) < 0.9
    labels = rng.integers(0, classes, few)
    x[3, 5], x[4, 6], x[5, 7] = np.nan, np.inf, -np.inf
    x[6], mask[7], mask[8, 0], labels[9] = -np.inf, False, True, -100
    x[8, 0] = np.nan
    mask[3, 5], mask[4, 6] = True, True
    mask[10, 5:9] = False
    x[10, 5:9] = [np.nan, np.inf, -np.inf, 0]  # nothing that counts
    labels[10] = 6  # a label under the mask
    times = (32 << 20) // x.nbytes + 2
    batch = np.tile(x, (times, 1))
    other, weight = np.roll(batch, 1, 1), np.abs(np.roll(batch, 2, 1))
    weight[:, ::5] = 0
    options: dict[str, Any] = {"where": np.tile(mask, (times, 1))}
    spread = {"labels": np.tile(labels, times), "reduction": "sum"}
    calls: dict[str, Any] = {
        "softmax": lambda out: lk.softmax(batch, 1, out=out),
        "softmax, where": lambda out: lk.softmax(batch, 1, out=out, **options),
        "log_softmax, where": lambda out: lk.log_softmax(batch, 1, out=out, **options),
        "cross_entropy": lambda out: lk.cross_entropy_value_and_grad(
            batch, grad_out=out, grad_output=0.3, **spread
        ),
        "cross_entropy, where": lambda out: lk.cross_entropy_value_and_grad(
            batch, grad_out=out, **spread, **options
        ),
        "cross_entropy, where, a negative factor": lambda out: lk.cross_entropy_value_and_grad(
            batch, grad_out=out, grad_output=-0.3, **spread, **options
        ),
        "mse_loss": lambda out: lk.mse_loss_value_and_grad(batch, other, grad_out=out),
        "mse_loss, weight": lambda out: lk.mse_loss_value_and_grad(
            batch, other, weight=weight, grad_out=out
        ),
    }
    space = np.zeros(batch.size + 16, dtype)
    for name, call in calls.items():
        fresh = call(None)
        want = fresh[-1] if isinstance(fresh, tuple) else fresh
        for start in (0, 3):
            space[:] = 7
            out = space[start : start + batch.size].reshape(batch.shape)
            got = call(out)
            assert_same_bits(out, want, f"{name} from {start}")
            if isinstance(got, tuple):
                assert_same_bits(got[0], fresh[0], name)
            assert np.all(space[:start] == 7)
            assert np.all(space[start + batch.size :] == 7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_written_beside_the_output(dtype: Any, rng: np.random.Generator) -> None:
    """Whatever lies around and between the elements of an output stays."""
    for shape, axis in SHAPES:
        b = make_batch(rng.normal(0, 10, shape).astype(dtype), axis, rng)
        space = np.full([3 * n + 4 for n in shape], 7, dtype=dtype)
        inside = tuple(slice(2, 2 + 2 * n, 2) for n in shape)
        outside = np.ones(space.shape, dtype=bool)
        outside[inside] = False
        out = space[inside]
        lk.softmax(b.x, b.axis, out=out)
        lk.log_softmax(b.x, b.axis, out=out)
        lk.cross_entropy_value_and_grad(b.x, b.labels, axis=b.axis, grad_out=out)
        lk.mse_loss_value_and_grad(b.x, b.other, grad_out=out)
        assert np.all(space[outside] == 7)
        flat = np.full(b.x.size + 200, 7, dtype=dtype)
        out = flat[100 : 100 + b.x.size].reshape(shape)
        lk.softmax(b.x, b.axis, out=out)
        lk.log_softmax_backward(b.other, b.x, b.axis, out=out)
        lk.cross_entropy_value_and_grad(b.x, b.t, axis=b.axis, grad_out=out)
        assert np.all(flat[:100] == 7)
        assert np.all(flat[100 + b.x.size :] == 7)


@pytest.mark.parametrize("level", core.simd_levels())
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_the_positive_quiet_one(level: str, dtype: Any, rng: np.random.Generator) -> None:
    core.set_simd_level(level)
    integer = np.dtype(f"u{np.dtype(dtype).itemsize}")
    number = int(np.array(np.nan, dtype=dtype).view(integer))
    quiet = np.array(number, dtype=integer)
    negative = np.array(number | 1 << (8 * integer.itemsize - 1), dtype=integer)
    signalling = np.array(number ^ 1 << (np.finfo(dtype).nmant - 1) | 5, dtype=integer)
    for shape, axis in SHAPES:
        ordinary = rng.normal(0, 10, shape).astype(dtype)
        some = rng.random(shape) < 0.3
        kinds = {
            "negative NaN": np.where(some, negative, ordinary.view(integer)).view(dtype),
            "signalling NaN": np.where(some, signalling, ordinary.view(integer)).view(dtype),
            "+inf": np.where(some, dtype(np.inf), ordinary),
            "-inf": np.full(shape, -np.inf, dtype=dtype),
        }
        for kind, x in kinds.items():
            for name, f in operations.ALL.items():
                for result in f(make_batch(x, axis, rng)):
                    array = np.atleast_1d(np.asarray(result))
                    if array.dtype == dtype:
                        bits = array.view(integer)[np.isnan(array)]
                        assert np.all(bits == quiet), f"{name} {shape} {kind}"
