"""The polynomial of a fitted estimator in the monomials of X: its coefficients and its equation."""

from __future__ import annotations

import math
import warnings
from numbers import Integral

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.rows import Floats
from torchpoly._estimator.base import PolynomialBase
from torchpoly._polynomial.equation import write_equations


class Monomials(PolynomialBase):
    """The polynomial of a fitted estimator in the monomials of X."""

    @property
    def coef_(self) -> Floats:
        """Coefficients of the monomials of X, but the constant, in the order of ``powers_``.

        That is the order of ``PolynomialFeatures(degree, include_bias=False)``. They are converted
        exactly from the basis at the first access, then rounded once; infinite or 0 beyond the range
        of floats. At a high degree or far from 0 monomials are a poor way to evaluate a polynomial:
        ``predict`` does not use them.
        """
        coefficients = self._monomials()[:, 1:].copy()
        return coefficients[0] if self._single_target else coefficients

    @property
    def intercept_(self) -> float | Floats:
        """Constant term of the polynomial in X."""
        intercepts = self._monomials()[:, 0].copy()
        return float(intercepts[0]) if self._single_target else intercepts

    @property
    def powers_(self) -> NDArray[np.int64]:
        """Exponent of each column of X in each of the monomials of ``coef_``."""
        check_is_fitted(self)
        return self._polynomial.basis.indices.of_columns(self.n_features_in_).powers[1:]

    def equation(self, precision: int = 6) -> str:
        """Write the polynomial in the columns of X, as Python and SymPy read it.

        Terms that nowhere in the range of the training data move y by more than
        ``10**-precision`` of its standard deviation are left out. For ``basis="monomial"`` all
        are written.

        Far from 0 or at a high degree, monomials are large and cancel: then it takes a greater
        `precision` for the equation to agree with :meth:`predict`, and there may be none that does.

        Parameters
        ----------
        precision : int, default=6
            Number of significant digits, at least 1; floats have 17.

        Returns
        -------
        str
            ``"y = ..."``, or a line for each target: ``"y0 = ..."``, ``"y1 = ..."``. Columns are
            called by their names where X had names, with ``_`` for what Python does not allow
            in one, else ``x0``, ``x1``, ... Where a name means something to SymPy, as E and beta
            do, give it to ``sympy.sympify`` among its `locals`.

        Raises
        ------
        ValueError
            If `precision` is not a positive integer.

        Warns
        -----
        UserWarning
            If rounding to `precision` digits may move y by more than its spread; for
            ``basis="monomial"`` that is not looked at.

        Examples
        --------
        >>> import numpy as np
        >>> from torchpoly import TorchPolynomialRegressor
        >>> x = np.linspace(-np.pi, np.pi, 2000)
        >>> TorchPolynomialRegressor(degree=3).fit(x[:, None], np.sin(x)).equation(3)
        'y = 0.857*x0 - 0.0933*x0**3'
        """
        coefficients = self._monomials()
        if not isinstance(precision, Integral) or isinstance(precision, bool) or precision < 1:
            raise ValueError(f"The 'precision' parameter got {precision!r}; it must be an int of at least 1.")
        powers = self.powers_
        greatest = self._polynomial.greatest_values(powers)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            negligible = greatest * np.abs(coefficients) < 10.0**-precision
            moved = greatest * _rounding(coefficients, int(precision))
        # y that does not vary has no spread to compare with.
        varies = ~negligible[:, 1:].all(axis=1)
        _warn_of_rounding(np.where(np.isfinite(moved), moved, 0.0)[varies], int(precision))
        # A constant is not left out for being small if there is nothing else.
        negligible[:, 0] &= ~negligible[:, 1:].all(axis=1)
        coefficients = np.where(negligible, 0.0, coefficients)
        targets = ["y"] if self._single_target else [f"y{target}" for target in range(len(coefficients))]
        names = getattr(self, "feature_names_in_", None)
        return write_equations(targets, names, powers, coefficients, int(precision))

    def _monomials(self) -> Floats:
        check_is_fitted(self)
        return self._polynomial.monomials


def _rounding(coefficients: Floats, precision: int) -> Floats:
    """Return by how much coefficients are off when they are written with so many digits, and read as floats."""
    written = [float(f"{value:.{precision}g}") for value in coefficients.flat]
    return np.maximum(np.abs(np.reshape(written, coefficients.shape) - coefficients), np.spacing(np.abs(coefficients)))


def _warn_of_rounding(moved: Floats, precision: int) -> None:
    """Warn where the rounding of terms, which are as good as independent, moves a target by more than its spread.

    Parameters
    ----------
    moved : ndarray of shape (n_targets, n_monomials)
        By how many spreads the rounding of each term moves the target.
    precision : int
    """
    with np.errstate(under="ignore"):
        # More than 99 digits too few is no news; its square would overflow.
        together = np.sqrt(np.square(np.minimum(moved, 1e99)).sum(axis=1)).max(initial=0.0)
    if together > 1.0:
        enough = precision + 2 + math.ceil(math.log10(together))
        # Evaluation in floats has no more than 15 digits, however many are written.
        advice = f"Take precision={enough}" if enough <= 15 else "Use predict or module_ instead"
        warnings.warn(
            f"Rounded to {precision} significant digits, the equation may be off by about {together:.2g} times the "
            f"spread of y, as its terms are far larger than that. {advice}, or subtract from y, and from columns far "
            "from 0, a value in their middle.",
            UserWarning,
            stacklevel=3,
        )
