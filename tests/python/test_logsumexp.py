"""logsumexp and its gradient with weights, masks, signs and dtypes, against mpmath."""

from __future__ import annotations

from typing import Any

import layouts
import logitkit as lk
import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import reference as ref
from layouts import assert_same_bits
from logitkit import _logitkit_core as core

Array = npt.NDArray[Any]

INF, NAN = np.inf, np.nan
BITS = 1800  # exact for sums of float64 terms that differ by a factor of e^1000
BOUNDS = {np.float32: 1.5, np.float64: 2.0}

both = pytest.mark.parametrize("dtype", BOUNDS)


# --- accuracy ------------------------------------------------------------------------------------


def weights(family: str, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return `a` and `b` of one row."""
    a = rng.normal(0, rng.choice([1e-3, 1, 10, 100]), n)
    match family:
        case "ordinary":
            b = rng.uniform(0, 2, n)
        case "counts":
            b = rng.integers(0, 5, n).astype(float)
        case "ones":
            b = np.ones(n)
        case "cancelling":  # a + log(b) is nearly 0
            b = np.exp(rng.uniform(-2, 2, n))
            a = -np.log(b) + rng.normal(0, 1e-3, n)
        case "normal":
            b = rng.normal(0, 1, n)
        case "opposite":  # every weight with its negative, but for a little
            b = np.repeat(rng.normal(0, 1, n), 2)[:n]
            b[1::2] *= -1
            a = np.repeat(a, 2)[:n]
            b[0] *= 1 + 1e-6
        case _:  # "magnitudes", "signed magnitudes"
            b = np.exp(rng.uniform(-80, 80, n))
            a = rng.uniform(-1, 0.5) * np.log(b) + a
            if family.startswith("signed"):
                b *= rng.choice([-1, 1], n)
    b[rng.random(n) < 0.1] = 0
    return a, b


FAMILIES = [
    "ordinary",
    "counts",
    "ones",
    "cancelling",
    "normal",
    "opposite",
    "magnitudes",
    "signed magnitudes",
]


def truth(a: Array, b: Array) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Return sum(b exp(a)) and sum(|b| exp(a))."""
    pairs = zip(a, b, strict=True)
    terms = [mpmath.mpf(float(w)) * mpmath.exp(mpmath.mpf(float(v))) for v, w in pairs]
    return mpmath.fsum(terms), mpmath.fsum(abs(term) for term in terms)


def units(got: Any, want: mpmath.mpf, scale: mpmath.mpf) -> float:
    """Return |got - want| in units in the last place of `scale`."""
    unit = mpmath.ldexp(1, int(mpmath.frexp(scale)[1]) - 1 - np.finfo(got.dtype).nmant)
    return float(abs(mpmath.mpf(float(got)) - want) / unit)


@both
@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_with_weights(family: str, dtype: Any, rng: np.random.Generator) -> None:
    worst = 0.0
    with mpmath.workprec(BITS):
        for _ in range(60):
            a, b = (v.astype(dtype) for v in weights(family, int(rng.integers(1, 20)), rng))
            value, sign = lk.logsumexp(a, b=b, return_sign=True)
            total, size = truth(a, b)
            if size == 0:
                assert (value, sign) == (-INF, 0)
            if abs(total) <= 64 * np.finfo(np.float64).eps * size:  # no digit is left
                continue
            assert sign == mpmath.sign(total), (a, b)
            log = mpmath.log(abs(total))
            scale = max(abs(log), *(abs(mpmath.mpf(float(v))) for v in a), mpmath.mpf(1))
            worst = max(worst, units(value, log, scale) * float(abs(total) / size))
            assert_same_bits(lk.logsumexp(a, b=b), value if sign >= 0 else dtype(NAN))
    assert worst <= BOUNDS[dtype]


@both
def test_accuracy_of_many_weights(dtype: Any, rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 5, 50_000).astype(dtype), rng.normal(0.1, 1, 50_000).astype(dtype)
    for weight in (b, abs(b)):
        wide = weight * np.exp(a.astype(np.longdouble))
        want = np.log(abs(wide.sum()))
        value, sign = lk.logsumexp(a, b=weight, return_sign=True)
        assert sign == np.sign(wide.sum())
        assert abs(float(value - want)) <= 8 * np.finfo(dtype).eps * abs(wide).sum() / abs(
            wide.sum()
        )


def test_weights_that_span_magnitudes() -> None:
    """The shift is the largest a + log|b|, not the largest a."""
    assert lk.logsumexp([0, -800], b=[1e-320, 1e300]) == pytest.approx(-109.22447210178632)
    value, sign = lk.logsumexp([0, -800], b=[1e-320, -1e300], return_sign=True)
    assert value == pytest.approx(-109.22447210178632)
    assert sign == -1
    assert lk.logsumexp([700.0, 0.0], b=[1e-300, 1.0]) == pytest.approx(9.2245706936914)
    for sign in (1, -1):
        huge = lk.logsumexp(np.zeros(100), b=np.full(100, sign * 1.7e308), return_sign=True)
        assert huge == (pytest.approx(np.log(1.7e308) + np.log(100)), sign)
        tiny = lk.logsumexp([0.0] * 3, b=[sign * 5e-324] * 3, return_sign=True)
        assert tiny == (pytest.approx(np.log(5e-324) + np.log(3)), sign)


@both
def test_equal_terms_cancel_exactly(dtype: Any) -> None:
    for a in (0.3, 1000.0, -5e4):
        row = np.full(3, a, dtype=dtype)
        for b in ([3, -2, -1], [0.1, -0.1, 0], [1e30, -2e30, 1e30]):
            got = lk.logsumexp(row, b=np.array(b, dtype=dtype), return_sign=True)
            assert got == (-INF, 0)
            assert lk.logsumexp(row, b=np.array(b, dtype=dtype)) == -INF


@both
def test_what_others_add_to_a_dominant_term(dtype: Any) -> None:
    for b in ([1, 1], [1, -1], [-1, 1], [-1, -1]):
        value, sign = lk.logsumexp(np.array([0, -40], dtype=dtype), b=b, return_sign=True)
        rest = b[0] * b[1] * np.exp(-40.0)
        assert value == pytest.approx(rest, rel=1e-6)
        assert sign == b[0]


@both
@pytest.mark.parametrize("distance", [1, 40, 100, 700, 740])
@pytest.mark.usefixtures("keep_settings")
def test_what_is_left_when_the_largest_terms_cancel(distance: float, dtype: Any) -> None:
    """Down to a subnormal share of the largest term, with the same bits at every level."""
    row = np.array([[3, 3, 3 - distance], [3, 3 - distance, 3]], dtype=dtype)
    b = np.array([[2, -2, 1], [-2, 1, 2]], dtype=dtype)
    results = []
    for level in core.simd_levels():
        core.set_simd_level(level)
        results.append(lk.logsumexp(row, 1, b, return_sign=True))
    value, sign = results[0]
    # (A subnormal share has few digits.)
    rtol = 4 * np.finfo(dtype).eps if distance <= 700 else 1e-4
    np.testing.assert_allclose(value, 3 - distance, rtol=rtol)
    assert sign.tolist() == [1, 1]
    for other in results[1:]:
        assert_same_bits(other[0], value)
        assert_same_bits(other[1], sign)


@pytest.mark.parametrize(("dtype", "eps"), [(np.complex64, 6e-8), (np.complex128, 1e-15)])
def test_complex_weights_that_span_magnitudes(dtype: Any, eps: float) -> None:
    """complex64 is computed in complex128: a weight beyond float32 is no infinity."""
    for weight in (1e-300, 1e300):
        value, phase = lk.logsumexp(np.array([0, 1], dtype=dtype), b=weight, return_sign=True)
        assert value == pytest.approx(np.log(weight) + np.log(1 + np.e), rel=eps)
        assert phase == 1


# --- special values ------------------------------------------------------------------------------

SPECIAL: dict[str, tuple[list[float], list[float], float, float]] = {
    "weight 0 drops NaN": ([NAN, 1], [0, 1], 1, 1),
    "weight 0 drops +inf": ([INF, 1], [0, 1], 1, 1),
    "weight -0 drops -inf": ([-INF, 1], [-0.0, 1], 1, 1),
    "weight 0 drops NaN beside a negative weight": ([NAN, 1, 0], [0, -1, 0], 1, -1),
    "all weights 0": ([NAN, INF, 3], [0, 0, 0], -INF, 0),
    "-inf adds nothing": ([-INF, 1], [5, 1], 1, 1),
    "-inf adds nothing, negative weight": ([-INF, 1], [-5, 1], 1, 1),
    "all -inf": ([-INF, -INF], [1, 2], -INF, 0),
    "all -inf, negative weight": ([-INF, -INF], [1, -2], -INF, 0),
    "+inf": ([INF, 1], [2, 1], INF, 1),
    "+inf, negative weight": ([INF, 1], [-2, 1], INF, -1),
    "+inf of both signs": ([INF, INF], [1, -1], NAN, NAN),
    "infinite weight": ([0, 1], [INF, 1], INF, 1),
    "infinite negative weight": ([0, 1], [-INF, 1], INF, -1),
    "infinite weight of -inf": ([-INF, 1], [INF, 1], NAN, NAN),
    "infinite negative weight of -inf": ([-INF, 1], [-INF, 1], NAN, NAN),
    "NaN": ([NAN, 1], [1, 1], NAN, NAN),
    "NaN, negative weight": ([NAN, 1], [1, -1], NAN, NAN),
    "NaN wins over +inf": ([NAN, INF], [1, 1], NAN, NAN),
    "NaN wins over +inf, negative weight": ([NAN, INF], [1, -1], NAN, NAN),
    "NaN weight": ([0, 1], [NAN, 1], NAN, NAN),
    "NaN weight beside a negative one": ([0, 1], [NAN, -1], NAN, NAN),
}


@both
@pytest.mark.parametrize(("a", "b", "value", "sign"), SPECIAL.values(), ids=SPECIAL)
def test_special_values(
    a: list[float], b: list[float], value: float, sign: float, dtype: Any
) -> None:
    row, weight = np.array(a, dtype=dtype), np.array(b, dtype=dtype)
    got = lk.logsumexp(row, b=weight, return_sign=True)
    assert_same_bits(got[0], dtype(value))
    assert_same_bits(got[1], dtype(sign))
    assert_same_bits(lk.logsumexp(row, b=weight), dtype(NAN if sign < 0 else value))
    wide = lk.logsumexp(row.astype(np.longdouble), b=weight, return_sign=True)
    np.testing.assert_array_equal(wide, (value, sign))


@pytest.mark.parametrize(
    ("a", "value", "sign"),
    [([1, 2], None, 1), ([-INF, -INF], -INF, 0), ([INF, 0], INF, 1), ([NAN, INF], NAN, NAN)],
)
def test_sign_without_weights(a: list[float], value: float | None, sign: float) -> None:
    got = lk.logsumexp(a, return_sign=True)
    np.testing.assert_array_equal(got[0], lk.logsumexp(a) if value is None else value)
    np.testing.assert_array_equal(got[1], sign)


# --- shapes, dtypes and bits ---------------------------------------------------------------------


@both
def test_a_row_does_not_depend_on_the_others(dtype: Any, rng: np.random.Generator) -> None:
    """Rows with negative weights are computed in another way than rows without."""
    a, b = rng.normal(0, 9, (50, 33)).astype(dtype), rng.normal(0, 1, (50, 33)).astype(dtype)
    b[::2] = abs(b[::2])
    value, sign = lk.logsumexp(a, 1, b, return_sign=True)
    for i in range(len(a)):
        got = lk.logsumexp(a[i], 0, b[i], return_sign=True)
        assert_same_bits(got[0], value[i])
        assert_same_bits(got[1], sign[i])


@pytest.mark.parametrize("layout", layouts.ALL)
@both
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 9, (4, 6, 5)).astype(dtype), rng.normal(0, 1, (4, 6, 5)).astype(dtype)
    mask, change = rng.random((4, 6, 5)) < 0.7, layouts.ALL[layout]
    for axis in (None, 0, 1, -1, (0, 2), (2, 0), (0, 1, 2), ()):
        for options in ({"b": b}, {"b": abs(b)}, {"where": mask}, {"b": b, "where": mask}):
            moved = {name: change(value) for name, value in options.items()}
            got = lk.logsumexp(change(a), axis, return_sign=True, **moved)
            want = lk.logsumexp(a, axis, return_sign=True, **options)
            assert_same_bits(got[0], want[0], str(axis))
            assert_same_bits(got[1], want[1], str(axis))


