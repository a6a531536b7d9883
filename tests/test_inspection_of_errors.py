"""Intervals, leverage, influence, summary and analysis of variance, beside statsmodels, R and certified values."""

import pickle

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from test_standard_errors import WOMEN_HEIGHT, WOMEN_WEIGHT, in_window

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
from torchpoly.inspection import (
    anova,
    covariance,
    influence,
    is_extrapolating,
    leverage,
    predict_interval,
    summary,
)

SPEED = np.repeat(
    [4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25],
    [2, 2, 1, 1, 3, 2, 4, 4, 4, 3, 2, 3, 4, 3, 5, 1, 1, 4, 1],
).astype(float)[:, None]
DISTANCE = np.array(
    [
        *(2, 10, 4, 22, 16, 10, 18, 26, 34, 17, 28, 14, 20, 24, 28, 26, 34, 34, 46, 26, 36, 60, 80, 20, 26),
        *(54, 32, 40, 32, 40, 50, 42, 56, 76, 84, 36, 46, 68, 32, 48, 52, 56, 64, 66, 54, 70, 92, 93, 120, 85),
    ],
    dtype=float,
)


def random_problem(seed):
    rng = np.random.default_rng(seed)
    n_columns, degree = [(1, 1), (1, 4), (2, 3), (3, 2), (5, 1)][seed % 5]
    n_rows = int(rng.integers(60, 150))
    X = rng.normal(size=(n_rows, n_columns)) * 10.0 ** rng.uniform(-6, 6, n_columns)
    y = 10.0 ** rng.uniform(-6, 6) * (np.sin(in_window(X).sum(axis=1)) + 0.3 * rng.normal(size=n_rows))
    weights = [None, rng.uniform(0.5, 2, n_rows)][seed % 2]
    features = PolynomialFeatures(degree).fit(X)
    scaled = np.ones(n_rows) if weights is None else weights / weights.mean()
    fit = sm.WLS(y, features.transform(in_window(X)), weights=scaled).fit(method="qr")
    model = TorchPolynomialRegressor(degree).fit(X, y, sample_weight=weights)
    return model, X, y, weights, fit, lambda Z: features.transform(in_window(X, Z))


def test_women():
    """The numbers of R: lm(weight ~ height + I(height^2), women)."""
    model = TorchPolynomialRegressor(2).fit(WOMEN_HEIGHT, WOMEN_WEIGHT)
    points = [[65.0], [75.0]]
    assert_allclose(
        predict_interval(model, points, kind="confidence"),
        [[134.8574921788, 135.5081186809], [176.7977206804, 179.1806891450]],
        rtol=1e-11,
    )
    assert_allclose(
        predict_interval(model, points),
        [[134.2849899815, 136.0806208782], [176.5332246437, 179.4451851818]],
        rtol=1e-11,
    )
    found = influence(model, WOMEN_HEIGHT, WOMEN_WEIGHT)
    assert_allclose(found.leverage.max(), 0.4647058824, rtol=1e-9)
    assert_allclose(found.cooks_distance.max(), 1.3064618980, rtol=1e-9)
    assert_allclose(found.externally_studentized_residuals.max(), 2.5757808895, rtol=1e-9)
    target = summary(model, WOMEN_HEIGHT, WOMEN_WEIGHT).targets[0]
    assert_allclose(target.estimates, [261.8781835811, -7.348319327731, 0.08306399482870], rtol=1e-11)
    assert_allclose(target.standard_errors, [25.19677081964, 0.7776922803866, 0.005979642367728], rtol=1e-11)
    assert_allclose(target.residual_std, 0.38406500159, rtol=1e-10)
    assert_allclose([target.r_squared, target.adjusted_r_squared], [0.999473652633, 0.999385928072], rtol=1e-11)
    assert_allclose(
        [target.log_likelihood, target.aic, target.bic], [-5.2563493771, 16.5126987541, 18.6368493574], rtol=1e-9
    )
    residuals = WOMEN_WEIGHT - model.predict(WOMEN_HEIGHT)
    assert_allclose(target.residuals, np.quantile(residuals, [0, 0.25, 0.5, 0.75, 1]))


