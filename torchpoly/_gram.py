"""What the squared loss needs to know of the rows, gathered in one pass.

For the squared loss the data enter only through the Gram matrix of ``[features, y]``. Features
exist for one chunk of rows at a time; Gram matrices of chunks add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

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
    def from_rows(cls, chunk: Array, n_terms: int, total_weight: float) -> GramStatistics:
        """Do the same for a single chunk."""
        return cls.from_chunks([chunk], n_terms, total_weight)

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
    def inverse_factor(self) -> tuple[Floats, float]:
        """The inverse of the Cholesky factor, and an upper bound of the condition number."""
        assert isinstance(self.features, np.ndarray)
        return _inverse_factor(self.features)

    def leading(self, n_terms: int) -> Floats:
        """Return the Gram matrix of the first terms."""
        if isinstance(self.features, GramFactor):
            rows = self.features.rows[:n_terms]
            return rows @ rows.T
        return self.features[:n_terms, :n_terms]

    def largest_eigenvalue(self) -> float:
        """Return the largest eigenvalue of the Gram matrix."""
        gram = self.features
        if isinstance(gram, GramFactor):
            gram = gram.rows.T @ gram.rows
        return float(np.linalg.eigvalsh(gram)[-1])


def _sum_of_products(chunks: Iterable[Array]) -> Floats:
    """Return the sum of ``chunk @ chunk.T``."""
    total: Any = 0.0
    for chunk in chunks:
        if isinstance(chunk, np.ndarray) and chunk.size * len(chunk) <= _SMALL_PRODUCT:
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
    small = chunk.shape[1] * len(chunk) ** 2 <= _SMALL_PRODUCT
    for rows in _slices(to_numpy(chunk), _SLICE_ELEMENTS // len(chunk) if small else chunk.shape[1]):
        residuals = rows[n_terms:].T - rows[:n_terms].T @ coefficients
        cross += rows[:n_terms] @ residuals
        squares += (residuals * residuals).sum(axis=0)
    return cross / total_weight, squares / total_weight


def _slices(chunk: Floats, size: int) -> Iterator[Floats]:
    """Yield `size` rows of data, columns of the chunk, at a time."""
    for start in range(0, chunk.shape[1], max(size, 1)):
        yield chunk[:, start : start + max(size, 1)]


def rounding_share(n_terms: int) -> float:
    """Return the share of the greatest eigenvalue below which rounding leaves no digits of others."""
    return 10 * n_terms * float(np.finfo(np.float64).eps)


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
        if not alpha:
            return _inverse_root(gram, *statistics.inverse_factor)
        penalised = _penalised(gram, alpha)
        return _inverse_root(penalised, *_inverse_factor(penalised))
    if not alpha:
        vectors, values, _ = np.linalg.svd(gram.rows, full_matrices=False)
        kept = values > rounding_share(len(gram.rows)) * values[0]
        return vectors[:, kept] / values[kept]
    span = _span(gram.rows)
    rows = span.T @ gram.rows
    penalised = _penalised(rows @ rows.T, alpha)
    return span @ _inverse_root(penalised, *_inverse_factor(penalised))


def _penalised(gram: Floats, alpha: float) -> Floats:
    """Return the Gram matrix with alpha added to its diagonal, except for the constant."""
    penalised = gram.copy()
    varying = np.arange(1, len(gram))
    penalised[varying, varying] += alpha
    return penalised


def _inverse_root(gram: Floats, inverse: Floats, condition: float) -> Floats:
    """Return T such that ``T.T @ gram @ T`` is the identity, from what :func:`_inverse_factor` knows."""
    if condition < 1 / rounding_share(len(gram)):
        return inverse.T
    eigenvalues, eigenvectors = np.linalg.eigh(gram)
    kept = eigenvalues > rounding_share(len(gram)) * eigenvalues[-1]
    return eigenvectors[:, kept] / np.sqrt(eigenvalues[kept])


def _inverse_factor(gram: Floats) -> tuple[Floats, float]:
    """Return the inverse of the Cholesky factor, and an upper bound of the condition number.

    The bound, trace(G) * trace(G^-1), is at most n_terms**2 times too large; it is infinite where
    the matrix is singular.
    """
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(gram))
    except np.linalg.LinAlgError:
        return gram, np.inf
    return inverse, float(np.trace(gram) * np.vdot(inverse, inverse))


def _span(rows: Floats) -> Floats:
    """Return orthonormal columns that span the constant, which comes first, and the rows' features."""
    span = np.zeros((len(rows), 1 + rows.shape[1]))
    span[0, 0] = 1.0
    span[1:, 1:] = np.linalg.qr(rows[1:])[0]
    return span
