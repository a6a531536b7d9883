"""Coordinates by the side that is smaller, terms or rows."""

from __future__ import annotations

from typing import cast

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._gram.dual import DualCoordinates, interpolating
from torchpoly._gram.factors import MatrixFreeFactor
from torchpoly._gram.statistics import GramStatistics, scaling
from torchpoly._gram.whitening import PrimalCoordinates

Coordinates = PrimalCoordinates | DualCoordinates


def penalty_gradient(coordinates: Coordinates | None, parameters: Floats, norm_weights: Floats) -> Floats:
    """Return half the gradient of the squared norm of the basis's coefficients.

    Without coordinates, the parameters are these coefficients.
    """
    if coordinates is not None:
        return coordinates.penalty_gradient(parameters, norm_weights)
    return norm_weights[:, None] * parameters


def orthonormal_coordinates(statistics: GramStatistics, alpha: float, norm_weights: Floats | None) -> Coordinates:
    """Return T such that ``T.T @ (G + alpha P) @ T`` is the identity.

    P is the diagonal matrix of the weights of the norm. Without alpha, ``T.T @ f`` are features that
    are orthonormal under the data. T is the inverse of the transposed Cholesky factor, which gives
    the Forsythe polynomials: each the next term made orthogonal to those before. Where the matrix
    is singular to working precision, T comes of its eigenvectors, without the null directions; the
    coefficients ``T @ parameters`` are then the ones of least norm ``c' P c``. With fewer rows than
    terms, T comes of the rows' singular value decomposition, or where the rows are not held or there
    is a penalty, of their kernel matrix. So alpha = 0 is the limit of small alphas.

    Parameters
    ----------
    statistics : GramStatistics
    alpha : float
        Weight of the L2 penalty.
    norm_weights : ndarray of shape (n_terms,) or None
        The diagonal of P; None for combinations of terms, among which no null direction is left.
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
