"""What the squared loss needs to know of the rows, gathered in one pass.

For the squared loss the data enter only through the Gram matrix of ``[features, y]``. Features
exist for one chunk of rows at a time; Gram matrices of chunks add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from torchpoly._basis import Array, Floats
from torchpoly._device import to_numpy

# Products with at most so many multiplications run in slices of rows that OpenBLAS does not share
# among threads: for so little work, waking its pool costs more than it gains, up to 25 ms after
# another library has used its own.
_SMALL_PRODUCT = 2**22
_SLICE_PRODUCT = 2**17  # multiplications of a matrix product
_SLICE_ELEMENTS = 9000  # elements of the matrix in a product with a vector


@dataclass(frozen=True)
class GramFactor:
    """The Gram matrix ``rows @ rows.T`` of more terms than rows, which is larger than its factor.

    Parameters
    ----------
    rows : ndarray of shape (n_terms, n_rows)
        Features times the root of their row's share in the total weight.
    """

    rows: Floats

    def __matmul__(self, other: Floats) -> Floats:
        return self.rows @ (self.rows.T @ other)


@dataclass(frozen=True)
class GramStatistics:
    """Weighted mean products of the features and targets.

    Parameters
    ----------
    features : ndarray of shape (n_terms, n_terms) or GramFactor
        Mean of ``w f f'``: the Gram matrix.
    cross : ndarray of shape (n_terms, n_targets)
        Mean of ``w f y'``.
    target : ndarray of shape (n_targets,)
        Mean of ``w y**2``.
    total_weight : float
        Sum of the weights, that of the rows where there are none.
    """

    features: Floats | GramFactor
    cross: Floats
    target: Floats
    total_weight: float

    @classmethod
    def from_chunks(cls, chunks: Iterable[Array], n_terms: int, total_weight: float) -> GramStatistics:
        """Add up the products of all rows of `chunks` and divide by their total weight."""
        gram = _sum_of_products(chunks) / total_weight
        target = np.diagonal(gram)[n_terms:].copy()
        return cls(gram[:n_terms, :n_terms], gram[:n_terms, n_terms:], target, total_weight)

    @classmethod
    def of_union(cls, parts: Sequence[GramStatistics], counts: Sequence[int]) -> GramStatistics:
        """Return the statistics of all rows of the parts, each part counted so many times."""
        weights = [count * part.total_weight for part, count in zip(parts, counts, strict=True)]
        total_weight = sum(weights)

        def mean(name: str) -> Floats:
            used = [(getattr(part, name), weight) for part, weight in zip(parts, weights, strict=True) if weight]
            return sum(values * (weight / total_weight) for values, weight in used)

        return cls(mean("features"), mean("cross"), mean("target"), total_weight)

    @classmethod
    def from_few_rows(cls, chunk: Array, n_terms: int, total_weight: float) -> GramStatistics:
        """Keep the rows themselves, fewer than terms, in place of the Gram matrix."""
        rows = to_numpy(chunk) / np.sqrt(total_weight)
        features, target = rows[:n_terms], rows[n_terms:]
        return cls(GramFactor(features), features @ target.T, (target * target).sum(axis=1), total_weight)

    def is_finite(self) -> bool:
        """Whether no feature was too large for the products."""
        features = self.features.rows if isinstance(self.features, GramFactor) else self.features
        return bool(np.isfinite(features).all() and np.isfinite(self.cross).all())

    @cached_property
    def roots(self) -> InverseRoots:
        """The inverse roots of the Gram matrix, where that is formed."""
        return InverseRoots(cast(Floats, self.features))

    def of_lower_degree(self, n_terms: int) -> GramStatistics:
        """Return the statistics of the first terms."""
        return replace(self, features=self.leading(n_terms), cross=self.cross[:n_terms])

    def leading(self, n_terms: int) -> Floats:
        """Return the Gram matrix of the first terms."""
        if isinstance(self.features, GramFactor):
            rows = self.features.rows[:n_terms]
            return rows @ rows.T
        return self.features[:n_terms, :n_terms]


def largest_eigenvalue(gram: Floats | GramFactor) -> float:
    """Return the largest eigenvalue of a Gram matrix."""
    if isinstance(gram, GramFactor):
        gram = gram.rows.T @ gram.rows
    return float(np.linalg.eigvalsh(gram)[-1])


def _sum_of_products(chunks: Iterable[Array]) -> Floats:
    """Return the sum of ``chunk @ chunk.T``."""
    total: Any = 0.0
    for chunk in chunks:
        if isinstance(chunk, np.ndarray):
            for rows in _slices(chunk, _SLICE_PRODUCT // len(chunk) ** 2):
                total += rows @ rows.T
        else:
            total += chunk @ chunk.T
    return to_numpy(total)


def residual_products(chunk: Array, coefficients: Floats, total_weight: float) -> tuple[Floats, Floats]:
    """Return the mean products of residuals with features, and the residuals' mean squares.

    Taken from the rows themselves, these keep the digits that differences of Gram matrices lose.

    Parameters
    ----------
    chunk : ndarray or Tensor of shape (n_terms + n_targets, n_rows)
        As :func:`design_chunks` yields it.
    coefficients : ndarray of shape (n_terms, n_targets)
        Of the polynomial that is subtracted from the targets.
    total_weight : float
        Sum of the weights of the rows.

    Returns
    -------
    cross : ndarray of shape (n_terms, n_targets)
    squares : ndarray of shape (n_targets,)
    """
    n_terms = len(coefficients)
    cross, squares = np.zeros(coefficients.shape), np.zeros(coefficients.shape[1])
    for rows in _slices(to_numpy(chunk), _SLICE_ELEMENTS // len(chunk)):
        residuals = rows[n_terms:].T - rows[:n_terms].T @ coefficients
        cross += rows[:n_terms] @ residuals
        squares += (residuals * residuals).sum(axis=0)
    return cross / total_weight, squares / total_weight


def _slices(chunk: Floats, size: int) -> Iterator[Floats]:
    """Yield `size` rows of data, columns of the chunk, at a time; all of them where work is not small."""
    size = max(size, 1) if chunk.size * len(chunk) <= _SMALL_PRODUCT else chunk.shape[1]
    for start in range(0, chunk.shape[1], size):
        yield chunk[:, start : start + size]


def _rounding_share(n_terms: int) -> float:
    """Return the share of the greatest eigenvalue below which rounding leaves no digits of others."""
    return 10 * n_terms * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class InverseRoots:
    """The matrices T for which ``T.T @ gram @ T`` is the identity, or nearly so.

    Parameters
    ----------
    gram : ndarray of shape (n_terms, n_terms)
        Symmetric, without negative eigenvalues but for rounding.
    """

    gram: Floats

    @cached_property
    def _inverse_factor(self) -> Floats | None:
        """The inverse of the Cholesky factor, None where there is none."""
        try:
            return np.linalg.inv(np.linalg.cholesky(self.gram))
        except np.linalg.LinAlgError:
            return None

    @cached_property
    def condition(self) -> float:
        """An upper bound of the condition number: trace(G) * trace(G^-1), at most n_terms**2 times too large."""
        inverse = self._inverse_factor
        return np.inf if inverse is None else float(np.trace(self.gram) * np.vdot(inverse, inverse))

    @cached_property
    def eigensystem(self) -> tuple[Floats, Floats]:
        """The eigenvalues, rising, and the eigenvectors."""
        values, vectors = np.linalg.eigh(self.gram)
        return values, vectors

    @property
    def rounding(self) -> float:
        """The eigenvalue below which there is only rounding."""
        return _rounding_share(len(self.gram)) * float(self.eigensystem[0][-1])

    @property
    def best(self) -> Floats:
        """The triangular one, or where the matrix is singular to working precision the truncated one."""
        return self.truncated if self._triangular is None else self._triangular

    @property
    def complete(self) -> Floats:
        """The triangular one, or where the matrix is singular to working precision the raised one."""
        return self.raised if self._triangular is None else self._triangular

    @property
    def _triangular(self) -> Floats | None:
        """The transposed inverse of the Cholesky factor, None where rounding leaves it no digits."""
        inverse = self._inverse_factor
        return None if inverse is None or self.condition >= 1 / _rounding_share(len(self.gram)) else inverse.T

    @property
    def truncated(self) -> Floats:
        """Eigenvectors over the roots of their eigenvalues, without those of rounding."""
        values, vectors = self.eigensystem
        kept = values > self.rounding
        return vectors[:, kept] / np.sqrt(values[kept])

    @property
    def raised(self) -> Floats:
        """Eigenvectors over the roots of their eigenvalues, those of rounding raised to it."""
        values, vectors = self.eigensystem
        return vectors / np.sqrt(np.maximum(values, self.rounding))

    @property
    def null(self) -> Floats:
        """The eigenvectors whose eigenvalues are rounding."""
        values, vectors = self.eigensystem
        return vectors[:, values <= self.rounding]


def orthonormal_coordinates(statistics: GramStatistics, alpha: float) -> Floats:
    """Return T such that ``T.T @ (gram + alpha * P) @ T`` is the identity.

    P is the identity but for the constant, which is not penalised. Without alpha, ``T.T @ f`` are
    features that are orthonormal under the data. T is the inverse of the transposed Cholesky
    factor, which gives the Forsythe polynomials: each the next term made orthogonal to those
    before. Where the matrix is singular to working precision, T comes of its eigenvectors,
    without the null directions; the coefficients ``T @ parameters`` are then the ones of least
    norm. With fewer rows than terms, T comes of the rows' singular value decomposition, or with a
    penalty, all of that happens in the span of the rows and the constant, which holds the optimum.

    Parameters
    ----------
    statistics : GramStatistics
    alpha : float
        Weight of the L2 penalty.

    Returns
    -------
    ndarray of shape (n_terms, rank)
    """
    gram = statistics.features
    if isinstance(gram, np.ndarray):
        return InverseRoots(penalised(gram, alpha)).best if alpha else statistics.roots.best
    if not alpha:
        vectors, values, _ = np.linalg.svd(gram.rows, full_matrices=False)
        kept = values > _rounding_share(len(gram.rows)) * values[0]
        return vectors[:, kept] / values[kept]
    span = _span(gram.rows)
    rows = span.T @ gram.rows
    return span @ InverseRoots(penalised(rows @ rows.T, alpha)).best


def least_squares_path(
    statistics: GramStatistics, alphas: Sequence[float], sizes: Sequence[int], max_condition: float
) -> tuple[Floats, int]:
    """Return the least squares of all penalties and numbers of terms.

    The Cholesky factor of a leading block is the leading block of the factor, so each penalty has
    one factor for all.

    Parameters
    ----------
    statistics : GramStatistics
        With a Gram matrix.
    alphas : list of float
    sizes : list of int
        Numbers of terms, rising.
    max_condition : float
        Larger blocks whose condition number is beyond this are left out.

    Returns
    -------
    coefficients : ndarray of shape (n_terms, n_alphas, n_sizes, n_targets)
        0 for the terms that are not among the first so many.
    n_sizes : int
        How many sizes there are left.
    """
    cross = torch.from_numpy(statistics.cross)
    least = int(np.argmin(alphas))
    n_sizes = len(sizes)
    while n_sizes:
        n_terms = sizes[n_sizes - 1]
        grams = np.stack([penalised(statistics.leading(n_terms), alpha) for alpha in alphas])
        factors, failures = torch.linalg.cholesky_ex(torch.from_numpy(grams))
        if not failures.any():
            identity = torch.from_numpy(np.eye(n_terms))
            inverse = torch.linalg.solve_triangular(factors[least], identity, upper=False).numpy()
            # trace(G) * trace(G^-1) of each leading block, as in InverseRoots.
            conditions = np.cumsum(np.diagonal(grams[least])) * np.cumsum(np.square(inverse).sum(axis=1))
            fitting = sum(conditions[size - 1] < max_condition for size in sizes[:n_sizes])
            if fitting == n_sizes:
                break
            n_sizes = fitting
        else:
            n_sizes -= 1
    else:
        return np.zeros((0, len(alphas), 0, cross.shape[1])), 0
    rotated = torch.linalg.solve_triangular(factors, cross[:n_terms].expand(len(alphas), -1, -1), upper=False)
    first = torch.from_numpy(np.arange(n_terms)[:, None] < np.array(sizes[:n_sizes]))
    parts = (rotated[:, :, None] * first[:, :, None]).flatten(2)
    coefficients = torch.linalg.solve_triangular(factors.mT, parts, upper=True)
    return coefficients.unflatten(2, (n_sizes, -1)).transpose(0, 1).numpy(), n_sizes


def penalised(gram: Floats, alpha: float) -> Floats:
    """Return the Gram matrix with alpha added to its diagonal, except for the constant."""
    penalised = gram.copy()
    varying = np.arange(1, len(gram))
    penalised[varying, varying] += alpha
    return penalised


def _span(rows: Floats) -> Floats:
    """Return orthonormal columns that span the constant, which comes first, and the rows' features."""
    span = np.zeros((len(rows), 1 + rows.shape[1]))
    span[0, 0] = 1.0
    span[1:, 1:] = np.linalg.qr(rows[1:])[0]
    return span
