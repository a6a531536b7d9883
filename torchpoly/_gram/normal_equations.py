"""The normal equations of a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Array, Floats
from torchpoly._gram.coordinates import Coordinates, PrimalCoordinates, on_span, orthonormal_coordinates
from torchpoly._gram.factors import DenseFactor
from torchpoly._gram.statistics import GramStatistics
from torchpoly._gram.whitening import without_null
from torchpoly._polynomial.basis import Basis


@dataclass(frozen=True)
class NormalEquations:
    """The statistics of the rows of a fit, and their features if these are one chunk.

    Parameters
    ----------
    basis : Basis
        The features.
    transform : ndarray of shape (n_terms, n_combinations) or None
        The statistics are those of the combinations ``transform.T @ features``; None stands for the features.
    statistics : GramStatistics
        Of the features or of their combinations.
    rows : ndarray or Tensor of shape (n_terms + n_targets, n_rows) or None
        ``sqrt(w) * [F; y]`` of all rows, if they are one chunk. For a :class:`MatrixFreeFactor` only the
        targets, of shape (n_targets, n_rows).
    first : NormalEquations or None
        The normal equations of the terms of the columns, if these are ill-conditioned and were replaced.
    """

    basis: Basis
    transform: Floats | None
    statistics: GramStatistics
    rows: Array | None
    first: NormalEquations | None = None

    @property
    def terms_at_rows(self) -> Floats | None:
        """``sqrt(w) * F`` of all rows, of shape (n_terms, n_rows); None if it is not in memory."""
        if self.rows is None or self.transform is not None or not isinstance(self.statistics.features, np.ndarray):
            return None
        return to_numpy(self.rows[: self.basis.n_terms])

    @property
    def plain(self) -> NormalEquations:
        """The normal equations of the terms of the columns, without the rows."""
        return replace(self if self.first is None else self.first, rows=None)

    def orthonormal_coordinates(self, alpha: float) -> Coordinates:
        """Return the coordinates in which the penalized Gram matrix is the identity."""
        norm_weights = self.basis.norm_weights if self.transform is None else None
        return orthonormal_coordinates(self.statistics, alpha, norm_weights)

    def projection(self) -> Callable[[Floats], Floats] | None:
        """Return the projection on the coefficients of least norm with the same values at the rows.

        None stands for the identity: if the terms are independent, and always for raw powers, for which
        training is plain gradient descent as in textbooks.
        """
        gram, basis = self.statistics.features, self.basis
        if basis.family == "power":
            return None
        coordinates = self.orthonormal_coordinates(0.0)
        if coordinates.rank == len(self.statistics.cross):
            return None
        if isinstance(gram, np.ndarray):
            null = self.statistics.whitening().null
            return lambda coefficients: without_null(coefficients, null, basis.norm_weights)
        if isinstance(coordinates, PrimalCoordinates):
            means = cast(DenseFactor, gram).means
            return lambda coefficients: on_span(coordinates, coefficients, basis.norm_weights, means)
        return lambda coefficients: coordinates @ coordinates.rmatvec(gram @ coefficients)

    def split(self, n_targets: int) -> tuple[NormalEquations, Floats]:
        """Return the normal equations of the first targets, and the mean products of features and other targets."""
        statistics = self.statistics
        if statistics.cross.shape[1] == n_targets:
            return self, statistics.cross[:, n_targets:]
        first = replace(statistics, cross=statistics.cross[:, :n_targets], target=statistics.target[:n_targets])
        more = statistics.cross[:, n_targets:]
        rows = None if self.rows is None else self.rows[: len(self.rows) - more.shape[1]]
        before = None if self.first is None else self.first.split(n_targets)[0]
        return replace(self, statistics=first, rows=rows, first=before), more
