"""What happens in every special case, one test per rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
import reference as ref
from layouts import assert_same_bits

Array = npt.NDArray[Any]

INF, NAN = np.inf, np.nan
DTYPES = [np.float32, np.float64]

both = pytest.mark.parametrize("dtype", DTYPES)
lengths = pytest.mark.parametrize("c", [2, 3, 10, 16, 17, 33, 64, 65, 100, 1000])


def row(c: int, dtype: Any, **values: float) -> Array:
    """Return ordinary logits with ``first``, ``middle`` or ``last`` replaced."""
    x = np.linspace(-2, 2, c).astype(dtype)
    for name, value in values.items():
        x[{"first": 0, "middle": c // 2, "last": -1}[name]] = value
    return x


def among(x: Array) -> Array:
    """Return a batch with this row between ordinary ones, which have nothing to do with it."""
    return np.stack([row(len(x), x.dtype), x, row(len(x), x.dtype)] * 7)


# --- signatures ----------------------------------------------------------------------------------

SIGNATURES = {
    "logsumexp": (
        "(a, axis=None, b=None, keepdims=False, return_sign=False, *, where=None, dtype=None, "
        "out=None)"
    ),
    "softmax": (
        "(x, axis=None, *, where=None, temperature=1.0, dtype=None, out=None, return_lse=False)"
    ),
    "log_softmax": (
        "(x, axis=None, *, where=None, temperature=1.0, dtype=None, out=None, return_lse=False)"
    ),
    "logsumexp_backward": (
        "(grad, a, lse, axis=None, b=None, keepdims=False, *, where=None, out=None)"
    ),
    "softmax_backward": "(grad, y, axis=None, *, temperature=1.0, out=None)",
    "log_softmax_backward": "(grad, y, axis=None, *, temperature=1.0, out=None)",
    "cross_entropy": (
        "(logits, labels, *, axis=-1, class_weight=None, sample_weight=None, ignore_index=-100, "
        "label_smoothing=0.0, reduction='mean', temperature=1.0, z_loss=0.0, where=None, "
        "dtype=None, out=None)"
    ),
    "cross_entropy_value_and_grad": (
        "(logits, labels, *, axis=-1, class_weight=None, sample_weight=None, ignore_index=-100, "
        "label_smoothing=0.0, reduction='mean', temperature=1.0, z_loss=0.0, where=None, "
        "dtype=None, grad_output=None, grad_out=None)"
    ),
    "cross_entropy_grad_hess": (
        "(scores, labels, *, sample_weight=None, hessian='exact', hess_scale=1.0, "
        "hess_floor=0.0, dtype=<class 'numpy.float32'>, order='K', out=None)"
    ),
    "mse_loss": "(pred, target, *, weight=None, reduction='mean', dtype=None, out=None)",
    "mse_loss_value_and_grad": (
        "(pred, target, *, weight=None, reduction='mean', grad_output=None, grad_out=None)"
    ),
    "binary_cross_entropy_with_logits": (
        "(logits, targets, *, pos_weight=None, weight=None, reduction='mean', dtype=None, out=None)"
    ),
    "binary_cross_entropy_with_logits_value_and_grad": (
        "(logits, targets, *, pos_weight=None, weight=None, reduction='mean', grad_output=None, "
        "grad_out=None)"
    ),
    "log_loss": (
        "(probs, labels, *, axis=-1, sample_weight=None, ignore_index=-100, reduction='mean', "
        "dtype=None, out=None)"
    ),
    "log_loss_value_and_grad": (
        "(probs, labels, *, axis=-1, sample_weight=None, ignore_index=-100, reduction='mean', "
        "grad_output=None, grad_out=None)"
    ),
    "classification_error": (
        "(scores, labels, *, axis=-1, sample_weight=None, ignore_index=-100, reduction='mean')"
    ),
    "token_logprobs": "(logits, labels, *, axis=-1, temperature=1.0, ignore_index=-100)",
    "top_k_logprobs": "(logits, k, *, axis=-1, temperature=1.0)",
    "get_num_threads": "()",
    "set_num_threads": "(n)",
    "threads": "(n)",
    "simd_level": "()",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    signature = inspect.signature(getattr(lk, name))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]


def test_public_names() -> None:
    expected = {*SIGNATURES, "show_config", "__version__"}
    assert set(lk.__all__) == expected
    assert [name for name in lk.__all__ if not hasattr(lk, name)] == []


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_drop_in_for_scipy(name: str, rng: np.random.Generator) -> None:
    """SciPy's positional arguments in SciPy's order, with SciPy's results up to rounding."""
    theirs = getattr(pytest.importorskip("scipy.special"), name)
    ours: Callable[..., Any] = getattr(lk, name)
    x = rng.normal(0, 3, (3, 4, 5))
    for axis in (None, 0, 1, -1, (0, 1), (2, 0), (0, 1, 2)):
        np.testing.assert_allclose(ours(x, axis), theirs(x, axis), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(ours([1, 2, 3]), theirs([1, 2, 3]), rtol=1e-13)
    np.testing.assert_allclose(ours(2.0), theirs(2.0), rtol=1e-13, atol=1e-15)
    if name == "logsumexp":
        b = rng.uniform(-1, 1, x.shape)
        for arguments in ((1, b, False, True), (None, b, True, True), ((0, 2), b, True, True)):
            for got, want in zip(ours(x, *arguments), theirs(x, *arguments), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
                assert np.shape(got) == np.shape(want)
        positive = np.abs(b)
        np.testing.assert_allclose(ours(x, 1, positive), theirs(x, 1, positive), rtol=1e-12)
        np.testing.assert_allclose(ours(x, 2, positive[0, 0]), theirs(x, 2, positive[0, 0]))


# --- infinities and NaN --------------------------------------------------------------------------


@both
@lengths
def test_logsumexp_of_infinities(c: int, dtype: Any) -> None:
    full: Callable[[float], Array] = lambda v: np.full(c, v, dtype=dtype)  # noqa: E731
    cases = [
        (full(-INF), -INF),
        (full(INF), INF),
        (row(c, dtype, first=INF), INF),
        (row(c, dtype, last=INF, first=-INF), INF),
        (row(c, dtype, last=NAN), NAN),
        (row(c, dtype, first=NAN, last=INF), NAN),
        (row(c, dtype, first=INF, last=NAN), NAN),
        (row(c, dtype, first=-INF, last=NAN), NAN),
    ]
    for x, expected in cases:
        np.testing.assert_array_equal(lk.logsumexp(x), dtype(expected))
        got = lk.logsumexp(among(x), 1)
        np.testing.assert_array_equal(got[1::3], dtype(expected))
        assert np.all(np.isfinite(got[::3]))
        np.testing.assert_array_equal(lk.logsumexp(np.ascontiguousarray(among(x).T), 0), got)
    one = full(-INF)
    one[c // 2] = 3.5
    assert lk.logsumexp(one) == 3.5


@both
@lengths
def test_softmax_of_a_row_of_minus_infinity_is_nan(c: int, dtype: Any) -> None:
    x = np.full(c, -INF, dtype=dtype)
    for f in (lk.softmax, lk.log_softmax):
        assert np.all(np.isnan(f(x)))
        batch = f(among(x), 1)
        assert np.all(np.isnan(batch[1::3]))
        assert np.all(np.isfinite(batch[::3]))


@both
@lengths
def test_softmax_of_plus_infinity_is_nan(c: int, dtype: Any) -> None:
    for x in (
        row(c, dtype, first=INF),
        row(c, dtype, last=INF),
        row(c, dtype, first=INF, last=INF),
    ):
        assert np.all(np.isnan(lk.softmax(x)))
        batch = lk.softmax(among(x), 1)
        assert np.all(np.isnan(batch[1::3]))
        assert np.all(np.isfinite(batch[::3]))


@both
@lengths
def test_log_softmax_of_one_plus_infinity(c: int, dtype: Any) -> None:
    for x in (row(c, dtype, first=INF), row(c, dtype, middle=INF), row(c, dtype, last=INF)):
        y = lk.log_softmax(x)
        assert np.all(np.isnan(y[x == INF]))
        assert np.all(y[x != INF] == -INF)
        assert_same_bits(lk.log_softmax(among(x), 1)[1], y)


@both
@lengths
def test_nan_fills_its_row(c: int, dtype: Any) -> None:
    for x in (
        row(c, dtype, first=NAN),
        row(c, dtype, last=NAN),
        row(c, dtype, first=INF, middle=NAN),
    ):
        for f in (lk.softmax, lk.log_softmax):
            batch = f(among(x), 1)
            assert np.all(np.isnan(batch[1::3]))
            assert np.all(np.isfinite(batch[::3]))


@both
@lengths
def test_minus_infinity_is_a_mask(c: int, dtype: Any) -> None:
    """A masked class has probability 0, and the others are as if it were not there."""
    x = row(c, dtype, first=-INF)
    assert lk.softmax(x)[0] == 0
    assert lk.log_softmax(x)[0] == -INF
    np.testing.assert_allclose(lk.softmax(x)[1:], lk.softmax(x[1:]), rtol=1e-6)
    np.testing.assert_allclose(lk.logsumexp(x), lk.logsumexp(x[1:]), rtol=1e-6, atol=1e-6)


@both
@lengths
@pytest.mark.parametrize("mask", [-1e9, "lowest", -INF])
def test_masks_of_every_kind_mean_the_same(mask: Any, c: int, dtype: Any) -> None:
    value = np.finfo(dtype).min if mask == "lowest" else dtype(mask)
    x, infinite = row(c, dtype, first=value), row(c, dtype, first=-INF)
    assert_same_bits(lk.softmax(x), lk.softmax(infinite))
    assert_same_bits(lk.logsumexp(x), lk.logsumexp(infinite))
    assert_same_bits(lk.log_softmax(x)[1:], lk.log_softmax(infinite)[1:])
    assert lk.log_softmax(x)[0] == pytest.approx(float(value), rel=1e-6)


@both
@lengths
def test_cross_entropy_of_minus_infinity_at_the_label(c: int, dtype: Any) -> None:
    x = among(row(c, dtype, middle=-INF))
    labels = np.full(len(x), c // 2)
    loss, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="none")
    assert np.all(loss[1::3] == INF)
    assert np.all(np.isfinite(loss[::3]))
    assert np.all(np.isfinite(grad))
    assert np.all(grad[1::3, c // 2] == -1)
    expected = lk.softmax(x[1])
    expected[c // 2] = -1
    assert_same_bits(grad[1], expected)


@both
@lengths
def test_cross_entropy_of_plus_infinity_off_the_label(c: int, dtype: Any) -> None:
    x = among(row(c, dtype, last=INF))
    loss, grad = lk.cross_entropy_value_and_grad(x, np.zeros(len(x), int), reduction="none")
    assert np.all(loss[1::3] == INF)
    assert np.all(np.isnan(grad[1::3]))
    assert np.all(np.isfinite(grad[::3]))


@both
@lengths
def test_cross_entropy_of_plus_infinity_at_the_label(c: int, dtype: Any) -> None:
    x = among(row(c, dtype, last=INF))
    loss, grad = lk.cross_entropy_value_and_grad(x, np.full(len(x), c - 1), reduction="none")
    assert np.all(np.isnan(loss[1::3]))
    assert np.all(np.isnan(grad[1::3]))
    assert np.all(np.isfinite(loss[::3]))


@both
@lengths
def test_cross_entropy_of_nan(c: int, dtype: Any) -> None:
    for x in (row(c, dtype, first=NAN), np.full(c, -INF, dtype=dtype)):
        for label in (0, c - 1):
            loss, grad = lk.cross_entropy_value_and_grad(x, label)
            assert np.isnan(loss)
            assert np.all(np.isnan(grad))
            assert np.isnan(lk.cross_entropy(among(x), np.full(21, label)))


@both
@lengths
def test_zero_times_log_zero(c: int, dtype: Any) -> None:
    """A probability label of 0 costs nothing, also where the logit is minus infinity."""
    x = row(c, dtype, first=-INF)
    t = np.zeros(c, dtype=dtype)
    t[-1] = 1
    loss, grad = lk.cross_entropy_value_and_grad(x, t)
    assert loss == pytest.approx(float(-lk.log_softmax(x)[-1]), rel=1e-6)
    assert grad[0] == 0
    assert np.all(np.isfinite(grad))
    t[0] = 0.25
    assert lk.cross_entropy(x, t) == INF


@both
def test_probabilities_are_taken_as_given(dtype: Any) -> None:
    x = row(5, dtype)
    t = np.array([0.5, 0, 1, 0, 0.5], dtype=dtype)
    loss, grad = lk.cross_entropy_value_and_grad(x, t)
    expected, gradient, scale = ref.cross_entropy_soft(x, t)
    ref.assert_close(loss, expected, 4)
    ref.assert_close(grad, gradient, 4, scale)
    loss, grad = lk.cross_entropy_value_and_grad(x, np.zeros(5, dtype=dtype))
    assert loss == 0
    assert np.all(grad == 0)


@both
def test_classification_error_rules(dtype: Any) -> None:
    """The first maximum wins; a row with NaN is an error; an ignored row is not counted."""
    scores = np.array(
        [[1, 3, 3], [3, 3, 1], [NAN, 1, 0], [1, NAN, 0], [INF, INF, 0], [-INF] * 3], dtype=dtype
    )
    labels = [1, 1, 0, 1, 0, 0]
    got = lk.classification_error(scores, labels, reduction="none")
    assert got.tolist() == [0, 1, 1, 1, 0, 0]
    assert lk.classification_error(scores, labels) == 0.5
    assert lk.classification_error(scores, labels, reduction="sum") == 3
    labels[0] = labels[1] = -100
    assert lk.classification_error(scores, labels, reduction="none").tolist() == [0, 0, 1, 1, 0, 0]
    assert lk.classification_error(scores, labels) == 0.5
    assert np.isnan(lk.classification_error(scores, [-100] * 6))
    assert lk.classification_error(scores, [-100] * 6, reduction="sum") == 0


def test_negative_zero_is_zero() -> None:
    for c in (2, 17, 100):
        x = np.zeros(c, dtype=np.float32)
        minus = -x
        minus[::3] = 0
        assert_same_bits(lk.softmax(minus), lk.softmax(x))
        assert_same_bits(lk.logsumexp(minus), lk.logsumexp(x))
        assert lk.classification_error(minus, 0) == 0


# --- empty arrays --------------------------------------------------------------------------------


@both
def test_no_classes(dtype: Any) -> None:
    x = np.empty((3, 0), dtype=dtype)
    assert_same_bits(lk.logsumexp(x, 1), np.full(3, -INF, dtype=dtype))
    assert_same_bits(lk.logsumexp(x, 1, keepdims=True), np.full((3, 1), -INF, dtype=dtype))
    value, sign = lk.logsumexp(x, 1, return_sign=True)
    assert np.all(value == -INF)
    assert np.all(sign == 0)
    assert lk.logsumexp(np.empty(0, dtype=dtype)) == -INF
    for f in (lk.softmax, lk.log_softmax):
        for axis in (None, 0, 1, (0, 1)):
            got = f(x, axis)
            assert got.shape == (3, 0)
            assert got.dtype == dtype
    for g in (lk.softmax_backward, lk.log_softmax_backward):
        assert g(x, x, 1).shape == (3, 0)
    zeros = np.zeros(3, dtype=dtype)
    assert lk.logsumexp_backward(zeros, x, zeros, 1).shape == (3, 0)
    out = np.full(3, 7, dtype=dtype)
    assert lk.logsumexp(x, 1, out=out) is out
    assert np.all(out == -INF)


@both
def test_no_rows(dtype: Any) -> None:
    for shape, axis in (((0, 5), 1), ((5, 0), 0), ((2, 5, 0), 1), ((0, 0), 1)):
        x = np.empty(shape, dtype=dtype)
        batch = ref.batch_shape(shape, axis)
        labels = np.empty(batch, dtype=np.int64)
        assert lk.softmax(x, axis).shape == shape
        assert lk.logsumexp(x, axis).shape == batch
        for given in (labels, x):
            options: dict[str, Any] = {"axis": axis}
            mean, grad = lk.cross_entropy_value_and_grad(x, given, **options)
            assert np.isnan(mean)
            assert mean.dtype == dtype
            assert grad.shape == shape
            assert np.isnan(lk.cross_entropy(x, given, **options))
            assert lk.cross_entropy(x, given, reduction="sum", **options) == 0
            assert lk.cross_entropy(x, given, reduction="none", **options).shape == batch
        assert np.isnan(lk.classification_error(x, labels, axis=axis))
        assert lk.classification_error(x, labels, axis=axis, reduction="sum") == 0
        loss, grad = lk.mse_loss_value_and_grad(x, x)
        assert np.isnan(loss)
        assert grad.shape == shape
        assert lk.mse_loss(x, x, reduction="sum") == 0
        assert lk.mse_loss(x, x, reduction="none").shape == shape


@both
def test_everything_ignored(dtype: Any) -> None:
    x = np.full((4, 3), NAN, dtype=dtype)
    x[:2] = 1
    labels = [-100] * 4
    loss, grad = lk.cross_entropy_value_and_grad(x, labels)
    assert np.isnan(loss)
    assert_same_bits(grad, np.zeros_like(x))
    loss, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="sum")
    assert_same_bits(loss, dtype(0))
    assert_same_bits(grad, np.zeros_like(x))
    loss, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="none")
    assert_same_bits(loss, np.zeros(4, dtype=dtype))
    assert_same_bits(grad, np.zeros_like(x))


@both
@lengths
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_ignored_row_contributes_exactly_zero(value: float, c: int, dtype: Any) -> None:
    clean = np.stack([row(c, dtype)] * 20)
    x = clean.copy()
    x[3::4] = value
    labels = np.arange(20) % c
    labels[3::4] = -100
    kept = labels != -100
    for reduction in ("mean", "sum"):
        loss, grad = lk.cross_entropy_value_and_grad(x, labels, reduction=reduction)
        expected = lk.cross_entropy_value_and_grad(clean[kept], labels[kept], reduction=reduction)
        assert loss == pytest.approx(float(expected[0]), rel=1e-6)
        assert_same_bits(grad[kept], expected[1])
        assert_same_bits(grad[~kept], np.zeros_like(grad[~kept]))
    loss, grad = lk.cross_entropy_value_and_grad(
        x, labels, reduction="none", grad_output=np.where(kept, -1, NAN).astype(dtype)
    )
    assert_same_bits(loss[~kept], np.zeros(5, dtype=dtype))
    assert_same_bits(grad[~kept], np.zeros_like(grad[~kept]))
    got = lk.classification_error(x, labels, reduction="none")
    assert np.all(got[~kept] == 0)


# --- kinds of input ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, memoryview])
def test_anything_that_asarray_takes(kind: Any) -> None:
    x = kind(np.array([1.0, 2.0, 3.0])) if kind is memoryview else kind([1.0, 2.0, 3.0])
    assert_same_bits(lk.softmax(x), lk.softmax(np.array([1.0, 2.0, 3.0])))
    assert lk.cross_entropy(x, 2) == lk.cross_entropy(np.array([1.0, 2.0, 3.0]), 2)
    assert lk.mse_loss(x, [1, 2, 5]) == pytest.approx(4 / 3)


def test_array_protocol() -> None:
    class Owner:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            return np.array([1.0, 2.0, 3.0], dtype=dtype)

    assert_same_bits(lk.softmax(Owner()), lk.softmax([1.0, 2.0, 3.0]))


def test_pandas() -> None:
    """Frames are F-ordered, and read-only in their newer versions."""
    pandas = pytest.importorskip("pandas")
    x = np.arange(12.0).reshape(3, 4) / 5
    frame = pandas.DataFrame(x)
    labels = pandas.Series([0, 3, 1])
    assert_same_bits(np.ascontiguousarray(lk.softmax(frame, 1)), lk.softmax(x, 1))
    assert lk.cross_entropy(frame, labels) == lk.cross_entropy(x, [0, 3, 1])
    assert lk.mse_loss(frame, frame + 1) == pytest.approx(1)


@both
def test_scalars_come_back_as_numpy_scalars(dtype: Any) -> None:
    x, labels = np.ones((3, 4), dtype=dtype), np.zeros(3, dtype=int)
    results = [
        lk.logsumexp(x),
        lk.logsumexp(x[0], 0),
        lk.logsumexp(x, (0, 1)),
        *lk.logsumexp(x, return_sign=True),
        lk.cross_entropy(x, labels),
        lk.cross_entropy(x, labels, reduction="sum"),
        lk.cross_entropy(x[0], 0, reduction="none"),
        lk.cross_entropy_value_and_grad(x, labels)[0],
        lk.cross_entropy_value_and_grad(x, x)[0],
        lk.mse_loss(x, x),
        lk.mse_loss_value_and_grad(x, x)[0],
    ]
    for i, result in enumerate(results):
        assert type(result) is dtype, f"result {i} is a {type(result)}"
    assert isinstance(lk.classification_error(x, labels), np.floating)
    assert isinstance(lk.classification_error(x[0], 0, reduction="none"), np.floating)
    kept = lk.logsumexp(x, keepdims=True)
    assert isinstance(kept, np.ndarray)
    assert kept.shape == (1, 1)
    out = np.empty((), dtype=dtype)
    assert lk.logsumexp(x, out=out) is out
    assert lk.cross_entropy(x, labels, out=out) is out
    assert lk.mse_loss(x, x, out=out) is out


@both
def test_zero_dimensional_input(dtype: Any) -> None:
    x = np.array(3.0, dtype=dtype)
    assert lk.softmax(x) == 1
    assert lk.log_softmax(x) == 0
    assert lk.logsumexp(x) == 3
    assert np.shape(lk.softmax(x)) == ()
    loss, grad = lk.mse_loss_value_and_grad(x, dtype(1))
    assert loss == 4
    assert grad == 4
    assert np.shape(grad) == ()
    out = np.empty((), dtype=dtype)
    assert lk.softmax(x, out=out) is out
    assert out == 1


@pytest.mark.parametrize("layout", ["c_order", "fortran", "first_axis_last", "swapped_axes"])
@both
def test_results_keep_the_order_of_the_input(dtype: Any, layout: str) -> None:
    """Results have the memory order of the input (K-order), and are ordinary writable arrays."""
    x = layouts.ALL[layout](np.arange(60, dtype=dtype).reshape(3, 4, 5))
    labels = np.zeros((3, 5), dtype=int)
    results = [
        lk.softmax(x, 1),
        lk.log_softmax(x, 2),
        lk.softmax(x, 0),
        lk.softmax_backward(x, x, 1),
        lk.log_softmax_backward(x, x, 0),
        lk.cross_entropy_value_and_grad(x, labels, axis=1)[1],
        lk.mse_loss_value_and_grad(x, x)[1],
    ]
    for i, result in enumerate(results):
        assert result.strides == np.empty_like(x).strides, f"result {i}"


@pytest.mark.parametrize("layout", layouts.ALL)
@both
def test_results_are_plain_arrays(dtype: Any, layout: str) -> None:
    x = layouts.ALL[layout](np.arange(60, dtype=dtype).reshape(3, 4, 5))
    labels = layouts.ALL[layout](np.zeros((3, 5), dtype=np.int32))
    results = [
        lk.softmax(x, 1),
        lk.log_softmax(x),
        lk.logsumexp(x, 2),
        lk.softmax_backward(x, x, (0, 1)),
        *lk.cross_entropy_value_and_grad(x, labels, axis=1, reduction="none"),
        *lk.mse_loss_value_and_grad(x, x, reduction="none"),
    ]
    for i, result in enumerate(results):
        assert type(result) is np.ndarray, f"result {i}"
        assert result.dtype == dtype
        assert result.dtype.isnative
        assert result.flags.writeable
        assert result.flags.aligned
        assert not np.shares_memory(result, x)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_subclasses_become_plain_arrays() -> None:
    x = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    got = lk.softmax(x, 1)
    assert type(got) is np.ndarray
    assert_same_bits(got, lk.softmax(np.asarray(x), 1))
    assert lk.logsumexp(x, 1).shape == (2,)


def test_big_endian_in_place() -> None:
    x = np.arange(6.0).reshape(2, 3)
    swapped = x.astype(">f8")
    assert lk.softmax(swapped, 1, out=swapped) is swapped
    assert np.array_equal(swapped, lk.softmax(x, 1))


def test_inputs_are_not_modified(rng: np.random.Generator) -> None:
    x, other = rng.normal(0, 1, (5, 6)), rng.normal(0, 1, (5, 6))
    labels = rng.integers(0, 6, 5)
    before = layouts.bits(x), layouts.bits(other), layouts.bits(labels)
    lk.softmax(x, 1), lk.log_softmax(x), lk.logsumexp(x, 0, np.abs(other))
    lk.softmax_backward(other, x, 1), lk.log_softmax_backward(other, x, 1)
    lk.logsumexp_backward(other[:, 0], x, other[:, 1], 1)
    lk.cross_entropy_value_and_grad(x, labels), lk.cross_entropy_value_and_grad(x, np.abs(other))
    lk.mse_loss_value_and_grad(x, other), lk.classification_error(x, labels)
    assert (layouts.bits(x), layouts.bits(other), layouts.bits(labels)) == before


def test_mixed_dtypes_take_the_wider_one() -> None:
    narrow, wide = np.ones((2, 3), dtype=np.float32), np.ones((2, 3))
    assert lk.mse_loss(narrow, wide).dtype == np.float64
    assert lk.mse_loss(narrow, np.ones((2, 3), dtype=int)).dtype == np.float64
    assert lk.softmax_backward(wide, narrow, 1).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_half_precision_dtypes(dtype: Any) -> None:
    """The shape-keeping results keep the dtype; losses are float32."""
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = np.arange(12).reshape(3, 4).astype(dtype)
    labels = [0, 1, 2]
    kept = [
        lk.softmax(x, 1),
        lk.log_softmax(x, 1),
        lk.logsumexp(x, 1),
        lk.softmax_backward(x, x, 1),
        lk.log_softmax_backward(x, x, 1),
        lk.logsumexp_backward(x[:, 0], x, x[:, 1], 1),
    ]
    assert [r.dtype for r in kept] == [np.dtype(dtype)] * 6
    losses = [
        lk.cross_entropy(x, labels),
        lk.cross_entropy(x, labels, reduction="none"),
        lk.cross_entropy_value_and_grad(x, labels)[0],
        lk.mse_loss(x, x),
    ]
    assert [r.dtype for r in losses] == [np.dtype(np.float32)] * 4
    out = np.empty_like(x)
    assert lk.softmax(x, 1, out=out) is out
    assert np.array_equal(out, lk.softmax(x, 1))
    with pytest.raises(TypeError, match="float32"):
        lk.softmax(x, 1, out=np.empty(x.shape, dtype=np.float32))


def test_half_precision_does_not_overflow() -> None:
    """More than 65504 equal classes, a sum that float16 cannot hold."""
    x = np.zeros(70_000, dtype=np.float16)
    assert lk.logsumexp(x) == np.float16(np.log(70_000))
    assert lk.softmax(x)[0] == np.float16(1 / 70_000)


def test_many_bfloat16_classes_do_not_stall() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert lk.softmax(np.zeros(70_000, dtype=bfloat16))[0] == bfloat16(1 / 70_000)


# --- floating-point state ------------------------------------------------------------------------


@both
def test_never_warns_and_ignores_errstate(dtype: Any) -> None:
    """Overflow, underflow, invalid operations and divisions by zero stay silent."""
    info = np.finfo(dtype)
    x = np.array(
        [
            [NAN, 1, 2],
            [INF, 1, INF],
            [-INF] * 3,
            [info.max, info.min, 0],
            [-1e9, 700, -700],
            [info.smallest_subnormal, -0.0, info.tiny],
        ],
        dtype=dtype,
    )
    labels = [0, 1, 2, 0, 0, -100]
    calls: list[Callable[[], Any]] = [
        lambda: lk.softmax(x, 1),
        lambda: lk.log_softmax(x, 0),
        lambda: lk.logsumexp(x, 1),
        lambda: lk.logsumexp(x, b=x, return_sign=True),
        lambda: lk.softmax_backward(x, x, 1),
        lambda: lk.log_softmax_backward(x, x, 1),
        lambda: lk.logsumexp_backward(x[:, 0], x, x[:, 1], 1),
        lambda: lk.logsumexp_backward(x[:, 0], x, x[:, 1], 1, np.abs(x)),
        lambda: lk.cross_entropy_value_and_grad(x, labels),
        lambda: lk.cross_entropy_value_and_grad(x, np.abs(x)),
        lambda: lk.cross_entropy(x, [-100] * 6),
        lambda: lk.mse_loss_value_and_grad(x, x[::-1]),
        lambda: lk.mse_loss(x[:0], x[:0]),
        lambda: lk.classification_error(x, labels),
        lambda: lk.softmax(x.astype(">f8"), (0, 1)),
    ]
    for call in calls:
        call()  # a warning would be an error here
        with np.errstate(all="raise"):
            call()
    with np.errstate(all="ignore"):
        half = x.astype(np.float16)
    with np.errstate(all="raise"):
        lk.softmax(half, 1)
        lk.log_softmax(half, 1)
        lk.cross_entropy_value_and_grad(half, labels)


@both
def test_floating_point_flags_stay_as_they_are(dtype: Any) -> None:
    """Subnormal numbers still work in NumPy after a call, and so do its warnings."""
    x = np.array([[-800.0, 800, NAN, INF]], dtype=dtype)
    lk.softmax(x, 1)
    lk.cross_entropy_value_and_grad(np.zeros((4000, 100), dtype=dtype), np.zeros(4000, int))
    tiny = np.finfo(dtype).tiny
    assert tiny / dtype(2) > 0
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        np.array([1.0], dtype=dtype) / np.array([0.0], dtype=dtype)
    with np.errstate(all="raise"):
        np.add(np.ones(3, dtype=dtype), 1)


@both
def test_subnormal_results_are_kept(dtype: Any) -> None:
    low = -100.0 if dtype == np.float32 else -740.0
    x = np.zeros((1, 20), dtype=dtype)
    x[0, 1:] = low
    p = lk.softmax(x, 1)
    assert np.all(p[0, 1:] > 0)
    assert np.all(p[0, 1:] < np.finfo(dtype).tiny)
    ref.assert_close(p, ref.Rows(x).softmax, 3)
    loss, grad = lk.cross_entropy_value_and_grad(x, [0])
    assert loss > 0
    assert np.all(grad[0, 1:] > 0)


# --- outputs -------------------------------------------------------------------------------------


@both
def test_out_is_the_result(dtype: Any) -> None:
    x = np.arange(12, dtype=dtype).reshape(3, 4)
    labels = [0, 1, 2]
    out = np.empty_like(x)
    rows = np.empty(3, dtype=dtype)
    assert lk.softmax(x, 1, out=out) is out
    assert lk.log_softmax(x, out=out) is out
    assert lk.softmax_backward(x, x, 1, out=out) is out
    assert lk.log_softmax_backward(x, x, 1, out=out) is out
    assert lk.logsumexp(x, 1, out=rows) is rows
    assert lk.logsumexp(x, 1, np.ones(4, dtype=dtype), out=rows) is rows
    assert lk.logsumexp(x, 1, return_sign=True, out=rows)[0] is rows
    assert lk.logsumexp_backward(rows, x, rows, 1, out=out) is out
    assert lk.logsumexp_backward(rows, x, rows, 1, np.ones(4, dtype=dtype), out=out) is out
    assert lk.cross_entropy(x, labels, reduction="none", out=rows) is rows
    assert lk.cross_entropy_value_and_grad(x, labels, grad_out=out)[1] is out
    assert lk.cross_entropy_value_and_grad(x, x, grad_out=out)[1] is out
    assert lk.mse_loss(x, x, reduction="none", out=out) is out
    assert lk.mse_loss_value_and_grad(x, x, grad_out=out)[1] is out


@both
def test_partial_overlap_goes_through_a_buffer(dtype: Any, rng: np.random.Generator) -> None:
    for shift in (-7, -1, 1, 2, 16):
        space = rng.normal(0, 3, 3000).astype(dtype)
        x, out = space[100:2500].reshape(24, 100), space[100 + shift : 2500 + shift]
        want = lk.softmax(x.copy(), 1)
        out = out.reshape(24, 100)
        assert lk.softmax(x, 1, out=out) is out
        assert_same_bits(out, want)


def test_large_partial_overlap(rng: np.random.Generator) -> None:
    """The same when threads share the work."""
    space = rng.normal(0, 3, 3_000_010).astype(np.float32)
    x, out = space[:-10].reshape(-1, 1000), space[10:].reshape(-1, 1000)
    want = lk.softmax(x.copy(), 1)
    lk.softmax(x, 1, out=out)
    assert_same_bits(out, want)


def test_many_dimensions() -> None:
    """More of them, all longer than 1, than strides that are looked at one by one."""
    x = np.ones((2,) * 9)
    labels = np.zeros((2,) * 8, int)
    for result in (
        lk.binary_cross_entropy_with_logits_value_and_grad(x, x)[1],
        lk.binary_cross_entropy_with_logits(x, x, reduction="none"),
        lk.mse_loss(x, x, weight=x, reduction="none"),
        lk.mse_loss_value_and_grad(x, x, weight=x)[1],
        lk.log_loss_value_and_grad(x, labels)[1],
        lk.cross_entropy_value_and_grad(x, labels)[1],
        lk.softmax(x, -1),
    ):
        assert np.shape(result) == x.shape