def test_axes_and_broadcasting(rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 3, (4, 1, 2, 1)), rng.normal(0, 1, (3, 1, 5))
    full = np.exp(a) * b
    for axis in (None, 0, -1, (1, 3), (0, 1, 2, 3)):
        for keepdims in (False, True):
            value, sign = lk.logsumexp(a, axis, b, keepdims, True)
            want = full.sum(axis, keepdims=keepdims)
            assert value.shape == sign.shape == want.shape
            np.testing.assert_allclose(sign * np.exp(value), want, rtol=1e-10, atol=1e-10)


def test_zero_dimensional_and_empty() -> None:
    assert lk.logsumexp(2.0, b=3) == pytest.approx(2 + np.log(3))
    assert np.shape(lk.logsumexp(2.0, b=3, keepdims=True)) == ()
    assert lk.logsumexp(2.0, where=False) == -INF
    assert lk.logsumexp(2.0, b=-1, return_sign=True) == (2, -1)
    for shape, axis, result in (((0,), None, ()), ((3, 0), 1, (3,)), ((0, 3), 1, (0,))):
        for options in ({"b": np.ones(shape)}, {"where": np.ones(shape, bool)}, {}):
            value, sign = lk.logsumexp(np.ones(shape), axis, return_sign=True, **options)
            assert_same_bits(value, np.full(result, -INF))
            assert_same_bits(sign, np.zeros(result))


