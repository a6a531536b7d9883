"""PolynomialGridSearchCV beside GridSearchCV over the same estimator and grid."""

import itertools
import pickle
import tracemalloc
import warnings
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer, mean_absolute_error, mean_squared_error
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ParameterGrid,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._backend import validation
from torchpoly._polynomial.domain import Domain
from torchpoly._search import grid_search, sources
from torchpoly._train.optimizers import OptimizerSpec


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
            # In the order of our ranks, the other's scores fall, but for ties to the last digits.
            means = theirs.cv_results_[name.replace("rank", "mean")]
            means = np.nan_to_num(means, nan=np.nanmin(means))
            scores = means[np.argsort(ours.cv_results_[name], kind="stable")]
            assert (np.diff(scores) <= 1e-9 * np.abs(scores[1:])).all(), name
        elif "_test_" in name or "_train_" in name:
            np.testing.assert_allclose(ours.cv_results_[name], expected, rtol=rtol, atol=1e-12, err_msg=name)
    for name in ("best_index_", "best_params_", "multimetric_", "n_splits_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    if hasattr(theirs, "best_estimator_"):
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)


@pytest.fixture
def fallbacks(monkeypatch):
    """Return the parameters of the candidates that a search evaluates as GridSearchCV does, fit by fit."""
    evaluated, fit_and_score = [], grid_search.fit_and_score

    def counting(*args, **kwargs):
        evaluated.append(kwargs["parameters"])
        return fit_and_score(*args, **kwargs)

    monkeypatch.setattr(grid_search, "fit_and_score", counting)
    return evaluated


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
    "default": {"grid": GRID},
    "adam stopped after 20 iterations": {"estimator": ADAM_20, "grid": {"degree": [2, 3], "alpha": [0.0, 0.01]}},
    "early stops at several rates": {"estimator": ADAM_20, "grid": EARLY, "cv": KFold(4, shuffle=True, random_state=0)},
    "optimizers": {
        "grid": {
            "optimizer": ["sgd", "rprop", "radam", "muon", torch.optim.Adagrad, partial(torch.optim.SGD, momentum=0.9)],
            "n_iter": [7, 30],
            "tol": [None, 1e-2],
        }
    },
    "the other bases": {
        "estimator": TorchPolynomialRegressor(optimizer="adam", n_iter=15),
        "grid": {"basis": ["orthonormal", "chebyshev", "monomial"], "degree": [1, 3], "alpha": [0.0, 0.01]},
    },
    "textbook loops": {
        "estimator": TorchPolynomialRegressor(basis="monomial", optimizer="sgd", n_iter=40, tol=None),
        "grid": {"lr": [1e-6, 1e-4], "degree": [1, 2]},
    },
    "lbfgs of the user's": {
        "grid": {"optimizer": ["lbfgs"], "lr": [None, 0.5], "n_iter": [2, 5], "basis": ["orthonormal", "chebyshev"]}
    },
    "interactions": {"grid": {"interaction_only": [True, False], "degree": [2, 3], "alpha": [0.0, 0.1]}},
    "losses": {
        "grid": [
            {"loss": ["huber"], "epsilon": [1.2, 2.0], "alpha": [0.0, 0.01]},
            {"loss": ["quantile"], "quantile": [0.3, 0.7], "degree": [1, 2]},
            {"loss": ["absolute_error", "squared_error"], "optimizer": ["adam"], "n_iter": [10]},
        ],
        "scoring": "neg_mean_absolute_error",
        "cv": 3,
    },
    "mini-batches": {
        "estimator": TorchPolynomialRegressor(batch_size=32, optimizer="adam", n_iter=3, tol=None),
        "grid": {"degree": [1, 2], "random_state": [0, 1]},
    },
    "extrapolation": {
        "grid": {"extrapolation": ["continue", "constant", "linear"], "degree": [2, 3]},
        "cv": TimeSeriesSplit(3),
    },
    "weights": {"grid": GRID, "weighted": True},
    "weights, some of them 0": {
        "grid": GRID,
        "weighted": True,
        "cv": 3,
        "scoring": "neg_mean_squared_error",
        "zeros": True,
    },
    "time series": {"grid": GRID, "cv": TimeSeriesSplit(4), "scoring": "neg_root_mean_squared_error"},
    "time series with gaps": {"grid": GRID, "cv": TimeSeriesSplit(4, gap=5, max_train_size=120)},
    "groups": {"grid": GRID, "cv": GroupKFold(3), "groups": True},
    "repeated": {"grid": GRID, "cv": RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)},
    "overlapping": {"grid": GRID, "cv": ShuffleSplit(5, test_size=0.3, random_state=0), "scoring": "neg_max_error"},
    "predefined": {"grid": GRID, "cv": PredefinedSplit(np.repeat([-1, 0, 1], 100))},
    "rows twice": {
        "grid": GRID,
        "cv": [(np.r_[0:200, 50:150], np.arange(200, 300)), (np.arange(100, 300), np.r_[0:100])],
    },
    "masks": {"grid": GRID, "cv": [(np.arange(300) < 200, np.arange(300) >= 200)]},
    "pipeline": {"estimator": make_pipeline(StandardScaler(), TorchPolynomialRegressor()), "prefixed": GRID},
    "pipeline whose steps vary": {
        "estimator": Pipeline([("scale", StandardScaler()), ("pca", PCA()), ("poly", TorchPolynomialRegressor())]),
        "grid": {"pca__n_components": [1, 2, 3], "poly__degree": [1, 3], "poly__alpha": [0.0, 0.1]},
        "scoring": "neg_median_absolute_error",
    },
    "pipeline whose steps are replaced": {
        "estimator": Pipeline([("scale", StandardScaler()), ("poly", TorchPolynomialRegressor())]),
        "grid": [{"scale": [MinMaxScaler(), "passthrough"], "poly__degree": [1, 2]}, {"poly__degree": [3]}],
    },
    "two metrics": {"grid": GRID, "scoring": ["r2", "neg_mean_squared_error"], "refit": "r2"},
    "three metrics": {
        "grid": GRID,
        "scoring": {"a": "r2", "b": make_scorer(mean_absolute_error), "c": "neg_max_error"},
        "refit": "b",
        "train": True,
    },
    "squared errors with options": {
        "grid": GRID,
        "scoring": make_scorer(mean_squared_error, greater_is_better=False, multioutput=[0.3, 0.7]),
        "targets": 2,
    },
    "two targets": {"grid": GRID, "targets": 2, "scoring": ["r2", "neg_root_mean_squared_error"], "refit": False},
    "a metric of the user's": {"grid": GRID, "targets": 2, "scoring": make_scorer(absolute_error_of_the_worst_target)},
    "a scorer that looks at the estimator": {
        "grid": GRID,
        "scoring": shorter_equations,
        "refit": "r2",
        "estimator": ADAM_20,
        "train": True,
    },
    "a choice of the user's": {"grid": GRID, "refit": simplest_of_good},
    "training scores": {"grid": GRID, "train": True},
    "no refit": {"grid": GRID, "refit": False},
    "single precision": {"grid": GRID, "dtype": np.float32, "rtol": 1e-5},
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


