"""PolynomialGridSearchCV beside GridSearchCV over the same estimator and grid."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import make_scorer, mean_absolute_error, mean_squared_error
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    TimeSeriesSplit,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor


def both(estimator, grid, X, y, *, fit=None, **options):
    """Return the two searches, fitted."""
    searches = [kind(estimator, grid, **options) for kind in (PolynomialGridSearchCV, GridSearchCV)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for search in searches:
            search.fit(X, y, **(fit or {}))
    return searches


def assert_same(ours, theirs, X, rtol=1e-6):
    """Hold our search to the other's keys, scores, ranks, choice and predictions."""
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    assert ours.cv_results_["params"] == theirs.cv_results_["params"]
    for name, expected in theirs.cv_results_.items():
        if name.startswith("rank"):
            np.testing.assert_array_equal(ours.cv_results_[name], expected, err_msg=name)
        elif "_test_" in name or "_train_" in name:
            np.testing.assert_allclose(ours.cv_results_[name], expected, rtol=rtol, atol=1e-12, err_msg=name)
    for name in ("best_index_", "best_params_", "multimetric_", "n_splits_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    if hasattr(theirs, "best_estimator_"):
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)


GRID = {"degree": [1, 2, 4], "alpha": [0.0, 1e-3, 0.1]}
EARLY = {"degree": [1, 3], "lr": [0.03, 0.1], "n_iter": [5, 20]}
ADAM_20 = TorchPolynomialRegressor(optimizer="adam", n_iter=20)


def absolute_error_of_the_worst_target(y_true, y_pred):
    return np.abs(y_true - y_pred).mean(axis=0).max()


def shorter_equations(estimator, X, y):
    return {"r2": estimator.score(X, y), "terms": -float(estimator.rank_), "iterations": -float(estimator.n_iter_)}


def simplest_of_good(results):
    good = np.flatnonzero(results["mean_test_score"] > results["mean_test_score"].max() - 0.05)
    return int(good[np.argmin([results["params"][index]["degree"] for index in good])])


