"""What other tools read of a fitted estimator: one coefficient for each column, scores, pictures and modules."""

import pickle
import threading
import time

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.preprocessing import PolynomialFeatures

from torchpoly import PolynomialFitDisplay, PolynomialGridSearchCV, TorchPolynomialRegressor


@pytest.mark.parametrize("n_targets", [None, 1, 2])
def test_coef_has_one_number_for_each_column(n_targets, rng):
    X = rng.normal(size=(50, 3))
    y = X @ rng.normal(size=(3, n_targets or 1)) + 1
    y = y[:, 0] if n_targets is None else y
    linear = LinearRegression().fit(X, y)
    assert_allclose(TorchPolynomialRegressor(1).fit(X, y).coef_, linear.coef_, atol=1e-12)
    constant = TorchPolynomialRegressor(0).fit(X, y)
    assert_array_equal(constant.coef_, np.zeros_like(linear.coef_))
    model = TorchPolynomialRegressor(2).fit(X, y)
    assert not hasattr(model, "coef_")
    with pytest.raises(AttributeError, match="degree 2\\. Use 'term_coef_'"):
        model.coef_  # noqa: B018
    assert hasattr(TorchPolynomialRegressor(degree="loo").fit(X, y), "coef_")  # it chooses degree 1


@pytest.mark.parametrize("interaction_only", [False, True])
def test_names_of_terms_are_those_of_scikit_learn(interaction_only, rng):
    for X in (rng.normal(size=(60, 3)), pd.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b c", "d"])):
        model = TorchPolynomialRegressor(3, interaction_only=interaction_only).fit(X, np.arange(60.0))
        features = PolynomialFeatures(3, interaction_only=interaction_only, include_bias=False).fit(X)
        assert_array_equal(model.term_names_, features.get_feature_names_out())


def test_html_pictures_compute_nothing(rng):
    model = TorchPolynomialRegressor(300).fit(rng.uniform(-1, 1, (500, 1)), rng.normal(size=500))
    model._repr_html_()
    start = time.process_time()
    picture = model._repr_html_()
    # The coefficients of the monomials alone take seconds.
    assert time.process_time() - start < 1
    assert ("rank_" in picture) == hasattr(BaseEstimator, "_get_fitted_attr_html")
    model.set_params(extrapolation="clip")._repr_html_()


@pytest.mark.parametrize("unit", [1e-320, 1e-200, 1e-100, 1.0, 1e100, 1e200, 1e300])
def test_scores_in_any_unit(unit, rng):
    X = rng.uniform(-1, 1, (60, 2))
    y = X[:, 0] ** 2 + 0.1 * rng.normal(size=60)
    model = TorchPolynomialRegressor(2).fit(X, unit * y)
    expected = r2_score(y, TorchPolynomialRegressor(2).fit(X, y).predict(X))
    assert model.score(X, unit * y) == pytest.approx(expected, rel=1e-3 if unit < 1e-300 else 1e-9)


def test_weights_of_a_score(rng):
    X, y = rng.normal(size=(30, 1)), rng.normal(size=30)
    model, weights = TorchPolynomialRegressor(1).fit(X, y), rng.uniform(size=30)
    assert model.score(X, y, sample_weight=weights) == pytest.approx(
        r2_score(y, model.predict(X), sample_weight=weights)
    )
    with pytest.raises(ValueError, match="Negative values"):
        model.score(X, y, sample_weight=weights - 0.5)
    with pytest.raises(ValueError, match="zero"):
        model.score(X, y, sample_weight=0 * weights)


@pytest.mark.parametrize("extrapolation", ["continue", "constant", "linear"])
def test_rows_with_nan_where_scikit_learn_lets_them_pass(extrapolation, rng):
    X = rng.uniform(-1, 1, (40, 2))
    model = TorchPolynomialRegressor(2, extrapolation=extrapolation).fit(X, X[:, 0])
    rows = X[:3].copy()
    rows[1, 0] = np.nan
    with config_context(assume_finite=True):
        assert_array_equal(np.isnan(model.predict(rows)), [False, True, False])


@pytest.mark.parametrize("wrong", [{"loss": "foo"}, {"n_iter": 0}, {"degree": -1}, {"alpha": "foo"}, {"basis": "foo"}])
def test_parameters_are_checked_where_scikit_learn_does_not(wrong, rng):
    X = rng.normal(size=(20, 1))
    with config_context(skip_parameter_validation=True):
        for method in ("fit", "partial_fit"):
            if hasattr(TorchPolynomialRegressor(**wrong), method):
                with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' parameter"):
                    getattr(TorchPolynomialRegressor(**wrong), method)(X, X[:, 0])


def test_devices_that_exist_nowhere(rng):
    X = rng.normal(size=(20, 1))
    model = TorchPolynomialRegressor(1).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="'device' parameter got 'foo'"):
        model.set_params(device="foo").predict(X)


