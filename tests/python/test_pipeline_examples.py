"""The examples beside scikit-learn and ONNX Runtime run, are right, and notice when they are not.

An example is tested where the libraries that it needs are installed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str, *libraries: str) -> ModuleType:
    """Import an example, which is a script and in no package, or skip the test."""
    for library in libraries:
        pytest.importorskip(library)
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- temperature scaling --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    return example("temperature_scaling", "sklearn", "scipy", "matplotlib")


def test_temperature_scaling(
    scaling: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.image import imread

    picture = tmp_path / "new folder" / "reliability.png"
    assert scaling.main(["--out", str(picture)]) == 0
    printed = capsys.readouterr()
    assert "1197 held-out digits" in printed.out
    assert printed.err == ""
    pixels = imread(picture)
    assert min(pixels.shape[:2]) >= 500
    assert pixels[..., :3].std() > 0.05


def test_temperature_is_at_the_minimum(scaling: ModuleType) -> None:
    """Of logits that are those of the labels' distribution times 3, it is 3."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(20_000, 4))
    gumbel = rng.gumbel(size=logits.shape)
    part = scaling.Scored(3 * logits, (logits + gumbel).argmax(axis=1))
    temperature = scaling.fit_temperature(part)
    assert temperature == pytest.approx(3, rel=0.05)
    for t in (0.5, temperature, 10.0):
        h = 1e-5
        above, below = (scaling.loss_scipy(part, t * np.exp(d)) for d in (h, -h))
        assert scaling.slope(part, t) == pytest.approx((above - below) / (2 * h), abs=1e-8)
    assert abs(scaling.slope(part, temperature)) < scaling.SLOPE_TOLERANCE
    error = [
        scaling.expected_calibration_error(scaling.reliability(part, t)) for t in (1, temperature)
    ]
    assert error[1] < 0.02 < 0.1 < error[0]


def test_calibration_error_by_hand(scaling: ModuleType) -> None:
    """Three bins; a confidence at an edge belongs to the bin below."""
    confidence = np.array([0.5, 0.6, 0.9, 0.8])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    part = scaling.Scored(logits, np.array([0, 1, 0, 1]))
    bins = scaling.reliability(part, 1.0, bins=3)
    np.testing.assert_array_equal(bins.size, [0, 2, 2])
    np.testing.assert_allclose(bins.confidence, [np.nan, 0.55, 0.85], rtol=1e-15)
    np.testing.assert_array_equal(bins.accuracy, [np.nan, 0.5, 0.5])
    assert scaling.expected_calibration_error(bins) == pytest.approx(0.5 * 0.05 + 0.5 * 0.35)
    bins = scaling.reliability(part, 1.0, bins=2)
    np.testing.assert_array_equal(bins.size, [1, 3])


def test_temperature_scaling_fails_when_nothing_is_fitted(
    scaling: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scaling, "fit_temperature", lambda part: 1.0)
    assert scaling.main(["--no-plot"]) == 1
    printed = capsys.readouterr().err
    assert "FAILED: the validation loss still falls" in printed
    assert "FAILED: the held-out digits are not calibrated better" in printed
    assert not list(tmp_path.iterdir())


# --- Gaussian mixture -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture() -> ModuleType:
    return example("mixture", "sklearn", "scipy")


def test_mixture(mixture: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert mixture.main([]) == 0
    printed = capsys.readouterr()
    assert "150 flowers, 3 components" in printed.out
    assert printed.err == ""


def test_mixture_e_step(mixture: ModuleType) -> None:
    """As scikit-learn's, also far away, where exponentials of the log-densities are all 0."""
    x = mixture.load_iris().data
    model = mixture.fit_sklearn(x, mixture.start(x), 10)
    ours = mixture.Mixture(model.weights_, model.means_, model.covariances_)
    rows = np.concatenate([x, x[:1] + 1000])
    log_prob = mixture.weighted_log_prob(rows, ours)
    assert (np.exp(log_prob[-1]) == 0).all()
    log_resp, log_likelihood = mixture.e_step(rows, ours)
    lse, expected = model._estimate_log_prob_resp(rows)
    assert log_resp.shape == expected.shape == (151, 3)
    np.testing.assert_allclose(log_resp, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_likelihood, lse, rtol=1e-12)
    np.testing.assert_allclose(log_likelihood, model.score_samples(rows), rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_resp), model.predict_proba(rows), rtol=0, atol=1e-13)
    np.testing.assert_allclose(np.exp(log_resp).sum(axis=1), 1, rtol=1e-15)


