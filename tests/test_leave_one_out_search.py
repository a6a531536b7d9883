"""PolynomialGridSearchCV on splits that leave out one row, beside GridSearchCV, which fits each of them."""

import warnings

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import get_scorer, make_scorer, mean_pinball_loss
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut, RepeatedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._search import evaluation

N_ROWS = 24
GRID = {"degree": [1, 2, 3], "alpha": [0, 1e-2]}
MSE = "neg_mean_squared_error"


def rows(rng, n_rows=N_ROWS, n_columns=2):
    X = rng.uniform(-1, 1, (n_rows, n_columns))
    return X, np.sin(3 * X[:, 0]) + X[:, -1] ** 2 + 0.1 * rng.normal(size=n_rows)


def assert_same(X, y, grid=None, *, estimator=None, weights=None, rtol=1e-8, **options):
    """Check all scores and ranks, and return the search."""
    options = {"cv": LeaveOneOut(), "scoring": MSE} | options
    fit_params = {} if weights is None else {"sample_weight": weights}
    searches = []
    for kind in (PolynomialGridSearchCV, GridSearchCV):
        search = kind(estimator or TorchPolynomialRegressor(), grid or GRID, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            searches.append(search.fit(X, y, **fit_params))
    ours, theirs = searches
    assert set(ours.cv_results_) == set(theirs.cv_results_)
    for name, expected in theirs.cv_results_.items():
        if "rank" in name or name == "params":
            assert_array_equal(ours.cv_results_[name], expected)
        elif "score" in name and "time" not in name:
            assert_allclose(ours.cv_results_[name], expected, rtol=rtol, atol=1e-10, equal_nan=True)
    assert ours.best_index_ == theirs.best_index_
    return ours


@pytest.fixture
def in_closed_form(monkeypatch):
    """Return the counts of the scores in closed form, by candidate."""
    counts = []
    original = evaluation.Evaluation._add_left_out

    def counting(self, candidate, source, fits, left_out, start):
        counts.append(len(left_out))
        return original(self, candidate, source, fits, left_out, start)

    monkeypatch.setattr(evaluation.Evaluation, "_add_left_out", counting)
    return counts


@pytest.mark.parametrize("weighted", ["no", "uniform", "counts", "decades", "dominating"])
def test_weights(weighted, rng, in_closed_form):
    X, y = rows(rng)
    weights = {
        "no": None,
        "uniform": rng.uniform(size=N_ROWS),
        "counts": rng.integers(0, 3, N_ROWS).astype(float),
        "decades": np.exp(3 * rng.normal(size=N_ROWS)),
        "dominating": np.r_[np.ones(N_ROWS - 1), 200.0],
    }[weighted]
    assert_same(X, y, weights=weights)
    # All rows are left out without fits, but for the ends of the ranges and rows without which terms are open.
    assert len(in_closed_form) == 6
    assert min(in_closed_form) >= N_ROWS - 12


@pytest.mark.parametrize("cv", [LeaveOneOut(), N_ROWS, KFold(N_ROWS, shuffle=True, random_state=0)])
def test_splitters(cv, rng, in_closed_form):
    assert_same(*rows(rng), {"degree": [2]}, cv=cv)
    assert in_closed_form


def test_splits_of_one_row_and_others(rng, in_closed_form):
    X, y = rows(rng)
    everything = np.arange(N_ROWS)
    splits = [(np.delete(everything, row), everything[[row]]) for row in range(8)]
    splits += [*KFold(3).split(X), (everything[:12], everything[[20]]), (everything, everything[[3]])]
    assert_same(X, y, cv=splits)
    assert max(in_closed_form) <= 8
    in_closed_form.clear()
    assert_same(X, y, {"degree": [2]}, cv=RepeatedKFold(n_splits=4, n_repeats=2, random_state=0))
    assert not in_closed_form


def columns_of_few_values(rng):
    X, y = rows(rng)
    return np.column_stack([X[:, 0], rng.integers(0, 3, N_ROWS)]), y


def a_value_of_one_row(rng):
    X, y = rows(rng)
    return np.column_stack([X[:, 0], np.arange(N_ROWS) == 7]), y


def six_values(rng):
    X, y = rows(rng)
    return np.column_stack([X[:, 0], np.r_[np.arange(N_ROWS - 1) % 5, 5]]), y


def repeated_rows(rng):
    X, y = rows(rng)
    return np.repeat(X[:8], 3, axis=0), y


def dependent_columns(rng):
    X, y = rows(rng)
    return np.column_stack([X, X.sum(axis=1)]), y


def few_rows(rng):
    return rows(rng, n_rows=9)


def offsets(rng):
    X, y = rows(rng)
    return 1e-3 * X + 1e4, y - 1e5


def several_targets(rng):
    X, y = rows(rng)
    return X, np.column_stack([y, 100 * y**2])


KINDS = [columns_of_few_values, a_value_of_one_row, six_values, repeated_rows, dependent_columns, few_rows, offsets]


@pytest.mark.parametrize("make", [*KINDS, several_targets], ids=lambda make: make.__name__)
def test_tables(make, rng):
    X, y = make(rng)
    grid = {"degree": [1, 5], "alpha": [0, 1e-2]} if make is six_values else GRID
    assert_same(X, y, grid, rtol=1e-6 if make is offsets else 1e-8)


def test_single_precision(rng):
    X, y = rows(rng)
    assert_same(X.astype(np.float32), y, rtol=1e-5)


@pytest.mark.parametrize("scoring", ["neg_mean_absolute_error", "neg_root_mean_squared_error", "neg_max_error"])
def test_scorers(scoring, rng, in_closed_form):
    assert_same(*several_targets(rng) if scoring != "neg_max_error" else rows(rng), scoring=scoring)
    assert in_closed_form


@pytest.mark.slow
def test_several_metrics_and_own_ones(rng):
    scoring = {"mse": MSE, "pinball": make_scorer(mean_pinball_loss, alpha=0.9, greater_is_better=False)}
    assert_same(*rows(rng), scoring=scoring, refit="mse")
    assert_same(*rows(rng), scoring=lambda estimator, X, y: estimator.term_coef_[0] + estimator.predict(X)[0])


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_training_scores(weighted, rng):
    X, y = rows(rng)
    weights = rng.uniform(size=N_ROWS) if weighted else None
    assert_same(X, y, weights=weights, return_train_score=True)
    assert_same(X, y, {"degree": [2]}, weights=weights, return_train_score=True, scoring="r2")


@pytest.mark.slow
def test_other_candidates_fall_back(rng):
    grid = [{"optimizer": ["adam"], "n_iter": [20]}, {"loss": ["huber"]}, {"extrapolation": ["constant", "error"]}]
    X, y = rows(rng, n_rows=12, n_columns=1)
    assert_same(X, y, [*grid, {"alpha": ["loo"]}])
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor())
    assert_same(X, y, {"torchpolynomialregressor__degree": [1, 2]}, estimator=pipeline)


