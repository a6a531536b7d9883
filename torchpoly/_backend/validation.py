"""Validation of X, y and weights."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import assert_all_finite, validate_data

from torchpoly._backend.array_api import to_host_array
from torchpoly._backend.rows import Floats
from torchpoly._backend.sklearn_compat import check_sample_weight

# The types in which rows are kept; others are converted to float64.
DTYPES = (np.float64, np.float32)


def check_numbers(values: Any, name: str) -> None:
    """Check that values are neither dates, times nor durations, and that none of them is masked.

    NumPy would take a date for its number of seconds or nanoseconds, in a unit that may differ in other data, and the
    value under a mask for a number.

    Raises
    ------
    TypeError
        If values, or a column of them, are dates, times or durations.
    ValueError
        If values are masked.
    """
    if isinstance(values, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(values)
        if masked.any():
            where = f", in columns {np.flatnonzero(masked.any(axis=0)).tolist()}" if masked.ndim == 2 else ""
            raise ValueError(
                f"Input {name} contains masked values: {np.count_nonzero(masked)}{where}. They count as missing. Drop "
                "these rows, or replace the values, for example by an imputer."
            )
    for column, dtype, sample in _columns(values):
        kind = _kind_of_time(dtype, sample)
        if kind is not None:
            where = name if column is None else f"Column {column!r} of {name}"
            raise TypeError(
                f"{where} has {kind} (dtype {dtype}), and numbers are needed. Convert them to floats in a unit of your "
                "choice, such as days: (dates - first_date) / numpy.timedelta64(1, 'D')."
            )


def _columns(values: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the name, the dtype and, for objects, a value of each column; the name is None for one dimension."""
    if hasattr(values, "dtypes") and hasattr(values, "columns"):
        for position, (name, dtype) in enumerate(zip(values.columns, values.dtypes, strict=True)):
            column = values.iloc[:, position] if hasattr(values, "iloc") else values[name]
            yield name, dtype, _first_object(column) if str(dtype).lower().startswith("object") else None
        return
    if isinstance(values, (list, tuple)):
        try:
            values = np.asarray(values, dtype=object)
        except ValueError:  # of different lengths, which scikit-learn reports
            return
    dtype = getattr(values, "dtype", None)
    if dtype is None:
        return
    if str(dtype).lower().startswith("object") and np.ndim(values) == 2:
        array = np.asarray(values, dtype=object)
        for column in range(array.shape[1]):
            yield column, dtype, _first_object(array[:, column])
    elif str(dtype).lower().startswith("object"):
        yield None, dtype, _first_object(values)
    else:
        yield None, dtype, None


def _first_object(column: Any) -> Any:
    """Return the first value that is neither missing nor a number."""
    return next((value for value in column if not isinstance(value, (float, int, np.number, type(None)))), None)


def _kind_of_time(dtype: Any, sample: Any) -> str | None:
    """Return what values of a dtype are if they are no numbers, for a message; None for numbers."""
    if isinstance(sample, (datetime.date, np.datetime64)):
        return "dates"
    if isinstance(sample, (datetime.timedelta, np.timedelta64)):
        return "durations"
    if isinstance(sample, datetime.time):
        return "times"
    kind = getattr(dtype, "kind", None)
    if kind == "M" or str(dtype).startswith(("period", "Date", "Datetime")):
        return "dates"
    if kind == "m" or str(dtype).startswith("Duration"):
        return "durations"
    return "times" if str(dtype) == "Time" else None


def check_targets(y: NDArray[Any]) -> NDArray[Any]:
    """Return finite y in at most double precision.

    scikit-learn checks y before it converts objects to numbers, and before a long double becomes a double.
    """
    if y.dtype.kind == "f" and y.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            y = y.astype(np.float64)
    assert_all_finite(y, input_name="y")
    return y


def text_as_numbers(y: Any) -> Any:
    """Return targets that are given as text as numbers, as scikit-learn's linear models read them.

    Raises
    ------
    ValueError
        If a text is not a number.
    """
    kind = getattr(getattr(y, "dtype", None), "kind", None)
    if not isinstance(y, list) and kind not in {"O", "U", "S", "T"}:
        return y
    try:
        array = np.asarray(y)
        return array.astype(np.float64) if array.dtype.kind in "OUST" else y
    except ValueError as error:
        if "string" not in str(error):
            return y  # of different lengths, for example, which scikit-learn reports
        raise ValueError(f"{error}, in y: targets are numbers.") from error
    except TypeError:
        return y


def check_rows(estimator: Any, X: Any, y: Any, *, reset: bool = True) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return X and y as NumPy arrays of finite numbers; record the columns of X, or check them without `reset`."""
    X, y = to_host_array(X), to_host_array(y)
    check_numbers(X, "X")
    check_numbers(y, "y")
    y = text_as_numbers(y)
    X, y = validate_data(estimator, X, y, dtype=DTYPES, multi_output=True, y_numeric=True, reset=reset)
    return X, check_targets(y)


def check_points(estimator: Any, X: Any) -> NDArray[Any]:
    """Return X of a prediction as a NumPy array of finite numbers, with the columns of the fit."""
    X = to_host_array(X)
    check_numbers(X, "X")
    return validate_data(estimator, X, dtype=DTYPES, reset=False)


def check_weights(sample_weight: ArrayLike | None, X: NDArray[Any]) -> tuple[Floats | None, float]:
    """Return the weights divided by the greatest weight, and the greatest weight; None and 1 without weights."""
    if sample_weight is None:
        return None, 1.0
    sample_weight = to_host_array(sample_weight)
    check_numbers(sample_weight, "sample_weight")
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
