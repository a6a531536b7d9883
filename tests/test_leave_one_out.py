"""Degree and penalty by leave-one-out errors, beside one refit for each row; and the warning of overfitting."""

import inspect
import itertools
import pickle
import subprocess
import sys
import tracemalloc
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.polynomial import chebyshev
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import LinAlgWarning
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits

from torchpoly import OverfittingWarning, PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._backend import rows as rows_of_arrays
from torchpoly._gram import factors

pytestmark = pytest.mark.filterwarnings("ignore::torchpoly.OverfittingWarning")

BOTH = {"degree": "loo", "alpha": "loo"}


# --- The reference: a refit for each row -------------------------------------------------------------


def penalized_features(X, degree, interaction_only):
    """Products of Chebyshev polynomials on the box of all rows, divided by degree**1.5, without the constant."""
    X = X[:, np.ptp(X, axis=0) > 0]
    if not X.shape[1]:
        return np.zeros((len(X), 0))
    low, high = X.min(axis=0), X.max(axis=0)
    n_values = np.array([len(np.unique(column)) for column in X.T])
    caps = np.where(n_values <= 5, n_values - 1, degree)
    powers = PolynomialFeatures(degree, interaction_only=interaction_only, include_bias=False).fit(X).powers_
    powers = powers[(powers <= caps).all(axis=1)]
    values = chebyshev.chebvander((X - (low + high) / 2) / ((high - low) / 2), degree)
    features = np.prod([values[:, column, exponents] for column, exponents in enumerate(powers.T)], axis=0)
    return features / powers.sum(axis=1) ** 1.5


def errors_of_refits(X, y, weights, degree, alphas, interaction_only=False):
    """Weighted mean squared errors at the row left out, of shape (n_alphas, n_targets)."""
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=np.float64)
    X, Y = np.asarray(X, dtype=np.float64)[weights > 0], np.asarray(y, dtype=np.float64)[weights > 0]
    Y, weights = Y.reshape(len(Y), -1), weights[weights > 0] / weights.sum()
    features, unit = penalized_features(X, degree, interaction_only), np.ptp(Y, axis=0)
    targets = (Y - Y.mean(axis=0)) / unit
    total = 0.0
    for row in range(len(X)):
        others = np.arange(len(X)) != row
        share = weights[others] / weights[others].sum()
        roots, means, mean = np.sqrt(share)[:, None], share @ features[others], share @ targets[others]
        left, sizes, right = np.linalg.svd(roots * (features[others] - means), full_matrices=False)
        products, at_row = left.T @ (roots * (targets[others] - mean)), right @ (features[row] - means)
        sizes = np.where(sizes > 1e-13 * sizes.max(initial=0.0), sizes, 0.0)
        for_alphas = sizes**2 + np.asarray(alphas)[:, None]
        factors_of_alphas = np.divide(sizes, for_alphas, out=np.zeros_like(for_alphas), where=sizes > 0)
        total = total + weights[row] * (targets[row] - mean - (factors_of_alphas * at_row) @ products) ** 2
    return total * unit**2


def errors_in(path):
    errors = path["mean_squared_error"]
    return errors.reshape(*errors.shape[:2], -1)


def assert_errors_of_refits(model, X, y, weights=None, rtol=1e-9, alphas=slice(None)):
    path = model.loo_path_
    for degree, errors in zip(path["degree"], errors_in(path), strict=True):
        tried = path["alpha"][alphas]
        expected = errors_of_refits(X, y, weights, int(degree), tried, model.interaction_only)
        assert_allclose(errors[alphas], expected, rtol=rtol, atol=1e-24 * np.var(y))


def noisy_rows(rng, n_rows=40):
    X = rng.uniform(-1, 1, (n_rows, 2))
    return X, np.sin(3 * X[:, 0]) * X[:, 1] + 0.1 * rng.normal(size=n_rows)


