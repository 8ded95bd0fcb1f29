"""Log-probabilities of labels, greedy matches and the most probable classes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
import reference as ref
import rows
from layouts import assert_same_bits
from logitkit import _logitkit_core as core

Array = npt.NDArray[Any]

INF, NAN = np.inf, np.nan
DTYPES = [np.float32, np.float64]
BOUND = {np.dtype(np.float32): 3, np.dtype(np.float64): 4}

both = pytest.mark.parametrize("dtype", DTYPES)
lengths = pytest.mark.parametrize("c", [1, 2, 3, 10, 16, 17, 40, 41, 64, 100, 1000, 5000])

SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((9,), 0),
    ((41, 1), 1),
    ((70, 3), 1),
    ((70, 40), 1),
    ((19, 64), 1),
    ((7, 1000), 1),
    ((2, 9001), 1),
    ((33, 37), 0),
    ((3, 20, 70), 1),
    ((2, 1500, 9), 1),
    ((4, 6, 5, 3), 2),
]


def order(x: Array, axis: int = -1) -> Array:
    """Return the classes from the largest logit down: NaN first, equal ones by number."""
    moved = np.moveaxis(x, axis, -1)
    with np.errstate(all="ignore"):
        indices = np.lexsort((-moved, ~np.isnan(moved)))
    return np.moveaxis(indices, -1, axis)


def first(x: Array, k: int, axis: int = -1) -> Array:
    """Return the first `k` entries along an axis."""
    return np.moveaxis(np.moveaxis(x, axis, -1)[..., :k], -1, axis)


def assert_top_k(x: Array, k: int, axis: int = -1) -> None:
    """Check indices against a stable sort, and values against longdouble and `token_logprobs`."""
    values, indices = lk.top_k_logprobs(x, k, axis=axis)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, first(order(x, axis), k, axis), f"k = {k}")
    truth = np.take_along_axis(ref.log_softmax(x, axis), indices, axis)
    if ref.EXTENDED or x.dtype == np.float32:
        ref.assert_close(values, truth, BOUND[x.dtype], what=f"k = {k}")
    for place in {0, k // 2, k - 1}:
        labels = indices.take(place, axis)
        assert_same_bits(values.take(place, axis), lk.token_logprobs(x, labels, axis=axis)[0])


def some_k(c: int) -> list[int]:
    """Return numbers of classes to ask for, each of another way through the code."""
    wanted = {1, 2, 5, 8, 9, 16, 17, 50, c // 8, c // 8 + 1, c // 2, c - 1, c}
    return sorted(k for k in wanted if 1 <= k <= c)


# --- values ---------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("family", rows.FAMILIES)
def test_token_logprobs_on_every_family(family: str, dtype: Any, rng: np.random.Generator) -> None:
    for n, c in [(40, c) for c in (1, 2, 3, 10, 17, 33, 70)] + [(6, 1000), (3, 4099)]:
        x = rows.FAMILIES[family](rng, n, c, dtype)
        best = np.argmax(x, axis=1)
        for labels in (rng.integers(0, c, n), best):
            for axis, a in ((1, x), (0, np.ascontiguousarray(x.T))):
                logprob, is_argmax = lk.token_logprobs(a, labels, axis=axis)
                if ref.EXTENDED or dtype == np.float32:
                    truth = -ref.cross_entropy(a, labels, axis)[0]
                    ref.assert_close(logprob, truth, BOUND[np.dtype(dtype)], what=f"{family} {c}")
                loss = lk.cross_entropy(a, labels, axis=axis, reduction="none")
                np.testing.assert_array_equal(logprob, -loss)
                np.testing.assert_array_equal(is_argmax, labels == best, f"{family} {c}")


@both
@pytest.mark.parametrize("family", rows.FAMILIES)
def test_top_k_on_every_family(family: str, dtype: Any, rng: np.random.Generator) -> None:
    for n, c in [(20, 1), (20, 3), (20, 10), (20, 40), (6, 41), (6, 300), (2, 4099), (1, 9001)]:
        x = rows.FAMILIES[family](rng, n, c, dtype)
        for k in {1, min(5, c), min(20, c), c}:
            assert_top_k(x, k)
            assert_top_k(np.ascontiguousarray(x.T), k, 0)


@pytest.mark.parametrize("lead", [0.0, 3.0, 17.0, 40.0, 90.0])
@both
def test_confident_rows_in_mpmath(lead: float, dtype: Any, rng: np.random.Generator) -> None:
    """The largest log-probability of a row keeps its digits where it is next to 0."""
    for c in (2, 7, 50, 1000):
        x = rng.normal(0, 1, c).astype(dtype)
        x[c // 2] += dtype(lead)
        truth = ref.mp_row(x)["log_softmax"]
        bound = BOUND[x.dtype]
        for label in (0, c // 2, c - 1):
            logprob, is_argmax = lk.token_logprobs(x, label)
            assert ref.mp_ulp_error(logprob, truth[label]) <= bound
            assert is_argmax == (label == np.argmax(x))
        values, indices = lk.top_k_logprobs(x, 2)
        assert ref.mp_ulp_error(values, [truth[i] for i in indices]) <= bound


def test_what_other_libraries_round_to_zero() -> None:
    x = np.array([17, 0, 0], dtype=np.float32)
    assert lk.token_logprobs(x, 0) == (np.float32(-8.2798756e-08), True)
    assert lk.top_k_logprobs(x, 1)[0] == np.float32(-8.2798756e-08)


@both
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_axes(shape: tuple[int, ...], axis: int, dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, shape).astype(dtype).round(1)
    for a in (axis, axis - len(shape)):
        labels = rng.integers(0, shape[axis], np.delete(shape, axis))
        for given in (labels, np.argmax(x, axis)):
            logprob, is_argmax = lk.token_logprobs(x, given, axis=a)
            want = np.take_along_axis(ref.log_softmax(x, axis), np.expand_dims(given, axis), axis)
            ref.assert_close(logprob, want.squeeze(axis), BOUND[x.dtype] if ref.EXTENDED else 8)
            np.testing.assert_array_equal(is_argmax, np.argmax(x, axis) == given)
        for k in some_k(shape[axis]):
            assert_top_k(x, k, a)


# --- which one is the largest --------------------------------------------------------------------


@both
@lengths
def test_the_first_maximum_is_the_argmax(c: int, dtype: Any, rng: np.random.Generator) -> None:
    """Every label of rows with ties, along either axis."""
    n = min(c, 60)
    labels = np.unique(np.r_[0, c // 2, c - 1, rng.integers(0, c, n)])
    x = rng.integers(-1, 2, (len(labels), c)).astype(dtype)
    x[::3] = 1
    x[1::3, c // 2] = 2
    for axis, a in ((1, x), (1, np.asfortranarray(x)), (0, x.T)):
        _, is_argmax = lk.token_logprobs(a, labels, axis=axis)
        np.testing.assert_array_equal(is_argmax, np.argmax(x, axis=1) == labels)
        _, is_argmax = lk.token_logprobs(a, np.argmax(x, axis=1), axis=axis)
        assert is_argmax.all()
        error = lk.classification_error(a, labels, axis=axis, reduction="none")
        np.testing.assert_array_equal(lk.token_logprobs(a, labels, axis=axis)[1], error == 0)


@both
def test_negative_zero_ties_with_zero(dtype: Any) -> None:
    for c in (2, 50, 100):
        x = np.zeros((4, c), dtype)
        x[::2, 0] = -0.0
        x[1::2, 1] = -0.0
        assert lk.token_logprobs(x, [0] * 4)[1].all()
        assert not lk.token_logprobs(x, [1] * 4)[1].any()
        for k in some_k(c):
            np.testing.assert_array_equal(lk.top_k_logprobs(x, k)[1], [range(k)] * 4)


PATTERNS: dict[str, Callable[[int, np.random.Generator], Array]] = {
    "rising": lambda c, _: np.arange(c) / 7,
    "falling": lambda c, _: -np.arange(c) / 7,
    "equal": lambda c, _: np.zeros(c),
    "two values": lambda c, rng: rng.integers(0, 2, c),
    "few values": lambda c, rng: rng.integers(0, 9, c),
    "one at the end": lambda c, _: np.r_[np.zeros(c - 1), 1],
    "best at the end": lambda c, rng: np.r_[rng.normal(0, 1, c - c // 3), 9 + np.arange(c // 3)],
    "best at the start": lambda c, rng: np.r_[9 + np.arange(c // 3), rng.normal(0, 1, c - c // 3)],
    "every 64th": lambda c, rng: rng.normal(0, 1, c) + 20.0 * (np.arange(c) % 64 == 5),
    "every 16th, rising": lambda c, _: (np.arange(c) % 16 == 3) * (1.0 + np.arange(c)),
    "masked": lambda c, rng: np.where(rng.random(c) < 0.9, -INF, rng.normal(0, 1, c)),
    "one not masked": lambda c, _: np.where(np.arange(c) == c // 2, 0, -INF),
    "random": lambda c, rng: rng.normal(0, 3, c),
}


@both
@pytest.mark.parametrize("pattern", PATTERNS)
def test_top_k_of_hard_orders(pattern: str, dtype: Any, rng: np.random.Generator) -> None:
    for c in (3, 16, 17, 40, 63, 64, 65, 129, 1000, 4096, 4097, 4200, 20_011):
        x = PATTERNS[pattern](c, rng).astype(dtype)
        for k in some_k(c):
            indices = lk.top_k_logprobs(x, k)[1]
            np.testing.assert_array_equal(indices, order(x)[:k], f"{c} classes, k = {k}")
    for c in (7, 16, 33, 1000, 1030):
        x = np.stack([PATTERNS[pattern](c, rng) for _ in range(21)]).astype(dtype)
        for k in some_k(c):
            _, indices = lk.top_k_logprobs(np.asfortranarray(x), k)
            np.testing.assert_array_equal(indices, order(x)[:, :k], f"{c} classes, k = {k}")
            _, indices = lk.top_k_logprobs(np.ascontiguousarray(x.T), k, axis=0)
            np.testing.assert_array_equal(indices, order(x)[:, :k].T, f"{c} classes, k = {k}")


@both
def test_a_vocabulary(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (3, 128_256)).astype(dtype)
    x[1] = np.sort(x[1])
    x[2] = np.floor(x[2])
    for k in (1, 5, 50, 2000, 128_256):
        assert_top_k(x, k)


def test_the_logits_give_the_order() -> None:
    """Different logits whose log-probabilities round to one number are not a tie."""
    x = np.array([0.0, 1e-4, 2e-4, -60000.0, 5e4], dtype=np.float32)
    values, indices = lk.top_k_logprobs(x, 5)
    assert indices.tolist() == [4, 2, 1, 0, 3]
    assert values[1] == values[2] == values[3]


# --- special rows --------------------------------------------------------------------------------


def row(c: int, dtype: Any, **entries: float) -> Array:
    """Return ordinary logits with ``first``, ``middle`` or ``last`` replaced."""
    x = np.linspace(-2, 2, c).astype(dtype)
    for name, value in entries.items():
        x[{"first": 0, "middle": c // 2, "last": -1}[name]] = value
    return x


def among(x: Array) -> Array:
    """Return a batch with this row between ordinary ones, which have nothing to do with it."""
    return np.stack([row(len(x), x.dtype), x, row(len(x), x.dtype)] * 7)


def of_row(x: Array, label: int) -> tuple[Any, Any]:
    """Return the results of one row, checked to be the same in every layout."""
    want = lk.token_logprobs(x, label)
    batch = among(x)
    labels = np.full(len(batch), label)
    for axis, a in ((1, batch), (1, np.asfortranarray(batch)), (0, batch.T)):
        got = lk.token_logprobs(a, labels, axis=axis)
        for result, single in zip(got, want, strict=True):
            assert_same_bits(result[1::3], np.full(7, single))
        assert np.isfinite(got[0][::3]).all()
    return want


def top_of_row(x: Array, k: int) -> tuple[Array, Array]:
    """Return the best of one row, checked to be the same in every layout."""
    want = lk.top_k_logprobs(x, k)
    batch = among(x)
    for axis, a in ((1, batch), (1, np.asfortranarray(batch)), (0, batch.T)):
        got = lk.top_k_logprobs(a, k, axis=axis)
        for result, single in zip(got, want, strict=True):
            assert_same_bits(np.moveaxis(result, axis, -1)[1::3], np.stack([single] * 7))
        assert np.isfinite(np.moveaxis(got[0], axis, -1)[::3]).all()
    return want


specials = pytest.mark.parametrize("c", [3, 10, 16, 17, 40, 41, 100, 1000, 5000])


@both
@specials
def test_nan_in_the_row(c: int, dtype: Any) -> None:
    for place in ("first", "middle", "last"):
        x = row(c, dtype, **{place: NAN})
        for label in (0, c // 2, c - 1, int(np.argmax(x))):
            logprob, is_argmax = of_row(x, label)
            assert np.isnan(logprob)
            assert not is_argmax
        for k in some_k(c):
            values, indices = top_of_row(x, k)
            assert np.isnan(values).all()
            assert indices[0] == np.argmax(x)
            np.testing.assert_array_equal(indices, order(x)[:k])


@both
@specials
def test_several_nan_of_either_sign(c: int, dtype: Any) -> None:
    x = row(c, dtype, first=-NAN, last=NAN)
    x[c // 2] = INF
    for k in some_k(c):
        values, indices = top_of_row(x, k)
        assert np.isnan(values).all()
        np.testing.assert_array_equal(indices, order(x)[:k])
    assert order(x)[:3].tolist() == [0, c - 1, c // 2]


@both
@specials
def test_minus_infinity_only(c: int, dtype: Any) -> None:
    x = np.full(c, -INF, dtype)
    for label in (0, c // 2, c - 1):
        logprob, is_argmax = of_row(x, label)
        assert np.isnan(logprob)
        assert is_argmax == (label == 0)
    for k in some_k(c):
        values, indices = top_of_row(x, k)
        assert np.isnan(values).all()
        np.testing.assert_array_equal(indices, np.arange(k))


@both
@specials
def test_minus_infinity_at_the_label(c: int, dtype: Any) -> None:
    x = row(c, dtype, middle=-INF)
    assert of_row(x, c // 2) == (-INF, False)
    logprob, is_argmax = of_row(x, c - 1)
    assert np.isfinite(logprob)
    assert is_argmax
    values, indices = top_of_row(x, c)
    assert indices[-1] == c // 2
    assert values[-1] == -INF
    assert np.isfinite(values[:-1]).all()


@both
@specials
def test_plus_infinity(c: int, dtype: Any) -> None:
    x = row(c, dtype, middle=INF)
    logprob, is_argmax = of_row(x, c // 2)
    assert np.isnan(logprob)
    assert is_argmax
    assert of_row(x, 0) == (-INF, False)
    values, indices = top_of_row(x, c)
    np.testing.assert_array_equal(indices, order(x))
    assert np.isnan(values[0])
    assert (values[1:] == -INF).all()

    x = row(c, dtype, first=INF, last=INF)
    assert [bool(of_row(x, label)[1]) for label in (0, 1, c - 1)] == [True, False, False]
    values, indices = top_of_row(x, 3)
    assert indices[:2].tolist() == [0, c - 1]
    assert np.isnan(values[:2]).all()
    assert values[2] == -INF


@both
@specials
def test_values_are_those_of_log_softmax(c: int, dtype: Any) -> None:
    """The special values of a row are log_softmax's, in its order."""
    for entries in ({"first": NAN}, {"middle": INF}, {"last": -INF}, {"first": INF, "last": INF}):
        x = row(c, dtype, **entries)
        values, indices = lk.top_k_logprobs(x, c)
        want = lk.log_softmax(x)[indices]
        np.testing.assert_array_equal(np.isnan(values), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(values), np.isinf(want))


