"""Cross-entropy and the normalisations with their options, against formulas in extended precision.

The combinations are drawn at random, thousands of them: every option with every other one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
from logitkit import _logitkit_core as core

Array = npt.NDArray[Any]
Long = np.longdouble

# In units in the last place, of the larger term where a result is a difference.
BOUND = {np.dtype(np.float32): 3.0, np.dtype(np.float64): 4.0}


@dataclass
class Case:
    """One call: the logits (rows, classes), the labels and the options."""

    x: Array
    labels: Array
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def soft(self) -> bool:
        return self.labels.ndim == 2


@dataclass
class Truth:
    """Losses and gradients of the rows, the numbers whose units they have, the mean's divisor."""

    loss: Array
    grad: Array
    loss_unit: Array
    grad_unit: Array
    divisor: Any


def truth(case: Case) -> Truth:
    """What the formulas say."""
    rows, classes = case.x.shape
    o = case.options
    temperature = np.broadcast_to(np.asarray(o.get("temperature", 1.0), Long), rows)
    weight = np.asarray(o.get("class_weight", np.ones(classes)), case.x.dtype).astype(Long)
    sample = np.broadcast_to(np.asarray(o.get("sample_weight", 1.0), Long), rows)
    smoothing, z_loss = Long(o.get("label_smoothing", 0.0)), Long(o.get("z_loss", 0.0))
    where = np.broadcast_to(o.get("where", True), case.x.shape)
    z = np.where(where, case.x.astype(Long) / temperature[:, None], -np.inf)
    full = where.any(axis=1)
    z[~full] = 0  # does not count, whatever comes out
    top = z.argmax(axis=1)
    every = np.arange(rows)
    e = np.exp(z - z[every, top][:, None])
    others = e.copy()
    others[every, top] = 0
    others = others.sum(axis=1)
    log = np.log1p(others)
    minus_lp = np.where(where, (z[every, top][:, None] - z) + log[:, None], 0)
    p = e / (1 + others)[:, None]
    lse = z[every, top] + log
    if case.soft:
        counted = full & (sample != 0)
        target = case.labels.astype(Long)
        divisor = sample[full].sum()
    else:
        counted = full & (case.labels != -100) & (sample != 0)
        labels = np.where(case.labels == -100, 0, case.labels)
        target = np.eye(classes, dtype=Long)[labels]
        divisor = (sample * weight[labels])[full & (case.labels != -100)].sum()
        if smoothing == 0:
            counted &= weight[labels] != 0
    share = smoothing / np.maximum(where.sum(axis=1), 1)[:, None]
    u = weight * ((1 - smoothing) * target + share) * where
    loss = (u * minus_lp).sum(axis=1) + z_loss * lse**2
    total = u.sum(axis=1) + 2 * z_loss * lse
    grad = total[:, None] * p - u
    # logsumexp, a sum that may cancel, has units of its own.
    lse_unit = np.maximum(np.maximum(np.abs(lse), np.abs(np.where(where, z, 0)).max(axis=1)), 1)
    loss_unit = np.maximum(loss, 2 * z_loss * np.abs(lse) * lse_unit)
    total_unit = np.maximum(np.abs(total), 2 * z_loss * lse_unit)
    unit = np.maximum(total_unit[:, None] * p, u)
    if not case.soft and smoothing == 0 and z_loss == 0:
        # Not a difference: p - 1 is minus the share of the others.
        own = weight[labels] * np.where(labels == top, others / (1 + others), 1 - p[every, labels])
        grad[every, labels] = -own
        unit = np.abs(grad)
    factor = (sample / temperature)[:, None]
    return Truth(
        np.where(counted, loss * sample, 0),
        np.where(counted[:, None], grad * factor, 0),
        loss_unit * sample,
        np.abs(unit * factor),
        divisor,
    )


def in_units(got: Array, want: Array, unit: Array) -> float:
    """The largest error, in units in the last place of `unit`."""
    tiny = np.finfo(got.dtype).tiny
    spacing = np.spacing(np.maximum(np.abs(unit), tiny).astype(got.dtype)).astype(Long)
    return float(np.max(np.abs(got.astype(Long) - want) / spacing, initial=0))


