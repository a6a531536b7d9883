"""Inside scikit-learn's own tools, on its own data, beside the pipeline that people come from."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_linnerud
from sklearn.ensemble import BaggingRegressor, StackingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

from torchpoly import TorchPolynomialRegressor

# The columns but sex, which takes two values only: its square is no new term.
NUMERIC = [0, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:, NUMERIC], y


@pytest.fixture(scope="module")
def linnerud():
    return load_linnerud(return_X_y=True)


def reference(degree=2):
    return make_pipeline(StandardScaler(), PolynomialFeatures(degree), LinearRegression())


def test_pipeline(diabetes):
    X, y = diabetes
    ours = make_pipeline(StandardScaler(), TorchPolynomialRegressor(2)).fit(X, y)
    assert_allclose(ours.predict(X), reference().fit(X, y).predict(X), rtol=1e-9)


@pytest.mark.slow
def test_grid_search_in_two_processes(diabetes):
    X, y = diabetes
    X = X[:, [1, 2, 7]]
    cv = KFold(5, shuffle=True, random_state=0)
    grid = {"degree": [1, 2, 3]}
    theirs = GridSearchCV(reference(), {"polynomialfeatures__degree": [1, 2, 3]}, cv=cv).fit(X, y)
    ours = GridSearchCV(TorchPolynomialRegressor(), grid, cv=cv, n_jobs=2).fit(X, y)
    assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-8)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-8)

    grid = {"optimizer": ["lbfgs", "adam", "sgd"], "lr": [None, 0.3], "n_iter": [500, 1000], "device": ["cpu", "auto"]}
    search = GridSearchCV(TorchPolynomialRegressor(2), grid, cv=cv, n_jobs=2).fit(X, y)
    assert_allclose(search.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"][1], rtol=1e-6)


def test_halving_grid_search(diabetes):
    X, y = diabetes
    search = HalvingGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2, 4]}, random_state=0).fit(X, y)
    assert search.best_params_["degree"] in (1, 2)
    assert search.score(X, y) > 0.4


def test_cross_validate_routes_weights(diabetes, rng):
    X, y = diabetes
    weights = rng.integers(1, 4, len(y)).astype(float)
    cv = KFold(5)
    with config_context(enable_metadata_routing=True):
        routed = cross_validate(
            TorchPolynomialRegressor(2).set_fit_request(sample_weight=True).set_score_request(sample_weight=True),
            X,
            y,
            cv=cv,
            params={"sample_weight": weights},
        )
    expected = []
    for train, test in cv.split(X):
        features = PolynomialFeatures(2)
        linear = LinearRegression().fit(features.fit_transform(X[train]), y[train], weights[train])
        expected.append(linear.score(features.transform(X[test]), y[test], weights[test]))
    assert_allclose(routed["test_score"], expected, rtol=1e-8)


def test_multiple_targets(linnerud):
    X, Y = linnerud
    assert_allclose(TorchPolynomialRegressor(2).fit(X, Y).predict(X), reference().fit(X, Y).predict(X), rtol=1e-9)
    separate = MultiOutputRegressor(TorchPolynomialRegressor(2)).fit(X, Y)
    assert_allclose(separate.predict(X), reference().fit(X, Y).predict(X), rtol=1e-9)


def test_bagging_and_stacking(diabetes):
    X, y = diabetes
    ours = BaggingRegressor(TorchPolynomialRegressor(2), n_estimators=5, random_state=0).fit(X, y)
    theirs = BaggingRegressor(reference(), n_estimators=5, random_state=0).fit(X, y)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-7)
    ours = StackingRegressor([("a", TorchPolynomialRegressor(1)), ("b", TorchPolynomialRegressor(2))], Ridge()).fit(
        X, y
    )
    theirs = StackingRegressor([("a", reference(1)), ("b", reference(2))], Ridge()).fit(X, y)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-7)


def test_transformed_target(diabetes):
    X, y = diabetes
    transformer = FunctionTransformer(np.log, np.exp)
    ours = TransformedTargetRegressor(TorchPolynomialRegressor(2), transformer=transformer).fit(X, y)
    theirs = TransformedTargetRegressor(reference(), transformer=transformer).fit(X, y)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)


def test_inspection_and_curves(diabetes):
    X, y = diabetes
    ours, theirs = TorchPolynomialRegressor(2).fit(X, y), reference().fit(X, y)
    importances = [permutation_importance(model, X, y, random_state=0).importances_mean for model in (ours, theirs)]
    assert_allclose(*importances, rtol=1e-7, atol=1e-12)
    averages = [partial_dependence(model, X, [1, (1, 2)][:1], method="brute")["average"] for model in (ours, theirs)]
    assert_allclose(*averages, rtol=1e-9)
    curves = [learning_curve(model, X, y, train_sizes=[200, 300])[2] for model in (ours, theirs)]
    assert_allclose(*curves, rtol=1e-8)
    predictions = [cross_val_predict(model, X, y) for model in (ours, theirs)]
    assert_allclose(*predictions, rtol=1e-8)


def test_set_output_and_feature_names(diabetes):
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor(1)).set_output(transform="pandas").fit(X, y)
    assert "*bmi" in pipeline[-1].equation()
