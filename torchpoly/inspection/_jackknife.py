"""Intervals of predictions from leave-one-out residuals."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchpoly._backend.rows import Floats
from torchpoly._estimator.regressor import TorchPolynomialRegressor
from torchpoly._gram.conditioning import read_until_conditioned
from torchpoly._gram.demmler_reinsch import DemmlerReinsch
from torchpoly._gram.held_out import HeldOutFits
from torchpoly._gram.reading import TrainingRows
from torchpoly._polynomial.fitted import Extrapolation, FittedPolynomial
from torchpoly.inspection._fitted_model import FittedModel, check_confidence_level, check_in_memory

_MIN_ROWS = 3
# Predictions of all held-out fits are computed for as many rows of X at a time as have this number of predictions,
# 32 MiB. The coefficients of the basis at these rows are computed in parts of at most this size.
_CHUNK_ELEMENTS = 2**22


def jackknife_interval(
    estimator: Any,
    X_train: ArrayLike,
    y_train: ArrayLike,
    X: ArrayLike,
    *,
    confidence_level: float = 0.95,
    sample_weight: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return intervals for new readings of y, by the jackknife+.

    For each row x of X, the interval is expected to contain a new reading of y at x with about the
    probability `confidence_level`. No distribution of the errors is assumed. Let m_i be the polynomial
    that is fitted without row i of the n training rows, and ``r_i = abs(y_i - m_i(x_i))``. With ``a = 1 -
    confidence_level``, the lower end is the ``floor(a * (n + 1))``-th smallest of the n numbers ``m_i(x) -
    r_i``. The upper end is the ``ceil((1 - a) * (n + 1))``-th smallest of ``m_i(x) + r_i`` [1]_. All m_i
    are computed from one fit, without refits, and are exact.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor, search or Pipeline
        A fitted :class:`~torchpoly.TorchPolynomialRegressor` with ``loss="squared_error"``, a fitted search
        over one, or a fitted Pipeline that ends in one of them. `X_train` and `X` pass through the steps of
        a Pipeline.

    X_train : array-like of shape (n_train, n_features)
        The rows to which the estimator was fitted.

    y_train : array-like of shape (n_train,) or (n_train, n_targets)
        Their targets.

    X : array-like of shape (n_samples, n_features)
        The rows for which intervals are computed. The estimator's `extrapolation` defines the predictions
        outside the range of the training data.

    confidence_level : float, default=0.95
        Between 0 and 1.

    sample_weight : array-like of shape (n_train,), default=None
        The weights of the fit. Rows of weight 0 are ignored. The other rows count once each, whatever their
        weights are.

    Returns
    -------
    ndarray of shape (n_samples, 2) or (n_samples, n_targets, 2)
        The lower and the upper end for each row and, if y had two dimensions in fit, each target. The dtype is
        that of the predictions. If there are too few rows for the level, that is if ``(1 -
        confidence_level) * (n_train + 1) < 1``, the ends are -inf and inf.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind, or if an argument is a Dask collection.
    ValueError
        If the estimator has another loss or ``basis="monomial"``, if there are fewer than three rows of
        positive weight, if X_train are not the rows of the fit, or for the reasons of
        :meth:`~torchpoly.TorchPolynomialRegressor.predict`.

    Warns
    -----
    UserWarning
        For the reasons of :meth:`~torchpoly.TorchPolynomialRegressor.predict`.

    See Also
    --------
    torchpoly.TorchPolynomialRegressor : Its ``loss="quantile"`` fits the ends of intervals whose width varies.

    Notes
    -----
    If training rows and new rows are drawn independently from one distribution, an interval contains the
    new reading with a probability of at least ``1 - 2 * a`` on average over draws of all rows. In practice
    the probability is about ``1 - a``. It is an average over all x: where the errors are larger than
    elsewhere, the intervals are too narrow.

    The fits without a row have the basis, the box, ``degree_`` and ``alpha_`` of the fit to all rows, even
    if cross-validation or ``"loo"`` chose these. So the guarantee holds strictly only for values that are
    chosen without these rows. The fits are those of the optimum, also if training stopped early or used
    mini-batches.

    Memory grows with `n_train` times the number of terms, up to 256 MiB. Time grows with `n_train` times
    `n_samples` times the number of terms.

    References
    ----------
    .. [1] R. F. Barber, E. J. Candès, A. Ramdas and R. J. Tibshirani, "Predictive inference with the
       jackknife+", Ann. Statist. 49 (2021), 486-507.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import jackknife_interval
    >>> rng = np.random.default_rng(0)
    >>> X_train = rng.uniform(-1, 1, (100, 1))
    >>> y_train = X_train[:, 0] ** 2 + 0.1 * rng.normal(size=100)
    >>> model = TorchPolynomialRegressor(degree=2).fit(X_train, y_train)
    >>> jackknife_interval(model, X_train, y_train, [[0.0], [0.5]], confidence_level=0.9).round(2)
    array([[-0.17,  0.15],
           [ 0.08,  0.4 ]])
    """
    check_confidence_level(confidence_level, "jackknife_interval")
    model = FittedModel.of(estimator)
    regressor, polynomial = model.regressor, model.regressor._polynomial
    check_in_memory(X_train=X_train, y_train=y_train, X=X, sample_weight=sample_weight)
    _check_is_least_squares(regressor)
    data, rows = model.training_rows(X_train, y_train, sample_weight), model.rows(X)
    if data.n_rows < _MIN_ROWS:
        raise ValueError(
            f"There are {data.n_rows} rows of positive weight, and the jackknife+ needs at least {_MIN_ROWS}."
        )
    extrapolation = regressor._valid_extrapolation()
    polynomial.check(rows, extrapolation, getattr(regressor, "feature_names_in_", None), stacklevel=2)
    fits = _held_out_fits(polynomial, regressor.alpha_, data)
    rank = _rank_of_ends(confidence_level, data.n_rows)
    ends = np.empty((len(rows), len(fits.residuals), 2), dtype=rows.dtype)
    size = max(1, _CHUNK_ELEMENTS // fits.residuals.size)
    # Far from the training data, predictions may overflow to infinity.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, len(rows), size):
            chunk = slice(start, start + size)
            values = _values(polynomial, fits.basis, rows[chunk], extrapolation)
            for target, predictions in enumerate(fits.predictions(values)):
                found = _ends(predictions, fits.residuals[target], rank)
                ends[chunk, target] = polynomial.targets.center[target] + polynomial.targets.scale[target] * found
    return ends[:, 0] if regressor._single_target else ends


def _check_is_least_squares(regressor: TorchPolynomialRegressor) -> None:
    if regressor.loss != "squared_error":
        raise ValueError(
            f"The 'loss' parameter of the estimator got {regressor.loss!r}, and fits without a row are computed only "
            "for loss='squared_error'. Use that loss, or estimate intervals from refits, by MAPIE or by scikit-learn's "
            "BaggingRegressor."
        )
    if regressor._polynomial.basis.family == "power":
        raise ValueError(
            "The 'basis' parameter of the estimator got 'monomial', and fits without a row are computed only for "
            "scaled columns. Fit with basis='orthonormal', which gives the same polynomial if alpha is 0."
        )


def _held_out_fits(polynomial: FittedPolynomial, alpha: float, data: TrainingRows) -> HeldOutFits:
    """Return the fits without a row, in the basis of the fit to all rows."""
    plain = data.read(polynomial.basis)
    equations = read_until_conditioned(plain, data)
    scaled = alpha > 0 and equations.transform is not None
    basis = DemmlerReinsch.of_scaled_terms(plain) if scaled else DemmlerReinsch.of(equations)
    return HeldOutFits.of(basis, alpha, data)


def _values(
    polynomial: FittedPolynomial, basis: DemmlerReinsch, X: NDArray[Any], extrapolation: Extrapolation
) -> Floats:
    """Return the values of the Demmler-Reinsch basis at the rows of X, of shape (n_samples, rank).

    Outside the box they are extrapolated as predictions are, which is linear in the coefficients.
    """
    rank, n_terms = basis.coordinates.rank, polynomial.basis.n_terms
    # For linear extrapolation, there are as many derivatives of each polynomial as variables.
    n_copies = 1 + polynomial.basis.domain.n_variables if extrapolation == "linear" else 1
    size = max(1, _CHUNK_ELEMENTS // (n_terms * n_copies))
    unit_vectors, parts = np.eye(rank), []
    for start in range(0, rank, size):
        part = polynomial.with_coefficients(basis.coordinates @ unit_vectors[:, start : start + size])
        parts.append(part.evaluate(X.astype(np.float64, copy=False), None, extrapolation))
    return np.hstack(parts)


def _rank_of_ends(confidence_level: float, n_rows: int) -> int:
    """Return ``floor((1 - confidence_level) * (n_rows + 1))``, for the decimal number that the level stands for.

    In floats, ``(1 - 0.9) * 10`` is below 1.
    """
    return math.floor((1 - Fraction(str(float(confidence_level)))) * (n_rows + 1))


def _ends(predictions: Floats, residuals: Floats, rank: int) -> Floats:
    """Return the ends of the intervals.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_rows)
        Of the fit without each row.
    residuals : ndarray of shape (n_rows,)
        The residual of each row in the fit without it; NaN where that fit is not determined.
    rank : int
        The lower end is the `rank`-th smallest number, and the upper end the `rank`-th largest one. With 0 they
        are infinite.

    Returns
    -------
    ndarray of shape (n_samples, 2)
    """
    ends = np.tile([-np.inf, np.inf], (len(predictions), 1))
    if rank == 0:
        return ends
    sizes = np.nan_to_num(np.abs(residuals), nan=np.inf)
    n_rows, sums = len(sizes), (predictions - sizes, predictions + sizes)
    # Where terms overflow and cancel, the ends stay infinite.
    defined = ~(np.isnan(sums[0]) | np.isnan(sums[1])).any(axis=1)
    for end, (numbers, index) in enumerate(zip(sums, (rank - 1, n_rows - rank), strict=True)):
        ends[defined, end] = np.partition(numbers[defined], index, axis=1)[:, index]
    return ends