WEIGHTS = {
    "none": lambda rng, n: None,
    "uniform": lambda rng, n: rng.uniform(0.5, 2, n),
    "decades": lambda rng, n: 10.0 ** rng.uniform(-6, 0, n),
    "copies": lambda rng, n: rng.integers(1, 9, n),
    "dominating": lambda rng, n: np.where(np.arange(n) == 7, 9.0 * (n - 1), 1.0),
    "half": lambda rng, n: np.where(np.arange(n) < 2, 0.5 * (n - 2), 1.0),
    "zero": lambda rng, n: rng.integers(0, 3, n),
}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_errors_are_those_of_refits(weights, rng):
    X, y = noisy_rows(rng)
    weights = WEIGHTS[weights](rng, len(X))
    model = TorchPolynomialRegressor(**BOTH).fit(X, y, weights)
    path = model.loo_path_
    assert_array_equal(path["degree"], np.arange(1, 16))
    assert path["alpha"][0] == 0
    assert path["alpha"][-1] == 10
    assert (np.diff(path["alpha"]) > 0).all()
    assert path["mean_squared_error"].shape == (15, len(path["alpha"]))
    for degree in (1, 2, 3, 4):
        alone = TorchPolynomialRegressor(degree, alpha="loo").fit(X, y, weights)
        assert_errors_of_refits(alone, X, y, weights)
        assert_allclose(path["mean_squared_error"][degree - 1], alone.loo_path_["mean_squared_error"][0], rtol=1e-9)


@pytest.mark.parametrize("weights", ["none", "uniform", "dominating"])
@pytest.mark.parametrize("n_rows", [3, 5, 8, 10, 11, 12, 15, 20])
def test_near_interpolation(n_rows, weights, rng):
    """Ten terms: fewer rows, as many, one more, and so on."""
    X, y = noisy_rows(rng, n_rows)
    weights = WEIGHTS[weights](rng, n_rows)
    assert_errors_of_refits(TorchPolynomialRegressor(3, alpha="loo").fit(X, y, weights), X, y, weights)


@pytest.mark.parametrize("seed", [3, 25, 58])
def test_as_many_distinct_rows_as_terms(seed):
    """Without one of the rows that are not repeated, the terms have a lower rank. Some directions are narrow."""
    rng = np.random.default_rng(seed)
    X, y = np.exp(rng.normal(size=(15, 2))), rng.normal(size=15)
    chosen = np.r_[np.arange(15), rng.integers(0, 15, 7)]
    X, y, weights = X[chosen], y[chosen], rng.uniform(0.1, 1, 22)
    assert_errors_of_refits(TorchPolynomialRegressor(4, alpha="loo").fit(X, y, weights), X, y, weights, rtol=1e-7)


def alone_on_a_term(rng):
    X, y = noisy_rows(rng)
    return np.column_stack([X[:, 0], np.arange(40) == 3]), y


def repeated(rng):
    X, y = noisy_rows(rng)
    chosen = rng.integers(0, 12, 40)
    return X[chosen], y


def few_repeated(rng):
    X, y = noisy_rows(rng)
    return np.tile(X[:8], (5, 1)), y


def far(rng):
    X, y = noisy_rows(rng)
    return X + 1e6, y + 1e6


def other_units(rng):
    X, y = noisy_rows(rng)
    return X * [1e-9, 1e12], y * 1e-100


def dependent(rng):
    X, y = noisy_rows(rng)
    return np.column_stack([X, X.sum(axis=1)]), y


def two_values(rng):
    X, y = noisy_rows(rng)
    return np.column_stack([X, rng.integers(0, 2, 40)]), y


def three_values(rng):
    X, y = noisy_rows(rng)
    return np.column_stack([X, rng.integers(0, 3, 40)]), y


def flags(rng):
    return rng.integers(0, 2, (40, 3)).astype(float), rng.normal(size=40)


def constant_column(rng):
    X, y = noisy_rows(rng)
    return np.insert(X, 1, 7.0, axis=1), y


def single_precision(rng):
    X, y = noisy_rows(rng)
    return X.astype(np.float32), y.astype(np.float32)


def heavy_tails(rng):
    return rng.lognormal(0, 1.5, (40, 2)), rng.standard_t(2, 40)


def several_targets(rng):
    X, y = noisy_rows(rng)
    return X, np.column_stack([y, 1e6 * y**2 + rng.normal(size=40), 1e-6 * rng.normal(size=40)])


