"""Every result is a few units in the last place from the truth, however hard the row."""

from __future__ import annotations

from typing import Any

import logitkit as lk
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import reference as ref
import rows

Array = npt.NDArray[Any]

BOUND = {np.dtype(np.float32): 3.0, np.dtype(np.float64): 4.0}
BOUND_LOGSUMEXP = {np.dtype(np.float32): 1.5, np.dtype(np.float64): 2.0}

BOTH = [np.float32, np.float64]
VECTORISED = [
    np.float32,
    pytest.param(
        np.float64,
        marks=pytest.mark.skipif(not ref.EXTENDED, reason="longdouble is float64 here"),
    ),
]
"""Dtypes that the longdouble reference can judge; mpmath judges both everywhere."""

PLACES = ("last", "first", "middle")
SIZES = [(36, c) for c in rows.SHORT] + [(6, c) for c in rows.LONG]


def place(x: Array, where: str) -> tuple[Array, int]:
    """Return the rows of ``x`` along another axis of a contiguous array, and that axis."""
    if where == "last":
        return x, -1
    if where == "first":
        return np.ascontiguousarray(x.T), 0
    return np.ascontiguousarray(x.reshape(2, -1, x.shape[-1]).swapaxes(1, 2)), 1


def unplace(x: Array, where: str) -> Array:
    """Return the rows that ``place`` moved."""
    if where == "last":
        return x
    if where == "first":
        return x.T
    return x.swapaxes(1, 2).reshape(-1, x.shape[1])


def place_batch(x: Array, where: str) -> Array:
    """Return one number per row in the batch shape."""
    return x.reshape(2, -1) if where == "middle" else x


def lse_scale(lse: Array, x: Array) -> Array:
    """Return what the error of logsumexp is measured against: the result, the maximum, or 1."""
    top = np.abs(np.max(x, axis=-1)).astype(ref.WIDE)
    return np.maximum(np.where(np.isfinite(lse), np.abs(lse), 1), np.maximum(top, 1))


