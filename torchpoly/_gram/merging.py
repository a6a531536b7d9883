"""Merging of Gram statistics of several sets of rows, each with its own domain and target scaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from torchpoly._gram.conditioning import MAX_CONDITION, NULL_ROUNDING
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.reading import TrainingRows, read_gram
from torchpoly._gram.source import Source
from torchpoly._gram.statistics import GramStatistics
from torchpoly._gram.target_statistics import mean_and_deviation
from torchpoly._gram.whitening import rounding_ratio
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.target_scaling import TargetScaling

# An estimator keeps its Gram matrix for `partial_fit` up to this size in bytes: 2896 terms.
_MAX_GRAM_BYTES = 2**26
# If some terms are exactly dependent, the condition number of the other terms is mostly below this.
_MAX_INDEPENDENT_CONDITION = 1e6


def _of_finite_weight(statistics: GramStatistics) -> GramStatistics:
    """Return the statistics, or raise if the sum of the weights is infinite."""
    if not np.isfinite(statistics.total_weight):
        raise ValueError("The weights in 'sample_weight' sum up to infinity. Divide all of them by a number.")
    return statistics


@dataclass(frozen=True)
class RunningGram:
    """The Gram statistics of a growing set of rows.

    Parameters
    ----------
    basis : Basis
        On the domain of these rows.
    statistics : GramStatistics
    targets : TargetScaling
        With it, the scaled targets of these rows have mean 0 and variance 1.
    box : Box
    n_rows : int
        Number of rows of positive weight.
    has_lost_terms : bool
        Whether some terms are dependent in the Gram matrix by rounding, but independent on the rows.
    """

    basis: Basis
    statistics: GramStatistics
    targets: TargetScaling
    box: Box
    n_rows: int
    has_lost_terms: bool = False

    @classmethod
    def of(cls, basis: Basis, data: TrainingRows, box: Box) -> RunningGram:
        """Return the statistics of rows in their box."""
        targets = mean_and_deviation(data.Y, data.weights)
        return cls(basis, read_gram(basis, replace(data, targets=targets)), targets, box, data.n_rows)

    @classmethod
    def of_equations(cls, read: NormalEquations, targets: TargetScaling, box: Box, n_rows: int) -> RunningGram | None:
        """Return the statistics that a fit has read, or None if they are too large to keep."""
        if read.statistics.features.nbytes > _MAX_GRAM_BYTES:
            return None
        return cls(read.basis, read.statistics, targets, box, n_rows)

    def __add__(self, other: RunningGram) -> RunningGram:
        """Return the statistics of the rows of both.

        The new domain is that of the joint box. The change of basis has coefficients of at most about 1,
        so there is no cancellation.
        """
        box = self.box | other.box
        basis = self.basis
        if basis.family == "chebyshev":
            basis = Basis.spanning(box, basis.indices)
        targets = self._targets_with(other)
        parts = [part._transformed(basis, targets) for part in (self, other)]
        statistics = _of_finite_weight(GramStatistics.pooled(parts, [1, 1]))
        return RunningGram(basis, statistics, targets, box, self.n_rows + other.n_rows)

    def weighing(self, unit: float) -> RunningGram:
        """Return the statistics with all weights multiplied by a unit."""
        statistics = replace(self.statistics, total_weight=unit * self.statistics.total_weight)
        return replace(self, statistics=_of_finite_weight(statistics))

    @property
    def is_ill_conditioned(self) -> bool:
        """Whether the Gram matrix has lost digits that another pass over the rows could recover.

        Exactly dependent terms lose nothing, for example the powers of a binary column. Their eigenvalues
        are rounding, and all others are much larger.
        """
        whitening = self.statistics.whitening()
        if whitening.condition < MAX_CONDITION:
            return False
        values, n_lost = whitening.eigensystem[0], whitening.null.shape[1]
        condition = values[-1] / values[n_lost]
        is_doubtful = n_lost and self.n_rows >= len(values) and condition > _MAX_INDEPENDENT_CONDITION
        return bool(condition > MAX_CONDITION or is_doubtful or (n_lost and self.has_lost_terms))

    def with_lost_terms(self, parts: Sequence[RunningGram], source: Callable[[TargetScaling], Source]) -> RunningGram:
        """Return these merged statistics with `has_lost_terms` set.

        More rows cannot have a lower rank. If the rank is below that of a part, rounding has lost terms:
        the rows of that part are in a small part of the range of all rows. Terms are also lost if a null
        direction of the Gram matrix is not 0 at the rows of the last part, which are available.

        Parameters
        ----------
        parts : list of RunningGram
            The merged parts.
        source : callable
            Returns the rows of the last part with a target scaling.
        """
        whitening = self.statistics.whitening()
        if whitening.condition < MAX_CONDITION or not (n_null := whitening.null.shape[1]):
            return self
        lost = any(part.has_lost_terms or part.rank > self.rank for part in parts)
        if not lost:
            values, rows = whitening.eigensystem[0], source(self.targets)
            squares = rows.squares_of(self.basis, whitening.null)
            sizes = 2.0 + np.max(np.abs(self.basis.domain.center / self.basis.domain.half_width))
            rounding = NULL_ROUNDING * sizes * rows.precision
            # Rounding mixes null vectors with the eigenvectors of the least other eigenvalues.
            mixed = rounding_ratio(len(values)) * np.sqrt(values[-1] / values[n_null])
            lost = bool(squares.max() > max(rounding, mixed) ** 2)
        return replace(self, has_lost_terms=lost)

    @property
    def rank(self) -> int:
        """Rank of the Gram matrix."""
        return len(self.statistics.cross) - self.statistics.formed().whitening().null.shape[1]

    def _transformed(self, basis: Basis, targets: TargetScaling) -> GramStatistics:
        """Return the statistics in another basis and target scaling."""
        change = None
        if not (basis.indices == self.basis.indices and basis.domain.is_same_map(self.basis.domain)):
            change = self.basis.change_to(basis, self.box.values)
        scale, shift = self.targets.scale / targets.scale, (self.targets.center - targets.center) / targets.scale
        return self.statistics.formed().transformed(change, scale, shift)

    def _targets_with(self, other: RunningGram) -> TargetScaling:
        """Return the mean and standard deviation of the targets of both."""
        both = self, other
        weights = np.array([part.statistics.total_weight for part in both])
        proportions = (weights / weights.sum())[:, None]
        # Relative to the first center, and in units in which squares of scales and of distances do not overflow.
        origin = self.targets.center
        with np.errstate(over="ignore"):
            distance = np.abs(other.targets.center - origin)
        unit = np.maximum(np.maximum(self.targets.scale, other.targets.scale), distance)
        if not np.isfinite(unit).all():
            raise ValueError("y is further from that of the rows before than floats hold. Divide all of y by a number.")
        scales = np.array([part.targets.scale / unit for part in both])
        means = np.array([(part.targets.center - origin) / unit for part in both])
        means += scales * np.array([part.statistics.cross[0] for part in both])
        variances = scales**2 * np.array([part.statistics.target - part.statistics.cross[0] ** 2 for part in both])
        mean = (proportions * means).sum(axis=0)
        variance = (proportions * (variances + (means - mean) ** 2)).sum(axis=0)
        spread = np.where(variance > 0.0, np.sqrt(np.abs(variance)), 1.0 / unit)
        return TargetScaling(origin + unit * mean, unit * spread)
