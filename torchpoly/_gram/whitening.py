"""Whitening: the matrix T for which the Gram matrix of ``T.T @ features`` is the identity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchpoly._backend.rows import Floats

EPSILON = float(np.finfo(np.float64).eps)
# Greatest coefficient of a null direction in a projection: with larger ones, the rounding of the direction at the rows
# would change predictions.
_MAX_NULL_COEFFICIENT = 1e6


def rounding_ratio(n_terms: int) -> float:
    """Return the ratio to the largest eigenvalue below which eigenvalues are rounding."""
    return 10 * n_terms * EPSILON


@dataclass(frozen=True)
class Whitening:
    """Matrices T for which ``T.T @ gram @ T`` is the identity, or nearly the identity.

    Parameters
    ----------
    gram : ndarray of shape (n_terms, n_terms)
        Symmetric and positive semidefinite up to rounding.
    """

    gram: Floats

    @cached_property
    def _inverse_factor(self) -> Floats | None:
        """The inverse of the Cholesky factor; None if the matrix is not positive definite."""
        try:
            return np.linalg.inv(np.linalg.cholesky(self.gram))
        except np.linalg.LinAlgError:
            return None

    @cached_property
    def condition(self) -> float:
        """An upper bound of the condition number: trace(G) * trace(G^-1), at most n_terms**2 times too large."""
        inverse = self._inverse_factor
        return np.inf if inverse is None else float(np.trace(self.gram) * np.vdot(inverse, inverse))

    @property
    def kept_condition(self) -> float:
        """The condition number without the null directions, or an upper bound of it."""
        if self._triangular is not None:
            return self.condition
        values = self.eigensystem[0]
        return float(values[-1] / values[values > self.rounding].min(initial=values[-1]))

    @cached_property
    def eigensystem(self) -> tuple[Floats, Floats]:
        """The eigenvalues in ascending order, and the eigenvectors."""
        values, vectors = np.linalg.eigh(self.gram)
        return values, vectors

    @property
    def rounding(self) -> float:
        """The threshold below which eigenvalues are rounding."""
        return rounding_ratio(len(self.gram)) * float(self.eigensystem[0][-1])

    def least_norm(self, norm_weights: Floats | None) -> Floats:
        """Return the triangular T, or the T of least norm if the matrix is singular to working precision.

        Parameters
        ----------
        norm_weights : ndarray of shape (n_terms,) or None
            Weights of the squared coefficients in the norm; None stands for equal weights.
        """
        if self._triangular is not None:
            return self._triangular
        return self.truncated if norm_weights is None else without_null(self.truncated, self.null, norm_weights)

    @property
    def complete(self) -> Floats:
        """The triangular T, or the raised T if the matrix is singular to working precision."""
        return self.raised if self._triangular is None else self._triangular

    @property
    def _triangular(self) -> Floats | None:
        """The transposed inverse of the Cholesky factor; None if the matrix is singular to working precision."""
        inverse = self._inverse_factor
        return None if inverse is None or self.condition >= 1 / rounding_ratio(len(self.gram)) else inverse.T

    @property
    def truncated(self) -> Floats:
        """``V / sqrt(L)`` of the eigenvalues L above rounding and their eigenvectors V."""
        values, vectors = self.eigensystem
        kept = values > self.rounding
        return vectors[:, kept] / np.sqrt(values[kept])

    @property
    def raised(self) -> Floats:
        """``V / sqrt(max(L, rounding))`` of all eigenvalues L and their eigenvectors V."""
        values, vectors = self.eigensystem
        return vectors / np.sqrt(np.maximum(values, self.rounding))

    @property
    def null(self) -> Floats:
        """The eigenvectors whose eigenvalues are rounding."""
        values, vectors = self.eigensystem
        return vectors[:, values <= self.rounding]


def penalized(gram: Floats, alpha: float, norm_weights: Floats) -> Floats:
    """Return ``G + alpha P``, where P is the diagonal matrix of the weights of the norm."""
    penalized = gram.copy()
    penalized[np.diag_indices_from(gram)] += alpha * norm_weights
    return penalized


def without_null(matrix: Floats, null: Floats, norm_weights: Floats) -> Floats:
    """Return ``(I - N (N' P N)^-1 N' P) M``: the columns have least norm among those of the same values at the rows.

    Parameters
    ----------
    matrix : ndarray of shape (n_terms, n)
        M: coefficients of polynomials.
    null : ndarray of shape (n_terms, n_null)
        N: null directions, as orthonormal columns.
    norm_weights : ndarray of shape (n_terms,)
        The diagonal of P.
    """
    weighted = norm_weights[:, None] * null
    steps = np.linalg.solve(null.T @ weighted, weighted.T @ matrix)
    too_long = np.abs(steps).max(axis=0, initial=0.0) > _MAX_NULL_COEFFICIENT
    steps[:, too_long] = null.T @ matrix[:, too_long]
    return matrix - null @ steps
