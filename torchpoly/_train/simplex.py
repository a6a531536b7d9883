"""Quantile regression as a linear program: the optimum to rounding, and a bound of the distance from it."""

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

# Residuals are computed to about so many units in the last place of what they are differences of.
_RESIDUAL_ROUNDING = 32 * EPSILON
# Slopes, and changes of a residual along an edge, that are rounding: relative to their terms.
_NO_SLOPE, _NO_CHANGE = 1e-13, 1e-10
# Inverses are computed anew after so many updates.
_MAX_UPDATES = 30
# Where only a bound is wanted, matrices have at most so many elements, and all iterations so many operations.
_MAX_BOUND_ELEMENTS, _MAX_WORK = 2**21, 2**31
# So many rows are sorted first, in the order in which an edge passes through them.
_N_FIRST = 256
# Rows through which a polynomial is laid are independent up to this condition number.
_MAX_VERTEX_CONDITION = 1e6
# Relative gaps up to this are rounding.
_EXACT = 1e-10


class Optimum(NamedTuple):
    """Where the simplex method ends.

    Parameters
    ----------
    coefficients : ndarray of shape (n_features,)
    loss : float
    gap : float
        By how much the loss can at most exceed the least possible.
    is_exact : bool
        Whether that is rounding.
    """

    coefficients: Floats
    loss: float
    gap: float
    is_exact: bool


def _smallest(values: Floats, n_values: int) -> Indices:
    """Return the indices of the smallest values, and of those that equal the greatest of them."""
    if n_values >= len(values):
        return np.arange(len(values))
    return np.flatnonzero(values <= np.partition(values, n_values - 1)[n_values - 1])


def _weighted_median(times: Floats, later: Floats, weights: Floats, needed: float) -> int | None:
    """Return the index of the first time up to which weights sum up to what is needed; None if all do not.

    Of equal times, the earlier one is that of the smaller `later`. A line search seldom passes many
    rows, and sorting all of them would take most of a step: so the smallest times are tried first.
    """
    for n_first in (_N_FIRST, len(times)):
        first = _smallest(times, n_first)
        first = first[np.lexsort((later[first], times[first]))]
        place = int(np.searchsorted(np.cumsum(weights[first]), needed))
        if place < len(first):
            return int(first[place])
    return None


