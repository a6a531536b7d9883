"""The value to minimize, over the parameters of training.

An objective maps the parameters to its value and gradient; it does not know which optimizer asks.
"""

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
    """Mean squared error plus L2 penalty, from the Gram matrix alone.

    For target j with parameters ``theta_j`` and coefficients ``c_j = T theta_j``, and with the mean
    products G, b, s of features and targets, the value is

        ``s_j - 2 b_j' c_j + c_j' G c_j + alpha * c_j' P c_j``,

    P the diagonal matrix of the weights of the norm.

    Every target trains as if it were alone. Values are returned less the one at `reference`, near
    the optimum, since a line search compares values that agree in most of their digits. With the
    half gradients r at theta and r_0 at the reference theta_0, the difference is
    ``(theta - theta_0)' (r + r_0)``.

    Parameters
    ----------
    coordinates : PrimalCoordinates, DualCoordinates or None
        T above; None stands for the identity.
    gram : ndarray of shape (n_parameters, n_parameters), GramFactor or None
        G, to which the penalty comes; None in orthonormal coordinates, in which the sum of both
        is the identity.
    rhs : ndarray of shape (n_parameters, n_targets)
        T'b: minus half the gradient at 0.
    reference : ndarray of shape (n_parameters, n_targets)
        Parameters to whose value others are compared.
    min_value : ndarray of shape (n_targets,)
        The value at the reference.
    alpha : float
        Weight of the penalty.
    norm_weights : ndarray of shape (n_terms,)
        The diagonal of P.
    target_scale : ndarray of shape (n_targets,)
        Scale of the targets: losses are reported times their squares, averaged over targets.
    projection : callable, optional
        The projection on the coefficients of least norm with the same values on the rows.
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
    def orthonormal(cls, reading: NormalEquations, alpha: float, target_scale: Floats) -> GramObjective:
        """Return the objective in coordinates in which the penalized Gram matrix is the identity.

        Parameters
        ----------
        reading : NormalEquations
        alpha : float
        target_scale : ndarray of shape (n_targets,)
        """
        coordinates, optimum, min_value = _least_squares(reading, alpha)
        return cls(coordinates, None, optimum, optimum, min_value, alpha, reading.basis.norm_weights, target_scale)

    @classmethod
    def in_basis(cls, reading: NormalEquations, alpha: float, target_scale: Floats) -> GramObjective:
        """Return the objective over the coefficients of the basis themselves.

        Parameters are those of :meth:`orthonormal`.
        """
        coordinates, optimum, min_value = _least_squares(reading, alpha)
        gram, rhs, reference = reading.statistics.features, reading.statistics.cross, coordinates @ optimum
        weights, projection = reading.basis.norm_weights, reading.projection()
        return cls(None, gram, rhs, reference, min_value, alpha, weights, target_scale, projection)

    def __call__(self, parameters: Floats, gradient: Floats) -> tuple[float, float]:
        """Return the value, summed over targets, and the loss; write the value's gradient.

        The loss is the mean squared error in the units of the targets, without the penalty.
        """
        half_gradient = self._half_gradient(parameters)
        np.multiply(half_gradient, 2.0, out=gradient)
        if self.gram is None:
            distance = slope = half_gradient
        else:
            distance, slope = parameters - self.reference, half_gradient + self._reference_half_gradient
        value = float(np.vdot(distance, slope))
        loss = self._reference_loss + float(np.vdot(distance * self._loss_weights, slope))
        if self.alpha:
            slopes = penalty_gradient(self.coordinates, parameters, self.norm_weights)
            loss -= self.alpha * float(np.vdot(parameters * self._loss_weights, slopes))
        # Where all is explained, rounding can leave a difference below 0. Squared units overflow last.
        return value, loss * self._loss_unit if loss > 0.0 else 0.0

    def coefficients(self, parameters: Floats) -> Floats:
        """Return the coefficients of the basis, of shape (n_terms, n_targets)."""
        if self.coordinates is not None:
            return self.coordinates @ parameters
        return parameters if self.projection is None else self.projection(parameters)

    @cached_property
    def curvature(self) -> float:
        """The largest eigenvalue of half the second derivative, or an upper bound."""
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
        """What averages the targets' values, in squares of the greatest unit."""
        return (self.target_scale / self.target_scale.max()) ** 2 / len(self.target_scale)

    @cached_property
    def _loss_unit(self) -> float:
        """The square of the greatest unit; infinite where that is beyond the range of floats."""
        with np.errstate(over="ignore", under="ignore"):
            return float(np.square(self.target_scale.max()))

    @cached_property
    def _reference_loss(self) -> float:
        """The loss at the reference, with the penalty, in squares of the greatest unit."""
        return float(self._loss_weights @ self.min_value)


def _least_squares(reading: NormalEquations, alpha: float) -> tuple[Coordinates, Floats, Floats]:
    """Return orthonormal coordinates, and in them the optimum and its value.

    Where all rows are at hand, their residuals refine the optimum: one step of iterative
    refinement, which returns the digits that the Gram matrix, the square of the features, has
    lost.
    """
    statistics, rows = reading.statistics, reading.rows
    coordinates = reading.orthonormal_coordinates(alpha)
    gram = statistics.features
    if isinstance(gram, MatrixFreeFactor):
        return coordinates, *_of_few_rows(cast(DualCoordinates, coordinates), to_numpy(cast(Array, rows)).T, alpha)
    optimum = coordinates.rmatvec(statistics.cross)
    if rows is None:
        return coordinates, optimum, statistics.target - np.square(optimum).sum(axis=0)
    coefficients = coordinates @ optimum
    total_weight = 1.0 if isinstance(gram, DenseFactor) else statistics.total_weight
    cross, squares = residual_products(rows, coefficients, total_weight)
    penalty = 0.0
    if alpha:
        slopes = alpha * reading.basis.norm_weights[:, None] * coefficients
        cross = cross - slopes
        penalty = (slopes * coefficients).sum(axis=0)
    correction = coordinates.rmatvec(cross)
    return coordinates, optimum + correction, squares + penalty - np.square(correction).sum(axis=0)


def _of_few_rows(coordinates: DualCoordinates, targets: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the optimum and its value, without products of all features.

    Parameters
    ----------
    coordinates : DualCoordinates
    targets : ndarray of shape (n_rows, n_targets)
        Times the roots of shares.
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
