"""What a loss of the rows offers: it maps predictions to values and to slopes, and knows nothing of features.

Predictions and targets are in the units of training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar, NamedTuple

import numpy as np

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Array, Floats, typical_size
from torchpoly._polynomial.target_scaling import TargetScaling

# Residuals below this, in units of training, are rounding: no scale or width is smaller.
RESOLUTION = 1e-8
# The smallest width of smoothing and bound of the scale, in median absolute residuals.
FINEST = 2.0**-15


class LossValues(NamedTuple):
    """What a loss is at some predictions.

    Parameters
    ----------
    values : ndarray of shape (n_targets,)
        What to minimize, in units of training: means over the rows, weighted as they are.
    losses : ndarray of shape (n_targets,)
        The loss itself, in the units of y.
    slopes : ndarray or Tensor of shape (n_targets, n_rows)
        Derivatives of the sum of `values` by the predictions.
    """

    values: Floats
    losses: Floats
    slopes: Array


class Stages(Enum):
    """How training goes on where a loss has kinks."""

    NONE = "with the kinks as they are"
    ALL = "with kinks that are smoothed less and less"
    LAST = "smoothed least, as close to the optimum"


class Loss(ABC):
    """A loss of the rows. The defaults are those of a smooth loss in one stage.

    Parameters
    ----------
    target_scale : ndarray of shape (n_targets,)
        The units of training in the units of y.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    """Parameters of the estimator that the constructor takes by name."""
    attributes: ClassVar[tuple[str, ...]] = ()
    """Attributes of the fitted estimator that the loss estimates."""
    is_robust: ClassVar[bool] = False
    """Whether targets are centered at their medians, not at their means."""
    scales_targets: ClassVar[bool] = True
    """Whether it is evaluated at scaled targets, not at y itself."""

    penalty_units: float | Floats = 1.0
    """What the square of each target's coefficients, in units of training, is in those of `values`."""
    quantiles: list[tuple[float, float]] | None = None
    """For each target, the quantile whose pinball loss this is, and its unit in the units of y; else None."""
    is_last_stage = True
    """Whether this is the last of the stages in which the loss is minimized."""
    fd_step = 1.0
    """How far apart slopes tell the curvature, in units of training: across many kinks."""

    def __init__(self, target_scale: Floats) -> None:
        self._target_scale = target_scale

    @abstractmethod
    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Evaluate at predictions and targets of shape (n_targets, n_rows); rows have shares in the weight."""

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:  # noqa: B027
        """Look at the predictions from which training starts."""

    def stage_tol(self, share: float) -> float:
        """Return the gradient entry at which a stage is over, for so many parameters per row."""
        return 0.0

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:  # noqa: B027
        """Go on to the next stage from these predictions."""

    def hessian_weights(self, predictions: Array, targets: Array) -> Array | None:
        """Return second derivatives for the rows, made for the step to the next stage.

        None stands for those of the squared error, which orthonormal coordinates have already.
        """
        return None

    def take_link(self, targets: Array, normalized_weights: Array) -> tuple[Floats, TargetScaling] | None:
        """Prepare for predictions under a link; None for a loss that has none."""
        return None

    def for_minibatch(self) -> Loss:
        """Return the loss of mini-batches."""
        return self

    def fitted_attributes(self) -> dict[str, Floats]:
        """Return what the loss has estimated itself, by the name of the attribute, for each target."""
        return {}


def typical_sizes(residuals: Array, normalized_weights: Array) -> Floats:
    """Return the median absolute residual of each target; where that is 0, the mean."""
    return np.array([typical_size(row, to_numpy(normalized_weights)) for row in to_numpy(residuals)])
