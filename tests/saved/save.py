"""Save models for the tests of later versions. Run where the format has changed: python tests/saved/save.py."""

from pathlib import Path

import joblib
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor


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
        "few values": (TorchPolynomialRegressor(4).fit(np.round(X), Y), np.round(X)),
        "principal axes": (TorchPolynomialRegressor(2).fit(close, Y), close),
        "pipeline": (make_pipeline(StandardScaler(), TorchPolynomialRegressor(2)).fit(X, Y), X),
        "search": (PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}).fit(X, Y), X),
    }
    saved = {}
    for name, (model, points) in models.items():
        polynomial = getattr(model, "best_estimator_", model)
        polynomial = polynomial[-1] if name == "pipeline" else polynomial
        predictions = model.predict(points)
        saved[name] = {"model": model, "X": points, "predictions": predictions, "coef_": polynomial.term_coef_}
    number = models["default"][0].__getstate__()["_format"]
    joblib.dump(saved, Path(__file__).with_name(f"format_{number}.joblib"), compress=3)


if __name__ == "__main__":
    main()
