"""Where the columns of X lie, and the affine map from there to the window of the basis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
# Features are computed by NumPy on the CPU, by torch on other devices and in modules.
Array: TypeAlias = "Floats | Tensor"

# Rows read at a time where only a few numbers per row are touched.
SCAN_ROWS = 8192
# A chunk of features takes 8 MiB, about what stays in cache between its evaluation and its
# product, unless terms are so many that a chunk would have few rows.
_CHUNK_ELEMENTS = 2**20
# Products with themselves take some rows for a pass over a matrix of terms x terms to pay, products
# with vectors only for the rows of a chunk to be contiguous; more than 32 MiB do not pay for that.
_MIN_ROWS, _MIN_ROWS_FOR_VECTORS, _MAX_ROWS = 256, 16, 2**14
_MAX_ELEMENTS_FOR_VECTORS = 2**22
# Columns of at most so many distinct values have powers below that number only.
MAX_VALUES = 5
# Numbers this many roundings apart count as one, as 0.1 + 0.2 and 0.3 do.
_ROUNDINGS = 4.0
# Values closer than this share of their range are too close to interpolate between.
_SEPARATE = 1e-6
# Of most columns, so many rows already show more values.
_FIRST_ROWS = 16
# Principal axes narrower than this share of the widest have a box of their own.
NARROW = 1e-3
# Principal axes narrower than this share of the widest are hardly more than how columns are rounded.
VERY_NARROW = 1e-7
# An axis is mainly made of the columns whose entries are at least this share of the greatest.
_MAIN_SHARE = 0.1
# On accelerators, of which each call takes some microseconds to start, a chunk takes 128 MiB.
_ACCELERATOR_ELEMENTS = 2**24


def chunk_size(n_columns: int) -> int:
    """Return how many rows of so many features are worked on at a time."""
    return max(_MIN_ROWS, min(_MAX_ROWS, _CHUNK_ELEMENTS // n_columns))


def accelerator_chunk_size(n_columns: int) -> int:
    """Return how many rows of so many features an accelerator works on at a time."""
    return max(_MIN_ROWS, _ACCELERATOR_ELEMENTS // n_columns)


def vector_chunk_size(n_columns: int) -> int:
    """Return how many rows of so many features are multiplied by vectors at a time."""
    least = min(_MIN_ROWS_FOR_VECTORS, _MAX_ELEMENTS_FOR_VECTORS // n_columns)
    return max(1, least, min(_MAX_ROWS, _CHUNK_ELEMENTS // n_columns))


def row_chunks(n_rows: int, size: int, weights: Floats | None = None) -> Iterator[slice | NDArray[np.intp]]:
    """Yield indices of at most `size` consecutive rows, without those of weight 0."""
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        if weights is None or weights[rows].all():
            yield rows
        else:
            kept = start + np.flatnonzero(weights[rows])
            if kept.size:
                yield kept


def count_rows(X: NDArray, weights: Floats | None) -> int:
    """Return the number of rows of positive weight."""
    return len(X) if weights is None else int(np.count_nonzero(weights))


def sum_weights(X: NDArray, weights: Floats | None) -> float:
    """Return the sum of the weights, the number of rows where there are none."""
    return float(len(X) if weights is None else weights.sum())


@dataclass(frozen=True)
class Box:
    """What some rows take for values in each column of X.

    Parameters
    ----------
    low, high : ndarray of shape (n_features,)
        Least and greatest value of each column.
    values : tuple of (ndarray or None)
        The distinct values of each column in rising order, None where they are more than `MAX_VALUES`
        or lie close together. Values that differ by rounding count as one.
    precision : float
        How far the values are rounded, relatively.
    """

    low: Floats
    high: Floats
    values: tuple[Floats | None, ...]
    precision: float = float(np.finfo(np.float64).eps)

    # Differences beyond the largest float are infinite, which compares rightly.
    @classmethod
    @np.errstate(over="ignore")
    def of(cls, X: NDArray, weights: Floats | None) -> Box:
        """Look through the rows of positive weight."""
        low, high = column_ranges(X, weights)
        precision = float(np.finfo(X.dtype).eps)
        found = [_if_separate(values) for values in _few_values(X, weights, _twins(low, high, precision))]
        return cls(low, high, tuple(found), precision)

    @np.errstate(over="ignore")
    def __or__(self, other: Box) -> Box:
        """Return the box of the rows of both."""
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
        """Which columns vary by more than rounding."""
        return self.high - self.low > _rounding(self.low, self.high, self.precision)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self.low)


def _rounding(low: Floats, high: Floats, precision: float) -> Floats:
    """Return how far apart numbers of each column may be that would be the same without rounding."""
    return _ROUNDINGS * precision * np.maximum(np.abs(low), np.abs(high))


def _twins(low: Floats, high: Floats, precision: float) -> Floats:
    """Return how far apart values of each column count as one: 0 where the column takes few floats in all."""
    rounding = _rounding(low, high, precision)
    return np.where(rounding < _SEPARATE * (high - low), rounding, 0.0)


def _merged(values: NDArray, apart: float) -> NDArray:
    """Return rising values without those that are no further than this from the one before."""
    return values[np.r_[True, np.diff(values) > apart]]


def _if_separate(values: Floats | None) -> Floats | None:
    """Return the values, or None where they are more than `MAX_VALUES` or lie close together."""
    if values is None or len(values) > MAX_VALUES:
        return None
    is_close = len(values) > 1 and np.diff(values).min() < _SEPARATE * (values[-1] - values[0])
    return None if is_close else values


def _few_values(X: NDArray, weights: Floats | None, apart: Floats) -> list[Floats | None]:
    """Return the distinct values of each column, None where they are more than `MAX_VALUES`."""
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


@dataclass(frozen=True)
class Domain:
    """The affine map from the columns of X to the window [-1, 1] of the basis.

    Column i becomes ``v_i = (x_i - center_i) / half_width_i``. Where `axes` is given, the
    variables of the basis are ``u = v @ axes - shift``: a selection of columns that vary, or
    the principal axes of columns that nearly coincide.

    Parameters
    ----------
    center, half_width : ndarray of shape (n_features,)
        Middle and half of the range of each column, in the units of X. Columns that do not vary
        have a half width of 1.
    axes : ndarray of shape (n_features, n_variables) or None
        Columns are the directions of the basis variables; None stands for the identity.
    shift : ndarray of shape (n_variables,)
        What is subtracted after the change of axes.
    widths : ndarray of shape (n_variables,) or None
        Half the range of each variable before it was scaled to [-1, 1], divided by the greatest, where
        the variables are principal axes.
    rounding : ndarray of shape (n_variables,) or None
        By how much rounding moves each variable, where these are principal axes.
    """

    center: Floats
    half_width: Floats
    axes: Floats | None
    shift: Floats
    widths: Floats | None = None
    rounding: Floats | None = None

    @classmethod
    def identity(cls, n_features: int) -> Domain:
        """Return the domain that leaves X as it is."""
        return cls(np.zeros(n_features), np.ones(n_features), None, np.zeros(n_features))

    @classmethod
    def spanning(cls, box: Box) -> Domain:
        """Map the range of each column to [-1, 1].

        Columns that do not vary by more than rounding carry no information and get no variable.
        """
        center, half_width = middle_and_half(box.low, box.high)
        varies = box.varies
        axes = None if varies.all() else np.eye(len(box))[:, varies]
        return cls(center, np.where(varies, half_width, 1.0), axes, np.zeros(np.count_nonzero(varies)))

    @property
    def n_variables(self) -> int:
        return len(self.shift)

    @property
    def columns(self) -> NDArray[np.bool_]:
        """Which columns of X have a variable, where there are no other axes than these."""
        return np.ones(len(self.center), dtype=bool) if self.axes is None else np.asarray(self.axes.any(axis=1))

    @property
    def directions(self) -> Floats:
        """The directions of the variables, of shape (n_features, n_variables)."""
        return np.eye(len(self.center)) if self.axes is None else self.axes

    def covers_like(self, other: Domain) -> bool:
        """Whether another domain of the same columns, without axes of its own, has the same windows."""
        pairs = [(self.center, other.center), (self.half_width, other.half_width), (self.columns, other.columns)]
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def scale(self, X: NDArray) -> Floats:
        """Return the basis variables of the rows of X, of shape (n_variables, n_rows)."""
        scaled = np.empty((X.shape[1], X.shape[0]))
        np.subtract(X.T, self.center[:, None], out=scaled)
        np.divide(scaled, self.half_width[:, None], out=scaled)
        if self.axes is None:
            return scaled
        return self.axes.T @ scaled - self.shift[:, None]

    def on(self, device: Any) -> Callable[[Tensor], Tensor]:
        """Return what :meth:`scale` does, for tensors on a device."""
        import torch

        vectors = self.center[:, None], self.half_width[:, None], self.shift[:, None]
        center, half_width, shift = (torch.tensor(vector, device=device) for vector in vectors)
        axes = None if self.axes is None else torch.tensor(self.axes.T, device=device)

        def scale(X: Tensor) -> Tensor:
            scaled = (X.T - center) / half_width
            return scaled if axes is None else axes @ scaled - shift

        return scale

    def scale_steps(self, steps: NDArray) -> Floats:
        """Return how far steps in X lead in the basis variables, of shape (n_variables, n_rows)."""
        scaled = steps.T / self.half_width[:, None]
        return scaled if self.axes is None else self.axes.T @ scaled

    def projected(self, X: NDArray) -> Floats:
        """Return a random linear combination of the variables, which tells rows apart, of shape (n_rows,)."""
        factors = np.random.default_rng(0).uniform(0.5, 1.0, self.n_variables)
        # A matrix product need not give equal rows equal numbers.
        return (self.scale(X) * factors[:, None]).sum(axis=0)

    def ranges(self, X: NDArray, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the least and the greatest value of each variable over the rows of X of positive weight."""
        return _row_ranges(self.scale(X[rows]) for rows in row_chunks(len(X), SCAN_ROWS, weights))

    @property
    def limits(self) -> Floats | None:
        """The greatest absolute value of each variable in its box: infinite but for narrow principal axes.

        Columns that nearly coincide hide these axes: rows inside the range of each column can lie far
        outside of theirs. None stands for no narrow axes.
        """
        if self.widths is None or not (narrow := self.widths < NARROW).any():
            return None
        return np.where(narrow, 1.0 + cast(Floats, self.rounding), np.inf)

    def columns_along(self, variables: NDArray[np.intp] | NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the columns of X that some of the variables are mainly made of."""
        along = np.abs(cast(Floats, self.axes)[:, variables])
        return np.flatnonzero((along > _MAIN_SHARE * along.max(axis=0)).any(axis=1))


def column_ranges(X: NDArray, weights: Floats | None) -> tuple[Floats, Floats]:
    """Return the least and the greatest value of each column, over rows of positive weight."""
    return _row_ranges(X.T[:, rows] for rows in row_chunks(len(X), SCAN_ROWS, weights))


def distinct(chunks: Iterable[Floats], at_most: int) -> Floats:
    """Return the distinct numbers of all chunks, or the first found where they are more than `at_most`."""
    seen = np.zeros(0)
    for chunk in chunks:
        seen = np.union1d(seen, chunk)
        if len(seen) > at_most:
            return seen[: at_most + 1]
    return seen


def union_of_ranges(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the ranges that hold both."""
    return np.minimum(one[0], other[0]), np.maximum(one[1], other[1])


def middle_and_half(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return the middle and half of each range."""
    # Halved before they are added, so that ranges near the largest float do not overflow.
    return low / 2 + high / 2, high / 2 - low / 2


def weighted_median(values: Floats, weights: Floats) -> float:
    """Return the least value up to which the values hold half of the weight."""
    # Rounding decides no tie: k copies of a value are the same as weight k.
    half = 0.5 * (1 - 1e-9)
    if weights.min() == weights.max():
        rank = math.ceil(half * len(values)) - 1
        return float(np.partition(values, rank)[rank])
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(cumulated, half * cumulated[-1])]])


def typical_size(values: Floats, weights: Floats) -> float:
    """Return the weighted median of the absolute values, or where that is 0, their mean."""
    sizes = np.abs(values)
    return weighted_median(sizes, weights) or float(sizes @ weights / weights.sum())


def _row_ranges(chunks: Iterator[NDArray]) -> tuple[Floats, Floats]:
    """Return the least and the greatest value of each row over chunks of shape (n_variables, n_rows)."""
    low: Any = np.inf
    high: Any = -np.inf
    for chunk in chunks:
        contiguous = np.ascontiguousarray(chunk)
        low = np.minimum(low, contiguous.min(axis=1))
        high = np.maximum(high, contiguous.max(axis=1))
    return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
