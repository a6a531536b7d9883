"""Displays: what they draw, and what they say without matplotlib."""

import datetime
import sys
from functools import partial

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import stats
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from torchpoly import DiagnosticsDisplay, LossCurveDisplay, PolynomialFitDisplay, TorchPolynomialRegressor
from torchpoly.inspection import influence, predict_interval


@pytest.fixture(autouse=True)
def no_windows():
    backend = mpl.get_backend()
    mpl.use("Agg")
    yield
    plt.close("all")
    mpl.use(backend)


@pytest.fixture
def adam(surface):
    X, Y = surface
    return TorchPolynomialRegressor(optimizer="adam", n_iter=50, tol=None).fit(X, Y[:, 0])


def test_loss_curves_of_several_estimators(adam, surface):
    X, Y = surface
    display = LossCurveDisplay.from_estimator(adam, color="k")
    pipeline = make_pipeline(StandardScaler(), TorchPolynomialRegressor(optimizer="sgd", n_iter=9, tol=None))
    second = LossCurveDisplay.from_estimator(pipeline.fit(X, Y[:, 0]), name="SGD", ax=display.ax_)

    assert second.ax_ is display.ax_
    assert second.figure_ is display.ax_.figure
    first, other = display.ax_.lines
    np.testing.assert_array_equal(first.get_ydata(), adam.loss_curve_)
    np.testing.assert_array_equal(other.get_xdata(), np.arange(1, 10))
    assert first.get_color() == "k"
    assert display.ax_.get_yscale() == "log"
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("iteration", "loss")
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["TorchPolynomialRegressor(n_iter=50, optimizer='adam', tol=None)", "SGD"]


def test_loss_curve_of_a_search(surface):
    X, Y = surface
    search = GridSearchCV(TorchPolynomialRegressor(optimizer="adam"), {"degree": [2, 3]}, cv=2).fit(X, Y[:, 0])
    display = LossCurveDisplay.from_estimator(search)
    np.testing.assert_array_equal(display.loss_curve, search.best_estimator_.loss_curve_)


def test_loss_above_a_baseline(adam):
    best = adam.loss_curve_.min() / 2
    display = LossCurveDisplay.from_estimator(adam, baseline=best)
    np.testing.assert_allclose(display.line_.get_ydata(), adam.loss_curve_ - best)
    assert display.ax_.get_ylabel() == f"loss above {best:.6g}"


def test_losses_that_are_negative_are_on_a_linear_axis():
    assert LossCurveDisplay(np.array([1.0, -1.0])).plot().ax_.get_yscale() == "linear"
    single = LossCurveDisplay(np.array([2.0])).plot()
    assert single.line_.get_marker() == "o"
    assert single.ax_.get_legend() is None


@pytest.mark.parametrize("frame", [None, pd.DataFrame, pl.DataFrame])
@pytest.mark.filterwarnings("error")
def test_fit_over_one_feature_the_others_at_their_median(frame, surface):
    X, Y = surface
    y = pd.Series(Y[:, 0], name="yield")
    data, feature, label = X, 1, "x1"
    if frame is not None:
        data, feature, label = frame(dict(zip(["a", "pressure", "c"], X.T, strict=True))), "pressure", "pressure"
    model = make_pipeline(StandardScaler(), TorchPolynomialRegressor()).fit(data, y)
    display = PolynomialFitDisplay.from_estimator(model, data, y, feature=feature, residuals=True, color="b")
    assert plt.get_fignums() == [1]

    grid = display.line_.get_xdata()
    assert (grid[0], grid[-1], len(grid)) == (X[:, 1].min(), X[:, 1].max(), 200)
    points = np.column_stack([np.full(200, np.median(X[:, 0])), grid, np.full(200, np.median(X[:, 2]))])
    reference = TorchPolynomialRegressor().fit(X, y)
    np.testing.assert_allclose(display.line_.get_ydata(), reference.predict(points), atol=1e-6)
    np.testing.assert_array_equal(display.ax_.collections[0].get_offsets(), np.column_stack([X[:, 1], y]))
    residuals = display.residuals_ax_.collections[0].get_offsets()[:, 1]
    np.testing.assert_allclose(residuals, y - reference.predict(X), atol=1e-6)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == (label, "yield")
    assert (display.residuals_ax_.get_xlabel(), display.residuals_ax_.get_ylabel()) == (label, "residual")


def test_several_fits_on_one_axis(surface):
    X, Y = surface
    display = PolynomialFitDisplay.from_estimator(TorchPolynomialRegressor().fit(X, Y), X, Y, target=1, label="cubic")
    line = PolynomialFitDisplay.from_estimator(LinearRegression().fit(X, Y), X, target=1, ax=display.ax_)
    assert len(display.ax_.lines) == 2
    assert len(display.ax_.collections) == 1
    assert line.residuals_ax_ is None
    np.testing.assert_array_equal(display.ax_.collections[0].get_offsets()[:, 1], Y[:, 1])
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["cubic"]


