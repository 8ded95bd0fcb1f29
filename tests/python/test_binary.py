"""Binary cross-entropy: values against mpmath, special values, weights, layouts, errors."""

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

bce = lk.binary_cross_entropy_with_logits
bce_grad = lk.binary_cross_entropy_with_logits_value_and_grad


def mp_element(x: Any, t: Any, p: Any = 1.0, w: Any = 1.0) -> tuple[Any, Any, Any]:
    """Return loss, gradient and the gradient's larger term of one element, from the definition."""
    with mpmath.workprec(4000):
        x, t, p, w = (mpmath.mpf(float(v)) for v in (x, t, p, w))
        loss = w * (p * t * mpmath.log1p(mpmath.exp(-x)) + (1 - t) * mpmath.log1p(mpmath.exp(x)))
        up, down = w * p * t / (1 + mpmath.exp(x)), w * (1 - t) / (1 + mpmath.exp(-x))
        return loss, down - up, max(abs(up), abs(down))


def logits(rng: np.random.Generator, n: int, dtype: Any) -> Array:
    """Return logits of every size, from subnormal ones to those whose exponential is gone."""
    parts = [
        rng.normal(0, 3, n),
        rng.uniform(-120, 120, n),
        rng.uniform(-800, 800, n),
        rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-30, 30, n),
        rng.integers(-9, 9, n) * float(np.finfo(dtype).smallest_subnormal),
        np.log(2) * rng.integers(-1100, 1100, n) / 2,
    ]
    return np.concatenate(parts).astype(dtype)


def test_references_agree(rng: np.random.Generator) -> None:
    x = logits(rng, 40, np.float64)
    x = x[np.abs(x) < 1e4]
    t, p, w = rng.uniform(0, 1, (3, len(x)))
    loss, grad, _ = reference.binary_cross_entropy(x, t, p, w)
    for i in range(len(x)):
        one = mp_element(x[i], t[i], p[i], w[i])
        with mpmath.workprec(200):
            assert abs(mpmath.mpf(str(loss[i])) / one[0] - 1) < 1e-18
            assert abs(mpmath.mpf(str(grad[i])) - one[1]) < 1e-18 * one[2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("targets", ["hard", "soft", "near"])
def test_each_element(dtype: Any, targets: str, rng: np.random.Generator) -> None:
    x = logits(rng, 30_000, dtype)
    t = {
        "hard": rng.integers(0, 2, len(x)),
        "soft": rng.uniform(0, 1, len(x)),
        "near": np.abs(rng.integers(0, 2, len(x)) - 10.0 ** rng.uniform(-30, 0, len(x))),
    }[targets].astype(dtype)
    loss, grad, scale = reference.binary_cross_entropy(x, t)
    got, got_grad = bce_grad(x, t, reduction="none")
    reference.assert_close(got, loss, BOUND[dtype], what="loss")
    reference.assert_close(got_grad, grad, BOUND[dtype], scale=scale, what="gradient")
    assert_same_bits(bce(x, t, reduction="none"), got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_element_weighted(dtype: Any, rng: np.random.Generator) -> None:
    x = logits(rng, 30_000, dtype)
    n = len(x)
    t = np.where(rng.integers(0, 2, n) == 1, rng.integers(0, 2, n), rng.uniform(0, 1, n))
    t = t.astype(dtype)
    p = (10.0 ** rng.uniform(-30, 30, n)).astype(dtype)
    w = (10.0 ** rng.uniform(-30, 30, n)).astype(dtype)
    p[::5] = 1
    w[::6] = 1
    g = rng.normal(0, 1, n).astype(dtype)
    loss, grad, scale = reference.binary_cross_entropy(x, t, p, w)
    options: dict[str, Any] = {"pos_weight": p, "weight": w, "reduction": "none"}
    got, got_grad = bce_grad(x, t, **options)
    reference.assert_close(got, loss, BOUND[dtype], what="loss")
    reference.assert_close(got_grad, grad, BOUND[dtype], scale=scale, what="gradient")
    _, got_grad = bce_grad(x, t, grad_output=g, **options)
    reference.assert_close(got_grad, grad * g, BOUND[dtype], scale=scale * np.abs(g.astype(WIDE)))


@given(
    x=st.floats(-1100, 1100),
    t=st.sampled_from([0.0, 1.0]) | st.floats(0, 1, allow_subnormal=False),
    p=st.floats(1e-30, 1e30),
    w=st.floats(1e-30, 1e30),
    single=st.booleans(),
)
def test_against_mpmath(x: float, t: float, p: float, w: float, single: bool) -> None:
    dtype = np.float32 if single else np.float64
    values = [np.array([v], dtype) for v in (x, t, p, w)]
    loss, grad, scale = mp_element(*(v[0] for v in values))
    got, got_grad = bce_grad(*values[:2], pos_weight=values[2], weight=values[3], reduction="none")
    largest = np.finfo(dtype).max
    if loss < largest:
        assert reference.mp_ulp_error(got, loss) <= BOUND[dtype]
    if abs(grad) < largest:
        assert reference.mp_ulp_error(got_grad, [grad], [scale]) <= BOUND[dtype]


def test_confident_predictions_keep_their_digits() -> None:
    for x, dtype in (
        (-40.0, np.float64),
        (-600.0, np.float64),
        (-740.0, np.float64),
        (-80.0, np.float32),
    ):
        want, slope, _ = mp_element(x, 0)
        loss, grad = bce_grad(np.array([x], dtype), np.array([0], dtype), reduction="none")
        assert reference.mp_ulp_error(loss, want) <= BOUND[dtype]
        assert reference.mp_ulp_error(grad, [slope]) <= BOUND[dtype]
        loss, grad = bce_grad(np.array([-x], dtype), np.array([1], dtype), reduction="none")
        assert reference.mp_ulp_error(loss, want) <= BOUND[dtype]
        assert reference.mp_ulp_error(-grad, [slope]) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 7, 16, 4096, 4097, 30011])
