"""The design matrix as a linear operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device, Result, empty, halving_on_out_of_memory, namespace, to_device, to_numpy
from torchpoly._backend.rows import Array, Floats, count_rows, row_chunks, vector_chunk_size
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.blocks import evaluate_blocks
from torchpoly._polynomial.target_scaling import TargetScaling


@dataclass
class DesignMatrix:
    """The matrix F of the features at the rows, of shape (n_features, n_rows), as a linear operator.

    It is in memory, or it is matrix-free: each use evaluates it block by block.

    Parameters
    ----------
    basis : Basis
    X : ndarray of shape (n_samples, n_columns)
        Not used if the features are in memory.
    weights : ndarray of shape (n_samples,) or None
        Rows of weight 0 are left out. Only :meth:`weighted_blocks` multiplies by weights.
    device : torch.device or None
        Where the features are computed.
    transform : ndarray of shape (n_terms, n_features) or None
        The features are ``transform.T @ terms``; None stands for the terms of the basis.
    kept : ndarray or Tensor of shape (n_features, n_rows) or None
        The features, if they are in memory.
    """

    basis: Basis
    X: NDArray[Any]
    weights: Floats | None = None
    device: Device = None
    transform: Floats | None = None
    kept: Array | None = None
    _block_size: int = field(init=False)

    def __post_init__(self) -> None:
        self._block_size = max(1, min(vector_chunk_size(self.basis.n_terms), len(self)))

    def __len__(self) -> int:
        """Return the number of rows."""
        return count_rows(self.X, self.weights) if self.kept is None else self.kept.shape[1]

    @property
    def n_features(self) -> int:
        if self.kept is not None:
            return self.kept.shape[0]
        return self.basis.n_terms if self.transform is None else self.transform.shape[1]

    def keep(self, terms: Floats | None = None) -> DesignMatrix:
        """Return the matrix with the features in memory.

        Parameters
        ----------
        terms : ndarray of shape (n_terms, n_rows), optional
            The terms of the basis at the rows, if they are known.

        Raises
        ------
        MemoryError
            If the memory of the device is too small.
        """
        if terms is not None:
            return replace(self, kept=self._transformed(to_device(terms, self.device)))

        def work(size: int) -> Array:
            features = empty(self.n_features, len(self), self.device)
            for rows, block in self.iter_blocks(size):
                features[:, rows] = block
            return features

        return replace(self, kept=self._halving(work))

    def select(self, chosen: NDArray[np.intp]) -> DesignMatrix:
        """Return the matrix of some of the rows, in memory."""
        return replace(self, kept=self.columns(chosen))

    def columns(self, chosen: NDArray[np.intp]) -> Array:
        """Return the features of some rows, of shape (n_features, n_chosen)."""
        if self.kept is not None:
            return self.kept[:, chosen]
        X = self.X[chosen if self._indices is None else self._indices[chosen]]

        def work(_: int) -> Array:
            return self._transformed(self.basis.evaluate(to_device(self.basis.domain.scale(X), self.device)))

        return halving_on_out_of_memory(self.device, 1, work)

    def matvec(self, coefficients: Floats) -> Array:
        """Return ``coefficients.T @ F``: the values of polynomials at the rows.

        Parameters
        ----------
        coefficients : ndarray of shape (n_features, n_polynomials)

        Returns
        -------
        ndarray or Tensor of shape (n_polynomials, n_rows)
        """
        if self.kept is not None:
            return to_device(coefficients.T, self.device) @ self.kept
        # The product of the transform with coefficients costs less than that with the terms at all rows.
        of_terms = coefficients if self.transform is None else self.transform @ coefficients
        of_terms = to_device(of_terms, self.device)

        def work(size: int) -> Array:
            values = empty(of_terms.shape[1], len(self), self.device)
            for rows, terms in self._iter_columns(size):
                values[:, rows] = (terms.T @ of_terms).T
            return values

        return self._halving(work)

    def rmatvec(self, weights: Array) -> Floats:
        """Return ``F @ weights.T``: weighted sums of the features over the rows.

        It maps a gradient by values to the gradient by coefficients.

        Parameters
        ----------
        weights : ndarray or Tensor of shape (n_vectors, n_rows)

        Returns
        -------
        ndarray of shape (n_features, n_vectors)
        """
        if self.kept is not None:
            return to_numpy(self.kept @ weights.T)

        def work(size: int) -> Floats:
            total: Any = 0.0
            for rows, terms in self._iter_columns(size):
                total = total + terms @ weights[:, rows].T
            return to_numpy(total)

        total = self._halving(work)
        return total if self.transform is None else self.transform.T @ total

    def gram(self, weights: Array, used: Any) -> Floats:
        """Return ``F @ diag(w) @ F.T`` over some of the rows, for each w in `weights`.

        Parameters
        ----------
        weights : ndarray or Tensor of shape (n_matrices, n_rows)
        used : ndarray or Tensor of bool of shape (n_matrices, n_rows)
            The rows in the sum. Rows of weight 0 should not be among them, to save work.

        Returns
        -------
        ndarray of shape (n_matrices, n_features, n_features)
        """
        sqrt_weights = namespace(weights).sqrt(weights)

        def work(size: int) -> Floats:
            totals: list[Any] = [0.0] * len(weights)
            for rows, block in self._iter_columns(size):
                for matrix, (row_roots, row_used) in enumerate(zip(sqrt_weights[:, rows], used[:, rows], strict=True)):
                    scaled = self._features(block[:, row_used]) * row_roots[row_used]
                    totals[matrix] = totals[matrix] + scaled @ scaled.T
            return np.stack([to_numpy(total) for total in totals])

        return self._halving(work)

    def squares(self) -> Floats:
        """Return the squared norm of the features at each row, of shape (n_rows,)."""

        def work(size: int) -> Floats:
            return np.concatenate([to_numpy((block**2).sum(0)) for _, block in self.iter_blocks(size)])

        return self._halving(work)

    def iter_blocks(self, size: int) -> Iterator[tuple[slice, Array]]:
        """Yield each block of at most `size` rows with its features, which are valid until the next block."""
        for rows, block in self._iter_columns(size):
            yield rows, self._features(block)

    def weighted_blocks(self, Y: NDArray[Any], targets: TargetScaling, size: int) -> Iterator[Array]:
        """Yield ``sqrt(w) * [F; y]``, features above targets, for blocks of at most `size` rows.

        Parameters
        ----------
        Y : ndarray of shape (n_samples, n_targets)
        targets : TargetScaling
        size : int

        Yields
        ------
        ndarray or Tensor of shape (n_features + n_targets, n_rows)
            Valid until the next block.
        """
        n_terms = self.basis.n_terms
        scale: Any = targets.transform if self.device is None else targets.on(self.device)
        for _, block, of_targets, sqrt_weights in self._evaluated(size, Y):
            block[n_terms:] = scale(of_targets)
            if sqrt_weights is not None:
                block *= sqrt_weights
            if self.transform is None:
                yield block
            else:
                yield namespace(block).concatenate([self._transformed(block[:n_terms]), block[n_terms:]])

    def _iter_columns(self, size: int) -> Iterator[tuple[slice, Array]]:
        """Yield the features of blocks of rows if they are in memory, else the terms."""
        if self.kept is not None:
            for rows in cast(Iterator[slice], row_chunks(len(self), size)):
                yield rows, self.kept[:, rows]
            return
        done = 0
        for _, terms, *_ in self._evaluated(size):
            yield slice(done, done + terms.shape[1]), terms
            done += terms.shape[1]

    def _features(self, columns: Array) -> Array:
        """Return the features for a block of :meth:`_iter_columns`."""
        return self._transformed(columns) if self.kept is None else columns

    def _evaluated(self, size: int, Y: NDArray[Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield rows, terms above an empty block for the targets, targets, and square roots of weights."""

        def read() -> Iterator[tuple[Any, ...]]:
            for rows in row_chunks(len(self.X), size, self.weights):
                sqrt_weights = None if self.weights is None or Y is None else np.sqrt(self.weights[rows])
                yield rows, self.X[rows], None if Y is None else Y[rows], sqrt_weights

        n_targets = 0 if Y is None else Y.shape[1]
        return evaluate_blocks(self.basis, read(), min(size, len(self.X)), self.device, n_more=n_targets)

    def _transformed(self, terms: Array) -> Array:
        return terms if self.transform is None else self._transposed @ terms

    @cached_property
    def _transposed(self) -> Array:
        return to_device(np.ascontiguousarray(cast(Floats, self.transform).T), self.device)

    @cached_property
    def _indices(self) -> NDArray[np.intp] | None:
        """The indices of the rows in X; None stands for all rows."""
        return None if self.weights is None or self.weights.all() else np.flatnonzero(self.weights)

    def _halving(self, work: Callable[[int], Result]) -> Result:
        """Call `work` with the last size of blocks for which the device had enough memory."""

        def attempt(size: int) -> Result:
            result = work(size)
            self._block_size = size
            return result

        return halving_on_out_of_memory(self.device, self._block_size, attempt)
