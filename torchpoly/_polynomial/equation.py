"""A polynomial in the monomials of X as an expression of Python and SymPy."""

from __future__ import annotations

import keyword
import re
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats


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
