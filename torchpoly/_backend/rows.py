"""Rows of arrays: types, sizes of chunks, ranges, distinct values and medians."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
# NumPy computes features on the CPU. torch computes them on other devices and in modules.
Array: TypeAlias = "Floats | Tensor"
# Number of rows in a chunk of X or y, where no features are evaluated.
SCAN_ROWS = 8192
# A chunk of features takes 8 MiB. It stays in the cache between its evaluation and its product.
_CHUNK_ELEMENTS = 2**20
# With many terms, a chunk is larger. A product of a chunk with itself updates a matrix of terms x terms, which pays
# from 256 rows on. A product with a vector needs 16 rows, for contiguous memory, but at most 32 MiB.
_MIN_ROWS, _MIN_ROWS_FOR_VECTORS, _MAX_ROWS = 256, 16, 2**14
_MAX_ELEMENTS_FOR_VECTORS = 2**22
# On an accelerator a chunk takes 128 MiB, as each call has an overhead of some microseconds.
_ACCELERATOR_ELEMENTS = 2**24


def chunk_size(n_columns: int) -> int:
    """Return the number of rows in a chunk with this number of features, for products of a chunk with itself."""
    return max(_MIN_ROWS, min(_MAX_ROWS, _CHUNK_ELEMENTS // n_columns))


def accelerator_chunk_size(n_columns: int) -> int:
    """Return the number of rows in a chunk with this number of features on an accelerator."""
    return max(_MIN_ROWS, _ACCELERATOR_ELEMENTS // n_columns)


def vector_chunk_size(n_columns: int) -> int:
    """Return the number of rows in a chunk with this number of features, for products with vectors."""
    least = min(_MIN_ROWS_FOR_VECTORS, _MAX_ELEMENTS_FOR_VECTORS // n_columns)
    return max(1, least, min(_MAX_ROWS, _CHUNK_ELEMENTS // n_columns))


def row_chunks(n_rows: int, size: int, weights: Floats | None = None) -> Iterator[slice | NDArray[np.intp]]:
    """Yield the indices of each `size` consecutive rows, without the rows of weight 0."""
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        if weights is None or weights[rows].all():
            yield rows
        else:
            kept = start + np.flatnonzero(weights[rows])
            if kept.size:
                yield kept


def count_rows(X: NDArray[Any], weights: Floats | None) -> int:
    """Return the number of rows of positive weight."""
    return len(X) if weights is None else int(np.count_nonzero(weights))


def sum_weights(X: NDArray[Any], weights: Floats | None) -> float:
    """Return the sum of the weights, or the number of rows if there are no weights."""
    return float(len(X) if weights is None else weights.sum())


def column_ranges(X: NDArray[Any], weights: Floats | None) -> tuple[Floats, Floats]:
    """Return the least and the greatest value of each column over the rows of positive weight."""
    return row_ranges(X.T[:, rows] for rows in row_chunks(len(X), SCAN_ROWS, weights))


def row_ranges(chunks: Iterator[NDArray[Any]]) -> tuple[Floats, Floats]:
    """Return the least and the greatest value of each row over chunks of shape (n_variables, n_rows)."""
    low: Any = np.inf
    high: Any = -np.inf
    for chunk in chunks:
        contiguous = np.ascontiguousarray(chunk)
        low = np.minimum(low, contiguous.min(axis=1))
        high = np.maximum(high, contiguous.max(axis=1))
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def union_of_ranges(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the smallest ranges that contain both."""
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def distinct(chunks: Iterable[Floats], at_most: int) -> Floats:
    """Return the distinct numbers in all chunks, or the first ones found if there are more than `at_most`."""
    seen = np.zeros(0)
    for chunk in chunks:
        seen = np.union1d(seen, chunk)
        if len(seen) > at_most:
            return seen[: at_most + 1]
    return seen


def middle_and_half(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return ``(low + high) / 2`` and ``(high - low) / 2``."""
    # Division before addition prevents overflow of ranges near the largest float.
    return low / 2 + high / 2, high / 2 - low / 2


def weighted_median(values: Floats, weights: Floats) -> float:
    """Return the weighted median: the least value up to which the weights sum to half of the total."""
    # The factor makes ties independent of rounding: k copies of a row give the same as weight k.
    half = 0.5 * (1 - 1e-9)
    if weights.min() == weights.max():
        rank = math.ceil(half * len(values)) - 1
        return float(np.partition(values, rank)[rank])
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(cumulated, half * cumulated[-1])]])


def typical_size(values: Floats, weights: Floats) -> float:
    """Return the weighted median of the absolute values, or their weighted mean if the median is 0."""
    sizes = np.abs(values)
    return weighted_median(sizes, weights) or float(sizes @ weights / weights.sum())
