"""The fitted polynomial, as NumPy arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.device import Device, halving_on_out_of_memory, to_device, to_numpy
from torchpoly._backend.rows import SCAN_ROWS, Array, Floats, accelerator_chunk_size, row_chunks, vector_chunk_size
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.blocks import evaluate_blocks
from torchpoly._polynomial.monomials import to_monomials
from torchpoly._polynomial.target_scaling import TargetScaling

# The predictions outside the box of the training data.
Extrapolation: TypeAlias = Literal["continue", "constant", "linear", "error"]
# Predictions warn of rows that are further outside the box of a narrow axis, in half-widths of the box.
_MAX_UNWARNED_DISTANCE = 3.0


@dataclass(frozen=True)
class FittedPolynomial:
    """A polynomial in a basis, with the scaling of its targets.

    Parameters
    ----------
    basis : Basis
        The features.
    coefficients : ndarray of shape (n_terms, n_targets)
        Coefficients of the basis.
    targets : TargetScaling
        Target j is ``targets.center[j] + targets.scale[j] * coefficients[:, j] @ features``.
    low, high : ndarray of shape (n_features,)
        The box of the training data: least and greatest value of each column of X.
    """

    basis: Basis
    coefficients: Floats
    targets: TargetScaling
    low: Floats
    high: Floats

    def with_coefficients(self, coefficients: Floats) -> FittedPolynomial:
        """Return the polynomials with these coefficients of shape (n_terms, n_polynomials), without a scaling."""
        return replace(self, coefficients=coefficients, targets=TargetScaling.identity(coefficients.shape[1]))

    def predict(
        self,
        X: NDArray[Any],
        device: Device,
        extrapolation: Extrapolation = "continue",
        names: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return the values at the rows of X, of shape (n_samples, n_targets), in the dtype of X.

        Errors and warnings contain the names of the columns, if there are names.
        """
        self.check(X, extrapolation, names, stacklevel=3)
        return self.evaluate(X, device, extrapolation)

    def check(self, X: NDArray[Any], extrapolation: Extrapolation, names: NDArray[Any] | None, stacklevel: int) -> None:
        """Raise for rows where `extrapolation` forbids predictions, or warn of rows where they may be far off.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        extrapolation : {"continue", "constant", "linear", "error"}
        names : ndarray of shape (n_features,) or None
            Names of the columns.
        stacklevel : int
            Number of stack frames from this function to the line of the user.
        """
        if extrapolation == "error":
            self._check_inside(X, names)
        if extrapolation in ("error", "continue") and self.basis.domain.limits is not None:
            self._check_narrow_axes(X, names, refuse=extrapolation == "error", stacklevel=1 + stacklevel)

    def evaluate(self, X: NDArray[Any], device: Device, extrapolation: Extrapolation) -> NDArray[Any]:
        """Return what :meth:`predict` returns, without its errors and warnings."""
        n_terms = self.basis.n_terms
        size = vector_chunk_size(n_terms) if device is None else accelerator_chunk_size(n_terms)
        return halving_on_out_of_memory(
            device, min(size, len(X)), lambda size: self._evaluate(X, device, extrapolation, size)
        )

    def _evaluate(self, X: NDArray[Any], device: Device, extrapolation: Extrapolation, size: int) -> NDArray[Any]:
        predictions = np.empty((len(X), self.coefficients.shape[1]), dtype=X.dtype)
        coefficients = to_device(self.coefficients, device)
        limits = None if extrapolation == "continue" else self.basis.domain.limits

        def inside(rows: Any) -> NDArray[Any]:
            return X[rows] if extrapolation == "continue" else np.clip(X[rows], self.low, self.high)

        blocks = ((rows, inside(rows)) for rows in row_chunks(len(X), size))
        # Far from the training data, predictions may overflow to infinity.
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for rows, features in evaluate_blocks(self.basis, blocks, size, device, limits=limits):
                values = to_numpy(coefficients.T @ features)
                if extrapolation == "linear":
                    self._add_slopes(values, features, X[rows] - inside(rows), device)
                # Infinite terms that cancel, but not rows with NaN, which scikit-learn's `assume_finite` lets pass.
                undefined = np.isnan(values).any(axis=0) & ~np.isnan(X[rows]).any(axis=1)
                if undefined.any():
                    values[:, undefined] = self._beyond_floats(inside(rows)[undefined], limits, values[:, undefined])
                predictions[rows] = values.T * self.targets.scale + self.targets.center
        return predictions

    def _add_slopes(self, values: Floats, features: Array, moves: NDArray[Any], device: Device) -> None:
        """Add ``gradient . move`` to the values: linear extrapolation from the nearest points of the box.

        Parameters
        ----------
        values : ndarray of shape (n_targets, n_rows)
            The values at the nearest points of the box. They are changed in place.
        features : ndarray or Tensor of shape (n_terms, n_rows)
            At the nearest points of the box.
        moves : ndarray of shape (n_rows, n_features)
            The rows of X minus the nearest points of the box.
        device : torch.device or None
        """
        outside = np.flatnonzero(moves.any(axis=1))
        steps = self.basis.domain.scale_steps(moves[outside])
        if (limits := self.basis.domain.limits) is not None:
            # Along a narrow axis, the rounding of nearly equal columns would dominate the slope.
            steps[np.isfinite(limits)] = 0.0
        slopes = to_device(self.slopes, device) @ features[:, outside]
        values[:, outside] += (to_numpy(slopes) * steps[:, None]).sum(axis=0)

    def _beyond_floats(self, X: NDArray[Any], limits: Floats | None, values: Floats) -> Floats:
        """Return infinities of the correct sign for values in which infinite terms cancel to NaN.

        Here the sum of the terms of the highest degree decides, or of a lower degree if that sum is 0.
        """
        variables = np.nan_to_num(self.basis.domain.scale(X))
        if limits is not None:
            np.clip(variables, -limits[:, None], limits[:, None], out=variables)
        directions = variables / np.maximum(np.abs(variables).max(axis=0), 1.0)
        powers = self.basis.indices.powers
        leading = 2.0 ** np.maximum(powers - 1, 0).sum(axis=1) if self.basis.family == "chebyshev" else 1.0
        weights = (self.coefficients.T * leading) / np.abs(self.coefficients).max()
        signs = np.zeros_like(values)
        for degree in range(int(self.basis.indices.degrees.max()), 0, -1):
            of_degree = powers.sum(axis=1) == degree
            terms = np.prod(directions.T[:, None] ** powers[of_degree], axis=2)
            signs = np.where(signs == 0, np.sign(weights[:, of_degree] @ terms.T), signs)
        return np.where(np.isnan(values), np.where(signs == 0, 0.0, signs * np.inf), values)

    def _check_inside(self, X: NDArray[Any], names: NDArray[Any] | None) -> None:
        outside = (self.low > X) | (self.high < X)
        if outside.any():
            columns = np.flatnonzero(outside.any(axis=0))
            row = int(outside.any(axis=1).argmax())
            column = int(outside[row].argmax())
            called = columns if names is None else names[columns]
            raise ValueError(
                f"X has values outside the range of the training data in columns {called.tolist()}, first in row "
                f"{row}: {X[row, column]:.6g} where training had {self.low[column]:.6g} to {self.high[column]:.6g}, "
                "and the 'extrapolation' parameter got 'error'. Allow them by 'constant', 'linear' or 'continue'."
            )

    def _check_narrow_axes(self, X: NDArray[Any], names: NDArray[Any] | None, *, refuse: bool, stacklevel: int) -> None:
        """Raise for rows outside the box of a narrow axis, or warn if they are far outside.

        Only rows inside the range of each column are counted.
        """
        domain = self.basis.domain
        limits = cast(Floats, domain.limits)[:, None]
        n_rows, axes = 0, np.zeros(len(limits), dtype=bool)
        for rows in row_chunks(len(X), SCAN_ROWS):
            inside = ((X[rows] >= self.low) & (X[rows] <= self.high)).all(axis=1)
            beyond = np.abs(domain.scale(X[rows])) > (limits if refuse else limits + _MAX_UNWARNED_DISTANCE)
            beyond &= inside
            n_rows += int(np.count_nonzero(beyond.any(axis=0)))
            axes |= beyond.any(axis=1)
        if not n_rows:
            return
        columns = domain.columns_along(axes)
        called = (columns if names is None else names[columns]).tolist()
        where = (
            f"{n_rows} rows of X lie inside the range of each column, but {'' if refuse else 'far '}outside the "
            f"training data in how the columns {called} differ, which nearly coincide there"
        )
        if refuse:
            raise ValueError(
                f"{where}, and the 'extrapolation' parameter got 'error'. Allow them by 'constant', 'linear' or "
                "'continue'."
            )
        warnings.warn(
            f"{where}. Predictions may be far off: were these columns rounded otherwise in training? Set "
            "extrapolation='constant', or fit without all but one of these columns.",
            UserWarning,
            stacklevel=1 + stacklevel,
        )

    @cached_property
    def slopes(self) -> Floats:
        """Coefficients of the derivative by each variable of the basis, of shape (n_variables, n_targets, n_terms)."""
        variables = range(self.basis.domain.n_variables)
        derivatives = [self.basis.differentiate(self.coefficients, variable).T for variable in variables]
        return np.array(derivatives).reshape(-1, *self.coefficients.T.shape)

    @cached_property
    def monomials(self) -> Floats:
        """The coefficients of the monomials of X, of shape (n_targets, n_monomials)."""
        columns = zip(self.coefficients.T, self.targets.scale, self.targets.center, strict=True)
        return np.array([to_monomials(self.basis, column, scale, offset) for column, scale, offset in columns])

    def greatest_values(self, powers: NDArray[np.int64]) -> Floats:
        """Return the greatest absolute value of each monomial in the box, in units of the scale of each target.

        Parameters
        ----------
        powers : ndarray of shape (n_monomials - 1, n_features)
            Exponents of the monomials, without the constant.

        Returns
        -------
        ndarray of shape (n_targets, n_monomials)
            Infinite for raw powers: their domain is not the range of the training data.
        """
        domain = self.basis.domain
        if self.basis.family == "power":
            return np.full((len(self.targets.center), 1 + len(powers)), np.inf)
        with np.errstate(over="ignore", under="ignore"):
            greatest = np.prod((np.abs(domain.center) + domain.half_width) ** powers, axis=1)
            return np.r_[1.0, greatest] / self.targets.scale[:, None]


@dataclass(frozen=True)
class PolynomialFamily:
    """Several polynomials in one basis, for the same targets.

    Parameters
    ----------
    basis : Basis
    coefficients : ndarray of shape (n_terms, n_polynomials, n_targets)
    targets : TargetScaling
    device : torch.device or None
        Where features are computed.
    """

    basis: Basis
    coefficients: Floats
    targets: TargetScaling
    device: Device

    def predict(self, X: NDArray[Any], chosen: NDArray[np.intp]) -> NDArray[Any]:
        """Return the values of some of the polynomials in one product, of shape (n_chosen, n_samples, n_targets)."""
        n_targets = self.coefficients.shape[2]
        coefficients = self.coefficients[:, chosen].reshape(len(self.coefficients), -1)
        anywhere = np.full((2, X.shape[1]), np.nan)
        together = FittedPolynomial(self.basis, coefficients, self.targets.repeated(len(chosen)), *anywhere)
        return np.moveaxis(together.predict(X, self.device).reshape(len(X), len(chosen), n_targets), 1, 0)