DATA = [
    alone_on_a_term,
    repeated,
    few_repeated,
    far,
    other_units,
    dependent,
    two_values,
    three_values,
    flags,
    constant_column,
    single_precision,
    heavy_tails,
    several_targets,
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("data", DATA, ids=lambda data: data.__name__)
def test_kinds_of_data(data, weighted, rng):
    X, y = data(rng)
    weights = rng.uniform(0.1, 2, len(X)) if weighted else None
    model = TorchPolynomialRegressor(2 if data in (dependent, heavy_tails) else 3, alpha="loo").fit(X, y, weights)
    # A row whose absence leaves a term without any row has the digits that the penalty has beside rounding.
    assert_errors_of_refits(model, X, y, weights, 1e-8 if data is heavy_tails else 1e-9)


@pytest.mark.parametrize("parameters", [{"interaction_only": True}, {"basis": "chebyshev"}, {"alpha": 1e-3}], ids=str)
def test_other_parameters(parameters, rng):
    X, y = rng.normal(size=(40, 3)), rng.normal(size=40)
    model = TorchPolynomialRegressor(**BOTH | parameters).fit(X[:, :2] if "basis" in parameters else X, y)
    path = model.loo_path_
    assert path["mean_squared_error"].shape == (len(path["degree"]), len(path["alpha"]))
    assert model.interaction_only == (path["degree"][-1] == 3)
    small = TorchPolynomialRegressor(**{"degree": 3, "alpha": "loo"} | parameters).set_params(degree="loo")
    small = small.fit(X[:, :1], y) if "interaction_only" not in parameters else model
    used = X if small is model else X[:, :1]
    for degree, errors in list(zip(small.loo_path_["degree"], errors_in(small.loo_path_), strict=True))[:4]:
        expected = errors_of_refits(used, y, None, int(degree), small.loo_path_["alpha"], small.interaction_only)
        assert_allclose(errors, expected, rtol=1e-9)


@pytest.mark.parametrize("n_rows", [8, 15, 19])
@pytest.mark.parametrize("weights", ["none", "uniform"])
def test_more_terms_than_rows_without_a_design_matrix(n_rows, weights, rng, monkeypatch):
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", 0)
    monkeypatch.setattr(factors, "_MAX_DENSE_TERMS_PER_ROW", 0)
    X, y = rng.uniform(-1, 1, (n_rows, 3)), rng.normal(size=n_rows)
    weights = WEIGHTS[weights](rng, n_rows)
    model = TorchPolynomialRegressor(3, alpha="loo").fit(X, y, weights)
    assert_errors_of_refits(model, X, y, weights)


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("width", [1e-3, 1e-5, 1e-7])
def test_columns_that_nearly_coincide(width, in_chunks, rng, monkeypatch):
    """The penalties, and no penalty beside the same polynomials of the mean and the difference."""
    u, v = rng.uniform(-1, 1, (2, 60))
    X, y = np.column_stack([u, u + width * v]), np.sin(2 * v) + u + 0.1 * rng.normal(size=60)
    if in_chunks:
        in_chunks_of(20, monkeypatch)
    model = TorchPolynomialRegressor(4, alpha="loo").fit(X, y)
    assert_errors_of_refits(model, X, y, None, 1e-5 if in_chunks else 1e-9, slice(1, None))
    apart = np.column_stack([u, (X[:, 1] - u) / width])
    expected = errors_of_refits(apart, y, None, 4, [0.0])
    assert_allclose(errors_in(model.loo_path_)[0, :1], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
def test_extreme_rows_in_chunks(monkeypatch):
    """Rounding hides how little the other rows say about such a row without a penalty: the choice is right anyway."""
    in_chunks_of(16, monkeypatch)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, y = rng.lognormal(0, 2, (45, 2)), rng.normal(size=45)
        model = TorchPolynomialRegressor(4, alpha="loo").fit(X, y)
        errors = errors_in(model.loo_path_)[0]
        assert np.isfinite(errors[1:]).all()
        expected = errors_of_refits(X, y, None, 4, model.loo_path_["alpha"])
        assert_allclose(errors[1:], expected[1:], rtol=1e-5)
        chosen = np.flatnonzero(model.loo_path_["alpha"] == model.alpha_)
        assert expected[chosen] <= 1.001 * expected.min()


@pytest.mark.parametrize("n_rows", [2000, 20_000])
def test_a_row_alone_on_a_term_among_many(n_rows, rng, monkeypatch):
    in_chunks_of(500, monkeypatch)
    X = np.column_stack([rng.uniform(-1, 1, (n_rows, 2)), np.arange(n_rows) == 7])
    exact = X[:, 0] ** 2 + X[:, 1] + 3 * X[:, 2]
    model = TorchPolynomialRegressor(3, alpha="loo").fit(X, exact)
    errors = errors_in(model.loo_path_)[0, :, 0]
    assert model.alpha_ == 0
    assert_allclose(errors[:3], errors[0], rtol=1e-6)
    assert_allclose(model.predict(X), exact, atol=1e-12)


# --- Rows in chunks, Dask, threads, memory -----------------------------------------------------------


def in_chunks_of(n_rows, monkeypatch):
    monkeypatch.setattr(rows_of_arrays, "_MIN_ROWS", n_rows)
    monkeypatch.setattr(rows_of_arrays, "_MAX_ROWS", n_rows)


def assert_same_choice(model, reference, rtol=1e-9):
    assert (model.degree_, model.alpha_) == (reference.degree_, reference.alpha_)
    for name, values in reference.loo_path_.items():
        assert_allclose(model.loo_path_[name], values, rtol=rtol)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_chunks_change_nothing(weights, surface, rng, monkeypatch):
    X, Y = surface
    weights = WEIGHTS[weights](rng, len(X))
    estimator = TorchPolynomialRegressor(4, alpha="loo")
    reference = clone(estimator).fit(X, Y, weights)
    in_chunks_of(64, monkeypatch)
    model = estimator.fit(X, Y, weights)
    assert_same_choice(model, reference)
    assert_allclose(model.predict(X), reference.predict(X), rtol=1e-9, atol=1e-9)


def test_degrees_in_chunks(surface, monkeypatch):
    X, Y = surface
    X, Y = X[:, :2], Y[:, 0]
    X = np.tanh(X / np.abs(X).mean(axis=0))  # without heavy tails
    reference = TorchPolynomialRegressor(**BOTH).fit(X, Y)
    in_chunks_of(100, monkeypatch)
    model = TorchPolynomialRegressor(**BOTH).fit(X, Y)
    ours, theirs = (errors_in(one.loo_path_) for one in (model, reference))
    assert_allclose(ours[:, 1:], theirs[:, 1:], rtol=1e-6)
    assert_allclose(ours[:6, 0], theirs[:6, 0], rtol=1e-9)
    assert (model.degree_, model.alpha_) == (reference.degree_, reference.alpha_)


@pytest.mark.parametrize("weighted", [False, True])
def test_dask_arrays(weighted, surface, rng):
    dask = pytest.importorskip("dask.array")
    X, Y = surface[0][:, :2], surface[1]
    weights = rng.integers(0, 3, len(X)).astype(float) if weighted else None
    lazy = [None if one is None else dask.from_array(one, chunks=(70, *one.shape[1:])) for one in (X, Y, weights)]
    for parameters in [{"degree": 3, "alpha": "loo"}, {"degree": "loo", "alpha": 1e-3}]:
        reference = TorchPolynomialRegressor(**parameters).fit(X, Y, weights)
        model = TorchPolynomialRegressor(**parameters).fit(*lazy)
        assert_same_choice(model, reference, rtol=1e-7)
        assert_allclose(model.predict(X), reference.predict(X), rtol=1e-7, atol=1e-7)


def test_the_number_of_threads_changes_no_bit(surface):
    X, Y = surface
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append(TorchPolynomialRegressor(4, alpha="loo").fit(X, Y))
    assert_array_equal(found[0].loo_path_["mean_squared_error"], found[1].loo_path_["mean_squared_error"])
    assert_array_equal(found[0].predict(X), found[1].predict(X))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(rng):
    X = rng.uniform(-1, 1, (400_000, 3))
    y = np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.normal(size=len(X))
    peaks = []
    for n_rows in (len(X) // 4, len(X)):
        tracemalloc.start()
        TorchPolynomialRegressor(6, alpha="loo").fit(X[:n_rows], y[:n_rows])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 8 * 3 * len(X)


# --- The choice --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "parameters", [BOTH, {"alpha": "loo"}, {"degree": "loo"}, {"basis": "chebyshev", "alpha": "loo", "degree": 2}]
)
@pytest.mark.parametrize("several", [False, True])
def test_the_least_error_wins(parameters, several, rng):
    X, y = several_targets(rng) if several else noisy_rows(rng)
    weights = rng.uniform(0.5, 2, len(X))
    model = TorchPolynomialRegressor(**parameters, tol=1e-12).fit(X, y, weights)
    path = model.loo_path_
    assert type(model.degree_) is int
    assert type(model.alpha_) is float
    if several:
        assert path["mean_squared_error"].shape == (len(path["degree"]), len(path["alpha"]), 3)
    variances = np.average((y - np.average(y, axis=0, weights=weights)) ** 2, axis=0, weights=weights)
    total = (errors_in(path) / variances).sum(axis=2)
    best = np.unravel_index(np.nanargmin(total), total.shape)
    assert (model.degree_, model.alpha_) == (path["degree"][best[0]], path["alpha"][best[1]])
    same = clone(model).set_params(degree=model.degree_, alpha=model.alpha_).fit(X, y, weights)
    assert not hasattr(same, "loo_path_")
    assert (same.degree_, same.alpha_) == (model.degree_, model.alpha_)
    assert_allclose(model.predict(X), same.predict(X), rtol=1e-9, atol=1e-9)
    assert_array_equal(model.powers_, same.powers_)
    assert model.get_params() == TorchPolynomialRegressor(**parameters, tol=1e-12).get_params()


def test_numbers_leave_no_path(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(2, alpha="loo").fit(X, Y)
    assert hasattr(model, "loo_path_")
    model.set_params(alpha=0.1).fit(X, Y)
    assert not hasattr(model, "loo_path_")
    assert (model.degree_, model.alpha_) == (2, 0.1)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_exact_data_keep_their_digits(degree, offset, rng):
    X = rng.uniform(-1, 1, (80, 2))
    exact = offset + X[:, 0] ** degree - 2 * X[:, 1] * X[:, 0] ** (degree - 1)
    model = TorchPolynomialRegressor(**BOTH).fit(X, exact)
    assert (model.degree_, model.alpha_) == (degree, 0.0)
    assert_allclose(model.predict(X), exact, rtol=1e-14, atol=1e-13)


def test_noise_gets_a_large_penalty_and_a_signal_a_small_one(rng):
    X = rng.uniform(-1, 1, (300, 2))
    noise = TorchPolynomialRegressor(**BOTH).fit(X, rng.normal(size=300))
    signal = TorchPolynomialRegressor(**BOTH).fit(X, np.sin(4 * X[:, 0] + X[:, 1]))
    assert noise.alpha_ > 1e-2
    assert signal.alpha_ < 1e-4
    assert signal.degree_ > 6


def test_fewer_rows_than_terms_generalize(rng):
    def rows(n_rows):
        X = rng.uniform(-1, 1, (n_rows, 4))
        return X, X[:, 0] + X[:, 1] * X[:, 2] + 0.05 * rng.normal(size=n_rows)

    (X, y), new = rows(40), rows(1000)
    assert TorchPolynomialRegressor(**BOTH).fit(X, y).score(*new) > TorchPolynomialRegressor(3).fit(X, y).score(*new)


@pytest.mark.filterwarnings("error")
@pytest.mark.filterwarnings("ignore::torchpoly.OverfittingWarning")
@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.arange(12.0).reshape(6, 2) ** 2, np.full(6, 3.0)),
        (np.arange(12.0).reshape(6, 2) ** 2, np.full((6, 2), 1e9)),
        (np.ones((6, 2)), np.arange(6.0)),
        (np.ones((6, 1)), np.ones(6)),
        (np.arange(3.0)[:, None], np.array([1.0, 0.0, 2.0])),
        (np.array([[0.0], [0.0], [1.0]]), np.array([1.0, 2.0, 3.0])),
        (np.arange(20.0)[:, None], 1e200 * np.sin(np.arange(20.0))),
        (np.arange(20.0)[:, None], 1e-200 * np.sin(np.arange(20.0))),
        (1e200 * np.arange(20.0)[:, None], np.sin(np.arange(20.0))),
    ],
    ids=["constant y", "constant targets", "constant X", "all constant", "3 rows", "2 points", "huge", "tiny", "wide"],
)
def test_no_warning_at_the_edges(X, y):
    model = TorchPolynomialRegressor(**BOTH).fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    if np.ptp(y) == 0:
        assert (model.degree_, model.alpha_) == (1, 0.0)
        assert_allclose(model.predict(X), y, rtol=1e-15)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alpha", [1e-300, 1e300])
