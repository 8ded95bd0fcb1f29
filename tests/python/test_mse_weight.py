"""Weighted mean squared errors: values, denominators, zero weights, layouts, errors."""

from __future__ import annotations

from typing import Any

import layouts
import logitkit as lk
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


def spread(rng: np.random.Generator, n: int, dtype: Any, powers: int) -> Array:
    """Return numbers of both signs whose decimal exponents lie between -powers and powers."""
    size = 10.0 ** rng.uniform(-powers, powers, n)
    return np.asarray(size * rng.choice([-1, 1], n)).astype(dtype)


def truth(p: Array, t: Array, w: Array) -> tuple[Array, Array]:
    """Return ``w (p - t)^2`` and ``2 w (p - t)``, 0 where w is 0."""
    with np.errstate(all="ignore"):
        d, w = p.astype(WIDE) - t.astype(WIDE), w.astype(WIDE)
        return np.where(w == 0, 0, w * d * d), np.where(w == 0, 0, 2 * w * d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("powers", [1, 18, 30, 150, 300])
def test_each_element(dtype: Any, powers: int, rng: np.random.Generator) -> None:
    if dtype == np.float32:
        powers = min(powers, 44)  # subnormal numbers included
    n = 5003
    p, t = spread(rng, n, dtype, min(powers, 38)), spread(rng, n, dtype, min(powers, 38))
    if dtype == np.float64:
        p, t = spread(rng, n, dtype, powers), spread(rng, n, dtype, powers)
    w = np.abs(spread(rng, n, dtype, min(powers, 38) if dtype == np.float32 else powers))
    if dtype == np.float32:
        p[::3] *= np.float32(1e-20)
        w[::5] *= np.float32(1e-20)
    w[::7] = 0
    loss, grad = truth(p, t, w)
    got, got_grad = lk.mse_loss_value_and_grad(p, t, weight=w, reduction="none")
    reference.assert_close(got, loss, BOUND[dtype], what="loss")
    reference.assert_close(got_grad, grad, BOUND[dtype], what="gradient")
    assert np.all(got[::7] == 0)
    assert np.all(got_grad[::7] == 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 16, 4096, 4097, 30011])
def test_sum_and_mean(dtype: Any, n: int, rng: np.random.Generator) -> None:
    p, t = rng.normal(0, 3, (2, n)).astype(dtype)
    w = rng.uniform(0, 2, n).astype(dtype)
    loss, slope = truth(p, t, w)
    total = w.astype(WIDE).sum()
    mean, grad = lk.mse_loss_value_and_grad(p, t, weight=w, grad_output=-0.75)
    reference.assert_close(mean, loss.sum() / total, BOUND[dtype])
    reference.assert_close(grad, slope * WIDE(-0.75) / total, BOUND[dtype])
    assert_same_bits(lk.mse_loss(p, t, weight=w), mean)
    value, grad = lk.mse_loss_value_and_grad(p, t, weight=w, reduction="sum")
    reference.assert_close(value, loss.sum(), BOUND[dtype])
    reference.assert_close(grad, slope, BOUND[dtype])
    assert_same_bits(lk.mse_loss(p, t, weight=w, reduction="sum"), value)
    factors = rng.normal(0, 1, n).astype(dtype)
    _, grad = lk.mse_loss_value_and_grad(p, t, weight=w, reduction="none", grad_output=factors)
    reference.assert_close(grad, slope * factors, BOUND[dtype])


@pytest.mark.parametrize(
    "powers", [(-300, -200), (-160, -150), (150, 160), (200, 300), (-300, 300)]
)
def test_sums_of_any_magnitude(powers: tuple[int, int], rng: np.random.Generator) -> None:
    for weights in ((-300, -250), (-5, 5), (250, 300)):
        n = 4500
        p = 10.0 ** rng.uniform(*powers, n)
        t = 10.0 ** rng.uniform(*powers, n)
        w = 10.0 ** rng.uniform(*weights, n)
        loss, slope = truth(p, t, w)
        total = w.astype(WIDE).sum()
        reference.assert_close(lk.mse_loss(p, t, weight=w, reduction="sum"), loss.sum(), 4)
        value, grad = lk.mse_loss_value_and_grad(p, t, weight=w)
        reference.assert_close(value, loss.sum() / total, 4)
        reference.assert_close(grad, slope / total, 4)


def test_difference_beyond_the_range() -> None:
    p, t, w = np.array([1.7e308]), np.array([-1.7e308]), np.array([5e-324])
    reference.assert_close(lk.mse_loss(p, t, weight=w, reduction="none"), truth(p, t, w)[0], 4)
    reference.assert_close(lk.mse_loss(p, t, weight=w, reduction="sum"), truth(p, t, w)[0][0], 4)
    assert lk.mse_loss(p, t, weight=w) == np.inf
    assert lk.mse_loss_value_and_grad(p, t, weight=w, reduction="sum")[1] == pytest.approx(
        float(truth(p, t, w)[1][0])
    )


