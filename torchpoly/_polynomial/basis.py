"""The basis of the polynomials: products of Chebyshev polynomials of scaled columns, or of powers of raw columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.polynomial import chebyshev, polynomial
from numpy.typing import NDArray

from torchpoly._backend.device import namespace
from torchpoly._backend.rows import Array, Floats
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet, divisors


@dataclass(frozen=True)
class Basis:
    """Products of univariate polynomials over an index set, on a domain.

    Parameters
    ----------
    domain : Domain
        Maps X to the variables of the basis.
    indices : IndexSet
        The exponents of the terms.
    family : {"chebyshev", "power"}
        The univariate polynomials: Chebyshev polynomials of the first kind, or powers.
    """

    domain: Domain
    indices: IndexSet
    family: Literal["chebyshev", "power"] = "chebyshev"

    @classmethod
    def spanning(cls, box: Box, indices: IndexSet) -> Basis:
        """Return the Chebyshev products on the domain of a box, with caps for columns of few values."""
        domain = Domain.spanning(box)
        values = [known for known, varies in zip(box.values, domain.columns, strict=True) if varies]
        return cls(domain, indices.on_values(values))

    @classmethod
    def linear(cls, domain: Domain) -> Basis:
        """Return the basis of degree 1 on a domain: the constant and the variables."""
        return cls(domain, IndexSet(domain.n_variables, 1))

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the cached properties."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def of_variables(self, kept: NDArray[np.bool_]) -> Basis:
        """Return the basis in some of the variables."""
        domain = self.domain
        domain = Domain(domain.center, domain.half_width, domain.directions[:, kept], domain.shift[kept])
        return replace(self, domain=domain, indices=self.indices.of_variables(kept))

    def joined(self, other: Basis) -> Basis:
        """Return the basis in the variables of both, whose domains have the same columns."""
        parts = [one.domain for one in (self, other)]
        widths, rounding = None, None
        if self.domain.widths is not None:
            widths = np.r_[self.domain.widths, np.ones(other.domain.n_variables)]
            rounding = np.r_[self.domain.rounding, np.zeros(other.domain.n_variables)]
        axes = np.hstack([part.directions for part in parts])
        shift = np.concatenate([part.shift for part in parts])
        domain = replace(self.domain, axes=axes, shift=shift, widths=widths, rounding=rounding)
        return replace(self, domain=domain, indices=self.indices.joined(other.indices))

    @property
    def n_terms(self) -> int:
        return self.indices.n_terms

    @cached_property
    def norm_weights(self) -> Floats:
        """``k**3`` for each Chebyshev product of total degree k, of shape (n_terms,): the weights of the Sobolev norm.

        `alpha` penalizes this norm of the coefficients, and the least-norm solution minimizes it. Terms of a
        higher degree have larger weights, so they are used only where lower ones do not explain the rows. For
        powers the weights are 1, and 0 for the constant.
        """
        return self.weights_of_degrees[self.indices.degrees]

    @property
    def weights_of_degrees(self) -> Floats:
        """The weight in the norm for each total degree, of shape (n_degrees,)."""
        degrees = np.arange(self.indices.highest + 1.0)
        return degrees**3 if self.family == "chebyshev" else np.minimum(degrees, 1.0)

    def of_degree(self, degree: int) -> Basis:
        """Return the same basis up to another degree."""
        return replace(self, indices=self.indices.of_degree(degree))

    def leading(self, n_terms: int) -> Basis:
        """Return the basis of the lowest degree that contains the first terms."""
        return replace(self, indices=self.indices.leading(n_terms))

    def change_to(self, other: Basis, values: Sequence[Floats | None]) -> Floats:
        """Return the matrix of the change of basis: the terms of another basis as combinations of these terms.

        The variables of both domains are columns of X, and the other domain has all columns of this
        one. For each column, the other variable is ``a * u + b`` with this variable u. The Chebyshev
        polynomials of ``a * u + b`` are interpolated in those of u at the Chebyshev nodes, which is exact.
        For a column of few values the nodes are these values. Columns without a variable here are constant.

        Parameters
        ----------
        other : Basis
            Of the same degree, with the same caps or higher ones.
        values : list of (ndarray or None)
            The distinct values of each column of X at the rows; None for many values.

        Returns
        -------
        ndarray of shape (n_terms, n_other_terms)
            Column s holds the coefficients of term s of the other basis. The matrix is block upper
            triangular: each block belongs to two total degrees. Its leading blocks are those of lower degrees.
        """
        here, there = self.domain, other.domain
        varying = here.columns[there.columns]
        ours = np.zeros((self.n_terms, there.n_variables), dtype=np.int64)
        ours[:, varying] = self.indices.powers
        same_terms = varying.all() and self.indices == other.indices
        rows, columns = self.indices.own_divisors if same_terms else divisors(ours, other.indices.powers)
        factors = np.ones(len(rows))
        shared = np.flatnonzero(there.columns).tolist()
        for column, mine, exponents in zip(shared, ours.T, other.indices.powers.T, strict=True):
            offset = (here.center[column] - there.center[column]) / there.half_width[column]
            slope = here.half_width[column] / there.half_width[column] if here.columns[column] else 0.0
            known, highest = values[column] if here.columns[column] else None, int(exponents.max())
            if known is not None and len(known) <= highest:
                nodes = (known - here.center[column]) / here.half_width[column]
            else:
                nodes = chebyshev.chebpts1(highest + 1)
            at_nodes = chebyshev.chebvander(slope * nodes + offset, highest)
            # T_k of the other variable has degree k in this one. Entries below the diagonal are rounding.
            univariate = np.triu(np.linalg.solve(chebyshev.chebvander(nodes, len(nodes) - 1), at_nodes))
            factors *= univariate[mine[rows], exponents[columns]]
        change = np.zeros((self.n_terms, other.n_terms))
        change[rows, columns] = factors
        return change

    def kernel(self, variables: Array, others: Array, weights: Floats | None = None) -> Array:
        """Return the kernel matrix ``F(variables).T @ diag(weights) @ F(others)`` without the features F.

        A recurrence adds one variable at a time. The sum over the terms of total degree m gains the
        terms in which this variable has the exponent j: the sum of degree m - j so far, times the
        univariate polynomials of degree j at both rows. This takes ``n_variables * degree**2 / 2``
        operations for each pair of rows, for any number of terms.

        Parameters
        ----------
        variables : Tensor or ndarray of shape (n_variables, n_rows)
            As :meth:`Domain.scale` returns them.
        others : of the same type, of shape (n_variables, n_others)
        weights : ndarray of shape (n_degrees,), optional
            Weights of the terms of each total degree; 1 if not given.

        Returns
        -------
        Tensor or ndarray of shape (n_rows, n_others)
        """
        xp = namespace(variables)
        by_total_degree = np.ones(self.indices.highest + 1) if weights is None else weights
        greatest = self.indices.greatest_exponents
        zero = variables[:0].T @ others[:0]
        by_degree = [zero + 1.0]
        product = zero + 0.0
        for variable, other, highest in zip(variables[:-1], others[:-1], greatest[:-1], strict=True):
            by_degree += [zero + 0.0 for _ in range(self.indices.highest + 1 - len(by_degree))]
            pairs = zip(self._univariate(variable, highest), self._univariate(other, highest), strict=True)
            factors = [xp.outer(mine, theirs) for mine, theirs in pairs]
            for degree in range(self.indices.highest, 0, -1):
                for exponent in range(1, min(degree, highest) + 1):
                    _multiply_add(by_degree[degree], by_degree[degree - exponent], factors[exponent], product)

        def up_to(degree: int, exponent: int) -> Array:
            """Return the weighted sum over terms of all variables but the last, up to a total degree."""
            weighted = zip(by_total_degree[exponent:], by_degree[: degree + 1], strict=False)
            return sum((float(weight) * kernel for weight, kernel in weighted if weight), start=zero)

        # The exponent j of the last variable occurs with all terms of the other variables up to degree k - j.
        total = up_to(self.indices.highest, 0) + 0.0
        if not len(variables):
            return total
        pairs = zip(*(self._univariate(one[-1], greatest[-1]) for one in (variables, others)), strict=True)
        for exponent, (mine, theirs) in enumerate(pairs):
            if exponent:
                _multiply_add(total, up_to(self.indices.highest - exponent, exponent), xp.outer(mine, theirs), product)
        return total

    def _univariate(self, variable: Array, highest: int) -> Iterator[Array]:
        """Yield the univariate polynomials of degrees 0 to `highest` at the values of one variable."""
        before, last = variable, variable * 0.0 + 1.0
        yield last
        for _ in range(highest):
            if self.family == "chebyshev":
                # The three-term recurrence starts with T_(-1) = T_1.
                before, last = last, (2.0 * variable * last - before)
            else:
                last = variable * last
            yield last

    def differentiate(self, coefficients: Floats, variable: int) -> Floats:
        """Return the coefficients, in this basis, of the derivative of a polynomial by one variable.

        Parameters
        ----------
        coefficients : ndarray of shape (n_terms, n_targets)
        variable : int
        """
        terms = {row.tobytes(): term for term, row in enumerate(self.indices.powers)}
        derivative = np.zeros_like(coefficients)
        differentiated = chebyshev.chebder if self.family == "chebyshev" else polynomial.polyder
        for exponent in range(1, self.indices.greatest_exponents[variable] + 1):
            of_exponent = np.flatnonzero(self.indices.powers[:, variable] == exponent)
            for lower, factor in enumerate(differentiated(np.eye(exponent + 1)[exponent])):
                if factor and of_exponent.size:
                    lowered = self.indices.powers[of_exponent]
                    lowered[:, variable] = lower
                    derivative[[terms[row.tobytes()] for row in lowered]] += factor * coefficients[of_exponent]
        return derivative

    def evaluate(self, variables: Array, out: Array | None = None) -> Array:
        """Evaluate all terms, with one multiplication for each term.

        Parameters
        ----------
        variables : Tensor or ndarray of shape (n_variables, n_rows)
            As :meth:`Domain.scale` returns them.
        out : of the same type, of shape (n_terms, n_rows), optional
            Where to write the values. Without it, torch can differentiate the result.

        Returns
        -------
        Tensor or ndarray of shape (n_terms, n_rows)
        """
        xp = namespace(variables)
        is_chebyshev = self.family == "chebyshev"
        doubled = xp.add(variables, variables) if is_chebyshev else variables
        univariate: dict[tuple[int, int], Array] = {}
        constant = variables[:0].sum(0)[None] + 1.0
        levels, start = [constant], 1
        if out is not None:
            out[0] = 1.0
        for degree, level in enumerate(self.indices.levels[1:], start=1):
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
    """Add ``one * other`` to `total` in place; `product` is a buffer of the same shape."""
    xp = namespace(total)
    xp.multiply(one, other, out=product)
    total += product
