"""Standard errors of the coefficients of least squares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np

from torchpoly._backend.rows import Floats
from torchpoly._gram.conditioning import MAX_CONDITION
from torchpoly._gram.coordinates import PrimalCoordinates
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.whitening import rounding_ratio
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.monomials import monomial_matrix
from torchpoly._polynomial.target_scaling import TargetScaling


@dataclass(frozen=True)
class Uncertainty:
    """The covariance ``s**2 T T' / n`` of the coefficients of a least-squares fit to n rows.

    Parameters
    ----------
    factor : ndarray of shape (n_terms, rank) or (n_terms * (n_terms + 1) / 2,)
        T, with ``T' (G + alpha P) T = I`` for the Gram matrix G, the penalty alpha and its diagonal matrix P; or the
        upper triangle of T, row by row.
    n_rows : int
        n: the number of rows of positive weight.
    effective_rank : float
        ``trace(T' G T)``: the rank without a penalty, and less with one.
    mean_squares : ndarray of shape (n_targets,)
        The weighted means of the squared residuals of the optimum, for scaled targets.
    variances : ndarray of shape (n_targets,)
        The weighted variances of the scaled targets.
    null : ndarray of shape (n_terms, n_terms - rank)
        Coefficients of polynomials that are 0 at all rows. NaN if unknown, as that of the constant may be.
    """

    factor: Floats
    n_rows: int
    effective_rank: float
    mean_squares: Floats
    variances: Floats
    null: Floats
    _of_monomials: list[Floats] = field(default_factory=list, init=False, repr=False, compare=False)

    # Larger matrices T are not kept: 2896 terms, 64 MiB.
    MAX_ELEMENTS: ClassVar[int] = 2**23

    @classmethod
    def of(cls, equations: NormalEquations, alpha: float, n_rows: int, mean_squares: Floats) -> Uncertainty | None:
        """Return the covariance for some normal equations; None if it cannot be known."""
        if not isinstance(equations.statistics.features, np.ndarray) or equations.basis.n_terms**2 > cls.MAX_ELEMENTS:
            return None
        if equations.basis.family == "power" and not equations.statistics.whitening().condition < MAX_CONDITION:
            return None  # raw powers of offset columns: the rank would be wrong
        coordinates = cast(PrimalCoordinates, equations.orthonormal_coordinates(alpha))
        matrix, statistics = coordinates.matrix, equations.statistics
        if equations.transform is not None:
            matrix = equations.transform @ matrix
        penalty = equations.basis.norm_weights @ np.square(matrix).sum(axis=1) if alpha else 0.0
        variances = statistics.target - np.square(statistics.cross[0])
        rank = float(matrix.shape[1] - alpha * penalty)
        return cls(matrix, n_rows, rank, mean_squares, variances, _null_directions(equations, matrix))

    def packed(self) -> Uncertainty:
        """Return the same with only the upper triangle of T, if T is an upper triangular matrix."""
        matrix = self.matrix
        if matrix.shape[0] != matrix.shape[1] or np.tril(matrix, -1).any():
            return self
        return replace(self, factor=matrix[np.triu_indices(len(matrix))])

    @cached_property
    def matrix(self) -> Floats:
        """T, of shape (n_terms, rank)."""
        if self.factor.ndim == 2:
            return self.factor
        n_terms = (math.isqrt(8 * len(self.factor) + 1) - 1) // 2
        matrix = np.zeros((n_terms, n_terms))
        matrix[np.triu_indices(n_terms)] = self.factor
        return matrix

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the cached arrays."""
        return {own.name: getattr(self, own.name) for own in fields(self)} | {"_of_monomials": []}

    def of_monomials(self, basis: Basis) -> Floats:
        """Return A of shape (n_monomials, rank): the covariance of the coefficients of monomials is ``s**2 A A'``.

        It is ``J T / sqrt(n)``, with the conversion J from the basis to monomials. The first row is the constant's.
        """
        if not self._of_monomials:
            self._of_monomials.append(monomial_matrix(basis, self.matrix, self.null) / np.sqrt(self.n_rows))
        return self._of_monomials[0]

    @property
    def dof(self) -> float:
        """``n - trace(T' G T)``: the residual degrees of freedom."""
        return self.n_rows - self.effective_rank

    @cached_property
    def scales(self) -> Floats:
        """``s`` of each scaled target: the square root of the sum of squares divided by the degrees of freedom."""
        return np.sqrt(self.mean_squares * (self.n_rows / self.dof))

    def residual_stds(self, targets: TargetScaling) -> Floats:
        """Return ``s`` of each target, in its own units."""
        return targets.scale * self.scales

    def explained_shares(self, coefficients: Floats, changes: Iterable[Floats]) -> tuple[list[Floats], Floats]:
        """Return what a polynomial loses of its variance over the rows if some functionals of it must be 0.

        The functionals are ``D c`` of the coefficients c, and the parameters t of ``c = T t`` are orthonormal over the
        rows, so the loss is ``t' Q Q' t`` with an orthonormal basis Q of the rows of ``D T``. Without a penalty it is
        what the residual sum of squares of a refit gains.

        Parameters
        ----------
        coefficients : ndarray of shape (n_terms, n_targets)
            c.
        changes : iterable of ndarray of shape (n_functionals, rank)
            ``D T`` of several questions.

        Returns
        -------
        losses : list of ndarray of shape (n_targets,)
            For each question.
        variances : ndarray of shape (n_targets,)
            Of the polynomials.
        """
        constant = np.zeros((len(self.matrix), 1))
        constant[0] = 1.0
        both = np.linalg.lstsq(self.matrix, np.hstack([coefficients, constant]), rcond=None)[0]
        parameters, of_constant = both[:, :-1], both[:, -1]
        varying = parameters - np.outer(of_constant, of_constant @ parameters)
        losses = []
        for change in changes:
            left, values, _ = np.linalg.svd(change.T, full_matrices=False)
            basis = left[:, values > rounding_ratio(len(self.matrix)) * values.max(initial=0.0)]
            losses.append(np.square(basis.T @ parameters).sum(axis=0))
        return losses, np.square(varying).sum(axis=0)


def _null_directions(equations: NormalEquations, matrix: Floats) -> Floats:
    """Return the coefficients of polynomials that are 0 at all rows, as columns, for T of least norm."""
    n_terms, rank = matrix.shape
    if rank == n_terms:
        return np.zeros((n_terms, 0))
    if equations.transform is None:
        return equations.statistics.whitening().null
    # They are orthogonal to P T. The constant has no weight in P, so its coefficients are not known.
    weighted = equations.basis.norm_weights[1:, None] * matrix[1:]
    left = np.linalg.svd(weighted)[0]
    return np.concatenate([np.full((1, n_terms - rank), np.nan), left[:, rank - 1 :]])
