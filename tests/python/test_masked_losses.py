"""Cross-entropy over the classes that `where` leaves."""

from __future__ import annotations

from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
from layouts import assert_same_bits
from test_masked import each_dtype

Array = npt.NDArray[Any]

pytestmark = pytest.mark.usefixtures("keep_settings")

each_loss_option = pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.25},
        {"z_loss": 0.01},
        {"temperature": 2.0, "class_weight": np.array([1.0, 0.5, 2.0])},
        {"label_smoothing": 0.5, "class_weight": np.array([1.0, 0.5, 2.0])},
    ],
    ids=lambda options: ",".join(options) or "plain",
)


@each_dtype
@each_loss_option
@pytest.mark.parametrize("soft", [False, True])
def test_a_row_without_any_class_is_not_counted(
    dtype: Any, options: dict[str, Any], soft: bool
) -> None:
    """Its loss and gradient are 0, whatever its logits."""
    x = np.array([[1, 2, 3], [np.nan, np.inf, 1], [0.5, -1, 2]], dtype)
    labels: Array = (
        np.array([[0.2, 0.3, 0.5], [0.5, 0.5, 0], [1, 0, 0]], dtype) if soft else np.arange(3)
    )
    where = np.array([[True], [False], [True]])
    rest = np.array([0, 2])
    for reduction in ("sum", "mean"):
        want, want_grad = lk.cross_entropy_value_and_grad(
            x[rest], labels[rest], reduction=reduction, **options
        )
        got, grad = lk.cross_entropy_value_and_grad(
            x, labels, reduction=reduction, where=where, **options
        )
        np.testing.assert_allclose(got, want, 1e-6)
        np.testing.assert_allclose(grad[rest].astype(float), want_grad.astype(float), 1e-2)
        assert not grad[1].any()
    rows, _ = lk.cross_entropy_value_and_grad(x, labels, reduction="none", where=where, **options)
    assert rows[1] == 0
    assert np.isfinite(rows).all()


def test_nothing_counts() -> None:
    x, where = np.zeros((3, 4)), np.zeros((3, 4), bool)
    for labels in (np.zeros(3, int), np.full((3, 4), 0.25)):
        for options in ({}, {"label_smoothing": 0.1}, {"sample_weight": [1.0, 2.0, 3.0]}):
            loss, grad = lk.cross_entropy_value_and_grad(x, labels, where=where, **options)
            assert np.isnan(loss)
            assert not grad.any()
            assert lk.cross_entropy(x, labels, reduction="sum", where=where, **options) == 0


def test_a_hidden_label() -> None:
    """Its loss is +inf; its gradient 0, and that of the others what it would be."""
    x = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    where = np.array([[True, False, True], [True, True, True]])
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"class_weight": [1, 2, 3]}):
        loss, grad = lk.cross_entropy_value_and_grad(
            x, [1, 1], reduction="none", where=where, **options
        )
        assert loss[0] == np.inf
        assert np.isfinite(loss[1])
        assert grad[0, 1] == 0
        assert np.isfinite(grad).all()
        assert (grad[0, [0, 2]] > 0).all()
        assert lk.cross_entropy(x, [1, 1], where=where, **options) == np.inf
    # Nothing is asked of the label where its part is 0.
    for options in ({"label_smoothing": 1.0}, {"class_weight": [1, 0, 1]}):
        assert np.isfinite(lk.cross_entropy(x, [1, 1], reduction="sum", where=where, **options))


def test_a_probability_that_is_hidden_is_dropped() -> None:
    x = np.array([[1.0, 2.0, 3.0]])
    where = np.array([[True, True, False]])
    loss, grad = lk.cross_entropy_value_and_grad(x, [[0.25, 0.25, 0.5]], where=where)
    kept, kept_grad = lk.cross_entropy_value_and_grad(x[:, :2], [[0.25, 0.25]])
    np.testing.assert_allclose(loss, kept, 1e-15)
    np.testing.assert_allclose(grad[:, :2], kept_grad, 1e-15)
    assert grad[0, 2] == 0


def test_smoothing_spreads_over_what_is_left() -> None:
    x = np.array([[1.0, 2.0, 3.0, 7.0]])
    where = np.array([[True, True, True, False]])
    for labels, kept in (([1], [1]), ([[0.5, 0, 0.5, 0]], [[0.5, 0, 0.5]])):
        got = lk.cross_entropy(x, labels, label_smoothing=0.3, where=where)
        np.testing.assert_allclose(
            got, lk.cross_entropy(x[:, :3], kept, label_smoothing=0.3), 1e-15
        )


def test_hidden_logits_are_not_looked_at(rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 30))
    where = rng.random(x.shape) < 0.7
    labels = where.argmax(axis=1)
    where[np.arange(40), labels] = True
    options = {"label_smoothing": 0.1, "where": where}
    want = lk.cross_entropy_value_and_grad(x, labels, **options)
    for nonsense in (np.nan, np.inf, -np.inf, 1e300):
        got = lk.cross_entropy_value_and_grad(np.where(where, x, nonsense), labels, **options)
        for one, other in zip(got, want, strict=True):
            assert_same_bits(one, other, str(nonsense))


