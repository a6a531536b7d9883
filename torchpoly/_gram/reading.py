"""The rows of a fit, and one pass over them, chunk by chunk, that computes their Gram statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device, halving_on_out_of_memory
from torchpoly._backend.rows import (
    SCAN_ROWS,
    Array,
    Floats,
    accelerator_chunk_size,
    chunk_size,
    count_rows,
    distinct,
    row_chunks,
    sum_weights,
)
from torchpoly._gram.design_matrix import DesignMatrix
from torchpoly._gram.factors import MatrixFreeFactor, is_dense
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.statistics import GramStatistics
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet
from torchpoly._polynomial.target_scaling import TargetScaling

# Number of rows in the sample that estimates the shortest interval with half of the values of a column.
_SAMPLE_ROWS = 2**14


def count_chunks(indices: IndexSet, n_rows: int, n_targets: int) -> int:
    """Return the number of chunks in which the rows are read, or an upper bound."""
    n_terms = indices.n_terms
    return 1 if n_rows < n_terms else -(-n_rows // chunk_size(n_terms + n_targets))


def fits_one_chunk(n_rows: int, n_columns: int) -> bool:
    """Whether all rows are one chunk, with this number of features and targets: a fit then keeps the chunk."""
    return n_rows <= chunk_size(n_columns)


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a fit in memory: a :class:`~torchpoly._gram.source.Source`.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    Y : ndarray of shape (n_samples, n_targets)
    weights : ndarray of shape (n_samples,) or None
        Rows of weight 0 are left out.
    targets : TargetScaling
    device : torch.device or None
        Where the features are computed.
    on_chunk : callable, optional
        Is called for each chunk of rows.
    """

    X: NDArray[Any]
    Y: NDArray[Any]
    weights: Floats | None
    targets: TargetScaling
    device: Device
    on_chunk: Callable[[], object] | None = None

    @classmethod
    def unscaled(cls, X: NDArray[Any], y: NDArray[Any], weights: Floats | None, device: Device) -> TrainingRows:
        """Return the rows with y of shape (n_samples,) or (n_samples, n_targets), without a scaling."""
        Y = y.reshape(len(y), -1)
        return cls(X, Y, weights, TargetScaling.identity(Y.shape[1]), device)

    def with_more_targets(self, Y: NDArray[Any]) -> TrainingRows:
        """Return the rows with as many further targets, in the same scaling."""
        return replace(self, Y=np.concatenate([self.Y, Y], axis=1), targets=self.targets.repeated(2))

    @property
    def n_rows(self) -> int:
        """Number of rows of positive weight."""
        return count_rows(self.X, self.weights)

    @property
    def shares(self) -> Floats:
        """The weight of each row, divided by the sum of all weights."""
        weights = np.ones(len(self.X)) if self.weights is None else self.weights
        return weights / sum_weights(self.X, self.weights)

    @property
    def precision(self) -> float:
        """The machine epsilon of X."""
        return float(np.finfo(self.X.dtype).eps)

    def ranges(self, domain: Domain) -> tuple[Floats, Floats]:
        """Return the least and the greatest value of each variable of a domain over the rows."""
        return domain.ranges(self.X, self.weights)

    def points(self, domain: Domain, at_most: int) -> Floats:
        """Return one number for each distinct row, or for the first ones found if there are more than `at_most`."""
        # The first rows are mostly enough.
        first = islice(row_chunks(len(self.X), at_most + 1, self.weights), 1)
        chunks = chain(first, row_chunks(len(self.X), SCAN_ROWS, self.weights))
        return distinct((domain.projected(self.X[rows]) for rows in chunks), at_most)

    def count_points(self, domain: Domain, at_most: int) -> int:
        """Return the number of distinct rows, or `at_most` + 1 if there are more."""
        return len(self.points(domain, at_most))

    def covariance(self, domain: Domain) -> Floats:
        """Return the covariance matrix of the variables of a domain."""
        return read_gram(Basis.linear(domain), self).covariance(domain.n_variables)

    def squares_of(self, basis: Basis, transform: Floats) -> Floats:
        """Return the mean squares of the combinations ``transform.T @ features`` over the rows."""
        return np.diagonal(cast(Floats, read_gram(basis, self, transform).features))

    def shortest_halves(self) -> Floats:
        """Return the shortest interval with half of a sample of the values of each column, of shape (2, n_features)."""
        rows = np.arange(len(self.X)) if self.weights is None else np.flatnonzero(self.weights)
        values = np.sort(self.X[rows[:: -(-len(rows) // _SAMPLE_ROWS)]].astype(np.float64), axis=0)
        half = len(values) // 2
        start = np.argmin(values[half:] - values[: len(values) - half], axis=0)
        return np.stack([values[start, np.arange(len(start))], values[start + half, np.arange(len(start))]])

    def within(self, low: Floats, high: Floats) -> TrainingRows:
        """Return the rows with weight 0 outside a box."""
        weights = np.ones(len(self.X)) if self.weights is None else self.weights.copy()
        for rows in row_chunks(len(self.X), SCAN_ROWS):
            weights[rows] *= ((low <= self.X[rows]) & (high >= self.X[rows])).all(axis=1)
        return replace(self, weights=weights)

    def read(self, basis: Basis, transform: Floats | None = None) -> NormalEquations:
        """Return the normal equations, from one pass over the rows.

        Parameters
        ----------
        basis : Basis
            The features.
        transform : ndarray of shape (n_terms, n_combinations), optional
            The statistics are those of the combinations ``transform.T @ features``.

        Raises
        ------
        ValueError
            If powers of raw columns overflow.
        """
        few, n_columns = self.n_rows < basis.n_terms, basis.n_terms + self.Y.shape[1]
        if few and not is_dense(basis.n_terms, self.n_rows):
            return self.of_positive_weight()._matrix_free(basis)
        if not few and not fits_one_chunk(len(self.X), n_columns):
            return NormalEquations(basis, transform, read_gram(basis, self, transform), None)
        # One chunk is too little work for another device.
        data = replace(self.of_positive_weight() if few else self, device=None)
        total_weight = sum_weights(data.X, data.weights)
        n_terms = basis.n_terms if transform is None else transform.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            rows = next(data.blocks(basis, len(data.X), transform))
            if few:
                statistics = GramStatistics.from_few_rows(rows, basis.norm_weights, total_weight)
            else:
                statistics = GramStatistics.from_chunks([rows], n_terms, total_weight)
        _check_overflow(basis, statistics)
        return NormalEquations(basis, transform, statistics, rows)

    def blocks(self, basis: Basis, size: int, transform: Floats | None = None) -> Iterator[Array]:
        """Yield ``sqrt(w) * [F; y]`` for blocks of at most `size` rows: see :meth:`DesignMatrix.weighted_blocks`."""
        design = DesignMatrix(basis, self.X, self.weights, self.device, transform)
        for block in design.weighted_blocks(self.Y, self.targets, size):
            if self.on_chunk is not None:
                self.on_chunk()
            yield block

    def total(self, basis: Basis, of_block: Callable[[Array], Floats]) -> Floats:
        """Return the sum of a function of blocks ``sqrt(w) * [F; y]`` over all rows."""
        n_columns = basis.n_terms + self.Y.shape[1]
        device = None if fits_one_chunk(len(self.X), n_columns) else self.device
        data = replace(self, device=device)

        def work(size: int) -> Floats:
            return np.sum([of_block(block) for block in data.blocks(basis, size)], axis=0)

        return halving_on_out_of_memory(device, _size_of_chunks(device)(n_columns), work)

    def _matrix_free(self, basis: Basis) -> NormalEquations:
        """Return the normal equations of few rows of positive weight, with a matrix-free factor."""
        total_weight = sum_weights(self.X, self.weights)
        row_weights = np.full(len(self.X), 1.0) if self.weights is None else self.weights
        sqrt_weights = np.sqrt(row_weights / total_weight)
        gram = MatrixFreeFactor(basis, basis.domain.scale(self.X), sqrt_weights, self.device)
        targets = sqrt_weights * self.targets.transform(self.Y)
        with np.errstate(over="ignore", invalid="ignore"):
            statistics = GramStatistics(gram, gram.rmatvec(targets.T), np.square(targets).sum(axis=1), total_weight)
        if self.on_chunk is not None:
            self.on_chunk()
        _check_overflow(basis, statistics)
        return NormalEquations(basis, None, statistics, targets)

    def of_positive_weight(self) -> TrainingRows:
        """Return the rows of positive weight."""
        return self if self.weights is None else self.of_rows(np.flatnonzero(self.weights))

    def of_rows(self, rows: NDArray[np.intp]) -> TrainingRows:
        """Return some of the rows."""
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, X=self.X[rows], Y=self.Y[rows], weights=weights)


def read_gram(basis: Basis, data: TrainingRows, transform: Floats | None = None) -> GramStatistics:
    """Return the statistics with a Gram matrix, from one pass over the rows, also for more terms than rows.

    The parameters are those of :meth:`TrainingRows.read`.

    Raises
    ------
    ValueError
        If powers of raw columns overflow.
    """
    total_weight = sum_weights(data.X, data.weights)
    n_terms = basis.n_terms if transform is None else transform.shape[1]

    def work(size: int) -> GramStatistics:
        return GramStatistics.from_chunks(data.blocks(basis, size, transform), n_terms, total_weight)

    size = _size_of_chunks(data.device)(basis.n_terms + data.Y.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        statistics = halving_on_out_of_memory(data.device, size, work)
    _check_overflow(basis, statistics)
    return statistics


def _size_of_chunks(device: Device) -> Callable[[int], int]:
    """Return the function from the number of features and targets to the number of rows in a chunk."""
    return chunk_size if device is None else accelerator_chunk_size


def _check_overflow(basis: Basis, statistics: GramStatistics) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        overflow = basis.family == "power" and not statistics.is_finite()
    if overflow:
        raise ValueError(
            f"The powers of X overflow: the 'degree' parameter got {basis.indices.degree} with basis='monomial'. Scale "
            "X, or use basis='orthonormal', which does."
        )
