"""Which columns and terms the rows can tell apart: dependent columns, few values, copies, narrow differences."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.polynomial import chebyshev
from numpy.testing import assert_allclose
from scipy.linalg import LinAlgWarning
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import PolynomialFeatures

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly._gram import factors
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.index_set import IndexSet

# --- Columns that others determine -------------------------------------------------------------------


def sensors(rng, n_rows):
    Z = rng.normal(size=(n_rows, 1)) + 0.05 * rng.normal(size=(n_rows, 2))
    return Z, Z.mean(axis=1)


def thermometers(rng, n_rows):
    Z = 20 + 5 * rng.normal(size=(n_rows, 1)) + 0.3 * rng.normal(size=(n_rows, 3))
    return Z, Z.mean(axis=1)


def parts(rng, n_rows):
    Z = np.round(rng.lognormal(3, 1, (n_rows, 2)), 1)
    return Z, Z.sum(axis=1)


def cents(rng, n_rows):
    Z = rng.integers(0, 100_000, (n_rows, 3)) / 100
    return Z, Z.sum(axis=1)


def gross_and_tax(rng, n_rows):
    Z = np.column_stack([np.round(rng.lognormal(8, 1, n_rows), 2), np.round(rng.lognormal(4, 1, n_rows), 2)])
    return Z, Z[:, 0] - Z[:, 1]


def repeated_digits():
    a, b = np.arange(4.0), np.array([0.0, 0.99, 1.99, 2.95])
    return np.column_stack([a, b, (a + b) / 2]), a**2, [[1.5, 1.51, 1.505]]


def mean_of_close_sensors():
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(10, 1)) + 0.05 * rng.normal(size=(10, 2))
    return np.column_stack([Z, Z.mean(axis=1)]), np.sin(3 * Z[:, 0]), [[0.623, 0.702, 0.6625]]


def three_points_twice():
    X = np.array([[0.18, 0.4, 0.89], [0.4, 0.68, 0.51], [0.54, 0.88, 0.25]])
    return np.repeat(X, 2, axis=0), np.repeat([0.1, 0.3, 0.4], 2), [[0.5, 0.5, 0.5]]


def total_in_single_precision():
    Z = np.random.default_rng(2).lognormal(2, 1, (50, 2)).astype(np.float32)
    return np.column_stack([Z, Z.sum(axis=1)]), Z[:, 0] - Z[:, 1], np.column_stack([Z, Z.sum(axis=1)])[:5]


@pytest.mark.parametrize(
    "reported", [repeated_digits, mean_of_close_sensors, three_points_twice, total_in_single_precision]
)
def test_planes_of_reported_data(reported):
    """Of degree 1, beside scikit-learn's LinearRegression, which leaves out directions of rounding."""
    X, y, new = reported()
    model, linear = TorchPolynomialRegressor(1).fit(X, y), LinearRegression().fit(X.astype(np.float64), y)
    assert model.rank_ == 1 + linear.rank_
    if reported is not three_points_twice:  # off the plane of its points
        assert_allclose(model.predict(new), linear.predict(new), rtol=1e-4)
    assert_allclose(model.predict(X), linear.predict(X), atol=1e-5 * np.abs(y).max())
    assert np.abs(model.predict(new)).max() < 3 * np.abs(y).max()
    assert np.abs(model.term_coef_).max() < 100


def number_and_flag(rng, n_rows):
    Z = np.column_stack([rng.normal(size=n_rows), rng.integers(0, 2, n_rows)])
    return Z, Z[:, 0] + Z[:, 1]


def flags(rng, n_rows):
    Z = np.eye(3)[rng.permutation(np.arange(n_rows) % 3)]
    return np.column_stack([Z[:, :2], rng.normal(size=n_rows)]), Z[:, 2]


def offset(rng, n_rows):
    Z = 1e6 + rng.uniform(size=(n_rows, 2))
    return Z, Z[:, 0] - 3 * Z[:, 1]


TABLES = [sensors, thermometers, parts, cents, gross_and_tax, number_and_flag, flags, offset]