CASES = {
    "default": dict(grid=GRID),
    "adam stopped after 20 iterations": dict(estimator=ADAM_20, grid={"degree": [2, 3], "alpha": [0.0, 0.01]}),
    "early stops at several rates": dict(estimator=ADAM_20, grid=EARLY, cv=KFold(4, shuffle=True, random_state=0)),
    "optimizers": dict(
        grid={
            "optimizer": ["sgd", "rprop", "radam", "muon", torch.optim.Adagrad, partial(torch.optim.SGD, momentum=0.9)],
            "n_iter": [7, 30],
            "tol": [None, 1e-2],
        }
    ),
    "the other bases": dict(
        estimator=TorchPolynomialRegressor(optimizer="adam", n_iter=15),
        grid={"basis": ["orthonormal", "chebyshev", "monomial"], "degree": [1, 3], "alpha": [0.0, 0.01]},
    ),
    "textbook loops": dict(
        estimator=TorchPolynomialRegressor(basis="monomial", optimizer="sgd", n_iter=40, tol=None),
        grid={"lr": [1e-6, 1e-4], "degree": [1, 2]},
    ),
    "lbfgs of the user's": dict(
        grid={"optimizer": ["lbfgs"], "lr": [None, 0.5], "n_iter": [2, 5], "basis": ["orthonormal", "chebyshev"]}
    ),
    "interactions": dict(grid={"interaction_only": [True, False], "degree": [2, 3], "alpha": [0.0, 0.1]}),
    "losses": dict(
        grid=[
            {"loss": ["huber"], "epsilon": [1.2, 2.0], "alpha": [0.0, 0.01]},
            {"loss": ["quantile"], "quantile": [0.3, 0.7], "degree": [1, 2]},
            {"loss": ["absolute_error", "squared_error"], "optimizer": ["adam"], "n_iter": [10]},
        ],
        scoring="neg_mean_absolute_error",
        cv=3,
    ),
    "mini-batches": dict(
        estimator=TorchPolynomialRegressor(batch_size=32, optimizer="adam", n_iter=3, tol=None),
        grid={"degree": [1, 2], "random_state": [0, 1]},
    ),
    "extrapolation": dict(
        grid={"extrapolation": ["continue", "constant", "linear"], "degree": [2, 3]}, cv=TimeSeriesSplit(3)
    ),
    "weights": dict(grid=GRID, weighted=True),
    "weights, some of them 0": dict(grid=GRID, weighted=True, cv=3, scoring="neg_mean_squared_error", zeros=True),
    "time series": dict(grid=GRID, cv=TimeSeriesSplit(4), scoring="neg_root_mean_squared_error"),
    "time series with gaps": dict(grid=GRID, cv=TimeSeriesSplit(4, gap=5, max_train_size=120)),
    "groups": dict(grid=GRID, cv=GroupKFold(3), groups=True),
    "repeated": dict(grid=GRID, cv=RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)),
    "overlapping": dict(grid=GRID, cv=ShuffleSplit(5, test_size=0.3, random_state=0), scoring="neg_max_error"),
    "predefined": dict(grid=GRID, cv=PredefinedSplit(np.repeat([-1, 0, 1], 100))),
    "rows twice": dict(
        grid=GRID, cv=[(np.r_[0:200, 50:150], np.arange(200, 300)), (np.arange(100, 300), np.r_[0:100])]
    ),
    "masks": dict(grid=GRID, cv=[(np.arange(300) < 200, np.arange(300) >= 200)]),
    "pipeline": dict(estimator=make_pipeline(StandardScaler(), TorchPolynomialRegressor()), prefixed=GRID),
    "pipeline whose steps vary": dict(
        estimator=Pipeline([("scale", StandardScaler()), ("pca", PCA()), ("poly", TorchPolynomialRegressor())]),
        grid={"pca__n_components": [1, 2, 3], "poly__degree": [1, 3], "poly__alpha": [0.0, 0.1]},
        scoring="neg_median_absolute_error",
    ),
    "pipeline whose steps are replaced": dict(
        estimator=Pipeline([("scale", StandardScaler()), ("poly", TorchPolynomialRegressor())]),
        grid=[{"scale": [MinMaxScaler(), "passthrough"], "poly__degree": [1, 2]}, {"poly__degree": [3]}],
    ),
    "two metrics": dict(grid=GRID, scoring=["r2", "neg_mean_squared_error"], refit="r2"),
    "three metrics": dict(
        grid=GRID,
        scoring={"a": "r2", "b": make_scorer(mean_absolute_error), "c": "neg_max_error"},
        refit="b",
        train=True,
    ),
    "squared errors with options": dict(
        grid=GRID, scoring=make_scorer(mean_squared_error, greater_is_better=False, multioutput=[0.3, 0.7]), targets=2
    ),
    "two targets": dict(grid=GRID, targets=2, scoring=["r2", "neg_root_mean_squared_error"], refit=False),
    "a metric of the user's": dict(grid=GRID, targets=2, scoring=make_scorer(absolute_error_of_the_worst_target)),
    "a scorer that looks at the estimator": dict(
        grid=GRID, scoring=shorter_equations, refit="r2", estimator=ADAM_20, train=True
    ),
    "a choice of the user's": dict(grid=GRID, refit=simplest_of_good),
    "training scores": dict(grid=GRID, train=True),
    "no refit": dict(grid=GRID, refit=False),
    "single precision": dict(grid=GRID, dtype=np.float32, rtol=1e-5),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_same_as_grid_search_cv(case, surface, rng):
    X, Y = surface
    options = dict(case)
    estimator = options.pop("estimator", TorchPolynomialRegressor())
    if "prefixed" in options:
        prefix = f"{estimator.steps[-1][0]}__"
        options["grid"] = {prefix + name: values for name, values in options.pop("prefixed").items()}
    X = X.astype(options.pop("dtype", np.float64))
    y = Y if options.pop("targets", 1) == 2 else Y[:, 0]
    fit = {}
    if options.pop("weighted", False):
        fit["sample_weight"] = rng.uniform(0.5, 2, len(X))
        if options.pop("zeros", False):
            fit["sample_weight"][::7] = 0
    if options.pop("groups", False):
        fit["groups"] = rng.integers(0, 6, len(X))
    rtol = options.pop("rtol", 1e-6)
    options["return_train_score"] = options.pop("train", False)
    ours, theirs = both(estimator, options.pop("grid"), X, y, fit=fit, **options)
    assert_same(ours, theirs, X, rtol)
