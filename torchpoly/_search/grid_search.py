"""Grid search from one pass over the rows: GridSearchCV with a fast path."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel, delayed

from torchpoly._backend.array_api import check_dense
from torchpoly._backend.device import resolve_device_with_warning
from torchpoly._backend.sklearn_compat import (
    MultimetricScorer,
    check_method_params,
    fit_and_score,
    fit_context,
    insert_error_scores,
    num_samples,
    warn_or_raise_about_fit_failures,
)
from torchpoly._backend.torch_state import default_torch_state, rollback_on_error
from torchpoly._dask.collections import is_collection, is_frame
from torchpoly._search.candidates import Candidate, CandidateParser, as_candidate
from torchpoly._search.evaluation import Evaluation, Result, as_text
from torchpoly._search.scores import Scoring
from torchpoly._search.sources import PlainSource, transformed_sources
from torchpoly._search.splits import Split
from torchpoly._search.tasks import SearchTasks


class PolynomialGridSearchCV(GridSearchCV):
    """Grid search over polynomial regressions, from one pass over the rows.

    It has the parameters, attributes, results and messages of
    :class:`sklearn.model_selection.GridSearchCV`. The estimator is a
    :class:`TorchPolynomialRegressor` or a Pipeline that ends in one. For the squared error, the search
    takes a fast path. It reads the rows once and keeps the Gram matrix of each fold. The Gram matrix of a
    training set is the sum of the Gram matrices of its folds. The Gram matrix of a lower degree is a
    leading block of the Gram matrix of a higher degree. Penalties, optimizers, learning rates and numbers
    of iterations need only this matrix. So a grid over many rows costs about as much as one fit. All other
    fits fall back to scikit-learn's evaluation. Both ways give the same scores.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor or Pipeline
        The estimator that the grid sets parameters of. The search fits the steps of a Pipeline before
        the last once for each split and each setting of their parameters in the grid. With any other
        estimator, all fits fall back to scikit-learn's evaluation.

    param_grid : dict or list of dict
        The values to try for each parameter, such as ``{"degree": [1, 2, 3], "alpha": [0, 0.1]}``.
        Candidates for which the grid replaces a step of a Pipeline fall back to scikit-learn's
        evaluation.

    scoring : str, callable, list, tuple or dict, default=None
        The metrics; ``None`` stands for R2. On the fast path, R2, mean squared errors and their roots
        come from Gram matrices. Other metrics need predictions for the test rows. One product of matrices
        gives these for all candidates. A callable ``(estimator, X, y)`` gets each fitted estimator, so each
        candidate trains by itself, but still from the Gram matrix.

    n_jobs : int, default=None
        Number of processes for the fits that fall back to scikit-learn's evaluation. The fast path
        runs in the calling process.

    refit : bool, str or callable, default=True
        Whether to fit the best candidate to all rows. With several metrics, the name of the metric that
        selects it, or a function of `cv_results_` that returns its index, such as
        :class:`one_standard_error` makes.

    cv : int, splitter or iterable, default=None
        How rows are split; ``None`` means five folds in the order of the rows.

    verbose : int, default=0
        From 1 on, the search prints how many fits there are, and how many of them fall back to
        scikit-learn's evaluation, with the reason. From 2 on, it prints a line for each fit.

    pre_dispatch : int or str, default="2*n_jobs"
        Number of fits that are sent to the processes of `n_jobs` in advance.

    error_score : "raise" or number, default=np.nan
        Score of a candidate whose training fails on a split; "raise" raises the exception.

    return_train_score : bool, default=False
        Whether `cv_results_` has scores on the training rows too.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        Parameters, scores, ranks and times of all candidates. The time of candidates that train together
        is divided equally between them.

    best_estimator_ : TorchPolynomialRegressor or Pipeline
        The best candidate, fitted to all rows. It exists if `refit` is not False.

    best_score_, best_params_, best_index_
        Mean score, parameters and index of the best candidate. If `refit` is a function, there is no
        `best_score_`.

    scorer_ : callable or dict
        The metrics.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds that the fit of the best candidate to all rows took.

    multimetric_ : bool
        Whether there are several metrics.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, where X has string names.

    See Also
    --------
    TorchPolynomialRegressor : The polynomial regression.
    one_standard_error : Choice of the simplest candidate that is about as good as the best.
    sklearn.model_selection.GridSearchCV : The search for all estimators. Its documentation has more details.

    Notes
    -----
    On the fast path, L-BFGS at its default rate ends at the least squares, so the search solves for
    them. Optimizers that update each parameter independently train all candidates, splits and learning
    rates as parts of one tensor. Other optimizers, and candidates whose `extrapolation` is not
    ``"continue"``, train one by one from the Gram matrix of the split.

    These fits fall back to scikit-learn's evaluation, which reads the rows for each of them:

    - Losses other than the squared error, and mini-batches. They need the rows in each iteration.
    - Candidates whose `degree` or `alpha` is ``"loo"``. They need the rows for their choice.
    - Polynomials of more terms than there are training rows.
    - Training sets whose Gram matrix is ill-conditioned. A fit reads these rows more than once.
    - Fits that diverge or fail on the fast path.

    If the training rows of a split lie in a small part of the range of all rows, the fast path reads the
    rows of that split by themselves.

    Splits that leave out one row, as those of ``cv=LeaveOneOut()``, need no fits: the error of a row that is
    left out is ``e / (1 - h)``, with its residual e and its leverage h. A split is fitted all the same if the
    row that it leaves out is the only one at an end of a column's range, or if the terms have a lower rank
    without it. Set
    ``scoring="neg_mean_squared_error"`` there, as R2 is not defined for one row.

    With ``alpha="loo"`` or ``degree="loo"``, each fit of a candidate to the training rows of a split chooses
    by itself.

    Scores agree with those of GridSearchCV to about 1e-9. Candidates that are equally good, such as
    several learning rates that all converge, may get ranks in a different order.

    Examples
    --------
    >>> import numpy as np
    >>> from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (500, 2))
    >>> y = X[:, 0] ** 3 - X[:, 0] * X[:, 1] + 0.1 * rng.normal(size=500)
    >>> grid = {"degree": [1, 2, 3, 4, 5], "alpha": [0.0, 1e-3, 1e-1]}
    >>> search = PolynomialGridSearchCV(TorchPolynomialRegressor(), grid).fit(X, y)
    >>> search.best_params_
    {'alpha': 0.0, 'degree': 3}
    """

    # Pickle stores the public name of the class, so that its file can move.
    __module__ = "torchpoly"

    cv_results_: dict[str, Any]
    best_estimator_: Any
    best_score_: float
    best_params_: dict[str, Any]
    best_index_: int
    scorer_: Any
    n_splits_: int
    refit_time_: float
    multimetric_: bool
    feature_names_in_: NDArray[np.object_]

    if TYPE_CHECKING:
        # scikit-learn's has no types, and type checkers would take those of its defaults: a bool for `refit`.
        def __init__(
            self,
            estimator: Any,
            param_grid: Any,
            *,
            scoring: Any = None,
            n_jobs: int | None = None,
            refit: bool | str | Callable[[dict[str, Any]], int] = True,
            cv: Any = None,
            verbose: int = 0,
            pre_dispatch: int | str = "2*n_jobs",
            error_score: float | Literal["raise"] = np.nan,
            return_train_score: bool = False,
        ) -> None: ...

    def fit(self, X: ArrayLike, y: ArrayLike | None = None, **params: Any) -> Self:
        """Evaluate all candidates, and fit the best one to all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data that the estimator accepts.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets that the estimator accepts.

        **params : dict of str to object
            Metadata such as ``sample_weight`` and ``groups``. They are passed on as GridSearchCV does.

        Returns
        -------
        PolynomialGridSearchCV
            The search itself.

        Raises
        ------
        TypeError
            If X, y or metadata are a Dask dataframe or a sparse tensor.
        ValueError
            For the reasons of GridSearchCV: the grid has an unknown parameter, it is empty, the splits are
            not possible, all fits fail, or one fit fails with ``error_score="raise"``.

        Warns
        -----
        FitFailedWarning
            If some fits fail. Their score is `error_score`.
        OverfittingWarning
            If the best candidate has no penalty and few rows for each term. Candidates do not warn.
        UserWarning
            If R2 is not defined because all test sets have one row; if exceptions kept all fits from the fast
            path. The warning names them. Exceptions that scikit-learn's evaluation raises too are reported as
            GridSearchCV does.
        ConvergenceWarning
            If the training of a candidate ends before its `tol` is met.

        Examples
        --------
        >>> import numpy as np
        >>> from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
        >>> X = np.linspace(-1, 1, 50)[:, None]
        >>> search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=3)
        >>> search.fit(X, X[:, 0] ** 2).best_params_
        {'degree': 2}
        """
        for name, values in {"X": X, "y": y, **params}.items():
            if is_collection(values) and is_frame(values):
                raise TypeError(
                    f"{name} is a Dask dataframe, which scikit-learn cannot split into folds. Give X and y as arrays: "
                    "X.to_dask_array(lengths=True)."
                )
            check_dense(values, name)
        parser = CandidateParser(self.estimator)
        reason = parser.reason
        if type(self)._run_search is not GridSearchCV._run_search:
            reason = "a subclass runs the search"
        if reason is None:
            with default_torch_state(), rollback_on_error(self):
                return self._search(parser, X, y, params)
        self._report(f"All fits fall back to scikit-learn: {reason}")
        with rollback_on_error(self):
            return super().fit(X, y, **params)

    @fit_context(prefer_skip_nested_validation=False)
    def _search(self, parser: CandidateParser, X: Any, y: Any, params: dict[str, Any]) -> Self:
        """Search as GridSearchCV.fit does, but with a fast path for the evaluation and for the last fit.

        The body follows GridSearchCV.fit, which has no method to override for the evaluation of one fit.
        """
        scorer, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        tasks = SearchTasks(self, X, y, params.get("sample_weight"))
        cv = check_cv(self.cv, y)
        self.n_splits_ = cv.get_n_splits(X, y, **routed.splitter.split)
        grid = list(ParameterGrid(self.param_grid))
        splits = list(cv.split(X, y, **routed.splitter.split))
        if len(splits) != self.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{self.n_splits_} splits, got {len(splits)}"
            )
        if not (grid and splits):
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        self._report(
            f"Fitting {len(splits)} folds for each of {len(grid)} candidates, totalling {len(grid) * len(splits)} fits"
        )
        tasks.begin_evaluations(len(grid) * len(splits))
        fits = _Fits(X, y, grid, splits, scorer, routed.estimator.fit, routed.scorer.score, tasks)
        weights = fits.fit_params.get(f"{parser.prefix}sample_weight")
        scoring = Scoring(scorer, X, y, fits.score_params, weights, self.error_score)
        evaluation = Evaluation(scoring, self.return_train_score, partial(self._report_result, fits))
        candidates = self._parse(parser, fits, evaluation)
        source = self._take_fast_path(parser, list(candidates.values()), fits, evaluation) if candidates else None
        outcomes = self._fall_back(fits, evaluation)
        warn_or_raise_about_fit_failures(outcomes, self.error_score)
        if callable(self.scoring):
            insert_error_scores(outcomes, self.error_score)
        results = self._format_results(grid, len(splits), outcomes)
        tasks.end_evaluations()
        self._select(results, outcomes[0]["test_scores"], refit_metric)
        if scoring.is_undefined_for(splits) and np.isnan(results[f"mean_test_{refit_metric}"]).all():
            warnings.warn(
                "R2 is not defined for a single test row, so the scores of all candidates are NaN, and the search "
                "selects the first one. Set scoring='neg_mean_squared_error' where splits leave out one row.",
                UserWarning,
                stacklevel=4,
            )
        if self.refit:
            self._refit(fits, source, None if tasks.has_callbacks else candidates.get(self.best_index_))
        self.scorer_ = scorer._scorers if isinstance(scorer, MultimetricScorer) else scorer
        self.cv_results_ = results
        tasks.finish()
        return self

    def _parse(self, parser: CandidateParser, fits: _Fits, evaluation: Evaluation) -> dict[int, Candidate]:
        """Return the candidates that can take the fast path, by index."""
        candidates = {}
        for index, parameters in enumerate(fits.grid):
            candidate = parser.parse(index, parameters, fits.fit_params)
            if isinstance(candidate, Candidate):
                candidates[index] = candidate
            else:
                # An unknown parameter raises here, before any work.
                clone(self.estimator).set_params(**clone(parameters, safe=False))
                evaluation.reasons |= dict.fromkeys(product([index], range(len(fits.splits))), candidate)
        for device in {str(candidate.estimator.device) for candidate in candidates.values()}:
            resolve_device_with_warning(device, stacklevel=5)
        return candidates

    def _take_fast_path(
        self, parser: CandidateParser, candidates: list[Candidate], fits: _Fits, evaluation: Evaluation
    ) -> PlainSource | None:
        """Evaluate candidates on the fast path.

        Returns
        -------
        PlainSource or None
            The source of the rows, from which the best candidate can be fitted; None with a pipeline.
        """
        X, y, fit_params = fits.X, fits.y, fits.fit_params
        try:
            rows = np.arange(num_samples(X))
            splits = [(rows[np.asarray(training)], rows[np.asarray(test)]) for training, test in fits.splits]
            weights = fit_params.get("sample_weight")
            source = None if parser.prefix else PlainSource(self.estimator, X, y, weights, splits)
        except (ValueError, TypeError, IndexError, MemoryError) as error:
            evaluation.fall_back(candidates, range(len(fits.splits)), error)
            return None
        if source is not None:
            evaluation.add_plain(candidates, source)
            return source
        groups = defaultdict(list)
        for candidate in candidates:
            groups[tuple((name, id(value)) for name, value in candidate.steps.items())].append(candidate)
        for group in groups.values():
            pipeline = clone(self.estimator).set_params(**clone(group[0].steps, safe=False))
            failed, scores_training = partial(evaluation.fall_back, group), self.return_train_score
            for transformed in transformed_sources(
                pipeline, X, y, fit_params, splits, scores_training=scores_training, failed=failed
            ):
                evaluation.add(group, transformed)
        return None

    def _fall_back(self, fits: _Fits, evaluation: Evaluation) -> list[Result]:
        """Evaluate the fits without a result as GridSearchCV does, and return the results of all fits."""
        for line in evaluation.fallback_lines(len(fits.pairs)):
            self._report(line)
        pairs, n_splits = [pair for pair in fits.pairs if pair not in evaluation.results], len(fits.splits)
        parallel = Parallel(n_jobs=self.n_jobs, pre_dispatch=self.pre_dispatch)
        results = parallel(
            delayed(fit_and_score)(
                as_candidate(clone(self.estimator)),
                fits.X,
                fits.y,
                scorer=fits.scorer,
                train=fits.splits[split][0],
                test=fits.splits[split][1],
                verbose=self.verbose,
                parameters=fits.grid[index],
                fit_params=fits.fit_params,
                score_params=fits.score_params,
                return_train_score=self.return_train_score,
                return_n_test_samples=True,
                return_times=True,
                error_score=self.error_score,
                split_progress=(split, n_splits),
                candidate_progress=(index, len(fits.grid)),
                **fits.tasks.evaluation(index * n_splits + split),
            )
            for index, split in pairs
        )
        every = evaluation.results | dict(zip(pairs, results, strict=True))
        if not evaluation.results and (exceptions := evaluation.unexpected_exceptions(every)):
            warnings.warn(
                f"No fit took the fast path: it raised {'; '.join(exceptions)}. The search then fitted each candidate "
                "to each training set, as GridSearchCV does. Its results are right, but it took longer. If the "
                "exception comes from a step of your Pipeline or from your data, correct that. Otherwise please "
                "report it to the developers of torchpoly.",
                UserWarning,
                stacklevel=5,  # the line that called fit
            )
        return [every[pair] for pair in fits.pairs]

    def _select(self, results: dict[str, Any], first_test_score: Any, refit_metric: Any) -> None:
        """Choose the best candidate."""
        self.multimetric_ = isinstance(first_test_score, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first_test_score)
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]

    def _refit(self, fits: _Fits, source: PlainSource | None, candidate: Candidate | None) -> None:
        """Fit the best candidate to all rows, from their Gram matrix if possible."""
        self.best_estimator_ = clone(self.estimator).set_params(**clone(self.best_params_, safe=False))
        start, is_fitted = time.time(), False
        with fits.tasks.refit(self.best_estimator_):
            if source is not None and candidate is not None:
                try:
                    is_fitted = source.fit_on_all_rows(self.best_estimator_, candidate)
                except (ValueError, MemoryError) as error:
                    self._report(f"The best candidate is fitted by reading the rows again: {as_text(error)}")
            if not is_fitted:
                self.best_estimator_.fit(fits.X, fits.y, **fits.fit_params)
        self.refit_time_ = time.time() - start
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_

    def _report_result(self, fits: _Fits, index: int, split: int, result: Result) -> None:
        """Report a fit on the fast path to callbacks, and print it if `verbose` is above 1."""
        n_splits = len(fits.splits)
        fits.tasks.report_evaluation(index * n_splits + split, fits.splits[split][0])
        if self.verbose > 1:
            chosen = ", ".join(f"{name}={value}" for name, value in sorted(fits.grid[index].items()))
            print(f"[CV {split + 1}/{n_splits}] END {chosen}; test score: {result['test_scores']}")

    def _report(self, message: str) -> None:
        if self.verbose > 0:
            print(message)


@dataclass(frozen=True)
class _Fits:
    """The fits of a search: each candidate of the grid on each split.

    Parameters
    ----------
    X, y : array-like
        The data as the user passed them.
    grid : list of dict
        The parameters of each candidate.
    splits : list of tuple of ndarray
        Indices of the training rows and of the test rows of each split.
    scorer : callable
        The metric, or all metrics in one callable.
    fit_params, score_params : dict
        Metadata for the estimator and the scorer.
    tasks : SearchTasks
    """

    X: Any
    y: Any
    grid: list[dict[str, Any]]
    splits: list[Split]
    scorer: Any
    fit_params: dict[str, Any]
    score_params: dict[str, Any]
    tasks: SearchTasks

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The indices of candidate and split of each fit."""
        return list(product(range(len(self.grid)), range(len(self.splits))))
