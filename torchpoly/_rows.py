"""The rows themselves, for losses that a Gram matrix does not sum up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._basis import Basis
from torchpoly._coordinates import Coordinates, RowCoordinates, TermCoordinates
from torchpoly._device import Device, Result, empty, namespace, on_device, to_device, to_numpy
from torchpoly._domain import Array, Floats, row_chunks, vector_chunk_size
from torchpoly._reading import Data

# Features of all rows are kept where they take no more than these bytes.
_BUDGET = 2**28
# Of Gram matrices, rows of less weight than this share of the mean are left out.
_LEFT_OUT = 1e-3


@dataclass(frozen=True)
class Rows:
    """Features of the rows of positive weight, kept in memory or evaluated anew at each use.

    Parameters
    ----------
    basis : Basis
    mixing : TermCoordinates, RowCoordinates or None
        The features are ``mixing.pull(terms)``; None stands for the terms of the basis themselves.
    X : ndarray of shape (n_samples, n_columns)
    indices : ndarray of shape (n_rows,) or None
        Which rows of X these are; None stands for all.
    targets : ndarray or Tensor of shape (n_targets, n_rows)
    shares : ndarray or Tensor of shape (n_rows,)
        Each row's share in the total weight.
    device : torch.device or None
        Where the features are computed.
    kept : ndarray or Tensor of shape (n_features, n_rows) or None
        The features, if they are kept.
    """

    basis: Basis
    mixing: Coordinates | None
    X: NDArray
    indices: NDArray[np.intp] | None
    targets: Array
    shares: Array
    device: Device
    kept: Array | None = None

    @classmethod
    def of(cls, basis: Basis, mixing: Coordinates | None, data: Data, *, scale_targets: bool) -> Rows:
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
        rows = cls(basis, mixing, data.X, indices, targets, shares, data.device)
        if 8 * rows.n_features * len(rows) > _BUDGET and not isinstance(mixing, RowCoordinates):
            return rows
        try:
            return replace(rows, kept=rows._all_features())
        except MemoryError:
            # What the device has no room for may find it chunk by chunk.
            return rows

    def __len__(self) -> int:
        return len(self.shares)

    @property
    def n_features(self) -> int:
        return self.basis.n_terms if self.mixing is None else self.mixing.rank

    @property
    def constant(self) -> Floats:
        """Coefficients of the polynomial that is 1, of shape (n_features, 1)."""
        if self.mixing is None:
            return np.eye(self.n_features, 1)
        # Of orthonormal features these are their means.
        return self.gather(self.shares[None])

    def batch(self, chosen: NDArray[np.intp]) -> Rows:
        """Return some of the rows; their shares keep the mean of what is summed over them."""
        return replace(
            self,
            targets=self.targets[:, chosen],
            shares=self.shares[chosen] * (len(self) / len(chosen)),
            kept=self.features(chosen),
        )

    def features(self, chosen: NDArray[np.intp]) -> Array:
        """Return the features of some rows, of shape (n_features, n_chosen)."""
        if self.kept is not None:
            return self.kept[:, chosen]
        return self._on_device(lambda _: self._mix(self._evaluate(chosen)))

    def predict(self, coefficients: Floats) -> Array:
        """Return the values of linear combinations of the features, of shape (n_targets, n_rows)."""
        if self.kept is not None:
            return to_device(coefficients.T, self.device) @ self.kept
        # A product with the mixing costs less than one of the mixing with the terms.
        transposed = to_device(self.of_terms(coefficients).T, self.device)

        def work(size: int) -> Array:
            values = [transposed @ terms for _, terms in self._chunks(size)]
            return namespace(values[0]).concatenate(values, 1)

        return self._on_device(work)

    def gather(self, slopes: Array) -> Floats:
        """Return the sums over rows of features times slopes, of shape (n_features, n_targets).

        That is the gradient by the coefficients where the slopes are those by the predictions.
        """
        if self.kept is not None:
            return to_numpy(self.kept @ slopes.T)

        def work(size: int) -> Floats:
            total: Any = 0.0
            for rows, terms in self._chunks(size):
                total = total + terms @ slopes[:, rows].T
            return to_numpy(total)

        total = self._on_device(work)
        return total if self.mixing is None else self.mixing.pull(total)

    def greatest_square(self) -> float:
        """Return the greatest squared norm of a row's features."""
        return float(self.squares().max())

    def squares(self) -> Floats:
        """Return the squared norms of the rows' features."""

        def work(size: int) -> Floats:
            return np.concatenate([to_numpy((self._features(terms) ** 2).sum(0)) for _, terms in self._chunks(size)])

        return self._on_device(work)

    def gram(self, weights: Array) -> Floats:
        """Return the Gram matrices of the features, one for each row of weights.

        Parameters
        ----------
        weights : ndarray or Tensor of shape (n_targets, n_rows)

        Returns
        -------
        ndarray of shape (n_targets, n_features, n_features)
        """
        if self.mixing is None:
            return self._gram(weights, weights > 0.0)
        # Rows whose weight is less than this for their share are left out.
        limits = _LEFT_OUT * weights.sum(1)
        gram = self._gram(weights, weights > limits[:, None] * self.shares)
        # Where features are orthonormal, no eigenvalue of what is left out exceeds the limit. Where one of
        # the rest is hardly larger, a direction may depend on these rows: then none is left out.
        if (np.linalg.eigvalsh(gram)[:, 0] > to_numpy(limits)).all():
            return gram
        return self._gram(weights, weights > 0.0)

    def _gram(self, weights: Array, used: Any) -> Floats:
        roots = namespace(weights).sqrt(weights)

        def work(size: int) -> Floats:
            totals: list[Any] = [0.0] * len(weights)
            for rows, columns in self._chunks(size):
                for target, (row_roots, row_used) in enumerate(zip(roots[:, rows], used[:, rows], strict=True)):
                    scaled = self._features(columns[:, row_used]) * row_roots[row_used]
                    totals[target] = totals[target] + scaled @ scaled.T
            return np.stack([to_numpy(total) for total in totals])

        return self._on_device(work)

    def of_terms(self, coefficients: Floats) -> Floats:
        """Return the coefficients of the basis that are these of the features."""
        return coefficients if self.mixing is None else self.mixing @ coefficients

    def _mix(self, terms: Array) -> Array:
        # Few rows' own coordinates come with their features.
        return self._transposed @ terms if isinstance(self.mixing, TermCoordinates) else terms

    @cached_property
    def _transposed(self) -> Array:
        return to_device(np.ascontiguousarray(cast(TermCoordinates, self.mixing).matrix.T), self.device)

    def _all_features(self) -> Array:
        if isinstance(self.mixing, RowCoordinates):
            return to_device(self.mixing.at_rows, self.device)

        def work(size: int) -> Array:
            features = empty(self.n_features, len(self), self.device)
            for rows, terms in self._chunks(size):
                features[:, rows] = self._mix(terms)
            return features

        return self._on_device(work)

    def _features(self, columns: Array) -> Array:
        """Return the features of some columns of a chunk."""
        return self._mix(columns) if self.kept is None else columns

    def _on_device(self, work: Callable[[int], Result]) -> Result:
        """Do work on chunks of the size that the last has found room for."""
        return on_device(self.device, self._room.size, work)

    def _chunks(self, size: int) -> Iterator[tuple[Any, Array]]:
        """Yield slices of the rows with their features if kept, else with their terms, in a buffer that all share."""
        if self.kept is None:
            self._room.resize(size, self.basis.n_terms, self.device)
        for rows in row_chunks(len(self), size):
            yield rows, self._evaluate(rows, self._room.buffer) if self.kept is None else self.kept[:, rows]

    def _evaluate(self, rows: Any, out: Array | None = None) -> Array:
        X = self.X[rows if self.indices is None else self.indices[rows]]
        variables = to_device(self.basis.domain.scale(X), self.device)
        return self.basis.evaluate(variables, out=None if out is None else out[:, : len(X)])

    @cached_property
    def _room(self) -> _Room:
        return _Room(min(vector_chunk_size(self.basis.n_terms), len(self)))


class _Room:
    """A buffer for the terms of a chunk of rows.

    Parameters
    ----------
    size : int
        Number of rows.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.buffer: Array | None = None

    def resize(self, size: int, n_terms: int, device: Device) -> None:
        """Make room for so many rows."""
        if self.buffer is None or self.buffer.shape[1] != size:
            self.size, self.buffer = size, None
            self.buffer = empty(n_terms, size, device)
