"""The named losses of the rows.

A loss knows nothing of features: it maps the predictions for the rows to its values and to the
slopes with which training goes on. Predictions and targets are in the units of training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from enum import Enum
from typing import ClassVar, NamedTuple, cast

import numpy as np

from torchpoly._device import asarray_like, namespace, to_numpy
from torchpoly._rows_of_arrays import Array, Floats, typical_size
from torchpoly._target_scaling import TargetScaling

# Residuals below this, in units of training, are rounding: no scale or width is smaller.
_RESOLUTION = 1e-8
# The smallest width of smoothing and bound of the scale, in median absolute residuals.
_FINEST = 2.0**-15


class Evaluation(NamedTuple):
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
    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> Evaluation:
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


class SquaredError(Loss):
    """``r**2`` of the residuals r."""

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> Evaluation:
        """Evaluate the loss."""
        residuals = targets - predictions
        weighted = residuals * normalized_weights
        values = to_numpy((residuals * weighted).sum(1))
        return Evaluation(values, values * self._target_scale**2, -2.0 * weighted)


class HuberLoss(Loss):
    """Huber's loss with its scale, which is estimated jointly.

    It is the mean over the rows of ``s + s H(r / s)`` at the scale s that makes it least, where
    ``H(z)`` is ``z**2`` up to epsilon and ``2 epsilon |z| - epsilon**2`` beyond [1]_. It is least
    where the mean of ``min(r**2, (epsilon s)**2)`` is ``s**2``. There its slopes by the predictions
    are the ones at a fixed scale. Convex in both, it stays convex in the predictions alone.

    Where most residuals can vanish, as with nearly as many terms as rows, the scale falls to 0 and
    the loss becomes the absolute error. So training goes on in stages: with a lower bound of the
    scale that is halved until it is in nothing's way.

    Parameters
    ----------
    target_scale : ndarray of shape (n_targets,)
        The units of training in the units of y.
    epsilon : float
        At least 1.

    Attributes
    ----------
    scale : ndarray of shape (n_targets,) or None
        s at the latest evaluation, in units of training.

    References
    ----------
    .. [1] A. B. Owen, "A robust hybrid of lasso and ridge regression", Contemporary Mathematics 443
       (2007), 59-72; as in :class:`sklearn.linear_model.HuberRegressor`.
    """

    parameters: ClassVar[tuple[str, ...]] = ("epsilon",)
    is_robust = True

    def __init__(self, target_scale: Floats, *, epsilon: float) -> None:
        super().__init__(target_scale)
        self._epsilon = float(epsilon)
        self._fixed = False
        self._floor = np.full(len(target_scale), _RESOLUTION)
        self.scale: Floats | None = None

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Begin with a bound that few scales are below, or with the last one."""
        finest = self._finest(targets - predictions, normalized_weights)
        if stages is not Stages.NONE:
            self._floor = finest / _FINEST / 4 if stages is Stages.ALL else finest
        self._bound(targets - predictions, normalized_weights, finest)
        # The last bound is that of these residuals; where training ends they may be far smaller.
        self.is_last_stage &= stages is not Stages.LAST

    def stage_tol(self, share: float) -> float:
        """Return what leaves as much of the value as the next bound can change."""
        return float(np.sqrt(self._floor.min() * share))

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Halve the bounds that the scale has come to, or more if residuals are far smaller; drop the others."""
        finest = self._finest(targets - predictions, normalized_weights)
        reached = cast(Floats, self.scale) <= self._floor
        lower = np.minimum(self._floor / 2, finest / _FINEST / 4)
        self._floor = np.maximum(np.where(reached, lower, 0.0), finest)
        self._bound(targets - predictions, normalized_weights, finest)

    def _bound(self, residuals: Array, normalized_weights: Array, finest: Floats) -> None:
        """Find the scale within the new bounds."""
        self.is_last_stage = bool((self._floor <= finest).all())
        self.scale = self._best_scales(residuals * residuals, normalized_weights)
        self.fd_step = float(self.scale.mean())

    def _finest(self, residuals: Array, normalized_weights: Array) -> Floats:
        return np.maximum(_FINEST * _typical_sizes(residuals, normalized_weights), _RESOLUTION)

    def hessian_weights(self, predictions: Array, targets: Array) -> Array:
        """Return ``2 / s`` up to epsilon s, and beyond, where it is 0, what falls as the pinball loss's."""
        scale = cast(Floats, self.scale)[:, None]
        sizes = namespace(predictions).abs(targets - predictions)
        beyond = sizes / asarray_like(self._epsilon * scale, sizes)
        return (
            asarray_like(2.0 / scale, sizes) * namespace(sizes).maximum(beyond, asarray_like(np.ones(1), sizes)) ** -2.5
        )

    def for_minibatch(self) -> HuberLoss:
        """Return the loss at the latest scale: a batch is too small to have one of its own."""
        fixed = copy(self)
        fixed._fixed = True
        return fixed

    def fitted_attributes(self) -> dict[str, Floats]:
        """Return the scale in the units of y."""
        return {"scale_": cast(Floats, self.scale) * self._target_scale}

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> Evaluation:
        """Evaluate the loss."""
        xp = namespace(predictions)
        residuals = targets - predictions
        sizes = xp.abs(residuals)
        if not self._fixed:
            self.scale = self._best_scales(sizes * sizes, normalized_weights)
        scale = cast(Floats, self.scale)
        column = asarray_like(scale[:, None], predictions)
        # Within: r^2 / s. Beyond, with e = epsilon s: (2 e |r| - e^2) / s.
        inner = xp.minimum(sizes, asarray_like((self._epsilon * scale)[:, None], sizes))
        weighted = inner * normalized_weights
        values = scale + to_numpy((weighted * (2.0 * sizes - inner)).sum(1)) / scale
        return Evaluation(values, values * self._target_scale, xp.copysign(weighted, -residuals) * (2.0 / column))

    def _best_scales(self, squares: Array, normalized_weights: Array) -> Floats:
        """Return each target's greatest root s of ``mean(min(r**2, (epsilon s)**2)) - s**2``.

        In s**2 that is concave and made of straight pieces. Newton's method ends at the root after
        finitely many steps from its right, and its first step leads there.
        """
        roots = np.zeros(len(squares))
        # At an epsilon of 1, all scales up to the least residual are equally good.
        for target, row in enumerate(squares if self._epsilon > 1.0 else ()):
            everything = float(row @ normalized_weights)
            latest = everything if self.scale is None else self.scale[target] ** 2
            root = self._newton_step(latest, everything, row, normalized_weights)
            while (following := self._newton_step(root, everything, row, normalized_weights)) < root * (1 - 1e-14):
                root = following
            roots[target] = root
        return np.maximum(np.sqrt(roots), self._floor)

    def _newton_step(self, square: float, everything: float, squares: Array, normalized_weights: Array) -> float:
        within = normalized_weights * (squares <= self._epsilon**2 * square)
        falling = 1.0 - self._epsilon**2 * (1.0 - float(within.sum()))
        return float(squares @ within) / falling if falling > 0.0 else everything


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
        self._width = np.full((len(target_scale), 1), _RESOLUTION)
        # Towards extreme quantiles the loss is small beside the residuals.
        self._fineness = _FINEST * 2 * min(quantile, 1 - quantile)

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Begin with a width of the median absolute residual, with the last one, or with hardly any."""
        sizes = np.maximum(_typical_sizes(targets - predictions, normalized_weights), _RESOLUTION)[:, None]
        finest = np.maximum(self._fineness * sizes, _RESOLUTION)
        self.fd_step = float(sizes.mean())
        self._width = {Stages.ALL: sizes, Stages.LAST: finest}.get(stages, np.full_like(sizes, _RESOLUTION))
        self.is_last_stage = stages is Stages.NONE or bool((self._width <= _RESOLUTION).all())

    def stage_tol(self, share: float) -> float:
        """Return what leaves as much of the value as the next width can change."""
        return float(np.sqrt(self._width.min() * share))

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Halve the width, or more if the residuals have become smaller than that."""
        sizes = _typical_sizes(targets - predictions, normalized_weights)[:, None]
        finest = np.maximum(self._fineness * sizes, _RESOLUTION)
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

    def for_minibatch(self) -> PinballLoss:
        """Return the loss itself."""
        return self

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> Evaluation:
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
        return Evaluation(self._factor * values, self._factor * losses * self._target_scale, slopes)


def _typical_sizes(residuals: Array, normalized_weights: Array) -> Floats:
    """Return the median absolute residual of each target; where that is 0, the mean."""
    return np.array([typical_size(row, to_numpy(normalized_weights)) for row in to_numpy(residuals)])


class AbsoluteError(PinballLoss):
    """``|r|`` of the residuals r."""

    parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, target_scale: Floats) -> None:
        super().__init__(target_scale, quantile=0.5, factor=2.0)


LOSSES: dict[str, type[Loss]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "huber": HuberLoss,
    "quantile": PinballLoss,
}
