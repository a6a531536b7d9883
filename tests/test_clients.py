"""Tools of other projects that take an estimator: beside linear models, and beside the pipeline that people come from.

Each test imports its tool itself: together they take ten seconds to import, which the fast tests would spend, too.
"""

from itertools import product

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.compose import make_column_transformer
from sklearn.feature_selection import RFE, RFECV, SelectFromModel, SequentialFeatureSelector
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_windows():
    """Draw without windows, and undo what skore and yellowbrick change in Matplotlib when they are imported."""
    backend = mpl.get_backend()
    with mpl.rc_context():
        mpl.use("Agg")
        yield
        plt.close("all")
    mpl.use(backend)


@pytest.fixture
def rows(rng):
    """Four columns, of which the last one has no influence, and a noisy quadratic of the others."""
    X = pd.DataFrame(rng.normal([0, 5, 1, 0], [1, 2, 0.5, 1], (120, 4)), columns=["a", "b", "c", "d"])
    y = 2 * X["a"] + 0.3 * X["b"] + 0.2 * X["a"] * X["b"] + 0.5 * X["c"] + 0.1 * rng.normal(size=120)
    return X, y.rename("y")


def reference(degree):
    return make_pipeline(StandardScaler(), PolynomialFeatures(degree), LinearRegression())


def shapley(predict, row, background):
    """Return the Shapley values of two columns, by their definition."""
    v = {}
    for chosen in product([False, True], repeat=2):
        v[chosen] = predict(np.where(chosen, row, background)).mean(axis=0)
    first = (v[True, False] - v[False, False] + v[True, True] - v[False, True]) / 2
    return np.array([first, v[True, True] - v[False, False] - first])


@pytest.mark.parametrize("n_targets", [None, 2])
def test_shap_at_degree_1(n_targets, rows):
    import shap

    X, y = rows
    y = y if n_targets is None else np.column_stack([y, X["c"] ** 2])
    model, linear = TorchPolynomialRegressor(1).fit(X, y), LinearRegression().fit(X, y)
    expected = (X - X.mean()).to_numpy()[..., None] * np.atleast_2d(linear.coef_).T
    expected = expected[..., 0] if n_targets is None else expected
    for explainer in (shap.LinearExplainer(model, X), shap.Explainer(model, X), shap.Explainer(model.predict, X)):
        explanation = explainer(X)
        assert_allclose(explanation.values.sum(axis=1) + explanation.base_values, model.predict(X), atol=1e-10)
    # By default shap takes 100 of the rows, and so another mean.
    background = shap.maskers.Independent(X, max_samples=len(X))
    assert_allclose(shap.LinearExplainer(model, background)(X).values, expected, atol=1e-10)
    assert_allclose(shap.Explainer(model.predict, background)(X).values, expected, atol=1e-10)


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("steps", [[], [StandardScaler()]])
def test_shap_at_degree_2(steps, n_targets, rng):
    import shap

    X = rng.normal(size=(60, 2))
    y = X[:, 0] * X[:, 1] if n_targets is None else np.column_stack([X[:, 0] * X[:, 1], X[:, 0] ** 2])
    model = make_pipeline(*steps, TorchPolynomialRegressor(2)).fit(X, y)
    expected = [shapley(lambda X: model.predict(X), row, X) for row in X[:5]]
    assert_allclose(shap.Explainer(model.predict, X)(X[:5]).values, expected, atol=1e-10)
    assert_allclose(shap.PermutationExplainer(model.predict, X)(X[:5]).values, expected, atol=1e-10)
    assert_allclose(shap.KernelExplainer(model.predict, X).shap_values(X[:5], silent=True), expected, atol=1e-10)
    with pytest.raises(TypeError, match="not callable"):
        shap.Explainer(model[-1], X)
    with pytest.raises(shap.utils._exceptions.InvalidModelError, match="unknown model type"):
        shap.LinearExplainer(model[-1], X)


def test_selectors_of_scikit_learn(rows):
    X, y = rows
    for selector in (
        lambda model: RFE(model, n_features_to_select=2),
        lambda model: RFECV(model, cv=3),
        lambda model: SelectFromModel(model, threshold="median"),
    ):
        expected = selector(LinearRegression()).fit(X, y).get_support()
        assert_array_equal(selector(TorchPolynomialRegressor(1)).fit(X, y).get_support(), expected)
        chosen = selector(TorchPolynomialRegressor(2)).fit(X, y).get_support()
        assert chosen[0]
        assert not chosen[3] or chosen.all()
    ours, theirs = (
        SequentialFeatureSelector(model, n_features_to_select=2).fit(X, y)
        for model in (TorchPolynomialRegressor(2), reference(2))
    )
    assert_array_equal(ours.get_support(), theirs.get_support())