@both
def test_logits_beyond_every_exponential(dtype: Any) -> None:
    """The largest numbers, of either sign: differences overflow to -inf, or are 0."""
    largest = np.finfo(dtype).max
    for c in (3, 20, 100, 2000):
        x = np.zeros(c, dtype)
        x[0], x[-1] = -largest, largest
        assert of_row(x, c - 1) == (0, True)
        assert of_row(x, 0) == (-INF, False)
        values, indices = top_of_row(x, c)
        np.testing.assert_array_equal(indices, order(x))
        np.testing.assert_array_equal(values[:2], [0, -largest])


@pytest.mark.parametrize("level", core.simd_levels())
@pytest.mark.usefixtures("keep_settings")
@both
def test_nan_is_the_positive_quiet_one(level: str, dtype: Any, rng: np.random.Generator) -> None:
    core.set_simd_level(level)
    integer = np.dtype(f"u{np.dtype(dtype).itemsize}")
    quiet = np.array(NAN, dtype).view(integer)
    for shape, axis in SHAPES:
        x = rng.normal(0, 3, shape).astype(dtype)
        x[rng.random(shape) < 0.2] = -NAN
        labels = np.zeros(np.delete(shape, axis), int)
        for values in (
            lk.token_logprobs(x, labels, axis=axis)[0],
            lk.top_k_logprobs(x, min(2, shape[axis]), axis=axis)[0],
        ):
            array = np.atleast_1d(values)
            assert (array.view(integer)[np.isnan(array)] == quiet).all()


