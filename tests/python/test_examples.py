"""The examples run in their quick mode, reach what they promise, and draw their pictures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

for needed in ("sklearn", "scipy", "matplotlib", "tqdm"):
    pytest.importorskip(needed)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    """Import an example, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def assert_picture(path: Path) -> None:
    """Check that a picture was written, large enough to read and not of one colour."""
    from matplotlib.image import imread

    pixels = imread(path)
    assert min(pixels.shape[:2]) >= 500
    assert pixels[..., :3].std() > 0.05


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return example("digits")


def test_digits_command(
    digits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new folder" / "digits.png"
    assert digits.main(["--quick", "--out", str(picture)]) == 0
    printed = capsys.readouterr()
    assert "Held-out error after 12 epochs, 450 digits" in printed.out
    assert printed.out.count(" us ") == 4
    assert "12/12" in printed.err  # the progress bar
    assert "FAILED" not in printed.err
    assert_picture(picture)


def test_digits_both_losses_learn(digits: ModuleType) -> None:
    data = digits.load()
    assert len(data.y_train) == 1347
    assert len(data.y_test) == 450
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    for loss, limit in (
        (digits.cross_entropy, digits.ERROR_LIMIT),
        (digits.mse_after_softmax, 0.06),
    ):
        training = digits.train(data, loss, epochs=digits.EPOCHS, name="test")
        assert len(training.errors) == len(training.losses) == digits.EPOCHS
        assert training.errors[-1] <= limit
        assert training.losses[-1] < training.losses[0] / 4
        read = training.model.logits(data.x_test).argmax(axis=1)
        assert training.errors[-1] == np.mean(read != data.y_test)


def test_digits_gradient_check_tells_right_from_wrong(digits: ModuleType) -> None:
    data = digits.load()
    assert digits.gradient_error(data, digits.cross_entropy) < 1e-8
    assert digits.gradient_error(data, digits.mse_after_softmax) < 1e-8

    def slightly_wrong(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = digits.cross_entropy(logits, labels)
        return value, grad * (1 + 1e-5)

    assert digits.gradient_error(data, slightly_wrong) > digits.GRADIENT_TOLERANCE


def test_digits_losses_agree(digits: ModuleType) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=5, size=(50, digits.CLASSES))
    labels = rng.integers(digits.CLASSES, size=50)
    value, grad = digits.cross_entropy(logits.copy(), labels)
    expected_value, expected_grad = digits.cross_entropy_scipy(logits, labels)
    assert value == pytest.approx(expected_value, rel=1e-12)
    np.testing.assert_allclose(grad, expected_grad, rtol=0, atol=1e-15)


def test_digits_fails_when_it_has_not_learned(
    digits: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digits, "LEARNING_RATE", 0.0)
    assert digits.main(["--quick", "--no-plot", "--epochs", "1"]) == 1
    assert "FAILED: cross-entropy misreads more than 4.5%" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_diabetes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diabetes = example("diabetes")
    picture = tmp_path / "diabetes.png"
    assert diabetes.main(["--out", str(picture)]) == 0
    assert "111 held-out patients" in capsys.readouterr().out
    assert_picture(picture)

    data = diabetes.load()
    weights, losses = diabetes.fit(data.x_train, data.y_train, diabetes.STEPS)
    exact = diabetes.least_squares(data.x_train, data.y_train)
    np.testing.assert_allclose(weights, exact, rtol=0, atol=1e-6)
    assert losses[0] == pytest.approx(np.mean(data.y_train**2))
    rmse, r2 = diabetes.score(data.x_test, data.y_test, weights)
    assert rmse == pytest.approx(56.393, abs=0.01)
    assert r2 == pytest.approx(0.359, abs=0.001)


def test_diabetes_fails_when_it_has_not_arrived(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("diabetes").main(["--no-plot", "--steps", "50"]) == 1
    assert "FAILED: the coefficients differ" in capsys.readouterr().err


def test_why_cross_entropy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = example("why_cross_entropy")
    picture = tmp_path / "why.png"
    assert why.main(["--quick", "--out", str(picture)]) == 0
    assert "share of the square that is not convex" in capsys.readouterr().out
    assert_picture(picture)

    of_cross_entropy = why.two_classes(why.cross_entropy, 161)
    of_mse = why.two_classes(why.mse_after_softmax, 161)
    d = of_cross_entropy.d
    wrong = 1 / (1 + np.exp(d))
    np.testing.assert_allclose(of_cross_entropy.loss, np.log1p(np.exp(-d)), rtol=1e-12)
    np.testing.assert_allclose(of_cross_entropy.slope, -wrong, rtol=1e-12)
    np.testing.assert_allclose(of_mse.loss, 2 * wrong**2, rtol=1e-12)
    np.testing.assert_allclose(of_mse.slope, -4 * wrong**2 * (1 - wrong), rtol=1e-12)
    # 2 q^2 with q = 1 / (1 + e^d) has its inflection at q = 2/3.
    np.testing.assert_array_equal(of_mse.convex, d >= -np.log(2))

    assert why.three_classes(why.cross_entropy, 41).convex.all()
    surface = why.three_classes(why.mse_after_softmax, 41)
    assert 0.5 < 1 - surface.convex.mean() < 0.75
    assert surface.steepness[-1, 0] < 0.01
    assert surface.loss[-1, 0] > 1.99
