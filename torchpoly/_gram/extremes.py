"""Detection of columns in which a few extreme values make terms numerically dependent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from torchpoly._gram.conditioning import well_conditioned
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.source import Source
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.domain import Domain

# A value is extreme beyond this distance from the shortest interval that holds half of the values, in lengths of the
# interval. For normally distributed values the probability is below 1e-40.
_FENCE_LENGTHS = 10.0


def rank(equations: NormalEquations) -> int:
    """Return the number of independent terms."""
    return equations.orthonormal_coordinates(0.0).rank


def columns_with_extremes(equations: NormalEquations, source: Source) -> NDArray[np.intp]:
    """Return the columns with extreme values, if more terms are independent on the rows without them.

    If almost all values are in a small part of the range of a column, the powers of the column are
    linear functions there, up to rounding.

    Parameters
    ----------
    equations : NormalEquations
        Of all rows.
    source : Source
        All rows.
    """
    none = np.zeros(0, dtype=np.intp)
    if not isinstance(equations.statistics.features, np.ndarray):
        return none
    n_independent = rank(equations)
    if n_independent == equations.basis.n_terms:
        return none
    basis = equations.basis if equations.first is None else equations.first.basis
    lower, upper = source.shortest_halves()
    low, high = lower - _FENCE_LENGTHS * (upper - lower), upper + _FENCE_LENGTHS * (upper - lower)
    least, greatest = source.ranges(Domain.identity(len(low)))
    varies = basis.domain.columns
    fenced = varies & (upper > lower) & ((least < low) | (greatest > high))
    fenced[varies] &= ~basis.indices.is_capped
    if not fenced.any():
        return none
    rest = source.within(np.where(fenced, low, -np.inf), np.where(fenced, high, np.inf))
    if 2 * rest.n_rows < source.n_rows:
        return none
    domain = Domain.spanning(Box(*rest.ranges(Domain.identity(len(low))), values=(None,) * len(low)))
    if domain.n_variables < basis.domain.n_variables:
        return none
    on_rest = well_conditioned(rest.read(replace(basis, domain=domain)), rest)
    return np.flatnonzero(fenced) if rank(on_rest) > n_independent else none
