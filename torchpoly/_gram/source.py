"""Rows that can be read more than once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torchpoly._backend.rows import Array, Floats
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain


class Source(Protocol):
    """Rows that can be read more than once: :class:`TrainingRows`, or the partitions of a Dask collection."""

    @property
    def n_rows(self) -> int:
        """Number of rows of positive weight."""

    @property
    def precision(self) -> float:
        """The machine epsilon of X."""

    def ranges(self, domain: Domain) -> tuple[Floats, Floats]:
        """Return the least and the greatest value of each variable of a domain over the rows."""

    def covariance(self, domain: Domain) -> Floats:
        """Return the covariance matrix of the variables of a domain."""

    def points(self, domain: Domain, at_most: int) -> Floats:
        """Return one number for each distinct row, or for the first ones found if there are more than `at_most`."""

    def squares_of(self, basis: Basis, transform: Floats) -> Floats:
        """Return the mean squares of the combinations ``transform.T @ features`` over the rows."""

    def shortest_halves(self) -> Floats:
        """Return about the shortest interval with half of the values of each column, of shape (2, n_features)."""

    def within(self, low: Floats, high: Floats) -> Source:
        """Return the rows inside a box."""

    def read(self, basis: Basis, transform: Floats | None = None) -> NormalEquations:
        """Return the normal equations, from one pass over the rows."""

    def total(self, basis: Basis, of_block: Callable[[Array], Floats]) -> Floats:
        """Return the sum of a function of blocks ``sqrt(w) * [F; y]`` over all rows."""