@pytest.mark.parametrize("a", ["f2", "f4", "f8", "i4", "u1", "?", "g", "F", "D"])
@pytest.mark.parametrize("b", ["f2", "f4", "f8", "i8", "?", "g", "F"])
def test_dtypes(a: str, b: str) -> None:
    """The promotion of both; integers and bool count as float64."""
    x, weight = np.array([1, 0, 1], dtype=a), np.array([0, 1, 1], dtype=b)
    floats = [np.dtype(d) if np.dtype(d).kind in "fc" else np.dtype("f8") for d in (a, b)]
    want = np.result_type(*floats)
    got = lk.logsumexp(x, b=weight)
    assert got.dtype == want
    size = np.finfo(want).eps if want.itemsize > 2 else 1e-3
    assert abs(got - np.log(1 + np.e)) <= 2 * max(size, 1e-16)


@both
def test_weights_of_a_row_that_is_one_exponential(dtype: Any) -> None:
    """As without weights: the largest element itself, or what little the others add to 0."""
    for a in (1.0, 0.3, -7.7, 1e-3, 88.7):
        row = np.array([a, -np.inf, a - 60], dtype=dtype)
        for b in ([1, 5, 0], [1, 0, 1], [1, 1e4, 1e-3]):
            assert lk.logsumexp(row, b=np.array(b, dtype=dtype)) == row[0]
    row, ones = np.array([0, -40], dtype=dtype), np.ones(2, dtype=dtype)
    assert_same_bits(lk.logsumexp(row, b=ones), lk.logsumexp(row))
    assert lk.logsumexp(row, b=ones) == pytest.approx(np.exp(-40.0), rel=1e-6)


