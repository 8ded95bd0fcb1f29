"""Gradient and Hessian for boosting: values, semantics, memory, the same bits, errors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import layouts
import logitkit as lk
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import reference as ref
import rows
from hypothesis import given
from hypothesis import strategies as st
from layouts import assert_same_bits
from logitkit import _logitkit_core as core

Array = npt.NDArray[Any]

DTYPES = [np.float32, np.float64]
FORMS = ["exact", "upper", "lightgbm", "residual"]
BOUND = {np.dtype(np.float32): 3, np.dtype(np.float64): 4}
SENTINEL = 7.0

both = pytest.mark.parametrize("dtype", DTYPES)
each_form = pytest.mark.parametrize("form", FORMS)


# --- references ----------------------------------------------------------------------------------


def mp_grad_hess(
    row: Array, label: int, weight: float, scale: float, floor: float
) -> tuple[list[mpmath.mpf], dict[str, list[mpmath.mpf]]]:
    """Return gradient, and Hessian in every form, of a row of finite numbers by definition."""
    with mpmath.workprec(ref.BITS):
        w, scale, floor = (mpmath.mpf(float(v)) for v in (weight, scale, floor))
        p = ref.mp_row(row)["softmax"]
        k = len(p)
        residual = [v - (c == label) for c, v in enumerate(p)]
        forms = {
            "exact": [v * (1 - v) for v in p],
            "upper": [2 * v * (1 - v) for v in p],
            "lightgbm": [mpmath.mpf(k) / max(k - 1, 1) * v * (1 - v) for v in p],
            "residual": [abs(v) for v in residual],
        }
        hess = {form: [max(w * scale * v, floor) for v in f] for form, f in forms.items()}
        return [w * v for v in residual], hess


def wide_grad_hess(
    x: Array, labels: Array, form: str, weight: Any = 1.0, scale: float = 1.0, floor: float = 0.0
) -> tuple[Array, Array]:
    """Return gradient and Hessian of many rows in longdouble; `1 - p` is the sum of the others."""
    with np.errstate(all="ignore"):
        wide = x.astype(ref.WIDE)
        terms = np.exp(wide - wide.max(axis=-1, keepdims=True))
        k = x.shape[-1]
        others = np.stack([np.delete(terms, c, axis=-1).sum(axis=-1) for c in range(k)], axis=-1)
        total = terms.sum(axis=-1, keepdims=True)
        p, q = terms / total, others / total
        hit = np.arange(k) == labels[..., np.newaxis]
        w = np.broadcast_to(weight, labels.shape).astype(ref.WIDE)[..., np.newaxis]
        factor = {"upper": ref.WIDE(2), "lightgbm": ref.WIDE(k) / max(k - 1, 1)}.get(form, 1)
        entries = np.where(hit, q, p) if form == "residual" else p * q
        hess = w * ref.WIDE(scale) * factor * entries
        return w * np.where(hit, -q, p), np.maximum(hess, ref.WIDE(floor))


# --- values --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("family", rows.FAMILIES)
def test_definition(family: str, dtype: Any, rng: np.random.Generator) -> None:
    bound = BOUND[np.dtype(dtype)]
    scale, floor = 1.7, 1e-16
    for c in (1, 2, 3, 10, 33):
        x = rows.FAMILIES[family](rng, 2, c, dtype)
        x = np.maximum(x, np.finfo(dtype).min)  # -inf has no place in mpmath's rows
        labels = np.array([x[0].argmax(), rng.integers(0, c)])
        weight = rng.uniform(0.1, 9, 2)
        truth = [mp_grad_hess(x[i], int(labels[i]), weight[i], scale, floor) for i in range(2)]
        options = {"sample_weight": weight, "hess_scale": scale, "hess_floor": floor}
        for form in FORMS:
            for result in {np.float32, dtype}:
                grad, hess = lk.cross_entropy_grad_hess(
                    x, labels, hessian=form, dtype=result, **options
                )
                assert grad.dtype == hess.dtype == result
                for i in range(2):
                    dx, h = truth[i]
                    assert ref.mp_ulp_error(grad[i], dx) <= bound, f"gradient of {x[i]}"
                    assert ref.mp_ulp_error(hess[i], h[form]) <= bound, f"{form} of {x[i]}"


@pytest.mark.skipif(not ref.EXTENDED, reason="longdouble is no wider than float64")
@both
@each_form
def test_many_rows(form: str, dtype: Any, rng: np.random.Generator) -> None:
    for family in ("normal", "dominated", "rivals", "outnumbered", "spread"):
        for n, c in ((3000, 3), (1000, 10), (300, 41), (40, 300), (3, 1100)):
            x = rows.FAMILIES[family](rng, n, c, dtype)
            labels = rng.integers(0, c, n)
            weight = rng.uniform(0, 3, n).astype(np.float32)
            want = wide_grad_hess(x, labels, form, weight, 0.3)
            got = lk.cross_entropy_grad_hess(
                x, labels, sample_weight=weight, hessian=form, hess_scale=0.3, dtype=dtype
            )
            for name, a, truth in zip(("grad", "hess"), got, want, strict=True):
                ref.assert_close(a, truth, BOUND[np.dtype(dtype)], what=f"{name} {family} {n, c}")


def test_confident_row_keeps_its_digits() -> None:
    """``1 - p`` of a float32 p that is 1 would be 0."""
    x = np.array([[17, 0, 0], [40, 0, 0]], dtype=np.float32)
    others = 2 * np.exp(-np.array([17.0, 40.0]))
    q = others / (1 + others)
    for label in (0, 1):
        grad, hess = lk.cross_entropy_grad_hess(x, [label, label], hessian="exact")
        np.testing.assert_allclose(hess[:, 0], q * (1 - q), rtol=3e-7)
        _, hess = lk.cross_entropy_grad_hess(x, [label, label], hessian="residual")
        np.testing.assert_allclose(hess[:, 0], q if label == 0 else 1 - q, rtol=3e-7)
        np.testing.assert_allclose(grad[:, 0], -q if label == 0 else 1 - q, rtol=3e-7)


def test_weights_of_any_size(rng: np.random.Generator) -> None:
    """A large weight shows what p had lost below the normal range; it has lost nothing."""
    x = np.linspace(-740, 0, 31) + rng.normal(0, 1, (8, 31))
    labels = rng.integers(0, 31, 8)
    weight = 10.0 ** np.array([-300, -200, -20, -1, 1, 20, 200, 290])
    truth = [mp_grad_hess(x[i], int(labels[i]), weight[i], 1.0, 0.0) for i in range(8)]
    for form in FORMS:
        grad, hess = lk.cross_entropy_grad_hess(
            x, labels, sample_weight=weight, hessian=form, dtype=np.float64
        )
        for i in range(8):
            dx, h = truth[i]
            assert ref.mp_ulp_error(grad[i], dx) <= 4
            assert ref.mp_ulp_error(hess[i], h[form]) <= 4


def test_finite_differences(rng: np.random.Generator) -> None:
    """The gradient is that of the weighted loss, and "exact" the diagonal of its Hessian."""
    x = rng.normal(0, 2, (20, 6))
    labels, weight = rng.integers(0, 6, 20), rng.uniform(0, 2, 20)
    options: dict[str, Any] = {"sample_weight": weight, "dtype": np.float64}
    grad, hess = lk.cross_entropy_grad_hess(x, labels, **options)
    step = 1e-5
    for c in range(6):
        up, down = x.copy(), x.copy()
        up[:, c] += step
        down[:, c] -= step
        loss = [weight * lk.cross_entropy(a, labels, reduction="none") for a in (up, down)]
        np.testing.assert_allclose(grad[:, c], (loss[0] - loss[1]) / (2 * step), atol=1e-9)
        dx = [lk.cross_entropy_grad_hess(a, labels, **options)[0][:, c] for a in (up, down)]
        np.testing.assert_allclose(hess[:, c], (dx[0] - dx[1]) / (2 * step), atol=1e-9)


def test_upper_is_above_the_whole_hessian(rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (50, 7))
    labels = rng.integers(0, 7, 50)
    _, hess = lk.cross_entropy_grad_hess(x, labels, hessian="upper", dtype=np.float64)
    for p, h in zip(lk.softmax(x, axis=1), hess, strict=True):
        whole = np.diag(p) - np.outer(p, p)
        assert np.linalg.eigvalsh(np.diag(h) - whole).min() >= -1e-15


def test_forms(rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, (30, 4))
    labels = rng.integers(0, 4, 30)
    hess = {
        form: lk.cross_entropy_grad_hess(x, labels, hessian=form, dtype=np.float64)[1]
        for form in FORMS
    }
    p = lk.softmax(x, axis=1)
    np.testing.assert_allclose(hess["exact"], p * (1 - p), rtol=1e-13)
    assert_same_bits(hess["upper"], 2 * hess["exact"])
    np.testing.assert_allclose(hess["lightgbm"], hess["exact"] * 4 / 3, rtol=1e-15)
    grad, default = lk.cross_entropy_grad_hess(x, labels, dtype=np.float64)
    assert_same_bits(hess["residual"], np.abs(grad))
    assert_same_bits(default, hess["exact"])


@both
def test_narrow_results_are_the_wide_ones_rounded(dtype: Any, rng: np.random.Generator) -> None:
    for c in (1, 2, 3, 10, 17, 100, 600, 1100):
        x = rng.normal(0, 5, (37, c)).astype(dtype)
        labels = rng.integers(0, c, 37)
        for form in FORMS:
            wide = lk.cross_entropy_grad_hess(
                x.astype(np.float64), labels, hessian=form, dtype=np.float64
            )
            same = lk.cross_entropy_grad_hess(x, labels, hessian=form, dtype=np.float64)
            narrow = lk.cross_entropy_grad_hess(x.astype(np.float64), labels, hessian=form)
            for a, b, c_ in zip(wide, same, narrow, strict=True):
                assert_same_bits(b, a)
                assert_same_bits(c_, a.astype(np.float32))


@given(
    st.integers(1, 5),
    st.integers(1, 20),
    st.sampled_from(FORMS),
    st.floats(0, 4),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_properties(n: int, c: int, form: str, scale: float, floor: float, seed: int) -> None:
    """Signs, sums and bounds that hold for any scores."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 10 ** rng.uniform(-2, 2), (n, c))
    labels = rng.integers(0, c, n)
    grad, hess = lk.cross_entropy_grad_hess(
        x, labels, hessian=form, hess_scale=scale, hess_floor=floor, dtype=np.float64
    )
    hit = np.arange(c) == labels[:, np.newaxis]
    assert np.all(np.where(hit, -grad, grad) >= 0)
    assert np.all(np.abs(grad) <= 1)
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-15)
    assert np.all(hess >= floor)
    largest = {"upper": 0.5, "lightgbm": c / max(c - 1, 1) / 4, "exact": 0.25, "residual": 1}[form]
    assert np.all(hess <= max(scale * largest * (1 + 1e-15), floor))
    _, plain = lk.cross_entropy_grad_hess(x, labels, hessian=form, dtype=np.float64)
    np.testing.assert_allclose(hess, np.maximum(scale * plain, floor), rtol=1e-15, atol=1e-300)


