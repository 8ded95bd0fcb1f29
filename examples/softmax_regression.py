"""A scikit-learn classifier on top of logitkit: multinomial logistic regression, by L-BFGS.

    python examples/softmax_regression.py            # fits iris, wine and digits, prints a table
    python examples/softmax_regression.py --quick    # the same with fewer timings

`SoftmaxRegression` minimises what scikit-learn's `LogisticRegression` minimises, with the loss and
its gradient from one call of ``cross_entropy_value_and_grad``. It is an ordinary estimator: it
passes ``sklearn.utils.estimator_checks.check_estimator``, and goes into pipelines, searches and
cross-validation.

Here both are fitted to three real data sets of which a quarter is held out. The exit status is 1
when a coefficient of one differs from that of the other by more than `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import logitkit as lk
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[Any]
Floats = NDArray[np.floating]

C = 1.0
TIGHT: dict[str, Any] = {"C": C, "tol": 1e-9, "max_iter": 10_000}
"""The options of both estimators: so many iterations that the minimum is reached."""

TOLERANCE = 1e-4
"""Largest difference of two coefficients; the largest ones are from 1 to 11.

The penalty makes the objective strongly convex in the coefficients, with the modulus 1/(C n) for n
rows: where its gradient is g and the intercepts are at their best, the coefficients lie within
C n ||g|| of the only minimum. L-BFGS stops at a gradient below 1e-9 or, sooner, when an iteration
lowers the loss by less than 64 units of rounding; that leaves gradients of up to 1e-7, hence
1e-4 for the 1347 rows of digits. The differences found are 3e-5 and less.
"""


# --- the estimator --------------------------------------------------------------------------------


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    r"""Multinomial logistic regression with an L2 penalty, trained by L-BFGS.

    It minimises, over the coefficients W and the intercepts b,

    .. math:: \frac{1}{\sum_i s_i} \Bigl( \sum_i s_i \, \ell(W x_i + b, y_i)
        + \frac{1}{2 C} \lVert W \rVert^2 \Bigr)

    where :math:`\ell` is the cross-entropy of logits and s are the sample weights ([1]_, section
    4.3.4). Of two classes, the first has the logit 0, and W is a single row.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty; ``inf`` for none. The intercepts are not penalised.
    fit_intercept : bool, default True
        Whether there are intercepts; they are 0 otherwise.
    tol : float, default 1e-4
        Training ends where no entry of the gradient is larger.
    max_iter : int, default 100
        Largest number of iterations of L-BFGS. A `ConvergenceWarning` tells that it was reached.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        W, in float64.
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
        b, in float64.
    n_iter_ : int
        Number of iterations of L-BFGS.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if `fit` was given a data frame with names that are strings.

    References
    ----------
    .. [1] C. M. Bishop, *Pattern Recognition and Machine Learning*, Springer 2006.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> flowers, species = load_iris(return_X_y=True)
    >>> model = SoftmaxRegression(max_iter=1000).fit(flowers, species)
    >>> print(model.predict(flowers[:3]), round(model.score(flowers, species), 3))
    [0 0 0] 0.973
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        tol: float = 1e-4,
        max_iter: int = 100,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> SoftmaxRegression:
        """Train on the rows of `X` and their labels `y`; return the estimator.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Finite numbers; computed in float64.
        y : array_like of shape (n_samples,)
            Labels: numbers or strings, of at least two classes.
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the rows, not negative and not all 0.

        Raises
        ------
        ValueError
            If the shapes do not fit, if a number is not finite, if there is one class only, if a
            weight is negative or all are 0, or if a parameter is out of range.
        """
        self._check_parameters()
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {self.classes_[0]!r}; at least 2 are needed")
        weight = None if sample_weight is None else checked_weight(sample_weight, x)
        decay = 1 / (self.C * (len(x) if weight is None else weight.sum()))
        rows = len(self.classes_) if len(self.classes_) > 2 else 1
        features = x.shape[1]

        def objective(flat: Floats) -> tuple[float, Floats]:
            parameters = flat.reshape(rows, -1)
            coef = parameters[:, :features]
            intercept = parameters[:, -1] if self.fit_intercept else 0.0
            logits = two_columns(x @ coef.T + intercept)
            loss, dlogits = lk.cross_entropy_value_and_grad(
                logits, labels, sample_weight=weight, grad_out=logits
            )
            dlogits = dlogits[:, -rows:]
            grad = np.empty_like(parameters)
            grad[:, :features] = dlogits.T @ x + decay * coef
            if self.fit_intercept:
                grad[:, -1] = dlogits.sum(axis=0)
            return float(loss) + decay / 2 * float(np.vdot(coef, coef)), grad.ravel()

        # From zero the intercepts of all classes keep the sum 0, which the loss leaves open.
        result = minimize(
            objective,
            np.zeros(rows * (features + bool(self.fit_intercept))),
            method="L-BFGS-B",
            jac=True,
            options={
                "maxiter": self.max_iter,
                "maxls": 50,
                "gtol": self.tol,
                "ftol": 64 * np.finfo(np.float64).eps,
            },
        )
        if not result.success:
            warnings.warn(
                f"L-BFGS stopped after {result.nit} iterations: {result.message}",
                ConvergenceWarning,
                stacklevel=2,
            )
        parameters = result.x.reshape(rows, -1)
        self.coef_ = parameters[:, :features].copy()
        self.intercept_ = parameters[:, -1].copy() if self.fit_intercept else np.zeros(rows)
        self.n_iter_ = int(result.nit)
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return the logits, (n_samples, n_classes); of two classes the second one's, (n_samples,).

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`; so do the other predictions.
        ValueError
            If `X` has another number of features than `fit` saw, or is not finite.
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        scores: Floats = x @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: ArrayLike) -> Array:
        """Return the most probable label of every row."""
        best = self._logits(X).argmax(axis=1)
        labels: Array = self.classes_[best]
        return labels

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return the probability of every class, (n_samples, n_classes), as in `classes_`."""
        return lk.softmax(self._logits(X), axis=1)

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Return logarithms of probabilities, finite where the probability itself is 0."""
        return lk.log_softmax(self._logits(X), axis=1)

    def _logits(self, X: ArrayLike) -> Floats:
        scores = self.decision_function(X)
        return two_columns(scores[:, None] if scores.ndim == 1 else scores)

    def _check_parameters(self) -> None:
        if not self.C > 0:
            raise ValueError(f"C must be positive, got {self.C!r}")
        if not self.tol >= 0:
            raise ValueError(f"tol must not be negative, got {self.tol!r}")
        if not self.max_iter >= 1:
            raise ValueError(f"max_iter must be at least 1, got {self.max_iter!r}")


def two_columns(logits: Floats) -> Floats:
    """Put the logit 0 of the first of two classes before that of the second."""
    return np.pad(logits, ((0, 0), (1, 0))) if logits.shape[1] == 1 else logits


def checked_weight(sample_weight: ArrayLike, x: Floats) -> Floats:
    """Return one weight for every row of `x`."""
    weight: Floats = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must have one dimension, got {weight.ndim}")
    check_consistent_length(weight, x)
    if weight.min() < 0:
        raise ValueError("sample_weight must not be negative")
    if not weight.any():
        raise ValueError("sample_weight must not be all zero")
    return weight


# --- the comparison -------------------------------------------------------------------------------


class Data(NamedTuple):
    """Features and labels 0, 1, ..., a quarter of them held out."""

    x_train: Floats
    y_train: Array
    x_test: Floats
    y_test: Array


def load(name: str) -> Data:
    """Load iris as it is, wine standardised, or digits with pixels from 0 to 1."""
    loader = {"iris": load_iris, "wine": load_wine, "digits": load_digits}[name]
    x, y = loader(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.25, stratify=y, random_state=0
    )
    if name == "wine":
        scaler = StandardScaler().fit(x_train)
        x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
    elif name == "digits":
        x_train, x_test = x_train / 16, x_test / 16
    return Data(x_train, y_train, x_test, y_test)


def difference(ours: SoftmaxRegression, theirs: LogisticRegression) -> float:
    """Return the largest difference of two coefficients or intercepts."""
    return float(
        max(
            np.abs(ours.coef_ - theirs.coef_).max(),
            np.abs(ours.intercept_ - theirs.intercept_).max(),
        )
    )


def fit_times(models: Sequence[Any], data: Data, repeats: int) -> list[float]:
    """Fit every model `repeats` times, in turn; return the median milliseconds of each.

    All on one thread: the products of such small matrices gain nothing from more, and on a busy
    machine the threads of BLAS wait for each other.
    """
    times = np.empty((repeats, len(models)))
    with threadpool_limits(1), lk.threads(1):
        for row in times:
            for i, model in enumerate(models):
                begin = time.perf_counter()
                model.fit(data.x_train, data.y_train)
                row[i] = (time.perf_counter() - begin) * 1e3
    medians: list[float] = np.median(times, axis=0).tolist()
    return medians


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, compare, measure; 0 when the coefficients of both estimators are the same, else 1."""
    parser = argparse.ArgumentParser(description="Softmax regression as a scikit-learn estimator.")
    parser.add_argument("--quick", action="store_true", help="time 3 fits of each, not 15")
    options = parser.parse_args(argv)

    failures = []
    print(f"{'':<8}{'held-out':>16}{'held-out':>15}{'coefficients':>14}{'fit, ms':>20}")
    print(
        f"{'':<8}{'accuracy':>16}{'cross-entropy':>15}{'differ by':>14}"
        f"{'logitkit':>10}{'sklearn':>10}"
    )
    for name in ("iris", "wine", "digits"):
        data = load(name)
        ours, theirs = SoftmaxRegression(**TIGHT), LogisticRegression(**TIGHT)
        our_time, their_time = fit_times([ours, theirs], data, repeats=3 if options.quick else 15)
        accuracy = 100 * ours.score(data.x_test, data.y_test)
        loss = float(lk.log_loss(ours.predict_proba(data.x_test), data.y_test))
        off = difference(ours, theirs)
        print(
            f"{name:<8}{accuracy:14.2f} %{loss:15.4f}{off:14.1e}{our_time:10.1f}{their_time:10.1f}"
        )
        if not off <= TOLERANCE:
            failures.append(f"{name}: the coefficients differ by more than {TOLERANCE:.0e}")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