def test_cars():
    """R's example of polynomial regression: the sums of squares, and F against the next lower degree."""
    model = TorchPolynomialRegressor(4).fit(SPEED, DISTANCE)
    table = anova(model, SPEED, DISTANCE).to_frame()
    explained = table.loc["degree 2":"degree 4", "sum_of_squares"]
    residual = table.loc["residual", "sum_of_squares"]
    sums = residual + np.r_[explained.to_numpy()[::-1].cumsum()[::-1], 0]
    assert_array_equal(sums.round(), [11354, 10825, 10634, 10298])
    assert_allclose(table.loc["degree 2":"degree 4", "F"], [2.3108, 0.8318, 1.4707], atol=5e-5)
    assert table.loc["total", "df"] == 49


@pytest.mark.parametrize("seed", range(40))
def test_beside_statsmodels(seed):
    model, X, y, weights, fit, features = random_problem(seed)
    Z = X[:8] * 1.05
    frame = fit.get_prediction(features(Z)).summary_frame(alpha=0.1)
    unit = 1e-9 * y.std()
    for kind, ends in (
        ("confidence", ["mean_ci_lower", "mean_ci_upper"]),
        ("prediction", ["obs_ci_lower", "obs_ci_upper"]),
    ):
        found = predict_interval(model, Z, confidence_level=0.9, kind=kind)
        assert_allclose(found, frame[ends], rtol=1e-8, atol=unit)
    target = summary(model).targets[0]
    assert_allclose([target.r_squared, target.adjusted_r_squared], [fit.rsquared, fit.rsquared_adj], rtol=1e-9)
    assert_allclose([target.f_statistic, target.f_p_value], [fit.fvalue, fit.f_pvalue], rtol=1e-7)
    assert_allclose(covariance(model).diagonal() ** 0.5, target.standard_errors, rtol=1e-12)
    if weights is None:
        assert_allclose([target.log_likelihood, target.aic, target.bic], [fit.llf, fit.aic, fit.bic], rtol=1e-9)
        roots = np.ones(len(X))
    else:
        roots = np.sqrt(weights / weights.mean())
    # statsmodels' influence is that of equal weights.
    reference = sm.OLS(roots * y, roots[:, None] * features(X)).fit(method="qr").get_influence()
    found = influence(model, X, y, sample_weight=weights)
    assert_allclose(found.leverage, reference.hat_matrix_diag, rtol=1e-9)
    assert_allclose(found.studentized_residuals, reference.resid_studentized_internal, rtol=1e-7, atol=1e-9)
    assert_allclose(found.externally_studentized_residuals, reference.resid_studentized_external, rtol=1e-7, atol=1e-9)
    assert_allclose(found.cooks_distance, reference.cooks_distance[0], rtol=1e-7, atol=1e-12)
    if weights is None:
        assert_allclose(leverage(model, X), reference.hat_matrix_diag, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_columns", [1, 2])
def test_analysis_of_variance_beside_nested_fits(n_columns, weighted, rng):
    X = rng.integers(0, 7, (120, n_columns)).astype(float)
    Y = np.column_stack([np.sin(X).sum(axis=1), X[:, 0] ** 2]) + rng.normal(size=(120, 2))
    weights = rng.uniform(0.5, 2, 120) if weighted else None
    scaled = np.ones(120) if weights is None else weights / weights.mean()
    model = TorchPolynomialRegressor(3).fit(X, Y, sample_weight=weights)
    for table, y in zip(anova(model, X, Y, sample_weight=weights), Y.T, strict=True):
        fits = [
            sm.WLS(y, PolynomialFeatures(degree).fit_transform(in_window(X)), weights=scaled).fit()
            for degree in range(4)
        ]
        groups = pd.factorize(pd.MultiIndex.from_arrays(X.T))[0]
        pure = sm.WLS(y, np.eye(groups.max() + 1)[groups], weights=scaled).fit()
        frame = table.to_frame()
        for degree in (1, 2, 3):
            test = fits[degree].compare_f_test(fits[degree - 1])
            row = frame.loc[f"degree {degree}"]
            assert_allclose(row["sum_of_squares"], fits[degree - 1].ssr - fits[degree].ssr, rtol=1e-8)
            assert row["df"] == test[2]
            assert_allclose(row["F"], row["mean_square"] / fits[3].mse_resid, rtol=1e-8)
            assert_allclose(row["p"], stats.f.sf(row["F"], row["df"], fits[3].df_resid), rtol=1e-10)
        assert_allclose(frame.loc["residual", ["df", "sum_of_squares"]].tolist(), [fits[3].df_resid, fits[3].ssr])
        f, p, dof = pure.compare_f_test(fits[3])
        assert_allclose(frame.loc["lack of fit", ["df", "F", "p"]].tolist(), [dof, f, p], rtol=1e-7)
        assert_allclose(frame.loc["pure error", ["df", "sum_of_squares"]].tolist(), [pure.df_resid, pure.ssr])
        assert_allclose(frame.loc["total", "sum_of_squares"], fits[0].ssr)


def test_hidden_extrapolation(rng):
    """Inside the range of each column, far from the diagonal on which all rows are."""
    x = rng.uniform(-1, 1, 200)
    X = np.column_stack([x, x + 0.05 * rng.normal(size=200)])
    model = TorchPolynomialRegressor(3).fit(X, x)
    points = np.array([[0.5, 0.5], [0.9, -0.9], [3.0, 3.0]])
    assert_array_equal(is_extrapolating(model, points), [False, True, True])
    assert not is_extrapolating(model, X, X_train=X).any()
    between = np.array([[0.0, 0.3]])
    assert is_extrapolating(model, between, X_train=X) == (leverage(model, between) > leverage(model, X).max())


def test_copies_of_a_column_that_differ_too_much(rng):
    """Each column is in its range, and their difference is far outside its own."""
    u, v = rng.uniform(-1, 1, (2, 200))
    model = TorchPolynomialRegressor(2).fit(np.column_stack([u, u + 1e-5 * v]), u + v)
    assert_array_equal(is_extrapolating(model, [[0.1, 0.1], [0.1, 0.1 + 1e-4], [0.1, 0.1 + 0.9e-5]]), [0, 1, 0])


def test_rows_of_weight_0(rng):
    X, Y = rng.normal(size=(30, 1)), rng.normal(size=(30, 2))
    weights = rng.integers(0, 2, 30).astype(float)
    model = TorchPolynomialRegressor(1).fit(X, Y, sample_weight=weights)
    found = influence(model, X, Y, sample_weight=weights)
    assert found.cooks_distance.shape == (30, 2)
    assert_array_equal(np.isnan(found.studentized_residuals), np.column_stack([weights == 0] * 2))
    assert_array_equal(found.leverage == 0, weights == 0)


def test_one_weight_for_all_rows(rng):
    X, y = rng.normal(size=(30, 1)), rng.normal(size=30)
    model = TorchPolynomialRegressor(1).fit(X, y, sample_weight=2.0)
    for weights in (None, 2.0, np.full(30, 2.0)):
        assert_allclose(influence(model, X, y, sample_weight=weights).leverage, leverage(model, X))


def test_rows_through_which_each_fit_goes(rng):
    X = np.r_[np.zeros(20), 1.0][:, None]
    y = np.r_[rng.normal(size=20), 3.0]
    found = influence(TorchPolynomialRegressor(1).fit(X, y), X, y)
    assert_allclose(found.leverage[-1], 1)
    assert np.isnan(found.cooks_distance[-1])
    assert np.isfinite(found.cooks_distance[:-1]).all()


def test_searches_pipelines_and_partial_fit(rng):
    X, y = rng.normal(size=(80, 2)), rng.normal(size=80)
    model = TorchPolynomialRegressor(2).fit(X, y)
    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [2]}).fit(X, y)
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor(2)).fit(X, y)
    in_parts = TorchPolynomialRegressor(2).partial_fit(X[:50], y[:50]).partial_fit(X[50:], y[50:])
    for other in (search, pipeline, in_parts):
        assert_allclose(predict_interval(other, X), predict_interval(model, X), rtol=1e-7, atol=1e-9)
        assert_allclose(influence(other, X, y).cooks_distance, influence(model, X, y).cooks_distance, rtol=1e-7)
        assert_allclose(leverage(other, X), leverage(model, X), rtol=1e-7)
        assert_allclose(anova(other, X, y).f[:2], anova(model, X, y).f[:2], rtol=1e-7)
    assert_allclose(covariance(search), covariance(model), rtol=1e-9, atol=1e-15)
    for function in (summary, covariance):
        with pytest.raises(ValueError, match=rf"got a Pipeline.*Write {function.__name__}\(pipe\[-1\]\)"):
            function(pipeline)


