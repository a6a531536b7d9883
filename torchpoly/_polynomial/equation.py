"""A polynomial in the monomials of X as an expression of Python and SymPy."""

from __future__ import annotations

import bisect
import keyword
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats

# The fewest digits of an equation that are chosen, and the digits of floats.
_FEWEST, _ALL = 3, 17


@dataclass(frozen=True)
class Rounding:
    """The errors of monomials whose coefficients are written with few digits.

    Parameters
    ----------
    coefficients : ndarray of shape (n_targets, n_monomials)
        The constant first.
    greatest : ndarray of shape (n_targets, n_monomials)
        The greatest absolute value of each monomial in the box of the data, in units of the spread of each target.
        Infinite if unknown: the errors are then 0.
    tolerances : ndarray of shape (n_targets,)
        The errors that are accepted, in the same units.
    """

    coefficients: Floats
    greatest: Floats
    tolerances: Floats

    def kept(self, precision: int) -> Floats:
        """Return the coefficients, with 0 for terms that change the target by less than ``10**-precision``."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            negligible = self.greatest * np.abs(self.coefficients) < 10.0**-precision
        # A small constant is written if there are no other terms.
        negligible[:, 0] &= ~negligible[:, 1:].all(axis=1)
        return np.where(negligible, 0.0, self.coefficients)

    def errors(self, precision: int) -> Floats:
        """Return an estimate of the greatest error of each target. The errors of terms are taken for independent."""
        kept = self.kept(precision)
        written = np.reshape([float(f"{value:.{precision}g}") for value in kept.flat], kept.shape)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            moved = self.greatest * np.maximum(np.abs(written - self.coefficients), np.spacing(np.abs(kept)))
            # Squares of values above 1e154 would overflow. At 1e99, the equation is useless anyway.
            moved = np.where(np.isfinite(self.greatest), np.minimum(moved, 1e99), 0.0)
            return np.sqrt(np.square(moved).sum(axis=1))

    def fewest_digits(self) -> int:
        """Return the fewest digits, from 3 to 17, whose errors are accepted; 17 if none are."""
        return _FEWEST + bisect.bisect_left(
            range(_FEWEST, _ALL), True, key=lambda digits: bool((self.errors(digits) <= self.tolerances).all())
        )


def write_equations(
    targets: list[str], names: NDArray[Any] | None, powers: NDArray[np.int64], coefficients: Floats, precision: int
) -> str:
    """Return one equation for each target, each on a line, without terms of coefficient 0.

    Parameters
    ----------
    targets : list of str
        Left sides.
    names : ndarray of shape (n_features,) or None
        Names of the columns; None stands for x0, x1, ...
    powers : ndarray of shape (n_terms, n_features)
        Exponents of the terms, without the constant.
    coefficients : ndarray of shape (n_targets, 1 + n_terms)
        The constant first.
    precision : int
        Number of significant digits.
    """
    identifiers = _identifiers(names, powers.shape[1], reserved=targets)
    products = ["", *(_product(identifiers, exponents) for exponents in powers)]
    lines = []
    for target, values in zip(targets, coefficients, strict=True):
        terms = [
            _signed_term(value, product, precision) for value, product in zip(values, products, strict=True) if value
        ]
        right = " ".join(terms) or "+ 0"
        # The first term has no plus, and no space after its minus.
        lines.append(f"{target} = {right[0].replace('+', '')}{right[2:]}")
    return "\n".join(lines)


def _identifiers(names: NDArray[Any] | None, n_features: int, reserved: list[str]) -> list[str]:
    """Return a valid and unique identifier for each column, none of them reserved."""
    taken = set(reserved)
    identifiers = []
    for name in [f"x{column}" for column in range(n_features)] if names is None else names:
        # Python normalizes identifiers to this form.
        identifier = unicodedata.normalize("NFKC", name)
        if not identifier.isidentifier():
            identifier = re.sub(r"\W+", "_", identifier).strip("_")
        if not identifier.isidentifier():
            identifier = f"_{identifier}"
        while identifier in taken or keyword.iskeyword(identifier):
            identifier += "_"
        taken.add(identifier)
        identifiers.append(identifier)
    return identifiers


def _product(names: list[str], exponents: NDArray[np.int64]) -> str:
    factors = [
        name if exponent == 1 else f"{name}**{exponent}"
        for name, exponent in zip(names, exponents, strict=True)
        if exponent
    ]
    return "*".join(factors)


def _signed_term(value: float, product: str, precision: int) -> str:
    """Return a term with its sign, for example ``"+ 2*x0"``."""
    number = f"{abs(value):.{precision}g}"
    sign = "-" if value < 0 else "+"
    return f"{sign} {number}*{product}" if product else f"{sign} {number}"