@pytest.mark.parametrize("extrapolation", ["continue", "constant", "linear", "error"])
def test_rows_of_weight_zero_outside_the_box(extrapolation, rng, in_closed_form):
    X, y = rows(rng, n_rows=12)
    X[[2, 7]] = [[3, -4], [0, 9]]
    weights = np.where(np.isin(np.arange(12), [2, 7]), 0.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = TorchPolynomialRegressor(extrapolation=extrapolation).set_fit_request(sample_weight=True)
        scoring = get_scorer(MSE).set_score_request(sample_weight=False)
        options = {"estimator": estimator, "scoring": scoring, "weights": weights, "return_train_score": True}
        assert_same(X, y, {"degree": [1]}, **options)
    assert bool(in_closed_form) == (extrapolation == "continue")


def test_weights_that_no_metric_takes(rng):
    assert_same(*rows(rng, n_rows=8), {"degree": [1]}, weights=2.0)
    weights = np.where(np.arange(8) == 3, np.inf, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        scoring = get_scorer(MSE).set_score_request(sample_weight=True)
        estimator = TorchPolynomialRegressor().set_fit_request(sample_weight=False)
        assert_same(*rows(rng, n_rows=8), {"degree": [1]}, estimator=estimator, scoring=scoring, weights=weights)


def test_r2_of_one_row_is_not_defined(rng):
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [2, 1]}, cv=LeaveOneOut())
    with (
        pytest.warns(UndefinedMetricWarning, match="R\\^2 score is not well-defined"),
        pytest.warns(UserWarning, match="scoring='neg_mean_squared_error'"),
    ):
        search.fit(*rows(rng))
    assert search.best_params_ == {"degree": 2}
    assert np.isnan(search.best_score_)


def test_many_rows(rng):
    # More rows than one chunk, so the values at the rows are not all in memory: 4 of the fits are repeated.
    X, y = rows(rng, 4000, 5)
    everything = np.arange(4000)
    splits = [(np.delete(everything, row), everything[[row]]) for row in (0, 100, 2000, 3999)]
    assert_same(X, y, {"degree": [4], "alpha": [0, 1e-3]}, cv=splits)