def scaled(kind):
    return StandardScaler().set_output(transform=kind)


def columns(kind):
    chosen = [("scale", StandardScaler(), ["a", "c"]), ("keep", "passthrough", ["b"])]
    return ColumnTransformer(chosen).set_output(transform=kind)


FRAMES = {
    "the last step": lambda kind: make_pipeline(PCA(), scaled(kind), TorchPolynomialRegressor()),
    "the pipeline": lambda kind: make_pipeline(PCA(), scaled(kind), TorchPolynomialRegressor()).set_output(
        transform=kind
    ),
    "columns": lambda kind: make_pipeline(columns(kind), "passthrough", TorchPolynomialRegressor()),
    "a function": lambda kind: make_pipeline(FunctionTransformer(), TorchPolynomialRegressor()),
}


def shorter_names(estimator, X, y):
    """Score an estimator with what it knows of its columns."""
    names = getattr(estimator[-1], "feature_names_in_", ["x0"])
    return {"r2": estimator.score(X, y), "names": -float(sum(map(len, names)))}


@pytest.mark.slow
@pytest.mark.parametrize("scoring", ["r2", shorter_names])
@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("pipeline", FRAMES.values(), ids=FRAMES.keys())
def test_dataframes_between_the_steps_of_a_pipeline(pipeline, kind, scoring, surface, fallbacks):
    X, Y = surface
    if kind == "pandas":
        index = np.arange(len(X))[::-1]
        X, y = pd.DataFrame(X, index, list("abc")), pd.Series(Y[:, 0], index)
    else:
        X, y = pl.DataFrame(X, list("abc")), pl.Series(Y[:, 0])
    grid = {"torchpolynomialregressor__degree": [1, 2], "torchpolynomialregressor__alpha": [0.0, 0.1]}
    refit = "r2" if callable(scoring) else True
    ours, theirs = both(pipeline(kind), grid, X, y, scoring=scoring, cv=3, return_train_score=True, refit=refit)
    assert not fallbacks
    assert_same(ours, theirs, X)
    names = [
        [getattr(each, "feature_names_in_", np.array([])).tolist() for each in (search, search.best_estimator_[-1])]
        for search in (ours, theirs)
    ]
    assert names[0] == names[1]
    assert all(names[0])


