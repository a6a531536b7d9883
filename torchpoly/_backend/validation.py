"""What is refused before any work: rows, targets, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import assert_all_finite, validate_data

from torchpoly._backend.array_api import to_host_array
from torchpoly._backend.rows import Floats
from torchpoly._backend.sklearn_compat import check_sample_weight

# What rows are kept in; everything else becomes the first.
DTYPES = (np.float64, np.float32)


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