class QuantileProgram:
    """``min_c sum_i w_i max(q r_i, (q - 1) r_i)`` of the residuals ``r = y - F c``.

    The dual program is ``max_s sum_i w_i s_i y_i`` over slopes s between q - 1 and q for which
    ``F' (w s) = 0``. Each such s bounds the loss of all c from below.

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
        # Features that training did not make orthonormal under the rows are combined to such.
        gram = None if rows.coordinates is not None else rows.gram(rows.normalized_weights[None])[0]
        self._transform = None if gram is None else Whitening(gram).truncated
        self.rank = rows.design.n_features if self._transform is None else self._transform.shape[1]
        # Orthonormal features of a row have at most the norm that its weight leaves them.
        self.norms = 1 / np.sqrt(self.weights) if self._transform is not None else np.sqrt(rows.design.squares())

    def loss(self, residuals: Floats) -> float:
        """Return the primal value."""
        return float(self.weights @ np.maximum(self.high * residuals, self.low * residuals))

    def gap(self, coefficients: Floats) -> float:
        """Return by how much the loss at these coefficients can at most exceed the least possible.

        Slopes are those of the residuals, but for the smallest ones, whose slopes are the bounded
        least squares solution of ``F' (w s) = 0``.
        """
        residuals = self._residuals(coefficients)
        signed = np.where(residuals > 0.0, self.high, self.low)
        order = np.argsort(np.abs(residuals), kind="stable")
        # Slopes can sum up to this only on rows of about as large a weight.
        needed = np.linalg.norm(self.rmatvec(signed))
        n_needed = int(np.searchsorted(np.cumsum(self.weights[order]), needed))
        best = self.loss(residuals)
        if self.rank == len(order):
            return best  # a polynomial through all rows leaves no loss
        for n_free in self.rank * np.array([1, 2, 8, 2, 2]) + n_needed * np.array([0, 0, 0, 1, 4]):
            free = order[: min(n_free, _MAX_BOUND_ELEMENTS // self.rank)]
            slopes = signed.copy()
            slopes[free] = 0.0
            products, bounds = self.columns(free) * self.weights[free], (self.low, self.high)
            max_iter = max(1, min(100, _MAX_WORK // (self.rank**2 * len(free))))
            slopes[free] = lsq_linear(products, -self.rmatvec(slopes), bounds, method="bvls", max_iter=max_iter).x
            best = min(best, self._gap(residuals, slopes))
        return best

    def minimize(self, coefficients: Floats) -> Optimum:
        """Go to the vertex nearest to these coefficients, and from vertex to vertex to the least loss.

        As Barrodale and Roberts do [1]_: leave the row whose slope lies farthest outside of its
        bounds, along the edge, to the weighted median of the points where residuals change their
        sign. Where rows tie, more residuals are 0 than there are features, and steps of length 0
        could go round in circles. Therefore all targets are moved by random numbers times an
        infinitesimal number: no residual of other rows is 0 then, and each step lowers the loss.

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
        # What rounding has left of the residuals through which the polynomial is laid.
        end = end + self._of_features(self._residuals(end)[vertex.basis] @ vertex.edges)
        residuals = self._residuals(end)
        loss, begun = self.loss(residuals), self.loss(start)
        gap = min(loss, self._gap(residuals, vertex.slopes))
        rounding = max(_EXACT * loss, float(self.weights @ vertex.noise))
        if gap > rounding and begun < loss:
            # Where the steps come to no end, the bound from below is valid all the same.
            end, loss, gap = coefficients, begun, min(begun - loss + gap, self.gap(coefficients))
        return Optimum(end, loss, gap, gap <= rounding)

    def _gap(self, residuals: Floats, slopes: Floats) -> float:
        """Return the primal value less the dual one at feasible slopes near these.

        Features are orthonormal, so ``s - F F' (w s)`` is in the null space of ``F' w``. Divided by
        what their excess over the bounds asks, slopes stay in it.
        """
        for _ in range(2):
            slopes = slopes - self.matvec(self.rmatvec(slopes))
        shrinking = max(1.0, float(slopes.max()) / self.high, float(slopes.min()) / self.low)
        # Both values are 0 at residuals of 0, and sums of differences lose fewest digits.
        lost = np.maximum(self.high * residuals, self.low * residuals) - residuals * (slopes / shrinking)
        return float(self.weights @ np.maximum(lost, 0.0))

    def _nearest(self, residuals: Floats) -> Indices:
        """Return independent rows of small residuals, as many as features.

        QR with pivoting takes them in the order of their norms; here of small residuals.
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
        """Return coefficients of the rows' features, from those of the orthonormal ones."""
        return combination if self._transform is None else self._transform @ combination

    def matvec(self, combinations: Floats) -> Floats:
        """Return values of combinations of orthonormal features, of shape (..., rank)."""
        of_features = self._of_features(combinations.reshape(-1, self.rank).T)
        return to_numpy(self._rows.design.matvec(of_features)).reshape(*combinations.shape[:-1], -1)

    def rmatvec(self, slopes: Floats) -> Floats:
        """Return ``F' (w s)`` of the orthonormal features F."""
        products = self._rows.design.rmatvec(asarray_like((self.weights * slopes)[None], self._rows.targets))[:, 0]
        return products if self._transform is None else self._transform.T @ products

    def gram(self, chosen: NDArray[np.bool_]) -> Floats:
        """Return the Gram matrix of the orthonormal features on some rows."""
        gram = self._rows.gram(asarray_like((self.weights * chosen)[None], self._rows.targets))[0]
        return gram if self._transform is None else self._transform.T @ gram @ self._transform

    def columns(self, chosen: Indices) -> Floats:
        """Return the orthonormal features of some rows, of shape (rank, n_chosen)."""
        features = to_numpy(self._rows.design.columns(chosen))
        return features.copy() if self._transform is None else self._transform.T @ features


