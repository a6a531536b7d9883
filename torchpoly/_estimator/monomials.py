"""Coefficients and equation of a fitted polynomial in the monomials of X."""

from __future__ import annotations

import math
import warnings
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.rows import Floats
from torchpoly._estimator.base import PolynomialBase
from torchpoly._polynomial.equation import write_equations

# No float has more digits than this.
_MAX_PRECISION = 767


class Monomials(PolynomialBase):
    """Coefficients and equation of a fitted estimator in the monomials of X."""

    @property
    def coef_(self) -> Floats:
        """One coefficient for each column of X, as those of linear models. It exists up to degree 1 only.

        Many tools take ``coef_`` for one number for each column. So at higher degrees it does not exist, and
        ``term_coef_`` has the coefficients of all terms.
        """
        check_is_fitted(self)
        if (degree := self._polynomial.basis.indices.degree) > 1:
            raise AttributeError(
                f"'coef_' exists only for polynomials of degree 0 and 1, where each column has one coefficient, and "
                f"this one has the degree {degree}. Use 'term_coef_', with the terms in 'term_names_' and 'powers_'."
            )
        if degree == 1:
            return self.term_coef_
        shape = (self.n_features_in_,) if self._single_target else (len(self._monomials()), self.n_features_in_)
        return np.zeros(shape)

    @property
    def term_coef_(self) -> Floats:
        """Coefficients of the monomials of X without the constant, in the order of ``powers_``.

        That is the order of ``PolynomialFeatures(degree, include_bias=False)``. The first access converts
        the coefficients of the basis in exact arithmetic and rounds once. Beyond the range of floats they
        are infinite or 0. Monomials evaluate a polynomial inaccurately at a high degree or far from 0, so
        ``predict`` does not use them.
        """
        coefficients = self._monomials()[:, 1:].copy()
        return coefficients[0] if self._single_target else coefficients

    @property
    def intercept_(self) -> Any:
        """Constant term of the polynomial in X."""
        intercepts = self._monomials()[:, 0].copy()
        return float(intercepts[0]) if self._single_target else intercepts

    @property
    def powers_(self) -> NDArray[np.int64]:
        """Exponent of each column of X in each of the monomials of ``term_coef_``."""
        check_is_fitted(self)
        return self._polynomial.basis.indices.of_columns(self.n_features_in_).powers[1:]

    @property
    def term_names_(self) -> NDArray[np.object_]:
        """Names of the monomials of ``term_coef_``, in the spelling of ``PolynomialFeatures``: ``"x0^2 x1"``."""
        powers = self.powers_
        names = getattr(self, "feature_names_in_", [f"x{column}" for column in range(self.n_features_in_)])
        factors = [
            [
                name if exponent == 1 else f"{name}^{exponent}"
                for name, exponent in zip(names, row, strict=True)
                if exponent
            ]
            for row in powers.tolist()
        ]
        return np.array([" ".join(of_term) for of_term in factors], dtype=object)

    def equation(self, precision: int = 6) -> str:
        """Return the polynomial as an equation in the columns of X that Python and SymPy can read.

        A term is left out if it changes y by at most ``10**-precision`` of its standard deviation
        everywhere in the range of the training data. For ``basis="monomial"``, all terms are written.

        Far from 0 or at a high degree, monomials are large and cancel each other. The equation then needs
        a greater `precision` to agree with :meth:`predict`. Sometimes no precision is enough.

        Parameters
        ----------
        precision : int, default=6
            Number of significant digits, from 1 to 767. Floats have 17.

        Returns
        -------
        str
            ``"y = ..."``, or a line for each target: ``"y0 = ..."``, ``"y1 = ..."``. Columns have their
            names in X, with ``_`` in the place of characters that Python does not allow in names. Without
            names they are ``x0``, ``x1``, ... If a name has a meaning in SymPy, as E and beta have, pass it
            to ``sympy.sympify`` in `locals`.

        Raises
        ------
        ValueError
            If `precision` is not such an integer, or if a coefficient is beyond the range of floats.

        Warns
        -----
        UserWarning
            If rounding to `precision` digits may change y by more than its standard deviation. For
            ``basis="monomial"``, this is not checked.

        Examples
        --------
        >>> import numpy as np
        >>> from torchpoly import TorchPolynomialRegressor
        >>> x = np.linspace(-np.pi, np.pi, 2000)
        >>> TorchPolynomialRegressor(degree=3).fit(x[:, None], np.sin(x)).equation(3)
        'y = 0.857*x0 - 0.0933*x0**3'
        """
        coefficients = self._monomials()
        if not np.isfinite(coefficients).all():
            raise ValueError(
                "A coefficient of the equation is beyond what floats hold, because X is too close to 0. Fit with X in "
                "another unit, or use predict, which needs no monomials."
            )
        is_integer = isinstance(precision, Integral) and not isinstance(precision, bool)
        if not (is_integer and 1 <= precision <= _MAX_PRECISION):
            raise ValueError(
                f"The 'precision' parameter got {precision!r}; it must be an int from 1 to {_MAX_PRECISION}. "
                "Floats have 17 digits."
            )
        powers = self.powers_
        greatest = self._polynomial.greatest_values(powers)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            negligible = greatest * np.abs(coefficients) < 10.0**-precision
            moved = greatest * _rounding(coefficients, int(precision))
        # A constant y has no standard deviation to compare with.
        varies = ~negligible[:, 1:].all(axis=1)
        _warn_of_rounding(np.where(np.isfinite(moved), moved, 0.0)[varies], int(precision))
        # A small constant is written if there are no other terms.
        negligible[:, 0] &= ~negligible[:, 1:].all(axis=1)
        coefficients = np.where(negligible, 0.0, coefficients)
        targets = ["y"] if self._single_target else [f"y{target}" for target in range(len(coefficients))]
        names = getattr(self, "feature_names_in_", None)
        return write_equations(targets, names, powers, coefficients, int(precision))

    def _monomials(self) -> Floats:
        check_is_fitted(self)
        return self._polynomial.monomials


def _rounding(coefficients: Floats, precision: int) -> Floats:
    """Return the rounding errors of coefficients that are written with `precision` digits and read as floats."""
    written = [float(f"{value:.{precision}g}") for value in coefficients.flat]
    return np.maximum(np.abs(np.reshape(written, coefficients.shape) - coefficients), np.spacing(np.abs(coefficients)))


def _warn_of_rounding(moved: Floats, precision: int) -> None:
    """Warn if rounding errors of the coefficients change a target by more than its standard deviation.

    Rounding errors of terms are treated as independent, so their squares are summed.

    Parameters
    ----------
    moved : ndarray of shape (n_targets, n_monomials)
        The change of the target by the rounding of each term, in standard deviations.
    precision : int
    """
    with np.errstate(under="ignore"):
        # Squares of values above 1e154 would overflow. At 1e99, the equation is useless anyway.
        together = np.sqrt(np.square(np.minimum(moved, 1e99)).sum(axis=1)).max(initial=0.0)
    if together > 1.0:
        enough = precision + 2 + math.ceil(math.log10(together))
        # Floats have about 15 digits, so a greater precision would not help.
        advice = f"Take precision={enough}" if enough <= 15 else "Use predict or module_ instead"
        warnings.warn(
            f"Rounded to {precision} significant digits, the equation may be off by about {together:.2g} times the "
            f"spread of y, as its terms are far larger than that. {advice}, or subtract from y, and from columns far "
            "from 0, a value in their middle.",
            UserWarning,
            stacklevel=3,
        )