def test_extreme_penalties(alpha, rng):
    X, y = noisy_rows(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverfittingWarning)
        errors = TorchPolynomialRegressor("loo", alpha=alpha).fit(X, y).loo_path_["mean_squared_error"]
    assert np.isfinite(errors).all()


def random_data(seed):
    """Designs, levels, repeated rows, heavy tails, a row alone on a term; weights over decades and of 0; ties in y."""
    rng = np.random.default_rng(seed)
    n_rows, n_columns = int(rng.integers(3, 40)), int(rng.integers(1, 4))
    shape = n_rows, n_columns
    X = [
        rng.normal(size=shape),
        rng.integers(0, 4, shape) * 1.0,
        rng.integers(0, 2, shape) * 1.0,
        rng.normal(size=shape)[rng.integers(0, n_rows, n_rows)],
        rng.lognormal(0, 1, shape),
        np.column_stack([rng.normal(size=shape), np.eye(n_rows)[0]]),
        np.round(rng.normal(size=shape), 1),
    ][seed % 7]
    y = [rng.normal(size=n_rows), rng.poisson(0.7, n_rows) * 1.0, rng.standard_cauchy(n_rows)][int(rng.integers(0, 3))]
    weights = list(WEIGHTS.values())[int(rng.integers(0, len(WEIGHTS)))](rng, n_rows)
    return X, y + np.arange(n_rows) * 1e-3, weights, int(rng.integers(1, 4))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 1000), marks=pytest.mark.slow)], ids=len)
