"""The named losses of the rows.

A loss knows nothing of features: it maps the predictions for the rows to its values and to the
slopes with which training goes on. Predictions and targets are in the units of training.
"""

from __future__ import annotations

from copy import copy
from enum import Enum
from typing import NamedTuple, Protocol, cast

import numpy as np

from torchpoly._device import like, namespace, to_numpy
from torchpoly._domain import Array, Floats, typical_size

# Residuals below this, in units of training, are rounding: no scale or width is smaller.
_RESOLUTION = 1e-8
# The smallest width of smoothing and bound of the scale, in median absolute residuals.
_FINEST = 2.0**-15

ROBUST_LOSSES = {"absolute_error", "huber", "quantile"}
LOSSES = {"squared_error"} | ROBUST_LOSSES


class Evaluation(NamedTuple):
    """What a loss is at some predictions.

    Parameters
    ----------
    values : ndarray of shape (n_targets,)
        What to minimise, in units of training: means over the rows, weighted as they are.
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


class Loss(Protocol):
    """What an objective over the rows needs to know of a loss."""

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate at predictions and targets of shape (n_targets, n_rows); rows have shares in the weight."""

    def start(self, predictions: Array, targets: Array, shares: Array, stages: Stages) -> None:
        """Look at the predictions from which training starts."""

    @property
    def penalty_units(self) -> float | Floats:
        """What the square of each target's coefficients, in units of training, is in those of `values`."""

    @property
    def is_final(self) -> bool:
        """Whether this is the last of the stages in which the loss is minimised."""

    @property
    def reach(self) -> float:
        """How far apart slopes tell the curvature, in units of training: across many kinks."""

    def stage_tol(self, share: float) -> float:
        """Return the gradient entry at which a stage is over, for so many parameters per row."""

    def narrow(self, predictions: Array, targets: Array, shares: Array) -> None:
        """Go on to the next stage from these predictions."""

    def curvatures(self, predictions: Array, targets: Array) -> Array | None:
        """Return second derivatives for the rows, made for the step to the next stage; None if unknown."""

    def for_batches(self) -> Loss:
        """Return the loss of mini-batches."""

    @property
    def quantiles(self) -> list[tuple[float, float]] | None:
        """For each target, the quantile whose pinball loss this is, and its unit in the units of y; else None."""


