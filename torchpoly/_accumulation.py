"""The Gram statistics of rows that come in parts, each with a domain and units of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from torchpoly._basis import Basis
from torchpoly._domain import Domain, Floats, column_ranges
from torchpoly._fitting import Model, Problem
from torchpoly._gram import GramStatistics
from torchpoly._reading import Data, Reading, Source, read_gram, well_conditioned

# A fit keeps what it has read where that takes no more than these bytes: 2896 terms.
_KEPT = 2**26


@dataclass(frozen=True)
class Accumulation:
    """What least squares need to know of some rows, of which more may come.

    Parameters
    ----------
    basis : Basis
        On the domain of these rows.
    statistics : GramStatistics
    targets : Domain
        What the targets are scaled by: mean 0 and variance 1 over these rows.
    box : tuple of ndarray of shape (n_features,)
        Least and greatest value of each column of X.
    """

    basis: Basis
    statistics: GramStatistics
    targets: Domain
    box: tuple[Floats, Floats]

    @classmethod
    def of(cls, model: Model, data: Data) -> Accumulation:
        """Read rows of positive weight, scaled by their own ranges."""
        box = column_ranges(data.X, data.weights)
        targets = Domain.standardizing(data.Y, data.weights)
        basis = model.features(box)
        return cls(basis, read_gram(basis, replace(data, targets=targets)), targets, box)

    @classmethod
    def of_problem(cls, problem: Problem, weight_unit: float) -> Accumulation | None:
        """Return what a fit has read with weights in this unit, if more may come and it is not too large to keep."""
        read = problem.read
        if read is None or read.statistics.n_bytes > _KEPT:
            return None
        return cls(read.basis, read.statistics, problem.targets, problem.box).weighing(weight_unit)

    def __add__(self, other: Accumulation) -> Accumulation:
        """Return what is known of the rows of both.

        On a box that holds both, the polynomials of either are combinations of its own ones with
        coefficients of at most about 1, so no digits are lost.
        """
        box = np.minimum(self.box[0], other.box[0]), np.maximum(self.box[1], other.box[1])
        basis = self.basis
        if basis.family == "chebyshev":
            basis = replace(basis, domain=Domain.spanning(*box))
        targets = self._targets_with(other)
        parts = [part._changed(basis, targets) for part in (self, other)]
        return Accumulation(basis, GramStatistics.of_union(parts, [1, 1]), targets, box)

    def weighing(self, unit: float) -> Accumulation:
        """Return the same rows with weights so many times as large."""
        statistics = replace(self.statistics, total_weight=unit * self.statistics.total_weight)
        return replace(self, statistics=statistics)

    def _changed(self, basis: Basis, targets: Domain) -> GramStatistics:
        """Return the statistics in another basis and other units."""
        change = None
        if not basis.domain.covers_like(self.basis.domain):
            change = self.basis.change_of_domain(basis.domain)
        scale = self.targets.half_width / targets.half_width
        return self.statistics.formed().changed(
            change, scale, (self.targets.center - targets.center) / targets.half_width
        )

    def _targets_with(self, other: Accumulation) -> Domain:
        """Return the mean and standard deviation of the targets of both."""
        both = self, other
        weights = np.array([part.statistics.total_weight for part in both])
        shares = (weights / weights.sum())[:, None]
        # In units of the first, from its center.
        unit, origin = self.targets.half_width, self.targets.center
        scales = np.array([part.targets.half_width / unit for part in both])
        means = np.array([(part.targets.center - origin) / unit for part in both])
        means += scales * np.array([part.statistics.cross[0] for part in both])
        variances = scales**2 * np.array([part.statistics.target - part.statistics.cross[0] ** 2 for part in both])
        mean = (shares * means).sum(axis=0)
        variance = (shares * (variances + (means - mean) ** 2)).sum(axis=0)
        spread = np.where(variance > 0.0, np.sqrt(np.abs(variance)), 1.0 / unit)
        return Domain(origin + unit * mean, unit * spread, None, self.targets.shift)

    def pose(self, model: Model, source: Callable[[Domain], Source] | None = None) -> Problem:
        """Return the problem of fitting these rows.

        Parameters
        ----------
        model : Model
        source : callable, optional
            Returns the rows with targets scaled by a domain, if they can be read again.
        """
        statistics, targets = self.statistics, self.targets
        if model.is_textbook:
            units = np.ones_like(targets.half_width)
            statistics = statistics.changed(None, targets.half_width, np.zeros_like(units))
            targets = replace(targets, half_width=units)
        reading = Reading(self.basis, None, statistics, None)
        if source is not None and model.needs_well_conditioned:
            reading = well_conditioned(reading, source(targets))
        return model.on_gram(reading, targets, self.box)