@both
def test_another_term_as_large_as_the_exponential_of_weight_0(
    dtype: Any, rng: np.random.Generator
) -> None:
    """The sum looks like the largest exponential, whose error has nothing to do with its own."""
    a = np.stack([rng.uniform(1, 2, 5000), rng.uniform(-2, 0, 5000)], 1).astype(dtype)
    a[0] = 1.7330189943313599, -1.702798843383789
    b = np.zeros_like(a)
    b[:, 1] = np.exp((a[:, 0] - a[:, 1]).astype(np.longdouble))
    wide = a[:, 1].astype(np.longdouble) + np.log(b[:, 1].astype(np.longdouble))
    unit = np.spacing(a[:, 0])
    assert np.max(abs(lk.logsumexp(a, 1, b) - wide) / unit) <= BOUNDS[dtype]


@both
def test_largest_elements_of_weight_0(dtype: Any) -> None:
    """What is left may be far below them: nothing of it is cut off."""
    for far in (1, 50, 90, 120, 300, 700, 1200):
        row = np.array([far, 0, -1, far], dtype=dtype)
        b = np.array([0, 3, 2, 0], dtype=dtype)
        want = np.log(3 + 2 * np.exp(-1.0))
        assert abs(lk.logsumexp(row, b=b) - want) <= 1.5 * np.spacing(dtype(far)) + 1e-15
        assert lk.logsumexp(row, b=-b, return_sign=True)[1] == -1


# --- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.complex64])
@pytest.mark.parametrize("hidden", [NAN, INF, -INF, 1e4])
def test_masked_elements_are_as_if_they_were_not_there(
    hidden: float, dtype: Any, rng: np.random.Generator
) -> None:
    a = rng.normal(0, 2, (30, 9)).astype(dtype)
    b = rng.normal(1, 1, (30, 9)).astype(dtype)
    mask = rng.random((30, 9)) < 0.6
    mask[3], mask[4] = False, True
    a[~mask] = hidden
    for weight in (None, b):
        value, sign = lk.logsumexp(a, 1, weight, return_sign=True, where=mask)
        plain = lk.logsumexp(a, 1, weight, where=mask)
        for i, keep in enumerate(mask):
            row = None if weight is None else weight[i, keep]
            want = lk.logsumexp(a[i, keep], b=row, return_sign=True)
            eps = float(np.finfo(dtype).eps)
            np.testing.assert_allclose(value[i], want[0], rtol=4 * eps, atol=4 * eps)
            np.testing.assert_allclose(sign[i], want[1], atol=4 * eps)
            np.testing.assert_allclose(
                plain[i], lk.logsumexp(a[i, keep], b=row), rtol=4 * eps, atol=4 * eps
            )
        assert value[3] == -INF
        assert sign[3] == 0