def test_dtypes_shapes_and_pickles(rng):
    X, Y = rng.normal(size=(40, 2)).astype(np.float32), rng.normal(size=(40, 3))
    model = TorchPolynomialRegressor(1).fit(X, Y)
    intervals = predict_interval(model, X[:5])
    assert intervals.shape == (5, 3, 2)
    assert intervals.dtype == np.float32
    assert covariance(model).shape == (3, 3, 3)
    table = summary(model, X, Y)
    assert len(table.to_frame()) == 9
    assert str(table).count("Target") == 3
    assert table._repr_html_().count("<table>") == 3
    tables = anova(model, X, Y)
    assert "degree 1" in str(tables[0])
    assert "<td" in tables[0]._repr_html_()
    for found in (table, tables[0], influence(model, X, Y)):
        assert str(pickle.loads(pickle.dumps(found))) == str(found)


def test_terms_that_the_rows_do_not_determine(rng):
    X = np.column_stack([rng.normal(size=50), np.ones(50)])
    model = TorchPolynomialRegressor(1).fit(X, X[:, 0] + rng.normal(size=50))
    assert_array_equal(np.isnan(summary(model).targets[0].standard_errors), [False, False, True])
    assert_array_equal(np.isnan(covariance(model)), np.add.outer([0, 0, 1], [0, 0, 1]) > 0)
    assert "NaN" in str(summary(model))


