"""Labels: every integer dtype and layout, ignored ones, floats, probabilities."""

from __future__ import annotations

from typing import Any

import layouts
import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
from layouts import assert_same_bits

Array = npt.NDArray[Any]

INTEGERS = [
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    ">i2",
    ">i4",
    ">i8",
    ">u8",
    "l",
    "q",
    "Q",
]
REDUCTIONS = ["mean", "sum", "none"]


def same_results(x: Array, given: Any, labels: Array, **options: Any) -> None:
    """Fail unless ``given`` and plain int64 ``labels`` mean the same to every function."""
    for reduction in REDUCTIONS:
        loss, grad = lk.cross_entropy_value_and_grad(x, given, reduction=reduction, **options)
        want = lk.cross_entropy_value_and_grad(x, labels, reduction=reduction, **options)
        assert_same_bits(loss, want[0], reduction)
        assert_same_bits(grad, want[1], reduction)
        assert_same_bits(lk.cross_entropy(x, given, reduction=reduction, **options), want[0])
        got = lk.classification_error(x, given, reduction=reduction, **options)
        assert_same_bits(
            got, lk.classification_error(x, labels, reduction=reduction, **options), reduction
        )


@pytest.mark.parametrize("c", [3, 100])
@pytest.mark.parametrize("dtype", [*INTEGERS, "f2", "f4", "f8", ">f8"])
def test_dtypes(dtype: str, c: int, rng: np.random.Generator) -> None:
    """Floats are labels too when they are integral: boosting libraries store them so."""
    for shape, axis in (((40, c), -1), ((c, 40), 0), ((3, c, 13), 1), ((c,), 0)):
        x = rng.normal(0, 2, shape)
        labels = np.asarray(rng.integers(0, c, np.delete(shape, axis)))
        same_results(x, labels.astype(dtype), labels, axis=axis)
        if np.dtype(dtype).kind != "u" and labels.ndim:
            labels.reshape(-1)[::5] = -100
            same_results(x, labels.astype(dtype), labels, axis=axis)


@pytest.mark.parametrize("layout", layouts.ALL)
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    change = layouts.ALL[layout]
    for shape, axis in (((40, 5), -1), ((4, 6, 20, 3), 1), ((4, 20, 6), 2), ((7, 30, 2), 0)):
        x = rng.normal(0, 2, shape)
        labels = rng.integers(0, shape[axis], np.delete(shape, axis))
        labels.reshape(-1)[::7] = -100
        moved = change(labels.astype(dtype))
        assert np.array_equal(moved, labels)
        same_results(x, moved, labels, axis=axis)
        same_results(change(x), moved, labels, axis=axis)


def test_broadcast_labels(rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, (6, 7, 5))
    for shape in ((1, 7), (6, 1), (1, 1), (7,), ()):
        labels = np.broadcast_to(rng.integers(0, 5, shape), (6, 7))
        same_results(x, labels, labels.copy())


@pytest.mark.parametrize("kind", [list, tuple])
def test_sequences(kind: Any, rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, (4, 3))
    same_results(x, kind([2, 0, 1, 1]), np.array([2, 0, 1, 1]))
    same_results(x, kind([2.0, 0.0, 1.0, -100.0]), np.array([2, 0, 1, -100]))


@pytest.mark.parametrize("label", [1, np.int8(1), np.array(1), np.uint64(1), 1.0])
def test_one_row_has_one_label(label: Any) -> None:
    x = np.array([0.0, 1.0, 2.0])
    loss, grad = lk.cross_entropy_value_and_grad(x, label)
    want = lk.cross_entropy_value_and_grad(x[None], [1])
    assert_same_bits(loss, want[0])
    assert_same_bits(grad, want[1][0])
    assert lk.classification_error(x, label) == 1


