"""The example's estimator is one of scikit-learn's, and finds what LogisticRegression finds."""

from __future__ import annotations

import doctest
import importlib.util
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")
pytest.importorskip("scipy")

from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import threadpool_limits

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "softmax_regression.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_softmax_regression", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """On a busy machine the threads of BLAS wait for each other, longer than they compute."""
    with threadpool_limits(1):
        yield


def assert_same(ours: Any, theirs: LogisticRegression, tolerance: float) -> None:
    """Check that two fitted estimators have the same classes, shapes and coefficients."""
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    for a, b in ((ours.coef_, theirs.coef_), (ours.intercept_, theirs.intercept_)):
        assert a.shape == b.shape
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("parameters", [{}, {"fit_intercept": False, "C": 0.1}])
def test_check_estimator(example: ModuleType, parameters: dict[str, Any]) -> None:
    results = check_estimator(example.SoftmaxRegression(**parameters), on_skip=None)
    status = Counter(result["status"] for result in results)
    assert set(status) <= {"passed", "skipped"}
    assert status["passed"] >= 45
    assert status["skipped"] <= 3  # two need pandas, one the array API


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
def test_coefficients_are_those_of_logistic_regression(
    example: ModuleType, name: str, fit_intercept: bool, weighted: bool
) -> None:
    data = example.load(name)
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4, len(data.y_train)) if weighted else None
    options = example.TIGHT | {"fit_intercept": fit_intercept}
    ours = example.SoftmaxRegression(**options).fit(data.x_train, data.y_train, weight)
    theirs = LogisticRegression(**options).fit(data.x_train, data.y_train, weight)
    assert_same(ours, theirs, example.TOLERANCE)
    assert np.abs(theirs.coef_).max() > 1
    assert ours.intercept_.any() == fit_intercept
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        np.testing.assert_allclose(
            getattr(ours, method)(data.x_test), getattr(theirs, method)(data.x_test), atol=1e-3
        )
    np.testing.assert_array_equal(ours.predict(data.x_test), theirs.predict(data.x_test))


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_two_classes(example: ModuleType, strength: float) -> None:
    """One row of coefficients, with the penalty that LogisticRegression has for it."""
    x, y = load_breast_cancer(return_X_y=True)
    x, names = StandardScaler().fit_transform(x), np.array(["malignant", "benign"])[y]
    options = example.TIGHT | {"C": strength}
    ours = example.SoftmaxRegression(**options).fit(x, names)
    theirs = LogisticRegression(**options).fit(x, names)
    assert ours.coef_.shape == (1, 30)
    assert ours.intercept_.shape == (1,)
    assert_same(ours, theirs, example.TOLERANCE * max(1, strength))
    assert ours.decision_function(x).shape == (569,)
    assert ours.predict_proba(x).shape == (569, 2)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))


def test_weights_count_rows(example: ModuleType) -> None:
    data = example.load("wine")
    times = np.random.default_rng(0).integers(0, 3, len(data.y_train))
    model = example.SoftmaxRegression(**example.TIGHT)
    coef = model.fit(data.x_train, data.y_train, sample_weight=times).coef_
    repeated = np.repeat(data.x_train, times, axis=0), np.repeat(data.y_train, times)
    np.testing.assert_allclose(coef, model.fit(*repeated).coef_, rtol=0, atol=1e-6)
    assert np.abs(coef - model.fit(data.x_train, data.y_train).coef_).max() > 0.01


def test_log_probabilities_do_not_underflow(example: ModuleType) -> None:
    data = example.load("iris")
    model = example.SoftmaxRegression(max_iter=1000).fit(data.x_train, data.y_train)
    far = 1e4 * data.x_test
    assert (model.predict_proba(far) == 0).any()
    assert np.isfinite(model.predict_log_proba(far)).all()


def test_it_goes_into_a_search(example: ModuleType) -> None:
    data = example.load("wine")
    pipeline = make_pipeline(StandardScaler(), example.SoftmaxRegression())
    search = GridSearchCV(pipeline, {"softmaxregression__C": [1e-3, 1.0]}, scoring="neg_log_loss")
    search.fit(data.x_train, data.y_train)
    assert search.best_params_ == {"softmaxregression__C": 1.0}
    assert search.best_estimator_.score(data.x_test, data.y_test) > 0.95


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"C": 0.0}, "C must be positive, got 0.0"),
        ({"C": np.nan}, "C must be positive, got nan"),
        ({"tol": -1.0}, "tol must not be negative, got -1.0"),
        ({"max_iter": 0}, "max_iter must be at least 1, got 0"),
    ],
)
def test_bad_parameters(example: ModuleType, parameters: dict[str, float], message: str) -> None:
    model = example.SoftmaxRegression(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(np.eye(3), [0, 1, 2])
    with pytest.raises(NotFittedError):
        model.predict(np.eye(3))


@pytest.mark.parametrize(
    ("y", "weight", "message"),
    [
        (["a", "a", "a"], None, "y has one class only"),
        ([0, 1], None, "inconsistent numbers of samples"),
        ([0.5, 1.5, 2.25], None, "Unknown label type"),
        ([0, 1, 2], [1.0, 1.0], "inconsistent numbers of samples"),
        ([0, 1, 2], [[1.0], [1.0], [1.0]], "sample_weight must have one dimension, got 2"),
        ([0, 1, 2], [1.0, -1.0, 1.0], "sample_weight must not be negative"),
        ([0, 1, 2], [0.0, 0.0, 0.0], "sample_weight must not be all zero"),
        ([0, 1, 2], [1.0, np.nan, 1.0], "sample_weight contains NaN"),
    ],
)
def test_bad_data(example: ModuleType, y: list[Any], weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example.SoftmaxRegression().fit(np.eye(3), y, sample_weight=weight)


def test_too_few_iterations_warn(example: ModuleType) -> None:
    data = example.load("digits")
    model = example.SoftmaxRegression(max_iter=3)
    with pytest.warns(ConvergenceWarning, match="L-BFGS stopped after 3 iterations"):
        model.fit(data.x_train, data.y_train)
    assert model.n_iter_ == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.set_params(max_iter=1000).fit(data.x_train, data.y_train).n_iter_ > 3


def test_the_docstring(example: ModuleType) -> None:
    result = doctest.testmod(example)
    assert result.attempted >= 4
    assert result.failed == 0


def test_command(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["--quick"]) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["iris", "wine", "digits"]
    for _, accuracy, _, loss, off, *times in rows:
        assert float(accuracy) > 95
        assert 0 < float(loss) < 0.2
        assert float(off) <= example.TOLERANCE
        assert len(times) == 2
    assert printed.err == ""


def test_command_fails_when_the_loss_is_another_one(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = example.lk.cross_entropy_value_and_grad

    def slightly_smoothed(*args: Any, **options: Any) -> Any:
        return right(*args, label_smoothing=1e-3, **options)

    monkeypatch.setattr(example.lk, "cross_entropy_value_and_grad", slightly_smoothed)
    assert example.main(["--quick"]) == 1
    assert capsys.readouterr().err.count("FAILED") == 3
