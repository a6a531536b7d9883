"""Certified data, other libraries' best, and data at the edges of floating point."""

import runpy
import tracemalloc
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from numpy.polynomial import Chebyshev, Polynomial, chebyshev
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures

from torchpoly import TorchPolynomialRegressor
from torchpoly._gram import factors

BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks"

# NIST Statistical Reference Datasets, linear regression, Wampler 1 to 5: published data (y at
# x = 0, 1, ..., 20) and certified coefficients.
POWERS = np.arange(6)
X_WAMPLER = np.arange(21.0)
# fmt: off
DISTURBANCE = np.array([
    759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048,
    -2048, 1838, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 759,
])
WAMPLER_2 = np.array([
    1.00000, 1.11111, 1.24992, 1.42753, 1.65984, 1.96875, 2.38336, 2.94117, 3.68928, 4.68559, 6.00000,
    7.71561, 9.92992, 12.75603, 16.32384, 20.78125, 26.29536, 33.05367, 41.26528, 51.16209, 63.00000,
])
# fmt: on
WAMPLER_1 = (X_WAMPLER[:, None] ** POWERS).sum(axis=1)
WAMPLER = {
    1: (WAMPLER_1, np.ones(6)),
    2: (WAMPLER_2, 0.1**POWERS),
    3: (WAMPLER_1 + DISTURBANCE, np.ones(6)),
    4: (WAMPLER_1 + 100 * DISTURBANCE, np.ones(6)),
    5: (WAMPLER_1 + 10000 * DISTURBANCE, np.ones(6)),
}


def certified_digits(coefficients, certified):
    error = np.abs(coefficients - certified) / np.abs(certified)
    return float(np.min(-np.log10(np.maximum(error, 1e-15))))


@pytest.mark.parametrize("number", WAMPLER)
def test_certified_digits_at_least_numpys(number, rng):
    y, certified = WAMPLER[number]
    ours, numpys = [], []
    # The last digits depend on the order of the rows; the median over orders does not.
    for _ in range(15):
        order = rng.permutation(21)
        model = TorchPolynomialRegressor(degree=5).fit(X_WAMPLER[order, None], y[order])
        ours.append(certified_digits(np.r_[model.intercept_, model.term_coef_], certified))
        reference = Polynomial.fit(X_WAMPLER[order], y[order], 5).convert().coef
        numpys.append(certified_digits(reference, certified))

    assert np.median(ours) >= np.median(numpys)


def test_degree_100_on_runges_function():
    x = np.linspace(-1, 1, 5000)
    y = 1 / (1 + 25 * x**2)
    model = TorchPolynomialRegressor(degree=100).fit(x[:, None], y)

    numpys = np.abs(Chebyshev.fit(x, y, 100)(x) - y).max()
    assert np.abs(model.predict(x[:, None]) - y).max() <= 1.05 * numpys < 2e-9


@pytest.mark.parametrize("distance", [1e-7, 1e-9, 1e-11])
def test_columns_that_nearly_coincide(distance, rng):
    x, noise = rng.uniform(-1, 1, 2000), rng.normal(size=2000)
    X = np.column_stack([x, x + distance * noise])
    y = np.sin(2 * x) + noise**2 - noise * x

    assert TorchPolynomialRegressor(degree=3).fit(X, y).score(X, y) > 0.9999


@pytest.mark.parametrize("distance", [1e-3, 1e-13, 0.0])
def test_columns_that_nearly_coincide_at_a_high_degree(distance, rng):
    x = rng.uniform(-1, 1, 3000)
    X = np.column_stack([x, x + distance * rng.normal(size=3000)])
    assert TorchPolynomialRegressor(degree=25).fit(X, np.exp(x)).score(X, np.exp(x)) > 1 - 1e-12


def test_principal_axes_keep_the_coefficients(rng):
    """A cubic in columns with correlation 0.99995 comes back in their monomials."""
    x, noise = rng.uniform(-1, 1, (2, 500))
    X = np.column_stack([x, x + 0.01 * noise, rng.uniform(2, 3, 500)])
    features = PolynomialFeatures(3, include_bias=False)
    truth = rng.normal(size=features.fit_transform(X).shape[1])
    model = TorchPolynomialRegressor(degree=3).fit(X, features.transform(X) @ truth - 4.0)

    assert model._polynomial.basis.domain.axes is not None
    np.testing.assert_allclose(model.term_coef_, truth, atol=1e-5)
    np.testing.assert_allclose(model.intercept_, -4.0, atol=1e-5)


