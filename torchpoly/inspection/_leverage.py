"""Leverage of points, and influence of training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchpoly._backend.rows import Floats
from torchpoly._estimator.standard_errors import leverages_at
from torchpoly.inspection._fitted_model import FittedModel, check_in_memory

# Above this leverage, 1 - h is rounding.
_MAX_LEVERAGE = 1 - 1e-10
# Leverages of equal rows differ by less than this ratio.
_ROUNDING = 1e-9


def leverage(estimator: Any, X: ArrayLike) -> NDArray[np.float64]:
    """Return the leverage of points: the variance of a prediction, divided by that of the errors.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor, search or Pipeline
        A fitted regressor, a fitted search over one, or a fitted Pipeline that ends in one of them. Its loss is the
        squared error.

    X : array-like of shape (n_samples, n_features)
        The points.

    Returns
    -------
    ndarray of shape (n_samples,)
        At least 0. At training rows of equal weights it is at most 1, and its mean is the number of terms divided by
        the number of rows.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind, or if X is a Dask collection.
    ValueError
        If the loss is not the squared error, or if there are more terms than rows.

    See Also
    --------
    is_extrapolating : Whether points are far from the training rows.
    influence : Leverage and influence of the training rows.

    Notes
    -----
    ``h = |T' phi(x)|**2 / n`` for the n rows of the fit, with the terms phi and the matrix T that whitens them. A point
    has the mean weight of the training rows. Outside the box, `extrapolation` defines the functional whose variance it
    is.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import leverage
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0.1, 0.9, 2.1, 2.9]
    >>> leverage(TorchPolynomialRegressor(degree=1).fit(X, y), [[0.0], [1.5], [6.0]]).round(2)
    array([0.7 , 0.25, 4.3 ])
    """
    model = FittedModel.of(estimator)
    check_in_memory(X=X)
    return _leverages(model, model.rows(X), model.regressor._valid_extrapolation())


def is_extrapolating(estimator: Any, X: ArrayLike, *, X_train: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Return whether points are outside the training data.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor, search or Pipeline
        A fitted regressor, a fitted search over one, or a fitted Pipeline that ends in one of them. Its loss is the
        squared error.

    X : array-like of shape (n_samples, n_features)
        The points.

    X_train : array-like of shape (n_train, n_features), default=None
        The training rows. With them, points of a greater leverage than any of these rows count too.

    Returns
    -------
    ndarray of shape (n_samples,)
        True for points outside the range of a column or of the difference of columns that nearly coincide, and for
        points of a leverage above 1, or above that of `X_train`.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind, or if X is a Dask collection.
    ValueError
        If the loss is not the squared error, or if there are more terms than rows.

    Notes
    -----
    Points inside the range of each column can be far from all training rows, as the empty corners of correlated columns
    are. The leverage finds them: that of a training row of mean weight is at most 1. Cook called this hidden
    extrapolation.

    References
    ----------
    R. D. Cook, "Influential observations in linear regression", J. Amer. Statist. Assoc. 74 (1979), 169-174.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import is_extrapolating
    >>> x = np.linspace(-1, 1, 100)
    >>> X = np.column_stack([x, x + 0.1 * np.sin(20 * x)])
    >>> model = TorchPolynomialRegressor(degree=2).fit(X, x)
    >>> is_extrapolating(model, [[0.5, 0.5], [0.9, -0.9], [2.0, 2.0]])
    array([False,  True,  True])
    """
    model = FittedModel.of(estimator)
    check_in_memory(X=X, X_train=X_train)
    polynomial, rows = model.regressor._polynomial, model.rows(X)
    outside = ((rows < polynomial.low) | (rows > polynomial.high)).any(axis=1)
    limits = polynomial.basis.domain.limits
    with np.errstate(over="ignore", invalid="ignore"):
        if limits is not None:
            outside |= (np.abs(polynomial.basis.domain.scale(rows)) > limits[:, None]).any(axis=0)
        greatest = 1.0
        if X_train is not None:
            greatest = min(greatest, float(_leverages(model, model.rows(X_train), "continue").max(initial=0.0)))
        # Far outside, the leverage may overflow to NaN.
        inside = _leverages(model, rows, "continue") <= greatest * (1 + _ROUNDING)
    return np.asarray(outside | ~inside)


