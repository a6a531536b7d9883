"""The parameters of the estimator that say what is minimized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device
from torchpoly._backend.rows import Floats
from torchpoly._gram.reading import TrainingRows
from torchpoly._gram.target_statistics import mean_and_deviation, median_and_deviation
from torchpoly._loss.base import Loss
from torchpoly._loss.custom import CallableLoss, LossFunction
from torchpoly._loss.named import LOSSES
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet
from torchpoly._polynomial.target_scaling import TargetScaling


def loss_class(loss: str | LossFunction) -> Any:
    """Return the class of a loss, by its name or for a callable."""
    return LOSSES[loss] if isinstance(loss, str) else CallableLoss


@dataclass(frozen=True)
class ModelSpec:
    """The parameters of the estimator that say what is minimized; there they are documented."""

    index_options: dict[str, Any]
    loss: str | LossFunction
    loss_options: dict[str, Any]
    alpha: float
    basis: str

    @property
    def is_least_squares(self) -> bool:
        """Whether a Gram matrix says all that the loss needs."""
        return self.loss == "squared_error"

    @property
    def needs_well_conditioned(self) -> bool:
        """Whether rows are read again where their Gram matrix has too few digits to tell terms apart."""
        return self.basis == "orthonormal" and self.alpha == 0

    @property
    def is_robust(self) -> bool:
        """Whether targets are centered at their medians, not at their means."""
        return loss_class(self.loss).is_robust

    def data(
        self,
        X: NDArray,
        y: NDArray,
        weights: Floats | None,
        device: Device,
        on_chunk: Callable[[], object] | None = None,
    ) -> TrainingRows:
        """Return the rows with the scale of their targets. Parameters are those of :func:`build_from_rows`."""
        Y = y.reshape(len(y), -1)
        targets = (median_and_deviation if self.is_robust else mean_and_deviation)(Y, weights)
        if self.is_monomial:
            targets = replace(targets, scale=np.ones_like(targets.scale))
        return TrainingRows(X, Y, weights, targets, device, on_chunk)

    def losses(self, data: TrainingRows, single_target: bool, in_stages: bool) -> list[Loss]:
        """Return the loss of all targets, or one for each where they have stages of their own."""
        if isinstance(self.loss, str):
            scale = data.targets.scale
            parts = np.split(scale, len(scale)) if in_stages else [scale]
            return [LOSSES[self.loss](part, **self.loss_options) for part in parts]
        weighted = data.weights is not None and len(np.unique(data.weights[data.weights > 0])) > 1
        return [CallableLoss(self.loss, data.targets, single_target=single_target, weighted=weighted)]

    @property
    def is_monomial(self) -> bool:
        """Whether features are raw powers of raw X, for raw y."""
        return self.basis == "monomial"

    def basis_for(self, box: Box) -> Basis:
        """Return the basis for rows whose columns span the box."""
        if self.is_monomial:
            return Basis(Domain.identity(len(box)), self.indices(len(box)), "power")
        return Basis.spanning(box, self.indices(len(box)))

    def indices(self, n_features: int, values: Sequence[Floats | None] | None = None) -> IndexSet:
        """Return the terms of so many columns, of which those of few values have few powers."""
        indices = IndexSet(n_features, **self.index_options)
        return indices if self.is_monomial or values is None else indices.on_values(values)

    @property
    def degree(self) -> int:
        """Greatest total degree of the terms."""
        return self.index_options["degree"]

    @property
    def family(self) -> tuple[object, ...]:
        """What models have in common whose terms are the first of those of the greatest degree."""
        return self.indices(0).of_degree(0), self.is_monomial

    def initial_parameters(self, n_terms: int, targets: TargetScaling) -> Floats:
        """Return the coefficients at which training starts: 0, and with raw powers so for y as it is."""
        origin = np.zeros((n_terms, len(targets.center)))
        if self.is_monomial:
            origin[0] = -targets.center
        return origin
