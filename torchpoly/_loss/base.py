"""The base class of losses: a loss maps predictions and targets to its value and its gradient by the predictions.

Predictions and targets are scaled by :class:`TargetScaling`, and a loss does not know the features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar, NamedTuple

import numpy as np

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Array, Floats, typical_size
from torchpoly._polynomial.target_scaling import TargetScaling

# Scaled residuals below this are rounding, so it is the least smoothing width and the least scale.
MIN_WIDTH = 1e-8
# The smoothing width, or the least scale, of the last stage, as a multiple of the median absolute residual.
LAST_WIDTH_RATIO = 2.0**-15


class LossValues(NamedTuple):
    """The value and the gradient of a loss at some predictions.

    Parameters
    ----------
    values : ndarray of shape (n_targets,)
        The function to minimize, for scaled targets: a weighted mean over the rows, smoothed in stages.
    losses : ndarray of shape (n_targets,)
        The loss to report, for y itself.
    slopes : ndarray or Tensor of shape (n_targets, n_rows)
        The gradient of the sum of `values` by the predictions.
    """

    values: Floats
    losses: Floats
    slopes: Array


class Stages(Enum):
    """The stages in which a loss with kinks is minimized."""

    NONE = "one stage without smoothing"
    ALL = "stages with less and less smoothing"
    LAST = "the last stage, with the least smoothing, for a warm start"


class Loss(ABC):
    """A weighted mean over the rows. The defaults are those of a smooth loss that is minimized in one stage.

    Parameters
    ----------
    target_scale : ndarray of shape (n_targets,)
        The scale of y in :class:`TargetScaling`.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    """Parameters of the estimator that are keyword arguments of the constructor."""
    attributes: ClassVar[tuple[str, ...]] = ()
    """Attributes of the fitted estimator that the loss estimates."""
    is_robust: ClassVar[bool] = False
    """Whether targets are centered at their medians, not at their means."""
    scales_targets: ClassVar[bool] = True
    """Whether the loss is evaluated at scaled targets, not at y itself."""

    penalty_units: float | Floats = 1.0
    """The factor of the penalty for each target: it converts squared coefficients to the units of `values`."""
    quantiles: list[tuple[float, float]] | None = None
    """For a pinball loss, the quantile and the factor of each target; None for other losses."""
    is_last_stage = True
    """Whether the loss is in its last stage."""
    fd_step = 1.0
    """The step of finite differences of the gradient, in scaled predictions: longer than the distance of many kinks."""

    def __init__(self, target_scale: Floats) -> None:
        self._target_scale = target_scale

    @abstractmethod
    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Return the loss at predictions and targets of shape (n_targets, n_rows); the sum of the weights is 1."""

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:  # noqa: B027
        """Choose the first stage by the predictions from which training starts."""

    def stage_tol(self, parameters_per_row: float) -> float:
        """Return the tolerance of a stage before the last one: its greatest gradient entry."""
        return 0.0

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:  # noqa: B027
        """Begin the next stage at these predictions."""

    def hessian_weights(self, predictions: Array, targets: Array) -> Array | None:
        """Return approximate second derivatives at the rows, as weights for preconditioning.

        None stands for equal weights, for which orthonormal coordinates are already preconditioned.
        """
        return None

    def rescale_for_link(self, targets: Array, normalized_weights: Array) -> tuple[Floats, TargetScaling] | None:
        """Return a constant to start from and another scaling of predictions; None if the scaling is right."""
        return None

    def for_minibatch(self) -> Loss:
        """Return the loss of mini-batches."""
        return self

    def fitted_attributes(self) -> dict[str, Floats]:
        """Return the fitted attributes that the loss estimates, with one value for each target."""
        return {}


def typical_sizes(residuals: Array, normalized_weights: Array) -> Floats:
    """Return the weighted median absolute residual of each target, or the mean if the median is 0."""
    return np.array([typical_size(row, to_numpy(normalized_weights)) for row in to_numpy(residuals)])
