"""Computations on Dask collections: one result for each partition on its worker, merged as a tree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_X_y

from torchpoly._backend.device import resolve_device
from torchpoly._backend.rows import Array, Floats, distinct, union_of_ranges
from torchpoly._backend.validation import DTYPES, check_numbers, check_targets, check_weights, text_as_numbers
from torchpoly._dask.collections import Columns, aligned, blocks, check_partitions, is_collection, is_frame
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.reading import TrainingRows, read_gram
from torchpoly._gram.statistics import GramStatistics
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.target_scaling import TargetScaling

# Number of results that one task merges, as Dask's tree reductions do by default (``split_every``).
_FAN_IN = 8
_GONE = (
    "The Dask scheduler has gone, or the partitions that it held have. Connect a new dask.distributed.Client and fit "
    "again; collections that were persisted on the old cluster have to be made anew."
)


@dataclass(frozen=True)
class Partitions:
    """The rows of a fit, in partitions on the workers of a cluster.

    Parameters
    ----------
    columns, targets : Columns
        The columns of X and of y.
    device : str or torch.device
        The device on which workers compute features.
    parts : list of (X, y, weights)
        The :class:`dask.delayed.Delayed` objects of each partition. Weights may be None or a number.
    box : tuple of ndarray of shape (n_features,) or None
        Lowest and highest values of the columns. Rows outside are left out.
    """

    columns: Columns
    targets: Columns
    device: Any
    parts: list[tuple[Any, Any, Any]]
    box: tuple[Floats, Floats] | None = None

    @classmethod
    def of(cls, X: Any, y: Any, sample_weight: Any, columns: Columns, device: Any) -> Partitions:
        """Return the partitions of X with the same rows of y and of the weights.

        Raises
        ------
        TypeError
            If y or weights are collections of an unsupported type.
        ValueError
            If X, y and weights have different numbers of rows, or if it is unknown whether they do.
        """
        y = aligned(y, X, "y")
        targets, parts = Columns.of(y, "y", (1, 2)), [blocks(X), blocks(y)]
        check_partitions(len(parts[1]), len(parts[0]), "y")
        if not is_collection(sample_weight) and np.ndim(sample_weight) == 0:
            parts.append([sample_weight] * len(parts[0]))
        else:
            weights = aligned(sample_weight, X, "sample_weight")
            Columns.of(weights, "sample_weight", (1,))
            parts.append(blocks(weights))
            check_partitions(len(parts[2]), len(parts[0]), "sample_weight")
        return cls(columns, targets, device, list(zip(*parts, strict=True)))

    def reduce(self, of_rows: Callable[[TrainingRows, float], Any], merge: Callable[[Any, Any], Any]) -> Any:
        """Compute a result for each partition on its worker, and merge the results as a tree.

        Parameters
        ----------
        of_rows : callable
            Takes the rows of positive weight of a partition, with weights divided by the largest one, and
            the largest weight. It is called only if there are such rows.
        merge : callable
            Takes two results, of some rows and of the rows after them, and returns the result of both.

        Raises
        ------
        ValueError
            If a partition has other columns than X, or values that are not finite numbers; if no row has
            a positive weight.
        RuntimeError
            If the scheduler does not exist any more.
        """
        import dask

        shared = (of_rows, self.columns, self.targets, self.device, self.box)
        function, *described = (dask.delayed(value, traverse=False) for value in shared)
        results = [
            dask.delayed(_of_partition)(function, *described, number, *part) for number, part in enumerate(self.parts)
        ]
        merged = dask.delayed(_merged)
        while len(results) > 1:
            results = [merged(merge, results[start : start + _FAN_IN]) for start in range(0, len(results), _FAN_IN)]
        try:
            result = results[0].compute()
        except CancelledError as error:
            raise RuntimeError(_GONE) from error
        except ValueError as error:
            # This is Dask's message if persisted partitions were lost with their cluster.
            if "Missing dependency" in str(error):
                raise RuntimeError(_GONE) from error
            raise
        if result is None:
            raise ValueError(f"None of the {len(self.parts)} partitions has a row of positive weight.")
        return result


@contextmanager
def _naming_partition(number: int) -> Iterator[None]:
    """Add the number of the partition to the messages of exceptions."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"In partition {number}: {error}") from error


def _of_partition(
    function: Any, columns: Columns, targets: Columns, device: Any, box: Any, number: int, X: Any, y: Any, weights: Any
) -> Any:
    """Return the result of a function for a partition; None if no row has a positive weight."""
    with _naming_partition(number):
        columns.check(X)
        targets.check(y)
        if not X.shape[0] and not y.shape[0] and not np.size(weights if np.ndim(weights) else ()):
            return None
        for part, name in [(X, "X"), (y, "y")]:
            check_numbers(part, name)
        rows, values = check_X_y(X, text_as_numbers(y), dtype=DTYPES, multi_output=True, y_numeric=True)
        values = check_targets(values)
        if weights is not None and np.shape(weights) == (len(rows),) and not np.any(weights):
            return None
        row_weights, unit = check_weights(weights, rows)
        data = TrainingRows.unscaled(rows, values, row_weights, resolve_device(device)).of_positive_weight()
        data = data if box is None else data.within(*box)
        return function(data, unit) if data.n_rows else None


