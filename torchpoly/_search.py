"""Grid search from one reading of the rows."""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context, clone, is_classifier
from sklearn.metrics._scorer import _MultimetricScorer
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.model_selection._search import _insert_error_scores, _warn_or_raise_about_fit_failures
from sklearn.utils import indexable
from sklearn.utils.metadata_routing import get_routing_for_object  # noqa: F401
from sklearn.utils.validation import _check_method_params

from torchpoly._candidates import Candidate, Candidates
from torchpoly._evaluation import Evaluation
from torchpoly._scores import Scoring
from torchpoly._split_rows import PlainSource


class PolynomialGridSearchCV(GridSearchCV):
    """Doc."""

    def fit(self, X: ArrayLike, y: ArrayLike = None, **params: Any) -> PolynomialGridSearchCV:
        """Doc."""
        parser = Candidates(self.estimator)
        if parser.reason is not None:
            ...
        return self._fit_together(X, y, params)

    @_fit_context(prefer_skip_nested_validation=False)
    def _fit_together(self, X: Any, y: Any, params: dict[str, Any]) -> PolynomialGridSearchCV:
        scorer, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = _check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        grid = list(ParameterGrid(self.param_grid))
        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        self.n_splits_ = cv.get_n_splits(X, y, **routed.splitter.split)
        splits = list(cv.split(X, y, **routed.splitter.split))
        outcomes, source = self._evaluate(grid, splits, X, y, scorer, routed)
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
            self.best_estimator_.fit(X, y, **routed.estimator.fit)
            self.refit_time_ = time.time() - start
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        self.scorer_ = scorer._scorers if isinstance(scorer, _MultimetricScorer) else scorer
        self.cv_results_ = results
        return self

    def _evaluate(self, grid, splits, X, y, scorer, routed):
        parser = Candidates(self.estimator)
        parsed = [parser.parse(index, parameters) for index, parameters in enumerate(grid)]
        served = [candidate for candidate in parsed if isinstance(candidate, Candidate)]
        fit_params = routed.estimator.fit
        n = len(y)
        places = [tuple(np.arange(n)[rows] for rows in split) for split in splits]
        w = fit_params.get("sample_weight")
        scoring = Scoring(scorer, X, y, routed.scorer.score, routed.scorer.score.get("sample_weight") is w, self.error_score)
        evaluation = Evaluation(scoring, self.return_train_score)
        source = PlainSource(self.estimator, X, y, w, places)
        evaluation.add(served, source)
        return [evaluation.results[pair] for pair in product(range(len(grid)), range(len(splits)))], source
