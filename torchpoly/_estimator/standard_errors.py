"""Standard errors of a fitted estimator, and the importances of its columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.device import Device
from torchpoly._backend.rows import Floats, row_chunks
from torchpoly._estimator.base import PolynomialBase
from torchpoly._gram.uncertainty import Uncertainty
from torchpoly._polynomial.fitted import Extrapolation, FittedPolynomial

# Number of values of the columns of T that exist at a time, 32 MiB.
_CHUNK_ELEMENTS = 2**22
# Training is taken for stopped early if its coefficients are further from the optimum than this part of their standard
# errors, in the root mean square.
_MAX_DISTANCE = 0.05
# Squared distances to the optimum below this part of the variance of y are rounding.
_ROUNDING = 1e-14


class StandardErrors(PolynomialBase):
    """Standard errors of a fitted estimator."""

    @property
    def residual_std_(self) -> Any:
        """Residual standard deviation of each target: ``sqrt(n / W * sum(w * e**2) / dof_)``, with the weights' sum W.

        If all weights are 1, it is the square root of the sum of squared residuals over ``dof_``.
        """
        uncertainty = self._uncertainty_or(AttributeError, "'residual_std_' does not exist")
        return self._for_targets(uncertainty.residual_stds(self._polynomial.targets))

    @property
    def dof_(self) -> float:
        """Residual degrees of freedom: the number of rows of positive weight minus ``rank_``.

        With a penalty, the effective number of parameters takes the place of the rank, ``trace(T' G T)``.
        """
        return self._uncertainty_or(AttributeError, "'dof_' does not exist").dof

    @property
    def term_coef_std_(self) -> Floats:
        """Standard errors of ``term_coef_``, in the same shape.

        They are NaN for terms that the rows do not determine. The first access converts the matrix of the covariance to
        monomials in exact arithmetic, which takes seconds for a thousand terms.
        """
        errors = self._monomial_errors("term_coef_std_")[:, 1:]
        return errors[0] if self._single_target else errors

    @property
    def intercept_std_(self) -> Any:
        """Standard error of ``intercept_``."""
        return self._for_targets(self._monomial_errors("intercept_std_")[:, 0])

    @property
    def feature_importances_(self) -> Floats:
        """Share of the variance of the predictions that needs the column, of shape (n_features,).

        It is the part of the variance of the fitted polynomial over the training rows that no polynomial without the
        column can give back. Without a penalty it is what a refit without the column would lose. So it is small for a
        column that others can replace, and the shares do not sum up to 1. For several targets, it is the mean, weighted
        by the variances of the polynomials.
        """
        check_is_fitted(self)
        uncertainty = self._uncertainty_or(AttributeError, "'feature_importances_' does not exist", needs_dof=False)
        basis, coefficients = self._polynomial.basis, self._polynomial.coefficients
        by_variable = [
            basis.differentiate(uncertainty.matrix, variable) for variable in range(basis.domain.n_variables)
        ]
        # The derivative by a column is 0 for polynomials without it. A column without a direction is in no term.
        used = np.flatnonzero(basis.domain.directions.any(axis=1))
        changes = (np.tensordot(basis.domain.directions[column], by_variable, 1) for column in used)
        losses, variances = uncertainty.explained_shares(coefficients, changes)
        units = np.square(self._polynomial.targets.scale / self._polynomial.targets.scale.max())
        importances = np.zeros(self.n_features_in_)
        if variances @ units > 0:
            importances[used] = [loss @ units / (variances @ units) for loss in losses]
        return importances

    def _monomial_errors(self, name: str) -> Floats:
        """Return the standard errors of the monomials, of shape (n_targets, n_monomials); the constant is the first."""
        uncertainty = self._uncertainty_or(AttributeError, f"{name!r} does not exist")
        errors = np.linalg.norm(uncertainty.of_monomials(self._polynomial.basis), axis=1)
        return uncertainty.residual_stds(self._polynomial.targets)[:, None] * errors

    def _mean_errors(
        self, state: dict[str, Any], X: NDArray[Any], device: Device, extrapolation: Extrapolation
    ) -> NDArray[Any]:
        """Return the standard errors of the means at the rows of X, of shape (n_samples, n_targets), in X's dtype.

        The state is that of the predictions, as another thread may fit meanwhile.
        """
        uncertainty = self._uncertainty_or(ValueError, "There is no standard error")
        self._warn_if_not_optimal(uncertainty, stacklevel=4)
        return _mean_errors(state["_polynomial"], state["_uncertainty"], device, extrapolation, X)

    def _errors_at(self) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Return the function from rows to standard errors of the means, which workers of Dask run."""
        uncertainty = self._uncertainty_or(ValueError, "There is no standard error")
        self._warn_if_not_optimal(uncertainty, stacklevel=5)
        return partial(_mean_errors, self._polynomial, uncertainty, None, self._valid_extrapolation())

    def _uncertainty_or(self, kind: type[Exception], what: str, *, needs_dof: bool = True) -> Uncertainty:
        """Return the covariance of the coefficients, or raise an exception with the reason why there is none."""
        check_is_fitted(self)
        uncertainty, reason = self._uncertainty, None
        if uncertainty is None:
            reason = self._why_no_covariance()
        elif needs_dof and uncertainty.n_rows <= self.rank_:
            reason = (
                f"there are {uncertainty.n_rows} rows of positive weight and {self.rank_} independent terms, and "
                "standard errors need more rows than terms. Lower 'degree', or give more rows"
            )
        if reason is not None or uncertainty is None:
            raise kind(f"{what}: {reason}.")
        return uncertainty

    def _why_no_covariance(self) -> str:
        if self.loss != "squared_error":
            return (
                f"the 'loss' parameter got {self.loss!r}, and the formula holds for 'squared_error' only. For other "
                "losses, estimate errors from refits: scikit-learn's BaggingRegressor for the bootstrap, or MAPIE"
            )
        n_terms = self._polynomial.basis.n_terms
        if self._polynomial.basis.family == "power":
            return (
                "there are fewer rows than terms, or the raw powers of basis='monomial' are ill-conditioned, as they "
                "are for columns far from 0. Fit with basis='orthonormal', which is the same polynomial if alpha is 0"
            )
        if n_terms**2 > Uncertainty.MAX_ELEMENTS:
            return f"the polynomial has {n_terms} terms, and errors are known for up to 2896. Lower 'degree'"
        return (
            f"there are fewer rows than the {n_terms} terms, or the fit had another loss, or the model was loaded from "
            "a file without errors, which files of up to 1000 terms have from this version on. Lower 'degree', give "
            "more rows, or fit again"
        )

    def _warn_if_not_optimal(self, uncertainty: Uncertainty, stacklevel: int) -> None:
        """Warn if training stopped before the optimum, to which the standard errors belong."""
        excess = np.square(self._residual_size or 0.0) - uncertainty.mean_squares
        noise = np.square(uncertainty.scales) * uncertainty.effective_rank / uncertainty.n_rows
        if (excess > np.maximum(_MAX_DISTANCE**2 * noise, _ROUNDING * (1 + uncertainty.variances))).any():
            warnings.warn(
                "Training stopped before the optimum, and the standard errors are those of the optimum. Use the "
                "default optimizer without 'batch_size', or more iterations.",
                UserWarning,
                stacklevel=stacklevel,
            )

    def _for_targets(self, values: Floats) -> Any:
        return float(values[0]) if self._single_target else values


def _mean_errors(
    polynomial: FittedPolynomial,
    uncertainty: Uncertainty,
    device: Device,
    extrapolation: Extrapolation,
    X: NDArray[Any],
) -> NDArray[Any]:
    """Return ``s sqrt(h)`` at the rows of X, of shape (n_samples, n_targets), in X's dtype."""
    leverages = leverages_at(polynomial, uncertainty, X, device, extrapolation)
    return (np.sqrt(leverages)[:, None] * uncertainty.residual_stds(polynomial.targets)).astype(X.dtype)


def leverages_at(
    polynomial: FittedPolynomial,
    uncertainty: Uncertainty,
    X: NDArray[Any],
    device: Device,
    extrapolation: Extrapolation,
) -> Floats:
    """Return ``|T' f|**2 / n`` for the terms f at the rows of X, of shape (n_samples,).

    Outside the box, f are the functionals of the coefficients by which predictions are extrapolated.
    """
    rank = uncertainty.matrix.shape[1]
    columns = polynomial.with_coefficients(uncertainty.matrix)
    leverages = np.empty(len(X))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for rows in row_chunks(len(X), max(1, _CHUNK_ELEMENTS // rank)):
            values = columns.evaluate(X[rows].astype(np.float64, copy=False), device, extrapolation)
            leverages[rows] = np.square(values).sum(axis=1) / uncertainty.n_rows
    return leverages