def test_where_broadcasts(rng: np.random.Generator) -> None:
    a = rng.normal(0, 1, (3, 4))
    for mask in (np.array([True, False, True, True]), np.array([[True], [False], [True]]), True):
        for axis in (None, 0, 1):
            full = np.broadcast_to(mask, a.shape)
            got = lk.logsumexp(a, axis, where=mask)
            assert_same_bits(got, lk.logsumexp(a, axis, where=full.copy()))
            assert_same_bits(got, lk.logsumexp(np.where(full, a, -INF), axis))
    mask = np.ones((2, 3, 4), dtype=bool)
    assert lk.logsumexp(a, 0, np.ones((2, 1, 1)), where=mask).shape == (3, 4)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (np.ones(4), TypeError, "float64.*bool"),
        ([1, 0, 1, 1], TypeError, "int64.*bool"),
        (np.ones(3, dtype=bool), ValueError, r"\(3,\).*\(3, 4\)"),
        (np.ones((2, 3, 4), dtype=bool), ValueError, r"\(2, 3, 4\).*\(3, 4\)"),
        (np.ma.masked_array(np.ones(4, dtype=bool)), TypeError, "mask"),
    ],
)
def test_bad_masks(mask: Any, error: type[Exception], words: str) -> None:
    a, out, grad_out = np.ones((3, 4)), np.full(3, 7.0), np.full((3, 4), 7.0)
    with pytest.raises(error, match=words):
        lk.logsumexp(a, 1, where=mask, out=out)
    with pytest.raises(error, match=words):
        lk.logsumexp(a, 1, np.ones(4), where=mask, out=out)
    with pytest.raises(error, match=words):
        lk.logsumexp_backward(out, a, out, 1, where=mask, out=grad_out)
    assert np.all(out == 7)
    assert np.all(grad_out == 7)


# --- dtype and out -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", "float32"])
@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64, np.int8])
def test_dtype_argument(given: Any, dtype: Any, rng: np.random.Generator) -> None:
    a = rng.normal(0, 5, (20, 7)).astype(given)
    work = np.dtype(dtype if np.dtype(dtype).itemsize > 2 else np.float32).newbyteorder("=")
    got = lk.logsumexp(a, 1, dtype=dtype)
    assert got.dtype.isnative
    assert_same_bits(got, lk.logsumexp(a.astype(work), 1).astype(np.dtype(dtype).newbyteorder("=")))
    value, sign = lk.logsumexp(a, 1, np.full(7, -2.0), return_sign=True, dtype=dtype)
    assert value.dtype == sign.dtype == got.dtype
    np.testing.assert_allclose(value, got + np.log(2), rtol=2e-3 if got.itemsize == 2 else 1e-6)


def test_dtype_of_float16_widens() -> None:
    a = np.zeros(3, dtype=np.float16)
    assert_same_bits(lk.logsumexp(a, dtype=np.float32), np.float32(np.log(3)))
    assert lk.logsumexp(np.full(2, 1e5), dtype=np.float16) == INF  # of the result alone
    assert lk.logsumexp([1e5, -1e5], b=[0, 1], dtype=np.float16) == -INF


@pytest.mark.parametrize("dtype", [np.int64, bool, "U3", object, "datetime64[s]", "no dtype"])
def test_bad_dtypes(dtype: Any) -> None:
    out = np.full((), 7.0)
    for b in (None, [1.0, 2.0]):
        with pytest.raises(TypeError):
            lk.logsumexp([1.0, 2.0], b=b, dtype=dtype, out=out)
    assert out == 7


def test_complex_numbers_do_not_become_real() -> None:
    for a, b in (([1j], None), ([1.0], [1j])):
        with pytest.raises(TypeError, match="complex128"):
            lk.logsumexp(a, b=b, dtype=np.float64)
    assert lk.logsumexp([0.0], dtype=np.complex64).dtype == np.complex64


