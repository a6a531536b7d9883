"""A loss of the user's own, as a loss of the rows."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from torchpoly._device import like, namespace, to_numpy
from torchpoly._domain import Array, Domain, Floats
from torchpoly._losses import Evaluation, Stages

LossFunction = Callable[[Tensor, Tensor], Tensor]


def refuse_class(loss: object) -> None:
    """Refuse a class of losses in the place of one of its instances."""
    if isinstance(loss, type):
        raise ValueError(
            f"The 'loss' parameter got the class {loss.__name__}; it must be a name, a function or an instance, "
            f"such as {loss.__name__}()."
        )


class CallableLoss:
    """A loss of the user's own, differentiated by torch at the predictions.

    Values are divided by a unit: half the root mean square of the second derivatives by the
    predictions, or of the first if these are greater. So near its optimum the squared error has its
    usual size, and learning rates and `tol` do not depend on the units of the loss. Where
    derivatives change much on the way, as exponentials do, training goes on in stages with the unit
    of then.

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
        self._is_reduced = False
        self.reach = 1e-2
        self.is_final = True

    @property
    def penalty_units(self) -> Floats:
        """Coefficients are penalised in the units of y, values are in those of the loss."""
        return self._targets.half_width**2 / (1.0 if self._unit is None else self._unit)

    def start(self, predictions: Array, targets: Array, shares: Array, stages: Stages) -> None:
        """Find the unit there, and refuse a loss that has no value."""
        losses, slopes = self._evaluate(predictions, targets, shares)
        if not (np.isfinite(losses).all() and namespace(slopes).isfinite(slopes).all()):
            raise ValueError(
                f"The 'loss' parameter got {self._name}, which where training starts returned {losses} or has a "
                "gradient that is not finite. It starts at the best of three: y_pred is 0, the mean of y, or the least "
                "squares. Check the function's logarithms, roots and powers."
            )
        self._unit = self._unit_at(predictions, targets, shares)
        self.is_final = stages is Stages.NONE

    def stage_tol(self, share: float) -> float:
        """Return the default of `tol`."""
        return 1e-8

    def narrow(self, predictions: Array, targets: Array, shares: Array) -> None:
        """Take the unit here; if it is about the same, this is the last stage."""
        before, self._unit = cast(Floats, self._unit), self._unit_at(predictions, targets, shares)
        self.is_final = bool((np.abs(np.log(self._unit / before)) < np.log(10)).all())

    def curvatures(self, predictions: Array, targets: Array) -> None:
        """Return None: they are unknown."""

    def for_batches(self) -> CallableLoss:
        """Return the loss, with a unit of its own if the function may be a sum, which is less over a batch."""
        if not self._is_reduced:
            return self
        if self._of_batches is None:
            self._of_batches = copy(self)
            self._of_batches._unit = None
        return self._of_batches

    def __call__(self, predictions: Array, targets: Array, shares: Array) -> Evaluation:
        """Evaluate the function and its gradient."""
        losses, slopes = self._evaluate(predictions, targets, shares)
        if self._unit is None:
            self._unit = self._unit_at(predictions, targets, shares)
        return Evaluation(losses / self._unit, losses, slopes / like(self._unit[:, None], slopes))

    def _unit_at(self, predictions: Array, targets: Array, shares: Array) -> Floats:
        """Return the unit of each target that has a loss of its own, or of all: the greater of two."""
        losses, *derivatives = self._derivatives(predictions, targets, shares, curved=True)
        units = [np.zeros_like(losses)]
        for derivative in derivatives:
            squares = to_numpy((derivative * derivative / shares).sum(1))
            unit = np.sqrt(squares if len(losses) == len(squares) else squares.sum(keepdims=True)) / 2
            units.append(np.where(np.isfinite(unit), unit, 0.0))
        # A link such as the exponential bends in steps of 1, whatever the units of y.
        self.reach = 1e-3 / max(0.1, float(self._targets.half_width.max())) if units[2].any() else 1e-2
        greatest = np.max(units, axis=0)
        return np.where(greatest > 0.0, greatest, 1.0)

    def _evaluate(self, predictions: Array, targets: Array, shares: Array) -> tuple[Floats, Array]:
        """Return the losses, of all targets or of each, and their slopes by predictions in units of training."""
        losses, slopes, _ = self._derivatives(predictions, targets, shares, curved=False)
        return losses, slopes

    def _derivatives(
        self, predictions: Array, targets: Array, shares: Array, *, curved: bool
    ) -> tuple[Floats, Array, Array]:
        """Return the losses, their slopes, and if asked for the second derivatives by each prediction, else 0."""
        center, unit = like(self._targets.center, predictions), like(self._targets.half_width, predictions)
        y_pred, y_true = (
            torch.as_tensor(rows[0] if self._single_target else rows.T)
            for rows in (predictions * unit[:, None] + center[:, None], targets)
        )
        # Whatever mode the caller is in, this needs a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            y_pred = y_pred.clone().requires_grad_()
            losses = self._mean(self._call(y_pred, y_true.clone()), torch.as_tensor(shares))
            (first,) = torch.autograd.grad(losses.sum(), y_pred, materialize_grads=True, create_graph=curved)
            second = torch.zeros_like(first)
            if curved and first.requires_grad:
                # Of a loss that is a sum over samples, a row of second derivatives sums up to its diagonal.
                (second,) = torch.autograd.grad(first.sum(), y_pred, materialize_grads=True)
        by_predictions = []
        for order, derivative in ((1, first), (2, second)):
            scaled = derivative.detach().reshape(len(y_pred), -1).T * torch.as_tensor(unit)[:, None] ** order
            # Zeros that torch has not written out yet need the force.
            by_predictions.append(scaled if isinstance(predictions, Tensor) else scaled.numpy(force=True))
        return to_numpy(losses.detach()), by_predictions[0], by_predictions[1]

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

    def _mean(self, result: Tensor, shares: Tensor) -> Tensor:
        """Return the weighted mean over samples, of shape (n_targets,) or (1,)."""
        self._is_reduced = result.ndim == 0
        if self._is_reduced:
            return result.reshape(1)
        return shares.to(result.dtype) @ result.reshape(len(result), -1)

    @property
    def _name(self) -> str:
        return getattr(self._function, "__name__", None) or repr(self._function)
