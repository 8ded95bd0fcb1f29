"""How each library computes each operation, written as a careful user of it would.

Here the normalisations, the cross-entropy and the squared error; the rest is in
compare_functions.py.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from compare_cases import Case, Data
    from numpy.typing import NDArray

Run = Callable[[], Any]
"""One call; it returns its array, its scalar, or the pair (loss, gradient).

It is valid as long as the `Data` that it was built from.
"""


class Peer:
    """A library. Its methods are named after the operations and build one `Run` each.

    A method takes the data and returns None if it cannot. Those named in `with_out` also take the
    output array, or None for a fresh result; the others compete with fresh results only. What
    computes an operation with an option is named ``operation_with`` and takes the option's name.
    """

    name: str
    distribution: str
    with_out: frozenset[str] = frozenset()
    """The operations that can write into an array of the caller."""
    orders: frozenset[str] = frozenset({"C", "F"})
    """The memory orders that it takes without a copy."""
    dtypes: frozenset[str] = frozenset({"float32", "float64"})
    """The types that it computes with."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @property
    def version(self) -> str:
        """The installed version; a package that is only on the path has none."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "of no known version"

    def run(self, case: Case, data: Data) -> Run | None:
        """The call that computes `case`, or None if this library does not compete in it."""
        name = case.operation.name + ("_with" if case.option else "")
        build = getattr(self, name, None)
        layout = data.layout
        if build is None or layout.order not in self.orders or layout.dtype not in self.dtypes:
            return None
        option = [case.option.name] if case.option else []
        run: Run | None = None
        if name in self.with_out:
            run = build(data, *option, None if case.policy == "fresh" else self.given(case, data))
        elif case.policy == "fresh" or case.fresh_peers:
            run = build(data, *option)
        return run

    def given(self, case: Case, data: Data) -> Any:
        """What takes the result of an `out` row."""
        if case.operation.result == "rows":
            return data.out_rows
        return data.out if case.operation.writes == 1 else (data.out, data.second_out)

    def title(self, case: Case) -> str:
        """How the tables call it, with a word on a result that is new where others are not."""
        differs = case.policy == "out" and case.operation.name not in self.with_out
        return f"{self.name} (fresh)" if differs else self.name

    def to_numpy(self, result: Any) -> NDArray[Any]:
        """One returned value as an array."""
        return np.asarray(result)


def row_index(data: Data) -> tuple[NDArray[Any], ...]:
    """The index that picks the entry at each row's label."""
    grid = np.indices(data.batch_shape, sparse=True)
    return (*grid[: data.axis], data.labels, *grid[data.axis :])


