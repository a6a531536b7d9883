"""Check that the terms of a fit fit in memory."""

from __future__ import annotations

import bisect
import math
import os
import sys
from functools import cache

from torchpoly._backend.rows import chunk_size, vector_chunk_size
from torchpoly._gram.factors import KERNEL_ELEMENTS, is_dense
from torchpoly._polynomial.index_set import IndexSet

# Number of matrices that a fit holds at its peak. They have the shape (n_terms, n_terms), or (n_terms, n_rows) or
# (n_rows, n_rows) if rows are fewer than terms. In least-squares fits of 1771 terms, tracemalloc measured 3 to 4
# matrices. It does not see the workspace of LAPACK.
_N_PEAK_MATRICES = 8


def check_memory(indices: IndexSet, n_rows: int) -> None:
    """Raise a ValueError if a fit would need more than the memory of the machine.

    Raises
    ------
    ValueError
        The message has the numbers of terms and bytes, and the highest degree that fits.
    """

    def fit_bytes(degree: int) -> int:
        n_terms = indices.of_degree(degree).n_terms
        if n_rows < n_terms and not is_dense(n_terms, n_rows):
            kernels = 2 * degree * KERNEL_ELEMENTS * min(indices.n_variables - 1, 1)
            return 8 * (
                _N_PEAK_MATRICES * n_rows**2 + n_terms * (_N_PEAK_MATRICES + vector_chunk_size(n_terms)) + kernels
            )
        return 8 * n_terms * (_N_PEAK_MATRICES * min(n_terms, n_rows + 1) + chunk_size(n_terms))

    limit = _physical_memory()
    needed = fit_bytes(indices.degree)
    if needed > limit:
        fitting = bisect.bisect_right(range(min(indices.degree, sys.maxsize)), limit, key=fit_bytes) - 1
        raise ValueError(
            f"The 'degree' parameter got {indices.degree}, which for {indices.n_variables} features makes "
            f"{indices.n_terms} terms; to fit them takes {needed} bytes, more than the {limit} of this machine's "
            f"memory. The greatest degree that fits is {fitting}."
        )


@cache
def _physical_memory() -> float:
    """Return the memory of this machine in bytes; infinity if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
