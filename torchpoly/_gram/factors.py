"""The Gram matrix of more terms than rows: never formed, known by its factor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np

from torchpoly._backend.device import Device, halving_on_out_of_memory, to_device, to_numpy
from torchpoly._backend.rows import Floats
from torchpoly._gram.design_matrix import DesignMatrix
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain

# A factor of no more elements, 64 MiB, is held, and one of not many more terms than rows: the work
# on the rows' own Gram matrix takes as much.
MAX_HELD, _MANY = 2**23, 2
# Elements of the matrices that the rows' Gram matrix is added up in: they stay in cache.
KERNEL_ELEMENTS = 2**14


def is_held(n_terms: int, n_rows: int) -> bool:
    """Whether the features of fewer rows than terms are held."""
    return n_rows * n_terms <= MAX_HELD or n_terms <= _MANY * n_rows


def inverse_weights(norm_weights: Floats) -> Floats:
    """Return the inverses of the weights of the norm, 0 where they are 0."""
    return np.divide(1.0, norm_weights, out=np.zeros_like(norm_weights), where=norm_weights > 0)


@dataclass(frozen=True)
class DenseFactor:
    """The Gram matrix ``rows @ rows.T``, by a factor that is small enough to hold.

    Parameters
    ----------
    rows : ndarray of shape (n_terms, n_rows)
        Features times the root of their row's share in the total weight.
    norm_weights : ndarray of shape (n_terms,)
        Weights of the squared coefficients in the norm that is least, or penalized.
    """

    rows: Floats
    norm_weights: Floats

    def __matmul__(self, other: Floats) -> Floats:
        return self.rmatvec(self.matvec(other))

    def rmatvec(self, weights: Floats) -> Floats:
        """Return ``rows @ weights``, of shape (n_terms, n_vectors), of weights of shape (n_rows, n_vectors)."""
        return self.rows @ weights

    def matvec(self, coefficients: Floats) -> Floats:
        """Return ``rows.T @ coefficients``: polynomials at the rows, times the roots of shares, in columns."""
        return self.rows.T @ coefficients

    @property
    def sqrt_weights(self) -> Floats:
        """Roots of the rows' shares in the total weight, of shape (n_rows,)."""
        return self.rows[0]

    @property
    def means(self) -> Floats:
        """Weighted means of the features but the constant, of shape (n_terms - 1,)."""
        return self.rows[1:] @ self.sqrt_weights

    @cached_property
    def kernel(self) -> Floats:
        """The rows' kernel matrix: products of features, divided by the weights of the norm, without the constant."""
        features = self.rows[1:] / (self.sqrt_weights * np.sqrt(self.norm_weights[1:, None]))
        return features.T @ features

    def largest_eigenvalue(self) -> float:
        """Return that of ``rows @ rows.T``."""
        return float(np.linalg.eigvalsh(self.rows.T @ self.rows)[-1])

    def leading_gram(self, n_terms: int) -> Floats:
        """Return the Gram matrix of the first terms."""
        rows = self.rows[:n_terms]
        return rows @ rows.T

    @property
    def n_bytes(self) -> int:
        """Size of the factor."""
        return self.rows.nbytes

    def is_finite(self) -> bool:
        """Whether no feature was too large for the products."""
        # No entry of the products exceeds the sum of all squares.
        return bool(np.isfinite(np.vdot(self.rows, self.rows)))


@dataclass(frozen=True)
class MatrixFreeFactor:
    """The Gram matrix ``rows @ rows.T``, by a factor that is evaluated anew at each use.

    Parameters
    ----------
    basis : Basis
        The features.
    variables : ndarray of shape (n_variables, n_rows)
        What the basis is evaluated at.
    sqrt_weights : ndarray of shape (n_rows,)
        Roots of the rows' shares in the total weight.
    device : torch.device or None
        Where the features are computed.
    """

    basis: Basis
    variables: Floats
    sqrt_weights: Floats
    device: Device

    def __matmul__(self, other: Floats) -> Floats:
        return self.rmatvec(self.matvec(other))

    @cached_property
    def _design(self) -> DesignMatrix:
        """The features, without the roots of shares."""
        basis = replace(self.basis, domain=Domain.identity(len(self.variables)))
        return DesignMatrix(basis, self.variables.T, device=self.device)

    def rmatvec(self, weights: Floats) -> Floats:
        """Return ``rows @ weights``, of shape (n_terms, n_vectors), of weights of shape (n_rows, n_vectors)."""
        return self._design.rmatvec(to_device((self.sqrt_weights[:, None] * weights).T, self.device))

    def matvec(self, coefficients: Floats) -> Floats:
        """Return ``rows.T @ coefficients``: polynomials at the rows, times the roots of shares, in columns."""
        return np.ascontiguousarray(self.sqrt_weights[:, None] * to_numpy(self._design.matvec(coefficients)).T)

    @property
    def norm_weights(self) -> Floats:
        """Weights of the squared coefficients in the norm that is least, or penalized."""
        return self.basis.norm_weights

    @cached_property
    def kernel(self) -> Floats:
        """The rows' kernel matrix: products of features, divided by the weights of the norm, without the constant.

        It is made by a recurrence that needs no features.
        """
        return self._products(inverse_weights(self.basis.weights_of_degrees))

    def largest_eigenvalue(self) -> float:
        """Return that of ``rows @ rows.T``."""
        products = self.sqrt_weights[:, None] * self._products(None) * self.sqrt_weights
        return float(np.linalg.eigvalsh(products)[-1])

    def _products(self, weights: Floats | None) -> Floats:
        """Return the products of the rows' features, weighted by the degree of the term."""
        size = max(1, KERNEL_ELEMENTS // len(self.sqrt_weights))
        return halving_on_out_of_memory(self.device, size, lambda size: self._products_by_chunks(size, weights))

    def _products_by_chunks(self, size: int, weights: Floats | None) -> Floats:
        n_rows = len(self.sqrt_weights)
        gram = np.empty((n_rows, n_rows))
        variables = to_device(self.variables, self.device)
        for start in range(0, n_rows, size):
            rows, so_far = slice(start, start + size), slice(0, start + size)  # the matrix is symmetric
            gram[rows, so_far] = to_numpy(self.basis.kernel(variables[:, rows], variables[:, so_far], weights))
            gram[so_far, rows] = gram[rows, so_far].T
        return gram

    def leading_gram(self, n_terms: int) -> Floats:
        """Return the Gram matrix of the first terms."""
        rows = self.sqrt_weights * cast(Floats, self.basis.leading(n_terms).evaluate(self.variables))[:n_terms]
        return rows @ rows.T

    @property
    def n_bytes(self) -> int:
        """Size that the factor would have."""
        return 8 * self.basis.n_terms * len(self.sqrt_weights)

    def is_finite(self) -> bool:
        """Whether no feature was too large for the products."""
        return bool(np.isfinite(self.kernel).all())


GramFactor = DenseFactor | MatrixFreeFactor
