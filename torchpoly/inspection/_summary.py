"""Coefficients with their standard errors, and the quality of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from torchpoly._backend.rows import Floats
from torchpoly._estimator.regressor import TorchPolynomialRegressor
from torchpoly._gram.uncertainty import Uncertainty
from torchpoly.inspection._fitted_model import FittedModel, check_confidence_level, check_in_memory
from torchpoly.inspection._tables import as_html, as_text, number

_QUARTILES = "Min", "1Q", "Median", "3Q", "Max"


@dataclass(frozen=True)
class TargetSummary:
    """The summary of one target.

    Parameters
    ----------
    estimates, standard_errors, low, high : ndarray of shape (1 + n_terms,)
        Coefficients of the monomials, the constant first; their standard errors; the ends of their intervals. Errors
        and ends are NaN for terms that the rows do not determine.
    residual_std : float
        Residual standard deviation.
    r_squared, adjusted_r_squared : float
        Share of the variance that the polynomial explains, and the same adjusted for the number of terms.
    f_statistic, f_p_value : float
        F of the whole polynomial against a constant, and its p-value. NaN for a constant.
    f_dof : float
        Degrees of freedom of the numerator of F. Those of the denominator are ``dof``.
    log_likelihood, aic, bic : float
        Of normal errors, with one parameter for each term, as statsmodels counts them.
    residuals : ndarray of shape (5,) or None
        Least residual, quartiles and greatest residual, if the rows were given.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import summary
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
    >>> target = summary(TorchPolynomialRegressor(degree=1).fit(X, y)).targets[0]
    >>> target.estimates.round(2), target.standard_errors.round(2)
    (array([0.04, 0.98]), array([0.08, 0.03]))
    """

    estimates: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    residual_std: float
    r_squared: float
    adjusted_r_squared: float
    f_statistic: float
    f_p_value: float
    f_dof: float
    log_likelihood: float
    aic: float
    bic: float
    residuals: NDArray[np.float64] | None


@dataclass(frozen=True)
class Summary:
    """Coefficients with their standard errors, and the quality of a fit. :func:`summary` makes it.

    It prints as text, and shows as a table in notebooks.

    Parameters
    ----------
    terms : list of str
        Names of the monomials. The constant is ``"1"``.
    targets : list of TargetSummary
        A summary for each target.
    n_rows : int
        Number of rows of positive weight.
    rank : float
        Number of independent terms; with a penalty, the effective number of parameters.
    dof : float
        Residual degrees of freedom.
    confidence_level : float
        That of the intervals of the coefficients.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import summary
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
    >>> summary(TorchPolynomialRegressor(degree=1).fit(X, y)).terms
    ['1', 'x0']
    """

    terms: list[str]
    targets: list[TargetSummary]
    n_rows: int
    rank: float
    dof: float
    confidence_level: float

    def to_frame(self) -> Any:
        """Return the coefficients as a dataframe of pandas.

        Returns
        -------
        DataFrame
            A row for each term, with the columns ``term``, ``estimate``, ``standard_error``, ``low`` and ``high``. For
            several targets, the column ``target`` comes first.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> from torchpoly.inspection import summary
        >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
        >>> list(summary(TorchPolynomialRegressor(degree=1).fit(X, y)).to_frame()["term"])
        ['1', 'x0']
        """
        import pandas as pd

        frames = [
            pd.DataFrame(
                {
                    "term": self.terms,
                    "estimate": target.estimates,
                    "standard_error": target.standard_errors,
                    "low": target.low,
                    "high": target.high,
                }
            )
            for target in self.targets
        ]
        if len(frames) == 1:
            return frames[0]
        for position, frame in enumerate(frames):
            frame.insert(0, "target", position)
        return pd.concat(frames, ignore_index=True)

    def __str__(self) -> str:
        parts = []
        for title, header, rows, foot in self._blocks():
            parts.append("\n".join([*([title] if title else []), as_text(header, rows), *foot]))
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = []
        for title, header, rows, foot in self._blocks():
            heading = f"<p>{escape(title)}</p>" if title else ""
            parts.append(f"{heading}{as_html(header, rows)}<p>{'<br>'.join(map(escape, foot))}</p>")
        return "".join(parts)

    def _blocks(self) -> list[tuple[str, list[str], list[list[str]], list[str]]]:
        percent = f"{100 * self.confidence_level:g} %"
        header = ["term", "estimate", "standard error", f"{percent} from", "to"]
        blocks = []
        for position, target in enumerate(self.targets):
            columns = zip(self.terms, target.estimates, target.standard_errors, target.low, target.high, strict=True)
            rows = [[term, *map(number, values)] for term, *values in columns]
            foot = [
                f"Rows {self.n_rows}, independent terms {number(self.rank)}, degrees of freedom {number(self.dof)}",
                f"Residual standard deviation {number(target.residual_std)}",
                f"R2 {number(target.r_squared)}, adjusted {number(target.adjusted_r_squared)}",
            ]
            if not np.isnan(target.f_statistic):
                foot.append(
                    f"F {number(target.f_statistic)} with {number(target.f_dof)} and {number(self.dof)} degrees of "
                    f"freedom, p {number(target.f_p_value, 3)}"
                )
            foot.append(
                f"Log-likelihood {number(target.log_likelihood)}, AIC {number(target.aic)}, BIC {number(target.bic)}"
            )
            if target.residuals is not None:
                pairs = zip(_QUARTILES, target.residuals, strict=True)
                foot.append("Residuals: " + ", ".join(f"{name} {number(value, 4)}" for name, value in pairs))
            title = f"Target {position}" if len(self.targets) > 1 else ""
            blocks.append((title, header, rows, foot))
        return blocks


def summary(
    estimator: Any,
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    confidence_level: float = 0.95,
    sample_weight: ArrayLike | None = None,
) -> Summary:
    """Return the coefficients with standard errors and intervals, and the quality of the fit.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor or search
        A fitted regressor, or a fitted search over one. Its loss is the squared error.

    X : array-like of shape (n_samples, n_features), default=None
        The rows of the fit. With `X` and `y`, the summary has the quartiles of the residuals too.

    y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
        The targets of the fit.

    confidence_level : float, default=0.95
        Of the intervals of the coefficients, between 0 and 1.

    sample_weight : array-like of shape (n_samples,), default=None
        The weights of the fit. Rows of weight 0 have no residuals. Others have those of y, without weights.

    Returns
    -------
    Summary
        It prints as text and shows as a table in notebooks. ``to_frame`` makes a dataframe.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind, or if an argument is a Dask collection.
    ValueError
        If the estimator is a Pipeline, if `confidence_level` is not between 0 and 1, if the loss is not the squared
        error, or if rows of the fit were not more than its terms.

    See Also
    --------
    covariance : The covariance matrix of the coefficients.
    anova : What each degree explains, and lack of fit.

    Notes
    -----
    The intervals are ``estimate -+ t * standard_error`` with quantiles of Student's distribution. There are no p-values
    of coefficients. The coefficients of a polynomial depend on each other, so one of them by itself answers few
    questions. After a search over degrees, p-values are wrong. To compare degrees, use :func:`anova` or
    cross-validation.

    Log-likelihood, AIC and BIC are those of normal errors of equal variance, and count one parameter for each
    independent term, as statsmodels does. R counts the standard deviation as a parameter too, so its AIC is greater by
    2. With weights, the sum of ``log(w) / 2`` over the rows, for weights of mean 1, is left out. It is the same for all
    polynomials.

    With a penalty, the standard errors are those of the posterior distribution of the coefficients.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import summary
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
    >>> summary(TorchPolynomialRegressor(degree=1).fit(X, y))
    term  estimate  standard error  95 % from       to
    --------------------------------------------------
    1         0.04       0.0848528   -0.23004  0.31004
    x0        0.98        0.034641   0.869757  1.09024
    Rows 5, independent terms 2, degrees of freedom 3
    Residual standard deviation 0.109545
    R2 0.996266, adjusted 0.995021
    F 800.333 with 1 and 3 degrees of freedom, p 9.7e-05
    Log-likelihood 5.23949, AIC -6.47899, BIC -7.26011
    """
    check_confidence_level(confidence_level, "summary")
    model = FittedModel.of(estimator)
    regressor = _without_steps(model, "summary")
    check_in_memory(X=X, y=y, sample_weight=sample_weight)
    if (X is None) != (y is None):
        raise ValueError("One of 'X' and 'y' is None. Give both, or none of them.")
    uncertainty = regressor._uncertainty_or(ValueError, "There is no summary")
    regressor._warn_if_not_optimal(uncertainty, stacklevel=3)
    residuals: list[Floats | None] = [None] * len(uncertainty.scales)
    if X is not None and y is not None:
        residuals = list(_quartiles(model, X, y, sample_weight))
    errors = np.linalg.norm(uncertainty.of_monomials(regressor._polynomial.basis), axis=1)
    quantile = stats.t.ppf((1 + confidence_level) / 2, uncertainty.dof)
    targets = [
        _of_target(regressor, uncertainty, target, errors, quantile, residuals[target])
        for target in range(len(uncertainty.scales))
    ]
    terms = ["1", *regressor.term_names_.tolist()]
    return Summary(terms, targets, uncertainty.n_rows, uncertainty.effective_rank, uncertainty.dof, confidence_level)


def covariance(estimator: Any) -> NDArray[np.float64]:
    """Return the covariance matrix of the coefficients.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor or search
        A fitted regressor, or a fitted search over one. Its loss is the squared error.

    Returns
    -------
    ndarray of shape (1 + n_terms, 1 + n_terms) or (n_targets, 1 + n_terms, 1 + n_terms)
        Of ``intercept_`` and ``term_coef_``. Rows and columns of terms that the rows do not determine are NaN.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind.
    ValueError
        If the estimator is a Pipeline, if the loss is not the squared error, or if rows of the fit were not more than
        its terms.

    Notes
    -----
    ``s**2 J T T' J' / n``, with ``residual_std_`` s, the number of rows n, the matrix T that whitens the terms, and the
    conversion J to monomials. ``J T`` is computed in exact arithmetic, because its sums cancel.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import covariance
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
    >>> model = TorchPolynomialRegressor(degree=1).fit(X, y)
    >>> covariance(model).round(4)
    array([[ 0.0072, -0.0024],
           [-0.0024,  0.0012]])
    >>> np.allclose(np.sqrt(covariance(model)[1, 1]), model.term_coef_std_)
    True
    """
    regressor = _without_steps(FittedModel.of(estimator), "covariance")
    uncertainty = regressor._uncertainty_or(ValueError, "There is no covariance")
    regressor._warn_if_not_optimal(uncertainty, stacklevel=3)
    stds = uncertainty.residual_stds(regressor._polynomial.targets)
    scaled = stds[:, None, None] * uncertainty.of_monomials(regressor._polynomial.basis)
    found = np.asarray(scaled @ scaled.transpose(0, 2, 1))
    return found[0] if regressor._single_target else found


def _without_steps(model: FittedModel, name: str) -> TorchPolynomialRegressor:
    """Return the regressor, or raise if a Pipeline stands around it: its terms are not those of the Pipeline's X."""
    if model.steps:
        raise ValueError(
            f"The 'estimator' parameter of {name} got a Pipeline, whose last step sees other columns than you give it. "
            f"Write {name}(pipe[-1]). The names of its columns are pipe[:-1].get_feature_names_out()."
        )
    return model.regressor


