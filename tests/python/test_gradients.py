"""Gradients are the derivatives of the values beside them: finite differences and identities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

STEP = 2.0**-17
TOLERANCE = 2e-9

SHAPES_AND_AXES = [((6,), -1), ((4, 5), 1), ((4, 5), 0), ((2, 5, 3), 1), ((2, 3, 2, 3), -2)]


def derivative(f: Callable[[Array], Any], x: Array) -> Array:
    """Return the central differences of a scalar function with respect to every entry."""
    result = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        high, low = x.copy(), x.copy()
        high[index] += STEP
        low[index] -= STEP
        result[index] = (f(high) - f(low)) / (2 * STEP)
    return result


def assert_near(got: Array, expected: Array) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * (1 + np.abs(got).max()))


def without(shape: Shape, axis: int) -> Shape:
    return tuple(np.delete(shape, axis))


# --- finite differences --------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_cross_entropy(shape: Shape, axis: int, reduction: str, rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, shape)
    labels = rng.integers(0, shape[axis], without(shape, axis))
    if labels.ndim:
        labels.reshape(-1)[-1] = -100
    options: dict[str, Any] = {"axis": axis, "reduction": reduction}
    _, grad = lk.cross_entropy_value_and_grad(x, labels, grad_output=1.5, **options)
    assert_near(grad, derivative(lambda v: 1.5 * lk.cross_entropy(v, labels, **options), x))


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_cross_entropy_of_single_rows(shape: Shape, axis: int, rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, shape)
    labels = rng.integers(0, shape[axis], without(shape, axis))
    factor = rng.normal(0, 1, labels.shape)
    _, grad = lk.cross_entropy_value_and_grad(
        x, labels, axis=axis, reduction="none", grad_output=factor
    )

    def weighted(v: Array) -> Any:
        return np.sum(factor * lk.cross_entropy(v, labels, axis=axis, reduction="none"))

    assert_near(grad, derivative(weighted, x))


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_cross_entropy_of_probabilities(
    shape: Shape, axis: int, reduction: str, normalised: bool, rng: np.random.Generator
) -> None:
    x, t = rng.normal(0, 2, shape), rng.uniform(0, 1, shape)
    if normalised:
        t /= t.sum(axis=axis, keepdims=True)
    _, grad = lk.cross_entropy_value_and_grad(x, t, axis=axis, reduction=reduction)
    assert_near(
        grad, derivative(lambda v: lk.cross_entropy(v, t, axis=axis, reduction=reduction), x)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 2)])
def test_mse(shape: Shape, reduction: str, rng: np.random.Generator) -> None:
    pred, target = rng.normal(0, 1, shape), rng.normal(0, 1, shape)
    pred, target = np.asarray(pred), np.asarray(target)
    _, grad = lk.mse_loss_value_and_grad(pred, target, reduction=reduction, grad_output=-0.5)
    expected = derivative(lambda v: -0.5 * lk.mse_loss(v, target, reduction=reduction), pred)
    assert_near(np.asarray(grad), expected)


AXES = [((6,), None), ((4, 5), 1), ((4, 5), 0), ((3, 4), None), ((2, 5, 3), 1), ((2, 3, 4), (0, 2))]


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_softmax(shape: Shape, axis: Any, rng: np.random.Generator) -> None:
    x, factor = rng.normal(0, 2, shape), rng.normal(0, 1, shape)
    got = lk.softmax_backward(factor, lk.softmax(x, axis), axis)
    assert_near(got, derivative(lambda v: np.sum(factor * lk.softmax(v, axis)), x))


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_log_softmax(shape: Shape, axis: Any, rng: np.random.Generator) -> None:
    x, factor = rng.normal(0, 2, shape), rng.normal(0, 1, shape)
    got = lk.log_softmax_backward(factor, lk.log_softmax(x, axis), axis)
    assert_near(got, derivative(lambda v: np.sum(factor * lk.log_softmax(v, axis)), x))


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("with_factors", [False, True])
@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_logsumexp(
    shape: Shape, axis: Any, with_factors: bool, keepdims: bool, rng: np.random.Generator
) -> None:
    x = rng.normal(0, 2, shape)
    b = rng.uniform(0.5, 2, shape) if with_factors else None
    lse = lk.logsumexp(x, axis, b, keepdims)
    factor = rng.normal(0, 1, np.shape(lse))
    got = lk.logsumexp_backward(factor, x, lse, axis, b, keepdims)
    expected = derivative(lambda v: np.sum(factor * lk.logsumexp(v, axis, b, keepdims)), x)
    assert_near(got, expected)


# --- identities ----------------------------------------------------------------------------------

DTYPES = [np.float32, np.float64]


def epsilon(dtype: Any) -> float:
    return float(np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [2, 3, 10, 64, 100, 1000])
def test_cross_entropy_gradient_sums_to_zero(c: int, dtype: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 4, (50, c)).astype(dtype)
    _, grad = lk.cross_entropy_value_and_grad(x, rng.integers(0, c, 50), reduction="none")
    total = grad.astype(np.longdouble).sum(axis=1)
    assert np.abs(total).max() <= 8 * epsilon(dtype)
    t = rng.uniform(0, 1, x.shape)
    t = (t / t.sum(axis=1, keepdims=True)).astype(dtype)
    _, grad = lk.cross_entropy_value_and_grad(x, t, reduction="none")
    assert np.abs(grad.astype(np.longdouble).sum(axis=1)).max() <= 8 * epsilon(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [2, 3, 10, 64, 100, 1000])
def test_cross_entropy_gradient_is_softmax_minus_onehot(
    c: int, dtype: Any, rng: np.random.Generator
) -> None:
    x = rng.normal(0, 4, (50, c)).astype(dtype)
    labels = rng.integers(0, c, 50)
    loss, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="none")
    expected = lk.softmax(x, 1) - np.eye(c, dtype=dtype)[labels]
    np.testing.assert_allclose(grad, expected, rtol=8 * epsilon(dtype), atol=2 * epsilon(dtype))
    log_p = np.take_along_axis(lk.log_softmax(x, 1), labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(loss, -log_p, rtol=8 * epsilon(dtype))
    lse = lk.logsumexp(x, 1) - x[np.arange(50), labels]
    np.testing.assert_allclose(loss, lse, rtol=0, atol=40 * epsilon(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_backward_is_orthogonal_to_ones(dtype: Any, rng: np.random.Generator) -> None:
    """Adding a constant to the logits changes nothing, so the gradient sums to 0."""
    x = rng.normal(0, 4, (50, 33)).astype(dtype)
    factor = rng.normal(0, 1, x.shape).astype(dtype)
    got = lk.softmax_backward(factor, lk.softmax(x, 1), 1)
    assert np.abs(got.astype(np.longdouble).sum(axis=1)).max() <= 64 * epsilon(dtype)
    got = lk.softmax_backward(np.ones_like(x), lk.softmax(x, 1), 1)
    assert np.abs(got).max() <= 16 * epsilon(dtype)
    got = lk.log_softmax_backward(factor, lk.log_softmax(x, 1), 1)
    size = np.abs(factor).sum(axis=1).max()
    assert np.abs(got.astype(np.longdouble).sum(axis=1)).max() <= 64 * epsilon(dtype) * size


@pytest.mark.parametrize("axis", [0, 1, 2, None, (0, 2)])
def test_functions_agree_with_each_other(axis: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (4, 5, 6))
    p, log_p = lk.softmax(x, axis), lk.log_softmax(x, axis)
    lse = lk.logsumexp(x, axis, keepdims=True)
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-14)
    np.testing.assert_allclose(x - lse, log_p, rtol=0, atol=1e-14)
    ones = np.ones_like(lse)
    np.testing.assert_allclose(
        lk.logsumexp_backward(ones, x, lse, axis, keepdims=True), p, rtol=1e-14
    )
    np.testing.assert_allclose(p.sum(axis=axis), 1, rtol=1e-15 * 8)
    factor = rng.normal(0, 1, x.shape)
    chained = lk.softmax_backward(factor / p, p, axis)
    np.testing.assert_allclose(
        lk.log_softmax_backward(factor, log_p, axis), chained, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_onehot_probabilities_are_hard_labels(axis: int, rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (7, 7))
    labels = rng.integers(0, 7, 7)
    onehot = np.eye(7)[labels]
    hard = lk.cross_entropy_value_and_grad(x, labels, axis=axis)
    soft = lk.cross_entropy_value_and_grad(x, onehot if axis else onehot.T, axis=axis)
    np.testing.assert_allclose(soft[0], hard[0], rtol=2e-15)
    np.testing.assert_allclose(soft[1], hard[1], rtol=0, atol=1e-15)


def test_loss_beside_the_gradient_is_the_loss(rng: np.random.Generator) -> None:
    x, t = rng.normal(0, 3, (20, 7)), rng.uniform(0, 1, (20, 7))
    labels = rng.integers(0, 7, 20)
    for reduction in ("mean", "sum", "none"):
        for given in (labels, t):
            alone = lk.cross_entropy(x, given, reduction=reduction)
            beside, _ = lk.cross_entropy_value_and_grad(x, given, reduction=reduction)
            assert np.array_equal(alone, beside)
        alone = lk.mse_loss(x, t, reduction=reduction)
        beside, _ = lk.mse_loss_value_and_grad(x, t, reduction=reduction)
        assert np.array_equal(alone, beside)


def test_reductions_scale_the_gradient(rng: np.random.Generator) -> None:
    x, t = rng.normal(0, 3, (16, 7)), rng.uniform(0, 1, (16, 7))
    labels = rng.integers(0, 7, 16)
    for given in (labels, t):
        losses, single = lk.cross_entropy_value_and_grad(x, given, reduction="none")
        total, summed = lk.cross_entropy_value_and_grad(x, given, reduction="sum")
        mean, averaged = lk.cross_entropy_value_and_grad(x, given)
        assert np.array_equal(single, summed)
        np.testing.assert_allclose(averaged, single / 16, rtol=1e-15)
        np.testing.assert_allclose([total, mean], [losses.sum(), losses.mean()], rtol=1e-14)
    single = lk.mse_loss_value_and_grad(x, t, reduction="none")[1]
    assert np.array_equal(single, 2 * (x - t))
    assert np.array_equal(lk.mse_loss_value_and_grad(x, t, reduction="sum")[1], single)
    averaged = lk.mse_loss_value_and_grad(x, t)[1]
    np.testing.assert_allclose(averaged, single / x.size, rtol=1e-15)


def test_grad_output_multiplies_the_gradient_only(rng: np.random.Generator) -> None:
    x, t = rng.normal(0, 3, (8, 5)), rng.uniform(0, 1, (8, 5))
    labels = rng.integers(0, 5, 8)
    for f, given in (
        (lk.cross_entropy_value_and_grad, labels),
        (lk.cross_entropy_value_and_grad, t),
        (lk.mse_loss_value_and_grad, t),
    ):
        for reduction in ("mean", "sum", "none"):
            loss, grad = f(x, given, reduction=reduction)
            for factor in (1.0, np.float64(1.0), np.array(1.0), 1):
                again, same = f(x, given, reduction=reduction, grad_output=factor)
                assert np.array_equal(again, loss)
                assert np.array_equal(same, grad)
            again, doubled = f(x, given, reduction=reduction, grad_output=-2.0)
            assert np.array_equal(again, loss)
            assert np.array_equal(doubled, -2 * grad)


def test_grad_output_broadcasts_to_the_batch(rng: np.random.Generator) -> None:
    x = rng.normal(0, 3, (3, 4, 5))
    labels = rng.integers(0, 4, (3, 5))
    grad = lk.cross_entropy_value_and_grad(x, labels, axis=1, reduction="none")[1]
    for shape in [(3, 5), (5,), (3, 1), (1, 1), ()]:
        factor = 2.0 ** rng.integers(-3, 3, shape)
        got = lk.cross_entropy_value_and_grad(
            x, labels, axis=1, reduction="none", grad_output=factor
        )[1]
        assert np.array_equal(got, grad * np.broadcast_to(factor, (3, 5))[:, None, :])
    pred, target = rng.normal(0, 1, (3, 4)), rng.normal(0, 1, (3, 4))
    grad = lk.mse_loss_value_and_grad(pred, target, reduction="none")[1]
    for shape in [(3, 4), (4,), (3, 1), ()]:
        factor = 2.0 ** rng.integers(-3, 3, shape)
        got = lk.mse_loss_value_and_grad(pred, target, reduction="none", grad_output=factor)[1]
        assert np.array_equal(got, grad * factor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_squared_error_with_extreme_incoming_gradients(dtype: Any, reduction: str) -> None:
    """What overflows on the way does not show: neither twice the factor nor the difference."""
    large, tiny = (dtype(v) for v in ((3e38, 1e-37) if dtype == np.float32 else (1.7e308, 1e-300)))
    pred = np.array([tiny, 0, large, 1], dtype)
    target = np.array([0, 0, -large, 1], dtype)
    for incoming in (1e30, 0.1):
        factor = dtype(incoming) / (4 if reduction == "mean" else 1)
        expected = 2 * factor * (pred.astype(np.longdouble) - target)
        expected = np.where(abs(expected) > np.finfo(dtype).max, np.inf, expected)
        outputs = [dtype(incoming)]
        if reduction == "none":
            outputs.append(np.full(4, incoming, dtype))
        for output in outputs:
            _, grad = lk.mse_loss_value_and_grad(
                pred, target, reduction=reduction, grad_output=output
            )
            np.testing.assert_allclose(grad, expected, rtol=4 * np.finfo(dtype).eps)


def test_squared_error_with_a_factor_whose_double_overflows() -> None:
    pred, target = np.float32([1.0, 2.0, 3.0]), np.float32([1.0, 1.0, 4.0])
    for factor, unit in ((1.7e308, np.inf), (-1.7e308, -np.inf), (5e-324, 0.0)):
        for copies in (1, 30):  # in part of a vector, and in whole ones
            _, grad = lk.mse_loss_value_and_grad(
                np.tile(pred, copies), np.tile(target, copies), reduction="sum", grad_output=factor
            )
            np.testing.assert_array_equal(grad, np.tile([0.0, unit, -unit], copies))
    _, grad = lk.mse_loss_value_and_grad(pred, target, reduction="sum", grad_output=np.inf)
    np.testing.assert_array_equal(grad, [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_at_a_certain_label_is_minus_zero(dtype: Any) -> None:
    _, grad = lk.cross_entropy_value_and_grad(np.array([[0, -np.inf]], dtype), [0])
    assert grad.tolist() == [[0, 0]]
    assert np.signbit(grad).tolist() == [[True, False]]