def random_case(
    rng: np.random.Generator,
    dtype: npt.DTypeLike,
    rows: int | None = None,
    classes: int | None = None,
) -> Case:
    rows = rows or int(rng.integers(1, 70))
    classes = classes or int(rng.choice([1, 2, 3, 7, 20, 45, 300]))
    x = (rng.normal(size=(rows, classes)) * rng.choice([0.1, 3, 40])).astype(dtype)
    if rng.random() < 0.5:
        labels: Array = rng.integers(0, classes, rows)
        labels[rng.random(rows) < 0.1] = -100
    else:
        labels = np.maximum(rng.uniform(-0.5, 1, x.shape), 0).astype(dtype)
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        options["class_weight"] = rng.uniform(0.1, 3, classes) * (rng.random(classes) < 0.9)
    if rng.random() < 0.5:
        options["sample_weight"] = rng.uniform(0.1, 3, rows) * (rng.random(rows) < 0.9)
    if rng.random() < 0.5:
        options["label_smoothing"] = float(rng.choice([0.0, 0.1, 0.5, 1.0]))
    if rng.random() < 0.5:
        temperatures = rng.uniform(0.2, 5, rows)
        options["temperature"] = temperatures if rng.random() < 0.5 else float(temperatures[0])
    if rng.random() < 0.5:
        options["z_loss"] = float(rng.choice([0.0, 1e-4, 0.3]))
    if rng.random() < 0.5:
        options["where"] = random_mask(rng, x.shape, labels)
    return Case(x, labels, options)