# --- ignored rows and labels ----------------------------------------------------------------------


@both
@lengths
@pytest.mark.parametrize("value", [0.0, NAN, INF, -INF])
def test_ignored_rows(value: float, c: int, dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (50, c)).astype(dtype)
    labels = rng.integers(0, c, 50)
    labels[::3] = -100
    x[::3] = value
    kept = labels != -100
    want = lk.token_logprobs(x[kept], labels[kept])
    for axis, a in ((1, x), (0, np.ascontiguousarray(x.T))):
        logprob, is_argmax = lk.token_logprobs(a, labels, axis=axis)
        assert_same_bits(logprob[~kept], np.zeros((~kept).sum(), dtype))
        assert not is_argmax[~kept].any()
        assert_same_bits(logprob[kept], want[0])
        assert_same_bits(is_argmax[kept], want[1])


def test_ignore_index() -> None:
    x = np.eye(3)
    logprob, is_argmax = lk.token_logprobs(x, [0, 1, 2], ignore_index=1)
    assert logprob[1] == 0
    assert is_argmax.tolist() == [True, False, True]
    assert lk.token_logprobs(x, [0, 1, 2], ignore_index=None)[1].all()
    with pytest.raises(IndexError, match=r"labels\[1\] is -100"):
        lk.token_logprobs(x, [0, -100, 2], ignore_index=None)