# --- semantics -----------------------------------------------------------------------------------


@both
@each_form
@pytest.mark.parametrize("c", [2, 3, 10, 33, 1100])
def test_weight_0_gives_exactly_0(c: int, form: str, dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, (50, c)).astype(dtype)
    labels = rng.integers(0, c, 50)
    weight = np.ones(50)
    weight[[3, 17, 40, 49]] = 0, -0.0, 0, 0
    x[3, 0], x[17, 1], x[40] = np.nan, np.inf, -np.inf
    for floor in (0.0, 0.125, -1.0):
        grad, hess = lk.cross_entropy_grad_hess(
            x, labels, sample_weight=weight, hessian=form, hess_floor=floor
        )
        empty = weight == 0
        assert_same_bits(grad[empty], np.zeros((4, c), np.float32))
        assert_same_bits(hess[empty], np.full((4, c), max(0.0, floor), np.float32))
        want = lk.cross_entropy_grad_hess(x[~empty], labels[~empty], hessian=form, hess_floor=floor)
        assert_same_bits(grad[~empty], want[0])
        assert_same_bits(hess[~empty], want[1])


@both
@pytest.mark.parametrize("c", [2, 3, 10, 33, 64, 1100])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
def test_nan_and_plus_infinity(value: float, c: int, dtype: Any) -> None:
    """The row is the positive quiet NaN, the Hessian too, whatever the floor; others are not."""
    x = np.zeros((20, c), dtype=dtype)
    x[7, c // 2] = value
    labels = np.zeros(20, dtype=int)
    for result in DTYPES:
        for a in lk.cross_entropy_grad_hess(x, labels, hess_floor=0.5, dtype=result):
            assert_same_bits(a[7], np.full(c, np.nan, dtype=result))
            assert np.isfinite(np.delete(a, 7, axis=0)).all()


@both
def test_row_of_minus_infinity_is_nan(dtype: Any) -> None:
    for c in (1, 3, 100):
        x = np.full((2, c), -np.inf, dtype=dtype)
        for a in lk.cross_entropy_grad_hess(x, [0, 0]):
            assert_same_bits(a, np.full((2, c), np.nan, dtype=np.float32))


@both
def test_minus_infinity_is_probability_0(dtype: Any) -> None:
    x = np.array([[-np.inf, 0, 0], [-np.inf, 0, 0]], dtype=dtype)
    grad, hess = lk.cross_entropy_grad_hess(x, [0, 1])
    np.testing.assert_array_equal(grad, [[-1, 0.5, 0.5], [0, -0.5, 0.5]])
    np.testing.assert_array_equal(hess, [[0, 0.25, 0.25], [0, 0.25, 0.25]])


def test_one_class() -> None:
    """There is nothing to learn, for every form."""
    for form in FORMS:
        grad, hess = lk.cross_entropy_grad_hess(np.array([[3.0], [-1.0]]), [0, 0], hessian=form)
        np.testing.assert_array_equal(grad, [[0], [0]])
        np.testing.assert_array_equal(hess, [[0], [0]])


@both
def test_weights_that_are_no_finite_numbers(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 1, (20, 4)).astype(dtype)
    x[:, 3] = -np.inf
    weight = np.ones(20)
    weight[5], weight[6] = np.nan, np.inf
    labels = np.zeros(20, dtype=int)
    grad, hess = lk.cross_entropy_grad_hess(x, labels, sample_weight=weight)
    nan = np.full(4, np.nan, dtype=np.float32)
    assert_same_bits(grad[5], nan)
    assert_same_bits(hess[5], nan)
    assert_same_bits(grad[6], np.array([-np.inf, np.inf, np.inf, np.nan], np.float32))
    assert_same_bits(hess[6], np.array([np.inf, np.inf, np.inf, np.nan], np.float32))
    rest = np.delete(np.arange(20), [5, 6])
    want = lk.cross_entropy_grad_hess(x[rest], labels[rest])
    assert_same_bits(grad[rest], want[0])
    assert_same_bits(hess[rest], want[1])


def test_empty() -> None:
    for shape in ((0, 3), (2, 0, 3)):
        labels = np.zeros(shape[:-1], dtype=int)
        for a in lk.cross_entropy_grad_hess(np.zeros(shape), labels):
            assert a.shape == shape
            assert a.dtype == np.float32
    with pytest.raises(IndexError, match=r"labels\[0\] is 0"):
        lk.cross_entropy_grad_hess(np.zeros((2, 0)), [0, 0])


def test_shapes(rng: np.random.Generator) -> None:
    flat = rng.normal(0, 2, (24, 5))
    labels = rng.integers(0, 5, 24)
    weight = rng.uniform(0, 1, 24)
    want = lk.cross_entropy_grad_hess(flat, labels, sample_weight=weight)
    for batch in ((2, 12), (4, 3, 2), (1, 24, 1)):
        x = flat.reshape(*batch, 5)
        for order in ("C", "F"):
            got = lk.cross_entropy_grad_hess(
                np.array(x, order=order),
                labels.reshape(batch),
                sample_weight=weight.reshape(batch),
            )
            for a, b in zip(got, want, strict=True):
                assert_same_bits(a, b.reshape(x.shape))
    for i in range(24):
        got = lk.cross_entropy_grad_hess(flat[i], labels[i], sample_weight=weight[i])
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a, b[i])