def test_random_data(seeds):
    for seed in seeds:
        X, y, weights, degree = random_data(seed)
        if weights is not None and np.count_nonzero(weights) < 3:
            continue
        model = TorchPolynomialRegressor(degree, alpha="loo").fit(X, y, weights)
        assert np.isfinite(errors_in(model.loo_path_)).all()
        # Where terms hardly differ at the rows, an error of rounding divided by the penalty is left.
        assert_errors_of_refits(model, X, y, weights, 1e-6, slice(1, None))


# --- The estimator in scikit-learn -------------------------------------------------------------------


def test_copies(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(2, alpha="loo").fit(X, Y)
    for copy in (pickle.loads(pickle.dumps(model)), clone(model).fit(X, Y)):
        assert_same_choice(copy, model, rtol=0)
        assert_array_equal(copy.predict(X), model.predict(X))


@pytest.mark.slow
def test_another_process_loads_it(surface, tmp_path):
    X, Y = surface
    model, path = TorchPolynomialRegressor(2, alpha="loo").fit(X, Y), tmp_path / "model.joblib"
    joblib.dump((model, X), path)
    code = (
        "import joblib, sys; model, X = joblib.load(sys.argv[1]);"
        "print(model.alpha, model.degree_, repr(model.alpha_), model.loo_path_['mean_squared_error'].sum().hex(),"
        "model.predict(X).sum().hex())"
    )
    printed = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    errors = model.loo_path_["mean_squared_error"].sum()
    assert printed.split() == ["loo", "2", repr(model.alpha_), errors.hex(), model.predict(X).sum().hex()]


def test_pipelines_and_dataframes(surface):
    X, Y = surface
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    alone = TorchPolynomialRegressor(**BOTH).fit(X, Y[:, 0])
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor(**BOTH)).set_output(transform="pandas")
    last = pipeline.fit(frame, Y[:, 0])[-1]
    assert last.feature_names_in_.tolist() == ["a", "b", "c"]
    assert (last.degree_, last.alpha_) == (alone.degree_, alone.alpha_)
    assert_allclose(pipeline.predict(frame), alone.predict(X), rtol=1e-6, atol=1e-6)
    assert "loo" in repr(last)
    assert "loo" in last._repr_html_()