# --- the bounds, over all families of rows -------------------------------------------------------


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("family", rows.FAMILIES)
def test_normalisations(family: str, dtype: Any, rng: np.random.Generator) -> None:
    bound, bound_lse = BOUND[np.dtype(dtype)], BOUND_LOGSUMEXP[np.dtype(dtype)]
    for n, c in SIZES:
        x = rows.FAMILIES[family](rng, n, c, dtype)
        truth = ref.Rows(x)
        scale = lse_scale(truth.lse, x)
        for where in PLACES:
            a, axis = place(x, where)
            p, log_p, lse = lk.softmax(a, axis), lk.log_softmax(a, axis), lk.logsumexp(a, axis)
            assert p.dtype == log_p.dtype == lse.dtype == dtype
            what = f"{n}x{c} {where}"
            ref.assert_close(unplace(p, where), truth.softmax, bound, what=f"softmax {what}")
            log_p = unplace(log_p, where)
            ref.assert_close(log_p, truth.log_softmax, bound, what=f"log_softmax {what}")
            lse = lse.reshape(-1)
            ref.assert_close(lse, truth.lse, bound_lse, scale, what=f"logsumexp {what}")


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("family", rows.FAMILIES)
def test_hard_labels(family: str, dtype: Any, rng: np.random.Generator) -> None:
    bound = BOUND[np.dtype(dtype)]
    for n, c in SIZES:
        x = rows.FAMILIES[family](rng, n, c, dtype)
        labels = rng.integers(0, c, n)
        top = rng.random(n) < 0.5
        labels[top] = np.argmax(x, axis=1)[top]
        truth = ref.Rows(x)
        true_loss, true_gradient = truth.loss(labels), truth.gradient(labels)
        for where in PLACES:
            a, axis = place(x, where)
            loss, grad = lk.cross_entropy_value_and_grad(
                a, place_batch(labels, where), axis=axis, reduction="none"
            )
            assert loss.dtype == grad.dtype == dtype
            what = f"{n}x{c} {where}"
            ref.assert_close(loss.reshape(-1), true_loss, bound, what=f"loss {what}")
            grad = unplace(grad, where)
            ref.assert_close(grad, true_gradient, bound, what=f"gradient {what}")


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("family", [f for f in rows.FAMILIES if f != "huge"])
def test_probability_labels(family: str, dtype: Any, rng: np.random.Generator) -> None:
    """Labels that sum to 1, and others; zeros among them; one row of certainty."""
    bound = BOUND[np.dtype(dtype)]
    for n, c in SIZES:
        x = rows.FAMILIES[family](rng, n, c, dtype)
        t = np.maximum(rng.uniform(-0.3, 1, (n, c)), 0).astype(dtype)
        t[: n // 2] /= np.maximum(t[: n // 2].sum(axis=1, keepdims=True), dtype(0.1))
        t[x < -1e8] = 0
        t[-1] = 0
        t[-1, np.argmax(x[-1])] = 1
        true_loss, true_gradient, scale = ref.cross_entropy_soft(x, t)
        for where in PLACES:
            a, axis = place(x, where)
            loss, grad = lk.cross_entropy_value_and_grad(
                a, place(t, where)[0], axis=axis, reduction="none"
            )
            assert loss.dtype == grad.dtype == dtype
            what = f"{n}x{c} {where}"
            ref.assert_close(loss.reshape(-1), true_loss, bound, what=f"loss {what}")
            grad = unplace(grad, where)
            ref.assert_close(grad, true_gradient, bound, scale, what=f"gradient {what}")


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("family", ["normal", "ties", "spread", "dominated", "masked_infinity"])
def test_backward(family: str, dtype: Any, rng: np.random.Generator) -> None:
    bound = BOUND[np.dtype(dtype)]
    for n, c in SIZES:
        x = rows.FAMILIES[family](rng, n, c, dtype)
        grad = rng.normal(0, 1, (n, c)).astype(dtype)
        grad[: n // 3] = np.abs(grad[: n // 3])
        p, log_p, lse = lk.softmax(x, 1), lk.log_softmax(x, 1), lk.logsumexp(x, 1)
        true_softmax, scale = ref.softmax_backward(grad, p, -1)
        true_log_softmax, log_scale = ref.log_softmax_backward(grad, log_p, -1)
        true_logsumexp = ref.logsumexp_backward(grad[:, 0], x, lse, -1)
        for where in PLACES:
            g, axis = place(grad, where)
            what = f"{n}x{c} {where}"
            got = unplace(lk.softmax_backward(g, place(p, where)[0], axis), where)
            assert got.dtype == dtype
            ref.assert_close(got, true_softmax, bound, scale, what=f"softmax {what}")
            got = unplace(lk.log_softmax_backward(g, place(log_p, where)[0], axis), where)
            assert got.dtype == dtype
            ref.assert_close(got, true_log_softmax, bound, log_scale, what=f"log_softmax {what}")
            small, saved = place_batch(grad[:, 0], where), place_batch(lse, where)
            got = unplace(lk.logsumexp_backward(small, place(x, where)[0], saved, axis), where)
            assert got.dtype == dtype
            ref.assert_close(got, true_logsumexp, bound, what=f"logsumexp {what}")


@pytest.mark.parametrize("dtype", VECTORISED)
def test_every_margin(dtype: Any, rng: np.random.Generator) -> None:
    """A class that leads by 5 to 700, with 1 to 70 others that are equal or not."""
    bound, bound_lse = BOUND[np.dtype(dtype)], BOUND_LOGSUMEXP[np.dtype(dtype)]
    reach = 110 if dtype == np.float32 else 760
    margins = np.concatenate([np.arange(5, 41, 0.25), np.arange(41, reach, 1.5)])
    for c in (2, 3, 4, 10, 16, 17, 33, 64, 65, 70, 200):
        for base in (0.0, 12.5, -300.0):
            x = np.full((len(margins), c), base)
            x[::2] += rng.uniform(-4, 0, x[::2].shape)
            label = rng.integers(0, c, len(margins))
            x[np.arange(len(margins)), label] = base + margins
            x = x.astype(dtype)
            truth = ref.Rows(x)
            other = (label + 1) % c
            what = f"{c} classes from {base}"
            ref.assert_close(lk.softmax(x, 1), truth.softmax, bound, what=f"softmax {what}")
            ref.assert_close(
                lk.log_softmax(x, 1), truth.log_softmax, bound, what=f"log_softmax {what}"
            )
            ref.assert_close(
                lk.logsumexp(x, 1), truth.lse, bound_lse, lse_scale(truth.lse, x), what=what
            )
            for y in (label, other):
                loss, grad = lk.cross_entropy_value_and_grad(x, y, reduction="none")
                ref.assert_close(loss, truth.loss(y), bound, what=f"loss {what}")
                ref.assert_close(grad, truth.gradient(y), bound, what=f"gradient {what}")


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("family", [f for f in rows.FAMILIES if f not in ("huge", "offset", "far")])
def test_against_mpmath(family: str, dtype: Any, rng: np.random.Generator) -> None:
    bound, bound_lse = BOUND[np.dtype(dtype)], BOUND_LOGSUMEXP[np.dtype(dtype)]
    for c in (1, 2, 3, 10):
        n = 4
        x = rows.FAMILIES[family](rng, n, c, dtype)
        x[np.isinf(x)] = -1e30
        other = rng.normal(0, 1, x.shape).astype(dtype)
        t = rng.uniform(0, 1, x.shape).astype(dtype)
        labels = np.argmax(x, axis=1)
        labels[::2] = rng.integers(0, c, labels[::2].shape)
        p, log_p, lse = lk.softmax(x, 1), lk.log_softmax(x, 1), lk.logsumexp(x, 1)
        loss, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="none")
        soft_loss, soft_grad = lk.cross_entropy_value_and_grad(x, t, reduction="none")
        vjp = lk.softmax_backward(other, p, 1)
        log_vjp = lk.log_softmax_backward(other, log_p, 1)
        lse_vjp = lk.logsumexp_backward(other[:, 0], x, lse, 1)
        for i in range(n):
            truth = ref.mp_row(x[i])
            assert ref.mp_ulp_error(p[i], truth["softmax"]) <= bound
            assert ref.mp_ulp_error(log_p[i], truth["log_softmax"]) <= bound
            scale = max(abs(truth["lse"]), abs(mpmath.mpf(float(x[i].max()))), mpmath.mpf(1))
            assert ref.mp_ulp_error(lse[i], truth["lse"], scale) <= bound_lse

            hard = ref.mp_cross_entropy(x[i], int(labels[i]))
            assert ref.mp_ulp_error(loss[i], hard[0]) <= bound
            assert ref.mp_ulp_error(grad[i], hard[1]) <= bound

            soft = ref.mp_cross_entropy_soft(x[i], t[i])
            total = mpmath.fsum(mpmath.mpf(float(v)) for v in t[i])
            larger = [
                max(total * q, mpmath.mpf(float(v)))
                for q, v in zip(truth["softmax"], t[i], strict=True)
            ]
            if not np.any(x[i] < -1e8):
                assert ref.mp_ulp_error(soft_loss[i], soft[0]) <= bound
            assert ref.mp_ulp_error(soft_grad[i], soft[1], larger) <= bound

            g = [mpmath.mpf(float(v)) for v in other[i]]
            inner = mpmath.fsum(abs(u * mpmath.mpf(float(v))) for u, v in zip(g, p[i], strict=True))
            size = [mpmath.mpf(float(v)) * (abs(u) + inner) for u, v in zip(g, p[i], strict=True)]
            assert ref.mp_ulp_error(vjp[i], ref.mp_softmax_backward(other[i], p[i]), size) <= bound
            total = abs(mpmath.fsum(g))
            size = [max(abs(u), total * e) for u, e in zip(g, ref.mp_exp(log_p[i]), strict=True)]
            exact = ref.mp_log_softmax_backward(other[i], log_p[i])
            assert ref.mp_ulp_error(log_vjp[i], exact, size) <= bound
            exact = ref.mp_logsumexp_backward(other[i, 0], x[i], lse[i])
            assert ref.mp_ulp_error(lse_vjp[i], exact) <= bound


def test_many_pairs() -> None:
    """Millions of float32 rows of two against float64, which is exact beside them."""
    rng = np.random.default_rng(7)
    worst = 0.0
    for _ in range(8):
        x = np.empty((500_000, 2), dtype=np.float32)
        x[:, 0] = rng.uniform(-4, 4, len(x))
        x[:, 1] = x[:, 0] + rng.uniform(-25, 0, len(x))
        rest = np.exp(x[:, 1].astype(np.float64) - x[:, 0])
        truth = np.stack([1 / (1 + rest), rest / (1 + rest)], axis=1)
        error = np.abs(lk.softmax(x, 1) - truth) / np.spacing(truth.astype(np.float32))
        worst = max(worst, float(error.max()))
    assert worst <= 3


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("factor", [1.0, 1 / 3, 0.8860477641562354, 7.810461856930597])
def test_many_scaled_gradients(factor: float, dtype: Any) -> None:
    """A factor costs no accuracy, not at the label's entry of a confident row either."""
    rng = np.random.default_rng(8)
    x = np.empty((100_000, 2), dtype=dtype)
    x[:, 0] = rng.uniform(-4, 4, len(x))
    x[:, 1] = x[:, 0] + rng.uniform(-30, 0, len(x))
    labels = np.zeros(len(x), dtype=np.int64)
    gradient = ref.Rows(x).gradient(labels) * ref.WIDE(factor)
    _, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="sum", grad_output=factor)
    ref.assert_close(grad, gradient, BOUND[np.dtype(dtype)], what="sum")
    _, grad = lk.cross_entropy_value_and_grad(x[:77_777], labels[:77_777], grad_output=factor)
    ref.assert_close(grad, gradient[:77_777] / 77_777, BOUND[np.dtype(dtype)], what="mean")


