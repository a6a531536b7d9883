"""Re-reading of the rows where the Gram matrix is ill-conditioned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torchpoly._gram.factors import GramFactor
from torchpoly._gram.normal_equations import NormalEquations
from torchpoly._gram.principal_axes import in_independent_variables
from torchpoly._gram.source import Source
from torchpoly._gram.whitening import EPSILON, Whitening, without_null
from torchpoly._polynomial.basis import Basis

# Above this condition number of the Gram matrix, the rows are read again with whitened features, at most this often
# after the first time.
MAX_CONDITION, _MAX_CORRECTIONS = 1e10, 2
# A combination of terms of norm 1 is a null direction if its root mean square is below this multiple of EPSILON.
NULL_ROUNDING = 450


def well_conditioned(first: NormalEquations, source: Source) -> NormalEquations:
    """Return the normal equations in independent variables, read again where the Gram matrix is ill-conditioned.

    Columns that others determine are left out, and columns that nearly coincide are replaced by their
    principal axes. Then :func:`read_until_conditioned` treats terms that are still nearly dependent.

    Parameters
    ----------
    first : NormalEquations
        Those of the terms of the columns.
    source : Source
    """
    equations, basis = first, in_independent_variables(first.basis, first.statistics, source)
    if basis is not first.basis:
        equations = source.read(basis)
    return read_until_conditioned(replace(equations, first=first.plain), source)


def read_until_conditioned(equations: NormalEquations, source: Source) -> NormalEquations:
    """CholeskyQR2: read the rows again with whitened features where the Gram matrix is ill-conditioned.

    Terms may be nearly dependent, for example on heavy-tailed or clustered columns. Then the features are
    whitened by the Gram matrix, and the Gram matrix of the whitened features is read. This is the Cholesky
    QR decomposition with a second pass. It is as accurate as Householder's, where a single pass loses half
    of the digits. The first whitening raises eigenvalues below rounding to it (shifted Cholesky QR). The
    next one knows the null directions and drops them.

    References
    ----------
    T. Fukaya, R. Kannan, Y. Nakatsukasa, Y. Yamamoto, Y. Yanagisawa, "Shifted Cholesky QR for
    computing the QR factorization of ill-conditioned matrices", SIAM J. Sci. Comput. 42 (2020).
    """
    basis, first = equations.basis, equations.first
    if isinstance(equations.statistics.features, GramFactor):
        return equations
    whitening = equations.statistics.whitening()
    if whitening.condition < MAX_CONDITION or _tells_apart_all_but_null(whitening, basis, source):
        return equations
    transform = whitening.raised
    equations = replace(source.read(basis, transform), first=first)
    for _ in range(_MAX_CORRECTIONS):
        whitening = equations.statistics.whitening()
        if whitening.condition < MAX_CONDITION:
            break
        # Null directions are 0 at the rows: they would only increase the norm of the coefficients.
        null = np.linalg.qr(transform @ whitening.null)[0]
        transform = without_null(transform @ whitening.truncated, null, basis.norm_weights)
        equations = replace(source.read(basis, transform), first=first)
    return equations


def _tells_apart_all_but_null(whitening: Whitening, basis: Basis, source: Source) -> bool:
    """Whether the Gram matrix without its null directions is well-conditioned.

    For example, the powers of a binary column are equal at all rows, so their differences are null directions.
    """
    values, null = whitening.eigensystem[0], whitening.null
    if values[null.shape[1]] * MAX_CONDITION <= values[-1]:
        return False
    if not null.size:
        return True
    return bool(source.squares_of(basis, null).max() < (NULL_ROUNDING * EPSILON) ** 2)