def test_searches_over_other_parameters(surface, capsys):
    X, Y = surface
    X, y = X[:120], Y[:120, 0]
    grid = {"interaction_only": [False, True], "degree": [2, 3]}
    ours, theirs = (
        search(TorchPolynomialRegressor(alpha="loo"), grid, cv=KFold(3), **more).fit(X, y)
        for search, more in [(PolynomialGridSearchCV, {"verbose": 1}), (GridSearchCV, {})]
    )
    assert "leave-one-out errors" in capsys.readouterr().out
    assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-12)
    assert ours.best_params_ == theirs.best_params_
    assert_array_equal(ours.best_estimator_.predict(X), theirs.best_estimator_.predict(X))
    mixed = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"alpha": [0.0, 1e-2, "loo"]}, cv=KFold(3)).fit(X, y)
    standard = GridSearchCV(TorchPolynomialRegressor(), {"alpha": [0.0, 1e-2, "loo"]}, cv=KFold(3)).fit(X, y)
    assert_allclose(mixed.cv_results_["mean_test_score"], standard.cv_results_["mean_test_score"], rtol=1e-8)
    assert mixed.best_params_ == standard.best_params_


def test_warm_starts_and_optimizers(surface):
    X, Y = surface
    X, Y = X[:100, :2], Y[:100]
    reference = TorchPolynomialRegressor(**BOTH).fit(X, Y)
    warm = TorchPolynomialRegressor(3, warm_start=True).fit(X, -Y)
    warm.set_params(**BOTH).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        adam = TorchPolynomialRegressor(**BOTH, optimizer="adam").fit(X, Y)
    for model in (warm, adam):
        assert_same_choice(model, reference)
        assert_allclose(model.predict(X), reference.predict(X), atol=1e-6 * Y.std())


