"""Untuned regressors on the tables that scikit-learn ships or makes: mean R2 of five folds.

Prints a Markdown table. Run with::

    pip install -c constraints.txt ".[bench]"
    python docs/benchmarks/untuned.py
"""

import warnings
from time import perf_counter

import numpy as np
from side_by_side import environment, table
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_iris,
    load_wine,
    make_friedman1,
    make_friedman2,
    make_friedman3,
)
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

from torchpoly import TorchPolynomialRegressor

PENALTIES = np.logspace(-4, 4, 17)


def last_from_others(load, column):
    """Return one measurement of a table as the target, and the others as columns."""
    X = load().data
    return np.delete(X, column, axis=1), X[:, column]


TABLES = {
    "diabetes": load_diabetes(return_X_y=True),
    "iris": last_from_others(load_iris, 3),
    "wine": last_from_others(load_wine, 0),
    "breast cancer": last_from_others(load_breast_cancer, 4),
    "Friedman 1, 200": make_friedman1(200, 10, noise=1.0, random_state=0),
    "Friedman 1, 2000": make_friedman1(2000, 10, noise=1.0, random_state=0),
    "Friedman 2": make_friedman2(500, noise=125.0, random_state=0),
    "Friedman 3": make_friedman3(500, noise=0.1, random_state=0),
}


def programs():
    held = {"extrapolation": "constant"}
    return {
        'degree="loo", alpha="loo"': TorchPolynomialRegressor(degree="loo", alpha="loo", **held),
        'degree 3, alpha="loo"': TorchPolynomialRegressor(alpha="loo", **held),
        "degree 3, alpha=1e-2": TorchPolynomialRegressor(alpha=1e-2, **held),
        "the default: degree 3, alpha=0": TorchPolynomialRegressor(),
        "LinearRegression": LinearRegression(),
        "PolynomialFeatures(3), RidgeCV": make_pipeline(
            StandardScaler(), PolynomialFeatures(3, include_bias=False), StandardScaler(), RidgeCV(PENALTIES)
        ),
        "SplineTransformer, RidgeCV": make_pipeline(SplineTransformer(extrapolation="constant"), RidgeCV(PENALTIES)),
        "HistGradientBoosting": HistGradientBoostingRegressor(random_state=0),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(environment())
    folds, rows = KFold(5, shuffle=True, random_state=0), [["", *TABLES, "mean", "seconds"]]
    for name, estimator in programs().items():
        start = perf_counter()
        scores = [cross_val_score(estimator, X, y, cv=folds).mean() for X, y in TABLES.values()]
        seconds = perf_counter() - start
        rows.append([name, *(f"{score:.3f}" for score in [*scores, np.maximum(scores, 0).mean()]), f"{seconds:.1f}"])
    table(rows)
