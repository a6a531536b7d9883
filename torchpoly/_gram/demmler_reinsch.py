"""The Demmler-Reinsch basis: the Gram matrix is the identity, and the penalty is a diagonal matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Floats
from torchpoly._gram.coordinates import Coordinates, PrimalCoordinates, singular_values, with_constant
from torchpoly._gram.dual import DualCoordinates
from torchpoly._gram.factors import DenseFactor, MatrixFreeFactor, inverse_weights
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.whitening import EPSILON, rounding_ratio
from torchpoly._polynomial.basis import Basis

# Rounding errors of a sum of squares of orthonormal values, in units of EPSILON times the square root of their number.
_SUM_ROUNDING = 64.0
# If a whitening made the values orthonormal, the condition number of the Gram matrix comes on top, times this number.
_CONDITION_ROUNDING = 4.0
# Near interpolation, a larger error of orthonormal values is not taken for rounding. Its square, in 1 - u'u, would
# matter beside the effect of the least penalties.
_MAX_VALUE_ROUNDING = 1e-9
# The greatest relative error of an eigenvalue of the penalty.
_MAX_EIGENVALUE_ERROR = 1e-8


@dataclass(frozen=True)
class DemmlerReinsch:
    """Coordinates A with ``A' G A = I`` and ``A' P A = diag(d)``: all ridge regressions are diagonal in them.

    The coefficients of the penalty alpha are ``A @ (b / (1 + alpha * d))`` with ``b = A' F y``.

    Parameters
    ----------
    basis : Basis
    coordinates : PrimalCoordinates or DualCoordinates
        A, for coefficients of the basis.
    penalties : ndarray of shape (rank,)
        d. The first one is that of the constant, 0.
    products : ndarray of shape (rank, n_targets)
        b: mean products with the targets.
    rounding : float
        An upper bound of the rounding errors in ``1 - u'u``, where u are the values ``A' f`` at a row.
    at_rows : ndarray of shape (rank, n_rows) or None
        The values ``A' f`` at the rows, times the square roots of the normalized weights, if all rows are in memory.
    residuals_at_rows : ndarray of shape (n_targets, n_rows) or None
        The residuals of the penalty 0 with the same weights.
    complements : ndarray of shape (n_rows,) or None
        ``1 - u'u`` at the rows.

    References
    ----------
    A. Demmler and C. Reinsch, "Oscillation matrices with spline smoothing", Numer. Math. 24 (1975), 375-382.
    """

    basis: Basis
    coordinates: Coordinates
    penalties: Floats
    products: Floats
    rounding: float
    at_rows: Floats | None = None
    residuals_at_rows: Floats | None = None
    complements: Floats | None = None

    @classmethod
    def of(cls, equations: NormalEquations) -> DemmlerReinsch:
        """Return the coordinates for the rows of some normal equations."""
        gram = equations.statistics.features
        if isinstance(gram, DenseFactor):
            left, values, right = singular_values(gram)
            coordinates: Coordinates = with_constant(gram.means[None], left / values)
            at_rows = np.concatenate([gram.sqrt_weights[None], right.T])
            return cls._at_rows(equations, coordinates, np.r_[0.0, values**-2.0], at_rows, 1.0)
        if isinstance(gram, MatrixFreeFactor):
            dual = DualCoordinates.centered(gram, 0.0)
            return cls._at_rows(
                equations, dual, cast(Floats, dual.penalty)[:, 0], np.ascontiguousarray(dual.values.T), 1.0
            )
        return cls._of_gram(equations)

    @classmethod
    def of_scaled_terms(cls, equations: NormalEquations) -> DemmlerReinsch:
        """Return the coordinates for penalties above 0, where the Gram matrix of the terms is ill-conditioned.

        They come from the singular values of the terms, scaled by their weights in the penalty. The errors of singular
        values are relative to the greatest one. So the directions that a penalty leaves free are exact. A whitening
        would bring the rounding errors of the narrowest direction into all directions.
        """
        gram, scales = equations.statistics.features, np.sqrt(inverse_weights(equations.basis.norm_weights))[1:, None]
        if not isinstance(gram, np.ndarray):
            return cls.of(equations)
        means, n_terms = gram[:1, 1:], len(gram)
        if equations.rows is None:
            squares, left = np.linalg.eigh(scales * (gram[1:, 1:] - means.T * means) * scales.T)
            kept = squares > rounding_ratio(n_terms) * squares.max(initial=0.0)
            coordinates = with_constant(means, scales * left[:, kept] / np.sqrt(squares[kept]))
            products = coordinates.rmatvec(equations.statistics.cross)
            # In directions that are narrow for all penalties, 1 - u'u and the penalized sums have the same errors.
            return cls(equations.basis, coordinates, np.r_[0.0, 1.0 / squares[kept]], products, -np.inf)
        features = to_numpy(equations.rows[:n_terms]) / np.sqrt(equations.statistics.total_weight)
        # The first column of Q is the constant, so the others are centered.
        orthonormal, factor = np.linalg.qr(np.concatenate([features[:1], scales * features[1:]]).T)
        left, values, right = np.linalg.svd(factor[1:, 1:].T, full_matrices=False)
        kept = values > rounding_ratio(n_terms) * values.max(initial=0.0)
        coordinates = with_constant(means, scales * left[:, kept] / values[kept])
        at_rows = np.concatenate([features[:1], right[kept] @ orthonormal[:, 1:].T])
        penalties = np.r_[0.0, values[kept] ** -2.0]
        return cls._at_rows(equations, coordinates, penalties, at_rows, equations.statistics.total_weight)

    @classmethod
    def _of_gram(cls, equations: NormalEquations) -> DemmlerReinsch:
        """Return the coordinates from the whitening, by a singular value decomposition of ``P^(1/2) T``."""
        statistics, total_weight = equations.statistics, equations.statistics.total_weight
        matrix = cast(PrimalCoordinates, equations.orthonormal_coordinates(0.0)).matrix
        values = None
        if equations.rows is not None:
            # One more step of CholeskyQR makes the values at the rows orthonormal to working precision.
            values = matrix.T @ (to_numpy(equations.rows)[: len(matrix)] / np.sqrt(total_weight))
            correction = np.linalg.inv(np.linalg.cholesky(values @ values.T)).T
            matrix, values = matrix @ correction, correction.T @ values
        of_terms = matrix if equations.transform is None else equations.transform @ matrix
        penalties, rotation = _diagonalized(np.sqrt(equations.basis.norm_weights)[:, None] * of_terms)
        coordinates = PrimalCoordinates(of_terms @ rotation)
        if values is not None:
            return cls._at_rows(equations, coordinates, penalties, rotation.T @ values, total_weight)
        products = (matrix @ rotation).T @ statistics.cross
        condition = statistics.whitening().kept_condition
        rounding = EPSILON * (_SUM_ROUNDING * np.sqrt(len(penalties)) + _CONDITION_ROUNDING * condition)
        return cls(equations.basis, coordinates, penalties, products, float(rounding))

    @classmethod
    def _at_rows(
        cls,
        equations: NormalEquations,
        coordinates: Coordinates,
        penalties: Floats,
        at_rows: Floats,
        total_weight: float,
    ) -> DemmlerReinsch:
        """Return the coordinates with their values at the rows."""
        n_targets = equations.statistics.cross.shape[1]
        targets = to_numpy(equations.rows)[-n_targets:] / np.sqrt(total_weight)
        products, rounding = at_rows @ targets.T, EPSILON * _SUM_ROUNDING * float(np.sqrt(len(penalties)))
        if at_rows.shape[1] <= 2 * len(at_rows):
            # Near interpolation, sums over the orthogonal complement have more digits than differences.
            complement = np.linalg.qr(at_rows.T, mode="complete")[0][:, len(at_rows) :].T
            residuals, complements = (targets @ complement.T) @ complement, np.square(complement).sum(axis=0)
            # The errors of the values grow with the coefficients A, whose squares are at most the penalties.
            of_values = min(EPSILON * float(np.sqrt(penalties.max())), _MAX_VALUE_ROUNDING)
            rounding = max(rounding, of_values) ** 2
        else:
            residuals, complements = targets - products.T @ at_rows, 1.0 - np.square(at_rows).sum(axis=0)
        return cls(equations.basis, coordinates, penalties, products, rounding, at_rows, residuals, complements)

    @property
    def shares(self) -> Floats:
        """The weight of each row in memory, divided by the sum of all weights: the squared values of the constant."""
        return np.square(cast(Floats, self.at_rows)[0])

    @property
    def matrix(self) -> Floats:
        """A, of shape (n_terms, rank)."""
        return cast(PrimalCoordinates, self.coordinates).matrix


def _diagonalized(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues of ``M' M``, 0 for the constant, and the eigenvectors."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    varying = values[1:]
    if len(varying) and EPSILON * varying[-1] > _MAX_EIGENVALUE_ERROR * varying[0]:
        # The singular value decomposition of M is slower, and more exact: it does not square the condition number.
        roots, transposed = np.linalg.svd(matrix)[1:]
        values, vectors = np.square(roots)[::-1], transposed[::-1].T
    return np.r_[0.0, values[1:]], vectors