def test_identical_columns_share_one_direction(rng):
    x = rng.uniform(-1, 1, 100)
    model = TorchPolynomialRegressor(degree=3).fit(np.column_stack([x, x, 2 * x]), np.exp(x))

    assert model.rank_ == 4
    np.testing.assert_allclose(
        model.predict(np.column_stack([x, x, 2 * x])), Chebyshev.fit(x, np.exp(x), 3)(x), rtol=1e-12
    )


@pytest.mark.parametrize("interaction_only", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 1e-10])
@pytest.mark.parametrize("n_features", [1, 3, 12])
def test_fewer_rows_than_terms_interpolate(n_features, alpha, interaction_only, rng):
    n_rows = min(10, 2**n_features - 1 if interaction_only else 10)
    X, y = rng.uniform(-1, 1, (n_rows, n_features)), rng.normal(size=n_rows)
    model = TorchPolynomialRegressor(
        degree=12 if n_features == 1 else 3, alpha=alpha, interaction_only=interaction_only
    )
    model.fit(X, y)

    np.testing.assert_allclose(model.predict(X), y, atol=1e-6)
    assert model.rank_ <= n_rows + 1


def test_least_norm_does_not_depend_on_how_it_is_found(rng):
    """With as many rows as terms less one, and a row repeated to make them more, the fit is the same."""
    X, y = rng.uniform(-1, 1, (9, 2)), rng.normal(size=9)
    few = TorchPolynomialRegressor(degree=3).fit(X, y)
    many = TorchPolynomialRegressor(degree=3).fit(np.tile(X, (2, 1)), np.tile(y, 2))

    grid = rng.uniform(-1, 1, (50, 2))
    np.testing.assert_allclose(few.predict(grid), many.predict(grid), rtol=1e-9, atol=1e-9)


def test_constant_columns_get_no_weight(rng):
    x = rng.uniform(-1, 1, 50)
    X = np.column_stack([np.full(50, 7.0), x, np.full(50, 1e9)])
    model = TorchPolynomialRegressor(degree=4).fit(X, np.exp(x))

    assert not model.term_coef_[model.powers_[:, [0, 2]].any(axis=1)].any()
    np.testing.assert_allclose(model.predict(X), Chebyshev.fit(x, np.exp(x), 4)(x), rtol=1e-12)


@pytest.mark.parametrize("basis", ["orthonormal", "chebyshev", "monomial"])
def test_one_row_and_constant_targets(basis):
    model = TorchPolynomialRegressor(basis=basis).fit([[2.0, 3.0]], [5.0])
    np.testing.assert_allclose(model.predict([[2.0, 3.0]]), [5.0], rtol=1e-6)
    model = TorchPolynomialRegressor().fit([[1.0], [2.0], [3.0]], [4.0, 4.0, 4.0])
    np.testing.assert_array_equal(model.predict([[1.5], [9.0]]), [4.0, 4.0])
    assert model.loss_curve_[-1] == 0.0


@pytest.mark.parametrize("factor", [1e150, 1e-150, -1e6])
def test_units_do_not_matter(factor):
    x = np.linspace(-np.pi, np.pi, 300)[:, None]
    y = np.sin(x[:, 0]) + 0.1 * np.cos(9 * x[:, 0])
    model = TorchPolynomialRegressor(degree=5).fit(x, y)

    other = TorchPolynomialRegressor(degree=5).fit(x * factor, y)
    np.testing.assert_allclose(other.predict(x * factor), model.predict(x), rtol=1e-12, atol=1e-12)
    other = TorchPolynomialRegressor(degree=5).fit(x, y * factor)
    np.testing.assert_allclose(other.predict(x) / factor, model.predict(x), rtol=1e-12, atol=1e-12)
    assert other.score(x, y * factor) == pytest.approx(model.score(x, y), abs=1e-12)


def test_targets_far_from_0_keep_their_digits():
    x = np.linspace(-np.pi, np.pi, 1000)
    model = TorchPolynomialRegressor(degree=15).fit(x[:, None], 1e9 + np.sin(x))
    # One unit in the last place of 1e9 is 1.2e-7.
    assert np.abs(model.predict(x[:, None]) - (1e9 + np.sin(x))).max() < 5e-7


