"""Leave-one-out splits in closed form: fits to all rows but one, without refits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats
from torchpoly._estimator.leave_one_out import LeaveOneOutGrid
from torchpoly._gram.held_out import HeldOutFits
from torchpoly._gram.reading import TrainingRows
from torchpoly._polynomial.box import Box, rows_that_span
from torchpoly._polynomial.fitted import FittedPolynomial
from torchpoly._search.candidates import Candidate
from torchpoly._search.splits import Split


def left_out_rows(splits: Sequence[Split], n_rows: int) -> dict[int, int]:
    """Return the row that each split leaves out, for the splits whose training rows are all other rows."""
    found = {}
    for number, (training, test) in enumerate(splits):
        if len(test) == 1 and len(training) == n_rows - 1:
            used = np.bincount(training, minlength=n_rows)
            if used.max() == 1 and not used[test[0]]:
                found[number] = int(test[0])
    return found


@dataclass(frozen=True)
class LeftOutFits:
    """The fits of one candidate to all rows but one.

    Parameters
    ----------
    data : TrainingRows
        All rows.
    box : Box
        That of all rows.
    fits : HeldOutFits
        For the rows of positive weight.
    """

    data: TrainingRows
    box: Box
    fits: HeldOutFits

    @cached_property
    def _used(self) -> NDArray[np.intp]:
        """The rows of positive weight."""
        weights = self.data.weights
        return np.arange(len(self.data.X)) if weights is None else np.flatnonzero(weights)

    @property
    def lowers_rank(self) -> NDArray[np.bool_]:
        """Whether the terms have a lower rank without a row, for each row: with a penalty, the rank does not matter."""
        lowers = np.zeros(len(self.data.X), dtype=bool)
        if not self.fits.alpha:
            lowers[self._used] = self.fits.lowers_rank
        return lowers

    @cached_property
    def predictions(self) -> NDArray[Any]:
        """The prediction for each row in the fit without it, of shape (n_rows, n_targets), in the dtype of X."""
        data, targets = self.data, self.data.targets
        predictions = np.empty(data.Y.shape, dtype=data.X.dtype)
        scaled = targets.transform(data.Y[self._used]) - self.fits.residuals
        predictions[self._used] = scaled.T * targets.scale + targets.center
        unused = np.setdiff1d(np.arange(len(data.X)), self._used)
        if unused.size:
            predictions[unused] = self._of_all_rows.predict(data.X[unused], None)
        return predictions

    def polynomial(self, row: int) -> FittedPolynomial:
        """Return the polynomial of the fit without a row."""
        position = np.searchsorted(self._used, row)
        if position == len(self._used) or self._used[position] != row:
            return self._of_all_rows
        return self._polynomial(self.fits.coefficients(int(position)))

    @cached_property
    def _of_all_rows(self) -> FittedPolynomial:
        basis, alpha = self.fits.basis, self.fits.alpha
        return self._polynomial(basis.coordinates @ (basis.products / (1.0 + alpha * basis.penalties)[:, None]))

    def _polynomial(self, coefficients: Floats) -> FittedPolynomial:
        return FittedPolynomial(self.fits.basis.basis, coefficients, self.data.targets, self.box.low, self.box.high)


class LeftOutRows:
    """The rows of a search that leaves out one row at a time.

    Parameters
    ----------
    data : TrainingRows
    box : Box
    """

    def __init__(self, data: TrainingRows, box: Box) -> None:
        self._data, self._box = data, box
        self._spans = rows_that_span(data.X, data.weights)
        # Rows of weight 0 may lie outside the box.
        self._extrapolates = not np.array_equal(data.X, np.clip(data.X, box.low, box.high))

    def fits(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, LeftOutFits, NDArray[np.bool_]]]:
        """Yield candidates with their fits, and the rows without which a fit has another basis or rank.

        Candidates with dependent columns or more terms than rows are left out. If there are rows outside the box, so
        are those whose `extrapolation` is not "continue".

        Parameters
        ----------
        candidates : list of Candidate
            Their training ends at the least squares.
        """
        families = defaultdict(list)
        for candidate in candidates:
            if candidate.estimator.extrapolation == "continue" or not self._extrapolates:
                families[*candidate.spec.family, candidate.device].append(candidate)
        for family in families.values():
            yield from self._fits(family)

    def _fits(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, LeftOutFits, NDArray[np.bool_]]]:
        spec, data = candidates[0].spec, replace(self._data, device=candidates[0].device)
        indices = spec.indices(len(self._box), self._box.values)
        degrees = sorted({one.spec.degree for one in candidates})
        degrees = [degree for degree in degrees if indices.of_degree(degree).n_terms < data.n_rows]
        if not degrees:
            return
        alphas = np.unique([one.spec.alpha for one in candidates])
        grid = LeaveOneOutGrid(spec.with_values(degrees[-1], float(alphas[0])), degrees, alphas)
        for found in grid.bases(data.read(grid.spec.basis_for(self._box)), data):
            if found.conditioned.basis is not found.plain.basis:
                continue
            for candidate in candidates:
                if candidate.spec.degree == found.degree and candidate.spec.alpha in alphas[found.alphas]:
                    held_out = HeldOutFits.of(found.basis, float(candidate.spec.alpha), data)
                    fits = LeftOutFits(data, self._box, held_out)
                    yield candidate, fits, self._spans | fits.lowers_rank
