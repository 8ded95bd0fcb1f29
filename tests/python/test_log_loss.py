"""Cross-entropy of given probabilities: values, special values, weights, layouts, errors."""

from __future__ import annotations

from typing import Any

import layouts
import logitkit as lk
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from layouts import assert_same_bits
from logitkit import _logitkit_core as core

Array = npt.NDArray[Any]

DTYPES = [np.float32, np.float64]
BOUND = {np.float32: 3, np.float64: 4}
WIDE = np.longdouble


def truth(p: Array, labels: Array, axis: int = -1) -> tuple[Array, Array, Array]:
    """Return rows' losses, the gradient, and the sum of the magnitudes of a loss's terms.

    Labels of -1 are ignored.
    """
    with np.errstate(all="ignore"):
        p = np.moveaxis(p, axis, -1).astype(WIDE)
        if labels.ndim < p.ndim:
            t = (labels[..., np.newaxis] == np.arange(p.shape[-1])).astype(WIDE)
        else:
            t = np.moveaxis(labels, axis, -1).astype(WIDE)
        terms = np.where(t == 0, 0, -t * np.log(np.where(p == 0, 0, p)))
        grad = np.where(t == 0, 0, -t / p)
        return terms.sum(-1), np.moveaxis(grad, -1, axis), np.abs(terms).sum(-1)


