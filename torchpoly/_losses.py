"""The named losses, and the wrapping of callables.

A loss knows nothing of features: it maps the predictions for the rows to its values and to the
slopes with which training goes on. Predictions are in the units of training. So are the targets of
the named losses; those of a callable are y itself.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor

from torchpoly._basis import Array, Domain, Floats, typical_size
from torchpoly._device import like, namespace, to_numpy

# Residuals below this, in units of training, are rounding: no scale or width is smaller.
_RESOLUTION = 1e-8
# Widths of the pinball loss's smoothing, in median absolute residuals. Halved, one or two iterations
# of L-BFGS lead from a stage to the next. The last leaves about 1e-7 of the loss to its minimum.
_WIDTHS = tuple(2.0**-stage for stage in range(15))

LossFunction = Callable[[Tensor, Tensor], Tensor]
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


class Loss(Protocol):
    """What an objective over the rows needs to know of a loss."""

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate at predictions and targets of shape (n_targets, n_rows); rows have shares in the weight."""

    def start(self, predictions: Array, targets: Array, shares: Array, *, in_stages: bool) -> None:
        """Look at the predictions from which training starts, in stages or not."""

    @property
    def penalty_units(self) -> float | Floats:
        """What the square of each target's coefficients, in units of training, is in those of `values`."""

    @property
    def is_final(self) -> bool:
        """Whether this is the last of the stages in which the loss is minimised."""

    def narrow(self) -> None:
        """Go on to the next stage."""

    def curvatures(self, predictions: Array, targets: Array) -> Array | None:
        """Return second derivatives for the rows, made for the step to the next stage; None without stages."""

    def for_batches(self) -> Loss:
        """Return the loss of mini-batches."""


class _Unstaged:
    """A loss that stays as it is during training."""

    def start(self, predictions: Array, targets: Array, shares: Array, *, in_stages: bool) -> None:
        """Need nothing of the predictions."""

    penalty_units: float | Floats = 1.0
    is_final = True

    def narrow(self) -> None:
        """There is no next stage."""

    def curvatures(self, predictions: Array, targets: Array) -> Array | None:
        """Return None: there is one stage."""

    def for_batches(self) -> Self:
        """Return the loss itself."""
        return self


class SquaredError(_Unstaged):
    """``r**2`` of the residuals r.

    Parameters
    ----------
    units : ndarray of shape (n_targets,)
        The units of training in the units of y.
    """

    def __init__(self, units: Floats) -> None:
        self._units = units

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
    epsilon : float
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

    def __init__(self, epsilon: float, units: Floats) -> None:
        self._epsilon = epsilon
        self._units = units
        self._fixed = False
        self._floor = np.full(len(units), _RESOLUTION)
        self.scale: Floats | None = None

    def start(self, predictions: Array, targets: Array, shares: Array, *, in_stages: bool) -> None:
        """Begin with a bound that is half the scale there."""
        residuals = targets - predictions
        self._floor = np.full(len(self._units), _RESOLUTION)
        self.scale = self._best_scales(residuals * residuals, shares)
        if in_stages:
            self._floor = np.maximum(self.scale / 2, _RESOLUTION)

    @property
    def is_final(self) -> bool:
        """Whether the scale has no bound but rounding."""
        return bool((self._floor <= _RESOLUTION).all())

    def narrow(self) -> None:
        """Halve the bounds that the scale has come to, and drop the others."""
        reached = cast(Floats, self.scale) <= self._floor
        self._floor = np.maximum(np.where(reached, self._floor / 2, 0.0), _RESOLUTION)

    def curvatures(self, predictions: Array, targets: Array) -> Array:
        """Return ``2 / s`` up to epsilon s, and beyond, where it is 0, what falls as the pinball loss's."""
        scale = like(cast(Floats, self.scale)[:, None], predictions)
        sizes = namespace(predictions).abs(targets - predictions)
        return 2.0 / scale * namespace(sizes).maximum(sizes / (self._epsilon * scale), like(np.ones(1), sizes)) ** -2.5

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
        inner = xp.minimum(sizes, self._epsilon * column)
        weighted = inner * shares
        values = scale + to_numpy((weighted * (2.0 * sizes - inner)).sum(1)) / scale
        return Evaluation(values, values * self._units, xp.copysign(weighted, -residuals) * (2.0 / column))

    def _best_scales(self, squares: Array, shares: Array) -> Floats:
        """Return each target's greatest root s of ``mean(min(r**2, (epsilon s)**2)) - s**2``.

        In s**2 that is concave and made of straight pieces. Newton's method ends at the root after
        finitely many steps from its right, and its first step leads there.
        """
        roots = np.empty(len(squares))
        for target, row in enumerate(squares):
            everything = float(row @ shares)
            latest = everything if self.scale is None else self.scale[target] ** 2
            root = self._newton_step(latest, everything, row, shares)
            while (following := self._newton_step(root, everything, row, shares)) < root * (1 - 1e-14):
                root = following
            roots[target] = root
        return np.maximum(np.sqrt(roots), self._floor)

    def _newton_step(self, square: float, everything: float, squares: Array, shares: Array) -> float:
        within = shares * (squares <= self._epsilon**2 * square)
        falling = 1.0 - self._epsilon**2 * (1.0 - float(within.sum()))
        return float(squares @ within) / falling if falling > 0.0 else everything


