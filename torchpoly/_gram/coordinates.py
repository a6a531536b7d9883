"""Coordinates of training in which the features are orthonormal: combinations of the terms, or of fewer rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._gram.dual import DualCoordinates, orthogonal_complement
from torchpoly._gram.factors import DenseFactor, MatrixFreeFactor, inverse_weights
from torchpoly._gram.statistics import GramStatistics, scaling
from torchpoly._gram.whitening import rounding_ratio


@dataclass(frozen=True)
class PrimalCoordinates:
    """Parameters t with the coefficients ``T @ t``.

    Parameters
    ----------
    matrix : ndarray of shape (n_terms, rank)
        T.
    """

    matrix: Floats

    @property
    def rank(self) -> int:
        """Number of parameters for each target."""
        return self.matrix.shape[1]

    def __matmul__(self, parameters: Floats) -> Floats:
        return self.matrix @ parameters

    def rmatvec(self, products: Floats) -> Floats:
        """Return ``T.T @ products``."""
        return self.matrix.T @ products

    def penalty_gradient(self, parameters: Floats, norm_weights: Floats) -> Floats:
        """Return ``T.T @ P @ T @ parameters``: half the gradient of the squared norm of the coefficients."""
        return self.matrix.T @ (norm_weights[:, None] * (self.matrix @ parameters))


Coordinates = PrimalCoordinates | DualCoordinates


def penalty_gradient(coordinates: Coordinates | None, parameters: Floats, norm_weights: Floats) -> Floats:
    """Return ``T.T @ P @ T @ parameters``; without coordinates T is the identity."""
    if coordinates is not None:
        return coordinates.penalty_gradient(parameters, norm_weights)
    return norm_weights[:, None] * parameters


def orthonormal_coordinates(statistics: GramStatistics, alpha: float, norm_weights: Floats | None) -> Coordinates:
    """Return T for which ``T.T @ (G + alpha P) @ T`` is the identity.

    P is the diagonal matrix of the weights of the norm. With alpha = 0, the features ``T.T @ f`` are
    orthonormal under the data. There are three cases:

    - T is the transposed inverse of the Cholesky factor. This gives the Forsythe polynomials: each term is
      made orthogonal to the previous ones.
    - If the matrix is singular to working precision, T is computed from its eigenvectors, without the null
      directions. The coefficients ``T @ parameters`` are the ones of least norm ``c' P c``.
    - If there are fewer rows than terms, T is computed from the singular value decomposition of the rows.
      If there is a penalty, or if the features are not in memory, it is computed from the kernel matrix.

    So alpha = 0 is the limit of small alphas.

    Parameters
    ----------
    statistics : GramStatistics
    alpha : float
        Weight of the penalty.
    norm_weights : ndarray of shape (n_terms,) or None
        The diagonal of P; None for combinations of terms, which have no null directions.
    """
    gram = statistics.features
    if isinstance(gram, np.ndarray):
        whitening = statistics.whitening(alpha, norm_weights)
        if not alpha:
            return PrimalCoordinates(whitening.least_norm(norm_weights))
        penalty = cast(Floats, norm_weights)
        scales = scaling(alpha, penalty)
        return PrimalCoordinates(scales * whitening.least_norm(scales[:, 0] ** 2 * penalty))
    if alpha or isinstance(gram, MatrixFreeFactor):
        return DualCoordinates.of(gram, alpha)
    return interpolating(gram)


def interpolating(factor: DenseFactor) -> PrimalCoordinates:
    """Return the T of least norm for which ``T.T @ G @ T`` is the identity, by a singular value decomposition.

    The constant has no weight in the norm, so the other terms are centered at their weighted means.
    """
    left, values, _ = singular_values(factor)
    return with_constant(factor.means[None], left / values)


def singular_values(factor: DenseFactor) -> tuple[Floats, Floats, Floats]:
    """Return ``P^(-1/2) U, S, V`` of the singular value decomposition ``U S V'`` of the centered ``P^(-1/2) F``.

    Returns
    -------
    left : ndarray of shape (n_terms - 1, rank)
        Without the constant. Its columns are orthonormal in the inner product of the norm.
    values : ndarray of shape (rank,)
        Those above rounding, in descending order.
    right : ndarray of shape (n_rows, rank)
    """
    scales = np.sqrt(inverse_weights(factor.norm_weights))[1:, None]
    complement = orthogonal_complement(factor.sqrt_weights)
    left, values, right = np.linalg.svd(scales * (factor.rows[1:] @ complement), full_matrices=False)
    kept = values > rounding_ratio(len(factor.sqrt_weights)) * values.max(initial=0.0)
    return scales * left[:, kept], values[kept], complement @ right[kept].T


def with_constant(means: Floats, varying: Floats) -> PrimalCoordinates:
    """Return the constant and combinations of the other terms, minus the weighted means of these combinations.

    Parameters
    ----------
    means : ndarray of shape (1, n_terms - 1)
        Of the other terms.
    varying : ndarray of shape (n_terms - 1, n_combinations)
    """
    return PrimalCoordinates(np.block([[np.ones((1, 1)), -means @ varying], [np.zeros((len(varying), 1)), varying]]))


def on_span(coordinates: PrimalCoordinates, coefficients: Floats, norm_weights: Floats, means: Floats) -> Floats:
    """Return the orthogonal projection of coefficients on the span of the rows: the same values, and least norm.

    Parameters
    ----------
    coordinates : PrimalCoordinates
        As :func:`interpolating` returns them: columns are orthogonal in the inner product of the norm.
    coefficients : ndarray of shape (n_terms, n)
    norm_weights : ndarray of shape (n_terms,)
    means : ndarray of shape (n_terms - 1,)
        Of the terms without the constant.
    """
    scales = np.sqrt(norm_weights[1:, None])
    span = scales * coordinates.matrix[1:, 1:]
    span /= np.linalg.norm(span, axis=0)
    varying = span @ (span.T @ (scales * coefficients[1:])) / scales
    return np.concatenate([coefficients[:1] + means @ (coefficients[1:] - varying), varying])