def test_callbacks_tell_of_training_alone(surface):
    callback = pytest.importorskip("sklearn.callback")
    X, Y = surface
    parameters = {"degree": 2, "optimizer": "adam", "n_iter": 12, "tol": None}
    monitor = callback.ScoringMonitor(scoring="r2")
    model = TorchPolynomialRegressor(**parameters, alpha="loo").set_callbacks(monitor).fit(X, Y[:, 0])
    assert len(monitor.get_logs().data) == model.n_iter_
    assert_same_choice(model, TorchPolynomialRegressor(**parameters, alpha="loo").fit(X, Y[:, 0]), rtol=0)


# --- Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["degree", "alpha"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"loss": "huber"}, "only for loss='squared_error', not 'huber'"),
        ({"loss": torch.nn.MSELoss()}, "only for loss='squared_error'"),
        ({"batch_size": 10, "optimizer": "adam"}, "without mini-batches: batch_size is 10"),
        ({"basis": "monomial"}, "not for basis='monomial'"),
    ],
    ids=["huber", "callable", "batches", "monomial"],
)
def test_what_leave_one_out_does_not_serve(name, more, message, surface):
    X, Y = surface
    model = TorchPolynomialRegressor().fit(X, Y)
    before = pickle.dumps(model)
    model.set_params(**more, **{name: "loo"})
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(X, Y)
    assert f"The {name!r} parameter got 'loo'" in str(caught.value)
    assert f"set {name!r} to a number" in str(caught.value)
    model.set_params(**TorchPolynomialRegressor().get_params())
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("name", ["degree", "alpha"])
def test_batches_of_rows_have_no_leave_one_out(name, surface):
    X, Y = surface
    with pytest.raises(ValueError, match=rf"The '{name}' parameter got 'loo', but partial_fit .* '{name}_'"):
        TorchPolynomialRegressor(**{name: "loo"}).partial_fit(X, Y)


@pytest.mark.parametrize("name", ["degree", "alpha"])
@pytest.mark.parametrize("value", ["LOO", "auto", None, [1]])
def test_other_values_get_the_message_of_scikit_learn(name, value, surface):
    with pytest.raises(ValueError, match=rf"The '{name}' parameter of TorchPolynomialRegressor must be .*\{{'loo'\}}"):
        TorchPolynomialRegressor(**{name: value}).fit(*surface)


@pytest.mark.parametrize("n_rows", [1, 2])
@pytest.mark.parametrize("name", ["degree", "alpha"])
def test_too_few_rows(name, n_rows, surface):
    X, Y = surface
    message = (
        f"The {name!r} parameter got 'loo', which needs at least 3 rows of positive weight, and got n_samples={n_rows}"
    )
    estimator = TorchPolynomialRegressor(**{name: "loo"})
    with pytest.raises(ValueError, match=message):
        estimator.fit(X[:n_rows], Y[:n_rows])
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, Y, np.arange(len(X)) < n_rows)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        estimator.fit(X[:0], Y[:0])
    assert not hasattr(estimator, "n_features_in_")


# --- The warning of overfitting ----------------------------------------------------------------------


def overfitting_warnings(call, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*arguments)
    return [warning for warning in caught if warning.category is OverfittingWarning]


def warns(X, y, weights=None, **parameters):
    return bool(overfitting_warnings(TorchPolynomialRegressor(**parameters).fit, X, y, weights))


def test_the_warning_has_both_numbers_and_the_line_of_the_user(rng):
    assert issubclass(OverfittingWarning, UserWarning)
    X, y = rng.normal(size=(15, 2)), rng.normal(size=15)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.currentframe().f_lineno + 1
        TorchPolynomialRegressor(3).fit(X, y)
    assert len(caught) == 1
    assert caught[0].category is OverfittingWarning
    assert (caught[0].filename, caught[0].lineno) == (__file__, line)
    for part in ("10 terms", "15 distinct rows", "alpha='loo'", "'degree', which is 3", "more rows"):
        assert part in str(caught[0].message)


