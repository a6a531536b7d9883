"""Context managers around a fit: default settings of torch, clear errors, rollback of the estimator."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

_IMPORTED_IN = os.getpid()


@contextmanager
def default_torch_state() -> Iterator[None]:
    """Use torch's default device and thread settings, and restore the settings of the process afterwards.

    Optimizers create tensors on the default device, so this must be the CPU. Muon multiplies matrices in bfloat16, and
    autocast would take its own type for them. A process that was forked
    after torch had started threads would wait for these threads forever, so it uses one thread.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(np.errstate(under="ignore"))
        # A KeyboardInterrupt inside an optimizer of torch can leave gradients disabled.
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        for device in ("cpu", "cuda", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if _is_forked():
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        stack.enter_context(overflow_as_value_error())
        yield


@contextmanager
def overflow_as_value_error() -> Iterator[None]:
    """Raise a ValueError for Python integers beyond the range of floats."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(f"A parameter, or a value in X, y or weights, is beyond what floats hold: {error}.") from error


@contextmanager
def rollback_on_error(estimator: Any) -> Iterator[None]:
    """Restore the attributes of an estimator if its fit raises."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        # Validation sets the number and names of columns before it ends.
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


def _is_forked() -> bool:
    """Whether this process is a fork, in which torch's threads do not exist."""
    if os.getpid() != _IMPORTED_IN:
        return True
    # This package may have been imported after the fork.
    process = multiprocessing.current_process()
    if multiprocessing.parent_process() is None:
        return False
    if type(process) is multiprocessing.Process:
        started_by = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        return started_by == "fork"
    return type(process).__name__ == "ForkProcess"
