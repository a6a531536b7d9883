"""Exact conversion from the basis to monomials of the original columns.

The monomial coefficients of a polynomial are sums of large terms that cancel; in floating point
the conversion loses the digits that the basis has saved. Here it runs in rational arithmetic, in
which floats are exact, and each coefficient is rounded once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations, combinations_with_replacement

import numpy as np

from torchpoly._basis import Basis
from torchpoly._domain import Domain, Floats

# A monomial is the sorted tuple of its factors: x0**2 * x3 is (0, 0, 3), the constant is ().
Monomial = tuple[int, ...]
Polynomial = dict[Monomial, Fraction]
# a and b of the recurrence T_k = a u T_(k-1) + b T_(k-2), with T_0 = 1 and T_1 = u.
_RECURRENCES = {"chebyshev": (2, -1), "power": (1, 0)}
_ONE: Polynomial = {(): Fraction(1)}


def graded_monomials(n_features: int, degree: int, interaction_only: bool = False) -> Iterable[Monomial]:
    """Yield the monomials of total degree at most `degree`, as PolynomialFeatures orders them."""
    choose = combinations if interaction_only else combinations_with_replacement
    for total in range(degree + 1):
        yield from choose(range(n_features), total)


def to_monomials(basis: Basis, coefficients: Floats, scale: float, offset: float) -> Floats:
    """Return the monomial coefficients of ``offset + scale * (coefficients @ features)``.

    Parameters
    ----------
    basis : Basis
        The features.
    coefficients : ndarray of shape (n_terms,)
        One for each term of the basis.
    scale, offset : float
        Units and origin of y.

    Returns
    -------
    ndarray
        One coefficient for each of :func:`graded_monomials`, of all columns of X, correctly
        rounded; infinite or 0 where it lies beyond the range of floats.
    """
    polynomial = _expand(_terms(basis, coefficients), _linear_forms(basis.domain), _RECURRENCES[basis.family])
    values = {monomial: value * Fraction(scale) for monomial, value in polynomial.items()}
    values[()] = values.get((), Fraction(0)) + Fraction(offset)
    return _in_order(values, basis)


def _terms(basis: Basis, coefficients: Floats) -> Polynomial:
    if basis.caps is None:
        terms = graded_monomials(basis.domain.n_variables, basis.degree, basis.interaction_only)
    else:
        terms = (tuple(np.repeat(np.arange(len(exponents)), exponents).tolist()) for exponents in basis.powers)
    return {term: Fraction(float(value)) for term, value in zip(terms, coefficients, strict=True)}


def _in_order(values: Polynomial, basis: Basis) -> Floats:
    monomials = graded_monomials(len(basis.domain.center), basis.degree, basis.interaction_only)
    return np.array([_rounded(values.get(monomial, Fraction(0))) for monomial in monomials])


def _linear_forms(domain: Domain) -> list[Polynomial]:
    """Return each variable of the basis as a polynomial of degree 1 in the columns of X."""
    axes = np.eye(domain.n_variables) if domain.axes is None else domain.axes
    forms = []
    for direction, shift in zip(axes.T, domain.shift, strict=True):
        form: Polynomial = {(): Fraction(-shift)}
        for column in np.flatnonzero(direction):
            slope = Fraction(direction[column]) / Fraction(domain.half_width[column])
            form[(int(column),)] = slope
            form[()] -= slope * Fraction(domain.center[column])
        forms.append(form)
    return forms


def _expand(terms: Polynomial, forms: list[Polynomial], recurrence: tuple[int, int]) -> Polynomial:
    """Write products of univariate polynomials in the forms as monomials of the columns.

    Terms are grouped by their first variable u and its exponent k: sum of T_k(u) P_k, where P_k,
    in later variables, is expanded first. With T_k = a u T_(k-1) + b T_(k-2), the sum follows
    Clenshaw's algorithm (Horner's for powers), in which only products with the linear form u
    occur.
    """
    groups: dict[int, dict[int, Polynomial]] = defaultdict(lambda: defaultdict(dict))
    result: Polynomial = {}
    for term, value in terms.items():
        if term:
            exponent = term.count(term[0])
            groups[term[0]][exponent][term[exponent:]] = value
        else:
            result[()] = value
    a, b = recurrence
    for variable, factors in groups.items():
        u = forms[variable]
        last: Polynomial = {}
        before: Polynomial = {}
        for exponent in range(max(factors), 0, -1):
            current = _expand(factors[exponent], forms, recurrence)
            _add_product(current, u, last, a)
            _add_product(current, _ONE, before, b)
            last, before = current, last
        _add_product(result, u, last, 1)
        _add_product(result, _ONE, before, b)
    return result


def _add_product(total: Polynomial, form: Polynomial, polynomial: Polynomial, factor: int) -> None:
    """Add ``factor * form * polynomial`` to `total`, in place."""
    for form_term, slope in form.items():
        slope = slope * factor
        if not slope:
            continue
        for term, value in polynomial.items():
            product = tuple(sorted(term + form_term))
            total[product] = total.get(product, Fraction(0)) + slope * value


def _rounded(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
