"""The parameters of the estimator that define the minimization problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device
from torchpoly._backend.rows import Floats
from torchpoly._gram.reading import TrainingRows
from torchpoly._gram.target_statistics import mean_and_deviation, median_and_deviation
from torchpoly._loss.base import Loss
from torchpoly._loss.custom import CallableLoss, LossFunction
from torchpoly._loss.named import LOSSES, LossName
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet
from torchpoly._polynomial.target_scaling import TargetScaling

# Coordinates of training.
BasisName: TypeAlias = Literal["orthonormal", "chebyshev", "monomial"]


def loss_class(loss: LossName | LossFunction) -> Any:
    """Return the class of a loss, by its name or for a callable."""
    return LOSSES[loss] if isinstance(loss, str) else CallableLoss


@dataclass(frozen=True)
class ModelSpec:
    """The parameters of the estimator that define the minimization problem.

    :class:`TorchPolynomialRegressor` documents them.

    Parameters
    ----------
    index_options : dict of str to object
        Arguments of :class:`IndexSet`, such as ``degree``.
    loss : str or callable
    loss_options : dict of str to object
        Arguments of the class of the loss, such as ``quantile``.
    alpha : float
        It is "loo", as the degree may be, until leave-one-out has chosen a number.
    basis : {"orthonormal", "chebyshev", "monomial"}
    """

    index_options: dict[str, Any]
    loss: LossName | LossFunction
    loss_options: dict[str, Any]
    alpha: float
    basis: BasisName

    @property
    def is_least_squares(self) -> bool:
        """Whether the loss is the squared error, for which training needs only a Gram matrix."""
        return self.loss == "squared_error"

    @property
    def needs_well_conditioned(self) -> bool:
        """Whether rows are read again if their Gram matrix is ill-conditioned."""
        return self.basis == "orthonormal" and self.alpha == 0

    @property
    def is_robust(self) -> bool:
        """Whether the target scaling uses medians instead of means and standard deviations."""
        return loss_class(self.loss).is_robust

    def data(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        weights: Floats | None,
        device: Device,
        on_chunk: Callable[[], object] | None = None,
    ) -> TrainingRows:
        """Return the rows with the scaling of their targets. :func:`build_from_rows` documents the parameters."""
        Y = y.reshape(len(y), -1)
        targets = (median_and_deviation if self.is_robust else mean_and_deviation)(Y, weights)
        if self.is_monomial:
            targets = replace(targets, scale=np.ones_like(targets.scale))
        return TrainingRows(X, Y, weights, targets, device, on_chunk)

    def losses(self, data: TrainingRows, single_target: bool, in_stages: bool) -> list[Loss]:
        """Return one loss for all targets, or one for each target if each is minimized in its own stages."""
        if isinstance(self.loss, str):
            scale = data.targets.scale
            parts = np.split(scale, len(scale)) if in_stages else [scale]
            return [LOSSES[self.loss](part, **self.loss_options) for part in parts]
        weighted = data.weights is not None and len(np.unique(data.weights[data.weights > 0])) > 1
        return [CallableLoss(self.loss, data.targets, single_target=single_target, weighted=weighted)]

    @property
    def is_monomial(self) -> bool:
        """Whether features are powers of X without scaling, and y is not scaled either."""
        return self.basis == "monomial"

    def basis_for(self, box: Box) -> Basis:
        """Return the basis for rows with the ranges of a box."""
        if self.is_monomial:
            return Basis(Domain.identity(len(box)), self.indices(len(box)), "power")
        return Basis.spanning(box, self.indices(len(box)))

    def indices(self, n_features: int, values: Sequence[Floats | None] | None = None) -> IndexSet:
        """Return the index set of the terms.

        Parameters
        ----------
        n_features : int
        values : sequence of (ndarray or None), optional
            The distinct values of each column that has few of them. Such columns have fewer powers.
        """
        indices = IndexSet(n_features, **self.index_options)
        return indices if self.is_monomial or values is None else indices.on_values(values)

    @property
    def degree(self) -> int:
        """Highest total degree of the terms."""
        return self.index_options["degree"]

    @property
    def values(self) -> dict[str, Any]:
        """The fitted attributes ``degree_`` and ``alpha_``."""
        return {"degree_": int(self.degree), "alpha_": float(self.alpha)}

    def with_values(self, degree: int, alpha: float) -> ModelSpec:
        """Return the spec with another degree and alpha."""
        return replace(self, index_options={**self.index_options, "degree": degree}, alpha=alpha)

    @property
    def family(self) -> tuple[object, ...]:
        """A key that is equal for specs whose terms are leading terms of one index set of a higher degree."""
        return self.indices(0).of_degree(0), self.is_monomial

    def initial_parameters(self, n_terms: int, targets: TargetScaling) -> Floats:
        """Return the coefficients at which training starts: of the polynomial 0 in scaled y, or in y for raw powers."""
        origin = np.zeros((n_terms, len(targets.center)))
        if self.is_monomial:
            origin[0] = -targets.center
        return origin
