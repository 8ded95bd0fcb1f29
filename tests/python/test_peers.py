"""The values and gradients of other libraries, where both are right.

Each differentiates by itself, so that no formula of a gradient is taken for granted. What the
others get wrong is in test_silent_errors.py; every option with every other in test_options.py.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest

ml_dtypes = pytest.importorskip("ml_dtypes")

Array = npt.NDArray[Any]
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
SHAPES = [((6,), 0), ((7, 5), 0), ((7, 5), 1), ((2, 3, 4), 1), ((2, 3, 4), -1), ((4, 300), 1)]
SHAPES += [((3, 1), 1), ((0, 4), 1)]


class Torch:
    """Functions of torch."""

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch")

    def tensor(self, x: Array) -> Any:
        if x.dtype == ml_dtypes.bfloat16:
            return self.torch.tensor(x.astype(np.float32)).to(self.torch.bfloat16)
        return self.torch.tensor(x)

    def vjp(self, function: Callable[[Any], Any], x: Array, g: Array) -> tuple[Array, Array]:
        leaf = self.tensor(x).requires_grad_()
        y = function(leaf)
        y.backward(self.tensor(g))
        return y.detach().double().numpy(), leaf.grad.double().numpy()

    def function(self, name: str, axis: Any) -> Callable[[Any], Any]:
        return lambda x: getattr(self.torch, name)(x, axis)


class Jax:
    """Functions of JAX."""

    def __init__(self) -> None:
        self.jax = pytest.importorskip("jax")

    def vjp(self, function: Callable[[Any], Any], x: Array, g: Array) -> tuple[Array, Array]:
        y, back = self.jax.vjp(function, self.jax.numpy.asarray(x))
        (dx,) = back(self.jax.numpy.asarray(g))
        return np.asarray(y, np.float64), np.asarray(dx, np.float64)

    def function(self, name: str, axis: Any) -> Callable[[Any], Any]:
        return lambda x: getattr(self.jax.nn, name)(x, axis=axis)


@pytest.fixture
def jax64() -> Iterator[Jax]:
    """JAX with float64."""
    made = Jax()
    made.jax.config.update("jax_enable_x64", True)
    yield made
    made.jax.config.update("jax_enable_x64", False)


@pytest.fixture(params=["torch", "jax"])
def peer(request: pytest.FixtureRequest) -> Any:
    return Torch() if request.param == "torch" else request.getfixturevalue("jax64")


def epsilon(dtype: npt.DTypeLike) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def agree(got: Array, want: Array, eps: float, scale: float = 1.0) -> None:
    """Equal to a few roundings of the other library's intermediate results."""
    np.testing.assert_allclose(
        np.asarray(got, np.float64), want, rtol=32 * eps, atol=32 * eps * scale
    )


