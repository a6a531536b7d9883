"""What is refused before any work: weights, targets, and more terms than memory holds."""

from __future__ import annotations

import bisect
import math
import os
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import assert_all_finite, validate_data

from torchpoly._array_api import to_host_array
from torchpoly._few_rows import KERNEL_ELEMENTS, is_held
from torchpoly._index_set import IndexSet
from torchpoly._rows_of_arrays import Floats, chunk_size, vector_chunk_size
from torchpoly._sklearn_compat import check_sample_weight

# What rows are kept in; everything else becomes the first.
DTYPES = (np.float64, np.float32)
# Matrices of terms x terms, or of terms x rows or rows x rows where these are fewer, that a fit holds at its peak.
_MATRICES = 8


def check_targets(y: NDArray) -> NDArray:
    """Return y, or refuse it where it became numbers, or double precision, only after scikit-learn had looked."""
    if y.dtype.kind == "f" and y.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            y = y.astype(np.float64)
    assert_all_finite(y, input_name="y")
    return y


def check_rows(estimator: Any, X: Any, y: Any, *, reset: bool = True) -> tuple[NDArray, NDArray]:
    """Return X and y as NumPy's arrays of finite numbers, or refuse them; record or check the columns of X."""
    X, y = to_host_array(X), to_host_array(y)
    X, y = validate_data(estimator, X, y, dtype=DTYPES, multi_output=True, y_numeric=True, reset=reset)
    return X, check_targets(y)


def check_weights(sample_weight: ArrayLike | None, X: NDArray) -> tuple[Floats | None, float]:
    """Return the weights relative to the greatest, and that, or refuse them; where there are none, None and 1."""
    if sample_weight is None:
        return None, 1.0
    sample_weight = to_host_array(sample_weight)
    weights = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    greatest = float(weights.max())
    if greatest == 0:
        raise ValueError("The 'sample_weight' parameter is all zero; at least one weight must be positive.")
    return weights / greatest, greatest


def check_not_class(loss: object) -> None:
    """Refuse a class of losses in the place of one of its instances."""
    if isinstance(loss, type):
        raise ValueError(
            f"The 'loss' parameter got the class {loss.__name__}; it must be a name, a function or an instance, "
            f"such as {loss.__name__}()."
        )


def check_memory(indices: IndexSet, n_rows: int) -> None:
    """Refuse more terms than the machine's memory holds, before anything is allocated.

    Raises
    ------
    ValueError
        With the number of terms and bytes, and the greatest degree that fits.
    """

    def fit_bytes(degree: int) -> int:
        n_terms = indices.of_degree(degree).n_terms
        if n_rows < n_terms and not is_held(n_terms, n_rows):
            kernels = 2 * degree * KERNEL_ELEMENTS * min(indices.n_variables - 1, 1)
            return 8 * (_MATRICES * n_rows**2 + n_terms * (_MATRICES + vector_chunk_size(n_terms)) + kernels)
        return 8 * n_terms * (_MATRICES * min(n_terms, n_rows + 1) + chunk_size(n_terms))

    limit = _physical_memory()
    needed = fit_bytes(indices.degree)
    if needed > limit:
        fitting = bisect.bisect_right(range(min(indices.degree, sys.maxsize)), limit, key=fit_bytes) - 1
        raise ValueError(
            f"The 'degree' parameter got {indices.degree}, which for {indices.n_variables} features makes "
            f"{indices.n_terms} terms; to fit them takes {needed} bytes, more than the {limit} of this machine's "
            f"memory. The greatest degree that fits is {fitting}."
        )


@cache
def _physical_memory() -> float:
    """Return the bytes of memory of this machine; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