def test_sample_weight_broadcasts(rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, (3, 4, 5))
    labels = rng.integers(0, 5, (3, 4))
    for weight in (
        2.5,
        np.float32(2.5),
        rng.uniform(0, 1, 4),
        rng.uniform(0, 1, (3, 1)),
        [1, 2, 0, 4],
    ):
        full = np.ascontiguousarray(np.broadcast_to(weight, (3, 4)), dtype=np.float64)
        want = lk.cross_entropy_grad_hess(x, labels, sample_weight=full)
        got = lk.cross_entropy_grad_hess(x, labels, sample_weight=weight)
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a, b)


def test_float64_weights_are_not_rounded() -> None:
    x = np.zeros((1, 2), dtype=np.float32)
    weight = 1 + 2.0**-40
    grad, _ = lk.cross_entropy_grad_hess(x, [0], sample_weight=[weight], hess_scale=1.0)
    assert_same_bits(grad, np.array([[-0.5, 0.5]], dtype=np.float32))
    grad, _ = lk.cross_entropy_grad_hess(x, [0], sample_weight=[weight], dtype=np.float64)
    assert_same_bits(grad, np.array([[-weight, weight]]) / 2)


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u1", "u8", ">i4", "f2", "f4", "f8", ">f8"])
def test_labels_of_any_dtype(dtype: str, rng: np.random.Generator) -> None:
    for n, c in ((40, 3), (9, 100)):
        x = rng.normal(0, 2, (n, c)).astype(np.float32)
        labels = rng.integers(0, c, n)
        want = lk.cross_entropy_grad_hess(x, labels)
        spaced = np.zeros(3 * n, dtype=dtype)[::-3]
        spaced[...] = labels
        for given_ in (labels.astype(dtype), spaced, labels.astype(dtype).tolist()):
            for a, b in zip(lk.cross_entropy_grad_hess(x, given_), want, strict=True):
                assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", ["f2", "i4", "?", ">f4", "bfloat16"])