@pytest.mark.parametrize("n_rows", [30, 400])
@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_a_dependent_column_changes_nothing(table, degree, n_rows, rng):
    """In each place, with rows in float32, with weights, from batches."""
    Z, total = table(rng, n_rows)
    y = np.sin(Z @ rng.normal(size=Z.shape[1]) / Z.std()) + 0.1 * rng.normal(size=n_rows)
    weights = rng.integers(0, 3, n_rows)
    without = TorchPolynomialRegressor(degree).fit(Z, y)
    for place in range(Z.shape[1] + 1):
        X = np.insert(Z, place, total, axis=1)
        model = TorchPolynomialRegressor(degree).fit(X, y)
        assert model.rank_ == without.rank_
        assert_allclose(model.predict(X), without.predict(Z), atol=1e-6 * y.std())
        assert np.abs(model.term_coef_).max() < 1e4 * max(1.0, np.abs(without.term_coef_).max())
        rounded = np.abs(model.predict(X.astype(np.float32)) - model.predict(X)).max()
        expected = np.abs(without.predict(Z.astype(np.float32)) - without.predict(Z)).max()
        assert rounded < 20 * expected + 1e-5
        weighted = TorchPolynomialRegressor(degree).fit(X, y, weights).predict(X)
        assert_allclose(weighted, TorchPolynomialRegressor(degree).fit(Z, y, weights).predict(Z), atol=1e-6)


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("table", [sensors, cents, flags], ids=lambda table: table.__name__)
def test_a_dependent_column_in_other_ways_of_fitting(table, rng):
    Z, total = table(rng, 200)
    X = np.column_stack([Z, total])
    Y = np.column_stack([np.sin(Z[:, 0]), Z[:, 1] ** 2]) + 0.1 * rng.normal(size=(200, 2))
    for parameters in [{}, {"loss": "huber"}, {"optimizer": "adam"}, {"basis": "chebyshev", "tol": 1e-10}]:
        model, without = (TorchPolynomialRegressor(2, **parameters).fit(columns, Y) for columns in (X, Z))
        assert_allclose(model.predict(X), without.predict(Z), atol=1e-4)
    assert_allclose(fit_in_batches(TorchPolynomialRegressor(2), X, Y, 50).predict(X), without.predict(Z), atol=1e-4)
    dask = pytest.importorskip("dask.array")
    lazy = TorchPolynomialRegressor(2).fit(dask.from_array(X, chunks=(60, -1)), dask.from_array(Y, chunks=(60, -1)))
    assert_allclose(lazy.predict(X), TorchPolynomialRegressor(2).fit(Z, Y).predict(Z), atol=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 1e-6])
def test_columns_that_are_constant_up_to_rounding(alpha, rng):
    """Unit prices and totals of shares say nothing, and hide nothing."""
    quantity = rng.integers(1, 50, 200).astype(float)
    X, y = np.column_stack([quantity, 0.7 * quantity / quantity]), np.sin(quantity / 5)
    assert len(np.unique(X[:, 1])) > 1
    priced = TorchPolynomialRegressor(6, alpha=alpha).fit(X, y)
    assert_allclose(priced.predict(X), TorchPolynomialRegressor(6, alpha=alpha).fit(X[:, :1], y).predict(X[:, :1]))
    shares = rng.dirichlet(np.ones(7), size=100)
    X, y = np.column_stack([shares, shares.sum(axis=1)]), np.sin(3 * shares[:, 0]) * shares[:, 1] + shares[:, 6]
    model, alone = (TorchPolynomialRegressor(2, alpha=alpha).fit(columns, y) for columns in (X, shares))
    assert_allclose(model.predict(X), alone.predict(shares), atol=1e-7)
    assert model.rank_ == (28 if alpha == 0 else 36)
    for rows in np.array_split(np.arange(100), 4):
        model.partial_fit(X[rows], y[rows])


