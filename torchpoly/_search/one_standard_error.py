"""Choice of the simplest candidate of a search that is about as good as the best one."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import Any

import numpy as np


class one_standard_error:  # noqa: N801, it is used as a function
    """Choose the simplest candidate within one standard error of the best.

    It makes a function for the `refit` parameter of :class:`PolynomialGridSearchCV`,
    :class:`sklearn.model_selection.GridSearchCV` or :class:`sklearn.model_selection.RandomizedSearchCV`.
    The function looks at all candidates whose mean score is within one standard error of the best mean
    score. Among them, it chooses the lowest `degree`. If several have this degree, it chooses
    ``interaction_only=True`` before False, and then the greatest `alpha`. If several are still left, it
    chooses the first.

    Parameters
    ----------
    param_prefix : str, default=""
        What stands before `degree`, `interaction_only` and `alpha` in the names of the grid. For a step of a
        Pipeline, it is the name of the step and two underscores, such as ``"torchpolynomialregressor__"``.

    scoring : str, default=None
        The metric, if the search has several. ``None`` means the only metric.

    See Also
    --------
    PolynomialGridSearchCV : The search that trains all candidates from one pass over the rows.
    sklearn.model_selection.GridSearchCV : The search for all estimators.

    Notes
    -----
    Scores of cross-validation are uncertain, so the best mean score is often that of a polynomial that is
    more complex than necessary. The rule is from [1]_, section 3.4.3. Section 7.10 of [2]_ explains it. The
    standard error is ``std_test_score / sqrt(n_splits)`` of the best candidate.

    A parameter that is not in the grid does not influence the choice. In a list of grids, a candidate
    without a degree counts as one of infinite degree. Without `alpha`, it counts as ``alpha=0``, and
    without `interaction_only` as ``interaction_only=False``. ``degree="loo"`` counts as infinite, and
    ``alpha="loo"`` as 0. Candidates whose mean score is NaN are never chosen, unless all are NaN. Then the first
    candidate is chosen, as in GridSearchCV.

    If `refit` is a function, a search has no `best_score_`. The mean score of the chosen candidate is
    ``search.cv_results_["mean_test_score"][search.best_index_]``. If there are several metrics
    too, `score` of the search raises KeyError. Call `score` of its `best_estimator_`.

    scikit-learn's halving searches ignore a function as `refit`. Call it after the search:
    ``one_standard_error()(search.cv_results_)`` returns the index of the candidate. It compares only the
    candidates of the last iteration.

    References
    ----------
    .. [1] L. Breiman, J. H. Friedman, R. A. Olshen and C. J. Stone, Classification and Regression Trees,
       Wadsworth, 1984.
    .. [2] T. Hastie, R. Tibshirani and J. Friedman, The Elements of Statistical Learning, 2nd edition,
       Springer, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor, one_standard_error
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (200, 1))
    >>> y = X[:, 0] - 2 * X[:, 0] ** 3 + 0.3 * rng.normal(size=200)
    >>> grid = {"degree": list(range(1, 9))}
    >>> PolynomialGridSearchCV(TorchPolynomialRegressor(), grid).fit(X, y).best_params_
    {'degree': 4}
    >>> PolynomialGridSearchCV(TorchPolynomialRegressor(), grid, refit=one_standard_error()).fit(X, y).best_params_
    {'degree': 3}
    """

    # Pickle stores the public name of the class, so that its file can move. A function that returns a function would
    # need a second public name.
    __module__ = "torchpoly"

    def __init__(self, param_prefix: str = "", scoring: str | None = None) -> None:
        if not isinstance(param_prefix, str):
            # A search calls whatever it got with its results.
            raise TypeError(
                f"The 'param_prefix' parameter got a {type(param_prefix).__name__}; it must be a str. In a search, "
                "write refit=one_standard_error(), with parentheses."
            )
        self.param_prefix = param_prefix
        self.scoring = scoring

    def __repr__(self) -> str:
        return f"one_standard_error(param_prefix={self.param_prefix!r}, scoring={self.scoring!r})"

    def __call__(self, cv_results: dict[str, Any]) -> int:
        """Return the index of the candidate.

        Parameters
        ----------
        cv_results : dict
            The `cv_results_` of a search.

        Returns
        -------
        int
            The index of the candidate, which becomes `best_index_` of the search.

        Raises
        ------
        ValueError
            If the search does not have the metric, or if no candidate has a `degree`, `interaction_only` or
            `alpha` under the prefix.
        """
        metric = "score" if self.scoring is None else self.scoring
        self._check(cv_results, metric)
        means = np.array(cv_results[f"mean_test_{metric}"], dtype=np.float64)
        iterations = np.asarray(cv_results.get("iter", np.zeros(len(means))))
        # The iterations of a halving search have different numbers of rows.
        last = np.flatnonzero(iterations == iterations.max())
        if np.isnan(means[last]).all():
            return int(last[0])
        best = last[np.nanargmax(means[last])]
        n_splits = sum(re.fullmatch(rf"split\d+_test_{re.escape(metric)}", key) is not None for key in cv_results)
        standard_error = np.nan_to_num(cv_results[f"std_test_{metric}"][best] / math.sqrt(n_splits))
        close = last[means[last] >= means[best] - standard_error]
        return int(min(close, key=lambda index: self._complexity(cv_results["params"][index])))

    def _check(self, cv_results: dict[str, Any], metric: str) -> None:
        """Raise an exception if there are no such scores or parameters."""
        if f"mean_test_{metric}" not in cv_results:
            metrics = [key.removeprefix("mean_test_") for key in cv_results if key.startswith("mean_test_")]
            raise ValueError(
                f"The 'scoring' parameter of one_standard_error got {self.scoring!r}, but the metrics of the search "
                f"are {metrics}. Give the name of one of them."
            )
        ours = [f"{self.param_prefix}{name}" for name in ("degree", "interaction_only", "alpha")]
        names = list(dict.fromkeys(name for parameters in cv_results["params"] for name in parameters))
        if not set(ours) & set(names):
            raise ValueError(
                f"The 'param_prefix' parameter of one_standard_error got {self.param_prefix!r}, but cv_results_ has "
                f"none of {[f'param_{name}' for name in ours]}. It has {[f'param_{name}' for name in names]}. Set "
                "'param_prefix' to what stands there between 'param_' and 'degree', 'interaction_only' or 'alpha', "
                "such as 'torchpolynomialregressor__' for a step of a Pipeline. If none of them is there, add one to "
                "the grid."
            )

    def _complexity(self, parameters: dict[str, Any]) -> tuple[Any, bool, Any]:
        """Return what orders candidates, the simplest first."""
        degree = parameters.get(f"{self.param_prefix}degree")
        interaction_only = parameters.get(f"{self.param_prefix}interaction_only", False)
        alpha = parameters.get(f"{self.param_prefix}alpha")
        return (
            degree if isinstance(degree, Real) else math.inf,
            not interaction_only,
            -alpha if isinstance(alpha, Real) else 0.0,
        )
