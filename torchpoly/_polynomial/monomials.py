"""Exact conversion from the basis to monomials of the original columns.

A monomial coefficient is a sum of large terms of both signs. In floating point, cancellation would lose the
digits that the Chebyshev basis preserves. Rational arithmetic is exact: each coefficient is rounded once, at
the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from torchpoly._backend.rows import Floats
from torchpoly._polynomial.basis import Basis
from torchpoly._polynomial.domain import Domain
from torchpoly._polynomial.index_set import IndexSet

# A monomial is the sorted tuple of its factors: x0**2 * x3 is (0, 0, 3), the constant is ().
Monomial = tuple[int, ...]
Polynomial = dict[Monomial, Fraction]
# a and b of the recurrence T_k = a u T_(k-1) + b T_(k-2), with T_0 = 1 and T_1 = u.
_RECURRENCES = {"chebyshev": (2, -1), "power": (1, 0)}
# Bits of the entries of J. A condition number of 2**200 leaves 100 bits.
_BITS = 300
# Bits of the greatest entry of a row of J T, before it is rounded to floats.
_ROUNDED_BITS = 200
# A functional of norm 1 is determined by the rows if its products with null directions are below this.
_MAX_NULL_PRODUCT = 1e-7
# Directions below this part of the widest one are rounding.
_MIN_DIRECTION = 1e-10
_ONE: Polynomial = {(): Fraction(1)}


def to_monomials(basis: Basis, coefficients: Floats, scale: float, offset: float) -> Floats:
    """Return the monomial coefficients of ``offset + scale * (coefficients @ features)``.

    Parameters
    ----------
    basis : Basis
        The features.
    coefficients : ndarray of shape (n_terms,)
    scale, offset : float
        Of the target.

    Returns
    -------
    ndarray
        The correctly rounded coefficient of each monomial of the columns of X up to the degree; infinite
        or 0 if it is beyond the range of floats.
    """
    values = map(Fraction, coefficients.tolist())
    terms = dict(zip(_factors(basis.indices), values, strict=True))
    polynomial = _expand(terms, _linear_forms(basis.domain), _RECURRENCES[basis.family])
    scaled = {monomial: value * Fraction(scale) for monomial, value in polynomial.items()}
    scaled[()] = scaled.get((), Fraction(0)) + Fraction(offset)
    monomials = _factors(basis.indices.of_columns(len(basis.domain.center)))
    return np.array([_rounded(scaled.get(monomial, Fraction(0))) for monomial in monomials])


def monomial_matrix(basis: Basis, matrix: Floats, null: Floats) -> Floats:
    """Return ``J T`` of shape (n_monomials, rank): J converts coefficients of the basis to monomials.

    The sums cancel, so they are sums of integers: the rows of J with a common denominator that is a power of 2, and 300
    bits for each of its entries, times the entries of T, which are multiples of a power of 2.

    Parameters
    ----------
    basis : Basis
    matrix : ndarray of shape (n_terms, rank)
        T.
    null : ndarray of shape (n_terms, n_null)
        Coefficients of polynomials that are 0 at all rows; NaN if unknown.

    Returns
    -------
    ndarray
        Rows of NaN for monomials that the basis does not contain, and for those that the rows do not determine.
    """
    forms, recurrence = _linear_forms(basis.domain), _RECURRENCES[basis.family]
    rows: dict[Monomial, list[tuple[int, Fraction]]] = defaultdict(list)
    for number, term in enumerate(_factors(basis.indices)):
        for monomial, value in _expand({term: Fraction(1)}, forms, recurrence).items():
            if value:
                rows[monomial].append((number, value))
    integers, exponents = zip(*map(_as_integers, matrix), strict=True)
    free = _free_columns(basis.domain)
    monomials = list(_factors(basis.indices.of_columns(len(basis.domain.center))))
    found = np.full((len(monomials), matrix.shape[1]), np.nan)
    for position, monomial in enumerate(monomials):
        row = rows.get(monomial)
        if row is None or free[list(monomial)].any() or not _is_determined(row, null):
            continue
        scaled = [(number, value * Fraction(2) ** int(exponents[number])) for number, value in row]
        highest = max(_exponent(value) for _, value in scaled)
        total = sum(integers[number] * round(value * Fraction(2) ** (_BITS - highest)) for number, value in scaled)
        surplus = max(int(abs(total).max()).bit_length() - _ROUNDED_BITS, 0)
        found[position] = np.ldexp((total >> surplus).astype(np.float64), surplus + highest - _BITS)
    return found


def _is_determined(row: list[tuple[int, Fraction]], null: Floats) -> bool:
    """Whether a functional of the coefficients is 0 for all polynomials that are 0 at the rows."""
    numbers, values = zip(*row, strict=True)
    greatest = max(map(abs, values))
    functional = np.array([float(value / greatest) for value in values])
    found = np.abs(functional @ null[list(numbers)])
    return bool((found <= _MAX_NULL_PRODUCT * np.linalg.norm(functional)).all())


def _as_integers(values: Floats) -> tuple[NDArray[np.object_], int]:
    """Return integers and an exponent e, with ``values = integers * 2**e``."""
    mantissas, exponents = np.frexp(values)
    least = int(exponents[mantissas != 0].min(initial=0)) - 53
    shifts = np.maximum(exponents - 53 - least, 0)
    whole = (mantissas * 2.0**53).astype(np.int64).astype(object)
    return whole * np.array([1 << int(shift) for shift in shifts], dtype=object), least


def _exponent(value: Fraction) -> int:
    """Return about the binary logarithm of a positive or negative number."""
    return abs(value.numerator).bit_length() - value.denominator.bit_length()


def _free_columns(domain: Domain) -> NDArray[np.bool_]:
    """Return whether each column of X takes part in a linear dependency of the columns, or has no variable."""
    left, values, _ = np.linalg.svd(domain.directions, full_matrices=False)
    span = left[:, values > _MIN_DIRECTION * values.max(initial=0.0)]
    return np.asarray(1.0 - np.square(span).sum(axis=1) > _MIN_DIRECTION)


def _factors(indices: IndexSet) -> Iterator[Monomial]:
    """Yield the factors of each term, for example (0, 0, 3) for the exponents 2, 0, 0, 1."""
    for exponents in indices.powers.tolist():
        yield tuple(variable for variable, exponent in enumerate(exponents) for _ in range(exponent))


def _linear_forms(domain: Domain) -> list[Polynomial]:
    """Return each variable of the basis as a linear polynomial in the columns of X."""
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
    """Clenshaw's algorithm (Horner's for powers): the monomials of a sum of products of univariate polynomials.

    The terms are grouped by their first variable u and its exponent k: the polynomial is the sum of
    T_k(u) P_k, and each P_k has later variables only and is expanded first. With the recurrence
    T_k = a u T_(k-1) + b T_(k-2), Clenshaw's algorithm multiplies by the linear form u only.
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
