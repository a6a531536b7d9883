"""Dask collections: their columns, and partitions of X, y and weights with the same rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchpoly._backend.array_api import to_host_array

_FIRST = "Give Dask arrays or dataframes, or all in memory."
_COUNT = "or X as an array whose rows are counted by compute_chunk_sizes()"


def is_collection(*values: Any) -> bool:
    """Whether any of the values is a Dask collection."""
    if "dask" not in sys.modules:
        return False
    import dask

    return any(map(dask.is_dask_collection, values))


def is_frame(values: Any) -> bool:
    """Whether a Dask collection is a dataframe or a series."""
    from dask.utils import is_dataframe_like, is_series_like

    return is_dataframe_like(values) or is_series_like(values)


@dataclass(frozen=True)
class Columns:
    """Name, column names, number of columns and dtype of a collection.

    Parameters
    ----------
    name : str
        Name of the argument, such as "X".
    labels : list or None
        Names of the columns of a dataframe.
    number : int or None
        Number of columns; None for a collection of one dimension.
    dtype : dtype
        float32 if that is the common type of the columns, else float64.
    """

    name: str
    labels: list[Any] | None
    number: int | None
    dtype: np.dtype

    @classmethod
    def of(cls, values: Any, name: str, n_dimensions: Sequence[int] = (2,)) -> Columns:
        """Return the columns of a collection from its metadata.

        Raises
        ------
        TypeError
            If `values` is not a Dask array, dataframe or series.
        ValueError
            If the number of dimensions is not in `n_dimensions`.
        """
        import dask.array as da

        if not isinstance(values, da.Array) and not (is_collection(values) and is_frame(values)):
            kind = f"Dask {type(values).__name__}" if is_collection(values) else type(values).__name__
            raise TypeError(f"{name} is a {kind}, but other arguments are Dask arrays or dataframes. {_FIRST}")
        if values.ndim not in n_dimensions:
            expected = " or ".join(f"{n}D" for n in n_dimensions)
            raise ValueError(f"Expected {expected} array, got {values.ndim}D array instead: {name} is misshapen.")
        framed = is_frame(values)
        if framed and not values.npartitions:
            raise ValueError(f"{name} has no partitions.")
        if not framed and np.isnan(values.shape[1:]).any():
            raise ValueError(f"The number of columns of {name} is not known. Count them by compute_chunk_sizes().")
        number = values.shape[1] if values.ndim == 2 else None
        labels = list(values.columns) if framed and number is not None else None
        dtypes = [values.dtype] if number is None or not framed else list(values.dtypes)
        ordinary = all(isinstance(dtype, np.dtype) for dtype in dtypes)
        single = bool(dtypes) and ordinary and np.result_type(*dtypes) == np.float32
        return cls(name, labels, number, np.dtype(np.float32 if single else np.float64))

    @property
    def example(self) -> Any:
        """An array or dataframe with these columns and no rows."""
        empty = np.empty((0, self.number or 1), dtype=self.dtype)
        if self.labels is None:
            return empty
        import pandas as pd

        return pd.DataFrame(empty, columns=self.labels)

    def check(self, part: Any) -> None:
        """Raise a ValueError if a partition has other columns."""
        shape = np.shape(part)
        if shape[1:] != (() if self.number is None else (self.number,)):
            whole = "one dimension" if self.number is None else f"{self.number} columns"
            raise ValueError(f"{self.name} has the shape {shape}, but {self.name} as a whole has {whole}.")
        if self.labels is not None and list(part.columns) != self.labels:
            raise ValueError(
                f"{self.name} has the columns {list(part.columns)}, but {self.name} as a whole has {self.labels}."
            )


def blocks(values: Any) -> list[Any]:
    """Return the blocks of rows of a collection, as :class:`dask.delayed.Delayed` objects."""
    if not is_frame(values) and values.ndim == 2:
        values = values.rechunk({1: -1})
    parts = values.to_delayed()
    return list(parts if is_frame(values) else parts.ravel())


def aligned(values: Any, X: Any, name: str) -> Any:
    """Return y or weights with the partitions of X, if lengths or divisions are known.

    Raises
    ------
    ValueError
        If the numbers of rows differ, or if it is unknown whether they do.
    """
    import dask.array as da

    lengths = None if is_frame(X) else X.chunks[0]
    if not is_collection(values):
        values = np.asarray(to_host_array(values))
        if lengths is None or np.isnan(lengths).any():
            raise ValueError(
                f"{name!r} is in memory, and how many rows the partitions of X have is not known. Give a Dask "
                f"collection with X's partitions, {_COUNT}."
            )
        if not values.ndim:
            raise ValueError(f"{name!r} is a scalar, {values}; it takes a value for each row of X.")
        _check_length(len(values), lengths, name)
        return da.from_array(values, chunks=(lengths, *values.shape[1:]))
    if is_frame(values) and is_frame(X):
        return _repartitioned(values, X, name)
    if lengths is None or not isinstance(values, da.Array) or not values.ndim:
        return values
    if not np.isnan([*values.chunks[0], *lengths]).any():
        _check_length(values.shape[0], lengths, name)
        return values.rechunk({0: lengths})
    return values


def check_partitions(number: int, expected: int, name: str) -> None:
    """Raise a ValueError if the number of partitions differs from that of X."""
    if number != expected:
        raise ValueError(
            f"{name!r} has {number} partitions and X has {expected}, and the rows of some are not counted. Give both "
            "the same partitions, by repartition or rechunk, or let Dask count the rows by compute_chunk_sizes()."
        )


def _check_length(n_rows: int, lengths: tuple[int, ...], name: str) -> None:
    if n_rows != sum(lengths):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {sum(lengths)}, {name!r} has {n_rows}."
        )


def _repartitioned(values: Any, X: Any, name: str) -> Any:
    if not values.known_divisions or not X.known_divisions or values.divisions == X.divisions:
        return values
    index, index_of_X = ((frame.divisions[0], frame.divisions[-1]) for frame in (values, X))
    if index != index_of_X:
        raise ValueError(
            f"The index of {name!r} runs from {index[0]!r} to {index[1]!r}, that of X from {index_of_X[0]!r} to "
            f"{index_of_X[1]!r}. Give both the same index and rows."
        )
    return values.repartition(divisions=X.divisions)
