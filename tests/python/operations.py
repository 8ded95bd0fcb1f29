"""Every operation as a function of one batch, for the tests that ask the same of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """What the operations read.

    ``x`` are logits, ``other`` is any array of the same shape and ``t`` one of numbers from 0 to 1;
    ``labels`` has the shape without ``axis``.
    """

    x: Array
    other: Array
    t: Array
    labels: Array
    axis: int

    def map(self, change: Callable[[Array], Array]) -> Batch:
        """Return the batch with the large arrays passed through ``change``."""
        return Batch(change(self.x), change(self.other), change(self.t), self.labels, self.axis)

    def take(self, index: Any, label_index: Any) -> Batch:
        """Return a part of the batch."""
        return Batch(
            self.x[index], self.other[index], self.t[index], self.labels[label_index], self.axis
        )


def make_batch(x: Array, axis: int, rng: np.random.Generator) -> Batch:
    """Return ``x`` with all that goes with it."""
    axis %= x.ndim
    other = rng.normal(0, 1, x.shape).astype(x.dtype)
    t = np.maximum(rng.uniform(-0.5, 1, x.shape), 0).astype(x.dtype)
    labels = rng.integers(0, x.shape[axis], x.shape[:axis] + x.shape[axis + 1 :])
    return Batch(x, other, t, labels, axis - x.ndim)


def softmax(b: Batch) -> tuple[Any, ...]:
    return (lk.softmax(b.x, b.axis),)


def log_softmax(b: Batch) -> tuple[Any, ...]:
    return (lk.log_softmax(b.x, b.axis),)


def logsumexp(b: Batch) -> tuple[Any, ...]:
    return (lk.logsumexp(b.x, b.axis),)


def softmax_backward(b: Batch) -> tuple[Any, ...]:
    return (lk.softmax_backward(b.other, b.x, b.axis),)


def log_softmax_backward(b: Batch) -> tuple[Any, ...]:
    return (lk.log_softmax_backward(b.other, b.x, b.axis),)


def logsumexp_backward(b: Batch) -> tuple[Any, ...]:
    grad = b.other.take(0, axis=b.axis)
    return (lk.logsumexp_backward(grad, b.x, lk.logsumexp(b.x, b.axis), b.axis),)


def cross_entropy(b: Batch) -> tuple[Any, ...]:
    return (lk.cross_entropy(b.x, b.labels, axis=b.axis, reduction="none"),)


def cross_entropy_value_and_grad(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(b.x, b.labels, axis=b.axis, reduction="none")


def cross_entropy_soft(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(b.x, b.t, axis=b.axis, reduction="none")


def mse_loss(b: Batch) -> tuple[Any, ...]:
    return (lk.mse_loss(b.x, b.other, reduction="none"),)


def mse_loss_value_and_grad(b: Batch) -> tuple[Any, ...]:
    return lk.mse_loss_value_and_grad(b.x, b.other, reduction="none")


def mse_weighted(b: Batch) -> tuple[Any, ...]:
    return lk.mse_loss_value_and_grad(b.x, b.other, weight=b.t, reduction="none")


def binary_cross_entropy(b: Batch) -> tuple[Any, ...]:
    return lk.binary_cross_entropy_with_logits_value_and_grad(b.x, b.t, reduction="none")


def binary_cross_entropy_weighted(b: Batch) -> tuple[Any, ...]:
    return lk.binary_cross_entropy_with_logits_value_and_grad(
        b.x, b.t, pos_weight=3, weight=b.t, reduction="none"
    )


def log_loss(b: Batch) -> tuple[Any, ...]:
    return lk.log_loss_value_and_grad(b.t, b.labels, axis=b.axis, reduction="none")


def log_loss_soft(b: Batch) -> tuple[Any, ...]:
    return lk.log_loss_value_and_grad(b.t, b.t, axis=b.axis, reduction="none")


def mse_weighted_mean(b: Batch) -> tuple[Any, ...]:
    return lk.mse_loss_value_and_grad(b.x, b.other, weight=b.t)


def binary_cross_entropy_mean(b: Batch) -> tuple[Any, ...]:
    return lk.binary_cross_entropy_with_logits_value_and_grad(b.x, b.t)


def log_loss_mean(b: Batch) -> tuple[Any, ...]:
    return lk.log_loss_value_and_grad(b.t, b.labels, axis=b.axis, sample_weight=0.5)


def log_loss_soft_mean(b: Batch) -> tuple[Any, ...]:
    return lk.log_loss_value_and_grad(b.t, b.t, axis=b.axis)


def classification_error(b: Batch) -> tuple[Any, ...]:
    return (lk.classification_error(b.x, b.labels, axis=b.axis, reduction="none"),)


def token_logprobs(b: Batch) -> tuple[Any, ...]:
    return lk.token_logprobs(b.x, b.labels, axis=b.axis)


def top_k_logprobs(b: Batch) -> tuple[Any, ...]:
    return lk.top_k_logprobs(b.x, min(5, b.x.shape[b.axis]), axis=b.axis)


def top_half_logprobs(b: Batch) -> tuple[Any, ...]:
    return lk.top_k_logprobs(b.x, (b.x.shape[b.axis] + 1) // 2, axis=b.axis)


def cross_entropy_grad_hess(b: Batch) -> tuple[Any, ...]:
    """With weights, of which some are 0; the class axis goes last and comes back."""
    results = lk.cross_entropy_grad_hess(
        np.moveaxis(b.x, b.axis, -1),
        b.labels,
        sample_weight=b.t.take(0, axis=b.axis),
        hessian="upper",
        hess_floor=1e-16,
        dtype=np.float64 if b.x.dtype.itemsize == 8 else np.float32,
    )
    return tuple(np.moveaxis(result, -1, b.axis) for result in results)


def _per_row(b: Batch) -> Array:
    """From 0 to 1."""
    return b.t.take(0, axis=b.axis).astype(np.float64)


def softmax_tempered(b: Batch) -> tuple[Any, ...]:
    return lk.softmax(b.x, b.axis, temperature=0.5 + _per_row(b), return_lse=True)


def log_softmax_tempered(b: Batch) -> tuple[Any, ...]:
    return (lk.log_softmax(b.x, b.axis, temperature=0.7),)


def softmax_backward_tempered(b: Batch) -> tuple[Any, ...]:
    return (lk.softmax_backward(b.other, b.x, b.axis, temperature=0.5 + _per_row(b)),)


def softmax_where(b: Batch) -> tuple[Any, ...]:
    return (lk.softmax(b.x, b.axis, where=b.t > 0.1),)


def logsumexp_where(b: Batch) -> tuple[Any, ...]:
    return (lk.logsumexp(b.x, b.axis, where=b.t > 0.1),)


def weights(b: Batch) -> Array:
    """Weights of both signs, of which some are 0."""
    return np.where(b.t > 0.1, b.other, b.other.dtype.type(0))


def logsumexp_weighted(b: Batch) -> tuple[Any, ...]:
    return lk.logsumexp(b.x, b.axis, weights(b), return_sign=True)


def logsumexp_backward_weighted(b: Batch) -> tuple[Any, ...]:
    grad, lse = b.other.take(0, axis=b.axis), lk.logsumexp(b.x, b.axis)
    return (lk.logsumexp_backward(grad, b.x, lse, b.axis, weights(b)),)


def _loss_options(b: Batch) -> dict[str, Any]:
    classes = b.x.shape[b.axis]
    return {
        "axis": b.axis,
        "reduction": "none",
        "class_weight": 0.5 + np.arange(classes) / classes,
        "sample_weight": _per_row(b),
        "label_smoothing": 0.1,
        "temperature": 0.5 + _per_row(b),
        "z_loss": 0.01,
    }


def cross_entropy_weighted(b: Batch) -> tuple[Any, ...]:
    options = {**_loss_options(b), "label_smoothing": 0.0, "z_loss": 0.0}
    return lk.cross_entropy_value_and_grad(b.x, b.labels, **options)


def cross_entropy_smoothed(b: Batch) -> tuple[Any, ...]:
    options = {"axis": b.axis, "reduction": "none", "label_smoothing": 0.1}
    return lk.cross_entropy_value_and_grad(b.x, b.labels, **options)


def cross_entropy_options(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(b.x, b.labels, **_loss_options(b))


def cross_entropy_soft_options(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(b.x, b.t, **_loss_options(b))


def cross_entropy_where(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(b.x, b.labels, where=b.t > 0.1, **_loss_options(b))


def _half(x: Array) -> Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return x.astype(np.float16)


def log_softmax_half(b: Batch) -> tuple[Any, ...]:
    return (lk.log_softmax(_half(b.x), b.axis),)


def cross_entropy_half(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(_half(b.x), b.labels, axis=b.axis, reduction="none")


def cross_entropy_mean(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(b.x, b.labels, axis=b.axis)


def cross_entropy_sum(b: Batch) -> tuple[Any, ...]:
    return (lk.cross_entropy(b.x, b.labels, axis=b.axis, reduction="sum"),)


def cross_entropy_soft_mean(b: Batch) -> tuple[Any, ...]:
    return lk.cross_entropy_value_and_grad(b.x, b.t, axis=b.axis)


def mse_mean(b: Batch) -> tuple[Any, ...]:
    return lk.mse_loss_value_and_grad(b.x, b.other)


def mse_sum(b: Batch) -> tuple[Any, ...]:
    return (lk.mse_loss(b.x, b.other, reduction="sum"),)


def classification_error_mean(b: Batch) -> tuple[Any, ...]:
    return (lk.classification_error(b.x, b.labels, axis=b.axis),)


def classification_error_weighted(b: Batch) -> tuple[Any, ...]:
    weight = np.abs(np.nan_to_num(b.other.take(0, axis=b.axis))).astype(np.float64)
    return (lk.classification_error(b.x, b.labels, axis=b.axis, sample_weight=weight),)


def softmax_whole(b: Batch) -> tuple[Any, ...]:
    return (lk.softmax(b.x),)


def logsumexp_whole(b: Batch) -> tuple[Any, ...]:
    return (lk.logsumexp(b.x),)


ROW_BY_ROW: dict[str, Callable[[Batch], tuple[Any, ...]]] = {
    f.__name__: f
    for f in (
        softmax,
        log_softmax,
        logsumexp,
        softmax_backward,
        log_softmax_backward,
        logsumexp_backward,
        cross_entropy,
        cross_entropy_value_and_grad,
        cross_entropy_soft,
        mse_loss,
        mse_loss_value_and_grad,
        classification_error,
        token_logprobs,
        top_k_logprobs,
        top_half_logprobs,
        cross_entropy_grad_hess,
        mse_weighted,
        binary_cross_entropy,
        binary_cross_entropy_weighted,
        log_loss,
        log_loss_soft,
        softmax_tempered,
        log_softmax_tempered,
        softmax_backward_tempered,
        softmax_where,
        logsumexp_where,
        logsumexp_weighted,
        logsumexp_backward_weighted,
        cross_entropy_weighted,
        cross_entropy_smoothed,
        cross_entropy_options,
        cross_entropy_soft_options,
        cross_entropy_where,
        log_softmax_half,
        cross_entropy_half,
    )
}
"""Operations whose results for a row depend on that row alone."""

ALL = ROW_BY_ROW | {
    f.__name__: f
    for f in (
        cross_entropy_mean,
        cross_entropy_sum,
        cross_entropy_soft_mean,
        mse_mean,
        mse_sum,
        classification_error_mean,
        classification_error_weighted,
        softmax_whole,
        logsumexp_whole,
        mse_weighted_mean,
        binary_cross_entropy_mean,
        log_loss_mean,
        log_loss_soft_mean,
    )
}
