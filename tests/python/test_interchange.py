"""Arrays of other libraries: which are read where they lie, which are copied, which are refused."""

from __future__ import annotations

from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
from layouts import assert_same_bits
from logitkit._operands import plain, real_array, result_dtype, work_dtype

Array = npt.NDArray[Any]

X = np.array([[0.5, -1.25, 3.0], [2.0, 0.0, -0.75]])


def kernel_operand(value: Any) -> Array:
    """Return the array that a kernel reads when `value` is passed in."""
    array = real_array(value, "x")
    return plain(array, work_dtype(result_dtype(array)))


def check_results(value: Any, x: Array) -> None:
    """Fail unless `value` gives the results of `x`."""
    axis, labels = x.ndim - 1, np.zeros(x.shape[:-1], dtype=int)
    for function in (lk.softmax, lk.log_softmax):
        got, want = function(value, axis), function(x, axis)
        assert type(got) is np.ndarray
        assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(want))
    assert_same_bits(lk.logsumexp(value, axis), lk.logsumexp(x, axis))
    assert_same_bits(lk.logsumexp(value, axis, b=value), lk.logsumexp(x, axis, b=x))
    assert_same_bits(lk.cross_entropy(value, labels), lk.cross_entropy(x, labels))
    assert_same_bits(lk.mse_loss(value, x), lk.mse_loss(x, x))


def is_read_in_place(value: Any, x: Array, memory: Array) -> None:
    """Fail unless `value` gives the results of `x` and a kernel reads it from `memory`."""
    check_results(value, x)
    assert np.shares_memory(kernel_operand(value), memory)


def is_copied(value: Any, x: Array) -> None:
    """Fail unless `value` gives the results of `x`, from new memory at each call."""
    check_results(value, x)
    assert not np.shares_memory(kernel_operand(value), kernel_operand(value))


# --- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, tensor = X.astype(dtype), torch.tensor(X, dtype=getattr(torch, dtype))
    memory = tensor.numpy()
    is_read_in_place(tensor, x, memory)
    is_read_in_place(tensor.T, x.T, memory)
    is_read_in_place(tensor[:, ::2], x[:, ::2], memory)
    is_read_in_place(tensor[0], x[0], memory)
    is_read_in_place(tensor.expand(4, 2, 3), np.broadcast_to(x, (4, 2, 3)), memory)
    is_read_in_place(torch.nn.Parameter(tensor).detach(), x, memory)


def test_torch_labels() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.int64, torch.int32, torch.uint8):
        labels = torch.tensor([2, 0], dtype=dtype)
        assert lk.cross_entropy(torch.tensor(X), labels) == lk.cross_entropy(X, [2, 0])
        assert np.shares_memory(real_array(labels, "labels"), labels.numpy())


def test_torch_half_precision() -> None:
    torch, ml_dtypes = pytest.importorskip("torch"), pytest.importorskip("ml_dtypes")
    for dtype, same in ((torch.float16, np.float16), (torch.bfloat16, ml_dtypes.bfloat16)):
        tensor = torch.tensor(X, dtype=dtype)
        for view, x in ((tensor, X), (tensor.T, X.T), (tensor[1:, ::2], X[1:, ::2])):
            array = real_array(view, "x")
            assert array.dtype == same
            assert array.__array_interface__["data"][0] == view.data_ptr()
            check_results(view, x.astype(same))
        assert lk.logsumexp(tensor[0, 0]) == 0.5


def test_torch_results_go_back_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    y = lk.softmax(torch.tensor(X), 1)
    assert torch.from_numpy(y).data_ptr() == y.__array_interface__["data"][0]
    tensor = torch.tensor(X)
    lk.softmax(tensor, 1, out=tensor.numpy())
    assert np.array_equal(tensor.numpy(), y)


def test_torch_tensors_that_are_refused() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(X)
    out = np.full(X.shape, 7.0)
    for bad, advice in (
        (tensor.requires_grad_(), r"^logits .*\.detach\(\)"),
        (tensor.detach().bfloat16().requires_grad_(), r"^logits .*\.detach\(\)"),
        (tensor.detach().to("meta"), r"^logits .*\.cpu\(\)"),
        (tensor.detach().to_sparse(), r"^logits .*to_dense\(\)"),
        (tensor.detach().to(torch.float8_e5m2), "^logits .*Float8"),
    ):
        with pytest.raises(TypeError, match=advice):
            lk.cross_entropy_value_and_grad(bad, [0, 1], grad_out=out)
    assert np.all(out == 7)


# --- JAX -----------------------------------------------------------------------------------------