@pytest.mark.parametrize("dtype", VECTORISED)
def test_probabilities_of_any_size(dtype: Any, rng: np.random.Generator) -> None:
    """Labels that sum to the smallest or to very large numbers lose no digits."""
    info = np.finfo(dtype)
    for size in np.geomspace(float(info.tiny) * 4, float(info.max) / 1e4, 41):
        for c in (1, 2, 7, 40, 300):
            x = rng.normal(0, 3, (20, c)).astype(dtype)
            t = (rng.uniform(0, 1, x.shape) * size).astype(dtype)
            true_loss, true_gradient, scale = ref.cross_entropy_soft(x, t)
            loss, grad = lk.cross_entropy_value_and_grad(x, t, reduction="none")
            ref.assert_close(loss, true_loss, BOUND[np.dtype(dtype)], what=f"{c}, {size:g}")
            ref.assert_close(grad, true_gradient, BOUND[np.dtype(dtype)], scale, f"{c}, {size:g}")


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("c", [2, 5, 10, 30])
def test_errors_of_equal_terms_add_up(c: int, dtype: Any, rng: np.random.Generator) -> None:
    """Nearly equal logits have nearly equal rounding errors, which no sum averages out."""
    x = rows.close(rng, 20_000, c, dtype)
    truth = ref.Rows(x)
    scale = lse_scale(truth.lse, x)
    ref.assert_close(lk.logsumexp(x, 1), truth.lse, BOUND_LOGSUMEXP[np.dtype(dtype)], scale)
    ref.assert_close(lk.softmax(x, 1), truth.softmax, BOUND[np.dtype(dtype)])
    ref.assert_close(lk.log_softmax(x, 1), truth.log_softmax, BOUND[np.dtype(dtype)])


