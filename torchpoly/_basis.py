"""Scaled products of Chebyshev polynomials, or raw powers, ordered by total degree.

Which products of univariate polynomials make up the features. Terms are ordered as
``sklearn.preprocessing.PolynomialFeatures`` orders them, the constant first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.polynomial import chebyshev, polynomial
from numpy.typing import NDArray
from torch import Tensor

from torchpoly._domain import Array, Domain, Floats


def count_terms(n_features: int, degree: int, interaction_only: bool = False) -> int:
    """Return the number of polynomial terms, the constant included.

    That is ``comb(n_features + degree, degree)`` for all products of total degree at most
    `degree`, and the sum of ``comb(n_features, k)`` over k <= `degree` for distinct factors.
    """
    if interaction_only:
        return sum(math.comb(n_features, k) for k in range(min(degree, n_features) + 1))
    return math.comb(n_features + degree, degree)


def _divisors(powers: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of terms of which the first has no greater exponent of any variable than the second."""
    divides = np.ones((len(powers), len(others)), dtype=bool)
    for exponents, other_exponents in zip(powers.T, others.T, strict=True):
        divides &= exponents[:, None] <= other_exponents
    rows, columns = np.nonzero(divides)
    return rows, columns


class _Block(NamedTuple):
    """Terms of one total degree that share their first variable and its exponent.

    They are the polynomial of degree `exponent` in that variable, times the last `n_terms` terms
    of total degree ``degree - exponent``: the ones in later variables only.
    """

    variable: int
    exponent: int
    n_terms: int