def test_the_warning_advises_only_what_is_possible(rng):
    X, y = rng.normal(size=(15, 2)), rng.normal(size=15)
    for parameters in [{"loss": "huber"}, {"basis": "monomial"}, {"optimizer": "adam", "batch_size": 5, "n_iter": 20}]:
        estimator = TorchPolynomialRegressor(2, **parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            (given,) = overfitting_warnings(estimator.set_params(degree=3).fit, X, y)
        assert "loo" not in str(given.message)
        assert "alpha > 0" in str(given.message)
    exact = TorchPolynomialRegressor(**BOTH)
    assert not overfitting_warnings(exact.fit, X[:5], X[:5, 0])
    assert exact.alpha_ == 0


def test_when_the_warning_is_given(rng):
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    assert warns(X[:19], y[:19])
    assert not warns(X[:20], y[:20])  # two rows for each of ten terms
    assert not warns(X[:15, :1], y[:15], degree=10)  # a curve
    assert not warns(np.column_stack([X[:15, 0], np.ones(15)]), y[:15], degree=10)  # one column varies
    assert not warns(X[:10], y[:10], alpha=1e-12)
    assert not warns(X[:10], y[:10], degree=0)
    assert warns(X[:10], y[:10], degree=1, loss="absolute_error") == (10 < 2 * 3)
    assert warns(X[:5], y[:5], degree=1, loss="absolute_error")
    copies = np.r_[np.arange(19), np.zeros(21, dtype=int)]
    assert warns(X[copies], y)
    assert warns(np.tile(X[:19], (100, 1)), np.tile(y[:19], 100))
    assert warns(X, y, np.arange(40) < 19)
    assert not warns(X, y, np.arange(40) < 20)


def test_dask_arrays_warn_too(rng):
    dask = pytest.importorskip("dask.array")
    X, y = rng.normal(size=(19, 2)), rng.normal(size=19)
    lazy_X, lazy_y = dask.from_array(X, chunks=(8, 2)), dask.from_array(y, chunks=8)
    (given,) = overfitting_warnings(TorchPolynomialRegressor().fit, lazy_X, lazy_y)
    assert given.filename == __file__
    assert "19 distinct rows" in str(given.message)


SEARCHES = [
    {"degree": [2, 3]},  # the fast path
    {"degree": [2, 3], "alpha": [0.0], "loss": ["huber"]},  # all fits fall back
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("grid", "in_pipeline"), list(itertools.product(SEARCHES, [False, True])))
def test_a_search_warns_of_the_model_that_it_returns(grid, in_pipeline, n_jobs, rng):
    X, y = rng.normal(size=(14, 2)), rng.normal(size=14)
    y += X[:, 0] ** 3 * 100
    estimator = TorchPolynomialRegressor()
    if in_pipeline:
        estimator = make_pipeline(StandardScaler(), estimator)
        grid = {f"torchpolynomialregressor__{name}": values for name, values in grid.items()}
    search = PolynomialGridSearchCV(estimator, grid, cv=KFold(2), n_jobs=n_jobs, refit=lambda results: 1)
    given = overfitting_warnings(search.fit, X, y)
    assert len(given) == 1
    assert "10 terms and only 14 distinct rows" in str(given[0].message)
    assert overfitting_warnings(search.set_params(refit=False).fit, X, y) == []
    assert overfitting_warnings(clone(search).set_params(refit=lambda results: 0).fit, X[:12], y[:12]) == []


def test_a_model_that_a_search_returns_warns_when_fitted_again(rng):
    X, y = rng.normal(size=(14, 2)), rng.normal(size=14)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [3]}, cv=KFold(2)).fit(X, y)
    assert len(overfitting_warnings(search.best_estimator_.fit, X, y)) == 1


def test_the_warning_is_public(rng):
    assert pickle.loads(pickle.dumps(OverfittingWarning)) is OverfittingWarning
    assert OverfittingWarning.__module__ == "torchpoly"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", OverfittingWarning)
        warnings.simplefilter("ignore", LinAlgWarning)
        TorchPolynomialRegressor().fit(rng.normal(size=(12, 2)), rng.normal(size=12))
