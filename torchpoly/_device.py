"""Where arrays are: NumPy's on the CPU, torch's tensors elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchpoly._domain import Array, Floats

_CPU = torch.device("cpu")


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device, or refuse one that cannot compute in float64 here."""
    if device == "cpu":
        return _CPU
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        if resolved.type != "cpu":
            torch.zeros(1, dtype=torch.float64, device=resolved).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"The 'device' parameter got {str(device)!r}, which cannot be used here: {str(error).splitlines()[0]} "
            "Allowed are 'cpu', a device of this machine that computes in float64, such as 'cuda' or 'cuda:1', and "
            "'auto', which takes such a device where there is one."
        ) from error
    return resolved


def device_or_cpu(device: str | torch.device) -> torch.device:
    """Return the device, or the CPU on a machine without it: a model outlives its training device."""
    try:
        return resolve_device(device)
    except ValueError:
        return _CPU


def to_device(values: Floats, device: torch.device) -> Any:
    """Return an array as it is on the CPU, as a tensor elsewhere."""
    return values if device.type == "cpu" else torch.from_numpy(values).to(device)


def to_numpy(values: Array) -> Floats:
    """Return an array from any device."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def like(values: Floats, example: Array) -> Any:
    """Return an array as what the example is: an array, or a tensor on its device."""
    return torch.from_numpy(values).to(example.device) if isinstance(example, Tensor) else values


def namespace(values: Array) -> Any:
    """Return the library whose functions take the values: torch or NumPy."""
    return torch if isinstance(values, Tensor) else np
