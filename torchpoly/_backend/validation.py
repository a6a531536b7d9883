"""Validation of X, y and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import assert_all_finite, validate_data

from torchpoly._backend.array_api import to_host_array
from torchpoly._backend.rows import Floats
from torchpoly._backend.sklearn_compat import check_sample_weight

# The types in which rows are kept; others are converted to float64.
DTYPES = (np.float64, np.float32)


def check_targets(y: NDArray) -> NDArray:
    """Return finite y in at most double precision.

    scikit-learn checks y before it converts objects to numbers, and before a long double becomes a double.
    """
    if y.dtype.kind == "f" and y.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            y = y.astype(np.float64)
    assert_all_finite(y, input_name="y")
    return y


def check_rows(estimator: Any, X: Any, y: Any, *, reset: bool = True) -> tuple[NDArray, NDArray]:
    """Return X and y as NumPy arrays of finite numbers; record the columns of X, or check them without `reset`."""
    X, y = to_host_array(X), to_host_array(y)
    X, y = validate_data(estimator, X, y, dtype=DTYPES, multi_output=True, y_numeric=True, reset=reset)
    return X, check_targets(y)


def check_weights(sample_weight: ArrayLike | None, X: NDArray) -> tuple[Floats | None, float]:
    """Return the weights divided by the greatest weight, and the greatest weight; None and 1 without weights."""
    if sample_weight is None:
        return None, 1.0
    sample_weight = to_host_array(sample_weight)
    weights = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    greatest = float(weights.max())
    if greatest == 0:
        raise ValueError("The 'sample_weight' parameter is all zero; at least one weight must be positive.")
    return weights / greatest, greatest


def check_not_class(loss: object) -> None:
    """Check that the loss is not a class, where an instance is meant."""
    if isinstance(loss, type):
        raise ValueError(
            f"The 'loss' parameter got the class {loss.__name__}; it must be a name, a function or an instance, "
            f"such as {loss.__name__}()."
        )
