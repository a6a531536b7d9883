"""The center and the scale of the targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import (
    SCAN_ROWS,
    Floats,
    column_ranges,
    middle_and_half,
    row_chunks,
    sum_weights,
    typical_size,
    weighted_median,
)
from torchpoly._polynomial.target_scaling import TargetScaling

# Rounding errors of mean products of features and scaled targets, in units of the machine epsilon.
_PRODUCT_ROUNDING = 128


def mean_and_deviation(Y: NDArray[Any], weights: Floats | None = None) -> TargetScaling:
    """Return the weighted mean and standard deviation of each target; the scale of a constant target is 1."""
    ranges = _ranges(Y, weights)
    mean, square = np.zeros((2, Y.shape[1]))
    for rows in row_chunks(len(Y), SCAN_ROWS, weights):
        scaled = ranges.transform(Y[rows])
        weighted = scaled if weights is None else scaled * weights[rows]
        mean += weighted.sum(axis=1)
        square += (weighted * scaled).sum(axis=1)
    total_weight = sum_weights(Y, weights)
    mean /= total_weight
    # In [-1, 1] squares do not overflow. Both ends are attained, so the variance is at least about 2 / n, and there is
    # no cancellation.
    variance = square / total_weight - mean * mean
    spread = np.where(variance > 0, np.sqrt(np.abs(variance)), 1.0)
    return TargetScaling(ranges.center + ranges.scale * mean, ranges.scale * spread)


def median_and_deviation(Y: NDArray[Any], weights: Floats | None = None) -> TargetScaling:
    """Return the weighted median and the median absolute deviation of each target: both are robust to outliers."""
    ranges = _ranges(Y, weights)
    kept = slice(None) if weights is None else np.flatnonzero(weights)
    scaled = ranges.transform(Y[kept])
    kept_weights = np.ones(scaled.shape[1]) if weights is None else weights[kept]
    middle = np.array([weighted_median(row, kept_weights) for row in scaled])
    spread = np.array([typical_size(row, kept_weights) for row in scaled - middle[:, None]])
    return TargetScaling(ranges.center + ranges.scale * middle, ranges.scale * np.where(spread > 0, spread, 1.0))


def product_rounding(targets: TargetScaling) -> Floats:
    """Return ``(128 + 2 |mean| / scale) * eps``: a bound of rounding errors in products of features and targets.

    Scaled targets have a spread of 1. If y has a large mean, its rounding errors are relative to the mean.
    """
    with np.errstate(over="ignore"):
        return (_PRODUCT_ROUNDING + 2 * np.abs(targets.center) / targets.scale) * np.finfo(np.float64).eps


def _ranges(Y: NDArray[Any], weights: Floats | None) -> TargetScaling:
    """Return the map of the range of each target to [-1, 1]; a constant target is mapped to 0."""
    center, half_width = middle_and_half(*column_ranges(Y, weights))
    return TargetScaling(center, np.where(half_width > 0, half_width, 1.0))
