"""The squared error, and the losses by name."""

from __future__ import annotations

from torchpoly._device import to_numpy
from torchpoly._loss_base import Loss, LossValues
from torchpoly._loss_huber import HuberLoss
from torchpoly._loss_pinball import AbsoluteError, PinballLoss
from torchpoly._rows_of_arrays import Array


class SquaredError(Loss):
    """``r**2`` of the residuals r."""

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Evaluate the loss."""
        residuals = targets - predictions
        weighted = residuals * normalized_weights
        values = to_numpy((residuals * weighted).sum(1))
        return LossValues(values, values * self._target_scale**2, -2.0 * weighted)


LOSSES: dict[str, type[Loss]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": HuberLoss,
    "quantile": PinballLoss,
}
