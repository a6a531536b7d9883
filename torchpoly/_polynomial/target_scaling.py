"""The affine map between the targets y and the scaled targets of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TargetScaling:
    """The map ``(y - center) / scale``. Training sees scaled targets.

    Parameters
    ----------
    center, scale : ndarray of shape (n_targets,)
    """

    center: Floats
    scale: Floats

    @classmethod
    def identity(cls, n_targets: int) -> TargetScaling:
        """Return the identity map."""
        return cls(np.zeros(n_targets), np.ones(n_targets))

    def repeated(self, times: int) -> TargetScaling:
        """Return the map for several copies of the targets, side by side."""
        return TargetScaling(np.tile(self.center, times), np.tile(self.scale, times))

    def transform(self, Y: NDArray[Any]) -> Floats:
        """Return ``(Y - center) / scale``, of shape (n_targets, n_rows)."""
        scaled = np.empty((Y.shape[1], Y.shape[0]))
        np.subtract(Y.T, self.center[:, None], out=scaled)
        np.divide(scaled, self.scale[:, None], out=scaled)
        return scaled

    def on(self, device: Any) -> Callable[[Tensor], Tensor]:
        """Return :meth:`transform` as a function of tensors on a device."""
        import torch

        center, scale = (torch.tensor(vector[:, None], device=device) for vector in (self.center, self.scale))
        return lambda Y: (Y.T - center) / scale
