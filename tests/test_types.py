"""A user's script, with the types that editors and type checkers see: mypy and pyright check it in .ci/run."""

import pickle
from functools import partial
from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray

from torchpoly import (
    DiagnosticsDisplay,
    LossCurveDisplay,
    OverfittingWarning,
    PolynomialFitDisplay,
    PolynomialGridSearchCV,
    TorchPolynomialRegressor,
    __version__,
    one_standard_error,
)
from torchpoly.inspection import (
    anova,
    covariance,
    influence,
    is_extrapolating,
    jackknife_interval,
    leverage,
    predict_interval,
    summary,
)


def squared(y_pred: torch.Tensor, y_true: torch.Tensor) -> torch.Tensor:
    return (y_pred - y_true) ** 2


def test_a_script_with_types() -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (60, 2))
    y = X[:, 0] ** 2 - X[:, 1]
    model = TorchPolynomialRegressor(degree=2, extrapolation="constant", basis="orthonormal").fit(X, y)
    assert_type(model, TorchPolynomialRegressor)
    assert_type(model.predict(X), NDArray[np.float64])
    single: NDArray[np.float32] = model.predict(X.astype(np.float32))
    assert single.dtype == np.float32
    assert_type(model.score(X, y), float)
    assert_type(model.n_iter_, int)
    assert_type(model.rank_ + model.degree_ + model.n_features_in_, int)
    assert_type(model.alpha_, float)
    assert_type(model.term_coef_, NDArray[np.float64])
    assert_type(model.loss_curve_, NDArray[np.float64])
    assert_type(model.powers_, NDArray[np.int64])
    assert_type(model.equation(precision=3), str)
    assert round(model.intercept_, 3) == 0
    assert next(iter(model.term_names_)) == "x0"
    assert model.module_(torch.tensor(X)).shape == (60,)
    assert pickle.loads(pickle.dumps(model)).n_iter_ == model.n_iter_

    more = TorchPolynomialRegressor(1, interaction_only=True).partial_fit(X, y).partial_fit(X, y, sample_weight=y**2)
    assert_type(more, TorchPolynomialRegressor)
    assert_type(more.coef_, NDArray[np.float64])
    best = TorchPolynomialRegressor(degree="loo", alpha="loo").fit(X, y)
    assert best.loo_path_["mean_squared_error"].ndim == 2
    huber = TorchPolynomialRegressor(loss="huber", optimizer=partial(torch.optim.LBFGS, lr=1.0)).fit(X, y)
    assert round(huber.scale_, 3) == 0
    median = TorchPolynomialRegressor(loss="quantile", quantile=0.5).fit(X, y)
    assert float(median.dual_gap_) < 1e-9
    TorchPolynomialRegressor(loss=squared, optimizer=torch.optim.Adam, device="cpu", random_state=0).fit(X, y)

    search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, refit=one_standard_error()).fit(
        X, y
    )
    assert_type(search, PolynomialGridSearchCV)
    assert search.best_params_["degree"] == search.best_index_ + 1
    assert search.cv_results_["mean_test_score"].shape == (2,)
    intervals = jackknife_interval(model, X, y, X[:5], confidence_level=0.9)
    assert intervals.shape == (5, 2)
    assert predict_interval(model, X, kind="confidence").shape == (60, 2)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape
    assert_type(model.term_coef_std_, NDArray[np.float64])
    assert_type(model.feature_importances_, NDArray[np.float64])
    assert_type(model.dof_, float)
    assert round(model.residual_std_ + model.intercept_std_, 3) == 0
    assert_type(leverage(model, X), NDArray[np.float64])
    assert_type(is_extrapolating(model, X), NDArray[np.bool_])
    assert_type(covariance(model), NDArray[np.float64])
    assert influence(model, X, y).leverage.sum() > 0
    assert summary(model).to_frame().shape == (6, 5)
    assert anova(model, X, y).source[0] == "degree 1"
    assert DiagnosticsDisplay.from_estimator(model, X, y).figure_ is not None
    assert PolynomialFitDisplay.from_estimator(model, X, y).line_ is not None
    assert LossCurveDisplay.from_estimator(model).figure_ is not None
    assert issubclass(OverfittingWarning, UserWarning)
    assert __version__