class Logitkit(Peer):
    name = "logitkit"
    distribution = "logitkit"
    dtypes = Peer.dtypes | {"float16", "bfloat16"}
    with_out = frozenset(
        {
            "logsumexp",
            "softmax",
            "log_softmax",
            "cross_entropy_value_and_grad",
            "softmax_backward",
            "log_softmax_backward",
            "mse_loss_value_and_grad",
        }
    )

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import logitkit
        from logitkit import _logitkit_core

        logitkit.set_num_threads(threads)
        self.lk = logitkit
        self.core = _logitkit_core

    def rivals(self, case: Case, data: Data) -> dict[str, Run]:
        """The other ways of calling it that `case` asks for."""
        runs: dict[str, Run] = {}
        if "contiguous" in case.rivals and (run := self.run(case, data.contiguous)):
            runs["contiguous"] = run
        if "float32" in case.rivals and (run := self.run(case, data.single)):
            runs["float32"] = run
        if "plain" in case.rivals and (run := self.run(replace(case, option=None), data)):
            runs["plain"] = run
        if "one thread" in case.rivals and (run := self.run(case, data)):
            runs["one thread"] = self.on_threads(1, run)
        return runs

    def on_threads(self, threads: int, run: Run) -> Run:
        """The call with its own setting of the number of threads, as `logitkit.threads` makes."""
        override = self.core.set_thread_override

        def call() -> Any:
            former = override(threads)
            result = run()
            override(former)
            return result

        return call

    def _normalise(self, function: Callable[..., Any], d: Data, out: Any) -> Run:
        x, axis = d.x, d.axis
        if out is None:
            return lambda: function(x, axis)
        return lambda: function(x, axis, out=out)

    def logsumexp(self, d: Data, out: Any) -> Run:
        return self._normalise(self.lk.logsumexp, d, out)

    def softmax(self, d: Data, out: Any) -> Run:
        return self._normalise(self.lk.softmax, d, out)

    def log_softmax(self, d: Data, out: Any) -> Run:
        return self._normalise(self.lk.log_softmax, d, out)

    def cross_entropy(self, d: Data) -> Run:
        function, x, labels, axis = self.lk.cross_entropy, d.x, d.labels, d.axis
        return lambda: function(x, labels, axis=axis)

    def cross_entropy_value_and_grad(self, d: Data, out: Any) -> Run:
        function, x, labels, axis = self.lk.cross_entropy_value_and_grad, d.x, d.labels, d.axis
        if out is None:
            return lambda: function(x, labels, axis=axis)
        return lambda: function(x, labels, axis=axis, grad_out=out)

    def softmax_backward(self, d: Data, out: Any) -> Run:
        function, g, y, axis = self.lk.softmax_backward, d.g, d.normalised(logarithm=False), d.axis
        if out is None:
            return lambda: function(g, y, axis)
        return lambda: function(g, y, axis, out=out)

    def log_softmax_backward(self, d: Data, out: Any) -> Run:
        function, g, y, axis = (
            self.lk.log_softmax_backward,
            d.g,
            d.normalised(logarithm=True),
            d.axis,
        )
        if out is None:
            return lambda: function(g, y, axis)
        return lambda: function(g, y, axis, out=out)

    def mse_loss(self, d: Data) -> Run:
        function, x, target = self.lk.mse_loss, d.x, d.g
        return lambda: function(x, target)

    def mse_loss_value_and_grad(self, d: Data, out: Any) -> Run:
        function, x, target = self.lk.mse_loss_value_and_grad, d.x, d.g
        if out is None:
            return lambda: function(x, target)
        return lambda: function(x, target, grad_out=out)

    def classification_error(self, d: Data) -> Run:
        function, x, labels, axis = self.lk.classification_error, d.x, d.labels, d.axis
        return lambda: function(x, labels, axis=axis)


class NumPy(Peer):
    """Written out, without a temporary that the output array could hold."""

    name = "NumPy"
    distribution = "numpy"
    with_out = Logitkit.with_out

    def logsumexp(self, d: Data, out: Any) -> Run:
        x, axis = d.x, d.axis

        def run() -> Any:
            shift = x.max(axis=axis, keepdims=True)
            e = np.subtract(x, shift)
            np.exp(e, out=e)
            total = e.sum(axis=axis, out=out)
            total = np.log(total, out=total)
            return np.add(total, shift.squeeze(axis), out=total)

        return run

    def softmax(self, d: Data, out: Any) -> Run:
        x, axis = d.x, d.axis

        def run() -> Any:
            y = np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
            np.exp(y, out=y)
            return np.multiply(y, 1 / y.sum(axis=axis, keepdims=True), out=y)

        return run

    def log_softmax(self, d: Data, out: Any) -> Run:
        x, axis = d.x, d.axis

        def run() -> Any:
            y = np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
            y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
            return y

        return run

    def cross_entropy(self, d: Data) -> Run:
        x, at_label, axis = d.x, row_index(d), d.axis

        def run() -> Any:
            e = np.subtract(x, x.max(axis=axis, keepdims=True))
            picked = e[at_label]
            np.exp(e, out=e)
            return np.mean(np.log(e.sum(axis=axis)) - picked)

        return run

    def cross_entropy_value_and_grad(self, d: Data, out: Any) -> Run:
        x, at_label, rows, axis = d.x, row_index(d), d.rows, d.axis

        def run() -> Any:
            e = np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
            picked = e[at_label]
            np.exp(e, out=e)
            total = e.sum(axis=axis, keepdims=True)
            loss = np.mean(np.log(total.squeeze(axis)) - picked)
            e *= 1 / (rows * total)
            e[at_label] -= 1 / rows
            return loss, e

        return run

    def softmax_backward(self, d: Data, out: Any) -> Run:
        g, y, axis = d.g, d.normalised(logarithm=False), d.axis

        def run() -> Any:
            dx = np.multiply(g, y, out=out)
            total = dx.sum(axis=axis, keepdims=True)
            np.subtract(g, total, out=dx)
            dx *= y
            return dx

        return run

    def log_softmax_backward(self, d: Data, out: Any) -> Run:
        g, y, axis = d.g, d.normalised(logarithm=True), d.axis

        def run() -> Any:
            dx = np.exp(y, out=out)
            dx *= g.sum(axis=axis, keepdims=True)
            return np.subtract(g, dx, out=dx)

        return run

    def mse_loss(self, d: Data) -> Run:
        x, target = d.x, d.g

        def run() -> Any:
            difference = np.subtract(x, target)
            return np.vdot(difference, difference) / difference.size

        return run

    def mse_loss_value_and_grad(self, d: Data, out: Any) -> Run:
        x, target = d.x, d.g

        def run() -> Any:
            dx = np.subtract(x, target, out=out)
            loss = np.vdot(dx, dx) / dx.size
            dx *= 2 / dx.size
            return loss, dx

        return run

    def classification_error(self, d: Data) -> Run:
        x, labels, axis = d.x, d.labels, d.axis
        return lambda: np.mean(x.argmax(axis=axis) != labels)