# --- ignored labels ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("index", [-100, -1, 0, 2, 4, 255, -(2**15), 2**15 - 1])
def test_ignore_index(index: int, dtype: str, rng: np.random.Generator) -> None:
    """Any value may mark the rows that do not count, a class number too."""
    x = rng.normal(0, 2, (50, 5))
    labels = rng.integers(0, 5, 50)
    labels[::3] = index
    kept = labels != index
    given = labels.astype(dtype)
    loss, grad = lk.cross_entropy_value_and_grad(x, given, ignore_index=index)
    want = lk.cross_entropy_value_and_grad(x[kept], labels[kept], ignore_index=None)
    assert loss == pytest.approx(float(want[0]), rel=1e-14)
    assert_same_bits(grad[kept], want[1])
    assert not grad[~kept].any()
    losses = lk.cross_entropy(x, given, ignore_index=index, reduction="none")
    assert not losses[~kept].any()
    error = lk.classification_error(x, given, ignore_index=index)
    wrong = (np.argmax(x, axis=1) != labels)[kept]
    assert error == pytest.approx(wrong.mean(), rel=1e-14)


@pytest.mark.parametrize("index", [np.int64(-1), np.int8(-1), np.array(-1)])
def test_ignore_index_of_numpy(index: Any) -> None:
    x = np.eye(3)
    assert lk.cross_entropy(x, [0, -1, -1], ignore_index=index) == lk.cross_entropy(x[:1], [0])


def test_no_ignore_index(rng: np.random.Generator) -> None:
    x = rng.normal(0, 2, (30, 5))
    labels = rng.integers(0, 5, 30)
    a = lk.cross_entropy_value_and_grad(x, labels, ignore_index=None)
    b = lk.cross_entropy_value_and_grad(x, labels)
    assert_same_bits(a[0], b[0])
    assert_same_bits(a[1], b[1])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_negative_ignore_index_does_not_wrap(dtype: str, rng: np.random.Generator) -> None:
    """-100 as uint8 would be 156, which is a class like any other."""
    x = rng.normal(0, 2, (200, 200))
    labels = np.arange(200)
    same_results(x, labels.astype(dtype), labels)
    losses = lk.cross_entropy(x, labels.astype(dtype), reduction="none")
    assert np.all(losses > 0)


def test_ignore_index_beyond_the_dtype_of_the_labels() -> None:
    x = np.eye(3)
    labels = np.array([0, 1, 2], dtype=np.int8)
    for index in (-1000, 256, 257, 2**40, -(2**40) + 1):
        loss = lk.cross_entropy(x, labels, ignore_index=index)
        assert loss == lk.cross_entropy(x, labels, ignore_index=None)


def test_largest_unsigned_label_is_not_minus_one() -> None:
    labels = np.array([0, 2**64 - 1], dtype=np.uint64)
    with pytest.raises(IndexError, match=str(2**64 - 1)):
        lk.cross_entropy(np.eye(2), labels, ignore_index=-1)


def test_ignore_index_has_no_meaning_for_probabilities() -> None:
    x = np.array([[0.0, 1.0], [2.0, 0.5]])
    t = np.array([[0.0, 1.0], [1.0, 0.0]])
    want = lk.cross_entropy(x, t)
    for index in (0, 1, -100, None):
        assert lk.cross_entropy(x, t, ignore_index=index) == want


# --- probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 5), -1), ((5, 40), 0), ((3, 9, 7), 1), ((6,), 0)]
)
def test_onehot_rows_choose_a_class(
    shape: tuple[int, ...], axis: int, dtype: Any, rng: np.random.Generator
) -> None:
    x = rng.normal(0, 3, shape).astype(dtype)
    labels = rng.integers(0, shape[axis], np.delete(shape, axis))
    onehot = np.moveaxis(np.eye(shape[axis], dtype=dtype)[labels], -1, axis)
    eps = float(np.finfo(dtype).eps)
    for reduction in REDUCTIONS:
        hard = lk.cross_entropy_value_and_grad(x, labels, axis=axis, reduction=reduction)
        soft = lk.cross_entropy_value_and_grad(x, onehot, axis=axis, reduction=reduction)
        np.testing.assert_allclose(soft[0], hard[0], rtol=8 * eps)
        np.testing.assert_allclose(soft[1], hard[1], rtol=0, atol=4 * eps)


