"""Quantile regression as a linear program: the simplex method, and an upper bound of the dual gap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lstsq, qr
from scipy.optimize import lsq_linear

from torchpoly._backend.device import asarray_like, to_numpy
from torchpoly._backend.rows import Floats
from torchpoly._gram.whitening import EPSILON, Whitening
from torchpoly._train.loss_rows import LossRows

Indices = NDArray[np.intp]

# The rounding error of a residual, relative to the target and the prediction.
_RESIDUAL_ROUNDING = 32 * EPSILON
# Slopes, and changes of a residual along an edge, are rounding below these, relative to the terms in their sums.
_MIN_SLOPE, _MIN_RESIDUAL_CHANGE = 1e-13, 1e-10
# The inverse matrix is computed again after this number of updates.
_MAX_INVERSE_UPDATES = 30
# For a bound of the gap: the number of elements of the matrix, and the number of operations of all iterations.
_MAX_BOUND_ELEMENTS, _MAX_BOUND_OPERATIONS = 2**21, 2**31
# A line search sorts this number of the nearest rows first.
_N_SORTED_FIRST = 256
# The rows of the first vertex have a matrix of at most this condition number.
_MAX_VERTEX_CONDITION = 1e6
# A relative gap up to this is rounding.
_MAX_EXACT_GAP = 1e-10


class Optimum(NamedTuple):
    """The result of the simplex method.

    Parameters
    ----------
    coefficients : ndarray of shape (n_features,)
    loss : float
    gap : float
        An upper bound of the difference between the loss and its minimum.
    is_exact : bool
        Whether the gap is rounding.
    """

    coefficients: Floats
    loss: float
    gap: float
    is_exact: bool


def _smallest(values: Floats, n_values: int) -> Indices:
    """Return the indices of the smallest values, with all ties of the greatest one among them."""
    if n_values >= len(values):
        return np.arange(len(values))
    return np.flatnonzero(values <= np.partition(values, n_values - 1)[n_values - 1])


def _weighted_median(times: Floats, later: Floats, weights: Floats, needed: float) -> int | None:
    """Return the index of the first time at which the cumulated weights reach `needed`; None if they never do.

    `later` breaks ties of times. A line search seldom passes many rows, and to sort all of them would take
    most of the time of a step. So the smallest times are sorted first.
    """
    for n_first in (_N_SORTED_FIRST, len(times)):
        first = _smallest(times, n_first)
        first = first[np.lexsort((later[first], times[first]))]
        place = int(np.searchsorted(np.cumsum(weights[first]), needed))
        if place < len(first):
            return int(first[place])
    return None


class QuantileProgram:
    """``min_c sum_i w_i max(q r_i, (q - 1) r_i)`` with the residuals ``r = y - F c``.

    The dual program is ``max_s sum_i w_i s_i y_i`` over slopes s between q - 1 and q with ``F' (w s) = 0``.
    The value of each feasible s is a lower bound of the loss for all c.

    Parameters
    ----------
    rows : LossRows
        With one target.
    quantile : float
        q, between 0 and 1.
    """

    def __init__(self, rows: LossRows, quantile: float) -> None:
        self._rows = rows
        self.high, self.low = quantile, quantile - 1.0
        self.targets, self.weights = to_numpy(rows.targets)[0], to_numpy(rows.normalized_weights)
        # Features that are not orthonormal yet are whitened.
        gram = None if rows.coordinates is not None else rows.gram(rows.normalized_weights[None])[0]
        self._transform = None if gram is None else Whitening(gram).truncated
        self.rank = rows.design.n_features if self._transform is None else self._transform.shape[1]
        # The norm of orthonormal features at a row is at most 1 / sqrt(weight): the leverage is at most 1.
        self.norms = 1 / np.sqrt(self.weights) if self._transform is not None else np.sqrt(rows.design.squares())

    def loss(self, residuals: Floats) -> float:
        """Return the primal value."""
        return float(self.weights @ np.maximum(self.high * residuals, self.low * residuals))

    def gap(self, coefficients: Floats) -> float:
        """Return an upper bound of the difference between the loss at these coefficients and its minimum.

        The slopes of large residuals have the sign of the residual. The slopes of the smallest residuals are
        the bounded least squares solution of ``F' (w s) = 0``.
        """
        residuals = self._residuals(coefficients)
        signed = np.where(residuals > 0.0, self.high, self.low)
        order = np.argsort(np.abs(residuals), kind="stable")
        # The free rows need about this total weight to compensate the sum of the other slopes.
        needed = np.linalg.norm(self.rmatvec(signed))
        n_needed = int(np.searchsorted(np.cumsum(self.weights[order]), needed))
        best = self.loss(residuals)
        if self.rank == len(order):
            return best  # a polynomial through all rows has no loss
        for n_free in self.rank * np.array([1, 2, 8, 2, 2]) + n_needed * np.array([0, 0, 0, 1, 4]):
            free = order[: min(n_free, _MAX_BOUND_ELEMENTS // self.rank)]
            slopes = signed.copy()
            slopes[free] = 0.0
            products, bounds = self.columns(free) * self.weights[free], (self.low, self.high)
            max_iter = max(1, min(100, _MAX_BOUND_OPERATIONS // (self.rank**2 * len(free))))
            slopes[free] = lsq_linear(products, -self.rmatvec(slopes), bounds, method="bvls", max_iter=max_iter).x
            best = min(best, self._gap(residuals, slopes))
        return best

    def minimize(self, coefficients: Floats) -> Optimum:
        """Simplex method of Barrodale and Roberts [1]_, from the vertex nearest to these coefficients.

        In each step, the row whose slope is farthest outside of its bounds leaves the basis. The line search
        along that edge ends at a weighted median of the points where residuals change their sign. With ties,
        more residuals are 0 than there are features, and steps of length 0 could cycle. So the targets are
        perturbed symbolically, by random numbers times an infinitesimal number: then no other residual is 0,
        and each step decreases the loss.

        References
        ----------
        .. [1] I. Barrodale and F. D. K. Roberts, "An improved algorithm for discrete l1 linear
           approximation", SIAM J. Numer. Anal. 10 (1973), 839-848.
        """
        start = self._residuals(coefficients)
        vertex = _Vertex(self, start, self._nearest(start))
        for _ in range(500 + 50 * self.rank):
            if not vertex.step():
                break
        end = coefficients + self._of_features(vertex.move)
        # One step of iterative refinement makes the residuals of the basis 0.
        end = end + self._of_features(self._residuals(end)[vertex.basis] @ vertex.edges)
        residuals = self._residuals(end)
        loss, begun = self.loss(residuals), self.loss(start)
        gap = min(loss, self._gap(residuals, vertex.slopes))
        rounding = max(_MAX_EXACT_GAP * loss, float(self.weights @ vertex.noise))
        if gap > rounding and begun < loss:
            # Without convergence, the lower bound of the minimum is still valid.
            end, loss, gap = coefficients, begun, min(begun - loss + gap, self.gap(coefficients))
        return Optimum(end, loss, gap, gap <= rounding)

    def _gap(self, residuals: Floats, slopes: Floats) -> float:
        """Return the primal value minus the dual value at feasible slopes near these slopes.

        The features are orthonormal, so ``s - F F' (w s)`` satisfies ``F' (w s) = 0``. A division of all
        slopes by the largest excess over the bounds keeps that.
        """
        for _ in range(2):
            slopes = slopes - self.matvec(self.rmatvec(slopes))
        shrinking = max(1.0, float(slopes.max()) / self.high, float(slopes.min()) / self.low)
        # The differences are summed, since the difference of the sums would have cancellation.
        lost = np.maximum(self.high * residuals, self.low * residuals) - residuals * (slopes / shrinking)
        return float(self.weights @ np.maximum(lost, 0.0))

    def _nearest(self, residuals: Floats) -> Indices:
        """Return independent rows of small residuals, as many as features, by a QR decomposition with pivoting.

        Pivoting prefers columns of large norm, so the columns are divided by their residuals.
        """
        sizes = np.abs(residuals)
        n_near = min(2 * self.rank, len(sizes))
        while self.rank < len(sizes):
            near = np.argpartition(sizes, n_near - 1)[:n_near]
            columns = self.columns(near)
            columns /= np.linalg.norm(columns, axis=0)
            scales = sizes[near] + (1e-6 * sizes[near].max() or 1.0)
            chosen = qr(columns / scales, mode="r", pivoting=True)[1][: self.rank]
            if n_near == len(sizes) or np.linalg.cond(columns[:, chosen]) < _MAX_VERTEX_CONDITION:
                return near[chosen]
            n_near = min(4 * n_near, len(sizes))
        return np.arange(self.rank)

    def _residuals(self, coefficients: Floats) -> Floats:
        return self.targets - to_numpy(self._rows.design.matvec(coefficients[:, None]))[0]

    def _of_features(self, combination: Floats) -> Floats:
        """Return the coefficients of the features, from those of the orthonormal features."""
        return combination if self._transform is None else self._transform @ combination

    def matvec(self, combinations: Floats) -> Floats:
        """Return ``F @ combinations`` of the orthonormal features F, for combinations of shape (..., rank)."""
        of_features = self._of_features(combinations.reshape(-1, self.rank).T)
        return to_numpy(self._rows.design.matvec(of_features)).reshape(*combinations.shape[:-1], -1)

    def rmatvec(self, slopes: Floats) -> Floats:
        """Return ``F' (w s)`` of the orthonormal features F."""
        products = self._rows.design.rmatvec(asarray_like((self.weights * slopes)[None], self._rows.targets))[:, 0]
        return products if self._transform is None else self._transform.T @ products

    def gram(self, chosen: NDArray[np.bool_]) -> Floats:
        """Return the Gram matrix of the orthonormal features at some rows."""
        gram = self._rows.gram(asarray_like((self.weights * chosen)[None], self._rows.targets))[0]
        return gram if self._transform is None else self._transform.T @ gram @ self._transform

    def columns(self, chosen: Indices) -> Floats:
        """Return the orthonormal features at some rows, of shape (rank, n_chosen)."""
        features = to_numpy(self._rows.design.columns(chosen))
        return features.copy() if self._transform is None else self._transform.T @ features


