"""The Gram statistics of the training and test rows of many splits, in one pass over the rows.

Rows that all splits of a batch use in the same way form a group, for example a fold. Each group is read
once. The statistics of the training rows or of the test rows of a split are sums over groups. Sums have no
cancellation, unlike the difference of all rows and the test rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device
from torchpoly._backend.rows import Floats
from torchpoly._estimator.building import build_from_gram
from torchpoly._estimator.spec import ModelSpec
from torchpoly._gram.conditioning import MAX_CONDITION
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.principal_axes import asks_for_principal_axes
from torchpoly._gram.reading import TrainingRows, fits_one_chunk, read_gram
from torchpoly._gram.statistics import GramStatistics, ridge_path
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.box import Box
from torchpoly._polynomial.fitted import PolynomialFamily
from torchpoly._polynomial.target_scaling import TargetScaling
from torchpoly._train.problem import Problem

# The Gram matrices of the groups of a batch take at most about 512 MiB. This is a choice, not a measurement.
_MAX_GROUP_BYTES = 2**29
# Training rows in a small part of the range of all rows are read by themselves. Otherwise the change to their
# basis would amplify rounding errors of the Gram matrix by up to the square of this sum of coefficients.
_MAX_CHANGE = 1e2
# The same holds if the variance of their targets is below 1e-3 of that of all targets: the subtraction of the
# squared mean from the mean square would lose more than 3 digits.
_MIN_SPLIT_VARIANCE = 1e-3
# Up to this condition number, least squares from a Gram matrix have about 8 digits: 16 minus log10(1e8).
_MAX_PATH_CONDITION = 1e8
# Factor of the greatest condition number for few rows, whose fit refines its optimum at the rows. With it, least
# squares from the Gram matrix have 4 more digits, like the refined ones.
_UNREFINED_SHARE = 1e-4

Split = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class SplitGram:
    """The Gram statistics of one split, for all degrees up to that of the basis.

    `statistics` serve training and have the basis and the target scaling of a fit of the training rows.
    `training` and `test` serve scores and have the basis and the target scaling of all rows.

    Parameters
    ----------
    basis : Basis
        The basis of a fit of the training rows, on their domain.
    box : Box
        The ranges of the training rows of positive weight.
    targets : TargetScaling
        The target scaling of a fit of the training rows.
    statistics : GramStatistics
        Statistics of the training rows with `basis` and `targets`.
    n_rows : int
        Number of training rows of positive weight.
    common : Basis
        The basis of `training` and `test`.
    change : ndarray of shape (n_terms, n_terms) or None
        Each column has the coefficients in `common` of a term of `basis`; None if the bases are equal.
    units : TargetScaling
        The target scaling of `training` and `test`.
    training, test : GramStatistics
        Statistics of the training rows and of the test rows with `common` and `units`.
    device : torch.device or None
        Where features are computed.
    """

    basis: Basis
    box: Box
    targets: TargetScaling
    statistics: GramStatistics
    n_rows: int
    common: Basis
    change: Floats | None
    units: TargetScaling
    training: GramStatistics
    test: GramStatistics
    device: Device

    def ridge_path(self, degree: int, alphas: Sequence[float]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return ``(G + alpha P)^-1 b`` for each alpha, and whether the Gram matrix is accurate enough for it.

        Returns
        -------
        coefficients : ndarray of shape (n_terms, n_alphas, n_targets)
            Coefficients in `basis` for targets scaled by `targets`.
        exact : ndarray of bool of shape (n_alphas,)
        """
        basis = self.basis.of_degree(degree)
        statistics = self.statistics.leading_block(basis.n_terms)
        coefficients, conditions = ridge_path(statistics, alphas, basis.norm_weights)
        return coefficients, conditions < _MAX_PATH_CONDITION * self._condition_factor(len(coefficients))

    def build_problem(self, spec: ModelSpec) -> Problem | None:
        """Return the least squares problem of a fit of the training rows; None if a fit reads them more than once."""
        basis = self.basis.of_degree(spec.degree)
        if basis.n_terms > self.n_rows:
            return None
        statistics = self.statistics.leading_block(basis.n_terms)
        if spec.basis == "orthonormal":
            whitening = statistics.whitening(spec.alpha, basis.norm_weights)
            if whitening.condition >= MAX_CONDITION * self._condition_factor(basis.n_terms):
                return None
            if not spec.alpha and asks_for_principal_axes(basis, statistics.covariance(basis.domain.n_variables)):
                return None
        return build_from_gram(spec, NormalEquations(basis, None, statistics, None), self.targets, self.box)

    def _condition_factor(self, n_terms: int) -> float:
        """Return the factor by which the greatest condition number is lower for few rows, else 1.

        If all training rows fit one chunk, a fit refines its optimum by their residuals, and the Gram matrix
        has to be as accurate. Where test rows are far outside of the range of the training rows, the terms
        are large, and so are errors of coefficients in the predictions.
        """
        if not fits_one_chunk(self.n_rows, n_terms + len(self.statistics.target)):
            return 1.0
        squares = np.diagonal(cast(Floats, self.test.features))[:n_terms]
        return _UNREFINED_SHARE / float(squares.max())

    def family(self, coefficients: Floats) -> PolynomialFamily:
        """Return polynomials with the basis `common` and the target scaling `units`.

        Parameters
        ----------
        coefficients : ndarray of shape (n_terms, n_polynomials, n_targets)
            Coefficients in `basis` for targets scaled by `targets`.
        """
        if self.change is not None:
            coefficients = np.tensordot(self.change, coefficients, 1)
        coefficients = coefficients * (self.targets.scale / self.units.scale)
        coefficients[0] += (self.targets.center - self.units.center) / self.units.scale
        return PolynomialFamily(self.common, coefficients, self.units, self.device)


