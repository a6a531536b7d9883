"""Where arrays are: NumPy's on the CPU, torch's tensors elsewhere."""

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

# None is the CPU with NumPy's arrays, for which torch is not imported. torch's device "cpu:0" is the CPU with tensors.
Device: TypeAlias = "torch.device | None"
# Chunks of which the device may still be at work when the next one is on its way.
_IN_FLIGHT = 2

Result = TypeVar("Result")


def class_by_name(name: str) -> Any:
    """Return an abstract class whose instances are those of the class of that full name, without importing it."""

    def is_or_derives_from(cls: type, other: type) -> bool:
        return any(f"{base.__module__}.{base.__qualname__}" == name for base in other.__mro__)

    module, _, qualified_name = name.rpartition(".")
    return ABCMeta(qualified_name, (), {"__module__": module, "__subclasshook__": classmethod(is_or_derives_from)})


TENSOR, DEVICE, OPTIMIZER = map(class_by_name, ["torch.Tensor", "torch.device", "torch.optim.optimizer.Optimizer"])


def resolve_device(device: str | torch.device) -> Device:
    """Return the device, or the CPU with a warning where the device has no double precision.

    Raises
    ------
    ValueError
        If this machine does not have the device.
    """
    found = _find_device(device)
    if has_float64(found):
        return found
    warnings.warn(
        f"The device {str(device)!r} has no double precision, so the computation runs on the CPU. Set device='cpu' to "
        "avoid this warning.",
        UserWarning,
        stacklevel=5,  # the line that called fit
    )
    return None


def device_or_cpu(device: str | torch.device) -> Device:
    """Return the device, or the CPU where the device is absent or has no double precision.

    A model can be used on another machine than the one that trained it, so predictions do not warn.
    """
    try:
        found = _find_device(device)
    except ValueError:
        return None
    return found if has_float64(found) else None


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
    except (RuntimeError, AssertionError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).splitlines()[0][:200].rstrip(". ")
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


def to_device(values: NDArray, device: Device) -> Any:
    """Return an array as it is on the CPU, as a tensor elsewhere."""
    if device is None:
        return values
    import torch

    return torch.from_numpy(values).to(device)


def empty(n_columns: int, n_rows: int, device: Device) -> Any:
    """Return a matrix without values: an array on the CPU, a tensor elsewhere."""
    if device is None:
        return np.empty((n_columns, n_rows))
    import torch

    return torch.empty(n_columns, n_rows, device=device, dtype=torch.float64)


def to_numpy(values: Any) -> Floats:
    """Return an array from any device."""
    return values.cpu().numpy() if isinstance(values, TENSOR) else values


def prefetch(blocks: Iterable[tuple[Any, ...]], device: Device) -> Iterator[tuple[Any, ...]]:
    """Yield blocks of arrays on a device; the next one is read and copied while the device is at work.

    On the CPU they stay as they are. CUDA and XPU devices copy from page-locked memory in a stream
    of its own.

    Parameters
    ----------
    blocks : iterable of tuple
        What names the block, which stays as it is, and its arrays or None. A block is read when the
        work on the one before has been handed to the device.
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
                    # Its memory belongs to the copying stream, which has to know who else reads it.
                    array.record_stream(computing)
            yield name, *moved
            at_work.append(backend.Event())
            at_work[-1].record(computing)
            if len(at_work) >= _IN_FLIGHT:
                at_work.popleft().synchronize()


def _tensor(array: NDArray) -> Tensor:
    """Return a copy, as not every array can be shared: some are read-only, some run backwards."""
    import torch

    return torch.from_numpy(np.array(array, order="C"))


def halving_on_out_of_memory(device: Device, size: int, work: Callable[[int], Result]) -> Result:
    """Do work on chunks of a size, or where the device's memory ends, on chunks of half of it.

    Parameters
    ----------
    device : torch.device
    size : int
        Number of rows in a chunk.
    work : callable
        Takes the size. It starts from the beginning each time.

    Raises
    ------
    MemoryError
        If not even one row finds room.
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
    """Return an array as what the example is: an array, or a tensor on its device."""
    return to_device(values, example.device) if isinstance(example, TENSOR) else values


def namespace(values: Array) -> Any:
    """Return the library whose functions take the values: torch or NumPy."""
    if not isinstance(values, TENSOR):
        return np
    import torch

    return torch
