"""More readings of the rows where the Gram matrix has too few digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torchpoly._gram.factors import GramFactor
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.principal_axes import asks_for_principal_axes, in_independent_variables
from torchpoly._gram.source import Source
from torchpoly._gram.whitening import EPSILON, Whitening, without_null
from torchpoly._polynomial.basis import Basis

# Beyond this condition number of their Gram matrix, terms are combined and read again.
MAX_CONDITION, _MAX_CORRECTIONS = 1e10, 2
# Root mean square of a combination of terms, of norm 1, that is rounding: so many times the machine's.
NULL_ROUNDING = 450


def well_conditioned(first: NormalEquations, source: Source) -> NormalEquations:
    """Read the rows once more where the Gram matrix has too few digits to tell terms apart.

    Columns that others determine are left out, and columns that nearly coincide are replaced by their
    principal axes. Terms that nearly coincide all the same, as on heavy-tailed or clustered columns,
    are combined by the inverse root of the Gram matrix, and the Gram matrix of the combinations is
    read. That repeats the Cholesky QR decomposition (CholeskyQR2), which is as exact as Householder's
    where a single one loses half of the digits. The first time, eigenvalues below rounding are raised
    to it, the next time the null directions, which are then known, are dropped.

    Parameters
    ----------
    first : NormalEquations
        What has been read of the terms of the columns themselves.
    source : Source

    References
    ----------
    T. Fukaya, R. Kannan, Y. Nakatsukasa, Y. Yamamoto, Y. Yanagisawa, "Shifted Cholesky QR for
    computing the QR factorization of ill-conditioned matrices", SIAM J. Sci. Comput. 42 (2020).
    """
    reading, basis = first, _in_independent_variables(first, source)
    if basis is not first.basis:
        reading = source.read(basis)
    reading = replace(reading, first=first.plain)
    if isinstance(reading.statistics.features, GramFactor):
        return reading
    whitening = reading.statistics.whitening()
    if whitening.condition < MAX_CONDITION or _tells_apart_all_but_null(whitening, basis, source):
        return reading
    transform = whitening.raised
    reading = replace(source.read(basis, transform), first=first.plain)
    for _ in range(_MAX_CORRECTIONS):
        whitening = reading.statistics.whitening()
        if whitening.condition < MAX_CONDITION:
            break
        # On the rows, null directions are 0: they would only add to the norm of the coefficients.
        null = np.linalg.qr(transform @ whitening.null)[0]
        transform = without_null(transform @ whitening.truncated, null, basis.norm_weights)
        reading = replace(source.read(basis, transform), first=first.plain)
    return reading


def _tells_apart_all_but_null(whitening: Whitening, basis: Basis, source: Source) -> bool:
    """Whether the Gram matrix is well-conditioned but for combinations of terms that are 0 on all rows.

    Such are terms that are the same on all rows, as powers of a binary column are.
    """
    values, null = whitening.eigensystem[0], whitening.null
    if values[null.shape[1]] * MAX_CONDITION <= values[-1]:
        return False
    if not null.size:
        return True
    return bool(source.squares_of(basis, null).max() < (NULL_ROUNDING * EPSILON) ** 2)


def _in_independent_variables(reading: NormalEquations, source: Source) -> Basis:
    """Return the basis in variables that tell terms apart: the basis itself unless columns nearly coincide.

    As few points as columns always lie in a plane. There the columns stay: on principal axes, the norm of
    the coefficients would weigh narrow axes as much as wide ones.
    """
    basis, n_variables = reading.basis, reading.basis.domain.n_variables
    if not 1 < n_variables < source.n_rows or basis.indices.degree == 0:
        return basis
    covariance = reading.statistics.covariance(n_variables)
    if not asks_for_principal_axes(basis, covariance) or len(source.points(basis.domain, n_variables)) <= n_variables:
        return basis
    return in_independent_variables(basis, covariance, source)