def test_weight_zero_hides_nan_and_infinity() -> None:
    for dtype in DTYPES:
        p = np.array([1, np.nan, np.inf, 3, -np.inf], dtype)
        t = np.array([0, 1, 1, np.nan, -np.inf], dtype)
        w = np.array([2, 0, 0, -0.0, 0], dtype)
        loss, grad = lk.mse_loss_value_and_grad(p, t, weight=w, reduction="none")
        assert_same_bits(loss, np.array([2, 0, 0, 0, 0], dtype))
        assert_same_bits(grad, np.array([4, 0, 0, 0, 0], dtype))
        mean, grad = lk.mse_loss_value_and_grad(p, t, weight=w)
        assert mean == 1
        assert_same_bits(grad, np.array([2, 0, 0, 0, 0], dtype))
        assert lk.mse_loss(p, t, weight=w, reduction="sum") == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_that_count(dtype: Any) -> None:
    nan, one = np.array([np.nan, 1], dtype), np.ones(2, dtype)
    infinite = np.array([np.inf, 1], dtype)  # times a difference of 0
    for p, t, w in ((nan, one, one), (one, nan, one), (one, one, nan), (one, one, infinite)):
        loss, grad = lk.mse_loss_value_and_grad(p, t, weight=w, reduction="none")
        assert_same_bits(loss, np.array([np.nan, 0], dtype))
        assert_same_bits(grad, np.array([np.nan, 0], dtype))
        for reduction in ("mean", "sum"):
            assert_same_bits(lk.mse_loss(p, t, weight=w, reduction=reduction), dtype(np.nan))
    p = np.array([np.inf, 1], dtype)
    assert lk.mse_loss(p, one, weight=one) == np.inf
    assert lk.mse_loss(p, one, weight=-one, reduction="sum") == -np.inf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("w", [[0, 0, 0], [1, -1, 0]])
