"""The two references agree with each other, and the distance in ulp is what it claims to be."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import reference as ref
import rows

needs_extended = pytest.mark.skipif(not ref.EXTENDED, reason="longdouble is float64 here")
FINITE = [name for name in rows.FAMILIES if name not in ("masked_infinity", "huge")]


def relative(wide: Any, exact: mpmath.mpf, scale: Any = None) -> float:
    """Return the error of a longdouble relative to ``scale``; what rounds to 0 counts as 0."""
    with mpmath.workprec(ref.BITS):
        size = max(abs(exact if scale is None else scale), mpmath.mpf("1e-400"))
        return float(abs(mpmath.mpf(str(wide)) - exact) / size)


@needs_extended
@pytest.mark.parametrize("family", FINITE)
def test_longdouble_against_mpmath(family: str) -> None:
    rng = np.random.default_rng(1)
    limit = 4e-18
    for c in (1, 2, 5, 12):
        x = rows.FAMILIES[family](rng, 3, c, np.float64)
        other = rng.normal(0, 1, x.shape)
        t = rng.random(x.shape)
        labels = rng.integers(0, c, 3)
        p, log_p, lse = ref.softmax(x, 1), ref.log_softmax(x, 1), ref.logsumexp(x, 1)
        loss, gradient = ref.cross_entropy(x, labels)
        soft_loss, soft_gradient, soft_scale = ref.cross_entropy_soft(x, t)
        backward, scale = ref.softmax_backward(other, t, 1)
        for i, row in enumerate(x):
            truth = ref.mp_row(row)
            top = mpmath.mpf(float(np.abs(row).max()))
            assert relative(lse[i], truth["lse"], max(top, abs(truth["lse"]), 1)) < limit
            hard = ref.mp_cross_entropy(row, labels[i])
            soft = ref.mp_cross_entropy_soft(row, t[i])
            assert relative(loss[i], hard[0]) < limit
            assert relative(soft_loss[i], soft[0]) < limit
            vjp = ref.mp_softmax_backward(other[i], t[i])
            for j in range(c):
                assert relative(p[i, j], truth["softmax"][j]) < limit
                assert relative(log_p[i, j], truth["log_softmax"][j]) < limit
                assert relative(gradient[i, j], hard[1][j]) < limit
                wide = mpmath.mpf(str(soft_scale[i, j]))
                assert relative(soft_gradient[i, j], soft[1][j], wide) < limit
                wide = mpmath.mpf(str(scale[i, j]))
                assert relative(backward[i, j], vjp[j], wide) < limit


@needs_extended
def test_backward_references_against_mpmath() -> None:
    rng = np.random.default_rng(2)
    a, grad = rng.normal(0, 30, (4, 6)), rng.normal(0, 1, (4, 6))
    lse = np.log(np.sum(np.exp(a), axis=1))
    first = ref.logsumexp_backward(grad[:, 0], a, lse, 1)
    y = a - lse[:, None]
    second, scale = ref.log_softmax_backward(grad, y, 1)
    for i in range(4):
        exact = ref.mp_logsumexp_backward(grad[i, 0], a[i], lse[i])
        vjp = ref.mp_log_softmax_backward(grad[i], y[i])
        for j in range(6):
            assert relative(first[i, j], exact[j]) < 4e-18
            assert relative(second[i, j], vjp[j], mpmath.mpf(str(scale[i, j]))) < 4e-18


def test_known_values() -> None:
    assert ref.mp_ulp_error(np.float32(np.log(2)), ref.mp_row([0, 0])["lse"]) <= 0.5
    with mpmath.workprec(ref.BITS):
        exact = mpmath.log(1 + mpmath.exp(-700))
    loss, gradient = ref.mp_cross_entropy([700, 0], 0)
    with mpmath.workprec(ref.BITS):
        assert abs(loss - exact) < exact * mpmath.mpf("1e-300")
        assert abs(gradient[0] + gradient[1]) < gradient[1] * mpmath.mpf("1e-300")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ulp_is_the_spacing(dtype: npt.DTypeLike) -> None:
    info = np.finfo(dtype)
    values = np.array(
        [1, 1.5, 0.75, 3, 1e10, 1e-30, info.tiny, info.tiny / 2, info.smallest_subnormal, 0],
        dtype=dtype,
    )
    assert np.array_equal(ref.ulp(values, dtype).astype(dtype), np.spacing(values))
    assert ref.ulp(info.max, dtype) == np.longdouble(info.max) - np.nextafter(info.max, dtype(0))


def test_ulp_error_of_special_values() -> None:
    inf, nan, largest = np.inf, np.nan, float(np.finfo(np.float32).max)
    actual = np.array([nan, nan, 1, inf, -inf, inf, inf, 0, largest, -0.0], dtype=np.float32)
    truth = np.array([nan, 1, nan, inf, inf, 1, 1e39, 1e-50, largest, 0.0])
    got = ref.ulp_error(actual, truth)
    assert got.tolist()[:7] == [0, inf, inf, 0, inf, inf, 0]
    assert got[7] < 1e-4
    assert got.tolist()[8:] == [0, 0]
    assert ref.ulp_error(np.float32(largest), 1e39) > 1e6
    assert ref.ulp_error(np.float64(1), 1 + 2.0**-52) == 1
    assert ref.ulp_error(np.float32(2), 1, scale=4) == 2.0**21
    assert ref.mp_ulp_error(np.float64(1), mpmath.mpf(1 + 2.0**-52)) == 1
    assert ref.mp_ulp_error(np.float64(2.0**-1074), mpmath.mpf(0)) == 1


def test_assert_close_fails_when_it_should() -> None:
    with pytest.raises(AssertionError, match=r"loss: 2 ulp at \(1,\), allowed 1"):
        ref.assert_close(np.array([1.0, 1.0]), [1.0, 1 + 2.0**-51], 1, what="loss")
    with pytest.raises(AssertionError, match="shape"):
        ref.assert_close(np.zeros(2), np.zeros(3), 1)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (-1, 0), (2, 1), (0, 1, 2)])
def test_rows_and_back(axis: ref.Axis) -> None:
    x = np.arange(24).reshape(2, 3, 4)
    lines = ref.as_rows(x, axis)
    assert lines.ndim == 2
    assert np.array_equal(ref.from_rows(lines, x.shape, axis), x)
    assert np.array_equal(lines.sum(axis=1).reshape(ref.batch_shape(x.shape, axis)), x.sum(axis))
    assert ref.batch_shape(x.shape, axis, keepdims=True) == x.sum(axis, keepdims=True).shape
