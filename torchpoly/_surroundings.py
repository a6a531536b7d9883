"""What a process may have set for torch that would disturb a fit, set aside while it lasts."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_IMPORTED_IN = os.getpid()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Train whatever the process has set for torch, and leave that as it was.

    Optimizers make tensors of their own on the default device, which is to be the CPU. A process that was
    forked after torch had used its threads would wait for them forever: it gets by with one.
    """
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if _is_forked():
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        yield


def _is_forked() -> bool:
    """Whether threads that torch knows of may have been left behind in a parent process."""
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
