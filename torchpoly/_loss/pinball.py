"""The pinball loss of quantiles, and the absolute error."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torchpoly._backend.device import asarray_like, namespace, to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._loss.base import FINEST, RESOLUTION, Loss, LossValues, Stages, typical_sizes


class PinballLoss(Loss):
    """The pinball loss, whose minimum is a quantile, smoothed.

    Of the residuals r it is ``factor * ((quantile - 1/2) r + |r| / 2)``. Training sees
    ``sqrt(r**2 + width**2) - width`` for ``|r|``, in stages of falling width: from the optimum at
    one width, few steps lead to that at the next.

    Parameters
    ----------
    target_scale : ndarray of shape (n_targets,)
        The units of training in the units of y.
    quantile : float
        Between 0 and 1.
    factor : float
        1 for the pinball loss; 2 for the absolute error, which is twice that of the median.
    """

    parameters: ClassVar[tuple[str, ...]] = ("quantile",)
    is_robust = True

    def __init__(self, target_scale: Floats, *, quantile: float, factor: float = 1.0) -> None:
        super().__init__(target_scale)
        self.quantiles = [(float(quantile), float(factor * unit)) for unit in target_scale]
        self._tilt = float(quantile) - 0.5
        self._factor = factor
        self._width = np.full((len(target_scale), 1), RESOLUTION)
        # Towards extreme quantiles the loss is small beside the residuals.
        self._fineness = FINEST * 2 * min(quantile, 1 - quantile)

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Begin with a width of the median absolute residual, with the last one, or with hardly any."""
        sizes = np.maximum(typical_sizes(targets - predictions, normalized_weights), RESOLUTION)[:, None]
        finest = np.maximum(self._fineness * sizes, RESOLUTION)
        self.fd_step = float(sizes.mean())
        self._width = {Stages.ALL: sizes, Stages.LAST: finest}.get(stages, np.full_like(sizes, RESOLUTION))
        self.is_last_stage = stages is Stages.NONE or bool((self._width <= RESOLUTION).all())

    def stage_tol(self, share: float) -> float:
        """Return what leaves as much of the value as the next width can change."""
        return float(np.sqrt(self._width.min() * share))

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Halve the width, or more if the residuals have become smaller than that."""
        sizes = typical_sizes(targets - predictions, normalized_weights)[:, None]
        finest = np.maximum(self._fineness * sizes, RESOLUTION)
        self._width = np.maximum(np.minimum(self._width / 2, sizes), finest)
        self.is_last_stage = bool((self._width <= finest).all())

    def hessian_weights(self, predictions: Array, targets: Array) -> Array:
        """Return ``width**1.5 / (r**2 + width**2)**1.25``, times half the factor.

        The second derivative has exponents of 2 and 1.5. Far from 0 slopes change by more than
        that in a step; 0 and 0.5 would be enough for every step. These were measured to take the
        fewest iterations.
        """
        residuals, width = targets - predictions, asarray_like(self._width, predictions)
        squares = residuals * residuals + width * width
        return self._factor / 2 * width**1.5 / squares**1.25

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Evaluate the loss: smoothed for training, as it is to report."""
        xp = namespace(predictions)
        residuals, width = targets - predictions, asarray_like(self._width, predictions)
        smooth = xp.sqrt(residuals * residuals + width * width)
        tilted = self._tilt * to_numpy(residuals @ normalized_weights)
        values = tilted + 0.5 * (to_numpy(smooth @ normalized_weights) - self._width[:, 0])
        losses = tilted + 0.5 * to_numpy(xp.abs(residuals) @ normalized_weights)
        # In place: memory is what this costs.
        slopes = residuals / smooth
        slopes *= -0.5 * self._factor
        slopes -= self._factor * self._tilt
        slopes *= normalized_weights
        return LossValues(self._factor * values, self._factor * losses * self._target_scale, slopes)


class AbsoluteError(PinballLoss):
    """``|r|`` of the residuals r."""

    parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, target_scale: Floats) -> None:
        super().__init__(target_scale, quantile=0.5, factor=2.0)