@each_dtype
@pytest.mark.parametrize("threads", [1, 3])
def test_layouts_threads_and_outputs(dtype: Any, threads: int, rng: np.random.Generator) -> None:
    """The same bits for every axis, order and output, and for a mask of nothing but True."""
    lk.set_num_threads(threads)
    for rows, classes in ((300, 3), (70, 20), (9, 3000), (600, 65)):
        x = rng.normal(0, 3, (rows, classes)).astype(dtype)
        mask = rng.random(x.shape) < 0.8
        soft = rng.random(x.shape).astype(dtype)
        for labels in (rng.integers(0, classes, rows), soft):
            for options in ({}, {"label_smoothing": 0.2}):
                plain = lk.cross_entropy_value_and_grad(x, labels, **options)
                same = lk.cross_entropy_value_and_grad(x, labels, where=True, **options)
                np.testing.assert_allclose(same[0], plain[0], 1e-6)
                loss, grad = lk.cross_entropy_value_and_grad(
                    x, labels, reduction="none", where=mask, **options
                )
                for across in (
                    labels.T if labels.ndim == 2 else labels,
                    np.ascontiguousarray(labels.T) if labels.ndim == 2 else labels[::-1][::-1],
                ):
                    got, got_grad = lk.cross_entropy_value_and_grad(
                        np.ascontiguousarray(x.T),
                        across,
                        axis=0,
                        reduction="none",
                        where=mask.T,
                        **options,
                    )
                    assert_same_bits(got, loss, f"{rows, classes}")
                    assert_same_bits(got_grad, np.ascontiguousarray(grad.T), f"{rows, classes}")
                place = x.copy()
                lk.cross_entropy_value_and_grad(
                    place, labels, reduction="none", where=mask, grad_out=place, **options
                )
                assert_same_bits(place, grad, "in place")
                out = np.empty_like(loss)
                lk.cross_entropy(x, labels, reduction="none", where=mask, out=out, **options)
                assert_same_bits(out, loss, "out")
                assert not grad[~mask].any()


def test_a_mask_in_the_memory_of_the_output() -> None:
    x = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    memory = np.zeros((3, 4), np.float32)
    mask = memory.view(bool).reshape(3, 16)[:, :4]
    mask[:, :3] = True
    want = lk.cross_entropy_value_and_grad(x, [0, 1, 2], where=mask.copy())
    got = lk.cross_entropy_value_and_grad(x, [0, 1, 2], where=mask, grad_out=memory)
    assert_same_bits(np.asarray(got[0]), np.asarray(want[0]), "loss")
    assert_same_bits(memory, want[1], "gradient")


def test_bad_masks_of_losses() -> None:
    x, grad = np.zeros((3, 4)), np.full((3, 4), 7.0)
    with pytest.raises(TypeError, match="where has dtype int64: expected bool"):
        lk.cross_entropy_value_and_grad(
            x, [0, 1, 2], where=np.ones((3, 4), np.int64), grad_out=grad
        )
    with pytest.raises(ValueError, match=r"where has shape \(3,\), which does not broadcast"):
        lk.cross_entropy_value_and_grad(x, [0, 1, 2], where=[True] * 3, grad_out=grad)
    with pytest.raises(IndexError, match=r"labels\[1\] is 4: not in \[0, 4\)"):
        lk.cross_entropy_value_and_grad(x, [0, 4, 2], where=np.zeros((3, 4), bool), grad_out=grad)
    assert (grad == 7).all()


def test_rows_of_one_and_of_no_dimension() -> None:
    x, where = np.array([1.0, 2.0, 3.0]), np.array([True, False, True])
    assert lk.cross_entropy(x, 0, where=where) == lk.cross_entropy(x[None], [0], where=where)
    empty = lk.cross_entropy(np.zeros((3, 0)), np.zeros((3, 0)), where=np.zeros((3, 0), bool))
    assert np.isnan(empty)


def test_gradient_is_the_slope(rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 6))
    where = rng.random(x.shape) < 0.6
    labels = rng.random(x.shape)
    options = {
        "where": where,
        "label_smoothing": 0.3,
        "class_weight": rng.uniform(0.5, 2, 6),
        "z_loss": 0.05,
        "temperature": rng.uniform(0.5, 2, 5),
    }
    _, grad = lk.cross_entropy_value_and_grad(x, labels, **options)
    step = 1e-6
    for i, c in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i, c] += step
        below[i, c] -= step
        rise = lk.cross_entropy(above, labels, **options) - lk.cross_entropy(
            below, labels, **options
        )
        assert abs(grad[i, c] - rise / (2 * step)) < 1e-6


@pytest.mark.parametrize("soft", [False, True])
def test_gradients_that_overflow_are_0_under_the_mask(soft: bool) -> None:
    x = np.array([[1.0, 2.0, 3.0, 4.0]])
    where = np.array([[True, False, True, True]])
    labels: Any = [[0.0, 0.0, 1.0, 0.0]] if soft else [2]
    for options in (
        {"sample_weight": [np.inf]},
        {"grad_output": np.inf},
        {"grad_output": -1.0},
        {"class_weight": [1, 1, 1e200, 1], "sample_weight": [1e200]},
        {"grad_output": 1e300, "sample_weight": [1e200]},
    ):
        for dtype in (np.float32, np.float64):
            _, grad = lk.cross_entropy_value_and_grad(
                x.astype(dtype), labels, where=where, reduction="sum", **options
            )
            assert grad[0, 1] == 0
            assert not np.signbit(grad[0, 1])
