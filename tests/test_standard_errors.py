"""Standard errors of predictions and coefficients, and importances, beside statsmodels, mpmath and refits."""

import io
import pickle

import dask.array as da
import dask.dataframe as dd
import joblib
import mpmath
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFE, RFECV, SelectFromModel
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

WOMEN_HEIGHT = np.arange(58.0, 73.0)[:, None]
WOMEN_WEIGHT = np.array([115, 117, 120, 123, 126, 129, 132, 135, 139, 142, 146, 150, 154, 159, 164.0])


def in_window(X, Z=None):
    low, high = X.min(axis=0), X.max(axis=0)
    return ((X if Z is None else Z) - (low + high) / 2) / ((high - low) / 2)


def reference(X, y, weights, degree, Z):
    """Return statsmodels' fit to scaled columns and positive weights of mean 1, and its means and errors at Z."""
    features = PolynomialFeatures(degree).fit(X)
    weights = np.ones(len(X)) if weights is None else weights
    used = weights > 0
    scaled = weights[used] / weights[used].mean()
    fit = sm.WLS(y[used], features.transform(in_window(X[used])), weights=scaled).fit(method="qr")
    return fit, fit.get_prediction(features.transform(in_window(X[used], Z))).summary_frame(alpha=0.1)


def test_women():
    """R's lm(weight ~ height + I(height^2), women)."""
    model = TorchPolynomialRegressor(2).fit(WOMEN_HEIGHT, WOMEN_WEIGHT)
    assert_allclose(model.intercept_std_, 25.19677081964, rtol=1e-12)
    assert_allclose(model.term_coef_std_, [0.7776922803866, 0.005979642367728], rtol=1e-12)
    assert_allclose(model.residual_std_, 0.38406500159, rtol=1e-10)
    assert model.dof_ == 12
    mean, std = model.predict([[65.0], [75.0]], return_std=True)
    assert_allclose(mean, [135.1828054299, 177.9892049127], rtol=1e-12)
    assert_allclose(std, [0.1493075709, 0.5468502003], rtol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_random_problems_beside_statsmodels(seed):
    rng = np.random.default_rng(seed)
    n_columns, degree = [(1, 1), (1, 4), (2, 3), (3, 2), (5, 1)][seed % 5]
    n_rows = int(rng.integers(60, 200))
    X = rng.normal(size=(n_rows, n_columns)) * 10.0 ** rng.uniform(-6, 6, n_columns) + rng.normal(size=n_columns)
    if seed % 4 == 3:
        X[: n_rows // 2] = X[n_rows // 2 : 2 * (n_rows // 2)]
    y = 10.0 ** rng.uniform(-6, 6) * (np.sin(in_window(X).sum(axis=1)) + 0.3 * rng.normal(size=n_rows))
    weights = [None, rng.uniform(0.5, 2, n_rows), rng.integers(0, 3, n_rows).astype(float)][seed % 3]
    Z = X[:10] * 1.1
    model = TorchPolynomialRegressor(degree).fit(X, y, sample_weight=weights)
    fit, frame = reference(X, y, weights, degree, Z)
    mean, std = model.predict(Z, return_std=True)
    assert_allclose(mean, frame["mean"], rtol=1e-8, atol=1e-9 * y.std())
    assert_allclose(std, frame["mean_se"], rtol=1e-8)
    assert_allclose(model.residual_std_, np.sqrt(fit.scale), rtol=1e-9)
    assert model.dof_ == fit.df_resid


@pytest.mark.parametrize("degree", [1, 3, 6])
@pytest.mark.parametrize("columns", [[(-1, 1)], [(1970, 1990)], [(0, 1), (300, 900)], [(1e-6, 2e-6), (5, 6)]], ids=str)
def test_errors_of_monomials_beside_mpmath(columns, degree, rng):
    degree = min(degree, 3) if len(columns) > 1 else degree
    X = np.column_stack([rng.uniform(*column, 60) for column in columns])
    y = np.cos(3 * in_window(X)).sum(axis=1) + 0.1 * rng.normal(size=60)
    weights = rng.uniform(0.5, 2, 60)
    model = TorchPolynomialRegressor(degree).fit(X, y, sample_weight=weights)
    with mpmath.workdps(120):
        powers = [[0] * len(columns), *model.powers_.tolist()]
        A = mpmath.matrix(
            [
                [mpmath.fprod(mpmath.mpf(x) ** p for x, p in zip(row, power, strict=True)) for power in powers]
                for row in X.tolist()
            ]
        )
        W = mpmath.diag([mpmath.mpf(w) / mpmath.fsum(weights.tolist()) * len(X) for w in weights.tolist()])
        gram_inverse = (A.T * W * A) ** -1
        b = mpmath.matrix(y.tolist())
        residuals = b - A * (gram_inverse * (A.T * (W * b)))
        variance = (residuals.T * W * residuals)[0] / (len(X) - len(powers))
        expected = [float(mpmath.sqrt(variance * gram_inverse[i, i])) for i in range(len(powers))]
    assert_allclose(np.r_[model.intercept_std_, model.term_coef_std_], expected, rtol=1e-9)


@pytest.mark.parametrize("alpha", [1e-4, 0.1])
def test_a_penalty(alpha, rng, penalized_features):
    """The posterior covariance ``s**2 (F'F + n alpha P)**-1``, with trace of the hat matrix as number of parameters."""
    X, y = rng.uniform(-1, 1, (80, 2)), rng.normal(size=80)
    model = TorchPolynomialRegressor(3, alpha=alpha).fit(X, y)
    F = np.column_stack([np.ones(80), penalized_features(model, X)])
    inverse = np.linalg.inv(F.T @ F + 80 * alpha * np.diag([0.0] + [1.0] * (F.shape[1] - 1)))
    hat = F @ inverse @ F.T
    residuals = y - hat @ y
    assert_allclose(model.dof_, 80 - np.trace(hat), rtol=1e-10)
    s = np.sqrt(residuals @ residuals / model.dof_)
    assert_allclose(model.residual_std_, s, rtol=1e-10)
    assert_allclose(model.predict(X, return_std=True)[1], s * np.sqrt(np.diag(hat)), rtol=1e-8)


@pytest.mark.parametrize("offset", [0.0, 1e9])
@pytest.mark.parametrize("noise", [1e-7, 1e-3])
def test_close_fits_of_many_rows(noise, offset, rng):
    """Rows that are not one chunk: the Gram matrix gives residuals as differences of larger numbers."""
    x = rng.uniform(-1, 1, (60_000, 1))
    y = x[:, 0] ** 3 + noise * rng.normal(size=len(x))
    y = offset + y if noise > 1e-5 else y
    model = TorchPolynomialRegressor(3).fit(x, y)
    residuals = y - model.predict(x)
    expected = np.sqrt(residuals @ residuals / (len(x) - 4))
    assert_allclose(model.residual_std_, expected, rtol=1e-6 if offset else 1e-9)
    assert_allclose(model.loss_curve_[-1], np.mean(residuals**2), rtol=1e-6 if offset else 1e-8)


def test_weights_in_any_unit_and_rows_of_weight_0(rng):
    X, y, weights = rng.normal(size=(50, 2)), rng.normal(size=50), rng.uniform(0.5, 2, 50)
    model = TorchPolynomialRegressor(2).fit(X, y, sample_weight=weights)
    for other in (
        TorchPolynomialRegressor(2).fit(X, y, sample_weight=1e3 * weights),
        TorchPolynomialRegressor(2).fit(np.r_[X, X], np.r_[y, y + 5], sample_weight=np.r_[weights, 0 * weights]),
    ):
        assert_allclose(other.term_coef_std_, model.term_coef_std_, rtol=1e-10)
        assert_allclose(other.residual_std_, model.residual_std_, rtol=1e-10)
        assert other.dof_ == model.dof_ == 44


@pytest.mark.parametrize("basis", ["orthonormal", "chebyshev", "monomial"])
@pytest.mark.parametrize("n_targets", [1, 3])
def test_targets_and_bases(basis, n_targets, rng):
    X, Y = rng.uniform(-1, 1, (60, 2)), rng.normal(size=(60, n_targets)) * 10.0 ** np.arange(n_targets)
    settings = {} if basis == "orthonormal" else {"optimizer": "lbfgs", "n_iter": 5000}
    model = TorchPolynomialRegressor(2, basis=basis, **settings).fit(X, Y)
    mean, std = model.predict(X[:5], return_std=True)
    assert mean.shape == std.shape == (5, n_targets)
    assert model.term_coef_std_.shape == model.term_coef_.shape
    for target in range(n_targets):
        alone = TorchPolynomialRegressor(2).fit(X, Y[:, target])
        assert_allclose(std[:, target], alone.predict(X[:5], return_std=True)[1], rtol=1e-8)
        assert_allclose(model.term_coef_std_[target], alone.term_coef_std_, rtol=1e-8)
        assert_allclose(model.intercept_std_[target], alone.intercept_std_, rtol=1e-8)
        assert_allclose(model.residual_std_[target], alone.residual_std_, rtol=1e-8)


def test_extrapolation(rng):
    X, y = rng.uniform(-1, 1, (60, 2)), rng.normal(size=60)
    model = TorchPolynomialRegressor(3).fit(X, y)
    edge = np.clip([[3.0, 0.2]], X.min(axis=0), X.max(axis=0))
    at_edge = model.predict(edge, return_std=True)[1]
    assert model.predict([[3.0, 0.2]], return_std=True)[1] > at_edge
    model.set_params(extrapolation="constant")
    assert_array_equal(model.predict([[3.0, 0.2]], return_std=True)[1], at_edge)
    model.set_params(extrapolation="linear")
    # The tangent is linear in y, so its error follows from fits to unit vectors.
    step = np.array([[3.0, 0.2]])
    functional = [
        TorchPolynomialRegressor(3, extrapolation="linear").fit(X, unit).predict(step)[0] for unit in np.eye(60)
    ]
    expected = model.residual_std_ * np.linalg.norm(functional)
    assert_allclose(model.predict(step, return_std=True)[1], expected, rtol=1e-9)
    with pytest.raises(ValueError, match="outside the range"):
        model.set_params(extrapolation="error").predict(step, return_std=True)


def test_partial_fit_dask_searches_and_files(rng, tmp_path):
    X, y = rng.normal(size=(300, 3)), rng.normal(size=300)
    weights = rng.uniform(0.5, 2, 300)
    model = TorchPolynomialRegressor(2).fit(X, y, sample_weight=weights)
    std = model.predict(X, return_std=True)[1]
    in_parts = TorchPolynomialRegressor(2)
    for rows in np.array_split(np.arange(300), 4):
        in_parts.partial_fit(X[rows], y[rows], sample_weight=weights[rows])
    chunks = [da.from_array(values, chunks=(100, *values.shape[1:])) for values in (X, y, weights)]
    by_dask = TorchPolynomialRegressor(2).fit(*chunks)
    joblib.dump(model, tmp_path / "model.joblib")
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [2]}).fit(X, y, sample_weight=weights)
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor(2))
    pipeline.fit(X, y, torchpolynomialregressor__sample_weight=weights)
    for other in (
        *(in_parts, by_dask, joblib.load(tmp_path / "model.joblib"), search.best_estimator_),
        pickle.loads(pickle.dumps(in_parts)),
        pipeline,
    ):
        assert_allclose(other.predict(X, return_std=True)[1], std, rtol=1e-7)
    for other in (in_parts, by_dask, search.best_estimator_):
        assert_allclose(other.term_coef_std_, model.term_coef_std_, rtol=1e-7)
        assert_allclose(other.residual_std_, model.residual_std_, rtol=1e-7)
    lazy_mean, lazy_std = model.predict(chunks[0], return_std=True)
    assert lazy_std.chunks == lazy_mean.chunks == ((100, 100, 100),)
    assert_allclose(lazy_std.compute(), std, rtol=1e-12)
    frame = pd.DataFrame(X, columns=list("abc"))
    lazy = TorchPolynomialRegressor(2).fit(frame, y).predict(dd.from_pandas(frame, npartitions=2), return_std=True)[1]
    assert_array_equal(lazy.compute().index, frame.index)