def test_yellowbrick(rows):
    from yellowbrick.model_selection import FeatureImportances, LearningCurve
    from yellowbrick.regressor import PredictionError, ResidualsPlot

    X, y = rows
    for degree in (1, 2):
        drawn = FeatureImportances(TorchPolynomialRegressor(degree)).fit(X, y)
        expected = np.sort(drawn.estimator.feature_importances_)
        assert_allclose(drawn.feature_importances_, 100 * expected / expected.max(), rtol=1e-9)
    models = TorchPolynomialRegressor(2), reference(2)
    for plot in (ResidualsPlot, PredictionError):
        # Without `force_model` it refuses all regressors of new versions of scikit-learn, LinearRegression too.
        assert_allclose(*(plot(model, force_model=True).fit(X, y).score(X, y) for model in models), rtol=1e-9)
    curves = (LearningCurve(model, scoring="r2", train_sizes=[0.5, 1.0]).fit(X, y) for model in models)
    assert_allclose(*(curve.test_scores_mean_ for curve in curves), rtol=1e-9)


def test_feature_engine(rows):
    from feature_engine.selection import (
        ProbeFeatureSelection,
        RecursiveFeatureAddition,
        RecursiveFeatureElimination,
        SelectByShuffling,
        SelectBySingleFeaturePerformance,
    )

    X, y = rows
    both = {
        degree: (TorchPolynomialRegressor(degree), LinearRegression() if degree == 1 else reference(2))
        for degree in (1, 2)
    }
    for degree, selector in (
        (1, lambda model: RecursiveFeatureElimination(model, scoring="r2", threshold=0.01)),
        (1, lambda model: RecursiveFeatureAddition(model, scoring="r2", threshold=0.01)),
        (1, lambda model: SelectByShuffling(model, scoring="r2", random_state=0)),
        (1, lambda model: ProbeFeatureSelection(model, scoring="r2", collective=False, random_state=0)),
        (2, lambda model: RecursiveFeatureElimination(model, scoring="r2", threshold=0.01)),
        (2, lambda model: RecursiveFeatureAddition(model, scoring="r2", threshold=0.01)),
        (2, lambda model: SelectBySingleFeaturePerformance(model, scoring="r2", threshold=0.05)),
    ):
        ours, theirs = (selector(model).fit(X, y).features_to_drop_ for model in both[degree])
        assert ours == theirs != []


def test_skforecast(rng):
    from skforecast.model_selection import TimeSeriesFold, backtesting_forecaster
    from skforecast.recursive import ForecasterRecursive

    days = pd.date_range("2026-01-01", periods=120)
    y = pd.Series(np.sin(np.arange(120) / 5) + 0.05 * rng.normal(size=120), index=days, name="y")
    cv = TimeSeriesFold(steps=5, initial_train_size=90, refit=True)
    for degree in (1, 2):
        ours, theirs = (
            ForecasterRecursive(TorchPolynomialRegressor(degree), 3),
            ForecasterRecursive(reference(degree), 3),
        )
        backtests = (
            backtesting_forecaster(forecaster, y, cv, metric="mean_squared_error", show_progress=False)
            for forecaster in (ours, theirs)
        )
        assert_allclose(*(predictions["pred"] for _, predictions in backtests), rtol=1e-8)
        ours.fit(y)
        importances = ours.get_feature_importances(sort_importance=False)
        assert_array_equal(importances["importance"], ours.estimator.feature_importances_)


@pytest.mark.parametrize("degree", [1, 2])
def test_lime(degree, rows):
    from lime.lime_tabular import LimeTabularExplainer

    X, y = (table.to_numpy() for table in rows)
    weights = []
    for model in (TorchPolynomialRegressor(degree), reference(degree)):
        explainer = LimeTabularExplainer(X, mode="regression", discretize_continuous=False, random_state=0)
        weights.append(dict(explainer.explain_instance(X[0], model.fit(X, y).predict).as_list()))
    assert weights[0] == pytest.approx(weights[1], rel=1e-8)


