"""A loss that is a function of the user."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from scipy.optimize import minimize_scalar

from torchpoly._backend.device import asarray_like, namespace, to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._loss.base import Loss, LossValues, Stages
from torchpoly._polynomial.target_scaling import TargetScaling

if TYPE_CHECKING:
    from torch import Tensor

LossFunction: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"

# The loss is piecewise linear if the mean second derivative is below this fraction of the mean first derivative.
_MAX_LINEAR_CURVATURE = 1e-6
# Hessian weights are at least this fraction of their mean, which limits steps where the loss is nearly linear.
_MIN_RELATIVE_CURVATURE = 0.3
# The number of rows in the search for the best constant.
_MAX_SEARCH_ROWS = 500


class CallableLoss(Loss):
    """A function of the user, differentiated by torch at the predictions.

    The values are divided by a unit: half the root mean square of the second derivatives by the
    predictions, or of the first derivatives if these are greater. So the squared error has its usual size
    near the optimum, and learning rates and `tol` do not depend on the units of the loss. Derivatives of
    some losses change much during training, for example those of exponentials. They are minimized in
    stages, each with a new unit, see :meth:`rescale_for_link`.

    Parameters
    ----------
    function : callable
        ``function(y_pred, y_true)`` returns a tensor: one value for each sample, for each sample and
        target, or for all samples.
    targets : TargetScaling
    single_target : bool
        Whether `function` gets tensors of shape (n_rows,), not (n_rows, n_targets).
    weighted : bool
        Whether rows have different weights.
    """

    scales_targets = False

    def __init__(self, function: LossFunction, targets: TargetScaling, *, single_target: bool, weighted: bool) -> None:
        self._function = function
        self._targets = targets
        self._single_target = single_target
        self._weighted = weighted
        self._unit: Floats | None = None
        self._minibatch_loss: CallableLoss | None = None
        self._is_reduced = False
        self._has_variable_curvature = False
        self.fd_step = 1e-2

    @property
    def penalty_units(self) -> Floats:  # type: ignore[override]
        """``scale**2 / unit``: the penalty is on coefficients for y, and values are divided by the unit."""
        return self._targets.scale**2 / (1.0 if self._unit is None else self._unit)

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Compute the unit at the start, and check that the loss is finite."""
        losses, slopes = self._evaluate(predictions, targets, normalized_weights)
        if not (np.isfinite(losses).all() and namespace(slopes).isfinite(slopes).all()):
            raise ValueError(
                f"The 'loss' parameter got {self._name}, which where training starts returned {losses} or has a "
                "gradient that is not finite. It starts at the best of three: y_pred is 0, the mean of y, or the least "
                "squares. Check the function's logarithms, roots and powers."
            )
        self._unit = self._unit_at(predictions, targets, normalized_weights)
        self.is_last_stage = stages is Stages.NONE

    def stage_tol(self, parameters_per_row: float) -> float:
        """Return the default of `tol`."""
        return 1e-8

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Compute a new unit; if it differs by less than a factor of 10, this is the last stage."""
        before, self._unit = cast(Floats, self._unit), self._unit_at(predictions, targets, normalized_weights)
        self.is_last_stage = bool((np.abs(np.log(self._unit / before)) < np.log(10)).all())

    def hessian_weights(self, predictions: Array, targets: Array) -> Array | None:
        """Return the absolute second derivatives divided by the unit; None if they hardly change."""
        if not self._has_variable_curvature:
            return None
        xp = namespace(predictions)
        normalized_weights = asarray_like(np.full(predictions.shape[1], 1 / predictions.shape[1]), predictions)
        _, first, second, _ = self._derivatives(predictions, targets, normalized_weights, curved=True)
        sizes = xp.abs(second) / normalized_weights
        means = to_numpy(sizes.mean(1))
        slopes = to_numpy((xp.abs(first) / normalized_weights).mean(1))
        if not (np.isfinite(means) & (means > _MAX_LINEAR_CURVATURE * slopes)).all():
            return None
        floor = asarray_like(_MIN_RELATIVE_CURVATURE * means[:, None], sizes)
        unit = np.broadcast_to(cast(Floats, self._unit), means.shape)[:, None]
        return xp.maximum(sizes, floor) / asarray_like(unit, sizes)

    def rescale_for_link(self, targets: Array, normalized_weights: Array) -> tuple[Floats, TargetScaling] | None:
        """Return another scaling of predictions for a loss with variable second derivatives; None for other losses.

        With a logarithmic link, predictions differ by about 1. If they were scaled like a y of size 1e10,
        they would lose ten digits. So the new scale is the distance over which the second derivatives
        change, if it is less than the scale of y. The new center is the best constant.

        Returns
        -------
        constant : ndarray of shape (n_targets,)
            The best constant prediction of y.
        scale : TargetScaling
            The scaling of predictions from now on.
        """
        probes = np.zeros_like(self._targets.center), self._targets.center
        if not any(np.isfinite(self._lengths(constant, targets, normalized_weights)).any() for constant in probes):
            return None
        self._has_variable_curvature = True
        constant = self._best_constant(targets, normalized_weights)
        lengths = np.minimum(1.0, self._lengths(constant, targets, normalized_weights))
        center = np.where(lengths < 1.0, constant, self._targets.center)
        self._targets = replace(self._targets, center=center, scale=self._targets.scale * lengths)
        return constant, self._targets

    def _best_constant(self, targets: Array, normalized_weights: Array) -> Floats:
        """Return the constant prediction of y with about the least loss, for each target.

        With a link, such as the logarithm, it can be far from y. So constants of all sizes are evaluated
        on a sample of the rows, and a bounded scalar search continues between the neighbors of the best one.
        """
        some = slice(None, None, -(-targets.shape[1] // _MAX_SEARCH_ROWS))
        greatest = max(64.0, 2.0 * float(namespace(targets).abs(targets).max()))
        sizes = 2.0 ** np.arange(-4, min(np.ceil(np.log2(greatest)), 1000) + 1)
        tried = np.r_[-sizes[::-1], 0.0, sizes]
        sample = targets[:, some], normalized_weights[some] / normalized_weights[some].sum()
        best = np.zeros(len(targets))
        for target in range(len(best)):
            loss = partial(self._loss_at, best, target, *sample)
            losses = [loss(constant) for constant in tried]
            if not np.isfinite(losses).any():
                # The function may hold an array with one entry for each row, so it fails on a sample.
                loss = partial(self._loss_at, best, target, targets, normalized_weights)
                losses = [loss(constant) for constant in tried]
            place = int(np.argmin(losses))
            bounds = low, high = tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)]
            found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3 * (high - low)})
            best[target] = found.x if found.fun < losses[place] else tried[place]
        return best

    def _loss_at(
        self, constants: Floats, target: int, targets: Array, normalized_weights: Array, constant: float
    ) -> float:
        """Return the loss with another constant for one target; infinity if it is not finite or raises."""
        moved = constants.copy()
        moved[target] = constant
        try:
            losses = self._evaluate(self._constant(moved, targets), targets, normalized_weights)[0]
        except Exception:
            return np.inf
        value = float(losses[target] if len(losses) > 1 else losses[0])
        return value if np.isfinite(value) else np.inf

    def _constant(self, constants: Floats, targets: Array) -> Array:
        """Return scaled predictions that are constant over the rows."""
        scaled = (constants - self._targets.center) / self._targets.scale
        return asarray_like(np.repeat(scaled[:, None], targets.shape[1], axis=1), targets)

    def _lengths(self, constant: Floats, targets: Array, normalized_weights: Array) -> Floats:
        """Return ``|f''| / |f'''|`` at a constant: the distance over which second derivatives change; else infinity."""
        derivatives = self._derivatives(self._constant(constant, targets), targets, normalized_weights, curved=True)
        second, third = (np.sqrt(to_numpy((values * values / normalized_weights).sum(1))) for values in derivatives[2:])
        lengths = second / np.where(third > 0.0, third, np.nan)
        return np.where(np.isfinite(lengths) & (lengths > 0.0), lengths, np.inf)

    def for_minibatch(self) -> CallableLoss:
        """Return the loss, with another unit if the function returns one value: a sum is less over a mini-batch."""
        if not self._is_reduced:
            return self
        if self._minibatch_loss is None:
            self._minibatch_loss = copy(self)
            self._minibatch_loss._unit = None
        return self._minibatch_loss

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Return the value and the gradient of the function."""
        losses, slopes = self._evaluate(predictions, targets, normalized_weights)
        if self._unit is None:
            self._unit = self._unit_at(predictions, targets, normalized_weights)
        return LossValues(losses / self._unit, losses, slopes / asarray_like(self._unit[:, None], slopes))

    def _unit_at(self, predictions: Array, targets: Array, normalized_weights: Array) -> Floats:
        """Return the unit of the loss, or of the loss of each target."""
        losses, *derivatives = self._derivatives(predictions, targets, normalized_weights, curved=True)
        sizes = [np.zeros_like(losses)]
        for derivative in derivatives:
            squares = to_numpy((derivative * derivative / normalized_weights).sum(1))
            size = np.sqrt(squares if len(losses) == len(squares) else squares.sum(keepdims=True)) / 2
            sizes.append(np.where(np.isfinite(size), size, 0.0))
        # With an exponential link, the curvature changes over a distance of 1, for y in any units.
        self.fd_step = 1e-3 / max(0.1, float(self._targets.scale.max())) if sizes[2].any() else 1e-2
        if self._has_variable_curvature:
            length = np.minimum(1.0, sizes[2] / np.maximum(sizes[3], 1e-300))
            sizes = [sizes[1] * length, sizes[2] * length**2]
        greatest = np.max(sizes[:3], axis=0)
        return np.where(greatest > 0.0, greatest, 1.0)

    def _evaluate(self, predictions: Array, targets: Array, normalized_weights: Array) -> tuple[Floats, Array]:
        """Return the losses, of shape (n_targets,) or (1,), and their gradient by scaled predictions."""
        losses, slopes, *_ = self._derivatives(predictions, targets, normalized_weights, curved=False)
        return losses, slopes

    def _derivatives(
        self, predictions: Array, targets: Array, normalized_weights: Array, *, curved: bool
    ) -> tuple[Floats, Array, Array, Array]:
        """Return the losses and their first, second and third derivatives by scaled predictions.

        Without `curved`, the second and third derivatives are 0.
        """
        import torch

        center, unit = asarray_like(self._targets.center, predictions), asarray_like(self._targets.scale, predictions)
        y_pred, y_true = (
            torch.as_tensor(rows[0] if self._single_target else rows.T)
            for rows in (predictions * unit[:, None] + center[:, None], targets)
        )
        # The caller may have disabled gradients.
        with torch.inference_mode(False), torch.enable_grad():
            y_pred = y_pred.clone().requires_grad_()
            losses = self._mean(self._call(y_pred, y_true.clone()), torch.as_tensor(normalized_weights))
            (first,) = torch.autograd.grad(losses.sum(), y_pred, materialize_grads=True, create_graph=curved)
            second = third = torch.zeros_like(first)
            # The Hessian of a sum over samples is diagonal, so the sum of a row is its diagonal entry.
            if curved and first.requires_grad:
                (second,) = torch.autograd.grad(first.sum(), y_pred, materialize_grads=True, create_graph=True)
            if second.requires_grad:
                with suppress(RuntimeError):  # torch has no third derivative of some functions
                    (third,) = torch.autograd.grad(second.sum(), y_pred, materialize_grads=True)
        by_predictions = []
        for order, derivative in ((1, first), (2, second), (3, third)):
            scaled = derivative.detach().reshape(len(y_pred), -1).T * torch.as_tensor(unit)[:, None] ** order
            # torch does not convert lazy zeros without `force`.
            by_predictions.append(scaled.numpy(force=True) if isinstance(predictions, np.ndarray) else scaled)
        return to_numpy(losses.detach()), by_predictions[0], by_predictions[1], by_predictions[2]

    def _call(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Call the function and check what it returns."""
        import torch

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
        if not isinstance(result, torch.Tensor):
            raise ValueError(f"{got}an object of type {type(result).__name__}. {allowed}")
        if result.shape not in {y_pred.shape, y_pred.shape[:1], torch.Size()} or result.is_complex():
            raise ValueError(f"{got}a tensor of shape {tuple(result.shape)} and {result.dtype}. {allowed}")
        if result.device.type != "cpu" or result.layout != torch.strided:
            raise ValueError(f"{got}a tensor on {result.device} of layout {result.layout}. {allowed}")
        if not result.requires_grad:
            raise ValueError(
                f"{got}a tensor without gradient. {allowed} detach(), item(), numpy() and comparisons cut the gradient."
            )
        if self._weighted and result.ndim == 0:
            raise ValueError(
                f"{got}a single value, which cannot weigh samples as the 'sample_weight' parameter asks. Return a "
                f"value per sample, of shape {tuple(y_true.shape)} here: torch's losses do so with reduction='none'."
            )
        return result

    def _mean(self, result: Tensor, normalized_weights: Tensor) -> Tensor:
        """Return the weighted mean over samples, of shape (n_targets,) or (1,)."""
        self._is_reduced = result.ndim == 0
        if self._is_reduced:
            return result.reshape(1)
        return normalized_weights.to(result.dtype) @ result.reshape(len(result), -1)

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", None) or repr(self._function)