@pytest.mark.parametrize("spread", [1e-5, 1e-4, 1e-3])
def test_columns_of_few_floats_keep_what_they_say(spread):
    """In single precision, at 100, 1e-5 is about one unit in the last place."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        u = rng.normal(size=500)
        X = (100 + spread * np.column_stack([rng.normal(size=500), u, u + 1e-3 * rng.normal(size=500)])).astype("f4")
        alone = TorchPolynomialRegressor(2).fit(X[:, 1:2], u).score(X[:, 1:2], u)
        assert TorchPolynomialRegressor(2).fit(X, u).score(X, u) > alone - 1e-6


def test_a_fold_in_which_columns_depend_on_each_other(rng):
    """Beside GridSearchCV over the same estimator."""
    X = rng.normal(size=(100, 3))
    X[:80, 2] = X[:80, 0] + X[:80, 1]
    y = X[:, 0] ** 2 + X[:, 2] + 0.1 * rng.normal(size=100)
    grid = {"degree": [1, 2, 3], "alpha": [0.0, 1e-3]}
    ours, theirs = (
        search(TorchPolynomialRegressor(), grid, cv=KFold(5)).fit(X, y)
        for search in (PolynomialGridSearchCV, GridSearchCV)
    )
    assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("width", [0.1, 1e-2, 1e-3, 1e-5, 1e-7, 1e-9])
def test_a_signal_in_a_narrow_direction_stays(width, rng):
    def rows():
        u, v = rng.uniform(-1, 1, (2, 400))
        return np.column_stack([u, u + width * v]), np.sin(2 * v) + 0.3 * u

    (X, y), (X_new, y_new) = rows(), rows()
    assert TorchPolynomialRegressor(3).fit(X, y + 0.01 * rng.normal(size=400)).score(X_new, y_new) > 0.999


@pytest.mark.parametrize(
    ("n_points", "n_columns"), [(3, 3), (4, 2), (6, 4), (10, 9), (12, 12)], ids=lambda number: str(number)
)
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_copies_of_rows_are_weights(n_points, n_columns, degree, rng):
    X, y, new = rng.uniform(size=(n_points, n_columns)), rng.uniform(size=n_points), rng.uniform(size=(20, n_columns))
    copies = rng.integers(1, 4, n_points)
    once = TorchPolynomialRegressor(degree).fit(X, y, copies)
    copied = TorchPolynomialRegressor(degree).fit(np.repeat(X, copies, axis=0), np.repeat(y, copies))
    assert copied.rank_ == once.rank_
    assert_allclose(copied.predict(new), once.predict(new), atol=1e-7)


# --- Columns of few values, and more terms than the rows determine -----------------------------------


def least_norm(model, X, y, new, weights=None):
    """NumPy's least squares of least norm on products of capped Chebyshev polynomials, divided by degree**1.5."""
    low, high = X.min(axis=0), X.max(axis=0)
    caps = [len(np.unique(column)) - 1 if len(np.unique(column)) <= 5 else model.degree for column in X.T]
    powers = [p for p in PolynomialFeatures(model.degree).fit(X).powers_ if (p <= caps).all() and p.any()]

    def features(rows):
        scaled = (rows - (low + high) / 2) / ((high - low) / 2)
        univariate = chebyshev.chebvander(scaled, model.degree)
        products = [np.prod([univariate[:, j, k] for j, k in enumerate(power)], axis=0) for power in powers]
        return np.column_stack(products) / np.sum(powers, axis=1) ** 1.5

    share = np.ones(len(X)) if weights is None else weights
    share = share / share.sum()
    means, mean = share @ features(X), share @ y
    roots = np.sqrt(share)
    solution = np.linalg.lstsq(roots[:, None] * (features(X) - means), roots * (y - mean), rcond=1e-11)[0]
    return mean + (features(new) - means) @ solution


CUBE = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))
SQUARE = np.array(list(itertools.product((-1.0, 1.0), repeat=2)))
DESIGNS = {
    "three settings": np.repeat([[0.0], [1.0], [2.0]], 4, axis=0),
    "seven settings": np.repeat(np.arange(7.0)[:, None], 3, axis=0),
    "3^3": CUBE,
    "Box-Behnken": np.vstack([CUBE[np.abs(CUBE).sum(axis=1) == 2], np.zeros((3, 3))]),
    "central composite": np.vstack([SQUARE, 1.5 * np.eye(2), -1.5 * np.eye(2), [[0, 0]]]),
    "few points": np.random.default_rng(5).uniform(-1, 1, (12, 3)),
    "one row": np.array([[2.0, 3.0]]),
    "flag and number": np.column_stack([np.arange(30) % 2, np.random.default_rng(6).uniform(-1, 1, 30)]),
}