def test_sum_and_mean(dtype: Any, weighted: bool, n: int, rng: np.random.Generator) -> None:
    x, t = rng.normal(0, 4, n).astype(dtype), rng.integers(0, 2, n).astype(dtype)
    p, w = rng.uniform(0, 3, (2, n)).astype(dtype)
    options: dict[str, Any] = {"pos_weight": p, "weight": w} if weighted else {}
    loss, slope, _ = reference.binary_cross_entropy(x, t, *((p, w) if weighted else ()))
    mean, grad = bce_grad(x, t, grad_output=-0.75, **options)
    reference.assert_close(mean, loss.sum() / n, BOUND[dtype])
    reference.assert_close(grad, slope * WIDE(-0.75) / n, BOUND[dtype])
    assert_same_bits(bce(x, t, **options), mean)
    value, grad = bce_grad(x, t, reduction="sum", **options)
    reference.assert_close(value, loss.sum(), BOUND[dtype])
    reference.assert_close(grad, slope, BOUND[dtype])
    assert_same_bits(bce(x, t, reduction="sum", **options), value)


def test_means_overflow_only_where_a_loss_does() -> None:
    x, t = np.full(9000, -1.7e308), np.ones(9000)
    assert bce(x, t) == 1.7e308
    assert bce(x, t, weight=1.0) == 1.7e308
    assert bce(x, t, reduction="sum") == np.inf
    integers = t.astype(np.int64)
    for options in ({}, {"weight": 1.0}):
        for one, target, at in (
            (x, t, None),
            (x.copy(), t, 0),
            (x, t.copy(), 1),
            (x, integers, None),
            (x.copy(), integers, 0),
            (x, integers.copy(), 1),
        ):
            grad_out = None if at is None else (one, target)[at].view(np.float64)
            value, grad = bce_grad(one, target, grad_out=grad_out, **options)
            assert value == 1.7e308
            np.testing.assert_array_equal(grad, np.full(9000, -1 / 9000))
    x = np.full(9000, -3e38, np.float32)
    assert bce(x, t.astype(np.float32)) == np.float32(3e38)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 127, 128, 129, 1023, 1025, 4095, 5000, 20_000])