def test_monomials_are_correctly_rounded(rng):
    """Degree 20 on [1000, 1001], where the conversion loses 60 digits in floating point."""
    X = rng.uniform(1000, 1001, (400, 1))
    model = TorchPolynomialRegressor(degree=20).fit(X, np.sin(7 * X[:, 0]))
    polynomial = model._polynomial

    with mpmath.workdps(200):
        center, half_width = (
            mpmath.mpf(float(value[0]))
            for value in (polynomial.basis.domain.center, polynomial.basis.domain.half_width)
        )
        u = Polynomial(np.array([-center / half_width, 1 / half_width], dtype=object))
        before, last = Polynomial(np.array([mpmath.mpf(1)], dtype=object)), u
        total = before * mpmath.mpf(float(polynomial.coefficients[0, 0]))
        for coefficient in polynomial.coefficients[1:, 0]:
            total = total + last * mpmath.mpf(float(coefficient))
            before, last = last, 2 * u * last - before
        total = total * mpmath.mpf(float(polynomial.targets.scale[0])) + mpmath.mpf(float(polynomial.targets.center[0]))
        expected = [float(value) for value in total.coef]

    np.testing.assert_array_equal(np.r_[model.intercept_, model.term_coef_], expected)


@pytest.mark.parametrize(("n_rows", "n_features", "degree"), [(20, 4, 3), (50, 5, 3), (60, 10, 2), (100, 8, 3)])
@pytest.mark.parametrize("large", [factors.MAX_DENSE_ELEMENTS, 0])
def test_least_norm_of_the_basis_where_terms_outnumber_rows(
    n_rows, n_features, degree, large, rng, monkeypatch, penalized_features
):
    """Against NumPy's minimum-norm solution, at new points; the constant is free, so means are taken out."""
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", large)
    for _ in range(5):
        X, y = rng.uniform(-1, 1, (n_rows, n_features)), rng.normal(size=n_rows)
        model = TorchPolynomialRegressor(degree).fit(X, y)
        features = penalized_features(model, X)
        solution = np.linalg.lstsq(features - features.mean(axis=0), y - y.mean())[0]

        assert model.rank_ == n_rows
        grid = rng.uniform(-1, 1, (50, n_features))
        expected = y.mean() + (penalized_features(model, grid) - features.mean(axis=0)) @ solution
        np.testing.assert_allclose(model.predict(grid), expected, atol=1e-9)


@pytest.mark.parametrize("large", [factors.MAX_DENSE_ELEMENTS, 0])
@pytest.mark.parametrize("optimizer", ["lbfgs", pytest.param("adam", marks=pytest.mark.slow)])
def test_penalty_where_terms_outnumber_rows(large, optimizer, rng, monkeypatch, penalized_features):
    """Against scikit-learn's Ridge on the same features, at new points."""
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", large)
    X, y, weights = rng.uniform(-1, 1, (60, 8)), rng.normal(size=60), rng.uniform(0, 2, 60)
    model = TorchPolynomialRegressor(3, alpha=1e-3, optimizer=optimizer).fit(X, y, weights)
    ridge = Ridge(alpha=1e-3 * weights.sum(), tol=1e-12).fit(penalized_features(model, X), y, weights)
    grid = rng.uniform(-1, 1, (50, 8))
    expected = ridge.predict(penalized_features(model, grid))
    np.testing.assert_allclose(model.predict(grid), expected, atol=1e-5 if optimizer == "adam" else 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": 1e-6},
        {"optimizer": "adam", "tol": None, "n_iter": 50},
        {"loss": "huber", "alpha": 0.01},
        {"loss": "absolute_error"},
        {"loss": torch.nn.SmoothL1Loss(), "alpha": 1e-4},
        {"alpha": 0.01, "optimizer": "adam", "batch_size": 10, "n_iter": 5, "tol": None},
        {"basis": "chebyshev", "optimizer": "adam", "n_iter": 50, "tol": None},
        {"alpha": 0.01, "basis": "chebyshev", "loss": "huber", "optimizer": "adam", "n_iter": 50, "tol": None},
        {"basis": "monomial", "degree": 2},
        {"interaction_only": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_few_rows_of_many_terms_train_alike_held_or_not(parameters, weighted, rng, monkeypatch):
    X, Y, grid = rng.uniform(-1, 1, (40, 10)), rng.normal(size=(40, 2)), rng.uniform(-1, 1, (50, 10))
    weights = rng.integers(0, 3, 40) if weighted else None
    single = callable(parameters.get("loss"))
    model = TorchPolynomialRegressor(**parameters)
    held = clone(model).fit(X, Y, None if single else weights)
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", 0)
    evaluated = clone(model).fit(X, Y, None if single else weights)

    np.testing.assert_allclose(evaluated.predict(grid), held.predict(grid), atol=1e-6)
    np.testing.assert_allclose(evaluated.loss_curve_[-1], held.loss_curve_[-1], rtol=1e-6, atol=1e-12)
    assert evaluated.rank_ == held.rank_


@pytest.mark.parametrize("kind", ["close rows", "powers", "weights"])
def test_rows_that_are_hard_to_tell_apart_are_interpolated(kind, rng, monkeypatch):
    """Where the rows' own Gram matrix has a condition number of 1e12 and more, but not where rows are the same."""
    monkeypatch.setattr(factors, "MAX_DENSE_ELEMENTS", 0)
    monkeypatch.setattr(factors, "_MAX_DENSE_TERMS_PER_ROW", 0)
    X, degree, weights = rng.normal(size=(40, 8)), 3, None
    if kind == "close rows":
        X[20:] = X[:20] + 1e-5 * rng.normal(size=(20, 8))
    elif kind == "powers":
        X, degree = rng.uniform(-1, 1, size=(40, 2)), 12
    else:
        weights = 10.0 ** rng.uniform(-12, 0, 40)
    y = rng.normal(size=len(X))
    model = TorchPolynomialRegressor(degree).fit(X, y, weights)
    assert model.rank_ == len(X)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-7)

    repeated = np.r_[np.arange(40), np.arange(20)]
    model.fit(X[repeated], y[repeated], None if weights is None else weights[repeated])
    assert model.rank_ == len(X)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-7)