def random_mask(rng: np.random.Generator, shape: tuple[int, int], labels: Array) -> Array:
    """Of all rows alike, or each by itself; the label of a row that has any class is not hidden."""
    mask: Array = rng.random((1, shape[1]) if rng.random() < 0.3 else shape) < rng.choice(
        [0.2, 0.9]
    )
    if labels.ndim == 2:
        return mask
    mask = np.array(np.broadcast_to(mask, shape))
    counted = mask.any(axis=1) & (labels != -100)
    mask[counted, labels[counted]] = True
    return np.asfortranarray(mask) if rng.random() < 0.3 else mask


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_combination_of_options(dtype: npt.DTypeLike, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        case = random_case(rng, dtype)
        bound = BOUND[case.x.dtype]
        want = truth(case)
        call = {"labels": case.labels, **case.options}
        got, got_grad = lk.cross_entropy_value_and_grad(case.x, **call, reduction="none")
        assert in_units(got, want.loss, want.loss_unit) <= bound, case.options
        assert in_units(got_grad, want.grad, want.grad_unit) <= bound, case.options
        np.testing.assert_array_equal(lk.cross_entropy(case.x, **call, reduction="none"), got)

        mean, mean_grad = lk.cross_entropy_value_and_grad(case.x, **call)
        assert mean == lk.cross_entropy(case.x, **call) or np.isnan(mean)
        total, unit = np.asarray(want.loss.sum()), np.asarray(want.loss_unit.sum())
        if want.divisor == 0:
            assert np.isnan(mean)
            assert not mean_grad.any()
        else:
            d = want.divisor
            assert in_units(np.asarray(mean), total / d, unit / d) <= bound, case.options
            assert in_units(mean_grad, want.grad / d, want.grad_unit / d) <= bound, case.options
        got, total_grad = lk.cross_entropy_value_and_grad(case.x, **call, reduction="sum")
        assert in_units(np.asarray(got), total, unit) <= bound, case.options
        np.testing.assert_array_equal(total_grad, got_grad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options_on_any_axis_and_in_place(dtype: npt.DTypeLike) -> None:
    rng = np.random.default_rng(5)
    for classes in (3, 50, 1500):
        x = rng.normal(size=(5, classes, 4)).astype(dtype)
        labels = rng.integers(0, classes, (5, 4))
        soft = rng.random(x.shape).astype(dtype)
        options = {
            "class_weight": rng.uniform(0.5, 2, classes),
            "sample_weight": rng.uniform(0.5, 2, (5, 4)),
            "label_smoothing": 0.2,
            "temperature": rng.uniform(0.5, 2, (5, 4)),
            "z_loss": 1e-3,
        }
        flat = {
            name: value.reshape(-1) if np.ndim(value) == 2 else value
            for name, value in options.items()
        }
        rows = np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(-1, classes)
        for one, flat_one in (
            (labels, labels.reshape(-1)),
            (soft, np.moveaxis(soft, 1, -1).reshape(-1, classes)),
        ):
            want, want_grad = lk.cross_entropy_value_and_grad(
                rows, flat_one, reduction="none", **flat
            )
            got, grad = lk.cross_entropy_value_and_grad(x, one, axis=1, reduction="none", **options)
            np.testing.assert_array_equal(got.reshape(-1), want)
            np.testing.assert_array_equal(np.moveaxis(grad, 1, -1).reshape(-1, classes), want_grad)
            kept = {**options, "temperature": options["temperature"][:, None, :]}
            copy = np.asfortranarray(x)
            again, same = lk.cross_entropy_value_and_grad(
                copy, one, axis=1, reduction="none", grad_out=copy, **kept
            )
            assert same is copy
            np.testing.assert_array_equal(again, got)
            np.testing.assert_array_equal(copy, grad)


def test_one_row_without_a_batch() -> None:
    x = np.array([0.5, -1.0, 2.0])
    options = {
        "class_weight": [1.0, 2.0, 0.5],
        "sample_weight": 3.0,
        "temperature": np.array([2.0]),
        "label_smoothing": 0.1,
    }
    want, want_grad = lk.cross_entropy_value_and_grad(x[None], [1], reduction="sum", **options)
    got, grad = lk.cross_entropy_value_and_grad(x, 1, reduction="sum", **options)
    assert got == want
    np.testing.assert_array_equal(grad, want_grad[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("soft", [False, True])
def test_finite_differences(dtype: npt.DTypeLike, soft: bool) -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(6, 5))
    labels = rng.random((6, 5)) if soft else rng.integers(0, 5, 6)
    options = {
        "class_weight": rng.uniform(0.5, 2, 5),
        "sample_weight": rng.uniform(0.5, 2, 6),
        "label_smoothing": 0.3,
        "temperature": rng.uniform(0.5, 2, 6),
        "z_loss": 0.05,
    }
    _, grad = lk.cross_entropy_value_and_grad(x.astype(dtype), labels, **options)
    step = 1e-6
    for i, c in itertools.product(range(6), range(5)):
        above, below = x.copy(), x.copy()
        above[i, c] += step
        below[i, c] -= step
        slope = (
            lk.cross_entropy(above, labels, **options) - lk.cross_entropy(below, labels, **options)
        ) / (2 * step)
        assert abs(grad[i, c] - slope) < 1e-6


def test_a_row_without_weight_is_not_read() -> None:
    x = np.array([[np.nan, 1.0], [0.0, 1.0], [np.inf, 0.0]])
    weight = np.array([0.0, 2.0, 0.0])
    for labels in (np.array([0, 1, 1]), np.full((3, 2), 0.5)):
        for extra in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"temperature": 2.0}):
            loss, grad = lk.cross_entropy_value_and_grad(x, labels, sample_weight=weight, **extra)
            want, want_grad = lk.cross_entropy_value_and_grad(x[1:2], labels[1:2], **extra)
            assert loss == want
            np.testing.assert_array_equal(grad, [[0, 0], want_grad[0], [0, 0]])


def test_a_label_of_class_weight_zero() -> None:
    x = np.array([[np.nan, 1.0], [0.0, 1.0]])
    loss, grad = lk.cross_entropy_value_and_grad(x, [0, 1], class_weight=[0.0, 2.0])
    assert loss == lk.cross_entropy(x[1:], [1])
    np.testing.assert_array_equal(grad[0], [0, 0])
    # With smoothing the row has a part of every class.
    assert np.isnan(lk.cross_entropy(x, [0, 1], class_weight=[0.0, 2.0], label_smoothing=0.1))


def test_weights_that_sum_to_zero() -> None:
    x = np.array([[0.5, 1.0], [0.0, 1.0]])
    for labels in (np.array([0, 1]), np.full((2, 2), 0.5)):
        for weight in ([0.0, 0.0], [1.0, -1.0]):
            loss, grad = lk.cross_entropy_value_and_grad(x, labels, sample_weight=weight)
            assert np.isnan(loss)
            np.testing.assert_array_equal(grad, np.zeros((2, 2)))
        assert lk.cross_entropy(x, labels, sample_weight=[0.0, 0.0], reduction="sum") == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 2.0}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"sample_weight": 2.0}],
)
def test_infinite_logits(options: dict[str, Any]) -> None:
    x = np.array([[-np.inf, 0.0], [np.inf, 0.0], [0.0, np.inf], [-np.inf, -np.inf], [0.0, np.nan]])
    loss, grad = lk.cross_entropy_value_and_grad(x, [0, 0, 0, 0, 0], reduction="none", **options)
    assert loss[0] == np.inf
    assert np.isfinite(grad[0]).all()
    assert np.isnan(loss[1])
    assert np.isnan(grad[1]).all()
    # Smoothing has a part at the infinite logit.
    assert np.isnan(loss[2]) if "label_smoothing" in options else loss[2] == np.inf
    assert np.isnan(grad[2]).all()
    assert np.isnan(loss[3:]).all()
    assert np.isnan(grad[3:]).all()


