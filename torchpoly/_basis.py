"""Scaled products of Chebyshev polynomials, or raw powers, ordered by total degree.

Knows where the columns of X lie (:class:`Domain`) and which products of univariate polynomials
make up the features (:class:`Basis`). Terms are ordered as
``sklearn.preprocessing.PolynomialFeatures`` orders them, the constant first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.polynomial import chebyshev, polynomial
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
# Features are computed by NumPy on the CPU, by torch on other devices and in modules.
Array = Floats | Tensor

# Rows read at a time where only a few numbers per row are touched.
_SCAN_ROWS = 8192


def row_chunks(n_rows: int, size: int, weights: Floats | None = None) -> Iterator[slice | NDArray[np.intp]]:
    """Yield indices of at most `size` consecutive rows, without those of weight 0."""
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        if weights is None or weights[rows].all():
            yield rows
        else:
            kept = start + np.flatnonzero(weights[rows])
            if kept.size:
                yield kept


def count_rows(X: NDArray, weights: Floats | None) -> int:
    """Return the number of rows of positive weight."""
    return len(X) if weights is None else int(np.count_nonzero(weights))


def sum_weights(X: NDArray, weights: Floats | None) -> float:
    """Return the sum of the weights, the number of rows where there are none."""
    return float(len(X) if weights is None else weights.sum())


def count_terms(n_features: int, degree: int, interaction_only: bool = False) -> int:
    """Return the number of polynomial terms, the constant included.

    That is ``comb(n_features + degree, degree)`` for all products of total degree at most
    `degree`, and the sum of ``comb(n_features, k)`` over k <= `degree` for distinct factors.
    """
    if interaction_only:
        return sum(math.comb(n_features, k) for k in range(min(degree, n_features) + 1))
    return math.comb(n_features + degree, degree)


@dataclass(frozen=True)
class Domain:
    """The affine map from the columns of X to the window [-1, 1] of the basis.

    Column i becomes ``v_i = (x_i - center_i) / half_width_i``. Where `axes` is given, the
    variables of the basis are ``u = v @ axes - shift``: a selection of columns that vary, or
    the principal axes of columns that nearly coincide.

    Parameters
    ----------
    center, half_width : ndarray of shape (n_features,)
        Middle and half of the range of each column, in the units of X. Columns that do not vary
        have a half width of 1.
    axes : ndarray of shape (n_features, n_variables) or None
        Columns are the directions of the basis variables; None stands for the identity.
    shift : ndarray of shape (n_variables,)
        What is subtracted after the change of axes.
    """

    center: Floats
    half_width: Floats
    axes: Floats | None
    shift: Floats

    @classmethod
    def identity(cls, n_features: int) -> Domain:
        """Return the domain that leaves X as it is."""
        return cls(np.zeros(n_features), np.ones(n_features), None, np.zeros(n_features))

    @classmethod
    def spanning(cls, low: Floats, high: Floats) -> Domain:
        """Map the range of each column to [-1, 1].

        Columns that do not vary carry no information and get no variable.
        """
        center, half_width = _window(low, high)
        varies = half_width > 0
        axes = None if varies.all() else np.eye(len(low))[:, varies]
        return cls(center, np.where(varies, half_width, 1.0), axes, np.zeros(np.count_nonzero(varies)))

    @classmethod
    def standardizing(cls, Y: NDArray, weights: Floats | None = None) -> Domain:
        """Map each column of Y to weighted mean 0 and variance 1; one that does not vary to 0."""
        windows = cls._windows(Y, weights)
        mean, square = np.zeros((2, Y.shape[1]))
        for rows in row_chunks(len(Y), _SCAN_ROWS, weights):
            scaled = windows.scale(Y[rows])
            weighted = scaled if weights is None else scaled * weights[rows]
            mean += weighted.sum(axis=1)
            square += (weighted * scaled).sum(axis=1)
        total_weight = sum_weights(Y, weights)
        mean /= total_weight
        # On the window [-1, 1], squares neither overflow nor vanish, and since both ends are
        # attained, the variance is at least about 2 / n: the difference keeps its digits.
        variance = square / total_weight - mean * mean
        spread = np.where(variance > 0, np.sqrt(np.abs(variance)), 1.0)
        center = windows.center + windows.half_width * mean
        return cls(center, windows.half_width * spread, None, windows.shift)

    @classmethod
    def centering(cls, Y: NDArray, weights: Floats | None = None) -> Domain:
        """Map the median of each column of Y to 0, and to 1 how far from it values typically are.

        Outliers move neither.
        """
        windows = cls._windows(Y, weights)
        kept = slice(None) if weights is None else np.flatnonzero(weights)
        scaled = windows.scale(Y[kept])
        shares = np.ones(scaled.shape[1]) if weights is None else weights[kept]
        middle = np.array([weighted_median(row, shares) for row in scaled])
        spread = np.array([typical_size(row, shares) for row in scaled - middle[:, None]])
        center = windows.center + windows.half_width * middle
        return cls(center, windows.half_width * np.where(spread > 0, spread, 1.0), None, windows.shift)

    @classmethod
    def _windows(cls, Y: NDArray, weights: Floats | None) -> Domain:
        """Map the range of each column of Y to [-1, 1], or to 0."""
        center, half_width = _window(*column_ranges(Y, weights))
        return cls(center, np.where(half_width > 0, half_width, 1.0), None, np.zeros(Y.shape[1]))

    @property
    def n_variables(self) -> int:
        return len(self.shift)

    @property
    def columns(self) -> NDArray[np.bool_]:
        """Which columns of X have a variable, where there are no other axes than these."""
        return np.ones(len(self.center), dtype=bool) if self.axes is None else np.asarray(self.axes.any(axis=1))

    def covers_like(self, other: Domain) -> bool:
        """Whether another domain of the same columns, without axes of its own, has the same windows."""
        pairs = [(self.center, other.center), (self.half_width, other.half_width), (self.columns, other.columns)]
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def repeated(self, times: int) -> Domain:
        """Return the domain of so many copies of the columns, side by side."""
        center, half_width, shift = (np.tile(values, times) for values in (self.center, self.half_width, self.shift))
        return Domain(center, half_width, None, shift)

    def scale(self, X: NDArray) -> Floats:
        """Return the basis variables of the rows of X, of shape (n_variables, n_rows)."""
        scaled = np.empty((X.shape[1], X.shape[0]))
        np.subtract(X.T, self.center[:, None], out=scaled)
        np.divide(scaled, self.half_width[:, None], out=scaled)
        if self.axes is None:
            return scaled
        return self.axes.T @ scaled - self.shift[:, None]

    def scale_steps(self, steps: NDArray) -> Floats:
        """Return how far steps in X lead in the basis variables, of shape (n_variables, n_rows)."""
        scaled = steps.T / self.half_width[:, None]
        return scaled if self.axes is None else self.axes.T @ scaled

    def ranges(self, X: NDArray, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the least and the greatest value of each variable over the rows of X of positive weight."""
        return _row_ranges(self.scale(X[rows]) for rows in row_chunks(len(X), _SCAN_ROWS, weights))

    def to_principal_axes(
        self, covariance: Floats, ranges: Callable[[Domain], tuple[Floats, Floats]], precision: float
    ) -> Domain:
        """Return the domain whose variables are the principal axes of this one's.

        Polynomials of total degree at most k stay what they are under an invertible linear map
        of their variables, so the model is the same; but columns that nearly coincide are
        told apart by a variable of its own, scaled to [-1, 1] like every other.

        Parameters
        ----------
        covariance : ndarray of shape (n_variables, n_variables)
            Covariance of this domain's variables.
        ranges : callable
            Returns the least and greatest values that the rows take in the variables of a domain.
        precision : float
            How far the values of the rows are rounded, relatively.
        """
        directions = np.linalg.eigh(covariance)[1][:, ::-1]
        axes = directions if self.axes is None else self.axes @ directions
        rotated = Domain(self.center, self.half_width, axes, self.shift @ directions)
        low, high = ranges(rotated)
        half_width = high / 2 - low / 2
        # Directions along which the rows differ by no more than X was rounded hold no information.
        used = slice(None) if self.axes is None else self.axes.any(axis=1)
        rounding = precision * (1 + np.max(np.abs(self.center / self.half_width)[used]))
        kept = half_width > 8 * math.sqrt(len(directions)) * rounding
        half_width, middle = half_width[kept], (low / 2 + high / 2 + rotated.shift)[kept]
        return Domain(self.center, self.half_width, axes[:, kept] / half_width, middle / half_width)


