"""The Gram statistics of rows that come in parts, each with a domain and units of its own."""

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
from torchpoly._gram.whitening import rounding_share
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.target_scaling import TargetScaling

# A fit keeps what it has read where that takes no more than these bytes: 2896 terms.
_KEPT = 2**26
# Where terms are dependent on all rows, the others are mostly within this condition number.
_CLEARLY_SEPARATE = 1e6


def _of_finite_weight(statistics: GramStatistics) -> GramStatistics:
    """Refuse weights whose sum is beyond the range of floats."""
    if not np.isfinite(statistics.total_weight):
        raise ValueError("The weights in 'sample_weight' sum up to infinity. Divide all of them by a number.")
    return statistics


@dataclass(frozen=True)
class RunningGram:
    """What least squares need to know of some rows, of which more may come.

    Parameters
    ----------
    basis : Basis
        On the domain of these rows.
    statistics : GramStatistics
    targets : TargetScaling
        What the targets are scaled by: mean 0 and variance 1 over these rows.
    box : Box
    n_rows : int
        Number of rows of positive weight.
    has_lost_terms : bool
        Whether the Gram matrix takes terms for dependent that the rows tell apart.
    """

    basis: Basis
    statistics: GramStatistics
    targets: TargetScaling
    box: Box
    n_rows: int
    has_lost_terms: bool = False

    @classmethod
    def of(cls, basis: Basis, data: TrainingRows, box: Box) -> RunningGram:
        """Read rows of positive weight, scaled by their own ranges, those of the box."""
        targets = mean_and_deviation(data.Y, data.weights)
        return cls(basis, read_gram(basis, replace(data, targets=targets)), targets, box, data.n_rows)

    @classmethod
    def of_reading(cls, reading: NormalEquations, targets: TargetScaling, box: Box, n_rows: int) -> RunningGram | None:
        """Return what a fit has read, if it is not too large to keep."""
        if reading.statistics.n_bytes > _KEPT:
            return None
        return cls(reading.basis, reading.statistics, targets, box, n_rows)

    def __add__(self, other: RunningGram) -> RunningGram:
        """Return what is known of the rows of both.

        On a box that holds both, the polynomials of either are combinations of its own ones with
        coefficients of at most about 1, so no digits are lost.
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
        """Return the same rows with weights so many times as large."""
        statistics = replace(self.statistics, total_weight=unit * self.statistics.total_weight)
        return replace(self, statistics=_of_finite_weight(statistics))

    @property
    def is_ill_conditioned(self) -> bool:
        """Whether the Gram matrix has lost terms, or digits of them, that the rows themselves would tell apart.

        Of terms that are dependent on all rows, as powers of a binary column are, there is nothing to
        lose: these are as far below the others as rounding takes them.
        """
        whitening = self.statistics.whitening()
        if whitening.condition < MAX_CONDITION:
            return False
        values, n_lost = whitening.eigensystem[0], whitening.null.shape[1]
        condition = values[-1] / values[n_lost]
        far_above = n_lost and self.n_rows >= len(values) and condition > _CLEARLY_SEPARATE
        return bool(condition > MAX_CONDITION or far_above or (n_lost and self.has_lost_terms))

    def with_lost_terms(self, parts: Sequence[RunningGram], source: Callable[[TargetScaling], Source]) -> RunningGram:
        """Return the union of parts, and whether its Gram matrix has lost terms of a part.

        More rows tell more terms apart, so a rank below that of a part is rounding: the part's rows lie
        in a small part of the range of all. So are combinations of terms that the Gram matrix takes for
        0 on all rows, and that are not on the rows of the last part, which are at hand.

        Parameters
        ----------
        parts : list of RunningGram
        source : callable
            Returns the rows of the last part with targets scaled by a domain.
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
            # Null vectors are off by rounding in the directions of the least other eigenvalues.
            mixed = rounding_share(len(values)) * np.sqrt(values[-1] / values[n_null])
            lost = bool(squares.max() > max(rounding, mixed) ** 2)
        return replace(self, has_lost_terms=lost)

    @property
    def rank(self) -> int:
        """Number of terms that the Gram matrix tells apart."""
        return len(self.statistics.cross) - self.statistics.formed().whitening().null.shape[1]

    def _transformed(self, basis: Basis, targets: TargetScaling) -> GramStatistics:
        """Return the statistics in another basis and other units."""
        change = None
        if not (basis.indices == self.basis.indices and basis.domain.covers_like(self.basis.domain)):
            change = self.basis.change_to(basis, self.box.values)
        scale = self.targets.scale / targets.scale
        return self.statistics.formed().transformed(
            change, scale, (self.targets.center - targets.center) / targets.scale
        )

    def _targets_with(self, other: RunningGram) -> TargetScaling:
        """Return the mean and standard deviation of the targets of both."""
        both = self, other
        weights = np.array([part.statistics.total_weight for part in both])
        proportions = (weights / weights.sum())[:, None]
        # From the center of the first, in units in which neither spreads nor their distance overflow when squared.
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