@pytest.mark.parametrize("b", [None, [1.0, -2.0, 0.5, 1.0]])
@pytest.mark.parametrize("where", [None, [True, True, False, True]])
def test_out(b: Any, where: Any, rng: np.random.Generator) -> None:
    a = rng.normal(0, 1, (3, 4))
    options: dict[str, Any] = {"b": b, "where": where}
    want = lk.logsumexp(a, 1, return_sign=True, **options)
    for out in (np.empty(3), np.empty(6)[::2], np.empty(3, dtype=">f8"), a[:, 0]):
        given = a.copy() if out is not a[:, 0] else a
        got = lk.logsumexp(given, 1, return_sign=True, out=out, **options)
        assert got[0] is out
        assert np.array_equal(out, want[0])
        assert_same_bits(got[1], want[1])
    for dtype, bad in ((None, np.float32), (np.float32, np.float64), (np.complex64, np.float32)):
        out = np.full(3, 7, dtype=bad)
        with pytest.raises(TypeError, match=np.dtype(bad).name):
            lk.logsumexp(a, 1, dtype=dtype, out=out, **options)
        assert np.all(out == 7)
    real = np.empty(3, dtype=np.float32)
    assert lk.logsumexp(a, 1, dtype="F", return_sign=True, out=real, **options)[0] is real


# --- longdouble ----------------------------------------------------------------------------------


def test_longdouble(rng: np.random.Generator) -> None:
    """Every function along an axis computes in the precision of the operands."""
    wide, eps = np.longdouble, np.finfo(np.longdouble).eps
    x = rng.normal(0, 20, (6, 8)).astype(wide) / wide(3)
    exp = np.exp(x - x.max(1, keepdims=True))
    p = exp / exp.sum(1, keepdims=True)
    for axis, rows, want in ((1, x, p), (0, x.T, p.T)):
        np.testing.assert_allclose(lk.softmax(rows, axis), want, rtol=60 * eps)
        np.testing.assert_allclose(lk.log_softmax(rows, axis), np.log(want), 60 * eps, eps)
    y = lk.softmax(x, (0, 1))
    assert y.dtype == wide
    assert abs(y.sum() - 1) < 10 * eps
    lse = lk.logsumexp(x, 1)
    np.testing.assert_allclose(lse, x.max(1) + np.log(exp.sum(1)), rtol=4 * eps)
    np.testing.assert_allclose(lk.logsumexp_backward(lse, x, lse, 1), lse[:, None] * p, 60 * eps)
    g = rng.normal(0, 1, x.shape)
    want, scale = ref.softmax_backward(g, p, 1)
    assert np.all(abs(lk.softmax_backward(g, p, 1) - want) <= 20 * eps * scale)
    want, scale = ref.log_softmax_backward(g, np.log(p), 1)
    assert np.all(abs(lk.log_softmax_backward(g, np.log(p), 1) - want) <= 20 * eps * scale)


@pytest.mark.skipif(np.finfo(np.longdouble).maxexp == 1024, reason="longdouble is float64")
def test_longdouble_has_its_own_range() -> None:
    wide = np.longdouble
    value = lk.logsumexp(np.array([0, -20000], dtype=wide), b=np.array([1, -2], wide))
    assert value < 0 or value == 0
    a = np.array([11000, -11000], dtype=wide)
    b = np.exp(-a)
    value, sign = lk.logsumexp(a, b=b * np.array([1, -2], dtype=wide), return_sign=True)
    assert abs(value) < 1e-14
    assert sign == -1
    assert lk.softmax(np.array([0, -11000], dtype=wide))[1] > 0


def test_longdouble_special_rows() -> None:
    wide = np.longdouble
    for row in ([INF, 0], [-INF, -INF], [NAN, 0], [INF, NAN]):
        assert np.all(np.isnan(lk.softmax(np.array(row, dtype=wide))))
    np.testing.assert_array_equal(lk.log_softmax(np.array([0, INF, 1], wide)), [-INF, NAN, -INF])
    assert np.all(np.isnan(lk.log_softmax(np.array([-INF, -INF], dtype=wide))))
    np.testing.assert_array_equal(lk.softmax(np.array([-INF, 0], dtype=wide)), [0, 1])
    assert lk.softmax(np.empty((3, 0), dtype=wide), 1).shape == (3, 0)
    assert lk.softmax(wide(3)) == 1
    assert lk.log_softmax(np.array([40, 0], dtype=wide))[0] == pytest.approx(-np.exp(-40.0))