def test_bad_input(adam, surface):
    X, Y = surface
    model = TorchPolynomialRegressor()
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(model)
    with pytest.raises(NotFittedError):
        PolynomialFitDisplay.from_estimator(model, X)
    draw = PolynomialFitDisplay.from_estimator
    with pytest.raises(ValueError, match="'feature' parameter got 3; it must be an int from 0 to 2"):
        draw(adam, X, feature=3)
    with pytest.raises(ValueError, match="'feature' parameter got 'a', but X has no column names"):
        draw(adam, X, feature="a")
    with pytest.raises(ValueError, match=r"'feature' parameter got 'd', but X has columns \['a', 'b', 'c'\]"):
        draw(adam, pd.DataFrame(X, columns=["a", "b", "c"]), feature="d")
    with pytest.raises(ValueError, match=r"'residuals' parameter got True.*'y' parameter"):
        draw(adam, X, residuals=True)
    with pytest.raises(ValueError, match="'ax' parameter got 1 axes; with residuals it must be two"):
        draw(adam, X, Y[:, 0], residuals=True, ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="'ax' parameter got 2 axes; it must be one, or two with residuals=True"):
        draw(adam, X, ax=plt.subplots(1, 2)[1])
    with pytest.raises(ValueError, match="'target' parameter got 1; it must be an int from 0 to 0"):
        draw(adam, X, target=1)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        draw(adam, X, Y[:9, 0])
    both = plt.subplots(1, 2)[1]
    assert draw(adam, X, Y[:, 0], residuals=True, ax=both).residuals_ax_ is both[1]


def test_without_matplotlib_a_clear_message(adam, surface, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"LossCurveDisplay.from_estimator requires matplotlib.*pip install"):
            LossCurveDisplay.from_estimator(adam)
        with pytest.raises(ImportError, match=r"PolynomialFitDisplay.from_estimator requires matplotlib"):
            PolynomialFitDisplay.from_estimator(adam, surface[0])


def test_fit_of_a_pipeline_with_categories_and_missing_values(rng):
    X = pd.DataFrame({"power": rng.uniform(50, 200, 200), "origin": rng.choice(["USA", "USA", "Japan"], 200)})
    y = X["power"] / 10 + (X["origin"] == "USA")
    X.loc[::7, "power"] = np.nan
    X["doors"] = pd.array(np.where(rng.random(200) < 0.1, None, 4), dtype="Int64")
    encoder = make_column_transformer((OneHotEncoder(drop="first"), ["origin"]), remainder=SimpleImputer())
    pipeline = make_pipeline(encoder, TorchPolynomialRegressor(1)).fit(X, y)
    display = PolynomialFitDisplay.from_estimator(pipeline, X, y, feature="power", residuals=True)
    most_frequent = pd.DataFrame({"power": display.line_.get_xdata(), "origin": "USA", "doors": 4.0})
    np.testing.assert_allclose(display.line_.get_ydata(), pipeline.predict(most_frequent))
    assert (display.grid[0], display.grid[-1]) == (X["power"].min(), X["power"].max())
    with pytest.raises(ValueError, match="'feature' parameter got 'origin', a column without numbers"):
        PolynomialFitDisplay.from_estimator(pipeline, X, feature="origin")


@pytest.mark.parametrize(
    "column",
    [
        np.tile([True, False], 30),
        pd.array([True, False] * 30, dtype="boolean"),
        pd.Categorical([1, 2, 2, 1] * 15),
        pl.Series([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)] * 30),
    ],
    ids=["bool", "nullable bool", "categories that are integers", "dates of polars"],
)
def test_columns_not_of_numbers_stay_at_a_value_of_theirs(column, rng):
    frame = pl.DataFrame if isinstance(column, pl.Series) else pd.DataFrame
    X = frame({"a": rng.uniform(size=60), "c": column})
    encoder = make_column_transformer((OneHotEncoder(drop="first"), ["c"]), remainder="passthrough")
    pipeline = make_pipeline(encoder, TorchPolynomialRegressor(1)).fit(X, np.arange(60.0))
    assert np.isfinite(PolynomialFitDisplay.from_estimator(pipeline, X, feature="a").curve).all()
    with pytest.raises(ValueError, match="'feature' parameter got 'c', a column without numbers"):
        PolynomialFitDisplay.from_estimator(pipeline, X, feature="c")


def test_fit_on_a_logarithmic_axis_has_points_all_along_it():
    x = np.geomspace(1, 1e6, 50)
    model = TorchPolynomialRegressor(2).fit(x[:, None], np.log(x))
    axis = plt.subplots(subplot_kw={"xscale": "log"})[1]
    grid = PolynomialFitDisplay.from_estimator(model, x[:, None], ax=axis).grid
    np.testing.assert_allclose(grid, np.geomspace(1, 1e6, 200))