class SciPy(Peer):
    """`scipy.special`, and the losses that its users build on it."""

    name = "SciPy"
    distribution = "scipy"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import scipy.special

        self.special = scipy.special

    def logsumexp(self, d: Data) -> Run:
        function, x, axis = self.special.logsumexp, d.x, d.axis
        return lambda: function(x, axis=axis)

    def softmax(self, d: Data) -> Run:
        function, x, axis = self.special.softmax, d.x, d.axis
        return lambda: function(x, axis=axis)

    def log_softmax(self, d: Data) -> Run:
        function, x, axis = self.special.log_softmax, d.x, d.axis
        return lambda: function(x, axis=axis)

    def cross_entropy(self, d: Data) -> Run:
        function, x, at_label, axis = self.special.logsumexp, d.x, row_index(d), d.axis
        return lambda: np.mean(function(x, axis=axis) - x[at_label])

    def cross_entropy_value_and_grad(self, d: Data) -> Run:
        function, x, at_label, rows, axis = (
            self.special.log_softmax,
            d.x,
            row_index(d),
            d.rows,
            d.axis,
        )

        def run() -> Any:
            y = function(x, axis=axis)
            loss = -np.mean(y[at_label])
            np.exp(y, out=y)
            y[at_label] -= 1
            y *= 1 / rows
            return loss, y

        return run


class Jax(Peer):
    """Compiled by `jax.jit`, on our arrays without a copy; a run ends when the result is there."""

    name = "JAX"
    distribution = "jax"
    orders = frozenset({"C"})
    dtypes = Logitkit.dtypes

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import jax
        import jax.numpy as jnp

        self.jax = jax
        self.jnp = jnp

    def _compile(self, function: Callable[..., Any], *arrays: NDArray[Any]) -> Run:
        arguments = [self.jax.device_put(array) for array in arrays]
        compiled = self.jax.jit(function)
        return lambda: compiled(*arguments).block_until_ready()

    def _compile_pair(self, function: Callable[..., Any], *arrays: NDArray[Any]) -> Run:
        arguments = [self.jax.device_put(array) for array in arrays]
        compiled = self.jax.jit(self.jax.value_and_grad(function))

        def run() -> Any:
            loss, dx = compiled(*arguments)
            return loss.block_until_ready(), dx.block_until_ready()

        return run

    def logsumexp(self, d: Data) -> Run:
        axis = d.axis
        logsumexp = self.jax.scipy.special.logsumexp
        return self._compile(lambda x: logsumexp(x, axis=axis), d.x)

    def softmax(self, d: Data) -> Run:
        return self._compile(lambda x: self.jax.nn.softmax(x, axis=d.axis), d.x)

    def log_softmax(self, d: Data) -> Run:
        return self._compile(lambda x: self.jax.nn.log_softmax(x, axis=d.axis), d.x)

    def _cross_entropy(self, axis: int) -> Callable[..., Any]:
        def loss(x: Any, labels: Any) -> Any:
            y = self.jax.nn.log_softmax(x, axis=axis)
            picked = self.jnp.take_along_axis(y, self.jnp.expand_dims(labels, axis), axis=axis)
            return -self.jnp.mean(picked)

        return loss

    def cross_entropy(self, d: Data) -> Run:
        return self._compile(self._cross_entropy(d.axis), d.x, d.labels.astype(np.int32))

    def cross_entropy_value_and_grad(self, d: Data) -> Run:
        return self._compile_pair(self._cross_entropy(d.axis), d.x, d.labels.astype(np.int32))

    def softmax_backward(self, d: Data) -> Run:
        axis = d.axis
        return self._compile(
            lambda g, y: y * (g - self.jnp.sum(g * y, axis=axis, keepdims=True)),
            d.g,
            d.normalised(logarithm=False),
        )

    def log_softmax_backward(self, d: Data) -> Run:
        axis = d.axis
        return self._compile(
            lambda g, y: g - self.jnp.exp(y) * self.jnp.sum(g, axis=axis, keepdims=True),
            d.g,
            d.normalised(logarithm=True),
        )

    def _mse(self, x: Any, target: Any) -> Any:
        return self.jnp.mean(self.jnp.square(x - target))

    def mse_loss(self, d: Data) -> Run:
        return self._compile(self._mse, d.x, d.g)

    def mse_loss_value_and_grad(self, d: Data) -> Run:
        return self._compile_pair(self._mse, d.x, d.g)

    def classification_error(self, d: Data) -> Run:
        axis = d.axis
        return self._compile(
            lambda x, labels: self.jnp.mean(self.jnp.argmax(x, axis=axis) != labels, dtype=x.dtype),
            d.x,
            d.labels.astype(np.int32),
        )


