"""Coordinates of training, in which features are orthonormal under the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from torchpoly._domain import Floats
from torchpoly._few_rows import GramFactor

EPSILON = float(np.finfo(np.float64).eps)
# Norms of rows that are further apart leave the lighter ones fewer digits.
_WIDELY = 100.0


def rounding_share(n_terms: int, epsilon: float = EPSILON) -> float:
    """Return the share of the greatest eigenvalue below which rounding leaves no digits of others."""
    return 10 * n_terms * epsilon


@dataclass(frozen=True)
class InverseRoots:
    """The matrices T for which ``T.T @ gram @ T`` is the identity, or nearly so.

    Parameters
    ----------
    gram : ndarray of shape (n_terms, n_terms)
        Symmetric, without negative eigenvalues but for rounding.
    epsilon : float
        Of the precision that it was computed in.
    """

    gram: Floats
    epsilon: float = EPSILON

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
        return rounding_share(len(self.gram), self.epsilon) * float(self.eigensystem[0][-1])

    @property
    def best(self) -> Floats:
        """The triangular one, or where the matrix is singular to working precision the truncated one."""
        return self.truncated if self._triangular is None else self._triangular

    @property
    def complete(self) -> Floats:
        """The triangular one, or where the matrix is singular to working precision the raised one."""
        return self.raised if self._triangular is None else self._triangular

    @property
    def _triangular(self) -> Floats | None:
        """The transposed inverse of the Cholesky factor, None where rounding leaves it no digits."""
        inverse = self._inverse_factor
        return (
            None if inverse is None or self.condition >= 1 / rounding_share(len(self.gram), self.epsilon) else inverse.T
        )

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


def penalised(gram: Floats, alpha: float) -> Floats:
    """Return the Gram matrix with alpha added to its diagonal, except for the constant."""
    penalised = gram.copy()
    varying = np.arange(1, len(gram))
    penalised[varying, varying] += alpha
    return penalised


@dataclass(frozen=True)
class TermCoordinates:
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

    def pull(self, products: Floats) -> Floats:
        """Return ``T.T @ products``."""
        return self.matrix.T @ products

    def pull_penalty(self, parameters: Floats) -> Floats:
        """Return ``T.T @ P @ T @ parameters``: half the gradient of the squares of coefficients but the constant's."""
        varying = self.matrix[1:]
        return varying.T @ (varying @ parameters)