def test_probabilities_of_zero_pass_over_their_logits() -> None:
    x = np.array([[-np.inf, 0.0, 1.0]])
    t = np.array([[0.0, 0.25, 0.75]])
    loss, grad = lk.cross_entropy_value_and_grad(x, t, temperature=2.0, sample_weight=[3.0])
    want, want_grad = lk.cross_entropy_value_and_grad(x[:, 1:], t[:, 1:], temperature=2.0)
    assert loss == pytest.approx(want, rel=1e-15)
    np.testing.assert_allclose(grad, [[0, *want_grad[0]]], rtol=1e-15)


# --- softmax and log_softmax ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 9, 33, 64, 700, 5000])
def test_temperature_of_softmax(dtype: npt.DTypeLike, classes: int) -> None:
    rng = np.random.default_rng(classes)
    for scale, temperature in itertools.product((0.1, 5, 60), (0.1, 0.7, 1.0, 3.0)):
        x = (rng.normal(size=(33, classes)) * scale).astype(dtype)
        z = x.astype(Long) / Long(temperature)
        top = z.argmax(axis=1)[:, None]
        e = np.exp(z - np.take_along_axis(z, top, 1))
        others = e.copy()
        np.put_along_axis(others, top, 0, 1)
        others = others.sum(axis=1, keepdims=True)
        log = np.log1p(others)
        lse = (np.take_along_axis(z, top, 1) + log)[:, 0]
        bound = BOUND[x.dtype]
        y, got = lk.softmax(x, 1, temperature=temperature, return_lse=True)
        assert in_units(y, e / (1 + others), e / (1 + others)) <= bound
        assert in_units(got, lse, np.maximum(np.maximum(np.abs(lse), np.abs(z).max(1)), 1)) <= bound
        y_log, same = lk.log_softmax(x, 1, temperature=temperature, return_lse=True)
        want = (z - np.take_along_axis(z, top, 1)) - log
        assert in_units(y_log, want, want) <= bound
        np.testing.assert_array_equal(same, got)
        # One for each row, in every layout; alone; in place.
        each = np.full(33, temperature)
        for shape in (each, each[:, None]):
            np.testing.assert_array_equal(lk.softmax(x, 1, temperature=shape), y)
        np.testing.assert_array_equal(lk.softmax(np.asfortranarray(x), 1, temperature=each), y)
        np.testing.assert_array_equal(lk.log_softmax(x.T, 0, temperature=each[None]), y_log.T)
        assert lk.softmax(x, 1, temperature=each, out=x) is x
        np.testing.assert_array_equal(x, y)


def test_temperatures_of_each_row_differ() -> None:
    rng = np.random.default_rng(3)
    x, temperature = rng.normal(size=(3, 70, 5)), rng.uniform(0.1, 4, (3, 5))
    got, lse = lk.log_softmax(x, 1, temperature=temperature, return_lse=True)
    for i, j in np.ndindex(3, 5):
        want, want_lse = lk.log_softmax(x[i, :, j], temperature=temperature[i, j], return_lse=True)
        np.testing.assert_array_equal(got[i, :, j], want)
        assert lse[i, j] == want_lse


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (1, 2), (2, 1, 0)])
def test_lse_has_the_bits_of_logsumexp(axis: Any) -> None:
    rng = np.random.default_rng(4)
    for dtype in (np.float32, np.float64, np.int32):
        x = (rng.normal(size=(4, 11, 6)) * 10).astype(dtype)
        x = x.transpose(2, 0, 1)
        for f in (lk.softmax, lk.log_softmax):
            y, lse = f(x, axis, return_lse=True)
            np.testing.assert_array_equal(y, f(x, axis))
            np.testing.assert_array_equal(lse, lk.logsumexp(x, axis))
            assert lse.dtype == y.dtype
            assert np.shape(lse) == np.shape(lk.logsumexp(x, axis))


def test_lse_of_special_rows() -> None:
    x = np.array([[np.inf, 0.0], [-np.inf, -np.inf], [np.nan, np.inf], [-np.inf, 1.0]])
    for f in (lk.softmax, lk.log_softmax):
        _, lse = f(x, 1, return_lse=True)
        np.testing.assert_array_equal(lse, [np.inf, -np.inf, np.nan, 1.0])