class PinballLoss:
    """The pinball loss, whose minimum is a quantile, smoothed.

    Of the residuals r it is ``factor * ((quantile - 1/2) r + |r| / 2)``. Training sees
    ``sqrt(r**2 + width**2) - width`` for ``|r|``, in stages of falling width: from the optimum at
    one width, few steps lead to that at the next.

    Parameters
    ----------
    quantile : float
        Between 0 and 1.
    factor : float
        1 for the pinball loss; 2 for the absolute error, which is twice that of the median.
    units : ndarray of shape (n_targets,)
        The units of training in the units of y.
    """

    def __init__(self, quantile: float, factor: float, units: Floats) -> None:
        self._tilt = quantile - 0.5
        self._factor = factor
        self._units = units
        self._widths: list[Floats] = []
        self.penalty_units = 1.0

    def start(self, predictions: Array, targets: Array, shares: Array, *, in_stages: bool) -> None:
        """Lay out the widths, in multiples of the median absolute residuals."""
        residuals = to_numpy(targets - predictions)
        sizes = np.array([typical_size(row, to_numpy(shares)) for row in residuals])[:, None]
        widths = [np.maximum(width * sizes, _RESOLUTION) for width in _WIDTHS]
        stages = [width for width in widths[:-1] if in_stages and (width > _RESOLUTION).any()]
        self._widths = [*stages, widths[-1]]

    @property
    def is_final(self) -> bool:
        """Whether the width is the smallest."""
        return len(self._widths) == 1

    def narrow(self) -> None:
        """Go on to the next smaller width."""
        del self._widths[0]

    def curvatures(self, predictions: Array, targets: Array) -> Array:
        """Return ``width**1.5 / (r**2 + width**2)**1.25``, times half the factor.

        The second derivative has exponents of 2 and 1.5. Far from 0 slopes change by more than
        that in a step; 0 and 0.5 would be enough for every step. These were measured to take the
        fewest iterations.
        """
        residuals, width = targets - predictions, like(self._widths[0], predictions)
        squares = residuals * residuals + width * width
        return self._factor / 2 * width**1.5 / squares**1.25

    def for_batches(self) -> PinballLoss:
        """Return the loss itself."""
        return self

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate the loss: smoothed for training, as it is to report."""
        xp = namespace(predictions)
        residuals, width = targets - predictions, like(self._widths[0], predictions)
        smooth = xp.sqrt(residuals * residuals + width * width)
        tilted = self._tilt * to_numpy(residuals @ shares)
        values = tilted + 0.5 * to_numpy((smooth - width) @ shares)
        losses = tilted + 0.5 * to_numpy(xp.abs(residuals) @ shares)
        slopes = (self._tilt + 0.5 * residuals / smooth) * (-self._factor * shares)
        return Evaluation(self._factor * values, self._factor * losses * self._units, slopes)


class CallableLoss(_Unstaged):
    """A loss of the user's own, differentiated by torch at the predictions.

    Values are divided by half the root mean square of the slopes at the constant model, in which
    the squared error has its usual size; so learning rates and `tol` do not depend on its units.

    Parameters
    ----------
    function : callable
        ``function(y_pred, y_true)`` returns a tensor: a value for each sample, for each sample and
        target, or for all.
    targets : Domain
        What y is scaled by.
    single_target : bool
        Whether `function` gets tensors of shape (n_rows,) rather than (n_rows, n_targets).
    weighted : bool
        Whether rows have different weights.
    """

    def __init__(self, function: LossFunction, targets: Domain, *, single_target: bool, weighted: bool) -> None:
        self._function = function
        self._targets = targets
        self._single_target = single_target
        self._weighted = weighted
        self._unit: Floats | None = None
        self._of_batches: CallableLoss | None = None

    def for_batches(self) -> CallableLoss:
        """Return the loss with a unit of its own: a sum over a batch is smaller than one over all rows."""
        if self._of_batches is None:
            self._of_batches = copy(self)
            self._of_batches._unit = None
        return self._of_batches

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate the function and its gradient."""
        if self._unit is None:
            losses, slopes = self._evaluate(0.0 * predictions, targets, shares)
            if not (np.isfinite(losses).all() and namespace(slopes).isfinite(slopes).all()):
                raise ValueError(
                    f"The 'loss' parameter got {self._name}, which at y_pred = mean of y, where training starts, "
                    f"returned {losses} or has a gradient that is not finite. Check its logarithms, roots and powers."
                )
            squares = to_numpy((slopes * slopes / shares).sum(1))
            # Targets with values of their own have units of their own.
            unit = np.sqrt(squares if len(losses) == len(squares) else squares.sum(keepdims=True)) / 2
            self._unit = np.where(unit > 0.0, unit, 1.0)
            self.penalty_units = self._targets.half_width**2 / self._unit
        losses, slopes = self._evaluate(predictions, targets, shares)
        return Evaluation(losses / self._unit, losses, slopes / like(self._unit[:, None], slopes))

    def _evaluate(self, predictions: Array, targets: Array, shares: Array) -> tuple[Floats, Array]:
        """Return the losses, of all targets or of each, and their slopes by predictions in units of training."""
        center, unit = like(self._targets.center, predictions), like(self._targets.half_width, predictions)
        y_pred, y_true = (
            torch.as_tensor(rows[0] if self._single_target else rows.T)
            for rows in (predictions * unit[:, None] + center[:, None], targets)
        )
        # Whatever mode the caller is in, this needs a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            y_pred = y_pred.clone().requires_grad_()
            losses = self._mean(self._call(y_pred, y_true.clone()), torch.as_tensor(shares))
            (gradient,) = torch.autograd.grad(losses.sum(), y_pred, materialize_grads=True)
        slopes = gradient.reshape(len(y_pred), -1).T * torch.as_tensor(unit)[:, None]
        return to_numpy(losses.detach()), slopes if isinstance(predictions, Tensor) else slopes.numpy()

    def _call(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Call the function and refuse what is no loss."""
        try:
            result: Any = self._function(y_pred, y_true)
        except Exception as error:
            error.add_note(
                f"Raised by the 'loss' parameter {self._name}, called with y_pred, which requires a gradient, and "
                f"y_true: float64 tensors of shape {tuple(y_true.shape)}. It has to compute with torch functions."
            )
            raise
        got = f"The 'loss' parameter got {self._name}, which returned "
        allowed = (
            f"It must return a torch.Tensor computed from y_pred by torch functions: a value per sample, of shape "
            f"{tuple(y_true.shape)} here, or a single one."
        )
        if not isinstance(result, Tensor):
            raise ValueError(f"{got}an object of type {type(result).__name__}. {allowed}")
        if result.shape not in {y_pred.shape, y_pred.shape[:1], torch.Size()}:
            raise ValueError(f"{got}a tensor of shape {tuple(result.shape)}. {allowed}")
        if not result.requires_grad:
            raise ValueError(
                f"{got}a tensor without gradient. {allowed} detach(), item(), numpy() and comparisons cut the gradient."
            )
        if self._weighted and result.ndim == 0:
            raise ValueError(
                f"{got}a single value, which cannot weigh samples as the 'sample_weight' parameter asks. Return a value "
                f"per sample, of shape {tuple(y_true.shape)} here: torch's losses do so with reduction='none'."
            )
        return result

    def _mean(self, result: Tensor, shares: Tensor) -> Tensor:
        """Return the weighted mean over samples, of shape (n_targets,) or (1,)."""
        if result.ndim == 0:
            return result.reshape(1)
        return shares.to(result.dtype) @ result.reshape(len(result), -1)

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", None) or repr(self._function)


def make_loss(
    loss: str | LossFunction,
    *,
    epsilon: float,
    quantile: float,
    targets: Domain,
    single_target: bool,
    weighted: bool,
) -> Loss:
    """Return the loss of that name, or of that function."""
    units = targets.half_width
    if loss == "squared_error":
        return SquaredError(units)
    if loss == "huber":
        return HuberLoss(epsilon, units)
    if loss == "absolute_error":
        return PinballLoss(0.5, 2.0, units)
    if loss == "quantile":
        return PinballLoss(quantile, 1.0, units)
    return CallableLoss(cast(LossFunction, loss), targets, single_target=single_target, weighted=weighted)
