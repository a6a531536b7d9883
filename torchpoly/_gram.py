"""What the squared loss needs to know of the rows, gathered in one pass.

For the squared loss the data enter only through the Gram matrix of ``[features, y]``. Features
exist for one chunk of rows at a time; Gram matrices of chunks add up.
"""

from __future__ import annotations

import bisect
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpoly._basis import Array, Basis, Domain, Floats, count_rows, count_terms, row_chunks
from torchpoly._device import to_device, to_numpy

# A chunk of features takes 8 MiB, about what stays in cache between its evaluation and its
# product, unless terms are so many that a chunk would have few rows.
_CHUNK_ELEMENTS = 2**20
_MIN_ROWS, _MAX_ROWS = 256, 2**14
# Matrices of terms x terms, or of terms x rows where these are fewer, that a fit holds at its peak.
_MATRICES = 8
# The columns' principal axes become the variables where collinearity alone would take the
# condition number of the Gram matrix beyond this.
_MAX_COLLINEARITY = 1e8
# Beyond this condition number of their Gram matrix, terms are combined and read again.
_MAX_CONDITION, _MAX_MIXINGS = 1e10, 3
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


@dataclass(frozen=True)
class Reading:
    """What a fit keeps of the rows.

    Parameters
    ----------
    basis : Basis
        The features.
    mixing : ndarray of shape (n_terms, n_mixed) or None
        Where given, the statistics are those of the combinations ``mixing.T @ features``.
    statistics : GramStatistics
        Of the features or of their combinations.
    rows : ndarray or Tensor of shape (n_terms + n_targets, n_rows) or None
        The chunk that holds all rows of features or of combinations, if one does.
    """

    basis: Basis
    mixing: Floats | None
    statistics: GramStatistics
    rows: Array | None


def read(
    basis: Basis,
    targets: Domain,
    X: NDArray,
    Y: NDArray,
    weights: Floats | None,
    device: torch.device,
    mixing: Floats | None = None,
) -> Reading:
    """Read the rows once.

    Parameters are those of :func:`design_chunks`, and the `mixing` of :class:`Reading`.

    Raises
    ------
    ValueError
        If powers overflow, which they do not where the domain scales.
    """
    total_weight = len(X) if weights is None else weights.sum()
    few_rows = count_rows(X, weights) < basis.n_terms
    if few_rows and weights is not None:
        kept = np.flatnonzero(weights)
        X, Y, weights = X[kept], Y[kept], weights[kept]
    size = len(X) if few_rows else chunk_size(basis.n_terms + Y.shape[1])
    chunks = design_chunks(basis, targets, X, Y, weights, device, size)
    n_terms = basis.n_terms
    if mixing is not None:
        chunks, n_terms = _mixed(chunks, to_device(mixing, device)), mixing.shape[1]
    rows = None
    with np.errstate(over="ignore", invalid="ignore"):
        if len(X) > size:
            statistics = GramStatistics.from_chunks(chunks, n_terms, total_weight)
        else:
            (rows,) = chunks
            gather = GramStatistics.from_few_rows if few_rows else GramStatistics.from_rows
            statistics = gather(rows, n_terms, total_weight)
    if basis.family == "power" and not statistics.is_finite():
        raise ValueError(
            f"The powers of X overflow: the 'degree' parameter got {basis.degree} with basis='monomial'. Scale X, or "
            "use basis='orthonormal', which does."
        )
    return Reading(basis, mixing, statistics, rows)


def _mixed(chunks: Iterator[Array], mixing: Any) -> Iterator[Array]:
    """Combine the features of each chunk, and leave its targets as they are."""
    n_terms = len(mixing)
    xp: Any = torch if isinstance(mixing, Tensor) else np
    for chunk in chunks:
        yield xp.concatenate([mixing.T @ chunk[:n_terms], chunk[n_terms:]])