def test_scores_of_other_dtypes(dtype: str, rng: np.random.Generator) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = rng.normal(0, 2, (10, 4)).astype(dtype)
    labels = rng.integers(0, 4, 10)
    work = np.float64 if np.dtype(dtype).kind in "biu" else np.float32
    for result in DTYPES:
        want = lk.cross_entropy_grad_hess(x.astype(work), labels, dtype=result)
        got = lk.cross_entropy_grad_hess(x, labels, dtype=result)
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a, b)


# --- memory --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("order", ["K", "C", "F"])
@pytest.mark.parametrize("given_order", ["C", "F"])
def test_order(given_order: str, order: str, dtype: Any, rng: np.random.Generator) -> None:
    wanted = given_order if order == "K" else order
    for shape in ((150, 3), (37, 10), (5, 600), (3, 4, 5)):
        x = np.array(rng.normal(0, 2, shape), dtype=dtype, order=given_order)
        labels = rng.integers(0, shape[-1], shape[:-1])
        want = lk.cross_entropy_grad_hess(np.ascontiguousarray(x), labels, order="C")
        for a, b in zip(lk.cross_entropy_grad_hess(x, labels, order=order), want, strict=True):
            assert a.flags[f"{wanted}_CONTIGUOUS"]
            assert a.flags.writeable
            assert_same_bits(a, b)


