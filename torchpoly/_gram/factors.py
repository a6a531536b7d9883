"""The Gram matrix of more terms than rows as a product ``F @ F.T``: a linear operator that is not formed."""

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

# A factor is in memory up to this number of elements, 64 MiB, or up to this number of terms for each row: the kernel
# matrix needs as much memory.
MAX_DENSE_ELEMENTS, _MAX_DENSE_TERMS_PER_ROW = 2**23, 2
# Number of elements in a block of the kernel matrix. A block stays in the cache.
KERNEL_ELEMENTS = 2**14


def is_dense(n_terms: int, n_rows: int) -> bool:
    """Whether the factor of fewer rows than terms is in memory."""
    return n_rows * n_terms <= MAX_DENSE_ELEMENTS or n_terms <= _MAX_DENSE_TERMS_PER_ROW * n_rows


def inverse_weights(norm_weights: Floats) -> Floats:
    """Return ``1 / norm_weights``, and 0 where a weight is 0."""
    return np.divide(1.0, norm_weights, out=np.zeros_like(norm_weights), where=norm_weights > 0)


@dataclass(frozen=True)
class DenseFactor:
    """The Gram matrix ``rows @ rows.T`` with a factor in memory.

    Parameters
    ----------
    rows : ndarray of shape (n_terms, n_rows)
        Features times the square roots of the normalized weights of the rows.
    norm_weights : ndarray of shape (n_terms,)
        See :attr:`Basis.norm_weights`.
    """

    rows: Floats
    norm_weights: Floats

    def __matmul__(self, other: Floats) -> Floats:
        return self.rmatvec(self.matvec(other))

    def rmatvec(self, weights: Floats) -> Floats:
        """Return ``rows @ weights``, of shape (n_terms, n_vectors), of weights of shape (n_rows, n_vectors)."""
        return self.rows @ weights

    def matvec(self, coefficients: Floats) -> Floats:
        """Return ``rows.T @ coefficients``: values at the rows, times the square roots of the normalized weights."""
        return self.rows.T @ coefficients

    @property
    def sqrt_weights(self) -> Floats:
        """Square roots of the normalized weights of the rows, of shape (n_rows,): the constant term."""
        return self.rows[0]

    @property
    def means(self) -> Floats:
        """Weighted means of the features without the constant, of shape (n_terms - 1,)."""
        return self.rows[1:] @ self.sqrt_weights

    @cached_property
    def kernel(self) -> Floats:
        """``F_0.T @ P^-1 @ F_0`` with the features F_0 without weights and without the constant: the kernel matrix."""
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
    def nbytes(self) -> int:
        """Size of the factor."""
        return self.rows.nbytes

    def is_finite(self) -> bool:
        """Whether no feature was too large for the products."""
        # No entry of the products exceeds the sum of all squares.
        return bool(np.isfinite(np.vdot(self.rows, self.rows)))


@dataclass(frozen=True)
class MatrixFreeFactor:
    """The Gram matrix ``rows @ rows.T`` with a matrix-free factor: each use evaluates it.

    Parameters
    ----------
    basis : Basis
        The features.
    variables : ndarray of shape (n_variables, n_rows)
        As :meth:`Domain.scale` returns them.
    sqrt_weights : ndarray of shape (n_rows,)
        Square roots of the normalized weights of the rows.
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
        """The features without weights."""
        basis = replace(self.basis, domain=Domain.identity(len(self.variables)))
        return DesignMatrix(basis, self.variables.T, device=self.device)

    def rmatvec(self, weights: Floats) -> Floats:
        """Return ``rows @ weights``, of shape (n_terms, n_vectors), of weights of shape (n_rows, n_vectors)."""
        return self._design.rmatvec(to_device((self.sqrt_weights[:, None] * weights).T, self.device))

    def matvec(self, coefficients: Floats) -> Floats:
        """Return ``rows.T @ coefficients``: values at the rows, times the square roots of the normalized weights."""
        return np.ascontiguousarray(self.sqrt_weights[:, None] * to_numpy(self._design.matvec(coefficients)).T)

    @property
    def norm_weights(self) -> Floats:
        """See :attr:`Basis.norm_weights`."""
        return self.basis.norm_weights

    @cached_property
    def kernel(self) -> Floats:
        """``F_0.T @ P^-1 @ F_0``, as for :class:`DenseFactor`, by a recurrence without the features."""
        return self._products(inverse_weights(self.basis.weights_of_degrees))

    def largest_eigenvalue(self) -> float:
        """Return that of ``rows @ rows.T``."""
        products = self.sqrt_weights[:, None] * self._products(None) * self.sqrt_weights
        return float(np.linalg.eigvalsh(products)[-1])

    def _products(self, weights: Floats | None) -> Floats:
        """Return ``F_0.T @ diag(w) @ F_0`` with the weights w of the total degrees of the terms."""
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
    def nbytes(self) -> int:
        """Size of the factor if it were in memory."""
        return 8 * self.basis.n_terms * len(self.sqrt_weights)

    def is_finite(self) -> bool:
        """Whether no feature was too large for the products."""
        return bool(np.isfinite(self.kernel).all())


GramFactor = DenseFactor | MatrixFreeFactor
