"""Intervals of predictions from standard errors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from torchpoly._backend.sklearn_compat import StrOptions, validate_parameter_constraints
from torchpoly._estimator.standard_errors import leverages_at
from torchpoly.inspection._fitted_model import FittedModel, check_confidence_level, check_in_memory


def predict_interval(
    estimator: Any,
    X: ArrayLike,
    *,
    confidence_level: float = 0.95,
    kind: Literal["prediction", "confidence"] = "prediction",
) -> NDArray[Any]:
    """Return intervals for new readings of y, or for its mean, from standard errors.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor, search or Pipeline
        A fitted regressor, a fitted search over one, or a fitted Pipeline that ends in one of them. Its loss is the
        squared error.

    X : array-like of shape (n_samples, n_features)
        Where to predict.

    confidence_level : float, default=0.95
        Between 0 and 1.

    kind : {"prediction", "confidence"}, default="prediction"
        ``"prediction"`` means intervals for a new reading of y at x, and ``"confidence"`` intervals for the mean of y
        at x, which are narrower.

    Returns
    -------
    ndarray of shape (n_samples, 2) or (n_samples, n_targets, 2)
        Lower and upper end, of the dtype of the predictions.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind, or if X is a Dask collection.
    ValueError
        If `confidence_level` or `kind` is not one of these, if the loss is not the squared error, if rows of the fit
        were not more than its terms, or for the reasons of ``predict``.

    Warns
    -----
    UserWarning
        If training stopped before the optimum, to which the standard errors belong.

    See Also
    --------
    jackknife_interval : Intervals that assume no distribution of the errors. It needs the training rows.

    Notes
    -----
    The ends are ``y -+ t * s * sqrt(h + 1)`` for a new reading and ``y -+ t * s * sqrt(h)`` for the mean, with the
    leverage h of x, ``residual_std_`` s, and the quantile t of Student's distribution with ``dof_`` degrees of freedom.
    A new reading has the mean weight of the training rows. The formula assumes that the polynomial is right, and that
    errors are independent and normal with variances that are inverse to the weights. For the mean, normality matters
    little if rows are many. Each interval holds its level by itself, not all of them together.

    After a choice of the degree on the same rows, intervals are too narrow, because the choice is an uncertainty too.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import predict_interval
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
    >>> model = TorchPolynomialRegressor(degree=1).fit(X, y)
    >>> predict_interval(model, [[2.5]]).round(2)
    array([[2.1 , 2.88]])
    >>> predict_interval(model, [[2.5]], kind="confidence").round(2)
    array([[2.32, 2.66]])
    """
    check_confidence_level(confidence_level, "predict_interval")
    kinds = {"kind": [StrOptions({"prediction", "confidence"})]}
    validate_parameter_constraints(kinds, {"kind": kind}, "predict_interval")
    model = FittedModel.of(estimator)
    regressor, polynomial = model.regressor, model.regressor._polynomial
    check_in_memory(X=X)
    uncertainty = regressor._uncertainty_or(ValueError, "There is no interval")
    rows = model.rows(X)
    extrapolation = regressor._valid_extrapolation()
    polynomial.check(rows, extrapolation, getattr(regressor, "feature_names_in_", None), stacklevel=2)
    regressor._warn_if_not_optimal(uncertainty, stacklevel=3)
    X64 = rows.astype(np.float64, copy=False)
    mean = polynomial.evaluate(X64, None, extrapolation)
    variances = leverages_at(polynomial, uncertainty, X64, None, extrapolation) + (kind == "prediction")
    quantile = stats.t.ppf((1 + confidence_level) / 2, uncertainty.dof)
    with np.errstate(over="ignore", invalid="ignore"):
        half_widths = quantile * np.sqrt(variances)[:, None] * uncertainty.residual_stds(polynomial.targets)
        ends = np.stack([mean - half_widths, mean + half_widths], axis=2).astype(rows.dtype)
    return ends[:, 0] if regressor._single_target else ends
