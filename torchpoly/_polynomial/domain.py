"""The affine map from the columns of X to the window of the basis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import SCAN_ROWS, Floats, middle_and_half, row_chunks, row_ranges
from torchpoly._polynomial.box import Box

if TYPE_CHECKING:
    from torch import Tensor

# Principal axes narrower than this share of the widest have a box of their own.
NARROW = 1e-3
# Principal axes narrower than this share of the widest are hardly more than how columns are rounded.
VERY_NARROW = 1e-7
# An axis is mainly made of the columns whose entries are at least this share of the greatest.
_MAIN_SHARE = 0.1


@dataclass(frozen=True)
class Domain:
    """The affine map from the columns of X to the window [-1, 1] of the basis.

    Column i becomes ``v_i = (x_i - center_i) / half_width_i``. Where `axes` is given, the
    variables of the basis are ``u = v @ axes - shift``: a selection of columns that vary, or
    the principal axes of columns that nearly coincide.

    Parameters
    ----------
    center, half_width : ndarray of shape (n_features,)
        Middle and half of the range of each column, in the units of X. Columns that do not vary
        have a half width of 1.
    axes : ndarray of shape (n_features, n_variables) or None
        Columns are the directions of the basis variables; None stands for the identity.
    shift : ndarray of shape (n_variables,)
        What is subtracted after the change of axes.
    widths : ndarray of shape (n_variables,) or None
        Half the range of each variable before it was scaled to [-1, 1], divided by the greatest, where
        the variables are principal axes.
    rounding : ndarray of shape (n_variables,) or None
        By how much rounding moves each variable, where these are principal axes.
    """

    center: Floats
    half_width: Floats
    axes: Floats | None
    shift: Floats
    widths: Floats | None = None
    rounding: Floats | None = None

    @classmethod
    def identity(cls, n_features: int) -> Domain:
        """Return the domain that leaves X as it is."""
        return cls(np.zeros(n_features), np.ones(n_features), None, np.zeros(n_features))

    @classmethod
    def spanning(cls, box: Box) -> Domain:
        """Map the range of each column to [-1, 1].

        Columns that do not vary by more than rounding carry no information and get no variable.
        """
        center, half_width = middle_and_half(box.low, box.high)
        varies = box.varies
        axes = None if varies.all() else np.eye(len(box))[:, varies]
        return cls(center, np.where(varies, half_width, 1.0), axes, np.zeros(np.count_nonzero(varies)))

    @property
    def n_variables(self) -> int:
        return len(self.shift)

    @property
    def columns(self) -> NDArray[np.bool_]:
        """Which columns of X have a variable, where there are no other axes than these."""
        return np.ones(len(self.center), dtype=bool) if self.axes is None else np.asarray(self.axes.any(axis=1))

    @property
    def directions(self) -> Floats:
        """The directions of the variables, of shape (n_features, n_variables)."""
        return np.eye(len(self.center)) if self.axes is None else self.axes

    def covers_like(self, other: Domain) -> bool:
        """Whether another domain of the same columns, without axes of its own, has the same windows."""
        pairs = [(self.center, other.center), (self.half_width, other.half_width), (self.columns, other.columns)]
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def scale(self, X: NDArray) -> Floats:
        """Return the basis variables of the rows of X, of shape (n_variables, n_rows)."""
        scaled = np.empty((X.shape[1], X.shape[0]))
        np.subtract(X.T, self.center[:, None], out=scaled)
        np.divide(scaled, self.half_width[:, None], out=scaled)
        if self.axes is None:
            return scaled
        return self.axes.T @ scaled - self.shift[:, None]

    def on(self, device: Any) -> Callable[[Tensor], Tensor]:
        """Return what :meth:`scale` does, for tensors on a device."""
        import torch

        vectors = self.center[:, None], self.half_width[:, None], self.shift[:, None]
        center, half_width, shift = (torch.tensor(vector, device=device) for vector in vectors)
        axes = None if self.axes is None else torch.tensor(self.axes.T, device=device)

        def scale(X: Tensor) -> Tensor:
            scaled = (X.T - center) / half_width
            return scaled if axes is None else axes @ scaled - shift

        return scale

    def scale_steps(self, steps: NDArray) -> Floats:
        """Return how far steps in X lead in the basis variables, of shape (n_variables, n_rows)."""
        scaled = steps.T / self.half_width[:, None]
        return scaled if self.axes is None else self.axes.T @ scaled

    def projected(self, X: NDArray) -> Floats:
        """Return a random linear combination of the variables, which tells rows apart, of shape (n_rows,)."""
        factors = np.random.default_rng(0).uniform(0.5, 1.0, self.n_variables)
        # A matrix product need not give equal rows equal numbers.
        return (self.scale(X) * factors[:, None]).sum(axis=0)

    def ranges(self, X: NDArray, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the least and the greatest value of each variable over the rows of X of positive weight."""
        return row_ranges(self.scale(X[rows]) for rows in row_chunks(len(X), SCAN_ROWS, weights))

    @property
    def limits(self) -> Floats | None:
        """The greatest absolute value of each variable in its box: infinite but for narrow principal axes.

        Columns that nearly coincide hide these axes: rows inside the range of each column can lie far
        outside of theirs. None stands for no narrow axes.
        """
        if self.widths is None or not (narrow := self.widths < NARROW).any():
            return None
        return np.where(narrow, 1.0 + cast(Floats, self.rounding), np.inf)

    def columns_along(self, variables: NDArray[np.intp] | NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the columns of X that some of the variables are mainly made of."""
        along = np.abs(cast(Floats, self.axes)[:, variables])
        return np.flatnonzero((along > _MAIN_SHARE * along.max(axis=0)).any(axis=1))
