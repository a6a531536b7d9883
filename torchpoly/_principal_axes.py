"""Principal axes of columns that nearly coincide, in place of the columns."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from torchpoly._basis import NO_CAP, Basis
from torchpoly._domain import Domain, Floats

# The columns' principal axes become the variables where collinearity alone would take the
# condition number of the Gram matrix beyond this.
_MAX_COLLINEARITY = 1e8
# Where so small a share of a variance is not explained by other variables, none of it is.
_UNEXPLAINED = 1e-12
# A second pass corrects what rounding has left of wider axes in the first.
_N_PASSES = 2
# Along null axes rows differ by less than 0.05 of this many roundings, along others by more than 9
# times as many, in 1,700 data sets.
_NULL_ROUNDINGS = 4.0


def asks_for_principal_axes(basis: Basis, covariance: Floats) -> bool:
    """Whether variables nearly coincide, so that their principal axes tell terms better apart."""
    if basis.degree == 0 or basis.interaction_only or basis.domain.n_variables < 2 or basis.is_capped.all():
        return False
    return _collinearity(covariance, basis.is_capped) > _MAX_COLLINEARITY ** (1 / basis.degree)


def _collinearity(covariance: Floats, fixed: NDArray[np.bool_]) -> float:
    """Return the condition number of the correlation matrix without what fixed variables explain.

    It is infinite where the matrix is singular.
    """
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    if not deviation.all():
        return np.inf
    correlation = covariance / np.outer(deviation, deviation)
    if fixed.any():
        correlation = _eliminated(correlation, np.eye(len(fixed)), np.flatnonzero(fixed))[0][np.ix_(~fixed, ~fixed)]
    eigenvalues = np.linalg.eigvalsh(correlation)
    return float(max(eigenvalues[-1], 1.0) / eigenvalues[0]) if eigenvalues[0] > 0 else np.inf


def on_principal_axes(
    basis: Basis,
    covariance: Floats,
    precision: float,
    ranges: Callable[[Domain], tuple[Floats, Floats]],
    covariance_on: Callable[[Domain], Floats],
) -> Basis:
    """Return the basis whose variables are the principal axes of this one's.

    Polynomials of total degree at most k stay what they are under an invertible linear map of
    their variables, so the model is the same; but columns that nearly coincide are told apart by a
    variable of its own, scaled to [-1, 1] as every other. Variables of few values keep their caps,
    so they stay as they are; the axes of the others are uncorrelated with them.

    The null direction of a computed covariance is off by rounding times the ratio of the
    variances. So the axes are ordered from wide to narrow, scaled to [-1, 1], their covariance is
    read from the rows once more, and each is made uncorrelated with all wider ones (Gram-Schmidt).
    What is then no wider than rounding is left out.

    Parameters
    ----------
    basis : Basis
        Its variables are columns of X.
    covariance : ndarray of shape (n_variables, n_variables)
        Of the variables.
    precision : float
        How far the values of the rows are rounded, relatively.
    ranges, covariance_on : callable
        Return the least and greatest values, and the covariance, of the variables of a domain.
    """
    domain = basis.domain
    fixed, free = np.flatnonzero(basis.is_capped), np.flatnonzero(~basis.is_capped)
    n_fixed, n_variables = len(fixed), domain.n_variables
    residual, combinations = _eliminated(covariance, np.eye(n_variables), fixed)
    eigenvectors = np.linalg.eigh(residual[np.ix_(free, free)])[1][:, ::-1]
    directions = np.hstack([np.eye(n_variables)[:, fixed], _normalized(combinations[:, free] @ eigenvectors)])
    columns = np.eye(len(domain.center)) if domain.axes is None else domain.axes
    # The products and sums that make a variable of X are rounded relatively to these sizes.
    sizes = (np.abs(domain.center) / domain.half_width + 2.0) @ columns
    for _ in range(_N_PASSES):
        widths, middles = _extents(domain, directions, ranges)
        order = np.r_[np.arange(n_fixed), n_fixed + np.argsort(-widths[n_fixed:], kind="stable")]
        directions, widths, middles = directions[:, order], widths[order], middles[order]
        scaled = directions / np.where(widths > 0, widths, 1.0)
        shift = middles / np.where(widths > 0, widths, 1.0)
        wide = np.flatnonzero(widths > _rounding(directions, sizes, precision))
        current = covariance_on(Domain(domain.center, domain.half_width, columns @ scaled, shift))
        directions[:, n_fixed:] = _normalized(_eliminated(current, scaled, wide)[1][:, n_fixed:])
    widths, middles = _extents(domain, directions, ranges)
    rounding = _rounding(directions, sizes, precision)
    kept = (widths > rounding) | (np.arange(n_variables) < n_fixed)
    directions, widths, middles, rounding = directions[:, kept], widths[kept], middles[kept], rounding[kept]
    axes = Domain(
        domain.center,
        domain.half_width,
        columns @ (directions / widths),
        middles / widths,
        widths / widths.max(),
        rounding / widths,
    )
    caps = None
    if basis.caps is not None:
        caps = tuple(basis.caps[variable] for variable in fixed) + (NO_CAP,) * (axes.n_variables - n_fixed)
    return Basis(axes, basis.degree, basis.interaction_only, basis.family, caps)


def _extents(
    domain: Domain, directions: Floats, ranges: Callable[[Domain], tuple[Floats, Floats]]
) -> tuple[Floats, Floats]:
    """Return half the range and the middle of the rows along directions of the variables."""
    columns = directions if domain.axes is None else domain.axes @ directions
    low, high = ranges(Domain(domain.center, domain.half_width, columns, np.zeros(directions.shape[1])))
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
