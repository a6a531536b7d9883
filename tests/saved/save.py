"""Save models for the tests of later versions. Run at each release: python tests/saved/save.py."""

from pathlib import Path

import joblib
import numpy as np

import torchpoly
from torchpoly import TorchPolynomialRegressor


def main():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    Y = np.column_stack([np.sin(X[:, 0]) * X[:, 1], X[:, 2] ** 2]) + 0.1 * rng.normal(size=(60, 2))
    close = np.column_stack([X[:, 0], X[:, 0] + 1e-7 * X[:, 1]])
    models = {
        "default": (TorchPolynomialRegressor().fit(X, Y[:, 0]), X),
        "two targets": (TorchPolynomialRegressor(extrapolation="linear").fit(X, Y), 2 * X),
        "huber": (TorchPolynomialRegressor(2, loss="huber", alpha=0.01).fit(X, Y[:, 0]), X),
        "monomials": (TorchPolynomialRegressor(2, basis="monomial").fit(X, Y), X),
        "few rows": (TorchPolynomialRegressor(3).fit(X[:10], Y[:10]), X),
        "batches": (TorchPolynomialRegressor(2).partial_fit(X, Y), X),
        "principal axes": (TorchPolynomialRegressor(2).fit(close, Y), close),
    }
    saved = {
        name: {"model": model, "X": points, "predictions": model.predict(points), "coef_": model.coef_}
        for name, (model, points) in models.items()
    }
    joblib.dump(saved, Path(__file__).with_name(f"{torchpoly.__version__}.joblib"), compress=3)


if __name__ == "__main__":
    main()
