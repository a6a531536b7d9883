"""The warning of a fit without a penalty to few rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torchpoly._estimator.leave_one_out import is_loo
from torchpoly._polynomial.domain import Domain

_MIN_ROWS_PER_TERM = 2


class OverfittingWarning(UserWarning):
    """Warning of a fit with ``alpha=0`` and fewer than two distinct rows for each term.

    Such a fit to several columns follows the noise of its rows, and mostly predicts badly on new rows.
    ``alpha="loo"``, a lower degree and more rows all help. There is no warning for a single column, and none where
    ``alpha="loo"`` has chosen 0. A search warns of the model that it returns, and not of its candidates.

    See Also
    --------
    TorchPolynomialRegressor : Its parameter `alpha` takes ``"loo"``.

    Examples
    --------
    >>> import warnings
    >>> from torchpoly import OverfittingWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", OverfittingWarning)
    """

    # Pickle stores the public name of the class, so that its file can move.
    __module__ = "torchpoly"


def warn_if_overfitting(estimator: Any, n_distinct: Callable[[Domain, int], int], stacklevel: int) -> None:
    """Warn if a fit has no penalty, more than one variable, and fewer than two distinct rows for each term.

    Parameters
    ----------
    estimator : PolynomialBase
        After the fit.
    n_distinct : callable
        It takes a domain and an upper limit, and returns the number of distinct rows if that is below the limit.
    stacklevel : int
        Number of stack frames from this function to the line of the user.
    """
    basis = estimator._polynomial.basis
    least = _MIN_ROWS_PER_TERM * basis.n_terms
    # Where leave-one-out has chosen the penalty 0, rows that were left out say that the fit predicts well.
    has_penalty = estimator.alpha_ or is_loo(estimator.alpha)
    if estimator._is_candidate or has_penalty or basis.domain.n_variables < 2:
        return
    n_rows = n_distinct(basis.domain, least)
    if n_rows >= least:
        return
    can_choose = estimator.loss == "squared_error" and estimator.batch_size is None and basis.family == "chebyshev"
    penalty = "alpha='loo', which chooses a penalty" if can_choose else "alpha > 0, which is a penalty"
    fewer = "give fewer columns" if estimator.degree_ == 1 else f"lower 'degree', which is {estimator.degree_}"
    warnings.warn(
        f"The fit has {basis.n_terms} terms and only {n_rows} distinct rows, fewer than two for each term, and "
        f"alpha=0. It may follow noise, and predict badly on new rows. Set {penalty}, or {fewer}, or "
        "give more rows.",
        OverfittingWarning,
        stacklevel=1 + stacklevel,
    )