# --- complex -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.clongdouble])
def test_complex_against_the_formula(dtype: Any, rng: np.random.Generator) -> None:
    a = (rng.normal(0, 2, (20, 6)) + 1j * rng.uniform(-9, 9, (20, 6))).astype(dtype)
    b = (rng.normal(0, 1, (20, 6)) + 1j * rng.normal(0, 1, (20, 6))).astype(dtype)
    eps = float(max(np.finfo(dtype).eps, 1e-18))
    for weight in (None, b, b.real):
        terms = np.exp(a.astype(np.clongdouble)) * (1 if weight is None else weight)
        total = terms.sum(1)
        tolerance = 20 * eps * np.max(abs(terms).sum(1) / abs(total))
        got = lk.logsumexp(a, 1, weight)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, np.log(total), rtol=0, atol=tolerance)
        value, sign = lk.logsumexp(a, 1, weight, return_sign=True)
        assert value.dtype == np.dtype(dtype).type(0).real.dtype
        assert sign.dtype == dtype
        np.testing.assert_allclose(value, np.log(abs(total)), rtol=0, atol=tolerance)
        np.testing.assert_allclose(sign, total / abs(total), rtol=0, atol=tolerance)
    exp = np.exp(a.astype(np.clongdouble))
    want = exp / exp.sum(1, keepdims=True)
    np.testing.assert_allclose(lk.softmax(a, 1), want, rtol=400 * eps)
    np.testing.assert_allclose(np.exp(lk.log_softmax(a, 1)), want, rtol=400 * eps)


def test_complex_range() -> None:
    a = np.array([1000 + 1j, 1000 - 1j])
    assert lk.logsumexp(a) == pytest.approx(1000 + np.log(2 * np.cos(1)))
    assert lk.logsumexp(a, b=[1, 0]) == pytest.approx(1000 + 1j)
    assert lk.logsumexp(np.array([5 + 0j, 5]), b=[1, -1]) == -INF
    assert lk.logsumexp(np.array([5 + 0j, 5]), b=[1, -1], return_sign=True) == (-INF, 0)
    assert lk.logsumexp(np.array([2000j, NAN]), b=[1, 0]).real == pytest.approx(0, abs=1e-12)
    assert lk.logsumexp(np.empty(0, dtype=complex), return_sign=True) == (-INF, 0)
    assert lk.softmax(np.array([1000 + 1j, 0]))[0] == pytest.approx(1)
    assert lk.softmax(np.array([1000 + 1j, 0]))[1] == 0
    assert lk.log_softmax(np.array([1000 + 1j, 0])) == pytest.approx([0, -1000 - 1j])


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_complex_like_scipy(name: str, rng: np.random.Generator) -> None:
    theirs = getattr(pytest.importorskip("scipy.special"), name)
    x = rng.normal(0, 3, (4, 5)) + 1j * rng.normal(0, 3, (4, 5))
    for axis in (None, 0, 1, (0, 1)):
        np.testing.assert_allclose(getattr(lk, name)(x, axis), theirs(x, axis), rtol=1e-12)


def test_complex_has_no_gradient() -> None:
    """Whether the gradient of a complex number is conjugated differs from library to library."""
    z = np.ones(3, dtype=complex)
    for call in (
        lambda: lk.softmax_backward(z, z),
        lambda: lk.log_softmax_backward(z, z),
        lambda: lk.logsumexp_backward(1.0, z, 1.0),
        lambda: lk.logsumexp_backward(1.0, z.real, 1.0, b=z),
    ):
        with pytest.raises(TypeError, match="complex128"):
            call()


# --- gradients -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("family", [*FAMILIES[:5], "magnitudes"])
def test_gradient_with_weights(family: str, dtype: Any, rng: np.random.Generator) -> None:
    for _ in range(40):
        a, b = (v.astype(dtype) for v in weights(family, int(rng.integers(1, 20)), rng))
        lse, sign = lk.logsumexp(a, b=b, return_sign=True)
        if not np.isfinite(lse):
            continue
        grad = dtype(sign * rng.normal())
        got = lk.logsumexp_backward(grad, a, lse, b=b)
        with mpmath.workprec(BITS):
            exact = [[mpmath.mpf(float(v)) for v in values] for values in (a, b)]
            factor, shift = mpmath.mpf(float(grad)), mpmath.mpf(float(lse))
            want = [factor * w * mpmath.exp(v - shift) for v, w in zip(*exact, strict=True)]
            assert ref.mp_ulp_error(got, want) <= {np.float32: 3, np.float64: 4}[dtype]
        assert_same_bits(got[b == 0], np.zeros((b == 0).sum(), dtype=dtype))


