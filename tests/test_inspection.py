"""Functions of a fitted estimator: compared with refits, and with definitions written out in NumPy."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.polynomial import chebyshev
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly.inspection import _jackknife, jackknife_interval

pytestmark = pytest.mark.filterwarnings("ignore::torchpoly.OverfittingWarning")

# --- The jackknife+ ----------------------------------------------------------------------------------


def interval(predictions, residuals, confidence_level):
    """Return the ends for predictions of shape (n_samples, n_rows), by the definition."""
    n, level = len(residuals), Fraction(str(confidence_level))
    low = np.sort(predictions - np.abs(residuals))
    high = np.sort(predictions + np.abs(residuals))
    first, last = math.floor((1 - level) * (n + 1)), math.ceil(level * (n + 1))
    infinite = np.full(len(predictions), np.inf)
    return np.column_stack(
        [low[:, first - 1] if first >= 1 else -infinite, high[:, last - 1] if last <= n else infinite]
    )


def features_in_box(X, low, high, powers):
    """Return the products of Chebyshev polynomials at rows, and their derivatives by the columns of X."""
    scaled = (2 * X - low - high) / (high - low)
    units = np.eye(powers.max() + 1)
    values = [chebyshev.chebval(scaled.T, unit).T for unit in units]
    slopes = [chebyshev.chebval(scaled.T, chebyshev.chebder(unit)).T * 2 / (high - low) for unit in units]

    def product(by=None):
        columns = range(X.shape[1])
        return np.column_stack(
            [
                np.prod([(slopes if column == by else values)[power[column]][:, column] for column in columns], axis=0)
                for power in powers
            ]
        )

    return product(), [product(column) for column in range(X.shape[1])]


def features_at(X, low, high, powers, extrapolation):
    inside = X if extrapolation == "continue" else np.clip(X, low, high)
    features, slopes = features_in_box(inside, low, high, powers)
    if extrapolation == "linear":
        for column, slope in enumerate(slopes):
            features += slope * (X - inside)[:, [column]]
    return features


def refits(model, X_train, y, X, weights=None):
    """Return predictions at X, and residuals, of a ridge regression without each row, by SciPy-free least squares.

    The penalty of all rows is that of ``sum(w) * alpha``, and a row takes its weight along. Box, basis and
    alpha are those of all rows. With alpha = 0, the coefficients have least norm.
    """
    used = np.ones(len(X_train), bool) if weights is None else np.asarray(weights) > 0
    X_train, y = X_train[used].astype(float), y[used].astype(float)
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, float)[used]
    low, high = X_train.min(axis=0), X_train.max(axis=0)
    powers = model._polynomial.basis.indices.powers
    at_rows, at_points = (features_at(rows, low, high, powers, "continue") for rows in (X_train, X_train[:0]))
    at_points = features_at(X.astype(float), low, high, powers, model.extrapolation)
    norms = np.sqrt(powers.sum(axis=1)[1:] ** 3.0)
    predictions, residuals = np.empty((len(X), len(y))), np.empty(len(y))
    for row in range(len(y)):
        others = np.arange(len(y)) != row
        w = weights[others] / weights[others].sum()
        means, mean = w @ at_rows[others, 1:], w @ y[others]
        root = np.sqrt(w)[:, None]
        rows = root * (at_rows[others, 1:] - means) / norms
        penalty = np.sqrt(model.alpha_) * np.eye(len(norms))
        rows, targets = np.vstack([rows, penalty]), np.r_[root[:, 0] * (y[others] - mean), np.zeros(len(norms))]
        slopes = np.linalg.lstsq(rows, targets, rcond=1e-12)[0] / norms
        predictions[:, row] = mean + (at_points[:, 1:] - means) @ slopes
        residuals[row] = y[row] - mean - (at_rows[row, 1:] - means) @ slopes
    return predictions, residuals


def table(rng, n_rows, n_columns):
    X = rng.uniform(-1, 3, (n_rows, n_columns))
    return X, np.sin(2 * X[:, 0]) + X.sum(axis=1) + 0.3 * rng.normal(size=n_rows)


CASES = {
    "defaults": (60, 2, {}),
    "penalty": (60, 2, {"alpha": 0.01}),
    "chebyshev": (60, 2, {"basis": "chebyshev"}),
    "high degree": (40, 1, {"degree": 12, "alpha": 1e-5}),
    "more terms than rows": (25, 2, {"degree": 8}),
    "more terms than rows and penalty": (25, 2, {"degree": 8, "alpha": 1e-3}),
    "interpolation": (20, 2, {"degree": 5}),
    "interactions": (50, 3, {"interaction_only": True}),
    "constant": (10, 1, {"degree": 0}),
    "loo": (50, 2, {"degree": "loo", "alpha": "loo"}),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_refits_in_the_same_basis(case, weighted, rng):
    n_rows, n_columns, parameters = CASES[case]
    X_train, y = table(rng, n_rows, n_columns)
    X = table(rng, 15, n_columns)[0]
    weights = rng.uniform(0.2, 5, n_rows) if weighted else None
    model = TorchPolynomialRegressor(**parameters, extrapolation="constant").fit(X_train, y, weights)
    expected = refits(model, X_train, y, X, weights)
    for level in [0.5, 0.8, 0.9]:
        found = jackknife_interval(model, X_train, y, X, confidence_level=level, sample_weight=weights)
        assert_allclose(found, interval(*expected, level), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
@pytest.mark.parametrize("extrapolation", ["continue", "constant", "linear"])
def test_extrapolation(extrapolation, alpha, rng):
    X_train, y = table(rng, 50, 2)
    X = rng.uniform(-2, 5, (40, 2))
    model = TorchPolynomialRegressor(alpha=alpha, extrapolation=extrapolation).fit(X_train, y)
    found = jackknife_interval(model, X_train, y, X)
    assert_allclose(found, interval(*refits(model, X_train, y, X), 0.95), rtol=1e-9)


def test_extrapolation_refused(rng):
    X_train, y = table(rng, 50, 2)
    model = TorchPolynomialRegressor(extrapolation="error").fit(X_train, y)
    assert jackknife_interval(model, X_train, y, X_train).shape == (50, 2)
    with pytest.raises(ValueError, match=r"outside the range of the training data in columns \[1\], first in row 1"):
        jackknife_interval(model, X_train, y, [[0.0, 0.0], [0.0, 9.0]])


@pytest.mark.parametrize("parameters", [{}, {"degree": 1}, {"degree": 5}])
def test_equals_refits_of_the_estimator(parameters, rng):
    """Without a penalty, the polynomials are the same in any box."""
    X_train, y = table(rng, 40, 2)
    X = table(rng, 10, 2)[0]
    model = TorchPolynomialRegressor(**parameters).fit(X_train, y)
    predictions, residuals = np.empty((10, 40)), np.empty(40)
    for row in range(40):
        others = np.arange(40) != row
        without = clone(model).fit(X_train[others], y[others])
        predictions[:, row], residuals[row] = without.predict(X), y[row] - without.predict(X_train[[row]])[0]
    assert_allclose(jackknife_interval(model, X_train, y, X), interval(predictions, residuals, 0.95), rtol=1e-7)


def test_several_targets(rng):
    X_train, y = table(rng, 40, 2)
    Y, X = np.column_stack([y, 1e6 * y**2, np.full(40, 3.0)]), X_train[:9] + 0.1
    model = TorchPolynomialRegressor(alpha=0.01).fit(X_train, Y)
    found = jackknife_interval(model, X_train, Y, X, confidence_level=0.8)
    assert found.shape == (9, 3, 2)
    for target in range(3):
        assert_allclose(found[:, target], interval(*refits(model, X_train, Y[:, target], X), 0.8), rtol=1e-9)
    column = TorchPolynomialRegressor().fit(X_train, y[:, None])
    assert jackknife_interval(column, X_train, y[:, None], X).shape == (9, 1, 2)


def test_rows_of_weight_zero_and_repeated_rows(rng):
    X_train, y = table(rng, 30, 1)
    X = np.linspace(-1, 3, 7)[:, None]
    for alpha in [0.0, 0.1]:
        model = TorchPolynomialRegressor(alpha=alpha).fit(X_train, y)
        expected = jackknife_interval(model, X_train, y, X)
        with_more, more = np.vstack([X_train, [[50.0]], [[0.0]]]), np.r_[y, 1e9, -1e9]
        weights = np.r_[np.full(30, 7.0), 0, 0]
        weighted = TorchPolynomialRegressor(alpha=alpha).fit(with_more, more, weights)
        assert_allclose(jackknife_interval(weighted, with_more, more, X, sample_weight=weights), expected, rtol=1e-10)
        twice, both = np.vstack([X_train, X_train]), np.r_[y, y]
        model = TorchPolynomialRegressor(alpha=alpha).fit(twice, both)
        found = jackknife_interval(model, twice, both, X)
        assert_allclose(found, interval(*refits(model, twice, both, X), 0.95), rtol=1e-9)


def test_a_row_alone_on_a_term(rng):
    """Without it the other rows do not determine the term, and the solution of least norm counts."""
    X_train = np.r_[rng.choice([0.0, 1.0], 12), 2.0][:, None]
    y = np.r_[X_train[:12, 0] + 0.1 * rng.normal(size=12), 9.0]
    X = np.array([[0.5], [1.5], [2.0]])
    model = TorchPolynomialRegressor(2).fit(X_train, y)
    expected = interval(*refits(model, X_train, y, X), 0.8)
    assert_allclose(jackknife_interval(model, X_train, y, X, confidence_level=0.8), expected, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parameters", [{"degree": 9}, {"degree": 9, "alpha": 1e-4}])
def test_more_rows_than_a_chunk(parameters, weighted, rng, monkeypatch):
    """The fits without some of the rows, one by one."""
    monkeypatch.setattr("torchpoly._backend.rows._CHUNK_ELEMENTS", 2**15)
    n_rows = 4000
    X_train, y = table(rng, n_rows, 2)
    weights = rng.integers(0, 4, n_rows) * 1.0 if weighted else None
    X = table(rng, 3, 2)[0]
    model = TorchPolynomialRegressor(**parameters, extrapolation="constant").fit(X_train, y, weights)
    data = _jackknife.FittedModel.of(model).training_rows(X_train, y, weights)
    fits = _jackknife._held_out_fits(model._polynomial, model.alpha_, data)
    assert fits.basis.at_rows is None
    values = _jackknife._values(model._polynomial, fits.basis, X, "constant")
    predictions = model._polynomial.targets.center + model._polynomial.targets.scale * fits.predictions(values)[0]
    residuals = model._polynomial.targets.scale * fits.residuals[0]

    low, high, powers = data.X.min(axis=0), data.X.max(axis=0), model._polynomial.basis.indices.powers
    at_rows, at_points = (features_at(rows, low, high, powers, "constant") for rows in (data.X, X))
    w = np.ones(len(data.X)) if data.weights is None else data.weights
    penalty = model.alpha_ * powers.sum(axis=1) ** 3.0
    for row in [0, 1, 2345, len(w) - 1]:
        others = w * (np.arange(len(w)) != row)
        gram = at_rows.T @ (others[:, None] * at_rows) / others.sum() + np.diag(penalty)
        coefficients = np.linalg.solve(gram, at_rows.T @ (others * data.Y[:, 0]) / others.sum())
        assert_allclose(predictions[:, row], at_points @ coefficients, rtol=1e-9)
        assert_allclose(residuals[row], data.Y[row, 0] - at_rows[row] @ coefficients, rtol=1e-8)
    found = jackknife_interval(model, X_train, y, X, confidence_level=0.9, sample_weight=weights)
    assert_allclose(found, interval(predictions, residuals, 0.9), rtol=1e-12)


@pytest.mark.parametrize("parameters", [{"alpha": 0.01}, {"degree": 8}, {"extrapolation": "linear"}])
def test_small_chunks_change_nothing(parameters, rng, monkeypatch):
    X_train, y = table(rng, 30, 2)
    X = rng.uniform(-2, 4, (23, 2))
    model = TorchPolynomialRegressor(**parameters).fit(X_train, y)
    expected = jackknife_interval(model, X_train, y, X)
    monkeypatch.setattr(_jackknife, "_CHUNK_ELEMENTS", 200)
    assert_allclose(jackknife_interval(model, X_train, y, X), expected, rtol=1e-11)
    monkeypatch.setattr("torchpoly._backend.rows._CHUNK_ELEMENTS", 500)
    monkeypatch.setattr("torchpoly._backend.rows._MIN_ROWS", 5)
    monkeypatch.setattr("torchpoly._gram.held_out._MAX_KEPT_ELEMENTS", 0)
    assert_allclose(jackknife_interval(model, X_train, y, X), expected, rtol=1e-9)


def test_many_more_terms_than_rows(rng, monkeypatch):
    """The factor of the Gram matrix is not in memory."""
    X_train, y = table(rng, 15, 3)
    X = table(rng, 5, 3)[0]
    for alpha in [0.0, 1e-3]:
        model = TorchPolynomialRegressor(7, alpha=alpha, extrapolation="constant").fit(X_train, y)
        expected = interval(*refits(model, X_train, y, X), 0.8)
        with monkeypatch.context() as patch:
            patch.setattr("torchpoly._gram.factors.MAX_DENSE_ELEMENTS", 0)
            found = jackknife_interval(model, X_train, y, X, confidence_level=0.8)
        assert_allclose(found, expected, rtol=1e-8)


def test_columns_that_nearly_coincide_or_determine_each_other(rng):
    Z = rng.normal(size=(30, 2))
    for third in [Z[:, 0] + 1e-4 * rng.normal(size=30), Z.sum(axis=1)]:
        X_train = np.column_stack([Z, third])
        y = Z[:, 0] ** 2 + 0.1 * rng.normal(size=30)
        model = TorchPolynomialRegressor(2).fit(X_train, y)
        residuals, predictions = np.empty(30), np.empty((8, 30))
        for row in range(30):
            others = np.arange(30) != row
            without = clone(model).set_params(extrapolation="continue").fit(X_train[others], y[others])
            with warnings.catch_warnings(action="ignore"):
                predictions[:, row], residuals[row] = (
                    without.predict(X_train[:8]),
                    y[row] - without.predict(X_train)[row],
                )
        found = jackknife_interval(model, X_train, y, X_train[:8])
        assert_allclose(found, interval(predictions, residuals, 0.95), rtol=1e-6, atol=1e-6)


def test_warning_of_narrow_axes_comes_once(rng):
    a = rng.normal(size=100)
    X_train = np.column_stack([a, a + 1e-5 * rng.normal(size=100)])
    y = a + 0.1 * rng.normal(size=100)
    model = TorchPolynomialRegressor(1).fit(X_train, y)
    X = np.repeat([[0.5, 0.6]], 50, axis=0)
    with warnings.catch_warnings(record=True, action="always") as caught:
        jackknife_interval(model, X_train, y, X)
    assert [str(warning.message)[:25] for warning in caught] == ["50 rows of X lie inside t"]
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True, action="always") as caught:
        model.predict(X)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("level", [0.01, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n_rows", [4, 9, 19, 20, 99])
def test_order_statistics(n_rows, level, rng):
    """Also where ``(1 - level) * (n + 1)`` is a whole number, and a float may be below it."""
    predictions, residuals = rng.normal(size=(20, n_rows)), rng.normal(size=n_rows)
    found = _jackknife._ends(predictions, residuals, _jackknife._rank_of_ends(level, n_rows))
    assert_array_equal(found, interval(predictions, residuals, level))


def test_too_few_rows_for_the_level(rng):
    X_train, y = table(rng, 18, 1)
    model = TorchPolynomialRegressor(1).fit(X_train, y)
    assert_array_equal(jackknife_interval(model, X_train, y, [[0.0]]), [[-np.inf, np.inf]])
    X_train, y = table(rng, 19, 1)
    model = TorchPolynomialRegressor(1).fit(X_train, y)
    assert np.isfinite(jackknife_interval(model, X_train, y, [[0.0]])).all()


def test_dtype_and_kinds_of_arrays(rng):
    X_train, y = table(rng, 40, 2)
    model = TorchPolynomialRegressor().fit(X_train, y)
    expected = jackknife_interval(model, X_train, y, X_train)
    single = X_train.astype(np.float32)
    found = jackknife_interval(model, X_train, y, single)
    assert found.dtype == model.predict(single).dtype == np.float32
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    model = TorchPolynomialRegressor().fit(single, y.astype(np.float32))
    found = jackknife_interval(model, single, y.astype(np.float32), single)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    model = TorchPolynomialRegressor().fit(X_train, y)
    tensors = torch.tensor(X_train), torch.tensor(y), torch.tensor(X_train)
    assert_array_equal(jackknife_interval(model, *tensors), expected)
    frame = pd.DataFrame(X_train, columns=["a", "b"])
    model = TorchPolynomialRegressor().fit(frame, pd.Series(y))
    assert_array_equal(jackknife_interval(model, frame, pd.Series(y), frame), expected)
    with pytest.raises(ValueError, match="feature names"):
        jackknife_interval(model, frame[["b", "a"]], y, frame)


def test_values_beyond_floats(rng):
    X_train, y = table(rng, 40, 1)
    model = TorchPolynomialRegressor().fit(X_train, y)
    ends = jackknife_interval(model, X_train, y, [[0.0], [1e200], [-1e200]])
    assert not np.isnan(ends).any()
    assert np.isinf(ends[1:]).all()
    assert np.isfinite(ends[0]).all()


def test_after_partial_fit_and_early_stops(rng):
    """The fits without a row are those of the optimum, in the basis of the fitted model."""
    X_train, y = table(rng, 60, 2)
    expected = jackknife_interval(TorchPolynomialRegressor().fit(X_train, y), X_train, y, X_train)
    batches = TorchPolynomialRegressor().partial_fit(X_train[:20], y[:20]).partial_fit(X_train[20:], y[20:])
    assert_allclose(jackknife_interval(batches, X_train, y, X_train), expected, rtol=1e-9)
    early = TorchPolynomialRegressor(basis="chebyshev", n_iter=2, tol=None).fit(X_train, y)
    assert np.abs(early.predict(X_train) - batches.predict(X_train)).max() > 0.1
    assert_allclose(jackknife_interval(early, X_train, y, X_train), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("noise", [lambda rng, n: rng.exponential(size=n) - 1, lambda rng, n: rng.standard_t(3, n)])
def test_coverage(noise, level, rng):
    found = []
    for _ in range(300):
        X = rng.uniform(-1, 1, (150, 1))
        y = X[:, 0] ** 3 - X[:, 0] + noise(rng, 150)
        model = TorchPolynomialRegressor().fit(X[:50], y[:50])
        low, high = jackknife_interval(model, X[:50], y[:50], X[50:], confidence_level=level).T
        found.append(np.mean((low <= y[50:]) & (y[50:] <= high)))
    # The standard error is below 0.004.
    assert level - 0.02 < np.mean(found) < level + 0.04


# --- Which estimators --------------------------------------------------------------------------------


def test_pipelines_and_searches(rng):
    X_train, y = table(rng, 60, 2)
    X = X_train[:7]
    regressor = TorchPolynomialRegressor(2, alpha=0.01)
    plain = jackknife_interval(clone(regressor).fit(X_train, y), X_train, y, X)
    pipeline = make_pipeline(StandardScaler(), clone(regressor))
    grid = {"torchpolynomialregressor__degree": [2]}
    for model in [
        make_pipeline(clone(regressor)),
        pipeline,
        make_pipeline(StandardScaler(), "passthrough", make_pipeline(StandardScaler(), clone(regressor))),
        GridSearchCV(clone(regressor), {"degree": [2]}),
        PolynomialGridSearchCV(clone(regressor), {"degree": [2]}),
        PolynomialGridSearchCV(clone(pipeline), grid),
        make_pipeline(StandardScaler(), GridSearchCV(clone(regressor), {"degree": [2]})),
        make_pipeline(StandardScaler(), GridSearchCV(clone(pipeline), grid)),
    ]:
        assert_allclose(jackknife_interval(model.fit(X_train, y), X_train, y, X), plain, rtol=1e-9)


def test_a_step_that_rounds_otherwise_in_transform(rng):
    X_train, y = table(rng, 60, 3)
    model = make_pipeline(PCA(), TorchPolynomialRegressor(2)).fit(X_train, y)
    expected = jackknife_interval(TorchPolynomialRegressor(2).fit(X_train, y), X_train, y, X_train)
    assert_allclose(jackknife_interval(model, X_train, y, X_train), expected, rtol=1e-8)


@pytest.mark.parametrize(
    "model",
    [
        TorchPolynomialRegressor(),
        make_pipeline(StandardScaler(), TorchPolynomialRegressor()),
        GridSearchCV(TorchPolynomialRegressor(), {"degree": [1]}),
        PolynomialGridSearchCV(make_pipeline(TorchPolynomialRegressor()), {}),
    ],
)
def test_not_fitted(model):
    with pytest.raises(NotFittedError):
        jackknife_interval(model, [[0.0]], [0.0], [[0.0]])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LinearRegression(), "got an instance of LinearRegression. Allowed are a TorchPolynomialRegressor, a search"),
        (None, "got an instance of NoneType"),
        (TorchPolynomialRegressor, "got the class TorchPolynomialRegressor"),
        (
            make_pipeline(StandardScaler(), LinearRegression()),
            "got an instance of Pipeline, in which an instance of LinearRegression stands for the regressor",
        ),
        (make_pipeline(StandardScaler(), "passthrough"), "an instance of str stands for the regressor"),
        (TransformedTargetRegressor(TorchPolynomialRegressor()), "an instance of TransformedTargetRegressor"),
    ],
)
def test_other_estimators(model, message):
    with pytest.raises(TypeError, match=message):
        jackknife_interval(model, [[0.0]], [0.0], [[0.0]])


def test_a_search_that_kept_no_estimator(rng):
    X_train, y = table(rng, 30, 1)
    search = GridSearchCV(TorchPolynomialRegressor(), {"degree": [1]}, refit=False).fit(X_train, y)
    with pytest.raises(ValueError, match=r"its 'refit' parameter got False\. Fit it with refit=True"):
        jackknife_interval(search, X_train, y, X_train)


# --- Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, np.nan, "high", None])
def test_confidence_level(level, rng):
    X_train, y = table(rng, 30, 1)
    model = TorchPolynomialRegressor().fit(X_train, y)
    message = r"'confidence_level' parameter of jackknife_interval must be a float in the range \(0.0, 1.0\)"
    with pytest.raises(ValueError, match=message):
        jackknife_interval(model, X_train, y, X_train, confidence_level=level)


@pytest.mark.parametrize(
    "parameters", [{"loss": "huber"}, {"loss": "absolute_error"}, {"loss": torch.nn.SmoothL1Loss()}]
)
def test_other_losses(parameters, rng):
    X_train, y = table(rng, 30, 1)
    model = TorchPolynomialRegressor(1, **parameters).fit(X_train, y)
    with pytest.raises(ValueError, match=r"'loss' parameter of the estimator got .* MAPIE or by .* BaggingRegressor"):
        jackknife_interval(model, X_train, y, X_train)


def test_monomials(rng):
    X_train, y = table(rng, 30, 1)
    model = TorchPolynomialRegressor(1, basis="monomial").fit(X_train, y)
    with pytest.raises(ValueError, match=r"'basis' parameter of the estimator got 'monomial'.*'orthonormal'"):
        jackknife_interval(model, X_train, y, X_train)


def test_other_rows_than_those_of_the_fit(rng):
    X_train, y = table(rng, 30, 2)
    model = TorchPolynomialRegressor(1).fit(X_train, y)
    with pytest.raises(ValueError, match="X_train are not the rows of the fit: in column 1 they range from"):
        jackknife_interval(model, X_train * [1, 1.1], y, X_train)
    with pytest.raises(ValueError, match="X_train are not the rows of the fit"):
        jackknife_interval(model, X_train, y, X_train, sample_weight=X_train[:, 0] > X_train[:, 0].min())
    frame = pd.DataFrame(X_train, columns=["a", "b"])
    with pytest.raises(ValueError, match="in column 'b' they"):
        jackknife_interval(clone(model).fit(frame, y), frame * [1, 1.1], y, frame)
    with pytest.raises(ValueError, match="X has 1 features"):
        jackknife_interval(model, X_train[:, :1], y, X_train)
    with pytest.raises(ValueError, match="X has 1 features"):
        jackknife_interval(model, X_train, y, X_train[:, :1])
    with pytest.raises(ValueError, match="y_train has 2 targets, and the estimator was fitted with 1"):
        jackknife_interval(model, X_train, np.column_stack([y, y]), X_train)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        jackknife_interval(model, X_train, y[:-1], X_train)


def test_few_rows(rng):
    X_train, y = table(rng, 3, 1)
    model = TorchPolynomialRegressor(1).fit(X_train, y)
    assert np.isfinite(jackknife_interval(model, X_train, y, X_train, confidence_level=0.5)).all()
    weights = [1, 1, 0]
    model = TorchPolynomialRegressor(1).fit(X_train, y, weights)
    with pytest.raises(ValueError, match=r"2 rows of positive weight, and the jackknife[+] needs at least 3"):
        jackknife_interval(model, X_train, y, X_train, sample_weight=weights)


def test_dask_collections(rng):
    dask = pytest.importorskip("dask.array")
    X_train, y = table(rng, 30, 1)
    model = TorchPolynomialRegressor(1).fit(X_train, y)
    with pytest.raises(TypeError, match=r"'X_train' is a Dask Array, .* Give X_train.compute\(\)"):
        jackknife_interval(model, dask.from_array(X_train), y, X_train)
    with pytest.raises(TypeError, match=r"'X' is a Dask Array"):
        jackknife_interval(model, X_train, y, dask.from_array(X_train))