class _Vertex:
    """A polynomial through as many rows as there are features.

    Parameters
    ----------
    program : QuantileProgram
    start : ndarray of shape (n_rows,)
        Residuals of the polynomial from which moves are counted.
    basis : ndarray of shape (rank,)
        The rows.

    Attributes
    ----------
    move : ndarray of shape (rank,)
        What the coefficients are changed by.
    edges : ndarray of shape (rank, rank)
        Moves that each change the residual of one row of the basis, by -1, and of no other.
    noise : ndarray of shape (n_rows,)
        How much of each residual may be rounding.
    slopes : ndarray of shape (n_rows,)
        Those of the dual program, within their bounds; feasible where no step lowers the loss.
    """

    def __init__(self, program: QuantileProgram, start: Floats, basis: Indices) -> None:
        self._program, self.basis = program, basis
        size = np.sqrt(program.weights @ np.square(program.targets - start))
        self.noise = _RESIDUAL_ROUNDING * (np.abs(program.targets) + size * program.norms)
        # How the infinitesimal number moves the targets.
        self._start = np.stack([start, np.random.default_rng(0).uniform(-1.0, 1.0, len(start))])
        self._n_updates = _MAX_UPDATES
        self._tried: float | None = None

    def step(self) -> bool:
        """Go to another vertex of smaller loss, and return whether there is one."""
        program, basis = self._program, self.basis
        if self._n_updates >= _MAX_UPDATES:
            self.edges, self._n_updates = np.linalg.inv(program.columns(basis)), 0
        residuals, moved, signs = self._residuals()
        if self._is_proved_by_ties(residuals):
            return False
        self.slopes = np.where(signs > 0.0, program.high, program.low) * np.abs(signs)
        # What the weighted slopes of the basis have to be for the others'.
        products = -self.edges @ program.rmatvec(self.slopes)
        weights, lengths = program.weights[basis], np.linalg.norm(self.edges, axis=1)
        self.slopes[basis] = np.clip(products / weights, program.low, program.high)
        excess = np.maximum(products - program.high * weights, program.low * weights - products)
        excess -= _NO_SLOPE * np.sqrt(program.rank) * lengths
        leaving = int(excess.argmax())
        if excess[leaving] <= 0.0 or not residuals.any():
            return False
        changes = np.sign(products[leaving]) * program.matvec(self.edges[leaving])
        changes[np.abs(changes) <= _NO_CHANGE * lengths[leaving] * program.norms] = 0.0
        crossing = np.flatnonzero(signs * changes < 0.0)
        speeds = np.abs(changes[crossing])
        times = np.abs(residuals[crossing]) / speeds, signs[crossing] * moved[crossing] / speeds
        place = _weighted_median(*times, program.weights[crossing] * speeds, excess[leaving])
        if place is None:
            return False  # rounding: along each edge the loss has a minimum
        self._exchange(leaving, crossing[place])
        return True

    def _residuals(self) -> tuple[Floats, Floats, Floats]:
        """Return the residuals, how the infinitesimal number moves them, and their signs: 0 in the basis only."""
        moves = self._start[:, self.basis] @ self.edges
        self.move = moves[0]
        residuals, moved = self._start - self._program.matvec(moves)
        rounding = np.linalg.norm(self.noise[self.basis] @ np.abs(self.edges)) * self._program.norms
        residuals[np.abs(residuals) <= self.noise + rounding] = 0.0
        signs = np.sign(np.where(residuals == 0.0, moved, residuals))
        signs[self.basis] = 0.0
        return residuals, moved, signs

    def _is_proved_by_ties(self, residuals: Floats) -> bool:
        """Try slopes in the middle of their bounds, on many rows of residual 0, moved as little as makes them feasible.

        Where a polynomial meets many rows, the simplex method takes many steps without leaving it
        to find slopes; those within the bounds may be near.
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
        """Let a row take the place of one of the basis."""
        pivots = self.edges @ self._program.columns(np.array([entering]))[:, 0]
        self.edges[leaving] /= pivots[leaving]
        pivots[leaving] = 0.0
        self.edges -= np.outer(pivots, self.edges[leaving])
        self.basis[leaving] = entering
        self._n_updates += 1