@pytest.mark.parametrize("layout", layouts.WRITABLE)
@both
def test_out(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.WRITABLE[layout]
    for shape in ((41, 3), (70, 10), (9, 64), (3, 1100), (2, 3, 5), (4,)):
        x = rng.normal(0, 3, shape).astype(dtype)
        labels = rng.integers(0, shape[-1], shape[:-1])
        for result in DTYPES:
            want = lk.cross_entropy_grad_hess(x, labels, dtype=result)
            out = change(np.full(shape, SENTINEL, result)), np.full(shape, SENTINEL, result)
            for pair in (out, out[::-1]):
                got = lk.cross_entropy_grad_hess(x, labels, dtype=result, out=pair)
                assert got[0] is pair[0]
                assert got[1] is pair[1]
                for a, b in zip(got, want, strict=True):
                    assert_same_bits(a, b, f"{layout} {shape}")
        want = lk.cross_entropy_grad_hess(x, labels, dtype=dtype)
        for place in (0, 1):
            scores = change(x)
            pair = [np.empty_like(x), np.empty_like(x)]
            pair[place] = scores
            lk.cross_entropy_grad_hess(scores, labels, dtype=dtype, out=(pair[0], pair[1]))
            for a, b in zip(pair, want, strict=True):
                assert_same_bits(a, b, f"in place {layout} {shape}")


@both
def test_byte_order_by_its_own_name(dtype: Any, rng: np.random.Generator) -> None:
    """Arrays from ctypes say "<f4" where others say "=f4": LightGBM's labels and weights do."""
    x, labels = rng.normal(0, 3, (50, 4)).astype(dtype), rng.integers(0, 4, 50)
    kind = {"f": ctypes.c_float, "d": ctypes.c_double}[np.dtype(dtype).char]

    def named(a: Array) -> Array:
        array = np.ctypeslib.as_array((kind * a.size)(*a.ravel())).reshape(a.shape)
        assert array.dtype == dtype
        return array

    want = lk.cross_entropy_grad_hess(x, labels, sample_weight=x[:, 0])
    got = lk.cross_entropy_grad_hess(named(x), named(labels), sample_weight=named(x[:, 0]))
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)
    assert_same_bits(lk.softmax(named(x), axis=1), lk.softmax(x, axis=1))
    assert_same_bits(lk.cross_entropy(named(x), named(labels)), lk.cross_entropy(x, labels))


