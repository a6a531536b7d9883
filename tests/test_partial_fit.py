"""partial_fit beside one fit on all rows."""

import pickle
import warnings

import dask.array as da
import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import LinAlgWarning
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor


def batches(sizes, *arrays):
    ends = np.cumsum(sizes)
    for start, end in zip(ends - sizes, ends, strict=True):
        yield [None if array is None else array[start:end] for array in arrays]


def assert_same_model(model, whole, X, rtol=1e-9):
    predictions, expected = model.predict(X), whole.predict(X)
    np.testing.assert_allclose(predictions, expected, atol=rtol * expected.std(axis=0).min())
    assert model.n_iter_ == whole.n_iter_
    assert model.rank_ == whole.rank_
    np.testing.assert_allclose(model.loss_curve_[-1], whole.loss_curve_[-1], rtol=1e-7)


@pytest.fixture
def stream(rng):
    """60000 rows of three columns in units of their own, with two targets, one of them far from 0."""
    X = rng.normal(size=(60_000, 3)) * [1, 100, 0.01] + [0, 50, 3]
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    Y = np.column_stack([Z[:, 0] * Z[:, 1] - 2 + Z[:, 2] ** 3, 1e6 + Z[:, 0]])
    return X, Y + 0.1 * rng.normal(size=Y.shape)


SETTINGS = [
    {},
    {"degree": 0},
    {"degree": 5},
    {"alpha": 0.01},
    {"interaction_only": True},
    {"optimizer": "adam"},
    {"optimizer": "sgd", "basis": "chebyshev", "n_iter": 50, "tol": None},
    {"optimizer": "sgd", "basis": "monomial", "lr": 1e-5, "degree": 1, "n_iter": 30, "tol": None},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_batches_of_any_size_make_the_model_of_one_fit(settings, weighted, stream, rng):
    X, Y = stream
    weights = rng.uniform(0, 3, len(X)) if weighted else None
    whole = TorchPolynomialRegressor(**settings).fit(X, Y, weights)
    model = TorchPolynomialRegressor(**settings)
    for part in batches([1, 1, 2, 5, 50, 1000, 50_000, 8941], X, Y, weights):
        assert model.partial_fit(*part) is model
    assert_same_model(model, whole, X)


def test_order_does_not_matter(stream, rng):
    X, Y = stream
    X, y = X[:3000], Y[:3000, 0]
    whole = TorchPolynomialRegressor(4).fit(X, y)
    for _ in range(3):
        order = rng.permutation(len(X))
        model = TorchPolynomialRegressor(4)
        for part in batches(np.full(30, 100), X[order], y[order]):
            model.partial_fit(*part)
        assert_same_model(model, whole, X)


@pytest.mark.parametrize("degree", [3, 15])
def test_later_rows_outside_of_the_range_so_far(degree, rng):
    """Each batch covers another tenth of the range."""
    X = np.sort(rng.uniform(-1, 1, (20_000, 1)), axis=0)
    y = np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=len(X))
    whole = TorchPolynomialRegressor(degree).fit(X, y)
    model = TorchPolynomialRegressor(degree)
    for part in batches(np.full(10, 2000), X, y):
        model.partial_fit(*part)
    assert_same_model(model, whole, X)


def test_columns_that_begin_to_vary_later(rng):
    X = rng.uniform(-1, 1, (900, 3))
    X[:300, 1] = 0.0
    X[:600, 2] = 5.0
    y = X[:, 0] * X[:, 1] + X[:, 2] ** 2 + 0.1 * rng.normal(size=900)
    whole = TorchPolynomialRegressor(3).fit(X, y)
    model = TorchPolynomialRegressor(3)
    for part in batches([300, 300, 300], X, y):
        model.partial_fit(*part)
    assert_same_model(model, whole, X)


def test_goes_on_after_fit_and_after_a_search(stream, rng):
    X, Y = stream
    y = Y[:, 0]
    weights = rng.uniform(0, 5, len(X))
    weighted = TorchPolynomialRegressor(2).fit(X, y, weights)
    begun = TorchPolynomialRegressor(2).fit(X[:500], y[:500], weights[:500])
    assert_same_model(begun.partial_fit(X[500:], y[500:], weights[500:]), weighted, X)
    for kind in (GridSearchCV, PolynomialGridSearchCV):
        search = kind(TorchPolynomialRegressor(), {"degree": [2]})
        best = search.fit(X[:40_000], y[:40_000], sample_weight=weights[:40_000]).best_estimator_
        assert_same_model(best.partial_fit(X[40_000:], y[40_000:], weights[40_000:]), weighted, X)
    whole = TorchPolynomialRegressor(2).fit(X, y)
    assert_same_model(TorchPolynomialRegressor(2).fit(X[:500], y[:500]).partial_fit(X[500:], y[500:]), whole, X)
    for kind in (GridSearchCV, PolynomialGridSearchCV):
        best = kind(TorchPolynomialRegressor(), {"degree": [2]}).fit(X[:40_000], y[:40_000]).best_estimator_
        assert_same_model(best.partial_fit(X[40_000:], y[40_000:]), whole, X)


def test_fit_starts_anew(stream):
    X, Y = stream
    model = TorchPolynomialRegressor(2).partial_fit(X[:100], Y[:100]).fit(X[:50], Y[:50])
    whole = TorchPolynomialRegressor(2).fit(X[:50], Y[:50])
    np.testing.assert_array_equal(model.predict(X), whole.predict(X))
    assert_same_model(model.partial_fit(X[50:900], Y[50:900]), TorchPolynomialRegressor(2).fit(X[:900], Y[:900]), X)