@pytest.mark.parametrize(
    "row", [[3.6870524883270264, -16.42259979248047], [1.7655987739562988, -12.844527244567871]]
)
def test_float32_rows_found_by_search(row: list[float]) -> None:
    x = np.array(row, dtype=np.float32)
    assert ref.mp_ulp_error(lk.softmax(x), ref.mp_row(x)["softmax"]) <= 3


def test_float64_row_found_by_search() -> None:
    x = [-0.5636580517060585 - i * 2.0**-53 for i in (0, 1, -1, 5, 1, 3, 5, 1, 1, 0)]
    truth = ref.mp_row(x)["lse"]
    assert ref.mp_ulp_error(np.float64(lk.logsumexp(x)), truth) <= 2


# --- logsumexp with factors ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", VECTORISED)
def test_logsumexp_with_factors(dtype: Any, rng: np.random.Generator) -> None:
    bound = BOUND_LOGSUMEXP[np.dtype(dtype)]
    for c in (1, 2, 7, 33, 300):
        a = rng.normal(0, 10, (20, c)).astype(dtype)
        b = rng.uniform(0.1, 10, (20, c)).astype(dtype)
        truth = ref.logsumexp(a, 1, b)
        scale = np.maximum(np.abs(truth), np.maximum(np.abs(a).max(axis=1), 3))
        ref.assert_close(lk.logsumexp(a, 1, b), truth, bound, scale, what=f"{c} classes")
        got = lk.logsumexp(a, axis=1, b=b, keepdims=True)
        assert got.shape == (20, 1)
        ref.assert_close(got[:, 0], truth, bound, scale, what=f"{c} classes, keepdims")