def read_well_conditioned(
    basis: Basis, targets: Domain, X: NDArray, Y: NDArray, weights: Floats | None, device: torch.device
) -> Reading:
    """Read the rows, and once more where the Gram matrix has too few digits to tell terms apart.

    Columns that nearly coincide are replaced by their principal axes. Terms that nearly coincide
    all the same, as on heavy-tailed or clustered columns, are combined by the inverse root of
    the Gram matrix, and the Gram matrix of the combinations is read. That repeats the Cholesky
    QR decomposition (CholeskyQR2), which is as exact as Householder's where a single one loses
    half of the digits. The first time, eigenvalues below rounding are raised to it, the next time
    the null directions, which are then known, are dropped.

    Parameters are those of :func:`design_chunks`.

    References
    ----------
    T. Fukaya, R. Kannan, Y. Nakatsukasa, Y. Yamamoto, Y. Yanagisawa, "Shifted Cholesky QR for
    computing the QR factorization of ill-conditioned matrices", SIAM J. Sci. Comput. 42 (2020).
    """
    reading = read(basis, targets, X, Y, weights, device)
    n_variables = basis.domain.n_variables
    if basis.degree > 0 and 1 < n_variables < count_rows(X, weights) and not basis.interaction_only:
        linear = reading.statistics.leading(n_variables + 1)
        covariance = linear[1:, 1:] - np.outer(linear[0, 1:], linear[0, 1:])
        if _collinearity(covariance) ** basis.degree > _MAX_COLLINEARITY:
            basis = replace(basis, domain=basis.domain.to_principal_axes(covariance, X, weights))
            reading = read(basis, targets, X, Y, weights, device)
    mixing = None
    for _ in range(_MAX_MIXINGS):
        gram = reading.statistics.features
        if isinstance(gram, GramFactor) or _inverse_factor(gram)[1] < _MAX_CONDITION:
            break
        eigenvalues, eigenvectors = np.linalg.eigh(gram)
        smallest = _rounding(len(gram)) * eigenvalues[-1]
        if mixing is None:
            mixing = eigenvectors / np.sqrt(np.maximum(eigenvalues, smallest))
        else:
            kept = eigenvalues > smallest
            null = np.linalg.qr(mixing @ eigenvectors[:, ~kept])[0]
            mixing = mixing @ (eigenvectors[:, kept] / np.sqrt(eigenvalues[kept]))
            # What no row sees adds to the norm of the coefficients and to nothing else.
            mixing -= null @ (null.T @ mixing)
        reading = read(basis, targets, X, Y, weights, device, mixing)
    return reading


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


def _rounding(n_terms: int) -> float:
    """Return the share of the greatest eigenvalue below which rounding leaves no digits of others."""
    return 10 * n_terms * float(np.finfo(np.float64).eps)


def check_memory(degree: int, n_rows: int, n_features: int, interaction_only: bool) -> None:
    """Refuse more terms than the machine's memory holds, before anything is allocated.

    Raises
    ------
    ValueError
        With the number of terms and bytes, and the greatest degree that fits.
    """

    def fit_bytes(degree: int) -> int:
        n_terms = count_terms(n_features, degree, interaction_only)
        return 8 * n_terms * (_MATRICES * min(n_terms, n_rows + 1) + chunk_size(n_terms))

    limit = _physical_memory()
    needed = fit_bytes(degree)
    if needed > limit:
        fitting = bisect.bisect_right(range(min(degree, sys.maxsize)), limit, key=fit_bytes) - 1
        raise ValueError(
            f"The 'degree' parameter got {degree}, which for {n_features} features makes "
            f"{count_terms(n_features, degree, interaction_only)} terms; to fit them takes {needed} bytes, more than "
            f"the {limit} of this machine's memory. The greatest degree that fits is {fitting}."
        )


@cache
def _physical_memory() -> float:
    """Return the bytes of memory of this machine; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _collinearity(covariance: Floats) -> float:
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
    norm. With fewer rows than terms, T comes of the rows' singular value decomposition, or with a
    penalty, all of that happens in the span of the rows and the constant, which holds the optimum.

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
        if alpha:
            span = _span(gram.rows)
            rows = span.T @ gram.rows
            return span @ orthonormal_coordinates(rows @ rows.T, alpha)
        vectors, values, _ = np.linalg.svd(gram.rows, full_matrices=False)
        kept = values > _rounding(len(gram.rows)) * values[0]
        return vectors[:, kept] / values[kept]
    if alpha:
        gram = gram.copy()
        varying = np.arange(1, len(gram))
        gram[varying, varying] += alpha
    inverse, condition = _inverse_factor(gram)
    if condition < 1 / _rounding(len(gram)):
        return inverse.T
    eigenvalues, eigenvectors = np.linalg.eigh(gram)
    kept = eigenvalues > _rounding(len(gram)) * eigenvalues[-1]
    return eigenvectors[:, kept] / np.sqrt(eigenvalues[kept])


def _span(rows: Floats) -> Floats:
    """Return orthonormal columns that span the constant, which comes first, and the rows' features."""
    span = np.zeros((len(rows), 1 + rows.shape[1]))
    span[0, 0] = 1.0
    span[1:, 1:] = np.linalg.qr(rows[1:])[0]
    return span