def test_skore(rows):
    from skore import ComparisonReport, CrossValidationReport, EstimatorReport

    X, y = rows
    names = ["X_train", "X_test", "y_train", "y_test"]
    parts = dict(zip(names, train_test_split(X, y, random_state=0), strict=True))
    ours, theirs = (EstimatorReport(model, **parts) for model in (TorchPolynomialRegressor(1), LinearRegression()))
    tables = [report.inspection.coefficients().frame() for report in (ours, theirs)]
    assert_array_equal(tables[0]["feature"], ["Intercept", "a", "b", "c", "d"])
    assert_allclose(*(table["coefficient"] for table in tables), rtol=1e-9)
    ours, theirs = (EstimatorReport(model, **parts) for model in (TorchPolynomialRegressor(2), reference(2)))
    assert ours.metrics.r2() == pytest.approx(theirs.metrics.r2(), rel=1e-9)
    comparison = ComparisonReport({"ours": ours, "theirs": theirs}).metrics.r2().to_numpy()
    assert_allclose(comparison, ours.metrics.r2(), rtol=1e-9)
    with pytest.raises(AttributeError, match="'coefficients'"):
        ours.inspection.coefficients()
    importances = [report.inspection.permutation_importance(seed=0).frame() for report in (ours, theirs)]
    assert_allclose(*(table["value_mean"] for table in importances), rtol=1e-7, atol=1e-12)
    folds = CrossValidationReport(TorchPolynomialRegressor(2), X, y, splitter=KFold(3)).metrics.r2(aggregate=None)
    assert_allclose(np.ravel(folds), cross_val_score(reference(2), X, y, cv=KFold(3)), rtol=1e-9)


def test_pipelines_of_imbalanced_learn(rows):
    from imblearn import FunctionSampler
    from imblearn.pipeline import make_pipeline as make_sampling_pipeline

    X, y = rows
    half = FunctionSampler(func=lambda X, y: (X[::2], y[::2]), validate=False)
    model = make_sampling_pipeline(half, StandardScaler(), TorchPolynomialRegressor(2)).fit(X, y)
    assert_allclose(model.predict(X), reference(2).fit(X[::2], y[::2]).predict(X), rtol=1e-9)
    grid = {"torchpolynomialregressor__degree": [1, 2]}
    ours, theirs = (search(model, grid).fit(X, y) for search in (PolynomialGridSearchCV, GridSearchCV))
    assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-9)


def test_mapie(rows):
    from mapie.regression import CrossConformalRegressor, JackknifeAfterBootstrapRegressor, SplitConformalRegressor

    X, y = (table.to_numpy() for table in rows)
    intervals = []
    for model in (TorchPolynomialRegressor(2), reference(2)):
        split = SplitConformalRegressor(model, confidence_level=0.8, prefit=False).fit(X[:60], y[:60])
        cross = CrossConformalRegressor(model, confidence_level=0.8, cv=KFold(5))
        bootstrap = JackknifeAfterBootstrapRegressor(model, confidence_level=0.8, resampling=20, random_state=0)
        fitted = [split.conformalize(X[60:], y[60:]), *(each.fit_conformalize(X, y) for each in (cross, bootstrap))]
        intervals.append([each.predict_interval(X[:20])[1] for each in fitted])
    assert_allclose(*intervals, rtol=1e-7, atol=1e-9)


