"""Bad input: the documented exception, a message that shows what was got, nothing written."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import logitkit as lk
import numpy as np
import numpy.typing as npt
import pytest
from logitkit._front import advice

Array = npt.NDArray[Any]
AxisError = np.exceptions.AxisError

SHAPE = (3, 4)
X = np.arange(12.0).reshape(SHAPE) / 3
LABELS = np.array([0, 3, 1])
SENTINEL = 7.0


def sentinel(shape: tuple[int, ...] = SHAPE, dtype: Any = np.float64) -> Array:
    return np.full(shape, SENTINEL, dtype=dtype)


def check(call: Callable[[Array], Any], error: type[Exception], *words: str) -> None:
    """Fail unless ``call(out)`` raises exactly ``error`` with all words, and leaves ``out``."""
    out = sentinel()
    with pytest.raises(error) as caught:
        call(out)
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
    for word in words:
        assert re.search(word, str(caught.value)), f"no {word!r} in {str(caught.value)!r}"
    assert np.all(out == SENTINEL), "the output was written"


ELEMENTWISE = {"softmax": lk.softmax, "log_softmax": lk.log_softmax}
BACKWARD = {"softmax": lk.softmax_backward, "log_softmax": lk.log_softmax_backward}

NOT_NUMBERS: dict[str, tuple[Any, str]] = {
    "object": (X.astype(object), "object"),
    "str": (X.astype(str), "U|str"),
    "bytes": (X.astype(bytes), "S|bytes"),
    "datetime": (X.astype("datetime64[s]"), "datetime64"),
    "structured": (np.zeros(SHAPE, dtype=[("a", "f8")]), r"\ba\b|void"),
    "masked": (np.ma.masked_array(X, X > 2), "[Mm]ask"),
    "masked, nothing hidden": (np.ma.masked_array(X), "[Mm]ask"),
    "None": (None, "object|NoneType"),
    "dict": ({"a": 1}, "object|dict"),
    "str of digits": ("12", "U|str"),
}
WIDE: dict[str, tuple[Any, str]] = {
    "complex": (X.astype(np.complex128), "complex128"),
    "complex64": (X.astype(np.complex64), "complex64"),
    "longdouble": (X.astype(np.longdouble), str(np.dtype(np.longdouble))),
}
"""Numbers that functions along an axis take, and losses do not."""
if np.dtype(np.longdouble) == np.dtype(np.float64):
    del WIDE["longdouble"]


# --- what is not an array of numbers -------------------------------------------------------------


@pytest.mark.parametrize(("bad", "word"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_not_numbers(bad: Any, word: str) -> None:
    for f in ELEMENTWISE.values():
        check(lambda o, f=f: f(bad, out=o), TypeError, word)
    check(lambda o: lk.logsumexp(bad), TypeError, word)
    if bad is not None:
        check(lambda o: lk.logsumexp(X, b=bad), TypeError, word)
    for g in BACKWARD.values():
        check(lambda o, g=g: g(bad, X, 1, out=o), TypeError, word)
        check(lambda o, g=g: g(X, bad, 1, out=o), TypeError, word)
    lse = lk.logsumexp(X, 1)
    check(lambda o: lk.logsumexp_backward(lse, bad, lse, 1, out=o), TypeError, word)
    check(lambda o: lk.logsumexp_backward(lse, X, bad, 1, out=o), TypeError, word)
    check(lambda o: lk.logsumexp_backward(bad, X, lse, 1, out=o), TypeError, word)


@pytest.mark.parametrize(("bad", "word"), (NOT_NUMBERS | WIDE).values(), ids=NOT_NUMBERS | WIDE)
def test_not_numbers_in_losses(bad: Any, word: str) -> None:
    check(lambda o: lk.cross_entropy(bad, LABELS), TypeError, word)
    check(lambda o: lk.cross_entropy_value_and_grad(bad, LABELS, grad_out=o), TypeError, word)
    check(lambda o: lk.cross_entropy_value_and_grad(X, bad, grad_out=o), TypeError, word)
    check(lambda o: lk.mse_loss(bad, X, reduction="none", out=o), TypeError, word)
    check(lambda o: lk.mse_loss_value_and_grad(X, bad, grad_out=o), TypeError, word)
    check(lambda o: lk.mse_loss_value_and_grad(bad, X, grad_out=o), TypeError, word)
    check(lambda o: lk.classification_error(bad, LABELS), TypeError, word)
    check(lambda o: lk.classification_error(X, bad), TypeError, word)


@pytest.mark.parametrize("dtype", [object, str, complex, "datetime64[s]"])
def test_grad_output_that_is_no_number(dtype: Any) -> None:
    for shape, reduction in (((), "mean"), ((3,), "none")):
        bad = np.zeros(shape).astype(dtype)
        check(
            lambda o, b=bad, r=reduction: lk.cross_entropy_value_and_grad(
                X, LABELS, reduction=r, grad_output=b, grad_out=o
            ),
            TypeError,
            "grad_output",
        )
    bad = np.zeros(SHAPE).astype(dtype)
    check(
        lambda o: lk.mse_loss_value_and_grad(X, X, reduction="none", grad_output=bad, grad_out=o),
        TypeError,
        "grad_output",
    )


def test_sparse() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for bad in (sparse.csr_matrix(X), sparse.coo_array(X)):
        check(lambda o, bad=bad: lk.softmax(bad, 1, out=o), TypeError)
        check(lambda o, bad=bad: lk.cross_entropy(bad, LABELS), TypeError)
        check(lambda o, bad=bad: lk.mse_loss(X, bad), TypeError)


def test_advice_for_masked_arrays() -> None:
    with pytest.raises(TypeError, match="filled"):
        lk.softmax(np.ma.masked_array(X, X > 2), 1)


@pytest.mark.parametrize("name", ["float8_e5m2", "float8_e4m3fn", "int4"])
def test_dtypes_of_ml_dtypes_that_are_not_offered(name: str) -> None:
    dtype = getattr(pytest.importorskip("ml_dtypes"), name)
    bad = np.zeros(SHAPE).astype(dtype)
    check(lambda o: lk.softmax(bad, 1, out=o), TypeError, name)
    check(lambda o: lk.cross_entropy_value_and_grad(bad, LABELS, grad_out=o), TypeError, name)
    check(lambda o: lk.logsumexp(X, b=bad), TypeError, name)
    with pytest.raises(TypeError, match=name):
        lk.logsumexp(X, dtype=dtype)


def test_ragged() -> None:
    check(lambda o: lk.softmax([[1.0, 2.0], [3.0]], 1, out=o), ValueError)
    check(lambda o: lk.cross_entropy(X, [[0], [1, 2], [3]]), ValueError)


# --- axes ----------------------------------------------------------------------------------------


BAD_AXES: dict[str, tuple[Any, type[Exception], str]] = {
    "2": (2, AxisError, "2"),
    "-3": (-3, AxisError, "-3"),
    "10**30": (10**30, Exception, ""),
    "1.0": (1.0, TypeError, "float"),
    "'1'": ("1", TypeError, "str"),
    "array": (np.array([0, 1]), TypeError, ""),
}
BAD_TUPLES: dict[str, tuple[Any, type[Exception], str]] = {
    "(0, 0)": ((0, 0), ValueError, "axis"),
    "(0, -2)": ((0, -2), ValueError, "axis"),
    "(0, 2)": ((0, 2), AxisError, "2"),
    "(0, 1.0)": ((0, 1.0), TypeError, "float"),
}


def check_axis(call: Callable[[Array], Any], error: type[Exception], word: str) -> None:
    """Like ``check``; a number that no C integer holds is an error of one of three kinds."""
    if error is not Exception:
        check(call, error, word)
        return
    out = sentinel()
    with pytest.raises((AxisError, OverflowError, TypeError)):
        call(out)
    assert np.all(out == SENTINEL)


@pytest.mark.parametrize(("axis", "error", "word"), BAD_AXES.values(), ids=BAD_AXES)
def test_axis(axis: Any, error: type[Exception], word: str) -> None:
    lse = lk.logsumexp(X, 1)
    calls: list[Callable[[Array], Any]] = [
        lambda o: lk.softmax(X, axis, out=o),
        lambda o: lk.log_softmax(X, axis, out=o),
        lambda o: lk.logsumexp(X, axis),
        lambda o: lk.softmax_backward(X, X, axis, out=o),
        lambda o: lk.log_softmax_backward(X, X, axis, out=o),
        lambda o: lk.logsumexp_backward(lse, X, lse, axis, out=o),
        lambda o: lk.cross_entropy(X, LABELS, axis=axis),
        lambda o: lk.cross_entropy_value_and_grad(X, LABELS, axis=axis, grad_out=o),
        lambda o: lk.classification_error(X, LABELS, axis=axis),
    ]
    for call in calls:
        check_axis(call, error, word)


@pytest.mark.parametrize(("axis", "error", "word"), BAD_TUPLES.values(), ids=BAD_TUPLES)
def test_axis_tuple(axis: Any, error: type[Exception], word: str) -> None:
    for f in ELEMENTWISE.values():
        check(lambda o, f=f: f(X, axis, out=o), error, word)
    check(lambda o: lk.logsumexp(X, axis), error, word)
    for g in BACKWARD.values():
        check(lambda o, g=g: g(X, X, axis, out=o), error, word)
    check(lambda o: lk.logsumexp_backward(1.0, X, 1.0, axis, out=o), error, word)


@pytest.mark.parametrize("axis", [None, (1,), (0, 1)])
def test_losses_take_one_axis(axis: Any) -> None:
    check(lambda o: lk.cross_entropy(X, LABELS, axis=axis), TypeError, "axis")
    check(
        lambda o: lk.cross_entropy_value_and_grad(X, LABELS, axis=axis, grad_out=o),
        TypeError,
        "axis",
    )
    check(lambda o: lk.classification_error(X, LABELS, axis=axis), TypeError, "axis")


def test_a_number_has_no_class_axis() -> None:
    check(lambda o: lk.cross_entropy(np.float64(1), 0), AxisError)
    check(lambda o: lk.softmax(np.float64(1), 1), AxisError)
    check(lambda o: lk.logsumexp(1.0, -2), AxisError)
    check(lambda o: lk.classification_error(1.0, 0), AxisError)


KEYWORD_CALLS: dict[str, Callable[..., Any]] = {
    "softmax": lambda **k: lk.softmax(X, **k),
    "log_softmax": lambda **k: lk.log_softmax(X, **k),
    "logsumexp": lambda **k: lk.logsumexp(X, **k),
    "softmax_backward": lambda **k: lk.softmax_backward(X, X, **k),
    "log_softmax_backward": lambda **k: lk.log_softmax_backward(X, X, **k),
    "logsumexp_backward": lambda **k: lk.logsumexp_backward(1.0, X, 1.0, **k),
    "cross_entropy": lambda **k: lk.cross_entropy(X, LABELS, **k),
    "cross_entropy_value_and_grad": lambda **k: lk.cross_entropy_value_and_grad(X, LABELS, **k),
    "mse_loss": lambda **k: lk.mse_loss(X, X, **k),
    "mse_loss_value_and_grad": lambda **k: lk.mse_loss_value_and_grad(X, X, **k),
    "classification_error": lambda **k: lk.classification_error(X, LABELS, **k),
    "cross_entropy_grad_hess": lambda **k: lk.cross_entropy_grad_hess(X, LABELS, **k),
    "token_logprobs": lambda **k: lk.token_logprobs(X, LABELS, **k),
    "top_k_logprobs": lambda **k: lk.top_k_logprobs(X, 2, **k),
    "binary_cross_entropy_with_logits": (
        lambda **k: lk.binary_cross_entropy_with_logits(X, X > 1, **k)
    ),
    "binary_cross_entropy_with_logits_value_and_grad": (
        lambda **k: lk.binary_cross_entropy_with_logits_value_and_grad(X, X > 1, **k)
    ),
    "log_loss": lambda **k: lk.log_loss(X, LABELS, **k),
    "log_loss_value_and_grad": lambda **k: lk.log_loss_value_and_grad(X, LABELS, **k),
}
"""Every function of arrays with its other arguments given."""


@pytest.mark.parametrize("name", KEYWORD_CALLS)
def test_unknown_keywords(name: str) -> None:
    """Names of other libraries, and slips, are answered with the name that is meant."""
    call = KEYWORD_CALLS[name]
    names = inspect.signature(getattr(lk, name)).parameters
    for wrong, right in (
        ("dim", "axis"),
        ("keepdim", "keepdims"),
        ("size_average", "reduction"),
        ("mask", "where"),
        ("reductions", "reduction"),
        ("ignore_idx", "ignore_index"),
        ("outt", "out"),
        ("weights", "class_weight or sample_weight"),
        ("T", "temperature"),
        ("smoothing", "label_smoothing"),
    ):
        if all(name in names for name in right.split(" or ")):
            with pytest.raises(TypeError, match=rf"^{name}\(\) .*'{wrong}': use {right}$"):
                call(**{wrong: 1})
    listed = ", ".join(names)
    with pytest.raises(TypeError, match=rf"^{name}\(\) .*'zzz': it takes {listed}$"):
        call(zzz=1)


def test_advice() -> None:
    names = ("logits", "labels", "axis", "class_weight", "sample_weight", "label_smoothing")
    assert advice("weight", names) == "use class_weight or sample_weight"
    assert advice("weight", ("a", "b")) == "use b"
    assert advice("smoothing", names) == "use label_smoothing"
    assert advice("reduce", names) == f"it takes {', '.join(names)}"


def test_operands_by_the_names_of_other_libraries() -> None:
    with pytest.raises(TypeError, match="'logits' and 'labels'"):
        lk.cross_entropy(input=X, target=LABELS)
    with pytest.raises(TypeError, match="'x'"):
        lk.softmax(input=X)


@pytest.mark.parametrize("name", KEYWORD_CALLS)
def test_fronts_look_like_their_functions(name: str) -> None:
    function = getattr(lk, name)
    assert function.__name__ == function.__qualname__ == name
    assert pickle.loads(pickle.dumps(function)) is function
    assert inspect.signature(function) == inspect.signature(function.__wrapped__)
    assert "options" not in inspect.signature(function).parameters


def test_keyword_only() -> None:
    with pytest.raises(TypeError):
        lk.softmax(X, 1, sentinel())
    with pytest.raises(TypeError):
        lk.cross_entropy(X, LABELS, 1)
    with pytest.raises(TypeError):
        lk.mse_loss(X, X, "mean")


# --- outputs -------------------------------------------------------------------------------------


def bad_outputs() -> dict[str, tuple[Any, type[Exception], tuple[str, ...]]]:
    frozen = sentinel()
    frozen.flags.writeable = False
    single = sentinel((4,))
    overlapping = np.lib.stride_tricks.as_strided(single, SHAPE, (0, 8))
    window = np.lib.stride_tricks.as_strided(sentinel((6,)), SHAPE, (8, 8))
    return {
        "list": ([[0.0] * 4] * 3, TypeError, ("list",)),
        "float": (1.0, TypeError, ("float",)),
        "tuple": ((sentinel(),), TypeError, ("tuple",)),
        "float32": (sentinel(dtype=np.float32), TypeError, ("float32", "float64")),
        "float16": (sentinel(dtype=np.float16), TypeError, ("float16", "float64")),
        "int64": (sentinel(dtype=np.int64), TypeError, ("int64", "float64")),
        "complex": (sentinel(dtype=np.complex128), TypeError, ("complex128", "float64")),
        "object": (sentinel(dtype=object), TypeError, ("object", "float64")),
        "(3, 5)": (sentinel((3, 5)), ValueError, (r"\(3, 5\)", r"\(3, 4\)")),
        "(4, 3)": (sentinel((4, 3)), ValueError, (r"\(4, 3\)", r"\(3, 4\)")),
        "(12,)": (sentinel((12,)), ValueError, (r"\(12,\)", r"\(3, 4\)")),
        "(1, 3, 4)": (sentinel((1, 3, 4)), ValueError, (r"\(1, 3, 4\)", r"\(3, 4\)")),
        "()": (sentinel(()), ValueError, (r"\(\)", r"\(3, 4\)")),
        "read-only": (frozen, ValueError, ("read-only|writ",)),
        "stride 0": (overlapping, ValueError, ("overlap|stride",)),
        "sliding window": (window, ValueError, ("overlap|stride",)),
    }


@pytest.mark.parametrize("name", bad_outputs())
def test_output(name: str) -> None:
    out, error, words = bad_outputs()[name]
    lse = lk.logsumexp(X, 1)
    calls: list[Callable[[Array], Any]] = [
        lambda _: lk.softmax(X, 1, out=out),
        lambda _: lk.softmax(X, out=out),
        lambda _: lk.log_softmax(X, 0, out=out),
        lambda _: lk.softmax_backward(X, X, 1, out=out),
        lambda _: lk.log_softmax_backward(X, X, 0, out=out),
        lambda _: lk.logsumexp_backward(lse, X, lse, 1, out=out),
        lambda _: lk.cross_entropy_value_and_grad(X, LABELS, grad_out=out),
        lambda _: lk.cross_entropy_value_and_grad(X, X, grad_out=out, reduction="none"),
        lambda _: lk.mse_loss(X, X, reduction="none", out=out),
        lambda _: lk.mse_loss_value_and_grad(X, X, grad_out=out),
        lambda _: lk.logsumexp(np.stack([X, X]), 0, out=out),
        lambda _: lk.cross_entropy(
            np.ones((3, 4, 5)), np.zeros(SHAPE, int), reduction="none", out=out
        ),
    ]
    for call in calls:
        check(call, error, *words)
        if isinstance(out, np.ndarray):
            assert np.all(out == SENTINEL)


def test_output_of_a_reduction() -> None:
    for wrong in (sentinel((1,)), sentinel((3,))):
        for call in (
            lambda o: lk.cross_entropy(X, LABELS, out=o),
            lambda o: lk.mse_loss(X, X, out=o),
            lambda o: lk.logsumexp(X, out=o),
        ):
            with pytest.raises(ValueError, match=re.escape(str(wrong.shape))):
                call(wrong)
            assert np.all(wrong == SENTINEL)
    wrong = sentinel(())
    with pytest.raises(ValueError, match=r"\(3,\)"):
        lk.cross_entropy(X, LABELS, reduction="none", out=wrong)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        lk.logsumexp(X, 1, out=wrong)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        lk.logsumexp(X, 1, keepdims=True, out=sentinel((3,)))
    with pytest.raises(TypeError, match="float32"):
        lk.cross_entropy(X, LABELS, out=sentinel((), np.float32))
    assert wrong == SENTINEL


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [(4,), (3, 1), (1, 4), (1, 1), (), (4, 3), (3, 4, 1), (1, 3, 4)])
def test_mse_never_broadcasts(other: tuple[int, ...]) -> None:
    shown = re.escape(str(other))
    y = np.zeros(other)
    for reduction in ("mean", "sum", "none"):
        check(lambda o, r=reduction: lk.mse_loss(X, y, reduction=r), ValueError, shown, r"\(3, 4\)")
        check(
            lambda o, r=reduction: lk.mse_loss_value_and_grad(X, y, reduction=r, grad_out=o),
            ValueError,
            shown,
            r"\(3, 4\)",
        )
        check(lambda o, r=reduction: lk.mse_loss(y, X, reduction=r), ValueError, shown, r"\(3, 4\)")


@pytest.mark.parametrize("other", [(4,), (3, 1), (), (4, 3), (1, 3, 4), (3, 5)])
def test_backward_shapes(other: tuple[int, ...]) -> None:
    shown = re.escape(str(other))
    y = np.zeros(other)
    for f in BACKWARD.values():
        check(lambda o, f=f: f(y, X, -1, out=o), ValueError, shown, r"\(3, 4\)")
        check(lambda o, f=f: f(X, y, None), ValueError, shown, r"\(3, 4\)")


@pytest.mark.parametrize("other", [(4,), (3, 1), (), (3, 4), (1, 3)])
def test_logsumexp_backward_shapes(other: tuple[int, ...]) -> None:
    lse, y = lk.logsumexp(X, 1), np.zeros(other)
    shown = re.escape(str(other))
    check(lambda o: lk.logsumexp_backward(lse, X, y, 1, out=o), ValueError, shown, r"\(3,\)")
    check(lambda o: lk.logsumexp_backward(y, X, lse, 1, out=o), ValueError, shown, r"\(3,\)")
    flat = lse
    check(
        lambda o: lk.logsumexp_backward(flat, X, flat, 1, keepdims=True, out=o),
        ValueError,
        r"\(3,\)",
        r"\(3, 1\)",
    )


@pytest.mark.parametrize("other", [(5,), (2, 4), (3, 5), (4, 4)])
def test_factors_do_not_broadcast(other: tuple[int, ...]) -> None:
    b = np.ones(other)
    with pytest.raises(ValueError, match="shape"):
        lk.logsumexp(X, 1, b)
    with pytest.raises(ValueError, match=re.escape(str(other))):
        lk.logsumexp_backward(np.ones(3), X, np.ones(3), 1, b)


LABEL_SHAPES = [(), (1,), (2,), (4,), (3, 1), (1, 3), (4, 3), (3, 4, 1)]


@pytest.mark.parametrize("other", LABEL_SHAPES)
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_label_shapes(other: tuple[int, ...], dtype: Any) -> None:
    labels = np.zeros(other, dtype=dtype)
    shown = re.escape(str(other))
    wanted = r"\(3,\)|\(3, 4\)"
    for reduction in ("mean", "none"):
        check(
            lambda o, r=reduction: lk.cross_entropy(X, labels, reduction=r),
            ValueError,
            shown,
            wanted,
        )
        check(
            lambda o, r=reduction: lk.cross_entropy_value_and_grad(
                X, labels, reduction=r, grad_out=o
            ),
            ValueError,
            shown,
            wanted,
        )
    check(lambda o: lk.classification_error(X, labels), ValueError, shown, wanted)


@pytest.mark.parametrize("shape", [(2,), (3, 1), (4,), (3, 4), (1, 1, 1)])
def test_grad_output_shapes(shape: tuple[int, ...]) -> None:
    factor, shown = np.ones(shape), re.escape(str(shape))
    check(
        lambda o: lk.cross_entropy_value_and_grad(
            X, LABELS, reduction="none", grad_output=factor, grad_out=o
        ),
        ValueError,
        shown,
        r"\(3,\)",
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(1,), (3,), (3, 4)])
def test_grad_output_of_a_reduction_is_a_scalar(shape: tuple[int, ...], reduction: str) -> None:
    factor, shown = np.ones(shape), re.escape(str(shape))
    for f, y in ((lk.cross_entropy_value_and_grad, LABELS), (lk.mse_loss_value_and_grad, X)):
        check(
            lambda o, f=f, y=y: f(X, y, reduction=reduction, grad_output=factor, grad_out=o),
            ValueError,
            shown,
        )


def test_grad_output_of_mse_shapes() -> None:
    for shape in [(3,), (2, 4), (1, 3, 4)]:
        factor = np.ones(shape)
        check(
            lambda o, f=factor: lk.mse_loss_value_and_grad(
                X, X, reduction="none", grad_output=f, grad_out=o
            ),
            ValueError,
            re.escape(str(shape)),
            r"\(3, 4\)",
        )


# --- labels --------------------------------------------------------------------------------------

LABEL_ERRORS: dict[str, tuple[Any, type[Exception], tuple[str, ...]]] = {
    "too large": ([0, 1, 9], IndexError, (r"\b2\b", r"\b9\b")),
    "equal to the number of classes": ([0, 4, 1], IndexError, (r"\b1\b", r"\b4\b")),
    "negative": ([-1, 0, 0], IndexError, (r"\b0\b", "-1")),
    "the first of several": ([0, 11, 12], IndexError, (r"\b1\b", r"\b11\b")),
    "int8": (np.array([0, 0, -7], np.int8), IndexError, (r"\b2\b", "-7")),
    "uint8": (np.array([0, 0, 156], np.uint8), IndexError, (r"\b2\b", r"\b156\b")),
    "smallest int64": (np.array([0, -(2**63), 0]), IndexError, (str(-(2**63)),)),
    "largest uint64": (np.array([0, 2**64 - 1, 0], np.uint64), IndexError, (str(2**64 - 1),)),
    "uint64 that wraps to -100": (np.array([0, 2**64 - 100, 0], np.uint64), IndexError, ()),
    "big-endian": (np.array([0, 9, 0], ">i4"), IndexError, (r"\b1\b", r"\b9\b")),
    "float out of range": ([0.0, 9.0, 1.0], IndexError, (r"\b1\b", r"\b9\b")),
    "float negative": ([0.0, -1.0, 1.0], IndexError, (r"\b1\b", "-1")),
    "large float": ([0.0, 1e300, 1.0], IndexError, (r"\b1\b",)),
    "nan": ([0.0, np.nan, 1.0], ValueError, (r"\b1\b", "[Nn]a[Nn]")),
    "inf": ([0.0, 1.0, np.inf], ValueError, (r"\b2\b", "inf")),
    "half": ([0.0, 1.5, 1.0], ValueError, (r"\b1\b", r"1\.5")),
    "float32 fraction": (np.array([0, 0, 0.25], np.float32), ValueError, (r"0\.25",)),
    "bool": ([True, False, True], TypeError, ("bool",)),
    "str": (["0", "1", "2"], TypeError, ("U|str",)),
    "object": (np.array([0, 1, 2], dtype=object), TypeError, ("object",)),
    "None": (None, TypeError, ("object|None",)),
    "complex": ([0, 1, 2j], TypeError, ("complex",)),
    "datetime": (np.zeros(3, "datetime64[s]"), TypeError, ("datetime",)),
    "masked": (np.ma.masked_array([0, 1, 2], [0, 0, 1]), TypeError, ("[Mm]ask",)),
}


@pytest.mark.parametrize("name", LABEL_ERRORS)
def test_labels(name: str) -> None:
    labels, error, words = LABEL_ERRORS[name]
    for reduction in ("mean", "sum", "none"):
        check(
            lambda o, r=reduction: lk.cross_entropy_value_and_grad(
                X, labels, reduction=r, grad_out=o
            ),
            error,
            *words,
        )
        for ignore in (None, -5):
            check(
                lambda o, r=reduction, i=ignore: lk.cross_entropy(
                    X, labels, reduction=r, ignore_index=i
                ),
                error,
                *words,
            )
    check(lambda o: lk.classification_error(X, labels), error, *words)
    check(
        lambda o: lk.cross_entropy_value_and_grad(X.T, labels, axis=0, grad_out=o.reshape(4, 3)),
        error,
        *words,
    )
    out = sentinel((3,))
    with pytest.raises(error):
        lk.cross_entropy(X, labels, reduction="none", out=out)
    assert np.all(out == SENTINEL)
    x = X.copy()
    with pytest.raises(error):
        lk.cross_entropy_value_and_grad(x, labels, grad_out=x)
    assert np.array_equal(x, X)


def test_the_position_is_that_in_the_batch() -> None:
    labels = np.zeros((2, 3, 5), dtype=np.int32)
    labels[1, 2, 4] = 99
    x = np.zeros((2, 3, 8, 5))
    with pytest.raises(IndexError, match=r"1, 2, 4") as caught:
        lk.cross_entropy(x, labels, axis=2)
    assert re.search(r"\b99\b", str(caught.value))
    labels[0, 1, 3] = -3
    with pytest.raises(IndexError, match=r"0, 1, 3") as caught:
        lk.cross_entropy(x, labels[:, :, ::-1][:, :, ::-1], axis=2)
    assert "-3" in str(caught.value)
    assert "99" not in str(caught.value)
    with pytest.raises(IndexError, match=r"0, 1, 1"):
        lk.cross_entropy(x, labels[:, :, ::-1], axis=2)


def test_ignored_labels_are_errors_without_ignore_index() -> None:
    assert np.isfinite(lk.cross_entropy(X, [0, -100, 1]))
    check(
        lambda o: lk.cross_entropy_value_and_grad(X, [0, -100, 1], ignore_index=None, grad_out=o),
        IndexError,
        r"\b1\b",
        "-100",
    )


@pytest.mark.parametrize("shape_axis", [((40000, 10), -1), ((400, 1000), -1), ((10, 30000), 0)])
@pytest.mark.parametrize("bad", [-1, 99999])
def test_a_bad_last_label_of_a_large_batch(
    shape_axis: tuple[tuple[int, int], int], bad: int
) -> None:
    """Labels are checked before anything is written, also when threads share the work."""
    shape, axis = shape_axis
    x = np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    n = x.size // shape[axis]
    labels = np.zeros(n, dtype=np.int64)
    labels[-1] = bad
    before = x.copy()
    grad_out = np.full_like(x, SENTINEL)
    out = np.full(n, SENTINEL, dtype=np.float32)
    for call in (
        lambda: lk.cross_entropy_value_and_grad(x, labels, axis=axis, grad_out=grad_out),
        lambda: lk.cross_entropy_value_and_grad(x, labels, axis=axis, grad_out=x),
        lambda: lk.cross_entropy(x, labels, axis=axis, reduction="none", out=out),
        lambda: lk.classification_error(x, labels, axis=axis),
    ):
        with pytest.raises(IndexError, match=rf"\b{n - 1}\b"):
            call()
    assert np.array_equal(x, before)
    assert np.all(grad_out == SENTINEL)
    assert np.all(out == SENTINEL)


def test_no_classes_and_labels() -> None:
    check(lambda o: lk.cross_entropy(np.zeros((3, 0)), [0, 0, 0]), IndexError, r"\b0\b")
    check(lambda o: lk.classification_error(np.zeros((3, 0)), [0, 0, 0]), IndexError, r"\b0\b")


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["avg", "", "MEAN", "batchmean", None, 1, b"mean"])
def test_reduction(reduction: Any) -> None:
    words = ("mean", "sum", "none", re.escape(repr(reduction)))
    calls: list[Callable[[Array], Any]] = [
        lambda o: lk.cross_entropy(X, LABELS, reduction=reduction),
        lambda o: lk.cross_entropy_value_and_grad(X, LABELS, reduction=reduction, grad_out=o),
        lambda o: lk.mse_loss(X, X, reduction=reduction),
        lambda o: lk.mse_loss_value_and_grad(X, X, reduction=reduction, grad_out=o),
        lambda o: lk.classification_error(X, LABELS, reduction=reduction),
    ]
    for call in calls:
        check(call, ValueError, *words)


@pytest.mark.parametrize("index", [1.5, "0", [0], np.array([0, 1])])
def test_ignore_index(index: Any) -> None:
    check(lambda o: lk.cross_entropy(X, LABELS, ignore_index=index), TypeError)
    check(
        lambda o: lk.cross_entropy_value_and_grad(X, LABELS, ignore_index=index, grad_out=o),
        TypeError,
    )
    check(lambda o: lk.classification_error(X, LABELS, ignore_index=index), TypeError)


def test_missing_arguments() -> None:
    for f in (lk.softmax, lk.log_softmax, lk.logsumexp, lk.softmax_backward, lk.cross_entropy):
        with pytest.raises(TypeError):
            f()
    with pytest.raises(TypeError):
        lk.cross_entropy(X)
