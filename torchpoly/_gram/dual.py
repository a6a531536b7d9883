"""Coordinates of more terms than rows: combinations of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._gram.factors import GramFactor, inverse_weights
from torchpoly._gram.whitening import EPSILON

# Norms of rows that are further apart leave the lighter ones fewer digits.
_WIDELY = 100.0


def _eigensystem(kernel: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues beyond rounding, and their vectors.

    The entries of the rows' own Gram matrix are rounded once or twice only, so that typical errors of
    eigenvalues decide, not the greatest possible.
    """
    values, vectors = np.linalg.eigh(kernel)
    kept = values > 4 * np.sqrt(len(values)) * EPSILON * values.max(initial=0.0)
    return values[kept], vectors[:, kept]


def _n_refinements(eigenvalues: Floats) -> int:
    """Return how often residuals correct what products with the inverse lose, a share of EPSILON times this condition.

    Each time a share as small is left.
    """
    condition = eigenvalues[-1] / eigenvalues[0] if len(eigenvalues) else 1.0
    return 0 if condition < 1e4 else 1 if condition < 1e9 else 3


def orthogonal_complement(vector: Floats) -> Floats:
    """Return an orthonormal basis of what is orthogonal to a vector, of shape (n, n - 1)."""
    return np.linalg.qr(vector[:, None], mode="complete")[0][:, 1:]


@dataclass(frozen=True)
class DualCoordinates:
    """Combinations of terms in the span of few rows.

    T would be as large as the rows' features F. But for the constant, which has a row of its own, it is
    ``P^-1 F M`` with a small matrix M and the diagonal P of the weights of the norm.

    Parameters
    ----------
    factor : DenseFactor or MatrixFreeFactor
        F.
    transform : ndarray of shape (n_rows, rank)
        M.
    values : ndarray of shape (n_rows, rank)
        The combinations at the rows, times the roots of shares: orthonormal columns without a penalty.
    constant : ndarray of shape (1, rank)
    n_refinements : int
        How often the rows' residuals correct coefficients, which would lose digits otherwise.
    penalty : ndarray of shape (rank, 1) or None
        The diagonal of ``T.T @ P @ T``, which has nothing beside it, where there is a penalty.
    """

    factor: GramFactor
    transform: Floats
    values: Floats
    constant: Floats
    n_refinements: int = 0
    penalty: Floats | None = None

    @classmethod
    def of(cls, factor: GramFactor, alpha: float) -> DualCoordinates:
        """Take them from the rows' kernel matrix ``K = F_0' P^-1 F_0``, F_0 the features without weights."""
        if alpha or factor.sqrt_weights.max() < _WIDELY * factor.sqrt_weights.min():
            return cls._centered(factor, alpha)
        return cls._interpolating(factor)

    @classmethod
    def _centered(cls, factor: GramFactor, alpha: float) -> DualCoordinates:
        """Return the coordinates in which the penalized Gram matrix is the identity.

        The constant takes the weighted means out: with ``V L V'`` the weighted kernel matrix of centered
        rows, ``M = V / sqrt(L**2 + alpha L)``, of which the squared norm of the coefficients is
        ``1 / (L + alpha)``.
        """
        sqrt_weights = factor.sqrt_weights[None]
        gram = sqrt_weights.T * factor.kernel * sqrt_weights
        # Eigenvectors of the centered matrix itself would mix with its null vector, the constant.
        complement = orthogonal_complement(factor.sqrt_weights)
        eigenvalues, vectors = _eigensystem(complement.T @ gram @ complement)
        vectors = complement @ vectors
        varying = vectors / np.sqrt(eigenvalues * (eigenvalues + alpha))
        # The means of the centered rows' polynomials, which the constant takes away.
        means = sqrt_weights @ gram @ varying
        return cls(
            factor,
            np.c_[np.zeros(len(gram)), varying],
            np.c_[sqrt_weights.T, vectors * np.sqrt(eigenvalues / (eigenvalues + alpha))],
            np.c_[1.0, -means],
            n_refinements=0 if alpha else _n_refinements(eigenvalues),
            penalty=np.r_[0.0, 1 / (eigenvalues + alpha)][:, None] if alpha else None,
        )

    @classmethod
    def _interpolating(cls, factor: GramFactor) -> DualCoordinates:
        """Return the interpolants of least norm of orthonormal values U.

        With ``K = V L V'`` for rows less their mean, values f are taken by the function with
        ``M = V L^-1 V' f``. Weights come in by U alone, so that light rows keep their digits.
        """
        sqrt_weights, kernel = factor.sqrt_weights, factor.kernel
        contrasts = orthogonal_complement(np.ones(len(sqrt_weights)))
        eigenvalues, vectors = _eigensystem(contrasts.T @ kernel @ contrasts)
        vectors = contrasts @ vectors
        span = np.eye(len(sqrt_weights))
        if len(eigenvalues) + 1 < len(sqrt_weights):
            span = np.linalg.qr(sqrt_weights[:, None] * np.c_[np.ones(len(sqrt_weights)), vectors])[0]
        at_rows = span / sqrt_weights[:, None]
        transform = (vectors / eigenvalues) @ (vectors.T @ at_rows)
        constant = at_rows.mean(axis=0) - kernel.mean(axis=0) @ transform
        return cls(factor, transform / sqrt_weights[:, None], span, constant[None], _n_refinements(eigenvalues))

    @property
    def rank(self) -> int:
        """Number of the combinations."""
        return self.transform.shape[1]

    def __matmul__(self, parameters: Floats) -> Floats:
        coefficients = self._combined(parameters)
        for _ in range(self.n_refinements):
            residuals = self.values @ parameters - self.factor.matvec(coefficients)
            coefficients += self._combined(self.values.T @ residuals)
        return coefficients

    def _combined(self, parameters: Floats) -> Floats:
        coefficients = self.factor.rmatvec(self.transform @ parameters)
        coefficients *= inverse_weights(self.factor.norm_weights)[:, None]
        coefficients[0] = self.constant[0] @ parameters
        return coefficients

    def rmatvec(self, products: Floats) -> Floats:
        """Return ``T.T @ products``."""
        varying = inverse_weights(self.factor.norm_weights)[:, None] * products
        return self.transform.T @ self.factor.matvec(varying) + self.constant.T @ products[:1]

    def rmatvec_at_rows(self, weights: Floats) -> Floats:
        """Return ``T.T @ F @ weights``, for which the rows' values are enough."""
        return self.values.T @ weights

    def penalty_gradient(self, parameters: Floats, norm_weights: Floats) -> Floats:
        """Return ``T.T @ P @ T @ parameters``: half the gradient of the squared norm of the coefficients."""
        return cast(Floats, self.penalty) * parameters

    @property
    def at_rows(self) -> Floats:
        """The combinations at the rows, of shape (rank, n_rows)."""
        return self.values.T / self.factor.sqrt_weights
