"""Principal axes of columns that nearly coincide, in place of the columns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet

if TYPE_CHECKING:
    from torchpoly._gram.source import Source

# The columns' principal axes become the variables where collinearity alone would take the
# condition number of the Gram matrix beyond this.
_MAX_COLLINEARITY = 1e8
# Columns are looked through for combinations of others where they are more collinear than this.
_DEPENDENT = 1e6
# Where so small a share of a variance is not explained by other variables, none of it is.
_UNEXPLAINED = 1e-12
# Of the variables that a null direction determines about as well as any, the last one is left out.
_LEAST_PIVOT = 0.5
# The range of a column is rounding where that may be this share of it, or more.
_COARSE = 0.1
# A second pass corrects what rounding has left of wider directions in the first.
_N_PASSES = 2
# Along null directions rows differ by less than 0.05 of this many roundings, along others by more than 9
# times as many, in 1,700 data sets.
_NULL_ROUNDINGS = 4.0


def asks_for_principal_axes(basis: Basis, covariance: Floats) -> bool:
    """Whether variables nearly coincide, so that their principal axes tell terms better apart."""
    if basis.indices.degree == 0 or basis.indices.interaction_only or basis.domain.n_variables < 2:
        return False
    collinearity = _collinearity(covariance)
    if collinearity <= _DEPENDENT and basis.indices.is_capped.any():
        collinearity = _collinearity(covariance, basis.indices.is_capped)
    return collinearity > min(_DEPENDENT, _MAX_COLLINEARITY ** (1 / basis.indices.degree))


def _collinearity(covariance: Floats, fixed: NDArray[np.bool_] | None = None) -> float:
    """Return the condition number of the correlation matrix, without what fixed variables explain.

    It is infinite where the matrix is singular.
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


def in_independent_variables(basis: Basis, covariance: Floats, rows: Source) -> Basis:
    """Return the basis in variables that tell terms apart, where columns nearly coincide or depend on each other.

    Columns that are combinations of others are left out: the others have the same polynomials. Where
    the rest still nearly coincide, their principal axes become the variables.

    Parameters
    ----------
    basis : Basis
        Its variables are columns of X.
    covariance : ndarray of shape (n_variables, n_variables)
        Of the variables.
    rows : Source
    """
    n_variables = basis.domain.n_variables
    # Of columns that take few floats, combinations with others tell no more than rounding: they stay as they are.
    coarse = _rounding(np.eye(n_variables), _sizes(basis.domain), rows.precision) > _COARSE
    chosen, covariance = basis.of_variables(~coarse), covariance[np.ix_(~coarse, ~coarse)]
    if not asks_for_principal_axes(chosen, covariance):
        return basis
    if _collinearity(covariance) > _DEPENDENT:
        kept = _independent(chosen, covariance, rows)
        chosen, covariance = chosen.of_variables(kept), covariance[np.ix_(kept, kept)]
    if asks_for_principal_axes(chosen, covariance):
        chosen = _on_principal_axes(chosen, covariance, rows)
    return chosen.joined(basis.of_variables(coarse)) if coarse.any() else chosen


def _independent(basis: Basis, covariance: Floats, rows: Source) -> NDArray[np.bool_]:
    """Return which variables are left where those go that others determine on the rows."""
    eigenvectors = np.linalg.eigh(covariance)[1][:, ::-1]
    directions, widths, _, rounding = _uncorrelated(basis.domain, eigenvectors, 0, rows)
    null, kept = directions[:, widths <= rounding], np.ones(len(covariance), dtype=bool)
    # Gaussian elimination: each null direction solves for one of the variables that it determines best.
    while null.shape[1]:
        sizes = np.linalg.norm(null, axis=1)
        well_determined = sizes >= _LEAST_PIVOT * sizes.max()
        # The few values of a column say more than those of a total that it is part of.
        others = well_determined & ~basis.indices.is_capped
        variable = np.flatnonzero(others if others.any() else well_determined)[-1]
        # After a rotation of the null directions, all but the first have 0 for this variable.
        rotation = np.linalg.qr(null[variable][:, None], mode="complete")[0]
        null, kept[variable] = (null @ rotation)[:, 1:], False
        null[variable] = 0.0
    return kept