def test_quantiles_in_mapie(rng):
    from mapie.regression import ConformalizedQuantileRegressor

    x = rng.uniform(-1, 1, (3000, 1))
    y = np.sin(3 * x[:, 0]) + (0.1 + 0.3 * np.abs(x[:, 0])) * rng.exponential(size=3000)
    train, calibration, test = slice(0, 300), slice(300, 1000), slice(1000, None)
    intervals = []
    for quantile_model in (
        lambda quantile: TorchPolynomialRegressor(3, loss="quantile", quantile=quantile),
        lambda quantile: make_pipeline(PolynomialFeatures(3), QuantileRegressor(quantile=quantile, alpha=0)),
    ):
        models = [quantile_model(quantile).fit(x[train], y[train]) for quantile in (0.1, 0.9, 0.5)]
        conformal = ConformalizedQuantileRegressor(models, confidence_level=0.8, prefit=True)
        intervals.append(conformal.conformalize(x[calibration], y[calibration]).predict_interval(x[test])[1][..., 0])
    assert_allclose(*intervals, atol=1e-3)
    low, high = intervals[0].T
    # With 700 rows of calibration and 2000 of the test, the fraction has a standard deviation of 0.017.
    assert np.mean((low <= y[test]) & (y[test] <= high)) == pytest.approx(0.8, abs=3 * 0.017)


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("encoded", [False, True])
def test_onnx_of_a_whole_pipeline(encoded, n_targets, rows, rng):
    import onnx
    import onnxruntime
    import torch
    from onnx.compose import merge_models
    from skl2onnx import to_onnx

    X, y = (table.to_numpy() for table in rows)
    y = y if n_targets is None else np.column_stack([y, X[:, 2] ** 2])
    step = StandardScaler()
    if encoded:
        X = np.column_stack([X, rng.integers(0, 3, len(X))])
        step = make_column_transformer((step, [0, 1, 2, 3]), (OneHotEncoder(drop="first", sparse_output=False), [4]))
    pipeline = make_pipeline(step, TorchPolynomialRegressor(2, alpha=1e-3)).fit(X, y)
    first = to_onnx(pipeline[:-1], X[:1], target_opset={"": 20, "ai.onnx.ml": 3})
    last = torch.onnx.export(
        pipeline[-1].module_,
        (torch.tensor(pipeline[:-1].transform(X)),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        input_names=["columns"],
        output_names=["y"],
        opset_version=20,
        verbose=False,
    ).model_proto
    first.ir_version = last.ir_version
    program = merge_models(first, last, io_map=[(first.graph.output[0].name, "columns")])
    onnx.checker.check_model(program, full_check=True)
    session = onnxruntime.InferenceSession(program.SerializeToString())
    for rows in (X[:1], X):
        (predictions,) = session.run(["y"], {"X": rows})
        assert_allclose(predictions, pipeline.predict(rows), rtol=1e-12, atol=1e-12)


def test_optuna(rows):
    import optuna
    from optuna.distributions import IntDistribution
    from optuna_integration import OptunaSearchCV

    X, y = rows
    study = optuna.create_study(sampler=optuna.samplers.GridSampler({"degree": [1, 2, 3]}), direction="maximize")
    search = OptunaSearchCV(TorchPolynomialRegressor(), {"degree": IntDistribution(1, 3)}, study=study, n_trials=3)
    search.fit(X, y)
    scores = {trial.params["degree"]: trial.value for trial in study.trials}
    assert scores == pytest.approx({degree: cross_val_score(reference(degree), X, y).mean() for degree in (1, 2, 3)})
    assert search.best_params_ == {"degree": 2}


def test_scikit_optimize(rows):
    from skopt import BayesSearchCV

    X, y = rows
    search = BayesSearchCV(TorchPolynomialRegressor(), {"degree": (1, 3)}, n_iter=3, random_state=0).fit(X, y)
    degrees = [params["degree"] for params in search.cv_results_["params"]]
    expected = [cross_val_score(reference(degree), X, y).mean() for degree in degrees]
    assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-9)


def test_dask_ml(rows):
    import dask.array as da
    from dask_ml.model_selection import GridSearchCV as DaskGridSearchCV
    from dask_ml.wrappers import Incremental, ParallelPostFit

    X, y = (table.to_numpy() for table in rows)
    ours = DaskGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=KFold(3), scheduler="sync").fit(X, y)
    expected = [cross_val_score(reference(degree), X, y, cv=KFold(3)).mean() for degree in (1, 2)]
    assert_allclose(ours.cv_results_["mean_test_score"], expected, rtol=1e-9)
    chunks, expected = da.from_array(X, chunks=(40, 4)), reference(2).fit(X, y).predict(X)
    assert_allclose(ParallelPostFit(TorchPolynomialRegressor(2)).fit(X, y).predict(chunks).compute(), expected)
    incremental = Incremental(TorchPolynomialRegressor(2), shuffle_blocks=False)
    assert_allclose(incremental.fit(chunks, da.from_array(y, chunks=40)).predict(chunks).compute(), expected)


@pytest.mark.parametrize("is_search", [False, True])
def test_mlflow_and_skops_need_public_names_only(is_search, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    import skops.io

    X, y = rows
    model = TorchPolynomialRegressor(2)
    model = (PolynomialGridSearchCV(model, {"degree": [1, 2]}) if is_search else model).fit(X, y)
    types = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    assert [name for name in types if not name.startswith("sklearn.")] == [
        *["torchpoly.PolynomialGridSearchCV"] * is_search,
        "torchpoly.TorchPolynomialRegressor",
    ]
    # The names of packages, so that MLflow need not import the model in another process to find them.
    packages = ["scikit-learn", "torchpoly"]
    mlflow.sklearn.save_model(model, tmp_path / "model", skops_trusted_types=types, pip_requirements=packages)
    assert_array_equal(mlflow.sklearn.load_model(tmp_path / "model").predict(X), model.predict(X))