def test_constants(rng):
    X, y = rng.normal(size=(20, 1)), rng.normal(size=20)
    target = summary(TorchPolynomialRegressor(0).fit(X, y)).targets[0]
    assert_allclose(target.standard_errors[0], y.std(ddof=1) / np.sqrt(20))
    assert np.isnan(target.f_statistic)
    assert str(summary(TorchPolynomialRegressor(0).fit(X, y)))


FUNCTIONS = {
    "predict_interval": lambda model, X, y: predict_interval(model, X),
    "summary": lambda model, X, y: summary(model),
    "covariance": lambda model, X, y: covariance(model),
    "influence": lambda model, X, y: influence(model, X, y),
    "anova": lambda model, X, y: anova(model, X, y),
    "leverage": lambda model, X, y: leverage(model, X),
    "is_extrapolating": lambda model, X, y: is_extrapolating(model, X),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_refusals(function, rng):
    call, X, y = FUNCTIONS[function], rng.normal(size=(30, 2)), rng.normal(size=30)
    with pytest.raises(NotFittedError):
        call(TorchPolynomialRegressor(), X, y)
    with pytest.raises(TypeError, match="'estimator' parameter"):
        call(StandardScaler().fit(X), X, y)
    with pytest.raises(ValueError, match=r"'huber'.*BaggingRegressor.*MAPIE"):
        call(TorchPolynomialRegressor(1, loss="huber").fit(X, y), X, y)
    with pytest.raises(ValueError, match=r"fewer rows than the 6 terms.*Lower 'degree'"):
        call(TorchPolynomialRegressor(2).fit(X[:4], y[:4]), X[:4], y[:4])
    if function not in ("leverage", "is_extrapolating"):
        with pytest.raises(ValueError, match="6 rows of positive weight and 6 independent terms"):
            call(TorchPolynomialRegressor(2).fit(X[:6], y[:6]), X[:6], y[:6])
    if function not in ("summary", "covariance"):
        with pytest.raises(TypeError, match="'X' is a Dask Array"):
            call(TorchPolynomialRegressor(1).fit(X, y), da.from_array(X), y)
    if function in ("influence", "anova"):
        with pytest.raises(ValueError, match="not the rows of the fit"):
            call(TorchPolynomialRegressor(1).fit(X, y), 2 * X, y)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, "a", None])
