"""What the squared loss needs to know of the rows, gathered in one pass.

For the squared loss the data enter only through the Gram matrix of ``[features, y]``. Features
exist for one chunk of rows at a time; Gram matrices of chunks add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpoly._basis import Array, Basis, Domain, Floats, row_chunks

# A chunk of features takes 8 MiB, about what stays in cache between its evaluation and its
# product, unless terms are so many that a chunk would have few rows.
_CHUNK_ELEMENTS = 2**20
_MIN_ROWS, _MAX_ROWS = 256, 2**14
# Products with at most so many multiplications run in slices of rows that OpenBLAS does not share
# among threads: for so little work, waking its pool costs more than it gains, up to 25 ms after
# another library has used its own.
_SMALL_PRODUCT = 2**22
_SLICE_PRODUCT = 2**17  # multiplications of a matrix product
_SLICE_ELEMENTS = 9000  # elements of the matrix in a product with a vector


def chunk_size(n_columns: int) -> int:
    """Return how many rows of so many features are worked on at a time."""
    return max(_MIN_ROWS, min(_MAX_ROWS, _CHUNK_ELEMENTS // n_columns))


def design_chunks(
    basis: Basis,
    targets: Domain,
    X: NDArray,
    Y: NDArray,
    weights: Floats | None,
    device: torch.device,
    size: int,
) -> Iterator[Array]:
    """Yield the rows' features with their targets below, times the root of the weight.

    On the CPU, NumPy computes them: its element-wise loops run on one thread, as fast as torch's
    on two, and its matrix products share the thread pool that scikit-learn has just used. Other
    devices are torch's.

    Parameters
    ----------
    basis : Basis
        The features.
    targets : Domain
        What the targets are scaled by.
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_targets)
    weights : ndarray of shape (n_samples,) or None
        Rows of weight 0 are left out.
    device : torch.device
        Where the features are computed.
    size : int
        Greatest number of rows in a chunk.

    Yields
    ------
    ndarray or Tensor of shape (n_terms + n_targets, n_rows)
        Valid until the next one: all share one buffer.
    """
    n_columns = basis.n_terms + Y.shape[1]
    buffer = to_device(np.empty((n_columns, min(size, len(X)))), device)
    for rows in row_chunks(len(X), size, weights):
        variables = to_device(basis.domain.scale(X[rows]), device)
        chunk = buffer[:, : variables.shape[1]]
        basis.evaluate(variables, out=chunk[: basis.n_terms])
        chunk[basis.n_terms :] = to_device(targets.scale(Y[rows]), device)
        if weights is not None:
            chunk *= to_device(np.sqrt(weights[rows]), device)
        yield chunk


def to_device(values: Floats, device: torch.device) -> Any:
    """Return an array as it is on the CPU, as a tensor elsewhere."""
    return values if device.type == "cpu" else torch.from_numpy(values).to(device)


def to_numpy(values: Array) -> Floats:
    """Return an array from any device."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values


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
    def from_few_rows(cls, chunk: Array, n_terms: int, total_weight: float) -> GramStatistics:
        """Keep the rows themselves, fewer than terms, in place of the Gram matrix."""
        rows = to_numpy(chunk) / np.sqrt(total_weight)
        features, target = rows[:n_terms], rows[n_terms:]
        return cls(GramFactor(features), features @ target.T, (target * target).sum(axis=1), total_weight)

    def is_finite(self) -> bool:
        """Whether no feature was too large for the products."""
        features = self.features.rows if isinstance(self.features, GramFactor) else self.features
        return bool(np.isfinite(features).all() and np.isfinite(self.cross).all())

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


def collinearity(covariance: Floats) -> float:
    """Return the condition number of the correlation matrix; infinite where it is singular."""
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    if not deviation.all():
        return np.inf
    eigenvalues = np.linalg.eigvalsh(covariance / np.outer(deviation, deviation))
    return float(eigenvalues[-1] / eigenvalues[0]) if eigenvalues[0] > 0 else np.inf


def orthonormal_coordinates(gram: Floats | GramFactor, alpha: float) -> Floats:
    """Return T such that ``T.T @ (gram + alpha * P) @ T`` is the identity.

    P is the identity but for the constant, which is not penalised. Without alpha, ``T.T @ f`` are
    features that are orthonormal under the data. T is the inverse of the transposed Cholesky
    factor, which gives the Forsythe polynomials: each the next term made orthogonal to those
    before. Where the matrix is singular to working precision, T comes of its eigenvectors,
    without the null directions; the coefficients ``T @ parameters`` are then the ones of least
    norm. With fewer rows than terms, all of that happens in the span of the rows and the
    constant, which holds the optimum.

    Parameters
    ----------
    gram : ndarray of shape (n_terms, n_terms) or GramFactor
    alpha : float
        Weight of the L2 penalty.

    Returns
    -------
    ndarray of shape (n_terms, rank)
    """
    if isinstance(gram, GramFactor):
        span = _span(gram.rows)
        rows = span.T @ gram.rows
        return span @ orthonormal_coordinates(rows @ rows.T, alpha)
    if alpha:
        gram = gram.copy()
        varying = np.arange(1, len(gram))
        gram[varying, varying] += alpha
    # The share of the greatest eigenvalue below which rounding leaves no digits of the others.
    tolerance = 10 * len(gram) * np.finfo(np.float64).eps
    try:
        factor = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        pass
    else:
        # A pivot is the share of a term that the terms before it do not explain.
        if np.all(np.diagonal(factor) ** 2 > tolerance * np.diagonal(gram)):
            return np.linalg.inv(factor).T
    eigenvalues, eigenvectors = np.linalg.eigh(gram)
    kept = eigenvalues > tolerance * eigenvalues[-1]
    return eigenvectors[:, kept] / np.sqrt(eigenvalues[kept])


def _span(rows: Floats) -> Floats:
    """Return orthonormal columns that span the constant, which comes first, and the rows' features."""
    span = np.zeros((len(rows), 1 + rows.shape[1]))
    span[0, 0] = 1.0
    span[1:, 1:] = np.linalg.qr(rows[1:])[0]
    return span
