"""Ridge regressions to all rows but one, for each of the rows, without refits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import to_numpy
from torchpoly._backend.rows import Floats, vector_chunk_size
from torchpoly._gram.coordinates import PrimalCoordinates
from torchpoly._gram.demmler_reinsch import DemmlerReinsch
from torchpoly._gram.design_matrix import DesignMatrix
from torchpoly._gram.leave_one_out import held_out_at_all_rows
from torchpoly._gram.reading import TrainingRows

# The values at the rows are kept up to this size, 256 MiB. Larger ones are evaluated block by block in each use.
_MAX_KEPT_ELEMENTS = 2**25


@dataclass(frozen=True)
class HeldOutFits:
    """For each row i, the ridge regression to all other rows: ``A ((b - w_i r_i u_i) / (1 + (1 - w_i) alpha d))``.

    The Demmler-Reinsch basis defines A, b and d. The row has the values u_i in this basis, the share w_i of
    the weights, and the residual r_i in the fit to all other rows.

    Parameters
    ----------
    basis : DemmlerReinsch
    alpha : float
        The penalty of the fit to all rows.
    values : DesignMatrix
        u, of shape (rank, n_rows).
    shares : ndarray of shape (n_rows,)
        w: the weight of each row, divided by the sum of all weights.
    residuals : ndarray of shape (n_targets, n_rows)
        r, for scaled targets; NaN where the other rows do not determine the fit up to rounding.
    """

    basis: DemmlerReinsch
    alpha: float
    values: DesignMatrix
    shares: Floats
    residuals: Floats

    @classmethod
    def of(cls, basis: DemmlerReinsch, alpha: float, data: TrainingRows) -> HeldOutFits:
        """Return the fits for the rows of positive weight.

        Parameters
        ----------
        basis : DemmlerReinsch
            That of the rows.
        alpha : float
        data : TrainingRows
        """
        data = data.of_positive_weight()
        shares = data.shares
        residuals = held_out_at_all_rows(basis, np.array([alpha]), data)[0] / np.sqrt(shares)
        return cls(basis, alpha, _values_at_rows(basis, data, shares), shares, residuals)

    @property
    def lowers_rank(self) -> NDArray[np.bool_]:
        """Whether the terms have a lower rank at the other rows, for each row."""
        complements = self.basis.complements
        if complements is None:
            complements = 1.0 - self.shares * self.values.squares()
        return complements <= self.basis.rounding

    def coefficients(self, position: int) -> Floats:
        """Return the coefficients of the fit to all rows but one, of shape (n_terms, n_targets), for scaled targets."""
        values = to_numpy(self.values.columns(np.array([position])))
        products = self.basis.products - self.shares[position] * values * self.residuals[:, position]
        shrinkage = 1.0 + (1.0 - self.shares[position]) * self.alpha * self.basis.penalties
        return self.basis.coordinates @ (products / shrinkage[:, None])

    def predictions(self, values: Floats) -> Floats:
        """Return the predictions of all fits at some points, for scaled targets.

        Parameters
        ----------
        values : ndarray of shape (n_points, rank)
            The values of the basis at the points.

        Returns
        -------
        ndarray of shape (n_targets, n_points, n_rows)
        """
        steps, b = self.shares * np.nan_to_num(self.residuals), self.basis.products
        found = np.empty((len(steps), len(values), len(self.shares)))
        for rows, block in self.values.iter_blocks(vector_chunk_size(len(b))):
            shrinkage = 1.0 + np.outer(self.alpha * self.basis.penalties, 1.0 - self.shares[rows])
            for target, of_rows in enumerate(steps[:, rows]):
                found[target][:, rows] = values @ ((b[:, target, None] - of_rows * to_numpy(block)) / shrinkage)
        return found


def _values_at_rows(basis: DemmlerReinsch, data: TrainingRows, shares: Floats) -> DesignMatrix:
    """Return the values of a basis at the rows, in memory if they fit."""
    if basis.at_rows is not None:
        return DesignMatrix(basis.basis, data.X, kept=basis.at_rows / np.sqrt(shares))
    assert isinstance(basis.coordinates, PrimalCoordinates)
    values = DesignMatrix(basis.basis, data.X, transform=basis.matrix)
    return values.keep() if values.n_features * len(values) <= _MAX_KEPT_ELEMENTS else values
