"""Coefficients and equation of a fitted polynomial in the monomials of X."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from torchpoly._backend.rows import Floats
from torchpoly._estimator.base import PolynomialBase
from torchpoly._polynomial.equation import Rounding, write_equations

# No float has more digits than this.
_MAX_PRECISION = 767
# The tolerance of an equation, as a part of the spread of y and of the residuals. Residuals are never taken for smaller
# than `_MIN_RESIDUAL`: where data are exact, more digits of coefficients would be rounding errors.
_MAX_OF_SPREAD, _MAX_OF_RESIDUALS, _MIN_RESIDUAL = 1e-3, 0.1, 1e-7
# The same for a constant y, as a part of its value: that of six digits.
_MAX_OF_CONSTANT = 5e-6


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

    def equation(self, precision: int | None = None) -> str:
        """Return the polynomial as an equation in the columns of X that Python and SymPy can read.

        A term is left out if it changes y by at most ``10**-precision`` of its standard deviation
        everywhere in the range of the training data. For ``basis="monomial"``, all terms are written.

        Far from 0 or at a high degree, monomials are large and cancel each other. The equation then needs
        more digits to agree with :meth:`predict`. Sometimes no number of digits is enough.

        Parameters
        ----------
        precision : int, default=None
            Number of significant digits, from 1 to 767. Floats have 17. ``None`` means the fewest digits, from 3
            to 17, with which the equation is close to :meth:`predict`. Their difference is then estimated to be
            below a thousandth of the spread of y and below a tenth of the size of the residuals. Residuals
            below 1e-7 of the spread count as 1e-7. For ``basis="monomial"``, ``None`` means 6 digits.

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
            If rounding to these digits, and the terms that are left out, may change y by more than that. The
            warning has the estimate and the number of digits that is enough. For ``basis="monomial"``, this is
            not checked.

        Examples
        --------
        >>> import numpy as np
        >>> from torchpoly import TorchPolynomialRegressor
        >>> x = np.linspace(-np.pi, np.pi, 2000)
        >>> model = TorchPolynomialRegressor(degree=3).fit(x[:, None], np.sin(x))
        >>> model.equation()
        'y = 0.8567*x0 - 0.09333*x0**3'
        >>> model.equation(6)
        'y = 0.856741*x0 - 0.0933304*x0**3'
        """
        coefficients = self._monomials()
        if not np.isfinite(coefficients).all():
            raise ValueError(
                "A coefficient of the equation is beyond what floats hold, because X is too close to 0. Fit with X in "
                "another unit, or use predict, which needs no monomials."
            )
        is_integer = isinstance(precision, Integral) and not isinstance(precision, bool)
        if precision is not None and not (is_integer and 1 <= precision <= _MAX_PRECISION):
            raise ValueError(
                f"The 'precision' parameter got {precision!r}; it must be an int from 1 to {_MAX_PRECISION}, or None "
                "for as many digits as the fit needs. Floats have 17."
            )
        powers = self.powers_
        rounding = self._rounding(powers)
        if precision is None:
            precision = 6 if self._polynomial.basis.family == "power" else rounding.fewest_digits()
        _warn_of_rounding(rounding, int(precision))
        coefficients = rounding.kept(int(precision))
        targets = ["y"] if self._single_target else [f"y{target}" for target in range(len(coefficients))]
        names = getattr(self, "feature_names_in_", None)
        return write_equations(targets, names, powers, coefficients, int(precision))

    def _rounding(self, powers: NDArray[np.int64]) -> Rounding:
        """Return the errors of an equation; the tolerance is a thousandth of the spread or a tenth of the residuals."""
        coefficients, targets = self._monomials(), self._polynomial.targets
        greatest = self._polynomial.greatest_values(powers)
        residual = np.array([np.nan] * len(coefficients) if self._residual_size is None else self._residual_size)
        tolerances = np.minimum(_MAX_OF_SPREAD, _MAX_OF_RESIDUALS * np.maximum(residual, _MIN_RESIDUAL))
        tolerances = np.where(np.isnan(residual), _MAX_OF_SPREAD, tolerances)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            varies = (greatest * np.abs(coefficients))[:, 1:].max(axis=1, initial=0.0) > _MIN_RESIDUAL
            # A constant target has no spread. Its value takes the place of the spread.
            constant = ~varies & (residual < _MIN_RESIDUAL) & (targets.center != 0)
            spread = np.where(constant, np.abs(targets.center), targets.scale)
            tolerances[constant] = _MAX_OF_CONSTANT
            return Rounding(coefficients, greatest * (targets.scale / spread)[:, None], tolerances)

    def _monomials(self) -> Floats:
        check_is_fitted(self)
        return self._polynomial.monomials


def _warn_of_rounding(rounding: Rounding, precision: int) -> None:
    """Warn if the equation with this number of digits differs from the polynomial by more than its tolerance."""
    errors = rounding.errors(precision)
    beyond = errors > rounding.tolerances
    if not beyond.any():
        return
    worst = int(np.argmax(np.where(beyond, errors, 0.0)))
    enough = rounding.fewest_digits()
    if enough > precision and (rounding.errors(enough) <= rounding.tolerances).all():
        advice = f"Take precision={enough} or None"
    else:
        # Floats have no more digits, so a greater precision would not help.
        advice = "More digits do not help. Use predict or module_ instead"
    warnings.warn(
        f"Rounded to {precision} significant digits, the equation may be off by about {errors[worst]:.2g} times the "
        f"spread of y. That is more than a thousandth of the spread, or more than a tenth of the residuals. {advice}, "
        "or subtract from y, and from columns far from 0, a value in their middle.",
        UserWarning,
        stacklevel=3,
    )
