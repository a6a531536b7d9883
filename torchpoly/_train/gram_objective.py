"""The objective of least squares, from the Gram matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._gram.coordinates import Coordinates, penalty_gradient
from torchpoly._gram.dual import DualCoordinates
from torchpoly._gram.factors import DenseFactor, GramFactor, MatrixFreeFactor
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.statistics import largest_eigenvalue, residual_products
from torchpoly._train.loop import Objective


@dataclass(frozen=True)
class GramObjective(Objective):
    """``s - 2 b' c + c' G c + alpha c' P c``, summed over targets: mean squared error plus penalty.

    c = T theta are the coefficients of a target for its parameters theta. G, b and s are the mean products of
    features with features, of features with the target, and of the target with itself. P is the diagonal
    matrix of the weights of the norm.

    The value that is returned is the difference from the value at `reference`, near the optimum, because a
    line search compares values that agree in most digits. With the half gradients r at theta and r_0 at the
    reference theta_0, the difference is ``(theta - theta_0)' (r + r_0)``, without cancellation.

    Parameters
    ----------
    coordinates : PrimalCoordinates, DualCoordinates or None
        T; None stands for the identity.
    gram : ndarray of shape (n_parameters, n_parameters), GramFactor or None
        G; None for orthonormal coordinates, in which ``T' (G + alpha P) T`` is the identity.
    rhs : ndarray of shape (n_parameters, n_targets)
        T' b: half the negative gradient at 0.
    reference : ndarray of shape (n_parameters, n_targets)
        theta_0.
    min_value : ndarray of shape (n_targets,)
        The value at the reference.
    alpha : float
        Weight of the penalty.
    norm_weights : ndarray of shape (n_terms,)
        The diagonal of P.
    target_scale : ndarray of shape (n_targets,)
        Scale of the targets. The loss to report is the mean over targets of the squared errors of y.
    projection : callable, optional
        The projection on the coefficients of least norm with the same values at the rows.
    """

    coordinates: Coordinates | None
    gram: Floats | GramFactor | None
    rhs: Floats
    reference: Floats
    min_value: Floats
    alpha: float
    norm_weights: Floats
    target_scale: Floats
    projection: Callable[[Floats], Floats] | None = None

    @classmethod
    def orthonormal(cls, equations: NormalEquations, alpha: float, target_scale: Floats) -> GramObjective:
        """Return the objective in coordinates in which the penalized Gram matrix is the identity.

        Parameters
        ----------
        equations : NormalEquations
        alpha : float
        target_scale : ndarray of shape (n_targets,)
        """
        coordinates, optimum, min_value = _least_squares(equations, alpha)
        return cls(coordinates, None, optimum, optimum, min_value, alpha, equations.basis.norm_weights, target_scale)

    @classmethod
    def in_basis(cls, equations: NormalEquations, alpha: float, target_scale: Floats) -> GramObjective:
        """Return the objective as a function of the coefficients of the basis.

        The parameters are those of :meth:`orthonormal`.
        """
        coordinates, optimum, min_value = _least_squares(equations, alpha)
        gram, rhs, reference = equations.statistics.features, equations.statistics.cross, coordinates @ optimum
        weights, projection = equations.basis.norm_weights, equations.projection()
        return cls(None, gram, rhs, reference, min_value, alpha, weights, target_scale, projection)

    def __call__(self, parameters: Floats, gradient: Floats) -> tuple[float, float]:
        """Return the value, summed over targets, and the loss; write the gradient of the value.

        The loss is the mean squared error of y, without the penalty.
        """
        half_gradient = self._half_gradient(parameters)
        np.multiply(half_gradient, 2.0, out=gradient)
        if self.gram is None:
            distance = slope = half_gradient
        else:
            distance, slope = parameters - self.reference, half_gradient + self._reference_half_gradient
        value = float(np.vdot(distance, slope))
        loss = float(self._loss_weights @ self.min_value) + float(np.vdot(distance * self._loss_weights, slope))
        if self.alpha:
            slopes = penalty_gradient(self.coordinates, parameters, self.norm_weights)
            loss -= self.alpha * float(np.vdot(parameters * self._loss_weights, slopes))
        # At a perfect fit, rounding may make the loss negative. The unit may be infinite, so it is the last factor.
        return value, loss * self._loss_unit if loss > 0.0 else 0.0

    def residual_size(self, parameters: Floats) -> Floats:
        """Return the root of the mean squared residual of each scaled target."""
        half_gradient = self._half_gradient(parameters)
        distance, slope = parameters - self.reference, half_gradient + self._reference_half_gradient
        squares = self.min_value + (distance * slope).sum(axis=0)
        if self.alpha:
            slopes = penalty_gradient(self.coordinates, parameters, self.norm_weights)
            squares -= self.alpha * (parameters * slopes).sum(axis=0)
        return np.sqrt(np.maximum(squares, 0.0))

    def coefficients(self, parameters: Floats) -> Floats:
        """Return the coefficients of the basis, of shape (n_terms, n_targets)."""
        if self.coordinates is not None:
            return self.coordinates @ parameters
        return parameters if self.projection is None else self.projection(parameters)

    @cached_property
    def curvature(self) -> float:
        """The largest eigenvalue of half the Hessian, or an upper bound."""
        return 1.0 if self.gram is None else largest_eigenvalue(self.gram, self.alpha, self.norm_weights)

    @property
    def is_isotropic(self) -> bool:
        """Whether the Hessian is a multiple of the identity."""
        return self.gram is None

    def _half_gradient(self, parameters: Floats) -> Floats:
        if self.gram is None:
            return parameters - self.rhs
        half_gradient = self.gram @ parameters - self.rhs
        if self.alpha:
            half_gradient += self.alpha * self.norm_weights[:, None] * parameters
        return half_gradient

    @cached_property
    def _reference_half_gradient(self) -> Floats:
        return self._half_gradient(self.reference)

    @cached_property
    def _loss_weights(self) -> Floats:
        """The weights of the targets in the loss, relative to the square of the greatest scale."""
        return (self.target_scale / self.target_scale.max()) ** 2 / len(self.target_scale)

    @cached_property
    def _loss_unit(self) -> float:
        """The square of the greatest scale; infinite if it is beyond the range of floats."""
        with np.errstate(over="ignore", under="ignore"):
            return float(np.square(self.target_scale.max()))


def _least_squares(equations: NormalEquations, alpha: float) -> tuple[Coordinates, Floats, Floats]:
    """Return orthonormal coordinates, the optimum in them, and its value.

    If all rows are in memory, one step of iterative refinement with their residuals corrects the optimum.
    It recovers digits that the Gram matrix has lost: its condition number is the square of that of the features.
    """
    statistics, rows = equations.statistics, equations.rows
    coordinates = equations.orthonormal_coordinates(alpha)
    gram = statistics.features
    if isinstance(gram, MatrixFreeFactor):
        targets = to_numpy(cast(Array, rows)).T
        return coordinates, *_dual_least_squares(cast(DualCoordinates, coordinates), targets, alpha)
    optimum = coordinates.rmatvec(statistics.cross)
    if rows is None:
        return coordinates, optimum, statistics.target - np.square(optimum).sum(axis=0)
    coefficients = coordinates @ optimum
    total_weight = 1.0 if isinstance(gram, DenseFactor) else statistics.total_weight
    cross, squares = residual_products(rows, coefficients, total_weight)
    penalty = 0.0
    if alpha:
        slopes = alpha * equations.basis.norm_weights[:, None] * coefficients
        cross = cross - slopes
        penalty = (slopes * coefficients).sum(axis=0)
    correction = coordinates.rmatvec(cross)
    return coordinates, optimum + correction, squares + penalty - np.square(correction).sum(axis=0)


def _dual_least_squares(coordinates: DualCoordinates, targets: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the optimum in dual coordinates, with one step of iterative refinement, and its value.

    Parameters
    ----------
    coordinates : DualCoordinates
    targets : ndarray of shape (n_rows, n_targets)
        Times the square roots of the normalized weights.
    alpha : float
    """
    optimum = coordinates.rmatvec_at_rows(targets)
    if not alpha:
        return optimum, np.square(targets - coordinates.values @ optimum).sum(axis=0)
    coefficients = coordinates @ optimum
    residuals = targets - coordinates.factor.matvec(coefficients)
    slopes = alpha * coordinates.factor.norm_weights[:, None] * coefficients
    correction = coordinates.rmatvec_at_rows(residuals) - coordinates.rmatvec(slopes)
    min_value = np.square(residuals).sum(axis=0) + (slopes * coefficients).sum(axis=0)
    return optimum + correction, min_value - np.square(correction).sum(axis=0)
