"""Coordinates of training, in which features are orthonormal under the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from torchpoly._few_rows import DenseFactor, GramFactor, inverse_weights
from torchpoly._rows_of_arrays import Floats

EPSILON = float(np.finfo(np.float64).eps)
# Norms of rows that are further apart leave the lighter ones fewer digits.
_WIDELY = 100.0
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


@dataclass(frozen=True)
class PrimalCoordinates:
    """Combinations of terms.

    Parameters
    ----------
    matrix : ndarray of shape (n_terms, rank)
    """

    matrix: Floats

    @property
    def rank(self) -> int:
        """Number of the combinations."""
        return self.matrix.shape[1]

    def __matmul__(self, parameters: Floats) -> Floats:
        return self.matrix @ parameters

    def rmatvec(self, products: Floats) -> Floats:
        """Return ``T.T @ products``."""
        return self.matrix.T @ products

    def penalty_gradient(self, parameters: Floats, norm_weights: Floats) -> Floats:
        """Return ``T.T @ P @ T @ parameters``: half the gradient of the squared norm of the coefficients."""
        return self.matrix.T @ (norm_weights[:, None] * (self.matrix @ parameters))


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


def _complement(vector: Floats) -> Floats:
    """Return an orthonormal basis of what is orthogonal to a vector, of shape (n, n - 1)."""
    return np.linalg.qr(vector[:, None], mode="complete")[0][:, 1:]


def interpolating(factor: DenseFactor) -> PrimalCoordinates:
    """Return T of least norm such that ``T.T @ G @ T`` is the identity, from a singular value decomposition.

    The constant is free, so it takes the weighted means of the rows out of the other terms.
    """
    scales = np.sqrt(inverse_weights(factor.norm_weights))[1:, None]
    centered = scales * (factor.rows[1:] @ _complement(factor.sqrt_weights))
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    kept = values > rounding_share(len(factor.sqrt_weights)) * values.max(initial=0.0)
    varying = scales * (left[:, kept] / values[kept])
    means = factor.means[None]
    return PrimalCoordinates(np.block([[np.ones((1, 1)), -means @ varying], [np.zeros((len(varying), 1)), varying]]))


def on_span(coordinates: PrimalCoordinates, coefficients: Floats, norm_weights: Floats, means: Floats) -> Floats:
    """Return the coefficients of least norm with the same values on few rows: projected on the span of the rows.

    Parameters
    ----------
    coordinates : PrimalCoordinates
        Of :func:`interpolating`, with orthogonal columns but for the weights of the norm.
    coefficients : ndarray of shape (n_terms, n)
    norm_weights : ndarray of shape (n_terms,)
    means : ndarray of shape (n_terms - 1,)
        Of the terms but the constant.
    """
    scales = np.sqrt(norm_weights[1:, None])
    span = scales * coordinates.matrix[1:, 1:]
    span /= np.linalg.norm(span, axis=0)
    varying = span @ (span.T @ (scales * coefficients[1:])) / scales
    return np.concatenate([coefficients[:1] + means @ (coefficients[1:] - varying), varying])


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
        complement = _complement(factor.sqrt_weights)
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
        contrasts = _complement(np.ones(len(sqrt_weights)))
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


Coordinates = PrimalCoordinates | DualCoordinates


def penalty_gradient(coordinates: Coordinates | None, parameters: Floats, norm_weights: Floats) -> Floats:
    """Return half the gradient of the squared norm of the basis's coefficients.

    Without coordinates, the parameters are these coefficients.
    """
    if coordinates is not None:
        return coordinates.penalty_gradient(parameters, norm_weights)
    return norm_weights[:, None] * parameters