def test_single_precision(rng):
    X, y = rng.normal(size=(60, 2)).astype(np.float32), rng.normal(size=60)
    mean, std = TorchPolynomialRegressor(2).fit(X, y).predict(X, return_std=True)
    assert mean.dtype == std.dtype == np.float32
    expected = TorchPolynomialRegressor(2).fit(X.astype(float), y).predict(X.astype(float), return_std=True)[1]
    assert_allclose(std, expected, rtol=1e-6)


def test_small_models_have_small_files(rng):
    X = rng.normal(size=(500, 3))
    assert len(pickle.dumps(TorchPolynomialRegressor(2).fit(X, X[:, 0]))) < 10_000


def test_terms_that_the_rows_do_not_determine(rng):
    x, c = rng.normal(size=100), rng.integers(0, 2, 100)
    y = x + rng.normal(size=100)
    X = np.column_stack([x, c, np.full(100, 3.0)])
    model = TorchPolynomialRegressor(2).fit(X, y)
    is_known = np.isfinite(model.term_coef_std_)
    names = np.array(["x0", "x1", "x0^2", "x0 x1"])
    assert_array_equal(model.term_names_[is_known], names)
    features = np.column_stack([np.ones(100), x, c, x**2, x * c])
    fit = sm.OLS(y, features).fit()
    assert_allclose(np.r_[model.intercept_std_, model.term_coef_std_[is_known]], fit.bse, rtol=1e-9)
    total = np.column_stack([x, c + x, c + 2 * x, rng.normal(size=100)])
    model = TorchPolynomialRegressor(1).fit(total, y)
    # As R's NA: the column that the fit has left out, and no other.
    assert_array_equal(np.isnan(model.term_coef_std_), [False, False, True, False])
    assert np.isfinite(model.predict(total, return_std=True)[1]).all()


