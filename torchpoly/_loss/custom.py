"""A loss of the user's own, as a loss of the rows."""

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

# Mean second derivatives below this share of the first are rounding: the loss is made of straight pieces.
_STRAIGHT = 1e-6
# Second derivatives are taken for at least this share of their mean.
_LEAST_CURVATURE = 0.3
# The number of rows on which constants are tried.
_N_TRIED = 500


class CallableLoss(Loss):
    """A loss of the user's own, differentiated by torch at the predictions.

    Values are divided by a unit: half the root mean square of the second derivatives by the
    predictions, or of the first if these are greater. So near its optimum the squared error has its
    usual size, and learning rates and `tol` do not depend on the units of the loss. Where
    derivatives change much on the way, as exponentials do, training goes on in stages with the unit
    of then, see :meth:`take_link`.

    Parameters
    ----------
    function : callable
        ``function(y_pred, y_true)`` returns a tensor: a value for each sample, for each sample and
        target, or for all.
    targets : TargetScaling
        What y is scaled by.
    single_target : bool
        Whether `function` gets tensors of shape (n_rows,) rather than (n_rows, n_targets).
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
        self._of_batches: CallableLoss | None = None
        self._is_reduced = False
        self._bends = False
        self.fd_step = 1e-2

    @property
    def penalty_units(self) -> Floats:  # type: ignore[override]
        """Coefficients are penalized in the units of y, values are in those of the loss."""
        return self._targets.scale**2 / (1.0 if self._unit is None else self._unit)

    def initialize(self, predictions: Array, targets: Array, normalized_weights: Array, stages: Stages) -> None:
        """Find the unit there, and refuse a loss that has no value."""
        losses, slopes = self._evaluate(predictions, targets, normalized_weights)
        if not (np.isfinite(losses).all() and namespace(slopes).isfinite(slopes).all()):
            raise ValueError(
                f"The 'loss' parameter got {self._name}, which where training starts returned {losses} or has a "
                "gradient that is not finite. It starts at the best of three: y_pred is 0, the mean of y, or the least "
                "squares. Check the function's logarithms, roots and powers."
            )
        self._unit = self._unit_at(predictions, targets, normalized_weights)
        self.is_last_stage = stages is Stages.NONE

    def stage_tol(self, share: float) -> float:
        """Return the default of `tol`."""
        return 1e-8

    def advance_stage(self, predictions: Array, targets: Array, normalized_weights: Array) -> None:
        """Take the unit here; if it is about the same, this is the last stage."""
        before, self._unit = cast(Floats, self._unit), self._unit_at(predictions, targets, normalized_weights)
        self.is_last_stage = bool((np.abs(np.log(self._unit / before)) < np.log(10)).all())

    def hessian_weights(self, predictions: Array, targets: Array) -> Array | None:
        """Return the sizes of the second derivatives where these change; None where they are the same."""
        if not self._bends:
            return None
        xp = namespace(predictions)
        normalized_weights = asarray_like(np.full(predictions.shape[1], 1 / predictions.shape[1]), predictions)
        _, first, second, _ = self._derivatives(predictions, targets, normalized_weights, curved=True)
        sizes = xp.abs(second) / normalized_weights
        means = to_numpy(sizes.mean(1))
        slopes = to_numpy((xp.abs(first) / normalized_weights).mean(1))
        if not (np.isfinite(means) & (means > _STRAIGHT * slopes)).all():
            return None
        # Where a loss is straight for a while, steps are to stay within reason.
        floor = asarray_like(_LEAST_CURVATURE * means[:, None], sizes)
        return xp.maximum(sizes, floor) / asarray_like(
            np.broadcast_to(cast(Floats, self._unit), means.shape)[:, None], sizes
        )

    def take_link(self, targets: Array, normalized_weights: Array) -> tuple[Floats, TargetScaling] | None:
        """Prepare for a loss whose second derivatives change; return None for others.

        Under a logarithmic link predictions differ by about 1. In units of a y of 1e10, they would
        lose ten digits. So they are in units of the distance over which second derivatives change,
        where y's spread is longer, from a constant of little loss on.

        Returns
        -------
        constant : ndarray of shape (n_targets,)
            In the units of y.
        scale : TargetScaling
            What predictions are scaled by from now on.
        """
        probes = np.zeros_like(self._targets.center), self._targets.center
        if not any(np.isfinite(self._lengths(constant, targets, normalized_weights)).any() for constant in probes):
            return None
        self._bends = True
        constant = self._best_constant(targets, normalized_weights)
        lengths = np.minimum(1.0, self._lengths(constant, targets, normalized_weights))
        center = np.where(lengths < 1.0, constant, self._targets.center)
        self._targets = replace(self._targets, center=center, scale=self._targets.scale * lengths)
        return constant, self._targets

    def _best_constant(self, targets: Array, normalized_weights: Array) -> Floats:
        """Return the constant prediction of about the least loss, for each target in its units.

        Under a link, such as the logarithm, it is far from y. So constants of all sizes are tried, on
        some of the rows; between the neighbors of the best one, a bounded search goes on.
        """
        some = slice(None, None, -(-targets.shape[1] // _N_TRIED))
        greatest = max(64.0, 2.0 * float(namespace(targets).abs(targets).max()))
        sizes = 2.0 ** np.arange(-4, min(np.ceil(np.log2(greatest)), 1000) + 1)
        tried = np.r_[-sizes[::-1], 0.0, sizes]
        best = np.zeros(len(targets))
        for target in range(len(best)):
            loss = partial(
                self._loss_at, best, target, targets[:, some], normalized_weights[some] / normalized_weights[some].sum()
            )
            losses = [loss(constant) for constant in tried]
            if not np.isfinite(losses).any():
                # The function may have something of its own for each row, and take no part of them.
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
        """Return the loss where a target has another constant; infinity where the function has no value."""
        moved = constants.copy()
        moved[target] = constant
        try:
            losses = self._evaluate(self._constant(moved, targets), targets, normalized_weights)[0]
        except Exception:
            return np.inf
        value = float(losses[target] if len(losses) > 1 else losses[0])
        return value if np.isfinite(value) else np.inf

    def _constant(self, constants: Floats, targets: Array) -> Array:
        """Return predictions that are constant, in units of training."""
        scaled = (constants - self._targets.center) / self._targets.scale
        return asarray_like(np.repeat(scaled[:, None], targets.shape[1], axis=1), targets)

    def _lengths(self, constant: Floats, targets: Array, normalized_weights: Array) -> Floats:
        """Return over how many units of training second derivatives at a constant change; infinity for never."""
        derivatives = self._derivatives(self._constant(constant, targets), targets, normalized_weights, curved=True)
        second, third = (np.sqrt(to_numpy((values * values / normalized_weights).sum(1))) for values in derivatives[2:])
        lengths = second / np.where(third > 0.0, third, np.nan)
        return np.where(np.isfinite(lengths) & (lengths > 0.0), lengths, np.inf)

    def for_minibatch(self) -> CallableLoss:
        """Return the loss, with a unit of its own if the function may be a sum, which is less over a batch."""
        if not self._is_reduced:
            return self
        if self._of_batches is None:
            self._of_batches = copy(self)
            self._of_batches._unit = None
        return self._of_batches

    def __call__(self, predictions: Array, targets: Array, normalized_weights: Array) -> LossValues:
        """Evaluate the function and its gradient."""
        losses, slopes = self._evaluate(predictions, targets, normalized_weights)
        if self._unit is None:
            self._unit = self._unit_at(predictions, targets, normalized_weights)
        return LossValues(losses / self._unit, losses, slopes / asarray_like(self._unit[:, None], slopes))

    def _unit_at(self, predictions: Array, targets: Array, normalized_weights: Array) -> Floats:
        """Return the unit of each target that has a loss of its own, or of all: the greater of two."""
        losses, *derivatives = self._derivatives(predictions, targets, normalized_weights, curved=True)
        sizes = [np.zeros_like(losses)]
        for derivative in derivatives:
            squares = to_numpy((derivative * derivative / normalized_weights).sum(1))
            size = np.sqrt(squares if len(losses) == len(squares) else squares.sum(keepdims=True)) / 2
            sizes.append(np.where(np.isfinite(size), size, 0.0))
        # A link such as the exponential bends in steps of 1, whatever the units of y.
        self.fd_step = 1e-3 / max(0.1, float(self._targets.scale.max())) if sizes[2].any() else 1e-2
        if self._bends:
            length = np.minimum(1.0, sizes[2] / np.maximum(sizes[3], 1e-300))
            sizes = [sizes[1] * length, sizes[2] * length**2]
        greatest = np.max(sizes[:3], axis=0)
        return np.where(greatest > 0.0, greatest, 1.0)

    def _evaluate(self, predictions: Array, targets: Array, normalized_weights: Array) -> tuple[Floats, Array]:
        """Return the losses, of all targets or of each, and their slopes by predictions in units of training."""
        losses, slopes, *_ = self._derivatives(predictions, targets, normalized_weights, curved=False)
        return losses, slopes

    def _derivatives(
        self, predictions: Array, targets: Array, normalized_weights: Array, *, curved: bool
    ) -> tuple[Floats, Array, Array, Array]:
        """Return the losses, their slopes, and if asked for second and third derivatives by predictions, else 0."""
        import torch

        center, unit = asarray_like(self._targets.center, predictions), asarray_like(self._targets.scale, predictions)
        y_pred, y_true = (
            torch.as_tensor(rows[0] if self._single_target else rows.T)
            for rows in (predictions * unit[:, None] + center[:, None], targets)
        )
        # Whatever mode the caller is in, this needs a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            y_pred = y_pred.clone().requires_grad_()
            losses = self._mean(self._call(y_pred, y_true.clone()), torch.as_tensor(normalized_weights))
            (first,) = torch.autograd.grad(losses.sum(), y_pred, materialize_grads=True, create_graph=curved)
            second = third = torch.zeros_like(first)
            # Of a loss that is a sum over samples, a row of second derivatives sums up to its diagonal.
            if curved and first.requires_grad:
                (second,) = torch.autograd.grad(first.sum(), y_pred, materialize_grads=True, create_graph=True)
            if second.requires_grad:
                with suppress(RuntimeError):  # of some functions, torch has no third derivative
                    (third,) = torch.autograd.grad(second.sum(), y_pred, materialize_grads=True)
        by_predictions = []
        for order, derivative in ((1, first), (2, second), (3, third)):
            scaled = derivative.detach().reshape(len(y_pred), -1).T * torch.as_tensor(unit)[:, None] ** order
            # Zeros that torch has not written out yet need the force.
            by_predictions.append(scaled.numpy(force=True) if isinstance(predictions, np.ndarray) else scaled)
        return to_numpy(losses.detach()), by_predictions[0], by_predictions[1], by_predictions[2]

    def _call(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Call the function and refuse what is no loss."""
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
