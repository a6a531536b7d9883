"""Arrays of other libraries: conversion to NumPy, and of predictions back to the library of X."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config

from torchpoly._backend.device import TENSOR
from torchpoly._backend.sklearn_compat import convert_to_numpy, device, get_namespace

if TYPE_CHECKING:
    import torch


def check_dense(values: Any, name: str) -> None:
    """Raise a TypeError for sparse and nested tensors."""
    if isinstance(values, TENSOR) and (values.is_nested or values.is_sparse or values.is_sparse_csr):
        raise TypeError(f"{name} is a sparse or nested tensor. Give an ordinary tensor, such as {name}.to_dense().")


def to_host_array(values: Any) -> Any:
    """Return a tensor as a NumPy array, a view where it is on the CPU; other values unchanged.

    With scikit-learn's array API dispatch, arrays of all supported libraries are converted.
    """
    if isinstance(values, TENSOR):
        import torch

        if values.is_meta:
            raise ValueError("A tensor on the device 'meta' holds no values. Give one on another device.")
        if values.is_nested:
            raise TypeError("A nested tensor has rows of different lengths. Give an ordinary tensor of two dimensions.")
        values = values.detach().cpu().resolve_conj().resolve_neg()
        # NumPy has no bfloat16.
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if get_config()["array_api_dispatch"] and hasattr(values, "__array_namespace__"):
        return convert_to_numpy(values, get_namespace(values)[0])
    return values


def like_input(predictions: NDArray[Any], X: Any) -> Any:
    """Return predictions in the library and on the device of X, if scikit-learn's array API dispatch is on."""
    if not get_config()["array_api_dispatch"] or isinstance(X, np.ndarray):
        return predictions
    xp, is_array_api = get_namespace(X)
    return xp.asarray(predictions, device=device(X)) if is_array_api else predictions


def namespace_of(X: Any) -> tuple[str, str] | None:
    """Return the library and device of an array, or None if scikit-learn's array API dispatch is off."""
    if not get_config()["array_api_dispatch"]:
        return None
    xp, _ = get_namespace(X)
    # Lists and dataframes have no device. They become arrays on the CPU.
    return xp.__name__, str(device(X) or "cpu")


def check_namespace(X: Any, fitted: tuple[str, str] | None, method: str) -> None:
    """Check that X has the library and device of the X in fit, as scikit-learn's array API estimators do.

    Raises
    ------
    ValueError
        If one of them differs.
    """
    given = namespace_of(X)
    if fitted is not None and given is not None and given != fitted:
        raise ValueError(
            f"Inputs passed to {method}() must use the same namespace and the same device as those passed to fit(): "
            f"{fitted[0]} on {fitted[1]}, not {given[0]} on {given[1]}. Convert X, or switch array_api_dispatch off."
        )


def device_of(X: Any) -> torch.device | None:
    """Return the device of a tensor that is not on the CPU, else None."""
    return X.device if isinstance(X, TENSOR) and X.device.type != "cpu" else None
