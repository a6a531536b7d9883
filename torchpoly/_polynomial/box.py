"""The ranges of the columns of X, and the values of columns of few values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import SCAN_ROWS, Floats, column_ranges, row_chunks, union_of_ranges

# Powers are capped for columns of at most this number of distinct values.
MAX_VALUES = 5
# Numbers that differ by at most this number of units in the last place are equal, like 0.1 + 0.2 and 0.3.
_EQUAL_UNITS = 4.0
# Values closer than this fraction of their range are too close for interpolation.
_MIN_SEPARATION = 1e-6
# This number of rows is enough to see that most columns have more than `MAX_VALUES` values.
_FIRST_ROWS = 16


@dataclass(frozen=True)
class Box:
    """The values of some rows in each column of X.

    Parameters
    ----------
    low, high : ndarray of shape (n_features,)
        Least and greatest value of each column.
    values : tuple of (ndarray or None)
        The distinct values of each column in ascending order; None if there are more than `MAX_VALUES`, or
        if they are close together. Values that differ by rounding are one value.
    precision : float
        The machine epsilon of the values.
    """

    low: Floats
    high: Floats
    values: tuple[Floats | None, ...]
    precision: float = float(np.finfo(np.float64).eps)

    # A difference beyond the largest float is infinite, and comparisons with it are correct.
    @classmethod
    @np.errstate(over="ignore")
    def of(cls, X: NDArray[Any], weights: Floats | None) -> Box:
        """Return the box of the rows of positive weight."""
        low, high = column_ranges(X, weights)
        precision = float(np.finfo(X.dtype).eps)
        found = [_if_separate(values) for values in _few_values(X, weights, _twins(low, high, precision))]
        return cls(low, high, tuple(found), precision)

    @np.errstate(over="ignore")
    def __or__(self, other: Box) -> Box:
        """Return the box of the rows of both boxes."""
        low, high = union_of_ranges((self.low, self.high), (other.low, other.high))
        precision = max(self.precision, other.precision)
        values: list[Floats | None] = []
        for mine, theirs, apart in zip(self.values, other.values, _twins(low, high, precision), strict=True):
            both = None if mine is None or theirs is None else _merged(np.union1d(mine, theirs), apart)
            values.append(_if_separate(both))
        return Box(low, high, tuple(values), precision)

    @property
    @np.errstate(over="ignore")
    def varies(self) -> NDArray[np.bool_]:
        """Whether each column varies by more than rounding."""
        return self.high - self.low > _rounding(self.low, self.high, self.precision)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self.low)


def rows_that_span(X: NDArray[Any], weights: Floats | None) -> NDArray[np.bool_]:
    """Return whether the box of the other rows may differ from that of all rows, for each row.

    It differs if a row alone has the least or the greatest value of a column, or alone has a value of a
    column of few values.
    """
    kept = np.arange(len(X)) if weights is None else np.flatnonzero(weights)
    low, high = column_ranges(X, weights)
    spans = np.zeros(len(X), dtype=bool)
    for column, apart in zip(X[kept].T, _twins(low, high, float(np.finfo(X.dtype).eps)), strict=True):
        for end in (column.min(), column.max()):
            holders = kept[column == end]
            spans[holders] |= len(holders) == 1
        values = _merged(np.unique(column), apart)
        if len(values) <= MAX_VALUES + 1:
            value = np.searchsorted(values, column, side="right") - 1
            spans[kept] |= np.bincount(value)[value] == 1
    return spans


def _rounding(low: Floats, high: Floats, precision: float) -> Floats:
    """Return the greatest difference, for each column, of numbers that are equal up to rounding."""
    with np.errstate(under="ignore"):
        relative = _EQUAL_UNITS * precision * np.maximum(np.abs(low), np.abs(high))
    return np.maximum(relative, _EQUAL_UNITS * np.finfo(np.float64).smallest_subnormal)


def _twins(low: Floats, high: Floats, precision: float) -> Floats:
    """Return the greatest difference of equal values of each column: 0 if its range is hardly more than rounding."""
    rounding = _rounding(low, high, precision)
    return np.where(rounding < _MIN_SEPARATION * (high - low), rounding, 0.0)


def _merged(values: NDArray[Any], apart: float) -> NDArray[Any]:
    """Return sorted values without those that exceed the previous value by at most `apart`."""
    return values[np.r_[True, np.diff(values) > apart]]


def _if_separate(values: Floats | None) -> Floats | None:
    """Return the values, or None if there are more than `MAX_VALUES` or if they are close together."""
    if values is None or len(values) > MAX_VALUES:
        return None
    is_close = len(values) > 1 and np.diff(values).min() < _MIN_SEPARATION * (values[-1] - values[0])
    return None if is_close else values


def _few_values(X: NDArray[Any], weights: Floats | None, apart: Floats) -> list[Floats | None]:
    """Return the distinct values of each column, None if there are more than `MAX_VALUES`."""
    first = np.sort(X[next(row_chunks(len(X), _FIRST_ROWS, weights))], axis=0)
    n_values = 1 + np.count_nonzero(np.diff(first, axis=0) > apart, axis=0)
    few = np.flatnonzero(n_values <= MAX_VALUES).tolist()
    known = {column: _merged(np.unique(first[:, column]), apart[column]) for column in few}
    for rows in row_chunks(len(X), SCAN_ROWS, weights) if len(X) > _FIRST_ROWS else ():
        if not known:
            break
        for column, values in list(known.items()):
            taken = X[rows, column]
            new = taken[~np.isin(taken, values)]
            if new.size:
                known[column] = _merged(np.union1d(values, new), apart[column])
            if len(known[column]) > MAX_VALUES:
                del known[column]
    found = {column: values.astype(np.float64) for column, values in known.items()}
    return [found.get(column) for column in range(X.shape[1])]