@dataclass(frozen=True)
class Influence:
    """Leverage and influence of the rows of a fit.

    :func:`influence` makes it.

    Parameters
    ----------
    leverage : ndarray of shape (n_samples,)
        The derivative of the prediction for a row by its y. It is 0 for rows of weight 0.

    studentized_residuals : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Residuals divided by their standard errors, with the standard deviation of all rows ("internally studentized").

    externally_studentized_residuals : ndarray of the same shape
        The same, with the standard deviation of the fit without the row. They have Student's distribution with
        ``dof_ - 1`` degrees of freedom if the errors are normal.

    cooks_distance : ndarray of the same shape
        How far all predictions move if the row is left out.

    Notes
    -----
    The last three are NaN for rows of weight 0, and for rows of leverage 1, through which each fit goes.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import influence
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
    >>> influence(TorchPolynomialRegressor(degree=1).fit(X, y), X, y).leverage.round(2)
    array([0.6, 0.3, 0.2, 0.3, 0.6])
    """

    leverage: NDArray[np.float64]
    studentized_residuals: NDArray[np.float64]
    externally_studentized_residuals: NDArray[np.float64]
    cooks_distance: NDArray[np.float64]


def influence(estimator: Any, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Influence:
    """Return the leverage and the influence of each row of a fit.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor, search or Pipeline
        A fitted regressor, a fitted search over one, or a fitted Pipeline that ends in one of them. Its loss is the
        squared error.

    X : array-like of shape (n_samples, n_features)
        The rows of the fit.

    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        The targets of the fit.

    sample_weight : array-like of shape (n_samples,), default=None
        The weights of the fit.

    Returns
    -------
    Influence
        Arrays of leverages, studentized residuals and Cook's distances.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind, or if an argument is a Dask collection.
    ValueError
        If the rows have other ranges than those of the fit, if the loss is not the squared error, or if rows of the fit
        were not more than its terms.

    See Also
    --------
    leverage : The leverage of any point.

    Notes
    -----
    With residuals e, weights w and their sum W, the leverage of row i is ``h = w_i |T' phi_i|**2 / W``, the studentized
    residual is ``r = sqrt(n w_i / W) e / (s sqrt(1 - h))``, the externally studentized one
    ``r sqrt((dof - 1) / (dof - r**2))``, and Cook's distance ``r**2 h / ((1 - h) p)`` for p parameters, as in [1]_.

    References
    ----------
    .. [1] R. D. Cook and S. Weisberg, Residuals and Influence in Regression, Chapman and Hall, 1982.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import influence
    >>> x = np.arange(10.0)[:, None]
    >>> y = x[:, 0] + 0.1 * np.sin(40 * x[:, 0])
    >>> y[7] += 2  # a wrong reading
    >>> found = influence(TorchPolynomialRegressor(degree=1).fit(x, y), x, y)
    >>> int(np.argmax(found.externally_studentized_residuals))
    7
    """
    model = FittedModel.of(estimator)
    check_in_memory(X=X, y=y, sample_weight=sample_weight)
    regressor, polynomial = model.regressor, model.regressor._polynomial
    uncertainty = regressor._uncertainty_or(ValueError, "There is no influence")
    data = model.training_rows(X, y, sample_weight)
    # One weight for all rows may be a number.
    weights = (
        np.ones(len(data.X)) if sample_weight is None or np.ndim(sample_weight) == 0 else np.asarray(sample_weight)
    )
    kept = np.flatnonzero(weights)
    X64 = data.X.astype(np.float64, copy=False)
    relative = data.shares * data.n_rows
    hats = relative * leverages_at(polynomial, uncertainty, X64, None, "continue")
    residuals = (data.Y - polynomial.evaluate(X64, None, "continue")) / polynomial.targets.scale
    with np.errstate(divide="ignore", invalid="ignore"):
        complements = np.where(hats < _MAX_LEVERAGE, 1 - hats, np.nan)[:, None]
        internal = np.sqrt(relative)[:, None] * residuals / (uncertainty.scales * np.sqrt(complements))
        external = internal * np.sqrt((uncertainty.dof - 1) / (uncertainty.dof - np.square(internal)))
        cooks = np.square(internal) * hats[:, None] / (complements * uncertainty.effective_rank)

    def of_samples(values: Floats) -> Floats:
        found = np.full((len(weights), values.shape[1]), np.nan)
        found[kept] = values
        return found[:, 0] if regressor._single_target else found

    leverages = np.zeros(len(weights))
    leverages[kept] = hats
    return Influence(leverages, *map(of_samples, (internal, external, cooks)))


def _leverages(model: FittedModel, rows: NDArray[Any], extrapolation: Any) -> Floats:
    regressor = model.regressor
    uncertainty = regressor._uncertainty_or(ValueError, "There is no leverage", needs_dof=False)
    return leverages_at(regressor._polynomial, uncertainty, rows, None, extrapolation)