@pytest.mark.parametrize(
    "dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u8", "f2", "f4", ">f8"]
)
def test_label_dtypes(dtype: str, rng: np.random.Generator) -> None:
    for shape, axis in (((40, 5), -1), ((40, 100), -1), ((5, 40), 0), ((3, 5, 13), 1), ((5,), 0)):
        x = rng.normal(0, 2, shape)
        labels = np.asarray(rng.integers(0, shape[axis], np.delete(shape, axis)))
        if np.dtype(dtype).kind != "u" and labels.ndim:
            labels.reshape(-1)[::4] = -100
        want = lk.token_logprobs(x, labels, axis=axis)
        for given in (labels.astype(dtype), np.asfortranarray(labels.astype(dtype))):
            got = lk.token_logprobs(x, given.reshape(labels.shape), axis=axis)
            assert_same_bits(got[0], want[0])
            assert_same_bits(got[1], want[1])


# --- layouts, batches, dtypes ---------------------------------------------------------------------


@both
@pytest.mark.parametrize("layout", layouts.ALL)
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    for shape, axis in SHAPES:
        x = rng.normal(0, 3, shape).astype(dtype).round(1)
        labels = np.argmax(x, axis) * rng.integers(0, 2, np.delete(shape, axis))
        k = min(6, shape[axis])
        want = (*lk.token_logprobs(x, labels, axis=axis), *lk.top_k_logprobs(x, k, axis=axis))
        for given in (labels, change(labels) if labels.ndim else labels):
            moved = change(x)
            got = (
                *lk.token_logprobs(moved, given, axis=axis),
                *lk.top_k_logprobs(moved, k, axis=axis),
            )
            for a, b in zip(got, want, strict=True):
                assert_same_bits(a, b, f"{shape} {layout}")


def test_strides_that_do_not_fold(rng: np.random.Generator) -> None:
    """Axes around the class axis in an order that no three strides describe."""
    x = rng.normal(0, 3, (4, 5, 6, 7)).astype(np.float32)
    for axes in ((3, 1, 0, 2), (2, 0, 3, 1), (1, 3, 2, 0)):
        view = np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))[:, ::-1]
        labels = np.argmax(view, axis=1)
        plain = np.ascontiguousarray(view)
        for got, want in zip(
            (*lk.token_logprobs(view, labels, axis=1), *lk.top_k_logprobs(view, 3, axis=1)),
            (*lk.token_logprobs(plain, labels, axis=1), *lk.top_k_logprobs(plain, 3, axis=1)),
            strict=True,
        ):
            assert_same_bits(got, want)