def logits(rng: np.random.Generator, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    return (3 * rng.normal(size=shape)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_normalisations(peer: Torch | Jax, name: str, dtype: npt.DTypeLike) -> None:
    rng = np.random.default_rng(1)
    for (shape, axis), masked in itertools.product(SHAPES, (False, True)):
        x, g = logits(rng, shape, dtype), rng.normal(size=shape).astype(dtype)
        if masked and name == "softmax" and shape[axis] > 1:
            np.moveaxis(x, axis, 0)[1::2] = -np.inf
        y, dx = peer.vjp(peer.function(name, axis), x, g)
        got = getattr(lk, name)(x, axis)
        backward = getattr(lk, f"{name}_backward")(g, got, axis)
        assert got.dtype == backward.dtype == dtype
        agree(got, y, epsilon(dtype))
        agree(backward, dx, epsilon(dtype), 4.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logsumexp(peer: Torch | Jax, dtype: npt.DTypeLike) -> None:
    rng = np.random.default_rng(2)
    axes: list[tuple[tuple[int, ...], Any]] = [*SHAPES, ((2, 3, 4), (0, 2)), ((2, 3, 4), (0, 1, 2))]
    for (shape, axis), masked in itertools.product(axes, (False, True)):
        x = logits(rng, shape, dtype)
        if masked:
            x[rng.random(shape) < 0.3] = -np.inf
            x[..., :1] = 1
        g = np.asarray(rng.normal(size=x.sum(axis=axis).shape), dtype)
        y, dx = peer.vjp(peer.function("logsumexp", axis), x, g)
        got = lk.logsumexp(x, axis)
        agree(got, y, epsilon(dtype))
        agree(lk.logsumexp_backward(g, x, got, axis), dx, epsilon(dtype), 4.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logsumexp_of_infinities(peer: Torch | Jax, dtype: npt.DTypeLike) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, -inf], [inf, 0], [inf, -inf], [inf, inf], [nan, 0], [nan, inf]], dtype)
    y, _ = peer.vjp(peer.function("logsumexp", 1), x, np.ones(len(x), dtype))
    np.testing.assert_array_equal(lk.logsumexp(x, 1), y)


def wide(dtype: npt.DTypeLike) -> npt.DTypeLike:
    """The type in which losses are computed."""
    return np.float64 if dtype == np.float64 else np.float32


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_cross_entropy(dtype: npt.DTypeLike, reduction: str) -> None:
    """Class axis 1 of every rank, as torch has it."""
    peer, rng = Torch(), np.random.default_rng(3)
    torch, working = peer.torch, wide(dtype)
    for shape, kind, smoothing, weighted in itertools.product(
        [(9, 5), (2, 5, 3), (2, 21, 4, 3)],
        ("classes", "ignored", "soft"),
        (0.0, 0.2),
        (False, True),
    ):
        x, classes = logits(rng, shape, dtype), shape[1]
        batch = (shape[0], *shape[2:])
        labels: Array = rng.integers(0, classes, batch)
        if kind == "ignored":
            labels.flat[::3] = -100
        if kind == "soft":
            labels = rng.dirichlet(np.ones(classes), batch)
            labels = np.ascontiguousarray(np.moveaxis(labels, -1, 1)).astype(working)
        weight = rng.uniform(0.5, 2, classes).astype(working) if weighted else None
        g = np.asarray(rng.normal(size=batch if reduction == "none" else ()), working)

        def loss(
            x: Any, labels: Any = labels, weight: Any = weight, smoothing: float = smoothing
        ) -> Any:
            return torch.nn.functional.cross_entropy(
                x,
                torch.from_numpy(labels),
                weight=None if weight is None else torch.from_numpy(weight),
                label_smoothing=smoothing,
                reduction=reduction,
            )

        y, dx = peer.vjp(loss, x.astype(working), g)
        got, grad = lk.cross_entropy_value_and_grad(
            x,
            labels,
            axis=1,
            class_weight=weight,
            label_smoothing=smoothing,
            reduction=reduction,
            grad_output=g,
        )
        assert np.asarray(got).dtype == working
        agree(got, y, epsilon(working), 8.0)
        agree(grad, dx, epsilon(dtype), 4.0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_mse_loss(dtype: npt.DTypeLike, reduction: str) -> None:
    peer, rng = Torch(), np.random.default_rng(4)
    for shape in [(), (7,), (3, 5), (2, 3, 4)]:
        p, t = np.asarray(logits(rng, shape, dtype)), np.asarray(logits(rng, shape, dtype))
        target = peer.tensor(t.astype(wide(dtype)))
        g = np.ones(shape if reduction == "none" else (), wide(dtype))

        def loss(p: Any, target: Any = target) -> Any:
            return peer.torch.nn.functional.mse_loss(p, target, reduction=reduction)

        y, dp = peer.vjp(loss, p.astype(wide(dtype)), g)
        got, grad = lk.mse_loss_value_and_grad(p, t, reduction=reduction)
        agree(got, y, epsilon(np.asarray(got).dtype))
        agree(grad, dp, epsilon(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_optax(jax64: Jax, dtype: npt.DTypeLike) -> None:
    """Its cross-entropies: masks of classes, any axis, smoothed labels, binary ones."""
    optax = pytest.importorskip("optax")
    rng, eps = np.random.default_rng(5), epsilon(dtype)
    for axis in (-1, 0):
        x, g = logits(rng, (8, 8), dtype), rng.normal(size=8).astype(dtype)
        labels, soft = rng.integers(0, 8, 8), rng.dirichlet(np.ones(8), 8).astype(dtype)
        soft = soft if axis == -1 else soft.T
        where = rng.random((8, 8)) < 0.7
        np.put_along_axis(where, np.expand_dims(labels, axis), True, axis)
        for masked, (function, target) in itertools.product(
            (False, True),
            [
                (optax.softmax_cross_entropy_with_integer_labels, labels),
                (optax.softmax_cross_entropy, soft),
                (optax.safe_softmax_cross_entropy, soft),
            ],
        ):
            accepted = inspect.signature(function).parameters
            if (masked and "where" not in accepted) or (axis == 0 and "axis" not in accepted):
                continue
            theirs = {"axis": axis} if "axis" in accepted else {}
            theirs |= {"where": where} if masked else {}

            def loss(x: Any, f: Any = function, t: Any = target, o: Any = theirs) -> Any:
                return f(x, t, **o)

            y, dx = jax64.vjp(loss, x, g)
            got, grad = lk.cross_entropy_value_and_grad(
                x,
                target,
                axis=axis,
                reduction="none",
                where=where if masked else None,
                grad_output=g,
            )
            agree(got, y, eps, 8.0)
            agree(grad, dx, eps, 4.0)
        smooth = optax.smooth_labels(np.eye(8, dtype=dtype)[labels], 0.1)
        y = np.asarray(optax.softmax_cross_entropy(x, smooth), np.float64)
        got = lk.cross_entropy(x, labels, label_smoothing=0.1, reduction="none")
        agree(got, y, eps, 8.0)
        y = np.asarray(optax.sigmoid_binary_cross_entropy(x, soft), np.float64)
        agree(lk.binary_cross_entropy_with_logits(x, soft, reduction="none"), y, eps, 8.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_sklearn_multinomial_loss(dtype: npt.DTypeLike, order: Any) -> None:
    """The loss of its LogisticRegression and of its gradient boosting."""
    module = pytest.importorskip("sklearn._loss.loss")
    rng = np.random.default_rng(6)
    for rows, classes in [(50, 3), (200, 10), (30, 70)]:
        x = np.asarray(logits(rng, (rows, classes), dtype), order=order)
        labels = rng.integers(0, classes, rows)
        weight = rng.uniform(0.1, 2, rows).astype(dtype)
        theirs = module.HalfMultinomialLoss(n_classes=classes)
        y, dx = theirs.loss_gradient(labels.astype(dtype), x, sample_weight=weight)
        got, grad = lk.cross_entropy_value_and_grad(
            x, labels, sample_weight=weight, reduction="none"
        )
        agree(got, y.astype(np.float64), epsilon(dtype), 8.0)
        agree(grad, dx.astype(np.float64), epsilon(dtype), 4.0)
