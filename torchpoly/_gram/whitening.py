"""Coordinates of training, in which features are orthonormal under the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchpoly._backend.rows import Floats

EPSILON = float(np.finfo(np.float64).eps)
# Coefficients of polynomials that are null but for rounding stay below this.
_MAX_STEP = 1e6


def rounding_share(n_terms: int) -> float:
    """Return the share of the greatest eigenvalue below which rounding leaves no digits of others."""
    return 10 * n_terms * EPSILON


@dataclass(frozen=True)
class Whitening:
    """The matrices T for which ``T.T @ gram @ T`` is the identity, or nearly so.

    Parameters
    ----------
    gram : ndarray of shape (n_terms, n_terms)
        Symmetric, without negative eigenvalues but for rounding.
    """

    gram: Floats

    @cached_property
    def _inverse_factor(self) -> Floats | None:
        """The inverse of the Cholesky factor, None where there is none."""
        try:
            return np.linalg.inv(np.linalg.cholesky(self.gram))
        except np.linalg.LinAlgError:
            return None

    @cached_property
    def condition(self) -> float:
        """An upper bound of the condition number: trace(G) * trace(G^-1), at most n_terms**2 times too large."""
        inverse = self._inverse_factor
        return np.inf if inverse is None else float(np.trace(self.gram) * np.vdot(inverse, inverse))

    @cached_property
    def eigensystem(self) -> tuple[Floats, Floats]:
        """The eigenvalues, rising, and the eigenvectors."""
        values, vectors = np.linalg.eigh(self.gram)
        return values, vectors

    @property
    def rounding(self) -> float:
        """The eigenvalue below which there is only rounding."""
        return rounding_share(len(self.gram)) * float(self.eigensystem[0][-1])

    def least_norm(self, norm_weights: Floats | None) -> Floats:
        """Return the triangular one, or where the matrix is singular to working precision the one of least norm.

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
        """The triangular one, or where the matrix is singular to working precision the raised one."""
        return self.raised if self._triangular is None else self._triangular

    @property
    def _triangular(self) -> Floats | None:
        """The transposed inverse of the Cholesky factor, None where rounding leaves it no digits."""
        inverse = self._inverse_factor
        return None if inverse is None or self.condition >= 1 / rounding_share(len(self.gram)) else inverse.T

    @property
    def truncated(self) -> Floats:
        """Eigenvectors over the roots of their eigenvalues, without those of rounding."""
        values, vectors = self.eigensystem
        kept = values > self.rounding
        return vectors[:, kept] / np.sqrt(values[kept])

    @property
    def raised(self) -> Floats:
        """Eigenvectors over the roots of their eigenvalues, those of rounding raised to it."""
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
    """Return ``(I - N (N' P N)^-1 N' P) M``, of which the columns have least norm for their values on the rows.

    Parameters
    ----------
    matrix : ndarray of shape (n_terms, n)
        M: coefficients of polynomials.
    null : ndarray of shape (n_terms, n_null)
        N: coefficients of polynomials that are 0 on all rows, as orthonormal columns.
    norm_weights : ndarray of shape (n_terms,)
        The diagonal of P.
    """
    weighted = norm_weights[:, None] * null
    steps = np.linalg.solve(null.T @ weighted, weighted.T @ matrix)
    # On the rows, N is rounding. Steps so long would make that rounding felt.
    too_long = np.abs(steps).max(axis=0, initial=0.0) > _MAX_STEP
    steps[:, too_long] = null.T @ matrix[:, too_long]
    return matrix - null @ steps
