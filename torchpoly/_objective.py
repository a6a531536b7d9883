"""The value to minimise, over the parameters of training.

An objective maps the parameters to its value and gradient; it does not know which optimizer asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from torchpoly._basis import Array, Floats
from torchpoly._gram import GramFactor, GramStatistics, orthonormal_coordinates, residual_products

_ROUNDING = 16 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class GramObjective:
    """Mean squared error plus L2 penalty, from the Gram matrix alone.

    For target j with parameters ``theta_j``, coefficients ``c_j = T theta_j`` and the mean
    products G, b, s of features and targets, the value is

        ``s_j - 2 b_j' c_j + c_j' G c_j + alpha * |c_j but the constant|^2``.

    In orthonormal coordinates it is ``floor_j + |theta_j - optimum_j|^2``, whose terms have no
    digits to lose to each other. Every target trains as if it were alone.

    Parameters
    ----------
    coordinates : ndarray of shape (n_terms, n_parameters) or None
        T above; None stands for the identity.
    gram : ndarray of shape (n_parameters, n_parameters), GramFactor or None
        G, to which the penalty comes; None in orthonormal coordinates, in which the sum of both
        is the identity.
    linear : ndarray of shape (n_parameters, n_targets)
        T'b: minus half the gradient at 0. In orthonormal coordinates, the optimum.
    floor : ndarray of shape (n_targets,)
        The value at the optimum in orthonormal coordinates, else the value at 0.
    alpha : float
        Weight of the penalty.
    units : ndarray of shape (n_targets,)
        Units of the targets: losses are reported times their squares, averaged over targets.
    curvature : float
        Largest eigenvalue of half the second derivative.
    """

    coordinates: Floats | None
    gram: Floats | GramFactor | None
    linear: Floats
    floor: Floats
    alpha: float
    units: Floats
    curvature: float = 1.0

    @classmethod
    def in_basis(cls, statistics: GramStatistics, alpha: float, units: Floats) -> GramObjective:
        """Return the objective over the coefficients of the basis themselves."""
        curvature = float(statistics.eigenvalues()[-1]) + alpha
        return cls(None, statistics.features, statistics.cross, statistics.target, alpha, units, curvature)

    @classmethod
    def orthonormal(
        cls, statistics: GramStatistics, alpha: float, units: Floats, rows: Array | None = None
    ) -> GramObjective:
        """Return the objective in coordinates in which the penalised Gram matrix is the identity.

        Parameters
        ----------
        statistics : GramStatistics
        alpha : float
        units : ndarray of shape (n_targets,)
        rows : ndarray or Tensor of shape (n_terms + n_targets, n_rows), optional
            All rows, where one chunk holds them. The optimum and its value are then refined by
            the residuals of the rows, one step of iterative refinement, which returns the digits
            that the Gram matrix, the square of the features, has lost.
        """
        coordinates = orthonormal_coordinates(statistics.features, alpha)
        optimum = coordinates.T @ statistics.cross
        if rows is None:
            floor = statistics.target - np.square(optimum).sum(axis=0)
        else:
            coefficients = coordinates @ optimum
            cross, squares = residual_products(rows, coefficients, statistics.total_weight)
            coefficients[0] = 0.0
            correction = coordinates.T @ (cross - alpha * coefficients)
            optimum = optimum + correction
            floor = squares + alpha * np.square(coefficients).sum(axis=0) - np.square(correction).sum(axis=0)
        # Targets have variance 1, so this is rounding. Optimizers that divide the gradient by its
        # own size would take it for a direction to go.
        optimum[np.abs(optimum) < _ROUNDING] = 0.0
        return cls(coordinates, None, optimum, floor, alpha, units)

    def __call__(self, parameters: Tensor) -> tuple[float, float]:
        """Return the value, summed over targets, and the loss; write the gradient.

        The loss is the mean squared error in the units of the targets, without the penalty.
        The gradient of the value goes into ``parameters.grad``.
        """
        assert parameters.grad is not None
        theta, gradient = parameters.numpy(), parameters.grad.numpy()
        if self.gram is None:
            residual = theta - self.linear
            values = self.floor + (residual * residual).sum(axis=0)
        else:
            residual = self.gram @ theta - self.linear
            residual[1:] += self.alpha * theta[1:]
            values = self.floor + (theta * (residual - self.linear)).sum(axis=0)
        np.multiply(residual, 2.0, out=gradient)
        value, loss = (self._totals @ values).tolist()
        if self.alpha:
            penalties = self.alpha * np.square(self.coefficients(theta)[1:]).sum(axis=0)
            loss -= float(self._totals[1] @ penalties)
        # Where all is explained, rounding can leave a difference below 0.
        return value, max(loss, 0.0) if loss == loss else loss

    def coefficients(self, parameters: Floats) -> Floats:
        """Return the coefficients of the basis, of shape (n_terms, n_targets)."""
        return parameters if self.coordinates is None else self.coordinates @ parameters

    @property
    def isotropic(self) -> bool:
        """Whether the second derivative is a multiple of the identity."""
        return self.gram is None

    @cached_property
    def _totals(self) -> Floats:
        """What sums the targets' values, and what averages them in the targets' units."""
        return np.array([np.ones(len(self.units)), self.units**2 / len(self.units)])
