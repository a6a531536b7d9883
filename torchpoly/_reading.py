"""From rows to Gram statistics: one pass, a chunk at a time, or a second where digits ask for it."""

from __future__ import annotations

import bisect
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpoly._basis import Array, Basis, Domain, Floats, count_rows, count_terms, row_chunks
from torchpoly._device import to_device
from torchpoly._gram import GramFactor, GramStatistics, rounding_share

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
_MAX_CONDITION, _MAX_CORRECTIONS = 1e10, 2
# Mean square of a combination of terms of order 1 that is rounding.
_NULL_SQUARE = 1e-26


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
        if _collinearity(covariance) > _MAX_COLLINEARITY ** (1 / basis.degree):
            basis = replace(basis, domain=basis.domain.to_principal_axes(covariance, X, weights))
            reading = read(basis, targets, X, Y, weights, device)
    gram = reading.statistics.features
    if isinstance(gram, GramFactor) or _is_well_conditioned(reading.statistics):
        return reading
    null = _null_candidates(gram)
    # Terms that are the same on all rows, as powers of a binary column are, need no more.
    if null is not None and (not null.size or _is_null(read(basis, targets, X, Y, weights, device, null).statistics)):
        return reading
    mixing = _inverse_root(gram)
    reading = read(basis, targets, X, Y, weights, device, mixing)
    for _ in range(_MAX_CORRECTIONS):
        if _is_well_conditioned(reading.statistics):
            break
        mixing = _corrected(mixing, cast(Floats, reading.statistics.features))
        reading = read(basis, targets, X, Y, weights, device, mixing)
    return reading


def _is_well_conditioned(statistics: GramStatistics) -> bool:
    """Whether the Gram matrix has digits enough to tell the terms apart."""
    return statistics.inverse_factor[1] < _MAX_CONDITION


def _null_candidates(gram: Floats) -> Floats | None:
    """Return the directions of eigenvalues below rounding, if the others are well-conditioned."""
    eigenvalues, eigenvectors = np.linalg.eigh(gram)
    null = eigenvalues < rounding_share(len(gram)) * eigenvalues[-1]
    return eigenvectors[:, null] if eigenvalues[~null][0] * _MAX_CONDITION > eigenvalues[-1] else None


def _is_null(statistics: GramStatistics) -> bool:
    """Whether combinations of terms, of norm 1, are 0 on all rows but for rounding."""
    assert isinstance(statistics.features, np.ndarray)
    return bool(np.diagonal(statistics.features).max(initial=0.0) < _NULL_SQUARE)


def _inverse_root(gram: Floats) -> Floats:
    """Return the inverse root of the Gram matrix, its eigenvalues raised to what rounding leaves of them."""
    eigenvalues, eigenvectors = np.linalg.eigh(gram)
    return eigenvectors / np.sqrt(np.maximum(eigenvalues, rounding_share(len(gram)) * eigenvalues[-1]))


def _corrected(mixing: Floats, gram: Floats) -> Floats:
    """Return the mixing times the inverse root of the Gram matrix that it led to, without its null directions.

    Of these no row sees anything; they would only add to the norm of the coefficients.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(gram)
    kept = eigenvalues > rounding_share(len(gram)) * eigenvalues[-1]
    null = np.linalg.qr(mixing @ eigenvectors[:, ~kept])[0]
    corrected = mixing @ (eigenvectors[:, kept] / np.sqrt(eigenvalues[kept]))
    return corrected - null @ (null.T @ corrected)


def _collinearity(covariance: Floats) -> float:
    """Return the condition number of the correlation matrix; infinite where it is singular."""
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
    if not deviation.all():
        return np.inf
    eigenvalues = np.linalg.eigvalsh(covariance / np.outer(deviation, deviation))
    return float(eigenvalues[-1] / eigenvalues[0]) if eigenvalues[0] > 0 else np.inf


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
