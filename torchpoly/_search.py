"""Grid search from one reading of the rows."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context, clone
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.model_selection._search import _insert_error_scores, _MultimetricScorer, _warn_or_raise_about_fit_failures
from sklearn.model_selection._validation import _fit_and_score
from sklearn.utils import Bunch, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params, _num_samples

from torchpoly._callbacks import SearchTasks
from torchpoly._candidates import Candidate, CandidateParser
from torchpoly._collections import is_collection, is_frame
from torchpoly._evaluation import Evaluation, Result
from torchpoly._folds import Split
from torchpoly._scores import Scoring
from torchpoly._split_rows import PlainSource, SplitSource, transformed_sources
from torchpoly._surroundings import as_before_if_it_fails, undisturbed


class PolynomialGridSearchCV(GridSearchCV):
    """Grid search over polynomial regressions, from one reading of the rows.

    It takes the place of :class:`sklearn.model_selection.GridSearchCV`, with the same parameters,
    attributes, results and messages, where the estimator is a :class:`TorchPolynomialRegressor` or a
    Pipeline that ends in one. It reads the rows once: the Gram matrix of a training set is the sum
    of those of the other folds, a lower degree is a leading block of a higher one, and penalties,
    optimizers, learning rates and numbers of iterations only change what is done with that small
    matrix. Many small trainings run as one: under the squared error, a grid over many rows costs about
    as much as one fit. Each candidate gets the score that fitting it alone
    gives, stopped early or not.

    Parameters
    ----------
    estimator : TorchPolynomialRegressor or Pipeline
        What the grid sets parameters of. The steps of a Pipeline before the last are fitted once for
        each split, and once for each setting of theirs in the grid. Any other estimator goes through
        scikit-learn's own path.

    param_grid : dict or list of dict
        Values to try by the name of a parameter, such as ``{"degree": [1, 2, 3], "alpha": [0, 0.1]}``.
        Where the grid replaces a step of a Pipeline, these candidates go through scikit-learn's own
        path.

    scoring : str, callable, list, tuple or dict, default=None
        What candidates are scored by; ``None`` for R2. R2, mean squared errors and their roots come
        from Gram matrices, other metrics from one product of test rows with all candidates. A
        callable ``(estimator, X, y)`` sees each estimator fitted.

    n_jobs : int, default=None
        Number of processes for scikit-learn's own path; what runs together runs in this one.

    refit : bool, str or callable, default=True
        Whether, or by which metric or function of `cv_results_`, to choose a candidate that is
        fitted to all rows.

    cv : int, splitter or iterable, default=None
        How rows are split; ``None`` for five folds in the order of the rows.

    verbose : int, default=0
        From 1 on, tells how many fits there are and which candidates go through scikit-learn's own
        path, and why; from 2 on, of each fit.

    pre_dispatch : int or str, default="2*n_jobs"
        For scikit-learn's own path.

    error_score : "raise" or number, default=np.nan
        Score of a candidate whose training fails on a split; "raise" raises the exception.

    return_train_score : bool, default=False
        Whether `cv_results_` has scores on the training rows too.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        Parameters, scores, ranks and times of all candidates. Times of candidates that train
        together are equal shares of what they took.

    best_estimator_ : TorchPolynomialRegressor or Pipeline
        The chosen candidate, fitted to all rows; if `refit` is not False.

    best_score_, best_params_, best_index_
        Mean score, parameters and place in the grid of the chosen candidate.

    scorer_ : callable or dict
        The metrics.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds that the last fit took.

    multimetric_ : bool
        Whether there are several metrics.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, where X has string names.

    See Also
    --------
    TorchPolynomialRegressor : The polynomial regression.
    sklearn.model_selection.GridSearchCV : The search for other estimators, which documents all this
        at length.

    Notes
    -----
    Where a training set lies in a small part of the range of all rows, or its Gram matrix is
    ill-conditioned, its rows are read again for each degree, as a fit alone would read them.
    Optimizers that step each parameter by itself train all candidates, folds and learning rates as
    parts of one tensor; L-BFGS at its default rate ends at the least squares, which are solved for.
    Others, mini-batches, and callable losses train one by one on what has been read. Absolute
    errors, quantiles and Huber's loss train on the rows: features are evaluated once per split for
    all that share them, and candidates of first-order optimizers are columns of one parameter
    matrix.

    Scores agree with those of GridSearchCV to about 1e-9. Candidates that are equally good, such as
    converged ones of several learning rates, may be ranked in another order.

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

    # Saved searches name their class by its public name, wherever its code stands.
    __module__ = "torchpoly"

    def fit(self, X: ArrayLike, y: ArrayLike | None = None, **params: Any) -> PolynomialGridSearchCV:
        """Search, and fit the best candidate on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What the estimator takes.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            What the estimator takes.

        **params : dict of str to object
            Such as ``sample_weight`` and ``groups``: passed on as by GridSearchCV.

        Returns
        -------
        PolynomialGridSearchCV
            The search itself.

        Raises
        ------
        TypeError
            If X is a Dask dataframe.
        ValueError
            As by GridSearchCV: if the grid names an unknown parameter, if it is empty, if the
            splits are not possible, if all fits fail, or if one does with ``error_score="raise"``.

        Warns
        -----
        FitFailedWarning
            If some fits fail, which then have the score `error_score`.
        ConvergenceWarning
            If candidates end before their `tol` is met.

        Examples
        --------
        >>> import numpy as np
        >>> from torchpoly import PolynomialGridSearchCV, TorchPolynomialRegressor
        >>> X = np.linspace(-1, 1, 50)[:, None]
        >>> search = PolynomialGridSearchCV(TorchPolynomialRegressor(), {"degree": [1, 2]}, cv=3)
        >>> search.fit(X, X[:, 0] ** 2).best_params_
        {'degree': 2}
        """
        if is_collection(X) and is_frame(X):
            raise TypeError(
                "X is a Dask dataframe, which scikit-learn cannot split into folds. Give X and y as arrays: "
                "X.to_dask_array(lengths=True)."
            )
        parser = CandidateParser(self.estimator)
        reason = parser.reason
        if type(self)._run_search is not GridSearchCV._run_search:
            reason = "a subclass runs the search"
        if reason is None:
            with undisturbed(), as_before_if_it_fails(self):
                return self._search(parser, X, y, params)
        self._tell(f"All candidates go through scikit-learn's own path: {reason}")
        with as_before_if_it_fails(self):
            return super().fit(X, y, **params)

    @_fit_context(prefer_skip_nested_validation=False)
    def _search(self, parser: CandidateParser, X: Any, y: Any, params: dict[str, Any]) -> PolynomialGridSearchCV:
        """Do what GridSearchCV does, but for how candidates are evaluated and the best one is fitted."""
        scorer, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = _check_method_params(X, params=params)
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
        self._tell(
            f"Fitting {len(splits)} folds for each of {len(grid)} candidates, totalling {len(grid) * len(splits)} fits"
        )
        tasks.begin(len(grid) * len(splits))
        together = _Together(self, parser, X, y, scorer, routed, splits, tasks)
        outcomes = together.evaluate(grid)
        _warn_or_raise_about_fit_failures(outcomes, self.error_score)
        if callable(self.scoring):
            _insert_error_scores(outcomes, self.error_score)
        results = self._format_results(grid, len(splits), outcomes)
        tasks.end()

        first_test_score = outcomes[0]["test_scores"]
        self.multimetric_ = isinstance(first_test_score, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first_test_score)
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self.best_estimator_ = clone(self.estimator).set_params(**clone(self.best_params_, safe=False))
            start = time.time()
            with tasks.refit(self.best_estimator_):
                if tasks.are_watched or not together.fit_on_all_rows(self.best_estimator_, self.best_index_):
                    self.best_estimator_.fit(X, y, **routed.estimator.fit)
            self.refit_time_ = time.time() - start
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        self.scorer_ = scorer._scorers if isinstance(scorer, _MultimetricScorer) else scorer
        self.cv_results_ = results
        tasks.finish()
        return self

    def _tell(self, message: str) -> None:
        if self.verbose > 0:
            print(message)


