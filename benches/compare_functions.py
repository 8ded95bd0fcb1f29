"""How each library computes what is more than a plain call: options, and rarer functions.

The classes add to those of compare_peers.py. Options and the functions of language models are
written for arrays of two axes, the last of them that of the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import compare_peers
import numpy as np
from compare_cases import HESS_FLOOR, LABEL_SMOOTHING, OPTIONS, TEMPERATURE, TOP_K, Z_LOSS
from compare_peers import OnnxRuntime, Peer, row_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from compare_cases import Data
    from compare_peers import Run
    from numpy.typing import NDArray

ARGUMENTS = {option.name: option.arguments for option in OPTIONS}


def best(d: Data) -> int:
    """How many classes of a row are asked for."""
    return min(TOP_K, d.classes)


class Logitkit(compare_peers.Logitkit):
    with_out = compare_peers.Logitkit.with_out | {
        "softmax_with",
        "cross_entropy_value_and_grad_with",
        "mse_loss_value_and_grad_with",
        "binary_cross_entropy_with_logits_value_and_grad",
        "cross_entropy_grad_hess",
    }

    def _call(self, name: str, *operands: Any, **keywords: Any) -> Run:
        function = getattr(self.lk, name)
        return lambda: function(*operands, **keywords)

    def softmax_with(self, d: Data, option: str, out: Any) -> Run:
        return self._call("softmax", d.x, d.axis, out=out, **ARGUMENTS[option](d))

    def logsumexp_with(self, d: Data, option: str) -> Run:
        return self._call("logsumexp", d.x, d.axis, **ARGUMENTS[option](d))

    def _of_labels(self, name: str, d: Data, option: str, **keywords: Any) -> Run:
        arguments = {"labels": d.labels, "axis": d.axis} | ARGUMENTS[option](d) | keywords
        return self._call(name, d.x, **arguments)

    def cross_entropy_with(self, d: Data, option: str) -> Run:
        return self._of_labels("cross_entropy", d, option)

    def cross_entropy_value_and_grad_with(self, d: Data, option: str, out: Any) -> Run:
        return self._of_labels("cross_entropy_value_and_grad", d, option, grad_out=out)

    def classification_error_with(self, d: Data, option: str) -> Run:
        return self._of_labels("classification_error", d, option)

    def mse_loss_with(self, d: Data, option: str) -> Run:
        return self._call("mse_loss", d.x, d.g, **ARGUMENTS[option](d))

    def mse_loss_value_and_grad_with(self, d: Data, option: str, out: Any) -> Run:
        arguments = {"grad_out": out} | ARGUMENTS[option](d)
        return self._call("mse_loss_value_and_grad", d.x, d.g, **arguments)

    def binary_cross_entropy_with_logits(self, d: Data) -> Run:
        return self._call("binary_cross_entropy_with_logits", d.x, d.marks)

    def binary_cross_entropy_with_logits_value_and_grad(self, d: Data, out: Any) -> Run:
        name = "binary_cross_entropy_with_logits_value_and_grad"
        return self._call(name, d.x, d.marks, grad_out=out)

    def log_loss(self, d: Data) -> Run:
        return self._call("log_loss", d.shares, d.labels, axis=d.axis)

    def cross_entropy_grad_hess(self, d: Data, out: Any) -> Run:
        keywords = {"hessian": "upper", "hess_floor": HESS_FLOOR, "dtype": d.dtype.type, "out": out}
        return self._call("cross_entropy_grad_hess", d.x, d.labels, **keywords)

    def token_logprobs(self, d: Data) -> Run:
        return self._call("token_logprobs", d.x, d.labels)

    def top_k_logprobs(self, d: Data) -> Run:
        return self._call("top_k_logprobs", d.x, best(d))


class NumPy(compare_peers.NumPy):
    def classification_error_with(self, d: Data, option: str) -> Run | None:
        if option != "sample_weight":
            return None
        x, labels, axis, weight = d.x, d.labels, d.axis, d.sample_weight
        return lambda: np.average(x.argmax(axis=axis) != labels, weights=weight)

    def mse_loss_with(self, d: Data, option: str) -> Run | None:
        if option != "weight":
            return None
        x, target, weight = d.x, d.g, d.weights

        def run() -> Any:
            square = np.subtract(x, target)
            square *= square
            return np.vdot(square, weight) / weight.sum()

        return run

    def mse_loss_value_and_grad_with(self, d: Data, option: str) -> Run | None:
        if option != "weight":
            return None
        x, target, weight = d.x, d.g, d.weights

        def run() -> Any:
            difference = np.subtract(x, target)
            dx = difference * weight
            total = weight.sum()
            loss = np.vdot(difference, dx) / total
            dx *= 2 / total
            return loss, dx

        return run

    def binary_cross_entropy_with_logits(self, d: Data) -> Run:
        x, target = d.x, d.marks

        def run() -> Any:
            e = np.abs(x)
            np.negative(e, out=e)
            np.exp(e, out=e)
            np.log1p(e, out=e)
            e += np.maximum(x, 0)
            return (e.sum() - np.vdot(x, target)) / x.size

        return run

    def binary_cross_entropy_with_logits_value_and_grad(self, d: Data) -> Run:
        x, target = d.x, d.marks

        def run() -> Any:
            e = np.abs(x)
            np.negative(e, out=e)
            np.exp(e, out=e)
            dx = np.where(x < 0, e, 1)
            dx /= 1 + e
            dx -= target
            dx *= 1 / x.size
            np.log1p(e, out=e)
            e += np.maximum(x, 0)
            return (e.sum() - np.vdot(x, target)) / x.size, dx

        return run

    def log_loss(self, d: Data) -> Run:
        p, at_label = d.shares, row_index(d)
        return lambda: -np.mean(np.log(p[at_label]))

    def cross_entropy_grad_hess(self, d: Data) -> Run:
        """The objective as users of XGBoost write it."""
        x, at_label, axis = d.x, row_index(d), d.axis

        def run() -> Any:
            p = np.subtract(x, x.max(axis=axis, keepdims=True))
            np.exp(p, out=p)
            p *= 1 / p.sum(axis=axis, keepdims=True)
            hess = 1 - p
            hess *= p
            hess *= 2
            np.maximum(hess, HESS_FLOOR, out=hess)
            p[at_label] -= 1
            return p, hess

        return run

    def token_logprobs(self, d: Data) -> Run:
        x, labels, at_label, axis = d.x, d.labels, row_index(d), d.axis
        logsumexp = self.logsumexp(d, None)
        return lambda: (x[at_label] - logsumexp(), x.argmax(axis=axis) == labels)

    def top_k_logprobs(self, d: Data) -> Run:
        x, k, logsumexp = d.x, best(d), self.logsumexp(d, None)

        def run() -> Any:
            found = np.argpartition(x, -k, axis=1)[:, -k:]
            values = np.take_along_axis(x, found, axis=1)
            order = np.argsort(-values, axis=1)
            values = np.take_along_axis(values, order, axis=1)
            return values - logsumexp()[:, None], np.take_along_axis(found, order, axis=1)

        return run


class SciPy(compare_peers.SciPy):
    def logsumexp_with(self, d: Data, option: str) -> Run | None:
        if option != "b":
            return None
        function, x, axis, b = self.special.logsumexp, d.x, d.axis, d.weights
        return lambda: function(x, axis=axis, b=b)


class Jax(compare_peers.Jax):
    def _compile_all(self, function: Callable[..., Any], *arrays: NDArray[Any]) -> Run:
        """As `_compile`, of a function with several results."""
        compiled = self._jit(function, *arrays)
        return lambda: self.jax.block_until_ready(compiled())

    def _jit(self, function: Callable[..., Any], *arrays: NDArray[Any]) -> Run:
        arguments = [self.jax.device_put(array) for array in arrays]
        compiled = self.jax.jit(function)
        return lambda: compiled(*arguments)

    def _at(self, y: Any, labels: Any) -> Any:
        return self.jnp.take_along_axis(y, labels[:, None], axis=1)[:, 0]

    def softmax_with(self, d: Data, option: str) -> Run:
        softmax, logsumexp = self.jax.nn.softmax, self.jax.scipy.special.logsumexp
        if option == "where":
            return self._compile(lambda x, m: softmax(x, axis=1, where=m), d.x, d.mask)
        if option == "temperature":
            return self._compile(lambda x: softmax(x / TEMPERATURE, axis=1), d.x)
        return self._compile_all(lambda x: (softmax(x, axis=1), logsumexp(x, axis=1)), d.x)

    def logsumexp_with(self, d: Data, option: str) -> Run:
        function = self.jax.scipy.special.logsumexp
        if option == "b":
            return self._compile(lambda x, b: function(x, axis=1, b=b), d.x, d.weights)
        return self._compile(lambda x, m: function(x, axis=1, where=m), d.x, d.mask)

    def _loss_with(self, d: Data, option: str) -> tuple[Callable[..., Any], list[NDArray[Any]]]:
        """The loss, and its arrays, of which the logits are the first."""
        jnp, log_softmax = self.jnp, self.jax.nn.log_softmax
        labels = d.labels.astype(np.int32)

        def losses(x: Any, labels: Any) -> Any:
            return -self._at(log_softmax(x, axis=1), labels)

        def with_class_weight(x: Any, labels: Any, weight: Any) -> Any:
            return jnp.average(losses(x, labels), weights=weight[labels])

        def with_sample_weight(x: Any, labels: Any, weight: Any) -> Any:
            return jnp.average(losses(x, labels), weights=weight)

        def with_label_smoothing(x: Any, labels: Any) -> Any:
            y = log_softmax(x, axis=1)
            kept = 1 - LABEL_SMOOTHING
            return -jnp.mean(kept * self._at(y, labels) + LABEL_SMOOTHING * jnp.mean(y, axis=1))

        def with_z_loss(x: Any, labels: Any) -> Any:
            lse = self.jax.scipy.special.logsumexp(x, axis=1)
            return jnp.mean(lse - self._at(x, labels) + Z_LOSS * jnp.square(lse))

        def with_temperature(x: Any, labels: Any) -> Any:
            return jnp.mean(losses(x / TEMPERATURE, labels))

        def with_where(x: Any, labels: Any, mask: Any) -> Any:
            return -jnp.mean(self._at(log_softmax(x, axis=1, where=mask), labels))

        def with_probabilities(x: Any, shares: Any) -> Any:
            return -jnp.mean(jnp.sum(shares * log_softmax(x, axis=1), axis=1))

        if option == "probabilities":
            return with_probabilities, [d.x, d.shares]
        functions: dict[str, tuple[Callable[..., Any], list[NDArray[Any]]]] = {
            "class_weight": (with_class_weight, [d.class_weight]),
            "sample_weight": (with_sample_weight, [d.sample_weight]),
            "label_smoothing": (with_label_smoothing, []),
            "z_loss": (with_z_loss, []),
            "temperature": (with_temperature, []),
            "where": (with_where, [d.mask]),
        }
        function, arrays = functions[option]
        return function, [d.x, labels, *arrays]

    def cross_entropy_with(self, d: Data, option: str) -> Run:
        function, arrays = self._loss_with(d, option)
        return self._compile(function, *arrays)

    def cross_entropy_value_and_grad_with(self, d: Data, option: str) -> Run:
        function, arrays = self._loss_with(d, option)
        return self._compile_pair(function, *arrays)

    def classification_error_with(self, d: Data, option: str) -> Run | None:
        if option != "sample_weight":
            return None

        def function(x: Any, labels: Any, weight: Any) -> Any:
            return self.jnp.average(self.jnp.argmax(x, axis=1) != labels, weights=weight)

        return self._compile(function, d.x, d.labels.astype(np.int32), d.sample_weight)

    def _mse_with_weight(self, x: Any, target: Any, weight: Any) -> Any:
        return self.jnp.average(self.jnp.square(x - target), weights=weight)

    def mse_loss_with(self, d: Data, option: str) -> Run | None:
        if option != "weight":
            return None
        return self._compile(self._mse_with_weight, d.x, d.g, d.weights)

    def mse_loss_value_and_grad_with(self, d: Data, option: str) -> Run | None:
        if option != "weight":
            return None
        return self._compile_pair(self._mse_with_weight, d.x, d.g, d.weights)

    def _binary(self, x: Any, target: Any) -> Any:
        """In the form of optax."""
        log_sigmoid = self.jax.nn.log_sigmoid
        return -self.jnp.mean(target * log_sigmoid(x) + (1 - target) * log_sigmoid(-x))

    def binary_cross_entropy_with_logits(self, d: Data) -> Run:
        return self._compile(self._binary, d.x, d.marks)

    def binary_cross_entropy_with_logits_value_and_grad(self, d: Data) -> Run:
        return self._compile_pair(self._binary, d.x, d.marks)

    def cross_entropy_grad_hess(self, d: Data) -> Run:
        def function(x: Any, labels: Any) -> Any:
            p = self.jax.nn.softmax(x, axis=1)
            hess = self.jnp.maximum(2 * p * (1 - p), HESS_FLOOR)
            return p - self.jax.nn.one_hot(labels, d.classes, dtype=p.dtype), hess

        return self._compile_all(function, d.x, d.labels.astype(np.int32))

    def token_logprobs(self, d: Data) -> Run:
        def function(x: Any, labels: Any) -> Any:
            y = self.jax.nn.log_softmax(x, axis=1)
            return self._at(y, labels), self.jnp.argmax(x, axis=1) == labels

        return self._compile_all(function, d.x, d.labels.astype(np.int32))

    def top_k_logprobs(self, d: Data) -> Run:
        def function(x: Any) -> Any:
            return self.jax.lax.top_k(self.jax.nn.log_softmax(x, axis=1), best(d))

        return self._compile_all(function, d.x)


class ScikitLearn(compare_peers.ScikitLearn):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import sklearn.metrics

        self.metrics = sklearn.metrics

    def _weighted(self, d: Data) -> dict[str, Any]:
        return self._arguments(d) | {"sample_weight": d.sample_weight / d.sample_weight.sum()}

    def cross_entropy_with(self, d: Data, option: str) -> Run | None:
        if option != "sample_weight":
            return None
        function, arguments = self.loss(n_classes=d.classes).loss, self._weighted(d)
        return lambda: function(**arguments).sum()

    def cross_entropy_value_and_grad_with(self, d: Data, option: str) -> Run | None:
        if option != "sample_weight":
            return None
        function, arguments = self.loss(n_classes=d.classes).loss_gradient, self._weighted(d)

        def run() -> Any:
            losses, dx = function(**arguments)
            return losses.sum(), dx

        return run

    def classification_error_with(self, d: Data, option: str) -> Run | None:
        if option != "sample_weight":
            return None
        function, x, labels, weight = self.metrics.zero_one_loss, d.x, d.labels, d.sample_weight
        return lambda: function(labels, x.argmax(axis=1), sample_weight=weight)

    def log_loss(self, d: Data) -> Run:
        function, p, labels, classes = self.metrics.log_loss, d.shares, d.labels, range(d.classes)
        return lambda: function(labels, p, labels=classes)


class Torch(compare_peers.Torch):
    def softmax_with(self, d: Data, option: str) -> Run:
        softmax, logsumexp = self.torch.softmax, self.torch.logsumexp
        x, left_out = self._tensors(d.x, ~d.mask)
        return {
            "temperature": lambda: softmax(x / TEMPERATURE, 1),
            "where": lambda: softmax(x.masked_fill(left_out, -np.inf), 1),
            "return_lse": lambda: (softmax(x, 1), logsumexp(x, 1)),
        }[option]

    def logsumexp_with(self, d: Data, option: str) -> Run | None:
        if option != "where":
            return None
        function, (x, left_out) = self.torch.logsumexp, self._tensors(d.x, ~d.mask)
        return lambda: function(x.masked_fill(left_out, -np.inf), 1)

    def _loss_with(self, d: Data, option: str) -> tuple[Callable[..., Any], Any, Any]:
        """The loss, the logits, and the labels."""
        loss, torch = self.torch.nn.functional.cross_entropy, self.torch
        x, labels, sample_weight, class_weight, left_out = self._tensors(
            d.x, d.labels, d.sample_weight, d.class_weight, ~d.mask
        )
        if option == "probabilities":
            return loss, x, self._tensor(d.shares)

        def with_sample_weight(x: Any, labels: Any) -> Any:
            losses = loss(x, labels, reduction="none")
            return (losses * sample_weight).sum() / sample_weight.sum()

        def with_z_loss(x: Any, labels: Any) -> Any:
            return loss(x, labels) + Z_LOSS * torch.logsumexp(x, 1).square().mean()

        functions: dict[str, Callable[..., Any]] = {
            "class_weight": lambda x, labels: loss(x, labels, weight=class_weight),
            "sample_weight": with_sample_weight,
            "label_smoothing": lambda x, labels: loss(x, labels, label_smoothing=LABEL_SMOOTHING),
            "z_loss": with_z_loss,
            "temperature": lambda x, labels: loss(x / TEMPERATURE, labels),
            "where": lambda x, labels: loss(x.masked_fill(left_out, -np.inf), labels),
        }
        return functions[option], x, labels

    def cross_entropy_with(self, d: Data, option: str) -> Run:
        function, x, labels = self._loss_with(d, option)
        return lambda: function(x, labels)

    def cross_entropy_value_and_grad_with(self, d: Data, option: str) -> Run:
        return self._value_and_grad(*self._loss_with(d, option))

    def _mse_with(self, d: Data) -> tuple[Callable[..., Any], Any, Any]:
        loss, (x, target, weight) = (
            self.torch.nn.functional.mse_loss,
            self._tensors(d.x, d.g, d.weights),
        )
        return lambda x, target: loss(x, target, weight=weight), x, target

    def mse_loss_with(self, d: Data, option: str) -> Run | None:
        if option != "weight":
            return None
        function, x, target = self._mse_with(d)
        return lambda: function(x, target)

    def mse_loss_value_and_grad_with(self, d: Data, option: str) -> Run | None:
        return self._value_and_grad(*self._mse_with(d)) if option == "weight" else None

    def binary_cross_entropy_with_logits(self, d: Data) -> Run:
        function = self.torch.nn.functional.binary_cross_entropy_with_logits
        x, target = self._tensors(d.x, d.marks)
        return lambda: function(x, target)

    def binary_cross_entropy_with_logits_value_and_grad(self, d: Data) -> Run:
        function = self.torch.nn.functional.binary_cross_entropy_with_logits
        return self._value_and_grad(function, *self._tensors(d.x, d.marks))

    def cross_entropy_grad_hess(self, d: Data) -> Run:
        x, index = self._tensors(d.x, d.labels[:, None])
        minus_one = self.torch.full_like(index, -1, dtype=x.dtype)

        def run() -> Any:
            p = self.torch.softmax(x, 1)
            hess = (1 - p).mul_(p).mul_(2).clamp_(min=HESS_FLOOR)
            return p.scatter_add_(1, index, minus_one), hess

        return run

    def token_logprobs(self, d: Data) -> Run:
        """As language-model evaluation harnesses do."""
        x, labels = self._tensors(d.x, d.labels)

        def run() -> Any:
            y = self.torch.log_softmax(x, 1)
            return y.gather(1, labels[:, None])[:, 0], x.argmax(1) == labels

        return run

    def top_k_logprobs(self, d: Data) -> Run:
        log_softmax, x, k = self.torch.log_softmax, self._tensor(d.x), best(d)
        return lambda: tuple(log_softmax(x, 1).topk(k))


PEERS: tuple[type[Peer], ...] = (SciPy, NumPy, Jax, OnnxRuntime, ScikitLearn, Torch)


def installed_peers(threads: int) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be imported, and why each of the others cannot."""
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    for kind in PEERS:
        try:
            peers.append(kind(threads))
        except Exception as error:  # noqa: PERF203 - a broken installation raises more than ImportError
            missing[kind.name] = (str(error) or type(error).__name__).splitlines()[0]
    return peers, missing