def test_factors_that_span_magnitudes() -> None:
    """The shift is the maximum of ``a + log(b)``, not that of ``a``."""
    a, b = np.array([0.0, -800.0]), np.array([1e-320, 1e300])
    truth = ref.mp_logsumexp(a, b)
    assert mpmath.nstr(truth, 4) == "-109.2"
    assert ref.mp_ulp_error(lk.logsumexp(a, b=b), truth, mpmath.mpf(800)) <= 2


def test_factors_of_either_sign() -> None:
    a, b = [1.0, 2.0, 3.0], [1.0, 1.0, -1.0]
    value, sign = lk.logsumexp(a, b=b, return_sign=True)
    total = np.exp(1.0) + np.exp(2.0) - np.exp(3.0)
    assert sign == -1
    assert value == pytest.approx(np.log(-total), rel=1e-14)
    value, sign = lk.logsumexp(a, b=[1.0, -1.0, 1.0], return_sign=True)
    assert sign == 1
    assert value == pytest.approx(np.log(np.exp(1.0) - np.exp(2.0) + np.exp(3.0)), rel=1e-14)
    assert np.isnan(lk.logsumexp(a, b=b))
    assert lk.logsumexp([1.0, 1.0], b=[1.0, -1.0]) == -np.inf


def test_sign_without_factors() -> None:
    value, sign = lk.logsumexp(np.array([[1.0, 2.0], [-np.inf, -np.inf]]), 1, return_sign=True)
    assert value[0] == lk.logsumexp([1.0, 2.0])
    assert value[1] == -np.inf
    assert sign.tolist() == [1, 0]


def test_factor_zero_removes_a_term() -> None:
    a = np.array([1.0, 500.0, 2.0])
    got = lk.logsumexp(a, b=[1.0, 0.0, 1.0])
    assert got == pytest.approx(float(lk.logsumexp([1.0, 2.0])), rel=1e-15)


def test_small_logsumexp_is_not_lost() -> None:
    """Beside a maximum of 0 the result is the sum of the others, however small."""
    for dtype, rel in ((np.float32, 3e-7), (np.float64, 1e-15)):
        got = lk.logsumexp(np.array([0, -40], dtype=dtype))
        assert got == pytest.approx(np.exp(-40.0), rel=rel)


# --- reductions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("c", [2, 3, 10, 65, 1000])
def test_reduced_cross_entropy(c: int, dtype: Any, rng: np.random.Generator) -> None:
    n = 30000 // c
    bound = BOUND[np.dtype(dtype)]
    x = rng.normal(0, 5, (n, c)).astype(dtype)
    labels = rng.integers(0, c, n)
    labels[rng.random(n) < 0.1] = -100
    counted = int((labels != -100).sum())
    loss, gradient = ref.cross_entropy(x, labels, ignore_index=-100)
    for reduction, divisor in (("mean", counted), ("sum", 1)):
        got, grad = lk.cross_entropy_value_and_grad(x, labels, reduction=reduction)
        ref.assert_close(got, loss.sum() / divisor, bound, what=reduction)
        ref.assert_close(grad, gradient / divisor, bound, what=f"{reduction} gradient")
        again, grad = lk.cross_entropy_value_and_grad(
            x, labels, reduction=reduction, grad_output=-0.375
        )
        assert again == got
        ref.assert_close(
            grad, gradient * ref.WIDE(-0.375) / divisor, bound, what=f"{reduction} scaled"
        )
    factor = rng.normal(0, 1, n).astype(dtype)
    _, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="none", grad_output=factor)
    ref.assert_close(grad, gradient * factor.astype(ref.WIDE)[:, None], bound, what="rows scaled")


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("c", [2, 10, 257])
def test_reduced_cross_entropy_of_probabilities(
    c: int, dtype: Any, rng: np.random.Generator
) -> None:
    n = 20000 // c
    bound = BOUND[np.dtype(dtype)]
    x = rng.normal(0, 5, (n, c)).astype(dtype)
    t = rng.uniform(0, 1, (n, c)).astype(dtype)
    loss, gradient, scale = ref.cross_entropy_soft(x, t)
    for reduction, divisor in (("mean", n), ("sum", 1)):
        got, grad = lk.cross_entropy_value_and_grad(x, t, reduction=reduction)
        ref.assert_close(got, loss.sum() / divisor, bound, what=reduction)
        ref.assert_close(grad, gradient / divisor, bound, scale / divisor, what="gradient")