class OnnxRuntime(Peer):
    """One small graph an operation; gradients, which it has no operators for, from its primitives.

    Where an array of the caller takes the result, and for losses, inputs and outputs are bound
    once; a fresh result comes from `InferenceSession.run`, with the memory arena off: with it
    results lie in memory that the session keeps, which is the policy of the other rows.
    """

    name = "ONNX Runtime"
    distribution = "onnxruntime"
    orders = frozenset({"C"})
    with_out = Logitkit.with_out

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import onnx.parser
        import onnxruntime

        self.onnx = onnx
        self.ort = onnxruntime

    def _session(
        self,
        body: str,
        inputs: dict[str, NDArray[Any]],
        outputs: dict[str, NDArray[Any]],
        fresh: bool,
    ) -> Run:
        def declare(arrays: dict[str, NDArray[Any]]) -> str:
            names = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
            return ", ".join(
                f"{names.get(array.dtype, 'int64')}[{','.join(map(str, array.shape))}] {name}"
                for name, array in arrays.items()
            )

        model = self.onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 18]>\n'
            f"peer ({declare(inputs)}) => ({declare(outputs)}) {{\n"
            f"{body}\n}}"
        )
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = not fresh
        session = self.ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        if fresh:
            if len(outputs) == 1:
                return lambda: session.run(None, inputs)[0]
            return lambda: session.run(None, inputs)
        binding = session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        # Bound by address: `data` keeps the inputs alive, the result below the outputs.
        result = tuple(outputs.values()) if len(outputs) > 1 else next(iter(outputs.values()))

        def run() -> Any:
            session.run_with_iobinding(binding)
            return result

        return run

    def _full(self, d: Data, out: Any, body: str, **inputs: NDArray[Any]) -> Run:
        """A graph whose only result is `y`, of the full size."""
        outputs = {"y": d.out if out is None else out}
        return self._session(body, inputs, outputs, fresh=out is None)

    def _loss(self, d: Data, body: str, **inputs: NDArray[Any]) -> Run:
        """A graph whose only result is the scalar `loss`."""
        return self._session(body, inputs, {"loss": np.zeros((), d.dtype)}, fresh=False)

    def _loss_and_gradient(self, d: Data, out: Any, body: str, **inputs: NDArray[Any]) -> Run:
        outputs = {"loss": np.zeros((), d.dtype), "dx": d.out if out is None else out}
        return self._session(body, inputs, outputs, fresh=out is None)

    def _axes(self, d: Data) -> str:
        return f"axes = Constant <value = int64[1] {{{d.axis}}}> ()\n"

    def _constant(self, d: Data, name: str, value: float) -> str:
        kind = "float" if d.dtype == np.float32 else "double"
        return f"{name} = Constant <value = {kind} {{{value!r}}}> ()\n"

    def logsumexp(self, d: Data, out: Any) -> Run:
        body = self._axes(d) + "y = ReduceLogSumExp <keepdims = 0> (x, axes)"
        outputs = {"y": d.out_rows if out is None else out}
        return self._session(body, {"x": d.x}, outputs, fresh=out is None)

    def softmax(self, d: Data, out: Any) -> Run:
        return self._full(d, out, f"y = Softmax <axis = {d.axis}> (x)", x=d.x)

    def log_softmax(self, d: Data, out: Any) -> Run:
        return self._full(d, out, f"y = LogSoftmax <axis = {d.axis}> (x)", x=d.x)

    def cross_entropy(self, d: Data) -> Run | None:
        if d.axis != 1:
            return None
        body = 'loss = SoftmaxCrossEntropyLoss <reduction = "mean"> (x, t)'
        return self._loss(d, body, x=d.x, t=d.labels)

    def cross_entropy_value_and_grad(self, d: Data, out: Any) -> Run | None:
        if d.axis != 1:
            return None
        body = (
            self._axes(d)
            + self._constant(d, "scale", 1 / d.rows)
            + self._constant(d, "minus_scale", -1 / d.rows)
            + """
            lp = LogSoftmax <axis = 1> (x)
            loss = NegativeLogLikelihoodLoss <reduction = "mean"> (lp, t)
            p = Exp(lp)
            scaled = Mul(p, scale)
            index = Unsqueeze(t, axes)
            shape = Shape(index)
            update = Expand(minus_scale, shape)
            dx = ScatterElements <axis = 1, reduction = "add"> (scaled, index, update)"""
        )
        return self._loss_and_gradient(d, out, body, x=d.x, t=d.labels)

    def softmax_backward(self, d: Data, out: Any) -> Run:
        body = f"""{self._axes(d)}
            gp = Mul(g, p)
            total = ReduceSum <keepdims = 1> (gp, axes)
            rest = Sub(g, total)
            y = Mul(rest, p)"""
        return self._full(d, out, body, g=d.g, p=d.normalised(logarithm=False))

    def log_softmax_backward(self, d: Data, out: Any) -> Run:
        body = f"""{self._axes(d)}
            total = ReduceSum <keepdims = 1> (g, axes)
            p = Exp(lp)
            share = Mul(p, total)
            y = Sub(g, share)"""
        return self._full(d, out, body, g=d.g, lp=d.normalised(logarithm=True))

    def mse_loss(self, d: Data) -> Run:
        body = """
            difference = Sub(x, g)
            square = Mul(difference, difference)
            loss = ReduceMean <keepdims = 0> (square)"""
        return self._loss(d, body, x=d.x, g=d.g)

    def mse_loss_value_and_grad(self, d: Data, out: Any) -> Run:
        body = (
            self._constant(d, "scale", 2 / d.x.size)
            + """
            difference = Sub(x, g)
            square = Mul(difference, difference)
            loss = ReduceMean <keepdims = 0> (square)
            dx = Mul(difference, scale)"""
        )
        return self._loss_and_gradient(d, out, body, x=d.x, g=d.g)

    def classification_error(self, d: Data) -> Run:
        kind = 1 if d.dtype == np.float32 else 11
        body = f"""
            top = ArgMax <axis = {d.axis}, keepdims = 0> (x)
            right = Equal(top, t)
            wrong = Not(right)
            number = Cast <to = {kind}> (wrong)
            loss = ReduceMean <keepdims = 0> (number)"""
        return self._loss(d, body, x=d.x, t=d.labels)