def test_jax() -> None:
    jax = pytest.importorskip("jax")
    x = X.astype(np.float32)
    array = jax.numpy.asarray(x)
    is_read_in_place(array, x, np.asarray(array))
    labels = jax.numpy.asarray([2, 0])
    assert lk.cross_entropy(array, labels) == lk.cross_entropy(x, [2, 0])
    half = array.astype(jax.numpy.bfloat16)
    assert np.shares_memory(real_array(half, "x"), np.asarray(half))
    assert lk.softmax(half, 1).dtype == half.dtype


def test_jax_functions_that_are_traced_are_refused() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(TypeError, match=r"^a .*traced"):
        jax.grad(lambda x: lk.logsumexp(x))(jax.numpy.ones(3))


# --- data frames ---------------------------------------------------------------------------------


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame, series = pandas.DataFrame(X), pandas.Series(X[0])
    is_read_in_place(frame, X, frame.to_numpy())
    is_read_in_place(series, X[0], series.to_numpy())
    nullable = series.astype("Float64")
    is_read_in_place(nullable, X[0], nullable.to_numpy())
    is_copied(pandas.DataFrame({"a": X[:, 0], "b": X[:, 1].astype("f4")}), X[:, :2])
    missing = pandas.Series([0.5, None], dtype="Float64")
    assert np.isnan(lk.logsumexp(missing))
    labels = pandas.Series([2, None], dtype="Int64")
    with pytest.raises(ValueError, match="nan: not an integer"):
        lk.cross_entropy(frame, labels)
    with pytest.raises(TypeError, match="object"):
        lk.softmax(pandas.DataFrame({"a": [1.0], "b": ["text"]}))


def test_pandas_with_arrow() -> None:
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    series = pandas.Series(X[0], dtype="double[pyarrow]")
    is_read_in_place(series, X[0], series.to_numpy())


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    for dtype in (np.float32, np.float64):
        series = polars.Series(X[0].astype(dtype))
        is_read_in_place(series, X[0].astype(dtype), series.to_numpy())
    array = polars.Series(X.tolist(), dtype=polars.Array(polars.Float64, 3))
    is_read_in_place(array, X, array.to_numpy())
    is_copied(polars.DataFrame(X.tolist(), orient="row"), X)
    is_copied(polars.concat([polars.Series(X[0]), polars.Series(X[1])], rechunk=False), X.ravel())
    labels = polars.Series([2, 0])
    assert lk.cross_entropy(X, labels) == lk.cross_entropy(X, [2, 0])
    assert np.shares_memory(real_array(labels, "labels"), labels.to_numpy())
    assert np.isnan(lk.logsumexp(polars.Series([0.5, None])))
    with pytest.raises(ValueError, match="nan: not an integer"):
        lk.cross_entropy(X, polars.Series([2, None]))
    for bad in (polars.Series(["a", "b"]), polars.Series([[1.0, 2.0], [3.0]])):
        with pytest.raises(TypeError, match=r"^x has dtype"):
            lk.softmax(bad)


def test_pyarrow() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    array = pyarrow.array(X[0])
    is_read_in_place(array, X[0], array.to_numpy())
    is_copied(pyarrow.chunked_array([X[0], X[1]]), X.ravel())
    assert np.isnan(lk.logsumexp(pyarrow.array([0.5, None])))


# --- protocols -----------------------------------------------------------------------------------


class OnlyDLPack:
    """An array that offers nothing but DLPack."""

    def __init__(self, array: Array, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        if self.device[0] != 1:
            raise BufferError("the array lies on another device: copy it to the CPU")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_dlpack() -> None:
    x = X.copy()
    is_read_in_place(OnlyDLPack(x), x, x)
    is_read_in_place(OnlyDLPack(x.T), x.T, x)
    with pytest.raises(TypeError, match=r"^x cannot be read as a NumPy array: "):
        lk.softmax(OnlyDLPack(x, device=(2, 0)))


def test_array_interface_and_buffers() -> None:
    class Interface:
        def __init__(self, array: Array) -> None:
            self.array, self.__array_interface__ = array, array.__array_interface__

    x = X.copy()
    is_read_in_place(Interface(x), x, x)
    is_read_in_place(memoryview(x), x, x)


def test_array_method() -> None:
    class Owner:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            return x if dtype is None else x.astype(dtype)

    x = X.copy()
    is_read_in_place(Owner(), x, x)


def test_numpy() -> None:
    """Kernels read strided memory; what they cannot read is copied once."""
    for x in (X.copy(), X.T, X[:, ::2], X[::-1], np.broadcast_to(X[0], (4, 3))):
        is_read_in_place(x, x, x)
    is_copied(X.astype(">f8"), X)
    is_copied(X.tolist(), X)
    assert kernel_operand(np.arange(3)).dtype == np.float64