@pytest.mark.parametrize("dtype", VECTORISED)
def test_mean_of_many_losses(dtype: Any, rng: np.random.Generator) -> None:
    n, c = 200_000, 3
    x = rng.normal(0, 3, (n, c)).astype(dtype)
    x[:, 1] += 20
    labels = np.ones(n, dtype=np.int64)
    labels[:5] = 0
    truth = ref.cross_entropy(x, labels)[0].mean()
    ref.assert_close(lk.cross_entropy(x, labels), truth, BOUND[np.dtype(dtype)])


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize(
    "shape", [(1,), (2,), (15,), (16,), (17,), (63,), (65,), (4095,), (4097,), (3, 1000), (9, 5, 7)]
)
def test_mse(shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> None:
    bound = BOUND[np.dtype(dtype)]
    for size in (1.0, 1e-12, 1e12):
        pred = (size * rng.normal(0, 1, shape)).astype(dtype)
        target = (size * rng.normal(0, 1, shape)).astype(dtype)
        target.reshape(-1)[::3] = np.nextafter(pred, np.asarray(np.inf, dtype)).reshape(-1)[::3]
        loss, gradient = ref.mse(pred, target)
        for reduction, divisor in (("mean", loss.size), ("sum", 1)):
            got, grad = lk.mse_loss_value_and_grad(pred, target, reduction=reduction)
            assert got.dtype == grad.dtype == dtype
            assert lk.mse_loss(pred, target, reduction=reduction) == got
            ref.assert_close(got, loss.sum() / divisor, bound, what=reduction)
            ref.assert_close(grad, gradient / divisor, bound, what=f"{reduction} gradient")
            _, grad = lk.mse_loss_value_and_grad(
                pred, target, reduction=reduction, grad_output=1.75
            )
            ref.assert_close(grad, gradient * ref.WIDE(1.75) / divisor, bound, what="scaled")
        got, grad = lk.mse_loss_value_and_grad(pred, target, reduction="none")
        ref.assert_close(got, loss, bound, what="none")
        ref.assert_close(grad, gradient, bound, what="none gradient")
        factor = rng.normal(0, 1, shape).astype(dtype)
        _, grad = lk.mse_loss_value_and_grad(pred, target, reduction="none", grad_output=factor)
        ref.assert_close(grad, gradient * factor.astype(ref.WIDE), bound, what="elements scaled")


@pytest.mark.parametrize("dtype", VECTORISED)
def test_mse_of_many(dtype: Any, rng: np.random.Generator) -> None:
    pred = rng.normal(100, 1, 1_000_003).astype(dtype)
    target = rng.normal(-100, 1, pred.shape).astype(dtype)
    truth = ref.mse(pred, target)[0]
    bound = BOUND[np.dtype(dtype)]
    ref.assert_close(lk.mse_loss(pred, target), truth.mean(), bound)
    ref.assert_close(lk.mse_loss(pred, target, reduction="sum"), truth.sum(), bound)


@pytest.mark.parametrize(
    ("dtype", "large"), [(np.float32, 2e19), (np.float64, 1.5e154)], ids=["float32", "float64"]
)
def test_mse_when_a_square_overflows(dtype: Any, large: float) -> None:
    """The mean of four is finite although the first square is not."""
    pred = np.array([large, 0, 0, 1], dtype=dtype)
    target = np.zeros(4, dtype=dtype)
    got = lk.mse_loss(pred, target)
    assert ref.mp_ulp_error(got, ref.mp_mse(pred, target)) <= BOUND[np.dtype(dtype)]


@pytest.mark.parametrize(
    ("dtype", "small"), [(np.float32, 2e-23), (np.float64, 1.4e-162)], ids=["float32", "float64"]
)
def test_mse_when_every_square_underflows(dtype: Any, small: float) -> None:
    """The sum of ten thousand is above the smallest number although no square is."""
    pred = np.full(10000, small, dtype=dtype)
    got = lk.mse_loss(pred, np.zeros(10000, dtype=dtype), reduction="sum")
    with mpmath.workprec(ref.BITS):
        truth = mpmath.mpf(float(pred[0])) ** 2 * 10000
    assert got > 0
    assert ref.mp_ulp_error(got, truth) <= BOUND[np.dtype(dtype)]


# --- well-known numbers --------------------------------------------------------------------------


def test_softmax_of_one_two_three() -> None:
    assert str(lk.softmax([1, 2, 3])) == "[0.09003057 0.24472847 0.66524096]"
    assert lk.softmax([1, 2, 3]).round(8).tolist() == [0.09003057, 0.24472847, 0.66524096]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.1, 0.15, 0.05, 0.6, 0.1], 0.6),
        ([0.15, 0.2, 0.4, 0.1, 0.15], 0.1),
        ([0.05, 0.15, 0.4, 0.3, 0.1], 0.3),
    ],
)
def test_cross_entropy_of_log_probabilities(probabilities: list[float], expected: float) -> None:
    logits = np.log(probabilities)
    assert lk.cross_entropy(logits, 3) == pytest.approx(-np.log(expected), rel=2e-15)
    assert lk.cross_entropy(logits[None], [3]) == pytest.approx(-np.log(expected), rel=2e-15)