def test_dataframes_from_all_steps(surface, fallbacks):
    X, Y = surface
    pipeline = make_pipeline(PCA(), StandardScaler(), TorchPolynomialRegressor())
    grid = {"torchpolynomialregressor__degree": [1, 2], "pca__n_components": [1, 2]}
    with sklearn.config_context(transform_output="pandas"):
        ours, theirs = both(pipeline, grid, X, Y, cv=3)
        assert_same(ours, theirs, X)
    assert not fallbacks


def raised(search, X, y, **fit):
    """Return the exception that fit raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        search.fit(X, y, **fit)
    return caught.value


def with_nan(X, y):
    X = X.copy()
    X[7, 1] = np.nan
    return X, y


BAD = {
    "an unknown parameter": {"grid": {"degree": [1], "depth": [2]}},
    "an unknown parameter of a step": {
        "estimator": make_pipeline(StandardScaler(), TorchPolynomialRegressor()),
        "grid": {"standardscaler__depth": [2]},
    },
    "an empty grid": {"grid": {"degree": []}},
    "no grid": {"grid": []},
    "a grid of another type": {"grid": {"degree": 3}},
    "an estimator without fit": {"estimator": object()},
    "an estimator without that parameter": {"estimator": PolynomialFeatures()},
    "more folds than rows": {"cv": 301},
    "no folds": {"cv": []},
    "NaN in all folds": {"data": with_nan, "cv": 2},
    "an invalid value for all": {"grid": {"degree": [-1]}},
    "an invalid value, raised": {"grid": {"degree": [1, -1]}, "error_score": "raise"},
    "an error score of another kind": {"error_score": "nan"},
    "an unknown metric": {"scoring": "r3"},
    "several metrics without a choice": {"scoring": ["r2", "neg_mean_squared_error"]},
    "negative weights": {"fit": {"sample_weight": -np.ones(300)}},
    "weights of another length": {"fit": {"sample_weight": np.ones(4)}},
    "rows of another length": {"data": lambda X, y: (X, y[:-1])},
    "training diverges in all folds": {
        "estimator": TorchPolynomialRegressor(basis="monomial", optimizer="sgd"),
        "grid": {"lr": [1.0, 2.0]},
    },
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
@pytest.mark.filterwarnings("ignore")
def test_refuses_as_grid_search_cv(case, surface):
    X, Y = surface
    options = {"estimator": TorchPolynomialRegressor(), "grid": {"degree": [1, 2]}} | case
    fit = options.pop("fit", {})
    X, y = options.pop("data", lambda X, y: (X, y))(X, Y[:, 0])
    grid = options.pop("grid")
    ours, theirs = (
        raised(kind(param_grid=grid, **options), X, y, **fit) for kind in (PolynomialGridSearchCV, GridSearchCV)
    )
    assert type(ours) is type(theirs)
    first_lines = [str(error).splitlines()[0].replace("PolynomialGrid", "Grid") for error in (ours, theirs)]
    assert first_lines[0] == first_lines[1]


@pytest.mark.parametrize("error_score", [np.nan, -5.0])
def test_a_fold_in_which_training_diverges_has_the_error_score(error_score, surface):
    X, Y = surface
    estimator = TorchPolynomialRegressor(1, basis="monomial", optimizer="sgd", n_iter=100, tol=None)
    warned = []
    for kind in (PolynomialGridSearchCV, GridSearchCV):
        search = kind(estimator, {"lr": [1e-6, 1.0], "degree": [0, 1]}, error_score=error_score)
        with pytest.warns(FitFailedWarning) as caught:
            search.fit(X, Y[:, 0])
        warned.append({str(warning.message).splitlines()[1] for warning in caught if "fits failed" in str(warning)})
        scores = search.cv_results_["mean_test_score"]
        np.testing.assert_array_equal(np.isfinite(scores) & (scores > -5), [True, True, True, False])
        assert search.best_params_["lr"] == 1e-6
    assert warned[0] == warned[1]


def test_reports_what_falls_back(surface, capsys):
    X, Y = surface
    pipeline = Pipeline([("scale", StandardScaler()), ("poly", TorchPolynomialRegressor(1))])
    grid = [{"scale": [MinMaxScaler(), "passthrough"]}, {"poly__degree": [1, 2]}, {"poly__loss": ["huber"]}]
    PolynomialGridSearchCV(pipeline, grid, cv=2, verbose=1).fit(X, Y)
    assert capsys.readouterr().out.splitlines() == [
        "Fitting 2 folds for each of 5 candidates, totalling 10 fits",
        "4 of 10 fits fall back to scikit-learn: the grid sets 'scale'",
        "2 of 10 fits fall back to scikit-learn: losses other than the squared error need the rows in each iteration",
    ]
    PolynomialGridSearchCV(Ridge(), {"alpha": [1.0]}, verbose=1).fit(X, Y)
    assert "All fits fall back to scikit-learn: the estimator is no TorchPolynomialRegressor" in capsys.readouterr().out


FAST = {
    "degrees, penalties and interactions": {"degree": [1, 4], "alpha": [0.0, 0.1], "interaction_only": [True, False]},
    "optimizers, rates and iterations": {"optimizer": ["sgd", "radam"], "lr": [None, 0.01], "n_iter": [5, 20]},
    "bases": {"basis": ["chebyshev", "monomial"], "optimizer": ["adam"]},
    "optimizers that train alone": {"optimizer": ["muon", "lbfgs"], "lr": [0.03]},
    "extrapolation": {"extrapolation": ["constant", "linear"]},
}
SLOW = {
    "losses": {"loss": ["absolute_error", "huber", lambda y_true, y_pred: (y_true - y_pred) ** 4]},
    "mini-batches": {"batch_size": [50], "optimizer": ["adam"]},
    "more terms than rows": {"degree": [9]},
}


@pytest.mark.parametrize("scoring", ["r2", shorter_equations])
@pytest.mark.parametrize("grid", FAST.values(), ids=FAST.keys())
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_takes_the_fast_path(grid, scoring, surface, fallbacks):
    X, Y = surface
    estimator = TorchPolynomialRegressor(2, n_iter=10)
    PolynomialGridSearchCV(estimator, grid, scoring=scoring, refit=False, cv=2).fit(X, Y[:, 0])
    assert not fallbacks


@pytest.mark.parametrize("grid", SLOW.values(), ids=SLOW.keys())
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_falls_back_where_a_gram_matrix_is_not_enough(grid, surface, fallbacks):
    X, Y = surface
    estimator = TorchPolynomialRegressor(2, n_iter=10)
    PolynomialGridSearchCV(estimator, [grid, {"degree": [1]}], refit=False, cv=2).fit(X, Y[:, 0])
    assert fallbacks == [parameters for parameters in ParameterGrid(grid) for _ in range(2)]


def refusing(*calls):
    """Return what raises at some calls, of which the first is 0, and else validates."""
    n_calls = itertools.count()

    def check_rows(*args, **kwargs):
        if next(n_calls) in calls:
            raise TypeError("of no kind")
        return validation.check_rows(*args, **kwargs)

    return check_rows


WITH_PIPELINE = make_pipeline(StandardScaler(), TorchPolynomialRegressor(2))
WITHOUT = TorchPolynomialRegressor(2)


@pytest.mark.parametrize("estimator", [WITHOUT, WITH_PIPELINE], ids=["rows", "pipeline"])
def test_warns_if_an_exception_keeps_all_fits_from_the_fast_path(estimator, surface, fallbacks, monkeypatch):
    X, Y = surface
    monkeypatch.setattr(sources, "check_rows", refusing(*range(9)))
    search = PolynomialGridSearchCV(estimator, {}, cv=2)
    with pytest.warns(UserWarning, match="No fit took the fast path.*TypeError: of no kind") as caught:
        search.fit(X, Y)
    assert [warning.filename for warning in caught] == [__file__]
    assert len(fallbacks) == 2
    assert_same(search, GridSearchCV(estimator, {}, cv=2).fit(X, Y), X)


@pytest.mark.filterwarnings("error")
def test_prints_the_exception_that_keeps_some_fits_from_the_fast_path(surface, capsys, fallbacks, monkeypatch):
    X, Y = surface
    monkeypatch.setattr(sources, "check_rows", refusing(2))  # each split has training and test rows
    search = PolynomialGridSearchCV(WITH_PIPELINE, {}, cv=3, verbose=1).fit(X, Y)
    assert capsys.readouterr().out.splitlines()[1:] == ["1 of 3 fits fall back to scikit-learn: TypeError: of no kind"]
    assert len(fallbacks) == 1
    assert_same(search, GridSearchCV(WITH_PIPELINE, {}, cv=3).fit(X, Y), X)


class FailsAmongOthers(torch.optim.SGD):
    """An optimizer that trains only one tensor."""

    def __init__(self, params, lr=0.1):
        params = list(params)
        if isinstance(params[0], dict):
            raise RuntimeError("too many")
        super().__init__(params, lr)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warns_if_an_optimizer_fails_for_many_at_a_time_only(surface, fallbacks, monkeypatch):
    X, Y = surface
    monkeypatch.setattr(OptimizerSpec, "is_elementwise", True)
    estimator = TorchPolynomialRegressor(2, optimizer=FailsAmongOthers, lr=0.1, n_iter=5)
    search = PolynomialGridSearchCV(estimator, {"degree": [1, 2]}, cv=2)
    with pytest.warns(UserWarning, match="No fit took the fast path.*too many"):
        search.fit(X, Y)
    assert len(fallbacks) == 4
    assert_same(search, GridSearchCV(estimator, {"degree": [1, 2]}, cv=2).fit(X, Y), X)


def fails_for_negative_numbers(X):
    if (X[0] < 0).any():
        raise KeyError("negative")
    return X


def with_nan_at_the_end(X, y):
    return X, np.r_[y[:-1], np.nan]


OWN_ERRORS = {
    "NaN in X": {"data": with_nan},
    "NaN in y": {"data": with_nan_at_the_end},
    "NaN in the last y of a time series": {"data": with_nan_at_the_end, "cv": TimeSeriesSplit(2)},
    "a step": {"estimator": make_pipeline(FunctionTransformer(fails_for_negative_numbers), WITHOUT)},
    "a value of a parameter": {"grid": {"degree": [-1]}},
    "divergence": {"grid": {"optimizer": ["sgd"], "basis": ["monomial"], "lr": [1e9]}},
}


@pytest.mark.parametrize("case", OWN_ERRORS.values(), ids=OWN_ERRORS.keys())
def test_leaves_errors_of_the_users_own_to_scikit_learn(case, surface):
    X, Y = surface
    X, y = case.get("data", lambda X, y: (X, y))(X, Y[:, 0])
    kinds = []
    for kind in (PolynomialGridSearchCV, GridSearchCV):
        search = kind(case.get("estimator", WITHOUT), case.get("grid", {}), cv=case.get("cv", 3), refit=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with suppress(ValueError):  # that all fits failed
                search.fit(X, y)
        kinds.append([(warning.category, str(warning.message).splitlines()[0]) for warning in caught])
    assert kinds[0] == kinds[1]


def test_warns_of_each_candidate_that_does_not_converge(surface):
    X, Y = surface
    estimator = TorchPolynomialRegressor(2, optimizer="adam", n_iter=3)
    messages = []
    for kind in (PolynomialGridSearchCV, GridSearchCV):
        with pytest.warns(ConvergenceWarning) as caught:
            kind(estimator, {"lr": [0.01, 0.1], "loss": ["squared_error", "huber"]}, cv=2, refit=False).fit(X, Y)
        messages.append(sorted(str(warning.message) for warning in caught))
    assert messages[0] == messages[1]


def test_reads_the_rows_once_for_a_grid(surface, monkeypatch):
    X, Y = surface
    seen = []
    scale = Domain.scale
    monkeypatch.setattr(Domain, "scale", lambda self, X: seen.append(len(X)) or scale(self, X))
    grid = {"degree": [1, 2, 3], "alpha": [0.0, 0.1], "optimizer": ["lbfgs", "adam"]}
    PolynomialGridSearchCV(TorchPolynomialRegressor(), grid, refit=False).fit(X, Y[:, 0])
    # For 12 candidates on 5 folds.
    assert sum(seen) == len(X)


@pytest.mark.slow
def test_memory_does_not_grow_with_candidates(rng):
    X = rng.uniform(-1, 1, (40_000, 2))
    y = X[:, 0] * X[:, 1] + 0.1 * rng.normal(size=len(X))

    def peak(n_alphas):
        grid = {"alpha": np.geomspace(1e-6, 1, n_alphas).tolist(), "degree": [1, 2]}
        search = PolynomialGridSearchCV(
            TorchPolynomialRegressor(), grid, scoring="neg_mean_absolute_error", refit=False, cv=2
        )
        tracemalloc.start()
        search.fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(2)
    # Predictions of all candidates for the test rows would take 16 MB and 64 MB.
    assert peak(200) < peak(50) + 10e6


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_goes_where_grid_search_cv_goes(n_jobs, surface):
    X, Y = surface
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=3, n_jobs=n_jobs)
    assert isinstance(search, GridSearchCV)
    scores = cross_val_score(clone(search), X, Y[:, 0], cv=3, n_jobs=n_jobs)
    assert scores.shape == (3,)
    frame = pd.DataFrame(X, columns=list("abc"))
    search.fit(frame, Y)
    assert list(search.feature_names_in_) == list(search.best_estimator_.feature_names_in_) == list("abc")
    restored = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(restored.predict(frame), search.predict(frame))
    assert search.score(frame, Y) == pytest.approx(search.best_estimator_.score(frame, Y))


def test_weights_as_routed_metadata(surface, rng):
    X, Y = surface
    weights = rng.uniform(0, 1, len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        for scores in [True, False]:
            estimator = TorchPolynomialRegressor().set_fit_request(sample_weight=True)
            estimator.set_score_request(sample_weight=scores)
            ours, theirs = both(estimator, GRID, X, Y[:, 0], fit={"sample_weight": weights})
            assert_same(ours, theirs, X)


def test_weights_of_the_steps_of_a_pipeline(surface, rng):
    X, Y = surface
    weights = rng.uniform(0, 1, len(X))
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor())
    fit = {"torchpolynomialregressor__sample_weight": weights, "standardscaler__sample_weight": weights}
    grid = {"torchpolynomialregressor__degree": [1, 2], "torchpolynomialregressor__alpha": [0.0, 0.1]}
    assert_same(*both(pipeline, grid, X, Y[:, 0], fit=fit), X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_check_estimator_as_grid_search_cv():
    failures = []
    for kind in (PolynomialGridSearchCV, GridSearchCV):
        results = check_estimator(
            kind(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=2), on_fail=None, on_skip=None
        )
        failures.append(
            [(result["check_name"], result["status"]) for result in results if result["status"] != "passed"]
        )
    assert failures[0] == failures[1]