@pytest.mark.parametrize("held", [factors.MAX_DENSE_ELEMENTS, 0])
@pytest.mark.parametrize("degree", [2, 3, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("design", DESIGNS)
def test_the_fit_of_least_norm(design, degree, held, rng, monkeypatch):
    """Of all best fits the one of least degree-weighted norm, by terms and by rows, with weights."""
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", held)
    if not held:
        monkeypatch.setattr(factors, "_MAX_DENSE_TERMS_PER_ROW", 0)
    X = DESIGNS[design]
    y, weights = rng.normal(size=len(X)), rng.uniform(0.5, 2, len(X))
    new = rng.uniform(X.min(axis=0), X.max(axis=0), (30, X.shape[1]))
    model = TorchPolynomialRegressor(degree)
    if len(X) == 1:
        assert_allclose(model.fit(X, y).predict(new), y[0])
        return
    assert_allclose(model.fit(X, y).predict(new), least_norm(model, X, y, new), atol=1e-6)
    assert_allclose(model.fit(X, y, weights).predict(new), least_norm(model, X, y, new, weights), atol=1e-6)
    wide = 10.0 ** rng.uniform(-5, 0, len(X))
    assert_allclose(model.fit(X, y, wide).predict(X), least_norm(model, X, y, X, wide), atol=1e-4)
    chebyshev_basis = TorchPolynomialRegressor(degree, basis="chebyshev", tol=1e-11, n_iter=5000)
    assert_allclose(chebyshev_basis.fit(X, y).predict(new), least_norm(model, X, y, new), atol=1e-4)
    for small in (1e-7, 1e-10):
        penalized = TorchPolynomialRegressor(degree, alpha=small).fit(X, y)
        assert_allclose(penalized.predict(new), model.fit(X, y).predict(new), atol=1e4 * small)


@pytest.mark.parametrize("held", [factors.MAX_DENSE_ELEMENTS, 0])
@pytest.mark.parametrize(("n_rows", "degree"), [(8, 20), (20, 40), (60, 100)])
def test_one_column_of_few_points(n_rows, degree, held, rng, monkeypatch):
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", held)
    monkeypatch.setattr(factors, "_MAX_DENSE_TERMS_PER_ROW", 2 if held else 0)
    X = np.linspace(-1, 1, n_rows)[:, None]
    y, new = 1 / (1 + 16 * X[:, 0] ** 2) + 0.05 * rng.normal(size=n_rows), np.linspace(-1, 1, 300)[:, None]
    model = TorchPolynomialRegressor(degree).fit(X, y)
    assert_allclose(model.predict(new), least_norm(model, X, y, new), atol=1e-6)
    assert_allclose(model.predict(X), y, atol=1e-9)
    assert np.abs(model.predict(new)).max() < 2
    copies = TorchPolynomialRegressor(degree).fit(np.tile(X, (8, 1)), np.tile(y, 8))
    assert_allclose(copies.predict(new), model.predict(new), atol=1e-5)


def test_chebyshev_products_do_not_explode(rng):
    x = np.sort(rng.uniform(size=60))[:, None]
    model = TorchPolynomialRegressor(60, basis="chebyshev", tol=None).fit(x, np.sin(6 * x[:, 0]))
    new = np.linspace(x.min(), x.max(), 500)
    assert np.abs(model.predict(new[:, None]) - np.sin(6 * new)).max() < 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "quantile", torch.nn.MSELoss()])
@pytest.mark.parametrize("alpha", [0.0, 1e-12])
def test_a_line_through_few_settings_stays_a_line(loss, alpha):
    X, y = np.array([[0.0], [1.0], [2.0]] * 4), np.array([1.0, 3.0, 5.0] * 4)
    model = TorchPolynomialRegressor(loss=loss, alpha=alpha).fit(X, y)
    assert_allclose(model.predict([[0.5], [1.5]]), [2.0, 4.0], atol=1e-5)
    assert_allclose(model.term_coef_[1:], 0.0, atol=1e-5)
    assert len(model.powers_) == 3


def test_powers_of_few_values_keep_their_place(rng):
    X = np.column_stack([rng.integers(0, 2, 100), rng.integers(0, 3, 100), rng.normal(size=100)])
    model = TorchPolynomialRegressor(3).fit(X, rng.normal(size=100))
    assert np.array_equal(model.powers_, PolynomialFeatures(3, include_bias=False).fit(X).powers_)
    capped = (model.powers_[:, 0] > 1) | (model.powers_[:, 1] > 2)
    assert (model.term_coef_[capped] == 0).all()
    assert (model.term_coef_[~capped] != 0).all()
    assert model.rank_ == 1 + np.count_nonzero(~capped)
    left = PolynomialFeatures(3).fit_transform(X)[:, np.r_[True, ~capped]]
    y = rng.normal(size=100)
    expected = LinearRegression(fit_intercept=False).fit(left, y).predict(left)
    assert_allclose(model.fit(X, y).predict(X), expected, atol=1e-9)