def test_terms_that_depend_on_each_other(rng):
    """On a circle, ``x0**2 + x1**2`` is constant. Functionals that this does not change are determined."""
    angle = rng.uniform(0, 2 * np.pi, 100)
    X = np.column_stack([np.cos(angle), np.sin(angle)])
    y = X[:, 0] * X[:, 1] + rng.normal(size=100)
    model = TorchPolynomialRegressor(2).fit(X, y)
    is_known = dict(zip(model.term_names_, np.isfinite(model.term_coef_std_), strict=True))
    assert is_known == {"x0": True, "x1": True, "x0^2": False, "x0 x1": True, "x1^2": False}
    assert np.isnan(model.intercept_std_)
    features = np.column_stack([np.ones(100), X, X[:, 0] * X[:, 1], X[:, 0] ** 2])
    fit = sm.OLS(y, features).fit()
    assert_allclose(model.term_coef_std_[[0, 1, 3]], fit.bse[1:4], rtol=1e-9)
    assert_allclose(model.predict(X, return_std=True)[1], fit.get_prediction().summary_frame()["mean_se"], rtol=1e-8)


@pytest.mark.parametrize("seed", range(30))
def test_importances_beside_refits(seed):
    rng = np.random.default_rng(seed)
    degree = 1 + seed % 3
    u, v, z = rng.normal(size=(3, 120))
    X = np.column_stack([u, u + 0.3 * v, z]) * 10.0 ** rng.uniform(-3, 3, 3)
    y = u + 2 * z + u * v + 0.5 * rng.normal(size=120)
    Y = y if seed % 2 else np.column_stack([y, 3 * z - v])
    weights = None if seed % 4 < 2 else rng.uniform(0.2, 2, 120)
    model = TorchPolynomialRegressor(degree).fit(X, Y, sample_weight=weights)
    share = np.ones(120) / 120 if weights is None else weights / weights.sum()

    def variance(columns):
        predicted = TorchPolynomialRegressor(degree).fit(X[:, columns], Y, sample_weight=weights).predict(X[:, columns])
        predicted = predicted.reshape(120, -1)
        return (share @ (predicted - share @ predicted) ** 2).sum()

    everything = variance([0, 1, 2])
    expected = [1 - variance([c for c in range(3) if c != column]) / everything for column in range(3)]
    assert_allclose(model.feature_importances_, expected, rtol=1e-7, atol=1e-9)


