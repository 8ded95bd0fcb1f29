"""Hypothesis: any shape, axis, dtype, memory layout and value, held against the reference."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import operations
import pytest
import reference as ref
from hypothesis import given
from hypothesis.extra import numpy as hnp
from layouts import assert_same_bits
from operations import Batch

Array = npt.NDArray[Any]

BOUND = {"f": 3.0, "d": 4.0}
BOUND_LOGSUMEXP = {"f": 1.5, "d": 2.0}

judged = st.sampled_from([np.float32, np.float64] if ref.EXTENDED else [np.float32])
"""Dtypes that the longdouble reference can judge."""

floats = st.sampled_from([np.float32, np.float64])


def specials(dtype: Any) -> list[float]:
    """Return the values that break things."""
    info = np.finfo(dtype)
    small = [info.smallest_subnormal, info.tiny, info.tiny - info.smallest_subnormal]
    large = [info.max, info.min, 1e9, -1e9, 88.72284, -103.97, 709.78, -745.13]
    return [float(dtype(v)) for v in (*small, *large, -small[0], 0.0, -0.0, 1.0)]


def elements(dtype: Any, special: bool = True, infinite: bool = True) -> st.SearchStrategy[float]:
    """Return logits: mostly ordinary, sometimes anything."""
    width = 8 * np.dtype(dtype).itemsize
    ordinary = st.floats(-30, 30, width=width)
    if not special:
        return ordinary
    values = specials(dtype)
    if infinite:
        values += [math.inf, -math.inf, -math.inf, math.nan]
    anything = st.floats(width=width, allow_nan=infinite, allow_infinity=infinite)
    return st.one_of(ordinary, ordinary, st.sampled_from(values), anything)


@st.composite
def shapes(draw: st.DrawFn, min_dims: int = 1, max_dims: int = 4) -> tuple[int, ...]:
    """Return small shapes, with one longer dimension now and then; at most 300 elements."""
    ndim = draw(st.integers(min_dims, max_dims))
    shape = [draw(st.integers(1, 4)) for _ in range(ndim)]
    if ndim and draw(st.booleans()):
        shape[draw(st.integers(0, ndim - 1))] = draw(st.integers(1, 70))
    while math.prod(shape) > 300:
        shape[shape.index(max(shape))] //= 2
    return tuple(shape)


@st.composite
def logits(
    draw: st.DrawFn, dtype: Any, special: bool = True, infinite: bool = True, min_dims: int = 1
) -> Array:
    """Return an array of logits."""
    shape = draw(shapes(min_dims))
    if draw(st.booleans()):
        values = elements(dtype, special, infinite)
        return draw(hnp.arrays(dtype, shape, elements=values, fill=st.just(dtype(0.5))))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    x = rng.normal(0, draw(st.sampled_from([1, 10, 40])), shape).astype(dtype)
    if special:
        for value in draw(st.lists(elements(dtype, True, infinite), max_size=4)):
            x.reshape(-1)[rng.integers(0, x.size)] = value
    return x


def single_axes(ndim: int) -> st.SearchStrategy[int]:
    return st.integers(-ndim, ndim - 1)


@st.composite
def any_axes(draw: st.DrawFn, ndim: int) -> ref.Axis:
    """Return an axis, a tuple of several in any order, or None."""
    if draw(st.booleans()):
        return draw(single_axes(ndim))
    axes = draw(st.permutations(range(ndim)))[: draw(st.integers(1, ndim))]
    signed = tuple(a - ndim if draw(st.booleans()) else a for a in axes)
    return draw(st.sampled_from([None, signed]))


@st.composite
def anywhere(draw: st.DrawFn, x: Array, writable: bool = False) -> Array:
    """Return ``x`` in memory that is permuted, stepped, reversed, shifted, sliced or unaligned."""
    order = draw(st.permutations(range(x.ndim)))
    steps = [draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2])) for _ in range(x.ndim)]
    margin = draw(st.sampled_from([0, 0, 1, 3]))
    inside = [x.shape[axis] * abs(step) for axis, step in zip(order, steps, strict=True)]
    space = np.full([n + 2 * margin for n in inside], 7, dtype=x.dtype)
    if draw(st.booleans()):
        space = layouts.unaligned(space) if draw(st.booleans()) else layouts.shifted(space)
    view = space[(..., *(slice(margin, margin + n) for n in inside))]
    view = view[(..., *(slice(None, None, step) for step in steps))]
    view = view.transpose(np.argsort(order)) if x.ndim else view
    view[...] = x
    if not writable:
        if draw(st.booleans()):
            view = layouts.byte_swapped(view)
        view.flags.writeable = draw(st.booleans())
    return view


def lse_scale(lse: Array, x: Array, axis: ref.Axis) -> Array:
    """Return what the error of logsumexp is measured against: the result, the maximum, or 1."""
    top = np.abs(ref.as_rows(x, axis).max(axis=1)).astype(ref.WIDE).reshape(lse.shape)
    parts = [np.where(np.isfinite(v), np.abs(v), 1) for v in (lse, top)]
    return np.maximum(np.maximum(*parts), 1)


# --- values --------------------------------------------------------------------------------------


@given(st.data())
def test_normalisations(data: st.DataObject) -> None:
    dtype = data.draw(judged)
    kind = np.dtype(dtype).char
    x = data.draw(logits(dtype))
    axis = data.draw(any_axes(x.ndim))
    view = data.draw(anywhere(x))
    keepdims = data.draw(st.booleans())
    before = layouts.bits(view)

    ref.assert_close(lk.softmax(view, axis), ref.softmax(x, axis), BOUND[kind], what="softmax")
    got = lk.log_softmax(view, axis)
    ref.assert_close(got, ref.log_softmax(x, axis), BOUND[kind], what="log_softmax")
    truth = ref.logsumexp(x, axis, keepdims=keepdims)
    got = lk.logsumexp(view, axis, keepdims=keepdims)
    scale = lse_scale(truth, x, axis)
    ref.assert_close(got, truth, BOUND_LOGSUMEXP[kind], scale, what="logsumexp")
    assert layouts.bits(view) == before


@given(st.data())
def test_backward(data: st.DataObject) -> None:
    dtype = data.draw(judged)
    bound = BOUND[np.dtype(dtype).char]
    x = data.draw(logits(dtype, special=False))
    axis = data.draw(any_axes(x.ndim))
    grad = data.draw(hnp.arrays(dtype, x.shape, elements=elements(dtype, special=False)))
    place = data.draw(anywhere(grad))

    y = lk.softmax(x, axis)
    truth, scale = ref.softmax_backward(grad, y, axis)
    got = lk.softmax_backward(place, data.draw(anywhere(y)), axis)
    ref.assert_close(got, truth, bound, scale, what="softmax_backward")
    y = lk.log_softmax(x, axis)
    truth, scale = ref.log_softmax_backward(grad, y, axis)
    got = lk.log_softmax_backward(place, data.draw(anywhere(y)), axis)
    ref.assert_close(got, truth, bound, scale, what="log_softmax_backward")
    keepdims = data.draw(st.booleans())
    lse = lk.logsumexp(x, axis, keepdims=keepdims)
    row_grad = np.asarray(data.draw(hnp.arrays(dtype, np.shape(lse), elements=st.just(1.5))))
    truth = ref.logsumexp_backward(row_grad, x, lse, axis)
    got = lk.logsumexp_backward(row_grad, data.draw(anywhere(x)), lse, axis, keepdims=keepdims)
    ref.assert_close(got, truth, bound, what="logsumexp_backward")


@given(st.data())
def test_cross_entropy(data: st.DataObject) -> None:
    dtype = data.draw(judged)
    bound = BOUND[np.dtype(dtype).char]
    x = data.draw(logits(dtype))
    axis = data.draw(single_axes(x.ndim))
    c = x.shape[axis]
    batch = ref.batch_shape(x.shape, axis)
    ignore_index = data.draw(st.sampled_from([-100, None, 0, -1, c]))
    ignored = [] if ignore_index is None else [ignore_index]
    label = st.one_of(st.integers(0, c - 1), st.sampled_from([0, c - 1, *ignored]))
    labels = data.draw(hnp.arrays(np.int64, batch, elements=label))
    loss, gradient = ref.cross_entropy(x, labels, axis, ignore_index)
    options: dict[str, Any] = {"axis": axis, "ignore_index": ignore_index}

    view, label_view = data.draw(anywhere(x)), data.draw(anywhere(labels))
    got, grad = lk.cross_entropy_value_and_grad(view, label_view, reduction="none", **options)
    ref.assert_close(got, loss, bound, what="loss")
    ref.assert_close(grad, gradient, bound, what="gradient")

    counted = labels.size if ignore_index is None else int((labels != ignore_index).sum())
    with np.errstate(all="ignore"):
        total = np.sum(loss)
        mean = total / counted if counted else np.longdouble(np.nan)
        gradient = gradient / counted if counted else gradient
    got, grad = lk.cross_entropy_value_and_grad(view, label_view, **options)
    ref.assert_close(got, mean, bound, what="mean")
    ref.assert_close(grad, gradient, bound, what="mean gradient")
    got = lk.cross_entropy(view, label_view, reduction="sum", **options)
    ref.assert_close(got, total, bound, what="sum")


@given(st.data())
def test_cross_entropy_of_probabilities(data: st.DataObject) -> None:
    dtype = data.draw(judged)
    bound = BOUND[np.dtype(dtype).char]
    x = data.draw(logits(dtype, infinite=False, special=False))
    axis = data.draw(single_axes(x.ndim))
    width = 8 * np.dtype(dtype).itemsize
    t = data.draw(hnp.arrays(dtype, x.shape, elements=st.floats(0, 1, width=width)))
    hidden = data.draw(hnp.arrays(np.bool_, x.shape))
    np.put_along_axis(hidden, np.argmax(x, axis, keepdims=True), False, axis)
    x[hidden], t[hidden] = -np.inf, 0
    loss, gradient, scale = ref.cross_entropy_soft(x, t, axis)
    got, grad = lk.cross_entropy_value_and_grad(
        data.draw(anywhere(x)), data.draw(anywhere(t)), axis=axis, reduction="none"
    )
    ref.assert_close(got, loss, bound, what="loss")
    ref.assert_close(grad, gradient, bound, scale, what="gradient")


@given(st.data())
def test_mse(data: st.DataObject) -> None:
    dtype = data.draw(judged)
    bound = BOUND[np.dtype(dtype).char]
    pred = data.draw(logits(dtype, special=False, min_dims=0))
    target = data.draw(hnp.arrays(dtype, pred.shape, elements=elements(dtype, special=False)))
    loss, gradient = ref.mse(pred, target)
    p, t = data.draw(anywhere(pred)), data.draw(anywhere(target))
    got, grad = lk.mse_loss_value_and_grad(p, t, reduction="none")
    ref.assert_close(got, loss, bound, what="loss")
    ref.assert_close(grad, gradient, bound, what="gradient")
    got, grad = lk.mse_loss_value_and_grad(p, t)
    ref.assert_close(got, loss.mean(), bound, what="mean")
    ref.assert_close(grad, gradient / pred.size, bound, what="mean gradient")


@given(st.data())
def test_classification_error(data: st.DataObject) -> None:
    dtype = data.draw(floats)
    x = data.draw(logits(dtype))
    axis = data.draw(single_axes(x.ndim))
    batch = ref.batch_shape(x.shape, axis)
    labels = data.draw(hnp.arrays(np.int64, batch, elements=st.integers(0, x.shape[axis] - 1)))
    truth = ref.classification_error(x, labels, axis)
    got = lk.classification_error(data.draw(anywhere(x)), labels, axis=axis, reduction="none")
    assert np.array_equal(got, truth)
    got = lk.classification_error(x, labels, axis=axis)
    assert got == pytest.approx(float(truth.mean()), rel=1e-7)
    assert lk.classification_error(x, labels, axis=axis, reduction="sum") == truth.sum()


# --- bits ----------------------------------------------------------------------------------------


@given(st.data())
def test_memory_does_not_matter(data: st.DataObject) -> None:
    dtype = data.draw(floats)
    x = data.draw(logits(dtype))
    axis = data.draw(single_axes(x.ndim))
    rng = np.random.default_rng(0)
    plain = operations.make_batch(x, axis, rng)
    moved = Batch(*(data.draw(anywhere(a)) for a in (x, plain.other, plain.t, plain.labels)), axis)
    name = data.draw(st.sampled_from(sorted(operations.ALL)))
    f = operations.ALL[name]
    for got, want in zip(f(moved), f(plain), strict=True):
        assert_same_bits(got, want, name)


@given(st.data())
def test_stride_zero(data: st.DataObject) -> None:
    dtype = data.draw(floats)
    x = data.draw(logits(dtype))
    shape = tuple(data.draw(st.integers(2, 5)) if n == 1 else n for n in x.shape)
    shape = (*data.draw(st.sampled_from([(), (3,)])), *shape)
    if math.prod(shape) > 5000:
        shape = x.shape
    view = np.broadcast_to(x, shape)
    axis = data.draw(single_axes(view.ndim))
    moved = operations.make_batch(view, axis, np.random.default_rng(0))
    name = data.draw(st.sampled_from(sorted(operations.ALL)))
    f = operations.ALL[name]
    plain = Batch(np.array(view, order="C"), moved.other, moved.t, moved.labels, moved.axis)
    for got, want in zip(f(moved), f(plain), strict=True):
        assert_same_bits(got, want, name)


@given(st.data())
def test_several_axes_are_one_row(data: st.DataObject) -> None:
    """A tuple of axes means the same as these axes flattened at the end, up to rounding."""
    dtype = data.draw(floats)
    x = data.draw(logits(dtype, special=False, min_dims=2))
    axis = data.draw(any_axes(x.ndim))
    flat = np.ascontiguousarray(ref.as_rows(x, axis))
    rel = 8 * float(np.finfo(dtype).eps)
    shape = x.shape
    for f in (lk.softmax, lk.log_softmax):
        np.testing.assert_allclose(f(x, axis), ref.from_rows(f(flat, 1), shape, axis), rtol=rel)
    for keepdims in (False, True):
        got = lk.logsumexp(x, axis, keepdims=keepdims)
        expected = lk.logsumexp(flat, 1).reshape(ref.batch_shape(shape, axis, keepdims))
        np.testing.assert_allclose(got, expected, rtol=rel, atol=rel)


# --- outputs -------------------------------------------------------------------------------------


@given(st.data())
def test_out_anywhere(data: st.DataObject) -> None:
    dtype = data.draw(floats)
    x = data.draw(logits(dtype))
    axis = data.draw(any_axes(x.ndim))
    f = data.draw(st.sampled_from([lk.softmax, lk.log_softmax]))
    want = f(x, axis)
    out = data.draw(anywhere(np.full_like(x, 9), writable=True))
    assert f(data.draw(anywhere(x)), axis, out=out) is out
    assert_same_bits(out, want, "out")
    out = data.draw(anywhere(x, writable=True))
    assert f(out, axis, out=out) is out
    assert_same_bits(out, want, "in place")


@st.composite
def two_views(draw: st.DrawFn, dtype: Any) -> tuple[Array, Array]:
    """Return two views of one shape on one buffer, which may overlap in any way."""
    if draw(st.booleans()):
        n = draw(st.integers(2, 6))
        cube = np.zeros((n,) * 3, dtype=dtype)
        square = cube[0]
        pairs = [
            (square, square.T),
            (square, square[::-1]),
            (square.T, square[:, ::-1]),
            (cube, cube.transpose(1, 0, 2)),
            (cube, cube.transpose(2, 0, 1)),
            (cube[::-1], cube.transpose(2, 1, 0)),
            (cube[:-1], cube[1:]),
            (cube[:, 1:], cube[:, :-1]),
            (cube[..., 1:], cube[..., :-1]),
        ]
        return draw(st.sampled_from(pairs))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    count = rows * columns
    buffer = np.zeros(3 * count + 16, dtype=dtype)
    views = []
    for _ in range(2):
        step = draw(st.sampled_from([1, 1, -1, 2, -2]))
        start = draw(st.integers(0, 15))
        flat = buffer[start : start + abs(step) * count][::step]
        views.append(flat.reshape(rows, columns))
        assert np.shares_memory(views[-1], buffer)
    return views[0], views[1]


@given(st.data())
def test_overlap(data: st.DataObject) -> None:
    """An output that shares memory with an input in any way holds the right result."""
    dtype = data.draw(floats)
    source, out = data.draw(two_views(dtype))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).normal(0, 3, source.shape)
    values = values.astype(dtype)
    other = np.random.default_rng(1).normal(0, 1, source.shape).astype(dtype)
    labels = np.arange(values[..., 0].size).reshape(values.shape[:-1]) % values.shape[-1]

    calls = {
        "softmax": lambda x, o: lk.softmax(x, -1, out=o),
        "softmax over all": lambda x, o: lk.softmax(x, out=o),
        "softmax over the first axis": lambda x, o: lk.softmax(x, 0, out=o),
        "log_softmax": lambda x, o: lk.log_softmax(x, -1, out=o),
        "softmax_backward of grad": lambda x, o: lk.softmax_backward(x, other, -1, out=o),
        "softmax_backward of y": lambda x, o: lk.softmax_backward(other, x, -1, out=o),
        "log_softmax_backward of grad": lambda x, o: lk.log_softmax_backward(x, other, -1, out=o),
        "log_softmax_backward of y": lambda x, o: lk.log_softmax_backward(other, x, -1, out=o),
        "logsumexp_backward": lambda x, o: lk.logsumexp_backward(
            other[..., 0], x, np.ones_like(other[..., 0]), -1, out=o
        ),
        "cross_entropy": lambda x, o: lk.cross_entropy_value_and_grad(x, labels, grad_out=o)[1],
        "cross_entropy of t": lambda x, o: lk.cross_entropy_value_and_grad(
            other, x, grad_out=o, reduction="none"
        )[1],
        "cross_entropy grad_output": lambda x, o: lk.cross_entropy_value_and_grad(
            other, labels, grad_output=x[..., 0], reduction="none", grad_out=o
        )[1],
        "mse of pred": lambda x, o: lk.mse_loss_value_and_grad(x, other, grad_out=o)[1],
        "mse of target": lambda x, o: lk.mse_loss_value_and_grad(other, x, grad_out=o)[1],
        "mse rows": lambda x, o: lk.mse_loss(x, other, reduction="none", out=o),
        "mse grad_output": lambda x, o: lk.mse_loss_value_and_grad(
            other, other * 2, grad_output=x, reduction="none", grad_out=o
        )[1],
    }
    name = data.draw(st.sampled_from(sorted(calls)))
    want = calls[name](values, None)
    source[...] = values
    assert calls[name](source, out) is out
    assert_same_bits(out, want, name)


@given(st.data())
def test_small_outputs_inside_an_input(data: st.DataObject) -> None:
    """One number per row, written into the memory of the rows."""
    dtype = data.draw(floats)
    values = data.draw(logits(dtype, min_dims=2))
    labels = np.zeros(values.shape[:-1], dtype=np.int64)
    x = values.copy()
    out = x.reshape(-1)[: labels.size].reshape(labels.shape)
    want = lk.logsumexp(values, -1)
    assert lk.logsumexp(x, -1, out=out) is out
    assert_same_bits(out, want, "logsumexp")
    x = values.copy()
    out = x[..., -1]
    want = lk.cross_entropy(values, labels, reduction="none")
    assert lk.cross_entropy(x, labels, reduction="none", out=out) is out
    assert_same_bits(out, want, "cross_entropy")
    x = values.copy()
    out = x.reshape(-1)[-1:].reshape(())
    assert lk.cross_entropy(x, labels, reduction="sum", out=out) is out
    assert_same_bits(out, lk.cross_entropy(values, labels, reduction="sum"), "sum")


@given(st.data())
def test_labels_inside_the_output(data: st.DataObject) -> None:
    """Integer labels whose memory the gradient overwrites."""
    dtype = data.draw(floats)
    values = data.draw(logits(dtype, min_dims=2))
    c = values.shape[-1]
    labels = np.arange(values[..., 0].size).reshape(values.shape[:-1]) % c
    space = np.zeros(values.size + 3, dtype=dtype)
    out = space[: values.size].reshape(values.shape)
    start = data.draw(st.integers(0, 3))
    integer = np.dtype(f"i{space.itemsize}")
    hidden = space[start : start + labels.size].view(integer).reshape(labels.shape)
    hidden[...] = labels
    want = lk.cross_entropy_value_and_grad(values, labels)
    loss, grad = lk.cross_entropy_value_and_grad(values, hidden, grad_out=out)
    assert grad is out
    assert_same_bits(loss, want[0], "loss")
    assert_same_bits(grad, want[1], "gradient")


# --- dtypes --------------------------------------------------------------------------------------

INTEGERS = [np.dtype(c) for c in "bBhHiIlLqQ?"]


@given(st.data())
def test_integers_are_float64(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(INTEGERS))
    x = data.draw(hnp.arrays(dtype, shapes(), elements=hnp.from_dtype(dtype)))
    axis = data.draw(any_axes(x.ndim))
    wide = x.astype(np.float64)
    view = data.draw(anywhere(x))
    for f in (lk.softmax, lk.log_softmax, lk.logsumexp):
        assert_same_bits(f(view, axis), f(wide, axis), f.__name__)
    axis = data.draw(single_axes(x.ndim))
    labels = np.zeros(ref.batch_shape(x.shape, axis), dtype=np.int64)
    got = lk.cross_entropy_value_and_grad(view, labels, axis=axis)
    want = lk.cross_entropy_value_and_grad(wide, labels, axis=axis)
    assert_same_bits(got[0], want[0], "loss")
    assert_same_bits(got[1], want[1], "gradient")
    assert_same_bits(lk.mse_loss(view, x[::-1]), lk.mse_loss(wide, wide[::-1]), "mse")


def half_types() -> list[Any]:
    try:
        import ml_dtypes
    except ImportError:
        return [np.float16]
    return [np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("half", half_types(), ids=lambda t: np.dtype(t).name)
@given(st.data())
def test_half_precision_is_rounded_once(half: Any, data: st.DataObject) -> None:
    """The float32 result, rounded; losses and their gradients stay float32."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shape = data.draw(shapes())
    with np.errstate(all="ignore"):
        x = rng.normal(0, data.draw(st.sampled_from([1, 5, 20])), shape).astype(half)
    flat = x.reshape(-1)
    values = [math.inf, -math.inf, math.nan, 6e-8, -0.0, 65504.0]
    for value in data.draw(st.lists(st.sampled_from(values), max_size=3)):
        flat[rng.integers(0, flat.size)] = value
    axis = data.draw(single_axes(x.ndim))
    batch = operations.make_batch(x, axis, np.random.default_rng(0))
    wide_batch = batch.map(lambda a: a.astype(np.float32))
    for name in ("softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward"):
        f = operations.ALL[name]
        got, want = np.asarray(f(batch)[0]), np.asarray(f(wide_batch)[0])
        assert got.dtype == half, name
        with np.errstate(all="ignore"):
            rounded = want.astype(half)
        assert np.array_equal(np.isnan(got), np.isnan(rounded)), name
        same = (got == rounded) | np.isnan(rounded)
        assert np.all(same), f"{name}: {got[~same]} and {rounded[~same]}"
    for name in ("cross_entropy", "cross_entropy_mean", "cross_entropy_soft", "mse_mean"):
        f = operations.ALL[name]
        loss, want = f(batch)[0], f(wide_batch)[0]
        assert_same_bits(loss, want, name)
        assert np.asarray(loss).dtype == np.float32
    f = operations.ALL["classification_error"]
    assert_same_bits(f(batch)[0], f(wide_batch)[0], "classification_error")