def test_values_that_later_batches_bring(rng):
    """Batches of one value, two, and many: the fit to all rows."""
    columns = [np.zeros(20), rng.integers(0, 2, 20), rng.integers(0, 4, 40), rng.normal(size=60)]
    X = np.column_stack([np.concatenate(columns), rng.normal(size=140), np.arange(140) % 2])
    y = rng.normal(size=140)
    model = TorchPolynomialRegressor(3)
    for stop in (20, 40, 80, 140):
        start = 0 if stop == 20 else {40: 20, 80: 40, 140: 80}[stop]
        model.partial_fit(X[start:stop], y[start:stop])
        expected = TorchPolynomialRegressor(3).fit(X[:stop], y[:stop])
        assert_allclose(model.predict(X[:stop]), expected.predict(X[:stop]), atol=1e-8)
        assert model.rank_ == expected.rank_
    fitted = TorchPolynomialRegressor(3).fit(X[:80], y[:80]).partial_fit(X[80:], y[80:])
    assert_allclose(fitted.predict(X), model.predict(X), atol=1e-8)


@pytest.mark.parametrize("apart", [0.0, 1e-16, 1e-14, 1e-10, 1e-5])
def test_values_that_differ_by_rounding(apart, rng):
    """0.1 + 0.2 and 0.3 are one value, in one batch and in several."""
    first, later = np.array([0.0, 0.3, 0.3 + apart, 0.1 + 0.2] * 5)[:, None], rng.uniform(0, 2, (12, 1))
    if apart < 1e-15 or apart > 1e-6:  # else the fit goes through values that differ by more than rounding
        levels = TorchPolynomialRegressor().fit(first, 2 * first[:, 0] + 1)
        assert_allclose(levels.predict([[0.05], [0.2]]), [1.1, 1.4], atol=1e-4)
    X = np.vstack([first, later])
    y = np.sin(X[:, 0])
    for degree in (3, 6):
        expected = TorchPolynomialRegressor(degree).fit(X, y).predict(later)
        batches = TorchPolynomialRegressor(degree).partial_fit(first, y[:20]).partial_fit(later, y[20:])
        assert_allclose(batches.predict(later), expected, atol=1e-8)


@pytest.mark.parametrize("columns", [(2, 2, 2), (2, 3, 9), (5, 6, 7), (1, 2, 5)])
def test_caps_count_terms(columns, rng):
    X = np.column_stack([np.arange(60.0) % n for n in columns])
    for degree in (1, 3, 5, 12):
        basis = Basis.spanning(Box.of(X, None), IndexSet(3, degree))
        every = itertools.product(*(range(n if n <= 5 else degree + 1) for n in columns))
        expected = {power for power in every if sum(power) <= degree}
        ours = [tuple(power) for power in basis.indices.powers]
        assert len(ours) == basis.n_terms == len(expected)
        full = [power for power in map(tuple, PolynomialFeatures(degree).fit(X).powers_.tolist()) if power in expected]
        varying = [power[len(columns) - len(ours[0]) :] for power in full]
        assert ours == varying


@pytest.mark.slow
def test_memory_is_for_the_terms_that_are_left(rng):
    X, y = rng.integers(0, 2, (200, 8)), rng.normal(size=200)
    assert IndexSet(8, 300).n_terms > 1e14
    assert TorchPolynomialRegressor(300).fit(X, y).rank_ == len(np.unique(X, axis=0))
    assert TorchPolynomialRegressor(300).partial_fit(X, y).n_features_in_ == 8
    dask = pytest.importorskip("dask.array")
    X = dask.from_array(rng.normal(size=(40, 6)), chunks=(2, 6))
    with pytest.raises(ValueError, match=r"'degree' parameter got 30.*greatest degree that fits"):
        TorchPolynomialRegressor(30).fit(X, X[:, 0])


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("basis", ["orthonormal", "chebyshev"])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_alpha_beside_ridge(degree, basis, optimizer, rng, penalized_features):
    X, y = rng.uniform(-1, 1, (200, 2)), rng.normal(size=200)
    model = TorchPolynomialRegressor(degree, alpha=1e-2, basis=basis, optimizer=optimizer, n_iter=20_000).fit(X, y)
    ridge = Ridge(alpha=1e-2 * 200).fit(penalized_features(model, X), y)
    assert_allclose(model.predict(X), ridge.predict(penalized_features(model, X)), atol=1e-6)


# --- Copies of a column that are rounded otherwise ---------------------------------------------------


def rounded_copy(rng, digits=8, new_digits=6):
    x, new = rng.uniform(-1, 1, 200), rng.uniform(-0.95, 0.95, 200)
    X = pd.DataFrame({"length": x, "copy": x.round(digits)})
    return X, np.sin(3 * x), pd.DataFrame({"length": new, "copy": new.round(new_digits)})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.parametrize("extrapolation", ["constant", "linear"])