def test_where() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(20, 7))
    mask = rng.random((20, 7)) < 0.6
    mask[3] = False
    x[~mask] = rng.choice([np.nan, np.inf, 1e300], (~mask).sum())
    y, lse = lk.softmax(x, 1, where=mask, return_lse=True)
    y_log = lk.log_softmax(x, 1, where=mask)
    for i in range(20):
        assert not y[i][~mask[i]].any()
        assert (y_log[i][~mask[i]] == -np.inf).all()
        np.testing.assert_allclose(y[i][mask[i]], lk.softmax(x[i][mask[i]]), rtol=1e-15)
        np.testing.assert_allclose(y_log[i][mask[i]], lk.log_softmax(x[i][mask[i]]), rtol=1e-15)
    assert lse[3] == -np.inf
    assert not np.isnan(y).any()
    # A mask that broadcasts, and tuples of axes.
    np.testing.assert_array_equal(
        lk.softmax(np.ones((3, 4)), where=[True, False, True, False]), np.tile([1 / 6, 0], (3, 2))
    )


def test_dtype() -> None:
    x = np.array([1.0, 2.0, 4.0], dtype=np.float32)
    for f in (lk.softmax, lk.log_softmax):
        np.testing.assert_array_equal(f(x, dtype=np.float64), f(x.astype(np.float64)))
        np.testing.assert_array_equal(f([1, 2, 4], dtype="f4"), f(x))
        assert f(x, dtype=np.float16).dtype == np.float16
    loss, grad = lk.cross_entropy_value_and_grad(x, 1, dtype=np.float64)
    want, want_grad = lk.cross_entropy_value_and_grad(x.astype(np.float64), 1)
    assert loss == want
    assert loss.dtype == np.float64
    np.testing.assert_array_equal(grad, want_grad)
    with pytest.raises(TypeError, match="dtype must be a floating-point or complex dtype"):
        lk.softmax(x, dtype=np.int64)


@pytest.mark.parametrize("dtype", [np.longdouble, np.complex64, np.complex128])
@pytest.mark.parametrize("per_row", [False, True])
def test_wide_dtypes(dtype: Any, per_row: bool, rng: np.random.Generator) -> None:
    """Options mean the same for the dtypes that NumPy computes."""
    x, mask = rng.normal(0, 2, (4, 5)).astype(dtype), rng.random((4, 5)) < 0.7
    mask[1], mask[2] = False, True
    if np.dtype(dtype).kind == "c":
        x += (1j * rng.normal(0, 2, x.shape)).astype(dtype)
    x[~mask] = np.nan
    temperature = rng.uniform(0.5, 2, 4) if per_row else 0.7
    tolerance = 30 * float(np.finfo(dtype).eps)
    wide = np.where(mask, x, 0).astype(np.clongdouble)
    exp = np.where(mask, np.exp(wide / np.reshape(temperature, (-1, 1))), 0)
    total = exp.sum(1, keepdims=True)
    p, lse = lk.softmax(x, 1, where=mask, temperature=temperature, return_lse=True)
    log_p, same = lk.log_softmax(x, 1, where=mask, temperature=temperature, return_lse=True)
    assert p.dtype == log_p.dtype == lse.dtype == dtype
    kept = [0, 2, 3]
    np.testing.assert_allclose(p[kept], exp[kept] / total[kept], rtol=0, atol=tolerance)
    np.testing.assert_allclose(lse[kept], np.log(total[kept, 0]), rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.exp(log_p)[mask], p[mask], rtol=0, atol=tolerance)
    np.testing.assert_array_equal(lse, same)
    assert lse[1] == -np.inf
    assert not p[~mask].any()
    assert np.all(log_p[~mask].real == -np.inf)
    if np.dtype(dtype).kind != "c":
        g = rng.normal(0, 1, x.shape)
        q = np.where(mask, p, 0)
        got = lk.softmax_backward(g, q, 1, temperature=temperature)
        want = lk.softmax_backward(g, q, 1) / np.reshape(temperature, (-1, 1))
        np.testing.assert_allclose(got, want, rtol=1e-15)
    assert lk.softmax(np.ones(3), dtype=dtype).dtype == dtype
    # -inf among the numbers is -inf after the division.
    y = lk.log_softmax(np.array([-np.inf, 1, 2], dtype=dtype), temperature=2.0)
    assert y[0] == -np.inf
    np.testing.assert_allclose(y[1:].real, lk.log_softmax([0.5, 1.0]), rtol=1e-6)