def test_a_field_of_a_record() -> None:
    """One row whose elements are no whole number of elements apart."""
    record = np.zeros(5, dtype=np.dtype([("a", "f8"), ("b", "i4")], align=False))
    record["a"] = [1, 5, 2, 5, 0]
    want = lk.token_logprobs(record["a"].copy(), 1)
    assert lk.token_logprobs(record["a"], 1) == want
    assert lk.top_k_logprobs(record["a"], 2)[1].tolist() == [1, 3]


@both
@pytest.mark.usefixtures("keep_settings")
def test_levels_and_threads(dtype: Any, rng: np.random.Generator) -> None:
    best, *others = reversed(core.simd_levels())
    for shape, axis in [*SHAPES, ((3001, 40), 1), ((301, 500), 1), ((2, 90_001), 1)]:
        x = rng.normal(0, 3, shape).astype(dtype).round(2)
        labels = np.argmax(x, axis) * rng.integers(0, 2, np.delete(shape, axis))

        def results(x: Array = x, labels: Array = labels, axis: int = axis) -> list[Any]:
            tops = [lk.top_k_logprobs(x, k, axis=axis) for k in some_k(x.shape[axis])]
            return [*lk.token_logprobs(x, labels, axis=axis), *(a for top in tops for a in top)]

        core.set_simd_level(best)
        with lk.threads(1):
            want = results()
        for count in (2, 3):
            with lk.threads(count):
                for a, b in zip(results(), want, strict=True):
                    assert_same_bits(a, b, f"{shape}: {count} threads")
        for level in others:
            core.set_simd_level(level)
            for a, b in zip(results(), want, strict=True):
                assert_same_bits(a, b, f"{shape}: {level}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, rng: np.random.Generator) -> None:
    """Computed in float32, which the log-probabilities keep."""
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = rng.normal(0, 3, (20, 30)).astype(dtype)
    labels = rng.integers(0, 30, 20)
    for got, want in zip(
        (*lk.token_logprobs(x, labels), *lk.top_k_logprobs(x, 4)),
        (
            *lk.token_logprobs(x.astype(np.float32), labels),
            *lk.top_k_logprobs(x.astype(np.float32), 4),
        ),
        strict=True,
    ):
        assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_integers_count_as_float64(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.integers(0, 200, (20, 9)).astype(dtype)
    labels = rng.integers(0, 9, 20)
    for got, want in zip(
        (*lk.token_logprobs(x, labels), *lk.top_k_logprobs(x, 4)),
        (*lk.token_logprobs(x.astype(float), labels), *lk.top_k_logprobs(x.astype(float), 4)),
        strict=True,
    ):
        assert_same_bits(got, want)


def test_lists_and_scalars() -> None:
    logprob, is_argmax = lk.token_logprobs([0.0, 1.0, 2.0], 2)
    assert isinstance(logprob, np.float64)
    assert isinstance(is_argmax, np.bool_)
    logprob, is_argmax = lk.token_logprobs(np.float32([0, 1, 2]), np.int64(2))
    assert isinstance(logprob, np.float32)
    assert isinstance(is_argmax, np.bool_)
    values, indices = lk.top_k_logprobs([[0, 1, 2]], np.int8(2))
    assert values.shape == indices.shape == (1, 2)
    assert indices.tolist() == [[2, 1]]
    assert lk.top_k_logprobs([3.0], True)[1].tolist() == [0]


@both
def test_results_keep_the_order_of_the_input(dtype: Any) -> None:
    x = np.asfortranarray(np.ones((4, 5, 6), dtype))
    values, indices = lk.top_k_logprobs(x, 2)
    logprob, is_argmax = lk.token_logprobs(x, np.zeros((4, 5), int))
    for result in (values, indices, logprob, is_argmax):
        assert result.flags.f_contiguous
        assert result.flags.writeable
    assert values.shape == (4, 5, 2)
    assert logprob.dtype == values.dtype == dtype
    assert is_argmax.dtype == np.bool_


@both
def test_no_rows(dtype: Any) -> None:
    for shape, axis in (((0, 5), 1), ((5, 0), 0), ((2, 5, 0), 1)):
        x = np.empty(shape, dtype)
        batch = tuple(np.delete(shape, axis))
        logprob, is_argmax = lk.token_logprobs(x, np.zeros(batch, int), axis=axis)
        assert logprob.shape == is_argmax.shape == batch
        assert logprob.dtype == dtype
        assert is_argmax.dtype == np.bool_
        values, indices = lk.top_k_logprobs(x, 2, axis=axis)
        assert values.shape == indices.shape == tuple(2 if n == 5 else n for n in shape)
        assert values.dtype == dtype
        assert indices.dtype == np.int64
        with pytest.raises(ValueError, match=r"k must be in \[1, 5\]"):
            lk.top_k_logprobs(x, 6, axis=axis)


def test_no_classes() -> None:
    x = np.empty((3, 0), np.float32)
    logprob, is_argmax = lk.token_logprobs(x, [-100] * 3)
    assert_same_bits(logprob, np.zeros(3, np.float32))
    assert not is_argmax.any()
    logprob, is_argmax = lk.token_logprobs(np.empty(0), -100)
    assert logprob == 0
    assert isinstance(is_argmax, np.bool_)
    with pytest.raises(IndexError, match=r"labels\[0\] is 0"):
        lk.token_logprobs(x, [0, 0, 0])
    with pytest.raises(ValueError, match=r"k must be in \[1, 0\]"):
        lk.top_k_logprobs(x, 1)


def test_inputs_are_not_modified(rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (30, 20))
    labels = rng.integers(0, 20, 30)
    copies = x.copy(), labels.copy()
    lk.token_logprobs(x, labels)
    lk.top_k_logprobs(x, 20)
    lk.top_k_logprobs(x, 3, axis=0)
    assert_same_bits(x, copies[0])
    assert_same_bits(labels, copies[1])


@both
def test_never_warns_and_ignores_errstate(dtype: Any) -> None:
    with np.errstate(all="raise"):
        for value in (NAN, INF, -INF, np.finfo(dtype).max):
            x = among(row(20, dtype, middle=value, last=value))
            for labels in ([10] * 21, [10.0] * 21, [-100] * 21):
                lk.token_logprobs(x, labels)
                lk.token_logprobs(x.tolist(), labels)
            lk.top_k_logprobs(x, 20)
            lk.top_k_logprobs(x.tolist(), 4)


# --- the classification error with weights --------------------------------------------------------


@both
@pytest.mark.parametrize(("shape", "axis"), [*SHAPES, ((30_011, 3), 1), ((5, 7001), 0)])
def test_sample_weight(
    shape: tuple[int, ...], axis: int, dtype: Any, rng: np.random.Generator
) -> None:
    """The weighted share, sum and rows against longdouble; ignored rows have no weight."""
    x = rng.normal(0, 3, shape).astype(dtype).round(1)
    batch = tuple(np.delete(shape, axis))
    labels = np.asarray(np.where(rng.random(batch) < 0.5, np.argmax(x, axis), 0))
    weight = np.asarray(rng.exponential(1, batch) * 10.0 ** rng.integers(-9, 9, batch))
    weight = np.where(rng.random(batch) < 0.2, 0, weight)
    kept = np.asarray(rng.random(batch) < 0.9)
    error = ref.classification_error(x, labels, axis)
    wide = np.where(kept, weight, 0).astype(ref.WIDE)
    given = np.where(kept, labels, -100)
    f, options = lk.classification_error, {"axis": axis, "sample_weight": weight}
    rows = f(x, given, reduction="none", **options)
    np.testing.assert_array_equal(rows, error * wide)
    assert np.asarray(rows).dtype == np.float64
    ref.assert_close(f(x, given, reduction="sum", **options), np.sum(error * wide), 2)
    with np.errstate(invalid="ignore"):
        ref.assert_close(f(x, given, **options), np.sum(error * wide) / np.sum(wide), 2)


def test_weights_of_one_change_nothing(rng: np.random.Generator) -> None:
    x, labels = rng.normal(0, 3, (5003, 7)), rng.integers(0, 7, 5003)
    labels[::5] = -100
    for reduction in ("mean", "sum", "none"):
        want = lk.classification_error(x, labels, reduction=reduction)
        for weight in (1, 1.0, [1], np.ones(5003), np.ones(5003, "f4"), np.ones(1, int), True):
            got = lk.classification_error(x, labels, sample_weight=weight, reduction=reduction)
            assert_same_bits(got, want)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (6, 1), (1, 7), (6, 7), (1, 1)])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", ">f8"])