def test_integer_onehot(rng: np.random.Generator) -> None:
    """Integers of the logits' shape are probabilities as well."""
    x = rng.normal(0, 3, (6, 4))
    labels = rng.integers(0, 4, 6)
    want = lk.cross_entropy_value_and_grad(x, np.eye(4)[labels])
    got = lk.cross_entropy_value_and_grad(x, np.eye(4, dtype=int)[labels])
    assert_same_bits(got[0], want[0])
    assert_same_bits(got[1], want[1])


def test_square_logits_are_not_ambiguous(rng: np.random.Generator) -> None:
    """The number of dimensions, not the lengths, tells labels from probabilities."""
    x = rng.normal(0, 3, (4, 4))
    assert lk.cross_entropy(x, [0, 1, 2, 3]) == pytest.approx(
        float(lk.cross_entropy(x, np.eye(4))), rel=1e-14
    )


@pytest.mark.parametrize("layout", layouts.ALL)
def test_layouts_of_probabilities(layout: str, rng: np.random.Generator) -> None:
    x, t = rng.normal(0, 3, (4, 9, 5)), rng.uniform(0, 1, (4, 9, 5))
    for axis in (0, 1, 2):
        for reduction in REDUCTIONS:
            options: dict[str, Any] = {"axis": axis, "reduction": reduction}
            got = lk.cross_entropy_value_and_grad(x, layouts.ALL[layout](t), **options)
            want = lk.cross_entropy_value_and_grad(x, t, **options)
            assert_same_bits(got[0], want[0], layout)
            assert_same_bits(got[1], want[1], layout)


def test_probabilities_of_another_dtype() -> None:
    x = np.array([[0.0, 1.0], [2.0, 0.5]], dtype=np.float32)
    t = np.array([[0.25, 0.75], [1.0, 0.0]])
    want = lk.cross_entropy(x, t.astype(np.float32))
    for dtype in (np.float16, np.float64, ">f4"):
        assert lk.cross_entropy(x, t.astype(dtype)) == pytest.approx(float(want), rel=1e-6)


# --- large batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u8"])
def test_large_batch(dtype: str, rng: np.random.Generator) -> None:
    """Enough rows for several threads; the loss and every row against NumPy in float64."""
    n, c = 100_003, 7
    x = rng.normal(0, 3, (n, c)).astype(np.float32)
    labels = rng.integers(0, c, n).astype(dtype)
    ignored = np.zeros(n, dtype=bool)
    if np.dtype(dtype).kind == "i":
        ignored = rng.random(n) < 0.2
        labels[ignored] = -100
    wide = x.astype(np.float64)
    log_p = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    safe = np.where(ignored, 0, labels).astype(np.intp)
    losses = np.where(ignored, 0, -log_p[np.arange(n), safe])
    gradient = np.exp(log_p)
    gradient[np.arange(n), safe] -= 1
    gradient[ignored] = 0
    counted = n - ignored.sum()
    for threads in (1, 3):
        with lk.threads(threads):
            loss, grad = lk.cross_entropy_value_and_grad(x, labels)
            rows = lk.cross_entropy(x, labels, reduction="none")
            error = lk.classification_error(x, labels)
        assert loss == pytest.approx(losses.sum() / counted, rel=3e-7)
        np.testing.assert_allclose(rows, losses, rtol=1e-6)
        np.testing.assert_allclose(grad * counted, gradient, rtol=1e-6, atol=1e-7)
        wrong = (np.argmax(x, axis=1) != safe) & ~ignored
        assert error == pytest.approx(wrong.sum() / counted, rel=1e-12)


def test_the_last_row_of_every_batch_size(rng: np.random.Generator) -> None:
    """Blocks of rows end anywhere."""
    x = rng.normal(0, 3, (100, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 100)
    losses, grad = lk.cross_entropy_value_and_grad(x, labels, reduction="none")
    for n in range(1, 100):
        got = lk.cross_entropy_value_and_grad(x[:n], labels[:n], reduction="none")
        assert_same_bits(got[0], losses[:n])
        assert_same_bits(got[1], grad[:n])