def test_goes_on_after_it_was_saved(stream, tmp_path):
    X, Y = stream
    joblib.dump(TorchPolynomialRegressor(2).partial_fit(X[:100], Y[:100]), tmp_path / "model")
    model = joblib.load(tmp_path / "model").partial_fit(X[100:], Y[100:])
    assert_same_model(model, TorchPolynomialRegressor(2).fit(X, Y), X)
    # A plain fit is saved without its Gram matrix.
    fitted = pickle.loads(pickle.dumps(TorchPolynomialRegressor(2).fit(X, Y)))
    with pytest.raises(ValueError, match=r"cannot go on from this fit.*a copy or from a file.*clone"):
        fitted.partial_fit(X, Y)


class Incremental(BaseEstimator):
    """Hands blocks on one by one, as dask_ml.wrappers.Incremental does."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        self.estimator_ = clone(self.estimator)
        for part in zip(np.array_split(X, 7), np.array_split(y, 7), strict=True):
            self.estimator_.partial_fit(*part)
        return self

    def predict(self, X):
        return self.estimator_.predict(X)


def test_in_an_incremental_wrapper(stream):
    X, Y = stream
    search = GridSearchCV(
        Incremental(TorchPolynomialRegressor()), {"estimator__degree": [1, 3]}, cv=2, scoring="r2"
    ).fit(X, Y[:, 0])
    assert search.best_params_ == {"estimator__degree": 3}
    np.testing.assert_allclose(search.predict(X), TorchPolynomialRegressor().fit(X, Y[:, 0]).predict(X), rtol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degree": 4}, r"'degree' parameter got 4, but .* degree=3"),
        ({"basis": "monomial"}, r"'basis' parameter got 'monomial', but .* chebyshev"),
        ({"interaction_only": True}, r"'interaction_only' parameter got True, but"),
    ],
    ids=str,
)
def test_refuses_other_terms(change, message, stream):
    X, Y = stream
    model = TorchPolynomialRegressor().partial_fit(X[:100], Y[:100])
    expected, before = model.predict(X), set(vars(model))
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).partial_fit(X, Y)
    assert set(vars(model)) == before
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize(("name", "value", "needed"), [("loss", "huber", "'squared_error'"), ("batch_size", 5, "None")])
def test_is_there_for_least_squares_only(name, value, needed, stream):
    model = TorchPolynomialRegressor(optimizer="adam").set_params(**{name: value})
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError) as caught:
        model.partial_fit(*stream)
    assert f"'{name}' parameter got {value!r}, but partial_fit" in str(caught.value.__cause__)
    assert f"{name}={needed}" in str(caught.value.__cause__)


def test_refuses_other_data(stream):
    X, Y = stream
    model = TorchPolynomialRegressor().partial_fit(X[:100], Y[:100])
    for bad, message in [
        ((X[:, :2], Y), "2 features"),
        ((X, Y[:, 0]), "one dimension"),
        ((X, Y[:, :1]), "1 columns"),
        ((X, Y, -np.ones(len(X))), "[Nn]egative"),
        ((X, Y, np.zeros(len(X))), "zero"),
        ((np.full_like(X, np.nan), Y), "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.partial_fit(*bad)
    whole = TorchPolynomialRegressor().fit(X, Y)
    assert_same_model(model.partial_fit(X[100:], Y[100:]), whole, X)


@pytest.mark.parametrize("tails", [False, True])
def test_rows_whose_gram_matrix_loses_terms_are_told(tails, rng):
    X = rng.standard_cauchy((500, 2)) if tails else np.column_stack([rng.integers(0, 2, 500), rng.normal(size=500)])
    model = TorchPolynomialRegressor(degree=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for part in np.array_split(X, 3):
            model.partial_fit(part, np.tanh(part[:, 0]))
    assert {warning.category for warning in caught} == ({LinAlgWarning} if tails else set())
    assert all(warning.filename == __file__ for warning in caught)


def test_units_far_apart(rng):
    X, y = rng.normal(size=(100, 2)), rng.normal(size=100)
    y[50:] *= 1e160
    for first in (slice(0, 50), slice(50, 100)):
        rest = slice(50, 100) if first.start == 0 else slice(0, 50)
        model = TorchPolynomialRegressor().partial_fit(X[first], 0 * y[first]).partial_fit(X[rest], y[rest])
        both = np.r_[0 * y[first], y[rest]]
        expected = TorchPolynomialRegressor().fit(np.r_[X[first], X[rest]], both)
        assert_allclose(model.predict(X), expected.predict(X), rtol=1e-9, atol=1e-9 * both.std())


def test_weights_that_sum_up_to_infinity(surface):
    X, Y = surface
    model = TorchPolynomialRegressor().partial_fit(X, Y, np.full(len(X), 5e305))
    with pytest.raises(ValueError, match="'sample_weight' sum up to infinity"):
        model.partial_fit(X, Y, np.full(len(X), 5e305))


def test_dask_collections(surface):
    X, Y = surface
    parts = slice(0, 100), slice(100, 300)
    model = TorchPolynomialRegressor()
    for part in parts:
        model.partial_fit(da.from_array(X[part], chunks=(40, 3)), da.from_array(Y[part], chunks=40))
    assert_allclose(model.term_coef_, TorchPolynomialRegressor().fit(X, Y).term_coef_, rtol=1e-9)
    with pytest.raises(ValueError, match=r"y has one dimension, but before it was of shape \(n_samples, 2\)"):
        model.partial_fit(da.from_array(X, chunks=50), da.from_array(Y[:, 0], chunks=50))