def test_sample_weight_broadcasts(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    x, labels = rng.normal(0, 3, (6, 4, 7)), rng.integers(0, 4, (6, 7))
    weight = np.asarray(rng.integers(0, 9, shape)).astype(dtype)
    full = np.broadcast_to(weight, (6, 7)).astype(np.float64)
    for reduction in ("mean", "sum", "none"):
        want = lk.classification_error(x, labels, axis=1, sample_weight=full, reduction=reduction)
        for given in (weight, np.broadcast_to(weight, (6, 7)), weight.tolist()):
            got = lk.classification_error(
                x, labels, axis=1, sample_weight=given, reduction=reduction
            )
            assert_same_bits(got, want)


@pytest.mark.parametrize("layout", layouts.ALL)
def test_layouts_of_sample_weight(layout: str, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    for shape, axis in (((40, 5), 1), ((4, 6, 20, 3), 1), ((7, 30, 2), 0), ((3, 50, 60), 2)):
        x, batch = rng.normal(0, 3, shape), np.delete(shape, axis)
        labels, weight = rng.integers(0, shape[axis], batch), rng.uniform(0, 1, batch)
        for reduction in ("mean", "sum", "none"):
            options: dict[str, Any] = {"axis": axis, "reduction": reduction}
            want = lk.classification_error(x, labels, sample_weight=weight, **options)
            for a in (x, change(x)):
                got = lk.classification_error(a, labels, sample_weight=change(weight), **options)
                assert_same_bits(got, want, layout)


@pytest.mark.parametrize("value", [NAN, INF, 7.0])
def test_a_row_of_weight_zero_contributes_nothing(value: float) -> None:
    x = np.full((5, 30), value)
    x[0] = np.arange(30)
    labels, weight = [0, 3, 3, -100, 3], [2.0, 0.0, 0.0, 5.0, 0.0]
    for axis, a in ((1, x), (0, x.T.copy())):
        f, options = lk.classification_error, {"axis": axis, "sample_weight": weight}
        assert f(a, labels, reduction="sum", **options) == 2
        assert f(a, labels, **options) == 1
        assert f(a, labels, reduction="none", **options).tolist() == [2, 0, 0, 0, 0]


def test_weights_that_sum_to_zero() -> None:
    x, labels = np.eye(4), [0, 1, 3, 3]
    for weight in (0, [0, 0, 0, 0], [1, -1, 2, -2], [0.0, -0.0, 0.0, 0.0]):
        result = lk.classification_error(x, labels, sample_weight=weight)
        assert_same_bits(result, np.float64(NAN))
    assert np.isnan(lk.classification_error(x, [0, -100, 3, 3], sample_weight=[0, 1, 0, 0]))
    assert np.isnan(lk.classification_error(x, [-100] * 4, sample_weight=1))
    assert lk.classification_error(x, [-100] * 4, sample_weight=1, reduction="sum") == 0
    empty = np.empty((0, 4)), np.empty(0, int)
    assert np.isnan(lk.classification_error(*empty, sample_weight=np.empty(0)))
    assert lk.classification_error(*empty, sample_weight=1, reduction="sum") == 0


def test_extreme_weights() -> None:
    """Sums of weights may leave the range where the share does not."""
    x, labels = np.eye(4), [0, 0, 2, 0]
    for size in (np.finfo(float).max, 5e-324, 1e-310):
        assert lk.classification_error(x, labels, sample_weight=[size] * 4) == 0.5
    assert lk.classification_error(x, labels, sample_weight=[1, 1e300, 1, 1e-300]) == 1
    for weight in ([1, NAN, 1, 1], [1, -NAN, 1, 1]):
        rows = lk.classification_error(x, labels, sample_weight=weight, reduction="none")
        assert_same_bits(rows, np.array([0, NAN, 0, 1]))
        assert_same_bits(lk.classification_error(x, labels, sample_weight=weight), np.float64(NAN))


def test_sample_weight_of_one_row() -> None:
    for x in (np.array([0.0, 1, 2]), [0.0, 1, 2]):
        for weight in (3, 3.0, np.array(3.0), np.float32(3)):
            got = lk.classification_error(x, 0, sample_weight=weight, reduction="none")
            assert_same_bits(got, np.float64(3))
            assert lk.classification_error(x, 0, sample_weight=weight) == 1
        with pytest.raises(ValueError, match=r"sample_weight has shape \(1,\)"):
            lk.classification_error(x, 0, sample_weight=[1])


@pytest.mark.usefixtures("keep_settings")
def test_levels_and_threads_of_sample_weight(rng: np.random.Generator) -> None:
    x, labels = rng.normal(0, 3, (100_003, 5)).astype(np.float32), rng.integers(0, 5, 100_003)
    weight = rng.exponential(1, 100_003) * 10.0 ** rng.integers(-9, 9, 100_003)
    with lk.threads(1):
        want = lk.classification_error(x, labels, sample_weight=weight)
    for level in core.simd_levels():
        core.set_simd_level(level)
        for count in (1, 2, 3):
            with lk.threads(count):
                got = lk.classification_error(x, labels, sample_weight=weight)
                assert_same_bits(got, want, f"{level}, {count} threads")


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (3, 4), (0,)])
def test_sample_weight_that_does_not_broadcast(shape: tuple[int, ...]) -> None:
    shown = rf"sample_weight has shape {re.escape(str(shape))}, .* {re.escape('(3,)')}"
    for x in (np.eye(3, 4), np.eye(3, 4).tolist()):
        with pytest.raises(ValueError, match=shown):
            lk.classification_error(x, [0, 1, 2], sample_weight=np.ones(shape))