def column_ranges(X: NDArray, weights: Floats | None) -> tuple[Floats, Floats]:
    """Return the least and the greatest value of each column, over rows of positive weight."""
    return _row_ranges(X.T[:, rows] for rows in row_chunks(len(X), _SCAN_ROWS, weights))


def _window(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return the middle and half of each range."""
    # Halved before they are added, so that ranges near the largest float do not overflow.
    return low / 2 + high / 2, high / 2 - low / 2


def weighted_median(values: Floats, weights: Floats) -> float:
    """Return the least value up to which the values hold half of the weight."""
    # Rounding decides no tie: k copies of a value are the same as weight k.
    half = 0.5 * (1 - 1e-9)
    if weights.min() == weights.max():
        rank = math.ceil(half * len(values)) - 1
        return float(np.partition(values, rank)[rank])
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(cumulated, half * cumulated[-1])]])


def typical_size(values: Floats, weights: Floats) -> float:
    """Return the weighted median of the absolute values, or where that is 0, their mean."""
    sizes = np.abs(values)
    return weighted_median(sizes, weights) or float(sizes @ weights / weights.sum())


def _row_ranges(chunks: Iterator[NDArray]) -> tuple[Floats, Floats]:
    """Return the least and the greatest value of each row over chunks of shape (n_variables, n_rows)."""
    low: Any = np.inf
    high: Any = -np.inf
    for chunk in chunks:
        contiguous = np.ascontiguousarray(chunk)
        low = np.minimum(low, contiguous.min(axis=1))
        high = np.maximum(high, contiguous.max(axis=1))
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


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
                for exponent in [1] if interaction_only else range(degree, 0, -1):
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


def _n_monomials(n_variables: int, degree: int) -> int:
    """Return the number of monomials of exactly one degree; one of degree 0 in no variables."""
    return math.comb(n_variables + degree - 1, degree) if n_variables else int(degree == 0)
