"""Principal axes as variables of the basis, instead of columns that nearly coincide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats
from torchpoly._gram.source import Source
from torchpoly._gram.statistics import GramStatistics
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet

# Collinearity is the condition number of the correlation matrix. Its power `degree` is about the condition number of
# the Gram matrix. Above this condition number, principal axes become the variables.
_MAX_COLLINEAR_CONDITION = 1e8
# Above this collinearity, columns may be linear combinations of others.
_MAX_INDEPENDENT_COLLINEARITY = 1e6
# A variable is a linear combination of others if less than this fraction of its variance is left by regression.
_MIN_RESIDUAL_VARIANCE = 1e-12
# A null direction may eliminate each variable whose entry is at least this fraction of its largest entry.
_MIN_PIVOT_RATIO = 0.5
# A column varies by rounding only if the rounding error is more than this fraction of its range.
_MAX_ROUNDING_RATIO = 0.1
# One pass of Gram-Schmidt orthogonalization leaves rounding errors of wide directions in narrow ones.
_N_ORTHOGONALIZATIONS = 2
# Null directions are narrower than this number of estimated rounding errors. In 1,700 data sets, null directions were
# narrower than 0.05 times this limit, and others wider than 9 times this limit.
_MAX_NULL_WIDTH = 4.0


def asks_for_principal_axes(basis: Basis, covariance: Floats) -> bool:
    """Whether variables nearly coincide, so that principal axes improve the condition number."""
    if basis.indices.degree == 0 or basis.indices.interaction_only or basis.domain.n_variables < 2:
        return False
    collinearity = _collinearity(covariance)
    if collinearity <= _MAX_INDEPENDENT_COLLINEARITY and basis.indices.is_capped.any():
        collinearity = _collinearity(covariance, basis.indices.is_capped)
    return collinearity > min(_MAX_INDEPENDENT_COLLINEARITY, _MAX_COLLINEAR_CONDITION ** (1 / basis.indices.degree))


def _collinearity(covariance: Floats, fixed: NDArray[np.bool_] | None = None) -> float:
    """Return the condition number of the correlation matrix, after regression on the fixed variables.

    It is infinite if the matrix is singular.
    """
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    if not deviation.all():
        return np.inf
    correlation = covariance / np.outer(deviation, deviation)
    if fixed is not None and fixed.any():
        correlation = _eliminated(correlation, np.eye(len(fixed)), np.flatnonzero(fixed))[0][np.ix_(~fixed, ~fixed)]
    if not len(correlation):
        return 1.0
    eigenvalues = np.linalg.eigvalsh(correlation)
    return float(max(eigenvalues[-1], 1.0) / eigenvalues[0]) if eigenvalues[0] > 0 else np.inf


def in_independent_variables(basis: Basis, statistics: GramStatistics, rows: Source) -> Basis:
    """Return the basis in independent variables, where columns nearly coincide or depend on each other.

    Columns that are linear combinations of others are left out: the polynomials in the others are the
    same. If the remaining columns still nearly coincide, their principal axes become the variables.

    If there are at most as many distinct points as columns, the columns always depend on each other. Then
    the basis is unchanged: the norm of the coefficients on principal axes would weigh narrow axes as much
    as wide ones.

    Parameters
    ----------
    basis : Basis
        Its variables are columns of X.
    statistics : GramStatistics
        Of the basis.
    rows : Source
    """
    n_variables = basis.domain.n_variables
    if not 1 < n_variables < rows.n_rows or basis.indices.degree == 0:
        return basis
    covariance = statistics.covariance(n_variables)
    if not asks_for_principal_axes(basis, covariance) or len(rows.points(basis.domain, n_variables)) <= n_variables:
        return basis
    # Linear combinations with a column that varies by rounding only are rounding, so such columns stay.
    coarse = _rounding(np.eye(n_variables), _sizes(basis.domain), rows.precision) > _MAX_ROUNDING_RATIO
    chosen, covariance = basis.of_variables(~coarse), covariance[np.ix_(~coarse, ~coarse)]
    if not asks_for_principal_axes(chosen, covariance):
        return basis
    if _collinearity(covariance) > _MAX_INDEPENDENT_COLLINEARITY:
        kept = _independent(chosen, covariance, rows)
        chosen, covariance = chosen.of_variables(kept), covariance[np.ix_(kept, kept)]
    if asks_for_principal_axes(chosen, covariance):
        chosen = _on_principal_axes(chosen, covariance, rows)
    return chosen.joined(basis.of_variables(coarse)) if coarse.any() else chosen


def _independent(basis: Basis, covariance: Floats, rows: Source) -> NDArray[np.bool_]:
    """Gaussian elimination with the null directions: return whether each variable stays.

    Variables that others determine at the rows do not stay.
    """
    eigenvectors = np.linalg.eigh(covariance)[1][:, ::-1]
    directions, widths, _, rounding = _uncorrelated(basis.domain, eigenvectors, 0, rows)
    null, kept = directions[:, widths <= rounding], np.ones(len(covariance), dtype=bool)
    # Each null direction eliminates one of the variables with a large entry in it: the last one.
    while null.shape[1]:
        sizes = np.linalg.norm(null, axis=1)
        well_determined = sizes >= _MIN_PIVOT_RATIO * sizes.max()
        # A column of few values stays if a null direction has other columns, for example a sum with this column.
        others = well_determined & ~basis.indices.is_capped
        variable = np.flatnonzero(others if others.any() else well_determined)[-1]
        # A rotation of the null directions makes the entries of this variable 0, except in the first direction.
        rotation = np.linalg.qr(null[variable][:, None], mode="complete")[0]
        null, kept[variable] = (null @ rotation)[:, 1:], False
        null[variable] = 0.0
    return kept


def _on_principal_axes(basis: Basis, covariance: Floats, rows: Source) -> Basis:
    """Return the basis whose variables are the principal axes of the variables of this basis.

    An invertible linear map of the variables does not change the space of polynomials of total degree k,
    so the model is the same. But the difference of columns that nearly coincide becomes a variable, scaled
    to [-1, 1] like the others. Variables of few values stay, with their caps. The axes of the other
    variables are uncorrelated with them.
    """
    domain = basis.domain
    fixed, free = np.flatnonzero(basis.indices.is_capped), np.flatnonzero(~basis.indices.is_capped)
    residual, combinations = _eliminated(covariance, np.eye(domain.n_variables), fixed)
    eigenvectors = np.linalg.eigh(residual[np.ix_(free, free)])[1][:, ::-1]
    unchanged = np.eye(domain.n_variables)[:, fixed]
    directions = np.hstack([unchanged, _normalized(combinations[:, free] @ eigenvectors)])
    directions, widths, middles, rounding = _uncorrelated(domain, directions, len(fixed), rows)
    kept = (widths > rounding) | (np.arange(len(widths)) < len(fixed))
    directions, widths, middles, rounding = directions[:, kept], widths[kept], middles[kept], rounding[kept]
    axes, shift = domain.directions @ (directions / widths), middles / widths
    rotated = Domain(domain.center, domain.half_width, axes, shift, widths / widths.max(), rounding / widths)
    uncapped = IndexSet(rotated.n_variables - len(fixed), basis.indices.degree)
    return replace(basis, domain=rotated, indices=basis.indices.of_variables(basis.indices.is_capped).joined(uncapped))


def _uncorrelated(
    domain: Domain, directions: Floats, n_fixed: int, rows: Source
) -> tuple[Floats, Floats, Floats, Floats]:
    """Gram-Schmidt orthogonalization: make each direction uncorrelated at the rows with the wider ones.

    The error of a null direction of a covariance matrix is rounding times the ratio of the variances. So
    the directions are sorted from wide to narrow and scaled to [-1, 1], and their covariance is read
    from the rows again.

    Parameters
    ----------
    domain : Domain
    directions : ndarray of shape (n_variables, n_directions)
        Of norm 1.
    n_fixed : int
        The first directions, up to this number, do not change.
    rows : Source

    Returns
    -------
    directions : ndarray of shape (n_variables, n_directions)
    widths, middles, rounding : ndarray of shape (n_directions,)
        Half the range, the middle, and the rounding error of the rows along the directions.
    """
    columns, sizes = domain.directions, _sizes(domain)
    for _ in range(_N_ORTHOGONALIZATIONS):
        widths, middles = _extents(domain, directions, rows)
        order = np.r_[:n_fixed, n_fixed + np.argsort(-widths[n_fixed:], kind="stable")]
        directions, widths, middles = directions[:, order], widths[order], middles[order]
        unit = np.where(widths > 0, widths, 1.0)
        wide = np.flatnonzero(widths > _rounding(directions, sizes, rows.precision))
        scaled = Domain(domain.center, domain.half_width, columns @ (directions / unit), middles / unit)
        uncorrelated = _eliminated(rows.covariance(scaled), directions / unit, wide)[1]
        directions[:, n_fixed:] = _normalized(uncorrelated[:, n_fixed:])
    return directions, *_extents(domain, directions, rows), _rounding(directions, sizes, rows.precision)


def _sizes(domain: Domain) -> Floats:
    """Return a bound of the intermediate results in the computation of each variable: rounding is relative to it."""
    return (np.abs(domain.center) / domain.half_width + 2.0) @ np.abs(domain.directions)


def _extents(domain: Domain, directions: Floats, rows: Source) -> tuple[Floats, Floats]:
    """Return half the range and the middle of the rows along each direction."""
    axes = Domain(domain.center, domain.half_width, domain.directions @ directions, np.zeros(directions.shape[1]))
    low, high = rows.ranges(axes)
    return high / 2 - low / 2, high / 2 + low / 2


def _rounding(directions: Floats, sizes: Floats, precision: float) -> Floats:
    """Return the greatest width of a null direction: rounding of rows that are equal along each direction."""
    return _MAX_NULL_WIDTH * math.sqrt(len(sizes)) * precision * (sizes @ np.abs(directions))


def _normalized(directions: Floats) -> Floats:
    """Return the directions divided by their norms; a direction of norm 0 stays 0."""
    norms = np.linalg.norm(directions, axis=0)
    return directions / np.where(norms > 0, norms, 1.0)


def _eliminated(covariance: Floats, directions: Floats, pivots: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Gaussian elimination (Schur complement): subtract from each variable its regression on previous pivots.

    Parameters
    ----------
    covariance : ndarray of shape (n_variables, n_variables)
    directions : ndarray of shape (n, n_variables)
        Columns are the variables.
    pivots : ndarray of int
        The indices of the pivots, in this order. A pivot that previous pivots explain is skipped.

    Returns
    -------
    covariance, directions : ndarray
        Of the residuals.
    """
    left, directions, variances = covariance.copy(), directions.copy(), np.diagonal(covariance).copy()
    done = np.zeros(len(left), dtype=bool)
    for pivot in pivots:
        done[pivot] = True
        if left[pivot, pivot] <= _MIN_RESIDUAL_VARIANCE * variances[pivot] or not left[pivot, pivot] > 0:
            continue
        factors = np.where(done, 0.0, left[pivot] / left[pivot, pivot])
        directions -= np.outer(directions[:, pivot], factors)
        left -= np.outer(left[:, pivot], factors)
        left[pivot, ~done] = 0.0
    return left, directions
