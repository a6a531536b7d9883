"""Gram statistics: the squared loss depends on the rows only through the Gram matrix of ``[features, y]``.

They are computed in one pass over the rows. Features exist for one chunk of rows at a time, and the
statistics are the sum of the Gram matrices of the chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._gram.factors import DenseFactor, GramFactor
from torchpoly._gram.whitening import Whitening, penalized

# Products up to this number of multiplications run in slices of rows, each too small for OpenBLAS to use threads. For
# so little work, to wake its threads takes longer than the product: up to 25 ms after another library has used threads.
_MAX_SINGLE_THREADED_PRODUCT = 2**22
_SLICE_PRODUCT = 2**17  # multiplications in a slice of a matrix product
_SLICE_ELEMENTS = 9000  # elements of the matrix in a slice of a product with a vector


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
        Sum of the weights, or the number of rows without weights.
    """

    features: Floats | GramFactor
    cross: Floats
    target: Floats
    total_weight: float
    _whitenings: dict[float, Whitening] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the cached whitenings."""
        return {**self.__dict__, "_whitenings": {}}

    @classmethod
    def from_chunks(cls, chunks: Iterable[Array], n_terms: int, total_weight: float) -> GramStatistics:
        """Return ``sum(chunk @ chunk.T) / total_weight`` over the chunks ``sqrt(w) * [F; y]``."""
        gram = _sum_of_products(chunks) / total_weight
        target = np.diagonal(gram)[n_terms:].copy()
        return cls(gram[:n_terms, :n_terms], gram[:n_terms, n_terms:], target, total_weight)

    @classmethod
    def pooled(cls, parts: Sequence[GramStatistics], counts: Sequence[int]) -> GramStatistics:
        """Return the weighted mean of the statistics: those of all rows, with each part repeated `count` times."""
        weights = [count * part.total_weight for part, count in zip(parts, counts, strict=True)]
        total_weight = float(sum(weights))

        def mean(name: str) -> Any:
            total: Any = 0.0
            for part, weight in zip(parts, weights, strict=True):
                if weight:
                    total += getattr(part, name) * (weight / total_weight)
            return total

        return cls(mean("features"), mean("cross"), mean("target"), total_weight)

    def transformed(self, change: Floats | None, scale: Floats, shift: Floats) -> GramStatistics:
        """Return the statistics of other terms and of the targets ``scale * y + shift``.

        Parameters
        ----------
        change : ndarray of shape (n_terms, n_other_terms) or None
            Coefficients of the other terms in these terms; None stands for the same terms.
        scale, shift : ndarray of shape (n_targets,)
        """
        gram, cross = cast(Floats, self.features), self.cross
        target = scale**2 * self.target + 2.0 * scale * shift * cross[0] + shift**2
        if change is not None:
            gram, cross = change.T @ gram @ change, change.T @ cross
        return GramStatistics(gram, scale * cross + shift * gram[:, :1], target, self.total_weight)

    @classmethod
    def from_few_rows(cls, chunk: Array, norm_weights: Floats, total_weight: float) -> GramStatistics:
        """Return the statistics with a :class:`DenseFactor`; the chunk ``sqrt(w) * [F; y]`` is scaled in place."""
        rows = to_numpy(chunk)
        rows /= np.sqrt(total_weight)
        features, targets = np.split(rows, [len(norm_weights)])
        squares = (targets * targets).sum(axis=1)
        return cls(DenseFactor(features, norm_weights), features @ targets.T, squares, total_weight)

    def formed(self) -> GramStatistics:
        """Return the statistics with a formed Gram matrix instead of a factor."""
        return replace(self, features=self.leading_gram(len(self.cross)))

    def is_finite(self) -> bool:
        """Whether no product of features has overflowed."""
        gram = self.features
        finite = np.isfinite(gram).all() if isinstance(gram, np.ndarray) else gram.is_finite()
        return bool(finite and np.isfinite(self.cross).all())

    def whitening(self, alpha: float = 0.0, norm_weights: Floats | None = None) -> Whitening:
        """Return the whitening of G, or with a penalty of ``S (G + alpha P) S`` with S of :func:`scaling`.

        The Gram matrix G must be formed. P is the diagonal matrix of the weights of the norm.
        """
        if alpha not in self._whitenings:
            gram = cast(Floats, self.features)
            if alpha:
                weights = cast(Floats, norm_weights)
                scales = scaling(alpha, weights)
                gram = scales * penalized(gram, alpha, weights) * scales.T
            self._whitenings[alpha] = Whitening(gram)
        return self._whitenings[alpha]

    def covariance(self, n_variables: int) -> Floats:
        """Return the covariance matrix of the variables: the terms after the constant."""
        linear = self.leading_gram(n_variables + 1)
        return linear[1:, 1:] - np.outer(linear[0, 1:], linear[0, 1:])

    def leading_block(self, n_terms: int) -> GramStatistics:
        """Return the statistics of the first terms."""
        return replace(self, features=self.leading_gram(n_terms), cross=self.cross[:n_terms])

    def leading_gram(self, n_terms: int) -> Floats:
        """Return the Gram matrix of the first terms."""
        if isinstance(self.features, np.ndarray):
            return self.features[:n_terms, :n_terms]
        return self.features.leading_gram(n_terms)


def scaling(alpha: float, norm_weights: Floats) -> Floats:
    """Return ``(1 + alpha P)^(-1/2)`` as a column: a diagonal scaling.

    Without it, the sum with a large penalty would have too few digits for the constant term.
    """
    with np.errstate(over="ignore"):
        return 1.0 / np.sqrt(1.0 + alpha * norm_weights[:, None])


def largest_eigenvalue(gram: Floats | GramFactor, alpha: float, norm_weights: Floats) -> float:
    """Return the largest eigenvalue of ``G + alpha P``, or an upper bound if G is not formed."""
    if isinstance(gram, np.ndarray):
        return float(np.linalg.eigvalsh(penalized(gram, alpha, norm_weights))[-1])
    return gram.largest_eigenvalue() + alpha * float(norm_weights.max())


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
    """Return ``F @ r`` and ``r . r`` of the residuals r, divided by the total weight.

    They are computed from the rows. From the Gram matrix, cancellation would lose digits.

    Parameters
    ----------
    chunk : ndarray or Tensor of shape (n_terms + n_targets, n_rows)
        As :meth:`DesignMatrix.weighted_blocks` yields it.
    coefficients : ndarray of shape (n_terms, n_targets)
        Of the predictions.
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
    """Yield slices of `size` columns of the chunk (rows of data), or the whole chunk if it is large."""
    size = max(size, 1) if chunk.size * len(chunk) <= _MAX_SINGLE_THREADED_PRODUCT else chunk.shape[1]
    for start in range(0, chunk.shape[1], size):
        yield chunk[:, start : start + size]