def test_one_pass_has_the_bits_of_two(
    dtype: Any, weighted: bool, n: int, rng: np.random.Generator
) -> None:
    x = rng.permutation(logits(rng, n, dtype))[:n]
    t = rng.uniform(0, 1, n).astype(dtype)
    p, w = rng.uniform(0, 3, (2, n)).astype(dtype)
    options: dict[str, Any] = {"pos_weight": p, "weight": w} if weighted else {}
    losses, grad = bce_grad(x, t, reduction="none", **options)
    assert_same_bits(bce(x, t, reduction="none", **options), losses)
    value, same = bce_grad(x, t, reduction="sum", **options)
    assert_same_bits(same, grad)
    assert_same_bits(bce(x, t, reduction="sum", **options), value)
    for operand in (x, t):
        one = operand.copy()
        operands = (one, t) if operand is x else (x, one)
        result = bce_grad(*operands, reduction="sum", grad_out=one, **options)
        assert_same_bits(one, grad)
        assert_same_bits(result[0], value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_past_the_caches(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.permutation(logits(rng, 500, dtype))
    t = rng.uniform(0, 1, len(x)).astype(dtype)
    n = (34 << 20) // x.itemsize + 5
    losses, grad = bce_grad(x, t, weight=0.3, reduction="none")
    out, many, targets = np.empty(n + 3, dtype)[3:], np.resize(x, n), np.resize(t, n)
    bce(many, targets, weight=0.3, reduction="none", out=out)
    assert_same_bits(out, np.resize(losses, n))
    total, _ = bce_grad(many, targets, weight=0.3, reduction="sum", grad_out=out)
    assert_same_bits(out, np.resize(grad, n))
    assert_same_bits(total, bce(many, targets, weight=0.3, reduction="sum"))
    out[:] = 0
    bce_grad(many, targets, weight=0.3, reduction="none", grad_out=out)
    assert_same_bits(out, np.resize(grad, n))


# --- special values ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [{}, {"weight": 1}, {"pos_weight": 1}])
def test_infinite_logits(dtype: Any, weights: dict[str, Any]) -> None:
    x = np.array([np.inf, np.inf, -np.inf, -np.inf, np.inf, -np.inf], dtype)
    t = np.array([1, 0, 0, 1, 0.25, 0.25], dtype)
    loss, grad = bce_grad(x, t, reduction="none", **weights)
    assert_same_bits(loss, np.array([0, np.inf, 0, np.inf, np.inf, np.inf], dtype))
    np.testing.assert_array_equal(grad, np.array([0, 1, 0, -1, 0.75, -0.25], dtype))
    assert bce(x[[0, 2]], t[[0, 2]], **weights) == 0
    assert bce(x, t, **weights) == np.inf
    assert bce(x[::-1], t[::-1], reduction="sum", **weights) == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_masking_logits(dtype: Any) -> None:
    x = np.array([-1e9, -1e30, np.finfo(dtype).min, 1e9, np.finfo(dtype).max], dtype)
    t = np.array([0, 0, 0, 1, 1], dtype)
    loss, grad = bce_grad(x, t, reduction="none")
    assert_same_bits(loss, np.zeros(5, dtype))
    np.testing.assert_array_equal(grad, np.zeros(5))
    loss, grad = bce_grad(x, 1 - t, reduction="none")
    assert_same_bits(loss, np.abs(x))
    np.testing.assert_array_equal(grad, np.sign(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_pos_weight_zero_meets_infinity(dtype: Any) -> None:
    x, t = np.array([-np.inf, -np.inf, 2], dtype), np.array([1, 0.5, 1], dtype)
    loss, grad = bce_grad(x, t, pos_weight=0, reduction="none")
    assert_same_bits(loss, np.zeros(3, dtype))
    np.testing.assert_array_equal(grad, np.zeros(3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan(dtype: Any) -> None:
    nan = dtype(np.nan)
    for t in (0, 1, 0.5):
        for options in ({}, {"weight": [2, 2]}, {"pos_weight": [0, 0]}):
            for sign in (1, -1):
                x = np.array([1, sign * nan], dtype)
                loss, grad = bce_grad(x, np.full(2, t, dtype), reduction="none", **options)
                assert_same_bits(loss[1], nan)
                assert_same_bits(grad[1], nan)
                assert np.isfinite(loss[0])
                for reduction in ("mean", "sum"):
                    assert_same_bits(bce(x, np.full(2, t, dtype), reduction=reduction), nan)
    one = np.ones(2, dtype)
    for name in ("weight", "pos_weight"):
        loss, grad = bce_grad(one, one, reduction="none", **{name: np.array([1, nan], dtype)})
        assert_same_bits(loss[1], nan)
        assert_same_bits(grad[1], nan)
    loss, grad = bce_grad(one, np.array([1, nan], dtype), reduction="none")
    assert_same_bits(loss[1], nan)
    assert_same_bits(grad[1], nan)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_zero_hides_nan_and_infinity(dtype: Any) -> None:
    x = np.array([0, np.nan, np.inf, -np.inf, 0, np.nan], dtype)
    t = np.array([1, 1, 0, 1, np.nan, np.nan], dtype)
    w = np.array([2, 0, 0, 0, -0.0, 0], dtype)
    loss, grad = bce_grad(x, t, weight=w, reduction="none")
    assert_same_bits(loss, np.array([2 * np.log(2), 0, 0, 0, 0, 0], dtype))
    assert_same_bits(grad, np.array([-1, 0, 0, 0, 0, 0], dtype))
    reference.assert_close(bce(x, t, weight=w, reduction="sum"), 2 * np.log(WIDE(2)), 1)
    reference.assert_close(bce(x, t, weight=w), np.log(WIDE(2)) / 3, 1)


# --- forms of the arguments ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 7), (700, 3), (2, 1), (1, 9000), (3, 5001)])
def test_weights_broadcast(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, t = rng.normal(0, 3, shape).astype(dtype), rng.integers(0, 2, shape).astype(dtype)
    forms = [(), (1,), shape[-1:], shape, (1, *shape[1:]), (*shape[:-1], 1)]
    for name in ("pos_weight", "weight"):
        for form in forms:
            w = rng.uniform(0.5, 2, form).astype(dtype)
            whole = np.array(np.broadcast_to(w, shape))
            for reduction in ("mean", "none"):
                want = bce_grad(x, t, reduction=reduction, **{name: whole})
                for one in (w, np.broadcast_to(w, shape), w.tolist()):
                    got = bce_grad(x, t, reduction=reduction, **{name: one})
                    assert_same_bits(got[0], want[0], f"{name} {form} {reduction}")
                    assert_same_bits(got[1], want[1], f"{name} {form} {reduction} gradient")
    row, column = rng.uniform(0.5, 2, shape[-1:]), rng.uniform(0.5, 2, (*shape[:-1], 1))
    row, column = row.astype(dtype), column.astype(dtype)
    loss, slope, scale = reference.binary_cross_entropy(x, t, row, column)
    got, grad = bce_grad(x, t, pos_weight=row, weight=column, reduction="none")
    reference.assert_close(got, loss, BOUND[dtype])
    reference.assert_close(grad, slope, BOUND[dtype], scale=scale)


@pytest.mark.parametrize(
    "target",
    [*"?bBhHiIlLqQ", ">i4", np.float16, np.float64, ">f4"],
)
def test_targets_of_any_dtype(target: Any, rng: np.random.Generator) -> None:
    for dtype in (np.float16, *DTYPES):
        x, t = rng.normal(0, 3, (4, 5)).astype(dtype), rng.integers(0, 2, (4, 5))
        want = bce_grad(x, t.astype(dtype), weight=2, reduction="none")
        got = bce_grad(x, t.astype(target), weight=2, reduction="none")
        assert_same_bits(got[0], want[0])
        assert_same_bits(got[1], want[1])
        assert_same_bits(bce(x, t.astype(target), weight=2), bce(x, t.astype(dtype), weight=2))
        assert got[1].dtype == dtype
        assert got[0].dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert bce(rng.integers(0, 3, 4), [True] * 4).dtype == np.float64


def test_integer_targets_beside_their_bits(rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, 10_007)
    t = rng.integers(0, 2, x.size)
    want = bce_grad(x, t.astype(float))
    assert_same_bits(bce_grad(x, t)[1], want[1])
    assert_same_bits(bce(x, t), want[0])
    # The gradient over the memory of the targets, and of half of them.
    wide = t.copy()
    bce_grad(x, wide, grad_out=wide.view(np.float64))
    assert_same_bits(wide.view(np.float64), want[1])
    space = np.zeros(2 * x.size, np.int32)
    narrow = space[: x.size]
    narrow[:] = t
    bce_grad(x, narrow, grad_out=space.view(np.float64))
    assert_same_bits(space.view(np.float64), want[1])


def test_dtype_chooses_the_computation(rng: np.random.Generator) -> None:
    x, t = rng.normal(0, 1, (2, 10)).astype(np.float32)
    for reduction in ("mean", "none"):
        for w in (None, 0.5, rng.uniform(0, 1, 10)):
            options: dict[str, Any] = {"weight": w, "reduction": reduction}
            want = bce(x.astype(np.float64), t, **options)
            assert_same_bits(bce(x, t, dtype=np.float64, **options), want)
            want = bce(x, t, **options)
            assert_same_bits(bce(x.tolist(), t.tolist(), dtype=np.float32, **options), want)
    with pytest.raises(TypeError, match="dtype must be float16, bfloat16, float32 or float64"):
        bce(x, t, dtype=int)


@pytest.mark.parametrize("layout", layouts.ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    x, t = rng.normal(0, 9, (13, 5, 17)).astype(dtype), rng.uniform(0, 1, (13, 5, 17)).astype(dtype)
    p = rng.uniform(0, 1, x.shape).astype(dtype)
    for reduction in ("mean", "none"):
        want = bce_grad(x, t, pos_weight=p, reduction=reduction)
        got = bce_grad(change(x), change(t), pos_weight=change(p), reduction=reduction)
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a, b, layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_position_does_not_matter(dtype: Any, rng: np.random.Generator) -> None:
    x = logits(rng, 50, dtype)
    x[:4] = [np.inf, np.nan, -np.inf, 0]
    t = rng.uniform(0, 1, len(x)).astype(dtype)
    for options in ({}, {"weight": 0.3, "pos_weight": 3}):
        loss, grad = bce_grad(x, t, reduction="none", **options)
        for i in range(len(x)):
            one, slope = bce_grad(x[i : i + 1], t[i : i + 1], reduction="none", **options)
            assert_same_bits(one[0], loss[i])
            assert_same_bits(slope[0], grad[i])


@pytest.mark.usefixtures("keep_settings")
@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_and_threads(dtype: Any, rng: np.random.Generator) -> None:
    x = logits(rng, 50_000, dtype).reshape(-1, 100)
    t = rng.integers(0, 2, x.shape).astype(dtype)
    x[0, :3] = [np.inf, np.nan, -np.inf]
    w = rng.uniform(0, 1, (*x.shape[:-1], 1)).astype(dtype)
    w[0] = 0
    finite = np.abs(np.nan_to_num(x)).clip(0, 1e6)
    for options in ({}, {"pos_weight": rng.uniform(0, 3, 100).astype(dtype), "weight": w}):
        for reduction in ("mean", "none"):
            want: Any = None
            for level in core.simd_levels():
                core.set_simd_level(level)
                for threads in (1, 2, 5):
                    lk.set_num_threads(threads)
                    got = (
                        *bce_grad(x, t, reduction=reduction, **options),
                        bce(finite, t, reduction=reduction, **options),
                    )
                    want = want or got
                    for a, b in zip(got, want, strict=True):
                        assert_same_bits(a, b, f"{level} {threads}")


def test_outputs_in_place_and_overlapping(rng: np.random.Generator) -> None:
    x, t, w = rng.uniform(0.2, 1, (3, 11, 7))
    loss, grad = bce_grad(x, t, weight=w, reduction="none")
    for i in range(3):
        operands = [x.copy(), t.copy(), w.copy()]
        out = operands[i]
        assert bce(*operands[:2], weight=operands[2], reduction="none", out=out) is out
        assert_same_bits(out, loss)
        operands = [x.copy(), t.copy(), w.copy()]
        result = bce_grad(*operands[:2], weight=operands[2], reduction="none", grad_out=operands[i])
        assert_same_bits(operands[i], grad)
        assert_same_bits(result[0], loss)
    shifted = np.zeros(x.size + 3)
    shifted[3:] = x.ravel()
    result = bce_grad(shifted[3:], t.ravel(), reduction="none", grad_out=shifted[:-3])
    assert_same_bits(result[1].reshape(x.shape), bce_grad(x, t, reduction="none")[1])
    zero = np.zeros(())
    assert bce(x, t, out=zero) is zero
    assert zero == bce(x, t)


def test_empty_and_0d() -> None:
    loss, grad = bce_grad(np.zeros((0, 3)), np.zeros((0, 3)), pos_weight=[1, 2, 3])
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
    assert bce([], [], reduction="sum") == 0
    loss, grad = bce_grad(0.0, 1)
    assert (loss, grad) == (np.log(2), -0.5)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_finite_differences(reduction: str, rng: np.random.Generator) -> None:
    x, t, p, w = rng.normal(0, 2, (4, 3, 5))
    t = np.abs(t) % 1
    options: dict[str, Any] = {"pos_weight": p**2, "weight": w, "reduction": reduction}
    g = rng.normal(0, 1, (3, 5)) if reduction == "none" else 1.5
    _, grad = bce_grad(x, t, grad_output=g, **options)
    step = 1e-5
    for i in np.ndindex(x.shape):
        d = np.zeros_like(x)
        d[i] = step
        rise = np.sum(g * (bce(x + d, t, **options) - bce(x - d, t, **options)))
        assert grad[i] == pytest.approx(rise / (2 * step), rel=1e-6, abs=1e-9)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"targets": np.ones(4)}, ValueError, r"logits have shape \(3, 4\).*targets.*\(4,\)"),
        ({"targets": np.ones((3, 1))}, ValueError, r"\(3, 1\)"),
        ({"targets": 1.0}, ValueError, r"\(\)"),
        ({"targets": np.ones((3, 4), complex)}, TypeError, "targets has dtype complex128"),
        ({"logits": np.ma.ones((3, 4))}, TypeError, "logits is a masked array"),
        ({"pos_weight": np.ones(3)}, ValueError, r"pos_weight has shape \(3,\).*\(3, 4\)"),
        ({"weight": np.ones((2, 3, 4))}, ValueError, r"weight has shape \(2, 3, 4\)"),
        ({"weight": np.array(["a"])}, TypeError, "weight"),
        ({"reduction": "batchmean"}, ValueError, "'mean', 'sum', 'none'"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"logits": np.ones((3, 4)), "targets": np.ones((3, 4))} | change
    out = np.full((3, 4), 7.0)
    with pytest.raises(error, match=words):
        bce_grad(**arguments, grad_out=out)
    with pytest.raises(error, match=words):
        bce(**({"reduction": "none"} | arguments), out=out)
    assert np.all(out == 7)


def test_errors_of_outputs() -> None:
    x = np.ones((3, 4))
    with pytest.raises(TypeError, match="grad_out has dtype float32"):
        bce_grad(x, x, grad_out=np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match="grad_out has shape"):
        bce_grad(x, x, grad_out=np.ones(4))
    with pytest.raises(ValueError, match="read-only"):
        bce(x, x, reduction="none", out=layouts.read_only(x))
    with pytest.raises(ValueError, match="out has shape"):
        bce(x, x, out=np.ones(3))
    with pytest.raises(ValueError, match="grad_output has shape"):
        bce_grad(x, x, grad_output=np.ones(4))


# --- other libraries -----------------------------------------------------------------------------


def test_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    function = torch.nn.functional.binary_cross_entropy_with_logits
    x, w = rng.normal(0, 5, (2, 6, 5))
    t, p = rng.uniform(0, 1, (6, 5)), rng.uniform(0, 3, 5)
    for targets in (t, t.round()):
        for pos_weight in (None, p):
            for weight in (None, w, w[:, :1], w[0]):
                for reduction in ("mean", "sum"):
                    leaf = torch.from_numpy(x).requires_grad_()
                    want = function(
                        leaf,
                        torch.from_numpy(targets),
                        None if weight is None else torch.from_numpy(weight),
                        reduction=reduction,
                        pos_weight=None if pos_weight is None else torch.from_numpy(pos_weight),
                    )
                    want.backward()
                    loss, grad = bce_grad(
                        x, targets, pos_weight=pos_weight, weight=weight, reduction=reduction
                    )
                    np.testing.assert_allclose(loss, want.item(), rtol=1e-12)
                    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-11, atol=1e-12)