@pytest.mark.parametrize(
    "weight",
    [
        np.ones(3, complex),
        np.ones(3, object),
        np.ma.masked_array(np.ones(3)),
        ["a", "b", "c"],
        np.ones(3, np.clongdouble),
    ],
)
def test_sample_weight_that_is_no_number(weight: Any) -> None:
    with pytest.raises(TypeError, match="sample_weight"):
        lk.classification_error(np.eye(3), [0, 1, 2], sample_weight=weight)


def test_a_wrong_label_beside_weights() -> None:
    with pytest.raises(IndexError, match=r"labels\[1\] is 9"):
        lk.classification_error(np.eye(3), [0, 9, 2], sample_weight=np.ones(3))


# --- errors ---------------------------------------------------------------------------------------

X = np.arange(12.0).reshape(3, 4)
LABELS = np.array([0, 3, 1])


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (X.astype(object), "object"),
        (X.astype(str), "U"),
        (X.astype(complex), "complex128"),
        (np.ma.masked_array(X, X > 2), "masked"),
        (None, "object"),
    ],
)
def test_not_numbers(bad: Any, word: str) -> None:
    for call in (
        lambda: lk.token_logprobs(bad, LABELS),
        lambda: lk.token_logprobs(X, bad),
        lambda: lk.top_k_logprobs(bad, 1),
    ):
        with pytest.raises(TypeError, match=word):
            call()


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        ([0, 4, 1], IndexError, r"labels\[1\] is 4: not in \[0, 4\) and not ignore_index \(-100\)"),
        ([0, 3, -1], IndexError, r"labels\[2\] is -1"),
        (np.array([0, 3, 4], "u1"), IndexError, r"labels\[2\] is 4"),
        (np.array([0, 3, 2**64 - 1], "u8"), IndexError, r"labels\[2\] is 18446744073709551615"),
        ([0.0, 9.0, 1.0], IndexError, r"labels\[1\] is 9"),
        ([0.0, 0.5, 1.0], ValueError, r"labels\[1\] is 0.5: not an integer"),
        ([0.0, NAN, 1.0], ValueError, r"labels\[1\] is nan"),
        ([True, False, True], TypeError, "bool"),
        ([0, 1], ValueError, r"labels have shape \(2,\), expected \(3,\)"),
        (X, ValueError, r"labels have shape \(3, 4\), expected \(3,\)"),
        (0, ValueError, r"labels have shape \(\), expected \(3,\)"),
    ],
)
def test_labels(labels: Any, error: type[Exception], words: str) -> None:
    for x in (X, X.tolist(), X.astype(np.float32)):
        with pytest.raises(error, match=words) as caught:
            lk.token_logprobs(x, labels)
        assert type(caught.value) is error


