"""Exact leave-one-out residuals of ridge regressions for many penalties, without refits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from torchpoly._backend.device import asarray_like, to_numpy
from torchpoly._backend.rows import Array, Floats, chunk_size, sum_weights
from torchpoly._gram.demmler_reinsch import DemmlerReinsch
from torchpoly._gram.reading import TrainingRows
from torchpoly._gram.source import Source
from torchpoly._gram.whitening import EPSILON

# The logarithms of ``1 - share`` in a group of rows differ by at most this much. Then the geometric series of the group
# has at most ten terms.
_GROUP_WIDTH = 0.04
# The greatest rounding error of the complement ``1 - u'u`` with which a row still counts as alone on a term.
_MAX_SPANNED = 1e-9
# Residuals are computed for this number of rows at a time, so that the arrays stay in the cache.
_BLOCK_ROWS = 2048


def held_out_residuals(
    basis: DemmlerReinsch, values: Array, residuals: Array, complements: Array, shares: Floats, alphas: Floats
) -> Array:
    """Return ``e / (1 - h)``: the residual of each row in the fit to all other rows.

    For the row i with the share w of the weights, the residual e and the leverage h are those of the
    penalty ``a = (1 - w) alpha``: the other rows have this penalty, relative to the sum of all weights. With
    the values u of a row in the Demmler-Reinsch basis and ``q = a d / (1 + a d)``, they are
    ``e = y - b'u + sum(q b u)`` and ``1 - h = 1 - u'u + sum(q u**2)``. There is no cancellation in these
    sums. Where ``u'u = 1``, the other parts are 0, and q is divided by a: so a may be 0.

    Parameters
    ----------
    basis : DemmlerReinsch
    values : ndarray or Tensor of shape (rank, n_rows)
        u, times the square roots of the shares.
    residuals : ndarray or Tensor of shape (n_targets, n_rows)
        ``y - b'u``, times the square roots of the shares.
    complements : ndarray or Tensor of shape (n_rows,)
        ``1 - u'u``.
    shares : ndarray of shape (n_rows,)
        The weight of each row, divided by the sum of all weights.
    alphas : ndarray of shape (n_alphas,)

    Returns
    -------
    ndarray or Tensor of shape (n_alphas, n_targets, n_rows)
        Times the square roots of the shares; NaN where ``1 - h`` is rounding.
    """
    squares = values * values
    spanned = to_numpy(complements) <= basis.rounding
    held_out = asarray_like(np.empty((len(alphas), *residuals.shape)), values)
    for rows, share, offsets in _groups(shares):
        penalties = (1.0 - share) * alphas
        if not spanned[rows].all():
            sums = _Sums(basis, penalties, values[:, rows], squares[:, rows], offsets)
            numerators, denominators = sums.of(sums.ratios)
            if offsets.any():
                scale = asarray_like(1.0 - offsets, values)
                numerators *= scale
                denominators *= scale
            numerators += residuals[:, rows]
            denominators += complements[rows]
            with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 for the rows that follow
                numerators /= denominators[:, None]
            held_out[:, :, rows] = numerators
        if (chosen := spanned[rows]).any():
            own = np.arange(len(shares))[rows][chosen]
            sums = _Sums(basis, penalties, values[:, own], squares[:, own], offsets[chosen])
            numerators, denominators = sums.of(sums.limits)
            denominators[denominators <= EPSILON] = math.nan
            held_out[:, :, own] = numerators / denominators[:, None]
            # Without a penalty, such a complement may as well be that of a row with a very large residual.
            unknown = own[to_numpy(complements)[own] > _MAX_SPANNED]
            held_out[np.ix_(penalties == 0, np.ones(held_out.shape[1], dtype=bool), unknown)] = math.nan
    return held_out


class _Sums:
    """Sums over the basis with penalties ``a (1 - offset)`` that differ by row, by a geometric series.

    ``a (1 - z) d / (1 + a (1 - z) d) = (1 - z) sum_j z**j q**(j + 1)`` with ``q = a d / (1 + a d)``.
    """

    def __init__(
        self, basis: DemmlerReinsch, penalties: Floats, values: Array, squares: Array, offsets: Floats
    ) -> None:
        with np.errstate(divide="ignore"):  # 1 / d is infinite for the constant
            self.limits = 1.0 / (penalties[:, None] + 1.0 / basis.penalties)
        self.ratios = penalties[:, None] * self.limits
        greatest_limits = self.limits.max(axis=1, keepdims=True)
        self.limits /= np.where(greatest_limits > 0, greatest_limits, 1.0)
        self._basis, self._values, self._squares = basis, values, squares
        greatest = float(np.abs(offsets).max())
        self._n_terms = 1 if greatest == 0 else math.ceil(math.log(EPSILON / 8) / math.log(greatest))
        self._powers = asarray_like(offsets ** np.arange(self._n_terms)[:, None], values)

    def of(self, factors: Floats) -> tuple[Any, Any]:
        """Return ``sum_k f_k b_k u_k`` of shape (n_alphas, n_targets, n_rows), and ``sum_k f_k u_k**2`` likewise."""
        b = self._basis.products.T
        numerators: Any = 0.0
        denominators: Any = 0.0
        for power in range(self._n_terms):
            scaled = factors * self.ratios**power
            for_targets = asarray_like((scaled[:, None] * b).reshape(-1, b.shape[1]), self._values)
            more = (for_targets @ self._values).reshape(len(factors), len(b), -1)
            more_squares = asarray_like(scaled, self._values) @ self._squares
            if self._n_terms == 1:
                return more, more_squares
            numerators = numerators + self._powers[power] * more
            denominators = denominators + self._powers[power] * more_squares
        return numerators, denominators


def _groups(shares: Floats) -> Iterator[tuple[Any, float, Floats]]:
    """Yield groups of rows of similar shares s: the rows, a share, and z with ``1 - s = (1 - share) (1 - z)``."""
    if shares.min() == shares.max():
        yield slice(None), float(shares[0]), np.zeros(len(shares))
        return
    shares = np.minimum(shares, 1.0 - EPSILON)
    keys = np.floor(-np.log1p(-shares) / _GROUP_WIDTH)
    distinct = np.unique(keys)
    for key in distinct:
        rows = slice(None) if len(distinct) == 1 else np.flatnonzero(keys == key)
        own = shares[rows]
        middle = float(own.min() / 2 + own.max() / 2)
        yield rows, middle, (own - middle) / (1.0 - middle)


@dataclass(frozen=True)
class LeaveOneOutPass:
    """The mean squared leave-one-out errors, as a sum over blocks of rows.

    Parameters
    ----------
    bases : list of DemmlerReinsch
        Their terms are the first terms of the blocks.
    alphas : list of ndarray
        The penalties for each of the bases.
    total_weight : float
    """

    bases: Sequence[DemmlerReinsch]
    alphas: Sequence[Floats]
    total_weight: float

    def __call__(self, block: Array) -> Floats:
        """Return the sums of squares over a block ``sqrt(w) * [F; y]``, of shape (n_errors, n_targets)."""
        sums: Any = 0.0
        for start in range(0, block.shape[1], _BLOCK_ROWS):
            sums = sums + self._sums(block[:, start : start + _BLOCK_ROWS])
        return sums

    def _sums(self, block: Array) -> Floats:
        found = []
        for basis, alphas in zip(self.bases, self.alphas, strict=True):
            held_out = _held_out_of_block(basis, block, self.total_weight, alphas)
            found.append(to_numpy((held_out * held_out).sum(2)))
        return np.concatenate(found)


def _held_out_of_block(basis: DemmlerReinsch, block: Array, total_weight: float, alphas: Floats) -> Array:
    """Return the residuals of :func:`held_out_residuals` for a block ``sqrt(w) * [F; y]``."""
    root, n_targets = math.sqrt(total_weight), basis.products.shape[1]
    matrix = asarray_like(np.ascontiguousarray(basis.matrix.T) / root, block)
    values = matrix @ block[: matrix.shape[1]]
    products = asarray_like(np.ascontiguousarray(basis.products.T), block)
    residuals = block[-n_targets:] / root - products @ values
    complements = 1.0 - (values * values).sum(0)
    return held_out_residuals(basis, values, residuals, complements, to_numpy(block[0] / root) ** 2, alphas)


def held_out_at_all_rows(basis: DemmlerReinsch, alphas: Floats, data: TrainingRows) -> Floats:
    """Return the residuals of :func:`held_out_residuals` for all rows of positive weight.

    Parameters
    ----------
    basis : DemmlerReinsch
    alphas : ndarray of shape (n_alphas,)
    data : TrainingRows
        The rows of the basis.

    Returns
    -------
    ndarray of shape (n_alphas, n_targets, n_rows)
        Times the square roots of the shares; NaN where ``1 - h`` is rounding.
    """
    if basis.at_rows is not None:
        return held_out_at_rows(basis, alphas)
    total_weight = sum_weights(data.X, data.weights)
    size = min(_BLOCK_ROWS, chunk_size(basis.basis.n_terms + data.Y.shape[1]))
    blocks = data.blocks(basis.basis, size)
    return np.concatenate(
        [to_numpy(_held_out_of_block(basis, block, total_weight, alphas)) for block in blocks], axis=2
    )


def held_out_at_rows(basis: DemmlerReinsch, alphas: Floats) -> Floats:
    """Return the residuals of :func:`held_out_residuals` for rows in memory."""
    arrays = basis.at_rows, basis.residuals_at_rows, basis.complements
    values, residuals, complements = cast(tuple[Floats, Floats, Floats], arrays)
    shares, blocks = basis.shares, []
    for start in range(0, len(shares), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        blocks.append(
            held_out_residuals(basis, values[:, rows], residuals[:, rows], complements[rows], shares[rows], alphas)
        )
    return np.concatenate(blocks, axis=2)


def mean_squared_errors(
    bases: Sequence[DemmlerReinsch], alphas: Sequence[Floats], source: Source, total_weight: float
) -> list[Floats]:
    """Return the mean squared leave-one-out errors of some bases, each of shape (n_alphas, n_targets)."""
    errors: dict[int, Floats] = {}
    groups: dict[int, list[int]] = defaultdict(list)
    for index, (basis, own) in enumerate(zip(bases, alphas, strict=True)):
        if basis.at_rows is None:
            groups[id(basis.basis.domain)].append(index)
        else:
            errors[index] = np.square(held_out_at_rows(basis, own)).sum(axis=2)
    for indices in groups.values():
        largest = max((bases[index].basis for index in indices), key=lambda basis: basis.n_terms)
        one_pass = LeaveOneOutPass([bases[i] for i in indices], [alphas[i] for i in indices], total_weight)
        sums = np.split(source.total(largest, one_pass), np.cumsum([len(alphas[i]) for i in indices])[:-1])
        errors |= dict(zip(indices, sums, strict=True))
    return [errors[index] for index in range(len(bases))]
