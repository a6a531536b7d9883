"""What the squared loss needs to know of the rows, gathered in one pass.

For the squared loss the data enter only through the Gram matrix of ``[features, y]``. Features
exist for one chunk of rows at a time; Gram matrices of chunks add up.
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

# Products with at most so many multiplications run in slices of rows that OpenBLAS does not share
# among threads: for so little work, waking its pool costs more than it gains, up to 25 ms after
# another library has used its own.
_SMALL_PRODUCT = 2**22
_SLICE_PRODUCT = 2**17  # multiplications of a matrix product
_SLICE_ELEMENTS = 9000  # elements of the matrix in a product with a vector


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
    _whitenings: dict[float, Whitening] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is cached."""
        return {**self.__dict__, "_whitenings": {}}

    @classmethod
    def from_chunks(cls, chunks: Iterable[Array], n_terms: int, total_weight: float) -> GramStatistics:
        """Add up the products of all rows of `chunks` and divide by their total weight."""
        gram = _sum_of_products(chunks) / total_weight
        target = np.diagonal(gram)[n_terms:].copy()
        return cls(gram[:n_terms, :n_terms], gram[:n_terms, n_terms:], target, total_weight)

    @classmethod
    def pooled(cls, parts: Sequence[GramStatistics], counts: Sequence[int]) -> GramStatistics:
        """Return the statistics of all rows of the parts, each part counted so many times."""
        total_weight = float(sum(count * part.total_weight for part, count in zip(parts, counts, strict=True)))
        proportions = [count * part.total_weight / total_weight for part, count in zip(parts, counts, strict=True)]

        def mean(name: str) -> Any:
            total: Any = 0.0
            for part, share in zip(parts, proportions, strict=True):
                if share:
                    total += getattr(part, name) * share
            return total

        return cls(mean("features"), mean("cross"), mean("target"), total_weight)

    def transformed(self, change: Floats | None, scale: Floats, shift: Floats) -> GramStatistics:
        """Return the statistics of other terms, and of targets times `scale` plus `shift`.

        Parameters
        ----------
        change : ndarray of shape (n_terms, n_other_terms) or None
            Coefficients of the other terms in these; None where they are the same.
        scale, shift : ndarray of shape (n_targets,)
        """
        gram, cross = cast(Floats, self.features), self.cross
        target = scale**2 * self.target + 2.0 * scale * shift * cross[0] + shift**2
        if change is not None:
            gram, cross = change.T @ gram @ change, change.T @ cross
        return GramStatistics(gram, scale * cross + shift * gram[:, :1], target, self.total_weight)

    @classmethod
    def from_few_rows(cls, chunk: Array, norm_weights: Floats, total_weight: float) -> GramStatistics:
        """Keep the rows themselves, fewer than terms, in place of the Gram matrix; the chunk is scaled for that."""
        rows = to_numpy(chunk)
        rows /= np.sqrt(total_weight)
        features, target = np.split(rows, [len(norm_weights)])
        return cls(
            DenseFactor(features, norm_weights), features @ target.T, (target * target).sum(axis=1), total_weight
        )

    @property
    def n_bytes(self) -> int:
        """Size of the features' products."""
        return self.features.nbytes if isinstance(self.features, np.ndarray) else self.features.n_bytes

    def formed(self) -> GramStatistics:
        """Return the statistics with a Gram matrix, also of more terms than rows."""
        return replace(self, features=self.leading_gram(len(self.cross)))

    def is_finite(self) -> bool:
        """Whether no feature was too large for the products."""
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
        """Return the covariance matrix of the variables, which follow the constant among the terms."""
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
    """Return ``(1 + alpha P)^(-1/2)`` as a column: beside a large penalty, the constant keeps its digits."""
    with np.errstate(over="ignore"):
        return 1.0 / np.sqrt(1.0 + alpha * norm_weights[:, None])


def largest_eigenvalue(gram: Floats | GramFactor, alpha: float, norm_weights: Floats) -> float:
    """Return the largest eigenvalue of ``G + alpha P``, or an upper bound where the matrix is not formed."""
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
    """Return the mean products of residuals with features, and the residuals' mean squares.

    Taken from the rows themselves, these keep the digits that differences of Gram matrices lose.

    Parameters
    ----------
    chunk : ndarray or Tensor of shape (n_terms + n_targets, n_rows)
        As :meth:`DesignMatrix.weighted_blocks` yields it.
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


def ridge_path(statistics: GramStatistics, alphas: Sequence[float], norm_weights: Floats) -> tuple[Floats, Floats]:
    """Return the optima of all penalties, from one eigen-decomposition.

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
        Infinite or NaN where the condition number is infinite.
    conditions : ndarray of shape (n_alphas,)
        Condition numbers of the penalized Gram matrix of the terms less their means, divided by the
        roots of their weights in the norm.
    """
    gram, constant = cast(Floats, statistics.features), statistics.cross[:1]
    means = gram[1:, :1]
    # The constant is not penalized: it takes the means of terms and targets out.
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
