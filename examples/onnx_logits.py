"""Probabilities, loss and log-probabilities from the logits of an ONNX model.

    python examples/onnx_logits.py

Exported classifiers often end at their logits. What ONNX Runtime returns is a NumPy array, which
`softmax`, `cross_entropy` and `token_logprobs` read where it lies, in the dtype that it has.

The model is scikit-learn's logistic regression of the digits, a quarter of them held out, written
down as a MatMul and an Add, in float32 and in float64. The exit status is 1 when the probabilities,
the loss, the log-probability of a label or a prediction differ from what scikit-learn finds in
float64 by more than the rounding of the logits explains. Needs onnx and onnxruntime.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import logitkit as lk
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]

DTYPES = (np.float32, np.float64)

TOLERANCE = 16
"""Of the logits: units of rounding of the dtype, relative to the largest one."""


class Results(NamedTuple):
    """Probabilities, mean loss, log-probability of each label, and whether it was predicted."""

    probabilities: Floats
    loss: float
    logprob: Floats
    is_argmax: NDArray[np.bool_]


def export(model: LogisticRegression, dtype: type[np.floating]) -> bytes:
    """Return a linear classifier as an ONNX model from ``x`` to ``logits``."""
    weight = numpy_helper.from_array(np.ascontiguousarray(model.coef_.T, dtype), "weight")
    bias = numpy_helper.from_array(model.intercept_.astype(dtype), "bias")
    features, classes = weight.dims
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits"]),
        ],
        "linear_classifier",
        [helper.make_tensor_value_info("x", weight.data_type, ["rows", features])],
        [helper.make_tensor_value_info("logits", weight.data_type, ["rows", classes])],
        [weight, bias],
    )
    # Old versions, which every ONNX Runtime of today reads.
    opset = helper.make_opsetid("", 13)
    exported = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(exported)
    serialised: bytes = exported.SerializeToString()
    return serialised


def run(model: bytes, x: Floats) -> Floats:
    """Return the logits that ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits: Floats = session.run(["logits"], {"x": x})[0]
    return logits


def evaluate(logits: Floats, labels: Labels) -> Results:
    """Evaluate logits as they come."""
    return Results(
        lk.softmax(logits, axis=1),
        float(lk.cross_entropy(logits, labels)),
        *lk.token_logprobs(logits, labels),
    )


def evaluate_sklearn(model: LogisticRegression, x: Floats, labels: Labels) -> Results:
    """Find the same with scikit-learn, in float64."""
    probabilities = model.predict_proba(x)
    return Results(
        probabilities,
        float(log_loss(labels, probabilities)),
        model.predict_log_proba(x)[np.arange(len(labels)), labels],
        model.predict(x) == labels,
    )


def failures(ours: Results, theirs: Results, tolerance: float) -> list[str]:
    """Tell what differs by more than the tolerance, a bound of the errors of the logits.

    Logits that are off by d at most change a log-probability, or a mean of them, by 2d at most
    and a probability by d / 2.
    """
    found = []
    if not np.abs(ours.probabilities - theirs.probabilities).max() <= tolerance / 2:
        found.append("the probabilities differ")
    if not abs(ours.loss - theirs.loss) <= 2 * tolerance:
        found.append("the loss differs")
    if not np.abs(ours.logprob - theirs.logprob).max() <= 2 * tolerance:
        found.append("a log-probability differs")
    if not np.array_equal(ours.is_argmax, theirs.is_argmax):
        found.append("a prediction differs")
    return found


def main() -> int:
    """Export, run, compare; 0 when everything is as scikit-learn has it, else 1."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images / 16, labels, test_size=0.25, stratify=labels, random_state=0
    )
    model = LogisticRegression(max_iter=1000).fit(x_train, y_train)
    theirs = evaluate_sklearn(model, x_test, y_test)

    print(f"{len(y_test)} held-out digits{'log-loss':>16}{'accuracy':>10}{'logprob off by':>16}")
    print(f"  {'scikit-learn, float64':<26}{theirs.loss:12.9f}{theirs.is_argmax.mean():10.2%}")
    status = 0
    for dtype in DTYPES:
        logits = run(export(model, dtype), x_test.astype(dtype))
        ours = evaluate(logits, y_test)
        off = np.abs(ours.logprob - theirs.logprob).max()
        name = f"ONNX Runtime, {logits.dtype}"
        print(f"  {name:<26}{ours.loss:12.9f}{ours.is_argmax.mean():10.2%}{off:16.1e}")
        tolerance = TOLERANCE * float(np.finfo(dtype).eps * np.abs(logits).max())
        for failure in failures(ours, theirs, tolerance):
            print(f"FAILED: {name}: {failure}", file=sys.stderr)
            status = 1
        if not logits.dtype == ours.probabilities.dtype == ours.logprob.dtype == dtype:
            print(f"FAILED: {name}: a result has another dtype", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
