"""Evaluation of the features, block by block of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torchpoly._backend.device import Device, empty, namespace, prefetch, to_device
from torchpoly._backend.rows import Floats
from torchpoly._polynomial.basis import Basis


def evaluate_blocks(
    basis: Basis,
    blocks: Iterable[tuple[Any, ...]],
    size: int,
    device: Device,
    *,
    n_more: int = 0,
    limits: Floats | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Yield the features of each block of rows, in a buffer that all blocks share.

    On the CPU, NumPy computes them. Its element-wise loops on one thread are as fast as those of torch on
    two threads, and its matrix products use the thread pool that scikit-learn has just used. On other
    devices torch computes them, while the next block is copied to the device.

    Parameters
    ----------
    basis : Basis
    blocks : iterable of tuple
        An identifier of the rows, the rows of X, of shape (n_rows, n_columns), and other arrays.
    size : int
        Greatest number of rows in a block.
    device : torch.device or None
    n_more : int
        Number of additional rows of the buffer, below the features. The caller may write to them.
    limits : ndarray of shape (n_variables,), optional
        The variables of the basis are clipped to these absolute values.

    Yields
    ------
    rows : object
        As given.
    features : ndarray or Tensor of shape (n_terms + n_more, n_rows)
        Valid until the next block.
    *arrays : ndarray, Tensor or None
        The other arrays, on the device.
    """
    buffer = empty(basis.n_terms + n_more, size, device)
    scale: Any = basis.domain.scale if device is None else basis.domain.on(device)
    greatest = None if limits is None else to_device(limits[:, None], device)
    for rows, X, *arrays in prefetch(blocks, device):
        variables = scale(X)
        if greatest is not None:
            namespace(variables).clip(variables, -greatest, greatest, out=variables)
        features = buffer[:, : len(X)]
        basis.evaluate(variables, out=features[: basis.n_terms])
        yield rows, features, *arrays