def _eigensystem(kernel: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues beyond rounding, and their vectors.

    The entries of the rows' own Gram matrix are rounded once or twice only, so that typical errors of
    eigenvalues decide, not the greatest possible.
    """
    values, vectors = np.linalg.eigh(kernel)
    kept = values > 4 * np.sqrt(len(values)) * EPSILON * values[-1]
    return values[kept], vectors[:, kept]


def _n_refinements(eigenvalues: Floats) -> int:
    """Return how often residuals correct what products with the inverse lose, a share of EPSILON times this condition.

    Each time a share as small is left.
    """
    condition = eigenvalues[-1] / eigenvalues[0]
    return 0 if condition < 1e4 else 1 if condition < 1e9 else 3


@dataclass(frozen=True)
class RowCoordinates:
    """Combinations of terms in the span of few rows.

    T would be as large as the rows' features F. It is their product with a small matrix, but for the
    constant, which with a penalty has a row of its own.

    Parameters
    ----------
    factor : HeldFactor or EvaluatedFactor
        F.
    mixing : ndarray of shape (n_rows, rank)
    values : ndarray of shape (n_rows, rank)
        The combinations at the rows, times the roots of shares: orthonormal columns without a penalty.
    n_refinements : int
        How often the rows' residuals correct coefficients, which would lose digits otherwise.
    constant : ndarray of shape (1, rank) or None
    penalty : ndarray of shape (rank, 1) or None
        The diagonal of ``T.T @ P @ T``, which has nothing beside it, where there is a penalty.
    """

    factor: GramFactor
    mixing: Floats
    values: Floats
    n_refinements: int = 0
    constant: Floats | None = None
    penalty: Floats | None = None

    @classmethod
    def of(cls, factor: GramFactor, alpha: float) -> RowCoordinates:
        """Take them from the rows' own Gram matrix K.

        With ``K = V L V'`` and no penalty, ``T = F V / L``, of which the coefficients are the ones of
        least norm. Light rows among heavy ones would lose their digits in that. Where weights differ
        widely, ``T = F M`` with the same property, where ``K M = U`` has orthonormal columns that span the
        range of K: with ``S K S = V L V'``, where S scales the diagonal to 1, ``M = S V L^-1 V' S U``.

        With a penalty, the constant takes the means out: with ``K = V L V'`` for the centered rows,
        ``T = centered F V / sqrt(L**2 + alpha L)``, of which the squares of the coefficients but the
        constant's sum up to ``1 / (L + alpha)``.
        """
        roots = factor.roots[None]
        gram = factor.kernel
        if not alpha:
            scales = 1 / np.sqrt(np.diagonal(gram))[:, None]
            if scales.max() < _WIDELY * scales.min():
                eigenvalues, vectors = _eigensystem(gram)
                return cls(factor, vectors / eigenvalues, vectors, _n_refinements(eigenvalues))
            eigenvalues, vectors = _eigensystem(scales * gram * scales.T)
            inverse = (vectors / eigenvalues) @ vectors.T
            span = np.eye(len(gram)) if len(eigenvalues) == len(gram) else np.linalg.qr(vectors / scales)[0]
            return cls(factor, scales * (inverse @ (scales * span)), span, _n_refinements(eigenvalues))
        centering = np.eye(len(gram)) - roots.T @ roots
        centered = gram - roots.T @ roots
        eigenvalues, vectors = _eigensystem(centering @ centered @ centering)
        varying = centering @ vectors / np.sqrt(eigenvalues * (eigenvalues + alpha))
        # The means of the centered rows' polynomials, which the constant takes away.
        means = roots @ centered @ varying
        values = vectors * np.sqrt(eigenvalues / (eigenvalues + alpha))
        return cls(
            factor,
            np.c_[np.zeros(len(gram)), varying],
            np.c_[roots.T, values],
            constant=np.c_[1.0, -means],
            penalty=np.r_[0.0, 1 / (eigenvalues + alpha)][:, None],
        )

    @property
    def rank(self) -> int:
        """Number of the combinations."""
        return self.mixing.shape[1]

    def __matmul__(self, parameters: Floats) -> Floats:
        coefficients = self.factor.combine(self.mixing @ parameters)
        if self.constant is not None:
            coefficients[0] = self.constant[0] @ parameters
        for _ in range(self.n_refinements):
            residuals = self.values @ parameters - self.factor.values(coefficients)
            coefficients += self.factor.combine(self.mixing @ (self.values.T @ residuals))
        return coefficients

    def pull(self, products: Floats) -> Floats:
        """Return ``T.T @ products``."""
        if self.constant is None:
            return self.mixing.T @ self.factor.values(products)
        centered = self.factor.values(products) - self.factor.roots[:, None] * products[:1]
        return self.mixing.T @ centered + self.constant.T @ products[:1]

    def pull_rows(self, weights: Floats) -> Floats:
        """Return ``T.T @ F @ weights``, for which the rows' values are enough."""
        return self.values.T @ weights

    def pull_penalty(self, parameters: Floats) -> Floats:
        """Return ``T.T @ P @ T @ parameters``: half the gradient of the squares of coefficients but the constant's."""
        return cast(Floats, self.penalty) * parameters

    @property
    def at_rows(self) -> Floats:
        """The combinations at the rows, of shape (rank, n_rows)."""
        return self.values.T / self.factor.roots


Coordinates = TermCoordinates | RowCoordinates


def pull_penalty(coordinates: Coordinates | None, parameters: Floats) -> Floats:
    """Return half the gradient of the squares of the basis's coefficients, but the constant's.

    Without coordinates, the parameters are these coefficients.
    """
    if coordinates is not None:
        return coordinates.pull_penalty(parameters)
    penalised = parameters.copy()
    penalised[0] = 0.0
    return penalised
