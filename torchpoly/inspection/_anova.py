"""Analysis of variance: what each degree explains, and lack of fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from torchpoly._backend.rows import Floats
from torchpoly._gram.reading import TrainingRows
from torchpoly._gram.whitening import rounding_ratio
from torchpoly.inspection._fitted_model import FittedModel, check_in_memory
from torchpoly.inspection._tables import as_html, as_text, number

_HEADER = ["source", "df", "sum of squares", "mean square", "F", "p"]


@dataclass(frozen=True)
class Anova:
    """Table of the analysis of variance of a target. :func:`anova` makes it.

    It prints as text, and shows as a table in notebooks.

    Parameters
    ----------
    source : list of str
        ``"degree 1"``, ``"degree 2"``, ..., ``"residual"``, then ``"lack of fit"`` and ``"pure error"`` if rows repeat,
        and ``"total"``.
    dof : ndarray of shape (n_sources,)
        Degrees of freedom.
    sum_of_squares, mean_square : ndarray of shape (n_sources,)
        The mean square is the sum of squares over the degrees of freedom; NaN for the total.
    f, p : ndarray of shape (n_sources,)
        F of a degree is its mean square over that of the residual. F of the lack of fit is its mean square over that of
        the pure error. p is the probability of a greater F if the source explains nothing. NaN for other sources.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import anova
    >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
    >>> anova(TorchPolynomialRegressor(degree=1).fit(X, y), X, y).dof
    array([1., 3., 4.])
    """

    source: list[str]
    dof: NDArray[np.float64]
    sum_of_squares: NDArray[np.float64]
    mean_square: NDArray[np.float64]
    f: NDArray[np.float64]
    p: NDArray[np.float64]

    def to_frame(self) -> Any:
        """Return the table as a dataframe of pandas.

        Returns
        -------
        DataFrame
            With the sources as index, and the columns ``df``, ``sum_of_squares``, ``mean_square``, ``F`` and ``p``.

        Examples
        --------
        >>> from torchpoly import TorchPolynomialRegressor
        >>> from torchpoly.inspection import anova
        >>> X, y = [[0.0], [1.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 2.1, 2.9, 4.0]
        >>> list(anova(TorchPolynomialRegressor(degree=2).fit(X, y), X, y).to_frame().index)
        ['degree 1', 'degree 2', 'residual', 'total']
        """
        import pandas as pd

        columns = {"df": self.dof, "sum_of_squares": self.sum_of_squares, "mean_square": self.mean_square}
        return pd.DataFrame(columns | {"F": self.f, "p": self.p}, index=pd.Index(self.source, name="source"))

    def __str__(self) -> str:
        return as_text(_HEADER, self._rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(_HEADER, self._rows())

    def _rows(self) -> list[list[str]]:
        columns = zip(self.source, self.dof, self.sum_of_squares, self.mean_square, self.f, self.p, strict=True)
        return [
            [source, number(dof), number(squares), *("" if np.isnan(value) else number(value) for value in others)]
            for source, dof, squares, *others in columns
        ]


def anova(estimator: Any, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Any:
    """Return the analysis of variance: what each degree adds to the lower ones, and the lack of fit.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor, search or Pipeline
        A fitted regressor, a fitted search over one, or a fitted Pipeline that ends in one of them. Its loss is the
        squared error, and it has no penalty.

    X : array-like of shape (n_samples, n_features)
        The rows of the fit.

    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        The targets of the fit.

    sample_weight : array-like of shape (n_samples,), default=None
        The weights of the fit.

    Returns
    -------
    Anova or list of Anova
        The table, or a table for each target if y has two dimensions. It prints as text and shows as a table in
        notebooks. ``to_frame`` makes a dataframe.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator is of another kind, or if an argument is a Dask collection.
    ValueError
        If the rows have other ranges than those of the fit, if there is a penalty, if the loss is not the squared
        error, or if rows of the fit were not more than its terms.

    See Also
    --------
    summary : Coefficients with standard errors, and the quality of the fit.

    Notes
    -----
    The sums of squares are sequential: that of degree k is what the terms of degree k explain after all terms of lower
    degrees. Its F has the mean square of the residual of the whole polynomial in the denominator, as R's ``anova`` of
    one model and SAS's RSREG print it. To choose a degree, read the table from below: the highest degree of a small p
    is enough.

    If rows of X repeat, the residual is split. The pure error is the variation of y among equal rows of X. The lack of
    fit is the rest: how far the means of equal rows are from the polynomial. A small p says that the polynomial misses
    something.

    The p-values hold for a polynomial that was fixed in advance. After a search over degrees on the same rows, they
    mean nothing. Weights count as inverse variances, up to a factor: they are scaled to a mean of 1.

    Examples
    --------
    >>> from torchpoly import TorchPolynomialRegressor
    >>> from torchpoly.inspection import anova
    >>> X, y = [[0.0], [1.0], [2.0], [2.0], [3.0], [4.0]], [0.1, 0.9, 4.2, 3.9, 8.8, 16.2]
    >>> anova(TorchPolynomialRegressor(degree=2).fit(X, y), X, y)
    source       df  sum of squares  mean square         F            p
    -------------------------------------------------------------------
    degree 1      1         160.801      160.801   4147.64  8.24882e-06
    degree 2      1          18.831       18.831   485.721  0.000204494
    residual      3        0.116308    0.0387692
    lack of fit   2       0.0713077    0.0356538  0.792308     0.622017
    pure error    1           0.045        0.045
    total         5         179.748
    """
    model = FittedModel.of(estimator)
    check_in_memory(X=X, y=y, sample_weight=sample_weight)
    regressor = model.regressor
    regressor._uncertainty_or(ValueError, "There is no analysis of variance")
    if regressor.alpha_:
        raise ValueError(
            f"The 'alpha' parameter of the estimator is {regressor.alpha_:g}, and sums of squares of degrees add up "
            "only without a penalty. Fit with alpha=0."
        )
    data = model.training_rows(X, y, sample_weight)
    roots = np.sqrt(data.shares * data.n_rows)
    centered = data.targets.transform(data.Y).T
    names, ranks, squares, residuals = [], [], [], roots[:, None] * centered
    for degree, values in _orthonormal_values(data, regressor, roots):
        products = values.T @ residuals
        residuals = residuals - values @ products
        residuals = residuals - values @ (values.T @ residuals)
        if degree:
            names.append(f"degree {degree}")
            ranks.append(values.shape[1])
            squares.append(np.square(products).sum(axis=0))
    groups = np.unique(data.X, axis=0, return_inverse=True)[1].ravel()
    tables = []
    for target, scale in enumerate(regressor._polynomial.targets.scale):
        of_degrees = [float(of_degree[target] * scale**2) for of_degree in squares]
        errors = scale * residuals[:, target]
        tables.append(_table(names, ranks, of_degrees, errors, roots, groups))
    return tables[0] if regressor._single_target else tables


def _orthonormal_values(data: TrainingRows, regressor: Any, roots: Floats) -> Iterator[tuple[int, Floats]]:
    """Yield each degree, and an orthonormal basis of what its terms add at the rows, of shape (n_rows, rank)."""
    basis = regressor._polynomial.basis
    features = roots[:, None] * np.asarray(basis.evaluate(basis.domain.scale(data.X))).T
    before = np.zeros((len(features), 0))
    for degree in range(basis.indices.highest + 1):
        own = features[:, basis.indices.degrees == degree]
        sizes = np.linalg.norm(own, axis=0)
        own = own / np.where(sizes > 0, sizes, 1.0)
        for _ in range(2):
            own = own - before @ (before.T @ own)
        left, values, _ = np.linalg.svd(own, full_matrices=False)
        kept = left[:, values > np.sqrt(rounding_ratio(basis.n_terms)) * 1e-2]
        before = np.hstack([before, kept])
        yield degree, kept


def _table(
    names: list[str], ranks: list[int], squares: list[float], errors: Floats, roots: Floats, groups: NDArray[np.intp]
) -> Anova:
    """Return the table of a target.

    Parameters
    ----------
    names, ranks, squares : list
        Of the degrees: names, degrees of freedom and sums of squares.
    errors, roots : ndarray of shape (n_rows,)
        Residuals times the square roots of the weights, and these square roots.
    groups : ndarray of shape (n_rows,)
        The same number for equal rows.
    """
    n_rows, n_groups = len(errors), int(groups.max()) + 1
    residual, dof = float(errors @ errors), float(n_rows - 1 - sum(ranks))
    rows = [(name, float(rank), value) for name, rank, value in zip(names, ranks, squares, strict=True)]
    tested = dict.fromkeys(names, (residual, dof))
    rows.append(("residual", dof, residual))
    if n_groups < n_rows and n_groups - 1 - sum(ranks) > 0:
        weights = np.square(roots)
        sums = np.bincount(groups, roots * errors, n_groups) / np.bincount(groups, weights, n_groups)
        pure = errors - roots * sums[groups]
        lack = float(np.square(roots * sums[groups]).sum())
        rows += [
            ("lack of fit", n_groups - 1.0 - sum(ranks), lack),
            ("pure error", n_rows - n_groups, float(pure @ pure)),
        ]
        tested["lack of fit"] = (float(pure @ pure), float(n_rows - n_groups))
    rows.append(("total", n_rows - 1.0, residual + sum(squares)))
    source, dofs, sums_of_squares = (list(column) for column in zip(*rows, strict=True))
    degrees, total = np.array(dofs), np.array(sums_of_squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = total / degrees
        against = np.array([np.divide(*tested.get(name, (np.nan, np.nan))) for name in source])
        f = means / against
        p = stats.f.sf(f, degrees, [tested.get(name, (0, np.nan))[1] for name in source])
    means[-1] = np.nan
    return Anova(source, degrees, total, means, f, np.asarray(p))