def test_importances_without_variance_and_without_some_columns(rng):
    X = np.column_stack([rng.normal(size=50), np.ones(50)])
    assert_array_equal(TorchPolynomialRegressor(2).fit(X, np.full(50, 3.0)).feature_importances_, [0, 0])
    assert_array_equal(TorchPolynomialRegressor(0).fit(X, X[:, 0]).feature_importances_, [0, 0])
    assert_allclose(TorchPolynomialRegressor(2).fit(X, X[:, 0]).feature_importances_, [1, 0])


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_selectors_take_the_importances(degree, rng):
    X = rng.normal(size=(200, 5))
    y = X[:, 1] + X[:, 3] * (1 if degree == 1 else X[:, 1]) + 0.1 * rng.normal(size=200)
    model = TorchPolynomialRegressor(degree)
    for selector in (RFE(model, n_features_to_select=2), SelectFromModel(model, threshold="mean")):
        assert_array_equal(selector.fit(X, y).get_support(), [False, True, False, True, False])
    assert RFECV(model, cv=3).fit(X, y).get_support()[[1, 3]].all()


ATTRIBUTES = "term_coef_std_", "intercept_std_", "residual_std_", "dof_"


def test_reasons_for_no_errors(rng):
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    with pytest.raises(NotFittedError):
        TorchPolynomialRegressor().predict(X, return_std=True)
    cases = {
        "'loss' parameter got 'huber'.*BaggingRegressor.*MAPIE": TorchPolynomialRegressor(1, loss="huber").fit(X, y),
        "20 rows of positive weight and 20 independent terms.*Lower 'degree'": TorchPolynomialRegressor(3).partial_fit(
            X, y
        ),
        "fewer rows than the 20 terms": TorchPolynomialRegressor(3).fit(X[:15], y[:15]),
        "fewer rows than the 20 terms.*": TorchPolynomialRegressor(3, alpha=0.1).fit(X[:15], y[:15]),
        "10 rows of positive weight and 10 independent terms": TorchPolynomialRegressor(2).fit(X[:10], y[:10]),
    }
    for message, model in cases.items():
        with pytest.raises(ValueError, match=message):
            model.predict(X, return_std=True)
        for name in ATTRIBUTES:
            assert not hasattr(model, name)
            with pytest.raises(AttributeError, match=message):
                getattr(model, name)
        model._repr_html_()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torchpoly.OverfittingWarning")
