"""Index sets: the exponents of the terms of a polynomial.

The terms have the order of ``sklearn.preprocessing.PolynomialFeatures``, with the constant first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats

# The cap of a variable without a cap.
NO_CAP = sys.maxsize


class Block(NamedTuple):
    """Consecutive terms of one total degree with the same first variable and the same exponent of it.

    They are the polynomial of degree `exponent` in that variable, times the last `n_terms` terms of total
    degree ``degree - exponent``: those in later variables only.
    """

    variable: int
    exponent: int
    n_terms: int


@dataclass(frozen=True)
class IndexSet:
    """The exponents of all terms up to a total degree whose exponents are within caps.

    The set is closed under divisors: it contains all divisors of each of its terms.

    Parameters
    ----------
    n_variables : int
    degree : int
        Greatest total degree.
    interaction_only : bool
        Only products of distinct variables.
    caps : tuple of int or None
        Greatest exponent of each variable, `NO_CAP` for a variable without a cap; None stands for no caps.
    """

    parameters: ClassVar[tuple[str, ...]] = ("degree", "interaction_only")
    """Parameters of the estimator that the constructor takes by name."""

    n_variables: int
    degree: int
    interaction_only: bool = False
    caps: tuple[int, ...] | None = None

    def on_values(self, values: Sequence[Floats | None]) -> IndexSet:
        """Return the index set with the caps of variables of few values; None stands for many values.

        On m values, each power from m on equals a combination of lower powers, so the cap is m - 1.
        """
        known_caps = tuple(NO_CAP if known is None else len(known) - 1 for known in values)
        caps = known_caps if not self.interaction_only and min(known_caps, default=NO_CAP) < NO_CAP else None
        if (len(values), caps) == (self.n_variables, self.caps):
            return self
        return replace(self, n_variables=len(values), caps=caps)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the cached properties."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def n_terms(self) -> int:
        """The number of terms with the constant, computed without a list of the terms.

        It is ``comb(n_variables + degree, degree)`` without caps, and the sum of ``comb(n_variables, k)``
        over k <= `degree` for products of distinct variables.
        """
        if self.interaction_only:
            return sum(math.comb(self.n_variables, k) for k in range(self.highest + 1))
        caps = [cap for cap in self.caps or () if cap < self.degree]
        # The number of products of capped variables of each degree: the coefficients of prod(1 + z + ... + z**cap).
        n_capped = [1]
        for cap in caps:
            cumulated = [0, *accumulate(n_capped + [0] * min(cap, self.degree + 1 - len(n_capped)))]
            n_capped = [cumulated[k + 1] - cumulated[max(0, k - cap)] for k in range(len(cumulated) - 1)]
        n_others = self.n_variables - len(caps)
        return sum(count * math.comb(n_others + self.degree - k, n_others) for k, count in enumerate(n_capped))

    def of_degree(self, degree: int) -> IndexSet:
        """Return the index set with another degree."""
        return self if degree == self.degree else replace(self, degree=degree)

    def leading(self, n_terms: int) -> IndexSet:
        """Return the index set of the lowest degree that contains the first terms."""
        return self.of_degree(int(self.degrees[n_terms - 1]))

    def of_columns(self, n_columns: int) -> IndexSet:
        """Return the index set of the same degree for this number of variables, without caps."""
        return replace(self, n_variables=n_columns, caps=None)

    def of_variables(self, kept: NDArray[np.bool_]) -> IndexSet:
        """Return the terms in some of the variables."""
        caps = None if self.caps is None else tuple(np.array(self.caps)[kept].tolist())
        return replace(self, n_variables=int(np.count_nonzero(kept)), caps=caps)

    def joined(self, other: IndexSet) -> IndexSet:
        """Return the terms in the variables of both."""
        caps = [cap for one in (self, other) for cap in one.caps or (NO_CAP,) * one.n_variables]
        return replace(self, n_variables=len(caps), caps=tuple(caps) if min(caps) < NO_CAP else None)

    @cached_property
    def is_capped(self) -> NDArray[np.bool_]:
        """Whether each variable has a cap."""
        return np.array(self.caps or [NO_CAP] * self.n_variables) < NO_CAP

    @cached_property
    def greatest_exponents(self) -> list[int]:
        """The greatest exponent of each variable, by its cap and by the degree."""
        if self.interaction_only:
            return [min(1, self.degree)] * self.n_variables
        return [min(cap, self.degree) for cap in self.caps or [self.degree] * self.n_variables]

    @property
    def highest(self) -> int:
        """The greatest total degree of the terms, which caps may make lower than `degree`."""
        return min(self.degree, sum(self.greatest_exponents))

    @cached_property
    def degrees(self) -> NDArray[np.int64]:
        """Total degree of each term, of shape (n_terms,)."""
        sizes = [1, *(sum(block.n_terms for block in level) for level in self.levels[1:])]
        return np.repeat(np.arange(len(sizes)), sizes)

    @cached_property
    def levels(self) -> list[list[Block]]:
        """The blocks of each total degree from 0 on, in the order of their terms."""
        greatest = self.greatest_exponents
        counts = self._counts_of_later
        levels: list[list[Block]] = [[]]
        for degree in range(1, self.highest + 1):
            level = []
            for variable, highest in enumerate(greatest):
                later = counts[variable + 1]
                # The last variable has the whole degree, since there is no later one.
                least = 1 if variable + 1 < len(greatest) else degree
                for exponent in range(min(degree, highest), least - 1, -1):
                    count = later[degree - exponent]
                    if count:
                        level.append(Block(variable, exponent, count))
            levels.append(level)
        return levels

    @property
    def _counts_of_later(self) -> list[list[int]]:
        """For each variable, the number of terms of each total degree in this and later variables."""
        counts = [[1] + [0] * self.highest]
        for highest in reversed(self.greatest_exponents):
            cumulated = [0, *accumulate(counts[-1])]
            counts.append([cumulated[k + 1] - cumulated[max(0, k - highest)] for k in range(len(counts[0]))])
        return counts[::-1]

    @cached_property
    def powers(self) -> NDArray[np.int64]:
        """Exponent of each variable in each term, of shape (n_terms, n_variables)."""
        levels = [np.zeros((1, self.n_variables), dtype=np.int64)]
        for degree, level in enumerate(self.levels[1:], start=1):
            blocks = []
            for variable, exponent, count in level:
                rest = levels[degree - exponent]
                block = rest[len(rest) - count :].copy()
                block[:, variable] = exponent
                blocks.append(block)
            levels.append(np.concatenate(blocks) if blocks else levels[0][:0])
        return np.concatenate(levels)

    @cached_property
    def own_divisors(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The pairs of terms in which the first one divides the second one, as two arrays of indices."""
        return divisors(self.powers, self.powers)


def divisors(powers: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of a term and a multiple of it among the others, as two arrays of indices."""
    divides = np.ones((len(powers), len(others)), dtype=bool)
    for exponents, other_exponents in zip(powers.T, others.T, strict=True):
        divides &= exponents[:, None] <= other_exponents
    rows, columns = np.nonzero(divides)
    return rows, columns