def test_a_long_name_leaves_room_for_the_curve(surface):
    X, Y = surface
    model = TorchPolynomialRegressor(2, optimizer=partial(torch.optim.Adam, betas=(0.8, 0.99)), n_iter=3, tol=None)
    display = LossCurveDisplay.from_estimator(model.fit(X, Y))
    assert len(display.name) <= 70
    assert display.name.startswith("TorchPolynomialRegressor(")


@pytest.mark.parametrize("interval", ["prediction", "confidence"])
@pytest.mark.parametrize("in_pipeline", [False, True])
def test_bands_are_intervals(interval, in_pipeline, surface):
    X, Y = surface
    steps = [StandardScaler()] if in_pipeline else []
    model = make_pipeline(*steps, TorchPolynomialRegressor(2)).fit(X, Y)
    display = PolynomialFitDisplay.from_estimator(
        model, X, Y, target=1, feature=1, interval=interval, confidence_level=0.8, color="tab:green"
    )
    rows = np.tile(np.median(X, axis=0), (200, 1))
    rows[:, 1] = display.grid
    expected = predict_interval(model, rows, confidence_level=0.8, kind=interval)[:, 1]
    np.testing.assert_allclose(np.column_stack([display.lower, display.upper]), expected)
    ends = display.band_.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([ends.min(), ends.max()], [expected.min(), expected.max()])
    np.testing.assert_allclose(display.band_.get_facecolor()[0, :3], mpl.colors.to_rgb("tab:green"))
    without = PolynomialFitDisplay.from_estimator(model, X, Y)
    assert without.lower is without.band_ is None


def test_bands_need_standard_errors(surface):
    X, Y = surface
    with pytest.raises(ValueError, match="'kind' parameter"):
        PolynomialFitDisplay.from_estimator(TorchPolynomialRegressor(1).fit(X, Y), X, Y, interval="both")
    with pytest.raises(ValueError, match="BaggingRegressor"):
        PolynomialFitDisplay.from_estimator(
            TorchPolynomialRegressor(1, loss="huber").fit(X, Y), X, Y, interval="prediction"
        )
    with pytest.raises(TypeError, match="'estimator' parameter got an instance of LinearRegression"):
        PolynomialFitDisplay.from_estimator(LinearRegression().fit(X, Y), X, Y, interval="prediction")


def test_diagnostics(surface, rng):
    X, Y = surface
    weights = rng.integers(0, 3, len(X)).astype(float)
    y = pd.Series(Y[:, 0], name="yield")
    model = TorchPolynomialRegressor(2).fit(X, y, sample_weight=weights)
    display = DiagnosticsDisplay.from_estimator(
        model, X, y, sample_weight=weights, scatter_kwargs={"color": "k"}, line_kwargs={"linewidth": 3}
    )
    found, kept = influence(model, X, y, sample_weight=weights), weights > 0
    fit, residuals, quantiles, leverages = display.axes_
    dots = [ax.collections[0].get_offsets() for ax in display.axes_]
    predictions = model.predict(X)[kept]
    np.testing.assert_allclose(dots[0], np.column_stack([predictions, y[kept]]))
    np.testing.assert_allclose(dots[1], np.column_stack([predictions, y[kept] - predictions]))
    np.testing.assert_allclose(dots[2][:, 1], np.sort(found.studentized_residuals[kept]))
    # scipy takes other plotting positions, which differ by little.
    np.testing.assert_allclose(dots[2][:, 0], stats.probplot(dots[2][:, 1])[0][0], atol=0.06)
    expected = np.column_stack([found.leverage, found.externally_studentized_residuals])[kept]
    np.testing.assert_allclose(dots[3], expected)
    h, residual = leverages.lines[1].get_data()
    # A row on the contour has Cook's distance 0.5.
    np.testing.assert_allclose(residual**2 * h / (1 - h) / model.rank_, 0.5)
    assert (fit.get_xlabel(), fit.get_ylabel()) == ("predicted yield", "actual yield")
    assert quantiles.lines[0].get_linewidth() == residuals.lines[0].get_linewidth() == 3
    again = display.plot(ax=plt.subplots(1, 4)[1])
    assert again.figure_ is again.axes_[0].figure
    with pytest.raises(ValueError, match=r"'ax' parameter got 2 axes.*four"):
        display.plot(ax=plt.subplots(1, 2)[1])
    two = DiagnosticsDisplay.from_estimator(TorchPolynomialRegressor(1).fit(X, Y), X, Y, target=1)
    np.testing.assert_array_equal(two.y, Y[:, 1])
