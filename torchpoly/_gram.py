"""What the squared loss needs to know of the rows, gathered in one pass.

For the squared loss the data enter only through the Gram matrix of ``[features, y]``. Features
exist for one chunk of rows at a time; Gram matrices of chunks add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpoly._basis import Basis, Floats, row_chunks

_MAX_ROWS = 8192
_CHUNK_BYTES = 2**26
# Products of at most so many multiplications run in slices that no BLAS shares among threads:
# waking a thread pool costs more than they do, up to 25 ms after another library used its own.
_SMALL_PRODUCT = 2**22
_SLICE_PRODUCT = 2**17
_SLICE_ELEMENTS = 9000


def chunk_size(n_columns: int) -> int:
    """Return how many rows of so many features are worked on at a time."""
    return max(64, min(_MAX_ROWS, _CHUNK_BYTES // (8 * n_columns)))


def design_chunks(
    basis: Basis, X: NDArray, Y: Floats, weights: Floats | None, device: torch.device
) -> Iterator[Tensor]:
    """Yield the rows' features with their targets below, times the root of the weight.

    Parameters
    ----------
    basis : Basis
        The features.
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_targets)
    weights : ndarray of shape (n_samples,) or None
        Rows of weight 0 are left out.
    device : torch.device
        Where the features are computed.

    Yields
    ------
    Tensor of shape (n_terms + n_targets, n_rows)
        Valid until the next one: all share one buffer.
    """
    n_columns = basis.n_terms + Y.shape[1]
    size = min(chunk_size(n_columns), len(X))
    buffer = torch.empty((n_columns, size), dtype=torch.float64, device=device)
    for rows in row_chunks(len(X), size, weights):
        variables = torch.from_numpy(basis.domain.scale(X[rows])).to(device)
        chunk = buffer[:, : variables.shape[1]]
        basis.evaluate(variables, out=chunk[: basis.n_terms])
        chunk[basis.n_terms :] = torch.from_numpy(Y[rows].T)
        if weights is not None:
            chunk *= torch.from_numpy(np.sqrt(weights[rows])).to(device)
        yield chunk


@dataclass(frozen=True)
class GramStatistics:
    """Weighted mean products of the features and targets.

    Parameters
    ----------
    features : ndarray of shape (n_terms, n_terms)
        Mean of ``w f f'``: the Gram matrix.
    cross : ndarray of shape (n_terms, n_targets)
        Mean of ``w f y'``.
    target : ndarray of shape (n_targets,)
        Mean of ``w y**2``.
    total_weight : float
        Sum of the weights, that of the rows where there are none.
    """

    features: Floats
    cross: Floats
    target: Floats
    total_weight: float

    @classmethod
    def from_chunks(cls, chunks: Iterable[Tensor], n_terms: int, total_weight: float) -> GramStatistics:
        """Add up the products of all rows of `chunks` and divide by their total weight."""
        gram = _sum_of_products(chunks) / total_weight
        target = np.diagonal(gram)[n_terms:].copy()
        return cls(gram[:n_terms, :n_terms], gram[:n_terms, n_terms:], target, total_weight)


def _sum_of_products(chunks: Iterable[Tensor]) -> Floats:
    """Return the sum of ``chunk @ chunk.T``."""
    total: Tensor | None = None
    for chunk in chunks:
        if total is None:
            total = torch.zeros((len(chunk), len(chunk)), dtype=chunk.dtype, device=chunk.device)
        if _is_small(chunk):
            accumulated = total.numpy()
            for rows in _slices(chunk):
                accumulated += rows @ rows.T
        else:
            torch.addmm(total, chunk, chunk.T, out=total)
    assert total is not None, "no rows"
    return total.cpu().numpy()


def residual_products(chunk: Tensor, coefficients: Floats, total_weight: float) -> tuple[Floats, Floats]:
    """Return the mean products of residuals with features, and the residuals' mean squares.

    Taken from the rows themselves, these keep the digits that differences of Gram matrices lose.

    Parameters
    ----------
    chunk : Tensor of shape (n_terms + n_targets, n_rows)
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
    for rows in _slices(chunk) if _is_small(chunk) else [chunk.cpu().numpy()]:
        residuals = rows[n_terms:].T - rows[:n_terms].T @ coefficients
        cross += rows[:n_terms] @ residuals
        squares += np.square(residuals).sum(axis=0)
    return cross / total_weight, squares / total_weight


def _is_small(chunk: Tensor) -> bool:
    return chunk.device.type == "cpu" and len(chunk) * chunk.numel() <= _SMALL_PRODUCT


def _slices(chunk: Tensor) -> Iterator[Floats]:
    """Yield columns of the chunk in slices whose products stay on one thread."""
    size = max(1, min(_SLICE_ELEMENTS // len(chunk), _SLICE_PRODUCT // len(chunk) ** 2))
    columns = chunk.numpy()
    for start in range(0, columns.shape[1], size):
        yield columns[:, start : start + size]


def collinearity(covariance: Floats) -> float:
    """Return the condition number of the correlation matrix; infinite where it is singular."""
    deviation = np.sqrt(np.diagonal(covariance))
    if not deviation.all():
        return np.inf
    eigenvalues = np.linalg.eigvalsh(covariance / np.outer(deviation, deviation))
    return eigenvalues[-1] / eigenvalues[0] if eigenvalues[0] > 0 else np.inf


def orthonormal_coordinates(gram: Floats) -> Floats:
    """Return T such that ``T.T @ gram @ T`` is the identity: new features are ``T.T @ features``.

    The inverse of the transposed Cholesky factor, which gives the Forsythe polynomials: each the
    next term made orthogonal, under the data, to those before. Where the matrix is singular to
    working precision, its eigenvectors, without the null directions; the coefficients
    ``T @ parameters`` are then the ones of least norm.

    Parameters
    ----------
    gram : ndarray of shape (n_terms, n_terms)

    Returns
    -------
    ndarray of shape (n_terms, rank)
    """
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