def test_confidence_levels(level, rng):
    X = rng.normal(size=(30, 1))
    model = TorchPolynomialRegressor(1).fit(X, rng.normal(size=30))
    for function in (
        lambda: predict_interval(model, X, confidence_level=level),
        lambda: summary(model, confidence_level=level),
    ):
        with pytest.raises(ValueError, match="'confidence_level' parameter"):
            function()
    with pytest.raises(ValueError, match="'kind' parameter"):
        predict_interval(model, X, kind="both")
    with pytest.raises(ValueError, match="alpha=0"):
        anova(TorchPolynomialRegressor(1, alpha=0.1).fit(X, X[:, 0]), X, X[:, 0])
    with pytest.raises(ValueError, match="Give both"):
        summary(model, X)


@pytest.mark.slow
def test_coverage():
    """New readings are inside 90 % intervals in 90 % of 2,000 data sets with 50 new rows each."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(2000):
        x, new = rng.uniform(-1, 1, (40, 1)), rng.uniform(-1, 1, (50, 1))
        y, y_new = (v[:, 0] ** 3 - v[:, 0] + 0.3 * rng.normal(size=len(v)) for v in (x, new))
        model = TorchPolynomialRegressor(3, extrapolation="continue").fit(x, y)
        low, high = predict_interval(model, new, confidence_level=0.9).T
        inside.append((low <= y_new) & (y_new <= high))
    assert abs(np.mean(inside) - 0.9) < 0.01


def hard_table(rng):
    """Return columns of few values, offsets, heavy tails, copies and constants, with repeated rows and weights of 0."""
    n_rows, columns = int(rng.integers(15, 120)), []
    for _ in range(int(rng.integers(1, 4))):
        u = rng.normal(size=n_rows)
        kinds = [
            *(u, rng.integers(0, 2, n_rows).astype(float), rng.integers(0, 4, n_rows).astype(float), u * 1e-6 + 5),
            *(u * 1e5 + 1e7, np.full(n_rows, 3.0), rng.standard_t(1.2, n_rows), 2 * columns[0] + 1 if columns else u),
        ]
        columns.append(kinds[rng.integers(8)])
    X = np.column_stack(columns)
    if rng.random() < 0.3:
        X = X[rng.integers(0, max(3, n_rows // 3), n_rows)]
    weights = rng.integers(0, 3, n_rows) * 10.0 ** rng.uniform(-3, 3) if rng.random() < 0.5 else None
    y = np.sin(X[:, 0] - X[:, 0].mean()) + 0.2 * rng.normal(size=n_rows)
    return X, y, None if weights is None or not weights.any() else weights


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hard_tables():
    """The hat matrix of a singular value decomposition of the features judges; degrees of freedom add up everywhere."""
    n_estimable = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        X, y, weights = hard_table(rng)
        model = TorchPolynomialRegressor(int(rng.integers(1, 5))).fit(X, y, sample_weight=weights)
        n_rows = len(X) if weights is None else np.count_nonzero(weights)
        if n_rows <= model.rank_ or model._uncertainty is None:
            continue
        n_estimable += 1
        found = influence(model, X, y, sample_weight=weights)
        basis = model._polynomial.basis
        features = (np.sqrt(1.0 if weights is None else weights) * basis.evaluate(basis.domain.scale(X))).T
        sizes = np.linalg.norm(features, axis=0)
        left, values, _ = np.linalg.svd(features / np.where(sizes > 0, sizes, 1.0), full_matrices=False)
        if values[model.rank_ - 1] > 1e-7 * values[0]:
            assert_allclose(found.leverage, np.square(left[:, : model.rank_]).sum(axis=1), atol=1e-7)
        assert_allclose(found.leverage.sum(), model.rank_, atol=1e-6)
        table = anova(model, X, y, sample_weight=weights).to_frame()
        assert table.loc["residual", "df"] == model.dof_ == n_rows - model.rank_
        squares = model.residual_std_**2 * model.dof_
        assert_allclose(table.loc["residual", "sum_of_squares"], squares, rtol=1e-6, atol=1e-12 * y.var())
        assert np.isfinite(predict_interval(model, X)).all()
        assert not np.isinf(model.term_coef_std_).any()
        assert (model.feature_importances_ <= 1 + 1e-6).all()
        assert str(summary(model, X, y, sample_weight=weights))
    assert n_estimable > 150