class ScikitLearn(Peer):
    """The private loss behind its linear models and boosting; sample weights make it the mean."""

    name = "scikit-learn"
    distribution = "scikit-learn"
    with_out = frozenset({"cross_entropy_value_and_grad"})

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        from sklearn._loss.loss import HalfMultinomialLoss

        self.loss = HalfMultinomialLoss

    def _arguments(self, d: Data) -> dict[str, Any]:
        return {
            "y_true": d.labels.astype(d.dtype),
            "raw_prediction": np.moveaxis(d.x, d.axis, 1),
            "sample_weight": np.full(d.rows, 1 / d.rows, d.dtype),
            "n_threads": self.threads,
        }

    def cross_entropy(self, d: Data) -> Run | None:
        if d.x.ndim != 2:
            return None
        function, arguments = self.loss(n_classes=d.classes).loss, self._arguments(d)
        return lambda: function(**arguments).sum()

    def cross_entropy_value_and_grad(self, d: Data, out: Any) -> Run | None:
        if d.x.ndim != 2:
            return None
        function, arguments = self.loss(n_classes=d.classes).loss_gradient, self._arguments(d)
        given, axis = None if out is None else np.moveaxis(out, d.axis, 1), d.axis

        def run() -> Any:
            losses, dx = function(gradient_out=given, **arguments)
            return losses.sum(), np.moveaxis(dx, 1, axis) if axis != 1 else dx

        return run