def test_equations_beyond_floats(rng):
    x = rng.uniform(-1, 1, 40)
    with pytest.raises(ValueError, match="from 1 to 767"):
        TorchPolynomialRegressor(2).fit(x[:, None], x**2).equation(10**30)
    with pytest.raises(ValueError, match="beyond what floats hold"):
        TorchPolynomialRegressor(2).fit(1e-160 * x[:, None], x**2).equation()


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("extrapolation", ["continue", "constant", "linear", "error"])
def test_modules_take_any_leading_dimensions(n_targets, extrapolation, rng):
    X = rng.uniform(-1, 1, (60, 2))
    y = X[:, 0] * X[:, 1] if n_targets is None else np.column_stack([X[:, 0] * X[:, 1], X[:, 0]])
    model = TorchPolynomialRegressor(2, extrapolation=extrapolation).fit(X, y)
    module, expected = model.module_, model.predict(X)
    targets = () if n_targets is None else (n_targets,)
    for leading in [(60,), (5, 6, 2), (3, 20)]:
        assert_allclose(module(torch.tensor(X).reshape(*leading, 2)), expected.reshape(*leading, *targets), atol=1e-12)
    assert_allclose(module(torch.tensor(X[0])), expected[0], atol=1e-12)
    if extrapolation != "error":
        assert_allclose(torch.vmap(module)(torch.tensor(X)), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (4, 3), (5, 2, 1)])
def test_modules_refuse_other_numbers_of_columns(shape, rng):
    X = rng.uniform(-1, 1, (60, 2))
    module = TorchPolynomialRegressor(2).fit(X, X[:, 0]).module_
    with pytest.raises(ValueError, match=r"has the shape \(.*its last dimension must be 2"):
        module(torch.zeros(shape, dtype=torch.float64))
    assert "degree=2, n_features=2" in repr(module)


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("extrapolation", ["continue", "constant", "linear"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 5, 9])
def test_modules_far_outside_have_the_infinities_of_predict(degree, extrapolation, n_targets, rng):
    X = rng.uniform([-1e3, 4], [1e3, 6], (200, 2))
    y = np.sin(X / 300).sum(axis=1) if n_targets is None else np.sin(X / 300)
    model = TorchPolynomialRegressor(degree, extrapolation=extrapolation).fit(X, y)
    for distance in [1e4, 1e30, 1e60, 1e120, 1e200, 1e290]:
        rows = distance * rng.normal(size=(40, 2))
        predicted, from_module = model.predict(rows), model.module_(torch.tensor(rows)).numpy()
        finite = np.isfinite(predicted)
        assert_array_equal(np.sign(from_module), np.sign(predicted))
        assert_array_equal(np.isfinite(from_module), finite)
        assert_allclose(from_module[finite], predicted[finite], rtol=1e-7)
        assert_allclose(torch.vmap(model.module_)(torch.tensor(rows)), from_module, rtol=1e-7)
    middle = torch.tensor((model._polynomial.low + model._polynomial.high)[None] / 2, requires_grad=True)
    assert torch.autograd.grad(model.module_(middle).sum(), middle, allow_unused=True)[0].isfinite().all()
    assert not model.module_.float()(torch.tensor([[1e30, -1e30]])).isnan().any()


def test_threads_that_predict_and_pickle_while_another_one_fits(rng):
    X = rng.uniform(-1, 1, (30, 2))
    targets = X[:, 0], np.column_stack([X[:, 0], X[:, 1], X[:, 0] * X[:, 1]])
    model, done, shapes, errors = TorchPolynomialRegressor(2).fit(X, targets[0]), threading.Event(), set(), []

    def read():
        try:
            while not done.is_set():
                shapes.add(model.predict(X).shape)
                pickle.loads(pickle.dumps(model)).predict(X)
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for fit in range(100):
        model.fit(X, targets[fit % 2])
    done.set()
    for reader in readers:
        reader.join()
    assert not errors
    assert shapes <= {(30,), (30, 3)}


def test_nested_tensors(rng):
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(TypeError, match="nested tensor"):
        TorchPolynomialRegressor(1).fit(nested, [0.0, 1.0])


@pytest.mark.parametrize("x", [torch.zeros(4, 2, dtype=torch.complex64), torch.zeros(4, 2).to_sparse()], ids=str)
def test_modules_refuse_complex_and_sparse_tensors(x, rng):
    X = rng.uniform(-1, 1, (60, 2))
    with pytest.raises(ValueError, match=r"x has the dtype .* It must be dense and real"):
        TorchPolynomialRegressor(2).fit(X, X[:, 0]).module_(x)


def test_searches_refuse_what_cannot_be_split(rng):
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1]}, cv=2)
    with pytest.raises(TypeError, match="X is a sparse or nested tensor"):
        search.fit(torch.tensor(X).to_sparse(), y)
    with pytest.raises(TypeError, match="sample_weight is a Dask dataframe"):
        search.fit(X, y, sample_weight=dd.from_pandas(pd.Series(np.ones(20)), npartitions=2))


def test_columns_of_the_smallest_numbers(rng):
    """Half of their range would be 0 in floats."""
    X, y = rng.uniform(-1, 1, (20, 2)), rng.normal(size=20)
    model = TorchPolynomialRegressor(1, warm_start=True).fit(X, y).fit(5e-324 * X, y)
    assert_allclose(model.predict(5e-324 * X), y.mean(), atol=1e-12)


def test_displays_take_tensors(rng):
    X, y = torch.tensor(rng.normal(size=(20, 2)), requires_grad=True), torch.ones(20, requires_grad=True)
    model = TorchPolynomialRegressor(1).fit(X, y)
    assert PolynomialFitDisplay.from_estimator(model, X, y, residuals=True).y.shape == (20,)
    with pytest.raises(ValueError, match="beyond what floats hold"):
        PolynomialFitDisplay.from_estimator(model, [[10**400, 1]] * 20, y)
