"""The objective of losses that need the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._gram.coordinates import penalty_gradient
from torchpoly._gram.whitening import Whitening
from torchpoly._loss.base import Loss, Stages
from torchpoly._train.loop import Objective
from torchpoly._train.loss_rows import LossRows
from torchpoly._train.simplex import QuantileProgram


class RowObjective(Objective):
    """Mean loss of the rows plus ``alpha c' P c``.

    The coefficients of the features for target j are ``c_j = origin_j + S_j theta_j`` with the parameters
    theta_j. For losses with stages, S_j is a preconditioner: it whitens the features with the Hessian weights
    of the loss. Then the Hessian is about a multiple of the identity, as after a Newton step.

    Parameters
    ----------
    rows : LossRows
        With orthonormal features, or with the terms of the basis if the parameters are their coefficients.
    loss : Loss
    origins : list of ndarray of shape (n_features, n_targets)
        Candidates for the initial coefficients. For each target, training starts at those of the least loss.
    alpha : float
        Weight of the penalty of the coefficients of the basis.
    stages : Stages
        The stages in which the loss is minimized.
    batch_size : int or None
        Number of rows of a mini-batch; None stands for all rows.
    projection : callable, optional
        The projection on the coefficients of least norm with the same values at the rows.
    rounding : float or ndarray of shape (n_targets,)
        Smaller entries of the gradient are set to 0. Optimizers that normalize the gradient would otherwise
        move in the direction of rounding errors.

    Attributes
    ----------
    dual_gap : ndarray of shape (n_targets,) or None
        An upper bound of the difference between the loss of each target and its minimum, in the units
        of the loss; None if unknown.
    """

    def __init__(
        self,
        rows: LossRows,
        loss: Loss,
        origins: Sequence[Floats],
        alpha: float,
        stages: Stages,
        batch_size: int | None,
        projection: Callable[[Floats], Floats] | None = None,
        rounding: Floats | float = 0.0,
    ) -> None:
        self._projection = projection
        self.batch_size = batch_size
        self._rows = rows
        self._loss = loss
        self._is_warm = stages is Stages.LAST
        self._alpha = alpha
        self._origin = self._best(origins)
        self._coordinates: Floats | None = None
        self._curvature: float | None = None
        self._rounding = rounding
        self.dual_gap: Floats | None = None
        predictions = rows.design.matvec(self._origin)
        loss.initialize(predictions, rows.targets, rows.normalized_weights, stages)
        if stages is not Stages.NONE:
            self._precondition(predictions)

    def _best(self, origins: Sequence[Floats]) -> Floats:
        """Return the origin of the least loss for each target, or for all targets if they have one loss."""
        rows = self._rows
        at_origins = map(rows.design.matvec, origins)
        losses = [self._loss(values, rows.targets, rows.normalized_weights).losses for values in at_origins]
        best = np.nan_to_num(losses, nan=np.inf).argmin(axis=0)
        return np.stack(origins)[best, :, np.arange(len(best))].T if len(best) > 1 else origins[best[0]]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the parameters: (n_features, n_targets)."""
        return self._origin.shape[0], self._origin.shape[1]

    def __call__(self, parameters: Floats, gradient: Floats) -> tuple[float, float]:
        """Return the value, summed over targets, and the loss; write the gradient of the value.

        The loss is the mean over targets of the loss of y, without the penalty.
        """
        combined = self._combined(parameters)
        predictions = self._rows.design.matvec(combined)
        values, losses, slopes = self._loss(predictions, self._rows.targets, self._rows.normalized_weights)
        value, slope = values.sum(), self._rows.design.rmatvec(slopes)
        if self._alpha:
            penalty = self._alpha * self._loss.penalty_units * self._penalty(combined)
            value += np.vdot(penalty, combined)
            slope += 2.0 * penalty
        slope[np.abs(slope) < self._rounding] = 0.0
        if self._coordinates is not None:
            slope = (slope.T[:, None] @ self._coordinates)[:, 0].T
        gradient[:] = slope
        return float(value), float(losses.mean())

    def residual_size(self, parameters: Floats) -> Floats:
        """Return the root of the mean squared residual of each scaled target, or the mean absolute one if it is robust.

        It is NaN for callables, as predictions may have a link.
        """
        if not self._loss.scales_targets:
            return np.full(self.shape[1], np.nan)
        residuals = self._rows.targets - self._rows.design.matvec(self._combined(parameters))
        sizes = cast(Array, abs(residuals)) if self._loss.is_robust else residuals * residuals
        means = to_numpy((sizes * self._rows.normalized_weights).sum(1))
        return means if self._loss.is_robust else np.sqrt(means)

    def coefficients(self, parameters: Floats) -> Floats:
        """Return the coefficients of the basis, of shape (n_terms, n_targets)."""
        coefficients = self._combined(parameters)
        if self._rows.coordinates is not None:
            coefficients = self._rows.coordinates @ coefficients
        return coefficients if self._projection is None else self._projection(coefficients)

    def _penalty(self, coefficients: Floats) -> Floats:
        """Return half the gradient of ``c' P c`` by the coefficients of the features."""
        return penalty_gradient(self._rows.coordinates, coefficients, self._rows.design.basis.norm_weights)

    def _combined(self, parameters: Floats) -> Floats:
        """Return ``origin + S theta``: the coefficients of the features, as a new array."""
        if self._coordinates is None:
            return self._origin + parameters
        return self._origin + (self._coordinates @ parameters.T[:, :, None])[:, :, 0].T

    @property
    def is_preconditioned(self) -> bool:
        """Whether the features are orthonormal under the Hessian weights at the origin."""
        return self._coordinates is not None

    @property
    def is_last_stage(self) -> bool:
        """Whether the loss is in its last stage."""
        return self._loss.is_last_stage

    @property
    def max_first_step(self) -> float:
        """A thousand steps of the finite difference that estimates the curvature; infinity with preconditioning."""
        return np.inf if self.is_preconditioned else 1e3 * self._loss.fd_step

    @property
    def stage_tol(self) -> float:
        """A stage before the last one ends where no gradient entry exceeds this."""
        return self._loss.stage_tol(self.shape[0] / len(self._rows))

    def reset(self, parameters: Floats, *, advance: bool) -> None:
        """Make these parameters the origin, precondition again, and maybe advance the loss to its next stage."""
        self._origin = self._combined(parameters)
        parameters[:] = 0.0
        predictions = self._rows.design.matvec(self._origin)
        if advance:
            self._loss.advance_stage(predictions, self._rows.targets, self._rows.normalized_weights)
        self._curvature = None
        self._precondition(predictions)

    def measure(self, parameters: Floats) -> None:
        """Set the dual gap at these parameters, for a loss that is a linear program."""
        combined = self._combined(parameters)
        programs = enumerate(self._programs())
        self.dual_gap = np.array([unit * program.gap(combined[:, target]) for target, (program, unit) in programs])

    def finish(self, parameters: Floats) -> tuple[float, bool]:
        """Solve the linear program; return the loss and whether it is the minimum up to rounding."""
        self._origin, self._coordinates = self._combined(parameters), None
        parameters[:] = 0.0
        losses, gaps, exact = [], [], True
        for target, (program, unit) in enumerate(self._programs()):
            optimum = program.minimize(self._origin[:, target])
            self._origin[:, target] = optimum.coefficients
            losses.append(unit * optimum.loss)
            gaps.append(unit * optimum.gap)
            exact &= optimum.is_exact
        self.dual_gap = np.array(gaps)
        return float(np.mean(losses)), exact

    @property
    def is_near(self) -> bool:
        """Whether training is in its last stage, or was a warm start."""
        return self._loss.is_last_stage or self._is_warm

    @property
    def is_linear_program(self) -> bool:
        """Whether the objective is a linear program: a pinball loss without a penalty."""
        return self._loss.quantiles is not None and not self._alpha

    def _programs(self) -> Iterator[tuple[QuantileProgram, float]]:
        """Yield the linear program of each target, and the factor from its values to the loss of y."""
        for target, (quantile, unit) in enumerate(self._loss.quantiles or ()):
            rows = replace(self._rows, targets=self._rows.targets[target : target + 1])
            yield QuantileProgram(rows, quantile), unit

    def batches(self, order: NDArray[np.intp], size: int) -> Iterator[tuple[float, RowObjective]]:
        """Yield the objectives of equal mini-batches of the rows in this order, with the fraction done before."""
        parts = np.array_split(order, -(-len(order) // size))
        for done, chosen in enumerate(parts):
            batch = copy(self)
            batch._rows = self._rows.minibatch(chosen)
            batch._loss = self._loss.for_minibatch()
            yield done / len(parts), batch

    @property
    def curvature(self) -> float:
        """Half the second derivative: 1/2 with preconditioning, else along the gradient by a finite difference.

        For mini-batches it is multiplied by an upper bound: the features of a row may have a large norm.
        """
        if self._curvature is None:
            self._curvature = self._secant()
            if self.batch_size is not None:
                self._curvature *= 1 + float(self._rows.design.squares().max()) / self.batch_size
        return self._curvature

    def _secant(self) -> float:
        here, there = np.empty(self.shape), np.empty(self.shape)
        self(np.zeros(self.shape), here)
        length = float(np.linalg.norm(here))
        if not length > 0.0:
            return 1.0
        direction = here / length
        self(-self._loss.fd_step * direction, there)
        curvature = float(np.vdot(here - there, direction)) / (2 * self._loss.fd_step)
        return curvature if 0.0 < curvature < np.inf else 1.0

    def _precondition(self, predictions: Array) -> None:
        """Whiten the features with the Hessian weights of the loss."""
        hessian_weights = self._loss.hessian_weights(predictions, self._rows.targets)
        if hessian_weights is None or self._rows.coordinates is None:
            return
        penalty: Floats | float = 0.0
        if self._alpha:
            penalty = 2.0 * self._alpha * self._penalty(np.eye(self._rows.design.n_features))
        grams = self._rows.gram(hessian_weights * self._rows.normalized_weights)
        self._coordinates = np.stack([Whitening(gram + penalty).complete for gram in grams])
        self._curvature = 0.5