class Torch(Peer):
    """Eager, on tensors that share our memory; gradients of losses by its autograd."""

    name = "torch"
    distribution = "torch"
    dtypes = Logitkit.dtypes
    with_out = frozenset(
        {"logsumexp", "softmax", "log_softmax", "softmax_backward", "log_softmax_backward"}
    )

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch

    def to_numpy(self, result: Any) -> NDArray[Any]:
        result = result.detach()  # NumPy has no bfloat16 of its own
        return np.asarray(result.float() if result.dtype == self.torch.bfloat16 else result)

    def _tensor(self, array: NDArray[Any]) -> Any:
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def _tensors(self, *arrays: NDArray[Any] | None) -> Sequence[Any]:
        return [None if array is None else self._tensor(array) for array in arrays]

    def _normalise(self, function: Callable[..., Any], d: Data, out: Any) -> Run:
        axis, (x, y) = d.axis, self._tensors(d.x, out)
        if y is None:
            return lambda: function(x, axis)
        return lambda: function(x, axis, out=y)

    def logsumexp(self, d: Data, out: Any) -> Run:
        return self._normalise(self.torch.logsumexp, d, out)

    def softmax(self, d: Data, out: Any) -> Run:
        return self._normalise(self.torch.softmax, d, out)

    def log_softmax(self, d: Data, out: Any) -> Run:
        return self._normalise(self.torch.log_softmax, d, out)

    def _value_and_grad(self, function: Callable[..., Any], x: Any, target: Any) -> Run:
        enable_grad, grad = self.torch.enable_grad, self.torch.autograd.grad
        x.requires_grad_()

        def run() -> Any:
            with enable_grad():
                loss = function(x, target)
                (dx,) = grad(loss, x)
            return loss, dx

        return run

    def _cross_entropy(self, axis: int) -> Callable[..., Any]:
        function: Callable[..., Any] = self.torch.nn.functional.cross_entropy
        if axis == 1:
            return function
        return lambda x, labels: function(x.movedim(axis, 1), labels)

    def cross_entropy(self, d: Data) -> Run:
        function = self._cross_entropy(d.axis)
        x, labels = self._tensors(d.x, d.labels)
        return lambda: function(x, labels)

    def cross_entropy_value_and_grad(self, d: Data) -> Run:
        x, labels = self._tensors(d.x, d.labels)
        return self._value_and_grad(self._cross_entropy(d.axis), x, labels)

    def softmax_backward(self, d: Data, out: Any) -> Run:
        axis, (g, y, dx) = d.axis, self._tensors(d.g, d.normalised(logarithm=False), out)
        function = self.torch.ops.aten._softmax_backward_data
        if dx is None:
            return lambda: function(g, y, axis, g.dtype)
        return lambda: function(g, y, axis, g.dtype, grad_input=dx)

    def log_softmax_backward(self, d: Data, out: Any) -> Run:
        axis, (g, y, dx) = d.axis, self._tensors(d.g, d.normalised(logarithm=True), out)
        function = self.torch.ops.aten._log_softmax_backward_data
        if dx is None:
            return lambda: function(g, y, axis, g.dtype)
        return lambda: function(g, y, axis, g.dtype, out=dx)

    def mse_loss(self, d: Data) -> Run:
        function = self.torch.nn.functional.mse_loss
        x, target = self._tensors(d.x, d.g)
        return lambda: function(x, target)

    def mse_loss_value_and_grad(self, d: Data) -> Run:
        x, target = self._tensors(d.x, d.g)
        return self._value_and_grad(self.torch.nn.functional.mse_loss, x, target)

    def classification_error(self, d: Data) -> Run:
        axis, (x, labels) = d.axis, self._tensors(d.x, d.labels)
        return lambda: (x.argmax(axis) != labels).to(x.dtype).mean()
