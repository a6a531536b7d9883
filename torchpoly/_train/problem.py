"""Problems: objectives, initial parameters, and the conversion of final parameters to a polynomial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from torchpoly._backend.rows import Floats
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.uncertainty import Uncertainty
from torchpoly._loss.base import Loss
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.fitted import FittedPolynomial
from torchpoly._polynomial.target_scaling import TargetScaling
from torchpoly._train.gram_objective import GramObjective
from torchpoly._train.row_objective import RowObjective


@dataclass(frozen=True)
class Part:
    """An objective that is minimized on its own.

    Parameters
    ----------
    objective : GramObjective or RowObjective
    parameters : ndarray of shape (rank, n_targets)
        The initial parameters. Training changes them in place.
    loss : Loss or None
        The loss of a :class:`RowObjective`.
    """

    objective: GramObjective | RowObjective
    parameters: Floats
    loss: Loss | None = None

    @property
    def program(self) -> RowObjective | None:
        """The objective, if it is a linear program."""
        objective = self.objective
        return objective if isinstance(objective, RowObjective) and objective.is_linear_program else None


@dataclass(frozen=True)
class Problem:
    """The objectives of a fit, and all that is needed to make a polynomial of the result.

    Parameters
    ----------
    parts : list of Part
        One for all targets, or one for each target.
    basis : Basis
        The features.
    transform : ndarray of shape (n_terms, n_combinations) or None
        The coefficients of the basis are ``transform @ coefficients`` of the objective; None stands for the identity.
    targets : TargetScaling
    box : Box
        Of the rows of positive weight.
    read : NormalEquations or None
        The normal equations, for least squares from Gram statistics.
    extremes : ndarray of int or None
        Columns in which extreme values make terms numerically dependent.
    values : dict of str to object
        Fitted attributes with the values of parameters.
    equations : NormalEquations or None
        Those whose solution is the optimum, for least squares.
    alpha : float
        The penalty of the optimum.
    path : dict or None
        The fitted attribute ``loo_path_``.
    """

    parts: list[Part]
    basis: Basis
    transform: Floats | None
    targets: TargetScaling
    box: Box
    read: NormalEquations | None = None
    extremes: NDArray[np.intp] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    path: dict[str, Any] | None = None
    equations: NormalEquations | None = None
    alpha: float = 0.0

    def fitted_attributes(self, single_target: bool) -> dict[str, Any]:
        """Return the fitted attributes of the estimator for the present parameters."""
        coefficients = np.hstack([part.objective.coefficients(part.parameters) for part in self.parts])
        if self.transform is not None:
            coefficients = self.transform @ coefficients
        attributes = {
            "_polynomial": FittedPolynomial(self.basis, coefficients, self.targets, self.box.low, self.box.high),
            "_single_target": single_target,
            "_residual_size": [
                size for part in self.parts for size in part.objective.residual_size(part.parameters).tolist()
            ],
            "rank_": len(self.parts[0].parameters),
        } | self.values
        if self.path is not None:
            errors = self.path["mean_squared_error"]
            attributes["loo_path_"] = {**self.path, "mean_squared_error": errors[..., 0] if single_target else errors}
        estimated = [part.loss.fitted_attributes() for part in self.parts if part.loss is not None]
        for name in estimated[0] if estimated else ():
            values = np.concatenate([one[name] for one in estimated])
            attributes[name] = float(values[0]) if single_target else values
        gaps = [part.program.dual_gap for part in self.parts if part.program is not None]
        if gaps and all(gap is not None for gap in gaps):
            gap = np.concatenate(cast(list[Floats], gaps))
            attributes["dual_gap_"] = float(gap[0]) if single_target else gap
        return attributes

    def uncertainty(self, n_rows: int) -> Uncertainty | None:
        """Return the covariance of the optimum of least squares for a number of rows; None if there is none."""
        if self.equations is None:
            return None
        objective = self.parts[0].objective
        if not isinstance(objective, GramObjective):
            objective = GramObjective.orthonormal(self.equations, self.alpha, self.targets.scale)
        mean_squares = np.square(objective.residual_size(objective.reference))
        return Uncertainty.of(self.equations, self.alpha, n_rows, mean_squares)

    def batches(
        self, n_rows: int, random_state: int | np.random.RandomState | None
    ) -> Callable[[], Iterator[tuple[float, RowObjective]]] | None:
        """Return a function that shuffles the rows and yields the objectives of mini-batches; None for full batches."""
        objective = self.parts[0].objective
        if isinstance(objective, GramObjective) or (size := objective.batch_size) is None:
            return None
        random = check_random_state(0 if random_state is None else random_state)
        return lambda: objective.batches(random.permutation(n_rows), size)


def average_curves(curves: list[Floats]) -> Floats:
    """Return the mean of the loss curves of the parts; shorter curves are continued by their last loss."""
    if len(curves) == 1:
        return curves[0]
    length = max(map(len, curves))
    return np.mean([np.pad(curve, (0, length - len(curve)), mode="edge") for curve in curves], axis=0)