def test_three_log_probabilities_together() -> None:
    rows_ = [[0.1, 0.15, 0.05, 0.6, 0.1], [0.15, 0.2, 0.4, 0.1, 0.15], [0.05, 0.15, 0.4, 0.3, 0.1]]
    losses = lk.cross_entropy(np.log(rows_), [3, 3, 3], reduction="none")
    expected = -np.log([0.6, 0.1, 0.3])
    np.testing.assert_allclose(losses, expected, rtol=2e-15, atol=0)
    assert lk.cross_entropy(np.log(rows_), [3, 3, 3]) == pytest.approx(expected.mean(), rel=2e-15)


@pytest.mark.parametrize("margin", [15, 17, 30, 60, 87])
def test_confident_float32_row(margin: int) -> None:
    logits = np.array([[margin, 0, 0]], dtype=np.float32)
    loss, grad = lk.cross_entropy_value_and_grad(logits, [0])
    with mpmath.workprec(ref.BITS):
        total = 1 + 2 * mpmath.exp(-margin)
        others = float(mpmath.exp(-margin) / total)
        expected = float(mpmath.log(total))
    assert loss == pytest.approx(expected, rel=3.6e-7, abs=0)
    assert grad[0].tolist() == pytest.approx([-2 * others, others, others], rel=3.6e-7, abs=0)


def test_losing_row_of_the_same_margin() -> None:
    loss, grad = lk.cross_entropy_value_and_grad(np.array([[87, 0, 0]], dtype=np.float32), [1])
    assert loss == 87
    assert grad[0, :2].tolist() == [1, -1]
    assert grad[0, 2] == pytest.approx(np.exp(-87.0), rel=3.6e-7)


def test_saturated_uint8_logits() -> None:
    """Integers are computed as float64, not in their own type, where 0 - 255 would be 1."""
    got = lk.softmax(np.array([0, 255, 1], dtype=np.uint8))
    assert got.dtype == np.float64
    truth = ref.mp_row([0, 255, 1])["softmax"]
    assert ref.mp_ulp_error(got, truth) <= 4