def probabilities(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return numbers from 0 to 1 of every size, many close to 1, and a few above."""
    info = np.finfo(dtype)
    n = int(np.prod(shape))
    kinds = [
        rng.uniform(0, 1, n),
        10.0 ** rng.uniform(np.log10(float(info.smallest_subnormal)), 0, n),
        1 - 10.0 ** rng.uniform(-17, 0, n),
        np.exp2(rng.integers(info.minexp, 1, n).astype(float)),
        rng.integers(1, 9, n) * float(info.smallest_subnormal),
        1 + rng.uniform(0, 1e-3, n),
    ]
    p = np.choose(rng.integers(0, len(kinds), n), kinds).astype(dtype)
    p[p == 0] = info.smallest_subnormal
    return p.reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20_000, 3), (3000, 10), (41, 1), (200, 1000), (9, 5001)])
def test_labels(dtype: Any, shape: tuple[int, int], rng: np.random.Generator) -> None:
    p = probabilities(rng, shape, dtype)
    y = rng.integers(0, shape[1], shape[0])
    loss, grad, _ = truth(p, y)
    got, got_grad = lk.log_loss_value_and_grad(p, y, reduction="none")
    reference.assert_close(got, loss, BOUND[dtype], what="loss")
    reference.assert_close(got_grad, grad, BOUND[dtype], what="gradient")
    assert_same_bits(lk.log_loss(p, y, reduction="none"), got)
    for reduction, n in (("mean", shape[0]), ("sum", 1)):
        got, got_grad = lk.log_loss_value_and_grad(p, y, reduction=reduction, grad_output=0.5)
        reference.assert_close(got, loss.sum() / n, BOUND[dtype], np.abs(loss).sum() / n)
        reference.assert_close(got_grad, grad * WIDE(0.5) / n, BOUND[dtype])
        assert_same_bits(lk.log_loss(p, y, reduction=reduction), got)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2000, 3), (300, 10), (41, 1), (20, 1000), (3, 5001), (1, 70001)]
)
def test_probabilities(dtype: Any, shape: tuple[int, int], rng: np.random.Generator) -> None:
    p = probabilities(rng, shape, dtype)
    t = np.maximum(rng.uniform(-0.5, 1, shape), 0).astype(dtype)
    loss, grad, scale = truth(p, t)
    got, got_grad = lk.log_loss_value_and_grad(p, t, reduction="none")
    reference.assert_close(got, loss, BOUND[dtype], scale, "loss")
    reference.assert_close(got_grad, grad, BOUND[dtype], what="gradient")
    assert_same_bits(lk.log_loss(p, t, reduction="none"), got)
    for reduction, n in (("mean", shape[0]), ("sum", 1)):
        got, got_grad = lk.log_loss_value_and_grad(p, t, reduction=reduction, grad_output=0.5)
        reference.assert_close(got, loss.sum() / n, BOUND[dtype], scale.sum() / n)
        reference.assert_close(got_grad, grad * WIDE(0.5) / n, BOUND[dtype])
        assert_same_bits(lk.log_loss(p, t, reduction=reduction), got)


@given(p=st.floats(0, 1.5, exclude_min=True), t=st.floats(1e-30, 1), single=st.booleans())
def test_against_mpmath(p: float, t: float, single: bool) -> None:
    dtype = np.float32 if single else np.float64
    row = np.array([[max(dtype(p), np.finfo(dtype).smallest_subnormal)]], dtype)
    share = np.array([[t]], dtype)
    with mpmath.workprec(300):
        log = -mpmath.log(mpmath.mpf(float(row[0, 0])))
        exact = mpmath.mpf(float(share[0, 0]))
        slope = -exact / mpmath.mpf(float(row[0, 0]))
    loss = lk.log_loss(row, [0], reduction="none")
    assert reference.mp_ulp_error(loss, log) <= BOUND[dtype]
    loss, grad = lk.log_loss_value_and_grad(row, share, reduction="none")
    with mpmath.workprec(300):
        assert reference.mp_ulp_error(loss, exact * log) <= BOUND[dtype]
    if abs(slope) < np.finfo(dtype).max:
        assert reference.mp_ulp_error(grad[0], [slope]) <= BOUND[dtype]


# --- special values ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_at_the_label_is_infinite(dtype: Any) -> None:
    p = np.array([[0, 1], [1, 0]], dtype)
    loss, grad = lk.log_loss_value_and_grad(p, [0, 0], reduction="none")
    assert_same_bits(loss, np.array([np.inf, 0], dtype))
    assert_same_bits(grad, np.array([[-np.inf, 0], [-1, 0]], dtype))
    assert lk.log_loss(p, [0, 0]) == np.inf
    assert lk.log_loss(p, [0, 0], reduction="sum") == np.inf
    loss, grad = lk.log_loss_value_and_grad(p, p[::-1], reduction="none")
    assert_same_bits(loss, np.array([np.inf, np.inf], dtype))
    assert_same_bits(grad, np.array([[-np.inf, 0], [0, -np.inf]], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_times_log_zero_is_zero(dtype: Any) -> None:
    p = np.array([[0, 0.5, np.nan, np.inf, -1]], dtype)
    t = np.array([[0, 1, 0, 0, 0]], dtype)
    loss, grad = lk.log_loss_value_and_grad(p, t, reduction="none")
    assert_same_bits(loss, np.log(np.array([2], WIDE)).astype(dtype))
    assert_same_bits(grad, np.array([[0, -2, 0, 0, 0]], dtype))
    assert_same_bits(lk.log_loss(p, t), loss[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_labelled_entries_count(dtype: Any) -> None:
    p = np.array([[np.nan, 0.5], [0.25, -np.inf], [np.nan, np.nan]], dtype)
    loss, grad = lk.log_loss_value_and_grad(p, [1, 0, -100], reduction="sum")
    reference.assert_close(loss, np.log(WIDE(8)), 1)
    assert_same_bits(grad, np.array([[0, -2], [-4, 0], [0, 0]], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_probabilities(dtype: Any) -> None:
    nan = dtype(np.nan)
    for value, loss in (
        (np.nan, nan),
        (-1, nan),
        (-np.inf, nan),
        (np.inf, -np.inf),
        (-0.0, np.inf),
    ):
        p = np.array([[value, 0.5]] * 2, dtype)
        for labels in ([0, 0], np.array([[1, 0]] * 2, dtype)):
            got, grad = lk.log_loss_value_and_grad(p, labels, reduction="none")
            assert_same_bits(got, np.full(2, loss, dtype))
            assert_same_bits(grad[:, 1], np.zeros(2, dtype))
            assert_same_bits(lk.log_loss(p, labels, reduction="sum"), dtype(loss))
            assert np.isnan(grad[0, 0]) == np.isnan(value)


# --- denominators --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 1024, 1025, 30011])
def test_weights_and_ignored_rows(dtype: Any, n: int, rng: np.random.Generator) -> None:
    p = rng.uniform(0.01, 1, (n, 7)).astype(dtype)
    y = rng.integers(0, 7, n)
    y[1::3] = -1
    w = rng.uniform(0, 3, n).astype(dtype)
    w[4::5] = 0
    p[4::5] = np.nan
    p[1::3] = np.nan
    counted = (y >= 0) & (w != 0)
    loss, slope, _ = truth(p, y)
    loss = np.where(counted, loss * w, 0)
    slope = np.where(counted[:, np.newaxis], slope * w[:, np.newaxis], 0)
    divisor = w[y >= 0].astype(WIDE).sum()
    options: dict[str, Any] = {"sample_weight": w, "ignore_index": -1}
    got, grad = lk.log_loss_value_and_grad(p, y, reduction="none", **options)
    reference.assert_close(got, loss, BOUND[dtype])
    reference.assert_close(grad, slope, BOUND[dtype])
    assert np.all(got[~counted] == 0)
    assert np.all(grad[~counted] == 0)
    got, grad = lk.log_loss_value_and_grad(p, y, grad_output=2.5, **options)
    reference.assert_close(got, loss.sum() / divisor, BOUND[dtype])
    reference.assert_close(grad, slope * WIDE(2.5) / divisor, BOUND[dtype])
    assert_same_bits(lk.log_loss(p, y, **options), got)
    whole = np.where(counted[:, np.newaxis], p, 1)
    loss = lk.log_loss(whole, np.where(y < 0, -1, y), ignore_index=-1)
    want = truth(whole, y)[0].sum() / max(int((y >= 0).sum()), 1)
    reference.assert_close(loss, want, BOUND[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_probability_labels(dtype: Any, rng: np.random.Generator) -> None:
    p, t = rng.uniform(0.01, 1, (2, 5003, 4)).astype(dtype)
    w = rng.uniform(0, 3, 5003).astype(dtype)
    w[::4] = 0
    p[::4] = np.nan
    loss, slope, _ = truth(p, t)
    loss = np.where(w == 0, 0, loss * w)
    slope = np.where((w == 0)[:, np.newaxis], 0, slope * w[:, np.newaxis])
    got, grad = lk.log_loss_value_and_grad(p, t, sample_weight=w)
    divisor = w.astype(WIDE).sum()
    reference.assert_close(got, loss.sum() / divisor, BOUND[dtype])
    reference.assert_close(grad, slope / divisor, BOUND[dtype])
    got, grad = lk.log_loss_value_and_grad(p, t, sample_weight=w, reduction="none")
    reference.assert_close(got, loss, BOUND[dtype])
    reference.assert_close(grad, slope, BOUND[dtype])


def test_grad_output_of_every_row(rng: np.random.Generator) -> None:
    p, g, w = rng.uniform(0.01, 1, (2100, 4)), rng.normal(0, 1, 2100), rng.uniform(0, 1, 2100)
    y = rng.integers(0, 4, 2100)
    for labels in (y, rng.uniform(0, 1, p.shape)):
        _, slope, _ = truth(p, labels)
        _, grad = lk.log_loss_value_and_grad(p, labels, reduction="none", grad_output=g)
        reference.assert_close(grad, slope * g[:, np.newaxis], 4)
        _, grad = lk.log_loss_value_and_grad(
            p, labels, reduction="none", grad_output=g, sample_weight=w
        )
        reference.assert_close(grad, slope * g[:, np.newaxis].astype(WIDE) * w[:, np.newaxis], 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True])
def test_weights_that_sum_to_zero(dtype: Any, soft: bool) -> None:
    p = np.array([[0.5, 0], [np.nan, 1]], dtype)
    labels = np.array([[0, 1], [0.5, 0.5]], dtype) if soft else np.array([1, 1])
    for w in ([0, 0], [1, -1]):
        loss, grad = lk.log_loss_value_and_grad(p, labels, sample_weight=w)
        assert_same_bits(loss, dtype(np.nan))
        assert_same_bits(grad, np.zeros((2, 2), dtype))
    loss, grad = lk.log_loss_value_and_grad(p, labels, sample_weight=0, reduction="sum")
    assert_same_bits(loss, dtype(0))
    assert_same_bits(grad, np.zeros((2, 2), dtype))


def test_all_ignored_and_empty() -> None:
    loss, grad = lk.log_loss_value_and_grad(np.full((3, 2), np.nan), [-100] * 3)
    assert np.isnan(loss)
    assert_same_bits(grad, np.zeros((3, 2)))
    assert lk.log_loss(np.zeros((0, 2)), np.zeros(0, int), reduction="sum") == 0
    assert np.isnan(lk.log_loss(np.zeros((0, 2)), np.zeros((0, 2))))
    assert lk.log_loss(np.zeros((3, 0)), np.zeros((3, 0))) == 0
    assert np.isnan(lk.log_loss(np.zeros((3, 0)), np.zeros((3, 0)), sample_weight=0))
    assert lk.log_loss(np.zeros((3, 0)), np.full(3, -100), reduction="none").tolist() == [0, 0, 0]


def test_quotients_beyond_the_range() -> None:
    tiny = np.array([[1e-320, 1.0]])
    w = np.array([1e-300])
    _, grad = lk.log_loss_value_and_grad(tiny, [0], sample_weight=w, reduction="sum")
    reference.assert_close(grad, truth(tiny, np.array([0]))[1] * w.astype(WIDE), 4)
    _, grad = lk.log_loss_value_and_grad(
        tiny, np.array([[1e-200, 0]]), sample_weight=1e-150, reduction="sum"
    )
    reference.assert_close(
        grad, -WIDE(1e-200) * WIDE(1e-150) / tiny.astype(WIDE) * np.array([1, 0]), 4
    )
    assert lk.log_loss_value_and_grad(tiny, [0])[1][0, 0] == -np.inf


# --- forms of the arguments ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 7), (2, 21, 9, 11), (5, 1, 3), (1, 3000)])
def test_every_axis(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    p = rng.uniform(0.01, 1, shape).astype(dtype)
    for axis in range(-len(shape), len(shape)):
        batch = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :]
        y = rng.integers(0, shape[axis], batch)
        t = rng.uniform(0, 1, shape).astype(dtype)
        w = rng.uniform(0, 1, batch).astype(dtype)
        for labels in (y, t):
            moved = np.ascontiguousarray(np.moveaxis(p, axis, -1))
            shares = labels if labels is y else np.ascontiguousarray(np.moveaxis(t, axis, -1))
            for reduction in ("mean", "none"):
                options: dict[str, Any] = {"sample_weight": w, "reduction": reduction}
                want = lk.log_loss_value_and_grad(moved, shares, **options)
                got = lk.log_loss_value_and_grad(p, labels, axis=axis, **options)
                alone = lk.log_loss(p, labels, axis=axis, **options)
                assert_same_bits(got[0], want[0])
                assert_same_bits(alone, want[0])
                assert_same_bits(got[1], np.moveaxis(want[1], -1, axis))


@pytest.mark.parametrize("layout", layouts.ALL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layouts(layout: str, dtype: Any, axis: int, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    p = rng.uniform(0.01, 1, (13, 5, 17)).astype(dtype)
    batch = p.shape[:axis] + p.shape[axis + 1 :]
    w = rng.uniform(0, 1, batch).astype(dtype)
    labels = rng.integers(0, p.shape[axis], batch)
    for y in (labels, rng.uniform(0, 1, p.shape).astype(dtype)):
        for reduction in ("mean", "none"):
            options: dict[str, Any] = {"axis": axis, "reduction": reduction}
            want = lk.log_loss_value_and_grad(p, y, sample_weight=w, **options)
            got = lk.log_loss_value_and_grad(
                change(p), change(y), sample_weight=change(w), **options
            )
            for a, b in zip(got, want, strict=True):
                assert_same_bits(a, b, layout)
            if layout in layouts.WRITABLE:
                out = change(p)
                got = lk.log_loss_value_and_grad(out, y, sample_weight=w, grad_out=out, **options)
                assert got[1] is out
                assert_same_bits(got[0], want[0], layout)
                assert_same_bits(out, want[1], layout)


@pytest.mark.usefixtures("keep_settings")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((30011, 10), 1), ((301, 1000), 1), ((10, 30011), 0)])
def test_levels_and_threads(
    dtype: Any, shape: tuple[int, int], axis: int, rng: np.random.Generator
) -> None:
    p = probabilities(rng, shape, dtype)
    rows = shape[1 - axis]
    p.reshape(-1)[::1001] = 0
    y, w = rng.integers(0, shape[axis], rows), rng.uniform(0, 1, rows).astype(dtype)
    t = np.maximum(rng.uniform(-1, 1, shape), 0).astype(dtype)
    finite = np.maximum(p, dtype(1e-30))
    for labels in (y, t):
        for reduction in ("mean", "none"):
            options: dict[str, Any] = {"axis": axis, "sample_weight": w, "reduction": reduction}
            want: Any = None
            for level in core.simd_levels():
                core.set_simd_level(level)
                for threads in (1, 2, 5):
                    lk.set_num_threads(threads)
                    got = (
                        *lk.log_loss_value_and_grad(p, labels, **options),
                        lk.log_loss(finite, labels, **options),
                    )
                    want = want or got
                    for a, b in zip(got, want, strict=True):
                        assert_same_bits(a, b, f"{level} {threads}")


def test_outputs_in_place_and_overlapping(rng: np.random.Generator) -> None:
    p, t = rng.uniform(0.2, 1, (2, 11, 7))
    w = rng.uniform(0.2, 1, 11)
    y = rng.integers(0, 7, 11)
    for labels in (y, t):
        options: dict[str, Any] = {"reduction": "none"}
        loss, grad = lk.log_loss_value_and_grad(p, labels, sample_weight=w, **options)
        out = p.copy()
        got = lk.log_loss_value_and_grad(out, labels, sample_weight=w, grad_out=out, **options)
        assert got[1] is out
        assert_same_bits(out, grad)
        assert_same_bits(got[0], loss)
        out = w.copy()
        assert lk.log_loss(p, labels, sample_weight=out, out=out, **options) is out
        assert_same_bits(out, loss)
        zero = np.zeros(())
        assert lk.log_loss(p, labels, out=zero) is zero
        assert_same_bits(zero, lk.log_loss(p, labels))
    out = t.copy()
    lk.log_loss_value_and_grad(p, out, sample_weight=w, grad_out=out, **options)
    assert_same_bits(out, grad)
    space = np.zeros(p.size + 3)
    space[3:] = p.ravel()
    view = space[3:].reshape(p.shape)
    shifted = space[:-3].reshape(p.shape)
    want = lk.log_loss_value_and_grad(p, y, reduction="none")[1]
    lk.log_loss_value_and_grad(view, y, reduction="none", grad_out=shifted)
    assert_same_bits(shifted, want)


def test_dtypes_and_single_rows(rng: np.random.Generator) -> None:
    p = rng.uniform(0.1, 1, (4, 3)).astype(np.float16)
    loss, grad = lk.log_loss_value_and_grad(p, [0, 1, 2, 0], sample_weight=[1, 2, 3, 4])
    want = lk.log_loss_value_and_grad(
        p.astype(np.float32), [0, 1, 2, 0], sample_weight=[1, 2, 3, 4]
    )
    assert_same_bits(loss, want[0])
    assert_same_bits(grad, want[1].astype(np.float16))
    for wrong in ([0, 3, 2, 0], [0, 1, 2, -1]):
        out = np.full_like(p, 7)
        with pytest.raises(IndexError, match=r"not in \[0, 3\)"):
            lk.log_loss_value_and_grad(p, np.array(wrong), grad_out=out)
        assert np.all(out == 7)
    row = p[0].astype(np.float64)
    for y in (1, np.array(1.0), np.uint8(1)):
        loss, grad = lk.log_loss_value_and_grad(row, y, sample_weight=2, reduction="none")
        assert loss == pytest.approx(-2 * np.log(row[1]))
        assert grad.tolist() == [0, -2 / row[1], 0]
    assert lk.log_loss(row, row) == pytest.approx(-np.sum(row * np.log(row)))
    assert lk.log_loss([[1, 0]], [0]).dtype == np.float64


def test_dtype_chooses_the_computation(rng: np.random.Generator) -> None:
    p = rng.uniform(0, 1, (10, 3)).astype(np.float32)
    for labels in (rng.integers(0, 3, 10), rng.uniform(0, 1, (10, 3)).astype(np.float32)):
        for reduction in ("mean", "none"):
            want = lk.log_loss(p.astype(np.float64), labels, reduction=reduction)
            got = lk.log_loss(p, labels, reduction=reduction, dtype=np.float64)
            assert_same_bits(got, want)
            want = lk.log_loss(p, labels, reduction=reduction)
            got = lk.log_loss(p.tolist(), labels, reduction=reduction, dtype=np.float32)
            assert_same_bits(got, want)
    with pytest.raises(TypeError, match="dtype must be float16, bfloat16, float32 or float64"):
        lk.log_loss(p, [0] * 10, dtype=int)


def test_finite_differences(rng: np.random.Generator) -> None:
    p, w = rng.uniform(0.2, 1, (3, 5)), rng.uniform(0, 1, 3)
    for labels in (rng.integers(0, 5, 3), rng.uniform(0, 1, (3, 5))):
        for reduction in ("mean", "sum"):
            options: dict[str, Any] = {"sample_weight": w, "reduction": reduction}
            _, grad = lk.log_loss_value_and_grad(p, labels, grad_output=-1.5, **options)
            for i in np.ndindex(p.shape):
                d = np.zeros_like(p)
                d[i] = 1e-6
                rise = lk.log_loss(p + d, labels, **options) - lk.log_loss(p - d, labels, **options)
                assert grad[i] == pytest.approx(-1.5 * rise / 2e-6, rel=1e-6, abs=1e-8)


# --- errors --------------------------------------------------------------------------------------

P = np.full((3, 4), 0.25)
Y = np.array([0, 3, 1])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"labels": np.array([0, 4, 1])}, IndexError, r"labels\[1\] is 4: not in \[0, 4\)"),
        ({"labels": np.array([0, 3, -1])}, IndexError, r"labels\[2\] is -1"),
        ({"labels": np.array([0, 0.5, 1])}, ValueError, r"labels\[1\] is 0.5: not an integer"),
        ({"labels": np.array([True, False, True])}, TypeError, "labels have dtype bool"),
        ({"labels": np.zeros(4, int)}, ValueError, r"\(4,\), expected \(3,\)"),
        ({"labels": np.ones((3, 3))}, ValueError, r"\(3, 3\).*\(3, 4\)"),
        ({"probs": np.ma.ones((3, 4))}, TypeError, "probs is a masked array"),
        ({"probs": np.ones((3, 4), complex)}, TypeError, "probs has dtype complex128"),
        ({"sample_weight": np.ones(4)}, ValueError, r"sample_weight has shape \(4,\).*\(3,\)"),
        ({"sample_weight": np.ones((3, 1))}, ValueError, r"\(3, 1\)"),
        ({"sample_weight": np.array(["a"] * 3)}, TypeError, "sample_weight"),
        ({"axis": 2}, np.exceptions.AxisError, "axis 2"),
        ({"axis": 0.5}, TypeError, "axis must be an integer"),
        ({"axis": None}, TypeError, "axis must be one integer"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index"),
        ({"reduction": "max"}, ValueError, "'mean', 'sum', 'none'"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {"probs": P, "labels": Y} | change
    grad, out = np.full((3, 4), 7.0), np.full(3, 7.0)
    with pytest.raises(error, match=words):
        lk.log_loss_value_and_grad(**arguments, grad_out=grad)
    with pytest.raises(error, match=words):
        lk.log_loss(**({"reduction": "none"} | arguments), out=out)
    assert np.all(grad == 7)
    assert np.all(out == 7)


def test_errors_of_outputs() -> None:
    with pytest.raises(TypeError, match="grad_out has dtype float32"):
        lk.log_loss_value_and_grad(P, Y, grad_out=np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match="grad_out has shape"):
        lk.log_loss_value_and_grad(P, Y, grad_out=np.ones(4))
    with pytest.raises(ValueError, match="read-only"):
        lk.log_loss(P, Y, reduction="none", out=layouts.read_only(np.ones(3)))
    with pytest.raises(ValueError, match="out has shape"):
        lk.log_loss(P, Y, out=np.ones(3))
    with pytest.raises(ValueError, match="grad_output has shape"):
        lk.log_loss_value_and_grad(P, Y, grad_output=np.ones(3))


# --- scikit-learn --------------------------------------------------------------------------------


def test_scikit_learn(rng: np.random.Generator) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for dtype in DTYPES:
        p = lk.softmax(rng.normal(0, 2, (50, 6)), axis=1).astype(dtype)
        p /= p.sum(axis=1, keepdims=True)
        y, w = rng.integers(0, 6, 50), rng.uniform(0, 2, 50)
        for weight in (None, w):
            for reduction, normalize in (("mean", True), ("sum", False)):
                want = metrics.log_loss(
                    y, p, labels=range(6), sample_weight=weight, normalize=normalize
                )
                got = lk.log_loss(p, y, sample_weight=weight, reduction=reduction)
                np.testing.assert_allclose(got, want, rtol=10 * np.finfo(dtype).eps)
