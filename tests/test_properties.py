"""What holds for every data set, on data that hypothesis makes up."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.preprocessing import PolynomialFeatures

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

pytestmark = pytest.mark.slow

settings.register_profile("same every time", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("same every time")


@dataclass(frozen=True)
class Rows:
    """More rows than terms, in columns on which terms can be told apart."""

    seed: int
    kind: str
    n_features: int
    degree: int
    n_targets: int

    @property
    def n_rows(self):
        return 3 * len(self.powers) + 20

    @property
    def powers(self):
        return PolynomialFeatures(self.degree).fit(np.zeros((1, self.n_features))).powers_

    @property
    def rng(self):
        return np.random.default_rng(self.seed)

    @property
    def X(self):  # noqa: N802
        shape, rng = (self.n_rows, self.n_features), self.rng
        if self.kind == "uniform":
            return rng.uniform(-1, 1, shape)
        if self.kind == "grid":
            return rng.integers(-5, 6, shape) / 5.0
        return rng.normal(size=shape)

    @property
    def Y(self):  # noqa: N802
        X, rng = self.X, self.rng
        return np.sin(X @ rng.normal(size=(self.n_features, self.n_targets))) + 0.1 * rng.normal(
            size=(self.n_rows, self.n_targets)
        )

    @property
    def model(self):
        return TorchPolynomialRegressor(self.degree)


data_sets = st.builds(
    Rows,
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["uniform", "normal", "grid"]),
    n_features=st.integers(1, 3),
    degree=st.integers(1, 4),
    n_targets=st.integers(1, 2),
)
numbers = st.floats(1e-6, 1e6)
offsets = st.floats(-1e3, 1e3)


def assert_same(values, expected, tolerance=1e-9):
    assert_allclose(values, expected, rtol=0, atol=tolerance * (1 + np.abs(expected).max()))


@given(data_sets)
def test_the_order_of_rows_does_not_matter(rows):
    X, Y, order = rows.X, rows.Y, rows.rng.permutation(rows.n_rows)
    assert_same(rows.model.fit(X[order], Y[order]).predict(X), rows.model.fit(X, Y).predict(X))


@given(data_sets, st.sampled_from(["squared_error", "huber"]), st.sampled_from([0.0, 0.01]))
def test_weights_are_copies(rows, loss, alpha):
    X, Y, weights = rows.X, rows.Y, rows.rng.integers(0, 4, rows.n_rows)
    weights[: len(rows.powers) + 5] += 1
    model = rows.model.set_params(loss=loss, alpha=alpha)
    copies = np.repeat(np.arange(len(X)), weights)
    weighted = model.fit(X, Y, weights).predict(X)
    assert_same(weighted, model.fit(X[copies], Y[copies]).predict(X), 1e-9 if loss == "squared_error" else 1e-5)


@given(data_sets, numbers, offsets, numbers, offsets, st.sampled_from([0.0, 0.01]))
def test_units_and_origins_do_not_matter(rows, scale, offset, target_scale, target_offset, alpha):
    X, Y, model = rows.X, rows.Y, rows.model.set_params(alpha=alpha)
    expected = model.fit(X, Y).predict(X)
    mapped = model.fit(scale * (X + offset), target_scale * (Y + target_offset)).predict(scale * (X + offset))
    assert_same(mapped / target_scale - target_offset, expected, 1e-7)


@given(data_sets)
def test_a_map_of_the_columns_leaves_the_polynomial(rows):
    X, Y = rows.X, rows.Y
    mixing = np.linalg.qr(rows.rng.normal(size=(rows.n_features, rows.n_features)))[0]
    assert_same(rows.model.fit(X @ mixing, Y).predict(X @ mixing), rows.model.fit(X, Y).predict(X), 1e-8)


@given(data_sets, st.sampled_from([0.0, 0.01]))
def test_the_order_of_columns_does_not_matter(rows, alpha):
    X, Y, model = rows.X, rows.Y, rows.model.set_params(alpha=alpha)
    assert_same(model.fit(X[:, ::-1], Y).predict(X[:, ::-1]), model.fit(X, Y).predict(X))


@given(data_sets, st.data())
def test_batches_merge_in_any_grouping(rows, data):
    X, Y = rows.X, rows.Y
    cuts = sorted(data.draw(st.lists(st.integers(1, rows.n_rows - 1), max_size=5, unique=True)))
    model = rows.model
    for batch in np.split(np.arange(rows.n_rows), cuts):
        model.partial_fit(X[batch], Y[batch])
    assert_same(model.predict(X), rows.model.fit(X, Y).predict(X), 1e-8)


@given(data_sets)
def test_a_degree_holds_the_lower_ones(rows):
    X, Y = rows.X, rows.Y
    lower = rows.model.fit(X, Y)
    higher = TorchPolynomialRegressor(rows.degree + 1).fit(X, Y)
    assert higher.loss_curve_[-1] <= lower.loss_curve_[-1] * (1 + 1e-9)
    exact = TorchPolynomialRegressor(rows.degree + 1).fit(X, lower.predict(X))
    assert_same(exact.predict(X), lower.predict(X), 1e-8)


@given(data_sets)
def test_the_equation_is_the_polynomial(rows):
    X, Y = rows.X, rows.Y
    model = rows.model.fit(X, Y[:, 0])
    terms = {f"x{column}": X[:, column] for column in range(rows.n_features)}
    values = eval(model.equation(17).removeprefix("y = "), {}, terms)
    assert_same(values, model.predict(X))


@given(data_sets)
def test_coefficients_are_those_of_polynomial_features(rows):
    X, Y = rows.X, rows.Y
    model = rows.model.fit(X, Y)
    features = PolynomialFeatures(rows.degree, include_bias=False).fit(X)
    assert_same(features.transform(X) @ model.term_coef_.T + model.intercept_, model.predict(X))
    assert (features.powers_ == model.powers_).all()


@given(data_sets, st.sampled_from([2, 3, 5]))
@settings(max_examples=15)
def test_a_search_refits_its_best(rows, n_folds):
    X, Y = rows.X, rows.Y
    grid = {"degree": list(range(rows.degree + 1)), "alpha": [0.0, 0.01]}
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid, cv=n_folds).fit(X, Y)
    alone = TorchPolynomialRegressor(**search.best_params_).fit(X, Y)
    assert_same(search.predict(X), alone.predict(X))