def read_split(spec: ModelSpec, training: TrainingRows, test: TrainingRows) -> SplitGram | None:
    """Return the statistics of one split from its rows alone.

    They are None if the training rows or the test rows have no positive weight.

    Parameters
    ----------
    spec : ModelSpec
        The spec of the highest degree.
    training, test : TrainingRows
        The rows of the split. Their `targets` are not used.
    """
    training, test = training.of_positive_weight(), test.of_positive_weight()
    if not (len(training.X) and len(test.X)):
        return None
    box = Box.of(training.X, None)
    basis = spec.basis_for(box)
    training = spec.data(training.X, training.Y, training.weights, training.device)
    statistics = read_gram(basis, training)
    targets = training.targets
    tested = read_gram(basis, replace(test, targets=targets))
    return SplitGram(
        basis, box, targets, statistics, len(training.X), basis, None, targets, statistics, tested, test.device
    )


def read_splits(spec: ModelSpec, data: TrainingRows, splits: Sequence[Split]) -> Iterator[SplitBatch]:
    """Yield batches of splits that share groups of rows. Each batch is one pass over the rows.

    Parameters
    ----------
    spec : ModelSpec
        The spec of the highest degree.
    data : TrainingRows
    splits : list of tuple of ndarray of int
        Indices of the training rows and of the test rows.
    """
    box = Box.of(data.X, data.weights)
    common = spec.basis_for(box)
    most = max(2, _MAX_GROUP_BYTES // (8 * common.n_terms**2))
    for chosen, labels, counts in _share_rows(splits, len(data.X), most):
        groups, kept = [], []
        for label in np.flatnonzero(counts.any(axis=0)):
            rows = data.of_rows(np.flatnonzero(labels == label)).of_positive_weight()
            if len(rows.X):
                groups.append(RowGroup(read_gram(common, rows), Box.of(rows.X, None), len(rows.X)))
                kept.append(label)
        yield SplitBatch(spec, data, common, {split: splits[split] for split in chosen}, groups, counts[:, kept])


def _share_rows(
    splits: Sequence[Split], n_rows: int, most: int
) -> Iterator[tuple[range, NDArray[np.intp], NDArray[np.intp]]]:
    """Divide the splits into batches of consecutive ones that share groups of rows.

    Yields
    ------
    chosen : range
        The splits of a batch.
    labels : ndarray of shape (n_rows,)
        The group of each row.
    counts : ndarray of shape (2 * n_chosen, n_groups)
        How often the rows of each group are in the training and in the test set of each split.
    """
    first, labels, counts = 0, np.zeros(n_rows, dtype=np.intp), np.zeros((0, 1), dtype=np.intp)
    for split, parts in enumerate(splits):
        finer = _refine(labels, counts, parts)
        # K-fold cross-validation and time series make one group for each split. The number of groups of
        # random splits grows exponentially with the number of splits, so a batch ends early.
        if split > first and finer[1].shape[1] > min(split - first + 4, most):
            yield range(first, split), labels, counts
            first, labels, counts = split, np.zeros(n_rows, dtype=np.intp), np.zeros((0, 1), dtype=np.intp)
            finer = _refine(labels, counts, parts)
        labels, counts = finer
    yield range(first, len(splits)), labels, counts


def _refine(
    labels: NDArray[np.intp], counts: NDArray[np.intp], split: Split
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the common refinement of groups and of the training and test sets of a split.

    Parameters and results are those of :func:`_share_rows`.
    """
    training, test = (np.bincount(rows, minlength=len(labels)) for rows in split)
    n_test, n_training = test.max() + 1, training.max() + 1
    keys = (labels * n_training + training) * n_test + test
    present = np.flatnonzero(np.bincount(keys))
    renumbered = np.empty(present[-1] + 1, dtype=np.intp)
    renumbered[present] = np.arange(len(present))
    of_test, rest = present % n_test, present // n_test
    return renumbered[keys], np.vstack([counts[:, rest // n_training], rest % n_training, of_test])


@dataclass(frozen=True)
class RowGroup:
    """Rows of positive weight that all splits of a batch use in the same way.

    Parameters
    ----------
    statistics : GramStatistics
    box : Box
        The ranges of the rows.
    n_rows : int
    """

    statistics: GramStatistics
    box: Box
    n_rows: int


@dataclass(frozen=True)
class SplitBatch:
    """Consecutive splits with the groups of rows that they share.

    Parameters
    ----------
    spec : ModelSpec
        The spec of the highest degree.
    data : TrainingRows
        All rows.
    common : Basis
        The basis on the domain of all rows.
    splits : dict of int to tuple of ndarray
        Indices of the training rows and of the test rows of each split.
    groups : list of RowGroup
    counts : ndarray of shape (2 * n_splits, n_groups)
        How often each group is in the training and in the test set of each split.
    """

    spec: ModelSpec
    data: TrainingRows
    common: Basis
    splits: dict[int, Split]
    groups: list[RowGroup]
    counts: NDArray[np.intp]

    @property
    def covers_all_rows(self) -> bool:
        """Whether the splits of this batch use all rows."""
        return sum(group.n_rows for group in self.groups) == self.data.n_rows

    def everything(self) -> SplitGram | None:
        """Return the statistics of a fit of all rows; None if they would lose digits."""
        once = np.ones(len(self.groups), dtype=np.intp)
        return self._sum(once, once)

    def split_gram(self, split: int) -> SplitGram | None:
        """Return the statistics of a split; None if its training or test rows have no positive weight."""
        position = 2 * list(self.splits).index(split)
        used, tested = self.counts[position : position + 2]
        if not (used.any() and tested.any()):
            return None
        split_gram = self._sum(used, tested)
        if split_gram is not None:
            return split_gram
        training, test = self.splits[split]
        return read_split(self.spec, self.data.of_rows(training), self.data.of_rows(test))

    def _sum(self, used: NDArray[np.intp], tested: NDArray[np.intp]) -> SplitGram | None:
        """Return the statistics of a split as sums over groups; None if they would lose digits.

        Parameters
        ----------
        used, tested : ndarray of int of shape (n_groups,)
            How often each group is in the training set and in the test set.
        """
        box = reduce(or_, (group.box for group, count in zip(self.groups, used, strict=True) if count))
        training, units = self._union(used), self.data.targets
        mean = training.cross[0]
        variance = training.target - mean * mean
        basis = self.spec.basis_for(box)
        # Columns with few distinct values in these rows have fewer terms.
        same_terms = basis.indices == self.common.indices
        if not (same_terms and (variance > _MIN_SPLIT_VARIANCE).all()):
            return None
        change = None
        if not basis.domain.is_same_map(self.common.domain):
            # The terms are the same, so columns of few distinct values have the same values in both bases, and the
            # change needs no interpolation at them.
            change = self.common.change_to(basis, [None] * len(box))
            if np.abs(change).sum(axis=0).max() > _MAX_CHANGE:
                return None
        spread = 1 / units.scale if self.spec.is_monomial else np.sqrt(variance)
        statistics = training.transformed(change, 1 / spread, -mean / spread)
        targets = TargetScaling(units.center + units.scale * mean, units.scale * spread)
        n_rows = sum(int(count) * group.n_rows for count, group in zip(used, self.groups, strict=True))
        test, device = self._union(tested), self.data.device
        return SplitGram(basis, box, targets, statistics, n_rows, self.common, change, units, training, test, device)

    def _union(self, counts: NDArray[np.intp]) -> GramStatistics:
        return GramStatistics.pooled([group.statistics for group in self.groups], counts.tolist())
