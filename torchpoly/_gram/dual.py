"""Dual coordinates: combinations of the rows, for more terms than rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._gram.factors import GramFactor, inverse_weights
from torchpoly._gram.whitening import EPSILON

# If the square roots of weights differ by a larger factor, the weighted kernel matrix loses digits of light rows.
_MAX_WEIGHT_RATIO = 100.0


def _eigensystem(kernel: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues above rounding in ascending order, and their eigenvectors.

    The threshold is the typical error of eigenvalues, not the upper bound: each entry of a kernel matrix
    is rounded once or twice only.
    """
    values, vectors = np.linalg.eigh(kernel)
    kept = values > 4 * np.sqrt(len(values)) * EPSILON * values.max(initial=0.0)
    return values[kept], vectors[:, kept]


def _n_refinements(eigenvalues: Floats) -> int:
    """Return the number of steps of iterative refinement.

    Each step multiplies the relative error by about EPSILON times the condition number.
    """
    condition = eigenvalues[-1] / eigenvalues[0] if len(eigenvalues) else 1.0
    return 0 if condition < 1e4 else 1 if condition < 1e9 else 3


def orthogonal_complement(vector: Floats) -> Floats:
    """Return an orthonormal basis of the orthogonal complement of a vector, of shape (n, n - 1)."""
    return np.linalg.qr(vector[:, None], mode="complete")[0][:, 1:]


@dataclass(frozen=True)
class DualCoordinates:
    """Parameters t with the coefficients ``T @ t`` in the span of the rows.

    T is ``P^-1 F M`` except for its first row, that of the constant term. F are the features at the rows,
    times the square roots of the normalized weights. P is the diagonal matrix of the weights of the norm.
    T is as large as F, so only the small matrix M is stored.

    Parameters
    ----------
    factor : DenseFactor or MatrixFreeFactor
        F.
    transform : ndarray of shape (n_rows, rank)
        M.
    values : ndarray of shape (n_rows, rank)
        ``F.T @ T``: the features ``T.T @ f`` at the rows, times the square roots of the normalized weights.
        Without a penalty its columns are orthonormal.
    constant : ndarray of shape (1, rank)
        The first row of T.
    n_refinements : int
        Number of steps of iterative refinement of coefficients.
    penalty : ndarray of shape (rank, 1) or None
        The diagonal of ``T.T @ P @ T``, if that is a diagonal matrix.
    """

    factor: GramFactor
    transform: Floats
    values: Floats
    constant: Floats
    n_refinements: int = 0
    penalty: Floats | None = None

    @classmethod
    def of(cls, factor: GramFactor, alpha: float) -> DualCoordinates:
        """Return the coordinates from the kernel matrix ``K = F_0' P^-1 F_0`` of the features F_0 without weights."""
        if alpha or factor.sqrt_weights.max() < _MAX_WEIGHT_RATIO * factor.sqrt_weights.min():
            return cls.centered(factor, alpha)
        return cls._interpolating(factor)

    @classmethod
    def centered(cls, factor: GramFactor, alpha: float) -> DualCoordinates:
        """Return ``M = V / sqrt(L**2 + alpha L)`` for the weighted and centered kernel matrix ``V L V'``.

        In these coordinates the penalized Gram matrix is the identity. The constant absorbs the weighted
        means. The squared norms of the columns of T are ``1 / (L + alpha)``.
        """
        sqrt_weights = factor.sqrt_weights[None]
        gram = sqrt_weights.T * factor.kernel * sqrt_weights
        # Eigenvectors of the centered matrix itself would mix with its null vector, the constant.
        complement = orthogonal_complement(factor.sqrt_weights)
        eigenvalues, vectors = _eigensystem(complement.T @ gram @ complement)
        vectors = complement @ vectors
        varying = vectors / np.sqrt(eigenvalues * (eigenvalues + alpha))
        # The constant subtracts the weighted means of the other terms' combinations.
        means = sqrt_weights @ gram @ varying
        transform, constant = np.c_[np.zeros(len(gram)), varying], np.c_[1.0, -means]
        values = np.c_[sqrt_weights.T, vectors * np.sqrt(eigenvalues / (eigenvalues + alpha))]
        n_refinements = 0 if alpha else _n_refinements(eigenvalues)
        return cls(factor, transform, values, constant, n_refinements, np.r_[0.0, 1 / (eigenvalues + alpha)][:, None])

    @classmethod
    def _interpolating(cls, factor: GramFactor) -> DualCoordinates:
        """Return the interpolants of least norm of orthonormal values U at the rows.

        With the centered kernel matrix ``K = V L V'``, ``M = V L^-1 V' f`` is the interpolant of values f.
        Only U depends on the weights, so light rows lose no digits.
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
        """Number of parameters for each target."""
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
        """Return ``T.T @ F @ weights``, which is ``values.T @ weights``."""
        return self.values.T @ weights

    def penalty_gradient(self, parameters: Floats, norm_weights: Floats) -> Floats:
        """Return ``T.T @ P @ T @ parameters``: half the gradient of the squared norm of the coefficients."""
        return cast(Floats, self.penalty) * parameters

    @property
    def at_rows(self) -> Floats:
        """The features ``T.T @ f`` at the rows, of shape (rank, n_rows)."""
        return self.values.T / self.factor.sqrt_weights