# --- Arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be positive and finite"),
        ({"temperature": -1.0}, ValueError, "temperature must be positive and finite"),
        ({"temperature": np.inf}, ValueError, "temperature must be positive and finite"),
        ({"temperature": 1e-31}, ValueError, "from 1e-30 to 1e"),
        ({"temperature": [1.0, 1e31]}, ValueError, "from 1e-30 to 1e"),
        ({"temperature": [1.0, np.nan]}, ValueError, "temperature must be positive and finite"),
        ({"temperature": [1.0, 2.0, 3.0]}, ValueError, r"temperature has shape \(3,\)"),
        ({"temperature": "1"}, TypeError, "temperature has dtype"),
        (
            {"class_weight": [1.0, 2.0]},
            ValueError,
            r"class_weight has shape \(2,\), expected \(3,\)",
        ),
        ({"sample_weight": [1.0] * 3}, ValueError, r"sample_weight has shape \(3,\)"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\]"),
        ({"label_smoothing": -0.1}, ValueError, r"label_smoothing must be in \[0, 1\]"),
        ({"label_smoothing": np.nan}, ValueError, r"label_smoothing must be in \[0, 1\]"),
        ({"z_loss": -1.0}, ValueError, "z_loss must be finite and not negative"),
        ({"z_loss": [1.0, 2.0]}, ValueError, "z_loss must be one number"),
        ({"dtype": np.int32}, TypeError, "dtype must be"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    x = np.zeros((2, 3))
    out = np.full((2, 3), 7.0)
    with pytest.raises(error, match=message):
        lk.cross_entropy(x, [0, 1], **options)
    with pytest.raises(error, match=message):
        lk.cross_entropy_value_and_grad(x, [0, 1], grad_out=out, **options)
    if "temperature" in options or "dtype" in options:
        with pytest.raises(error, match=message):
            lk.softmax(x, 1, out=out, **options)
        with pytest.raises(error, match=message):
            lk.log_softmax(x, 1, out=out, **options)
    assert (out == 7).all()


def test_bad_where() -> None:
    with pytest.raises(ValueError, match=r"where has shape \(2,\)"):
        lk.softmax(np.zeros(3), where=[True, False])
    with pytest.raises(TypeError, match="where has dtype int64: expected bool"):
        lk.softmax(np.zeros(2), where=np.array([1, 0]))


def test_a_wrong_label_is_named_before_anything_is_written() -> None:
    out = np.full((2, 3), 7.0)
    with pytest.raises(IndexError, match=r"labels\[1\] is 3: not in \[0, 3\)"):
        lk.cross_entropy_value_and_grad(
            np.zeros((2, 3)), [0, 3], grad_out=out, sample_weight=[1.0, 0.0], label_smoothing=0.1
        )
    assert (out == 7).all()


def test_torch_agrees() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    for soft, smoothing, weighted, reduction in itertools.product(
        (False, True), (0.0, 0.2), (False, True), ("mean", "sum", "none")
    ):
        x = rng.normal(size=(40, 9))
        labels: Array = rng.random((40, 9)) if soft else rng.integers(0, 9, 40)
        if not soft:
            labels[::7] = -100
        weight = rng.uniform(0.5, 2, 9) if weighted else None
        logits = torch.tensor(x, requires_grad=True)
        want = torch.nn.functional.cross_entropy(
            logits,
            torch.tensor(labels),
            weight=None if weight is None else torch.tensor(weight),
            label_smoothing=smoothing,
            reduction=reduction,
        )
        want.sum().backward()
        got, grad = lk.cross_entropy_value_and_grad(
            x, labels, class_weight=weight, label_smoothing=smoothing, reduction=reduction
        )
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-13)
        np.testing.assert_allclose(grad, logits.grad.numpy(), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("classes", [1, 2, 5, 20, 300])
def test_jax_agrees(classes: int) -> None:
    """Any combination of options, differentiated by JAX: no formula of a gradient is needed."""
    jax = pytest.importorskip("jax")
    jnp, rows = jax.numpy, 24

    def total(
        x: Any, target: Any, weight: Any, sample: Any, numbers: Any, t: Any, where: Any
    ) -> Any:
        smoothing, z_loss = numbers
        z = x / t[:, None]
        lse = jax.nn.logsumexp(z, axis=1, where=where)
        even = smoothing / where.sum(axis=1, keepdims=True)
        u = jnp.where(where, weight * ((1 - smoothing) * target + even), 0)
        losses = sample * ((u * (lse[:, None] - z)).sum(axis=1) + z_loss * lse**2)
        return losses.sum(), losses

    rng = np.random.default_rng(classes)
    jax.config.update("jax_enable_x64", True)
    try:
        differentiate = jax.jit(jax.value_and_grad(total, has_aux=True))
        for _ in range(600):
            case = random_case(rng, np.float64, rows, classes)
            o = case.options
            weight = o.get("class_weight", np.ones(classes))
            where = np.array(np.broadcast_to(o.get("where", True), case.x.shape))
            counted = where.any(axis=1)
            if case.soft:
                target = case.labels
            else:
                counted &= case.labels != -100
                target = np.eye(classes)[np.where(counted, case.labels, 0)]
            sample = np.broadcast_to(o.get("sample_weight", 1.0), rows) * counted
            if not case.soft and o.get("label_smoothing", 0.0) == 0:
                # A row whose label weighs nothing has no z-loss either.
                sample = sample * ((target * weight).sum(axis=1) != 0)
            where[~counted] = True
            t = np.array(np.broadcast_to(o.get("temperature", 1.0), rows))
            numbers = np.array([o.get("label_smoothing", 0.0), o.get("z_loss", 0.0)])
            (_, losses), dx = differentiate(case.x, target, weight, sample, numbers, t, where)
            got, grad = lk.cross_entropy_value_and_grad(
                case.x, case.labels, reduction="none", **case.options
            )
            np.testing.assert_allclose(got, losses, rtol=1e-12, atol=1e-11, err_msg=str(o))
            np.testing.assert_allclose(grad, dx, rtol=1e-12, atol=1e-11, err_msg=str(o))
    finally:
        jax.config.update("jax_enable_x64", False)


def test_optax_agrees_with_masks_of_rows() -> None:
    """The z-loss and the sample weights, as optax users write them."""
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(9)
    x, labels = rng.normal(size=(12, 5)).astype(np.float32), rng.integers(0, 5, 12)
    mask = rng.random(12) < 0.7
    want = optax.softmax_cross_entropy_with_integer_labels(x, labels)
    got = lk.cross_entropy(x, labels, sample_weight=mask)
    np.testing.assert_allclose(got, np.asarray(want)[mask].mean(), rtol=1e-5)


# --- Gradients of the normalisations ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 3, 30, 500])
def test_temperature_of_the_gradients(dtype: npt.DTypeLike, classes: int) -> None:
    rng = np.random.default_rng(classes)
    y = lk.softmax(rng.normal(size=(21, classes)).astype(dtype), 1)
    y_log = np.log(y)
    grad = rng.normal(size=y.shape).astype(dtype)
    temperature = rng.uniform(0.1, 4, 21)
    t, g, long_y = temperature[:, None].astype(Long), grad.astype(Long), y.astype(Long)
    bound = BOUND[y.dtype]

    got = lk.softmax_backward(grad, y, 1, temperature=temperature)
    want = long_y * (g - (g * long_y).sum(1, keepdims=True)) / t
    unit = long_y * (np.abs(g) + np.abs(g * long_y).sum(1, keepdims=True)) / t
    assert in_units(got, want, unit) <= bound
    e = np.exp(y_log.astype(Long))
    got_log = lk.log_softmax_backward(grad, y_log, 1, temperature=temperature)
    total = g.sum(1, keepdims=True)
    assert (
        in_units(got_log, (g - e * total) / t, np.maximum(np.abs(g), e * np.abs(total)) / t)
        <= bound
    )

    for f, result, saved in (
        (lk.softmax_backward, got, y),
        (lk.log_softmax_backward, got_log, y_log),
    ):
        np.testing.assert_array_equal(
            f(np.asfortranarray(grad), saved, 1, temperature=temperature[:, None]), result
        )
        np.testing.assert_array_equal(f(grad.T, saved.T, 0, temperature=temperature), result.T)
        for i in range(3):
            np.testing.assert_array_equal(
                f(grad[i], saved[i], temperature=temperature[i]), result[i]
            )
        out = saved.copy()
        assert f(grad, out, (1,), temperature=temperature, out=out) is out
        np.testing.assert_array_equal(out, result)
        with pytest.raises(ValueError, match="temperature must be positive"):
            f(grad, saved, 1, temperature=0.0)


def test_unaligned_numbers_per_row() -> None:
    """Incoming gradients and weights at any address."""
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(6, 3)), rng.integers(0, 3, 6)
    memory = np.zeros(6 * 8 + 1, np.uint8)
    rows = memory[1:].view(np.float64)
    rows[:] = rng.uniform(0.5, 2, 6)
    assert not rows.flags.aligned
    want = rows.copy()
    for name in ("grad_output", "sample_weight", "temperature"):
        for got, wanted in zip(
            lk.cross_entropy_value_and_grad(x, labels, reduction="none", **{name: rows}),
            lk.cross_entropy_value_and_grad(x, labels, reduction="none", **{name: want}),
            strict=True,
        ):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize(
    ("shape", "axis"), [((), None), ((2,), 0), ((2, 3), None), ((2, 3), (0, 1))]
)
def test_one_row_with_its_temperature_and_lse(
    dtype: Any, shape: tuple[int, ...], axis: Any, rng: np.random.Generator
) -> None:
    """A temperature with the class axes kept, where there is no other axis."""
    x = rng.normal(size=shape).astype(dtype)
    kept = np.full([1] * len(shape), 2.0)
    for f in (lk.softmax, lk.log_softmax):
        y, lse = f(x, axis, temperature=kept, return_lse=True)
        want, want_lse = f(x, axis, temperature=2.0, return_lse=True)
        np.testing.assert_array_equal(y, want)
        assert lse == want_lse
        assert np.shape(lse) == ()
    for g in (lk.softmax_backward, lk.log_softmax_backward):
        np.testing.assert_array_equal(
            g(x, x, axis, temperature=kept), g(x, x, axis, temperature=2.0)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_the_ends_of_the_temperatures(dtype: Any, temperature: float) -> None:
    """Also beside -inf, and in a row that its vectors do not fill."""
    x = np.array([[0, 1e-3, -np.inf, 2] + [1.0] * 13], dtype)
    z = x.astype(np.longdouble) / temperature
    e = np.exp(z - z.max())
    want = (e / e.sum()).astype(dtype)
    np.testing.assert_allclose(lk.softmax(x, 1, temperature=temperature), want, 1e-6)
    batch = np.repeat(x, 64, axis=0)
    np.testing.assert_array_equal(
        lk.softmax(batch, 1, temperature=temperature)[:1], lk.softmax(x, 1, temperature=temperature)
    )


@pytest.mark.parametrize("rows", [63, 8191, 8192, 8193, 20_011])
@pytest.mark.usefixtures("keep_settings")
def test_divisors_of_many_rows(rows: int, rng: np.random.Generator) -> None:
    """A mean's weights, summed in parts and by threads, of the rows that count alone."""
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, 3, rows)
    labels[rng.random(rows) < 0.1] = -100
    t = rng.random((rows, 3))
    by_class, by_row = rng.uniform(0.1, 3, 3), rng.uniform(0.1, 3, rows)
    by_row[rng.random(rows) < 0.1] = 0
    where = np.broadcast_to(rng.random((rows, 1)) < 0.9, x.shape)
    counts = labels >= 0
    of_class = counts * by_class[np.where(counts, labels, 0)]
    cases: list[tuple[Array, dict[str, Any], Array]] = [
        (labels, {"class_weight": by_class}, of_class),
        (labels, {"sample_weight": by_row}, counts * by_row),
        (labels, {"class_weight": by_class, "sample_weight": by_row}, of_class * by_row),
        (labels, {"class_weight": by_class, "where": where}, of_class * where[:, 0]),
        (labels, {"where": where}, counts * where[:, 0]),
        (t, {"sample_weight": by_row}, by_row),
        (t, {"sample_weight": by_row, "where": where}, by_row * where[:, 0]),
    ]
    for target, options, weights in cases:
        losses = lk.cross_entropy(x, target, reduction="none").astype(Long)
        want = (losses * weights).sum() / weights.astype(Long).sum()
        results = set()
        for level, threads in itertools.product(core.simd_levels(), (1, 2, 3)):
            core.set_simd_level(level)
            lk.set_num_threads(threads)
            got = lk.cross_entropy(x, target, **options)
            results.add((got, lk.cross_entropy_value_and_grad(x, target, **options)[0]))
        assert results == {(got, got)}, list(options)
        np.testing.assert_allclose(got, float(want), rtol=1e-15, err_msg=str(list(options)))