class _Together:
    """The candidates of a search on its splits.

    Parameters
    ----------
    search : PolynomialGridSearchCV
    parser : CandidateParser
    X, y : array-like
    scorer : callable
    routed : Bunch
        The metadata for estimator and scorer.
    splits : list of tuple of ndarray
    tasks : SearchTasks
    """

    def __init__(
        self,
        search: PolynomialGridSearchCV,
        parser: CandidateParser,
        X: Any,
        y: Any,
        scorer: Any,
        routed: Bunch,
        splits: list[Split],
        tasks: SearchTasks,
    ) -> None:
        self._search = search
        self._parser = parser
        self._X, self._y = X, y
        self._scorer = scorer
        self._fit_params, self._score_params = routed.estimator.fit, routed.scorer.score
        self._splits = splits
        self._tasks = tasks
        self._unserved = Counter[str]()
        self._served: dict[int, Candidate] = {}
        self._plain: PlainSource | None = None

    def evaluate(self, grid: list[dict[str, Any]]) -> list[Result]:
        """Return what scikit-learn's searches keep of every candidate on every split, in this order."""
        search, n_splits = self._search, len(self._splits)
        for index, parameters in enumerate(grid):
            candidate = self._parser.parse(index, parameters, self._fit_params)
            if isinstance(candidate, Candidate):
                self._served[index] = candidate
            else:
                # What no estimator has is refused before any work.
                clone(search.estimator).set_params(**clone(parameters, safe=False))
                self._unserved[candidate] += 1
        scoring = Scoring(
            self._scorer,
            self._X,
            self._y,
            self._score_params,
            self._fit_params.get(f"{self._parser.prefix}sample_weight"),
            search.error_score,
        )

        def report(index: int, split: int, result: Result) -> None:
            self._tasks.tell(index * n_splits + split, self._splits[split][0])
            if search.verbose > 1:
                chosen = ", ".join(f"{name}={value}" for name, value in sorted(grid[index].items()))
                print(f"[CV {split + 1}/{n_splits}] END {chosen}; test score: {result['test_scores']}")

        evaluation = Evaluation(scoring, search.return_train_score, report)
        results = evaluation.results
        pairs = list(product(range(len(grid)), range(n_splits)))
        results |= self._fit_and_score(grid, [pair for pair in pairs if pair[0] not in self._served])
        for candidates in self._alike():
            for source in self._sources(candidates):
                evaluation.add(candidates, source)
        for reason, count in self._unserved.items():
            search._tell(f"{count} of {len(grid)} candidates go through scikit-learn's own path: {reason}")
        failed = [pair for pair in pairs if pair not in results]
        if failed:
            search._tell(f"{len(failed)} fits that failed together go through scikit-learn's own path")
        results |= self._fit_and_score(grid, failed)
        return [results[pair] for pair in pairs]

    def _alike(self) -> list[list[Candidate]]:
        """Return the candidates whose earlier steps are the same, together."""
        groups = defaultdict(list)
        for candidate in self._served.values():
            groups[candidate.preprocessing].append(candidate)
        return list(groups.values())

    def _sources(self, candidates: list[Candidate]) -> Iterator[SplitSource]:
        """Yield the rows that candidates see; none where scikit-learn would refuse them."""
        search, X, y = self._search, self._X, self._y
        try:
            rows = np.arange(_num_samples(X))
            splits = [(rows[np.asarray(training)], rows[np.asarray(test)]) for training, test in self._splits]
            if not self._parser.prefix:
                weights = self._fit_params.get("sample_weight")
                self._plain = PlainSource(search.estimator, X, y, weights, splits)
        except (ValueError, TypeError, IndexError, MemoryError):
            return
        if self._plain is not None:
            yield self._plain
        else:
            pipeline = clone(search.estimator).set_params(**clone(candidates[0].steps, safe=False))
            yield from transformed_sources(
                pipeline, X, y, self._fit_params, splits, scores_training=search.return_train_score
            )

    def _fit_and_score(self, grid: list[dict[str, Any]], pairs: list[tuple[int, int]]) -> dict[tuple[int, int], Result]:
        """Evaluate candidates on splits one by one, as scikit-learn does."""
        search, n_splits = self._search, len(self._splits)
        parallel = Parallel(n_jobs=search.n_jobs, pre_dispatch=search.pre_dispatch)
        results = parallel(
            delayed(_fit_and_score)(
                clone(search.estimator),
                self._X,
                self._y,
                scorer=self._scorer,
                train=self._splits[split][0],
                test=self._splits[split][1],
                verbose=search.verbose,
                parameters=grid[index],
                fit_params=self._fit_params,
                score_params=self._score_params,
                return_train_score=search.return_train_score,
                return_n_test_samples=True,
                return_times=True,
                error_score=search.error_score,
                split_progress=(split, n_splits),
                candidate_progress=(index, len(grid)),
                **self._tasks.evaluation(index * n_splits + split),
            )
            for index, split in pairs
        )
        return dict(zip(pairs, results, strict=True))

    def fit_on_all_rows(self, estimator: Any, index: int) -> bool:
        """Fit a candidate on all rows if their Gram matrix is at hand, and return whether it was."""
        candidate = self._served.get(index)
        if candidate is None or self._plain is None:
            return False
        try:
            return self._plain.fit_on_all_rows(estimator, candidate)
        except (ValueError, MemoryError):
            return False
