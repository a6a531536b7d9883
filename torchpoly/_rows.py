"""The rows themselves, for losses that a Gram matrix does not sum up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchpoly._basis import Array, Basis, Floats, row_chunks
from torchpoly._device import namespace, to_device, to_numpy
from torchpoly._reading import Data, chunk_size

# Features of all rows are kept where they take no more than these bytes.
_BUDGET = 2**28


@dataclass(frozen=True)
class Rows:
    """Features of the rows of positive weight, kept in memory or evaluated anew at each use.

    Parameters
    ----------
    basis : Basis
        The features.
    X : ndarray of shape (n_samples, n_features)
    indices : ndarray of shape (n_rows,) or None
        Which rows of X these are; None stands for all.
    targets : ndarray or Tensor of shape (n_targets, n_rows)
    shares : ndarray or Tensor of shape (n_rows,)
        Each row's share in the total weight.
    device : torch.device
        Where the features are computed.
    kept : ndarray or Tensor of shape (n_terms, n_rows) or None
        The features, if they are kept.
    """

    basis: Basis
    X: NDArray
    indices: NDArray[np.intp] | None
    targets: Array
    shares: Array
    device: torch.device
    kept: Array | None = None

    @classmethod
    def of(cls, basis: Basis, data: Data, *, scale_targets: bool) -> Rows:
        """Return the rows of a fit, with scaled targets or with y itself."""
        weights, indices = data.weights, None
        if weights is None:
            shares = np.full(len(data.X), 1 / len(data.X))
        else:
            if not weights.all():
                indices = np.flatnonzero(weights)
                weights = weights[indices]
            shares = weights / weights.sum()
        Y = data.Y if indices is None else data.Y[indices]
        targets = data.targets.scale(Y) if scale_targets else np.array(Y.T, dtype=np.float64, order="C")
        targets, shares = to_device(targets, data.device), to_device(shares, data.device)
        rows = cls(basis, data.X, indices, targets, shares, data.device)
        return replace(rows, kept=rows._all_features()) if 8 * basis.n_terms * len(rows) <= _BUDGET else rows

    def __len__(self) -> int:
        return len(self.shares)

    def batch(self, chosen: NDArray[np.intp]) -> Rows:
        """Return some of the rows; their shares keep the mean of what is summed over them."""
        return replace(
            self,
            targets=self.targets[:, chosen],
            shares=self.shares[chosen] * (len(self) / len(chosen)),
            kept=self.kept[:, chosen] if self.kept is not None else self._evaluate(chosen, self._empty(len(chosen))),
        )

    def predict(self, coefficients: Floats) -> Array:
        """Return the values of polynomials, of shape (n_targets, n_rows)."""
        transposed = to_device(coefficients.T, self.device)
        values = [transposed @ features for _, features in self._chunks()]
        return values[0] if len(values) == 1 else namespace(values[0]).concatenate(values, 1)

    def gather(self, slopes: Array) -> Floats:
        """Return the sums over rows of features times slopes, of shape (n_terms, n_targets).

        That is the gradient by the coefficients where the slopes are those by the predictions.
        """
        total: Any = 0.0
        for rows, features in self._chunks():
            total = total + features @ slopes[:, rows].T
        return to_numpy(total)

    def gram(self, mixing: Floats, weights: Array) -> Floats:
        """Return the Gram matrices of ``mixing.T @ features``, one for each row of weights.

        Parameters
        ----------
        mixing : ndarray of shape (n_terms, n_mixed)
        weights : ndarray or Tensor of shape (n_targets, n_rows)

        Returns
        -------
        ndarray of shape (n_targets, n_mixed, n_mixed)
        """
        transposed = to_device(np.ascontiguousarray(mixing.T), self.device)
        totals: list[Any] = [0.0] * len(weights)
        for rows, features in self._chunks(chunk_size(self.basis.n_terms)):
            mixed = transposed @ features
            for target, row_weights in enumerate(weights[:, rows]):
                totals[target] = totals[target] + (mixed * row_weights) @ mixed.T
        return np.stack([to_numpy(total) for total in totals])

    def _chunks(self, size: int | None = None) -> Iterator[tuple[Any, Array]]:
        """Yield slices of the rows with their features: of all at once if they are kept."""
        if size is None:
            size = len(self) if self.kept is not None else chunk_size(self.basis.n_terms)
        for rows in row_chunks(len(self), size):
            yield rows, self._evaluate(rows, self._buffer) if self.kept is None else self.kept[:, rows]

    def _all_features(self) -> Array:
        features = self._empty(len(self))
        for rows in row_chunks(len(self), chunk_size(self.basis.n_terms)):
            self._evaluate(rows, features[:, rows])
        return features

    def _evaluate(self, rows: Any, out: Array) -> Array:
        X = self.X[rows if self.indices is None else self.indices[rows]]
        return self.basis.evaluate(to_device(self.basis.domain.scale(X), self.device), out=out[:, : len(X)])

    @cached_property
    def _buffer(self) -> Array:
        return self._empty(min(chunk_size(self.basis.n_terms), len(self)))

    def _empty(self, n_rows: int) -> Array:
        return to_device(np.empty((self.basis.n_terms, n_rows)), self.device)