@both
def test_factors_that_are_no_finite_numbers_in_the_gradient(dtype: Any) -> None:
    """0 and infinity times an exponential, however large or small that is."""
    tiny = np.finfo(dtype).smallest_subnormal
    a, b = np.array([0], dtype=dtype), np.array([tiny], dtype=dtype)
    lse = lk.logsumexp(a, b=b)
    assert lk.logsumexp_backward(dtype(0), a, lse, b=b) == 0
    assert lk.logsumexp_backward(dtype(1), a, lse, b=b) == pytest.approx(1, rel=1e-4)
    a, one = np.array([0, 800, -INF], dtype=dtype), np.ones(3, dtype=dtype)
    got = lk.logsumexp_backward(dtype(INF), a, dtype(800), b=one)
    assert_same_bits(got, np.array([INF, INF, NAN], dtype=dtype))
    got = lk.logsumexp_backward(dtype(1), a, dtype(800), b=np.array([-INF, 1, NAN], dtype=dtype))
    assert_same_bits(got, np.array([-INF, 1, NAN], dtype=dtype))
    got = lk.logsumexp_backward(dtype(0), a, dtype(800), b=np.array([INF, 1, -1], dtype=dtype))
    np.testing.assert_array_equal(got, [NAN, 0, 0])


def test_gradient_of_weights_that_span_magnitudes() -> None:
    a, b = np.array([0.0, -800.0]), np.array([1e-320, 1e300])
    got = lk.logsumexp_backward(1.0, a, lk.logsumexp(a, b=b), b=b)
    np.testing.assert_allclose(got, [0, 1], rtol=1e-13, atol=1e-250)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_with_a_mask(weighted: bool, dtype: Any, rng: np.random.Generator) -> None:
    a, mask = rng.normal(0, 2, (20, 6)).astype(dtype), rng.random((20, 6)) < 0.6
    mask[2] = False
    b = rng.uniform(0.5, 2, (20, 6)).astype(dtype) if weighted else None
    a[~mask] = NAN
    lse = lk.logsumexp(a, 1, b, where=mask)
    grad = rng.normal(0, 1, 20).astype(dtype)
    grad[2] = NAN
    before = a.copy()
    got = lk.logsumexp_backward(grad, a, lse, 1, b, where=mask)
    want = lk.logsumexp_backward(grad, a, lse, 1, b)
    np.testing.assert_array_equal(got[mask], want[mask])
    assert not got[~mask].any()
    np.testing.assert_array_equal(a, before)
    assert lk.logsumexp_backward(grad, a, lse, 1, b, where=mask, out=a) is a
    np.testing.assert_array_equal(a, got)
    assert lk.logsumexp_backward(1.0, 3.0, 3.0, where=False) == 0
    assert lk.logsumexp_backward(1.0, 3.0, 3.0, where=True) == 1


def test_gradient_in_place_of_every_operand(rng: np.random.Generator) -> None:
    a, b = rng.normal(0, 2, (5, 6)), rng.normal(0, 1, (5, 6))
    grad, lse = rng.normal(0, 1, 5), rng.normal(0, 1, 5)
    want = lk.logsumexp_backward(grad, a, lse, 1, b)
    for out in (a, b):
        x, w = a.copy(), b.copy()
        target = x if out is a else w
        assert lk.logsumexp_backward(grad, x, lse, 1, w, out=target) is target
        assert_same_bits(target, want)


@pytest.mark.parametrize("number", [2, 2.0, True, 1 + 1j, np.float64(2), np.float32(2)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64, np.int64])
def test_numbers_of_python_adapt(number: Any, dtype: Any) -> None:
    """As in NumPy: ``b=2`` does not widen a result."""
    a = np.arange(3).astype(dtype)
    base = np.zeros((), np.float64 if dtype is np.int64 else dtype)
    weak = type(number) in (int, float, bool)
    other = np.zeros((), np.complex64) if type(number) is complex else np.asarray(number)
    wanted = base.dtype if weak else np.result_type(base.dtype, other.dtype)
    assert lk.logsumexp(a, b=number).dtype == wanted
    if np.dtype(dtype).kind != "c" and type(number) is not complex:
        grad = lk.logsumexp_backward(1.0, a, lk.logsumexp(a), b=number)
        assert grad.dtype == np.result_type(wanted, base.dtype)
        assert lk.logsumexp_backward(1, a, lk.logsumexp(a)).dtype == base.dtype
