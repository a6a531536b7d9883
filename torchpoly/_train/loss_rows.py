"""The rows of losses that need more than a Gram matrix."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import to_device, to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._gram.coordinates import Coordinates
from torchpoly._gram.design_matrix import DesignMatrix
from torchpoly._gram.dual import DualCoordinates
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.reading import TrainingRows

# The features of all rows are in memory up to this size.
_MAX_KEPT_BYTES = 2**28
# A weighted Gram matrix is computed without the rows whose weight is below this fraction of the mean weight.
_MIN_RELATIVE_WEIGHT = 1e-3


@dataclass(frozen=True)
class LossRows:
    """The rows of positive weight: features, targets and weights.

    Parameters
    ----------
    design : DesignMatrix
        The features.
    coordinates : PrimalCoordinates, DualCoordinates or None
        The features are ``coordinates.rmatvec(terms)``; None stands for the terms of the basis.
    targets : ndarray or Tensor of shape (n_targets, n_rows)
    normalized_weights : ndarray or Tensor of shape (n_rows,)
        The weights of the rows divided by their sum.
    """

    design: DesignMatrix
    coordinates: Coordinates | None
    targets: Array
    normalized_weights: Array

    @classmethod
    def of(
        cls, equations: NormalEquations, coordinates: Coordinates | None, data: TrainingRows, *, scale_targets: bool
    ) -> LossRows:
        """Return the rows of a fit with scaled targets, or with the targets y."""
        Y, weights = data.Y, data.weights
        if weights is not None and not weights.all():
            Y, weights = Y[weights > 0.0], weights[weights > 0.0]
        normalized_weights = np.full(len(Y), 1 / len(Y)) if weights is None else weights / weights.sum()
        targets = data.targets.transform(Y) if scale_targets else np.array(Y.T, dtype=np.float64, order="C")
        design = DesignMatrix(equations.basis, data.X, data.weights, data.device)
        if isinstance(coordinates, DualCoordinates):
            design = replace(design, kept=to_device(coordinates.at_rows, data.device))
        else:
            design = replace(design, transform=None if coordinates is None else coordinates.matrix)
            if 8 * design.n_features * len(design) <= _MAX_KEPT_BYTES:
                # If the memory of the device is too small for all rows, it may be enough for a block.
                with suppress(MemoryError):
                    design = design.keep(equations.terms_at_rows if weights is None else None)
        return cls(design, coordinates, to_device(targets, data.device), to_device(normalized_weights, data.device))

    def __len__(self) -> int:
        return len(self.normalized_weights)

    @property
    def constant(self) -> Floats:
        """The coefficients of the constant polynomial 1, of shape (n_features, 1)."""
        if self.coordinates is None:
            return np.eye(self.design.n_features, 1)
        # For orthonormal features these are the means of the features.
        return self.design.rmatvec(self.normalized_weights[None])

    def minibatch(self, chosen: NDArray[np.intp]) -> LossRows:
        """Return some of the rows, with weights whose sum is 1 on average."""
        return replace(
            self,
            design=self.design.select(chosen),
            targets=self.targets[:, chosen],
            normalized_weights=self.normalized_weights[chosen] * (len(self) / len(chosen)),
        )

    def gram(self, weights: Array) -> Floats:
        """Return ``F @ diag(w) @ F.T`` for each w in `weights`.

        For orthonormal features F, rows of small weight are left out if the result hardly depends on them.

        Parameters
        ----------
        weights : ndarray or Tensor of shape (n_targets, n_rows)

        Returns
        -------
        ndarray of shape (n_targets, n_features, n_features)
        """
        is_used: Any = weights > 0.0
        if self.coordinates is None:
            return self.design.gram(weights, is_used)
        limits = _MIN_RELATIVE_WEIGHT * weights.sum(1)
        gram = self.design.gram(weights, weights > limits[:, None] * self.normalized_weights)
        # The features are orthonormal, so the eigenvalues of the part that is left out are at most the limit. If an
        # eigenvalue of the rest is not larger, its direction may depend on these rows, and all rows are needed.
        if (np.linalg.eigvalsh(gram)[:, 0] > to_numpy(limits)).all():
            return gram
        return self.design.gram(weights, is_used)