@pytest.mark.parametrize("classes", [70_000, 1_000_000])
def test_many_equal_classes(classes: int) -> None:
    x = np.zeros(classes, dtype=np.float32)
    assert ref.ulp_error(lk.softmax(x)[[0, -1]], 1 / ref.WIDE(classes)).max() <= 3
    assert ref.ulp_error(lk.cross_entropy(x, 5), np.log(ref.WIDE(classes))) <= 3
    assert ref.ulp_error(lk.logsumexp(x), np.log(ref.WIDE(classes))) <= 1.5
    assert lk.softmax(x.astype(np.float16))[0] == np.float16(1 / classes)
    assert lk.logsumexp(x.astype(np.float16)) == np.float16(np.log(classes))


# --- means over many -----------------------------------------------------------------------------

MANY = 100_000_000


@pytest.mark.parametrize("dtype", VECTORISED)
def test_mse_over_many(dtype: Any) -> None:
    """One large square before very many small ones, which together are as large."""
    rng = np.random.default_rng(9)
    block = rng.integers(-4096, 4096, 10_000)
    pred = np.tile((block / 4096).astype(dtype), MANY // block.size)
    pred[0] = 8192
    # Multiples of a power of two: the sum of their squares is exact in integers.
    squares = int(np.sum(block * block)) * (MANY // block.size) - int(block[0]) ** 2 + (1 << 50)
    truth = ref.WIDE(squares) / ref.WIDE(1 << 24) / MANY
    loss = lk.mse_loss(pred, np.zeros(MANY, dtype))
    ref.assert_close(loss, truth, 1, what="mse")


@pytest.mark.parametrize("dtype", VECTORISED)
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_over_many(soft: bool, dtype: Any) -> None:
    """Losses from 4e-9 to 2e4 over so many rows that a running sum would lose most of them."""
    rng = np.random.default_rng(10)
    block = rng.normal((5, 0), 10, (5000, 2)).astype(dtype)
    block[0] = -10_000, 10_000
    repeats = MANY // block.size
    x = np.tile(block, (repeats, 1))
    labels = np.zeros(len(x), np.uint8)
    truth = ref.Rows(block).loss(labels[: len(block)]).sum() / len(block)
    if soft:
        certain = np.tile(np.array([[1, 0]], dtype), (len(x), 1))
        ref.assert_close(lk.cross_entropy(x, certain), truth, 1, what="probabilities")
    else:
        ref.assert_close(lk.cross_entropy(x, labels), truth, 1, what="class numbers")


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"class_weight": 1.0}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiny_probabilities_as_labels(
    options: dict[str, Any], dtype: Any, rng: np.random.Generator
) -> None:
    """Their losses have all the digits that a number of that size has."""
    bound = BOUND[np.dtype(dtype)]
    smallest = np.finfo(dtype).smallest_subnormal
    for classes in (2, 9, 40, 300):
        x = np.concatenate([rng.normal(0, 2, (40, classes)), np.full((20, classes), 0.5)])
        x = x.astype(dtype)
        x[-10:, 0] = 1.75
        for size in (5, 2.0**20, 2.0**40, 2.0**60):
            t = (np.ceil(rng.uniform(0, size, x.shape)) * smallest).astype(dtype)
            loss, gradient, scale = ref.cross_entropy_soft(x, t)
            given = {
                k: np.full(len(x) if k == "temperature" else classes, v, dtype)
                for k, v in options.items()
            }
            for axis, a, b in ((1, x, t), (0, x.T.copy(), t.T.copy())):
                got, grad = lk.cross_entropy_value_and_grad(
                    a, b, axis=axis, reduction="none", **given
                )
                ref.assert_close(got, loss, bound, what=f"loss {classes}, {size}")
                grad = grad if axis == 1 else grad.T
                ref.assert_close(grad, gradient, bound, scale, what=f"{classes}, {size}")


def test_probabilities_of_both_signs_whose_sum_is_tiny() -> None:
    """Not a use that is foreseen, but no reason for NaN."""
    t = np.zeros((1, 8))
    t[0, [0, 4, 2]] = 1e200, -1e200, 1e-300
    x = np.arange(8.0)[None]
    for options in ({}, {"temperature": [1.0]}, {"class_weight": np.ones(8)}):
        assert lk.cross_entropy(x, t, reduction="none", **options) == pytest.approx(4e200)
        assert lk.cross_entropy(x.T, t.T, axis=0, **options) == pytest.approx(4e200)