def test_files_of_more_than_1000_terms_hold_no_errors(rng):
    X, y = rng.normal(size=(1200, 44)), rng.normal(size=1200)
    model = TorchPolynomialRegressor(2).fit(X, y)  # 1035 terms
    assert np.isfinite(model.predict(X[:3], return_std=True)[1]).all()
    restored = pickle.loads(pickle.dumps(model))
    assert_array_equal(restored.predict(X[:3]), model.predict(X[:3]))
    with pytest.raises(ValueError, match="loaded from a file without errors"):
        restored.predict(X, return_std=True)


def test_raw_powers_that_are_ill_conditioned(rng):
    years = np.arange(1950, 2020.0)[:, None]
    model = TorchPolynomialRegressor(3, basis="monomial").fit(years, np.sin(years[:, 0]))
    with pytest.raises(ValueError, match=r"'monomial' are ill-conditioned.*'orthonormal'"):
        model.predict(years, return_std=True)


def test_models_saved_before_have_none(rng):
    X, y = rng.normal(size=(20, 1)), rng.normal(size=20)
    state = TorchPolynomialRegressor(1).fit(X, y).__getstate__()
    del state["_uncertainty"], state["_residual_size"]
    model = TorchPolynomialRegressor()
    model.__setstate__(state)
    with pytest.raises(ValueError, match=r"loaded from a file without errors.*fit again"):
        model.predict(X, return_std=True)
    assert model.equation().startswith("y = ")
    file = io.BytesIO()
    joblib.dump(model, file)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "n_iter": 5},
        {"basis": "monomial", "optimizer": "sgd", "lr": 1e-3, "batch_size": 10, "n_iter": 1, "tol": None},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_training_that_stopped_early_warns(settings, rng):
    X, y = rng.normal(size=(100, 2)), rng.normal(size=100)
    early, optimum = TorchPolynomialRegressor(2, **settings).fit(X, y), TorchPolynomialRegressor(2).fit(X, y)
    with pytest.warns(UserWarning, match="stopped before the optimum") as caught:
        std = early.predict(X, return_std=True)[1]
    assert caught[0].filename == __file__
    assert_allclose(std, optimum.predict(X, return_std=True)[1], rtol=1e-9)


@pytest.mark.filterwarnings("error::UserWarning")
def test_training_that_converged_does_not_warn(rng):
    X, y = rng.normal(size=(100, 2)), rng.normal(size=100)
    for settings in ({}, {"optimizer": "adam"}, {"basis": "chebyshev"}, {"alpha": 0.1}):
        TorchPolynomialRegressor(2, **settings).fit(X, y).predict(X, return_std=True)
    TorchPolynomialRegressor(2).fit(X, X[:, 0] ** 2 - X[:, 1]).predict(X, return_std=True)


def test_a_pipeline_of_scikit_learn_gives_the_same_variance(rng):
    X, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    model = TorchPolynomialRegressor(2).fit(X, y)
    residuals = y - make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(X, y).predict(X)
    assert_allclose(model.residual_std_, np.sqrt(residuals @ residuals / 44), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0])
def test_coverage(alpha):
    """Intervals of the mean hold it in 90 % of 2,000 data sets."""
    from scipy import stats

    rng, inside, quantile = np.random.default_rng(0), [], stats.t.ppf(0.95, 36)
    new = np.linspace(-0.9, 0.9, 50)[:, None]
    truth = new[:, 0] ** 3 - new[:, 0]
    for _ in range(2000):
        x = rng.uniform(-1, 1, (40, 1))
        model = TorchPolynomialRegressor(3, alpha=alpha).fit(x, x[:, 0] ** 3 - x[:, 0] + 0.3 * rng.normal(size=40))
        mean, std = model.predict(new, return_std=True)
        inside.append(np.abs(mean - truth) <= quantile * std)
    assert abs(np.mean(inside) - 0.9) < 0.01