def test_weights_that_sum_to_zero(dtype: Any, w: list[float]) -> None:
    p = np.array([1, np.inf, np.nan], dtype)
    loss, grad = lk.mse_loss_value_and_grad(p, np.zeros(3, dtype), weight=np.array(w, dtype))
    assert_same_bits(loss, dtype(np.nan))
    assert_same_bits(grad, np.zeros(3, dtype))
    if not any(w):
        loss, grad = lk.mse_loss_value_and_grad(p, p[::-1], weight=0, reduction="sum")
        assert (loss, grad.tolist()) == (0, [0, 0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(6, 5), (3, 4, 7), (700, 3), (5000,), (2, 1), (1, 9000), (3, 5001)]
)
def test_weights_broadcast(dtype: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    p, t = rng.normal(0, 1, (2, *shape)).astype(dtype)
    forms = [(), (1,), shape[-1:], shape, (1, *shape[1:]), (*shape[:-1], 1)]
    for form in forms:
        w = rng.uniform(0.5, 2, form).astype(dtype)
        whole = np.array(np.broadcast_to(w, shape))
        for reduction in ("mean", "sum", "none"):
            want = lk.mse_loss_value_and_grad(p, t, weight=whole, reduction=reduction)
            for one in (w, np.broadcast_to(w, shape), w.tolist()):
                got = lk.mse_loss_value_and_grad(p, t, weight=one, reduction=reduction)
                alone = lk.mse_loss(p, t, weight=one, reduction=reduction)
                assert_same_bits(got[0], want[0], f"{form} {reduction}")
                assert_same_bits(got[1], want[1], f"{form} {reduction} gradient")
                assert_same_bits(alone, want[0], f"{form} {reduction} alone")


@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple),
    dropped=st.integers(0, 3),
    ones=st.integers(0, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_broadcast(shape: tuple[int, ...], dropped: int, ones: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, t = rng.normal(0, 1, (2, *shape))
    form = tuple(1 if ones >> i & 1 else n for i, n in enumerate(shape))[dropped:]
    w = rng.uniform(0, 1, form)
    whole = np.broadcast_to(w, shape)
    loss, slope = truth(p, t, whole)
    value, grad = lk.mse_loss_value_and_grad(p, t, weight=w)
    reference.assert_close(value, loss.sum() / whole.astype(WIDE).sum(), 4)
    reference.assert_close(grad, slope / whole.astype(WIDE).sum(), 4)


@pytest.mark.parametrize("layout", layouts.ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    p, t = rng.normal(0, 1, (2, 13, 5, 17)).astype(dtype)
    w = rng.uniform(0, 1, p.shape).astype(dtype)
    for reduction in ("mean", "none"):
        want = lk.mse_loss_value_and_grad(p, t, weight=w, reduction=reduction)
        got = lk.mse_loss_value_and_grad(
            change(p), change(t), weight=change(w), reduction=reduction
        )
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a, b, layout)


@pytest.mark.usefixtures("keep_settings")
@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_and_threads(dtype: Any, rng: np.random.Generator) -> None:
    p, t = rng.normal(0, 1, (2, 300_007)).astype(dtype)
    w = rng.uniform(-0.2, 1, p.shape).astype(dtype).clip(0)
    p[:5] = [np.inf, np.nan, 0, -np.inf, 1e30]
    w[:5] = [0, 0, 0, 0, 1e-30]
    row = w[: 300_007 // 41]
    for n, weight in ((300_007, w), (41 * len(row), row), (300_007, w[:1] + 1)):
        a, b = p[:n].reshape(-1, len(weight)), t[:n].reshape(-1, len(weight))
        want = None
        for level in core.simd_levels():
            core.set_simd_level(level)
            for threads in (1, 2, 5):
                lk.set_num_threads(threads)
                got = lk.mse_loss_value_and_grad(a, b, weight=weight)
                want = want or got
                assert_same_bits(got[0], want[0], f"{level} {threads}")
                assert_same_bits(got[1], want[1], f"{level} {threads}")


def test_outputs_in_place_and_overlapping(rng: np.random.Generator) -> None:
    p, t, w = rng.uniform(0.5, 1, (3, 11, 7))
    loss, grad = lk.mse_loss_value_and_grad(p, t, weight=w, reduction="none")
    for i in range(3):
        operands = [p.copy(), t.copy(), w.copy()]
        out = operands[i]
        assert lk.mse_loss(*operands[:2], weight=operands[2], reduction="none", out=out) is out
        assert_same_bits(out, loss)
        operands = [p.copy(), t.copy(), w.copy()]
        out = operands[i]
        lk.mse_loss_value_and_grad(
            *operands[:2], weight=operands[2], reduction="none", grad_out=out
        )
        assert_same_bits(out, grad)


def test_dtypes_follow_pred_and_target(rng: np.random.Generator) -> None:
    p, t = rng.normal(0, 1, (2, 10)).astype(np.float32)
    w = rng.uniform(0, 1, 10)
    for weight in (w, w.astype(np.float16), list(range(10)), 0.1, np.arange(10, dtype=np.uint8)):
        loss, grad = lk.mse_loss_value_and_grad(p, t, weight=weight)
        assert loss.dtype == np.float32
        assert grad.dtype == np.float32
    half = lk.mse_loss_value_and_grad(p.astype(np.float16), t.astype(np.float16), weight=w)
    assert half[0].dtype == np.float32
    assert half[1].dtype == np.float16


def test_dtype_chooses_the_computation(rng: np.random.Generator) -> None:
    p, t = rng.normal(0, 1, (2, 10)).astype(np.float32)
    for reduction in ("mean", "none"):
        for w in (None, 0.5, rng.uniform(0, 1, 10)):
            options: dict[str, Any] = {"weight": w, "reduction": reduction}
            want = lk.mse_loss(p.astype(np.float64), t.astype(np.float64), **options)
            assert_same_bits(lk.mse_loss(p, t, dtype=np.float64, **options), want)
            want = lk.mse_loss(p, t, **options)
            for dtype in ("float32", np.float16):
                assert_same_bits(lk.mse_loss(p.tolist(), t.tolist(), dtype=dtype, **options), want)
    for wrong in (int, complex, "U1", object):
        with pytest.raises(TypeError, match="dtype must be float16, bfloat16, float32 or float64"):
            lk.mse_loss(p, t, dtype=wrong)


def test_empty_and_0d() -> None:
    loss, grad = lk.mse_loss_value_and_grad(np.zeros((0, 3)), np.zeros((0, 3)), weight=[1, 2, 3])
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
    assert lk.mse_loss([], [], weight=1, reduction="sum") == 0
    loss, grad = lk.mse_loss_value_and_grad(3.0, 1.0, weight=0.5)
    assert (loss, grad) == (4, 4)


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (np.ones(3), ValueError, r"weight has shape \(3,\).*\(3, 4\)"),
        (np.ones((2, 3, 4)), ValueError, r"\(2, 3, 4\).*\(3, 4\)"),
        (np.ones((4, 1)), ValueError, r"\(4, 1\)"),
        (np.ones(0), ValueError, r"\(0,\)"),
        (np.ones(4, complex), TypeError, "weight has dtype complex128"),
        (np.array(["a"] * 4), TypeError, "weight"),
        (np.ma.ones(4), TypeError, "weight is a masked array"),
    ],
)
def test_errors(weight: Any, error: type[Exception], words: str) -> None:
    x, out = np.ones((3, 4)), np.full((3, 4), 7.0)
    for reduction in ("mean", "none"):
        with pytest.raises(error, match=words):
            lk.mse_loss_value_and_grad(x, x, weight=weight, reduction=reduction, grad_out=out)
        with pytest.raises(error, match=words):
            lk.mse_loss(x, x, weight=weight, reduction="none", out=out)
    assert np.all(out == 7)


def test_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    if "weight" not in torch.nn.functional.mse_loss.__code__.co_varnames:
        pytest.skip("this torch has no weights")
    p, t = rng.normal(0, 1, (2, 6, 5))
    w = rng.uniform(0, 2, (6, 5))
    for reduction in ("mean", "sum", "none"):
        want = torch.nn.functional.mse_loss(
            *map(torch.from_numpy, (p, t)), weight=torch.from_numpy(w), reduction=reduction
        )
        got = lk.mse_loss(p, t, weight=w, reduction=reduction)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-14)