def test_few_rows_of_many_terms_are_never_held(rng):
    X, y = rng.uniform(-1, 1, (100, 40)), rng.normal(size=100)
    TorchPolynomialRegressor(1).fit(X, y)
    tracemalloc.start()
    model = TorchPolynomialRegressor(4).fit(X, y)
    fitted = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    predictions = model.predict(X)
    predicted = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    np.testing.assert_allclose(predictions, y, atol=1e-9)
    # 135751 terms: 108 MB for all rows, 147 GB for a Gram matrix of the terms.
    assert fitted < 40e6
    assert predicted < 40e6


def test_a_binary_column_where_terms_outnumber_rows(rng):
    """Powers of a binary column are all the same term; R2 is that of the distinct ones."""
    for n_rows in (15, 17, 20, 21, 27):
        X = np.column_stack([np.arange(n_rows) % 2, rng.uniform(-1, 1, n_rows)])
        y = rng.normal(size=n_rows)
        features = PolynomialFeatures(6).fit_transform(X)
        fitted = features @ np.linalg.lstsq(features, y)[0]
        residuals = TorchPolynomialRegressor(6).fit(X, y).predict(X) - y
        np.testing.assert_allclose(residuals @ residuals, np.sum((fitted - y) ** 2), rtol=1e-6)


@pytest.mark.parametrize("degree", [5, 12, 20])
@pytest.mark.parametrize("n_rows", [1000, 30_000])
@pytest.mark.parametrize("distribution", ["normal", "lognormal", "standard_cauchy", "clusters", "beta"])
def test_columns_far_from_uniform(distribution, n_rows, degree, rng):
    """As good as NumPy's Householder least squares, in one chunk and in several."""
    if distribution == "clusters":
        x = np.r_[rng.normal(0, 0.01, n_rows // 2), rng.normal(5, 0.01, n_rows // 2)]
    elif distribution == "beta":
        x = rng.beta(5, 5, n_rows)
    else:
        x = getattr(rng, distribution)(size=n_rows)
    y = np.arctan(3 * x)
    features = chebyshev.chebvander((x - (x.max() + x.min()) / 2) / ((x.max() - x.min()) / 2), degree)
    best = features @ np.linalg.lstsq(features, y, rcond=None)[0]
    residuals = TorchPolynomialRegressor(degree).fit(x[:, None], y).predict(x[:, None]) - y

    assert residuals @ residuals <= np.sum((best - y) ** 2) * (1 + 1e-4) + 1e-16 * n_rows


@pytest.mark.parametrize("degree", [1, 2])
def test_interactions_of_columns_that_nearly_coincide(degree, rng):
    x, noise = rng.uniform(-1, 1, 500), rng.normal(size=500)
    X = np.column_stack([x, x + (1e-9 if degree == 1 else 1e-6) * noise])
    model = TorchPolynomialRegressor(degree, interaction_only=True).fit(X, x + noise)
    assert model.score(X, x + noise) > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "n_features", "degree", "least"),
    [
        ("Gaussian", 1, 20, 13.5),
        ("heavy tails", 3, 4, 11.0),
        ("far from 0", 6, 2, 14.0),
        ("nearly collinear", 3, 4, 9.5),
    ],
)
def test_digits_against_a_reference_of_a_hundred(design, n_features, degree, least, monkeypatch):
    """Cells of docs/benchmarks/accuracy.md, with half a digit or more to spare for other processors."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = runpy.run_path(str(BENCHMARKS / "accuracy.py"))
    X, y = benchmark["data"](design, n_features)
    exact = benchmark["reference"](X, y, degree)
    assert benchmark["digits"](TorchPolynomialRegressor(degree).fit(X, y).predict(X), exact) > least
