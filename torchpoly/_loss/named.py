"""The squared error, and the table of the losses by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Array
from torchpoly._loss.base import Loss, LossValues
from torchpoly._loss.huber import HuberLoss
from torchpoly._loss.pinball import AbsoluteError, PinballLoss


class SquaredError(Loss):
    """``r**2`` of the residuals r."""

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Return the value and the gradient of the loss."""
        residuals = targets - predictions
        weighted = residuals * normalized_weights
        values = to_numpy((residuals * weighted).sum(1))
        return LossValues(values, values * self._target_scale**2, -2.0 * weighted)


LossName: TypeAlias = Literal["squared_error", "absolute_error", "huber", "quantile"]
LOSSES: dict[LossName, type[Loss]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": HuberLoss,
    "quantile": PinballLoss,
}
