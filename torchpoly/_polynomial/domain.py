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

# A principal axis is narrow, and predictions check its box, below this ratio of its width to the widest.
NARROW = 1e-3
# Below this ratio, the width of a principal axis is little more than the rounding of the columns.
VERY_NARROW = 1e-7
# Messages name the columns whose entries in an axis are at least this fraction of the largest entry.
_MIN_NAMED_ENTRY = 0.1


@dataclass(frozen=True)
class Domain:
    """The affine map from the columns of X to the window [-1, 1] of the basis.

    Column i becomes ``v_i = (x_i - center_i) / half_width_i``. With `axes`, the variables of the
    basis are ``u = v @ axes - shift``: the columns that vary, or the principal axes of columns that
    nearly coincide.

    Parameters
    ----------
    center, half_width : ndarray of shape (n_features,)
        Middle and half of the range of each column, in the units of X. Columns that do not vary
        have a half width of 1.
    axes : ndarray of shape (n_features, n_variables) or None
        Columns are the directions of the basis variables; None stands for the identity.
    shift : ndarray of shape (n_variables,)
        The constant that is subtracted after the change of axes.
    widths : ndarray of shape (n_variables,) or None
        For principal axes: half the range of each variable before it was scaled to [-1, 1], divided by
        the greatest one.
    rounding : ndarray of shape (n_variables,) or None
        For principal axes: the rounding error of each variable.
    """

    center: Floats
    half_width: Floats
    axes: Floats | None
    shift: Floats
    widths: Floats | None = None
    rounding: Floats | None = None

    @classmethod
    def identity(cls, n_features: int) -> Domain:
        """Return the domain of the identity map."""
        return cls(np.zeros(n_features), np.ones(n_features), None, np.zeros(n_features))

    @classmethod
    def spanning(cls, box: Box) -> Domain:
        """Return the domain that maps the range of each column to [-1, 1].

        Columns that vary by rounding only have no variable.
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
        """Whether each column of X has a variable, for a domain without principal axes."""
        return np.ones(len(self.center), dtype=bool) if self.axes is None else np.asarray(self.axes.any(axis=1))

    @property
    def directions(self) -> Floats:
        """The directions of the variables, of shape (n_features, n_variables)."""
        return np.eye(len(self.center)) if self.axes is None else self.axes

    def is_same_map(self, other: Domain) -> bool:
        """Whether two domains without principal axes are the same map of the same columns."""
        pairs = [(self.center, other.center), (self.half_width, other.half_width), (self.columns, other.columns)]
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    def scale(self, X: NDArray[Any]) -> Floats:
        """Return the basis variables of the rows of X, of shape (n_variables, n_rows)."""
        scaled = np.empty((X.shape[1], X.shape[0]))
        np.subtract(X.T, self.center[:, None], out=scaled)
        np.divide(scaled, self.half_width[:, None], out=scaled)
        if self.axes is None:
            return scaled
        return self.axes.T @ scaled - self.shift[:, None]

    def on(self, device: Any) -> Callable[[Tensor], Tensor]:
        """Return :meth:`scale` as a function of tensors on a device."""
        import torch

        vectors = self.center[:, None], self.half_width[:, None], self.shift[:, None]
        center, half_width, shift = (torch.tensor(vector, device=device) for vector in vectors)
        axes = None if self.axes is None else torch.tensor(self.axes.T, device=device)

        def scale(X: Tensor) -> Tensor:
            scaled = (X.T - center) / half_width
            return scaled if axes is None else axes @ scaled - shift

        return scale

    def scale_steps(self, steps: NDArray[Any]) -> Floats:
        """Return ``axes.T @ (steps / half_width)``: differences of rows of X in the variables of the basis."""
        scaled = steps.T / self.half_width[:, None]
        return scaled if self.axes is None else self.axes.T @ scaled

    def projected(self, X: NDArray[Any]) -> Floats:
        """Return a random linear combination of the variables, of shape (n_rows,): it differs for different rows."""
        factors = np.random.default_rng(0).uniform(0.5, 1.0, self.n_variables)
        # A matrix product may round equal rows differently.
        return (self.scale(X) * factors[:, None]).sum(axis=0)

    def ranges(self, X: NDArray[Any], weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Return the least and the greatest value of each variable over the rows of X of positive weight."""
        return row_ranges(self.scale(X[rows]) for rows in row_chunks(len(X), SCAN_ROWS, weights))

    @property
    def limits(self) -> Floats | None:
        """The greatest absolute value of each narrow principal axis, and infinity for the other variables.

        A row can be inside the range of each column, and far outside the range of a narrow axis. None
        stands for no narrow axis.
        """
        if self.widths is None or not (narrow := self.widths < NARROW).any():
            return None
        return np.where(narrow, 1.0 + cast(Floats, self.rounding), np.inf)

    def columns_along(self, variables: NDArray[np.intp] | NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the columns of X that have a large entry in one of these principal axes."""
        along = np.abs(cast(Floats, self.axes)[:, variables])
        return np.flatnonzero((along > _MIN_NAMED_ENTRY * along.max(axis=0)).any(axis=1))