def _of_target(
    regressor: TorchPolynomialRegressor,
    uncertainty: Uncertainty,
    target: int,
    errors: Floats,
    quantile: float,
    residuals: Floats | None,
) -> TargetSummary:
    scale, n_rows, rank = regressor._polynomial.targets.scale[target], uncertainty.n_rows, uncertainty.effective_rank
    intercept, coefficients = np.ravel(regressor.intercept_)[target], np.atleast_2d(regressor.term_coef_)[target]
    estimates = np.r_[intercept, coefficients]
    s = float(scale * uncertainty.scales[target])
    half = quantile * s * errors
    mean_square, variance = uncertainty.mean_squares[target], uncertainty.variances[target]
    with np.errstate(divide="ignore", invalid="ignore"):
        unexplained = np.divide(mean_square, variance)
        f_dof = rank - 1
        explained = (1 - unexplained) / f_dof
        f = explained / (unexplained / uncertainty.dof) if f_dof > 0 else np.nan
        likelihood = -n_rows / 2 * (np.log(2 * np.pi) + np.log(mean_square) + 2 * np.log(scale) + 1)
    return TargetSummary(
        estimates,
        s * errors,
        estimates - half,
        estimates + half,
        s,
        float(1 - unexplained),
        float(1 - unexplained * (n_rows - 1) / uncertainty.dof),
        float(f),
        float(stats.f.sf(f, f_dof, uncertainty.dof)) if f_dof > 0 else np.nan,
        float(f_dof),
        float(likelihood),
        float(2 * rank - 2 * likelihood),
        float(np.log(n_rows) * rank - 2 * likelihood),
        residuals,
    )


def _quartiles(model: FittedModel, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Floats:
    """Return the quartiles of the residuals, of shape (n_targets, 5)."""
    data, polynomial = model.training_rows(X, y, sample_weight), model.regressor._polynomial
    residuals = data.Y - polynomial.evaluate(data.X.astype(np.float64, copy=False), None, "continue")
    return np.quantile(residuals, [0, 0.25, 0.5, 0.75, 1], axis=0).T