class _Vertex:
    """A polynomial through as many rows as there are features.

    Parameters
    ----------
    program : QuantileProgram
    start : ndarray of shape (n_rows,)
        Residuals of the initial polynomial.
    basis : ndarray of shape (rank,)
        The indices of the rows with residual 0.

    Attributes
    ----------
    move : ndarray of shape (rank,)
        The coefficients minus those of the initial polynomial.
    edges : ndarray of shape (rank, rank)
        Directions. Each one changes the residual of one row of the basis by -1, and those of the others by 0.
    noise : ndarray of shape (n_rows,)
        The rounding error of each residual.
    slopes : ndarray of shape (n_rows,)
        The variables of the dual program within their bounds; feasible at the optimum.
    """

    def __init__(self, program: QuantileProgram, start: Floats, basis: Indices) -> None:
        self._program, self.basis = program, basis
        size = np.sqrt(program.weights @ np.square(program.targets - start))
        self.noise = _RESIDUAL_ROUNDING * (np.abs(program.targets) + size * program.norms)
        # The second row is the symbolic perturbation of the targets.
        self._start = np.stack([start, np.random.default_rng(0).uniform(-1.0, 1.0, len(start))])
        self._n_updates = _MAX_INVERSE_UPDATES
        self._tried: float | None = None

    def step(self) -> bool:
        """Go to a neighboring vertex of smaller loss; return whether there is one."""
        program, basis = self._program, self.basis
        if self._n_updates >= _MAX_INVERSE_UPDATES:
            self.edges, self._n_updates = np.linalg.inv(program.columns(basis)), 0
        residuals, moved, signs = self._residuals()
        if self._is_proved_by_ties(residuals):
            return False
        self.slopes = np.where(signs > 0.0, program.high, program.low) * np.abs(signs)
        # The weighted slopes of the basis follow from those of the other rows, by F' (w s) = 0.
        products = -self.edges @ program.rmatvec(self.slopes)
        weights, lengths = program.weights[basis], np.linalg.norm(self.edges, axis=1)
        self.slopes[basis] = np.clip(products / weights, program.low, program.high)
        excess = np.maximum(products - program.high * weights, program.low * weights - products)
        excess -= _MIN_SLOPE * np.sqrt(program.rank) * lengths
        leaving = int(excess.argmax())
        if excess[leaving] <= 0.0 or not residuals.any():
            return False
        changes = np.sign(products[leaving]) * program.matvec(self.edges[leaving])
        changes[np.abs(changes) <= _MIN_RESIDUAL_CHANGE * lengths[leaving] * program.norms] = 0.0
        crossing = np.flatnonzero(signs * changes < 0.0)
        speeds = np.abs(changes[crossing])
        times = np.abs(residuals[crossing]) / speeds, signs[crossing] * moved[crossing] / speeds
        place = _weighted_median(*times, program.weights[crossing] * speeds, excess[leaving])
        if place is None:
            return False  # by rounding only: the loss has a minimum along each edge
        self._exchange(leaving, crossing[place])
        return True

    def _residuals(self) -> tuple[Floats, Floats, Floats]:
        """Return the residuals, their symbolic perturbations, and their signs, which are 0 in the basis only."""
        moves = self._start[:, self.basis] @ self.edges
        self.move = moves[0]
        residuals, moved = self._start - self._program.matvec(moves)
        rounding = np.linalg.norm(self.noise[self.basis] @ np.abs(self.edges)) * self._program.norms
        residuals[np.abs(residuals) <= self.noise + rounding] = 0.0
        signs = np.sign(np.where(residuals == 0.0, moved, residuals))
        signs[self.basis] = 0.0
        return residuals, moved, signs

    def _is_proved_by_ties(self, residuals: Floats) -> bool:
        """Whether feasible slopes within the bounds prove that this vertex is optimal, for many residuals of 0.

        If the polynomial passes through many rows, the simplex method takes many steps of length 0 to find
        feasible slopes. Here the slopes of these rows are the middle of the bounds plus the least change that
        makes them feasible.
        """
        program, is_zero, loss = self._program, residuals == 0.0, self._program.loss(residuals)
        if np.count_nonzero(is_zero) <= 2 * program.rank or loss == self._tried:
            return False
        self._tried = loss
        middle = (program.high + program.low) / 2
        slopes = np.where(is_zero, middle, np.where(residuals > 0.0, program.high, program.low))
        move = lstsq(program.gram(is_zero), program.rmatvec(slopes))[0]
        slopes -= np.where(is_zero, program.matvec(move), 0.0)
        is_within = bool(slopes.max() <= program.high and slopes.min() >= program.low)
        if is_within:
            self.slopes = slopes
        return is_within

    def _exchange(self, leaving: int, entering: int) -> None:
        """Replace a row of the basis, by a rank-one update of the inverse matrix."""
        pivots = self.edges @ self._program.columns(np.array([entering]))[:, 0]
        self.edges[leaving] /= pivots[leaving]
        pivots[leaving] = 0.0
        self.edges -= np.outer(pivots, self.edges[leaving])
        self.basis[leaving] = entering
        self._n_updates += 1
