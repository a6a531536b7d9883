"""NumPy arrays on the CPU, torch tensors on other devices: conversion, copies and memory."""

from __future__ import annotations

import warnings
from abc import ABCMeta
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Array, Floats

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# None is the CPU with NumPy arrays: torch is not imported for them. The torch device "cpu:0" is the CPU with tensors.
Device: TypeAlias = "torch.device | None"
# The next block is copied while the device may still compute with this many earlier ones: double buffering.
_MAX_BLOCKS_IN_FLIGHT = 2

Result = TypeVar("Result")


def class_by_name(name: str) -> Any:
    """Return an abstract class for ``isinstance`` checks against a class by its full name, without an import."""

    def is_or_derives_from(cls: type, other: type) -> bool:
        return any(f"{base.__module__}.{base.__qualname__}" == name for base in other.__mro__)

    module, _, qualified_name = name.rpartition(".")
    return ABCMeta(qualified_name, (), {"__module__": module, "__subclasshook__": classmethod(is_or_derives_from)})


TENSOR, DEVICE, OPTIMIZER = map(class_by_name, ["torch.Tensor", "torch.device", "torch.optim.optimizer.Optimizer"])


def resolve_device(device: str | torch.device) -> Device:
    """Return the device, or the CPU if the device has no double precision.

    Raises
    ------
    ValueError
        If this machine does not have the device.
    """
    found = _find_device(device)
    return found if has_float64(found) else None


def resolve_device_with_warning(device: str | torch.device, stacklevel: int) -> Device:
    """Return what :func:`resolve_device` returns, and warn if the device has no double precision."""
    found = _find_device(device)
    if has_float64(found):
        return found
    warnings.warn(
        f"The device {str(device)!r} has no double precision, so the computation runs on the CPU. Set device='cpu' "
        "to avoid this warning.",
        UserWarning,
        stacklevel=1 + stacklevel,
    )
    return None


def device_or_cpu(device: str | torch.device) -> Device:
    """Return the device, or the CPU on a machine without it: a saved model may predict there.

    Raises
    ------
    ValueError
        If it is no device on any machine.
    """
    try:
        return resolve_device(device)
    except ValueError:
        if not _is_known(device):
            raise
        return None


def _is_known(device: str | torch.device) -> bool:
    """Whether torch knows the kind of a device; True without torch."""
    try:
        import torch

        return device == "auto" or bool(torch.device(device))
    except RuntimeError:
        return False
    except (ImportError, OSError):
        return True


def _find_device(device: str | torch.device) -> Device:
    if device == "cpu":
        return None
    try:
        import torch

        if device == "auto":
            found = "cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else None
            return None if found is None else torch.device(found)
        resolved = torch.device(device)
        if resolved == torch.device("cpu"):
            return None
        if resolved.type != "cpu":
            torch.zeros(1, dtype=torch.float32, device=resolved).cpu()
    except (RuntimeError, AssertionError, TypeError, AttributeError, ImportError, OSError) as error:
        reason = str(error).partition("\n")[0][:200].rstrip(". ")
        raise ValueError(
            f"The 'device' parameter got {str(device)!r}, which cannot be used here: {reason}. Allowed are 'cpu', a "
            "device of this machine, such as 'cuda', 'cuda:1' or 'xpu', and 'auto', which takes 'cuda' or 'xpu' where "
            "there is one."
        ) from error
    return resolved


@cache
def has_float64(device: Device) -> bool:
    """Whether a device computes in double precision."""
    if device is None:
        return True
    import torch

    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        return False
    return True


def to_device(values: NDArray[Any], device: Device) -> Any:
    """Return the array itself for None, or a tensor on the device."""
    if device is None:
        return values
    import torch

    return torch.from_numpy(values).to(device)


def empty(n_columns: int, n_rows: int, device: Device) -> Any:
    """Return an uninitialized float64 matrix: an array for None, or a tensor on the device."""
    if device is None:
        return np.empty((n_columns, n_rows))
    import torch

    return torch.empty(n_columns, n_rows, device=device, dtype=torch.float64)


def to_numpy(values: Any) -> Floats:
    """Return a tensor as a NumPy array; an array unchanged."""
    return values.cpu().numpy() if isinstance(values, TENSOR) else values


def prefetch(blocks: Iterable[tuple[Any, ...]], device: Device) -> Iterator[tuple[Any, ...]]:
    """Yield blocks of arrays on a device, and copy the next block while the device computes with this one.

    On the CPU the blocks are unchanged. On CUDA and XPU devices the copies are asynchronous: from
    page-locked memory, in a separate stream.

    Parameters
    ----------
    blocks : iterable of tuple
        An identifier of the block, which is passed on, and its arrays or None.
    device : torch.device or None
    """
    if device is None:
        yield from blocks
    elif device.type not in ("cuda", "xpu"):
        for name, *arrays in blocks:
            yield name, *(None if array is None else _tensor(array).to(device) for array in arrays)
    else:
        import torch

        backend: Any = getattr(torch, device.type)
        copying, computing = backend.Stream(device), backend.current_stream(device)
        at_work: deque[Any] = deque()
        for name, *arrays in blocks:
            locked = [None if array is None else _tensor(array).pin_memory() for array in arrays]
            with backend.stream(copying):
                moved = [None if array is None else array.to(device, non_blocking=True) for array in locked]
            computing.wait_stream(copying)
            for array in moved:
                if array is not None:
                    # The allocator of the copying stream must not reuse memory that another stream still reads.
                    array.record_stream(computing)
            yield name, *moved
            at_work.append(backend.Event())
            at_work[-1].record(computing)
            if len(at_work) >= _MAX_BLOCKS_IN_FLIGHT:
                at_work.popleft().synchronize()


def _tensor(array: NDArray[Any]) -> Tensor:
    """Return a copy as a tensor: torch cannot share read-only arrays and negative strides."""
    import torch

    return torch.from_numpy(np.array(array, order="C"))


def halving_on_out_of_memory(device: Device, size: int, work: Callable[[int], Result]) -> Result:
    """Return ``work(size)``, and halve the size while the device runs out of memory.

    Parameters
    ----------
    device : torch.device or None
    size : int
        Number of rows in a chunk.
    work : callable
        Takes the size. Each call starts from the beginning.

    Raises
    ------
    MemoryError
        If the device has no memory for chunks of one row.
    RuntimeError
        If the device fails otherwise.
    """
    if device is None:
        return work(size)
    import torch

    while True:
        try:
            return work(size)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
                raise RuntimeError(
                    f"The device {str(device)!r} failed: {str(error).splitlines()[0]} Fit again, or set device='cpu'."
                ) from error
            if size == 1:
                raise MemoryError(
                    f"The memory of the device {str(device)!r} does not hold what a chunk of one row needs. Use a "
                    "smaller 'degree', or set device='cpu'."
                ) from error
        size //= 2


def asarray_like(values: Floats, example: Array) -> Any:
    """Return the array itself, or a tensor on the device of the example if that is a tensor."""
    return to_device(values, example.device) if isinstance(example, TENSOR) else values


def namespace(values: Array) -> Any:
    """Return the module for the values: torch for tensors, else NumPy."""
    if not isinstance(values, TENSOR):
        return np
    import torch

    return torch
