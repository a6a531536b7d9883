"""The pinball loss of quantiles, and the absolute error."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from torchpoly._backend.device import asarray_like, namespace, to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._loss.base import LAST_WIDTH_RATIO, MIN_WIDTH, Loss, LossValues, Stages, typical_sizes


class PinballLoss(Loss):
    """``factor * ((quantile - 1/2) r + |r| / 2)`` of the residuals r.

    Training replaces ``|r|`` by ``sqrt(r**2 + width**2) - width``, in stages of decreasing width: few
    steps lead from the optimum at one width to that at the next.

    Parameters
    ----------
    target_scale : ndarray of shape (n_targets,)
        The scale of y in :class:`TargetScaling`.
    quantile : float
        Between 0 and 1.
    factor : float
        1 for the pinball loss; 2 for the absolute error, which is twice the pinball loss of the median.
    """

    parameters: ClassVar[tuple[str, ...]] = ("quantile",)
    is_robust = True

    def __init__(self, target_scale: Floats, *, quantile: float, factor: float = 1.0) -> None:
        super().__init__(target_scale)
        self.quantiles = [(float(quantile), float(factor * unit)) for unit in target_scale]
        self._tilt = float(quantile) - 0.5
        self._factor = factor
        self._width = np.full((len(target_scale), 1), MIN_WIDTH)
        # For extreme quantiles the loss is small relative to the residuals.
        self._last_width_ratio = LAST_WIDTH_RATIO * 2 * min(quantile, 1 - quantile)

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Begin with the median absolute residual as the width, with the last width, or with the least width."""
        sizes = np.maximum(typical_sizes(targets - predictions, normalized_weights), MIN_WIDTH)[:, None]
        finest = np.maximum(self._last_width_ratio * sizes, MIN_WIDTH)
        self.fd_step = float(sizes.mean())
        self._width = {Stages.ALL: sizes, Stages.LAST: finest}.get(stages, np.full_like(sizes, MIN_WIDTH))
        self.is_last_stage = stages is Stages.NONE or bool((self._width <= MIN_WIDTH).all())

    def stage_tol(self, parameters_per_row: float) -> float:
        """Return the gradient entry that corresponds to the change of the value by the next width."""
        return float(np.sqrt(self._width.min() * parameters_per_row))

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Halve the width, or reduce it to the median absolute residual if that is less."""
        sizes = typical_sizes(targets - predictions, normalized_weights)[:, None]
        finest = np.maximum(self._last_width_ratio * sizes, MIN_WIDTH)
        self._width = np.maximum(np.minimum(self._width / 2, sizes), finest)
        self.is_last_stage = bool((self._width <= finest).all())

    def hessian_weights(self, predictions: Array, targets: Array) -> Array:
        """Return ``factor / 2 * width**1.5 / (r**2 + width**2)**1.25``.

        The exponents of the second derivative are 2 and 1.5. Far from a kink it underestimates the change of
        the slope in a step. Exponents of 0 and 0.5 would give an upper bound. The exponents here took the
        fewest iterations in measurements.
        """
        residuals, width = targets - predictions, asarray_like(self._width, predictions)
        squares = residuals * residuals + width * width
        return self._factor / 2 * width**1.5 / squares**1.25

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Return the smoothed value and its gradient, and the loss without smoothing."""
        xp = namespace(predictions)
        residuals, width = targets - predictions, asarray_like(self._width, predictions)
        smooth = xp.sqrt(residuals * residuals + width * width)
        tilted = self._tilt * to_numpy(residuals @ normalized_weights)
        values = tilted + 0.5 * (to_numpy(smooth @ normalized_weights) - self._width[:, 0])
        losses = tilted + 0.5 * to_numpy(xp.abs(residuals) @ normalized_weights)
        # In place, since memory traffic dominates the cost.
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
