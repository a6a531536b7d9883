"""Dask collections: partitions are reduced where they are, and what is left of them merges as a tree."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_X_y

from torchpoly._basis import Basis
from torchpoly._device import resolve_device
from torchpoly._domain import Domain, Floats
from torchpoly._gram import GramStatistics
from torchpoly._reading import Data, Reading, check_weights, read_gram

# So many results are merged at a time.
_FAN_IN = 8
_DTYPES = (np.float64, np.float32)


def is_collection(*values: Any) -> bool:
    """Whether any of the values is a Dask collection."""
    if "dask" not in sys.modules:
        return False
    import dask

    return any(map(dask.is_dask_collection, values))


@dataclass(frozen=True)
class Columns:
    """What the partitions of X have in common.

    Parameters
    ----------
    names : list or None
        Names of the columns of a dataframe.
    number : int
        How many columns there are.
    dtype : dtype
        float32 if all columns have it, else float64.
    """

    names: list[Any] | None
    number: int
    dtype: np.dtype

    @classmethod
    def of(cls, X: Any) -> Columns:
        """Read them from a Dask collection's metadata.

        Raises
        ------
        TypeError
            If X is neither an array nor a dataframe of Dask's.
        ValueError
            If X has not two dimensions.
        """
        if not is_collection(X):
            raise TypeError(
                f"X is a {type(X).__name__}, but other arguments are Dask collections. Give X as one too, or the "
                "others in memory."
            )
        if not hasattr(X, "ndim") or not hasattr(X, "dtypes" if _is_frame(X) else "dtype"):
            raise TypeError(
                f"X is a Dask {type(X).__name__}; of Dask's collections, arrays and dataframes are allowed."
            )
        if X.ndim != 2:
            raise ValueError(f"Expected 2D array, got {X.ndim}D array instead. Reshape X: a row for each sample.")
        if np.isnan(X.shape[1]):
            raise ValueError("The number of columns of X is not known. Let Dask count them by X.compute_chunk_sizes().")
        dtypes, names = (list(X.dtypes), list(X.columns)) if _is_frame(X) else ([X.dtype], None)
        single = all(dtype == np.float32 for dtype in dtypes)
        return cls(names, X.shape[1], np.dtype(np.float32 if single else np.float64))

    @property
    def example(self) -> Any:
        """An array or dataframe of these columns, without rows."""
        empty = np.empty((0, self.number), dtype=self.dtype)
        if self.names is None:
            return empty
        import pandas as pd

        return pd.DataFrame(empty, columns=self.names)

    def check(self, X: Any) -> None:
        """Refuse a partition of other columns."""
        if np.ndim(X) != 2 or np.shape(X)[1] != self.number:
            raise ValueError(f"X has the shape {np.shape(X)}, but X as a whole has {self.number} columns.")
        if self.names is not None and list(X.columns) != self.names:
            raise ValueError(f"X has the columns {list(X.columns)}, but X as a whole has {self.names}.")


@dataclass(frozen=True)
class Partitions:
    """The rows of a fit in partitions that lie anywhere.

    Parameters
    ----------
    columns : Columns
    device : str or torch.device
        Where workers compute features.
    parts : list of (X, y, weights)
        :class:`dask.delayed.Delayed` objects of each partition; weights may be None.
    """

    columns: Columns
    device: Any
    parts: list[tuple[Any, Any, Any]]

    @classmethod
    def of(cls, X: Any, y: Any, sample_weight: Any, columns: Columns, device: Any) -> Partitions:
        """Pair the partitions of X with those of y and of the weights, chunked alike as far as can be.

        Raises
        ------
        ValueError
            If rows of X, y and weights do not belong together, or nobody knows whether they do.
        """
        blocks = [_blocks(X)]
        for name, values in (("y", y), ("sample_weight", sample_weight)):
            blocks.append([None] * len(blocks[0]) if values is None else _blocks(_aligned(values, X, name)))
            if len(blocks[-1]) != len(blocks[0]):
                raise ValueError(_MISALIGNED.format(name, len(blocks[-1]), len(blocks[0])))
        return cls(columns, device, list(zip(*blocks, strict=True)))

    def reduce(self, of_rows: Callable[[Data, float], Any], merge: Callable[[Any, Any], Any]) -> Any:
        """Compute something of each partition on its worker, and merge the results as a tree.

        Parameters
        ----------
        of_rows : callable
            Takes the rows of positive weight of a partition that has such, with weights relative
            to the greatest, and that.
        merge : callable
            Takes what it, or `of_rows`, has returned for some rows, and for the rows that follow.

        Returns
        -------
        object
            None if there are no rows of positive weight.

        Raises
        ------
        ValueError
            If a partition is not as X as a whole, or is not of finite numbers.
        RuntimeError
            If the scheduler has gone.
        """
        import dask

        function, columns, device = (
            dask.delayed(value, traverse=False) for value in (of_rows, self.columns, self.device)
        )
        results = [
            dask.delayed(_of_partition)(function, columns, device, number, *part)
            for number, part in enumerate(self.parts)
        ]
        while len(results) > 1:
            merged = dask.delayed(_merged)
            results = [merged(merge, results[start : start + _FAN_IN]) for start in range(0, len(results), _FAN_IN)]
        try:
            return results[0].compute()
        except CancelledError as error:
            raise RuntimeError(_GONE) from error
        except ValueError as error:
            # So Dask says that persisted partitions have gone with their cluster.
            if "Missing dependency" in str(error):
                raise RuntimeError(_GONE) from error
            raise


_GONE = (
    "The Dask scheduler has gone, and with it the partitions. Connect a new dask.distributed.Client and fit again; "
    "collections that were persisted on the old cluster have to be made anew."
)
_MISALIGNED = (
    "{0!r} has {1} partitions and X has {2}, and the rows of some are not counted. Give both the same partitions, by "
    "repartition or rechunk, or let Dask count the rows by compute_chunk_sizes()."
)


def _is_frame(values: Any) -> bool:
    """Whether a Dask collection is a dataframe or a series."""
    return hasattr(values, "divisions")


def _blocks(values: Any) -> list[Any]:
    """Return the blocks of rows of a collection."""
    if not _is_frame(values) and values.ndim == 2:
        values = values.rechunk({1: -1})
    blocks = values.to_delayed()
    return list(blocks if _is_frame(values) else blocks.ravel())


def _aligned(values: Any, X: Any, name: str) -> Any:
    """Return y or weights with the partitions of X where their lengths or divisions are known."""
    import dask.array as da

    lengths = None if _is_frame(X) else X.chunks[0]
    if not is_collection(values):
        if lengths is None or np.isnan(lengths).any():
            raise ValueError(
                f"{name!r} is in memory, and how many rows the partitions of X have is not known. Give a Dask "
                f"collection with X's partitions, or X as an array whose rows are counted by compute_chunk_sizes()."
            )
        values = np.asarray(values)
        _check_length(values.shape[0], lengths, name)
        return da.from_array(values, chunks=(lengths, *values.shape[1:]))
    if _is_frame(values) and _is_frame(X):
        known = values.known_divisions and X.known_divisions
        differ = values.divisions != X.divisions
        return values.repartition(divisions=X.divisions, force=True) if known and differ else values
    if not _is_frame(values) and lengths is not None and not np.isnan([*values.chunks[0], *lengths]).any():
        _check_length(values.shape[0], lengths, name)
        return values.rechunk({0: lengths})
    return values


def _check_length(n_rows: int, lengths: tuple[int, ...], name: str) -> None:
    if n_rows != sum(lengths):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {sum(lengths)}, {name!r} has {n_rows}."
        )


@contextmanager
def naming_partition(number: int) -> Iterator[None]:
    """Say in what is raised which partition is to blame."""
    try:
        yield
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"In partition {number}: {error}") from error


def _of_partition(function: Any, columns: Columns, device: Any, number: int, X: Any, y: Any, weights: Any) -> Any:
    """Return what a function makes of a partition, None where that has no rows of positive weight."""
    with naming_partition(number):
        columns.check(X)
        if not len(X) and not len(y):
            return None
        rows, targets = check_X_y(X, y, dtype=_DTYPES, multi_output=True, y_numeric=True)
        unit = 1.0
        if weights is not None:
            weights = np.asarray(weights, dtype=np.float64)
            if weights.shape == (len(rows),) and not weights.any():
                return None
            weights, unit = check_weights(weights, rows)
        units = Domain.identity(1 if targets.ndim == 1 else targets.shape[1])
        Y = targets.reshape(len(targets), -1)
        data = Data(rows, Y, weights, units, resolve_device(device)).of_positive_weight()
        return function(data, unit)


def _merged(merge: Callable[[Any, Any], Any], results: list[Any]) -> Any:
    of_rows = [result for result in results if result is not None]
    return reduce(merge, of_rows) if of_rows else None


@dataclass(frozen=True)
class PartitionedRows:
    """Rows in partitions, as a source that can be read more than once: see :class:`torchpoly._reading.Source`.

    Parameters
    ----------
    partitions : Partitions
    n_rows : int
        Number of rows of positive weight.
    targets : Domain
        What the targets are scaled by.
    """

    partitions: Partitions
    n_rows: int
    targets: Domain

    @property
    def precision(self) -> float:
        """How far the values of X are rounded, relatively."""
        return float(np.finfo(self.partitions.columns.dtype).eps)

    def ranges(self, domain: Domain) -> tuple[Floats, Floats]:
        """Return the least and greatest values that the rows take in the variables of a domain."""
        return self.partitions.reduce(lambda data, _: data.ranges(domain), union_of_ranges)

    def read(self, basis: Basis, mixing: Floats | None = None) -> Reading:
        """Read the rows once more."""

        def statistics(data: Data, unit: float) -> GramStatistics:
            read = read_gram(basis, replace(data, targets=self.targets), mixing)
            return replace(read, total_weight=unit * read.total_weight)

        read = self.partitions.reduce(statistics, lambda one, other: GramStatistics.of_union([one, other], [1, 1]))
        return Reading(basis, mixing, read, None)


def union_of_ranges(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the ranges that hold both."""
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def predict(X: Any, columns: Columns, values_at: Callable[[NDArray], NDArray], n_targets: int | None) -> Any:
    """Return the predictions of a function lazily, chunked as X.

    Parameters
    ----------
    X : dask Array or DataFrame
    columns : Columns
        Of X.
    values_at : callable
        Returns values of shape (n_rows, n_targets) at the rows of an array.
    n_targets : int or None
        None where predictions have one dimension.

    Returns
    -------
    dask Array, Series or DataFrame
        An array for an array, a series or dataframe with X's index for a dataframe.
    """
    if not _is_frame(X):
        X = X.rechunk({1: -1})
        return X.map_blocks(
            _predict_block,
            columns,
            values_at,
            n_targets,
            chunks=X.chunks[:1] if n_targets is None else (X.chunks[0], (n_targets,)),
            drop_axis=1 if n_targets is None else None,
            meta=np.empty((0,) * (1 if n_targets is None else 2), dtype=columns.dtype),
        )
    import pandas as pd

    empty = np.empty((0,) if n_targets is None else (0, n_targets), dtype=columns.dtype)
    example = (pd.Series if n_targets is None else pd.DataFrame)(empty, index=X._meta.index)
    return X.map_partitions(_predict_frame, columns, values_at, example, meta=example)


def _predict_block(
    X: NDArray,
    columns: Columns,
    values_at: Callable[[NDArray], NDArray],
    n_targets: int | None,
    block_id: tuple[int, ...] = (0,),
) -> NDArray:
    with naming_partition(block_id[0]):
        columns.check(X)
        rows = check_array(X, dtype=_DTYPES, input_name="X", ensure_min_samples=0)
        values = (
            values_at(rows).astype(columns.dtype, copy=False) if len(rows) else rows[:, :1].repeat(n_targets or 1, 1)
        )
        return values[:, 0] if n_targets is None else values


def _predict_frame(X: Any, columns: Columns, values_at: Any, example: Any, partition_info: Any = None) -> Any:
    number = 0 if partition_info is None else partition_info["number"]
    n_targets = None if example.ndim == 1 else example.shape[1]
    with naming_partition(number):
        columns.check(X)
    values = _predict_block(X.to_numpy(), replace(columns, names=None), values_at, n_targets, (number,))
    return type(example)(values, index=X.index)