def _merged(merge: Callable[[Any, Any], Any], results: list[Any]) -> Any:
    of_rows = [result for result in results if result is not None]
    return reduce(merge, of_rows) if of_rows else None


@dataclass(frozen=True)
class PartitionedRows:
    """Rows in partitions: a :class:`~torchpoly._gram.source.Source` that can be read more than once.

    Parameters
    ----------
    partitions : Partitions
    n_rows : int
        Number of rows of positive weight.
    targets : TargetScaling
        The scaling of the targets.
    """

    partitions: Partitions
    n_rows: int
    targets: TargetScaling

    @property
    def precision(self) -> float:
        """The machine epsilon of X."""
        return float(np.finfo(self.partitions.columns.dtype).eps)

    def ranges(self, domain: Domain) -> tuple[Floats, Floats]:
        """Return the lowest and highest value of each variable of a domain over the rows."""
        return self.partitions.reduce(lambda data, _: data.ranges(domain), union_of_ranges)

    def points(self, domain: Domain, at_most: int) -> Floats:
        """Return a number for each distinct row, or `at_most` + 1 of them if there are more."""
        return self.partitions.reduce(
            lambda data, _: data.points(domain, at_most), lambda one, other: distinct([one, other], at_most)
        )

    def covariance(self, domain: Domain) -> Floats:
        """Return the covariance matrix of the variables of a domain."""
        return self.read(Basis.linear(domain)).statistics.covariance(domain.n_variables)

    def squares_of(self, basis: Basis, transform: Floats) -> Floats:
        """Return the mean squares of combinations ``transform.T @ features`` over the rows."""
        return np.diagonal(cast(Floats, self.read(basis, transform).statistics.features))

    def shortest_halves(self) -> Floats:
        """Return, for each column, the median over partitions of the shortest interval with half of the rows."""
        return np.median(self.partitions.reduce(lambda data, _: [data.shortest_halves()], add), axis=0)

    def within(self, low: Floats, high: Floats) -> PartitionedRows:
        """Return the rows inside a box."""
        n_rows = self.partitions.reduce(lambda data, _: data.within(low, high).n_rows, add)
        return replace(self, partitions=replace(self.partitions, box=(low, high)), n_rows=n_rows)

    def read(self, basis: Basis, transform: Floats | None = None) -> NormalEquations:
        """Read the rows once more."""

        def statistics(data: TrainingRows, unit: float) -> GramStatistics:
            read = read_gram(basis, replace(data, targets=self.targets), transform)
            return replace(read, total_weight=unit * read.total_weight)

        read = self.partitions.reduce(statistics, lambda one, other: GramStatistics.pooled([one, other], [1, 1]))
        return NormalEquations(basis, transform, read, None)

    def total(self, basis: Basis, of_block: Callable[[Array], Floats]) -> Floats:
        """Return the sum of a function of blocks ``sqrt(w) * [F; y]`` over all rows."""

        def of_rows(data: TrainingRows, unit: float) -> Floats:
            scaled = replace(data, targets=self.targets)
            return scaled.total(basis, lambda block: of_block(block * math.sqrt(unit)))

        return self.partitions.reduce(of_rows, add)


def predict(X: Any, columns: Columns, values_at: Callable[[NDArray[Any]], NDArray[Any]], n_targets: int | None) -> Any:
    """Return predictions as a lazy collection with the chunks of X.

    Parameters
    ----------
    X : dask Array or DataFrame
    columns : Columns
        The columns of X.
    values_at : callable
        Takes an array X and returns predictions of shape (n_rows, n_targets).
    n_targets : int or None
        None if predictions have one dimension.

    Returns
    -------
    dask Array, Series or DataFrame
        An array if X is an array; a series or dataframe with X's index if X is a dataframe.
    """
    shape = () if n_targets is None else (n_targets,)
    empty = np.empty((0, *shape), dtype=columns.dtype)
    if not is_frame(X):
        X = X.rechunk({1: -1})
        chunks = X.chunks[0], *((size,) for size in shape)
        dropped = 1 if n_targets is None else None
        return X.map_blocks(_predict_block, columns, values_at, empty, chunks=chunks, drop_axis=dropped, meta=empty)
    import pandas as pd

    example = (pd.Series if n_targets is None else pd.DataFrame)(empty, index=X._meta.index)
    return X.map_partitions(_predict_frame, columns, values_at, empty, type(example), meta=example)


def _predict_block(
    X: Any, columns: Columns, values_at: Any, empty: NDArray[Any], block_id: tuple[int, ...] = (0,)
) -> Any:
    with _naming_partition(block_id[0]):
        columns.check(X)
        if not X.shape[0]:
            return empty
        check_numbers(X, "X")
        values = values_at(check_array(X, dtype=DTYPES, input_name="X")).astype(empty.dtype, copy=False)
        return values[:, 0] if empty.ndim == 1 else values


def _predict_frame(
    X: Any,
    columns: Columns,
    values_at: Any,
    empty: NDArray[Any],
    kind: Any,
    partition_info: dict[str, int] | None = None,
) -> Any:
    number = 0 if partition_info is None else partition_info["number"]
    return kind(_predict_block(X, columns, values_at, empty, (number,)), index=X.index)