class SquaredError:
    """``r**2`` of the residuals r.

    Parameters
    ----------
    units : ndarray of shape (n_targets,)
        The units of training in the units of y.
    """

    penalty_units = 1.0
    quantiles = None
    reach = 1.0
    is_final = True

    def __init__(self, units: Floats) -> None:
        self._units = units

    def start(self, predictions: Array, targets: Array, shares: Array, stages: Stages) -> None:
        """Need nothing of the predictions."""

    def stage_tol(self, share: float) -> float:
        """Return 0: there is one stage."""
        return 0.0

    def narrow(self, predictions: Array, targets: Array, shares: Array) -> None:
        """Never needed."""

    def curvatures(self, predictions: Array, targets: Array) -> None:
        """Return None: orthonormal coordinates have the curvature already."""

    def for_batches(self) -> SquaredError:
        """Return the loss itself."""
        return self

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate the loss."""
        residuals = targets - predictions
        weighted = residuals * shares
        values = to_numpy((residuals * weighted).sum(1))
        return Evaluation(values, values * self._units**2, -2.0 * weighted)


class HuberLoss:
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
    epsilon : float or ndarray of shape (n_targets,)
        At least 1.
    units : ndarray of shape (n_targets,)
        The units of training in the units of y.

    Attributes
    ----------
    scale : ndarray of shape (n_targets,) or None
        s at the latest evaluation, in units of training.

    References
    ----------
    .. [1] A. B. Owen, "A robust hybrid of lasso and ridge regression", Contemporary Mathematics 443
       (2007), 59-72; as in :class:`sklearn.linear_model.HuberRegressor`.
    """

    penalty_units = 1.0
    quantiles = None

    def __init__(self, epsilon: float | Floats, units: Floats) -> None:
        self._epsilon = np.broadcast_to(np.asarray(epsilon, dtype=np.float64), units.shape)
        self._units = units
        self._fixed = False
        self._floor = np.full(len(units), _RESOLUTION)
        self.reach = 1.0
        self.is_final = True
        self.scale: Floats | None = None

    def start(self, predictions: Array, targets: Array, shares: Array, stages: Stages) -> None:
        """Begin with a bound that few scales are below, or with the last one."""
        finest = self._finest(targets - predictions, shares)
        if stages is not Stages.NONE:
            self._floor = finest / _FINEST / 4 if stages is Stages.ALL else finest
        self._bound(targets - predictions, shares, finest)
        # The last bound is that of these residuals; where training ends they may be far smaller.
        self.is_final &= stages is not Stages.LAST

    def stage_tol(self, share: float) -> float:
        """Return what leaves as much of the value as the next bound can change."""
        return float(np.sqrt(self._floor.min() * share))

    def narrow(self, predictions: Array, targets: Array, shares: Array) -> None:
        """Halve the bounds that the scale has come to, or more if residuals are far smaller; drop the others."""
        finest = self._finest(targets - predictions, shares)
        reached = cast(Floats, self.scale) <= self._floor
        lower = np.minimum(self._floor / 2, finest / _FINEST / 4)
        self._floor = np.maximum(np.where(reached, lower, 0.0), finest)
        self._bound(targets - predictions, shares, finest)

    def _bound(self, residuals: Array, shares: Array, finest: Floats) -> None:
        """Find the scale within the new bounds."""
        self.is_final = bool((self._floor <= finest).all())
        self.scale = self._best_scales(residuals * residuals, shares)
        self.reach = float(self.scale.mean())

    def _finest(self, residuals: Array, shares: Array) -> Floats:
        return np.maximum(_FINEST * _typical_sizes(residuals, shares), _RESOLUTION)

    def curvatures(self, predictions: Array, targets: Array) -> Array:
        """Return ``2 / s`` up to epsilon s, and beyond, where it is 0, what falls as the pinball loss's."""
        scale = cast(Floats, self.scale)[:, None]
        sizes = namespace(predictions).abs(targets - predictions)
        beyond = sizes / like(self._epsilon[:, None] * scale, sizes)
        return like(2.0 / scale, sizes) * namespace(sizes).maximum(beyond, like(np.ones(1), sizes)) ** -2.5

    def for_batches(self) -> HuberLoss:
        """Return the loss at the latest scale: a batch is too small to have one of its own."""
        fixed = copy(self)
        fixed._fixed = True
        return fixed

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate the loss."""
        xp = namespace(predictions)
        residuals = targets - predictions
        sizes = xp.abs(residuals)
        if not self._fixed:
            self.scale = self._best_scales(sizes * sizes, shares)
        scale = cast(Floats, self.scale)
        column = like(scale[:, None], predictions)
        # Within: r^2 / s. Beyond, with e = epsilon s: (2 e |r| - e^2) / s.
        inner = xp.minimum(sizes, like((self._epsilon * scale)[:, None], sizes))
        weighted = inner * shares
        values = scale + to_numpy((weighted * (2.0 * sizes - inner)).sum(1)) / scale
        return Evaluation(values, values * self._units, xp.copysign(weighted, -residuals) * (2.0 / column))

    def _best_scales(self, squares: Array, shares: Array) -> Floats:
        """Return each target's greatest root s of ``mean(min(r**2, (epsilon s)**2)) - s**2``.

        In s**2 that is concave and made of straight pieces. Newton's method ends at the root after
        finitely many steps from its right, and its first step leads there.
        """
        roots = np.zeros(len(squares))
        for target, (row, epsilon) in enumerate(zip(squares, self._epsilon, strict=True)):
            if epsilon == 1.0:
                continue  # all scales up to the least residual are equally good
            everything = float(row @ shares)
            latest = everything if self.scale is None else self.scale[target] ** 2
            root = self._newton_step(latest, everything, row, shares, epsilon)
            while (following := self._newton_step(root, everything, row, shares, epsilon)) < root * (1 - 1e-14):
                root = following
            roots[target] = root
        return np.maximum(np.sqrt(roots), self._floor)

    @staticmethod
    def _newton_step(square: float, everything: float, squares: Array, shares: Array, epsilon: float) -> float:
        within = shares * (squares <= epsilon**2 * square)
        falling = 1.0 - epsilon**2 * (1.0 - float(within.sum()))
        return float(squares @ within) / falling if falling > 0.0 else everything


class PinballLoss:
    """The pinball loss, whose minimum is a quantile, smoothed.

    Of the residuals r it is ``factor * ((quantile - 1/2) r + |r| / 2)``. Training sees
    ``sqrt(r**2 + width**2) - width`` for ``|r|``, in stages of falling width: from the optimum at
    one width, few steps lead to that at the next.

    Parameters
    ----------
    quantile : float or ndarray of shape (n_targets,)
        Between 0 and 1.
    factor : float
        1 for the pinball loss; 2 for the absolute error, which is twice that of the median.
    units : ndarray of shape (n_targets,)
        The units of training in the units of y.
    """

    penalty_units = 1.0

    def __init__(self, quantile: float | Floats, factor: float, units: Floats) -> None:
        quantile = np.broadcast_to(np.asarray(quantile, dtype=np.float64), units.shape)
        self.quantiles = [(float(own), float(factor * unit)) for own, unit in zip(quantile, units, strict=True)]
        self._tilt = quantile - 0.5
        self._factor = factor
        self._units = units
        self._width = np.full((len(units), 1), _RESOLUTION)
        # Towards extreme quantiles the loss is small beside the residuals.
        self._fineness = _FINEST * 2 * np.minimum(quantile, 1 - quantile)[:, None]
        self.reach = 1.0
        self.is_final = True

    def start(self, predictions: Array, targets: Array, shares: Array, stages: Stages) -> None:
        """Begin with a width of the median absolute residual, with the last one, or with hardly any."""
        sizes = np.maximum(_typical_sizes(targets - predictions, shares), _RESOLUTION)[:, None]
        finest = np.maximum(self._fineness * sizes, _RESOLUTION)
        self.reach = float(sizes.mean())
        self._width = {Stages.ALL: sizes, Stages.LAST: finest}.get(stages, np.full_like(sizes, _RESOLUTION))
        self.is_final = stages is Stages.NONE or bool((self._width <= _RESOLUTION).all())

    def stage_tol(self, share: float) -> float:
        """Return what leaves as much of the value as the next width can change."""
        return float(np.sqrt(self._width.min() * share))

    def narrow(self, predictions: Array, targets: Array, shares: Array) -> None:
        """Halve the width, or more if the residuals have become smaller than that."""
        sizes = _typical_sizes(targets - predictions, shares)[:, None]
        finest = np.maximum(self._fineness * sizes, _RESOLUTION)
        self._width = np.maximum(np.minimum(self._width / 2, sizes), finest)
        self.is_final = bool((self._width <= finest).all())

    def curvatures(self, predictions: Array, targets: Array) -> Array:
        """Return ``width**1.5 / (r**2 + width**2)**1.25``, times half the factor.

        The second derivative has exponents of 2 and 1.5. Far from 0 slopes change by more than
        that in a step; 0 and 0.5 would be enough for every step. These were measured to take the
        fewest iterations.
        """
        residuals, width = targets - predictions, like(self._width, predictions)
        squares = residuals * residuals + width * width
        return self._factor / 2 * width**1.5 / squares**1.25

    def for_batches(self) -> PinballLoss:
        """Return the loss itself."""
        return self

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate the loss: smoothed for training, as it is to report."""
        xp = namespace(predictions)
        residuals, width = targets - predictions, like(self._width, predictions)
        smooth = xp.sqrt(residuals * residuals + width * width)
        tilted = self._tilt * to_numpy(residuals @ shares)
        values = tilted + 0.5 * (to_numpy(smooth @ shares) - self._width[:, 0])
        losses = tilted + 0.5 * to_numpy(xp.abs(residuals) @ shares)
        # In place: memory is what this costs.
        slopes = residuals / smooth
        slopes *= -0.5 * self._factor
        slopes -= like((self._factor * self._tilt)[:, None], predictions)
        slopes *= shares
        return Evaluation(self._factor * values, self._factor * losses * self._units, slopes)


def _typical_sizes(residuals: Array, shares: Array) -> Floats:
    """Return the median absolute residual of each target; where that is 0, the mean."""
    return np.array([typical_size(row, to_numpy(shares)) for row in to_numpy(residuals)])


def named_loss(name: str, *, epsilon: float | Floats, quantile: float | Floats, units: Floats) -> Loss:
    """Return the loss of that name."""
    if name == "squared_error":
        return SquaredError(units)
    if name == "huber":
        return HuberLoss(epsilon, units)
    return PinballLoss(quantile, 1.0, units) if name == "quantile" else PinballLoss(0.5, 2.0, units)