def _on_principal_axes(basis: Basis, covariance: Floats, rows: Source) -> Basis:
    """Return the basis whose variables are the principal axes of this one's.

    Polynomials of total degree at most k stay what they are under an invertible linear map of
    their variables, so the model is the same; but columns that nearly coincide are told apart by a
    variable of its own, scaled to [-1, 1] as every other. Variables of few values keep their caps,
    so they stay as they are; the axes of the others are uncorrelated with them.
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
    axes = Domain(
        domain.center,
        domain.half_width,
        domain.directions @ (directions / widths),
        middles / widths,
        widths / widths.max(),
        rounding / widths,
    )
    is_fixed = basis.indices.is_capped
    uncapped = IndexSet(axes.n_variables - len(fixed), basis.indices.degree)
    return replace(basis, domain=axes, indices=basis.indices.of_variables(is_fixed).joined(uncapped))


def _uncorrelated(
    domain: Domain, directions: Floats, n_fixed: int, rows: Source
) -> tuple[Floats, Floats, Floats, Floats]:
    """Make directions uncorrelated on the rows, each with the wider ones (Gram-Schmidt).

    The null direction of a computed covariance is off by rounding times the ratio of the variances. So
    the directions are ordered from wide to narrow, scaled to [-1, 1], and their covariance is read from
    the rows once more.

    Parameters
    ----------
    domain : Domain
    directions : ndarray of shape (n_variables, n_directions)
        Of norm 1.
    n_fixed : int
        The number of directions that come first and stay as they are.
    rows : Source

    Returns
    -------
    directions : ndarray of shape (n_variables, n_directions)
    widths, middles, rounding : ndarray of shape (n_directions,)
        Half the range and the middle of the rows along them, and how far apart rounding may take rows
        along them.
    """
    columns, sizes = domain.directions, _sizes(domain)
    for _ in range(_N_PASSES):
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
    """Return the sizes relative to which the products and sums that make a variable of X are rounded."""
    return (np.abs(domain.center) / domain.half_width + 2.0) @ np.abs(domain.directions)


def _extents(domain: Domain, directions: Floats, rows: Source) -> tuple[Floats, Floats]:
    """Return half the range and the middle of the rows along directions of the variables."""
    axes = Domain(domain.center, domain.half_width, domain.directions @ directions, np.zeros(directions.shape[1]))
    low, high = rows.ranges(axes)
    return high / 2 - low / 2, high / 2 + low / 2


def _rounding(directions: Floats, sizes: Floats, precision: float) -> Floats:
    """Return how far apart rounding may take rows along directions in which they do not differ."""
    return _NULL_ROUNDINGS * math.sqrt(len(sizes)) * precision * (sizes @ np.abs(directions))


def _normalized(directions: Floats) -> Floats:
    """Return the directions scaled to norm 1; one that is 0 stays so."""
    norms = np.linalg.norm(directions, axis=0)
    return directions / np.where(norms > 0, norms, 1.0)


def _eliminated(covariance: Floats, directions: Floats, pivots: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Make each variable uncorrelated with the pivots before it: Gaussian elimination, the Schur complement.

    Parameters
    ----------
    covariance : ndarray of shape (n_variables, n_variables)
    directions : ndarray of shape (n, n_variables)
        Columns are the variables.
    pivots : ndarray of int
        Which variables the others are made uncorrelated with, in this order. A pivot that others
        explain is passed over.

    Returns
    -------
    covariance, directions : ndarray
        Of the variables that are left after subtracting their regression on the pivots.
    """
    left, directions, variances = covariance.copy(), directions.copy(), np.diagonal(covariance).copy()
    done = np.zeros(len(left), dtype=bool)
    for pivot in pivots:
        done[pivot] = True
        if left[pivot, pivot] <= _UNEXPLAINED * variances[pivot] or not left[pivot, pivot] > 0:
            continue
        factors = np.where(done, 0.0, left[pivot] / left[pivot, pivot])
        directions -= np.outer(directions[:, pivot], factors)
        left -= np.outer(left[:, pivot], factors)
        left[pivot, ~done] = 0.0
    return left, directions