def test_a_wrong_label_along_another_axis() -> None:
    for x in (np.zeros((2, 5, 3)), np.zeros((2, 5, 3), order="F")):
        with pytest.raises(IndexError, match=r"labels\[0, 2\] is 7"):
            lk.token_logprobs(x, [[0, 0, 7], [9, 0, 0]], axis=1)


@pytest.mark.parametrize("k", [0, -1, 5, 2**40, 2**80, -(2**70)])
def test_k_out_of_range(k: int) -> None:
    for x in (X, X.tolist(), X.astype(np.float16)):
        with pytest.raises(ValueError, match=re.escape("k must be in [1, 4]")) as caught:
            lk.top_k_logprobs(x, k)
        assert str(k) in str(caught.value)
    with pytest.raises(ValueError, match=re.escape("k must be in [1, 3]")):
        lk.top_k_logprobs(X, 4, axis=0)


@pytest.mark.parametrize("k", [1.0, "1", None, [1], np.array([1, 2]), np.float64(2)])
def test_k_that_is_no_integer(k: Any) -> None:
    with pytest.raises(TypeError, match="k must be an integer"):
        lk.top_k_logprobs(X, k)


@pytest.mark.parametrize(
    ("axis", "error"),
    [
        (2, np.exceptions.AxisError),
        (-3, np.exceptions.AxisError),
        (1.0, TypeError),
        (None, TypeError),
        ((1,), TypeError),
    ],
)
def test_axis(axis: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        lk.token_logprobs(X, LABELS, axis=axis)
    with pytest.raises(error):
        lk.top_k_logprobs(X, 2, axis=axis)


def test_a_number_has_no_class_axis() -> None:
    with pytest.raises(np.exceptions.AxisError):
        lk.token_logprobs(1.0, 0)
    with pytest.raises(np.exceptions.AxisError):
        lk.top_k_logprobs(1.0, 1)


@pytest.mark.parametrize("index", [1.0, "1", [1]])
def test_ignore_index_that_is_no_integer(index: Any) -> None:
    with pytest.raises(TypeError, match="ignore_index"):
        lk.token_logprobs(X, LABELS, ignore_index=index)


def test_keywords() -> None:
    f: Any = lk.token_logprobs
    g: Any = lk.top_k_logprobs
    for call in (
        lambda: f(X, LABELS, 1),
        lambda: f(X, LABELS, dim=1),
        lambda: g(X, 1, 1),
        lambda: g(X, 1, dim=1),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3, 30, 700])
def test_temperature(dtype: npt.DTypeLike, classes: int) -> None:
    """The bits of cross-entropy and log-softmax at the same temperature."""
    rng = np.random.default_rng(classes)
    x = (rng.normal(size=(7, classes, 5)) * 5).astype(dtype)
    labels = rng.integers(0, classes, (7, 5))
    k = min(classes, 4)
    for temperature in (0.3, 1, rng.uniform(0.2, 4, (7, 5)), rng.uniform(0.2, 4, (7, 1, 1))):
        loss = lk.cross_entropy(x, labels, axis=1, reduction="none", temperature=temperature)
        logprob, is_argmax = lk.token_logprobs(x, labels, axis=1, temperature=temperature)
        np.testing.assert_array_equal(logprob, -loss)
        np.testing.assert_array_equal(is_argmax, x.argmax(1) == labels)
        values, indices = lk.top_k_logprobs(x, k, axis=1, temperature=temperature)
        np.testing.assert_array_equal(indices, lk.top_k_logprobs(x, k, axis=1)[1])
        for place in range(k):
            want, _ = lk.token_logprobs(x, indices[:, place], axis=1, temperature=temperature)
            np.testing.assert_array_equal(values[:, place], want)
    with pytest.raises(ValueError, match="temperature must be positive"):
        lk.token_logprobs(x, labels, axis=1, temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        lk.top_k_logprobs(x, k, axis=1, temperature=-1.0)
