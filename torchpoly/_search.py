"""Grid search from one reading of the rows."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
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
from torchpoly._evaluation import Evaluation, Result
from torchpoly._folds import Split
from torchpoly._scores import Scoring
from torchpoly._split_rows import PipelineSource, PlainSource, SplitSource


class PolynomialGridSearchCV(GridSearchCV):
    """Doc."""

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
        self : PolynomialGridSearchCV

        Raises
        ------
        ValueError
            As by GridSearchCV: if the grid names an unknown parameter, if it is empty, if the
            splits are not possible, if all fits fail, or if one does with ``error_score="raise"``.

        Warns
        -----
        FitFailedWarning
            If some fits fail, which then have the score `error_score`.
        ConvergenceWarning
            If candidates end before their `tol` is met.
        """
        parser = CandidateParser(self.estimator)
        if parser.reason is None:
            return self._search(parser, X, y, params)
        self._tell(f"All candidates go through scikit-learn's own path: {parser.reason}.")
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
        tasks.end()
        _warn_or_raise_about_fit_failures(outcomes, self.error_score)
        if callable(self.scoring):
            _insert_error_scores(outcomes, self.error_score)
        results = self._format_results(grid, len(splits), outcomes)

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
        own_weights = self._fit_params.get(f"{self._parser.prefix}sample_weight")
        scoring = Scoring(
            self._scorer,
            self._X,
            self._y,
            self._score_params,
            self._score_params.get("sample_weight") is own_weights,
            search.error_score,
        )

        def report(index: int, split: int, result: Result) -> None:
            self._tasks.tell(index * n_splits + split, self._splits[split][0])
            if search.verbose > 1:
                chosen = ", ".join(f"{name}={value}" for name, value in sorted(grid[index].items()))
                print(f"[CV {split + 1}/{n_splits}] END {chosen}; test score: {result['test_scores']}")

        evaluation = Evaluation(scoring, search.return_train_score, report)
        for candidates in self._alike():
            source = self._source(candidates)
            if source is not None:
                evaluation.add(candidates, source)
        for reason, count in self._unserved.items():
            search._tell(f"{count} of {len(grid)} candidates go through scikit-learn's own path: {reason}")
        results = evaluation.results
        pairs = list(product(range(len(grid)), range(n_splits)))
        missing = [pair for pair in pairs if pair not in results]
        results |= zip(missing, self._fit_and_score(grid, missing), strict=True)
        return [results[pair] for pair in pairs]

    def _alike(self) -> list[list[Candidate]]:
        """Return the candidates whose earlier steps are the same, together."""
        groups = defaultdict(list)
        for candidate in self._served.values():
            groups[candidate.preprocessing].append(candidate)
        return list(groups.values())

    def _source(self, candidates: list[Candidate]) -> SplitSource | None:
        """Return the rows that candidates see; None where the data are refused."""
        rows = np.arange(_num_samples(self._X))
        splits = [(rows[np.asarray(training)], rows[np.asarray(test)]) for training, test in self._splits]
        weights_name = f"{self._parser.prefix}sample_weight"
        if self._parser.prefix:
            pipeline = clone(self._search.estimator).set_params(**clone(candidates[0].steps, safe=False))
            return PipelineSource(pipeline, self._X, self._y, self._fit_params, weights_name, splits)
        try:
            weights = self._fit_params.get(weights_name)
            self._plain = PlainSource(self._search.estimator, self._X, self._y, weights, splits)
        except (ValueError, TypeError) as error:
            self._unserved[str(error).splitlines()[0]] += len(candidates)
        return self._plain

    def _fit_and_score(self, grid: list[dict[str, Any]], pairs: list[tuple[int, int]]) -> list[Result]:
        """Evaluate candidates on splits one by one, as scikit-learn does."""
        search, n_splits = self._search, len(self._splits)
        parallel = Parallel(n_jobs=search.n_jobs, pre_dispatch=search.pre_dispatch)
        return parallel(
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

    def fit_on_all_rows(self, estimator: Any, index: int) -> bool:
        """Fit a candidate on all rows if their Gram matrix is at hand, and return whether it was."""
        candidate = self._served.get(index)
        if candidate is None or self._plain is None:
            return False
        try:
            return self._plain.fit_on_all_rows(estimator, candidate)
        except ValueError:
            return False