def test_out_interleaved_and_overlapping(rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (50, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 50)
    want = lk.cross_entropy_grad_hess(x, labels)
    pairs = np.empty((50, 4, 2), dtype=np.float32)
    lk.cross_entropy_grad_hess(x, labels, out=(pairs[..., 0], pairs[..., 1]))
    assert_same_bits(pairs[..., 0], want[0])
    assert_same_bits(pairs[..., 1], want[1])

    space = np.empty((60, 4), dtype=np.float32)
    space[:50] = x
    hess = np.empty_like(x)
    lk.cross_entropy_grad_hess(space[:50], labels, out=(space[3:53], hess))
    assert_same_bits(space[3:53], want[0])
    assert_same_bits(hess, want[1])

    weight = np.ones((50, 4), dtype=np.float32)
    got = lk.cross_entropy_grad_hess(x, labels, sample_weight=weight[:, 0], out=(weight, hess))
    assert_same_bits(got[0], want[0])


@pytest.mark.parametrize("layout", layouts.ALL)
@both
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    for shape in ((41, 3), (70, 10), (9, 64), (3, 1100), (2, 3, 5)):
        x = rng.normal(0, 8, shape).astype(dtype)
        x.reshape(-1)[:: 1 + x.size // 3] = np.nan
        labels = rng.integers(0, shape[-1], shape[:-1])
        weight = np.maximum(rng.uniform(-1, 1, shape[:-1]), 0)
        for form in ("upper", "residual"):
            options: dict[str, Any] = {"hessian": form, "hess_floor": 1e-16}
            want = lk.cross_entropy_grad_hess(x, labels, sample_weight=weight, **options)
            moved = layouts.ALL[layout](x)
            moved_weight = layouts.ALL[layout](weight)
            got = lk.cross_entropy_grad_hess(moved, labels, sample_weight=moved_weight, **options)
            for a, b in zip(got, want, strict=True):
                assert_same_bits(a, b, f"{layout} {shape} {form}")


def test_nothing_is_written_beside_the_results(rng: np.random.Generator) -> None:
    for n, c in ((41, 3), (70, 10), (3, 1100)):
        x = rng.normal(0, 3, (n, c))
        labels = rng.integers(0, c, n)
        for dtype in DTYPES:
            for order in ("C", "F"):
                space = np.full((2, 2 * n + 3, 2 * c + 3), SENTINEL, dtype=dtype, order=order)
                inside = np.zeros(space.shape, dtype=bool)
                inside[:, 1 : 1 + 2 * n : 2, 2 : 2 + 2 * c : 2] = True
                out = (
                    space[0, 1 : 1 + 2 * n : 2, 2 : 2 + 2 * c : 2],
                    space[1, 1 : 1 + 2 * n : 2, 2 : 2 + 2 * c : 2],
                )
                lk.cross_entropy_grad_hess(x, labels, dtype=dtype, out=out)
                assert np.all(space[~inside] == SENTINEL)
                assert not np.any(space[inside] == SENTINEL)


# --- the same bits -------------------------------------------------------------------------------


def special(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> Array:
    """Return scores among which a few rows are dominated, far from 0, or no numbers."""
    x = rng.normal(0, 5, shape).astype(dtype)
    n = shape[0]
    x[rng.integers(0, n, 1 + n // 9)] += dtype(1e6)
    x[rng.integers(0, n, 1 + n // 9), 0] += 60
    x[rng.integers(0, n), -1] = np.nan
    x[rng.integers(0, n), 0] = np.inf
    return x


@pytest.mark.usefixtures("keep_settings")
@both
@each_form
def test_levels_and_threads(form: str, dtype: Any, rng: np.random.Generator) -> None:
    for shape in (
        (41, 1),
        (300, 3),
        (130, 10),
        (70, 17),
        (37, 65),
        (9, 600),
        (3, 1100),
        (30011, 10),
    ):
        x = special(shape, dtype, rng)
        labels = rng.integers(0, shape[1], shape[0])
        weight = np.maximum(rng.uniform(-0.2, 2, shape[0]), 0)
        for result in DTYPES[: 1 + (dtype is np.float64)]:
            options: dict[str, Any] = {
                "sample_weight": weight,
                "hessian": form,
                "hess_scale": 0.7,
                "hess_floor": 1e-16,
                "dtype": result,
            }
            core.set_simd_level(core.simd_levels()[0])
            with lk.threads(1):
                want = lk.cross_entropy_grad_hess(x, labels, **options)
            for level in core.simd_levels():
                core.set_simd_level(level)
                for threads in (1, 3):
                    for order in ("C", "F"):
                        given_ = np.array(x, order=order)
                        with lk.threads(threads):
                            got = lk.cross_entropy_grad_hess(given_, labels, **options)
                        for a, b in zip(got, want, strict=True):
                            assert_same_bits(a, b, f"{shape} {level} {threads} {order}")


@both
def test_rows_alone(dtype: Any, rng: np.random.Generator) -> None:
    for n, c in ((70, 3), (41, 10), (20, 41), (5, 1100)):
        x = special((n, c), dtype, rng)
        labels = rng.integers(0, c, n)
        whole = lk.cross_entropy_grad_hess(x, labels)
        for cut in (
            slice(1, None),
            slice(0, n // 2 + 1),
            slice(n // 3, n - 1),
            slice(None, None, -1),
        ):
            got = lk.cross_entropy_grad_hess(x[cut], labels[cut])
            for a, b in zip(got, whole, strict=True):
                assert_same_bits(a, b[cut], f"{n, c} {cut}")
        for i in range(n):
            for a, b in zip(lk.cross_entropy_grad_hess(x[i], labels[i]), whole, strict=True):
                assert_same_bits(a, b[i], f"{n, c} row {i}")


def test_floating_point_state_is_left_alone() -> None:
    x = np.array([[np.nan, 1, 2], [800, -800, 0], [np.inf, 0, 0], [0, 0, 1e-310]])
    with np.errstate(all="raise"):
        for result in DTYPES:
            lk.cross_entropy_grad_hess(
                x, [0, 1, 2, 0], sample_weight=[0, 1e300, 1, 1], dtype=result
            )
            lk.cross_entropy_grad_hess(x.tolist(), [0.0, 1.0, 2.0, 0.0], dtype=result)


# --- errors --------------------------------------------------------------------------------------

X = np.arange(12.0).reshape(3, 4) / 3
LABELS = np.array([0, 3, 1])

WRONG: dict[str, tuple[type[Exception], str, Callable[[Any], Any]]] = {
    "label too large": (
        IndexError,
        r"labels\[1\] is 4: not in \[0, 4\)",
        lambda f: f(X, [0, 4, 9]),
    ),
    "label negative": (IndexError, r"labels\[2\] is -1", lambda f: f(X, [0, 1, -1])),
    "label -100": (IndexError, r"labels\[0\] is -100", lambda f: f(X, np.array([-100, 1, 1]))),
    "float label too large": (IndexError, r"labels\[1\]", lambda f: f(X, np.array([0.0, 4, 1]))),
    "huge float label": (IndexError, r"labels\[1\]", lambda f: f(X, np.array([0.0, 1e300, 1]))),
    "label no integer": (ValueError, r"labels\[1\] is 0.5", lambda f: f(X, np.array([0, 0.5, 1]))),
    "label NaN": (ValueError, r"labels\[0\] is nan", lambda f: f(X, np.array([np.nan, 0, 1]))),
    "labels bool": (TypeError, "bool", lambda f: f(X, [True, False, True])),
    "labels str": (TypeError, "labels", lambda f: f(X, ["a", "b", "c"])),
    "labels too few": (ValueError, r"\(2,\).*\(3,\)", lambda f: f(X, LABELS[:2])),
    "labels one-hot": (ValueError, r"\(3, 4\).*\(3,\)", lambda f: f(X, np.eye(4)[LABELS])),
    "scores complex": (TypeError, "complex", lambda f: f(X.astype(complex), LABELS)),
    "scores masked": (TypeError, "mask", lambda f: f(np.ma.masked_array(X), LABELS)),
    "scores 0-d": (np.exceptions.AxisError, "axis", lambda f: f(1.0, 0)),
    "weights too many": (
        ValueError,
        r"sample_weight.*\(4,\).*\(3,\)",
        lambda f: f(X, LABELS, sample_weight=np.ones(4)),
    ),
    "weights of classes": (
        ValueError,
        r"sample_weight.*\(3, 4\)",
        lambda f: f(X, LABELS, sample_weight=np.ones((3, 4))),
    ),
    "weights str": (TypeError, "sample_weight", lambda f: f(X, LABELS, sample_weight=["a"] * 3)),
    "hessian unknown": (
        ValueError,
        "'exact', 'upper', 'lightgbm', 'residual'.*'full'",
        lambda f: f(X, LABELS, hessian="full"),
    ),
    "hessian None": (ValueError, "None", lambda f: f(X, LABELS, hessian=None)),
    "order unknown": (ValueError, "'K', 'C', 'F'.*'A'", lambda f: f(X, LABELS, order="A")),
    "hess_scale infinite": (ValueError, "inf", lambda f: f(X, LABELS, hess_scale=np.inf)),
    "hess_scale NaN": (ValueError, "nan", lambda f: f(X, LABELS, hess_scale=np.nan)),
    "hess_scale array": (TypeError, r"\(3,\)", lambda f: f(X, LABELS, hess_scale=np.ones(3))),
    "hess_scale str": (TypeError, "hess_scale", lambda f: f(X, LABELS, hess_scale="1")),
    "hess_floor NaN": (ValueError, "nan", lambda f: f(X, LABELS, hess_floor=np.nan)),
    "hess_floor None": (TypeError, "hess_floor", lambda f: f(X, LABELS, hess_floor=None)),
}


@pytest.mark.parametrize(("error", "message", "call"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(error: type[Exception], message: str, call: Callable[[Any], Any]) -> None:
    for dtype in DTYPES:
        out = np.full((3, 4), SENTINEL, dtype), np.full((3, 4), SENTINEL, dtype)

        def function(*args: Any, out: Any = out, dtype: Any = dtype, **options: Any) -> None:
            lk.cross_entropy_grad_hess(*args, dtype=dtype, out=out, **options)

        with pytest.raises(error, match=message) as caught:
            call(function)
        assert type(caught.value) is error
        assert np.all(out[0] == SENTINEL)
        assert np.all(out[1] == SENTINEL)


@pytest.mark.parametrize("dtype", [np.float16, np.int32, complex, object, None, "nonsense"])
def test_wrong_dtype(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"float32 or float64|nonsense"):
        lk.cross_entropy_grad_hess(X, LABELS, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", np.dtype("f4"), "f8", np.dtype(np.float64), float])
def test_names_of_dtypes(dtype: Any) -> None:
    for a in lk.cross_entropy_grad_hess(X, LABELS, dtype=dtype):
        assert a.dtype == np.dtype(dtype)


def test_wrong_out() -> None:
    def sentinel(shape: tuple[int, ...] = (3, 4), dtype: Any = np.float32) -> Array:
        return np.full(shape, SENTINEL, dtype)

    good, read_only = sentinel(), sentinel()
    read_only.flags.writeable = False
    shared = sentinel((4, 4))
    wrong: list[tuple[Any, type[Exception], str]] = [
        (good, TypeError, "tuple of two"),
        ([good, sentinel()], TypeError, "tuple of two"),
        ((good,), TypeError, "tuple of two"),
        ((good, None), TypeError, r"out\[1\]"),
        ((None, good), TypeError, r"out\[0\]"),
        ((good, sentinel(dtype=np.float64)), TypeError, r"out\[1\].*float64.*float32"),
        ((sentinel((3, 3)), good), ValueError, r"out\[0\].*\(3, 3\).*\(3, 4\)"),
        ((good, read_only), ValueError, r"out\[1\].*read-only"),
        ((good, np.broadcast_to(good[:1], (3, 4))), ValueError, "read-only|share"),
        ((good, good), ValueError, "share memory"),
        ((shared[:3], shared[1:]), ValueError, "share memory"),
    ]
    for out, error, message in wrong:
        with pytest.raises(error, match=message) as caught:
            lk.cross_entropy_grad_hess(X, LABELS, out=out)
        assert type(caught.value) is error
    assert np.all(good == SENTINEL)
    assert np.all(shared == SENTINEL)
    assert np.all(read_only == SENTINEL)