@pytest.mark.parametrize("digits", [(8, 6), (6, 4), (8, 3)], ids=str)
def test_a_copy_that_is_rounded_otherwise_stays_in_its_box(digits, extrapolation, rng):
    X, y, X_new = rounded_copy(rng, *digits)
    model = TorchPolynomialRegressor(3, extrapolation=extrapolation).fit(X, y)
    alone = TorchPolynomialRegressor(3).fit(X[["length"]], y)
    predictions = model.predict(X_new)
    assert_allclose(predictions, alone.predict(X_new[["length"]]), atol=0.1)
    in_training = TorchPolynomialRegressor(3).fit(X, y).predict(X)
    assert_allclose(model.predict(X), in_training, atol=1e-9)
    assert_allclose(model.module_(torch.tensor(X_new.to_numpy())).numpy(), predictions, atol=1e-6)
    exported = torch.export.export(model.module_, (torch.tensor(X_new.to_numpy()),)).module()
    assert_allclose(exported(torch.tensor(X_new.to_numpy())).numpy(), predictions, atol=1e-6)
    outside = X_new + 3.0
    assert_allclose(model.module_(torch.tensor(outside.to_numpy())).numpy(), model.predict(outside), rtol=1e-6)


def test_rows_outside_a_narrow_box_are_refused_or_warned_of(rng):
    X, y, X_new = rounded_copy(rng)
    with pytest.warns(LinAlgWarning, match=r"\['length', 'copy'\] nearly coincide.*difference.*drop one.*alpha > 0"):
        model = TorchPolynomialRegressor(3).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(X)
        TorchPolynomialRegressor(3, alpha=1e-3).fit(X, y).predict(X_new)
    with pytest.warns(UserWarning, match=r"\d+ rows of X .* far outside .*\['length', 'copy'\]") as caught:
        model.predict(X_new)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    model.set_params(extrapolation="error").predict(X)
    with pytest.raises(ValueError, match=r"\['length', 'copy'\] differ.*'extrapolation' parameter got 'error'"):
        model.predict(X_new)
    with pytest.raises(ValueError, match="'extrapolation' parameter got 'error'"):
        model.module_(torch.tensor(X_new.to_numpy()))


# --- What is lost is told ----------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True], ids=["array", "Dask"])
def test_extreme_values_that_hide_terms_are_named(lazy, rng):
    X = pd.DataFrame({"time": rng.uniform(size=60), "temperature": rng.normal(size=60)})
    y = np.sin(2 * X["temperature"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TorchPolynomialRegressor(5).fit(X, y)
    X.loc[7, "temperature"] = -9999.0
    if lazy:
        dask = pytest.importorskip("dask.dataframe")
        X, y = dask.from_pandas(X, npartitions=3), dask.from_pandas(y, npartitions=3)
    with pytest.warns(LinAlgWarning, match=r"extreme values in columns \['temperature'\] hide terms.*impute"):
        TorchPolynomialRegressor(5).fit(X, y)


def fit_in_batches(model, X, y, size):
    for start in range(0, len(X), size):
        model.partial_fit(X[start : start + size], y[start : start + size])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 20, 200])
@pytest.mark.parametrize("width", [1e-5, 1e-6, 1e-7, 1e-8, 1e-10])
def test_batches_that_hide_a_narrow_direction_warn(width, size, rng):
    u, v = rng.uniform(-1, 1, (2, 200))
    X = np.column_stack([u, u + width * v])
    with pytest.warns(LinAlgWarning, match="ill-conditioned"):
        fit_in_batches(TorchPolynomialRegressor(3), X, np.sin(3 * v), size)


@pytest.mark.parametrize("n_later", [1, 2, 40])
def test_batches_far_apart_warn(n_later):
    t = np.arange(50.0)[:, None]
    model = TorchPolynomialRegressor(3).partial_fit(t[:10], np.sin(t[:10, 0] / 8))
    with pytest.warns(LinAlgWarning, match="ill-conditioned"):
        model.partial_fit(1.7e9 + t[10 : 10 + n_later], np.sin(t[10 : 10 + n_later, 0] / 8))


@pytest.mark.parametrize("table", [cents, flags, number_and_flag, parts], ids=lambda table: table.__name__)
@pytest.mark.parametrize("size", [1, 20])
def test_batches_of_dependent_columns_are_quiet(table, size, rng):
    Z, total = table(rng, 60)
    X = np.column_stack([Z, total, Z[:, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_in_batches(TorchPolynomialRegressor(1), X, Z[:, 0] + rng.normal(size=60), size)