@pytest.mark.parametrize("iterations", [1, 2, 5, 20])
def test_mixture_iterations(mixture: ModuleType, iterations: int) -> None:
    x = mixture.load_iris().data
    start = mixture.start(x)
    ours, history = mixture.fit(x, start, iterations)
    model = mixture.fit_sklearn(x, start, iterations)
    assert len(history) == model.n_iter_ == iterations
    assert history[-1] == pytest.approx(model.lower_bound_, rel=1e-12)
    np.testing.assert_allclose(ours.means, model.means_, rtol=1e-11)
    np.testing.assert_allclose(ours.covariances, model.covariances_, rtol=0, atol=1e-11)
    assert (np.diff(history) > 0).all()


def test_mixture_fails_when_the_e_step_is_off(
    mixture: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = mixture.e_step

    def slightly_wrong(x: np.ndarray, model: object) -> tuple[np.ndarray, np.ndarray]:
        log_resp, log_likelihood = right(x, model)
        return log_resp, log_likelihood * (1 + 1e-10)

    monkeypatch.setattr(mixture, "e_step", slightly_wrong)
    assert mixture.main(["--iterations", "2"]) == 1
    assert "FAILED: log-likelihood of each flower" in capsys.readouterr().err


# --- ONNX Runtime ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx_logits() -> ModuleType:
    return example("onnx_logits", "sklearn", "onnx", "onnxruntime")


def test_onnx_logits(onnx_logits: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert onnx_logits.main() == 0
    printed = capsys.readouterr()
    lines = [line.split()[-4:] for line in printed.out.splitlines()]
    assert [line[0] for line in lines[2:]] == ["float32", "float64"]
    for line, limit in zip(lines[2:], (1e-5, 1e-13), strict=True):
        assert float(line[-1]) < limit
    assert printed.err == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_onnx_logits_are_those_of_the_model(onnx_logits: ModuleType, dtype: type) -> None:
    images, labels = onnx_logits.load_digits(return_X_y=True)
    x, labels = images[:600] / 16, labels[:600]
    model = onnx_logits.LogisticRegression(max_iter=1000).fit(x, labels)
    logits = onnx_logits.run(onnx_logits.export(model, dtype), x.astype(dtype))
    assert type(logits) is np.ndarray
    assert logits.dtype == dtype
    rounding = float(np.finfo(dtype).eps * np.abs(logits).max())
    np.testing.assert_allclose(logits, model.decision_function(x), rtol=0, atol=16 * rounding)
    ours = onnx_logits.evaluate(logits, labels)
    theirs = onnx_logits.evaluate_sklearn(model, x, labels)
    assert ours.probabilities.dtype == ours.logprob.dtype == dtype
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, rtol=0, atol=8 * rounding)
    assert ours.loss == pytest.approx(theirs.loss, abs=32 * rounding)
    assert ours.loss == pytest.approx(-ours.logprob.astype(np.float64).mean(), rel=1e-6)
    assert theirs.is_argmax.mean() == model.score(x, labels)


def test_onnx_differences_are_noticed(onnx_logits: ModuleType) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 5)), rng.integers(5, size=20)
    right = onnx_logits.evaluate(logits, labels)
    assert onnx_logits.failures(right, right, 1e-12) == []
    for wrong, message in (
        (right._replace(probabilities=right.probabilities + 1e-10), "the probabilities differ"),
        (right._replace(loss=right.loss + 1e-10), "the loss differs"),
        (right._replace(logprob=right.logprob - 1e-10), "a log-probability differs"),
        (right._replace(logprob=right.logprob * np.nan), "a log-probability differs"),
        (right._replace(is_argmax=~right.is_argmax), "a prediction differs"),
    ):
        assert onnx_logits.failures(wrong, right, 1e-12) == [message]


def test_onnx_logits_fails_when_the_model_is_another(
    onnx_logits: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = onnx_logits.run
    monkeypatch.setattr(onnx_logits, "run", lambda model, x: right(model, x)[:, ::-1])
    assert onnx_logits.main() == 1
    assert "FAILED: ONNX Runtime, float32: the loss differs" in capsys.readouterr().err