def ridge_path(statistics: GramStatistics, alphas: Sequence[float], norm_weights: Floats) -> tuple[Floats, Floats]:
    """Ridge regression for many penalties by one eigendecomposition.

    Parameters
    ----------
    statistics : GramStatistics
        With a Gram matrix.
    alphas : list of float
    norm_weights : ndarray of shape (n_terms,)
        Weights of the squared coefficients in the penalty.

    Returns
    -------
    coefficients : ndarray of shape (n_terms, n_alphas, n_targets)
        Infinite or NaN if the condition number is infinite.
    conditions : ndarray of shape (n_alphas,)
        Condition numbers of the penalized Gram matrix of the centered terms, divided by the square roots of
        their weights in the norm.
    """
    gram, constant = cast(Floats, statistics.features), statistics.cross[:1]
    means = gram[1:, :1]
    # The constant is not penalized, so terms and targets are centered.
    scales = 1.0 / np.sqrt(norm_weights[1:, None])
    values, vectors = np.linalg.eigh(scales * (gram[1:, 1:] - means * means.T) * scales.T)
    vectors *= scales
    shifted = values[:, None] + np.array(alphas)
    rotated = vectors.T @ (statistics.cross[1:] - means * constant)
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = vectors @ (rotated[:, None] / shifted[:, :, None]).reshape(len(means), len(alphas) * constant.shape[1])
        constants = np.tile(constant, len(alphas)) - means.T @ slopes
        conditions = shifted[-1] / shifted[0] if len(means) else np.ones(len(alphas))
    conditions[~(conditions > 0.0)] = np.inf
    coefficients = np.concatenate([constants, slopes])
    return coefficients.reshape(len(gram), len(alphas), constant.shape[1]), conditions