@dataclass(frozen=True)
class Basis:
    """Products of univariate polynomials up to a total degree, on a domain.

    Parameters
    ----------
    domain : Domain
        Maps X to the variables of the basis.
    degree : int
        Greatest total degree.
    interaction_only : bool
        Only products of distinct variables.
    family : {"chebyshev", "power"}
        The univariate polynomials: Chebyshev polynomials of the first kind, or powers.
    """

    domain: Domain
    degree: int
    interaction_only: bool = False
    family: str = "chebyshev"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is cached."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def n_terms(self) -> int:
        return count_terms(self.domain.n_variables, self.degree, self.interaction_only)

    @cached_property
    def _levels(self) -> list[list[_Block]]:
        """The blocks of each total degree, in the order of their terms; degree 0 first."""
        n_variables, interaction_only = self.domain.n_variables, self.interaction_only
        levels: list[list[_Block]] = [[]]
        for degree in range(1, self.degree + 1):
            level = []
            for variable in range(n_variables):
                later = n_variables - 1 - variable
                # Of the last variable, no other is left to share the degree with.
                exponents = [1] if interaction_only else range(degree, 0, -1) if later else [degree]
                for exponent in exponents:
                    rest = degree - exponent
                    count = math.comb(later, rest) if interaction_only else _n_monomials(later, rest)
                    if count:
                        level.append(_Block(variable, exponent, count))
            levels.append(level)
        return levels

    @cached_property
    def powers(self) -> NDArray[np.int64]:
        """Exponent of each variable in each term, of shape (n_terms, n_variables)."""
        levels = [np.zeros((1, self.domain.n_variables), dtype=np.int64)]
        for degree, level in enumerate(self._levels[1:], start=1):
            blocks = []
            for variable, exponent, count in level:
                rest = levels[degree - exponent]
                block = rest[len(rest) - count :].copy()
                block[:, variable] = exponent
                blocks.append(block)
            levels.append(np.concatenate(blocks) if blocks else levels[0][:0])
        return np.concatenate(levels)

    def change_of_domain(self, other: Domain) -> Floats:
        """Return the coefficients in this basis of the terms on another domain.

        Both domains have columns of X for their variables, the other one all of this one's. Along
        each, the other variable is ``a * u + b`` of this one, and its univariate polynomials follow
        from their recurrence. Columns that have no variable here are constant.

        Parameters
        ----------
        other : Domain

        Returns
        -------
        ndarray of shape (n_terms, n_other_terms)
            Column s holds term s on the other domain. It is upper triangular but for the order of
            terms of the same degree, and its leading blocks are those of lower degrees.
        """
        theirs = replace(self, domain=other)
        varying = self.domain.columns[other.columns]
        ours = np.zeros((self.n_terms, theirs.domain.n_variables), dtype=np.int64)
        ours[:, varying] = self.powers
        slopes = np.where(varying, (self.domain.half_width / other.half_width)[other.columns], 0.0)
        offsets = ((self.domain.center - other.center) / other.half_width)[other.columns]
        rows, columns = self._divisors if varying.all() else _divisors(ours, theirs.powers)
        factors = np.ones(len(rows))
        for mine, exponents, slope, offset in zip(ours.T, theirs.powers.T, slopes, offsets, strict=True):
            # Column k is T_k of the other variable v = slope * u + offset: 2 v T_(k-1) - T_(k-2), where
            # T_(-1) is T_1, and 2 u T_j is T_(j+1) + T_|j-1|.
            univariate = np.eye(self.degree + 1)
            for k in range(1, self.degree + 1):
                last, column = univariate[:, k - 1], univariate[:, k]
                column[:] = 2.0 * offset * last
                column[1:] += slope * last[:-1]
                column[:-1] += slope * last[1:]
                column[1] += slope * last[0]
                if k == 1:
                    column /= 2.0
                else:
                    column -= univariate[:, k - 2]
            factors *= univariate[mine[rows], exponents[columns]]
        change = np.zeros((self.n_terms, theirs.n_terms))
        change[rows, columns] = factors
        return change

    @cached_property
    def _divisors(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return _divisors(self.powers, self.powers)

    def leading(self, n_terms: int) -> Basis:
        """Return the basis of the least degree that has these first terms."""
        degrees = range(self.degree + 1)
        variables = self.domain.n_variables
        degree = next(k for k in degrees if count_terms(variables, k, self.interaction_only) >= n_terms)
        return replace(self, degree=degree)

    def kernel(self, variables: Array, others: Array) -> Array:
        """Return the sums over terms of their products at one row and another.

        Variable by variable, the sum over the terms of total degree m gains those whose exponent of
        this variable is j: the sum of degree m - j so far, times the univariate polynomials j at both
        rows. That takes ``n_variables * degree**2 / 2`` operations for each pair of rows, however many
        terms there are.

        Parameters
        ----------
        variables : Tensor or ndarray of shape (n_variables, n_rows)
            What :meth:`Domain.scale` returns.
        others : of the same type, of shape (n_variables, n_others)

        Returns
        -------
        Tensor or ndarray of shape (n_rows, n_others)
        """
        xp: Any = torch if isinstance(variables, Tensor) else np
        highest = min(1, self.degree) if self.interaction_only else self.degree
        zero = variables[:0].T @ others[:0]
        by_degree = [zero + 1.0]
        product = zero + 0.0
        for variable, other in zip(variables[:-1], others[:-1], strict=True):
            by_degree += [zero + 0.0 for _ in range(self.degree + 1 - len(by_degree))]
            pairs = zip(self._univariate(variable, highest), self._univariate(other, highest), strict=True)
            factors = [xp.outer(mine, theirs) for mine, theirs in pairs]
            for degree in range(self.degree, 0, -1):
                for exponent in range(1, min(degree, highest) + 1):
                    _multiply_add(by_degree[degree], by_degree[degree - exponent], factors[exponent], product)
        # With exponent j of the last variable go all terms of the others up to degree k - j.
        up_to = list(accumulate(by_degree))
        if not len(variables):
            return up_to[-1]
        total = up_to[-1] + 0.0
        pairs = zip(self._univariate(variables[-1], highest), self._univariate(others[-1], highest), strict=True)
        for exponent, (mine, theirs) in enumerate(pairs):
            if exponent:
                _multiply_add(
                    total, up_to[min(self.degree - exponent, len(up_to) - 1)], xp.outer(mine, theirs), product
                )
        return total

    def _univariate(self, variable: Array, highest: int) -> Iterator[Array]:
        """Yield the univariate polynomials of degrees 0 to `highest` at one variable's values."""
        before, last = variable, variable * 0.0 + 1.0
        yield last
        for _ in range(highest):
            if self.family == "chebyshev":
                # T_(-1) is T_1.
                before, last = last, (2.0 * variable * last - before)
            else:
                last = variable * last
            yield last

    def differentiate(self, coefficients: Floats, variable: int) -> Floats:
        """Return the coefficients of a polynomial's derivative by one variable, in this basis.

        Parameters
        ----------
        coefficients : ndarray of shape (n_terms, n_targets)
        variable : int
        """
        terms = {row.tobytes(): term for term, row in enumerate(self.powers)}
        derivative = np.zeros_like(coefficients)
        differentiated = chebyshev.chebder if self.family == "chebyshev" else polynomial.polyder
        for exponent in range(1, self.degree + 1):
            of_exponent = np.flatnonzero(self.powers[:, variable] == exponent)
            for lower, factor in enumerate(differentiated(np.eye(exponent + 1)[exponent])):
                if factor and of_exponent.size:
                    lowered = self.powers[of_exponent]
                    lowered[:, variable] = lower
                    derivative[[terms[row.tobytes()] for row in lowered]] += factor * coefficients[of_exponent]
        return derivative

    def evaluate(self, variables: Array, out: Array | None = None) -> Array:
        """Evaluate all terms, one multiplication each.

        Parameters
        ----------
        variables : Tensor or ndarray of shape (n_variables, n_rows)
            What :meth:`Domain.scale` returns.
        out : of the same type, of shape (n_terms, n_rows), optional
            Where to write. Tensors without it are operated on differentiably.

        Returns
        -------
        Tensor or ndarray of shape (n_terms, n_rows)
        """
        xp: Any = torch if isinstance(variables, Tensor) else np
        is_chebyshev = self.family == "chebyshev"
        doubled = xp.add(variables, variables) if is_chebyshev else variables
        univariate: dict[tuple[int, int], Array] = {}
        constant = variables[:0].sum(0)[None] + 1.0
        levels, start = [constant], 1
        if out is not None:
            out[0] = 1.0
        for degree, level in enumerate(self._levels[1:], start=1):
            blocks, level_start = [], start
            for variable, exponent, count in level:
                target: Any = None if out is None else out[start : start + count]
                start += count
                if exponent < degree:
                    rest = levels[degree - exponent]
                    block = xp.multiply(rest[len(rest) - count :], univariate[variable, exponent], out=target)
                elif degree == 1:
                    block = variables[variable : variable + 1]
                    if target is not None:
                        target[:] = block
                    univariate[variable, 1] = block
                else:
                    factor = doubled[variable : variable + 1]
                    block = xp.multiply(factor, univariate[variable, degree - 1], out=target)
                    if is_chebyshev:
                        before = constant if degree == 2 else univariate[variable, degree - 2]
                        block = xp.subtract(block, before, out=target)
                    univariate[variable, degree] = block
                blocks.append(block)
            if out is not None:
                levels.append(out[level_start:start])
            elif blocks:
                levels.append(xp.concatenate(blocks))
        return xp.concatenate(levels) if out is None else out


def _multiply_add(total: Array, one: Array, other: Array, product: Array) -> None:
    """Add a product, written where a matrix of the same shape is at hand, which saves allocating it."""
    xp: Any = torch if isinstance(total, Tensor) else np
    xp.multiply(one, other, out=product)
    total += product


def _n_monomials(n_variables: int, degree: int) -> int:
    """Return the number of monomials of exactly one degree; one of degree 0 in no variables."""
    return math.comb(n_variables + degree - 1, degree) if n_variables else int(degree == 0)
